"""Which role a stage takes, and what the database holds it to. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from recon.audit import is_append_only, metadata
from recon.database import ROLE, transaction
from recon.doors.made import found
from recon.doors.names import INSERT, OWNER, Role
from recon.errors import Refused


@dataclass(frozen=True, slots=True)
class Protection:
    """What holds in this database.

    `doors` says whether the doors exist, `role` is the one that this connection took, `around` whether the login
    could write `orders` without them all the same, `append_only` whether triggers keep the audit table so. `digest` is
    a SHA-256 over the definitions of all of it, None where there is nothing; `changed` names the parts that are not as
    `recon init --roles` made them.
    """

    doors: bool
    role: str | None
    around: bool
    append_only: bool
    digest: str | None
    changed: tuple[str, ...] = ()

    def sentence(self) -> str:
        """For people: whether the database itself held the stage to the approved plan."""
        if not self.doors:
            return "none: this login's rights on orders decide, and recon keeps to the plan by itself"
        more = "; this login could also go around them" if self.around else ""
        if self.changed:
            return f"NOT as `recon init --roles` made them: {', '.join(self.changed)}{more}"
        return f"in force, as {self.role or 'this login itself'}{more}"

    def audit_sentence(self) -> str:
        """For people: whether the database keeps the audit table append-only."""
        if self.append_only:
            return "append-only by triggers that are always enabled"
        return "NOT held append-only by the database: no trigger of recon's is in force on it"


def behind(engine: Engine, *roles: Role) -> Engine:
    """The engine of which every transaction takes the first of the roles that the login has; reads only.

    Where there are no doors it is the engine itself. Raises `Refused` (role_missing) when the login has none of them.
    """
    with transaction(engine, read_only=True) as connection:
        if not exist(connection):
            return engine
        for role in roles:
            if is_member(connection, role):
                return engine.execution_options(**{ROLE: role.value})
        user: str = connection.execute(sa.select(sa.literal_column("session_user"))).scalar_one()
        gone = roles[0] in missing_roles(connection)
    if gone:
        raise Refused(
            "role_missing",
            f"Behind the doors of this database this takes the role {roles[0].value}, and this server has none of that "
            "name: it was dropped, or the database comes from another server. Run `recon init --roles`, which makes "
            f'it, then `GRANT {roles[0].value} TO "{user}"`.',
        )
    raise Refused(
        "role_missing",
        f"Behind the doors of this database this takes the role {roles[0].value}, and {user} has it not. Let a person "
        f'who may grant it run `GRANT {roles[0].value} TO "{user}"`, or use a login that has it.',
    )


def for_reading(engine: Engine) -> Engine:
    """The engine whose transactions take whichever role the login has, or the engine itself; reads only.

    Raises `Refused` (role_missing) when the login has none of the roles, and cannot read the tables without.
    """
    try:
        return behind(engine, *Role)
    except Refused:
        with transaction(engine, read_only=True) as connection:
            if not _reads_all(connection):
                raise
        return engine


def _reads_all(connection: Connection) -> bool:
    """Whether the login itself may read `orders` and recon's tables."""
    query = sa.text(
        """
        SELECT bool_and(coalesce(has_table_privilege(to_regclass(name), 'SELECT'), false))
        FROM unnest(CAST(:names AS text[])) AS named (name)
        """
    )
    names = ["orders", *(table.name for table in metadata.sorted_tables)]
    return bool(connection.execute(query, {"names": names}).scalar_one())


def exist(connection: Connection) -> bool:
    """Whether the doors are there, for this search path, to be seen by this login or hidden from it; reads only."""
    seen = sa.select(sa.func.to_regclass(INSERT).is_not(None))
    return bool(connection.execute(seen).scalar_one()) or hidden(connection)


def hidden(connection: Connection) -> bool:
    """Whether there are doors in a schema that this login may not look into, and no `orders` elsewhere; reads only."""
    query = sa.text(
        """
        SELECT to_regclass('orders') IS NULL AND EXISTS (
            SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE relname = :door AND relkind = 'v' AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE'))
        """
    )
    return bool(connection.execute(query, {"door": INSERT}).scalar_one())


def is_member(connection: Connection, role: Role) -> bool:
    """Whether this login can take the role; reads only."""
    query = sa.text(
        """
        SELECT coalesce(pg_has_role(session_user, to_regrole(:role), CASE
            WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END), false)
        """
    )
    return bool(connection.execute(query, {"role": role.value}).scalar_one())


def missing_roles(connection: Connection) -> list[str]:
    """Recon's roles, its owner included, that this server does not have; reads only."""
    have = set(connection.execute(sa.text("SELECT rolname::text FROM pg_roles")).scalars())
    return [name for name in (*Role, OWNER) if name not in have]


def protection(connection: Connection) -> Protection:
    """What is in force in this database, for this connection; reads only."""
    made = found(connection)
    role = connection.get_execution_options().get(ROLE)
    return Protection(
        doors=exist(connection),
        role=role,
        around=_goes_around(connection),
        append_only=is_append_only(connection),
        digest=made.digest,
        changed=made.changed,
    )


def _goes_around(connection: Connection) -> bool:
    """Whether the login, or any role that it is a member of, may write `orders` or a partition, be it in one column."""
    query = sa.text(
        """
        WITH RECURSIVE tables (id) AS (
            SELECT to_regclass('orders')::oid UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = id)
        SELECT EXISTS (SELECT FROM pg_roles, tables WHERE pg_has_role(session_user, pg_roles.oid, 'MEMBER')
            AND (has_table_privilege(pg_roles.oid, id, 'DELETE, TRUNCATE')
                OR has_any_column_privilege(pg_roles.oid, id, 'INSERT, UPDATE')))
        """
    )
    return bool(connection.execute(query).scalar_one())
