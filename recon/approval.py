"""The approval document: which bytes of it are signed, and whether it holds for a batch as it stands now.

Entry points: `signed_bytes`, `require_ready`, `require_valid`. Nothing here writes. Rules: rules.md 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from recon.batches import Action, Batch
from recon.errors import ReconError, Refused
from recon.identity import canonical_json, canonical_time
from recon.settings import Settings
from recon.signatures import PLAN, readable, signer

NOT_SIGNED = "not signed"
NOT_VERIFIED = "signed, not verified: RECON_ALLOWED_SIGNERS is unset"


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """What the signature of an approval is made over: its canonical JSON without the key `signature`."""
    return canonical_json({name: value for name, value in document.items() if name != "signature"})


def require_ready(by: str, batch: Batch, settings: Settings, *, signed: bool) -> None:
    """What can be told before a signature is made or checked. Reads the allowed-signers file at most.

    Raises `Refused` (not_approved, second_person_required, signature_missing, allowed_signers_unset) and `UsageError`
    (allowed_signers_unreadable).
    """
    if batch.stored_digest() != batch.plan_digest:
        raise Refused(
            "not_approved",
            f"The stored plan of batch {batch.batch_id} is not the one that its digest {batch.plan_digest} names: it "
            "was changed by hand. Run dry-run again and approve that; find out who changed it.",
        )
    if settings.recon_require_second_person:
        _require_second_person(by, batch)
    require_signers(settings)
    if settings.recon_require_signature and not signed:
        raise Refused(
            "signature_missing",
            "RECON_REQUIRE_SIGNATURE is true, and the approval is not signed. Approve with --key PATH.",
        )
    if signed and settings.recon_allowed_signers is not None:
        readable(settings.recon_allowed_signers)


def require_signers(settings: Settings) -> None:
    """Raises `Refused` (allowed_signers_unset) where signatures are required and no file says whose count."""
    if settings.recon_require_signature and settings.recon_allowed_signers is None:
        raise Refused(
            "allowed_signers_unset",
            "RECON_REQUIRE_SIGNATURE is true, but RECON_ALLOWED_SIGNERS names no file to verify signatures against. "
            "Set it.",
        )


def _require_second_person(by: str, batch: Batch) -> None:
    planner = (batch.plan or {}).get("planned_by")
    if not isinstance(planner, str) or not planner.strip():
        raise Refused(
            "second_person_required",
            "RECON_REQUIRE_SECOND_PERSON is true, and the plan does not say who made it. Run dry-run again.",
        )
    if _name(planner) == _name(by):
        raise Refused(
            "second_person_required",
            f"RECON_REQUIRE_SECOND_PERSON is true, and {by!r} planned this batch. Let somebody else approve it.",
        )


def _name(text: str) -> str:
    return text.strip().casefold()


def require_valid(
    document: Mapping[str, Any] | None, action: Action, batch: Batch, settings: Settings, now: datetime
) -> str:
    """In words how the approval is signed, if it allows `action` (apply or rollback) on the batch now.

    Which rows it names is for the caller to compare. Raises what `require_ready` raises, and `Refused`: not_approved,
    rollback_not_approved, approval_expired, signature_invalid, signer_mismatch; `ReconError` (ssh_keygen_missing).
    """
    document = document or {}
    _require_of(document, action, batch, key=settings.recon_require_signature)
    if now >= datetime.fromisoformat(document["expires_at"]):
        again = batch.approve_command(rollback=action is Action.ROLLBACK, key=settings.recon_require_signature)
        raise Refused(
            "approval_expired",
            f"The approval of {_what(action)} of batch {batch.batch_id} expired at {document['expires_at']}; it is now "
            f"{canonical_time(now)}. Approve it again: {again}",
        )
    require_ready(document["by"], batch, settings, signed=document.get("signature") is not None)
    return _verified(document, settings, now)


def holds(batch: Batch, settings: Settings, now: datetime) -> bool:
    """Whether the plan's approval allows an apply now, as far as can be told here; else it has to be given again."""
    try:
        require_valid(batch.approval, Action.APPLY, batch, settings, now)
    except Refused:
        return False
    except ReconError:  # without ssh-keygen, or the file of allowed signers, this cannot be told; the apply says so
        return True
    return True


def signature_told(document: Mapping[str, Any] | None, settings: Settings) -> tuple[bool, str]:
    """Whether nothing speaks against the signature, as it was when it was made, and that in words; never raises.

    Where signatures are required, one that is missing or cannot be verified speaks against it.
    """
    document = document or {}
    try:
        told = _verified(document, settings, datetime.fromisoformat(document["approved_at"]))
    except (ReconError, KeyError, TypeError, ValueError) as error:
        if document.get("signature") is None:
            return not settings.recon_require_signature, NOT_SIGNED
        why = error.message if isinstance(error, ReconError) else "the document is malformed"
        return False, f"signed, not verified: {why}"
    return not settings.recon_require_signature or told not in (NOT_SIGNED, NOT_VERIFIED), told


def _require_of(document: Mapping[str, Any], action: Action, batch: Batch, *, key: bool) -> None:
    """It is an approval of this action on this plan of this batch, and whole; `key` says that it must be signed."""
    said = {
        "action": (action.value, "another action"),
        "batch_id": (batch.batch_id, "another batch"),
        "profile_id": (batch.profile_id, "another profile"),
        "plan_digest": (batch.plan_digest, "another plan"),
    }
    wrong = [what for name, (value, what) in said.items() if document.get(name) != value]
    if not wrong and _is_whole(document):
        return
    found = "none" if not document else f"one of {', '.join(wrong)}" if wrong else "one that is not whole"
    is_rollback = action is Action.ROLLBACK
    raise Refused(
        "rollback_not_approved" if is_rollback else "not_approved",
        f"Expected an approval of {_what(action)} of batch {batch.batch_id}, found {found}. Approve it: "
        f"{batch.approve_command(rollback=is_rollback, key=key)}",
    )


def _what(action: Action) -> str:
    return "the rollback" if action is Action.ROLLBACK else "the plan"


def _is_whole(document: Mapping[str, Any]) -> bool:
    try:
        aware = all(datetime.fromisoformat(document[name]).tzinfo for name in ("approved_at", "expires_at"))
    except (KeyError, TypeError, ValueError):
        return False
    items = document.get("items")
    return (
        aware
        and isinstance(document.get("by"), str)
        and isinstance(document.get("acknowledgements"), dict)
        and isinstance(items, list)
        and all(isinstance(item, str) for item in items)
    )


def _verified(document: Mapping[str, Any], settings: Settings, at: datetime) -> str:
    signature, allowed = document.get("signature"), settings.recon_allowed_signers
    if signature is None:
        return NOT_SIGNED
    if allowed is None:
        return NOT_VERIFIED
    person = signer(signed_bytes(document), str(signature), PLAN, allowed, at=at)
    if person != document["by"]:
        raise Refused(
            "signer_mismatch",
            f"The approval says that {document['by']!r} gave it, but {allowed} says that {person!r} signed it. Approve "
            f"with --by {person!r} and that key, or with the key of {document['by']!r}.",
        )
    return f"signed by {person} (verified)"
