"""A server and a machine in trouble: no connection left, no room for reports, time-outs, rows changed on the way in."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import sqlalchemy as sa
from console import PROGRAM, clean_environment, patient_kernels, stage_words
from sqlalchemy import event

from faults.bench import BATCH, STATUS_ATTEMPTS, Bench, Ground, Pick, Said, plain
from faults.boundaries import CONNECT, Boundaries
from faults.judge import Judged, judged, untruth, where
from faults.kill import STAGES, boundaries
from faults.proxy import proxy
from faults.triggers import triggered
from recon.database import connect
from recon.domain import Stage
from recon.stages import writing

# No connection left


class Crowd:
    """Takes every connection that the server has to give, and each that becomes free, until it is sent away."""

    def __init__(self, url: str) -> None:
        self._url, self._over = plain(url), threading.Event()
        self._held: list[psycopg.Connection[Any]] = []
        self._full = threading.Event()
        self._thread = threading.Thread(target=self._press)
        self._thread.start()
        assert self._full.wait(60)

    def _press(self) -> None:
        while not self._over.is_set():
            try:
                self._held.append(psycopg.connect(self._url))
            except psycopg.OperationalError:
                self._full.set()
                time.sleep(0.005)

    def leave(self) -> None:
        """Give everything back."""
        self._over.set()
        self._thread.join(60)
        for connection in self._held:
            connection.close()


def connections(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """max_connections is reached when recon connects, and when it asks what became of a COMMIT."""
    for stage in STAGES:
        bench = ground.bench(stage)
        at = [number for number, what in enumerate(boundaries(bench)) if what == CONNECT]
        for number in pick.cases(at):
            yield without_connection(bench, number)
        for seconds in pick.cases([0.5, 60]):
            yield lost_in_the_crowd(bench, seconds)


def without_connection(bench: Bench, number: int) -> Judged:
    """No connection is left from a boundary on, at which recon would connect.

    Whoever just hung up is gone by then: else there would be a connection for recon after all, or none for the judge.
    """
    with ExitStack() as stack:
        engine = connect(bench.recon_url)
        Boundaries(engine, number, lambda: (bench.alone(), _crowded(stack, bench)))
        said = Said.by(bench.run(engine=engine))
    bench.alone()
    return judged(bench, f"no connection at {number} of {bench.stage}", said, must="before")


def _crowded(stack: ExitStack, bench: Bench) -> Crowd:
    crowd = Crowd(bench.server.url())
    stack.callback(crowd.leave)
    return crowd


def lost_in_the_crowd(bench: Bench, seconds: float) -> Judged:
    """The answer to COMMIT is lost and no connection is left to ask with, for so long."""
    with proxy(bench.recon_url) as between, ExitStack() as stack:
        bench.ask("SELECT 1")

        def cut(message: bytes) -> str:
            if b"COMMIT\0" not in message:
                return "pass"
            leave = threading.Timer(seconds, _crowded(stack, bench).leave)
            leave.start()
            stack.callback(leave.cancel)
            return "lost"

        between.cut = cut
        unknown = seconds > 30
        with mock.patch.object(writing, "STATUS_ATTEMPTS", 20 if unknown else STATUS_ATTEMPTS):
            said = Said.by(bench.run(engine=connect(between.url)))
    bench.alone()
    case = f"no connection for {seconds:g} s after COMMIT of {bench.stage}"
    return judged(bench, case, said, nobody_answers=unknown, must="after")


# Time-outs

LOCK_TIMEOUT, STATEMENT_TIMEOUT = "150ms", "400ms"
"""In place of recon's ten seconds and five minutes, each only where it must be met: else a slow machine meets it."""

LOCKS = {
    "orders": "LOCK TABLE orders IN ROW EXCLUSIVE MODE",
    "a row of orders": "SELECT 1 FROM orders WHERE order_id LIKE 'BFILL-%' AND trade_id = 't3' FOR UPDATE",
    "the batch's row": f"SELECT 1 FROM reconciliation_batches WHERE batch_id = '{BATCH}' FOR UPDATE",
    "the batches": "LOCK TABLE reconciliation_batches IN SHARE MODE",
    "the audit table": "LOCK TABLE reconciliation_backfill_audit IN SHARE MODE",
}
"""What another session holds."""

SLOW = {
    "inserting rows": ("orders", "INSERT", False),
    "changing rows": ("orders", "UPDATE", False),
    "writing the audit": ("reconciliation_backfill_audit", "INSERT OR UPDATE", False),
    "writing the batch": ("reconciliation_batches", "INSERT OR UPDATE", False),
    "committing": ("reconciliation_backfill_audit", "INSERT OR UPDATE", True),
}
"""Where a trigger takes longer than a statement may."""


def impatient(url: str, name: str, short: str) -> sa.Engine:
    """An engine on which one of recon's time-outs is short."""
    engine = connect(url)

    def shorten(_c: Any, _k: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if isinstance(parameters, dict) and name in parameters.values():
            names, values = list(parameters), list(parameters.values())
            parameters[names[values.index(name) + 1]] = short
        return statement, parameters

    event.listen(engine, "before_cursor_execute", shorten, retval=True)
    return engine


def impatient_at_commit(url: str) -> sa.Engine:
    """An engine on which recon's statements may take what they take, but for COMMIT."""
    engine = connect(url)
    commit = engine.dialect.do_commit

    def do_commit(connection: Any) -> None:
        connection.cursor().execute(f"SET LOCAL statement_timeout TO '{STATEMENT_TIMEOUT}'")
        commit(connection)

    engine.dialect.do_commit = do_commit  # type: ignore[method-assign]
    return engine


def lock_timeouts(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """Another session holds what recon waits for."""
    for stage in STAGES:
        bench = ground.bench(stage)
        for what in pick.cases(list(LOCKS)):
            with psycopg.connect(plain(bench.url)) as holder:
                holder.execute(LOCKS[what])
                said = Said.by(bench.run(engine=impatient(bench.recon_url, "lock_timeout", LOCK_TIMEOUT)))
            codes: frozenset[str | None] = frozenset({"orders_locked"})
            yield judged(bench, f"{what} locked during {stage}", said, must="before", codes=codes)


def statement_timeouts(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """A statement takes longer than it may. COMMIT has no time-out in PostgreSQL: it is waited for."""
    for stage in STAGES:
        bench = ground.bench(stage)
        for what in pick.cases(list(SLOW)):
            table, when, deferred = SLOW[what]
            if stage is Stage.ROLLBACK and when == "INSERT":
                continue
            sleep = f"PERFORM pg_sleep({0.1 if deferred else 3}); RETURN NEW"
            url = bench.recon_url
            engine = impatient_at_commit(url) if deferred else impatient(url, "statement_timeout", STATEMENT_TIMEOUT)
            with triggered(bench, table, when, sleep, deferred=deferred):
                said = Said.by(bench.run(engine=engine))
            codes: frozenset[str | None] = frozenset({None if deferred else "statement_timeout"})
            must = "after" if deferred else "before"
            yield judged(bench, f"{what} takes too long in {stage}", said, must=must, codes=codes)


# Rows that are changed on the way in

COPY = """IF pg_trigger_depth() = 1 THEN INSERT INTO orders SELECT (jsonb_populate_record(NEW, '{0}')).*; END IF;
          RETURN NEW"""
CHANGES = {
    "its price is changed": "NEW.price := NEW.price + 1; RETURN NEW",
    "its quantity is changed": "NEW.quantity := NEW.quantity / 2; NEW.qty := NEW.quantity; RETURN NEW",
    "its symbol is changed": "NEW.symbol := 'DOGE/USD'; RETURN NEW",
    "it is swallowed": "RETURN NULL",
    "another with its id and price came first": COPY.format('{"price": 7}'),
    "another with its id, of another profile, came first": COPY.format('{"profile_id": "other"}'),
    "another with its id, canceled, came first": COPY.format('{"status": "canceled"}'),
}
"""What a trigger of the backend does to each row inserted."""


def changed_rows(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """A row that is not as planned when it is written, by a trigger or because the id was taken that very moment."""
    bench = ground.bench(Stage.APPLY)
    for what in pick.cases(list(CHANGES)):
        yield changed_row(bench, what)


def changed_row(bench: Bench, what: str) -> Judged:
    """One case; the trigger is gone before the next run."""
    with triggered(bench, "orders", "INSERT", CHANGES[what]):
        said = Said.by(bench.run())
    return judged(bench, f"row written while {what}", said, must="before", codes=frozenset({"existing_row_differs"}))


# No room for the report

SIZES = 20
"""In so many steps the reports folder grows from nothing to more than a report needs."""


def may_mount(folder: Path) -> bool:
    """Whether a file system of a chosen size can be made here."""
    try:
        with small_disk(folder, 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A tmpfs of so many bytes; call what is given to resize it. Raises `CalledProcessError` where it is forbidden."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)

    def resize(to: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={to}", folder], check=True, capture_output=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", folder], check=True, capture_output=True)


def full_disk(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """The reports folder is on a disk that is full after so many bytes; nothing where no tmpfs can be mounted."""
    folder = ground.folder / "reports"
    for stage in STAGES if may_mount(folder) else ():
        bench = ground.bench(stage)
        with small_disk(folder, 1 << 26):
            status, told = told_by_console(bench, folder)
            assert (status, told.verdict) == (0, "DONE"), told
            needs = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
        for number in pick.cases(range(SIZES)):
            bench.rewind()
            size = max(4096, needs * (number + 1) // (SIZES - 2) // 4096 * 4096)
            yield on_a_small_disk(bench, folder, size)


def on_a_small_disk(bench: Bench, folder: Path, size: int) -> Judged:
    """One case: what the console says, then the same with room enough."""
    with small_disk(folder, size) as resize:
        status, told = told_by_console(bench, folder)
        complete = (folder / BATCH / "manifest.json").is_file() and "not complete" not in told.text
        resize(1 << 26)
        now = bench.stands()
        place = where(bench, now)
        lie = untruth(told, place)
        if (status == 0) != (complete and told.verdict == "DONE"):
            lie = lie or f"exit status {status}, report complete: {complete}, {told}"
        if told.code not in (None, "reports_unwritable", "cell_failed"):
            lie = lie or f"told {told.code}: {told.text}"
        status, again = told_by_console(bench, folder)
        end = bench.stands()
    fine = status == 0 and (end.outcome, end.states) == (bench.after.outcome, bench.after.states)
    others = "" if end.bystanders == bench.before.bystanders else "rows that are not recon's changed"
    unconverged = "" if fine else f"with room enough: {status} {again}"
    partial = place if place.startswith("partial") else ""
    case = f"{size} bytes for the report of {bench.stage}"
    return Judged(case, f"{place.split(':')[0]} {told.code or told.verdict}", partial, lie, unconverged, others)


def told_by_console(bench: Bench, reports: Path) -> tuple[int, Said]:
    """Exit status and words of `recon run`, in a process of its own."""
    environment = clean_environment() | patient_kernels(bench.folder / "ipython") | {
        "RECON_DATABASE_URL": bench.recon_url, "RECON_EXCHANGE": f"statement:{bench.incident.folder}",
        "RECON_TRADING_STATUS_URL": bench.switch.url, "RECON_REPORTS_DIR": str(reports), "RECON_ACTOR": "tester",
        "ENABLE_RECON_EXIT_BACKFILL": "true", "RECON_EXIT_BACKFILL_DRY_RUN": "false",
        "RECON_EXIT_BACKFILL_LOOKBACK_HOURS": "200000", "RECON_HOME": str(bench.home),
    }  # fmt: skip
    words = [str(PROGRAM), *stage_words(bench.stage, "main", BATCH), "--json"]
    ended = subprocess.run(words, env=environment, cwd=bench.folder, capture_output=True, text=True, check=False)
    said = json.loads(ended.stdout.splitlines()[-1]) if ended.stdout.strip() else {}
    text = f"{said.get('message', '')} {said.get('counts', '')} {ended.stderr}"
    return ended.returncode, Said(said.get("verdict", "FAILED"), said.get("code"), text)
