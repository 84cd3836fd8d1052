"""What happened on one account: markets, orders, trades, legs, balances and fees, independent of any venue.

Quantities and prices are `Decimal`, times are aware datetimes in UTC, symbols are unified (`BTC/USD`, and
`BTC/USDT:USDT` for a swap). A scenario that contradicts itself cannot be built.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Literal

MarketKind = Literal["spot", "swap"]
Side = Literal["buy", "sell"]
OrderStatus = Literal["open", "filled", "canceled", "replaced"]
TradeKind = Literal["trade", "liquidation", "adl", "settlement", "delivery", "dust"]
PositionSide = Literal["BOTH", "LONG", "SHORT"]
Wallet = Literal["spot", "margin"]

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Market:
    """A market. `min_qty` and `step` are in units of the base asset (of contracts, for a swap).

    A market that is not `active` is still listed but halted; one that is not `listed` is gone from every list of
    markets, although its trades can still be read.
    """

    base: str
    quote: str
    kind: MarketKind = "spot"
    settle: str | None = None
    min_qty: Decimal = Decimal("0.0001")
    step: Decimal = Decimal("0.00000001")
    tick: Decimal = Decimal("0.01")
    contract_size: Decimal = Decimal(1)
    active: bool = True
    listed: bool = True

    def __post_init__(self) -> None:
        if (self.kind == "swap") != (self.settle is not None):
            raise ValueError(f"{self.base}/{self.quote}: a swap has a settle asset, a spot market has none")

    @property
    def symbol(self) -> str:
        """The unified symbol: `BTC/USD`, or `BTC/USDT:USDT` for a swap."""
        return f"{self.base}/{self.quote}" + (f":{self.settle}" if self.settle else "")

    @property
    def joined(self) -> str:
        """Base and quote without a separator, as Binance and Alpaca's positions spell it: `BTCUSD`."""
        return self.base + self.quote


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the account. `price` is its limit price, None for a market order; `kind` as in `Trade`."""

    id: str
    client_order_id: str | None
    symbol: str
    side: Side
    qty: Decimal
    filled_qty: Decimal
    price: Decimal | None
    created_at: datetime
    status: OrderStatus
    replaces: str | None = None
    replaced_by: str | None = None
    kind: TradeKind = "trade"
    position_side: PositionSide = "BOTH"

    @property
    def is_open(self) -> bool:
        """Whether the order can still be filled."""
        return self.status == "open"


@dataclass(frozen=True, slots=True)
class Trade:
    """One fill: `qty` in base units (contracts, for a swap), `fee` positive when it was paid; None when unknown."""

    id: str
    order_id: str
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal | None
    fee_currency: str | None
    filled_at: datetime
    kind: TradeKind = "trade"
    position_side: PositionSide = "BOTH"

    @property
    def cost(self) -> Decimal:
        """Quantity times price, in the quote asset."""
        return self.qty * self.price


@dataclass(frozen=True, slots=True)
class Leg:
    """A position: `qty` is signed (below zero is short) and in contracts for a swap."""

    symbol: str
    qty: Decimal
    entry_price: Decimal
    position_side: PositionSide = "BOTH"


@dataclass(frozen=True, slots=True)
class Balance:
    """What the account holds of an asset, in its units; a debt makes the balance one of the margin wallet."""

    asset: str
    free: Decimal
    used: Decimal = ZERO
    borrowed: Decimal = ZERO
    interest: Decimal = ZERO
    wallet: Wallet = "spot"

    @property
    def total(self) -> Decimal:
        """Free and used together, debts not subtracted."""
        return self.free + self.used

    @property
    def net(self) -> Decimal:
        """The total less what is owed."""
        return self.total - self.borrowed - self.interest

    @property
    def in_margin(self) -> bool:
        """Whether the balance is one of the margin wallet."""
        return self.wallet == "margin" or bool(self.borrowed or self.interest)


@dataclass(frozen=True, slots=True)
class FeeActivity:
    """A fee that is booked apart from its trade at the end of `day`; `qty` of `asset`, positive when paid."""

    id: str
    symbol: str
    asset: str
    qty: Decimal
    day: date


@dataclass(frozen=True)
class Scenario:
    """Everything the venue knows about the account as of `now`; `wallet` is where spot orders and trades belong."""

    now: datetime
    markets: tuple[Market, ...]
    orders: tuple[Order, ...] = ()
    trades: tuple[Trade, ...] = ()
    legs: tuple[Leg, ...] = ()
    balances: tuple[Balance, ...] = ()
    fees: tuple[FeeActivity, ...] = ()
    wallet: Wallet = "spot"

    def __post_init__(self) -> None:
        known = {market.symbol for market in self.markets}
        rows: tuple[Order | Trade | Leg | FeeActivity, ...] = (*self.orders, *self.trades, *self.legs, *self.fees)
        for row in rows:
            if row.symbol not in known:
                raise ValueError(f"{row.symbol!r} is the symbol of {row!r}, but no market of the scenario")
        orders = {order.id for order in self.orders}
        strays = sorted({trade.order_id for trade in self.trades} - orders)
        if strays or len(orders) < len(self.orders):
            raise ValueError(f"order ids must be unique and cover every trade; without an order: {strays}")
        for instant in (self.now, *(o.created_at for o in self.orders), *(t.filled_at for t in self.trades)):
            if instant.utcoffset() is None:
                raise ValueError(f"{instant} has no time zone")

    def market(self, symbol: str) -> Market:
        """The market of a unified symbol. Raises KeyError if there is none."""
        return self._markets[symbol]

    def order(self, order_id: str) -> Order:
        """The order of an id. Raises KeyError if there is none."""
        return self._orders[order_id]

    def trades_of(self, order_id: str) -> tuple[Trade, ...]:
        """The fills of one order, oldest first."""
        return self._fills.get(order_id, ())

    @cached_property
    def _markets(self) -> dict[str, Market]:
        return {row.symbol: row for row in self.markets}

    @cached_property
    def _orders(self) -> dict[str, Order]:
        return {row.id: row for row in self.orders}

    @cached_property
    def _fills(self) -> dict[str, tuple[Trade, ...]]:
        groups: dict[str, list[Trade]] = {}
        for row in sorted(self.trades, key=lambda row: (row.filled_at, row.id)):
            groups.setdefault(row.order_id, []).append(row)
        return {order_id: tuple(rows) for order_id, rows in groups.items()}

    def of_kind(self, kind: MarketKind) -> Scenario:
        """The part of the scenario on markets of one kind; balances are kept."""
        markets = tuple(market for market in self.markets if market.kind == kind)
        symbols = {market.symbol for market in markets}
        return replace(
            self,
            markets=markets,
            orders=tuple(order for order in self.orders if order.symbol in symbols),
            trades=tuple(trade for trade in self.trades if trade.symbol in symbols),
            legs=tuple(leg for leg in self.legs if leg.symbol in symbols),
            fees=tuple(fee for fee in self.fees if fee.symbol in symbols),
        )


def plain(value: Decimal) -> str:
    """A decimal without an exponent, exactly."""
    return format(value, "f")
