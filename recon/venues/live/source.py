"""A live venue as a source of evidence: fills, legs and open orders of one account, complete or with a named reason.

Implements `recon.venues.base.Exchange` for `ccxt:NAME`. Fills are read first and positions last, so that flatness is
the newest thing known. A page that cannot be read becomes a gap (evidence_window_too_short), positions that cannot be
read stay unknown; anything else that fails refuses the fetch (evidence_unreadable). Nothing is ever changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from recon.domain import Coverage, Doubt, Fill, Gap, Page, Position, Reason, Snapshot, Wanted, Window
from recon.errors import Refused
from recon.identity import canonical_symbol
from recon.venues import rows
from recon.venues.base import FUTURE_TOLERANCE
from recon.venues.live import pages, trades
from recon.venues.live.client import Access, ReadOnlyVenue, connect
from recon.venues.live.holdings import read_legs, read_open_orders
from recon.venues.live.markets import Markets
from recon.venues.live.pages import Trade, read_all
from recon.venues.live.styles import Known, known, style


class CcxtExchange:
    """One account at a live venue; implements `recon.venues.base.Exchange`."""

    live = True

    def __init__(self, access: Access) -> None:
        """Nothing is asked yet. Raises `UsageError` (exchange_unknown) for a venue that recon cannot read in full."""
        self._access = access
        known(connect(access))
        self.name = f"ccxt:{access.name}"

    def fetch(
        self, profile_id: str, *, now: datetime, lookback: timedelta, window: Window | None = None,
        wanted: Wanted = Wanted(),
    ) -> Snapshot:  # fmt: skip
        """What the account says; see `Exchange.fetch`. One account serves one profile, so `profile_id` names nothing."""
        venue = connect(self._access)
        venue.load()
        markets = Markets(venue, wanted.symbols)
        reach = style(venue).reach
        span = window or _span(now, lookback, wanted)
        fills, reading = _Reading(venue, markets, span, now).run()
        window = window or Window(span.start, rows.latest(fills, now))
        inside, left_out = rows.within(window, fills)
        legs, doubts, notes = _legs(venue, known(venue), markets)
        open_orders = read_open_orders(venue, markets)
        gaps = [*reading.gaps, *_out_of_reach(reach, window, now, venue.name)]
        return Snapshot(
            self.name, window, inside, legs, open_orders,
            notes=(*_notes(markets, reading, venue), *notes, *left_out),
            gaps=tuple(Gap(gap.symbol and canonical_symbol(markets.spelled(gap.symbol)), gap.start, gap.end, gap.why)
                       for gap in gaps),
            doubts=(*doubts, *_units(markets)),
            replaced=reading.replaced,
            coverage=Coverage(venue.name, now, tuple(reading.pages), reading.kinds, markets.spellings()),
        )  # fmt: skip


def _span(now: datetime, lookback: timedelta, wanted: Wanted) -> Window:
    """From the earliest beginning of an open lifecycle or the lookback, whichever is later, to the clock's tolerance."""
    start = rows.window_start(now, lookback)
    if wanted.begin is not None:
        start = max(start, min(wanted.begin, now))
    return Window(start, now + FUTURE_TOLERANCE)


class _Reading:
    """One reading of all fills, with what came with them."""

    def __init__(self, venue: ReadOnlyVenue, markets: Markets, span: Window, now: datetime) -> None:
        self.venue, self.markets, self.span, self.now = venue, markets, span, now
        self.pages: list[Page] = []
        self.gaps: list[Gap] = []
        self.kinds: dict[tuple[str, str], str] = {}
        self.replaced: dict[str, str] = {}
        self._clients: dict[str, str] = {}
        self._forced: dict[str, str] = {}

    def run(self) -> tuple[tuple[Fill, ...], _Reading]:
        """Every fill of the span, by time, order and fill id."""
        this = known(self.venue)
        if this.orders:
            self._read_orders()
        if self.venue.name == "binanceusdm":
            self._read_forced()
        found = [trade for symbol in self._asked() for trade in self._read(symbol)]
        if self.venue.name == "binance" and self.venue.market == "spot":
            found += self.venue.read("fetch_my_dust_trades", None, _ms(self.span.start))
        fills = [fill for trade in found for fill in self._fill(trade)]
        if this.fees:
            fills = list(trades.with_separate_fees(fills, self._separate_fees(this.fees)))
        return tuple(sorted(fills, key=lambda fill: (fill.filled_at, fill.exchange_order_id, fill.fill_id))), self

    def _asked(self) -> list[str | None]:
        if not self.venue.feature("fetchMyTrades", "symbolRequired"):
            return [None]
        self.gaps += [
            Gap(symbol, self.span.start, self.span.end, f"{self.venue.name} lists no market for {symbol}")
            for symbol in self.markets.unknown
        ]
        return sorted({market["symbol"] for market in self.markets.by_symbol.values()})

    def _read(self, symbol: str | None) -> tuple[Trade, ...]:
        this = style(self.venue)

        def ask(since: int | None, until: int | None, cursor: Mapping[str, object]) -> list[Trade]:
            params = {**this.params, **cursor, **({} if until is None else {"until": until})}
            page: list[Trade] = self.venue.read("fetch_my_trades", symbol, since, this.limit, params=params)
            return page

        read = read_all(ask, this, self.span, symbol, lambda: datetime.now(UTC))
        self.pages += read.pages
        self.gaps += read.gaps
        return read.trades

    def _fill(self, trade: Trade) -> list[Fill]:
        """The fill, or none when its unit is unknown: then its symbol has a doubt."""
        market = self.venue.markets.get(trade["symbol"])
        if market is None:
            raise Refused("evidence_unreadable", f"A fill names {trade['symbol']!r}, which {self.venue.name} does not list.")
        if trades.unit_problem(market):
            return []
        fill = trades.to_fill(trade, market, self.markets.spelled(market["symbol"]), self._clients.get(str(trade.get("order"))))
        if fill.filled_at - FUTURE_TOLERANCE > self.now:
            raise Refused("evidence_unreadable", f"Fill {fill.fill_id} of order {fill.exchange_order_id} lies in the future.")
        kind = self._forced.get(fill.exchange_order_id) or trades.kind(trade)
        if kind:
            self.kinds[fill.exchange_order_id, fill.fill_id] = kind
        return [fill]

    def _read_orders(self) -> None:
        """Client order ids and replacements, which Alpaca's fills do not name."""
        start, seen = self.span.start, set[str]()
        limit = 500
        while True:
            page = self.venue.read("fetch_orders", None, _ms(start) - 1000, limit, params={"until": _ms(self.span.end)})
            new = [order for order in page if order["id"] not in seen]
            for order in new:
                seen.add(order["id"])
                if order.get("clientOrderId"):
                    self._clients[order["id"]] = order["clientOrderId"]
                if order["info"].get("replaces"):
                    self.replaced[order["id"]] = order["info"]["replaces"]
            if not new:
                return
            start = max(start, *map(pages.instant, new))

    def _read_forced(self) -> None:
        """Orders that the venue itself placed: liquidations and deleveraging."""
        for market in self.markets.by_symbol.values():
            for order in self.venue.read("fetch_my_liquidations", market["symbol"], _ms(self.span.start)):
                kind = trades.kind({"info": order["info"]}) or "liquidation"
                self._forced[str(order["info"]["orderId"])] = kind

    def _separate_fees(self, activity: str) -> list[tuple[str, str, Decimal, str]]:
        """Fees that Alpaca posts by themselves at the end of the day, in the asset bought."""
        found: dict[str, tuple[str, str, Decimal, str]] = {}
        cursor: dict[str, object] = {}
        span = {"after": f"{self.span.start - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}", "direction": "asc", "page_size": 100}
        while True:
            page = self.venue.raw(
                "trader.private v2/account/activities/{activity_type}", {"activity_type": activity, **span, **cursor}
            )
            new = [fee for fee in page if fee["id"] not in found]
            for fee in new:
                market = self.markets.of_id(fee["symbol"])
                asset = fee["symbol"].split("/")[0] if "/" in fee["symbol"] else _base_of(self.venue, fee["symbol"])
                found[fee["id"]] = (market, asset, -Decimal(fee["qty"]), fee["date"])
            if not page or not new:
                return list(found.values())
            cursor = {"page_token": page[-1]["id"]}


def _base_of(venue: ReadOnlyVenue, identifier: str) -> str:
    names = [market["base"] for market in venue.markets.values() if canonical_symbol(market["symbol"]) == identifier]
    return str(names[0]) if names else identifier


def _legs(
    venue: ReadOnlyVenue, this: Known, markets: Markets
) -> tuple[tuple[Position, ...] | None, tuple[Doubt, ...], tuple[str, ...]]:
    """Positions, or None with the sentence that says why they are unknown."""
    try:
        held = read_legs(venue, this, markets)
    except Refused as refusal:
        return None, (), (f"Positions are unknown: {refusal.message}",)
    return held.legs, held.doubts, held.notes


def _units(markets: Markets) -> tuple[Doubt, ...]:
    problems = {symbol: trades.unit_problem(market) for symbol, market in markets.by_symbol.items()}
    return tuple(Doubt(symbol, Reason.UNIT_UNKNOWN, why) for symbol, why in problems.items() if why)


def _out_of_reach(reach: timedelta | None, window: Window, now: datetime, name: str) -> list[Gap]:
    """The part of the window that is older than what the venue still tells."""
    if reach is None or now - reach <= window.start:
        return []
    return [Gap(None, window.start, now - reach, f"{name} tells no fills older than {reach.days} days")]


def _notes(markets: Markets, reading: _Reading, venue: ReadOnlyVenue) -> list[str]:
    notes = [f"{len(reading.pages)} pages of fills were read from {venue.name}."]
    notes += [f"{symbol} is {', '.join(others)} there." for symbol, others in markets.spellings().items() if others]
    for (order, fill), kind in sorted(reading.kinds.items()):
        notes.append(f"Fill {fill} of order {order} is no ordinary trade: {kind}.")
    notes += [f"Order {new} replaced order {old}." for new, old in sorted(reading.replaced.items())]
    notes += [f"Fills may be missing: {gap.why}" for gap in reading.gaps]
    return notes


def _ms(value: datetime) -> int:
    return (value - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
