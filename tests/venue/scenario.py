"""A scenario in few words, and the same scenario as a statement folder.

The helpers take quantities and prices as text, decimals or whole numbers, times as ISO text (UTC unless it says
otherwise), and fill in what a test does not care about. What they build is described in `venue.model`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from venue.model import (
    ZERO,
    Balance,
    FeeActivity,
    Leg,
    Market,
    Order,
    OrderStatus,
    PositionSide,
    Scenario,
    Side,
    Trade,
    Wallet,
    plain,
)

Number = Decimal | str | int
"""What the helpers take for a quantity or a price; never a float."""


def number(value: Number) -> Decimal:
    """A decimal, exactly as given; a float is refused, since it is not what was meant."""
    if isinstance(value, float):
        raise TypeError(f"{value!r} is a float: give it as text")
    return Decimal(value)


def instant(text: str) -> datetime:
    """An instant from ISO text; without an offset it is in UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def spot(symbol: str, **more: object) -> Market:
    """A spot market from `BTC/USD`."""
    base, quote = symbol.split("/")
    return Market(base, quote, **more)  # type: ignore[arg-type]


def swap(symbol: str, **more: object) -> Market:
    """A perpetual from `BTC/USDT:USDT`."""
    pair, settle = symbol.split(":")
    base, quote = pair.split("/")
    return Market(base, quote, kind="swap", settle=settle, **more)  # type: ignore[arg-type]


def trade(
    id: str,  # noqa: A002  (the field's name)
    symbol: str,
    side: Side,
    qty: Number,
    price: Number,
    at: str | datetime,
    *,
    order: str | None = None,
    fee: str | None = None,
    **more: object,
) -> Trade:
    """A fill; its order is `O-<id>` unless named, and `fee` is written like `"0.1 USD"`."""
    amount, currency = (None, None) if fee is None else (Decimal(fee.split()[0]), fee.split()[1])
    when = instant(at) if isinstance(at, str) else at
    return Trade(
        id, order or f"O-{id}", symbol, side, number(qty), number(price), amount, currency, when,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def order(
    id: str,  # noqa: A002  (the field's name)
    symbol: str,
    side: Side,
    qty: Number,
    price: Number | None,
    at: str | datetime,
    *,
    status: OrderStatus = "open",
    filled: Number = 0,
    client: str | None = None,
    **more: object,
) -> Order:
    """An order, open and untouched unless said otherwise."""
    when = instant(at) if isinstance(at, str) else at
    limit = None if price is None else number(price)
    return Order(
        id, client, symbol, side, number(qty), number(filled), limit, when, status,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def leg(symbol: str, qty: Number, entry_price: Number = 0, position_side: PositionSide = "BOTH") -> Leg:
    """A position; `qty` signed."""
    return Leg(symbol, number(qty), number(entry_price), position_side)


def balance(asset: str, free: Number, used: Number = 0, borrowed: Number = 0, interest: Number = 0) -> Balance:
    """A balance of one asset, in its units."""
    return Balance(asset, number(free), number(used), number(borrowed), number(interest))


def fee_activity(id: str, symbol: str, asset: str, qty: Number, day: str | date) -> FeeActivity:  # noqa: A002
    """A fee booked at the end of `day` (an ISO date), in units of `asset`, positive when paid."""
    return FeeActivity(id, symbol, asset, number(qty), date.fromisoformat(day) if isinstance(day, str) else day)


def scenario(
    now: str | datetime,
    *rows: Market | Order | Trade | Leg | Balance | FeeActivity,
    wallet: Wallet = "spot",
) -> Scenario:
    """The scenario made of all rows in any order.

    A market is added for each symbol that has none, and a filled order for each trade that names an order which is
    not among the rows.
    """
    orders = [row for row in rows if isinstance(row, Order)]
    trades = [row for row in rows if isinstance(row, Trade)]
    markets = [row for row in rows if isinstance(row, Market)]
    return Scenario(
        instant(now) if isinstance(now, str) else now,
        markets=(*markets, *_missing_markets(markets, rows)),
        orders=(*orders, *_missing_orders(orders, trades)),
        trades=tuple(trades),
        legs=tuple(row for row in rows if isinstance(row, Leg)),
        balances=tuple(row for row in rows if isinstance(row, Balance)),
        fees=tuple(row for row in rows if isinstance(row, FeeActivity)),
        wallet=wallet,
    )


def _missing_markets(markets: Iterable[Market], rows: Iterable[object]) -> list[Market]:
    known = {row.symbol for row in markets}
    named = {row.symbol for row in rows if isinstance(row, Order | Trade | Leg | FeeActivity)}
    return [swap(symbol) if ":" in symbol else spot(symbol) for symbol in sorted(named - known)]


def _missing_orders(orders: Iterable[Order], trades: Iterable[Trade]) -> list[Order]:
    fills: dict[str, list[Trade]] = {}
    known = {row.id for row in orders}
    for row in trades:
        if row.order_id not in known:
            fills.setdefault(row.order_id, []).append(row)
    return [_order_of(order_id, rows) for order_id, rows in fills.items()]


def _order_of(order_id: str, fills: list[Trade]) -> Order:
    first = min(fills, key=lambda row: row.filled_at)
    total = sum((row.qty for row in fills), ZERO)
    return Order(
        order_id, None, first.symbol, first.side, total, total, None, first.filled_at, "filled",
        kind=first.kind, position_side=first.position_side,
    )  # fmt: skip


FILLS = (
    "fill_id", "exchange_order_id", "client_order_id", "symbol", "side", "qty", "price", "fee", "fee_currency",
    "filled_at",
)  # fmt: skip
POSITIONS = ("symbol", "qty")
OPEN_ORDERS = ("exchange_order_id", "client_order_id", "symbol", "side", "qty", "filled_qty", "created_at")
"""The columns of a statement's files."""


def write_statement(scenario: Scenario, folder: Path, *, since: datetime | None = None, **about: str) -> Path:
    """Write the same evidence as a statement folder, quantities in base units; returns the folder.

    `since` becomes the statement's `from`; `about` adds or replaces other keys of statement.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clients = {row.id: row.client_order_id or "" for row in scenario.orders}
    sizes = {row.symbol: row.contract_size for row in scenario.markets}
    fills = [
        (
            row.id, row.order_id, clients[row.order_id], row.symbol, row.side, row.qty * sizes[row.symbol], row.price,
            "" if row.fee is None else row.fee, row.fee_currency or "", iso(row.filled_at),
        )
        for row in scenario.trades
    ]  # fmt: skip
    orders = [
        (
            row.id, clients[row.id], row.symbol, row.side, row.qty * sizes[row.symbol],
            row.filled_qty * sizes[row.symbol], iso(row.created_at),
        )
        for row in scenario.orders if row.is_open
    ]  # fmt: skip
    _write_csv(folder / "fills.csv", FILLS, fills)
    _write_csv(folder / "positions.csv", POSITIONS, list(holdings(scenario)))
    _write_csv(folder / "open_orders.csv", OPEN_ORDERS, orders)
    told = {"fetched_at": iso(scenario.now), "to": iso(scenario.now)} | ({"from": iso(since)} if since else {}) | about
    (folder / "statement.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return folder


def holdings(scenario: Scenario) -> Iterator[tuple[str, Decimal]]:
    """Symbol and signed quantity in base units of every leg, and of every balance that is not zero net of debts.

    A balance counts for each spot market whose base asset it is.
    """
    sizes = {row.symbol: row.contract_size for row in scenario.markets}
    yield from ((row.symbol, row.qty * sizes[row.symbol]) for row in scenario.legs)
    net = {row.asset: row.net for row in scenario.balances}
    for row in scenario.markets:
        if row.kind == "spot" and net.get(row.base):
            yield row.symbol, net[row.base]


def iso(moment: datetime) -> str:
    """The instant in UTC with six decimals and a Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _write_csv(path: Path, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([plain(cell) if isinstance(cell, Decimal) else cell for cell in row] for row in rows)
