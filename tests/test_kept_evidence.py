"""Every report keeps what the exchange said to it: listed, read-only, free of secrets, and good for the same plan."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from console import CLOSED, OPENED, Console, assert_no_secret_in, clean_environment
from incidents import at
from nbformat.v4 import new_code_cell, new_notebook
from report_samples import NOTEBOOKS, failed
from venue.scenario import balance, leg, order, scenario, trade
from venue.server import KEYS, VenueServer

from recon.demo import DEMO_PROFILE
from recon.domain import Stage, Wanted
from recon.errors import ReconError
from recon.reporting.manifest import read_manifest
from recon.reporting.runner import Outcome, run_stage
from recon.settings import Settings
from recon.venues.archive import write_statement
from recon.venues.live.client import Access
from recon.venues.live.source import CcxtExchange
from recon.venues.statement import StatementExchange
from recon.workspace import RUN_VARIABLE

FILES = ["fills.csv", "open_orders.csv", "positions.csv", "statement.json"]

FETCH = """
import json, os
from datetime import UTC, datetime
from pathlib import Path
from recon.domain import Snapshot, Stage, StageResult, Verdict, Window
from recon.reporting.seal import seal
from recon.venues.archive import write_statement

folder = Path(json.loads(os.environ["RECON_RUN"])["evidence"])
window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))

def fetch(positions=(), *notes):
    write_statement(folder, Snapshot("acme", window, (), positions, (), notes), profile_id)

result = StageResult(Stage.DRY_RUN, profile_id, batch_id, Verdict.GO)
"""
"""What a stage's notebook does with the exchange, without one."""


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(recon_reports_dir=tmp_path / "reports", _env_file=None)


@pytest.fixture
def folder(settings) -> Path:
    return settings.recon_reports_dir / "batch-1"


def run(settings: Settings, *cells: str) -> Outcome:
    """A dry run whose notebook has these cells after the one that can fetch."""
    tagged = new_code_cell('profile_id = "demo"\nbatch_id = "b"', metadata={"tags": ["parameters"]})
    cells = [tagged, *map(new_code_cell, (FETCH, *cells, "seal(result)"))]
    path = settings.recon_reports_dir.parent / "notebook.ipynb"
    nbformat.write(
        new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
        ),
        path,
    )
    return run_stage(Stage.DRY_RUN, "demo", "batch-1", settings=settings, notebook=path)


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def coreutils(folder: Path) -> None:
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)


def test_what_was_fetched_is_kept_beside_the_report(settings, folder) -> None:
    outcome = run(settings, "fetch()")
    assert (outcome.result["verdict"], outcome.problems) == ("GO", ())
    kept = folder / "evidence" / "02_dry_run"
    assert below(kept) == FILES
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o444}
    assert kept.stat().st_mode == folder.stat().st_mode
    listed = {entry["name"]: entry for entry in read_manifest(folder).files}
    assert [name for name in listed if name.startswith("evidence/")] == [
        f"evidence/02_dry_run/{name}" for name in FILES
    ]
    assert listed["evidence/02_dry_run/fills.csv"]["stage"] == "dry-run"
    assert '<a href="evidence/02_dry_run/fills.csv">fills.csv</a>' in (folder / "index.html").read_text()
    assert failed(folder) == {}
    coreutils(folder)
    assert sorted(path.name for path in settings.recon_reports_dir.iterdir()) == ["batch-1"]


def test_each_run_keeps_its_own_also_one_that_broke_off(settings, folder) -> None:
    run(settings, "fetch((), 'first')")
    before = (folder / "evidence" / "02_dry_run" / "statement.json").read_bytes()
    run(settings, "fetch()")
    outcome = run(settings, "fetch()", "1 / 0")
    assert outcome.result["code"] == "cell_failed"
    assert sorted(path.name for path in (folder / "evidence").iterdir()) == [
        "02_dry_run", "02_dry_run.2", "02_dry_run.failed",
    ]  # fmt: skip
    assert (folder / "evidence" / "02_dry_run" / "statement.json").read_bytes() == before
    assert failed(folder) == {}
    coreutils(folder)


def test_a_run_that_fetched_nothing_has_none(settings, folder) -> None:
    run_stage(Stage.DRY_RUN, "demo", "batch-1", settings=settings, notebook=NOTEBOOKS / "good.ipynb")
    assert not (folder / "evidence").exists()
    assert "evidence" not in (folder / "index.html").read_text()


def test_of_several_fetches_the_last_one_is_kept_and_nothing_of_the_others(settings, folder) -> None:
    run(settings, "fetch((), 'first')", "fetch(None, 'second')")
    kept = folder / "evidence" / "02_dry_run"
    assert below(kept) == ["fills.csv", "open_orders.csv", "statement.json"]
    assert json.loads((kept / "statement.json").read_text())["coverage"]["notes"] == ["second"]


def test_what_was_written_half_is_not_kept(settings, folder) -> None:
    outcome = run(settings, "fetch()", "(folder / 'statement.json').unlink()", "os._exit(1)")
    assert outcome.result["code"] == "kernel_died"
    assert not (folder / "evidence").exists()
    assert sorted(path.name for path in settings.recon_reports_dir.iterdir()) == ["batch-1"]


def test_a_refusal_that_opens_no_folder_leaves_nothing(settings) -> None:
    refused = "from dataclasses import replace\nresult = replace(result, verdict=Verdict.NO_GO, code='x', message='y')"
    assert run(settings, "fetch()", refused).report is None
    assert list(settings.recon_reports_dir.iterdir()) == []


def test_evidence_that_cannot_be_placed_does_not_hide_the_verdict(settings, folder) -> None:
    folder.mkdir(parents=True)
    (folder / "evidence").write_text("a file where the folder should be")
    outcome = run(settings, "fetch()")
    assert outcome.result["verdict"] == "GO"
    assert len(outcome.problems) == 1
    assert "only 02_dry_run.ipynb was kept" in outcome.problems[0]


def test_a_name_whose_evidence_is_there_is_taken(settings, folder) -> None:
    run(settings, "fetch()")
    for path in folder.glob("02_*"):
        path.unlink()
    assert run(settings, "fetch()").report.name == "02_dry_run.2.ipynb"


def test_a_stage_that_cannot_keep_its_evidence_is_told_so(incident, tmp_path, monkeypatch) -> None:
    incident.create_table()
    incident.ghost("T1")
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv(RUN_VARIABLE, json.dumps({"evidence": str(tmp_path / "file" / "evidence")}))
    with pytest.raises(ReconError) as caught:
        incident.work().fetch(incident.profile, at(100))
    assert caught.value.code == "reports_unwritable"
    assert "The evidence cannot be kept beside the report" in caught.value.message


# Verify


def test_a_changed_missing_or_added_file_is_named(settings, folder) -> None:
    run(settings, "fetch()")
    kept = folder / "evidence" / "02_dry_run"
    (kept / "fills.csv").chmod(0o644)
    (kept / "fills.csv").write_text("another\n")
    (kept / "positions.csv").unlink()
    (kept / "note").write_text("added")
    (folder / "evidence" / "03_apply").mkdir()
    assert failed(folder) == {
        "sums_match": "evidence/02_dry_run/positions.csv is missing. evidence/02_dry_run/fills.csv was changed.",
        "nothing_unlisted": "evidence/02_dry_run/note is not listed. evidence/03_apply is not listed.",
    }


def test_what_was_changed_or_added_stays_so_when_the_folder_grows(settings, folder) -> None:
    """Positions that were unknown to the run must not become part of its evidence afterwards."""
    run(settings, "fetch(None)")
    kept = folder / "evidence" / "02_dry_run"
    (kept / "fills.csv").chmod(0o644)
    (kept / "fills.csv").write_text("another\n")
    (kept / "positions.csv").write_text("symbol,qty\n")
    run(settings, "fetch()")
    assert failed(folder) == {
        "sums_match": "evidence/02_dry_run/fills.csv was changed.",
        "nothing_unlisted": "evidence/02_dry_run/positions.csv is not listed.",
    }


def test_a_link_to_a_folder_elsewhere_is_no_evidence(settings, folder, tmp_path) -> None:
    run(settings, "fetch()")
    (folder / "evidence" / "02_dry_run").rename(tmp_path / "elsewhere")
    (folder / "evidence" / "02_dry_run").symlink_to(tmp_path / "elsewhere")
    assert failed(folder) == {"nothing_unlisted": "evidence/02_dry_run is not listed."}


# Secrets

EXCHANGE_SECRETS = {
    "RECON_EXCHANGE_API_KEY": "PKLOOPBACK0123456789",
    "RECON_EXCHANGE_SECRET": 'PKLOOPBACK0123456789/and"more\\of+it==',
    "RECON_EXCHANGE_PASSWORD": "a passphrase",
}


def test_the_keys_of_the_exchange_reach_neither_report_nor_evidence(settings, folder, monkeypatch) -> None:
    for name, value in EXCHANGE_SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings(recon_reports_dir=settings.recon_reports_dir, _env_file=None)  # type: ignore[call-arg]
    leak = f"leaked = [os.environ[name] for name in {list(EXCHANGE_SECRETS)}]\nprint(*leaked, leaked)"
    outcome = run(settings, leak, "fetch((), *leaked)", "raise ValueError(' '.join(leaked))")
    assert outcome.result["code"] == "cell_failed"
    assert (folder / "evidence" / "02_dry_run.failed" / "statement.json").is_file()
    written = [path.read_text() for path in folder.rglob("*") if path.is_file()] + [str(outcome.result)]
    assert sum("***" in text for text in written) >= 4
    for secret in EXCHANGE_SECRETS.values():
        for shape in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert [text for text in written if shape in text] == []
    assert 'and"more' not in "".join(written), "a secret goes before another that it begins with"


def test_a_short_password_is_struck_out_where_it_is_a_value_and_spoils_no_report(settings, folder, monkeypatch) -> None:
    monkeypatch.setenv("RECON_EXCHANGE_PASSWORD", "recon")
    settings = Settings(recon_reports_dir=settings.recon_reports_dir, _env_file=None)  # type: ignore[call-arg]
    outcome = run(settings, "fetch()", "{'passphrase': os.environ['RECON_EXCHANGE_PASSWORD']}")
    assert (outcome.result["verdict"], failed(folder)) == ("GO", {})
    assert "'passphrase': ***" in outcome.report.read_text()


# The same plan from what was kept


def planned(console: Console, profile: str, batch_id: str) -> dict[str, Any]:
    """The result of a dry run of a new batch."""
    assert console.stage("detect", profile, batch_id).status == 0
    told = console.stage("dry-run", profile, batch_id, "--json").json
    assert told["plan_digest"], told
    return told


def test_the_demo_s_plan_can_be_made_from_its_evidence(demo_home, tmp_path) -> None:
    places = {"RECON_HOME": str(demo_home), "RECON_REPORTS_DIR": str(tmp_path / "reports")}
    console = Console(clean_environment() | places, tmp_path)
    first = planned(console, DEMO_PROFILE, "kept-demo-1")
    kept = tmp_path / "reports" / "kept-demo-1" / "evidence"
    assert sorted(path.name for path in kept.iterdir()) == ["01_detect", "02_dry_run"]
    again = planned(console.but(RECON_EXCHANGE=f"statement:{kept / '02_dry_run'}"), DEMO_PROFILE, "kept-demo-2")
    assert again["plan_digest"] == first["plan_digest"]
    assert again["items"] == first["items"]
    assert len(first["items"]) > 20


def test_a_repair_keeps_the_evidence_of_each_stage_and_its_plan_can_be_made_from_it(place) -> None:
    incident, console = place.profile("kept")
    incident.ghost("old", opened=OPENED - 500, closed=CLOSED - 500)
    incident.ghost("new", "1.50", opened=OPENED, closed=CLOSED, symbol="ETH/USD")
    span = {"from": at(CLOSED - 100).isoformat(), "to": at(CLOSED + 100).isoformat()}
    incident.about = json.dumps({"venue": "acme", "account": "7"} | span)
    incident.write_statement()
    first = planned(console, "kept", "kept-1")
    folder = place.reports / "kept-1"
    offline = console.but(RECON_EXCHANGE=f"statement:{folder / 'evidence' / '02_dry_run'}")
    assert planned(offline, "kept", "kept-2")["plan_digest"] == first["plan_digest"]
    assert console.approve("kept-1", "old=not covered").status == 0
    for stage in ("apply", "validate", "rollback"):
        assert console.stage(stage, "kept", "kept-1").status == 0, stage
    assert sorted(path.name for path in (folder / "evidence").iterdir()) == [
        "01_detect", "02_dry_run", "03_apply", "04_validate",
    ]  # fmt: skip
    coreutils(folder)
    assert console.inside("verify", str(folder)).status == 0
    assert assert_no_secret_in(folder) == 5 * 3 + 3 + 4 * 4 + 5 * 3 + 3 + 4


def test_a_venue_whose_clock_runs_ahead_is_kept_with_its_window(tmp_path) -> None:
    """The lookback counts from the latest fill, live and in the statement: or the first minutes would come apart."""
    now = datetime.now(UTC).replace(microsecond=0)
    minutes = (-59, -30, 2)
    rows = [trade(f"a{n}", "BTC/USD", "sell", 1, 110, now + timedelta(minutes=n)) for n in minutes]
    wanted = Wanted(("BTC/USD",), now - timedelta(hours=9))
    with VenueServer(scenario(now, *rows)) as server:
        access = Access("alpaca", KEYS.api_key, KEYS.secret, base_url=server.url, paced=False)
        live = CcxtExchange(access).fetch("main", now=now, lookback=timedelta(hours=1), wanted=wanted)
    write_statement(tmp_path, live, "main")
    kept = StatementExchange(str(tmp_path)).fetch("main", now=now, lookback=timedelta(hours=1))
    assert kept.window == live.window
    assert kept.fills == live.fills
    assert [fill.filled_at for fill in live.fills] == [now + timedelta(minutes=n) for n in minutes[1:]]


def test_a_plan_made_live_can_be_made_from_its_evidence_without_the_venue(place, tmp_path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    incident, console = place.profile("kept-live")
    minute = (now - at(0)) / timedelta(minutes=1)
    for number, symbol in enumerate(["BTC/USD", "ETH/USD", "SOL/USD"]):
        incident.row(f"live-{number}", f"T{number}", "ENTRY", 2, minute - 600 + number, symbol=symbol)
    told = scenario(
        now,
        trade("a1", "BTC/USD", "sell", 2, 110, now - timedelta(hours=5)),
        trade("a2", "ETH/USD", "sell", "1.25", 110, now - timedelta(hours=4)),
        order("open-1", "SOL/USD", "sell", 2, 120, now - timedelta(hours=3)),
        leg("SOL/USD", 2, 100),
        balance("USD", 1000),
    )
    with VenueServer(told) as server:
        live = console.but(
            RECON_EXCHANGE="ccxt:alpaca",
            RECON_EXCHANGE_API_KEY=KEYS.api_key,
            RECON_EXCHANGE_SECRET=KEYS.secret,
            RECON_EXCHANGE_BASE_URL=server.url,
        )
        first = planned(live, "kept-live", "kept-live-1")
        answer = live.inside("fetch", "--profile-id", "kept-live", "--out", str(tmp_path / "out"))
        assert answer.status == 0, answer
        assert answer.out.startswith("fetched: 2 fills, 1 leg, 1 open order (profile kept-live, ccxt:alpaca)\n")
        assert server.writes == []
    kept = place.reports / "kept-live-1" / "evidence" / "02_dry_run"
    assert json.loads((kept / "statement.json").read_text())["coverage"]["pages"]
    for number, source in enumerate((kept, tmp_path / "out"), start=2):
        again = planned(console.but(RECON_EXCHANGE=f"statement:{source}"), "kept-live", f"kept-live-{number}")
        assert again["plan_digest"] == first["plan_digest"]
        assert again["items"] == first["items"]
    counts = {(item["trade_id"], item["reason"]) for item in first["items"]}
    assert ("T0", "fill_evidence") in counts
    assert ("T2", "exchange_not_flat") in counts
    written = [path for top in (place.reports, tmp_path) for path in top.rglob("*") if path.is_file()]
    for path in written:
        content = path.read_bytes().decode(errors="replace")
        assert KEYS.api_key not in content, path
        assert KEYS.secret not in content, path
