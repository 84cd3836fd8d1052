"""What one apply did, as a result for notebook, JSON and console; nothing here writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal

from recon.allocation import TradeKey
from recon.batches import Batch
from recon.domain import Cell, Check, Decision, Item, Stage, StageResult, Table, Verdict
from recon.stages.approved import acknowledgements
from recon.stages.writing import Outcome


@dataclass(frozen=True, slots=True)
class Applied:
    """What one apply did: each released item with its decision, what it left, how its approval is signed, checks."""

    decisions: tuple[tuple[Item, Decision], ...]
    left: tuple[Item, ...]
    signed: str
    checks: tuple[Check, ...]
    lifecycles: tuple[tuple[TradeKey, Decimal, Decimal], ...]


def apply_result(batch: Batch, done: Applied, note: str | None) -> StageResult:
    """The result of an apply that wrote, or, without a note, of one that only compared."""
    counts = Counter(decision.value for _, decision in done.decisions)
    counts.update(item.decision.value for item in done.left)
    items = (*(replace(item, decision=decision) for item, decision in done.decisions), *done.left)
    return StageResult(
        Stage.APPLY,
        batch.profile_id,
        batch.batch_id,
        Verdict.DONE,
        plan_digest=batch.plan_digest,
        checks=done.checks,
        counts=dict(sorted(counts.items())),
        items=items,
        message=note or None,
        tables={
            "applied": _applied(done),
            "left_open": _left(done),
            "acknowledgements": acknowledgements(batch),
            "invariants": _lifecycles(done),
            "transaction": _transaction(batch, done, note),
        },
    )


def _applied(done: Applied) -> Table:
    rows = tuple(
        (
            item.symbol,
            item.trade_id,
            decision.value,
            item.reason.value,
            item.qty,
            item.price,
            item.filled_at,
            item.order_id,
        )
        for item, decision in done.decisions
    )
    return Table(
        "Rows of the approved plan",
        "APPLIED rows were written by this run; SKIP_EXISTING rows were there already, identical and filled.",
        ("symbol", "trade_id", "decision", "reason", "qty", "price", "filled_at", "order_id"),
        rows,
    )


def _left(done: Applied) -> Table:
    rows = tuple((item.symbol, item.trade_id, item.reason.value, item.qty, item.detail) for item in done.left)
    return Table(
        "What was left open",
        "Acknowledged at approval: nothing was written for these quantities.",
        ("symbol", "trade_id", "reason", "qty", "detail"),
        rows,
    )


def _lifecycles(done: Applied) -> Table:
    rows = tuple((*key, before, before - after, after) for key, before, after in done.lifecycles)
    return Table(
        "Open quantity before and after",
        "Asked of the database inside the transaction; after = before - closed, and never below zero.",
        ("symbol", "trade_id", "open_before", "closed_qty", "open_after"),
        rows,
    )


def _transaction(batch: Batch, done: Applied, note: str | None) -> Table:
    approval = batch.approval or {}
    facts: list[tuple[Cell, ...]] = [
        ("approved by", approval.get("by")),
        ("approved at", approval.get("approved_at")),
        ("approval expires", approval.get("expires_at")),
        ("signature", done.signed),
        ("plan digest", batch.plan_digest),
        ("outcome", "nothing to commit to orders: applied before" if note is None else Outcome.COMMITTED.value),
    ]
    if note:
        facts.append(("note", note))
    return Table("The transaction", "One transaction held everything above.", ("fact", "value"), tuple(facts))
