"""Every row that recon did not write, watched: a test ends with exactly the rows that its backend left there.

Each incident's backend connection is listened to. What it commits is what the rows are expected to be from then on;
whatever else changed them is found when the backend next begins a transaction, and at the end of the test.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event

DIGEST = """
SELECT count(*) || ':' || coalesce(md5(string_agg(o::text, E'\\n' ORDER BY o::text COLLATE "C")), '')
FROM orders AS o WHERE order_id::text NOT LIKE 'BFILL-%'"""

OPTIONS = """-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=iso_8601 -c extra_float_digits=1 -c bytea_output=hex
 -c default_transaction_isolation=read\\ committed -c lock_timeout=100ms""".replace("\n", "")
"""So that a row always has the same text, and a table that is locked is not waited for."""

_watches: dict[str, Watch] = {}
_changed: list[str] = []


class Watch:
    """The rows of one database that are not recon's, of every profile; `expected` is None until the backend wrote."""

    def __init__(self, url: sa.URL) -> None:
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.Connection[Any] | None = None
        self._guard = threading.RLock()
        self._expected: str | None = None

    def listen(self, backend: sa.Engine) -> None:
        """From now on this engine is the backend, or one of several."""
        event.listen(backend, "begin", lambda _: self.check())
        commit = backend.dialect.do_commit

        def do_commit(connection: Any) -> None:
            wrote = _has_written(connection)
            with self._guard:
                commit(connection)
                if wrote:
                    self._expected = self._digest()

        backend.dialect.do_commit = do_commit  # type: ignore[method-assign]

    def check(self) -> None:
        """Remember it if the rows are not as the backend left them."""
        with self._guard:
            found = self._digest() if self._expected is not None else None
            if found is not None and self._expected is not None and found != self._expected:
                _changed.append(f"rows that recon did not write were {self._expected}, are {found}")
                self._expected = found

    def close(self) -> None:
        """Look no more."""
        with self._guard:
            self._expected = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _digest(self) -> str | None:
        """None where nobody can tell: there is no such table, or it is locked."""
        for _ in range(2):  # the connection may have been ended since
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self._url, autocommit=True, options=OPTIONS)
                    self._connection.prepare_threshold = None
                row = self._connection.execute(DIGEST).fetchone()
                return row[0] if row else None
            except psycopg.OperationalError:
                if self._connection is not None:
                    self._connection.close()
            except psycopg.Error:
                return None
        return None


def _has_written(connection: Any) -> bool:
    """Whether the transaction that is about to be committed has written anything, the catalogue included."""
    with contextlib.suppress(psycopg.Error), connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        return bool(cursor.fetchone()[0])
    return True


def watch(backend: sa.Engine) -> None:
    """Watch a database, which only `backend` and its like may change but for recon's own rows."""
    key = backend.url.render_as_string(hide_password=False)
    if key not in _watches:
        _watches[key] = Watch(backend.url)
    _watches[key].listen(backend)


def leave(backend: sa.Engine) -> None:
    """Look a last time: the database goes, or is used for something else."""
    made = _watches.pop(backend.url.render_as_string(hide_password=False), None)
    if made is not None:
        made.check()
        made.close()


def forget(backend: sa.Engine) -> None:
    """Do not look at this database: whoever uses it looks at the rows himself."""
    made = _watches.get(backend.url.render_as_string(hide_password=False))
    if made is not None:
        made.close()
        made.check = lambda: None  # type: ignore[method-assign]
        made._digest = lambda: None  # type: ignore[method-assign]


def changes() -> list[str]:
    """What changed that should not have, since this was last asked."""
    for made in _watches.values():
        made.check()
    found = list(_changed)
    _changed.clear()
    return found
