"""Errors for people: each has a stable code, says what was expected, what was found and what to do.

Programming errors are never of this family: they propagate as what they are.
"""

from __future__ import annotations


class ReconError(Exception):
    """Something failed that a person can put right; the process ends with 1. Never holds a secret."""

    exit_status = 1

    def __init__(self, code: str, message: str) -> None:
        """Keep the stable `code` beside the sentence."""
        super().__init__(message)
        self.code = code
        self.message = message


class Refused(ReconError):
    """The request was understood and refused; nothing was written. The process ends with 3."""

    exit_status = 3


class UsageError(ReconError):
    """The request itself is malformed. The process ends with 2."""

    exit_status = 2
