"""One question to the database is one read-only transaction; an error in it fails that question's check alone."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

from recon.database import transaction
from recon.domain import Check
from recon.errors import ReconError
from recon.workspace import Workspace

Finding = tuple[bool, str]
"""Whether it holds, and the sentence."""

Question = Callable[[Connection], Finding]


def asked(work: Workspace, name: str, question: Question) -> Check:
    """The check that the question's answer is; a `ReconError` on the way is a failure with its code."""
    try:
        with transaction(work.engine, read_only=True) as connection:
            return Check(name, *question(connection))
    except ReconError as error:
        return Check(name, False, f"{error.code}: {error.message}")
