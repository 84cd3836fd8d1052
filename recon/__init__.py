"""recon finds ghost positions, proves from exchange fills what closed them, and repairs them auditably.

What a notebook imports is here, and nothing more.
"""

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
