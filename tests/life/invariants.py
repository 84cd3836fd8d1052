"""What was seen before and after a step, held against each invariant of rules.md by its number; calls no recon.

Which check stands for which:

 1  `only_own_rows`: nothing deleted, only BFILL EXIT rows inserted, only status and updated_at changed, only on those
 2  `reading_leaves_no_trace`: a step that may not write orders leaves each row as it was, its xmin included
 3  `one_transaction`: all that a step changed, in all tables, became visible at once; `audit_only_grows`: audit rows
    are neither changed nor deleted; `audit_and_rows_agree`: each APPLIED row that is not reverted has its filled row,
    each filled row its APPLIED row
 4  `written_once`: an id never gets other content; an apply that only compares appends SKIP_EXISTING and nothing else
 5  `apply_closes_what_it_says`: 0 <= open <= before for targets, every other lifecycle as it was
 6  `spent_once`: where a step let backfill rows hold more of a unit, an order or a side, there are fills for all of it
 7  `apply_writes_the_approved`: exactly the approved items became filled rows and APPLIED audit rows; and the model's
    word for a plan whose facts changed, which must be refused as stale, and for an approval that does not count
 8  `rollback_restores`: exactly the rows that the batch owns, and each lifecycle as before its apply; a plan made
    after a rollback names the rows of the first (`same_facts_same_plan`)
 9  `exact`: every quantity and price of a result is a Decimal, and no stored document holds a float
10  `unknown_is_no`: a reason for everything that is unknown or open; and the model's word for gates that are not a yes
11  `same_facts_same_plan`: equal facts, equal digest, however rows and fills are ordered; `ids_as_written_down`
12  `no_secret`: neither password nor token in anything that a step returned or stored
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from life.model import PREDICTED, Around, Batch, Outcome, open_and_rest, owned, whole_trade_reasons
from life.seen import (
    FILLED,
    ZERO,
    Row,
    Seen,
    as_planned,
    content,
    counted,
    is_backfill,
    key,
    runbook_id,
    spending,
    wrong_columns,
)

Fault = tuple[int, str]
"""The invariant that does not hold, and what was found."""


NOT_APPROVED = {
    "stale_plan", "approval_expired", "second_person_required", "allowed_signers_unset", "signature_missing",
    "signature_invalid", "signer_mismatch", "rollback_not_approved",
}  # fmt: skip
"""The codes by which a plan or a rollback is not, or no longer, approved as it must be."""


class Broken(AssertionError):
    """Invariants that a step broke; `numbers` are theirs, 0 for a step that did not end as the model says."""

    def __init__(self, step: Step, faults: Iterable[Fault]) -> None:
        self.faults = sorted(faults)
        self.numbers = {number for number, _ in self.faults}
        told = "\n".join(f"  invariant {number}: {what}" for number, what in self.faults)
        super().__init__(f"after {step.action} of {step.name} for {step.profile} ({step.outcome}):\n{told}")


@dataclass
class Step:
    """One step of recon: what was there before and after, what it returned, what the model had said."""

    action: str
    name: str
    profile: str
    around: Around
    after: Seen
    batch: Batch
    outcome: Outcome
    expected: Outcome | None
    result: Any
    told: str
    secrets: tuple[str, ...] = ()
    glimpses: tuple[Seen, ...] = ()

    @property
    def before(self) -> Seen:
        return self.around.seen

    @property
    def writes(self) -> bool:
        """Whether the step may write orders at all: an apply of what is approved, or a rollback, that is DONE."""
        first = {"apply": ("approved",), "rollback": ("applied", "validated", "signed")}.get(self.action, ())
        return self.outcome == ("DONE", None) and self.batch.state in first


@dataclass
class Memory:
    """What lasts from step to step: contents by id, digests and items by facts, rows that a person touched.

    A row that a person canceled may be reinstated by another batch; when that is rolled back, the row is again as the
    person left it, and the first batch's APPLIED row still stands.
    """

    contents: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    plans: dict[str, frozenset[Any]] = field(default_factory=dict)
    by_hand: set[str] = field(default_factory=set)
    once_by_hand: set[str] = field(default_factory=set)


def faults_of(step: Step, memory: Memory) -> list[Fault]:
    """Everything that does not hold after the step."""
    if found := [*exact(step)]:
        return found  # or the sums below would stumble over them
    for check in (as_the_model_says, only_own_rows, reading_leaves_no_trace, one_transaction, spent_once, no_secret):
        found += check(step)
    found += [*audit_only_grows(step), *audit_and_rows_agree(step, memory), *written_once(step, memory)]
    if step.action == "dry-run" and step.outcome[1] is None:
        found += unknown_is_no(step)
    if step.outcome == ("DONE", None):
        found += {
            "apply": apply_writes_the_approved, "rollback": rollback_restores,
        }.get(step.action, lambda _: ())(step)  # fmt: skip
    return found


def as_the_model_says(step: Step) -> Iterable[Fault]:
    """The outcome: gates that are not a yes are invariant 10, a plan that is no longer approved 7, anything else 0."""
    if step.expected is not None and step.outcome != step.expected:
        codes = {step.expected[1], step.outcome[1]}
        gates = {"profile_not_paused", "pause_unknown", "evidence_unreadable", "validation_failed"}
        number = 10 if codes & gates else 7 if codes & NOT_APPROVED else 0
        yield number, f"expected {step.expected}, found {step.outcome}: {step.told[:300]}"


def only_own_rows(step: Step) -> Iterable[Fault]:
    before, after = step.before.orders, step.after.orders
    yield from ((1, f"{order_id} was deleted") for order_id in before.keys() - after.keys())
    for order_id in after.keys() - before.keys():
        row = after[order_id]
        if not is_backfill(row) or row["action"] != "EXIT" or row["profile_id"] != step.profile:
            yield 1, f"{order_id} was inserted"
    for order_id in before.keys() & after.keys():
        old, new = before[order_id], after[order_id]
        changed = {name for name in old if old[name] != new[name]} - {"xmin"}
        own = is_backfill(new) and new["profile_id"] == step.profile
        if changed - {"status", "updated_at"} or (old != new and not own):
            yield 1, f"{order_id} was changed: {', '.join(sorted(changed)) or 'written again'}"


def reading_leaves_no_trace(step: Step) -> Iterable[Fault]:
    if not step.writes and step.before.orders != step.after.orders:
        yield 2, "a step that may not write changed orders"
    if step.action == "dry-run" and step.outcome[1] is None:
        proof = {check.name: check.ok for check in step.result.checks}
        if not (proof["reading_wrote_nothing"] and proof["orders_unchanged"]):
            yield 2, f"the dry run's own proof failed: {proof}"
    illegal = step.outcome[1] is not None and step.outcome[1] not in (
        "stale_plan",
        "validation_failed",
        "existing_row_differs",
    )
    if illegal and _bag(step.before) != _bag(step.after):
        yield 2, "a refused step wrote something"


def one_transaction(step: Step) -> Iterable[Fault]:
    """Of all commits of the step, one alone changed anything: the others only ended a reading."""
    bags = [_bag(seen) for seen in (step.before, *step.glimpses, step.after)]
    changes = sum(one != other for one, other in pairwise(bags))
    if changes > 1:
        yield 3, f"the step changed something in {changes} transactions"


def _bag(seen: Seen) -> Any:
    return counted(seen.orders.values()) + counted(seen.audit) + counted(seen.events) + counted(seen.batches.values())


def audit_only_grows(step: Step) -> Iterable[Fault]:
    """Audit and events are appended to; reverted_at alone is set, once, by the rollback of that very batch."""
    if counted(step.before.events) - counted(step.after.events):
        yield 3, "an event was changed or deleted"
    stamps = ("xmin", "reverted_at")
    if counted(step.before.audit, *stamps) - counted(step.after.audit, *stamps):
        yield 3, "an audit row was changed or deleted"
    touched, written = _unlike(step.before.audit, step.after.audit), _unlike(step.after.audit, step.before.audit)
    if any(row["reverted_at"] for row in touched):
        yield 3, "reverted_at was set twice"
    if touched and not (step.action == "rollback" and step.writes):
        yield 3, "audit rows were changed by a step that is no rollback"
    if foreign := {row["batch_id"] for row in (*touched, *written)} - {step.name}:
        yield 8, f"audit rows of {', '.join(sorted(foreign))} were written"
    batches = step.after.batches
    if others := {name for name in batches if batches[name] != step.before.batches.get(name)} - {step.name}:
        yield 3, f"batches {', '.join(sorted(others))} were written"


def _unlike(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """The rows of which there is no like among the others."""
    known = counted(others)
    return [row for row in rows if key(row) not in known]


def audit_and_rows_agree(step: Step, memory: Memory) -> Iterable[Fault]:
    live = {}
    for row in step.after.audit:
        if row["decision"] == "APPLIED" and row["reverted_at"] is None:
            live[row["backfill_order_id"]] = row
    for order_id, said in live.items():
        row = step.after.orders.get(order_id)
        if row is None:
            yield 3, f"{order_id} is APPLIED and there is no such row"
        elif order_id not in memory.by_hand and (row["status"] not in FILLED or _audited(row) != _said(said)):
            yield 3, f"{order_id} is APPLIED and its row is {row['status']}: {_audited(row)}, {_said(said)}"
    for order_id, row in step.after.orders.items():
        filled = is_backfill(row) and row["profile_id"] == step.around.profile and row["status"] in FILLED
        if filled and order_id not in live and order_id not in memory.by_hand:
            yield 3, f"{order_id} is filled and no APPLIED audit row says so"


def _audited(row: Row) -> tuple[Any, ...]:
    names = ("profile_id", "symbol", "trade_id", "quantity", "price", "exchange_order_id", "filled_at")
    return tuple(row[name] for name in names)


def _said(row: Row) -> tuple[Any, ...]:
    names = ("profile_id", "symbol", "trade_id", "filled_qty", "price", "exchange_order_id", "evidence_filled_at")
    return tuple(row[name] for name in names)


def written_once(step: Step, memory: Memory) -> Iterable[Fault]:
    for order_id, row in step.after.orders.items():
        if is_backfill(row) and memory.contents.setdefault(order_id, content(row)) != content(row):
            yield 4, f"{order_id} got other content"
    if step.action == "apply" and step.outcome == ("DONE", None) and not step.writes:
        new = {row["decision"] for row in _unlike(step.after.audit, step.before.audit)}
        if new - {"SKIP_EXISTING"} or step.before.orders != step.after.orders:
            yield 4, "applying again did more than compare"


def spent_once(step: Step) -> Iterable[Fault]:
    fills = step.around.exchange.fills
    if fills is not None:
        before = spending(step.before, step.around.profile, fills)
        yield from (
            (6, f"spent twice: {what}") for what in spending(step.after, step.around.profile, fills).overspent(before)
        )


def apply_writes_the_approved(step: Step) -> Iterable[Fault]:
    if not step.writes:
        return
    approved = {item["order_id"]: item for item in step.batch.approved}
    filled = _became(step, FILLED)
    if filled != approved.keys():
        yield 7, f"approved {sorted(approved)}, filled {sorted(filled)}"
    for order_id in filled & approved.keys():
        if not as_planned(step.after.orders[order_id], approved[order_id]):
            yield 7, f"{order_id} differs in {wrong_columns(step.after.orders[order_id], approved[order_id])}"
    audited = [row["backfill_order_id"] for row in step.after.audited(step.name, "APPLIED")]
    if sorted(audited) != sorted(approved):
        yield 7, f"approved {sorted(approved)}, audited as APPLIED {sorted(audited)}"
    yield from apply_closes_what_it_says(step)


def _became(step: Step, statuses: Iterable[str]) -> set[str]:
    """The backfill rows that have one of the statuses now and had none of them before."""
    wanted = {*statuses}
    return {
        order_id
        for order_id, row in step.after.orders.items()
        if is_backfill(row)
        and row["status"] in wanted
        and (order_id not in step.before.orders or step.before.orders[order_id]["status"] not in wanted)
    }


def apply_closes_what_it_says(step: Step) -> Iterable[Fault]:
    was, now = (seen.open_quantities(step.profile) for seen in (step.before, step.after))
    closed: dict[Any, Decimal] = {}
    for item in step.batch.approved:
        trade = (item["symbol"], item["trade_id"])
        closed[trade] = closed.get(trade, ZERO) + Decimal(item["qty"])
    for trade in {*was, *now, *closed}:
        before, after = was.get(trade, ZERO), now.get(trade, ZERO)
        if after != before - closed.get(trade, ZERO):
            yield 5, f"{trade} was open {before}, approved {closed.get(trade, ZERO)}, is open {after}"
        if trade in step.batch.targets and not 0 <= after <= before:
            yield 5, f"target {trade} went from {before} to {after}"


def rollback_restores(step: Step) -> Iterable[Fault]:
    if not step.writes:
        return
    own = owned(step.around, step.name)
    canceled = _became(step, ("canceled",))
    if canceled != own:
        yield 8, f"the batch owns {sorted(own)}, canceled were {sorted(canceled)}"
    if live := step.after.audited(step.name, "DRY_RUN", "NO_GO", "PENDING_APPLY", "APPLIED", "SKIP_EXISTING"):
        yield 8, f"{len(live)} audit rows of the batch are not marked as reverted"
    approved = {item["order_id"] for item in step.batch.approved}
    for trade, (opened, rest) in step.batch.opened.items():
        now, others = open_and_rest(step.after, step.profile, trade, approved)
        all_own = own >= {item["order_id"] for item in step.batch.approved if item["trade_id"] == trade[1]}
        if others == rest and all_own and now != opened:
            yield 8, f"{trade} was open {opened} before the apply, is open {now} after the rollback"
    was, now_open = (seen.open_quantities(step.profile) for seen in (step.before, step.after))
    for trade in {*was, *now_open}:
        rows = [row for row in step.after.of(step.profile) if (row["symbol"], row["trade_id"]) == trade]
        back = sum((row["quantity"] for row in rows if row["order_id"] in own), ZERO)
        if now_open.get(trade, ZERO) != was.get(trade, ZERO) + back:
            yield (
                8,
                f"{trade} was open {was.get(trade, ZERO)}, {back} was canceled, is open {now_open.get(trade, ZERO)}",
            )


def exact(step: Step) -> Iterable[Fault]:
    for item in getattr(step.result, "items", ()):
        if not all(value is None or isinstance(value, Decimal) for value in (item.qty, item.price)):
            yield 9, f"an item holds {item.qty!r} at {item.price!r}"
    if floats := step.after.floats():
        yield 9, f"batches hold the floats {', '.join(floats)}"


def unknown_is_no(step: Step) -> Iterable[Fault]:
    """Each target is named; whatever is unknown or open about it is a reason; what is written rests on nothing else."""
    items: dict[Any, list[Any]] = {}
    for item in step.result.items:
        items.setdefault((item.symbol, item.trade_id), []).append(item)
    if items.keys() != step.batch.targets.keys():
        yield 10, f"targets {sorted(step.batch.targets)}, judged {sorted(items)}"
    for trade, open_qty in step.batch.targets.items():
        found = items.get(trade, [])
        reasons, predicted = {item.reason.value for item in found} & PREDICTED, whole_trade_reasons(step.around, trade)
        if reasons != predicted:
            yield 10, f"{trade}: expected {sorted(predicted)}, found {sorted(reasons)}"
        written = sum((item.qty for item in found if item.writes), ZERO)
        if written > open_qty or (written and predicted) or any(item.qty <= 0 for item in found):
            yield 10, f"{trade}: open {open_qty}, {written} would be written in spite of {sorted(predicted)}"
        if not predicted and written != open_qty and not any(item.decision == "NO_GO" for item in found):
            yield 10, f"{trade}: open {open_qty}, {written} would be written, and no reason says why"
    yield from _items_as_rows(step)


def _items_as_rows(step: Step) -> Iterable[Fault]:
    """Ids are the runbook's; an id that is there already is reinstated, if it is canceled and identical."""
    for item in step.after.document(step.name)["plan"]["document"]["items"]:
        if item["order_id"] is None or item["decision"] == "NO_GO":
            continue
        if item["order_id"] not in runbook_id(step.profile, item, "DUST", "FEE"):
            yield 11, f"{item['order_id']} is not the runbook's id of {item}"
        row = step.before.orders.get(item["order_id"])
        if (row is not None) != (item["reason"] == "reinstate"):
            yield 4, f"{item['order_id']} is planned as {item['reason']}, the row is {row and row['status']}"
        if row is not None and not as_planned(row, item, "canceled"):
            yield (
                4,
                f"{item['order_id']} would return, but it is {row['status']} and differs: {wrong_columns(row, item)}",
            )


def same_facts_same_plan(step: Step, memory: Memory, exactly: Any, but_for_canceled: Any) -> Iterable[Fault]:
    """Equal facts made an equal digest before; equal but for canceled backfill rows, the same rows."""
    digest = step.result.plan_digest
    if memory.digests.setdefault(str(exactly), digest) != digest:
        yield 11, "equal facts, another digest"
    items = step.result.items
    if any(item.reason == "existing_row_differs" for item in items):
        return
    rows = frozenset((i.order_id, i.symbol, i.trade_id, i.qty, i.price, i.filled_at) for i in items if i.writes)
    if memory.plans.setdefault(str(but_for_canceled), rows) != rows:
        yield 8, "a plan on the facts of an earlier one, but for what a rollback left, names other rows"


def no_secret(step: Step) -> Iterable[Fault]:
    stored = [row["document"] for row in step.after.batches.values()]
    texts = [step.told, *stored, *(str(dict(row)) for row in (*step.after.audit, *step.after.events))]
    if any(secret in text for secret in step.secrets for text in texts):
        yield 12, "a secret was returned or stored"
