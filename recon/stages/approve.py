"""Approve: a named person releases the rows of one plan and acknowledges what stays open, or releases a rollback.

Runbook section 6, rules.md 12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from recon import audit, batches
from recon.batches import Action, Batch
from recon.domain import BATCH_REASONS, Decision, Item, Reason
from recon.errors import Refused
from recon.plan import item_from
from recon.stages.approved import owned_items
from recon.stages.release import Approval, Draft, release, show_nothing
from recon.workspace import Workspace, reflect


def approve(
    work: Workspace,
    batch_id: str,
    by: str,
    acknowledge: Sequence[str] = (),
    *,
    key: Path | None = None,
    show: Callable[[Approval], None] = show_nothing,
) -> Approval:
    """Record an approval of the batch's plan and one PENDING_APPLY audit row per released item; writes.

    `acknowledge` are `TRADE_ID=WHY` texts. Raises `Refused`: unknown_batch, illegal_transition, name_missing,
    nothing_to_approve, batch_wide_reason, unknown_trade, nothing_to_acknowledge, reason_missing,
    acknowledged_twice, acknowledgements_missing; and what `release` raises, which takes `key` and `show`.
    """
    person = _named(by)

    def draft(connection: Connection, batch: Batch) -> Draft:
        given = _acknowledgements(batch.plan or {}, acknowledge)
        return Draft(Action.APPLY, _released(batch.plan or {}, given), given)

    def record(connection: Connection, batch: Batch, approval: Approval) -> None:
        approved = batch.moved(Action.APPROVE, approval=approval.document())
        batches.save(connection, approved, actor=work.actor, now=approval.approved_at)
        audit.append(
            connection,
            batch_id=batch_id,
            profile_id=batch.profile_id,
            decisions=[(item, Decision.PENDING_APPLY) for item in approval.released],
            plan_digest=batch.plan_digest,
            actor=person,
            now=approval.approved_at,
        )

    return release(work, partial(_load, batch_id, Action.APPROVE), person, draft, record, key=key, show=show)


def approve_rollback(
    work: Workspace,
    batch_id: str,
    by: str,
    *,
    key: Path | None = None,
    show: Callable[[Approval], None] = show_nothing,
) -> Approval:
    """Record an approval of canceling the rows that the batch owns now; writes the batch's row alone.

    Raises `Refused`: unknown_batch, illegal_transition, name_missing, row_changed; and what `release` raises.
    """

    def draft(connection: Connection, batch: Batch) -> Draft:
        own, _ = owned_items(connection, reflect(connection, batch.profile_id), batch)
        return Draft(Action.ROLLBACK, tuple(own), {})

    def record(connection: Connection, batch: Batch, approval: Approval) -> None:
        approved = batch.moved(Action.APPROVE_ROLLBACK, rollback_approval=approval.document())
        batches.save(connection, approved, actor=work.actor, now=approval.approved_at)

    load = partial(_load, batch_id, Action.APPROVE_ROLLBACK)
    return release(work, load, _named(by), draft, record, key=key, show=show)


def _named(by: str) -> str:
    if not by.strip():
        raise Refused("name_missing", "--by is empty; an approval names the person who gives it.")
    return by.strip()


def _load(batch_id: str, action: Action, connection: Connection, lock: bool) -> Batch:
    batch = batches.load(connection, batch_id, lock=lock)
    if batch.state is None:
        raise Refused("unknown_batch", f"There is no batch {batch_id}. `recon status` lists them.")
    batch.after(action)
    return batch


def _acknowledgements(plan: Mapping[str, Any], texts: Sequence[str]) -> dict[str, str]:
    """Trade and reason of each text: the longest trade_id of the plan that is followed by `=` counts."""
    targets = {target["trade_id"]: target for target in plan.get("targets", ())}
    given: dict[str, str] = {}
    for text in texts:
        named = [trade_id for trade_id in targets if text.startswith(f"{trade_id}=")]
        if not named:
            raise Refused("unknown_trade", f"--acknowledge {text!r} names no trade of the plan; expected TRADE_ID=WHY.")
        trade_id = max(named, key=len)
        why = text[len(trade_id) + 1 :].strip()
        if not why:
            raise Refused("reason_missing", f"--acknowledge {trade_id}= gives no reason; it is shown in every report.")
        if not targets[trade_id]["needs_acknowledgement"]:
            raise Refused(
                "nothing_to_acknowledge", f"Trade {trade_id} is released without acknowledgement; leave it out."
            )
        if trade_id in given:
            raise Refused(
                "acknowledged_twice",
                f"Trade {trade_id} is acknowledged twice, {given[trade_id]!r} and {why!r}; give one reason.",
            )
        given[trade_id] = why
    return given


def _released(plan: Mapping[str, Any], given: Mapping[str, str]) -> tuple[Item, ...]:
    """The rows that the approval releases. Raises `Refused` and names what is missing."""
    items = [item_from(document) for document in plan.get("document", {}).get("items", ())]
    if not items:
        raise Refused("nothing_to_approve", "The plan has nothing to repair, so there is nothing to approve.")
    batch_wide = sorted({item.reason.value for item in items if item.reason in BATCH_REASONS})
    if batch_wide:
        raise Refused(
            "batch_wide_reason",
            f"The whole batch is NO_GO: {', '.join(batch_wide)}. Nothing can acknowledge that; clear it, then run "
            "dry-run again.",
        )
    if plan.get("failed_checks"):
        raise Refused(
            "dry_run_failed",
            f"The dry run failed its own checks: {', '.join(plan['failed_checks'])}. Put right "
            "what its report says of them, then run dry-run again.",
        )
    missing = [
        target for target in plan["targets"] if target["needs_acknowledgement"] and target["trade_id"] not in given
    ]
    if missing:
        listed = "; ".join(f"{target['trade_id']} ({', '.join(_needing(target, items))})" for target in missing)
        raise Refused(
            "acknowledgements_missing",
            f"These trades need --acknowledge TRADE_ID=WHY, or a narrower dry run: {listed}.",
        )
    released = tuple(item for item in items if item.writes)
    if not released:
        raise Refused("nothing_to_approve", "The plan has no row to write, so there is nothing to approve.")
    return released


def _needing(target: Mapping[str, Any], items: Sequence[Item]) -> list[str]:
    """The reasons of a target that need an acknowledgement: those against it, and dust that no fill covers."""
    key = (target["symbol"], target["trade_id"])
    against = {item.reason for item in items if item.decision is Decision.NO_GO and (item.symbol, item.trade_id) == key}
    return [reason for reason in target["reasons"] if reason in {*against, Reason.DUST_ONLY}]
