"""Which instants of a shared exchange order belong to which of its claimants (rules.md 6)."""

from __future__ import annotations

from builders import clock_of, facts_of, ledger, plan_of, said

from recon.domain import Grade
from recon.identity import canonical_decimal
from recon.plan import Plan


def shares(plan: Plan) -> list[str]:
    """Who holds what, allocations and recorded rows alike, by instant: `10:00:00 X T1 3`."""
    parts = [(made.unit.key, made.trade[1], made.qty) for one in plan.judgements for made in one.allocations]
    parts += [(take.unit, f"{take.row.trade_id}-recorded", take.qty) for take in plan.ledger.takes.values()]
    lines = [f"{clock_of(key[3])} {key[2]} {who} {canonical_decimal(qty)}" for key, who, qty in parts]
    return sorted(line for line in lines if " X " in line)


def test_fills_are_dealt_in_time_order_to_the_claimants_oldest_trade_first():
    """The row of T2, the older trade, was booked backwards from its last fill, and T1 got what was left."""
    plan = plan_of(facts_of(*SWAPPED))
    assert shares(plan) == ["10:00:00 X T2-recorded 5", "10:10:00 X T1 3", "10:20:00 X T1 2"]
    assert said(plan) == [
        "T1 fill_evidence 3 @110 X 10:10:00 exact",
        "T1 fill_evidence 2 @110 X 10:20:00 exact",
    ]
    assert {made.why for made in plan.judgements[0].allocations} == {
        "what is left of its exchange order equals this trade's open quantity and no other's"
    }


SWAPPED = (
    "08:50:00  ENTRY  T2  buy   5",
    "09:00:00  ENTRY  T1  buy   5",
    "10:20:00  EXIT   T2  sell  5  @100  X  created=10:00:00",
    "10:00:00  fill   X   sell  5",
    "10:10:00  fill   X   sell  3",
    "10:20:00  fill   X   sell  2",
)


def test_every_unit_of_a_dealt_order_is_still_accounted_for():
    """Nothing is left over, nothing is spent twice, and the row's own take is where it was dealt to."""
    plan = plan_of(facts_of(*SWAPPED))
    assert set(plan.ledger.left.values()) == {0}
    assert [(clock_of(take.unit[3]), take.qty) for take in plan.ledger.takes.values()] == [("10:00:00", 5)]


def test_a_take_is_moved_only_when_the_row_was_created_at_a_fill_of_that_very_order():
    """Otherwise nobody knows when its part of the order began."""
    for created in ("10:00:01", "09:59:59"):
        lines = [line.replace("created=10:00:00", f"created={created}") for line in SWAPPED]
        assert shares(plan_of(facts_of(*lines))) == [
            "10:00:00 X T1 5",
            "10:10:00 X T2-recorded 3",
            "10:20:00 X T2-recorded 2",
        ]


def test_a_fill_of_another_order_at_the_rows_creation_is_not_enough():
    lines = [line.replace("created=10:00:00", "created=09:30:00") for line in SWAPPED]
    plan = plan_of(facts_of(*lines, "09:30:00 fill Y sell 1", "09:30:00 fill X buy 1"))
    assert "10:00:00 X T1 5" in shares(plan)


def test_entries_backfill_rows_and_rows_of_no_known_trade_are_not_moved():
    """A flip's ENTRY, a repaired trade, an exit without a trade, an exit of a trade without its entry."""
    stays = "10:00:00 X T1 5"
    kept = SWAPPED[1:2] + SWAPPED[3:]
    for row in (
        "10:20:00 ENTRY T0 sell 5 @100 X created=10:00:00",
        "10:20:00 EXIT - sell 5 @100 X created=10:00:00",
        "10:20:00 EXIT T8 sell 5 @100 X created=10:00:00",
        "10:20:00 EXIT T2 sell 5 @100 X created=10:00:00 id=BFILL-moved",
    ):
        older = {"EXIT T2": SWAPPED[0], "ENTRY T0": "08:50:00 ENTRY T0 sell 1 @100 E0"}
        entry = [line for name, line in older.items() if name in row]
        assert stays in shares(plan_of(facts_of(*entry, *kept, row))), row


@ledger
def test_a_backfill_row_keeps_the_instant_that_its_id_names(facts):
    """
    T2 was repaired from the later unit, and its row says created at a fill; T1 gets the earlier one, as it stands.

        08:50:00  ENTRY  T2  buy   5
        09:00:00  ENTRY  T1  buy   5
        10:20:00  BFILL  T2  sell  5  @110  X  created=10:00:00
        10:00:00  fill   X   sell  5
        10:20:00  fill   X   sell  5
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T1 5", "10:20:00 X T2-recorded 5"]


@ledger
def test_an_order_stays_as_it_was_where_a_row_would_get_a_fill_before_it_was_created(facts):
    """
    T2 is older, but its row was created at 10:10: the 10:00 fill cannot be its.

        08:50:00  ENTRY  T2  buy   5
        09:00:00  ENTRY  T1  buy   5
        10:20:00  EXIT   T2  sell  5  @100  X  created=10:10:00
        10:00:00  fill   X   sell  5
        10:10:00  fill   X   sell  3
        10:20:00  fill   X   sell  2
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T1 5", "10:10:00 X T2-recorded 3", "10:20:00 X T2-recorded 2"]
    assert set(plan_of(facts).ledger.left.values()) == {0}


@ledger
def test_an_order_stays_as_it_was_where_a_row_would_get_a_fill_after_its_own_last(facts):
    """
    T1 is older and would come first, but then T2's row, filled at 10:00, would hold the fill of 10:20.

        08:50:00  ENTRY  T1  buy   5
        09:00:00  ENTRY  T2  buy   5
        10:00:00  EXIT   T2  sell  5  @100  X
        10:00:00  fill   X   sell  5
        10:20:00  fill   X   sell  5
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T2-recorded 5", "10:20:00 X T1 5"]


@ledger
def test_a_row_may_hold_the_fill_of_its_own_last_instant(facts):
    """
    T1, older, comes first; T2's row is filled at 10:20 and gets just that.

        08:50:00  ENTRY  T1  buy   5
        09:00:00  ENTRY  T2  buy   5
        10:20:00  EXIT   T2  sell  5  @100  X  created=10:00:00
        10:00:00  fill   X   sell  6
        10:20:00  fill   X   sell  4
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T1 5", "10:00:00 X T2-recorded 1", "10:20:00 X T2-recorded 4"]


@ledger
def test_no_trade_gets_a_fill_from_before_its_beginning(facts):
    """
    T2 began before T1, yet after the order's first fill, which T1's row holds: it stays with T1.

        10:05:00  ENTRY  T2  buy   5
        10:07:00  ENTRY  T1  buy   2
        10:05:00  EXIT   T1  sell  2  @100  X  created=10:00:00
        10:00:00  fill   X   sell  2
        10:10:00  fill   X   sell  3
        10:20:00  fill   X   sell  2
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T1-recorded 2", "10:10:00 X T2 3", "10:20:00 X T2 2"]


@ledger
def test_a_trade_may_get_a_fill_of_its_very_beginning(facts):
    """
    T2 began at 10:00, the order's first fill; it is older than T1, whose row holds that fill.

        10:00:00  ENTRY  T2  buy   2
        10:07:00  ENTRY  T1  buy   2
        10:10:00  EXIT   T1  sell  2  @100  X  created=10:00:00
        10:00:00  fill   X   sell  1
        10:10:00  fill   X   sell  3
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T2 1", "10:10:00 X T1-recorded 2", "10:10:00 X T2 1"]


@ledger
def test_a_take_outside_the_rows_own_span_is_not_moved(facts):
    """
    T2's row takes 3 after its filled_at, since the order had no more before: those 3 stay, its 2 are dealt with T1's.

        08:50:00  ENTRY  T2  buy   5
        09:00:00  ENTRY  T1  buy   2
        10:00:00  EXIT   T2  sell  5  @100  X
        10:00:00  fill   X   sell  2
        10:10:00  fill   X   sell  3
        10:20:00  fill   X   sell  2
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T2-recorded 2", "10:10:00 X T2-recorded 3", "10:20:00 X T1 2"]


@ledger
def test_trades_that_began_together_are_dealt_to_by_trade_id_bytewise(facts):
    """
    B before a, in bytes; the lower case trade has the recorded row.

        09:00:00  ENTRY  a  buy   5
        09:00:00  ENTRY  B  buy   5
        10:20:00  EXIT   a  sell  5  @100  X  created=10:00:00
        10:00:00  fill   X  sell  7
        10:20:00  fill   X  sell  3
    """
    assert shares(plan_of(facts)) == ["10:00:00 X B 5", "10:00:00 X a-recorded 2", "10:20:00 X a-recorded 3"]


@ledger
def test_two_parts_of_one_trade_are_dealt_to_in_the_order_in_which_they_start(facts):
    """
    T1's own exit was booked from 10:10 on; the part that was lost started at 10:00.

        09:00:00  ENTRY  T1  buy   6
        10:20:00  EXIT   T1  sell  4  @100  X  created=10:10:00
        10:00:00  fill   X   sell  2
        10:10:00  fill   X   sell  1
        10:20:00  fill   X   sell  3
    """
    assert shares(plan_of(facts)) == ["10:00:00 X T1 2", "10:10:00 X T1-recorded 1", "10:20:00 X T1-recorded 3"]


@ledger
def test_two_rows_of_one_trade_are_dealt_to_in_the_order_in_which_they_were_created(facts):
    """
    The row that was filled last was created first: it has the first fill, and the other one the second.

        08:50:00  ENTRY  T1  buy   4
        09:00:00  ENTRY  T2  buy   4
        10:20:00  EXIT   T1  sell  2  @100  X  created=10:10:00
        10:30:00  EXIT   T1  sell  2  @100  X  created=10:00:00
        10:00:00  fill   X   sell  2
        10:10:00  fill   X   sell  2
        10:20:00  fill   X   sell  2
        10:30:00  fill   X   sell  2
    """
    assert shares(plan_of(facts)) == [
        "10:00:00 X T1-recorded 2",
        "10:10:00 X T1-recorded 2",
        "10:20:00 X T2 2",
        "10:30:00 X T2 2",
    ]


@ledger
def test_the_part_of_a_row_that_lies_outside_its_span_does_not_hold_the_others_back(facts):
    """
    T3's row is of 10:40 alone, yet one of its three had to come from 10:20: that one stays, the rest is dealt.

        08:40:00  ENTRY  T1  buy   3
        09:00:00  ENTRY  T2  buy   4
        09:30:00  ENTRY  T3  buy   3
        10:30:00  EXIT   T1  sell  3  @100  X  created=10:00:00
        10:40:00  EXIT   T3  sell  3  @100  X
        10:00:00  fill   X   sell  2
        10:10:00  fill   X   sell  2
        10:20:00  fill   X   sell  2
        10:30:00  fill   X   sell  2
        10:40:00  fill   X   sell  2
    """
    assert shares(plan_of(facts)) == [
        "10:00:00 X T1-recorded 2",
        "10:10:00 X T1-recorded 1",
        "10:10:00 X T2 1",
        "10:20:00 X T2 1",
        "10:20:00 X T3-recorded 1",
        "10:30:00 X T2 2",
        "10:40:00 X T3-recorded 2",
    ]


@ledger
def test_an_order_that_only_open_trades_claim_stays_as_it_was_allocated(facts):
    """
    T2's row stands on X unfilled, and links it; the older T1 gets its fill from Y, and no dealing mixes them.

        08:50:00  ENTRY  T1  buy   5
        09:00:00  ENTRY  T2  buy   5
        10:00:00  EXIT   T2  sell  5  @100  X  status=expired
        10:00:00  fill   X   sell  3
        10:10:00  fill   X   sell  4
        10:20:00  fill   Y   sell  3
    """
    plan = plan_of(facts)
    assert shares(plan) == ["10:00:00 X T2 3", "10:10:00 X T1 2", "10:10:00 X T2 2"]
    assert [line for line in said(plan) if "T1 f" in line] == [
        "T1 fill_evidence 2 @110 X 10:10:00 fifo",
        "T1 fill_evidence 3 @110 Y 10:20:00 fifo",
    ]


@ledger
def test_three_claimants_share_one_order_and_each_keeps_its_amount(facts):
    """
    Two closed trades and an open one between them; the open one's part comes second.

        08:30:00  ENTRY  T1  buy   2
        08:40:00  ENTRY  T2  buy   3
        08:50:00  ENTRY  T3  buy   4
        10:20:00  EXIT   T1  sell  2  @100  X  created=10:00:00
        10:20:00  EXIT   T3  sell  4  @100  X  created=10:00:00
        10:00:00  fill   X   sell  4
        10:10:00  fill   X   sell  3
        10:20:00  fill   X   sell  2
    """
    plan = plan_of(facts)
    assert shares(plan) == [
        "10:00:00 X T1-recorded 2",
        "10:00:00 X T2 2",
        "10:10:00 X T2 1",
        "10:10:00 X T3-recorded 2",
        "10:20:00 X T3-recorded 2",
    ]
    assert {made.grade for made in plan.judgements[0].allocations} == {Grade.FIFO}
    assert set(plan.ledger.left.values()) == {0}


def test_orders_are_dealt_one_by_one():
    """The same swap on a second symbol and on a second order changes nothing about the first."""
    twin = [line.replace(" X ", " Z ").replace("T1", "U1").replace("T2", "U2") + " symbol=BTC/USD" for line in SWAPPED]
    twin = [line if "fill" in line or "@" in line else line.replace("5 symbol", "5 @100 - symbol") for line in twin]
    plan = plan_of(facts_of(*SWAPPED, *twin))
    assert shares(plan) == ["10:00:00 X T2-recorded 5", "10:10:00 X T1 3", "10:20:00 X T1 2"]
    assert [line for line in said(plan) if "U1" in line] == [
        "U1 fill_evidence 3 @110 Z 10:10:00 exact",
        "U1 fill_evidence 2 @110 Z 10:20:00 exact",
    ]
