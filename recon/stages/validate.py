"""Validate: the runbook's section 8, asked of the database anew, without trusting what apply said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy.engine import Connection

from recon import audit, batches, events
from recon.allocation import TradeKey
from recon.approval import signature_told
from recon.batches import Action, Batch
from recon.database import transaction
from recon.domain import Check, Decision, Item, Snapshot, Stage, StageResult, Table, Verdict, Wanted
from recon.errors import ReconError
from recon.identity import canonical_decimal, canonical_symbol
from recon.lifecycles import build_lifecycles
from recon.orders import OpenLifecycle, Orders
from recon.plan import market
from recon.stages.approved import acknowledgements, altered_rows, approval_check, released_items
from recon.stages.gather import Booked, gather, mismatches, net_positions
from recon.wording import count
from recon.workspace import Workspace, reflect

NEARLY_CLOSED = Decimal("0.000001")
"""The runbook's section 8 calls a lifecycle closed up to here; targets must be exact all the same."""


@dataclass(frozen=True, slots=True)
class Target:
    """One target of the plan: open quantity then, what APPLIED rows closed, and what is open now."""

    key: TradeKey
    before: Decimal
    applied: Decimal
    now_open: Decimal

    @property
    def expected(self) -> Decimal:
        """What must be open."""
        return self.before - self.applied


@dataclass(frozen=True, slots=True)
class _Found:
    """Everything that one validation read."""

    batch: Batch
    targets: tuple[Target, ...]
    altered: Mapping[str, str]
    applied: Mapping[str, Decimal]
    lifecycles: tuple[OpenLifecycle, ...]
    changed_trades: tuple[str, ...]
    net: Mapping[str, Booked]
    counts: Mapping[str, int]
    events: tuple[int, int]
    now: datetime


def validate(work: Workspace, profile_id: str, batch_id: str) -> StageResult:
    """Check the applied batch against database and exchange; writes mismatch events and the batch's state.

    Raises `Refused`: illegal_transition, unknown_profile, orders_unsuitable.
    """
    with transaction(work.engine, read_only=True) as connection:
        batches.load(connection, batch_id, profile_id).after(Action.VALIDATE)
        symbols = reflect(connection, profile_id).symbols(connection, profile_id)
        now = work.now(connection)
    snapshot, unread = _snapshot(work, profile_id, now, Wanted(begin=now, also=tuple(symbols)))
    with transaction(work.engine, read_only=True, snapshot=True) as connection:
        batch = batches.load(connection, batch_id, profile_id)
        found = _read(connection, reflect(connection, profile_id), batch, snapshot, now)
    checks = (*_approved(work, batch), *_checks(found, snapshot, unread))
    passed = all(check.ok for check in checks)
    with transaction(work.engine) as connection:
        throttle = timedelta(milliseconds=work.settings.exchange_state_mismatch_throttle_ms)
        disagreeing = list(mismatches(found.net, snapshot).values())
        held = batches.load(connection, batch_id, profile_id, lock=True)
        events.record_events(connection, profile_id, batch_id, disagreeing, throttle=throttle, now=now)
        batches.save(connection, held.moved(Action.VALIDATE if passed else Action.REFUTE), actor=work.actor, now=now)
    result = StageResult(
        Stage.VALIDATE,
        profile_id,
        batch_id,
        Verdict.DONE if passed else Verdict.FAILED,
        plan_digest=found.batch.plan_digest,
        checks=checks,
        counts=found.counts,
        items=tuple(
            replace(item, decision=Decision.APPLIED)
            for item in released_items(found.batch)
            if item.order_id in found.applied
        ),
        tables=_tables(found),
    )
    if passed:
        return result
    failed = ", ".join(check.name for check in checks if not check.ok)
    unknown = snapshot is None or snapshot.positions is None
    advice = (
        "make the exchange readable and validate again"
        if unknown and failed == "exchange_agrees"
        else "roll back, or put it right and validate again"
    )
    message = f"These checks failed: {failed}. The checks say what was found; {advice}."
    return replace(result, code="validation_failed", message=message)


def _approved(work: Workspace, batch: Batch) -> tuple[Check, ...]:
    """Where approvals must be signed, whether the one that was applied still is."""
    if not work.settings.recon_require_signature:
        return ()
    sound, signed = signature_told(batch.approval, work.settings)
    return (approval_check(batch.approval, signed, ok=sound),)


def _snapshot(work: Workspace, profile_id: str, now: datetime, asked: Wanted) -> tuple[Snapshot | None, str]:
    try:
        snapshot = work.fetch(profile_id, now, asked)
    except ReconError as error:
        return None, error.message
    return snapshot, "no exchange is configured (RECON_EXCHANGE)" if snapshot is None else ""


def _read(connection: Connection, orders: Orders, batch: Batch, snapshot: Snapshot | None, now: datetime) -> _Found:
    profile_id = batch.profile_id
    plan: dict[str, Any] = batch.plan or {}
    released = released_items(batch)
    audited = audit.applied_items(connection, profile_id, batch.batch_id)
    applied = {order_id: item.qty or Decimal(0) for order_id, item in audited.items()}
    lifecycles = orders.lifecycles(connection, profile_id)
    held = {canonical_symbol(target["symbol"]) for target in plan["targets"]} | set(market(snapshot).positions or ())
    held |= {canonical_symbol(one.symbol) for one in lifecycles}
    facts = gather(connection, orders, profile_id, snapshot, also=held)
    digests = orders.trade_digests(connection, profile_id)
    return _Found(
        batch=batch,
        targets=_targets(plan["targets"], released, applied, lifecycles),
        altered=altered_rows(connection, orders, profile_id, [item for item in released if item.order_id in applied])
        | _misaudited(released, audited),
        applied=applied,
        lifecycles=tuple(lifecycles),
        changed_trades=_changed(plan, digests),
        net=net_positions(build_lifecycles(facts.rows).values()),
        counts=audit.decision_counts(connection, profile_id, batch.batch_id),
        events=events.event_counts(connection, profile_id, batch.created_at),
        now=now,
    )


def _misaudited(released: Sequence[Item], audited: Mapping[str, Item]) -> dict[str, str]:
    """Rows whose APPLIED audit row does not say what the approved item says, side and grade aside."""
    wrong = {}
    for item in released:
        said = audited.get(item.order_id or "")
        if said is not None:
            alike = replace(item, side=None, grade=None, client_order_id=None, decision=Decision.APPLIED)
            if alike != said:
                wrong[item.order_id or ""] = "is audited with other content"
    return wrong


def _targets(
    stored: Sequence[Mapping[str, Any]],
    released: Sequence[Item],
    applied: Mapping[str, Decimal],
    lifecycles: Sequence[OpenLifecycle],
) -> tuple[Target, ...]:
    now_open = {(one.symbol, one.trade_id): one.open_qty for one in lifecycles}
    closed: dict[TradeKey, Decimal] = defaultdict(Decimal)
    for item in released:
        closed[item.symbol, item.trade_id] += applied.get(item.order_id or "", Decimal(0))
    return tuple(
        Target(key, Decimal(target["open_qty"]), closed[key], now_open.get(key, Decimal(0)))
        for target in stored
        for key in [(target["symbol"], target["trade_id"])]
    )


def _changed(plan: Mapping[str, Any], digests: Mapping[str, str]) -> tuple[str, ...]:
    """Trades outside the plan whose rows are not what they were at the dry run."""
    then: Mapping[str, str] = plan.get("trade_digests", {})
    mine = {target["trade_id"] for target in plan["targets"]}
    return tuple(sorted(t for t in set(then) | set(digests) if t not in mine and then.get(t) != digests.get(t)))


def _checks(found: _Found, snapshot: Snapshot | None, unread: str) -> tuple[Check, ...]:
    wrong = [
        f"{target.key[1]} expected {canonical_decimal(target.expected)}, found {canonical_decimal(target.now_open)}"
        for target in found.targets
        if target.now_open != target.expected
    ]
    over = [target.key[1] for target in found.targets if target.now_open < 0]
    altered = [f"{order_id} {what}" for order_id, what in found.altered.items()]
    orphaned = sorted(set(found.applied) - {item.order_id for item in released_items(found.batch)})
    altered += [f"{order_id} is not in the approved plan" for order_id in orphaned]
    return (
        Check(
            "open_quantities",
            not wrong,
            "; ".join(wrong) or f"{count(len(found.targets), 'target')} exactly as planned",
        ),
        Check("no_target_over_closed", not over, f"over-closed targets: {', '.join(over) or 'none'}"),
        Check(
            "applied_rows_identical",
            not altered,
            "; ".join(altered) or f"{count(len(found.applied), 'row')} as audited",
        ),
        _agreement(found, snapshot, unread),
    )


def _agreement(found: _Found, snapshot: Snapshot | None, unread: str) -> Check:
    """Table and exchange agree on every symbol on which the batch left nothing open: no target, and no other trade."""
    left_open = [target.key[0] for target in found.targets if target.now_open != 0]
    left_open += [one.symbol for one in found.lifecycles if one.trade_id not in found.changed_trades]
    repaired = {canonical_symbol(target.key[0]) for target in found.targets} - set(map(canonical_symbol, left_open))
    if not repaired:
        return Check("exchange_agrees", True, "no symbol is fully repaired, so there is nothing to compare")
    if snapshot is None or snapshot.positions is None:
        why = unread or "positions were not read in full"
        return Check("exchange_agrees", False, f"expected the exchange's positions, found none: {why}")
    apart = [m for symbol, m in mismatches(found.net, snapshot).items() if symbol in repaired]
    listed = "; ".join(
        f"{m.symbol}: orders {canonical_decimal(m.db_open_qty)}, exchange {canonical_decimal(m.exchange_qty)}"
        for m in apart
    )
    return Check(
        "exchange_agrees",
        not apart,
        listed or f"orders and exchange agree on {count(len(repaired), 'repaired symbol')}",
    )


def _tables(found: _Found) -> dict[str, Table]:
    before, since = found.events
    still_open = [one for one in found.lifecycles if one.open_qty > NEARLY_CLOSED]
    over = [one for one in found.lifecycles if one.open_qty < 0]
    return {
        "targets": Table(
            "Targets",
            "What was open at the dry run, what APPLIED rows closed, what must be open and what is.",
            ("symbol", "trade_id", "open_before", "closed_qty", "expected_open", "open_now"),
            tuple((*t.key, t.before, t.applied, t.expected, t.now_open) for t in found.targets),
        ),
        "decision_counts": Table(
            "Audit rows of this batch",
            "The runbook's decision count, for this batch alone.",
            ("decision", "rows"),
            tuple(found.counts.items()),
        ),
        "events": Table(
            "Mismatch events of this profile",
            "How often table and exchange were found apart, up to the batch's first detect and since; the throttle "
            "keeps repeated events of a symbol out, so silence right after a repair means little.",
            ("when", "events"),
            (("up to the first detect", before), ("since", since)),
        ),
        "acknowledgements": acknowledgements(found.batch),
        "runbook_open": Table(
            "Still open by the runbook's query",
            "Every lifecycle of the profile above 0.000001: acknowledged remainders, trades outside the batch and live "
            "positions.",
            ("symbol", "trade_id", "entry_qty", "exit_qty", "open_qty"),
            tuple((one.symbol, one.trade_id, one.entry_qty, one.exit_qty, one.open_qty) for one in still_open),
        ),
        "over_closed": Table(
            "Over-closed lifecycles",
            "Notes, unless a target is among them.",
            ("symbol", "trade_id", "over_closed_qty"),
            tuple((one.symbol, one.trade_id, -one.open_qty) for one in over),
        ),
        "other_changes": Table(
            "Other trades that changed since the dry run",
            "Not this batch's doing: the backend, or another batch, wrote to them.",
            ("trade_id",),
            tuple((trade_id,) for trade_id in found.changed_trades),
        ),
    }
