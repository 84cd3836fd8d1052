"""A live venue as a source of evidence: fills, legs and open orders of one account, complete or with a named reason.

Implements `recon.venues.base.Exchange` for `ccxt:NAME`. Fills are read first and positions last, so that flatness is
the newest thing known. A page that cannot be read becomes a gap (evidence_window_too_short), positions that cannot be
read stay unknown; anything else that fails refuses the fetch (evidence_unreadable). Nothing is ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from recon.domain import NOTHING_SPECIAL, Coverage, Doubt, Gap, Position, Reason, Snapshot, Wanted, Window
from recon.errors import Refused
from recon.identity import canonical_symbol
from recon.venues import rows
from recon.venues.base import FUTURE_TOLERANCE
from recon.venues.live import trades
from recon.venues.live.client import Access, ReadOnlyVenue, connect
from recon.venues.live.holdings import read_legs, read_open_orders
from recon.venues.live.markets import Markets
from recon.venues.live.reading import Reading, read_fills
from recon.venues.live.styles import known, style


class CcxtExchange:
    """One account at a live venue; implements `recon.venues.base.Exchange`."""

    live = True

    def __init__(self, access: Access) -> None:
        """Nothing is asked yet. Raises `UsageError` (exchange_unknown) for a venue that recon cannot read in full."""
        self.access = access
        known(connect(access))
        self.name = f"ccxt:{access.name}"
        self.on_page: Callable[[], object] = lambda: None

    def fetch(
        self,
        profile_id: str,
        *,
        now: datetime,
        lookback: timedelta,
        window: Window | None = None,
        wanted: Wanted = NOTHING_SPECIAL,
    ) -> Snapshot:
        """What the account says; see `Exchange.fetch`. One account serves one profile, so `profile_id` names nothing.

        Raises `Refused` (evidence_unreadable).
        """
        venue = connect(self.access)
        venue.on_answer = self.on_page
        venue.load()
        markets = Markets(venue, wanted.symbols, wanted.also)
        span = window or _span(now, lookback, wanted)
        read = read_fills(venue, markets, span, now)
        window = window or _settled(span, rows.latest(read.fills, now), lookback)
        inside, left_out = rows.within(window, read.fills)
        legs, doubts, notes = _legs(venue, markets)
        return Snapshot(
            self.name,
            window,
            inside,
            legs,
            read_open_orders(venue, known(venue), markets),
            notes=(*_notes(venue, markets, read), *notes, *left_out),
            gaps=tuple(map(_canonical, (*read.gaps, *_out_of_reach(venue, window, now)))),
            doubts=(*doubts, *_units(markets), *_shared(markets)),
            replaced=read.replaced,
            asked=_asked(venue, wanted),
            coverage=Coverage(venue.name, now, tuple(read.pages)),
        )


def _asked(venue: ReadOnlyVenue, wanted: Wanted) -> frozenset[str] | None:
    """The symbols that the legs cover: all where the venue lists every contract that is held, else those asked for."""
    if venue.market not in ("spot", "margin") and not known(venue).apart:
        return None
    return frozenset(map(canonical_symbol, (*wanted.symbols, *wanted.also)))


def _span(now: datetime, lookback: timedelta, wanted: Wanted) -> Window:
    """From the later of the earliest beginning of an open lifecycle and the lookback, to the clock's tolerance."""
    start = rows.window_start(now, lookback)
    if wanted.begin is not None:
        start = max(start, min(wanted.begin, now))
    return Window(start, now + FUTURE_TOLERANCE)


def _settled(span: Window, end: datetime, lookback: timedelta) -> Window:
    """The window that the span and its last fill make: the lookback counts from `end`, as for a statement."""
    return Window(max(span.start, rows.window_start(end, lookback)), end)


def _canonical(gap: Gap) -> Gap:
    return replace(gap, symbol=gap.symbol and canonical_symbol(gap.symbol))


def _legs(
    venue: ReadOnlyVenue, markets: Markets
) -> tuple[tuple[Position, ...] | None, tuple[Doubt, ...], tuple[str, ...]]:
    """Positions, or None with the sentence that says why they are unknown."""
    try:
        held = read_legs(venue, known(venue), markets)
    except Refused as refusal:
        return None, (), (f"Positions are unknown: {refusal.message}",)
    return held.legs, held.doubts, held.notes


def _units(markets: Markets) -> tuple[Doubt, ...]:
    problems = {symbol: trades.unit_problem(market) for symbol, market in markets.by_symbol.items()}
    return tuple(Doubt(symbol, Reason.UNIT_UNKNOWN, why) for symbol, why in problems.items() if why)


def _shared(markets: Markets) -> tuple[Doubt, ...]:
    return tuple(
        Doubt(
            symbol,
            Reason.DATA_QUALITY,
            f"{symbol} and {', '.join(others)} are one market at the venue; give it one spelling in orders",
        )
        for symbol, others in markets.ambiguous.items()
    )


def _out_of_reach(venue: ReadOnlyVenue, window: Window, now: datetime) -> list[Gap]:
    """The part of the window that is older than what the venue still tells."""
    reach = style(venue).reach
    if reach is None or now - reach <= window.start:
        return []
    return [Gap(None, window.start, now - reach, f"{venue.name} tells no fills older than {reach.days} days")]


def _notes(venue: ReadOnlyVenue, markets: Markets, read: Reading) -> Sequence[str]:
    notes = [f"{len(read.pages)} pages of fills were read from {venue.name}."]
    notes += [f"{symbol} is {', '.join(others)} there." for symbol, others in markets.spellings().items() if others]
    for (order, fill), kind in sorted(read.kinds.items()):
        notes.append(f"Fill {fill} of order {order} is no ordinary trade: {kind}.")
    notes += [f"Order {new} replaced order {old}." for new, old in sorted(read.replaced.items())]
    notes += [f"Fills may be missing: {gap.why}" for gap in read.gaps]
    return (*notes, *read.notes)
