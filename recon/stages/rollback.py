"""Rollback: cancel the rows that this batch owns, all or none, by status alone (runbook section 9)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from recon import audit, batches
from recon.allocation import TradeKey
from recon.approval import require_valid
from recon.batches import Action
from recon.database import transaction
from recon.domain import Check, Item, Stage, StageResult, State, Table, Verdict
from recon.errors import ReconError, Refused
from recon.stages.approved import acknowledgements, altered_rows, approval_check, owned_items
from recon.stages.writing import Held, write
from recon.wording import count
from recon.workspace import Workspace


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What one rollback did: the rows it canceled, those it left to their owners, and the open quantities."""

    canceled: tuple[Item, ...]
    left_alone: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    lifecycles: tuple[tuple[TradeKey, Decimal, Decimal], ...]


def rollback(work: Workspace, profile_id: str, batch_id: str) -> StageResult:
    """Set the batch's own rows to canceled and mark its audit rows as reverted, in one transaction; writes.

    Rows that another live batch owns are listed and left alone. A second rollback does nothing. Raises `Refused`:
    illegal_transition, row_changed, those of `writing.write`, and, when RECON_REQUIRE_SIGNATURE is true,
    rollback_not_approved and those of `approval.require_valid`.
    """
    with transaction(work.engine, read_only=True) as connection:
        batch = batches.load(connection, batch_id, profile_id)
        batch.after(Action.ROLLBACK)
        now = work.now(connection)
    if batch.state is State.ROLLED_BACK:
        done = RolledBack((), (), (Check("already_rolled_back", True, "nothing to do"),), ())
        return _result(profile_id, batch, done, None)
    if work.settings.recon_require_signature:
        require_valid(batch.rollback_approval, Action.ROLLBACK, batch, work.settings, now)
    done, note = write(work, profile_id, batch_id, Action.ROLLBACK, lambda held: _roll_back(work, held))
    return _result(profile_id, batch, done, note)


def _roll_back(work: Workspace, held: Held) -> RolledBack:
    connection, orders, batch = held.connection, held.orders, held.batch
    own, others = owned_items(connection, orders, batch)
    approved = _approved(work, held, own)
    ids = [item.order_id or "" for item in own]
    before = {(one.symbol, one.trade_id): one.open_qty for one in orders.lifecycles(connection, batch.profile_id)}
    bystanders = orders.digest(connection, batch.profile_id, without=ids)
    batches.save(connection, batch.moved(Action.ROLLBACK), actor=work.actor, now=held.now)  # opens the door
    changed = orders.set_status(connection, batch.profile_id, ids, before={"filled"}, after="canceled", now=held.now)
    audit.mark_reverted(connection, batch.profile_id, batch.batch_id, held.now)
    checks, lifecycles = _invariants(held, own, before, bystanders, changed)
    for check in checks:
        if not check.ok:
            raise ReconError("invariant_violated", f"{check.name}: {check.detail}. Nothing was written; report this.")
    checks = (*approved, Check("pause_confirmed", True, held.pause.detail), *checks)
    return RolledBack(tuple(own), others, checks, lifecycles)


def _approved(work: Workspace, held: Held, own: Sequence[Item]) -> tuple[Check, ...]:
    """The approval of exactly these rows, as a check; none where signatures, and so approvals, are not required.

    Raises `Refused` (rollback_not_approved) and what `approval.require_valid` raises.
    """
    if not work.settings.recon_require_signature:
        return ()
    batch = held.batch
    signed = require_valid(batch.rollback_approval, Action.ROLLBACK, batch, work.settings, held.now)
    document = batch.rollback_approval or {}
    apart = sorted(set(document["items"]) ^ {item.order_id or "" for item in own})
    if apart:
        raise Refused(
            "rollback_not_approved",
            "The approved rollback does not name exactly the rows that would be canceled; apart are "
            f"{', '.join(apart)}. Nothing was changed. Approve it again: "
            f"{batch.approve_command(rollback=True, key=True)}",
        )
    return (approval_check(document, signed),)


def _invariants(
    held: Held, own: Sequence[Item], before: dict[TradeKey, Decimal], bystanders: str, changed: set[str]
) -> tuple[tuple[Check, ...], tuple[tuple[TradeKey, Decimal, Decimal], ...]]:
    """Invariants 1 and 8, asked of the database inside the transaction."""
    connection, profile_id = held.connection, held.batch.profile_id
    after = {(one.symbol, one.trade_id): one.open_qty for one in held.orders.lifecycles(connection, profile_id)}
    reopened: dict[TradeKey, Decimal] = defaultdict(Decimal)
    for item in own:
        reopened[item.symbol, item.trade_id] += item.qty or Decimal(0)
    rows = tuple(
        (key, before.get(key, Decimal(0)), after.get(key, Decimal(0)))
        for key in sorted(reopened, key=lambda key: (key[0].encode(), key[1].encode()))
    )
    wrong = [key[1] for key, was, now_open in rows if now_open != was + reopened[key]]
    ids = {item.order_id or "" for item in own}
    unchanged = held.orders.digest(connection, profile_id, without=ids)
    canceled = changed - altered_rows(connection, held.orders, profile_id, own, status="canceled").keys()
    return (
        Check("rows_canceled", canceled == ids, f"filled before and canceled now: {len(canceled)} of {len(ids)}"),
        Check(
            "open_quantities",
            not wrong,
            f"trades whose open quantity is not as before the apply: {', '.join(wrong) or 'none'}",
        ),
        Check(
            "other_rows_unchanged",
            unchanged == bystanders,
            f"digest of all other rows before {bystanders}, after {unchanged}",
        ),
    ), rows


def _result(profile_id: str, batch: batches.Batch, done: RolledBack, note: str | None) -> StageResult:
    """The result of a rollback that wrote, or, without a note, of one that found it done."""
    message = "the batch was rolled back before; nothing was written"
    if note is not None:
        kept = f", {len(done.left_alone)} left to the batches that own them" if done.left_alone else ""
        message = f"{count(len(done.canceled), 'row')} set to canceled{kept}. {note}".strip()
    return StageResult(
        Stage.ROLLBACK,
        profile_id,
        batch.batch_id,
        Verdict.DONE,
        plan_digest=batch.plan_digest,
        checks=done.checks,
        counts={"CANCELED": len(done.canceled), "LEFT_ALONE": len(done.left_alone)},
        message=message,
        tables=_tables(batch, done),
    )


def _tables(batch: batches.Batch, done: RolledBack) -> dict[str, Table]:
    return {
        "canceled": Table(
            "Rows set to canceled",
            "The rows this batch wrote or reinstated; none was deleted, and a new batch can reinstate them.",
            ("symbol", "trade_id", "qty", "price", "filled_at", "order_id"),
            tuple((i.symbol, i.trade_id, i.qty, i.price, i.filled_at, i.order_id) for i in done.canceled),
        ),
        "left_alone": Table(
            "Rows left alone",
            "Another batch owns these rows: canceling them would reopen its ghosts.",
            ("order_id", "owner"),
            done.left_alone,
        ),
        "lifecycles": Table(
            "Open quantity before and after",
            "Asked of the database inside the transaction; after = before + what was canceled.",
            ("symbol", "trade_id", "open_before", "open_after"),
            tuple((*key, was, now_open) for key, was, now_open in done.lifecycles),
        ),
        "acknowledgements": acknowledgements(batch),
    }
