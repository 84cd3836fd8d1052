"""Who holds `orders`, or waits for it, in a way that would make an apply wait; only what this user may see."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.doctor.asking import Finding

PATIENCE = 10
"""Seconds that an apply waits for its lock: `lock_timeout` in `recon.database.prepare`."""

CONFLICTING = (
    "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock",
    "AccessExclusiveLock",
)  # fmt: skip
"""The modes that cannot stand beside SHARE ROW EXCLUSIVE, which apply and rollback take."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction with such a lock: a prepared one has a `gid`, any other a `pid`; `seconds` None is not to be seen.

    `state` is what its session does, as pg_stat_activity says it.
    """

    pid: int | None
    gid: str | None
    mode: str
    granted: bool
    state: str | None
    seconds: float | None

    @property
    def lasting(self) -> bool:
        """Whether an apply would be refused for it: it does not end by itself, or is older than apply is patient."""
        return self.pid is None or (self.seconds is not None and self.seconds >= PATIENCE)

    def __str__(self) -> str:
        """For people: who, which lock, since when, and how it could be ended."""
        who = f"process {self.pid}" if self.pid is not None else f"prepared transaction {self.gid!r}"
        doing = f", {self.state}," if self.state else ""
        since = f"for {self.seconds:.0f} s" if self.seconds is not None else "for a time that this user may not see"
        return f"{who}{doing} {'has' if self.granted else 'waits for'} {self.mode} {since}"


def locks(connection: Connection) -> Finding:
    """Transactions beside which an apply would have to wait, the lasting ones first."""
    holders = [Holder(*row) for row in connection.execute(_HOLDERS, {"modes": list(CONFLICTING)})]
    lasting = ", ".join(str(one) for one in holders if one.lasting)
    passing = ", ".join(str(one) for one in holders if not one.lasting)
    if lasting:
        return False, (
            f"expected nobody to hold orders for {PATIENCE} s or longer, found {lasting}: an apply would be refused. "
            "Let it end; else end a process with pg_terminate_backend, a prepared transaction with COMMIT PREPARED "
            "or ROLLBACK PREPARED."
        )
    if passing:
        return True, f"an apply would wait, at most {PATIENCE} s, since just now {passing}"
    return True, "nobody whom an apply would have to wait for"


_HOLDERS = sa.text(
    """
    SELECT held.pid, prepared.gid, held.mode, held.granted, session.state,
           CAST(extract(epoch FROM clock_timestamp() - coalesce(prepared.prepared, session.xact_start)) AS float8)
    FROM pg_locks AS held
    LEFT JOIN pg_locks AS own -- every transaction that has written holds its own number
    ON held.pid IS NULL AND own.pid IS NULL AND own.virtualtransaction = held.virtualtransaction
    AND own.locktype = 'transactionid' AND own.mode = 'ExclusiveLock'
    LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid
    LEFT JOIN pg_stat_activity AS session ON session.pid = held.pid
    WHERE held.locktype = 'relation' AND held.mode = ANY (:modes) AND held.pid IS DISTINCT FROM pg_backend_pid()
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (held.relation = to_regclass('orders')
         OR held.relation IN (SELECT relid FROM pg_partition_tree(to_regclass('orders'))))
    AND session.backend_type IS DISTINCT FROM 'autovacuum worker' -- it gives way by itself
    ORDER BY 6 DESC NULLS LAST, held.pid, held.mode
    """
)
