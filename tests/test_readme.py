"""The README is true: its commands print what it shows, its tables name what the code has, its links lead somewhere.

A fenced block whose info string is `console WORLD` is a session in a sandbox of that name, one shell from the first
block to the last. Lines after `$ ` (and `> `) are commands, the rest is what they print; `...` stands for anything. A
command ends with 0 unless `echo $?` follows. Where nothing is shown, only the status counts.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from console import clean_environment
from incidents import START, an_incident
from sqlalchemy import create_engine, make_url

from recon.cli import cli
from recon.domain import BATCH_REASONS, REMAINDER_REASONS, Reason
from recon.embedded import EmbeddedServer
from recon.embedded_place import find_place
from recon.orders_schema import OPTIONAL, REQUIRED
from recon.settings import Settings
from recon.venues.rows import FILL_COLUMNS, OPEN_ORDER_COLUMNS, POSITION_COLUMNS
from recon.venues.statement import _KEYS

Servers = Callable[[str], EmbeddedServer]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(?P<info>.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)
MARK = "@@ the command before this line ended with"
WORLDS = ("demo", "walk", "own")
ROLE = "recon_operator"
SECONDS = 900
"""When a session is given up: about one minute is usual, on a machine under load several."""


@dataclass(frozen=True)
class Step:
    """One command of the README, the line it stands on, and what the README says that it prints."""

    world: str
    line: int
    command: str
    shown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ran:
    """How the command ended, and what it printed."""

    status: int
    printed: str


def blocks(language: str) -> list[tuple[str, int, str]]:
    """World, line and body of every fenced block of a language."""
    return [
        (match["info"].partition(" ")[2], README.count("\n", 0, match.start("body")) + 1, match["body"])
        for match in FENCE.finditer(README)
        if match["info"].partition(" ")[0] == language
    ]


def steps() -> list[Step]:
    """Every command of the README, in order."""
    found: list[Step] = []
    for world, first, body in blocks("console"):
        for line, text in enumerate(body.splitlines(), start=first):
            if text.startswith("$ "):
                found.append(Step(world, line, text[2:]))
            elif text.startswith("> "):
                found[-1] = Step(world, found[-1].line, f"{found[-1].command}\n{text[2:]}")
            else:
                found[-1].shown.append(text)
    return found


STEPS = steps()


def as_run(command: str) -> str:
    """The command as the sandbox runs it: of `make`, only the recon commands of its recipe, and of those `lab` ends."""
    if not command.startswith("make "):
        return command
    dry = [*command.split(), "--dry-run", "--no-print-directory", "-C", str(ROOT)]
    said = subprocess.run(dry, env=clean_environment() | {"MAKEFLAGS": ""}, capture_output=True, text=True, check=True)
    recipe = [line for line in said.stdout.splitlines() if line.startswith(".venv/bin/recon ")]
    return " && ".join(["true", *(line.replace("recon lab", "recon lab --version") for line in recipe)])


def session(world: str, folder: Path, environment: dict[str, str]) -> dict[int, Ran]:
    """Run the world's commands in one shell that starts in `folder`; by line."""
    mine = [step for step in STEPS if step.world == world]
    ends = f'__status=$?; printf "\\n{MARK} %s\\n" "$__status"; (exit "$__status")'
    script = folder / "session.sh"
    script.write_text("exec 2>&1\n" + "".join(f"{as_run(step.command)}\n{ends}\n" for step in mine), encoding="utf-8")
    ran = subprocess.run(
        ["bash", script.name],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    script.unlink()
    parts = re.split(rf"\n{MARK} (\d+)\n", ran.stdout)
    answers = [Ran(int(status), printed) for printed, status in zip(parts[0::2], parts[1::2], strict=False)]
    assert len(answers) == len(mine), ran
    return {step.line: answer for step, answer in zip(mine, answers, strict=True)}


@contextmanager
def sandbox(folder: Path, wait_until_stopped: Callable[[Path], None]) -> Iterator[dict[str, str]]:
    """The environment of a session: a home of its own, this interpreter's as `.venv`, and no setting but RECON_HOME."""
    home = folder / "home"
    home.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in clean_environment().items() if not name.startswith("XDG_")}
    try:
        yield kept | {"HOME": str(home), "PATH": paths, "RECON_HOME": str(home / "recon-data")}
    finally:
        for name in ("recon-data", "recon-walk"):
            place = find_place(home / name, None)
            wait_until_stopped(place.folder)
            shutil.rmtree(place.folder)


@contextmanager
def own_database(servers: Servers, folder: Path) -> Iterator[None]:
    """What the README's section on the reader's own database takes as given: orders, a statement, a switch, `.env`."""
    server = servers("pg18")
    name = f"readme_{os.getpid()}"
    server.create_database(name)
    url = server.url(name)
    try:
        with an_incident(url, folder) as incident:
            incident.folder = folder / "statements" / "main"
            incident.folder.parent.mkdir()
            incident.create_table(own_tables=False)
            earlier = (datetime.now(UTC) - START) / timedelta(hours=1) - 10
            minute = round(earlier) * 60
            incident.ghost("trade-1", "0.5", opened=minute, closed=minute + 60)
            incident.ghost("trade-2", "4", symbol="ETH/USD", opened=minute, closed=minute + 61)
            incident.row("entry-3", "trade-3", "ENTRY", "90", minute, symbol="SOL/USD")
            incident.hold("SOL/USD", "90")
            (_, _, grants), *_ = blocks("sql")  # the second is for whoever has the doors
            incident.sql(grants)
            values = {
                "RECON_DATABASE_URL": make_url(url).set(username=ROLE).render_as_string(hide_password=False),
                "RECON_TRADING_STATUS_URL": incident.switch.url,
            }
            (_, _, settings), *_ = blocks("ini")
            lines = [line.partition("=") for line in settings.splitlines()]
            text = "".join(f"{setting}={values.get(setting, given)}\n" for setting, _, given in lines)
            (folder / ".env").write_text(text, encoding="utf-8")
            yield
    finally:
        server.drop_database(name)
        engine = create_engine(server.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP ROLE IF EXISTS {ROLE}")
        engine.dispose()


@pytest.fixture(scope="module")
def sessions(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers, wait_until_stopped: Callable[[Path], None]
) -> dict[int, Ran]:
    """What every command of the README did; the worlds run beside each other."""
    folders = {world: tmp_path_factory.mktemp(world) for world in WORLDS}

    def enter(world: str) -> dict[int, Ran]:
        with sandbox(folders[world], wait_until_stopped) as environment:
            return session(world, folders[world], environment)

    with own_database(servers, folders["own"]), ThreadPoolExecutor(len(WORLDS)) as pool:
        return {line: ran for world in pool.map(enter, WORLDS) for line, ran in world.items()}


def expected(shown: list[str]) -> re.Pattern[str]:
    """What is shown as a pattern: `...` alone on a line is any lines, within a line any text."""
    lines = [r"(?:.*\n)*" if line == "..." else f"{re.escape(line)}\n" for line in shown]
    return re.compile("".join(lines).replace(re.escape("..."), ".*"))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.world}-line-{step.line}")
def test_the_command_runs_and_prints_what_is_shown(step: Step, sessions: dict[int, Ran]) -> None:
    ran = sessions[step.line]
    after = [following.command for following in STEPS if following.world == step.world and following.line > step.line]
    if after[:1] != ["echo $?"]:
        assert ran.status == 0, ran.printed
    if step.shown:
        assert expected(step.shown).fullmatch(ran.printed.rstrip("\n") + "\n"), ran.printed


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = [match["info"] for match in FENCE.finditer(README)]
    assert README.count("```") == 2 * len(kinds)
    assert set(kinds) == {"ini", "sql", "text", *(f"console {world}" for world in WORLDS)}
    assert all(body.startswith("$ ") for _, _, body in blocks("console"))


def section(title: str) -> str:
    """The text under a heading, up to the next of the same level or higher."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match, title
    return match[2]


def table(title: str, header: str) -> list[list[str]]:
    """The rows of the table that begins with `header` under a heading, as cells."""
    lines = section(title).splitlines()
    start = lines.index(header)
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(text: str) -> list[str]:
    """Everything in backticks."""
    return re.findall(r"`([^`]+)`", text)


def test_settings_are_those_of_the_model_with_their_defaults() -> None:
    told = {name: default for name, default, _ in table("Settings", "| name | default | meaning |")}
    fields = {name.upper(): one for name, one in Settings.model_fields.items()}
    assert list(told) == list(fields)
    for name, one in fields.items():
        if one.default_factory is not None:
            assert told[name].startswith("the user"), name
        elif one.default is None:
            assert told[name].startswith("unset: "), name
        else:
            assert told[name] == f"`{str(one.default).lower()}`", name


def test_every_setting_of_an_example_exists() -> None:
    names = [line.partition("=")[0] for _, _, text in blocks("ini") for line in text.splitlines()]
    assert {"RECON_EXCHANGE", "RECON_EXCHANGE_SECRET"} <= set(names)
    assert [name for name in names if name.lower() not in Settings.model_fields] == []


def test_every_reason_is_told_and_no_other() -> None:
    told = [quoted(row[0])[0] for row in table("Reasons, and what to do", "| reason | meaning | what to do |")]
    assert told == [reason.value for reason in Reason]
    places = sorted(told.index(reason.value) for reason in REMAINDER_REASONS)
    assert [told[places[0]], told[places[-1]]] == ["missing_fill_evidence_for_large_remainder", "residual_is_base_fee"]
    assert places == list(range(places[0], places[-1] + 1)), "the text names the first and the last of them"
    assert set(told[-3:]) == {reason.value for reason in BATCH_REASONS}


STATUS = {"ReconError": 1, "UsageError": 2, "Refused": 3, "StalePlan": 3}


def raised(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The codes, with their exit status, that a piece of the program raises or returns."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), *_]) if name in STATUS:
            yield code, STATUS[name]
        case ast.Call(
            func=ast.Name(id="_fail"), args=[_, ast.Constant(value=str(code)), _, ast.Constant(value=int(status))]
        ):
            yield code, status
        case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
            yield code, 1
        case ast.BoolOp(op=ast.Or(), values=[ast.Attribute(attr="code"), ast.Constant(value=str(code))]):
            yield code, 1
        case ast.Return(value=ast.Tuple(elts=[ast.Constant(value=str(code)), ast.JoinedStr() | ast.Constant()])):
            yield code, 1


def test_every_code_is_told_with_its_status_and_no_other() -> None:
    told = {
        code: {int(number) for number in status.split(", ")}
        for status, codes, _ in table("Exit statuses and scheduling", "| status | codes | what they have in common |")
        for code in quoted(codes)
    }
    found = defaultdict(set)
    for path in sorted((ROOT / "recon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for code, status in raised(node):
                found[code].add(status)
    assert told == found


def test_every_command_is_told_with_its_options_and_no_other() -> None:
    told = {}
    for usage, _ in table("Commands", "| command | what it does |"):
        [line] = quoted(usage)
        told[line.split()[1]] = set(re.findall(r"--[a-z-]+", line))
    options = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in cli.commands.items()
    }
    assert told == options
    assert "`--help`" in section("Commands")
    assert "`recon --version`" in section("Commands")


def test_the_exit_statuses_are_told() -> None:
    told = re.findall(r"^- \*\*(\d)\*\*: ", section("Exit statuses and scheduling"), re.MULTILINE)
    assert [int(status) for status in told] == sorted({0, *STATUS.values()})


def test_the_statement_has_the_columns_that_are_read() -> None:
    files = table("Exchange statement", "| file | columns | without it |")
    told = {quoted(name)[0]: tuple(quoted(columns)[0].split(", ")) for name, columns, _ in files}
    assert told == {
        "fills.csv": FILL_COLUMNS,
        "positions.csv": POSITION_COLUMNS,
        "open_orders.csv": OPEN_ORDER_COLUMNS,
        "statement.json": _KEYS,
    }


def test_the_orders_table_has_the_columns_that_are_read() -> None:
    [paragraph] = [
        text for text in section("Your own database").split("\n\n") if text.startswith("**The orders table**")
    ]
    required, _, optional = paragraph.partition(";")
    assert tuple(quoted(required)) == REQUIRED
    assert tuple(quoted(optional)) == OPTIONAL


def anchors(markdown: str) -> set[str]:
    """The anchors that a Markdown page's headings get where it is hosted."""
    titles = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_the_link_leads_somewhere(target: str) -> None:
    path, _, anchor = target.partition("#")
    page = ROOT / path if path else ROOT / "README.md"
    assert page.is_file()
    assert not anchor or anchor in anchors(page.read_text(encoding="utf-8"))


def test_every_file_and_folder_of_the_source_that_is_named_exists() -> None:
    named = {name for name in quoted(FENCE.sub("", README)) if re.fullmatch(r"[\w/]+(\.py|\.md|/)", name)}
    assert {"recon/evidence.py", "recon/stages/"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists() and not (ROOT / "recon" / name).exists()] == []


def test_every_target_of_make_that_is_named_exists() -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"(?:`|^\$ )make (\w+)", README, re.MULTILINE))
    assert {"demo", "lab", "test", "lint"} <= named <= set(targets.split())


def test_the_picture_is_small() -> None:
    picture = (ROOT / "notebooks" / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) < 300_000
