"""Whether the database still holds what the last run of a report folder recorded, cell by cell. Reads only.

A row that was recorded must be there, the same in every column; rows that were added since are the matter of
`recon.agreement`, which knows what a stage may append. Rules: rules.md 15.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.audit import audit_table
from recon.batches import Batch
from recon.domain import Check, Decision, Stage, State
from recon.doors.access import protection
from recon.kept_rows import Row, audit_rows, by_id, named, order_columns, order_rows
from recon.orders import Orders
from recon.orders_schema import OPTIONAL, REQUIRED
from recon.record import AUDIT, ORDERS, approval_files, cells, database_identity, named_ids, stamps
from recon.reporting.manifest import Manifest
from recon.reporting.names import RECORD, order
from recon.reporting.records import kept_rows
from recon.reporting.strike import is_struck_of
from recon.wording import count

SETTLED = {State.APPLIED.value, State.VALIDATED.value, State.SIGNED.value, State.ROLLED_BACK.value}
"""States in which a batch's plan, scope and approval stay what they are."""

PAIRS = 1_000_000
"""How many pairs of rows are looked at to tell a changed row from one that is gone and another that came."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """The youngest run whose record could be read: its notebook's name and the facts of its record."""

    report: str
    facts: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Where its record lies, seen from the report folder."""
        return f"{RECORD}/{self.report.removesuffix('.ipynb')}"


def last_run(manifest: Manifest) -> LastRun | None:
    """The run whose record was read last, by the database's own clock; None when there is no record at all."""
    runs = [LastRun(run["report"], manifest.facts(run["report"])) for run in manifest.runs]
    read = [run for run in runs if run.facts.get("read_at")]
    return max(read, key=lambda run: (run.facts["read_at"], order(run.report)), default=None)


def place_note(connection: Connection, batch: Batch, last: LastRun | None) -> str:
    """What to say when this is another database than the one that the last run saw, or guarded or stamped otherwise.

    A restored backup is another; doors are made anew when `orders` changes; a stage may have run and be kept in another
    folder. None of it is wrong by itself.
    """
    if last is None:
        return ""
    here = database_identity(connection)
    told = last.facts["database"]
    changed = [key for key in ("name", "system_identifier") if told[key] and here[key] and told[key] != here[key]]
    differing = ", ".join(f"{key.replace('_', ' ')} {here[key]}, recorded {told[key]}" for key in changed)
    notes = [f"another database than the last run's ({differing})"] if differing else []
    recorded = (last.facts.get("protection") or {}).get("digest")
    found = protection(connection)
    if recorded is not None and recorded != found.digest:
        notes.append(f"its doors and triggers have digest {found.digest}, recorded {recorded}")
    if found.changed:
        notes.append(f"its doors are not as `recon init --roles` made them: {', '.join(found.changed)}")
    if batch.state == last.facts["state"] and (stamped := _stamped_since(batch, last.facts.get("stamps", {}))):
        notes.append(f"the batch has {stamped}")
    return f"; note: {'; '.join(notes)}" if notes else ""


def record_checks(
    connection: Connection, batch: Batch, folder: Path, manifest: Manifest, results: Sequence[Mapping[str, Any]]
) -> Iterator[Check]:
    """`recorded_audit`, `recorded_orders` and `recorded_batch`: what the last run recorded, held against the database.

    `results` are those of the reports that wrote something. A folder without any record gets no such check.
    """
    last = last_run(manifest)
    if last is None:
        return
    later = [
        result["report"]
        for result in results
        if result["stage"] in (Stage.APPLY, Stage.ROLLBACK)
        and not manifest.facts(result["report"]).get("read_at")
        and order(result["report"]) > order(last.report)
    ]
    if later:
        yield Check("recorded_rows", True, f"not compared: {later[-1]} wrote later and kept no rows")
        return
    try:
        audit_columns, audited = kept_rows(folder, last.report, AUDIT)
        columns, ordered = kept_rows(folder, last.report, ORDERS)
    except (OSError, ValueError) as error:
        yield Check("recorded_rows", False, f"the rows in {last.folder} cannot be read: {error}")
        return
    now = audit_rows(connection, batch.profile_id, batch.batch_id)
    yield _audit_check(last, audit_columns, audited, now)
    orders = Orders.reflect(connection)
    kept = by_id(columns, ordered)
    ids = named_ids(batch, now) | {order_id for order_id in kept if order_id}
    there = order_rows(connection, orders, batch.profile_id, ids)
    shared = _touched_by_others(connection, batch, ids)
    yield _orders_check(last, orders, kept, by_id(order_columns(orders), there), shared)
    yield _batch_check(last, batch, folder)


def _audit_check(last: LastRun, columns: Sequence[str], kept: Sequence[Row], now: Sequence[Row]) -> Check:
    missing = list((Counter(kept) - Counter(now)).elements())
    added = list((Counter(now) - Counter(kept)).elements())
    since = len(added) - len(missing)
    wrong = []
    for row in missing:
        twin = _twin(row, added) if len(missing) * len(added) <= PAIRS else None
        if twin is None:
            wrong.append(f"{_name(columns, row)} is missing")
            continue
        added.remove(twin)
        if differing := _differences(named(columns, row), named(columns, twin)):
            wrong.append(f"{_name(columns, row)} has {differing}")
    good = f"{count(len(kept), 'row')} as in {last.folder}/{AUDIT}"
    good += f", {count(since, 'row')} added since" if since > 0 else ""
    return Check("recorded_audit", not wrong, "; ".join(wrong) or good)


def _twin(row: Row, added: Sequence[Row]) -> Row | None:
    """The row that most likely was this one: of those that agree with it in most cells, the one that does in most."""
    best, same = None, len(row) // 2
    for other in added:
        agreeing = sum(1 for one, two in zip(row, other, strict=True) if one == two)
        if agreeing > same:
            best, same = other, agreeing
    return best


def _orders_check(
    last: LastRun,
    orders: Orders,
    kept: Mapping[str | None, Mapping[str, str | None]],
    now: Mapping[str | None, Mapping[str, str | None]],
    shared: set[str],
) -> Check:
    """A row that another batch touched last may have another status; that batch's own report answers for it.

    A cell that recon neither knows nor wrote may change as the backend pleases, and is a note.
    """
    own = {*REQUIRED, *OPTIONAL, *orders.copied}
    wrong: list[str] = []
    noted: list[str] = []
    columns = {name for cells_then in kept.values() for name in cells_then}
    for gone in sorted(columns - {*order_columns(orders)}):
        (wrong if gone in own else noted).append(f"orders no longer has {gone}")
    for order_id, cells_then in kept.items():
        found = now.get(order_id)
        if found is None:
            wrong.append(f"{order_id} is missing")
            continue
        left_out = ("status", "updated_at") if order_id in shared else ()
        for into, is_own in ((wrong, True), (noted, False)):
            compared = {
                name: cell
                for name, cell in cells_then.items()
                if name in found and name not in left_out and (name in own) is is_own
            }
            if differing := _differences(compared, found):
                into.append(f"{order_id} has {differing}")
    good = f"{count(len(kept), 'row')} as in {last.folder}/{ORDERS}"
    others = len(shared & kept.keys())
    good += f"; the status of {others} is another batch's matter" if others else ""
    note = f"; note: {'; '.join(noted)}" if noted else ""
    return Check("recorded_orders", not wrong, ("; ".join(wrong) or good) + note)


def _batch_check(last: LastRun, batch: Batch, folder: Path) -> Check:
    """Once applied, the plan, the scope and the approval of a batch stay as they were, to the last byte."""
    told, found = last.facts["cells"], cells(batch)
    settled = last.facts["state"] in SETTLED
    compared = [name for name in found if name in told and (settled or name.startswith("created_"))]
    wrong = [f"the batch's {name} is not what it was" for name in compared if told[name] != found[name]]
    approvals = approval_files(batch)
    for name in ("approval.json", "rollback_approval.json"):
        final = last.facts["state"] == State.ROLLED_BACK if name.startswith("rollback") else settled
        for file in (name, f"{name}.sig"):
            kept = folder / last.folder / file
            if final and approvals.get(file) != (kept.read_bytes() if kept.is_file() else None):
                wrong.append(f"the batch's {file} is not that of {last.folder}")
    good = f"as in {last.folder}: {', '.join(compared)}{' and approvals' if settled else ''}"
    return Check("recorded_batch", not wrong, "; ".join(wrong) or good)


def _stamped_since(batch: Batch, recorded: Mapping[str, str | None]) -> str:
    """The stamps of the batch that are not as recorded, if it is not its rollback that was approved since."""
    now = stamps(batch)
    if (batch.rollback_approval or {}).get("approved_at") == now["updated_at"]:
        return ""
    return _differences(recorded, now)


def _touched_by_others(connection: Connection, batch: Batch, ids: set[str]) -> set[str]:
    """Those of the ids whose row another batch applied, or took back, after this one did, or at the same instant."""
    table = audit_table.c
    touched = sa.func.max(sa.func.greatest(table.created_at, table.reverted_at))
    query = (
        sa.select(sa.cast(table.backfill_order_id, sa.Text), sa.cast(table.batch_id, sa.Text), touched)
        .where(table.profile_id == batch.profile_id, sa.cast(table.decision, sa.Text) == Decision.APPLIED.value)
        .group_by(table.backfill_order_id, table.batch_id)
    )
    own: dict[str, datetime] = {}
    others: dict[str, datetime] = {}
    for order_id, batch_id, instant in connection.execute(query):
        if order_id in ids:
            side = own if batch_id == batch.batch_id else others
            side[order_id] = max(side.get(order_id, instant), instant)
    return {order_id for order_id, instant in others.items() if order_id not in own or own[order_id] <= instant}


def _name(columns: Sequence[str], row: Row) -> str:
    cell = named(columns, row)
    what = cell["backfill_order_id"] or cell["reason"]
    return f"{cell['decision']} {what} of trade {cell['trade_id']} ({cell['symbol']})"


def _differences(told: Mapping[str, str | None], found: Mapping[str, str | None]) -> str:
    """The cells that are not as told, each with both values; empty when all are, as far as nothing was struck out."""
    return ", ".join(
        f"{name} {_shown(found.get(name))}, recorded {_shown(cell)}"
        for name, cell in told.items()
        if not _is_as_told(cell, found.get(name))
    )


def _is_as_told(told: str | None, found: str | None) -> bool:
    if told is None or found is None:
        return told is found
    return told == found or is_struck_of(told, found)


def _shown(cell: str | None) -> str:
    return "NULL" if cell is None else cell
