"""All fills of a span from one venue, with what comes apart from them: client ids, replacements, fees, forced orders.

Entry point: `read_fills`. Where the parts come apart depends on the venue; `recon.venues.live.styles` says which do.
Pages of fills that cannot be read become gaps; what goes with them decides too, and is read to the end or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from recon.domain import Fill, Gap, Page, Side, Window
from recon.errors import Refused
from recon.venues.base import FUTURE_TOLERANCE
from recon.venues.live import pages, trades
from recon.venues.live.client import ReadOnlyVenue
from recon.venues.live.markets import Markets
from recon.venues.live.orders import NO_ORDERS, OrdersRead, read_orders
from recon.venues.live.pages import Cursor, Style, Trade, read_all
from recon.venues.live.styles import Fees, Known, by_symbol, known, style
from recon.venues.live.trades import SeparateFee


@dataclass(slots=True)
class Reading:
    """What was read: fills by time, order and fill id, each once, and everything the report says about them.

    `kinds` names fills that are no ordinary trade by (order, fill id), `replaced` the order whose place an order took.
    """

    fills: tuple[Fill, ...] = ()
    pages: list[Page] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_fills(venue: ReadOnlyVenue, markets: Markets, span: Window, now: datetime) -> Reading:
    """Every fill of `span`. Raises `Refused` (evidence_unreadable) for a fill that cannot be understood."""
    return _Reader(venue, markets, span, now).run()


class _Reader:
    """One reading while it goes on."""

    def __init__(self, venue: ReadOnlyVenue, markets: Markets, span: Window, now: datetime) -> None:
        self.venue, self.markets, self.span, self.now = venue, markets, span, now
        self.known: Known = known(venue)
        self.made = Reading()

    def run(self) -> Reading:
        found = [trade for symbol in self._symbols() for trade in self._trades(symbol)]
        orders = self._orders(found)
        found += self._dust() if self.known.dust and self.venue.market == "spot" else ()
        fills = [self._fill(trade, orders) for trade in _distinct(found) if self._is_readable(trade)]
        fills.sort(key=lambda fill: (fill.filled_at, fill.exchange_order_id, fill.fill_id))
        bases = self.markets.by_symbol
        self.made.fills = tuple(
            trades.with_tables_base(fill, bases[fill.symbol]) if fill.symbol in bases else fill
            for fill in self._with_fees(fills)
        )
        return self.made

    def _symbols(self) -> list[str | None]:
        """The symbols to ask for one by one, or None for the whole account at once; those without a market are gaps."""
        why = f"{self.venue.name} lists no market, or several, for it"
        unknown = [symbol for symbol in self.markets.unknown if symbol in self.markets.traded]
        self.made.gaps += [Gap(symbol, self.span.start, self.span.end, why) for symbol in unknown]
        if not by_symbol(self.venue):
            return [None]
        traded = (market for symbol, market in self.markets.by_symbol.items() if symbol in self.markets.traded)
        return sorted({market["symbol"] for market in traded})

    def _trades(self, symbol: str | None) -> Sequence[Trade]:
        this = style(self.venue)
        read = self._all("fetch_my_trades", this, symbol)
        self.made.pages += read.pages
        self.made.gaps += [replace(gap, symbol=symbol and self.markets.spelled(symbol)) for gap in read.gaps]
        if self.known.most and len(read.trades) >= self.known.most:
            first, why = min(map(pages.instant, read.trades)), f"it tells the latest {self.known.most} fills alone"
            self.made.gaps.append(Gap(None, self.span.start, max(first, self.span.start), why))
        return read.trades

    def _all(self, method: str, this: Style, symbol: str | None) -> pages.Read:
        """Every entry that a paged call gives, whatever it is."""

        def ask(since: int | None, until: int | None, cursor: Cursor) -> Sequence[Trade]:
            params = {**this.params, **cursor, **({} if until is None else {"until": until})}
            page: Sequence[Trade] = self.venue.read(method, symbol, since, this.limit, params=params)
            return page

        return read_all(ask, this, self.span, symbol, lambda: datetime.now(UTC), trades.kept)

    def _orders(self, found: Sequence[Trade]) -> OrdersRead:
        """Client order ids and replacements, where fills name neither."""
        if self.known.orders is None:
            return NO_ORDERS
        listed = [trade for trade in found if trade["symbol"] in self.venue.markets]
        read = read_orders(self.venue, self.known.orders, self.span, listed)
        self.made.replaced.update(read.replaced)
        if read.missing:
            self.made.notes.append(
                f"{self.venue.name} no longer tells {len(read.missing)} of the orders behind the fills, nor their "
                "client order ids."
            )
        return read

    def _dust(self) -> Sequence[Trade]:
        """Binance tells small balances that it turned into BNB apart from the fills."""
        found: Sequence[Trade] = self.venue.read("fetch_my_dust_trades", None, pages.to_ms(self.span.start))
        inside = [trade for trade in found if self.span.holds(pages.instant(trade))]
        return [{**trade, "id": trade.get("id") or f"{trade['order']}-{trade['symbol']}"} for trade in inside]

    def _is_readable(self, trade: Trade) -> bool:
        """Whether the fill's unit is known; a symbol on which it is not has a doubt of its own."""
        market = self.venue.markets.get(trade["symbol"])
        if market is None:
            note = f"Fills name {trade['symbol']!r}, which {self.venue.name} does not list as such."
            self.made.notes += [note] if note not in self.made.notes else []
        return market is not None and trades.unit_problem(market) is None

    def _fill(self, trade: Trade, orders: OrdersRead) -> Fill:
        market = self.venue.markets[trade["symbol"]]
        order = str(trade.get("order"))
        fill = trades.to_fill(trade, market, self.markets.spelled(market["symbol"]), orders.client_id(order))
        if fill.filled_at - FUTURE_TOLERANCE > self.now:
            raise Refused(
                "evidence_unreadable",
                f"Fill {fill.fill_id} of order {order} lies more than 5 minutes ahead of now. Check the clocks.",
            )
        if kind := trades.kind(trade, fill.client_order_id):
            self.made.kinds[fill.exchange_order_id, fill.fill_id] = kind
        return fill

    def _with_fees(self, fills: Sequence[Fill]) -> tuple[Fill, ...]:
        if self.known.fees is Fees.ACTIVITIES:
            return trades.with_daily_fees(fills, self._fee_activities())
        if self.known.fees is Fees.LEDGER:
            return trades.with_booked_fees(fills, self._booked_fees())
        return tuple(fills)

    def _fee_activities(self) -> list[SeparateFee]:
        """Fees that Alpaca posts by themselves at the end of the day, in the asset that was got."""
        found: dict[str, SeparateFee | None] = {}
        bounds = {
            "activity_type": "CFEE",
            "after": f"{self.span.start - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
            "direction": "asc",
            "page_size": 100,
        }
        cursor: dict[str, Any] = {}
        while True:
            page = self.venue.raw("GET trader.private v2/account/activities/{activity_type}", bounds | cursor)
            if not isinstance(page, list) or any(fee["id"] in found for fee in page):
                raise Refused("evidence_unreadable", f"{self.venue.name} does not list each activity of fees once.")
            if not page:
                break
            found |= {fee["id"]: self._separate_fee(fee) for fee in page}
            cursor = {"page_token": page[-1]["id"]}
        return [fee for fee in found.values() if fee is not None]

    def _separate_fee(self, fee: Mapping[str, Any]) -> SeparateFee | None:
        """Taken from what a buy got, or, in dollars, from what a sell got; None on a symbol that nobody knows."""
        market, day = self.markets.named(fee["symbol"]), date.fromisoformat(fee["date"])
        if market is None:
            return None
        symbol = self.markets.spelled(market["symbol"])
        if qty := Decimal(str(fee.get("qty") or 0)):
            return SeparateFee(symbol, market["base"], Side.BUY, -qty, day)
        return SeparateFee(symbol, market["quote"], Side.SELL, -Decimal(str(fee.get("net_amount") or 0)), day)

    def _booked_fees(self) -> dict[str, tuple[Decimal, str]]:
        """The fee of each fill as Kraken's ledger booked it, by fill id: its list of trades names the amount alone."""
        this = Style(limit=50, cursor=pages.offset, params={"type": "trade"})
        booked = {}
        for entry in _complete(self._all("fetch_ledger", this, None)):
            fee = entry.get("fee") or {}
            if Decimal(fee.get("cost") or 0):
                booked[str(entry["referenceId"])] = (Decimal(fee["cost"]), str(fee["currency"]))
        return booked


def _complete(read: pages.Read) -> Sequence[Trade]:
    for gap in read.gaps:
        raise Refused("evidence_unreadable", gap.why)
    return read.trades


def _distinct(found: Sequence[Trade]) -> list[Trade]:
    """Fills whose id repeats within their order at another time, as dust conversions do, get the time into their id."""
    instants: dict[tuple[str, str], set[int]] = {}
    for trade in found:
        instants.setdefault((str(trade.get("order")), str(trade["id"])), set()).add(int(trade["timestamp"]))
    return [
        trade
        if len(instants[str(trade.get("order")), str(trade["id"])]) == 1
        else {**trade, "id": f"{trade['id']}@{trade['timestamp']}"}
        for trade in found
    ]
