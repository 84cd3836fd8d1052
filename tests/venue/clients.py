"""Unmodified clients of the loopback venue: only the hosts of their addresses are replaced."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import ccxt

from venue.server import VenueServer
from venue.wire import Keys


def rehost(urls: Any, url: str) -> Any:
    """The same addresses at another host: nested dicts and lists are walked, paths are kept."""
    if isinstance(urls, dict):
        return {key: rehost(value, url) for key, value in urls.items()}
    if isinstance(urls, list):
        return [rehost(value, url) for value in urls]
    return url + urlsplit(urls).path if isinstance(urls, str) else urls


def ccxt_client(name: str, server: VenueServer, *, keys: Keys | None = None, **config: Any) -> Any:
    """ccxt's exchange of this name (`alpaca`, `binance`, `binanceusdm`, `kraken`), pointed at the server.

    Its rate limiter is off, since nobody else uses the server; `config` is passed on.
    """
    keys = keys or server.keys
    client = getattr(ccxt, name)({"apiKey": keys.api_key, "secret": keys.secret, "enableRateLimit": False, **config})
    client.urls["api"] = rehost(client.urls["api"], server.url)
    return client


def alpaca_client(server: VenueServer, *, keys: Keys | None = None, **more: Any) -> Any:
    """Alpaca's own trading client, pointed at the server."""
    from alpaca.trading.client import TradingClient

    keys = keys or server.keys
    return TradingClient(keys.api_key, keys.secret, url_override=server.url, **more)
