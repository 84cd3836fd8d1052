"""The demo incident holds together: table, fills, positions and the ledger's expectations say the same thing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from recon.criteria import Rules
from recon.database import connect, transaction
from recon.demo import DEMO_NOW, DEMO_PROFILE, EXPECTED, load_demo, start_pause_server, write_statement
from recon.demo.background import MARKETS
from recon.demo.clock import DEMO_START
from recon.demo.ledger import STORIES
from recon.demo.statement import demo_fills, demo_open_orders, demo_positions
from recon.demo.table import order_rows
from recon.domain import BATCH_REASONS, FILLED, TERMINAL_UNFILLED, Fill, Grade, Position, Reason, Side
from recon.identity import backfill_order_id, canonical_symbol, identity_text
from recon.orders import Orders
from recon.pause import PauseState, read_pause
from recon.plan import Facts, Plan, build_plan
from recon.venues.statement import StatementExchange

LOOKBACK = timedelta(hours=72)
WINDOW_START = DEMO_NOW - LOOKBACK
DUST_ABS, DUST_REL = Decimal("0.001"), Decimal("0.002")

# Runbook section 1, word for word but for the bound profile.
RUNBOOK_DETECT = """
WITH lifecycle AS (
  SELECT profile_id, symbol, trade_id,
    SUM(CASE WHEN action = 'ENTRY' THEN COALESCE(quantity, qty, 0) ELSE 0 END) AS entry_qty,
    SUM(CASE WHEN action = 'EXIT'  THEN COALESCE(quantity, qty, 0) ELSE 0 END) AS exit_qty
  FROM orders
  WHERE profile_id = :profile_id
    AND status IN ('filled', 'partially_filled', 'partially-filled')
    AND trade_id IS NOT NULL
  GROUP BY profile_id, symbol, trade_id
)
SELECT trade_id, (entry_qty - exit_qty) AS open_qty
FROM lifecycle
WHERE (entry_qty - exit_qty) > 0
ORDER BY symbol, trade_id
"""


def open_quantities() -> dict[str, Decimal]:
    """entry - exit of every trade that has a filled row."""
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for row in order_rows():
        if row["status"] in FILLED and row["trade_id"] is not None:
            totals[row["trade_id"]] += row["quantity"] if row["action"] == "ENTRY" else -row["quantity"]
    return totals


def unbooked() -> Iterator[Fill]:
    """Fills of the window whose order stands on no filled row."""
    booked = {row["exchange_order_id"] for row in order_rows() if row["status"] in FILLED}
    yield from (
        fill for fill in demo_fills() if fill.exchange_order_id not in booked and fill.filled_at >= WINDOW_START
    )


def trades_with(reason: Reason) -> set[str]:
    return {trade_id for trade_id, expected in EXPECTED.items() if reason in expected}


def closing(trade_id: str) -> tuple[str, str]:
    """Canonical symbol and closing side of a trade."""
    entry = next(row for row in order_rows() if row["trade_id"] == trade_id and row["action"] == "ENTRY")
    return canonical_symbol(entry["symbol"]), Side(entry["side"]).opposite


def test_the_open_trades_are_those_that_the_ledger_expects_something_of():
    assert {trade_id for trade_id, qty in open_quantities().items() if qty > 0} == set(EXPECTED)


def test_one_trade_is_over_closed_and_every_other_one_is_closed_exactly():
    closed = {trade_id: qty for trade_id, qty in open_quantities().items() if trade_id not in EXPECTED}
    assert {trade_id: qty for trade_id, qty in closed.items() if qty} == {"booked-twice": Decimal(-5)}
    assert len([trade_id for trade_id in closed if trade_id.startswith("closed-")]) == 70


def test_every_reason_that_can_coexist_has_a_trade():
    cannot = BATCH_REASONS | {Reason.EXCHANGE_POSITION_UNKNOWN, Reason.BASE_FEE, Reason.UNIT_UNKNOWN}
    assert frozenset().union(*EXPECTED.values()) == frozenset(Reason) - cannot


def test_each_filled_row_holds_what_its_order_filled():
    fills: dict[str, list[Fill]] = defaultdict(list)
    for fill in demo_fills():
        fills[fill.exchange_order_id].append(fill)
    for row in order_rows():
        mine = fills[row["exchange_order_id"]]
        if row["status"] in FILLED:
            assert sum(fill.qty for fill in mine) == row["quantity"], row
            assert max(fill.filled_at for fill in mine) == row["filled_at"], row
            assert {(canonical_symbol(fill.symbol), fill.side) for fill in mine} == {
                (canonical_symbol(row["symbol"]), row["side"])
            }


def test_orders_fill_once_or_in_up_to_four_pieces_at_one_or_several_instants():
    pieces = Counter(fill.exchange_order_id for fill in demo_fills())
    instants = {order: {f.filled_at for f in demo_fills() if f.exchange_order_id == order} for order in pieces}
    assert set(pieces.values()) == {1, 2, 3, 4}
    assert {(pieces[order], len(at)) for order, at in instants.items()} >= {(2, 1), (2, 2), (3, 2), (3, 3), (4, 2)}


def test_fill_ids_and_order_ids_are_unique():
    assert max(Counter(fill.fill_id for fill in demo_fills()).values()) == 1
    assert max(Counter(row["order_id"] for row in order_rows()).values()) == 1


def test_nothing_lies_outside_the_demo_and_no_order_straddles_the_window():
    assert all(DEMO_START <= fill.filled_at <= DEMO_NOW for fill in demo_fills())
    assert all(row["created_at"] <= row["updated_at"] <= DEMO_NOW for row in order_rows())
    sides: dict[str, set[bool]] = defaultdict(set)
    for fill in demo_fills():
        sides[fill.exchange_order_id].add(fill.filled_at >= WINDOW_START)
    assert all(len(side) == 1 for side in sides.values())


def test_what_the_fills_leave_open_is_what_the_ledger_says():
    """Per symbol and closing side: open quantity less unbooked fills. Nothing else is short, or over."""
    balance: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for trade_id in EXPECTED:
        balance[closing(trade_id)] += open_quantities()[trade_id]
    for fill in unbooked():
        balance[canonical_symbol(fill.symbol), fill.side] -= fill.qty
    assert {key: qty for key, qty in balance.items() if qty} == {
        ("BTCUSD", "buy"): Decimal("0.0006"),
        ("LINKUSD", "sell"): Decimal("0.008"),
        ("ATOMUSD", "sell"): Decimal(1450),
        ("ADAUSD", "sell"): Decimal(9800),
        ("UNIUSD", "sell"): Decimal("2.1"),
        ("LTCUSD", "sell"): Decimal(48),
        ("DOTUSD", "sell"): Decimal(2100),
        ("NEARUSD", "sell"): Decimal(1100),
        ("XRPUSD", "buy"): Decimal(-1200),
        ("XRPUSD", "sell"): Decimal(-1200),
    }


def test_the_exchange_holds_what_its_fills_fees_and_transfers_add_up_to():
    assert demo_positions() == (Position("DOTUSD", Decimal(2100)), Position("NEARUSD", Decimal(1100)))


@pytest.mark.parametrize("reason", [Reason.EXCHANGE_NOT_FLAT, Reason.EXCHANGE_OPEN_ORDERS])
def test_a_symbol_that_blocks_has_no_other_open_trade(reason: Reason):
    busy = {
        Reason.EXCHANGE_NOT_FLAT: {canonical_symbol(position.symbol) for position in demo_positions()},
        Reason.EXCHANGE_OPEN_ORDERS: {canonical_symbol(order.symbol) for order in demo_open_orders()},
    }[reason]
    assert {trade_id for trade_id in EXPECTED if closing(trade_id)[0] in busy} == trades_with(reason)


def test_dust_is_dust_and_a_missing_remainder_is_not():
    short = {"dust-remainder": "0.008", "fee-paid-in-base": "2.1", "dust-only": "0.0006", "half-held": "1100"}
    for trade_id, remainder in short.items():
        threshold = max(DUST_ABS, open_quantities()[trade_id] * DUST_REL)
        is_dust = bool(EXPECTED[trade_id] & {Reason.DUST_REMAINDER, Reason.DUST_ONLY})
        assert (Decimal(remainder) <= threshold) is is_dust, trade_id


def test_the_fee_in_base_is_the_remainder_and_is_paid_inside_the_window():
    fees = [fill for fill in demo_fills() if fill.fee_currency != "USD"]
    assert {(fill.symbol, fill.side, fill.fee_currency) for fill in fees} == {("UNI/USD", "buy", "UNI")}
    assert sum(fill.fee for fill in fees) == Decimal("2.1")
    assert min(fill.filled_at for fill in fees) > WINDOW_START


def test_only_one_open_trade_began_before_the_window():
    began = {row["trade_id"] for row in order_rows() if row["action"] == "ENTRY" and row["created_at"] < WINDOW_START}
    assert began & set(EXPECTED) == {"entry-before-window"} == trades_with(Reason.EVIDENCE_WINDOW_TOO_SHORT)


def test_only_a_pending_trade_has_a_row_whose_status_is_not_final():
    pending = {row["trade_id"] for row in order_rows() if row["status"] not in FILLED | TERMINAL_UNFILLED}
    assert pending == {"exit-still-pending"} == trades_with(Reason.PENDING_LIFECYCLE_BLOCKER)


def test_only_one_row_has_two_quantities():
    assert {row["trade_id"] for row in order_rows() if row["quantity"] != row["qty"]} == trades_with(
        Reason.DATA_QUALITY
    )


@pytest.mark.parametrize(("trade_id", "same_quantity"), [("rolled-back-before", True), ("existing-row-differs", False)])
def test_a_canceled_backfill_row_has_the_id_of_its_unit(trade_id: str, same_quantity: bool):
    (row,) = (row for row in order_rows() if row["trade_id"] == trade_id and row["order_id"].startswith("BFILL-"))
    (fill,) = (fill for fill in demo_fills() if fill.exchange_order_id == row["exchange_order_id"])
    assert row["order_id"] == backfill_order_id(DEMO_PROFILE, trade_id, fill.exchange_order_id, fill.filled_at)
    assert (row["status"], row["action"], row["side"]) == ("canceled", "EXIT", fill.side)
    assert (row["price"], row["filled_at"]) == (fill.price, fill.filled_at)
    assert (row["quantity"] == row["qty"] == fill.qty) is same_quantity


def test_two_trades_with_colons_share_one_identity():
    exits = [fill for fill in unbooked() if canonical_symbol(fill.symbol) == "BCHUSD"]
    trades = sorted(trades_with(Reason.INVALID_IDENTIFIER))
    texts = {
        identity_text(DEMO_PROFILE, trade_id, fill.exchange_order_id, fill.filled_at)
        for trade_id, fill in zip(trades, exits, strict=True)
    }
    assert len(texts) == 1


def test_every_amount_of_the_table_fits_its_column_and_only_one_symbol_has_finer_fills():
    for row in order_rows():
        for column in ("quantity", "qty", "price"):
            assert row[column] is None or row[column] == row[column].quantize(Decimal("1e-8")), row
    finer = {fill.symbol for fill in demo_fills() if fill.qty != fill.qty.quantize(Decimal("1e-8"))}
    assert finer == {"YFI/USD"}


def test_one_symbol_has_two_spellings_and_one_exit_has_no_trade():
    spellings: dict[str, set[str]] = defaultdict(set)
    for row in order_rows():
        spellings[canonical_symbol(row["symbol"])].add(row["symbol"])
    assert {symbol: names for symbol, names in spellings.items() if len(names) > 1} == {"BTCUSD": {"BTC/USD", "BTCUSD"}}
    assert [row["exchange_order_id"] for row in order_rows() if row["trade_id"] is None] == ["X233"]


def test_prices_and_sizes_are_plausible():
    """Every fill of a market lies within 5 % of its price; an ENTRY is worth one to ten thousand USD."""
    for market in MARKETS:
        for fill in demo_fills():
            if fill.symbol == market.symbol:
                assert abs(fill.price / market.price - 1) < Decimal("0.05"), fill
    entries = [row for row in order_rows() if row["action"] == "ENTRY" and row["status"] in FILLED]
    assert all(1_000 < row["quantity"] * row["price"] < 10_000 for row in entries)
    assert {row["side"] for row in entries} == {"buy", "sell"}


def test_unfilled_rows_stand_beside_the_filled_ones():
    statuses = Counter(row["status"] for row in order_rows())
    assert statuses["canceled"] >= 20
    assert statuses["expired"] >= 10
    assert statuses["partially_filled"] >= 10


def test_each_story_is_a_sentence_on_one_line():
    for story in STORIES:
        assert story.what_happened.endswith("."), story.trade_id
        assert story.orders, story.trade_id


def test_the_statement_is_the_same_bytes_each_time(tmp_path):
    first = {path.name: path.read_bytes() for path in write_statement(tmp_path / "new" / "folder").iterdir()}
    (tmp_path / "new" / "folder" / "fills.csv").write_text("spoilt")
    again = {path.name: path.read_bytes() for path in write_statement(tmp_path / "new" / "folder").iterdir()}
    assert first == again
    assert set(first) == {"fills.csv", "positions.csv", "open_orders.csv", "statement.json"}


def test_the_statement_reads_back_as_it_was_written(tmp_path):
    exchange = StatementExchange(str(write_statement(tmp_path)))
    snapshot = exchange.fetch(DEMO_PROFILE, now=DEMO_NOW, lookback=LOOKBACK)
    assert (snapshot.window.start, snapshot.window.end) == (WINDOW_START, DEMO_NOW)
    assert sorted(fill.fill_id for fill in snapshot.fills) == sorted(
        fill.fill_id for fill in demo_fills() if fill.filled_at >= WINDOW_START
    )
    assert set(snapshot.fills) <= set(demo_fills())
    assert snapshot.positions == demo_positions()
    assert snapshot.open_orders == demo_open_orders()


def test_postgresql_shows_the_ghosts_that_the_ledger_tells_of(database_url):
    engine = connect(database_url)
    load_demo(engine)
    with engine.connect() as connection:
        found = connection.execute(sa.text(RUNBOOK_DETECT), {"profile_id": DEMO_PROFILE}).all()
        stored = connection.execute(sa.text("SELECT * FROM orders ORDER BY order_id")).mappings().all()
    assert dict(found) == {trade_id: qty for trade_id, qty in open_quantities().items() if qty > 0}
    assert [dict(row) for row in stored] == sorted(order_rows(), key=lambda row: row["order_id"])


def plan_of(database_url: str, folder: Path, *, hours: int = 72, base_fee: bool = False) -> Plan:
    """The plan of the demo as the database and the statement give it."""
    engine = connect(database_url)
    load_demo(engine)
    with transaction(engine, read_only=True) as connection:
        orders = Orders.reflect(connection)
        rows = orders.rows(connection, DEMO_PROFILE, symbols=orders.symbols(connection, DEMO_PROFILE))
    exchange = StatementExchange(str(write_statement(folder)))
    snapshot = exchange.fetch(DEMO_PROFILE, now=DEMO_NOW, lookback=timedelta(hours=hours))
    return build_plan(Facts(DEMO_PROFILE, rows, snapshot, orders.columns), Rules(base_fee=base_fee))


def reasons_of(plan: Plan) -> dict[str, set[Reason]]:
    reasons: dict[str, set[Reason]] = defaultdict(set)
    for item in plan.items:
        reasons[item.trade_id].add(item.reason)
    return reasons


def test_recon_gives_each_trade_the_reasons_of_the_ledger(database_url, tmp_path):
    plan = plan_of(database_url, tmp_path)
    assert reasons_of(plan) == EXPECTED
    grades = {item.trade_id: item.grade for item in plan.items if item.grade}
    assert grades["exit-timed-out"] is Grade.LINKED
    assert grades["lost-exit-long-eth"] is grades["other-spelling"] is Grade.EXACT
    assert grades["one-exit-for-two-first"] is grades["one-exit-for-two-second"] is Grade.FIFO
    assert {unit[0] for unit, left in plan.ledger.left.items() if left} == {"XRPUSD"}


@pytest.mark.parametrize(
    ("trade_id", "remedy", "cured"),
    [
        ("entry-before-window", {"hours": 336}, {Reason.FILL_EVIDENCE}),
        ("fee-paid-in-base", {"base_fee": True}, {Reason.FILL_EVIDENCE, Reason.BASE_FEE}),
    ],
)
def test_what_a_setting_refuses_a_setting_cures(database_url, tmp_path, trade_id, remedy, cured):
    assert reasons_of(plan_of(database_url, tmp_path, **remedy)) == {**EXPECTED, trade_id: cured}


def test_a_database_that_has_orders_is_left_alone(database_url):
    engine = connect(database_url)
    load_demo(engine)
    with pytest.raises(sa.exc.ProgrammingError) as refused:
        load_demo(engine)
    assert refused.value.orig.sqlstate == "42P07"
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM orders")) == len(order_rows())


def test_a_strategy_is_demanded_and_never_guessed(database_url):
    """The column that recon does not know: without a value of the trade's ENTRY, an insert fails."""
    engine = connect(database_url)
    load_demo(engine)
    with pytest.raises(sa.exc.IntegrityError) as refused, engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO orders (order_id, profile_id, symbol, action, side, status)"
                " VALUES ('x', 'demo', 'BTC/USD', 'EXIT', 'sell', 'filled')"
            )
        )
    assert (refused.value.orig.sqlstate, refused.value.orig.diag.column_name) == ("23502", "strategy")


def test_the_pause_switch_answers_on_loopback_and_says_paused():
    base = start_pause_server()
    assert base.startswith("http://127.0.0.1:")
    assert start_pause_server() == base
    assert read_pause(base, DEMO_PROFILE, timeout_seconds=60).state is PauseState.PAUSED
    assert read_pause(base, "another", timeout_seconds=60).state is PauseState.UNKNOWN


def test_the_pause_switch_answers_nothing_else():
    base = start_pause_server()
    assert httpx.get(f"{base}/internal/trading", timeout=60).status_code == 404
    assert httpx.get(f"{base}/internal/trading/status/", timeout=60).status_code == 404
    assert httpx.post(f"{base}/internal/trading/status", timeout=60).status_code == 501
