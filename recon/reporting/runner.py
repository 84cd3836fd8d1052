"""Running one stage: its notebook is executed, judged by what it holds, and kept as the audit report.

Only here and in `recon.reporting.folder` are reports written. The order matters: what cannot work is refused before
anything is run; a report that cannot be kept afterwards never hides what the stage did; and from the last cell on
interrupts wait, so that a report is whole or was never begun.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.domain import Stage, StageResult, Verdict
from recon.identity import check_batch_id
from recon.incident import commit_outcome
from recon.interrupts import heard, held_off
from recon.record import parameters
from recon.reporting.code import code_that_ran
from recon.reporting.describe import complete, describe
from recon.reporting.folder import add_beside, add_report, open_folder, reports_unwritable
from recon.reporting.names import EVIDENCE, RECORD, STEMS, report_files
from recon.reporting.notebook import Execution, check_parameters, execute, find_notebook, from_text, to_text
from recon.reporting.records import finish_record
from recon.reporting.result import ResultJson, result_json
from recon.reporting.seal import read_seal
from recon.reporting.strike import secrets, struck_json
from recon.venues.archive import ABOUT
from recon.workspace import RUN_VARIABLE

if TYPE_CHECKING:
    from recon.settings import Settings

PARAMETERS = frozenset({"profile_id", "batch_id"})
"""The names that every stage's notebook must declare."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: the JSON object, where its report lies, and sentences on what could not be kept."""

    result: ResultJson
    report: Path | None
    problems: tuple[str, ...] = ()


def run_stage(
    stage: Stage,
    profile_id: str,
    batch_id: str,
    *,
    settings: Settings,
    trade_ids: Sequence[str] = (),
    symbols: Sequence[str] = (),
    demo: bool = False,
    progress: bool = False,
    notebook: Path | None = None,
) -> Outcome:
    """Execute the stage's notebook and keep it under `settings.recon_reports_dir / batch_id`; writes there.

    `trade_ids` and `symbols` narrow the batch. `demo` leaves a configured database aside. `progress` shows a bar on
    standard error. `notebook` runs another one in place of the shipped one. A run that is no valid report is FAILED,
    with the code `cell_failed`, `cell_timeout`, `kernel_died`, `kernel_not_started`, `interrupted` or
    `report_invalid`, and is kept apart as `*.failed.ipynb`; of an apply or rollback the message then also says what
    became of the transaction. Raises `KeyboardInterrupt` for an interrupt that came once the notebook had ended, with
    the report kept, and before anything is run `UsageError` (malformed_batch_id), `Refused` (batch_of_another_profile)
    and `ReconError` (notebook_missing, notebook_invalid, reports_unwritable).
    """
    folder = settings.recon_reports_dir / check_batch_id(batch_id)
    source = notebook or find_notebook(f"{STEMS[stage]}.ipynb")
    check_parameters(source, PARAMETERS)
    open_folder(folder, profile_id)
    asked = {"profile_id": profile_id, "batch_id": batch_id}
    told = parameters(profile_id, batch_id, trade_ids, symbols) | {"git": code_that_ran()}
    with held_off(), _beside(folder, told) as beside:
        passed = {"trade_ids": list(trade_ids), "symbols": list(symbols), "demo": demo}
        passed |= {"evidence": str(beside.evidence), "record": str(beside.record)}
        execution = execute(source, asked, {RUN_VARIABLE: json.dumps(passed)}, progress=progress)
        execution = _without_secrets(execution, settings)
        reading = read_seal(execution.notebook, {"stage": stage.value, **asked})
        if reading.findings or reading.result is None:
            failure = _failure(stage, profile_id, batch_id, execution, reading.findings)
            settled = _settled(failure, stage, settings)
            return _keep(folder, f"{STEMS[stage]}.failed", execution, settled, beside, settings)
        if _opens_nothing(folder, reading.result):
            return Outcome(reading.result, None)
        outcome = _keep(folder, STEMS[stage], execution, reading.result, beside, settings)
        return replace(outcome, result=_settled(outcome.result, stage, settings))


@dataclass(frozen=True, slots=True)
class Beside:
    """The folder in which a run leaves what is kept with its report; `told` is what the runner knows of the run."""

    folder: Path
    told: Mapping[str, Any]

    @property
    def evidence(self) -> Path:
        """Where the kernel writes what it fetches."""
        return self.folder / EVIDENCE

    @property
    def record(self) -> Path:
        """Where it writes what the database holds once the stage has ended."""
        return self.folder / RECORD


@contextmanager
def _beside(folder: Path, told: Mapping[str, Any]) -> Iterator[Beside]:
    """A folder of that kind on the file system of the report folder; what is left in it goes in the end.

    Raises `ReconError` (reports_unwritable).
    """
    try:
        beside = tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp", ignore_cleanup_errors=True
        )
    except OSError as error:
        raise reports_unwritable(folder.parent, error) from None
    with beside as name:
        yield Beside(Path(name).resolve(), told)


def _failure(stage: Stage, profile_id: str, batch_id: str, execution: Execution, findings: Sequence[str]) -> ResultJson:
    code = execution.code or "report_invalid"
    message = execution.message or "The executed notebook is not a valid report. " + " ".join(findings)
    advice = "What was committed is in the database: `recon status` shows it, and running the stage again is safe."
    return result_json(
        StageResult(stage, profile_id, batch_id, Verdict.FAILED, code=code, message=f"{message} {advice}")
    )


def _settled(result: ResultJson, stage: Stage, settings: Settings) -> ResultJson:
    """The result; a FAILED one also says what became of its transaction. Asking for that may be interrupted."""
    if result["verdict"] != Verdict.FAILED:
        return result
    with heard():
        said = commit_outcome(stage, settings, result["batch_id"])
    return result | {"message": f"{result['message']} {said}".rstrip()}


def _opens_nothing(folder: Path, result: ResultJson) -> bool:
    """Whether a refusal came before the batch had any report: a mistyped profile must not claim the batch's folder."""
    if result["verdict"] != Verdict.NO_GO or "code" not in result or report_files(folder):
        return False
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _keep(
    folder: Path, stem: str, execution: Execution, result: ResultJson, beside: Beside, settings: Settings
) -> Outcome:
    report: Path | None = None
    problems: list[str] = []
    try:
        report = add_report(folder, stem, to_text(execution.notebook).encode())
        complete(report, execution.notebook, result)
        _keep_evidence(report, beside.evidence, settings)
        finish_record(beside.record, settings, beside.told)
        add_beside(report, RECORD, beside.record)
        describe(folder, result["profile_id"])
    except Exception as error:  # whatever hinders the report, the stage is over and its verdict must be told
        kept = f"only {report.name} was kept" if report else "no report was kept"
        why = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        problems.append(f"The report in {folder} is not complete, {kept}: {why}.")
    return Outcome(result | {"report": str(report) if report else None}, report, tuple(problems))


def _keep_evidence(report: Path, evidence: Path, settings: Settings) -> None:
    """Keep what the stage fetched, if it did and was not stopped in the middle of writing it."""
    about = evidence / ABOUT
    if about.is_file():
        about.write_text(struck_json(about.read_text(encoding="utf-8"), settings), encoding="utf-8")
        add_beside(report, EVIDENCE, evidence)


def _without_secrets(execution: Execution, settings: Settings) -> Execution:
    """The execution with every known secret struck out: a traceback may have quoted one."""
    text = struck_json(to_text(execution.notebook), settings)
    message = execution.message
    for secret in secrets(settings):
        message = message and message.replace(secret, "***")
    return Execution(from_text(text), execution.code, message)
