"""Reports of the stages of a life: kept as `recon run` keeps them, but without a kernel for each, and signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from report_samples import executed

from recon.domain import Stage, StageResult
from recon.incident import run_stage
from recon.record import write_record
from recon.reporting import runner
from recon.reporting.notebook import Execution
from recon.workspace import Workspace


def kept(work: Workspace, action: str, profile: str, name: str) -> StageResult:
    """Run a stage here and keep its report, with its record, in the reports folder of the settings."""
    results: list[StageResult] = []

    def execute(_: Path, asked: Mapping[str, str], environment: Mapping[str, str], **__: Any) -> Execution:
        results.append(run_stage(work, Stage(action), **asked))
        [passed] = map(json.loads, environment.values())
        write_record(Path(passed["record"]), work, **asked)
        return Execution(executed(results[0]))

    with mock.patch.object(runner, "execute", execute):
        outcome = runner.run_stage(Stage(action), profile, name, settings=work.settings)
    assert not outcome.problems, outcome.problems
    return results[0]
