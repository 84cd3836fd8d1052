"""Approve: a named person releases the rows of one plan, and acknowledges what stays open (runbook section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from recon import audit, batches
from recon.batches import Action
from recon.database import transaction
from recon.domain import BATCH_REASONS, Decision, Item, Reason
from recon.doors.access import behind
from recon.doors.names import Role
from recon.errors import Refused
from recon.identity import canonical_decimal, canonical_time
from recon.plan import item_from
from recon.wording import count
from recon.workspace import Workspace

VALID_FOR = timedelta(hours=24)
"""How long an approval may be applied: the facts it rests on grow old."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What was approved: the digest, the released rows, who, until when, and what was acknowledged by trade."""

    batch_id: str
    plan_digest: str
    by: str
    expires_at: datetime
    released: tuple[Item, ...]
    acknowledgements: Mapping[str, str]
    profile_id: str

    def document(self) -> dict[str, Any]:
        """The document that is approved and that apply executes."""
        return {
            "batch_id": self.batch_id,
            "profile_id": self.profile_id,
            "plan_digest": self.plan_digest,
            "items": [item.order_id for item in self.released],
            "acknowledgements": dict(self.acknowledgements),
            "by": self.by,
            "expires_at": canonical_time(self.expires_at),
        }


def approve(work: Workspace, batch_id: str, by: str, acknowledge: Sequence[str] = ()) -> Approval:
    """Record an approval of the batch's plan and one PENDING_APPLY audit row per released item; writes.

    `acknowledge` are `TRADE_ID=WHY` texts. Raises `Refused`: unknown_batch, illegal_transition,
    nothing_to_approve, batch_wide_reason, unknown_trade, nothing_to_acknowledge, reason_missing,
    acknowledged_twice, acknowledgements_missing.
    """
    if not by.strip():
        raise Refused("name_missing", "--by is empty; an approval names the person who gives it.")
    with transaction(behind(work.engine, Role.APPROVER)) as connection:
        batch = batches.load(connection, batch_id, lock=True)
        if batch.state is None:
            raise Refused("unknown_batch", f"There is no batch {batch_id}. `recon status` lists them.")
        batch.after(Action.APPROVE)
        plan = batch.plan or {}
        given = _acknowledgements(plan, acknowledge)
        released = _released(plan, given)
        now = work.now(connection)
        approval = Approval(batch_id, batch.plan_digest or "", by, now + VALID_FOR, released, given, batch.profile_id)
        batches.save(connection, batch.moved(Action.APPROVE, approval=approval.document()), actor=work.actor, now=now)
        audit.append(
            connection,
            batch_id=batch_id,
            profile_id=batch.profile_id,
            decisions=[(item, Decision.PENDING_APPLY) for item in released],
            plan_digest=batch.plan_digest,
            actor=by,
            now=now,
        )
    return approval


def summary(approval: Approval) -> list[str]:
    """What was released, per symbol and reason, one line each, for the person who approved it."""
    groups: dict[tuple[str, Reason], list[Item]] = {}
    for item in approval.released:
        groups.setdefault((item.symbol, item.reason), []).append(item)
    lines = []
    for (symbol, reason), items in sorted(groups.items()):
        qty = sum((item.qty or Decimal(0) for item in items), Decimal(0))
        notional = sum(((item.qty or Decimal(0)) * (item.price or Decimal(0)) for item in items), Decimal(0))
        sums = f"quantity {canonical_decimal(qty)}, notional {canonical_decimal(notional)}"
        lines.append(f"{symbol} {reason}: {count(len(items), 'row')}, {sums}")
    return lines


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
            f"The dry run failed its own checks: {', '.join(plan['failed_checks'])}. Run dry-run again.",
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
