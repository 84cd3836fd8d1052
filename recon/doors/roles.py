"""`recon init --roles`: every statement that makes the roles, the doors and the triggers, safe to run again.

Whoever runs them is a superuser, or may create roles and owns `orders` and the schema of recon's tables. Nothing is
changed on `orders` itself but who may read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from recon import audit
from recon.database import INSUFFICIENT_PRIVILEGE, sqlstate, whole_message
from recon.doors.append_only import append_only_statements
from recon.doors.made import RECORD, SURPLUS, granted_to
from recon.doors.names import CANCEL, INSERT, LOCK, OWNER, REINSTATE, TRIGGER_FUNCTIONS, WAY_BACK, Role
from recon.doors.sequences import AUDIT, BATCHES, EVENTS, INSERTING, default_sequences
from recon.doors.triggers import guard_statements
from recon.doors.views import CLOCK, door_statements
from recon.errors import ReconError, Refused
from recon.orders import Orders

STAMPS = "updated_at, updated_by"

GRANTS: Mapping[Role, Sequence[str]] = {
    Role.READER: (),
    Role.PLANNER: (
        f"INSERT (batch_id, profile_id, state, created_at, created_by, {STAMPS}) ON {BATCHES}",
        f"UPDATE (state, scope, plan, plan_digest, approval, {STAMPS}) ON {BATCHES}",
        f"INSERT ON {AUDIT}",
        f"INSERT ON {EVENTS}",
    ),
    Role.APPROVER: (f"UPDATE (state, approval, rollback_approval, {STAMPS}) ON {BATCHES}", f"INSERT ON {AUDIT}"),
    Role.APPLIER: (
        f"UPDATE (state, {STAMPS}) ON {BATCHES}",
        f"INSERT ON {AUDIT}",
        f"SELECT, INSERT ON {INSERT}",
        f"SELECT, UPDATE (status, updated_at) ON {REINSTATE}",
        f"TRUNCATE ON {LOCK}",
        f"EXECUTE ON FUNCTION {WAY_BACK}(text, text)",
    ),
    Role.UNDOER: (
        f"UPDATE (state, {STAMPS}) ON {BATCHES}",
        f"UPDATE (reverted_at) ON {AUDIT}",
        f"SELECT, UPDATE (status, updated_at) ON {CANCEL}",
        f"TRUNCATE ON {LOCK}",
    ),
}
"""What each role may do beside reading. TRUNCATE on a view lets nobody truncate: it is what LOCK TABLE asks for."""


def role_statements(connection: Connection, clock: str = CLOCK) -> list[str]:
    """All statements for this database, recon's own tables included; reads only.

    Raises `Refused` (orders_unsuitable, owner_granted).
    """
    _check_owner(connection)
    orders = Orders.reflect(connection)
    quote = connection.dialect.identifier_preparer.quote
    own, theirs = (quote(name) for name in _schemas(connection))
    read = f"GRANT SELECT ON {{}} TO {', '.join([*Role, OWNER])}"
    return [
        *(f"DO $$ BEGIN CREATE ROLE {name} NOLOGIN; {_EXISTS} END $$" for name in (*Role, OWNER)),
        *(_no_login(name) for name in (*Role, OWNER)),
        *audit.ddl(connection),
        f"GRANT {OWNER} TO CURRENT_USER",
        f"GRANT USAGE ON SCHEMA {', '.join(sorted({own, theirs}))} TO {', '.join([*Role, OWNER])}",
        f"GRANT CREATE ON SCHEMA {own} TO {OWNER}",
        *(f"ALTER TABLE {name} OWNER TO {OWNER}" for name in (AUDIT, BATCHES, EVENTS)),
        SURPLUS,
        f"GRANT SELECT, INSERT, UPDATE ON orders TO {OWNER}",
        *door_statements(orders, theirs, clock),
        f"REVOKE ALL ON FUNCTION {WAY_BACK}(text, text) FROM PUBLIC",
        *append_only_statements(),
        *guard_statements(own, f"{theirs}.orders", clock),
        *(f"ALTER FUNCTION {name} OWNER TO {OWNER}" for name in (f"{WAY_BACK}(text, text)", *TRIGGER_FUNCTIONS)),
        *(read.format(table) for table in ("orders", AUDIT, BATCHES, EVENTS)),
        *(f"GRANT {right} TO {role}" for role, rights in GRANTS.items() for right in rights),
        *(
            f"GRANT USAGE ON SEQUENCE {name} TO {', '.join(roles)}"
            for table, roles in INSERTING.items()
            for name in default_sequences(connection, table)
        ),
        RECORD,
        f"REVOKE CREATE ON SCHEMA {own} FROM {OWNER}",
        f"REVOKE {OWNER} FROM CURRENT_USER",
    ]


_EXISTS = "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;"


def _no_login(role: str) -> str:
    found = f"SELECT FROM pg_roles WHERE rolname = '{role}' AND rolcanlogin"
    return f"DO $$ BEGIN IF EXISTS ({found}) THEN ALTER ROLE {role} NOLOGIN; END IF; END $$"


def _check_owner(connection: Connection) -> None:
    """Nobody may be recon_owner but who runs this; superusers, and who may only grant it, are let be."""
    me = connection.execute(sa.text("SELECT quote_ident(current_user)")).scalar_one()
    if members := [name for name in granted_to(connection) if name != me]:
        named = ", ".join(members)
        raise Refused(
            "owner_granted",
            f"Expected {OWNER}, which owns the doors, to be granted to nobody; found it granted to {named}. Run "
            f"`REVOKE {OWNER} FROM {named}`, then run again.",
        )


def role_script(connection: Connection) -> list[str]:
    """`role_statements` as one transaction for psql, under a comment that says what it is for; reads only.

    psql needs ON_ERROR_STOP to tell by its exit status that it failed. The script takes the search path of this
    connection with it, and so the same tables. Raises what `role_statements` raises.
    """
    statements = role_statements(connection)
    own, theirs = _schemas(connection)
    query = sa.text("SELECT current_database()::text, current_setting('search_path')")
    database, path = connection.execute(query).one()
    about = f"table {theirs}.orders, with recon's own tables in schema {own}, of database {database}"
    return [
        f"-- recon {version('recon')}: the roles and doors for {about}",
        "BEGIN",
        f"SET LOCAL search_path TO {path}",
        *statements,
        "COMMIT",
    ]


def create_doors(connection: Connection, clock: str = CLOCK) -> list[str]:
    """Run `role_statements`; writes DDL, returns what was run.

    Raises what they raise, and `ReconError` (privileges_missing) when this user may not make the roles or the doors.
    """
    statements = role_statements(connection, clock)
    user, lacking = _lacking(connection)
    try:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except DBAPIError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        without = f" without {', '.join(lacking)}" if lacking else ""
        raise ReconError(
            "privileges_missing",
            "Expected a superuser, or a user that may create and grant the roles and owns orders and its schema; found "
            f"{user}{without}. The server says: {whole_message(error)}. Nothing was changed. Give a DBA what `recon "
            "init --roles --print` prints.",
        ) from error
    return statements


def _lacking(connection: Connection) -> tuple[str, list[str]]:
    """The current user, and which of the rights that a superuser has anyway it lacks; reads only."""
    query = sa.text(
        """
        SELECT current_user::text, rolsuper OR rolcreaterole, pg_has_role(relowner, 'USAGE'),
            pg_has_role(nspowner, 'USAGE')
        FROM pg_roles, pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE rolname = current_user AND pg_class.oid = to_regclass('orders')
        """
    )
    user, *rights = connection.execute(query).one()
    named = ("CREATEROLE", "the ownership of orders", "the ownership of its schema")
    return user, [name for name, right in zip(named, rights, strict=True) if not right]


def _schemas(connection: Connection) -> tuple[str, str]:
    """The schema of recon's tables, and that of `orders`."""
    query = sa.text(
        """
        SELECT coalesce((SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_class.oid = to_regclass('reconciliation_batches')), current_schema()::text),
            (SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_class.oid = to_regclass('orders'))
        """
    )
    own, theirs = connection.execute(query).one()
    return own, theirs
