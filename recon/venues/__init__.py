"""Sources of exchange evidence: `base` has the protocol, `open_exchange` picks the source that a setting names."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from recon.errors import UsageError
from recon.settings import project_root
from recon.venues.base import Exchange
from recon.venues.statement import StatementExchange
from recon.venues.table import TableExchange

__all__ = ["Exchange", "StatementExchange", "TableExchange", "open_exchange"]


def open_exchange(spec: str | None, *, engine: Engine, demo_folder: Path | None = None) -> Exchange | None:
    """The source that RECON_EXCHANGE names: `statement:DIR` or `table:FILLS,POSITIONS` (rules.md 10).

    Unset, it is the demo's statement in `demo_folder`, or None when there is no demo: positions are then unknown.
    DIR is absolute once settings are loaded; reports name it as seen from the project's root where it lies below that.
    Reads nothing yet. Raises `UsageError` (exchange_unknown).
    """
    if spec is None:
        return None if demo_folder is None else StatementExchange(str(demo_folder), name="statement of the demo")
    kind, _, rest = spec.strip().partition(":")
    names = [name.strip() for name in rest.split(",")]
    if kind == "statement" and rest.strip():
        return StatementExchange(rest.strip(), name=f"statement:{_shown(Path(rest.strip()))}")
    if kind == "table" and len(names) == 2 and all(names):
        return TableExchange(engine, *names)
    raise UsageError(
        "exchange_unknown",
        f"RECON_EXCHANGE is {spec!r}: expected statement:DIR or table:FILLS,POSITIONS. Correct the setting.",
    )


def _shown(folder: Path) -> Path:
    root = project_root()
    return folder.relative_to(root) if root != Path(root.anchor) and folder.is_relative_to(root) else folder
