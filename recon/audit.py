"""recon's own tables, and the audit trail.

Entry points: `create_tables`, `append`, `mark_reverted`, `owners`. The audit table is
append-only but for reverted_at, which is set once (rules.md 11). Every statement on audit and events has an
equality on profile_id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from recon.database import INSUFFICIENT_PRIVILEGE, first_line, is_passing, sqlstate
from recon.domain import BACKFILL_PREFIX, Decision, Item, Reason
from recon.doors.append_only import BODY, EMPTY_TYPE, ROW_TYPE, append_only_statements
from recon.errors import Refused

INSTANT = sa.DateTime(timezone=True)
metadata = sa.MetaData()


class Text(sa.types.UserDefinedType[str]):
    """Text whose parameters go untyped: a backend's own audit table may hold uuid ids or an enum of decisions."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """How DDL calls it."""
        return "TEXT"


audit_table = sa.Table(
    "reconciliation_backfill_audit",
    metadata,
    sa.Column("batch_id", Text, nullable=False),
    sa.Column("profile_id", Text, nullable=False),
    sa.Column("symbol", Text),
    sa.Column("trade_id", Text),
    sa.Column("decision", Text, nullable=False),
    sa.Column("reason", Text),
    sa.Column("filled_qty", sa.Numeric),
    sa.Column("backfill_order_id", Text),
    sa.Column("exchange_client_order_id", Text),
    sa.Column("created_at", INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Column("reverted_at", INSTANT),
    sa.Column("exchange_order_id", Text),
    sa.Column("evidence_filled_at", INSTANT),
    sa.Column("price", sa.Numeric),
    sa.Column("plan_digest", Text),
    sa.Column("actor", Text),
    sa.Index("reconciliation_backfill_audit_batch", "profile_id", "batch_id"),
    sa.Index("reconciliation_backfill_audit_order", "profile_id", "backfill_order_id"),
)

events_table = sa.Table(
    "reconciliation_events",
    metadata,
    sa.Column("profile_id", sa.Text, nullable=False),
    sa.Column("symbol", sa.Text, nullable=False),
    sa.Column("db_open_qty", sa.Numeric, nullable=False),
    sa.Column("exchange_qty", sa.Numeric),
    sa.Column("batch_id", sa.Text),
    sa.Column("created_at", INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Index("reconciliation_events_symbol", "profile_id", "symbol", "created_at"),
)

batches_table = sa.Table(
    "reconciliation_batches",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True),
    sa.Column("profile_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("scope", JSONB),
    sa.Column("plan", JSONB),
    sa.Column("plan_digest", sa.Text),
    sa.Column("approval", JSONB),
    sa.Column("rollback_approval", JSONB),
    sa.Column("created_at", INSTANT, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("updated_at", INSTANT, nullable=False),
    sa.Column("updated_by", sa.Text, nullable=False),
)


def ddl(connection: Connection) -> list[str]:
    """The statements that `create_tables` would run on this database; reads only."""
    inspector = sa.inspect(connection)
    statements = []
    for table in metadata.sorted_tables:
        if not inspector.has_table(table.name):
            statements.append(str(CreateTable(table).compile(connection)).strip())
            ordered = sorted(table.indexes, key=lambda index: str(index.name))
            statements += [str(CreateIndex(index).compile(connection)) for index in ordered]
        else:
            present = {column["name"] for column in inspector.get_columns(table.name)}
            statements += [
                f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type.compile(connection.dialect)}"
                for column in table.columns
                if column.name not in present
            ]
    return statements


def create_tables(connection: Connection) -> list[str]:
    """Create the tables, or add the columns that an existing one lacks, and keep the audit table append-only.

    Writes DDL, returns what was run. Where the database allows no trigger on the audit table, a comment says why.
    """
    statements = ddl(connection)
    for statement in statements:
        connection.execute(sa.text(statement))
    triggers = trail_ddl(connection)
    try:
        with connection.begin_nested():
            for statement in triggers:
                connection.execute(sa.text(statement))
    except DBAPIError as error:
        return [*statements, f"-- the audit table is not held append-only: {first_line(error)}"]
    return [*statements, *triggers]


def trail_ddl(connection: Connection) -> list[str]:
    """The statements that keep the audit table append-only; none when they are in force. Reads only."""
    return [] if is_append_only(connection) else append_only_statements()


def is_append_only(connection: Connection) -> bool:
    """Whether both triggers, as recon makes them, are on the audit table and fire for everybody; reads only."""
    query = sa.text(
        """
        SELECT count(*) = 2 FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE prosrc = :body AND proconfig = ARRAY['search_path=pg_catalog, pg_temp'] AND tgqual IS NULL
        AND tgattr::text = '' AND tgrelid = to_regclass('reconciliation_backfill_audit') AND tgenabled = 'A'
        AND (tgname, tgtype) IN (('reconciliation_append_only', :row), ('reconciliation_never_empty', :empty))
        """
    )
    return bool(connection.execute(query, {"body": BODY, "row": ROW_TYPE, "empty": EMPTY_TYPE}).scalar_one())


def check_writable(
    connection: Connection,
    batch_id: str,
    profile_id: str,
    symbol: str,
    trade_id: str | None,
    grants: Sequence[str] = (),
) -> None:
    """Prove in a savepoint that an audit row of the trade can be written, then take it back; writes nothing.

    `grants` are those that drawing its id from a sequence lacks. Raises `Refused` (audit_unavailable), runbook
    section 6.
    """
    savepoint = connection.begin_nested()
    try:
        known = {"batch_id": batch_id, "profile_id": profile_id, "symbol": symbol, "trade_id": trade_id}
        told = {"decision": "NO_GO", "reason": "probe", "filled_qty": 0, "backfill_order_id": BACKFILL_PREFIX}
        cells = {column.name: None for column in audit_table.columns} | known | told | {"created_at": sa.func.now()}
        connection.execute(sa.insert(audit_table).values(cells))
    except DBAPIError as error:
        if is_passing(error):
            raise
        helps = "Run `recon init`, or grant INSERT on reconciliation_backfill_audit."
        if grants and sqlstate(error) == INSUFFICIENT_PRIVILEGE:
            helps = f"Run `{'; '.join(grants)}`."
        raise Refused(
            "audit_unavailable", f"The audit table cannot be written ({str(error.orig).splitlines()[0]}). {helps}"
        ) from error
    finally:
        savepoint.rollback()


def append(
    connection: Connection,
    *,
    batch_id: str,
    profile_id: str,
    decisions: Iterable[tuple[Item, Decision]],
    plan_digest: str | None,
    actor: str,
    now: datetime,
) -> int:
    """Append one audit row per (item, decision); writes, returns how many.

    Raises `Refused` (audit_unavailable) when a backend's own table rounds a quantity or a price.
    """
    rows = [
        {
            "batch_id": batch_id,
            "profile_id": profile_id,
            "symbol": item.symbol,
            "trade_id": item.trade_id,
            "decision": decision.value,
            "reason": item.reason.value,
            "filled_qty": item.qty,
            "backfill_order_id": item.order_id,
            "exchange_client_order_id": item.client_order_id,
            "created_at": now,
            "exchange_order_id": item.exchange_order_id,
            "evidence_filled_at": item.filled_at,
            "price": item.price,
            "plan_digest": plan_digest,
            "actor": actor,
        }
        for item, decision in decisions
    ]
    if rows:
        cells = (sa.cast(audit_table.c[name], sa.Numeric).label(name) for name in ("filled_qty", "price"))
        statement = sa.insert(audit_table).returning(*cells, sort_by_parameter_order=False)
        kept = Counter((row.filled_qty, row.price) for row in connection.execute(statement, rows))
        if kept != Counter((row["filled_qty"], row["price"]) for row in rows):
            raise Refused(
                "audit_unavailable",
                "The audit table rounds quantities or prices, so it would prove nothing. Nothing was written; "
                f"widen it: ALTER TABLE {audit_table.name} ALTER filled_qty TYPE numeric, ALTER price TYPE numeric;",
            )
    return len(rows)


def decision_counts(connection: Connection, profile_id: str, batch_id: str) -> dict[str, int]:
    """Audit rows of the batch per decision, by name (runbook section 8); reads only."""
    table = audit_table
    query = (
        sa.select(table.c.decision, sa.func.count())
        .where(table.c.profile_id == profile_id, table.c.batch_id == batch_id)
        .group_by(table.c.decision)
        .order_by(table.c.decision)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One audit row as it stands; `decision` and `reason` are its own words, whoever wrote them."""

    decision: str
    symbol: str | None
    trade_id: str | None
    reason: str | None
    qty: Decimal | None
    price: Decimal | None
    filled_at: datetime | None
    exchange_order_id: str | None
    client_order_id: str | None
    order_id: str | None
    plan_digest: str | None
    actor: str | None
    reverted_at: datetime | None


_TEXTS = (
    "decision",
    "symbol",
    "trade_id",
    "reason",
    "backfill_order_id",
    "exchange_order_id",
    "exchange_client_order_id",
    "plan_digest",
    "actor",
)
_FIELDS = {
    "filled_qty": "qty",
    "backfill_order_id": "order_id",
    "exchange_client_order_id": "client_order_id",
}
"""Columns that an item calls otherwise."""


def batch_rows(connection: Connection, profile_id: str, batch_id: str) -> list[AuditRow]:
    """Every audit row of the batch, in no particular order; reads only."""
    table = audit_table.c
    query = sa.select(
        *(sa.cast(table[name], sa.Text).label(_FIELDS.get(name, name)) for name in _TEXTS),
        *(sa.cast(table[name], sa.Numeric).label(_FIELDS.get(name, name)) for name in ("filled_qty", "price")),
        table.evidence_filled_at.label("filled_at"),
        table.reverted_at,
    ).where(table.profile_id == profile_id, table.batch_id == batch_id)
    return [_utc(AuditRow(**row)) for row in connection.execute(query).mappings()]


def _utc(row: AuditRow) -> AuditRow:
    return replace(row, filled_at=row.filled_at.astimezone(UTC)) if row.filled_at else row


def applied_items(connection: Connection, profile_id: str, batch_id: str) -> dict[str, Item]:
    """What the batch's APPLIED audit rows that are not reverted say of their rows, by order_id; reads only.

    The audit row holds no side and no grade.
    """
    rows = batch_rows(connection, profile_id, batch_id)
    live = [row for row in rows if row.decision == Decision.APPLIED and row.reverted_at is None]
    return {row.order_id or "": _audited(row) for row in live}


_REASONS = {reason.value: reason for reason in Reason}
"""Any other text in an audit row, which somebody else wrote, reads as data_quality: no row is written for that."""


def _audited(row: AuditRow) -> Item:
    return Item(
        trade_id=row.trade_id or "",
        symbol=row.symbol or "",
        side=None,
        decision=Decision.APPLIED,
        reason=_REASONS.get(row.reason or "", Reason.DATA_QUALITY),
        qty=row.qty,
        price=row.price,
        filled_at=row.filled_at,
        exchange_order_id=row.exchange_order_id,
        order_id=row.order_id,
    )


def owners(connection: Connection, profile_id: str, order_ids: Collection[str]) -> dict[str, str]:
    """The owner of each row: the batch of its last APPLIED audit row that is not reverted; reads only."""
    table = audit_table
    query = (
        sa.select(table.c.backfill_order_id, table.c.batch_id)
        .where(
            table.c.profile_id == profile_id,
            table.c.backfill_order_id == sa.any_(sa.cast(sorted(order_ids), sa.ARRAY(sa.Text))),
            table.c.decision == Decision.APPLIED.value,
            table.c.reverted_at.is_(None),
        )
        .order_by(table.c.created_at)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def touched_ids(connection: Connection, profile_id: str, batch_id: str) -> set[str]:
    """order_ids that the batch applied or found existing (runbook section 9); reads only."""
    table = audit_table
    query = sa.select(table.c.backfill_order_id).where(
        table.c.profile_id == profile_id,
        table.c.batch_id == batch_id,
        table.c.decision.in_([Decision.APPLIED.value, Decision.SKIP_EXISTING.value]),
        table.c.backfill_order_id.is_not(None),
    )
    return {order_id for (order_id,) in connection.execute(query)}


def mark_reverted(connection: Connection, profile_id: str, batch_id: str, now: datetime) -> int:
    """Set reverted_at on every row of the batch where it is NULL (runbook section 9); writes, returns how many."""
    table = audit_table
    statement = (
        sa.update(table)
        .where(table.c.profile_id == profile_id, table.c.batch_id == batch_id, table.c.reverted_at.is_(None))
        .values(reverted_at=now)
    )
    return connection.execute(statement).rowcount
