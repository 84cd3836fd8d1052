"""Who may sign in the tests: real keys, an allowed-signers file, and batches that are approved with them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incidents import Incident

from recon.domain import StageResult, Verdict
from recon.stages.release import Approval
from recon.workspace import Workspace

ALICE, BOB = "alice@example.com", "bob@example.com"


@dataclass(frozen=True)
class Keys:
    """Alice and Bob may sign; a stranger has a key too."""

    folder: Path

    @property
    def alice(self) -> Path:
        return self.folder / "alice"

    @property
    def bob(self) -> Path:
        return self.folder / "bob"

    @property
    def stranger(self) -> Path:
        return self.folder / "stranger"

    @property
    def allowed(self) -> Path:
        return self.folder / "allowed_signers"

    def allow(self, *lines: str) -> None:
        self.allowed.write_text("".join(f"{line}\n" for line in lines))

    def public(self, name: str) -> str:
        return (self.folder / f"{name}.pub").read_text().strip()


def make_keys(folder: Path) -> Keys:
    """The keys, without passphrase, in a new folder; Alice and Bob are allowed."""
    made = Keys(folder)
    folder.mkdir()
    for name in ("alice", "bob", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    made.allow(f"{ALICE} {made.public('alice')}", f"{BOB} {made.public('bob')}")
    return made


def planned(incident: Incident) -> Incident:
    """One ghost and one speck of dust, planned by `tester`."""
    incident.create_table().ghost("t1")
    incident.row("s", "speck", "ENTRY", "0.001", symbol="B/USD")
    assert incident.run("detect").verdict is Verdict.DONE
    assert incident.run("dry-run").code is None
    return incident


def strict(incident: Incident, keys: Keys, **flags: Any) -> Workspace:
    """Signatures are required, and can be verified."""
    return incident.work(**({"recon_require_signature": True, "recon_allowed_signers": keys.allowed} | flags))


def signed(incident: Incident, keys: Keys, **given: Any) -> Approval:
    """Alice approves with her key, the dust acknowledged."""
    return incident.approve("speck=ten cents", **({"by": ALICE, "key": keys.alice} | given))


def unchanged(incident: Incident, stage: str, work: Workspace) -> StageResult:
    """The stage, which must write nothing."""
    before = incident.everything()
    result = incident.run(stage, work=work)
    assert incident.everything() == before
    return result


def approval_check(result: StageResult) -> str:
    [check] = [check for check in result.checks if check.name == "approved"]
    assert check.ok
    return check.detail
