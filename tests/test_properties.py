"""Properties of plans over arbitrary, mostly broken facts; each test names the invariant that it covers.

The numbers are those of rules.md. A world is a handful of trades, exchange orders and rows on two markets, drawn
from so few sizes and minutes that ties, equal sizes, shared orders, double bookings and collisions are common.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import fields, replace
from datetime import timedelta, timezone
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import hypothesis.strategies as st
from builders import PROFILE, at, fill, plan_of, row, with_rows, written
from hypothesis import HealthCheck, assume, given, settings

from recon.domain import Decision, Item, OpenOrder, Position, Reason, Side, Snapshot, Window
from recon.evidence import build_units
from recon.identity import (
    BASE_FEE,
    DUST,
    backfill_order_id,
    canonical_decimal,
    canonical_json,
    canonical_symbol,
    canonical_time,
    digest,
    identity_text,
)
from recon.lifecycles import build_lifecycles
from recon.plan import EXACT, Facts, Scope, item_document, item_from

SYMBOLS = ("ETH/USD", "ETH/USD", "ETHUSD", "BTC/USD")
TRADES = ("T1", "T2", "a:b", "a", None)
ORDERS = ("X1", "X2", "b:X1", "DUST")
SIZES = ("1", "1", "2", "3", "0.001", "0.004", "0.5", "1E-18", "1E+30", "2.000000000000000001")
PRICES = ("100", "101.5", "0.000000012345", "99999999999.123456789")
OPPOSITE = {"buy": "sell", "sell": "buy"}

symbols = st.sampled_from(SYMBOLS)
sizes = st.sampled_from(SIZES)
prices = st.sampled_from(PRICES)
sides = st.sampled_from(("buy", "sell"))
orders = st.sampled_from(ORDERS)
clocks = st.builds(lambda minute, second: f"10:{minute:02}:{second:02}", st.integers(0, 6), st.sampled_from((0, 0, 3)))


@st.composite
def opening(draw, trade):
    """A trade that was opened by one order in one or two fills, as it should be; some paid a fee in base."""
    symbol, side, count = draw(symbols), draw(sides), draw(st.integers(1, 2))
    parts = [draw(sizes) for _ in range(count)]
    fee = draw(st.sampled_from((None, None, "0.001", "0.5")))
    fills = [
        fill(
            f"E-{trade}",
            side,
            part,
            f"10:00:0{number}",
            "100",
            symbol=symbol,
            fee=fee and Decimal(fee),
            fee_currency=fee and symbol[:3],
        )
        for number, part in enumerate(parts)
    ]
    with localcontext(EXACT):
        total = sum(map(Decimal, parts), Decimal(0))
    begun = f"10:00:0{count - 1}"
    stated = draw(st.sampled_from((side, side, side.upper())))
    entry = row(trade, "ENTRY", str(total), begun, symbol=symbol, raw_side=stated, exchange_order_id=f"E-{trade}")
    return entry, fills


@st.composite
def closing(draw, name, entries):
    """An order that closed parts of one or two trades, over one to three instants; some rows were booked, some lost."""
    first = draw(st.sampled_from(entries))
    side = OPPOSITE[first.raw_side.lower()]
    minutes = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=3)))
    clock = [f"10:{minute:02}:00" for minute in minutes]
    with localcontext(EXACT):
        whole = [str(first.quantity), str(first.quantity), str(first.quantity - Decimal("0.5"))]
    claims = [(first, draw(st.sampled_from((*(size for size in whole if Decimal(size) > 0), *SIZES))))]
    if draw(st.booleans()):
        claims.append((draw(st.sampled_from(entries)), draw(sizes)))
    fills = [
        fill(
            name,
            side,
            qty,
            clock[(number + step) % len(clock)],
            draw(prices),
            symbol=first.symbol,
            client_order_id=f"c-{name}",
        )
        for step, (_, qty) in enumerate(claims)
        for number in range(draw(st.integers(1, 2)))
    ]
    known = draw(st.sampled_from((name, name, None)))
    rows = [
        row(
            entry.trade_id,
            "EXIT",
            qty,
            clock[-1],
            symbol=entry.symbol,
            created_at=at(clock[0]),
            raw_side=draw(st.sampled_from((OPPOSITE[entry.raw_side.lower()], None))),
            exchange_order_id=known,
            client_order_id=draw(st.sampled_from((None, f"c-{name}"))),
            status=draw(st.sampled_from(("filled", "filled", "expired"))),
        )
        for entry, qty in claims
        if draw(st.booleans())
    ]
    return rows, fills


@st.composite
def noise(draw):
    """A row that may be anything: an entry, an exit, a backfill row of somebody, or nonsense."""
    clock, trade, size = draw(clocks), draw(st.sampled_from(TRADES)), draw(sizes)
    action = draw(st.sampled_from(("ENTRY", "EXIT", "EXIT", "BFILL", "BFILL", "ADJUST")))
    other = {
        "symbol": draw(symbols),
        "status": draw(st.sampled_from(("filled", "filled", "partially_filled", "canceled", "new"))),
        "price": draw(st.sampled_from((Decimal(100), None))),
        "created_at": at(draw(clocks)),
        "raw_side": draw(st.sampled_from(("buy", "sell", None, "?"))),
        "exchange_order_id": draw(st.sampled_from((*ORDERS, None))),
    }
    if action == "BFILL":
        names = draw(st.sampled_from((*ORDERS, BASE_FEE, DUST)))
        other["order_id"] = backfill_order_id(PROFILE, trade or "", names, at(clock))
        return row(trade, "EXIT", size, clock, **{**other, "qty": Decimal(size)})
    if draw(st.integers(0, 4)) == 0:
        size, other["quantity_problem"] = draw(st.sampled_from(("0", "-1", "-2"))), "cannot be trusted"
    return row(trade, action, size, clock, **other)


@st.composite
def earlier_repair(draw, facts):
    """The facts after somebody applied some of the plan, mostly took it back, and perhaps changed a row since."""
    items = plan_of(facts, base_fee=draw(st.booleans())).rows_to_write
    status = draw(st.sampled_from(("canceled", "canceled", "cancelled", "filled")))
    rows = list(written(items[: draw(st.integers(0, 3))], status))
    if rows and draw(st.integers(0, 4)) == 0:
        rows[0] = replace(rows[0], price=Decimal("100.5"))
    return with_rows(facts, rows)


@st.composite
def worlds(draw):
    """The facts of one profile and what the exchange said."""
    trades = draw(st.lists(st.sampled_from(TRADES[:-1]), min_size=1, max_size=4, unique=True))
    opened = [draw(opening(trade)) for trade in trades]
    entries = [entry for entry, _ in opened]
    closed = [draw(closing(name, entries)) for name in draw(st.lists(orders, max_size=3, unique=True))]
    rows = [*entries, *(each for rows, _ in closed for each in rows)]
    fills = [each for _, fills in (*opened, *closed) for each in fills]
    if draw(st.booleans()):
        rows += [draw(noise()) for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        fills.append(fill(draw(orders), draw(sides), draw(sizes), draw(clocks), draw(prices), symbol=draw(symbols)))
    numbered = [each if each.is_backfill else replace(each, order_id=f"row-{n}") for n, each in enumerate(rows)]
    window = Window(at("10:00:01" if draw(st.integers(0, 5)) == 0 else "09:00:00"), at("11:00:00"))
    inside = [replace(each, fill_id=f"f{n}") for n, each in enumerate(fills) if window.holds(each.filled_at)]
    held = draw(st.integers(0, 7)) == 0
    positions = (Position(draw(symbols), Decimal(draw(st.sampled_from(("0", "1", "-1"))))),) if held else ()
    snapshot = Snapshot("statement:test", window, tuple(inside), positions, ())
    facts = Facts(PROFILE, tuple({each.order_id: each for each in numbered}.values()), snapshot)
    return draw(earlier_repair(facts)) if draw(st.integers(0, 2)) == 0 else facts


rules = st.fixed_dictionaries({"base_fee": st.booleans()})
many = settings(max_examples=200)
some = settings(max_examples=100)


def opened(facts: Facts) -> dict[tuple[str, str], Decimal]:
    """The open quantity of every trade, over-closed ones too."""
    with localcontext(EXACT):
        return {key: one.open_qty for key, one in build_lifecycles(facts.rows).items()}


def chosen(items, bits: int) -> list[Item]:
    """Some of the rows to write: those whose bit is set."""
    return [item for number, item in enumerate(items) if bits >> number & 1]


def shuffled(facts: Facts, seed: int, offset: int) -> Facts:
    """The same facts in another order, told in another time zone."""
    zone, shuffle = timezone(timedelta(minutes=offset)), random.Random(seed)

    def mixed(entries, names):
        moved = [replace(one, **{name: getattr(one, name).astimezone(zone) for name in names}) for one in entries]
        return tuple(shuffle.sample(moved, len(moved)))

    known = facts.snapshot
    snapshot = replace(known, fills=mixed(known.fills, ["filled_at"]), positions=mixed(known.positions, []))
    return replace(facts, rows=mixed(facts.rows, ["filled_at", "created_at"]), snapshot=snapshot)


def test_neither_chance_nor_the_machine_decides_how_an_example_ends():
    """Nor what an earlier run left in a folder; for every test of the suite that draws examples."""
    here = settings()
    assert (here.deadline, here.derandomize, here.database) == (None, True, None)
    assert HealthCheck.too_slow in here.suppress_health_check


@many
@given(worlds())
def test_invariant_6_every_unit_is_given_once(facts):
    """Taken by rows, allocated to trades, and left over: together exactly the unit, and no part below zero."""
    plan = plan_of(facts)
    held = defaultdict(Fraction)
    for take in plan.ledger.takes.values():
        assert take.qty > 0
        held[take.unit] += Fraction(take.qty)
    for judged in plan.judgements:
        for made in judged.allocations:
            assert made.qty > 0
            held[made.unit.key] += Fraction(made.qty)
    with localcontext(EXACT):
        units = build_units(facts.snapshot.fills)
    for unit in units:
        assert plan.ledger.left[unit.key] >= 0
        assert held[unit.key] + Fraction(plan.ledger.left[unit.key]) == Fraction(unit.qty)


@many
@given(worlds())
def test_invariant_6_no_row_holds_more_than_its_quantity_and_no_trade_gets_more_than_it_needs(facts):
    """Nor does a trade get a fill from before its beginning, of another market, or of its own entry side."""
    plan = plan_of(facts)
    by_row = defaultdict(Fraction)
    for take in plan.ledger.takes.values():
        by_row[take.row.order_id] += Fraction(take.qty)
        assert canonical_symbol(take.row.symbol) == take.unit[0]
    assert all(by_row[one.order_id] <= max(Fraction(one.quantity), 0) for one in facts.rows)
    for judged in plan.judgements:
        one = judged.lifecycle
        with localcontext(EXACT):
            assert 0 <= judged.evidence <= one.open_qty
            assert judged.evidence + judged.remainder == one.open_qty
        for made in judged.allocations:
            assert made.unit.filled_at >= one.begin
            assert (made.unit.symbol, made.unit.side) == (canonical_symbol(one.symbol), one.closing_side)


@many
@given(worlds(), st.integers(0, 2**12 - 1), rules)
def test_invariant_5_whatever_is_released_an_apply_never_opens_and_never_over_closes(facts, bits, setting):
    """0 <= open after <= open before for every target, and every other trade is as it was."""
    plan = plan_of(facts, **setting)
    released = chosen(plan.rows_to_write, bits)
    before, after = opened(facts), opened(with_rows(facts, written(released)))
    closed = defaultdict(Decimal)
    with localcontext(EXACT):
        for item in released:
            closed[item.symbol, item.trade_id] += item.qty
        for key, was in before.items():
            assert after[key] == was - closed.get(key, 0)
            assert 0 <= after[key] <= was or key not in closed
    assert set(after) == set(before)
    assert set(closed) <= {judged.lifecycle.key for judged in plan.judgements}


@many
@given(worlds(), st.integers(0, 2**12 - 1), rules)
def test_invariant_6_two_batches_do_not_spend_one_fill_twice(facts, bits, setting):
    """After one batch a second plan is made and applied: each backfill row of both still finds its whole quantity."""
    first = chosen(plan_of(facts, **setting).rows_to_write, bits)
    applied = with_rows(facts, written(first))
    second = plan_of(applied, **setting).rows_to_write
    assert not {item.order_id for item in first} & {item.order_id for item in second}
    ledger = plan_of(with_rows(applied, written(second)), **setting).ledger
    found = defaultdict(Decimal)
    with localcontext(EXACT):
        for take in ledger.takes.values():
            found[take.row.order_id] += take.qty
    assert all(found[item.order_id] == item.qty for item in (*first, *second) if item.exchange_order_id)


@many
@given(worlds(), rules)
def test_invariant_4_an_id_is_written_once_and_a_filled_row_never_again(facts, setting):
    """Every row to write has an id of its own; one that exists is either canceled and identical, or refused."""
    plan = plan_of(facts, **setting)
    ids = [item.order_id for item in plan.rows_to_write]
    assert len(set(ids)) == len(ids)
    existing = {one.order_id: one for one in facts.rows}
    for item in plan.rows_to_write:
        kept = existing.get(item.order_id)
        assert (item.reason is Reason.REINSTATE) == (kept is not None)
        if kept is not None:
            assert kept.status in ("canceled", "cancelled")
            assert (kept.quantity, kept.qty, kept.price) == (item.qty, item.qty, item.price)


@many
@given(worlds(), rules)
def test_invariant_4_after_a_whole_apply_the_same_rows_are_not_planned_again(facts, setting):
    """A second run plans no filled row, and nothing at all for a trade that is closed."""
    first = plan_of(facts, **setting)
    second = plan_of(with_rows(facts, written(first.items)), **setting)
    written_ids = {item.order_id for item in first.rows_to_write}
    assert not written_ids & {item.order_id for item in second.rows_to_write}
    closed = {one.lifecycle.key for one in first.judgements} - {one.lifecycle.key for one in second.judgements}
    assert not any((item.symbol, item.trade_id) in closed for item in second.items)


@many
@given(worlds(), st.integers(0, 2**12 - 1), rules)
def test_invariant_8_a_rollback_restores_every_lifecycle_and_the_plan(facts, bits, setting):
    """Canceled, the rows leave the open quantities as before, and are planned again with the same allocations."""
    first = plan_of(facts, **setting)
    released = chosen(first.rows_to_write, bits)
    canceled = with_rows(facts, written(released, "canceled"))
    assert opened(canceled) == opened(facts)
    again = plan_of(canceled, **setting)
    ids = {item.order_id for item in released}
    assert again.items == tuple(
        replace(item, reason=Reason.REINSTATE) if item.order_id in ids else item for item in first.items
    )
    assert [judged.allocations for judged in again.judgements] == [judged.allocations for judged in first.judgements]


@some
@given(worlds(), rules)
def test_invariant_8_what_was_rolled_back_can_be_applied_again(facts, setting):
    """Apply, rollback, apply ends where the first apply ended, to the byte of the next plan's digest."""
    first = plan_of(facts, **setting)
    applied = with_rows(facts, written(first.items))
    canceled = with_rows(applied, written(first.items, "canceled"))
    again = with_rows(canceled, written(plan_of(canceled, **setting).items))
    assert opened(again) == opened(applied)
    assert plan_of(again, **setting).digest == plan_of(applied, **setting).digest


@many
@given(worlds(), st.integers(0, 2**30), st.integers(-720, 720), rules)
def test_invariant_11_any_order_and_time_zone_of_the_facts_gives_the_same_bytes(facts, seed, offset, setting):
    """Ids, items, allocations and digest."""
    plan, other = plan_of(facts, **setting), plan_of(shuffled(facts, seed, offset), **setting)
    assert other.digest == plan.digest
    assert canonical_json([item_document(item) for item in other.items]) == canonical_json(
        [item_document(item) for item in plan.items]
    )
    assert [item.detail for item in other.items if item.writes] == [item.detail for item in plan.items if item.writes]
    assert other.ledger.left == plan.ledger.left


@many
@given(worlds(), st.sets(st.sampled_from(TRADES[:-1])), st.sets(symbols), rules)
def test_invariant_6_narrowing_changes_no_judgement(facts, trades, markets, setting):
    """A target says in a narrowed plan exactly what it says in the whole one; the rest is merely absent."""
    scope = Scope(tuple(sorted(trades)), tuple(sorted(markets)))
    whole, narrowed = plan_of(facts, **setting), plan_of(facts, scope, **setting)
    assert narrowed.judgements == tuple(one for one in whole.judgements if scope.holds(one.lifecycle))
    assert (narrowed.ledger.left, narrowed.open_lifecycles) == (whole.ledger.left, whole.open_lifecycles)


@many
@given(worlds(), st.data())
def test_invariant_7_any_fact_of_a_targets_symbol_that_changes_changes_the_digest(facts, data):
    """One quantity, price or time of one row or fill, by its last digit."""
    plan = plan_of(facts)
    targets = {canonical_symbol(judged.lifecycle.symbol) for judged in plan.judgements}
    rows = [n for n, one in enumerate(facts.rows) if canonical_symbol(one.symbol) in targets]
    fills = [n for n, one in enumerate(facts.snapshot.fills) if canonical_symbol(one.symbol) in targets]
    assume(rows)
    name = data.draw(st.sampled_from(("quantity", "price", "filled_at", "created_at", "qty")))
    number = data.draw(st.sampled_from(rows))
    changed = list(facts.rows)
    changed[number] = nudged(changed[number], name)
    assert plan_of(replace(facts, rows=tuple(changed))).digest != plan.digest
    if fills:
        name = data.draw(st.sampled_from(("qty", "price", "filled_at")))
        number = data.draw(st.sampled_from(fills))
        told = list(facts.snapshot.fills)
        told[number] = nudged(told[number], name)
        with localcontext(EXACT):  # the price of one fill in 1e30 of others may not move their mean
            same = build_units(told) == build_units(facts.snapshot.fills)
        other = plan_of(replace(facts, snapshot=replace(facts.snapshot, fills=tuple(told))))
        assert (other.digest == plan.digest) is same


def nudged(one, name):
    """The same row or fill with one of its fields moved by very little."""
    value = getattr(one, name)
    with localcontext(EXACT):
        if value is None:
            return replace(one, **{name: Decimal(1)})
        tiny = Decimal("1E-9") if name == "price" else Decimal("1E-19")
        return replace(one, **{name: value + (tiny if isinstance(value, Decimal) else timedelta(microseconds=1))})


@some
@given(worlds(), rules)
def test_invariant_7_the_digest_does_not_know_source_notes_or_a_window_that_decides_nothing(facts, setting):
    """As long as the wider window makes no reason come or go."""
    plan = plan_of(facts, **setting)
    renamed = replace(facts.snapshot, source="table:f,p", notes=("a note",))
    assert plan_of(replace(facts, snapshot=renamed), **setting).digest == plan.digest
    wider = replace(facts.snapshot, window=Window(facts.snapshot.window.start, at("11:30:00")))
    assert plan_of(replace(facts, snapshot=wider), **setting).digest == plan.digest


@some
@given(worlds(), st.integers(1, 9))
def test_invariant_9_the_ambient_precision_decides_nothing_and_every_amount_is_a_decimal(facts, precision):
    """Quantities from 1e-18 to 1e30 in one trade, in a context of a few digits."""
    with localcontext(Context(prec=precision)):
        narrow = plan_of(facts)
    plan = plan_of(facts)
    assert narrow.digest == plan.digest
    assert narrow.ledger.left == plan.ledger.left
    for item in plan.items:
        assert all(not isinstance(getattr(item, field.name), float) for field in fields(item))
        assert type(item.qty) is Decimal
        assert item.price is None or type(item.price) is Decimal


def without_positions(facts: Facts) -> Facts:
    return replace(facts, snapshot=replace(facts.snapshot, positions=None))


def without_exchange(facts: Facts) -> Facts:
    return replace(facts, snapshot=None)


def with_blockers(facts: Facts) -> Facts:
    keys = {(one.symbol, one.trade_id) for one in facts.rows if one.trade_id is not None}
    blockers = [
        row(trade, "EXIT", "1", status="who_knows", symbol=symbol, order_id=f"blocker-{number}")
        for number, (symbol, trade) in enumerate(sorted(keys))
    ]
    return replace(facts, rows=(*facts.rows, *blockers))


def with_open_orders(facts: Facts) -> Facts:
    orders = tuple(
        OpenOrder(f"W-{name}", None, name, Side.BUY, Decimal(1), Decimal(0), at("10:00:00")) for name in set(SYMBOLS)
    )
    return replace(facts, snapshot=replace(facts.snapshot, open_orders=orders))


def with_hedged_legs(facts: Facts) -> Facts:
    legs = [Position(name.replace("/", "-").lower(), Decimal(size)) for name in set(SYMBOLS) for size in ("1", "-1")]
    return replace(facts, snapshot=replace(facts.snapshot, positions=tuple(legs)))


@many
@given(
    worlds(),
    st.sampled_from(
        (
            (without_positions, Reason.EXCHANGE_POSITION_UNKNOWN),
            (without_exchange, Reason.EXCHANGE_POSITION_UNKNOWN),
            (with_blockers, Reason.PENDING_LIFECYCLE_BLOCKER),
            (with_open_orders, Reason.EXCHANGE_OPEN_ORDERS),
            (with_hedged_legs, Reason.EXCHANGE_NOT_FLAT),
        )
    ),
)
def test_invariant_10_what_is_unknown_or_held_is_a_named_no_go_and_writes_nothing(facts, trouble):
    """For every target, whatever else is the matter with it."""
    change, reason = trouble
    plan = plan_of(change(facts))
    assert plan.rows_to_write == ()
    assert all(reason in judged.reasons and judged.is_blocked for judged in plan.judgements)
    assert len(plan.judgements) == len(plan_of(facts).judgements)


@some
@given(worlds(), st.sampled_from((Reason.PROFILE_NOT_PAUSED, Reason.PAUSE_UNKNOWN, Reason.AUDIT_UNAVAILABLE)))
def test_invariant_10_a_batch_wide_reason_leaves_nothing_to_write(facts, reason):
    plan = plan_of(facts, reasons={reason: "said so"})
    assert plan.rows_to_write == ()
    assert all(judged.reasons[0] is reason for judged in plan.judgements)


@many
@given(worlds(), rules)
def test_invariant_10_a_target_is_released_in_full_or_says_why_not(facts, setting):
    """What a target's rows close and what its remainder reasons leave add up to what is open; a whole-trade
    reason leaves everything."""
    plan = plan_of(facts, **setting)
    for judged in plan.judgements:
        with localcontext(EXACT):
            open_qty = judged.lifecycle.open_qty
            closing = sum((item.qty for item in judged.items if item.writes), Decimal(0))
        left = {item.qty for item in judged.items if item.decision is Decision.NO_GO}
        if judged.is_blocked:
            assert closing == 0
        elif left:
            assert (left, closing) == ({judged.remainder}, judged.evidence)
        else:
            assert closing == open_qty
        assert judged.items


@some
@given(worlds(), rules)
def test_invariant_1_every_row_to_write_is_an_exit_under_the_id_of_its_components(facts, setting):
    """On the closing side, above zero, with a price above zero; and it comes back from its stored document."""
    plan = plan_of(facts, **setting)
    lifecycles = {judged.lifecycle.key: judged.lifecycle for judged in plan.judgements}
    for item in plan.rows_to_write:
        one = lifecycles[item.symbol, item.trade_id]
        names = [item.exchange_order_id] if item.exchange_order_id else [DUST, BASE_FEE]
        assert item.order_id in {backfill_order_id(PROFILE, item.trade_id, name, item.filled_at) for name in names}
        assert item.side is one.closing_side
        assert item.qty > 0
        assert item.price > 0
    for item in plan.items:
        assert item_from(json.loads(canonical_json(item_document(item)))) == item


@many
@given(st.decimals(allow_nan=False, allow_infinity=False, places=None), st.integers(0, 5))
def test_invariant_11_equal_numbers_have_one_text_and_others_have_another(value, zeros):
    """The text is plain, exact, and says nothing of how the number was written."""
    assume(abs(value.adjusted()) < 60)
    told = canonical_decimal(value)
    assert Decimal(told) == value
    assert "E" not in told
    assert not told.startswith("-0") or "." in told
    with localcontext(EXACT):
        assert canonical_decimal(value * Decimal(1).scaleb(-zeros) * Decimal(10) ** zeros) == told
        assert canonical_decimal(value + Decimal("1E-70")) != told


ids = st.text(st.sampled_from("ab:ü\U0001f680'<"), min_size=1, max_size=4)
instants = st.datetimes(timezones=st.timezones()).filter(lambda one: 2 < one.year < 9998)


@many
@given(ids, ids, ids, instants, st.integers(-1439, 1439))
def test_invariant_11_an_id_depends_on_the_instant_and_not_on_its_zone(profile, trade, order, instant, minutes):
    told = instant.astimezone(timezone(timedelta(minutes=minutes)))
    assert canonical_time(told) == canonical_time(instant)
    assert backfill_order_id(profile, trade, order, told) == backfill_order_id(profile, trade, order, instant)
    later = backfill_order_id(profile, trade, order, instant + timedelta(microseconds=1))
    assert later != backfill_order_id(profile, trade, order, instant)


@many
@given(st.tuples(ids, ids, ids), st.tuples(ids, ids, ids))
def test_invariant_11_two_tuples_share_an_id_only_when_their_texts_are_the_same(one, other):
    when = at("10:00:00")
    same_text = identity_text(*one, when) == identity_text(*other, when)
    assert (backfill_order_id(*one, when) == backfill_order_id(*other, when)) == same_text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.decimals(-9, 9, places=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@some
@given(json_values)
def test_invariant_11_canonical_json_does_not_know_the_order_of_keys(value):
    def turned(inner):
        if isinstance(inner, dict):
            return {key: turned(inner[key]) for key in reversed(inner)}
        return [turned(each) for each in inner] if isinstance(inner, list) else inner

    assert canonical_json(turned(value)) == canonical_json(value)
    assert digest(turned(value)) == digest(value)


fees = st.sampled_from((None, Decimal("0.01"), Decimal("-0.1"), Decimal("1E-18")))
currencies = st.sampled_from(("ETH", "eth", "USD"))


@some
@given(
    st.lists(
        st.builds(fill, orders, sides, sizes, clocks, prices, symbol=symbols, fee=fees, fee_currency=currencies),
        max_size=8,
    ),
    st.integers(0, 2**30),
)
def test_invariant_9_units_hold_exactly_what_their_fills_held(fills, seed):
    """Quantities and fees add up in fractions, and the price lies between the lowest and the highest."""
    with localcontext(EXACT):
        units = build_units(fills)
        assert build_units(random.Random(seed).sample(fills, len(fills))) == units
    assert sum(Fraction(one.qty) for one in units) == sum(Fraction(one.qty) for one in fills)
    paid = sum(Fraction(fee) for one in units for _, fee in one.fees)
    assert paid == sum(Fraction(one.fee) for one in fills if one.fee is not None)
    for one in units:
        parts = [
            each
            for each in fills
            if (canonical_symbol(each.symbol), each.side, each.exchange_order_id, each.filled_at) == one.key
        ]
        mean = sum(Fraction(each.qty) * Fraction(each.price) for each in parts) / Fraction(one.qty)
        assert abs(Fraction(one.price) - mean) <= Fraction(1, 2 * 10**12)
        assert min(each.price for each in parts) - Decimal("1E-12") <= one.price
