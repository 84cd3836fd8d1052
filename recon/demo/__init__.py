"""The demo incident: a backend whose fill consumer kept restarting, its exchange, and its pause switch.

Entry points: `load_demo` fills a fresh database with the backend's `orders` table, `write_statement` writes the
exchange's statement folder, `start_pause_server` answers for the backend's pause switch. What happened to every
trade, and what recon has to say about it, stands in `ledger.py`. Nothing here depends on the day: `DEMO_NOW` is
the clock, and the same bytes come out each time.
"""

from __future__ import annotations

from recon.demo.approval import DEMO_REVIEWER, acknowledgements
from recon.demo.clock import DEMO_BATCH, DEMO_NOW, DEMO_PROFILE
from recon.demo.ledger import EXPECTED
from recon.demo.pause_server import start_pause_server
from recon.demo.statement import write_statement
from recon.demo.table import load_demo

__all__ = [
    "DEMO_BATCH",
    "DEMO_NOW",
    "DEMO_PROFILE",
    "DEMO_REVIEWER",
    "EXPECTED",
    "acknowledgements",
    "load_demo",
    "start_pause_server",
    "write_statement",
]
