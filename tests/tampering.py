"""Real report folders to be tampered with: one that was validated and signed, one that was rolled back."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from console import CLOSED, OPENED, Console, Place
from incidents import Incident

from recon.reporting import verify as verify_module
from recon.reporting.manifest import parse, read_manifest, statement
from recon.reporting.names import MANIFEST, MANIFESTS, RECORD, SUMS, sha256
from recon.reporting.seal import SealReading, read_report

SIGNER, OTHER = "alice@example.org", "bob@example.org"

LIVES = {"standing": ("apply", "validate", "sign"), "undone": ("apply", "rollback")}
"""Batches and what becomes of them once they are approved; the second one is not signed."""


class Keys:
    """Two people's keys, and the allowed-signers file that names them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed = folder / "allowed_signers"
        lines = [f"{name} {make_key(folder / name.partition('@')[0])}" for name in (SIGNER, OTHER)]
        self.allowed.write_text("".join(lines))

    def of(self, name: str) -> str:
        """The path of a person's private key."""
        return str(self.folder / name.partition("@")[0])


def make_key(path: Path) -> str:
    """Make an SSH key without a passphrase; returns the public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


class Kept:
    """The report folder of a batch, the incident that it is of, and a console for both."""

    def __init__(self, incident: Incident, console: Console, folder: Path, keys: Keys) -> None:
        self.incident, self.console, self.folder, self.keys = incident, console, folder, keys

    @property
    def batch(self) -> str:
        return self.folder.name

    def copy(self, to: Path) -> Path:
        """A copy of the folder that may be changed."""
        return writable(Path(shutil.copytree(self.folder, to / self.batch)))

    def sign(self, name: str = SIGNER) -> None:
        answer = self.console.inside("sign", "--batch-id", self.batch, "--key", self.keys.of(name), "--by", name)
        assert answer.status == 0, answer


def keep(place: Place, keys: Keys, batch: str, stages: tuple[str, ...] = ()) -> Kept:
    """A report folder made by the program: two trades repaired, one left open, approved with a signature."""
    incident, console = place.profile(f"profile of {batch}")
    console = console.but(RECON_ALLOWED_SIGNERS=str(keys.allowed), RECON_ACTOR="tester")
    incident.ghost("T1", "1.5", opened=OPENED, closed=CLOSED)
    incident.ghost("T2", "2", opened=OPENED, closed=CLOSED, symbol="ETH/USD", short=True)
    incident.row(f"entry-T3-{batch}", "T3", "ENTRY", "1", OPENED, symbol="C/USD")
    kept = Kept(incident, console, place.reports / batch, keys)
    for stage in ("detect", "dry-run"):
        assert console.stage(stage, incident.profile, batch).status in (0, 3)
    by = ("--batch-id", batch, "--by", SIGNER, "--key", keys.of(SIGNER))
    assert console.inside("approve", *by, "--acknowledge", "T3=moved").status == 0
    for stage in stages:
        if stage == "sign":
            kept.sign()
            continue
        if stage == "rollback":
            assert console.inside("approve", "--rollback", *by).status == 0
        answer = console.stage(stage, incident.profile, batch)
        assert answer.status == 0, answer
    return kept


def writable(folder: Path) -> Path:
    """The same folder, all of its files writable."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    return folder


def files(folder: Path) -> list[str]:
    """Every file of the folder by name."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def flipped(path: Path, at: int, bit: int) -> Iterator[None]:
    """One bit of the byte at `at` is the other one within the block."""
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    yield
    path.write_bytes(whole)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read each notebook's bytes only once: thousands of folders differ in one byte of one file."""

    @cache
    def reading(content: bytes, path: Path, expected: tuple[tuple[str, str], ...]) -> SealReading:
        return read_report(path, dict(expected))

    def cached(path: Path, expected: dict[str, str]) -> SealReading:
        return reading(path.read_bytes(), path, tuple(expected.items()))

    monkeypatch.setattr(verify_module, "read_report", cached)


def covered_up(folder: Path, *, strange: bool = False) -> None:
    """Make everything agree with the files as they are now, as somebody would who knows recon and has no key.

    The manifests that were replaced speak against it, so they go. A `strange` record is taken as it is.
    """
    shutil.rmtree(folder / MANIFESTS, ignore_errors=True)
    manifest = read_manifest(folder)
    runs = []
    for run in manifest.runs:
        record = folder / RECORD / run["report"].removesuffix(".ipynb")
        facts = json.loads((record / "run.json").read_bytes()) if strange else _rewritten(record)
        runs.append({key: run[key] for key in ("report", "stage", "verdict")} | facts)
    entries = tuple(entry | {"sha256": sha256(folder / entry["name"])} for entry in manifest.files)
    subjects = {name: sha256(folder / name) for name in manifest.digests if not name.startswith(MANIFESTS)}
    data = statement(replace(manifest, files=entries, runs=tuple(runs), subjects=subjects, previous=None))
    (folder / MANIFEST).write_bytes(data)
    summed(folder)
    assert parse(data, MANIFEST).data == data


def summed(folder: Path) -> None:
    """Write SHA256SUMS anew over the files as they are."""
    names = [name for name in files(folder) if name != SUMS]
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def _rewritten(record: Path) -> dict[str, Any]:
    """The facts of a record with the digests of the files that lie beside it now."""
    path = record / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    for kind in ("audit", "orders"):
        facts[kind]["sha256"] = sha256(record / f"{kind}.csv")
    facts["approvals"] = {name: sha256(record / name) for name in facts["approvals"]}
    path.write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return dict(facts)
