"""Flat means flat: every leg, balance and debt by itself, in the table's own spelling, and what is unknown is said."""

from __future__ import annotations

import types
from decimal import Decimal
from typing import Any

import pytest
from builders import plan_of, row
from venue import faults
from venue.faults import FaultPlan, path_contains
from venue.incident import NOW, after, fetch, market_of
from venue.model import Market
from venue.scenario import balance, leg, order, scenario, spot, swap, trade
from venue.server import VenueServer
from venue.spelling import NAMES, Name

from recon.domain import Position, Reason, Snapshot
from recon.errors import Refused
from recon.plan import Facts
from recon.venues.live import guard
from recon.venues.live.holdings import read_legs, read_open_orders
from recon.venues.live.styles import KNOWN

each_dialect = pytest.mark.parametrize("name", NAMES)
SPOT: tuple[Name, ...] = ("alpaca", "binance_spot", "kraken")
each_spot = pytest.mark.parametrize("name", SPOT)
BTC, PERP = "BTC/USD", "BTC/USDT:USDT"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECOND", 0.001)


def seen(name: Name, symbols: tuple[str, ...], *rows: Any, plan: FaultPlan | None = None, **more: Any) -> Snapshot:
    wallet = more.pop("wallet", "spot")
    with VenueServer(scenario(NOW, *rows, wallet=wallet), clock="scenario", faults=plan) as server:
        return fetch(server, name, *symbols, **more)


def reasons(snapshot: Snapshot, symbol: str) -> set[Reason]:
    """The reasons against a trade of one bought unit of the symbol, the missing evidence aside."""
    entry = row("T1", quantity="1", symbol=symbol, clock="2026-03-01T09:00:00", raw_side="buy")
    found = {item.reason for item in plan_of(Facts("p", (entry,), snapshot)).items}
    return found - {Reason.MISSING_FILL_EVIDENCE}


# Legs


def test_both_legs_of_a_hedge_are_seen_though_they_net_to_zero() -> None:
    snapshot = seen("binance_usdm", (PERP,), leg(PERP, "1.5", 60000, "LONG"), leg(PERP, "-1.5", 61000, "SHORT"))
    assert snapshot.positions == (Position(PERP, Decimal("1.5")), Position(PERP, Decimal("-1.5")))
    assert reasons(snapshot, PERP) == {Reason.EXCHANGE_NOT_FLAT}


@pytest.mark.parametrize("qty", ["3", "-3", "0.00000001"])
def test_a_leg_without_an_entry_price_is_a_leg(qty: str) -> None:
    """Ccxt leaves it out; the venue's own answer has it."""
    snapshot = seen("binance_usdm", (PERP,), leg(PERP, qty, 0))
    assert snapshot.positions == (Position(PERP, Decimal(qty)),)


def test_a_leg_is_counted_in_units_and_not_in_contracts() -> None:
    """A thousandth of a bitcoin a contract; ccxt takes the size of Binance's linear contracts for one, as it is."""
    from recon.venues.live.trades import contract_size

    assert contract_size({"contract": True, "contractSize": "0.001"}) == Decimal("0.001")
    assert contract_size({"contract": False, "contractSize": None}) == 1


def test_a_flat_account_has_no_legs_and_an_open_order_makes_none() -> None:
    snapshot = seen("binance_usdm", (PERP,), swap(PERP), order("o", PERP, "sell", 1, 100, after(0)))
    assert snapshot.positions == ()
    assert reasons(snapshot, PERP) == {Reason.EXCHANGE_OPEN_ORDERS}


@pytest.mark.parametrize("name", ["binance_usdm", "kraken", "alpaca", "binance_spot"])
def test_positions_that_cannot_be_read_are_unknown(name: Name) -> None:
    """Nothing else is: the fills of the account stand, and every trade says that its position is unknown."""
    paths = path_contains("positionRisk", "BalanceEx", "/v2/account", "/api/v3/account")
    plan = FaultPlan(
        each=(faults.server_error(),), probability=1, forever=True,
        only=lambda request: paths(request) and "activities" not in request.path,
    )  # fmt: skip
    symbol = market_of(name, "BTC")
    snapshot = seen(name, (symbol,), trade("t", symbol, "buy", 1, 100, after(0)), plan=plan)
    assert snapshot.positions is None
    assert len(snapshot.fills) == 1
    assert any(note.startswith("Positions are unknown:") for note in snapshot.notes)
    assert reasons(snapshot, symbol) == {Reason.EXCHANGE_POSITION_UNKNOWN}


def test_positions_on_margin_stand_beside_the_balances() -> None:
    """Kraken: two legs of one side are told as one, the other side by itself."""
    snapshot = seen(
        "kraken", (BTC,), leg(BTC, "-0.5", 60000), leg(BTC, "-0.25", 61000), leg(BTC, "0.75", 59000),
        balance("USD", 100),
    )  # fmt: skip
    assert snapshot.positions is not None
    assert sorted(position.qty for position in snapshot.positions) == [Decimal("-0.75"), Decimal("0.75")]


# Balances


@each_spot
@pytest.mark.parametrize(("free", "used"), [("0.3", "0.2"), ("0.5", "0"), ("0", "0.5")])
def test_a_balance_counts_whether_it_is_free_or_not(name: Name, free: str, used: str) -> None:
    snapshot = seen(name, (BTC,), spot(BTC), balance("BTC", free, used))
    assert snapshot.positions == (Position(BTC, Decimal("0.5")),)
    assert reasons(snapshot, BTC) == {Reason.EXCHANGE_NOT_FLAT}


@each_spot
def test_the_venues_minimum_is_the_only_tolerance_and_it_is_said(name: Name) -> None:
    rows = (spot(BTC, min_qty=Decimal("0.0001")), spot("ETH/USD", min_qty=Decimal("0.0001")))
    snapshot = seen(name, (BTC, "ETH/USD"), *rows, balance("BTC", "0.0001"), balance("ETH", "0.00010001"))
    assert snapshot.positions == (Position("ETH/USD", Decimal("0.00010001")),)
    assert [note for note in snapshot.notes if "count as flat" in note] == [
        "0.0001 BTC count as flat: the venue's minimum amount on BTC/USD is 0.0001."
    ]


def test_debts_and_interest_are_a_position_of_their_own() -> None:
    """What is owed is not set off against what is held."""
    snapshot = seen(
        "binance_spot", (BTC, "ETH/USD"), spot(BTC), spot("ETH/USD"), balance("BTC", "1", 0, "0.99", "0.01"),
        balance("ETH", 0, 0, 0, "0.00000001"), wallet="margin", market="margin",
    )  # fmt: skip
    assert snapshot.positions == (
        Position(BTC, Decimal(1)), Position(BTC, Decimal(-1)), Position("ETH/USD", Decimal("-0.00000001")),
    )  # fmt: skip
    assert reasons(snapshot, "ETH/USD") == {Reason.EXCHANGE_NOT_FLAT}


def test_credit_that_is_used_at_kraken_is_a_debt() -> None:
    """Ccxt leaves it out of the balance."""
    snapshot = seen("kraken", (BTC,), spot(BTC), balance("BTC", 0, 0, "0.4", "0.1"))
    assert snapshot.positions == (Position(BTC, Decimal("-0.5")),)


@pytest.mark.parametrize("spelling", ["BTC/USD", "BTCUSD", "BTC-USD", "btc_usd"])
def test_a_position_of_alpaca_is_found_under_any_spelling_of_the_table(spelling: str) -> None:
    """Alpaca itself spells positions without a slash: BTCUSD."""
    snapshot = seen("alpaca", (spelling,), trade("t", BTC, "buy", "1", 100, after(0)), balance("BTC", "1"))
    assert snapshot.positions == (Position(spelling, Decimal(1)),)
    assert reasons(snapshot, spelling) == {Reason.EXCHANGE_NOT_FLAT}


# Symbols that the venue does not list


@each_dialect
@pytest.mark.parametrize("held", [False, True])
def test_a_delisted_symbol_is_unknown_and_no_other_is(name: Name, held: bool) -> None:
    btc, sol = market_of(name, "BTC"), market_of(name, "SOL")
    perpetual = name == "binance_usdm"
    more = {"kind": "swap", "settle": "USDT"} if perpetual else {}
    gone = Market("SOL", "USDT" if perpetual else "USD", listed=False, **more)  # type: ignore[arg-type]
    rows: list[Any] = [gone, trade("t", sol, "buy", 1, 100, after(0)), trade("u", btc, "buy", 1, 100, after(0))]
    if held:
        rows.append(leg(sol, 1, 100) if perpetual else balance("SOL", 1))
    snapshot = seen(name, (btc, sol), *rows)
    assert [(doubt.symbol, doubt.reason) for doubt in snapshot.doubts] == [(sol, Reason.EXCHANGE_POSITION_UNKNOWN)]
    assert [gap.symbol for gap in snapshot.gaps] == [sol.replace("/", "").replace(":", "")]
    assert Reason.EXCHANGE_POSITION_UNKNOWN in reasons(snapshot, sol)
    assert Reason.EVIDENCE_WINDOW_TOO_SHORT in reasons(snapshot, sol)
    assert reasons(snapshot, btc) == set()


@pytest.mark.parametrize("name", ["binance_spot", "kraken", "binance_usdm"])
def test_a_market_that_is_halted_is_still_listed(name: Name) -> None:
    symbol = market_of(name, "SOL")
    market = swap(symbol, active=False) if name == "binance_usdm" else spot(symbol, active=False)
    snapshot = seen(name, (symbol,), market, trade("t", symbol, "buy", 1, 100, after(0)))
    assert not snapshot.doubts
    assert len(snapshot.fills) == 1


def test_two_names_of_one_market_in_one_table_are_a_defect_of_both() -> None:
    """Nobody could say to which of them a fill belongs, and one of them would seem flat."""
    snapshot = seen("kraken", ("XBT/USD", "BTC/USD", "ETH/USD"), spot(BTC), spot("ETH/USD"), balance("BTC", 1))
    assert {doubt.symbol: doubt.reason for doubt in snapshot.doubts} == {
        "XBT/USD": Reason.DATA_QUALITY, "BTC/USD": Reason.DATA_QUALITY,
    }  # fmt: skip
    assert Reason.DATA_QUALITY in reasons(snapshot, "XBT/USD")
    assert reasons(snapshot, "ETH/USD") == set()
    same = seen("kraken", ("BTC-USD", "BTC/USD", "BTCUSD"), spot(BTC))
    assert same.doubts == ()


# Open orders


@each_dialect
def test_open_orders_are_found_under_the_tables_spelling(name: Name) -> None:
    market = market_of(name, "BTC")
    spelling = "BTCUSDT" if name == "binance_usdm" else "BTC-USD"
    working = order("o", market, "sell", "0.75", 100, after(0), client="mine-1", filled="0.25")
    more = [trade("t", market, "sell", "0.25", 100, after(1), order="o")]
    snapshot = seen(name, (spelling,), working, *more)
    assert snapshot.open_orders is not None
    (found,) = snapshot.open_orders
    assert (found.symbol, found.side, found.qty, found.filled_qty) == (
        spelling, "sell", Decimal("0.75"), Decimal("0.25"),
    )  # fmt: skip
    assert found.client_order_id == "mine-1"
    assert Reason.EXCHANGE_OPEN_ORDERS in reasons(snapshot, spelling)


def test_an_order_that_waits_for_a_price_is_an_open_order() -> None:
    """Binance lists the conditional orders on its contracts apart from the others."""
    stop = {
        "algoId": 2146760, "clientAlgoId": "stop-1", "algoType": "CONDITIONAL", "orderType": "STOP_MARKET",
        "symbol": "BTCUSDT", "side": "SELL", "positionSide": "BOTH", "timeInForce": "GTC", "quantity": "0.5",
        "algoStatus": "NEW", "triggerPrice": "50000", "price": "0", "reduceOnly": True, "actualOrderId": "",
        "createTime": 1772355600000, "updateTime": 1772355600000, "triggerTime": 0, "goodTillDate": 0,
    }  # fmt: skip
    with VenueServer(scenario(NOW, swap(PERP)), clock="scenario") as server:
        assert fetch(server, "binance_usdm", PERP).open_orders == ()
        dialect: Any = server._dialects["binance_usdm"]
        dialect.signed["/fapi/v1/openAlgoOrders"] = lambda _: [stop]
        snapshot = fetch(server, "binance_usdm", PERP)
    assert [(one.exchange_order_id, one.symbol, one.side, one.qty) for one in snapshot.open_orders or ()] == [
        ("2146760", PERP, "sell", Decimal("0.5")),
    ]  # fmt: skip
    assert reasons(snapshot, PERP) == {Reason.EXCHANGE_OPEN_ORDERS}


@each_dialect
def test_an_open_order_of_another_symbol_is_seen_and_stands_in_nobodys_way(name: Name) -> None:
    btc, eth = market_of(name, "BTC"), market_of(name, "ETH")
    market = swap(btc) if name == "binance_usdm" else spot(btc)
    snapshot = seen(name, (btc,), market, order("o", eth, "sell", 1, 100, after(0)))
    assert [one.symbol for one in snapshot.open_orders or ()] == [eth]
    assert reasons(snapshot, btc) == set()


def test_a_venue_without_a_way_to_read_positions_is_not_flat() -> None:
    venue: Any = types.SimpleNamespace(market="swap", name="coinbase", can=lambda _: False)
    with pytest.raises(Refused) as caught:
        read_legs(venue, KNOWN["coinbase"], types.SimpleNamespace())  # type: ignore[arg-type]
    said = "coinbase has no way to read positions."
    assert (caught.value.code, caught.value.message) == ("evidence_unreadable", said)


def test_legs_that_ccxt_gives_in_full_count_by_contract_and_side() -> None:
    told = [
        {"symbol": PERP, "contracts": "3", "contractSize": "0.1", "side": "short"},
        {"symbol": PERP, "contracts": "2", "contractSize": None, "side": "long"},
        {"symbol": PERP, "contracts": None, "side": "long"},
    ]
    venue: Any = types.SimpleNamespace(
        market="swap", name="coinbase", can=lambda _: True, read=lambda *_: told, last_answer=None
    )
    markets: Any = types.SimpleNamespace(unknown=(), by_symbol={PERP: {"symbol": PERP}}, spelled=lambda symbol: symbol)
    held = read_legs(venue, KNOWN["coinbase"], markets)
    assert held.legs == (Position(PERP, Decimal("-0.3")), Position(PERP, Decimal(2)))


def test_open_orders_are_asked_for_market_by_market_where_the_venue_leaves_some_out() -> None:
    """And one that cannot be read refuses the fetch: it is not left out."""
    told: dict[str | None, list[dict[str, Any]]] = {PERP: [{"id": "o", "symbol": PERP, "amount": 1, "timestamp": 0}]}
    venue: Any = types.SimpleNamespace(
        market="swap", name="bybit", feature=lambda *_: None, read=lambda _, symbol, *__: told[symbol]
    )
    markets: Any = types.SimpleNamespace(by_symbol={PERP: {"symbol": PERP}}, spelled=lambda symbol: symbol)
    with pytest.raises(Refused) as caught:
        read_open_orders(venue, KNOWN["bybit"], markets)
    said = "An open order cannot be read (KeyError)."
    assert (caught.value.code, caught.value.message) == ("evidence_unreadable", said)
    told[PERP][0]["side"] = "buy"
    assert [one.exchange_order_id for one in read_open_orders(venue, KNOWN["bybit"], markets)] == ["o"]


def test_bybit_is_asked_for_the_legs_of_each_market() -> None:
    """Asked for all at once it tells those that settle in USDT alone, and a leg in USDC would seem flat."""
    markets: Any = types.SimpleNamespace(
        by_symbol={s: {"symbol": s} for s in ("BTC/USDT:USDT", "BTC/USDC:USDC")},
        unknown=(), of_id=lambda name: {"BTCPERP": "BTC/USDC:USDC"}.get(name, "BTC/USDT:USDT"),
    )  # fmt: skip
    told = {
        "BTC/USDC:USDC": [{"symbol": "BTCPERP", "size": "0.5", "side": "Sell"}],
        "BTC/USDT:USDT": [{"symbol": "BTCUSDT", "size": "0", "side": ""}],
    }
    venue: Any = types.SimpleNamespace(market="swap", name="bybit", can=lambda _: True, markets={}, last_answer=None)

    def read(method: str, symbols: list[str]) -> list[Any]:
        assert method == "fetch_positions"
        venue.last_answer = {"result": {"list": told[symbols[0]]}}
        return []

    venue.read = read
    held = read_legs(venue, KNOWN["bybit"], markets)
    assert held.legs == (Position("BTC/USDC:USDC", Decimal("-0.5")),)
