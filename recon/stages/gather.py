"""Reading the facts of a plan from the database; nothing here writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.engine import Connection

from recon.domain import Side, Snapshot, Wanted
from recon.events import Mismatch
from recon.identity import canonical_symbol
from recon.lifecycles import Lifecycle, build_lifecycles
from recon.orders import Orders
from recon.plan import Facts, market
from recon.venues import Exchange


def wanted(connection: Connection, orders: Orders, profile_id: str, exchange: Exchange | None) -> Wanted:
    """What a live venue is asked for: all symbols, those of the open lifecycles, and their earliest beginning.

    Other sources hold everything already, and want nothing. Reads only.
    """
    if exchange is None or not exchange.live:
        return Wanted()
    facts = gather(connection, orders, profile_id, None)
    still_open = [one for one in build_lifecycles(facts.rows).values() if one.is_open]
    return Wanted(
        tuple(sorted({one.symbol for one in still_open})),
        min((one.begin for one in still_open), default=None),
        also=tuple(orders.symbols(connection, profile_id)),
    )


def gather(
    connection: Connection, orders: Orders, profile_id: str, snapshot: Snapshot | None, *, also: Collection[str] = ()
) -> Facts:
    """The rows of every symbol, in any spelling, that has an open lifecycle, of those trades elsewhere, and `also`.

    `also` are canonical symbols. Rows without a symbol come too: they may name an exchange order. Reads only.
    """
    still_open = [one for one in orders.lifecycles(connection, profile_id) if one.is_open]
    wanted = {canonical_symbol(one.symbol) for one in still_open} | {""} | set(also)
    spelled = [symbol for symbol in orders.symbols(connection, profile_id) if canonical_symbol(symbol) in wanted]
    rows = orders.rows(connection, profile_id, symbols=spelled, trade_ids={one.trade_id for one in still_open})
    return Facts(profile_id, rows, snapshot, orders.columns)


@dataclass(frozen=True, slots=True)
class Booked:
    """What the table says is held of one symbol: signed, longs plus and shorts minus, under its own spelling."""

    symbol: str
    qty: Decimal


def net_positions(lifecycles: Collection[Lifecycle]) -> dict[str, Booked]:
    """What the table says is held, by canonical symbol; of several spellings the first is shown."""
    net: dict[str, Booked] = {}
    for lifecycle in sorted(lifecycles, key=lambda one: one.symbol.encode()):
        sign = 1 if lifecycle.entry_side is Side.BUY else -1
        booked = net.get(canonical_symbol(lifecycle.symbol), Booked(lifecycle.symbol, Decimal(0)))
        net[canonical_symbol(lifecycle.symbol)] = Booked(booked.symbol, booked.qty + sign * lifecycle.open_qty)
    return net


def mismatches(net: Mapping[str, Booked], snapshot: Snapshot | None) -> dict[str, Mismatch]:
    """The canonical symbols on which table and exchange disagree; none when positions are unknown.

    Legs that cancel out are still held, so a flat table against them is a mismatch.
    """
    positions = market(snapshot).positions
    if positions is None:
        return {}
    found = {}
    for symbol in sorted(set(net) | set(positions)):
        legs = [leg.qty for leg in positions.get(symbol, ()) if leg.qty]
        held = sum(legs, Decimal(0))
        if snapshot is not None and snapshot.asked is not None and symbol not in snapshot.asked:
            continue
        booked = net[symbol] if symbol in net else Booked(positions[symbol][0].symbol, Decimal(0))
        if held != booked.qty or (legs and not held):
            found[symbol] = Mismatch(booked.symbol, booked.qty, held)
    return found
