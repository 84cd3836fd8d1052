"""Alpaca's trading API (v2): assets, account, positions, activities, orders and the clock.

Positions are spelled without a slash (`BTCUSD`), everything else with one. A fill carries no fee; the fees of a day
are activities of their own (CFEE), which appear when the day is over. Activities and orders are told newest first
unless `direction=asc`; `after` and `until` are exclusive; `page_token` is the id of the last row already read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TypeVar
from zoneinfo import ZoneInfo

from venue.model import ZERO, FeeActivity, Market, Order, Scenario, Trade, plain
from venue.paging import Timeline
from venue.spelling import alpaca_uuid
from venue.wire import Clock, Keys, Reply, Request

Row = dict[str, object]
Item = TypeVar("Item")

_CASH = "USD"
_NEW_YORK = ZoneInfo("America/New_York")
_ACTIVITIES = 100
_ORDERS = 500
_ORDERS_UNASKED = 50
_KINDS = frozenset((
    "FILL", "CFEE", "FEE", "ACATC", "ACATS", "CIL", "CSD", "CSW", "DIV", "INT", "JNLC", "JNLS", "MA", "NC", "OPASN",
    "OPEXP", "OPXRC", "PTC", "REORG", "SSO", "SSP", "TRANS", "MISC",
))  # fmt: skip


class _Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(status, {"code": code, "message": message})


@dataclass(frozen=True, slots=True)
class Fill:
    """A trade with what its order had filled (`done`) and still wanted (`left`) after it."""

    id: str
    trade: Trade
    done: Decimal
    left: Decimal


Activity = Fill | FeeActivity


class Alpaca:
    """Implements `venue.wire.Dialect`."""

    name = "alpaca"
    prefixes: tuple[str, ...] = ("/v2/",)

    def __init__(self, scenario: Scenario, keys: Keys, clock: Clock, limit: int | None = None) -> None:
        """`limit` lowers the number of rows per page."""
        self._scenario = scenario.of_kind("spot")
        self._keys = keys
        self._clock = clock
        self._limit = limit
        self._timelines: dict[frozenset[str], Timeline[Activity]] = {}
        self._plain: dict[str, Callable[[Request], object]] = {
            "/v2/assets": self._assets,
            "/v2/account": lambda _: self._account(),
            "/v2/positions": lambda _: self._positions(),
            "/v2/account/activities": self._activities,
            "/v2/orders": self._orders,
            "/v2/orders:by_client_order_id": self._order_by_client_id,
            "/v2/clock": lambda _: self._time(),
        }
        self._nested: dict[str, Callable[[Request, str], object]] = {
            "/v2/assets/": lambda _, name: self._asset(name),
            "/v2/positions/": lambda _, name: self._position(name),
            "/v2/account/activities/": self._activities,
            "/v2/orders/": lambda _, order_id: self._order(order_id),
        }

    def is_write(self, request: Request) -> bool:
        """Every method but GET writes."""
        return request.method != "GET"

    def refuse_write(self) -> Reply:
        """The answer to keys that may only read."""
        return Reply(403, {"code": 40310000, "message": "new orders are rejected by user request"})

    def answer(self, request: Request) -> Reply:
        """The answer to a request that only reads."""
        given = request.headers.get("apca-api-key-id"), request.headers.get("apca-api-secret-key")
        if given != (self._keys.api_key, self._keys.secret):
            return Reply(401, {"code": 40110000, "message": "request is not authorized"})
        try:
            return Reply(200, self._body(request))
        except _Refusal as refusal:
            return refusal.reply

    def _body(self, request: Request) -> object:
        if request.path in self._plain:
            return self._plain[request.path](request)
        for prefix, handler in self._nested.items():
            if request.path.startswith(prefix):
                return handler(request, request.path.removeprefix(prefix))
        raise _Refusal(404, 40410000, "endpoint not found")

    def rate_limited(self, retry_after: int | None) -> Reply:
        """429 with the code that the documentation gives."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return Reply(429, {"code": 42910000, "message": "rate limit exceeded"}, headers)

    def banned(self, retry_after: int | None) -> Reply:
        """Alpaca knows no ban apart from the rate limit."""
        return self.rate_limited(retry_after)

    def maintenance(self) -> Reply:
        """503, and text instead of JSON."""
        return Reply(503, "Service Unavailable")

    # Assets, account and positions

    def _assets(self, request: Request) -> list[Row]:
        wanted = request.params
        if wanted.get("asset_class", "crypto") != "crypto":
            return []
        rows = [_asset(market) for market in self._scenario.markets if market.listed]
        return [row for row in rows if row["status"] == wanted.get("status", row["status"])]

    def _asset(self, name: str) -> Row:
        for market in self._scenario.markets:
            if name in (market.symbol, market.joined, alpaca_uuid(market.symbol)) and market.listed:
                return _asset(market)
        raise _Refusal(404, 40410000, f"asset not found for {name}")

    def _account(self) -> Row:
        cash = {row.asset: row for row in self._scenario.balances}.get(_CASH)
        free, used = (cash.free, cash.used) if cash else (ZERO, ZERO)
        held = sum((Decimal(str(row["market_value"])) for row in self._positions()), ZERO)
        equity, nothing = free + used + held, "0"
        return {
            "id": alpaca_uuid("account"), "account_number": "PA0LOOPBACK", "status": "ACTIVE",
            "crypto_status": "ACTIVE", "currency": _CASH, "cash": free, "buying_power": free,
            "non_marginable_buying_power": free, "equity": equity, "last_equity": equity, "portfolio_value": equity,
            "long_market_value": held, "position_market_value": held, "short_market_value": nothing,
            "accrued_fees": nothing, "initial_margin": nothing, "maintenance_margin": nothing, "multiplier": "1",
            "last_maintenance_margin": nothing, "sma": nothing, "trading_blocked": False, "transfers_blocked": False,
            "account_blocked": False, "trade_suspended_by_user": False, "shorting_enabled": False,
            "created_at": "2022-06-13T14:59:18.318096Z", "crypto_tier": 1,
        }  # fmt: skip

    def _positions(self) -> list[Row]:
        """Every asset that is held, but for the cash, and every leg that a scenario names itself."""
        named = {leg.symbol.split("/")[0]: (leg.qty, leg.qty, leg.entry_price) for leg in self._scenario.legs}
        held = {
            row.asset: (row.total, row.free, self._last_price(row.asset))
            for row in self._scenario.balances
            if row.asset != _CASH and row.total
        }
        return [_position(asset, *numbers) for asset, numbers in sorted((held | named).items())]

    def _position(self, name: str) -> Row:
        wanted = name.replace("/", "")
        for row in self._positions():
            if wanted in (row["symbol"], row["asset_id"]):
                return row
        raise _Refusal(404, 40410000, "position does not exist")

    def _last_price(self, asset: str) -> Decimal:
        mine = [row for row in self._scenario.trades if row.symbol == f"{asset}/{_CASH}"]
        return max(mine, key=lambda row: row.filled_at).price if mine else ZERO

    # Activities

    def _activities(self, request: Request, kind: str | None = None) -> list[Row]:
        params = request.params
        kinds = set((kind or params.get("activity_types", "FILL,CFEE")).split(","))
        if kinds - _KINDS:
            raise _Refusal(422, 40010001, f"invalid activity type: {', '.join(sorted(kinds - _KINDS))}")
        wanted = {"trade_activity": {"FILL"}, "non_trade_activity": {"CFEE"}}.get(params.get("category", ""), kinds)
        size = _whole(params, "page_size", _ACTIVITIES, _ACTIVITIES if "date" not in params else 10**9)
        rows = self._timeline(frozenset(kinds & wanted & {"FILL", "CFEE"}))
        return [self._activity(row) for row in _cut(rows, params, min(size, self._limit or size))]

    def _timeline(self, kinds: frozenset[str]) -> Timeline[Activity]:
        """Fills and fees by time, kept, since a client asks for many pages of them."""
        if kinds not in self._timelines:
            rows: list[Activity] = [fill for fill in self._fills() if "FILL" in kinds]
            rows += [fee for fee in self._scenario.fees if "CFEE" in kinds and self._is_over(fee)]
            self._timelines[kinds] = Timeline(rows, _happened, lambda row: row.id)
        return self._timelines[kinds]

    def _fills(self) -> Iterator[Fill]:
        for order in self._scenario.orders:
            done = ZERO
            for trade in self._scenario.trades_of(order.id):
                done += trade.qty
                yield Fill(trade.id, trade, done, order.qty - done)

    def _is_over(self, fee: FeeActivity) -> bool:
        """Whether the day of a fee has ended, in UTC."""
        return fee.day < self._scenario.now.astimezone(UTC).date()

    def _activity(self, row: Activity) -> Row:
        return _fill(row) if isinstance(row, Fill) else _fee(row, self._last_price(row.asset))

    # Orders

    def _orders(self, request: Request) -> list[Row]:
        params = request.params
        status = params.get("status", "open")
        if status not in ("open", "closed", "all"):
            raise _Refusal(422, 40010001, f"invalid status: {status}")
        symbols = {name.replace("/", "") for name in params.get("symbols", "").split(",") if name}
        rows = [
            row
            for row in self._scenario.orders
            if status in ("all", "open" if row.is_open else "closed")
            and (not symbols or row.symbol.replace("/", "") in symbols)
            and params.get("side", row.side) == row.side
        ]
        size = _whole(params, "limit", _ORDERS_UNASKED, _ORDERS)
        timeline = Timeline(rows, lambda row: row.created_at, lambda row: row.id)
        return [self._order_row(row) for row in _cut(timeline, params, min(size, self._limit or size))]

    def _order(self, order_id: str) -> Row:
        for row in self._scenario.orders:
            if row.id == order_id:
                return self._order_row(row)
        raise _Refusal(404, 40410000, f"order not found for {order_id}")

    def _order_by_client_id(self, request: Request) -> Row:
        wanted = request.params.get("client_order_id")
        for row in self._scenario.orders:
            if row.client_order_id == wanted:
                return self._order_row(row)
        raise _Refusal(404, 40410000, f"order not found for {wanted}")

    def _order_row(self, row: Order) -> Row:
        fills = self._scenario.trades_of(row.id)
        created, last = _go_time(row.created_at), _go_time(fills[-1].filled_at if fills else row.created_at)
        cost, done = sum((fill.cost for fill in fills), ZERO), sum((fill.qty for fill in fills), ZERO)
        kind = "market" if row.price is None else "limit"
        return {
            "id": row.id, "client_order_id": row.client_order_id, "created_at": created, "submitted_at": created,
            "updated_at": last, "filled_at": last if row.status == "filled" else None, "expired_at": None,
            "canceled_at": last if row.status == "canceled" else None, "failed_at": None,
            "replaced_at": last if row.status == "replaced" else None, "replaced_by": row.replaced_by,
            "replaces": row.replaces, "asset_id": alpaca_uuid(row.symbol), "symbol": row.symbol,
            "asset_class": "crypto", "notional": None, "qty": row.qty, "filled_qty": row.filled_qty,
            "filled_avg_price": plain(cost / done) if done else None, "order_class": "", "order_type": kind,
            "type": kind, "side": row.side, "time_in_force": "gtc", "limit_price": row.price, "stop_price": None,
            "status": _status(row), "extended_hours": False, "legs": None, "trail_percent": None,
            "trail_price": None, "hwm": None, "subtag": None, "source": "access_key",
        }  # fmt: skip

    def _time(self) -> Row:
        now = self._clock().astimezone(_NEW_YORK)
        opens = datetime.combine(now.date() + timedelta(days=1), time(9, 30), _NEW_YORK)
        closes = datetime.combine(now.date() + timedelta(days=1), time(16), _NEW_YORK)
        return {
            "timestamp": now.isoformat(), "is_open": False,
            "next_open": opens.isoformat(), "next_close": closes.isoformat(),
        }  # fmt: skip


def _asset(market: Market) -> Row:
    return {
        "id": alpaca_uuid(market.symbol), "class": "crypto", "exchange": "CRYPTO", "symbol": market.symbol,
        "name": f"{market.base} / {market.quote}", "status": "active" if market.active else "inactive",
        "tradable": market.active, "marginable": False, "maintenance_margin_requirement": 100, "shortable": False,
        "easy_to_borrow": False, "fractionable": True, "attributes": [], "min_order_size": market.min_qty,
        "min_trade_increment": market.step, "price_increment": market.tick,
    }  # fmt: skip


def _position(asset: str, qty: Decimal, available: Decimal, price: Decimal) -> Row:
    value, none = plain(qty * price), "0"
    return {
        "asset_id": alpaca_uuid(f"{asset}/{_CASH}"), "symbol": asset + _CASH, "exchange": "CRYPTO",
        "asset_class": "crypto", "asset_marginable": False, "qty": qty, "qty_available": available,
        "avg_entry_price": price, "side": "short" if qty < 0 else "long", "market_value": value, "cost_basis": value,
        "unrealized_pl": none, "unrealized_plpc": none, "unrealized_intraday_pl": none,
        "unrealized_intraday_plpc": none, "current_price": price, "lastday_price": price, "change_today": none,
    }  # fmt: skip


def _happened(row: Activity) -> datetime:
    """When a fill happened; a fee has only a day, and counts from its beginning, as its id does."""
    return row.trade.filled_at if isinstance(row, Fill) else datetime.combine(row.day, time(), UTC)


def _fill(row: Fill) -> Row:
    trade, left = row.trade, row.left
    return {
        "id": trade.id, "activity_type": "FILL", "transaction_time": _go_time(trade.filled_at),
        "type": "partial_fill" if left else "fill", "price": trade.price, "qty": trade.qty, "side": trade.side,
        "symbol": trade.symbol, "leaves_qty": left, "order_id": trade.order_id, "cum_qty": row.done,
        "order_status": "partially_filled" if left else "filled", "swap_rate": "1",
    }  # fmt: skip


def _fee(row: FeeActivity, price: Decimal) -> Row:
    """In an asset, a quantity below zero; in dollars, an amount below zero."""
    cash = row.asset == _CASH
    return {
        "id": row.id, "activity_type": "CFEE", "date": row.day.isoformat(),
        "net_amount": plain(-row.qty) if cash else "0", "description": "Coin Pair Transaction Fee",
        "symbol": row.symbol.replace("/", "") if cash else row.asset + _CASH, "qty": "0" if cash else plain(-row.qty),
        "price": price, "status": "executed",
    }  # fmt: skip


def _status(row: Order) -> str:
    if row.is_open:
        return "partially_filled" if row.filled_qty else "new"
    return row.status


def _go_time(moment: datetime) -> str:
    """RFC 3339 with as many decimals as are needed."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def _cut(rows: Timeline[Item], params: dict[str, str], size: int) -> list[Item]:
    """The page that the parameters ask for: after and before two instants, and behind the row of the token."""
    direction, token = params.get("direction", "desc"), params.get("page_token")
    if direction not in ("asc", "desc"):
        raise _Refusal(422, 40010001, f"invalid direction: {direction}")
    low, high = _window(rows, params)
    place = rows.place(token) if token else None
    if token and place is None:
        raise _Refusal(422, 40010001, "invalid page_token")
    if place is not None:
        low, high = (max(low, place + 1), high) if direction == "asc" else (low, min(high, place))
    return rows.page(low, high, size, newest_first=direction == "desc")


def _window(rows: Timeline[Item], params: dict[str, str]) -> tuple[int, int]:
    """The places that `after` and `until` (both exclusive) leave, or those of one day."""
    if not params.get("date"):
        after, until = (_moment(params, name) for name in ("after", "until"))
        return rows.first_after(after) if after else 0, rows.first_from(until) if until else len(rows.rows)
    if params.get("after") or params.get("until"):
        raise _Refusal(422, 40010001, "date cannot be used together with after or until")
    day = _moment(params | {"date": params["date"][:10]}, "date")
    assert day is not None
    return rows.first_from(day), rows.first_from(day + timedelta(days=1))


def _moment(params: dict[str, str], name: str) -> datetime | None:
    if not params.get(name):
        return None
    try:
        moment = datetime.fromisoformat(params[name].replace(" ", "+"))
    except ValueError:
        raise _Refusal(422, 40010001, f"Invalid format for parameter {name}: {params[name]}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _whole(params: dict[str, str], name: str, default: int, most: int) -> int:
    text = params.get(name, str(default))
    if not text.isdecimal() or not 0 < int(text) <= most:
        raise _Refusal(422, 40010001, f"{name} must be a whole number from 1 to {most}")
    return int(text)
