"""The doors beside what a DBA does to `orders`: migrations, triggers, row-level security, roles that are gone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from console import with_password
from doors.people import make_people
from examined import checks, failed, settings, url_of
from incidents import EXTENDED, Incident, an_incident
from test_doors import approve_as, run_as
from test_readme import README

from recon.database import transaction
from recon.domain import StageResult, Verdict
from recon.doors.names import Role
from recon.doors.trial import fired
from recon.embedded import start

RERUN = "run `recon init --roles`"


@pytest.fixture
def guarded(incident_each_version: Incident) -> Incident:
    """A ghost behind doors, on a table with a column that recon copies, and people."""
    incident = incident_each_version
    incident.create_table(EXTENDED | {"desk": "text NOT NULL"}, doors=True).ghost("t1", desk="north")
    make_people(incident.engine)
    return incident


def doctor(incident: Incident, who: str) -> dict[str, tuple[bool, str]]:
    """What each check says to a person's login."""
    using = settings(incident, recon_database_url=with_password(url_of(incident, who)))
    return {name: (check.ok, check.detail) for name, check in checks(using).items()}


def plan_as(incident: Incident, *, approved: bool = True) -> StageResult:
    """Detect, dry-run and, if that is GO, approve, each in its role."""
    assert run_as(incident, "a_planner", "detect").verdict is Verdict.DONE
    planned = run_as(incident, "a_planner", "dry-run")
    if approved:
        assert planned.verdict is Verdict.GO, planned.message
        approve_as(incident, "an_approver")
    return planned


# Migrations


MIGRATIONS = {
    "renamed": (("ALTER TABLE orders RENAME desk TO trading_desk",), "found other columns (desk, trading_desk)"),
    "added": (
        (
            "ALTER TABLE orders ADD COLUMN book text NOT NULL DEFAULT 'main'",
            "ALTER TABLE orders ALTER COLUMN book DROP DEFAULT",
        ),
        "found other columns (book)",
    ),
    "no longer copied": (("ALTER TABLE orders ALTER COLUMN desk DROP NOT NULL",), "found other columns (desk)"),
}


@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_that_the_doors_do_not_follow_is_told_by_dry_run_and_apply(guarded: Incident, name: str) -> None:
    changes, found = MIGRATIONS[name]
    plan_as(guarded)
    for change in changes:
        guarded.sql(change)
    before = guarded.everything()
    refused = run_as(guarded, "an_applier", "apply")
    assert (refused.verdict, refused.code) == (Verdict.NO_GO, "doors_outdated"), refused.message
    assert refused.message == (
        f"The doors were made for orders as it was: expected the doors of today's orders, {found}. Nothing was "
        f"written; {RERUN}, then run again."
    )
    assert (guarded.everything(), guarded.state()) == (before, "approved")
    guarded.batch = "incident-2"
    refused = plan_as(guarded, approved=False)
    assert (refused.verdict, refused.code, guarded.state()) == (Verdict.NO_GO, "doors_outdated", "detected")
    ok, said = doctor(guarded, "a_planner")["doors"]
    assert (ok, said) == (False, f"expected the doors of today's orders, {found}; {RERUN}.")
    guarded.make_doors()
    plan_as(guarded)
    applied = run_as(guarded, "an_applier", "apply")
    assert applied.counts == {"APPLIED": 1}, applied.message


def test_a_table_that_took_the_place_of_orders_is_told_too(guarded: Incident) -> None:
    plan_as(guarded)
    guarded.sql("ALTER TABLE orders RENAME TO orders_old")
    guarded.sql("CREATE TABLE orders (LIKE orders_old INCLUDING ALL)")
    guarded.sql("INSERT INTO orders SELECT * FROM orders_old")
    guarded.sql(f"GRANT SELECT ON orders TO {', '.join(Role)}")
    before = guarded.everything()
    refused = run_as(guarded, "an_applier", "apply")
    assert (refused.code, "on another table. Nothing was written" in (refused.message or "")) == (
        "doors_outdated",
        True,
    )
    assert guarded.everything() == before


@pytest.mark.parametrize(("change", "code"), [
    ("ALTER TABLE orders DROP COLUMN desk", "2BP01"), ("ALTER TABLE orders ALTER COLUMN desk TYPE varchar(9)", "0A000"),
])  # fmt: skip
def test_other_migrations_postgresql_refuses_until_the_views_are_dropped(
    guarded: Incident, change: str, code: str
) -> None:
    """As README says, with its own statement."""
    with pytest.raises(sa.exc.DBAPIError) as refused:
        guarded.sql(change)
    assert refused.value.orig.sqlstate == code  # type: ignore[union-attr]
    [drop] = re.findall(r"`(DROP VIEW [^`]+)`", README)
    guarded.sql(drop)
    guarded.sql(change)
    guarded.make_doors()
    plan_as(guarded)
    applied = run_as(guarded, "an_applier", "apply")
    assert applied.counts == {"APPLIED": 1}, applied.message


def test_a_rollback_needs_no_door_of_todays_columns(guarded: Incident) -> None:
    """Nor does an apply that only compares, because it was done before."""
    plan_as(guarded)
    assert run_as(guarded, "an_applier", "apply").verdict is Verdict.DONE
    guarded.sql("ALTER TABLE orders RENAME desk TO trading_desk")
    assert run_as(guarded, "an_applier", "apply").counts == {"SKIP_EXISTING": 1}
    assert run_as(guarded, "an_undoer", "rollback").verdict is Verdict.DONE


# Triggers of the backend


@pytest.fixture
def logged(guarded: Incident) -> Incident:
    """A trigger that logs each row, with its rights where the manual says that a row is written."""
    guarded.sql("CREATE TABLE order_log (order_id text, status text)")
    guarded.sql(
        """CREATE FUNCTION log_order() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO order_log VALUES (new.order_id, new.status); RETURN NULL; END $$"""
    )
    guarded.sql("CREATE TRIGGER logs AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION log_order()")
    guarded.sql("GRANT INSERT ON order_log TO recon_applier, recon_undoer")
    return guarded


OWN_PATH = "ALTER FUNCTION log_order() SET search_path = "


def test_a_trigger_that_stands_in_the_way_back_is_named_with_what_lets_it_run(logged: Incident) -> None:
    """Each step is what the refusal before it advises; the control of both is the apply that then succeeds."""
    plan_as(logged)
    before = logged.everything()

    def refused(why: str) -> str:
        result = run_as(logged, "an_applier", "apply")
        assert (result.verdict, result.code) == (Verdict.NO_GO, "orders_unsuitable"), result.message
        assert (logged.everything(), logged.state()) == (before, "approved")
        assert result.message is not None
        assert why in result.message
        assert "as recon_owner with search_path pg_catalog, pg_temp" in result.message
        assert "here log_order(): grant recon_owner what they need" in result.message
        return result.message

    assert f"`{OWN_PATH}...`" in refused('relation "order_log" does not exist')
    logged.sql(f"{OWN_PATH}public, pg_temp")
    assert OWN_PATH not in refused("permission denied for table order_log")
    logged.sql("GRANT INSERT ON order_log TO recon_owner")
    applied = run_as(logged, "an_applier", "apply")
    assert applied.verdict is Verdict.DONE, applied.message
    assert run_as(logged, "an_undoer", "rollback").verdict is Verdict.DONE
    assert logged.sql("SELECT status FROM order_log WHERE order_id LIKE 'BFILL-%%'") == [("filled",), ("canceled",)]


def test_doctor_tells_beforehand_how_such_a_trigger_will_run(logged: Incident) -> None:
    ok, said = doctor(logged, "a_planner")["triggers"]
    assert (ok, "as recon_owner with search_path pg_catalog, pg_temp" in said) == (True, True), said
    assert f"qualify every name in log_order(), or give it a search_path of its own, as in `{OWN_PATH}...`" in said
    logged.sql(f"{OWN_PATH}public, pg_temp")
    ok, said = doctor(logged, "a_planner")["triggers"]
    assert (ok, "grant recon_owner what they need" in said, OWN_PATH in said) == (True, True, False), said
    logged.sql("ALTER FUNCTION log_order() SECURITY DEFINER")
    assert "recon_owner" not in doctor(logged, "a_planner")["triggers"][1], "it runs there as everywhere"
    plan_as(logged)
    applied = run_as(logged, "an_applier", "apply")
    assert applied.verdict is Verdict.DONE, applied.message


def test_only_triggers_that_fire_when_a_status_changes_are_named(logged: Incident) -> None:
    logged.sql("DROP TRIGGER logs ON orders")
    for name, when in {"new": "AFTER INSERT", "priced": "AFTER UPDATE OF price", "off": "AFTER UPDATE"}.items():
        logged.sql(f"CREATE TRIGGER {name} {when} ON orders FOR EACH ROW EXECUTE FUNCTION log_order()")
    logged.sql("ALTER TABLE orders DISABLE TRIGGER off")
    logged.sql(
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION log_order()"
    )
    ok, said = doctor(logged, "a_planner")["triggers"]
    assert (ok, "new (AFTER INSERT, each row)" in said, "recon_owner" in said) == (True, True, False), said
    logged.sql("CREATE TRIGGER states AFTER UPDATE OF status ON orders EXECUTE FUNCTION log_order()")
    assert "here log_order(): " in doctor(logged, "a_planner")["triggers"][1]


def test_without_doors_nothing_is_tried_as_somebody_else(incident: Incident) -> None:
    incident.create_table(doors=False).ghost("t1")
    incident.sql("CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    incident.sql("CREATE TRIGGER sees BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION seen()")
    with transaction(incident.engine, read_only=True) as connection:
        assert fired(connection) == []
    assert "recon_owner" not in checks(settings(incident))["triggers"].detail


# Row-level security


def test_behind_doors_policies_are_held_against_who_reads_and_who_writes(guarded: Incident) -> None:
    """The roles read `orders` and the owner of the doors writes it; a whole repair is the control."""

    def told() -> tuple[bool, str]:
        return doctor(guarded, "a_planner")["row_security"]

    assert told()[1].startswith("none holds for the roles of this user on orders, ")
    guarded.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    guarded.sql("CREATE POLICY writes ON orders TO recon_owner USING (true)")
    guarded.sql(
        "CREATE POLICY reads ON orders FOR SELECT TO recon_planner, recon_approver, recon_applier, recon_undoer "
        "USING (true)"
    )
    assert told() == (
        True,
        "in force by these policies: orders as recon_owner: writes; orders as recon_planner: reads. Rows that they "
        "hide do not exist for recon: make sure that they show and accept every row of the profile",
    )
    assert [name for name, (ok, _) in doctor(guarded, "an_applier").items() if not ok] == []
    plan_as(guarded)
    applied = run_as(guarded, "an_applier", "apply")
    assert applied.verdict is Verdict.DONE, applied.message
    assert run_as(guarded, "an_undoer", "rollback").verdict is Verdict.DONE
    guarded.sql("ALTER POLICY reads ON orders TO recon_applier")
    assert (told()[0], "found none for SELECT on orders as recon_planner (" in told()[1]) == (False, True)
    guarded.sql("ALTER POLICY reads ON orders TO PUBLIC")
    assert told()[0]
    guarded.sql("DROP POLICY writes ON orders")
    assert (told()[0], "for INSERT on orders as recon_owner, UPDATE on orders as recon_owner (" in told()[1]) == (
        False, True,
    )  # fmt: skip


def test_recons_own_tables_need_a_policy_for_what_each_role_does_there(guarded: Incident) -> None:
    guarded.sql("ALTER TABLE reconciliation_backfill_audit ENABLE ROW LEVEL SECURITY")
    place = "reconciliation_backfill_audit as"
    for who, role, commands in (
        ("a_reader", "recon_reader", ("SELECT",)),
        ("an_applier", "recon_applier", ("SELECT", "INSERT")),
        ("an_undoer", "recon_undoer", ("SELECT", "UPDATE")),
    ):
        ok, said = doctor(guarded, who)["row_security"]
        wanted = ", ".join(f"{command} on {place} {role}" for command in commands)
        assert (ok, f"found none for {wanted} (policies: {place} {role}: none)" in said) == (False, True), said


def test_a_profile_that_row_level_security_hides_is_not_called_unknown_alone(guarded: Incident) -> None:
    plan_as(guarded)
    guarded.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    for who, stage, role in (("a_planner", "detect", "recon_planner"), ("an_applier", "apply", "recon_applier")):
        refused = run_as(guarded, who, stage)
        assert (refused.verdict, refused.code) == (Verdict.NO_GO, "unknown_profile")
        assert refused.message == (
            f"Profile 'main' has no row in orders that {role} may see: row-level security is on. Check the name; it is "
            f"case-sensitive. If it is right, let a policy on orders show {role} every row of the profile; ask `recon "
            "doctor`."
        )
    guarded.sql("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")
    guarded.profile = "other"
    guarded.batch = "of-other"
    assert run_as(guarded, "a_planner", "detect").message == (
        "Profile 'other' has no row in orders. Check the name; it is case-sensitive."
    )


# Roles that are gone


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory, wait_until_stopped, tmp_path: Path) -> Iterator[Incident]:
    """The same on a server of its own, for roles are those of the whole server."""
    server = start(tmp_path_factory.mktemp("alone-home"))
    try:
        with an_incident(server.url(), tmp_path) as incident:
            incident.create_table(doors=True).ghost("t1")
            make_people(incident.engine)
            yield incident
    finally:
        server.close()
        wait_until_stopped(server.folder)
        shutil.rmtree(server.folder)


def test_a_role_that_is_gone_is_told_and_made_again(alone: Incident) -> None:
    plan_as(alone)
    for statement in ("DROP OWNED BY recon_applier", "DROP ROLE recon_applier"):
        alone.sql(statement)
    assert doctor(alone, "a_planner")["doors"] == (
        False,
        f"expected this server to have recon's roles, found no recon_applier; {RERUN}, then grant again what was "
        "granted.",
    )
    before = alone.everything()
    refused = run_as(alone, "an_applier", "apply")
    assert (refused.verdict, refused.code) == (Verdict.NO_GO, "role_missing")
    assert refused.message == (
        "Behind the doors of this database this takes the role recon_applier, and this server has none of that name: "
        "it was dropped, or the database comes from another server. Run `recon init --roles`, which makes it, then "
        '`GRANT recon_applier TO "an_applier"`.'
    )
    assert alone.everything() == before
    alone.make_doors()
    assert 'GRANT recon_applier TO "an_applier"' in (run_as(alone, "an_applier", "apply").message or "")
    alone.sql("GRANT recon_applier TO an_applier")
    applied = run_as(alone, "an_applier", "apply")
    assert applied.verdict is Verdict.DONE, applied.message


def test_so_are_all_of_them_where_the_database_came_from_another_server(alone: Incident) -> None:
    every = (*Role, "recon_owner")
    alone.sql("REASSIGN OWNED BY recon_owner TO CURRENT_USER")
    for role in every:
        alone.sql(f"DROP OWNED BY {role}")
        alone.sql(f"DROP ROLE {role}")
    found = checks(settings(alone))
    assert found["doors"].detail.startswith(
        f"expected this server to have recon's roles, found no {', '.join(every)}; "
    )
    assert "doors" in failed(found)
    refused = run_as(alone, "a_planner", "detect")
    assert (refused.code, RERUN in (refused.message or "").replace("Run", "run")) == ("role_missing", True)
    alone.make_doors()
    assert checks(settings(alone))["doors"].ok
    alone.sql("GRANT recon_planner TO a_planner")
    assert run_as(alone, "a_planner", "detect").verdict is Verdict.DONE
