"""What nbval may run: the project's notebooks, on the demo, and never a report."""

from __future__ import annotations

import pytest

collect_ignore_glob = ["tests/notebooks/*.ipynb"]
"""Fixture notebooks fail on purpose; the tests run them one by one."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before nbval: refuse any database but the demo, and start its server, since no fixture runs for notebooks."""
    if not (session.config.getoption("nbval", False) or session.config.getoption("nbval_lax", False)):
        return
    from recon.embedded import start
    from recon.settings import load_settings

    settings = load_settings()
    if not settings.is_demo:
        raise pytest.UsageError("nbval runs every notebook, apply included. Unset RECON_DATABASE_URL, also in .env.")
    start(settings.recon_home)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse reports: running one again would do again what it records."""
    for path in sorted({item.path for item in items if item.path.suffix == ".ipynb"}):
        inside = path.relative_to(config.rootpath).parts if path.is_relative_to(config.rootpath) else ()
        if "reports" in inside or (path.parent / "SHA256SUMS").exists():
            raise pytest.UsageError(f"{path} is a report, not a test. Name the notebooks folder instead.")
