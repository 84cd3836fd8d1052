"""Plans: scope, neighbours, links, colliding ids, and the digest (rules.md 6 and 8; invariants 6, 7, 9 and 11)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Context, Decimal, localcontext
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from builders import at, closing, facts_of, fill, ledger, plan_of, row, said, with_rows, written

from recon.columns import Amount, Columns
from recon.domain import Decision, Item, OpenOrder, Position, Reason, Side, Snapshot, Window
from recon.identity import canonical_json
from recon.plan import Facts, Scope, item_document, item_from, market

# Scope and neighbours

NEIGHBOURS = (
    "09:00:00  ENTRY  T1  buy   2  @100  E1",
    "09:10:00  ENTRY  T2  buy   2  @100  E2",
    "09:20:00  ENTRY  T3  buy   5  @100  E3  symbol=BTC/USD",
    "09:00:00  fill   E1  buy   2",
    "09:10:00  fill   E2  buy   2",
    "10:00:00  fill   X1  sell  2  @110",
)


def test_targets_stand_by_symbol_and_trade_bytewise():
    facts = facts_of(
        "09:00:00 ENTRY b buy 1 @100 - symbol=ETH/USD",
        "09:00:00 ENTRY B buy 1 @100 - symbol=ETH/USD",
        "09:00:00 ENTRY é buy 1 @100 - symbol=ETH/USD",
        "09:00:00 ENTRY z buy 1 @100 - symbol=BTC/USD",
    )
    assert [one.lifecycle.trade_id for one in plan_of(facts).judgements] == ["z", "B", "b", "é"]


@pytest.mark.parametrize(
    ("scope", "targets"),
    [
        (Scope(), ["T3", "T1", "T2"]),
        (Scope(trade_ids=("T2",)), ["T2"]),
        (Scope(trade_ids=("T2", "T3")), ["T3", "T2"]),
        (Scope(symbols=("ETH/USD",)), ["T1", "T2"]),
        (Scope(symbols=("eth-usd", "X")), ["T1", "T2"]),
        (Scope(trade_ids=("T2",), symbols=("BTC/USD",)), []),
        (Scope(trade_ids=("T1", "T3"), symbols=("BTCUSD",)), ["T3"]),
    ],
)
def test_a_scope_narrows_by_trade_and_by_any_spelling_of_a_symbol(scope, targets):
    plan = plan_of(facts_of(*NEIGHBOURS), scope)
    assert [one.lifecycle.trade_id for one in plan.judgements] == targets
    assert plan.open_lifecycles == 3
    assert {item.trade_id for item in plan.items} == set(targets)


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        (Scope(), ()),
        (Scope(trade_ids=("T1", "T9"), symbols=("eth-usd",)), ("T9",)),
        (Scope(trade_ids=("T1",), symbols=("ETHUSD", "xrp/usd", "BTC/USD")), ("xrp/usd", "BTC/USD")),
        (Scope(trade_ids=("t1",)), ("t1",)),
    ],
)
def test_names_of_a_scope_that_no_target_answers_to_are_known(scope, names):
    assert plan_of(facts_of(*NEIGHBOURS), scope).unmatched_names(scope) == names


def test_narrowing_never_gives_a_trade_its_neighbours_fills():
    """X1 goes to T1, the older; asked for alone, T2 still gets nothing."""
    facts = facts_of(*NEIGHBOURS)
    assert said(plan_of(facts, Scope(("T1",)))) == ["T1 fill_evidence 2 @110 X1 10:00:00 fifo"]
    assert said(plan_of(facts, Scope(("T2",)))) == ["T2 NO_GO missing_fill_evidence_for_large_remainder 2"]


@pytest.mark.parametrize(
    "trouble",
    [
        "09:30:00  EXIT  T1  sell  1  @100  -  status=new",
        "09:30:00  EXIT  T1  sell  0  @100  -  problem=quantity-and-qty-are-both-NULL",
    ],
)
def test_a_neighbour_that_is_no_go_keeps_its_fills(trouble):
    plan = plan_of(facts_of(*NEIGHBOURS, trouble))
    (blocked,) = [one for one in plan.judgements if one.lifecycle.trade_id == "T1"]
    assert (blocked.is_blocked, blocked.evidence) == (True, 2)
    assert said(plan)[-1] == "T2 NO_GO missing_fill_evidence_for_large_remainder 2"


def test_closed_trades_are_no_targets_and_over_closed_ones_neither():
    facts = facts_of(
        "09:00:00 ENTRY T1 buy 1 @100 E1", "09:30:00 EXIT T1 sell 1 @100 X1",
        "09:00:00 ENTRY T2 buy 1 @100 E1", "09:30:00 EXIT T2 sell 2 @100 X1",
    )  # fmt: skip
    plan = plan_of(facts)
    assert (plan.items, plan.judgements, plan.open_lifecycles) == ((), (), 0)


@ledger
def test_each_symbol_and_closing_side_is_settled_on_its_own(facts):
    """
    A long and a short on ETH, a long on BTC: three fills of the same size at one instant, one for each.

        09:00:00  ENTRY  T1  buy   2  @100  E1
        09:00:00  ENTRY  T2  sell  2  @100  E2
        09:00:00  ENTRY  T3  buy   2  @100  E3  symbol=BTC/USD
        10:00:00  fill   X1  sell  2  @110
        10:00:00  fill   X2  buy   2  @120
        10:00:00  fill   X3  sell  2  @130  symbol=BTCUSD
    """
    assert said(plan_of(facts)) == [
        "T3 fill_evidence 2 @130 X3 10:00:00 exact",
        "T1 fill_evidence 2 @110 X1 10:00:00 exact",
        "T2 fill_evidence 2 @120 X2 10:00:00 exact",
    ]


@ledger
def test_trades_on_two_spellings_of_a_symbol_compete_for_its_fills(facts):
    """
    ETHUSD and ETH/USD are one market: the older trade comes first.

        09:10:00  ENTRY  T2  buy   2  @100  -  symbol=ETH/USD
        09:00:00  ENTRY  T1  buy   2  @100  -  symbol=ETHUSD
        10:00:00  fill   X1  sell  3  @110  symbol=eth-usd
    """
    assert said(plan_of(facts)) == [
        "T2 fill_evidence 1 @110 X1 10:00:00 fifo",
        "T2 NO_GO missing_fill_evidence_for_large_remainder 1",
        "T1 fill_evidence 2 @110 X1 10:00:00 fifo",
    ]


@ledger
def test_evidence_is_what_recorded_and_spent_rows_leave(facts):
    """
    Of X1's six, two are booked, one was backfilled, and one stands on an exit without a trade.

        09:00:00  ENTRY  T1  buy   9  @100
        10:00:00  EXIT   T2  sell  2  @110  X1
        10:00:00  BFILL  T1  sell  1  @110  X1
        10:00:00  EXIT   -   sell  1  @110  X1
        10:00:00  fill   X1  sell  6  @110
    """
    plan = plan_of(facts)
    (judged,) = plan.judgements
    assert (judged.evidence, judged.remainder) == (2, 6)
    assert set(plan.ledger.left.values()) == {0}


def test_what_nobody_owns_is_left_over():
    plan = plan_of(facts_of("09:00:00 ENTRY T1 buy 1", "10:00:00 fill X1 sell 1", "10:01:00 fill X2 sell 3"))
    assert [str(qty) for qty in plan.ledger.left.values()] == ["0", "3"]


# Links

TWO_OPEN = (
    "09:00:00  ENTRY  T1  buy   5  @100",
    "09:10:00  ENTRY  T2  buy   5  @100",
    "10:00:00  fill   X1  sell  2  @110  client=c1",
)


@pytest.mark.parametrize(
    ("row", "linked"),
    [
        ("10:00:00 EXIT T2 sell 2 @100 X1 status=expired", True),
        ("10:00:00 EXIT T2 sell 2 @100 -  status=failed client=c1", True),
        ("10:00:00 EXIT T2 sell 2 @100 X9 status=failed client=c1", True),
        ("10:00:00 EXIT T2 sell 2 @100 X9 status=failed client=c9", False),
        ("10:00:00 EXIT - sell 2 @100 X1 status=failed", False),
        ("10:00:00 EXIT T2 sell 2 @100 X1 status=canceled id=BFILL-x", False),
        ("10:00:00 EXIT T2 sell 2 @100 X1 status=expired symbol=BTC/USD", False),
    ],
)
def test_a_unit_is_linked_to_the_trade_on_whose_rows_its_order_stands(row, linked):
    expected = "T2 fill_evidence 2 @110 X1 10:00:00 linked" if linked else "T1 fill_evidence 2 @110 X1 10:00:00 fifo"
    assert closing(plan_of(facts_of(*TWO_OPEN, row))) == [expected]


def test_an_order_on_the_rows_of_two_trades_links_to_neither():
    rows = [f"10:00:00 EXIT {trade} sell 2 @100 X1 status=expired" for trade in ("T1", "T2")]
    assert said(plan_of(facts_of(*TWO_OPEN, *rows)))[0] == "T1 fill_evidence 2 @110 X1 10:00:00 fifo"


def test_an_order_and_its_client_id_on_two_trades_link_to_neither():
    rows = ["10:00:00 EXIT T1 sell 2 @1 X1 status=expired", "10:00:00 EXIT T2 sell 2 @1 - status=expired client=c1"]
    assert said(plan_of(facts_of(*TWO_OPEN, *rows)))[0] == "T1 fill_evidence 2 @110 X1 10:00:00 fifo"


def test_the_same_id_on_another_symbol_is_another_order_and_does_not_spoil_the_link():
    rows = [
        "10:00:00 EXIT T2 sell 2 @1 X1 status=expired",
        "10:00:00 EXIT U sell 2 @1 X1 status=expired symbol=BTC/USD",
    ]
    assert said(plan_of(facts_of(*TWO_OPEN, *rows)))[1] == "T2 fill_evidence 2 @110 X1 10:00:00 linked"


@ledger
def test_a_partly_booked_exit_links_the_rest_of_its_order(facts):
    """
    T2's exit was booked for one of X1's three; the rest is T2's too, although T1 is older.

        09:00:00  ENTRY  T1  buy   5  @100
        09:10:00  ENTRY  T2  buy   5  @100
        10:00:00  EXIT   T2  sell  1  @110  X1
        10:00:00  fill   X1  sell  3  @110
    """
    assert closing(plan_of(facts)) == ["T2 fill_evidence 2 @110 X1 10:00:00 linked"]


SPLIT = (
    "08:00:00  ENTRY  S1  buy   1  @100  E1",
    "08:10:00  ENTRY  S2  buy   1  @100  E2",
    "08:30:00  EXIT   S1  sell  1  @110  X0",
    "08:30:00  EXIT   S2  sell  1  @110  X0",
    "08:30:00  fill   X0  sell  2  @110",
    "09:00:00  ENTRY  T1  buy   5  @100",
    "09:10:00  ENTRY  T2  buy   2  @100",
    "10:00:00  fill   X1  sell  2  @110",
)
SPLIT_AGAIN = tuple(
    line.replace("X0", "Y0").replace("S1", "S3").replace("S2", "S4").replace("08:30", "08:40") for line in SPLIT[2:5]
)
"""A second order that recorded exits share."""


def test_where_recorded_exits_split_one_order_over_trades_an_equal_size_decides_nothing():
    assert closing(plan_of(facts_of(*SPLIT))) == ["T1 fill_evidence 2 @110 X1 10:00:00 fifo"]
    apart = [line.replace("S2  sell  1  @110  X0", "S2  sell  1  @110  X9") for line in SPLIT]
    assert closing(plan_of(facts_of(*apart))) == ["T2 fill_evidence 2 @110 X1 10:00:00 exact"]


def test_there_only_rows_that_never_filled_link():
    booked = "10:00:00  EXIT  T2  sell  1  @110  X1"
    assert said(plan_of(facts_of(*SPLIT, *SPLIT_AGAIN, booked)))[0] == "T1 fill_evidence 1 @110 X1 10:00:00 fifo"
    expired = booked + " status=expired"
    assert said(plan_of(facts_of(*SPLIT, *SPLIT_AGAIN, expired)))[-1] == "T2 fill_evidence 2 @110 X1 10:00:00 linked"


def test_one_split_order_among_several_changes_nothing_for_the_others():
    """X0 was split once; X1's partly booked exit still links its rest, and sizes still decide."""
    booked = "10:00:00  EXIT  T2  sell  1  @110  X1"
    assert said(plan_of(facts_of(*SPLIT, booked)))[-1] == "T2 fill_evidence 1 @110 X1 10:00:00 linked"
    alone = "08:50:00  EXIT  S5  sell  3  @110  Z0", "08:50:00  fill  Z0  sell  3"
    assert closing(plan_of(facts_of(*SPLIT, *alone))) == ["T2 fill_evidence 2 @110 X1 10:00:00 exact"]


def test_an_id_links_only_on_the_side_of_the_row_that_carries_it():
    """T2 was opened by a buy that the venue numbered X1; the sell X1 is another order, and of T1's size."""
    facts = facts_of(
        "09:00:00 ENTRY T1 buy 1 @100 E1", "09:10:00 ENTRY T2 buy 2 @100 X1", "09:10:00 fill X1 buy 2",
        "10:00:00 fill X1 sell 1 @110", "10:10:00 fill X9 sell 2 @110",
    )  # fmt: skip
    assert said(plan_of(facts)) == [
        "T1 fill_evidence 1 @110 X1 10:00:00 exact",
        "T2 fill_evidence 2 @110 X9 10:10:00 exact",
    ]


@pytest.mark.parametrize(
    "other",
    [
        "08:30:00  ENTRY  S3  sell  1  @110  X0",
        "08:30:00  BFILL  S2  sell  1  @110  X0",
        "08:30:00  EXIT   S1  sell  1  @110  X0",
    ],
)
def test_only_exits_of_two_trades_that_recon_did_not_write_make_a_symbol_shared(other):
    assert "EXIT   S2" in SPLIT[3]
    assert closing(plan_of(facts_of(*SPLIT[:3], *SPLIT[4:], other)))[-1] == "T2 fill_evidence 2 @110 X1 10:00:00 exact"


@pytest.mark.parametrize("elsewhere", [" symbol=BTC/USD", ""])
def test_a_split_on_another_symbol_or_side_says_nothing_here(elsewhere):
    other_side = {"buy": "sell", "sell": "buy"}
    lines = [
        line
        if not line.startswith("08")
        else line + elsewhere
        if elsewhere
        else " ".join(other_side.get(word, word) for word in line.split())
        for line in SPLIT
    ]
    assert closing(plan_of(facts_of(*lines))) == ["T2 fill_evidence 2 @110 X1 10:00:00 exact"]


# Identifiers that collide


@ledger
def test_two_tuples_with_one_text_are_both_invalid_and_their_neighbour_is_not(facts):
    """
    `p:a:b:c:10:00` is trade `a:b` with order `c`, and trade `a` with order `b:c`.

        09:00:00  ENTRY  a:b  buy   2  @100
        09:10:00  ENTRY  a    buy   3  @100
        09:20:00  ENTRY  d:e  buy   4  @100
        10:00:00  fill   c    sell  2
        10:00:00  fill   b:c  sell  3
        10:00:00  fill   x:y  sell  4
    """
    plan = plan_of(facts)
    assert said(plan) == [
        "a NO_GO invalid_identifier 3",
        "a:b NO_GO invalid_identifier 2",
        "d:e fill_evidence 4 @110 x:y 10:00:00 exact",
    ]
    assert plan.items[0].detail.endswith("would also be the id of another trade or order")


def test_narrowing_to_one_of_two_colliding_trades_does_not_make_it_valid():
    lines = ("09:00:00 ENTRY a:b buy 2", "09:10:00 ENTRY a buy 3", "10:00:00 fill c sell 2", "10:00:00 fill b:c sell 3")
    assert said(plan_of(facts_of(*lines), Scope(("a",)))) == ["a NO_GO invalid_identifier 3"]


@ledger
def test_an_exchange_order_called_dust_collides_with_the_dust_row(facts):
    """
    The fill of order DUST is at the last ENTRY's instant, and 0.001 remains.

        09:00:00  ENTRY  T1    buy   2      @100
        09:00:00  fill   DUST  sell  1.999  @110
    """
    assert said(plan_of(facts)) == ["T1 NO_GO invalid_identifier 2"]


def test_one_trade_id_on_two_spellings_would_get_one_id_twice():
    lines = ["09:00:00 ENTRY T1 buy 2 @100 - symbol=ETHUSD", "09:00:00 ENTRY T1 buy 2", "10:00:00 fill X1 sell 4"]
    found = [(item.symbol, item.reason.value) for item in plan_of(facts_of(*lines)).items]
    both = ["data_quality", "invalid_identifier"]
    assert found == [(symbol, reason) for symbol in ("ETH/USD", "ETHUSD") for reason in both]


# Rollback at the level of plans

REPAIR = (
    "09:00:00  ENTRY  T1  buy   5      @100  E1",
    "09:10:00  ENTRY  T2  buy   5      @100  E2",
    "09:20:00  ENTRY  T3  buy   4      @100  E3",
    "09:30:00  EXIT   T3  sell  1      @100  X3",
    "09:30:00  fill   X3  sell  3      @110",
    "10:00:00  fill   X1  sell  4      @110",
    "10:10:00  fill   X2  sell  5.995  @111",
)


def test_a_plan_after_rollback_is_the_first_plan_with_reinstate_for_each_row():
    """Invariant 8: what apply wrote and rollback canceled is planned again, unit by unit, and can be applied again."""
    facts = facts_of(*REPAIR)
    first = plan_of(facts)
    assert said(first) == [
        "T1 fill_evidence 4 @110 X1 10:00:00 fifo",
        "T1 fill_evidence 1 @111 X2 10:10:00 fifo",
        "T2 fill_evidence 4.995 @111 X2 10:10:00 fifo",
        "T2 dust_remainder 0.005 @111 - 09:10:00 -",
        "T3 fill_evidence 2 @110 X3 09:30:00 linked",
        "T3 NO_GO missing_fill_evidence_for_large_remainder 1",
    ]
    applied = with_rows(facts, written(first.items))
    assert said(plan_of(applied)) == ["T3 NO_GO missing_fill_evidence_for_large_remainder 1"]
    canceled = with_rows(applied, written(first.items, "canceled"))
    again = plan_of(canceled)
    assert [replace(item, reason=Reason.REINSTATE) if item.writes else item for item in first.items] == list(
        again.items
    )
    reinstated = with_rows(canceled, written(again.items))
    assert plan_of(reinstated).digest == plan_of(applied).digest


# The digest

DIGEST = (
    *NEIGHBOURS,
    "09:05:00  ENTRY  T4  sell  1.5  @100  E4  client=c4",
    "09:05:00  fill   E4  sell  1.5  @100  client=c4  fee=0.1:USD",
    "09:30:00  EXIT   T4  -     0.5  @90   -   client=c5  created=09:29:00",
    "09:30:00  fill   X4  buy   0.7  @90   client=c5  fee=0.01:ETH",
    "09:30:00  fill   X4  buy   0.3  @91   client=c5",
    "09:31:00  fill   X5  buy   0.3  @92",
    "09:32:00  EXIT   -   sell  0.1  @92",
    "position  BTC/USD  1",
    "position  BTCUSD   -1",
    "position  ETHUSD   0",
    "working   W2  sell  1  BTC/USD",
    "working   W1  sell  1  BTC-USD",
)


def moved(facts: Facts, zone) -> Facts:
    """The same facts with every instant told in another time zone."""
    rows = [
        replace(one, filled_at=one.filled_at.astimezone(zone), created_at=one.created_at.astimezone(zone))
        for one in facts.rows
    ]
    fills = [replace(one, filled_at=one.filled_at.astimezone(zone)) for one in facts.snapshot.fills]
    return replace(facts, rows=tuple(rows), snapshot=replace(facts.snapshot, fills=tuple(fills)))


def turned(facts: Facts) -> Facts:
    """The same facts in the opposite order."""
    known = facts.snapshot
    return replace(
        facts,
        rows=facts.rows[::-1],
        snapshot=replace(
            known, fills=known.fills[::-1], positions=known.positions[::-1], open_orders=known.open_orders[::-1]
        ),
    )


def spelled(facts: Facts) -> Facts:
    """The same numbers with trailing zeros or exponents."""

    def other(value):
        return value if value is None else Decimal(f"{value.as_tuple().digits and value:f}") * Decimal("1.000")

    rows = [
        replace(one, quantity=other(one.quantity), price=other(one.price), qty=other(one.qty)) for one in facts.rows
    ]
    fills = [replace(one, qty=other(one.qty), price=other(one.price)) for one in facts.snapshot.fills]
    return replace(facts, rows=tuple(rows), snapshot=replace(facts.snapshot, fills=tuple(fills)))


@pytest.mark.parametrize(
    "change",
    [
        turned,
        spelled,
        lambda facts: moved(facts, timezone(timedelta(hours=-9, minutes=-30))),
        lambda facts: moved(facts, ZoneInfo("Asia/Kathmandu")),
        lambda facts: replace(facts, snapshot=replace(facts.snapshot, source="table:fills,positions")),
        lambda facts: replace(facts, snapshot=replace(facts.snapshot, notes=("one", "two"))),
        lambda facts: replace(
            facts, snapshot=replace(facts.snapshot, window=Window(at("08:00:00"), at("2026-03-02T00:00:00")))
        ),
        lambda facts: replace(
            facts,
            snapshot=replace(facts.snapshot, positions=(*facts.snapshot.positions, Position("ETH/USD", Decimal(0)))),
        ),
        lambda facts: replace(
            facts, snapshot=replace(facts.snapshot, positions=(*facts.snapshot.positions, Position("XRP", Decimal(7))))
        ),
        lambda facts: replace(
            facts,
            snapshot=replace(
                facts.snapshot,
                fills=tuple(replace(one, fee=None, fill_id=f"other-{one.fill_id}") for one in facts.snapshot.fills),
            ),
        ),
        lambda facts: replace(
            facts, snapshot=replace(facts.snapshot, fills=(*facts.snapshot.fills, fill("X9", symbol="XRP/USD")))
        ),
        lambda facts: replace(facts, rows=(*facts.rows, row("X", "EXIT", symbol="XRP/USD"))),
        lambda facts: replace(facts, columns=Columns(quantity=Amount(scale=8, precision=18))),
    ],
)
def test_what_does_not_decide_leaves_the_digest_and_the_items_as_they_are(change):
    facts = facts_of(*DIGEST)
    before, after = plan_of(facts), plan_of(change(facts))
    assert after.digest == before.digest
    assert canonical_json([item_document(item) for item in after.items]) == canonical_json(
        [item_document(item) for item in before.items]
    )


def changed_row(number: int, **change):
    """A change of one row of the facts."""

    def change_it(facts: Facts) -> Facts:
        rows = list(facts.rows)
        rows[number] = replace(rows[number], **change)
        return replace(facts, rows=tuple(rows))

    return change_it


def changed_fill(number: int, **change):
    """A change of one fill of the facts."""

    def change_it(facts: Facts) -> Facts:
        fills = list(facts.snapshot.fills)
        fills[number] = replace(fills[number], **change)
        return replace(facts, snapshot=replace(facts.snapshot, fills=tuple(fills)))

    return change_it


def snapshot_with(**change):
    """A change of the snapshot."""
    return lambda facts: replace(facts, snapshot=replace(facts.snapshot, **change))


ROW_CHANGES = [
    {"order_id": "other"},
    {"symbol": "ETHUSD"},
    {"trade_id": "T1"},
    {"trade_id": None},
    {"action": "ENTRY"},
    {"status": "partially_filled"},
    {"status": "canceled"},
    {"quantity": Decimal("0.500000000000000001")},
    {"qty": Decimal("0.5")},
    {"price": Decimal("90.000001")},
    {"price": None},
    {"filled_at": at("09:30:00.000001")},
    {"created_at": at("09:29:00.000001")},
    {"raw_side": "buy"},
    {"exchange_order_id": "X4"},
    {"client_order_id": "c9"},
    {"client_order_id": None},
]
FILL_CHANGES = [
    {"exchange_order_id": "X6"},
    {"client_order_id": "c6"},
    {"client_order_id": None},
    {"symbol": "BTC/USD"},
    {"side": Side.SELL},
    {"qty": Decimal("0.300000000000000001")},
    {"price": Decimal("92.000000000001")},
    {"filled_at": at("09:31:00.000001")},
]


@pytest.mark.parametrize(
    "change",
    [
        *(changed_row(4, **change) for change in ROW_CHANGES),
        *(changed_fill(6, **change) for change in FILL_CHANGES if change != {"client_order_id": None}),
        changed_fill(3, client_order_id=None),
        lambda facts: replace(facts, rows=facts.rows[:-1]),
        lambda facts: replace(facts, rows=(*facts.rows, row(None, "EXIT", status="canceled"))),
        lambda facts: replace(facts, profile_id="q"),
        lambda facts: snapshot_with(fills=facts.snapshot.fills[:-1])(facts),
        lambda facts: snapshot_with(fills=(*facts.snapshot.fills, fill("X1", clock="08:00:00")))(facts),
        snapshot_with(positions=None),
        snapshot_with(positions=()),
        snapshot_with(positions=(Position("BTC/USD", Decimal(1)), Position("BTCUSD", Decimal("-1.1")))),
        snapshot_with(positions=(Position("BTC/USD", Decimal(1)), Position("BTC-USD", Decimal(-1)))),
        snapshot_with(open_orders=None),
        snapshot_with(
            open_orders=(
                OpenOrder("W1", None, "BTCUSD", Side.SELL, Decimal(1), Decimal(0), at("09:00:00")),
                OpenOrder("W3", None, "BTCUSD", Side.SELL, Decimal(1), Decimal(0), at("09:00:00")),
            )
        ),
        lambda facts: replace(facts, snapshot=None),
    ],
)
def test_whatever_decides_changes_the_digest(change):
    facts = facts_of(*DIGEST)
    assert plan_of(change(facts)).digest != plan_of(facts).digest


def test_the_rules_the_scope_and_the_batch_reasons_are_in_the_digest():
    facts = facts_of(*DIGEST)
    plans = [
        plan_of(facts),
        plan_of(facts, dust_abs_qty=Decimal("0.0011")),
        plan_of(facts, dust_rel_pct=Decimal("0.0021")),
        plan_of(facts, base_fee=True),
        plan_of(facts, Scope(("T1",))),
        plan_of(facts, Scope(("T1", "T2"))),
        plan_of(facts, reasons={Reason.PAUSE_UNKNOWN: "no answer"}),
        plan_of(facts, reasons={Reason.PROFILE_NOT_PAUSED: "ACTIVE"}),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert plan_of(facts, reasons={Reason.PAUSE_UNKNOWN: "said otherwise"}).digest == plans[6].digest


def test_fees_are_in_the_digest_where_they_decide():
    lines = ("09:00:00 ENTRY T1 buy 10 @100 E1", "10:00:00 fill X1 sell 9.95")
    digests = {
        plan_of(facts_of(*lines, f"09:00:00 fill E1 buy 10 @100 fee={fee}")).digest
        for fee in ("0.05:ETH", "0.04:ETH", "0.03:ETH")
    }
    assert len(digests) == 2


def test_what_two_symbols_of_a_scope_rest_on_stands_apart():
    document = plan_of(facts_of(*DIGEST)).document
    assert list(document["symbols"]) == ["BTCUSD", "ETHUSD"]
    assert document["symbols"]["BTCUSD"]["positions"] == [["BTC/USD", 1], ["BTCUSD", -1]]
    assert document["symbols"]["BTCUSD"]["open_orders"] == ["W1", "W2"]
    assert document["symbols"]["ETHUSD"]["positions"] == []
    assert document["symbols"]["ETHUSD"]["open_orders"] == []
    assert document["targets"] == [["BTC/USD", "T3"], ["ETH/USD", "T1"], ["ETH/USD", "T2"], ["ETH/USD", "T4"]]
    assert document["profile_id"] == "p"
    assert document["rules"] == {
        "dust_abs_qty": Decimal("0.001"), "dust_rel_pct": Decimal("0.002"), "base_fee": False,
    }  # fmt: skip
    assert list(plan_of(facts_of(*DIGEST), Scope(("T3",))).document["symbols"]) == ["BTCUSD"]


def test_positions_that_were_not_read_are_not_the_same_as_none():
    facts = facts_of(*NEIGHBOURS)
    unread = replace(facts.snapshot, positions=None)
    for told in (replace(facts, snapshot=unread), replace(facts, snapshot=None)):
        for known in plan_of(told).document["symbols"].values():
            assert known["positions"] is None
    empty = replace(facts.snapshot, positions=())
    assert plan_of(replace(facts, snapshot=empty)).digest != plan_of(replace(facts, snapshot=unread)).digest


def test_a_source_that_does_not_list_open_orders_gives_the_digest_of_one_that_lists_none():
    facts = facts_of(*NEIGHBOURS)
    digests = {plan_of(replace(facts, snapshot=replace(facts.snapshot, open_orders=o))).digest for o in ((), None)}
    assert len(digests) == 1


def test_the_digest_is_sha256_over_the_documents_canonical_json():
    plan = plan_of(facts_of(*DIGEST))
    assert plan.digest == hashlib.sha256(canonical_json(dict(plan.document))).hexdigest()
    assert plan.document["items"] == [item_document(item) for item in plan.items]


PROGRAM = r"""
import decimal, sys
decimal.getcontext().prec = int(sys.argv[1])
from test_plan import DIGEST, facts_of, plan_of, item_document, canonical_json
facts = facts_of(*DIGEST, "09:40:00 ENTRY \u00fc\U0001f680 buy 1 @100 - symbol=\u00c4\u00d6/USD")
plan = plan_of(facts)
sys.stdout.buffer.write(plan.digest.encode() + canonical_json([item_document(item) for item in plan.items]))
"""


def test_a_process_in_another_zone_locale_hash_seed_or_precision_says_the_same_bytes():
    """Invariant 11, as far as it can be asked of a process from outside."""
    here = Path(__file__).parent
    environments = [
        {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
        {"TZ": "America/St_Johns", "LC_ALL": "C", "PYTHONHASHSEED": "1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "424242"},
    ]
    said_by = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(precision)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{here}{os.pathsep}{here.parent}", **environment},
            capture_output=True,
            check=True,
        ).stdout
        for precision, environment in zip((28, 3, 99), environments, strict=True)
    }
    assert len(said_by) == 1
    assert b'"exchange_not_flat"' in said_by.pop()


def test_the_ambient_decimal_context_decides_nothing():
    """Invariant 9: quantities of 40 digits in a context of three."""
    facts = facts_of(
        "09:00:00 ENTRY T1 buy 12345678901234567890.12345678901234567891",
        "10:00:00 fill X1 sell 12345678901234567890.12345678901234567890 @1.00000000000000000001",
    )
    with localcontext(Context(prec=3)):
        narrow = plan_of(facts)
    assert narrow.digest == plan_of(facts).digest
    assert narrow.items[0].qty == Decimal("12345678901234567890.12345678901234567890")
    assert narrow.items[1].qty == Decimal("1E-20")


# Documents


def test_an_item_comes_back_from_its_stored_document():
    facts = facts_of(*DIGEST, "10:00:00 EXIT T1 sell 3 @100 X1 status=expired")
    items = plan_of(facts).items
    assert {item.decision for item in items} == {Decision.DRY_RUN, Decision.NO_GO}
    stored = json.loads(canonical_json([item_document(item) for item in items]))
    assert tuple(item_from(document) for document in stored) == items
    assert all(item_from(document).detail == "" for document in stored)


def test_a_document_holds_every_field_of_an_item_but_its_detail():
    (item, *_) = plan_of(facts_of(*NEIGHBOURS)).items
    fields = {name for name in Item.__dataclass_fields__ if name != "detail"}
    assert set(item_document(item)) == fields
    assert all(item_document(item)[name] == getattr(item, name) for name in fields)


def test_a_market_knows_positions_and_orders_by_canonical_symbol():
    facts = facts_of("position BTC/USD 1", "position btc-usd -1", "position ETH/USD 2", "working W1 buy 1 eth_usd")
    known = market(facts.snapshot)
    assert {symbol: [str(leg.qty) for leg in legs] for symbol, legs in known.positions.items()} == {
        "BTCUSD": ["1", "-1"], "ETHUSD": ["2"],
    }  # fmt: skip
    assert [order.exchange_order_id for order in known.open_orders["ETHUSD"]] == ["W1"]
    assert known.window == facts.snapshot.window


def test_a_market_without_positions_or_without_an_exchange_is_unknown():
    unread = Snapshot("statement:test", Window(at("08:00:00"), at("12:00:00")), (), None, None)
    assert (market(unread).positions, market(unread).open_orders) == (None, {})
    assert (market(None).positions, market(None).open_orders, market(None).window) == (None, {}, None)
