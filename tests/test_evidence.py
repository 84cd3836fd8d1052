"""Evidence units, and what rows already hold of them (rules.md 2 and 5). Invariant 6 begins here."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal, Inexact, localcontext
from itertools import permutations

import pytest
from builders import at, clock_of, facts_of, fill, ledger, left, row, unit

from recon.domain import Side
from recon.evidence import CLOCK_TOLERANCE, Ledger, build_units, volume_weighted_price
from recon.identity import canonical_decimal
from recon.lifecycles import build_lifecycles
from recon.plan import EXACT, Facts, book


def booked(facts: Facts) -> Ledger:
    """What the facts' rows leave of its fills; when a row was created says nothing about that."""
    early = replace(facts, rows=tuple(replace(one, created_at=at("00:00:00")) for one in facts.rows))
    with localcontext(EXACT):
        held, other = (book(told, build_lifecycles(told.rows)) for told in (facts, early))
    assert (taken(other), left(other), listed(other)) == (taken(held), left(held), listed(held))
    return held


def listed(held: Ledger) -> list[tuple[str, str]]:
    """The rows that need a look, with the reason."""
    return [(one.order_id, why) for one, why in held.unmatched]


def taken(held: Ledger) -> dict[str, str]:
    """Who holds what: {`row-1 X1 10:00:00`: `0.5`}."""
    return {
        f"{take.row.order_id} {take.unit[2]} {clock_of(take.unit[3])}": canonical_decimal(take.qty)
        for take in held.takes.values()
    }


NEAREST = "no order matches it; it spends from the nearest fills"
NO_FILL = "no fill carries its exchange_order_id; it spends nothing"


# Units


def test_fills_of_one_order_at_one_instant_are_one_unit():
    (made,) = build_units([fill(qty="1", price="100"), fill(qty="3", price="104"), fill(qty="0.5", price="104")])
    assert (made.qty, made.symbol, made.side) == (Decimal("4.5"), "ETHUSD", Side.SELL)
    assert made.price == Decimal("103.111111111111")
    assert made.key == ("ETHUSD", Side.SELL, "X1", at("10:00:00"))
    assert made.order == ("ETHUSD", Side.SELL, "X1")


@pytest.mark.parametrize(
    "other",
    [
        fill(clock="10:00:00.000001"),
        fill("X2"),
        fill(side="buy"),
        fill(symbol="BTC/USD"),
    ],
)
def test_another_instant_order_side_or_symbol_is_another_unit(other):
    assert len(build_units([fill(), other])) == 2


def test_every_spelling_of_a_symbol_falls_into_one_unit():
    (made,) = build_units([fill(symbol=name) for name in ("ETH/USD", "eth-usd", "ETHUSD", "ETH:USD", "ETH_USD")])
    assert made.qty == 5


def test_units_stand_in_canonical_order_whatever_the_order_of_the_fills():
    fills = [
        fill("X2"),
        fill("X10"),
        fill("X9", clock="09:00:00"),
        fill("X1", side="buy", clock="11:00:00"),
        fill("X0", symbol="BTC/USD", clock="11:30:00"),
    ]
    assert {build_units(order) for order in permutations(fills)} == {build_units(fills)}
    found = [(one.symbol, one.side, one.exchange_order_id, clock_of(one.filled_at)) for one in build_units(fills)]
    assert found == [
        ("BTCUSD", "sell", "X0", "11:30:00"),
        ("ETHUSD", "buy", "X1", "11:00:00"),
        ("ETHUSD", "sell", "X9", "09:00:00"),
        ("ETHUSD", "sell", "X10", "10:00:00"),
        ("ETHUSD", "sell", "X2", "10:00:00"),
    ]


def test_a_unit_keeps_each_client_order_id_once_and_sorted():
    fills = [fill(qty="1", client_order_id="b"), fill(qty="2", client_order_id="a"), fill(qty="3", client_order_id="b")]
    assert build_units([*fills, fill(qty="4"), fill(qty="5", client_order_id="")])[0].client_order_ids == ("a", "b")


def test_fees_add_up_per_currency_in_upper_case():
    fills = [
        fill(qty="1", fee=Decimal("0.1"), fee_currency="eth"),
        fill(qty="2", fee=Decimal("0.02"), fee_currency="ETH"),
        fill(qty="3", fee=Decimal("-0.5"), fee_currency="USD"),
        fill(qty="4", fee=None, fee_currency="ETH"),
        fill(qty="5", fee=Decimal(7), fee_currency=None),
        fill(qty="6", fee=Decimal(1), fee_currency="bnb"),
    ]
    assert build_units(fills)[0].fees == (("BNB", Decimal(1)), ("ETH", Decimal("0.12")), ("USD", Decimal("-0.5")))


@pytest.mark.parametrize(
    ("parts", "price"),
    [
        ([("2", "1.1234567890123456")], "1.1234567890123456"),
        ([("1", "0.000000000001"), ("1", "0.000000000002")], "0.000000000002"),
        ([("1", "0.000000000002"), ("1", "0.000000000003")], "0.000000000002"),
        ([("1", "0.000000000003"), ("1", "0.000000000004")], "0.000000000004"),
        ([("1", "1"), ("2", "2")], "1.666666666667"),
        ([("1", "1"), ("1", "1")], "1"),
        ([("3", "10"), ("1", "20")], "12.5"),
        ([("1E+30", "7"), ("1E-18", "9")], "7"),
        ([("1", "12345678901234567890.5"), ("1", "12345678901234567891.5")], "12345678901234567891"),
        ([("1E+30", "123456789.123456789012"), ("1E+30", "123456789.123456789014")], "123456789.123456789013"),
    ],
)
def test_a_price_is_one_fills_own_or_the_vwap_half_even_to_twelve_decimals(parts, price):
    exact = [(Decimal(qty), Decimal(cost)) for qty, cost in parts]
    with localcontext(EXACT):
        assert volume_weighted_price(exact) == Decimal(price)


def test_sums_of_huge_and_tiny_fills_stay_exact_and_the_context_traps_rounding():
    with localcontext(EXACT):
        (made,) = build_units([fill(qty="1E+30"), fill(qty="1E-18")])
        assert made.qty == Decimal("1" + "0" * 30 + "." + "0" * 17 + "1")
        with pytest.raises(Inexact):
            Decimal(1) / Decimal(3)


def test_a_ledger_takes_what_is_there_says_what_is_short_and_gives_back():
    held = Ledger.of([unit("X1", "2"), unit("X2", "3", "10:01:00")])
    first, second = held.units
    exiting = row("T1", "EXIT")
    assert held.take(exiting, [first, second], Decimal(4)) == 0
    assert left(held) == {"X1 10:00:00": "0", "X2 10:01:00": "1"}
    assert held.take(exiting, [second, first], Decimal(3)) == 2
    assert taken(held) == {"T1-EXIT-09:00:00 X1 10:00:00": "2", "T1-EXIT-09:00:00 X2 10:01:00": "3"}
    held.give_back(held.takes[second, exiting.order_id])
    assert left(held) == {"X1 10:00:00": "0", "X2 10:01:00": "3"}
    assert taken(held) == {"T1-EXIT-09:00:00 X1 10:00:00": "2"}


# Recorded: by exchange_order_id


@ledger
def test_a_row_takes_its_orders_units_backwards_from_its_own_time_then_the_earliest_after(facts):
    """
    4.5 of order X1 at 10:02: 10:02, 10:01 and 10:00 first, then 10:03; 10:04 is left, and X2 is another's.

        10:02:00  EXIT  T1  sell  4.5  @100  X1
        10:00:00  fill  X1  sell  1
        10:01:00  fill  X1  sell  1
        10:02:00  fill  X1  sell  1
        10:03:00  fill  X1  sell  2
        10:04:00  fill  X1  sell  1
        10:02:00  fill  X2  sell  1
    """
    assert left(booked(facts)) == {
        "X1 10:00:00": "0",
        "X1 10:01:00": "0",
        "X1 10:02:00": "0",
        "X2 10:02:00": "1",
        "X1 10:03:00": "0.5",
        "X1 10:04:00": "1",
    }


@ledger
def test_backwards_means_the_latest_first(facts):
    """
    One of three units at or before the row: the nearest before it.

        10:02:30  EXIT  T1  sell  1  @100  X1
        10:00:00  fill  X1  sell  1
        10:02:00  fill  X1  sell  1
        10:02:31  fill  X1  sell  1
    """
    assert left(booked(facts)) == {"X1 10:00:00": "1", "X1 10:02:00": "0", "X1 10:02:31": "1"}


@ledger
def test_any_action_and_rows_without_a_trade_hold_fills_too(facts):
    """
    An entry of another trade, an exit that names no trade, an action that nobody knows: each holds its order.

        10:00:00  ENTRY   T2  sell  1  @100  X1
        10:00:00  EXIT    -   sell  1  @100  X2
        10:00:00  ADJUST  -   sell  1  @100  X3
        10:00:00  ADJUST  T3  -     1  @100  X4
        10:00:00  ADJUST  T3  ?     1  @100  X5
        10:00:00  fill  X1  sell  1
        10:00:00  fill  X2  sell  1
        10:00:00  fill  X3  sell  1
        10:00:00  fill  X4  buy   1
        10:00:00  fill  X5  sell  1
    """
    assert set(left(booked(facts)).values()) == {"0"}


@ledger
def test_a_side_that_was_only_assumed_yields_to_the_exchange_order_id(facts):
    """
    The exit of a short lost its trade_id and has no side: it still holds the buying order that it names.

        10:00:00  EXIT  -   -     1  @100  X1
        10:00:00  EXIT  -   -     1  @100  -   client=c2
        10:00:00  fill  X1  buy   1
        10:10:00  fill  X2  buy   1  client=c2
    """
    assert left(booked(facts)) == {"X1 10:00:00": "0", "X2 10:10:00": "0"}


@ledger
def test_ids_are_unique_within_a_side_only_and_a_stated_side_counts(facts):
    """
    The venue gave id 7 to a buy and to a sell; the rows say which is theirs.

        10:00:00  EXIT   T1  sell  1  @100  7
        10:00:00  ENTRY  T2  buy   2  @100  7
        10:00:00  ENTRY  T3  buy   2  @100  8
        10:00:00  fill  7  sell  3
        10:00:00  fill  7  buy   3
        10:00:00  fill  8  sell  3
    """
    held = booked(facts)
    assert {(key[1], key[2]): str(qty) for key, qty in held.left.items()} == {
        ("sell", "7"): "2",
        ("buy", "7"): "1",
        ("sell", "8"): "1",
    }
    assert listed(held) == [("row-2", "its exchange order is a sell; it spends from that")]


@ledger
def test_an_order_that_no_fill_names_any_more_is_found_by_its_client_id(facts):
    """
    The exit was edited: the venue gave it a new id, and kept the client's; another row's order is nowhere.

        10:00:00  EXIT  T1  sell  1  @100  OLD   client=c1
        10:00:00  EXIT  T2  sell  1  @100  GONE  client=c9
        10:00:00  fill  NEW  sell  2  client=c1
    """
    held = booked(facts)
    assert left(held) == {"NEW 10:00:00": "1"}
    assert listed(held) == [("row-1", NO_FILL)]


@ledger
def test_a_stated_side_yields_where_only_the_other_side_has_such_an_order(facts):
    """
    The backend wrote the position's side on an exit, and once the wrong client id's: the fills are theirs all the same.

        10:00:00  EXIT  T1  buy  1  @100  X1
        10:10:00  EXIT  T2  buy  1  @100  -   client=c2
        10:00:00  fill  X1  sell  1
        10:10:00  fill  X2  sell  1  client=c2
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "0", "X2 10:10:00": "0"}
    assert {why for _, why in listed(held)} == {"its exchange order is a sell; it spends from that"}


@ledger
def test_a_uuid_is_one_id_however_it_is_spelled(facts):
    """
    A uuid column gives back lower case with hyphens, the exchange wrote it otherwise.

        10:00:00  EXIT  T1  sell  1  @100  a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
        10:10:00  EXIT  T2  sell  1  @100  -  client=a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12
        10:00:00  fill  A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11  sell  1
        10:10:00  fill  X2  sell  1  client=A0EEBC999C0B4EF8BB6D6BB9BD380A12
    """
    assert set(left(booked(facts)).values()) == {"0"}


@ledger
def test_an_id_on_another_symbol_is_another_order_but_another_spelling_is_the_same(facts):
    """
    Order 7 of ETH-USD is the row's; order 7 of BTC/USD is not.

        10:00:00  EXIT  T1  sell  1  @100  7  symbol=ETH/USD
        10:00:00  fill  7  sell  1  symbol=BTC/USD
        10:00:00  fill  7  sell  1  symbol=eth-usd
    """
    assert {key[0]: str(qty) for key, qty in booked(facts).left.items()} == {"BTCUSD": "1", "ETHUSD": "0"}


@ledger
def test_rows_that_are_not_filled_or_hold_nothing_take_nothing(facts):
    """
    Canceled, zero and negative rows leave the order alone, and nobody needs to look for theirs.

        10:00:00  EXIT  T1  sell  1   @100  X1  status=canceled
        10:00:00  EXIT  T1  sell  0   @100  X1
        10:00:00  EXIT  T1  sell  0   @100  X9
        10:30:00  EXIT  T1  sell  0   @100  -
        10:00:00  EXIT  T1  sell  -1  @100  X1
        10:00:00  EXIT  T1  sell  -1  @100  X9
        10:30:00  EXIT  T1  sell  -1  @100  -
        10:00:00  fill  X1  sell  1
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "1"}
    assert listed(held) == []


@ledger
def test_a_row_larger_than_its_order_takes_all_of_it_and_is_listed(facts):
    """
    Two and a half of one.

        10:00:00  EXIT  T1  sell  2.50000000  @100  X1  id=big
        10:00:00  fill  X1  sell  1
        10:00:00  fill  X2  sell  9
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "0", "X2 10:00:00": "9"}
    assert listed(held) == [("big", "its order's fills fall short of it by 1.5")]


@ledger
def test_an_exchange_order_id_that_no_fill_carries_spends_nothing_and_is_listed_inside_the_window(facts):
    """
    Neither its size nor its time helps a row that names another order; before the window nothing is expected.

        window 09:00:00 11:00:00
        10:00:00  EXIT  T1  sell  1  @100  X9  id=inside
        09:00:00  EXIT  T1  sell  1  @100  X7  id=first
        11:00:00  EXIT  T1  sell  1  @100  X6  id=last
        08:59:59  EXIT  T1  sell  1  @100  X8  id=before
        10:00:00  fill  X1  sell  1
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "1"}
    assert listed(held) == [("first", NO_FILL), ("inside", NO_FILL), ("last", NO_FILL)]


# Recorded: without exchange_order_id


@ledger
def test_client_order_id_comes_before_size_and_time(facts):
    """
    X1 has the size and the second; X2 has the client order id.

        10:00:00  EXIT  T1  sell  1  @100  -  client=c2
        10:00:00  fill  X1  sell  1  client=c1
        10:30:00  fill  X2  sell  1  client=c2
    """
    assert left(booked(facts)) == {"X1 10:00:00": "1", "X2 10:30:00": "0"}


@ledger
def test_one_client_order_id_may_stand_for_several_orders(facts):
    """
    A replaced order kept its client order id: the row takes from both, backwards from its own time.

        10:20:00  EXIT  T1  sell  2.5  @100  -  client=c
        10:00:00  fill  X1  sell  1  client=c
        10:10:00  fill  X1  sell  1  client=c
        10:20:00  fill  X2  sell  1  client=c
    """
    assert left(booked(facts)) == {"X1 10:00:00": "0.5", "X1 10:10:00": "0", "X2 10:20:00": "0"}


@ledger
def test_the_units_of_several_orders_are_taken_by_time_not_order_by_order(facts):
    """
    Backwards from 10:40 come 10:30 and half of 10:20; forwards from 09:00, what is next of either.

        10:40:00  EXIT  T1  sell  1.5  @100  -  client=c  id=backwards
        09:00:00  EXIT  T1  sell  1.5  @100  -  client=d  id=forwards
        10:00:00  fill  X1  sell  1  client=c
        10:30:00  fill  X1  sell  1  client=c
        10:20:00  fill  X2  sell  1  client=c
        10:00:00  fill  Y2  sell  1  client=d
        10:30:00  fill  Y2  sell  1  client=d
        10:20:00  fill  Y1  sell  1  client=d
    """
    assert taken(booked(facts)) == {
        "backwards X1 10:30:00": "1",
        "backwards X2 10:20:00": "0.5",
        "forwards Y2 10:00:00": "1",
        "forwards Y1 10:20:00": "0.5",
    }


@ledger
def test_then_the_order_id_names_the_exchange_order_or_its_client_order_id(facts):
    """
    The backend used the exchange's id, or its own client id, as order_id.

        10:00:00  EXIT  T1  sell  1  @100  -  id=X2
        10:00:00  EXIT  T1  sell  1  @100  -  id=c3
        10:00:00  fill  X1  sell  1
        10:30:00  fill  X2  sell  1
        10:40:00  fill  X3  sell  1  client=c3
    """
    assert left(booked(facts)) == {"X1 10:00:00": "1", "X2 10:30:00": "0", "X3 10:40:00": "0"}


@ledger
def test_an_order_id_that_is_an_exchange_order_is_not_looked_up_as_client_id(facts):
    """
    X2 is an exchange order, and by chance also the client id of X3.

        10:00:00  EXIT  T1  sell  2  @100  -  id=X2
        10:00:00  fill  X2  sell  1
        10:00:00  fill  X3  sell  1  client=X2
    """
    assert left(booked(facts)) == {"X2 10:00:00": "0", "X3 10:00:00": "1"}


@ledger
def test_the_client_order_id_beats_the_order_id(facts):
    """
    Both name an order; the client order id decides.

        10:00:00  EXIT  T1  sell  1  @100  -  id=X1 client=c2
        10:00:00  fill  X1  sell  1
        10:00:00  fill  X2  sell  1  client=c2
    """
    assert left(booked(facts)) == {"X1 10:00:00": "1", "X2 10:00:00": "0"}


@ledger
def test_an_exchange_order_id_beats_a_client_order_id(facts):
    """
    The row names X1; its client order id is not looked at.

        10:00:00  EXIT  T1  sell  1  @100  X1  client=c2
        10:00:00  fill  X1  sell  1
        10:00:00  fill  X2  sell  1  client=c2
    """
    assert left(booked(facts)) == {"X1 10:00:00": "0", "X2 10:00:00": "1"}


@ledger
def test_a_row_equal_to_an_untouched_orders_total_near_its_last_instant_is_that_order(facts):
    """
    3 ends at 10:01; X1 is nearer but larger, so that it would only be a part.

        10:01:05  EXIT  T1  sell  3  @100
        10:01:05  fill  X1  sell  4
        10:00:00  fill  X2  sell  1
        10:01:00  fill  X2  sell  2
    """
    assert left(booked(facts)) == {"X2 10:00:00": "0", "X2 10:01:00": "0", "X1 10:01:05": "4"}


@pytest.mark.parametrize(
    ("clock", "equal"),
    [("09:59:55", True), ("10:00:05", True), ("09:59:54.999999", False), ("10:00:05.000001", False)],
)
def test_near_is_five_seconds_on_either_side(clock, equal):
    """Further off, the equal order loses to the nearer one."""
    facts = facts_of(
        f"{clock} EXIT T1 sell 2 @100",
        "10:00:00 fill X1 sell 2",
        "09:59:50 fill X2 sell 8",
        "10:00:10 fill X2 sell 8",
    )
    assert (left(booked(facts))["X1 10:00:00"] == "0") is equal
    assert timedelta(seconds=5) == CLOCK_TOLERANCE


@ledger
def test_equal_means_the_last_instant_a_part_any_instant(facts):
    """
    X1's first instant is near and its total equal, but it went on for an hour: only a part of it, where X2,
    nearer, is taken instead.

        10:00:04  EXIT  T1  sell  2  @100
        10:00:00  fill  X1  sell  1
        11:00:00  fill  X1  sell  1
        10:00:03  fill  X2  sell  5
    """
    assert left(booked(facts)) == {"X1 10:00:00": "1", "X2 10:00:03": "3", "X1 11:00:00": "1"}


@ledger
def test_an_order_that_another_row_touched_is_not_equal(facts):
    """
    T2's row names X1 and took one of it. The other row equals X1's total, but only X2 has that much left.

        10:00:00  EXIT  T2  sell  1  @100  X1
        10:00:00  EXIT  T1  sell  3  @100
        10:00:00  fill  X1  sell  3
        10:00:02  fill  X2  sell  4
    """
    assert left(booked(facts)) == {"X1 10:00:00": "2", "X2 10:00:02": "1"}


@ledger
def test_an_order_of_which_one_instant_was_touched_is_not_equal_either(facts):
    """
    Of X1's two instants T2 took one whole; the other is as it was.

        10:00:00  EXIT  T2  sell  1  @100  X1
        10:00:02  EXIT  T1  sell  3  @100
        10:00:00  fill  X1  sell  1
        10:00:02  fill  X1  sell  2
        10:00:03  fill  X2  sell  4
    """
    assert left(booked(facts)) == {"X1 10:00:00": "0", "X1 10:00:02": "2", "X2 10:00:03": "1"}


@ledger
def test_of_two_equal_orders_the_nearest_and_then_the_first_id(facts):
    """
    The first row is nearest to X3; the second lies between X1 and X2.

        10:00:02  EXIT  T1  sell  1  @100
        10:30:02  EXIT  T1  sell  1  @100
        10:00:00  fill  X4  sell  1
        10:00:03  fill  X3  sell  1
        10:30:00  fill  X2  sell  1
        10:30:04  fill  X1  sell  1
    """
    assert left(booked(facts)) == {"X4 10:00:00": "1", "X3 10:00:03": "0", "X2 10:30:00": "1", "X1 10:30:04": "0"}


@ledger
def test_equal_rows_are_settled_before_parts_whatever_their_time(facts):
    """
    The part comes first in time; the equal row still gets its order whole.

        10:00:00  EXIT  T1  sell  1  @100  -  id=part
        10:00:01  EXIT  T1  sell  2  @100  -  id=equal
        10:00:01  fill  X1  sell  2
        10:00:03  fill  X2  sell  5
    """
    assert taken(booked(facts)) == {"equal X1 10:00:01": "2", "part X2 10:00:03": "1"}


@ledger
def test_a_part_is_no_larger_than_what_is_left_of_the_order(facts):
    """
    X1, the nearest, has only one left; X2 has two, over two instants, the row's size exactly.

        10:00:00  EXIT  T2  sell  2  @100  X1
        10:00:00  EXIT  T2  sell  1  @100  X2
        10:00:00  EXIT  T1  sell  2  @100  -  id=part
        10:00:00  fill  X1  sell  3
        09:59:58  fill  X2  sell  2
        10:30:00  fill  X2  sell  1
    """
    assert left(booked(facts)) == {"X2 09:59:58": "0", "X1 10:00:00": "1", "X2 10:30:00": "0"}


@pytest.mark.parametrize(("clock", "part"), [("10:00:05", True), ("10:00:05.000001", False)])
def test_a_part_is_near_within_five_seconds_too(clock, part):
    """Else nothing matches the row, and it is listed."""
    held = booked(facts_of(f"{clock} EXIT T1 sell 2 @100", "10:00:00 fill X1 sell 8"))
    assert (left(held), bool(listed(held))) == ({"X1 10:00:00": "6"}, not part)


@ledger
def test_a_part_goes_to_the_order_with_the_nearest_instant_then_the_first_id(facts):
    """
    X3 has the nearest instant although its first is far; at 10:30 X1 and X2 are equally near.

        10:00:02  EXIT  T1  sell  1  @100  -  id=a
        10:30:00  EXIT  T1  sell  1  @100  -  id=b
        10:00:00  fill  X4  sell  9
        09:00:00  fill  X3  sell  4
        10:00:01  fill  X3  sell  5
        10:30:01  fill  X2  sell  9
        10:30:01  fill  X1  sell  9
    """
    assert taken(booked(facts)) == {"a X3 10:00:01": "1", "b X1 10:30:01": "1"}


@ledger
def test_a_row_that_nothing_matches_spends_from_the_nearest_units_and_is_listed(facts):
    """
    10:00 is a minute and more from everything: 3 come from 09:58:50, then 10:01:20; the buy is another side.

        10:00:00  EXIT  T1  sell  3  @100  -  id=lost
        09:58:50  fill  X1  sell  2
        10:01:20  fill  X2  sell  2
        09:00:00  fill  X3  sell  2
        10:00:10  fill  X4  buy   2
        10:00:00  fill  X5  sell  2  symbol=BTC/USD
    """
    held = booked(facts)
    assert taken(held) == {"lost X1 09:58:50": "2", "lost X2 10:01:20": "1"}
    assert listed(held) == [("lost", NEAREST)]


@ledger
def test_equally_near_units_are_taken_earliest_first_then_by_order(facts):
    """
    Ten seconds before and after, and two orders at one instant, of which X3 began earlier.

        10:00:10  EXIT  T1  sell  1.5  @100  -  id=lost
        10:00:20  fill  X1  sell  1
        10:00:00  fill  X3  sell  1
        09:00:00  fill  X3  sell  1
        10:00:00  fill  X2  sell  1
    """
    assert taken(booked(facts)) == {"lost X2 10:00:00": "1", "lost X3 10:00:00": "0.5"}


@ledger
def test_what_the_nearest_units_cannot_cover_is_said(facts):
    """
    Five of two.

        10:00:10  EXIT  T1  sell  5  @100  -  id=lost
        10:00:00  fill  X1  sell  2
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "0"}
    assert listed(held) == [("lost", f"{NEAREST}; 3 of it found no fill at all")]


@ledger
def test_outside_the_window_a_row_that_nothing_matches_spends_nothing(facts):
    """
    The first and the last instant still belong to the window; the row at 11:00:01 does not.

        window 09:00:00 11:00:00
        11:00:01  EXIT  T1  sell  9  @100  -  id=after
        09:00:00  EXIT  T1  sell  1  @100  -  id=first
        11:00:00  EXIT  T1  sell  1  @100  -  id=last
        10:00:00  fill  X1  sell  8
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "6"}
    assert listed(held) == [("first", NEAREST), ("last", NEAREST)]


@ledger
def test_a_row_just_outside_the_window_still_matches_a_fill_inside(facts):
    """
    The backend stamped it three seconds late.

        window 09:00:00 11:00:00
        11:00:03  EXIT  T1  sell  1  @100
        11:00:00  fill  X1  sell  1
    """
    assert left(booked(facts)) == {"X1 11:00:00": "0"}


@ledger
def test_a_row_whose_side_nobody_knows_spends_from_either_side(facts):
    """
    An action that nobody knows, without a side: unknown is never a yes, so the nearest fills are withheld.

        10:00:10  ADJUST  -  -  3  @100  -  id=what
        10:00:00  fill  X1  sell  2
        10:00:30  fill  X2  buy   2
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "0", "X2 10:00:30": "1"}
    assert listed(held) == [("what", NEAREST)]


@ledger
def test_one_id_on_two_sides_is_one_order_to_a_row_of_unknown_side(facts):
    """
    Its last instant is the buy at 10:00:20, far from the row, so that it is not the equal order.

        10:00:00  ADJUST  -  -  2  @100  -  id=what
        10:00:20  fill  7  buy   1
        10:00:00  fill  7  sell  1
        10:00:02  fill  8  sell  2
    """
    assert taken(booked(facts)) == {"what 8 10:00:02": "2"}


# Spent: backfill rows


@ledger
def test_a_backfill_row_spends_the_unit_that_its_id_names(facts):
    """
    At 10:00 three orders filled; only X2 hashes to the row's id. Its exchange_order_id is not needed.

        10:00:00  BFILL  T1  sell  1.5  @110  X2
        10:00:00  fill  X1  sell  2
        10:00:00  fill  X2  sell  2
        10:00:00  fill  X3  sell  2
        10:00:01  fill  X2  sell  2
    """
    without = Facts(facts.profile_id, tuple(_without_order(one) for one in facts.rows), facts.snapshot)
    for told in (facts, without):
        assert left(booked(told)) == {
            "X1 10:00:00": "2", "X2 10:00:00": "0.5", "X3 10:00:00": "2", "X2 10:00:01": "2",
        }  # fmt: skip


def _without_order(one):
    return row(one.trade_id, "EXIT", str(one.quantity), "10:00:00", order_id=one.order_id, raw_side=one.raw_side)


@ledger
def test_backfill_rows_spend_before_ordinary_rows_record(facts):
    """
    The ordinary row came first, but the unit is the backfill row's; the other finds only half of its own.

        09:00:00  EXIT   T2  sell  1  @110  X1  id=other
        10:00:00  BFILL  T1  sell  1  @110  X1
        10:00:00  fill   X1  sell  1.5
    """
    held = booked(facts)
    assert sorted(taken(held).values()) == ["0.5", "1"]
    assert listed(held) == [("other", "its order's fills fall short of it by 0.5")]


@ledger
def test_a_canceled_backfill_row_spends_nothing(facts):
    """
    It was rolled back.

        10:00:00  BFILL  T1  sell  1  @110  X1  status=canceled
        10:00:00  fill   X1  sell  1
    """
    assert left(booked(facts)) == {"X1 10:00:00": "1"}


@ledger
def test_dust_and_fee_rows_spend_nothing(facts):
    """
    They rest on no fill, even where one lies at their instant.

        09:00:00  BFILL  T1  sell  0.001  @110  DUST
        09:00:00  BFILL  T1  sell  0.002  @110  FEE
        09:00:00  fill   X1  sell  1
    """
    held = booked(facts)
    assert left(held) == {"X1 09:00:00": "1"}
    assert listed(held) == []


@ledger
def test_a_backfill_row_of_an_instant_outside_the_window_spends_nothing_in_it(facts):
    """
    An earlier batch closed T1 with X1's fill of 08:00, which is not fetched any more; the fill of 10:00 is free.

        window 09:00:00 11:00:00
        08:00:00  BFILL  T1  sell  1  @110  X1
        10:00:00  fill   X1  sell  1
    """
    held = booked(facts)
    assert left(held) == {"X1 10:00:00": "1"}
    assert listed(held) == []


@ledger
def test_a_backfill_row_goes_on_spending_when_its_fills_come_back_at_other_instants(facts):
    """
    X1 was exported in microseconds when it was repaired, and now in milliseconds; X2 was one line, and is two now.

        10:00:00.000600  BFILL  T1  sell  1  @110  X1
        10:30:00         BFILL  T2  sell  2  @110  X2
        10:00:00         fill   X1  sell  1
        10:29:00         fill   X2  sell  1
        10:30:00         fill   X2  sell  1
    """
    held = booked(facts)
    assert set(left(held).values()) == {"0"}
    assert listed(held) == []


@ledger
def test_of_two_units_with_one_id_a_backfill_row_spends_the_one_on_its_side(facts):
    """
    The venue's ids are unique within a side only; the repaired trade was long, then the other one short.

        10:00:00  BFILL  T1  sell  1  @110  7
        10:00:00  BFILL  T2  buy   2  @110  7
        10:00:00  fill   7   sell  3
        10:00:00  fill   7   buy   3
    """
    assert {key[1]: str(qty) for key, qty in booked(facts).left.items()} == {"sell": "2", "buy": "1"}


@ledger
def test_a_backfill_row_larger_than_its_unit_takes_nothing_from_the_other_side(facts):
    """
    Somebody enlarged the row: all of the unit is spent, and the buy of the same id is still there.

        10:00:00  BFILL  T1  sell  4  @110  7
        10:00:00  fill   7   buy   3
        10:00:00  fill   7   sell  3
    """
    assert {key[1]: str(qty) for key, qty in booked(facts).left.items()} == {"sell": "0", "buy": "3"}


@ledger
def test_of_backfill_rows_that_spend_too_much_the_order_of_rows_does_not_choose(facts):
    """
    Three of two: whichever row is read first, the same one falls short.

        10:00:00  BFILL  T1  sell  1    @110  X1
        10:00:00  BFILL  T2  sell  1    @110  X1
        10:00:00  BFILL  T3  sell  1.5  @110  X1
        10:00:00  fill   X1  sell  2
    """
    assert (
        len({str(sorted(taken(booked(replace(facts, rows=rows))).items())) for rows in permutations(facts.rows)}) == 1
    )


@ledger
def test_a_stranger_among_the_backfill_rows_is_booked_like_any_other_row(facts):
    """
    Ids that name no unit: one still carries its exchange order, one nothing at all, one lies before the window.

        window 09:00:00 11:00:00
        10:00:00  EXIT  T1  sell  1  @110  X1  id=BFILL-moved
        10:00:00  EXIT  T2  sell  1  @110  -   id=BFILL-alone
        08:00:00  EXIT  T3  sell  1  @110  -   id=BFILL-early
        10:10:00  fill  X1  sell  1
        10:20:00  fill  X2  sell  2
    """
    held = booked(facts)
    assert taken(held) == {"BFILL-moved X1 10:10:00": "1", "BFILL-alone X2 10:20:00": "1"}
    assert listed(held) == [("BFILL-alone", NEAREST)]


@ledger
def test_an_id_of_another_trade_profile_or_time_names_no_unit(facts):
    """
    The row claims T2's id, so that nobody can say what it rests on: it is matched by its size instead.

        10:00:00  EXIT  T1  sell  2  @110  -  id=BFILL-0a1ba5b8b7a6ad1e3fdf2ee3a2bb4c11
        10:00:00  fill  X1  sell  3
        10:00:00  fill  X2  sell  2
    """
    assert left(booked(facts)) == {"X1 10:00:00": "3", "X2 10:00:00": "0"}


def test_without_an_exchange_there_is_nothing_to_book():
    held = booked(Facts("p", (row("T1", "EXIT"),), None))
    assert (dict(held.units), held.left, held.unmatched) == ({}, {}, [])
