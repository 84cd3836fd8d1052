"""The seal: a stage's result and its SHA-256 in the output of a notebook's last cell.

A saved notebook is a report only if every code cell was executed, none ended with an error, and the seal is in the
last one and right. papermill's own status is not asked: it marks every cell completed when a kernel dies. The seal
finds accidents and half-made reports; it is not a signature. Nothing in here writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.domain import StageResult, Verdict
from recon.identity import digest
from recon.reporting.markup import fill
from recon.reporting.result import KEYS, ResultJson, ordered, result_json

if TYPE_CHECKING:
    from nbformat import NotebookNode

SEAL_TYPE = "application/vnd.recon.seal+json"
"""The media type of the sealed result."""


class Seal:
    """A sealed result as a notebook shows it: one line for people, the result and its digest for programs."""

    def __init__(self, content: ResultJson) -> None:
        """Seal the JSON object `content`."""
        self.content = content
        self.sha256 = digest(content)

    def __repr__(self) -> str:
        """The stage, verdict and digest in one line."""
        return f"Sealed: {self.content['stage']} {self.content['verdict']}, SHA-256 {self.sha256}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        return {
            SEAL_TYPE: {"result": self.content, "sha256": self.sha256},
            "text/html": fill("seal.html.j2", content=self.content, sha256=self.sha256),
            "text/plain": repr(self),
        }


@dataclass(frozen=True, slots=True)
class SealReading:
    """What a notebook's seal says: `findings` are sentences, empty for a valid report; `result` is the JSON object."""

    findings: tuple[str, ...]
    result: ResultJson | None


def seal(result: StageResult) -> Seal:
    """The seal of `result`, to be shown by a notebook's last cell."""
    return Seal(result_json(result))


def read_seal(notebook: NotebookNode, expected: Mapping[str, str] | None = None) -> SealReading:
    """Whether a notebook is a valid report; `expected` may name its stage, profile_id and batch_id."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    payloads = [(cell, data) for cell in cells for data in _payloads(cell)]
    findings = list(_execution_findings(cells))
    if len(payloads) != 1:
        return SealReading((*findings, f"Expected exactly one seal, found {len(payloads)}."), None)
    cell, payload = payloads[0]
    if cell is not cells[-1]:
        findings.append("The seal is not in the last code cell.")
    result = _sealed_result(payload)
    if result is None:
        return SealReading((*findings, "The seal does not match its own digest: the sealed result was changed."), None)
    for key, value in (expected or {}).items():
        if result[key] != value:
            findings.append(f"The seal names {key} {result[key]!r}, expected {value!r}.")
    return SealReading(tuple(findings), result)


def read_report(path: Path, expected: Mapping[str, str] | None = None) -> SealReading:
    """The same for a saved notebook; one that is missing or cannot be read is a finding."""
    if not path.is_file():
        return SealReading((f"{path.name} is missing.",), None)
    try:
        return read_seal(load_notebook(path), expected)
    except ValueError:
        return SealReading((f"{path.name} is not a notebook.",), None)


def read_actor(path: Path) -> str | None:
    """Who ran the saved notebook, as its run card says; None when there is none. The sealed result does not name them.

    The card is a table as text (`recon.reporting.tables`): its columns begin where their names do.
    """
    if not path.is_file():
        return None
    outputs = [output for cell in load_notebook(path).cells for output in cell.get("outputs", ())]
    texts = [str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    for card in (text.splitlines() for text in texts if text.startswith("Run card (")):
        begin = card[2].index("value")
        return next((line[begin:] for line in card[3:] if line[:begin].strip() == "actor"), None)
    return None


def load_notebook(path: Path) -> NotebookNode:
    """The notebook saved at `path`; raises `ValueError` if it is none."""
    import nbformat  # slow to import, and a notebook's own kernel never reads one

    captured: dict[str, Exception] = {}
    try:
        notebook: NotebookNode = nbformat.read(path, 4, captured)  # type: ignore[no-untyped-call]
    except (nbformat.ValidationError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if captured:
        raise ValueError(str(captured))
    return notebook


def _execution_findings(cells: list[NotebookNode]) -> Iterator[str]:
    for number, cell in enumerate(cells, start=1):
        if cell.get("execution_count") is None:
            yield f"Code cell {number} was not executed."
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"Code cell {number} ended with {output.ename}."


def _payloads(cell: NotebookNode) -> list[Any]:
    return [output.data[SEAL_TYPE] for output in cell.outputs if SEAL_TYPE in output.get("data", {})]


def _sealed_result(payload: object) -> ResultJson | None:
    if not isinstance(payload, dict) or not isinstance(payload.get("result"), dict):
        return None
    result: ResultJson = payload["result"]
    try:
        intact = payload.get("sha256") == digest(result)
    except TypeError:  # a float: no result ever holds one
        return None
    return ordered(result) if intact and set(KEYS) <= set(result) and result["verdict"] in list(Verdict) else None
