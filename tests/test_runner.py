"""Running a stage: real kernels, one tiny notebook per way to fail."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from papermill.clientwrap import PapermillNotebookClient
from report_samples import NOTEBOOKS

from recon.domain import Stage
from recon.errors import ReconError, Refused, UsageError
from recon.interrupts import INTERRUPTS
from recon.reporting import describe as describe_module
from recon.reporting import notebook as notebook_module
from recon.reporting import runner as runner_module
from recon.reporting.notebook import find_notebook, to_text
from recon.reporting.render import render
from recon.reporting.runner import Outcome, run_stage
from recon.reporting.seal import load_notebook, read_report
from recon.reporting.verify import verify_folder
from recon.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(recon_reports_dir=tmp_path / "reports", _env_file=None)


def run(settings: Settings, name: str, profile_id: str = "demo", batch_id: str = "batch-1", **options) -> Outcome:
    notebook = NOTEBOOKS / f"{name}.ipynb"
    return run_stage(Stage.DRY_RUN, profile_id, batch_id, settings=settings, notebook=notebook, **options)


def names(settings: Settings, batch_id: str = "batch-1") -> list[str]:
    folder = settings.recon_reports_dir / batch_id
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_run_is_kept_as_three_files_and_described(settings, capfd) -> None:
    outcome = run(settings, "good")
    assert (outcome.result["verdict"], outcome.problems) == ("GO", ())
    assert outcome.report == settings.recon_reports_dir / "batch-1" / "02_dry_run.ipynb"
    assert outcome.result["report"] == str(outcome.report)
    assert names(settings) == [
        "02_dry_run.html",
        "02_dry_run.ipynb",
        "02_dry_run.json",
        "SHA256SUMS",
        "index.html",
        "manifest.json",
        "record",
    ]
    saved = json.loads(outcome.report.with_suffix(".json").read_text())
    assert saved == outcome.result | {"report": "02_dry_run.ipynb"}
    assert [check.name for check in verify_folder(outcome.report.parent) if not check.ok] == []
    assert capfd.readouterr() == ("", "")


def test_the_kernel_is_this_interpreter_encrypted_and_told_its_scope(settings, tmp_path, monkeypatch) -> None:
    """Another kernelspec named python3 stands first on Jupyter's path, and must not be used."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    spec.joinpath("kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    scope = {"trade_ids": ["a$HOME", "quote'\""], "symbols": ["BTC/USD"]}
    checks = {check["name"]: check for check in run(settings, "good", **scope).result["checks"]}
    assert checks["interpreter"]["detail"] == sys.executable
    assert json.loads(checks["narrowing"]["detail"]) == scope | {"demo": False}
    assert checks["transport"]["ok"]


@pytest.mark.parametrize("profile_id", ["007", 'it\'s "q" <b> \U0001f680 {x} $y \\n a:b'])
def test_every_profile_arrives_as_the_text_it_is(settings, profile_id) -> None:
    outcome = run(settings, "good", profile_id=profile_id)
    assert (outcome.result["verdict"], outcome.result["profile_id"]) == ("GO", profile_id)


def test_a_second_run_takes_the_next_number_and_changes_no_file(settings) -> None:
    first = run(settings, "good").report
    before = first.read_bytes(), first.stat().st_mtime_ns
    second = run(settings, "good").report
    assert second.name == "02_dry_run.2.ipynb"
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert first.stat().st_mode & 0o777 == 0o444


def test_a_folder_with_braces_and_spaces_is_as_good_as_any(tmp_path) -> None:
    settings = Settings(recon_reports_dir=tmp_path / "re {ports} \u00e9", _env_file=None)
    assert run(settings, "good").problems == ()


def test_a_refusal_is_a_report_once_the_batch_has_one(settings) -> None:
    run(settings, "good")
    outcome = run(settings, "refused")
    assert (outcome.result["verdict"], outcome.result["code"]) == ("NO_GO", "flag_disabled")
    assert outcome.report.name == "02_dry_run.2.ipynb"
    assert read_report(outcome.report).findings == ()


def test_a_refusal_opens_no_folder(settings) -> None:
    """A mistyped profile_id must not claim the folder of a batch to come."""
    outcome = run(settings, "refused", profile_id="tpyo")
    assert (outcome.result["verdict"], outcome.report, outcome.problems) == ("NO_GO", None, ())
    assert not (settings.recon_reports_dir / "batch-1").exists()


@pytest.mark.parametrize("name", ["untagged", "two_parameters", "other_names", "computed"])
def test_a_notebook_that_would_not_take_its_parameters_is_refused(settings, name) -> None:
    with pytest.raises(ReconError) as caught:
        run(settings, name)
    assert (caught.value.code, caught.value.exit_status) == ("notebook_invalid", 1)
    assert names(settings) == []


def test_a_file_that_is_no_notebook_is_refused(settings, tmp_path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    with pytest.raises(ReconError) as caught:
        run_stage(Stage.DRY_RUN, "demo", "batch-1", settings=settings, notebook=path)
    assert caught.value.code == "notebook_invalid"


def test_parameters_that_are_no_python_are_refused(settings, tmp_path) -> None:
    notebook = load_notebook(NOTEBOOKS / "good.ipynb")
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = "%load profile_id"
    (tmp_path / "magic.ipynb").write_text(to_text(notebook))
    with pytest.raises(ReconError, match="its parameters cell is not Python") as caught:
        run_stage(Stage.DRY_RUN, "demo", "batch-1", settings=settings, notebook=tmp_path / "magic.ipynb")
    assert caught.value.code == "notebook_invalid"
    assert names(settings) == []


def test_without_room_for_what_a_run_leaves_nothing_is_run(settings, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner_module.tempfile, "TemporaryDirectory", full)
    with pytest.raises(ReconError, match=r"^Nothing was run: .* \(No space left on device\)") as caught:
        run(settings, "good")
    assert (caught.value.code, names(settings)) == ("reports_unwritable", [])


def test_a_kernel_that_does_not_start_is_named(settings, monkeypatch) -> None:
    def execute(*_: object, **__: object) -> None:
        raise RuntimeError("no answer in time")

    monkeypatch.setattr(PapermillNotebookClient, "execute", execute)
    outcome = run(settings, "good")
    assert (outcome.result["verdict"], outcome.result["code"]) == ("FAILED", "kernel_not_started")
    assert outcome.result["message"].startswith(f"The kernel of {sys.executable} did not start: no answer in time.")
    assert outcome.report.name == "02_dry_run.failed.ipynb"


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("dying", "kernel_died", "kernel died"),
        ("raising", "cell_failed", "ValueError: a cell broke"),
        ("exiting", "report_invalid", "ended with SystemExit"),
        ("unsealed", "report_invalid", "exactly one seal, found 0"),
        ("forged", "report_invalid", "does not match its own digest"),
    ],
)
def test_a_run_that_is_no_report_fails_and_is_kept_apart(settings, name, code, said) -> None:
    outcome = run(settings, name)
    assert (outcome.result["verdict"], outcome.result["code"]) == ("FAILED", code)
    assert said in outcome.result["message"]
    assert outcome.report.name == "02_dry_run.failed.ipynb"
    assert read_report(outcome.report).findings
    failed = [check for check in verify_folder(outcome.report.parent) if not check.ok]
    assert [check.detail for check in failed] == ["There is no report in this folder."]


def test_a_failed_run_stands_beside_the_reports_and_spoils_none(settings) -> None:
    run(settings, "good")
    assert run(settings, "raising").report.name == "02_dry_run.failed.ipynb"
    assert run(settings, "raising").report.name == "02_dry_run.failed.2.ipynb"
    assert run(settings, "good").report.name == "02_dry_run.2.ipynb"
    assert [check.name for check in verify_folder(settings.recon_reports_dir / "batch-1") if not check.ok] == []


def test_a_cell_that_takes_too_long_is_stopped(settings, monkeypatch) -> None:
    monkeypatch.setattr(notebook_module, "CELL_SECONDS", 1)
    outcome = run(settings, "sleeping")
    assert (outcome.result["verdict"], outcome.result["code"]) == ("FAILED", "cell_timeout")


def test_the_output_of_a_cell_may_arrive_well_after_its_end(settings, tmp_path) -> None:
    """On a machine under load: the cell is over, and what it showed is still on its way."""
    notebook = load_notebook(NOTEBOOKS / "good.ipynb")
    [cell] = [cell for cell in notebook.cells if cell.source == "profile_id"]
    cell.source = (
        "import sys, time\n"
        "sys.stdout.flush_timeout = sys.stderr.flush_timeout = 0\n"
        "get_ipython().kernel.iopub_thread.io_loop.add_callback(time.sleep, 6)\n"
        "profile_id"
    )
    (tmp_path / "late.ipynb").write_text(to_text(notebook))
    outcome = run_stage(Stage.DRY_RUN, "demo", "batch-1", settings=settings, notebook=tmp_path / "late.ipynb")
    assert (outcome.result["verdict"], outcome.problems) == ("GO", ())
    [shown] = [kept.outputs for kept in load_notebook(outcome.report).cells if kept.source == cell.source]
    assert [output.data["text/plain"] for output in shown] == ["'demo'"]


@pytest.mark.parametrize("number", INTERRUPTS)
def test_an_interrupted_run_says_so_and_is_kept(tmp_path, number) -> None:
    """Ctrl-C, and the signals of systemd, cron and a lost terminal."""
    script = (
        "from recon.interrupts import listen; listen()\n"
        "import sys; from pathlib import Path; from recon.domain import Stage; from recon.settings import Settings\n"
        "from recon.reporting.runner import run_stage\n"
        "settings = Settings(recon_reports_dir=Path(sys.argv[1]), _env_file=None,\n"
        "                    recon_database_url='postgresql://u@127.0.0.1:1/d')\n"
        "outcome = run_stage(Stage.APPLY, 'demo', 'b', settings=settings, notebook=Path(sys.argv[2]))\n"
        "print(outcome.result['verdict'], outcome.result['code'], outcome.report.name)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "reports"), str(NOTEBOOKS / "sleeping.ipynb")]
    environment = os.environ | {"SLEEPING": str(tmp_path / "sleeping")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "sleeping").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert out == "FAILED interrupted 03_apply.failed.ipynb\n", err
    said = "Whether it committed is unknown (database_unreachable); "
    assert said in json.loads((tmp_path / "reports" / "b" / "03_apply.failed.json").read_text())["message"]
    assert said in (tmp_path / "reports" / "b" / "03_apply.failed.html").read_text()


def test_an_interrupt_while_the_report_is_saved_waits_until_it_is_whole(settings, monkeypatch) -> None:
    def interrupted(*arguments) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return render(*arguments)

    monkeypatch.setattr(describe_module, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings, "good")
    assert len(names(settings)) == 7
    assert [check.name for check in verify_folder(settings.recon_reports_dir / "batch-1") if not check.ok] == []


def test_an_interrupt_before_there_is_a_notebook_leaves_nothing(settings, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(notebook_module, "execute_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings, "good")
    assert names(settings) == []


def test_no_secret_reaches_a_file_or_a_message(settings, monkeypatch) -> None:
    """The cell prints the token and its traceback quotes the URL: both are struck out before anything is written."""
    url, token = "postgresql+psycopg://auditor:s%40same%22!@db.invalid/x", "token-3141592653"
    monkeypatch.setenv("RECON_DATABASE_URL", url)
    monkeypatch.setenv("RECON_TRADING_STATUS_TOKEN", token)
    settings = Settings(recon_reports_dir=settings.recon_reports_dir, _env_file=None)
    outcome = run(settings, "leaking")
    assert outcome.result["code"] == "cell_failed"
    files = (path for path in outcome.report.parent.rglob("*") if path.is_file())
    written = "".join(path.read_text() for path in files) + str(outcome.result)
    assert "db.invalid" in written
    assert "***" in written
    assert [secret for secret in ("s%40same", "s@same", token) if secret in written] == []


def test_the_saved_notebook_tells_nothing_of_the_machine(settings, monkeypatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "its-own-value")
    text = run(settings, "good", batch_id="b").report.read_text()
    metadata = nbformat.reads(text, 4).metadata.papermill
    assert metadata.parameters == {"profile_id": "demo", "batch_id": "b"}
    assert not {"environment_variables", "input_path", "output_path"} & metadata.keys()
    assert "its-own-value" not in text
    assert str(settings.recon_reports_dir) not in text


def test_a_report_that_cannot_be_kept_does_not_hide_the_verdict(settings, monkeypatch) -> None:
    monkeypatch.setenv("RECON_REPORTS_DIR", str(settings.recon_reports_dir))
    outcome = run(settings, "vanishing")
    assert (outcome.result["verdict"], outcome.result["report"], outcome.report) == ("GO", None, None)
    assert len(outcome.problems) == 1
    assert "no report was kept" in outcome.problems[0]


@pytest.mark.parametrize("batch_id", ["../../x", "", ".hidden", "a/b", "x" * 65])
def test_a_malformed_batch_id_names_no_folder(settings, batch_id) -> None:
    with pytest.raises(UsageError) as caught:
        run(settings, "good", batch_id=batch_id)
    assert caught.value.code == "malformed_batch_id"
    assert not settings.recon_reports_dir.exists()


def test_a_folder_of_another_profile_is_left_alone(settings) -> None:
    run(settings, "good")
    before = names(settings)
    with pytest.raises(Refused) as caught:
        run(settings, "good", profile_id="another")
    assert caught.value.code == "batch_of_another_profile"
    assert names(settings) == before


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_its_notebook(stage) -> None:
    name = {"dry-run": "02_dry_run"}.get(stage, f"{list(Stage).index(stage) + 1:02d}_{stage}")
    assert find_notebook(f"{name}.ipynb").is_file()


def test_a_notebook_that_does_not_ship_is_named() -> None:
    with pytest.raises(ReconError) as caught:
        find_notebook("06_cure.ipynb")
    assert caught.value.code == "notebook_missing"


@pytest.mark.skipif(importlib.util.find_spec("nbval") is None, reason="nbval is not installed")
def test_nbval_refuses_to_run_a_report(settings) -> None:
    folder = settings.recon_reports_dir
    run(settings, "good")
    folder.parent.joinpath("conftest.py").write_text((ROOT / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "--nbval", "--collect-only", "-q", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RECON_")}
    environment["RECON_HOME"] = str(folder.parent / "home")

    def collect(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, f"--rootdir={folder.parent}", *more],
            cwd=folder.parent,
            env=environment,
            capture_output=True,
            text=True,
        )

    refused = collect("reports")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "02_dry_run.ipynb is a report, not a test" in refused.stderr
    environment["RECON_DATABASE_URL"] = "postgresql://localhost/production"
    refused = collect()
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nbval runs every notebook, apply included" in refused.stderr
