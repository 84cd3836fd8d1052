"""Bringing the files that describe a report folder up to date: index.html, manifest.json, SHA256SUMS.

In an order that a power cut may stop anywhere: the manifest to be replaced is kept first, then the page is written,
then the manifest, then the sums. Describing the folder again completes what was cut short, and a report of which the
notebook alone was kept, from its seal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.reporting.files import add_file, alone_in, remove_file, replace_file
from recon.reporting.folder_page import folder_page
from recon.reporting.manifest import Manifest, parse, read_manifest, statement, sums_text
from recon.reporting.names import (
    INDEX,
    MANIFEST,
    MANIFESTS,
    RECORD,
    SIGNATURE,
    STAGES,
    SUMS,
    kept_files,
    order,
    report_files,
    sha256,
)
from recon.reporting.render import render
from recon.reporting.result import ResultJson
from recon.reporting.seal import load_notebook, read_report

if TYPE_CHECKING:
    from nbformat import NotebookNode


def describe(folder: Path, profile_id: str, *, anew: bool = False) -> None:
    """Bring the files that describe the folder up to date with what is in it; writes those.

    A manifest that says something else replaces the one that is there, which goes to `manifests/` with its signature;
    with `anew` also one that says the same. Two that describe one folder wait for each other; where the file system
    cannot make them wait, whoever finds the folder changed after writing writes again.
    """
    with alone_in(folder):
        while True:
            _complete_cut_short(folder, read_manifest(folder, profile_id))
            listed = kept_files(folder)
            written = _describe(folder, profile_id, listed, anew)
            anew = False
            if kept_files(folder).keys() == listed.keys() and read_manifest(folder, profile_id) == written:
                return


def write_signature(folder: Path, data: bytes, signature: str) -> bool:
    """Place the signature of the manifest `data` beside it and list it; false when the manifest is another by now."""
    with alone_in(folder):
        manifest = read_manifest(folder)
        if manifest.data != data:
            return False
        replace_file(folder / SIGNATURE, signature.encode("ascii"))
        _write_sums(folder, manifest)
        return True


def sums(folder: Path, manifest: Manifest) -> bytes:
    """What SHA256SUMS must hold: the digests that the manifest knows, its own, and that of its signature."""
    own = {MANIFEST: manifest.sha256}
    if (folder / SIGNATURE).is_file():
        own[SIGNATURE] = sha256(folder / SIGNATURE)
    return sums_text(manifest.digests | own)


def _describe(folder: Path, profile_id: str, listed: Mapping[str, Any], anew: bool) -> Manifest:
    before = read_manifest(folder, profile_id)
    after = _grown(folder, before, listed)
    page = folder_page(folder, after)
    if not before.data or not before.is_statement or anew or (after.files, after.runs) != (before.files, before.runs):
        after = _replacing(folder, before, after, page)
        remove_file(folder / SIGNATURE)
        replace_file(folder / INDEX, page)
        replace_file(folder / MANIFEST, after.data)
    elif hashlib.sha256(page).hexdigest() == before.digests.get(INDEX):
        replace_file(folder / INDEX, page)
    _write_sums(folder, after)
    return after


def complete(report: Path, notebook: NotebookNode, result: ResultJson) -> None:
    """Write the data and the page of a kept notebook; writes. They may be there already, as somebody completed them.

    `FileExistsError` when one of them is there and says something else.
    """
    saved = result | {"report": report.name}
    data = (json.dumps(saved, indent=2, ensure_ascii=False) + "\n").encode()
    _keep(report.parent, report.with_suffix(".json").name, data)
    _keep(report.parent, report.with_suffix(".html").name, render(notebook, saved).encode())


def _complete_cut_short(folder: Path, before: Manifest) -> None:
    """Complete the reports of which only the notebook is there: a power cut came between their files."""
    known = {entry["name"] for entry in before.files}
    for name, match in report_files(folder).items():
        report = folder / name
        alone = report.suffix == ".ipynb" and not all(report.with_suffix(each).exists() for each in (".json", ".html"))
        if alone and name not in known and not match["failed"]:
            result = read_report(report).result
            if result is not None:
                with suppress(FileExistsError):
                    complete(report, load_notebook(report), result)


def _write_sums(folder: Path, manifest: Manifest) -> None:
    replace_file(folder / SUMS, sums(folder, manifest))


def _grown(folder: Path, before: Manifest, listed: Mapping[str, Any]) -> Manifest:
    """The manifest with the files that it did not know, and the run of each report."""
    known = {entry["name"] for entry in before.files}
    files = [*before.files, *(_entry(folder, name, listed[name]) for name in _new(listed, known))]
    files.sort(key=lambda entry: order(entry["name"]))
    digests = {entry["name"]: entry["sha256"] for entry in files}
    runs = [_run(folder, entry, before, digests) for entry in files if entry["name"].endswith(".ipynb")]
    return replace(before, files=tuple(files), runs=tuple(runs))


def _replacing(folder: Path, before: Manifest, after: Manifest, page: bytes) -> Manifest:
    """The manifest `after` as the one that replaces `before`, which is kept first."""
    kept = {name: digest for name, digest in before.digests.items() if name.startswith(f"{MANIFESTS}/")}
    if before.data:
        name = f"{MANIFESTS}/{len(before.replaced) + 1}.json"
        (folder / MANIFESTS).mkdir(exist_ok=True)
        kept[name] = _keep(folder, name, before.data)
        if (folder / SIGNATURE).is_file():
            _keep(folder, f"{name}.sig", (folder / SIGNATURE).read_bytes())
        if (folder / f"{name}.sig").is_file():
            kept[f"{name}.sig"] = sha256(folder / f"{name}.sig")
    subjects = {entry["name"]: entry["sha256"] for entry in after.files} | kept
    subjects[INDEX] = hashlib.sha256(page).hexdigest()
    previous = before.sha256 if before.data else None
    return parse(statement(replace(after, subjects=subjects, previous=previous, is_statement=True)), MANIFEST)


def _keep(folder: Path, name: str, data: bytes) -> str:
    """Keep a file that may be there already, with the same content, because its writing was cut short."""
    try:
        add_file(folder / name, data, folder)
    except FileExistsError:
        if (folder / name).read_bytes() != data:
            raise
    return hashlib.sha256(data).hexdigest()


def _new(listed: Mapping[str, Any], known: set[str]) -> list[str]:
    """What is not known yet; a file that joins evidence that is known already is none of ours, and stays unlisted."""
    whole = {name.rpartition("/")[0] for name in known} - {""}
    return [name for name in listed if name not in known and name.rpartition("/")[0] not in whole]


def _entry(folder: Path, name: str, match: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / name
    result = None if match["failed"] else read_report(folder / f"{match['name']}.ipynb").result
    return {
        "name": name,
        "sha256": sha256(path),
        "size": path.stat().st_size,
        "stage": STAGES[match["stem"]].value,
        "verdict": "FAILED" if match["failed"] else result and result["verdict"],
        "plan_digest": result and result["plan_digest"],
        "kept_at": f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _run(folder: Path, entry: Mapping[str, Any], before: Manifest, digests: Mapping[str, str]) -> dict[str, Any]:
    """What the manifest says of one run: the facts of its record, once that is there, and its verdict."""
    report = entry["name"]
    facts = before.facts(report)
    name = f"{RECORD}/{report.removesuffix('.ipynb')}/run.json"
    if not facts and name in digests:
        facts = _facts(folder / name, digests[name])
    return facts | {"report": report, "stage": entry["stage"], "verdict": entry["verdict"]}


def _facts(path: Path, digest: str) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        facts = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) and hashlib.sha256(data).hexdigest() == digest else {}
