"""Apply: exactly the approved rows in one transaction, or nothing at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from incidents import EXTENDED, NOW, UNIQUE, Incident, at

from recon.domain import Grade, Reason, StageResult, Verdict
from recon.identity import backfill_order_id
from recon.pause import read_pause
from recon.plan import Scope
from recon.venues import TableExchange

ORDER_ID = backfill_order_id("main", "t1", "exit-t1", at(60))
"""The row that repairs the ghost t1."""


def refused(incident: Incident, code: str, **flags: object) -> StageResult:
    """Apply, refused with the code and with not a byte written."""
    before = incident.everything()
    result = incident.run("apply", work=incident.work(**flags))
    assert (result.verdict, result.code) == (Verdict.NO_GO, code), result.message
    assert incident.everything() == before
    return result


def test_apply_writes_exactly_the_approved_plan(incident_each_version: Incident) -> None:
    """Invariants 1, 3, 5 and 7 on three trades: linked, exact and fifo evidence; every other row as it was."""
    incident = incident_each_version.create_table()
    incident.ghost("linked", "2", symbol="A/USD", order="shared")
    incident.row("mark", "linked", "EXIT", "2", 5, symbol="A/USD", status="failed", exchange_order_id="shared")
    incident.ghost("exact", "3", symbol="B/USD", short=True)
    incident.row("f1", "fifo", "ENTRY", "1", 0, symbol="C/USD")
    incident.row("f2", "fifo-2", "ENTRY", "1", 1, symbol="C/USD")
    incident.fill("X", "2", 60, symbol="C/USD")
    incident.row("closed", "c", "ENTRY", "1", 0, status="canceled", symbol="A/USD")
    incident.row("theirs", "linked", "ENTRY", "7", 0, profile_id="other", symbol="A/USD")
    bystanders = incident.bystanders()
    planned = incident.plan()
    applied = incident.run("apply")
    assert (applied.verdict, applied.plan_digest) == (Verdict.DONE, planned.plan_digest)
    assert all(check.ok for check in applied.checks)
    assert {check.name for check in applied.checks} == {
        "approved", "pause_confirmed", "open_quantities", "other_rows_unchanged", "evidence_spent_once",
    }  # fmt: skip
    by_trade = {item.trade_id: item for item in planned.items}
    assert {trade: item.grade for trade, item in by_trade.items()} == {
        "linked": Grade.LINKED, "exact": Grade.EXACT, "fifo": Grade.FIFO, "fifo-2": Grade.FIFO,
    }  # fmt: skip
    for row in incident.backfills():
        item = by_trade[row["trade_id"]]
        assert (row["order_id"], row["symbol"], row["exchange_order_id"]) == (
            item.order_id, item.symbol, item.exchange_order_id,
        )  # fmt: skip
        assert (row["quantity"], row["qty"], row["price"], row["filled_at"]) == (
            item.qty,
            item.qty,
            item.price,
            item.filled_at,
        )
        assert (row["action"], row["status"], row["side"]) == ("EXIT", "filled", item.side)
        assert (row["created_at"], row["updated_at"], row["client_order_id"]) == (NOW, NOW, None)
    assert (incident.open_quantities(), incident.bystanders()) == ({}, bystanders)
    assert incident.state() == "applied"
    assert [row[2:] for row in applied.tables["invariants"].rows if row[1] == "exact"] == [(3, 3, 0)]


# Flags and gates


def test_the_flags_must_allow_it(incident: Incident) -> None:
    """Both defaults refuse; with both set, the same apply is done."""
    incident.create_table().ghost("t1")
    incident.plan()
    refused(incident, "backfill_disabled", enable_recon_exit_backfill=False)
    refused(incident, "dry_run_only", recon_exit_backfill_dry_run=True)
    assert incident.run("apply").verdict is Verdict.DONE


def test_unapproved_and_unknown_are_refused(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    refused(incident, "illegal_transition")
    incident.run("detect")
    refused(incident, "illegal_transition")
    incident.run("dry-run")
    refused(incident, "illegal_transition")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (["RUNNING"], "profile_not_paused"),
        (["PAUSED", "RUNNING"], "profile_not_paused"),
        ([""], "pause_unknown"),
        (["PAUSED", "{}"], "pause_unknown"),
        (["PAUSED", '{"profiles": {"other": "PAUSED"}}'], "pause_unknown"),
    ],
)
def test_a_pause_that_is_lifted_before_or_during_apply_leaves_nothing(
    incident: Incident, answers: list[str], code: str
) -> None:
    """The switch is asked right after the locks and right before COMMIT, one attempt each."""
    incident.create_table().ghost("t1")
    incident.plan()
    asked = incident.switch.asked
    incident.switch.script = [*answers]
    result = refused(incident, code)
    assert incident.switch.asked == asked + len(answers)
    assert "Nothing was written" in (result.message or "")
    assert incident.run("apply").verdict is Verdict.DONE, "the control: paused all along"
    assert incident.switch.asked == asked + len(answers) + 2


def test_a_switch_that_answers_too_late_is_unknown(incident: Incident, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds, then everything is rolled back: the locks are not held for a server that hangs."""
    incident.create_table().ghost("t1")
    incident.plan()
    monkeypatch.setattr("recon.workspace.read_pause", read_pause)
    over = threading.Event()

    def late() -> str:
        over.wait(60)
        return "PAUSED"

    incident.switch.script = ["PAUSED", late]
    try:
        assert "within 2 s" in (refused(incident, "pause_unknown").message or "")
    finally:
        over.set()


def test_a_waived_pause_is_not_asked_to_be_paused_but_told(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.plan()
    incident.switch.word = "RUNNING"
    refused(incident, "profile_not_paused")
    applied = incident.run("apply", work=incident.work(recon_exit_backfill_require_pause=False))
    assert applied.verdict is Verdict.DONE


# A plan gone stale (invariant 7)


def _fill_again(incident: Incident) -> None:
    incident.fills[0]["qty"] = "0.9"
    incident.write_statement()


STALE: dict[str, tuple[Callable[[Incident], object], str]] = {
    "a row of the trade": (
        lambda incident: incident.sql("UPDATE orders SET price = 99 WHERE order_id = 'entry-t1'"), "rows of BTCUSD",
    ),
    "a row of another trade on the symbol": (
        lambda incident: incident.row("new", "t9", "ENTRY", "1", 200, symbol="BTC-USD"),
        "targets, items, rows of BTCUSD",
    ),
    "a row that vanished": (
        lambda incident: incident.sql("DELETE FROM orders WHERE order_id = 'bystander'"), "rows of BTCUSD",
    ),
    "the real EXIT": (lambda incident: incident.row("late", "t1", "EXIT", "1", 60), "targets, items"),
    "a fill": (_fill_again, "items, evidence of BTCUSD"),
    "a new fill inside the window": (lambda incident: incident.fill("Y", "1", 90), "evidence of BTCUSD"),
    "a position": (lambda incident: incident.hold("BTC/USD", "0.1"), "items, positions of BTCUSD"),
    "positions no longer known": (
        lambda incident: (setattr(incident, "positions", None), incident.write_statement()),
        "items, positions of BTCUSD",
    ),
    "an open order": (
        lambda incident: (
            incident.open_orders.append(
                {"exchange_order_id": "W", "client_order_id": "", "symbol": "BTCUSD", "side": "sell", "qty": "1",
                 "filled_qty": "0", "created_at": at(1).isoformat()}
            ),
            incident.write_statement(),
        ),
        "items, open_orders of BTCUSD",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), STALE.values(), ids=STALE.keys())
def test_a_plan_whose_facts_changed_is_stale(
    incident: Incident, change: Callable[[Incident], object], said: str
) -> None:
    """Nothing is written, and the batch must be planned anew: its approval is void, and stays to be read."""
    incident.create_table().ghost("t1")
    incident.row("bystander", "t8", "ENTRY", "1", status="expired")
    incident.plan()
    change(incident)
    orders, trail = incident.orders(), incident.audit("*")
    kept = "SELECT batch_id, profile_id, scope, plan, plan_digest, approval, created_at FROM reconciliation_batches"
    before = incident.sql(kept)
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "stale_plan")
    assert said in (result.message or "")
    assert (incident.orders(), incident.audit("*")) == (orders, trail)
    assert (incident.state(), incident.sql(kept)) == ("planned", before)
    assert incident.run("apply").code == "illegal_transition"


@pytest.mark.parametrize(
    "flags",
    [
        {"recon_exit_backfill_dust_abs_qty": Decimal("0.002")},
        {"recon_exit_backfill_dust_rel_pct": Decimal("0.003")},
        {"recon_exit_backfill_base_fee": True},
    ],
)
def test_a_setting_that_decides_makes_the_plan_stale(incident: Incident, flags: dict[str, object]) -> None:
    incident.create_table().ghost("t1")
    incident.plan()
    result = incident.run("apply", work=incident.work(**flags))
    assert (result.code, "rules" in (result.message or "")) == ("stale_plan", True)
    assert (incident.state(), incident.backfills()) == ("planned", [])


def test_what_does_not_decide_leaves_the_plan_as_it_is(incident: Incident) -> None:
    """Actor, clock, pages, fetch time, lookback, other symbols, other profiles, fills outside the window, fees."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.row("elsewhere", "t9", "ENTRY", "1", symbol="ETH/USD", status="canceled")
    incident.row("foreign", "t1", "EXIT", "1", profile_id="other")
    incident.fill("after", "1", 60 * 27 + 1)
    incident.fills[0]["fee"], incident.fills[0]["fee_currency"] = "0.5", "USD"
    incident.fills.reverse()
    incident.about = '{"venue": "somewhere", "fetched_at": "2026-03-02T11:59:00Z"}'
    incident.write_statement()
    work = incident.work(
        now=NOW + timedelta(hours=2), recon_actor="another", recon_exit_backfill_lookback_hours=72,
        exchange_state_mismatch_throttle_ms=1, recon_max_batch_rows=1,
    )  # fmt: skip
    assert incident.run("apply", work=work).counts == {"APPLIED": 1}


def test_the_same_evidence_from_tables_is_the_same_plan(incident: Incident) -> None:
    """Planned on the statement, applied on two tables with the same content: the source's name decides nothing."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.sql(
        """CREATE TABLE fills AS SELECT 'main' AS profile_id, 'f1' AS fill_id, 'exit-t1' AS exchange_order_id,
           '' AS client_order_id, 'BTC-USD' AS symbol, 'SELL' AS side, 1.000 AS qty, 110 AS price, NULL::numeric AS fee,
           '' AS fee_currency, %s::timestamptz AS filled_at""",
        at(60),
    )
    incident.sql("CREATE TABLE positions AS SELECT 'main' AS profile_id, 'BTCUSD' AS symbol, 0 AS qty")
    exchange = TableExchange(incident.engine, "fills", "positions")
    work = replace(incident.work(), exchange=exchange)
    assert incident.run("apply", work=work).counts == {"APPLIED": 1}
    assert incident.run("validate", work=work).verdict is Verdict.DONE


def test_evidence_is_not_spent_by_two_batches(incident: Incident) -> None:
    """Invariant 6: of two narrowed batches on one symbol the second is stale; planned anew it finds the rest spent."""
    incident.create_table()
    incident.row("e1", "t1", "ENTRY", "1", 0)
    incident.row("e2", "t2", "ENTRY", "1", 1)
    incident.fill("X", "1.4", 60)
    works = {f"b{number}": incident.work(scope=Scope(trade_ids=(f"t{number}",))) for number in (1, 2)}
    incident.plan(batch="b1", work=works["b1"])
    incident.plan("t2=partly", batch="b2", work=works["b2"])
    assert incident.run("apply", "b1", work=works["b1"]).counts == {"APPLIED": 1}
    assert incident.run("apply", "b2", work=works["b2"]).code == "stale_plan"
    incident.repair("t2=partly", batch="b2", work=works["b2"])
    assert {row["trade_id"]: row["quantity"] for row in incident.backfills()} == {"t1": 1, "t2": Decimal("0.4")}
    assert incident.open_quantities() == {"t2": Decimal("0.6")}


def test_a_real_exit_has_spent_its_fill(incident: Incident) -> None:
    """Invariant 6: the fill of a booked EXIT closes nothing else, with an exchange order id and without one."""
    for number, columns in enumerate((EXTENDED, {k: v for k, v in EXTENDED.items() if k != "exchange_order_id"})):
        incident.sql("DROP TABLE IF EXISTS orders CASCADE")
        incident.create_table(columns)
        incident.row("e1", "booked", "ENTRY", "1", 0)
        incident.row("x1", "booked", "EXIT", "1", 60)
        incident.row("e2", "ghost", "ENTRY", "1", 5)
        incident.fills = []
        incident.fill("X-x1", "1", 60)
        incident.run("detect", f"b{number}")
        assert {item.reason for item in incident.run("dry-run", f"b{number}").items} == {Reason.MISSING_FILL_EVIDENCE}


# The id is taken


def test_an_id_that_another_profile_holds_is_refused(incident: Incident) -> None:
    """Under a global unique index the row is in the way though the profile cannot see it."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.row(ORDER_ID, "foreign", "EXIT", "1", profile_id="other")
    result = refused(incident, "existing_row_differs")
    assert ORDER_ID in (result.message or "")


@pytest.mark.parametrize("status", ["filled", "canceled", "new"])
def test_an_id_with_other_content_is_an_error_not_a_skip(incident: Incident, status: str) -> None:
    """Invariant 4: planned anew it is NO_GO existing_row_differs, whatever the row's status."""
    incident.create_table().ghost("t1")
    incident.row(ORDER_ID, "t1", "EXIT", "0.4", 60, status=status, exchange_order_id="exit-t1", price="110")
    incident.run("detect")
    result = incident.run("dry-run")
    assert result.verdict is Verdict.NO_GO
    assert Reason.EXISTING_ROW_DIFFERS in {item.reason for item in result.items}


def test_a_row_on_another_symbol_that_holds_the_id_is_refused_inside_the_transaction(incident: Incident) -> None:
    """The plan does not read that symbol, so only the comparison after the insert can see it."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.row(ORDER_ID, "t9", "EXIT", "1", 60, symbol="ZZZ/USD", price="110")
    assert "symbol, trade_id" in (refused(incident, "existing_row_differs").message or "")


def test_a_trigger_that_alters_the_inserted_row_is_noticed(incident: Incident) -> None:
    """What was inserted is compared column by column, not trusted; a door lets no such row in."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.sql(
        """CREATE FUNCTION shave() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN new.price := new.price - 0.000000000001; RETURN new; END $$"""
    )
    incident.sql("CREATE TRIGGER shaving BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION shave()")
    code, said = ("door_closed", "_insert") if incident.behind_doors else ("existing_row_differs", "(price)")
    assert said in (refused(incident, code).message or "")


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE orders SET price = 0 WHERE order_id = 'entry-t1'", "other_rows_unchanged"),
        ("UPDATE orders SET updated_at = now() WHERE order_id = 'elsewhere'", "other_rows_unchanged"),
        ("DELETE FROM orders WHERE order_id = 'elsewhere'", "other_rows_unchanged"),
        ("INSERT INTO orders (order_id, profile_id) VALUES ('x', 'main')", "other_rows_unchanged"),
        (
            "INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, filled_at) "
            "VALUES ('x', 'main', 'BTC/USD', 't1', 'EXIT', 'filled', 1, now())",
            "open_quantities",
        ),
    ],
)
def test_anything_else_that_changes_with_the_insert_rolls_everything_back(
    incident: Incident, statement: str, check: str
) -> None:
    """Invariants 1 and 5, checked in SQL before the commit: a trigger of the backend writes along, and is refused.

    It has rights of its own: behind the doors it could not write otherwise.
    """
    incident.create_table().ghost("t1")
    incident.row("elsewhere", "t9", "ENTRY", "1", symbol="ETH/USD", status="expired")
    incident.plan()
    incident.sql(
        f"""CREATE FUNCTION along() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN {statement}; RETURN new; END $$"""
    )
    incident.sql(
        """CREATE TRIGGER writing_along AFTER INSERT ON orders FOR EACH ROW WHEN (new.order_id LIKE 'BFILL-%%')
           EXECUTE FUNCTION along()"""
    )
    before = incident.everything()
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "invariant_violated")
    assert (result.message or "").startswith(f"{check}: ")
    assert incident.everything() == before
    incident.sql("DROP TRIGGER writing_along ON orders")
    assert incident.run("apply").verdict is Verdict.DONE


@pytest.mark.parametrize(
    ("obstacles", "why"),
    [
        (["ALTER TABLE orders ADD CHECK (status IN ('new', 'filled', 'cancelled'))"], "violates check constraint"),
        (
            [
                "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                "CREATE TRIGGER stay BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION stay()",
            ],
            "(the update changed 0 rows)",
        ),
    ],
)
def test_what_could_not_be_rolled_back_is_not_applied(incident: Incident, obstacles: list[str], why: str) -> None:
    """Better said before than after; the control is every other test."""
    incident.create_table().ghost("t1")
    for statement in obstacles:
        incident.sql(statement)
    incident.plan()
    before = incident.everything()
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "orders_unsuitable")
    assert why in (result.message or "")
    assert incident.everything() == before


def test_a_time_out_while_the_way_back_is_tried_says_nothing_of_the_table(incident: Incident) -> None:
    """Only what the statement itself ran into makes the table unsuitable."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.sql(
        """CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'too late' USING ERRCODE = '57014'; END $$"""
    )
    incident.sql("CREATE TRIGGER late BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION late()")
    assert "(too late)" in (refused(incident, "statement_timeout").message or "")


def test_an_audit_row_that_cannot_be_written_takes_the_orders_row_with_it(incident: Incident) -> None:
    """Invariant 3: orders and audit rows commit together or not at all."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.sql("ALTER TABLE reconciliation_backfill_audit ADD CHECK (decision <> 'APPLIED')")
    before = incident.everything()
    result = incident.run("apply")
    assert (result.verdict, result.code, "SQLSTATE 23514" in (result.message or "")) == (
        Verdict.FAILED,
        "database_error",
        True,
    )
    assert incident.everything() == before


# Applying again (invariant 4)


def test_applying_again_writes_nothing_into_orders(incident_each_version: Incident) -> None:
    """Not even when facts, pause and approval are long gone: nothing is recomputed, each row is compared."""
    incident = incident_each_version.create_table()
    incident.ghost("t1")
    incident.repair()
    before = incident.orders()
    incident.switch.word = "RUNNING"
    incident.fills.clear()
    incident.hold("BTC/USD", "5")
    result = incident.run("apply", work=incident.work(now=NOW + timedelta(days=400)))
    assert (result.verdict, result.code, result.counts) == (Verdict.DONE, None, {"SKIP_EXISTING": 1})
    assert result.message == "the batch was applied before; nothing was written to orders"
    assert (incident.orders(), incident.state()) == (before, "applied")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE orders SET quantity = 0.4 WHERE order_id = '{0}'", "differs in quantity"),
        ("UPDATE orders SET qty = NULL WHERE order_id = '{0}'", "differs in qty"),
        ("UPDATE orders SET price = 111, symbol = 'X' WHERE order_id = '{0}'", "differs in symbol, price"),
        ("UPDATE orders SET filled_at = NULL WHERE order_id = '{0}'", "differs in filled_at"),
        ("UPDATE orders SET side = 'buy' WHERE order_id = '{0}'", "differs in side"),
        ("UPDATE orders SET exchange_order_id = NULL WHERE order_id = '{0}'", "differs in exchange_order_id"),
        ("UPDATE orders SET status = 'canceled' WHERE order_id = '{0}'", "has status 'canceled'"),
        ("UPDATE orders SET trade_id = 't9' WHERE order_id = '{0}'", "differs in trade_id"),
        ("UPDATE orders SET profile_id = 'x' WHERE order_id = '{0}'", "is missing"),
        ("DELETE FROM orders WHERE order_id = '{0}'", "is missing"),
    ],
)
def test_a_row_that_was_altered_since_is_a_failure(incident: Incident, change: str, said: str) -> None:
    """The other row of the batch is still SKIP_EXISTING; validate fails too, and rollback changes nothing."""
    incident.create_table().ghost("t1")
    incident.ghost("t2", symbol="ETH/USD")
    incident.repair()
    incident.sql(change.format(ORDER_ID))
    before = incident.orders()
    result = incident.run("apply")
    assert (result.verdict, result.code, result.counts) == (
        Verdict.FAILED,
        "existing_row_differs",
        {"SKIP_EXISTING": 1},
    )
    assert f"{ORDER_ID} {said}" in (result.message or "")
    validated = incident.run("validate")
    assert (validated.verdict, validated.code) == (Verdict.FAILED, "validation_failed")
    refused = incident.run("rollback")
    assert (refused.verdict, refused.code, said in (refused.message or "")) == (Verdict.NO_GO, "row_changed", True)
    assert incident.orders() == before


# What is written


def test_dust_is_written_without_an_exchange_order(incident: Incident) -> None:
    """Its filled_at is the last ENTRY's, its price the last evidence's; alone, the ENTRY's (design section 6)."""
    incident.create_table().ghost("rest", "1", filled="0.999", opened=3)
    incident.row("e1", "alone", "ENTRY", "0.0004", 4, symbol="ETH/USD", price="7")
    incident.row("e2", "alone", "ENTRY", "0.0006", 9, symbol="ETH/USD", price="8")
    incident.repair("alone=a speck")
    columns = "trade_id, quantity, price, filled_at, exchange_order_id, order_id"
    dust = [tuple(row.values()) for row in incident.backfills(columns) if row["exchange_order_id"] is None]
    assert dust == [
        ("rest", Decimal("0.001"), Decimal(110), at(3), None, backfill_order_id("main", "rest", "DUST", at(3))),
        ("alone", Decimal("0.001"), Decimal(8), at(9), None, backfill_order_id("main", "alone", "DUST", at(9))),
    ]
    assert incident.run("validate").verdict is Verdict.DONE
    assert incident.run("rollback").verdict is Verdict.DONE
    assert incident.open_quantities() == {"rest": Decimal(1), "alone": Decimal("0.001")}


def test_a_base_fee_that_is_accepted_is_written(incident: Incident) -> None:
    incident.create_table()
    incident.row("f", "fee", "ENTRY", "1", 0, symbol="E/USD", price="9")
    incident.fill("X-f", "1", 0, symbol="E/USD", side="buy", fee="0.01", fee_currency="E")
    incident.fill("out", "0.99", 60, symbol="E/USD")
    work = incident.work(recon_exit_backfill_base_fee=True)
    assert incident.repair(work=work).counts == {"APPLIED": 2}
    [fee] = [row for row in incident.backfills() if row["exchange_order_id"] is None]
    assert (fee["order_id"], fee["quantity"], fee["price"]) == (
        backfill_order_id("main", "fee", "FEE", at(0)), Decimal("0.01"), Decimal(9),
    )  # fmt: skip
    assert incident.open_quantities() == {}


def test_many_digits_survive_to_the_last(incident: Incident) -> None:
    """Invariant 9: thirty digits before and after the point, from the statement to the column."""
    qty = Decimal("123456789012345678901234567890.123456789012345678901234567891")
    incident.create_table().ghost("t1", qty, price="0.000000000000000000000000000001")
    incident.repair()
    [row] = incident.backfills()
    assert (row["quantity"], row["qty"], row["price"]) == (qty, qty, Decimal("1e-30"))
    assert incident.open_quantities() == {}


def test_one_order_shared_by_two_trades(incident: Incident) -> None:
    """A unit's allocations never exceed it: 1 and 2 of an order of 3, two rows with two ids."""
    incident.create_table()
    incident.row("e1", "t1", "ENTRY", "1", 0)
    incident.row("e2", "t2", "ENTRY", "2", 1)
    incident.fill("X", "3", 60)
    incident.repair()
    assert {row["trade_id"]: row["quantity"] for row in incident.backfills()} == {"t1": 1, "t2": 2}
    assert len({row["order_id"] for row in incident.backfills()}) == 2


def test_an_index_of_the_backend_that_a_row_would_break_is_told_and_nothing_is_written(incident: Incident) -> None:
    """One row per exchange order allows no second unit of it: the database's own sentence, with its SQLSTATE."""
    incident.create_table(unique=f"{UNIQUE}, UNIQUE (profile_id, exchange_order_id)")
    incident.row("e1", "t1", "ENTRY", "2", 0)
    incident.fill("X", "1", 60)
    incident.fill("X", "1", 61)
    incident.plan()
    before = incident.everything()
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "database_error")
    assert "SQLSTATE 23505" in (result.message or "")
    assert incident.everything() == before
