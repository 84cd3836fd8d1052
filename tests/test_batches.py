"""The life of a batch: every legal step is taken, every other one is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from incidents import NOW, Incident, refusal
from sqlalchemy.exc import DBAPIError

from recon import batches, open_incident
from recon.batches import TRANSITIONS, Action, Batch
from recon.database import explain, sqlstate, transaction
from recon.domain import Stage, StageResult, State, Verdict
from recon.errors import Refused, UsageError
from recon.reporting.verdict import next_step

STATES: tuple[State | None, ...] = (None, *State)
ILLEGAL = [(state, action) for state in STATES for action in Action if (state, action) not in TRANSITIONS]


def test_the_table_speaks_of_every_state_and_action() -> None:
    """A state without a way in, or an action that is never legal, would be dead."""
    assert {state for state, _ in TRANSITIONS} == set(STATES)
    assert {after for after, _ in TRANSITIONS.values()} == set(State)
    assert {action for _, action in TRANSITIONS} == set(Action)
    assert all(reason for _, reason in TRANSITIONS.values())
    assert {action for state, action in TRANSITIONS if state is State.ROLLED_BACK} == {
        Action.ROLLBACK,
        Action.SIGN,
    }, "final"


@pytest.mark.parametrize(("state", "action"), ILLEGAL)
def test_every_other_arrow_is_illegal(state: State | None, action: Action) -> None:
    refused = refusal(lambda: Batch("b", "main", state).after(action))
    assert refused.code == "illegal_transition"
    assert (state.value if state else "does not exist yet") in refused.message
    assert "Next: recon " in refused.message


def test_every_illegal_step_is_refused_by_its_stage_and_changes_nothing(incident: Incident) -> None:
    """Stages out of order: from each state, what is not in the table is refused (3), with all guards else open."""
    incident.create_table().ghost("t1")
    incident.repair()
    stages: dict[Action, Callable[[str], object]] = {
        Action(stage.value): lambda batch, stage=stage: incident.run(stage, batch) for stage in Stage
    }
    tried = 0
    for state in STATES:
        batch = incident.batch if state else "never-heard-of"
        if state:
            incident.tamper("UPDATE reconciliation_batches SET state = %s", state.value)
        before = incident.everything()
        for action, run in stages.items():
            if (state, action) in ILLEGAL:
                result = run(batch)
                assert (result.verdict, result.code) == (Verdict.NO_GO, "illegal_transition"), (state, action)
                tried += 1
        code = "illegal_transition" if state else "unknown_batch"
        if (state, Action.APPROVE) in ILLEGAL:
            assert refusal(lambda batch=batch: incident.approve(batch=batch)).code == code
            tried += 1
        if (state, Action.APPROVE_ROLLBACK) in ILLEGAL:
            assert refusal(lambda batch=batch: incident.approve_rollback(batch=batch)).code == code
            tried += 1
        assert incident.everything() == before, state
    internal = {Action.STALE, Action.REFUTE, Action.SIGN}  # tests/test_sign.py has the last
    assert tried == len([pair for pair in ILLEGAL if pair[1] not in internal])


def sign(incident: Incident, batch_id: str) -> Batch:
    """What signing does to the batch, without a report."""
    with transaction(incident.engine) as connection:
        held = batches.load(connection, batch_id, lock=True)
        return batches.save(connection, held.moved(Action.SIGN), actor="signer", now=NOW)


def test_a_life_that_takes_every_legal_step(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    seen: set[tuple[State | None, Action, State]] = set()

    def step(action: str, taken: str | None = None, batch: str = "life") -> None:
        before = incident.state(batch)
        approvals = {"approve": incident.approve, "approve-rollback": incident.approve_rollback}
        others = approvals | {"sign": lambda batch: sign(incident, batch)}
        outcome = others[action](batch=batch) if action in others else incident.run(action, batch)
        after = State(incident.state(batch) or "")
        seen.add((State(before) if before else None, Action(taken or action), after))
        assert outcome is not None

    for action in (
        "detect",
        "detect",
        "dry-run",
        "detect",
        "dry-run",
        "approve",
        "approve",
        "detect",
        "dry-run",
        "approve",
    ):
        step(action)
    incident.row("late", "t9", "ENTRY", "1", 1)
    step("apply", "stale")
    incident.sql("DELETE FROM orders WHERE order_id = 'late'")
    for action in ("dry-run", "approve", "apply", "apply", "approve-rollback"):
        step(action)
    incident.sql("UPDATE orders SET price = 1 WHERE order_id LIKE 'BFILL-%%'")
    step("validate", "refute")
    incident.sql("UPDATE orders SET price = 110 WHERE order_id LIKE 'BFILL-%%'")
    signed = ("validate", "sign", "sign", "approve-rollback", "apply", "sign", "validate", "sign")
    for actions in (("validate", "validate", "apply", "approve-rollback"), signed):
        for action in actions:
            step(action)
        incident.sql("UPDATE orders SET price = 1 WHERE order_id LIKE 'BFILL-%%'")
        step("validate", "refute")
        incident.sql("UPDATE orders SET price = 110 WHERE order_id LIKE 'BFILL-%%'")
    for action in ("rollback", "rollback", "sign"):
        step(action)
    for action in ("detect", "dry-run", "approve", "apply", "validate", "rollback"):
        step(action, batch="life-2")
    for action in ("detect", "dry-run", "approve", "apply", "validate", "sign", "rollback"):
        step(action, batch="life-3")
    assert seen == {(state, action, after) for (state, action), (after, _) in TRANSITIONS.items()}


def test_a_batch_of_another_profile_is_refused_by_every_stage(incident: Incident) -> None:
    """A batch_id is unique across profiles; the refusal does not say whose it is."""
    incident.create_table().ghost("t1")
    incident.repair()
    incident.row("theirs", "t9", "ENTRY", "1", 0, profile_id="other")
    before = incident.everything()
    incident.profile = "other"
    for stage in Stage:
        result = incident.run(stage)
        assert (result.verdict, result.code) == (Verdict.NO_GO, "batch_of_another_profile"), stage
        assert "main" not in (result.message or "")
    assert incident.everything() == before


@pytest.mark.parametrize(
    "batch_id", ["../../x", "", ".", "a/b", "a b", "ä", "-a", "a" * 65, "a\n", "a\0", "a;b", "$(x)"]
)
def test_a_malformed_batch_id_is_a_usage_error(batch_id: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_incident("detect", "main", batch_id)
    assert (caught.value.code, caught.value.exit_status) == ("malformed_batch_id", 2)


def test_what_is_saved_is_what_is_loaded(incident: Incident) -> None:
    """The documents come back as JSON; the first instant and actor stay."""
    incident.create_table(doors=False)  # no door lets such documents in
    document = {"text": 'it\'s 🚀 "x"', "list": [1, None, True], "number": "0.10"}
    later = NOW + timedelta(hours=1)
    with transaction(incident.engine) as connection:
        opened = batches.open_batch(connection, "b", "main", actor="first", now=NOW)
        planned = opened.moved(Action.DRY_RUN, scope=document, plan=document, plan_digest="d", approval=None)
        batches.save(connection, planned, actor="first", now=NOW)
    with transaction(incident.engine) as connection:
        held = batches.load(connection, "b", "main", lock=True)
        assert (held.scope, held.plan, held.plan_digest, held.approval, held.state) == (
            document, document, "d", None, State.PLANNED,
        )  # fmt: skip
        batches.save(connection, held.moved(Action.APPROVE, approval=document), actor="second", now=later)
    [row] = incident.sql("SELECT state, created_at, created_by, updated_at, updated_by FROM reconciliation_batches")
    assert tuple(row) == ("approved", NOW, "first", later, "second")


def test_only_documents_that_changed_are_written(incident: Incident) -> None:
    """A role may write only what its step changes; and what another wrote meanwhile is not put back."""
    incident.create_table(doors=False)  # no door lets such documents in
    with transaction(incident.engine) as connection:
        opened = batches.open_batch(connection, "b", "main", actor="a", now=NOW)
        scope = {"symbols": ["BTC/USD"], "trade_ids": []}
        batches.save(connection, opened.moved(Action.DRY_RUN, scope=scope), actor="a", now=NOW)
        batches.save(connection, replace(opened, state=State.APPROVED), actor="a", now=NOW)
        saved = batches.load(connection, "b")
    assert (saved.state, saved.scope) == (State.APPROVED, scope)


def test_every_lists_newest_first_and_by_profile(incident: Incident) -> None:
    incident.create_table()
    with transaction(incident.engine) as connection:
        for number, profile in enumerate(["main", "other", "main"]):
            now = NOW + timedelta(minutes=number)
            batches.open_batch(connection, f"b{number}", profile, actor="a", now=now)
        assert [batch.batch_id for batch in batches.every(connection)] == ["b2", "b1", "b0"]
        assert [batch.batch_id for batch in batches.every(connection, "main")] == ["b2", "b0"]


def test_the_next_command_of_every_state_names_batch_and_profile() -> None:
    for state in STATES:
        said = Batch("b-7", "p-7", state).next_command(Path("reports"))
        assert said.startswith("Next: recon "), said
        assert "b-7" in said or state is State.ROLLED_BACK
    with pytest.raises(Refused):
        Batch("b", "p", State.ROLLED_BACK).after(Action.DETECT)


def test_a_plan_with_nothing_to_repair_has_no_next_command() -> None:
    batch = Batch("b", "p", State.PLANNED, plan={"targets": []})
    assert batch.next_command() == "Next: nothing; the dry run found nothing to repair"


def test_a_login_that_may_not_read_the_batches_is_not_told_to_make_them(incident: Incident) -> None:
    incident.create_table()
    with incident.engine.connect() as connection:
        connection.exec_driver_sql("CREATE ROLE someone_else")
        connection.exec_driver_sql("SET LOCAL ROLE someone_else")
        with pytest.raises(DBAPIError, match="permission denied for table reconciliation_batches") as caught:
            batches.load(connection, "b")
        connection.rollback()
    assert (sqlstate(caught.value), explain(caught.value).code) == ("42501", "database_error")


@pytest.mark.parametrize(("needing", "more"), [((False,), ""), ((False, True, True), " --acknowledge TRADE_ID=WHY")])
def test_a_plan_that_needs_acknowledgements_says_so(needing: tuple[bool, ...], more: str) -> None:
    item = {"order_id": "BFILL-1", "decision": "DRY_RUN", "reason": "fill_evidence"}
    plan = {"document": {"items": [item]}, "targets": [{"needs_acknowledgement": each} for each in needing]}
    said = Batch("b-7", "p-7", State.PLANNED, plan=plan).next_command(key=True)
    assert said == f"Next: recon approve --batch-id b-7 --by NAME --key PATH{more}"


@pytest.mark.parametrize("state", [State.APPLIED, State.VALIDATED, State.SIGNED])
def test_a_rollback_that_is_approved_is_next_until_it_expires(state: State) -> None:
    given = {"action": "rollback", "plan_digest": "d", "expires_at": "2026-03-03T12:00:00.000000Z"}

    def said(document: dict[str, str], now: datetime | None = NOW) -> str:
        return Batch("b-7", "p-7", state, plan_digest="d", rollback_approval=document).next_command(now=now)

    rollback = "Next: recon run rollback --profile-id p-7 --batch-id b-7"
    assert said(given) == rollback
    assert said(given, None) != rollback, "who does not know the time does not advise what is final"
    for other in ({"action": "apply"}, {"plan_digest": "e"}, {"expires_at": "soon"}):
        assert said(given | other) != rollback
    assert said(given, NOW + timedelta(days=1)) == Batch("b-7", "p-7", state).next_command()


@pytest.mark.parametrize("expires", ["2026-03-02T12:00:00.000000Z", "soon", None])
def test_an_approval_that_expired_is_given_again(expires: str | None) -> None:
    plan = {"targets": [{"needs_acknowledgement": True}]}

    def said(expires: str | None, now: datetime | None) -> str:
        approved = Batch("b-7", "p-7", State.APPROVED, plan=plan, approval={"expires_at": expires})
        return approved.next_command(key=True, now=now)

    assert said(expires, NOW) == "Next: recon approve --batch-id b-7 --by NAME --key PATH --acknowledge TRADE_ID=WHY"
    apply = "Next: recon run apply --profile-id p-7 --batch-id b-7"
    assert said("2026-03-02T12:00:00.000001Z", NOW) == said(expires, None) == apply


def test_what_a_validation_says_is_next_is_what_status_says() -> None:
    said = next_step(StageResult(Stage.VALIDATE, "p-7", "b-7", Verdict.DONE))
    command = Batch("b-7", "p-7", State.VALIDATED).next_command().removeprefix("Next: ")
    assert said == f"Sign the report: `{command}`. When trading is resumed is up to whoever paused it."


def test_a_refused_step_does_not_guess_where_reports_lie() -> None:
    """Only `recon status` knows the folder."""
    message = refusal(lambda: Batch("b-7", "p-7", State.SIGNED).after(Action.DRY_RUN)).message
    assert message == "Batch b-7 is signed; dry-run is not possible. Next: recon status --profile-id p-7"
    said = Batch("b-7", "p-7", State.SIGNED).next_command(Path("/some where"))
    assert said == "Next: recon verify '/some where/b-7'"


def test_a_refused_step_does_not_know_whether_approvals_are_signed() -> None:
    item = {"order_id": "BFILL-1", "decision": "DRY_RUN", "reason": "fill_evidence"}
    plan = {"document": {"items": [item]}, "targets": [{"needs_acknowledgement": True}]}
    message = refusal(lambda: Batch("b-7", "p-7", State.PLANNED, plan=plan).after(Action.APPLY)).message
    assert message == (
        "Batch b-7 is planned; apply is not possible. "
        "Next: recon approve --batch-id b-7 --by NAME [--key PATH] --acknowledge TRADE_ID=WHY"
    )


def test_a_plan_that_cannot_be_approved_is_planned_again(incident: Incident) -> None:
    """A pause that is not confirmed, and a plan without a row to write, until both are settled."""
    incident.create_table().ghost("t1")
    incident.hold("BTC/USD", "1")

    def said(word: str) -> str:
        incident.switch.word = word
        incident.run("dry-run")
        with transaction(incident.engine) as connection:
            return batches.load(connection, incident.batch).next_command()

    incident.run("detect")
    again = f"Next: recon run dry-run --profile-id main --batch-id {incident.batch}"
    assert said("PAUSED") == again
    assert refusal(lambda: incident.approve("t1=held")).code == "nothing_to_approve"
    incident.positions = []
    incident.write_statement()
    assert said("ACTIVE") == again
    assert refusal(incident.approve).code == "batch_wide_reason"
    assert said("PAUSED") == f"Next: recon approve --batch-id {incident.batch} --by NAME"
    stored = "jsonb_set(plan, '{failed_checks}', '[\"orders_unchanged\"]')"
    incident.tamper(f"UPDATE reconciliation_batches SET plan = {stored}")
    with transaction(incident.engine) as connection:
        assert batches.load(connection, incident.batch).next_command() == again


def test_a_plan_found_stale_is_planned_again_not_approved_again() -> None:
    """Its void approval is still there to be read, and tells it from a plan that nobody approved yet."""
    item = {"order_id": "BFILL-1", "decision": "DRY_RUN", "reason": "fill_evidence"}
    plan = {"document": {"items": [item]}, "targets": [{}], "failed_checks": []}
    planned = Batch("b-7", "p-7", State.PLANNED, plan=plan)
    assert planned.next_command().startswith("Next: recon approve ")
    stale = Batch("b-7", "p-7", State.PLANNED, plan=plan, approval={"by": "a reviewer"})
    assert stale.next_command() == "Next: recon run dry-run --profile-id p-7 --batch-id b-7"
