"""The report folder of one batch: numbered files that are never overwritten, and the three that describe them.

Every file is written under a temporary name, forced to disk, and linked or renamed when whole. `manifest.json`
remembers the digest that a file had when it was added: a file that is changed later stays changed in the eyes of
`recon verify`, however much the folder grows. Only this module and the runner write reports.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from recon.domain import Stage
from recon.durable import move_folder, sync
from recon.errors import ReconError, Refused
from recon.reporting.markup import CSS, fill
from recon.reporting.render import PAGE_CSS
from recon.reporting.seal import read_report

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

_REPORT = rf"(?P<name>(?P<stem>{'|'.join(STEMS.values())})(?P<failed>\.failed)?(\.(?P<number>\d+))?)"

REPORT_FILE = re.compile(rf"{_REPORT}\.(ipynb|html|json)")
"""The names of the files that recon keeps in a report folder."""

EVIDENCE = "evidence"
"""The subfolder that holds, for each report, a folder of its name with what the exchange said."""

EVIDENCE_FILE = re.compile(rf"{EVIDENCE}/{_REPORT}/(fills\.csv|positions\.csv|open_orders\.csv|statement\.json)")
"""The names of the files in there, seen from the report folder."""

SUMS, MANIFEST, INDEX = "SHA256SUMS", "manifest.json", "index.html"
"""The three files that describe a folder and are replaced as it grows."""

ENTRY_KEYS = ("name", "sha256", "size", "stage", "verdict", "plan_digest", "kept_at")
"""What the manifest says of each file: `verdict` is None when the notebook is not a valid report, `kept_at` when the
manifest was written before there was one."""

Manifest = dict[str, Any]
"""`batch_id`, `profile_id` and `files`, a list of entries by name."""


def open_folder(folder: Path, profile_id: str) -> None:
    """Make sure, before anything is run, that a report of `profile_id` can be kept in `folder`.

    Raises `ReconError` (reports_unwritable) if the folder cannot be made or written, and `Refused`
    (batch_of_another_profile) if it holds another profile's reports. Leaves at most an empty folder behind.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        owner = read_manifest(folder, profile_id)["profile_id"]
    except OSError as error:
        raise reports_unwritable(folder, error) from None
    if owner != profile_id:
        raise Refused(
            "batch_of_another_profile",
            f"The report folder {folder} belongs to profile {owner!r}, not to {profile_id!r}. Choose another batch_id.",
        )


def reports_unwritable(folder: Path, error: OSError) -> ReconError:
    """The error (reports_unwritable) that stops a run before anything is run."""
    return ReconError(
        "reports_unwritable",
        f"Nothing was run: the report folder {folder} cannot be written ({error.strerror}). "
        "Make it writable, or name another one in RECON_REPORTS_DIR.",
    )


def add_report(folder: Path, stem: str, data: bytes) -> Path:
    """Write `data` as `<stem>.ipynb`, or under the next free number; returns where. Never overwrites."""
    for number in count(1):
        name = stem if number == 1 else f"{stem}.{number}"
        taken = [f"{name}.{suffix}" for suffix in ("ipynb", "html", "json")] + [f"{EVIDENCE}/{name}"]
        if any((folder / each).exists() for each in taken):
            continue
        path = folder / f"{name}.ipynb"
        try:
            add_file(path, data)
        except FileExistsError:  # another run took the number between the look and the link
            continue
        return path
    raise AssertionError("the numbers do not end")


def add_file(path: Path, data: bytes) -> None:
    """Write a read-only file that must not exist yet; `FileExistsError` if it does."""
    with _temporary(path.parent, data, 0o444) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: claim the name first
            path.open("xb").close()
            temporary.replace(path)


def add_evidence(report: Path, source: Path) -> None:
    """Move the statement folder `source` to where the report's evidence lies, its files read-only; never overwrites."""
    for path in source.iterdir():
        path.chmod(0o444)
    move_folder(source, report.parent / EVIDENCE / report.stem)


def describe(folder: Path, profile_id: str) -> None:
    """Bring manifest.json, index.html and SHA256SUMS up to date with the reports in the folder; writes those three.

    Safe beside another run doing the same: whoever finds the folder changed after writing writes again.
    """
    while True:
        listed = report_files(folder) | evidence_files(folder)
        manifest = read_manifest(folder, profile_id)
        known = {entry["name"] for entry in manifest["files"]}
        manifest["files"] += [_entry(folder, match) for match in _new(listed, known)]
        manifest["files"].sort(key=lambda entry: _order(entry["name"]))
        _write_description(folder, manifest)
        now = report_files(folder) | evidence_files(folder)
        if now.keys() == listed.keys() and read_manifest(folder, profile_id) == manifest:
            return


def read_manifest(folder: Path, profile_id: str = "") -> Manifest:
    """The manifest of the folder, or an empty one of `profile_id`; an unreadable one is an `OSError`."""
    path = folder / MANIFEST
    if not path.exists():
        return {"batch_id": folder.name, "profile_id": profile_id, "files": []}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = [{key: entry[key] for key in ENTRY_KEYS} for entry in ({"kept_at": None} | e for e in content["files"])]
        return {"batch_id": content["batch_id"], "profile_id": content["profile_id"], "files": files}
    except (ValueError, KeyError, TypeError):
        raise OSError(errno.EINVAL, f"{path.name} was changed and cannot be read") from None


def report_files(folder: Path) -> dict[str, re.Match[str]]:
    """The names of the report files in the folder, sorted, each with its parts."""
    matches = [REPORT_FILE.fullmatch(name) for name in sorted(path.name for path in folder.iterdir())]
    return {match.string: match for match in matches if match}


def evidence_files(folder: Path) -> dict[str, re.Match[str]]:
    """The same for the evidence kept with the reports: the names as seen from the folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"{EVIDENCE}/*/*"))
    return {match.string: match for match in map(EVIDENCE_FILE.fullmatch, names) if match}


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new(listed: dict[str, re.Match[str]], known: set[str]) -> list[re.Match[str]]:
    """What is not known yet; a file that joins evidence that is known already is none of ours, and stays unlisted."""
    whole = {name.rpartition("/")[0] for name in known} - {""}
    return [match for name, match in listed.items() if name not in known and name.rpartition("/")[0] not in whole]


def _order(name: str) -> tuple[str, bool, int, str]:
    match = REPORT_FILE.fullmatch(name) or EVIDENCE_FILE.fullmatch(name)
    return (match["stem"], bool(match["failed"]), int(match["number"] or 1), name) if match else ("", False, 0, name)


def _entry(folder: Path, match: re.Match[str]) -> dict[str, Any]:
    path = folder / match.string
    result = None if match["failed"] else read_report(folder / f"{match['name']}.ipynb").result
    return {
        "name": match.string,
        "sha256": sha256(path),
        "size": path.stat().st_size,
        "stage": STAGES[match["stem"]].value,
        "verdict": "FAILED" if match["failed"] else result and result["verdict"],
        "plan_digest": result and result["plan_digest"],
        "kept_at": f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _write_description(folder: Path, manifest: Manifest) -> None:
    data = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    page = fill("folder.html.j2", manifest=manifest, runs=_runs(manifest), css=PAGE_CSS + CSS).encode()
    sums = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in ((MANIFEST, data), (INDEX, page))}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    for name, content in ((MANIFEST, data), (INDEX, page), (SUMS, lines.encode())):
        with _temporary(folder, content, 0o644) as temporary:
            temporary.replace(folder / name)


def _runs(manifest: Manifest) -> list[dict[str, Any]]:
    names = {entry["name"] for entry in manifest["files"]}
    notebooks = [entry for entry in manifest["files"] if entry["name"].endswith(".ipynb")]
    notebooks.sort(key=lambda entry: entry["kept_at"] or "")
    return [
        entry
        | {"stem": stem, "suffixes": [suffix for suffix in ("html", "ipynb", "json") if f"{stem}.{suffix}" in names]}
        | {"evidence": sorted(name for name in names if name.startswith(f"{EVIDENCE}/{stem}/"))}
        for entry in notebooks
        for stem in [entry["name"].removesuffix(".ipynb")]
    ]


@contextmanager
def _temporary(folder: Path, data: bytes, mode: int) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.chmod(mode)
        yield path
        sync(folder)
    finally:
        path.unlink(missing_ok=True)
