"""Reading to the end: every fill of a span, or a gap that covers what is missing, at any venue with any page size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from venue import faults
from venue.faults import FaultPlan, path_contains
from venue.incident import NOW, after, fetch, market_of
from venue.scenario import order, scenario, trade
from venue.server import VenueServer
from venue.spelling import NAMES, Name

from recon.domain import Wanted, Window
from recon.errors import Refused
from recon.venues.live import guard
from recon.venues.live.pages import (
    Cursor,
    Read,
    Style,
    bill,
    bybit_cursor,
    coinbase_cursor,
    from_id,
    instant,
    offset,
    page_token,
    read_all,
)

each_dialect = pytest.mark.parametrize("name", NAMES)
START = datetime(2026, 3, 1, tzinfo=UTC)
SPAN = Window(START, START + timedelta(seconds=40))
FILLS = path_contains("myTrades", "userTrades", "TradesHistory", "activities/FILL")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECOND", 0.001)


# A venue in memory


def ms(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


@dataclass
class Venue:
    """Fills at these milliseconds after START, told in pages of `size`, oldest or newest first.

    `trouble` says for each answer what happens to it: None, `repeat` (the last answer again, if it held any fill: an
    empty one is for the guard to doubt), `fail` (it cannot be read). `exclusive` venues leave both ends of a span out.
    """

    millis: Sequence[int]
    size: int
    newest_first: bool = False
    exclusive: bool = False
    trouble: Sequence[str | None] = ()
    asked: int = 0
    last: list[dict[str, Any]] = field(default_factory=list)

    @property
    def fills(self) -> list[dict[str, Any]]:
        base = ms(START)
        return [
            {"id": str(number + 1), "order": f"o{number // 3}", "timestamp": base + milli, "symbol": "BTC/USD",
             "info": {"billId": str(number + 1)}}
            for number, milli in enumerate(sorted(self.millis))
        ]  # fmt: skip

    def ask(self, since: int | None, until: int | None, cursor: Cursor) -> Sequence[Mapping[str, Any]]:
        wrong = self.trouble[self.asked] if self.asked < len(self.trouble) else None
        self.asked += 1
        if wrong == "fail":
            raise Refused("evidence_unreadable", "the venue did not answer")
        if wrong == "repeat" and self.last:
            return self.last
        self.last = self._page(since, until, cursor)
        return self.last

    def _page(self, since: int | None, until: int | None, cursor: Cursor) -> list[dict[str, Any]]:
        rows = [row for row in self.fills if self._inside(row["timestamp"], since, until)]
        rows = rows[::-1] if self.newest_first else rows
        if "fromId" in cursor:
            rows = [row for row in rows if int(row["id"]) >= cursor["fromId"]]
        if "page_token" in cursor:
            ids = [row["id"] for row in rows]
            rows = rows[ids.index(cursor["page_token"]) + 1 :]
        if "after" in cursor:
            rows = [row for row in rows if int(row["id"]) < int(cursor["after"])]
        return rows[cursor.get("ofs", 0) :][: self.size]

    def _inside(self, at: int, since: int | None, until: int | None) -> bool:
        closed = 0 if self.exclusive else 1
        return (since is None or at > since - closed) and (until is None or at < until + closed)

    def read(self, style: Style) -> Read:
        return read_all(self.ask, style, SPAN, "BTC/USD", lambda: NOW)


def is_inside(row: Mapping[str, Any]) -> bool:
    return SPAN.holds(instant(row))


def lost(venue: Venue, read: Read) -> list[str]:
    """The fills of the span that were neither read nor lie in a gap."""
    known = {row["id"] for row in read.trades}
    return [
        row["id"]
        for row in venue.fills
        if is_inside(row) and row["id"] not in known and not any(g.start <= instant(row) <= g.end for g in read.gaps)
    ]


PIECES = st.sampled_from([None, timedelta(seconds=8), timedelta(seconds=20)])
TIMES = st.lists(st.sampled_from([0, 0, 1, 999, 1000, 5_000, 5_000, 5_000, 5_001, 17_000, 39_999, 40_000]), max_size=25)
SIZES = st.integers(min_value=2, max_value=9)
TROUBLE = st.lists(st.sampled_from([None, None, None, "repeat", "fail"]), max_size=12)
WAYS: dict[str, tuple[Callable[..., Any], bool, bool]] = {
    "from_id": (from_id, True, False), "page_token": (page_token, False, False),
    "offset": (offset, False, True), "bill": (bill, False, True),
}  # fmt: skip


@settings(max_examples=150)
@given(TIMES, SIZES, PIECES, st.sampled_from(sorted(WAYS)), st.booleans())
def test_a_cursor_reads_all_however_many_share_an_instant(
    millis: list[int], size: int, piece: timedelta | None, way: str, exclusive: bool
) -> None:
    """The pages hold fewer rows than were asked for, and whole pages lie in one instant."""
    cursor, alone, newest_first = WAYS[way]
    venue = Venue(millis, size, newest_first, exclusive)
    read = venue.read(Style(limit=500, piece=piece, cursor=cursor, alone=alone))
    assert not read.gaps
    assert [row["id"] for row in venue.fills if is_inside(row)] == sorted((r["id"] for r in read.trades), key=int)


@settings(max_examples=200)
@given(TIMES, SIZES, PIECES, st.sampled_from(sorted(WAYS)), TROUBLE)
def test_a_cursor_loses_nothing_to_pages_that_repeat_or_fail(
    millis: list[int], size: int, piece: timedelta | None, way: str, trouble: list[str | None]
) -> None:
    cursor, alone, newest_first = WAYS[way]
    venue = Venue(millis, size, newest_first, trouble=trouble)
    read = venue.read(Style(limit=500, piece=piece, cursor=cursor, alone=alone))
    assert lost(venue, read) == []
    assert len({row["id"] for row in read.trades}) == len(read.trades)
    if "fail" not in trouble and "repeat" not in trouble:
        assert not read.gaps


@settings(max_examples=300)
@given(TIMES, SIZES, PIECES, TROUBLE, st.booleans(), st.booleans())
@example([5_000] * 7, 3, None, [], False, False)
@example([0, 1, 5_000, 5_000, 5_000, 5_000], 3, None, [], False, True)
def test_walking_by_time_gives_a_gap_and_never_a_loss(
    millis: list[int], size: int, piece: timedelta | None, trouble: list[str | None], exclusive: bool, lowered: bool
) -> None:
    """Where more fills share an instant than a page holds, nothing but a gap is true; `lowered` limits are not told."""
    venue = Venue(millis, size, exclusive=exclusive, trouble=trouble)
    read = venue.read(Style(limit=500 if lowered else size, piece=piece))
    assert lost(venue, read) == []


def test_walking_by_time_reads_all_where_pages_are_large_enough() -> None:
    venue = Venue([0, 0, 3_000, 3_000, 9_000, 15_000, 15_001, 21_000, 22_000, 33_000], 4)
    read = venue.read(Style(limit=4))
    assert not read.gaps
    assert len(read.trades) == 10


@pytest.mark.parametrize("wrong", ["symbol", "time"])
def test_a_page_that_answers_another_question_is_a_gap(wrong: str) -> None:
    """An answer of another symbol, or from another time, as a cache might give it."""
    venue = Venue([0, 5_000], 5)
    strange = {"symbol": {"symbol": "ETH/USD"}, "time": {"timestamp": ms(START) - 60_000}}[wrong]
    pages = iter([[row | strange for row in venue.fills]])
    read = read_all(lambda *_: next(pages), Style(5, cursor=page_token), SPAN, "BTC/USD", lambda: NOW)
    assert read.trades == ()
    assert [(gap.start, gap.end) for gap in read.gaps] == [(SPAN.start, SPAN.end)]


def test_a_page_that_cannot_be_read_leaves_the_other_pieces() -> None:
    venue = Venue([1_000, 9_000, 30_000], 5, trouble=["fail"])
    read = venue.read(Style(5, piece=timedelta(seconds=20), cursor=from_id, alone=True))
    assert [row["id"] for row in read.trades] == ["3"]
    assert [(gap.start, gap.end) for gap in read.gaps] == [(SPAN.start, SPAN.start + timedelta(seconds=17))]


def test_a_venue_that_repeats_itself_for_ever_is_left() -> None:
    venue = Venue([0, 1, 2, 3, 4], 2, trouble=[None, *["repeat"] * 50])
    read = venue.read(Style(2, cursor=page_token))
    assert venue.asked < 10
    assert "do not get past" in read.gaps[0].why


def test_each_page_is_recorded_with_what_was_asked() -> None:
    read = Venue([0, 1, 2], 2).read(Style(2, cursor=page_token))
    assert [(page.fills, dict(page.cursor)) for page in read.pages] == [
        (2, {}), (1, {"page_token": "2"}), (0, {"page_token": "3"}),
    ]  # fmt: skip
    assert {(page.symbol, page.start, page.end, page.read_at) for page in read.pages} == {
        ("BTC/USD", SPAN.start, SPAN.end, NOW)
    }


# A venue on loopback


def crowded(name: Name, count: int = 23) -> Any:
    """Fills that share one instant, more than a page holds, with one before and one after."""
    symbol = market_of(name, "BTC")
    moments = [after(0), *[after(60, milliseconds=5)] * (count - 2), after(120)]
    return scenario(NOW, *(trade(f"t{n}", symbol, "buy", "0.01", 100, at) for n, at in enumerate(moments)))


@each_dialect
@pytest.mark.parametrize("rows", [1, 2, 5, 22])
def test_fills_of_one_instant_are_read_over_page_edges(name: Name, rows: int) -> None:
    with VenueServer(crowded(name), clock="scenario", limits={name: rows}) as server:
        snapshot = fetch(server, name, market_of(name, "BTC"))
        told = server.told(name)
    assert {fill.fill_id for fill in snapshot.fills} == {row.id for row in told.trades}
    assert not snapshot.gaps


@each_dialect
@pytest.mark.parametrize("strike", [1, 2, 3, 4, 5])
def test_a_page_that_is_given_twice_loses_no_fill(name: Name, strike: int) -> None:
    """From this request on every question gets the answer to the one before, twice."""
    plan = FaultPlan(dict.fromkeys(range(strike, 99), faults.REPEAT), only=FILLS, at_most=2)
    with VenueServer(crowded(name), clock="scenario", limits={name: 4}, faults=plan) as server:
        snapshot = fetch(server, name, market_of(name, "BTC"))
        told = server.told(name)
        assert plan.total > 0
    assert {fill.fill_id for fill in snapshot.fills} == {row.id for row in told.trades}
    assert not snapshot.gaps


@each_dialect
def test_an_open_order_is_not_lost_to_a_repeated_answer(name: Name) -> None:
    """At Alpaca all orders and open orders are one path: an old answer to the one could pass for the other."""
    story = replace(
        crowded(name),
        orders=(*crowded(name).orders, order("o-open", market_of(name, "BTC"), "sell", 1, 100, after(10))),
    )
    plan = FaultPlan(each=(faults.REPEAT,), probability=1, at_most=2)
    with VenueServer(story, clock="scenario", limits={name: 30}, faults=plan) as server:
        snapshot = fetch(server, name, market_of(name, "BTC"))
        assert plan.total > 0
    assert snapshot.open_orders is not None
    assert len(snapshot.open_orders) == 1


@each_dialect
@pytest.mark.parametrize("same", [True, False])
def test_more_open_orders_than_a_page_holds(name: Name, same: bool) -> None:
    """All of them, or the refusal to say so: at Alpaca the limit was lowered below what is documented."""
    symbol = market_of(name, "BTC")
    rows = [order(f"o{n}", symbol, "sell", 1, 100, after(0 if same else n)) for n in range(12)]
    with VenueServer(scenario(NOW, *rows), clock="scenario", limits={name: 7}) as server:
        if name == "alpaca":
            with pytest.raises(Refused, match="which may not be all of them"):
                fetch(server, name, symbol)
            return
        found = fetch(server, name, symbol).open_orders
    assert found is not None
    assert len(found) == 12


# Windows


@each_dialect
def test_the_window_begins_where_it_is_needed(name: Name) -> None:
    """The earliest beginning among open trades or the lookback, whichever is later."""
    symbol = market_of(name, "BTC")
    story = scenario(NOW, *(trade(f"t{n}", symbol, "buy", 1, 100, after(-60 * n)) for n in range(30)))
    with VenueServer(story, clock="scenario") as server:
        for begin, lookback, start in (
            (after(-120), timedelta(hours=72), after(-120)),
            (after(-1200), timedelta(hours=36), NOW - timedelta(hours=36)),
            (None, timedelta(hours=30), NOW - timedelta(hours=30)),
            (NOW + timedelta(days=1), timedelta(hours=30), NOW),
        ):
            found = fetch(server, name, lookback=lookback, wanted=Wanted((symbol,), begin))
            assert found.window.start == start
            expected = [row.filled_at for row in story.trades if row.filled_at >= start]
            assert sorted(fill.filled_at for fill in found.fills) == sorted(expected)


def test_what_a_venue_no_longer_tells_is_a_gap() -> None:
    """OKX tells 90 days of fills."""
    from recon.venues.live.client import Access, connect
    from recon.venues.live.source import _out_of_reach

    venue = connect(Access("okx"))
    assert _out_of_reach(venue, Window(NOW - timedelta(days=89), NOW), NOW) == []
    (gap,) = _out_of_reach(venue, Window(NOW - timedelta(days=120), NOW), NOW)
    assert (gap.symbol, gap.start, gap.end) == (None, NOW - timedelta(days=120), NOW - timedelta(days=90))
    assert "older than 90 days" in gap.why


def test_a_fill_from_the_future_is_refused_and_one_just_ahead_is_not() -> None:
    """Venues stamp about a second ahead; more than five minutes is a wrong clock."""
    symbol = market_of("alpaca", "BTC")
    near, far = NOW + timedelta(seconds=2), NOW + timedelta(minutes=5, milliseconds=500)
    with VenueServer(scenario(NOW, trade("t", symbol, "buy", 1, 100, near)), clock="scenario") as server:
        snapshot = fetch(server, "alpaca", symbol)
    assert (len(snapshot.fills), snapshot.window.end) == (1, near)
    with (
        VenueServer(scenario(NOW, trade("t", symbol, "buy", 1, 100, far)), clock="scenario") as server,
        pytest.raises(Refused, match="ahead of now"),
    ):
        fetch(server, "alpaca", symbol)


@pytest.mark.parametrize(("name", "cursor"), [("nextPageCursor", bybit_cursor), ("cursor", coinbase_cursor)])
def test_a_cursor_that_the_venue_gives_leads_from_page_to_page_until_it_gives_none(name: str, cursor: Any) -> None:
    """It stands on one fill of the page, whichever; the last page has an empty one."""
    told = {"": ("1", "n"), "n": ("2", "m"), "m": ("3", "")}

    def ask(_since: int | None, _until: int | None, sent: Cursor) -> Sequence[Mapping[str, Any]]:
        number, after_it = told[sent.get("cursor", "")]
        fill = {"order": "o", "timestamp": ms(START) + 1000, "symbol": "BTC/USD"}
        return [{**fill, "id": f"{number}a", "info": {}}, {**fill, "id": f"{number}b", "info": {name: after_it}}]

    read = read_all(ask, Style(limit=2, cursor=cursor), SPAN, None, lambda: NOW)
    assert [fill["id"] for fill in read.trades] == ["1a", "1b", "2a", "2b", "3a", "3b"]
    assert ([page.cursor for page in read.pages], read.gaps) == ([{}, {"cursor": "n"}, {"cursor": "m"}], ())
