"""What both sources share: one row of text becomes a fill, a position or an open order, or is refused by name.

Invariants 9 and 10; rules.md 1. A source hands over every cell as text, NULL as an empty one, so that a CSV file and a
database table are judged by the same rules. Nothing here reads, writes or knows the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from recon.domain import Fill, OpenOrder, Position, Side, Window
from recon.errors import Refused
from recon.identity import canonical_time
from recon.venues.base import FUTURE_TOLERANCE

FILL_COLUMNS = tuple(field.name for field in fields(Fill))
"""Columns of fills.csv and of a fills table."""

POSITION_COLUMNS = tuple(field.name for field in fields(Position))
"""Columns of positions.csv and of a positions table."""

OPEN_ORDER_COLUMNS = tuple(field.name for field in fields(OpenOrder))
"""Columns of open_orders.csv."""

MAX_DIGITS = 30
"""Digits allowed on each side of the point: more than any venue uses, few enough for exact sums."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
)
_FIRST = datetime.min.replace(tzinfo=UTC)


def unreadable(source: str, problem: str) -> Refused:
    """The refusal `evidence_unreadable`; `problem` says where, expected and found, `source` what to correct."""
    return Refused("evidence_unreadable", f"{problem}; correct the {source} and run again.")


def found(text: str) -> str:
    """A cell as a message shows it: quoted and cut at 80 characters, or `nothing`."""
    return (repr(text) if len(text) <= 80 else repr(text[:80]) + "...") if text else "nothing"


def parse_time(text: str) -> datetime | None:
    """An ISO-8601 time with offset and at most six fractional digits as UTC; None for anything else."""
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: `where` it stands (`fills.csv line 7`) and its cells, an empty text being no value.

    Each reading method returns the cell's value or raises `Refused` (evidence_unreadable) with place and column.
    """

    source: str
    where: str
    cells: Mapping[str, str]

    def refusal(self, column: str, expected: str) -> Refused:
        """The refusal of one cell: where, expected, found, what to do."""
        problem = f"{self.where}, column {column}: expected {expected}, found {found(self.cells[column])}"
        return unreadable(self.source, problem)

    def optional(self, column: str) -> str | None:
        """Printable text without blanks around it, or None. A hidden character would make `BTC` another symbol."""
        text = self.cells[column]
        if text != text.strip() or not text.replace("\u200d", "").isprintable():
            raise self.refusal(column, "printable text without blanks around it")
        return text or None

    def text(self, column: str) -> str:
        """As `optional`, but not empty."""
        value = self.optional(column)
        if value is None:
            raise self.refusal(column, "a text that is not empty")
        return value

    def number(self, column: str) -> Decimal:
        """A finite decimal, exactly as written."""
        text = self.cells[column]
        value = Decimal(text) if _NUMBER.fullmatch(text) else None
        if value is None or max(map(len, format(value.copy_abs(), "f").split("."))) > MAX_DIGITS:
            raise self.refusal(column, f"a number such as 0.25, at most {MAX_DIGITS} digits on each side of the point")
        return value

    def positive(self, column: str) -> Decimal:
        """As `number`, but above zero."""
        value = self.number(column)
        if value <= 0:
            raise self.refusal(column, "a number above zero")
        return value

    def not_negative(self, column: str) -> Decimal:
        """As `number`, but zero or above."""
        value = self.number(column)
        if value < 0:
            raise self.refusal(column, "zero or a number above it")
        return value

    def time(self, column: str) -> datetime:
        """An instant in UTC; the cell must name its offset."""
        value = parse_time(self.cells[column])
        if value is None:
            raise self.refusal(column, "a time with offset such as 2026-03-01T09:30:00.123456Z, at most six decimals")
        return value

    def past(self, column: str, now: datetime) -> datetime:
        """As `time`, but at most FUTURE_TOLERANCE after `now`: clocks differ, and the future is not evidence."""
        value = self.time(column)
        if value - FUTURE_TOLERANCE > now:
            minutes = FUTURE_TOLERANCE // timedelta(minutes=1)
            raise self.refusal(column, f"a time at most {minutes} minutes after now ({canonical_time(now)})")
        return value

    def side(self, column: str) -> Side:
        """Buy or sell, in any case."""
        try:
            return Side(self.cells[column].strip().lower())
        except ValueError:
            raise self.refusal(column, "buy or sell") from None


def read_fill(row: Row, now: datetime) -> Fill:
    """The fill of a row; one stamped more than FUTURE_TOLERANCE after `now` is refused."""
    filled_at = row.past("filled_at", now)
    return Fill(
        fill_id=row.text("fill_id"),
        exchange_order_id=row.text("exchange_order_id"),
        client_order_id=row.optional("client_order_id"),
        symbol=row.text("symbol"),
        side=row.side("side"),
        qty=row.positive("qty"),
        price=row.positive("price"),
        fee=row.number("fee") if row.cells["fee"] else None,
        fee_currency=row.optional("fee_currency"),
        filled_at=filled_at,
    )


def read_position(row: Row) -> Position:
    """The leg of a row; its signed quantity may be zero."""
    return Position(row.text("symbol"), row.number("qty"))


def read_open_order(row: Row) -> OpenOrder:
    """The open order of a row; one that closes whatever is held has no quantity of its own, and works all the same."""
    return OpenOrder(
        exchange_order_id=row.text("exchange_order_id"),
        client_order_id=row.optional("client_order_id"),
        symbol=row.text("symbol"),
        side=row.side("side"),
        qty=row.not_negative("qty"),
        filled_qty=row.not_negative("filled_qty"),
        created_at=row.time("created_at"),
    )


def read_fills(rows: Iterable[Row], now: datetime) -> tuple[Fill, ...]:
    """The fills of all rows by time, order and fill id; identical rows count once, contradicting ones are refused."""
    first: dict[tuple[str, str], tuple[Row, Fill]] = {}
    for row in rows:
        fill = read_fill(row, now)
        earlier_row, earlier = first.setdefault((fill.exchange_order_id, fill.fill_id), (row, fill))
        if earlier != fill:
            raise _contradiction(earlier_row, earlier, row, fill)
    fills = (fill for _, fill in first.values())
    return tuple(sorted(fills, key=lambda fill: (fill.filled_at, fill.exchange_order_id, fill.fill_id)))


def read_positions(rows: Iterable[Row]) -> tuple[Position, ...]:
    """Every leg by symbol and quantity; rows of one symbol stay apart, since equal legs would net to zero."""
    return tuple(sorted(map(read_position, rows), key=lambda leg: (leg.symbol, leg.qty)))


def read_open_orders(rows: Iterable[Row]) -> tuple[OpenOrder, ...]:
    """Every open order by id and symbol."""
    return tuple(sorted(map(read_open_order, rows), key=lambda order: (order.exchange_order_id, order.symbol)))


def window_start(end: datetime, lookback: timedelta) -> datetime:
    """`end - lookback`, or the first instant there is."""
    return end - min(lookback, end - _FIRST)


def latest(fills: Iterable[Fill], now: datetime) -> datetime:
    """The end of a window that nothing else bounds: `now`, or the last fill when the venue's clock runs ahead."""
    return max([now, *(fill.filled_at for fill in fills)])


def within(window: Window, fills: tuple[Fill, ...]) -> tuple[tuple[Fill, ...], list[str]]:
    """The fills inside the window, and a note for the report that counts those that were left out."""
    inside = tuple(fill for fill in fills if window.holds(fill.filled_at))
    left_out = len(fills) - len(inside)
    counted = f"{left_out} of {len(fills)} fills lie outside the window and are not evidence."
    return inside, [counted] if left_out else []


def _contradiction(earlier_row: Row, earlier: Fill, row: Row, fill: Fill) -> Refused:
    columns = [name for name in FILL_COLUMNS if getattr(earlier, name) != getattr(fill, name)]
    return unreadable(
        row.source,
        f"{row.where}: expected the content of {earlier_row.where}, which has the same exchange_order_id and fill_id "
        f"({found(fill.exchange_order_id)}, {found(fill.fill_id)}), found another {', '.join(columns)}",
    )
