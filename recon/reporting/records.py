"""The records in a report folder: finished by the runner, and checked without the database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.kept_rows import from_csv, to_csv
from recon.record import AUDIT, ORDERS, RUN, UNREAD, json_bytes, sha256_of
from recon.reporting.manifest import Manifest
from recon.reporting.names import RECORD
from recon.reporting.strike import struck_csv, struck_json

if TYPE_CHECKING:
    from recon.settings import Settings

UNRECORDED = "unrecorded: the notebook broke off, or could not write what it read"
"""What a run's record says when the kernel left none."""

Rows = tuple[tuple[str, ...], list[tuple[str | None, ...]]]
"""Columns and rows of a kept CSV file."""


def finish_record(folder: Path, settings: Settings, told: Mapping[str, Any]) -> None:
    """Strike secrets out of every file of a record and add what the runner has to tell of the run; writes there.

    Where the kernel left no whole record, that is all that run.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = (folder / RUN).is_file()
    run = json.loads((folder / RUN).read_bytes()) if whole else dict(UNREAD) | {"error": UNRECORDED}
    for path in sorted(folder.iterdir()):
        if not whole:
            path.unlink()
        elif path.name != RUN:
            struck = struck_csv if path.suffix == ".csv" else struck_json
            data = struck(path.read_bytes().decode(), settings).encode()
            path.write_bytes(data)
            if path.suffix == ".csv":
                run[path.stem]["sha256"] = sha256_of(data)
            else:
                run["approvals"][path.name] = sha256_of(data)
    (folder / RUN).write_bytes(struck_json(json_bytes(dict(told) | run).decode(), settings).encode())


def kept_rows(folder: Path, report: str, name: str) -> Rows:
    """The rows that a run kept of the audit or of `orders`, by its notebook's name; `OSError` or `ValueError`."""
    path = folder / RECORD / report.removesuffix(".ipynb") / name
    return from_csv(path.read_bytes().decode())


def record_findings(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the records: each must say what the manifest says of its run, and hold what it counts."""
    for run in manifest.runs:
        report = run["report"]
        stem = report.removesuffix(".ipynb")
        facts = manifest.facts(report)
        if f"{RECORD}/{stem}/{RUN}" not in manifest.digests:
            if facts:
                yield f"{report} has no {RUN} of which the manifest could tell."
            continue
        if _read_json(folder / RECORD / stem / RUN) != facts:
            yield f"{RECORD}/{stem}/{RUN} does not say what the manifest says of the run."
            continue
        if not _is_record(facts):
            yield f"{RECORD}/{stem}/{RUN} is no record of a run."
            continue
        yield from _counted(folder, stem, facts)


def _is_record(facts: Mapping[str, Any]) -> bool:
    """Whether the facts have the shape that recon gives them, so that all else may rely on it."""
    counted = [facts.get(kind) for kind in ("audit", "orders")]
    shaped = UNREAD.keys() <= facts.keys() and all(
        isinstance(one, dict) and one.keys() == {"count", "sha256"} for one in counted
    )
    if not shaped or facts["read_at"] is None:
        return shaped and all(facts[key] == UNREAD[key] for key in UNREAD)
    expected = {"read_at": str, "approvals": dict, "cells": dict, "database": dict}
    return (
        all(isinstance(facts.get(key), kind) for key, kind in expected.items())
        and {"name", "system_identifier"} <= facts["database"].keys()
        and facts["cells"].keys() >= {"scope", "plan", "created_at"}
        and isinstance(facts.get("stamps", {}), dict)
    )


def unread(manifest: Manifest) -> list[str]:
    """What the records say of a database that they could not read, and of runs without a record: one sentence each."""
    told = []
    for run in manifest.runs:
        facts = manifest.facts(run["report"])
        why = facts.get("error") if facts else "no record was kept"
        if why:
            told.append(f"{run['report']}: {why}")
    return told


def _counted(folder: Path, stem: str, facts: Mapping[str, Any]) -> Iterator[str]:
    expected = {name: facts[kind]["sha256"] for name, kind in ((AUDIT, "audit"), (ORDERS, "orders"))}
    expected |= facts["approvals"] or {}
    there = {path.name for path in (folder / RECORD / stem).iterdir()} - {RUN}
    for name in sorted(there | expected.keys()):
        path, digest = folder / RECORD / stem / name, expected.get(name)
        if digest != (sha256_of(path.read_bytes()) if path.is_file() else None):
            yield f"{RECORD}/{stem}/{name} is not what {RUN} says."
        elif digest and name.endswith(".csv") and not _is_whole(path, facts[path.stem]["count"]):
            yield f"{RECORD}/{stem}/{name} does not hold {facts[path.stem]['count']} rows as recon writes them."


def _is_whole(path: Path, number: int) -> bool:
    text = path.read_bytes().decode("utf-8", errors="replace")
    try:
        columns, rows = from_csv(text)
    except ValueError:
        return False
    return len(rows) == number and to_csv(columns, rows) == text


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
