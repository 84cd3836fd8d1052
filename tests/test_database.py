"""Connections: any server settings, any pooler, no secret in any text, and a plain word when nothing answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from incidents import EXTENDED, Incident, an_incident
from pooler import free_port, pgbouncer

from recon.database import connect, prepare, shown_url, transaction
from recon.domain import Verdict
from recon.errors import ReconError, UsageError

SECRET = "s3cr3t-pa55word"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://u:p@db.example:6543/book", "db.example:6543/book"),
        ("postgresql://u:p@db.example/book", "db.example:5432/book"),
        ("postgresql+psycopg://u:p@db.example/book?sslmode=require", "db.example:5432/book"),
        ("postgresql+psycopg2://u:p@db.example/book", "db.example:5432/book"),
        ("postgresql://u@/book?host=/var/run/postgresql", "local socket/book"),
        ("postgresql://u:p%40%2F%3A@[::1]:5432/book", "::1:5432/book"),
    ],
)
def test_every_way_to_write_the_url_gives_one_driver(url: str, shown: str) -> None:
    engine = connect(url)
    assert engine.url.drivername == "postgresql+psycopg"
    assert shown_url(engine.url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "mysql://u:{0}@h/d", "sqlite:///{0}", f"postgresql//u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:port/d", f"postgresql://u:pa@{SECRET}@h:5432/d",
        f"postgresql://u:{SECRET}@h:99 9/d", f"postgresql://u:{SECRET}@h/d?pgbouncer=true",
        f"postgresql://u:pa@h/d?sslmode=require&password=a&{SECRET}=b", f"postgresql://u:{SECRET}@/d?port={SECRET}",
    ],
)  # fmt: skip
def test_a_url_that_is_none_is_a_usage_error_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert (caught.value.code, caught.value.exit_status) == ("database_url_invalid", 2)
    assert SECRET not in str(caught.value)


def _texts(error: BaseException | None) -> str:
    """Everything that a traceback would show of an exception and its causes."""
    said = ""
    while error is not None:
        said += f"{error!r} {error} "
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1:{port}/book", "127.0.0.1:{port}/book?sslmode=require", "no-such-host.invalid/book",
        "/book?host=/nowhere",
    ],
)  # fmt: skip
def test_an_unreachable_database_is_named_without_its_password(place: str, tmp_path: Path) -> None:
    """Invariant 12: neither in the message nor in anything that it was raised from."""
    engine = connect(f"postgresql://somebody:{SECRET}@{place.format(port=free_port())}")
    with pytest.raises(ReconError) as caught, transaction(engine):
        pass
    assert (caught.value.code, caught.value.exit_status) == ("database_unreachable", 1)
    assert SECRET not in _texts(caught.value)
    assert "RECON_DATABASE_URL" in caught.value.message
    with an_incident(engine.url.render_as_string(hide_password=False), tmp_path) as incident:
        result = incident.run("detect")
    assert (result.verdict, result.code) == (Verdict.FAILED, "database_unreachable")
    assert SECRET not in repr(result)


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("127.0.0.1:99999/book", "port"),
        ("/book?host=/tmp&port=99999", "port"),
        (f"127.0.0.1/book?sslmode={SECRET}", "sslmode"),
        (f"127.0.0.1/book?keepalives={SECRET}", "keepalives"),
        (f"127.0.0.1/book?target_session_attrs={SECRET}", "target_session_attrs"),
    ],
)
def test_an_option_that_is_malformed_is_a_usage_error_that_does_not_repeat_it(place: str, option: str) -> None:
    with pytest.raises(UsageError) as caught, transaction(connect(f"postgresql://somebody:{SECRET}@{place}")):
        pass
    assert (caught.value.code, caught.value.exit_status) == ("database_url_invalid", 2)
    assert caught.value.message == f"RECON_DATABASE_URL has a malformed {option}. Correct it."


def test_a_server_that_hangs_up_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hanging_up = threading.Thread(target=lambda: listener.accept()[0].close())
        hanging_up.start()
        engine = connect(f"postgresql://u:{SECRET}@127.0.0.1:{listener.getsockname()[1]}/d")
        with pytest.raises(ReconError) as caught, transaction(engine):
            pass
        hanging_up.join()
    assert caught.value.code == "database_unreachable"
    assert SECRET not in _texts(caught.value)


def test_a_login_that_the_server_refuses_is_told_in_its_own_words(database_url: str) -> None:
    url = sa.make_url(database_url).set(username="nobody-here", password=SECRET)
    with pytest.raises(ReconError) as caught, transaction(connect(url.render_as_string(hide_password=False))):
        pass
    assert caught.value.code == "database_unreachable"
    assert caught.value.message.startswith("The database answered, but refused the login (")
    assert 'role "nobody-here" does not exist' in caught.value.message
    assert SECRET not in _texts(caught.value)


def test_a_password_that_is_wrong_or_missing_is_a_refused_login() -> None:
    """The server asks for it, whatever it is, and says no."""
    refusal = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user\0\0"
    answers = [b"R\0\0\0\x08\0\0\0\x03", b"E" + (len(refusal) + 4).to_bytes(4) + refusal]

    def refuse(listener: socket.socket) -> None:
        with listener.accept()[0] as client:
            for answer in answers:
                client.recv(4096)
                client.sendall(answer)

    for user, said in ((f"u:{SECRET}", "password authentication failed"), ("u", "no password supplied")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            refusing = threading.Thread(target=refuse, args=(listener,))
            refusing.start()
            place = f"127.0.0.1:{listener.getsockname()[1]}/d?sslmode=disable"
            with pytest.raises(ReconError) as caught, transaction(connect(f"postgresql://{user}@{place}")):
                pass
            refusing.join()
        assert caught.value.code == "database_unreachable"
        assert caught.value.message.startswith("The database answered, but refused the login (")
        assert said in caught.value.message
        assert SECRET not in _texts(caught.value)


def test_an_error_names_the_sqlstate_and_never_the_parameters(database_url: str) -> None:
    with pytest.raises(ReconError) as caught, transaction(connect(database_url)) as connection:
        connection.execute(sa.text("SELECT CAST(:value AS int)"), {"value": SECRET + "\n"})
    assert caught.value.code == "database_error"
    assert "SQLSTATE 22P02" in caught.value.message


def test_a_read_only_transaction_cannot_write(database_url: str) -> None:
    engine = connect(database_url)
    statement = "CREATE TABLE t (a int)"
    with pytest.raises(ReconError) as caught, transaction(engine, read_only=True) as connection:
        connection.exec_driver_sql(statement)
    assert "SQLSTATE 25006" in caught.value.message
    with transaction(engine) as connection:
        connection.exec_driver_sql(statement)


def test_nothing_of_a_transaction_outlives_it(database_url_each_version: str) -> None:
    """Rules of a transaction pooler: settings are local, and nothing is prepared, however often it is asked."""
    engine = connect(database_url_each_version)
    names = (
        "TimeZone",
        "DateStyle",
        "lock_timeout",
        "statement_timeout",
        "transaction_isolation",
        "transaction_read_only",
    )
    with engine.connect() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
        connection.rollback()
        for _ in range(8):
            with connection.begin():
                prepare(connection)
                assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "10s"
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names] == shown
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one() == 0
    with sa.create_engine(engine.url, connect_args={"prepare_threshold": 5}).connect() as connection:
        for _ in range(8):
            prepare(connection)
        found = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one()
    assert found > 0, "the control: psycopg prepares after five executions"


STRANGE = {
    "TimeZone": "'Asia/Kolkata'", "DateStyle": "'SQL, DMY'", "IntervalStyle": "'sql_standard'",
    "extra_float_digits": "-15", "bytea_output": "'escape'", "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on", "default_transaction_deferrable": "on", "statement_timeout": "'1min'",
    "lock_timeout": "'1s'",
    "quote_all_identifiers": "on", "jit": "off", "default_toast_compression": "'pglz'",
}  # fmt: skip


def test_settings_of_the_database_change_nothing(incident_each_version: Incident) -> None:
    """Invariant 11: time zone, date style, isolation, read-only by default: the same digest, the same rows."""
    incident = incident_each_version
    floats = dict.fromkeys(("quantity", "qty", "price"), "double precision")
    incident.create_table(EXTENDED | floats | {"created_at": "timestamp", "held": "interval NOT NULL"})
    incident.ghost("t1", "0.1", held="1 day 02:03:04")
    plain = incident.plan()
    seen = incident.run("dry-run").checks[-1].detail
    [(name,)] = incident.sql("SELECT current_database()")
    with incident.backend.begin() as connection:
        for setting, value in STRANGE.items():
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET {setting} TO {value}")
    strange = incident.run("dry-run")
    assert (strange.plan_digest, strange.items, strange.checks[-1].detail) == (plain.plan_digest, plain.items, seen)
    incident.approve()
    assert incident.run("apply").verdict is Verdict.DONE
    for stage in ("apply", "validate", "rollback"):
        assert incident.run(stage).verdict is Verdict.DONE, stage


# A transaction pooler


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The database behind pgbouncer in transaction mode, with one connection to the server for all clients."""
    with pgbouncer(database_url, tmp_path, SECRET) as url:
        yield url


def test_a_repair_behind_a_transaction_pooler(pooled_url: str, tmp_path: Path) -> None:
    """Again and again over one server connection: no session state, nothing prepared, no lock left behind."""
    with an_incident(pooled_url, tmp_path) as incident:
        incident.backend = sa.create_engine(
            incident.engine.url, poolclass=sa.NullPool, connect_args={"prepare_threshold": None}
        )
        incident.create_table()
        for number in range(12):
            incident.ghost(f"t{number}", f"{number + 1}", symbol=f"C{number}/USD")
        for number in range(3):
            incident.batch = f"batch-{number}"
            assert incident.repair().counts == {"APPLIED": 12}
            for stage in ("apply", "validate", "rollback"):
                assert incident.run(stage).verdict is Verdict.DONE
        left = incident.sql(
            """SELECT count(*) FROM pg_prepared_statements
               UNION ALL SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"""
        )
        assert left == [(0,), (0,)]
        assert incident.sql("SHOW statement_timeout") == [("0",)]


def test_the_control_a_client_that_prepares_fails_behind_the_pooler(pooled_url: str) -> None:
    engine = sa.create_engine(connect(pooled_url).url, poolclass=sa.NullPool, connect_args={"prepare_threshold": 1})

    def again() -> None:
        for number in range(4):
            with engine.begin() as connection:
                connection.exec_driver_sql("SELECT %s", (number,))
                connection.exec_driver_sql("SELECT %s", (number,))

    with pytest.raises(sa.exc.DBAPIError, match="prepared statement"):
        again()


def test_a_socket_that_dies_while_an_answer_is_due_is_a_lost_connection(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a savepoint nor the pool uses it again: that would fail once more, with a traceback on the console."""
    engine = connect(database_url)
    execute = engine.dialect.do_execute

    def die(cursor: psycopg.Cursor[object], statement: str, *rest: object) -> None:
        if "pg_sleep" not in statement:
            execute(cursor, statement, *rest)
            return
        cursor.connection.pgconn.send_query(b"SELECT pg_sleep(1)")
        raise psycopg.OperationalError("connection socket closed")

    engine.dialect.do_execute = die  # type: ignore[method-assign]
    with pytest.raises(ReconError) as caught, transaction(engine) as connection, connection.begin_nested():
        connection.execute(sa.text("SELECT pg_sleep(1)"))
    assert (caught.value.code, "connection socket closed" in caught.value.message) == ("database_unreachable", True)
    assert caplog.records == []
