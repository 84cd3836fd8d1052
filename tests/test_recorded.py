"""What the last run recorded, held against a database in which other batches, and stages without a report, went on."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import nbformat
import pytest
from console import with_password
from incidents import NOW, Incident
from report_samples import executed

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
    assert checks["recorded_batch"].detail == "as in record/02_dry_run: created_at"


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
