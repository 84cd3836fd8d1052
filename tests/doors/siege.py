"""An incident with a batch in every state, for statements that try to get around the doors to be run against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import sqlalchemy as sa
from incidents import EXTENDED, NOW, Incident, an_incident

from doors.people import make_people
from recon.database import transaction
from recon.domain import Verdict
from recon.doors.roles import create_doors
from recon.plan import Scope

COLUMNS = EXTENDED | {"client_order_id": "text NOT NULL", "strategy": "text NOT NULL", "note": "text"}
EARLY = NOW - timedelta(hours=25)
"""When what has expired since was approved."""

CLOCK = """coalesce(nullif(current_setting('siege.clock', true), '')::timestamptz, (SELECT instant FROM public.clock),
    clock_timestamp())"""
"""The doors' clock here: an attack sets `siege.clock` where time passes in its midst."""

FORGED = """jsonb_set(plan, '{document,items}', (SELECT jsonb_agg(item || jsonb_build_object(%s))
    FROM jsonb_array_elements(plan -> 'document' -> 'items') AS item))"""


def besiege(incident: Incident) -> Incident:
    """Every batch that the attacks name, each on a symbol of its own, and the doors."""
    incident.create_table(COLUMNS, doors=True)
    make_people(incident.engine)
    with transaction(incident.engine) as connection:
        create_doors(connection, CLOCK)
    incident.sql("CREATE SCHEMA lair")
    incident.sql("GRANT ALL ON SCHEMA lair TO PUBLIC")
    plans = {
        "begun": "g", "planned": "p", "approved": "a", "twin": "a", "expired": "e", "applied": "w", "met": "w",
        "expired_met": "w", "validated": "v", "undone": "u", "stale": "s", "first": "o", "nan": "n", "foreign": "f",
        "word": "d", "gone": "x", "hand": "y", "way": "z",
    }  # fmt: skip
    for letter in sorted(set(plans.values()) - {"f"}):
        ghost(incident, letter)
    ghost(incident, "a2", symbol="A/USD", quantity="3", filled="2")
    ghost(incident, "w2", symbol="W/USD")
    ghost(incident, "p2", symbol="P/USD", quantity="3", filled="2")
    incident.row("by-hand", "t-hand", "EXIT", "1", 30, symbol="H/USD", client_order_id="h", strategy="s")
    early = incident.work(now=EARLY, scope=scope("e"))
    incident.plan(batch="expired", work=early)
    incident.plan(batch="expired_met", work=incident.work(now=EARLY, scope=scope("w", "w2")))
    for batch in ("applied", "met"):
        incident.plan(batch=batch, work=incident.work(scope=scope("w", "w2")))
    for batch in ("validated", "undone", "first", "gone"):
        incident.plan(batch=batch, work=incident.work(scope=scope(plans[batch])))
    for batch in ("applied", "validated", "undone", "first", "gone"):
        run(incident, "apply", batch)
    run(incident, "validate", "validated")
    run(incident, "rollback", "undone")
    incident.sql("UPDATE orders SET status = 'canceled' WHERE trade_id = 't-o' AND action = 'EXIT'")
    incident.sql("DELETE FROM orders WHERE trade_id = 't-x' AND action = 'EXIT'")
    later = {"now": NOW + timedelta(seconds=1), "scope": scope("o")}
    incident.plan(batch="second", work=incident.work(**later))
    run(incident, "apply", "second", now=later["now"])
    both = scope("a", "a2", "u")
    incident.plan("t-a2=seen", batch="approved", work=incident.work(scope=both))
    for batch in ("twin", "stale", "nan", "word", "hand", "way"):
        incident.plan(batch=batch, work=incident.work(scope=scope(plans[batch])))
    for batch in ("begun", "planned"):
        run(incident, "detect", batch)
    assert incident.run("dry-run", "planned", work=incident.work(scope=scope("p", "p2"))).code is None
    foreign(incident)
    spoil(incident)
    claim(incident)
    stray(incident)
    incident.work()
    return incident


def ghost(
    incident: Incident, letter: str, *, symbol: str | None = None, quantity: str = "2", filled: str = "2"
) -> None:
    """A trade whose EXIT was lost."""
    cells = {"client_order_id": f"c-{letter}", "strategy": f"s-{letter}"}
    symbol = symbol or f"{letter.upper()}/USD"
    incident.ghost(f"t-{letter}", quantity, symbol=symbol, filled=filled, **cells)


def foreign(incident: Incident) -> None:
    """An approved batch of another profile."""
    incident.profile = "other"
    incident.row("entry-t-f", "t-f", "ENTRY", "2", symbol="F/USD", client_order_id="c-f", strategy="s-f")
    incident.fill("exit-t-f", "2", 60, symbol="F/USD")
    incident.plan(batch="foreign", work=incident.work(scope=scope("f")))
    incident.profile = "main"


def spoil(incident: Incident) -> None:
    """Approved plans that recon would never have made, as one who can write the table itself would leave them."""
    incident.tamper("UPDATE reconciliation_batches SET state = 'planned' WHERE batch_id = 'stale'")
    nan = FORGED % "'qty', 'NaN'"
    incident.tamper(f"UPDATE reconciliation_batches SET plan = {nan} WHERE batch_id = 'nan'")
    spoilt = {"no_id": "'order_id', 'by-hand-2'", "endless": "'price', 'Infinity'", "vast": "'qty', 'Infinity'",
              "minus": "'qty', '-1'", "no_go": "'decision', 'NO_GO'"}  # fmt: skip
    for batch, cell in spoilt.items():
        items = """jsonb_set(approval, '{items}', '["by-hand-2"]')""" if batch == "no_id" else "approval"
        copy(incident, batch, "word", plan=FORGED % cell, approval=items)
    copy(incident, "torn", "word", plan_digest="'another'")
    copy(incident, "failed", "word", state="'planned'", approval="NULL", plan='plan || \'{"failed_checks": ["x"]}\'')
    twice = "jsonb_set(plan, '{document,items}', (plan -> 'document' -> 'items') || (plan -> 'document' -> 'items'))"
    copy(incident, "double", "word", state="'planned'", approval="NULL", plan=twice)
    first = "jsonb_build_array(approval -> 'items' -> 0)"
    copy(incident, "narrow", "approved", approval=f"jsonb_set(approval, '{{items}}', {first})")


def claim(incident: Incident) -> None:
    """Batches that own what they should not: rows of another profile, rows of other hands, rows of another batch."""
    incident.row("BFILL-other", "t-f", "EXIT", "2", 60, symbol="F/USD", profile_id="other",
                 client_order_id="x", strategy="s")  # fmt: skip
    copy(incident, "skipper", "met", state="'applied'")
    copy(incident, "claims", "met", state="'applied'")
    for batch, profile, decision, row in (
        ("claims", "main", "APPLIED", "by-hand"), ("claims", "other", "APPLIED", "BFILL-other"),
    ):  # fmt: skip
        incident.tamper(
            """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id)
               VALUES (%s, %s, %s, %s)""", batch, profile, decision, row,
        )  # fmt: skip
    incident.tamper(
        """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id)
           SELECT 'skipper', profile_id, 'SKIP_EXISTING', backfill_order_id FROM reconciliation_backfill_audit
           WHERE batch_id = 'applied' AND decision = 'APPLIED'"""
    )


def stray(incident: Incident) -> None:
    """Rows that a door must tell from those of a plan: canceled by hand, not identical, or beside an ENTRY row."""
    for trade, symbol, action, status, profile, strategy in (
        ("t-a", "Q/USD", "ENTRY", "filled", "main", "s-symbol"), ("t-a", "A/USD", "EXIT", "filled", "main", "s-exit"),
        ("t-a", "A/USD", "ENTRY", "canceled", "main", "s-canceled"),
        ("t-a", "A/USD", "ENTRY", "filled", "other", "s-other"),
    ):  # fmt: skip
        incident.row(f"stray-{strategy}", trade, action, "1", 5, symbol=symbol, status=status, profile_id=profile,
                     client_order_id="c", strategy=strategy)  # fmt: skip
    for batch, action in (("hand", "EXIT"), ("way", "ENTRY")):
        incident.sql(AS_PLANNED.format(order_id="item ->> 'order_id'", action=f"'{action}'", of=batch, **AS_IT_IS))
    reinstating = FORGED % "'reason', 'reinstate'"
    incident.tamper(f"UPDATE reconciliation_batches SET plan = {reinstating} WHERE batch_id = 'way'")
    ids = [f"BFILL-skew-{name}" for name in SKEWED]
    items = ", ".join(
        f"(plan -> 'document' -> 'items' -> 0) || jsonb_build_object('order_id', '{order_id}', 'reason', 'reinstate')"
        for order_id in ids
    )
    copy(
        incident, "skewed", "word", plan=f"jsonb_set(plan, '{{document,items}}', jsonb_build_array({items}))",
        approval=f"jsonb_set(approval, '{{items}}', to_jsonb(ARRAY{ids}))",
    )  # fmt: skip
    for name, value in SKEWED.items():
        cells = {"order_id": f"'BFILL-skew-{name}'", "action": "'EXIT'"} | AS_IT_IS | {name: value}
        incident.sql(AS_PLANNED.format(of="word", **cells))
    incident.sql(
        """INSERT INTO orders SELECT (jsonb_populate_record(o, '{"order_id": "BFILL-double"}')).* FROM orders AS o
           WHERE trade_id = 't-u' AND action = 'EXIT'"""
    )
    incident.row("BFILL-lonely", "t-l", "EXIT", "1", 5, profile_id="lonely", client_order_id="c", strategy="s")
    for profile, symbol in (("main", "D2/USD"), ("other", "D/USD")):
        incident.row(f"stray-{profile}-{symbol}", "t-d", "ENTRY", "1", 5, symbol=symbol, profile_id=profile,
                     client_order_id="c", strategy="s-d")  # fmt: skip
    spread = """(plan -> 'document' -> 'items' -> 0) || '{"order_id": "BFILL-spread", "symbol": "D2/USD"}'"""
    copy(incident, "spread", "word", plan=f"jsonb_insert(plan, '{{document,items,0}}', {spread})")
    there = FORGED % "'order_id', 'BFILL-there'"
    approved = """jsonb_set(approval, '{items}', '["BFILL-there"]')"""
    copy(incident, "there", "word", profile_id="'other'", plan=there, approval=approved)
    dearer = FORGED % "'price', 7"
    copy(incident, "dearer", "approved", plan=dearer)
    copy(incident, "unaudited", "word", state="'applied'")
    copy(incident, "reopened", "hand", state="'applied'")
    copy(incident, "unaudited_too", "approved", state="'applied'")
    copy(incident, "left", "word", state="'rolled_back'")
    incident.row("BFILL-left", "t-d", "EXIT", "1", 5, symbol="D/USD", client_order_id="c", strategy="s")
    incident.tamper(
        """INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision, backfill_order_id)
           VALUES ('left', 'main', 'APPLIED', 'BFILL-left')"""
    )


AS_IT_IS = {
    "profile_id": "profile_id", "symbol": "item ->> 'symbol'", "trade_id": "item ->> 'trade_id'",
    "quantity": "(item ->> 'qty')::numeric", "qty": "(item ->> 'qty')::numeric",
    "price": "(item ->> 'price')::numeric", "filled_at": "(item ->> 'filled_at')::timestamptz",
    "side": "item ->> 'side'", "exchange_order_id": "item ->> 'exchange_order_id'",
}  # fmt: skip
SKEWED = {
    "profile_id": "'other'", "symbol": "'B/USD'", "trade_id": "'t-p'", "quantity": "3", "qty": "3", "price": "3",
    "filled_at": "timestamptz '2026-03-01 10:01:00+00'", "side": "'buy'", "exchange_order_id": "'x'",
}  # fmt: skip
"""Canceled rows that differ from their item in one cell each."""

AS_PLANNED = """INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price,
    filled_at, created_at, updated_at, side, exchange_order_id, client_order_id, strategy)
    SELECT {order_id}, {profile_id}, {symbol}, {trade_id}, {action}, 'canceled', {quantity}, {qty}, {price},
    {filled_at}, now(), now(), {side}, {exchange_order_id}, 'c', 's' FROM reconciliation_batches,
    jsonb_array_elements(plan -> 'document' -> 'items') AS item WHERE batch_id = '{of}'"""


def copy(incident: Incident, batch: str, of: str, **cells: str) -> None:
    """Another batch like one that is there, with other cells."""
    names = ("profile_id", "state", "scope", "plan", "plan_digest", "approval", "created_at", "created_by",
             "updated_at", "updated_by")  # fmt: skip
    values = ", ".join(cells.get(name, name) for name in names)
    incident.tamper(
        f"""INSERT INTO reconciliation_batches (batch_id, {", ".join(names)})
            SELECT '{batch}', {values} FROM reconciliation_batches WHERE batch_id = '{of}'"""
    )


def scope(*letters: str) -> Scope:
    """The trades of these letters."""
    return Scope(tuple(f"t-{letter}" for letter in letters))


def run(incident: Incident, stage: str, batch: str, **work: object) -> None:
    """Run a stage that must succeed."""
    result = incident.run(stage, batch, work=incident.work(**work))
    assert result.verdict in (Verdict.DONE, Verdict.GO), result.message


@contextmanager
def a_siege(engine: sa.Engine, folder: Path) -> Iterator[Incident]:
    """The besieged incident on an empty database."""
    with an_incident(engine, folder) as incident:
        yield besiege(incident)


def standing(incident: Incident) -> str:
    """Everything that a statement could have changed: rows, definitions, rights, roles."""
    [(found,)] = incident.sql(
        """SELECT md5(string_agg(part, E'\\n' ORDER BY part COLLATE "C")) FROM (
            SELECT 'o' || t::text FROM orders AS t
            UNION ALL SELECT 'a' || t::text FROM reconciliation_backfill_audit AS t
            UNION ALL SELECT 'b' || t::text FROM reconciliation_batches AS t
            UNION ALL SELECT 'e' || t::text FROM reconciliation_events AS t
            UNION ALL SELECT concat_ws(' ', 'c', oid, relname, relnamespace, relowner, relkind, relacl, reloptions,
                relrowsecurity) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace AND relpersistence = 'p'
            UNION ALL SELECT concat_ws(' ', 'f', oid, proname, proowner, proacl, md5(prosrc), proconfig) FROM pg_proc
                WHERE oid >= 16384
            UNION ALL SELECT concat_ws(' ', 't', tgrelid, tgname, tgenabled, tgfoid) FROM pg_trigger
            UNION ALL SELECT concat_ws(' ', 'r', ev_class, rulename, md5(ev_action::text)) FROM pg_rewrite
                WHERE oid >= 16384
            UNION ALL SELECT concat_ws(' ', 'k', attrelid, attname, atttypid, attacl) FROM pg_attribute
                WHERE attrelid >= 16384 AND attrelid::regclass::text !~ '^pg_'
            UNION ALL SELECT concat_ws(' ', 'm', roleid, member, admin_option) FROM pg_auth_members
            UNION ALL SELECT concat_ws(' ', 'u', rolname, rolsuper, rolcreaterole, rolinherit) FROM pg_roles
        ) AS parts (part)"""
    )
    return found


def login(incident: Incident, name: str) -> psycopg.Connection:
    """A connection of that person, in a transaction of its own; commit and roll back as it is asked."""
    url = incident.engine.url
    return psycopg.connect(host=url.query["host"], port=url.query["port"], dbname=url.database, user=name)
