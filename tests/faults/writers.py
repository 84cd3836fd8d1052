"""What others do at every statement boundary: the profile is unpaused, and the backend writes rows of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from console import CLOSED
from incidents import at as minute

from faults.bench import Bench, Ground, Pick, Said
from faults.boundaries import COMMITTED, Boundaries
from faults.judge import PLAN_AGAIN, Judged, judged, noise, untruth, where
from faults.kill import STAGES, boundaries
from recon.database import connect
from recon.domain import Stage, Verdict

WHILE_OPEN = """
INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price, filled_at,
                    created_at, updated_at, side, exchange_order_id)
SELECT '{id}', 'main', 'BTC/USD', 't1', 'EXIT', '{status}', {qty}, {qty}, 110, '{time}', now(), now(), 'sell', '{order}'
WHERE {qty} <= (SELECT sum(CASE action WHEN 'ENTRY' THEN quantity ELSE -quantity END) FROM orders
                WHERE profile_id = 'main' AND trade_id = 't1' AND status IN ('filled', 'partially_filled'))"""
"""A backend that looks first whether so much is still open: READ COMMITTED, as most are."""

TIME = minute(CLOSED).isoformat()
REAL_EXIT = WHILE_OPEN.format(id="real-exit", status="filled", qty="1", time=TIME, order="exit-t1")
LATE_FILL = WHILE_OPEN.format(id="late-fill", status="partially_filled", qty="0.4", time=TIME, order="exit-t1")
NEW_ENTRY = """
INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price, filled_at,
                    created_at, updated_at, side, exchange_order_id)
VALUES ('new-entry', 'main', 'ETH/USD', 't9', 'ENTRY', 'filled', 1, 1, 100, now(), now(), now(), 'buy', 'new-entry')"""
KINDS = {"real EXIT": REAL_EXIT, "late fill": LATE_FILL, "new ENTRY": NEW_ENTRY}


def unpausing(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """Up to the last look at the switch it must be refused; what comes between that look and COMMIT is not seen."""
    for stage in STAGES:
        bench = ground.bench(stage)
        last, total = last_look(bench)
        for at in pick.cases(range(total)):
            yield unpaused(bench, at, must="before" if at < last else "after")


def last_look(bench: Bench) -> tuple[int, int]:
    """How many boundaries come before the last look at the switch, and how many there are; the bench is as new."""
    engine = connect(bench.recon_url)
    moments = Boundaries(engine)
    asked: list[int] = []

    def look() -> str:
        asked.append(len(moments.seen))
        return "PAUSED"

    bench.switch.script = [look] * 2
    assert bench.run(engine=engine).code is None
    bench.rewind()
    return asked[-1], len(moments.seen)


def unpaused(bench: Bench, at: int, must: str) -> Judged:
    """One case; afterwards the profile is paused again."""
    engine = connect(bench.recon_url)
    Boundaries(engine, at, lambda: setattr(bench.switch, "word", "RUNNING"))
    said = Said.by(bench.run(engine=engine))
    bench.switch.word = "PAUSED"
    may: frozenset[str | None] = frozenset({"profile_not_paused"} if must == "before" else {None})
    return judged(bench, f"unpaused at {at} of {bench.stage}", said, must=must, codes=may)


@dataclass
class Backend:
    """Writes once, in a thread of its own, and comes back when that is through or waits for a lock."""

    bench: Bench
    statement: str
    changed: int = -1
    waited: bool = False
    thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.Thread(target=self._write)
        self.thread.start()
        while self.thread.is_alive() and not self.waited:
            self.waited = bool(self.bench.ask("SELECT 1 FROM pg_locks WHERE NOT granted")) and self.thread.is_alive()
            time.sleep(0.001)

    def _write(self) -> None:
        with self.bench.incident.backend.begin() as connection:
            self.changed = connection.exec_driver_sql(self.statement).rowcount

    def through(self) -> None:
        """Wait until it is through."""
        if self.thread is not None:
            self.thread.join(60)


def backend(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """Whatever the moment, the end is that of one after the other, and nothing is over-closed."""
    for stage in STAGES:
        bench = ground.bench(stage)
        total = len(boundaries(bench))
        for kind, statement in KINDS.items():
            act = partial(Backend, bench, statement)
            serial = [ended(bench, kind, act, first=first) for first in (True, False)]
            for at in pick.cases(range(total)):
                yield meanwhile(bench, kind, act(), at, serial)
    yield from fills(ground, pick)


def fills(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """The exchange tells one more fill, of the order that closed t1, from some boundary on."""
    bench = ground.bench(Stage.APPLY)

    def late() -> None:
        bench.incident.fill("exit-t1", "0.2", CLOSED + 1)

    serial = [ended(bench, "fill", lambda: late, first=first) for first in (True, False)]
    for at in pick.cases(range(len(boundaries(bench)))):
        yield meanwhile(bench, "fill", late, at, serial)


def ended(bench: Bench, kind: str, act: Callable[[], Callable[[], None]], *, first: bool) -> object:
    """How it stands when the other writes before, or after, the whole of recon's work."""
    doing = act()
    if first:
        doing()
    told = until_done(bench)
    assert told == "", f"{kind}: {told}"
    if not first:
        doing()
    if isinstance(doing, Backend):
        doing.through()
    stands = bench.stands().outcome
    bench.rewind()
    return without_times(stands)


def until_done(bench: Bench) -> str:
    """Run the stage, planning again where it is told to; what went wrong, if anything."""
    told = bench.run()
    if told.code in PLAN_AGAIN:
        if refused := bench.plan():
            return f"planning again: {refused}"
        told = bench.run()
    return "" if told.verdict is Verdict.DONE else f"{told.code}: {told.message}"


def without_times(outcome: tuple[str | None, str | None, str]) -> object:
    """Rows and ownership; the backend's own row holds the time of day, so what it booked is told by its effect."""
    return outcome[:2]


def meanwhile(bench: Bench, kind: str, act: Callable[[], None], at: int, serial: list[object]) -> Judged:
    """One case: the other acts at the boundary, then recon is run again until it is done."""
    engine = connect(bench.recon_url)
    moments = Boundaries(engine, at, act)
    result = bench.run(engine=engine)
    if isinstance(act, Backend):
        act.through()
    said, now = Said.by(result), bench.stands()
    place = where(bench, now)
    over = bench.over_closed()
    lie = untruth(said, place) or noise.told()
    if isinstance(act, Backend) and act.waited and act.changed < 0:
        lie = lie or "the backend never got its lock"
    if said.code not in (None, "stale_plan"):
        lie = lie or f"told {said.code}: {said.text}"
    told = until_done(bench)
    end = bench.stands()
    over = over or bench.over_closed()
    if not told and without_times(end.outcome) not in serial:
        told = f"ends as neither order of the two would: {end.rows}"
    ended_as = f"{place.split(':')[0]} {said.code or said.verdict}"
    case = f"{kind} at {at} of {bench.stage} ({moments.seen[at][:30] if at < len(moments.seen) else COMMITTED})"
    bench.rewind()
    partial_ = place if place.startswith("partial") else f"over-closed: {over}" if over else ""
    return Judged(case, ended_as, partial_, lie, told)
