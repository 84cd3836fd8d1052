"""The names and the fixed clock of the demo: its results are the same every day."""

from __future__ import annotations

from datetime import UTC, datetime

DEMO_PROFILE = "demo"
"""The only profile of the demo's backend."""

DEMO_BATCH = "demo-incident"
"""The batch that repairs it."""

DEMO_START = datetime(2026, 2, 9, tzinfo=UTC)
"""The first instant of the statement: the account traded nothing before it."""

DEMO_NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
"""The instant at which the demo happens: the statement ends here."""
