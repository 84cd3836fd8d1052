"""Sequences from which new rows draw, and whether those who insert them may. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon import audit
from recon.doors.access import exist
from recon.doors.names import Role

AUDIT, BATCHES, EVENTS = (table.name for table in (audit.audit_table, audit.batches_table, audit.events_table))

INSERTING: Mapping[str, Sequence[Role]] = {
    "orders": (Role.APPLIER,),
    AUDIT: (Role.PLANNER, Role.APPROVER, Role.APPLIER),
    BATCHES: (Role.PLANNER,),
    EVENTS: (Role.PLANNER,),
}
"""Who inserts into which table; a backend's own table may draw its ids from a sequence."""


_DRAWN = """
    SELECT DISTINCT sequence.oid AS id, sequence.oid::regclass::text AS name
    FROM pg_attrdef
    JOIN pg_depend ON pg_depend.classid = 'pg_attrdef'::regclass AND pg_depend.objid = pg_attrdef.oid
    AND refclassid = 'pg_class'::regclass
    JOIN pg_class AS sequence ON sequence.oid = refobjid
    WHERE adrelid = to_regclass(:table) AND relkind = 'S'
"""


def default_sequences(connection: Connection, table: str) -> list[str]:
    """The sequences from which defaults of the table draw, but not those of identity columns, which need no right."""
    query = sa.text(f"SELECT name FROM ({_DRAWN}) AS drawn ORDER BY name")
    return list(connection.execute(query, {"table": table}).scalars())


def closed_sequences(connection: Connection, table: str) -> list[str]:
    """Of those, the ones that whoever inserts into the table may not draw from, each as the GRANT that helps.

    Behind the doors recon's roles insert, else this login, if it may insert at all.
    """
    query = sa.text(
        f"""
        SELECT format('GRANT USAGE ON SEQUENCE %s TO %I', drawn.name, rolname)
        FROM ({_DRAWN}) AS drawn, pg_roles
        WHERE NOT has_sequence_privilege(pg_roles.oid, drawn.id, 'USAGE, UPDATE') AND CASE WHEN :doors
            THEN rolname = ANY (CAST(:roles AS text[]))
            ELSE rolname = current_user AND has_table_privilege(to_regclass(:table), 'INSERT') END
        ORDER BY drawn.name, rolname
        """
    )
    given = {"table": table, "roles": [role.value for role in INSERTING[table]], "doors": exist(connection)}
    return list(connection.execute(query, given).scalars())
