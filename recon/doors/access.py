"""Which role a stage takes, and what the database holds it to. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from recon.audit import is_append_only, metadata
from recon.database import ROLE, transaction
from recon.doors.names import INSERT, OWNER, Role
from recon.errors import Refused


@dataclass(frozen=True, slots=True)
class Protection:
    """What holds in this database.

    `doors` says whether the doors exist, `role` is the one that this connection took, `around` whether the login
    could write `orders` without them all the same, `append_only` whether triggers keep the audit table so. `digest` is
    a SHA-256 over the definitions of all of it, None where there is nothing.
    """

    doors: bool
    role: str | None
    around: bool
    append_only: bool
    digest: str | None

    def sentence(self) -> str:
        """For people: whether the database itself held the stage to the approved plan."""
        if not self.doors:
            return "none: this login's rights on orders decide, and recon keeps to the plan by itself"
        more = "; this login could also go around them" if self.around else ""
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
    parts = _definitions(connection)
    role = connection.get_execution_options().get(ROLE)
    return Protection(
        doors=exist(connection),
        role=role,
        around=_goes_around(connection),
        append_only=is_append_only(connection),
        digest=connection.execute(
            sa.select(sa.func.encode(sa.func.sha256(sa.func.convert_to("\n".join(parts), "UTF8")), "hex"))
        ).scalar_one()
        if parts
        else None,
    )


def _goes_around(connection: Connection) -> bool:
    """Whether the login, or any role that it is a member of, may write `orders` itself, be it only in one column."""
    query = sa.text(
        """
        SELECT EXISTS (SELECT FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER')
            AND (has_table_privilege(oid, to_regclass('orders'), 'DELETE, TRUNCATE')
                OR has_any_column_privilege(oid, to_regclass('orders'), 'INSERT, UPDATE')))
        """
    )
    return bool(connection.execute(query).scalar_one())


def _definitions(connection: Connection) -> Sequence[str]:
    """All views, triggers, rules, functions, owners and rights of the doors and the trail, as PostgreSQL tells."""
    query = sa.text(
        r"""
        WITH guarded AS (
            SELECT oid FROM pg_class WHERE oid IN (to_regclass('orders'), to_regclass('reconciliation_backfill_audit'),
                to_regclass('reconciliation_batches')) AND to_regclass('reconciliation_door_insert') IS NOT NULL)
        SELECT 'view ' || relname || ' ' || pg_get_viewdef(oid) || ' ' || coalesce(reloptions::text, '')
            || ' ' || coalesce(relacl::text, '') || ' ' || relowner::regrole::text AS part
        FROM pg_class WHERE relname LIKE 'reconciliation\_door\_%' AND relkind = 'v' AND pg_table_is_visible(oid)
        UNION ALL
        SELECT 'trigger ' || tgname || ' ' || tgenabled::text || ' ' || pg_get_triggerdef(oid)
        FROM pg_trigger WHERE tgname LIKE 'reconciliation\_%' AND NOT tgisinternal
        UNION ALL
        SELECT 'function ' || pg_get_functiondef(oid) || ' ' || coalesce(proacl::text, '')
            || ' ' || proowner::regrole::text
        FROM pg_proc WHERE proname LIKE 'reconciliation\_%' AND pg_function_is_visible(oid) AND prokind = 'f'
        UNION ALL
        SELECT 'rights on ' || relname || ' ' || coalesce(relacl::text, '') || ' ' || relowner::regrole::text
        FROM guarded JOIN pg_class USING (oid)
        UNION ALL
        SELECT 'rights on ' || oid::regclass || ' ' || attname || ' ' || attacl::text
        FROM guarded JOIN pg_attribute ON attrelid = oid WHERE attacl IS NOT NULL AND NOT attisdropped
        UNION ALL
        SELECT 'rule ' || ev_enabled::text || ' ' || pg_get_ruledef(pg_rewrite.oid)
        FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
        WHERE rulename <> '_RETURN' AND (ev_class IN (SELECT oid FROM guarded)
            OR relname LIKE 'reconciliation\_door\_%' AND pg_table_is_visible(ev_class))
        UNION ALL
        SELECT 'owner ' || rolcanlogin || ' ' || coalesce((SELECT string_agg(member::regrole::text, ' '
            ORDER BY member::regrole::text) FROM pg_auth_members WHERE roleid = pg_roles.oid), '')
        FROM pg_roles WHERE rolname = 'recon_owner' AND to_regclass('reconciliation_door_insert') IS NOT NULL
        ORDER BY 1
        """
    )
    return [part for (part,) in connection.execute(query)]
