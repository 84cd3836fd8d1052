"""Tiny builders for the pure core: facts told as a ledger, and plans told back as lines.

A ledger is the indented part of a docstring, one event a line, times of 1 March 2026 (UTC):

    09:00:00  ENTRY  T1  buy   2  @100  E1    a row of orders: action, trade, side, quantity, price, exchange order
    10:00:00  BFILL  T1  sell  2  @110  X1    a row that recon wrote, with the id of that trade and exchange order
    10:00:00  fill   X1  sell  2  @110        a fill: its exchange order, side, quantity, price
    position  ETH/USD  0.5                    a leg on the exchange
    working   X9  sell  1                     an order that the exchange still works
    window    08:00:00  12:00:00              the span in which fills are evidence

`-` stands for NULL. Words such as `status=canceled`, `created=08:00:00`, `client=c1`, `symbol=BTC/USD`, `id=row-1`
or `fee=0.1:ETH` after these set what has a default otherwise.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from recon.criteria import Rules
from recon.domain import (
    BACKFILL_PREFIX,
    Fill,
    Item,
    OpenOrder,
    OrderRow,
    Position,
    Reason,
    Side,
    Snapshot,
    Window,
)
from recon.evidence import EvidenceUnit, Ledger
from recon.identity import BASE_FEE, DUST, backfill_order_id, canonical_decimal
from recon.plan import Facts, Plan, Scope, build_plan

PROFILE = "p"
SYMBOL = "ETH/USD"
WINDOW = Window(datetime(2026, 2, 26, 12, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC))


def at(clock: str) -> datetime:
    """`09:30:00`, with or without a fraction, of 1 March 2026; or a whole instant such as `2026-02-01T09:30:00`."""
    return datetime.fromisoformat(clock if "T" in clock else f"2026-03-01T{clock}").replace(tzinfo=UTC)


def row(trade_id: str | None = "T1", action: str = "ENTRY", quantity: str = "1", clock: str = "09:00:00", **other: Any):
    """A filled row of `orders` whose created_at is its filled_at and whose price is 100."""
    known = {
        "order_id": f"{trade_id}-{action}-{clock}",
        "profile_id": PROFILE,
        "symbol": SYMBOL,
        "status": "filled",
        "price": Decimal(100),
        "created_at": at(clock),
    }
    return OrderRow(
        trade_id=trade_id, action=action, quantity=Decimal(quantity), filled_at=at(clock), **{**known, **other}
    )


def fill(
    order: str = "X1", side: str = "sell", qty: str = "1", clock: str = "10:00:00", price: str = "110", **other: Any
):
    """One execution of an exchange order, without fee and client_order_id."""
    known = {"client_order_id": None, "symbol": SYMBOL, "fee": None, "fee_currency": None}
    return Fill(
        fill_id=other.pop("fill_id", f"{order}-{clock}-{qty}-{price}"),
        exchange_order_id=order,
        side=Side(side),
        qty=Decimal(qty),
        price=Decimal(price),
        filled_at=at(clock),
        **{**known, **other},
    )


def unit(order: str = "X1", qty: str = "1", clock: str = "10:00:00", **other: Any) -> EvidenceUnit:
    """A unit of one selling order on ETHUSD, at price 110."""
    known = {"symbol": "ETHUSD", "side": Side.SELL, "price": Decimal(110)}
    return EvidenceUnit(exchange_order_id=order, filled_at=at(clock), qty=Decimal(qty), **{**known, **other})


def ledger(test: Callable[..., None]) -> Callable[..., None]:
    """The test's first argument is what the ledger in its docstring says."""
    names = list(inspect.signature(test).parameters.values())

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        told = inspect.cleandoc(test.__doc__ or "").splitlines()
        test(facts_of(*(line for line in told if line.startswith(" "))), **arguments)

    run.__signature__ = inspect.Signature(names[1:])  # type: ignore[attr-defined]
    return run


def facts_of(*lines: str) -> Facts:
    """The rows and the snapshot that these lines of a ledger tell; a line that nothing understands is an error."""
    rows, fills, positions, working = [], [], [], []
    window = WINDOW
    for number, (first, *words) in enumerate(line.split() for line in lines):
        extra = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        if first == "position":
            positions.append(Position(plain[0], Decimal(plain[1])))
        elif first == "working":
            working.append(_working(*plain, **extra))
        elif first == "window":
            window = Window(at(plain[0]), at(plain[1]))
        elif plain[0] == "fill":
            fills.append(_fill(number, first, *plain[1:], **extra))
        else:
            rows.append(_row(number, first, *plain, **extra))
    snapshot = Snapshot("statement:test", window, tuple(fills), tuple(positions), tuple(working))
    return Facts(PROFILE, tuple(rows), snapshot)


def _null(word: str | None) -> str | None:
    return None if word == "-" else word


def _row(number, clock, action, trade, side, quantity, price="@100", order="-", **extra: str) -> OrderRow:
    order_id = extra.pop("id", f"row-{number}")
    if action == "BFILL":
        order_id = backfill_order_id(PROFILE, trade, order, at(clock))
        action, order = "EXIT", "-" if order in (DUST, BASE_FEE) else order
        extra = {"qty": quantity} | extra
    given = {
        "status": _null(extra.pop("status", "filled")),
        "created_at": at(extra.pop("created", clock)),
        "client_order_id": extra.pop("client", None),
        "symbol": extra.pop("symbol", SYMBOL),
        "qty": Decimal(extra.pop("qty")) if "qty" in extra else None,
        "quantity_problem": extra.pop("problem", None),
        "filled_at_assumed": extra.pop("assumed", "no") == "yes",
    }
    assert not extra, f"unknown words {extra}"
    cost = None if price == "@-" else Decimal(price.removeprefix("@"))
    return row(
        _null(trade), action, quantity, clock,
        order_id=order_id, raw_side=_null(side), price=cost, exchange_order_id=_null(order), **given,
    )  # fmt: skip


def _fill(number, clock, order, side, qty, price="@110", **extra: str) -> Fill:
    fee, currency = extra.pop("fee", ":").split(":")
    return fill(
        order, side, qty, clock, price.removeprefix("@"),
        fill_id=f"fill-{number}", client_order_id=extra.pop("client", None), symbol=extra.pop("symbol", SYMBOL),
        fee=Decimal(fee) if fee else None, fee_currency=currency or None, **extra,
    )  # fmt: skip


def _working(order, side, qty, symbol=SYMBOL, **extra: str) -> OpenOrder:
    return OpenOrder(order, None, symbol, Side(side), Decimal(qty), Decimal(0), at("09:00:00"), **extra)


EVERYTHING = Scope()


def plan_of(facts: Facts, scope: Scope = EVERYTHING, reasons: Mapping[Reason, str] | None = None, **rules: Any) -> Plan:
    """The plan of the facts; `rules` by name where they are not the defaults."""
    return build_plan(facts, Rules(**rules), scope, reasons)


def said(plan: Plan) -> list[str]:
    """The items as lines: `T1 fill_evidence 2 @110 X1 10:00:00 exact`, or `T1 NO_GO exchange_not_flat 2`."""
    return [line_of(item) for item in plan.items]


def closing(plan: Plan) -> list[str]:
    """The lines of the rows that fills support."""
    return [line for line in said(plan) if " fill_evidence " in line]


def line_of(item: Item) -> str:
    """One item as a line; a row that no exchange order stands behind shows `-` for it and for its grade."""
    if not item.writes:
        return f"{item.trade_id} {item.decision} {item.reason} {_plain(item.qty)}"
    what = f"{item.trade_id} {item.reason} {_plain(item.qty)} @{_plain(item.price)}"
    return f"{what} {item.exchange_order_id or '-'} {clock_of(item.filled_at)} {item.grade or '-'}"


def _plain(value: Decimal | None) -> str:
    return "-" if value is None else canonical_decimal(value)


def clock_of(instant: datetime | None) -> str:
    """`10:00:00`, with a fraction where there is one, and the date where it is not 1 March 2026."""
    text = instant.astimezone(UTC).replace(tzinfo=None).isoformat() if instant else "-"
    return text.removeprefix("2026-03-01T")


def left(book: Ledger) -> dict[str, str]:
    """What is left of each unit: {`X1 10:00:00`: `0.5`}."""
    return {f"{key[2]} {clock_of(key[3])}": canonical_decimal(qty) for key, qty in book.left.items()}


def written(items: Iterable[Item], status: str = "filled") -> tuple[OrderRow, ...]:
    """The rows that an apply of these items leaves in `orders`; with another status, what a rollback made of them."""
    return tuple(
        OrderRow(
            order_id=item.order_id or "",
            profile_id=PROFILE,
            symbol=item.symbol,
            trade_id=item.trade_id,
            action="EXIT",
            status=status,
            quantity=item.qty or Decimal(0),
            price=item.price,
            filled_at=item.filled_at or at("00:00:00"),
            created_at=WINDOW.end + timedelta(minutes=1),
            raw_side=item.side.value if item.side else None,
            exchange_order_id=item.exchange_order_id,
            qty=item.qty,
        )
        for item in items
        if item.writes
    )


def with_rows(facts: Facts, rows: Iterable[OrderRow]) -> Facts:
    """The facts after an apply or a rollback: these rows replace those of the same id, or are new."""
    known = {each.order_id: each for each in facts.rows} | {each.order_id: each for each in rows}
    assert all(key.startswith(BACKFILL_PREFIX) or each in facts.rows for key, each in known.items())
    return replace(facts, rows=tuple(known.values()))
