"""Which trade each available unit belongs to (rules.md 6). Invariant 6: nothing is given twice."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import pytest
from builders import at, clock_of, unit

from recon.allocation import Candidate, allocate
from recon.domain import Grade
from recon.identity import canonical_decimal


def trade(name: str, qty: str, begin: str = "09:00:00", symbol: str = "ETH/USD") -> Candidate:
    """An open trade of one symbol."""
    return Candidate((symbol, name), at(begin), Decimal(qty))


def given(trades, units, links=None, *, left=None, shared=False) -> list[str]:
    """The allocations as lines: `T1 X1 10:00:00 1 exact`. `left` says what is available where it is less."""
    available = {one.key: Decimal((left or {}).get(one.exchange_order_id, one.qty)) for one in units}
    by_key = {
        one.key: ("ETH/USD", links[one.exchange_order_id]) for one in units if one.exchange_order_id in (links or {})
    }
    made = allocate(trades, units, available, by_key, shared=shared)
    return [
        f"{one.trade[1]} {one.unit.exchange_order_id} {clock_of(one.unit.filled_at)} "
        f"{canonical_decimal(one.qty)} {one.grade}"
        for one in made
    ]


# Linked


def test_a_linked_unit_goes_to_its_trade_although_another_is_older_and_equal():
    assert given([trade("T1", "2"), trade("T2", "5", "09:30:00")], [unit("X1", "2")], {"X1": "T2"}) == [
        "T2 X1 10:00:00 2 linked"
    ]


def test_a_link_gives_no_more_than_is_open_and_no_more_than_is_available():
    trades = [trade("T1", "3")]
    assert given(trades, [unit("X1", "5")], {"X1": "T1"}) == ["T1 X1 10:00:00 3 linked"]
    assert given(trades, [unit("X1", "5")], {"X1": "T1"}, left={"X1": "1"}) == ["T1 X1 10:00:00 1 linked"]


def test_linked_units_are_given_oldest_first_then_by_order():
    units = [unit("X3", "2", "10:30:00"), unit("X2", "2", "10:00:00"), unit("X10", "2", "10:00:00")]
    links = {"X2": "T1", "X3": "T1", "X10": "T1"}
    assert given([trade("T1", "5")], units, links) == [
        "T1 X10 10:00:00 2 linked",
        "T1 X2 10:00:00 2 linked",
        "T1 X3 10:30:00 1 linked",
    ]


def test_a_link_to_a_trade_that_is_not_open_here_leaves_the_unit_to_the_others():
    assert given([trade("T1", "9")], [unit("X1", "2")], {"X1": "closed"}) == ["T1 X1 10:00:00 2 fifo"]


def test_what_a_link_leaves_of_a_unit_goes_on_to_the_others():
    trades = [trade("T1", "9"), trade("T2", "1", "09:30:00")]
    assert given(trades, [unit("X1", "5")], {"X1": "T2"}) == ["T2 X1 10:00:00 1 linked", "T1 X1 10:00:00 4 fifo"]


def test_not_even_a_link_reaches_back_before_the_trades_beginning():
    trades = [trade("T1", "2", "10:00:00")]
    assert given(trades, [unit("X1", "2", "09:59:59.999999")], {"X1": "T1"}) == []
    assert given(trades, [unit("X1", "2", "10:00:00")], {"X1": "T1"}) == ["T1 X1 10:00:00 2 linked"]


# Exact


def test_an_order_equal_to_one_open_quantity_goes_there_although_another_trade_is_older():
    trades = [trade("T1", "5"), trade("T2", "3", "09:30:00")]
    units = [unit("X1", "1"), unit("X1", "2", "10:01:00")]
    assert given(trades, units) == ["T2 X1 10:00:00 1 exact", "T2 X1 10:01:00 2 exact"]


def test_whole_orders_come_before_single_units():
    """X1's first unit equals T1, but X2 as a whole does too, and whole orders are surer."""
    trades = [trade("T1", "1"), trade("T2", "7")]
    units = [unit("X1", "1"), unit("X1", "3", "10:01:00"), unit("X2", "0.4", "10:02:00"), unit("X2", "0.6", "10:03:00")]
    assert given(trades, units) == [
        "T1 X2 10:02:00 0.4 exact",
        "T1 X2 10:03:00 0.6 exact",
        "T2 X1 10:00:00 1 fifo",
        "T2 X1 10:01:00 3 fifo",
    ]


def test_a_single_unit_equal_to_one_open_quantity_goes_there():
    trades = [trade("T1", "5"), trade("T2", "3", "09:30:00")]
    units = [unit("X1", "3"), unit("X1", "9", "10:01:00")]
    assert given(trades, units) == ["T2 X1 10:00:00 3 exact", "T1 X1 10:01:00 5 fifo"]


def test_equal_to_two_trades_is_not_exact():
    trades = [trade("T1", "3"), trade("T2", "3", "09:30:00")]
    assert given(trades, [unit("X1", "3")]) == ["T1 X1 10:00:00 3 fifo"]


def test_a_trade_that_began_later_is_no_second_candidate():
    trades = [trade("T1", "3"), trade("T2", "3", "10:00:01")]
    assert given(trades, [unit("X1", "3")]) == ["T1 X1 10:00:00 3 exact"]
    assert given([trades[0], trade("T2", "3", "10:00:00")], [unit("X1", "3")]) == ["T1 X1 10:00:00 3 fifo"]


def test_a_trade_that_began_between_the_instants_of_an_order_is_not_closed_by_it_whole():
    units = [unit("X1", "1", "09:30:00"), unit("X1", "2", "10:00:00")]
    assert given([trade("T1", "3", "09:30:01")], units) == ["T1 X1 10:00:00 2 fifo"]


def test_what_is_left_of_an_order_counts_not_its_total():
    trades = [trade("T1", "5"), trade("T2", "2", "09:30:00")]
    assert given(trades, [unit("X1", "5")], left={"X1": "2"}) == ["T2 X1 10:00:00 2 exact"]


def test_an_instant_of_which_nothing_is_left_does_not_hold_an_order_back():
    """The order's first instant, before the trade began, is somebody else's; the other two are the trade's."""
    units = [unit("X1", "1", "08:00:00"), unit("X1", "2", "10:00:00"), unit("X1", "3", "10:10:00")]
    available = {units[0].key: Decimal(0), units[1].key: Decimal(2), units[2].key: Decimal(3)}
    made = allocate([trade("T1", "5"), trade("T2", "9", "08:30:00")], units, available, {})
    assert [(one.grade, one.trade[1], one.unit) for one in made] == [
        (Grade.EXACT, "T1", units[1]),
        (Grade.EXACT, "T1", units[2]),
    ]


def test_what_a_link_gave_is_no_longer_needed():
    """T1 needs 4, X1 is linked and gives 1, and X2 equals the 3 that are left."""
    trades = [trade("T1", "4"), trade("T2", "9", "08:00:00")]
    units = [unit("X2", "3", "10:00:00"), unit("X1", "1", "10:01:00")]
    assert given(trades, units, {"X1": "T1"}) == ["T1 X1 10:01:00 1 linked", "T1 X2 10:00:00 3 exact"]


def test_of_two_exact_orders_the_older_one_closes_the_trade():
    units = [unit("X1", "3", "10:01:00"), unit("X2", "3", "10:00:00")]
    assert given([trade("T1", "3")], units) == ["T1 X2 10:00:00 3 exact"]


def test_equal_to_the_last_digit_is_equal_and_one_digit_off_is_not():
    trades = [trade("T1", "9"), trade("T2", "1.000000000000000001", "09:30:00")]
    assert given(trades, [unit("X1", "1.000000000000000001")]) == ["T2 X1 10:00:00 1.000000000000000001 exact"]
    assert given(trades, [unit("X1", "1.000000000000000002")]) == ["T1 X1 10:00:00 1.000000000000000002 fifo"]


@pytest.mark.parametrize("units", [[unit("X1", "3")], [unit("X1", "1"), unit("X1", "2", "10:01:00")]])
def test_where_exits_split_orders_over_trades_an_equal_size_is_a_coincidence(units):
    trades = [trade("T1", "3", "09:30:00"), trade("T2", "9", "09:00:00")]
    assert {line.split()[-1] for line in given(trades, units, shared=True)} == {"fifo"}
    assert {line.split()[0] for line in given(trades, units, shared=True)} == {"T2"}
    assert {line.split()[0] for line in given(trades, units)} == {"T1"}


def test_a_shared_order_is_linked_all_the_same():
    assert given([trade("T1", "3")], [unit("X1", "3")], {"X1": "T1"}, shared=True) == ["T1 X1 10:00:00 3 linked"]


# Fifo


def test_the_oldest_unit_goes_to_the_oldest_trade_until_either_is_used_up():
    trades = [trade("T2", "4", "09:30:00"), trade("T1", "3", "09:00:00")]
    units = [unit("X3", "2", "10:20:00"), unit("X1", "2"), unit("X2", "2.5", "10:10:00")]
    assert given(trades, units) == [
        "T1 X1 10:00:00 2 fifo",
        "T1 X2 10:10:00 1 fifo",
        "T2 X2 10:10:00 1.5 fifo",
        "T2 X3 10:20:00 2 fifo",
    ]


def test_ties_of_time_go_by_trade_id_and_order_bytewise():
    """In bytes: B before a, 10 before 9, é after z."""
    trades = [trade(name, "1") for name in ("é", "z", "a", "T9", "T10", "B")]
    units = [unit(name, "1.5") for name in ("y", "é", "X9", "X10")]
    assert [line.split()[:2] for line in given(trades, units)] == [
        ["B", "X10"],
        ["T10", "X10"],
        ["T10", "X9"],
        ["T9", "X9"],
        ["a", "y"],
        ["z", "y"],
        ["z", "é"],
        ["é", "é"],
    ]


def test_trades_with_one_id_on_two_spellings_tie_by_symbol():
    trades = [trade("T1", "5", symbol="ETHUSD"), trade("T1", "5", symbol="ETH/USD")]
    units = [unit("X1", "6")]
    made = allocate(trades, units, {units[0].key: Decimal(6)}, {})
    assert [(one.trade[0], str(one.qty)) for one in made] == [("ETH/USD", "5"), ("ETHUSD", "1")]


def test_a_unit_older_than_a_trade_passes_it_by():
    trades = [trade("T1", "3", "09:00:00"), trade("T2", "3", "10:00:01")]
    units = [unit("X1", "4", "10:00:00"), unit("X2", "2", "10:30:00")]
    assert given(trades, units) == ["T1 X1 10:00:00 3 fifo", "T2 X2 10:30:00 2 fifo"]


def test_a_unit_at_the_very_beginning_of_a_trade_is_not_older():
    assert given([trade("T1", "3", "10:00:00")], [unit("X1", "2")]) == ["T1 X1 10:00:00 2 fifo"]


def test_a_closed_trade_between_two_open_ones_is_passed_over():
    trades = [trade("T1", "5"), trade("T2", "2", "09:10:00"), trade("T3", "5", "09:20:00")]
    units = [unit("X1", "2", "10:00:00"), unit("X2", "6.5", "10:10:00")]
    assert given(trades, units) == [
        "T2 X1 10:00:00 2 exact",
        "T1 X2 10:10:00 5 fifo",
        "T3 X2 10:10:00 1.5 fifo",
    ]


# Everything together


def test_linked_then_exact_then_fifo():
    trades = [trade("T1", "4"), trade("T2", "2", "09:10:00"), trade("T3", "3", "09:20:00")]
    units = [unit("X1", "1"), unit("X2", "2", "10:10:00"), unit("X3", "5", "10:20:00")]
    assert given(trades, units, {"X1": "T3"}) == [
        "T3 X1 10:00:00 1 linked",
        "T1 X2 10:10:00 2 fifo",
        "T1 X3 10:20:00 2 fifo",
        "T2 X3 10:20:00 2 fifo",
        "T3 X3 10:20:00 1 fifo",
    ]


def test_the_order_of_trades_and_units_says_nothing():
    trades = [trade("T1", "4"), trade("T2", "2", "09:10:00"), trade("T3", "3", "09:20:00")]
    units = [unit("X1", "1"), unit("X2", "3", "10:10:00"), unit("X3", "5", "10:10:00")]
    found = {tuple(given(t, u)) for t in permutations(trades) for u in permutations(units)}
    assert len(found) == 1


def test_each_allocation_says_in_one_sentence_why():
    def why(*arguments, **options):
        return {one.grade.value: one.why for one in allocate(*arguments, **options)}

    whole, part = unit("X1", "3"), unit("X1", "9", "10:01:00")
    available = {whole.key: Decimal(3), part.key: Decimal(9)}
    one, two = trade("T1", "3"), trade("T2", "4", "08:00:00")
    assert why([one], [whole], available, {whole.key: one.key}) == {
        "linked": "its exchange order stands on this trade's rows and on no other's"
    }
    assert why([one], [whole], available, {}) == {
        "exact": "what is left of its exchange order equals this trade's open quantity and no other's"
    }
    assert why([one, two], [whole, part], available, {}) == {
        "exact": "what is left of it equals this trade's open quantity and no other's",
        "fifo": "the oldest fill that is left goes to the oldest trade still open",
    }


def test_no_trades_or_no_units_is_nothing_to_give():
    assert given([], [unit()]) == []
    assert given([trade("T1", "1")], []) == []
