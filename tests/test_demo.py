"""`recon demo`: the whole incident in one command, the same every time, whatever else is configured."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from console import PASSWORD, TOKEN, Answer, Console, assert_no_secret_in, clean_environment, patient_kernels

from recon import demo_run
from recon.demo import EXPECTED
from recon.demo.approval import acknowledgements
from recon.domain import Stage
from recon.reporting.runner import Outcome
from recon.reporting.verify import verify_folder
from recon.settings import Settings

STAGES = {"detect": "01_detect", "dry-run": "02_dry_run", "apply": "03_apply", "validate": "04_validate"}
HOSTILE = {
    "RECON_DATABASE_URL": f"nonsense://{PASSWORD}@nowhere",
    "RECON_EXCHANGE": "ccxt:nothing",
    "RECON_TRADING_STATUS_URL": "http://127.0.0.1:1",
    "RECON_TRADING_STATUS_TOKEN": TOKEN,
    "ENABLE_RECON_EXIT_BACKFILL": "false",
    "RECON_EXIT_BACKFILL_DRY_RUN": "true",
    "RECON_EXIT_BACKFILL_REQUIRE_PAUSE": "true",
    "RECON_EXIT_BACKFILL_DUST_ABS_QTY": "1000000",
    "RECON_EXIT_BACKFILL_DUST_REL_PCT": "1",
    "RECON_EXIT_BACKFILL_LOOKBACK_HOURS": "1",
    "RECON_EXIT_BACKFILL_BASE_FEE": "true",
    "RECON_MAX_BATCH_ROWS": "1",
    "TZ": "Pacific/Chatham",
    "PGTZ": "Asia/Kolkata",
    "PGDATESTYLE": "SQL, DMY",
    "PGOPTIONS": "-c extra_float_digits=-15",
    "PGHOST": "nowhere.invalid",
    "PGPASSWORD": PASSWORD,
    "PYTHONHASHSEED": "4711",
    "LC_ALL": "C",
}
"""Settings of a real installation, each of which would change or stop the demo if it were obeyed."""


class Demo:
    """Two demos in a row in one home: the first hostile and as JSON, the second bare and as text."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.reports = folder / "reports"
        places = {"RECON_HOME": str(home), "RECON_REPORTS_DIR": str(self.reports)}
        self.console = Console(clean_environment() | patient_kernels(folder / "ipython") | places, folder)
        self.first = self.console.but(**HOSTILE)("demo", "--json")
        self.second = self.console("demo")

    def kept(self, batch_id: str) -> dict[str, dict[str, Any]]:
        """The JSON beside each notebook of a batch, without the batch's own name."""
        texts = {stage: (self.reports / batch_id / f"{stem}.json").read_text() for stage, stem in STAGES.items()}
        return {stage: json.loads(text.replace(batch_id, "BATCH")) for stage, text in texts.items()}


@pytest.fixture(scope="module")
def demo(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demos, run once for all tests."""
    return Demo(demo_home, tmp_path_factory.mktemp("demo"))


def test_it_ends_well_with_a_configuration_that_would_stop_it(demo) -> None:
    told = demo.first.json
    assert (demo.first.status, told["ok"], list(told["stages"])) == (0, True, list(STAGES))
    verdicts = {stage: result["verdict"] for stage, result in told["stages"].items()}
    assert verdicts == {"detect": "DONE", "dry-run": "NO_GO", "apply": "DONE", "validate": "DONE"}
    assert Path(told["report"]) == demo.reports / "demo-incident"


def test_it_comes_out_equal_every_time(demo) -> None:
    assert demo.second.status == 0
    assert demo.kept("demo-incident") == demo.kept("demo-incident-2")


def test_every_reason_that_the_incident_was_made_for_appears(demo) -> None:
    found: dict[str, set[str]] = {}
    for item in demo.first.json["stages"]["dry-run"]["items"]:
        found.setdefault(item["trade_id"], set()).add(item["reason"])
    assert found == {trade_id: {reason.value for reason in reasons} for trade_id, reasons in EXPECTED.items()}


def test_what_is_applied_is_what_was_planned_and_validated(demo) -> None:
    stages = demo.first.json["stages"]
    planned = {item["order_id"]: item["qty"] for item in stages["dry-run"]["items"] if item["decision"] == "DRY_RUN"}
    applied = {item["order_id"]: item["qty"] for item in stages["apply"]["items"] if item["decision"] == "APPLIED"}
    assert applied == planned
    assert stages["validate"]["counts"]["APPLIED"] == len(applied)
    assert {stage["plan_digest"] for name, stage in stages.items() if name != "detect"} == {
        stages["dry-run"]["plan_digest"]
    }
    assert all(check["ok"] for name in ("apply", "validate") for check in stages[name]["checks"])


def test_it_says_in_a_few_lines_what_was_found_repaired_and_refused(demo) -> None:
    items = demo.first.json["stages"]["dry-run"]["items"]
    repaired = {item["trade_id"] for item in items if item["decision"] == "DRY_RUN"}
    refused = [item for item in items if item["decision"] == "NO_GO"]
    lines = demo.second.out.splitlines()
    assert len(lines) <= 20
    assert lines[0].split()[:2] == ["found", str(len(EXPECTED))]
    assert lines[1].split()[:2] == ["repaired", str(len(repaired))]
    assert lines[2].split()[:2] == ["refused", str(len({item["trade_id"] for item in refused}))]
    told = {line.split()[1]: int(line.split()[0]) for line in lines if line.startswith(" " * 10)}
    assert told == Counter(item["reason"] for item in refused)
    assert lines[-1].split() == ["report", str(demo.reports / "demo-incident-2" / "index.html")]
    assert Path(lines[-1].split()[1]).is_file()
    assert demo.second.err == ""


def test_its_reports_verify_and_hold_no_secret(demo) -> None:
    for batch_id in ("demo-incident", "demo-incident-2"):
        assert [check for check in verify_folder(demo.reports / batch_id) if not check.ok] == []
    assert assert_no_secret_in(demo.reports) == 2 * (10 * len(STAGES) + 2 + 3 + 3)
    assert demo.console.inside("verify", str(demo.reports / "demo-incident-2")).status == 0


def test_the_acknowledgements_it_was_approved_with_are_in_every_later_report(demo) -> None:
    for stem in ("03_apply", "04_validate"):
        page = (demo.reports / "demo-incident" / f"{stem}.html").read_text()
        for text in acknowledgements():
            assert text.split("=")[0] in page


def test_the_run_cards_show_the_demos_settings_and_not_the_configured_ones(demo) -> None:
    card = (demo.reports / "demo-incident" / "03_apply.ipynb").read_text()
    for name, value in HOSTILE.items():
        if name.startswith("RECON_EXIT_BACKFILL_D"):
            assert f"{name} {value}" not in " ".join(card.split())
    assert "embedded demo, database demo" in card
    assert "(the demo's, unset)" in card
    assert "ccxt" not in card


def test_only_one_demo_runs_at_a_time(demo, demo_home) -> None:
    with (demo_home / "demo.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "Wait for it" in demo.console.inside("demo").refused("demo_running")
        told = demo.console.inside("demo", "--json")
        assert (told.status, told.json["code"]) == (3, "demo_running")
    assert not (demo.reports / "demo-incident-3").exists()


def test_a_flag_that_does_not_parse_is_refused_even_here(demo) -> None:
    answer = demo.console.but(RECON_EXIT_BACKFILL_DRY_RUN="maybe").inside("demo")
    assert answer.refused("settings_invalid", 2).startswith("These settings do not parse: RECON_EXIT_BACKFILL_DRY_RUN")


def test_reports_that_cannot_be_kept_end_it_with_1(demo, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    answer = demo.console.but(RECON_REPORTS_DIR=str(tmp_path / "file")).inside("demo")
    assert answer.refused("reports_unwritable", 1).startswith("Nothing was run: ")


@pytest.mark.parametrize("result", [{"verdict": "FAILED"}, {"verdict": "NO_GO", "code": "audit_unavailable"}])
def test_it_stops_at_a_stage_that_fails_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: dict[str, str]
) -> None:
    """A dry run that is NO_GO without a code goes on: every other demo is the control."""
    results = {Stage.DETECT: {"verdict": "DONE"}, Stage.DRY_RUN: result | {"message": "a reason"}}
    monkeypatch.setattr(demo_run, "reset_demo", lambda _: None)
    monkeypatch.setattr(demo_run, "run_stage", lambda stage, *_, **__: Outcome(results[stage], None, ("a problem",)))
    settings = Settings(recon_home=tmp_path, recon_reports_dir=tmp_path / "reports", _env_file=None)
    finished = demo_run.run_demo(settings, progress=False)
    assert (list(finished.outcomes), finished.exit_status) == ([Stage.DETECT, Stage.DRY_RUN], 1)
    assert finished.document()["ok"] is False
    assert finished.lines() == ["The demo stopped at dry-run: a reason", "a problem"]


def test_the_demo_can_be_taken_back_and_repaired_by_hand_afterwards(demo) -> None:
    """What `recon demo` leaves is an ordinary batch: status names the next command, and rollback works."""
    batch_id = "demo-incident-2"
    told = demo.console.inside("status", "--json").json["batches"]
    assert [(batch["batch_id"], batch["state"]) for batch in told] == [(batch_id, "validated")]
    answer: Answer = demo.console.stage("rollback", "demo", batch_id, "--json")
    assert (answer.status, answer.json["verdict"]) == (0, "DONE")
    assert answer.json["counts"]["CANCELED"] == demo.first.json["stages"]["apply"]["counts"]["APPLIED"]
