"""The SQL of the two triggers that keep the audit table append-only (rules.md 11). Pure."""

from __future__ import annotations

AUDIT = "reconciliation_backfill_audit"
"""The table that they are on."""


ROW_TYPE, EMPTY_TYPE = 27, 34
"""pg_trigger.tgtype of BEFORE UPDATE OR DELETE FOR EACH ROW, and of BEFORE TRUNCATE FOR EACH STATEMENT."""

BODY = """
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.reverted_at IS NULL AND NEW.reverted_at IS NOT NULL
            AND (to_jsonb(OLD) - 'reverted_at')::text = (to_jsonb(NEW) - 'reverted_at')::text THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only: % is refused, but for reverted_at, which is set once', TG_OP
        USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_append_only';
END """
"""What the function of both triggers is, as pg_proc.prosrc has it."""


def append_only_statements() -> list[str]:
    """The statements that keep the audit table append-only, but for reverted_at, which is set once (rules.md 11)."""
    return [
        f"""CREATE OR REPLACE FUNCTION reconciliation_append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $${BODY}$$""",
        *trigger("reconciliation_append_only", AUDIT, "BEFORE UPDATE OR DELETE", "FOR EACH ROW"),
        *trigger("reconciliation_never_empty", AUDIT, "BEFORE TRUNCATE", "", function="reconciliation_append_only"),
    ]


def trigger(name: str, table: str, when: str, each: str, *, function: str | None = None) -> list[str]:
    """The statements that put a trigger on a table anew, enabled always; its function has the same name by default."""
    return [
        f"DROP TRIGGER IF EXISTS {name} ON {table}",
        f"CREATE TRIGGER {name} {when} ON {table} {each} EXECUTE FUNCTION {function or name}()",
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
    ]
