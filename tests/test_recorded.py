"""What the last run recorded, held against a database in which other batches, and stages without a report, went on."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import nbformat
import pytest
from console import with_password
from incidents import EXTENDED, NOW, Incident
from report_samples import executed
from tampering import covered_up, writable

from recon.agreement import database_checks
from recon.domain import Check, Stage
from recon.record import parameters, write_record
from recon.reporting.describe import complete, describe
from recon.reporting.folder import add_beside, add_report
from recon.reporting.names import RECORD, STEMS
from recon.reporting.records import finish_record
from recon.reporting.result import result_json
from recon.reporting.seal import load_notebook
from recon.reporting.verify import verify_folder
from recon.settings import Settings


class Recorded:
    """An incident whose runs are kept as the runner keeps them, with their records."""

    def __init__(self, incident: Incident, folder: Path) -> None:
        self.incident, self.folder = incident, folder
        folder.mkdir()

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, recon_database_url=with_password(self.incident.url))  # type: ignore[call-arg]

    def run(self, stage: Stage, *, record: bool = True, work=None) -> None:
        """Run a stage and keep its report; without a `record`, as if the kernel had left none."""
        incident, beside = self.incident, self.folder.parent / "beside"
        result = incident.run(stage, self.folder.name, work=work)
        report = add_report(self.folder, STEMS[stage], nbformat.writes(executed(result, "1 + 1")).encode())
        complete(report, load_notebook(report), result_json(result))
        shutil.rmtree(beside, ignore_errors=True)
        if record:
            write_record(beside, incident.work(), incident.profile, self.folder.name)
        finish_record(beside, self.settings, parameters(incident.profile, self.folder.name))
        add_beside(report, RECORD, beside)
        describe(self.folder, incident.profile)

    def checks(self) -> dict[str, Check]:
        assert [check for check in verify_folder(self.folder) if not check.ok] == []
        return {check.name: check for check in database_checks(self.settings, self.folder)}

    def failed(self) -> dict[str, str]:
        return {check.name: check.detail for check in self.checks().values() if not check.ok}


@pytest.fixture
def first(incident: Incident, tmp_path: Path) -> Recorded:
    """Two ghosts, planned and approved."""
    incident.create_table().ghost("T1", "1.5")
    incident.ghost("T2", "2", symbol="ETH/USD")
    recorded = Recorded(incident, tmp_path / "first")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        recorded.run(stage)
    incident.approve(batch="first")
    return recorded


def test_what_an_approval_added_is_no_change(first) -> None:
    checks = first.checks()
    assert first.failed() == {}
    assert checks["recorded_audit"].detail == "2 rows as in record/02_dry_run/audit.csv, 2 rows added since"
    assert checks["recorded_batch"].detail == "as in record/02_dry_run: created_at, created_by"


def test_a_stage_that_ran_without_a_report_is_no_change(first) -> None:
    first.incident.run("dry-run", "first")
    first.incident.approve(batch="first")
    assert first.failed() == {}
    assert first.checks()["recorded_audit"].detail.endswith(", 6 rows added since")
    first.run(Stage.APPLY)
    first.incident.run("apply", "first")
    assert first.failed() == {}
    assert first.checks()["recorded_audit"].detail.endswith(", 2 rows added since")


def test_rows_that_another_batch_reinstates_and_cancels_again_are_its_matter(first, tmp_path) -> None:
    first.run(Stage.APPLY)
    first.run(Stage.ROLLBACK)
    assert first.failed() == {}
    second = Recorded(first.incident, tmp_path / "second")
    later = first.incident.work(now=NOW + timedelta(hours=1))
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        second.run(stage, work=later)
    first.incident.approve(batch="second", work=later)
    second.run(Stage.APPLY, work=later)
    assert (first.failed(), second.failed()) == ({}, {})
    said = "2 rows as in record/05_rollback/orders.csv; the status of 2 is another batch's matter"
    assert first.checks()["recorded_orders"].detail == said
    second.run(Stage.ROLLBACK, work=later)
    assert (first.failed(), second.failed()) == ({}, {})
    changed = first.incident.backfills()[0]["order_id"]
    first.incident.sql("UPDATE orders SET updated_at = updated_at + interval '1 second' WHERE order_id = %s", changed)
    assert first.failed() == {}
    assert list(second.failed()) == ["recorded_orders"]
    assert f"{changed} has updated_at 2026-03-02T13:00:01" in second.failed()["recorded_orders"]


def test_a_writing_stage_without_a_record_is_told_and_running_again_puts_it_right(first) -> None:
    first.run(Stage.APPLY, record=False)
    checks = first.checks()
    assert first.failed() == {}
    assert checks["recorded_rows"].detail == "not compared: 03_apply.ipynb wrote later and kept no rows"
    [told] = [check for check in verify_folder(first.folder) if check.name == "records_agree"]
    assert "03_apply.ipynb: unrecorded: " in told.detail
    first.run(Stage.VALIDATE)
    assert first.checks()["recorded_audit"].detail == "6 rows as in record/04_validate/audit.csv"


def test_a_changed_row_and_a_cut_tail_are_told_apart(first) -> None:
    first.run(Stage.APPLY)
    first.incident.sql("ALTER TABLE reconciliation_backfill_audit DISABLE TRIGGER ALL")
    first.incident.sql(
        "UPDATE reconciliation_backfill_audit SET created_at = created_at + interval '1 hour' "
        "WHERE decision = 'APPLIED' AND trade_id = 'T1'"
    )
    first.incident.sql("DELETE FROM reconciliation_backfill_audit WHERE decision = 'APPLIED' AND trade_id = 'T2'")
    told = first.failed()["recorded_audit"].split("; ")
    assert len(told) == 2
    at = "created_at 2026-03-02T13:00:00.000000Z, recorded 2026-03-02T12:00:00.000000Z"
    assert any("of trade T1 (BTC/USD) has " in one and at in one for one in told)
    assert any(one.endswith("of trade T2 (ETH/USD) is missing") for one in told)


ODD = EXTENDED | {
    "desk": "text NOT NULL",
    "lot": "bigint GENERATED ALWAYS AS IDENTITY",
    "Fee Rate": "double precision DEFAULT 0.1",
    "tags": "jsonb DEFAULT '{}'",
    "lasts": "interval DEFAULT '1 day'",
    "raw": "bytea DEFAULT '\\x00'",
}


def odd(incident: Incident, folder: Path) -> Recorded:
    """A repair of one ghost in a table with columns that recon does not know."""
    incident.create_table(ODD)
    incident.ghost("T1", desk="spot")
    recorded = Recorded(incident, folder)
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        recorded.run(stage)
    incident.approve(batch=folder.name)
    recorded.run(Stage.APPLY)
    return recorded


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('"Fee Rate" = 0.10000000000000002', "Fee Rate 0.10000000000000002, recorded 0.1"),
        ('"Fee Rate" = NULL', "Fee Rate NULL, recorded 0.1"),
        ("tags = '{\"a\": 1}'", 'tags {"a": 1}, recorded {}'),
        ("lasts = '24 hours'", "lasts PT24H, recorded P1D"),
        ("raw = '\\x01'", "raw \\x01, recorded \\x00"),
        ("lot = DEFAULT", "lot 3, recorded 2"),
    ],
)
def test_a_changed_cell_that_recon_does_not_write_is_a_note(incident, tmp_path, change, said) -> None:
    """The backend may write there as it pleases."""
    recorded = odd(incident, tmp_path / "odd")
    assert recorded.failed() == {}
    [row] = incident.backfills()
    incident.sql(f"UPDATE orders SET {change} WHERE order_id = %s", row["order_id"])
    assert recorded.failed() == {}
    told = f"1 row as in record/03_apply/orders.csv; note: {row['order_id']} has {said}"
    assert recorded.checks()["recorded_orders"].detail == told


def test_a_changed_cell_that_recon_copied_is_a_failure(incident, tmp_path) -> None:
    recorded = odd(incident, tmp_path / "odd")
    [row] = incident.backfills()
    incident.sql("UPDATE orders SET desk = 'margin', tags = NULL WHERE order_id = %s", row["order_id"])
    told = f"{row['order_id']} has desk margin, recorded spot; note: {row['order_id']} has tags NULL, recorded {{}}"
    assert recorded.failed() == {"recorded_orders": told}


def test_a_column_that_is_gone_is_named_once_and_one_that_came_is_no_change(incident, tmp_path) -> None:
    recorded = odd(incident, tmp_path / "odd")
    incident.sql("ALTER TABLE orders ADD venue text DEFAULT 'x'")
    assert "note" not in recorded.checks()["recorded_orders"].detail
    incident.sql("ALTER TABLE orders DROP tags, DROP lasts")
    assert recorded.failed() == {}
    told = "1 row as in record/03_apply/orders.csv; note: orders no longer has lasts; orders no longer has tags"
    assert recorded.checks()["recorded_orders"].detail == told
    incident.sql("ALTER TABLE orders DROP exchange_order_id")
    assert recorded.failed()["recorded_orders"].startswith("orders no longer has exchange_order_id; note: ")


def test_a_column_of_another_scale_or_with_a_zone_holds_the_same(incident, tmp_path) -> None:
    incident.create_table(EXTENDED | {"fee": "numeric DEFAULT 0.1", "seen_at": "timestamp DEFAULT now()"})
    incident.ghost("T1")
    recorded = Recorded(incident, tmp_path / "odd")
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        recorded.run(stage)
    incident.approve(batch="odd")
    recorded.run(Stage.APPLY)
    incident.sql("ALTER TABLE orders ALTER fee TYPE numeric(20, 8)")
    incident.sql("ALTER TABLE orders ALTER seen_at TYPE timestamptz USING seen_at AT TIME ZONE 'UTC'")
    incident.sql("ALTER TABLE orders ALTER quantity TYPE numeric(30, 10)")
    assert recorded.failed() == {}
    assert recorded.checks()["recorded_orders"].detail == "1 row as in record/03_apply/orders.csv"


SECRET = "quantity-of-mercy"


def test_a_secret_that_stands_in_a_row_is_neither_a_difference_nor_shown(incident, tmp_path, monkeypatch) -> None:
    """What was struck out of a record cannot be compared; what is around it is."""
    given = {"recon_exchange_api_key": SECRET, "recon_trading_status_token": "quantity"}
    incident.create_table(EXTENDED | {"account": "text NOT NULL"})
    incident.ghost("T1", account=f"of {SECRET}")
    recorded = Recorded(incident, tmp_path / "odd")
    plain = recorded.settings.model_dump() | {"recon_database_url": with_password(incident.url)}
    using = Settings(_env_file=None, **(plain | given))  # type: ignore[call-arg]
    monkeypatch.setattr(Recorded, "settings", using)
    for stage in (Stage.DETECT, Stage.DRY_RUN):
        recorded.run(stage)
    incident.approve(batch="odd")
    recorded.run(Stage.APPLY)
    assert "of ***" in (recorded.folder / RECORD / "03_apply" / "orders.csv").read_text()
    assert recorded.failed() == {}
    incident.sql("UPDATE orders SET account = account || '!' WHERE order_id LIKE 'BFILL-%%'")
    assert recorded.failed() == {}
    incident.sql("UPDATE orders SET account = 'by ' || account WHERE order_id LIKE 'BFILL-%%'")
    [told] = recorded.failed().values()
    assert told.endswith(" has account by of ***!, recorded of ***")


def test_a_record_without_the_facts_that_came_later_is_compared_as_far_as_it_goes(first) -> None:
    """Kept by an earlier recon: who began the batch, and its stamps, were not recorded."""
    first.run(Stage.APPLY)
    for path in first.folder.glob(f"{RECORD}/*/run.json"):
        run = json.loads(path.read_bytes())
        del run["stamps"], run["cells"]["created_by"]
        path.chmod(0o644)
        path.write_text(json.dumps(run, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    covered_up(writable(first.folder))
    assert first.failed() == {}
    assert first.checks()["recorded_batch"].detail == "as in record/03_apply: scope, plan, created_at and approvals"
