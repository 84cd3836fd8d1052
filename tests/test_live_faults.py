"""Whatever goes wrong on the way, the plan is the right one or its absence has a name."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import said
from venue import fault_runs
from venue.fault_runs import judged, run_all
from venue.incident import after, fetch, plan_of, story, table
from venue.server import VenueServer
from venue.spelling import NAMES, Name

from recon.domain import Gap, Reason, Snapshot
from recon.plan import Plan
from recon.venues.live import guard

each_dialect = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECOND", 0.0)


@each_dialect
def test_no_fault_makes_a_wrong_plan(name: Name) -> None:
    """A few runs of each plan of faults; `make venues` makes many."""
    tally = run_all(name, seeds=2)
    assert tally.wrong == []
    assert tally.ends["complete"] >= tally.runs // 2
    assert tally.struck.total() > 100
    assert len(tally.struck) >= 9


def alpaca() -> tuple[Snapshot, Plan, tuple[object, ...]]:
    lived = story("alpaca")
    with VenueServer(lived, clock="scenario") as server:
        snapshot, rows = fetch(server, "alpaca"), table("alpaca", server.told("alpaca"), lived)
    return snapshot, plan_of(rows, snapshot), rows


def test_the_judge_knows_a_wrong_plan() -> None:
    """The control: a fill that is lost without a gap, and a position that is."""
    snapshot, expected, rows = alpaca()
    assert judged(expected, expected, snapshot) == "complete"
    for lost in (
        replace(snapshot, fills=snapshot.fills[:-1]),
        replace(snapshot, fills=tuple(fill for fill in snapshot.fills if fill.price != 61000)),
        replace(snapshot, positions=()),
        replace(snapshot, open_orders=()),
    ):
        assert judged(plan_of(rows, lost), expected, lost).startswith("wrong")  # type: ignore[arg-type]


def test_a_gap_withholds_all_trades_of_its_symbol_and_no_others() -> None:
    """Without the fills of the gap, those after it would go to the wrong trade, as FIFO has it."""
    snapshot, expected, rows = alpaca()
    first = after(59), after(61)
    gap = Gap("BTCUSD", *first, "the venue did not answer")
    there = tuple(f for f in snapshot.fills if not (f.symbol == "BTC/USD" and first[0] <= f.filled_at <= first[1]))
    plan = plan_of(rows, replace(snapshot, fills=there, gaps=(gap,)))  # type: ignore[arg-type]
    assert plan.rows_to_write == ()
    assert [line for line in said(plan) if "window" in line] == [
        "T1 NO_GO evidence_window_too_short 1",
        "T2 NO_GO evidence_window_too_short 0.5",
        "T3 NO_GO evidence_window_too_short 3",
    ]
    assert [one.is_blocked for one in plan.judgements] == [True, True, True, True, True]
    others = replace(snapshot, gaps=(replace(gap, symbol="SOLUSD"),))
    assert plan_of(rows, others).rows_to_write == expected.rows_to_write  # type: ignore[arg-type]


def test_a_gap_before_everything_that_bears_on_the_symbol_is_harmless() -> None:
    snapshot, expected, rows = alpaca()
    early = Gap(None, snapshot.window.start, snapshot.window.start + timedelta(hours=1), "older than the venue tells")
    plan = plan_of(rows, replace(snapshot, gaps=(early,)))  # type: ignore[arg-type]
    assert plan.items == expected.items
    assert plan.digest != expected.digest
    closed = min(row.filled_at for row in rows)  # type: ignore[attr-defined]
    touching = replace(early, start=closed, end=closed)
    held = plan_of(rows, replace(snapshot, gaps=(touching,)))  # type: ignore[arg-type]
    assert {one.lifecycle.trade_id for one in held.judgements if Reason.EVIDENCE_WINDOW_TOO_SHORT in one.reasons} == {
        "T1", "T2", "T3",
    }  # fmt: skip


def test_many_fills_are_read_once_each() -> None:
    """Five thousand fills, more than a venue's page holds at every dialect."""
    for name in NAMES:
        assert "| 5000 of 5000 |" in fault_runs.many(name, 5000)
