"""Signed approvals on the command line, and through the notebooks that apply and roll back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from console import Place
from signers import ALICE, BOB, Keys


def words(batch: str, by: str, key: Path | None, *more: str) -> tuple[str, ...]:
    signing = ("--key", str(key)) if key else ()
    return ("approve", "--batch-id", batch, "--by", by, *signing, *more)


def test_on_the_command_line_and_through_the_notebooks(place: Place, keys: Keys) -> None:
    """With the files named in `.env`, relative to it: the kernel that applies finds the same."""
    incident, console = place.profile("signed", "t1")
    settings = place.folder / "signing"
    settings.mkdir()
    (settings / "signers").write_text(keys.allowed.read_text())
    (settings / ".env").write_text("RECON_REQUIRE_SIGNATURE=true\nRECON_ALLOWED_SIGNERS=signers\n")
    console = console.but(settings)
    assert console.stage("detect", "signed", "sign-1").status == 0
    assert console.stage("dry-run", "signed", "sign-1").status == 0
    assert "Next: recon approve --batch-id sign-1 --by NAME --key PATH" in console.inside("status").out
    assert "--key PATH" in console.inside(*words("sign-1", ALICE, None)).refused("signature_missing")
    assert BOB in console.inside(*words("sign-1", ALICE, keys.bob)).err
    strange = console.inside(*words("sign-1", ALICE, keys.stranger, "--json"))
    assert (strange.status, strange.json["code"]) == (3, "signature_invalid")
    approved = console(*words("sign-1", ALICE, keys.alice))
    assert approved.status == 0, approved.err
    first, *_, last = approved.out.splitlines()
    assert first.startswith("to be written: 1 row of plan ")
    assert last == f"approved by {ALICE}, signed by {ALICE} (verified)"
    applied = console.stage("apply", "signed", "sign-1")
    assert applied.status == 0, applied.out
    report = json.loads((place.reports / "sign-1" / "03_apply.json").read_text())
    assert report["checks"][0]["detail"].endswith(f"; signed by {ALICE} (verified)")
    assert len(incident.backfills()) == 1
    refused = console.stage("rollback", "signed", "sign-1")
    assert (refused.status, "rollback_not_approved" in refused.out) == (3, True)
    given = console.inside(*words("sign-1", BOB, keys.bob, "--rollback", "--json")).json
    assert (given["action"], given["rows"], given["signed"]) == ("rollback", 1, f"signed by {BOB} (verified)")
    assert given["signature"].startswith("-----BEGIN SSH SIGNATURE-----")
    assert console.stage("rollback", "signed", "sign-1").status == 0
    assert incident.statuses() == ["canceled"]
    page = (place.reports / "sign-1" / "index.html").read_text()
    assert "the batch was <strong>rolled_back</strong>." in page
    assert f"The plan was approved by {ALICE}, with a signature by the key {key_of(keys.alice)}." in page
    assert f"Its rollback was approved by {BOB}, with a signature by the key {key_of(keys.bob)}." in page
    verified = console.inside("verify", str(place.reports / "sign-1"))
    assert verified.status == 0, verified.out
    assert "ok   approval: " in verified.out
    assert "ok   rollback_approval: " in verified.out
    incident.sql("UPDATE reconciliation_batches SET approval = approval - 'signature' WHERE batch_id = 'sign-1'")
    stripped = console.inside("verify", str(place.reports / "sign-1")).out
    assert f"FAIL approval: the report says by '{ALICE}'" in stripped
    assert "; not signed" in stripped
    incident.sql(
        """UPDATE reconciliation_batches SET rollback_approval = jsonb_set(rollback_approval, '{by}', '"x"')
           WHERE batch_id = 'sign-1'"""
    )
    assert "FAIL rollback_approval: " in console.inside("verify", str(place.reports / "sign-1")).out


def key_of(private: Path) -> str:
    """How ssh-keygen itself names a key."""
    said = subprocess.run(["ssh-keygen", "-l", "-f", f"{private}.pub"], capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


def test_an_apply_that_was_not_signed_is_refused_through_the_notebook(place: Place, keys: Keys) -> None:
    incident, console = place.profile("unsigned", "t1")
    for stage in ("detect", "dry-run"):
        assert console.stage(stage, "unsigned", "sign-2").status == 0
    assert console.approve("sign-2").out.endswith("approved by a reviewer, not signed\n")
    required = console.but(RECON_REQUIRE_SIGNATURE="true", RECON_ALLOWED_SIGNERS=str(keys.allowed))
    told = "Next: recon approve --batch-id sign-2 --by NAME --key PATH\n"
    assert told in required.inside("status", "--profile-id", "unsigned").out
    answer = required.stage("apply", "unsigned", "sign-2")
    assert (answer.status, "signature_missing: " in answer.out) == (3, True)
    assert incident.backfills() == []
    assert "Next: recon run apply " in console.inside("status", "--profile-id", "unsigned").out
    assert console.stage("apply", "unsigned", "sign-2").status == 0


def test_what_is_malformed_or_unusable_has_its_exit_status(place: Place, keys: Keys) -> None:
    _, console = place.profile("unusable", "t1")
    for stage in ("detect", "dry-run"):
        assert console.stage(stage, "unusable", "sign-3").status == 0
    assert console.inside(*words("sign-3", ALICE, None, "--rollback")).refused("illegal_transition")
    nowhere = console.but(RECON_ALLOWED_SIGNERS=str(keys.folder / "nowhere"))
    assert nowhere.inside(*words("sign-3", ALICE, keys.alice, "--json")).json["code"] == "allowed_signers_unreadable"
    locked = keys.folder / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", str(locked)], check=True)
    answer = console(*words("sign-3", ALICE, locked, "--json"))
    assert (answer.status, answer.json["code"]) == (3, "key_unusable")
    assert "There is no terminal" in answer.json["message"]


def test_a_report_from_before_signatures_were_required_is_compared_with_the_database(place: Place, keys: Keys) -> None:
    """What is missing fails; it does not withhold what the database says. What is wrong does."""
    incident, console = place.profile("before", "t1")
    for stage in ("detect", "dry-run"):
        assert console.stage(stage, "before", "sign-4").status == 0
    assert console.approve("sign-4").status == 0
    for stage in ("apply", "validate"):
        assert console.stage(stage, "before", "sign-4").status == 0
    folder = str(place.reports / "sign-4")
    required = console.but(RECON_REQUIRE_SIGNATURE="true", RECON_ALLOWED_SIGNERS=str(keys.allowed))
    blind = required.but(RECON_ALLOWED_SIGNERS=None)
    for strict, more in ((required, ()), (console, ("--require-signature",)), (blind, ("--require-signature",))):
        answer = strict.inside("verify", folder, *more)
        assert answer.status == 1, answer
        failed = [line for line in answer.out.splitlines() if line.startswith("FAIL ")]
        assert [line.split(": ")[0] for line in failed] == ["FAIL approvals", *["FAIL signature"][: len(more)]]
        assert "if signatures were not required then, verify without requiring them" in failed[0]
        assert "ok   order_rows: 1 row as reported" in answer.out
    assert console.inside("verify", folder).status == 0
    [row] = incident.backfills()
    incident.sql("UPDATE orders SET price = price + 1 WHERE order_id = %s", row["order_id"])
    assert "differs in price" in required.inside("verify", folder).out
    page = place.reports / "sign-4" / "01_detect.html"
    page.chmod(0o644)
    page.write_text("<p>a kinder page</p>")
    untrustworthy = required.inside("verify", folder).out
    assert "FAIL database: not compared: a check of the folder failed" in untrustworthy
    assert "order_rows" not in untrustworthy


def test_a_signature_that_is_wrong_withholds_the_database(place: Place, keys: Keys) -> None:
    """One that is not verified for want of a file is missing, like none; one of a key that does not count is wrong."""
    _, console = place.profile("wrong", "t1")
    for stage in ("detect", "dry-run"):
        assert console.stage(stage, "wrong", "sign-5").status == 0
    assert console.inside(*words("sign-5", ALICE, keys.alice)).status == 0
    assert console.stage("apply", "wrong", "sign-5").status == 0
    folder = str(place.reports / "sign-5")
    required = console.but(RECON_REQUIRE_SIGNATURE="true")
    unverified = required.inside("verify", folder)
    assert (unverified.status, "ok   order_rows: 1 row as reported" in unverified.out) == (1, True), unverified
    assert "Name whose signatures count with RECON_ALLOWED_SIGNERS" in unverified.out
    keys.allow(f"{BOB} {keys.public('bob')}")
    wrong = required.but(RECON_ALLOWED_SIGNERS=str(keys.allowed)).inside("verify", folder, "--require-signature")
    assert wrong.status == 1
    assert "FAIL approvals: record/03_apply/approval.json.sig does not sign" in wrong.out
    assert "FAIL database: not compared" in wrong.out
