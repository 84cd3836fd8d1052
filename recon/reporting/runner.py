"""Running one stage: its notebook is executed, judged by what it holds, and kept as the audit report.

Only here and in `recon.reporting.folder` are reports written. The order matters: what cannot work is refused before
anything is run; a report that cannot be kept afterwards never hides what the stage did; and from the last cell on
interrupts wait, so that a report is whole or was never begun.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from recon.domain import Stage, StageResult, Verdict
from recon.identity import check_batch_id
from recon.incident import commit_outcome
from recon.interrupts import heard, held_off
from recon.reporting.folder import (
    STEMS,
    add_evidence,
    add_file,
    add_report,
    describe,
    open_folder,
    report_files,
    reports_unwritable,
)
from recon.reporting.notebook import Execution, check_parameters, execute, find_notebook, from_text, to_text
from recon.reporting.render import render
from recon.reporting.result import ResultJson, result_json
from recon.reporting.seal import read_seal
from recon.venues.archive import ABOUT
from recon.workspace import RUN_VARIABLE

if TYPE_CHECKING:
    from pydantic import SecretStr

    from recon.settings import Settings

PARAMETERS = frozenset({"profile_id", "batch_id"})
"""The names that every stage's notebook must declare."""

PASSWORD = re.compile(r"://[^:@/]*:([^@]*)@|[?&]password=([^&]*)")
"""The password in a URL as it is written there, whether or not the rest is well-formed."""

SHORT = 8
"""A key of fewer characters may be a word of the report, and is struck out only where it stands as a value."""


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
    parameters = {"profile_id": profile_id, "batch_id": batch_id}
    scope = {"trade_ids": list(trade_ids), "symbols": list(symbols), "demo": demo}
    with held_off(), _evidence_beside(folder) as evidence:
        scope |= {"evidence": str(evidence)}
        execution = execute(source, parameters, {RUN_VARIABLE: json.dumps(scope)}, progress=progress)
        execution = _without_secrets(execution, settings)
        reading = read_seal(execution.notebook, {"stage": stage.value, **parameters})
        if reading.findings or reading.result is None:
            failure = _failure(stage, profile_id, batch_id, execution, reading.findings)
            settled = _settled(failure, stage, settings)
            return _keep(folder, f"{STEMS[stage]}.failed", execution, settled, evidence, settings)
        if _opens_nothing(folder, reading.result):
            return Outcome(reading.result, None)
        outcome = _keep(folder, STEMS[stage], execution, reading.result, evidence, settings)
        return replace(outcome, result=_settled(outcome.result, stage, settings))


@contextmanager
def _evidence_beside(folder: Path) -> Iterator[Path]:
    """Where the kernel writes what it fetches, on the file system of the report folder; what is left goes in the end.

    Raises `ReconError` (reports_unwritable).
    """
    try:
        beside = tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp", ignore_cleanup_errors=True
        )
    except OSError as error:
        raise reports_unwritable(folder.parent, error) from None
    with beside as name:
        yield Path(name).resolve() / "evidence"


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
    folder: Path, stem: str, execution: Execution, result: ResultJson, evidence: Path, settings: Settings
) -> Outcome:
    report: Path | None = None
    problems: list[str] = []
    try:
        report = add_report(folder, stem, to_text(execution.notebook).encode())
        saved = result | {"report": report.name}
        add_file(report.with_suffix(".json"), (json.dumps(saved, indent=2, ensure_ascii=False) + "\n").encode())
        add_file(report.with_suffix(".html"), render(execution.notebook, saved).encode())
        _keep_evidence(report, evidence, settings)
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
        about.write_text(_struck(about.read_text(encoding="utf-8"), settings), encoding="utf-8")
        add_evidence(report, evidence)


def _without_secrets(execution: Execution, settings: Settings) -> Execution:
    """The execution with every known secret struck out: a traceback may have quoted one."""
    text = _struck(to_text(execution.notebook), settings)
    message = execution.message
    for secret in _secrets(settings):
        message = message and message.replace(secret, "***")
    return Execution(from_text(text), execution.code, message)


def _struck(text: str, settings: Settings) -> str:
    """A JSON text with every known secret struck out."""
    for secret in _secrets(settings):
        text = text.replace(json.dumps(secret, ensure_ascii=False)[1:-1], "***")
    return text


def _secrets(settings: Settings) -> list[str]:
    """The token and the exchange's keys, and each password with the signs around it in a URL or connection string.

    A key too short to be unlike any other word counts as a password. A longer secret goes before one that it holds.
    """
    urls = (settings.recon_database_url, settings.recon_trading_status_url, settings.recon_exchange_base_url)
    passwords = {
        word for url in urls if url for pair in PASSWORD.findall(url.get_secret_value()) for word in pair if word
    }
    passwords |= {unquote(password) for password in passwords}
    keys = _values(settings.recon_exchange_api_key, settings.recon_exchange_secret, settings.recon_exchange_password)
    passwords |= {key for key in keys if len(key) < SHORT}
    whole = {key for key in keys if len(key) >= SHORT} | _values(settings.recon_trading_status_token)
    whole |= {repr(key)[1:-1] for key in whole}
    shapes = [shape for word in passwords for shape in (f":{word}@", f"password={word}", f"'{word}'")]
    return sorted([*shapes, *whole], key=lambda secret: (-len(secret), secret))


def _values(*given: SecretStr | None) -> set[str]:
    return {one.get_secret_value() for one in given if one} - {""}
