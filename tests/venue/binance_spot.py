"""Binance spot and cross margin: markets, account, trades, orders, dust conversions and what the keys may do.

Trades and orders are asked for symbol by symbol. From an id or a start time the oldest come first; without either the
newest come, in the same order. Dust conversions are no trades: only the dust log has them. Balances with a debt, and
all trades and orders of a scenario whose wallet is `margin`, are told by the margin endpoints alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from venue.binance import (
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
from venue.model import ZERO, Balance, Market, Order, Scenario, Trade, plain
from venue.wire import Clock, Keys, milliseconds

_DAY = timedelta(hours=24)
_TOO_LONG = "More than 24 hours between startTime and endTime."
_TRADES = frozenset(("orderId", "fromId", "startTime", "endTime"))
_TRADES_ALLOWED = [
    frozenset(names.split())
    for names in ("", "orderId", "startTime", "endTime", "fromId", "startTime endTime", "orderId fromId")
]


class BinanceSpot(Binance):
    """Implements `venue.wire.Dialect`."""

    name = "binance_spot"
    prefixes: tuple[str, ...] = ("/api/v3/", "/sapi/")
    reading_posts = frozenset(("/sapi/v1/asset/get-funding-asset", "/sapi/v3/asset/getUserAsset"))

    def __init__(self, scenario: Scenario, keys: Keys, clock: Clock, limit: int | None = None) -> None:
        """`limit` lowers the number of rows per page."""
        super().__init__(scenario.of_kind("spot"), keys, clock, limit)
        self.public = {
            "/api/v3/ping": lambda _: {},
            "/api/v3/time": lambda _: {"serverTime": milliseconds(clock())},
            "/api/v3/exchangeInfo": self._exchange_info,
            "/sapi/v1/system/status": lambda _: {"status": 0, "msg": "normal"},
        }
        spot, margin = scenario.wallet == "spot", scenario.wallet == "margin"
        self.signed = {
            "/api/v3/account": self._account,
            "/api/v3/myTrades": lambda params: self._trades(params, shown=spot),
            "/api/v3/openOrders": lambda params: self._open_orders(params, shown=spot),
            "/api/v3/allOrders": lambda params: self._all_orders(params, shown=spot),
            "/api/v3/order": self._one_order,
            "/sapi/v1/margin/account": lambda _: self._margin_account(),
            "/sapi/v1/margin/myTrades": lambda params: self._trades(params, shown=margin),
            "/sapi/v1/margin/openOrders": lambda params: self._open_orders(params, shown=margin),
            "/sapi/v1/margin/allOrders": lambda params: self._all_orders(params, shown=margin),
            "/sapi/v1/margin/allPairs": lambda _: [_pair(row) for row in self.scenario.markets if row.listed],
            "/sapi/v1/margin/isolated/allPairs": lambda _: [],
            "/sapi/v1/margin/isolated/account": lambda _: {"assets": []},
            "/sapi/v1/asset/dribblet": self._dust,
            "/sapi/v1/asset/get-funding-asset": lambda _: [],
            "/sapi/v3/asset/getUserAsset": lambda _: [_user_asset(row) for row in self._spot_balances()],
            "/sapi/v1/account/apiRestrictions": lambda _: self._restrictions(),
            "/sapi/v1/capital/config/getall": lambda _: self._coins(),
        }

    # Markets, coins and keys

    def _exchange_info(self, params: Mapping[str, str]) -> Row:
        wanted = self.symbol(params, optional=True)
        markets = [row for row in self.scenario.markets if row.listed and wanted in (None, row.symbol)]
        return {
            "timezone": "UTC", "serverTime": milliseconds(self.clock()), "rateLimits": [], "exchangeFilters": [],
            "symbols": [_market(row) for row in markets],
        }  # fmt: skip

    def _coins(self) -> list[Row]:
        names = {name for row in self.scenario.markets for name in (row.base, row.quote)}
        names |= {row.asset for row in self.scenario.balances} | {"BNB"}
        return [
            {
                "coin": name, "name": name, "free": "0", "locked": "0", "freeze": "0", "withdrawing": "0",
                "isLegalMoney": name in ("USD", "EUR"), "trading": True, "depositAllEnable": True,
                "withdrawAllEnable": True, "networkList": [],
            }
            for name in sorted(names)
        ]  # fmt: skip

    def _restrictions(self) -> Row:
        trade, withdraw = self.keys.can_trade, self.keys.can_withdraw
        return {
            "ipRestrict": False, "createTime": 1698645219000, "enableReading": True, "enableWithdrawals": withdraw,
            "enableInternalTransfer": withdraw, "enableMargin": trade, "enableFutures": trade,
            "permitsUniversalTransfer": withdraw, "enableVanillaOptions": False, "enableFixApiTrade": False,
            "enableFixReadOnly": False, "enableSpotAndMarginTrading": trade, "enablePortfolioMarginTrading": False,
        }  # fmt: skip

    # Balances

    def _spot_balances(self) -> list[Balance]:
        return [row for row in self.scenario.balances if not row.in_margin]

    def _account(self, params: Mapping[str, str]) -> Row:
        rows = [row for row in self._spot_balances() if row.total or params.get("omitZeroBalances") != "true"]
        return {
            "makerCommission": 10, "takerCommission": 10, "buyerCommission": 0, "sellerCommission": 0,
            "canTrade": self.keys.can_trade, "canWithdraw": self.keys.can_withdraw, "canDeposit": True,
            "brokered": False, "updateTime": milliseconds(self.scenario.now), "accountType": "SPOT",
            "balances": [{"asset": row.asset, "free": row.free, "locked": row.used} for row in rows],
            "permissions": ["SPOT"], "uid": 354937868,
        }  # fmt: skip

    def _margin_account(self) -> Row:
        rows = [row for row in self.scenario.balances if row.in_margin]
        return {
            "created": True, "borrowEnabled": True, "tradeEnabled": self.keys.can_trade, "accountType": "MARGIN_1",
            "marginLevel": "999", "totalAssetOfBtc": "0", "totalLiabilityOfBtc": "0", "totalNetAssetOfBtc": "0",
            "userAssets": [
                {
                    "asset": row.asset, "free": row.free, "locked": row.used, "borrowed": row.borrowed,
                    "interest": row.interest, "netAsset": row.net,
                }
                for row in rows
            ],
        }  # fmt: skip

    # Trades and orders

    def _trades(self, params: Mapping[str, str], *, shown: bool) -> list[Row]:
        only_combinations(params, _TRADES_ALLOWED, _TRADES)
        start, end = span(params, _DAY, _TOO_LONG)

        def keep(row: Trade) -> bool:
            return shown and row.kind != "dust" and within(row.filled_at, start, end)

        oldest_first = "fromId" in params or start is not None
        return [self._trade(row) for row in self.find(params, self.page(params), keep, oldest_first=oldest_first)]

    def _trade(self, row: Trade) -> Row:
        buys = row.side == "buy"
        more = {"isIsolated": False} if self.scenario.wallet == "margin" else {"orderListId": -1}
        return more | {
            "symbol": self.joined(row.symbol), "id": int(row.id), "orderId": int(row.order_id), "price": row.price,
            "qty": row.qty, "quoteQty": plain(row.cost), "commission": row.fee or "0",
            "commissionAsset": row.fee_currency or self.scenario.market(row.symbol).quote,
            "time": milliseconds(row.filled_at), "isBuyer": buys, "isMaker": False, "isBestMatch": True,
        }  # fmt: skip

    def _open_orders(self, params: Mapping[str, str], *, shown: bool) -> list[Row]:
        symbol = self.symbol(params, optional=True)
        rows = [row for row in self.scenario.orders if shown and row.is_open and symbol in (None, row.symbol)]
        return [self._order(row) for row in by_id(rows)]

    def _all_orders(self, params: Mapping[str, str], *, shown: bool) -> list[Row]:
        symbol = self.symbol(params)
        start, end = span(params, _DAY, _TOO_LONG)
        first, size = whole(params, "orderId", 0), self.page(params)
        rows = by_id(
            row
            for row in self.scenario.orders
            if shown and row.symbol == symbol and row.kind != "dust" and within(row.created_at, start, end)
        )
        rows = [row for row in rows if int(row.id) >= first]
        return [self._order(row) for row in (rows[:size] if "orderId" in params or start else rows[-size:])]

    def _one_order(self, params: Mapping[str, str]) -> Row:
        symbol = self.symbol(params)
        wanted = params.get("orderId") or params.get("origClientOrderId") or required(params, "orderId")
        for row in self.scenario.orders:
            if row.symbol == symbol and wanted in (row.id, row.client_order_id):
                return self._order(row)
        raise Refusal(-2013, "Order does not exist.")

    def _order(self, row: Order) -> Row:
        fills = self.scenario.trades_of(row.id)
        common = order_row(row, fills, self.joined(row.symbol))
        del common["avgPrice"]
        return common | {
            "orderListId": -1, "cummulativeQuoteQty": plain(sum((fill.cost for fill in fills), ZERO)),
            "icebergQty": "0", "isWorking": True, "workingTime": common["time"], "origQuoteOrderQty": "0",
            "selfTradePreventionMode": "NONE",
        }  # fmt: skip

    # Dust

    def _dust(self, params: Mapping[str, str]) -> Row:
        """One entry per conversion, which the trades of one order make up; what was charged is not in what was got."""
        start, end = span(params, timedelta.max, "")
        groups: dict[str, list[Trade]] = {}
        for row in sorted(self.scenario.trades, key=lambda row: row.filled_at):
            if row.kind == "dust" and within(row.filled_at, start, end):
                groups.setdefault(row.order_id, []).append(row)
        entries = [_conversion(order_id, rows) for order_id, rows in groups.items()]
        return {"total": len(entries), "userAssetDribblets": entries}


def _market(row: Market) -> Row:
    return {
        "symbol": row.joined, "status": "TRADING" if row.active else "BREAK", "baseAsset": row.base,
        "baseAssetPrecision": 8, "quoteAsset": row.quote, "quotePrecision": 8, "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8, "orderTypes": ["LIMIT", "MARKET"],
        "icebergAllowed": True, "ocoAllowed": True, "quoteOrderQtyMarketAllowed": True, "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True, "permissions": [], "permissionSets": [["SPOT", "MARGIN"]],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": row.tick, "maxPrice": "1000000.00", "tickSize": row.tick},
            {"filterType": "LOT_SIZE", "minQty": row.min_qty, "maxQty": "9000.0", "stepSize": row.step},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "avgPriceMins": 5},
        ],
    }  # fmt: skip


def _pair(row: Market) -> Row:
    return {
        "symbol": row.joined, "base": row.base, "quote": row.quote, "isMarginTrade": True, "isBuyAllowed": True,
        "isSellAllowed": True, "id": str(int.from_bytes(row.joined.encode()[:6], "big")),
    }  # fmt: skip


def _user_asset(row: Balance) -> Row:
    return {
        "asset": row.asset, "free": row.free, "locked": row.used, "freeze": "0", "withdrawing": "0", "ipoable": "0",
        "btcValuation": "0",
    }  # fmt: skip


def _conversion(order_id: str, rows: list[Trade]) -> Row:
    """Amounts are what was given in each asset, and what was got for it and charged on it in BNB."""
    when = milliseconds(rows[0].filled_at)
    details = [
        {
            "transId": int(order_id), "serviceChargeAmount": row.fee or ZERO, "amount": row.qty, "operateTime": when,
            "transferedAmount": row.cost - (row.fee or ZERO), "fromAsset": row.symbol.split("/")[0],
        }
        for row in rows
    ]  # fmt: skip
    return {
        "operateTime": when, "totalTransferedAmount": sum((row.cost - (row.fee or ZERO) for row in rows), ZERO),
        "totalServiceChargeAmount": sum((row.fee or ZERO for row in rows), ZERO), "transId": int(order_id),
        "userAssetDribbletDetails": details,
    }  # fmt: skip
