"""Is the account flat? Every leg, balance and debt by itself, from the venue's own answer where ccxt drops some.

Entry points: `read_legs`, `read_open_orders`. Unknown is never flat (invariant 10): a symbol whose market or asset is
not known becomes a `Doubt`. Rules: rules.md 7, exchange_not_flat and exchange_position_unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from recon.domain import Doubt, OpenOrder, Position, Reason, Side
from recon.errors import Refused
from recon.identity import canonical_decimal
from recon.venues.live.client import ReadOnlyVenue
from recon.venues.live.markets import Market, Markets
from recon.venues.live.orders import Orders
from recon.venues.live.pages import instant
from recon.venues.live.styles import Known
from recon.venues.live.trades import contract_size

SHORT = frozenset({"short", "sell"})
"""How venues say that an unsigned quantity is a short one."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the account holds on the symbols asked for, and sentences about what counted as flat."""

    legs: tuple[Position, ...]
    doubts: tuple[Doubt, ...]
    notes: tuple[str, ...]


def read_legs(venue: ReadOnlyVenue, known: Known, markets: Markets) -> Holdings:
    """Every leg that is not flat. Raises `Refused` (evidence_unreadable) when the venue does not tell in full."""
    if venue.market in ("spot", "margin"):
        return _spot(venue, known, markets)
    if not venue.can("fetchPositions"):
        raise Refused("evidence_unreadable", f"{venue.name} has no way to read positions.")
    return Holdings(tuple(_contracts(venue, known, markets)), _unlisted(venue, markets), ())


def _unlisted(venue: ReadOnlyVenue, markets: Markets) -> tuple[Doubt, ...]:
    """A symbol without a market: an asset may go by another name once it is delisted, so its balance proves nothing."""
    said = f"{venue.name} lists no market, or several, for it; it may be delisted or spelled another way"
    return tuple(Doubt(symbol, Reason.EXCHANGE_POSITION_UNKNOWN, said) for symbol in markets.unknown)


def _contracts(venue: ReadOnlyVenue, known: Known, markets: Markets) -> Iterator[Position]:
    """Legs as the raw answer has them, else as ccxt parsed them; ccxt leaves out those without an entry price."""
    asked: Sequence[str | None] = [None]
    if known.apart:
        asked = sorted({market["symbol"] for market in markets.by_symbol.values()})
    for symbol in asked:
        parsed = venue.read("fetch_positions", symbol and [symbol])
        raw = [] if known.legs is None else list(_raw_legs(venue.last_answer, *known.legs))
        for identifier, qty in raw:
            if qty:
                yield Position(markets.of_id(identifier), qty * _size(venue, identifier))
        for leg in () if raw else parsed:
            size = Decimal(str(leg.get("contracts") or 0)) * Decimal(str(leg.get("contractSize") or 1))
            if size:
                yield Position(markets.spelled(leg["symbol"]), -size if leg.get("side") == "short" else size)


def _size(venue: ReadOnlyVenue, identifier: str) -> Decimal:
    market = next((market for market in venue.markets.values() if market["id"] == identifier), None)
    return contract_size(market) if market and market.get("contractSize") else Decimal(1)


def _raw_legs(answer: Any, name: str, amount: str) -> Iterator[tuple[str, Decimal]]:
    """Every object of the answer that has both fields: a market's id and its signed quantity."""
    if isinstance(answer, list):
        for entry in answer:
            yield from _raw_legs(entry, name, amount)
    elif isinstance(answer, Mapping):
        if name in answer and amount in answer:
            qty = Decimal(str(answer[amount]))
            sides = {str(answer.get(key, "")).lower() for key in ("side", "positionSide", "posSide")}
            yield str(answer[name]), -abs(qty) if sides & SHORT else qty
        for entry in answer.values():
            yield from _raw_legs(entry, name, amount)


def _spot(venue: ReadOnlyVenue, known: Known, markets: Markets) -> Holdings:
    balances = venue.read("fetch_balance")
    owed = _credit(venue, balances)
    legs: list[Position] = []
    notes: list[str] = []
    for symbol, market in markets.by_symbol.items():
        held, debt = _held(balances, market["base"])
        debt += owed.get(market["base"], Decimal(0))
        least = _minimum(market)
        if 0 < held <= least:
            notes.append(
                f"{canonical_decimal(held)} {market['base']} count as flat: the venue's minimum amount on {symbol} is "
                f"{canonical_decimal(least)}."
            )
        elif held:
            legs.append(Position(symbol, held))
        if debt:
            legs.append(Position(symbol, -debt))
    legs += _on_margin(venue, markets) if known.margin else ()
    return Holdings(tuple(legs), _unlisted(venue, markets), tuple(notes))


def _held(balances: Mapping[str, Any], asset: str) -> tuple[Decimal, Decimal]:
    """What is held and owed of an asset, also under names with a suffix: at Kraken XBT.F is XBT that earns."""
    parts = [_balance(one) for name, one in balances.items() if name == asset or name.startswith(f"{asset}.")]
    return sum((held for held, _ in parts), Decimal(0)), sum((debt for _, debt in parts), Decimal(0))


def _balance(account: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    """What is held of an asset, free or not, and what is owed, interest included."""
    known = {name: Decimal(str(account[name])) for name in ("free", "used", "total", "debt") if account.get(name)}
    parts = known.get("free", Decimal(0)) + known.get("used", Decimal(0))
    return max(known.get("total", Decimal(0)), parts, key=abs), known.get("debt", Decimal(0))


def _credit(venue: ReadOnlyVenue, balances: Mapping[str, Any]) -> dict[str, Decimal]:
    """What is owed of each asset at Kraken, `credit_used`, which ccxt leaves out."""
    told = balances["info"].get("result") if venue.name == "kraken" else None
    owed: dict[str, Decimal] = defaultdict(Decimal)
    for name, one in (told or {}).items():
        owed[venue.asset(name).partition(".")[0]] += Decimal(str(one.get("credit_used") or 0))
    return owed


def _minimum(market: Market) -> Decimal:
    limits = (market.get("limits") or {}).get("amount") or {}
    return Decimal(str(limits.get("min") or 0))


def _on_margin(venue: ReadOnlyVenue, markets: Markets) -> Iterator[Position]:
    """Kraken: positions on margin stand beside the balances, one entry each."""
    for leg in venue.read("fetch_positions"):
        info = leg["info"]
        left = Decimal(str(info["vol"])) - Decimal(str(info.get("vol_closed") or 0))
        if left:
            yield Position(markets.spelled(leg["symbol"]), -left if info["type"] == "sell" else left)


def read_open_orders(venue: ReadOnlyVenue, known: Known, markets: Markets) -> tuple[OpenOrder, ...]:
    """The orders that the venue still works, on any symbol. Raises `Refused` when they cannot be read in full."""
    asked: Iterable[str | None] = [None]
    if known.apart or venue.feature("fetchOpenOrders", "symbolRequired"):
        asked = sorted({market["symbol"] for market in markets.by_symbol.values()})
    orders = [order for symbol in asked for order in _working(venue, known, symbol)]
    return tuple(
        sorted((_order(order, markets) for order in orders), key=lambda one: (one.exchange_order_id, one.symbol))
    )


def _working(venue: ReadOnlyVenue, known: Known, symbol: str | None) -> Sequence[Mapping[str, Any]]:
    """One answer must hold them all: shorter than the venue's limit, and the same whichever end is told first."""
    limit = venue.feature("fetchOpenOrders", "limit")
    found: Sequence[Mapping[str, Any]] = venue.read("fetch_open_orders", symbol, None, limit)
    again = found
    if known.orders is Orders.BY_TIME:
        again = venue.read("fetch_open_orders", symbol, None, limit, params={"direction": "asc"})
    if (limit and len(found) >= limit) or {order["id"] for order in found} != {order["id"] for order in again}:
        raise Refused(
            "evidence_unreadable", f"{venue.name} lists {len(found)} open orders, which may not be all of them."
        )
    if known.conditional and venue.market in ("swap", "future"):
        found = [*found, *venue.read("fetch_open_orders", symbol, None, limit, params={"trigger": True})]
    return found


def _order(order: Mapping[str, Any], markets: Markets) -> OpenOrder:
    try:
        return OpenOrder(
            exchange_order_id=str(order["id"]),
            client_order_id=order.get("clientOrderId") or None,
            symbol=markets.spelled(order["symbol"]),
            side=Side(order["side"]),
            qty=Decimal(str(order["amount"])),
            filled_qty=Decimal(str(order.get("filled") or 0)),
            created_at=instant(order),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Refused("evidence_unreadable", f"An open order cannot be read ({type(error).__name__}).") from None
