"""Every fault sweep, and a table of what the judge found.

`python tests/faults/fault_runs.py [SWEEP,SWEEP,... [STEP [WORKERS]]]` runs the sweeps named (all, unless named),
cutting connections after every STEP-th byte (1), on so many servers at once (2). A case is *partial* when rows, audit
and batch are neither all as before nor all as after, or a trade is over-closed; *untruthful* when what was said is not
what the database holds; *not converging* when running again does not lead to the undisturbed outcome. `others` counts
cases after which a row that recon did not write was another. The exit status is 1 unless all four are 0 everywhere.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import crowd, cut, kill, trouble, writers
from faults.bench import Ground, Pick, ground
from faults.judge import Judged

Sweep = Callable[[Ground, Pick], Iterator[Judged]]

SWEEPS: Mapping[str, tuple[str, Sweep]] = {
    "cut-apply": ("apply cut after every byte, both directions", cut.of_apply),
    "cut-rollback": ("rollback cut after every byte, both directions", cut.of_rollback),
    "kill-client": ("kill -9 of the client", kill.clients),
    "kill-backend": ("server process terminated, or killed", kill.server_processes),
    "kill-server": ("server stopped at once, and recovered", kill.servers),
    "connections": ("server out of connections", trouble.connections),
    "disk": ("no room for the report", trouble.full_disk),
    "locks": ("lock time-outs", trouble.lock_timeouts),
    "statements": ("statement time-outs", trouble.statement_timeouts),
    "changed": ("row changed on the way in, or its id taken", trouble.changed_rows),
    "unpause": ("unpaused at every statement", writers.unpausing),
    "backend": ("EXIT, late fill, ENTRY at every statement", writers.backend),
    "appliers": ("eight appliers at once, one batch and two", crowd.appliers),
    "two-batches": ("two batches that share trades, every order", crowd.two_batches),
}
"""What each sweep is called on the command line and in the table."""


@dataclass
class Tally:
    """How the cases of one sweep ended."""

    cases: int = 0
    partial: int = 0
    untruthful: int = 0
    unconverged: int = 0
    others: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, one: Judged) -> None:
        """Count a case."""
        self.cases += 1
        self.partial += bool(one.partial)
        self.untruthful += bool(one.untruthful)
        self.unconverged += bool(one.unconverged)
        self.others += bool(one.others)
        self.ends[one.ended] += 1
        self.wrong += one.wrong

    def join(self, other: Tally) -> None:
        """Count what another worker counted."""
        for name in ("cases", "partial", "untruthful", "unconverged", "others"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ends += other.ends
        self.wrong += other.wrong

    @property
    def figures(self) -> str:
        """The cells of the table."""
        return f"{self.cases} | {self.partial} | {self.untruthful} | {self.unconverged} | {self.others}"


_stack = ExitStack()
_ground: list[Ground] = []
"""The one ground of this worker."""


def _enter(folder: str) -> None:
    """In a worker: start its server; it stops with the process."""
    here = Path(tempfile.mkdtemp(dir=folder))
    _ground.append(_stack.enter_context(ground(here / "home", here)))


def tally(name: str, pick: Pick) -> Tally:
    """One worker's share of one sweep."""
    counted = Tally()
    for one in SWEEPS[name][1](_ground[0], pick):
        counted.add(one)
    return counted


def _stack_closed() -> None:
    """In a worker, at its end: a switch that still listened would keep it."""
    _stack.close()


def lines(names: Sequence[str], step: int, workers: int) -> Iterator[str]:
    """The table, a line whenever a sweep is through; then everything that was wrong."""
    total, wrong = Tally(), []
    began = monotonic()
    yield "| sweep | cases | partial | untruthful | not converging | others | seconds |"
    yield "|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        pools = [ProcessPoolExecutor(1, get_context("spawn"), _enter, (folder,)) for _ in range(workers)]
        for name in names:
            start, counted = monotonic(), Tally()
            picks = [Pick(step, share=number, workers=workers) for number in range(workers)]
            for future in [pool.submit(tally, name, pick) for pool, pick in zip(pools, picks, strict=True)]:
                counted.join(future.result())
            total.join(counted)
            wrong += counted.wrong
            none = "" if counted.cases else " (not possible here)"
            yield f"| {SWEEPS[name][0]}{none} | {counted.figures} | {monotonic() - start:.0f} |"
        for pool in pools:
            pool.submit(_stack_closed).result()
            pool.shutdown()
    yield f"| all | {total.figures} | {monotonic() - began:.0f} |"
    yield from (f"wrong: {text}" for text in wrong)


def main() -> None:
    """Print it all; the exit status says whether anything was wrong."""
    given = sys.argv[1:]
    chosen, step, workers = (*given, *("all", "1", "2")[len(given) :])
    names = list(SWEEPS) if chosen == "all" else chosen.split(",")
    bad = False
    for line in lines(names, int(step), int(workers)):
        print(line, flush=True)  # noqa: T201
        bad = bad or line.startswith("wrong:")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
