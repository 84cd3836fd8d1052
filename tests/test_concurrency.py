"""What else writes meanwhile: another apply, the backend itself, a lock that is held. Every guard has its control."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from incidents import Incident, refusal

from recon.database import connect
from recon.domain import Stage, StageResult, Verdict
from recon.incident import run_stage
from recon.orders import Orders
from recon.plan import Scope

REAL_EXIT = """INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price,
                                   filled_at, created_at, updated_at, side)
               SELECT 'real-exit', 'main', 'BTC/USD', 't1', 'EXIT', 'filled', 1, 1, 110, now(), now(), now(), 'sell'"""
"""The EXIT that was lost, booked late after all."""

IF_STILL_OPEN = """ WHERE 0 < (SELECT sum(CASE action WHEN 'ENTRY' THEN quantity ELSE -quantity END) FROM orders
                               WHERE trade_id = 't1' AND status = 'filled')"""
"""A backend that looks first: READ COMMITTED, as most are."""

OVER_CLOSED = {"t1": Decimal(-1)}


class Meanwhile:
    """Something that starts while apply holds its locks, at the look at the pause switch for which it is the answer.

    `waited` says whether it then had to wait for a lock of apply; `result()` is what it returned in the end.
    """

    def __init__(self, incident: Incident, target: Callable[[], object]) -> None:
        self.incident = incident
        self.waited: bool | None = None
        self._returned: list[object] = []
        self._thread = threading.Thread(target=lambda: self._returned.append(target()))

    def __call__(self) -> str:
        self.start()
        return "PAUSED"

    def start(self) -> None:
        """Start it, and come back when it waits for a lock or is through."""
        self._thread.start()
        self.waited = False
        while self._thread.is_alive() and not self.waited:
            self.waited = waits_for_a_lock(self.incident)

    def result(self) -> Any:
        """What it returned."""
        self._thread.join(60)
        [returned] = self._returned
        return returned


def waits_for_a_lock(incident: Incident) -> bool:
    """Whether anybody in this database waits for a lock right now."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(incident.sql(asked)[0][0])


@pytest.fixture
def without_the_table_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: apply as it is, but for LOCK TABLE."""
    monkeypatch.setattr(Orders, "lock", lambda self, connection: None)


# Two at once


def test_of_two_applies_at_the_same_moment_one_is_done_and_one_refused(incident_each_version: Incident) -> None:
    """Invariant 4: the advisory lock is tried, not waited for; the second is told that another is running."""
    incident = incident_each_version.create_table()
    incident.ghost("t1")
    incident.plan()
    second = Meanwhile(incident, lambda: incident.run("apply"))
    incident.switch.script = [second]
    first = incident.run("apply")
    assert (first.verdict, first.counts) == (Verdict.DONE, {"APPLIED": 1})
    assert (second.result().verdict, second.result().code, second.waited) == (Verdict.NO_GO, "already_running", False)
    assert (incident.open_quantities(), len(incident.backfills())) == ({}, 1)
    assert [decision for (decision,) in incident.audit("decision")].count("APPLIED") == 1


def test_without_the_advisory_lock_the_second_would_wait(incident: Incident, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with another key the second gets as far as the table lock and waits; it still writes nothing."""
    incident.create_table().ghost("t1")
    incident.plan()
    keys = iter(range(10))
    monkeypatch.setattr("recon.stages.writing.advisory_key", lambda profile_id: next(keys))
    second = Meanwhile(incident, lambda: incident.run("apply"))
    incident.switch.script = [second]
    assert incident.run("apply").verdict is Verdict.DONE
    assert (second.waited, second.result().code) == (True, "already_running")
    assert len(incident.backfills()) == 1


def test_an_apply_that_comes_a_moment_late_is_refused_too(incident: Incident) -> None:
    """It read `approved`, then the first one finished: nothing is called stale, and nothing is written twice."""
    incident.create_table().ghost("t1")
    incident.plan()
    first: list[StageResult] = []

    def overtake() -> None:
        incident.exchange.before = lambda: None
        first.append(incident.run("apply"))

    incident.exchange.before = overtake
    late = incident.run("apply")
    assert first[0].counts == {"APPLIED": 1}
    assert (late.verdict, late.code) == (Verdict.NO_GO, "already_running")
    assert incident.state() == "applied"
    assert incident.run("apply").counts == {"SKIP_EXISTING": 1}


@pytest.mark.parametrize(("first", "second"), [("apply", "rollback"), ("rollback", "apply")])
def test_an_apply_and_a_rollback_of_one_profile_exclude_each_other(incident: Incident, first: str, second: str) -> None:
    incident.create_table().ghost("t1")
    incident.ghost("t2", symbol="ETH/USD")
    incident.repair(batch="rollback", work=incident.work(scope=Scope(trade_ids=("t1",))))
    incident.plan(batch="apply", work=incident.work(scope=Scope(trade_ids=("t2",))))
    other = Meanwhile(incident, lambda: incident.run(second, second))
    incident.switch.script = [other]
    assert incident.run(first, first).verdict is Verdict.DONE
    assert other.result().code == "already_running"


def test_another_profile_waits_for_the_table_and_is_then_done(incident: Incident) -> None:
    """The advisory lock is the profile's own; the table lock is everybody's, and short."""
    incident.create_table().ghost("t1")
    incident.profile = "other"
    incident.ghost("t2", symbol="ETH/USD")
    incident.plan(batch="theirs")
    incident.profile = "main"
    incident.plan()
    theirs = Meanwhile(incident, lambda: run_stage(incident.work(), Stage.APPLY, "other", "theirs"))
    incident.switch.script = [theirs]
    assert incident.run("apply").verdict is Verdict.DONE
    assert (theirs.waited, theirs.result().verdict) == (True, Verdict.DONE)


def test_readers_and_other_batches_are_not_kept_waiting(incident: Incident) -> None:
    """SHARE ROW EXCLUSIVE keeps writers out; the backend's reads, detect and dry-run of other batches go on."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.run("detect", "other-batch")
    reader = Meanwhile(incident, lambda: incident.sql("SELECT count(*) FROM orders")[0][0])
    planner = Meanwhile(incident, lambda: incident.run("dry-run", "other-batch").verdict)
    incident.switch.script = [reader, planner]
    assert incident.run("apply").verdict is Verdict.DONE
    assert (reader.waited, reader.result()) == (False, 1)
    assert (planner.waited, planner.result()) == (False, Verdict.GO)


@pytest.mark.parametrize("action", ["approve", "dry-run"])
def test_the_batch_cannot_change_under_an_apply(incident: Incident, action: str) -> None:
    """Its row is held: an approval or a dry run waits, then finds the batch applied and is refused."""
    incident.create_table().ghost("t1")
    incident.plan()

    def change() -> str | None:
        if action == "approve":
            return refusal(incident.approve).code
        return incident.run(action).code

    meanwhile = Meanwhile(incident, change)
    incident.switch.script = [meanwhile]
    assert incident.run("apply").verdict is Verdict.DONE
    assert (meanwhile.waited, meanwhile.result()) == (True, "illegal_transition")
    assert incident.state() == "applied"


# The backend writes the real EXIT


@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
def test_an_exit_that_is_not_yet_committed_is_waited_for(incident_each_version: Incident, default: str) -> None:
    """Invariant 5: apply waits for the backend's open transaction, sees its EXIT, and finds the plan stale.

    Whatever isolation the database has as its default: a snapshot older than the lock would not see the EXIT.
    """
    incident = incident_each_version.create_table()
    incident.ghost("t1")
    incident.plan()
    [(name,)] = incident.sql("SELECT current_database()")
    incident.sql(f"ALTER DATABASE {name} SET default_transaction_isolation TO '{default}'")
    with incident.backend.connect() as backend:
        backend.exec_driver_sql(REAL_EXIT)
        apply = Meanwhile(incident, lambda: incident.run("apply"))
        apply.start()
        backend.commit()
    assert apply.waited
    assert (apply.result().verdict, apply.result().code) == (Verdict.NO_GO, "stale_plan")
    assert (incident.open_quantities(), incident.backfills()) == ({}, [])


@pytest.mark.usefixtures("without_the_table_lock")
def test_without_the_lock_that_exit_over_closes(incident: Incident) -> None:
    """The control: the very same moment, both commit, and the trade is closed twice."""
    incident.create_table().ghost("t1")
    incident.plan()
    with incident.backend.connect() as backend:
        backend.exec_driver_sql(REAL_EXIT)
        assert incident.run("apply").verdict is Verdict.DONE
        backend.commit()
    assert incident.open_quantities() == OVER_CLOSED


def booking(incident: Incident, statement: str) -> Meanwhile:
    """The backend's own statement in a transaction of its own; its result is the number of rows it changed."""

    def book() -> int:
        with incident.backend.begin() as connection:
            return int(connection.exec_driver_sql(statement).rowcount)

    return Meanwhile(incident, book)


def test_an_exit_that_comes_during_apply_waits_and_then_finds_the_trade_closed(incident: Incident) -> None:
    """Invariant 5: it comes after every check of apply, at the last look at the switch, and waits for the commit."""
    incident.create_table().ghost("t1")
    incident.plan()
    late = booking(incident, REAL_EXIT + IF_STILL_OPEN)
    incident.switch.script = ["PAUSED", late]
    assert incident.run("apply").counts == {"APPLIED": 1}
    assert (late.waited, late.result()) == (True, 0)
    assert incident.open_quantities() == {}


@pytest.mark.usefixtures("without_the_table_lock")
def test_without_the_lock_it_over_closes_though_it_looked(incident: Incident) -> None:
    """The control: the EXIT is through before apply commits; both looked, both saw an open trade."""
    incident.create_table().ghost("t1")
    incident.plan()
    late = booking(incident, REAL_EXIT + IF_STILL_OPEN)
    incident.switch.script = ["PAUSED", late]
    assert incident.run("apply").counts == {"APPLIED": 1}
    assert (late.waited, late.result()) == (False, 1)
    assert incident.open_quantities() == OVER_CLOSED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET quantity = 0.5, qty = 0.5 WHERE order_id = 'entry-t1'",
        "DELETE FROM orders WHERE order_id = 'entry-t1'",
        "UPDATE orders SET status = 'canceled' WHERE order_id LIKE 'BFILL-%%'",
    ],
)
def test_every_kind_of_writer_waits(incident: Incident, statement: str) -> None:
    incident.create_table().ghost("t1")
    incident.plan()
    late = booking(incident, statement)
    incident.switch.script = ["PAUSED", late]
    assert incident.run("apply").verdict is Verdict.DONE
    assert (late.waited, late.result()) == (True, 1)


def test_an_exit_during_a_rollback_waits_too(incident: Incident) -> None:
    """And then finds the trade open again, so that it is right to book it."""
    incident.create_table().ghost("t1")
    incident.repair()
    late = booking(incident, REAL_EXIT + IF_STILL_OPEN)
    incident.switch.script = ["PAUSED", late]
    assert incident.run("rollback").verdict is Verdict.DONE
    assert (late.waited, late.result()) == (True, 1)
    assert incident.open_quantities() == {}


# A lock that is not granted


def test_a_table_that_stays_locked_is_refused_in_time(incident: Incident) -> None:
    """Ten seconds, then orders_locked; nothing is written, the approval stands, and afterwards it works."""
    incident.create_table().ghost("t1")
    incident.plan()
    before = incident.everything()
    with incident.backend.connect() as backend:
        backend.exec_driver_sql("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "orders_locked")
    assert "pg_locks" in (result.message or "")
    assert incident.everything() == before
    assert incident.run("apply").verdict is Verdict.DONE


def test_a_statement_that_is_canceled_leaves_nothing(incident: Incident) -> None:
    """An operator cancels the backend while it waits: told as such, nothing written."""
    incident.create_table().ghost("t1")
    incident.plan()
    before = incident.everything()
    with incident.backend.connect() as backend:
        backend.exec_driver_sql("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        apply = Meanwhile(incident, lambda: incident.run("apply"))
        apply.start()
        incident.sql(
            """SELECT pg_cancel_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'"""
        )
    assert (apply.result().verdict, apply.result().code) == (Verdict.NO_GO, "statement_timeout")
    assert incident.everything() == before


def test_a_role_that_may_not_lock_the_table_is_told_so(incident: Incident) -> None:
    """LOCK TABLE needs UPDATE, DELETE or TRUNCATE on the whole table: SQLSTATE 42501, nothing written."""
    if incident.behind_doors:
        pytest.skip("behind the doors a login needs a role, which may lock the table, and no right on orders")
    incident.create_table().ghost("t1")
    incident.plan()
    role = "may_not_lock"
    incident.sql(f"CREATE ROLE {role} LOGIN")
    try:
        incident.sql(f"GRANT SELECT, INSERT ON orders TO {role}")
        incident.sql(f"GRANT UPDATE (status, updated_at) ON orders TO {role}")
        for name in ("backfill_audit", "batches", "events"):
            incident.sql(f"GRANT SELECT, INSERT, UPDATE ON reconciliation_{name} TO {role}")
        incident.engine = connect(sa.make_url(incident.url).set(username=role).render_as_string())
        before = incident.everything()
        result = incident.run("apply")
        assert (result.verdict, result.code) == (Verdict.FAILED, "database_error")
        assert "permission denied for table orders (SQLSTATE 42501)" in (result.message or "")
        assert incident.everything() == before
        incident.sql(f"GRANT UPDATE ON orders TO {role}")
        assert incident.run("apply").verdict is Verdict.DONE, "the control"
    finally:
        incident.sql(f"DROP OWNED BY {role}")
        incident.sql(f"DROP ROLE {role}")


def test_the_last_applier_owns_the_row_by_the_servers_clock(incident: Incident) -> None:
    """Each apply reads the clock under its locks, so two in a row never share an instant (design section 8)."""
    incident.create_table().ghost("t1")
    live = incident.work(now=None)
    incident.repair(batch="A", work=live)
    incident.sql("UPDATE orders SET status = 'canceled' WHERE order_id LIKE 'BFILL-%%'")
    incident.repair(batch="B", work=live)
    applied = incident.sql(
        "SELECT created_at FROM reconciliation_backfill_audit WHERE decision = 'APPLIED' ORDER BY batch_id"
    )
    assert timedelta(0) < applied[1][0] - applied[0][0] < timedelta(minutes=1)
    assert incident.run("rollback", "A", work=live).counts == {"CANCELED": 0, "LEFT_ALONE": 1}


# What another client of a transaction pooler left in the session


@pytest.mark.parametrize(
    "left",
    [
        ["CREATE TEMP TABLE orders AS SELECT * FROM public.orders", "ALTER TABLE orders ADD PRIMARY KEY (order_id)"],
        ["CREATE SCHEMA staging", "CREATE TABLE staging.orders (LIKE public.orders INCLUDING ALL)",
         "INSERT INTO staging.orders SELECT * FROM public.orders", "SET search_path = staging, public"],
    ],
    ids=["a temporary table", "a search path"],
)  # fmt: skip
def test_the_session_of_another_client_does_not_turn_apply_aside(incident: Incident, left: list[str]) -> None:
    """The same server connection serves one client after the other, and nothing is reset in between."""
    incident.create_table().ghost("t1")
    shared = sa.create_engine(
        incident.url, poolclass=sa.StaticPool, pool_reset_on_return=None, connect_args={"prepare_threshold": None}
    )
    incident.plan()
    with shared.connect() as connection:
        for statement in left:
            connection.exec_driver_sql(statement)
        connection.commit()
        assert connection.exec_driver_sql("SELECT count(*) FROM orders").scalar_one() == 1
    assert incident.run("apply", work=replace(incident.work(), engine=shared)).verdict is Verdict.DONE
    assert incident.sql("SELECT count(*) FROM public.orders WHERE order_id LIKE 'BFILL-%%'") == [(1,)]
    shared.dispose()
