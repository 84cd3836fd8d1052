"""An answer of another shape is no answer: ccxt takes it for an empty one, and empty reads as flat."""

from __future__ import annotations

from typing import Any

import pytest
from venue.scenario import balance, leg, scenario, trade
from venue.server import VenueServer

from recon.errors import Refused
from recon.venues.live import guard
from recon.venues.live.client import Access, connect
from recon.venues.live.shapes import CHECKED, SHAPES, check_shape
from recon.venues.live.styles import KNOWN

STORY = scenario(
    "2026-03-02T12:00:00",
    trade("t1", "BTC/USD", "sell", "1", "60000", "2026-03-02T11:00:00"),
    trade("t2", "BTC/USDT", "sell", "1", "60000", "2026-03-02T11:00:00"),
    trade("t3", "BTC/USDT:USDT", "sell", "1", "60000", "2026-03-02T11:00:00"),
    balance("BTC", "1"),
    leg("BTC/USDT:USDT", "1", "60000"),
)

CALLS = [
    ("alpaca", "BTC/USD", ["fetch_my_trades", "fetch_orders", "fetch_open_orders", "fetch_balance"]),
    ("binance", "BTC/USDT", ["fetch_my_trades", "fetch_open_orders", "fetch_balance"]),
    ("binanceusdm", "BTC/USDT:USDT", ["fetch_my_trades", "fetch_open_orders", "fetch_positions"]),
    ("kraken", "BTC/USD", ["fetch_my_trades", "fetch_ledger", "fetch_open_orders", "fetch_balance", "fetch_positions"]),
]


@pytest.mark.parametrize(("name", "symbol", "method"), [(n, s, m) for n, s, methods in CALLS for m in methods])
def test_an_answer_without_its_list_is_refused_and_the_true_one_is_read(
    name: str, symbol: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is the same call a line above: the venue's own answer passes."""
    monkeypatch.setattr(guard, "ATTEMPTS", 2)
    monkeypatch.setattr(guard, "SECOND", 0)
    arguments = [symbol] if method in ("fetch_my_trades", "fetch_open_orders") else []
    with VenueServer(STORY) as server:
        access = Access(name, server.keys.api_key, server.keys.secret, base_url=server.url, paced=False)
        venue = connect(access)
        venue.load()
        venue.read(method, *arguments)
        monkeypatch.setattr("json.loads", lambda body, **_: {"error": [], "notice": "back soon"})
        with pytest.raises(Refused, match=f"did not answer {method} in full"):
            venue.read(method, *arguments)


@pytest.mark.parametrize(
    ("venue", "method", "answer"),
    [
        ("bybit", "fetch_positions", {"retCode": 0, "result": {}}),
        ("okx", "fetch_balance", {"code": "0"}),
        ("hyperliquid", "fetch_positions", {"marginSummary": {}}),
        ("hyperliquid", "fetch_my_trades", {}),
        ("coinbase", "fetch_my_trades", {"cursor": ""}),
        ("coinbase", "fetch_balance", {"accounts": [], "has_next": True}),
        ("kraken", "fetch_balance", {"error": []}),
    ],
)
def test_the_shapes_of_venues_without_a_loopback(venue: str, method: str, answer: Any) -> None:
    with pytest.raises(LookupError):
        check_shape(venue, method, answer)


@pytest.mark.parametrize(
    ("venue", "method", "answer"),
    [
        ("bybit", "fetch_positions", {"result": {"list": []}}),
        ("okx", "fetch_balance", {"data": []}),
        ("hyperliquid", "fetch_positions", {"assetPositions": []}),
        ("coinbase", "fetch_balance", {"accounts": [], "has_next": False}),
        ("kraken", "fetch_balance", {"error": [], "result": {}}),
        ("okx", "load_markets", None),
    ],
)
def test_an_empty_list_is_an_answer(venue: str, method: str, answer: Any) -> None:
    check_shape(venue, method, answer)


def test_every_known_venue_has_its_shapes() -> None:
    assert set(SHAPES) == set(KNOWN)
    assert {"fetch_my_trades", "fetch_open_orders"} <= CHECKED
