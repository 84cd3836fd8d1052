"""Is a report folder untouched? Everything that can be said without the database. Nothing in here writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from recon.domain import Check
from recon.reporting.folder import EVIDENCE, INDEX, MANIFEST, STAGES, SUMS, read_manifest, report_files, sha256
from recon.reporting.seal import SealReading, read_report

SUM_LINE = re.compile(rf"(?P<sha256>[0-9a-f]{{64}}) [ *](?P<name>({EVIDENCE}/[0-9][^/\\\n]*/)?[^/\\\n]+)")
"""A line of SHA256SUMS as coreutils writes it, for a file in the folder itself or among its evidence."""


def verify_folder(directory: Path) -> list[Check]:
    """The checks of a report folder, each naming the files that fail it.

    `sums_match` (every listed file is there and unchanged), `nothing_unlisted`, `manifest_agrees`,
    `notebooks_sealed` (each report executed to its end, without error, and sealed), `json_equals_seal`, and
    `one_batch` (one profile and batch throughout).
    """
    if not directory.is_dir():
        return [Check("sums_match", False, f"{directory} is not a folder. Name the report folder of a batch.")]
    sums = _read_sums(directory / SUMS)
    if sums is None:
        return [Check("sums_match", False, f"{SUMS} is missing or malformed, so nothing here can be verified.")]
    readings = {
        name: read_report(directory / name, {"stage": STAGES[match["stem"]].value})
        for name, match in report_files(directory).items()
        if name.endswith(".ipynb") and not match["failed"]
    }
    return [
        _check("sums_match", "every listed file is as it was written", _changed(directory, sums)),
        _check("nothing_unlisted", f"{SUMS} lists every file", _unlisted(directory, sums)),
        _check("manifest_agrees", f"{MANIFEST} names the same files with the same sums", _manifest(directory, sums)),
        _check("notebooks_sealed", "every report ran to its end and is sealed", _unsealed(readings)),
        _check("json_equals_seal", "every JSON file equals its notebook's seal", _unequal(directory, readings)),
        _check("one_batch", "all reports belong to one batch of one profile", _foreign(directory, readings)),
    ]


def _check(name: str, good: str, findings: Sequence[str]) -> Check:
    return Check(name, not findings, " ".join(findings) if findings else f"As expected, {good}.")


def _read_sums(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    matches = [SUM_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    sums = {match["name"]: match["sha256"] for match in matches if match}
    return sums if sums and len(sums) == len(matches) else None


def _changed(directory: Path, sums: dict[str, str]) -> list[str]:
    missing = [f"{name} is missing." for name in sums if not (directory / name).is_file()]
    present = [name for name in sums if (directory / name).is_file()]
    return missing + [f"{name} was changed." for name in present if sha256(directory / name) != sums[name]]


def _unlisted(directory: Path, sums: dict[str, str]) -> list[str]:
    """What is there and stands for nothing in the list, nor is a folder, not a link to one, of something in it."""
    folders = {parent.as_posix() for name in sums for parent in PurePosixPath(name).parents}
    names = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*"))}
    return [
        f"{name} is not listed."
        for name, path in names.items()
        if name not in sums and name != SUMS and (name not in folders or path.is_symlink())
    ]


def _manifest(directory: Path, sums: dict[str, str]) -> list[str]:
    try:
        entries = {entry["name"]: entry["sha256"] for entry in read_manifest(directory)["files"]}
    except OSError as error:
        return [f"{error.strerror}."]
    listed = {name: value for name, value in sums.items() if name not in (MANIFEST, INDEX)}
    names = sorted(name for name in entries.keys() | listed.keys() if entries.get(name) != listed.get(name))
    return [f"{name} stands in {MANIFEST} and {SUMS} differently." for name in names]


def _unsealed(readings: dict[str, SealReading]) -> list[str]:
    if not readings:
        return ["There is no report in this folder."]
    return [f"{name}: {finding}" for name, reading in readings.items() for finding in reading.findings]


def _unequal(directory: Path, readings: dict[str, SealReading]) -> list[str]:
    return [
        f"{Path(name).stem}.json does not say what {name} sealed."
        for name, reading in readings.items()
        if reading.result is None or _saved(directory / name) != reading.result | {"report": name}
    ]


def _saved(notebook: Path) -> object:
    try:
        return json.loads(notebook.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _foreign(directory: Path, readings: dict[str, SealReading]) -> list[str]:
    sealed = {name: reading.result for name, reading in readings.items() if reading.result is not None}
    owners = {(result["profile_id"], result["batch_id"]) for result in sealed.values()}
    try:
        manifest = read_manifest(directory)
        owners.add((manifest["profile_id"], manifest["batch_id"]))
    except OSError:
        pass
    found = ", ".join(f"profile {profile!r} batch {batch!r}" for profile, batch in sorted(owners))
    return [] if len(owners) == 1 else [f"Found {found}."]
