"""One row of the backend's `orders`, as read, and what stands for its missing cells (rules.md 9). Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import sqlalchemy as sa

from recon.domain import FILLED, NOT_FINITE, OrderRow
from recon.errors import Refused
from recon.identity import canonical_decimal

NEVER = datetime.min.replace(tzinfo=UTC)
"""Stands for the time of a row that is not filled and has none: nothing depends on it."""


def order_row(row: sa.RowMapping) -> OrderRow:
    """The row of a mapping that holds the columns by name; raises `Refused` (orders_unreadable)."""
    quantity, qty = row["quantity"], row["qty"]
    counted = quantity if quantity is not None else qty
    filled_at, created_at = row["filled_at"], row["created_at"]
    problem = _quantity_problem(quantity, qty)
    usable = counted is not None and counted.is_finite()
    never = None if row["status"] in FILLED else NEVER
    return OrderRow(
        order_id=row["order_id"],
        profile_id=row["profile_id"],
        symbol=row["symbol"] or "",
        trade_id=row["trade_id"],
        action=row["action"] or "",
        status=row["status"],
        quantity=counted if usable else Decimal(0),
        price=row["price"] if row["price"] is not None and row["price"].is_finite() else None,
        filled_at=_instant_of(filled_at or created_at or never, row["order_id"]),
        created_at=_instant_of(created_at or filled_at or never, row["order_id"]),
        raw_side=row["side"],
        exchange_order_id=row["exchange_order_id"] or None,
        client_order_id=row["client_order_id"] or None,
        qty=qty,
        quantity_problem=problem,
        filled_at_assumed=filled_at is None,
    )


def _instant_of(value: datetime | None, order_id: str) -> datetime:
    if value is None:
        raise Refused(
            "orders_unreadable", f"row {order_id} has neither filled_at nor created_at; give it one, then run again."
        )
    return value.astimezone(UTC)


def _quantity_problem(quantity: Decimal | None, qty: Decimal | None) -> str | None:
    known = [value for value in (quantity, qty) if value is not None]
    if not known:
        return "quantity and qty are both NULL"
    if any(not value.is_finite() for value in known):
        return NOT_FINITE
    texts = [canonical_decimal(value) for value in known]
    if len(known) == 2 and known[0] != known[1]:
        return f"quantity {texts[0]} and qty {texts[1]} differ"
    return f"its quantity {texts[0]} is negative" if known[0] < 0 else None
