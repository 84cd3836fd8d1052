"""Rows in the order of time, and the parts of it that pages are cut from, found without reading every row."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Timeline(Generic[Item]):
    """Rows sorted by instant; rows of one instant are sorted by id, or keep the order that they came in."""

    def __init__(
        self,
        rows: Iterable[Item],
        when: Callable[[Item], datetime],
        name: Callable[[Item], str],
        *,
        by_id: bool = True,
    ) -> None:
        self.rows = sorted(rows, key=lambda row: (when(row), name(row) if by_id else ""))
        self._times = [when(row) for row in self.rows]
        self._places = {name(row): place for place, row in enumerate(self.rows)}

    def place(self, name: str) -> int | None:
        """The place of the row with this id, counted from the oldest; None if there is none."""
        return self._places.get(name)

    def first_after(self, moment: datetime) -> int:
        """The place of the first row after an instant."""
        return bisect_right(self._times, moment)

    def first_from(self, moment: datetime) -> int:
        """The place of the first row at an instant or after it."""
        return bisect_left(self._times, moment)

    def page(self, low: int, high: int, size: int, *, newest_first: bool, offset: int = 0) -> list[Item]:
        """At most `size` rows from the places `low` to below `high`, `offset` rows left out first."""
        if not newest_first:
            return self.rows[low:high][offset : offset + size]
        top = max(high - offset, low)
        return self.rows[max(low, top - size) : top][::-1]
