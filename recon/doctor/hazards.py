"""What else acts when recon writes to `orders`: triggers and rewrite rules."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.doctor.asking import Finding
from recon.doors.trial import fired, remedy

ROW, BEFORE, INSERT, UPDATE = 1, 2, 4, 16
"""Bits of pg_trigger.tgtype."""


def triggers(connection: Connection) -> Finding:
    """The triggers that fire when recon inserts or updates a row; they stop nothing by being there."""
    query = sa.text(
        """
        SELECT tgname::text, tgtype FROM pg_trigger
        WHERE (tgrelid = to_regclass('orders')
               OR tgrelid IN (SELECT relid FROM pg_partition_tree(to_regclass('orders')))) -- a row goes to one of them
        AND NOT tgisinternal AND tgparentid = 0 AND tgenabled IN ('O', 'A') AND tgtype & :written <> 0
        ORDER BY tgname, tgrelid
        """
    )
    found = [f"{name} ({_when(kind)})" for name, kind in connection.execute(query, {"written": INSERT | UPDATE})]
    if not found:
        return True, "none fires on INSERT or UPDATE of orders"
    told = remedy(fired(connection))
    return True, (
        f"{', '.join(found)} will fire for recon's rows. A trigger may alter or drop a row, or act on other tables: "
        "see that it leaves BFILL- rows alone; validate finds a row that is not as planned"
        f"{told and f'. A row must also let itself be canceled again. {told}'}"
    )


def _when(kind: int) -> str:
    events = [name for name, bit in (("INSERT", INSERT), ("UPDATE", UPDATE)) if kind & bit]
    return f"{'BEFORE' if kind & BEFORE else 'AFTER'} {' OR '.join(events)}{', each row' if kind & ROW else ''}"


def rules(connection: Connection) -> Finding:
    """The rewrite rules beside which PostgreSQL refuses recon's ON CONFLICT; on UPDATE even a disabled one counts."""
    query = sa.text(
        """
        SELECT CASE ev_type WHEN '2' THEN 'DROP RULE ' || quote_ident(rulename) || ' ON orders'
                            ELSE 'ALTER TABLE orders DISABLE RULE ' || quote_ident(rulename) END
        FROM pg_rewrite
        WHERE ev_class = to_regclass('orders') AND (ev_type = '2' OR ev_type = '3' AND ev_enabled IN ('O', 'A'))
        ORDER BY rulename
        """
    )
    remedies = list(connection.execute(query).scalars())
    if not remedies:
        return True, "none on INSERT or UPDATE of orders"
    return False, (
        f"expected no rule on INSERT or UPDATE of orders, found {len(remedies)}: PostgreSQL refuses INSERT ... ON "
        "CONFLICT beside one, and a rule may redirect rows. For the time of the repair, keeping what pg_get_ruledef "
        f"says of a rule that you drop: {'; '.join(remedies)};"
    )
