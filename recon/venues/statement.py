"""The exchange as a folder of files: fills.csv, positions.csv, open_orders.csv and statement.json.

Invariant 10; rules.md 1 (window) and 7. A file that is missing is unknown or not checked, never a yes; a file that
cannot be read in full is refused with its line and column. `from` and `to` of statement.json bound the window: fills
outside it are not evidence, and the report counts them. Nothing is written.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from recon.domain import NOTHING_SPECIAL, Snapshot, Wanted, Window
from recon.errors import Refused
from recon.strictjson import parse_object
from recon.venues import rows
from recon.venues.archive import Recorded, read_coverage
from recon.venues.rows import Row, found, unreadable

PLACEHOLDER = "{profile_id}"
"""Stands for the profile in the folder's name, so that one setting serves many profiles."""

_SOURCE = "statement"
_KEYS = ("venue", "account", "from", "to", "fetched_at", "profile_id")
_COVERAGE = "coverage"


class StatementExchange:
    """Evidence from a statement folder; implements `recon.venues.base.Exchange`."""

    live = False

    def __init__(self, directory_template: str, *, name: str | None = None) -> None:
        """Take the folder as given; `name` is what reports call it, else the folder itself."""
        self._template = directory_template
        self.name = name or f"statement:{directory_template}"

    def fetch(
        self,
        profile_id: str,
        *,
        now: datetime,
        lookback: timedelta,
        window: Window | None = None,
        wanted: Wanted = NOTHING_SPECIAL,
    ) -> Snapshot:
        """What the folder says; see `Exchange.fetch`. Raises `Refused` (evidence_unreadable), writes nothing."""
        folder = self._folder(profile_id)
        about, recorded = _read_about(folder, profile_id, now)
        fill_rows = _read_rows(folder / "fills.csv", rows.FILL_COLUMNS)
        if fill_rows is None:
            raise unreadable(_SOURCE, f"fills.csv: expected this file in {folder}, found none")
        position_rows = _read_rows(folder / "positions.csv", rows.POSITION_COLUMNS)
        order_rows = _read_rows(folder / "open_orders.csv", rows.OPEN_ORDER_COLUMNS)
        every = rows.read_fills(fill_rows, now)
        end = about.time("to") if about.cells["to"] else rows.latest(every, now)
        window = window or _settle_window(about, end, lookback)
        fills, left_out = rows.within(window, every)
        positions = None if position_rows is None else rows.read_positions(position_rows)
        open_orders = None if order_rows is None else rows.read_open_orders(order_rows)
        notes = (*_notes(about, positions is None, open_orders is None), *recorded.notes, *left_out)
        return Snapshot(
            self.name,
            window,
            fills,
            positions,
            open_orders,
            notes,
            gaps=recorded.gaps,
            doubts=recorded.doubts,
            replaced=recorded.replaced,
            asked=recorded.asked,
        )

    def _folder(self, profile_id: str) -> Path:
        folder = self._template
        if PLACEHOLDER in folder:
            if profile_id in ("", ".") or any(part in profile_id for part in ("/", "\\", "..", "\0")):
                raise Refused(
                    "evidence_unreadable",
                    f"profile_id {profile_id!r} cannot stand for {PLACEHOLDER} in {self.name}: expected a name without "
                    "'/', '\\', '..' and NUL; give this profile a statement folder without the placeholder.",
                )
            folder = folder.replace(PLACEHOLDER, profile_id)
        return Path(folder)


def _read_about(folder: Path, profile_id: str, now: datetime) -> tuple[Row, Recorded]:
    text = _read_text(folder / "statement.json")
    cells, recorded = ({}, Recorded()) if text is None else _parse_about(text)
    about = Row(_SOURCE, "statement.json", dict.fromkeys(_KEYS, "") | cells)
    if about.cells["from"]:
        about.time("from")
    for key in ("to", "fetched_at"):
        if about.cells[key]:
            about.past(key, now)
    if about.cells["from"] and about.cells["to"] and about.time("from") > about.time("to"):
        raise about.refusal("from", f"a time not after `to` ({about.cells['to']})")
    if about.cells["profile_id"] not in ("", profile_id):
        raise about.refusal("profile_id", f"{profile_id!r}, since one account serves one profile")
    return about, recorded


def _parse_about(text: str) -> tuple[dict[str, str], Recorded]:
    try:
        about = parse_object(text)
    except ValueError as error:
        raise unreadable(_SOURCE, f"statement.json: expected one JSON object, found {error}") from None
    texts, recorded = {}, _parse_coverage(about.pop(_COVERAGE, None))
    for key, value in about.items():
        if key not in _KEYS:
            known = ", ".join((*_KEYS, _COVERAGE))
            raise unreadable(_SOURCE, f"statement.json: expected only the keys {known}, found {found(key)}")
        if not isinstance(value, str | None):
            raise unreadable(_SOURCE, f"statement.json, key {key}: expected text in quotes, found {found(str(value))}")
        texts[key] = value or ""
    return texts, recorded


def _parse_coverage(about: object) -> Recorded:
    try:
        if about is None:
            return Recorded()
        if not isinstance(about, dict):
            raise TypeError(f"another kind of value, {type(about).__name__}")
        return read_coverage(about)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"statement.json, key {_COVERAGE}: expected what `recon fetch` writes, found {type(error).__name__}"
        raise unreadable(_SOURCE, f"{problem}: {found(str(error))}") from None


def _settle_window(about: Row, end: datetime, lookback: timedelta) -> Window:
    start = rows.window_start(end, lookback)
    if about.cells["from"]:
        begin = about.time("from")
        if begin > end:
            raise about.refusal("from", "a time that is not in the future")
        start = max(begin, start)
    return Window(start, end)


def _notes(about: Row, positions_unknown: bool, orders_unknown: bool) -> Iterator[str]:
    labels = [f"{key} {about.cells[key]}" for key in ("venue", "account", "fetched_at") if about.cells[key]]
    if labels:
        yield f"The statement describes itself: {', '.join(labels)}."
    if positions_unknown:
        yield "Positions are unknown: the statement has no positions.csv."
    if orders_unknown:
        yield "Open orders were not checked: the statement has no open_orders.csv."


def _read_text(path: Path) -> str | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"{path.name}: expected a readable file in {path.parent}, found: {error.strerror}"
        raise unreadable(_SOURCE, problem) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise unreadable(_SOURCE, f"{path.name} line {line}: expected UTF-8, found {error.reason}") from None


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[Row] | None:
    text = _read_text(path)
    if text is None:
        return None
    records = _read_records(path.name, text)
    line, header = next(records, (1, []))
    _check_header(f"{path.name} line {line}", header, columns)
    read = []
    for line, cells in records:
        where = f"{path.name} line {line}"
        if len(cells) != len(header):
            raise unreadable(_SOURCE, f"{where}: expected {len(header)} cells, found {len(cells)}")
        read.append(Row(_SOURCE, where, dict(zip(header, cells, strict=True))))
    return read


def _read_records(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Every record that is not a blank line, with the line on which it begins (a quoted cell may span several)."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise unreadable(_SOURCE, f"{name} line {line}: expected well-formed CSV, found: {error}") from None


def _check_header(where: str, header: list[str], columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in header]
    unknown = [column for column in header if column not in columns]
    repeated = sorted({column for column in header if header.count(column) > 1})
    problems = {"missing": missing, "unknown": unknown, "there twice": repeated}
    said = "; ".join(f"{problem}: {', '.join(map(found, names))}" for problem, names in problems.items() if names)
    if said:
        raise unreadable(_SOURCE, f"{where}: expected the columns {', '.join(columns)}, found {said}")
