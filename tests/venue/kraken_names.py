"""Kraken's names: assets with an X or Z before them, XBT for BTC, and three spellings of each pair."""

from __future__ import annotations

from venue.model import Market

_ALTERNATIVE = {"BTC": "XBT", "DOGE": "XDG"}
_CRYPTO = frozenset(("XBT", "XDG", "ETH", "LTC", "XRP", "XLM", "XMR", "ZEC", "ETC", "REP", "MLN"))
_FIAT = frozenset(("USD", "EUR", "GBP", "JPY", "CAD", "AUD"))
_SHORT_PAIRS = frozenset(("XDG",))
"""Assets whose pairs go by the short name although both assets have a long one."""


def altname(asset: str) -> str:
    """The short name of an asset: `XBT`, `USD`, `SOL`."""
    return _ALTERNATIVE.get(asset, asset)


def asset_id(asset: str) -> str:
    """The id of an asset: `XXBT`, `ZUSD`, `SOL`."""
    short = altname(asset)
    return "X" + short if short in _CRYPTO else "Z" + short if short in _FIAT else short


def pair_altname(market: Market) -> str:
    """The short name of a pair: `XBTUSD`."""
    return altname(market.base) + altname(market.quote)


def pair_id(market: Market) -> str:
    """The id of a pair: `XXBTZUSD` where both assets have a long name, else the short one."""
    base, quote = asset_id(market.base), asset_id(market.quote)
    long = base != altname(market.base) and quote != altname(market.quote) and altname(market.base) not in _SHORT_PAIRS
    return base + quote if long else pair_altname(market)


def wsname(market: Market) -> str:
    """The name with a slash: `XBT/USD`."""
    return f"{altname(market.base)}/{altname(market.quote)}"
