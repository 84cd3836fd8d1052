"""`recon demo`: the whole incident, from detect to validate, through the same runner that operators use."""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon import demo
from recon.domain import Stage, Verdict
from recon.errors import Refused
from recon.incident import approve_demo
from recon.reporting.folder import open_folder
from recon.reporting.runner import Outcome, run_stage
from recon.settings import Settings
from recon.workspace import demo_settings, home_in_use, open_workspace, reset_demo


@dataclass(frozen=True, slots=True)
class Finished:
    """How the demo ended: the outcome of each stage that ran, and where the report lies."""

    outcomes: dict[Stage, Outcome]
    folder: Path

    @property
    def exit_status(self) -> int:
        """0 when the incident was repaired and validated, else 1."""
        last = self.outcomes.get(Stage.VALIDATE)
        return 0 if last is not None and last.result["verdict"] == Verdict.DONE and last.report else 1

    def document(self) -> dict[str, Any]:
        """The JSON object of `recon demo --json`."""
        stages = {stage.value: outcome.result for stage, outcome in self.outcomes.items()}
        return {"ok": self.exit_status == 0, "stages": stages, "report": str(self.folder)}

    def lines(self) -> list[str]:
        """What was found, repaired and refused, in a few lines; the report's path last."""
        if self.exit_status:
            stage, outcome = list(self.outcomes.items())[-1]
            return [f"The demo stopped at {stage.value}: {outcome.result.get('message')}", *outcome.problems]
        plan = self.outcomes[Stage.DRY_RUN].result["items"]
        applied = [item for item in self.outcomes[Stage.APPLY].result["items"] if item["decision"] == "APPLIED"]
        refused = [item for item in plan if item["decision"] == "NO_GO"]
        reasons = Counter(item["reason"] for item in refused)
        return [
            f"found     {_trades(plan)} open trades",
            f"repaired  {_trades(applied)} of them with {len(applied)} EXIT rows, each backed by fills or dust",
            f"refused   {_trades(refused)} of them, wholly or in part, each for a named reason:",
            *(f"          {count} {reason}" for reason, count in sorted(reasons.items())),
            "validated every open quantity is exactly as planned; the apply changed no other row",
            f"report    {self.folder / 'index.html'}",
        ]


def _trades(items: list[dict[str, Any]]) -> int:
    return len({(item["symbol"], item["trade_id"]) for item in items})


def run_demo(settings: Settings, *, progress: bool) -> Finished:
    """Load the incident afresh and run it; writes the embedded demo database and one new report folder.

    Settings of a real database are left aside. Raises `Refused` (demo_running) while another demo runs, and
    `ReconError` (reports_unwritable) before the demo database is touched.
    """
    settings = demo_settings(settings)
    with _alone(settings):
        batch_id = _free_batch(settings)
        open_folder(settings.recon_reports_dir / batch_id, demo.DEMO_PROFILE)
        reset_demo(settings)
        outcomes: dict[Stage, Outcome] = {}
        for stage in (Stage.DETECT, Stage.DRY_RUN, Stage.APPLY, Stage.VALIDATE):
            outcome = run_stage(stage, demo.DEMO_PROFILE, batch_id, settings=settings, demo=True, progress=progress)
            outcomes[stage] = outcome
            if outcome.result["verdict"] == Verdict.FAILED or "code" in outcome.result:
                break
            if stage is Stage.DRY_RUN:
                approve_demo(open_workspace(settings=settings), batch_id)
    return Finished(outcomes, settings.recon_reports_dir / batch_id)


def _free_batch(settings: Settings) -> str:
    """`demo-incident`, or the next number of it that has no report folder yet."""
    number = 1
    while (settings.recon_reports_dir / _numbered(number)).exists():
        number += 1
    return _numbered(number)


def _numbered(number: int) -> str:
    return demo.DEMO_BATCH if number == 1 else f"{demo.DEMO_BATCH}-{number}"


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Only one demo at a time: it drops the demo database. The lock ends with the process."""
    with home_in_use(settings):
        settings.recon_home.mkdir(parents=True, exist_ok=True)
        lock = (settings.recon_home / "demo.lock").open("w")
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(
                "demo_running", "Another `recon demo` is running here. Wait for it, then run again."
            ) from None
        yield
