"""Many at once: eight appliers of one batch and of two, and two batches that share trades in every order of steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations, count

from faults.bench import BATCH, SECOND, WRITES, Bench, Ground, Pick, Said, Standing
from faults.judge import PLAN_AGAIN, Judged
from faults.runner import Runner, answer_of, runner
from recon.domain import Stage, StageResult, Verdict
from recon.incident import run_stage

APPLIERS = 8
ROUNDS = 40
"""How often they start, of one batch and of two."""

OWNED = """
SELECT coalesce(string_agg(order_id || ' ' || status || ' has ' || owners || ' owners', '; '), '') FROM (
    SELECT o.order_id, o.status, (
        SELECT count(*) FROM reconciliation_backfill_audit AS a JOIN reconciliation_batches AS b USING (batch_id)
        WHERE a.backfill_order_id = o.order_id AND a.profile_id = o.profile_id AND a.decision = 'APPLIED'
        AND a.reverted_at IS NULL AND b.state IN ('applied', 'validated')) AS owners
    FROM orders AS o WHERE o.order_id LIKE 'BFILL-%') AS t
WHERE owners <> (status = 'filled')::int"""
"""Backfill rows that are filled without one live batch that owns them, or canceled with one."""


def appliers(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """Eight processes that start at the same instant, and all of their answers."""
    bench = ground.bench(Stage.APPLY)
    with runner(bench.recon_url, bench.incident.folder, bench.switch.url) as run:
        for number in pick.cases(range(2 * ROUNDS)):
            batches = [BATCH] if number % 2 else [BATCH, SECOND]
            yield at_once(bench, run, batches, number)


def at_once(bench: Bench, run: Runner, batches: Sequence[str], number: int) -> Judged:
    """One round."""
    refused = bench.plan(SECOND) if SECOND in batches else ""
    assert not refused, refused
    soon = time.monotonic() + 0.15
    names = [batches[which % len(batches)] for which in range(APPLIERS)]
    files = [bench.folder / f"{bench.name}-{number}-{which}.json" for which in range(APPLIERS)]
    pids = [run.start(Stage.APPLY, name, file, start=soon) for name, file in zip(names, files, strict=True)]
    for pid in pids:
        run.ended(pid)
    answers = [(name, answer_of(file)) for name, file in zip(names, files, strict=True)]
    now = bench.stands()
    wrote = [name for name, said in answers if said and said["counts"].get("APPLIED")]
    partial = bench.over_closed() or bench.ask(OWNED)[0][0]
    if now.rows != bench.after.rows:
        partial = partial or f"rows are not those of one apply: {now.rows}"
    lies = [f"{name}: {said}" for name, said in answers if not truthful(said)]
    if len(wrote) != 1:
        lies.append(f"{len(wrote)} say that they wrote")
    unconverged = "" if wrote and settles(bench, wrote[0], batches) else f"no end: {wrote}"
    others = "" if now.bystanders == bench.before.bystanders else "rows that are not recon's changed"
    codes = sorted({str(said["code"]) for _, said in answers if said and said["code"]})
    bench.rewind()
    return Judged(
        f"round {number} of {len(batches)} batches", f"one wrote, others {', '.join(codes) or 'compared'}",
        partial, "; ".join(lies), unconverged, others,
    )  # fmt: skip


def truthful(said: dict[str, object] | None) -> bool:
    """DONE only with all of the rows, written or found; else a refusal that is known."""
    if said is None:
        return False
    counts = said["counts"]
    assert isinstance(counts, dict)
    if said["verdict"] == "DONE":
        return counts.get("APPLIED", 0) + counts.get("SKIP_EXISTING", 0) == WRITES
    return said["code"] in ("already_running", "orders_locked", *PLAN_AGAIN)


def settles(bench: Bench, winner: str, batches: Sequence[str]) -> bool:
    """The winner compares; the other batch plans again and finds nothing that it could write."""
    compared = bench.run(batch=winner)
    fine = compared.verdict is Verdict.DONE and compared.counts.get("SKIP_EXISTING") == WRITES
    for other in set(batches) - {winner}:
        again = bench.run(Stage.DRY_RUN, batch=other)
        fine = fine and again.code is None and not any(item.writes for item in again.items)
    return fine and bench.stands().rows == bench.after.rows


STEPS = ("plan", "approve", "apply", "rollback")
THIRD = "incident-3"


def orders_of_two(length: int = len(STEPS)) -> list[str]:
    """Every interleaving of two such sequences, as words of A and B."""
    total = range(2 * length)
    return ["".join("A" if at in chosen else "B" for at in total) for chosen in combinations(total, length)]


def two_batches(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """All 70 orders, with the same trades and with a part of them shared; afterwards a third batch repairs the rest."""
    bench = ground.bench(Stage.ROLLBACK)  # applied already: undo that first, so that every row is to be reinstated
    scopes: list[tuple[str, ...]] = [(), ("t1", "t2")]
    for number, (word, scope) in enumerate([(word, scope) for scope in scopes for word in orders_of_two()]):
        if number in pick.cases(range(2 * 70)):
            yield interleaved(bench, word, scope)


def interleaved(bench: Bench, word: str, scope: tuple[str, ...]) -> Judged:
    """One order; every step is looked at, not only the end."""
    assert bench.run().verdict is Verdict.DONE
    steps, planned = {"A": count(), "B": count()}, {}
    partial, lies, story = "", "", []
    here = bench.stands()
    for who in word:
        batch = {"A": "two-a", "B": "two-b"}[who]
        step = STEPS[next(steps[who])]
        said = take(bench, batch, step, scope if who == "B" else (), planned)
        now = bench.stands()
        story.append(f"{who} {step} {said.code or said.verdict}")
        partial = partial or bench.over_closed() or bench.ask(OWNED)[0][0]
        lies = lies or told_as_done(batch, step, said, here, now)
        here = now
    refused = bench.plan(THIRD)
    last = bench.run(Stage.APPLY, batch=THIRD)
    end = bench.stands()
    left = "" if end.rows == bench.before.rows else f"a third batch ends {refused} {last.code}: {last.message}"
    others = "" if end.bystanders == bench.before.bystanders else "rows that are not recon's changed"
    bench.rewind()
    case = f"order {word}{' shared in part' if scope else ''}"
    return Judged(case, story[-1], partial, lies, left, others)


def take(bench: Bench, batch: str, step: str, scope: tuple[str, ...], planned: dict[str, StageResult]) -> Said:
    """One step of one batch."""
    if step == "plan":
        work = bench.work(trade_ids=scope) if scope else bench.work()
        run_stage(work, Stage.DETECT, "main", batch)
        planned[batch] = run_stage(work, Stage.DRY_RUN, "main", batch)
        return Said.by(planned[batch])
    if step == "approve":
        code = bench.approve(batch, planned[batch])
        return Said("NO_GO" if code else "DONE", code or None)
    return Said.by(bench.run(Stage(step), batch=batch))


def told_as_done(batch: str, step: str, said: Said, before: Standing, after: Standing) -> str:
    """What a step said that its batch's state and the rows do not bear out."""
    states = {"approve": "approved", "apply": "applied", "rollback": "rolled_back"}
    moved = (before.rows, before.applied) != (after.rows, after.applied)
    if step in ("plan", "approve") or said.verdict != "DONE":
        wrong = moved
    else:
        wrong = after.state(batch) != states[step] or not moved
    if step == "approve" and said.verdict == "DONE":
        wrong = wrong or after.state(batch) != "approved"
    return f"{batch} {step} said {said}, {before.states} became {after.states}" if wrong else ""
