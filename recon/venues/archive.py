"""A snapshot as a statement folder, so that an incident can be worked on offline, handed over and planned again.

Entry points: `write_statement` and, for `recon.venues.statement`, `read_coverage`. A plan made from the folder equals
the plan made from the snapshot: what decides beyond fills, positions and open orders (gaps, doubts, replaced orders)
stands in `statement.json` under `coverage`, with the pages that were read. Only `write_statement` writes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from recon.domain import Doubt, Gap, Reason, Snapshot
from recon.identity import canonical_decimal, canonical_symbol, canonical_time
from recon.venues import rows

ABOUT = "statement.json"
"""The file that says what the others are; a folder without it may be half-written."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `coverage` of a statement says: parts of `recon.domain.Snapshot`, and sentences for the report."""

    gaps: tuple[Gap, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: frozenset[str] | None = None


def write_statement(folder: Path, snapshot: Snapshot, profile_id: str) -> None:
    """Write the snapshot as fills.csv, positions.csv, open_orders.csv and statement.json; an earlier one is replaced.

    Positions that are unknown, and open orders that were not checked, have no file. The folder is whole once
    statement.json is there, which comes last. Raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)
    tables: dict[str, tuple[Sequence[str], Iterable[Any] | None]] = {
        "fills.csv": (rows.FILL_COLUMNS, snapshot.fills),
        "positions.csv": (rows.POSITION_COLUMNS, snapshot.positions),
        "open_orders.csv": (rows.OPEN_ORDER_COLUMNS, snapshot.open_orders),
    }
    for name, (columns, entries) in tables.items():
        (folder / name).unlink(missing_ok=True)
        if entries is not None:
            (folder / name).write_text(_table(columns, entries), encoding="utf-8", newline="")
    about = json.dumps(_about(snapshot, profile_id), indent=1, ensure_ascii=False) + "\n"
    whole = folder / f".{ABOUT}.tmp"
    whole.write_text(about, encoding="utf-8")
    whole.replace(folder / ABOUT)


def read_coverage(about: Mapping[str, Any]) -> Recorded:
    """The parts of a snapshot that `coverage` holds; `ValueError`, `LookupError` or `TypeError` when malformed."""
    strange = set(about) - {"pages", "gaps", "doubts", "replaced", "notes", "asked"}
    if strange:
        raise ValueError(f"the unknown {', '.join(sorted(strange))}")
    gaps = tuple(
        Gap(gap["symbol"] and canonical_symbol(gap["symbol"]), _time(gap["start"]), _time(gap["end"]), str(gap["why"]))
        for gap in about.get("gaps", ())
    )
    doubts = tuple(Doubt(str(one["symbol"]), Reason(one["reason"]), str(one["why"])) for one in about.get("doubts", ()))
    replaced = {str(new): str(old) for new, old in dict(about.get("replaced", {})).items()}
    asked = about.get("asked")
    return Recorded(
        gaps,
        doubts,
        replaced,
        tuple(str(note) for note in about.get("notes", ())),
        None if asked is None else frozenset(map(canonical_symbol, asked)),
    )


def _about(snapshot: Snapshot, profile_id: str) -> dict[str, Any]:
    coverage = snapshot.coverage
    return {
        "venue": coverage.venue if coverage else snapshot.source,
        "profile_id": profile_id,
        "from": canonical_time(snapshot.window.start),
        "to": canonical_time(snapshot.window.end),
        "fetched_at": canonical_time(coverage.fetched_at) if coverage else None,
        "coverage": coverage_document(snapshot),
    }


def coverage_document(snapshot: Snapshot) -> dict[str, Any]:
    """What was fetched, page by page, and what is missing: for statement.json, and beside a stored plan."""
    return {
        "pages": [_plain(page) for page in snapshot.coverage.pages] if snapshot.coverage else [],
        "gaps": [_plain(gap) for gap in snapshot.gaps],
        "doubts": [_plain(doubt) for doubt in snapshot.doubts],
        "replaced": dict(snapshot.replaced),
        "notes": list(snapshot.notes),
        "asked": None if snapshot.asked is None else sorted(snapshot.asked),
    }


def _plain(entry: Any) -> dict[str, Any]:
    return {name: _cell(getattr(entry, name), raw=True) for name in entry.__dataclass_fields__}


def _cell(value: Any, *, raw: bool = False) -> Any:
    if isinstance(value, Decimal):
        return canonical_decimal(value)
    if isinstance(value, datetime):
        return canonical_time(value)
    return value if raw or value is not None else ""


def _table(columns: Sequence[str], entries: Iterable[Any]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(getattr(entry, column)) for column in columns] for entry in entries)
    return buffer.getvalue()


def _time(text: str) -> datetime:
    value = rows.parse_time(text)
    if value is None:
        raise ValueError(f"expected a time with offset, found {text!r}")
    return value
