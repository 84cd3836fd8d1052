"""The approvals kept in a report folder: whose signatures they carry, and whether the reports speak of the same ones.

Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recon.agreement_audit import WRITTEN
from recon.approval import NOT_SIGNED, NOT_VERIFIED
from recon.domain import Check, Stage
from recon.errors import ReconError, Refused
from recon.reporting.chain import going_by
from recon.reporting.names import RECORD, STEMS
from recon.reporting.seal import SealReading
from recon.signatures import PLAN, signer
from recon.stages.approved import approval_told, tells_of

ACTIONS = {"approval": "apply", "rollback_approval": "rollback"}
"""What each kind of approval must say that it releases."""

REMEDIES = {
    NOT_SIGNED: "Find out who approved; if signatures were not required then, verify without requiring them.",
    NOT_VERIFIED: "Name whose signatures count with RECON_ALLOWED_SIGNERS.",
}
"""What to do about an approval whose signature is required, and missing or not verified."""


def approvals_check(
    folder: Path,
    readings: Mapping[str, SealReading],
    allowed_signers: Path | None,
    *,
    is_required: bool = False,
) -> Check:
    """The kept approvals: signed by whom, of this batch, and the ones that the reports of the applies tell of.

    Where a signature `is_required`, one that is not signed, or cannot be verified, is a failure, and a demand where
    nothing else is wrong.
    """
    told: dict[str, list[str]] = {}
    wrong: list[str] = []
    for path in sorted(folder.glob(f"{RECORD}/*/*approval.json")):
        name = path.relative_to(folder).as_posix()
        document = _document(path)
        if document is None:
            wrong.append(f"{name} is no approval.")
            continue
        wrong += _foreign(name, path.stem, document, readings)
        stem = path.parent.name
        reading = readings.get(f"{stem}.ipynb")
        if reading is not None and stem.startswith(STEMS[Stage(ACTIONS[path.stem])]):
            is_signed = path.with_name(f"{path.name}.sig").is_file()
            wrong += [f"{name} {what}" for what in _unlike(document, reading.result or {}, is_signed)]
        try:
            told.setdefault(_signed(path, document, allowed_signers), []).append(name)
        except ReconError as error:
            wrong.append(f"{name}.sig does not sign {name}: {error.message}")
    demanded = [
        f"{', '.join(told[what])}: expected a verified signature, found: {what}. {REMEDIES[what]}"
        for what in REMEDIES
        if is_required and what in told
    ]
    is_demand = not wrong and bool(demanded)
    wrong += demanded
    good = "; ".join(f"{', '.join(names)}: {what}" for what, names in told.items())
    used = going_by(allowed_signers) if wrong or good else ""
    said = " ".join(wrong).removesuffix(".") or good or "no approval was kept"
    return Check("approvals", not wrong, said + used, is_demand)


def _document(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = (
        isinstance(document, dict)
        and isinstance(document.get("acknowledgements"), dict)
        and isinstance(document.get("items"), list)
        and all(isinstance(item, str) for item in document["items"])
    )
    return document if whole else None


def _foreign(name: str, kind: str, document: Mapping[str, Any], readings: Mapping[str, SealReading]) -> Iterator[str]:
    for reading in readings.values():
        result = reading.result
        if result is not None and result["batch_id"] != document.get("batch_id"):
            yield f"{name} is of batch {document.get('batch_id')!r}, the reports are of {result['batch_id']!r}."
            break
    action = document.get("action")
    if action is not None and action != ACTIONS[kind]:
        yield f"{name} releases {action!r}, expected {ACTIONS[kind]!r}."


def _unlike(document: Mapping[str, Any], result: Mapping[str, Any], is_signed: bool) -> Iterator[str]:
    """In what an approval differs from what the report of the stage that it released says."""
    if not result or "code" in result:
        return
    if document.get("plan_digest") != result["plan_digest"]:
        yield f"is of plan {document.get('plan_digest')}, the report says {result['plan_digest']}."
    written = {item["order_id"] for item in result["items"] if item["decision"] in WRITTEN}
    if result["stage"] == Stage.APPLY and written ^ set(document.get("items") or ()):
        yield "does not release the rows that the report says were written."
    said = approval_told(document)
    for check in result["checks"]:
        if check["name"] == "approved" and not tells_of(check["detail"], said, is_signed):
            yield f"says {said}; {'signed' if is_signed else NOT_SIGNED}, the report {check['detail']}."


def _signed(path: Path, document: Mapping[str, Any], allowed_signers: Path | None) -> str:
    """What can be said of the signature; the key counts if it was allowed when the approval was given."""
    signature = path.with_name(f"{path.name}.sig")
    if not signature.is_file():
        return NOT_SIGNED
    if allowed_signers is None:
        return NOT_VERIFIED
    text = signature.read_bytes().decode("utf-8", errors="replace")
    who = signer(path.read_bytes(), text, PLAN, allowed_signers, at=_instant(document.get("approved_at")))
    if who != document.get("by"):
        raise Refused("signer_mismatch", f"it is {who!r} who signed, and {document.get('by')!r} who approved.")
    return f"signed by {who}"


def _instant(text: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
