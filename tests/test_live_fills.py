"""What a fill is: its fee in the asset in which it was paid, its kind, its order, its unit, its instant, its symbol."""

from __future__ import annotations

import types
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from builders import plan_of, row
from hypothesis import given
from venue import faults
from venue.faults import FaultPlan, path_contains
from venue.incident import NOW, after, fetch, market_of
from venue.scenario import fee_activity, order, scenario, spot, swap, trade
from venue.server import VenueServer
from venue.spelling import NAMES, Name

from recon.domain import Fill, Reason, Side, Snapshot, Window
from recon.errors import Refused
from recon.plan import Facts
from recon.venues.live import guard, styles, trades
from recon.venues.live.orders import Orders, read_orders
from recon.venues.live.reading import _Reader
from recon.venues.live.trades import SeparateFee, kind, to_fill, with_daily_fees

each_dialect = pytest.mark.parametrize("name", NAMES)
BTC, ETH, PERP = "BTC/USD", "ETH/USD", "BTC/USDT:USDT"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECOND", 0.001)


def seen(name: Name, symbols: tuple[str, ...], *rows: Any, limit: int | None = None, **more: Any) -> Snapshot:
    plan = more.pop("plan", None)
    limits = {name: limit} if limit else None
    with VenueServer(scenario(NOW, *rows), clock="scenario", limits=limits, faults=plan) as server:
        return fetch(server, name, *symbols, **more)


# Fees


@pytest.mark.parametrize("name", ["binance_spot", "kraken", "binance_usdm"])
@pytest.mark.parametrize("paid_in", ["base", "quote", "third"])
def test_a_fee_is_in_the_asset_in_which_it_was_paid(name: Name, paid_in: str) -> None:
    """Kraken's list of trades tells the amount in the quote asset; the ledger tells what was really taken."""
    symbol = market_of(name, "BTC")
    asset = {"base": "BTC", "quote": symbol.split("/")[1].split(":")[0], "third": "BNB"}[paid_in]
    snapshot = seen(name, (symbol,), trade("t", symbol, "buy", "0.5", 60000, after(0), fee=f"0.00012345 {asset}"))
    (fill,) = snapshot.fills
    assert (fill.fee, fill.fee_currency) == (Decimal("0.00012345"), asset)


def residual(snapshot: Snapshot, symbol: str, bought: str, sold: str, order_id: str, **rules: Any) -> list[Any]:
    """The items of a trade of which less was sold than bought."""
    rows = (
        row("T1", "ENTRY", bought, "2026-03-01T09:00:00", symbol=symbol, raw_side="buy", exchange_order_id=order_id),
        row("T1", "EXIT", sold, "2026-03-01T10:00:00", symbol=symbol, raw_side="sell", price=Decimal(61000)),
    )
    plan = plan_of(Facts("p", rows, snapshot), dust_abs_qty=Decimal("0.000001"), dust_rel_pct=Decimal(0), **rules)
    return [(item.reason, item.qty) for item in plan.items]


@pytest.mark.parametrize("spelling", ["BTC/USD", "BTC-USD"])
def test_the_residual_of_base_fees_by_day_comes_out_to_the_last_digit(spelling: str) -> None:
    """Alpaca posts one fee for all buys of a day; three fills share 0.001000001 by quantity, to the last digit."""
    rows = [trade(f"t{n}", BTC, "buy", "0.1", 60000, after(0, milliseconds=n), order="entry") for n in range(3)]
    paid = fee_activity("fee", BTC, "BTC", "0.001000001", "2026-03-01")
    sold = trade("x", BTC, "sell", "0.298999999", 61000, after(60), order="exit")
    snapshot = seen("alpaca", (spelling,), *rows, paid, sold)
    fees = [fill.fee for fill in snapshot.fills if fill.side is Side.BUY]
    assert fees == [Decimal("0.000333333"), Decimal("0.000333333"), Decimal("0.000333335")]
    (order_id,) = {fill.exchange_order_id for fill in snapshot.fills if fill.side is Side.BUY}
    items = residual(snapshot, spelling, "0.3", "0.298999999", order_id)
    assert (Reason.RESIDUAL_IS_BASE_FEE, Decimal("0.001000001")) in items
    accepted = residual(snapshot, spelling, "0.3", "0.298999999", order_id, base_fee=True)
    assert accepted == [(Reason.BASE_FEE, Decimal("0.001000001"))]


@pytest.mark.parametrize("name", ["binance_spot", "kraken"])
def test_the_residual_of_base_fees_by_fill_comes_out_to_the_last_digit(name: Name) -> None:
    rows = [
        trade(f"t{n}", BTC, "buy", "0.1", 60000, after(0, milliseconds=n), order="entry", fee=f"0.0003{n} BTC")
        for n in range(3)
    ]
    sold = trade("x", BTC, "sell", "0.29907", 61000, after(60), order="exit", fee="3 USD")
    snapshot = seen(name, (BTC,), *rows, sold)
    (order_id,) = {fill.exchange_order_id for fill in snapshot.fills if fill.side is Side.BUY}
    assert (Reason.RESIDUAL_IS_BASE_FEE, Decimal("0.00093")) in residual(snapshot, BTC, "0.3", "0.29907", order_id)


def test_the_base_is_called_as_the_table_calls_it() -> None:
    snapshot = seen("kraken", ("XBT/USD",), trade("t", BTC, "buy", 1, 60000, after(0), fee="0.0026 BTC"))
    assert [(fill.symbol, fill.fee_currency) for fill in snapshot.fills] == [("XBT/USD", "XBT")]


def test_fees_of_many_days_and_symbols_are_read_over_pages_and_stay_apart() -> None:
    days = [datetime(2026, 2, 27, tzinfo=UTC) + timedelta(days=n) for n in range(3)]
    rows = [trade(f"{s}{n}", s, "buy", 1, 100, day + timedelta(hours=13)) for n, day in enumerate(days) for s in
            (BTC, ETH)]  # fmt: skip
    paid = [
        fee_activity(f"f{s}{n}{part}", s, s[:3], f"0.00{n + 1}", day.date())
        for n, day in enumerate(days) for s in (BTC, ETH) for part in "ab"
    ]  # fmt: skip
    snapshot = seen("alpaca", (BTC, ETH), *rows, *paid, limit=3, lookback=timedelta(days=6))
    assert [fill.fee for fill in snapshot.fills] == [Decimal(f"0.00{2 * (n + 1)}") for n in (0, 0, 1, 1, 2, 2)]
    assert all(fill.fee_currency == fill.symbol[:3] for fill in snapshot.fills)


def test_fees_in_dollars_belong_to_sells() -> None:
    rows = trade("t", BTC, "buy", 1, 100, after(0)), trade("u", BTC, "sell", 1, 100, after(1))
    snapshot = seen("alpaca", (BTC,), *rows, fee_activity("f", BTC, "USD", "0.25", "2026-03-01"))
    assert [(fill.side, fill.fee, fill.fee_currency) for fill in snapshot.fills] == [
        ("buy", None, None), ("sell", Decimal("0.25"), "USD"),
    ]  # fmt: skip


@given(
    st.lists(st.decimals("0.00000001", 1000, places=8), min_size=1, max_size=9),
    st.decimals("0.000000001", 10, places=9),
)
def test_a_days_fee_is_shared_without_a_remainder(quantities: list[Decimal], total: Decimal) -> None:
    at = datetime(2026, 3, 1, 9, tzinfo=UTC)
    fills = [
        Fill(f"f{n}", "o", None, BTC, Side.BUY, qty, Decimal(1), None, None, at) for n, qty in enumerate(quantities)
    ]
    paid = SeparateFee(BTC, "BTC", Side.BUY, total, at.date())
    shared = with_daily_fees(fills, [paid])
    assert sum((fill.fee or Decimal(0) for fill in shared), Decimal(0)) == total
    assert all((fill.fee or Decimal(0)) >= 0 for fill in shared)


@pytest.mark.parametrize("fault", [faults.REPEAT, faults.server_error(), faults.CUT], ids=str)
@pytest.mark.parametrize(("name", "path"), [("alpaca", "activities/CFEE"), ("kraken", "Ledgers")])
def test_fees_that_come_apart_are_read_to_the_end_or_not_at_all(name: Name, path: str, fault: Any) -> None:
    """Two failures of one answer are got over; when the venue never tells, there is no plan with half of the fees."""
    rows: list[Any] = [
        trade(f"t{n}", BTC, "buy", 1, 100, after(n), fee=None if name == "alpaca" else "0.01 BTC") for n in range(9)
    ]
    rows += [fee_activity(f"f{n}", BTC, "BTC", "0.01", "2026-03-01") for n in range(9)] if name == "alpaca" else []
    plan = FaultPlan(each=(fault,), probability=1, only=path_contains(path))
    snapshot = seen(name, (BTC,), *rows, limit=2, plan=plan)
    assert sum((fill.fee or Decimal(0) for fill in snapshot.fills), Decimal(0)) == Decimal("0.09")
    assert plan.total > 0
    if fault is not faults.REPEAT:
        plan = FaultPlan(each=(fault,), probability=1, only=path_contains(path), forever=True)
        with pytest.raises(Refused):
            seen(name, (BTC,), *rows, limit=2, plan=plan)


# Kinds


def test_fills_that_nobody_ordered_are_told_apart() -> None:
    """Binance marks them in the client ids of their orders alone."""
    rows = [
        trade(f"t-{what}", PERP, "sell", "0.1", 100, after(n), order=f"o-{what}", kind=what)
        for n, what in enumerate(("trade", "liquidation", "adl", "settlement"))
    ]
    snapshot = seen("binance_usdm", (PERP,), *rows)
    said = [note.rsplit(" ", 1)[-1] for note in snapshot.notes if "no ordinary trade" in note]
    assert said == ["liquidation.", "adl.", "settlement."]
    assert len(snapshot.fills) == 4


def test_a_dust_conversion_is_a_fill_of_its_own_kind() -> None:
    """Two assets converted at once share an order, and the venue gives their fills no ids."""
    rows = [
        spot("ETH/BNB"), spot("BTC/BNB"),
        trade("d1", "ETH/BNB", "sell", "0.0003", "5", after(0), order="dust-1", kind="dust", fee="0.00003 BNB"),
        trade("d2", "BTC/BNB", "sell", "0.00001", "100", after(0), order="dust-1", kind="dust", fee="0.00002 BNB"),
    ]  # fmt: skip
    snapshot = seen("binance_spot", ("ETH/BNB", "BTC/BNB"), *rows)
    assert {(fill.symbol, fill.side, fill.qty) for fill in snapshot.fills} == {
        ("ETH/BNB", "sell", Decimal("0.0003")), ("BTC/BNB", "sell", Decimal("0.00001")),
    }  # fmt: skip
    assert len({(fill.exchange_order_id, fill.fill_id) for fill in snapshot.fills}) == 2
    assert sum("no ordinary trade: dust." in note for note in snapshot.notes) == len(snapshot.fills)


def test_a_liquidation_on_margin_is_told_by_kraken() -> None:
    snapshot = seen("kraken", (BTC,), trade("t", BTC, "sell", 1, 100, after(0), kind="liquidation"))
    assert any(note.endswith("no ordinary trade: liquidation.") for note in snapshot.notes)


@pytest.mark.parametrize(
    ("info", "client", "expected"),
    [
        ({"ordertype": "liquidation market"}, None, "liquidation"), ({"execType": "BustTrade"}, None, "liquidation"),
        ({"execType": "AdlTrade"}, None, "adl"), ({"dir": "Auto-Deleveraging"}, None, "adl"),
        ({"dir": "Liquidated Cross Long"}, None, "liquidation"), ({"liquidation": {"method": "market"}}, None,
         "liquidation"), ({"execType": "Settle"}, None, "settlement"), ({"execType": "Delivery"}, None, "delivery"),
        ({"dir": "Spot Dust Conversion"}, None, "dust"), ({"isDustTrade": True}, None, "dust"),
        ({}, "autoclose-1633024020", "liquidation"), ({}, "adl_autoclose", "adl"),
        ({}, "settlement_autoclose-17", "settlement"), ({}, "headless-bot-adl", None), ({}, "settle-my-debts", None),
        ({"type": "fill", "execType": "Trade", "ordertype": "limit", "dir": "Close Long"}, "web_1", None),
    ],
)  # fmt: skip
def test_the_venues_words_for_what_nobody_ordered(info: dict[str, Any], client: str | None, expected: str) -> None:
    """A client id of the account's own says nothing, whatever words are in it."""
    assert kind({"info": info}, client) == expected


# Orders


@each_dialect
def test_the_client_order_id_is_that_of_the_order(name: Name) -> None:
    """Hundreds of orders in between, and one that was made long before the window."""
    symbol = market_of(name, "BTC")
    old = order("old", symbol, "sell", 1, 100, after(-50_000), status="filled", filled=1, client="mine-old")
    new = order("new", symbol, "buy", 1, 100, after(10), status="filled", filled=1, client="mine-new")
    between = [
        order(f"o{n}", symbol, "buy", 1, 100, after(-40_000 + n), status="canceled", client=f"c{n}") for n in range(45)
    ]
    rows = old, new, *between, trade("t", symbol, "sell", 1, 100, after(5), order="old"), trade(
        "u", symbol, "buy", 1, 100, after(11), order="new")  # fmt: skip
    snapshot = seen(name, (symbol,), *rows, limit=10)
    assert [fill.client_order_id for fill in snapshot.fills] == ["mine-old", "mine-new"]


def test_an_order_that_the_venue_forgot_is_said_and_its_fill_stands() -> None:
    """Binance forgets futures orders after 90 days; the answer is the control's, without the order."""
    rows = trade("t", PERP, "sell", 1, 100, after(5), order="x"), trade("u", PERP, "sell", 1, 100, after(6), order="y")
    with VenueServer(scenario(NOW, *rows), clock="scenario") as server:
        fetch(server, "binance_usdm", PERP)
        dialect: Any = server._dialects["binance_usdm"]
        dialect.signed["/fapi/v1/allOrders"] = lambda _: []
        snapshot = fetch(server, "binance_usdm", PERP)
    assert [fill.client_order_id for fill in snapshot.fills] == [None, None]
    assert any("no longer tells 2 of the orders" in note for note in snapshot.notes)


@pytest.mark.parametrize("field", ["clOrdId", "orderLinkId", "cloid"])
def test_client_ids_that_ccxt_leaves_in_the_answer_are_found(field: str) -> None:
    assert to_fill(a_trade(info={field: "mine"}), SPOT, BTC).client_order_id == "mine"


# Symbols


@pytest.mark.parametrize(
    ("name", "market", "spellings"),
    [
        ("alpaca", BTC, ["BTC/USD", "BTCUSD", "BTC-USD", "btc/usd"]),
        ("binance_spot", "BTC/USDT", ["BTC/USDT", "BTCUSDT", "BTC-USDT", "BTC_USDT"]),
        ("binance_usdm", PERP, ["BTC/USDT:USDT", "BTC/USDT", "BTCUSDT", "BTC-USDT", "BTC-USDT-USDT"]),
        ("kraken", BTC, ["BTC/USD", "XBT/USD", "XBTUSD", "XXBTZUSD", "BTC-USD", "BTCUSD"]),
    ],
)  # fmt: skip
def test_every_spelling_finds_the_market_and_the_tables_is_kept(name: Name, market: str, spellings: list[str]) -> None:
    rows = trade("t", market, "buy", 1, 100, after(0)), trade("u", market_of(name, "ETH"), "buy", 1, 100, after(0))
    with VenueServer(scenario(NOW, *rows), clock="scenario") as server:
        for spelling in spellings:
            snapshot = fetch(server, name, spelling)
            assert {fill.symbol for fill in snapshot.fills if not fill.symbol.startswith("ETH")} == {spelling}
            assert not snapshot.doubts
            assert not snapshot.gaps
            assert any(note.startswith(f"{spelling} is ") for note in snapshot.notes) or name == "alpaca"


# Units

SPOT: dict[str, Any] = {"symbol": BTC, "base": "BTC", "quote": "USD", "contract": False}
LINEAR = SPOT | {"symbol": PERP, "contract": True, "linear": True, "contractSize": "0.001", "quote": "USDT"}
INVERSE = SPOT | {"symbol": "BTC/USD:BTC", "contract": True, "inverse": True, "contractSize": "100"}


def a_trade(**more: Any) -> dict[str, Any]:
    known = {"id": "t", "order": "o", "timestamp": 1772355600123, "symbol": BTC, "side": "buy", "amount": "7",
             "price": "100.5", "info": {}}  # fmt: skip
    return known | more


def test_contracts_become_units_of_the_symbol() -> None:
    assert to_fill(a_trade(), LINEAR, PERP).qty == Decimal("0.007")
    assert to_fill(a_trade(), SPOT, BTC).qty == 7
    assert trades.unit_problem(LINEAR) is None


def test_a_contract_whose_unit_is_not_the_symbols_blocks_the_whole_trade(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inverse contract counts dollars, whatever its size; without a size nobody knows what it counts."""
    assert "is an inverse contract" in str(trades.unit_problem(INVERSE))
    assert "does not say how much BTC" in str(trades.unit_problem(LINEAR | {"contractSize": None}))
    rows = swap(PERP), trade("t", PERP, "sell", 1, 100, after(60))
    from recon.venues.live.client import ReadOnlyVenue

    load = ReadOnlyVenue.load

    def as_inverse(venue: ReadOnlyVenue) -> None:
        load(venue)
        venue.markets[PERP] |= {"inverse": True, "linear": False}

    monkeypatch.setattr(ReadOnlyVenue, "load", as_inverse)
    snapshot = seen("binance_usdm", (PERP,), *rows)
    assert [(doubt.symbol, doubt.reason) for doubt in snapshot.doubts] == [(PERP, Reason.UNIT_UNKNOWN)]
    entry = row("T1", quantity="1", symbol=PERP, clock="2026-03-01T09:00:00", raw_side="buy")
    plan = plan_of(Facts("p", (entry,), snapshot))
    assert Reason.UNIT_UNKNOWN in plan.judgements[0].reasons
    assert not plan.rows_to_write
    assert plan.judgements[0].is_blocked


# Instants and ids


@pytest.mark.parametrize(
    ("name", "digits"), [("alpaca", 123456), ("kraken", 123456), ("binance_spot", 123000), ("binance_usdm", 123000)]
)
def test_an_instant_is_as_fine_as_the_venue_tells_it(name: Name, digits: int) -> None:
    """Microseconds where there are any, though ccxt keeps milliseconds."""
    symbol = market_of(name, "BTC")
    snapshot = seen(name, (symbol,), trade("t", symbol, "buy", 1, 100, after(0, microseconds=123456)))
    assert [fill.filled_at.microsecond for fill in snapshot.fills] == [digits]


def test_nanoseconds_are_cut_and_not_rounded() -> None:
    fill = to_fill(a_trade(info={"transaction_time": "2026-03-01T09:00:00.999999999Z"}), SPOT, BTC)
    assert fill.filled_at == datetime(2026, 3, 1, 9, 0, 0, 999999, tzinfo=UTC)


def test_an_id_that_repeats_at_another_time_is_another_fill() -> None:
    """Dust conversions carry their order's number as id; an equal answer to a second question stays one fill."""
    from recon.venues.live.reading import _distinct

    same = [a_trade(), a_trade(order="p"), a_trade(timestamp=1772355600124)]
    assert [(one["order"], one["id"]) for one in _distinct(same)] == [
        ("o", "t@1772355600123"), ("p", "t"), ("o", "t@1772355600124"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "lacking",
    [
        {"side": None},
        {"amount": None},
        {"price": "x"},
        {"id": ...},
        {"id": None},
        {"side": "long"},
        {"amount": "0"},
        {"price": "0"},
    ],
)
def test_a_fill_that_lacks_something_is_refused(lacking: dict[str, Any]) -> None:
    made = a_trade(**lacking)
    made = {key: value for key, value in made.items() if value is not ...}
    with pytest.raises(Refused, match="lacks side, amount, price, id or time"):
        to_fill(made, SPOT, BTC)


def test_a_fill_without_an_order_has_one_of_its_own() -> None:
    assert to_fill(a_trade(order=None), SPOT, BTC).exchange_order_id == "fill-t"
    assert to_fill(a_trade(order=None, info={"execType": "Settle"}), SPOT, BTC).exchange_order_id == "settlement-t"


@pytest.mark.parametrize(
    ("way", "asked", "said"),
    [
        (Orders.FROM_ID, "7", "binance does not get past order 7 of BTC/USD."),
        (Orders.BY_IDS, "7", "binance answers with other orders than it was asked for."),
    ],
)
def test_orders_that_were_not_asked_for_refuse_the_fetch(way: Orders, asked: str, said: str) -> None:
    told = [{"id": "3", "info": {}}]
    venue: Any = types.SimpleNamespace(name="binance", read=lambda *_, **__: told)
    with pytest.raises(Refused) as caught:
        read_orders(venue, way, Window(after(0), after(9)), [{"order": asked, "symbol": BTC}])
    assert (caught.value.code, caught.value.message) == ("evidence_unreadable", said)


@pytest.mark.parametrize("most", [2, 3])
def test_a_venue_that_tells_its_latest_fills_alone_leaves_a_gap_before_them(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Hyperliquid tells 10,000; whether there were more is not to be seen, so as many as that are too many."""
    monkeypatch.setattr(styles, "KNOWN", {"kraken": replace(styles.KNOWN["kraken"], most=most)})
    fills = [trade(str(minute), BTC, "buy", 1, 60000, after(minute)) for minute in (10, 20)]
    snapshot = seen("kraken", (BTC,), *fills)
    found = [(gap.symbol, gap.end, gap.why) for gap in snapshot.gaps if gap.symbol is None]
    assert found == ([(None, after(10), "it tells the latest 2 fills alone")] if most == 2 else [])


@pytest.mark.parametrize("answer", [[{"id": "a", "symbol": "X/USD", "date": "2026-03-01"}], {"code": 0}])
def test_activities_that_are_not_listed_each_once_refuse_the_fetch(answer: Any) -> None:
    """The same page again would go on for ever; anything else says nothing of the fees."""
    venue: Any = types.SimpleNamespace(name="alpaca", raw=lambda *_: answer)
    markets: Any = types.SimpleNamespace(named=lambda _: None)
    with pytest.raises(Refused) as caught:
        _Reader(venue, markets, Window(after(0), after(9)), NOW)._fee_activities()
    said = "alpaca does not list each activity of fees once."
    assert (caught.value.code, caught.value.message) == ("evidence_unreadable", said)


def test_a_fee_of_a_day_without_a_fill_is_nobodys() -> None:
    fee = SeparateFee(BTC, "BTC", Side.BUY, Decimal("0.1"), NOW.date())
    assert with_daily_fees((), [fee]) == ()
