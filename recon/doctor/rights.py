"""What this user may do: privileges on tables and sequences, and whether row-level security narrows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon import audit
from recon.doctor.asking import Finding
from recon.doors.access import exist, is_member
from recon.doors.names import OWNER, Role
from recon.doors.sequences import AUDIT, BATCHES, INSERTING, closed_sequences
from recon.errors import ReconError

RIGHTS = {
    "orders": ("SELECT", "INSERT", "UPDATE"),
    **{t.name: ("SELECT", "INSERT", "UPDATE") for t in audit.metadata.sorted_tables},
}
"""What the connection needs on each table; LOCK TABLE needs UPDATE on the whole table."""

COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE"}
"""The commands that recon runs, by the letters of pg_policy."""

UPDATING = {AUDIT: (Role.UNDOER,), BATCHES: (Role.PLANNER, Role.APPROVER, Role.APPLIER, Role.UNDOER)}
"""Who updates which of recon's tables behind the doors; what is written to `orders` there, its views' owner writes."""


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


@dataclass(frozen=True, slots=True)
class Bound:
    """A table, or a table as a role, of which row-level security decides the rows; the policies that hold, by name.

    `commands` are what is run there, and `open_to` the commands that a permissive policy allows, as letters or `*`.
    """

    place: str
    commands: str
    policies: tuple[str, ...]
    open_to: tuple[str, ...]

    @property
    def shut(self) -> list[str]:
        """Commands that no permissive policy allows: PostgreSQL then shows and takes no row."""
        return [COMMANDS[letter] for letter in self.commands if not {letter, "*"} & set(self.open_to)]


def row_security(connection: Connection) -> Finding:
    """Whether row-level security holds for whoever reads and writes here, and a policy lets each command through.

    Without doors that is this user. Behind them it is each role that this user may take, and for what is written to
    `orders` the owner of the doors.
    """
    doors = exist(connection)
    bound = _bound(connection, doors)
    if not bound:
        return True, f"none holds for {'the roles of this user' if doors else 'this user'} on {', '.join(RIGHTS)}"
    shut = [f"{command} on {one.place}" for one in bound for command in one.shut]
    named = "; ".join(f"{one.place}: {', '.join(one.policies) or 'none'}" for one in bound)
    if shut:
        return False, (
            f"expected a policy for each command, found none for {', '.join(shut)} (policies: {named}). Create one "
            f"that covers every row of the profile, or give {'that role' if doors else 'this user'} BYPASSRLS."
        )
    return True, (
        f"in force by these policies: {named}. Rows that they hide do not exist for recon: make sure that they show "
        "and accept every row of the profile"
    )


def _needs(connection: Connection, doors: bool) -> Iterator[tuple[str, str, str]]:
    """Who runs what on which table: user, table, and letters of commands."""
    if not doors:
        user: str = connection.execute(sa.text("SELECT current_user::text")).scalar_one()
        yield from ((user, table, "raw") for table in RIGHTS)
        return
    yield OWNER, "orders", "raw"
    for role in (role for role in Role if is_member(connection, role)):
        for table in RIGHTS:
            inserts = table != "orders" and role in INSERTING[table]
            updates = role in UPDATING.get(table, ())
            yield role.value, table, f"r{'a' if inserts else ''}{'w' if updates else ''}"


def _bound(connection: Connection, doors: bool) -> list[Bound]:
    """Where row-level security decides. As in PostgreSQL it holds for no superuser, owner, or role with BYPASSRLS."""
    query = sa.text(
        """
        SELECT need.who, need.name, need.commands,
            coalesce(array_agg(polname::text ORDER BY polname) FILTER (WHERE polname IS NOT NULL), '{}'),
            coalesce(array_agg(polcmd::text ORDER BY polname) FILTER (WHERE polpermissive), '{}')
        FROM unnest(CAST(:users AS text[]), CAST(:tables AS text[]), CAST(:commands AS text[]))
            WITH ORDINALITY AS need (who, name, commands, place)
        JOIN pg_class ON pg_class.oid = to_regclass(need.name)
        JOIN pg_roles ON rolname = need.who
        LEFT JOIN pg_policy ON polrelid = pg_class.oid AND (0 = ANY (polroles)
            OR EXISTS (SELECT FROM unnest(polroles) AS role WHERE pg_has_role(pg_roles.oid, role, 'USAGE')))
        WHERE relrowsecurity AND NOT rolsuper AND NOT rolbypassrls
            AND (relforcerowsecurity OR NOT pg_has_role(pg_roles.oid, relowner, 'USAGE'))
        GROUP BY need.who, need.name, need.commands, place ORDER BY place
        """
    )
    users, tables, commands = map(list, zip(*_needs(connection, doors), strict=True))
    found = connection.execute(query, {"users": users, "tables": tables, "commands": commands})
    return [
        Bound(f"{table} as {who}" if doors else table, letters, tuple(names), tuple(open_to))
        for who, table, letters, names, open_to in found
    ]
