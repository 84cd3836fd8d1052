"""The orders behind fills: client order ids and replacements, which most venues tell with the orders alone.

Entry point: `read_orders`. Every order that a fill names is asked for, however old it is, and so is every order that
one of those replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import islice
from typing import Any

from recon.domain import Window
from recon.errors import Refused
from recon.venues.live.client import ReadOnlyVenue
from recon.venues.live.pages import Cursor, Style, Trade, read_all

Order = Mapping[str, Any]
"""An order as ccxt gives it: `id`, `clientOrderId`, `timestamp`, and of the venue's own fields `info["replaces"]`."""

PAGE = 500
"""Orders of one page, where a venue has pages of them."""

AT_ONCE = 20
"""Orders that may be asked for by id in one question."""


class Orders(Enum):
    """How a venue tells the orders behind fills."""

    BY_TIME = "a span of time, and one by one"
    FROM_ID = "all of a symbol from an id on"
    BY_IDS = "some at once by their ids"


@dataclass(frozen=True, slots=True)
class OrdersRead:
    """Orders by id; `replaced` names, for an order, the one whose place it took; `missing` are no longer told."""

    orders: Mapping[str, Order]
    replaced: Mapping[str, str]
    missing: frozenset[str]

    def client_id(self, order: str) -> str | None:
        """The client order id of an order, if it has one that is told."""
        said = self.orders.get(order, {}).get("clientOrderId")
        return str(said) if said else None


NO_ORDERS = OrdersRead({}, {}, frozenset())


def read_orders(venue: ReadOnlyVenue, way: Orders, span: Window, fills: Iterable[Trade]) -> OrdersRead:
    """The orders of these fills. Raises `Refused` (evidence_unreadable)."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for fill in fills:
        if fill.get("order"):
            wanted[fill["symbol"]].add(str(fill["order"]))
    if not wanted:
        return NO_ORDERS
    every = set().union(*wanted.values())
    replaced: dict[str, str] = {}
    if way is Orders.BY_TIME:
        found = _by_time(venue, span)
        replaced = _ancestors(every, found, lambda order: venue.read("fetch_order", order))
    elif way is Orders.FROM_ID:
        found = {key: one for symbol, ids in sorted(wanted.items()) for key, one in _from_id(venue, symbol, ids)}
    else:
        found = _by_ids(venue, every)
    return OrdersRead({key: found[key] for key in every & found.keys()}, replaced, frozenset(every - found.keys()))


def _by_time(venue: ReadOnlyVenue, span: Window) -> dict[str, Order]:
    """The orders made in the span, many at a time. One that is left out is asked for by itself."""

    def ask(since: int | None, until: int | None, _: Cursor) -> Sequence[Order]:
        page: Sequence[Order] = venue.read("fetch_orders", None, since, PAGE, params={"until": until})
        return page

    read = read_all(ask, Style(limit=PAGE), span, None, lambda: datetime.now(UTC), _kept)
    return {str(order["id"]): order for order in read.trades}


def _ancestors(wanted: set[str], found: dict[str, Order], ask: Callable[[str], Order]) -> dict[str, str]:
    """What each wanted order replaced, and what that replaced; adds orders that are missing to `found`."""
    replaced: dict[str, str] = {}
    left = sorted(wanted)
    while left:
        order = left.pop()
        if order not in found:
            found[order] = _kept(ask(order))
        before = found[order]["info"].get("replaces")
        if before and order not in replaced:
            replaced[order] = str(before)
            left.append(str(before))
    return replaced


def _from_id(venue: ReadOnlyVenue, symbol: str, wanted: set[str]) -> Iterable[tuple[str, Order]]:
    """The wanted orders of the symbol, from all between the first and the last of them, page by page."""
    first, last = min(map(int, wanted)), max(map(int, wanted))
    while first <= last:
        page = venue.read("fetch_orders", symbol, None, PAGE, params={"orderId": first})
        ids = [int(order["id"]) for order in page]
        if ids and min(ids) < first:
            raise Refused("evidence_unreadable", f"{venue.name} does not get past order {first} of {symbol}.")
        yield from ((str(order["id"]), _kept(order)) for order in page if str(order["id"]) in wanted)
        first = max(ids, default=last) + 1


def _by_ids(venue: ReadOnlyVenue, wanted: set[str]) -> dict[str, Order]:
    found: dict[str, Order] = {}
    left = iter(sorted(wanted))
    while some := list(islice(left, AT_ONCE)):
        answered = {str(order["id"]): order for order in venue.read("fetch_orders_by_ids", some)}
        if answered.keys() - set(some):
            raise Refused("evidence_unreadable", f"{venue.name} answers with other orders than it was asked for.")
        found |= {key: _kept(order) for key, order in answered.items()}
    return found


def _kept(order: Order) -> Order:
    """The order without what nobody looks at."""
    kept = {name: order.get(name) for name in ("id", "order", "timestamp", "clientOrderId")}
    return {**kept, "info": {"replaces": order["info"].get("replaces")}}
