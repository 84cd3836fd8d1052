"""Who may approve and sign, and what an approval is worth, said again from rules.md 12 and 15; calls no recon."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

OWNERS = {"alice": "alice@example.com", "bob": "bob@example.com"}
"""Whose the keys are; a stranger has one too, which the allowed-signers file never names."""

PLANNER = "tester"
"""Who makes every plan."""

NAMES = (*OWNERS.values(), " Tester ", "a reviewer")
KEYS = (*OWNERS, "stranger", None)

FORGERIES = ("prolonged", "renamed", "taken off", "by the stranger", "by a colleague")
"""What a person with SQL may do to an approval."""


@dataclass(frozen=True)
class Given:
    """An approval: by whom, with which key it is signed, until when, of which rows; `intact` as it was signed."""

    by: str
    key: str | None
    expires: datetime
    rows: frozenset[str] = frozenset()
    intact: bool = True


@dataclass(frozen=True)
class House:
    """The rules of the house: whether signers are named, which keys the file allows, and what is required."""

    named: bool = False
    required: bool = False
    second: bool = False
    allowed: frozenset[str] = frozenset(OWNERS)
    hours: int = 24

    @property
    def ttl(self) -> timedelta:
        """How long an approval may be applied."""
        return timedelta(hours=self.hours)

    def against(self, given: Given) -> str | None:
        """The code that speaks against an approval now, its expiry aside."""
        if self.second and given.by.strip().lower() == PLANNER:
            return "second_person_required"
        if self.required and not self.named:
            return "allowed_signers_unset"
        if self.required and given.key is None:
            return "signature_missing"
        return self.unverified(given)

    def unverified(self, given: Given) -> str | None:
        """What is wrong with the signature, where there is one and it can be verified."""
        if given.key is None or not self.named:
            return None
        if given.key not in self.allowed or not given.intact:
            return "signature_invalid"
        return None if OWNERS[given.key] == given.by else "signer_mismatch"

    def misses(self, given: Given) -> bool:
        """Whether a signature is required that is not there, or cannot be verified."""
        return self.required and (given.key is None or not self.named or self.unverified(given) is not None)

    def fitting(self) -> tuple[str, str | None]:
        """A name and a key that pass wherever any do."""
        key = next(iter(sorted(self.allowed)), None) if self.named else None
        return (OWNERS[key], key) if key else ("a reviewer", None)
