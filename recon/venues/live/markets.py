"""Which market of the venue a symbol of the table means: BTC/USD, BTCUSD, BTC-USD, XBT/USD and BTC/USDT:USDT alike.

Entry point: `Markets`. A market answers to its own id, to ccxt's symbol with and without the settling asset, and to
every name that the venue has for its base; all are compared as rules.md 3 compares symbols.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from recon.errors import Refused
from recon.identity import canonical_symbol
from recon.venues.live.client import ReadOnlyVenue

Market = Mapping[str, Any]
"""A market as ccxt gives it: `id`, `symbol`, `base`, `quote`, `limits`, `contractSize`."""


class Markets:
    """The venue's markets by every name they answer to, and the symbols of the table that they serve.

    `by_symbol` maps each symbol of the table to its market, `traded` are those whose fills matter; `unknown` are those
    that no market, or more than one, answers to. `ambiguous` are those that are not one symbol by rules.md 3, and yet
    share a market: nobody can say to which of them a fill belongs.
    """

    def __init__(self, venue: ReadOnlyVenue, traded: Iterable[str], also: Iterable[str] = ()) -> None:
        """Find the market of each symbol, be it traded or not."""
        self.traded = tuple(traded)
        symbols = dict.fromkeys((*self.traded, *filter(None, also)))
        named: dict[str, list[Market]] = defaultdict(list)
        for market in venue.markets.values():
            for name in names(venue, market):
                named[name].append(market)
        found = {symbol: _one(symbol, named.get(canonical_symbol(symbol), ())) for symbol in symbols}
        self.by_symbol: dict[str, Market] = {symbol: market for symbol, market in found.items() if market is not None}
        self.unknown = tuple(symbol for symbol, market in found.items() if market is None)
        self.ambiguous = _ambiguous(self.by_symbol)
        self._named = named
        self._spelled = {market["symbol"]: symbol for symbol, market in sorted(self.by_symbol.items(), reverse=True)}
        self._by_id = {market["id"]: market["symbol"] for market in venue.every.values()}
        based = {market["baseName"]: market["symbol"] for market in venue.markets.values() if market.get("baseName")}
        self._by_id |= based
        self._named_by_base = bool(based)

    def spelled(self, symbol: str) -> str:
        """The table's spelling of a ccxt symbol; the symbol itself when the table has none."""
        return self._spelled.get(symbol, symbol)

    def named(self, name: str) -> Market | None:
        """The market that a venue's own name means; None when none does, or several do."""
        return _one(name, self._named.get(canonical_symbol(name), ()))

    def of_id(self, identifier: str) -> str:
        """The table's spelling of a market's own id, or of its base where legs are named by that; else the id itself.

        Raises `Refused` (evidence_unreadable) for an unknown base: it could be that of any market.
        """
        if identifier not in self._by_id and self._named_by_base:
            raise Refused("evidence_unreadable", f"The account holds {identifier}, and no market has such a base.")
        return self.spelled(self._by_id.get(identifier, identifier))

    def spellings(self) -> dict[str, tuple[str, ...]]:
        """For each symbol of the table the other names of its market."""
        return {
            symbol: tuple(sorted({market["id"], market["symbol"]} - {symbol}))
            for symbol, market in sorted(self.by_symbol.items())
        }


def names(venue: ReadOnlyVenue, market: Market) -> frozenset[str]:
    """Every name that the market answers to, in canonical form."""
    bases = (market["base"], market["baseId"], *venue.aliases(market["base"]))
    quotes = (market["quote"], market["quoteId"])
    joined = {f"{base}{quote}" for base in bases for quote in quotes if base and quote}
    return frozenset(map(canonical_symbol, {market["id"], market["symbol"], *joined}))


def _ambiguous(by_symbol: Mapping[str, Market]) -> dict[str, tuple[str, ...]]:
    """For each symbol the others that share its market."""
    on: dict[str, list[str]] = defaultdict(list)
    for symbol, market in by_symbol.items():
        on[market["symbol"]].append(symbol)
    return {
        symbol: others
        for symbol, market in by_symbol.items()
        if (others := tuple(o for o in on[market["symbol"]] if canonical_symbol(o) != canonical_symbol(symbol)))
    }


def _one(symbol: str, found: Iterable[Market]) -> Market | None:
    """The only market, or the only one that is exactly so spelled, or traded."""
    candidates = list(found)
    for narrower in (
        lambda market: True,
        lambda market: symbol in (market["symbol"], market["id"]),
        lambda market: market.get("active"),
    ):
        kept = [market for market in candidates if narrower(market)]
        if len(kept) == 1:
            return kept[0]
    return None
