"""The demo's approval: every trade that needs an acknowledgement is named with what happened to it."""

from __future__ import annotations

from recon.demo.ledger import STORIES
from recon.domain import Reason

DEMO_REVIEWER = "demo reviewer"
"""Who approves the demo's plan; a role, not a person."""

RELEASED_UNASKED = frozenset({Reason.FILL_EVIDENCE, Reason.DUST_REMAINDER, Reason.REINSTATE})
"""Reasons that need no acknowledgement."""


def acknowledgements() -> list[str]:
    """`TRADE_ID=WHY` for every trade of the incident that must be acknowledged."""
    return [f"{story.trade_id}={story.what_happened}" for story in STORIES if story.expected - RELEASED_UNASKED]
