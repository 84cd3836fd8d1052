"""What the backend's triggers meet when apply tries, behind the doors, whether a row could be canceled again.

The trial is the function `names.WAY_BACK`. It runs as recon_owner, who is nobody, and sees pg_catalog and pg_temp
alone, so that nobody can slip in a table or function of theirs; a trigger that fires in it runs so too (rules.md 14).
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.doors.names import OWNER, WAY_BACK


@dataclass(frozen=True, slots=True)
class TriggerFunction:
    """A function that the trial fires: its name with arguments, and whether it sets a search_path of its own."""

    name: str
    has_path: bool


def fired(connection: Connection) -> list[TriggerFunction]:
    """The functions of the triggers on `orders` that fire in the trial, by name; none without doors. Reads only.

    The trial updates status alone, and ends before a deferred trigger would fire. A function that sets its path and is
    SECURITY DEFINER runs there as everywhere.
    """
    query = sa.text(
        """
        WITH sets AS (SELECT oid, prosecdef, EXISTS (
            SELECT FROM unnest(proconfig) AS setting WHERE setting LIKE 'search_path=%') AS has_path FROM pg_proc)
        SELECT DISTINCT sets.oid::regprocedure::text AS name, has_path
        FROM pg_trigger JOIN sets ON sets.oid = tgfoid
        WHERE to_regprocedure(:trial) IS NOT NULL AND NOT (has_path AND prosecdef)
        AND (tgrelid = to_regclass('orders') OR tgrelid IN (SELECT relid FROM pg_partition_tree(to_regclass('orders'))))
        AND NOT tgisinternal AND NOT tginitdeferred AND tgenabled IN ('O', 'A') AND tgtype & 16 <> 0
        AND (tgattr::text = '' OR EXISTS (SELECT FROM pg_attribute
            WHERE attrelid = tgrelid AND attname = 'status' AND attnum = ANY (tgattr)))
        ORDER BY name
        """
    )
    found = connection.execute(query, {"trial": f"{WAY_BACK}(text, text)"})
    return [TriggerFunction(name, has_path) for name, has_path in found]


def remedy(functions: list[TriggerFunction]) -> str:
    """For people: how trigger functions run in the trial, and what makes them run there; empty for none."""
    if not functions:
        return ""
    told = (
        f"Behind the doors apply tries that as {OWNER} with search_path pg_catalog, pg_temp, and trigger functions run "
        f"so too, here {', '.join(one.name for one in functions)}: grant {OWNER} what they need"
    )
    if bare := [one.name for one in functions if not one.has_path]:
        alter = f"`ALTER FUNCTION {bare[0]} SET search_path = ...`"
        told += f", and qualify every name in {', '.join(bare)}, or give it a search_path of its own, as in {alter}"
    return told
