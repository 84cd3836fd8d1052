"""`recon sign`: the folder and the database must hold, then a person's signature closes the incident."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from console import Place
from incidents import pause_switch
from tampering import OTHER, SIGNER, Kept, Keys, files, keep, make_key

from recon import sign_off
from recon.domain import Check
from recon.embedded import EmbeddedServer
from recon.reporting.files import replace_file
from recon.reporting.verify import verify_folder


@pytest.fixture(scope="module")
def installed(
    servers: Callable[[str], EmbeddedServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Keys]]:
    server = servers("pg18")
    server.create_database("signing")
    folder = tmp_path_factory.mktemp("signing")
    with pause_switch() as switch:
        yield Place(server.url("signing"), folder, switch), Keys(folder)
    server.drop_database("signing")


@pytest.fixture(scope="module")
def validated(installed: tuple[Place, Keys]) -> Kept:
    """A batch that is validated, and not signed when a test begins and ends."""
    return keep(*installed, "validated", ("apply", "validate"))


@pytest.fixture
def kept(validated: Kept) -> Iterator[Kept]:
    before = {name: (validated.folder / name).read_bytes() for name in files(validated.folder)}
    yield validated
    for name in files(validated.folder):
        if name not in before:
            (validated.folder / name).unlink()
    for name, data in before.items():
        replace_file(validated.folder / name, data)
    validated.incident.sql("UPDATE reconciliation_batches SET state = 'validated' WHERE batch_id = 'validated'")


def sign(kept: Kept, name: str = SIGNER, *more: str, **settings: str | None):
    words = ("sign", "--batch-id", kept.batch, "--key", kept.keys.of(name), *more)
    return kept.console.but(**settings).inside(*words)


def verify(kept: Kept, *more: str) -> str:
    answer = kept.console.inside("verify", str(kept.folder), *more)
    assert answer.status == 0, answer.out
    return answer.out


def status(kept: Kept) -> dict[str, str]:
    told = kept.console.inside("status", "--profile-id", kept.incident.profile, "--json").json["batches"]
    [found] = [batch for batch in told if batch["batch_id"] == kept.batch]
    return dict(found)


def test_signing_closes_the_incident_and_says_by_whom(kept) -> None:
    assert status(kept)["next"] == "Next: recon sign --batch-id validated --key PATH"
    assert "ok   signature: not signed" in verify(kept)
    answer = sign(kept)
    assert answer.status == 0, answer
    assert answer.out.splitlines()[:2] == [
        "signed: the report of batch validated",
        f"  by {SIGNER} (as the allowed-signers file names them)",
    ]
    told = status(kept)
    assert (told["state"], told["updated_by"]) == ("signed", SIGNER)
    assert told["next"] == f"Next: recon verify {kept.folder}"
    out = verify(kept)
    assert f"ok   signature: manifest.json is signed by {SIGNER}" in out
    assert "ok   state: the reports say signed, the database signed" in out
    assert f"ok   approvals: record/03_apply/approval.json, record/04_validate/approval.json: signed by {SIGNER}" in out
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=kept.folder, check=True)


def test_anybody_can_check_it_with_ssh_keygen_alone(kept) -> None:
    assert sign(kept).status == 0
    command = ["ssh-keygen", "-Y", "verify", "-f", str(kept.keys.allowed), "-I", SIGNER, "-n", "recon-report"]
    command += ["-s", "manifest.json.sig"]
    data = (kept.folder / "manifest.json").read_bytes()
    subprocess.run(command, cwd=kept.folder, input=data, check=True, capture_output=True)
    wrong = [word if word != "recon-report" else "recon-plan" for word in command]
    assert subprocess.run(wrong, cwd=kept.folder, input=data, check=False, capture_output=True).returncode != 0


def test_signing_again_with_the_same_key_changes_nothing(kept) -> None:
    assert sign(kept).status == 0
    before = {name: (kept.folder / name).read_bytes() for name in files(kept.folder)}
    told = sign(kept, SIGNER, "--json").json
    assert {name: (kept.folder / name).read_bytes() for name in files(kept.folder)} == before
    assert (told["state"], told["by"], told["verified"]) == ("signed", SIGNER, True)
    assert told.keys() == {"batch_id", "profile_id", "state", "by", "verified", "manifest_sha256", "signature"}


def test_another_person_may_sign_too_and_both_signatures_are_kept(kept) -> None:
    assert sign(kept).status == 0
    assert sign(kept, OTHER).status == 0
    replaced = "manifests/4.json, which was replaced since,"
    said = f"ok   signature: {replaced} is signed by {SIGNER}; manifest.json is signed by {OTHER}"
    assert said in verify(kept)


def test_without_allowed_signers_it_is_signed_and_not_verified(kept) -> None:
    answer = sign(kept, SIGNER, RECON_ALLOWED_SIGNERS=None)
    assert answer.out.splitlines()[1] == "  by tester (not verified: RECON_ALLOWED_SIGNERS is unset)"
    alone = kept.console.but(RECON_ALLOWED_SIGNERS=None)
    out = alone.inside("verify", str(kept.folder)).out
    assert "ok   signature: manifest.json is signed, not verified: RECON_ALLOWED_SIGNERS is unset" in out
    named = alone.inside("verify", str(kept.folder), "--allowed-signers", str(kept.keys.allowed)).out
    assert f"ok   signature: manifest.json is signed by {SIGNER}" in named


def test_who_is_named_must_be_who_signs(kept) -> None:
    before = files(kept.folder)
    said = sign(kept, SIGNER, "--by", OTHER).refused("signer_mismatch")
    assert f"{SIGNER!r}, expected {OTHER!r}" in said
    stranger = kept.keys.folder / "stranger"
    if not stranger.exists():
        make_key(stranger)
    sign(kept, "stranger@x").refused("signature_invalid")
    sign(kept, "nobody@x").refused("key_unusable")
    sign(kept, SIGNER, RECON_ALLOWED_SIGNERS="/nowhere").refused("allowed_signers_unreadable", 2)
    assert files(kept.folder) == before
    assert status(kept)["state"] == "validated"


def test_a_folder_that_does_not_hold_is_not_signed_and_what_fails_is_named(kept) -> None:
    replace_file(kept.folder / "03_apply.html", b"<p>a kinder page</p>")
    said = sign(kept).refused("report_not_intact")
    assert "sums_match: 03_apply.html was changed." in said
    assert not (kept.folder / "manifest.json.sig").exists()
    assert status(kept)["state"] == "validated"


def test_a_database_that_disagrees_is_not_signed_and_the_row_is_named(kept) -> None:
    changed = kept.incident.backfills()[0]["order_id"]
    kept.incident.sql("UPDATE orders SET price = price + 1 WHERE order_id = %s", changed)
    said = sign(kept).refused("report_not_intact")
    kept.incident.sql("UPDATE orders SET price = price - 1 WHERE order_id = %s", changed)
    assert f"order_rows: {changed} differs in price" in said
    assert not (kept.folder / "manifest.json.sig").exists()


@pytest.mark.parametrize("state", ["detected", "planned", "approved", "applied"])
def test_only_what_is_finished_can_be_signed(kept, state) -> None:
    kept.incident.sql("UPDATE reconciliation_batches SET state = %s WHERE batch_id = 'validated'", state)
    assert f"is {state}; sign is not possible" in sign(kept).refused("illegal_transition")
    assert not (kept.folder / "manifest.json.sig").exists()


def test_what_is_not_there_cannot_be_signed(kept) -> None:
    console, key = kept.console, kept.keys.of(SIGNER)
    console.inside("sign", "--batch-id", "never-heard-of", "--key", key).refused("unknown_batch")
    console.inside("sign", "--batch-id", "../x", "--key", key).refused("malformed_batch_id", 2)
    elsewhere = console.but(RECON_REPORTS_DIR=str(kept.keys.folder / "elsewhere"))
    said = elsewhere.inside("sign", "--batch-id", kept.batch, "--key", key).refused("report_not_intact")
    assert "is not a folder" in said


def test_a_fault_between_signature_and_commit_is_completed_by_signing_again(kept, monkeypatch) -> None:
    """The signature is there and the batch is not signed: verify says so, and signing again is all it takes."""
    with monkeypatch.context() as patch:
        patch.setattr(sign_off.batches, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sign(kept).status == 1
    assert (kept.folder / "manifest.json.sig").exists()
    assert status(kept)["state"] == "validated"
    answer = kept.console.inside("verify", str(kept.folder))
    assert "FAIL state: the reports say signed, the database validated" in answer.out
    assert sign(kept).status == 0
    verify(kept)


def test_a_signature_that_is_taken_away_is_found(kept) -> None:
    assert sign(kept).status == 0
    (kept.folder / "manifest.json.sig").unlink()
    assert "manifest.json.sig is missing." in kept.console.inside("verify", str(kept.folder)).out
    lines = (kept.folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    replace_file(
        kept.folder / "SHA256SUMS", "".join(line for line in lines if ".sig\n" not in line[60:] or "/" in line).encode()
    )
    assert all(check.ok for check in verify_folder(kept.folder, kept.keys.allowed)), "offline it was never signed"
    answer = kept.console.inside("verify", str(kept.folder))
    said = "FAIL state: the reports say validated, the database signed; the report was signed, and the signature is not"
    assert f"{said} here: most likely it was taken away" in answer.out
    assert "can be run again" not in answer.out


def test_a_manifest_that_changes_while_it_is_verified_is_not_signed(kept, monkeypatch) -> None:
    """What was verified is what is signed: a stage that ends meanwhile is for the next attempt."""

    def slow(*arguments: object, **options: bool) -> list[Check]:
        checks = real(*arguments, **options)
        sign_off.describe(kept.folder, kept.incident.profile, anew=True)
        return checks

    real = sign_off.database_checks
    monkeypatch.setattr(sign_off, "database_checks", slow)
    assert "got another manifest while it was verified" in sign(kept).refused("report_not_intact")
    assert (status(kept)["state"], (kept.folder / "manifest.json.sig").exists()) == ("validated", False)


def test_a_manifest_that_changes_while_a_person_signs_is_not_signed(kept, monkeypatch) -> None:
    def slow(*arguments: object) -> str:
        signature = real(*arguments)
        sign_off.describe(kept.folder, kept.incident.profile, anew=True)
        return signature

    real = sign_off.sign
    monkeypatch.setattr(sign_off, "sign", slow)
    assert "has another manifest by now" in sign(kept).refused("report_not_intact")
    assert status(kept)["state"] == "validated"
    monkeypatch.undo()
    assert sign(kept).status == 0
    verify(kept)


def test_later_stages_make_a_manifest_without_signature_and_the_batch_follows(installed) -> None:
    """Runs over a batch of its own: signed, refused, validated, signed, rolled back, signed."""
    kept = keep(*installed, "later", ("apply", "validate", "sign"))
    assert kept.console.stage("detect", kept.incident.profile, "later").status == 3
    out = verify(kept)
    assert "ok   state: the reports say signed, the database signed" in out, "a refusal changes nothing"
    replaced = f"manifests/4.json, which was replaced since, is signed by {SIGNER}"
    assert f"ok   signature: {replaced}; manifest.json itself is not signed" in out
    assert kept.console.stage("validate", kept.incident.profile, "later").status == 0
    assert "ok   state: the reports say validated, the database validated" in verify(kept)
    assert status(kept)["next"] == "Next: recon sign --batch-id later --key PATH"
    assert sign(kept).status == 0
    assert kept.console.stage("rollback", kept.incident.profile, "later").status == 0
    verify(kept)
    told = sign(kept, OTHER, "--json").json
    assert told["state"] == "rolled_back"
    out = verify(kept)
    assert (
        f"manifests/6.json, which was replaced since, is signed by {SIGNER}; manifest.json is signed by {OTHER}" in out
    )
    assert "ok   state: the reports say rolled_back, the database rolled_back" in out


def test_a_copy_of_another_batch_s_folder_is_not_signed(installed, kept) -> None:
    other = keep(*installed, "copied", ("apply", "validate"))
    shutil.rmtree(other.folder)
    shutil.copytree(kept.folder, other.folder)
    assert "batch 'validated', expected" in sign(other).refused("report_not_intact")
    assert status(other)["state"] == "validated"
    assert not (other.folder / "manifest.json.sig").exists()
    assert "note: the folder is named 'copied', the batch 'validated'" in verify(other)
    assert "note: the folder" not in verify(kept)


def test_a_file_that_changes_while_a_person_signs_is_found_before_the_signature(kept, monkeypatch) -> None:
    honest = sign_off.sign

    def changing(*given):
        replace_file(kept.folder / "01_detect.html", b"changed")
        return honest(*given)

    monkeypatch.setattr(sign_off, "sign", changing)
    assert "01_detect.html was changed" in sign(kept).refused("report_not_intact")
    assert status(kept)["state"] == "validated"
    assert not (kept.folder / "manifest.json.sig").exists()


def test_a_required_signature_that_was_taken_away_fails(kept) -> None:
    found = {check.name: check for check in verify_folder(kept.folder, kept.keys.allowed, require_signature=True)}
    assert not found["signature"].ok
    assert "expected a signature of manifest.json" in found["signature"].detail
    assert f"going by {kept.keys.allowed}" in found["signature"].detail
    answer = kept.console.inside("verify", str(kept.folder), "--require-signature")
    assert answer.status == 1, answer
    assert "FAIL signature: expected a signature" in answer.out
    strict = kept.console.but(RECON_REQUIRE_SIGNATURE="true").inside("verify", str(kept.folder))
    unsigned = (kept.folder / "record/03_apply/approval.json.sig").exists() is False
    assert (strict.status == 1, "FAIL approvals: " in strict.out) == (unsigned, unsigned)
    assert "ok   signature: not signed" in strict.out
    assert "ok   signature: not signed" in verify(kept)
    assert sign(kept).status == 0
    found = {check.name: check for check in verify_folder(kept.folder, kept.keys.allowed, require_signature=True)}
    assert found["signature"].ok, found
    assert found["approvals"].ok is not unsigned, found
    blind = {check.name: check.ok for check in verify_folder(kept.folder, require_signature=True)}
    assert (blind["signature"], blind["approvals"]) == (False, False)
