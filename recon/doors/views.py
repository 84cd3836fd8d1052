"""The SQL of the doors: views of `orders` as it was reflected, each with `CASCADED CHECK OPTION`.

What a view lets through is said in its WHERE alone, so that PostgreSQL refuses everything else with SQLSTATE 44000 and
nothing is changed on `orders` itself. Each asks for the whole identity of a row at once, `(columns) IN (SELECT ...)`
without reference to the row: the plan is then read once a statement, however many rows it has. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import ClauseElement

from recon.domain import BACKFILL_PREFIX, CANCELED, FILLED
from recon.doors.names import CANCEL, INSERT, LOCK, OWNER, REINSTATE, WAY_BACK
from recon.orders import Orders

_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call] # or it would double a %

CLOCK = "clock_timestamp()"
"""What the doors take for the time; the demo, whose clock stands still, gives its own."""

ITEMS = """jsonb_to_recordset(plan -> 'document' -> 'items') AS item (
    order_id text, symbol text, trade_id text, side text, decision text, reason text, qty numeric, price numeric,
    filled_at timestamptz, exchange_order_id text)"""
"""The items of a plan, one row each."""


def door_statements(orders: Orders, clock: str = CLOCK) -> list[str]:
    """The statements that make the views anew, and the function beside them; their owner and grants come apart."""
    views = {
        LOCK: f"SELECT order_id FROM {_name(orders)} AS orders WHERE false",
        INSERT: _insert(orders, clock),
        REINSTATE: _reinstate(orders, clock),
        CANCEL: _cancel(orders),
    }
    statements = [f"DROP VIEW IF EXISTS {name}" for name in views]
    for name, query in views.items():
        check = "" if name == LOCK else "\nWITH CASCADED CHECK OPTION"
        statements.append(f"CREATE VIEW {name} AS\n{query}{check}")
    statements.append(_way_back(orders))
    return [*statements, *(f"ALTER VIEW {name} OWNER TO {OWNER}" for name in views)]


def _insert(orders: Orders, clock: str) -> str:
    columns = orders.writable
    stamps = " AND ".join(
        f"{_sql(orders.instant(name))} BETWEEN {clock} - interval '1 hour' AND {clock} + interval '1 second'"
        for name in ("created_at", "updated_at")
    )
    named = f"\n    AND {_sql(orders.text('client_order_id'))} = order_id" if "client_order_id" in columns else ""
    return f"""SELECT {_list(columns)}
FROM {_name(orders)} AS orders
WHERE {_sql(orders.text("action"))} = 'EXIT' AND {_sql(orders.text("status"))} = 'filled'
    AND {stamps}{named}
    AND {_identical(orders, clock, copied=True)}"""


def _reinstate(orders: Orders, clock: str) -> str:
    return f"""SELECT {_list(_KEYS)}, status, updated_at
FROM {_name(orders)} AS orders
WHERE {_sql(orders.text("action"))} = 'EXIT' AND {_sql(orders.text("status"))} IN ({_texts({"filled", *CANCELED})})
    AND {_identical(orders, clock, " AND item.reason = 'reinstate'")}"""


def _cancel(orders: Orders) -> str:
    return f"""SELECT {_list(_KEYS)}, status, updated_at
FROM {_name(orders)} AS orders
WHERE {_sql(orders.text("order_id"))} LIKE '{BACKFILL_PREFIX}%' AND {_sql(orders.text("action"))} = 'EXIT'
    AND {_sql(orders.text("status"))} IN ('filled', 'canceled')
    AND ({_sql(orders.text("profile_id"))}, {_sql(orders.text("order_id"))}) IN (
        SELECT audit.profile_id::text, audit.backfill_order_id::text
        FROM reconciliation_backfill_audit AS audit JOIN reconciliation_batches AS batch
            ON batch.batch_id = audit.batch_id::text AND batch.profile_id = audit.profile_id::text
        WHERE batch.state IN ('applied', 'validated', 'signed')
            AND audit.decision::text = 'APPLIED' AND audit.reverted_at IS NULL)"""


_KEYS = ("order_id", "profile_id")


def _identical(orders: Orders, clock: str, more: str = "", *, copied: bool = False) -> str:
    """The row is one that an approved, unexpired plan releases, in everything that recon writes."""
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
    if names.has_side:
        told.append((f"lower(btrim({_sql(orders.text('side'))}))", "item.side"))
    if names.has_exchange_order_id:
        told.append((_same_id(_sql(orders.text("exchange_order_id"))), _same_id("item.exchange_order_id")))
    entry: list[sa.Column[Any]] = [orders.table.c[name] for name in orders.copied] if copied else []
    told += [(f"quote_nullable({_sql(column)})", f"quote_nullable(entry.{_quoted(column.name)})") for column in entry]
    return f"""({", ".join(found for found, _ in told)}) IN (
        WITH approved AS MATERIALIZED (
            SELECT batch_id, profile_id, plan, approval FROM reconciliation_batches
            WHERE state = 'approved' AND approval ->> 'plan_digest' = plan_digest
                AND (approval ->> 'expires_at')::timestamptz > {clock}),
        item AS MATERIALIZED (
            SELECT approved.batch_id, approved.profile_id, item.*
            FROM approved CROSS JOIN LATERAL {ITEMS}
            WHERE item.decision <> 'NO_GO'{more}),
        released AS MATERIALIZED (
            SELECT batch_id, jsonb_array_elements_text(approval -> 'items') AS order_id FROM approved)
        SELECT {", ".join(wanted for _, wanted in told)}
        FROM item JOIN released USING (batch_id, order_id){_entries(orders) if entry else ""})"""


def _entries(orders: Orders) -> str:
    """Beside each item the ENTRY rows of its trade, from which columns unknown to recon are copied."""
    return f"""
        JOIN {_name(orders)} AS entry ON entry.profile_id::text = item.profile_id AND entry.symbol::text = item.symbol
            AND entry.trade_id::text = item.trade_id AND entry.action::text = 'ENTRY'
            AND entry.status::text IN ({_texts(FILLED)})"""


def _same_id(text: str) -> str:
    """NULL told from empty; two spellings of a UUID are one, as a uuid column has it."""
    pattern = "^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$"
    return f"quote_nullable(CASE WHEN {text} ~* '{pattern}' THEN lower(replace({text}, '-', '')) ELSE {text} END)"


def _way_back(orders: Orders) -> str:
    """Cancels one row and takes that back at once, whatever happens; answers why it cannot be, NULL when it can."""
    status = _DIALECT.type_compiler_instance.process(orders.table.c.status.type)
    return f"""CREATE OR REPLACE FUNCTION {WAY_BACK}(wanted text, profile text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE changed integer;
BEGIN
    UPDATE {_name(orders)} AS orders SET status = CAST('canceled' AS {status})
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
