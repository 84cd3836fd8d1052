"""The protocol between recon and any source of exchange evidence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from recon.domain import NOTHING_SPECIAL, Snapshot, Wanted, Window

FUTURE_TOLERANCE = timedelta(minutes=5)
"""Fills stamped further ahead of the clock than this are refused: venues stamp about a second ahead."""


class Exchange(Protocol):
    """A read-only source of fills, positions and open orders of one account."""

    name: str
    """What the report calls the source; holds no secret."""

    live: bool
    """Whether it has to be told what to ask for (`wanted`)."""

    def fetch(
        self,
        profile_id: str,
        *,
        now: datetime,
        lookback: timedelta,
        window: Window | None = None,
        wanted: Wanted = NOTHING_SPECIAL,
    ) -> Snapshot:
        """Everything the account says about `profile_id`; reads only.

        Without `window` the source settles it: `[max(from, end - lookback), end]`, `end` being its `to` or
        `now` (and never before the latest accepted fill). With `window` (apply reuses the dry run's) only fills
        inside it are returned. `wanted` tells a live venue what to ask for; a source that holds all of it leaves that
        aside. Raises `Refused` (evidence_unreadable) when the answer cannot be read in full.
        """
        ...


@runtime_checkable
class Paged(Protocol):
    """A source that reads page by page, and calls `on_page` after each."""

    on_page: Callable[[], object]
