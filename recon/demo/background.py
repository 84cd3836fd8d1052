"""The trades around the incident: opened, closed and booked as they should be, by one small rule.

The rule counts instead of drawing numbers, so that the same table comes out each time: trade `number` takes the next
market, is a short every third time, opens seven hours after the one before and closes within the day. Its exit is
split in two orders every sixth time; every third time a stop order was canceled beside it; and every seventh time an
entry expired before it filled. Prices stay within a few percent of the market's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from recon.demo.book import Order, Piece, pieces_at
from recon.demo.clock import DEMO_START
from recon.domain import FILLED, Side

TRADES = 70
"""How many closed trades there are: three weeks at one every seven hours."""


class Market(NamedTuple):
    """A symbol with a price near which it traded, the lot that quantities and the tick that prices are rounded to."""

    symbol: str
    price: Decimal
    lot: Decimal
    tick: Decimal


MARKETS = tuple(
    Market(symbol, Decimal(price), Decimal(lot), Decimal(tick))
    for symbol, price, lot, tick in (
        ("BTC/USD", "68400", "0.0001", "0.5"),
        ("ETH/USD", "2040", "0.001", "0.05"),
        ("SOL/USD", "86.4", "0.01", "0.01"),
        ("AVAX/USD", "9.42", "0.1", "0.005"),
        ("LINK/USD", "8.95", "0.01", "0.005"),
        ("DOGE/USD", "0.0982", "1", "0.00001"),
        ("LTC/USD", "54.3", "0.01", "0.01"),
        ("BCH/USD", "510", "0.001", "0.05"),
    )
)


def _round(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value() * step


def _split(total: Decimal, lot: Decimal, parts: int) -> list[Decimal]:
    """`total` in parts of falling size, each a multiple of `lot`, none lost."""
    weights = range(parts, 0, -1)
    rest = [_round(total * weight / sum(weights), lot) for weight in weights][1:]
    return [total - sum(rest, Decimal(0)), *rest]


def _thousandths(number: int, factor: int, modulus: int) -> Decimal:
    """A step in thousandths around zero that looks irregular and is not."""
    return Decimal(number * factor % modulus - modulus // 2) / 1000


class _Trade:
    """One closed trade; its orders are called X1000 and up, ten numbers to a trade."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.market = MARKETS[number % len(MARKETS)]
        self.side = Side.SELL if number % 3 == 2 else Side.BUY
        self.opened = DEMO_START + timedelta(hours=7 * number, minutes=11 * number % 53, seconds=17 * number % 60)
        self.closed = self.opened + timedelta(hours=3 + 5 * number % 17, minutes=29 * number % 60)
        self.entry = self.market.price * (1 + _thousandths(number, 37, 41))
        gain = _thousandths(number, 29, 35) + Decimal("0.003")
        self.exit = self.entry * (1 + gain if self.side is Side.BUY else 1 - gain)
        self.size = _round((1500 + 1711 * number % 3500) / self.entry, self.market.lot)

    def orders(self) -> Iterator[Order]:
        """Every order of the trade, and the unfilled ones beside it."""
        yield self._order(0, "ENTRY", "filled", self.opened, self.size, self.entry)
        part = _round(self.size * 3 / 5, self.market.lot)
        if self.number % 6 == 0:
            yield self._order(1, "EXIT", "partially_filled", self.closed, part, self.exit)
            yield self._order(2, "EXIT", "filled", self.closed + timedelta(minutes=9), self.size - part, self.exit)
        else:
            yield self._order(1, "EXIT", "filled", self.closed, self.size, self.exit)
        if self.number % 3 == 0:
            yield self._order(3, "EXIT", "canceled", self.opened + timedelta(seconds=5), self.size, self.entry)
        if self.number % 7 == 3:
            yield self._order(4, "ENTRY", "expired", self.opened - timedelta(hours=1), self.size, self.entry)

    def _order(
        self, index: int, action: str, status: str, placed_at: datetime, quantity: Decimal, price: Decimal
    ) -> Order:
        name = "unfilled" if status == "expired" else "closed"
        return Order(
            f"{name}-{self.number:02d}",
            self.market.symbol,
            action,
            self.side if action == "ENTRY" else self.side.opposite,
            status,
            f"X{1000 + 10 * self.number + index}",
            placed_at,
            quantity,
            quantity,
            self._pieces(placed_at, quantity, price, 1 + (self.number // 3 + index) % 4) if status in FILLED else (),
            limit=_round(price * Decimal("0.97"), self.market.tick),
        )

    def _pieces(self, placed_at: datetime, quantity: Decimal, price: Decimal, parts: int) -> tuple[Piece, ...]:
        """One to four fills, two to an instant, each a tick above the one before."""
        prices = (_round(price, self.market.tick) + part * self.market.tick for part in range(parts))
        fills = list(zip(_split(quantity, self.market.lot, parts), prices, strict=True))
        return tuple(pieces_at(placed_at, (fills[:2], fills[2:])))


def background() -> Iterator[Order]:
    """The orders of all closed trades, and the canceled and expired ones beside them, oldest trade first."""
    for number in range(TRADES):
        yield from _Trade(number).orders()
