"""Reading the facts of a plan from the database; nothing here writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from decimal import Decimal

from sqlalchemy.engine import Connection

from recon.audit import Mismatch
from recon.domain import Side, Snapshot
from recon.identity import canonical_symbol
from recon.lifecycles import Lifecycle
from recon.orders import Orders
from recon.plan import Facts, market


def gather(
    connection: Connection, orders: Orders, profile_id: str, snapshot: Snapshot | None, *, also: Collection[str] = ()
) -> Facts:
    """The rows of every symbol, in any spelling, that has an open lifecycle, of those trades elsewhere, and `also`.

    `also` are canonical symbols. Reads only.
    """
    still_open = [one for one in orders.lifecycles(connection, profile_id) if one.open_qty > 0]
    wanted = {canonical_symbol(one.symbol) for one in still_open} | set(also)
    spelled = [symbol for symbol in orders.symbols(connection, profile_id) if canonical_symbol(symbol) in wanted]
    rows = orders.rows(connection, profile_id, symbols=spelled, trade_ids={one.trade_id for one in still_open})
    return Facts(profile_id, rows, snapshot, orders.columns)


def net_positions(lifecycles: Collection[Lifecycle]) -> dict[str, Decimal]:
    """What the table says is held, signed, by canonical symbol: longs plus, shorts minus."""
    net: dict[str, Decimal] = defaultdict(Decimal)
    for lifecycle in lifecycles:
        sign = 1 if lifecycle.entry_side is Side.BUY else -1
        net[canonical_symbol(lifecycle.symbol)] += sign * lifecycle.open_qty
    return net


def mismatches(net: dict[str, Decimal], snapshot: Snapshot | None) -> list[Mismatch]:
    """The symbols on which table and exchange disagree, by name; none when positions are unknown.

    Legs that cancel out are still held, so a flat table against them is a mismatch.
    """
    positions = market(snapshot).positions
    if positions is None:
        return []
    found = []
    for symbol in sorted(set(net) | set(positions)):
        legs = [leg.qty for leg in positions.get(symbol, ()) if leg.qty]
        held, booked = sum(legs, Decimal(0)), net.get(symbol, Decimal(0))
        if held != booked or (legs and not held):
            found.append(Mismatch(symbol, booked, held))
    return found
