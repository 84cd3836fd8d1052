"""The exchange's statement of the demo account in the format that `recon.venues.statement` reads."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from recon.demo.book import Booked, Order, Piece
from recon.demo.clock import DEMO_NOW, DEMO_PROFILE, DEMO_START
from recon.demo.orders import demo_orders
from recon.domain import Fill, OpenOrder, Position, Side
from recon.identity import base_asset, canonical_decimal, canonical_time

FEE_RATE = Decimal("0.0025")
"""What the venue takes of every fill."""

FEE_STEP = Decimal("0.000001")
"""What a fee in USD is rounded to."""

FEE_IN_BASE = "UNI/USD"
"""The one market whose buys pay their fee in the base asset."""


def demo_fills() -> tuple[Fill, ...]:
    """Every fill of the account, oldest first."""
    fills = [
        _fill(order, number, piece) for order in demo_orders() for number, piece in enumerate(order.pieces, start=1)
    ]
    return tuple(sorted(fills, key=lambda fill: fill.filled_at))


def demo_positions() -> tuple[Position, ...]:
    """What the account holds: all fills, less fees in base, and what moved without a fill; flat symbols left out.

    The exchange spells a position's symbol without the slash, as some venues do.
    """
    held: dict[str, Decimal] = defaultdict(Decimal)
    for fill in demo_fills():
        held[fill.symbol] += fill.qty if fill.side is Side.BUY else -fill.qty
        if fill.fee is not None and fill.fee_currency == base_asset(fill.symbol):
            held[fill.symbol] -= fill.fee
    for order in demo_orders():
        if order.booked == Booked.OFF_BOOK:
            held[order.exchange_symbol] += order.quantity
    return tuple(Position(symbol.replace("/", ""), held[symbol]) for symbol in sorted(held) if held[symbol])


def demo_open_orders() -> tuple[OpenOrder, ...]:
    """The orders that the exchange still works."""
    return tuple(
        OpenOrder(
            order.exchange_order_id,
            order.client_order_id,
            order.exchange_symbol,
            order.side,
            order.quantity,
            Decimal(0),
            order.placed_at,
        )
        for order in demo_orders()
        if order.booked == Booked.WORKING
    )


def write_statement(folder: Path) -> Path:
    """Write fills.csv, positions.csv, open_orders.csv and statement.json into `folder`; returns the folder.

    Creates the folder when it is missing and replaces the four files, each at once; the bytes are always the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "fills.csv", _csv(Fill, demo_fills()))
    _replace(folder / "positions.csv", _csv(Position, demo_positions()))
    _replace(folder / "open_orders.csv", _csv(OpenOrder, demo_open_orders()))
    _replace(folder / "statement.json", json.dumps(_about(), indent=2) + "\n")
    return folder


def _fill(order: Order, number: int, piece: Piece) -> Fill:
    in_base = order.exchange_symbol == FEE_IN_BASE and order.side is Side.BUY
    fee = piece.qty * FEE_RATE if in_base else (piece.qty * piece.price * FEE_RATE).quantize(FEE_STEP)
    return Fill(
        f"{order.exchange_order_id}-{number}",
        order.exchange_order_id,
        order.client_order_id,
        order.exchange_symbol,
        order.side,
        piece.qty,
        piece.price,
        fee,
        base_asset(order.exchange_symbol) if in_base else "USD",
        piece.at,
    )


def _about() -> dict[str, str]:
    return {
        "venue": "demo exchange",
        "account": "demo account",
        "profile_id": DEMO_PROFILE,
        "from": canonical_time(DEMO_START),
        "to": canonical_time(DEMO_NOW),
        "fetched_at": canonical_time(DEMO_NOW),
    }


def _csv(kind: type[Fill] | type[Position] | type[OpenOrder], records: Sequence[Fill | Position | OpenOrder]) -> str:
    columns = [field.name for field in fields(kind)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(getattr(record, column)) for column in columns] for record in records)
    return text.getvalue()


def _cell(value: str | Decimal | datetime | None) -> str:
    if isinstance(value, Decimal):
        return canonical_decimal(value)
    if isinstance(value, datetime):
        return canonical_time(value)
    return value or ""


def _replace(path: Path, text: str) -> None:
    """Another process may read or write the same folder: the file appears whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(text.encode())
    temporary.replace(path)
