"""How a venue writes ids and times: the same scenario as each dialect would have recorded it.

A venue chooses the ids itself, and keeps times only so precisely. `spelled` replaces ids that the venue could not
have given by ones it could, the same ones every time, and cuts times to the venue's precision; what fits already
stays. Evidence read from a venue equals the statement of the spelled scenario.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from venue.model import ZERO, FeeActivity, Order, Scenario, Trade

Name = Literal["alpaca", "binance_spot", "binance_usdm", "kraken"]
"""The dialects."""

NAMES: tuple[Name, ...] = ("alpaca", "binance_spot", "binance_usdm", "kraken")

_SPACE = uuid.UUID("6b3c0f1e-6f7d-4f0b-9c7e-3f2f6c1c8a55")
_NEW_YORK = ZoneInfo("America/New_York")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ACTIVITY = re.compile(r"[0-9]{17}::" + _UUID.pattern)
_INTEGER = re.compile(r"[1-9][0-9]*")
_KRAKEN = re.compile(r"[A-Z0-9]{6}-[A-Z0-9]{5}-[A-Z0-9]{6}")
_RESOLUTION = {"alpaca": 1, "binance_spot": 1000, "binance_usdm": 1000, "kraken": 1}
_FORCED = {"liquidation": "autoclose-", "settlement": "settlement_autoclose-", "delivery": "settlement_autoclose-"}


def spelled(scenario: Scenario, name: Name) -> Scenario:
    """The scenario with ids and times as this dialect has them; spelling it twice changes nothing more.

    Alpaca tells no fee with a fill, so its fills have none; elsewhere an unknown fee is a fee of zero.
    """
    micro = _RESOLUTION[name]
    orders = [replace(row, created_at=_cut(row.created_at, micro)) for row in scenario.orders]
    trades = [replace(row, filled_at=_cut(row.filled_at, micro)) for row in scenario.trades]
    order_ids, trade_ids, fee_ids = _IDS[name](orders, trades, scenario.fees)
    return replace(
        scenario,
        orders=tuple(_respell_order(row, order_ids, name) for row in orders),
        trades=tuple(_respell_trade(row, order_ids, trade_ids[row.symbol, row.id], name) for row in trades),
        fees=tuple(replace(row, id=fee_ids[row.id]) for row in scenario.fees),
    )


def alpaca_uuid(text: str) -> str:
    """The UUID that stands for a text, always the same."""
    return text if _UUID.fullmatch(text) else str(uuid.uuid5(_SPACE, text))


def _cut(moment: datetime, micro: int) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=moment.microsecond // micro * micro)


def _respell_order(row: Order, ids: dict[str, str], name: Name) -> Order:
    client = row.client_order_id
    if name == "alpaca":
        client = client or alpaca_uuid(f"client {row.id}")
    elif name.startswith("binance"):
        client = _binance_client(row, ids[row.id], name)
    return replace(
        row,
        id=ids[row.id],
        client_order_id=client,
        replaces=row.replaces and ids.get(row.replaces, row.replaces),
        replaced_by=row.replaced_by and ids.get(row.replaced_by, row.replaced_by),
    )


def _binance_client(row: Order, number: str, name: Name) -> str:
    """The client id: the account's own, the one that the venue gives by itself, or the mark of a forced order."""
    if name == "binance_usdm" and row.kind == "adl":
        return "adl_autoclose"
    mark = _FORCED.get(row.kind, "") if name == "binance_usdm" else ""
    if mark and not (row.client_order_id or "").startswith(mark):
        return f"{mark}{int(row.created_at.timestamp() * 1000)}"
    return row.client_order_id or f"web_{number}"


def _respell_trade(row: Trade, order_ids: dict[str, str], trade_id: str, name: Name) -> Trade:
    if name == "alpaca":
        fee, currency = None, None
    else:
        fee, currency = row.fee or ZERO, row.fee_currency or row.symbol.partition("/")[2].split(":")[0]
    return replace(row, id=trade_id, order_id=order_ids[row.order_id], fee=fee, fee_currency=currency)


Ids = tuple[dict[str, str], dict[tuple[str, str], str], dict[str, str]]


def _alpaca_ids(orders: list[Order], trades: list[Trade], fees: Iterable[FeeActivity]) -> Ids:
    return (
        {row.id: alpaca_uuid(row.id) for row in orders},
        {(row.symbol, row.id): _activity(row.id, row.filled_at.astimezone(_NEW_YORK), row.symbol) for row in trades},
        {row.id: _activity(row.id, datetime(*row.day.timetuple()[:3], tzinfo=UTC), row.symbol) for row in fees},
    )


def _activity(text: str, moment: datetime, symbol: str) -> str:
    """The time to the millisecond, two colons and a UUID. The time of a fill is New York's, as documented."""
    if _ACTIVITY.fullmatch(text):
        return text
    return f"{moment:%Y%m%d%H%M%S}{moment.microsecond // 1000:03d}::{alpaca_uuid(f'{symbol} {text}')}"


def _binance_ids(orders: list[Order], trades: list[Trade], fees: Iterable[FeeActivity]) -> Ids:
    """Integers that grow with time: per account for orders, per symbol for trades; a dust trade has its order's."""
    numbers = _numbered([row.id for row in sorted(orders, key=lambda row: row.created_at)], 700_000)
    trade_ids: dict[tuple[str, str], str] = {}
    for symbol in {row.symbol for row in trades}:
        mine = sorted((row for row in trades if row.symbol == symbol), key=lambda row: row.filled_at)
        fills = _numbered([row.id for row in mine if row.kind != "dust"], 5_000)
        dust = {row.id: numbers[row.order_id] for row in mine if row.kind == "dust"}
        trade_ids |= {(symbol, old): new for old, new in (fills | dust).items()}
    return numbers, trade_ids, {row.id: row.id for row in fees}


def _numbered(ids: list[str], first: int) -> dict[str, str]:
    if all(_INTEGER.fullmatch(text) for text in ids):
        return {text: text for text in ids}
    return {text: str(first + index) for index, text in enumerate(ids)}


def _kraken_ids(orders: list[Order], trades: list[Trade], fees: Iterable[FeeActivity]) -> Ids:
    return (
        {row.id: kraken_id("O", row.id) for row in orders},
        {(row.symbol, row.id): kraken_id("T", row.id, row.symbol) for row in trades},
        {row.id: kraken_id("L", row.id) for row in fees},
    )


def kraken_id(letter: str, text: str, symbol: str = "") -> str:
    """The id that stands for a text, always the same: O for an order, T for a trade, L for a ledger entry."""
    if _KRAKEN.fullmatch(text) and text[0] == letter:
        return text
    digest = int.from_bytes(hashlib.sha256(f"{letter} {symbol} {text}".encode()).digest(), "big")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    code = letter + "".join(letters[digest >> (5 * place) & 31] for place in range(16))
    return f"{code[:6]}-{code[6:11]}-{code[11:17]}"


_IDS: dict[str, Callable[[list[Order], list[Trade], Iterable[FeeActivity]], Ids]] = {
    "alpaca": _alpaca_ids,
    "binance_spot": _binance_ids,
    "binance_usdm": _binance_ids,
    "kraken": _kraken_ids,
}
