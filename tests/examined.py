"""What the tests of `recon doctor` share: settings of an incident, and its checks by name, searched for secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from console import TOKEN, assert_no_secret, with_password
from incidents import Incident

from recon.doctor import examine
from recon.domain import Check
from recon.settings import Settings

DATABASE = [
    "database", "pooler", "clock", "time_zone", "search_path", "orders", "own_tables", "privileges", "row_security",
    "doors", "audit_trail",
    "triggers", "rules", "locks",
]  # fmt: skip
ORDER = ["settings", *DATABASE, "exchange", "pause_switch", "signatures", "reports_folder"]


def settings(incident: Incident, **changed: object) -> Settings:
    """Everything configured as it should be, but for what is changed."""
    given: dict[str, object] = {
        "recon_database_url": with_password(incident.url),
        "recon_exchange": f"statement:{incident.folder}",
        "recon_trading_status_url": incident.switch.url,
        "recon_trading_status_token": TOKEN,
        "recon_exit_backfill_lookback_hours": 200_000,
        "recon_reports_dir": incident.folder.parent / "reports",
    }
    return Settings(_env_file=None, **(given | changed))  # type: ignore[call-arg, arg-type]


def checks(using: Settings, profile_id: str | None = "main") -> dict[str, Check]:
    """The checks by name; no detail holds a secret."""
    found = examine(using, profile_id)
    assert_no_secret(*(check.detail for check in found))
    return {check.name: check for check in found}


def failed(found: dict[str, Check]) -> list[str]:
    """The names of those that failed."""
    return [name for name, check in found.items() if not check.ok]


def url_of(incident: Incident, role: str) -> str:
    """The incident's database as a role sees it."""
    return incident.engine.url.set(username=role).render_as_string(hide_password=False)


@contextmanager
def a_role(incident: Incident, name: str, *grants: str) -> Iterator[str]:
    """A role that may log in and what is granted, until the block ends; its settings for checks come from `url_of`."""
    incident.sql(f"CREATE ROLE {name} LOGIN")
    try:
        for grant in grants:
            incident.sql(f"GRANT {grant} TO {name}")
        yield name
    finally:
        incident.sql(f"DROP OWNED BY {name}")
        incident.sql(f"DROP ROLE {name}")
