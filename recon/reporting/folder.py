"""The report folder of one batch: numbered files that are never overwritten. Only here are they added.

What describes the folder is written by `recon.reporting.describe`.
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from recon.durable import move_folder
from recon.errors import ReconError, Refused
from recon.reporting.files import add_file
from recon.reporting.manifest import read_manifest
from recon.reporting.names import EVIDENCE, RECORD


def open_folder(folder: Path, profile_id: str) -> None:
    """Make sure, before anything is run, that a report of `profile_id` can be kept in `folder`.

    Raises `ReconError` (reports_unwritable) if the folder cannot be made or written, and `Refused`
    (batch_of_another_profile) if it holds another profile's reports. Leaves at most an empty folder behind.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        owner = read_manifest(folder, profile_id).profile_id
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
        taken = [f"{name}.{suffix}" for suffix in ("ipynb", "html", "json")]
        if any((folder / each).exists() for each in [*taken, f"{EVIDENCE}/{name}", f"{RECORD}/{name}"]):
            continue
        path = folder / f"{name}.ipynb"
        try:
            add_file(path, data)
        except FileExistsError:  # another run took the number between the look and the link
            continue
        return path
    raise AssertionError("the numbers do not end")


def add_beside(report: Path, kind: str, source: Path) -> None:
    """Move the folder `source` to where the report's evidence or record lies, its files read-only; never overwrites."""
    for path in source.iterdir():
        path.chmod(0o444)
    move_folder(source, report.parent / kind / report.stem)
