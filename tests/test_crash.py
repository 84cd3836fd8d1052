"""Processes that are killed and connections that are cut: never a partial state, and always a truthful word.

RECON_CRASH_ROUNDS sets how often each kind is tried; 12 unless set, 50 for a thorough run.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from incidents import HookedStatement, Incident, at, workspace

from recon.database import connect
from recon.domain import Stage, Verdict
from recon.incident import run_stage

ROUNDS = int(os.environ.get("RECON_CRASH_ROUNDS", "12"))
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


class Rewind:
    """Takes everything back to where it stood when this was made."""

    TABLES = ("orders", "reconciliation_backfill_audit", "reconciliation_batches")

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        for table in self.TABLES:
            incident.sql(f"CREATE TABLE kept_{table} AS TABLE {table}")

    def __call__(self) -> None:
        with self.incident.backend.begin() as connection:
            for table in self.TABLES:
                connection.exec_driver_sql(f"TRUNCATE {table}")
                connection.exec_driver_sql(f"INSERT INTO {table} TABLE kept_{table}")


# Killed


@contextmanager
def runner(incident: Incident) -> Iterator[Callable[[Stage], int]]:
    """A process that forks a child for each stage it is told to run; the call returns the child's pid."""
    arguments = [sys.executable, __file__, incident.url, str(incident.folder), incident.switch.url, incident.batch]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(stage: Stage) -> int:
            server.stdin.write(f"{stage.value}\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield run
        server.stdin.close()


def serve(url: str, folder: str, status_url: str, batch: str) -> None:
    """The runner's own loop."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    work = workspace(connect(url), HookedStatement(folder), status_url)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os._exit(run_stage(work, Stage(line.strip()), "main", batch).verdict.exit_status)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def waits(incident: Incident, pid: int, what: str) -> None:
    """Come back when somebody waits for such a lock; the process must live until then."""
    while not incident.sql(f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {what}")[0][0]:
        assert lives(pid)


def quiet(incident: Incident) -> None:
    """Wait until no server process of recon is left: one whose client was killed works on until it notices."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recon'"
    deadline = time.monotonic() + 20
    while incident.sql(asked)[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("stage", "rounds"), [(Stage.APPLY, ROUNDS), (Stage.ROLLBACK, ROUNDS // 3)])
def test_a_process_that_is_killed_leaves_all_or_nothing(
    incident: Incident, stage: Stage, rounds: int, record_property: Callable[[str, object], None]
) -> None:
    """Invariants 3 and 4: kill -9 at a random moment, look at once, then run again: it converges every time."""
    many(incident)
    if stage is Stage.ROLLBACK:
        assert incident.run("apply").verdict is Verdict.DONE
    rewind, chance, found = Rewind(incident), random.Random(20260301), Counter[object]()
    bystanders = incident.bystanders()
    with runner(incident) as run:
        for _ in range(2):  # the first is slower: the runner has to start
            rewind()
            started = time.monotonic()
            gone(run(stage))
            duration = time.monotonic() - started
            assert stands(incident) == AFTER[stage]
        while found.total() < rounds:
            rewind()
            pid = run(stage)
            time.sleep(duration * chance.choice([chance.random(), 0.6 + 0.4 * chance.random()]))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                assert stands(incident) in (BEFORE[stage], AFTER[stage])
                quiet(incident)
                assert stands(incident) in (BEFORE[stage], AFTER[stage])
                found[stands(incident)[3]] += 1
                assert incident.run(stage).verdict is Verdict.DONE
            assert stands(incident) == AFTER[stage]
            assert incident.bystanders() == bystanders
    record_property("killed", dict(found))
    if stage is Stage.APPLY:
        assert incident.open_quantities() == {}
        assert incident.run("validate").verdict is Verdict.DONE


@pytest.mark.parametrize("look", [1, 2])
def test_a_process_that_is_killed_at_a_look_at_the_switch_has_written_nothing(incident: Incident, look: int) -> None:
    """Under the locks, before anything is read; and with everything written, right before COMMIT."""
    many(incident)
    pids: list[int] = []

    def kill() -> str:
        os.kill(pids[0], signal.SIGKILL)
        return "PAUSED"

    incident.switch.script = [*["PAUSED"] * (look - 1), kill]
    with runner(incident) as run:
        pids.append(run(Stage.APPLY))
        gone(pids[0])
    quiet(incident)
    assert stands(incident) == BEFORE[Stage.APPLY]
    assert incident.run("apply").counts == {"APPLIED": TRADES}


def test_a_process_that_is_killed_during_commit_has_committed(incident: Incident) -> None:
    """COMMIT waits in a deferred trigger; the server finishes what it was told, and the next run only compares."""
    many(incident)
    at_commit_do(incident, "PERFORM pg_advisory_xact_lock(7)")
    with incident.backend.connect() as backend, runner(incident) as run:
        backend.exec_driver_sql("SELECT pg_advisory_xact_lock(7)")
        pid = run(Stage.APPLY)
        waits(incident, pid, "locktype = 'advisory'")
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        assert stands(incident) == BEFORE[Stage.APPLY], "not yet"
        backend.rollback()
        quiet(incident)
    assert stands(incident) == AFTER[Stage.APPLY]
    assert incident.run("apply").counts == {"SKIP_EXISTING": TRADES}


def test_a_process_that_is_killed_while_it_waits_keeps_the_next_one_out_for_a_moment(incident: Incident) -> None:
    """Its server process still waits for the table: the next run says already_running, until the wait is over."""
    many(incident)
    with incident.backend.connect() as backend, runner(incident) as run:
        backend.exec_driver_sql("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        pid = run(Stage.APPLY)
        waits(incident, pid, "locktype = 'relation'")
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        assert incident.run("apply").code == "already_running"
        backend.rollback()
        quiet(incident)
        assert stands(incident) == BEFORE[Stage.APPLY]
        assert incident.run("apply").counts == {"APPLIED": TRADES}


# Cut


class Proxy:
    """A loopback port before the server's socket, that can cut a connection at a chosen moment.

    Only a connection that locks the table is cut, and only once: `cut` is called with each message of the client from
    then on and says what to do with it.
    """

    def __init__(self, incident: Incident) -> None:
        url = incident.engine.url
        self._upstream = f"{url.query['host']}/.s.PGSQL.{url.query['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self._listener.getsockname()[1], password="s3cr3t", query={})
        self.cut: Callable[[bytes], str] | None = None
        self.deaf = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.deaf:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._upstream)
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        armed = False
        with suppress(OSError):
            while message := client.recv(1 << 16):
                armed = armed or b"LOCK TABLE" in message
                verdict = self.cut(message) if self.cut and armed else "pass"
                if verdict != "pass":
                    self.cut = None
                    self._end(client, server, message, verdict)
                    return
                server.sendall(message)
        _hang_up(server)

    def _end(self, client: socket.socket, server: socket.socket, message: bytes, verdict: str) -> None:
        """Cut before the message, right after it, or (`lost`) when its answer is there."""
        if verdict == "lost":
            self._swallowed = threading.Event()
            self._swallow = client
            server.sendall(message)
            self._swallowed.wait(10)
        elif verdict == "after":
            _hang_up(client)
            server.sendall(message)
            return
        elif verdict.isdigit():
            server.sendall(message[: int(verdict)])
        _hang_up(client)
        _hang_up(server)

    _swallow: socket.socket | None = None

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while message := server.recv(1 << 16):
                if self._swallow is client:
                    self._swallowed.set()
                else:
                    client.sendall(message)
        _hang_up(client)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(incident: Incident) -> Iterator[Proxy]:
    """Stages go through the proxy, everything else does not."""
    made = Proxy(incident)
    yield made
    made.close()


def through(incident: Incident, proxy: Proxy) -> None:
    """From now on the stages connect through the proxy."""
    incident.engine = connect(proxy.url.render_as_string(hide_password=False))


def at_commit(verdict: str) -> Callable[[bytes], str]:
    return lambda message: verdict if b"COMMIT\0" in message else "pass"


def at_commit_do(incident: Incident, body: str) -> None:
    """A deferred trigger of the backend, which runs when an inserted row is committed."""
    incident.sql(f"CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN null; END $$")
    incident.sql(
        """CREATE CONSTRAINT TRIGGER deferring AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION deferred()"""
    )


def test_an_answer_to_commit_that_is_lost_is_asked_for(incident: Incident, proxy: Proxy) -> None:
    """The transaction committed and the client cannot know: pg_xact_status says so, and so does the result."""
    incident.create_table().ghost("t1")
    incident.plan()
    through(incident, proxy)
    proxy.cut = at_commit("lost")
    result = incident.run("apply")
    assert (result.verdict, result.code, result.counts) == (Verdict.DONE, None, {"APPLIED": 1})
    assert "The answer to COMMIT was lost" in (result.message or "")
    assert (result.message or "").endswith("says: committed.")
    assert ("outcome", "committed") in result.tables["transaction"].rows
    assert (incident.state(), incident.open_quantities()) == ("applied", {})
    assert incident.run("apply").counts == {"SKIP_EXISTING": 1}
    proxy.cut = at_commit("lost")
    undone = incident.run("rollback")
    assert (undone.verdict, (undone.message or "")[-16:]) == (Verdict.DONE, "says: committed.")
    assert incident.open_quantities() == {"t1": 1}


def test_a_commit_that_never_arrived_was_rolled_back(incident: Incident, proxy: Proxy) -> None:
    """FAILED, said as it is; nothing is there, and running again works."""
    incident.create_table().ghost("t1")
    incident.plan()
    before = incident.everything()
    through(incident, proxy)
    proxy.cut = at_commit("before")
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "commit_rolled_back")
    assert "The answer to COMMIT was lost" in (result.message or "")
    assert "says: rolled back. Nothing was written" in (result.message or "")
    assert incident.everything() == before
    assert incident.run("apply").verdict is Verdict.DONE


def test_a_commit_that_takes_its_time_is_waited_for(incident: Incident, proxy: Proxy) -> None:
    """The server still works on the COMMIT when it is first asked: `in progress` is no answer yet."""
    incident.create_table().ghost("t1")
    incident.plan()
    at_commit_do(incident, "PERFORM pg_sleep(0.8)")
    through(incident, proxy)
    proxy.cut = at_commit("after")
    result = incident.run("apply")
    assert (result.verdict, (result.message or "")[-16:]) == (Verdict.DONE, "says: committed.")
    assert incident.state() == "applied"


def test_when_nobody_answers_any_more_the_outcome_is_unknown(
    incident: Incident, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither committed nor rolled back is claimed; the statement that tells is named, and no secret."""
    monkeypatch.setattr("recon.stages.writing.STATUS_ATTEMPTS", 3)
    incident.create_table().ghost("t1")
    incident.plan()
    through(incident, proxy)

    def lose(message: bytes) -> str:
        proxy.deaf = b"COMMIT\0" in message
        return "lost" if proxy.deaf else "pass"

    proxy.cut = lose
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "commit_unknown")
    assert "says: unknown" in (result.message or "")
    assert "s3cr3t" not in repr(result)
    statement = (result.message or "").split("`")[1]
    assert incident.sql(statement) == [("committed",)]
    proxy.deaf = False
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


def test_a_connection_that_is_cut_after_any_byte_leaves_all_or_nothing(
    incident: Incident, proxy: Proxy, record_property: Callable[[str, object], None]
) -> None:
    """Invariant 3: cut within any message from the table lock to COMMIT, at a random byte; then run again."""
    incident.create_table().ghost("t1")
    incident.plan()
    rewind, chance, codes = Rewind(incident), random.Random(7), Counter[object]()
    through(incident, proxy)
    sizes: list[int] = []
    proxy.cut = lambda message: (sizes.append(len(message)), "pass")[1]
    assert incident.run("apply").verdict is Verdict.DONE
    for _ in range(ROUNDS):
        rewind()
        left = chance.randrange(sum(sizes))

        def cut(message: bytes) -> str:
            nonlocal left
            inside, left = left, left - len(message)
            return str(inside) if left < 0 else "pass"

        proxy.cut = cut
        result = incident.run("apply")
        codes[result.code] += 1
        quiet(incident)
        rows, state = len(incident.backfills()), incident.state()
        assert (rows, state) == ((0, "approved") if result.verdict is Verdict.FAILED else (1, "applied")), result
        assert incident.run("apply").verdict is Verdict.DONE
        assert (len(incident.backfills()), incident.state(), incident.open_quantities()) == (1, "applied", {})
    record_property("codes", {str(code): count for code, count in codes.items()})
    assert set(codes) <= {"database_unreachable", "commit_rolled_back"}


if __name__ == "__main__":
    serve(*sys.argv[1:])
