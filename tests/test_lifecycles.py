"""What the rows of one trade add up to, and what about them cannot be trusted (rules.md 3 and 4)."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import pytest
from builders import at, facts_of, ledger, row

from recon.domain import FILLED, TERMINAL_UNFILLED, Side
from recon.lifecycles import build_lifecycles, known_side, row_side


def only(facts):
    """The one lifecycle of the facts."""
    (lifecycle,) = build_lifecycles(facts.rows).values()
    return lifecycle


def defects_of(*lines: str) -> tuple[str, ...]:
    """The defects of trade T1 in a ledger of these lines."""
    return build_lifecycles(facts_of(*lines).rows)["ETH/USD", "T1"].defects


@ledger
def test_entries_less_exits_are_open(facts):
    """
    Three statuses count as filled, and a row that never filled adds nothing.

        09:00:00  ENTRY  T1  buy   2
        09:10:00  ENTRY  T1  buy   1.5   @100  -  status=partially_filled
        09:20:00  ENTRY  T1  buy   9     @100  -  status=canceled
        10:00:00  EXIT   T1  sell  0.25  @100  -  status=partially-filled
        10:10:00  EXIT   T1  sell  1
        10:20:00  EXIT   T1  sell  7     @100  -  status=rejected
    """
    one = only(facts)
    assert (one.entry_qty, one.exit_qty, one.open_qty) == (Decimal("3.5"), Decimal("1.25"), Decimal("2.25"))
    assert [each.quantity for each in one.entries] == [Decimal(2), Decimal("1.5")]
    assert (one.key, len(one.rows), one.defects, one.pending) == (("ETH/USD", "T1"), 6, (), ())


@ledger
def test_more_exits_than_entries_are_a_negative_open_quantity(facts):
    """
    09:00 one in, 10:00 two out.

        09:00:00  ENTRY  T1  buy   1
        10:00:00  EXIT   T1  sell  2
    """
    assert only(facts).open_qty == -1


@ledger
def test_backfill_rows_are_exits_like_any_other(facts):
    """
    A repaired trade is closed; a canceled repair closes nothing.

        09:00:00  ENTRY  T1  buy   3
        10:00:00  BFILL  T1  sell  1  @100  X1
        10:01:00  BFILL  T1  sell  1  @100  X2  status=canceled
    """
    assert only(facts).open_qty == 2


@ledger
def test_tiny_and_huge_quantities_add_up_exactly(facts):
    """
    Ten tenths are one, to the last of eighteen digits.

        09:00:00  ENTRY  T1  buy   1000000000.000000000000000001
        10:00:00  EXIT   T1  sell  1000000000
    """
    assert only(facts).open_qty == Decimal("1E-18")


def test_rows_fall_into_lifecycles_by_symbol_as_spelled_and_trade():
    rows = [row("T1"), row("T2"), row("T1", symbol="ETHUSD"), row(None, "EXIT"), row("", "ENTRY")]
    assert set(build_lifecycles(rows)) == {("ETH/USD", "T1"), ("ETH/USD", "T2"), ("ETHUSD", "T1"), ("ETH/USD", "")}


def test_any_order_of_rows_gives_the_same_lifecycles():
    late, early = row("T1", clock="09:02:00"), row("T1", "EXIT", clock="09:03:00", created_at=at("08:00:00"))
    rows = [late, early, row("T1"), row("T1", order_id="a")]
    assert len({repr(build_lifecycles(order)) for order in permutations(rows)}) == 1
    (lifecycle,) = build_lifecycles(rows).values()
    assert [each.order_id for each in lifecycle.rows] == ["T1-ENTRY-09:00:00", "a", late.order_id, early.order_id]


@pytest.mark.parametrize(
    ("raw", "side"),
    [
        ("buy", Side.BUY),
        (" SELL ", Side.SELL),
        ("Buy", Side.BUY),
        (None, None),
        ("", None),
        ("long", None),
        ("b", None),
    ],
)
def test_a_side_is_buy_or_sell_in_any_case_and_nothing_else(raw, side):
    assert known_side(raw) is side


@pytest.mark.parametrize(
    ("action", "raw", "entry_side", "side"),
    [
        ("ENTRY", None, Side.BUY, Side.BUY),
        ("ENTRY", None, Side.SELL, Side.SELL),
        ("EXIT", None, Side.BUY, Side.SELL),
        ("EXIT", None, Side.SELL, Side.BUY),
        ("EXIT", "buy", Side.BUY, Side.BUY),
        ("ADJUST", "sell", Side.BUY, Side.SELL),
        ("ADJUST", None, Side.BUY, None),
        ("EXIT", "flat", Side.BUY, None),
    ],
)
def test_the_side_of_a_row_is_its_own_else_its_trades(action, raw, entry_side, side):
    assert row_side(row("T1", action, raw_side=raw), entry_side) is side


@pytest.mark.parametrize(
    ("raw", "closing"), [("buy", Side.SELL), ("sell", Side.BUY), (None, Side.SELL), ("SELL", Side.BUY)]
)
def test_a_lifecycle_closes_on_the_other_side_of_its_entry_and_is_long_by_default(raw, closing):
    one = build_lifecycles([row(raw_side=raw)])["ETH/USD", "T1"]
    assert one.closing_side is closing
    assert one.entry_side is closing.opposite


@ledger
def test_a_canceled_or_exiting_row_does_not_settle_the_entry_side(facts):
    """
    Only the filled ENTRY says that the trade is short.

        08:00:00  ENTRY  T1  buy   1  @100  -  status=canceled
        09:00:00  ENTRY  T1  sell  2
        10:00:00  EXIT   T1  buy   1
    """
    assert only(facts).closing_side is Side.BUY
    assert only(facts).defects == ()


def test_without_any_filled_entry_a_trade_counts_as_long():
    assert build_lifecycles([row("T1", "EXIT", raw_side="sell")])["ETH/USD", "T1"].entry_side is Side.BUY


@ledger
def test_a_trade_begins_at_the_earliest_time_of_its_filled_entries(facts):
    """
    The second ENTRY was placed first: its row carries its last fill's time. The canceled one and the EXIT say nothing.

        09:00:00  ENTRY  T1  buy   1
        09:30:00  ENTRY  T1  buy   1  @100  -  created=08:45:00
        09:40:00  ENTRY  T1  buy   1  @100  -  created=07:00:00 status=canceled
        10:00:00  EXIT   T1  sell  1  @100  -  created=06:00:00
    """
    assert only(facts).begin == at("08:45:00")


def test_a_row_created_after_its_fill_begins_the_trade_at_the_fill():
    assert build_lifecycles([row(created_at=at("09:05:00"))])["ETH/USD", "T1"].begin == at("09:00:00")


@ledger
def test_the_last_entry_is_the_one_filled_last_ties_by_order_id(facts):
    """
    Neither the canceled row nor the exit counts.

        09:00:00  ENTRY  T1  buy   1  @100  -  id=z
        09:30:00  ENTRY  T1  buy   1  @100  -  id=a
        09:30:00  ENTRY  T1  buy   1  @100  -  id=b
        09:40:00  ENTRY  T1  buy   1  @100  -  id=c status=canceled
        09:50:00  EXIT   T1  sell  1  @100  -  id=d
    """
    assert only(facts).last_entry.order_id == "b"


@ledger
def test_a_trade_that_a_negative_exit_keeps_open_has_a_beginning_all_the_same(facts):
    """
    No ENTRY at all: minus five out leaves five open, and every row counts instead of the entries.

        09:10:00  EXIT  T1  sell  -3  @100  -  created=09:00:00 problem=negative
        09:20:00  EXIT  T1  sell  -2  @100  -  problem=negative
    """
    one = only(facts)
    assert (one.open_qty, one.begin, one.last_entry.filled_at) == (5, at("09:00:00"), at("09:20:00"))


@pytest.mark.parametrize("status", sorted(FILLED | TERMINAL_UNFILLED))
def test_a_settled_status_does_not_block(status):
    assert build_lifecycles([row(), row("T1", "EXIT", status=status)])["ETH/USD", "T1"].pending == ()


@pytest.mark.parametrize(
    "status", ["new", "pending_new", "accepted", "open", "never-seen", "", None, "FILLED", "Canceled", " filled"]
)
def test_any_other_status_blocks(status):
    blocker = row("T1", "EXIT", status=status)
    assert build_lifecycles([row(), blocker])["ETH/USD", "T1"].pending == (blocker,)


def test_a_blocker_on_another_symbol_of_the_trade_blocks_too():
    blocker = row("T1", "EXIT", status="new", symbol="BTC/USD")
    lifecycles = build_lifecycles([row(), row("T2"), blocker])
    assert lifecycles["ETH/USD", "T1"].pending == (blocker,)
    assert lifecycles["ETH/USD", "T2"].pending == ()


def test_the_settled_statuses_are_those_of_the_runbook_and_the_design():
    assert {"filled", "partially_filled", "partially-filled"} == FILLED
    assert {
        "canceled", "cancelled", "expired", "rejected", "failed", "replaced", "done_for_day",
    } == TERMINAL_UNFILLED  # fmt: skip


ENTRY = "09:00:00  ENTRY  T1  buy  2"


@pytest.mark.parametrize(
    ("line", "defect"),
    [
        ("09:00:00 ENTRY T1 buy 1 @1 - symbol=BTC/USD", "one trade_id stands on 2 symbols: BTC/USD, ETH/USD"),
        ("09:00:00 ENTRY T1 buy 1 @1 - symbol=ETHUSD", "one trade_id stands on 2 symbols: ETH/USD, ETHUSD"),
        ("09:00:00 ENTRY T1 sell 1", "its ENTRY rows have two sides"),
        ("10:00:00 CLOSE T1 sell 1 @1 - id=r", "row r has action 'CLOSE', expected ENTRY or EXIT"),
        ("10:00:00 exit T1 sell 1 @1 - id=r", "row r has action 'exit', expected ENTRY or EXIT"),
        ("10:00:00 EXIT T1 sell 0 @1 - id=r problem=both-NULL", "row r: both-NULL"),
        (
            "10:00:00 EXIT T1 sell 1 @1 - id=r symbol=",
            "one trade_id stands on 2 symbols: , ETH/USD; row r has no symbol",
        ),
        ("10:00:00 EXIT T1 flat 1 @1 - id=r", "row r has side 'flat', expected buy or sell"),
        ("10:00:00 EXIT T1 buy 1 @1 - id=r", "EXIT row r is on the trade's own entry side, buy"),
        (
            "08:59:59.999999 EXIT T1 sell 1 @1 - id=r",
            "EXIT row r is filled before the trade begins at 2026-03-01T09:00:00.000000Z",
        ),
    ],
)
def test_each_defect_is_named_and_the_same_row_unfilled_is_none(line, defect):
    assert "; ".join(defects_of(ENTRY, line)) == defect
    unfilled = line if " - " in line else line + " @1 -"
    assert defects_of(ENTRY, unfilled + " status=canceled") == ()


def test_a_row_without_a_symbol_is_a_defect_even_alone():
    (lifecycle,) = build_lifecycles([row(symbol="", order_id="r")]).values()
    assert lifecycle.defects == ("row r has no symbol",)


def test_all_defects_are_named_not_only_the_first():
    found = defects_of(
        ENTRY,
        "09:00:00 ENTRY T1 sell 1 @1 - symbol=BTC/USD",
        "10:00:00 WAIT  T1 up   1 @1 - id=r problem=quantity-and-qty-differ",
    )
    assert found == (
        "one trade_id stands on 2 symbols: BTC/USD, ETH/USD",
        "its ENTRY rows have two sides",
        "row r has action 'WAIT', expected ENTRY or EXIT",
        "row r: quantity-and-qty-differ",
        "row r has side 'up', expected buy or sell",
    )


@pytest.mark.parametrize(
    "line",
    [
        "09:00:00 EXIT T1 sell 1",
        "10:00:00 EXIT T1 - 1",
        "09:00:00 ENTRY T1 - 1",
        "09:00:00 ENTRY T1 BUY 1",
        "10:00:00 EXIT T1 SELL 1",
        "10:00:00 EXIT T1 sell 1 @- -",
        "09:00:01 EXIT T1 sell 1 @1 - created=08:00:00",
    ],
)
def test_what_is_in_order_is_no_defect(line):
    assert defects_of(ENTRY, line) == ()


def test_an_exit_after_the_entry_was_placed_is_not_too_early():
    assert defects_of("09:30:00 ENTRY T1 buy 2 @1 - created=09:00:00", "09:10:00 EXIT T1 sell 1") == ()


def test_an_exit_is_too_early_only_before_the_earliest_time_of_the_earliest_entry():
    """Of two entries the first counts, by its fill where the backend stamped the row later."""
    entries = ("09:00:00 ENTRY T1 buy 2 @1 - created=09:05:00", "09:30:00 ENTRY T1 buy 1")
    assert defects_of(*entries, "09:02:00 EXIT T1 sell 1") == ()
    (defect,) = defects_of(*entries, "08:59:00 EXIT T1 sell 1")
    assert defect.endswith("is filled before the trade begins at 2026-03-01T09:00:00.000000Z")


def test_an_entry_without_side_among_sells_is_a_second_side():
    assert defects_of("09:00:00 ENTRY T1 sell 2", "09:01:00 ENTRY T1 - 1") == ("its ENTRY rows have two sides",)


def test_the_defects_of_one_trade_are_not_its_neighbours():
    assert defects_of(ENTRY, "09:00:00 ENTRY T2 sell 1", "08:00:00 CLOSE T2 up 1 @1 - symbol=BTC/USD") == ()
