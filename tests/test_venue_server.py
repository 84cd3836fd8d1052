"""The venue on loopback: unmodified clients read from it exactly what the scenario says, page by page and fault by
fault, and nothing can be written to it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import pytest
from alpaca.common.exceptions import APIError
from alpaca.trading.enums import QueryOrderStatus
from alpaca.trading.requests import GetOrdersRequest, MarketOrderRequest
from venue import faults
from venue.clients import alpaca_client, ccxt_client
from venue.faults import Fault, FaultKind, FaultPlan, path_contains
from venue.model import Scenario, Trade
from venue.scenario import balance, fee_activity, leg, order, scenario, spot, swap, trade, write_statement
from venue.server import VenueServer
from venue.spelling import NAMES, Name, spelled
from venue.wire import Keys, Request

from recon.venues.rows import FILL_COLUMNS, OPEN_ORDER_COLUMNS, POSITION_COLUMNS
from recon.venues.statement import StatementExchange

NOW = "2026-03-02T12:00"
AT = "2026-03-01T11:00:00.123456"
BTC, ETH = "BTC/USD", "ETH/USD"
PERP = "BTC/USDT:USDT"
EXCHANGES: dict[Name, str] = {
    "alpaca": "alpaca", "binance_spot": "binance", "binance_usdm": "binanceusdm", "kraken": "kraken",
}  # fmt: skip
SYMBOLS: dict[Name, str] = {"alpaca": BTC, "binance_spot": BTC, "binance_usdm": PERP, "kraken": BTC}
TRADE_PATHS = path_contains("myTrades", "userTrades", "TradesHistory", "activities")

each_dialect = pytest.mark.parametrize("name", NAMES)


def spot_story() -> Scenario:
    """Two markets, three fills of one instant, fees in three assets, an open order and a replaced one."""
    return scenario(
        NOW,
        spot(BTC, min_qty=Decimal("0.0001"), step=Decimal("0.00000001")),
        spot(ETH),
        spot("SOL/USD", active=False),
        trade("t1", BTC, "buy", "0.50000001", "60000.5", "2026-03-01T10:00:00.5", order="o1", fee="0.001 BTC"),
        trade("t2", BTC, "sell", "0.25", "61000", AT, order="o2", fee="1.5 USD"),
        trade("t3", BTC, "sell", "0.15000001", "61000", AT, order="o2", fee="0.9 USD"),
        trade("t4", ETH, "buy", "2", "3000", AT, order="o3", fee="0.01 BNB"),
        order("o2", BTC, "sell", "0.5", "61000", "2026-03-01T10:59", filled="0.40000001", status="replaced",
              client="mine-2", replaced_by="o4"),
        order("o4", BTC, "sell", "0.09", "62000", "2026-03-01T11:30", client="mine-4", replaces="o2"),
        order("o5", ETH, "sell", "1", "4000", "2026-03-01T12:00", client="mine-5", filled="0.5"),
        balance("USD", "1000.25", "20"), balance("BTC", "0.009", "0.09"), balance("ETH", "1.49"),
        fee_activity("f1", BTC, "BTC", "0.001", "2026-03-01"),
        fee_activity("f2", ETH, "ETH", "0.0025", "2026-03-02"),
    )  # fmt: skip


def swap_story() -> Scenario:
    """A hedge-mode account: both legs of one contract, an open order, and exits that the venue made itself."""
    return scenario(
        NOW,
        trade("u1", PERP, "buy", "1.5", "60000", "2026-03-01T10:00:00.5", order="p1", fee="0.3 USDT",
              position_side="LONG"),
        trade("u2", PERP, "sell", "0.25", "59000", AT, order="p2", kind="liquidation", position_side="LONG"),
        trade("u3", PERP, "sell", "0.25", "59000", AT, order="p2", kind="liquidation", position_side="LONG"),
        trade("u4", PERP, "buy", "0.5", "58000", AT, order="p3", kind="adl", position_side="SHORT"),
        trade("u5", "ETH/USDT:USDT", "sell", "2", "3000", AT, order="p4", kind="settlement"),
        order("p5", PERP, "sell", "0.5", "70000", "2026-03-01T12:00", client="mine-5", position_side="LONG"),
        leg(PERP, "1", "60000", "LONG"), leg(PERP, "-1", "58500", "SHORT"),
        balance("USDT", "1000", "20"),
    )  # fmt: skip


STORIES = {name: swap_story if name == "binance_usdm" else spot_story for name in NAMES}


def crowd(name: Name, count: int = 23) -> Scenario:
    """Fills that all share one instant but for the first and the last."""
    moments = [datetime(2026, 3, 1, 9, tzinfo=UTC), *[datetime(2026, 3, 1, 10, tzinfo=UTC)] * (count - 2),
               datetime(2026, 3, 1, 11, tzinfo=UTC)]  # fmt: skip
    rows = (trade(f"t{n}", SYMBOLS[name], "buy", "0.01", 100, when) for n, when in enumerate(moments))
    return scenario(NOW, *rows)


def read_trades(client: Any, name: Name, symbol: str) -> Iterator[dict[str, Any]]:
    """Every fill of a market, page by page as the venue's documentation says; the raw rows are in `info`."""
    params: dict[str, Any] = {"binance_spot": {"fromId": 0}, "binance_usdm": {"fromId": 0}}.get(name, {})
    seen = 0
    while True:
        page = client.fetch_my_trades(symbol if name.startswith("binance") else None, params=params)
        if not page:
            return
        yield from (row for row in page if row["symbol"] == symbol)
        seen += len(page)
        oldest = min(page, key=lambda row: (row["info"].get("transaction_time", ""), row["id"]))
        newest = max(int(row["id"]) for row in page) if name.startswith("binance") else 0
        params = {"alpaca": {"page_token": oldest["id"]}, "kraken": {"ofs": seen}}.get(name, {"fromId": newest + 1})


def as_told(row: Trade) -> tuple[object, ...]:
    moment = row.filled_at.replace(microsecond=row.filled_at.microsecond // 1000 * 1000)
    return row.id, row.order_id, row.symbol, row.side, row.qty, row.price, moment


def as_read(row: dict[str, Any]) -> tuple[object, ...]:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=row["timestamp"])
    numbers = Decimal(str(row["amount"])), Decimal(str(row["price"]))
    return row["id"], row["order"], row["symbol"], row["side"], *numbers, moment


# What a client reads is what the scenario says


@each_dialect
def test_ccxt_reads_the_markets(name: Name) -> None:
    with VenueServer(STORIES[name]()) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        markets = client.load_markets()
        told = {
            row.symbol: row for row in venue.told(name).of_kind("swap" if name == "binance_usdm" else "spot").markets
        }
        # Alpaca is asked for active assets only.
        expected = {symbol for symbol, row in told.items() if row.active or name != "alpaca"}
        assert set(markets) == expected
        assert all(markets[symbol]["active"] is told[symbol].active for symbol in expected)
        assert all(Decimal(str(markets[s]["limits"]["amount"]["min"])) == told[s].min_qty for s in expected)
        assert venue.statuses.keys() == {200}


@each_dialect
@pytest.mark.parametrize("rows", [1, 3, None])
def test_ccxt_reads_every_fill(name: Name, rows: int | None) -> None:
    with VenueServer(STORIES[name](), limits={name: rows} if rows else None) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        client.load_markets()
        for symbol in client.symbols:
            read = [as_read(row) for row in read_trades(client, name, symbol)]
            assert sorted(read) == sorted(as_told(row) for row in venue.told(name).trades if row.symbol == symbol)


@pytest.mark.parametrize("name", ["alpaca", "binance_spot", "kraken"])
def test_ccxt_reads_the_balances(name: Name) -> None:
    with VenueServer(spot_story()) as venue:
        read = ccxt_client(EXCHANGES[name], venue).fetch_balance()
        for row in spot_story().balances:
            assert [Decimal(str(read[row.asset][key])) for key in ("free", "used", "total")] == [
                row.free, row.used, row.total,
            ]  # fmt: skip
        assert set(read["total"]) == {"USD", "BTC", "ETH"}


@each_dialect
def test_ccxt_reads_the_open_orders(name: Name) -> None:
    with VenueServer(STORIES[name]()) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        client.load_markets()
        found = [row for symbol in client.symbols for row in client.fetch_open_orders(symbol)]
        read = {
            (row["id"], row["clientOrderId"], row["symbol"], row["side"], *(Decimal(str(row[key])) for key in
             ("amount", "filled", "price")), row["timestamp"])
            for row in found
        }  # fmt: skip
        assert len(read) == len(found)
        assert read == {
            (row.id, row.client_order_id, row.symbol, row.side, row.qty, row.filled_qty, row.price,
             int(row.created_at.timestamp() * 1000))
            for row in venue.told(name).orders if row.is_open
        }  # fmt: skip


def test_ccxt_reads_each_leg_of_a_hedge() -> None:
    with VenueServer(swap_story()) as venue:
        client = ccxt_client("binanceusdm", venue)
        legs = client.fetch_positions()
        assert [(row["symbol"], row["side"], row["contracts"], row["entryPrice"], row["hedged"]) for row in legs] == [
            (PERP, "long", 1.0, 60000.0, True),
            (PERP, "short", 1.0, 58500.0, True),
        ]
        assert client.fapiPrivateGetPositionSideDual()["dualSidePosition"] is True
        assert client.fetch_balance()["USDT"]["total"] == 1020


def test_a_leg_without_an_entry_price_is_only_in_the_raw_answer() -> None:
    with VenueServer(scenario(NOW, leg(PERP, "3", 0))) as venue:
        client = ccxt_client("binanceusdm", venue)
        assert client.fetch_positions() == []
        assert [row["positionAmt"] for row in client.fapiPrivateV3GetPositionRisk()] == ["3"]


def test_ccxt_reads_margin_positions_of_kraken() -> None:
    with VenueServer(scenario(NOW, leg(BTC, "-0.5", 60000), leg(BTC, "-0.25", 61000))) as venue:
        client = ccxt_client("kraken", venue)
        (position,) = client.fetch_positions()
        assert (position["symbol"], position["side"], position["contracts"]) == (BTC, "short", 0.75)
        assert len(client.privatePostOpenPositions()["result"]) == 2


def test_ccxt_reads_debts_of_the_margin_wallet() -> None:
    story = scenario(NOW, trade("1", BTC, "buy", 1, 100, AT), balance("BTC", 1, 0, "0.4", "0.01"), wallet="margin")
    with VenueServer(story) as venue:
        client = ccxt_client("binance", venue)
        assert client.fetch_balance({"type": "margin"})["BTC"] == {"free": 1, "used": 0, "total": 1, "debt": 0.41}
        assert "BTC" not in client.fetch_balance()["total"]
        assert client.fetch_my_trades(BTC) == []
        assert len(client.fetch_my_trades(BTC, params={"marginMode": "cross"})) == 1


def test_alpacas_own_client_reads_the_account() -> None:
    with VenueServer(spot_story()) as venue:
        client, told = alpaca_client(venue), venue.told("alpaca")
        assert client.get_account().cash == "1000.25"
        assert {row.symbol: (row.qty, row.qty_available) for row in client.get_all_positions()} == {
            "BTCUSD": ("0.099", "0.009"), "ETHUSD": ("1.49", "1.49"),
        }  # fmt: skip
        assert client.get_open_position("BTCUSD").side == "long"
        assert [row.symbol for row in client.get_all_assets()] == [BTC, ETH, "SOL/USD"]
        assert client.get_clock().timestamp.tzinfo is not None
        everything = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL))
        assert {str(row.id) for row in everything} == {row.id for row in told.orders}
        old = next(row for row in everything if row.status == "replaced")
        assert (str(old.replaced_by), old.filled_qty) == (told.orders[1].id, "0.40000001")
        assert str(client.get_order_by_id(old.replaced_by).replaces) == str(old.id)
        assert client.get_order_by_client_id("mine-5").status == "partially_filled"


def test_alpacas_own_client_reads_fills_and_fees() -> None:
    with VenueServer(spot_story(), limits={"alpaca": 2}) as venue:
        client, read = alpaca_client(venue), []
        path, params = "/account/activities/FILL", {"page_size": 100, "direction": "asc"}
        while page := client.get(path, params):
            read += page
            params["page_token"] = page[-1]["id"]
        assert [row["id"] for row in read] == [
            row.id for row in sorted(venue.told("alpaca").trades, key=lambda row: (row.filled_at, row.id))
        ]
        assert [row["transaction_time"] for row in read[1:]] == ["2026-03-01T11:00:00.123456Z"] * 3
        assert not any("fee" in key or "commission" in key for row in read for key in row)
        # The fee of the day that has not ended is not booked yet.
        (fee,) = client.get("/account/activities/CFEE")
        assert (fee["date"], fee["symbol"], fee["qty"]) == ("2026-03-01", "BTCUSD", "-0.001")


@each_dialect
def test_what_is_read_is_what_the_statement_says(name: Name, tmp_path: Path) -> None:
    with VenueServer(STORIES[name]()) as venue:
        told = venue.told(name)
        snapshot = StatementExchange(str(write_statement(told, tmp_path))).fetch(
            "main", now=told.now, lookback=timedelta(days=30)
        )
        client = ccxt_client(EXCHANGES[name], venue)
        client.load_markets()
        read = [as_read(row) for symbol in client.symbols for row in read_trades(client, name, symbol)]
    assert snapshot.positions is not None
    assert snapshot.open_orders is not None
    assert len(snapshot.open_orders) == sum(row.is_open for row in told.orders)
    assert sorted(read) == sorted(
        (row.fill_id, row.exchange_order_id, row.symbol, row.side.value, row.qty, row.price,
         row.filled_at.replace(microsecond=row.filled_at.microsecond // 1000 * 1000))
        for row in snapshot.fills
    )  # fmt: skip


def test_a_statement_is_in_base_units(tmp_path: Path) -> None:
    market = swap(PERP, contract_size=Decimal("0.01"))
    write_statement(scenario(NOW, market, trade("1", PERP, "buy", 5, 100, AT), leg(PERP, 5, 100)), tmp_path)
    rows = {path.name: list(csv.reader(path.open(encoding="utf-8"))) for path in tmp_path.glob("*.csv")}
    assert rows["positions.csv"] == [list(POSITION_COLUMNS), [PERP, "0.05"]]
    assert tuple(rows["fills.csv"][0]) == FILL_COLUMNS
    assert rows["fills.csv"][1][5] == "0.05"
    assert tuple(rows["open_orders.csv"][0]) == OPEN_ORDER_COLUMNS


# Pages


@each_dialect
@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_no_page_edge_loses_a_fill(name: Name, rows: int) -> None:
    with VenueServer(crowd(name), limits={name: rows}) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        read = [row["id"] for row in read_trades(client, name, SYMBOLS[name])]
        assert sorted(read) == sorted(row.id for row in venue.told(name).trades)


def test_alpaca_bounds_are_exclusive_and_pages_are_limited() -> None:
    with VenueServer(crowd("alpaca")) as venue:
        client = alpaca_client(venue)

        def count(**params: object) -> int:
            return len(client.get("/account/activities/FILL", params))

        assert count(after="2026-03-01T10:00:00Z") == count(until="2026-03-01T10:00:00Z") == 1
        assert count(date="2026-03-01") == 23
        for wrong in ({"page_size": 101}, {"page_token": "none"}, {"date": "2026-03-01", "after": "2026-03-01"}):
            with pytest.raises(APIError, match="40010001"):
                count(**wrong)


def test_binance_spot_refuses_long_spans_and_odd_combinations() -> None:
    with VenueServer(crowd("binance_spot")) as venue:
        client = ccxt_client("binance", venue)
        start = client.parse8601("2026-03-01T10:00:00Z")

        def count(**params: object) -> int:
            return len(client.fetch_my_trades(BTC, params=params))

        assert (count(startTime=start), count(endTime=start), count(startTime=start, endTime=start)) == (22, 22, 21)
        assert client.fetch_my_trades(BTC, limit=1)[0]["timestamp"] > start
        assert client.fetch_my_trades(BTC, since=start - 3_600_000, limit=1)[0]["timestamp"] < start
        with pytest.raises(ccxt.BadRequest, match="-1127"):
            count(startTime=start, endTime=start + 86_400_001)
        with pytest.raises(ccxt.BadRequest, match="-1128"):
            count(startTime=start, fromId=1)
        with pytest.raises(ccxt.BadSymbol, match="-1121"):
            client.privateGetMyTrades({"symbol": "NONE"})


def test_binance_futures_answer_seven_days_at_a_time() -> None:
    old, new = trade("1", PERP, "buy", 1, 100, "2026-02-10T00:00"), trade("2", PERP, "sell", 1, 100, AT)
    gone = order("9", PERP, "buy", 1, 90, "2026-02-10T00:00", status="canceled")
    with VenueServer(scenario(NOW, old, new, gone)) as venue:
        client = ccxt_client("binanceusdm", venue)
        client.load_markets()
        assert [row["id"] for row in client.fetch_my_trades(PERP)] == ["2"]
        assert [row["id"] for row in client.fetch_my_trades(PERP, params={"fromId": 1})] == ["1", "2"]
        start = client.parse8601("2026-02-09T00:00:00Z")
        # A client that gives no end gets the week from the start, not everything up to now.
        assert [row["id"] for row in client.fapiPrivateGetUserTrades({"symbol": "BTCUSDT", "startTime": start})] == [1]
        assert len(client.fetch_orders(PERP, params={"orderId": 1})) == 2
        with pytest.raises(ccxt.BadRequest, match="-1127"):
            client.fetch_my_trades(PERP, params={"startTime": start, "endTime": start + 8 * 86_400_000})
        with pytest.raises(ccxt.BadRequest, match="-1128"):
            client.fetch_my_trades(PERP, params={"startTime": start, "fromId": 1})
        with pytest.raises(ccxt.BadRequest, match="-1130"):
            client.fapiPrivateGetUserTrades({"symbol": "BTCUSDT", "limit": 1001})


def test_kraken_counts_and_excludes_the_start_only() -> None:
    with VenueServer(crowd("kraken", 60)) as venue:
        client = ccxt_client("kraken", venue)
        edge = int(datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp())

        def ask(**params: object) -> dict[str, Any]:
            return client.privatePostTradesHistory(params)["result"]

        assert (len(ask()["trades"]), ask()["count"], len(ask(ofs=50)["trades"])) == (50, 60, 10)
        assert (ask(start=edge)["count"], ask(end=edge)["count"]) == (1, 59)
        newest = next(iter(ask()["trades"]))
        assert (ask(start=newest)["count"], ask(end=newest)["count"]) == (0, 60)


# What a fill is


def test_forced_orders_show_in_their_client_ids() -> None:
    with VenueServer(swap_story()) as venue:
        client = ccxt_client("binanceusdm", venue)
        orders = {
            row["side"] + row["symbol"]: row["clientOrderId"]
            for row in client.fetch_orders()
            if row["status"] == "closed"
        }
        assert orders["sell" + PERP].startswith("autoclose-")
        assert orders["sellETH/USDT:USDT"].startswith("settlement_autoclose-")
        forced = client.fapiPrivateGetForceOrders()
        assert sorted(row["clientOrderId"].split("-")[0] for row in forced) == ["adl_autoclose", "autoclose"]
        assert len(client.fapiPrivateGetForceOrders({"autoCloseType": "ADL"})) == 1
        assert len(client.fetch_my_liquidations()) == 1


def test_a_dust_conversion_is_only_in_the_dust_log() -> None:
    story = scenario(NOW, trade("d", "XRP/BNB", "sell", "0.5", "0.002", AT, fee="0.00002 BNB", kind="dust"))
    with VenueServer(story) as venue:
        client = ccxt_client("binance", venue)
        assert client.fetch_my_trades("XRP/BNB") == []
        (dust,) = client.fetch_my_dust_trades()
        assert (dust["symbol"], dust["side"], dust["amount"], dust["cost"]) == ("XRP/BNB", "sell", 0.5, 0.00098)
        assert dust["fee"] == {"currency": "BNB", "cost": 0.00002}


def test_kraken_tells_fees_in_quote_and_the_ledger_tells_the_asset() -> None:
    with VenueServer(spot_story()) as venue:
        client = ccxt_client("kraken", venue)
        first = next(row for row in client.fetch_my_trades() if row["amount"] == 0.50000001)
        assert first["fee"] == {"currency": "USD", "cost": 60.0005}
        fees = {
            row["currency"]: row["fee"]["cost"] for row in client.fetch_ledger() if row["referenceId"] == first["id"]
        }
        assert fees == {"BTC": 0.001, "USD": 0}
        last: dict[str, Decimal] = {}
        for row in reversed(client.privatePostLedgers()["result"]["ledger"].values()):
            amount, fee, after = (Decimal(row[key]) for key in ("amount", "fee", "balance"))
            assert last.get(row["asset"], after - amount + fee) + amount - fee == after
            last[row["asset"]] = after
        assert (last["ZUSD"], last["XXBT"], last["XETH"]) == (Decimal("1020.25"), Decimal("0.099"), Decimal("1.49"))


def test_a_delisted_market_still_has_its_fills() -> None:
    story = scenario(NOW, spot(BTC), spot(ETH, listed=False), trade("1", ETH, "buy", 1, 100, AT))
    with VenueServer(story) as venue:
        for name in ("alpaca", "binance", "kraken"):
            assert set(ccxt_client(name, venue).load_markets()) == {BTC}
        assert len(ccxt_client("kraken", venue).privatePostTradesHistory()["result"]["trades"]) == 1
        assert len(ccxt_client("binance", venue).privateGetMyTrades({"symbol": "ETHUSD"})) == 1


def test_spelling_is_stable_and_keeps_what_fits() -> None:
    for name in NAMES:
        once = spelled(STORIES[name](), name)
        assert spelled(once, name) == once
    numbered = scenario(NOW, trade("17", BTC, "buy", 1, 1, AT, order="5"))
    assert spelled(numbered, "binance_spot").trades[0].id == "17"


# Keys and writes


WITHDRAW: dict[Name, Callable[[Any], object]] = {
    "alpaca": lambda client: client.withdraw("BTC", 1, "an-address"),
    "binance_spot": lambda client: client.withdraw("BTC", 1, "an-address"),
    "binance_usdm": lambda client: client.sapiPostAssetTransfer(
        {"type": "UMFUTURE_MAIN", "asset": "USDT", "amount": 1}
    ),
    "kraken": lambda client: client.withdraw("BTC", 1, "an-address", params={"key": "k"}),
}


@each_dialect
def test_wrong_keys_are_refused(name: Name) -> None:
    with VenueServer(STORIES[name]()) as venue:
        wrong_key = replace(venue.keys, api_key="somebodyElse")
        wrong_secret = Keys(venue.keys.api_key, "c29tZWJvZHkgZWxzZQ==")
        for keys in (wrong_key, wrong_secret):
            client = ccxt_client(EXCHANGES[name], venue, keys=keys, options={"fetchCurrencies": False})
            with pytest.raises((ccxt.AuthenticationError, ccxt.PermissionDenied, ccxt.ExchangeError)) as refused:
                client.fetch_balance()
            assert any(word in str(refused.value) for word in ("40110000", "-2015", "-1022", "EAPI:Invalid"))
        assert venue.writes == []
    with VenueServer(spot_story()) as venue, pytest.raises(APIError, match="not authorized"):
        alpaca_client(venue, keys=wrong_key).get_account()


def test_a_nonce_must_grow_and_a_signature_must_cover_everything() -> None:
    with VenueServer(spot_story()) as venue:
        client = ccxt_client("kraken", venue)
        client.fetch_balance()
        client.incrementing_nonce = lambda: 1
        with pytest.raises(ccxt.InvalidNonce):
            client.fetch_balance()
        signed = ccxt_client("binance", venue).sign("account", ["private"], "GET", {})
        forged = signed["url"].replace("/account?", "/account?omitZeroBalances=true&")
        with pytest.raises(ccxt.ExchangeError, match="-1022"):
            ccxt_client("binance", venue).fetch(forged, "GET", signed["headers"])


@each_dialect
def test_a_write_is_refused_and_recorded(name: Name) -> None:
    with VenueServer(STORIES[name]()) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        client.load_markets()
        symbol = SYMBOLS[name]
        attempts = [
            lambda: client.create_order(symbol, "limit", "buy", 1, 100),
            lambda: client.cancel_order(venue.told(name).orders[0].id, symbol),
            lambda: WITHDRAW[name](client),
        ]
        for attempt in attempts:
            with pytest.raises(ccxt.BaseError):
                attempt()
        assert len(venue.writes) == len(attempts)
        assert {seen.status for seen in venue.writes} == {403}


def test_alpacas_own_client_cannot_write_either() -> None:
    with VenueServer(spot_story()) as venue:
        client = alpaca_client(venue)
        with pytest.raises(APIError):
            client.submit_order(MarketOrderRequest(symbol=BTC, qty=1, side="buy", time_in_force="gtc"))
        with pytest.raises(APIError):
            client.close_all_positions()
        assert [(seen.method, seen.path) for seen in venue.writes] == [
            ("POST", "/v2/orders"),
            ("DELETE", "/v2/positions"),
        ]


def test_venues_tell_what_the_keys_may_do() -> None:
    for may in (False, True):
        with VenueServer(spot_story(), keys=Keys("key1", "c2VjcmV0", can_trade=may, can_withdraw=may)) as venue:
            limits = ccxt_client("binance", venue).sapiGetAccountApiRestrictions()
            assert (limits["enableSpotAndMarginTrading"], limits["enableWithdrawals"]) == (may, may)
            info = ccxt_client("kraken", venue).privatePostGetApiKeyInfo()["result"]
            assert ("modify-trades" in info["permissions"]) is may


# Faults


NETWORK, BUSY, DOWN = ccxt.NetworkError, (ccxt.DDoSProtection, ccxt.RateLimitExceeded), ccxt.ExchangeNotAvailable
SEEN: list[tuple[Fault, Any]] = [
    (faults.delay(600), ccxt.RequestTimeout),
    (faults.CUT, NETWORK),
    (faults.DROP, NETWORK),
    (faults.rate_limit(), BUSY),
    (faults.rate_limit(3), BUSY),
    (faults.banned(), BUSY),
    (faults.server_error(500), DOWN),
    (faults.server_error(502), DOWN),
    (faults.server_error(503), DOWN),
    (faults.MAINTENANCE, (DOWN, ccxt.OperationFailed)),
]


@each_dialect
@pytest.mark.parametrize(("fault", "error"), SEEN, ids=[f"{fault.kind}-{n}" for n, (fault, _) in enumerate(SEEN)])
def test_a_fault_is_seen_as_what_it_is(name: Name, fault: Fault, error: Any) -> None:
    plan = FaultPlan({1: fault}, only=TRADE_PATHS)
    with VenueServer(STORIES[name](), faults=plan) as venue:
        client = ccxt_client(EXCHANGES[name], venue, timeout=60_000)
        client.load_markets()
        client.timeout = 500 if fault.kind is FaultKind.DELAY else 60_000
        with pytest.raises(error):
            client.fetch_my_trades(SYMBOLS[name])
        client.timeout = 60_000
        if fault.kind is FaultKind.RATE_LIMIT:
            told = client.last_response_headers.get("Retry-After")
            assert told == (None if fault.retry_after is None else str(fault.retry_after))
            assert venue.statuses[429] == (0 if name == "kraken" else 1)
        if fault.kind is FaultKind.BANNED:
            assert venue.statuses[418] == (1 if name.startswith("binance") else 0)
        assert client.fetch_my_trades(SYMBOLS[name])
        assert [seen.fault for seen in venue.requests if seen.faulted] == [fault.kind]
        assert plan.counts == {fault.kind: 1}


@each_dialect
def test_an_html_page_is_no_evidence(name: Name) -> None:
    with VenueServer(STORIES[name](), faults=FaultPlan({1: faults.GARBAGE}, only=TRADE_PATHS)) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        client.load_markets()
        # ccxt takes the page for an answer: only the raw text betrays it.
        assert not any(row["id"] for row in client.fetch_my_trades(SYMBOLS[name]))
        assert client.last_http_response.startswith("<html>")


@each_dialect
def test_a_repeated_page_is_the_previous_one(name: Name) -> None:
    plan = FaultPlan({1: faults.REPEAT, 3: faults.REPEAT}, only=TRADE_PATHS)
    with VenueServer(crowd(name), limits={name: 4}, faults=plan) as venue:
        client = ccxt_client(EXCHANGES[name], venue)
        later: dict[str, Any] = {"alpaca": {"page_size": 2}, "kraken": {"ofs": 4}}.get(name, {"fromId": 5010})
        first, second, third = (
            [row["id"] for row in client.fetch_my_trades(SYMBOLS[name], params=params)] for params in ({}, {}, later)
        )
        assert first == second == third
        assert [row["id"] for row in client.fetch_my_trades(SYMBOLS[name], params=later)] != third
        # There was nothing to repeat the first time, so that fault did not happen.
        assert plan.counts[FaultKind.REPEAT] == 1


def test_a_wrong_clock_shows_in_the_time_and_in_the_date() -> None:
    with VenueServer(spot_story(), faults=FaultPlan(skew_seconds=3600)) as venue:
        kraken = ccxt_client("kraken", venue)
        assert kraken.fetch_time() - kraken.milliseconds() == pytest.approx(3_600_000, abs=60_000)
        binance = ccxt_client("binance", venue, options={"fetchCurrencies": False, "fetchMargins": False})
        assert binance.fetch_time() - binance.milliseconds() == pytest.approx(3_600_000, abs=60_000)
        with pytest.raises(ccxt.InvalidNonce, match="-1021"):
            binance.fetch_balance()
        binance.load_time_difference()
        assert binance.fetch_balance()["USD"]["free"] == 1000.25
        date = datetime.strptime(binance.last_response_headers["Date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        assert date - datetime.now(UTC) > timedelta(minutes=58)
        assert venue.faults.total == 0


def test_the_venues_clock_can_be_the_scenarios() -> None:
    with VenueServer(spot_story(), clock="scenario") as venue:
        client = ccxt_client("binance", venue, options={"adjustForTimeDifference": True, "fetchCurrencies": False,
                                                        "fetchMargins": False})  # fmt: skip
        assert abs(client.fetch_time() - client.parse8601(NOW + ":00Z")) < 60_000
        client.load_markets()
        assert client.fetch_balance()["USD"]["free"] == 1000.25


def test_alpacas_own_client_waits_out_a_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = FaultPlan({1: faults.rate_limit(1), 2: faults.rate_limit()})
    with VenueServer(spot_story(), faults=plan) as venue:
        client = alpaca_client(venue)
        monkeypatch.setattr(client, "_retry_wait", 0)
        assert client.get_account().cash == "1000.25"
        assert [seen.status for seen in venue.requests] == [429, 429, 200]


def ask(path: str = "/v2/orders", **params: object) -> Request:
    return Request("GET", path, "&".join(f"{key}={value}" for key, value in params.items()), "", {})


def test_a_plan_strikes_the_same_request_only_so_often() -> None:
    always = FaultPlan(each=faults.EVERY, probability=1, at_most=3)
    assert [always.strike(ask(timestamp=n)) is None for n in range(5)] == [False, False, False, True, True]
    assert always.strike(ask(symbols="BTC")) is not None
    assert always.total == 4
    forever = FaultPlan(each=[faults.CUT], probability=1, forever=True)
    assert all(forever.strike(ask()) for _ in range(50))


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    def strikes(seed: int) -> list[Fault | None]:
        plan = FaultPlan(each=faults.EVERY, probability=0.3, seed=seed)
        return [plan.strike(ask(n=n)) for n in range(200)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 30 < sum(fault is not None for fault in strikes(1)) < 90


# Scenarios that contradict themselves


def test_a_scenario_must_be_consistent() -> None:
    fill = trade("1", BTC, "buy", 1, 1, AT)
    with pytest.raises(TypeError, match="float"):
        trade("1", BTC, "buy", 0.1, 1, AT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no market"):
        Scenario(fill.filled_at, (), trades=(fill,))
    with pytest.raises(ValueError, match="without an order"):
        Scenario(fill.filled_at, (spot(BTC),), trades=(fill,))
    with pytest.raises(ValueError, match="time zone"):
        Scenario(datetime(2026, 1, 1), (spot(BTC),))  # noqa: DTZ001  (the point of the test)
    with pytest.raises(ValueError, match="settle"):
        spot(BTC, settle="USD")
