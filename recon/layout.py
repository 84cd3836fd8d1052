"""Which instants of a shared exchange order belong to which of its claimants.

Pure. An exchange order that closes several trades is executed over many instants, and the grades of
`recon.allocation` settle only how much of it goes to whom. Here its fills are dealt in time order to its
claimants, oldest trade first: trades being closed, and recorded EXIT rows whose created_at is the instant of
one of the order's fills, so that their own span is known. No claim leaves its span or its trade's life; where
that cannot be, the order stays as it was. Amounts never change. Rule: rules.md 6.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from recon.allocation import Allocation, TradeKey
from recon.domain import OrderRow
from recon.evidence import ZERO, Ledger, Order, Take, UnitKey


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one allocation group or one recorded row holds of an order, and where it may lie."""

    trade: TradeKey
    qty: Decimal
    start: datetime
    earliest: datetime
    latest: datetime | None
    source: OrderRow | Allocation


def lay_out(
    ledger: Ledger, allocations: Sequence[Allocation], begins: Mapping[TradeKey, datetime]
) -> tuple[Allocation, ...]:
    """Deal every exchange order that has both kinds of claimants; returns the allocations, updates the ledger.

    `begins` holds the beginning of every trade of the symbols, open or closed.
    """
    made: dict[Order, list[Allocation]] = defaultdict(list)
    for allocation in allocations:
        made[allocation.unit.order].append(allocation)
    takes = _movable(ledger, begins)
    return tuple(new for order, old in made.items() for new in _lay_out_order(ledger, old, takes[order], begins))


def _movable(ledger: Ledger, begins: Mapping[TradeKey, datetime]) -> dict[Order, list[Take]]:
    """The takes of EXIT rows whose created_at is an instant of the very order, by a trade with a beginning."""
    movable: dict[Order, list[Take]] = defaultdict(list)
    for take in ledger.takes.values():
        row, order = take.row, take.unit[:3]
        if (
            row.action == "EXIT"
            and not row.is_backfill
            and (*order, row.created_at) in ledger.units
            and (row.symbol, row.trade_id or "") in begins
            and row.created_at <= take.unit[3] <= row.filled_at
        ):
            movable[order].append(take)
    return movable


def _lay_out_order(
    ledger: Ledger, made: Sequence[Allocation], takes: Sequence[Take], begins: Mapping[TradeKey, datetime]
) -> Sequence[Allocation]:
    if not takes:
        return made
    pool: dict[UnitKey, Decimal] = defaultdict(Decimal)
    for key, qty in [(a.unit.key, a.qty) for a in made] + [(t.unit, t.qty) for t in takes]:
        pool[key] += qty
    claims = sorted(_claims(made, takes, begins), key=lambda c: (begins[c.trade], c.trade[1].encode(), c.start))
    dealt = _deal(claims, pool)
    if dealt is None:
        return made
    for take in takes:
        ledger.give_back(take)
    new = []
    for claim, key, qty in dealt:
        if isinstance(claim.source, Allocation):
            new.append(replace(claim.source, unit=ledger.units[key], qty=qty))
        else:
            ledger.take(claim.source, [key], qty)
    return new


def _claims(made: Sequence[Allocation], takes: Sequence[Take], begins: Mapping[TradeKey, datetime]) -> Iterable[_Claim]:
    rows: dict[str, list[Take]] = defaultdict(list)
    for take in takes:
        rows[take.row.order_id].append(take)
    for held in rows.values():
        row = held[0].row
        qty = sum((take.qty for take in held), ZERO)
        trade = (row.symbol, row.trade_id or "")
        yield _Claim(trade, qty, row.created_at, row.created_at, row.filled_at, row)
    trades: dict[TradeKey, list[Allocation]] = defaultdict(list)
    for allocation in made:
        trades[allocation.trade].append(allocation)
    for trade, parts in trades.items():
        qty = sum((part.qty for part in parts), ZERO)
        first = min(part.unit.filled_at for part in parts)
        yield _Claim(trade, qty, first, begins[trade], None, parts[0])


def _deal(claims: Sequence[_Claim], pool: Mapping[UnitKey, Decimal]) -> list[tuple[_Claim, UnitKey, Decimal]] | None:
    """Hand the pool out in time order; None when a claim would leave its span."""
    left = sorted(pool.items(), key=lambda entry: entry[0][3])
    dealt: list[tuple[_Claim, UnitKey, Decimal]] = []
    for claim in claims:
        need = claim.qty
        while need > 0:
            key, qty = left[0]
            taken = min(need, qty)
            if key[3] < claim.earliest or (claim.latest is not None and key[3] > claim.latest):
                return None
            dealt.append((claim, key, taken))
            need -= taken
            left[0] = (key, qty - taken)
            if left[0][1] == 0:
                left.pop(0)
    return dealt
