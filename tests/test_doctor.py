"""`recon doctor`: each thing that can be wrong is one failed check that says what to do; nothing is written."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import PASSWORD, TOKEN, assert_no_secret, with_password
from incidents import EXTENDED, Incident

from recon.demo import DEMO_PROFILE
from recon.doctor import RIGHTS, examine
from recon.domain import Check
from recon.settings import Settings

ORDER = ["settings", "database", "orders", "own_tables", "privileges", "exchange", "pause_switch", "reports_folder"]


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


@pytest.fixture
def ready(incident: Incident) -> Incident:
    """A profile with one ghost, and everything in place."""
    incident.create_table().ghost("T1")
    return incident


def test_everything_in_place_is_said_check_by_check(ready) -> None:
    before = ready.everything()
    found = checks(settings(ready))
    assert list(found) == ORDER
    assert failed(found) == []
    assert "RECON_EXIT_BACKFILL_DRY_RUN=true" in found["settings"].detail
    assert found["database"].detail.startswith(f"local socket/{ready.engine.url.database}, PostgreSQL 18")
    assert found["orders"].detail == "suitable; rows are unique by order_id"
    assert found["privileges"].detail == (
        "SELECT, INSERT and UPDATE on orders, reconciliation_backfill_audit, reconciliation_batches, "
        "reconciliation_events"
    )
    assert "1 fill, no position legs" in found["exchange"].detail
    assert found["pause_switch"].detail == "paused: The status address answered 'PAUSED' for profile 'main'."
    assert ready.everything() == before
    assert not (ready.folder.parent / "reports").exists()


def test_without_a_profile_nothing_outside_is_asked(ready) -> None:
    (ready.folder / "fills.csv").write_text("broken")
    found = checks(settings(ready), None)
    assert failed(found) == []
    assert ready.switch.asked == 0


def test_the_demo_is_fine_without_any_setting(demo_home, tmp_path) -> None:
    found = checks(
        Settings(_env_file=None, recon_home=demo_home, recon_reports_dir=tmp_path / "reports"),  # type: ignore[call-arg]
        DEMO_PROFILE,
    )
    assert failed(found) == []
    assert found["database"].detail.startswith("the embedded demo, PostgreSQL ")


@pytest.mark.parametrize("url", ["postgresql://u:{}@127.0.0.1:1/d", "postgresql://u@127.0.0.1:1/d?password={}"])
def test_an_unreachable_database(ready, url) -> None:
    secret = PASSWORD.replace("@", "%40").replace("/", "%2F")
    found = checks(settings(ready, recon_database_url=url.format(secret)))
    assert failed(found) == ["database"]
    assert not {"orders", "own_tables", "privileges", "exchange"} & set(found)
    assert found["database"].detail.startswith("database_unreachable: ")
    assert found["reports_folder"].ok


def test_a_url_that_is_none_ends_the_examination(ready) -> None:
    found = checks(settings(ready, recon_database_url=f"mysql://u:{PASSWORD}@h/d"))
    assert (list(found), failed(found)) == (["settings"], ["settings"])
    assert found["settings"].detail.startswith("database_url_invalid: ")


def test_an_orders_table_that_cannot_be_worked_on_comes_with_the_ddl(incident) -> None:
    incident.create_table({name: kind for name, kind in EXTENDED.items() if name != "updated_at"}, unique="")
    found = checks(settings(incident))
    assert failed(found) == ["orders"]
    assert found["orders"].detail.startswith("orders_unsuitable: ")
    assert "ALTER TABLE" in found["orders"].detail


def test_times_without_a_zone_are_said(incident) -> None:
    incident.create_table(EXTENDED | {"filled_at": "timestamp"})
    assert checks(settings(incident))["orders"].detail.endswith("; filled_at are without time zone and read as UTC")


def test_tables_that_init_has_not_made(incident) -> None:
    incident.create_table(own_tables=False)
    found = checks(settings(incident))
    assert failed(found) == ["own_tables"]
    assert found["own_tables"].detail == "not_initialised: 5 statements due; run `recon init`, or `recon init --print`."
    assert found["privileges"].detail == "SELECT, INSERT and UPDATE on orders"


def test_an_empty_database(incident) -> None:
    found = checks(settings(incident))
    assert failed(found) == ["orders", "own_tables"]
    assert found["privileges"].detail == "SELECT, INSERT and UPDATE on no table yet"


@pytest.fixture
def reader(ready: Incident) -> Iterator[str]:
    """A role that may read everything and write nothing."""
    name = f"reader_{uuid.uuid4().hex}"
    ready.sql(f"CREATE ROLE {name} LOGIN")
    for table in RIGHTS:
        ready.sql(f"GRANT SELECT ON {table} TO {name}")
    yield name
    ready.sql(f"DROP OWNED BY {name}")
    ready.sql(f"DROP ROLE {name}")


def test_privileges_that_are_missing_are_named(ready, reader) -> None:
    url = ready.engine.url.set(username=reader).render_as_string(hide_password=False)
    ready.sql(f"GRANT INSERT ON reconciliation_events TO {reader}")
    found = checks(settings(ready, recon_database_url=url))
    assert failed(found) == ["privileges"]
    assert found["privileges"].detail == (
        "privileges_missing: this user lacks INSERT on orders, UPDATE on orders, "
        "INSERT on reconciliation_backfill_audit, UPDATE on reconciliation_backfill_audit, "
        "INSERT on reconciliation_batches, UPDATE on reconciliation_batches, UPDATE on reconciliation_events; "
        "grant them for the repair."
    )


def test_an_exchange_that_is_not_configured_or_does_not_exist(ready) -> None:
    found = checks(settings(ready, recon_exchange=None))
    assert failed(found) == ["exchange"]
    assert "RECON_EXCHANGE is unset" in found["exchange"].detail
    found = checks(settings(ready, recon_exchange="ccxt:kraken"))
    assert failed(found) == ["settings"]
    assert found["settings"].detail.startswith("exchange_unknown: ")


def test_a_statement_that_cannot_be_read_is_told_by_line_and_column(ready) -> None:
    with (ready.folder / "fills.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["f9", "x", "", "BTC/USD", "sell", "one", "1", "", "", "2026-03-01T00:00:00Z"])
    found = checks(settings(ready))
    assert failed(found) == ["exchange"]
    assert "fills.csv line 3, column qty" in found["exchange"].detail


def test_positions_that_are_unknown_fail(ready) -> None:
    ready.positions = None
    ready.write_statement()
    found = checks(settings(ready))
    assert failed(found) == ["exchange"]
    assert "positions unknown" in found["exchange"].detail


def test_a_switch_that_is_not_configured_or_silent_fails_and_one_that_says_running_does_not(ready) -> None:
    assert failed(checks(settings(ready, recon_trading_status_url=None))) == ["pause_switch"]
    assert failed(checks(settings(ready, recon_trading_status_url=f"http://u:{TOKEN}@127.0.0.1:1"))) == ["pause_switch"]
    assert failed(checks(settings(ready, recon_trading_status_url="http://[bad"))) == ["pause_switch"]
    ready.switch.word = "RUNNING"
    found = checks(settings(ready))
    assert failed(found) == []
    assert found["pause_switch"].detail.startswith("not_paused: ")


def test_a_reports_folder_that_cannot_be_written(ready, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = checks(settings(ready, recon_reports_dir=tmp_path / "file" / "reports"))
    assert failed(found) == ["reports_folder"]
    assert found["reports_folder"].detail.endswith("is not writable; set RECON_REPORTS_DIR")
