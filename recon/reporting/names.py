"""The names in a report folder: which file belongs to which report, and what stands beside the reports. Reads only."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from recon.domain import Stage

STEMS = {
    Stage.DETECT: "01_detect",
    Stage.DRY_RUN: "02_dry_run",
    Stage.APPLY: "03_apply",
    Stage.VALIDATE: "04_validate",
    Stage.ROLLBACK: "05_rollback",
}
"""The name of each stage's notebook, without suffix."""

STAGES = {stem: stage for stage, stem in STEMS.items()}
"""The stage of each name."""

EVIDENCE = "evidence"
"""The subfolder that holds, for each report, a folder of its name with what the exchange said."""

RECORD = "record"
"""The subfolder that holds, for each report, a folder of its name with what the database held when the stage ended."""

MANIFESTS = "manifests"
"""The subfolder that holds every manifest that was replaced, numbered from 1, with its signature if it had one."""

SUMS, MANIFEST, INDEX = "SHA256SUMS", "manifest.json", "index.html"
"""The three files that describe a folder and are replaced as it grows."""

SIGNATURE = f"{MANIFEST}.sig"
"""The signature over the manifest, once the incident is closed."""

_REPORT = rf"(?P<name>(?P<stem>{'|'.join(STEMS.values())})(?P<failed>\.failed)?(\.(?P<number>\d+))?)"

REPORT_FILE = re.compile(rf"{_REPORT}\.(ipynb|html|json)")
"""The names of the files that recon keeps in a report folder."""

EVIDENCE_FILE = re.compile(rf"{EVIDENCE}/{_REPORT}/(fills\.csv|positions\.csv|open_orders\.csv|statement\.json)")
"""The names of the evidence, seen from the report folder."""

RECORD_FILE = re.compile(rf"{RECORD}/{_REPORT}/(run\.json|audit\.csv|orders\.csv|(rollback_)?approval\.json(\.sig)?)")
"""The names of the records, seen from there."""

MANIFEST_FILE = re.compile(rf"{MANIFESTS}/(?P<number>[1-9]\d*)\.json(?P<signature>\.sig)?")
"""The names of the manifests that were replaced, and of their signatures."""


def report_files(folder: Path) -> dict[str, re.Match[str]]:
    """The names of the report files in the folder, sorted, each with its parts."""
    matches = [REPORT_FILE.fullmatch(name) for name in sorted(path.name for path in folder.iterdir())]
    return {match.string: match for match in matches if match}


def kept_files(folder: Path) -> dict[str, re.Match[str]]:
    """The same with the evidence and the records kept with the reports; names as seen from the folder."""
    beside = sorted(
        path.relative_to(folder).as_posix() for kind in (EVIDENCE, RECORD) for path in folder.glob(f"{kind}/*/*")
    )
    return report_files(folder) | {match.string: match for match in map(parts, beside) if match}


def parts(name: str) -> re.Match[str] | None:
    """The parts of a name of any of these files, None for any other name."""
    return REPORT_FILE.fullmatch(name) or EVIDENCE_FILE.fullmatch(name) or RECORD_FILE.fullmatch(name)


def order(name: str) -> tuple[str, bool, int, str]:
    """Sorts names by stage, what broke off after the rest, then by number."""
    match = parts(name)
    return (match["stem"], bool(match["failed"]), int(match["number"] or 1), name) if match else ("", False, 0, name)


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
