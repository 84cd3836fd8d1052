"""The record of a run: what the database held when the stage had ended, kept with the report."""

from __future__ import annotations

import json
import re
import subprocess
from decimal import Decimal
from importlib.metadata import distribution
from pathlib import Path

import pytest
from console import CLOSED, OPENED, PASSWORD, TOKEN, assert_no_secret_in, with_password
from examined import a_role, url_of
from incidents import Incident
from report_samples import NOTEBOOKS
from sqlalchemy import create_engine

from recon import incident as incident_module
from recon.domain import Stage, Verdict
from recon.incident import Incident as Opened
from recon.kept_rows import AUDIT_COLUMNS, audit_rows, from_csv, to_csv
from recon.record import RUN, database_identity, parameters, write_record
from recon.reporting import code
from recon.reporting.code import code_that_ran
from recon.reporting.manifest import read_manifest
from recon.reporting.records import UNRECORDED, finish_record
from recon.reporting.runner import run_stage
from recon.reporting.verify import verify_folder
from recon.settings import Settings
from recon.workspace import RUN_VARIABLE

CELLS = [None, "", "a", '"', '""', ",", "\n", "a\nb", "é\u202e🚀", " ", "NULL", "\\N", "\r"]


def test_null_and_empty_and_every_sign_come_back_as_they_were() -> None:
    rows = [(one, other) for one in CELLS for other in CELLS]
    text = to_csv(("a", 'b"'), rows)
    assert from_csv(text) == (("a", 'b"'), rows)
    assert to_csv(*from_csv(text)) == text
    assert '"",\n' in text
    assert ',""\n' in text


@pytest.mark.parametrize("text", ["", "a", '"a"', '"a"\n"b",\n', '"a"\nb\n', '"a"\n"b', '"a"\n"b"x\n'])
def test_what_is_not_written_so_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"cell|length"):
        from_csv(text)


def recorded(incident: Incident, folder: Path, work=None) -> dict[str, object]:
    write_record(folder, work or incident.work(), incident.profile, incident.batch)
    return json.loads((folder / "run.json").read_text())


def test_every_audit_row_is_kept_in_every_column_as_canonical_text(incident, tmp_path) -> None:
    incident.create_table().ghost("T1", "1.50")
    incident.row("entry-T3", "T3", "ENTRY", "1", symbol="C/USD")
    incident.repair("T3=moved")
    run = recorded(incident, tmp_path)
    columns, rows = from_csv((tmp_path / "audit.csv").read_text())
    assert (
        columns
        == AUDIT_COLUMNS
        == tuple(
            name
            for (name,) in incident.sql(
                "SELECT column_name::text FROM information_schema.columns "
                "WHERE table_name = 'reconciliation_backfill_audit' ORDER BY ordinal_position"
            )
        )
    )
    assert len(rows) == run["audit"]["count"] == 5
    applied = [dict(zip(columns, row, strict=True)) for row in rows if row[4] == "APPLIED"]
    assert [(row["filled_qty"], row["price"], row["reverted_at"], row["created_at"]) for row in applied] == [
        ("1.5", "110", None, "2026-03-02T12:00:00.000000Z")
    ]
    columns, rows = from_csv((tmp_path / "orders.csv").read_text())
    [row] = [dict(zip(columns, row, strict=True)) for row in rows]
    assert (row["status"], row["quantity"], row["client_order_id"]) == ("filled", "1.5", None)
    assert {"updated_at", "created_at", "filled_at"} <= row.keys()
    assert row["order_id"] == incident.backfills()[0]["order_id"]


def test_the_same_rows_give_the_same_bytes_in_any_order(incident, tmp_path) -> None:
    incident.create_table().ghost("T1")
    incident.ghost("T2", symbol="ETH/USD")
    incident.repair()
    first = recorded(incident, tmp_path / "1")
    incident.sql("CREATE TABLE turned AS SELECT * FROM reconciliation_backfill_audit ORDER BY ctid DESC")
    incident.sql("ALTER TABLE reconciliation_backfill_audit RENAME TO away")
    incident.sql("ALTER TABLE turned RENAME TO reconciliation_backfill_audit")
    incident.sql("ALTER TABLE reconciliation_backfill_audit ALTER filled_qty TYPE numeric(20, 12)")
    second = recorded(incident, tmp_path / "2")
    assert (first["audit"], first["orders"]) == (second["audit"], second["orders"])


def test_values_that_no_python_type_holds_are_kept_all_the_same(incident) -> None:
    incident.create_table().ghost("T1")
    incident.plan()
    incident.sql("ALTER TABLE reconciliation_backfill_audit DISABLE TRIGGER ALL")
    incident.sql("UPDATE reconciliation_backfill_audit SET price = 'NaN', evidence_filled_at = 'infinity', symbol = ''")
    with incident.engine.connect() as connection:
        rows = audit_rows(connection, incident.profile, incident.batch)
    cells = [dict(zip(AUDIT_COLUMNS, row, strict=True)) for row in rows]
    assert {(cell["price"], cell["evidence_filled_at"], cell["symbol"]) for cell in cells} == {("NaN", "infinity", "")}


def test_run_json_says_where_and_how_it_ran(incident, tmp_path) -> None:
    incident.create_table().ghost("T1")
    incident.plan()
    work = incident.work(recon_trading_status_token=TOKEN, recon_exit_backfill_dust_abs_qty=Decimal("0.0010"))
    run = recorded(incident, tmp_path, work)
    assert run["parameters"]["scope"] == {"trade_ids": [], "symbols": []}
    settings = run["settings"]
    assert set(settings) == {name.upper() for name in Settings.model_fields}
    assert settings["RECON_TRADING_STATUS_TOKEN"] == "set"
    assert settings["RECON_EXCHANGE_SECRET"] == "unset"
    assert settings["ENABLE_RECON_EXIT_BACKFILL"] == "true"
    [(name, identifier)] = incident.sql(
        "SELECT current_database()::text, (SELECT system_identifier::text FROM pg_control_system())"
    )
    assert run["database"]["name"] == name
    assert run["database"]["system_identifier"] == identifier
    assert run["database"]["is_demo"] is True, "these settings name no database"
    direct = {re.match(r"[\w.-]+", one)[0] for one in distribution("recon").requires if "extra" not in one}
    assert set(run["versions"]["packages"]) == direct
    assert None not in run["versions"]["packages"].values()
    assert (run["state"], run["error"]) == ("approved", None)
    assert run["approvals"].keys() == {"approval.json"}
    assert TOKEN not in (tmp_path / "run.json").read_text()


def test_a_database_that_cannot_be_read_is_said_and_hides_nothing(incident, tmp_path, monkeypatch) -> None:
    incident.create_table().ghost("T1")
    monkeypatch.setenv(RUN_VARIABLE, json.dumps({"record": str(tmp_path / "record")}))
    work = incident.work()

    def gone(*arguments: object) -> object:
        result = incident_module.STAGES[Stage.DETECT](*arguments)
        incident.sql("ALTER TABLE reconciliation_backfill_audit RENAME TO away")
        return result

    monkeypatch.setattr(incident_module, "STAGES", {**incident_module.STAGES, Stage.DRY_RUN: gone})
    opened = Opened(Stage.DRY_RUN, incident.profile, incident.batch, work, None)
    assert opened.run().verdict is Verdict.DONE
    run = json.loads((tmp_path / "record" / "run.json").read_text())
    assert run["error"] == "the database could not be read when it had ended: database_error"
    assert (run["audit"], run["orders"], run["read_at"]) == (
        {"count": None, "sha256": None}, {"count": None, "sha256": None}, None,
    )  # fmt: skip
    assert run["settings"]["RECON_ACTOR"] == "tester"
    assert sorted(path.name for path in (tmp_path / "record").iterdir()) == ["run.json"]


def test_a_record_that_cannot_be_written_hides_nothing(incident, tmp_path, monkeypatch) -> None:
    incident.create_table().ghost("T1")
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv(RUN_VARIABLE, json.dumps({"record": str(tmp_path / "file" / "record")}))
    assert Opened(Stage.DETECT, incident.profile, incident.batch, incident.work(), None).run().verdict is Verdict.DONE


def test_outside_a_run_nothing_is_written(incident, tmp_path, monkeypatch) -> None:
    incident.create_table().ghost("T1")
    monkeypatch.chdir(tmp_path)
    assert Opened(Stage.DETECT, incident.profile, incident.batch, incident.work(), None).run().verdict is Verdict.DONE
    assert [path.name for path in tmp_path.iterdir()] == ["statement"]


# In a report folder


def test_a_notebook_that_left_no_record_is_said_to_have_none(tmp_path) -> None:
    settings = Settings(recon_reports_dir=tmp_path, _env_file=None)  # type: ignore[call-arg]
    outcome = run_stage(Stage.DRY_RUN, "demo", "batch-1", settings=settings, notebook=NOTEBOOKS / "good.ipynb")
    assert outcome.problems == ()
    run = json.loads((tmp_path / "batch-1" / "record" / "02_dry_run" / "run.json").read_text())
    assert run["error"].startswith("unrecorded: ")
    assert run["git"].keys() == {"commit", "dirty"}
    [told] = [check for check in verify_folder(tmp_path / "batch-1") if check.name == "records_agree"]
    assert told.ok
    assert "02_dry_run.ipynb: unrecorded: the notebook broke off" in told.detail


def test_every_run_of_a_batch_keeps_its_record_and_the_manifest_its_facts(place) -> None:
    incident, console = place.profile("recorded")
    incident.ghost("T1", opened=OPENED, closed=CLOSED)
    for stage in ("detect", "dry-run"):
        assert console.stage(stage, "recorded", "recorded-1").status == 0
    assert console.approve("recorded-1").status == 0
    assert console.stage("apply", "recorded", "recorded-1").status == 0
    folder = place.reports / "recorded-1"
    manifest = read_manifest(folder)
    assert [(run["stage"], run["state"], run["audit"]["count"], run["orders"]["count"]) for run in manifest.runs] == [
        ("detect", "detected", 0, 0), ("dry-run", "planned", 1, 0), ("apply", "applied", 3, 1),
    ]  # fmt: skip
    record = folder / "record" / "03_apply"
    assert sorted(path.name for path in record.iterdir()) == ["approval.json", "audit.csv", "orders.csv", "run.json"]
    assert {path.stat().st_mode & 0o777 for path in record.iterdir()} == {0o444}
    assert manifest.facts("03_apply.ipynb") == json.loads((record / "run.json").read_text())
    assert manifest.runs[2]["git"] == code_that_ran()
    assert '<a href="record/03_apply/audit.csv">audit.csv</a>' in (folder / "index.html").read_text()
    assert assert_no_secret_in(folder) > 20
    assert PASSWORD not in (record / "run.json").read_text()
    answer = console.inside("verify", str(folder))
    assert answer.status == 0
    assert "ok   recorded_audit: 3 rows as in record/03_apply/audit.csv" in answer.out


def test_a_restored_backup_is_a_note_and_no_failure(place, servers) -> None:
    """The same rows in a database of another name, as a restored one may have."""
    incident, console = place.profile("moved")
    incident.ghost("T1", opened=OPENED, closed=CLOSED)
    assert console.stage("detect", "moved", "moved-1").status == 0
    server = servers("pg18")
    engine = create_engine(server.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(  # a template must have no session, not even one that is about to end
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'place'"
        )
        connection.exec_driver_sql("CREATE DATABASE restored TEMPLATE place")
    engine.dispose()
    elsewhere = console.but(RECON_DATABASE_URL=with_password(server.url("restored")))
    answer = elsewhere.inside("verify", str(place.reports / "moved-1"))
    server.drop_database("restored")
    assert answer.status == 0, answer.out
    said = (
        "ok   database: batch moved-1 is detected; note: another database than the last run's (name restored, recorded"
    )
    assert said in answer.out


# The commit


def test_the_commit_is_that_of_the_checkout_and_dirty_is_said(tmp_path, monkeypatch) -> None:
    package = tmp_path / "recon"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(code.recon, "__file__", str(package / "__init__.py"))
    assert code_that_ran() == {"commit": None, "dirty": None}, "an installed package without a record of its origin"

    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        ran = subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    git("init", "-q")
    assert code_that_ran() == {"commit": None, "dirty": True}
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    assert code_that_ran() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "note").write_text("not the code's")
    assert code_that_ran()["dirty"] is False
    (package / "new.py").write_text("")
    assert code_that_ran()["dirty"] is True
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_that_ran() == {"commit": None, "dirty": None}


def test_an_installed_package_tells_the_commit_that_pip_recorded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(code.recon, "__file__", str(tmp_path / "recon" / "__init__.py"))

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return '{"url": "https://example.org/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'

    monkeypatch.setattr(code, "distribution", lambda name: Installed())
    assert code_that_ran() == {"commit": "abc", "dirty": None}


def test_who_may_not_ask_for_the_cluster_s_identifier_is_told_the_rest(incident) -> None:
    incident.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with a_role(incident, "asks_little") as name:
        engine = create_engine(url_of(incident, name))
        with engine.connect() as connection:
            found = database_identity(connection)
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1, "the transaction goes on"
        engine.dispose()
    with incident.engine.connect() as connection:
        whole = database_identity(connection)
    assert (found["login"], found["system_identifier"]) == (name, None)
    assert (found["name"], found["server_version"]) == (whole["name"], whole["server_version"])
    assert whole["system_identifier"]


def test_what_a_kernel_that_broke_off_left_of_a_record_is_not_kept(tmp_path) -> None:
    (tmp_path / "audit.csv").write_text('"order_id"\n')
    finish_record(tmp_path, Settings(_env_file=None), parameters("main", "b"))
    assert [path.name for path in tmp_path.iterdir()] == [RUN]
    run = json.loads((tmp_path / RUN).read_text())
    assert (run["error"], run["audit"]["count"], run["read_at"]) == (UNRECORDED, None, None)
