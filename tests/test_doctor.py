"""`recon doctor`: each thing that can be wrong is one failed check that says what to do; nothing is written."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import PASSWORD, TOKEN, clean_environment, with_password
from examined import ORDER, a_role, checks, failed, settings, url_of
from incidents import EXTENDED, Incident

from recon.demo import DEMO_PROFILE
from recon.doctor import RIGHTS, folder
from recon.settings import Settings, load_settings


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
    assert found["clock"].detail == "the demo's, which stands still at 2026-03-02T12:00:00.000000Z"


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
    assert found["own_tables"].detail == "not_initialised: 6 statements due; run `recon init`, or `recon init --print`."
    assert found["privileges"].detail == "SELECT, INSERT and UPDATE on orders"


def test_an_empty_database(incident) -> None:
    found = checks(settings(incident))
    assert failed(found) == ["search_path", "orders", "own_tables"]
    assert found["privileges"].detail == "SELECT, INSERT and UPDATE on no table yet"


@pytest.fixture
def reader(ready: Incident) -> Iterator[str]:
    """A role that may read everything and write nothing."""
    with a_role(ready, f"reader_{uuid.uuid4().hex}", *(f"SELECT ON {table}" for table in RIGHTS)) as name:
        yield name


def test_privileges_that_are_missing_are_named(ready, reader) -> None:
    url = url_of(ready, reader)
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
    found = checks(settings(ready, recon_exchange="nonsense:kraken"))
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


def test_a_reports_folder_without_room(ready, monkeypatch) -> None:
    found = checks(settings(ready))
    assert found["reports_folder"].detail.endswith(" MB are free")
    monkeypatch.setattr(folder, "MINIMUM_FREE", 10**18)
    found = checks(settings(ready))
    assert failed(found) == ["reports_folder"]
    assert "expected at least 1000000000000 MB free there, found " in found["reports_folder"].detail
    assert "name another folder in RECON_REPORTS_DIR" in found["reports_folder"].detail


# Signatures


def test_signatures_are_told_as_they_are_required_and_verified(ready, tmp_path: Path) -> None:
    assert checks(settings(ready))["signatures"].detail == (
        "not required; RECON_ALLOWED_SIGNERS is unset, so none is verified"
    )
    allowed = tmp_path / "allowed_signers"
    allowed.write_text("")
    found = checks(settings(ready, recon_allowed_signers=allowed, recon_require_signature=True))
    assert failed(found) == []
    assert found["signatures"].detail == f"required; verified against {allowed}"


def test_signatures_that_nobody_could_verify_fail(ready, tmp_path: Path, monkeypatch) -> None:
    found = checks(settings(ready, recon_require_signature=True))
    assert failed(found) == ["signatures"]
    assert "every approval would be refused" in found["signatures"].detail
    found = checks(settings(ready, recon_allowed_signers=tmp_path / "nowhere"))
    assert failed(found) == ["signatures"]
    assert found["signatures"].detail.startswith("allowed_signers_unreadable: ")
    allowed = tmp_path / "allowed_signers"
    allowed.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh-keygen" in checks(settings(ready, recon_allowed_signers=allowed))["signatures"].detail


# Settings, and where each came from


@pytest.fixture
def configured(ready: Incident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a `.env`, and some settings in the environment."""
    work = tmp_path / "work"
    work.mkdir()
    for name in clean_environment().keys() ^ os.environ.keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(work)
    monkeypatch.setenv("RECON_DATABASE_URL", with_password(ready.url))
    monkeypatch.setenv("RECON_MAX_BATCH_ROWS", "7")
    monkeypatch.setenv("RECON_RUN", "{}")
    (work / ".env").write_text(
        f"RECON_TRADING_STATUS_URL={ready.switch.url}\nRECON_TRADING_STATUS_TOKEN={TOKEN}\nRECON_MAX_BATCH_ROWS=8\n"
        f"RECON_REPORTS_DIR=kept\nRECON_EXCHANGE=statement:{ready.folder}\nRECON_EXCANGE={TOKEN}\nOTHER=1\n"
        "RECON_EXIT_BACKFILL_LOOKBACK_HOURS=200000\nRECON_ACTOR=\n"
    )
    return work


def groups(detail: str) -> dict[str, list[str]]:
    """The settings that a detail tells, by where they came from."""
    parts = [part.partition(": ") for part in detail.split("; ")]
    return {origin: told.split(", ") for origin, _, told in parts}


def test_each_setting_is_told_with_where_it_came_from_and_no_secret_with_its_value(configured, ready) -> None:
    found = checks(load_settings())
    assert failed(found) == []
    told = groups(found["settings"].detail)
    assert set(told) == {
        "from the environment", f"from {configured / '.env'}", "by default", "ignored, since no setting has this name",
    }  # fmt: skip
    assert told["from the environment"] == ["RECON_DATABASE_URL=set", "RECON_MAX_BATCH_ROWS=7"]
    assert told[f"from {configured / '.env'}"] == [
        "RECON_EXIT_BACKFILL_LOOKBACK_HOURS=200000", f"RECON_EXCHANGE=statement:{ready.folder}",
        "RECON_TRADING_STATUS_URL=set", "RECON_TRADING_STATUS_TOKEN=set", f"RECON_REPORTS_DIR={configured / 'kept'}",
    ]  # fmt: skip
    assert "RECON_EXIT_BACKFILL_DRY_RUN=true" in told["by default"]
    assert told["ignored, since no setting has this name"] == ["RECON_EXCANGE"]
    names = [one.partition("=")[0] for origin, ones in told.items() if "ignored" not in origin for one in ones]
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


def test_what_a_program_gives_is_told_as_that(ready) -> None:
    told = groups(checks(settings(ready))["settings"].detail)
    assert "RECON_DATABASE_URL=set" in told["given by the program"]
    assert "ENABLE_RECON_EXIT_BACKFILL=false" in told["by default"]


def test_of_an_address_only_the_host_is_told(ready) -> None:
    for text in (f"https://u:{TOKEN}@h:1/x", f"https://h:1/{TOKEN}", f"https://h:1?k={TOKEN}"):
        told = groups(checks(settings(ready, recon_actor=text))["settings"].detail)
        assert "RECON_ACTOR=https://h:1" in told["given by the program"]


def test_what_the_demo_brings_along_is_told_as_that(configured, demo_home, monkeypatch) -> None:
    (configured / ".env").write_text("RECON_EXIT_BACKFILL_DRY_RUN=true\n")
    monkeypatch.delenv("RECON_DATABASE_URL")
    monkeypatch.setenv("RECON_HOME", str(demo_home))
    found = checks(load_settings(), DEMO_PROFILE)
    assert failed(found) == []
    told = groups(found["settings"].detail)
    assert told["from the demo"] == [
        "ENABLE_RECON_EXIT_BACKFILL=true where a stage needs it", "RECON_DATABASE_URL", "RECON_EXCHANGE",
        "RECON_TRADING_STATUS_URL",
    ]  # fmt: skip
    assert told[f"from {configured / '.env'}"] == ["RECON_EXIT_BACKFILL_DRY_RUN=true"]
