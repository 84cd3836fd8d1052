"""The life of a batch as one row of reconciliation_batches, and the one table of legal transitions.

Entry points: `load`, `save`, `next_command`. A batch_id is unique across profiles. Rules: rules.md 12.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from recon.audit import batches_table
from recon.database import UNDEFINED_COLUMN, UNDEFINED_TABLE, sqlstate
from recon.domain import BATCH_REASONS, Decision, State
from recon.errors import Refused
from recon.identity import canonical_json, digest


class Action(StrEnum):
    """What is done to a batch; the first five are the stages with a notebook."""

    DETECT = "detect"
    DRY_RUN = "dry-run"
    APPLY = "apply"
    VALIDATE = "validate"
    ROLLBACK = "rollback"
    APPROVE = "approve"
    APPROVE_ROLLBACK = "approve-rollback"
    STALE = "stale"
    REFUTE = "refute"
    SIGN = "sign"


TRANSITIONS: dict[tuple[State | None, Action], tuple[State, str]] = {
    (None, Action.DETECT): (State.DETECTED, "the first detect opens the batch"),
    (State.DETECTED, Action.DETECT): (State.DETECTED, "detect may be repeated until applied"),
    (State.PLANNED, Action.DETECT): (State.PLANNED, "detecting again leaves the plan as it is"),
    (State.APPROVED, Action.DETECT): (State.APPROVED, "detecting again leaves the approval as it is"),
    (State.DETECTED, Action.DRY_RUN): (State.PLANNED, "a dry run makes the plan"),
    (State.PLANNED, Action.DRY_RUN): (State.PLANNED, "a dry run may be repeated until applied"),
    (State.APPROVED, Action.DRY_RUN): (State.PLANNED, "a new dry run voids the approval"),
    (State.PLANNED, Action.APPROVE): (State.APPROVED, "a person approves the plan"),
    (State.APPROVED, Action.APPROVE): (State.APPROVED, "an approval may be renewed, after it expired for instance"),
    (State.APPROVED, Action.STALE): (State.PLANNED, "the facts changed, so the approval is void"),
    (State.APPROVED, Action.APPLY): (State.APPLIED, "apply writes the approved rows"),
    (State.APPLIED, Action.APPLY): (State.APPLIED, "applying again only compares"),
    (State.VALIDATED, Action.APPLY): (State.VALIDATED, "applying again only compares"),
    (State.APPLIED, Action.VALIDATE): (State.VALIDATED, "validation passed"),
    (State.VALIDATED, Action.VALIDATE): (State.VALIDATED, "validation may be repeated"),
    (State.APPLIED, Action.REFUTE): (State.APPLIED, "validation failed"),
    (State.VALIDATED, Action.REFUTE): (State.APPLIED, "a validation that fails takes the earlier one back"),
    (State.APPLIED, Action.ROLLBACK): (State.ROLLED_BACK, "rollback cancels the rows"),
    (State.VALIDATED, Action.ROLLBACK): (State.ROLLED_BACK, "rollback cancels the rows"),
    (State.APPLIED, Action.APPROVE_ROLLBACK): (State.APPLIED, "a person approves that its rows be canceled"),
    (State.VALIDATED, Action.APPROVE_ROLLBACK): (State.VALIDATED, "a person approves that its rows be canceled"),
    (State.ROLLED_BACK, Action.ROLLBACK): (State.ROLLED_BACK, "rolling back again changes nothing"),
    (State.VALIDATED, Action.SIGN): (State.SIGNED, "a person signs the report, which closes the incident"),
    (State.SIGNED, Action.SIGN): (State.SIGNED, "another person may sign too"),
    (State.ROLLED_BACK, Action.SIGN): (State.ROLLED_BACK, "the report of a rollback may be signed"),
    (State.SIGNED, Action.APPLY): (State.VALIDATED, "applying again only compares; its report is not signed"),
    (State.SIGNED, Action.VALIDATE): (State.VALIDATED, "validation may be repeated; its report is not signed"),
    (State.SIGNED, Action.REFUTE): (State.APPLIED, "a validation that fails takes the earlier one back"),
    (State.SIGNED, Action.APPROVE_ROLLBACK): (State.SIGNED, "a person approves that its rows be canceled"),
    (State.SIGNED, Action.ROLLBACK): (State.ROLLED_BACK, "rollback cancels the rows"),
}
"""Every legal action with the state it leads to and its reason; any other is refused."""


_UNAPPLIED = frozenset({None, State.DETECTED, State.PLANNED, State.APPROVED})
_BEFORE = {Action.APPLY: _UNAPPLIED, Action.ROLLBACK: frozenset({None, *State}) - {State.ROLLED_BACK}}

KEYS: dict[bool | None, str] = {True: " --key PATH", False: "", None: " [--key PATH]"}
"""How a command that approves shows the key: approvals are signed, are not, or it is not known here."""


def is_behind(state: State | None, action: Action) -> bool:
    """Whether a batch in this state has been where an apply or a rollback leads: applied, or rolled back, for good."""
    return state not in _BEFORE[action]


@dataclass(frozen=True, slots=True)
class Batch:
    """One incident on one profile; plan and approvals are the stored documents, None until made.

    `changed` names the documents that were changed since it was loaded: `save` writes no other.
    """

    batch_id: str
    profile_id: str
    state: State | None
    scope: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    plan_digest: str | None = None
    approval: dict[str, Any] | None = None
    rollback_approval: dict[str, Any] | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    updated_at: datetime | None = None
    updated_by: str | None = None
    changed: frozenset[str] = frozenset()

    def after(self, action: Action) -> State:
        """The state that an action leads to. Raises `Refused` (illegal_transition) when it is not legal here."""
        if (self.state, action) not in TRANSITIONS:
            stands = f"is {self.state.value}" if self.state else "does not exist yet"
            raise Refused(
                "illegal_transition",
                f"Batch {self.batch_id} {stands}; {action.value} is not possible. {self.next_command(key=None)}",
            )
        return TRANSITIONS[self.state, action][0]

    def moved(self, action: Action, **changes: Any) -> Batch:
        """The batch after the action, with the given fields changed; writes nothing."""
        return replace(self, state=self.after(action), changed=self.changed | changes.keys(), **changes)

    @property
    def can_be_approved(self) -> bool:
        """Whether approving the plan can succeed, once every trade that needs it is acknowledged.

        A plan that was approved and then found stale is not worth it: its approval is there, and void.
        """
        if self.state is State.PLANNED and self.approval is not None:
            return False
        plan = self.plan or {}
        items = plan.get("document", {}).get("items", ())
        writes = any(item["order_id"] and item["decision"] != Decision.NO_GO for item in items)
        return writes and not plan.get("failed_checks") and all(item["reason"] not in BATCH_REASONS for item in items)

    def stored_digest(self) -> str | None:
        """The digest of the plan's document as it is stored; None for one that was never a plan's."""
        try:
            return digest((self.plan or {})["document"])
        except (KeyError, TypeError):
            return None

    def approve_command(self, *, rollback: bool = False, key: bool | None = False) -> str:
        """The command that approves the plan, or a rollback; with a key where approvals are signed (None: not known).

        Of a plan it also shows how trades are acknowledged, where one must be: without that it is refused.
        """
        what = " --rollback" if rollback else ""
        naming = " --acknowledge TRADE_ID=WHY" if self.needs_acknowledgement and not rollback else ""
        return f"recon approve{what} --batch-id {self.batch_id} --by NAME{KEYS[key]}{naming}"

    @property
    def needs_acknowledgement(self) -> bool:
        """Whether a trade of the plan must be acknowledged when it is approved."""
        return any(target.get("needs_acknowledgement") for target in (self.plan or {}).get("targets", ()))

    def rollback_is_approved(self, now: datetime | None) -> bool:
        """Whether there is an approval of a rollback of this plan that has not expired; no, where `now` is unknown.

        Whether it is signed as it must be is for the rollback to say.
        """
        approval = self.rollback_approval or {}
        if (approval.get("action"), approval.get("plan_digest")) != (Action.ROLLBACK, self.plan_digest):
            return False
        try:
            return now is not None and now < datetime.fromisoformat(approval["expires_at"])
        except (KeyError, TypeError, ValueError):
            return False

    def _has_expired(self, now: datetime | None) -> bool:
        """Whether the plan's approval has ended, or does not say when it does; not known without `now`."""
        try:
            return now is not None and now >= datetime.fromisoformat((self.approval or {})["expires_at"])
        except (KeyError, TypeError, ValueError):
            return True

    def next_command(
        self, reports: Path | None = None, *, key: bool | None = False, now: datetime | None = None, void: bool = False
    ) -> str:
        """The sentence that `recon status` prints: what to run next, as a shell takes it.

        Folders are in `reports`; who does not know where that is leaves it to `recon status`. `key` says that
        approvals are signed (None: not known), `now` which ones expired, `void` that the plan's approval allows no
        apply anyway.
        """
        if self.state is State.PLANNED and self.plan is not None and not self.plan.get("targets"):
            return "Next: nothing; the dry run found nothing to repair"
        profile = f"--profile-id {shlex.quote(self.profile_id)}"
        which = f"{profile} --batch-id {self.batch_id}"
        if self.state in (State.APPLIED, State.VALIDATED, State.SIGNED) and self.rollback_is_approved(now):
            return f"Next: recon run rollback {which}"
        plan = f"recon run dry-run {which}"
        approve = self.approve_command(key=key)
        commands = {
            None: f"recon run detect {which}",
            State.DETECTED: plan,
            State.PLANNED: approve if self.can_be_approved else plan,
            State.APPROVED: approve if void or self._has_expired(now) else f"recon run apply {which}",
            State.APPLIED: f"recon run validate {which}",
            State.VALIDATED: sign_command(self.batch_id),
            State.SIGNED: f"recon verify {shlex.quote(str(reports / self.batch_id))}"
            if reports
            else f"recon status {profile}",
            State.ROLLED_BACK: "recon run detect with a new batch_id, to repair it again",
        }
        return f"Next: {commands[self.state]}"


def sign_command(batch_id: str) -> str:
    """The command that signs the report of a batch, which closes the incident."""
    return f"recon sign --batch-id {batch_id} --key PATH"


@contextmanager
def _own_tables(connection: Connection) -> Iterator[None]:
    """Raises `Refused` (audit_unavailable) when recon's tables are missing; the transaction goes on."""
    try:
        with connection.begin_nested():
            yield
    except DBAPIError as error:
        if sqlstate(error) in (UNDEFINED_TABLE, UNDEFINED_COLUMN):
            raise Refused(
                "audit_unavailable",
                "recon's own tables are missing here, or lack a column; run `recon init` once.",
            ) from error
        raise


def load(connection: Connection, batch_id: str, profile_id: str | None = None, *, lock: bool = False) -> Batch:
    """The batch, or one without a state when it does not exist; reads, and with `lock` holds its row.

    Raises `Refused` (batch_of_another_profile) when it belongs to another profile, and (audit_unavailable) when
    recon's tables are missing.
    """
    query = sa.select(batches_table).where(batches_table.c.batch_id == batch_id)
    with _own_tables(connection):
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        return Batch(batch_id, profile_id or "", None)
    if profile_id is not None and row["profile_id"] != profile_id:
        raise Refused(
            "batch_of_another_profile",
            f"Batch {batch_id} belongs to another profile; a batch_id is unique. Choose another batch_id.",
        )
    return _batch(row)


def open_batch(connection: Connection, batch_id: str, profile_id: str, *, actor: str, now: datetime) -> Batch:
    """The batch after a detect, its row held; writes it when it is new. Of two first detects only one creates it.

    Raises `Refused` (batch_of_another_profile, illegal_transition).
    """
    new = {"batch_id": batch_id, "profile_id": profile_id, "state": State.DETECTED.value}
    stamps = {"created_at": now, "created_by": actor, "updated_at": now, "updated_by": actor}
    statement = pg_insert(batches_table).values(**new, **stamps)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["batch_id"]))
    return load(connection, batch_id, profile_id, lock=True).moved(Action.DETECT)


def every(connection: Connection, profile_id: str | None = None) -> list[Batch]:
    """All batches, or those of one profile, newest first; reads only. Raises `Refused` (audit_unavailable)."""
    query = sa.select(batches_table).order_by(batches_table.c.updated_at.desc(), batches_table.c.batch_id)
    if profile_id is not None:
        query = query.where(batches_table.c.profile_id == profile_id)
    with _own_tables(connection):
        return [_batch(row) for row in connection.execute(query).mappings()]


def save(connection: Connection, batch: Batch, *, actor: str, now: datetime) -> Batch:
    """Write the batch's state, and of its documents those that changed. The caller went through `moved`."""
    documents = {name: getattr(batch, name) for name in batch.changed}
    cells = {name: cell if isinstance(cell, str) else _plain(cell) for name, cell in documents.items()}
    stamps = {"state": batch.state.value if batch.state else None, "updated_at": now, "updated_by": actor}
    statement = sa.update(batches_table).where(batches_table.c.batch_id == batch.batch_id).values(**cells, **stamps)
    connection.execute(statement)
    return replace(batch, updated_at=now, updated_by=actor, changed=frozenset())


def _plain(document: dict[str, Any] | None) -> Any:
    return sa.null() if document is None else json.loads(canonical_json(document))


def _batch(row: Any) -> Batch:
    return Batch(
        batch_id=row["batch_id"],
        profile_id=row["profile_id"],
        state=State(row["state"]),
        scope=row["scope"],
        plan=row["plan"],
        plan_digest=row["plan_digest"],
        approval=row["approval"],
        rollback_approval=row["rollback_approval"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
    )
