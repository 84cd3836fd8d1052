"""Evidence units, and how much of them the profile's own rows already hold.

Pure: fills and rows in, quantities out; no clock, no input or output. Entry points: `build_units`, `spend`
(what backfill rows took) and `record` (what all other filled rows took). Rules: rules.md 2 and 5; invariant 6
begins here, since only what neither took is available.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from recon.domain import Fill, OrderRow, Side, Window
from recon.identity import BASE_FEE, DUST, backfill_order_id, canonical_decimal, canonical_id, canonical_symbol

CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far a row's filled_at may lie from its order's fills: backends stamp on arrival (rules.md 5)."""

VWAP_QUANTUM = Decimal("1e-12")
"""Prices of several fills are rounded half-even to twelve decimals."""

ZERO = Decimal(0)

UnitKey = tuple[str, Side, str, datetime]
"""Canonical symbol, side, exchange order and instant: what makes a unit one."""

Order = tuple[str, Side, str]
"""Canonical symbol, side and exchange order: ids of some venues are unique only there."""


@dataclass(frozen=True, slots=True)
class EvidenceUnit:
    """All fills of one exchange order at one instant, within one symbol and side.

    `qty` is their sum, `price` their VWAP, `fees` the sum paid per currency (upper case). `replaced` are the orders
    that its order took the place of: the table may know it by one of those.
    """

    symbol: str
    side: Side
    exchange_order_id: str
    filled_at: datetime
    qty: Decimal
    price: Decimal
    client_order_ids: tuple[str, ...] = ()
    fees: tuple[tuple[str, Decimal], ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def key(self) -> UnitKey:
        """What identifies the unit."""
        return (self.symbol, self.side, self.exchange_order_id, self.filled_at)

    @property
    def order(self) -> Order:
        """What identifies the exchange order that the unit is a part of."""
        return (self.symbol, self.side, self.exchange_order_id)

    @property
    def names(self) -> tuple[str, ...]:
        """Every id by which a row of the table may name its order."""
        return (self.exchange_order_id, *self.client_order_ids, *self.replaced)


@dataclass(frozen=True, slots=True)
class Take:
    """`qty` of a unit that one row of `orders` already holds."""

    unit: UnitKey
    row: OrderRow
    qty: Decimal


@dataclass(slots=True)
class Ledger:
    """What is left of every unit, who took the rest, and the rows that need a look.

    `left` and `takes` change while rows are booked; `unmatched` pairs a row with the sentence that says why.
    """

    units: Mapping[UnitKey, EvidenceUnit]
    left: dict[UnitKey, Decimal]
    takes: dict[tuple[UnitKey, str], Take] = field(default_factory=dict)
    unmatched: list[tuple[OrderRow, str]] = field(default_factory=list)

    @classmethod
    def of(cls, units: Sequence[EvidenceUnit]) -> Ledger:
        """A ledger from which nothing was taken."""
        return cls({unit.key: unit for unit in units}, {unit.key: unit.qty for unit in units})

    def take(self, row: OrderRow, keys: Iterable[UnitKey], qty: Decimal) -> Decimal:
        """Book up to `qty` from the units in the order given; returns what they could not cover."""
        for key in keys:
            taken = min(qty, self.left[key])
            if taken > 0:
                self.left[key] -= taken
                held = self.takes.get((key, row.order_id))
                self.takes[key, row.order_id] = Take(key, row, taken + (held.qty if held else ZERO))
                qty -= taken
        return qty

    def give_back(self, take: Take) -> None:
        """Undo one booking."""
        del self.takes[take.unit, take.row.order_id]
        self.left[take.unit] += take.qty


def build_units(fills: Iterable[Fill], replaced: Mapping[str, str] | None = None) -> tuple[EvidenceUnit, ...]:
    """Group fills into units, ordered by symbol, side, instant and exchange order.

    `replaced` names, for an exchange order, the one whose place it took.
    """
    groups: dict[UnitKey, list[Fill]] = defaultdict(list)
    for fill in fills:
        groups[(canonical_symbol(fill.symbol), fill.side, fill.exchange_order_id, fill.filled_at)].append(fill)
    ordered = sorted(groups, key=lambda key: (key[0], key[1], key[3], key[2]))
    return tuple(_unit(key, groups[key], _ancestors(key[2], replaced or {})) for key in ordered)


def _ancestors(order: str, replaced: Mapping[str, str]) -> tuple[str, ...]:
    """The orders that led to this one, the latest first."""
    found: list[str] = []
    while (order := replaced.get(order, "")) and order not in found:
        found.append(order)
    return tuple(found)


def _unit(key: UnitKey, fills: Sequence[Fill], replaced: tuple[str, ...]) -> EvidenceUnit:
    fees: dict[str, Decimal] = defaultdict(Decimal)
    for fill in fills:
        if fill.fee is not None and fill.fee_currency:
            fees[fill.fee_currency.upper()] += fill.fee
    return EvidenceUnit(
        *key,
        qty=sum((fill.qty for fill in fills), ZERO),
        price=volume_weighted_price([(fill.qty, fill.price) for fill in fills]),
        client_order_ids=tuple(sorted({fill.client_order_id for fill in fills if fill.client_order_id})),
        fees=tuple(sorted(fees.items())),
        replaced=replaced,
    )


def volume_weighted_price(parts: Sequence[tuple[Decimal, Decimal]]) -> Decimal:
    """The price of (qty, price) parts: one part as it stands, several rounded half-even to 12 decimals."""
    if len(parts) == 1:
        return parts[0][1]
    total = sum((qty for qty, _ in parts), ZERO)
    value = sum((qty * price for qty, price in parts), ZERO)
    with localcontext(Context(prec=400, rounding=ROUND_HALF_EVEN)):
        return (value / total).quantize(VWAP_QUANTUM)


def spend(
    ledger: Ledger, rows: Iterable[tuple[OrderRow, Side | None]], window: Window
) -> list[tuple[OrderRow, Side | None]]:
    """Book what filled backfill rows took, each from the unit that its own id names (of two, the one on its side).

    What the unit does not hold, because the exchange now tells the same fills at other instants, comes from its order.
    A row whose id names its own exchange order at an instant outside the window spends nothing in it. Returns the
    rows whose id names no unit, no dust and no fee: nobody can say what they rest on, so the caller books them like
    any other row.
    """
    at: dict[tuple[str, datetime], list[UnitKey]] = defaultdict(list)
    orders: dict[Order, list[UnitKey]] = defaultdict(list)
    for key in ledger.units:
        at[(key[0], key[3])].append(key)
        orders[key[:3]].append(key)
    strangers = []
    for row, side in sorted(rows, key=lambda pair: _by_time(pair[0])):
        named = [key for key in at[(canonical_symbol(row.symbol), row.filled_at)] if _names(row, key[2])]
        if named:
            own = min(named, key=lambda key: key[1] is not side)
            ledger.take(row, sorted(orders[own[:3]], key=lambda key: _distance(row, key)), row.quantity)
        elif not _rests_elsewhere(row, window):
            strangers.append((row, side))
    return strangers


def _rests_elsewhere(row: OrderRow, window: Window) -> bool:
    """Whether a backfill row takes nothing from the window: dust, a base fee, or a unit from before or after it."""
    outside = not window.holds(row.filled_at) and _names(row, row.exchange_order_id or DUST)
    return outside or _names(row, DUST) or _names(row, BASE_FEE)


def _names(row: OrderRow, exchange_order_id: str) -> bool:
    return row.order_id == backfill_order_id(row.profile_id, row.trade_id or "", exchange_order_id, row.filled_at)


def record(ledger: Ledger, rows: Iterable[tuple[OrderRow, Side | None]], window: Window) -> None:
    """Book what ordinary filled rows hold, each with its side; the surest recognition goes first (rules.md 5).

    By exchange_order_id; by client_order_id, then order_id; equal to an untouched order's total that ended
    within 5 s; no larger than what is left of an order with an instant within 5 s, on the row's side, or on the other
    where its side was only assumed; and inside the window, from the nearest units, which is the safe direction. A row
    whose side nobody knows may hold fills of either.
    """
    book = _OrderBook(ledger)
    pending = []
    for row, side in sorted(rows, key=lambda pair: _by_time(pair[0])):
        if row.quantity <= 0:
            continue
        if row.exchange_order_id:
            named = [row.exchange_order_id, *book.replacements(row, row.exchange_order_id)]
            known = book.take_named(row, side, named) or book.take_by_client_id(row, side)
            if not known and window.holds(row.filled_at):
                ledger.unmatched.append((row, "no fill carries its exchange_order_id; it spends nothing"))
        else:
            pending.append((row, side))
    for recognise in (book.take_by_client_id, book.take_by_order_id, book.take_equal, book.take_part):
        pending = [(row, side) for row, side in pending if not recognise(row, side)]
    for recognise in (book.take_equal, book.take_part):
        pending = [
            (row, side)
            for row, side in pending
            if side is None or row.raw_side is not None or not recognise(row, side.opposite)
        ]
    for row, side in pending:
        if window.holds(row.filled_at):
            book.take_nearest(row, side)


def _by_time(row: OrderRow) -> tuple[datetime, str]:
    return (row.filled_at, row.order_id)


class _OrderBook:
    """The ledger's units by exchange order, with the ways in which a row finds its order."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.orders: dict[tuple[str, Side], dict[str, list[UnitKey]]] = defaultdict(lambda: defaultdict(list))
        self.by_client: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.by_replaced: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.instants: dict[str, list[datetime]] = defaultdict(list)
        for unit in sorted(ledger.units.values(), key=lambda unit: unit.filled_at):
            self.instants[unit.symbol].append(unit.filled_at)
            self.orders[unit.symbol, unit.side][canonical_id(unit.exchange_order_id)].append(unit.key)
            for client in unit.client_order_ids:
                self.by_client[unit.symbol, canonical_id(client)].append(unit.exchange_order_id)
            for old in unit.replaced:
                self.by_replaced[unit.symbol, canonical_id(old)].append(unit.exchange_order_id)

    def replacements(self, row: OrderRow, order: str) -> Sequence[str]:
        """The orders that took the place of this one."""
        return self.by_replaced.get((canonical_symbol(row.symbol), canonical_id(order)), ())

    def take_named(self, row: OrderRow, side: Side | None, names: Sequence[str]) -> bool:
        """Spend from the orders so named; False when the account has none of them.

        The row's side decides between two orders of one name. Where only the other side has one, the row holds that
        all the same, and its side is wrong.
        """
        for assumed in (side,) if side is None else (side, side.opposite):
            orders = self._orders(row, assumed)
            known = [key for name in dict.fromkeys(map(canonical_id, names)) for key in orders.get(name, ())]
            if known:
                self._spend(row, known)
                if assumed is not side:
                    self.ledger.unmatched.append((row, f"its exchange order is a {assumed}; it spends from that"))
                return True
        return False

    def take_by_client_id(self, row: OrderRow, side: Side | None) -> bool:
        return self.take_named(row, side, self._with_client_id(row, row.client_order_id or ""))

    def take_by_order_id(self, row: OrderRow, side: Side | None) -> bool:
        clients = self._with_client_id(row, row.order_id)
        return self.take_named(row, side, [row.order_id]) or self.take_named(row, side, clients)

    def take_equal(self, row: OrderRow, side: Side | None) -> bool:
        """The order, nothing taken from it, whose total equals the row and whose last instant is near."""
        if not self._is_near(row):
            return False
        return self._take_best(row, [keys for keys in self._orders(row, side).values() if self._equals(row, keys)], -1)

    def take_part(self, row: OrderRow, side: Side | None) -> bool:
        """The order with a near instant of which at least the row's quantity is left."""
        if not self._is_near(row):
            return False
        near = [
            keys
            for keys in self._orders(row, side).values()
            if min(_distance(row, key) for key in keys) <= CLOCK_TOLERANCE
            and sum((self.ledger.left[key] for key in keys), ZERO) >= row.quantity
        ]
        return self._take_best(row, near, None)

    def take_nearest(self, row: OrderRow, side: Side | None) -> None:
        """Spend from the nearest units of the symbol and side, and list the row; without a symbol none is near."""
        if not row.symbol:
            self.ledger.unmatched.append((row, "it names neither a symbol nor an order; it spends nothing"))
            return
        keys = [key for order in self._orders(row, side).values() for key in order]
        keys.sort(key=lambda key: (_distance(row, key), key[3], key[2]))
        short = self.ledger.take(row, keys, row.quantity)
        said = "" if short == 0 else f"; {short} of it found no fill at all"
        self.ledger.unmatched.append((row, f"no order matches it; it spends from the nearest fills{said}"))

    def _orders(self, row: OrderRow, side: Side | None) -> Mapping[str, list[UnitKey]]:
        """The orders on the row's symbol and side by name; a row without a symbol, or a side, may be of any."""
        symbol = canonical_symbol(row.symbol)
        if symbol and side is not None:
            return self.orders.get((symbol, side), {})
        every: dict[str, list[UnitKey]] = defaultdict(list)
        for (other, either), orders in self.orders.items():
            if symbol in ("", other) and side in (None, either):
                for name, keys in orders.items():
                    every[name] = sorted([*every[name], *keys], key=lambda key: key[3])
        return every

    def _with_client_id(self, row: OrderRow, client: str) -> Sequence[str]:
        return self.by_client.get((canonical_symbol(row.symbol), canonical_id(client)), ())

    def _is_near(self, row: OrderRow) -> bool:
        """Whether any unit of the symbol lies within the tolerance: most rows of a long history lie near none."""
        instants = self.instants[canonical_symbol(row.symbol)]
        first = bisect_left(instants, row.filled_at - CLOCK_TOLERANCE)
        return first < len(instants) and instants[first] <= row.filled_at + CLOCK_TOLERANCE

    def _equals(self, row: OrderRow, keys: Sequence[UnitKey]) -> bool:
        units = self.ledger.units
        untouched = all(self.ledger.left[key] == units[key].qty for key in keys)
        return (
            untouched
            and _distance(row, keys[-1]) <= CLOCK_TOLERANCE
            and sum((units[key].qty for key in keys), ZERO) == row.quantity
        )

    def _take_best(self, row: OrderRow, orders: Sequence[Sequence[UnitKey]], instant: int | None) -> bool:
        """Spend from the nearest of the orders: by the given instant, or by any when None."""
        if not orders:
            return False

        def rank(keys: Sequence[UnitKey]) -> tuple[timedelta, str]:
            measured = keys if instant is None else [keys[instant]]
            return (min(_distance(row, key) for key in measured), keys[0][2])

        self._spend(row, min(orders, key=rank))
        return True

    def _spend(self, row: OrderRow, keys: Sequence[UnitKey]) -> None:
        """Backwards from the row's own instant, then the earliest after it."""
        before = sorted((key for key in keys if key[3] <= row.filled_at), key=lambda key: key[3], reverse=True)
        after = sorted((key for key in keys if key[3] > row.filled_at), key=lambda key: key[3])
        short = self.ledger.take(row, [*before, *after], row.quantity)
        if short > 0:
            self.ledger.unmatched.append((row, f"its order's fills fall short of it by {canonical_decimal(short)}"))


def _distance(row: OrderRow, key: UnitKey) -> timedelta:
    return abs(row.filled_at - key[3])
