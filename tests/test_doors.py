"""The doors as people meet them: a real login for each role, the right one works and every other is refused."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy as sa
from console import Console, clean_environment
from doors.people import LOGIN_OF, as_login, make_people
from incidents import EXTENDED, Incident, refusal
from test_orders import ODD, SEARCH_PATH, SHAPES, repair_and_take_back
from test_readme import README, blocks

from recon import batches
from recon.audit import create_tables
from recon.batches import Action
from recon.database import ROLE, connect, transaction
from recon.doctor.doors import doors
from recon.domain import Reason, Stage, StageResult, Verdict
from recon.doors.access import Protection, behind, protection
from recon.doors.names import CANCEL, INSERT, LOCK, REINSTATE, Role
from recon.doors.roles import create_doors, role_statements
from recon.embedded_place import _wheel_programs
from recon.errors import ReconError
from recon.incident import ROLES, _as_far_as_it_may
from recon.stages.approve import approve
from recon.stages.writing import Outcome, _ask

TRUSTED = "a reviewer"


@pytest.fixture
def guarded(incident_each_version: Incident) -> Incident:
    """An incident behind doors, with a ghost, and people."""
    incident_each_version.create_table(doors=True).ghost("t1")
    make_people(incident_each_version.engine)
    return incident_each_version


def run_as(incident: Incident, who: str, stage: str) -> StageResult:
    """Run a stage on the person's own connection."""
    return incident.run(stage, work=replace(incident.work(), engine=as_login(incident.engine, who)))


def approve_as(incident: Incident, who: str) -> None:
    """Approve on the person's own connection."""
    approve(replace(incident.work(), engine=as_login(incident.engine, who)), incident.batch, TRUSTED)


def test_each_stage_is_run_by_its_role_and_refused_to_every_other(guarded: Incident) -> None:
    """The control of each refusal is that the right login then succeeds, on the same batch."""
    right = {stage.value: LOGIN_OF[roles[0]] for stage, roles in ROLES.items()} | {"approve": "an_approver"}
    before = guarded.orders()
    for stage in ("detect", "dry-run", "approve", "apply", "validate", "rollback"):
        for who in ("a_reader", "a_planner", "an_approver", "an_applier", "an_undoer", "nobody"):
            if who == right[stage] or (stage, who) == ("detect", "a_reader"):
                continue
            if stage == "approve":
                assert refusal(lambda who=who: approve_as(guarded, who)).code == "role_missing"
            else:
                refused = run_as(guarded, who, stage)
                assert (refused.verdict, refused.code) == (Verdict.NO_GO, "role_missing"), refused.message
        if stage == "approve":
            approve_as(guarded, "an_approver")
        else:
            done = run_as(guarded, right[stage], stage)
            assert done.verdict in (Verdict.DONE, Verdict.GO), done.message
    assert (guarded.state(), guarded.statuses(), before != guarded.orders()) == ("rolled_back", ["canceled"], True)


def test_a_refusal_names_the_role_and_who_lacks_it(guarded: Incident) -> None:
    assert run_as(guarded, "a_planner", "detect").verdict is Verdict.DONE
    refused = run_as(guarded, "a_reader", "dry-run")
    assert refused.message is not None
    assert 'GRANT recon_planner TO "a_reader"' in refused.message


def test_a_readers_detect_leaves_no_trace_and_says_so(guarded: Incident) -> None:
    before = guarded.everything()
    found = run_as(guarded, "a_reader", "detect")
    assert (found.verdict, found.counts["OPEN"], found.counts["MISMATCH"]) == (Verdict.DONE, 1, 1)
    [said] = [check for check in found.checks if check.name == "events_recorded"]
    assert (said.ok, "no mismatch event was written, and the batch was not opened" in said.detail) == (False, True)
    assert (guarded.everything(), guarded.state()) == (before, None)
    assert run_as(guarded, "a_planner", "detect").verdict is Verdict.DONE
    assert guarded.state() == "detected"


def test_a_member_who_inherits_nothing_takes_the_role(guarded: Incident) -> None:
    guarded.plan()
    with pytest.raises(sa.exc.ProgrammingError) as refused, as_login(guarded.engine, "a_taker").begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM orders")
    assert refused.value.orig.sqlstate == "42501"  # type: ignore[union-attr]
    applied = run_as(guarded, "a_taker", "apply")
    assert applied.verdict is Verdict.DONE, applied.message


def test_one_with_all_five_roles_takes_the_one_of_the_stage(guarded: Incident) -> None:
    for stage in ("detect", "dry-run"):
        assert run_as(guarded, "all_five", stage).verdict in (Verdict.DONE, Verdict.GO)
    approve_as(guarded, "all_five")
    for stage in ("apply", "validate", "rollback"):
        done = run_as(guarded, "all_five", stage)
        assert done.verdict is Verdict.DONE, done.message


def seen(incident: Incident, who: str | None = None) -> Protection:
    """What a person's connection finds in force."""
    engine = incident.engine if who is None else as_login(incident.engine, who)
    with transaction(engine, read_only=True) as connection:
        return protection(connection)


def definitions(incident: Incident) -> str | None:
    """The digest of what is in force."""
    return seen(incident).digest


def test_making_the_doors_twice_is_the_same(guarded: Incident) -> None:
    before = definitions(guarded)
    guarded.make_doors()
    assert definitions(guarded) == before is not None
    guarded.repair()


def test_protection_tells_a_login_from_a_superuser(guarded: Incident) -> None:
    mine, theirs = seen(guarded, "an_applier"), seen(guarded)
    assert (mine.doors, mine.around, mine.append_only) == (True, False, True)
    assert (theirs.doors, theirs.around, theirs.digest) == (True, True, mine.digest)


@pytest.mark.parametrize("change", [
    f"CREATE OR REPLACE VIEW {LOCK} AS SELECT order_id FROM orders WHERE true",
    "ALTER TABLE reconciliation_batches DISABLE TRIGGER reconciliation_settled",
    "ALTER TABLE reconciliation_backfill_audit ENABLE TRIGGER reconciliation_append_only",
    "GRANT INSERT ON orders TO recon_applier",
    "GRANT UPDATE (status) ON orders TO recon_applier",
    "ALTER TABLE reconciliation_batches OWNER TO CURRENT_USER",
    "ALTER FUNCTION reconciliation_settled() OWNER TO CURRENT_USER",
    "CREATE RULE quiet AS ON DELETE TO reconciliation_backfill_audit DO INSTEAD NOTHING",
    "GRANT UPDATE ON reconciliation_batches TO recon_reader",
    f"ALTER VIEW {INSERT} RESET (check_option)",
    "CREATE OR REPLACE FUNCTION reconciliation_never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
])  # fmt: skip
def test_what_a_superuser_changes_shows_in_the_digest(guarded: Incident, change: str) -> None:
    before = definitions(guarded)
    guarded.sql(change)
    assert definitions(guarded) != before


@pytest.mark.parametrize(("changes", "named"), [
    (("ALTER TABLE reconciliation_batches DISABLE TRIGGER reconciliation_guard_batches",),
     ["trigger reconciliation_guard_batches on reconciliation_batches (changed)"]),
    (("ALTER TABLE reconciliation_batches DISABLE TRIGGER reconciliation_guard_batches",
      "ALTER TABLE reconciliation_batches ENABLE TRIGGER reconciliation_guard_batches"),
     ["trigger reconciliation_guard_batches on reconciliation_batches (changed)"]),
    (("DROP TRIGGER reconciliation_settled ON reconciliation_batches",),
     ["trigger reconciliation_settled on reconciliation_batches (missing)"]),
    (("CREATE TRIGGER a BEFORE INSERT ON reconciliation_batches EXECUTE FUNCTION reconciliation_never()",),
     ["trigger a on reconciliation_batches (added)"]),
    ((f"ALTER VIEW {INSERT} RESET (check_option)",), [f"view {INSERT} (changed)"]),
    ((f"CREATE OR REPLACE VIEW {LOCK} AS SELECT order_id FROM orders WHERE true",), [f"view {LOCK} (changed)"]),
    ((f"GRANT INSERT ON {INSERT} TO PUBLIC",), [f"owner and rights of {INSERT} (changed)"]),
    (("GRANT DELETE ON reconciliation_backfill_audit TO recon_reader",),
     ["owner and rights of reconciliation_backfill_audit (changed)"]),
    (("GRANT UPDATE (plan) ON reconciliation_batches TO recon_applier",),
     ["rights on plan of reconciliation_batches (changed)"]),
    (("ALTER TABLE reconciliation_events OWNER TO CURRENT_USER",),
     ["owner and rights of reconciliation_events (changed)"]),
    (("ALTER FUNCTION reconciliation_settled() OWNER TO CURRENT_USER",),
     ["function reconciliation_settled() (changed)"]),
    (("CREATE RULE quiet AS ON DELETE TO reconciliation_backfill_audit DO INSTEAD NOTHING",),
     ["rule quiet on reconciliation_backfill_audit (added)"]),
    ((f"COMMENT ON VIEW {INSERT} IS NULL",), ["the record of what was made (missing)"]),
    ((f"COMMENT ON VIEW {INSERT} IS '[1]'",), ["the record of what was made (missing)"]),
    (("GRANT SELECT ON reconciliation_batches, orders TO PUBLIC", "GRANT INSERT ON orders TO recon_reader"), []),
])  # fmt: skip
def test_what_is_not_as_it_was_made_is_named_and_made_anew(
    guarded: Incident, changes: tuple[str, ...], named: list[str]
) -> None:
    for change in changes:
        guarded.sql(change)
    found = seen(guarded, "an_applier")
    assert list(found.changed) == named
    doctor = by_hand(guarded, "an_applier").inside("doctor")
    [told] = [line for line in doctor.out.splitlines() if " doors: " in line or line.startswith("FAIL doors")]
    if named:
        assert told.startswith("FAIL")
        assert f"found otherwise: {named[0]}" in told
        assert f"NOT as `recon init --roles` made them: {named[0]}" in found.sentence()
        guarded.make_doors()
    else:
        assert found.sentence().startswith("in force")
    assert seen(guarded, "an_applier").changed == ()


def test_rights_on_recons_tables_that_nobody_needs_are_taken_back(guarded: Incident) -> None:
    guarded.sql("GRANT DELETE, SELECT ON reconciliation_backfill_audit TO recon_reader WITH GRANT OPTION")
    guarded.sql("GRANT UPDATE (plan) ON reconciliation_batches TO PUBLIC")
    guarded.make_doors()
    query = """SELECT has_table_privilege('recon_reader', 'reconciliation_backfill_audit', 'DELETE'),
        has_table_privilege('recon_reader', 'reconciliation_backfill_audit', 'SELECT'),
        has_column_privilege('recon_reader', 'reconciliation_batches', 'plan', 'UPDATE')"""
    assert guarded.sql(query) == [(False, True, False)]
    guarded.repair()


def test_the_record_is_the_same_on_every_search_path(guarded: Incident) -> None:
    guarded.sql("CREATE SCHEMA elsewhere")
    guarded.sql("GRANT USAGE ON SCHEMA elsewhere TO PUBLIC")
    here = seen(guarded, "an_applier")
    guarded.sql(SEARCH_PATH.replace("trading, public", "elsewhere, public"))
    there = seen(guarded, "an_applier")
    assert (there.changed, there.digest) == ((), here.digest)


def test_an_owner_of_the_doors_that_somebody_can_be_is_told(guarded: Incident, maker: Callable[..., sa.Engine]) -> None:
    engine = maker(owns="GRANT recon_owner TO {name}")
    assert seen(guarded, "an_applier").changed == (f"role recon_owner (granted to {engine.url.username})",)
    guarded.sql(f"REVOKE recon_owner FROM {engine.url.username}")
    guarded.sql("ALTER ROLE recon_owner LOGIN")
    try:
        assert seen(guarded, "an_applier").changed == ("role recon_owner (may log in)",)
    finally:
        guarded.sql("ALTER ROLE recon_owner NOLOGIN")
    assert seen(guarded, "an_applier").changed == ()


def test_a_script_takes_recons_tables_from_whoever_has_them(guarded: Incident, maker: Callable[..., sa.Engine]) -> None:
    """An operator made them, the owner of `orders` prints the script, and a DBA runs it."""
    without_doors(guarded)
    operator, backend = maker(owns="GRANT CREATE ON SCHEMA public TO {name}"), maker()
    guarded.sql(f"GRANT SELECT, INSERT, UPDATE ON orders TO {operator.url.username}")
    guarded.sql(f"ALTER TABLE orders OWNER TO {backend.url.username}")
    with operator.begin() as connection:
        create_tables(connection)
    with transaction(backend) as connection:
        script = role_statements(connection)
    with transaction(guarded.engine) as connection:
        for statement in script:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE starts_with(tablename, 'reconciliation')"
    assert guarded.sql(owners) == [("recon_owner",)]
    assert seen(guarded).changed == ()


def test_a_right_on_a_partition_is_a_way_around(guarded: Incident, maker: Callable[..., sa.Engine]) -> None:
    without_doors(guarded)
    guarded.sql("ALTER TABLE orders RENAME TO orders_main")
    guarded.sql("CREATE TABLE orders (LIKE orders_main INCLUDING DEFAULTS) PARTITION BY LIST (profile_id)")
    guarded.sql("ALTER TABLE orders ATTACH PARTITION orders_main FOR VALUES IN ('main')")
    reader, writer = maker(), maker(owns="GRANT UPDATE (status) ON orders_main TO {name}")
    for engine, around in ((reader, False), (writer, True)):
        with transaction(engine, read_only=True) as connection:
            assert protection(connection).around is around


def test_what_print_gives_makes_the_same_doors(guarded: Incident) -> None:
    """As psql runs it: one statement after the other, each committed by itself."""
    with transaction(guarded.engine) as connection:
        statements = role_statements(connection)
        create_doors(connection)
    made = definitions(guarded)
    views = ", ".join((LOCK, INSERT, REINSTATE, CANCEL))
    guarded.sql(f"DROP VIEW {views}")
    guarded.sql("DROP TRIGGER reconciliation_settled ON reconciliation_batches")
    assert definitions(guarded) != made
    with guarded.backend.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(f"{statement};", execution_options={"no_parameters": True})
    assert definitions(guarded) == made


def psql(engine: sa.Engine, script: str, *options: str, status: int = 0) -> str:
    """Run a script as `psql -f` does, which goes on after an error and ends with 0, unless options say otherwise.

    Returns what it complains of.
    """
    program = _wheel_programs() / "psql"
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    command = [str(program), "--no-psqlrc", "--quiet", *options, "--file=-", url]
    ran = subprocess.run(command, input=script, capture_output=True, text=True, env=clean_environment())
    assert ran.returncode == status, ran.stderr
    return "\n".join(line for line in ran.stderr.splitlines() if "NOTICE" not in line)


def test_psql_makes_what_print_gives_all_or_nothing(guarded: Incident, maker: Callable[..., sa.Engine]) -> None:
    printed = by_hand(guarded, guarded.engine.url.username or "").inside("init", "--roles", "--print")
    assert (printed.status, printed.err) == (0, "")
    header, *lines = printed.out.splitlines()
    assert header == (
        f"-- recon {version('recon')}: the roles and doors for table public.orders, with recon's own tables in schema "
        "public, of database incidents"
    )
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    with transaction(guarded.engine) as connection:
        create_doors(connection)  # with the server's clock
    made = definitions(guarded)
    guarded.sql(f"DROP VIEW {LOCK}, {INSERT}, {REINSTATE}, {CANCEL}")
    bare = definitions(guarded)
    assert "permission denied" in psql(maker("CREATEROLE"), printed.out)
    assert definitions(guarded) == bare != made
    assert psql(guarded.engine, f"SET search_path TO pg_catalog;\n{printed.out}") == ""
    assert definitions(guarded) == made


def test_psql_tells_that_it_failed_as_the_manual_says_and_what_is_printed_again_succeeds(incident: Incident) -> None:
    """The script makes tables that are then there, so it fails when it is run a second time."""
    [options] = re.findall(r"`psql (.+) -f FILE`", README)
    incident.create_table(own_tables=False)

    def printed() -> str:
        return by_hand(incident, incident.engine.url.username or "").inside("init", "--roles", "--print").out

    script = printed()
    assert psql(incident.engine, script, *options.split()) == ""
    made = definitions(incident)
    assert "already exists" in psql(incident.engine, script, *options.split(), status=3)
    assert "already exists" in psql(incident.engine, script), "the control: it ends with 0"
    assert psql(incident.engine, printed(), *options.split()) == ""
    assert definitions(incident) == made


@pytest.fixture
def maker(guarded: Incident) -> Iterator[Callable[..., sa.Engine]]:
    """Makes a login that is no superuser; dropped at the end, with what it owns."""
    made: list[str] = []

    def make_login(*attributes: str, owns: str = "") -> sa.Engine:
        name = f"maker_{uuid.uuid4().hex[:8]}"
        guarded.sql(f"CREATE ROLE {name} LOGIN {' '.join(attributes)}")
        made.append(name)
        for statement in filter(None, owns.format(name=name).split("; ")):
            guarded.sql(statement)
        return as_login(guarded.engine, name)

    yield make_login
    for name in made:
        guarded.sql(f"REASSIGN OWNED BY {name} TO CURRENT_USER")
        guarded.sql(f"DROP OWNED BY {name}")
        guarded.sql(f"DROP ROLE {name}")


def without_doors(incident: Incident) -> None:
    """Take away all of recon's tables and doors."""
    incident.sql(f"DROP VIEW {LOCK}, {INSERT}, {REINSTATE}, {CANCEL}")
    incident.sql("DROP TABLE reconciliation_backfill_audit, reconciliation_batches, reconciliation_events")
    for name in ("append_only", "guard_batches", "never", "guard_audit", "guard_marks", "settled"):
        incident.sql(f"DROP FUNCTION reconciliation_{name}() CASCADE")
    incident.sql("DROP FUNCTION reconciliation_door_way_back(text, text)")


def test_a_user_who_owns_orders_and_may_grant_the_roles_makes_the_doors(
    guarded: Incident, maker: Callable[..., sa.Engine]
) -> None:
    """No superuser: it may create roles, and where recon's are there already, it administers them."""
    without_doors(guarded)
    admin = "; ".join(f"GRANT {role} TO {{name}} WITH ADMIN OPTION" for role in (*Role, "recon_owner"))
    engine = maker(
        "CREATEROLE",
        owns=f"{admin}; ALTER TABLE orders OWNER TO {{name}}; ALTER SCHEMA public OWNER TO {{name}}",
    )
    for _ in range(2):
        with transaction(engine) as connection:
            create_doors(connection, "coalesce((SELECT instant FROM public.clock), clock_timestamp())")
    guarded.work()
    for stage, who in (("detect", "a_planner"), ("dry-run", "a_planner")):
        assert run_as(guarded, who, stage).verdict in (Verdict.DONE, Verdict.GO)
    approve_as(guarded, "an_approver")
    for stage, who in (("apply", "an_applier"), ("validate", "a_planner"), ("rollback", "an_undoer")):
        done = run_as(guarded, who, stage)
        assert done.verdict is Verdict.DONE, done.message


def test_a_user_who_owns_nothing_is_refused_and_changes_nothing(
    guarded: Incident, maker: Callable[..., sa.Engine]
) -> None:
    engine = maker(owns="GRANT SELECT ON orders TO {name}")
    before = definitions(guarded)
    said = not_permitted(engine)
    assert "without CREATEROLE, the ownership of orders, the ownership of its schema." in said
    assert "permission denied to create role" in said
    assert "`recon init --roles --print`" in said
    assert definitions(guarded) == before


def test_only_the_rights_that_are_missing_are_named(guarded: Incident, maker: Callable[..., sa.Engine]) -> None:
    without_doors(guarded)
    guarded.sql("REVOKE ALL ON orders FROM recon_owner")
    owns = "GRANT recon_owner TO {name} WITH ADMIN OPTION; GRANT CREATE ON SCHEMA public TO {name} WITH GRANT OPTION"
    said = not_permitted(maker("CREATEROLE", owns=owns))
    assert "without the ownership of orders, the ownership of its schema. The server says: " in said


def not_permitted(engine: sa.Engine) -> str:
    """What making the doors is refused with, for lack of a right of this login."""
    with pytest.raises(ReconError) as refused, transaction(engine) as connection:
        create_doors(connection)
    assert (refused.value.code, refused.value.exit_status) == ("privileges_missing", 1)
    return refused.value.message


READINGS = (("status",), ("fetch", "--profile-id", "main", "--out", "kept"))


def by_hand(incident: Incident, who: str) -> Console:
    """The command line as a login uses it."""
    url = as_login(incident.engine, who).url.render_as_string(hide_password=False)
    settings = {"RECON_DATABASE_URL": url, "RECON_EXCHANGE": f"statement:{incident.folder}"}
    return Console(clean_environment() | settings, incident.folder.parent)


@pytest.mark.parametrize("words", READINGS, ids=lambda words: words[0])
def test_a_login_without_any_role_is_told_which_one_lets_it_read(guarded: Incident, words: tuple[str, ...]) -> None:
    assert 'GRANT recon_reader TO "nobody"' in by_hand(guarded, "nobody").inside(*words).refused("role_missing")
    assert by_hand(guarded, "a_reader").inside(*words).status == 0


def test_so_is_one_that_may_not_even_look_into_the_schema(incident: Incident) -> None:
    incident.sql("CREATE SCHEMA hidden")
    incident.sql(SEARCH_PATH.replace("trading, public", "hidden"))
    incident.create_table(name="hidden.orders", doors=True).ghost("t1")
    make_people(incident.engine)
    for words in READINGS:
        assert "GRANT recon_reader" in by_hand(incident, "nobody").inside(*words).refused("role_missing")
    assert run_as(incident, "nobody", "detect").code == "role_missing"
    doctor = by_hand(incident, "nobody").inside("doctor")
    assert (doctor.status, doctor.err) == (1, "")
    [told] = [line for line in doctor.out.splitlines() if "FAIL" in line and "database" in line]
    assert "role_missing: " in told
    assert "search_path" not in doctor.out
    assert run_as(incident, "a_taker", "apply").code == "illegal_transition"  # of no batch


def test_verify_says_it_too(guarded: Incident, tmp_path: Path) -> None:
    console = by_hand(guarded, "a_planner")
    assert console.stage("detect", "main", "kept").status == 0
    folder = str(tmp_path / "reports" / "kept")
    assert console.inside("verify", folder).status == 0
    said = by_hand(guarded, "nobody").inside("verify", folder)
    assert (said.status, said.err) == (1, "")
    [told] = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert told.startswith("FAIL database: role_missing: ")
    assert 'GRANT recon_reader TO "nobody"' in told
    assert told.endswith(f" To check the folder alone: `RECON_DATABASE_URL= recon verify {folder}`.")
    alone = by_hand(guarded, "nobody").but(RECON_DATABASE_URL="").inside("verify", folder)
    assert alone.status == 0, alone
    assert "ok   database: not compared: no database is configured (RECON_DATABASE_URL)" in alone.out


def test_verify_notes_doors_that_are_not_as_they_were(guarded: Incident, tmp_path: Path) -> None:
    console = by_hand(guarded, "a_planner")
    assert console.stage("detect", "main", "kept").status == 0

    def said() -> str:
        told = console.inside("verify", str(tmp_path / "reports" / "kept"))
        assert told.status == 0
        [line] = [line for line in told.out.splitlines() if line.startswith("ok   database: ")]
        return line

    assert "note" not in said()
    guarded.sql(f"ALTER VIEW {INSERT} RESET (check_option)")
    assert "; note: its doors and triggers have digest " in said()
    assert said().endswith(f"; its doors are not as `recon init --roles` made them: view {INSERT} (changed)")


def test_a_login_that_may_read_everything_by_itself_needs_no_role(
    guarded: Incident, maker: Callable[..., sa.Engine]
) -> None:
    tables = "orders, reconciliation_backfill_audit, reconciliation_batches, reconciliation_events"
    engine = maker(owns=f"GRANT SELECT ON {tables} TO {{name}}")
    assert by_hand(guarded, engine.url.username or "").inside("status").status == 0


MORE = {
    "serial": EXTENDED | {"id": "bigserial"},
    "identity": EXTENDED | {"id": "bigint GENERATED BY DEFAULT AS IDENTITY"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_table_is_repaired_behind_doors(incident: Incident, name: str) -> None:
    """A whole repair, rollback and reinstatement, each step in its role; the same as without doors."""
    incident.behind_doors = True
    repair_and_take_back(incident, SHAPES[name])
    assert incident.has_doors


@pytest.mark.parametrize("name", MORE)
def test_a_login_of_one_role_fills_columns_that_number_themselves(incident: Incident, name: str) -> None:
    incident.create_table(MORE[name], doors=True).ghost("t1")
    make_people(incident.engine)
    incident.plan()
    applied = run_as(incident, "an_applier", "apply")
    assert applied.verdict is Verdict.DONE, applied.message


def test_an_exchange_order_of_a_uuid_column_passes_the_doors_in_any_spelling(incident: Incident) -> None:
    """The plan has the id as the exchange spells it, the column as PostgreSQL does."""
    incident.create_table(EXTENDED | {"exchange_order_id": "uuid"}, doors=True)
    order = uuid.uuid4()
    incident.ghost("t1", order=order.hex.upper(), exchange_order_id=None)
    make_people(incident.engine)
    incident.plan()
    applied = run_as(incident, "an_applier", "apply")
    assert applied.counts == {"APPLIED": 1}, applied.message
    assert [row["exchange_order_id"] for row in incident.backfills()] == [order]
    assert run_as(incident, "an_undoer", "rollback").verdict is Verdict.DONE
    incident.run("detect", "again")
    assert incident.plan(batch="again").counts == {"DRY_RUN": 1}
    again = incident.run(
        "apply", "again", work=replace(incident.work(), engine=as_login(incident.engine, "an_applier"))
    )
    assert (again.counts, {item.reason for item in again.items}) == ({"APPLIED": 1}, {Reason.REINSTATE})


def test_quoted_names_everywhere(incident: Incident) -> None:
    """Columns, and the schema that holds everything, have names that need quotes."""
    incident.sql('CREATE SCHEMA "Odd Schema"')
    incident.sql(SEARCH_PATH.replace("trading, public", '"Odd Schema"'))
    incident.create_table(EXTENDED | ODD, name='"Odd Schema".orders', doors=True)
    incident.ghost("t1", **dict.fromkeys(ODD, "x"))
    incident.repair()
    assert incident.run("rollback").verdict is Verdict.DONE


def test_the_readmes_grants_open_the_work_that_it_says(incident: Incident) -> None:
    incident.create_table(doors=True).ghost("t1")
    _, (_, _, grants) = blocks("sql")
    incident.sql(grants)
    try:
        work = {"detect": "desk", "dry-run": "desk", "approve": "reviewer", "apply": "desk", "rollback": "reviewer"}
        for stage, who in work.items():
            if stage == "approve":
                approve_as(incident, who)
                continue
            done = run_as(incident, who, stage)
            assert done.verdict in (Verdict.DONE, Verdict.GO), done.message
    finally:
        incident.sql("DROP ROLE desk, reviewer")


def test_a_backends_own_audit_table_with_a_serial_id_is_written_by_each_role(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.work()
    incident.sql("ALTER TABLE reconciliation_backfill_audit ADD COLUMN id bigserial")
    incident.make_doors()
    make_people(incident.engine)
    for stage, who in (("detect", "a_planner"), ("dry-run", "a_planner")):
        assert run_as(incident, who, stage).verdict in (Verdict.DONE, Verdict.GO)
    approve_as(incident, "an_approver")
    applied = run_as(incident, "an_applier", "apply")
    assert applied.verdict is Verdict.DONE, applied.message


def test_a_replaced_body_is_told_and_repaired(guarded: Incident) -> None:
    assert seen(guarded).append_only
    guarded.sql(
        "CREATE OR REPLACE FUNCTION reconciliation_append_only() RETURNS trigger LANGUAGE plpgsql "
        "SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NEW; END'"
    )
    assert not seen(guarded).append_only
    guarded.make_doors()
    assert seen(guarded).append_only


def test_an_owner_that_somebody_has_is_refused(guarded: Incident, maker: Callable[..., sa.Engine]) -> None:
    guarded.make_doors()
    engine = maker(owns="GRANT recon_owner TO {name}")
    with transaction(guarded.engine) as connection, pytest.raises(ReconError) as refused:
        role_statements(connection)
    assert refused.value.code == "owner_granted"
    assert f"REVOKE recon_owner FROM {engine.url.username}" in refused.value.message


def test_a_right_on_one_column_or_by_a_role_to_take_is_a_way_around(
    guarded: Incident, maker: Callable[..., sa.Engine]
) -> None:
    column = maker(owns="GRANT UPDATE (status) ON orders TO {name}")
    taker = maker("NOINHERIT", owns=f"GRANT {column.url.username} TO {{name}}")
    reader = maker(owns="GRANT SELECT ON orders TO {name}")
    for engine, around in ((column, True), (taker, True), (reader, False)):
        with transaction(engine, read_only=True) as connection:
            assert protection(connection).around is around


@pytest.mark.parametrize(("changes", "said"), [
    (("ALTER TABLE orders RENAME TO orders_old", "CREATE TABLE orders (LIKE orders_old INCLUDING ALL)"),
     "on another table"),
    (("ALTER TABLE orders ENABLE ROW LEVEL SECURITY",), "CREATE POLICY recon_owner"),
])  # fmt: skip
def test_doctor_tells_doors_that_do_not_see_orders(guarded: Incident, changes: tuple[str, ...], said: str) -> None:
    def told() -> tuple[bool | None, str]:
        with transaction(guarded.engine, read_only=True) as connection:
            return doors(connection)

    assert told()[0] is True
    for change in changes:
        guarded.sql(change)
    ok, detail = told()
    assert (ok, said in detail) == (False, True), detail
    if "POLICY" in said:
        guarded.sql("CREATE POLICY recon_owner ON orders TO recon_owner USING (true)")
    else:
        guarded.make_doors()
    assert told()[0] is True


def test_a_member_who_inherits_nothing_is_told_what_became_of_a_commit(guarded: Incident) -> None:
    guarded.plan()
    assert run_as(guarded, "a_taker", "apply").verdict is Verdict.DONE
    engine = behind(as_login(guarded.engine, "a_taker"), Role.APPLIER)
    with transaction(guarded.engine) as connection:
        xid = connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()
        batch = batches.load(connection, guarded.batch)
    assert _ask(engine, batch, Action.APPLY, xid) is Outcome.COMMITTED


def test_the_record_of_a_run_is_read_by_whichever_role_may(guarded: Incident) -> None:
    """What the stage could not do for want of a role, or of the database, is the stage's to tell."""
    work = guarded.work()
    reader = replace(work, engine=as_login(guarded.engine, "a_reader"))
    assert _as_far_as_it_may(reader, Stage.APPLY).engine.get_execution_options()[ROLE] == Role.READER
    nobody = replace(work, engine=as_login(guarded.engine, "nobody"))
    assert _as_far_as_it_may(nobody, Stage.APPLY).engine is nobody.engine
    gone = replace(work, engine=connect("postgresql://127.0.0.1:1/gone"))
    assert _as_far_as_it_may(gone, Stage.APPLY) is gone


def test_a_row_that_is_altered_on_its_way_does_not_pass_the_door(guarded: Incident) -> None:
    guarded.plan()
    guarded.sql(
        """CREATE FUNCTION shave() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN new.price := new.price - 0.000000000001; RETURN new; END $$"""
    )
    guarded.sql("CREATE TRIGGER shaving BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION shave()")
    result = guarded.run("apply")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "door_closed")
    assert f'new row violates check option for view "{INSERT}"' in (result.message or "")
    assert (guarded.backfills(), guarded.state()) == ([], "approved")
    guarded.sql("DROP TRIGGER shaving ON orders")
    assert guarded.run("apply").counts == {"APPLIED": 1}


def test_a_sequence_that_came_later_is_missed_by_doctor_and_the_dry_run(incident: Incident) -> None:
    incident.create_table(MORE["serial"], doors=True).ghost("t1")
    make_people(incident.engine)
    incident.sql("CREATE SEQUENCE others")
    incident.sql("ALTER TABLE orders ALTER COLUMN id SET DEFAULT nextval('others')")
    grant = "GRANT USAGE ON SEQUENCE others TO recon_applier"
    with transaction(as_login(incident.engine, "a_planner"), read_only=True) as connection:
        found, said = doors(connection)
    assert (found, f"; run `{grant}`." in said) == (False, True)
    assert run_as(incident, "a_planner", "detect").verdict is Verdict.DONE
    refused = run_as(incident, "a_planner", "dry-run")
    assert [check.detail.endswith(f"run `{grant}`") for check in refused.checks if not check.ok] == [True]
    incident.sql(grant)
    assert run_as(incident, "a_planner", "dry-run").verdict is Verdict.GO
    with transaction(as_login(incident.engine, "a_planner"), read_only=True) as connection:
        assert doors(connection)[0]


def test_doctor_tells_a_door_that_was_dropped(guarded: Incident) -> None:
    """Some doors are worse than none: their roles could no longer do their work. The control is all, then none."""

    def told() -> tuple[bool, str]:
        with transaction(guarded.engine, read_only=True) as connection:
            return doors(connection)

    assert told()[0]
    guarded.sql("DROP VIEW reconciliation_door_insert")
    wanted = "expected all four doors, found no reconciliation_door_insert; run `recon init --roles`."
    assert told() == (False, wanted)
    guarded.sql("DROP VIEW reconciliation_door_lock, reconciliation_door_reinstate, reconciliation_door_cancel")
    assert (told()[0], told()[1].startswith("none: ")) == (True, True)
