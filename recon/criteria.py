"""What may be written for one trade, and every reason why not: the criteria of runbook section 2.

Pure. Entry point: `judge`, one lifecycle at a time; all that applies is reported, not only the first reason.
Each reason's meaning and remedy are in rules.md 7. Invariant 10: what is unknown becomes a named NO_GO.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from recon.allocation import Allocation
from recon.columns import Columns
from recon.domain import (
    CANCELED,
    REMAINDER_REASONS,
    Decision,
    Doubt,
    Gap,
    Item,
    OpenOrder,
    OrderRow,
    Position,
    Reason,
    Window,
)
from recon.evidence import ZERO, EvidenceUnit, Take, UnitKey
from recon.identity import (
    BASE_FEE,
    DUST,
    backfill_order_id,
    base_asset,
    canonical_decimal,
    canonical_id,
    canonical_symbol,
    canonical_time,
)
from recon.lifecycles import Lifecycle, known_side, row_side


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide: dust in units of the symbol and as a fraction of the open quantity."""

    dust_abs_qty: Decimal = Decimal("0.001")
    dust_rel_pct: Decimal = Decimal("0.002")
    base_fee: bool = False

    def dust_threshold(self, open_qty: Decimal) -> Decimal:
        """MAX(dust_abs_qty, open_qty * dust_rel_pct): what an exchange's lot rounding leaves (runbook section 4)."""
        return max(self.dust_abs_qty, open_qty * self.dust_rel_pct)


@dataclass(frozen=True, slots=True)
class Market:
    """What the exchange says of all symbols, by canonical symbol; `positions` None means unknown."""

    positions: Mapping[str, tuple[Position, ...]] | None
    open_orders: Mapping[str, tuple[OpenOrder, ...]]
    window: Window | None
    gaps: tuple[Gap, ...] = ()
    asked: frozenset[str] | None = None
    doubts: Mapping[str, tuple[Doubt, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One target with its items; `evidence`, `dust` and `remainder` in units of the symbol."""

    lifecycle: Lifecycle
    evidence: Decimal
    remainder: Decimal
    reasons: tuple[Reason, ...]
    items: tuple[Item, ...]
    allocations: tuple[Allocation, ...] = ()
    is_blocked: bool = False
    """Whether a NO_GO concerns the whole trade, so that nothing of it is written."""

    @property
    def needs_acknowledgement(self) -> bool:
        """Whether a reviewer must name the trade before the batch can be approved."""
        return Reason.DUST_ONLY in self.reasons or any(item.decision is Decision.NO_GO for item in self.items)


@dataclass(slots=True)
class Case:
    """Everything known about one open lifecycle, from which `judge` decides.

    `takes` are what the trade's own rows hold of `units`; `existing` are the profile's backfill rows by
    order_id; `colliding` are order_ids that two different tuples would share. `since` is the first instant that bears
    on the symbol's trades: the beginning of one, or a row of one inside the window.
    """

    profile_id: str
    lifecycle: Lifecycle
    allocations: Sequence[Allocation]
    takes: Sequence[Take]
    units: Mapping[UnitKey, EvidenceUnit]
    existing: Mapping[str, OrderRow]
    market: Market
    columns: Columns
    rules: Rules
    since: datetime
    colliding: frozenset[str] = frozenset()
    batch_reasons: Mapping[Reason, str] = field(default_factory=dict)

    @property
    def evidence(self) -> Decimal:
        """What fills cover of the open quantity."""
        return sum((allocation.qty for allocation in self.allocations), ZERO)

    @property
    def remainder(self) -> Decimal:
        """What they do not."""
        return self.lifecycle.open_qty - self.evidence

    @property
    def gaps(self) -> list[Gap]:
        """The gaps in which fills may be missing that bear on the trade, be it as another trade's evidence."""
        window, symbol = self.market.window, canonical_symbol(self.lifecycle.symbol)
        return [
            gap
            for gap in self.market.gaps
            if window is not None and gap.symbol in (None, symbol) and gap.touches(self.since, window.end)
        ]

    @property
    def is_dust(self) -> bool:
        """Whether the remainder is dust."""
        return 0 < self.remainder <= self.dust_threshold

    @property
    def dust_threshold(self) -> Decimal:
        """Up to where a remainder is dust."""
        return self.rules.dust_threshold(self.lifecycle.open_qty)


def judge(case: Case) -> Judgement:
    """Every row that may be written for the trade and every reason against it; reads nothing, writes nothing."""
    rows = list(candidate_rows(case))
    against = [*_whole_trade(case), *_rows_in_the_way(case, rows), *_remainder(case)]
    blocked = bool(case.gaps) or any(reason not in REMAINDER_REASONS for reason, _ in against)
    released = [] if blocked else [_reinstated(case, row) for row in rows]
    items = (*released, *(_no_go(case, reason, detail) for reason, detail in against))
    dust_only = [row.reason for row in rows if row.reason is Reason.DUST_ONLY and not blocked]
    reasons = dict.fromkeys([*dust_only, *(item.reason for item in items)])
    return Judgement(
        lifecycle=case.lifecycle,
        evidence=case.evidence,
        remainder=case.remainder,
        reasons=tuple(reasons),
        items=items,
        allocations=tuple(case.allocations),
        is_blocked=blocked,
    )


def candidate_rows(case: Case) -> Iterable[Item]:
    """The rows that evidence, dust and accepted base fees support, before anything that stands against them."""
    made = sorted(case.allocations, key=lambda a: (a.unit.filled_at, a.unit.exchange_order_id.encode()))
    for allocation in made:
        yield _evidence_row(case, allocation)
    last = case.lifecycle.last_entry
    if case.is_dust:
        reason = Reason.DUST_REMAINDER if made else Reason.DUST_ONLY
        yield _residual_row(case, reason, DUST, made[-1].unit.price if made else last.price)
    elif case.rules.base_fee and _is_base_fee(case):
        yield _residual_row(case, Reason.BASE_FEE, BASE_FEE, last.price)


def _evidence_row(case: Case, allocation: Allocation) -> Item:
    unit = allocation.unit
    return Item(
        trade_id=case.lifecycle.trade_id,
        symbol=case.lifecycle.symbol,
        side=case.lifecycle.closing_side,
        decision=Decision.DRY_RUN,
        reason=Reason.FILL_EVIDENCE,
        grade=allocation.grade,
        qty=allocation.qty,
        price=case.columns.price.rounded(unit.price),
        filled_at=unit.filled_at,
        exchange_order_id=unit.exchange_order_id,
        client_order_id=unit.client_order_ids[0] if unit.client_order_ids else None,
        order_id=backfill_order_id(case.profile_id, case.lifecycle.trade_id, unit.exchange_order_id, unit.filled_at),
        detail=allocation.why,
    )


def _residual_row(case: Case, reason: Reason, stands_for: str, price: Decimal | None) -> Item:
    """A row without an exchange order: dust, or a fee paid in the base asset (rules.md 2)."""
    filled_at = case.lifecycle.last_entry.filled_at
    what = "the fees its fills paid in the base asset" if stands_for == BASE_FEE else "dust"
    return Item(
        trade_id=case.lifecycle.trade_id,
        symbol=case.lifecycle.symbol,
        side=case.lifecycle.closing_side,
        decision=Decision.DRY_RUN,
        reason=reason,
        qty=case.remainder,
        price=None if price is None else case.columns.price.rounded(price),
        filled_at=filled_at,
        order_id=backfill_order_id(case.profile_id, case.lifecycle.trade_id, stands_for, filled_at),
        detail=f"remainder {canonical_decimal(case.remainder)} is {what}; the dust threshold is "
        f"{canonical_decimal(case.dust_threshold)}",
    )


def _reinstated(case: Case, row: Item) -> Item:
    """The same row as a status-only update when it exists already, identical but canceled."""
    return row if row.order_id not in case.existing else replace(row, reason=Reason.REINSTATE)


def _no_go(case: Case, reason: Reason, detail: str) -> Item:
    return Item(
        trade_id=case.lifecycle.trade_id,
        symbol=case.lifecycle.symbol,
        side=case.lifecycle.closing_side,
        decision=Decision.NO_GO,
        reason=reason,
        qty=case.remainder if reason in REMAINDER_REASONS and not case.gaps else case.lifecycle.open_qty,
        detail=detail,
    )


def _whole_trade(case: Case) -> Iterable[tuple[Reason, str]]:
    """What stands against writing anything for the trade."""
    lifecycle = case.lifecycle
    yield from case.batch_reasons.items()
    if not lifecycle.trade_id or not case.profile_id:
        yield Reason.INVALID_IDENTIFIER, "profile_id and trade_id must not be empty; name the trade in orders"
    defects = [*lifecycle.defects, *_contradicted_sides(case)]
    if defects:
        yield Reason.DATA_QUALITY, "; ".join(defects)
    if lifecycle.pending:
        rows = ", ".join(f"{row.order_id} is {row.status!r}" for row in lifecycle.pending)
        yield Reason.PENDING_LIFECYCLE_BLOCKER, f"settle these rows first: {rows}"
    if case.gaps:
        yield Reason.EVIDENCE_WINDOW_TOO_SHORT, "; ".join(map(_missing, case.gaps))
    yield from _exchange(case.market, canonical_symbol(lifecycle.symbol))


def _missing(gap: Gap) -> str:
    return f"fills may be missing from {canonical_time(gap.start)} to {canonical_time(gap.end)}: {gap.why}"


def _contradicted_sides(case: Case) -> Iterable[str]:
    """The trade's own rows that hold fills of another side than they say, or than they were taken for."""
    for order_id, (row, found) in {take.row.order_id: (take.row, take.unit[1]) for take in case.takes}.items():
        side = row_side(row, case.lifecycle.entry_side)
        if side is not None and side is not found:
            said = "says" if row.raw_side is not None else "names no side and is taken for a"
            yield f"{row.action} row {order_id} {said} {side}; its exchange order is a {found}"


def _exchange(market: Market, symbol: str) -> Iterable[tuple[Reason, str]]:
    for doubt in market.doubts.get(symbol, ()):
        yield doubt.reason, doubt.why
    if market.asked is not None and symbol not in market.asked:
        yield (
            Reason.EXCHANGE_POSITION_UNKNOWN,
            "positions of this symbol were not asked for when the evidence was fetched; fetch it again",
        )
    if market.positions is None:
        yield Reason.EXCHANGE_POSITION_UNKNOWN, "positions were not read in full; unknown is not flat"
    else:
        legs = [leg for leg in market.positions.get(symbol, ()) if leg.qty != 0]
        if legs:
            held = ", ".join(f"{leg.symbol} {canonical_decimal(leg.qty)}" for leg in legs)
            yield Reason.EXCHANGE_NOT_FLAT, f"expected no position, the exchange holds {held}"
    working = market.open_orders.get(symbol, ())
    if working:
        orders = ", ".join(order.exchange_order_id for order in working)
        yield Reason.EXCHANGE_OPEN_ORDERS, f"the exchange still works {orders}; wait for it or cancel it there"


def _rows_in_the_way(case: Case, rows: Iterable[Item]) -> Iterable[tuple[Reason, str]]:
    """What stands against a row that would be written, one sentence per reason."""
    found: dict[Reason, list[str]] = {}
    for row in rows:
        for reason, sentence in _against_row(case, row):
            found.setdefault(reason, []).append(sentence)
    yield from ((reason, "; ".join(sentences)) for reason, sentences in found.items())


def _against_row(case: Case, row: Item) -> Iterable[tuple[Reason, str]]:
    if row.order_id in case.colliding or (row.reason is Reason.FILL_EVIDENCE and not row.exchange_order_id):
        yield Reason.INVALID_IDENTIFIER, f"{row.order_id} would also be the id of another trade or order"
    if row.price is None or row.qty is None:
        yield Reason.DATA_QUALITY, "the last ENTRY row has no price to close the remainder at"
        return
    if not case.columns.quantity.holds(row.qty) or not case.columns.qty.holds(row.qty):
        yield (
            Reason.UNREPRESENTABLE_QUANTITY,
            f"orders cannot hold quantity {canonical_decimal(row.qty)} exactly; widen its columns",
        )
    elif row.price <= 0 or not case.columns.price.holds(row.price):
        yield Reason.UNREPRESENTABLE_QUANTITY, f"orders cannot hold the price of {row.order_id}; widen its column"
    elif row.filled_at and row.filled_at.microsecond % 10 ** (6 - case.columns.time_digits):
        yield Reason.UNREPRESENTABLE_QUANTITY, f"orders cannot hold {canonical_time(row.filled_at)}; widen filled_at"
    if not case.columns.holds_order(row.exchange_order_id):
        said = "no exchange_order_id" if row.exchange_order_id is None else f"exchange_order_id {row.exchange_order_id}"
        yield Reason.UNREPRESENTABLE_QUANTITY, f"orders cannot hold {said}; widen the column"
    existing = case.existing.get(row.order_id or "")
    if existing is not None:
        differing = differences(row, existing, case.profile_id, case.columns)
        if differing or existing.status not in CANCELED:
            what = f"differs in {', '.join(differing)}" if differing else f"has status {existing.status!r}"
            yield Reason.EXISTING_ROW_DIFFERS, f"{row.order_id} exists and {what}; an id is written once"


def _remainder(case: Case) -> Iterable[tuple[Reason, str]]:
    """What stands against closing the remainder alone."""
    if case.remainder <= 0 or case.is_dust or (case.rules.base_fee and _is_base_fee(case)):
        return
    yield (
        Reason.MISSING_FILL_EVIDENCE,
        f"open {canonical_decimal(case.lifecycle.open_qty)}, fills cover {canonical_decimal(case.evidence)}; the rest, "
        f"{canonical_decimal(case.remainder)}, is above the dust threshold {canonical_decimal(case.dust_threshold)}",
    )
    window, begin, last = case.market.window, case.lifecycle.begin, case.lifecycle.last_entry.filled_at
    if window is not None and not (window.start <= begin and last <= window.end) and not case.gaps:
        yield (
            Reason.EVIDENCE_WINDOW_TOO_SHORT,
            f"the trade's entries lie from {canonical_time(begin)} to {canonical_time(last)}, the fetched window from "
            f"{canonical_time(window.start)} to {canonical_time(window.end)}; fetch a wider one",
        )
    if _is_base_fee(case):
        yield (
            Reason.RESIDUAL_IS_BASE_FEE,
            "the remainder is exactly the fees that its fills paid in the base asset; "
            "RECON_EXIT_BACKFILL_BASE_FEE=true accepts that",
        )


def _is_base_fee(case: Case) -> bool:
    """Whether the remainder, above dust, equals the base-asset fees of the trade's own fills to the last digit.

    A fill shared with another row or trade counts pro rata, in exact fractions.
    """
    if case.remainder <= case.dust_threshold:
        return False
    base = base_asset(case.lifecycle.symbol)
    parts = [(case.units[take.unit], take.qty) for take in case.takes]
    parts += [(allocation.unit, allocation.qty) for allocation in case.allocations]
    paid = sum(
        (Fraction(dict(unit.fees).get(base, ZERO)) * Fraction(qty) / Fraction(unit.qty) for unit, qty in parts),
        Fraction(0),
    )
    return paid == Fraction(case.remainder)


def differences(item: Item, row: OrderRow, profile_id: str, columns: Columns) -> tuple[str, ...]:
    """The columns in which a row of `orders` differs from the row that the item would write, status aside."""
    pairs = {
        "profile_id": (profile_id, row.profile_id),
        "symbol": (item.symbol, row.symbol),
        "trade_id": (item.trade_id, row.trade_id),
        "action": ("EXIT", row.action),
        "quantity": (item.qty, row.quantity),
        "qty": (item.qty, row.qty),
        "price": (item.price, row.price),
        "filled_at": (item.filled_at, None if row.filled_at_assumed else row.filled_at),
    }
    if columns.has_side:
        pairs["side"] = (item.side, known_side(row.raw_side))
    if columns.has_exchange_order_id:
        names = [name and canonical_id(name) for name in (item.exchange_order_id, row.exchange_order_id)]
        pairs["exchange_order_id"] = (names[0], names[1])
    return tuple(name for name, (expected, found) in pairs.items() if expected != found)
