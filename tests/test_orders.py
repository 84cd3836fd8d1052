"""The `orders` table in all the shapes that design section 5 promises, and the shapes that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from incidents import EXTENDED, MINIMAL, NOW, UNIQUE, Incident, at, refusal

from recon.database import connect, transaction
from recon.domain import Decision, Reason, Verdict
from recon.incident import exact
from recon.orders import Orders
from recon.orders_schema import KNOWN_TYPES, REQUIRED
from recon.workspace import reflect

PROFILE, TRADE = "7f1c2f6e-4a57-4c39-9f0e-1a2b3c4d5e6f", "0b5e1c1a-9d1f-4f0e-8c7e-5a5b5c5d5e5f"


@dataclass(frozen=True)
class Shape:
    """A way to keep orders: its columns and unique index, what an ENTRY row of it needs, what its EXIT row then holds.

    `copied` are the ENTRY's cells that the EXIT row must share, `cells` others.
    """

    columns: Mapping[str, str] = field(default_factory=lambda: EXTENDED)
    unique: str = UNIQUE
    before: tuple[str, ...] = ()
    name: str = "orders"
    profile: str = "main"
    trade: str = "t1"
    cells: Mapping[str, object] = field(default_factory=dict)
    copied: Mapping[str, object] = field(default_factory=dict)
    instant: str = "2026-03-01T10:00:00.123456+00:00"
    price: str = "110.000000000033"
    side: str = "sell"


AMOUNTS, TIMES = ("quantity", "qty", "price"), ("filled_at", "created_at", "updated_at")
ENUMS = (
    "CREATE TYPE {0}way AS ENUM ('ENTRY', 'EXIT')",
    "CREATE TYPE {0}condition AS ENUM ('new', 'filled', 'partially_filled', 'canceled')",
    "CREATE TYPE {0}side AS ENUM ('buy', 'sell')",
)
OF_ENUM = {"action": "way NOT NULL", "status": "condition NOT NULL", "side": "side NOT NULL"}
UNKNOWN = {
    "strategy": "text NOT NULL", "account": "bigint NOT NULL", "tags": "text[] NOT NULL", "note": "text",
    "version": "int NOT NULL DEFAULT 7", "id": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "notional": "numeric GENERATED ALWAYS AS (quantity * price) STORED NOT NULL",
}  # fmt: skip
ODD = dict.fromkeys(("Weird Name", "100% sure", ":colon", "select", "orders"), "text NOT NULL")
SHORT = {"order_id": "varchar(38) NOT NULL"} | dict.fromkeys(("profile_id", "trade_id", "status"), "varchar(9)")
CAPITALS = "CREATE TYPE way AS ENUM ('BUY', 'SELL')"
SEARCH_PATH = (
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET search_path TO trading, public', current_database()); END $$"
)

SHAPES = {
    "minimal": Shape(MINIMAL),
    "extended": Shape(),
    "varchar": Shape(EXTENDED | SHORT),
    "uuid": Shape(EXTENDED | {"profile_id": "uuid NOT NULL", "trade_id": "uuid"}, profile=PROFILE, trade=TRADE),
    "double precision": Shape(EXTENDED | dict.fromkeys(AMOUNTS, "double precision")),
    "real": Shape(EXTENDED | dict.fromkeys(AMOUNTS, "real"), price="110"),
    "without time zone": Shape(EXTENDED | dict.fromkeys(TIMES, "timestamp")),
    "milliseconds": Shape(EXTENDED | dict.fromkeys(TIMES, "timestamp(3)"), instant="2026-03-01T10:00:00.123+00:00"),
    "numeric(18,8)": Shape(EXTENDED | dict.fromkeys(AMOUNTS, "numeric(18,8)"), price="110.00000000"),
    "unknown columns": Shape(EXTENDED | UNKNOWN, copied={"strategy": "breakout", "account": 4711, "tags": ["a", "b"]}),
    "enums": Shape(EXTENDED | OF_ENUM, before=tuple(text.format("") for text in ENUMS)),
    "capitals": Shape(EXTENDED | {"side": "way NOT NULL"}, before=(CAPITALS,), cells={"side": "BUY"}, side="SELL"),
    "unique with profile": Shape(unique="UNIQUE (profile_id, order_id)"),
    "primary key": Shape(unique="PRIMARY KEY (order_id)"),
    "primary key with profile": Shape(unique="PRIMARY KEY (order_id, profile_id)"),
    "index that includes": Shape(unique="UNIQUE (order_id) INCLUDE (status)"),
    "capitals, ENTRY without a side": Shape(
        EXTENDED | {"side": "way"}, before=(CAPITALS,), cells={"side": None}, side="SELL"
    ),
    "client ids": Shape(EXTENDED | {"client_order_id": "text NOT NULL UNIQUE"}, cells={"client_order_id": "c-1"}),
    "another schema": Shape(
        {name: kind.replace("way", "trading.way") for name, kind in (EXTENDED | OF_ENUM).items()},
        before=(
            "CREATE SCHEMA trading",
            *(text.format("trading.") for text in ENUMS),
            SEARCH_PATH,
            "CREATE TABLE public.orders (order_id text, decoy int)",
        ),
        name="trading.orders",
    ),
    "odd names and order": Shape(dict(reversed((EXTENDED | ODD).items())), copied=dict.fromkeys(ODD, "o'dd %s :x")),
}


def make(incident: Incident, shape: Shape) -> Incident:
    for statement in shape.before:
        incident.sql(statement)
    incident.profile = shape.profile
    return incident.create_table(shape.columns, unique=shape.unique, name=shape.name)


BASIC = ("minimal", "extended", "uuid", "double precision", "without time zone", "enums", "another schema")
"""The shapes that are tried on every version."""


@pytest.mark.parametrize("name", BASIC)
def test_a_repair_of_the_basic_shapes_of_table(incident_each_version: Incident, name: str) -> None:
    repair_and_take_back(incident_each_version, SHAPES[name])


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in BASIC])
def test_a_repair_of_the_other_shapes_of_table(incident: Incident, name: str) -> None:
    repair_and_take_back(incident, SHAPES[name])


def repair_and_take_back(incident: Incident, shape: Shape) -> None:
    """Invariants 1, 5 and 8: apply closes, rollback reopens exactly, a new batch reinstates; nothing else changes."""
    make(incident, shape)
    incident.row("entry-1", shape.trade, "ENTRY", "3.5", 0, **shape.cells, **shape.copied)
    for qty, price in (("1.25", "110"), ("1.75", "110.00000000005666")):
        incident.fill("X9", qty, 0, price=price, filled_at=shape.instant)
    incident.fill("X9", "0.5", 70)
    before, bystanders = incident.open_quantities(), incident.bystanders()

    applied = incident.repair()
    assert applied.counts == {"APPLIED": 2}
    first, second = incident.backfills()
    expected = {
        "order_id": applied.items[0].order_id, "symbol": "BTC/USD", "action": "EXIT", "status": "filled",
        "side": shape.side, "exchange_order_id": "X9", **shape.copied,
    }  # fmt: skip
    assert {name: first[name] for name in expected if name in shape.columns} == {
        name: value for name, value in expected.items() if name in shape.columns
    }
    assert (str(first["profile_id"]), str(first["trade_id"])) == (shape.profile, shape.trade)
    assert [Decimal(str(first[name])) for name in AMOUNTS] == [3, 3, Decimal(shape.price)]
    assert [row["filled_at"].replace(tzinfo=UTC) for row in (first, second)] == [
        datetime.fromisoformat(shape.instant), at(70),
    ]  # fmt: skip
    assert (incident.open_quantities(), incident.bystanders()) == ({}, bystanders)

    assert incident.run("validate").verdict is Verdict.DONE
    content = incident.backfill_content()
    assert incident.run("rollback").verdict is Verdict.DONE
    assert (incident.open_quantities(), incident.statuses()) == (before, ["canceled", "canceled"])
    again = incident.repair(batch="incident-2")
    assert {item.reason for item in again.items} == {Reason.REINSTATE}
    assert (incident.open_quantities(), incident.statuses()) == ({}, ["filled", "filled"])
    assert (incident.bystanders(), incident.backfill_content()) == (bystanders, content)


def test_the_decoy_of_another_schema_is_left_alone(incident: Incident) -> None:
    make(incident, SHAPES["another schema"]).ghost("t1")
    incident.repair()
    assert incident.sql("SELECT count(*) FROM public.orders") == [(0,)]
    assert len(incident.sql("SELECT * FROM trading.orders WHERE order_id LIKE 'BFILL-%%'")) == 1


def _reflect(incident: Incident) -> Orders:
    with transaction(incident.engine, read_only=True) as connection:
        return Orders.reflect(connection)


def _refused(incident: Incident) -> str:
    """The message with which the table is refused."""
    refused = refusal(lambda: _reflect(incident))
    assert refused.code == "orders_unsuitable"
    return refused.message


def _follow(incident: Incident, message: str) -> None:
    """Do what the message says would help."""
    for statement in message.partition("This would help: ")[2].split("; "):
        with incident.backend.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(statement.rstrip(";"))


def test_missing_columns_are_refused_with_the_ddl_that_helps(incident: Incident) -> None:
    """Each in turn, and the message is followed to the letter; order_id takes its unique index with it."""
    incident.create_table(MINIMAL)
    for name in REQUIRED:
        incident.sql(f"ALTER TABLE orders DROP COLUMN {name}")
        message = _refused(incident)
        assert message == (
            f"The orders table cannot be worked on: orders lacks the column {name}. "
            f"This would help: ALTER TABLE orders ADD COLUMN {name} {KNOWN_TYPES[name]};"
        )
        _follow(incident, message)
        if name == "order_id":
            _follow(incident, _refused(incident))
        assert name in _reflect(incident).table.c


def test_a_misspelt_column_is_a_missing_one(incident: Incident) -> None:
    columns = {
        {"trade_id": "trade_ID", "filled_at": "filledAt"}.get(name, name): kind for name, kind in MINIMAL.items()
    }
    incident.create_table(columns)
    assert "orders lacks the columns trade_id, filled_at" in _refused(incident)


def test_without_a_table_there_is_nothing_to_work_on(incident: Incident) -> None:
    incident.create_table(name="public.bestellungen")
    assert _refused(incident) == "The orders table cannot be worked on: there is no table orders on the search path."


def test_without_a_unique_index_on_order_id_the_ddl_that_helps_is_named(incident: Incident) -> None:
    """Partial, expression, wider, foreign and deferrable indexes cannot keep one order_id unique at each insert."""
    incident.create_table(unique="UNIQUE (order_id) DEFERRABLE INITIALLY DEFERRED")
    for index in (
        "(order_id, created_at)",
        "(trade_id, order_id)",
        "(lower(order_id))",
        "(order_id) WHERE status = 'filled'",
    ):
        incident.sql(f"CREATE UNIQUE INDEX ON orders {index}")
    incident.sql("CREATE INDEX ON orders (order_id)")
    result = incident.run("detect")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "orders_unsuitable")
    assert result.message == (
        "The orders table cannot be worked on: no unique index of orders covers order_id (alone, or with profile_id). "
        "This would help: CREATE UNIQUE INDEX CONCURRENTLY ON orders (order_id);"
    )
    _follow(incident, result.message)
    assert _reflect(incident).conflict == ("order_id",)


def test_an_index_that_failed_to_build_does_not_count(incident: Incident) -> None:
    incident.create_table(unique="")
    incident.row("twice", "t1", "ENTRY", "1")
    incident.row("twice", "t1", "ENTRY", "1")
    ddl = _refused(incident)
    with pytest.raises(sa.exc.IntegrityError):
        _follow(incident, ddl)
    assert incident.sql("SELECT indisvalid FROM pg_index WHERE indrelid = 'orders'::regclass") == [(False,)]
    assert _refused(incident) == ddl


@pytest.mark.parametrize(
    ("column", "kind", "said"),
    [
        ("order_id", "varchar(37) NOT NULL", "order_id cannot hold BFILL- and 32 hex digits"),
        ("order_id", "uuid NOT NULL", "order_id cannot hold BFILL- and 32 hex digits"),
        ("quantity", "text", "quantity is not a number"),
        ("qty", "money", "qty is not a number"),
        ("price", "jsonb", "price is not a number"),
        ("filled_at", "date", "filled_at is not a timestamp"),
        ("updated_at", "bigint", "updated_at is not a timestamp"),
        ("status", "int", "status is not text"),
        ("status", "varchar(6)", "status cannot hold canceled"),
        ("action", "varchar(3)", "action cannot hold EXIT"),
        ("client_order_id", "uuid NOT NULL", "client_order_id must be given and is not text"),
        ("symbol", "uuid", "symbol is not text"),
        ("exchange_order_id", "bigint", "exchange_order_id is not text"),
    ],
)
def test_a_column_of_the_wrong_type_is_refused_by_name(incident: Incident, column: str, kind: str, said: str) -> None:
    incident.create_table(MINIMAL | {column: kind})
    assert said in _refused(incident)


@pytest.mark.parametrize(
    ("column", "labels", "missing"),
    [
        ("status", "'new', 'filled', 'cancelled'", "canceled"),
        ("action", "'ENTRY', 'CLOSE'", "EXIT"),
        ("side", "'BUY', 'SELL_SHORT'", "sell"),
    ],
)
def test_an_enum_that_could_not_be_written_or_taken_back_is_refused(
    incident: Incident, column: str, labels: str, missing: str
) -> None:
    """Without `canceled` an apply could never be rolled back: better said before than after."""
    incident.sql(f"CREATE TYPE kind AS ENUM ({labels})")
    incident.create_table(EXTENDED | {column: "kind"})
    message = _refused(incident)
    assert f"{column} cannot hold {missing}" in message
    _follow(incident, message)
    _reflect(incident)


def test_a_unique_column_that_would_be_copied_is_refused(incident: Incident) -> None:
    """A NOT NULL id without default, unknown to recon, is copied from the ENTRY row: that can never be unique."""
    incident.create_table(EXTENDED | {"id": "uuid NOT NULL PRIMARY KEY"})
    message = _refused(incident)
    assert "id is NOT NULL and unique but has no default" in message
    assert "ALTER TABLE orders ALTER COLUMN id SET DEFAULT" in message


def test_a_generated_quantity_is_left_to_the_database(incident: Incident) -> None:
    incident.create_table(EXTENDED | {"qty": "numeric GENERATED ALWAYS AS (quantity) STORED"})
    incident.sql(
        """INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, price, filled_at,
                               created_at, updated_at, side)
           VALUES ('e', 'main', 'BTC/USD', 't1', 'ENTRY', 'filled', 2, 100, %s, %s, %s, 'buy')""",
        at(0), at(0), at(0),
    )  # fmt: skip
    incident.fill("X1", "2", 60)
    assert incident.repair().counts == {"APPLIED": 1}
    assert [(row["quantity"], row["qty"]) for row in incident.backfills()] == [(2, 2)]


UPPER = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"


def test_a_uuid_column_of_exchange_orders_takes_ids_in_any_spelling(incident: Incident) -> None:
    """The column gives them back in lower case: a recorded exit still holds its fill, and an apply is recognised."""
    incident.create_table(EXTENDED | {"exchange_order_id": "uuid"})
    incident.ghost("t1", "1", exchange_order_id=None)
    incident.row("entry-t2", "t2", "ENTRY", "1", 0, exchange_order_id=None)
    incident.row("exit-t2", "t2", "EXIT", "1", 70, exchange_order_id=UPPER)
    incident.fills[:] = []
    incident.fill(UPPER, "1", 70)
    assert _reasons(incident) == {Reason.MISSING_FILL_EVIDENCE}
    incident.fill(UPPER.replace("11", "12").replace("-", ""), "1", 60)
    assert incident.repair(batch="b2").counts == {"APPLIED": 1}
    assert incident.run("apply", "b2").counts == {"SKIP_EXISTING": 1}
    assert incident.run("rollback", "b2").verdict is Verdict.DONE


def test_an_exchange_order_that_a_uuid_column_cannot_hold_is_said_at_the_dry_run(incident: Incident) -> None:
    incident.create_table(EXTENDED | {"exchange_order_id": "uuid"}).ghost("t1", exchange_order_id=None)
    assert _reasons(incident) == {Reason.UNREPRESENTABLE_QUANTITY}


def test_a_row_without_exchange_order_cannot_be_written_where_one_is_required(incident: Incident) -> None:
    """Dust rests on no exchange order; the part that fills support has one."""
    incident.create_table(EXTENDED | {"exchange_order_id": "text NOT NULL"})
    incident.row("entry-t1", "t1", "ENTRY", "1.0005", 0, exchange_order_id="E1")
    incident.fill("X1", "1", 60)
    assert _reasons(incident) == {Reason.UNREPRESENTABLE_QUANTITY}


# What stands in the rows


def _reasons(incident: Incident, trade: str = "t1") -> set[Reason]:
    """The reasons that the dry run gives one trade."""
    assert incident.run("detect").verdict is Verdict.DONE
    result = incident.run("dry-run")
    assert result.code is None, result.message
    return {item.reason for item in result.items if item.trade_id == trade}


DEFECTS: dict[str, dict[str, object]] = {
    "quantity and qty are both NULL": {"quantity": None, "qty": None},
    "its quantity -1 is negative": {"quantity": "-1.00", "qty": "-1.00"},
    "its quantity -0.5 is negative": {"quantity": None, "qty": "-0.5"},
    "its quantity is not a finite number": {"quantity": "NaN", "qty": "NaN"},
    "second-04: its quantity is not a finite number": {"quantity": "0.5", "qty": "NaN"},
    "second-05: its quantity is not a finite number": {"quantity": "Infinity", "qty": None},
    "second-06: its quantity is not a finite number": {"quantity": "-Infinity", "qty": None},
    "quantity 0.5 and qty 0.6 differ": {"quantity": "0.50000000", "qty": "0.60"},
    "has action 'FLIP', expected ENTRY or EXIT": {"action": "FLIP"},
    "has action '', expected ENTRY or EXIT": {"action": None},
    "has side 'short', expected buy or sell": {"side": "short"},
    "is on the trade's own entry side, buy": {"side": "buy"},
    "its ENTRY rows have two sides": {"action": "ENTRY", "side": "sell"},
    "is filled before the trade begins": {"filled_at": at(-1), "created_at": at(-1)},
    "one trade_id stands on 2 symbols: C14/USD, ETH/USD": {"symbol": "ETH/USD"},
}


def test_a_row_that_cannot_be_trusted_blocks_its_trade(incident: Incident) -> None:
    """Each defect on a trade of its own is data_quality; a sound neighbour on the first symbol is still repaired."""
    incident.create_table()
    for number, cells in enumerate(DEFECTS.values()):
        symbol = f"C{number:02}/USD"
        incident.ghost(f"t{number:02}", "2", symbol=symbol)
        incident.row(f"second-{number:02}", f"t{number:02}", "EXIT", "0.5", 30, **({"symbol": symbol} | cells))
    incident.ghost("sound", "5", symbol="C00/USD", opened=90, closed=100)
    incident.run("detect")
    planned = incident.run("dry-run")
    assert planned.verdict is Verdict.NO_GO
    for number, sentence in enumerate(DEFECTS):
        mine = [item for item in planned.items if item.trade_id == f"t{number:02}"]
        [item] = [item for item in mine if item.reason is Reason.DATA_QUALITY]
        assert sentence in item.detail
        assert {item.decision for item in mine} == {Decision.NO_GO}
    incident.approve(*(f"t{number:02}=looked into" for number in range(len(DEFECTS))))
    assert incident.run("apply").counts["APPLIED"] == 1
    assert [row["trade_id"] for row in incident.backfills()] == ["sound"]


def test_a_trade_without_any_entry_is_never_repaired(incident: Incident) -> None:
    """A negative EXIT alone looks open to the runbook's query: EXIT -1 makes open 1."""
    incident.create_table()
    incident.row("lonely", "t1", "EXIT", "-1")
    assert incident.open_quantities() == {"t1": Decimal(1)}
    assert Reason.DATA_QUALITY in _reasons(incident)


def test_a_filled_row_without_symbol_is_never_repaired(incident: Incident) -> None:
    incident.create_table()
    incident.row("nameless", "t1", "ENTRY", "0.0005", symbol=None)
    incident.ghost("sound")
    assert _reasons(incident) == {Reason.DATA_QUALITY}


def test_a_quantity_counts_from_qty_where_quantity_is_null(incident: Incident) -> None:
    incident.create_table()
    incident.row("e", "t1", "ENTRY", "1", quantity=None, qty="1.5")
    incident.fill("X", "1.5", 60)
    incident.repair()
    assert [(row["quantity"], row["qty"]) for row in incident.backfills()] == [(Decimal("1.5"), Decimal("1.5"))]


def test_where_filled_at_is_null_created_at_stands_in_and_the_report_says_so(incident: Incident) -> None:
    incident.create_table().ghost("t1", filled_at=None)
    detected = incident.run("detect")
    assert ("filled_at is NULL on 1 filled row; created_at stands in.",) in detected.tables["notes"].rows
    assert incident.run("dry-run").verdict is Verdict.GO


def test_a_row_without_any_time_is_refused_by_name(incident: Incident) -> None:
    incident.create_table().ghost("t1", filled_at=None, created_at=None)
    result = incident.run("detect")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "orders_unreadable")
    assert "entry-t1" in (result.message or "")


def test_a_row_that_was_never_filled_needs_no_time(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.row("never", "t1", "EXIT", "1", status="rejected", filled_at=None, created_at=None)
    assert _reasons(incident) == {Reason.FILL_EVIDENCE}


@pytest.mark.parametrize("cells", [{"quantity": "NaN", "qty": "NaN"}, {"quantity": "Infinity", "qty": None},
                                   {"quantity": "NaN", "qty": "1"}])  # fmt: skip
@pytest.mark.parametrize("action", ["ENTRY", "EXIT"])
def test_a_trade_that_only_a_quantity_without_number_keeps_open_is_a_target(
    incident: Incident, action: str, cells: dict[str, str | None]
) -> None:
    """The runbook's query lists it, since NaN and infinity are greater than any number; so does recon."""
    incident.create_table()
    if action == "EXIT":
        incident.row("entry", "t1", "ENTRY", "1", 0)
        incident.row("exit", "t1", "EXIT", "1", 10)
    incident.row("odd", "t1", action, "1", 20, **cells)
    assert incident.run("detect").counts["OPEN"] == 1
    assert _reasons(incident) == {Reason.DATA_QUALITY}


def test_a_filled_row_without_symbol_holds_the_order_that_it_names(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.row("nameless", None, "EXIT", "1", 60, symbol=None, exchange_order_id="exit-t1")
    incident.row("mute", None, "EXIT", "1", 60, symbol=None, exchange_order_id=None)
    assert _reasons(incident) == {Reason.MISSING_FILL_EVIDENCE}
    listed = incident.run("dry-run").tables["unrecognised_rows"].rows
    assert (listed[-1][0], listed[-1][-1]) == ("mute", "it names neither a symbol nor an order; it spends nothing")


@pytest.mark.parametrize("instant", ["infinity", "-infinity", "12000-01-01 00:00+00", "0044-03-15 12:00+00 BC"])
def test_a_time_that_no_calendar_holds_is_refused_and_not_blamed_on_the_network(
    incident: Incident, instant: str
) -> None:
    incident.create_table().ghost("t1", filled_at=instant)
    result = incident.run("detect")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "unreadable_value")
    assert "timestamp too" in (result.message or "")


def test_what_each_status_means(incident: Incident) -> None:
    """Invariant 10: a status never seen before, or none at all, is pending and blocks its trade; final ones do not."""
    pending = ["new", "pending_new", "accepted", "open", "FILLED", " filled", "", "gefüllt", None]
    final = ["canceled", "cancelled", "expired", "rejected", "failed", "replaced", "done_for_day"]
    incident.create_table()
    for number, status in enumerate([*pending, *final]):
        incident.ghost(f"t{number}", symbol=f"C{number}/USD")
        incident.row(f"odd-{number}", f"t{number}", "EXIT", "1", 60, symbol=f"C{number}/USD", status=status)
    for number, status in enumerate(["filled", "partially_filled", "partially-filled"]):
        incident.ghost(f"f{number}", symbol=f"F{number}/USD", status=status)
    incident.run("detect")
    found = {item.trade_id: item.reason for item in incident.run("dry-run").items}
    blocked = {trade for trade, reason in found.items() if reason is Reason.PENDING_LIFECYCLE_BLOCKER}
    assert blocked == {f"t{number}" for number in range(len(pending))}
    others = {f"t{number + len(pending)}" for number in range(len(final))} | {"f0", "f1", "f2"}
    assert {trade for trade, reason in found.items() if reason is Reason.FILL_EVIDENCE} == others


NASTY = [
    "a:b", "it's", 'say "hi"', "<script>alert(1)</script>", "&amp;", "🚀👩‍👩‍👧", "100%s %(x)s :name", "back\\slash",
    "{curly}", "ünïcödé", "'; DROP TABLE orders; --", "$1 $$", "a=b", "null",
]  # fmt: skip


def test_ids_with_any_characters_work_from_end_to_end(incident_each_version: Incident) -> None:
    """Trade, order and profile ids with `:`, quotes, HTML, emoji: detected, applied, validated, rolled back."""
    incident = incident_each_version.create_table()
    incident.profile = "main:'\"<b>🚀%s"
    for number, name in enumerate(NASTY):
        incident.ghost(name, f"{number + 1}", order=name, closed=60 + number)
    before, bystanders = incident.open_quantities(), incident.bystanders()
    assert incident.repair().counts == {"APPLIED": len(NASTY)}
    assert [(row["trade_id"], row["exchange_order_id"]) for row in incident.backfills()] == [(n, n) for n in NASTY]
    assert incident.run("validate").verdict is Verdict.DONE
    assert incident.run("rollback").verdict is Verdict.DONE
    assert (incident.open_quantities(), incident.bystanders()) == (before, bystanders)


def test_ids_that_join_to_one_text_are_both_refused(incident: Incident) -> None:
    """(t, a:b) and (t:a, b) at one instant would share one order_id (design section 6); the third trade would not."""
    incident.create_table()
    for trade, order, qty in (("t", "a:b", "1"), ("t:a", "b", "2"), ("u", "c", "3")):
        incident.ghost(trade, qty, order=order)
    assert _reasons(incident, "t") == _reasons(incident, "t:a") == {Reason.INVALID_IDENTIFIER}
    assert _reasons(incident, "u") == {Reason.FILL_EVIDENCE}


def test_an_empty_trade_id_is_refused(incident: Incident) -> None:
    incident.create_table().ghost("")
    assert _reasons(incident, "") == {Reason.INVALID_IDENTIFIER}


def test_a_quantity_that_the_column_would_round_is_never_written(incident: Incident) -> None:
    """And a price is rounded half-even to the column's scale, when planning."""
    incident.create_table(EXTENDED | dict.fromkeys(AMOUNTS, "numeric(18,8)"))
    incident.row("e", "t1", "ENTRY", "1")
    incident.fill("X", "0.999999999", 60)
    incident.ghost("t2", "2", opened=90, closed=95, price="110.000000005")
    assert _reasons(incident) == {Reason.UNREPRESENTABLE_QUANTITY}
    [item] = [item for item in incident.run("dry-run").items if item.trade_id == "t2"]
    assert item.price == Decimal("110.00000000")


def test_a_column_of_whole_numbers_holds_no_part_of_one(incident: Incident) -> None:
    """A price is rounded to what the column keeps, a quantity is written as it is or not at all."""
    incident.create_table(EXTENDED | dict.fromkeys(AMOUNTS, "bigint"))
    incident.ghost("t1", "3", price="110.4")
    incident.row("e-t2", "t2", "ENTRY", "3", symbol="ETH/USD")
    for order, minute in (("X-2", 60), ("X-3", 70)):
        incident.fill(order, "1.5", minute, symbol="ETH/USD")
    assert _reasons(incident, "t1") == {Reason.FILL_EVIDENCE}
    assert _reasons(incident, "t2") == {Reason.UNREPRESENTABLE_QUANTITY}
    incident.approve("t2=halves")
    assert incident.run("apply").counts == {"APPLIED": 1, "NO_GO": 1}
    assert [(row["quantity"], row["price"]) for row in incident.backfills()] == [(3, 110)]


def test_an_instant_that_the_column_would_round_is_never_written(incident: Incident) -> None:
    """timestamp(3) keeps milliseconds: a fill with microseconds is refused when planning, not when applying."""
    incident.create_table(EXTENDED | {"filled_at": "timestamp(3)"})
    for trade, instant in (("t1", "2026-03-01T10:00:00.123456Z"), ("t2", "2026-03-01T10:00:00.123Z")):
        incident.row(f"e-{trade}", trade, "ENTRY", "1", symbol=f"{trade}/USD")
        incident.fill(f"X-{trade}", "1", 0, symbol=f"{trade}/USD", filled_at=instant)
    assert _reasons(incident, "t1") == {Reason.UNREPRESENTABLE_QUANTITY}
    assert _reasons(incident, "t2") == {Reason.FILL_EVIDENCE}


@pytest.mark.parametrize(
    ("kind", "profile", "asked"),
    [
        ("varchar(4)", "main", "main2"),
        ("uuid", PROFILE, PROFILE.upper()),
        ("int", "7", "007"),
        ("text", "main", "Main"),
    ],
)
def test_a_profile_is_found_under_its_exact_name_alone(incident: Incident, kind: str, profile: str, asked: str) -> None:
    """A cast to the column's type would cut `main2` to `main`, and hash another id for the same rows."""
    incident.create_table(EXTENDED | {"profile_id": kind})
    incident.profile = profile
    incident.ghost("t1")
    assert incident.run("detect").verdict is Verdict.DONE
    incident.profile = asked
    assert incident.run("detect", "other").code == "unknown_profile"


@pytest.mark.parametrize(
    ("kind", "asked"), [("text", "nobody"), ("text", ""), ("uuid", "not a uuid"), ("int", "x"), ("text", "a\0b")]
)
def test_a_profile_without_rows_is_refused(incident: Incident, kind: str, asked: str) -> None:
    incident.create_table(EXTENDED | {"profile_id": kind})
    before = incident.everything()
    incident.profile = asked
    result = incident.run("detect")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "unknown_profile")
    assert incident.everything() == before


def test_sums_are_exact(incident: Incident) -> None:
    """Invariant 9: ten times 0.1 is 1 in every type, and a thirtieth decimal is not lost in numeric."""
    incident.create_table()
    tiny = Decimal("1e-30")
    entered = Decimal("1.000000000000000000000000000001")
    incident.row("e", "t1", "ENTRY", entered)
    for number in range(10):
        incident.row(f"x{number}", "t1", "EXIT", "0.1", number + 1)
    with transaction(incident.engine, read_only=True) as connection, exact():
        [one] = reflect(connection, "main").lifecycles(connection, "main")
        assert one.open_qty == tiny
    assert (one.entry_qty, one.exit_qty) == (entered, 1)


def test_ten_tenths_close_a_double_precision_trade(incident: Incident) -> None:
    incident.create_table(EXTENDED | dict.fromkeys(AMOUNTS, "double precision"))
    incident.row("e", "t1", "ENTRY", "1")
    for number in range(10):
        incident.row(f"x{number}", "t1", "EXIT", "0.1", number + 1)
    assert sum([0.1] * 10) != 1, "the control: in floating point it would still be open"
    with transaction(incident.engine, read_only=True) as connection:
        assert reflect(connection, "main").lifecycles(connection, "main") == []


def test_every_statement_names_its_profile(incident: Incident) -> None:
    """Design section 5: each statement on orders, audit and events can be routed by an equality on profile_id."""
    incident.create_table().ghost("t1")
    incident.hold("ETH/USD", "1")
    said: list[str] = []
    incident.engine = connect(incident.url)

    @sa.event.listens_for(incident.engine, "before_cursor_execute")
    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(" ".join(statement.split()))

    incident.repair()
    for stage in ("apply", "validate", "rollback", "rollback"):
        assert incident.run(stage).verdict is Verdict.DONE
    on_data = [
        text
        for text in said
        if re.search(r"(FROM|UPDATE|INTO) (orders|reconciliation_(backfill_audit|events))\b", text)
    ]
    kinds = {text.split()[0] for text in on_data}
    assert (len(on_data) > 40, kinds) == (True, {"SELECT", "INSERT", "UPDATE"})
    for text in on_data:
        named = re.search(r"profile_id = ", text) or re.search(r"INSERT INTO \w+ \([^)]*profile_id", text)
        assert named, text
    assert not [text for text in said if "DELETE" in text.split()], "invariant 1: nothing is ever deleted"


def test_an_insert_meets_a_row_of_another_profile_only_under_a_global_index(incident: Incident) -> None:
    """Under UNIQUE (profile_id, order_id) two profiles may hold one id; the other profile's row is not touched."""
    incident.create_table(unique="UNIQUE (profile_id, order_id)").ghost("t1")
    incident.plan()
    [order_id] = (incident.approve().released[0].order_id,)
    incident.row(order_id, "foreign", "EXIT", "9", profile_id="other")
    assert incident.run("apply").counts == {Decision.APPLIED.value: 1}
    assert [row["profile_id"] for row in incident.backfills()] == ["main"]
    assert incident.sql("SELECT trade_id FROM orders WHERE profile_id = 'other'") == [("foreign",)]


def test_the_only_update_there_is_touches_nothing_but_backfill_rows(incident: Incident) -> None:
    """Invariant 1, at the edge itself: not an ordinary row, another status or another profile's row, whoever asks."""
    incident.create_table().ghost("t1")
    incident.row("BFILL-mine", "t1", "EXIT", "1")
    incident.row("BFILL-canceled", "t1", "EXIT", "1", status="canceled")
    incident.row("BFILL-theirs", "t1", "EXIT", "1", profile_id="other")
    incident.row("bfill-lower", "t1", "EXIT", "1")
    names = [order_id for (order_id,) in incident.sql("SELECT order_id FROM orders")]
    with transaction(incident.engine) as connection:
        orders = Orders.reflect(connection)
        changed = orders.set_status(connection, "main", names, before={"filled"}, after="canceled", now=NOW)
    assert changed == {"BFILL-mine"}
    assert sorted(incident.sql("SELECT order_id FROM orders WHERE updated_at = %s", NOW)) == [("BFILL-mine",)]
