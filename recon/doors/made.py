"""What `recon init --roles` made, written down in the database by itself, and what of it is different now.

The record is the comment of the inserting door, which only `recon_owner` or a superuser can change: a SHA-256 of each
view, trigger, function, rule and set of rights. Reading `orders` or recon's tables is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.audit import metadata
from recon.doors.names import CANCEL, INSERT, LOCK, OWNER, REINSTATE, TRIGGER_FUNCTIONS, WAY_BACK

TABLES = tuple(table.name for table in metadata.sorted_tables)
VIEWS = (LOCK, INSERT, REINSTATE, CANCEL)


def _array(function: str, names: Sequence[str]) -> str:
    return "ARRAY[{}]".format(", ".join(f"{function}('{name}')::oid" for name in names))


RELATIONS = _array("to_regclass", (*TABLES, *VIEWS))
FUNCTION_IDS = _array("to_regprocedure", (f"{WAY_BACK}(text, text)", *TRIGGER_FUNCTIONS))

_GRANTED = """coalesce((SELECT string_agg(CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END || '='
        || privilege_type || is_grantable, ',' ORDER BY grantee::regrole::text COLLATE "C", privilege_type COLLATE "C")
    FROM aclexplode({0}) WHERE privilege_type <> 'SELECT' AND grantee <> relowner), '')"""

PARTS = f"""
SELECT 'view ' || relname AS part, pg_get_viewdef(oid) || coalesce(reloptions::text, '') AS definition
FROM pg_class WHERE oid = ANY ({{relations}}) AND relkind = 'v'
UNION ALL
SELECT 'trigger ' || tgname || ' on ' || relname, tgenabled::text || pg_get_triggerdef(pg_trigger.oid)
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE tgrelid = ANY ({{relations}}) AND NOT tgisinternal
UNION ALL
SELECT 'function ' || proname || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')',
    pg_get_functiondef(pg_proc.oid) || proowner::regrole || {_GRANTED.format("proacl")}
FROM pg_proc, LATERAL (SELECT proowner AS relowner) AS owned WHERE oid = ANY ({{functions}})
UNION ALL
SELECT 'rule ' || rulename || ' on ' || relname, ev_enabled::text || pg_get_ruledef(pg_rewrite.oid)
FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class WHERE ev_class = ANY ({{relations}}) AND rulename <> '_RETURN'
UNION ALL
SELECT 'owner and rights of ' || relname, relowner::regrole || ' ' || relrowsecurity || {_GRANTED.format("relacl")}
FROM pg_class WHERE oid = ANY ({{relations}})
UNION ALL
SELECT 'rights on ' || attname || ' of ' || relname, {_GRANTED.format("attacl")}
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attrelid = ANY ({{relations}}) AND attacl IS NOT NULL AND NOT attisdropped
"""
"""Every part by name and as PostgreSQL tells it, while the search path is pg_catalog alone: then names are whole."""

RECORD = f"""DO $$
DECLARE
    path text := current_setting('search_path');
    relations oid[] := {RELATIONS};
    functions oid[] := {FUNCTION_IDS};
    made jsonb;
BEGIN
    PERFORM set_config('search_path', 'pg_catalog', true);
    SELECT jsonb_object_agg(part, encode(sha256(convert_to(definition, 'UTF8')), 'hex')) INTO made
    FROM ({PARTS.format(relations="relations", functions="functions")}) AS parts;
    PERFORM set_config('search_path', path, true);
    EXECUTE format('COMMENT ON VIEW {INSERT} IS %L', made);
END $$"""
"""The statement that writes the record; run at the end, by a member of `recon_owner`."""

SURPLUS = f"""DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT pg_class.oid::regclass AS relation, string_agg(DISTINCT privilege_type, ', ') AS rights,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee
        FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attacl IS NOT NULL,
            LATERAL (SELECT * FROM aclexplode(relacl) UNION ALL SELECT * FROM aclexplode(attacl)) AS acl
        WHERE pg_class.oid = ANY ({_array("to_regclass", TABLES)}) AND grantee <> relowner
            AND privilege_type <> 'SELECT'
        GROUP BY 1, 3
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s CASCADE', given.rights, given.relation, given.grantee);
    END LOOP;
END $$"""
"""Takes every right but SELECT on recon's tables from everybody; the views and their rights are made anew anyway."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is there now: `digest` over all of it and over the rights on `orders`, None where there is nothing.

    `changed` names what differs from the record; empty where there are no doors.
    """

    digest: str | None
    changed: tuple[str, ...]


def found(connection: Connection) -> Found:
    """The parts that are there, held against the record; reads only."""
    query = sa.text(
        f"""
        SELECT obj_description(to_regclass('{INSERT}'), 'pg_class'), {RELATIONS}, {FUNCTION_IDS},
            to_regclass('{INSERT}') IS NOT NULL, current_setting('search_path')
        """
    )
    recorded, relations, functions, has_doors, path = connection.execute(query).one()
    beside = _beside(connection) if has_doors else []
    every = sa.text(PARTS.format(relations="CAST(:relations AS oid[])", functions="CAST(:functions AS oid[])"))
    connection.execute(sa.select(sa.func.set_config("search_path", "pg_catalog", True)))
    rows = connection.execute(every, {"relations": relations, "functions": functions})
    parts: dict[str, str] = {part: definition for part, definition in rows if has_doors or _of_the_trail(part)}
    connection.execute(sa.select(sa.func.set_config("search_path", path, True)))
    told = sorted(f"{part} {definition}" for part, definition in parts.items()) + beside
    return Found(
        digest=_sha256("\n".join(told)) if told else None,
        changed=(*_differing(parts, recorded), *_owner(connection)) if has_doors else (),
    )


def _of_the_trail(part: str) -> bool:
    """Without doors, the triggers that keep the audit table append-only are all that recon made."""
    return part.startswith(("trigger ", "function "))


def granted_to(connection: Connection) -> list[str]:
    """Who can be `recon_owner`, which is for nobody; superusers, and who may only grant it, are let be. Reads only."""
    query = sa.text(
        """
        SELECT quote_ident(rolname) FROM pg_auth_members AS granted JOIN pg_roles ON pg_roles.oid = granted.member
        WHERE roleid = to_regrole(:owner) AND NOT rolsuper
        AND (coalesce((to_jsonb(granted) ->> 'inherit_option')::boolean, true)
            OR coalesce((to_jsonb(granted) ->> 'set_option')::boolean, true))
        GROUP BY rolname ORDER BY rolname
        """
    )
    return list(connection.execute(query, {"owner": OWNER}).scalars())


def _differing(parts: dict[str, str], recorded: str | None) -> list[str]:
    try:
        was = json.loads(recorded or "")
    except ValueError:
        was = None
    if not isinstance(was, dict):
        return ["the record of what was made (missing)"]
    now = {part: _sha256(definition) for part, definition in parts.items()}
    return [
        f"{part} ({'missing' if part not in now else 'added' if part not in was else 'changed'})"
        for part in sorted(was.keys() | now.keys())
        if was.get(part) != now.get(part)
    ]


def _owner(connection: Connection) -> list[str]:
    query = sa.text("SELECT rolcanlogin FROM pg_roles WHERE rolname = :owner")
    may_log_in = connection.execute(query, {"owner": OWNER}).scalar_one_or_none()
    members = granted_to(connection)
    return [
        *([f"role {OWNER} (missing)"] if may_log_in is None else []),
        *([f"role {OWNER} (may log in)"] if may_log_in else []),
        *([f"role {OWNER} (granted to {', '.join(members)})"] if members else []),
    ]


def _beside(connection: Connection) -> list[str]:
    """The rights on `orders`, and what `recon_owner` can be and who can be it: they may change, and show."""
    query = sa.text(
        """
        SELECT 'rights on orders ' || coalesce(relacl::text, '') || ' ' || relowner::regrole::text
        FROM pg_class WHERE oid = to_regclass('orders')
        UNION ALL
        SELECT 'rights on orders ' || attname || ' ' || attacl::text
        FROM pg_attribute WHERE attrelid = to_regclass('orders') AND attacl IS NOT NULL AND NOT attisdropped
        UNION ALL
        SELECT 'rule on orders ' || ev_enabled::text || ' ' || pg_get_ruledef(oid)
        FROM pg_rewrite WHERE ev_class = to_regclass('orders')
        UNION ALL
        SELECT 'owner ' || rolcanlogin || ' ' || coalesce((SELECT string_agg(member::regrole::text, ' '
            ORDER BY member::regrole::text) FROM pg_auth_members WHERE roleid = pg_roles.oid), '')
        FROM pg_roles WHERE rolname = :owner
        ORDER BY 1
        """
    )
    return list(connection.execute(query, {"owner": OWNER}).scalars())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
