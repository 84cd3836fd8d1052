"""The command line: exit statuses, one JSON object, and every refusal by its code (design section 11)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import termios
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from console import PASSWORD, PROGRAM, SECRETS, Answer, Console, Place, assert_no_secret_in, stage_words

RUN = stage_words("detect", "main", "b")
COMMANDS = {
    "run": RUN,
    "fetch": ("fetch", "--profile-id", "main", "--out", "no/such/folder"),
    "approve": ("approve", "--batch-id", "b", "--by", "x"),
    "status": ("status",),
    "init": ("init",),
    "init --print": ("init", "--print"),
    "doctor": ("doctor",),
}
"""Every command that reads settings and a database."""


@pytest.fixture
def console(place: Place) -> Console:
    """The installation's console, with no exchange configured."""
    return place.console


# Usage: exit status 2


@pytest.mark.parametrize(
    "batch_id", ["../../x", "", "a" * 65, ".hidden", "-x", "\U0001f680", "a b", "a/b", "a\n", "a\u0661", "~", "a:b"]
)
def test_a_malformed_batch_id_is_refused_before_anything_is_touched(place, console, batch_id) -> None:
    for command in (stage_words("detect", "main", batch_id), ("approve", f"--batch-id={batch_id}", "--by", "x")):
        words = [f"--batch-id={batch_id}" if word == batch_id else word for word in command if word != "--batch-id"]
        assert "is malformed: expected a letter or digit" in console.inside(*words).refused("malformed_batch_id", 2)
        told = console.inside(*words, "--json")
        assert (told.status, told.json["code"], sorted(told.json)) == (2, "malformed_batch_id", ["code", "message"])
    assert not place.reports.exists() or batch_id not in {folder.name for folder in place.reports.iterdir()}


@pytest.mark.parametrize("batch_id", ["a", "0", "a" * 64, "A.b_c-9", "2026-03-01-ghosts"])
def test_a_well_formed_batch_id_gets_further(console, batch_id) -> None:
    console.inside("approve", "--batch-id", batch_id, "--by", "x").refused("unknown_batch")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("run",), "Missing argument 'STAGE'"),
        (("run", "bogus", *RUN[2:]), "'bogus' is not one of 'detect', 'dry-run', 'apply', 'validate', 'rollback'"),
        (("run", "Detect", *RUN[2:]), "'Detect' is not one of"),
        (("run", "approve", *RUN[2:]), "'approve' is not one of"),
        (("run", "detect", "--batch-id", "b"), "Missing option '--profile-id'"),
        (("run", "detect", "--profile-id", "p"), "Missing option '--batch-id'"),
        ((*RUN, "more"), "unexpected extra argument"),
        ((*RUN, "--dry-run"), "No such option '--dry-run'"),
        (("approve", "--by", "x"), "Missing option '--batch-id'"),
        (("approve", "--batch-id", "b"), "Missing option '--by'"),
        (("approve", "--batch-id", "b", "--by", "x", "--rollback", "--acknowledge", "t=y"), "nothing to acknowledge"),
        (("fetch", "--profile-id", "p"), "Missing option '--out'"),
        (("fetch", "--out", "x"), "Missing option '--profile-id'"),
        (("verify",), "Missing argument 'DIR'"),
        (("verify", "no/such/folder"), "does not exist"),
        (("verify", str(PROGRAM)), "is a file"),
        (("doctor", "x"), "unexpected extra argument"),
        (("init", "--json"), "No such option '--json'"),
    ],
)
def test_a_command_that_is_none_ends_with_2(console, words, said) -> None:
    answer = console.inside(*words)
    if "--json" in words:
        assert (answer.status, answer.json["code"]) == (2, "usage")
        return
    message = answer.refused("usage", 2)
    assert said in message
    assert "--help`." in message
    told = console.inside(*words, "--json")
    assert (told.status, told.json["code"]) == (2, "usage")


@pytest.mark.parametrize("setting", [None, "RECON_ALLOWED_SIGNERS"])
def test_verify_does_not_begin_without_the_file_of_those_who_may_sign(console, tmp_path, setting) -> None:
    nowhere = str(tmp_path / "nowhere")
    given = ("--allowed-signers", nowhere) if setting is None else ()
    asked = console if setting is None else console.but(**{setting: nowhere})
    said = asked.inside("verify", str(tmp_path), *given).refused("allowed_signers_unreadable", 2)
    assert said.startswith(f"The allowed-signers file {nowhere} cannot be read")


def test_verify_says_that_it_did_not_ask_the_database_about_a_folder_that_does_not_hold(console, tmp_path) -> None:
    answer = console.inside("verify", str(tmp_path))
    assert (answer.status, answer.err) == (1, "")
    first, last = answer.out.splitlines()
    assert first.startswith("FAIL sums_match: ")
    assert last.startswith("FAIL database: not compared: ")


def test_a_question_ends_as_a_question(console) -> None:
    message = console.inside("--versio").refused("usage", 2)
    assert message.startswith("No such option '--versio'. Did you mean '--version'? See `")


@pytest.mark.parametrize("stage", ["detect", "apply", "validate", "rollback"])
@pytest.mark.parametrize("option", ["--trade-id", "--symbol"])
def test_only_a_dry_run_can_be_narrowed(console, stage, option) -> None:
    message = console.inside(*stage_words(stage, "main", "b"), option, "x").refused("usage", 2)
    assert "use them with dry-run" in message


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_like_maybe_is_refused_by_name_and_its_value_is_not_repeated(console, name) -> None:
    hidden = "maybe-4711"
    answer = console.but(RECON_EXIT_BACKFILL_DRY_RUN=hidden, RECON_MAX_BATCH_ROWS="0").inside(*COMMANDS[name])
    message = answer.refused("settings_invalid", 2)
    assert "RECON_EXIT_BACKFILL_DRY_RUN: " in message
    assert "RECON_MAX_BATCH_ROWS: " in message
    assert hidden not in message


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("url", [f"mysql://u:{PASSWORD}@h/d", f"postgresql://u@h/d?no_such_option={SECRETS[1]}"])
def test_a_database_url_that_is_none_is_a_usage_error(console, name, url) -> None:
    answer = console.but(RECON_DATABASE_URL=url).inside(*COMMANDS[name])
    if name == "doctor":
        assert answer.status == 1
        assert "FAIL settings: database_url_invalid: " in answer.out
    else:
        answer.refused("database_url_invalid", 2)


def test_an_unknown_exchange_is_a_usage_error(console) -> None:
    console.but(RECON_EXCHANGE="nonsense").inside(*RUN).refused("exchange_unknown", 2)


def test_recon_alone_shows_its_help_and_ends_with_2(console) -> None:
    answer = console.inside()
    assert (answer.status, answer.out) == (2, "")
    assert all(f"\n  {command} " in answer.err for command in ("demo", "init", "doctor", "run", "fetch", "approve"))


def test_help_and_version_end_with_0(console) -> None:
    for command in ("", "run", "fetch", "approve", "verify", "lab", "demo", "init", "status", "doctor"):
        answer = console.inside(*command.split(), "--help")
        assert (answer.status, answer.err) == (0, "")
        assert answer.out.startswith("Usage: ")
    assert console.inside("--version") == Answer(0, "0.1.0\n", "")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("init", "may create roles and owns `orders` and its schema;"),
        ("verify", "2 there is no DIR, or FILE or that of RECON_ALLOWED_SIGNERS cannot be read."),
    ],
)
def test_help_tells_the_whole_condition(console, command, said) -> None:
    assert said in " ".join(console.inside(command, "--help").out.split())


def test_an_argument_that_is_not_text_is_a_usage_error(console) -> None:
    process = console.start("run", "detect", "--profile-id", b"\xff\xfe", "--batch-id", "b")  # type: ignore[arg-type]
    assert "is not text" in console.finish(process).refused("usage", 2)


# Errors: exit status 1


def unreachable(secret: str) -> dict[str, str]:
    """URLs behind which nobody listens, with the password in each place where it may stand."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "in the URL": f"postgresql://u:{secret}@127.0.0.1:{port}/d",
        "as an option": f"postgres://127.0.0.1:{port}/d?user=u&password={secret}",
        "unknown host": f"postgresql://u:{secret}@host.invalid/d",
        "no socket": f"postgresql://u:{secret}@/d?host=/nowhere",
    }


@pytest.mark.parametrize("where", unreachable(""))
def test_an_unreachable_database_is_an_error_without_the_password(place, where) -> None:
    quoted = SECRETS[1]
    console = place.console.but(RECON_DATABASE_URL=unreachable(quoted)[where])
    for name, words in COMMANDS.items():
        answer = console.inside(*words)
        if name == "doctor":
            assert answer.status == 1
            assert "FAIL database: database_unreachable: " in answer.out
            continue
        assert "Check RECON_DATABASE_URL" in answer.refused("database_unreachable", 1)
    told = console.inside(*RUN, "--json")
    assert (told.status, told.json["code"]) == (1, "database_unreachable")
    assert not (place.reports / "b").exists()


def test_the_same_from_a_process_of_its_own(place) -> None:
    console = place.console.but(RECON_DATABASE_URL=unreachable(SECRETS[1])["in the URL"])
    console(*RUN).refused("database_unreachable", 1)


def test_a_reports_folder_that_cannot_be_made_stops_everything_before_it_begins(place, tmp_path) -> None:
    incident, console = place.profile("no folder", "T1")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        answer = console.but(RECON_REPORTS_DIR=str(folder)).inside(*stage_words("detect", "no folder", "unwritable"))
        assert answer.refused("reports_unwritable", 1).startswith("Nothing was run: ")
    assert incident.state("unwritable") is None


@pytest.mark.parametrize("home", ["/dev/null/home", "/proc/1/home"])
def test_a_home_that_cannot_be_written_is_told_by_what_needs_it(place, home) -> None:
    console = place.console.but(RECON_DATABASE_URL=None, RECON_HOME=home)
    for words in (("demo",), ("status",), RUN):
        answer = console.inside(*words)
        assert answer.status == 1
        assert answer.err.startswith(("recon: home_unwritable: ", "recon: embedded_postgres_failed: ")), answer


def test_commands_before_init_name_it(servers, place) -> None:
    server = servers("pg18")
    server.create_database("bare")
    console = place.console.but(RECON_DATABASE_URL=server.url("bare"))
    assert "run `recon init` once" in console.inside("status").refused("audit_unavailable")
    assert "run `recon init` once" in console.inside(*COMMANDS["approve"]).refused("audit_unavailable")
    assert console.inside("doctor").status == 1


def test_init_prints_does_and_repeats(servers, place) -> None:
    server = servers("pg18")
    server.create_database("fresh")
    console = place.console.but(RECON_DATABASE_URL=server.url("fresh"))
    printed = console.inside("init", "--print")
    assert printed.status == 0
    assert printed.out.count("CREATE TABLE") == 3
    assert "audit_unavailable" in console.inside("status").err  # nothing was created
    assert console.inside("init") == printed
    assert console.inside("init") == Answer(0, "-- recon's tables are complete; nothing to do\n", "")
    assert console.inside("status") == Answer(0, "no batch yet; start with `recon run detect`\n", "")
    assert console.inside("status", "--json").json == {"batches": []}


def test_the_settings_that_doctor_shows_fit_a_terminal(place) -> None:
    """By origin, each on as many lines as it takes; a value of somebody's own makes no line of its own."""
    console = place.console.but(RECON_ACTOR="a\nFAIL b")
    out, _, _ = console.inside("doctor").out.partition("ok   database: ")
    lines = out.splitlines()
    assert lines[0].startswith("ok   settings: from the environment: ENABLE_RECON_EXIT_BACKFILL=true,")
    assert [line[5:16] for line in lines[1:] if not line.startswith(" " * 9)] == ["by default:"]
    assert max(len(line) for line in lines if " " in line.strip()) <= 100
    [check, *_] = console.inside("doctor", "--json").json["checks"]
    assert "RECON_ACTOR=a\nFAIL b" in check["detail"]
    assert " ".join(out.split()) == f"ok settings: {check['detail']}".replace("; ", " ").replace("\n", "\\n")


def test_doctor_ends_with_0_when_all_is_well_and_with_1_when_not(place) -> None:
    _, console = place.profile("examined", "T1")
    words = ("doctor", "--profile-id", "examined")
    answer = console.inside(*words)
    assert (answer.status, answer.err) == (0, "")
    assert all(line.startswith(("ok   ", "     ")) for line in answer.out.splitlines())
    told = console.but(RECON_EXCHANGE=None).inside(*words, "--json")
    assert (told.status, told.json["ok"]) == (1, False)
    assert [check["name"] for check in told.json["checks"] if not check["ok"]] == ["exchange"]


# Refusals: exit status 3


def test_a_profile_without_rows_is_refused_and_claims_no_folder(place) -> None:
    _, console = place.profile("known", "T1")
    answer = console.stage("detect", "unknown", "claimed", "--json")
    assert (answer.status, answer.json["verdict"], answer.json["code"]) == (3, "NO_GO", "unknown_profile")
    assert answer.json["report"] is None
    assert not (place.reports / "claimed").exists()


def test_a_batch_belongs_to_one_profile(place, tmp_path) -> None:
    """Told by the report folder, and where there is none by the database."""
    _, console = place.profile("owner", "T1")
    place.profile("other", "T1")
    assert console.stage("detect", "owner", "owned").status == 0
    message = console.stage("detect", "other", "owned").refused("batch_of_another_profile")
    assert "belongs to profile 'owner'" in message
    elsewhere = console.but(RECON_REPORTS_DIR=str(tmp_path / "reports"))
    answer = elsewhere.stage("detect", "other", "owned", "--json")
    assert (answer.status, answer.json["code"]) == (3, "batch_of_another_profile")
    assert console.inside("status", "--profile-id", "other", "--json").json == {"batches": []}


def test_approving_needs_a_batch_with_a_plan_and_a_name(place) -> None:
    _, console = place.profile("unplanned", "T1")
    console.approve("nowhere").refused("unknown_batch")
    assert console.stage("detect", "unplanned", "unplanned").status == 0
    message = console.approve("unplanned").refused("illegal_transition")
    assert message.endswith("Next: recon run dry-run --profile-id unplanned --batch-id unplanned")
    console.inside("approve", "--batch-id", "unplanned", "--by", "  ").refused("name_missing")
    told = console.inside("approve", "--batch-id", "unplanned", "--by", "x", "--json")
    assert (told.status, told.json["code"]) == (3, "illegal_transition")


def test_the_flags_refuse_and_so_does_the_order_of_the_stages(place) -> None:
    incident, console = place.profile("gated", "T1")
    disabled = console.but(ENABLE_RECON_EXIT_BACKFILL=None).stage("dry-run", "gated", "gated", "--json")
    assert (disabled.status, disabled.json["code"]) == (3, "backfill_disabled")
    disabled = console.but(ENABLE_RECON_EXIT_BACKFILL="false").stage("apply", "gated", "gated")
    assert disabled.status == 3
    assert "  backfill_disabled: ENABLE_RECON_EXIT_BACKFILL is false" in disabled.out
    dry = console.but(RECON_EXIT_BACKFILL_DRY_RUN="true").stage("apply", "gated", "gated", "--json")
    assert (dry.status, dry.json["code"]) == (3, "dry_run_only")
    early = console.stage("dry-run", "gated", "gated", "--json")
    assert (early.status, early.json["code"]) == (3, "illegal_transition")
    assert "does not exist yet; dry-run is not possible" in early.json["message"]
    assert incident.state("gated") is None
    assert not (place.reports / "gated").exists()


# What is written where


def test_standard_output_is_json_alone_and_progress_goes_to_a_terminal(place) -> None:
    """Standard error is a terminal here, standard output a pipe."""
    _, console = place.profile("terminal", "T1")
    mine, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = console.start(*stage_words("detect", "terminal", "terminal"), "--json", stderr=theirs)
    os.close(theirs)
    shown = b""
    while process.poll() is None or select.select([mine], [], [], 0)[0]:
        if select.select([mine], [], [], 0.2)[0]:
            try:
                shown += os.read(mine, 4096)
            except OSError:  # the terminal's other end is closed
                break
    os.close(mine)
    out, _ = process.communicate(timeout=300)
    answer = Answer(process.returncode, out, "")
    assert (answer.status, answer.json["verdict"]) == (0, "DONE")
    assert "cell" in shown.decode().lower()


def test_a_terminal_that_cannot_show_an_id_gets_it_escaped(place) -> None:
    """A batch that is done must not end in an error because its name cannot be printed."""
    name = "caf\u00e9 \U0001f680"
    _, console = place.profile(name, "T1")
    assert console.stage("detect", name, "encoded").status == 0
    narrow = console.but(PYTHONIOENCODING="latin-1")
    out, err = narrow.start("status", "--profile-id", name, encoding="latin-1").communicate(timeout=300)
    assert (out.startswith("encoded  caf\u00e9 \\U0001f680  detected"), err) == (True, "")
    told = narrow("status", "--profile-id", name, "--json")
    assert [batch["profile_id"] for batch in told.json["batches"]] == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("approve", *RUN[-2:], "--by", "x", "--json")])
def test_what_cannot_be_written_to_standard_output_is_told_on_standard_error(console, words) -> None:
    with Path("/dev/full").open("w") as full:
        process = console.start(*words, stdout=full)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    said = "recon: error: Standard output cannot be written (No space left on device); this was for it.\n"
    assert err.endswith(said)
    assert err != said


def test_lab_serves_the_notebooks_trusted_and_on_loopback_only(place, tmp_path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t")
    process = place.console.but(JUPYTER_DATA_DIR=str(tmp_path / "jupyter")).start("lab", *options)
    try:
        deadline = time.monotonic() + 300
        names = ""
        while "01_detect.ipynb" not in names and time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents?token=t", timeout=60) as page:
                    names = page.read().decode()
            except OSError:
                time.sleep(0.2)
        assert all(f"{name}.ipynb" in names for name in ("01_detect", "02_dry_run", "03_apply", "05_rollback"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents/03_apply.ipynb?token=t", timeout=60) as page:
            cells = json.load(page)["content"]["cells"]
        assert {cell["metadata"]["trusted"] for cell in cells if cell["cell_type"] == "code"} == {True}
        sockets = psutil.Process(process.pid).net_connections("tcp")  # one that a question left may be among them
        assert [one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN] == ["127.0.0.1"]
    finally:
        process.terminate()
        place.console.finish(process)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.fixture(scope="module", autouse=True)
def nothing_written_holds_a_secret(place: Place):
    """After all tests of this module: no report that any of them kept does, and the demo was never opened."""
    yield
    assert_no_secret_in(place.reports)
    assert not (place.folder / "home").exists()
