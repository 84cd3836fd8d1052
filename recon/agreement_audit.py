"""Whether the audit rows of a batch are those that its reports tell of, row by row and field by field. Pure.

A dry run appends its items, an approval one PENDING_APPLY per row that it releases, an apply its items (rules.md 11).
What a report tells must be there. More may be there, since a stage may run without a kept report: an approval has
none, and a notebook that was opened by hand keeps none. Such rows must repeat what a report of the same plan says,
for every item of the plan equally often. Only a plan that no report names is not compared, while nothing of it is
applied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recon.audit import AuditRow
from recon.domain import Decision, Reason, Stage
from recon.identity import canonical_decimal, canonical_id, canonical_time
from recon.reporting.result import printable
from recon.wording import count

FIELDS = ("symbol", "trade_id", "reason", "qty", "price", "filled_at", "exchange_order_id", "order_id")
"""What an audit row repeats of an item, as the JSON calls it."""

WRITTEN = (Decision.APPLIED, Decision.SKIP_EXISTING)
"""Decisions that an apply reached about a row of `orders`; all others stand for no row there."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one audit row says, or what a report says that it must say; `content` are the `FIELDS` as text."""

    decision: str
    plan_digest: str | None
    content: tuple[str | None, ...]

    @property
    def order_id(self) -> str | None:
        """The row of `orders` that it speaks of."""
        return self.content[-1]

    @property
    def name(self) -> str:
        """How a finding names the row."""
        symbol, trade_id, reason = self.content[:3]
        return f"{self.decision} {self.order_id or reason} of trade {trade_id} ({symbol})"

    @property
    def key(self) -> tuple[str | None, ...]:
        """What stays the same when a field was changed: the id of the row, else trade and reason."""
        return (self.decision, self.order_id) if self.order_id else (self.decision, *self.content[1:3])

    def differences(self, other: Line) -> str:
        """The fields in which another line says something else, and what."""
        pairs = zip(
            (*FIELDS, "plan_digest"),
            (*self.content, self.plan_digest),
            (*other.content, other.plan_digest),
            strict=True,
        )
        return ", ".join(f"{name} {found}, reported {told}" for name, told, found in pairs if told != found)


def reported_line(item: Mapping[str, Any], result: Mapping[str, Any]) -> Line:
    """The line of an item in the JSON of a result."""
    cells = dict(item) | {"exchange_order_id": _same_id(item["exchange_order_id"])}
    return Line(item["decision"], result["plan_digest"], tuple(cells[name] for name in FIELDS))


def audited_line(row: AuditRow) -> Line:
    """The line of an audit row."""
    cells = {
        "qty": None if row.qty is None else canonical_decimal(row.qty),
        "price": None if row.price is None else canonical_decimal(row.price),
        "filled_at": None if row.filled_at is None else canonical_time(row.filled_at),
        "exchange_order_id": _same_id(row.exchange_order_id),
    }
    content = tuple(cells[name] if name in cells else getattr(row, name) for name in FIELDS)
    return Line(row.decision, row.plan_digest, content)


def _same_id(text: str | None) -> str | None:
    return text and canonical_id(text)


def findings(
    rows: Sequence[AuditRow], results: Sequence[Mapping[str, Any]], actors: Mapping[str, str], approver: str | None
) -> Iterator[str]:
    """What is wrong with the audit rows, one sentence each; nothing when they are as the results say.

    `results` are those of dry runs and applies. `actors` says who ran a stage, by report; `approver` is who released
    the last plan, None while it is not approved.
    """
    found = Counter(audited_line(row) for row in rows)
    results = [result for result in results if _is_audited(result)]
    least, known = _told(results, approver is not None)
    missing = least - found
    plans = {line.plan_digest for line in known}
    strange = Counter({line: n for line, n in (found - least).items() if not _may_be(line, found[line], known, plans)})
    yield from _unlike(missing, strange)
    yield from _uneven({line: found[line] for line in known if line not in missing and line.decision not in WRITTEN})
    yield from _unaccompanied(found, least, missing, results)
    told = _told_actors(results, actors)
    told.update((line, printable(approver or "")) for line in least if line.decision == Decision.PENDING_APPLY)
    yield from _wrong_actors(rows, told, missing)


def _is_audited(result: Mapping[str, Any]) -> bool:
    """A dry run that found the audit table out of reach wrote no row."""
    return bool(result["items"]) and all(item["reason"] != Reason.AUDIT_UNAVAILABLE for item in result["items"])


def _told(results: Iterable[Mapping[str, Any]], approved: bool) -> tuple[Counter[Line], set[Line]]:
    """The lines that must be there, and those that may be there more often."""
    least: Counter[Line] = Counter()
    known: set[Line] = set()
    released: set[Line] = set()
    for result in results:
        lines = [reported_line(item, result) for item in result["items"]]
        writing = [line for line in lines if line.decision != Decision.NO_GO]
        pending = {replace(line, decision=Decision.PENDING_APPLY.value) for line in writing}
        applied = result["stage"] == Stage.APPLY
        least.update(lines)
        known |= {*lines, *pending, *(replace(line, decision=Decision.DRY_RUN.value) for line in writing)}
        known |= {replace(line, decision=each.value) for line in writing for each in WRITTEN if applied}
        released = released | pending if applied else pending
    return least + Counter(released if approved else ()), known


def _may_be(line: Line, number: int, known: Collection[Line], plans: Collection[str | None]) -> bool:
    """Whether a line may be there so often although fewer were reported: a stage ran without a kept report."""
    if line in known:
        return line.decision != Decision.APPLIED or number == 1
    return line.decision in (Decision.DRY_RUN, Decision.NO_GO, Decision.PENDING_APPLY) and (
        line.plan_digest is not None and line.plan_digest not in plans
    )


def _unlike(missing: Counter[Line], strange: Counter[Line]) -> Iterator[str]:
    """Rows that are not there, and rows that no report tells of; a row that was changed is both, and said once."""
    twins: dict[tuple[str | None, ...], list[Line]] = {}
    for line in strange.elements():
        twins.setdefault(line.key, []).append(line)
    for line in missing.elements():
        changed = twins.get(line.key)
        yield f"{line.name} has {line.differences(changed.pop())}" if changed else f"{line.name} is missing"
    for lines in twins.values():
        yield from (f"{line.name} is in no report" for line in lines)


def _uneven(found: Mapping[Line, int]) -> Iterator[str]:
    """Every run speaks of each item of its plan once, so all are there equally often."""
    groups: dict[tuple[str | None, str], list[Line]] = {}
    for line in sorted(found, key=lambda line: line.name):
        groups.setdefault((line.plan_digest, line.decision), []).append(line)
    for lines in groups.values():
        often = Counter(found[line] for line in lines)
        usual = min(often, key=lambda times: (-often[times], times))
        for line in lines:
            if found[line] != usual:
                yield f"{line.name} is there {count(found[line], 'time')}, the rest of its plan {usual}"


def _unaccompanied(
    found: Mapping[Line, int],
    least: Mapping[Line, int],
    missing: Collection[Line],
    results: Iterable[Mapping[str, Any]],
) -> Iterator[str]:
    """A dry run speaks of its candidates and its refusals at once: beyond the reports, both are there equally often.

    The first apply of a plan speaks of the refusals once more; its report may be lost when it was run again.
    """
    plans: dict[str | None, tuple[set[Line], set[Line]]] = {}
    for result in results:
        if result["stage"] == Stage.DRY_RUN:
            candidates, refusals = plans.setdefault(result["plan_digest"], (set(), set()))
            lines = {reported_line(item, result) for item in result["items"]}
            refusals |= {line for line in lines if line.decision == Decision.NO_GO}
            candidates |= {line for line in lines if line.decision != Decision.NO_GO}
    for digest, (candidates, refusals) in plans.items():
        more = {max(0, found[line] - least[line]) for line in candidates}
        applies = [one for one in results if one["stage"] == Stage.APPLY and one["plan_digest"] == digest]
        if applies and not any(item["decision"] == Decision.NO_GO for one in applies for item in one["items"]):
            more |= {number + 1 for number in more}
        for line in sorted(refusals - set(missing), key=lambda line: line.name):
            if more and found[line] - least[line] not in more:
                expected = " or ".join(str(least[line] + number) for number in sorted(more))
                yield f"{line.name} is there {count(found[line], 'time')}, expected {expected}"


def _told_actors(results: Iterable[Mapping[str, Any]], actors: Mapping[str, str]) -> Counter[tuple[Line, str | None]]:
    """Each line of a report with who ran its stage, where the report says so."""
    known = [result for result in results if result["report"] in actors]
    lines = ((reported_line(item, result), actors[result["report"]]) for result in known for item in result["items"])
    return Counter(lines)


def _wrong_actors(
    rows: Iterable[AuditRow], told: Counter[tuple[Line, str | None]], missing: Collection[Line]
) -> Iterator[str]:
    found = Counter((audited_line(row), row.actor and printable(row.actor)) for row in rows)
    for line, actor in told - found:
        if line not in missing:
            others = ", ".join(sorted(str(who) for other, who in found if other == line))
            yield f"{line.name} has actor {others}, reported {actor}"
