"""Reading only, and reading what was really said: what the client may send, how patient it is, and how it fails."""

from __future__ import annotations

import ast
import base64
import inspect
import itertools
import re
import time
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import ccxt
import pytest
import tenacity.nap
from venue import faults
from venue.clients import ccxt_client
from venue.faults import Fault, FaultPlan, path_contains
from venue.incident import CCXT, access, fetch, market_of, story
from venue.server import VenueServer
from venue.spelling import NAMES, Name
from venue.wire import Keys, Reply

import recon
from recon.errors import Refused, UsageError
from recon.venues.live import client as clients
from recon.venues.live import guard
from recon.venues.live.client import READS, Access, connect

each_dialect = pytest.mark.parametrize("name", NAMES)
FILLS = path_contains("myTrades", "userTrades", "TradesHistory", "activities/FILL")
WRITING = re.compile(
    r"(sapi|fapi|dapi|papi|private|trader|v\d)*_?"
    r"((create|edit|cancel|amend|replace|modify|close|place|add)_?\w*(order|position|trigger)\w*"
    r"|withdraw\w*|transfer\w*|borrow\w*|repay\w*|set_?(leverage|margin_?mode|position_?mode)\w*"
    r"|\w*(post|put|delete|patch)(v\d)?_?(order|transfer|withdraw)\w*)",
    re.IGNORECASE,
)
"""How ccxt spells, in either case, what changes an account; `openOrders` and `OpenPositions` are none of it."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of waiting takes a millisecond, unless a test says otherwise."""
    monkeypatch.setattr(guard, "SECOND", 0.001)


# Nothing can be changed


def _names(tree: ast.AST) -> Iterator[str]:
    """Every name, attribute, keyword and text that could be one, docstrings aside."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.alias(name=name):
                yield name
            case ast.Constant(value=str(text)):
                yield from re.findall(r"\w+", text) if " " not in text.strip() else ()


def test_the_pattern_knows_every_writing_call_of_ccxt() -> None:
    """The control: ccxt's own list of what changes an account, in both of its spellings."""
    verbs = ("create", "edit", "cancel", "withdraw", "transfer")
    offered = [name for name in dir(ccxt.Exchange) if name.startswith(verbs) and callable(getattr(ccxt.Exchange, name))]
    calls = [name for name in offered if re.search(r"order|withdraw|transfer", name, re.IGNORECASE)]
    assert len(calls) > 40
    snake = [name for name in calls if not WRITING.fullmatch(name)]
    camel = [name for name in map(_camel, calls) if not WRITING.fullmatch(name)]
    harmless = {"create_expired_option_market", "createExpiredOptionMarket"}
    assert {*snake, *camel} <= harmless


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def test_recon_names_no_call_that_changes_an_account() -> None:
    folder = Path(inspect.getfile(recon)).parent
    found = {
        (path.name, name)
        for path in sorted(folder.rglob("*.py"))
        for name in _names(ast.parse(path.read_text(encoding="utf-8")))
        if WRITING.fullmatch(name)
    }
    assert found == set()


def test_every_call_that_the_client_makes_is_a_fetch() -> None:
    assert {name for name in READS if not name.startswith(("fetch_", "load_"))} == set()


@each_dialect
def test_a_writing_call_of_the_guarded_client_reaches_no_server(name: Name) -> None:
    symbol = market_of(name, "BTC")
    with VenueServer(story(name)) as server:
        venue = connect(access(server, name))
        venue.load()
        inside: Any = venue._client
        inside.options.update(createMarketBuyOrderRequiresPrice=False)
        read = len(server.requests)
        attempts = {
            "create_order": (symbol, "limit", "buy", 1, 100), "cancel_order": ("1", symbol),
            "edit_order": ("1", symbol, "limit", "buy", 1, 100), "cancel_all_orders": (symbol,),
            "withdraw": ("BTC", 1, "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
            "transfer": ("USD", 1, "spot", "margin"), "create_market_order": (symbol, "buy", 1),
        }  # fmt: skip
        for method, arguments in attempts.items():
            with pytest.raises((ccxt.BaseError, TypeError)):
                getattr(inside, method)(*arguments)
        with pytest.raises(ccxt.NotSupported, match="recon only reads"):
            inside.create_order(symbol, "limit", "buy", 1, 100)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            with pytest.raises(ccxt.NotSupported, match="recon only reads"):
                inside.fetch(f"{server.url}/v2/orders", method)
        assert server.writes == []
        assert len(server.requests) == read


@each_dialect
def test_the_same_call_of_an_unguarded_client_is_seen_as_a_write(name: Name) -> None:
    """The control of the test above."""
    with VenueServer(story(name)) as server:
        free = ccxt_client(CCXT[name], server)
        free.load_markets()
        with pytest.raises(ccxt.BaseError):
            free.create_order(market_of(name, "BTC"), "limit", "buy", 1, 100)
        assert len(server.writes) == 1


@each_dialect
def test_only_reading_calls_go_through_the_venue(name: Name) -> None:
    with VenueServer(story(name)) as server:
        venue = connect(access(server, name))
        with pytest.raises(ValueError, match="not a reading call"):
            venue.read("create_order", "BTC/USD", "limit", "buy", 1, 100)
        assert server.requests == []


def test_a_base_address_keeps_its_own_path() -> None:
    """A proxy may serve the venue below a path, and reads by POST are known there too."""
    moved = clients._moved({"rest": {"private": "https://api.kraken.com/x?y=1"}}, "http://proxy:8080/kraken/")
    assert moved == {"rest": {"private": "http://proxy:8080/kraken/x?y=1"}}
    assert guard.POST_READS["kraken"].fullmatch("/kraken/0/private/TradesHistory")
    assert not guard.POST_READS["kraken"].fullmatch("/0/private/AddOrder")
    assert not guard.POST_READS["kraken"].fullmatch("/0/private/TradesHistory/AddOrder")
    assert not guard.POST_READS["hyperliquid"].fullmatch("/exchange")


@pytest.mark.parametrize(
    ("body", "kind"), [('{"a": 1}', "KeyError"), ("[" * 100_000, "RecursionError"), ("nonsense", "JSONDecodeError")]
)
def test_whatever_is_tripped_over_inside_an_answer_is_no_answer(body: str, kind: str) -> None:
    with pytest.raises(guard.Garbled) as caught:
        guard.understood(lambda: guard.Guarded.on_json_response(body)["b"])
    assert str(caught.value) == f"an answer without the promised content ({kind})"


def test_a_secret_that_is_not_written_as_the_venue_writes_secrets_is_about_the_keys() -> None:
    with pytest.raises(ccxt.AuthenticationError):
        guard.understood(lambda: base64.b64decode("a", validate=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "ccxt knows no venue 'nowhere'. "),
        ("alpaca2", "ccxt knows no venue 'alpaca2'. "),
        ("bitfinex", "How bitfinex pages its fills has not been shown to be complete; expected one of alpaca, "),
    ],
)
def test_a_venue_that_nobody_has_shown_to_be_complete_is_refused(name: str, said: str) -> None:
    from recon.venues.live.source import CcxtExchange

    with pytest.raises(UsageError) as caught:
        CcxtExchange(Access(name))
    assert caught.value.code == "exchange_unknown"
    assert caught.value.message.startswith(said)


def test_a_market_whose_fills_the_venue_does_not_page_is_refused() -> None:
    from recon.venues.live.styles import style

    with pytest.raises(UsageError) as caught:
        style(connect(Access("alpaca", market="swap")))
    said = "alpaca has no swap account. Correct RECON_EXCHANGE_MARKET."
    assert (caught.value.code, caught.value.message) == ("exchange_unknown", said)


def test_a_sandbox_is_asked_in_the_place_of_the_venue() -> None:
    venue = connect(Access("binance", sandbox=True))
    assert "testnet" in venue._client.urls["api"]["public"]
    assert "testnet" not in connect(Access("binance"))._client.urls["api"]["public"]


# Patience


def read_in_spite_of(name: Name, fault: Fault) -> None:
    """One read whose first page of fills is struck, and which misses nothing."""
    with VenueServer(story(name), clock="scenario", faults=FaultPlan({1: fault}, only=FILLS)) as server:
        snapshot = fetch(server, name)
        assert server.faults.total == 1
    assert not snapshot.gaps


@each_dialect
def test_a_venue_that_asks_for_a_second_gets_it(name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECOND", 1.0)
    begin = time.monotonic()
    read_in_spite_of(name, faults.rate_limit(1))
    assert time.monotonic() - begin >= 1


@each_dialect
@pytest.mark.parametrize("fault", [faults.rate_limit(), faults.banned(), faults.rate_limit(60)], ids=str)
def test_asked_too_often_is_asked_again_later(name: Name, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the seconds that the venue asks for and no more; where it asks for none, after half to a whole one."""
    waited: list[float] = []
    monkeypatch.setattr(guard, "SECOND", 1.0)
    monkeypatch.setattr(tenacity.nap, "time", types.SimpleNamespace(sleep=waited.append))
    read_in_spite_of(name, fault)
    least, most = (60, 60) if fault.retry_after else (0.5, 1)
    assert len(waited) == 1
    assert least <= waited[0] <= most


@each_dialect
def test_more_patience_than_a_minute_is_named_at_once(name: Name) -> None:
    """The pages of fills become a gap that says why; everything else is refused."""
    plan = FaultPlan({1: faults.banned(61)}, only=FILLS)
    with VenueServer(story(name), clock="scenario", faults=plan) as server:
        snapshot = fetch(server, name)
        assert plan.total == 1
        (gap,) = snapshot.gaps[:1]
        assert "it asks to be left alone for 61 s" in gap.why
        path = "/v2/assets" if name == "alpaca" else "AssetPairs" if name == "kraken" else "exchangeInfo"
        server.faults = plan = FaultPlan({1: faults.rate_limit(3600)}, only=path_contains(path))
        with pytest.raises(Refused, match="left alone for 3600 s") as caught:
            fetch(server, name)
        assert caught.value.code == "evidence_unreadable"
        assert plan.total == 1


def test_patience_can_be_asked_for_by_date() -> None:
    venue = connect(Access("alpaca"))
    inside: Any = venue._client
    for said, least, most in (
        (format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 3500, 3600),
        (format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0, 0),
        ("7", 7, 7), ("soon", 0, 0), ("", 0, 0), ("-3", 0, 0),
    ):  # fmt: skip
        inside.last_response_headers = {"Retry-After": said}
        assert least <= inside.patience_asked() <= most
    inside.last_response_headers = None
    assert inside.patience_asked() == 0


# Failures that pass, and failures that do not

PASSING = (
    faults.server_error(500), faults.server_error(502), faults.server_error(503), faults.CUT, faults.DROP,
    faults.GARBAGE, faults.MAINTENANCE, faults.rate_limit(), faults.banned(), faults.wrong_clock(30),
)  # fmt: skip


@each_dialect
@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_a_failure_that_passes_leaves_no_trace(name: Name, fault: Fault) -> None:
    """Every request of the whole read goes wrong twice before it is answered."""
    with VenueServer(story(name), clock="scenario", limits={name: 9}) as server:
        expected = fetch(server, name)
    plan = FaultPlan(each=(fault,), probability=1, at_most=2)
    with VenueServer(story(name), clock="scenario", limits={name: 9}, faults=plan) as server:
        found = fetch(server, name)
        assert plan.total > 10
    assert _evidence(found) == _evidence(expected)


def _evidence(snapshot: Any) -> tuple[Any, ...]:
    return (
        snapshot.fills, snapshot.positions, snapshot.open_orders, snapshot.gaps, snapshot.doubts, snapshot.replaced,
        snapshot.window.start,
    )  # fmt: skip


@each_dialect
@pytest.mark.parametrize("fault", PASSING[:-1], ids=str)
def test_a_failure_that_does_not_pass_is_named(name: Name, fault: Fault) -> None:
    """The venue never answers: the fetch is refused after so many questions, and says what it got instead."""
    plan = FaultPlan(each=(fault,), probability=1, forever=True)
    with VenueServer(story(name), clock="scenario", faults=plan) as server:
        with pytest.raises(Refused) as caught:
            fetch(server, name)
        assert len(server.requests) == guard.ATTEMPTS
    assert caught.value.code == "evidence_unreadable"
    assert f"{CCXT[name]} did not answer" in caught.value.message
    assert server.url not in caught.value.message


@each_dialect
def test_fills_that_cannot_be_read_become_a_gap(name: Name) -> None:
    plan = FaultPlan(each=(faults.server_error(),), probability=1, forever=True, only=FILLS)
    with VenueServer(story(name), clock="scenario", faults=plan) as server:
        snapshot = fetch(server, name)
    assert snapshot.fills == ()
    covered = {(gap.start <= snapshot.window.start, gap.end >= snapshot.window.end) for gap in snapshot.gaps}
    assert (True, False) in covered or (True, True) in covered
    assert all("did not answer" in gap.why for gap in snapshot.gaps)


@pytest.mark.parametrize("seconds", [-300, -3, 3, 300, 86_400])
@each_dialect
def test_clocks_that_differ_all_the_time_are_allowed_for(name: Name, seconds: int) -> None:
    with VenueServer(story(name), clock="scenario") as server:
        expected = fetch(server, name)
    with VenueServer(story(name), clock="scenario", faults=FaultPlan(skew_seconds=seconds)) as server:
        assert _evidence(fetch(server, name)) == _evidence(expected)


def test_a_clock_that_was_read_wrongly_is_read_again() -> None:
    """Only the answer about the time is wrong; without a second reading every signed request would be refused."""
    plan = FaultPlan({1: faults.wrong_clock(90)}, only=path_contains("/api/v3/time"))
    with VenueServer(story("binance_spot"), clock="scenario", faults=plan) as server:
        assert fetch(server, "binance_spot").fills
        assert plan.total == 1


def test_a_late_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later than the client waits: 20 seconds, here a fifth of one for the answer that would never come."""
    plan = FaultPlan({2: faults.delay(600)}, only=FILLS)
    made, asked = connect, itertools.count(1)

    def impatient(given: Access) -> Any:
        venue = made(given)
        inside: Any = venue._client
        assert inside.timeout == 20_000
        ask = inside.fetch

        def fetch_page(url: str, *more: Any) -> Any:
            inside.timeout = 200 if "activities/FILL" in url and next(asked) == 2 else 20_000
            return ask(url, *more)

        inside.fetch = fetch_page
        return venue

    monkeypatch.setattr("recon.venues.live.source.connect", impatient)
    with VenueServer(story("alpaca"), clock="scenario", limits={"alpaca": 9}, faults=plan) as server:
        expected = len(server.told("alpaca").trades)
        assert len(fetch(server, "alpaca").fills) == expected
        pages = [seen for seen in server.requests if "activities/FILL" in seen.path]
        assert [seen.number for seen in pages if seen.faulted] == [pages[1].number]
        assert pages[2].params == pages[1].params


# Keys


@each_dialect
def test_wrong_keys_are_named_at_once_and_never_repeated(name: Name) -> None:
    wrong = Keys("wrongKey9876543210", "d3JvbmcgYW5kIHNlY3JldA==")
    with VenueServer(story(name), clock="scenario") as server:
        with pytest.raises(Refused) as caught:
            fetch(server, name, api_key=wrong.api_key, secret=wrong.secret)
        refused = [seen for seen in server.requests if seen.status == 401 or "/private/" in seen.path]
        assert len(refused) == 1
    assert caught.value.code == "evidence_unreadable"
    assert "check RECON_EXCHANGE_API_KEY" in caught.value.message
    assert wrong.api_key not in caught.value.message
    assert wrong.secret not in caught.value.message


@each_dialect
def test_a_message_repeats_no_key_even_if_the_venue_does(name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue may quote the request in its complaint: the key, the secret and the signed address are taken out."""
    with VenueServer(story(name), clock="scenario") as server:
        key, secret = server.keys.api_key, server.keys.secret
        echo = {"error": [f"EGeneral:{key} {secret}"], "code": 40010001, "msg": f"{key} {secret}",
                "message": f"{key} {secret}"}  # fmt: skip
        monkeypatch.setattr(server, "_answer", lambda *_: (Reply(400, echo), None))
        with pytest.raises(Refused) as caught:
            fetch(server, name)
    for secret_text in (key, secret, "signature=", server.url):
        assert secret_text not in caught.value.message
    assert "***" in caught.value.message
