"""Statements that try to get around the doors, as data: who, what, the SQLSTATE that must come back, and why.

Each runs in a transaction of its own on the incident of `siege`, and is committed. `None` says that it may run and
changes nothing. What `generic` gives is tried by each of the five roles, `OWN` by the one that it names, `SUPERUSER` by one who
may do nearly everything; `CONTROLS` stand beside them and must work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from doors.siege import SKEWED
from recon.batches import TRANSITIONS
from recon.domain import State
from recon.doors.names import CANCEL, INSERT, LOCK, OWNER, REINSTATE, TRIGGER_FUNCTIONS, WAY_BACK, Role
from recon.doors.triggers import ROLE_OF
from recon.embedded_watch import SUPERUSER as ROOT

DENIED, CHECKED, OUTSIDE = "42501", "23514", "44000"
"""No right; against a rule of a trigger; not a row that the door lets through."""

B, A, E = "reconciliation_batches", "reconciliation_backfill_audit", "reconciliation_events"
DOORS = (LOCK, INSERT, REINSTATE, CANCEL)
NOW = "timestamptz '2026-03-02 12:00:00+00'"
ITEMS = """jsonb_to_recordset(batch.plan -> 'document' -> 'items') AS item (order_id text, symbol text, trade_id text,
    side text, decision text, reason text, qty numeric, price numeric, filled_at timestamptz, exchange_order_id text,
    client_order_id text)"""
CELLS = {
    "order_id": "item.order_id", "profile_id": "batch.profile_id", "symbol": "item.symbol",
    "trade_id": "item.trade_id", "action": "'EXIT'", "status": "'filled'", "quantity": "item.qty", "qty": "item.qty",
    "price": "item.price", "filled_at": "item.filled_at", "created_at": NOW, "updated_at": NOW, "side": "item.side",
    "exchange_order_id": "item.exchange_order_id", "client_order_id": "item.order_id",
    "strategy": "'s-' || right(item.trade_id, -2)",
}  # fmt: skip
"""Each column of `orders` that the insert door takes, and what belongs there."""

TRAIL = {
    "batch_id": "batch.batch_id", "profile_id": "batch.profile_id", "symbol": "item.symbol",
    "trade_id": "item.trade_id", "decision": "'APPLIED'", "reason": "item.reason", "filled_qty": "item.qty",
    "backfill_order_id": "item.order_id", "created_at": NOW, "exchange_order_id": "item.exchange_order_id",
    "evidence_filled_at": "item.filled_at", "price": "item.price", "plan_digest": "batch.plan_digest",
    "actor": "'an attacker'",
}  # fmt: skip


GENERIC = ("what no role may do", "another role", "no table", "a trigger's function")


@dataclass(frozen=True)
class Attack:
    """Statements of one transaction, by whom, and how it must end; `by_version` where servers differ."""

    who: str
    why: str
    statements: tuple[str, ...]
    expected: str | None
    by_version: Mapping[int, str | None] | None = None

    @property
    def is_generic(self) -> bool:
        """Whether it is one of those that every role tries."""
        return self.why in GENERIC

    def expects(self, version: int) -> str | None:
        """The SQLSTATE that a server of this major version must answer."""
        return (self.by_version or {}).get(version, self.expected)


def insert(
    batch: str, where: str = "item.reason <> 'reinstate'", *, door: str = INSERT, more: str = "", **cells: str
) -> str:
    """The insert that recon would make of a batch's items, with other cells where given, through the door."""
    values = CELLS | cells
    return f"""INSERT INTO {door} ({", ".join(values)}) SELECT {", ".join(values.values())}
        FROM {B} AS batch CROSS JOIN LATERAL {ITEMS}
        WHERE batch.batch_id = '{batch}' AND batch.approval -> 'items' ? item.order_id AND {where} {more}"""


def trail(batch: str, decision: str, where: str = "true", /, *, released: bool = True, **cells: str) -> str:
    """The audit rows that recon would append for a batch's items, with other cells where given."""
    values = TRAIL | {"decision": f"'{decision}'"} | cells
    only = "batch.approval -> 'items' ? item.order_id" if released else "true"
    return f"""INSERT INTO {A} ({", ".join(values)}) SELECT {", ".join(values.values())}
        FROM {B} AS batch CROSS JOIN LATERAL {ITEMS} WHERE batch.batch_id = '{batch}' AND {only} AND {where}"""


def move(batch: str, state: str, more: str = "") -> str:
    """A step in the life of a batch."""
    return f"UPDATE {B} SET state = '{state}'{more} WHERE batch_id = '{batch}'"


def reinstate(where: str = "trade_id = 't-u'", sets: str = "status = 'filled'") -> str:
    """A canceled row becomes filled through its door."""
    ids = f"SELECT order_id FROM orders WHERE action = 'EXIT' AND {where}"
    return f"UPDATE {REINSTATE} SET {sets}, updated_at = {NOW} WHERE order_id IN ({ids})"


def cancel(where: str = "true", sets: str = "status = 'canceled'") -> str:
    """A row is canceled through its door."""
    return f"UPDATE {CANCEL} SET {sets}, updated_at = {NOW} WHERE {where}"


def mark(batch: str, value: str = NOW, more: str = "") -> str:
    """The audit rows of a batch are marked as reverted."""
    return f"UPDATE {A} SET reverted_at = {value} WHERE batch_id = '{batch}'{more}"


def approve(batch: str, of: str | None = None, **cells: str) -> str:
    """An approval of the plan of `batch`, with other cells where given."""
    items = "(SELECT jsonb_agg(DISTINCT i ->> 'order_id') FROM jsonb_array_elements(plan -> 'document' -> 'items') AS i WHERE i ->> 'decision' <> 'NO_GO')"
    values = {
        "batch_id": "batch_id", "profile_id": "profile_id", "plan_digest": "plan_digest", "items": items,
        "by": "'an_approver'", "expires_at": "'2026-03-03T12:00:00Z'", "acknowledgements": "'{}'::jsonb",
    } | cells  # fmt: skip
    document = ", ".join(f"'{name}', {value}" for name, value in values.items())
    return (
        f"UPDATE {B} SET state = 'approved', approval = jsonb_build_object({document}) WHERE batch_id = '{of or batch}'"
    )


def everything(batch: str = "approved") -> tuple[str, ...]:
    """What an apply does, in plain statements."""
    return (
        move(batch, "applied"), insert(batch), reinstate(), trail(batch, "APPLIED"),
    )  # fmt: skip


def whole(batch: str) -> tuple[str, ...]:
    """An apply of a batch that reinstates nothing."""
    return (move(batch, "applied"), insert(batch), trail(batch, "APPLIED"))


def undo(batch: str = "applied") -> tuple[str, ...]:
    """What a rollback does, in plain statements."""
    return move(batch, "rolled_back"), cancel(), mark(batch)


CONTROLS = [
    Attack("an_applier", "a whole apply", everything(), None),
    Attack("an_applier", "an apply that meets rows of another batch", (move("met", "applied"), trail("met", "SKIP_EXISTING")), None),
    Attack("an_applier", "applying again", (trail("applied", "SKIP_EXISTING"), move("applied", "applied")), None),
    Attack("an_applier", "an apply of one row", whole("word"), None),
    Attack("an_applier", "a stale plan", (move("word", "planned"),), None),
    Attack("an_applier", "the lock", (f"LOCK TABLE {LOCK} IN SHARE ROW EXCLUSIVE MODE",), None),
    Attack("an_undoer", "the lock", (f"LOCK TABLE {LOCK} IN SHARE ROW EXCLUSIVE MODE",), None),
    Attack("an_undoer", "a whole rollback", undo(), None),
    Attack("an_undoer", "a rollback of a validated batch", undo("validated"), None),
    Attack("an_undoer", "a rollback that leaves a row to its owner", undo("first"), None),
    Attack("an_approver", "an approval", (approve("planned"), trail("planned", "PENDING_APPLY")), None),
    Attack("an_approver", "an approval again", (approve("expired"), trail("expired", "PENDING_APPLY")), None),
    Attack("an_approver", "a rollback approved", (f"UPDATE {B} SET rollback_approval = '{{}}' WHERE batch_id = 'applied'",), None),
    Attack("an_approver", "a report signed", (move("validated", "signed"),), None),
    Attack("a_planner", "a batch", (f"INSERT INTO {B} (batch_id, profile_id, state, created_at, created_by, updated_at, updated_by) VALUES ('new', 'main', 'detected', {NOW}, 'a_planner', {NOW}, 'a_planner')",), None),
    Attack("a_planner", "a plan", (move("begun", "planned", ", plan = '{}', plan_digest = 'x', scope = '{}', approval = NULL"), trail("planned", "DRY_RUN", released=False)), None),
    Attack("a_planner", "a new plan of an approved batch", (move("approved", "planned", ", plan = '{}', approval = NULL"),), None),
    Attack("a_planner", "a validation", (move("applied", "validated"),), None),
    Attack("a_planner", "an event", (f"INSERT INTO {E} (profile_id, symbol, db_open_qty) VALUES ('main', 'A/USD', 1)",), None),
    Attack("a_reader", "reading", ("SELECT count(*) FROM orders", f"SELECT count(*) FROM {A}"), None),
]  # fmt: skip
"""The legitimate statements next to the attacks; each is tried and taken back."""

ROW = "'BFILL-x', 'main', 'A/USD', 't-a', 'EXIT', 'filled', 2, 2, 110"
NAMES = "order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price"
DML = f"""
INSERT INTO orders ({NAMES}) VALUES ({ROW})
INSERT INTO orders SELECT * FROM orders
INSERT INTO orders DEFAULT VALUES
INSERT INTO orders ({NAMES}) VALUES ({ROW}) ON CONFLICT DO NOTHING
INSERT INTO orders ({NAMES}) VALUES ({ROW}) ON CONFLICT (order_id) DO UPDATE SET status = 'canceled'
UPDATE orders SET status = 'canceled'
UPDATE orders SET status = 'filled' WHERE order_id LIKE 'BFILL-%'
UPDATE orders SET quantity = 0, qty = 0
UPDATE orders SET trade_id = NULL WHERE action = 'ENTRY'
UPDATE orders SET updated_at = now()
UPDATE ONLY orders SET price = 1 FROM {B} AS b WHERE b.state = 'approved'
DELETE FROM orders
DELETE FROM orders WHERE order_id LIKE 'BFILL-%'
DELETE FROM orders USING {A} AS a WHERE a.backfill_order_id = order_id
TRUNCATE orders
TRUNCATE orders, {A} RESTART IDENTITY CASCADE
MERGE INTO orders AS o USING (SELECT 1) AS s ON false WHEN NOT MATCHED THEN INSERT ({NAMES}) VALUES ({ROW})
MERGE INTO orders AS o USING {A} AS a ON a.backfill_order_id = o.order_id WHEN MATCHED THEN DELETE
WITH x AS (INSERT INTO orders ({NAMES}) VALUES ({ROW}) RETURNING 1) SELECT * FROM x
WITH x AS (UPDATE orders SET status = 'canceled' RETURNING 1) SELECT * FROM x
WITH x AS (DELETE FROM orders RETURNING 1) SELECT * FROM x
WITH x AS (DELETE FROM {A} RETURNING 1) SELECT * FROM x
EXPLAIN (ANALYZE) DELETE FROM orders
COPY orders FROM STDIN
COPY orders FROM '/etc/hostname'
COPY {A} FROM '/etc/hostname'
COPY {B} FROM '/etc/hostname'
COPY (SELECT 1) TO PROGRAM 'true'
COPY (SELECT 1) TO '/tmp/recon-attack'
COPY orders TO PROGRAM 'cat'
SELECT * FROM orders FOR UPDATE
SELECT * FROM orders FOR NO KEY UPDATE
SELECT * FROM orders FOR KEY SHARE
SELECT * FROM {E} FOR UPDATE
LOCK TABLE orders IN ACCESS EXCLUSIVE MODE
LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE
LOCK TABLE orders IN ROW EXCLUSIVE MODE
LOCK TABLE {A} IN ACCESS EXCLUSIVE MODE
DO $$ BEGIN UPDATE orders SET status = 'canceled'; END $$
DO $$ BEGIN EXECUTE 'DEL' || 'ETE FROM orders'; END $$
CREATE VIEW pg_temp.mine AS SELECT * FROM orders; UPDATE mine SET status = 'canceled'
CREATE VIEW pg_temp.mine AS SELECT * FROM orders; INSERT INTO mine ({NAMES}) VALUES ({ROW})
CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS 'DELETE FROM orders'; SELECT pg_temp.f()
CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'UPDATE orders SET qty = 0'; SELECT pg_temp.f()
CREATE TABLE pg_temp.t (a int); CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM orders; INSERT INTO t VALUES (1)
PREPARE p AS UPDATE orders SET status = 'canceled'; EXECUTE p
DECLARE c CURSOR FOR SELECT * FROM orders FOR UPDATE; FETCH c
DELETE FROM {A}
UPDATE {A} SET decision = 'NO_GO'
UPDATE {A} SET reverted_at = NULL, actor = 'x'
UPDATE {A} SET batch_id = 'planned'
UPDATE {A} SET filled_qty = 0
UPDATE {A} SET actor = 'x'
UPDATE {A} SET created_at = now()
TRUNCATE {A}
DELETE FROM {B}
UPDATE {B} SET batch_id = 'x'
UPDATE {B} SET profile_id = 'other'
UPDATE {B} SET created_at = now(), created_by = 'x'
INSERT INTO {B} SELECT 'copy', profile_id, state, scope, plan, plan_digest, approval, rollback_approval, created_at, created_by, updated_at, updated_by FROM {B} WHERE batch_id = 'approved'
TRUNCATE {B}
DELETE FROM {E}
UPDATE {E} SET db_open_qty = 0
TRUNCATE {E}
DELETE FROM {INSERT}
DELETE FROM {REINSTATE}
DELETE FROM {CANCEL}
DELETE FROM {LOCK}
INSERT INTO {LOCK} VALUES ('BFILL-x')
UPDATE {LOCK} SET order_id = 'x'
INSERT INTO {CANCEL} (order_id, profile_id, status) VALUES ('BFILL-x', 'main', 'filled')
INSERT INTO {REINSTATE} (order_id, profile_id, status) VALUES ('BFILL-x', 'main', 'filled')
UPDATE {INSERT} SET status = 'canceled'
UPDATE {INSERT} SET quantity = 0
UPDATE {REINSTATE} SET order_id = 'x'
UPDATE {CANCEL} SET profile_id = 'other'
UPDATE {CANCEL} SET status = 'canceled', order_id = 'x'
"""
DDL = f"""
ALTER TABLE orders ADD COLUMN x int
ALTER TABLE orders DROP COLUMN qty
ALTER TABLE orders ALTER COLUMN qty TYPE int USING 0
ALTER TABLE orders ALTER COLUMN status SET DEFAULT 'filled'
ALTER TABLE orders DISABLE TRIGGER ALL
ALTER TABLE orders ENABLE ROW LEVEL SECURITY
ALTER TABLE orders OWNER TO CURRENT_USER
ALTER TABLE orders RENAME TO orders_2
ALTER TABLE orders SET (autovacuum_enabled = off)
ALTER TABLE orders SET UNLOGGED
CREATE TRIGGER t BEFORE INSERT ON orders EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()
CREATE RULE r AS ON INSERT TO orders DO INSTEAD NOTHING
CREATE INDEX ON orders (qty)
CREATE POLICY p ON orders USING (false)
COMMENT ON TABLE orders IS 'x'
CREATE STATISTICS s (ndistinct) ON order_id, qty FROM orders
DROP TABLE orders
CLUSTER orders USING orders_order_id_key
REINDEX TABLE orders
DROP INDEX orders_order_id_key
ALTER TABLE {A} DISABLE TRIGGER reconciliation_append_only
ALTER TABLE {A} DISABLE TRIGGER ALL
ALTER TABLE {A} OWNER TO CURRENT_USER
ALTER TABLE {A} DROP COLUMN actor
DROP TRIGGER reconciliation_guard_audit ON {A}
ALTER TRIGGER reconciliation_guard_audit ON {A} RENAME TO x
CREATE RULE r AS ON INSERT TO {A} DO INSTEAD NOTHING
DROP TABLE {A}
ALTER TABLE {B} DISABLE TRIGGER reconciliation_guard_batches
ALTER TABLE {B} ENABLE REPLICA TRIGGER reconciliation_settled
ALTER TABLE {B} OWNER TO CURRENT_USER
ALTER TABLE {B} ALTER COLUMN state SET DEFAULT 'approved'
DROP TRIGGER reconciliation_settled ON {B}
CREATE RULE r AS ON UPDATE TO {B} DO INSTEAD NOTHING
DROP TABLE {B} CASCADE
DROP TABLE {E}
ALTER TABLE {E} ADD COLUMN x int
DROP VIEW {INSERT}
DROP VIEW {CANCEL} CASCADE
CREATE OR REPLACE VIEW {INSERT} AS SELECT * FROM orders
CREATE OR REPLACE VIEW {LOCK} AS SELECT order_id FROM orders
ALTER VIEW {INSERT} SET (check_option = local)
ALTER VIEW {REINSTATE} RESET (check_option)
ALTER VIEW {CANCEL} OWNER TO CURRENT_USER
ALTER VIEW {INSERT} ALTER COLUMN status SET DEFAULT 'canceled'
ALTER VIEW {INSERT} SET (security_invoker = true)
COMMENT ON VIEW {INSERT} IS NULL
CREATE RULE r AS ON INSERT TO {INSERT} DO INSTEAD INSERT INTO orders VALUES (NEW.*)
CREATE TRIGGER t INSTEAD OF UPDATE ON {CANCEL} FOR EACH ROW EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()
CREATE OR REPLACE FUNCTION reconciliation_guard_batches() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'
CREATE OR REPLACE FUNCTION reconciliation_settled() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'
CREATE OR REPLACE FUNCTION {WAY_BACK}(wanted text, profile text) RETURNS text LANGUAGE sql AS 'SELECT NULL'
ALTER FUNCTION reconciliation_guard_audit() SET search_path = pg_temp
ALTER FUNCTION reconciliation_guard_marks() OWNER TO CURRENT_USER
DROP FUNCTION reconciliation_append_only() CASCADE
DROP FUNCTION {WAY_BACK}(text, text)
GRANT EXECUTE ON FUNCTION {WAY_BACK}(text, text) TO PUBLIC
CREATE TABLE public.mine (a int)
CREATE TABLE public.orders_2 (LIKE orders)
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'
CREATE FUNCTION public.pg_has_role(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'
CREATE FUNCTION pg_catalog.pg_has_role(text, text) RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)
CREATE CAST (text AS boolean) WITH INOUT AS IMPLICIT
CREATE SCHEMA mine
ALTER SCHEMA public OWNER TO CURRENT_USER
GRANT CREATE ON SCHEMA public TO PUBLIC
DROP OWNED BY {OWNER}
REASSIGN OWNED BY {OWNER} TO CURRENT_USER
CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()
CREATE PUBLICATION p FOR TABLE orders
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT ALL ON TABLES TO PUBLIC
CREATE TRIGGER t AFTER INSERT ON {B} EXECUTE FUNCTION reconciliation_never()
CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON {B} FOR EACH ROW EXECUTE FUNCTION reconciliation_settled()
"""
POWER = f"""
SET ROLE {OWNER}
SET ROLE {ROOT}
SET LOCAL ROLE {OWNER}
SET SESSION AUTHORIZATION {ROOT}
SET SESSION AUTHORIZATION nobody
SELECT set_config('role', '{OWNER}', true)
SELECT set_config('session_authorization', '{ROOT}', false)
SET session_replication_role = replica
SELECT set_config('session_replication_role', 'replica', true)
SET LOCAL session_replication_role = local
SET allow_system_table_mods = on
SET zero_damaged_pages = on
GRANT {OWNER} TO CURRENT_USER
GRANT pg_write_all_data TO CURRENT_USER
GRANT pg_execute_server_program TO CURRENT_USER
ALTER ROLE CURRENT_USER SUPERUSER
ALTER ROLE CURRENT_USER CREATEROLE
ALTER ROLE {OWNER} LOGIN
ALTER ROLE {OWNER} SET session_replication_role = replica
CREATE ROLE mine LOGIN
DROP ROLE {OWNER}
ALTER DATABASE siege SET session_replication_role = replica
ALTER DATABASE siege OWNER TO CURRENT_USER
SELECT pg_read_file('pg_hba.conf')
SELECT pg_ls_dir('.')
SELECT pg_read_binary_file('global/pg_control')
SELECT lo_import('/etc/hostname')
SELECT lo_export(1, '/tmp/recon-attack')
SELECT pg_reload_conf()
SELECT pg_promote()
SELECT pg_switch_wal()
UPDATE pg_class SET relowner = CURRENT_USER::regrole
UPDATE pg_trigger SET tgenabled = 'D'
DELETE FROM pg_rewrite
UPDATE pg_description SET description = NULL
INSERT INTO pg_auth_members SELECT * FROM pg_auth_members
SELECT rolpassword FROM pg_authid
"""
GRANTING = ("GRANT CREATE ON SCHEMA", "GRANT EXECUTE ON FUNCTION")
"""PostgreSQL only warns that nothing was granted, where one has the right oneself."""


def lines(text: str) -> Iterator[tuple[str, ...]]:
    """The statements of each line."""
    for line in text.strip().splitlines():
        yield tuple(line.split("; ")) if not line.startswith("DO ") and "LANGUAGE plpgsql" not in line else (line,)


def generic(who: str, roles: Sequence[str]) -> list[Attack]:
    """What nobody may do, whatever the role."""
    found = []
    for statements in (*lines(DML), *lines(DDL), *lines(POWER)):
        warned = statements[0].startswith(GRANTING[0]) or (
            statements[0].startswith(GRANTING[1]) and Role.APPLIER in roles
        )
        found.append(Attack(who, "what no role may do", statements, None if warned else DENIED))
    found += [Attack(who, "another role", (f"SET ROLE {role}",), DENIED) for role in Role if role not in roles]
    found += [Attack(who, "no table", (f"TRUNCATE {door}",), "42809") for door in DOORS]
    found += [Attack(who, "no table", (f"COPY {door} FROM '/etc/hostname'",), DENIED) for door in DOORS]
    found += [Attack(who, "a trigger's function", (f"SELECT {name}",), "0A000") for name in TRIGGER_FUNCTIONS]
    return found


EMPTY = "RC001"
"""What a statement raises that found no row, where that is what it must do after legitimate ones."""


def none(statement: str) -> str:
    """The statement, which must find no row: then it raises EMPTY, and whatever came before is taken back."""
    return f"DO $do$ BEGIN {statement}; IF NOT FOUND THEN RAISE SQLSTATE '{EMPTY}'; END IF; END $do$"


REST = (reinstate(), trail("approved", "APPLIED"))
"""What is left of an apply once its rows are inserted; an attack that gets that far would be complete."""


def _cells(who: str) -> Iterator[Attack]:
    """One cell of an insert that is otherwise right, in each column; else the whole apply."""
    one, others = "item.trade_id = 't-a'", "item.trade_id = 't-a2'"
    later, earlier = f"{NOW} + interval '2 s'", f"{NOW} - interval '61 min'"
    amounts = ("item.qty + 1", "0", "-item.qty", "NULL", "'NaN'", "'Infinity'", "item.qty + 0.000000000001")
    times = (later, earlier, "'infinity'", "'-infinity'", "NULL")
    wrong: Mapping[str, Sequence[str]] = {
        "order_id": ("'BFILL-x'", "'by-hand-2'", "upper(item.order_id)", "item.order_id || ' '", "item.trade_id"),
        "profile_id": ("'other'", "'MAIN'", "'main '", "NULL"),
        "symbol": ("'B/USD'", "'AUSD'", "lower(item.symbol)", "NULL"),
        "trade_id": ("'t-p'", "'t-u'", "''", "NULL"),
        "action": ("'ENTRY'", "'exit'", "'EXIT '", "NULL"),
        "status": ("'canceled'", "'partially_filled'", "'new'", "'FILLED'", "NULL"),
        "quantity": amounts, "qty": amounts,
        "price": ("item.price + 1", "0", "-item.price", "NULL", "'NaN'", "'Infinity'", "item.price + 0.000000000001"),
        "filled_at": ("item.filled_at + interval '1 us'", NOW, "'infinity'", "NULL"),
        "created_at": times, "updated_at": times,
        "side": ("'buy'", "'SELL'", "' sell'", "''", "NULL"),
        "exchange_order_id": ("'x'", "upper(item.exchange_order_id)", "''", "NULL"),
        "client_order_id": ("'x'", "''", "item.exchange_order_id"),
        "strategy": (
            "'s-b'", "''", "item.order_id", "'s-a2'", "'s-symbol'", "'s-exit'", "'s-canceled'", "'s-other'",
        ),
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            changed = insert("approved", one, **{name: value})
            before = (move("approved", "applied"), *((insert("approved", one),) if name == "order_id" else ()))
            yield Attack(who, f"another {name}", (*before, changed, insert("approved", others), *REST), OUTSIDE)
    for name in ("order_id", "client_order_id", "strategy"):
        yield Attack(who, f"no {name}", (move("approved", "applied"), insert("approved", **{name: "NULL"})), "23502")
    for name in ("note", "xmin", "tableoid"):
        yield Attack(who, "a column that is no part of the door", (insert("approved", **{name: "NULL"}),), "42703")


def _trails(who: str, batch: str, before: tuple[str, ...], decision: str) -> Iterator[Attack]:
    """One cell of an audit row that is otherwise right."""
    for name, value in {
        "symbol": "'B/USD'", "trade_id": "'t-hand'", "filled_qty": "item.qty + 1", "price": "0", "backfill_order_id": "'by-hand'",
        "exchange_order_id": "'x'", "evidence_filled_at": NOW, "plan_digest": "'x'",
    }.items():  # fmt: skip
        yield Attack(
            who, f"an audit row of another {name}", (*before, trail(batch, decision, **{name: value})), CHECKED
        )
        yield Attack(who, f"an audit row without {name}", (*before, trail(batch, decision, **{name: "NULL"})), CHECKED)
    for name, value in {"batch_id": "'begun'", "profile_id": "'other'"}.items():
        yield Attack(who, f"an audit row of another {name}", (*before, trail(batch, decision, **{name: value})), DENIED)
    for name in ("batch_id", "profile_id", "decision", "created_at"):
        yield Attack(who, f"an audit row without {name}", (*before, trail(batch, decision, **{name: "NULL"})), "23502")
    yield Attack(who, "an audit row that is reverted", (*before, trail(batch, decision, reverted_at=NOW)), CHECKED)
    yield Attack(who, "an audit row of no item", (*before, trail(batch, decision, released=False)), CHECKED)


def _steps(who: str, mine: Mapping[str, Sequence[str]], legal: Mapping[str, Sequence[str]]) -> Iterator[Attack]:
    """Every step of a batch that is not this role's: 23514 when nobody may take it, 42501 when another may."""
    states = {"begun": "detected", "planned": "planned", "approved": "approved", "applied": "applied",
              "validated": "validated", "undone": "rolled_back"}  # fmt: skip
    for batch, before in states.items():
        for after in (*states.values(), "closed"):
            if after not in mine[before]:
                code = DENIED if after in legal[before] else CHECKED
                yield Attack(who, f"from {before} to {after}", (move(batch, after),), code)


def steps_of(role: Role | None) -> dict[str, set[str]]:
    """Which steps a role may take, by the state before; those of all roles for None."""
    found: dict[str, set[str]] = {state.value: set() for state in State}
    for (before, action), (after, _) in TRANSITIONS.items():
        if before is not None and (role is None or ROLE_OF[action] is role):
            found[before.value].add(after.value)
    return found


APPROVED = (move("approved", "applied"),)
WRITTEN = (*APPROVED, insert("approved"), reinstate())
DONE = (*WRITTEN, trail("approved", "APPLIED"), "SET CONSTRAINTS ALL IMMEDIATE")
SAVE = "SAVEPOINT s"
ONE = "item.trade_id = 't-a'"
LATE = "2026-03-03 12:00:00+00"
"""When the approvals end."""

AXEL = [
    Attack("an_applier", "MERGE", (*APPROVED, f"MERGE INTO {REINSTATE} AS d USING orders AS o ON d.order_id = o.order_id WHEN MATCHED THEN DELETE"), DENIED, {15: "0A000"}),  # no MERGE into views yet
    *_cells("an_applier"),
    *_trails("an_applier", "approved", WRITTEN, "APPLIED"),
    *_steps("an_applier", steps_of(Role.APPLIER), steps_of(None)),
    *(Attack("an_applier", why, statements, expected) for why, statements, expected in (
        ("rows without a step", (insert("approved"),), OUTSIDE),
        ("one row without a step", (insert("approved", ONE),), OUTSIDE),
        ("a step without rows", APPROVED, CHECKED),
        ("a step with one row of three", (*APPROVED, insert("approved", ONE), trail("approved", "APPLIED", ONE)), CHECKED),
        ("rows without audit rows", WRITTEN, CHECKED),
        ("rows with some audit rows", (*WRITTEN, trail("approved", "APPLIED", ONE)), CHECKED),
        ("rows without the reinstated one", (*APPROVED, insert("approved"), trail("approved", "APPLIED", "item.reason <> 'reinstate'")), CHECKED),
        ("audit rows without rows", (*APPROVED, trail("approved", "APPLIED")), CHECKED),
        ("audit rows before rows", (*APPROVED, trail("approved", "APPLIED"), insert("approved")), CHECKED),
        ("audit rows without a step", (trail("approved", "APPLIED"),), DENIED),
        ("the step in a savepoint", (SAVE, *APPROVED, "RELEASE s", insert("approved")), OUTSIDE),
        ("the step taken back", (SAVE, *APPROVED, "ROLLBACK TO s", insert("approved")), OUTSIDE),
        ("rows in a savepoint, disowned", (*APPROVED, SAVE, insert("approved"), reinstate(), "RELEASE s", trail("approved", "SKIP_EXISTING")), CHECKED),
        ("rows in a savepoint", (*APPROVED, SAVE, insert("approved"), reinstate(), "RELEASE s", trail("approved", "APPLIED")), CHECKED),
        ("rows disowned", (*WRITTEN, trail("approved", "SKIP_EXISTING")), CHECKED),
        ("rows owned twice", (*WRITTEN, trail("approved", "APPLIED"), trail("approved", "APPLIED")), CHECKED),
        ("rows owned twice, in a savepoint", (*WRITTEN, trail("approved", "APPLIED"), SAVE, trail("approved", "APPLIED")), CHECKED),
        ("rows owned by two batches", (*WRITTEN, move("twin", "applied"), trail("approved", "APPLIED"), trail("twin", "APPLIED")), CHECKED),
        ("rows owned by two batches, one in a savepoint", (*WRITTEN, trail("approved", "APPLIED"), SAVE, move("twin", "applied"), trail("twin", "APPLIED")), DENIED),
        ("rows owned from the future", (*WRITTEN, trail("approved", "APPLIED", created_at=f"{NOW} + interval '1 day'")), CHECKED),
        ("rows owned from the past", (*WRITTEN, trail("approved", "APPLIED", created_at=f"{NOW} - interval '1 day'")), CHECKED),
        ("another's row owned", (move("met", "applied"), trail("met", "APPLIED")), CHECKED),
        ("a hand's row owned", (move("approved", "applied"), trail("approved", "APPLIED", ONE, backfill_order_id="'by-hand'")), CHECKED),
        ("an old row owned again", (move("applied", "applied"), trail("applied", "APPLIED")), CHECKED),
        ("rows after the check", (*DONE, insert("word")), OUTSIDE),
        ("the reinstated row canceled after the check", (*DONE, none(reinstate(sets="status = 'canceled'"))), EMPTY),
        ("the reinstated row touched after the check", (*DONE, none(reinstate(sets="status = 'filled'"))), EMPTY),
        ("the reinstated row left canceled", (*APPROVED, insert("approved"), reinstate(sets="status = 'canceled'"), trail("approved", "APPLIED")), CHECKED),
        ("the reinstated row canceled otherwise", (*APPROVED, insert("approved"), reinstate(sets="status = 'cancelled'"), trail("approved", "SKIP_EXISTING")), CHECKED),
        ("the reinstated row working", (*APPROVED, reinstate(sets="status = 'new'")), OUTSIDE),
        ("the reinstated row in part", (*APPROVED, reinstate(sets="status = 'partially_filled'")), OUTSIDE),
        ("the reinstated row without status", (*APPROVED, reinstate(sets="status = NULL")), OUTSIDE),
        ("a stamp of the future", (*APPROVED, f"UPDATE {REINSTATE} SET status = 'filled', updated_at = 'infinity'", insert("approved"), trail("approved", "APPLIED")), OUTSIDE),
        ("a stamp of the past", (*APPROVED, f"UPDATE {REINSTATE} SET status = 'filled', updated_at = {NOW} - interval '2 h'", insert("approved"), trail("approved", "APPLIED")), OUTSIDE),
        ("no stamp", (*APPROVED, f"UPDATE {REINSTATE} SET status = 'filled', updated_at = NULL", insert("approved"), trail("approved", "APPLIED")), OUTSIDE),
        ("a row canceled through the wrong door", (*APPROVED, none(reinstate("trade_id IN ('t-w', 't-v', 't-o')", "status = 'canceled'"))), EMPTY),
        ("a row reinstated without a step", (none(reinstate()),), EMPTY),
        ("a row reinstated by another batch", (move("word", "applied"), none(reinstate())), EMPTY),
        ("a row reinstated that others canceled", (move("second", "applied"), none(reinstate("trade_id = 't-o'"))), EMPTY),
        ("a row that is gone, again", (move("gone", "applied"), insert("gone")), OUTSIDE),
        *((f"another id: {wrong}", (*APPROVED, insert("approved", ONE), insert("approved", ONE, order_id=wrong, client_order_id=wrong), insert("approved", "item.trade_id = 't-a2'"), *REST), OUTSIDE) for wrong in ("'BFILL-x'", "'by-hand-2'", "upper(item.order_id)")),
        ("the way back of a row that is not there", ("SELECT 1 / (reconciliation_door_way_back('BFILL-x', 'other') IS NULL)::integer",), "22012"),
        ("rows while time passes", (move("word", "applied"), f"SET LOCAL siege.clock = '{LATE}'", insert("word", created_at=f"timestamptz '{LATE}'", updated_at=f"timestamptz '{LATE}'"), trail("word", "APPLIED", created_at=f"timestamptz '{LATE}'")), OUTSIDE),
        *((f"a row of another trade: {cells}", (*APPROVED, insert("approved", ONE, **cells), insert("approved", "item.trade_id = 't-a2'"), *REST), OUTSIDE) for cells in (
            {"symbol": "'Q/USD'", "strategy": "'s-symbol'"}, {"trade_id": "'t-a2'", "strategy": "'s-a2'"}, {"profile_id": "'other'", "strategy": "'s-other'"},
        )),
        ("a row on another symbol of its trade", (move("spread", "applied"), insert("spread", symbol="'D2/USD'"), trail("spread", "APPLIED")), OUTSIDE),
        ("a row of another profile's plan", (move("word", "applied"), move("there", "applied"), insert("word", profile_id="'other'"), trail("word", "APPLIED")), OUTSIDE),
        ("the way back of nothing beside one row", ("SELECT 1 / (reconciliation_door_way_back('BFILL-x', 'lonely') IS NULL)::integer",), "22012"),
        ("a canceled row like the reinstated one", (*APPROVED, none(reinstate("order_id = 'BFILL-double'"))), EMPTY),
        ("rows of a step back", (move("approved", "planned"), insert("approved")), OUTSIDE),
        ("rows of an applied batch that wants some still", (insert("unaudited"),), OUTSIDE),
        ("a row of one plan for that of another", (move("dearer", "applied"), move("narrow", "applied"), insert("dearer", "item.trade_id = 't-a2'").replace("'dearer'", "'narrow'").replace("batch.approval -> 'items' ? item.order_id", "true")), OUTSIDE),
        ("a row at another plan's price", (move("dearer", "applied"), insert("dearer"), reinstate(), trail("dearer", "APPLIED", price="110")), CHECKED),
        ("a canceled row that the plan does not reinstate", (move("hand", "applied"), none(f"UPDATE {REINSTATE} SET status = 'filled', updated_at = {NOW}"), trail("hand", "APPLIED")), EMPTY),
        ("an ENTRY row reinstated", (move("way", "applied"), none(f"UPDATE {REINSTATE} SET status = 'filled', updated_at = {NOW}"), trail("way", "APPLIED")), EMPTY),
        *((f"a canceled row of another {name}", (move("skewed", "applied"), none(f"UPDATE {REINSTATE} SET status = 'filled', updated_at = {NOW} WHERE order_id = 'BFILL-skew-{name}'")), EMPTY) for name in SKEWED),
        ("the way back of a canceled row", ("SELECT 1 / (reconciliation_door_way_back((SELECT order_id FROM orders WHERE trade_id = 't-u' AND action = 'EXIT' AND order_id <> 'BFILL-double'), 'main') IS NULL)::integer",), "22012"),
        ("the way back of another profile's row", ("SELECT 1 / (reconciliation_door_way_back('BFILL-left', 'other') IS NULL)::integer",), "22012"),
        ("an expired approval", (move("expired", "applied"), insert("expired"), trail("expired", "APPLIED")), CHECKED),
        ("an expired approval whose rows are there", (move("expired_met", "applied"), trail("expired_met", "SKIP_EXISTING")), CHECKED),
        ("the rows of an expired approval", (*APPROVED, insert("expired")), OUTSIDE),
        ("the rows of another approval", (*APPROVED, insert("word")), OUTSIDE),
        ("the rows of another profile", (*APPROVED, insert("foreign")), OUTSIDE),
        ("the rows of another profile for this one", (move("foreign", "applied"), insert("foreign", profile_id="'main'")), OUTSIDE),
        ("what is not approved", (move("planned", "applied"),), CHECKED),
        ("the rows of a plan that is not approved", (*APPROVED, insert("word").replace("'word'", "'planned'").replace("batch.approval -> 'items' ? item.order_id", "true")), OUTSIDE),
        ("a stale plan", (move("stale", "applied"),), CHECKED),
        ("the rows of a stale plan", (insert("stale"),), OUTSIDE),
        ("an approval of another plan", whole("torn"), OUTSIDE),
        ("a row that was not released", (move("narrow", "applied"), insert("approved", "NOT item.order_id = (SELECT approval -> 'items' ->> 0 FROM reconciliation_batches WHERE batch_id = 'narrow')")), OUTSIDE),
        ("a NO_GO item", whole("no_go"), OUTSIDE),
        ("an item without an id of recon's", whole("no_id"), OUTSIDE),
        ("an item of no number", whole("nan"), OUTSIDE),
        ("an item without an end", whole("vast"), OUTSIDE),
        ("an item below nothing", whole("minus"), OUTSIDE),
        ("an item without a price", whole("endless"), OUTSIDE),
        ("an item that reinstates, inserted", (*APPROVED, insert("approved", "item.reason = 'reinstate'")), "23505"),
        ("a conflict that writes", (*APPROVED, insert("approved", more="ON CONFLICT (order_id) DO UPDATE SET status = 'canceled'")), DENIED),
        ("a step within the statement", (f"WITH m AS ({move('approved', 'applied')} RETURNING 1) {insert('approved')}",), OUTSIDE),
        ("a step within a data-modifying statement", (f"WITH i AS ({insert('approved')} RETURNING 1) {move('approved', 'applied')}",), OUTSIDE),
        ("COPY", (*APPROVED, f"COPY {INSERT} FROM STDIN"), "42809"),
        ("a prepared statement", (f"PREPARE p AS {insert('approved')}", "EXECUTE p"), OUTSIDE),
        ("a block", (f"DO $do$ BEGIN {insert('approved')}; END $do$",), OUTSIDE),
        ("a function", (f"CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS $f$ {insert('approved', order_id=chr(39) + 'x' + chr(39))} $f$", "SELECT pg_temp.f()"), OUTSIDE),
        ("a function that lies about the time", ("CREATE FUNCTION lair.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $q$SELECT timestamptz '2026-03-02 10:00Z'$q$", "SET search_path = lair, public, pg_catalog", move("expired", "applied")), CHECKED),
        ("a function that lies about roles", ("CREATE FUNCTION lair.pg_has_role(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "SET search_path = lair, public, pg_catalog", move("applied", "validated")), DENIED),
        ("a function that lies about items", ("CREATE FUNCTION lair.jsonb_array_elements_text(jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL::text WHERE false'", "SET search_path = lair, public, pg_catalog", *APPROVED), CHECKED),
        ("an operator that lies", ("CREATE FUNCTION lair.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "CREATE OPERATOR lair.= (LEFTARG = text, RIGHTARG = text, FUNCTION = lair.yes)", "SET search_path = lair, public, pg_catalog", *APPROVED), CHECKED),
        ("an orders of its own", ("CREATE TEMP TABLE orders AS SELECT * FROM public.orders", "SET search_path = pg_temp, public", *APPROVED, "INSERT INTO pg_temp.orders (order_id, profile_id, status) SELECT jsonb_array_elements_text(approval -> 'items'), 'main', 'filled' FROM public.reconciliation_batches WHERE batch_id = 'approved'", trail("approved", "APPLIED")), CHECKED),
        ("a batch of its own", ("CREATE TEMP TABLE reconciliation_batches AS SELECT * FROM public.reconciliation_batches", "UPDATE pg_temp.reconciliation_batches SET state = 'applied'", insert("approved")), OUTSIDE),
        ("an audit of its own", ("CREATE TEMP TABLE reconciliation_backfill_audit (LIKE public.reconciliation_backfill_audit)", *WRITTEN, trail("approved", "APPLIED")), CHECKED),
        ("a leaky function", ("CREATE FUNCTION pg_temp.leak(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS 'BEGIN RETURN true; END'", none(f"UPDATE {REINSTATE} SET status = 'canceled' WHERE pg_temp.leak(order_id)")), EMPTY),
        ("the cursor of a door", (f"DECLARE c CURSOR FOR SELECT * FROM {INSERT} FOR UPDATE",), DENIED),
        ("an approval", (approve("planned"),), DENIED),
        ("an approval that lasts", (f"UPDATE {B} SET approval = jsonb_set(approval, '{{expires_at}}', '\"infinity\"')",), DENIED),
        ("a plan", (f"UPDATE {B} SET plan = '{{}}'",), DENIED),
        ("a digest", (f"UPDATE {B} SET plan_digest = approval ->> 'plan_digest' WHERE batch_id = 'torn'",), DENIED),
        ("a scope", (f"UPDATE {B} SET scope = '{{}}'",), DENIED),
        ("a batch", (f"INSERT INTO {B} (batch_id, profile_id, state, created_at, created_by, updated_at, updated_by) VALUES ('new', 'main', 'approved', now(), 'x', now(), 'x')",), DENIED),
        ("an event", (f"INSERT INTO {E} (profile_id, symbol, db_open_qty) VALUES ('main', 'A/USD', 1)",), DENIED),
        ("a mark", (mark("applied"),), DENIED),
        ("the other door", (cancel(),), DENIED),
        ("reading the other door", (f"SELECT * FROM {CANCEL}",), DENIED),
        ("a decision of the approver", (trail("approved", "PENDING_APPLY"),), DENIED),
        ("a decision of the planner", (trail("approved", "DRY_RUN"),), DENIED),
        ("a decision of nobody", (trail("applied", "MAYBE"),), DENIED),
        ("a NO_GO before its time", (trail("approved", "NO_GO"),), DENIED),
        ("a skip before its time", (trail("met", "SKIP_EXISTING"),), DENIED),
        ("a skip of what is not there", (trail("gone", "SKIP_EXISTING"),), CHECKED),
        ("a skip of a row that was canceled by hand", (trail("reopened", "SKIP_EXISTING"),), CHECKED),
        ("a skip of a canceled row", (trail("undone", "SKIP_EXISTING"),), DENIED),
        ("the way back of a row of other hands", ("SELECT 1 / (reconciliation_door_way_back('by-hand', 'main') IS NULL)::integer",), "22012"),
    )),
]  # fmt: skip

UNDO = (move("applied", "rolled_back"),)
CANCELED_ONE = cancel(
    "order_id = (SELECT min(backfill_order_id) FROM reconciliation_backfill_audit WHERE batch_id = 'applied')"
)
UNDONE = (*undo(), "SET CONSTRAINTS ALL IMMEDIATE")

UDO = [
    Attack("an_undoer", "MERGE", (*UNDO, f"MERGE INTO {CANCEL} AS d USING orders AS o ON d.order_id = o.order_id WHEN MATCHED THEN DELETE"), DENIED, {15: "0A000"}),  # no MERGE into views yet
    *_steps("an_undoer", steps_of(Role.UNDOER), steps_of(None)),
    *(Attack("an_undoer", f"a mark of {batch}", (mark(batch),), CHECKED) for batch in ("applied", "validated", "approved", "planned", "second")),
    *(Attack("an_undoer", f"a cancellation in {batch}", (move(batch, "rolled_back"), none(cancel("order_id LIKE 'BFILL-%'"))), EMPTY) for batch in ("undone", "skipper", "first", "claims")),
    *(Attack("an_undoer", f"a status {status}", (*UNDO, cancel(sets=f"status = {status}"), mark("applied")), OUTSIDE) for status in ("'new'", "'expired'", "'partially_filled'", "'CANCELED'", "'cancelled'", "NULL")),
    *(Attack("an_undoer", f"the stamp {stamp}", (*UNDO, f"UPDATE {CANCEL} SET status = 'canceled', updated_at = {stamp}", mark("applied")), OUTSIDE) for stamp in ("'infinity'", "'-infinity'", "NULL", f"{NOW} + interval '2 s'", f"{NOW} - interval '2 h'")),
    *(Attack("an_undoer", f"the mark {value}", (*UNDO, cancel(), mark("applied", value)), CHECKED) for value in ("'infinity'", "'-infinity'", "NULL", f"{NOW} + interval '2 s'", f"{NOW} - interval '2 h'")),
    *(Attack("an_undoer", f"another {name}", (*UNDO, f"UPDATE {A} SET reverted_at = {NOW}, {name} = NULL WHERE batch_id = 'applied'"), DENIED) for name in TRAIL),
    *(Attack("an_undoer", f"another {name}", (*UNDO, f"UPDATE {CANCEL} SET {name} = NULL"), DENIED) for name in ("order_id", "profile_id")),
    *(Attack("an_undoer", f"a column that is no part of the door: {name}", (*UNDO, f"UPDATE {CANCEL} SET {name} = NULL"), "42703") for name in ("quantity", "qty", "price", "action", "trade_id", "note")),
    *(Attack("an_undoer", f"no right to {name}", (f"UPDATE {B} SET {name} = NULL",), DENIED) for name in ("scope", "plan", "plan_digest", "approval", "batch_id", "profile_id", "created_at", "created_by")),
    *(Attack("an_undoer", why, statements, expected) for why, statements, expected in (
        ("rows without a step", (none(cancel()),), EMPTY),
        ("a row without a step", (none(CANCELED_ONE),), EMPTY),
        ("a step without rows", (*UNDO, mark("applied")), CHECKED),
        ("a step without marks", (*UNDO, cancel()), CHECKED),
        ("a step without either", UNDO, CHECKED),
        ("one row of two", (*UNDO, CANCELED_ONE, mark("applied")), CHECKED),
        ("one mark of two", (*UNDO, cancel(), mark("applied", more=" AND decision = 'APPLIED'")), CHECKED),
        ("marks before rows", (*UNDO, mark("applied"), none(cancel())), EMPTY),
        ("the step in a savepoint", (SAVE, *UNDO, "RELEASE s", none(cancel())), EMPTY),
        ("the step taken back", (SAVE, *UNDO, "ROLLBACK TO s", none(cancel())), EMPTY),
        ("the step in a savepoint, for marks", (SAVE, *UNDO, "RELEASE s", mark("applied")), CHECKED),
        ("rows filled again", (*UNDO, cancel(), cancel(sets="status = 'filled'"), mark("applied")), CHECKED),
        ("rows filled again after the check", (*UNDONE, none(cancel(sets="status = 'filled'"))), EMPTY),
        ("rows of another batch", (*UNDO, none(cancel("order_id IN (SELECT backfill_order_id FROM reconciliation_backfill_audit WHERE batch_id = 'validated')"))), EMPTY),
        ("rows of other hands", (*UNDO, none(cancel("order_id NOT LIKE 'BFILL-%'"))), EMPTY),
        ("rows of other hands that a batch claims", (move("claims", "rolled_back"), none(cancel("order_id = 'by-hand'")), mark("claims")), EMPTY),
        ("rows of another profile that a batch claims", (move("claims", "rolled_back"), none(cancel("profile_id = 'other'")), cancel(), mark("claims")), EMPTY),
        ("rows that a batch only met", (move("skipper", "rolled_back"), none(cancel()), mark("skipper")), EMPTY),
        ("rows that another batch owns now", (move("first", "rolled_back"), none(cancel()), mark("first")), EMPTY),
        ("rows of a rollback that left some", (none(cancel("order_id = 'BFILL-left'")),), EMPTY),
        ("marks of a rollback that left some", (mark("left"),), CHECKED),
        ("a function that lies about transactions", ("CREATE FUNCTION lair.pg_current_xact_id_if_assigned() RETURNS xid8 LANGUAGE sql AS $f$ SELECT xmin::text::xid8 FROM public.reconciliation_batches WHERE batch_id = 'left' $f$", "SET search_path = lair, public, pg_catalog", mark("left")), CHECKED),
        ("marks of another batch", (*UNDO, cancel(), mark("applied"), mark("validated")), CHECKED),
        ("marks of all batches", (*UNDO, cancel(), f"UPDATE {A} SET reverted_at = {NOW} WHERE reverted_at IS NULL"), CHECKED),
        ("a mark taken off", (mark("undone", "NULL"),), CHECKED),
        ("a mark changed", (mark("undone", f"{NOW} + interval '1 s'"),), CHECKED),
        ("a mark taken off in its time", (*UNDO, cancel(), mark("applied"), mark("applied", "NULL")), CHECKED),
        ("a mark changed in its time", (*UNDO, cancel(), mark("applied"), mark("applied", f"{NOW} - interval '1 s'")), CHECKED),
        ("a rollback of a rollback", (move("undone", "rolled_back"), none(cancel())), EMPTY),
        ("a step within the statement", (f"WITH m AS ({UNDO[0]} RETURNING 1) {mark('applied')}",), CHECKED),
        ("a prepared statement", (f"PREPARE p AS {cancel()}", *UNDO, "EXECUTE p"), CHECKED),
        ("an insert", (insert("approved"),), DENIED),
        ("an insert through the wrong door", (insert("approved", door=CANCEL),), "42703"),
        ("a row through the wrong door", (reinstate(),), DENIED),
        ("the way back", (f"SELECT {WAY_BACK}('by-hand', 'main')",), DENIED),
        ("an audit row", (trail("applied", "SKIP_EXISTING"),), DENIED),
        ("an audit row as an applier", (trail("approved", "APPLIED"),), DENIED),
        ("an event", (f"INSERT INTO {E} (profile_id, symbol, db_open_qty) VALUES ('main', 'A/USD', 1)",), DENIED),
        ("an approval", (approve("planned"),), DENIED),
        ("COPY", (f"COPY {CANCEL} FROM STDIN",), DENIED),
        ("a block", (f"DO $do$ BEGIN {UNDO[0]}; PERFORM pg_sleep(0); END $do$",), CHECKED),
        ("an orders of its own", ("CREATE TEMP TABLE orders AS SELECT * FROM public.orders", "UPDATE pg_temp.orders SET status = 'canceled'", *UNDO, mark("applied")), CHECKED),
        ("an audit of its own", ("CREATE TEMP TABLE reconciliation_backfill_audit (LIKE public.reconciliation_backfill_audit)", *UNDO, mark("applied")), CHECKED),
        ("a leaky function", ("CREATE FUNCTION pg_temp.leak(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS 'BEGIN RETURN true; END'", none(f"UPDATE {CANCEL} SET status = 'canceled' WHERE pg_temp.leak(order_id)")), EMPTY),
    )),
]  # fmt: skip

PENDING = trail("planned", "PENDING_APPLY")

ANNA = [
    *_trails("an_approver", "planned", (approve("planned"),), "PENDING_APPLY"),
    *_steps("an_approver", steps_of(Role.APPROVER), steps_of(None)),
    *(Attack("an_approver", f"{name} {value} in the approval", (approve("planned", **{name: value}), PENDING), expected) for name, value, expected in (
        ("plan_digest", "'x'", CHECKED), ("plan_digest", "NULL", CHECKED), ("batch_id", "'approved'", CHECKED),
        ("batch_id", "NULL", CHECKED), ("profile_id", "'other'", CHECKED), ("profile_id", "NULL", CHECKED),
        ("by", "''", CHECKED), ("by", "' '", CHECKED), ("by", "NULL", CHECKED), ("by", "chr(9)", CHECKED),
        ("items", "'[]'::jsonb", CHECKED), ("items", "NULL::jsonb", CHECKED), ("items", "'{}'::jsonb", CHECKED),
        ("items", "'\"BFILL-x\"'::jsonb", CHECKED), ("items", "'[\"BFILL-x\"]'::jsonb", CHECKED),
        ("items", "'[null]'::jsonb", CHECKED), ("items", "'[\"by-hand\"]'::jsonb", CHECKED),
        ("items", "(SELECT approval -> 'items' FROM reconciliation_batches WHERE batch_id = 'approved')", CHECKED),
        ("expires_at", "NULL", CHECKED), ("expires_at", "'never'", "22007"), ("expires_at", "''", "22007"),
    )),
    *(Attack("an_approver", f"an approval of {batch}", (approve(batch), trail(batch, "PENDING_APPLY")), expected) for batch, expected in (
        ("begun", CHECKED), ("applied", CHECKED), ("validated", CHECKED), ("undone", CHECKED), ("failed", CHECKED),
        ("double", CHECKED), ("gone", CHECKED), ("second", CHECKED), ("no_go", CHECKED),
    )),
    *(Attack("an_approver", f"no right to {name}", (f"UPDATE {B} SET {name} = {value} WHERE batch_id = 'approved'",), DENIED) for name, value in (
        ("plan", "'{}'"), ("plan_digest", "'x'"), ("scope", "'{}'"), ("batch_id", "'x'"), ("profile_id", "'x'"), ("created_at", "now()"), ("created_by", "'x'"),
    )),
    *(Attack("an_approver", f"a decision {decision}", (trail("approved", decision),), DENIED) for decision in ("APPLIED", "SKIP_EXISTING", "NO_GO", "DRY_RUN", "MAYBE", "pending_apply", "")),
    *(Attack("an_approver", f"a pending row of {batch}", (trail(batch, "PENDING_APPLY", released=False),), DENIED) for batch in ("planned", "applied", "validated", "undone", "stale", "failed")),
    *(Attack("an_approver", why, statements, expected) for why, statements, expected in (
        ("rows applied by the approver", (approve("approved", note="'again'"), trail("approved", "APPLIED")), DENIED),
        ("an approval of a NO_GO item", (approve("no_go", items="approval -> 'items'", note="'again'"), trail("no_go", "PENDING_APPLY")), CHECKED),
        ("approved without an approval", (move("planned", "approved"),), CHECKED),
        ("approved with the approval of a stale plan", (move("stale", "approved"),), CHECKED),
        ("approved with the approval of another batch", (f"UPDATE {B} SET state = 'approved', approval = (SELECT approval FROM {B} WHERE batch_id = 'approved') WHERE batch_id = 'planned'",), CHECKED),
        ("an approval without a trace", (approve("planned"),), CHECKED),
        ("an approval with half a trace", (approve("approved", items="(SELECT jsonb_agg(i) FROM jsonb_array_elements(approval -> 'items') AS i)"), trail("approved", "PENDING_APPLY", ONE)), CHECKED),
        ("an approval renewed without a trace", (approve("expired"),), CHECKED),
        ("an approval of what the approver planned", (f"UPDATE {B} SET state = 'planned', plan = '{{}}', approval = NULL WHERE batch_id = 'begun'",), DENIED),
        ("the approval taken off", (f"UPDATE {B} SET approval = NULL WHERE batch_id = 'approved'",), DENIED),
        ("the approval emptied", (f"UPDATE {B} SET approval = '{{}}' WHERE batch_id = 'approved'",), CHECKED),
        ("the approval no object", (f"UPDATE {B} SET approval = '[]' WHERE batch_id = 'approved'",), CHECKED),
        ("the approval of an applied batch", (f"UPDATE {B} SET approval = jsonb_set(approval, '{{by}}', '\"x\"') WHERE batch_id = 'applied'",), CHECKED),
        ("the approval of a batch that was rolled back", (f"UPDATE {B} SET approval = jsonb_set(approval, '{{by}}', '\"x\"') WHERE batch_id = 'undone'",), CHECKED),
        ("the approval of a plan", (f"UPDATE {B} SET approval = '{{}}' WHERE batch_id = 'planned'",), DENIED),
        ("a rollback approved before the apply", (f"UPDATE {B} SET rollback_approval = '{{}}' WHERE batch_id = 'approved'",), CHECKED),
        ("a rollback approved after it", (f"UPDATE {B} SET rollback_approval = '{{}}' WHERE batch_id = 'undone'",), CHECKED),
        ("a rollback approved with another step", (f"UPDATE {B} SET state = 'signed', rollback_approval = '{{}}' WHERE batch_id = 'validated'",), CHECKED),
        ("a rollback of a plan approved", (f"UPDATE {B} SET rollback_approval = '{{}}' WHERE batch_id = 'planned'",), DENIED),
        ("a batch", (f"INSERT INTO {B} (batch_id, profile_id, state, created_at, created_by, updated_at, updated_by) VALUES ('new', 'main', 'detected', now(), 'x', now(), 'x')",), DENIED),
        ("an event", (f"INSERT INTO {E} (profile_id, symbol, db_open_qty) VALUES ('main', 'A/USD', 1)",), DENIED),
        ("a mark", (mark("applied"),), DENIED),
        ("a row", (insert("approved"),), DENIED),
        ("a reinstated row", (reinstate(),), DENIED),
        ("a canceled row", (cancel(),), DENIED),
        ("reading a door", (f"SELECT * FROM {INSERT}",), DENIED),
        ("the lock", (f"LOCK TABLE {LOCK} IN SHARE ROW EXCLUSIVE MODE",), DENIED),
        ("the way back", (f"SELECT {WAY_BACK}('by-hand', 'main')",), DENIED),
        ("an apply of the own approval", (approve("planned"), PENDING, move("planned", "applied")), DENIED),
        ("a function that lies about roles", ("CREATE FUNCTION lair.pg_has_role(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "SET search_path = lair, public, pg_catalog", move("approved", "applied")), DENIED),
        ("a function that lies about counts", ("CREATE FUNCTION lair.num_nonnulls(jsonb, jsonb, text, jsonb, jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 0'", "SET search_path = lair, public, pg_catalog", move("approved", "planned")), DENIED),
    )),
    *(Attack(who, "a rollback approved by another role", (f"UPDATE {B} SET rollback_approval = '{{}}' WHERE batch_id = 'applied'",), DENIED) for who in ("a_reader", "a_planner", "an_applier", "an_undoer")),
]  # fmt: skip

NEW = "INSERT INTO reconciliation_batches (batch_id, profile_id, state, created_at, created_by, updated_at, updated_by{more}) VALUES ({id}, 'main', {state}, now(), 'x', now(), 'x'{value})"


def new(state: str, more: str = "", value: str = "", batch: str = "'new'") -> str:
    """A new batch."""
    return NEW.format(id=batch, state=state, more=more, value=value)


PAUL = [
    *_steps("a_planner", steps_of(Role.PLANNER), steps_of(None)),
    *(Attack("a_planner", f"a batch that begins {state}", (new(f"'{state}'"),), CHECKED) for state in ("planned", "approved", "applied", "validated", "rolled_back", "signed", "")),
    *(Attack("a_planner", f"a batch that begins with {name}", (new("'detected'", f", {name}", f", '{value}'"),), DENIED) for name, value in (("plan", "{}"), ("approval", "{}"), ("scope", "{}"), ("plan_digest", "x"))),
    *(Attack("a_planner", f"a new {name} of {batch}", (f"UPDATE {B} SET {name} = '{value}' WHERE batch_id = '{batch}'",), CHECKED) for name, value in (("plan", "{}"), ("plan_digest", "x"), ("scope", '{"x": 1}')) for batch in ("begun", "approved", "applied", "validated")),
    *(Attack("a_planner", f"a new {name} of a batch that was rolled back", (f"UPDATE {B} SET {name} = '{value}' WHERE batch_id = 'undone'",), DENIED) for name, value in (("plan", "{}"), ("plan_digest", "x"), ("scope", "{}"), ("approval", "{}"))),
    *(Attack("a_planner", f"an approval of {batch}", (approve(batch, **{"by": "'a_planner'"}),), DENIED) for batch in ("planned", "approved", "stale", "expired", "failed", "double")),
    *(Attack("a_planner", f"a changed approval of {batch}", (f"UPDATE {B} SET approval = coalesce(approval, '{{}}') || '{{\"expires_at\": \"2030-01-01T00:00:00Z\"}}' WHERE batch_id = '{batch}'",), DENIED) for batch in ("begun", "planned", "approved", "expired", "stale", "applied", "validated")),
    *(Attack("a_planner", f"a decision {decision} in {batch}", (trail(batch, decision, released=False),), DENIED) for decision in ("PENDING_APPLY", "APPLIED", "SKIP_EXISTING", "MAYBE") for batch in ("planned", "approved", "applied")),
    *(Attack("a_planner", f"a decision {decision} in {batch}", (trail(batch, decision),), DENIED) for decision in ("DRY_RUN", "NO_GO") for batch in ("applied", "validated", "undone")),
    *(Attack("a_planner", f"an audit row of another {name}", (trail("approved", "DRY_RUN", **{name: value}),), DENIED) for name, value in (("batch_id", "'applied'"), ("batch_id", "'nothing'"), ("profile_id", "'other'"), ("profile_id", "''"))),
    *(Attack("a_planner", f"no right to {name}", (f"UPDATE {B} SET {name} = {value}",), DENIED) for name, value in (("batch_id", "'x'"), ("profile_id", "'x'"), ("created_at", "now()"), ("created_by", "'x'"))),
    *(Attack("a_planner", why, statements, expected) for why, statements, expected in (
        ("a batch of a name that is taken", (new("'detected'", batch="'approved'"),), "23505"),
        ("a batch that overwrites", (new("'detected'", batch="'approved'") + " ON CONFLICT (batch_id) DO UPDATE SET state = 'applied'",), DENIED),
        ("a batch that takes a step back", (new("'detected'", batch="'applied'") + " ON CONFLICT (batch_id) DO UPDATE SET state = 'planned'",), CHECKED),
        ("a batch without a state", (new("NULL"),), "23502"),
        ("a plan under its approval", (move("approved", "approved", ", plan = '{}'"),), CHECKED),
        ("a plan that keeps the approval", (move("approved", "planned", ", plan = '{}'"),), CHECKED),
        ("a plan approved at once", (move("planned", "approved", ", plan = '{}', approval = '{}'"),), DENIED),
        ("the approval taken off, approved still", (move("approved", "approved", ", approval = NULL"),), CHECKED),
        ("the approval of an applied batch taken off", (move("applied", "applied", ", approval = NULL"),), CHECKED),
        ("a stale plan approved", (move("stale", "approved"),), DENIED),
        ("a stale plan with an approval of one's own", (f"UPDATE {B} SET approval = '{{\"by\": \"x\"}}' WHERE batch_id = 'stale'",), DENIED),
        ("a digest that fits the approval", (f"UPDATE {B} SET plan_digest = approval ->> 'plan_digest' WHERE batch_id = 'torn'",), CHECKED),
        ("an audit row that is reverted", (trail("approved", "DRY_RUN", reverted_at=NOW),), CHECKED),
        ("a mark", (mark("applied"),), DENIED),
        ("a mark in the same breath", (trail("approved", "DRY_RUN"), mark("approved")), DENIED),
        ("a row", (insert("approved"),), DENIED),
        ("a reinstated row", (reinstate(),), DENIED),
        ("a canceled row", (cancel(),), DENIED),
        ("reading a door", (f"SELECT * FROM {INSERT}",), DENIED),
        ("reading another", (f"SELECT * FROM {CANCEL}",), DENIED),
        ("the lock", (f"LOCK TABLE {LOCK} IN SHARE ROW EXCLUSIVE MODE",), DENIED),
        ("the way back", (f"SELECT {WAY_BACK}('by-hand', 'main')",), DENIED),
        ("an event changed", (f"INSERT INTO {E} (profile_id, symbol, db_open_qty) VALUES ('main', 'A/USD', 1)", f"UPDATE {E} SET db_open_qty = 0"), DENIED),
        ("a plan in a prepared statement", (f"PREPARE p AS UPDATE {B} SET plan = '{{}}' WHERE batch_id = 'applied'", "EXECUTE p"), CHECKED),
        ("a plan in a block", (f"DO $do$ BEGIN UPDATE {B} SET plan = '{{}}' WHERE batch_id = 'applied'; END $do$",), CHECKED),
        ("a plan in a common table expression", (f"WITH x AS (UPDATE {B} SET plan = '{{}}' WHERE batch_id = 'applied' RETURNING 1) SELECT * FROM x",), CHECKED),
        ("a function that lies about roles", ("CREATE FUNCTION lair.pg_has_role(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "SET search_path = lair, public, pg_catalog", move("approved", "applied")), DENIED),
        ("a function that lies about roles, for the trail", ("CREATE FUNCTION lair.pg_has_role(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "SET search_path = lair, public, pg_catalog", trail("approved", "PENDING_APPLY")), DENIED),
        ("a function that lies about counts", ("CREATE FUNCTION lair.num_nonnulls(jsonb, jsonb, text, jsonb, jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 0'", "SET search_path = lair, public, pg_catalog", new("'approved'")), CHECKED),
    )),
]  # fmt: skip

RITA = [
    *(Attack("a_reader", f"as the applier: {one.why}", one.statements[:1], DENIED) for one in AXEL if one.statements[0].startswith((f"INSERT INTO {A}", f"UPDATE {B}", f"UPDATE {REINSTATE}"))),
    *(Attack("a_reader", f"as the undoer: {one.why}", one.statements[:1], DENIED) for one in UDO if one.statements[0].startswith(("UPDATE", "INSERT INTO reconciliation_b"))),
    Attack("a_reader", "an insert", (insert("approved"),), DENIED),
    Attack("a_reader", "a canceled row", (cancel(),), DENIED),
    Attack("a_reader", "a batch", (new("'detected'"),), DENIED),
    Attack("a_reader", "an approval", (approve("planned"),), DENIED),
    Attack("a_reader", "an event", (f"INSERT INTO {E} (profile_id, symbol, db_open_qty) VALUES ('main', 'A/USD', 1)",), DENIED),
    Attack("a_reader", "the lock", (f"LOCK TABLE {LOCK} IN SHARE ROW EXCLUSIVE MODE",), DENIED),
    Attack("a_reader", "the way back", (f"SELECT {WAY_BACK}('by-hand', 'main')",), DENIED),
    *(Attack("a_reader", "reading a door", (f"SELECT * FROM {door}",), DENIED) for door in DOORS),
]  # fmt: skip

REPLICA = "SET session_replication_role = replica"
NOT_EVEN = [
    *((why, statement) for why, statement in (
        ("an audit row deleted", f"DELETE FROM {A} WHERE batch_id = 'applied'"),
        ("the audit emptied", f"TRUNCATE {A}"),
        ("an audit row changed", f"UPDATE {A} SET actor = 'x'"),
        ("an audit row changed as it is marked", f"UPDATE {A} SET reverted_at = {NOW}, actor = 'x' WHERE batch_id = 'applied'"),
        ("a quantity rewritten as it is marked", f"UPDATE {A} SET reverted_at = {NOW}, filled_qty = filled_qty + 0.000 WHERE batch_id = 'applied'"),
        ("a mark taken off", mark("undone", "NULL")),
        ("a mark of a live batch", mark("applied")),
        ("a batch deleted", f"DELETE FROM {B} WHERE batch_id = 'begun'"),
        ("the batches emptied", f"TRUNCATE {B}"),
        ("a batch renamed", f"UPDATE {B} SET batch_id = 'x' WHERE batch_id = 'begun'"),
        ("a batch of another profile", f"UPDATE {B} SET profile_id = 'other' WHERE batch_id = 'begun'"),
        ("a batch that began before", f"UPDATE {B} SET created_at = now() WHERE batch_id = 'begun'"),
        ("a batch that others began", f"UPDATE {B} SET created_by = 'x' WHERE batch_id = 'begun'"),
        ("a batch that begins approved", new("'approved'")),
        ("a batch that begins with a plan", new("'detected'", ", plan", ", '{}'")),
        ("a batch that begins with an approval", new("'detected'", ", approval", ", '{}'")),
        ("a batch that begins with a scope", new("'detected'", ", scope", ", '{}'")),
        ("a batch that begins with a digest", new("'detected'", ", plan_digest", ", 'x'")),
        ("a step that nobody takes", move("undone", "applied")),
        ("a step without its rows", move("approved", "applied")),
        ("the approval of an applied batch", f"UPDATE {B} SET approval = jsonb_set(approval, '{{by}}', '\"x\"') WHERE batch_id = 'applied'"),
        ("an audit row of what is not there", trail("gone", "SKIP_EXISTING")),
    )),
]  # fmt: skip
SUPERUSER = [
    *(Attack(ROOT, why, (statement,), CHECKED) for why, statement in NOT_EVEN),
    *(Attack(ROOT, f"{why}, as a replica", (REPLICA, statement), CHECKED) for why, statement in NOT_EVEN),
    *(
        Attack(
            ROOT,
            why,
            (
                move("applied", "rolled_back"),
                cancel(),
                f"UPDATE {A} SET reverted_at = {NOW}, {cell} WHERE batch_id = 'applied'",
            ),
            CHECKED,
        )
        for why, cell in (
            ("an actor changed in a rollback", "actor = 'x'"),
            ("a quantity rewritten in a rollback", "filled_qty = filled_qty + 0.000"),
            ("a batch renamed in a rollback", "batch_id = 'undone'"),
        )
    ),
]
"""What even one is refused who may do nearly everything, until he takes the triggers off."""

EVE = [
    *(Attack("all_five", f"{why}", (move("applied", "validated"), none(statement)), EMPTY) for why, statement in (
        ("a cancellation as a validation", cancel()),
    )),
    *(Attack("all_five", why, statements, CHECKED) for why, statements in (
        ("a plan under its approval", (f"UPDATE {B} SET plan = '{{}}' WHERE batch_id = 'approved'",)),
        ("a plan of an applied batch", (f"UPDATE {B} SET plan = '{{}}' WHERE batch_id = 'applied'",)),
        ("the approval of an applied batch", (f"UPDATE {B} SET approval = jsonb_set(approval, '{{by}}', '\"x\"') WHERE batch_id = 'applied'",)),
        ("plan and approval at once", (f"UPDATE {B} SET state = 'approved', plan = '{{}}', approval = '{{}}' WHERE batch_id = 'planned'",)),
        ("a rollback undone", (move("undone", "applied"),)),
        ("a rollback planned anew", (move("undone", "planned"),)),
        ("an apply that was never planned", (move("begun", "applied"),)),
        ("marks as a validation", (move("applied", "validated"), mark("applied"))),
        ("an apply and its rollback at once", (*everything(), move("approved", "rolled_back"), cancel(), mark("approved"))),
        ("an approval with another's trace", (approve("planned"), trail("planned", "DRY_RUN"))),
        ("an apply and its rollback, half", (*DONE[:-1], move("approved", "rolled_back"))),
    )),
]  # fmt: skip
"""What one with all five roles is refused still."""

OWN = [*AXEL, *UDO, *ANNA, *PAUL, *RITA, *EVE]
