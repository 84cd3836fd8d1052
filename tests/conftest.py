"""Real PostgreSQL servers, fresh databases, and the replay data."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import bystanders
import pytest
import sqlalchemy as sa
from console import Place
from hypothesis import HealthCheck, settings
from incidents import Incident, an_incident, empty, patience, pause_switch
from signers import Keys, make_keys

from recon.database import connect
from recon.embedded import EmbeddedServer, start
from recon.embedded_watch import open_lock, try_lock

Servers = Callable[[str], EmbeddedServer]

# The same examples every time, however long they take: neither chance nor the machine decides how a test ends.
settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def pytest_configure() -> None:
    """Let signals be heard: a background job ignores Ctrl-C, one under nohup SIGHUP, and so would what it starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def other_rows_unchanged(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no row that recon did not write has changed, but by the test's own backend.

    A test whose other connections stand for the backend says so, with `@pytest.mark.other_rows_change("why")`.
    """
    yield
    found = bystanders.changes()
    excuse = request.node.get_closest_marker("other_rows_change")
    assert not found or (excuse is not None and excuse.args[0]), found


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """Every stage run here waits for the pause switch as long as a slow machine needs; `test_pause` has the limits."""
    with patience():
        yield


def postgresql_15() -> Path | None:
    """The folder of a PostgreSQL 15's programs: RECON_TEST_PG_BIN (any version), else the system's."""
    named = os.environ.get("RECON_TEST_PG_BIN")
    if named:
        return Path(named)
    found = shutil.which("postgres")
    candidates = [*Path("/usr/lib/postgresql").glob("*/bin"), *([Path(found).parent] if found else [])]
    return next((folder for folder in candidates if _is_version_15(folder / "postgres")), None)


def _is_version_15(program: Path) -> bool:
    if not program.is_file():
        return False
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\(PostgreSQL\) 15\b", said) is not None


@pytest.fixture(scope="session")
def bin_dirs() -> dict[str, Path | None]:
    """Where the programs of each version are; None means the wheel's."""
    return {"pg18": None, "pg15": postgresql_15()}


@pytest.fixture(scope="session")
def wait_until_stopped() -> Callable[[Path], None]:
    """Waits until the server that lives in a folder has stopped and its watcher is gone."""

    def wait(folder: Path, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        descriptor = open_lock(folder / "watcher.lock")
        try:
            while not try_lock(descriptor, shared=True):
                assert time.monotonic() < deadline, f"the server in {folder} still runs after {seconds} s"
                time.sleep(0.02)
        finally:
            os.close(descriptor)

    return wait


@pytest.fixture(scope="session")
def servers(
    tmp_path_factory: pytest.TempPathFactory,
    bin_dirs: dict[str, Path | None],
    wait_until_stopped: Callable[[Path], None],
) -> Iterator[Servers]:
    """Starts a version's server when it is first asked for; all are stopped and deleted at the end."""
    home = tmp_path_factory.mktemp("recon-home")
    started: dict[str, EmbeddedServer] = {}

    def get(version: str) -> EmbeddedServer:
        if version == "pg15" and bin_dirs[version] is None:
            pytest.skip("no PostgreSQL 15 here: install postgresql-15, or set RECON_TEST_PG_BIN")
        if version not in started:
            started[version] = start(home, bin_dir=bin_dirs[version])
        return started[version]

    yield get
    for server in started.values():
        server.close()
        wait_until_stopped(server.folder)
        shutil.rmtree(server.folder)


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory, wait_until_stopped: Callable[[Path], None]) -> Iterator[Path]:
    """A RECON_HOME of its own for what runs on the embedded demo; its server is up, and is deleted at the end."""
    home = tmp_path_factory.mktemp("demo-home")
    server = start(home)
    yield home
    server.close()
    wait_until_stopped(server.folder)
    shutil.rmtree(server.folder)


@pytest.fixture(params=["pg18", "pg15"])
def server(request: pytest.FixtureRequest, servers: Servers) -> EmbeddedServer:
    """A running server of each version."""
    return servers(request.param)


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """The URL of a fresh, empty database on PostgreSQL 18."""
    yield from _fresh_database(servers("pg18"))


@pytest.fixture
def database_url_each_version(server: EmbeddedServer) -> Iterator[str]:
    """The same on each version; the test runs once per version."""
    yield from _fresh_database(server)


def _fresh_database(server: EmbeddedServer) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(scope="session")
def standing(servers: Servers) -> Callable[[str], sa.Engine]:
    """One database of each version that incidents use one after the other, empty each time: faster than fresh ones."""
    engines: dict[str, sa.Engine] = {}

    def get(version: str) -> sa.Engine:
        server = servers(version)
        if version not in engines:
            server.create_database("incidents")
            engines[version] = connect(server.url("incidents"))
        empty(engines[version])
        return engines[version]

    return get


@pytest.fixture
def incident(standing: Callable[[str], sa.Engine], tmp_path: Path) -> Iterator[Incident]:
    """An incident on an empty database of PostgreSQL 18; see `incidents.py`."""
    with an_incident(standing("pg18"), tmp_path) as made:
        yield made


@pytest.fixture(params=["pg18", "pg15"])
def incident_each_version(
    request: pytest.FixtureRequest, standing: Callable[[str], sa.Engine], tmp_path: Path
) -> Iterator[Incident]:
    """The same on each version."""
    with an_incident(standing(request.param), tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def place(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A configured installation for the tests of the command line, on PostgreSQL 18."""
    servers("pg18").create_database("place")
    with pause_switch() as switch:
        yield Place(servers("pg18").url("place"), tmp_path_factory.mktemp("place"), switch)


@pytest.fixture(scope="session")
def replay() -> Path:
    """The folder of real account fills that lies beside the project, where it does."""
    folder = Path(__file__).parents[2] / "shared" / "replay"
    if not folder.is_dir():
        pytest.skip("no ../shared/replay beside the project")
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Fresh keys of those who may sign, and of one who may not."""
    return make_keys(tmp_path / "keys")
