"""What `recon doctor` says of a live venue, and the table of what each venue can deliver."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from incidents import Incident
from venue.faults import MAINTENANCE, FaultPlan
from venue.scenario import scenario, spot, swap, trade
from venue.server import KEYS, VenueServer

from recon.doctor.exchange import exchange_checks
from recon.venues.live import probe as probes
from recon.venues.live.capabilities import lines
from recon.venues.live.client import Access
from recon.venues.live.probe import probe
from recon.venues.live.source import CcxtExchange

STORY = scenario(
    "2026-03-02T12:00:00",
    spot("BTC/USD"),
    spot("BTC/USDT"),
    swap("BTC/USDT:USDT"),
    *(trade(f"t-{symbol}", symbol, "sell", "1", "60000", "2026-03-02T11:00:00")
      for symbol in ("BTC/USD", "BTC/USDT", "BTC/USDT:USDT")),
)  # fmt: skip

NAMES = ("alpaca", "binance", "binanceusdm", "kraken")


def access(name: str, server: VenueServer) -> Access:
    return Access(name, server.keys.api_key, server.keys.secret, base_url=server.url, paced=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_venue_that_answers_has_markets_keys_and_fills(name: str) -> None:
    with VenueServer(STORY) as server:
        checks = list(probe(access(name, server)))
        assert server.writes == []
    assert [(check.name, check.ok) for check in checks] == [
        ("exchange_markets", True), ("exchange_keys", True), ("exchange_fills", True),
    ]  # fmt: skip
    assert "markets; its clock is" in checks[0].detail


@pytest.mark.parametrize(
    ("name", "can_trade", "said"),
    [
        ("binance", False, "allowed to read alone"),
        ("binance", True, "but also allowed: enableFutures, enableMargin, enableSpotAndMarginTrading"),
        ("kraken", False, "allowed to read alone"),
        ("kraken", True, "but also allowed: modify-trades"),
        ("alpaca", True, "does not tell what the keys may do"),
    ],
)
def test_where_the_venue_tells_keys_that_may_do_more_are_named(name: str, can_trade: bool, said: str) -> None:
    with VenueServer(STORY, keys=replace(KEYS, can_trade=can_trade, can_withdraw=False)) as server:
        checks = {check.name: check for check in probe(access(name, server))}
    assert checks["exchange_keys"].ok
    assert said in checks["exchange_keys"].detail


@pytest.mark.parametrize("name", NAMES)
def test_wrong_keys_are_named_and_end_the_probe(name: str) -> None:
    with VenueServer(STORY) as server:
        checks = list(probe(replace(access(name, server), secret="d3Jvbmcga2V5")))
    assert not checks[-1].ok
    assert "RECON_EXCHANGE_API_KEY" in checks[-1].detail
    assert "d3Jvbmcga2V5" not in checks[-1].detail


def test_the_doctor_probes_first_and_then_reads_the_evidence(incident: Incident) -> None:
    incident.create_table().row("e", "t1", "ENTRY", "1", 0, symbol="BTC/USD")
    with VenueServer(STORY) as server:
        live = replace(incident.work(), exchange=CcxtExchange(access("kraken", server)))
        names = [check.name for check in exchange_checks(live, "main")]
        assert names == ["exchange_markets", "exchange_keys", "exchange_fills", "exchange"]
        assert [check.name for check in exchange_checks(live, None)][-1] == "exchange"


def test_a_venue_in_maintenance_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.venues.live.guard.ATTEMPTS", 2)
    with VenueServer(STORY, faults=FaultPlan(each=(MAINTENANCE,), probability=1, forever=True)) as server:
        checks = list(probe(access("kraken", server)))
    assert [(check.name, check.ok) for check in checks] == [("exchange_markets", False)]
    assert "evidence_unreadable: kraken did not answer" in checks[0].detail


def test_every_endpoint_that_tells_of_keys_belongs_to_a_known_venue() -> None:
    assert set(probes.KEY_INFO) <= {
        "alpaca",
        "binance",
        "binanceusdm",
        "bybit",
        "coinbase",
        "hyperliquid",
        "kraken",
        "okx",
    }


def test_the_readme_holds_the_table_that_ccxt_gives() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    missing = [line for line in lines() if line not in readme]
    assert missing == [], json.dumps(missing, indent=1)
