"""Which trade each available unit belongs to, and how surely.

Pure. Entry point: `allocate`, for one (canonical symbol, closing side), over all open lifecycles of the profile,
so that narrowing a batch never gives a trade its neighbour's fills. Rules: rules.md 6. Invariant 6: a unit's
allocations never exceed what is available of it, a trade's never exceed its open quantity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from recon.domain import Grade
from recon.evidence import ZERO, EvidenceUnit, UnitKey

TradeKey = tuple[str, str]
"""Symbol as it stands in `orders`, and trade_id."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An open lifecycle that evidence may close: its beginning and open quantity."""

    key: TradeKey
    begin: datetime
    open_qty: Decimal


@dataclass(frozen=True, slots=True)
class Allocation:
    """`qty` of a unit given to a trade, and the sentence that says why."""

    unit: EvidenceUnit
    trade: TradeKey
    qty: Decimal
    grade: Grade
    why: str


def allocate(
    candidates: Sequence[Candidate],
    units: Sequence[EvidenceUnit],
    available: Mapping[UnitKey, Decimal],
    links: Mapping[UnitKey, TradeKey],
    *,
    shared: bool = False,
) -> tuple[Allocation, ...]:
    """Give the available units of one symbol and closing side to its open trades.

    `links` names, for a unit, the one trade on whose rows its order stands. In this order: linked; exact (whole
    orders, then single units, oldest first); fifo (oldest unit to oldest trade). No unit older than a trade's
    beginning ever goes to it. `shared` says that recorded exits split most exchange orders over several
    trades: there an equal size is a coincidence, and the exact grade is left out.
    """
    allocator = _Allocator(candidates, units, available)
    allocator.linked(links)
    if not shared:
        allocator.exact_orders()
        allocator.exact_units()
    allocator.fifo()
    return tuple(allocator.made)


class _Allocator:
    """The running state of one `allocate`: what trades still need, and what is left of the units."""

    def __init__(
        self, candidates: Sequence[Candidate], units: Sequence[EvidenceUnit], available: Mapping[UnitKey, Decimal]
    ) -> None:
        self.trades = sorted(candidates, key=lambda trade: (trade.begin, trade.key[1].encode(), trade.key[0].encode()))
        self.units = sorted(units, key=lambda unit: (unit.filled_at, unit.exchange_order_id.encode()))
        self.left = {unit.key: available[unit.key] for unit in self.units}
        self.need = {trade.key: trade.open_qty for trade in self.trades}
        self.by_need: dict[Decimal, dict[TradeKey, Candidate]] = defaultdict(dict)
        for trade in self.trades:
            self.by_need[trade.open_qty][trade.key] = trade
        self.made: list[Allocation] = []

    def linked(self, links: Mapping[UnitKey, TradeKey]) -> None:
        by_key = {trade.key: trade for trade in self.trades}
        for unit in self.units:
            trade = by_key.get(links.get(unit.key, ("", "")))
            if trade is not None:
                self._give(
                    unit, trade, Grade.LINKED, "its exchange order stands on this trade's rows and on no other's"
                )

    def exact_orders(self) -> None:
        orders: dict[str, list[EvidenceUnit]] = defaultdict(list)
        for unit in self.units:
            orders[unit.exchange_order_id].append(unit)
        for units in orders.values():
            self._exact(units, "what is left of its exchange order equals this trade's open quantity and no other's")

    def exact_units(self) -> None:
        for unit in self.units:
            self._exact([unit], "what is left of it equals this trade's open quantity and no other's")

    def fifo(self) -> None:
        first = 0
        for unit in self.units:
            while first < len(self.trades) and not self.need[self.trades[first].key]:
                first += 1
            for trade in self.trades[first:]:
                if not self.left[unit.key] or trade.begin > unit.filled_at:
                    break
                self._give(unit, trade, Grade.FIFO, "the oldest fill that is left goes to the oldest trade still open")

    def _exact(self, units: Sequence[EvidenceUnit], why: str) -> None:
        remaining = [unit for unit in units if self.left[unit.key] > 0]
        total = sum((self.left[unit.key] for unit in remaining), ZERO)
        same = self.by_need.get(total, {}).values() if remaining else ()
        equal = [trade for trade in same if trade.begin <= remaining[0].filled_at]
        if len(equal) == 1:
            for unit in remaining:
                self._give(unit, equal[0], Grade.EXACT, why)

    def _give(self, unit: EvidenceUnit, trade: Candidate, grade: Grade, why: str) -> None:
        qty = min(self.left[unit.key], self.need[trade.key])
        if qty > 0 and unit.filled_at >= trade.begin:
            self.left[unit.key] -= qty
            del self.by_need[self.need[trade.key]][trade.key]
            self.need[trade.key] -= qty
            self.by_need[self.need[trade.key]][trade.key] = trade
            self.made.append(Allocation(unit, trade.key, qty, grade, why))
