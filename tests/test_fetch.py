"""`recon fetch`: the folder is what the source says, made whole or not at all, and a plan from it is the same plan."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from console import CLOSED, OPENED, Answer, Console, Place, clean_environment
from incidents import NOW, HookedStatement, Incident, at
from venue.scenario import scenario, trade
from venue.server import KEYS, VenueServer

from recon.demo import DEMO_PROFILE
from recon.domain import Coverage, Doubt, Gap, Page, Reason, Snapshot, Wanted, Window
from recon.errors import Refused
from recon.fetch import Fetched, fetch_evidence
from recon.venues.archive import write_statement
from recon.venues.base import Paged
from recon.venues.live.client import Access
from recon.venues.live.source import CcxtExchange
from recon.venues.statement import StatementExchange

FILES = ["fills.csv", "open_orders.csv", "positions.csv", "statement.json"]


@pytest.fixture
def console(place: Place, request: pytest.FixtureRequest) -> Console:
    """The console of a profile of its own, named after the test, with two ghosts."""
    return place.profile(request.node.name, "T1", "T2")[1]


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    """The name of that profile."""
    return request.node.name


def fetched(console: Console, profile: str, out: Path, *more: str) -> Answer:
    return console.inside("fetch", "--profile-id", profile, "--out", str(out), *more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_says_what_was_fetched_and_writes_a_statement_folder(console, profile, tmp_path) -> None:
    answer = fetched(console, profile, tmp_path / "out")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0].startswith(f"fetched: 2 fills, no legs, no open orders (profile {profile}, statement:")
    assert lines[1].startswith("  from ")
    assert lines[-1] == f"  folder: {tmp_path / 'out'}"
    assert names(tmp_path / "out") == FILES
    assert names(tmp_path) == ["out"]


def test_as_json_it_is_one_object(console, profile, tmp_path) -> None:
    told = fetched(console, profile, tmp_path / "out", "--json").json
    assert list(told) == [
        "profile_id", "source", "window", "pages", "fills", "legs", "open_orders", "gaps", "doubts", "notes", "folder",
    ]  # fmt: skip
    assert (told["fills"], told["legs"], told["open_orders"], told["folder"]) == (2, 0, 0, str(tmp_path / "out"))


def test_what_is_unknown_is_said_and_has_no_file(place, tmp_path) -> None:
    incident, console = place.profile("fetch-unknown", "T1")
    incident.positions = incident.open_orders = None
    incident.write_statement()
    answer = fetched(console, "fetch-unknown", tmp_path / "out")
    assert answer.out.startswith("fetched: 1 fill, positions unknown, open orders not checked (")
    assert "  note: Positions are unknown" in answer.out
    assert names(tmp_path / "out") == ["fills.csv", "statement.json"]
    told = fetched(console, "fetch-unknown", tmp_path / "again", "--json").json
    assert (told["legs"], told["open_orders"]) == (None, None)


def test_the_database_is_as_it_was(place, console, profile, tmp_path) -> None:
    incident = Incident(place.url, place.folder / "none", place.switch)
    before = incident.everything()
    assert fetched(console, profile, tmp_path / "out").status == 0
    assert incident.everything() == before


def test_an_empty_folder_serves_and_a_missing_one_is_made_with_its_parents(console, profile, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert fetched(console, profile, tmp_path / "empty").status == 0
    assert names(tmp_path / "empty") == FILES
    assert fetched(console, profile, tmp_path / "a" / "b").status == 0
    assert names(tmp_path / "a" / "b") == FILES


def test_a_folder_that_holds_anything_is_left_alone(console, profile, tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "fills.csv").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        message = fetched(console, profile, tmp_path / name).refused("folder_taken")
        assert message == f"{tmp_path / name} is not an empty folder, and nothing is overwritten. Name a new one."
    assert names(tmp_path) == ["file", "full"]
    assert (tmp_path / "full" / "fills.csv").read_text() == "mine"


def test_a_folder_that_is_filled_meanwhile_is_left_alone(incident, tmp_path) -> None:
    incident.create_table()
    incident.ghost("T1")
    out = tmp_path / "out"

    def before() -> None:
        out.mkdir()
        (out / "note").write_text("mine")

    incident.exchange.before = before
    with pytest.raises(Refused) as caught:
        fetch_evidence(incident.work(), incident.profile, out)
    assert caught.value.code == "folder_taken"
    assert names(out) == ["note"]
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_a_refused_fetch_leaves_nothing(place, console, profile, tmp_path) -> None:
    message = fetched(console, "tpyo", tmp_path / "out").refused("unknown_profile")
    assert "'tpyo' has no row in orders" in message
    (place.folder / f"statement-{place.profiles}" / "fills.csv").write_text("nonsense\n")
    fetched(console, profile, tmp_path / "out").refused("evidence_unreadable")
    assert names(tmp_path) == []


def test_without_a_source_there_is_nothing_to_fetch_from(console, profile, tmp_path) -> None:
    unset = console.but(RECON_EXCHANGE=None)
    assert "RECON_EXCHANGE is unset" in fetched(unset, profile, tmp_path / "out").refused("exchange_unknown", 2)


def test_a_place_that_cannot_be_written_is_named(console, profile, tmp_path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    for folder in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        message = fetched(console, profile, folder).refused("folder_unwritable", 1)
        assert message.startswith(f"{folder} cannot be written (")


def digest(console: Console, profile: str, batch_id: str) -> str:
    """The digest of the plan that a dry run makes."""
    assert console.stage("detect", profile, batch_id).status == 0
    told = console.stage("dry-run", profile, batch_id, "--json").json
    assert told["plan_digest"], told
    return told["plan_digest"]


@pytest.mark.parametrize("source", ["table", "statement"])
def test_a_plan_from_the_folder_is_the_same_plan(place, source, tmp_path) -> None:
    """A statement whose `from` cuts off the older ghost, and two tables that list no open orders."""
    name = f"fetch-{source}"
    incident, console = place.profile(name)
    incident.ghost("old", opened=OPENED - 500, closed=CLOSED - 500)
    incident.ghost("new", "1.50", opened=OPENED, closed=CLOSED, symbol="ETH/USD")
    incident.hold("DOT/USD", "-2.000")
    if source == "table":
        incident.sql(
            """CREATE TABLE venue_fills AS SELECT %s AS profile_id, 'f1' AS fill_id, 'exit-new' AS exchange_order_id,
               NULL AS client_order_id, 'ETH/USD' AS symbol, 'sell' AS side, 1.50 AS qty, 110.0 AS price, 0.10 AS fee,
               'USD' AS fee_currency, %s AS filled_at""",
            name,
            at(CLOSED),
        )
        incident.sql("CREATE TABLE venue_positions AS SELECT %s AS profile_id, 'DOT/USD' AS symbol, -2 AS qty", name)
        console = console.but(RECON_EXCHANGE="table:venue_fills,venue_positions")
    else:
        incident.about = json.dumps(
            {"venue": "acme", "account": "7", "from": at(CLOSED - 100).isoformat(), "to": at(CLOSED + 100).isoformat()}
        )
        incident.write_statement()
    assert fetched(console, name, tmp_path / "out").status == 0
    offline = console.but(RECON_EXCHANGE=f"statement:{tmp_path / 'out'}")
    assert digest(console, name, f"{name}-1") == digest(offline, name, f"{name}-2")
    assert fetched(offline, name, tmp_path / "copy").status == 0
    for file in ("fills.csv", "positions.csv"):
        assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_the_demo_can_be_fetched(demo_home, tmp_path) -> None:
    console = Console(clean_environment() | {"RECON_HOME": str(demo_home)}, tmp_path)
    answer = fetched(console, DEMO_PROFILE, tmp_path / "out")
    assert answer.status == 0
    assert "statement of the demo" in answer.out


# What limits the evidence, and the bar


def test_what_limits_the_evidence_is_printed_and_kept(tmp_path) -> None:
    snapshot = Snapshot(
        "ccxt:acme",
        Window(at(0), at(9)),
        (),
        (),
        (),
        notes=("a note",),
        gaps=(Gap("BTCUSD", at(0), at(5), "a page broke"), Gap(None, at(1), at(2), "no answer")),
        doubts=(Doubt("ETH/USD", Reason.UNIT_UNKNOWN, "the contract is inverse"),),
        replaced={"X2": "X1"},
        coverage=Coverage("acme", at(9), (Page(None, at(0), at(9), {"page_token": "f1"}, 1, at(9)),)),
    )
    told = Fetched("main", snapshot, tmp_path)
    assert told.lines()[2:-1] == [
        "  gap: BTCUSD from 2026-03-01T09:00:00.000000Z to 2026-03-01T09:05:00.000000Z: a page broke",
        "  gap: all symbols from 2026-03-01T09:01:00.000000Z to 2026-03-01T09:02:00.000000Z: no answer",
        "  doubt: ETH/USD: unit_unknown: the contract is inverse",
        "  note: a note",
    ]
    assert (told.document()["pages"], len(told.document()["gaps"])) == (1, 2)
    write_statement(tmp_path, snapshot, "main")
    read = StatementExchange(str(tmp_path)).fetch("main", now=NOW, lookback=timedelta(hours=72))
    assert (read.window, read.gaps, read.doubts) == (snapshot.window, snapshot.gaps, snapshot.doubts)
    assert read.replaced == snapshot.replaced


class Paging(HookedStatement):
    """A statement that pretends to come in three pages."""

    on_page: Callable[[], object] = staticmethod(lambda: None)

    def fetch(self, *args: Any, **options: Any) -> Any:
        for _ in range(3):
            time.sleep(0.11)  # a bar is drawn ten times a second at most
            self.on_page()
        return super().fetch(*args, **options)


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False)])
def test_a_bar_counts_the_pages_where_it_is_asked_for(incident, tmp_path, capsys, progress, shown) -> None:
    incident.create_table()
    incident.ghost("T1")
    work = replace(incident.work(), exchange=Paging(str(incident.folder)))
    fetch_evidence(work, incident.profile, tmp_path / "out", progress=progress)
    told = capsys.readouterr()
    assert told.out == ""
    assert ("3 pages [" in told.err) is shown
    assert bool(told.err) is shown


def test_a_live_venue_tells_every_page() -> None:
    now = datetime.now(UTC)
    sold = trade("a1", "BTC/USD", "sell", 2, 110, now - timedelta(hours=5))
    told: list[None] = []
    with VenueServer(scenario(now, sold)) as server:
        access = Access("alpaca", KEYS.api_key, KEYS.secret, base_url=server.url, paced=False)
        exchange = CcxtExchange(access)
        assert isinstance(exchange, Paged)
        exchange.on_page = lambda: told.append(None)
        snapshot = exchange.fetch("main", now=now, lookback=timedelta(hours=9), wanted=Wanted(("BTC/USD",)))
    assert len(told) > len(snapshot.coverage.pages) > 0


def test_a_source_without_pages_has_no_bar(incident, tmp_path, capsys) -> None:
    incident.create_table()
    incident.ghost("T1")
    fetch_evidence(incident.work(), incident.profile, tmp_path / "out", progress=True)
    assert capsys.readouterr() == ("", "")
