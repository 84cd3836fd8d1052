"""`recon doctor` on the database: what would stop a repair fails, and has its control; the rest is only told."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from console import SECRETS, with_password
from examined import a_role, checks, failed, settings, url_of
from incidents import EXTENDED, Incident, an_incident
from pooler import pgbouncer

from recon import batches
from recon.database import connect, transaction
from recon.doctor import RIGHTS, locks, pooler, server
from recon.domain import Reason, Verdict
from recon.embedded import EmbeddedServer, start
from recon.errors import Refused
from recon.reporting.verdict import next_step

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OWN_RIGHTS = tuple(f"SELECT, INSERT, UPDATE ON {table}" for table in RIGHTS)


@pytest.fixture
def ready(incident_each_version: Incident) -> Incident:
    """A profile with one ghost, and everything in place, on each version."""
    incident_each_version.create_table().ghost("T1")
    return incident_each_version


@pytest.fixture
def operator(ready: Incident) -> Iterator[str]:
    """A role with what a repair needs, and no more: it owns nothing."""
    with a_role(ready, f"operator_{uuid.uuid4().hex}", *OWN_RIGHTS) as name:
        yield name


def by(incident: Incident, role: str, **changed: object) -> dict[str, object]:
    """The changed settings of an examination by a role."""
    return {"recon_database_url": with_password(url_of(incident, role))} | changed


@contextmanager
def held(incident: Incident, *statements: str) -> Iterator[int]:
    """A transaction of the backend that ran these statements and stays open; its process."""
    with incident.backend.connect() as connection, connection.begin() as open_transaction:
        for statement in statements:
            connection.exec_driver_sql(statement)
        yield connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        open_transaction.rollback()


# The server


@pytest.mark.parametrize(
    ("text", "major", "ok", "word"),
    [
        ("13.22", 13, False, "expected 14 to 18"), ("14.0", 14, True, "14.0"), ("18.4", 18, True, "18.4"),
        ("19beta1", 19, True, "newer than 18"),
    ],
)  # fmt: skip
def test_versions_from_14_to_18_are_what_recon_is_made_for(text, major, ok, word) -> None:
    found = server.version_told(text, major)
    assert found[0] is ok
    assert word in found[1]


@pytest.mark.parametrize(
    ("apart", "took", "ok", "word"),
    [
        (0, 0, True, "0.000 s"), (299, 0, True, "299.000 s ahead of"), (-299, 0, True, "299.000 s behind"),
        (301, 0, False, "301.000 s ahead of"), (-301, 0, False, "301.000 s behind"),
        (301, 4, True, "give or take 2.000 s"), (303, 4, False, "give or take 2.000 s"),
    ],
)  # fmt: skip
def test_clocks_may_differ_by_five_minutes_and_what_asking_took(apart, took, ok, word) -> None:
    half = timedelta(seconds=took / 2)
    found = server.clock_told(NOON - half, NOON + timedelta(seconds=apart), NOON + half)
    assert found[0] is ok
    assert word in found[1]


def test_the_clocks_of_one_machine_agree(ready) -> None:
    """To within what asking took, and a millisecond for what is not shown."""
    detail = checks(settings(ready))["clock"].detail
    assert detail.startswith("the server's clock, which decides, is ")
    apart, unsure = map(Decimal, re.findall(r"(\d+\.\d{3}) s", detail))
    assert apart <= unsure + Decimal("0.001")


@pytest.mark.parametrize("naive", [True, False])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_the_time_zone_is_told_with_what_it_means_for_times_without_one(incident_each_version, zone, naive) -> None:
    incident = incident_each_version
    incident.create_table(EXTENDED | ({"created_at": "timestamp", "updated_at": "timestamp"} if naive else {}))
    incident.ghost("T1")
    incident.sql(f"ALTER DATABASE {incident.engine.url.database} SET TimeZone TO '{zone}'")
    found = checks(settings(incident))
    assert failed(found) == []
    detail = found["time_zone"].detail
    assert detail.startswith(f"{zone}; ")
    assert ("created_at, updated_at are without time zone, read as UTC" in detail) is naive
    assert ("make sure that the backend writes UTC" in detail) is (naive and zone != "UTC")


def test_a_standby_takes_no_writes(ready) -> None:
    assert checks(settings(ready))["database"].ok
    ready.sql("CREATE SCHEMA standby")
    ready.sql("CREATE FUNCTION standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    with path(ready, "standby", "pg_catalog", "public"):
        found = checks(settings(ready))
    assert failed(found) == ["database"]
    assert found["database"].detail.endswith("expected a server that takes writes, found a standby; name the primary.")


# A pooler


def test_no_pooler_is_seen_where_there_is_none(ready) -> None:
    assert checks(settings(ready))["pooler"].detail.startswith("no pooler seen: ")


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(
    ("mode", "word"),
    [("transaction", "one in transaction mode stands in between"), ("session", "not seen in transaction")],
)
def test_a_pooler_is_seen_with_its_mode(ready, tmp_path, monkeypatch, mode, word, connections) -> None:
    """Where each connection gets a session, it may take a minute."""
    if (mode, connections) != ("session", 1):
        monkeypatch.setattr(pooler, "PATIENCE", 60)
    with pgbouncer(ready.url, tmp_path, SECRETS[1], mode=mode, connections=connections) as url:
        found = checks(settings(ready, recon_database_url=url))
    assert failed(found) == []
    assert word in found["pooler"].detail
    if mode == "session":
        had = "a second connection had to wait" if connections == 1 else "each of two connections had its own session"
        assert had in found["pooler"].detail


# Which orders


def test_where_orders_was_found_is_told(ready) -> None:
    found = checks(settings(ready))
    assert found["search_path"].detail == 'orders is public.orders, on the search_path "$user", public'


@contextmanager
def path(incident: Incident, *schemas: str) -> Iterator[None]:
    """The database's search_path until the block ends."""
    name = incident.engine.url.database
    incident.sql(f"ALTER DATABASE {name} SET search_path TO {', '.join(schemas)}")
    yield
    incident.sql(f"ALTER DATABASE {name} RESET search_path")


def test_other_tables_of_that_name_are_told_with_why_they_are_not_looked_at(ready) -> None:
    for schema in ("archive", "elsewhere"):
        ready.sql(f"CREATE SCHEMA {schema}")
        ready.sql(f"CREATE TABLE {schema}.orders (LIKE public.orders INCLUDING ALL)")
    with path(ready, "public", "archive"):
        found = checks(settings(ready))
    assert failed(found) == []
    assert found["search_path"].detail == (
        "orders is public.orders, on the search_path public, archive; not looked at: archive.orders (later on the "
        "search_path), elsewhere.orders (not on the search_path)"
    )
    with path(ready, "archive", "public"):
        found = checks(settings(ready))
    assert found["search_path"].detail.startswith("orders is archive.orders, ")
    assert "public.orders (later on the search_path)" in found["search_path"].detail


def test_an_orders_table_that_is_not_on_the_path_is_named(ready, operator) -> None:
    ready.sql("CREATE SCHEMA book")
    ready.sql("ALTER TABLE orders SET SCHEMA book")
    found = checks(settings(ready))
    assert failed(found) == ["search_path", "orders"]
    assert "found none; there is book.orders (not on the search_path): put its schema" in found["search_path"].detail
    with path(ready, "book", "public"):
        assert failed(checks(settings(ready))) == []
        found = checks(settings(ready, **by(ready, operator)))
        assert failed(found) == ["search_path", "orders"]
        assert "book.orders (this user lacks USAGE on the schema)" in found["search_path"].detail
        ready.sql(f"GRANT USAGE ON SCHEMA book TO {operator}")
        assert failed(checks(settings(ready, **by(ready, operator)))) == []


def test_a_view_called_orders_before_the_table_is_told(ready) -> None:
    ready.sql("CREATE SCHEMA shown")
    ready.sql("CREATE VIEW shown.orders AS SELECT * FROM public.orders")
    with path(ready, "shown", "public"):
        found = checks(settings(ready))
    assert failed(found)[:2] == ["search_path", "orders"]
    assert "expected orders to be a table, found that shown.orders is a view" in found["search_path"].detail
    with path(ready, "public", "shown"):
        assert failed(checks(settings(ready))) == []


# Rights


def test_an_operator_with_the_rights_of_the_manual_needs_no_more(ready, operator) -> None:
    assert failed(checks(settings(ready, **by(ready, operator)))) == []


def test_the_sequence_of_a_serial_column_must_be_open_and_that_of_an_identity_need_not(ready, operator) -> None:
    ready.sql("ALTER TABLE orders ADD COLUMN row_number bigserial, ADD COLUMN other int GENERATED ALWAYS AS IDENTITY")
    found = checks(settings(ready, **by(ready, operator)))
    assert failed(found) == ["privileges"]
    grant = f"GRANT USAGE ON SEQUENCE orders_row_number_seq TO {operator}"
    assert found["privileges"].detail.endswith(f"may not draw new ids; run `{grant}`.")
    ready.sql(grant)
    assert failed(checks(settings(ready, **by(ready, operator)))) == []
    ready.sql("ALTER TABLE reconciliation_backfill_audit ADD COLUMN id bigserial")  # a backend's own
    assert "reconciliation_backfill_audit_id_seq" in checks(settings(ready, **by(ready, operator)))["privileges"].detail


def test_a_dry_run_is_no_go_while_an_apply_could_not_draw_its_ids(ready, operator) -> None:
    ready.sql("ALTER TABLE orders ADD COLUMN row_number bigserial")
    work = replace(ready.work(), engine=connect(url_of(ready, operator)))
    grant = f"GRANT USAGE ON SEQUENCE orders_row_number_seq TO {operator}"
    assert ready.run("detect", work=work).verdict is Verdict.DONE
    refused = ready.run("dry-run", work=work)
    assert (refused.verdict, [check.name for check in refused.checks if not check.ok]) == (
        Verdict.NO_GO, ["candidates_present"],
    )  # fmt: skip
    [said] = [check.detail for check in refused.checks if not check.ok]
    assert said == f"1 row could be written for 1 target, if new ids could be drawn; run `{grant}`"
    assert "Put right what failed (candidates_present), then run the dry run again: " in next_step(refused)
    with pytest.raises(Refused) as caught:
        ready.approve(work=work)
    assert (caught.value.code, "candidates_present" in caught.value.message) == ("dry_run_failed", True)
    with transaction(ready.engine) as connection:
        told = batches.load(connection, ready.batch).next_command()
    assert told == f"Next: recon run dry-run --profile-id main --batch-id {ready.batch}"
    ready.sql(grant)
    assert ready.run("dry-run", work=work).verdict is Verdict.GO
    ready.approve(work=work)
    ready.sql(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
    assert "42501" in (ready.run("apply", work=work).message or ""), "the control"
    ready.sql(grant)
    assert ready.run("apply", work=work).verdict is Verdict.DONE


def test_a_plan_that_only_reinstates_draws_no_id(ready, operator) -> None:
    ready.sql("ALTER TABLE orders ADD COLUMN row_number bigserial")
    ready.repair()
    assert ready.run("rollback").verdict is Verdict.DONE
    ready.batch = "incident-2"
    work = replace(ready.work(), engine=connect(url_of(ready, operator)))
    assert ready.run("detect", work=work).verdict is Verdict.DONE
    planned = ready.run("dry-run", work=work)
    assert (planned.verdict, [item.reason for item in planned.items]) == (Verdict.GO, [Reason.REINSTATE])
    ready.approve(work=work)
    assert ready.run("apply", work=work).verdict is Verdict.DONE


def test_the_dry_run_names_the_grant_that_an_audit_row_lacks(ready, operator) -> None:
    """A backend's own audit table with a serial id; without INSERT on the table the sequence would not help."""
    audited, drawn = "reconciliation_backfill_audit", "reconciliation_backfill_audit_id_seq"
    ready.sql(f"ALTER TABLE {audited} ADD COLUMN id bigserial")
    work = replace(ready.work(), engine=connect(url_of(ready, operator)))
    assert ready.run("detect", work=work).verdict is Verdict.DONE

    def told() -> str:
        [check] = [check for check in ready.run("dry-run", work=work).checks if check.name == "audit_writable"]
        return check.detail

    grant = f"GRANT USAGE ON SEQUENCE {drawn} TO {operator}"
    lacking = "The audit table cannot be written (permission denied for {}). {}"
    assert told() == lacking.format(f"sequence {drawn}", f"Run `{grant}`.")
    ready.sql(f"REVOKE INSERT ON {audited} FROM {operator}")
    assert told() == lacking.format(f"table {audited}", f"Run `recon init`, or grant INSERT on {audited}.")
    ready.sql(f"GRANT INSERT ON {audited} TO {operator}")
    ready.sql(grant)
    assert told().startswith("an audit row was written in a savepoint")


def test_row_level_security_without_a_policy_stops_a_repair(ready, operator) -> None:
    assert checks(settings(ready))["row_security"].detail.startswith("none holds for this user on orders, ")
    ready.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    ready.sql("CREATE POLICY of_nobody ON orders TO pg_monitor USING (true)")
    ready.sql("CREATE POLICY only_narrows ON orders AS RESTRICTIVE USING (true)")
    assert failed(checks(settings(ready))) == [], "the owner is not bound"
    found = checks(settings(ready, **by(ready, operator)))
    assert failed(found) == ["row_security"]
    assert "for SELECT on orders, INSERT on orders, UPDATE on orders" in found["row_security"].detail
    assert "(policies: orders: only_narrows)" in found["row_security"].detail
    ready.sql(f"CREATE POLICY reads ON orders FOR SELECT TO {operator} USING (true)")
    found = checks(settings(ready, **by(ready, operator)))
    assert (
        "for INSERT on orders, UPDATE on orders (policies: orders: only_narrows, reads)" in found["row_security"].detail
    )
    ready.sql("CREATE POLICY everything ON orders USING (true)")
    found = checks(settings(ready, **by(ready, operator)))
    assert failed(found) == []
    assert "by these policies: orders: everything, only_narrows, reads. Rows that" in found["row_security"].detail
    ready.sql("ALTER TABLE reconciliation_batches ENABLE ROW LEVEL SECURITY")
    found = checks(settings(ready, **by(ready, operator)))
    assert failed(found) == ["row_security"]
    assert "reconciliation_batches: none" in found["row_security"].detail


# Triggers and rules


@pytest.fixture
def a_function(ready: Incident) -> Incident:
    """With a trigger function that alters nothing."""
    ready.sql("CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    return ready


def test_triggers_on_insert_and_update_are_named_and_others_are_not(a_function) -> None:
    assert checks(settings(a_function))["triggers"].detail == "none fires on INSERT or UPDATE of orders"
    for name, when in {
        "stamp": "BEFORE INSERT OR UPDATE", "told": "AFTER UPDATE OF status", "gone": "AFTER DELETE",
        "off": "BEFORE INSERT", "copy": "BEFORE INSERT", "always": "AFTER INSERT",
    }.items():  # fmt: skip
        each = "STATEMENT" if name == "always" else "ROW"
        a_function.sql(f"CREATE TRIGGER {name} {when} ON orders FOR EACH {each} EXECUTE FUNCTION seen()")
    a_function.sql("ALTER TABLE orders DISABLE TRIGGER off, ENABLE REPLICA TRIGGER copy, ENABLE ALWAYS TRIGGER always")
    found = checks(settings(a_function))
    assert failed(found) == []
    assert found["triggers"].detail.startswith(
        "always (AFTER INSERT), stamp (BEFORE INSERT OR UPDATE, each row), told (AFTER UPDATE, each row) will fire"
    )


def test_the_triggers_of_a_partition_count(incident_each_version) -> None:
    incident = incident_each_version
    incident.create_table(own_tables=True)
    incident.sql("DROP TABLE orders")
    cells = ", ".join(f"{name} {kind}" for name, kind in EXTENDED.items())
    incident.sql(f"CREATE TABLE orders ({cells}, UNIQUE (profile_id, order_id)) PARTITION BY LIST (profile_id)")
    incident.sql("CREATE TABLE orders_main PARTITION OF orders FOR VALUES IN ('main')")
    incident.sql("CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    incident.sql("CREATE TRIGGER whole BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION seen()")
    incident.sql("CREATE TRIGGER part BEFORE INSERT ON orders_main FOR EACH ROW EXECUTE FUNCTION seen()")
    incident.ghost("T1")
    with held(incident, "LOCK TABLE orders_main IN SHARE MODE"):
        found = checks(settings(incident))
    assert failed(found) == []
    assert found["triggers"].detail.startswith("part (BEFORE INSERT, each row), whole (BEFORE INSERT, each row) will")
    assert re.search(r"has ShareLock for \d+ s", found["locks"].detail)


@pytest.mark.parametrize(
    ("event", "remedy"),
    [
        ("INSERT", 'ALTER TABLE orders DISABLE RULE "keep copy";'),
        ("UPDATE", 'DROP RULE "keep copy" ON orders;'),
    ],
)
def test_a_rule_on_insert_or_update_stops_a_repair_as_is_said(ready, event, remedy) -> None:
    ready.sql("CREATE TABLE copies (order_id text)")
    ready.sql(f'CREATE RULE "keep copy" AS ON {event} TO orders DO ALSO INSERT INTO copies VALUES (NEW.order_id)')
    ready.sql("CREATE RULE on_delete AS ON DELETE TO orders DO INSTEAD NOTHING")
    found = checks(settings(ready))
    assert failed(found) == ["rules"]
    assert found["rules"].detail.endswith(remedy)
    assert "on_delete" not in found["rules"].detail
    ready.plan()
    assert ready.run("apply").verdict is Verdict.FAILED, "it is as said"
    ready.sql('ALTER TABLE orders DISABLE RULE "keep copy"')
    assert failed(checks(settings(ready))) == ([] if event == "INSERT" else ["rules"])
    ready.sql(remedy)
    assert failed(checks(settings(ready))) == []
    assert ready.run("apply").verdict is Verdict.DONE


# Locks


WRITING = "UPDATE orders SET side = side"


def test_who_only_reads_is_in_nobodys_way(ready) -> None:
    with held(ready, "SELECT * FROM orders"):
        assert checks(settings(ready))["locks"].detail == "nobody whom an apply would have to wait for"


def test_a_transaction_that_writes_is_told_and_fails_only_once_it_lasts(ready, monkeypatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 3600)
    with held(ready, WRITING) as process:
        found = checks(settings(ready))
        assert failed(found) == []
        told = rf"process {process}, idle in transaction, has RowExclusiveLock for \d+ s"
        assert re.search(told, found["locks"].detail)
        monkeypatch.setattr(locks, "PATIENCE", 0)
        found = checks(settings(ready))
    assert failed(found) == ["locks"]
    assert f"process {process}, idle in transaction, has RowExclusiveLock" in found["locks"].detail
    assert "pg_terminate_backend" in found["locks"].detail
    assert failed(checks(settings(ready))) == []


@pytest.fixture
def own_server(tmp_path_factory, wait_until_stopped) -> Iterator[Callable[[], EmbeddedServer]]:
    """A server of this test's own: each call starts it, again if it runs."""
    home = tmp_path_factory.mktemp("own-home")
    running = [start(home)]

    def again() -> EmbeddedServer:
        stop()
        running.append(start(home))
        return running[-1]

    def stop() -> None:
        running[-1].close()
        wait_until_stopped(running[-1].folder)

    yield again
    stop()
    shutil.rmtree(running[-1].folder)


def test_a_prepared_transaction_stops_a_repair(own_server, tmp_path: Path) -> None:
    found = own_server()
    with an_incident(found.url(), tmp_path) as incident:
        incident.create_table().ghost("T1")
        with incident.backend.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET max_prepared_transactions TO 2")
        own_server()
        assert failed(checks(settings(incident))) == []
        with incident.backend.connect() as connection:
            connection.exec_driver_sql("UPDATE orders SET side = side")
            connection.exec_driver_sql("PREPARE TRANSACTION 'left behind'")
            connection.rollback()
        seen = checks(settings(incident))
        assert failed(seen) == ["locks"]
        assert re.search(r"prepared transaction 'left behind' has RowExclusiveLock for \d+ s", seen["locks"].detail)
        assert "ROLLBACK PREPARED" in seen["locks"].detail
        with incident.backend.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ROLLBACK PREPARED 'left behind'")
        assert failed(checks(settings(incident))) == []


def test_what_a_user_may_not_see_is_said_and_does_not_fail(ready, operator, monkeypatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)
    with held(ready, WRITING) as process:
        found = checks(settings(ready, **by(ready, operator)))
        assert failed(found) == []
        assert f"process {process} has RowExclusiveLock for a time that this user may not see" in found["locks"].detail
        ready.sql(f"GRANT pg_read_all_stats TO {operator}")
        assert failed(checks(settings(ready, **by(ready, operator)))) == ["locks"]


def test_apply_is_as_patient_as_is_said(ready) -> None:
    with transaction(ready.engine, read_only=True) as connection:
        assert connection.execute(sa.text("SHOW lock_timeout")).scalar_one() == f"{locks.PATIENCE}s"


def test_nothing_is_written_whatever_is_found(ready, operator) -> None:
    before = ready.everything()
    [stats] = ready.sql("SELECT count(*), coalesce(max(oid::bigint), 0) FROM pg_class")
    checks(settings(ready, **by(ready, operator)))
    assert ready.everything() == before
    assert ready.sql("SELECT count(*), coalesce(max(oid::bigint), 0) FROM pg_class") == [stats]
