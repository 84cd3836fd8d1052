"""The pure plan on real account fills, from which exits were taken away (design section 13).

`truth.csv` says what was taken per trade and evidence unit, and what must stay open. Each account is told with and
without `exchange_order_id`, since many backends do not keep it.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from builders import plan_of, with_rows, written

from recon.domain import OrderRow, Reason
from recon.identity import canonical_symbol
from recon.plan import Facts, Plan, Scope
from recon.venues.statement import StatementExchange

LOOKBACK = timedelta(hours=200_000)
NOW = datetime(2026, 3, 1, tzinfo=UTC)

UnitOfTrade = tuple[str, str, datetime]
"""Trade, exchange order and instant."""


@dataclass(frozen=True)
class Truth:
    """What was taken on flat symbols, per trade and unit, and what of each trade must stay open."""

    taken: dict[UnitOfTrade, Decimal]
    open_after: dict[str, Decimal]
    not_flat: set[str]


def read(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of one of the folder's tables."""
    with (folder / name).open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def read_truth(folder: Path) -> Truth:
    taken: dict[UnitOfTrade, Decimal] = defaultdict(Decimal)
    open_after, not_flat = {}, set()
    for line in read(folder, "truth.csv"):
        trade = line["trade_id"]
        open_after[trade] = Decimal(line["open_after"])
        if line["flat"] != "true":
            not_flat.add(trade)
        elif line["exchange_order_id"]:
            taken[trade, line["exchange_order_id"], datetime.fromisoformat(line["filled_at"])] += Decimal(line["qty"])
    return Truth(dict(taken), open_after, not_flat)


def read_facts(folder: Path, *, with_ids: bool) -> Facts:
    """The orders table and the statement; without ids, as a table that lacks the column is read."""
    account = folder.name
    rows = tuple(
        OrderRow(
            order_id=line["order_id"],
            profile_id=line["profile_id"],
            symbol=line["symbol"],
            trade_id=line["trade_id"] or None,
            action=line["action"],
            status=line["status"],
            quantity=Decimal(line["quantity"] or line["qty"]),
            price=Decimal(line["price"]),
            filled_at=datetime.fromisoformat(line["filled_at"]),
            created_at=datetime.fromisoformat(line["created_at"]),
            raw_side=line["side"],
            exchange_order_id=(line["exchange_order_id"] or None) if with_ids else None,
            qty=Decimal(line["qty"]) if line["qty"] else None,
        )
        for line in read(folder, "orders.csv")
    )
    return Facts(account, rows, StatementExchange(str(folder)).fetch(account, now=NOW, lookback=LOOKBACK))


def planned(plan: Plan) -> dict[UnitOfTrade, Decimal]:
    """What the plan would write, per trade and unit; every row must be a plain, new piece of evidence."""
    found = {}
    for item in plan.rows_to_write:
        assert item.reason is Reason.FILL_EVIDENCE
        found[item.trade_id, item.exchange_order_id, item.filled_at] = item.qty
    assert len(found) == len(plan.rows_to_write)
    return found


def per_trade(parts: dict[UnitOfTrade, Decimal]) -> dict[str, Decimal]:
    closed: dict[str, Decimal] = defaultdict(Decimal)
    for (trade, _, _), qty in parts.items():
        closed[trade] += qty
    return dict(closed)


@pytest.fixture(params=[True, False], ids=["with_ids", "without_ids"])
def with_ids(request: pytest.FixtureRequest) -> bool:
    """Whether the orders table has the column exchange_order_id."""
    return request.param


@pytest.mark.parametrize("account", ["acct-a", "acct-b"])
def test_one_trade_at_a_time_every_unit_is_found_and_nothing_else(replay, account, with_ids):
    truth, plan = read_truth(replay / account), plan_of(read_facts(replay / account, with_ids=with_ids))
    assert planned(plan) == truth.taken
    assert len(truth.taken) == {"acct-a": 4, "acct-b": 280}[account]


def test_overlapping_trades_are_closed_exactly_and_98_of_100_units_are_where_they_were(replay, with_ids):
    truth, plan = read_truth(replay / "acct-g"), plan_of(read_facts(replay / "acct-g", with_ids=with_ids))
    found = planned(plan)
    assert per_trade(found) == per_trade(truth.taken)
    right = sum(found.get(unit) == qty for unit, qty in truth.taken.items())
    assert right / len(truth.taken) >= 0.98, f"{right} of {len(truth.taken)} units are attributed as in truth.csv"


@pytest.mark.parametrize("account", ["acct-a", "acct-b", "acct-g"])
def test_what_must_stay_open_stays_open_and_says_why(replay, account, with_ids):
    """Trades on symbols that are not flat are NO_GO as a whole; elsewhere only what no fill covers is left."""
    truth, plan = read_truth(replay / account), plan_of(read_facts(replay / account, with_ids=with_ids))
    remainders = {judged.lifecycle.trade_id: judged.remainder for judged in plan.judgements}
    blocked = {judged.lifecycle.trade_id for judged in plan.judgements if judged.is_blocked}
    assert blocked == truth.not_flat
    assert all(Reason.EXCHANGE_NOT_FLAT in one.reasons for one in plan.judgements if one.is_blocked)
    assert {trade: qty for trade, qty in remainders.items() if trade not in blocked and qty} == {
        trade: qty for trade, qty in truth.open_after.items() if trade not in blocked and qty
    }


def test_the_spot_fees_of_acct_a_are_recognised_to_the_last_digit(replay, with_ids):
    facts = read_facts(replay / "acct-a", with_ids=with_ids)
    (spot,) = [one for one in plan_of(facts).judgements if one.lifecycle.trade_id == "acct-a-107-1"]
    assert [(item.reason.value, str(item.qty)) for item in spot.items] == [
        ("missing_fill_evidence_for_large_remainder", "3.50139761"),
        ("residual_is_base_fee", "3.50139761"),
    ]
    (accepted,) = [item for item in plan_of(facts, base_fee=True).items if item.trade_id == "acct-a-107-1"]
    assert (accepted.reason, str(accepted.qty), accepted.writes) == (Reason.BASE_FEE, "3.50139761", True)


@pytest.mark.parametrize("account", ["acct-a", "acct-b", "acct-g"])
def test_every_fill_of_an_account_is_somebodys(replay, account, with_ids):
    """Taken by a row or given to a trade: nothing is left over, and nothing was given twice (invariant 6)."""
    plan = plan_of(read_facts(replay / account, with_ids=with_ids))
    assert set(plan.ledger.left.values()) == {0}


@pytest.mark.parametrize("account", ["acct-a", "acct-b", "acct-g"])
def test_after_an_apply_nothing_is_planned_again_and_after_a_rollback_everything_is(replay, account, with_ids):
    """Invariants 4 and 8 on real fills."""
    facts = read_facts(replay / account, with_ids=with_ids)
    first = plan_of(facts)
    rows = [(row.order_id, row.quantity) for row in written(first.items)]
    applied = plan_of(with_rows(facts, _of(account, written(first.items))))
    assert applied.rows_to_write == ()
    again = plan_of(with_rows(facts, _of(account, written(first.items, "canceled"))))
    assert [(item.order_id, item.qty) for item in again.rows_to_write] == rows
    assert {item.reason for item in again.rows_to_write} == {Reason.REINSTATE}


def _of(account: str, rows: tuple[OrderRow, ...]) -> list[OrderRow]:
    return [replace(row, profile_id=account) for row in rows]


@pytest.mark.parametrize("account", ["acct-b", "acct-g"])
def test_narrowing_to_one_symbol_plans_that_symbols_rows_as_before(replay, account):
    facts = read_facts(replay / account, with_ids=True)
    whole = plan_of(facts)
    for symbol in sorted({judged.lifecycle.symbol for judged in whole.judgements}):
        narrowed = plan_of(facts, Scope(symbols=(symbol.lower(),)))
        assert narrowed.items == tuple(
            item for item in whole.items if canonical_symbol(item.symbol) == canonical_symbol(symbol)
        )
