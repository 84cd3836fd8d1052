"""What Binance's interfaces share: signed requests, error answers, pages by id or time, and rows of orders."""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice

from venue.model import ZERO, Order, Scenario, Trade, plain
from venue.wire import Clock, Keys, Reply, Request, from_milliseconds, milliseconds

Row = dict[str, object]
Handler = Callable[[dict[str, str]], object]

DEFAULT_LIMIT = 500
MAX_LIMIT = 1000
_RECEIVE_WINDOW = 5000
_LONGEST_WINDOW = 60_000
_AHEAD = 1000
"""Milliseconds that a request may be stamped ahead of the venue's clock."""


class Refusal(Exception):
    """An answer that is not 200: Binance's code and message."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.reply = Reply(status, {"code": code, "msg": message})


class Signed:
    """A request that carries the key in X-MBX-APIKEY, and `timestamp` and `signature` among its parameters."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    def check(self, request: Request) -> None:
        """Raises `Refusal` with what the venue says to a wrong key, signature or time."""
        key = request.headers.get("x-mbx-apikey", "")
        if not key.isalnum():
            raise Refusal(-2014, "API-key format invalid.", 401)
        if key != self._keys.api_key:
            raise Refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        params = request.params
        for name in ("timestamp", "signature"):
            required(params, name)
        if not hmac.compare_digest(params["signature"], self._expected(request)):
            raise Refusal(-1022, "Signature for this request is not valid.")
        self._check_time(params)

    def _expected(self, request: Request) -> str:
        pieces = [*request.query.split("&"), *request.body.split("&")]
        payload = "&".join(piece for piece in pieces if piece and not piece.startswith("signature="))
        return hmac.new(self._keys.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()

    def _check_time(self, params: Mapping[str, str]) -> None:
        window = whole(params, "recvWindow", _RECEIVE_WINDOW, _LONGEST_WINDOW)
        stamped, now = whole(params, "timestamp", 0), milliseconds(self._clock())
        if stamped >= now + _AHEAD:
            raise Refusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now - stamped > window:
            raise Refusal(-1021, "Timestamp for this request is outside of the recvWindow.")


class Binance:
    """The part of `venue.wire.Dialect` that both interfaces share: `public` and `signed` name their endpoints."""

    name: str
    prefixes: tuple[str, ...]
    reading_posts: frozenset[str] = frozenset()

    def __init__(self, scenario: Scenario, keys: Keys, clock: Clock, limit: int | None = None) -> None:
        """`limit` lowers the number of rows per page."""
        self.scenario = scenario
        self.keys = keys
        self.clock = clock
        self.limit = limit
        self._signed = Signed(keys, clock)
        self.public: dict[str, Handler] = {}
        self.signed: dict[str, Handler] = {}

    def is_write(self, request: Request) -> bool:
        """Every method but GET writes, except for the few that read by POST."""
        return request.method != "GET" and request.path not in self.reading_posts

    def refuse_write(self) -> Reply:
        """The answer to keys that may only read, as a 403."""
        return Reply(403, {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."})

    def answer(self, request: Request) -> Reply:
        """The answer to a request that only reads."""
        try:
            if request.path in self.public:
                return Reply(200, self.public[request.path](request.params))
            if request.path not in self.signed:
                return Reply(404, {"code": -5000, "msg": f"Path {request.path}, Method {request.method} is invalid"})
            self._signed.check(request)
            return Reply(200, self.signed[request.path](request.params))
        except Refusal as refusal:
            return refusal.reply

    def rate_limited(self, retry_after: int | None) -> Reply:
        """429 and -1003."""
        message = "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."
        return Reply(429, {"code": -1003, "msg": message}, _retry(retry_after))

    def banned(self, retry_after: int | None) -> Reply:
        """418: the address is banned until a time in milliseconds."""
        until = milliseconds(self.clock() + timedelta(seconds=retry_after or 120))
        message = f"Way too much request weight used; IP banned until {until}."
        return Reply(418, {"code": -1003, "msg": message}, _retry(retry_after))

    def maintenance(self) -> Reply:
        """503 and -1000."""
        return Reply(503, {"code": -1000, "msg": "Service Unavailable."})

    def symbol(self, params: Mapping[str, str], *, optional: bool = False) -> str | None:
        """The unified symbol of the parameter `symbol`."""
        if optional and "symbol" not in params:
            return None
        wanted = required(params, "symbol")
        for market in self.scenario.markets:
            if market.joined == wanted:
                return market.symbol
        raise Refusal(-1121, "Invalid symbol.")

    def joined(self, symbol: str) -> str:
        """A unified symbol as Binance spells it."""
        return self.scenario.market(symbol).joined

    @cached_property
    def trades(self) -> dict[str, list[Trade]]:
        """The trades of each unified symbol as the venue sorts them: by their number."""
        groups: dict[str, list[Trade]] = {row.symbol: [] for row in self.scenario.markets}
        for row in sorted(self.scenario.trades, key=lambda row: int(row.id)):
            groups[row.symbol].append(row)
        return groups

    def find(
        self, params: Mapping[str, str], size: int, keep: Callable[[Trade], bool], *, oldest_first: bool
    ) -> list[Trade]:
        """At most `size` trades of the symbol, from `fromId` on and of `orderId`: the oldest or the newest ones."""
        rows = self.trades[self.symbol(params) or ""]
        first, order_id = whole(params, "fromId", 0), params.get("orderId")
        begin = bisect_left(rows, first, key=lambda row: int(row.id))
        chosen = (row for row in islice(rows, begin, None) if order_id in (None, row.order_id) and keep(row))
        return list(islice(chosen, size)) if oldest_first else list(chosen)[-size:]

    def page(self, params: Mapping[str, str], most: int = MAX_LIMIT) -> int:
        """How many rows the page may have; more than the most is cut down to it."""
        size = min(whole(params, "limit", min(DEFAULT_LIMIT, most)), most)
        return min(size, self.limit or size)


def required(params: Mapping[str, str], name: str) -> str:
    """A parameter that must be there."""
    if not params.get(name):
        raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return params[name]


def whole(params: Mapping[str, str], name: str, default: int, most: int | None = None) -> int:
    """A whole number from a parameter, or the default."""
    text = params.get(name, str(default))
    if not text.isdecimal() or (most is not None and int(text) > most):
        raise Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")
    return int(text)


def span(params: Mapping[str, str], longest: timedelta, said: str) -> tuple[datetime | None, datetime | None]:
    """`startTime` and `endTime`, both inclusive; further apart than `longest` they are refused with what is `said`."""
    start, end = (
        from_milliseconds(str(whole(params, name, 0))) if name in params else None for name in ("startTime", "endTime")
    )
    if start and end and end - start > longest:
        raise Refusal(-1127, said)
    return start, end


def within(moment: datetime, start: datetime | None, end: datetime | None) -> bool:
    """Whether an instant lies between two others, which belong to it; None is no bound."""
    return (start is None or moment >= start) and (end is None or moment <= end)


def only_combinations(params: Mapping[str, str], allowed: Iterable[frozenset[str]], names: frozenset[str]) -> None:
    """Refuse a combination of the optional parameters `names` that is not among the allowed ones."""
    if frozenset(name for name in names if name in params) not in allowed:
        raise Refusal(-1128, "Combination of optional parameters invalid.")


def order_row(row: Order, fills: tuple[Trade, ...], symbol: str) -> Row:
    """The fields that an order has on both interfaces; quantities and prices as text."""
    cost, done = sum((fill.cost for fill in fills), ZERO), sum((fill.qty for fill in fills), ZERO)
    kind = "MARKET" if row.price is None else "LIMIT"
    last = milliseconds(fills[-1].filled_at if fills else row.created_at)
    return {
        "symbol": symbol, "orderId": int(row.id), "clientOrderId": row.client_order_id,
        "price": row.price or "0", "avgPrice": plain(cost / done) if done else "0", "origQty": row.qty,
        "executedQty": row.filled_qty, "status": _status(row), "timeInForce": "GTC", "type": kind,
        "side": row.side.upper(), "stopPrice": "0", "time": milliseconds(row.created_at), "updateTime": last,
    }  # fmt: skip


def by_id(rows: Iterable[Order]) -> list[Order]:
    """Orders as the venue sorts them: by their number."""
    return sorted(rows, key=lambda row: int(row.id))


def _status(row: Order) -> str:
    if row.is_open:
        return "PARTIALLY_FILLED" if row.filled_qty else "NEW"
    return "FILLED" if row.status == "filled" else "CANCELED"


def _retry(seconds: int | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(seconds)}
