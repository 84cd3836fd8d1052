"""Is a report folder untouched? Everything that can be said without the database. Nothing in here writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from recon.domain import Check
from recon.reporting.approvals import approvals_check
from recon.reporting.chain import chain_findings, signature_check
from recon.reporting.describe import sums
from recon.reporting.manifest import Manifest, read_manifest, statement
from recon.reporting.names import (
    EVIDENCE,
    INDEX,
    MANIFEST,
    MANIFEST_FILE,
    MANIFESTS,
    RECORD,
    SIGNATURE,
    STAGES,
    SUMS,
    parts,
    report_files,
    sha256,
)
from recon.reporting.records import record_findings, unread
from recon.reporting.seal import SealReading, read_report

SUM_LINE = re.compile(
    r"(?P<sha256>[0-9a-f]{64}) [ *]"
    rf"(?P<name>((({EVIDENCE}|{RECORD})/[0-9][^/\\\n]*|{MANIFESTS})/)?[^/\\\n]+)"
)
"""A line of SHA256SUMS as coreutils writes it, for a file in the folder itself or in one of its known subfolders."""


def verify_folder(
    directory: Path,
    allowed_signers: Path | None = None,
    *,
    require_signature: bool = False,
    require_approvals: bool = False,
) -> list[Check]:
    """The checks of a report folder, each naming the files that fail it.

    `sums_match` (every listed file is there and unchanged), `nothing_unlisted`, `manifest_agrees`,
    `notebooks_sealed` (each report executed to its end, without error, and sealed), `json_equals_seal`,
    `one_batch` (one profile and batch throughout), and unless the manifest is of the older form `records_agree`
    (each run's record is as the manifest tells), `manifests_chained` and `approvals`; and `signature`. The last two
    say by whom, going by the file `allowed_signers`. They fail without a verified signature if `require_signature`,
    approvals alone if `require_approvals`.
    """
    if not directory.is_dir():
        return [Check("sums_match", False, f"{directory} is not a folder. Name the report folder of a batch.")]
    if irregular := _irregular(directory):
        return [Check("sums_match", False, " ".join(irregular))]
    listed = _read_sums(directory / SUMS)
    if listed is None:
        return [Check("sums_match", False, f"{SUMS} is missing or malformed, so nothing here can be verified.")]
    readings = {
        name: read_report(directory / name, {"stage": STAGES[match["stem"]].value})
        for name, match in report_files(directory).items()
        if name.endswith(".ipynb") and not match["failed"]
    }
    try:
        manifest, unreadable = read_manifest(directory), []
    except OSError as error:
        manifest, unreadable = None, [f"{error.strerror}."]
    agreeing = f"{MANIFEST} names the same files with the same sums"
    if manifest and not manifest.is_statement:
        agreeing += "; it is of the older form, without records, chain and signature, until the next report is kept"
    disagreeing = unreadable if manifest is None else _disagreeing(directory, manifest, listed)
    return [
        _check("sums_match", "every listed file is as it was written", _changed(directory, listed)),
        _check("nothing_unlisted", f"{SUMS} lists every file", _unlisted(directory, listed)),
        _check("manifest_agrees", agreeing, disagreeing),
        _check("notebooks_sealed", "every report ran to its end and is sealed", _unsealed(readings)),
        _check("json_equals_seal", "every JSON file equals its notebook's seal", _unequal(directory, readings)),
        _check("one_batch", _belonging(directory, manifest), _foreign(manifest, readings)),
        *(
            _statement_checks(directory, manifest, readings, allowed_signers, require_signature or require_approvals)
            if manifest
            else ()
        ),
        signature_check(directory, manifest, allowed_signers, is_required=require_signature),
    ]


def _statement_checks(
    directory: Path,
    manifest: Manifest,
    readings: dict[str, SealReading],
    allowed_signers: Path | None,
    require_approvals: bool,
) -> Iterator[Check]:
    """What can be asked of a manifest that is a Statement."""
    if not manifest.is_statement:
        return
    recorded = "; ".join(["every run's record is as the manifest tells", *unread(manifest)])
    yield _check("records_agree", recorded, list(record_findings(directory, manifest)))
    chained = f"each manifest follows the one that it replaced, {len(manifest.replaced)} before this one"
    yield _check("manifests_chained", chained, list(chain_findings(directory, manifest)))
    yield approvals_check(directory, readings, allowed_signers, is_required=require_approvals)


def _check(name: str, good: str, findings: Sequence[str]) -> Check:
    return Check(name, not findings, " ".join(findings) if findings else f"As expected, {good}.")


def _irregular(directory: Path) -> list[str]:
    """What must not even be opened: a link in the place of a file of the folder, and what is no file (a FIFO)."""
    found = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        own = name in (SUMS, MANIFEST, SIGNATURE) or parts(name) or MANIFEST_FILE.fullmatch(name)
        if path.is_symlink() and own:
            found.append(f"{name} is a symbolic link, expected a regular file; put the file itself back.")
        elif not path.is_file() and not path.is_dir():
            found.append(f"{name} is no regular file; find out who put it there.")
    return found


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


def _disagreeing(directory: Path, manifest: Manifest, listed: dict[str, str]) -> list[str]:
    entries = manifest.digests
    beside = (MANIFEST, SIGNATURE) if manifest.is_statement else (MANIFEST, INDEX)
    told = {name: value for name, value in listed.items() if name not in beside}
    names = sorted(name for name in entries.keys() | told.keys() if entries.get(name) != told.get(name))
    found = [f"{name} stands in {MANIFEST} and {SUMS} differently." for name in names]
    if manifest.is_statement and statement(manifest) != manifest.data:
        found.append(f"{MANIFEST} is not written as recon writes it.")
    if manifest.is_statement and not found and sums(directory, manifest) != (directory / SUMS).read_bytes():
        found.append(f"{SUMS} is not what {MANIFEST} makes it.")
    return found


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
    except (OSError, ValueError, RecursionError):
        return None


def _belonging(directory: Path, manifest: Manifest | None) -> str:
    """What holds of an untouched folder; a copy under another name is as good, and said to be one."""
    good = "all reports belong to one batch of one profile"
    if manifest is None or directory.resolve().name == manifest.batch_id:
        return good
    return f"{good}; note: the folder is named {directory.resolve().name!r}, the batch {manifest.batch_id!r}"


def _foreign(manifest: Manifest | None, readings: dict[str, SealReading]) -> list[str]:
    sealed = {name: reading.result for name, reading in readings.items() if reading.result is not None}
    owners = {(result["profile_id"], result["batch_id"]) for result in sealed.values()}
    if manifest is not None:
        owners.add((manifest.profile_id, manifest.batch_id))
    found = ", ".join(f"profile {profile!r} batch {batch!r}" for profile, batch in sorted(owners))
    return [] if len(owners) == 1 else [f"Found {found}."]
