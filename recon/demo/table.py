"""The backend's `orders` table and its rows, as the incident left them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

import sqlalchemy as sa

from recon.demo.book import Booked, Order
from recon.demo.clock import DEMO_PROFILE
from recon.demo.orders import demo_orders
from recon.domain import FILLED, Side
from recon.identity import backfill_order_id

Row = dict[str, object]
"""One row of `orders` by column name."""

PRICE_STEP = Decimal("0.00000001")
"""The scale of the price column: a mean price is rounded to it, half to even."""

_METADATA = sa.MetaData()

ORDERS = sa.Table(
    "orders",
    _METADATA,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("profile_id", sa.Text, nullable=False),
    sa.Column("symbol", sa.Text, nullable=False),
    sa.Column("trade_id", sa.Text),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("side", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("quantity", sa.Numeric(20, 8)),
    sa.Column("qty", sa.Numeric(20, 8)),
    sa.Column("price", sa.Numeric(20, 8)),
    sa.Column("exchange_order_id", sa.Text),
    sa.Column("client_order_id", sa.Text),
    sa.Column("filled_at", sa.DateTime(timezone=True)),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Index("orders_by_trade", "profile_id", "symbol", "trade_id"),
)
"""`strategy` is a column that recon has never heard of: not null, without a default."""

_WITHOUT_A_ROW = frozenset({Booked.LOST, Booked.BY_HAND, Booked.WORKING, Booked.OFF_BOOK})
_STRATEGIES = {Side.BUY: "breakout", Side.SELL: "fade"}


def order_rows() -> tuple[Row, ...]:
    """The rows of `orders`, oldest first; the backend numbers them as they come."""
    orders = [order for order in demo_orders() if order.booked not in _WITHOUT_A_ROW]
    return tuple(_rows(orders))


def load_demo(engine: sa.Engine) -> None:
    """Create `orders` in a fresh database and fill it, in one transaction. Writes there and nowhere else.

    A database that has such a table already raises `sqlalchemy.exc.ProgrammingError` and stays as it was.
    """
    with engine.begin() as connection:
        _METADATA.create_all(connection, checkfirst=False)
        connection.execute(sa.insert(ORDERS), order_rows())


def _rows(orders: Iterable[Order]) -> Iterator[Row]:
    executed = {order.exchange_order_id: order for order in demo_orders() if order.pieces}
    for number, order in enumerate(orders, start=1):
        execution = executed.get(order.exchange_order_id, order)
        row = _row(f"ord-{number:04d}", order, execution)
        yield _as_backfill(row, execution) if order.booked == Booked.BACKFILL else row


def _row(order_id: str, order: Order, execution: Order) -> Row:
    orphan = order.booked == Booked.ORPHAN
    status = "filled" if orphan else order.booked
    filled = status in FILLED
    return {
        "order_id": order_id,
        "profile_id": DEMO_PROFILE,
        "symbol": order.symbol,
        "trade_id": None if orphan else order.trade_id,
        "strategy": _STRATEGIES[order.side if order.action == "ENTRY" else order.side.opposite],
        "action": order.action,
        "side": order.side.value,
        "status": str(status),
        "quantity": order.quantity,
        "qty": order.qty,
        "price": _price(execution) if filled else order.limit,
        "exchange_order_id": None if status == "failed" else order.exchange_order_id,
        "client_order_id": order.client_order_id,
        "filled_at": execution.last_fill if filled else None,
        "created_at": order.placed_at,
        "updated_at": execution.last_fill if filled else order.placed_at,
    }


def _as_backfill(row: Row, unit: Order) -> Row:
    """The row that recon writes for the unit (rules.md 2), since canceled by a rollback."""
    filled_at = unit.pieces[-1].at
    order_id = backfill_order_id(DEMO_PROFILE, unit.trade_id, unit.exchange_order_id, filled_at)
    written: Row = {"order_id": order_id, "status": "canceled", "price": _price(unit), "filled_at": filled_at}
    return {**row, **written, "client_order_id": None}


def _price(execution: Order) -> Decimal | None:
    return None if execution.vwap is None else execution.vwap.quantize(PRICE_STEP)
