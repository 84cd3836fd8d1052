"""The approval of a rollback: its own, of exactly the rows that would be canceled, and never that of an apply."""

from __future__ import annotations

from datetime import timedelta

import pytest
from incidents import NOW, Incident, refusal
from signers import ALICE, BOB, Keys, approval_check, planned, signed, strict, unchanged

from recon import audit
from recon.database import transaction
from recon.domain import Verdict


def applied(incident: Incident, keys: Keys) -> Incident:
    planned(incident)
    signed(incident, keys)
    assert incident.run("apply", work=strict(incident, keys)).verdict is Verdict.DONE
    return incident


def test_a_rollback_needs_its_own_approval_where_signatures_are_required(incident: Incident, keys: Keys) -> None:
    """The approval of the apply is none; afterwards the state is final."""
    applied(incident, keys)
    work = strict(incident, keys)
    result = unchanged(incident, "rollback", work)
    assert (result.verdict, result.code) == (Verdict.NO_GO, "rollback_not_approved")
    assert result.message == (
        f"Expected an approval of the rollback of batch {incident.batch}, found none. Approve it: recon approve "
        f"--rollback --batch-id {incident.batch} --by NAME --key PATH"
    )
    trail, rows = incident.audit("*"), incident.orders()
    approval = incident.approve_rollback(by=BOB, key=keys.bob, work=work)
    assert (incident.audit("*"), incident.orders(), incident.state()) == (trail, rows, "applied")
    document = approval.document()
    assert document["items"] == sorted(row["order_id"] for row in incident.backfills())
    assert (document["action"], document["acknowledgements"]) == ("rollback", {})
    done = incident.run("rollback", work=work)
    assert (done.verdict, done.counts) == (Verdict.DONE, {"CANCELED": 2, "LEFT_ALONE": 0}), done.message
    assert approval_check(done).endswith(f"; signed by {BOB} (verified)")
    assert approval_check(done).startswith(f"by '{BOB}', valid until 2026-03-03T12:00:00.000000Z; no ack")
    assert incident.state() == "rolled_back"
    assert refusal(lambda: incident.approve_rollback(by=BOB, key=keys.bob, work=work)).code == "illegal_transition"
    assert incident.run("rollback", work=work).message == "the batch was rolled back before; nothing was written"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("jsonb_set(rollback_approval, '{plan_digest}', '\"x\"')", "found one of another plan. "),
        ("jsonb_set(approval, '{batch_id}', '\"x\"')", "found one of another action, another batch. "),
        ("rollback_approval - 'items'", "found one that is not whole. "),
    ],
)
def test_what_is_wrong_with_an_approval_is_told_in_words(incident: Incident, keys: Keys, edit: str, said: str) -> None:
    applied(incident, keys)
    incident.approve_rollback(by=BOB, key=keys.bob, work=strict(incident, keys))
    incident.tamper(f"UPDATE reconciliation_batches SET rollback_approval = {edit}")
    message = unchanged(incident, "rollback", strict(incident, keys)).message or ""
    assert said in message
    assert message.endswith(" --key PATH")


def test_without_that_requirement_rollback_asks_for_none(incident: Incident, keys: Keys) -> None:
    """Also where one is there that would not do."""
    applied(incident, keys)
    incident.approve_rollback(by="anybody", key=keys.stranger)
    done = incident.run("rollback", work=strict(incident, keys, recon_require_signature=False))
    assert done.verdict is Verdict.DONE
    assert [check.name for check in done.checks if check.name == "approved"] == []


ROLLBACK_EDITS = {
    "unsigned": ("rollback_approval - 'signature'", "signature_missing"),
    "items": ("jsonb_set(rollback_approval, '{items}', (rollback_approval->'items') - 0)", "signature_invalid"),
    "expiry": ("jsonb_set(rollback_approval, '{expires_at}', '\"2027-01-01T00:00:00Z\"')", "signature_invalid"),
    "by": (f"jsonb_set(rollback_approval, '{{by}}', '\"{ALICE}\"')", "signature_invalid"),
    "action": ("jsonb_set(rollback_approval, '{action}', '\"apply\"')", "rollback_not_approved"),
    "batch": ("jsonb_set(rollback_approval, '{batch_id}', '\"x\"')", "rollback_not_approved"),
    "the apply's": ("approval", "rollback_not_approved"),
    "the apply's as one of rollback": ("jsonb_set(approval, '{action}', '\"rollback\"')", "signature_invalid"),
    "none": ("NULL", "rollback_not_approved"),
}


@pytest.mark.parametrize(("edit", "code"), ROLLBACK_EDITS.values(), ids=ROLLBACK_EDITS.keys())
def test_any_edit_of_a_rollbacks_approval_is_refused(incident: Incident, keys: Keys, edit: str, code: str) -> None:
    applied(incident, keys)
    work = strict(incident, keys)
    incident.approve_rollback(by=BOB, key=keys.bob, work=work)
    incident.tamper(f"UPDATE reconciliation_batches SET rollback_approval = {edit}")
    assert unchanged(incident, "rollback", work).code == code
    assert incident.statuses() == ["filled", "filled"]


def test_a_rollbacks_approval_never_passes_for_one_of_apply(incident: Incident, keys: Keys) -> None:
    """Both names exactly the same rows of the same plan, and both are signed: the signed action tells them apart."""
    applied(incident, keys)
    incident.approve_rollback(by=BOB, key=keys.bob, work=strict(incident, keys))
    incident.sql("DELETE FROM orders WHERE order_id LIKE 'BFILL-%%'")
    swap = "UPDATE reconciliation_batches SET state = 'approved', approval = "
    incident.tamper(f"{swap} rollback_approval")
    assert unchanged(incident, "apply", strict(incident, keys)).code == "not_approved"
    incident.tamper(f"{swap} jsonb_set(rollback_approval, '{{action}}', '\"apply\"')")
    assert unchanged(incident, "apply", strict(incident, keys)).code == "signature_invalid"


def test_a_rollbacks_approval_expires(incident: Incident, keys: Keys) -> None:
    applied(incident, keys)
    incident.approve_rollback(by=BOB, key=keys.bob, work=strict(incident, keys))
    late = strict(incident, keys, now=NOW + timedelta(hours=24))
    refused = unchanged(incident, "rollback", late)
    assert refused.code == "approval_expired"
    said = refused.message or ""
    assert said.startswith(f"The approval of the rollback of batch {incident.batch} expired at ")
    again = f"recon approve --rollback --batch-id {incident.batch} --by NAME --key PATH"
    assert said.endswith(f". Approve it again: {again}")
    incident.approve_rollback(by=BOB, key=keys.bob, work=late)
    assert incident.run("rollback", work=late).verdict is Verdict.DONE


def test_a_rollback_cancels_exactly_what_was_approved(incident: Incident, keys: Keys) -> None:
    """Another batch comes to own one of the rows after the approval: it is given anew, for the other alone."""
    applied(incident, keys)
    work = strict(incident, keys)
    incident.approve_rollback(by=BOB, key=keys.bob, work=work)
    theirs = incident.backfills()[0]["order_id"]
    incident.tamper(
        """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id, created_at)
           VALUES ('other', 'main', 'APPLIED', %s, '2026-03-02 13:00Z')""",
        theirs,
    )
    result = unchanged(incident, "rollback", work)
    assert (result.code, theirs in (result.message or "")) == ("rollback_not_approved", True)
    approval = incident.approve_rollback(by=BOB, key=keys.bob, work=work)
    assert [item.order_id for item in approval.released] == [incident.backfills()[1]["order_id"]]
    assert incident.run("rollback", work=work).counts == {"CANCELED": 1, "LEFT_ALONE": 1}


def test_rows_that_were_changed_are_not_approved_for_rollback(incident: Incident, keys: Keys) -> None:
    applied(incident, keys)
    incident.sql("UPDATE orders SET price = 1 WHERE order_id LIKE 'BFILL-%%'")
    assert refusal(lambda: incident.approve_rollback(by=BOB, key=keys.bob)).code == "row_changed"


def test_a_rollbacks_approval_holds_through_validation_and_its_second_person_is_asked_too(
    incident: Incident, keys: Keys
) -> None:
    applied(incident, keys)
    planner = incident.work(recon_require_second_person=True)
    assert refusal(lambda: incident.approve_rollback(by="Tester", work=planner)).code == "second_person_required"
    work = strict(incident, keys, recon_require_second_person=True)
    incident.approve_rollback(by=BOB, key=keys.bob, work=work)
    assert incident.run("validate").verdict is Verdict.DONE
    assert incident.run("rollback", work=work).verdict is Verdict.DONE


def test_tables_made_before_rollbacks_were_approved_are_told_and_completed(incident: Incident) -> None:
    planned(incident)
    incident.sql("ALTER TABLE reconciliation_batches DROP COLUMN rollback_approval")
    result = incident.run("dry-run")
    assert (result.code, "recon init" in (result.message or "")) == ("audit_unavailable", True)
    with transaction(incident.engine) as connection:
        assert audit.create_tables(connection) == [
            "ALTER TABLE reconciliation_batches ADD COLUMN rollback_approval JSONB"
        ]
    assert incident.run("dry-run").code is None
