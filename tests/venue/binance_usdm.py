"""Binance USD-M futures: contracts, positions leg by leg, account, trades, orders and forced orders.

Trades are asked for symbol by symbol, at most seven days at a time, or from an id without any time. In hedge mode the
long and the short leg of a contract are rows of their own. A liquidation, an ADL or a settlement shows only in the
client id of its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from venue.binance import (
    MAX_LIMIT,
    Binance,
    Refusal,
    Row,
    by_id,
    only_combinations,
    order_row,
    required,
    span,
    whole,
    within,
)
from venue.model import ZERO, Leg, Market, Order, PositionSide, Scenario, Trade, plain
from venue.wire import Clock, Keys, milliseconds

_WEEK = timedelta(days=7)
_TRADES_KEPT = timedelta(days=183)
_UNFILLED_KEPT = timedelta(days=3)
_TOO_LONG = "Time interval must be within 7 days."
_TRADES = frozenset(("fromId", "startTime", "endTime"))
_TRADES_ALLOWED = [frozenset(names.split()) for names in ("", "fromId", "startTime", "endTime", "startTime endTime")]
_FORCED = {"liquidation": "LIQUIDATION", "adl": "ADL"}
_LEVERAGE = 20
Sides = tuple[PositionSide, ...]
_NEVER = 4_133_404_800_000


class BinanceUsdm(Binance):
    """Implements `venue.wire.Dialect`. COIN-M is there too, without any contract."""

    name = "binance_usdm"
    prefixes: tuple[str, ...] = ("/fapi/", "/dapi/")

    def __init__(self, scenario: Scenario, keys: Keys, clock: Clock, limit: int | None = None) -> None:
        """`limit` lowers the number of rows per page."""
        super().__init__(scenario.of_kind("swap"), keys, clock, limit)
        sides = (*(row.position_side for row in scenario.legs), *(row.position_side for row in scenario.orders))
        self.hedged = any(side != "BOTH" for side in sides)
        self.public = {
            "/fapi/v1/ping": lambda _: {},
            "/fapi/v1/time": lambda _: {"serverTime": milliseconds(clock())},
            "/fapi/v1/exchangeInfo": lambda _: self._exchange_info(),
            "/dapi/v1/exchangeInfo": lambda _: {"timezone": "UTC", "serverTime": milliseconds(clock()), "symbols": []},
            "/dapi/v1/time": lambda _: {"serverTime": milliseconds(clock())},
        }
        self.signed = {
            "/fapi/v1/userTrades": self._trades,
            "/fapi/v3/positionRisk": lambda params: [self._risk(row) for row in self._touched(params)],
            "/fapi/v2/positionRisk": lambda params: [self._risk_v2(row) for row in self._every(params)],
            "/fapi/v3/account": lambda _: self._account(self._touched({})),
            "/fapi/v2/account": lambda _: self._account_v2(),
            "/fapi/v2/balance": lambda _: self._balances(),
            "/fapi/v3/balance": lambda _: self._balances(),
            "/fapi/v1/openOrders": self._open_orders,
            "/fapi/v1/openAlgoOrders": lambda _: [],
            "/fapi/v1/allOrders": self._all_orders,
            "/fapi/v1/order": self._one_order,
            "/fapi/v1/forceOrders": self._forced_orders,
            "/fapi/v1/leverageBracket": lambda params: self._brackets(params),
            "/fapi/v1/positionSide/dual": lambda _: {"dualSidePosition": self.hedged},
            "/fapi/v1/multiAssetsMargin": lambda _: {"multiAssetsMargin": False},
            "/fapi/v1/accountConfig": lambda _: self._config(),
        }

    def _exchange_info(self) -> Row:
        markets = [row for row in self.scenario.markets if row.listed]
        return {
            "timezone": "UTC", "serverTime": milliseconds(self.clock()), "futuresType": "U_MARGINED",
            "rateLimits": [], "exchangeFilters": [], "assets": [], "symbols": [_market(row) for row in markets],
        }  # fmt: skip

    def _brackets(self, params: Mapping[str, str]) -> list[Row]:
        wanted = self.symbol(params, optional=True)
        rung = {
            "bracket": 1, "initialLeverage": _LEVERAGE, "notionalCap": 50_000_000, "notionalFloor": 0,
            "maintMarginRatio": 0.02, "cum": 0,
        }  # fmt: skip
        return [
            {"symbol": row.joined, "brackets": [rung]}
            for row in self.scenario.markets
            if row.listed and wanted in (None, row.symbol)
        ]

    def _config(self) -> Row:
        return {
            "feeTier": 0, "canTrade": self.keys.can_trade, "canDeposit": True, "canWithdraw": self.keys.can_withdraw,
            "dualSidePosition": self.hedged, "updateTime": 0, "multiAssetsMargin": False, "tradeGroupId": -1,
        }  # fmt: skip

    # Positions

    def _touched(self, params: Mapping[str, str]) -> list[Leg]:
        """Every leg, and an empty one for each contract that has nothing but open orders."""
        wanted = self.symbol(params, optional=True)
        legs = [row for row in self.scenario.legs if row.qty]
        held = {row.symbol for row in legs}
        waiting = sorted({row.symbol for row in self.scenario.orders if row.is_open} - held)
        sides: Sides = ("LONG", "SHORT") if self.hedged else ("BOTH",)
        empty = [leg for symbol in waiting for leg in _empty(symbol, sides)]
        return [row for row in (*legs, *empty) if wanted in (None, row.symbol)]

    def _every(self, params: Mapping[str, str]) -> list[Leg]:
        """A row for every contract and side, whether anything is held or not."""
        wanted = self.symbol(params, optional=True)
        held = {(row.symbol, row.position_side): row for row in self.scenario.legs}
        sides: Sides = ("BOTH", "LONG", "SHORT") if self.hedged else ("BOTH",)
        return [
            held.get((leg.symbol, leg.position_side), leg)
            for market in self.scenario.markets
            if wanted in (None, market.symbol)
            for leg in _empty(market.symbol, sides)
        ]

    def _mark(self, leg: Leg) -> Decimal:
        mine = self.trades[leg.symbol]
        return mine[-1].price if mine else leg.entry_price or Decimal(1)

    def _numbers(self, leg: Leg) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        """Mark price, notional (signed), unrealized profit and initial margin, the last three in the quote asset."""
        mark, size = self._mark(leg), self.scenario.market(leg.symbol).contract_size
        notional = leg.qty * mark * size
        return mark, notional, leg.qty * (mark - leg.entry_price) * size, abs(notional) / _LEVERAGE

    def _risk(self, leg: Leg) -> Row:
        mark, notional, profit, margin = self._numbers(leg)
        market = self.scenario.market(leg.symbol)
        return {
            "symbol": market.joined, "positionSide": leg.position_side, "positionAmt": leg.qty,
            "entryPrice": leg.entry_price, "breakEvenPrice": leg.entry_price, "markPrice": mark,
            "unRealizedProfit": plain(profit), "liquidationPrice": "0", "isolatedMargin": "0",
            "notional": plain(notional), "marginAsset": market.settle, "isolatedWallet": "0",
            "initialMargin": plain(margin), "maintMargin": plain(abs(notional) / 50),
            "positionInitialMargin": plain(margin), "openOrderInitialMargin": "0", "adl": 1, "bidNotional": "0",
            "askNotional": "0", "updateTime": milliseconds(self.scenario.now) if leg.qty else 0,
        }  # fmt: skip

    def _risk_v2(self, leg: Leg) -> Row:
        row = self._risk(leg)
        for name in ("marginAsset", "initialMargin", "maintMargin", "positionInitialMargin", "openOrderInitialMargin"):
            del row[name]
        return row | {
            "leverage": str(_LEVERAGE), "maxNotionalValue": "50000000", "marginType": "cross",
            "isAutoAddMargin": "false",
        }  # fmt: skip

    # Account

    def _account(self, legs: list[Leg]) -> Row:
        assets = [self._asset(row) for row in self._balances()]
        wallet = plain(sum((Decimal(str(row["balance"])) for row in self._balances()), ZERO))
        total = {
            "totalInitialMargin": "0", "totalMaintMargin": "0", "totalWalletBalance": wallet,
            "totalUnrealizedProfit": "0", "totalMarginBalance": wallet, "totalPositionInitialMargin": "0",
            "totalOpenOrderInitialMargin": "0", "totalCrossWalletBalance": wallet, "totalCrossUnPnl": "0",
            "availableBalance": wallet, "maxWithdrawAmount": wallet,
        }  # fmt: skip
        return {**total, "assets": assets, "positions": [self._account_leg(leg) for leg in legs]}

    def _account_v2(self) -> Row:
        account = self._account(self._every({}))
        more = {"leverage": str(_LEVERAGE), "isolated": False, "maxNotional": "50000000"}
        account["positions"] = [
            {**self._account_leg(leg), **more, "entryPrice": leg.entry_price} for leg in self._every({})
        ]
        return account | self._config()

    def _account_leg(self, leg: Leg) -> Row:
        _, notional, profit, margin = self._numbers(leg)
        return {
            "symbol": self.joined(leg.symbol), "positionSide": leg.position_side, "positionAmt": leg.qty,
            "unrealizedProfit": plain(profit), "isolatedMargin": "0", "notional": plain(notional),
            "isolatedWallet": "0", "initialMargin": plain(margin), "maintMargin": plain(abs(notional) / 50),
            "updateTime": milliseconds(self.scenario.now) if leg.qty else 0,
        }  # fmt: skip

    def _balances(self) -> list[Row]:
        """Balances in assets in which a contract settles."""
        settled = {row.settle for row in self.scenario.markets}
        return [
            {
                "accountAlias": "SgsR", "asset": row.asset, "balance": row.total, "crossWalletBalance": row.total,
                "crossUnPnl": "0", "availableBalance": row.free, "maxWithdrawAmount": row.free,
                "marginAvailable": True, "updateTime": milliseconds(self.scenario.now),
            }
            for row in self.scenario.balances
            if row.asset in settled
        ]  # fmt: skip

    def _asset(self, row: Row) -> Row:
        used = Decimal(str(row["balance"])) - Decimal(str(row["availableBalance"]))
        return {
            "asset": row["asset"], "walletBalance": row["balance"], "unrealizedProfit": "0",
            "marginBalance": row["balance"], "maintMargin": "0", "initialMargin": plain(used),
            "positionInitialMargin": plain(used), "openOrderInitialMargin": "0",
            "crossWalletBalance": row["balance"], "crossUnPnl": "0", "availableBalance": row["availableBalance"],
            "maxWithdrawAmount": row["availableBalance"], "updateTime": row["updateTime"],
        }  # fmt: skip

    # Trades and orders

    def _trades(self, params: Mapping[str, str]) -> list[Row]:
        size = self.page(_checked(params))
        only_combinations(params, _TRADES_ALLOWED, _TRADES)
        start, end = self._week(params, unbounded="fromId" in params)
        kept = self.scenario.now - _TRADES_KEPT

        def keep(row: Trade) -> bool:
            return row.filled_at >= kept and within(row.filled_at, start, end)

        oldest_first = "fromId" in params or "startTime" in params
        return [self._trade(row) for row in self.find(params, size, keep, oldest_first=oldest_first)]

    def _week(self, params: Mapping[str, str], *, unbounded: bool) -> tuple[datetime | None, datetime | None]:
        """The span asked for, seven days of it: from the start, else up to the end, else the last seven days."""
        start, end = span(params, _WEEK, _TOO_LONG)
        if unbounded:
            return start, end
        if start and not end:
            return start, start + _WEEK
        return start or (end or self.scenario.now) - _WEEK, end

    def _trade(self, row: Trade) -> Row:
        market, buys = self.scenario.market(row.symbol), row.side == "buy"
        return {
            "symbol": market.joined, "id": int(row.id), "orderId": int(row.order_id), "side": row.side.upper(),
            "price": row.price, "qty": row.qty, "realizedPnl": "0", "quoteQty": plain(row.cost * market.contract_size),
            "commission": row.fee or "0", "commissionAsset": row.fee_currency or market.settle,
            "time": milliseconds(row.filled_at), "positionSide": row.position_side, "buyer": buys, "maker": False,
        }  # fmt: skip

    def _open_orders(self, params: Mapping[str, str]) -> list[Row]:
        symbol = self.symbol(params, optional=True)
        rows = [row for row in self.scenario.orders if row.is_open and symbol in (None, row.symbol)]
        return [self._order(row) for row in by_id(rows)]

    def _all_orders(self, params: Mapping[str, str]) -> list[Row]:
        """Orders of a contract; one that was canceled without a fill is forgotten after three days."""
        symbol, size = self.symbol(params, optional=True), self.page(_checked(params))
        start, end = self._week(params, unbounded="orderId" in params)
        first = whole(params, "orderId", 0)
        rows = by_id(
            row
            for row in self.scenario.orders
            if symbol in (None, row.symbol) and self._remembered(row) and within(row.created_at, start, end)
        )
        rows = [row for row in rows if int(row.id) >= first]
        ascending = "orderId" in params or "startTime" in params
        return [self._order(row) for row in (rows[:size] if ascending else rows[-size:])]

    def _remembered(self, row: Order) -> bool:
        gone = row.status in ("canceled", "replaced") and not row.filled_qty
        return not gone or row.created_at + _UNFILLED_KEPT >= self.scenario.now

    def _one_order(self, params: Mapping[str, str]) -> Row:
        symbol = self.symbol(params)
        wanted = params.get("orderId") or params.get("origClientOrderId") or required(params, "orderId")
        for row in self.scenario.orders:
            if row.symbol == symbol and wanted in (row.id, row.client_order_id) and self._remembered(row):
                return self._order(row)
        raise Refusal(-2013, "Order does not exist.")

    def _forced_orders(self, params: Mapping[str, str]) -> list[Row]:
        symbol, kind = self.symbol(params, optional=True), params.get("autoCloseType")
        start, end = self._week(params, unbounded=False)
        size = self.page({"limit": "50"} | dict(params), most=100)
        rows = by_id(
            row
            for row in self.scenario.orders
            if row.kind in _FORCED
            and kind in (None, _FORCED[row.kind])
            and symbol in (None, row.symbol)
            and within(row.created_at, start, end)
        )
        return [self._order(row) for row in rows[-size:]]

    def _order(self, row: Order) -> Row:
        fills = self.scenario.trades_of(row.id)
        common = order_row(row, fills, self.joined(row.symbol))
        return common | {
            "cumQuote": plain(sum((fill.cost for fill in fills), ZERO)), "reduceOnly": row.kind != "trade",
            "closePosition": False, "positionSide": row.position_side, "workingType": "CONTRACT_PRICE",
            "origType": common["type"], "priceProtect": False, "priceMatch": "NONE", "goodTillDate": 0,
            "selfTradePreventionMode": "NONE",
        }  # fmt: skip


def _empty(symbol: str, sides: Sides) -> Iterator[Leg]:
    return (Leg(symbol, ZERO, ZERO, side) for side in sides)


def _market(row: Market) -> Row:
    size = {} if row.contract_size == 1 else {"contractSize": plain(row.contract_size)}
    return size | {
        "symbol": row.joined, "pair": row.joined, "contractType": "PERPETUAL", "deliveryDate": _NEVER,
        "onboardDate": 1569398400000, "status": "TRADING" if row.active else "SETTLING", "baseAsset": row.base,
        "quoteAsset": row.quote, "marginAsset": row.settle, "pricePrecision": 2, "quantityPrecision": 8,
        "baseAssetPrecision": 8, "quotePrecision": 8, "underlyingType": "COIN", "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC"],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": row.tick, "maxPrice": "1000000", "tickSize": row.tick},
            {"filterType": "LOT_SIZE", "minQty": row.min_qty, "maxQty": "1000", "stepSize": row.step},
            {"filterType": "MARKET_LOT_SIZE", "minQty": row.min_qty, "maxQty": "1000", "stepSize": row.step},
        ],
    }  # fmt: skip


def _checked(params: Mapping[str, str]) -> Mapping[str, str]:
    """Futures refuse a page that is too large."""
    whole(params, "limit", 1, MAX_LIMIT)
    return params
