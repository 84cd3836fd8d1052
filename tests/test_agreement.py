"""`recon verify` against the database: a report that the database no longer agrees with is found, row by row."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import nbformat
import pytest
from console import PASSWORD, with_password
from doors.people import as_login, make_people
from incidents import NOW, Incident, an_incident
from nbformat.v4 import new_code_cell, new_notebook, new_output

from recon.agreement import database_checks
from recon.doctor import RIGHTS
from recon.domain import Check, Stage, Table
from recon.embedded import EmbeddedServer
from recon.identity import digest
from recon.reporting.names import STEMS
from recon.reporting.result import result_json
from recon.reporting.tables import TableView
from recon.settings import Settings
from recon.stages.approved import tells_of


class Audited:
    """An incident whose results are kept as the runner keeps them."""

    def __init__(self, incident: Incident, folder: Path) -> None:
        self.incident = incident
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def run(self, stage: Stage, number: int = 1, verdict: str | None = None) -> None:
        """Run a stage and keep its JSON, and a notebook of which the run card is there."""
        stem = STEMS[stage] + ("" if number == 1 else f".{number}")
        saved = result_json(self.incident.run(stage), f"{stem}.ipynb")
        assert saved["verdict"] in ([verdict] if verdict else ["DONE", "GO"]), saved
        (self.folder / f"{stem}.json").write_text(json.dumps(saved))
        card = Table("Run card", "Where it ran.", ("name", "value"), (("exchange", "e"), ("actor", "tester")))
        output = new_output("execute_result", {"text/plain": repr(TableView(card))}, execution_count=1)
        notebook = new_notebook(cells=[new_code_cell("card", outputs=[output], execution_count=1)])
        nbformat.write(notebook, self.folder / f"{stem}.ipynb")

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, recon_database_url=with_password(self.incident.url))  # type: ignore[call-arg]

    def checks(self, folder: Path | None = None) -> dict[str, Check]:
        return {check.name: check for check in database_checks(self.settings, folder or self.folder)}

    def failed(self, folder: Path | None = None) -> dict[str, str]:
        return {check.name: check.detail for check in self.checks(folder).values() if not check.ok}


@pytest.fixture(scope="module")
def repaired(servers: Callable[[str], EmbeddedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """Two ghosts, repaired and validated, and a trade left open; dry run twice, on other facts the first time."""
    server = servers("pg18")
    server.create_database("agreement")
    folder = tmp_path_factory.mktemp("agreement")
    with an_incident(server.url("agreement"), folder) as incident:
        incident.create_table().ghost("T1", "1.5")
        audited = Audited(incident, folder / incident.batch)
        audited.run(Stage.DETECT)
        audited.run(Stage.DRY_RUN)
        incident.ghost("T2", "2", short=True, opened=5, symbol="ETH/USD")
        incident.row("entry-T3", "T3", "ENTRY", "1", symbol="C/USD")
        audited.run(Stage.DRY_RUN, 2, "NO_GO")
        incident.approve("T3=moved")
        audited.run(Stage.APPLY)
        audited.run(Stage.VALIDATE)
        incident.sql("CREATE SCHEMA kept")
        for table in RIGHTS:
            incident.sql(f"CREATE TABLE kept.{table} (LIKE {table} INCLUDING ALL)")
            incident.sql(f"INSERT INTO kept.{table} SELECT * FROM {table}")
        yield audited
    server.drop_database("agreement")


@pytest.fixture
def applied(repaired: Audited, tmp_path: Path) -> Iterator[Audited]:
    """The same with a copy of the folder; the database is put back afterwards."""
    shutil.copytree(repaired.folder, tmp_path / "kept")
    yield Audited(repaired.incident, tmp_path / "kept")
    for table in RIGHTS:
        repaired.incident.sql(f"DROP TABLE IF EXISTS {table}")
        repaired.incident.sql(f"CREATE TABLE {table} (LIKE kept.{table} INCLUDING ALL)")
        repaired.incident.sql(f"INSERT INTO {table} SELECT * FROM kept.{table}")


def ids(audited: Audited) -> list[str]:
    return [row["order_id"] for row in audited.incident.backfills()]


def test_a_database_that_agrees(applied) -> None:
    checks = applied.checks()
    assert list(checks) == [
        "database", "state", "plan_digest", "stored_plan", "approval", "audit_rows", "order_rows",
    ]  # fmt: skip
    assert applied.failed() == {}
    assert checks["database"].detail == f"batch {applied.incident.batch} is validated"
    assert checks["order_rows"].detail == "2 rows as reported"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("status = 'canceled'", "has status 'canceled'"),
        ("status = NULL", "has status None"),
        ("quantity = quantity + 0.00000001", "differs in quantity"),
        ("qty = NULL", "differs in qty"),
        ("price = price + 1", "differs in price"),
        ("filled_at = filled_at + interval '1 microsecond'", "differs in filled_at"),
        ("symbol = 'BTCUSD'", "differs in symbol"),
        ("trade_id = 'T9'", "differs in trade_id"),
        ("action = 'ENTRY'", "differs in action"),
        ("side = NULL", "differs in side"),
        ("exchange_order_id = 'x'", "differs in exchange_order_id"),
        ("order_id = 'other'", "is missing"),
        ("profile_id = 'other'", "is missing"),
    ],
)
def test_one_changed_row_of_orders_is_found(applied, change, said) -> None:
    changed = ids(applied)[0]
    applied.incident.sql(f"UPDATE orders SET {change} WHERE order_id = %s", changed)
    assert applied.failed() == {"order_rows": f"{changed} {said}"}


def test_a_deleted_row_is_found(applied) -> None:
    gone = ids(applied)[1]
    applied.incident.sql("DELETE FROM orders WHERE order_id = %s", gone)
    assert applied.failed() == {"order_rows": f"{gone} is missing"}


def test_the_rows_are_held_against_the_report_not_against_the_stored_plan(applied) -> None:
    """Whoever changes a row may change the batch's plan with it; the report is out of reach."""
    changed = ids(applied)[0]
    applied.incident.sql("UPDATE orders SET quantity = 9, qty = 9 WHERE order_id = %s", changed)
    applied.incident.sql("UPDATE reconciliation_batches SET plan = replace(plan::text, '\"1.5\"', '\"9\"')::jsonb")
    failed = applied.failed()
    assert list(failed) == ["stored_plan", "order_rows"]
    assert failed["order_rows"] == f"{changed} differs in quantity, qty"


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        ("filled_qty = 9", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) has qty 9, reported 1.5"),
        ("price = price + 1", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) has price 111, reported 110"),
        ("trade_id = 'T2'", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) has trade_id T2, reported T1"),
        ("symbol = NULL", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) has symbol None, reported BTC/USD"),
        ("reason = 'dust_only'", "APPLIED", "has reason dust_only, reported fill_evidence"),
        ("reason = 'any text'", "APPLIED", "has reason any text, reported fill_evidence"),
        ("exchange_order_id = 'x'", "APPLIED", "has exchange_order_id x, reported exit-T1"),
        (
            "evidence_filled_at = evidence_filled_at + interval '1 microsecond'",
            "APPLIED",
            "has filled_at 2026-03-01T10",
        ),
        (
            "exchange_client_order_id = 'x'",
            "APPLIED",
            "APPLIED {id} of trade T1 (BTC/USD) has client order x, planned No",
        ),
        ("plan_digest = NULL", "APPLIED", "has plan_digest None, reported "),
        ("actor = 'mallory'", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) has actor mallory, reported tester"),
        ("reverted_at = now()", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) is marked as reverted at 2"),
        ("decision = 'APPLY'", "APPLIED", "APPLIED {id} of trade T1 (BTC/USD) is missing"),
        ("filled_qty = 9", "PENDING_APPLY", "PENDING_APPLY {id} of trade T1 (BTC/USD) has qty 9, reported 1.5"),
        (
            "actor = 'mallory'",
            "PENDING_APPLY",
            "PENDING_APPLY {id} of trade T1 (BTC/USD) has actor mallory, reported a re",
        ),
        ("actor = 'mallory'", "DRY_RUN", "DRY_RUN {id} of trade T1 (BTC/USD) has actor mallory, reported tester"),
        ("price = 1", "DRY_RUN", "DRY_RUN {id} of trade T1 (BTC/USD) has price 1, reported 110"),
    ],
)
def test_one_changed_audit_row_is_found(applied, change, where, said) -> None:
    changed = ids(applied)[1]
    applied.incident.tamper(
        f"UPDATE reconciliation_backfill_audit SET {change} WHERE decision = '{where}' AND trade_id = 'T1'"
    )
    detail = applied.failed()["audit_rows"]
    assert said.format(id=changed) in detail
    assert "T2 (" not in detail


@pytest.mark.parametrize("decision", ["DRY_RUN", "PENDING_APPLY", "NO_GO", "APPLIED"])
def test_deleted_audit_rows_are_found(applied, decision) -> None:
    applied.incident.tamper(f"DELETE FROM reconciliation_backfill_audit WHERE decision = '{decision}'")
    detail = applied.failed()["audit_rows"]
    named = {"T3"} if decision == "NO_GO" else {"T1", "T2"}
    assert {trade for trade in ("T1", "T2", "T3") if f"of trade {trade} " in detail} == named
    assert detail.count("is missing") == detail.count("; ") + 1


def test_audit_rows_that_no_report_tells_of_are_found(applied) -> None:
    """A second APPLIED row of one row, and a decision on a trade of which the plan knows nothing."""
    copied = "batch_id, profile_id, symbol, decision, reason, filled_qty, created_at, plan_digest, actor"
    applied.incident.sql(
        f"INSERT INTO reconciliation_backfill_audit ({copied}, trade_id, backfill_order_id) SELECT {copied}, 'T9', "
        "'BFILL-x' FROM reconciliation_backfill_audit WHERE decision IN ('APPLIED', 'DRY_RUN') AND trade_id = 'T2'"
    )
    applied.incident.sql(
        "INSERT INTO reconciliation_backfill_audit SELECT * FROM reconciliation_backfill_audit "
        "WHERE decision = 'APPLIED' AND trade_id = 'T1'"
    )
    found = applied.failed()["audit_rows"].split("; ")
    assert sorted(found) == [
        f"APPLIED {ids(applied)[1]} of trade T1 (BTC/USD) is in no report",
        "APPLIED BFILL-x of trade T9 (ETH/USD) is in no report",
        "DRY_RUN BFILL-x of trade T9 (ETH/USD) is in no report",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("jsonb_set(approval, '{by}', '\"mallory\"')", "the database by 'mallory', valid"),
        ("jsonb_set(approval, '{acknowledgements,T3}', '\"x\"')", digest({"T3": "x"})),
        ("jsonb_set(approval, '{acknowledgements}', '{}')", "; no acknowledgement"),
        ("jsonb_set(approval, '{expires_at}', '\"later\"')", "valid until later"),
        ("jsonb_set(approval, '{plan_digest}', '\"x\"')", "it is of plan x"),
        ("jsonb_set(approval, '{items,0}', '\"BFILL-x\"')", "BFILL-x is in the plan or in the approval alone"),
        ("NULL", "it is of plan None"),
    ],
)
def test_a_changed_approval_is_found(applied, change, said) -> None:
    applied.incident.sql(f"UPDATE reconciliation_batches SET approval = {change}")
    assert said in applied.failed()["approval"]


@pytest.mark.parametrize("state", ["detected", "planned", "approved", "applied", "rolled_back"])
def test_a_state_that_the_reports_do_not_tell_of_hides_nothing(applied, state) -> None:
    """The order rows are compared as the reports say, whatever the batch calls itself."""
    changed = ids(applied)[0]
    applied.incident.sql("UPDATE reconciliation_batches SET state = %s", state)
    assert list(applied.failed()) == ["state"]
    assert applied.failed()["state"].startswith(f"the reports say validated, the database {state}; ")
    applied.incident.sql("UPDATE orders SET price = 1 WHERE order_id = %s", changed)
    assert list(applied.failed()) == ["state", "order_rows"]


def test_a_backfill_row_beside_those_of_the_report_is_found(applied) -> None:
    """Filled, on a trade of the batch, and owned by no known batch; a canceled one closes nothing."""
    applied.incident.row("BFILL-forged", "T1", "EXIT", "0.5", 70)
    applied.incident.row("BFILL-idle", "T1", "EXIT", "0.5", 70, status="canceled")
    said = "BFILL-forged is filled on trade T1, and no live APPLIED audit row of a known batch names it"
    assert applied.failed() == {"order_rows": said}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "DELETE FROM reconciliation_backfill_audit WHERE decision = 'APPLIED' AND trade_id = 'T1'",
            ["audit_rows", "order_rows"],
        ),
        (
            "UPDATE reconciliation_backfill_audit SET backfill_order_id = 'x' WHERE trade_id = 'T1'",
            ["audit_rows", "order_rows"],
        ),
        ("UPDATE reconciliation_backfill_audit SET batch_id = 'other'", ["audit_rows"]),
        ("UPDATE reconciliation_batches SET plan_digest = repeat('0', 64)", ["plan_digest", "stored_plan", "approval"]),
        ("UPDATE reconciliation_batches SET plan_digest = NULL", ["plan_digest", "stored_plan", "approval"]),
        (
            "UPDATE reconciliation_batches SET plan = jsonb_set(plan, '{document,rules,base_fee}', 'true')",
            ["stored_plan"],
        ),
        ("UPDATE reconciliation_batches SET plan = jsonb_set(plan, '{document,items,0,qty}', '0.5')", ["stored_plan"]),
        ("UPDATE reconciliation_batches SET plan = plan - 'document'", ["stored_plan"]),
        ("UPDATE reconciliation_batches SET plan = NULL", ["stored_plan"]),
        ("UPDATE reconciliation_batches SET approval = NULL", ["approval"]),
        ("UPDATE reconciliation_batches SET approval = jsonb_set(approval, '{action}', '\"rollback\"')", ["approval"]),
        ("UPDATE reconciliation_batches SET approval = jsonb_set(approval, '{signature}', '\"x\"')", ["approval"]),
        ("UPDATE reconciliation_batches SET batch_id = 'other'", ["database"]),
        ("UPDATE reconciliation_batches SET profile_id = 'other'", ["database"]),
        ("DROP TABLE reconciliation_batches", ["database"]),
        ("DROP TABLE orders", ["database"]),
    ],
)
def test_the_batch_and_its_audit_are_held_against_the_report(applied, statement, expected) -> None:
    applied.incident.sql(statement)
    assert list(applied.failed()) == expected


def test_a_report_that_was_cut_short_is_found(applied) -> None:
    (applied.folder / "03_apply.json").unlink()
    assert list(applied.failed()) == ["audit_rows"]
    assert f"APPLIED {ids(applied)[0]} of trade T2 (ETH/USD) is in no report" in applied.failed()["audit_rows"]


def test_an_apply_that_is_run_again_replaces_its_lost_report(applied) -> None:
    (applied.folder / "03_apply.json").unlink()
    applied.run(Stage.APPLY)
    assert applied.failed() == {}


def test_the_last_dry_run_is_the_one_with_the_highest_number(applied) -> None:
    """Also in a copy whose files are all younger, in any order; names decide, and 10 comes after 2."""
    copy = applied.folder.parent / "copy"
    shutil.copytree(applied.folder, copy)
    (copy / "02_dry_run.2.json").rename(copy / "02_dry_run.10.json")
    (copy / "02_dry_run.json").rename(copy / "02_dry_run.9.json")
    for seconds, name in enumerate(["02_dry_run.10.json", "02_dry_run.9.json", "01_detect.json"]):
        os.utime(copy / name, (1_000_000 + seconds, 1_000_000 + seconds))
    assert applied.failed(copy) == {}


def test_a_failed_run_and_other_files_are_no_results(applied) -> None:
    (applied.folder / "03_apply.failed.json").write_text("{}")
    (applied.folder / "manifest.json").write_text("{}")
    assert applied.failed() == {}


def test_each_state_of_a_batch_agrees_with_its_reports(incident, tmp_path) -> None:
    incident.create_table().ghost("T1")
    audited = Audited(incident, tmp_path / "kept")
    audited.run(Stage.DETECT)
    assert list(audited.checks()) == ["database", "state", "audit_rows"]
    assert audited.failed() == {}
    audited.run(Stage.DRY_RUN)
    assert audited.failed() == {}
    incident.approve()
    assert audited.failed() == {}
    audited.run(Stage.APPLY)
    assert audited.checks()["order_rows"].ok
    audited.run(Stage.APPLY, 2)
    assert audited.failed() == {}
    audited.run(Stage.ROLLBACK)
    checks = audited.checks()
    assert audited.failed() == {}
    assert checks["database"].detail == f"batch {incident.batch} is rolled_back"
    assert checks["order_rows"].detail == "1 row as reported and canceled"


def test_stages_that_are_repeated_agree(incident, tmp_path) -> None:
    """Every stage more than once, with or without a kept report, approvals void and renewed, a validation that failed.

    A dry run whose report was not kept repeats what another says, or makes a plan that no report names.
    """
    incident.create_table().ghost("T1")
    incident.ghost("T2", symbol="ETH/USD")
    incident.row("entry-T3", "T3", "ENTRY", "1", symbol="C/USD")
    audited = Audited(incident, tmp_path / "kept")
    audited.run(Stage.DETECT)
    incident.run(Stage.DRY_RUN)
    incident.approve("T3=moved")
    incident.row("late", "T4", "ENTRY", "1", 1, symbol="D/USD")
    assert incident.run(Stage.APPLY).code == "stale_plan"
    audited.run(Stage.DRY_RUN, 1, "NO_GO")
    assert audited.failed() == {}
    audited.run(Stage.APPLY, 1, "NO_GO")
    incident.run(Stage.DRY_RUN)
    audited.run(Stage.DRY_RUN, 2, "NO_GO")
    for why in ("moved", "moved, I am told"):
        incident.approve(f"T3={why}", "T4=lost")
        assert audited.failed() == {}
    audited.run(Stage.APPLY, 2)
    incident.run(Stage.APPLY)
    incident.sql("UPDATE orders SET price = 1 WHERE order_id LIKE 'BFILL-%%' AND trade_id = 'T1'")
    audited.run(Stage.VALIDATE, 1, "FAILED")
    audited.run(Stage.APPLY, 3, "FAILED")
    assert list(audited.failed()) == ["order_rows"]
    incident.sql("UPDATE orders SET price = 110 WHERE order_id LIKE 'BFILL-%%'")
    assert audited.failed() == {}
    for number in (2, 3):
        audited.run(Stage.VALIDATE, number)
    audited.run(Stage.DETECT, 2, "NO_GO")
    audited.run(Stage.APPLY, 4)
    assert audited.failed() == {}
    for number in (1, 2):
        audited.run(Stage.ROLLBACK, number)
        assert audited.failed() == {}


def test_a_decision_that_is_there_more_or_less_often_than_the_rest_of_its_plan_is_found(incident, tmp_path) -> None:
    """An approval has no report: two of them leave each row twice, so that a row that is there once is a lost one."""
    incident.create_table()
    for trade in ("T1", "T2", "T3"):
        incident.ghost(trade, symbol=f"{trade}/USD")
    audited = Audited(incident, tmp_path / "kept")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        audited.run(stage)
    incident.approve()
    incident.approve()
    assert audited.failed() == {}
    incident.tamper(
        "DELETE FROM reconciliation_backfill_audit WHERE ctid = (SELECT min(ctid) FROM reconciliation_backfill_audit "
        "WHERE decision = 'PENDING_APPLY' AND trade_id = 'T2')"
    )
    assert "of trade T2 (T2/USD) is there 1 time, the rest of its plan 2" in audited.failed()["audit_rows"]


def test_rows_that_another_batch_reinstates_agree_in_both(incident, tmp_path) -> None:
    """The first batch was rolled back; its row is filled again, and the second batch's."""
    incident.create_table().ghost("T1")
    first = Audited(incident, tmp_path / "kept")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        first.run(stage)
    incident.approve()
    for stage in (Stage.APPLY, Stage.VALIDATE, Stage.ROLLBACK):
        first.run(stage)
    incident.batch = "incident-2"
    second = Audited(incident, tmp_path / "second")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        second.run(stage)
    incident.approve()
    second.run(Stage.APPLY)
    assert (first.failed(), second.failed()) == ({}, {})
    assert first.checks()["order_rows"].detail == "no rows as reported and canceled; other batches own 1"
    second.run(Stage.ROLLBACK)
    assert (first.failed(), second.failed()) == ({}, {})


def test_a_row_that_a_rollback_left_to_its_owner_agrees(incident, tmp_path) -> None:
    """Canceled by hand, reinstated by another batch, and only then the first batch is rolled back."""
    incident.create_table().ghost("T1")
    first = Audited(incident, tmp_path / "kept")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        first.run(stage)
    incident.approve()
    first.run(Stage.APPLY)
    incident.sql("UPDATE orders SET status = 'canceled' WHERE order_id LIKE 'BFILL-%%'")
    later = incident.work(now=NOW + timedelta(hours=1))
    incident.repair(batch="incident-2", work=later)
    assert first.failed() == {}
    first.run(Stage.ROLLBACK)
    assert first.failed() == {}


def test_what_was_done_by_hand_after_a_rollback_is_found(incident, tmp_path) -> None:
    """A row set back to filled, and an audit row of which the mark was taken away."""
    incident.create_table().ghost("T1")
    audited = Audited(incident, tmp_path / "kept")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        audited.run(stage)
    incident.approve()
    for stage in (Stage.APPLY, Stage.ROLLBACK):
        audited.run(stage)
    [row] = ids(audited)
    incident.sql("UPDATE orders SET status = 'filled' WHERE order_id = %s", row)
    assert audited.failed() == {"order_rows": f"{row} has status 'filled'"}
    incident.tamper("UPDATE reconciliation_backfill_audit SET reverted_at = NULL WHERE decision = 'APPLIED'")
    failed = audited.failed()
    assert list(failed) == ["audit_rows", "order_rows"]
    assert failed["audit_rows"] == f"APPLIED {row} of trade T1 (BTC/USD) is not marked as reverted"


def test_a_dry_run_without_an_audit_agrees(incident, tmp_path) -> None:
    """It wrote no audit row, and its report says so."""
    incident.create_table().ghost("T1")
    audited = Audited(incident, tmp_path / "kept")
    audited.run(Stage.DETECT)
    incident.sql("ALTER TABLE reconciliation_backfill_audit RENAME TO away")
    audited.run(Stage.DRY_RUN, 1, "NO_GO")
    incident.sql("ALTER TABLE away RENAME TO reconciliation_backfill_audit")
    assert audited.failed() == {}
    audited.run(Stage.DRY_RUN, 2)
    assert audited.failed() == {}


def test_a_batch_of_another_database_is_not_found(applied, servers) -> None:
    elsewhere = Settings(_env_file=None, recon_database_url=servers("pg18").url())  # type: ignore[call-arg]
    [check] = database_checks(elsewhere, applied.folder)
    assert (check.name, check.ok) == ("database", False)
    assert check.detail.startswith("audit_unavailable: ")


def test_without_a_database_nothing_is_compared_but_what_the_demo_holds(applied, demo_home) -> None:
    bare = Settings(_env_file=None, recon_home=demo_home)  # type: ignore[call-arg]
    [check] = database_checks(bare, applied.folder)
    assert (check.ok, check.detail) == (True, "not compared: no database is configured (RECON_DATABASE_URL)")
    for path in applied.folder.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"profile_id": "demo", "batch_id": "long-gone"}))
    [check] = database_checks(bare, applied.folder)
    assert (check.ok, check.detail) == (True, "not compared: the embedded demo no longer holds this batch")


def test_an_unreachable_database_is_no_agreement(applied) -> None:
    url = f"postgresql://u:{PASSWORD.replace('@', '%40').replace('/', '%2F')}@127.0.0.1:1/d"
    [check] = database_checks(Settings(_env_file=None, recon_database_url=url), applied.folder)  # type: ignore[call-arg]
    assert not check.ok
    assert check.detail.startswith("database_unreachable: ")
    assert check.detail.endswith(f" To check the folder alone: `RECON_DATABASE_URL= recon verify {applied.folder}`.")
    assert PASSWORD not in check.detail


@pytest.mark.parametrize(
    ("how", "signed", "alike"),
    [
        ("", False, True),
        ("; not signed", False, True),
        ("; signed by a@example.com (verified)", True, True),
        ("; signed, not verified: RECON_ALLOWED_SIGNERS is unset", True, True),
        ("", True, False),
        ("; not signed", True, False),
        ("; signed by a@example.com (verified)", False, False),
        (" and more", False, False),
    ],
)
def test_whether_it_was_signed_must_agree_and_by_whom_is_for_the_signature_to_tell(how, signed, alike) -> None:
    """Reports from before approvals could be signed say nothing of it."""
    said = "by 'x', valid until 2026-03-03T12:00:00.000000Z; no acknowledgement"
    assert tells_of(said + how, said, signed) is alike
    assert not tells_of("by 'y'" + how, said, signed)


def test_a_readers_detect_leaves_nothing_to_compare(incident: Incident, tmp_path: Path) -> None:
    """It may only read, so no batch was opened; the control is a database that lost a batch which was."""
    incident.create_table(doors=True).ghost("T1")
    make_people(incident.backend)
    audited = Audited(incident, tmp_path / incident.batch)
    owner, incident.engine = incident.engine, as_login(incident.engine, "a_reader")
    audited.run(Stage.DETECT)
    incident.engine = owner
    assert incident.state() is None
    assert audited.failed() == {}
    assert audited.checks()["database"].detail.startswith("it holds nothing of this batch")
    audited.run(Stage.DETECT, 2)
    incident.tamper("DELETE FROM reconciliation_batches")
    assert "found none" in audited.failed()["database"]


def test_an_audit_row_of_a_batch_that_does_not_exist_excuses_nothing(applied) -> None:
    applied.incident.row("BFILL-forged", "T1", "EXIT", "0.5", 70)
    applied.incident.sql(
        "INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id) "
        "SELECT 'ghost', profile_id, 'APPLIED', 'BFILL-forged' FROM reconciliation_batches"
    )
    said = "BFILL-forged is filled on trade T1, and no live APPLIED audit row of a known batch names it"
    assert applied.failed() == {"order_rows": said}
    applied.incident.sql(
        "INSERT INTO reconciliation_batches (batch_id, profile_id, state, created_at, created_by, updated_at, "
        "updated_by) SELECT 'ghost', profile_id, 'applied', now(), 'x', now(), 'x' FROM reconciliation_batches"
    )
    assert applied.failed() == {}
