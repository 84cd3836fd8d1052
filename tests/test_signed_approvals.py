"""Signed approvals: who may release a plan or a rollback, and that nothing of what was signed can be changed after."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from incidents import NOW, Incident, refusal
from signers import ALICE, BOB, Keys, approval_check, planned, signed, strict, unchanged

from recon import batches
from recon.approval import holds, signed_bytes
from recon.database import transaction
from recon.domain import Verdict
from recon.errors import UsageError
from recon.plan import Scope
from recon.reporting.approvals import approvals_check
from recon.signatures import PLAN, REPORT, sign, signer
from recon.stages import apply as stage
from recon.stages.approve import approve
from recon.stages.release import Approval


def test_a_signed_approval_is_verified_and_the_report_says_by_whom(incident: Incident, keys: Keys) -> None:
    """The signature is over the stored document without it: anyone can check that with ssh-keygen alone."""
    planned(incident)
    work = strict(incident, keys)
    approval = signed(incident, keys, work=work)
    assert approval.told == f"signed by {ALICE} (verified)"
    [(document,)] = incident.sql("SELECT approval FROM reconciliation_batches")
    signature = document.pop("signature")
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert signer(text, signature, PLAN, keys.allowed) == ALICE
    assert (document["action"], document["by"], len(document["items"])) == ("apply", ALICE, 2)
    applied = incident.run("apply", work=work)
    assert applied.verdict is Verdict.DONE, applied.message
    assert approval_check(applied).endswith(f"; signed by {ALICE} (verified)")
    assert ("signature", f"signed by {ALICE} (verified)") in applied.tables["transaction"].rows
    again = incident.run("apply", work=work)
    assert approval_check(again) == approval_check(applied)


UNSIGNED, BY_ALICE, AS_ALICE, BY_STRANGER = "unsigned", "by alice", "bob's key as alice", "a stranger's key as alice"
CASES = [
    (False, False, UNSIGNED, None, "not signed"),
    (False, False, BY_ALICE, None, "signed, not verified: RECON_ALLOWED_SIGNERS is unset"),
    (False, False, AS_ALICE, None, "signed, not verified: RECON_ALLOWED_SIGNERS is unset"),
    (False, True, UNSIGNED, None, "not signed"),
    (False, True, BY_ALICE, None, f"signed by {ALICE} (verified)"),
    (False, True, AS_ALICE, "signer_mismatch", f"'{BOB}' signed it"),
    (False, True, BY_STRANGER, "signature_invalid", "No principal matched"),
    (True, False, UNSIGNED, "allowed_signers_unset", "RECON_ALLOWED_SIGNERS names no file"),
    (True, False, BY_ALICE, "allowed_signers_unset", "RECON_ALLOWED_SIGNERS names no file"),
    (True, True, UNSIGNED, "signature_missing", "--key PATH"),
    (True, True, BY_ALICE, None, f"signed by {ALICE} (verified)"),
    (True, True, AS_ALICE, "signer_mismatch", f"'{BOB}' signed it"),
    (True, True, BY_STRANGER, "signature_invalid", "No principal matched"),
]


@pytest.mark.parametrize(("required", "named", "how", "code", "said"), CASES)
def test_what_counts_where_it_is_required_or_can_be_verified(
    incident: Incident, keys: Keys, required: bool, named: bool, how: str, code: str | None, said: str
) -> None:
    """Refused when it is approved and when it is applied, alike, and both write nothing; or applied, and so told."""
    planned(incident)
    key = {UNSIGNED: None, BY_ALICE: keys.alice, AS_ALICE: keys.bob, BY_STRANGER: keys.stranger}[how]
    work = incident.work(recon_require_signature=required, recon_allowed_signers=keys.allowed if named else None)
    if code is not None:
        before = incident.everything()
        refused = refusal(lambda: signed(incident, keys, key=key, work=work))
        assert (refused.code, said in refused.message) == (code, True), refused.message
        assert incident.everything() == before
    signed(incident, keys, key=key)
    read = []
    incident.exchange.before = lambda: read.append(1)
    if code is None:
        result = incident.run("apply", work=work)
        assert (result.verdict, result.code) == (Verdict.DONE, None), result.message
        assert approval_check(result).endswith(f"; {said}")
        return
    result = unchanged(incident, "apply", work)
    assert (result.verdict, result.code) == (Verdict.NO_GO, code), result.message
    assert said in (result.message or "")
    assert read == [], "refused before the exchange is asked"
    assert incident.backfills() == []


@pytest.mark.parametrize(("required", "named", "how", "code", "said"), CASES)
def test_what_an_apply_would_refuse_does_not_hold(
    incident: Incident, keys: Keys, required: bool, named: bool, how: str, code: str | None, said: str
) -> None:
    """So `recon status` sends it to be approved again, and never to an apply that is refused."""
    planned(incident)
    key = {UNSIGNED: None, BY_ALICE: keys.alice, AS_ALICE: keys.bob, BY_STRANGER: keys.stranger}[how]
    signed(incident, keys, key=key)
    work = incident.work(recon_require_signature=required, recon_allowed_signers=keys.allowed if named else None)
    with transaction(incident.engine, read_only=True) as connection:
        batch = batches.load(connection, incident.batch)
    assert holds(batch, work.settings, NOW) is (code is None), said
    assert holds(batch, work.settings, NOW + timedelta(days=2)) is False


def test_whether_it_holds_is_left_to_the_apply_where_the_signers_cannot_be_read(incident: Incident, keys: Keys) -> None:
    planned(incident)
    signed(incident, keys)
    with transaction(incident.engine, read_only=True) as connection:
        batch = batches.load(connection, incident.batch)
    assert holds(batch, incident.work(recon_allowed_signers=keys.folder / "nowhere").settings, NOW)


EDITS = {
    "items": "jsonb_set(approval, '{items}', (approval->'items') - 0)",
    "another item": "jsonb_set(approval, '{items}', approval->'items' || '\"BFILL-x\"')",
    "an acknowledgement": "jsonb_set(approval, '{acknowledgements,speck}', '\"nothing\"')",
    "no acknowledgement": "jsonb_set(approval, '{acknowledgements}', '{}')",
    "when": "jsonb_set(approval, '{approved_at}', '\"2026-03-02T12:00:00.000001Z\"')",
    "expiry": "jsonb_set(approval, '{expires_at}', '\"2027-03-03T12:00:00.000000Z\"')",
    "one more key": "approval || '{\"note\": 1}'",
    "signature": "jsonb_set(approval, '{signature}', '\"-----BEGIN SSH SIGNATURE-----\"')",
    "no text": "jsonb_set(approval, '{signature}', '1')",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_any_edit_of_a_signed_approval_is_refused(incident: Incident, keys: Keys, edit: str) -> None:
    """Also where signatures are not required but can be verified."""
    planned(incident)
    signed(incident, keys)
    incident.tamper(f"UPDATE reconciliation_batches SET approval = {edit}")
    for required in (True, False):
        result = unchanged(incident, "apply", strict(incident, keys, recon_require_signature=required))
        assert (result.verdict, result.code) == (Verdict.NO_GO, "signature_invalid"), result.message
    assert incident.backfills() == []


def test_the_control_an_unsigned_approval_can_be_edited(incident: Incident) -> None:
    """Without a signature whoever can write the batch's row can prolong the approval: that is what it is for."""
    planned(incident)
    incident.approve("speck=ten cents")
    incident.tamper(f"UPDATE reconciliation_batches SET approval = {EDITS['expiry']}")
    late = incident.work(now=NOW + timedelta(days=30))
    assert incident.run("apply", work=late).verdict is Verdict.DONE


def test_by_whom_cannot_be_edited(incident: Incident, keys: Keys) -> None:
    planned(incident)
    signed(incident, keys)
    incident.tamper(f"UPDATE reconciliation_batches SET approval = jsonb_set(approval, '{{by}}', '\"{BOB}\"')")
    assert unchanged(incident, "apply", strict(incident, keys)).code == "signature_invalid"


def test_the_signature_cannot_be_taken_off(incident: Incident, keys: Keys) -> None:
    planned(incident)
    signed(incident, keys)
    incident.tamper("UPDATE reconciliation_batches SET approval = approval - 'signature'")
    assert unchanged(incident, "apply", strict(incident, keys)).code == "signature_missing"


MALFORMED = {
    "expiry that is no instant": "jsonb_set(approval, '{expires_at}', '\"soon\"')",
    "expiry without a zone": "jsonb_set(approval, '{expires_at}', '\"2027-03-03T12:00:00\"')",
    "expiry that is null": "jsonb_set(approval, '{expires_at}', 'null')",
    "no expiry": "approval - 'expires_at'",
    "no name": "approval - 'by'",
    "items that are no list": "jsonb_set(approval, '{items}', '\"BFILL\"')",
    "items that are no ids": "jsonb_set(approval, '{items}', '[1]')",
    "no action": "approval - 'action'",
    "another action": "jsonb_set(approval, '{action}', '\"rollback\"')",
    "another batch": "jsonb_set(approval, '{batch_id}', '\"other\"')",
    "another profile": "jsonb_set(approval, '{profile_id}', '\"other\"')",
    "another plan": "jsonb_set(approval, '{plan_digest}', '\"other\"')",
    "nothing": "'{}'",
    "NULL": "NULL",
}


@pytest.mark.parametrize("edit", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_approval_of_this_plan_is_none(incident: Incident, keys: Keys, edit: str) -> None:
    """Signed or not, and whatever is required."""
    planned(incident)
    signed(incident, keys)
    incident.tamper(f"UPDATE reconciliation_batches SET approval = {edit}")
    for work in (incident.work(), strict(incident, keys)):
        assert unchanged(incident, "apply", work).code == "not_approved"


PLAN_EDITS = {
    "a quantity": "jsonb_set(plan, '{document,items,0,qty}', '\"2\"')",
    "a float": "jsonb_set(plan, '{document,items,0,qty}', '0.5')",
    "an item": "jsonb_set(plan, '{document,items}', (plan->'document'->'items') - 0)",
    "no document": "plan - 'document'",
}


@pytest.mark.parametrize("edit", PLAN_EDITS.values(), ids=PLAN_EDITS.keys())
def test_an_edited_plan_is_neither_approved_nor_applied(incident: Incident, keys: Keys, edit: str) -> None:
    """What a person is shown is read from the stored plan, so it must be the one that the digest names."""
    planned(incident)
    signed(incident, keys)
    incident.tamper(f"UPDATE reconciliation_batches SET plan = {edit}")
    result = unchanged(incident, "apply", strict(incident, keys))
    assert result.code == "not_approved"
    assert "changed by hand" in (result.message or "")
    if edit != PLAN_EDITS["no document"]:
        shown: list[Approval] = []
        code = refusal(lambda: approve(incident.work(), incident.batch, ALICE, ["speck=x"], show=shown.append)).code
        assert (code, shown) == ("not_approved", [])


def test_what_needs_a_word_is_not_a_matter_of_the_stored_plan(incident: Incident, keys: Keys) -> None:
    """The digest does not cover what the batch's row says of its targets; the plan that apply computes tells."""
    planned(incident)
    incident.tamper(
        """UPDATE reconciliation_batches SET plan = replace(plan::text, '"needs_acknowledgement": true',
               '"needs_acknowledgement": false')::jsonb"""
    )
    incident.approve(by=ALICE, key=keys.alice)
    result = unchanged(incident, "apply", strict(incident, keys))
    assert (result.code, "about speck" in (result.message or "")) == ("not_approved", True)


def test_narrowing_voids_it(incident: Incident, keys: Keys) -> None:
    """The signature over the whole plan does not hold for a part of it, not even put back by hand."""
    planned(incident)
    signed(incident, keys)
    [(old,)] = incident.sql("SELECT approval FROM reconciliation_batches")
    assert incident.run("dry-run", work=incident.work(scope=Scope(("t1",), ()))).verdict is Verdict.GO
    assert incident.sql("SELECT state, approval FROM reconciliation_batches") == [("planned", None)]
    work = strict(incident, keys)
    assert unchanged(incident, "apply", work).code == "illegal_transition"
    put = "UPDATE reconciliation_batches SET state = 'approved', approval = %s::jsonb"
    incident.tamper(put, json.dumps(old))
    assert unchanged(incident, "apply", work).code == "not_approved"
    [(digest,)] = incident.sql("SELECT plan_digest FROM reconciliation_batches")
    incident.tamper(put, json.dumps(old | {"plan_digest": digest}))
    assert unchanged(incident, "apply", work).code == "signature_invalid"


def test_planning_again_voids_it(incident: Incident, keys: Keys) -> None:
    planned(incident)
    signed(incident, keys)
    assert incident.run("dry-run").code is None
    assert incident.sql("SELECT state, approval FROM reconciliation_batches") == [("planned", None)]
    assert unchanged(incident, "apply", strict(incident, keys)).code == "illegal_transition"


def test_a_signature_for_another_purpose_or_batch_is_none(incident: Incident, keys: Keys) -> None:
    planned(incident)
    approval = signed(incident, keys)
    work = strict(incident, keys)
    other = sign(signed_bytes(approval.document()), keys.alice, REPORT)
    replace = "UPDATE reconciliation_batches SET approval = jsonb_set(approval, '{signature}', to_jsonb(%s::text))"
    incident.tamper(replace, other)
    assert unchanged(incident, "apply", work).code == "signature_invalid"
    incident.tamper(replace, sign(signed_bytes(approval.document() | {"batch_id": "other"}), keys.alice, PLAN))
    assert unchanged(incident, "apply", work).code == "signature_invalid"
    incident.tamper(replace, approval.signature or "")
    assert incident.run("apply", work=work).verdict is Verdict.DONE


def test_the_deciding_check_is_made_under_the_locks(incident: Incident, keys: Keys) -> None:
    """Alice's key is withdrawn after the first look, while the exchange is asked: nothing is written."""
    planned(incident)
    work = strict(incident, keys)
    signed(incident, keys, work=work)
    incident.exchange.before = lambda: keys.allow(f"{BOB} {keys.public('bob')}")
    result = unchanged(incident, "apply", work)
    assert (result.code, incident.backfills()) == ("signature_invalid", [])
    incident.exchange.before = lambda: None
    keys.allow(f"{ALICE} {keys.public('alice')}")
    assert incident.run("apply", work=work).verdict is Verdict.DONE


def test_the_control_without_the_check_under_the_locks(
    incident: Incident, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look alone would let the withdrawn key through."""
    planned(incident)
    work = strict(incident, keys)
    signed(incident, keys, work=work)

    def withdraw() -> None:
        keys.allow(f"{BOB} {keys.public('bob')}")
        monkeypatch.setattr(stage, "require_valid", lambda *_: "not looked at")

    incident.exchange.before = withdraw
    assert incident.run("apply", work=work).verdict is Verdict.DONE


def test_a_key_must_be_valid_when_its_approval_is_applied(incident: Incident, keys: Keys) -> None:
    """By the database's clock, like every instant."""
    planned(incident)
    keys.allow(f'{ALICE} valid-before="20260303" {keys.public("alice")}')
    signed(incident, keys, work=strict(incident, keys))
    late = strict(incident, keys, now=NOW + timedelta(hours=23))
    assert unchanged(incident, "apply", late).code == "signature_invalid"
    assert incident.run("apply", work=strict(incident, keys)).verdict is Verdict.DONE


@pytest.mark.parametrize("trouble", ["missing", "folder"])
def test_allowed_signers_that_cannot_be_read_stop_everything(incident: Incident, keys: Keys, trouble: str) -> None:
    planned(incident)
    signed(incident, keys)
    work = strict(incident, keys, recon_allowed_signers=keys.folder / ("nowhere" if trouble == "missing" else "."))
    result = unchanged(incident, "apply", work)
    assert (result.verdict, result.code) == (Verdict.FAILED, "allowed_signers_unreadable")
    with pytest.raises(UsageError) as caught:
        signed(incident, keys, work=work)
    assert caught.value.code == "allowed_signers_unreadable"


def test_how_long_an_approval_holds_is_a_setting(incident: Incident, keys: Keys) -> None:
    planned(incident)
    approval = signed(incident, keys, work=strict(incident, keys, recon_approval_ttl_hours=2))
    assert approval.expires_at - approval.approved_at == timedelta(hours=2)
    late = strict(incident, keys, now=NOW + timedelta(hours=2))
    assert unchanged(incident, "apply", late).code == "approval_expired"


@pytest.mark.parametrize("name", [ALICE, f" {ALICE.upper()} "])
def test_whoever_planned_does_not_approve_where_a_second_person_is_required(
    incident: Incident, keys: Keys, name: str
) -> None:
    """Refused when approved, and when applied; the control without the setting passes both."""
    incident.create_table().ghost("t1")
    planner = incident.work(recon_actor=name)
    incident.run("detect", work=planner)
    incident.run("dry-run", work=planner)
    [(plan,)] = incident.sql("SELECT plan FROM reconciliation_batches")
    assert plan["planned_by"] == name.strip()
    work = incident.work(recon_require_second_person=True, recon_allowed_signers=keys.allowed)
    before = incident.everything()
    assert refusal(lambda: incident.approve(by=ALICE, key=keys.alice, work=work)).code == "second_person_required"
    assert incident.everything() == before
    incident.approve(by=ALICE, key=keys.alice)
    assert unchanged(incident, "apply", work).code == "second_person_required"
    incident.approve(by=BOB, key=keys.bob, work=work)
    assert incident.run("apply", work=work).verdict is Verdict.DONE


def test_a_plan_that_does_not_say_who_made_it_needs_another_dry_run(incident: Incident) -> None:
    planned(incident)
    incident.tamper("UPDATE reconciliation_batches SET plan = plan - 'planned_by'")
    work = incident.work(recon_require_second_person=True)
    refused = refusal(lambda: incident.approve("speck=x", work=work))
    assert (refused.code, "Run dry-run again" in refused.message) == ("second_person_required", True)
    incident.run("dry-run")
    incident.approve("speck=x", work=work)
    assert incident.run("apply", work=work).verdict is Verdict.DONE


def test_what_is_approved_is_shown_before_it_is_signed_and_recorded(incident: Incident, keys: Keys) -> None:
    planned(incident)
    before = incident.everything()
    shown: list[Approval] = []
    key = keys.folder / "nowhere"
    call = lambda: approve(incident.work(), incident.batch, ALICE, ["speck=x"], key=key, show=shown.append)  # noqa: E731
    assert refusal(call).code == "key_unusable"
    assert incident.everything() == before
    [approval] = shown
    assert approval.signature is None
    [(digest,)] = incident.sql("SELECT plan_digest FROM reconciliation_batches")
    assert approval.lines() == [
        f"to be written: 2 rows of plan {digest}",
        "B/USD dust_only: 1 row, quantity 0.001, notional 0.1",
        "BTC/USD fill_evidence: 1 row, quantity 1, notional 110",
        "dust without a fill: speck (B/USD), notional 0.1",
        "acknowledged speck: x",
        "valid until 2026-03-03 12:00:00 UTC",
    ]
    data = approval.data()
    assert data["dust_only"] == [{"trade_id": "speck", "symbol": "B/USD", "quantity": "0.001", "notional": "0.1"}]
    assert data["symbols"][1] == {
        "symbol": "BTC/USD", "reason": "fill_evidence", "rows": 1, "quantity": "1", "notional": "110",
    }  # fmt: skip


def test_dust_that_is_reinstated_is_shown_as_dust_again(incident: Incident) -> None:
    """Its item says only that the row is reinstated; the trade still rests on no fill."""
    planned(incident)
    incident.approve("speck=x")
    assert incident.run("apply").verdict is Verdict.DONE
    assert incident.run("rollback").verdict is Verdict.DONE
    for each in ("detect", "dry-run"):
        incident.run(each, "again")
    shown = incident.approve("speck=x", batch="again").lines()
    assert "B/USD reinstate: 1 row, quantity 0.001, notional 0.1" in shown
    assert [line for line in shown if line.startswith("dust")] == ["dust without a fill: speck (B/USD), notional 0.1"]


def test_a_plan_that_changes_while_the_passphrase_is_asked_is_not_approved(incident: Incident, keys: Keys) -> None:
    """Nothing is locked meanwhile; what was shown and signed is recorded, or nothing is."""
    planned(incident)

    def meanwhile(_: Approval) -> None:
        incident.ghost("t2", symbol="ETH/USD")
        incident.run("dry-run")

    call = lambda: approve(incident.work(), incident.batch, ALICE, ["speck=x"], key=keys.alice, show=meanwhile)  # noqa: E731
    assert refusal(call).code == "stale_plan"
    assert incident.sql("SELECT state, approval FROM reconciliation_batches") == [("planned", None)]
    assert incident.audit("decision").count(("PENDING_APPLY",)) == 0


def test_a_plan_that_is_changed_by_hand_while_the_passphrase_is_asked_is_not_approved(
    incident: Incident, keys: Keys
) -> None:
    """Its digest and its ids are as they were; a side is not."""
    planned(incident)

    def meanwhile(_: Approval) -> None:
        incident.tamper(
            "UPDATE reconciliation_batches SET plan = jsonb_set(plan, '{document,items,0,side}', '\"buy\"')"
        )

    call = lambda: approve(incident.work(), incident.batch, ALICE, ["speck=x"], key=keys.alice, show=meanwhile)  # noqa: E731
    assert refusal(call).code == "not_approved"
    assert incident.sql("SELECT state, approval FROM reconciliation_batches") == [("planned", None)]


def test_a_signature_that_was_taken_off_after_the_apply_is_missed_where_it_is_required(
    incident: Incident, keys: Keys
) -> None:
    planned(incident)
    strict = incident.work(recon_require_signature=True, recon_allowed_signers=keys.allowed)
    incident.approve("speck=x", by=ALICE, key=keys.alice, work=strict)
    assert incident.run("apply", work=strict).verdict is Verdict.DONE
    assert incident.run("validate", work=strict).verdict is Verdict.DONE
    incident.tamper("UPDATE reconciliation_batches SET approval = approval - 'signature'")
    refused = incident.run("apply", work=strict)
    assert (refused.verdict, refused.code) == (Verdict.NO_GO, "signature_missing")
    found = incident.run("validate", work=strict)
    assert (found.verdict, [check.name for check in found.checks if not check.ok]) == (Verdict.FAILED, ["approved"])
    assert incident.run("validate").verdict is Verdict.DONE, "the control: nobody asks for a signature"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("jsonb_set(approval, '{acknowledgements,speck}', '\"y\"')", "signed, not verified: "),
        ("approval - 'approved_at'", "signed, not verified: the document is malformed"),
        ("jsonb_set(approval, '{approved_at}', '\"then\"')", "signed, not verified: the document is malformed"),
    ],
)
def test_an_approval_that_is_edited_after_the_apply_is_told_and_stops_what_requires_it(
    incident: Incident, keys: Keys, edit: str, said: str
) -> None:
    planned(incident)
    work = strict(incident, keys)
    signed(incident, keys, work=work)
    assert incident.run("apply", work=work).verdict is Verdict.DONE
    before = incident.orders()
    incident.tamper(f"UPDATE reconciliation_batches SET approval = {edit}")
    refused = incident.run("apply", work=work)
    assert (refused.verdict, refused.code) == (Verdict.NO_GO, "signature_invalid")
    assert f"the approval that was applied is {said}" in (refused.message or "")
    found = incident.run("validate", work=work)
    [approved] = [check for check in found.checks if check.name == "approved"]
    assert (found.verdict, found.code, approved.ok) == (Verdict.FAILED, "validation_failed", False)
    assert f"; {said}" in approved.detail
    assert incident.orders() == before


def test_a_kept_approval_that_somebody_else_signed_is_not_the_approvers(tmp_path: Path, keys: Keys) -> None:
    kept = tmp_path / "record" / "03_apply" / "approval.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"action": "apply", "by": ALICE, "items": [], "acknowledgements": {}}))
    signature = kept.with_name("approval.json.sig")
    for key, ok, said in (
        (keys.bob, False, f"it is '{BOB}' who signed, and '{ALICE}' who approved"),
        (keys.alice, True, f"approval.json: signed by {ALICE}"),
    ):
        signature.write_text(sign(kept.read_bytes(), key, PLAN))
        found = approvals_check(tmp_path, {}, keys.allowed)
        assert (found.ok, said in found.detail) == (ok, True), found.detail


def test_where_nobody_says_whose_signatures_count_that_is_told_after_the_apply_too(
    incident: Incident, keys: Keys
) -> None:
    """As before it: the setting is missing, and the approval is as it was."""
    planned(incident)
    signed(incident, keys)
    assert incident.run("apply", work=strict(incident, keys)).verdict is Verdict.DONE
    result = unchanged(incident, "apply", strict(incident, keys, recon_allowed_signers=None))
    assert (result.verdict, result.code) == (Verdict.NO_GO, "allowed_signers_unset"), result.message
