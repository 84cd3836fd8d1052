"""Dry run: the plan, and the proof that making it changed no row of orders (invariant 2)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from incidents import NOW, Incident, at, refusal

from recon.database import connect
from recon.domain import Check, Decision, Grade, Reason, Side, StageResult, Verdict
from recon.identity import backfill_order_id
from recon.plan import Scope


def check(result: StageResult, name: str) -> Check:
    [found] = [check for check in result.checks if check.name == name]
    return found


def dry_run(incident: Incident, **flags: object) -> StageResult:
    assert incident.run("detect").verdict is Verdict.DONE
    return incident.run("dry-run", work=incident.work(**flags))


def reasons(result: StageResult) -> dict[str, set[Reason]]:
    found: dict[str, set[Reason]] = {}
    for item in result.items:
        found.setdefault(item.trade_id, set()).add(item.reason)
    return found


def test_a_plan_says_exactly_what_would_be_written(incident_each_version: Incident) -> None:
    """Two fills of one order at one instant are one row with their VWAP; the next instant is the next row."""
    incident = incident_each_version.create_table()
    incident.row("e", "t1", "ENTRY", "3", 0)
    incident.fill("X", "1", 60, price="100")
    incident.fill("X", "0.5", 60, price="101")
    incident.fill("X", "1.5", 61, price="102", client_order_id="c-9")
    result = dry_run(incident)
    assert (result.verdict, result.code, result.message) == (Verdict.GO, None, None)
    assert all(check.ok for check in result.checks)
    assert result.counts == {"DRY_RUN": 2}
    first, second = result.items
    assert (first.qty, first.price, first.filled_at) == (Decimal("1.5"), Decimal("100.333333333333"), at(60))
    assert (second.qty, second.price, second.filled_at) == (Decimal("1.5"), Decimal(102), at(61))
    assert second.order_id == backfill_order_id("main", "t1", "X", at(61))
    assert (second.side, second.grade, second.client_order_id) == (Side.SELL, Grade.EXACT, "c-9")
    assert incident.state() == "planned"


def test_the_same_facts_give_the_same_digest(incident: Incident) -> None:
    """Invariant 11: in another row order, at another time, asked again; another fact gives another."""
    incident.create_table().ghost("t1")
    incident.ghost("t2", "2", opened=1, closed=70)
    first = dry_run(incident)
    incident.sql("UPDATE orders SET updated_at = updated_at")
    incident.fills.reverse()
    incident.about = '{"fetched_at": "2026-03-02T11:00:00Z", "venue": "somewhere"}'
    incident.write_statement()
    later = incident.run("dry-run", work=incident.work(now=NOW + timedelta(hours=3)))
    assert (later.plan_digest, later.items) == (first.plan_digest, first.items)
    incident.sql("UPDATE orders SET price = price + 1 WHERE order_id = 'entry-t1'")
    assert incident.run("dry-run").plan_digest != first.plan_digest


# Invariant 2


def test_a_dry_run_changes_no_row_of_orders_and_proves_it(incident_each_version: Incident) -> None:
    incident = incident_each_version.create_table()
    incident.ghost("t1")
    incident.row("canceled-row", "t9", "EXIT", "1", status="canceled")
    before = incident.orders()
    result = dry_run(incident)
    assert incident.orders() == before
    assert check(result, "orders_unchanged").ok
    proof = check(result, "reading_wrote_nothing")
    assert (proof.ok, proof.detail) == (True, "transaction id of the reading transaction: none was assigned")
    assert incident.backfills() == []


@pytest.mark.other_rows_change("a trigger of the backend changes a row within recon's transaction")
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE orders SET updated_at = now() WHERE order_id = 'entry-t1'",
        "INSERT INTO orders (order_id, profile_id) VALUES ('new', 'main')",
        "DELETE FROM orders WHERE order_id = 'bystander'",
    ],
)
def test_the_proof_fails_when_a_row_changes_in_between(incident: Incident, change: str) -> None:
    """The control: an audit row of the dry run sets off a trigger that changes a row; approval is then refused."""
    incident.create_table().ghost("t1")
    incident.row("bystander", "t9", "EXIT", "1", status="canceled")
    incident.sql(f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {change}; RETURN new; END $$")
    incident.run("detect")
    incident.sql(
        """CREATE TRIGGER meddling AFTER INSERT ON reconciliation_backfill_audit FOR EACH ROW
           WHEN (new.batch_id <> 'probe') EXECUTE FUNCTION meddle()"""
    )
    result = incident.run("dry-run")
    assert (result.verdict, check(result, "orders_unchanged").ok) == (Verdict.NO_GO, False)
    assert refusal(incident.approve).code == "dry_run_failed"
    incident.sql("DROP TRIGGER meddling ON reconciliation_backfill_audit")
    assert incident.run("dry-run").verdict is Verdict.GO
    incident.approve()


def test_a_change_of_another_profile_is_none_of_this_one(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    incident.exchange.before = lambda: incident.row("foreign", "t9", "ENTRY", "1", profile_id="other")
    assert incident.run("dry-run").verdict is Verdict.GO


def test_the_proof_fails_when_reading_takes_a_transaction_id(incident: Incident) -> None:
    """The control: a row policy that takes one each time a row is read, for a role that is not the owner."""
    incident.create_table().ghost("t1")
    incident.run("detect")
    role = "reader_of_noisy_rows"
    incident.sql(f"CREATE ROLE {role} LOGIN")
    try:
        incident.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        incident.engine = connect(sa.make_url(incident.url).set(username=role).render_as_string())
        assert incident.run("dry-run").verdict is Verdict.GO
        incident.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
        incident.sql("CREATE POLICY noisy ON orders USING (pg_current_xact_id() IS NOT NULL)")
        result = incident.run("dry-run")
        assert (result.verdict, check(result, "reading_wrote_nothing").ok) == (Verdict.NO_GO, False)
        assert refusal(incident.approve).code == "dry_run_failed"
    finally:
        incident.sql(f"DROP OWNED BY {role}")
        incident.sql(f"DROP ROLE {role}")


# Guards


def test_the_backfill_must_be_enabled(incident: Incident) -> None:
    """ENABLE_RECON_EXIT_BACKFILL is false by default."""
    incident.create_table().ghost("t1")
    incident.run("detect")
    before = incident.everything()
    result = incident.run("dry-run", work=incident.work(enable_recon_exit_backfill=False))
    assert (result.verdict, result.code) == (Verdict.NO_GO, "backfill_disabled")
    assert incident.everything() == before
    assert incident.run("dry-run").verdict is Verdict.GO


@pytest.mark.parametrize(
    ("word", "reason"),
    [("RUNNING", Reason.PROFILE_NOT_PAUSED), ("", Reason.PAUSE_UNKNOWN), ('{"profiles": {}}', Reason.PAUSE_UNKNOWN)],
)
def test_without_a_confirmed_pause_the_whole_batch_is_no_go(incident: Incident, word: str, reason: Reason) -> None:
    """Invariant 10; no acknowledgement answers it, a new dry run does once the profile is paused."""
    incident.create_table().ghost("t1")
    incident.ghost("t2", symbol="ETH/USD")
    incident.switch.word = word
    result = dry_run(incident)
    assert (result.verdict, reasons(result)) == (Verdict.NO_GO, {"t1": {reason}, "t2": {reason}})
    assert not check(result, "pause_confirmed").ok
    assert refusal(lambda: incident.approve("t1=x", "t2=y")).code == "batch_wide_reason"
    incident.switch.word = "PAUSED"
    assert incident.run("dry-run").verdict is Verdict.GO


def test_a_waived_pause_is_said_in_plain_words(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.switch.word = "RUNNING"
    result = dry_run(incident, recon_exit_backfill_require_pause=False)
    assert result.verdict is Verdict.GO
    assert "this batch may be applied without a pause" in check(result, "pause_confirmed").detail


def test_without_an_exchange_nothing_is_flat(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    work = incident.work()
    alone = type(work)(work.settings, work.engine, None, work.status_url, work.scope, NOW)
    result = incident.run("dry-run", work=alone)
    assert reasons(result)["t1"] >= {Reason.EXCHANGE_POSITION_UNKNOWN}
    assert result.verdict is Verdict.NO_GO


def test_a_statement_that_cannot_be_read_is_refused_and_records_nothing(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    before = incident.everything()
    incident.fills[0]["qty"] = "one"
    incident.write_statement()
    result = incident.run("dry-run")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "evidence_unreadable")
    assert "fills.csv line 2, column qty" in (result.message or "")
    assert incident.everything() == before


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ({"filled_at": (NOW + timedelta(minutes=5, seconds=1)).isoformat()}, "filled_at"),
        ({"filled_at": "2026-03-01T10:00:00"}, "filled_at"),
        ({"side": "sold"}, "side"),
        ({"price": "0"}, "price"),
        ({"qty": "-1"}, "qty"),
        ({"exchange_order_id": ""}, "exchange_order_id"),
    ],
)
def test_a_cell_that_cannot_be_is_refused_by_line_and_column(
    incident: Incident, cells: dict[str, object], column: str
) -> None:
    incident.create_table().ghost("t1")
    incident.fill("Y", "1", 5, **cells)
    result = dry_run(incident)
    assert result.code == "evidence_unreadable"
    assert f"fills.csv line 3, column {column}" in (result.message or "")


def test_a_fill_id_that_is_there_twice(incident: Incident) -> None:
    """Identical rows count once; the same id with other content is refused."""
    incident.create_table().ghost("t1")
    incident.fills.append(dict(incident.fills[0]))
    incident.write_statement()
    assert [item.qty for item in dry_run(incident).items] == [Decimal(1)]
    incident.fills[1]["qty"] = "0.5"
    incident.write_statement()
    result = incident.run("dry-run")
    assert (result.code, "found another qty" in (result.message or "")) == ("evidence_unreadable", True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda incident: incident.hold("BTC-USD", "0.00000001"), Reason.EXCHANGE_NOT_FLAT),
        (lambda incident: (incident.hold("BTCUSD", "1"), incident.hold("BTCUSD", "-1")), Reason.EXCHANGE_NOT_FLAT),
        (lambda incident: setattr(incident, "positions", None), Reason.EXCHANGE_POSITION_UNKNOWN),
        (
            lambda incident: incident.open_orders.append(
                {"exchange_order_id": "W", "client_order_id": "", "symbol": "BTC/USD", "side": "sell", "qty": "1",
                 "filled_qty": "0", "created_at": at(1).isoformat()}
            ),
            Reason.EXCHANGE_OPEN_ORDERS,
        ),
    ],
    ids=["a speck is held", "legs that net to zero", "positions unknown", "an order still works"],
)  # fmt: skip
def test_what_the_exchange_says_against_it(incident: Incident, spoil, reason: Reason) -> None:
    """Each alone turns the control, a GO, into a NO_GO of the whole trade."""
    incident.create_table().ghost("t1")
    assert dry_run(incident).verdict is Verdict.GO
    spoil(incident)
    incident.write_statement()
    result = incident.run("dry-run")
    assert (result.verdict, reasons(result)) == (Verdict.NO_GO, {"t1": {reason}})


def test_a_trade_and_its_neighbours(incident: Incident) -> None:
    """Every per-trade reason has its trade; what is released beside it is unharmed.

    dust       open 1, exit 0.999                dust_remainder beside fill_evidence
    speck      open 0.001, no exit               dust_only
    lost       open 1, no exit                   missing fill evidence
    ancient    ENTRY before the window           evidence_window_too_short beside it
    fee        bought 1, fee 0.01, sold 0.99     residual_is_base_fee beside it
    """
    incident.create_table()
    incident.ghost("dust", "1", symbol="A/USD", filled="0.999")
    incident.row("s", "speck", "ENTRY", "0.001", symbol="B/USD")
    incident.row("l", "lost", "ENTRY", "1", symbol="C/USD")
    incident.row("a", "ancient", "ENTRY", "1", -60 * 100, symbol="D/USD")
    incident.row("f", "fee", "ENTRY", "1", 0, symbol="E/USD", exchange_order_id="X-f")
    incident.fill("X-f", "1", 0, symbol="E/USD", side="buy", fee="0.01", fee_currency="E")
    incident.fill("exit-fee", "0.99", 60, symbol="E/USD")
    result = dry_run(incident, recon_exit_backfill_lookback_hours=72)
    missing = Reason.MISSING_FILL_EVIDENCE
    assert reasons(result) == {
        "dust": {Reason.FILL_EVIDENCE, Reason.DUST_REMAINDER},
        "speck": {Reason.DUST_ONLY},
        "lost": {missing},
        "ancient": {missing, Reason.EVIDENCE_WINDOW_TOO_SHORT},
        "fee": {Reason.FILL_EVIDENCE, missing, Reason.RESIDUAL_IS_BASE_FEE},
    }
    accepted = incident.run(
        "dry-run", work=incident.work(recon_exit_backfill_lookback_hours=72, recon_exit_backfill_base_fee=True)
    )
    assert reasons(accepted)["fee"] == {Reason.FILL_EVIDENCE, Reason.BASE_FEE}
    assert accepted.plan_digest != result.plan_digest


# Scope and size


def test_narrowing_never_gives_a_trade_its_neighbours_fills(incident: Incident) -> None:
    """Design section 7: allocation runs over all open lifecycles; the fill is the older trade's, in or out of scope."""
    incident.create_table()
    incident.row("e1", "older", "ENTRY", "1", 0)
    incident.row("e2", "younger", "ENTRY", "1", 10)
    incident.fill("X", "1", 60)
    incident.run("detect")
    for wanted, expected in (("older", Reason.FILL_EVIDENCE), ("younger", Reason.MISSING_FILL_EVIDENCE)):
        result = incident.run("dry-run", work=incident.work(scope=Scope(trade_ids=(wanted,))))
        assert reasons(result) == {wanted: {expected}}


def test_a_batch_can_be_narrowed_by_symbol_in_any_spelling(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.ghost("t2", symbol="ETH/USD")
    incident.run("detect")
    result = incident.run("dry-run", work=incident.work(scope=Scope(symbols=("eth-usd",))))
    assert reasons(result) == {"t2": {Reason.FILL_EVIDENCE}}
    assert incident.sql("SELECT scope FROM reconciliation_batches")[0][0] == {"trade_ids": [], "symbols": ["eth-usd"]}


def test_a_scope_that_matches_nothing_is_refused(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    before = incident.everything()
    for scope in (Scope(trade_ids=("t2",)), Scope(symbols=("ETH/USD",)), Scope(("t1",), ("ETH/USD",))):
        assert incident.run("dry-run", work=incident.work(scope=scope)).code == "scope_matches_nothing"
    assert incident.everything() == before


def test_a_plan_that_is_too_large_is_refused_with_the_way_to_split_it(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.ghost("t2", symbol="ETH/USD")
    incident.run("detect")
    result = incident.run("dry-run", work=incident.work(recon_max_batch_rows=1))
    assert result.code == "batch_too_large"
    assert "--symbol or --trade-id (largest symbols: BTC/USD 1, ETH/USD 1)" in (result.message or "")
    assert incident.run("dry-run", work=incident.work(recon_max_batch_rows=2)).verdict is Verdict.GO


def test_nothing_to_repair_is_done_and_cannot_be_approved(incident: Incident) -> None:
    incident.create_table()
    incident.row("c1", "c", "ENTRY", "1")
    incident.row("c2", "c", "EXIT", "1", 1)
    result = dry_run(incident)
    assert (result.verdict, result.items) == (Verdict.DONE, ())
    assert result.message == "nothing to repair: the profile has no open lifecycle"
    assert refusal(incident.approve).code == "nothing_to_approve"


def test_detect_comes_first(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    assert incident.run("dry-run").code == "illegal_transition"
    assert incident.state() is None


def test_a_new_dry_run_voids_the_approval(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.plan()
    assert incident.state() == "approved"
    incident.run("dry-run")
    assert incident.sql("SELECT state, approval FROM reconciliation_batches") == [("planned", None)]


def test_decisions_of_a_dry_run_are_dry_run_or_no_go(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.row("e2", "t2", "ENTRY", "1", symbol="ETH/USD")
    result = dry_run(incident)
    assert {item.decision for item in result.items} == {Decision.DRY_RUN, Decision.NO_GO}
    assert result.counts == {"DRY_RUN": 1, "NO_GO": 1}
