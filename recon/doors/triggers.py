"""The SQL of the triggers behind the doors: a batch lives its legal life, and each role takes its own steps only.

What is refused for lack of a role ends with SQLSTATE 42501; what nobody may do with 23514, and the name of the rule as
its constraint. All of them are enabled always, so that a session in replica mode meets them too. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recon.batches import TRANSITIONS, Action
from recon.domain import Decision, State
from recon.doors.append_only import AUDIT, trigger
from recon.doors.names import Role
from recon.doors.views import CLOCK, ITEMS, MOVED, fresh

ROLE_OF: Mapping[Action, Role] = {
    Action.DETECT: Role.PLANNER,
    Action.DRY_RUN: Role.PLANNER,
    Action.VALIDATE: Role.PLANNER,
    Action.REFUTE: Role.PLANNER,
    Action.APPROVE: Role.APPROVER,
    Action.APPROVE_ROLLBACK: Role.APPROVER,
    Action.SIGN: Role.APPROVER,
    Action.APPLY: Role.APPLIER,
    Action.STALE: Role.APPLIER,
    Action.ROLLBACK: Role.UNDOER,
}
"""Who takes which step in the life of a batch."""

LIVE = (State.APPLIED, State.VALIDATED, State.SIGNED)
"""States of a batch that owns rows."""

PLANNING = (State.DETECTED, State.PLANNED, State.APPROVED)
"""States in which a batch may be planned."""

MAY_AUDIT: tuple[tuple[Decision, Role, tuple[State, ...]], ...] = (
    (Decision.DRY_RUN, Role.PLANNER, PLANNING),
    (Decision.NO_GO, Role.PLANNER, PLANNING),
    (Decision.PENDING_APPLY, Role.APPROVER, (State.APPROVED,)),
    (Decision.APPLIED, Role.APPLIER, (State.APPLIED,)),
    (Decision.SKIP_EXISTING, Role.APPLIER, LIVE),
    (Decision.NO_GO, Role.APPLIER, (State.APPLIED,)),
)
"""Who appends which decision to the audit trail, while the batch is in which state."""

BATCHES = "reconciliation_batches"


def guard_statements(schema: str, orders: str, clock: str = CLOCK) -> list[str]:
    """The statements that hold every batch, and what each role appends, to the rules.

    `schema` is that of recon's tables, `orders` the qualified name of the backend's. The functions see
    pg_catalog alone, so that nobody can put a function, an operator or a table of his own in the way.
    """
    return [
        _guard_batches(clock),
        *trigger("reconciliation_guard_batches", BATCHES, "BEFORE INSERT OR UPDATE", "FOR EACH ROW"),
        _never(),
        *trigger(
            "reconciliation_never_delete", BATCHES, "BEFORE DELETE OR TRUNCATE", "", function="reconciliation_never"
        ),
        _guard_audit(schema, orders, clock),
        *trigger(
            "reconciliation_guard_audit", AUDIT, "AFTER INSERT", "REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
        ),
        _guard_marks(schema, clock),
        *trigger(
            "reconciliation_guard_marks", AUDIT, "AFTER UPDATE", "REFERENCING NEW TABLE AS marked FOR EACH STATEMENT"
        ),
        _settle(schema, orders),
        f"DROP TRIGGER IF EXISTS reconciliation_settled ON {BATCHES}",
        f"""CREATE CONSTRAINT TRIGGER reconciliation_settled AFTER UPDATE ON {BATCHES} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION reconciliation_settled()""",
        f"ALTER TABLE {BATCHES} ENABLE ALWAYS TRIGGER reconciliation_settled",
    ]


_UNFIT = f"""NEW.state <> 'approved'
            OR (NEW.approval ->> 'plan_digest', NEW.approval ->> 'batch_id', NEW.approval ->> 'profile_id')
                IS DISTINCT FROM (NEW.plan_digest, NEW.batch_id, NEW.profile_id)
            OR NOT coalesce(NEW.approval ->> 'by', '') ~ '[^[:space:]]'
            OR jsonb_typeof(NEW.approval -> 'items') IS DISTINCT FROM 'array' OR NEW.approval -> 'items' = '[]'
            OR (NEW.approval ->> 'expires_at')::timestamptz IS NULL
            OR jsonb_array_length(NEW.plan -> 'failed_checks') > 0
            OR EXISTS (
                SELECT jsonb_array_elements_text(NEW.approval -> 'items')
                EXCEPT SELECT item.order_id FROM (SELECT NEW.plan) AS planned (plan)
                    CROSS JOIN LATERAL {ITEMS} WHERE item.decision = 'DRY_RUN'
                    GROUP BY item.order_id HAVING count(*) = 1)"""
"""What makes an approval none of this plan."""


def _guard_batches(clock: str) -> str:
    """A batch begins detected, keeps its name, and takes legal steps only, each by the role whose step it is."""
    steps = {
        (before.value, after.value, ROLE_OF[action].value)
        for (before, action), (after, _) in TRANSITIONS.items()
        if before is not None
    }
    return _function(
        "reconciliation_guard_batches",
        f"""
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'detected' OR num_nonnulls(
            NEW.scope, NEW.plan, NEW.plan_digest, NEW.approval, NEW.rollback_approval) > 0 THEN
            RAISE EXCEPTION 'a batch begins detected, without plan and approval'
                USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_begins';
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.batch_id, NEW.profile_id, NEW.created_at, NEW.created_by)
        IS DISTINCT FROM (OLD.batch_id, OLD.profile_id, OLD.created_at, OLD.created_by) THEN
        RAISE EXCEPTION 'a batch keeps its name, its profile and its beginning'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_identity';
    END IF;
    IF NOT EXISTS (SELECT FROM ({_values(steps)}) AS step (before, after, role)
        WHERE step.before = OLD.state AND step.after = NEW.state) THEN
        RAISE EXCEPTION 'a batch that is % cannot become %', OLD.state, NEW.state
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_step';
    END IF;
    IF NOT EXISTS (SELECT FROM ({_values(steps)}) AS step (before, after, role)
        WHERE step.before = OLD.state AND step.after = NEW.state AND pg_has_role(step.role, 'USAGE')) THEN
        RAISE EXCEPTION '% may not make a batch that is % become %', current_user, OLD.state, NEW.state
            USING ERRCODE = '42501';
    END IF;
    IF OLD.state = 'approved' AND NEW.state = 'applied'
        AND ((NEW.approval ->> 'expires_at')::timestamptz > {clock}) IS NOT TRUE THEN
        RAISE EXCEPTION 'the approval expired at %', NEW.approval ->> 'expires_at'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_expired';
    END IF;
    IF (NEW.scope, NEW.plan, NEW.plan_digest) IS DISTINCT FROM (OLD.scope, OLD.plan, OLD.plan_digest)
        OR NEW.approval IS NULL AND OLD.approval IS NOT NULL THEN
        IF NOT pg_has_role('{Role.PLANNER.value}', 'USAGE') THEN
            RAISE EXCEPTION '% may not plan', current_user USING ERRCODE = '42501';
        END IF;
        IF NEW.state <> 'planned' OR NEW.approval IS NOT NULL THEN
            RAISE EXCEPTION 'a new plan is not approved yet'
                USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_plan';
        END IF;
    ELSIF NEW.approval IS DISTINCT FROM OLD.approval THEN
        IF NOT pg_has_role('{Role.APPROVER.value}', 'USAGE') THEN
            RAISE EXCEPTION '% may not approve', current_user USING ERRCODE = '42501';
        END IF;
        IF {_UNFIT} THEN
            RAISE EXCEPTION 'the approval is not one of this plan'
                USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_approval';
        END IF;
    ELSIF NEW.state = 'approved' AND OLD.state <> 'approved' THEN
        RAISE EXCEPTION 'a plan is approved by an approval of its own'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_approval';
    END IF;
{_rollback_rule()}    RETURN NEW;""",
    )


def _rollback_rule() -> str:
    """Only the approver approves a rollback, and only that of a live batch."""
    return f"""    IF NEW.rollback_approval IS DISTINCT FROM OLD.rollback_approval THEN
        IF NOT pg_has_role('{Role.APPROVER.value}', 'USAGE') THEN
            RAISE EXCEPTION '% may not approve', current_user USING ERRCODE = '42501';
        END IF;
        IF NEW.rollback_approval IS NULL OR NEW.state <> OLD.state OR NEW.state NOT IN ({_texts(LIVE)}) THEN
            RAISE EXCEPTION 'only the rollback of a live batch can be approved'
                USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_batch_rollback';
        END IF;
    END IF;
"""


def _never() -> str:
    return """CREATE OR REPLACE FUNCTION reconciliation_never() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a batch is never deleted' USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_never';
END $$"""


def _guard_audit(schema: str, orders: str, clock: str) -> str:
    """Each role appends its own decisions, to a batch in the right state, and only about items of its plan."""
    allowed = [(decision.value, role.value, state.value) for decision, role, states in MAY_AUDIT for state in states]
    batches = f"{schema}.{BATCHES}"
    return _function(
        "reconciliation_guard_audit",
        f"""
    IF EXISTS (SELECT FROM added WHERE reverted_at IS NOT NULL) THEN
        RAISE EXCEPTION 'a new audit row is not reverted'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_audit_new';
    END IF;
    IF EXISTS (
        SELECT decision::text, batch_id::text, profile_id::text FROM added
        EXCEPT
        SELECT may.decision, batch.batch_id, batch.profile_id
        FROM ({_values(allowed)}) AS may (decision, role, state) JOIN {batches} AS batch USING (state)
        WHERE batch.batch_id IN (SELECT batch_id::text FROM added) AND pg_has_role(may.role, 'USAGE')
            AND (may.decision <> 'APPLIED' OR batch.{MOVED})) THEN
        RAISE EXCEPTION '% may not append such an audit row to this batch now', current_user USING ERRCODE = '42501';
    END IF;
    IF EXISTS (
        SELECT batch_id::text, plan_digest::text, backfill_order_id::text, symbol::text, trade_id::text,
            filled_qty::numeric, price::numeric, evidence_filled_at, exchange_order_id::text FROM added
        WHERE decision::text IN ('PENDING_APPLY', 'APPLIED', 'SKIP_EXISTING')
        EXCEPT (
        WITH touched AS MATERIALIZED (
            SELECT batch_id, plan_digest, plan, approval FROM {batches}
            WHERE batch_id IN (SELECT DISTINCT batch_id::text FROM added)),
        item AS MATERIALIZED (SELECT touched.batch_id, item.* FROM touched CROSS JOIN LATERAL {ITEMS}),
        released AS MATERIALIZED (
            SELECT batch_id, plan_digest, jsonb_array_elements_text(approval -> 'items') AS order_id FROM touched)
        SELECT released.batch_id, released.plan_digest, item.order_id, item.symbol, item.trade_id,
            item.qty, item.price, item.filled_at, item.exchange_order_id
        FROM released JOIN item USING (batch_id, order_id))) THEN
        RAISE EXCEPTION 'an audit row says what the approved plan does not'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_audit_item';
    END IF;
    IF EXISTS (
        SELECT FROM added LEFT JOIN {orders} AS orders ON orders.order_id::text = added.backfill_order_id::text
            AND orders.profile_id::text = added.profile_id::text
        WHERE added.decision::text IN ('APPLIED', 'SKIP_EXISTING') AND (orders.status::text = 'filled' AND
            CASE added.decision::text WHEN 'APPLIED' THEN orders.{MOVED} ELSE age(orders.xmin) > 0 END
            ) IS NOT TRUE) THEN
        RAISE EXCEPTION 'an audit row says applied of a row that this transaction did not write, or does not of one'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_audit_applied';
    END IF;
    IF EXISTS (SELECT FROM added WHERE decision::text = 'APPLIED' AND ({fresh("created_at", clock)}) IS NOT TRUE)
        OR EXISTS (
            SELECT FROM added JOIN {schema}.{AUDIT} AS audit ON audit.profile_id = added.profile_id
                AND audit.backfill_order_id = added.backfill_order_id
                JOIN {batches} AS batch ON batch.batch_id = audit.batch_id::text
            WHERE added.decision::text = 'APPLIED' AND audit.decision::text = 'APPLIED' AND batch.{MOVED}
            GROUP BY added.profile_id, added.backfill_order_id HAVING count(*) > 1) THEN
        RAISE EXCEPTION 'a row is applied by one batch at a time, and now'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_audit_once';
    END IF;
    RETURN NULL;""",
    )


def _guard_marks(schema: str, clock: str) -> str:
    """Audit rows are marked as reverted by the rollback that cancels the rows, in its own transaction."""
    return _function(
        "reconciliation_guard_marks",
        f"""
    IF EXISTS (
        SELECT batch_id::text FROM marked
        EXCEPT SELECT batch_id FROM {schema}.{BATCHES} WHERE state = 'rolled_back' AND {MOVED})
        OR EXISTS (SELECT FROM marked WHERE ({fresh("reverted_at", clock)}) IS NOT TRUE) THEN
        RAISE EXCEPTION 'audit rows are marked as reverted by the rollback of their batch, when it happens'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_audit_marks';
    END IF;
    RETURN NULL;""",
    )


def _settle(schema: str, orders: str) -> str:
    """At commit, what a batch became is so: every row audited and in `orders` as it should be, or nothing at all."""
    audit = f"{schema}.{AUDIT}"
    return _function(
        "reconciliation_settled",
        f"""
    IF NEW.state = 'approved' AND NEW.approval IS DISTINCT FROM OLD.approval AND EXISTS (
        SELECT jsonb_array_elements_text(NEW.approval -> 'items')
        EXCEPT SELECT audit.backfill_order_id::text FROM {audit} AS audit
        WHERE audit.profile_id::text = NEW.profile_id AND audit.batch_id::text = NEW.batch_id
            AND audit.decision::text = 'PENDING_APPLY' AND audit.{MOVED}) THEN
        RAISE EXCEPTION 'the batch is not approved: a released row is not audited'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_settled';
    END IF;
    IF OLD.state = 'approved' AND NEW.state = 'applied' AND EXISTS (
        SELECT jsonb_array_elements_text(NEW.approval -> 'items')
        EXCEPT SELECT audit.backfill_order_id::text FROM {audit} AS audit
            JOIN {orders} AS orders ON orders.order_id::text = audit.backfill_order_id::text
                AND orders.profile_id::text = NEW.profile_id
        WHERE audit.profile_id::text = NEW.profile_id AND audit.batch_id::text = NEW.batch_id
            AND audit.decision::text IN ('APPLIED', 'SKIP_EXISTING') AND orders.status::text = 'filled') THEN
        RAISE EXCEPTION 'the batch is not applied: an approved row is not there, or not audited'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_settled';
    END IF;
    IF OLD.state <> 'rolled_back' AND NEW.state = 'rolled_back' AND EXISTS (
        SELECT FROM {audit} AS audit
            LEFT JOIN {orders} AS orders ON orders.order_id::text = audit.backfill_order_id::text
                AND orders.profile_id::text = NEW.profile_id
        WHERE audit.profile_id::text = NEW.profile_id AND audit.batch_id::text = NEW.batch_id
            AND (audit.reverted_at IS NULL OR audit.decision::text = 'APPLIED' AND orders.status::text = 'filled'
                AND NOT EXISTS (SELECT FROM {audit} AS other
                    WHERE other.profile_id = audit.profile_id AND other.decision::text = 'APPLIED'
                        AND other.backfill_order_id = audit.backfill_order_id AND other.reverted_at IS NULL))) THEN
        RAISE EXCEPTION 'the batch is not rolled back: a row of its own is filled, or an audit row not marked'
            USING ERRCODE = '23514', CONSTRAINT = 'reconciliation_settled';
    END IF;
    RETURN NULL;""",
    )


def _function(name: str, body: str) -> str:
    return f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN{body}
END $$"""


def _values(rows: Iterable[tuple[str, ...]]) -> str:
    return "VALUES " + ", ".join(f"({_texts(row)})" for row in sorted(rows))


def _texts(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
