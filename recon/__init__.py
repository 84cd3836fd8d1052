"""recon finds ghost positions, proves from exchange fills what closed them, and repairs them auditably.

What a notebook imports is here, and nothing more. Each name is imported when it is asked for: together they take half a
second, in which the command line could not answer an interrupt.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon.incident import open_incident
    from recon.reporting.figures import coverage_figure
    from recon.reporting.prose import closing
    from recon.reporting.seal import seal
    from recon.reporting.tables import TableView, checks_view, items_view, table_frame, table_view
    from recon.reporting.verdict import verdict_view

__all__ = [
    "TableView",
    "checks_view",
    "closing",
    "coverage_figure",
    "items_view",
    "open_incident",
    "seal",
    "table_frame",
    "table_view",
    "verdict_view",
]

_TABLES = "recon.reporting.tables"
_MODULES = dict.fromkeys(("TableView", "checks_view", "items_view", "table_frame", "table_view"), _TABLES) | {
    "closing": "recon.reporting.prose",
    "coverage_figure": "recon.reporting.figures",
    "open_incident": "recon.incident",
    "seal": "recon.reporting.seal",
    "verdict_view": "recon.reporting.verdict",
}


def __getattr__(name: str) -> object:
    """The name, from the module where it lives."""
    if name not in _MODULES:
        raise AttributeError(f"module 'recon' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
