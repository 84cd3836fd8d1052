"""What the ledger and the background trades are made of: exchange orders, and what became of their rows.

Pure: nothing here reads, writes, or knows the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from recon.domain import Side

FIRST_FILL = timedelta(seconds=1, milliseconds=840)
"""From placing an order to its first fill."""

NEXT_INSTANT = timedelta(seconds=6, milliseconds=310)
"""From one instant at which an order filled to the next one."""


class Booked(StrEnum):
    """What the backend did with an order; any other word in its place is the status of the order's row."""

    LOST = "lost"
    """The exchange filled it, the table has no row."""
    ORPHAN = "orphan"
    """The row is filled, its trade_id is NULL."""
    BY_HAND = "by-hand"
    """Somebody traded on the exchange's own pages: no row, no client_order_id."""
    WORKING = "working"
    """The exchange still works it, the table has no row."""
    OFF_BOOK = "off-book"
    """Not an order: the position changed without a fill (a transfer, a sweep of dust)."""
    BACKFILL = "backfill"
    """The canceled row of an earlier repair, under the id that the runbook gives the order's unit."""


class Piece(NamedTuple):
    """One execution of an order: quantity in units of the symbol, price in its quote."""

    at: datetime
    qty: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class Order:
    """One order at the exchange. `quantity` and `qty` are what the table's row holds (signed for off-book).

    `symbol` is the table's spelling, `booked` one of `Booked` or the row's status, `limit` the price of a row
    that never filled.
    """

    trade_id: str
    symbol: str
    action: str
    side: Side
    booked: str
    exchange_order_id: str
    placed_at: datetime
    quantity: Decimal
    qty: Decimal
    pieces: tuple[Piece, ...] = ()
    limit: Decimal | None = None

    @property
    def exchange_symbol(self) -> str:
        """The symbol as the exchange writes it in fills: BTC/USD, however the table spells it."""
        return self.symbol if "/" in self.symbol else f"{self.symbol[:-3]}/{self.symbol[-3:]}"

    @property
    def client_order_id(self) -> str | None:
        """The id that the backend gave the order; None when it did not place it."""
        return None if self.booked == Booked.BY_HAND else f"cl-{self.exchange_order_id}"

    @property
    def last_fill(self) -> datetime | None:
        """The instant of the last fill, None without fills."""
        return self.pieces[-1].at if self.pieces else None

    @property
    def vwap(self) -> Decimal | None:
        """The mean price over all fills, unrounded; a single fill's price as it stands; None without fills."""
        if len(self.pieces) == 1:
            return self.pieces[0].price
        total = sum((piece.qty for piece in self.pieces), Decimal(0))
        return sum((piece.qty * piece.price for piece in self.pieces), Decimal(0)) / total if total else None


def pieces_at(placed_at: datetime, groups: Iterable[Iterable[tuple[Decimal, Decimal]]]) -> Iterator[Piece]:
    """Fills from (quantity, price) pairs in groups: one group shares an instant, the next one comes later."""
    for number, group in enumerate(groups):
        for qty, price in group:
            yield Piece(placed_at + FIRST_FILL + number * NEXT_INSTANT, qty, price)
