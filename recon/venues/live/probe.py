"""What can be said of a live venue before it is needed: markets, clock, keys, one page of fills. Nothing is changed.

Entry point: `probe`, for `recon doctor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recon.domain import Check
from recon.errors import ReconError
from recon.venues.live.client import Access, ReadOnlyVenue, connect
from recon.venues.live.styles import by_symbol, style

KEY_INFO: Mapping[str, tuple[str, Callable[[Any], list[str]]]] = {
    "binance": ("GET sapi account/apiRestrictions", lambda told: _granted(told)),
    "binanceusdm": ("GET sapi account/apiRestrictions", lambda told: _granted(told)),
    "kraken": ("POST private GetApiKeyInfo", lambda told: _not_queries(told["result"]["permissions"])),
    "bybit": ("GET private v5/user/query-api", lambda told: [] if told["result"]["readOnly"] == 1 else ["trade"]),
}
"""Where a venue tells what its keys may do, and what of that is more than reading."""


def probe(access: Access) -> Iterator[Check]:
    """Checks in the order in which they depend on each other; the first that fails ends them. Reads only."""
    venue = connect(access)
    for name, ask in (("markets", _markets), ("keys", _keys), ("fills", _fills)):
        try:
            yield Check(f"exchange_{name}", True, ask(venue))
        except ReconError as error:
            yield Check(f"exchange_{name}", False, f"{error.code}: {error.message}")
            return


def _markets(venue: ReadOnlyVenue) -> str:
    venue.load()
    ahead = -venue.time_difference
    clock = f"its clock is {abs(ahead)} ms {'ahead of' if ahead > 0 else 'behind'} ours, and allowed for"
    return f"{venue.name} lists {len(venue.markets)} {venue.market} markets; {clock}"


def _keys(venue: ReadOnlyVenue) -> str:
    if venue.name not in KEY_INFO:
        return f"{venue.name} does not tell what the keys may do; make them read-only there"
    endpoint, more = KEY_INFO[venue.name]
    granted = more(venue.raw(endpoint, {}))
    if not granted:
        return "valid, and allowed to read alone"
    return f"valid, but also allowed: {', '.join(granted)}. recon only reads; a read-only key would do"


def _fills(venue: ReadOnlyVenue) -> str:
    this = style(venue)
    symbol = next(iter(sorted(venue.markets)), None) if by_symbol(venue) else None
    page = venue.read("fetch_my_trades", symbol, None, this.limit, params=this.params)
    where = f" of {symbol}" if symbol else ""
    return f"the latest page{where} holds {len(page)} fills"


def _granted(told: Mapping[str, Any]) -> list[str]:
    """Binance: every permission but reading that is switched on."""
    return sorted(name for name, on in told.items() if on is True and name not in ("enableReading", "ipRestrict"))


def _not_queries(permissions: list[str]) -> list[str]:
    return sorted(name for name in permissions if not name.startswith(("query-", "export-")))
