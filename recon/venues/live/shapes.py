"""Where in a venue's answer the entries lie: ccxt takes an answer without them for an empty one, which reads as flat.

Entry point: `check_shape`. Invariant 10: an answer of another shape is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EVERYWHERE = "*"
"""Stands for every call of a venue that is not named."""

SHAPES: Mapping[str, Mapping[str, str]] = {
    "alpaca": {EVERYWHERE: ""},
    "binance": {EVERYWHERE: "", "fetch_balance": "balances|userAssets"},
    "binanceusdm": {EVERYWHERE: ""},
    "bybit": {EVERYWHERE: "result.list"},
    "coinbase": {"fetch_my_trades": "fills", "fetch_open_orders": "orders", "fetch_balance": "accounts|data"},
    "hyperliquid": {EVERYWHERE: "", "fetch_positions": "assetPositions"},
    "kraken": {
        "fetch_my_trades": "result.trades",
        "fetch_ledger": "result.ledger",
        "fetch_open_orders": "result.open",
        "fetch_orders_by_ids": "result",
        "fetch_balance": "result",
        "fetch_positions": "result",
    },
    "okx": {EVERYWHERE: "data"},
}
"""By venue and call the keys that lead to the list of entries (at Kraken an object), or several such ways."""

CHECKED = frozenset(
    {"fetch_my_trades", "fetch_ledger", "fetch_orders", "fetch_orders_by_ids", "fetch_open_orders", "fetch_balance",
     "fetch_positions"}
)  # fmt: skip
"""Calls whose answer is a list of entries."""


def check_shape(venue: str, method: str, answer: Any) -> None:
    """Raise `LookupError` when the answer does not hold what its venue promises, or only a part of it."""
    ways = SHAPES.get(venue, {})
    way = ways.get(method, ways.get(EVERYWHERE))
    if way is None or method not in CHECKED:
        return
    if not any(_leads(answer, one.split(".") if one else []) for one in way.split("|")):
        raise LookupError(way)
    if isinstance(answer, Mapping) and answer.get("has_next") is True and method == "fetch_balance":
        raise LookupError("more balances than one answer holds")


def _leads(answer: Any, keys: list[str]) -> bool:
    for key in keys:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return isinstance(answer, list) or (isinstance(answer, Mapping) and bool(keys))
