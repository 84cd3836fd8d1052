"""Ids and canonical text: the same facts give the same bytes, in any time zone, locale or row order.

Invariant 11. The order_id is the runbook's (section 3); what its components are is in rules.md 2.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from recon.errors import UsageError

DUST = "DUST"
"""Stands for the exchange order in the id of a row that closes dust."""

BASE_FEE = "FEE"
"""Stands for the exchange order in the id of a row that closes a fee paid in the base asset."""

_BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SEPARATORS = str.maketrans("", "", "/-_:")


def canonical_time(instant: datetime) -> str:
    """UTC ISO-8601 with six fractional digits and `Z`; a naive datetime is a `ValueError`."""
    if instant.tzinfo is None:
        raise ValueError(f"an instant without a time zone cannot be identified: {instant!r}")
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def canonical_decimal(value: Decimal) -> str:
    """Plain decimal text, no exponent, no trailing zero: 1.50 and 15E-1 are both `1.5`, zero is `0`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def canonical_symbol(symbol: str) -> str:
    """Upper case without `/ - _ :`, so that BTC/USD, BTC-USD and BTCUSD are one symbol (rules.md 3)."""
    return symbol.upper().translate(_SEPARATORS)


def is_uuid(text: str) -> bool:
    """Whether a uuid column takes the id."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def canonical_id(text: str) -> str:
    """A UUID in lower case with hyphens, any other id as it stands: a uuid column spells ids its own way."""
    return str(UUID(text)) if is_uuid(text) else text


def base_asset(symbol: str) -> str:
    """The part before `/` or `-`, else the symbol itself (rules.md 7, residual_is_base_fee)."""
    return re.split(r"[/-]", symbol, maxsplit=1)[0].upper()


def identity_text(profile_id: str, trade_id: str, exchange_order_id: str, filled_at: datetime) -> str:
    """The text that the order_id hashes; components may contain `:`, so two tuples can share one text."""
    return f"{profile_id}:{trade_id}:{exchange_order_id}:{canonical_time(filled_at)}"


def backfill_order_id(profile_id: str, trade_id: str, exchange_order_id: str, filled_at: datetime) -> str:
    """`BFILL-` and the MD5 of the identity text, as the runbook's section 3 fixes it."""
    text = identity_text(profile_id, trade_id, exchange_order_id, filled_at)
    return "BFILL-" + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, UTF-8; Decimals and instants as canonical text, floats refused."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """SHA-256 in hex over canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def advisory_key(profile_id: str) -> int:
    """The signed 64-bit key of the profile's advisory lock."""
    return int.from_bytes(hashlib.sha256(f"recon:{profile_id}".encode()).digest()[:8], "big", signed=True)


def check_batch_id(batch_id: str) -> str:
    """The batch_id itself; anything that is not a safe name of a folder is a `UsageError`."""
    if not _BATCH_ID.fullmatch(batch_id):
        raise UsageError(
            "malformed_batch_id",
            f"batch_id {batch_id!r} is malformed: expected a letter or digit, then up to 63 of letters, digits, "
            "'.', '_' and '-'. Choose a name such as 2026-03-01-ghosts.",
        )
    return batch_id


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return canonical_decimal(value)
    if isinstance(value, datetime):
        return canonical_time(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        raise TypeError("a float has no canonical text; use Decimal")
    return value
