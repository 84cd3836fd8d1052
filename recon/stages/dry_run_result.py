"""A plan as a result for notebook, JSON and console; nothing here writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import Decimal

from recon.domain import Cell, Check, Decision, Item, Page, Snapshot, Stage, StageResult, Table, Verdict
from recon.plan import Facts, Plan
from recon.wording import count


def dry_run_result(
    batch_id: str, plan: Plan, checks: tuple[Check, ...], snapshot: Snapshot | None, facts: Facts
) -> StageResult:
    """The result: DONE without open lifecycles, GO when every check holds, else NO_GO."""
    if not plan.open_lifecycles:
        verdict = Verdict.DONE
    else:
        verdict = Verdict.GO if all(check.ok for check in checks) else Verdict.NO_GO
    return StageResult(
        Stage.DRY_RUN,
        plan.profile_id,
        batch_id,
        verdict,
        plan_digest=plan.digest,
        checks=checks,
        counts=dict(sorted(Counter(item.decision.value for item in plan.items).items())),
        items=plan.items,
        message=None if plan.open_lifecycles else "nothing to repair: the profile has no open lifecycle",
        tables=_tables(plan, snapshot, facts),
    )


def _tables(plan: Plan, snapshot: Snapshot | None, facts: Facts) -> dict[str, Table]:
    return {
        "targets": _targets(plan),
        "allocations": _allocations(plan),
        "conditions": _conditions(plan),
        "by_symbol": _by_symbol(plan.rows_to_write),
        "unrecognised_rows": _unmatched(plan),
        "fetched": _fetched(snapshot),
        "notes": _notes(plan, snapshot, facts),
    }


def _targets(plan: Plan) -> Table:
    rows = []
    for judgement in plan.judgements:
        lifecycle = judgement.lifecycle
        rows.append(
            (
                lifecycle.symbol,
                lifecycle.trade_id,
                lifecycle.closing_side.value,
                lifecycle.open_qty,
                judgement.evidence,
                judgement.remainder,
                ", ".join(judgement.reasons),
            )
        )
    return Table(
        "Targets",
        "What fills cover of each open trade, what they do not, and every reason that applies.",
        ("symbol", "trade_id", "closing_side", "open_qty", "evidence_qty", "remainder", "reasons"),
        tuple(rows),
    )


def _allocations(plan: Plan) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for judgement in plan.judgements:
        for made in judgement.allocations:
            unit = made.unit
            rows.append(
                (
                    *made.trade,
                    unit.exchange_order_id,
                    unit.filled_at,
                    unit.qty,
                    made.qty,
                    unit.price,
                    made.grade.value,
                    made.why,
                )
            )
    return Table(
        "Allocations",
        "Which fills close which trade: a unit is all fills of one exchange order at one instant; the last column says "
        "why it goes to this trade.",
        ("symbol", "trade_id", "exchange_order_id", "filled_at", "unit_qty", "qty", "price", "grade", "why"),
        tuple(rows),
    )


def _conditions(plan: Plan) -> Table:
    against = [item for item in plan.items if item.decision is Decision.NO_GO]
    return Table(
        "What stands against it",
        "One line per trade and reason: what was expected, what was found, what to do.",
        ("symbol", "trade_id", "reason", "qty", "detail"),
        tuple((item.symbol, item.trade_id, item.reason.value, item.qty, item.detail) for item in against),
    )


def _by_symbol(rows: Iterable[Item]) -> Table:
    """Rows, quantity and notional per symbol; dust rows without evidence apart."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in rows:
        groups.setdefault((item.symbol, item.reason.value), []).append(item)
    lines = []
    for (symbol, reason), items in sorted(groups.items()):
        qty = sum((item.qty or Decimal(0) for item in items), Decimal(0))
        notional = sum(((item.qty or Decimal(0)) * (item.price or Decimal(0)) for item in items), Decimal(0))
        lines.append((symbol, reason, len(items), qty, notional))
    return Table(
        "What would be written",
        "Rows, quantity in units of the symbol and notional in its quote, per symbol and reason.",
        ("symbol", "reason", "rows", "qty", "notional"),
        tuple(lines),
    )


def _unmatched(plan: Plan) -> Table:
    rows = sorted(plan.ledger.unmatched, key=lambda pair: pair[0].order_id)
    return Table(
        "Rows that no order of the exchange explains",
        "Filled rows whose exchange order was not found among the fills, and what was done about it.",
        ("order_id", "symbol", "trade_id", "quantity", "filled_at", "note"),
        tuple((row.order_id, row.symbol, row.trade_id, row.quantity, row.filled_at, note) for row, note in rows),
    )


def _fetched(snapshot: Snapshot | None) -> Table:
    """One line per symbol that was asked for; the pages one by one are in the kept evidence and beside the plan."""
    rows: list[tuple[Cell, ...]] = []
    if snapshot is not None and snapshot.coverage is not None:
        asked: dict[str | None, list[Page]] = defaultdict(list)
        for page in snapshot.coverage.pages:
            asked[page.symbol].append(page)
        for symbol, pages in sorted(asked.items(), key=lambda pair: pair[0] or ""):
            start, end = min(page.start for page in pages), max(page.end for page in pages)
            rows.append((symbol or "all", start, end, len(pages), sum(page.fills for page in pages)))
    elif snapshot is not None:
        rows.append(("all", snapshot.window.start, snapshot.window.end, None, len(snapshot.fills)))
    return Table(
        "What was fetched",
        "Per symbol as the source spells it: the span that was asked for, the pages read, and the fills on them, some "
        "of them twice.",
        ("symbol", "from", "to", "pages", "fills"),
        tuple(rows),
    )


def _notes(plan: Plan, snapshot: Snapshot | None, facts: Facts) -> Table:
    notes = ["No exchange is configured (RECON_EXCHANGE): positions are unknown."]
    if snapshot is not None:
        start, end = snapshot.window.start, snapshot.window.end
        notes = [
            f"Fills from {start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC are evidence; older ones are not."
        ]
        notes += snapshot.notes
        older = [one.lifecycle for one in plan.judgements if one.lifecycle.begin < start]
        if older:
            names = ", ".join(lifecycle.trade_id for lifecycle in older)
            notes.append(f"These trades began before the window, so that fills of theirs may be missing: {names}.")
    assumed = sum(row.is_filled and row.filled_at_assumed for row in facts.rows)
    if assumed:
        notes.append(f"filled_at is NULL on {count(assumed, 'filled row')}; created_at stands in.")
    if facts.columns.naive_times:
        notes.append(f"{', '.join(facts.columns.naive_times)} of orders are without time zone and are read as UTC.")
    return Table("Notes", "Each line limits what this plan can say.", ("note",), tuple((note,) for note in notes))
