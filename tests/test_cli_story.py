"""One incident through the command line, each step the command that `recon status` named (design sections 8 and 11)."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from console import CLOSED, OPENED, PROGRAM, Answer, Console, Place, assert_no_secret, assert_no_secret_in
from incidents import Incident

PROFILE = 'it\'s "q" <b>&amp;</b> \U0001f680 {x} $HOME a:b/c %s'
"""A profile_id with everything that could break a shell, a page, a path or a statement."""

BATCH = "story"
WHY = "moved to another wallet = not a ghost"
RESULT_KEYS = ["stage", "profile_id", "batch_id", "verdict", "plan_digest", "checks", "counts", "items", "report"]
ITEM_KEYS = {
    "trade_id", "symbol", "side", "decision", "reason", "grade", "qty", "price", "filled_at", "exchange_order_id",
    "order_id",
}  # fmt: skip


class Story:
    """The incident, its console, and what each step answered."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.incident, self.console = place.profile(PROFILE)
        self.steps: dict[str, Answer] = {}

    @property
    def folder(self) -> Path:
        return self.place.reports / BATCH

    def next(self) -> str:
        """The command that status names for the batch, as a person would copy it."""
        told = self.console.inside("status", "--profile-id", PROFILE, "--json")
        [batch] = [batch for batch in told.json["batches"] if batch["batch_id"] == BATCH]
        assert batch["next"].startswith("Next: recon ")
        return batch["next"].removeprefix("Next: ")

    def shell(self, step: str, command: str) -> Answer:
        """Type a command into a shell that finds this `recon`."""
        path = f"{PROGRAM.parent}{os.pathsep}{self.console.environment['PATH']}"
        shell = Console(self.console.but(PATH=path).environment, self.console.folder, ("sh", "-c"))
        self.steps[step] = shell(command)
        return self.steps[step]

    def result(self, step: str) -> dict[str, Any]:
        """The JSON object of a step that was run with --json."""
        return self.steps[step].json


@pytest.fixture(scope="module")
def story(place: Place) -> Story:
    """Detect to validate in real processes, following status; every later test asks what happened."""
    told = Story(place)
    incident = told.incident
    incident.ghost("T1", "1.5", opened=OPENED, closed=CLOSED)
    incident.ghost("T2", "0.25", opened=OPENED, closed=CLOSED, symbol="ETH/USD", short=True)
    for number, trade_id in enumerate(["a=b", "a", "a=b=c"]):  # no fill closes these
        incident.row(f"entry-{trade_id}", trade_id, "ENTRY", 3 + number, OPENED, symbol="ADA/USD")
    incident.row("entry-held", "held", "ENTRY", 2, OPENED, symbol="DOT/USD")
    incident.hold("DOT/USD", 2)
    detect = ["recon", "run", "detect", "--profile-id", PROFILE, "--batch-id", BATCH, "--json"]
    told.steps["detect"] = told.console(*detect[1:])
    told.shell("dry-run", told.next())
    command, placeholder, _ = told.next().replace("NAME", "'a reviewer'").partition(" --acknowledge TRADE_ID=WHY")
    told.shell("approve as told", command + placeholder)
    told.shell("approve without", command)
    acknowledged = [f"--acknowledge '{trade_id}={WHY}'" for trade_id in ("a=b=c", "a", "held")]
    told.shell("approve without one", " ".join([command, *acknowledged]))
    told.shell("approve", " ".join([command, *acknowledged, f"--acknowledge 'a=b={WHY}'"]))
    told.shell("apply", told.next() + " --json")
    told.steps["apply again"] = told.console.stage("apply", PROFILE, BATCH, "--json")
    told.shell("validate", told.next())
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place.folder / "story-key")]
    subprocess.run(command, check=True)
    told.shell("sign", told.next().replace("PATH", str(place.folder / "story-key")))
    told.shell("verify", told.next())
    return told


def test_every_step_ended_as_it_had_to(story) -> None:
    assert {step: answer.status for step, answer in story.steps.items()} == {
        "detect": 0, "dry-run": 3, "approve as told": 3, "approve without": 3, "approve without one": 3,
        "approve": 0, "apply": 0, "apply again": 0, "validate": 0, "sign": 0, "verify": 0,
    }  # fmt: skip


def test_the_json_object_is_the_one_that_scripts_rely_on(story) -> None:
    for step in ("detect", "apply", "apply again"):
        assert list(story.result(step))[: len(RESULT_KEYS)] == RESULT_KEYS
    applied = story.result("apply")
    assert (applied["stage"], applied["profile_id"], applied["batch_id"]) == ("apply", PROFILE, BATCH)
    assert all(set(item) == ITEM_KEYS for item in applied["items"])
    assert all(sorted(check) == ["detail", "name", "ok"] for check in applied["checks"])
    assert applied["counts"] == {"APPLIED": 2, "NO_GO": 5}
    written = [item for item in applied["items"] if item["decision"] == "APPLIED"]
    assert [(item["trade_id"], item["side"], item["qty"], item["price"], item["grade"]) for item in written] == [
        ("T1", "sell", "1.5", "110", "exact"),
        ("T2", "buy", "0.25", "110", "exact"),
    ]
    assert Path(applied["report"]) == story.folder / "03_apply.ipynb"


def test_what_is_written_is_what_the_dry_run_showed_and_nothing_else(story) -> None:
    assert {(row["trade_id"], row["quantity"], row["status"]) for row in story.incident.backfills()} == {
        ("T1", Decimal("1.5"), "filled"),
        ("T2", Decimal("0.25"), "filled"),
    }
    assert len(story.incident.backfills()) == 2
    assert set(story.incident.open_quantities()) == {"a", "a=b", "a=b=c", "held"}


def test_without_json_the_verdict_every_failed_check_and_every_reason_are_printed(story) -> None:
    out = story.steps["dry-run"].out
    assert out.startswith(f"dry-run: NO_GO (profile {PROFILE}, batch {BATCH})\n")
    assert "  check failed: no_target_is_no_go: reasons found: exchange_not_flat, missing_fill_evidence" in out
    assert "  DRY_RUN fill_evidence: 2\n" in out
    assert "  NO_GO missing_fill_evidence_for_large_remainder: 4\n" in out
    assert "  NO_GO exchange_not_flat: 1\n" in out
    assert out.endswith(f"  report: {story.folder / '02_dry_run.ipynb'}\n")
    assert story.steps["dry-run"].err == ""
    assert story.steps["validate"].out.startswith(f"validate: DONE (profile {PROFILE}, batch {BATCH})\n")


def test_approve_names_what_is_missing_and_the_longest_trade_id_counts(story) -> None:
    assert "'TRADE_ID=WHY'" in story.steps["approve as told"].refused("unknown_trade")
    everything = story.steps["approve without"].refused("acknowledgements_missing")
    reason = "missing_fill_evidence_for_large_remainder"
    for trade_id in ("a", "a=b", "a=b=c"):
        assert f" {trade_id} ({reason})" in everything
    assert " held (exchange_not_flat, missing_fill_evidence_for_large_remainder)" in everything
    assert "T1" not in everything
    missing = story.steps["approve without one"].refused("acknowledgements_missing")
    assert missing.endswith(f": a=b ({reason}).")
    lines = story.steps["approve"].out.splitlines()
    assert lines[0].startswith("to be written: 2 rows of plan ")
    assert {f"acknowledged {trade_id}: {WHY}" for trade_id in ("a", "a=b", "a=b=c", "held")} <= set(lines)
    assert re.fullmatch(r"valid until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", lines[-3])
    assert lines[-2:] == ["by a reviewer, without a signature", "approved by a reviewer, not signed"]


def test_applying_again_compares_and_writes_nothing(story) -> None:
    again = story.result("apply again")
    assert (again["verdict"], again["counts"]) == ("DONE", {"SKIP_EXISTING": 2})
    assert Path(again["report"]).name == "03_apply.2.ipynb"
    assert len(story.incident.backfills()) == 2


def test_the_folder_holds_every_run_three_times_and_describes_itself(story) -> None:
    stems = ["01_detect", "02_dry_run", "03_apply", "03_apply.2", "04_validate"]
    expected = {f"{stem}.{suffix}" for stem in stems for suffix in ("ipynb", "html", "json")}
    names = {path.name for path in story.folder.iterdir() if not path.name.startswith("05_")}
    assert names == expected | {"index.html", "SHA256SUMS", "manifest.json", "manifest.json.sig"} | {
        "evidence",
        "record",
        "manifests",
    }
    for name in expected:
        assert (story.folder / name).stat().st_mode & 0o222 == 0
    assert json.loads((story.folder / "manifest.json").read_text())["predicate"]["profile_id"] == PROFILE
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=story.folder, check=True)


def test_no_page_takes_the_profile_for_markup(story) -> None:
    for page in story.folder.glob("*.html"):
        text = page.read_text()
        assert "<b>&amp;</b>" not in text, page.name
        assert "<script" not in text.lower(), page.name


def test_verify_says_that_folder_and_database_agree(story) -> None:
    lines = story.steps["verify"].out.splitlines()
    assert all(line.startswith("ok   ") for line in lines)
    assert [line[5:].split(":")[0] for line in lines] == [
        "sums_match", "nothing_unlisted", "manifest_agrees", "notebooks_sealed", "json_equals_seal", "one_batch",
        "records_agree", "manifests_chained", "approvals", "signature",
        "database", "state", "plan_digest", "stored_plan", "approval", "audit_rows", "order_rows",
        "recorded_audit", "recorded_orders", "recorded_batch",
    ]  # fmt: skip


def test_verify_finds_one_changed_byte_in_any_file(story, tmp_path) -> None:
    """One bit of one byte, anywhere, in each of the files in turn; the copy itself verifies before and after."""
    folder = tmp_path / BATCH
    shutil.copytree(story.folder, folder)
    assert story.console.inside("verify", str(folder)).status == 0
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert len(names) >= 18 + 16
    dice = random.Random(4711)
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        path.chmod(0o644)
        at = dice.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(7)]) + whole[at + 1 :])
        answer = story.console.inside("verify", str(folder), "--json")
        assert (answer.status, answer.json["ok"]) == (1, False), (name, at)
        path.write_bytes(whole)
    assert story.console.inside("verify", str(folder)).status == 0
    (folder / "note.txt").write_text("not of recon")
    assert "FAIL nothing_unlisted: note.txt is not listed." in story.console.inside("verify", str(folder)).out


def test_verify_finds_one_changed_row_of_orders(story) -> None:
    changed = story.incident.backfills("order_id")[0]["order_id"]
    words = ("verify", str(story.folder))
    for change, back in (("price = price + 0.01", "price = 110"), ("status = 'canceled'", "status = 'filled'")):
        story.incident.sql(f"UPDATE orders SET {change} WHERE order_id = %s AND profile_id = %s", changed, PROFILE)
        answer = story.console.inside(*words)
        assert answer.status == 1
        assert f"FAIL order_rows: {changed} " in answer.out
        story.incident.sql(f"UPDATE orders SET {back} WHERE order_id = %s AND profile_id = %s", changed, PROFILE)
    assert story.console.inside(*words).status == 0


def test_verify_finds_who_ran_a_stage_and_who_approved_it_in_the_report(story) -> None:
    """The actor is in the run card alone, the approver in the sealed result."""
    words = ("verify", str(story.folder))
    table, own = "reconciliation_backfill_audit", f"batch_id = '{BATCH}'"
    for decision, actor in (("DRY_RUN", "tester"), ("APPLIED", "tester"), ("PENDING_APPLY", "a reviewer")):
        story.incident.tamper(f"UPDATE {table} SET actor = 'mallory' WHERE {own} AND decision = '{decision}'")
        answer = story.console.inside(*words)
        assert f"FAIL audit_rows: {decision} BFILL-" in answer.out
        assert f" has actor mallory, reported {actor}" in answer.out
        story.incident.tamper(f"UPDATE {table} SET actor = '{actor}' WHERE {own} AND decision = '{decision}'")
    assert story.console.inside(*words).status == 0


def test_status_shows_this_profile_alone_or_all_and_what_is_next(story, place) -> None:
    place.profile("bystander", "T1")
    assert place.console.inside("status", "--profile-id", "nobody").out.startswith("no batch yet")
    told = story.console.inside("status", "--profile-id", PROFILE, "--json").json
    [batch] = told["batches"]
    assert (batch["batch_id"], batch["profile_id"], batch["updated_by"]) == (BATCH, PROFILE, "tester")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", batch["updated_at"])
    assert any(line.startswith(f"{BATCH}  ") for line in story.console.inside("status").out.splitlines())


def test_zz_rollback_takes_it_back_and_ends_the_batch(story) -> None:
    """Runs last: what the tests above look at is undone here."""
    incident: Incident = story.incident
    before = incident.bystanders()
    incident.sql("UPDATE orders SET price = 111 WHERE order_id LIKE 'BFILL-%%' AND trade_id = 'T1'")
    invalid = story.console.stage("validate", PROFILE, BATCH)
    assert invalid.status == 1
    assert invalid.out.startswith("validate: FAILED")
    assert "  validation_failed: These checks failed: applied_rows_identical." in invalid.out
    assert "  check failed: applied_rows_identical: BFILL-" in invalid.out
    changed = story.console.stage("rollback", PROFILE, BATCH, "--json")
    assert (changed.status, changed.json["verdict"], changed.json["code"]) == (3, "NO_GO", "row_changed")
    incident.sql("UPDATE orders SET price = 110 WHERE order_id LIKE 'BFILL-%%' AND trade_id = 'T1'")
    rolled = story.console.stage("rollback", PROFILE, BATCH, "--json")
    assert (rolled.status, rolled.json["verdict"], rolled.json["counts"]) == (
        0,
        "DONE",
        {"CANCELED": 2, "LEFT_ALONE": 0},
    )
    again = story.console.stage("rollback", PROFILE, BATCH, "--json")
    assert (again.status, again.json["counts"]["CANCELED"]) == (0, 0)
    assert set(incident.open_quantities()) == {"T1", "T2", "a", "a=b", "a=b=c", "held"}
    assert incident.statuses() == ["canceled", "canceled"]
    assert incident.bystanders() == before
    refused = story.console.stage("apply", PROFILE, BATCH)
    assert refused.status == 3
    assert f"  illegal_transition: Batch {BATCH} is rolled_back; apply is not possible." in refused.out
    assert story.next() == "recon run detect with a new batch_id, to repair it again"
    assert story.console.inside("verify", str(story.folder)).status == 0


def test_zz_nothing_that_was_written_holds_a_secret(story) -> None:
    assert assert_no_secret_in(story.folder) > 20
    for name in ("reconciliation_backfill_audit", "reconciliation_batches", "reconciliation_events"):
        assert_no_secret(str(story.incident.sql(f"SELECT t::text FROM {name} AS t")))
