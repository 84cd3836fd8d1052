"""The doors beside what a DBA does to `orders`: migrations, triggers, row-level security, roles that are gone."""

from __future__ import annotations


import pytest
from console import with_password
from doors.people import make_people
from examined import checks, settings, url_of
from incidents import EXTENDED, Incident
from test_doors import approve_as, run_as

from recon.database import transaction
from recon.domain import StageResult, Verdict
from recon.doors.trial import fired


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
