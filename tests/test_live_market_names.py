"""What a venue calls its markets and assets, where a wrong reading would make a held position look flat."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from incidents import Incident
from venue.scenario import balance, scenario, spot, swap, trade
from venue.server import VenueServer

from recon.domain import Position, Reason, Wanted
from recon.errors import Refused, UsageError
from recon.stages.gather import wanted
from recon.venues.live.client import Access, connect
from recon.venues.live.holdings import _held, read_legs
from recon.venues.live.markets import Markets
from recon.venues.live.source import CcxtExchange
from recon.venues.live.styles import KNOWN
from recon.workspace import reflect

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def hyperliquid(legs: list[dict[str, Any]]) -> Any:
    """A venue whose market ids are numbers and whose legs name the base, as Hyperliquid's are."""
    market = {"id": "0", "symbol": "BTC/USDC:USDC", "base": "BTC", "baseId": "0", "quote": "USDC", "quoteId": "USDC",
              "baseName": "BTC", "contract": True, "contractSize": "1"}  # fmt: skip
    answer = {"assetPositions": [{"position": leg} for leg in legs]}
    markets = {"BTC/USDC:USDC": market}
    return SimpleNamespace(
        name="hyperliquid", market="swap", markets=markets, every=markets, aliases=lambda _: (), can=lambda _: True,
        read=lambda *_, **__: [], last_answer=answer,
    )  # fmt: skip


def test_a_leg_that_names_its_base_is_its_markets() -> None:
    venue = hyperliquid([{"coin": "BTC", "szi": "1.5"}])
    held = read_legs(venue, KNOWN["hyperliquid"], Markets(venue, ["BTC/USDC:USDC"]))
    assert held.legs == (Position("BTC/USDC:USDC", Decimal("1.5")),)


def test_a_leg_of_a_base_that_no_market_has_leaves_positions_unknown() -> None:
    venue = hyperliquid([{"coin": "NEW", "szi": "1"}])
    with pytest.raises(Refused, match="holds NEW"):
        read_legs(venue, KNOWN["hyperliquid"], Markets(venue, ["BTC/USDC:USDC"]))


def test_a_balance_that_earns_is_held_all_the_same() -> None:
    """Kraken tells it apart, with a suffix behind the asset."""
    told = {
        "info": {},
        "BTC": {"total": "0"},
        "BTC.F": {"total": "1"},
        "BTC.B": {"free": "0.5"},
        "BTCX": {"total": "9"},
    }
    assert _held(told, "BTC") == (Decimal("1.5"), Decimal(0))
    assert _held(told, "ETH") == (Decimal(0), Decimal(0))


STORY = scenario(
    NOW,
    spot("BTC/USD"), spot("ETH/USD"), swap("BTC/USDT:USDT"),
    trade("t1", "BTC/USD", "sell", "1", "60000", "2026-03-02T11:00:00", order="o1"),
    balance("ETH", "2"),
)  # fmt: skip


def fetched(wanted_: Wanted, name: str = "kraken", story: Any = STORY) -> Any:
    with VenueServer(story, clock="scenario") as server:
        access = Access(name, server.keys.api_key, server.keys.secret, base_url=server.url, paced=False)
        return CcxtExchange(access).fetch("main", now=NOW, lookback=timedelta(hours=72), wanted=wanted_)


def test_another_spelling_of_the_market_makes_it_ambiguous_though_nothing_is_open_on_it() -> None:
    """XBT/USD and BTC/USD are one market at Kraken and two symbols of the table: closed rows of one hold its fills."""
    doubts = fetched(Wanted(("BTC/USD",), also=("BTC/USD", "XBT/USD"))).doubts
    assert {(doubt.symbol, doubt.reason) for doubt in doubts} == {
        ("BTC/USD", Reason.DATA_QUALITY), ("XBT/USD", Reason.DATA_QUALITY),
    }  # fmt: skip
    assert fetched(Wanted(("BTC/USD",), also=("BTC/USD", "ETH/USD"))).doubts == ()


def test_positions_of_the_other_symbols_of_the_table_are_read_too_and_who_was_asked_for_is_known() -> None:
    snapshot = fetched(Wanted(("BTC/USD",), also=("BTC/USD", "ETH/USD")))
    assert snapshot.positions == (Position("ETH/USD", Decimal(2)),)
    assert snapshot.asked == {"BTCUSD", "ETHUSD"}
    assert fetched(Wanted(("BTC/USDT:USDT",)), "binanceusdm").asked is None, "a venue that lists every leg covers all"


def test_every_symbol_of_the_table_is_wanted(incident: Incident) -> None:
    incident.create_table()
    incident.row("e1", "t1", "ENTRY", "1", 0, symbol="BTC/USD")
    incident.row("e2", "t2", "ENTRY", "1", 0, symbol="ETH/USD")
    incident.row("x2", "t2", "EXIT", "1", 5, symbol="ETH/USD")
    with incident.engine.connect() as connection:
        live = SimpleNamespace(live=True)
        asked = wanted(connection, reflect(connection, "main"), "main", live)  # type: ignore[arg-type]
    assert (asked.symbols, asked.also) == (("BTC/USD",), ("BTC/USD", "ETH/USD"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "kraken", "sandbox": True}, "RECON_EXCHANGE_SANDBOX"),
        ({"name": "kraken", "market": "future"}, "RECON_EXCHANGE_MARKET"),
        ({"name": "alpaca", "market": "swap"}, "RECON_EXCHANGE_MARKET"),
    ],
)
def test_what_a_venue_does_not_have_names_the_setting(change: dict[str, Any], said: str) -> None:
    def load() -> None:
        with VenueServer(STORY) as server:
            access = Access("x", server.keys.api_key, server.keys.secret, base_url=server.url, paced=False)
            connect(replace(access, **change)).load()

    with pytest.raises(UsageError, match=said) as caught:
        load()
    assert caught.value.code == "exchange_unknown"


def test_a_secret_that_is_not_written_as_the_venue_writes_secrets_is_named_at_once() -> None:
    with VenueServer(STORY) as server:
        access = Access("kraken", server.keys.api_key, "not base64!", base_url=server.url, paced=False)
        venue = connect(access)
        with pytest.raises(Refused, match="RECON_EXCHANGE_API_KEY and RECON_EXCHANGE_SECRET"):
            venue.read("fetch_balance")
