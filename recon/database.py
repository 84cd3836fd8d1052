"""Connections: made for transaction poolers, UTC everywhere, no secret in any text.

Behind pgbouncer or Supabase's pooler nothing of a session outlives its transaction, so everything is set with
SET LOCAL, nothing is prepared on the server and no connection is kept (rules.md 10).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.pool import NullPool

from recon.errors import ReconError, Refused, UsageError

CHECK_OPTION_VIOLATED = "44000"
LOCK_NOT_AVAILABLE, QUERY_CANCELED = "55P03", "57014"
INSUFFICIENT_PRIVILEGE = "42501"
UNDEFINED_TABLE, UNDEFINED_COLUMN = "42P01", "42703"

MALFORMED = re.compile(r'invalid (\w+) (?:number|value): |invalid integer value ".*" for connection option "(\w+)"')
"""What libpq says of a connection option before it asks anybody; the value might be a secret."""

TURNED_AWAY = re.compile("failed: FATAL: |no password supplied")
"""What libpq says when a server answered and let nobody in; it passes on no SQLSTATE then."""


ROLE = "recon_role"
"""The execution option that names the role which each transaction takes for itself (rules.md 14)."""


def connect(url: str) -> Engine:
    """An engine for any `postgres://`, `postgresql://` or `postgresql+psycopg://` URL; opens no connection yet.

    Raises `UsageError` (database_url_invalid), which does not repeat the URL.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername.split("+")[0] not in ("postgres", "postgresql"):
        raise UsageError(
            "database_url_invalid",
            "RECON_DATABASE_URL is not a PostgreSQL URL; expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        )
    if "@" in f"{parsed.host}{parsed.database}" or "password=" in (parsed.password or ""):
        raise UsageError(
            "database_url_invalid",
            "RECON_DATABASE_URL has an @ too many: part of the password would be taken for the host. Write @ as %40 "
            "and / as %2F in the user, the password and the options.",
        )
    try:
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            connect_args={"prepare_threshold": None, "application_name": "recon", "connect_timeout": 10},
        )
        sa.event.listen(engine, "handle_error", _mark_lost)
        _, options = engine.dialect.create_connect_args(engine.url)
        make_conninfo(**{name: value for name, value in options.items() if name != "context"})
    except (ArgumentError, psycopg.ProgrammingError):
        raise UsageError(
            "database_url_invalid",
            "RECON_DATABASE_URL has an option that PostgreSQL's library does not know, or a port that is no number. "
            "Leave out parameters of other clients, such as pgbouncer=true.",
        ) from None
    return engine


def _mark_lost(context: ExceptionContext) -> None:
    """An error that no server sent ends the connection: used again it would fail once more, and noisily."""
    error = context.original_exception
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        context.is_disconnect = True


def shown_url(url: URL) -> str:
    """Host, port and database of a URL for people: no user, no password, no options."""
    host = url.host or url.query.get("host") or "local socket"
    place = "local socket" if str(host).startswith("/") else f"{host}:{url.port or 5432}"
    return f"{place}/{url.database}"


@contextmanager
def transaction(engine: Engine, *, read_only: bool = False, snapshot: bool = False) -> Iterator[Connection]:
    """One transaction with recon's own settings, committed at the end unless the block raises.

    `read_only` and `snapshot` (REPEATABLE READ) hold for the transaction alone. Driver errors become
    `ReconError`s without parameters or secrets; see `explain`.
    """
    level = "REPEATABLE READ" if snapshot else "READ COMMITTED"
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level=level, postgresql_readonly=read_only)
            with connection.begin():
                prepare(connection)
                yield connection
    except DBAPIError as error:
        raise explain(error) from error


def prepare(connection: Connection) -> None:
    """Set, for this transaction alone, how values are written as text, how long anything may take, and the role."""
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "iso_8601",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "quote_all_identifiers": "off",
        "lock_timeout": "10s",
        "statement_timeout": "300s",
        "idle_in_transaction_session_timeout": "300s",
    }
    if role := connection.get_execution_options().get(ROLE):
        settings["role"] = role
    every = (sa.func.set_config(name, value, True) for name, value in settings.items())
    connection.execute(sa.select(sa.func.set_config("search_path", _own_path(), True), *every))


def _own_path() -> sa.ScalarSelect[str]:
    """The search path that this login began with, before any client of a pooler changed it for the session.

    Temporary tables come last, whoever left them there; `"$user"` stays the login when a role is taken.
    """
    return (
        sa.text(
            """
        SELECT replace(reset_val, '"$user"', quote_ident(session_user)) || CASE reset_val WHEN '' THEN '' ELSE ', ' END
            || 'pg_temp' FROM pg_settings WHERE name = 'search_path'
        """
        )
        .columns(sa.column("path", sa.Text))
        .scalar_subquery()
    )


def explain(error: DBAPIError) -> ReconError:
    """The error for people: SQLSTATE and the server's own sentence, never the statement's parameters."""
    state = sqlstate(error)
    said = first_line(error)
    if state == LOCK_NOT_AVAILABLE:
        return Refused(
            "orders_locked",
            f"A lock, most likely that on orders, was not granted in time ({said}). Nothing was written; find who "
            "holds it in pg_locks, then run again.",
        )
    if state == QUERY_CANCELED:
        return Refused(
            "statement_timeout", f"A statement took too long and was canceled ({said}). Nothing was written."
        )
    if state == CHECK_OPTION_VIOLATED or (_rule(error) or "").startswith("reconciliation_"):
        return Refused(
            "door_closed",
            f"The database itself refused what no approved plan allows: {said}. Nothing was written. If the plan is "
            "approved and not expired, find out what changed the row on its way (a trigger?), or run `recon doctor`.",
        )
    if state is None and (found := MALFORMED.search(said)):
        option = found[1] or found[2]
        return UsageError("database_url_invalid", f"RECON_DATABASE_URL has a malformed {option}. Correct it.")
    if state is None and isinstance(error, DataError):
        return Refused("unreadable_value", f"A value cannot be read or sent ({said}). Correct it, then run again.")
    if (state or "")[:2] == "28" or (state is None and TURNED_AWAY.search(said)):
        return ReconError(
            "database_unreachable",
            f"The database answered, but refused the login ({said}). Check user, password and database in "
            "RECON_DATABASE_URL, and whom the server lets in.",
        )
    if error.connection_invalidated or state is None or state[:2] in ("08", "57", "53"):
        return ReconError(
            "database_unreachable",
            f"The database did not answer or closed the connection ({said}). Check RECON_DATABASE_URL, the server "
            "and the network, then run again.",
        )
    return ReconError("database_error", f"The database refused a statement: {said} (SQLSTATE {state}).")


def sqlstate(error: DBAPIError) -> str | None:
    """The five-character code of a driver error, None when the server sent none."""
    return getattr(error.orig, "sqlstate", None)


def _rule(error: DBAPIError) -> str | None:
    """The rule that one of recon's triggers names as a constraint, without a table, which a constraint proper has."""
    told = getattr(error.orig, "diag", None)
    return None if told is None or told.table_name else told.constraint_name


def is_passing(error: DBAPIError) -> bool:
    """Whether it says nothing of the statement itself: a lost connection, a time-out, an operator, a full server."""
    state = sqlstate(error)
    return error.connection_invalidated or (state or "08")[:2] in ("08", "53", "57") or state == LOCK_NOT_AVAILABLE


def first_line(error: DBAPIError) -> str:
    """The first line of the driver's own message: the server's sentence, without the statement."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def whole_message(error: DBAPIError) -> str:
    """The server's sentence with its detail, in one line."""
    told = getattr(error.orig, "diag", None)
    detail = told.message_detail if told else None
    return "; ".join(part.rstrip(".") for part in (first_line(error), detail) if part)


def server_clock(connection: Connection) -> datetime:
    """The server's clock now, not the transaction's start: two appliers in a row never share an instant."""
    now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)
