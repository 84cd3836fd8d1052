"""One incident at every venue: what the account did, the rows of `orders` that the backend kept of it, and the plan.

The scenario is the same in every dialect but for the names of the markets; a dialect gives it ids of its own, and the
rows name its orders by those. Times are whole milliseconds, which all dialects keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from builders import PROFILE

from recon.criteria import Rules
from recon.domain import OrderRow, Snapshot, Wanted
from recon.plan import Facts, Plan, build_plan
from recon.venues.live.client import Access
from recon.venues.live.source import CcxtExchange
from recon.venues.statement import StatementExchange
from venue.model import Balance, FeeActivity, Leg, Market, Order, Scenario, Trade
from venue.scenario import balance, leg, order, scenario, trade
from venue.server import VenueServer
from venue.spelling import Name

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
LOOKBACK = timedelta(hours=72)
CCXT: dict[Name, str] = {
    "alpaca": "alpaca", "binance_spot": "binance", "binance_usdm": "binanceusdm", "kraken": "kraken",
}  # fmt: skip
NOISE = 24
"""Orders of a trade that was closed long ago, so that the evidence takes several pages."""


def market_of(name: Name, base: str) -> str:
    """The market of an asset: against dollars on spot, a perpetual on the futures venue."""
    return f"{base}/USDT:USDT" if name == "binance_usdm" else f"{base}/USD"


def after(minutes: float, **more: float) -> datetime:
    """So many minutes after 1 March 2026, 09:00."""
    return datetime(2026, 3, 1, 9, tzinfo=UTC) + timedelta(minutes=minutes, **more)


Row = Market | Order | Trade | Leg | Balance | FeeActivity


def story(name: Name, *more: Row) -> Scenario:
    """Six trades of three assets, entered on the exchange and closed there, or not, or not wholly."""
    btc, eth, sol = (market_of(name, base) for base in ("BTC", "ETH", "SOL"))
    rows: list[Row] = [
        trade("f1", btc, "buy", "0.4", "60000", after(0, milliseconds=123), order="entry-1"),
        trade("f2", btc, "buy", "0.6", "60010", after(0, milliseconds=123), order="entry-1"),
        trade("f3", btc, "sell", "0.75", "61000", after(60, milliseconds=7), order="exit-1"),
        trade("f4", btc, "sell", "0.25", "61005", after(60, milliseconds=7), order="exit-1"),
        trade("f5", btc, "buy", "0.5", "60500", after(90), order="entry-2"),
        order("exit-2", btc, "sell", "0.5", "61500", after(95), status="filled", filled="0.5", client="mine-2"),
        trade("f6", btc, "sell", "0.2", "61500", after(120), order="exit-2"),
        trade("f7", btc, "sell", "0.2995", "61500", after(121, milliseconds=500), order="exit-2"),
        trade("f8", btc, "buy", "3", "62000", after(200), order="entry-3"),
        trade("f9", btc, "sell", "1.25", "63000", after(240), order="exit-3"),
        trade("g1", eth, "buy", "2", "3000", after(10), order="entry-4"),
        trade("s1", sol, "buy", "10", "150", after(20), order="entry-5"),
        trade("s2", sol, "sell", "10", "160", after(30), order="exit-5"),
        order("exit-6", sol, "sell", "4", "170", after(40), client="mine-6"),
        *_noise(btc),
    ]
    rows += [leg(eth, "2", "3000")] if name == "binance_usdm" else [balance("ETH", "1.5", "0.5"), balance("USD", "9")]
    return scenario(NOW, *rows, *more)


def _noise(symbol: str) -> Iterable[Trade]:
    for number in range(NOISE):
        side = "buy" if number % 2 else "sell"
        yield trade(f"n{number}", symbol, side, "0.01", "59000", after(-600 + number // 3), order=f"noise-{number}")


def table(name: Name, told: Scenario, lived: Scenario) -> tuple[OrderRow, ...]:
    """What the backend wrote down: every entry, few of the exits, with the ids that the dialect gave the orders."""
    ids = {old.id: new.id for old, new in zip(lived.orders, told.orders, strict=True)}
    btc, eth, sol = (market_of(name, base) for base in ("BTC", "ETH", "SOL"))

    def row(trade_id: str, symbol: str, action: str, qty: str, at: datetime, order_id: str | None, **other: Any):
        known = {"status": "filled", "price": Decimal(60000), "raw_side": "buy" if action == "ENTRY" else "sell"}
        return OrderRow(
            f"{trade_id}-{action}-{at:%H%M%S}", PROFILE, symbol, trade_id, action, quantity=Decimal(qty), filled_at=at,
            created_at=at, exchange_order_id=order_id and ids[order_id], **(known | other),
        )  # fmt: skip

    noise = [
        row(f"N{number // 2}", btc, "EXIT" if number % 2 else "ENTRY", "0.01", after(-600 + number // 3),
            f"noise-{number}", raw_side="buy" if number % 2 else "sell")
        for number in range(NOISE)
    ]  # fmt: skip
    return (
        row("T1", btc, "ENTRY", "1", after(0), "entry-1"),
        row("T2", btc, "ENTRY", "0.5", after(90), "entry-2"),
        row("T2", btc, "EXIT", "0.5", after(95), None, status="canceled", client_order_id="mine-2"),
        row("T3", btc, "ENTRY", "3", after(200), "entry-3"),
        row("T4", eth, "ENTRY", "2", after(10), "entry-4"),
        row("T5", sol, "ENTRY", "10", after(20), "entry-5"),
        *noise,
    )


WANTED: dict[Name, Wanted] = {
    name: Wanted(tuple(market_of(name, base) for base in ("BTC", "ETH", "SOL"))) for name in CCXT
}


def access(server: VenueServer, name: Name, **more: Any) -> Access:
    """The way to the server, unpaced, since nobody else uses it."""
    keys = {"api_key": server.keys.api_key, "secret": server.keys.secret, "base_url": server.url, "paced": False}
    return Access(CCXT[name], **(keys | more))


def fetch(server: VenueServer, name: Name, *symbols: str, lookback: timedelta = LOOKBACK, **more: Any) -> Snapshot:
    """The account as it is read through the adapter; by default for the symbols of the incident."""
    wanted = more.pop("wanted", Wanted(symbols) if symbols else WANTED[name])
    return CcxtExchange(access(server, name, **more)).fetch(PROFILE, now=NOW, lookback=lookback, wanted=wanted)


def read_statement(folder: Path) -> Snapshot:
    """The account as a statement tells it."""
    return StatementExchange(str(folder)).fetch(PROFILE, now=NOW, lookback=LOOKBACK)


def plan_of(rows: tuple[OrderRow, ...], snapshot: Snapshot, **rules: Any) -> Plan:
    """The plan of these rows and this evidence."""
    return build_plan(Facts(PROFILE, rows, snapshot), Rules(**rules))
