"""Reading all fills of a span: page after page until the venue has no more, or a named gap.

Entry point: `read_all`. A span is cut into pieces that the venue answers at once, and each piece is paged by the
venue's own cursor where it has one, so that fills that share an instant are never lost at the edge of a page;
elsewhere by time, each page asked for from the last instant of the one before. Only an answer without any new fill
ends a piece: a short page may be a lower limit, or a filter. A page by time that tells nothing new and is as long as
any before may have been cut in the midst of one instant, and ends it with a gap. What could not be read becomes a
`Gap`, never an absence (invariant 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from recon.domain import Gap, Page, Window
from recon.errors import Refused
from recon.venues.live.client import Denied

Trade = Mapping[str, Any]
"""A fill as ccxt gives it: `id`, `order`, `timestamp` in milliseconds, `info` with the venue's own fields."""

Cursor = Mapping[str, Any]
"""Parameters that ask for the page after one; empty for the first."""

Ask = Callable[[int | None, int | None, Cursor], Sequence[Trade]]
"""One page: from and until in milliseconds (both ends included), and the cursor. Raises `Refused`."""

EDGE = timedelta(seconds=1)
"""How much earlier and later than needed a piece is asked for: some venues leave an end out, or know whole seconds."""

STUBBORN = 3
"""How often a page that repeats known fills is asked for again before it becomes a gap."""


def from_id(page: Sequence[Trade], _: Cursor) -> Cursor:
    """Binance: ids grow, and `fromId` is the first of the page; it stands alone, without a span."""
    return {"fromId": max(int(trade["id"]) for trade in page) + 1}


def page_token(page: Sequence[Trade], _: Cursor) -> Cursor:
    """Alpaca: the page after the fill of this id."""
    return {"page_token": page[-1]["id"]}


def offset(page: Sequence[Trade], cursor: Cursor) -> Cursor:
    """Kraken: how many fills were seen; the span's end is fixed, so none is added in between."""
    return {"ofs": cursor.get("ofs", 0) + len(page)}


def bill(page: Sequence[Trade], _: Cursor) -> Cursor:
    """OKX: newest first, so the page after is that before the oldest bill."""
    return {"after": min((str(trade["info"]["billId"]) for trade in page), key=lambda text: (len(text), text))}


def bybit_cursor(page: Sequence[Trade], _: Cursor) -> Cursor:
    """Bybit: the cursor of the answer, which ccxt leaves on its first and last fill; an empty one ends the piece."""
    return {
        "cursor": next(
            (trade["info"].get("nextPageCursor") for trade in page if trade["info"].get("nextPageCursor")), ""
        )
    }


def coinbase_cursor(page: Sequence[Trade], _: Cursor) -> Cursor:
    """Coinbase: the cursor of the answer, which ccxt leaves on its fills."""
    return {"cursor": next((trade["info"].get("cursor") for trade in page if trade["info"].get("cursor")), "")}


@dataclass(frozen=True, slots=True)
class Style:
    """How a venue pages: the longest piece, the largest page, its cursor, fixed parameters, and how far back it goes.

    `alone` says that a cursor may not be sent together with a span.
    """

    limit: int
    piece: timedelta | None = None
    cursor: Callable[[Sequence[Trade], Cursor], Cursor] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    reach: timedelta | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a span gave: each fill once, in the order read; the pages; and what is missing."""

    trades: tuple[Trade, ...]
    pages: tuple[Page, ...]
    gaps: tuple[Gap, ...]


def read_all(
    ask: Ask,
    style: Style,
    span: Window,
    symbol: str | None,
    clock: Callable[[], datetime],
    keep: Callable[[Trade], Trade] = lambda trade: trade,
) -> Read:
    """All fills of `span`, both ends included, on `symbol` (as ccxt spells it; None is every symbol).

    `keep` says what of each is kept; `order`, `id` and `timestamp` must be, and memory is what the rest takes.
    Raises `Denied` where the keys are not accepted; any other page that cannot be read is a gap.
    """
    found: dict[tuple[str, str, str], Trade] = {}
    pages: list[Page] = []
    gaps: list[Gap] = []
    for piece in _pieces(span, style.piece):
        try:
            for page in _pages(ask, style, piece, symbol, pages, clock):
                found.update({_key(trade): keep(trade) for trade in page})
        except Denied:
            raise
        except Refused as refusal:
            gaps.append(Gap(symbol, piece.start, piece.end, refusal.message))
    inside = [trade for trade in found.values() if span.start - EDGE <= instant(trade) <= span.end + EDGE]
    return Read(tuple(inside), tuple(pages), tuple(gaps))


def _key(trade: Trade) -> tuple[str, str, str]:
    """What makes a fill one: even its id repeats, in dust conversions, at another time."""
    return (str(trade.get("order")), str(trade["id"]), str(trade["timestamp"]))


def instant(trade: Trade) -> datetime:
    """When the fill happened, to the millisecond."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(trade["timestamp"]))


def _pieces(span: Window, length: timedelta | None) -> Iterator[Window]:
    start, length = span.start, length and length - 3 * EDGE
    while length is not None and start + length < span.end:
        yield Window(start, start + length)
        start += length
    yield Window(start, span.end)


def _pages(
    ask: Ask, style: Style, piece: Window, symbol: str | None, pages: list[Page], clock: Callable[[], datetime]
) -> Iterator[Sequence[Trade]]:
    """The pages of one piece. Raises `Refused` when one cannot be read, or repeats what is known for ever."""
    seen: set[tuple[str, str, str]] = set()
    cursor: Cursor = {}
    start, stuck, longest = piece.start, 0, 0
    while True:
        since, until = (None, None) if cursor and style.alone else (to_ms(start - EDGE), to_ms(piece.end + EDGE))
        page = ask(since, until, cursor)
        pages.append(Page(symbol, start, piece.end, dict(cursor), len(page), clock()))
        new = [trade for trade in page if _key(trade) not in seen]
        _check(page, symbol, piece, style, cursor)
        if not page or (not new and style.cursor is None and len(page) < min(style.limit, max(longest, 2))):
            return
        longest = max(longest, len(page))
        if new:
            yield new
            seen.update(_key(trade) for trade in new)
            stuck = 0
        elif style.cursor is None or (stuck := stuck + 1) > STUBBORN:
            raise _stuck(symbol, page)
        if style.cursor is None:
            start = max(start, *map(instant, page))
        elif new:
            cursor = style.cursor(page, cursor)
            if not all(cursor.values()) or (style.alone and min(map(instant, page)) > piece.end):
                return


def _check(page: Sequence[Trade], symbol: str | None, piece: Window, style: Style, cursor: Cursor) -> None:
    """Raise `Refused` when the page answers another question than was asked."""
    if symbol is not None and any(trade["symbol"] != symbol for trade in page):
        raise Refused("evidence_unreadable", f"a page of {symbol} holds fills of another symbol")
    if not (cursor and style.alone) and any(
        not piece.start - 2 * EDGE <= instant(trade) <= piece.end + 2 * EDGE for trade in page
    ):
        raise Refused("evidence_unreadable", "a page holds fills from outside the span that was asked for")


def _stuck(symbol: str | None, page: Sequence[Trade]) -> Refused:
    return Refused(
        "evidence_unreadable",
        f"the pages of {symbol or 'the account'} do not get past {max(map(instant, page)):%Y-%m-%dT%H:%M:%S.%fZ}: more "
        "fills share that instant than a page holds, or the venue repeats itself",
    )


def to_ms(value: datetime) -> int:
    """Whole milliseconds since 1970."""
    return (value - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
