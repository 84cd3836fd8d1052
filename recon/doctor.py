"""`recon doctor`: what is configured, reachable and permitted; each failure says what to do. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon import audit
from recon.database import shown_url, transaction
from recon.domain import Check
from recon.errors import ReconError, UsageError
from recon.orders import Orders
from recon.pause import PauseState
from recon.settings import Settings
from recon.wording import count
from recon.workspace import Workspace, open_workspace

RIGHTS = {
    "orders": ("SELECT", "INSERT", "UPDATE"),
    **{t.name: ("SELECT", "INSERT", "UPDATE") for t in audit.metadata.sorted_tables},
}
"""What the connection needs on each table; LOCK TABLE needs UPDATE on the whole table."""


def examine(settings: Settings, profile_id: str | None) -> list[Check]:
    """Every check in order; with a profile its pause state and its evidence are read too. Reads only."""
    checks = [Check("settings", True, _flags(settings))]
    try:
        work = open_workspace(settings=settings)
    except UsageError as error:
        return [Check("settings", False, f"{error.code}: {error.message}")]
    except ReconError as error:
        return [*checks, Check("database", False, f"{error.code}: {error.message}")]
    checks += _database(work)
    if checks[1].ok:  # unreachable is said once
        checks += _exchange(work, profile_id)
    return [*checks, *_pause(work, profile_id), _reports(settings)]


def _flags(settings: Settings) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.flags().items())


def _database(work: Workspace) -> Iterator[Check]:
    where = "the embedded demo" if work.settings.is_demo else shown_url(work.engine.url)
    answered = _tried(work, "database", lambda connection: f"{where}, PostgreSQL {_version(connection)}")
    yield answered
    if not answered.ok:
        return
    yield _tried(work, "orders", _orders)
    yield _tried(work, "own_tables", _own_tables)
    yield _tried(work, "privileges", _privileges)


def _tried(work: Workspace, name: str, ask: Callable[[Connection], str]) -> Check:
    try:
        with transaction(work.engine, read_only=True) as connection:
            return Check(name, True, ask(connection))
    except ReconError as error:
        return Check(name, False, f"{error.code}: {error.message}")


def _version(connection: Connection) -> str:
    version: str = connection.execute(sa.text("SHOW server_version")).scalar_one()
    return version


def _orders(connection: Connection) -> str:
    orders = Orders.reflect(connection)
    naive = f"; {', '.join(orders.naive_times)} are without time zone and read as UTC" if orders.naive_times else ""
    return f"suitable; rows are unique by {', '.join(orders.conflict)}{naive}"


def _own_tables(connection: Connection) -> str:
    missing = audit.ddl(connection)
    if missing:
        raise ReconError(
            "not_initialised", f"{count(len(missing), 'statement')} due; run `recon init`, or `recon init --print`."
        )
    return "complete"


def _privileges(connection: Connection) -> str:
    present = [
        table for table in RIGHTS if connection.execute(sa.select(sa.func.to_regclass(table).is_not(None))).scalar_one()
    ]
    missing = [
        f"{right} on {table}"
        for table in present
        for right in RIGHTS[table]
        if not connection.execute(sa.select(sa.func.has_table_privilege(table, right))).scalar_one()
    ]
    if missing:
        raise ReconError("privileges_missing", f"this user lacks {', '.join(missing)}; grant them for the repair.")
    return f"SELECT, INSERT and UPDATE on {', '.join(present) or 'no table yet'}"


def _exchange(work: Workspace, profile_id: str | None) -> Iterator[Check]:
    if work.exchange is None:
        yield Check("exchange", False, "RECON_EXCHANGE is unset, so every position is unknown; name a source.")
        return
    if profile_id is None:
        yield Check("exchange", True, f"{work.exchange.name}; give --profile-id to read its evidence")
        return
    try:
        with transaction(work.engine, read_only=True) as connection:
            now = work.now(connection)
        snapshot = work.fetch(profile_id, now)
    except ReconError as error:
        yield Check("exchange", False, f"{error.code}: {error.message}")
        return
    if snapshot is not None:
        known = snapshot.positions is not None
        legs = count(len(snapshot.positions), "position leg") if snapshot.positions is not None else "positions unknown"
        yield Check(
            "exchange",
            known,
            f"{work.exchange.name}: {count(len(snapshot.fills), 'fill')}, {legs}. {' '.join(snapshot.notes)}".strip(),
        )


def _pause(work: Workspace, profile_id: str | None) -> Iterator[Check]:
    if work.status_url is None:
        yield Check("pause_switch", False, "RECON_TRADING_STATUS_URL is unset, so the pause is unknown; set it.")
    elif profile_id is None:
        yield Check("pause_switch", True, "configured; give --profile-id to read it")
    else:
        answer = work.pause(profile_id, attempts=1)
        yield Check("pause_switch", answer.state is not PauseState.UNKNOWN, f"{answer.state.value}: {answer.detail}")


def _reports(settings: Settings) -> Check:
    folder = settings.recon_reports_dir
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    good = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return Check("reports_folder", good, f"{folder} is {'writable' if good else 'not writable; set RECON_REPORTS_DIR'}")
