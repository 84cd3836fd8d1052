"""Doors with one condition less, one column less, one step or one right more: each must be noticed by an attack.

`MUTANTS` are changes of the text of the statements that `recon.doors` makes; each must change exactly one statement.
`RIGHTS` are grants that recon does not give. Some lie behind two rules, so that the attack that one rule lets go is
stopped by the other, with another SQLSTATE than before: those are noticed, and nothing gets through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from doors.siege import CLOCK
from recon.doors.names import CANCEL, INSERT, OWNER, REINSTATE, WAY_BACK, Role
from recon.doors.triggers import MAY_AUDIT


@dataclass(frozen=True)
class Mutant:
    """A statement, found by its beginning, in which a text becomes another; `who` are the people who might notice."""

    name: str
    begins: str
    old: str
    new: str
    who: tuple[str, ...] = ()

    def applied(self, statements: Sequence[str]) -> tuple[str, str]:
        """The statement as it was, and as it is now."""
        [statement] = [one for one in statements if one.startswith(self.begins)]
        changed = statement.replace(self.old, self.new, 1)
        assert changed != statement, f"{self.name}: {self.old!r} is not in {self.begins}"
        return statement, changed


def function(name: str) -> str:
    """How the statement of a trigger's function begins."""
    return f"CREATE OR REPLACE FUNCTION reconciliation_{name}("


def dropped(prefix: str, begins: str, who: tuple[str, ...], *conditions: str) -> Iterator[Mutant]:
    """One condition less, each."""
    for number, condition in enumerate(conditions, 1):
        yield Mutant(f"{prefix} {number}: without {' '.join(condition.split())[:70]}", begins, condition, "", who)


def _doors() -> Iterator[Mutant]:
    view = {name: f"CREATE VIEW {name} AS" for name in (INSERT, REINSTATE, CANCEL)}
    fresh = f" BETWEEN {CLOCK} - interval '1 hour' AND {CLOCK} + interval '1 second'"
    an_applier, undo = ("an_applier",), ("an_undoer", "all_five")
    yield from dropped(
        "insert", view[INSERT], an_applier,
        "CAST(orders.action AS TEXT) = 'EXIT' AND ", " AND CAST(orders.status AS TEXT) = 'filled'",
        f" AND orders.created_at{fresh}", f" AND orders.updated_at{fresh}",
        "    AND CAST(orders.client_order_id AS TEXT) = order_id\n", "WITH CASCADED CHECK OPTION",
    )  # fmt: skip
    for name in ("created_at", "updated_at"):
        bounds = f"orders.{name}{fresh}"
        begin = bounds.replace(f"BETWEEN {CLOCK} - interval '1 hour'", "BETWEEN '-infinity'")
        end = bounds.replace(f"AND {CLOCK} + interval '1 second'", "AND 'infinity'")
        yield Mutant(f"insert: {name} of any past", view[INSERT], bounds, begin, an_applier)
        yield Mutant(f"insert: {name} of any future", view[INSERT], bounds, end, an_applier)
    keys = ("profile_id", "order_id", "symbol", "trade_id")
    cells = [f"item.{name}" for name in (*keys, "qty", "qty", "price", "filled_at")]
    names = (*keys, "quantity", "qty", "price", "filled_at")
    plain = ", ".join(cells)
    for door in (INSERT, REINSTATE):
        for place, name in enumerate(names):
            loose = ", ".join([*cells[:place], f"orders.{name}", *cells[place + 1 :]])
            yield Mutant(f"{door[20:]}: any {name}", view[door], f"SELECT {plain}", f"SELECT {loose}", an_applier)
        for name, wanted in (("exchange_order_id", "quote_nullable(item.exchange_order_id)"),):
            yield Mutant(
                f"{door[20:]}: any {name}", view[door], f", {wanted}", f", quote_nullable(orders.{name})", an_applier
            )
        for number, condition in enumerate((
            "state = 'applied' AND ", "xmin = pg_current_xact_id_if_assigned()::xid AND ",
            "approval ->> 'plan_digest' = plan_digest\n                AND ",
            f"\n                AND (approval ->> 'expires_at')::timestamptz > {CLOCK}",
            "item.decision = 'DRY_RUN'\n                AND ", "item.order_id LIKE 'BFILL-%'\n                AND ", "item.qty > 0 AND ",
            "item.qty < 'Infinity' AND ", " AND abs(item.price) < 'Infinity'", "batch_id, ",
        )):  # fmt: skip
            if door == INSERT:
                text = "USING (batch_id, order_id)" if condition == "batch_id, " else condition
                new = "USING (order_id)" if condition == "batch_id, " else ""
                yield Mutant(f"insert, of the plan {number}", view[door], text, new, an_applier)
    yield Mutant(
        "insert: any strategy",
        view[INSERT],
        "quote_nullable(entry.strategy)",
        "quote_nullable(orders.strategy)",
        an_applier,
    )
    spelled = "CASE WHEN (entry.side::text = upper(entry.side::text)) THEN upper(word.side) WHEN"
    yield Mutant(
        "insert: any spelling of side", view[INSERT], spelled, "CASE WHEN true THEN orders.side WHEN", an_applier
    )
    yield Mutant("insert: any side", view[INSERT], ", item.side, ", ", lower(btrim(orders.side)), ", an_applier)
    yield Mutant("reinstate: any side", view[REINSTATE], ", item.side, ", ", lower(btrim(orders.side)), ", an_applier)
    yield from dropped(
        "insert, beside the ENTRY", view[INSERT], an_applier,
"entry.action::text = 'ENTRY' AND ",
        " AND entry.status::text IN ('filled', 'partially-filled', 'partially_filled')",
    )  # fmt: skip
    for name in ("trade_id",):  # the other two are those of the plan
        yield Mutant(
            f"insert: like an ENTRY of another {name}",
            view[INSERT],
            f"entry.{name}::text, ",
            f"orders.{name}, ",
            an_applier,
        )
    yield Mutant(
        "insert: rows that are audited", view[INSERT], "IN ('APPLIED', 'SKIP_EXISTING')", "= 'NEVER'", an_applier
    )
    yield Mutant(
        "insert: rows that were not released",
        view[INSERT],
        "FROM item JOIN released USING (batch_id, order_id)",
        "FROM item CROSS JOIN (SELECT 1) AS released",
        an_applier,
    )
    yield Mutant(
        "reinstate: rows that were not released",
        view[REINSTATE],
        "FROM item JOIN released USING (batch_id, order_id)",
        "FROM item CROSS JOIN (SELECT 1) AS released",
        an_applier,
    )
    yield Mutant(
        "reinstate: rows that are audited", view[REINSTATE], "IN ('APPLIED', 'SKIP_EXISTING')", "= 'NEVER'", an_applier
    )
    yield from dropped(
        "reinstate", view[REINSTATE], an_applier, "CAST(orders.action AS TEXT) = 'EXIT'\n    AND ", f" AND orders.updated_at{fresh}",
        " AND item.reason = 'reinstate'", "xmin = pg_current_xact_id_if_assigned()::xid AND ", "WITH CASCADED CHECK OPTION",
    )  # fmt: skip
    yield Mutant(
        "reinstate: any status",
        view[REINSTATE],
        "IN ('canceled', 'cancelled')",
        "IN ('canceled', 'cancelled', 'new')",
        an_applier,
    )
    yield from dropped(
        "cancel", view[CANCEL], undo, f" AND orders.updated_at{fresh}", "batch.state = 'rolled_back' AND ",
        "batch.xmin = pg_current_xact_id_if_assigned()::xid\n            AND ", "audit.decision::text = 'APPLIED' AND ",
        " AND audit.reverted_at IS NULL", " AND batch.profile_id = audit.profile_id::text",
        "\n            AND audit.backfill_order_id::text LIKE 'BFILL-%'", "WITH CASCADED CHECK OPTION",
        "AND later.created_at > audit.created_at", "AND later.decision::text = 'APPLIED' ",
    )  # fmt: skip
    yield Mutant("cancel: rows that others own", view[CANCEL], "AND NOT EXISTS", "AND true OR NOT EXISTS", undo)
    yield Mutant("cancel: any status", view[CANCEL], "= 'canceled' AND", "IN ('canceled', 'new') AND", undo)
    yield Mutant(
        "cancel: rows of nobody",
        view[CANCEL],
        ") IN (\n",
        ") IN (SELECT profile_id, order_id FROM orders UNION ALL\n",
        undo,
    )
    begins = f"CREATE OR REPLACE FUNCTION {WAY_BACK}("
    yield from dropped(
        "way back", begins, ("an_applier",), "AND wanted LIKE 'BFILL-%'", " AND CAST(orders.status AS TEXT) = 'filled'",
        "AND CAST(orders.profile_id AS TEXT) = profile", "CAST(orders.order_id AS TEXT) = wanted AND ",
    )  # fmt: skip


def _batches() -> Iterator[Mutant]:
    begins, everyone = (
        function("guard_batches"),
        ("a_planner", "an_approver", "an_applier", "all_five", "recon", "an_undoer"),
    )
    yield from dropped(
        "batches", begins, everyone,
        "NEW.state <> 'detected' OR ",
        " OR num_nonnulls(\n            NEW.scope, NEW.plan, NEW.plan_digest, NEW.approval, NEW.rollback_approval) > 0",
        " OR NEW.state <> OLD.state", " OR NEW.state NOT IN ('applied', 'validated', 'signed')",
        " AND pg_has_role(step.role, 'USAGE')",
        "NEW.state <> 'planned' OR ", " OR NEW.approval IS NOT NULL",
        "NEW.state <> 'approved'\n            OR ",
        "            OR NOT coalesce(NEW.approval ->> 'by', '') ~ '[^[:space:]]'\n",
        "            OR jsonb_typeof(NEW.approval -> 'items') IS DISTINCT FROM 'array'", " OR NEW.approval -> 'items' = '[]'",
        "            OR (NEW.approval ->> 'expires_at')::timestamptz IS NULL\n",
        "            OR jsonb_array_length(NEW.plan -> 'failed_checks') > 0\n",
        " WHERE item.decision = 'DRY_RUN'", " HAVING count(*) = 1",
        "\n        OR NEW.approval IS NULL AND OLD.approval IS NOT NULL",
    )  # fmt: skip
    for name in ("scope", "plan", "plan_digest", "approval"):
        every = "NEW.scope, NEW.plan, NEW.plan_digest, NEW.approval"
        fewer = ", ".join(one for one in every.split(", ") if one != f"NEW.{name}")
        yield Mutant(f"batches: begins with a {name}", begins, every, fewer, everyone)
    for name in ("batch_id", "profile_id", "created_at", "created_by"):
        yield Mutant(f"batches: another {name}", begins, f"NEW.{name}", f"OLD.{name}", everyone)
    for name in ("plan_digest", "batch_id", "profile_id"):
        yield Mutant(
            f"batches: an approval of another {name}", begins, f"NEW.approval ->> '{name}'", f"NEW.{name}", everyone
        )
    for name in ("scope", "plan", "plan_digest"):
        pairs = "(NEW.scope, NEW.plan, NEW.plan_digest) IS DISTINCT"
        yield Mutant(
            f"batches: a new {name}",
            begins,
            pairs,
            pairs.replace(f"NEW.{name},", f"OLD.{name},").replace(f"NEW.{name})", f"OLD.{name})"),
            everyone,
        )
    for name, old in (
        ("may not plan", f"NOT pg_has_role('{Role.PLANNER}', 'USAGE')"), ("may not approve", f"NOT pg_has_role('{Role.APPROVER}', 'USAGE')"),
        ("an expired approval", "OLD.state = 'approved' AND NEW.state = 'applied'\n"),
        ("an approval of what is not in the plan", "EXCEPT SELECT item.order_id FROM (SELECT NEW.plan) AS planned (plan)"),
        ("approved without an approval", "NEW.state = 'approved' AND OLD.state <> 'approved'"),
        ("no such step", "IF NOT EXISTS (SELECT FROM (VALUES"),
    ):  # fmt: skip
        new = {"an approval of what is not in the plan": "EXCEPT SELECT jsonb_array_elements_text(NEW.approval -> 'items') UNION " + old[7:],
               "no such step": "IF false AND NOT EXISTS (SELECT FROM (VALUES"}.get(name, "false")  # fmt: skip
        if name == "an expired approval":
            new = "false\n"
        yield Mutant(f"batches: {name}", begins, old, new, everyone)
    for before, after, role in (
        ("approved", "applied", Role.APPROVER), ("planned", "approved", Role.PLANNER), ("planned", "approved", Role.APPLIER),
        ("approved", "applied", Role.PLANNER), ("applied", "validated", Role.APPLIER), ("applied", "rolled_back", Role.APPLIER),
        ("rolled_back", "applied", Role.APPLIER), ("rolled_back", "planned", Role.PLANNER), ("detected", "approved", Role.APPROVER),
        ("planned", "applied", Role.APPLIER), ("detected", "applied", Role.APPLIER), ("validated", "rolled_back", Role.PLANNER),
        ("approved", "rolled_back", Role.UNDOER), ("applied", "approved", Role.APPLIER), ("validated", "planned", Role.PLANNER),
    ):  # fmt: skip
        more = f"(VALUES ('{before}', '{after}', '{role}'), "
        name = f"batches: {role} from {before} to {after}"
        yield Everywhere(name, begins, "FROM (VALUES ", f"FROM {more}", everyone)
    yield Mutant(
        "never: deletes", "CREATE TRIGGER reconciliation_never_delete", "DELETE OR TRUNCATE", "TRUNCATE", ("recon",)
    )
    yield Mutant(
        "never: truncates", "CREATE TRIGGER reconciliation_never_delete", "DELETE OR TRUNCATE", "DELETE", ("recon",)
    )
    yield Mutant(
        "batches: inserts", "CREATE TRIGGER reconciliation_guard_batches", "INSERT OR UPDATE", "UPDATE", everyone
    )
    yield Mutant(
        "batches: updates", "CREATE TRIGGER reconciliation_guard_batches", "INSERT OR UPDATE", "INSERT", everyone
    )


def _audit() -> Iterator[Mutant]:
    begins, everyone = function("guard_audit"), ("an_applier", "an_approver", "a_planner", "recon")
    yield Mutant("audit: reverted from the beginning", begins, "reverted_at IS NOT NULL", "false", everyone)
    yield from dropped(
        "audit", begins, everyone, " AND pg_has_role(may.role, 'USAGE')",
        "\n            AND (may.decision <> 'APPLIED' OR batch.xmin = pg_current_xact_id_if_assigned()::xid)",
        "orders.status::text = 'filled' AND\n            ",
    )  # fmt: skip
    for name, old, new in (
        ("any profile", "may.decision, batch.batch_id, batch.profile_id", "may.decision, batch.batch_id, (SELECT min(profile_id::text) FROM added)"),
        ("an APPLIED row that was not written", "THEN orders.xmin = pg_current_xact_id_if_assigned()::xid", "THEN true"),
        ("a skipped row that was written", "age(orders.xmin) > 0", "true"),
        ("a skipped row that was written in a savepoint", "age(orders.xmin) > 0", "orders.xmin <> pg_current_xact_id_if_assigned()::xid"),
        ("owned at any time", "IF EXISTS (SELECT FROM added WHERE decision::text = 'APPLIED' AND", "IF EXISTS (SELECT FROM added WHERE false AND"),
        ("owned twice", "HAVING count(*) > 1", "HAVING false"),
        ("owned twice, by one batch", "GROUP BY added.profile_id, added.backfill_order_id HAVING count(*) > 1", "GROUP BY added.profile_id, added.backfill_order_id HAVING count(DISTINCT batch.batch_id) > 1"),
        ("owned twice, by two", "AND batch.xmin = pg_current_xact_id_if_assigned()::xid\n            GROUP", "AND audit.batch_id = added.batch_id\n            GROUP"),
        ("pending of no item", "IN ('PENDING_APPLY', 'APPLIED', 'SKIP_EXISTING')\n        EXCEPT", "IN ('APPLIED', 'SKIP_EXISTING')\n        EXCEPT"),
        ("applied of no item", "IN ('PENDING_APPLY', 'APPLIED', 'SKIP_EXISTING')\n        EXCEPT", "IN ('PENDING_APPLY', 'SKIP_EXISTING')\n        EXCEPT"),
    ):  # fmt: skip
        yield Mutant(f"audit: {name}", begins, old, new, everyone)
    cells = {"plan_digest": "plan_digest::text", "symbol": "symbol::text", "trade_id": "trade_id::text",
             "filled_qty": "filled_qty::numeric", "price": "price::numeric", "evidence_filled_at": "evidence_filled_at",
             "exchange_order_id": "exchange_order_id::text"}  # fmt: skip
    wanted = (
        "released.plan_digest",
        "item.symbol",
        "item.trade_id",
        "item.qty",
        "item.price",
        "item.filled_at",
        "item.exchange_order_id",
    )
    head = "SELECT batch_id::text, plan_digest::text, backfill_order_id::text, symbol::text, trade_id::text,\n            filled_qty::numeric, price::numeric, evidence_filled_at, exchange_order_id::text FROM added"
    tail = "SELECT released.batch_id, released.plan_digest, item.order_id, item.symbol, item.trade_id,\n            item.qty, item.price, item.filled_at, item.exchange_order_id"
    for (name, cell), found in zip(cells.items(), wanted, strict=True):
        yield Both(f"audit: any {name}", begins, head, re.sub(rf"(?<![\w.]){re.escape(cell)}", "NULL", head), everyone,
                   ((tail, tail.replace(found, "NULL", 1)),))  # fmt: skip
    for decision, role, state in (
        ("PENDING_APPLY", Role.PLANNER, "approved"), ("PENDING_APPLY", Role.APPLIER, "approved"), ("APPLIED", Role.APPROVER, "approved"),
        ("SKIP_EXISTING", Role.APPLIER, "approved"), ("SKIP_EXISTING", Role.APPROVER, "approved"),
        ("NO_GO", Role.APPLIER, "approved"), ("NO_GO", Role.APPROVER, "approved"), ("DRY_RUN", Role.PLANNER, "applied"),
        ("DRY_RUN", Role.PLANNER, "rolled_back"), ("NO_GO", Role.PLANNER, "validated"), ("DRY_RUN", Role.APPROVER, "approved"),
        ("DRY_RUN", Role.APPLIER, "approved"), ("SKIP_EXISTING", Role.PLANNER, "applied"), ("PENDING_APPLY", Role.APPROVER, "planned"),
        ("PENDING_APPLY", Role.APPROVER, "applied"), ("MAYBE", Role.APPLIER, "applied"),
    ):  # fmt: skip
        assert (decision, role, state) not in [(d, r, one) for d, r, states in MAY_AUDIT for one in states]
        yield Mutant(
            f"audit: {decision} by {role} while {state}",
            begins,
            "(VALUES ",
            f"(VALUES ('{decision}', '{role}', '{state}'), ",
            everyone,
        )
    begins, undo = function("guard_marks"), ("an_undoer", "all_five", "recon")
    yield from dropped(
        "marks", begins, undo, "state = 'rolled_back' AND ", " AND xmin = pg_current_xact_id_if_assigned()::xid"
    )
    yield Mutant("marks: at any time", begins, "SELECT FROM marked WHERE", "SELECT FROM marked WHERE false AND", undo)
    yield Mutant(
        "marks: of any batch",
        begins,
        "SELECT batch_id::text FROM marked\n",
        "SELECT batch_id::text FROM marked WHERE false\n",
        undo,
    )
    begins = function("append_only")
    yield from dropped("append-only", begins, undo, "OLD.reverted_at IS NULL AND ")
    same = "AND (to_jsonb(OLD) - 'reverted_at')::text = (to_jsonb(NEW) - 'reverted_at')::text"
    yield Mutant("append-only: other cells", begins, same, "", undo)
    yield Mutant("append-only: other digits", begins, same, same.replace("::text", ""), undo)
    once = "CREATE TRIGGER reconciliation_append_only"
    yield Mutant("append-only: deletes", once, "UPDATE OR DELETE", "UPDATE", ("recon",))
    yield Mutant("append-only: updates", once, "UPDATE OR DELETE", "DELETE", undo)


def _settled() -> Iterator[Mutant]:
    begins, everyone = function("settled"), ("an_applier", "an_undoer", "an_approver", "all_five")
    for name, old, new in (
        ("an approval without a trace", "IF NEW.state = 'approved' AND", "IF false AND"),
        ("an approval with an old trace", " AND audit.xmin = pg_current_xact_id_if_assigned()::xid", ""),
        ("an approval with any trace", "audit.decision::text = 'PENDING_APPLY'", "true"),
        ("an apply of a part", "IF OLD.state = 'approved' AND NEW.state = 'applied' AND", "IF false AND"),
        ("an apply with any trace", "AND audit.decision::text IN ('APPLIED', 'SKIP_EXISTING') AND", "AND"),
        ("an apply of canceled rows", "'SKIP_EXISTING') AND orders.status::text = 'filled')", "'SKIP_EXISTING'))"),
        ("a rollback of a part", "IF OLD.state <> 'rolled_back' AND NEW.state = 'rolled_back' AND", "IF false AND"),
        ("a rollback without marks", "audit.reverted_at IS NULL OR audit.decision", "audit.decision"),
        ("a rollback of filled rows", "OR audit.decision::text = 'APPLIED' AND orders.status::text = 'filled'", "OR false"),
        ("a rollback that must take another's row", "other.decision::text = 'APPLIED'", "false"),
    ):  # fmt: skip
        yield Mutant(f"settled: {name}", begins, old, new, everyone)
    yield Mutant(
        "settled: never", "CREATE CONSTRAINT TRIGGER reconciliation_settled", "AFTER UPDATE", "AFTER INSERT", everyone
    )


@dataclass(frozen=True)
class Both(Mutant):
    """A mutant of several places in one statement."""

    more: tuple[tuple[str, str], ...] = ()

    def applied(self, statements: Sequence[str]) -> tuple[str, str]:
        """The statement as it was, and as it is now."""
        before, after = super().applied(statements)
        for old, new in self.more:
            assert old in after, old
            after = after.replace(old, new, 1)
        return before, after


@dataclass(frozen=True)
class Everywhere(Mutant):
    """A mutant of every place in one statement."""

    def applied(self, statements: Sequence[str]) -> tuple[str, str]:
        """The statement as it was, and as it is now."""
        before, _ = super().applied(statements)
        return before, before.replace(self.old, self.new)


def _always() -> Iterator[Mutant]:
    for name in (
        "append_only",
        "never_empty",
        "guard_batches",
        "never_delete",
        "guard_audit",
        "guard_marks",
        "settled",
    ):
        table = (
            "reconciliation_backfill_audit"
            if name in ("append_only", "never_empty", "guard_audit", "guard_marks")
            else "reconciliation_batches"
        )
        begins = f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER reconciliation_{name}"
        yield Mutant(f"{name}: not in replicas", begins, "ENABLE ALWAYS", "ENABLE", ("recon",))
        yield Mutant(
            f"{name}: off",
            begins,
            "ENABLE ALWAYS",
            "DISABLE",
            ("recon", "an_applier", "an_undoer", "an_approver", "a_planner"),
        )
    for name in ("guard_batches", "guard_audit", "guard_marks", "settled"):
        yield Mutant(
            f"{name}: whose functions?",
            function(name),
            " SET search_path = pg_catalog, pg_temp",
            "",
            ("an_applier", "an_approver", "a_planner", "an_undoer"),
        )


MUTANTS: Sequence[Mutant] = (*_doors(), *_batches(), *_audit(), *_settled(), *_always())
"""All of them; a step or a decision more is added to the first list of its function, which is the one that counts."""

ORDERS, AUDIT, BATCHES = "orders", "reconciliation_backfill_audit", "reconciliation_batches"
RIGHTS: Sequence[tuple[Role, str]] = [
    *((role, f"{right} ON {table}") for role in Role for right, table in (
        ("INSERT", ORDERS), ("UPDATE (status)", ORDERS), ("UPDATE (updated_at)", ORDERS), ("DELETE", ORDERS), ("TRUNCATE", ORDERS),
        ("DELETE", AUDIT), ("UPDATE (actor)", AUDIT), ("TRUNCATE", AUDIT), ("DELETE", BATCHES), ("UPDATE (batch_id)", BATCHES), ("CREATE", "SCHEMA public"), ("UPDATE (status)", INSERT),
    )),
    *((role, right) for role in (Role.READER, Role.PLANNER, Role.APPROVER, Role.UNDOER) for right in (
        f"SELECT, INSERT ON {INSERT}", f"SELECT, UPDATE (status, updated_at) ON {REINSTATE}", f"EXECUTE ON FUNCTION {WAY_BACK}(text, text)",
    )),
    *((role, f"SELECT, UPDATE (status, updated_at) ON {CANCEL}") for role in (Role.READER, Role.PLANNER, Role.APPROVER, Role.APPLIER)),
    *((role, f"UPDATE (reverted_at) ON {AUDIT}") for role in Role if role is not Role.UNDOER),
    *((role, OWNER) for role in Role),
]  # fmt: skip
"""Rights that the roles do not have.

Two kinds are left out, because a second rule answers with the same SQLSTATE: to DELETE through a view, whose owner may
not either, and to INSERT audit rows, which a trigger lets each role do for its own decisions only.
"""
