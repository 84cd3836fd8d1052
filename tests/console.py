"""The installed `recon` as an operator runs it: a clean environment, and all that it says is searched for secrets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from incidents import EXTENDED, Incident, PauseSwitch
from sqlalchemy.engine import make_url

from recon.cli import main

PASSWORD = "open@sesame/4711"
"""Stands in every database URL of these tests. The servers do not ask for it; no output may ever hold it."""

TOKEN = "token-that-nobody-may-see"

SECRETS = (PASSWORD, quote(PASSWORD, safe=""), TOKEN)

PROGRAM = Path(sys.executable).with_name("recon")


def with_password(url: str) -> str:
    """The URL with the password that must not be seen."""
    return make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)


def clean_environment() -> dict[str, str]:
    """This process's environment without any of recon's settings, or PostgreSQL's."""
    ours = ("RECON_", "ENABLE_RECON", "EXCHANGE_STATE", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def patient_kernels(folder: Path) -> dict[str, str]:
    """The setting by which kernels wait a minute for the pause switch, as `incidents.patience` does in this process.

    Their IPython lives in `folder`, which is made, and not in the user's home.
    """
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "patience.py").write_text(
        "import recon.pause\nrecon.pause.read_pause.__kwdefaults__['timeout_seconds'] = 60\ndel recon\n"
    )
    return {"IPYTHONDIR": str(folder)}


@dataclass(frozen=True)
class Answer:
    """How one command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON object on one line, with nothing on standard error."""
        assert self.err == "", self.err
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    def refused(self, code: str, status: int = 3) -> str:
        """The message of this very refusal, told in one line on standard error."""
        assert (self.status, self.out) == (status, ""), self
        assert self.err.startswith(f"recon: {code}: "), self.err
        assert self.err.count("\n") == 1
        return self.err.removeprefix(f"recon: {code}: ").rstrip("\n")


def assert_no_secret(*texts: str) -> None:
    """No text holds a password or the token."""
    for text in texts:
        for secret in SECRETS:
            assert secret not in text, f"a secret was written: {text}"


def assert_no_secret_in(folder: Path) -> int:
    """No file below the folder holds one; returns how many files were read."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert_no_secret(path.read_bytes().decode(errors="replace"))
    return len(files)


@dataclass(frozen=True)
class Console:
    """Runs commands in a folder with an environment; no answer may hold a secret or a traceback."""

    environment: Mapping[str, str]
    folder: Path
    program: tuple[str, ...] = (str(PROGRAM),)

    def but(self, folder: Path | None = None, **changed: str | None) -> Console:
        """The same console with some settings changed, or unset by None."""
        merged = {**self.environment, **changed}
        environment = {name: value for name, value in merged.items() if value is not None}
        return Console(environment, folder or self.folder, self.program)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command without waiting for it."""
        return subprocess.Popen(
            [*self.program, *arguments],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"} | options),
        )

    def finish(self, process: subprocess.Popen[str]) -> Answer:
        """Wait for a started command and take its answer."""
        out, err = process.communicate(timeout=900)
        return _searched(Answer(process.returncode, out, err))

    def __call__(self, *arguments: str) -> Answer:
        """Run `recon` with these arguments in a process of its own."""
        return self.finish(self.start(*arguments))

    def inside(self, *arguments: str) -> Answer:
        """The same within this process, which need not start Python and import recon again; kernels are real."""
        out, err = io.StringIO(), io.StringIO()
        status: object = 0
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "argv", ["recon", *arguments]),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as ended:
                status = ended.code or 0
        assert isinstance(status, int), status
        return _searched(Answer(status, out.getvalue(), err.getvalue()))

    def stage(self, stage: str, profile_id: str, batch_id: str, *arguments: str) -> Answer:
        """`recon run STAGE` within this process."""
        return self.inside(*stage_words(stage, profile_id, batch_id), *arguments)

    def approve(self, batch_id: str, *acknowledge: str) -> Answer:
        """`recon approve` by a reviewer."""
        words = [word for text in acknowledge for word in ("--acknowledge", text)]
        return self.inside("approve", "--batch-id", batch_id, "--by", "a reviewer", *words)


def stage_words(stage: str, profile_id: str, batch_id: str) -> tuple[str, ...]:
    """The arguments of `recon run STAGE`."""
    return ("run", stage, "--profile-id", profile_id, "--batch-id", batch_id)


def _searched(answer: Answer) -> Answer:
    assert_no_secret(answer.out, answer.err)
    assert "Traceback" not in answer.err, answer.err
    return answer


OPENED, CLOSED = -1_000_000, -999_940
"""Minutes of an incident long ago: the command line goes by the server's clock, and no fill may be ahead of it."""


class Place:
    """A configured installation: one database, one pause switch, and profiles as tests need them."""

    def __init__(self, url: str, folder: Path, switch: PauseSwitch) -> None:
        self.url = url
        self.folder = folder
        self.reports = folder / "reports"
        self.console = Console(
            clean_environment()
            | patient_kernels(folder / "ipython")
            | {
                "RECON_DATABASE_URL": with_password(url),
                "RECON_TRADING_STATUS_URL": switch.url,
                "RECON_TRADING_STATUS_TOKEN": TOKEN,
                "RECON_REPORTS_DIR": str(self.reports),
                "RECON_HOME": str(folder / "home"),
                "RECON_ACTOR": "tester",
                "ENABLE_RECON_EXIT_BACKFILL": "true",
                "RECON_EXIT_BACKFILL_DRY_RUN": "false",
                "RECON_EXIT_BACKFILL_LOOKBACK_HOURS": "200000",
            },
            folder,
        )
        self.profiles = 0
        self.switch = switch
        first = Incident(url, folder / "statement", switch).create_table(unique="UNIQUE (profile_id, order_id)")
        if first.has_doors:
            first.sql("UPDATE clock SET instant = NULL")  # the command line goes by the server's clock

    def profile(self, name: str, *ghosts: str) -> tuple[Incident, Console]:
        """A profile with these ghosts, its own statement, and the console that knows it."""
        self.profiles += 1
        incident = Incident(self.url, self.folder / f"statement-{self.profiles}", self.switch)
        incident.profile = name
        incident.columns = EXTENDED
        incident.write_statement()
        for trade_id in ghosts:
            incident.ghost(trade_id, opened=OPENED, closed=CLOSED)
        return incident, self.console.but(RECON_EXCHANGE=f"statement:{incident.folder}")
