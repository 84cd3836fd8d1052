"""Whether the doors exist, are those of today's `orders`, and which of their roles this login has."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.doctor.asking import Finding
from recon.doors.access import is_member, missing_roles, protection
from recon.doors.fit import misfit
from recon.doors.names import CANCEL, INSERT, LOCK, OWNER, REINSTATE, Role
from recon.doors.sequences import INSERTING, closed_sequences
from recon.orders import Orders

WORK = {
    Role.READER: "detect without a trace",
    Role.PLANNER: "detect, dry-run, validate",
    Role.APPROVER: "approve, sign",
    Role.APPLIER: "apply",
    Role.UNDOER: "rollback",
}
"""What each role is for."""


def doors(connection: Connection) -> Finding:
    """What this login may do through the doors; without them its rights on `orders` decide."""
    missing = [name for name in (LOCK, INSERT, REINSTATE, CANCEL) if not _is_there(connection, name)]
    if 0 < len(missing) < 4:
        return False, f"expected all four doors, found no {', '.join(missing)}; run `recon init --roles`."
    if missing:
        return True, "none: this login's own rights on orders decide; `recon init --roles` makes them"
    if _hidden(connection):
        return False, (
            f"expected {OWNER} to see every row of orders, found row-level security without a policy for it; let the "
            f"owner of orders run `CREATE POLICY {OWNER} ON orders TO {OWNER} USING (true)`."
        )
    if found := misfit(connection, Orders.reflect(connection)):
        return False, f"{found}; run `recon init --roles`."
    if closed := [grant for table in INSERTING for grant in closed_sequences(connection, table)]:
        return False, f"expected its roles to draw new ids, found that they may not; run `{'; '.join(closed)}`."
    if gone := missing_roles(connection):
        return False, (
            f"expected this server to have recon's roles, found no {', '.join(gone)}; run `recon init --roles`, then "
            "grant again what was granted."
        )
    if (held := protection(connection)).changed:
        return False, (
            f"expected the doors as `recon init --roles` made them, found otherwise: {', '.join(held.changed)}. Find "
            "out who changed that, then run `recon init --roles`."
        )
    have = [role for role in Role if is_member(connection, role)]
    if not have:
        return False, f"expected this login to have one of {', '.join(Role)}, found none; grant one."
    told = ", ".join(f"{role} ({WORK[role]})" for role in have)
    around = "; it could also go around them by rights of its own on orders" if held.around else ""
    return True, f"in force; this login has {told}{around}"


def _is_there(connection: Connection, name: str) -> bool:
    return bool(connection.execute(sa.select(sa.func.to_regclass(name).is_not(None))).scalar_one())


def _hidden(connection: Connection) -> bool:
    """Whether row-level security keeps the rows of `orders` from the owner of the doors: no policy speaks of it."""
    query = sa.text(
        """
        SELECT coalesce(bool_or(relrowsecurity AND NOT rolbypassrls AND NOT rolsuper
            AND (relforcerowsecurity OR NOT pg_has_role(pg_roles.oid, relowner, 'USAGE'))
            AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid
                AND (0 = ANY (polroles) OR pg_roles.oid = ANY (polroles)))), false)
        FROM pg_class, pg_roles WHERE pg_class.oid = to_regclass('orders') AND rolname = :owner
        """
    )
    return bool(connection.execute(query, {"owner": OWNER}).scalar_one())


def audit_trail(connection: Connection) -> Finding:
    """Whether the database itself keeps the audit table append-only; recon works without, and says so."""
    return True, protection(connection).audit_sentence()
