"""Many readings of one incident through answers that go wrong: each ends in the same plan, or in a named reason.

`python tests/venue/fault_runs.py [SEEDS [FILLS]]` prints how many requests were struck and how the runs ended, per
dialect and per kind of fault, and then what reading many fills takes. A run is *complete* when its plan has the digest
of the faultless one; *named* when the fetch was refused with a code, or when whatever differs in the plan carries
`evidence_window_too_short` or `exchange_position_unknown` and nothing is written that the faultless plan does not
write; anything else is *wrong*. Seeds make every run repeatable.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from time import monotonic

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from recon.domain import OrderRow, Reason, Snapshot
from recon.errors import Refused
from recon.plan import Plan, item_document
from recon.venues.live import guard
from venue import faults
from venue.faults import Fault, FaultKind, FaultPlan
from venue.incident import NOW, after, fetch, market_of, plan_of, story, table
from venue.scenario import scenario, trade
from venue.server import VenueServer
from venue.spelling import NAMES, Name

NAMED = frozenset({Reason.EVIDENCE_WINDOW_TOO_SHORT, Reason.EXCHANGE_POSITION_UNKNOWN})
KINDS: Sequence[Fault] = (*faults.EVERY, faults.REPEAT)

PLANS: Sequence[tuple[Sequence[Fault], float, int]] = (
    *((KINDS, probability, 2) for probability in (0.05, 0.2, 0.5, 0.9)),
    *((KINDS, probability, 9) for probability in (0.3, 0.7, 0.9)),
    *(((faults.REPEAT,), probability, 2) for probability in (0.5, 1)),
)
"""Faults, their probability, and how often one request may be struck: twice is got over, nine times is not."""


@dataclass
class Tally:
    """How the runs of one dialect ended."""

    runs: int = 0
    requests: int = 0
    struck: Counter[FaultKind] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def run_all(name: Name, seeds: int, plans: Sequence[tuple[Sequence[Fault], float, int]] = PLANS) -> Tally:
    """Every plan of faults with so many seeds. Waiting takes no time: what is proven is what is asked again."""
    tally = Tally()
    lived = story(name)
    with VenueServer(lived, clock="scenario", limits={name: 7}) as server:
        rows = table(name, server.told(name), lived)
        expected = plan_of(rows, fetch(server, name))
        for number in range(seeds * len(plans)):
            kinds, probability, at_most = plans[number % len(plans)]
            given = FaultPlan(each=kinds, probability=probability, at_most=at_most, seed=number)
            end = one_run(server, name, given, rows, expected)
            tally.runs += 1
            tally.ends[end.split(":")[0]] += 1
            tally.requests += len(server.requests)
            tally.struck += given.counts
            if end.startswith("wrong"):
                tally.wrong.append(f"{name} seed {number} p {probability} at_most {at_most}: {end}")
    return tally


def one_run(server: VenueServer, name: Name, given: FaultPlan, rows: tuple[OrderRow, ...], expected: Plan) -> str:
    """`complete`, `named <code or reason>` or `wrong: <what differs>`."""
    server.faults = given
    server.requests.clear()
    server._previous.clear()
    try:
        snapshot = fetch(server, name)
    except Refused as refusal:
        return f"named {refusal.code}"
    return judged(plan_of(rows, snapshot), expected, snapshot)


def judged(plan: Plan, expected: Plan, snapshot: Snapshot) -> str:
    """How a plan that was made in spite of faults compares with the faultless one."""
    if plan.digest == expected.digest:
        return "complete"
    may = {repr(item_document(item)) for item in expected.rows_to_write}
    written = [item for item in plan.rows_to_write if repr(item_document(item)) not in may]
    if written:
        return f"wrong: writes {[(item.trade_id, str(item.qty), item.grade) for item in written]} {snapshot.gaps}"
    for found, right in zip(plan.judgements, expected.judgements, strict=True):
        if found.items != right.items and not NAMED & set(found.reasons):
            return f"wrong: {found.lifecycle.trade_id} differs without a reason {found.reasons} {snapshot.gaps}"
    if not snapshot.gaps and snapshot.positions is not None:
        return "wrong: another plan, and neither a gap nor an unknown position"
    seen = {str(reason) for one in plan.judgements for reason in one.reasons} & {str(reason) for reason in NAMED}
    return f"named {' and '.join(sorted(seen)) or 'gap that touches no trade'}"


def lines(seeds: int) -> Iterator[str]:
    """The table of ends, and of faults by kind."""
    tallies = {name: run_all(name, seeds) for name in NAMES}
    yield "| dialect | runs | requests | struck | complete | named | wrong |"
    yield "|---|---|---|---|---|---|---|"
    for name, tally in tallies.items():
        complete, wrong = tally.ends["complete"], tally.ends["wrong"]
        yield (
            f"| {name} | {tally.runs} | {tally.requests} | {tally.struck.total()} | {complete} | "
            f"{tally.runs - complete - wrong} | {wrong} |"
        )
    yield ""
    yield f"| fault | {' | '.join(NAMES)} |"
    yield "|---|" + "---|" * len(NAMES)
    for kind in FaultKind:
        yield f"| {kind} | {' | '.join(str(tallies[name].struck[kind]) for name in NAMES)} |"
    yield ""
    ends = sorted({end for tally in tallies.values() for end in tally.ends})
    yield f"| how runs ended | {' | '.join(NAMES)} |"
    yield "|---|" + "---|" * len(NAMES)
    for end in ends:
        yield f"| {end} | {' | '.join(str(tallies[name].ends[end]) for name in NAMES)} |"
    yield from (wrong for tally in tallies.values() for wrong in tally.wrong)


def many(name: Name, count: int) -> str:
    """Time and memory of reading so many fills of 50 hours, in pages as large as the venue's."""
    symbol = market_of(name, "BTC")
    step = timedelta(hours=50) / count
    rows = (
        trade(f"t{n}", symbol, "buy" if n % 2 else "sell", "0.01", "60000", after(-1400) + n * step, order=f"o{n // 4}")
        for n in range(count)
    )
    with VenueServer(scenario(NOW, *rows), clock="scenario") as server:
        fetch(server, name, symbol, lookback=timedelta(minutes=1))  # the server gets ready
        server.requests.clear()
        begin = monotonic()
        with _peak() as peak:
            found = fetch(server, name, symbol)
        took, asked = monotonic() - begin, len(server.requests)
    told = len({(fill.exchange_order_id, fill.fill_id) for fill in found.fills})
    return f"| {name} | {told} of {count} | {asked} | {took:.0f} s | {max(peak) - peak[0] >> 20} MiB |"


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The memory that this process holds: first at the beginning, then time and again."""
    held, over = [psutil.Process().memory_info().rss], Event()

    def look() -> None:
        while not over.wait(0.05):
            held.append(psutil.Process().memory_info().rss)

    watcher = Thread(target=look)
    watcher.start()
    try:
        yield held
    finally:
        over.set()
        watcher.join()


def figures(count: int) -> Iterator[str]:
    """The table of what many fills take, each dialect in a process of its own; the server's work is counted in."""
    yield "| dialect | fills | requests | time | memory above the start |"
    yield "|---|---|---|---|---|"
    for name in NAMES:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            yield alone.submit(many, name, count).result()


def main() -> None:
    """Print it all; the exit status says whether any plan was wrong."""
    guard.SECOND = 0.0
    seeds, count = (int(word) for word in (*sys.argv[1:], "20", "200000")[:2])
    wrong = False
    for line in (*lines(seeds), "", *figures(count)) if count else lines(seeds):
        print(line, flush=True)  # noqa: T201
        wrong = wrong or ": wrong" in line
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
