"""`recon verify` against the database: a report that the database no longer agrees with is found, row by row."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console import PASSWORD, with_password
from incidents import Incident, an_incident

from recon.agreement import database_checks
from recon.doctor import RIGHTS
from recon.domain import Check, Stage
from recon.embedded import EmbeddedServer
from recon.reporting.folder import STEMS
from recon.reporting.result import result_json
from recon.settings import Settings


class Audited:
    """An incident whose results are kept as the runner keeps them."""

    def __init__(self, incident: Incident, folder: Path) -> None:
        self.incident = incident
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def run(self, stage: Stage, number: int = 1) -> None:
        """Run a stage and keep its JSON."""
        stem = STEMS[stage] + ("" if number == 1 else f".{number}")
        saved = result_json(self.incident.run(stage), f"{stem}.ipynb")
        assert saved["verdict"] in ("DONE", "GO"), saved
        (self.folder / f"{stem}.json").write_text(json.dumps(saved))

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, recon_database_url=with_password(self.incident.url))  # type: ignore[call-arg]

    def checks(self, folder: Path | None = None) -> dict[str, Check]:
        return {check.name: check for check in database_checks(self.settings, folder or self.folder)}

    def failed(self, folder: Path | None = None) -> dict[str, str]:
        return {check.name: check.detail for check in self.checks(folder).values() if not check.ok}


@pytest.fixture(scope="module")
def repaired(servers: Callable[[str], EmbeddedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """Two ghosts, repaired and validated; the dry run was made twice, on other facts the first time."""
    server = servers("pg18")
    server.create_database("agreement")
    folder = tmp_path_factory.mktemp("agreement")
    with an_incident(server.url("agreement"), folder) as incident:
        incident.create_table().ghost("T1", "1.5")
        audited = Audited(incident, folder / incident.batch)
        audited.run(Stage.DETECT)
        audited.run(Stage.DRY_RUN)
        incident.ghost("T2", "2", short=True, opened=5, symbol="ETH/USD")
        audited.run(Stage.DRY_RUN, 2)
        incident.approve()
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
    assert list(checks) == ["database", "plan_digest", "stored_plan", "audit_rows", "order_rows"]
    assert applied.failed() == {}
    assert checks["database"].detail == f"batch {applied.incident.batch} is validated"
    assert checks["order_rows"].detail == "all 2 rows are as reported"


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
        ("order_id = 'BFILL-other'", "is missing"),
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
    ("statement", "expected"),
    [
        ("DELETE FROM reconciliation_backfill_audit WHERE decision = 'APPLIED' AND trade_id = 'T1'", ["audit_rows"]),
        ("UPDATE reconciliation_backfill_audit SET backfill_order_id = 'x' WHERE trade_id = 'T1'", ["audit_rows"]),
        ("UPDATE reconciliation_backfill_audit SET batch_id = 'other'", ["audit_rows"]),
        ("UPDATE reconciliation_batches SET plan_digest = repeat('0', 64)", ["plan_digest", "stored_plan"]),
        ("UPDATE reconciliation_batches SET plan_digest = NULL", ["plan_digest", "stored_plan"]),
        (
            "UPDATE reconciliation_batches SET plan = jsonb_set(plan, '{document,rules,base_fee}', 'true')",
            ["stored_plan"],
        ),
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


def test_the_last_dry_run_is_the_one_with_the_highest_number(applied) -> None:
    """Also in a copy whose files are all younger, in any order; names decide, and 10 comes after 2."""
    copy = applied.folder.parent / "copy"
    shutil.copytree(applied.folder, copy)
    (copy / "02_dry_run.2.json").rename(copy / "02_dry_run.10.json")
    shutil.copy(copy / "02_dry_run.json", copy / "02_dry_run.9.json")
    for seconds, name in enumerate(["02_dry_run.10.json", "02_dry_run.9.json", "02_dry_run.json", "01_detect.json"]):
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
    assert list(audited.checks()) == ["database", "audit_rows"]
    assert audited.failed() == {}
    audited.run(Stage.DRY_RUN)
    assert audited.failed() == {}
    incident.approve()
    audited.run(Stage.APPLY)
    assert audited.checks()["order_rows"].ok
    audited.run(Stage.APPLY, 2)
    assert audited.failed() == {}
    audited.run(Stage.ROLLBACK)
    checks = audited.checks()
    assert audited.failed() == {}
    assert checks["database"].detail == f"batch {incident.batch} is rolled_back"
    assert "order_rows" not in checks


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
    assert PASSWORD not in check.detail
