"""index.html of a report folder: every run, and how the batch stood after the last whose record could be read.

The manifest holds the page's digest, so a signature of the manifest comes later, and the page cannot tell of it. Reads
only; the same folder gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recon.reporting.manifest import Manifest
from recon.reporting.markup import CSS, fill
from recon.reporting.names import EVIDENCE, RECORD, order, sha256
from recon.reporting.render import PAGE_CSS
from recon.reporting.result import printable
from recon.signatures import fingerprint

APPROVALS = {"approval": "The plan was approved", "rollback_approval": "Its rollback was approved"}
"""How the page begins to speak of each kind of approval."""


def folder_page(folder: Path, manifest: Manifest) -> bytes:
    """The page for what the manifest lists; of the files, the approvals of the last run are read."""
    last = _last_record(manifest)
    approvals = list(_approvals(folder, manifest, last)) if last else []
    state = last and manifest.facts(last)["state"]
    values = {"manifest": manifest, "runs": list(_rows(manifest)), "last": last, "state": state, "approvals": approvals}
    return fill("folder.html.j2", **values, css=PAGE_CSS + CSS).encode()


def _last_record(manifest: Manifest) -> str | None:
    """The run whose record was read last; None when no record tells of a batch."""
    runs = [run for run in manifest.runs if isinstance(run.get("read_at"), str) and run.get("state")]
    return max(runs, key=lambda run: (run["read_at"], order(run["report"])), default={"report": None})["report"]


def _approvals(folder: Path, manifest: Manifest, report: str) -> Iterator[str]:
    """Who gave the approvals of that run's record, and with which key; a file that was changed tells nothing."""
    for kind, begin in APPROVALS.items():
        name = f"{RECORD}/{report.removesuffix('.ipynb')}/{kind}.json"
        try:
            by = json.loads(_unchanged(folder, manifest, name))["by"]
            how = "without a signature"
            if f"{name}.sig" in manifest.digests:
                key = fingerprint(_unchanged(folder, manifest, f"{name}.sig").decode())
                how = f"with a signature by the key {key}" if key else "with a signature that cannot be read"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        yield f"{begin} by {printable(str(by))}, {how}."


def _unchanged(folder: Path, manifest: Manifest, name: str) -> bytes:
    """A file's content; `KeyError` when it is not listed, `ValueError` when it is not as listed."""
    if manifest.digests[name] != sha256(folder / name):
        raise ValueError(name)
    return (folder / name).read_bytes()


def _rows(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """One line of the page per run, in the order in which they were kept."""
    names = sorted(entry["name"] for entry in manifest.files)
    notebooks = [entry for entry in manifest.files if entry["name"].endswith(".ipynb")]
    for entry in sorted(notebooks, key=lambda entry: entry["kept_at"] or ""):
        stem = entry["name"].removesuffix(".ipynb")
        suffixes = [suffix for suffix in ("html", "ipynb", "json") if f"{stem}.{suffix}" in names]
        beside = {kind: [name for name in names if name.startswith(f"{kind}/{stem}/")] for kind in (EVIDENCE, RECORD)}
        yield entry | beside | {"stem": stem, "suffixes": suffixes}
