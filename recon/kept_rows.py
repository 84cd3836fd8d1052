"""Rows of the audit table and of `orders` as canonical text, to be kept beside a report and compared years later.

Entry points: `audit_rows`, `order_rows`, `to_csv`, `from_csv`. Everything is cast to text by the database, so that a
value that no Python type holds can still be kept, compared and named. Reads only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.audit import audit_table
from recon.identity import canonical_decimal, canonical_time
from recon.orders import Orders
from recon.orders_schema import OPTIONAL, REQUIRED

Row = tuple[str | None, ...]
"""The cells of one row, None for NULL."""

AUDIT_COLUMNS = tuple(column.name for column in audit_table.columns)
"""Every column of recon's audit table, in its order."""

INSTANTS = frozenset({"created_at", "reverted_at", "evidence_filled_at", "filled_at", "updated_at"})
AMOUNTS = frozenset({"filled_qty", "price", "quantity", "qty"})

_CELL = re.compile(r'(?:"((?:[^"]|"")*)")?([,\n])')


def audit_rows(connection: Connection, profile_id: str, batch_id: str) -> list[Row]:
    """Every audit row of the batch with all columns, sorted; reads only."""
    table = audit_table.c
    cells = [sa.cast(table[name], sa.Text) for name in AUDIT_COLUMNS]
    query = sa.select(*cells).where(table.profile_id == profile_id, table.batch_id == batch_id)
    return _canonical(audit_table, AUDIT_COLUMNS, connection.execute(query))


def order_columns(orders: Orders) -> tuple[str, ...]:
    """Every column of `orders`: those that recon knows, then the others as the table has them."""
    known = (*REQUIRED, *(name for name in OPTIONAL if name in orders.table.c))
    return (*known, *(column.name for column in orders.table.c if column.name not in known))


def order_rows(connection: Connection, orders: Orders, profile_id: str, order_ids: Collection[str]) -> list[Row]:
    """The profile's rows of these ids with those columns, sorted; reads only."""
    columns, table = order_columns(orders), orders.table.c
    naive = set(orders.naive_times)
    cells = [
        sa.cast(sa.func.timezone("UTC", table[name]) if name in naive else table[name], sa.Text) for name in columns
    ]
    wanted = sa.cast(sa.literal(sorted(order_ids), sa.ARRAY(sa.Text)), sa.ARRAY(sa.Text))
    query = sa.select(*cells).where(orders.profile(profile_id), sa.cast(table.order_id, sa.Text) == sa.any_(wanted))
    return _canonical(orders.table, columns, connection.execute(query))


def to_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """The rows as CSV under their columns: every value is quoted, and NULL is an empty cell without quotes."""
    return "".join(",".join(map(_quoted, row)) + "\n" for row in [tuple(columns), *rows])


def from_csv(text: str) -> tuple[tuple[str, ...], list[Row]]:
    """The columns and rows that `to_csv` wrote; any other text is a `ValueError`."""
    lines: list[list[str | None]] = [[]]
    at = 0
    while at < len(text):
        match = _CELL.match(text, at)
        if match is None:
            raise ValueError(f"no cell at character {at}")
        lines[-1].append(None if match[1] is None else match[1].replace('""', '"'))
        if match[2] == "\n":
            lines.append([])
        at = match.end()
    columns = tuple(cell or "" for cell in lines[0])
    rows = [tuple(line) for line in lines[1:-1]]
    if len(lines) < 2 or lines[-1] or any(len(row) != len(columns) for row in rows):
        raise ValueError("a row of another length")
    return columns, rows


def named(columns: Sequence[str], row: Row) -> dict[str, str | None]:
    """The cells of a row by column."""
    return dict(zip(columns, row, strict=True))


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """The one order in which rows are kept: cell by cell, NULL first, text bytewise."""
    return sorted(rows, key=lambda row: [(cell is not None, (cell or "").encode()) for cell in row])


def _quoted(cell: str | None) -> str:
    return "" if cell is None else '"' + cell.replace('"', '""') + '"'


def _canonical(table: sa.Table, columns: Sequence[str], found: Iterable[Sequence[str | None]]) -> list[Row]:
    """The rows in one order and spelling, whatever the scale of a number or whether an instant has a zone."""
    kinds: list[type | None] = []
    for name in columns:
        kind = table.c[name].type
        is_amount, is_instant = isinstance(kind, sa.Numeric), isinstance(kind, sa.DateTime)
        kinds.append(Decimal if name in AMOUNTS or is_amount else datetime if name in INSTANTS or is_instant else None)
    return sorted_rows(tuple(map(_text, kinds, row)) for row in found)


def _text(kind: type | None, cell: str | None) -> str | None:
    """The canonical text of a cell; what has none (infinity, a year before Christ) stays as the database writes it."""
    try:
        if cell is not None and kind is Decimal:
            return canonical_decimal(Decimal(cell))
        if cell is not None and kind is datetime:
            instant = datetime.fromisoformat(cell)
            return canonical_time(instant if instant.tzinfo else instant.replace(tzinfo=UTC))
    except (ValueError, InvalidOperation):
        pass
    return cell


def by_id(columns: Sequence[str], rows: Iterable[Row]) -> Mapping[str | None, dict[str, str | None]]:
    """Rows of `orders` by their order_id."""
    return {cells["order_id"]: cells for cells in (named(columns, row) for row in rows)}
