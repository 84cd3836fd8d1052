"""What the doors leave open, each exception tried as README and rules.md 14 tell it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from doors.attacks import undo
from doors.people import as_login, make_people
from incidents import Incident
from signers import ALICE, Keys, strict

from recon.database import sqlstate
from recon.domain import Verdict

AUDIT = "reconciliation_backfill_audit"


@pytest.fixture
def applied(incident_each_version: Incident, keys: Keys) -> Incident:
    """A batch behind doors, applied where signatures are required."""
    incident = incident_each_version
    incident.create_table(doors=True).ghost("t1")
    make_people(incident.engine)
    incident.run("detect")
    incident.run("dry-run")
    work = strict(incident, keys)
    incident.approve(work=work, by=ALICE, key=keys.alice)
    assert incident.run("apply", work=work).verdict is Verdict.DONE
    return incident


@pytest.mark.parametrize("state", ["applied", "validated", "signed"])
def test_an_undoer_rolls_back_by_hand_what_recon_wants_approved(applied: Incident, keys: Keys, state: str) -> None:
    """The doors know no signatures and ask for no approval of a rollback; recon does both. Others have no such door."""
    applied.tamper("UPDATE reconciliation_batches SET state = %s", state)
    assert applied.run("rollback", work=strict(applied, keys)).code == "rollback_not_approved"
    for who, ended in (("an_applier", "42501"), ("an_undoer", None)):
        with as_login(applied.engine, who).connect() as connection:
            assert by_hand(connection, undo(applied.batch)) == ended
    assert (applied.state(), applied.statuses()) == ("rolled_back", ["canceled"])


def by_hand(connection: sa.Connection, statements: tuple[str, ...]) -> str | None:
    """One transaction of somebody with a client of their own: the SQLSTATE with which it failed, else None."""
    try:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()
    except sa.exc.DBAPIError as error:
        connection.rollback()
        return sqlstate(error)
    return None


def test_the_owner_of_the_schema_drops_the_audit_table(applied: Incident) -> None:
    """Though not its owner, and able to change no row of it as long as what guards it is there."""
    applied.sql("CREATE ROLE of_the_schema LOGIN")
    try:
        applied.sql("GRANT SELECT, UPDATE, DELETE, TRUNCATE ON reconciliation_backfill_audit TO of_the_schema")
        with as_login(applied.engine, "of_the_schema").connect() as connection:
            assert by_hand(connection, (f"DROP TABLE {AUDIT} CASCADE",)) == "42501"
            applied.sql("ALTER SCHEMA public OWNER TO of_the_schema")
            for statement in (f"DELETE FROM {AUDIT}", f"UPDATE {AUDIT} SET actor = 'x'", f"TRUNCATE {AUDIT}"):
                assert by_hand(connection, (statement,)) == "23514"
            assert by_hand(connection, (f"ALTER TABLE {AUDIT} DISABLE TRIGGER ALL",)) == "42501"
            drops = ("DROP FUNCTION reconciliation_append_only() CASCADE", f"DELETE FROM {AUDIT}")
            assert by_hand(connection, drops) is None
            assert by_hand(connection, (f"DROP TABLE {AUDIT} CASCADE",)) is None
        assert applied.sql(f"SELECT to_regclass('{AUDIT}')") == [(None,)]
    finally:
        applied.sql("REASSIGN OWNED BY of_the_schema TO CURRENT_USER")
        applied.sql("DROP OWNED BY of_the_schema")
        applied.sql("DROP ROLE of_the_schema")
