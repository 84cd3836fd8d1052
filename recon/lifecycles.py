"""Lifecycles: what the rows of one trade add up to, and what about them cannot be trusted.

Pure. Entry point: `build_lifecycles`. The sums are those of the runbook's section 1; sides, beginnings and the
defects that make a trade `data_quality` are in rules.md 3 and 4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from recon.allocation import TradeKey
from recon.domain import FILLED, NOT_FINITE, TERMINAL_UNFILLED, OrderRow, Side
from recon.evidence import ZERO
from recon.identity import canonical_time


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """All rows of one (symbol, trade_id) of a profile; quantities in units of the symbol.

    `pending` are rows of the trade, on any symbol, whose status is neither filled nor terminal; `defects` are
    sentences, empty when the rows can be trusted.
    """

    symbol: str
    trade_id: str
    rows: tuple[OrderRow, ...]
    entry_side: Side
    pending: tuple[OrderRow, ...]
    defects: tuple[str, ...]

    @property
    def key(self) -> TradeKey:
        """What the trade is called in allocations."""
        return (self.symbol, self.trade_id)

    @property
    def entries(self) -> tuple[OrderRow, ...]:
        """The filled ENTRY rows, by time."""
        return tuple(row for row in self.rows if row.is_filled and row.action == "ENTRY")

    @property
    def entry_qty(self) -> Decimal:
        """What was opened."""
        return sum((row.quantity for row in self.entries), ZERO)

    @property
    def exit_qty(self) -> Decimal:
        """What was closed, backfill rows included."""
        return sum((row.quantity for row in self.rows if row.is_filled and row.action == "EXIT"), ZERO)

    @property
    def open_qty(self) -> Decimal:
        """entry_qty - exit_qty; negative when over-closed."""
        return self.entry_qty - self.exit_qty

    @property
    def is_open(self) -> bool:
        """Whether the runbook's query lists it: more was opened than closed, or a quantity is not a finite number."""
        return self.open_qty > 0 or any(row.is_filled and row.quantity_problem == NOT_FINITE for row in self.rows)

    @property
    def closing_side(self) -> Side:
        """The side of its exits: an EXIT never opens, so shorts close with buys."""
        return self.entry_side.opposite

    @property
    def begin(self) -> datetime:
        """The earliest created_at or filled_at of its ENTRY rows; a row often carries its last fill's time.

        A trade that negative exits alone keep open has no ENTRY row: there every row counts.
        """
        return min(min(row.created_at, row.filled_at) for row in self.entries or self.rows)

    @property
    def last_entry(self) -> OrderRow:
        """The ENTRY row filled last, ties by order_id; without any, the last row."""
        return max(self.entries or self.rows, key=lambda row: (row.filled_at, row.order_id))


def known_side(raw: str | None) -> Side | None:
    """`buy` or `sell` in any case, trimmed; None for anything else."""
    text = (raw or "").strip().lower()
    return Side(text) if text in ("buy", "sell") else None


def row_side(row: OrderRow, entry_side: Side | None) -> Side | None:
    """The side of a row: its own when it has one, else the trade's; None when neither says."""
    if row.raw_side is not None or entry_side is None:
        return known_side(row.raw_side)
    return {"ENTRY": entry_side, "EXIT": entry_side.opposite}.get(row.action)


def build_lifecycles(rows: Iterable[OrderRow]) -> dict[TradeKey, Lifecycle]:
    """The lifecycles of the rows that carry a trade_id, by symbol and trade_id; any order of rows will do."""
    trades: dict[str, list[OrderRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.filled_at, row.order_id)):
        if row.trade_id is not None:
            trades[row.trade_id].append(row)
    lifecycles = {}
    for trade_id, trade in sorted(trades.items()):
        for symbol in sorted({row.symbol for row in trade}):
            lifecycle = _lifecycle(symbol, trade_id, trade)
            lifecycles[lifecycle.key] = lifecycle
    return lifecycles


def _lifecycle(symbol: str, trade_id: str, trade: Sequence[OrderRow]) -> Lifecycle:
    rows = tuple(row for row in trade if row.symbol == symbol)
    sides = [known_side(row.raw_side) or Side.BUY for row in rows if row.is_filled and row.action == "ENTRY"]
    entry_side = sides[0] if sides else Side.BUY
    return Lifecycle(
        symbol=symbol,
        trade_id=trade_id,
        rows=rows,
        entry_side=entry_side,
        pending=tuple(row for row in trade if row.status not in FILLED and row.status not in TERMINAL_UNFILLED),
        defects=tuple(_defects([row for row in trade if row.is_filled], entry_side)),
    )


def _defects(trade: Sequence[OrderRow], entry_side: Side) -> Iterable[str]:
    """Sentences about the filled rows of a whole trade, all symbols together."""
    symbols = sorted({row.symbol for row in trade})
    if len(symbols) > 1:
        yield f"one trade_id stands on {len(symbols)} symbols: {', '.join(symbols)}"
    if len({known_side(row.raw_side) or Side.BUY for row in trade if row.action == "ENTRY"}) > 1:
        yield "its ENTRY rows have two sides"
    begins = [min(row.created_at, row.filled_at) for row in trade if row.action == "ENTRY"]
    for row in trade:
        if not row.symbol:
            yield f"row {row.order_id} has no symbol"
        if row.action not in ("ENTRY", "EXIT"):
            yield f"row {row.order_id} has action {row.action!r}, expected ENTRY or EXIT"
        if row.quantity_problem:
            yield f"row {row.order_id}: {row.quantity_problem}"
        if row.raw_side is not None and known_side(row.raw_side) is None:
            yield f"row {row.order_id} has side {row.raw_side!r}, expected buy or sell"
        elif row.action == "EXIT" and row_side(row, entry_side) is entry_side:
            yield f"EXIT row {row.order_id} is on the trade's own entry side, {entry_side}"
        if row.action == "EXIT" and begins and row.filled_at < min(begins):
            yield f"EXIT row {row.order_id} is filled before the trade begins at {canonical_time(min(begins))}"
