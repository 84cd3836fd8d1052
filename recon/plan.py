"""The plan of a batch: all items, the conditions they rest on, and the digest that names both.

Pure. Entry point: `build_plan`. Invariants: 6 (allocation over all open lifecycles of the profile, so that no
unit is given twice), 7 and 11 (the digest covers what decides and nothing else: rules.md 8), 9 (exact
arithmetic: everything runs in a decimal context that traps rounding), 10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, localcontext
from typing import Any

from recon.allocation import Allocation, Candidate, TradeKey, allocate
from recon.columns import Columns
from recon.criteria import Case, Judgement, Market, Rules, candidate_rows, judge
from recon.domain import Decision, Grade, Item, OrderRow, Reason, Side, Snapshot
from recon.evidence import EvidenceUnit, Ledger, Order, Take, UnitKey, build_units, record, spend
from recon.identity import canonical_id, canonical_symbol, digest
from recon.layout import lay_out
from recon.lifecycles import Lifecycle, build_lifecycles, row_side

EXACT = Context(prec=400, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
"""Arithmetic that raises instead of rounding; the two divisions that must round do so in contexts of their own."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a reviewer narrowed the batch to; empty tuples mean everything."""

    trade_ids: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def holds(self, lifecycle: Lifecycle) -> bool:
        """Whether a lifecycle is a target."""
        wanted = {canonical_symbol(symbol) for symbol in self.symbols}
        return (not self.trade_ids or lifecycle.trade_id in self.trade_ids) and (
            not wanted or canonical_symbol(lifecycle.symbol) in wanted
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made from: the profile's rows on every symbol of an open lifecycle, and one snapshot.

    `snapshot` None means that no exchange is configured.
    """

    profile_id: str
    rows: tuple[OrderRow, ...]
    snapshot: Snapshot | None
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True, slots=True)
class Plan:
    """Judgements of the targets in canonical order, the ledger behind them, and the digest."""

    profile_id: str
    judgements: tuple[Judgement, ...]
    ledger: Ledger
    document: Mapping[str, Any]
    digest: str
    open_lifecycles: int

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, in the order of the targets."""
        return tuple(item for judgement in self.judgements for item in judgement.items)

    def unmatched_names(self, scope: Scope) -> tuple[str, ...]:
        """The trade_ids and symbols of a scope that no target answers to: misspelt, most likely."""
        trades = {judgement.lifecycle.trade_id for judgement in self.judgements}
        symbols = {canonical_symbol(judgement.lifecycle.symbol) for judgement in self.judgements}
        return (
            *(trade_id for trade_id in scope.trade_ids if trade_id not in trades),
            *(symbol for symbol in scope.symbols if canonical_symbol(symbol) not in symbols),
        )

    @property
    def rows_to_write(self) -> tuple[Item, ...]:
        """The items that write a row."""
        return tuple(item for item in self.items if item.writes)


def build_plan(
    facts: Facts, rules: Rules, scope: Scope = Scope(), batch_reasons: Mapping[Reason, str] | None = None
) -> Plan:
    """The plan for the open lifecycles in scope; reads nothing, writes nothing.

    Evidence is allocated over all open lifecycles first, whatever the scope. `batch_reasons` stand against every
    target (rules.md 7). The same facts give the same digest in any order of rows and fills.
    """
    with localcontext(EXACT):
        lifecycles = build_lifecycles(facts.rows)
        still_open = [lifecycle for lifecycle in lifecycles.values() if lifecycle.is_open]
        ledger = book(facts, lifecycles)
        allocations = _allocations(facts, ledger, lifecycles, still_open)
        cases = _cases(facts, rules, ledger, still_open, allocations, batch_reasons or {})
        judgements = tuple(judge(case) for case in cases if scope.holds(case.lifecycle))
        document = _document(facts, rules, judgements, ledger)
    return Plan(facts.profile_id, judgements, ledger, document, digest(document), len(still_open))


def book(facts: Facts, lifecycles: Mapping[TradeKey, Lifecycle]) -> Ledger:
    """The ledger of the facts: units, less what backfill rows spent, less what all other filled rows hold."""
    if facts.snapshot is None:
        return Ledger.of(())
    ledger = Ledger.of(build_units(facts.snapshot.fills, facts.snapshot.replaced))
    filled = [(row, _side(row, lifecycles)) for row in facts.rows if row.is_filled]
    strangers = spend(ledger, [(row, side) for row, side in filled if row.is_backfill], facts.snapshot.window)
    ordinary = [(row, side) for row, side in filled if not row.is_backfill]
    record(ledger, [*ordinary, *strangers], facts.snapshot.window)
    return ledger


def _side(row: OrderRow, lifecycles: Mapping[TradeKey, Lifecycle]) -> Side | None:
    """The row's own side, else what its trade says; a row without either may be of any side."""
    lifecycle = lifecycles.get((row.symbol, row.trade_id)) if row.trade_id is not None else None
    return row_side(row, lifecycle.entry_side if lifecycle else None)


def _allocations(
    facts: Facts, ledger: Ledger, lifecycles: Mapping[TradeKey, Lifecycle], still_open: Sequence[Lifecycle]
) -> Mapping[TradeKey, Sequence[Allocation]]:
    groups: dict[tuple[str, Side], list[Candidate]] = defaultdict(list)
    for lifecycle in still_open:
        candidate = Candidate(lifecycle.key, lifecycle.begin, lifecycle.open_qty)
        groups[canonical_symbol(lifecycle.symbol), lifecycle.closing_side].append(candidate)
    shared = _shared(ledger.takes.values())
    made: list[Allocation] = []
    for group, candidates in sorted(groups.items()):
        units = [unit for unit in ledger.units.values() if (unit.symbol, unit.side) == group]
        rows = [row for row in facts.rows if _side(row, lifecycles) in (group[1], None)]
        links = _links(units, rows, unfilled_only=group in shared)
        made += allocate(candidates, units, ledger.left, links, shared=group in shared)
    begins = {key: one.begin for key, one in lifecycles.items() if one.entries or one.is_open}
    by_trade: dict[TradeKey, list[Allocation]] = defaultdict(list)
    for allocation in lay_out(ledger, made, begins):
        ledger.left[allocation.unit.key] -= allocation.qty
        by_trade[allocation.trade].append(allocation)
    return by_trade


def _shared(takes: Iterable[Take]) -> set[tuple[str, Side]]:
    """The (symbol, side) pairs on which most exchange orders of recorded exits are split over several trades."""
    trades: dict[Order, set[str | None]] = defaultdict(set)
    for take in takes:
        if take.row.action == "EXIT" and not take.row.is_backfill:
            trades[take.unit[:3]].add(take.row.trade_id)
    orders: dict[tuple[str, Side], list[bool]] = defaultdict(list)
    for order, on in trades.items():
        orders[order[:2]].append(len(on) > 1)
    return {pair for pair, split in orders.items() if 2 * sum(split) > len(split)}


def _links(units: Iterable[EvidenceUnit], rows: Iterable[OrderRow], *, unfilled_only: bool) -> dict[UnitKey, TradeKey]:
    """For each unit the one trade of its symbol on whose rows its exchange or client order id stands, if it is one.

    Where orders are split over trades a filled row tells how much of the order was its trade's, not whose the
    rest is, so only unfilled rows link. Backfill rows never do: a plan after a rollback must equal the first.
    """
    on: dict[tuple[str, str], set[TradeKey]] = defaultdict(set)
    for row in rows:
        if row.trade_id is not None and not row.is_backfill and not (unfilled_only and row.is_filled):
            for name in (row.exchange_order_id, row.client_order_id):
                if name:
                    on[canonical_symbol(row.symbol), canonical_id(name)].add((row.symbol, row.trade_id))
    links = {}
    for unit in units:
        names = map(canonical_id, unit.names)
        trades = {trade for name in names for trade in on.get((unit.symbol, name), ())}
        if len(trades) == 1:
            links[unit.key] = trades.pop()
    return links


def _cases(
    facts: Facts,
    rules: Rules,
    ledger: Ledger,
    still_open: Sequence[Lifecycle],
    allocations: Mapping[TradeKey, Sequence[Allocation]],
    batch_reasons: Mapping[Reason, str],
) -> list[Case]:
    takes: dict[TradeKey, list[Take]] = defaultdict(list)
    for take in ledger.takes.values():
        takes[take.row.symbol, take.row.trade_id or ""].append(take)
    existing = {row.order_id: row for row in facts.rows if row.is_backfill}
    known = market(facts.snapshot)
    since = _since(facts, still_open)
    cases = [
        Case(
            facts.profile_id,
            lifecycle,
            allocations.get(lifecycle.key, ()),
            takes[lifecycle.key],
            ledger.units,
            existing,
            known,
            facts.columns,
            rules,
            since[canonical_symbol(lifecycle.symbol)],
            batch_reasons=batch_reasons,
        )
        for lifecycle in sorted(still_open, key=lambda one: (one.symbol.encode(), one.trade_id.encode()))
    ]
    colliding = _colliding(cases)
    for case in cases:
        case.colliding = colliding
    return cases


def _since(facts: Facts, still_open: Sequence[Lifecycle]) -> dict[str, datetime]:
    """By symbol, from when on missing fills change what its trades get: also what a closed trade's row holds counts."""
    window = facts.snapshot.window if facts.snapshot else None
    known = [(lifecycle.symbol, lifecycle.begin) for lifecycle in still_open]
    known += [
        (row.symbol, row.filled_at) for row in facts.rows if row.is_filled and window and window.holds(row.filled_at)
    ]
    first: dict[str, datetime] = {}
    for symbol, at in known:
        name = canonical_symbol(symbol)
        first[name] = min(at, first.get(name, at))
    return first


def _colliding(cases: Iterable[Case]) -> frozenset[str]:
    """The order_ids that two different tuples of components would share (rules.md 2)."""
    tuples: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for case in cases:
        for row in candidate_rows(case):
            tuples[row.order_id or ""].add((row.symbol, row.trade_id, row.exchange_order_id, row.filled_at))
    return frozenset(order_id for order_id, found in tuples.items() if len(found) > 1)


def market(snapshot: Snapshot | None) -> Market:
    """Positions and open orders by canonical symbol; unknown positions stay unknown."""
    if snapshot is None:
        return Market(None, {}, None)
    return Market(
        None if snapshot.positions is None else _by_symbol(snapshot.positions),
        _by_symbol(snapshot.open_orders or ()),
        snapshot.window,
        snapshot.gaps,
        snapshot.asked,
        _by_symbol(snapshot.doubts),
    )


def _by_symbol(entries: Iterable[Any]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for entry in entries:
        found[canonical_symbol(entry.symbol)].append(entry)
    return {symbol: tuple(values) for symbol, values in found.items()}


def _document(facts: Facts, rules: Rules, judgements: Sequence[Judgement], ledger: Ledger) -> Mapping[str, Any]:
    """What the digest is taken over: facts of the targets' symbols as sums, rules, and the items in full."""
    symbols = sorted({canonical_symbol(judgement.lifecycle.symbol) for judgement in judgements})
    known = market(facts.snapshot)
    units: dict[str, list[EvidenceUnit]] = defaultdict(list)
    for unit in ledger.units.values():
        units[unit.symbol].append(unit)
    rows: dict[str, list[OrderRow]] = defaultdict(list)
    for row in facts.rows:
        rows[canonical_symbol(row.symbol)].append(row)
    return {
        "profile_id": facts.profile_id,
        "rules": {
            "dust_abs_qty": rules.dust_abs_qty,
            "dust_rel_pct": rules.dust_rel_pct,
            "base_fee": rules.base_fee,
        },
        "symbols": {
            symbol: _symbol_document(symbol, [*rows[symbol], *rows[""]], units[symbol], known) for symbol in symbols
        },
        "targets": [[judgement.lifecycle.symbol, judgement.lifecycle.trade_id] for judgement in judgements],
        "items": [item_document(item) for judgement in judgements for item in judgement.items],
    }


def _symbol_document(
    symbol: str, rows: Iterable[OrderRow], units: Iterable[EvidenceUnit], known: Market
) -> Mapping[str, Any]:
    told = [_row_document(row) for row in rows]
    positions = None if known.positions is None else known.positions.get(symbol, ())
    gaps = sorted([gap.start, gap.end] for gap in known.gaps if gap.symbol in (None, symbol))
    return {
        "rows": digest(sorted(told, key=lambda row: row[0])),
        "evidence": digest([[*unit.key, unit.qty, unit.price, unit.names[1:]] for unit in units]),
        "positions": None if positions is None else sorted([leg.symbol, leg.qty] for leg in positions if leg.qty),
        "open_orders": sorted(order.exchange_order_id for order in known.open_orders.get(symbol, ())),
    } | ({"gaps": gaps} if gaps else {})


def _row_document(row: OrderRow) -> list[Any]:
    return [
        row.order_id, row.symbol, row.trade_id, row.action, row.status, row.quantity, row.qty, row.price,
        row.filled_at, row.created_at, row.raw_side, row.exchange_order_id, row.client_order_id,
    ]  # fmt: skip


def item_document(item: Item) -> Mapping[str, Any]:
    """The fields of an item that the digest, the stored plan and the approval share."""
    return {
        "trade_id": item.trade_id,
        "symbol": item.symbol,
        "side": item.side,
        "decision": item.decision,
        "reason": item.reason,
        "grade": item.grade,
        "qty": item.qty,
        "price": item.price,
        "filled_at": item.filled_at,
        "exchange_order_id": item.exchange_order_id,
        "client_order_id": item.client_order_id,
        "order_id": item.order_id,
    }


def item_from(document: Mapping[str, Any]) -> Item:
    """The item that a stored document describes: the reverse of `item_document`, but for its detail."""

    def known(name: str, kind: Callable[[str], Any]) -> Any:
        return None if document[name] is None else kind(document[name])

    return Item(
        trade_id=document["trade_id"],
        symbol=document["symbol"],
        side=known("side", Side),
        decision=Decision(document["decision"]),
        reason=Reason(document["reason"]),
        grade=known("grade", Grade),
        qty=known("qty", Decimal),
        price=known("price", Decimal),
        filled_at=known("filled_at", datetime.fromisoformat),
        exchange_order_id=document["exchange_order_id"],
        client_order_id=document["client_order_id"],
        order_id=document["order_id"],
    )
