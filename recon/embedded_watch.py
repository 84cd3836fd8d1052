"""The process beside an embedded PostgreSQL: starts it, waits until nobody uses it, stops it and ends.

`recon.embedded` runs this file as a script, by its path and with nothing but the standard library and psutil, so
that it stands within a tenth of a second. It belongs to no terminal, outlives whoever started it, and writes
to the server's log. Its life is the server's: one watcher lives while the server does, unless it was killed;
the next user then starts another one, which takes the running server over.

Three locks say who is there. All are `flock`s, which the kernel releases however a process ends:

* `users.lock` is shared by every user; a watcher holds it alone while it stops the server.
* `watcher.lock` is held by the one watcher.
* `start.lock` is held by a user while it sees to it that server and watcher run.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import psutil

SUPERUSER = "recon"
"""The database role that owns the cluster."""

PORT = 5432
"""A part of the socket's name; no TCP port is ever opened."""

SOCKET_NAME = f".s.PGSQL.{PORT}"
"""What PostgreSQL calls its socket."""

POLL_SECONDS = 0.1
"""How often the watcher looks whether a user or the server is left."""

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "max_connections": "60",
    "shared_buffers": "32MB",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@dataclass(frozen=True)
class Place:
    """Where one server lives: its folder, the folder of its socket, and the folder of PostgreSQL's programs."""

    folder: Path
    sockets: Path
    programs: Path

    @property
    def data(self) -> Path:
        """The data directory; there only once initdb has finished."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What PostgreSQL and the watcher have to say."""
        return self.folder / "server.log"

    @property
    def users_lock(self) -> Path:
        """Shared by every user of the server."""
        return self.folder / "users.lock"

    @property
    def watcher_lock(self) -> Path:
        """Held by the watcher."""
        return self.folder / "watcher.lock"

    @property
    def start_lock(self) -> Path:
        """Held while a user sees to it that the server runs."""
        return self.folder / "start.lock"


class ServerAccount(TypedDict, total=False):
    """The arguments of `subprocess` that make a program run as the account that PostgreSQL runs as."""

    user: int
    group: int
    extra_groups: list[int]


def server_account() -> ServerAccount:
    """Empty for a normal user; `nobody` for root, as whom PostgreSQL refuses to run.

    Raises `KeyError` where no account has that name.
    """
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def open_lock(path: Path) -> int:
    """A descriptor of the lock file, which is made when missing; programs started later do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Whether the lock could be had at once; it is then held until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def running(place: Place) -> psutil.Process | None:
    """The postmaster of this data directory, or None when `postmaster.pid` is absent or names another process."""
    try:
        pid = int((place.data / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
        process = psutil.Process(pid)
        return process if str(place.data) in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _initialise(place: Place) -> None:
    """Make the data directory whole under another name, then give it its own; a killed attempt leaves no half."""
    fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=place.folder))
    account = server_account()
    if account:
        os.chown(fresh, account["user"], account["group"])
    options = [f"--username={SUPERUSER}", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]
    command = [str(place.programs / "initdb"), *options, "--no-instructions", str(fresh)]
    subprocess.run(command, check=True, env=_environment(), **account)
    fresh.rename(place.data)
    for abandoned in place.folder.glob("initdb-*"):
        shutil.rmtree(abandoned, ignore_errors=True)


def _launch(place: Place) -> psutil.Process:
    """Start PostgreSQL. Only called where `running` found none, so a pid file or socket still there is stale."""
    if not place.data.exists():
        _initialise(place)
    for stale in (place.data / "postmaster.pid", *place.sockets.iterdir()):
        stale.unlink(missing_ok=True)
    settings = {**_SETTINGS, "unix_socket_directories": str(place.sockets)}
    options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    command = [str(place.programs / "postgres"), "-D", str(place.data), *options]
    return psutil.Popen(command, env=_environment(), start_new_session=True, umask=0o077, **server_account())


def _stop(server: psutil.Process) -> None:
    """PostgreSQL's fast shutdown and, should that not end it, its immediate one; both keep every committed row."""
    for number, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10)):
        if _alive(server):
            server.send_signal(number)
        deadline = time.monotonic() + seconds
        while _alive(server) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 10)


def _watch(place: Place) -> None:
    server = running(place) or _launch(place)
    users = open_lock(place.users_lock)
    while not try_lock(users):
        if not _alive(server):
            return
        time.sleep(POLL_SECONDS)
    _stop(server)


def main(folder: str, sockets: str, programs: str) -> None:
    """Take the watcher's lock, let the caller go on, and watch; ends at once where another watcher lives."""
    place = Place(Path(folder), Path(sockets), Path(programs))
    if not try_lock(open_lock(place.watcher_lock)):
        return
    if os.fork():
        os._exit(0)
    try:
        _watch(place)
    except (OSError, subprocess.CalledProcessError, psutil.Error) as error:
        sys.exit(f"the watcher gave up: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
