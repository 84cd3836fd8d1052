"""Whether the database agrees with a report folder: the batch, its audit rows and its order rows. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from recon import audit, batches
from recon.database import transaction
from recon.demo import DEMO_PROFILE
from recon.domain import Check, State
from recon.errors import ReconError
from recon.identity import digest
from recon.orders import Orders
from recon.plan import item_from
from recon.reporting.folder import report_files
from recon.settings import Settings
from recon.stages.approved import altered_rows
from recon.workspace import open_workspace


def database_checks(settings: Settings, directory: Path) -> list[Check]:
    """What the database says of the folder's batch.

    Without RECON_DATABASE_URL a batch that the embedded demo does not hold is not compared, and the check says so.
    """
    results = _results(directory)
    batch_id, profile_id = results[-1]["batch_id"], results[-1]["profile_id"]
    if settings.is_demo and profile_id != DEMO_PROFILE:
        return [Check("database", True, "not compared: no database is configured (RECON_DATABASE_URL)")]
    try:
        with transaction(open_workspace(settings=settings).engine, read_only=True, snapshot=True) as connection:
            batch = batches.load(connection, batch_id, profile_id)
            if batch.state is None and settings.is_demo:
                return [Check("database", True, "not compared: the embedded demo no longer holds this batch")]
            return list(_compare(connection, batch, results))
    except ReconError as error:
        return [Check("database", False, f"{error.code}: {error.message}")]


def _results(directory: Path) -> list[dict[str, Any]]:
    """The results of the folder's reports, by stage and number: a copied folder keeps the names, not the times."""
    found = [
        (match["stem"], int(match["number"] or 1), name)
        for name, match in report_files(directory).items()
        if name.endswith(".json") and not match["failed"]
    ]
    return [json.loads((directory / name).read_text(encoding="utf-8")) for _, _, name in sorted(found)]


def _compare(connection: Connection, batch: batches.Batch, results: list[dict[str, Any]]) -> Iterator[Check]:
    if batch.state is None:
        yield Check("database", False, f"expected batch {batch.batch_id}, found none; is this the right database?")
        return
    yield Check("database", True, f"batch {batch.batch_id} is {batch.state.value}")
    planned = [result["plan_digest"] for result in results if result["stage"] == "dry-run" and result["plan_digest"]]
    same = bool(planned) and batch.plan_digest == planned[-1]
    if planned or batch.plan_digest:
        told = planned[-1] if planned else "none"
        yield Check("plan_digest", same, f"the last dry run's report says {told}, the database {batch.plan_digest}")
    document = (batch.plan or {}).get("document")
    if document is not None:
        found = digest(document)
        yield Check("stored_plan", found == batch.plan_digest, f"the stored plan's own digest is {found}")
    reported = {
        item["order_id"]: item_from({"client_order_id": None} | item)
        for result in results
        if result["stage"] == "apply"
        for item in result["items"]
        if item["decision"] in ("APPLIED", "SKIP_EXISTING") and item["order_id"]
    }
    touched = audit.touched_ids(connection, batch.profile_id, batch.batch_id)
    apart = sorted(reported.keys() ^ touched)
    yield Check("audit_rows", not apart, f"rows in the report or in the audit alone: {', '.join(apart) or 'none'}")
    if batch.state in (State.APPLIED, State.VALIDATED):
        rows = list(reported.values())
        altered = altered_rows(connection, Orders.reflect(connection), batch.profile_id, rows)
        listed = "; ".join(f"{order_id} {what}" for order_id, what in altered.items())
        yield Check("order_rows", not altered, listed or f"all {len(rows)} rows are as reported")
