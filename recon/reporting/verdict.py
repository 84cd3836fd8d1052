"""The verdict of a stage: the word, what it means here, why, and what to do next. Nothing in here writes."""

from __future__ import annotations

import shlex

from recon.batches import sign_command
from recon.domain import BATCH_REASONS, Decision, Reason, Stage, StageResult, Verdict
from recon.reporting.markup import STYLE, fill
from recon.reporting.result import printable
from recon.wording import count

MEANING = {
    (Stage.DETECT, Verdict.DONE): "The open lifecycles were listed. Nothing was decided.",
    (Stage.DRY_RUN, Verdict.GO): "Every condition holds, and no trade in the batch is NO_GO.",
    (Stage.DRY_RUN, Verdict.NO_GO): "The batch cannot be applied as it stands.",
    (Stage.DRY_RUN, Verdict.DONE): "There is nothing to repair.",
    (Stage.APPLY, Verdict.DONE): "The approved plan stands in the orders table.",
    (Stage.VALIDATE, Verdict.DONE): "The orders table is as the approved plan says, and nothing is over-closed.",
    (Stage.ROLLBACK, Verdict.DONE): "No row of this batch counts any more.",
}
"""What a verdict means at a stage; any other pair is a refusal or a failure."""

REFUSED = "The stage was refused before it wrote anything."
FAILED = "The stage did not reach its end, or what it found is not as it must be."


class VerdictView:
    """The verdict as a notebook shows it."""

    def __init__(self, result: StageResult) -> None:
        """Show the verdict of `result`."""
        self._verdict = result.verdict.value
        self._why = ": ".join(printable(part) for part in (result.code, result.message) if part)
        self._lines = [meaning(result), *_lines(result)]
        self._next = printable(next_step(result))

    def __repr__(self) -> str:
        """The verdict as plain text."""
        lines = [self._verdict, self._why, *self._lines, f"Next: {self._next}"]
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str:
        return STYLE + fill("verdict.html.j2", verdict=self._verdict, why=self._why, lines=self._lines, next=self._next)


def verdict_view(result: StageResult) -> VerdictView:
    """The verdict in large, the code and message of a refusal or failure, and the next step."""
    return VerdictView(result)


def meaning(result: StageResult) -> str:
    """One sentence that says what the verdict means at this stage."""
    if result.code is None and (result.stage, result.verdict) in MEANING:
        return MEANING[result.stage, result.verdict]
    return FAILED if result.verdict is Verdict.FAILED else REFUSED


def next_step(result: StageResult) -> str:
    """What to do now, as a sentence with the command to type."""
    if result.code is not None:
        return f"Do what the message says, then run this stage again. `{_command('run', result)}` is safe to repeat."
    match result.stage, result.verdict:
        case Stage.DETECT, _:
            return f"Stop trading on the profile, then plan the repair: `{_command('run', result, 'dry-run')}`."
        case Stage.DRY_RUN, Verdict.GO:
            named = "".join(f" --acknowledge {shlex.quote(trade + '=WHY')}" for trade in to_acknowledge(result))
            return f"Review the allocations, then approve: `{_command('approve', result)}{named}`."
        case Stage.DRY_RUN, Verdict.NO_GO:
            return _settle(result)
        case Stage.APPLY, Verdict.DONE:
            return f"Check it independently: `{_command('run', result, 'validate')}`."
        case Stage.VALIDATE, Verdict.DONE:
            sign = sign_command(result.batch_id)
            return f"Sign the report: `{sign}`. When trading is resumed is up to whoever paused it."
        case Stage.ROLLBACK, Verdict.DONE:
            return "Plan the repair again under a new batch_id; this batch is closed."
    return "Nothing: there was nothing to repair."


def to_acknowledge(result: StageResult) -> list[str]:
    """The trade_ids, sorted, that an approval of this dry run must acknowledge: NO_GO, or dust without evidence."""
    named = {
        item.trade_id for item in result.items if item.decision is Decision.NO_GO or item.reason is Reason.DUST_ONLY
    }
    for table in filter(None, [result.tables.get("targets")]):
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        named |= {str(row["trade_id"]) for row in rows if Reason.DUST_ONLY in str(row.get("reasons")).split(", ")}
    return sorted(named)


def _settle(result: StageResult) -> str:
    if any(item.reason in BATCH_REASONS for item in result.items):
        return "Settle what stands against the whole batch, then run the dry run again; it cannot be acknowledged."
    against = {item.trade_id for item in result.items if item.decision is Decision.NO_GO}
    writes = any(item.writes for item in result.items)
    told = ["no_target_is_no_go", *(["candidates_present"] if against and not writes else [])]
    failed = [check.name for check in result.checks if not check.ok and check.name not in told]
    settle = [f"put right what failed ({', '.join(failed)})"] if failed else []
    settle += [f"settle what stands against {count(len(against), 'trade')} below"] if against else []
    if failed or not writes:
        first = ", ".join(settle).capitalize()
        return f"{first}, then run the dry run again: `{_command('run', result)}`. It cannot be approved as it stands."
    dust = len(to_acknowledge(result)) - len(against)
    also = f", and {count(dust, 'trade')} of which only dust is open," if dust else ""
    return (
        f"Settle what stands against {count(len(against), 'trade')} below and run the dry run again, narrow the batch "
        f"with `--trade-id` or `--symbol`, or acknowledge each of them{also} by name: "
        f"`{_command('approve', result)} --acknowledge TRADE_ID=WHY`."
    )


def _command(verb: str, result: StageResult, stage: str | None = None) -> str:
    batch = f"--batch-id {result.batch_id}"
    if verb == "approve":
        return f"recon approve {batch} --by NAME"
    return f"recon run {stage or result.stage} --profile-id {shlex.quote(result.profile_id)} {batch}"


def _lines(result: StageResult) -> list[str]:
    lines = [f"Profile {printable(result.profile_id)}, batch {result.batch_id}, stage {result.stage}."]
    failed = [check.name for check in result.checks if not check.ok]
    if result.checks:
        passed = len(result.checks) - len(failed)
        but = f"; failed: {', '.join(failed)}" if failed else ""
        lines.append(f"Checks that hold: {passed} of {len(result.checks)}{but}.")
    if result.plan_digest:
        lines.append(f"Plan digest {result.plan_digest}.")
    return lines
