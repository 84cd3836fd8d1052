"""Client, server process or server are killed at every statement boundary, and the client at many other moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from unittest import mock

from faults.bench import BATCH, SESSIONS, Bench, Ground, Pick, Said
from faults.boundaries import COMMIT, Boundaries
from faults.judge import COMMITTED, NOT_COMMITTED, Judged, judged, where
from faults.runner import answer_of, lives, runner
from faults.triggers import triggered
from recon.database import connect
from recon.domain import Stage
from recon.embedded import start
from recon.embedded_watch import running
from recon.incident import commit_outcome

STAGES = (Stage.APPLY, Stage.ROLLBACK)
MOMENTS = 150
"""At so many other moments of each stage the client is killed."""


def boundaries(bench: Bench) -> list[str]:
    """Every boundary of an undisturbed run, in order; leaves the bench as new."""
    engine = connect(bench.recon_url)
    seen = Boundaries(engine).seen
    assert bench.run(engine=engine).code is None
    bench.rewind()
    return seen


def clients(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """kill -9 of the client: what `recon` says of it at once, and what became of it."""
    numbers, chance = count(), random.Random(20260301)
    for stage in STAGES:
        bench = ground.bench(stage)
        moments: list[int | float] = [*range(len(boundaries(bench)))]
        moments += sorted(chance.random() for _ in range(MOMENTS))
        with runner(bench.recon_url, bench.incident.folder, bench.switch.url) as run:
            began = time.monotonic()
            run.ended(run.start(stage, BATCH, ground.folder / "timed.json"))
            lasts = time.monotonic() - began
            bench.rewind()
            for moment in pick.cases(moments):
                answer = ground.folder / f"killed-{next(numbers)}.json"
                at = moment if isinstance(moment, int) else None
                pid = run.start(stage, BATCH, answer, at=at)
                if at is None:
                    time.sleep(moment * lasts)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                run.ended(pid)
                yield told_after_kill(bench, f"client of {stage} {moment}", answer_of(answer))
        for _ in pick.cases([COMMIT]):
            yield killed_in_commit(bench)


def told_after_kill(bench: Bench, case: str, answer: dict[str, str] | None) -> Judged:
    """What the child's result said, and what the console says of a stage that did not tell."""
    word = commit_outcome(bench.stage, bench.settings(), BATCH)
    place = where(bench, bench.stands())
    told = Said(answer["verdict"], answer["code"], answer["text"]) if answer else Said()
    return with_word(judged(bench, case, told), word, place)


def with_word(found: Judged, word: str, place: str) -> Judged:
    """The case, with what the console says of a stage that did not tell."""
    lies = (COMMITTED.search(word) and place != "after") or (NOT_COMMITTED.search(word) and place == "after")
    return replace(found, untruthful=f"the console says {word!r}, it stands {place}") if lies else found


def killed_in_commit(bench: Bench) -> Judged:
    """The client is killed while the server works on its COMMIT, and the console is asked before that is over."""
    waits = "SET LOCAL lock_timeout TO 0; PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW"
    late = ("reconciliation_batches", "INSERT OR UPDATE", waits)
    with (
        triggered(bench, *late, deferred=True),
        runner(bench.recon_url, bench.incident.folder, bench.switch.url) as run,
        bench.incident.backend.connect() as other,
    ):
        other.exec_driver_sql("SELECT pg_advisory_xact_lock(7)")
        pid = run.start(bench.stage, BATCH, bench.folder / "in-commit.json")
        while not bench.ask("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"):
            assert lives(pid), "the client has to come to its COMMIT"
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        run.ended(pid)
        with mock.patch("recon.incident.OUTCOME_ATTEMPTS", 1):
            word = commit_outcome(bench.stage, bench.settings(), BATCH)
        other.rollback()
    place = where(bench, bench.stands())
    return with_word(judged(bench, f"client of {bench.stage} in COMMIT", Said(), must="after"), word, place)


def server_processes(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """pg_terminate_backend, which ends one, and SIGKILL, after which the whole server recovers."""
    for stage in STAGES:
        bench = ground.bench(stage)
        seen = boundaries(bench)
        for how, strike in (("terminated", terminate), ("killed", kill)):
            for at in pick.cases(range(len(seen))):
                yield from struck(bench, f"server process of {stage} {how}", at, seen[at], strike)


def servers(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """The server stops at once (pg_ctl's immediate mode), starts again and recovers, while the client waits."""
    for stage in STAGES:
        bench = ground.bench(stage)
        seen = boundaries(bench)
        for at in pick.cases(range(len(seen))):
            yield from struck(bench, f"server of {stage} stopped", at, seen[at], crash)
        for at in pick.cases([seen.index(COMMIT, -3)]):
            yield from struck(bench, f"server of {stage} stopped, ids taken", at, COMMIT, crash_and_go_on)


def crash_and_go_on(bench: Bench) -> bool:
    """The same, and before the client goes on others take the transaction ids that the crash lost."""
    [(lost,)] = bench.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    crash(bench)
    while bench.ask("SELECT pg_current_xact_id()::text::bigint")[0][0] < lost:
        pass
    return True


def struck(bench: Bench, what: str, at: int, before: str, strike: Callable[[Bench], bool]) -> Iterator[Judged]:
    """One case: the stage in this process, the strike at the boundary; none where there was nothing to strike."""
    hit: list[bool] = []
    engine = connect(bench.recon_url)
    Boundaries(engine, at, lambda: hit.append(strike(bench)))
    said = Said.by(bench.run(engine=engine))
    found = judged(bench, f"{what} at {at} ({' '.join(before.split()[:3])})", said)
    if hit == [True]:
        yield found


def terminate(bench: Bench) -> bool:
    """As an operator ends a connection."""
    gone = bench.ask(f"SELECT pg_terminate_backend(pid, 5000) FROM ({SESSIONS}) AS s")
    return bool(gone)


def kill(bench: Bench) -> bool:
    """As the out-of-memory killer ends a process; PostgreSQL then ends all others and recovers."""
    pids = [pid for (pid,) in bench.ask(SESSIONS)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while any(lives(pid) for pid in pids):
        time.sleep(0.002)
    return bool(pids)


def crash(bench: Bench) -> bool:
    """The immediate stop, and a start."""
    postmaster = running(bench.server._place)
    assert postmaster is not None
    bench.hang_up()
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(60)
    start(bench.home)
    return True
