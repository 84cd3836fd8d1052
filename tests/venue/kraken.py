"""Kraken spot: assets and pairs under Kraken's own names, trades, orders, balances, margin positions and the ledger.

Every answer is a 200 with a list of errors, empty when all is well. Trades, closed orders and ledger entries come
newest first, fifty at a time, from the offset `ofs`; `start` is exclusive, `end` inclusive, and either may be an id.
A trade tells its fee in the quote asset; in which asset it was really taken, only the ledger says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import format_datetime
from functools import cached_property
from typing import TypeVar

from venue.kraken_ledger import Entry, ledger
from venue.kraken_names import altname, asset_id, pair_altname, pair_id, wsname
from venue.model import ZERO, Leg, Market, Order, Scenario, Trade, plain
from venue.paging import Timeline
from venue.spelling import kraken_id
from venue.wire import Clock, Keys, Reply, Request

Row = dict[str, object]
Params = dict[str, str]
Item = TypeVar("Item")
Handler = Callable[[Params], object]

_PAGE = 50
_MOST_IDS = 50
_LEVERAGE = "2"


class _Refusal(Exception):
    """An error in Kraken's words."""


class Kraken:
    """Implements `venue.wire.Dialect`."""

    name = "kraken"
    prefixes: tuple[str, ...] = ("/0/",)

    def __init__(self, scenario: Scenario, keys: Keys, clock: Clock, limit: int | None = None) -> None:
        """`limit` lowers the number of rows per page."""
        self._scenario = scenario.of_kind("spot")
        self._keys = keys
        self._clock = clock
        self._page = min(_PAGE, limit or _PAGE)
        self._last_nonce = 0
        self._lock = threading.Lock()
        self._public: dict[str, Handler] = {
            "/0/public/Time": lambda _: self._time(),
            "/0/public/SystemStatus": lambda _: {"status": "online", "timestamp": f"{clock():%Y-%m-%dT%H:%M:%SZ}"},
            "/0/public/Assets": lambda _: self._assets(),
            "/0/public/AssetPairs": self._pairs,
        }
        self._private: dict[str, Handler] = {
            "/0/private/TradesHistory": self._trades,
            "/0/private/QueryTrades": self._query_trades,
            "/0/private/ClosedOrders": self._closed_orders,
            "/0/private/OpenOrders": self._open_orders,
            "/0/private/QueryOrders": self._query_orders,
            "/0/private/Balance": lambda _: self._balance(),
            "/0/private/BalanceEx": lambda _: self._balance_extended(),
            "/0/private/OpenPositions": self._positions,
            "/0/private/Ledgers": self._ledgers,
            "/0/private/GetApiKeyInfo": self._key_info,
        }

    def is_write(self, request: Request) -> bool:
        """Every private method writes, but for those that are known to read, and so does any method but GET."""
        return request.path not in self._private and (request.method != "GET" or "/private/" in request.path)

    def refuse_write(self) -> Reply:
        """What keys without the permission are told, as a 403."""
        return Reply(403, {"error": ["EGeneral:Permission denied"]})

    def answer(self, request: Request) -> Reply:
        """The answer to a request that only reads."""
        try:
            return Reply(200, {"error": [], "result": self._result(request)})
        except _Refusal as refusal:
            return _error(str(refusal))

    def _result(self, request: Request) -> object:
        if request.path in self._public:
            return self._public[request.path](request.params)
        if request.path not in self._private:
            raise _Refusal("EGeneral:Unknown method")
        self._authenticate(request)
        return self._private[request.path](request.params)

    def rate_limited(self, retry_after: int | None) -> Reply:
        """200, with the error."""
        return _error("EAPI:Rate limit exceeded", retry_after)

    def banned(self, retry_after: int | None) -> Reply:
        """200, and the address is locked out for a while."""
        return _error("EGeneral:Temporary lockout", retry_after)

    def maintenance(self) -> Reply:
        """200, and nothing can be had."""
        return _error("EService:Unavailable")

    def _authenticate(self, request: Request) -> None:
        if request.headers.get("api-key") != self._keys.api_key:
            raise _Refusal("EAPI:Invalid key")
        nonce = request.params.get("nonce", "")
        signed = request.path.encode() + hashlib.sha256((nonce + request.body).encode()).digest()
        expected = hmac.new(base64.b64decode(self._keys.secret), signed, hashlib.sha512).digest()
        if not hmac.compare_digest(expected, _decoded(request.headers.get("api-sign", ""))):
            raise _Refusal("EAPI:Invalid signature")
        with self._lock:
            if not nonce.isdecimal() or int(nonce) <= self._last_nonce:
                raise _Refusal("EAPI:Invalid nonce")
            self._last_nonce = int(nonce)

    # Public

    def _time(self) -> Row:
        now = self._clock()
        return {"unixtime": int(now.timestamp()), "rfc1123": format_datetime(now)}

    def _assets(self) -> Row:
        names = {name for row in self._scenario.markets for name in (row.base, row.quote)}
        names |= {row.asset for row in self._scenario.balances}
        return {
            asset_id(name): {
                "aclass": "currency", "altname": altname(name), "decimals": 10, "display_decimals": 5,
                "status": "enabled",
            }
            for name in sorted(names)
        }  # fmt: skip

    def _pairs(self, params: Params) -> Row:
        markets = [row for row in self._scenario.markets if row.listed]
        wanted = [name for name in params.get("pair", "").split(",") if name]
        named = {name: row for row in markets for name in (pair_id(row), pair_altname(row), wsname(row), row.symbol)}
        if not set(wanted) <= named.keys():
            raise _Refusal("EQuery:Unknown asset pair")
        return {pair_id(row): _pair(row) for row in ([named[name] for name in wanted] or markets)}

    # Trades and orders

    def _trades(self, params: Params) -> Row:
        return self._paged("trades", self._by_time, lambda row: (row.id, self._trade(row)), params)

    def _query_trades(self, params: Params) -> Row:
        wanted = _ids(params)
        return {row.id: self._trade(row) for row in self._scenario.trades if row.id in wanted}

    def _trade(self, row: Trade) -> Row:
        market = self._scenario.market(row.symbol)
        order = self._scenario.order(row.order_id)
        forced = "liquidation market" if row.kind == "liquidation" else None
        number = int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:4], "big")
        return {
            "ordertxid": row.order_id, "postxid": kraken_id("T", f"position {row.id}"), "pair": pair_id(market),
            "aclass": "forex", "time": row.filled_at.timestamp(), "type": row.side,
            "ordertype": forced or ("market" if order.price is None else "limit"), "price": row.price,
            "cost": plain(row.cost), "fee": _fee_in_quote(row, market), "vol": row.qty, "margin": "0.00000",
            "leverage": "0", "misc": "", "trade_id": number, "maker": False,
        }  # fmt: skip

    def _open_orders(self, params: Params) -> Row:
        rows = [row for row in self._scenario.orders if row.is_open]
        return {"open": {row.id: self._order(row, params) for row in rows}}

    def _closed_orders(self, params: Params) -> Row:
        return self._paged("closed", self._by_closing, lambda row: (row.id, self._order(row, params)), params)

    def _query_orders(self, params: Params) -> Row:
        wanted = _ids(params)
        return {row.id: self._order(row, params) for row in self._scenario.orders if row.id in wanted}

    def _closed_at(self, row: Order) -> datetime:
        fills = self._scenario.trades_of(row.id)
        return fills[-1].filled_at if fills else row.created_at

    def _order(self, row: Order, params: Params) -> Row:
        market, fills = self._scenario.market(row.symbol), self._scenario.trades_of(row.id)
        cost, done = sum((fill.cost for fill in fills), ZERO), sum((fill.qty for fill in fills), ZERO)
        more: Row = {} if row.is_open else {"closetm": self._closed_at(row).timestamp(), "reason": _reason(row)}
        if row.client_order_id:
            more["cl_ord_id"] = row.client_order_id
        if params.get("trades", "").lower() == "true":
            more["trades"] = [fill.id for fill in fills]
        in_base = any(fill.fee_currency == market.base for fill in fills)
        return more | {
            "refid": row.replaces, "userref": None, "status": _status(row), "opentm": row.created_at.timestamp(),
            "starttm": 0, "expiretm": 0, "descr": _description(row, market), "vol": row.qty,
            "vol_exec": row.filled_qty, "cost": plain(cost),
            "fee": plain(sum((_fee_in_quote(fill, market) for fill in fills), ZERO)),
            "price": plain(cost / done) if done else "0.00000", "stopprice": "0.00000", "limitprice": "0.00000",
            "misc": "", "oflags": "fcib" if in_base else "fciq",
        }  # fmt: skip

    # Balances, positions, ledger and keys

    def _balance(self) -> Row:
        return {asset_id(row.asset): row.total for row in self._scenario.balances}

    def _balance_extended(self) -> Row:
        return {
            asset_id(row.asset): {"balance": row.total, "hold_trade": row.used}
            | ({"credit": row.borrowed, "credit_used": row.borrowed + row.interest} if row.in_margin else {})
            for row in self._scenario.balances
        }

    def _positions(self, params: Params) -> Row | list[Row]:
        """Margin positions by id, or one row per pair and side in a list."""
        if params.get("consolidation") == "market":
            sides = {(leg.symbol, leg.qty < 0): ZERO for leg in self._scenario.legs if leg.qty}
            return [self._consolidated(symbol, short) for symbol, short in sides]
        return {kraken_id("T", f"leg {number}"): self._leg(leg) for number, leg in enumerate(self._scenario.legs)}

    def _consolidated(self, symbol: str, short: bool) -> Row:
        legs = [leg for leg in self._scenario.legs if leg.symbol == symbol and leg.qty and (leg.qty < 0) == short]
        cost = sum((abs(leg.qty) * leg.entry_price for leg in legs), ZERO)
        return {
            "pair": pair_id(self._scenario.market(symbol)), "positions": str(len(legs)),
            "type": "sell" if short else "buy", "leverage": _LEVERAGE, "cost": plain(cost), "fee": "0.00000",
            "vol": plain(sum((abs(leg.qty) for leg in legs), ZERO)), "vol_closed": "0.00000000",
            "margin": plain(cost / 2), "value": plain(cost), "net": "+0.0000",
        }  # fmt: skip

    def _leg(self, leg: Leg) -> Row:
        cost = abs(leg.qty) * leg.entry_price
        return {
            "ordertxid": kraken_id("O", f"leg {leg.symbol}"), "posstatus": "open",
            "pair": pair_id(self._scenario.market(leg.symbol)), "time": self._scenario.now.timestamp(),
            "type": "sell" if leg.qty < 0 else "buy", "ordertype": "limit", "cost": plain(cost), "fee": "0.00000",
            "vol": plain(abs(leg.qty)), "vol_closed": "0.00000000", "margin": plain(cost / 2), "value": plain(cost),
            "net": "+0.0000", "leverage": _LEVERAGE, "terms": "0.0100% per 4 hours", "rollovertm": "0", "misc": "",
            "oflags": "",
        }  # fmt: skip

    def _ledgers(self, params: Params) -> Row:
        wanted = {name for name in params.get("asset", "all").split(",") if name != "all"}
        timeline, told = self._by_booking, params.get("type", "all") in ("all", "trade")
        if wanted or not told:
            rows = [r for r in timeline.rows if told and {r.asset, asset_id(r.asset), altname(r.asset)} & wanted]
            timeline = Timeline(rows, lambda row: row.time, lambda row: row.id, by_id=False)
        return self._paged("ledger", timeline, lambda row: (row.id, row.row()), params)

    def _key_info(self, params: Params) -> Row:
        permissions = ["query-funds", "query-open-trades", "query-closed-trades", "query-ledger"]
        permissions += ["modify-trades"] if self._keys.can_trade else []
        permissions += ["withdraw-funds"] if self._keys.can_withdraw else []
        return {
            "apiKeyName": "loopback", "apiKey": self._keys.api_key, "nonce": params["nonce"], "nonceWindow": 0,
            "permissions": permissions, "iban": "AA00 N00G 0000 0000", "validUntil": "0", "queryFrom": "0",
            "queryTo": "0", "createdTime": "1772542900", "modifiedTime": "1772543095", "ipAllowlist": [],
            "lastUsed": str(int(self._clock().timestamp())),
        }  # fmt: skip

    @cached_property
    def _by_time(self) -> Timeline[Trade]:
        return Timeline(self._scenario.trades, lambda row: row.filled_at, lambda row: row.id)

    @cached_property
    def _by_closing(self) -> Timeline[Order]:
        closed = [row for row in self._scenario.orders if not row.is_open]
        return Timeline(closed, self._closed_at, lambda row: row.id)

    @cached_property
    def _by_booking(self) -> Timeline[Entry]:
        return Timeline(ledger(self._scenario), lambda row: row.time, lambda row: row.id, by_id=False)

    def _paged(self, name: str, rows: Timeline[Item], tell: Callable[[Item], tuple[str, Row]], params: Params) -> Row:
        """The page from the offset, and how many rows there are in all, unless the client does not want to know."""
        offset = params.get("ofs") or "0"
        if not offset.isdecimal():
            raise _Refusal("EGeneral:Invalid arguments:ofs")
        low = _place(rows, params, "start", 0)
        high = max(low, _place(rows, params, "end", len(rows.rows)))
        page = rows.page(low, high, self._page, newest_first=True, offset=int(offset))
        quiet = params.get("without_count", "").lower() == "true"
        return {name: dict(map(tell, page))} | ({} if quiet else {"count": high - low})


def _pair(row: Market) -> Row:
    return {
        "altname": pair_altname(row), "wsname": wsname(row), "aclass_base": "currency", "base": asset_id(row.base),
        "aclass_quote": "currency", "quote": asset_id(row.quote), "lot": "unit", "cost_decimals": 5,
        "pair_decimals": _decimals(row.tick), "lot_decimals": _decimals(row.step), "lot_multiplier": 1,
        "leverage_buy": [2, 3], "leverage_sell": [2, 3], "fees": [[0, 0.26]], "fees_maker": [[0, 0.16]],
        "fee_volume_currency": "ZUSD", "margin_call": 80, "margin_stop": 40, "ordermin": row.min_qty,
        "costmin": "0.5", "tick_size": row.tick, "status": "online" if row.active else "cancel_only",
    }  # fmt: skip


def _decimals(step: Decimal) -> int:
    exponent = step.normalize().as_tuple().exponent
    return max(0, -int(exponent))


def _description(row: Order, market: Market) -> Row:
    kind, name = "market" if row.price is None else "limit", pair_altname(market)
    text = f"{row.side} {plain(row.qty)} {name} @ {kind}" + (f" {plain(row.price)}" if row.price is not None else "")
    return {
        "pair": name, "aclass": "forex", "type": row.side, "ordertype": kind, "price": row.price or "0",
        "price2": "0", "leverage": "none", "order": text, "close": "",
    }  # fmt: skip


def _status(row: Order) -> str:
    return {"open": "open", "filled": "closed", "canceled": "canceled", "replaced": "canceled"}[row.status]


def _reason(row: Order) -> str | None:
    return {"canceled": "User requested", "replaced": "Order replaced"}.get(row.status)


def _fee_in_quote(row: Trade, market: Market) -> Decimal:
    if row.fee_currency == market.base:
        return (row.fee or ZERO) * row.price
    return row.fee or ZERO if row.fee_currency == market.quote else ZERO


def _place(rows: Timeline[Item], params: Params, name: str, default: int) -> int:
    """The place behind an id or an instant (seconds since 1970): where `start` begins, and where `end` ends."""
    text = params.get(name)
    if not text:
        return default
    place = rows.place(text)
    if place is not None:
        return place + 1
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        raise _Refusal("EGeneral:Invalid arguments") from None
    whole = datetime.fromtimestamp(int(seconds), UTC)
    return rows.first_after(whole.replace(microsecond=int(seconds % 1 * 1_000_000)))


def _ids(params: Params) -> set[str]:
    ids = {text for text in params.get("txid", "").split(",") if text}
    if not ids or len(ids) > _MOST_IDS:
        raise _Refusal("EGeneral:Invalid arguments")
    return ids


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _error(text: str, retry_after: int | None = None) -> Reply:
    return Reply(200, {"error": [text]}, {} if retry_after is None else {"Retry-After": str(retry_after)})
