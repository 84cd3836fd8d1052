"""What this user may do: privileges on tables and sequences, and whether row-level security narrows them."""

from __future__ import annotations

from collections import defaultdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon import audit
from recon.doctor.asking import Finding
from recon.doors.access import exist
from recon.doors.sequences import closed_sequences
from recon.errors import ReconError

RIGHTS = {
    "orders": ("SELECT", "INSERT", "UPDATE"),
    **{t.name: ("SELECT", "INSERT", "UPDATE") for t in audit.metadata.sorted_tables},
}
"""What the connection needs on each table; LOCK TABLE needs UPDATE on the whole table."""

COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE"}
"""The commands that recon runs, by the letters of pg_policy."""


def privileges(connection: Connection) -> Finding:
    """Whether the user may read and write the tables, and draw from the sequences that their rows take."""
    if exist(connection):
        return True, "those of recon's roles; see doors"
    present = [
        table for table in RIGHTS if connection.execute(sa.select(sa.func.to_regclass(table).is_not(None))).scalar_one()
    ]
    missing = [
        f"{right} on {table}"
        for table in present
        for right in RIGHTS[table]
        if not connection.execute(sa.select(sa.func.has_table_privilege(table, right))).scalar_one()
    ]
    if missing:
        raise ReconError("privileges_missing", f"this user lacks {', '.join(missing)}; grant them for the repair.")
    if closed := [grant for table in present for grant in closed_sequences(connection, table)]:
        raise ReconError("privileges_missing", f"this user may not draw new ids; run `{'; '.join(closed)}`.")
    return True, f"SELECT, INSERT and UPDATE on {', '.join(present) or 'no table yet'}"


def row_security(connection: Connection) -> Finding:
    """Whether row-level security holds for this user, and whether a policy lets each command through at all."""
    policies = _policies(connection)
    if not policies:
        return True, f"none holds for this user on {', '.join(RIGHTS)}"
    shut = [f"{command} on {table}" for table, allowed in policies.items() for command in _shut(allowed)]
    named = "; ".join(f"{table}: {_names(allowed)}" for table, allowed in policies.items())
    if shut:
        return False, (
            f"expected a policy for each command, found none of this user's for {', '.join(shut)} (policies: {named}). "
            "Create one that covers every row of the profile, or give this user BYPASSRLS."
        )
    return True, (
        f"in force for this user by these policies: {named}. Rows that they hide do not exist for recon: make sure "
        "that they show and accept every row of the profile"
    )


Policy = tuple[str, bool, str]
"""A policy's name, whether it is permissive, and its command as a letter or `*`."""


def _policies(connection: Connection) -> dict[str, list[Policy]]:
    """The policies that bind this user, by table, for the tables on which row-level security holds for it."""
    query = sa.text(
        """
        SELECT named.name, polname::text, polpermissive, polcmd::text
        FROM unnest(CAST(:names AS text[])) AS named (name)
        JOIN pg_class ON pg_class.oid = to_regclass(named.name)
        LEFT JOIN pg_policy ON polrelid = pg_class.oid
        AND (0 = ANY (polroles) OR EXISTS (SELECT FROM unnest(polroles) AS role WHERE pg_has_role(role, 'USAGE')))
        WHERE row_security_active(pg_class.oid) ORDER BY array_position(CAST(:names AS text[]), named.name), polname
        """
    )
    found: dict[str, list[Policy]] = defaultdict(list)
    for table, *policy in connection.execute(query, {"names": list(RIGHTS)}):
        found[table] += [(policy[0], policy[1], policy[2])] if policy[0] is not None else []
    return dict(found)


def _shut(policies: list[Policy]) -> list[str]:
    """Commands that no permissive policy allows: PostgreSQL then shows and takes no row."""
    open_to = {command for _, permissive, command in policies if permissive}
    return [name for letter, name in COMMANDS.items() if not open_to & {letter, "*"}]


def _names(policies: list[Policy]) -> str:
    return ", ".join(name for name, _, _ in policies) or "none"
