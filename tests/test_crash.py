"""Processes that are killed and connections that are cut at chosen moments: what is said, to the word.

The sweeps over all moments are in `faults/`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from faults.proxy import Proxy, proxy
from faults.runner import Runner, lives, runner
from incidents import NOW, Incident, at

from recon.database import connect
from recon.domain import Stage, Verdict

TRADES = 60

STANDS = """SELECT (SELECT count(*) FROM orders WHERE order_id LIKE 'BFILL-%%' AND status = 'filled'),
                   (SELECT count(*) FROM orders WHERE order_id LIKE 'BFILL-%%' AND status = 'canceled'),
                   (SELECT count(*) FROM reconciliation_backfill_audit
                    WHERE decision = 'APPLIED' AND reverted_at IS NULL),
                   (SELECT state FROM reconciliation_batches)"""
"""Where the incident stands, in one snapshot: rows filled and canceled, live APPLIED rows, the batch's state."""

BEFORE = {Stage.APPLY: (0, 0, 0, "approved"), Stage.ROLLBACK: (TRADES, 0, TRADES, "applied")}
AFTER = {Stage.APPLY: (TRADES, 0, TRADES, "applied"), Stage.ROLLBACK: (0, TRADES, 0, "rolled_back")}


def stands(incident: Incident) -> tuple[object, ...]:
    return tuple(incident.sql(STANDS)[0])


def many(incident: Incident) -> Incident:
    """As many ghosts as make an apply last a while, planned and approved."""
    incident.create_table()
    for number in range(TRADES):
        incident.fills.append(
            {"fill_id": str(number), "exchange_order_id": f"X{number}", "symbol": f"C{number % 7}/USD", "side": "sell",
             "qty": f"{number + 1}", "price": "110", "filled_at": at(60 + number).isoformat()}
        )  # fmt: skip
    incident.write_statement()
    incident.sql(
        """INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price, filled_at,
                               created_at, updated_at, side)
           SELECT 'entry-' || n, 'main', 'C' || mod(n, 7) || '/USD', 't' || n, 'ENTRY', 'filled', n + 1, n + 1, 100,
                  %s, %s, %s, 'buy' FROM generate_series(0, %s) AS n""",
        at(0), at(0), at(0), TRADES - 1,
    )  # fmt: skip
    incident.plan()
    return incident


def started(incident: Incident, run: Runner) -> int:
    """The pid of a process that applies the batch."""
    return run.start(Stage.APPLY, incident.batch, incident.folder / "answer.json")


# Killed


def waits(incident: Incident, pid: int, what: str) -> None:
    """Come back when somebody waits for such a lock; the process must live until then."""
    while not incident.sql(f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {what}")[0][0]:
        assert lives(pid)


def quiet(incident: Incident) -> None:
    """Wait until no server process of recon is left: one whose client was killed works on until it notices."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recon'"
    deadline = time.monotonic() + 60
    while incident.sql(asked)[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("look", [1, 2])
def test_a_process_that_is_killed_at_a_look_at_the_switch_has_written_nothing(incident: Incident, look: int) -> None:
    """Under the locks, before anything is read; and with everything written, right before COMMIT."""
    many(incident)
    pids: SimpleQueue[int] = SimpleQueue()

    def kill() -> str:
        os.kill(pids.get(timeout=60), signal.SIGKILL)
        return "PAUSED"

    incident.switch.script = [*["PAUSED"] * (look - 1), kill]
    with runner(incident.url, incident.folder, incident.switch.url, NOW) as run:
        pid = started(incident, run)
        pids.put(pid)
        run.ended(pid)
    quiet(incident)
    assert stands(incident) == BEFORE[Stage.APPLY]
    assert incident.run("apply").counts == {"APPLIED": TRADES}


def test_a_process_that_is_killed_during_commit_has_committed(incident: Incident) -> None:
    """COMMIT waits in a deferred trigger; the server finishes what it was told, and the next run only compares."""
    many(incident)
    at_commit_do(incident, "SET LOCAL lock_timeout TO 0; PERFORM pg_advisory_xact_lock(7)")
    with incident.backend.connect() as backend, runner(incident.url, incident.folder, incident.switch.url, NOW) as run:
        backend.exec_driver_sql("SELECT pg_advisory_xact_lock(7)")
        pid = started(incident, run)
        waits(incident, pid, "locktype = 'advisory'")
        os.kill(pid, signal.SIGKILL)
        run.ended(pid)
        assert stands(incident) == BEFORE[Stage.APPLY], "not yet"
        backend.rollback()
        quiet(incident)
    assert stands(incident) == AFTER[Stage.APPLY]
    assert incident.run("apply").counts == {"SKIP_EXISTING": TRADES}


def test_a_process_that_is_killed_while_it_waits_keeps_the_next_one_out_for_a_moment(incident: Incident) -> None:
    """Its server process still waits for the table: the next run says already_running, until the wait is over."""
    many(incident)
    with incident.backend.connect() as backend, runner(incident.url, incident.folder, incident.switch.url, NOW) as run:
        backend.exec_driver_sql("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        pid = started(incident, run)
        waits(incident, pid, "locktype = 'relation'")
        os.kill(pid, signal.SIGKILL)
        run.ended(pid)
        assert incident.run("apply").code == "already_running"
        backend.rollback()
        quiet(incident)
        assert stands(incident) == BEFORE[Stage.APPLY]
        assert incident.run("apply").counts == {"APPLIED": TRADES}


# Cut


@pytest.fixture
def between(incident: Incident, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stages go through the proxy, everything else does not; a server may take a minute to say what became of it."""
    monkeypatch.setattr("recon.stages.writing.STATUS_ATTEMPTS", 240)
    with proxy(incident.url, password="s3cr3t") as made:
        yield made


def through(incident: Incident, between: Proxy) -> None:
    """From now on the stages connect through the proxy."""
    incident.engine = connect(between.url)


def at_commit(verdict: str) -> Callable[[bytes], str]:
    return lambda message: verdict if b"COMMIT\0" in message else "pass"


def at_commit_do(incident: Incident, body: str) -> None:
    """A deferred trigger of the backend, which runs when an inserted row is committed."""
    incident.sql(f"CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN null; END $$")
    incident.sql(
        """CREATE CONSTRAINT TRIGGER deferring AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION deferred()"""
    )


def test_an_answer_to_commit_that_is_lost_is_asked_for(incident: Incident, between: Proxy) -> None:
    """The transaction committed and the client cannot know: pg_xact_status says so, and so does the result."""
    incident.create_table().ghost("t1")
    incident.plan()
    through(incident, between)
    between.cut = at_commit("lost")
    result = incident.run("apply")
    assert (result.verdict, result.code, result.counts) == (Verdict.DONE, None, {"APPLIED": 1})
    assert "The answer to COMMIT was lost" in (result.message or "")
    assert (result.message or "").endswith("says: committed.")
    assert ("outcome", "committed") in result.tables["transaction"].rows
    assert (incident.state(), incident.open_quantities()) == ("applied", {})
    assert incident.run("apply").counts == {"SKIP_EXISTING": 1}
    between.cut = at_commit("lost")
    undone = incident.run("rollback")
    assert (undone.verdict, (undone.message or "")[-16:]) == (Verdict.DONE, "says: committed.")
    assert incident.open_quantities() == {"t1": 1}


def test_a_commit_that_never_arrived_was_rolled_back(incident: Incident, between: Proxy) -> None:
    """FAILED, said as it is; nothing is there, and running again works."""
    incident.create_table().ghost("t1")
    incident.plan()
    before = incident.everything()
    through(incident, between)
    between.cut = at_commit("before")
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "commit_rolled_back")
    assert "The answer to COMMIT was lost" in (result.message or "")
    assert "says: rolled back. Nothing was written" in (result.message or "")
    assert incident.everything() == before
    assert incident.run("apply").verdict is Verdict.DONE


def test_a_commit_that_takes_its_time_is_waited_for(incident: Incident, between: Proxy) -> None:
    """The server still works on the COMMIT when it is first asked: `in progress` is no answer yet."""
    incident.create_table().ghost("t1")
    incident.plan()
    at_commit_do(incident, "PERFORM pg_sleep(0.8)")
    through(incident, between)
    between.cut = at_commit("after")
    result = incident.run("apply")
    assert (result.verdict, (result.message or "")[-16:]) == (Verdict.DONE, "says: committed.")
    assert incident.state() == "applied"


def test_when_nobody_answers_any_more_the_outcome_is_unknown(
    incident: Incident, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither committed nor rolled back is claimed; the statement that tells is named, and no secret."""
    monkeypatch.setattr("recon.stages.writing.STATUS_ATTEMPTS", 3)
    incident.create_table().ghost("t1")
    incident.plan()
    through(incident, between)

    def lose(message: bytes) -> str:
        between.deaf = b"COMMIT\0" in message
        return "lost" if between.deaf else "pass"

    between.cut = lose
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "commit_unknown")
    assert "says: unknown" in (result.message or "")
    assert "s3cr3t" not in repr(result)
    assert "`recon status` tells" in (result.message or "")
    assert incident.state() == "applied"
    between.deaf = False
    assert incident.run("apply").counts == {"SKIP_EXISTING": 1}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("RAISE EXCEPTION 'not tonight'", "not tonight"),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", "terminating connection"),
    ],
)
def test_a_commit_that_the_server_refuses_was_rolled_back(incident: Incident, body: str, said: str) -> None:
    """A deferred trigger of the backend fails, or an operator ends the connection, at COMMIT itself."""
    incident.create_table().ghost("t1")
    incident.plan()
    at_commit_do(incident, body)
    before = incident.everything()
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "commit_rolled_back")
    assert said in (result.message or "")
    assert "says: rolled back. Nothing was written" in (result.message or "")
    assert incident.everything() == before


def test_a_connection_that_is_ended_before_commit_leaves_nothing(incident: Incident) -> None:
    """An operator ends it while apply asks the pause switch for the last time."""
    incident.create_table().ghost("t1")
    incident.plan()
    before = incident.everything()

    def end() -> str:
        incident.sql(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'recon'"""
        )
        return "PAUSED"

    incident.switch.script = ["PAUSED", end]
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "database_unreachable")
    assert incident.everything() == before
    assert incident.run("apply").verdict is Verdict.DONE
