"""What a live venue adds to the facts of a plan: gaps, doubts and orders that took the place of others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import SYMBOL, at, closing, facts_of, ledger, plan_of, said

from recon.domain import Doubt, Gap, Reason
from recon.lifecycles import build_lifecycles
from recon.plan import Facts, Plan
from recon.stages.gather import mismatches, net_positions

GHOST = ("09:00:00 ENTRY T1 buy 2 @100 E1", "10:00:00 fill X1 sell 1 @110")
"""One of two is covered: the rest is missing."""

MISSING = "T1 NO_GO missing_fill_evidence_for_large_remainder"


def with_gap(facts: Facts, symbol: str | None, start: str, end: str) -> Facts:
    gap = Gap(symbol, at(start), at(end), "the venue was down")
    return replace(facts, snapshot=replace(facts.snapshot, gaps=(gap,)))


@pytest.mark.parametrize(
    ("symbol", "start", "end", "matters"),
    [
        ("ETHUSD", "08:00:00", "09:00:00", True),
        (None, "10:30:00", "10:31:00", True),
        ("ETHUSD", "08:00:00", "08:59:59", False),
        ("BTCUSD", "08:00:00", "11:00:00", False),
    ],
)
def test_a_gap_after_a_trade_began_makes_its_window_too_short(symbol, start, end, matters):
    """No fill in a gap does not mean that there was none."""
    plan = plan_of(with_gap(facts_of(*GHOST), symbol, start, end))
    if not matters:
        assert said(plan) == ["T1 fill_evidence 1 @110 X1 10:00:00 fifo", f"{MISSING} 1"]
    else:
        assert said(plan) == ["T1 NO_GO evidence_window_too_short 2", f"{MISSING} 2"]
        assert plan.judgements[0].is_blocked
        assert "the venue was down" in next(
            i.detail for i in plan.items if i.reason is Reason.EVIDENCE_WINDOW_TOO_SHORT
        )


def test_a_gap_stands_even_against_a_trade_that_fills_cover():
    """What is missing may belong to it, and what it got to another."""
    facts = facts_of("09:00:00 ENTRY T1 buy 2 @100 E1", "10:00:00 fill X1 sell 2 @110")
    assert said(plan_of(facts)) == ["T1 fill_evidence 2 @110 X1 10:00:00 exact"]
    assert said(plan_of(with_gap(facts, None, "09:00:00", "11:00:00"))) == ["T1 NO_GO evidence_window_too_short 2"]


def test_the_digest_knows_the_gaps_of_its_symbols_but_not_why():
    facts = facts_of(*GHOST)
    digests = {
        plan_of(told).digest
        for told in (
            facts,
            with_gap(facts, "ETHUSD", "08:00:00", "08:30:00"),
            with_gap(facts, None, "08:00:00", "08:31:00"),
        )
    }
    assert len(digests) == 3
    assert plan_of(with_gap(facts, "BTCUSD", "08:00:00", "08:30:00")).digest == plan_of(facts).digest
    gap = Gap("ETHUSD", at("08:00:00"), at("08:30:00"), "another reason")
    other = replace(facts, snapshot=replace(facts.snapshot, gaps=(gap,)))
    assert plan_of(other).digest == plan_of(with_gap(facts, "ETHUSD", "08:00:00", "08:30:00")).digest


@pytest.mark.parametrize("reason", [Reason.UNIT_UNKNOWN, Reason.EXCHANGE_POSITION_UNKNOWN])
def test_a_doubt_about_a_symbol_stands_against_each_of_its_trades_and_no_other(reason):
    facts = facts_of(
        "09:00:00 ENTRY T1 buy 2 @100 E1", "10:00:00 fill X1 sell 2 @110",
        "09:00:00 ENTRY T2 buy 1 @100 E2 symbol=BTC/USD", "10:00:00 fill X2 sell 1 @110 symbol=BTC/USD",
    )  # fmt: skip
    doubtful = replace(facts.snapshot, doubts=(Doubt("ETH-USD", reason, "nobody knows"),))
    plan = plan_of(replace(facts, snapshot=doubtful))
    assert said(plan) == ["T2 fill_evidence 1 @110 X2 10:00:00 exact", f"T1 NO_GO {reason.value} 2"]
    assert plan.digest != plan_of(facts).digest


def test_a_symbol_that_was_not_asked_for_is_unknown_and_no_mismatch():
    """Its absence from the positions means nothing; a source that covers all symbols says None."""
    facts = facts_of(
        "09:00:00 ENTRY T1 buy 2 @100 E1", "10:00:00 fill X1 sell 2 @110",
        "09:00:00 ENTRY T2 buy 1 @100 E2 symbol=BTC/USD", "10:00:00 fill X2 sell 1 @110 symbol=BTC/USD",
    )  # fmt: skip
    narrow = replace(facts.snapshot, asked=frozenset({"BTCUSD"}))
    assert said(plan_of(replace(facts, snapshot=narrow))) == [
        "T2 fill_evidence 1 @110 X2 10:00:00 exact", "T1 NO_GO exchange_position_unknown 2",
    ]  # fmt: skip
    net = net_positions(build_lifecycles(facts.rows).values())
    assert set(mismatches(net, narrow)) == {"BTCUSD"}
    assert set(mismatches(net, facts.snapshot)) == {"BTCUSD", "ETHUSD"}


# Replaced orders


def replacing(facts: Facts, **replaced: str) -> Facts:
    return replace(facts, snapshot=replace(facts.snapshot, replaced=replaced))


@ledger
def test_a_row_that_names_a_replaced_order_holds_the_fills_of_the_one_in_its_place(facts):
    """
    The exit was placed as X1, amended to X2, and again to X3, which was filled; the table kept X1.

        09:00:00  ENTRY  T0  buy   2  @100  E0
        10:00:00  EXIT   T0  sell  2  @110  X1
        09:30:00  ENTRY  T1  buy   2  @100  E1
        10:00:00  fill   X3  sell  2  @110
    """
    assert closing(plan_of(facts)) == ["T1 fill_evidence 2 @110 X3 10:00:00 exact"], "control: X1 is nobody's"
    assert closing(plan_of(replacing(facts, X3="X2", X2="X1"))) == []


@ledger
def test_a_replaced_order_on_an_unfilled_row_links_the_one_in_its_place(facts):
    """
    T2's exit X1 is `replaced` in the table; X2 took its place and was filled.

        09:00:00  ENTRY  T1  buy   2  @100  E1
        09:10:00  ENTRY  T2  buy   2  @100  E2
        09:50:00  EXIT   T2  sell  2  @110  X1  status=replaced
        10:00:00  fill   X2  sell  2  @110
    """
    plan: Plan = plan_of(replacing(facts, X2="X1"))
    assert closing(plan) == ["T2 fill_evidence 2 @110 X2 10:00:00 linked"]
    assert plan.digest != plan_of(facts).digest


def test_a_circle_of_replacements_ends():
    facts = replacing(facts_of(*GHOST), X1="X2", X2="X1")
    assert closing(plan_of(facts)) == ["T1 fill_evidence 1 @110 X1 10:00:00 fifo"]
    assert SYMBOL == "ETH/USD"
