"""One incident in four dialects and as a statement: the evidence is the same, and so is every plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from builders import PROFILE, said
from venue.incident import LOOKBACK, NOW, WANTED, access, after, fetch, market_of, plan_of, read_statement, story, table
from venue.model import Scenario
from venue.scenario import balance, leg, order, scenario, trade, write_statement
from venue.server import VenueServer
from venue.spelling import NAMES, Name, spelled

from recon.criteria import Rules
from recon.plan import Facts, Scope, build_plan
from recon.venues import TableExchange, archive
from recon.venues.live.source import CcxtExchange
from recon.venues.rows import FILL_COLUMNS, POSITION_COLUMNS

each_dialect = pytest.mark.parametrize("name", NAMES)


@each_dialect
@pytest.mark.parametrize("rows_a_page", [3, 7, None])
def test_the_plan_is_that_of_the_statement(name: Name, rows_a_page: int | None, tmp_path: Path) -> None:
    """The venue's pages hold fewer rows than were asked for; nothing of it shows in the plan."""
    lived = story(name)
    told = spelled(lived, name)
    rows = table(name, told, lived)
    with VenueServer(lived, clock="scenario", limits={name: rows_a_page} if rows_a_page else None) as server:
        live = fetch(server, name)
        assert not server.writes
        assert server.statuses.keys() == {200}
    statement = read_statement(write_statement(told, tmp_path))
    assert set(live.fills) == set(statement.fills)
    assert (live.positions, live.open_orders) == (statement.positions, statement.open_orders)
    assert not live.gaps
    assert not live.doubts
    assert plan_of(rows, live).digest == plan_of(rows, statement).digest


def test_the_plan_of_a_margin_account_is_that_of_its_statement(tmp_path: Path) -> None:
    """Binance's cross margin: fills, orders and balances are told by endpoints of their own."""
    lived = replace(story("binance_spot"), wallet="margin", balances=(balance("ETH", "3", 0, "0.5", "0.5"),))
    told = spelled(lived, "binance_spot")
    rows = table("binance_spot", told, lived)
    with VenueServer(lived, clock="scenario", limits={"binance_spot": 7}) as server:
        live = fetch(server, "binance_spot", market="margin")
        assert {seen.path for seen in server.requests if "Trades" in seen.path} == {"/sapi/v1/margin/myTrades"}
    statement = read_statement(write_statement(told, tmp_path))
    assert set(live.fills) == set(statement.fills)
    assert live.open_orders == statement.open_orders
    assert [leg.qty for leg in live.positions or ()] == [3, -1]
    net = replace(live, positions=statement.positions)
    assert plan_of(rows, net).digest == plan_of(rows, statement).digest


def test_the_futures_of_an_account_are_read_under_either_name() -> None:
    """`ccxt:binance` with RECON_EXCHANGE_MARKET=swap is `ccxt:binanceusdm`, a leg without an entry price included."""
    more = leg(market_of("binance_usdm", "SOL"), "0.25", 0)
    with VenueServer(story("binance_usdm", more), clock="scenario", limits={"binance_usdm": 7}) as server:
        expected = fetch(server, "binance_usdm")
        way = replace(access(server, "binance_usdm", market="swap"), name="binance")
        found = CcxtExchange(way).fetch(PROFILE, now=NOW, lookback=LOOKBACK, wanted=WANTED["binance_usdm"])
    assert len(found.positions or ()) == 2
    assert (found.fills, found.positions, found.open_orders) == (
        expected.fills, expected.positions, expected.open_orders,
    )  # fmt: skip


def test_the_dialects_tell_one_story() -> None:
    """Ids and markets are the venue's own; which trade gets what, at which price and when, is not."""
    plans = {}
    for name in NAMES:
        lived = story(name)
        with VenueServer(lived, clock="scenario", limits={name: 7}) as server:
            live, told = fetch(server, name), server.told(name)
        names = {new.id: old.id for old, new in zip(lived.orders, told.orders, strict=True)}
        lines = said(plan_of(table(name, told, lived), live))
        plans[name] = [" ".join(names.get(word, word) for word in line.split()) for line in lines]
    assert plans["alpaca"] == [
        "T1 fill_evidence 1 @61001.25 exit-1 10:00:00.007000 exact",
        "T2 fill_evidence 0.2 @61500 exit-2 11:00:00 linked",
        "T2 fill_evidence 0.2995 @61500 exit-2 11:01:00.500000 linked",
        "T2 fill_evidence 0.0005 @63000 exit-3 13:00:00 fifo",
        "T3 fill_evidence 1.2495 @63000 exit-3 13:00:00 fifo",
        "T3 NO_GO missing_fill_evidence_for_large_remainder 1.7505",
        "T4 NO_GO exchange_not_flat 2",
        "T4 NO_GO missing_fill_evidence_for_large_remainder 2",
        "T5 NO_GO exchange_open_orders 10",
    ]
    assert len({tuple(plan) for plan in plans.values()}) == 1


@each_dialect
def test_a_plan_from_the_archive_is_the_plan_made_live(name: Name, tmp_path: Path) -> None:
    """A market is gone from the venue's list: that doubt, and the gap with it, stand in the folder too."""
    lived = story(name)
    gone = replace(lived, markets=tuple(replace(m, listed=m.base != "SOL") for m in lived.markets))
    with VenueServer(gone, clock="scenario", limits={name: 7}) as server:
        live = fetch(server, name)
        rows = table(name, server.told(name), lived)
    archive.write_statement(tmp_path / "kept", live, PROFILE)
    kept = read_statement(tmp_path / "kept")
    assert (set(kept.fills), kept.positions, kept.open_orders) == (set(live.fills), live.positions, live.open_orders)
    assert (kept.gaps, kept.doubts, dict(kept.replaced)) == (live.gaps, live.doubts, dict(live.replaced))
    assert live.gaps
    assert live.doubts
    plans = plan_of(rows, live), plan_of(rows, kept)
    assert plans[0].digest == plans[1].digest
    assert [item.reason for item in plans[0].items if item.trade_id == "T5"] == [
        item.reason for item in plans[1].items if item.trade_id == "T5"
    ]


def replaced_story() -> Scenario:
    """The exit was replaced twice before it was filled; the first two are known to the backend, the last is not."""
    btc = market_of("alpaca", "BTC")
    return scenario(
        NOW,
        trade("f1", btc, "buy", "1", "60000", after(0), order="entry-1"),
        trade("f2", btc, "buy", "1", "60000", after(1), order="entry-2"),
        order("first", btc, "sell", "1", "64000", after(-9000), status="replaced", replaced_by="second"),
        order("second", btc, "sell", "1", "63000", after(10), status="replaced", replaces="first", replaced_by="third"),
        order("third", btc, "sell", "1", "61000", after(20), status="filled", filled="1", replaces="second"),
        trade("f3", btc, "sell", "1", "61000", after(60), order="third"),
    )


def test_a_chain_of_replaced_orders_links_its_fills_to_the_row_that_knows_the_first(tmp_path: Path) -> None:
    """The first order was made before the window; FIFO would give its fill to the other trade."""
    lived = replaced_story()
    told = spelled(lived, "alpaca")
    ids = {old.id: new.id for old, new in zip(lived.orders, told.orders, strict=True)}
    rows = [
        replace(row, trade_id=trade_id, order_id=f"{trade_id}-entry", quantity=row.quantity, filled_at=after(minute),
                exchange_order_id=ids[entry])
        for row in table("alpaca", spelled(story("alpaca"), "alpaca"), story("alpaca"))[:1]
        for trade_id, entry, minute in (("T1", "entry-1", 0), ("T2", "entry-2", 1))
    ]  # fmt: skip
    exit_row = replace(
        rows[1], order_id="T2-exit", action="EXIT", status="replaced", raw_side="sell", exchange_order_id=ids["first"]
    )
    with VenueServer(lived, clock="scenario") as server:
        live = fetch(server, "alpaca", "BTC/USD")
    assert live.replaced == {ids["third"]: ids["second"], ids["second"]: ids["first"]}
    plan = plan_of((*rows, exit_row), live)
    assert [line.rsplit(" ", 1)[-1] for line in said(plan) if line.startswith("T2 fill")] == ["linked"]
    assert not any(line.startswith("T1 fill") for line in said(plan))
    # The row says that the order was filled: it holds the fills of the order that took its place.
    held = plan_of((*rows, replace(exit_row, status="filled")), live)
    assert {item.trade_id for item in held.items} == {"T1"}
    archive.write_statement(tmp_path / "kept", live, PROFILE)
    kept = read_statement(tmp_path / "kept")
    assert plan_of((*rows, exit_row), kept).digest == plan.digest


@each_dialect
def test_the_plan_is_that_of_the_same_fills_in_a_table(name: Name, database_url: str) -> None:
    """A fills table and a positions table of the backend; open orders have none, so the symbol that has one is left."""
    lived, scope = story(name), Scope(symbols=(market_of(name, "BTC"), market_of(name, "ETH")))
    with VenueServer(lived, clock="scenario") as server:
        live, rows = fetch(server, name), table(name, server.told(name), lived)
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    kinds = {"qty": "numeric", "price": "numeric", "fee": "numeric", "filled_at": "timestamptz"}
    with engine.begin() as connection:
        for title, entries, columns in (
            ("fills", live.fills, FILL_COLUMNS), ("positions", live.positions or (), POSITION_COLUMNS),
        ):  # fmt: skip
            made = ", ".join(f"{column} {kinds.get(column, 'text')}" for column in columns)
            connection.execute(sa.text(f"CREATE TABLE {title} (profile_id text, {made})"))
            places = ", ".join(f":{column}" for column in columns)
            for entry in entries:
                cells = {column: getattr(entry, column) for column in columns}
                connection.execute(sa.text(f"INSERT INTO {title} VALUES ('{PROFILE}', {places})"), cells)
    kept = TableExchange(engine, "fills", "positions").fetch(PROFILE, now=NOW, lookback=LOOKBACK)
    plans = [build_plan(Facts(PROFILE, rows, snapshot), Rules(), scope) for snapshot in (live, kept)]
    assert plans[0].digest == plans[1].digest
    assert len(plans[0].rows_to_write) == 5
