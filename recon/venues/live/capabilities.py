"""What each known venue can deliver, from ccxt's own tables, held against what recon needs.

`python -m recon.venues.live.capabilities` prints the table of the README. Asks nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from recon.venues.live.client import Access, connect
from recon.venues.live.orders import Orders
from recon.venues.live.styles import KNOWN, by_symbol, known, style

HEAD = (
    "venue", "market", "fills", "a page", "one question spans", "goes back", "positions", "open orders",
    "read apart from fills",
)  # fmt: skip
"""Columns of the table."""


def capabilities(name: str) -> tuple[str, ...]:
    """One row: what ccxt says of the venue's default market, and how recon reads it."""
    venue = connect(Access(name))
    this, paged = known(venue), style(venue)
    spot = venue.market == "spot"
    apart = {
        "client order ids": this.orders is not None,
        "replacements": this.orders is Orders.BY_TIME,
        "base fees": this.fees is not None,
        "dust conversions": this.dust and spot,
        "margin positions": this.margin,
    }
    needed = ("fetchMyTrades", "fetchOpenOrders", "fetchBalance" if spot else "fetchPositions")
    lacking = [method for method in needed if not venue.can(method)]
    return (
        f"`{name}`" + (f" (lacks {', '.join(lacking)})" if lacking else ""),
        venue.market,
        "by symbol" if by_symbol(venue) else "whole account",
        f"{paged.limit}{', by cursor' if paged.cursor else ', by time'}",
        f"{paged.piece.days * 24} hours" if paged.piece and paged.piece.days < 10_000 else "any",
        f"{paged.reach.days} days" if paged.reach and paged.reach.days < 10_000 else "as the venue tells",
        "balances" if spot else "legs, also those ccxt drops" if this.legs else "legs",
        "per symbol" if this.apart or venue.feature("fetchOpenOrders", "symbolRequired") else "all at once",
        ", ".join(what for what, is_so in apart.items() if is_so) or "nothing",
    )


def lines() -> Iterator[str]:
    """The table in Markdown."""
    yield f"| {' | '.join(HEAD)} |"
    yield "|" + "---|" * len(HEAD)
    for name in sorted(KNOWN):
        yield f"| {' | '.join(capabilities(name))} |"


if __name__ == "__main__":
    print("\n".join(lines()))  # noqa: T201 - that is what it is for
