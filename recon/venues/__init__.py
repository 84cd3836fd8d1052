"""Sources of exchange evidence: `base` has the protocol, `open_exchange` picks the source that a setting names."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from recon.errors import UsageError
from recon.settings import Settings, project_root
from recon.venues.base import Exchange
from recon.venues.statement import StatementExchange
from recon.venues.table import TableExchange

__all__ = ["Exchange", "StatementExchange", "TableExchange", "open_exchange"]


def open_exchange(settings: Settings, *, engine: Engine, demo_folder: Path | None = None) -> Exchange | None:
    """The source that RECON_EXCHANGE names: `ccxt:NAME`, `statement:DIR` or `table:FILLS,POSITIONS` (rules.md 10).

    Unset, it is the demo's statement in `demo_folder`, or None when there is no demo: positions are then unknown.
    DIR is absolute once settings are loaded; reports name it as seen from the project's root where it lies below that.
    Reads nothing yet. Raises `UsageError` (exchange_unknown).
    """
    spec = settings.recon_exchange
    if spec is None:
        return None if demo_folder is None else StatementExchange(str(demo_folder), name="statement of the demo")
    kind, _, rest = spec.strip().partition(":")
    names = [name.strip() for name in rest.split(",")]
    if kind == "statement" and rest.strip():
        return StatementExchange(rest.strip(), name=f"statement:{_shown(Path(rest.strip()))}")
    if kind == "table" and len(names) == 2 and all(names):
        return TableExchange(engine, *names)
    if kind == "ccxt" and rest.strip():
        return _live(rest.strip(), settings)
    raise UsageError(
        "exchange_unknown",
        f"RECON_EXCHANGE is {spec!r}: expected ccxt:NAME, statement:DIR or table:FILLS,POSITIONS. Correct the setting.",
    )


def _live(name: str, settings: Settings) -> Exchange:
    from recon.venues.live.client import Access  # ccxt takes a second to import, and most runs do without it
    from recon.venues.live.source import CcxtExchange

    key, secret, password, base_url = (
        one.get_secret_value() if one else None
        for one in (
            settings.recon_exchange_api_key,
            settings.recon_exchange_secret,
            settings.recon_exchange_password,
            settings.recon_exchange_base_url,
        )
    )
    return CcxtExchange(
        Access(
            name,
            key,
            secret,
            password,
            sandbox=settings.recon_exchange_sandbox,
            base_url=base_url,
            market=settings.recon_exchange_market,
        )
    )


def _shown(folder: Path) -> Path:
    root = project_root()
    return folder.relative_to(root) if root != Path(root.anchor) and folder.is_relative_to(root) else folder
