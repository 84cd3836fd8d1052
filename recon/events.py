"""The mismatch events: where table and exchange were found apart, at most one per symbol within the throttle.

Rules: rules.md 11. Every statement has an equality on profile_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.audit import batches_table, events_table
from recon.identity import advisory_key, canonical_symbol


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A symbol on which the table and the exchange disagree; signed quantities."""

    symbol: str
    db_open_qty: Decimal
    exchange_qty: Decimal


def may_record(connection: Connection) -> bool:
    """Whether this user may write mismatch events and open batches; reads only. Unknown tables count as yes."""
    rights = (
        sa.func.coalesce(sa.func.has_any_column_privilege(sa.func.to_regclass(table.name), "INSERT"), sa.true())
        for table in (events_table, batches_table)
    )
    return bool(connection.execute(sa.select(sa.and_(*rights))).scalar_one())


def record_events(
    connection: Connection,
    profile_id: str,
    batch_id: str,
    mismatches: Sequence[Mismatch],
    *,
    throttle: timedelta,
    now: datetime,
) -> int:
    """Write one event per mismatch unless its symbol had one within the throttle; writes, returns how many.

    One writer of a profile at a time: two that look at once would both find silence.
    """
    table = events_table
    key = sa.literal(advisory_key(f"{profile_id}\0events"), sa.BigInteger)
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    recent = sa.select(table.c.symbol).where(table.c.profile_id == profile_id, table.c.created_at > now - throttle)
    quiet = {canonical_symbol(symbol) for (symbol,) in connection.execute(recent)}
    rows = [
        {
            "profile_id": profile_id,
            "symbol": mismatch.symbol,
            "db_open_qty": mismatch.db_open_qty,
            "exchange_qty": mismatch.exchange_qty,
            "batch_id": batch_id,
            "created_at": now,
        }
        for mismatch in mismatches
        if canonical_symbol(mismatch.symbol) not in quiet
    ]
    if rows:
        connection.execute(sa.insert(table), rows)
    return len(rows)


def event_counts(connection: Connection, profile_id: str, split_at: datetime | None) -> tuple[int, int]:
    """How many mismatch events the profile had up to an instant, and since; reads only."""
    table = events_table
    query = sa.select(table.c.created_at).where(table.c.profile_id == profile_id)
    instants = [created_at for (created_at,) in connection.execute(query)]
    before = sum(1 for instant in instants if split_at is None or instant <= split_at)
    return before, len(instants) - before
