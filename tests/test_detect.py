"""Detect: everything that is open, and everything that recon says but will not repair."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from incidents import EXTENDED, MINIMAL, NOW, Incident, at

from recon.domain import Stage, StageResult, Verdict
from recon.incident import run_stage
from recon.reporting.prose import closing
from recon.reporting.result import console_text, result_json
from recon.workspace import Workspace


def rows(result: StageResult, table: str) -> list[tuple[object, ...]]:
    return list(result.tables[table].rows)


def assert_not_compared(result: StageResult, why: str, *, fills_too: bool = True) -> None:
    """DONE, and neither check, counts, message nor closing words say that nothing disagrees."""
    assert (result.verdict, result.code) == (Verdict.DONE, None)
    read, recorded = result.checks
    assert (read.name, read.ok) == ("exchange_read", False)
    assert read.detail.startswith(why)
    assert (recorded.name, recorded.detail) == ("events_recorded", "nothing was compared, so no event was written")
    assert result.counts == {"OPEN": 1}
    assert result.message == "the orders table was not compared with the exchange"
    assert f"check failed: exchange_read: {why}" in console_text(result_json(result))
    assert console_text(result_json(result)).endswith("\n  1 open trade")
    assert rows(result, "mismatches") == []
    assert result.tables["mismatches"].reading.startswith("Not compared. ")
    text = repr(closing(result))
    assert "Symbols on which the orders table and the exchange disagree: not compared." in text
    assert "no symbols on which" not in text
    assert ("Fills that nobody owns: not compared." in text) is fills_too
    assert ("that nobody owns." in text) is not fills_too


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"OPEN": 2, "MISMATCH": 1}, "2 open trades, 1 symbol on which table and exchange disagree"),
        ({"OPEN": 0, "MISMATCH": 0}, "no open trades, no symbols on which table and exchange disagree"),
    ],
)
def test_the_console_says_how_much_was_found(counts: dict[str, int], said: str) -> None:
    result = StageResult(Stage.DETECT, "main", "b", Verdict.DONE, counts=counts)
    assert console_text(result_json(result)).splitlines() == ["detect: DONE (profile main, batch b)", f"  {said}"]


def test_open_lifecycles_are_those_of_the_runbook(incident_each_version: Incident) -> None:
    """Longs and shorts, partly closed and untouched; closed, over-closed, nameless and foreign trades are not open.

    a  entry 2 + 0.5, exit 1      open 1.5      b  short, entry 3, no exit     open 3
    c  entry 1, exit 1            closed        d  entry 1, exit 3             over-closed by 2
    e  entry 1, canceled          never opened  -  exit without trade_id       listed apart
    """
    incident = incident_each_version.create_table()
    incident.row("a1", "a", "ENTRY", "2", 5, created_at=at(1))
    incident.row("a2", "a", "ENTRY", "0.5", 7, status="partially_filled")
    incident.row("a3", "a", "EXIT", "1", 9, status="partially-filled")
    incident.row("b1", "b", "ENTRY", "3", 2, symbol="ETH/USD", side="sell")
    incident.row("c1", "c", "ENTRY", "1")
    incident.row("c2", "c", "EXIT", "1", 1)
    incident.row("d1", "d", "ENTRY", "1")
    incident.row("d2", "d", "EXIT", "3", 1)
    incident.row("e1", "e", "ENTRY", "1", status="canceled")
    incident.row("orphan", None, "EXIT", "0.25", 3, price="99.5")
    incident.row("f1", "f", "ENTRY", "1", profile_id="other")
    result = incident.run("detect")
    assert (result.verdict, result.code, result.items) == (Verdict.DONE, None, ())
    assert rows(result, "open_lifecycles") == [
        ("BTC/USD", "a", "long", at(1), Decimal("2.5"), Decimal(1), Decimal("1.5")),
        ("ETH/USD", "b", "short", at(2), Decimal(3), Decimal(0), Decimal(3)),
    ]
    assert rows(result, "over_closed") == [("BTC/USD", "d", Decimal(1), Decimal(3), Decimal(2))]
    assert rows(result, "exits_without_trade") == [("orphan", "BTC/USD", Decimal("0.25"), Decimal("99.5"), at(3))]
    assert incident.state() == "detected"


def test_detect_writes_nothing_into_orders(incident: Incident) -> None:
    """Nor any audit row: only the batch and mismatch events."""
    incident.create_table().ghost("t1")
    before = incident.orders()
    incident.run("detect")
    assert incident.orders() == before
    assert incident.audit("1") == []


def test_where_table_and_exchange_disagree(incident: Incident) -> None:
    """Signed net quantities per symbol under any spelling; legs that cancel out are still held; agreement is silent."""
    incident.create_table()
    incident.row("1", "ghost", "ENTRY", "2")
    incident.row("2", "other-spelling", "ENTRY", "1", symbol="BTCUSD")
    incident.row("3", "agrees", "ENTRY", "5", symbol="DOT/USD", side="sell")
    incident.hold("DOT-USD", "-5")
    incident.row("4", "over", "ENTRY", "1", symbol="ADA/USD")
    incident.row("5", "over", "EXIT", "4", 1, symbol="ADA/USD")
    incident.hold("XRP/USD", "7")
    incident.hold("XRP/USD", "-7")
    incident.hold("SOL/USD", "0")
    result = incident.run("detect")
    assert sorted(rows(result, "mismatches")) == [
        ("ADA/USD", Decimal(-3), Decimal(0)),
        ("BTC/USD", Decimal(3), Decimal(0)),
        ("XRP/USD", Decimal(0), Decimal(0)),
    ]
    assert rows(result, "symbol_spellings") == [("BTCUSD", "BTC/USD, BTCUSD")]


def test_fills_that_nobody_owns(incident: Incident) -> None:
    """A manual order is left over in full, a larger exit in part; booked and ghostly fills are not."""
    incident.create_table().ghost("t1", "1", filled="1.5")
    incident.row("booked-entry", "t2", "ENTRY", "1", 0, symbol="ETH/USD")
    incident.row("booked-exit", "t2", "EXIT", "1", 5, symbol="ETH/USD")
    incident.fill("X-booked-exit", "1", 5, symbol="ETH/USD")
    incident.fill("by-hand", "9", 6, symbol="XRP/USD", side="buy")
    assert rows(incident.run("detect"), "unowned_fills") == [
        ("BTCUSD", "sell", "exit-t1", at(60), Decimal("1.5"), Decimal("0.5")),
        ("XRPUSD", "buy", "by-hand", at(6), Decimal(9), Decimal(9)),
    ]


def test_detect_needs_neither_exchange_nor_pause_switch_and_says_so(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    work = incident.work(enable_recon_exit_backfill=False, recon_exit_backfill_dry_run=True)
    alone = Workspace(work.settings, work.engine, None, None, fixed_now=NOW)
    result = run_stage(alone, Stage.DETECT, "main", "b")
    why = "No exchange is configured (RECON_EXCHANGE): nothing is compared with it."
    assert_not_compared(result, why)
    assert (why,) in rows(result, "notes")
    assert len(rows(result, "open_lifecycles")) == 1
    assert incident.switch.asked == 0


def test_an_exchange_that_cannot_be_read_is_said_and_compared_with_nothing(incident: Incident) -> None:
    """Invariant 10: unreadable is unknown, not flat; no event is written."""
    incident.create_table().ghost("t1")
    (incident.folder / "fills.csv").write_text("nonsense\n")
    result = incident.run("detect")
    assert_not_compared(result, "The exchange was not read: fills.csv line 1: ")
    assert any("The exchange was not read: fills.csv line 1" in str(note) for (note,) in rows(result, "notes"))
    assert incident.sql("SELECT count(*) FROM reconciliation_events") == [(0,)]


def test_unknown_positions_are_not_compared(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.positions = None
    incident.write_statement()
    incident.fill("by-hand", "9", 6, symbol="XRP/USD")
    result = incident.run("detect")
    assert_not_compared(result, "Positions are unknown: ", fills_too=False)
    assert "1 fill that nobody owns" in repr(closing(result))
    assert ("Positions are unknown: the statement has no positions.csv.",) in rows(result, "notes")


def test_what_was_compared_is_counted(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    result = incident.run("detect")
    assert [(check.name, check.ok, check.detail) for check in result.checks] == [
        ("exchange_read", True, "fills and positions were read"),
        ("events_recorded", True, "1 event written, 1 mismatch found"),
    ]
    assert (result.counts, result.message) == ({"OPEN": 1, "MISMATCH": 1}, None)
    assert "not compared" not in repr(closing(result)).lower()


@pytest.mark.parametrize(
    ("columns", "said"), [(MINIMAL, []), (EXTENDED | {"filled_at": "timestamp"}, ["filled_at of"])]
)
def test_times_without_zone_are_read_as_utc_and_said_so(
    incident: Incident, columns: dict[str, str], said: list[str]
) -> None:
    incident.create_table(columns).ghost("t1", opened=3)
    result = incident.run("detect")
    assert rows(result, "open_lifecycles")[0][3] == at(3)
    assert [str(note).split(" orders")[0] for (note,) in rows(result, "notes")] == said


def test_detecting_again_is_safe_and_the_clock_is_the_servers(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    first, again = incident.run("detect"), incident.run("detect")
    assert first.tables == again.tables
    live = incident.work(now=None)
    incident.run("detect", "live", work=live)
    [(created, now)] = incident.sql("SELECT created_at, now() FROM reconciliation_batches WHERE batch_id = 'live'")
    assert timedelta(0) <= now - created < timedelta(minutes=1)


def test_a_profile_without_open_trades_is_simply_done(incident: Incident) -> None:
    incident.create_table()
    incident.row("c1", "c", "ENTRY", "1")
    incident.row("c2", "c", "EXIT", "1", 1)
    result = incident.run("detect")
    assert result.verdict is Verdict.DONE
    assert {name for name, table in result.tables.items() if table.rows} == set()
