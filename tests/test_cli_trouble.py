"""The command line when something is wrong: evidence, switch, folders, two at a time, and processes that are killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from console import CLOSED, OPENED, Answer, Console, Place, assert_no_secret_in, stage_words
from incidents import Incident

from recon import cli
from recon.domain import BATCH_REASONS
from recon.interrupts import INTERRUPTS
from recon.reporting import describe
from recon.reporting.render import render
from recon.reporting.verify import verify_folder


def reasons(answer: Answer) -> set[str]:
    """The reason codes of a stage's items."""
    return {item["reason"] for item in answer.json["items"]}


# What a dry run is refused for, or finds


@pytest.fixture(scope="module")
def detected(place: Place) -> tuple[Incident, Console]:
    """A batch that is detected: three ghosts on three symbols."""
    incident, console = place.profile("dry")
    for trade_id, symbol in (("T1", "BTC/USD"), ("T2", "ETH/USD"), ("T3", "ETH-USD")):
        incident.ghost(trade_id, len(incident.fills) + 1, opened=OPENED, closed=CLOSED, symbol=symbol)
    assert console.stage("detect", "dry", "dry").status == 0
    return incident, console


def test_a_status_server_that_does_not_answer_is_pause_unknown(detected) -> None:
    _, console = detected
    silent = console.but(RECON_TRADING_STATUS_URL="http://user:open%40sesame%2F4711@127.0.0.1:1")
    answer = silent.stage("dry-run", "dry", "dry", "--json")
    assert (answer.status, answer.json["verdict"], "code" in answer.json) == (3, "NO_GO", False)
    assert reasons(answer) == {"pause_unknown"}
    [check] = [check for check in answer.json["checks"] if check["name"] == "pause_confirmed"]
    assert (check["ok"], "ConnectError" in check["detail"]) == (False, True)
    refused = console.approve("dry", *(f"{trade}=why not" for trade in ("T1", "T2", "T3")))
    assert "pause_unknown" in refused.refused("batch_wide_reason")
    assert "pause_unknown" in {reason.value for reason in BATCH_REASONS}


def test_a_missing_positions_file_is_exchange_position_unknown(detected) -> None:
    incident, console = detected
    incident.positions = None
    incident.write_statement()
    try:
        answer = console.stage("dry-run", "dry", "dry", "--json")
    finally:
        incident.positions = []
        incident.write_statement()
    assert (answer.status, reasons(answer)) == (3, {"exchange_position_unknown"})
    assert answer.json["counts"] == {"NO_GO": 3}


def test_a_bad_cell_is_told_with_file_line_and_column_on_the_console(detected) -> None:
    incident, console = detected
    with (incident.folder / "fills.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["f9", "x", "", "BTC/USD", "sell", "1,5", "1", "", "", "2024-03-01T00:00:00Z"])
    try:
        answer = console.stage("dry-run", "dry", "dry")
    finally:
        incident.write_statement()
    assert answer.status == 3
    assert answer.out.startswith("dry-run: NO_GO (profile dry, batch dry)\n  evidence_unreadable: ")
    assert "fills.csv line 5, column qty: expected " in answer.out
    assert "found '1,5'" in answer.out


def test_a_plan_larger_than_allowed_is_refused_with_the_way_to_split_it(detected) -> None:
    incident, console = detected
    before = incident.everything()
    answer = console.but(RECON_MAX_BATCH_ROWS="2").stage("dry-run", "dry", "dry", "--json")
    assert (answer.status, answer.json["code"], answer.json["items"]) == (3, "batch_too_large", [])
    assert "The plan has 3 rows, RECON_MAX_BATCH_ROWS allows 2" in answer.json["message"]
    assert "--symbol or --trade-id" in answer.json["message"]
    assert incident.everything() == before


def test_narrowing_takes_the_trades_and_symbols_that_are_named(detected) -> None:
    """Any spelling of a symbol names it; both options together narrow further; a name without a target is refused."""
    incident, console = detected
    limited = console.but(RECON_MAX_BATCH_ROWS="2")
    answer = limited.stage("dry-run", "dry", "dry", "--symbol", "eth_usd", "--json")
    assert (answer.status, answer.json["verdict"]) == (0, "GO")
    assert {item["trade_id"] for item in answer.json["items"]} == {"T2", "T3"}
    words = ("--symbol", "eth_usd", "--symbol", "BTCUSD", "--trade-id", "T1", "--trade-id", "T3")
    answer = limited.stage("dry-run", "dry", "dry", *words, "--json")
    assert (answer.status, {item["trade_id"] for item in answer.json["items"]}) == (0, {"T1", "T3"})
    [(scope,)] = incident.sql("SELECT scope FROM reconciliation_batches WHERE batch_id = 'dry'")
    assert scope == {"trade_ids": ["T1", "T3"], "symbols": ["eth_usd", "BTCUSD"]}
    nothing = console.stage("dry-run", "dry", "dry", "--trade-id", "T1", "--trade-id", "t3")
    assert nothing.status == 3
    assert "  scope_matches_nothing: " in nothing.out
    assert "no target answers to: t3." in nothing.out


def test_a_profile_with_nothing_open_is_done_and_cannot_be_approved(place) -> None:
    incident, console = place.profile("healthy")
    incident.row("e1", "T1", "ENTRY", 1, OPENED)
    incident.row("x1", "T1", "EXIT", 1, CLOSED)
    assert console.stage("detect", "healthy", "healthy").status == 0
    answer = console.stage("dry-run", "healthy", "healthy", "--json")
    assert (answer.status, answer.json["verdict"], answer.json["items"]) == (0, "DONE", [])
    console.approve("healthy").refused("nothing_to_approve")


# Two at a time


def test_two_runs_of_one_stage_at_the_same_time_do_not_collide(place) -> None:
    """Both detects are kept under numbers of their own; of two applies one writes, and no row is written twice."""
    incident, console = place.profile("twice", "T1", "T2")

    def both(stage: str) -> list[Answer]:
        words = (*stage_words(stage, "twice", "twice"), "--json")
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda _: console(*words), range(2)))

    detects = both("detect")
    assert [answer.status for answer in detects] == [0, 0]
    assert {Path(answer.json["report"]).name for answer in detects} == {"01_detect.ipynb", "01_detect.2.ipynb"}
    assert console.stage("dry-run", "twice", "twice").status == 0
    assert console.approve("twice").status == 0
    first, second = sorted(both("apply"), key=lambda answer: answer.json["counts"].get("APPLIED", 0))
    assert (second.status, second.json["counts"]) == (0, {"APPLIED": 2})
    if first.status:
        assert (first.status, first.json["code"]) == (3, "already_running")
    else:
        assert first.json["counts"] == {"SKIP_EXISTING": 2}
    assert len(incident.backfills()) == 2
    assert incident.open_quantities() == {}
    assert console.inside("verify", str(place.reports / "twice")).status == 0


# Killed from outside


class Killer:
    """Runs `recon run apply` and kills processes of it when apply asks the pause switch for the n-th time.

    The command, where it lives on, learns of that once the server has: else it could not yet say what became of it.
    """

    def __init__(self, place: Place, console: Console, profile: str, batch: str) -> None:
        self.place = place
        self.console = console
        self.words = (*stage_words("apply", profile, batch), "--json")

    def at(self, gate: int, victims: Callable[[psutil.Process, list[psutil.Process]], list[psutil.Process]]) -> Answer:
        """What the command answered; returns once every process of it, and of the server for it, has ended."""
        process = self.console.start(*self.words)
        known = psutil.Process(process.pid)
        children: list[psutil.Process] = []

        def kill() -> str:
            children.extend(known.children(recursive=True))
            doomed = victims(known, children)
            if known not in doomed:
                known.suspend()
            for victim in doomed:
                victim.kill()
            if known not in doomed:
                quiet(self.place)
                known.resume()
            return "PAUSED"

        self.place.switch.script = ["PAUSED"] * (gate - 1) + [kill]
        out, err = process.communicate(timeout=300)
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert (self.place.switch.script, alive) == ([], [])
        assert gone
        quiet(self.place)
        return Answer(process.returncode, out, err)


def quiet(place: Place) -> None:
    """Wait until no server process of recon is left: one whose client is gone works on until it notices."""
    asked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recon'"
    deadline = time.monotonic() + 60
    with psycopg.connect(place.url.replace("+psycopg", ""), autocommit=True) as connection:
        while connection.execute(asked).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def approved(place: Place) -> tuple[Incident, Console, Killer]:
    """Two ghosts and an approved plan."""
    name = f"killed-{place.profiles}"
    incident, console = place.profile(name, "T1", "T2")
    incident.batch = name
    incident.plan(work=incident.work(now=None))
    return incident, console, Killer(place, console, name, name)


def test_a_killed_apply_leaves_nothing_or_all_and_the_same_command_converges(approved) -> None:
    """kill -9 of everything before the first row, of everything before COMMIT, and of the command alone at COMMIT."""
    incident, console, killer = approved
    before = incident.orders()
    for gate in (1, 2):
        answer = killer.at(gate, lambda command, children: [command, *children])
        assert answer == Answer(-signal.SIGKILL, "", "")
        assert (incident.orders(), incident.state()) == (before, "approved")
    answer = killer.at(2, lambda command, _: [command])
    assert answer == Answer(-signal.SIGKILL, "", "")
    assert len(incident.backfills()) in (0, 2)
    written = len(incident.backfills())
    last = console(*killer.words)
    assert (last.status, last.json["verdict"]) == (0, "DONE")
    assert last.json["counts"] == ({"SKIP_EXISTING": 2} if written else {"APPLIED": 2})
    assert (len(incident.backfills()), incident.open_quantities()) == (2, {})
    assert sum(row[0] == "APPLIED" for row in incident.audit("decision")) == 2


def test_a_kernel_that_dies_is_told_with_what_became_of_the_transaction(approved) -> None:
    incident, console, killer = approved
    answer = killer.at(2, lambda _, children: children)
    assert (answer.status, answer.err) == (1, "")
    assert (answer.json["verdict"], answer.json["code"]) == ("FAILED", "kernel_died")
    assert answer.json["message"].endswith(
        "The database says rolled back: the batch is approved, and nothing was written."
    )
    assert Path(answer.json["report"]).name == "03_apply.failed.ipynb"
    assert_report_says(answer)
    assert incident.backfills() == []
    last = console.stage("apply", incident.profile, incident.batch, "--json")
    assert (last.status, last.json["counts"]) == (0, {"APPLIED": 2})


def assert_report_says(answer: Answer) -> None:
    """The message of the console stands in the report too."""
    report = Path(answer.json["report"])
    assert json.loads(report.with_suffix(".json").read_text())["message"] == answer.json["message"]
    assert "The database says" in report.with_suffix(".html").read_text()


@pytest.mark.parametrize("number", INTERRUPTS)
def test_an_interrupted_apply_ends_its_kernel_and_says_what_became_of_it(approved, number) -> None:
    """Ctrl-C, or what systemd, cron and a lost terminal send, while the transaction is open."""
    incident, console, killer = approved
    process = console.start(*killer.words)

    def interrupt() -> str:
        os.kill(process.pid, number)
        return "PAUSED"

    killer.place.switch.script = [interrupt]
    answer = console.finish(process)
    assert (answer.status, answer.json["verdict"]) == (1, "FAILED"), answer
    assert answer.json["code"] == "interrupted"
    assert "The database says" in answer.json["message"]
    assert_report_says(answer)
    quiet(killer.place)
    assert len(incident.backfills()) in (0, 2)
    assert console.stage("apply", incident.profile, incident.batch).status == 0
    assert (len(incident.backfills()), incident.open_quantities()) == (2, {})


def test_an_interrupt_while_the_report_is_saved_says_committed_and_leaves_it_whole(approved, monkeypatch) -> None:
    incident, console, killer = approved

    def interrupted(*arguments) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return render(*arguments)

    monkeypatch.setattr(describe, "render", interrupted)
    answer = console.inside(*killer.words)
    assert (answer.status, answer.json) == (
        1,
        {"code": "interrupted", "message": "Interrupted. The database says committed: the batch is applied."},
    )
    folder = killer.place.reports / incident.batch
    assert {path.name for path in folder.glob("03*")} == {f"03_apply.{suffix}" for suffix in ("ipynb", "html", "json")}
    assert [check.name for check in verify_folder(folder) if not check.ok] == []


def test_an_interrupt_before_apply_begins_says_rolled_back(approved, monkeypatch) -> None:
    _, console, killer = approved

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "open_workspace", interrupted)
    answer = console.inside(*killer.words[:-1])
    said = "Interrupted. The database says rolled back: the batch is approved, and nothing was written."
    assert answer.refused("interrupted", 1) == said


# Facts that changed


def test_an_apply_on_changed_facts_is_refused_and_the_next_command_is_another_dry_run(approved) -> None:
    incident, console, _ = approved
    before = incident.orders()
    incident.hold("BTC/USD", 1)
    answer = console.stage("apply", incident.profile, incident.batch)
    assert answer.status == 3
    assert "  stale_plan: The facts are not those that were approved: items, positions of BTCUSD." in answer.out
    assert (incident.orders(), incident.state()) == (before, "planned")


# The report folder


def test_a_report_that_cannot_be_kept_does_not_hide_the_verdict(approved) -> None:
    """A file takes the folder's place while apply holds its locks: the rows are committed, and it is said."""
    incident, console, killer = approved
    folder = killer.place.reports / incident.batch
    aside = folder.with_name(f"{folder.name}-aside")

    def vanish() -> str:
        folder.rename(aside)
        folder.write_text("in the way")
        return "PAUSED"

    killer.place.switch.script = [vanish]
    answer = console.stage("apply", incident.profile, incident.batch, "--json")
    assert answer.status == 1
    told = json.loads(answer.out)
    assert (told["verdict"], told["counts"], told["report"]) == ("DONE", {"APPLIED": 2}, None)
    assert answer.err == f"recon: The report in {folder} is not complete, no report was kept: Not a directory.\n"
    assert incident.open_quantities() == {}
    folder.unlink()
    aside.rename(folder)
    again = console.stage("apply", incident.profile, incident.batch, "--json")
    assert (again.status, again.json["counts"]) == (0, {"SKIP_EXISTING": 2})
    assert Path(again.json["report"]).name == "03_apply.ipynb"


# From any folder, with any way to configure it


def test_the_env_file_of_the_project_is_found_from_below_it(place, tmp_path) -> None:
    """Nothing in the environment; every relative folder is taken from where `.env` lies."""
    incident, console = place.profile("filed", "T1")
    project = tmp_path / "a project"
    (project / "notebooks" / "deep").mkdir(parents=True)
    incident.folder.rename(project / "statement of filed")
    ours = {name: value for name, value in console.environment.items() if name.startswith(("RECON_", "ENABLE_"))}
    ours |= {"RECON_REPORTS_DIR": "audits/kept", "RECON_EXCHANGE": "statement:statement of {profile_id}"}
    (project / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in ours.items()))
    bare = console.but(project / "notebooks" / "deep", **dict.fromkeys(ours))
    answer = bare(*stage_words("detect", "filed", "filed"), "--json")
    assert (answer.status, answer.json["verdict"]) == (0, "DONE")
    assert Path(answer.json["report"]) == project / "audits" / "kept" / "filed" / "01_detect.ipynb"
    notebook = (project / "audits" / "kept" / "filed" / "01_detect.ipynb").read_text()
    assert "statement:statement of {profile_id}" in notebook
    assert "was not read" not in notebook
    assert assert_no_secret_in(project / "audits") > 4
    assert bare.inside("status", "--profile-id", "filed").status == 0


def test_an_installed_wheel_runs_from_an_unrelated_folder(place, tmp_path) -> None:
    """The notebooks are those inside the wheel; the checkout is out of sight."""
    root = Path(__file__).parents[1]
    python = Path(os.path.realpath(psutil.Process().exe()))
    site = next(path for path in Path(psutil.__file__).parents if path.name == "site-packages")
    quiet = {"check": True, "capture_output": True, "cwd": root}
    dist = tmp_path / "dist"
    venv_python = site.parents[2] / "bin" / "python"
    subprocess.run([venv_python, "-m", "hatchling", "build", "--target", "wheel", "--directory", dist], **quiet)
    [wheel] = dist.glob("recon-*.whl")
    environment = tmp_path / "environment"
    subprocess.run([python, "-m", "venv", "--without-pip", environment], **quiet)
    [inner] = environment.glob("lib/python*/site-packages")
    (inner / "dependencies.pth").write_text(f"{site}\n")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--python", environment / "bin" / "python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], **quiet)
    _, console = place.profile("wheel", "T1")
    console = Console(console.environment, tmp_path, (str(environment / "bin" / "recon"),))
    words = stage_words("detect", "wheel", "wheel")
    halting = console(*words)  # nbconvert's templates are not in this environment: the verdict is told all the same
    assert (halting.status, halting.out.splitlines()[0]) == (1, "detect: DONE (profile wheel, batch wheel)")
    assert "is not complete, only 01_detect.ipynb was kept: No template sub-directory" in halting.err
    console = console.but(JUPYTER_PATH=str(site.parents[2] / "share" / "jupyter"))
    answer = console(*words, "--json")
    assert (answer.status, answer.json["verdict"]) == (0, "DONE")
    found = subprocess.run(
        [environment / "bin" / "python", "-c",
         "import recon.reporting.notebook as n; print(n.__file__); print(n.find_notebook('01_detect.ipynb'))"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert found == [str(inner / "recon" / "reporting" / "notebook.py"), str(inner / "recon/notebooks/01_detect.ipynb")]
    assert console("verify", str(place.reports / "wheel")).status == 0
