"""The three questions that every case answers: a partial state? told truthfully? does the next run converge?

And a fourth that is asked everywhere: is every other row as it was?
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from faults.bench import BATCH, Bench, Said, Standing
from recon.domain import Stage, Verdict

COMMITTED = re.compile(r"says:? committed", re.IGNORECASE)
NOT_COMMITTED = re.compile(r"says:? rolled back|nothing was (written|changed)", re.IGNORECASE)


class Noise(logging.Handler):
    """What a library logs, which the console would show: a traceback, with the statement's parameters."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Remember it."""
        self.heard.append(record.getMessage())

    def told(self) -> str:
        """What was heard since this was last asked."""
        heard, self.heard = self.heard, []
        return f"the console shows {heard}" if heard else ""


noise = Noise()
logging.getLogger("sqlalchemy").addHandler(noise)

LOST = frozenset({None, "database_unreachable", "commit_rolled_back", "commit_unknown"})
"""All that a lost connection may be called: another code would blame what is in order."""

PLAN_AGAIN = ("stale_plan", "illegal_transition", "not_approved")
"""Refusals that a new dry run resolves."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One case with what is wrong in each respect; empty texts where nothing is. `ended` says how it came out."""

    case: str
    ended: str
    partial: str = ""
    untruthful: str = ""
    unconverged: str = ""
    others: str = ""

    @property
    def wrong(self) -> list[str]:
        """What is wrong, in words."""
        told = {"partial": self.partial, "untruthful": self.untruthful, "not converging": self.unconverged,
                "other rows": self.others}  # fmt: skip
        return [f"{self.case}: {what}: {text}" for what, text in told.items() if text]


def where(bench: Bench, now: Standing) -> str:
    """`before`, `after`, `void` (the approval fell, nothing else happened), or what is partial about it."""
    if (now.rows, now.audit, now.states) == (bench.before.rows, bench.before.audit, bench.before.states):
        return "before"
    if (now.rows, now.audit, now.states) == (bench.after.rows, bench.after.audit, bench.after.states):
        return "after"
    void = bench.before.states.replace(f"{BATCH}=approved", f"{BATCH}=planned")
    if (now.rows, now.audit, now.states) == (bench.before.rows, bench.before.audit, void):
        return "void"
    parts = {
        name: "before" if getattr(now, name) == getattr(bench.before, name)
        else "after" if getattr(now, name) == getattr(bench.after, name) else "neither"
        for name in ("rows", "audit", "states")
    }  # fmt: skip
    return f"partial: {parts} {now.states}"


def untruth(said: Said, place: str, *, nobody_answers: bool = False) -> str:
    """What was said that the database does not bear out, given where it stands.

    An error that says nothing of the outcome is a lie when it had committed; `commit_unknown` is the truth only
    where nobody answered.
    """
    done = place == "after"
    if said.verdict is None:
        return ""
    if said.code == "commit_unknown":
        return "" if nobody_answers else "unknown, though the database answers"
    told = f"told {said.verdict} {said.code or ''} {said.text!r}, it stands {place}"
    if COMMITTED.search(said.text) or said.verdict == Verdict.DONE:
        return "" if done else told
    if NOT_COMMITTED.search(said.text) or said.verdict == Verdict.NO_GO:
        return "" if not done else told
    return told if done else ""


def converges(bench: Bench, here: Standing, *, again: bool = False) -> str:
    """Runs the stage again, and plans again where a refusal asks for it; empty when the undisturbed outcome is there.

    The way depends on nothing but what the database holds: from where it stood before, it is not run again unless
    asked for with `again`.
    """
    if here not in bench.known or again:
        bench.known[here] = _converges(bench)
    return bench.known[here]


def _converges(bench: Bench) -> str:
    told = bench.run()
    if bench.stage is Stage.APPLY and told.code in PLAN_AGAIN:
        refused = bench.plan()
        if refused:
            return f"the next run says {told.code}, then planning {refused}"
        told = bench.run()
    if told.verdict is not Verdict.DONE:
        return f"the next run says {told.verdict} {told.code}: {told.message}"
    end = bench.stands()
    if end.outcome != bench.after.outcome or end.state(BATCH) != bench.after.state(BATCH):
        return f"the next run is DONE and leaves {where(bench, end)}"
    return ""


def judged(
    bench: Bench,
    case: str,
    said: Said,
    *,
    again: bool = False,
    nobody_answers: bool = False,
    must: str = "",
    codes: frozenset[str | None] = LOST,
) -> Judged:
    """The answers for a case that just ended; leaves the bench as new.

    `must` is where it has to stand, if it has; `codes` are all that may be said of this fault.
    """
    now = bench.stands()
    place = where(bench, now)
    lie = untruth(said, place, nobody_answers=nobody_answers) or noise.told()
    others = "" if now.bystanders == bench.before.bystanders else "rows that are not recon's changed"
    if said.code not in codes:
        lie = lie or f"told {said.code}: {said.text}"
    if must and place != must and not place.startswith("partial"):
        lie = lie or f"stands {place}, must be {must}"
    runs = again or now not in bench.known
    unconverged = converges(bench, now, again=again)
    if not others and again and bench.stands().bystanders != bench.before.bystanders:
        others = "rows that are not recon's changed in the next run"
    if runs or now != bench.before:
        bench.rewind()
    return Judged(
        case,
        f"{place.split(':')[0]} {said.code or said.verdict or 'killed'}",
        place if place.startswith("partial") else "",
        lie,
        unconverged,
        others,
    )
