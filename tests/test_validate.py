"""Validate: the runbook's section 8, asked anew, without trusting what apply said."""

from __future__ import annotations

from decimal import Decimal

import pytest
from incidents import NOW, Incident, at

from recon.domain import Check, StageResult, Verdict
from recon.reporting.prose import closing

CHECKS = ["open_quantities", "no_target_over_closed", "applied_rows_identical", "exchange_agrees"]


def failed(result: StageResult) -> list[str]:
    return [check.name for check in result.checks if not check.ok]


def detail(result: StageResult, name: str) -> str:
    [found] = [check for check in result.checks if check.name == name]
    assert isinstance(found, Check)
    return found.detail


def test_a_sound_repair_passes_every_check(incident_each_version: Incident) -> None:
    incident = incident_each_version.create_table()
    incident.ghost("t1")
    incident.ghost("t2", "2", symbol="ETH/USD", short=True)
    incident.repair()
    before = incident.orders()
    result = incident.run("validate")
    assert (result.verdict, [check.name for check in result.checks], failed(result)) == (Verdict.DONE, CHECKS, [])
    assert result.counts == {"APPLIED": 2, "DRY_RUN": 2, "PENDING_APPLY": 2}
    assert list(result.tables["targets"].rows) == [
        ("BTC/USD", "t1", Decimal(1), Decimal(1), Decimal(0), Decimal(0)),
        ("ETH/USD", "t2", Decimal(2), Decimal(2), Decimal(0), Decimal(0)),
    ]
    assert (incident.orders(), incident.state()) == (before, "validated")


def test_it_needs_no_flag_and_no_pause(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.repair()
    incident.switch.word = "RUNNING"
    work = incident.work(enable_recon_exit_backfill=False, recon_exit_backfill_dry_run=True)
    assert incident.run("validate", work=work).verdict is Verdict.DONE


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            "UPDATE orders SET status = 'canceled' WHERE order_id LIKE 'BFILL-%%'",
            ["open_quantities", "applied_rows_identical"],
        ),
        ("DELETE FROM orders WHERE order_id LIKE 'BFILL-%%'", ["open_quantities", "applied_rows_identical"]),
        ("UPDATE orders SET price = 1 WHERE order_id LIKE 'BFILL-%%'", ["applied_rows_identical"]),
        ("UPDATE orders SET quantity = 2, qty = 2 WHERE order_id = 'entry-t1'", ["open_quantities"]),
        (
            "INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, filled_at) "
            "VALUES ('late', 'main', 'BTC/USD', 't1', 'EXIT', 'filled', 1, now())",
            ["open_quantities", "no_target_over_closed"],
        ),
    ],
)
def test_each_way_in_which_a_repair_can_be_undone_is_seen(incident: Incident, spoil: str, expected: list[str]) -> None:
    """Each fails by name, the batch goes back to applied, and passes again once it is put right."""
    incident.create_table().ghost("t1")
    incident.repair()
    assert incident.run("validate").verdict is Verdict.DONE
    incident.sql("CREATE TABLE kept AS SELECT * FROM orders")
    incident.sql(spoil)
    result = incident.run("validate")
    assert (result.verdict, result.code) == (Verdict.FAILED, "validation_failed")
    assert set(expected) <= set(failed(result))
    assert set(failed(result)) <= {*expected, "exchange_agrees"}
    told = repr(closing(result))
    assert "code `validation_failed`" in told
    assert "Checks that hold on 1 target: " in told
    assert "were not read" not in told
    assert incident.state() == "applied"
    incident.sql("TRUNCATE orders")
    incident.sql("INSERT INTO orders SELECT * FROM kept")
    assert incident.run("validate").verdict is Verdict.DONE
    assert incident.state() == "validated"


def test_what_was_not_read_is_not_told_as_read(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    result = incident.run("validate")
    assert result.code == "illegal_transition"
    assert "tables without rows were not read" in repr(closing(result))


def test_an_applied_audit_row_without_its_order_row_is_seen(incident: Incident) -> None:
    """Validate believes neither side: an APPLIED row that no item of the plan explains fails too."""
    incident.create_table().ghost("t1")
    incident.repair()
    incident.tamper(
        """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id, filled_qty)
           VALUES (%s, 'main', 'APPLIED', 'BFILL-invented', 1)""",
        incident.batch,
    )
    result = incident.run("validate")
    assert failed(result) == ["applied_rows_identical"]
    assert "BFILL-invented is not in the approved plan" in detail(result, "applied_rows_identical")


@pytest.mark.parametrize(
    "change", ["price = 1", "filled_qty = 2", "reason = 'because'", "exchange_order_id = NULL", "trade_id = 't9'"]
)
def test_an_applied_audit_row_that_was_altered_is_seen(incident: Incident, change: str) -> None:
    incident.create_table().ghost("t1")
    incident.repair()
    incident.tamper(f"UPDATE reconciliation_backfill_audit SET {change} WHERE decision = 'APPLIED'")
    result = incident.run("validate")
    assert "applied_rows_identical" in failed(result)
    assert "is audited with other content" in detail(result, "applied_rows_identical")


def test_an_applied_audit_row_that_was_lost_is_seen(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.repair()
    incident.tamper("DELETE FROM reconciliation_backfill_audit WHERE decision = 'APPLIED'")
    result = incident.run("validate")
    assert failed(result) == ["open_quantities"]
    assert detail(result, "open_quantities") == "t1 expected 1, found 0"


def test_the_exchange_must_agree_on_what_is_fully_repaired(incident: Incident) -> None:
    """A position that appeared since the apply is a disagreement; unknown positions are no yes (invariant 10)."""
    incident.create_table().ghost("t1")
    incident.repair()
    incident.hold("BTC/USD", "0.25")
    result = incident.run("validate")
    assert failed(result) == ["exchange_agrees"]
    assert "orders 0, exchange 0.25" in detail(result, "exchange_agrees")
    incident.positions = None
    incident.write_statement()
    assert failed(incident.run("validate")) == ["exchange_agrees"]
    incident.positions = []
    incident.write_statement()
    assert incident.run("validate").verdict is Verdict.DONE


def test_an_exchange_that_cannot_be_read_is_no_reason_to_roll_back(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.repair()
    statement = incident.folder / "fills.csv"
    kept = statement.read_bytes()
    statement.write_text("nonsense")
    result = incident.run("validate")
    assert (result.verdict, result.code) == (Verdict.FAILED, "validation_failed")
    assert (result.message or "").endswith("; make the exchange readable and validate again.")
    statement.write_bytes(kept)
    incident.row("late", "t1", "EXIT", "1", 90)
    assert "; roll back, or put it right" in (incident.run("validate").message or "")


def test_an_acknowledged_remainder_is_listed_not_failed(incident: Incident) -> None:
    incident.create_table().ghost("t1", "1", filled="0.6")
    incident.repair("t1=moved")
    result = incident.run("validate")
    assert result.verdict is Verdict.DONE
    assert list(result.tables["runbook_open"].rows) == [("BTC/USD", "t1", Decimal(1), Decimal("0.6"), Decimal("0.4"))]
    assert list(result.tables["acknowledgements"].rows) == [("t1", "moved", "a reviewer")]


def test_other_trades_that_changed_since_the_dry_run_are_notes(incident: Incident) -> None:
    """Rows of other trades, and over-closed ones, are told and fail nothing."""
    incident.create_table().ghost("t1")
    for trade in ("changed", "gone", "kept"):
        incident.row(f"e-{trade}", trade, "ENTRY", "1", symbol="ETH/USD")
        incident.row(f"x-{trade}", trade, "EXIT", "1", 1, symbol="ETH/USD")
    incident.repair()
    incident.sql("UPDATE orders SET price = 5 WHERE order_id = 'x-changed'")
    incident.sql("DELETE FROM orders WHERE trade_id = 'gone'")
    incident.row("new", "new", "ENTRY", "1", 2, symbol="DOT/USD")
    incident.row("x", "over", "EXIT", "1", 2, symbol="ADA/USD")
    incident.hold("DOT/USD", "1")
    result = incident.run("validate")
    assert result.verdict is Verdict.DONE, result.message
    assert list(result.tables["other_changes"].rows) == [("changed",), ("gone",), ("new",), ("over",)]
    assert list(result.tables["over_closed"].rows) == [("ADA/USD", "over", Decimal(1))]
    assert incident.sql(
        "SELECT symbol FROM reconciliation_events WHERE batch_id = %s AND symbol LIKE 'ADA%%'", incident.batch
    ) == [("ADA/USD",)]


def test_events_before_and_after_are_counted(incident: Incident) -> None:
    incident.create_table()
    incident.row("alone", "t9", "ENTRY", "1", symbol="ETH/USD")
    incident.run("detect", "earlier", work=incident.work(now=at(0)))
    incident.ghost("t1")
    incident.repair("t9=known")
    incident.run("validate")
    rows = dict(incident.run("validate").tables["events"].rows)
    assert sum(int(str(count)) for count in rows.values()) == len(incident.sql("SELECT 1 FROM reconciliation_events"))
    assert rows["up to the first detect"] == 3


def test_validate_comes_after_apply(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.plan()
    assert incident.run("validate").code == "illegal_transition"
    assert incident.state() == "approved"


def test_validating_again_is_safe(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.repair()
    first = incident.run("validate", work=incident.work(now=NOW))
    again = incident.run("validate", work=incident.work(now=NOW))
    assert (first.checks, first.tables["targets"]) == (again.checks, again.tables["targets"])
