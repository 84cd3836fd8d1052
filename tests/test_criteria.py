"""What may be written for one trade, and every reason why not (rules.md 7; runbook sections 2 and 4)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from builders import WINDOW, at, facts_of, ledger, line_of, plan_of, row, said, with_rows, written

from recon.columns import Amount, Columns
from recon.criteria import Rules, differences
from recon.domain import BATCH_REASONS, REMAINDER_REASONS, Decision, Item, Reason, Side
from recon.identity import backfill_order_id
from recon.plan import Facts

ENTRY = "09:00:00  ENTRY  T1  buy   2  @100  E1"
BOUGHT = "09:00:00  fill   E1  buy   2  @100"
SOLD = "10:00:00  fill   X1  sell  2  @110"
CLOSED_BY_X1 = ["T1 fill_evidence 2 @110 X1 10:00:00 exact"]


def details(plan) -> dict[str, str]:
    """The sentence of each NO_GO reason of the one target."""
    return {item.reason.value: item.detail for item in plan.items if item.decision is Decision.NO_GO}


# Evidence


def test_evidence_gives_a_complete_exit_row():
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD + " client=c1"))
    assert plan.items == (
        Item(
            trade_id="T1",
            symbol="ETH/USD",
            side=Side.SELL,
            decision=Decision.DRY_RUN,
            reason=Reason.FILL_EVIDENCE,
            grade=plan.items[0].grade,
            qty=Decimal(2),
            price=Decimal(110),
            filled_at=at("10:00:00"),
            exchange_order_id="X1",
            client_order_id="c1",
            order_id=backfill_order_id("p", "T1", "X1", at("10:00:00")),
        ),
    )
    assert said(plan) == CLOSED_BY_X1
    assert plan.items[0].detail == "what is left of its exchange order equals this trade's open quantity and no other's"
    (judged,) = plan.judgements
    assert (judged.evidence, judged.remainder, judged.reasons) == (2, 0, (Reason.FILL_EVIDENCE,))
    assert (judged.needs_acknowledgement, judged.is_blocked) == (False, False)


@ledger
def test_a_short_is_closed_by_buys_and_a_sell_is_no_evidence_for_it(facts):
    """
    The sell at 10:00 would close a long; this is a short.

        09:00:00  ENTRY  T1  sell  2  @100  E1
        09:00:00  fill   E1  sell  2  @100
        10:00:00  fill   X1  sell  2  @110
        10:30:00  fill   X2  buy   2  @90
    """
    assert said(plan_of(facts)) == ["T1 fill_evidence 2 @90 X2 10:30:00 exact"]
    assert plan_of(facts).items[0].side is Side.BUY


@ledger
def test_rows_of_one_trade_stand_by_time_then_by_order(facts):
    """
    Two orders at one instant; the linked ones, X1 and X3, were given first.

        09:00:00  ENTRY  T1  buy   6  @100  E1
        11:00:00  EXIT   T1  sell  9  @100  X1  status=expired
        11:00:00  EXIT   T1  sell  9  @100  X3  status=expired
        11:00:00  fill   X1  sell  3
        10:00:00  fill   X3  sell  1
        10:00:00  fill   X2  sell  2
    """
    assert said(plan_of(facts)) == [
        "T1 fill_evidence 2 @110 X2 10:00:00 exact",
        "T1 fill_evidence 1 @110 X3 10:00:00 linked",
        "T1 fill_evidence 3 @110 X1 11:00:00 linked",
    ]


@ledger
def test_evidence_is_closable_even_if_the_remainder_is_not(facts):
    """
    Two open, one and a half covered; the half is far above the dust threshold.

        09:00:00  ENTRY  T1  buy   2    @100  E1
        10:00:00  fill   X1  sell  1.5
    """
    plan = plan_of(facts)
    assert said(plan) == [
        "T1 fill_evidence 1.5 @110 X1 10:00:00 fifo",
        "T1 NO_GO missing_fill_evidence_for_large_remainder 0.5",
    ]
    assert details(plan) == {
        "missing_fill_evidence_for_large_remainder": "open 2, fills cover 1.5; the rest, 0.5, is above the dust "
        "threshold 0.004"
    }
    (judged,) = plan.judgements
    assert (judged.needs_acknowledgement, judged.is_blocked) == (True, False)


# Dust


@pytest.mark.parametrize(
    ("entry", "sold", "dust"),
    [
        ("2", "1.996", "0.004"),  # 2 * 0.002, the threshold itself
        ("2", "1.9960000001", "0.0039999999"),
        ("0.3", "0.299", "0.001"),  # the absolute threshold itself
        ("0.3", "0.2999999999", "0.0000000001"),
        ("1E+30", "9.98E+29", "2E+27"),
    ],
)
def test_a_remainder_up_to_the_threshold_is_dust(entry, sold, dust):
    plan = plan_of(facts_of(f"09:00:00 ENTRY T1 buy {entry}", f"10:00:00 fill X1 sell {sold} @120"))
    assert [item.reason.value for item in plan.items] == ["fill_evidence", "dust_remainder"]
    assert (plan.items[1].qty, plan.items[1].decision) == (Decimal(dust), Decision.DRY_RUN)
    assert not plan.judgements[0].needs_acknowledgement


@pytest.mark.parametrize(
    ("entry", "sold"),
    [("2", "1.995999999999999999"), ("0.3", "0.298999999999999999"), ("1E+30", "997999999999999999999999999999.9")],
)
def test_one_digit_above_the_threshold_is_not_dust(entry, sold):
    plan = plan_of(facts_of(f"09:00:00 ENTRY T1 buy {entry}", f"10:00:00 fill X1 sell {sold}"))
    assert [item.reason.value for item in plan.items] == ["fill_evidence", "missing_fill_evidence_for_large_remainder"]


def test_the_threshold_is_the_larger_of_the_two_settings():
    facts = facts_of("09:00:00 ENTRY T1 buy 2", "10:00:00 fill X1 sell 1.9")
    for rules in ({"dust_abs_qty": Decimal("0.1")}, {"dust_rel_pct": Decimal("0.05")}):
        assert [item.reason.value for item in plan_of(facts, **rules).items] == ["fill_evidence", "dust_remainder"]
    for rules in ({"dust_abs_qty": Decimal("0.0999")}, {"dust_rel_pct": Decimal("0.0499")}):
        assert plan_of(facts, **rules).items[1].decision is Decision.NO_GO
    assert Rules().dust_threshold(Decimal(1)) == Decimal("0.002")
    assert Rules().dust_threshold(Decimal("0.4")) == Decimal("0.001")


def test_the_threshold_is_of_the_open_quantity_not_of_the_entry():
    """Of 100 in, 99 are out again: the threshold for the open 1 is 0.002, and 0.1 is no dust."""
    facts = facts_of(
        "09:00:00 ENTRY T1 buy 100", "09:30:00 EXIT T1 sell 99 @100 X0", "09:30:00 fill X0 sell 99",
        "10:00:00 fill X1 sell 0.9",
    )  # fmt: skip
    assert said(plan_of(facts))[1] == "T1 NO_GO missing_fill_evidence_for_large_remainder 0.1"


@ledger
def test_dust_has_the_trades_last_evidence_price_and_its_last_entrys_time(facts):
    """
    The last fill by time, of two at that instant the one with the later id; the ENTRY filled last was placed first.

        09:00:00  ENTRY  T1  buy   1      @100
        09:20:00  ENTRY  T1  buy   1      @101  -  created=08:50:00
        10:00:00  fill   X1  sell  1      @110
        10:30:00  fill   X3  sell  0.4    @113
        10:30:00  fill   X2  sell  0.597  @112
    """
    plan = plan_of(facts)
    assert said(plan)[3] == "T1 dust_remainder 0.003 @113 - 09:20:00 -"
    dust = plan.items[3]
    assert dust.order_id == backfill_order_id("p", "T1", "DUST", at("09:20:00"))
    assert (dust.exchange_order_id, dust.client_order_id, dust.side) == (None, None, Side.SELL)
    assert dust.detail == "remainder 0.003 is dust; the dust threshold is 0.004"


@ledger
def test_dust_without_any_evidence_has_the_last_entrys_price_and_needs_an_acknowledgement(facts):
    """
    0.001 of 1.001 is open, and no fill is left.

        09:00:00  ENTRY  T1  buy   1      @100  E1
        09:10:00  ENTRY  T1  buy   0.001  @101  E2
        09:30:00  EXIT   T1  sell  1      @105  X1
        09:00:00  fill   E1  buy   1
        09:10:00  fill   E2  buy   0.001
        09:30:00  fill   X1  sell  1
    """
    plan = plan_of(facts)
    assert said(plan) == ["T1 dust_only 0.001 @101 - 09:10:00 -"]
    (judged,) = plan.judgements
    assert (judged.reasons, judged.needs_acknowledgement, judged.is_blocked) == ((Reason.DUST_ONLY,), True, False)


def test_dust_without_a_price_is_a_defect_of_the_data():
    plan = plan_of(facts_of("09:00:00 ENTRY T1 buy 0.001 @-"))
    assert said(plan) == ["T1 NO_GO data_quality 0.001"]
    assert details(plan) == {"data_quality": "the last ENTRY row has no price to close the remainder at"}


@pytest.mark.parametrize("sold", ["", "10:00:00 fill X1 sell 1.999"])
def test_dust_that_was_opened_after_the_window_is_dust_all_the_same(sold):
    """The threshold alone decides (runbook 4); what is above it has a window too short."""
    entries = ["09:00:00 ENTRY T1 buy 1.999"] if sold else []
    late = ["window 08:00:00 10:30:00", *entries, "10:30:00.000001 ENTRY T1 buy 0.001", *filter(None, [sold])]
    assert said(plan_of(facts_of(*late)))[-1].split()[1] == ("dust_remainder" if sold else "dust_only")
    more = [line.replace("buy 0.001", "buy 0.005") for line in late]
    assert said(plan_of(facts_of(*more)))[-2:] == [
        "T1 NO_GO missing_fill_evidence_for_large_remainder 0.005",
        "T1 NO_GO evidence_window_too_short 0.005",
    ]


def test_a_covered_trade_that_grew_after_the_window_is_closed():
    facts = facts_of(
        "window 08:00:00 10:30:00", "10:40:00 ENTRY T1 buy 1 @1 - created=09:00:00", "10:00:00 fill X1 sell 1"
    )
    assert said(plan_of(facts)) == ["T1 fill_evidence 1 @110 X1 10:00:00 exact"]


def test_dust_beside_evidence_does_not_need_the_entrys_price():
    plan = plan_of(facts_of("09:00:00 ENTRY T1 buy 2 @-", "10:00:00 fill X1 sell 1.999"))
    assert said(plan)[1] == "T1 dust_remainder 0.001 @110 - 09:00:00 -"


def test_nothing_remains_when_fills_cover_all():
    assert said(plan_of(facts_of(ENTRY, BOUGHT, SOLD))) == CLOSED_BY_X1


# Window


@pytest.mark.parametrize(
    ("window", "short"),
    [
        ("window 09:00:00 11:00:00", False),
        ("window 09:00:00.000001 11:00:00", True),
        ("window 08:00:00 09:20:00", False),
        ("window 08:00:00 09:19:59.999999", True),
        ("window 09:10:00 09:15:00", True),
    ],
)
def test_entries_outside_the_window_say_that_it_is_too_short(window, short):
    """The ENTRY rows lie from 09:00 (placed) to 09:20 (filled last)."""
    lines = ["09:10:00 ENTRY T1 buy 1 @100 - created=09:00:00", "09:20:00 ENTRY T1 buy 1"]
    found = said(plan_of(facts_of(window, *lines)))
    expected = ["T1 NO_GO missing_fill_evidence_for_large_remainder 2", "T1 NO_GO evidence_window_too_short 2"]
    assert found == expected[: 1 + short]


def test_the_window_is_named_beside_the_entries():
    plan = plan_of(facts_of("window 09:30:00 11:00:00", "09:10:00 ENTRY T1 buy 2 @100 - created=09:00:00"))
    assert details(plan)["evidence_window_too_short"] == (
        "the trade's entries lie from 2026-03-01T09:00:00.000000Z to 2026-03-01T09:10:00.000000Z, the fetched window "
        "from 2026-03-01T09:30:00.000000Z to 2026-03-01T11:00:00.000000Z; fetch a wider one"
    )


@pytest.mark.parametrize("sold", ["2", "1.999"])
def test_a_short_window_does_not_matter_when_the_fills_cover_the_trade(sold):
    """Covered to the last digit, or up to dust."""
    plan = plan_of(facts_of("window 09:30:00 11:00:00", "09:00:00 ENTRY T1 buy 2", f"10:00:00 fill X1 sell {sold}"))
    assert not any(item.decision is Decision.NO_GO for item in plan.items)


# Fees in base


def fee_facts(remainder: str = "0.05", fees: str = "0.05:ETH", symbol: str = "ETH/USD", also: tuple[str, ...] = ()):
    """Ten bought with a fee, ten less the remainder sold by an order that was lost."""
    sold = Decimal(10) - Decimal(remainder)
    return facts_of(
        f"09:00:00  ENTRY  T1  buy  10  @100  E1  symbol={symbol}",
        f"09:00:00  fill   E1  buy  10  @100  fee={fees}  symbol={symbol}",
        f"10:00:00  fill   X1  sell {sold}  @110  symbol={symbol}",
        *also,
    )


MISSING_AND_FEE = ["missing_fill_evidence_for_large_remainder", "residual_is_base_fee"]


def reasons(plan) -> list[str]:
    """The reasons of the NO_GO items."""
    return [item.reason.value for item in plan.items if item.decision is Decision.NO_GO]


def test_a_remainder_equal_to_the_base_fees_is_named_beside_the_missing_evidence():
    plan = plan_of(fee_facts())
    assert said(plan) == [
        "T1 fill_evidence 9.95 @110 X1 10:00:00 fifo",
        "T1 NO_GO missing_fill_evidence_for_large_remainder 0.05",
        "T1 NO_GO residual_is_base_fee 0.05",
    ]
    assert details(plan)["residual_is_base_fee"] == (
        "the remainder is exactly the fees that its fills paid in the base asset; "
        "RECON_EXIT_BACKFILL_BASE_FEE=true accepts that"
    )
    (judged,) = plan.judgements
    assert (judged.needs_acknowledgement, judged.is_blocked) == (True, False)


@pytest.mark.parametrize(
    ("remainder", "fees", "symbol", "found"),
    [
        ("0.05", "0.05:eth", "ETH/USD", True),
        ("0.05", "0.05:ETH", "eth-usd", True),
        ("0.05", "0.05:@107", "@107", True),
        ("0.05", "0.05:ETHUSD", "ETHUSD", True),
        ("0.05", "0.05:ETH", "ETHUSD", False),
        ("0.05", "0.05:USD", "ETH/USD", False),
        ("0.05", "0.050000000000000001:ETH", "ETH/USD", False),
        ("0.05", "0.049999999999999999:ETH", "ETH/USD", False),
        ("0.050000000000000001", "0.050000000000000001:ETH", "ETH/USD", True),
        ("0.05", "-0.05:ETH", "ETH/USD", False),
    ],
)
def test_the_fees_must_be_in_base_and_equal_to_the_last_digit(remainder, fees, symbol, found):
    assert (reasons(plan_of(fee_facts(remainder, fees, symbol))) == MISSING_AND_FEE) is found


def test_a_fee_that_is_dust_is_dust():
    plan = plan_of(fee_facts("0.02", "0.02:ETH"), base_fee=True)
    assert said(plan)[1] == "T1 dust_remainder 0.02 @110 - 09:00:00 -"
    assert said(plan_of(fee_facts("0.021", "0.021:ETH"), base_fee=True))[1] == "T1 base_fee 0.021 @100 - 09:00:00 -"


def test_no_fee_at_all_is_no_fee_residue():
    assert reasons(plan_of(fee_facts(fees=":"))) == MISSING_AND_FEE[:1]


@ledger
def test_fees_of_all_the_trades_own_fills_count_entries_exits_and_allocations(facts):
    """
    0.03 on the entry, 0.02 on the booked exit, 0.01 on the lost one; the fees of another trade do not count.

        09:00:00  ENTRY  T1  buy   10    @100  E1
        09:00:00  fill   E1  buy   10    @100  fee=0.03:ETH
        09:30:00  EXIT   T1  sell  4     @105  X1
        09:30:00  fill   X1  sell  4     @105  fee=0.02:ETH
        10:00:00  fill   X2  sell  5.94  @110  fee=0.01:ETH
        09:00:00  ENTRY  T2  buy   1     @100  E2
        09:00:00  fill   E2  buy   1     @100  fee=0.5:ETH
        09:40:00  EXIT   T2  sell  1     @100  X3
        09:40:00  fill   X3  sell  1     @100  fee=0.5:ETH
    """
    assert said(plan_of(facts))[1:] == [
        "T1 NO_GO missing_fill_evidence_for_large_remainder 0.06",
        "T1 NO_GO residual_is_base_fee 0.06",
    ]


@ledger
def test_a_fill_shared_by_two_trades_counts_pro_rata(facts):
    """
    Order E1 bought 12 for two trades; T1 holds ten of them, and five sixths of the fee of 0.06.

        09:00:00  ENTRY  T1  buy   10    @100  E1
        09:00:00  ENTRY  T2  buy   2     @100  E1
        09:00:00  fill   E1  buy   12    @100  fee=0.06:ETH
        09:30:00  EXIT   T2  sell  2     @105  X1
        09:30:00  fill   X1  sell  2     @105
        10:00:00  fill   X2  sell  9.95
    """
    assert reasons(plan_of(facts)) == MISSING_AND_FEE


def test_with_the_setting_a_base_fee_is_a_candidate_at_the_last_entrys_price():
    plan = plan_of(fee_facts(also=("09:10:00 ENTRY T1 buy 1 @102 - status=canceled",)), base_fee=True)
    assert said(plan) == ["T1 fill_evidence 9.95 @110 X1 10:00:00 fifo", "T1 base_fee 0.05 @100 - 09:00:00 -"]
    fee = plan.items[1]
    assert fee.order_id == backfill_order_id("p", "T1", "FEE", at("09:00:00"))
    assert (fee.exchange_order_id, fee.side, fee.grade) == (None, Side.SELL, None)
    assert fee.detail == ("remainder 0.05 is the fees its fills paid in the base asset; the dust threshold is 0.02")
    assert not plan.judgements[0].needs_acknowledgement


def test_a_base_fee_without_a_price_is_a_defect_of_the_data():
    facts = fee_facts()
    priceless = replace(facts, rows=tuple(replace(one, price=None) for one in facts.rows))
    assert said(plan_of(priceless, base_fee=True)) == ["T1 NO_GO data_quality 10"]


def test_with_the_setting_any_other_remainder_is_still_missing_evidence():
    assert said(plan_of(fee_facts(fees="0.04:ETH"), base_fee=True)) == [
        "T1 fill_evidence 9.95 @110 X1 10:00:00 fifo",
        "T1 NO_GO missing_fill_evidence_for_large_remainder 0.05",
    ]
    assert said(plan_of(facts_of(ENTRY, BOUGHT, SOLD), base_fee=True)) == CLOSED_BY_X1


# The exchange


@pytest.mark.parametrize("spelling", ["ETH/USD", "ETHUSD", "eth-usd", "ETH_USD", "ETH:USD"])
@pytest.mark.parametrize("qty", ["2", "-0.000000001"])
def test_a_position_under_any_spelling_is_not_flat(spelling, qty):
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD, f"position {spelling} {qty}"))
    assert said(plan) == ["T1 NO_GO exchange_not_flat 2"]
    assert details(plan) == {"exchange_not_flat": f"expected no position, the exchange holds {spelling} {qty}"}
    assert plan.judgements[0].is_blocked


@pytest.mark.parametrize("spelling", ["ETH/USD", "ETHUSD", "eth:usd"])
def test_a_spelling_in_orders_makes_no_difference_either(spelling):
    facts = facts_of("09:00:00 ENTRY T1 buy 2 @100 - symbol=ethusd", "position " + spelling + " 1", "position X 0")
    assert said(plan_of(facts))[0] == "T1 NO_GO exchange_not_flat 2"


def test_legs_that_cancel_out_are_not_flat():
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD, "position ETH/USD 1", "position ETHUSD -1"))
    assert details(plan) == {"exchange_not_flat": "expected no position, the exchange holds ETH/USD 1, ETHUSD -1"}


def test_a_zero_leg_an_absent_symbol_or_another_symbol_is_flat():
    for line in ("position ETH/USD 0", "position ETH/USD 0.000", "position BTC/USD 5", "position ETH/USDT 5"):
        assert said(plan_of(facts_of(ENTRY, BOUGHT, SOLD, line))) == CLOSED_BY_X1


def test_positions_that_were_not_read_in_full_are_not_flat():
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    plan = plan_of(replace(facts, snapshot=replace(facts.snapshot, positions=None)))
    assert said(plan) == ["T1 NO_GO exchange_position_unknown 2"]
    assert details(plan) == {"exchange_position_unknown": "positions were not read in full; unknown is not flat"}


def test_without_an_exchange_positions_are_unknown_and_there_is_no_evidence():
    facts = facts_of(ENTRY)
    assert said(plan_of(Facts(facts.profile_id, facts.rows, None))) == [
        "T1 NO_GO exchange_position_unknown 2",
        "T1 NO_GO missing_fill_evidence_for_large_remainder 2",
    ]


@pytest.mark.parametrize("spelling", ["ETH/USD", "ETHUSD", "eth-usd"])
def test_an_order_that_the_exchange_still_works_stands_against_the_trade(spelling):
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD, f"working X8 sell 1 {spelling}", f"working X9 buy 1 {spelling}"))
    assert said(plan) == ["T1 NO_GO exchange_open_orders 2"]
    assert details(plan) == {"exchange_open_orders": "the exchange still works X8, X9; wait for it or cancel it there"}


def test_an_order_on_another_symbol_does_not_and_unchecked_orders_do_not():
    facts = facts_of(ENTRY, BOUGHT, SOLD, "working X9 sell 1 BTC/USD")
    assert said(plan_of(facts)) == CLOSED_BY_X1
    assert said(plan_of(replace(facts, snapshot=replace(facts.snapshot, open_orders=None)))) == CLOSED_BY_X1


# Rows of the trade


@pytest.mark.parametrize("status", ["new", "open", "FILLED", "-"])
def test_a_pending_row_blocks_its_trade(status):
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD, f"09:30:00 EXIT T1 sell 1 @100 - id=r status={status}"))
    assert said(plan) == ["T1 NO_GO pending_lifecycle_blocker 2"]
    shown = "None" if status == "-" else repr(status)
    assert details(plan) == {"pending_lifecycle_blocker": f"settle these rows first: r is {shown}"}


def test_a_pending_row_of_another_trade_or_of_none_does_not():
    lines = ["09:30:00 EXIT T2 sell 1 @100 - status=new", "09:30:00 EXIT - sell 1 @100 - status=new"]
    assert said(plan_of(facts_of(ENTRY, BOUGHT, SOLD, *lines))) == CLOSED_BY_X1


DEFECTS = [
    ("08:30:00 EXIT T1 sell 1 @100 X7", "1"),
    ("09:30:00 EXIT T1 buy 1 @100 X7", "1"),
    ("09:30:00 ENTRY T1 sell 1 @100 X7", "3"),
    ("09:30:00 CLOSE T1 sell 1 @100 X7", "2"),
    ("09:30:00 EXIT T1 ? 1 @100 X7", "1"),
    ("09:30:00 EXIT T1 sell 1 @100 X7 symbol=BTC/USD", "2"),
    ("09:30:00 EXIT T1 sell 0 @100 X7 problem=quantity-and-qty-are-both-NULL", "2"),
    ("09:30:00 EXIT T1 sell 1 @100 X7 qty=2 problem=quantity-1-and-qty-2-differ", "1"),
    ("09:30:00 EXIT T1 sell -1 @100 X7 problem=its-quantity--1-is-negative", "3"),
]


@pytest.mark.parametrize(("line", "open_qty"), DEFECTS)
def test_rows_that_cannot_be_trusted_block_their_trade(line, open_qty):
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD, line))
    assert said(plan)[0] == f"T1 NO_GO data_quality {open_qty}"
    assert not any(item.writes for item in plan.items)
    assert plan.judgements[0].is_blocked


def test_the_detail_names_every_defect():
    plan = plan_of(facts_of(ENTRY, BOUGHT, SOLD, "08:30:00 CLOSE T1 up 1 @100 - id=r"))
    assert details(plan)["data_quality"] == (
        "row r has action 'CLOSE', expected ENTRY or EXIT; row r has side 'up', expected buy or sell"
    )


TAKEN, SAID = "names no side and is taken for a buy", "says buy"


@pytest.mark.parametrize(
    ("entry", "fills", "contradicted"),
    [
        ("09:00:00 ENTRY T1 - 2 @100 E1", ["sell"], TAKEN),
        ("09:00:00 ENTRY T1 - 2 @100 E1", ["buy"], None),
        ("09:00:00 ENTRY T1 - 2 @100 E1", ["buy", "sell"], None),
        ("09:00:00 ENTRY T1 - 2 @100 E1", [], None),
        ("09:00:00 ENTRY T1 - 2 @100 -", ["sell"], TAKEN),
        ("09:00:00 ENTRY T1 - 1 @100 -", ["sell"], TAKEN),
        ("09:00:00 ENTRY T1 - 2 @100 -", ["buy", "sell"], None),
        ("09:00:00 ENTRY T1 buy 2 @100 E1", ["sell"], SAID),
        ("09:00:00 ENTRY T1 buy 2 @100 -", ["sell"], None),
    ],
)
def test_an_entry_that_holds_fills_of_the_other_side_is_a_defect(entry, fills, contradicted):
    """A short in a table without sides, or with a wrong one, would be closed by sells, and its own sell spent again."""
    plan = plan_of(facts_of(entry + " id=e", *(f"09:00:00 fill E1 {side} 2" for side in fills)))
    found = details(plan).get("data_quality")
    assert found == (f"ENTRY row e {contradicted}; its exchange order is a sell" if contradicted else None)


@pytest.mark.parametrize(("side", "said_so"), [("-", "names no side and is taken for a"), ("sell", "says")])
def test_so_is_an_exit_that_holds_a_fill_of_its_entrys_side(side, said_so):
    lines = ["09:00:00 ENTRY T1 buy 2 @100 E1", f"09:30:00 EXIT T1 {side} 1 @100 X1 id=x", "09:30:00 fill X1 buy 1"]
    assert (
        details(plan_of(facts_of(*lines)))["data_quality"] == f"EXIT row x {said_so} sell; its exchange order is a buy"
    )


def test_an_order_of_another_symbol_contradicts_nothing():
    lines = ["09:00:00 ENTRY T1 - 2 @100 E1", "09:00:00 fill E1 sell 2 symbol=BTC/USD"]
    assert "data_quality" not in details(plan_of(facts_of(*lines)))


def test_every_defect_is_named_the_contradicted_side_too():
    lines = ["09:00:00 ENTRY T1 - 2 @100 E1 id=e", "09:30:00 CLOSE T1 sell 1 @100 - id=r", "09:00:00 fill E1 sell 2"]
    assert details(plan_of(facts_of(*lines)))["data_quality"] == (
        "row r has action 'CLOSE', expected ENTRY or EXIT; "
        "ENTRY row e names no side and is taken for a buy; its exchange order is a sell"
    )


def test_a_trade_that_negative_exits_alone_keep_open_is_a_defect_and_not_a_crash():
    facts = facts_of("09:30:00 EXIT T1 sell -2 @100 - problem=negative", SOLD, BOUGHT)
    assert said(plan_of(facts)) == ["T1 NO_GO data_quality 2"]


# Existing rows


@pytest.mark.parametrize("status", ["canceled", "cancelled"])
def test_a_canceled_identical_row_is_reinstated(status):
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    before = plan_of(facts)
    plan = plan_of(with_rows(facts, written(before.items, status)))
    assert said(plan) == ["T1 reinstate 2 @110 X1 10:00:00 exact"]
    assert plan.items[0] == replace(before.items[0], reason=Reason.REINSTATE)
    assert plan.judgements[0].reasons == (Reason.REINSTATE,)


def test_a_reinstated_dust_row_still_needs_an_acknowledgement():
    facts = facts_of("09:00:00 ENTRY T1 buy 0.001")
    plan = plan_of(with_rows(facts, written(plan_of(facts).items, "canceled")))
    assert said(plan) == ["T1 reinstate 0.001 @100 - 09:00:00 -"]
    (judged,) = plan.judgements
    assert (judged.reasons, judged.needs_acknowledgement) == ((Reason.DUST_ONLY, Reason.REINSTATE), True)


@pytest.mark.parametrize("status", ["expired", "rejected", "failed"])
def test_a_row_in_any_other_status_is_not_reinstated(status):
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    items = plan_of(facts).items
    plan = plan_of(with_rows(facts, written(items, status)))
    assert said(plan) == ["T1 NO_GO existing_row_differs 2"]
    assert details(plan) == {
        "existing_row_differs": f"{items[0].order_id} exists and has status {status!r}; an id is written once"
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantity": Decimal("1.9")}, "quantity"),
        ({"qty": Decimal("1.9")}, "qty"),
        ({"qty": None}, "qty"),
        ({"price": Decimal("110.000000000001")}, "price"),
        ({"price": None}, "price"),
        ({"raw_side": "buy"}, "side"),
        ({"raw_side": None}, "side"),
        ({"exchange_order_id": "X2"}, "exchange_order_id"),
        ({"exchange_order_id": None}, "exchange_order_id"),
        ({"action": "ENTRY"}, "action"),
        ({"filled_at_assumed": True}, "filled_at"),
        ({"filled_at": at("10:00:01")}, "filled_at"),
        ({"symbol": "ETHUSD"}, "symbol"),
        ({"trade_id": "T9"}, "trade_id"),
        ({"trade_id": None}, "trade_id"),
        ({"profile_id": "q"}, "profile_id"),
        ({"action": "ENTRY", "qty": Decimal(9)}, "action, qty"),
    ],
)
def test_a_canceled_row_with_other_content_differs_and_the_columns_are_named(change, named):
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    (kept,) = written(plan_of(facts).items, "canceled")
    plan = plan_of(with_rows(facts, [replace(kept, **change)]))
    assert said(plan) == ["T1 NO_GO existing_row_differs 2"]
    assert details(plan)["existing_row_differs"].startswith(f"{kept.order_id} exists and differs in {named};")


def test_another_spelling_of_a_number_time_or_side_is_no_difference():
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    (item,) = plan_of(facts).items
    (kept,) = written([item], "canceled")
    same = replace(kept, quantity=Decimal("2.000"), qty=Decimal("2E0"), price=Decimal("110.00"), raw_side=" SELL ")
    assert differences(item, same, "p", Columns()) == ()
    assert differences(item, replace(same, created_at=WINDOW.start, client_order_id="c9"), "p", Columns()) == ()


def test_columns_that_the_table_lacks_are_not_compared():
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    (item,) = plan_of(facts).items
    (kept,) = written([item])
    bare = replace(kept, raw_side=None, exchange_order_id=None)
    assert differences(item, bare, "p", Columns()) == ("side", "exchange_order_id")
    assert differences(item, bare, "p", Columns(has_side=False)) == ("exchange_order_id",)
    assert differences(item, bare, "p", Columns(has_exchange_order_id=False)) == ("side",)
    assert differences(item, bare, "p", Columns(has_side=False, has_exchange_order_id=False)) == ()


@ledger
def test_more_of_a_unit_that_was_written_once_is_another_content(facts):
    """
    T1's row holds one of X1's three; its ENTRY grew since, and X1 is linked to it. The id is taken.

        09:00:00  ENTRY  T1  buy   3  @100  E1
        10:00:00  BFILL  T1  sell  1  @110  X1
        10:00:00  fill   X1  sell  3  @110
    """
    plan = plan_of(facts)
    assert said(plan) == ["T1 NO_GO existing_row_differs 2"]
    assert "differs in quantity, qty;" in details(plan)["existing_row_differs"]


# What the columns can hold


@pytest.mark.parametrize(
    ("amount", "value", "held"),
    [
        (Amount(), "1E-40", True),
        (Amount(scale=2, precision=5), "999.99", True),
        (Amount(scale=2, precision=5), "1000", False),
        (Amount(scale=2, precision=5), "1000.00", False),
        (Amount(scale=2, precision=5), "0.001", False),
        (Amount(scale=2, precision=5), "0.010000", True),
        (Amount(scale=2, precision=5), "1E+2", True),
        (Amount(scale=2, precision=5), "1E+3", False),
        (Amount(scale=8, precision=8), "0.12345678", True),
        (Amount(scale=8, precision=8), "1", False),
        (Amount(scale=8, precision=8), "0.123456789", False),
        (Amount(scale=30, precision=60), "1.0000000000000000000000000000000001", False),
        (Amount(scale=0, precision=3), "123", True),
        (Amount(scale=0, precision=3), "12.5", False),
        (Amount(scale=0), "7", True),
        (Amount(scale=0), "7.5", False),
        (Amount(precision=3), "999", True),
        (Amount(precision=3), "1000", False),
        (Amount(significant=15), "0.123456789012345", True),
        (Amount(significant=15), "0.1234567890123456", False),
        (Amount(significant=15), "123456789012345000", True),
        (Amount(significant=15), "1234567890123456", False),
        (Amount(significant=15), "1.500000000000000000", True),
    ],
)
def test_a_column_holds_what_it_gives_back_to_the_last_digit(amount, value, held):
    assert amount.holds(Decimal(value)) is held


@pytest.mark.parametrize(
    ("amount", "price", "rounded"),
    [
        (Amount(), "110.1234567890123", "110.1234567890123"),
        (Amount(scale=2, precision=9), "110.125", "110.12"),
        (Amount(scale=2, precision=9), "110.135", "110.14"),
        (Amount(scale=2, precision=9), "110.1350000001", "110.14"),
        (Amount(scale=2, precision=9), "110.1250000001", "110.13"),
        (Amount(scale=2), "12345678901234567890123456789012.345", "12345678901234567890123456789012.34"),
        (Amount(scale=0), "2.5", "2"),
        (Amount(scale=0), "3.5", "4"),
        (Amount(significant=15), "1.00000000000000500", "1"),
        (Amount(significant=15), "1.000000000000015", "1.00000000000002"),
        (Amount(significant=15), "1.0000000000000251", "1.00000000000003"),
        (Amount(significant=15), "1.00000000000001", "1.00000000000001"),
    ],
)
def test_a_price_is_rounded_half_even_to_what_its_column_keeps(amount, price, rounded):
    assert amount.rounded(Decimal(price)) == Decimal(rounded)


def in_columns(**columns) -> Facts:
    """Two bought, sold in one fill of 1.25 and one of 0.7500001, in a table with these columns."""
    facts = facts_of(ENTRY, BOUGHT, "10:00:00 fill X1 sell 1.25 @110.125", "10:01:00 fill X2 sell 0.7500001 @0.004")
    return replace(facts, rows=(replace(facts.rows[0], quantity=Decimal("2.0000001")),), columns=Columns(**columns))


@pytest.mark.parametrize("name", ["quantity", "qty"])
def test_a_quantity_that_either_column_cannot_hold_blocks_the_trade(name):
    plan = plan_of(in_columns(**{name: Amount(scale=6, precision=18)}))
    assert said(plan) == ["T1 NO_GO unrepresentable_quantity 2.0000001"]
    assert details(plan) == {
        "unrepresentable_quantity": "orders cannot hold quantity 0.7500001 exactly; widen its columns"
    }
    wide = {"quantity": Amount(scale=7, precision=18), "qty": Amount(scale=7, precision=18)}
    assert len(plan_of(in_columns(**wide)).rows_to_write) == 2


def test_an_instant_that_filled_at_cannot_hold_blocks_the_trade():
    """A column of milliseconds holds 10:00:00.123 and not one microsecond more."""
    for clock, digits, held in (
        ("10:00:00.123", 3, True),
        ("10:00:00.123001", 3, False),
        ("10:00:00.123001", 6, True),
        ("10:00:00.000001", 6, True),
        ("10:00:01", 0, True),
        ("10:00:00.1", 0, False),
    ):
        facts = facts_of(ENTRY, BOUGHT, f"{clock} fill X1 sell 2")
        plan = plan_of(replace(facts, columns=Columns(time_digits=digits)))
        assert [item.reason.value for item in plan.items] == ["fill_evidence" if held else "unrepresentable_quantity"]
    assert Columns().time_digits == 6
    assert details(plan) == {
        "unrepresentable_quantity": "orders cannot hold 2026-03-01T10:00:00.100000Z; widen filled_at"
    }


@pytest.mark.parametrize("amount", [Amount(scale=2, precision=9), Amount(scale=4, precision=6), Amount(scale=0)])
def test_a_price_that_rounds_to_zero_or_overflows_blocks_the_trade(amount):
    plan = plan_of(in_columns(price=amount))
    assert said(plan) == ["T1 NO_GO unrepresentable_quantity 2.0000001"]
    assert details(plan)["unrepresentable_quantity"].startswith("orders cannot hold the price of BFILL-")


def test_prices_of_rows_are_rounded_to_the_column():
    plan = plan_of(in_columns(price=Amount(scale=3, precision=9)))
    assert [line_of(item) for item in plan.items] == [
        "T1 fill_evidence 1.25 @110.125 X1 10:00:00 fifo",
        "T1 fill_evidence 0.7500001 @0.004 X2 10:01:00 fifo",
    ]
    assert plan_of(in_columns(price=Amount(significant=4))).items[0].price == Decimal("110.1")


def test_dust_prices_are_rounded_too():
    facts = facts_of("09:00:00 ENTRY T1 buy 0.001 @100.125")
    plan = plan_of(replace(facts, columns=Columns(price=Amount(scale=2, precision=9))))
    assert said(plan) == ["T1 dust_only 0.001 @100.12 - 09:00:00 -"]


# Identifiers


def test_an_empty_trade_id_or_profile_id_is_invalid():
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    for told in (
        replace(facts, rows=tuple(replace(one, trade_id="") for one in facts.rows)),
        replace(facts, profile_id=""),
    ):
        plan = plan_of(told)
        assert [item.reason for item in plan.items] == [Reason.INVALID_IDENTIFIER]
        assert plan.items[0].decision is Decision.NO_GO
        assert plan.items[0].detail == "profile_id and trade_id must not be empty; name the trade in orders"


def test_an_empty_exchange_order_id_is_invalid():
    facts = facts_of(ENTRY, BOUGHT, SOLD)
    fills = tuple(replace(one, exchange_order_id="" if one.side is Side.SELL else "E1") for one in facts.snapshot.fills)
    plan = plan_of(replace(facts, snapshot=replace(facts.snapshot, fills=fills)))
    assert said(plan) == ["T1 NO_GO invalid_identifier 2"]


# All that applies


@ledger
def test_all_that_applies_is_reported_and_nothing_is_released(facts):
    """
    Everything is wrong at once; the evidence rows are withheld.

        window 09:30:00 11:00:00
        09:00:00  ENTRY  T1  buy   2    @100  E1
        09:40:00  ENTRY  T1  sell  1    @100  E2
        09:45:00  EXIT   T1  sell  1    @100  -  status=new
        10:00:00  fill   X1  sell  2.5
        position  ETHUSD  1
        working   X9  sell  1
    """
    plan = plan_of(
        facts,
        reasons={Reason.PROFILE_NOT_PAUSED: "the answer was ACTIVE", Reason.AUDIT_UNAVAILABLE: "it is read-only"},
    )
    assert said(plan) == [
        "T1 NO_GO profile_not_paused 3",
        "T1 NO_GO audit_unavailable 3",
        "T1 NO_GO data_quality 3",
        "T1 NO_GO pending_lifecycle_blocker 3",
        "T1 NO_GO exchange_not_flat 3",
        "T1 NO_GO exchange_open_orders 3",
        "T1 NO_GO missing_fill_evidence_for_large_remainder 0.5",
        "T1 NO_GO evidence_window_too_short 0.5",
    ]
    assert details(plan)["profile_not_paused"] == "the answer was ACTIVE"
    (judged,) = plan.judgements
    assert judged.evidence == Decimal("2.5")
    assert [reason.value for reason in judged.reasons] == [item.reason.value for item in plan.items]


def test_rows_in_the_way_of_a_blocked_trade_are_reported_too():
    facts = facts_of(ENTRY, BOUGHT, SOLD, "position ETH/USD 1")
    items = plan_of(facts_of(ENTRY, BOUGHT, SOLD)).items
    plan = plan_of(with_rows(facts, written(items, "expired")))
    assert said(plan) == ["T1 NO_GO exchange_not_flat 2", "T1 NO_GO existing_row_differs 2"]


def test_a_blocked_dust_row_is_not_listed_as_dust_only():
    plan = plan_of(facts_of("09:00:00 ENTRY T1 buy 0.001", "position ETH/USD 1"))
    assert [reason.value for reason in plan.judgements[0].reasons] == ["exchange_not_flat"]


@pytest.mark.parametrize("reason", sorted(BATCH_REASONS))
def test_a_batch_wide_reason_stands_against_every_target(reason):
    facts = facts_of(ENTRY, BOUGHT, SOLD, "09:00:00 ENTRY T2 buy 0.001 @100 - symbol=BTC/USD")
    plan = plan_of(facts, reasons={reason: "why"})
    assert said(plan) == [f"T2 NO_GO {reason} 0.001", f"T1 NO_GO {reason} 2"]


def test_only_three_reasons_concern_the_remainder_alone_and_three_the_batch():
    assert {reason.value for reason in REMAINDER_REASONS} == {*MISSING_AND_FEE, "evidence_window_too_short"}
    assert {reason.value for reason in BATCH_REASONS} == {"profile_not_paused", "pause_unknown", "audit_unavailable"}


def test_an_item_writes_when_it_has_an_id_and_is_no_refusal():
    (item,) = plan_of(facts_of(ENTRY, BOUGHT, SOLD)).items
    assert item.writes
    assert not replace(item, order_id=None).writes
    assert not replace(item, decision=Decision.NO_GO).writes


def test_a_row_without_side_or_order_columns_is_planned_all_the_same():
    facts = Facts("p", (row("T1", quantity="2"),), facts_of(SOLD).snapshot, Columns(has_side=False))
    assert said(plan_of(facts)) == CLOSED_BY_X1
