"""The record of a run: what the database held of the batch once the stage had ended, and where and how it ran.

Entry point: `write_record`, in the kernel that ran the stage. `run.json` holds the facts, `audit.csv` every audit row
of the batch, `orders.csv` every row of `orders` that its plan or audit names, and `approval.json` the bytes that were
approved, with the signature if there is one. What cannot be read never hides what the stage did: `run.json` then says
why. Rules: rules.md 15.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from recon import batches
from recon.approval import signed_bytes
from recon.batches import Batch
from recon.database import server_clock, shown_url, transaction
from recon.domain import BACKFILL_PREFIX
from recon.doors.access import protection
from recon.errors import ReconError
from recon.identity import canonical_time
from recon.kept_rows import AUDIT_COLUMNS, Row, audit_rows, named, order_columns, order_rows, to_csv
from recon.orders import Orders
from recon.settings import Settings
from recon.workspace import Workspace

RUN, AUDIT, ORDERS = "run.json", "audit.csv", "orders.csv"
"""The files that every record has; the last two only when the database could be read."""

APPROVALS = ("approval", "rollback_approval")
"""The documents of a batch that are kept once there are any: NAME.json, and NAME.json.sig when signed."""

UNREAD: Mapping[str, Any] = {
    "state": None,
    "plan_digest": None,
    "cells": None,
    "audit": {"count": None, "sha256": None},
    "orders": {"count": None, "sha256": None},
    "approvals": None,
    "protection": None,
    "read_at": None,
}
"""What a record says of a database that could not be read."""


def write_record(folder: Path, work: Workspace, profile_id: str, batch_id: str) -> None:
    """Write the record of a run that has ended into a new folder; reads the database in one transaction, writes files.

    Raises `OSError` when a file cannot be written, and nothing else for what cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = parameters(profile_id, batch_id, work.scope.trade_ids, work.scope.symbols) | _place(work)
    files: dict[str, bytes] = {}
    try:
        with transaction(work.engine, read_only=True, snapshot=True) as connection:
            facts, files = _read(connection, work, profile_id, batch_id)
        run |= facts | {"error": None}
    except ReconError as error:
        run |= dict(UNREAD) | {"error": f"the database could not be read when it had ended: {error.code}"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / RUN).write_bytes(json_bytes(run))


def parameters(profile_id: str, batch_id: str, trade_ids: Any = (), symbols: Any = ()) -> dict[str, Any]:
    """What the run was asked to do, as run.json says it."""
    scope = {"trade_ids": list(trade_ids), "symbols": list(symbols)}
    return {"parameters": {"profile_id": profile_id, "batch_id": batch_id, "scope": scope}}


def named_ids(batch: Batch, rows: list[Row]) -> set[str]:
    """The ids of rows of `orders` that the plan of a batch or its audit rows name."""
    planned = {item["order_id"] for item in (batch.plan or {}).get("document", {}).get("items", ())}
    audited = {named(AUDIT_COLUMNS, row)["backfill_order_id"] for row in rows}
    return {order_id for order_id in planned | audited if order_id and order_id.startswith(BACKFILL_PREFIX)}


def approval_files(batch: Batch) -> dict[str, bytes]:
    """The approvals of a batch as files: exactly the bytes that were or would be signed, and the signature."""
    files: dict[str, bytes] = {}
    for kind in APPROVALS:
        document = getattr(batch, kind)
        if document is None:
            continue
        files[f"{kind}.json"] = _approved(document)
        if document.get("signature"):
            files[f"{kind}.json.sig"] = str(document["signature"]).encode()
    return files


def cells(batch: Batch) -> dict[str, Any]:
    """Cells of the batch's row, each as text or a digest: those that no later stage of an applied batch changes."""
    return {
        "scope": _digest(batch.scope),
        "plan": _digest(batch.plan),
        "created_at": canonical_time(batch.created_at) if batch.created_at else None,
        "created_by": batch.created_by,
    }


def stamps(batch: Batch) -> dict[str, str | None]:
    """When the batch's row was written last, and by whom."""
    at = canonical_time(batch.updated_at) if batch.updated_at else None
    return {"updated_at": at, "updated_by": batch.updated_by}


def database_identity(connection: Connection) -> dict[str, Any]:
    """Which database this is, as whom, and, where it may be asked, the identifier of its cluster; reads only."""
    name, login, server = connection.execute(
        sa.text("SELECT current_database()::text, session_user::text, current_setting('server_version')")
    ).one()
    try:
        with connection.begin_nested():
            statement = sa.text("SELECT system_identifier::text FROM pg_control_system()")
            identifier = connection.execute(statement).scalar_one()
    except DBAPIError:
        identifier = None
    return {"name": name, "login": login, "server_version": server, "system_identifier": identifier}


def _read(
    connection: Connection, work: Workspace, profile_id: str, batch_id: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    batch = batches.load(connection, batch_id, profile_id)
    orders = Orders.reflect(connection)
    audited = audit_rows(connection, profile_id, batch_id)
    ordered = order_rows(connection, orders, profile_id, named_ids(batch, audited))
    files = {
        AUDIT: to_csv(AUDIT_COLUMNS, audited).encode(),
        ORDERS: to_csv(order_columns(orders), ordered).encode(),
    }
    approved = approval_files(batch)
    where = _database(work) | database_identity(connection)
    facts = {
        "database": where,
        "state": batch.state and batch.state.value,
        "plan_digest": batch.plan_digest,
        "cells": cells(batch),
        "stamps": stamps(batch),
        "audit": {"count": len(audited), "sha256": sha256_of(files[AUDIT])},
        "orders": {"count": len(ordered), "sha256": sha256_of(files[ORDERS])},
        "approvals": {name: sha256_of(data) for name, data in approved.items()},
        "read_at": canonical_time(server_clock(connection)),
    }
    return facts | {"protection": asdict(protection(connection))}, files | approved


def _place(work: Workspace) -> dict[str, Any]:
    """Where and how the run took place, as far as it is known without asking the database."""
    return {
        "settings": _settings(work.settings, shown_url(work.engine.url)),
        "database": _database(work),
        "versions": _versions(),
    }


def _database(work: Workspace) -> dict[str, Any]:
    unknown = dict.fromkeys(("name", "login", "server_version", "system_identifier"))
    return {"shown_url": shown_url(work.engine.url), "is_demo": work.settings.is_demo} | unknown


def _settings(settings: Settings, database: str) -> dict[str, str | None]:
    """Every setting as text; of a secret only whether it is set, of the database where it is."""
    told: dict[str, str | None] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if "SecretStr" in str(field.annotation):
            told[name.upper()] = "set" if isinstance(value, SecretStr) and value.get_secret_value() else "unset"
        else:
            told[name.upper()] = (
                None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            )
    return told | {"RECON_DATABASE_URL": database}


def _versions() -> dict[str, Any]:
    """Those of recon, of Python, and of the packages that recon itself asks for."""
    packages: dict[str, str | None] = {}
    for requirement in requires("recon") or ():
        if "extra ==" not in requirement and (name := re.match(r"[\w.-]+", requirement)):
            try:
                packages[name[0]] = version(name[0])
            except PackageNotFoundError:
                packages[name[0]] = None
    return {"recon": version("recon"), "Python": platform.python_version(), "packages": packages}


def _approved(document: Mapping[str, Any]) -> bytes:
    try:
        return signed_bytes(document)
    except TypeError:  # a number that nobody signed
        return json.dumps(document, sort_keys=True).encode()


def _digest(value: Any) -> str | None:
    return None if value is None else sha256_of(json.dumps(value, sort_keys=True).encode())


def sha256_of(data: bytes) -> str:
    """The SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A JSON object as it is written to run.json: the same content gives the same bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
