"""The backend's `orders` table: reflected, read exactly, and written in the only two ways there are.

Entry points: `Orders.reflect`, then its methods. Only `insert` and `set_status` write: BFILL EXIT rows, and
`status` and `updated_at` of BFILL rows (invariant 1). Behind the doors (rules.md 14) they go through views of the
table. Every statement has an equality on profile_id, so that the table can be distributed by it. Rules: rules.md 9.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIT, JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.sql.elements import ColumnElement

from recon.allocation import TradeKey
from recon.database import ROLE, first_line, is_passing
from recon.domain import BACKFILL_PREFIX, FILLED, Item, OrderRow
from recon.doors.names import CANCEL, INSERT, LOCK, REINSTATE, WAY_BACK
from recon.orders_rows import order_row
from recon.orders_schema import OPTIONAL, REQUIRED, Schema, read_schema


@dataclass(frozen=True, slots=True)
class OpenLifecycle:
    """One line of the runbook's detection query; quantities in units of the symbol."""

    symbol: str
    trade_id: str
    entry_qty: Decimal
    exit_qty: Decimal
    is_unreadable: bool = False

    @property
    def open_qty(self) -> Decimal:
        """entry_qty - exit_qty; negative when over-closed. A quantity that is not a finite number counts as 0."""
        return self.entry_qty - self.exit_qty

    @property
    def is_open(self) -> bool:
        """Whether the runbook's query lists it; to PostgreSQL, NaN and infinity are greater than any number."""
        return self.open_qty > 0 or self.is_unreadable


class Orders:
    """The reflected table with what recon needs to know about it."""

    def __init__(self, schema: Schema, *, doors: bool = False) -> None:
        """Work on the table that `schema` describes; `doors` says whether to write through its doors."""
        self.table = schema.table
        self._doors = doors
        self.conflict = schema.conflict
        self.columns = schema.columns
        self.naive_times = schema.naive_times
        self.copied = schema.copied
        self._needs_client_id = schema.needs_client_id
        self._generated = schema.generated
        self.sides = schema.sides

    @classmethod
    def reflect(cls, connection: Connection) -> Orders:
        """Read the definition, nothing else. Raises `Refused` (orders_unsuitable) with the DDL that would help.

        A connection that took one of recon's roles writes through the doors.
        """
        return cls(read_schema(connection), doors=ROLE in connection.get_execution_options())

    def profile(self, profile_id: str, table: sa.Table | None = None) -> ColumnElement[bool]:
        """The equality on profile_id that every statement carries, in the column's own type."""
        column = (self.table if table is None else table).c.profile_id
        return column == sa.cast(sa.literal(profile_id, sa.Text), column.type)

    def has_rows(self, connection: Connection, profile_id: str) -> bool:
        """Whether the profile has any row; a text that cannot be a profile_id here has none."""
        named = self.text("profile_id") == profile_id  # a cast to varchar(4) or uuid would accept other spellings
        query = sa.select(sa.literal(1)).select_from(self.table).where(self.profile(profile_id), named).limit(1)
        try:
            with connection.begin_nested():
                return connection.execute(query).first() is not None
        except DataError:
            return False

    def lifecycles(self, connection: Connection, profile_id: str) -> list[OpenLifecycle]:
        """Lifecycles whose entries and exits do not cancel out (runbook section 1), ordered bytewise; reads only.

        One signed sum decides, exactly, in numeric; open ones come with over-closed ones (negative), and with those
        of which a quantity is not a finite number.
        """
        table = self.table
        quantity = self._counted()
        entry = sa.func.sum(sa.case((self.text("action") == "ENTRY", quantity), else_=0))
        leave = sa.func.sum(sa.case((self.text("action") == "EXIT", quantity), else_=0))
        unreadable = sa.func.bool_or(sa.or_(*(self.number(name).in_(_not_finite()) for name in ("quantity", "qty"))))
        unreadable = sa.func.coalesce(unreadable, sa.false())
        query = (
            sa.select(sa.func.coalesce(self.text("symbol"), ""), self.text("trade_id"), entry, leave, unreadable)
            .where(self.profile(profile_id), self.text("status").in_(sorted(FILLED)), table.c.trade_id.is_not(None))
            .group_by(table.c.profile_id, table.c.symbol, table.c.trade_id)
            .having(sa.or_(entry - leave != 0, unreadable))
        )
        found = [OpenLifecycle(*row) for row in connection.execute(query)]
        return sorted(found, key=lambda one: (one.symbol.encode(), one.trade_id.encode()))

    def symbols(self, connection: Connection, profile_id: str) -> list[str]:
        """Every symbol of the profile, as spelled, the empty one for NULL; reads only."""
        query = sa.select(self.text("symbol")).where(self.profile(profile_id)).distinct()
        return sorted(symbol or "" for (symbol,) in connection.execute(query))

    def rows(
        self,
        connection: Connection,
        profile_id: str,
        *,
        symbols: Collection[str] = (),
        trade_ids: Collection[str] = (),
        order_ids: Collection[str] = (),
    ) -> tuple[OrderRow, ...]:
        """The profile's rows on any of the symbols, trades or ids, by time and order_id; reads only."""
        wanted = sa.or_(
            sa.func.coalesce(self.text("symbol"), "") == sa.any_(_array(symbols)),
            self.text("trade_id") == sa.any_(_array(trade_ids)),
            self.text("order_id") == sa.any_(_array(order_ids)),
        )
        found = connection.execute(self._reading().where(self.profile(profile_id), wanted)).mappings()
        return tuple(sorted((order_row(row) for row in found), key=lambda row: (row.filled_at, row.order_id)))

    def exits_without_trade(self, connection: Connection, profile_id: str) -> tuple[OrderRow, ...]:
        """Filled EXIT rows that name no trade; reads only."""
        query = self._reading().where(
            self.profile(profile_id),
            self.table.c.trade_id.is_(None),
            self.text("action") == "EXIT",
            self.text("status").in_(sorted(FILLED)),
        )
        return tuple(sorted(map(order_row, connection.execute(query).mappings()), key=lambda row: row.order_id))

    def digest(self, connection: Connection, profile_id: str, *, without: Collection[str] = ()) -> str:
        """`count:sum` over 64-bit hashes of the profile's whole rows, all columns, in any order; reads only."""
        query = sa.select(*self._sums()).where(self.profile(profile_id))
        if without:
            query = query.where(self.text("order_id") != sa.all_(_array(without)))
        count, total = connection.execute(query).one()
        return f"{count}:{total or 0}"

    def trade_digests(self, connection: Connection, profile_id: str) -> dict[str, str]:
        """The same digest for each trade of the profile; reads only."""
        query = (
            sa.select(self.text("trade_id"), *self._sums())
            .where(self.profile(profile_id), self.table.c.trade_id.is_not(None))
            .group_by(self.table.c.trade_id)
        )
        return {trade_id: f"{count}:{total}" for trade_id, count, total in connection.execute(query)}

    def overspent(
        self, connection: Connection, profile_id: str, limits: Sequence[tuple[str, str, Decimal]]
    ) -> list[str]:
        """Units, by name, of which the rows hold more than their limit; reads only.

        `limits` are (order_id, name of the unit, quantity available of it).
        """
        rows = [{"order_id": order_id, "unit": unit, "available": str(qty)} for order_id, unit, qty in limits]
        limit = _records(rows, {"order_id": sa.Text(), "unit": sa.Text(), "available": sa.Numeric()}, "limits")
        quantity = self._counted()
        query = (
            sa.select(limit.c.unit)
            .select_from(self.table.join(limit, self.text("order_id") == limit.c.order_id))
            .where(self.profile(profile_id), self.text("status").in_(sorted(FILLED)))
            .group_by(limit.c.unit)
            .having(sa.func.sum(quantity) > sa.func.min(limit.c.available))
        )
        return sorted(unit for (unit,) in connection.execute(query))

    def lock(self, connection: Connection) -> None:
        """Keep every other writer out until the transaction ends; a statement of its own, before any reading."""
        name = connection.dialect.identifier_preparer.format_table(self._door(LOCK))
        connection.execute(sa.text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))

    def insert(
        self,
        connection: Connection,
        profile_id: str,
        items: Sequence[Item],
        entries: Mapping[TradeKey, str],
        now: datetime,
    ) -> set[str]:
        """Insert the items' rows; writes. Returns the ids that were new: a conflict inserts nothing.

        `entries` names, per trade, the ENTRY row from which NOT NULL columns unknown to recon are copied.
        """
        if not items:
            return set()
        values = self._values(items, entries)
        entry = self.table.alias("entry")
        written = self._written(profile_id, values, entry, now)
        copied = {name: entry.c[name] for name in self.copied}
        rows = sa.select(*written.values(), *copied.values()).select_from(
            values.join(entry, (sa.cast(entry.c.order_id, sa.Text) == values.c.entry_order_id))
        )
        rows = rows.where(entry.c.profile_id == sa.cast(sa.literal(profile_id, sa.Text), entry.c.profile_id.type))
        door = self._door(INSERT)
        statement = (
            pg_insert(door)
            .from_select([*written, *copied], rows, include_defaults=False)
            .on_conflict_do_nothing(index_elements=list(self.conflict))
            .returning(sa.cast(door.c.order_id, sa.Text))
        )
        return {order_id for (order_id,) in connection.execute(statement)}

    def set_status(
        self,
        connection: Connection,
        profile_id: str,
        order_ids: Collection[str],
        *,
        before: Collection[str],
        after: str,
        now: datetime,
    ) -> set[str]:
        """Compare and set the status of BFILL rows; writes status and updated_at alone. Returns the ids changed."""
        table = self._door(REINSTATE if after == "filled" else CANCEL)
        order_id, status = sa.cast(table.c.order_id, sa.Text), sa.cast(table.c.status, sa.Text)
        statement = (
            sa.update(table)
            .where(
                self.profile(profile_id, table),
                order_id == sa.any_(_array(order_ids)),
                order_id.like(f"{BACKFILL_PREFIX}%"),
                status.in_(sorted(before)),
            )
            .values(
                status=sa.cast(sa.literal(after, sa.Text), table.c.status.type),
                updated_at=self._stamp("updated_at", now),
            )
            .returning(order_id)
        )
        return {order_id for (order_id,) in connection.execute(statement)}

    def why_not_canceled(self, connection: Connection, profile_id: str, order_id: str, now: datetime) -> str:
        """Why a filled BFILL row could not be canceled, empty when it could: tried, and taken back at once."""
        if self._doors:
            call = sa.select(getattr(sa.func, WAY_BACK)(order_id, profile_id))
            return connection.execute(call).scalar_one() or ""
        savepoint = connection.begin_nested()
        try:
            changed = self.set_status(connection, profile_id, [order_id], before=["filled"], after="canceled", now=now)
        except DBAPIError as error:
            if is_passing(error):
                raise
            return first_line(error)
        finally:
            savepoint.rollback()
        return "" if changed else "the update changed 0 rows"

    @property
    def writable(self) -> tuple[str, ...]:
        """The columns that `insert` writes."""
        optional = {"side", "exchange_order_id"} | ({"client_order_id"} if self._needs_client_id else set())
        known = [name for name in (*REQUIRED, *OPTIONAL) if name in REQUIRED or name in optional]
        return (*(name for name in known if name in self.table.c and name not in self._generated), *self.copied)

    def _door(self, name: str) -> sa.Table:
        """The view of that name where the doors are used, else the table itself."""
        if not self._doors:
            return self.table
        return sa.Table(name, sa.MetaData(), *(sa.Column(column.name, column.type) for column in self.table.columns))

    def text(self, name: str) -> ColumnElement[str]:
        """A column as text."""
        return sa.cast(self.table.c[name], sa.Text)

    def number(self, name: str) -> ColumnElement[Decimal]:
        """An amount as numeric."""
        return sa.cast(self.table.c[name], sa.Numeric)

    def _counted(self) -> ColumnElement[Decimal]:
        """COALESCE(quantity, qty, 0), with 0 for what is not a finite number; such a row is `data_quality`."""
        quantity = sa.func.coalesce(self.number("quantity"), self.number("qty"), 0)
        return sa.case((quantity.in_(_not_finite()), 0), else_=quantity)

    def instant(self, name: str) -> ColumnElement[datetime]:
        """An instant with its zone; one without is UTC."""
        column = self.table.c[name]
        return sa.func.timezone("UTC", column) if name in self.naive_times else column

    def _stamp(self, name: str, instant: ColumnElement[datetime] | datetime) -> ColumnElement[Any]:
        value = sa.literal(instant, sa.DateTime(timezone=True)) if isinstance(instant, datetime) else instant
        return sa.func.timezone("UTC", value) if name in self.naive_times else value

    def _reading(self) -> sa.Select[*tuple[Any, ...]]:
        optional = [self.text(name) if name in self.table.c else sa.cast(sa.null(), sa.Text) for name in OPTIONAL]
        return sa.select(
            *(
                self.text(name).label(name)
                for name in ("order_id", "profile_id", "symbol", "trade_id", "action", "status")
            ),
            *(self.number(name).label(name) for name in ("quantity", "qty", "price")),
            *(self.instant(name).label(name) for name in ("filled_at", "created_at")),
            *(column.label(name) for name, column in zip(OPTIONAL, optional, strict=True)),
        )

    def _sums(self) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        row = sa.func.md5(sa.cast(sa.literal_column(f"{self.table.name}.*"), sa.Text))
        number = sa.cast(sa.cast(sa.literal("x").concat(sa.func.substr(row, 1, 16)), BIT(64)), sa.BigInteger)
        return sa.func.count(), sa.func.sum(number)

    def _values(self, items: Sequence[Item], entries: Mapping[TradeKey, str]) -> sa.TableValuedAlias:
        rows = [
            {
                "order_id": item.order_id,
                "symbol": item.symbol,
                "trade_id": item.trade_id,
                "quantity": str(item.qty),
                "price": str(item.price),
                "filled_at": item.filled_at.isoformat() if item.filled_at else None,
                "side": self.sides.get(item.side.value, item.side.value) if item.side else None,
                "exchange_order_id": item.exchange_order_id,
                "entry_order_id": entries[item.symbol, item.trade_id],
            }
            for item in items
        ]
        kinds = {"quantity": sa.Numeric(), "price": sa.Numeric(), "filled_at": sa.DateTime(timezone=True)}
        return _records(rows, {name: kinds.get(name, sa.Text()) for name in rows[0]}, "item")

    def _written(
        self, profile_id: str, values: sa.TableValuedAlias, entry: sa.FromClause, now: datetime
    ) -> dict[str, ColumnElement[Any]]:
        table = self.table
        cells: dict[str, ColumnElement[Any]] = {
            "order_id": values.c.order_id,
            "profile_id": sa.literal(profile_id, sa.Text),
            "symbol": values.c.symbol,
            "trade_id": values.c.trade_id,
            "action": sa.literal("EXIT", sa.Text),
            "status": sa.literal("filled", sa.Text),
            "quantity": values.c.quantity,
            "qty": values.c.quantity,
            "price": values.c.price,
            "filled_at": self._stamp("filled_at", values.c.filled_at),
            "created_at": self._stamp("created_at", now),
            "updated_at": self._stamp("updated_at", now),
            "exchange_order_id": values.c.exchange_order_id,
        }
        if "side" in table.c:
            spelled = spelled_like(sa.cast(entry.c.side, sa.Text), values.c.side)
            cells["side"] = values.c.side if self.sides else spelled
        if self._needs_client_id:
            cells["client_order_id"] = values.c.order_id
        return {
            name: sa.cast(cell, table.c[name].type)
            for name, cell in cells.items()
            if name in table.c and name not in self._generated
        }


def _not_finite() -> list[ColumnElement[Decimal]]:
    return [sa.cast(sa.literal(text, sa.Text), sa.Numeric) for text in ("NaN", "Infinity", "-Infinity")]


def spelled_like(example: ColumnElement[str], word: ColumnElement[str]) -> ColumnElement[str]:
    """`sell` as SELL or Sell where the backend writes BUY or Buy: an enum or a check may know no other."""
    upper, capital = sa.func.upper, sa.func.initcap
    return sa.case((example == upper(example), upper(word)), (example == capital(example), capital(word)), else_=word)


def _records(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Any], name: str) -> sa.TableValuedAlias:
    """Rows as a table of one bound parameter: exact, and free of the limit on the number of parameters."""
    columns = [sa.column(column, kind) for column, kind in kinds.items()]
    document = sa.cast(sa.literal(json.dumps(rows), sa.Text), JSONB)
    return sa.func.jsonb_to_recordset(document).table_valued(*columns, name=name).render_derived(with_types=True)


def _array(values: Iterable[str]) -> ColumnElement[Any]:
    return sa.cast(sa.literal(sorted(values), sa.ARRAY(sa.Text)), sa.ARRAY(sa.Text))
