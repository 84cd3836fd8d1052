"""The manifest of a report folder: an in-toto Statement over every file, and the chain of those that it replaced.

A file is a subject with the digest that it had when it was added, so one that is changed later stays changed in the
eyes of `recon verify`. Each manifest names the digest of the one that it replaces, which is kept: nothing can leave
the folder, or change, without leaving the chain. Nothing in here writes.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon.reporting.names import INDEX, MANIFEST, MANIFESTS, order

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
"""What in-toto calls the outer form."""

PREDICATE_TYPE = "urn:recon:report:v1"
"""What recon calls the inner one."""

ENTRY_KEYS = ("name", "sha256", "size", "stage", "verdict", "plan_digest", "kept_at")
"""What the manifest says of each file: `verdict` is None when the notebook is not a valid report, `kept_at` when the
manifest was written before there was one."""

RUN_KEYS = ("report", "stage", "verdict")
"""What it says of each run besides the facts of the run's own record."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says; `data` are its bytes, empty when there is none yet.

    `files` are entries by name. `subjects` are the digests of those files, of index.html and of the manifests that
    were replaced, by name. `is_statement` is false for the older form, which had neither subjects, runs nor previous.
    """

    profile_id: str
    batch_id: str
    files: tuple[dict[str, Any], ...] = ()
    runs: tuple[dict[str, Any], ...] = ()
    subjects: Mapping[str, str] | None = None
    previous: str | None = None
    is_statement: bool = True
    data: bytes = b""

    @property
    def digests(self) -> dict[str, str]:
        """The digest of every file that it answers for; of the older form, the reports and their evidence."""
        return {entry["name"]: entry["sha256"] for entry in self.files} | dict(self.subjects or {})

    @property
    def sha256(self) -> str:
        """The digest by which the next one names it."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def replaced(self) -> list[str]:
        """The names of the manifests that it says were replaced, first to last."""
        names = [name for name in self.subjects or {} if name.startswith(f"{MANIFESTS}/") and name.endswith(".json")]
        return sorted(names, key=lambda name: (len(name), name))

    def facts(self, report: str) -> dict[str, Any]:
        """What the record of a run says, by the name of its notebook; empty when none was kept."""
        found = next((run for run in self.runs if run["report"] == report), {})
        return {key: value for key, value in found.items() if key not in RUN_KEYS}


def read_manifest(folder: Path, profile_id: str = "") -> Manifest:
    """The manifest of the folder, or an empty one of `profile_id`; an unreadable one is an `OSError`."""
    path = folder / MANIFEST
    if not path.exists():
        return Manifest(profile_id, folder.name)
    return parse(path.read_bytes(), path.name)


def read_chain(folder: Path, last: Manifest) -> dict[str, Manifest]:
    """The manifests that `last` says were replaced and that are there, by name, the first one first.

    One that cannot be read is an `OSError`.
    """
    return {name: parse((folder / name).read_bytes(), name) for name in last.replaced if (folder / name).is_file()}


def parse(data: bytes, name: str) -> Manifest:
    """The manifest that these bytes are, in either form; an `OSError` that gives its `name` when they are none."""
    try:
        content = json.loads(data)
        is_statement = "_type" in content
        if is_statement and (content["_type"], content["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("another type")
        inner = content["predicate"] if is_statement else content
        files = ({"kept_at": None} | entry for entry in inner["files"])
        subjects = {one["name"]: one["digest"]["sha256"] for one in content["subject"]} if is_statement else None
        runs = tuple(inner["runs"]) if is_statement else ()
        previous = inner["previous"] if is_statement else None
        _require_texts([*inner["files"]], [run["report"] for run in runs], subjects or {}, previous)
        return Manifest(
            str(inner["profile_id"]),
            str(inner["batch_id"]),
            tuple({key: entry[key] for key in ENTRY_KEYS} for entry in files),
            runs,
            subjects,
            previous,
            is_statement,
            data,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise OSError(errno.EINVAL, f"{name} was changed and cannot be read") from None


def _require_texts(
    files: list[dict[str, Any]], reports: list[str], subjects: Mapping[str, str], previous: str | None
) -> None:
    """Names, digests and times are texts, so that all else may rely on it; `ValueError` else."""
    texts = [entry[key] for entry in files for key in ("name", "sha256")] + [*reports, *subjects, *subjects.values()]
    texts += [text for text in (*(entry.get("kept_at") for entry in files), previous) if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not a text")


def statement(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest as an in-toto Statement: the same content gives the same bytes."""
    subjects = sorted((manifest.subjects or {}).items())
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "profile_id": manifest.profile_id,
            "batch_id": manifest.batch_id,
            "files": sorted(manifest.files, key=lambda entry: order(entry["name"])),
            "runs": sorted(manifest.runs, key=lambda run: order(run["report"])),
            "previous": manifest.previous,
        },
    }
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def sums_text(digests: Mapping[str, str]) -> bytes:
    """SHA256SUMS as coreutils reads it, in the order of the names."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def lasting(manifest: Manifest) -> dict[str, str]:
    """The digests that every later manifest must repeat: those of all files but index.html, which is replaced."""
    return {name: digest for name, digest in manifest.digests.items() if name != INDEX}
