"""pgbouncer before a test's database, where it is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa


def free_port() -> int:
    """A port on loopback that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _program() -> str:
    named = os.environ.get("RECON_TEST_PGBOUNCER")
    usual = Path("/usr/sbin/pgbouncer")
    program = named or shutil.which("pgbouncer") or (str(usual) if usual.is_file() else None)
    if program is None:
        pytest.skip("no pgbouncer here: install it, or set RECON_TEST_PGBOUNCER")
    return program


@contextmanager
def pgbouncer(
    database_url: str, folder: Path, password: str, *, mode: str = "transaction", connections: int = 1
) -> Iterator[str]:
    """The URL of the database behind pgbouncer, with so many connections to the server for all clients."""
    program = _program()
    url, port = sa.make_url(database_url), free_port()
    place = f"host={url.query['host']} port={url.query['port']} user={url.username}"
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = {place}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        f"unix_socket_dir =\npool_mode = {mode}\ndefault_pool_size = {connections}\n"
    )
    for above in (folder, *folder.parents) if os.geteuid() == 0 else ():
        if above.is_relative_to(folder.parents[1]):
            above.chmod(above.stat().st_mode | 0o055)
    settings.chmod(0o644)
    account = ["-u", "nobody"] if os.geteuid() == 0 else []
    with subprocess.Popen([program, "-q", *account, settings]) as running:
        try:
            _wait_for(port, running)
            yield f"postgresql://anyone:{password}@127.0.0.1:{port}/{url.database}"
        finally:
            running.terminate()


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert running.poll() is None, "pgbouncer ended"
        time.sleep(0.05)
    raise AssertionError("pgbouncer does not listen")
