"""Whether a pooler stands between recon and the server. Reads only, and leaves nothing in any session.

At login a server announces the process that will serve the connection; a pooler announces a number of its own. And
while two connections are open, only a transaction pooler serves both by one process.
"""

from __future__ import annotations

import select
from contextlib import closing
from typing import cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from recon.database import explain
from recon.domain import Check

PATIENCE = 3.0
"""Seconds that a second connection may wait for a session of its own."""

_PID = "SELECT pg_backend_pid()"


def pooler(engine: Engine) -> Check:
    """What stands in between, as far as it can be seen; recon works through either mode."""
    try:
        return Check("pooler", True, _seen(engine))
    except DBAPIError as error:
        said = explain(error)
        return Check("pooler", False, f"{said.code}: {said.message}")


def _seen(engine: Engine) -> str:
    with engine.connect() as connection:
        mine = _process(connection)
        if _announced(connection) == mine:
            return "no pooler seen: the server itself answered the login (one that hides cannot be excluded)"
        other = _another_process(engine)
        again = _process(connection)
    if other == mine or again != mine:
        return "one in transaction mode stands in between; recon keeps nothing between transactions, so that is fine"
    found = "a second connection had to wait" if other is None else "each of two connections had its own session"
    return f"one stands in between, not seen in transaction mode: {found}; recon works through either"


def _process(connection: Connection) -> int:
    """The server's process that serves this one transaction."""
    with connection.begin():
        number: int = connection.execute(sa.text(_PID)).scalar_one()
    return number


def _announced(connection: Connection) -> int:
    driver = cast("psycopg.Connection", connection.connection.dbapi_connection)
    return driver.info.backend_pid


def _another_process(engine: Engine) -> int | None:
    """The process that serves a second connection beside the first; None when it got none in time."""
    connection = engine.raw_connection()
    driver = cast("psycopg.Connection", connection.dbapi_connection)
    connection.detach()  # to be closed without a ROLLBACK, which would have to wait as well
    with closing(driver):
        driver.pgconn.send_query(_PID.encode())
        if not select.select([driver.pgconn.socket], [], [], PATIENCE)[0]:
            return None
        answer = driver.pgconn.get_result()
        value = answer.get_value(0, 0) if answer else None
        return int(value) if value else None
