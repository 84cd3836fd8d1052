"""Striking secrets out of what a run leaves: a traceback may have quoted one, or an acknowledgement. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from recon.settings import SHORTEST_SECRET, Settings

if TYPE_CHECKING:
    from pydantic import SecretStr


PASSWORD = re.compile(r"://[^:@/]*:([^@]*)@|[?&]password=([^&]*)")
"""The password in a URL as it is written there, whether or not the rest is well-formed."""

MARK = "***"
"""What stands where a secret stood."""

QUOTED = 4
"""A password of fewer characters is not struck out where it merely stands in quotes: a name may be the same."""


def struck_json(text: str, settings: Settings) -> str:
    """A JSON text with every known secret struck out."""
    for secret in secrets(settings):
        text = text.replace(json.dumps(secret, ensure_ascii=False)[1:-1], MARK)
    return text


def struck_csv(text: str, settings: Settings) -> str:
    """The same of a CSV text in which every value is quoted; the names of its columns stay."""
    columns, end, rows = text.partition("\n")
    for secret in secrets(settings):
        rows = rows.replace(secret.replace('"', '""'), MARK)
    return columns + end + rows


def struck_text(text: str, settings: Settings) -> str:
    """The same of any other text."""
    for secret in secrets(settings):
        text = text.replace(secret, MARK)
    return text


def is_struck_of(struck: str, text: str) -> bool:
    """Whether a text may be the one out of which secrets were struck; what was struck cannot be compared."""
    return re.fullmatch(".*".join(map(re.escape, struck.split(MARK))), text, re.DOTALL) is not None


def secrets(settings: Settings) -> list[str]:
    """The token and the exchange's keys, and each password with the signs around it in a URL or connection string.

    A passphrase too short to be unlike any other word counts as a password. A longer secret goes before one that it
    holds.
    """
    urls = (settings.recon_database_url, settings.recon_trading_status_url, settings.recon_exchange_base_url)
    passwords = {
        word for url in urls if url for pair in PASSWORD.findall(url.get_secret_value()) for word in pair if word
    }
    passwords |= {unquote(password) for password in passwords}
    keys = _values(settings.recon_exchange_api_key, settings.recon_exchange_secret, settings.recon_exchange_password)
    whole = {key for key in keys if len(key.strip()) >= SHORTEST_SECRET} | _values(settings.recon_trading_status_token)
    passwords |= keys - whole
    whole |= {repr(key)[1:-1] for key in whole}
    shapes = [shape for word in passwords for shape in (f":{word}@", f"password={word}")]
    shapes += [f"'{word}'" for word in passwords if len(word) >= QUOTED]
    return sorted([*shapes, *whole], key=lambda secret: (-len(secret), secret))


def _values(*given: SecretStr | None) -> set[str]:
    return {one.get_secret_value() for one in given if one} - {""}
