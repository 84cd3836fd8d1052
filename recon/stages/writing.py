"""The protocol that apply and rollback share: lock, gate, write, check, commit, and say truthfully what happened.

Invariants 3 (one transaction) and 7. Rules: rules.md 13.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from recon import batches
from recon.batches import Action, Batch
from recon.database import explain, first_line, prepare, sqlstate
from recon.errors import ReconError, Refused
from recon.identity import advisory_key
from recon.orders import Orders
from recon.pause import PauseAnswer
from recon.workspace import Workspace

T = TypeVar("T")

NEVER_ASSIGNED = "22023"
"""The SQLSTATE for a transaction id that the server has not given to anybody yet."""

STATUS_ATTEMPTS = 20
"""How often pg_xact_status is asked, a quarter of a second apart, while the server still decides."""


class Outcome(StrEnum):
    """What became of a transaction whose COMMIT was sent."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Held:
    """What a stage holds inside its writing transaction: the locks, the batch's row, the table, the clock."""

    connection: Connection
    orders: Orders
    batch: Batch
    now: datetime
    pause: PauseAnswer


def write(work: Workspace, profile_id: str, batch_id: str, action: Action, body: Callable[[Held], T]) -> tuple[T, str]:
    """Run `body` in one READ COMMITTED transaction under every lock and gate, and commit; writes.

    Returns what `body` returned, and a note for the report, which is empty unless the answer to COMMIT was lost.

    In this order: time-outs; the profile's advisory lock, tried once; the table lock, before anything is read;
    the batch's row; the pause switch, one attempt; `body`; the pause switch again; COMMIT. Whatever raises
    before COMMIT leaves nothing. Raises `Refused` (already_running, orders_locked, profile_not_paused,
    pause_unknown, illegal_transition) and `ReconError` (commit_rolled_back, commit_unknown).
    """
    try:
        with work.engine.connect() as connection:
            # Said outright: a database may default to another level, whose snapshot would precede the table lock.
            connection = connection.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=False)
            begun = connection.begin()
            try:
                held = _hold(work, connection, profile_id, batch_id, action)
                done = body(held)
                _gate(work, profile_id)
                xid = str(connection.execute(sa.select(sa.cast(sa.func.pg_current_xact_id(), sa.Text))).scalar_one())
            except BaseException:
                begun.rollback()
                raise
            try:
                begun.commit()
            except DBAPIError as error:
                return done, _settle(work.engine, held.batch, action, xid, error)
            return done, ""
    except DBAPIError as error:
        raise explain(error) from error


def _hold(work: Workspace, connection: Connection, profile_id: str, batch_id: str, action: Action) -> Held:
    prepare(connection)
    key = sa.literal(advisory_key(profile_id), sa.BigInteger)
    if not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(key))).scalar_one():
        raise Refused(
            "already_running",
            "Another apply or rollback on this profile is running; nothing was written. Wait for it, then run again.",
        )
    orders = Orders.reflect(connection)
    orders.lock(connection)
    batch = batches.load(connection, batch_id, profile_id, lock=True)
    batch.after(action)
    return Held(connection, orders, batch, work.now(connection), _gate(work, profile_id))


def _gate(work: Workspace, profile_id: str) -> PauseAnswer:
    """One attempt, two seconds: anything but a confirmed pause rolls everything back."""
    answer = work.pause(profile_id, attempts=1)
    for reason, detail in work.pause_reasons(answer).items():
        raise Refused(reason.value, f"{detail} Nothing was written. Pause the profile, then run again.")
    return answer


def _settle(engine: Engine, batch: Batch, action: Action, xid: str, error: DBAPIError) -> str:
    """Ask the server, on a new connection, what became of the transaction; raise unless it committed, else say so."""
    outcome = _ask(engine, batch, action, xid)
    lost = error.connection_invalidated or (sqlstate(error) or "08")[:2] in ("08", "57")
    what = "The answer to COMMIT was lost" if lost else "The database refused the COMMIT"
    said = f"{what} ({first_line(error)}); asked for transaction {xid}, the database says: {outcome}."
    if outcome is Outcome.COMMITTED:
        return said
    if outcome is Outcome.ROLLED_BACK:
        raise ReconError("commit_rolled_back", f"{said} Nothing was written; put right what it says, then run again.")
    raise ReconError(
        "commit_unknown",
        f"{said} When the database answers, `recon status` tells; running again is safe either way.",
    )


def _ask(engine: Engine, batch: Batch, action: Action, xid: str) -> Outcome:
    """Committed only if the batch moved on as well.

    A crash loses the ids of transactions that had not committed: the server then does not know this one, or has given
    it to another transaction since.
    """
    statement = sa.text("SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_xact_status(CAST(:xid AS xid8)) END")
    for _ in range(STATUS_ATTEMPTS):
        state = None
        try:
            with engine.connect() as connection:
                prepare(connection)
                status = connection.execute(statement, {"xid": xid}).scalar_one()
                state = batches.load(connection, batch.batch_id).state
        except DBAPIError as error:
            status = "aborted" if sqlstate(error) == NEVER_ASSIGNED else None
        if status in ("committed", "aborted"):
            committed = status == "committed" and batches.is_behind(state, action)
            return Outcome.COMMITTED if committed else Outcome.ROLLED_BACK
        time.sleep(0.25)
    return Outcome.UNKNOWN
