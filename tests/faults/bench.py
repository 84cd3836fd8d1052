"""The small incident on which every fault strikes, on a database that is as it was within a moment.

Three trades: one that a fill explains, one with dust beside its fill, one whose row was rolled back and is reinstated.
Beside them a trade that stays open, closed ones, and another profile with a repair of its own. Everything that is said
of the database here is asked in plain SQL.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import bystanders
import psycopg
import sqlalchemy as sa
from console import CLOSED, OPENED
from incidents import HookedStatement, Incident, PauseSwitch, patience, pause_switch, workspace

from recon.database import connect
from recon.domain import Decision, Stage, StageResult, Verdict
from recon.embedded import EmbeddedServer, start
from recon.embedded_watch import open_lock, try_lock
from recon.errors import ReconError
from recon.incident import run_stage
from recon.plan import Scope
from recon.settings import Settings
from recon.stages.approve import approve
from recon.workspace import Workspace

T = TypeVar("T")

OTHER_REPAIR, EARLIER, BATCH, SECOND = "theirs", "earlier", "incident-1", "incident-2"
OPEN_TRADE = "t4"
LATE_FLUSHES = {"wal_writer_delay": "10s", "bgwriter_lru_maxpages": "0"}
"""Settings of the server under which a crash loses whatever a COMMIT does not hold, on a slow machine too."""
STATUS_ATTEMPTS = 240
"""How often a stage on a ground asks what became of its COMMIT: for a minute, however long a server recovers."""
WRITES = 4
"""Rows that the batch writes: the fill of t1, fill and dust of t2, t3 reinstated."""

ROW = "(to_jsonb({0}) - 'created_at' - 'updated_at' - 'reverted_at'{1})::text"
AUDITED = f"""(SELECT string_agg(row, ',' ORDER BY row COLLATE "C") FROM (
    SELECT {ROW} || (reverted_at IS NULL) AS row FROM reconciliation_backfill_audit AS a WHERE {{2}}) AS rows)"""
STANDS = f"""
SELECT (SELECT string_agg({ROW.format("o", "")}, ',' ORDER BY order_id) FROM orders AS o
        WHERE order_id LIKE 'BFILL-%'),
       {AUDITED.format("a", "", "decision <> 'SKIP_EXISTING'")},
       {AUDITED.format("a", " - 'plan_digest'", "decision = 'APPLIED'")},
       (SELECT string_agg(batch_id || '=' || state, ' ' ORDER BY batch_id) FROM reconciliation_batches),
       (SELECT md5(string_agg(o::text, ',' ORDER BY o::text COLLATE "C")) FROM orders AS o
        WHERE order_id NOT LIKE 'BFILL-%')"""
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recon'"
OTHERS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
OVER_CLOSED = """
SELECT string_agg(trade_id, ', ') FROM (
    SELECT trade_id FROM orders WHERE status IN ('filled', 'partially_filled') GROUP BY profile_id, symbol, trade_id
    HAVING sum(CASE action WHEN 'ENTRY' THEN quantity ELSE -quantity END) < 0) AS t"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database holds, in one snapshot and without the times of writing: texts that can be compared."""

    rows: str | None
    audit: str | None
    applied: str | None
    states: str
    bystanders: str

    def state(self, batch: str) -> str:
        """The batch's state, empty when there is no such batch."""
        return dict(word.split("=") for word in (self.states or "").split()).get(batch, "")

    @property
    def outcome(self) -> tuple[str | None, str | None, str]:
        """Rows, ownership and bystanders: what counts in the end, whichever way led there."""
        return self.rows, self.applied, self.bystanders


@dataclass(frozen=True, slots=True)
class Said:
    """What a person was told; a process that was killed said nothing (`verdict` None)."""

    verdict: str | None = None
    code: str | None = None
    text: str = ""

    @classmethod
    def by(cls, result: StageResult) -> Said:
        """What a result says."""
        return cls(result.verdict.value, result.code, f"{result.message or ''} {result.counts}")


class Bench:
    """One database, taken back by `rewind` to just before `stage`; `before` and `after` are how it stands then and
    after an undisturbed run."""

    def __init__(
        self,
        server: EmbeddedServer,
        home: Path,
        folder: Path,
        switch: PauseSwitch,
        stage: Stage,
        *,
        doors: bool = False,
    ) -> None:
        self.server, self.home, self.folder, self.switch, self.stage = server, home, folder, switch, stage
        self.name = f"bench_{uuid.uuid4().hex[:12]}"
        self.url = server.url(self.name)
        """For the harness: the owner of everything."""
        self.recon_url = self.url
        """For recon, whose rights may be fewer."""
        self._asking: psycopg.Connection[Any] | None = None
        self.known: dict[Standing, str] = {}
        """Whether a run converges from where the database stands; see `judge.converges`."""
        server.create_database(self.name)
        self.incident = Incident(self.url, folder / self.name, switch)
        bystanders.forget(self.incident.backend)  # every case looks at them
        small_incident(self.incident, doors=doors)
        self.fills = list(self.incident.fills)
        if stage is Stage.ROLLBACK:
            assert self.run(Stage.APPLY).verdict is Verdict.DONE
        self._administer(f"CREATE DATABASE {self.name}_kept TEMPLATE {self.name}")
        self.before = self.stands()
        self.done = self.run(stage)
        assert self.done.verdict is Verdict.DONE, self.done
        self.after = self.stands()
        self.rewind()
        assert self.stands() == self.before

    def rewind(self) -> None:
        """Everything as it was: the database, the statement, the switch."""
        self.hang_up()
        self._administer(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        self._administer(f"CREATE DATABASE {self.name} TEMPLATE {self.name}_kept")
        self.switch.word, self.switch.script = "PAUSED", []
        if self.incident.fills != self.fills:
            self.incident.fills = list(self.fills)
            self.incident.write_statement()

    def drop(self) -> None:
        """Leave nothing on the server."""
        self.hang_up()
        for name in (self.name, f"{self.name}_kept"):
            self._administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    # Recon's side

    def work(self, engine: sa.Engine | None = None, **scope: tuple[str, ...]) -> Workspace:
        """A workspace by URL, on the server's clock."""
        exchange = HookedStatement(str(self.incident.folder))
        return workspace(engine or connect(self.recon_url), exchange, self.switch.url, None, Scope(**scope))

    def run(self, stage: Stage | None = None, engine: sa.Engine | None = None, batch: str = BATCH) -> StageResult:
        """Run a stage of the batch."""
        return run_stage(self.work(engine), stage or self.stage, "main", batch)

    def plan(self, batch: str = BATCH, **scope: tuple[str, ...]) -> str:
        """Detect, dry-run, approve; the code of a refusal, if there was one."""
        work = self.work(**scope)
        for stage in (Stage.DETECT, Stage.DRY_RUN):
            result = run_stage(work, stage, "main", batch)
            if result.code:
                return result.code
        return self.approve(batch, result)

    def approve(self, batch: str, planned: StageResult) -> str:
        """Approve a plan, with every NO_GO acknowledged; the code of a refusal, if there was one."""
        against = {item.trade_id for item in planned.items if item.decision is Decision.NO_GO}
        try:
            approve(self.work(), batch, "a reviewer", [f"{trade}=seen" for trade in sorted(against)])
        except ReconError as error:
            return error.code
        return ""

    def settings(self) -> Settings:
        """What the command line would have read."""
        given: dict[str, Any] = {
            "recon_database_url": self.recon_url, "recon_exchange": f"statement:{self.incident.folder}",
            "recon_trading_status_url": self.switch.url, "recon_actor": "tester",
        }  # fmt: skip
        return Settings(_env_file=None, **given)  # type: ignore[call-arg]

    # What is there

    def ask(self, query: str) -> list[Any]:
        """The rows of a query in a transaction of its own; waits while the server recovers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if self._asking is None or self._asking.closed:
                    self._asking = psycopg.connect(plain(self.url), autocommit=True, prepare_threshold=None)
                return self._asking.execute(query).fetchall()
            except psycopg.OperationalError:
                self.hang_up()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def ask_nothing(self, statement: str) -> None:
        """Run a statement that gives no rows, as the database's owner."""
        with psycopg.connect(plain(self.url), autocommit=True) as connection:
            connection.execute(statement)

    def hang_up(self) -> None:
        """Give the asking connection back."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    def stands(self) -> Standing:
        """How the database stands once no server process of recon is left: one that lost its client goes on for a
        moment."""
        deadline = time.monotonic() + 60
        while self.ask(SESSIONS):
            assert time.monotonic() < deadline, "a server process of recon is still there"
            time.sleep(0.001)
        return Standing(*self.ask(STANDS)[0])

    def alone(self) -> None:
        """Come back once nobody else is connected to the server: one that hung up is there for a moment."""
        deadline = time.monotonic() + 60
        while self.ask(OTHERS):
            assert time.monotonic() < deadline, "somebody else is still connected"
            time.sleep(0.001)

    def over_closed(self) -> str:
        """Trades that were closed further than they were opened."""
        return self.ask(OVER_CLOSED)[0][0] or ""

    def _administer(self, statement: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(plain(self.server.url()), autocommit=True) as connection:
                    connection.execute(statement)
                return
            except (psycopg.OperationalError, psycopg.errors.ObjectInUse):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def plain(url: str) -> str:
    """The URL as psycopg itself takes it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def small_incident(incident: Incident, *, doors: bool | None = None) -> Incident:
    """The incident, planned and approved; `doors` as `Incident.create_table` has it."""
    incident.create_table(doors=doors)
    incident.write_statement()
    incident.profile = "other"
    incident.ghost("o1", symbol="ADA/USD", opened=OPENED, closed=CLOSED)
    incident.row("o2-in", "o2", "ENTRY", "7", OPENED)
    repair(incident, OTHER_REPAIR, "o1")
    incident.profile = "main"
    incident.ghost("t1", symbol="BTC/USD", opened=OPENED, closed=CLOSED)
    incident.ghost("t2", "2", symbol="ETH/USD", opened=OPENED, closed=CLOSED, filled="1.9995")
    incident.ghost("t3", "3", symbol="SOL/USD", opened=OPENED, closed=CLOSED)
    incident.row("in-4", OPEN_TRADE, "ENTRY", "5", OPENED, symbol="LTC/USD")
    incident.hold("LTC/USD", "5")
    incident.row("in-5", "t5", "ENTRY", "1", OPENED, symbol="XRP/USD")
    incident.row("out-5", "t5", "EXIT", "1", CLOSED, symbol="XRP/USD")
    repair(incident, EARLIER, "t3")
    assert incident.run("rollback", EARLIER, work=incident.work(now=None)).verdict is Verdict.DONE
    incident.plan(f"{OPEN_TRADE}=seen", batch=BATCH, work=incident.work(now=None))
    return incident


def repair(incident: Incident, batch: str, trade_id: str) -> None:
    """A whole repair of one trade."""
    incident.repair(batch=batch, work=incident.work(now=None, scope=Scope(trade_ids=(trade_id,))))


@dataclass(frozen=True, slots=True)
class Pick:
    """Which cases of a sweep are run: every `step`-th byte, every `thin`-th other case; `share` of how many workers."""

    step: int = 1
    thin: int = 1
    share: int = 0
    workers: int = 1
    first: int = 0
    """Where counting begins."""

    def bytes(self, total: int) -> range:
        """The byte counts at which to cut."""
        return range(self.first % self.step + self.share * self.step, total, self.step * self.workers)

    def cases(self, every: Sequence[T]) -> Sequence[T]:
        """Some of them."""
        return every[self.first % self.thin + self.share * self.thin :: self.thin * self.workers]


class Ground:
    """What one worker has: a server, and a bench for each stage."""

    def __init__(
        self, server: EmbeddedServer, home: Path, folder: Path, switch: PauseSwitch, *, doors: bool = False
    ) -> None:
        self.server, self.home, self.folder, self.switch, self.doors = server, home, folder, switch, doors
        self._benches: dict[Stage, Bench] = {}

    def bench(self, stage: Stage) -> Bench:
        """The bench of a stage, as new."""
        if stage not in self._benches:
            made = Bench(self.server, self.home, self.folder, self.switch, stage, doors=self.doors)
            self._benches[stage] = made
        for other in self._benches.values():
            other.hang_up()
        bench = self._benches[stage]
        bench.rewind()
        return bench

    def leave(self) -> None:
        """Drop what was made on the server."""
        for bench in self._benches.values():
            bench.drop()
        self._benches.clear()


@contextmanager
def ground(home: Path, folder: Path, *, doors: bool = False) -> Iterator[Ground]:
    """A ground with a switch of its own, on the embedded server of `home`, which is deleted at the end."""
    server = start(home)
    with psycopg.connect(plain(server.url()), autocommit=True) as connection:
        for name, value in LATE_FLUSHES.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("SELECT pg_reload_conf()")
    asking = mock.patch("recon.stages.writing.STATUS_ATTEMPTS", STATUS_ATTEMPTS)
    with patience(), asking, pause_switch() as switch:
        made = Ground(server, home, folder, switch, doors=doors)
        try:
            yield made
        finally:
            made.leave()
            server.close()
            _delete_once_stopped(server.folder)


def _delete_once_stopped(folder: Path) -> None:
    """Root's server does not live in its home, so that deleting the home would leave it behind."""
    descriptor = open_lock(folder / "watcher.lock")
    deadline = time.monotonic() + 90
    while not try_lock(descriptor, shared=True) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
