"""The SQL of the doors: views of `orders` as it was reflected, each with `CASCADED CHECK OPTION`.

What a view lets through is said in its WHERE alone, so that PostgreSQL refuses everything else with SQLSTATE 44000 and
nothing is changed on `orders` itself. Each asks for the whole identity of a row at once, `(columns) IN (SELECT ...)`
without reference to the row: the plan is then read once a statement, however many rows it has.

A door is open only in the transaction that moved its batch, applied or rolled_back, and for each row until that has its
audit row or its mark: what is done stands in the trail when the transaction ends, all of it or nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import ClauseElement

from recon.domain import BACKFILL_PREFIX, CANCELED, FILLED
from recon.doors.names import CANCEL, INSERT, LOCK, OWNER, REINSTATE, WAY_BACK
from recon.orders import Orders, spelled_like

_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
"""Without the driver's way with parameters, so that a percent sign stays one."""

CLOCK = "clock_timestamp()"
"""What the doors take for the time; the demo, whose clock stands still, gives its own."""

MOVED = "xmin = pg_current_xact_id_if_assigned()::xid"
"""This row version is of this very transaction, outside of savepoints."""

ITEMS = """jsonb_to_recordset(plan -> 'document' -> 'items') AS item (
    order_id text, symbol text, trade_id text, side text, decision text, reason text, qty numeric, price numeric,
    filled_at timestamptz, exchange_order_id text)"""
"""The items of a plan, one row each."""


def fresh(instant: str, clock: str) -> str:
    """The condition that an instant is about now: a stage takes its clock once, and then works."""
    return f"{instant} BETWEEN {clock} - interval '1 hour' AND {clock} + interval '1 second'"


def door_statements(orders: Orders, schema: str, clock: str = CLOCK) -> list[str]:
    """The statements that make the views anew, and the function beside them; their owner and grants come apart.

    `schema` is that of `orders`.
    """
    views = {
        LOCK: f"SELECT order_id FROM {_name(orders)} AS orders WHERE false",
        INSERT: _insert(orders, clock),
        REINSTATE: _reinstate(orders, clock),
        CANCEL: _cancel(orders, clock),
    }
    statements = [f"DROP VIEW IF EXISTS {name}" for name in views]
    for name, query in views.items():
        check = "" if name == LOCK else "\nWITH CASCADED CHECK OPTION"
        statements.append(f"CREATE VIEW {name} AS\n{query}{check}")
    statements.append(_way_back(orders, schema))
    return [*statements, *(f"ALTER VIEW {name} OWNER TO {OWNER}" for name in views)]


def _insert(orders: Orders, clock: str) -> str:
    columns = orders.writable
    stamps = " AND ".join(fresh(_sql(orders.instant(name)), clock) for name in ("created_at", "updated_at"))
    named = f"\n    AND {_sql(orders.text('client_order_id'))} = order_id" if "client_order_id" in columns else ""
    return f"""SELECT {_list(columns)}
FROM {_name(orders)} AS orders
WHERE {_sql(orders.text("action"))} = 'EXIT' AND {_sql(orders.text("status"))} = 'filled'
    AND {stamps}{named}
    AND {_identical(orders, clock)}{_like_entry(orders)}"""


def _reinstate(orders: Orders, clock: str) -> str:
    status = _sql(orders.text("status"))
    return f"""SELECT {_list(_KEYS)}, status, updated_at
FROM {_name(orders)} AS orders
WHERE {_sql(orders.text("action"))} = 'EXIT'
    AND ({status} IN ({_texts(CANCELED)}) OR {status} = 'filled' AND {_stamped(orders, clock)})
    AND {_identical(orders, clock, " AND item.reason = 'reinstate'")}"""


def _cancel(orders: Orders, clock: str) -> str:
    status = _sql(orders.text("status"))
    return f"""SELECT {_list(_KEYS)}, status, updated_at
FROM {_name(orders)} AS orders
WHERE ({status} = 'filled' OR {status} = 'canceled' AND {_stamped(orders, clock)})
    AND ({_sql(orders.text("profile_id"))}, {_sql(orders.text("order_id"))}) IN (
        SELECT audit.profile_id::text, audit.backfill_order_id::text
        FROM reconciliation_backfill_audit AS audit JOIN reconciliation_batches AS batch
            ON batch.batch_id = audit.batch_id::text AND batch.profile_id = audit.profile_id::text
        WHERE batch.state = 'rolled_back' AND batch.{MOVED}
            AND audit.decision::text = 'APPLIED' AND audit.reverted_at IS NULL
            AND audit.backfill_order_id::text LIKE '{BACKFILL_PREFIX}%'
            AND NOT EXISTS (SELECT FROM reconciliation_backfill_audit AS later
                WHERE later.profile_id = audit.profile_id AND later.backfill_order_id = audit.backfill_order_id
                AND later.decision::text = 'APPLIED' AND later.reverted_at IS NULL
                AND later.created_at > audit.created_at))"""


def _stamped(orders: Orders, clock: str) -> str:
    return fresh(_sql(orders.instant("updated_at")), clock)


_KEYS = ("order_id", "profile_id")


def _identical(orders: Orders, clock: str, more: str = "") -> str:
    """The row is one that an approved, unexpired plan releases, in everything that recon writes.

    What makes an item sound is one column of its own, because the planner takes a join of few rows for a loop.
    """
    names = orders.columns
    pairs: list[tuple[ClauseElement, str]] = [
        (orders.text("profile_id"), "item.profile_id"),
        (orders.text("order_id"), "item.order_id"),
        (orders.text("symbol"), "item.symbol"),
        (orders.text("trade_id"), "item.trade_id"),
        (orders.number("quantity"), "item.qty"),
        (orders.number("qty"), "item.qty"),
        (orders.number("price"), "item.price"),
        (orders.instant("filled_at"), "item.filled_at"),
    ]
    told: list[tuple[str, str]] = [(_sql(found), wanted) for found, wanted in pairs]
    if names.has_side and orders.sides:
        cases = " ".join(f"WHEN '{word}' THEN {_sql(sa.literal(label))}" for word, label in orders.sides.items())
        told.append((_sql(orders.text("side")), f"CASE item.side {cases} END"))
    elif names.has_side:
        told.append((f"lower(btrim({_sql(orders.text('side'))}))", "item.side"))
    if names.has_exchange_order_id:
        same = _same_uuid if names.exchange_order_id_is_uuid else _same_text
        told.append((same(_sql(orders.text("exchange_order_id"))), same("item.exchange_order_id")))
    return f"""({", ".join(found for found, _ in told)}) IN (
        WITH moved AS MATERIALIZED (
            SELECT batch_id, profile_id, plan, approval FROM reconciliation_batches
            WHERE state = 'applied' AND {MOVED} AND approval ->> 'plan_digest' = plan_digest
                AND (approval ->> 'expires_at')::timestamptz > {clock}),
        item AS MATERIALIZED (
            SELECT moved.batch_id, moved.profile_id, item.*, item.decision = 'DRY_RUN'
                AND item.order_id LIKE '{BACKFILL_PREFIX}%'
                AND item.qty > 0 AND item.qty < 'Infinity' AND abs(item.price) < 'Infinity'{more} AS is_sound
            FROM moved CROSS JOIN LATERAL {ITEMS}),
        released AS MATERIALIZED (
            SELECT batch_id, jsonb_array_elements_text(approval -> 'items') AS order_id FROM moved
            EXCEPT SELECT moved.batch_id, audit.backfill_order_id::text
                FROM moved JOIN reconciliation_backfill_audit AS audit
                    ON audit.profile_id::text = moved.profile_id AND audit.batch_id::text = moved.batch_id
                WHERE audit.decision::text IN ('APPLIED', 'SKIP_EXISTING'))
        SELECT {", ".join(wanted for _, wanted in told)}
        FROM item JOIN released USING (batch_id, order_id) WHERE item.is_sound)"""


def _like_entry(orders: Orders) -> str:
    """The row is spelled like an ENTRY row of its trade, and holds what is copied from it; empty where nothing is."""
    told = [(_sql(orders.text(name)), f"entry.{name}::text") for name in ("profile_id", "symbol", "trade_id")]
    words = ""
    if orders.columns.has_side and not orders.sides:
        spelled = spelled_like(sa.literal_column("entry.side::text", sa.Text), sa.literal_column("word.side", sa.Text))
        told.append((_sql(orders.text("side")), _sql(spelled)))
        words = " CROSS JOIN (VALUES ('buy'), ('sell')) AS word (side)"
    for name in orders.copied:
        told.append((_same_text(_sql(orders.table.c[name])), _same_text(f"entry.{_quoted(name)}")))
    if len(told) == 3:
        return ""
    return f"""
    AND ({", ".join(found for found, _ in told)}) IN (
        SELECT {", ".join(wanted for _, wanted in told)}
        FROM {_name(orders)} AS entry{words}
        WHERE entry.action::text = 'ENTRY' AND entry.status::text IN ({_texts(FILLED)})
            AND (entry.profile_id::text, entry.symbol::text, entry.trade_id::text) IN (
                SELECT batch.profile_id, item.symbol, item.trade_id
                FROM reconciliation_batches AS batch CROSS JOIN LATERAL {ITEMS} WHERE batch.{MOVED}))"""


def _same_text(text: str) -> str:
    """NULL told from empty."""
    return f"quote_nullable({text})"


def _same_uuid(text: str) -> str:
    """As a uuid column has it; what is no UUID is in no such column."""
    pattern = "^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$"
    return f"quote_nullable(CASE WHEN {text} ~* '{pattern}' THEN lower(replace({text}, '-', '')) ELSE {text} END)"


def _way_back(orders: Orders, schema: str) -> str:
    """Cancels one row and takes that back at once, whatever happens; answers why it cannot be, NULL when it can."""
    name = f"{schema}.{_name(orders)}"
    return f"""CREATE OR REPLACE FUNCTION {WAY_BACK}(wanted text, profile text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed integer;
    after {name}.status%TYPE := 'canceled';
BEGIN
    UPDATE {name} AS orders SET status = after
    WHERE {_sql(orders.text("order_id"))} = wanted AND {_sql(orders.text("profile_id"))} = profile
        AND wanted LIKE '{BACKFILL_PREFIX}%' AND {_sql(orders.text("status"))} = 'filled';
    GET DIAGNOSTICS changed = ROW_COUNT;
    RAISE EXCEPTION USING ERRCODE = 'RC000', MESSAGE = changed;
EXCEPTION
    WHEN SQLSTATE 'RC000' THEN
        RETURN CASE WHEN changed = 1 THEN NULL ELSE 'the update changed ' || changed || ' rows' END;
    WHEN OTHERS THEN
        RETURN SQLERRM;
END $$"""


def _sql(expression: ClauseElement) -> str:
    return str(expression.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


def _name(orders: Orders) -> str:
    return _DIALECT.identifier_preparer.format_table(orders.table)


def _quoted(name: str) -> str:
    return _DIALECT.identifier_preparer.quote(name)


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(_quoted, names))


def _texts(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in sorted(words))
