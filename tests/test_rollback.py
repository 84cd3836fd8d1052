"""Rollback: all or none of the rows that the batch owns, by status alone; and what others own stays."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from incidents import NOW, Incident, at

from recon.domain import Reason, StageResult, Verdict
from recon.identity import backfill_order_id

ORDER_ID = backfill_order_id("main", "t1", "exit-t1", at(60))
"""The row that repairs the ghost t1."""


def refused(incident: Incident, code: str) -> StageResult:
    """Rollback, refused with the code and with not a byte written."""
    before = incident.everything()
    result = incident.run("rollback")
    assert (result.verdict, result.code) == (Verdict.NO_GO, code), result.message
    assert incident.everything() == before
    return result


def three(incident: Incident) -> Incident:
    """Three ghosts, repaired: two of one unit, one with dust."""
    incident.create_table().ghost("t1")
    incident.row("e2", "t2", "ENTRY", "2", 0, symbol="ETH/USD")
    incident.row("e3", "t3", "ENTRY", "1.001", 1, symbol="ETH/USD")
    incident.fill("X", "3", 60, symbol="ETH/USD")
    incident.repair()
    return incident


def test_a_rollback_restores_every_lifecycle_exactly(incident_each_version: Incident) -> None:
    """Invariants 1 and 8: rollback(apply(x)) = x; nothing deleted, and only status and updated_at of the own rows."""
    incident = incident_each_version
    incident.profile = "main"
    three(incident)
    content, bystanders = incident.backfill_content(), incident.bystanders()
    result = incident.run("rollback", work=incident.work(now=NOW + timedelta(hours=1)))
    assert (result.verdict, result.code, result.counts) == (Verdict.DONE, None, {"CANCELED": 4, "LEFT_ALONE": 0})
    assert all(check.ok for check in result.checks)
    assert incident.open_quantities() == {"t1": 1, "t2": 2, "t3": Decimal("1.001")}
    assert (incident.backfill_content(), incident.bystanders()) == (content, bystanders)
    assert {(row["status"], row["updated_at"]) for row in incident.backfills()} == {
        ("canceled", NOW + timedelta(hours=1))
    }
    assert incident.state() == "rolled_back"


def test_apply_works_again_after_it_under_a_new_batch(incident: Incident) -> None:
    """Invariant 8: the canceled rows are reinstated by status alone, as APPLIED rows of the new batch."""
    three(incident)
    content = incident.backfill_content()
    incident.run("rollback")
    planned = incident.plan(batch="second")
    assert {item.reason for item in planned.items} == {Reason.REINSTATE}
    assert incident.run("apply", "second").counts == {"APPLIED": 4}
    assert (incident.open_quantities(), incident.statuses()) == ({}, ["filled"] * 4)
    assert incident.backfill_content() == content
    assert incident.run("validate", "second").verdict is Verdict.DONE
    assert incident.run("rollback", "second").counts == {"CANCELED": 4, "LEFT_ALONE": 0}
    assert incident.open_quantities().keys() == {"t1", "t2", "t3"}


def test_rolled_back_is_final(incident: Incident) -> None:
    """The repair is planned again under a new batch_id; a second rollback is DONE and does nothing."""
    three(incident)
    assert incident.run("rollback").verdict is Verdict.DONE
    before = incident.everything()
    for stage in ("detect", "dry-run", "apply", "validate"):
        assert incident.run(stage).code == "illegal_transition", stage
    incident.switch.word = "RUNNING"
    again = incident.run("rollback", work=incident.work(now=NOW + timedelta(days=9)))
    assert (again.verdict, again.counts) == (Verdict.DONE, {"CANCELED": 0, "LEFT_ALONE": 0})
    assert again.message == "the batch was rolled back before; nothing was written"
    assert incident.everything() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE orders SET status = 'canceled' WHERE order_id = '{0}'", "has status 'canceled'"),
        ("UPDATE orders SET status = 'partially_filled' WHERE order_id = '{0}'", "has status 'partially_filled'"),
        ("UPDATE orders SET qty = 0.5 WHERE order_id = '{0}'", "differs in qty"),
        ("UPDATE orders SET price = price + 1 WHERE order_id = '{0}'", "differs in price"),
        ("UPDATE orders SET exchange_order_id = 'X9' WHERE order_id = '{0}'", "differs in exchange_order_id"),
        ("DELETE FROM orders WHERE order_id = '{0}'", "is missing"),
    ],
)
def test_one_row_that_is_not_as_written_stops_them_all(incident: Incident, change: str, said: str) -> None:
    """Compare and set, all or none: the other three rows stay filled."""
    three(incident)
    incident.sql(change.format(ORDER_ID))
    assert f"{ORDER_ID} {said}" in (refused(incident, "row_changed").message or "")
    assert incident.statuses().count("filled") >= 3


def test_a_change_of_updated_at_alone_is_no_change(incident: Incident) -> None:
    """Backends touch it; the row is still as written."""
    three(incident)
    incident.sql("UPDATE orders SET updated_at = now()")
    assert incident.run("rollback").counts == {"CANCELED": 4, "LEFT_ALONE": 0}


def test_it_needs_the_pause_but_no_flag(incident: Incident) -> None:
    """The switch is asked under the locks and again before COMMIT, as for an apply."""
    three(incident)
    for answers, code in (
        (["RUNNING"], "profile_not_paused"),
        (["PAUSED", "RUNNING"], "profile_not_paused"),
        (["PAUSED", ""], "pause_unknown"),
    ):
        incident.switch.script = [*answers]
        refused(incident, code)
    work = incident.work(enable_recon_exit_backfill=False, recon_exit_backfill_dry_run=True)
    assert incident.run("rollback", work=work).verdict is Verdict.DONE


def test_before_an_apply_there_is_nothing_to_roll_back(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    for prepare in (lambda: None, lambda: incident.run("detect"), lambda: incident.run("dry-run"), incident.approve):
        prepare()
        refused(incident, "illegal_transition")


def test_a_validated_batch_can_be_rolled_back(incident: Incident) -> None:
    three(incident)
    assert incident.run("validate").verdict is Verdict.DONE
    assert incident.run("rollback").verdict is Verdict.DONE


# Rows that another batch owns


def _canceled_and_reinstated(incident: Incident) -> None:
    """A applies t1 and t2; somebody cancels t1's row; B reinstates it and so owns it."""
    incident.create_table().ghost("t1")
    incident.ghost("t2", symbol="ETH/USD")
    incident.repair(batch="A")
    incident.sql("UPDATE orders SET status = 'cancelled' WHERE order_id = %s", ORDER_ID)
    reinstated = incident.repair(batch="B", work=incident.work(now=NOW + timedelta(minutes=1)))
    assert [(item.trade_id, item.reason) for item in reinstated.items] == [("t1", Reason.REINSTATE)]


def test_rows_that_another_live_batch_owns_survive(incident_each_version: Incident) -> None:
    """The departure from the runbook: canceling them would reopen B's ghost. They are listed and left alone."""
    incident = incident_each_version
    _canceled_and_reinstated(incident)
    result = incident.run("rollback", "A")
    assert (result.verdict, result.counts) == (Verdict.DONE, {"CANCELED": 1, "LEFT_ALONE": 1})
    assert list(result.tables["left_alone"].rows) == [(ORDER_ID, "B")]
    assert incident.open_quantities() == {"t2": Decimal(1)}
    assert incident.run("validate", "B").verdict is Verdict.DONE
    assert incident.run("rollback", "B").counts == {"CANCELED": 1, "LEFT_ALONE": 0}
    assert incident.open_quantities() == {"t1": Decimal(1), "t2": Decimal(1)}


def test_ownership_returns_to_the_first_batch_when_the_second_is_rolled_back(incident: Incident) -> None:
    """B's row is canceled with B; A, which wrote it, then finds it changed and changes nothing: all or none."""
    incident.profile = "main"
    _canceled_and_reinstated(incident)
    assert incident.run("rollback", "B").counts == {"CANCELED": 1, "LEFT_ALONE": 0}
    before = incident.everything()
    result = incident.run("rollback", "A")
    assert (result.code, "has status 'canceled'" in (result.message or "")) == ("row_changed", True)
    assert incident.everything() == before


def test_a_batch_that_only_skipped_cancels_nothing(incident: Incident) -> None:
    """The runbook's own statement would cancel them and reopen A's ghosts; the control counts what it would hit."""
    incident.create_table().ghost("t1")
    incident.repair(batch="A")
    incident.row("e9", "t9", "ENTRY", "1", symbol="DOT/USD")
    incident.fill("X9", "1", 60, symbol="DOT/USD")
    incident.repair(batch="B")
    incident.tamper(
        """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id)
           VALUES ('B', 'main', 'SKIP_EXISTING', %s)""",
        ORDER_ID,
    )
    hit = incident.sql(
        """SELECT count(*) FROM orders WHERE order_id IN (SELECT backfill_order_id FROM reconciliation_backfill_audit
           WHERE batch_id = 'B' AND decision IN ('APPLIED', 'SKIP_EXISTING'))"""
    )
    assert hit == [(2,)]
    result = incident.run("rollback", "B")
    assert (result.counts, list(result.tables["left_alone"].rows)) == (
        {"CANCELED": 1, "LEFT_ALONE": 1},
        [(ORDER_ID, "A")],
    )
    assert incident.open_quantities() == {"t9": Decimal(1)}


def test_an_applied_row_that_the_plan_does_not_know_is_refused(incident: Incident) -> None:
    """Somebody else's audit row under this batch_id: what it stands for cannot be compared, so nothing is changed."""
    three(incident)
    incident.tamper(
        """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id)
           VALUES (%s, 'main', 'APPLIED', 'BFILL-invented')""",
        incident.batch,
    )
    assert "BFILL-invented is not in the approved plan" in (refused(incident, "row_changed").message or "")


def test_ordinary_rows_can_never_be_canceled(incident: Incident) -> None:
    """Invariant 1: even an audit row that names an ENTRY row does not make rollback touch it."""
    three(incident)
    incident.tamper("UPDATE reconciliation_backfill_audit SET backfill_order_id = 'entry-t1' WHERE trade_id = 't1'")
    before = incident.bystanders()
    assert incident.run("rollback").code == "row_changed"
    assert incident.bystanders() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET price = 0 WHERE order_id = 'entry-t1'",
        "UPDATE orders SET status = 'new' WHERE order_id = old.order_id",
        "UPDATE orders SET price = 0 WHERE order_id = old.order_id AND price > 0",
    ],
)
def test_anything_else_that_changes_with_it_rolls_everything_back(incident: Incident, statement: str) -> None:
    """Invariants 1 and 8 are checked in SQL before the commit: a trigger that writes along is refused.

    It has rights of its own: behind the doors it could not write otherwise.
    """
    three(incident)
    incident.sql(
        f"""CREATE FUNCTION along() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN {statement}; RETURN new; END $$"""
    )
    incident.sql(
        """CREATE TRIGGER writing_along AFTER UPDATE ON orders FOR EACH ROW
           WHEN (new.status = 'canceled') EXECUTE FUNCTION along()"""
    )
    before = incident.everything()
    result = incident.run("rollback")
    assert (result.verdict, result.code) == (Verdict.FAILED, "invariant_violated")
    assert incident.everything() == before
    incident.sql("DROP TRIGGER writing_along ON orders")
    assert incident.run("rollback").verdict is Verdict.DONE


def test_an_acknowledged_remainder_stays_as_it_was(incident: Incident) -> None:
    incident.create_table().ghost("t1", "1", filled="0.6")
    incident.repair("t1=moved")
    assert incident.open_quantities() == {"t1": Decimal("0.4")}
    assert incident.run("rollback").verdict is Verdict.DONE
    assert incident.open_quantities() == {"t1": Decimal(1)}
