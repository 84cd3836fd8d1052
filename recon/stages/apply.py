"""Apply: write exactly the approved rows, in one transaction, or nothing (runbook section 7)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from recon import audit, batches
from recon.allocation import TradeKey
from recon.approval import require_signers, require_valid, signature_told
from recon.batches import Action, Batch
from recon.criteria import differences
from recon.database import transaction
from recon.domain import (
    CANCELED,
    Check,
    Decision,
    Item,
    Reason,
    Snapshot,
    StageResult,
    State,
    Verdict,
    Window,
)
from recon.doors.fit import require_fit
from recon.doors.trial import fired, remedy
from recon.errors import ReconError, Refused
from recon.evidence import UnitKey
from recon.identity import canonical_json, canonical_symbol, canonical_time
from recon.plan import Plan, Scope, build_plan
from recon.stages.apply_result import Applied, apply_result
from recon.stages.approved import altered_rows, approval_check, released_items
from recon.stages.dry_run import require_enabled
from recon.stages.gather import gather, wanted
from recon.stages.writing import Held, write
from recon.wording import count
from recon.workspace import Workspace, reflect


class StalePlan(Refused):
    """The facts changed since the dry run; the approval is void."""


def apply(work: Workspace, profile_id: str, batch_id: str) -> StageResult:
    """Write the approved rows, their audit rows and the batch's state together; writes.

    On a batch that is applied already it compares the approved rows with `orders`, appends SKIP_EXISTING rows
    and writes nothing else. Raises `Refused`: backfill_disabled, dry_run_only, illegal_transition, doors_outdated,
    stale_plan, existing_row_differs, and those of `approval.require_valid` and `writing.write`.
    """
    require_enabled(work)
    if work.settings.recon_exit_backfill_dry_run:
        raise Refused(
            "dry_run_only", "RECON_EXIT_BACKFILL_DRY_RUN is true, so nothing is written. Set it to false to apply."
        )
    with transaction(work.engine, read_only=True) as connection:
        batch = batches.load(connection, batch_id, profile_id)
        batch.after(Action.APPLY)
        orders = reflect(connection, profile_id)
        if batch.state is State.APPROVED:
            require_fit(connection, orders)
        asked = wanted(connection, orders, profile_id, work.exchange)
        now = work.now(connection)
    if batch.state is not State.APPROVED:
        return _compare(work, batch, now)
    require_valid(batch.approval, Action.APPLY, batch, work.settings, now)
    snapshot = work.fetch(profile_id, now, asked, _window(batch))
    try:
        done, note = write(
            work, profile_id, batch_id, Action.APPLY, lambda held: _write(work, held, batch.approval, snapshot)
        )
    except StalePlan:
        _void(work, batch, now)
        raise
    return apply_result(batch, done, note)


def _window(batch: Batch) -> Window | None:
    stored = (batch.plan or {}).get("window")
    return Window(datetime.fromisoformat(stored["start"]), datetime.fromisoformat(stored["end"])) if stored else None


def _void(work: Workspace, batch: Batch, now: datetime) -> None:
    """Send the batch back to planned, in a transaction of its own; the void approval stays there to be read."""
    with transaction(work.engine) as connection:
        held = batches.load(connection, batch.batch_id, batch.profile_id, lock=True)
        if held.state is State.APPROVED and held.approval == batch.approval:
            batches.save(connection, held.moved(Action.STALE), actor=work.actor, now=now)


def _write(work: Workspace, held: Held, approval: dict[str, Any] | None, snapshot: Snapshot | None) -> Applied:
    """Everything between the locks and the second look at the pause switch."""
    connection, batch = held.connection, held.batch
    if batch.state is not State.APPROVED:
        raise Refused("already_running", "Another apply of this batch ended just now; run again to compare its rows.")
    if batch.approval != approval:
        raise Refused("not_approved", f"The approval changed meanwhile. {batch.next_command()}")
    signed = require_valid(batch.approval, Action.APPLY, batch, work.settings, held.now)
    plan = _recompute(work, held, snapshot)
    _require_acknowledged(batch, plan)
    approved = set((batch.approval or {})["items"])
    released = [item for item in plan.items if item.writes and item.order_id in approved]
    targets = [judgement.lifecycle for judgement in plan.judgements]
    own = [item.order_id or "" for item in released]
    others = held.orders.digest(connection, batch.profile_id, without=own)
    batches.save(connection, batch.moved(Action.APPLY), actor=work.actor, now=held.now)  # opens the doors
    decisions = _write_rows(held, released, {one.key: one.last_entry.order_id for one in targets})
    _require_way_back(held, own[:1])
    checks, lifecycles = _invariants(held, plan, released, others)
    for check in checks:
        if not check.ok:
            raise ReconError("invariant_violated", f"{check.name}: {check.detail}. Nothing was written; report this.")
    left = tuple(item for item in plan.items if item.decision is Decision.NO_GO)
    audit.append(
        connection,
        batch_id=batch.batch_id,
        profile_id=batch.profile_id,
        decisions=[*decisions, *((item, Decision.NO_GO) for item in left)],
        plan_digest=plan.digest,
        actor=work.actor,
        now=held.now,
    )
    checks = (
        approval_check(batch.approval, signed),
        Check("pause_confirmed", True, held.pause.detail),
        *checks,
    )
    return Applied(tuple(decisions), left, signed, checks, lifecycles)


def _require_way_back(held: Held, order_ids: Sequence[str]) -> None:
    """Cancel a row and take that back: a rollback must be possible (invariant 8).

    Raises `Refused` (orders_unsuitable) where a constraint or trigger does not let a backfill row be canceled.
    """
    for order_id in order_ids:
        if why := held.orders.why_not_canceled(held.connection, held.batch.profile_id, order_id, held.now):
            told = remedy(fired(held.connection))
            first = f". {told}. Where that is done already, " if told else "; "
            raise Refused(
                "orders_unsuitable",
                f"A backfill row could not be canceled again ({why}), so there would be no way back. Nothing was "
                f"written{first}let status become 'canceled' on such rows, then run again.",
            )


def _recompute(work: Workspace, held: Held, snapshot: Snapshot | None) -> Plan:
    """The plan from the locked rows. Raises `StalePlan` unless its digest is the approved one (invariant 7)."""
    batch = held.batch
    scope = batch.scope or {}
    facts = gather(held.connection, held.orders, batch.profile_id, snapshot)
    plan = build_plan(facts, work.rules, Scope(tuple(scope.get("trade_ids", ())), tuple(scope.get("symbols", ()))))
    if plan.digest != batch.plan_digest:
        raise StalePlan(
            "stale_plan",
            f"The facts are not those that were approved: {_what_changed(batch, plan)}. Nothing was written; "
            "run dry-run, review and approve again.",
        )
    return plan


def _require_acknowledged(batch: Batch, plan: Plan) -> None:
    """What needs a word of the approver is decided by the plan just computed, not by what the batch's row says."""
    given = (batch.approval or {})["acknowledgements"]
    needing = [judgement.lifecycle.trade_id for judgement in plan.judgements if judgement.needs_acknowledgement]
    missing = [trade_id for trade_id in needing if trade_id not in given]
    if missing:
        raise Refused(
            "not_approved",
            f"The approval acknowledges nothing about {', '.join(missing)}, and these trades need it. Nothing was "
            "written; run dry-run, review and approve again.",
        )


def _what_changed(batch: Batch, plan: Plan) -> str:
    old = (batch.plan or {}).get("document", {})
    new = json.loads(canonical_json(dict(plan.document)))
    changed = [name for name in ("rules", "targets", "items") if old.get(name) != new.get(name)]
    for symbol, facts in new["symbols"].items():
        before = old.get("symbols", {}).get(symbol, {})
        changed += [f"{what} of {symbol}" for what in facts if facts[what] != before.get(what)]
    return ", ".join(changed) or "the plan's document"


def _write_rows(held: Held, released: Sequence[Item], entries: Mapping[TradeKey, str]) -> list[tuple[Item, Decision]]:
    """Insert, or reinstate, every released row; a row in the way must be identical and filled (invariant 4)."""
    connection, orders, profile_id = held.connection, held.orders, held.batch.profile_id
    fresh = [item for item in released if item.reason is not Reason.REINSTATE]
    canceled = [item.order_id or "" for item in released if item.reason is Reason.REINSTATE]
    new = orders.insert(connection, profile_id, fresh, entries, held.now)
    new |= orders.set_status(connection, profile_id, canceled, before=CANCELED, after="filled", now=held.now)
    ids = [item.order_id or "" for item in released]
    found = {row.order_id: row for row in orders.rows(connection, profile_id, order_ids=ids)}
    decisions = []
    for item in released:
        row = found.get(item.order_id or "")
        wrong = differences(item, row, profile_id, orders.columns) if row else ("profile_id",)
        if wrong or row is None or row.status != "filled":
            raise Refused(
                "existing_row_differs",
                f"{item.order_id} exists with other content ({', '.join(wrong) or 'status'}); an id is written once. "
                "Nothing was written; find out who wrote it.",
            )
        decisions.append((item, Decision.APPLIED if item.order_id in new else Decision.SKIP_EXISTING))
    return decisions


def _invariants(
    held: Held, plan: Plan, released: Sequence[Item], others: str
) -> tuple[tuple[Check, ...], tuple[tuple[TradeKey, Decimal, Decimal], ...]]:
    """Invariants 1, 5 and 6, asked of the database inside the transaction."""
    connection, profile_id = held.connection, held.batch.profile_id
    own = [item.order_id or "" for item in released]
    after = {(one.symbol, one.trade_id): one.open_qty for one in held.orders.lifecycles(connection, profile_id)}
    closed: dict[TradeKey, Decimal] = defaultdict(Decimal)
    for item in released:
        closed[item.symbol, item.trade_id] += item.qty or Decimal(0)
    rows = []
    wrong = []
    for judgement in plan.judgements:
        key, before = judgement.lifecycle.key, judgement.lifecycle.open_qty
        now_open = after.get(key, Decimal(0))
        rows.append((key, before, now_open))
        if not 0 <= now_open <= before or now_open != before - closed[key]:
            wrong.append(key[1])
    unchanged = held.orders.digest(connection, profile_id, without=own)
    over = _overspent(held, plan, released)
    checks = (
        Check(
            "open_quantities", not wrong, f"targets whose open quantity is not as planned: {', '.join(wrong) or 'none'}"
        ),
        Check(
            "other_rows_unchanged", unchanged == others, f"digest of all other rows before {others}, after {unchanged}"
        ),
        Check("evidence_spent_once", not over, f"units spent beyond what the fills give: {', '.join(over) or 'none'}"),
    )
    return checks, tuple(rows)


def _overspent(held: Held, plan: Plan, released: Sequence[Item]) -> list[str]:
    """Units of which the rows just written hold more than all other rows leave, summed in SQL (invariant 6)."""
    taken: dict[UnitKey, Decimal] = defaultdict(Decimal)
    for take in plan.ledger.takes.values():
        taken[take.unit] += take.qty
    limits = []
    for item in released:
        if item.exchange_order_id is not None and item.filled_at is not None and item.side is not None:
            key = (canonical_symbol(item.symbol), item.side, item.exchange_order_id, item.filled_at)
            name = f"{key[0]} {key[1]} {item.exchange_order_id} at {canonical_time(item.filled_at)}"
            limits.append((item.order_id or "", name, plan.ledger.units[key].qty - taken[key]))
    return held.orders.overspent(held.connection, held.batch.profile_id, limits)


def _compare(work: Workspace, batch: Batch, now: datetime) -> StageResult:
    """The batch is applied already: look for each approved row, say what was found, write only SKIP_EXISTING rows."""
    released = released_items(batch)
    require_signers(work.settings)
    sound, signed = signature_told(batch.approval, work.settings)
    if work.settings.recon_require_signature and not sound:
        raise Refused(
            "signature_invalid" if (batch.approval or {}).get("signature") else "signature_missing",
            f"RECON_REQUIRE_SIGNATURE is true, and the approval that was applied is {signed}. Nothing was written; "
            "find out who changed it.",
        )
    with transaction(work.engine) as connection:
        held = batches.load(connection, batch.batch_id, batch.profile_id, lock=True)
        orders = reflect(connection, batch.profile_id)
        wrong = altered_rows(connection, orders, batch.profile_id, released)
        same = [item for item in released if item.order_id not in wrong]
        audit.append(
            connection,
            batch_id=batch.batch_id,
            profile_id=batch.profile_id,
            decisions=[(item, Decision.SKIP_EXISTING) for item in same],
            plan_digest=batch.plan_digest,
            actor=work.actor,
            now=now,
        )
        batches.save(connection, held.moved(Action.APPLY), actor=work.actor, now=now)
    detail = (
        "; ".join(f"{order_id} {what}" for order_id, what in wrong.items()) or f"{count(len(same), 'row')} as approved"
    )
    checks = (
        approval_check(batch.approval, signed, ok=sound),
        Check("rows_as_approved", not wrong, detail),
    )
    applied = Applied(tuple((item, Decision.SKIP_EXISTING) for item in same), (), signed, checks, ())
    result = apply_result(batch, applied, None)
    if wrong:
        message = f"The batch was applied, but rows are no longer as approved: {detail}. Find out who changed them."
        return replace(result, verdict=Verdict.FAILED, code="existing_row_differs", message=message)
    return replace(result, message="the batch was applied before; nothing was written to orders")
