"""What the database holds, in plain SQL, and what follows from it in plain Python; nothing here calls recon."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

Row = Mapping[str, Any]
Trade = tuple[str, str]
"""Symbol as the table spells it, and trade_id."""

FILLED = ("filled", "partially_filled", "partially-filled")
ENDED = ("canceled", "cancelled", "expired", "rejected", "failed", "replaced", "done_for_day")
SIGN = {"ENTRY": 1, "EXIT": -1}
OTHER = {"buy": "sell", "sell": "buy"}
ZERO = Decimal(0)
CONTENT = (
    "order_id", "profile_id", "symbol", "trade_id", "action", "quantity", "qty", "price", "filled_at", "created_at",
    "side", "exchange_order_id", "client_order_id",
)  # fmt: skip
"""The columns of a row that are written once."""

TABLES = {
    "orders": "SELECT xmin::text AS xmin, o.* FROM orders AS o",
    "audit": "SELECT xmin::text AS xmin, a.* FROM reconciliation_backfill_audit AS a",
    "events": "SELECT xmin::text AS xmin, e.* FROM reconciliation_events AS e",
    "batches": "SELECT xmin::text AS xmin, to_jsonb(b)::text AS document, b.batch_id FROM reconciliation_batches AS b",
}


@dataclass(frozen=True)
class Seen:
    """All rows of all tables at one instant; `xmin` is the transaction that wrote a row last."""

    orders: Mapping[str, Row]
    audit: tuple[Row, ...]
    events: tuple[Row, ...]
    batches: Mapping[str, Row]

    def of(self, profile: str) -> list[Row]:
        """The profile's rows of orders."""
        return [row for row in self.orders.values() if row["profile_id"] == profile]

    def document(self, batch: str) -> dict[str, Any]:
        """The batch's row with its stored documents."""
        return json.loads(self.batches[batch]["document"])

    def floats(self) -> list[str]:
        """Numbers with a fraction, or an exponent, that stored documents hold as numbers."""
        found: list[str] = []
        for row in self.batches.values():
            json.loads(row["document"], parse_float=found.append)
        return found

    def open_quantities(self, profile: str) -> dict[Trade, Decimal]:
        """Runbook section 1: what is open by trade, over-closed ones negative, zero left out."""
        found: dict[Trade, Decimal] = defaultdict(Decimal)
        for row in self.of(profile):
            if row["status"] in FILLED and row["trade_id"] is not None:
                found[row["symbol"], row["trade_id"]] += quantity(row) * SIGN[row["action"]]
        return {trade: qty for trade, qty in found.items() if qty}

    def audited(self, batch: str, *decisions: str, live: bool = True) -> list[Row]:
        """The batch's audit rows with one of the decisions; `live` leaves out those that are reverted."""
        return [
            row
            for row in self.audit
            if row["batch_id"] == batch and row["decision"] in decisions and not (live and row["reverted_at"])
        ]


def look(connection: sa.Connection) -> Seen:
    """Everything, in one snapshot."""
    with connection.begin():
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = {
            name: [dict(row) for row in connection.exec_driver_sql(query).mappings()] for name, query in TABLES.items()
        }
    return Seen(
        {row["order_id"]: row for row in found["orders"]},
        tuple(found["audit"]),
        tuple(found["events"]),
        {row["batch_id"]: row for row in found["batches"]},
    )


def quantity(row: Row) -> Decimal:
    """COALESCE(quantity, qty, 0)."""
    return row["quantity"] if row["quantity"] is not None else row["qty"] or ZERO


def is_backfill(row: Row) -> bool:
    """Whether recon wrote it."""
    return row["order_id"].startswith("BFILL-")


def begun(row: Row) -> Any:
    """When it was filled; created_at stands in."""
    return row["filled_at"] or row["created_at"]


def entry_side(rows: Iterable[Row], trade: Trade) -> str:
    """The side of the trade's first filled ENTRY row; buy where it does not say."""
    own = [r for r in rows if (r["symbol"], r["trade_id"], r["action"]) == (*trade, "ENTRY") and r["status"] in FILLED]
    first = min(own, key=lambda row: (begun(row), row["order_id"]), default=None)
    return (first and first["side"]) or "buy"


def side_of(rows: Iterable[Row], row: Row) -> str:
    """The row's own side, else what its trade makes it."""
    entry = entry_side(rows, (row["symbol"], row["trade_id"]))
    return row["side"] or (entry if row["action"] == "ENTRY" else OTHER[entry])


def market(symbol: str) -> str:
    """One name for all spellings of a symbol."""
    return "".join(letter for letter in symbol.upper() if letter not in "/-_:")


def content(row: Row) -> tuple[Any, ...]:
    """What of a row may never change."""
    return tuple(row[name] for name in CONTENT)


def fingerprint(row: Row) -> tuple[tuple[str, str], ...]:
    """The row without the transaction that wrote it, sortable and hashable."""
    return tuple((name, str(value)) for name, value in row.items() if name != "xmin")


def key(row: Row, *without: str) -> tuple[Any, ...]:
    """The row as a tuple, the transaction that wrote it first, but for some columns."""
    return tuple(value for name, value in row.items() if name not in without)


def counted(rows: Iterable[Row], *without: str) -> Counter[tuple[Any, ...]]:
    """The rows as a bag, but for some columns."""
    return Counter(key(row, *without) for row in rows)


def as_planned(row: Row | None, item: Mapping[str, Any], status: str = "filled") -> bool:
    """Whether a row of orders says exactly what the stored item says, and has the status."""
    return row is not None and row["status"] == status and not wrong_columns(row, item)


def wrong_columns(row: Row, item: Mapping[str, Any]) -> list[str]:
    """The columns in which a row differs from the stored item, status aside."""
    qty = Decimal(item["qty"])
    expected = {
        "symbol": item["symbol"], "trade_id": item["trade_id"], "action": "EXIT", "quantity": qty, "qty": qty,
        "price": Decimal(item["price"]), "filled_at": datetime.fromisoformat(item["filled_at"]).astimezone(UTC),
        "side": item["side"], "exchange_order_id": item["exchange_order_id"], "order_id": item["order_id"],
    }  # fmt: skip
    return [name for name, value in expected.items() if row[name] != value]


def runbook_id(profile: str, item: Mapping[str, Any], *residues: str) -> set[str]:
    """The ids that runbook section 3 gives an item: of its order, or of what stands there for dust and fees."""
    stands = [item["exchange_order_id"]] if item["exchange_order_id"] else residues
    texts = [f"{profile}:{item['trade_id']}:{order}:{item['filled_at']}" for order in stands]
    return {f"BFILL-{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}" for text in texts}


@dataclass(frozen=True)
class Spending:
    """What filled rows hold of the exchange's fills: by unit and by order what backfill rows took, and the rest."""

    unit_total: Mapping[tuple[Any, ...], Decimal]
    order_total: Mapping[tuple[Any, ...], Decimal]
    side_total: Mapping[tuple[Any, ...], Decimal]
    unit: Mapping[tuple[Any, ...], Decimal]
    order: Mapping[tuple[Any, ...], Decimal]
    side: Mapping[tuple[Any, ...], Decimal]
    named: Mapping[tuple[Any, ...], Decimal]
    unnamed: Mapping[tuple[Any, ...], Decimal]

    def overspent(self, before: Spending) -> list[str]:
        """What rests on more fills than there are, where backfill rows hold more of it than before."""
        over = [f"unit {k}" for k in _grown(self.unit, before.unit) if self.unit[k] > self.unit_total.get(k, ZERO)]
        for key in _grown(self.order, before.order):
            if self.order[key] + self.named.get(key, ZERO) > self.order_total.get(key, ZERO):
                over.append(f"order {key}")
        for key in _grown(self.side, before.side):
            orders = {order for order in {*self.order_total, *self.named} if order[:2] == key}
            held = sum((min(self.named.get(o, ZERO), self.order_total.get(o, ZERO)) for o in orders), ZERO)
            if self.side[key] + held + self.unnamed.get(key, ZERO) > self.side_total.get(key, ZERO):
                over.append(f"side {key}")
        return over


def _grown(now: Mapping[Any, Decimal], before: Mapping[Any, Decimal]) -> list[Any]:
    return [key for key, qty in now.items() if qty > before.get(key, ZERO)]


def spending(seen: Seen, profile: str, fills: Iterable[Mapping[str, Any]]) -> Spending:
    """The profile's spending of these fills (rows of fills.csv)."""
    totals: tuple[dict[Any, Decimal], ...] = (defaultdict(Decimal), defaultdict(Decimal), defaultdict(Decimal))
    names: dict[tuple[str, str, str], str] = {}
    for fill in fills:
        key = (market(fill["symbol"]), fill["side"], fill["exchange_order_id"])
        at = datetime.fromisoformat(fill["filled_at"])
        for total, part in zip(totals, ((*key, at), key, key[:2]), strict=True):
            total[part] += Decimal(str(fill["qty"]))
        names |= {(*key[:2], name): key[2] for name in (key[2], fill["client_order_id"]) if name}
    taken: tuple[dict[Any, Decimal], ...] = tuple(defaultdict(Decimal) for _ in range(5))
    unit, order, side, named, unnamed = taken
    rows = seen.of(profile)
    for row in rows:
        if row["status"] not in FILLED:
            continue
        where = (market(row["symbol"]), side_of(rows, row))
        if is_backfill(row):
            if row["exchange_order_id"]:
                key = (*where, row["exchange_order_id"])
                unit[*key, row["filled_at"]] += quantity(row)
                order[key] += quantity(row)
                side[where] += quantity(row)
            continue
        known = [names.get((*where, row[name] or "")) for name in ("exchange_order_id", "client_order_id", "order_id")]
        if found := next(filter(None, known), None):
            named[*where, found] += quantity(row)
        elif not row["exchange_order_id"]:
            unnamed[where] += quantity(row)
    return Spending(*totals, unit, order, side, named, unnamed)
