"""Processes that run one stage each: as a script, it forks a child for each order it reads.

An order is a line of JSON: `stage`, `batch`, `at` (the boundary at which the child kills itself, or null), `start`
(the instant, by time.monotonic, until which it waits), `answer` (the file for what the result says).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from incidents import HookedStatement, patience, workspace

from faults.boundaries import Boundaries
from recon.database import connect
from recon.domain import Stage
from recon.incident import run_stage
from recon.workspace import Workspace


class Runner:
    """The script's other end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, stage: Stage, batch: str, answer: Path, *, at: int | None = None, start: float = 0) -> int:
        """Start a child, returns its pid."""
        order = {"stage": stage.value, "batch": batch, "at": at, "start": start, "answer": str(answer)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ended(self, pid: int, seconds: float = 60) -> None:
        """Wait until a child is gone."""
        deadline = time.monotonic() + seconds
        while lives(pid):
            assert time.monotonic() < deadline, f"{pid} still runs"
            time.sleep(0.002)


def lives(pid: int) -> bool:
    """Whether such a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def answer_of(path: Path) -> dict[str, Any] | None:
    """What a child's result said; None when it was killed before it could say anything."""
    return json.loads(path.read_text()) if path.exists() else None


@contextmanager
def runner(url: str, statement: Path, status_url: str, now: datetime | None = None) -> Iterator[Runner]:
    """A process that forks a child for each stage it is told to run; `now` None lets the server's clock run."""
    words = [sys.executable, __file__, url, str(statement), status_url, *([now.isoformat()] if now else [])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Runner(process)
        assert process.stdin is not None
        process.stdin.close()


def serve(url: str, statement: str, status_url: str, now: str | None = None) -> None:
    """The script's own loop."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            work = workspace(
                connect(url), HookedStatement(statement), status_url, datetime.fromisoformat(now) if now else None
            )
            os._exit(_one(work, order))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _one(work: Workspace, order: dict[str, Any]) -> int:
    if order["at"] is not None:
        Boundaries(work.engine, order["at"], lambda: os.kill(os.getpid(), signal.SIGKILL))
    time.sleep(max(0, order["start"] - time.monotonic()))
    result = run_stage(work, Stage(order["stage"]), "main", order["batch"])
    said = {"verdict": result.verdict.value, "code": result.code, "text": f"{result.message or ''} {result.counts}"}
    fresh = Path(order["answer"]).with_suffix(".tmp")
    fresh.write_text(json.dumps(said | {"counts": dict(result.counts)}))
    fresh.rename(order["answer"])
    return result.verdict.exit_status


if __name__ == "__main__":
    with patience():
        serve(*sys.argv[1:])
