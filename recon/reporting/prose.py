"""The closing words of a notebook: what it shows and what it does not, with the numbers of this very run.

Only numbers and stable codes are interpolated, never an id: Markdown may hold HTML. Nothing in here writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from recon.domain import Decision, Grade, Reason, Stage, StageResult
from recon.wording import count


class Markdown:
    """Markdown as a notebook shows it."""

    def __init__(self, text: str) -> None:
        """Show `text`."""
        self.text = text

    def __repr__(self) -> str:
        """The source of the Markdown."""
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


def closing(result: StageResult) -> Markdown:
    """What this result shows and what it does not, as two lists."""
    if result.code is None or result.tables:
        shows, limits = [*SHOWS[result.stage](result)], [*LIMITS[result.stage](result)]
    else:
        shows, limits = [], ["Anything about the orders: tables without rows were not read, not found empty."]
    if result.code is not None:
        shows.insert(0, f"The stage ended with `{result.verdict}`, code `{result.code}`: the message above says why.")
    return Markdown(_list("This notebook shows", shows) + "\n\n" + _list("It does not show", limits))


def _list(title: str, sentences: Sequence[str]) -> str:
    return f"**{title}**\n\n" + "\n".join(f"- {sentence}" for sentence in sentences)


def _rows(result: StageResult, name: str) -> int:
    return len(result.tables[name].rows)


def _detect_shows(result: StageResult) -> Iterator[str]:
    yield f"{count(_rows(result, 'open_lifecycles'), 'open lifecycle')} of this profile."
    if result.facts["positions_compared"]:
        yield f"{count(_rows(result, 'mismatches'), 'symbol')} on which the orders table and the exchange disagree."
    unowned = f", {count(_rows(result, 'unowned_fills'), 'fill')} that nobody owns"
    yield (
        f"What recon reports and does not repair: {count(_rows(result, 'over_closed'), 'over-closed lifecycle')}, "
        f"{count(_rows(result, 'exits_without_trade'), 'EXIT row')} without a trade, "
        f"{count(_rows(result, 'symbol_spellings'), 'symbol')} with several spellings"
        f"{unowned if result.facts['fills_compared'] else ''}."
    )


def _detect_limits(result: StageResult) -> Iterator[str]:
    if not result.facts["positions_compared"]:
        yield "Symbols on which the orders table and the exchange disagree: not compared."
    if not result.facts["fills_compared"]:
        yield "Fills that nobody owns: not compared."
    yield "Which fill closed which trade, or whether a trade can be repaired: the dry run decides that."
    yield "Anything that happened after the instant in the run card."


def _dry_run_shows(result: StageResult) -> Iterator[str]:
    rows = [item for item in result.items if item.writes]
    trades = {(item.symbol, item.trade_id) for item in rows}
    yield f"{count(len(rows), 'row')} that an apply may write, for {count(len(trades), 'trade')}."
    grades = Counter(item.grade for item in rows)
    yield "Units of evidence by grade: " + ", ".join(f"{grades[grade]} {grade}" for grade in Grade) + "."
    reasons = Counter(item.reason for item in result.items if item.decision is Decision.NO_GO)
    refused = ", ".join(f"`{reason}` {number}" for reason, number in sorted(reasons.items()))
    yield f"Reasons against a repair: {refused or 'none'}."
    yield "An orders table in which this run wrote nothing."


def _dry_run_limits(result: StageResult) -> Iterator[str]:
    grades = Counter(item.grade for item in result.items if item.writes)
    guesses = grades[Grade.FIFO]
    yield (
        f"That a fill was meant for its trade, where the grade is fifo ({count(guesses, 'row')}): the oldest fill "
        "went to the oldest open trade, which settles quantities and not intentions."
    )
    dust = sum(item.reason in (Reason.DUST_REMAINDER, Reason.DUST_ONLY) for item in result.items)
    yield f"A fill behind dust ({count(dust, 'row')}): dust is closed because it is small, not because it was traded."
    yield "Fills outside the window, which the notes name."


def _apply_shows(result: StageResult) -> Iterator[str]:
    yield f"{count(_rows(result, 'applied'), 'row')} of the approved plan in the orders table: {_decisions(result)}."
    yield f"{count(_rows(result, 'left_open'), 'quantity', 'quantities')} left open on purpose, with the reason."
    held = sum(check.ok for check in result.checks)
    yield f"Checks that held before the transaction was committed: {held} of {len(result.checks)}."


def _apply_limits(_: StageResult) -> Iterator[str]:
    yield "That the exchange's own records are right: they are the evidence, and were not doubted."
    yield "The table as it is now. The validation reads it again, on its own."


def _validate_shows(result: StageResult) -> Iterator[str]:
    held = sum(check.ok for check in result.checks)
    yield f"Checks that hold on {count(_rows(result, 'targets'), 'target')}: {held} of {len(result.checks)}."
    yield f"{count(_rows(result, 'acknowledgements'), 'acknowledgement')}, repeated here by name."
    yield (
        f"{count(_rows(result, 'runbook_open'), 'lifecycle')} still open by the runbook's query, and "
        f"{count(_rows(result, 'other_changes'), 'change')} to other trades since the dry run."
    )


def _validate_limits(_: StageResult) -> Iterator[str]:
    yield "Trades outside the batch: they were compared with the dry run, not judged."
    yield "That the lost EXITs will not be lost again: recon repairs rows, not the cause."


def _rollback_shows(result: StageResult) -> Iterator[str]:
    yield f"{count(_rows(result, 'canceled'), 'row')} of this batch set to canceled; none was deleted."
    yield f"{count(_rows(result, 'left_alone'), 'row')} left alone, because another batch owns them."
    yield f"{count(_rows(result, 'lifecycles'), 'lifecycle')} as they stand after the rollback."


def _rollback_limits(_: StageResult) -> Iterator[str]:
    yield "A repaired table: the ghosts of this batch are open again until a new batch repairs them."


def _decisions(result: StageResult) -> str:
    return ", ".join(f"{number} {decision}" for decision, number in sorted(result.counts.items())) or "none"


SHOWS = {
    Stage.DETECT: _detect_shows,
    Stage.DRY_RUN: _dry_run_shows,
    Stage.APPLY: _apply_shows,
    Stage.VALIDATE: _validate_shows,
    Stage.ROLLBACK: _rollback_shows,
}
"""What each stage's result shows, as sentences."""

LIMITS = {
    Stage.DETECT: _detect_limits,
    Stage.DRY_RUN: _dry_run_limits,
    Stage.APPLY: _apply_limits,
    Stage.VALIDATE: _validate_limits,
    Stage.ROLLBACK: _rollback_limits,
}
"""What each stage's result leaves open, as sentences."""
