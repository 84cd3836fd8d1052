"""The exchange as two tables beside `orders`: fills and positions, with the statement's columns plus profile_id.

Invariants 9 and 10; rules.md 1 and 7. PostgreSQL hands every cell over as exact text, so that a table is judged by the
same rules as a file. One REPEATABLE READ, READ ONLY transaction; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, InternalError, NoSuchTableError, ProgrammingError

from recon.database import explain, prepare
from recon.domain import NOTHING_SPECIAL, Snapshot, Wanted, Window
from recon.venues import rows
from recon.venues.rows import Row, unreadable

_SOURCE = "table"
_NUMBERS = frozenset({"qty", "price", "fee"})
_UTC_TEXT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'


class TableExchange:
    """Evidence from two tables of the same database; implements `recon.venues.base.Exchange`."""

    live = False

    def __init__(self, engine: sa.Engine, fills_table: str, positions_table: str) -> None:
        """Take both names as PostgreSQL stores them, `table` or `schema.table`."""
        self._engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._fills = fills_table
        self._positions = positions_table
        self.name = f"table:{fills_table},{positions_table}"

    def fetch(
        self,
        profile_id: str,
        *,
        now: datetime,
        lookback: timedelta,
        window: Window | None = None,
        wanted: Wanted = NOTHING_SPECIAL,
    ) -> Snapshot:
        """What the tables say; see `Exchange.fetch`. Raises `Refused` (evidence_unreadable), writes nothing.

        A symbol without a position row is flat; a profile without any row in either table is unknown.
        """
        since = window.start if window else rows.window_start(now, lookback)
        try:
            with self._engine.begin() as connection:
                prepare(connection)
                fill_rows, notes = _read_fills(connection, self._fills, profile_id, since)
                position_rows = _read_positions(connection, self._positions, profile_id)
        except (DataError, InternalError, ProgrammingError) as error:
            said = str(error.orig).splitlines()[0]
            raise unreadable(_SOURCE, f"{self.name}: expected readable tables, found: {said}") from None
        except DBAPIError as error:
            raise explain(error) from error
        every = rows.read_fills(fill_rows, now)
        end = rows.latest(every, now)
        window = window or Window(rows.window_start(end, lookback), end)
        fills, left_out = rows.within(window, every)
        positions = rows.read_positions(position_rows) if fill_rows or position_rows else None
        if positions is None:
            notes.append("Positions are unknown: neither table has a row of this profile within the window.")
        notes.append("Open orders were not checked: a table source does not list them.")
        return Snapshot(self.name, window, fills, positions, None, (*notes, *left_out))


def _read_fills(conn: sa.Connection, name: str, profile_id: str, since: datetime) -> tuple[list[Row], list[str]]:
    table = _reflect(conn, name, rows.FILL_COLUMNS)
    stamp = table.c.filled_at
    if not isinstance(stamp.type, sa.DateTime):
        problem = f"table {name}, column filled_at: expected timestamptz or timestamp (UTC), found {stamp.type}"
        raise unreadable(_SOURCE, problem)
    instant = stamp if stamp.type.timezone else sa.func.timezone("UTC", stamp)
    query = _select(table, rows.FILL_COLUMNS, profile_id).where(sa.or_(instant >= since, instant.is_(None)))
    fills = [
        Row(_SOURCE, f"table {name}, fill {cells['fill_id']!r} of order {cells['exchange_order_id']!r}", cells)
        for cells in _cells(conn, query)
    ]
    naive = f"Column filled_at of table {name} has no time zone and is read as UTC."
    return fills, [] if stamp.type.timezone else [naive]


def _read_positions(conn: sa.Connection, name: str, profile_id: str) -> list[Row]:
    query = _select(_reflect(conn, name, rows.POSITION_COLUMNS), rows.POSITION_COLUMNS, profile_id)
    return [Row(_SOURCE, f"table {name}, symbol {cells['symbol']!r}", cells) for cells in _cells(conn, query)]


def _reflect(conn: sa.Connection, name: str, columns: Sequence[str]) -> sa.Table:
    schema, _, table_name = name.rpartition(".")
    wanted = ["profile_id", *columns]
    expected = f"table {name}: expected a table or view with the columns {', '.join(wanted)}"
    try:
        table = sa.Table(table_name, sa.MetaData(), schema=schema or None, autoload_with=conn, resolve_fks=False)
    except NoSuchTableError:
        raise unreadable("name in RECON_EXCHANGE or create it", f"{expected}, found none of that name") from None
    missing = [column for column in wanted if column not in table.c]
    if missing:
        raise unreadable(_SOURCE, f"{expected}, found no {', '.join(missing)}")
    return table


def _select(table: sa.Table, columns: Sequence[str], profile_id: str) -> sa.Select[*tuple[Any, ...]]:
    owner = table.c.profile_id
    mine = (owner if isinstance(owner.type, sa.String) else sa.cast(owner, sa.Text)) == profile_id
    return sa.select(*(_text(table.c[name]).label(name) for name in columns)).where(mine)


def _text(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """The cell as text: amounts by way of numeric, like those of `orders`, and times in UTC (bare ones are UTC)."""
    if isinstance(column.type, sa.DateTime):
        return sa.func.to_char(sa.func.timezone("UTC", column) if column.type.timezone else column, _UTC_TEXT)
    exact = column.name in _NUMBERS and not isinstance(column.type, sa.String)
    return sa.cast(sa.cast(column, sa.Numeric) if exact else column, sa.Text)


def _cells(conn: sa.Connection, query: sa.Select[*tuple[Any, ...]]) -> list[Mapping[str, str]]:
    return [{name: value or "" for name, value in row.items()} for row in conn.execute(query).mappings()]
