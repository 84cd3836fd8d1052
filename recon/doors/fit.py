"""Whether the doors still fit `orders`, which a migration may have changed since they were made. Reads only."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.doors.access import exist
from recon.doors.names import INSERT
from recon.errors import Refused
from recon.orders import Orders


def require_fit(connection: Connection, orders: Orders) -> None:
    """Raise `Refused` (doors_outdated) where the doors would not take the rows of today's `orders`; reads only."""
    if exist(connection) and (found := misfit(connection, orders)):
        raise Refused(
            "doors_outdated",
            f"The doors were made for orders as it was: {found}. Nothing was written; run `recon init --roles`, then "
            "run again.",
        )


def misfit(connection: Connection, orders: Orders) -> str:
    """What was expected of the doors and found instead; empty where they fit. There must be doors; reads only."""
    if not _reads_orders(connection):
        return "expected doors that read today's orders, found them on another table"
    if other := set(orders.writable) ^ _columns(connection):
        return f"expected the doors of today's orders, found other columns ({', '.join(sorted(other))})"
    return ""


def _reads_orders(connection: Connection) -> bool:
    """Whether the door reads the table that `orders` names now, not one of which it was the name before."""
    query = sa.text(
        """
        SELECT EXISTS (SELECT FROM pg_rewrite JOIN pg_depend ON objid = pg_rewrite.oid
            WHERE classid = 'pg_rewrite'::regclass AND ev_class = to_regclass(:door)
            AND refclassid = 'pg_class'::regclass AND refobjid = to_regclass('orders'))
        """
    )
    return bool(connection.execute(query, {"door": INSERT}).scalar_one())


def _columns(connection: Connection) -> set[str]:
    query = sa.text(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass(:door) AND attnum > 0 AND NOT attisdropped"
    )
    return set(connection.execute(query, {"door": INSERT}).scalars())
