"""The installed `recon` as an operator runs it: a process of its own, a clean environment, all that it says kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import make_url

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


@dataclass
class Console:
    """Runs commands in a folder with an environment; every answer is searched for secrets."""

    environment: Mapping[str, str]
    folder: Path
    program: tuple[str, ...] = (str(PROGRAM),)
    answers: list[Answer] = field(default_factory=list)

    def but(self, folder: Path | None = None, **changed: str | None) -> Console:
        """The same console with some settings changed, or unset by None."""
        merged = {**self.environment, **changed}
        environment = {name: value for name, value in merged.items() if value is not None}
        return Console(environment, folder or self.folder, self.program, self.answers)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command without waiting for it."""
        return subprocess.Popen(
            [*self.program, *arguments],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **options,
        )

    def finish(self, process: subprocess.Popen[str]) -> Answer:
        """Wait for a started command and take its answer."""
        out, err = process.communicate(timeout=300)
        answer = Answer(process.returncode, out, err)
        assert_no_secret(out, err)
        assert "Traceback" not in err, err
        self.answers.append(answer)
        return answer

    def __call__(self, *arguments: str) -> Answer:
        """Run `recon` with these arguments."""
        return self.finish(self.start(*arguments))

    def stage(self, stage: str, profile_id: str, batch_id: str, *arguments: str) -> Answer:
        """`recon run STAGE` with `--json`."""
        return self("run", stage, "--profile-id", profile_id, "--batch-id", batch_id, "--json", *arguments)

    def approve(self, batch_id: str, *acknowledge: str) -> Answer:
        """`recon approve` by a reviewer, as text."""
        words = [word for text in acknowledge for word in ("--acknowledge", text)]
        return self("approve", "--batch-id", batch_id, "--by", "a reviewer", *words)


def in_order(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The items of a stage's result."""
    yield from document["items"]
