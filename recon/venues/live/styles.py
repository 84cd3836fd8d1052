"""What recon knows of each venue beyond ccxt: how its fills are paged, and where ccxt is silent or drops something.

Everything else comes from ccxt's own tables (`capabilities` shows both side by side). A venue that is not here is
refused: nobody has shown that its pages can be read to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from recon.errors import UsageError
from recon.venues.live import pages
from recon.venues.live.client import ReadOnlyVenue
from recon.venues.live.orders import Orders
from recon.venues.live.pages import Style


class Fees(Enum):
    """Where a venue tells fees that are not, or not rightly, on its fills."""

    ACTIVITIES = "activities of their own, at the end of the day"
    LEDGER = "the ledger, by fill"


@dataclass(frozen=True, slots=True)
class Known:
    """One venue: its cursor, the page size where ccxt names none, fixed parameters, and where its raw legs lie.

    `legs` names the fields of a raw position that hold its market's id and its signed quantity, read besides what ccxt
    parses because ccxt drops some; `apart` says that, asked for all legs or open orders at once, the venue leaves out
    those that settle in another asset. `most` is how many fills, the latest, it tells at all. `orders` says how to ask
    for what comes with the orders alone: client order ids, replacements, and who ordered. `dust` says that the venue
    tells dust conversions apart, `margin` that a spot account may hold positions on margin, `conditional` that open
    orders on contracts which wait for a price are listed apart, `whole` that fills come for the whole account though
    ccxt wants a symbol.
    """

    cursor: Callable[..., Any] | None
    limit: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    legs: tuple[str, str] | None = None
    apart: bool = False
    most: int | None = None
    orders: Orders | None = None
    fees: Fees | None = None
    dust: bool = False
    margin: bool = False
    conditional: bool = False
    whole: bool = False


KNOWN: Mapping[str, Known] = {
    "alpaca": Known(pages.page_token, params={"direction": "asc"}, orders=Orders.BY_TIME, fees=Fees.ACTIVITIES),
    "binance": Known(pages.from_id, alone=True, legs=("symbol", "positionAmt"), orders=Orders.FROM_ID, dust=True),
    "binanceusdm": Known(
        pages.from_id, alone=True, legs=("symbol", "positionAmt"), orders=Orders.FROM_ID, conditional=True
    ),
    "bybit": Known(pages.bybit_cursor, legs=("symbol", "size"), apart=True),
    "coinbase": Known(pages.coinbase_cursor),
    "hyperliquid": Known(None, legs=("coin", "szi"), whole=True, most=10_000),
    "kraken": Known(pages.offset, limit=50, orders=Orders.BY_IDS, fees=Fees.LEDGER, margin=True),
    "okx": Known(pages.bill, limit=100, legs=("instId", "pos")),
}
"""Venues whose pages can be read to the end."""


def known(venue: ReadOnlyVenue) -> Known:
    """What recon knows of the venue. Raises `UsageError` (exchange_unknown)."""
    if venue.name not in KNOWN:
        raise UsageError(
            "exchange_unknown",
            f"How {venue.name} pages its fills has not been shown to be complete; expected one of "
            f"{', '.join(KNOWN)}. Use a statement of that account instead.",
        )
    return KNOWN[venue.name]


def by_symbol(venue: ReadOnlyVenue) -> bool:
    """Whether fills have to be asked for market by market."""
    return bool(venue.feature("fetchMyTrades", "symbolRequired")) and not known(venue).whole


def style(venue: ReadOnlyVenue) -> Style:
    """How the venue's fills are paged: limits from ccxt's table of features, the cursor from here."""
    this = known(venue)
    piece, reach = (venue.feature("fetchMyTrades", name) for name in ("untilDays", "daysBack"))
    limit = this.limit or venue.feature("fetchMyTrades", "limit")
    if limit is None:
        raise UsageError(
            "exchange_unknown", f"{venue.name} has no {venue.market} account. Correct RECON_EXCHANGE_MARKET."
        )
    return Style(
        limit=int(limit),
        piece=timedelta(days=piece) if piece else None,
        cursor=this.cursor,
        params=this.params,
        reach=timedelta(days=reach) if reach else None,
        alone=this.alone,
    )
