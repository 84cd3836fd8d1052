"""Signing the report of a batch, which closes the incident: folder and database must agree, then a person signs.

Entry point: `sign_report`. Rules: rules.md 15.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from recon import batches
from recon.agreement import database_checks
from recon.batches import Action, Batch
from recon.database import transaction
from recon.domain import Check, State
from recon.doors.access import behind
from recon.doors.names import Role
from recon.errors import Refused
from recon.reporting.describe import describe, write_signature
from recon.reporting.manifest import read_manifest
from recon.reporting.names import MANIFEST, SIGNATURE
from recon.reporting.verify import verify_folder
from recon.settings import Settings
from recon.signatures import REPORT, readable, sign, signer
from recon.workspace import Workspace, open_workspace


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed: the batch and its state now, by whom, whether that was verified, and which manifest."""

    batch_id: str
    profile_id: str
    state: State
    by: str
    is_verified: bool
    manifest_sha256: str
    signature: Path

    def document(self) -> dict[str, Any]:
        """The JSON object of `recon sign --json`."""
        return {
            "batch_id": self.batch_id,
            "profile_id": self.profile_id,
            "state": self.state.value,
            "by": self.by,
            "verified": self.is_verified,
            "manifest_sha256": self.manifest_sha256,
            "signature": str(self.signature),
        }

    def lines(self) -> list[str]:
        """The same for people."""
        how = (
            "as the allowed-signers file names them"
            if self.is_verified
            else "not verified: RECON_ALLOWED_SIGNERS is unset"
        )
        stays = "" if self.state is State.SIGNED else f"; the batch stays {self.state.value}"
        return [
            f"signed: the report of batch {self.batch_id}{stays}",
            f"  by {self.by} ({how})",
            f"  manifest SHA-256 {self.manifest_sha256}",
            f"  signature: {self.signature}",
        ]


def sign_report(settings: Settings, batch_id: str, key: Path, by: str | None = None) -> Signed:
    """Verify the report of a batch, sign its manifest with `key` and move the batch; writes both.

    A report that somebody signed already gets a new manifest when another key signs: the earlier signature is kept
    with the manifest that it is for. Raises `Refused` (role_missing, unknown_batch, illegal_transition,
    report_not_intact, signature_invalid, signer_mismatch, key_unusable), `UsageError` (allowed_signers_unreadable) and
    `ReconError` (ssh_keygen_missing). Whatever is refused leaves the folder and the batch as they were.
    """
    work = open_workspace(settings=settings)
    work = replace(work, engine=behind(work.engine, Role.APPROVER))
    allowed = settings.recon_allowed_signers
    if allowed is not None:
        readable(allowed)
    folder = settings.recon_reports_dir / batch_id
    batch = _signable(work.engine, batch_id)
    _require_intact(settings, folder, allowed, batch)
    if not read_manifest(folder).is_statement:
        describe(folder, batch.profile_id)
    data = read_manifest(folder).data
    signature = sign(data, key, REPORT)
    who = _signer(data, signature, allowed, by) or by or settings.recon_actor
    there = folder / SIGNATURE
    if there.is_file() and there.read_bytes() != signature.encode():
        describe(folder, batch.profile_id, anew=True)
        data = read_manifest(folder).data
        signature = sign(data, key, REPORT)
    state = _close(work, batch, folder, data, signature, who)
    manifest = read_manifest(folder)
    return Signed(batch_id, batch.profile_id, state, who, allowed is not None, manifest.sha256, folder / SIGNATURE)


def _signable(engine: Engine, batch_id: str) -> Batch:
    """The batch, in a state in which its report may be signed."""
    with transaction(engine, read_only=True) as connection:
        batch = batches.load(connection, batch_id)
    if batch.state is None:
        raise Refused("unknown_batch", f"There is no batch {batch_id}. `recon status` lists them.")
    batch.after(Action.SIGN)
    return batch


def _require_intact(settings: Settings, folder: Path, allowed: Path | None, batch: Batch) -> None:
    """The folder is that of the batch, holds by itself and against the database, and stayed as it was meanwhile."""
    before = _manifest_bytes(folder)
    checks = verify_folder(folder, allowed, require_approvals=settings.recon_require_signature)
    if all(check.ok for check in checks):
        _require_owner(folder, batch)
        checks += database_checks(settings, folder, signing=True)
    _require_ok(folder, checks)
    if _manifest_bytes(folder) != before:
        raise Refused("report_not_intact", f"{folder} got another manifest while it was verified. Sign again.")


def _manifest_bytes(folder: Path) -> bytes | None:
    path = folder / MANIFEST
    return path.read_bytes() if path.is_file() else None


def _require_owner(folder: Path, batch: Batch) -> None:
    """The manifest is of this very batch; that the results are of the manifest's batch is the check `one_batch`."""
    manifest = read_manifest(folder)
    if (manifest.profile_id, manifest.batch_id) != (batch.profile_id, batch.batch_id):
        raise Refused(
            "report_not_intact",
            f"The report in {folder} is of profile {manifest.profile_id!r} batch {manifest.batch_id!r}, expected "
            f"profile {batch.profile_id!r} batch {batch.batch_id!r}. Nothing was signed; put the batch's own folder "
            "back.",
        )


def _require_ok(folder: Path, checks: list[Check]) -> None:
    wrong = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    if wrong:
        raise Refused(
            "report_not_intact",
            f"The report in {folder} does not hold, so it was not signed: {wrong}. Find out who changed what; `recon "
            "verify` shows every check.",
        )


def _signer(data: bytes, signature: str, allowed: Path | None, by: str | None) -> str | None:
    """Whose signature it is, None when nobody says whose signatures count; it must be that of `by`, if named."""
    if allowed is None:
        return None
    who = signer(data, signature, REPORT, allowed)
    if by is not None and by != who:
        raise Refused(
            "signer_mismatch",
            f"The key is that of {who!r}, expected {by!r}. Nothing was signed; use your own key, or name its owner.",
        )
    return who


def _close(work: Workspace, batch: Batch, folder: Path, data: bytes, signature: str, who: str) -> State:
    """Place the signature and move the batch; a fault in between leaves a signature that signing again completes."""
    with transaction(work.engine) as connection:
        held = batches.load(connection, batch.batch_id, batch.profile_id, lock=True)
        state = held.after(Action.SIGN)
        _require_ok(folder, verify_folder(folder, work.settings.recon_allowed_signers))
        if not write_signature(folder, data, signature):
            raise Refused(
                "report_not_intact", f"{folder} has another manifest by now; a stage ran meanwhile. Sign again."
            )
        batches.save(connection, held.moved(Action.SIGN), actor=who, now=work.now(connection))
    return state
