"""Each invariant's check can fail: recon with one promise taken out breaks it; the same life otherwise does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from incidents import HookedStatement, pause_switch
from life.backend import TOKEN
from life.invariants import Broken
from life.model import Scope
from life.people import OWNERS, House
from life.world import Life

from recon import approval, audit, batches, plan, sign_off, workspace
from recon.batches import TRANSITIONS, Action
from recon.criteria import backfill_order_id
from recon.database import transaction
from recon.domain import Decision, State
from recon.orders import Orders
from recon.pause import PauseState
from recon.stages import apply as apply_stage
from recon.stages import dry_run as dry_run_stage
from recon.stages import release
from recon.stages import rollback as rollback_stage
from recon.stages import validate as validate_stage
from recon.stages.gather import gather

Script = Callable[[Life], object]
Mutation = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def life(standing: Callable[[str], sa.Engine], tmp_path: Path) -> Iterator[Life]:
    """Two ghosts, on two symbols."""
    with pause_switch() as switch:
        life = Life(standing("pg18"), tmp_path, switch)
        for symbol in ("BTC/USD", "ETH/USD"):
            life.lost_exit([(symbol, life.open_trade(symbol, "1", 0))], "whole", 20)
        yield life
        life.close()


# Lives


def applied(life: Life) -> None:
    life.advance("b1", "validate")


def applied_twice(life: Life) -> None:
    life.advance("b1", "apply")
    life.stage("apply", "b1")


def one_of_two_rolled_back(life: Life) -> None:
    life.advance("b1", "validate", Scope((), ("BTC/USD",)))
    life.advance("b2", "validate")
    life.stage("rollback", "b1")


def reinstated(life: Life) -> None:
    life.advance("b1", "apply")
    life.stage("rollback", "b1")
    life.advance("b2", "validate")
    life.stage("rollback", "b2")
    life.stage("rollback", "b2")


def real_exit_first(life: Life) -> None:
    """The backend booked the fill for one trade; another trade of the same size is still open."""
    life.real_exit(life.orders()[0], life.trades()[0], "id", 0)
    life.open_trade("BTC/USD", "1", 1)
    life.advance("b1", "apply")


def another_ghost_later(life: Life) -> None:
    """The fill is spent; another trade of the same size is open."""
    life.advance("b1", "apply")
    life.open_trade("BTC/USD", "1", 1)
    life.advance("b2", "apply")


def overtaken(life: Life) -> None:
    life.advance("b1", "approve")
    life.late_fill(life.orders()[0], "0.5", 21)
    life.stage("apply", "b1")


def expired(life: Life) -> None:
    life.advance("b1", "approve")
    life.wait(25)
    life.stage("apply", "b1")


def unpaused(life: Life) -> None:
    life.advance("b1", "approve")
    life.say("RUNNING")
    life.stage("apply", "b1")


def silent(life: Life) -> None:
    life.say("")
    life.advance("b1", "dry-run")


def positions_hidden(life: Life) -> None:
    life.hide_positions(True)
    life.advance("b1", "dry-run")


def order_open(life: Life) -> None:
    life.work_order("BTC/USD", True)
    life.advance("b1", "dry-run")


def planned_twice(life: Life) -> None:
    life.advance("b1", "dry-run")
    life.shuffle(1)
    life.stage("dry-run", "b1", Scope())


def applied_after_rollback(life: Life) -> None:
    life.advance("b1", "apply")
    life.stage("rollback", "b1")
    life.stage("apply", "b1")


STRICT = House(named=True, required=True)
BOB_ALONE = replace(STRICT, allowed=frozenset({"bob"}))
ALICE, BOB = OWNERS.values()


def unsigned(life: Life) -> None:
    """Signatures are required once the plan is approved without one; and from the beginning."""
    life.advance("b1", "approve")
    life.people(STRICT)
    life.stage("apply", "b1")
    life.approve("b1", {}, ALICE)


def not_verifiable(life: Life) -> None:
    life.people(House(required=True))
    life.advance("b1", "dry-run")
    life.approve("b1", {}, ALICE, "alice")


def foreign(life: Life) -> None:
    """Neither a stranger's key nor a colleague's signs for Alice, whether approved or put in by hand."""
    life.people(STRICT)
    life.advance("b1", "dry-run")
    for key in ("stranger", "bob"):
        life.approve("b1", {}, ALICE, key)
    life.approve("b1", {}, ALICE, "alice")
    for how in ("by the stranger", "by a colleague"):
        life.forge("b1", how)
        life.stage("apply", "b1")


def prolonged(life: Life) -> None:
    life.people(STRICT)
    life.advance("b1", "approve")
    life.forge("b1", "prolonged")
    life.wait(25)
    life.stage("apply", "b1")


def withdrawn(life: Life) -> None:
    """Alice's key counts no longer when her approval is applied."""
    life.people(STRICT)
    life.advance("b1", "approve")
    life.people(BOB_ALONE)
    life.stage("apply", "b1")


def unnamed_later(life: Life) -> None:
    """Nobody says any more whose signatures count: that is the trouble, not the approval."""
    life.people(STRICT)
    life.advance("b1", "apply")
    life.people(House(required=True))
    life.stage("apply", "b1")


def withdrawn_later(life: Life) -> None:
    """The same after the apply: applying again is refused, and no validation passes."""
    life.people(STRICT)
    life.advance("b1", "validate")
    life.people(BOB_ALONE)
    for action in ("validate", "apply"):
        life.stage(action, "b1")


def alone(life: Life) -> None:
    """Whoever planned approves."""
    life.people(House(second=True))
    life.advance("b1", "dry-run")
    life.approve("b1", {}, " Tester ")


def short(life: Life) -> None:
    life.people(House(hours=2))
    life.advance("b1", "approve")
    life.wait(3)
    life.stage("apply", "b1")


def rolled_back_unapproved(life: Life) -> None:
    life.people(STRICT)
    life.advance("b1", "apply")
    life.stage("rollback", "b1")


def rolled_back_late(life: Life) -> None:
    life.people(STRICT)
    life.advance("b1", "apply")
    life.approve_rollback("b1", BOB, "bob")
    life.wait(25)
    life.stage("rollback", "b1")


def another_rollback_approved(life: Life) -> None:
    """Of the two rows that were approved, another batch owns one by now."""
    life.people(STRICT)
    life.advance("b1", "apply")
    life.approve_rollback("b1", BOB, "bob")
    life.touch(life.backfills()[0], "status = 'canceled'")
    life.advance("b2", "apply")
    life.stage("rollback", "b1")


def signed(life: Life) -> None:
    """Signed by two people; whatever is run afterwards has no signature yet."""
    life.keeps = True
    life.people(STRICT)
    life.advance("b1", "validate")
    life.sign("b1", "stranger")
    for key in OWNERS:
        life.sign("b1", key)
    for action in ("apply", "validate"):
        life.stage(action, "b1")
        if action == "validate":
            life.sign("b1", "alice")
    life.approve_rollback("b1", BOB, "bob")
    life.stage("rollback", "b1")
    life.sign("b1", "alice")


def signed_again(life: Life) -> None:
    life.keeps = True
    life.advance("b1", "validate")
    for action in ("validate", "apply"):
        life.sign("b1", "alice")
        life.stage(action, "b1")


def signed_and_changed(life: Life) -> None:
    life.keeps = True
    life.advance("b1", "validate")
    life.touch(life.backfills()[0], "price = price + 1")
    life.sign("b1", "alice")


# Recon with one promise taken out


def instead(target: object, name: str, made: Callable[[Any], object], *others: object) -> Mutation:
    """`made` of what is there stands in its place, also where other modules know it by that name."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        for each in (target, *others):
            patch.setattr(each, name, made(getattr(each, name)))

    return mutate


def ignored(_: Any) -> Any:
    """What refuses by raising refuses nothing."""
    return lambda *given, **options: "not looked at"


def rogue(state: str, sql: str) -> Mutation:
    """Whoever moves a batch to the state runs this too, in the same transaction, after every check of recon's own."""

    def ends(body: Any) -> Any:
        def runs(work: Any, held: Any, *given: Any) -> Any:
            done = body(work, held, *given)
            held.connection.exec_driver_sql(sql)
            return done

        return runs

    def saves(save: Any) -> Any:
        def made(connection: Any, batch: Any, **given: Any) -> Any:
            saved = save(connection, batch, **given)
            if batch.state == state:
                connection.exec_driver_sql(sql)
            return saved

        return made

    bodies = {"applied": (apply_stage, "_write"), "rolled_back": (rollback_stage, "_roll_back")}
    return instead(*bodies[state], ends) if state in bodies else instead(batches, "save", saves)


def audit_apart(append: Any) -> Any:
    """Audit rows in a transaction of their own."""

    def appends(connection: Any, **given: Any) -> int:
        with transaction(connection.engine) as other:
            return append(other, **given)

    return appends


def audit_says(before: Decision, after: Decision | None) -> Callable[[Any], Any]:
    """One decision is recorded as another, or not at all."""

    def made(append: Any) -> Any:
        def appends(connection: Any, *, decisions: Any, **given: Any) -> int:
            told = [(item, after if decision is before else decision) for item, decision in decisions]
            return append(connection, decisions=[pair for pair in told if pair[1] is not None], **given)

        return appends

    return made


def inserts_twice_as_much(patch: pytest.MonkeyPatch) -> None:
    """And nothing of recon's own looks."""
    insert = Orders.insert
    patch.setattr(
        Orders, "insert", lambda self, connection, profile, items, *rest: insert(
            self, connection, profile, [replace(item, qty=item.qty * 2) for item in items], *rest
        )
    )  # fmt: skip
    patch.setattr(apply_stage, "differences", lambda *_: ())
    patch.setattr(apply_stage, "_invariants", lambda *_: ((), ()))


def any_plan_will_do(_: Any) -> Any:
    def recompute(work: Any, held: Any, snapshot: Any) -> Any:
        facts = gather(held.connection, held.orders, held.batch.profile_id, snapshot)
        return plan.build_plan(facts, work.rules)

    return recompute


def floats(result: Any) -> Any:
    def made(*given: Any) -> Any:
        found = result(*given)
        return replace(found, items=tuple(replace(item, qty=float(item.qty)) for item in found.items))

    return made


def answers(**changes: Any) -> Callable[[Any], Any]:
    """The switch's answer, changed."""

    def made(read: Any) -> Any:
        def reads(*given: Any, **options: Any) -> Any:
            answer = read(*given, **options)
            return replace(answer, **{name: value(answer) for name, value in changes.items()})

        return reads

    return made


def snapshots(**changes: Any) -> Callable[[Any], Any]:
    """What the exchange says, changed."""
    return lambda fetch: lambda self, *given, **options: replace(fetch(self, *given, **options), **changes)


def never_the_same(digest: Any) -> Any:
    numbers = itertools.count()
    return lambda value: digest([value, next(numbers)])


def approved_anyway(patch: pytest.MonkeyPatch) -> None:
    """No rollback's approval is looked at once the rows are known."""
    patch.setattr(rollback_stage, "_approved", lambda *_: ())


def unasked(patch: pytest.MonkeyPatch) -> None:
    """Nor before."""
    approved_anyway(patch)
    patch.setattr(rollback_stage, "require_valid", lambda *_: "not looked at")


def stays(action: Action) -> Mutation:
    """A batch that is signed stays so."""
    return lambda patch: patch.setitem(TRANSITIONS, (State.SIGNED, action), (State.SIGNED, "why not"))


def never(action: Action) -> Mutation:
    """What is signed is final."""
    return lambda patch: patch.delitem(TRANSITIONS, (State.SIGNED, action))


def legal(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(TRANSITIONS, (State.ROLLED_BACK, Action.APPLY), (State.APPLIED, "why not"))


BFILL = "profile_id = 'main' AND order_id LIKE 'BFILL-%%'"
ENTRY = "profile_id = 'main' AND action = 'ENTRY'"

CONTROLS: dict[str, tuple[int, Script, Mutation]] = {
    "apply deletes a row": (1, applied, rogue("applied", f"DELETE FROM orders WHERE {ENTRY} AND symbol = 'ETH/USD'")),
    "apply changes an entry": (1, applied, rogue("applied", f"UPDATE orders SET price = price + 1 WHERE {ENTRY}")),
    "apply touches a bystander": (
        1, applied, rogue("applied", "UPDATE orders SET updated_at = now() WHERE profile_id = 'other'"),
    ),
    "apply inserts one row more": (
        1, applied, rogue("applied", "INSERT INTO orders (order_id, profile_id, action, status, quantity, trade_id,"
                          " symbol) VALUES ('one-more', 'main', 'EXIT', 'canceled', 1, 't1', 'BTC/USD')"),
    ),
    "rollback changes a price": (
        1, reinstated, rogue("rolled_back", f"UPDATE orders SET price = price + 1 WHERE {BFILL}"),
    ),
    "a dry run writes a row again as it is": (
        2, one_of_two_rolled_back, rogue("planned", f"UPDATE orders SET status = status WHERE {BFILL}"),
    ),
    "validate cancels a row": (2, applied, rogue("validated", f"UPDATE orders SET status = 'canceled' WHERE {BFILL}")),
    "audit rows in another transaction": (3, applied, instead(audit, "append", audit_apart)),
    "no audit row": (3, applied, instead(audit, "append", audit_says(Decision.APPLIED, None))),
    "an audit row is deleted": (
        3, applied, rogue("applied", "DELETE FROM reconciliation_backfill_audit WHERE decision = 'DRY_RUN'"),
    ),
    "applying again applies again": (
        4, applied_twice, instead(audit, "append", audit_says(Decision.SKIP_EXISTING, Decision.APPLIED)),
    ),
    "an id gets other content": (4, reinstated, rogue("rolled_back", f"UPDATE orders SET qty = 0.5 WHERE {BFILL}")),
    "twice the quantity": (5, applied, inserts_twice_as_much),
    "exits of the backend do not count": (6, real_exit_first, instead(plan, "record", lambda _: lambda *given: None)),
    "rows of other batches do not count": (6, another_ghost_later, instead(plan, "spend", lambda _: lambda *given: [])),
    "another plan than the approved": (7, overtaken, instead(apply_stage, "_recompute", any_plan_will_do)),
    "an approval for ever": (7, expired, instead(apply_stage, "require_valid", lambda _: lambda *given: "not signed")),
    "one row less than approved": (
        7, applied, rogue("applied", f"UPDATE orders SET status = 'canceled' WHERE {BFILL} AND symbol = 'BTC/USD'"),
    ),
    "rollback cancels another batch's row": (
        8, one_of_two_rolled_back, rogue("rolled_back", f"UPDATE orders SET status = 'canceled' WHERE {BFILL}"),
    ),
    "rollback leaves a row": (
        8, reinstated, rogue("rolled_back", f"UPDATE orders SET status = 'filled' WHERE {BFILL}"),
    ),
    "rollback marks another batch": (
        8, one_of_two_rolled_back, rogue("rolled_back", "UPDATE reconciliation_backfill_audit SET reverted_at = now()"),
    ),
    "a result in floats": (9, planned_twice, instead(dry_run_stage, "dry_run_result", floats)),
    "a stored float": (
        9, planned_twice, rogue("planned", """UPDATE reconciliation_batches SET plan = plan || '{"share": 0.1}'"""),
    ),
    "always paused": (10, unpaused, instead(workspace, "read_pause", answers(state=lambda _: PauseState.PAUSED))),
    "silence is a yes": (10, silent, instead(workspace, "read_pause", answers(state=lambda _: PauseState.PAUSED))),
    "unknown positions are flat": (10, positions_hidden, instead(HookedStatement, "fetch", snapshots(positions=()))),
    "open orders do not count": (10, order_open, instead(HookedStatement, "fetch", snapshots(open_orders=()))),
    "a digest of its own each time": (11, planned_twice, instead(plan, "digest", never_the_same)),
    "an id of another trade": (
        11, applied, instead(plan, "judge", lambda judge: lambda case: _renamed(judge(case))),
    ),
    "the switch's token is told": (
        12, applied, instead(workspace, "read_pause", answers(detail=lambda answer: f"{answer.detail} {TOKEN}")),
    ),
    "what is final is not": (0, applied_after_rollback, legal),
    "no signature is missed": (7, unsigned, instead(approval, "require_ready", ignored)),
    "unverifiable signatures will do": (7, not_verifiable, instead(approval, "require_ready", ignored, release)),
    "a stranger's key will do": (7, foreign, instead(approval, "_verified", ignored)),
    "anybody signs for Alice": (7, foreign, instead(approval, "signer", lambda _: lambda *given, **options: ALICE)),
    "what is signed may be changed": (7, prolonged, instead(approval, "_verified", ignored)),
    "a key that is withdrawn still counts": (7, withdrawn, instead(apply_stage, "require_valid", ignored)),
    "a signature is not missed after the apply": (
        7, withdrawn_later, instead(apply_stage, "signature_told", lambda _: lambda *given: (True, "signed")),
    ),
    "an approval is blamed for a setting": (7, unnamed_later, instead(apply_stage, "require_signers", ignored)),
    "validate does not miss it either": (
        10, withdrawn_later, instead(validate_stage, "signature_told", lambda _: lambda *given: (True, "signed")),
    ),
    "whoever planned approves": (7, alone, instead(approval, "_require_second_person", ignored)),
    "each approval holds for a day": (
        7, short, instead(release, "timedelta", lambda made: lambda hours: made(hours=24)),
    ),
    "a rollback needs no approval": (
        7, rolled_back_unapproved, unasked,
    ),
    "a rollback's approval holds for ever": (7, rolled_back_late, unasked),
    "a rollback of other rows than approved": (7, another_rollback_approved, approved_anyway),
    "a signed batch stays signed": (0, signed_again, stays(Action.VALIDATE)),
    "applying again leaves it signed": (0, signed_again, stays(Action.APPLY)),
    "a rollback cannot end what is signed": (0, signed, never(Action.ROLLBACK)),
    "a report is signed whatever the table says": (
        0, signed_and_changed, instead(sign_off, "database_checks", lambda _: lambda *given, **options: []),
    ),
    "anybody signs a report": (7, signed, instead(sign_off, "_signer", lambda _: lambda *given: ALICE)),
}  # fmt: skip


def _renamed(judgement: Any) -> Any:
    def name(item: Any) -> str:
        return backfill_order_id("main", f"{item.trade_id}?", item.exchange_order_id or "DUST", item.filled_at)

    return replace(judgement, items=tuple(replace(item, order_id=name(item)) for item in judgement.items))


@pytest.mark.parametrize(
    "script", dict.fromkeys(script for _, script, _ in CONTROLS.values()), ids=lambda one: one.__name__
)
def test_the_life_itself_breaks_nothing(life: Life, script: Script) -> None:
    script(life)


@pytest.mark.parametrize(("number", "script", "mutate"), CONTROLS.values(), ids=CONTROLS)
def test_each_check_catches_what_it_is_for(
    life: Life, monkeypatch: pytest.MonkeyPatch, number: int, script: Script, mutate: Mutation
) -> None:
    life.incident.sql("ALTER TABLE reconciliation_backfill_audit DISABLE TRIGGER ALL")  # or it would defend itself
    mutate(monkeypatch)
    with pytest.raises(Broken) as caught:
        script(life)
    assert number in caught.value.numbers, caught.value


def test_every_invariant_has_a_control() -> None:
    """And the word of the model, 0."""
    assert {number for number, _, _ in CONTROLS.values()} == set(range(13))
