"""The settings for people: each with its value and where that came from; of a secret only that it is set."""

from __future__ import annotations

from pydantic import SecretStr

from recon.settings import DEFAULT, Settings
from recon.workspace import DEMO_FLAGS

DEMO = "from the demo"
DEMO_OWN = frozenset({"recon_database_url", "recon_exchange", "recon_trading_status_url"})
"""What the demo brings along where it is unset."""


def settings_told(settings: Settings) -> str:
    """Every setting by its exact name and with its value, grouped by where the value came from; holds no secret."""
    groups: dict[str, list[str]] = {}
    for name in type(settings).model_fields:
        origin, shown = _told(settings, name)
        groups.setdefault(origin, []).append(f"{name.upper()}{shown}")
    parts = [f"{origin}: {', '.join(groups[origin])}" for origin in sorted(groups, key=_rank)]
    if settings.unknown:
        parts.append(f"ignored, since no setting has this name: {', '.join(settings.unknown)}")
    return "; ".join(parts)


def _rank(origin: str) -> tuple[bool, str]:
    """What somebody set comes before what nobody did."""
    return origin in (DEFAULT, DEMO), origin


def _told(settings: Settings, name: str) -> tuple[str, str]:
    """Where the value came from, and the value as it follows the name."""
    if settings.is_demo and settings.origin(name) == DEFAULT:
        flags = {flag: value for needed in DEMO_FLAGS.values() for flag, value in needed.items()}
        if name in DEMO_OWN:
            return DEMO, ""
        if name in flags:
            return DEMO, f"={str(flags[name]).lower()} where a stage needs it"
    return settings.origin(name), f"={_shown(getattr(settings, name))}"


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return "set"
    return str(value).lower() if isinstance(value, bool) else _without_login(str(value))


def _without_login(text: str) -> str:
    """The text; of an address only its scheme, host and port, since the rest may hold a password."""
    scheme, found, rest = text.partition("://")
    return f"{scheme}://{rest.partition('/')[0].partition('?')[0].rpartition('@')[2]}" if found else text
