"""What the backend's `orders` table is: its columns, their limits, its unique index; refused when unsuitable.

Reads only. Entry point: `read_schema`. Rules: rules.md 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import NoSuchTableError

from recon.columns import Amount, Columns
from recon.errors import Refused

REQUIRED = (
    "order_id", "profile_id", "symbol", "trade_id", "action", "status", "quantity", "qty", "price", "filled_at",
    "created_at", "updated_at",
)  # fmt: skip
OPTIONAL = ("side", "exchange_order_id", "client_order_id")
KNOWN_TYPES = {
    "order_id": "text", "profile_id": "text", "symbol": "text", "trade_id": "text", "action": "text",
    "status": "text", "quantity": "numeric", "qty": "numeric", "price": "numeric", "filled_at": "timestamptz",
    "created_at": "timestamptz", "updated_at": "timestamptz",
}  # fmt: skip
FLOAT_DIGITS = 15
"""Decimal digits that a double precision column gives back unchanged."""
REAL_DIGITS = 6
"""The same for a real column."""
TIME_DIGITS = 6
"""Decimals of a second that a timestamp column keeps unless its type says otherwise."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The reflected table.

    `conflict` are the columns of the unique index that covers order_id; `naive_times` the instants without time
    zone, read as UTC; `copied` the NOT NULL columns without default that recon does not know. `needs_client_id` says
    that client_order_id is such a column too; a backfill row has none, so its own order_id stands there. `generated`
    are columns that the database fills itself; `sides` spells buy and sell as an enum of sides has them.
    """

    table: sa.Table
    conflict: tuple[str, ...]
    columns: Columns
    naive_times: tuple[str, ...]
    copied: tuple[str, ...]
    needs_client_id: bool
    generated: frozenset[str]
    sides: Mapping[str, str]


def read_schema(connection: Connection) -> Schema:
    """Read the table's definition; reads only. Raises `Refused` (orders_unsuitable) with the DDL that would help."""
    try:
        found = sa.inspect(connection).get_columns("orders")
    except NoSuchTableError:
        raise _unsuitable("there is no table orders on the search path", []) from None
    table = sa.Table("orders", sa.MetaData(), *map(_column, found))
    missing = [name for name in REQUIRED if name not in table.c]
    if missing:
        ddl = [f"ALTER TABLE orders ADD COLUMN {name} {KNOWN_TYPES[name]};" for name in missing]
        raise _unsuitable(f"orders lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", ddl)
    _check_types(table)
    unique = _unique_indexes(connection, table)
    conflict, copied = _arbiter(unique), _copied(table)
    _check_copied(table, copied, unique)
    generated = frozenset(column["name"] for column in found if column.get("computed"))
    return Schema(
        table, conflict, _columns(table), _naive_times(table), copied, _needs_client_id(table), generated, _sides(table)
    )


def _column(found: ReflectedColumn) -> sa.Column[Any]:
    """The column; keys, checks and comments of the table, and what they point to, are no business of ours."""
    filled_in = found["default"] is not None or found.get("identity") or found.get("computed")
    default = sa.FetchedValue() if filled_in else None
    return sa.Column(found["name"], found["type"], nullable=found["nullable"], server_default=default)


def _columns(table: sa.Table) -> Columns:
    return Columns(
        quantity=_amount(table.c.quantity.type),
        qty=_amount(table.c.qty.type),
        price=_amount(table.c.price.type),
        has_side="side" in table.c,
        has_exchange_order_id="exchange_order_id" in table.c,
        exchange_order_id_length=getattr(getattr(table.c.get("exchange_order_id"), "type", None), "length", None),
        exchange_order_id_is_uuid=isinstance(getattr(table.c.get("exchange_order_id"), "type", None), sa.Uuid),
        exchange_order_id_required="exchange_order_id" in table.c and _must_be_given(table.c.exchange_order_id),
        naive_times=_naive_times(table),
        time_digits=TIME_DIGITS if (digits := getattr(table.c.filled_at.type, "precision", None)) is None else digits,
    )


def _naive_times(table: sa.Table) -> tuple[str, ...]:
    names = ("filled_at", "created_at", "updated_at")
    return tuple(name for name in names if not getattr(table.c[name].type, "timezone", False))


def _copied(table: sa.Table) -> tuple[str, ...]:
    known = (*REQUIRED, *OPTIONAL)
    return tuple(column.name for column in table.columns if column.name not in known and _must_be_given(column))


def _needs_client_id(table: sa.Table) -> bool:
    return "client_order_id" in table.c and _must_be_given(table.c.client_order_id)


def _sides(table: sa.Table) -> dict[str, str]:
    """How an enum of sides spells buy and sell; nothing where sides are text. Raises `Refused` when it has no such."""
    kind = getattr(table.c.get("side"), "type", None)
    if not isinstance(kind, sa.Enum):
        return {}
    spelled = {label.strip().lower(): label for label in kind.enums}
    for word in ("buy", "sell"):
        if word not in spelled:
            raise _unsuitable(f"side cannot hold {word}", [f"ALTER TYPE {kind.name} ADD VALUE '{word}';"])
    return {word: spelled[word] for word in ("buy", "sell")}


def _amount(kind: Any) -> Amount:
    if isinstance(kind, sa.Float):
        return Amount(significant=REAL_DIGITS if isinstance(kind, sa.REAL) else FLOAT_DIGITS)
    if isinstance(kind, sa.Integer):
        return Amount(scale=0)
    return Amount(scale=kind.scale if kind.precision is not None else None, precision=kind.precision)


def _must_be_given(column: sa.Column[Any]) -> bool:
    return not (column.nullable or column.server_default is not None)


def _check_types(table: sa.Table) -> None:
    texts = (sa.String, sa.Enum)
    if not isinstance(table.c.order_id.type, sa.String) or (table.c.order_id.type.length or 38) < 38:
        raise _unsuitable(
            "order_id cannot hold BFILL- and 32 hex digits", ["ALTER TABLE orders ALTER COLUMN order_id TYPE text;"]
        )
    for name in ("quantity", "qty", "price"):
        if not isinstance(table.c[name].type, sa.Numeric | sa.Float | sa.Integer):
            raise _unsuitable(
                f"{name} is not a number",
                [f"ALTER TABLE orders ALTER COLUMN {name} TYPE numeric USING {name}::numeric;"],
            )
    for name in ("filled_at", "created_at", "updated_at"):
        if not isinstance(table.c[name].type, sa.DateTime):
            raise _unsuitable(
                f"{name} is not a timestamp",
                [f"ALTER TABLE orders ALTER COLUMN {name} TYPE timestamptz USING {name}::timestamptz;"],
            )
    for name, longest in (("symbol", ""), ("action", "EXIT"), ("status", "canceled")):
        kind = table.c[name].type
        if not isinstance(kind, texts):
            raise _unsuitable(f"{name} is not text", [f"ALTER TABLE orders ALTER COLUMN {name} TYPE text;"])
        if (getattr(kind, "length", None) or len(longest)) < len(longest):
            raise _unsuitable(f"{name} cannot hold {longest}", [f"ALTER TABLE orders ALTER COLUMN {name} TYPE text;"])
    if _needs_client_id(table) and not isinstance(table.c.client_order_id.type, sa.String):
        raise _unsuitable(
            "client_order_id must be given and is not text, and a backfill row has none",
            ["ALTER TABLE orders ALTER COLUMN client_order_id DROP NOT NULL;"],
        )
    for name in ("exchange_order_id", "client_order_id"):
        if name in table.c and not isinstance(table.c[name].type, sa.String | sa.Uuid):
            raise _unsuitable(f"{name} is not text", [f"ALTER TABLE orders ALTER COLUMN {name} TYPE text;"])
    for name, label in (("action", "EXIT"), ("status", "filled"), ("status", "canceled")):
        kind = table.c[name].type
        if isinstance(kind, sa.Enum) and label not in kind.enums:
            raise _unsuitable(f"{name} cannot hold {label}", [f"ALTER TYPE {kind.name} ADD VALUE '{label}';"])


def _unique_indexes(connection: Connection, table: sa.Table) -> list[tuple[str, ...]]:
    """The columns of every unique index that covers all rows at once: whole, plain, valid and not deferrable."""
    name = connection.dialect.identifier_preparer.format_table(table)
    query = sa.text(
        """
        SELECT array_agg(attname::text ORDER BY place)
        FROM pg_index CROSS JOIN unnest(indkey) WITH ORDINALITY AS key (attnum, place)
        JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = key.attnum
        WHERE indrelid = to_regclass(:name) AND indisunique AND indisvalid AND indimmediate
        AND indpred IS NULL AND indexprs IS NULL AND place <= indnkeyatts
        GROUP BY indexrelid ORDER BY indexrelid
        """
    )
    return [tuple(columns) for (columns,) in connection.execute(query, {"name": name})]


def _arbiter(unique: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The unique index on order_id alone, else on profile_id and order_id."""
    for wanted in ({"order_id"}, {"profile_id", "order_id"}):
        for columns in unique:
            if set(columns) == wanted:
                return columns
    raise _unsuitable(
        "no unique index of orders covers order_id (alone, or with profile_id)",
        ["CREATE UNIQUE INDEX CONCURRENTLY ON orders (order_id);"],
    )


def _check_copied(table: sa.Table, copied: Sequence[str], unique: Sequence[tuple[str, ...]]) -> None:
    """Raise when a row that shares these columns with its ENTRY row would break a unique index."""
    shared = {*copied, "profile_id", "symbol", "trade_id"}
    for columns in unique:
        if shared.issuperset(columns):
            names = [table.c[name] for name in columns if name in copied]
            raise _unsuitable(
                f"{', '.join(columns)} is NOT NULL and unique but has no default, and recon knows no value for it",
                [f"ALTER TABLE orders ALTER COLUMN {column.name} SET DEFAULT {_default(column)};" for column in names],
            )


def _default(column: sa.Column[Any]) -> str:
    return "gen_random_uuid()" if isinstance(column.type, sa.Uuid) else "(an expression of yours)"


def _unsuitable(what: str, ddl: Sequence[str]) -> Refused:
    remedy = f" This would help: {' '.join(ddl)}" if ddl else ""
    return Refused("orders_unsuitable", f"The orders table cannot be worked on: {what}.{remedy}")
