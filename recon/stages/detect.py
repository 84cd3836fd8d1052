"""Detect: what is open, what disagrees with the exchange, and what recon will not repair (runbook section 1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from recon import batches, events
from recon.batches import Action
from recon.database import transaction
from recon.domain import Cell, Check, OrderRow, Snapshot, Stage, StageResult, Table, Verdict, Wanted
from recon.errors import ReconError
from recon.events import Mismatch
from recon.identity import canonical_symbol
from recon.lifecycles import build_lifecycles
from recon.orders import OpenLifecycle
from recon.plan import Facts, build_plan, market
from recon.stages.gather import gather, mismatches, net_positions, wanted
from recon.wording import count
from recon.workspace import Workspace, reflect


def detect(work: Workspace, profile_id: str, batch_id: str) -> StageResult:
    """Find the open lifecycles and everything that looks wrong; opens the batch and writes mismatch events.

    Needs neither the exchange nor the pause switch: without the exchange it is DONE all the same, and says that
    nothing was compared.
    """
    with transaction(work.engine, read_only=True) as connection:
        batches.load(connection, batch_id, profile_id).after(Action.DETECT)
        orders = reflect(connection, profile_id)
        begin = wanted(connection, orders, profile_id, work.exchange).begin
        asked = Wanted(tuple(orders.symbols(connection, profile_id)), begin)
        now = work.now(connection)
    snapshot, unread = _snapshot(work, profile_id, now, asked)
    fills = {canonical_symbol(fill.symbol) for fill in snapshot.fills} if snapshot else set()
    held = set(market(snapshot).positions or ())
    with transaction(work.engine, read_only=True, snapshot=True) as connection:
        orders = reflect(connection, profile_id)
        found = orders.lifecycles(connection, profile_id)
        booked = {canonical_symbol(one.symbol) for one in found}
        facts = gather(connection, orders, profile_id, snapshot, also=fills | held | booked)
        orphans = orders.exits_without_trade(connection, profile_id)
        spelled = orders.symbols(connection, profile_id)
    disagreeing = list(mismatches(net_positions(build_lifecycles(facts.rows).values()), snapshot).values())
    recorded = _record(work, profile_id, batch_id, disagreeing, now, unread)
    notes = [*(snapshot.notes if snapshot else [unread]), *_assumed(facts.rows, orders.naive_times)]
    tables = {
        "open_lifecycles": _lifecycles([one for one in found if one.is_open], facts),
        "mismatches": _mismatches(disagreeing, unread),
        "over_closed": _over_closed([one for one in found if one.open_qty < 0]),
        "exits_without_trade": _orphans(orphans),
        "symbol_spellings": _spellings(spelled),
        "unowned_fills": _unowned(facts, work, "" if snapshot else unread),
        "notes": Table("Notes", "Each line limits what this notebook can say.", ("note",), tuple((n,) for n in notes)),
    }
    return StageResult(
        Stage.DETECT,
        profile_id,
        batch_id,
        Verdict.DONE,
        checks=(
            Check("exchange_read", not unread, unread or "fills and positions were read"),
            recorded,
        ),
        counts={"OPEN": sum(one.is_open for one in found)} | ({} if unread else {"MISMATCH": len(disagreeing)}),
        message="the orders table was not compared with the exchange" if unread else None,
        tables=tables,
        facts={"positions_compared": int(not unread), "fills_compared": int(snapshot is not None)},
    )


def _record(
    work: Workspace, profile_id: str, batch_id: str, found: Sequence[Mismatch], now: datetime, unread: str
) -> Check:
    """Open the batch and write the events; a login that may only read leaves both, and says so."""
    with transaction(work.engine) as connection:
        if not events.may_record(connection):
            return Check(
                "events_recorded",
                False,
                "this login may only read: no mismatch event was written, and the batch was not opened",
            )
        batch = batches.open_batch(connection, batch_id, profile_id, actor=work.actor, now=now)
        throttle = timedelta(milliseconds=work.settings.exchange_state_mismatch_throttle_ms)
        written = events.record_events(connection, profile_id, batch_id, found, throttle=throttle, now=now)
        batches.save(connection, batch, actor=work.actor, now=now)
    if unread:
        return Check("events_recorded", True, "nothing was compared, so no event was written")
    told = f"{count(written, 'event')} written, {count(len(found), 'mismatch', 'mismatches')} found"
    return Check("events_recorded", True, told)


def _snapshot(work: Workspace, profile_id: str, now: datetime, asked: Wanted) -> tuple[Snapshot | None, str]:
    """What the exchange says, and why table and exchange cannot be compared, if they cannot."""
    try:
        snapshot = work.fetch(profile_id, now, asked)
    except ReconError as error:
        return None, f"The exchange was not read: {error.message}"
    if snapshot is None:
        return None, "No exchange is configured (RECON_EXCHANGE): nothing is compared with it."
    unread = "" if snapshot.positions is not None else "Positions are unknown: nothing is compared with the exchange."
    return snapshot, unread


def _assumed(rows: Iterable[OrderRow], naive_times: Sequence[str]) -> list[str]:
    assumed = sum(row.is_filled and row.filled_at_assumed for row in rows)
    notes = [f"filled_at is NULL on {count(assumed, 'filled row')}; created_at stands in."] if assumed else []
    if naive_times:
        notes.append(f"{', '.join(naive_times)} of orders are without time zone and are read as UTC.")
    return notes


def _lifecycles(still_open: Sequence[OpenLifecycle], facts: Facts) -> Table:
    known = build_lifecycles(facts.rows)
    rows: list[tuple[Cell, ...]] = []
    for one in still_open:
        lifecycle = known[one.symbol, one.trade_id]
        side = "long" if lifecycle.closing_side.value == "sell" else "short"
        begin = lifecycle.begin if lifecycle.entries else None
        rows.append((one.symbol, one.trade_id, side, begin, one.entry_qty, one.exit_qty, one.open_qty))
    return Table(
        "Open lifecycles",
        "Each row is a trade whose filled entries exceed its filled exits (runbook section 1); quantities in units of "
        "the symbol.",
        ("symbol", "trade_id", "direction", "began", "entry_qty", "exit_qty", "open_qty"),
        tuple(rows),
    )


def _mismatches(found: Sequence[Mismatch], unread: str) -> Table:
    rows = tuple((m.symbol, m.db_open_qty, m.exchange_qty) for m in found)
    return Table(
        "Where table and exchange disagree",
        f"Not compared. {unread}"
        if unread
        else "Signed net quantities, all spellings of a symbol together: what the table says is open, and what the "
        "exchange holds.",
        ("symbol", "orders", "exchange"),
        rows,
    )


def _over_closed(found: Sequence[OpenLifecycle]) -> Table:
    rows = tuple((one.symbol, one.trade_id, one.entry_qty, one.exit_qty, -one.open_qty) for one in found)
    return Table(
        "Over-closed lifecycles",
        "Trades with more exits than entries; recon never adds or removes a row here.",
        ("symbol", "trade_id", "entry_qty", "exit_qty", "over_closed_qty"),
        rows,
    )


def _orphans(found: Sequence[OrderRow]) -> Table:
    rows = tuple((row.order_id, row.symbol, row.quantity, row.price, row.filled_at) for row in found)
    return Table(
        "EXIT rows without a trade",
        "Filled exits that name no trade_id: they close nothing in the table, yet their fills are taken.",
        ("order_id", "symbol", "quantity", "price", "filled_at"),
        rows,
    )


def _spellings(spelled: Sequence[str]) -> Table:
    groups: dict[str, list[str]] = defaultdict(list)
    for symbol in spelled:
        groups[canonical_symbol(symbol)].append(symbol)
    rows = tuple((name, ", ".join(found)) for name, found in sorted(groups.items()) if len(found) > 1)
    return Table(
        "Symbols with several spellings",
        "They are one market to recon, and to the exchange; the table keeps them apart.",
        ("symbol", "spellings"),
        rows,
    )


def _unowned(facts: Facts, work: Workspace, unread: str) -> Table:
    plan = build_plan(facts, work.rules)
    rows = tuple(
        (unit.symbol, unit.side.value, unit.exchange_order_id, unit.filled_at, unit.qty, plan.ledger.left[key])
        for key, unit in plan.ledger.units.items()
        if plan.ledger.left[key] > 0
    )
    return Table(
        "Fills that nobody owns",
        f"Not compared. {unread}"
        if unread
        else "What is left of the exchange's fills after every row and every open trade took its share: manual orders, "
        "other bots, or trades that the table never saw.",
        ("symbol", "side", "exchange_order_id", "filled_at", "qty", "left"),
        rows,
    )
