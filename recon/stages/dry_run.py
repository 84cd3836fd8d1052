"""Dry run: make the plan, prove that nothing was changed, record it (runbook sections 2 to 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from recon import audit, batches
from recon.batches import Action
from recon.database import transaction
from recon.domain import Check, Decision, Reason, Snapshot, StageResult
from recon.doors.fit import require_fit
from recon.doors.sequences import closed_sequences
from recon.errors import Refused
from recon.pause import PauseAnswer
from recon.plan import Facts, Plan, Scope, build_plan
from recon.stages.dry_run_result import dry_run_result
from recon.stages.gather import gather, wanted
from recon.venues.archive import coverage_document
from recon.wording import count
from recon.workspace import Workspace, reflect

PROOFS = ("quantities_rest_on_fills", "reading_wrote_nothing", "orders_unchanged")
"""Checks that no acknowledgement answers: while one fails, the dry run cannot be approved. So is a plan with rows that
fails `candidates_present`, since an apply could not insert them."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one read-only snapshot of the database gave, with the proof that it wrote nothing."""

    facts: Facts
    digest: str
    trade_digests: Mapping[str, str]
    transaction_id: str | None
    closed: Sequence[str]
    """The grants that an insert into orders lacks to draw new ids."""


def dry_run(work: Workspace, profile_id: str, batch_id: str) -> StageResult:
    """Plan the batch and record the plan; writes audit rows and the batch, changes no row of orders.

    Raises `Refused`: backfill_disabled, illegal_transition, unknown_profile, orders_unsuitable, doors_outdated,
    evidence_unreadable, scope_matches_nothing, batch_too_large.
    """
    require_enabled(work)
    with transaction(work.engine, read_only=True) as connection:
        batches.load(connection, batch_id, profile_id).after(Action.DRY_RUN)
        orders = reflect(connection, profile_id)
        require_fit(connection, orders)
        asked = wanted(connection, orders, profile_id, work.exchange)
        now = work.now(connection)
    pause = work.pause(profile_id)
    snapshot = work.fetch(profile_id, now, asked)
    reading = _read(work, profile_id, snapshot)
    reasons = work.pause_reasons(pause)
    unavailable = _audit_trouble(work, batch_id, reading.facts)
    if unavailable:
        reasons[Reason.AUDIT_UNAVAILABLE] = unavailable
    plan = build_plan(reading.facts, work.rules, work.scope, reasons)
    _check_size(work, plan)
    checks = _record(work, batch_id, plan, snapshot, reading, _before(work, plan, pause, reading, unavailable), now)
    return dry_run_result(batch_id, plan, checks, snapshot, reading.facts)


def require_enabled(work: Workspace) -> None:
    """Raise `Refused` (backfill_disabled) while ENABLE_RECON_EXIT_BACKFILL is false; its default is false."""
    if not work.settings.enable_recon_exit_backfill:
        raise Refused(
            "backfill_disabled",
            "ENABLE_RECON_EXIT_BACKFILL is false, so nothing may be planned or written. Set it to true for the repair.",
        )


def _read(work: Workspace, profile_id: str, snapshot: Snapshot | None) -> _Reading:
    with transaction(work.engine, read_only=True, snapshot=True) as connection:
        orders = reflect(connection, profile_id)
        before = orders.digest(connection, profile_id)
        facts = gather(connection, orders, profile_id, snapshot)
        digests = orders.trade_digests(connection, profile_id)
        assigned = connection.execute(sa.select(sa.func.pg_current_xact_id_if_assigned())).scalar_one()
        return _Reading(facts, before, digests, assigned, closed_sequences(connection, "orders"))


def _audit_trouble(work: Workspace, batch_id: str, facts: Facts) -> str | None:
    symbol, trade_id = next(((row.symbol, row.trade_id) for row in facts.rows if row.trade_id), ("", None))
    try:
        with transaction(work.engine) as connection:
            closed = closed_sequences(connection, audit.audit_table.name)
            audit.check_writable(connection, batch_id, facts.profile_id, symbol, trade_id, closed)
    except Refused as refusal:
        return refusal.message
    return None


def _check_size(work: Workspace, plan: Plan) -> None:
    missed = plan.unmatched_names(work.scope) if plan.open_lifecycles else ()
    if missed or (plan.open_lifecycles and not plan.judgements):
        raise Refused(
            "scope_matches_nothing",
            f"--trade-id and --symbol leave {len(plan.judgements)} of {count(plan.open_lifecycles, 'open lifecycle')}; "
            f"no target answers to: {', '.join(missed) or 'all of them together'}. `recon run detect` lists them.",
        )
    limit = work.settings.recon_max_batch_rows
    if len(plan.rows_to_write) > limit:
        sizes = Counter(item.symbol for item in plan.rows_to_write).most_common(5)
        largest = ", ".join(f"{symbol} {number}" for symbol, number in sizes)
        raise Refused(
            "batch_too_large",
            f"The plan has {len(plan.rows_to_write)} rows, RECON_MAX_BATCH_ROWS allows {limit}. Split it into batches "
            f"with --symbol or --trade-id (largest symbols: {largest}).",
        )


def _record(
    work: Workspace,
    batch_id: str,
    plan: Plan,
    snapshot: Snapshot | None,
    reading: _Reading,
    checks: Sequence[Check],
    now: datetime,
) -> tuple[Check, ...]:
    """One transaction: the audit rows and the batch with its plan, or neither. Returns all checks."""
    with transaction(work.engine) as connection:
        batch = batches.load(connection, batch_id, plan.profile_id, lock=True)
        batch.after(Action.DRY_RUN)
        if Reason.AUDIT_UNAVAILABLE not in {item.reason for item in plan.items}:
            audit.append(
                connection,
                batch_id=batch_id,
                profile_id=plan.profile_id,
                decisions=[(item, item.decision) for item in plan.items],
                plan_digest=plan.digest,
                actor=work.actor,
                now=now,
            )
        after = reflect(connection, plan.profile_id).digest(connection, plan.profile_id)
        checks = (*checks, _unchanged(reading.digest, after))
        proofs = (*PROOFS, "candidates_present") if plan.rows_to_write else PROOFS
        stored = plan_record(plan, snapshot, reading.trade_digests) | {
            "failed_checks": [check.name for check in checks if check.name in proofs and not check.ok],
            "planned_by": work.actor,
        }
        planned = batch.moved(
            Action.DRY_RUN, scope=scope_document(work.scope), plan=stored, plan_digest=plan.digest, approval=None
        )
        batches.save(connection, planned, actor=work.actor, now=now)
    return checks


def _unchanged(before: str, after: str) -> Check:
    detail = f"digest of the profile's rows before {before}, after {after}"
    return Check("orders_unchanged", before == after, detail)


def plan_record(plan: Plan, snapshot: Snapshot | None, trade_digests: Mapping[str, str]) -> dict[str, object]:
    """The plan as the batch keeps it: the digest's document, and beside it what is not in the digest."""
    return {
        "document": dict(plan.document),
        "window": {"start": snapshot.window.start, "end": snapshot.window.end} if snapshot else None,
        "coverage": coverage_document(snapshot) if snapshot else None,
        "targets": [
            {
                "symbol": judgement.lifecycle.symbol,
                "trade_id": judgement.lifecycle.trade_id,
                "open_qty": judgement.lifecycle.open_qty,
                "reasons": [reason.value for reason in judgement.reasons],
                "needs_acknowledgement": judgement.needs_acknowledgement,
                "is_blocked": judgement.is_blocked,
            }
            for judgement in plan.judgements
        ],
        "trade_digests": dict(trade_digests),
    }


def scope_document(scope: Scope) -> dict[str, object]:
    """The scope as the batch keeps it."""
    return {"trade_ids": list(scope.trade_ids), "symbols": list(scope.symbols)}


def _before(
    work: Workspace, plan: Plan, pause: PauseAnswer, reading: _Reading, unavailable: str | None
) -> tuple[Check, ...]:
    """The checks of runbook section 6 that are known before anything is recorded."""
    blocked = sorted({item.reason.value for item in plan.items if item.decision is Decision.NO_GO})
    rows = plan.rows_to_write
    required = work.settings.recon_exit_backfill_require_pause
    waived = "" if required else "; RECON_EXIT_BACKFILL_REQUIRE_PAUSE=false: this batch may be applied without a pause"
    offered = f"{count(len(rows), 'row')} could be written for {count(len(plan.judgements), 'target')}"
    closed = reading.closed if any(item.reason is not Reason.REINSTATE for item in rows) else ()
    if closed:
        offered += f", if new ids could be drawn; run `{'; '.join(closed)}`"
    return (
        Check("pause_confirmed", not work.pause_reasons(pause), pause.detail + waived),
        Check("candidates_present", (bool(rows) and not closed) or not plan.open_lifecycles, offered),
        Check("no_target_is_no_go", not blocked, f"reasons found: {', '.join(blocked) or 'none'}"),
        Check("quantities_rest_on_fills", *_on_fills(plan)),
        Check(
            "audit_writable", not unavailable, unavailable or "an audit row was written in a savepoint and taken back"
        ),
        Check(
            "reading_wrote_nothing",
            reading.transaction_id is None,
            f"transaction id of the reading transaction: {reading.transaction_id or 'none was assigned'}",
        ),
    )


def _on_fills(plan: Plan) -> tuple[bool, str]:
    """Runbook section 6: what would be written equals, unit by unit, what the fills still have to give."""
    evidence = [item for item in plan.rows_to_write if item.exchange_order_id is not None]
    units = plan.ledger.units
    over = [qty for qty in plan.ledger.left.values() if qty < 0]
    backed = sum(len(judgement.allocations) for judgement in plan.judgements if not judgement.is_blocked)
    found = f"{count(len(evidence), 'row')} from {count(backed, 'allocation')} of {count(len(units), 'unit')}"
    detail = f"{found}; over-spent units: {len(over)}"
    return not over and backed == len(evidence), detail
