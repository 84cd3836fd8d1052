"""recon's own tables: what each stage leaves in the audit trail, and what a backend's own audit table keeps."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from incidents import EXTENDED, NOW, Incident, at

from recon import audit, events
from recon.database import transaction
from recon.domain import Reason, Verdict
from recon.events import Mismatch
from recon.identity import backfill_order_id

RUNBOOK = (
    "batch_id text, profile_id text, symbol text, trade_id text, decision text, reason text, filled_qty numeric, "
    "backfill_order_id text, exchange_client_order_id text, created_at timestamptz DEFAULT now(), "
    "reverted_at timestamptz"
)
"""The columns that the runbook's queries name, as a backend may have made them."""


def test_what_each_stage_leaves_in_the_audit_trail(incident: Incident) -> None:
    """Design section 7: dry-run DRY_RUN and NO_GO; approve PENDING_APPLY; apply APPLIED and NO_GO; detect nothing.

    t1 has a client id and closes; t2 has no fill; each row carries all that the runbook and section 5 ask for.
    """
    incident.create_table().ghost("t1")
    incident.fills[0]["client_order_id"] = "client-7"
    incident.row("e2", "t2", "ENTRY", "5", 0, symbol="ETH/USD")
    incident.write_statement()
    order_id = backfill_order_id("main", "t1", "exit-t1", at(60))
    written = ("BTC/USD", "t1", "fill_evidence", Decimal(1), order_id, "client-7", "exit-t1", at(60), Decimal(110))
    unwritten = ("ETH/USD", "t2", Reason.MISSING_FILL_EVIDENCE, Decimal(5), None, None, None, None, None)
    columns = (
        "symbol, trade_id, reason, filled_qty, backfill_order_id, exchange_client_order_id, exchange_order_id, "
        "evidence_filled_at, price"
    )
    expected = []
    for stage, rows in {
        "detect": [],
        "dry-run": [("DRY_RUN", written), ("NO_GO", unwritten)],
        "approve": [("PENDING_APPLY", written)],
        "apply": [("APPLIED", written), ("NO_GO", unwritten)],
        "validate": [],
    }.items():
        result = incident.run(stage) if stage != "approve" else incident.approve("t2=moved to another wallet")
        expected += [(decision, *cells) for decision, cells in rows]
        assert incident.audit(f"decision, {columns}") == expected, stage
    digest = result.plan_digest
    who = {"DRY_RUN": "tester", "NO_GO": "tester", "PENDING_APPLY": "a reviewer", "APPLIED": "tester"}
    for decision, *rest in incident.audit("decision, profile_id, plan_digest, actor, created_at, reverted_at"):
        assert rest == ["main", digest, who[decision], NOW, None]


def test_applying_again_appends_skip_existing_and_a_rollback_marks_every_row_once(incident: Incident) -> None:
    """The audit table is append-only but for reverted_at, which is set once (design section 5)."""
    incident.create_table().ghost("t1")
    incident.repair()
    before = incident.audit("*")
    assert incident.run("apply").counts == {"SKIP_EXISTING": 1}
    assert incident.audit("*")[:-1] == before
    assert [row[0] for row in incident.audit("decision")] == ["DRY_RUN", "PENDING_APPLY", "APPLIED", "SKIP_EXISTING"]
    but_for_the_mark = "to_jsonb(reconciliation_backfill_audit) - 'reverted_at'"
    unmarked = incident.audit(but_for_the_mark)
    assert incident.run("rollback").verdict is Verdict.DONE
    assert incident.audit("reverted_at") == [(NOW,)] * 4
    later = incident.work(now=NOW + timedelta(hours=1))
    assert incident.run("rollback", work=later).verdict is Verdict.DONE
    assert incident.audit("reverted_at") == [(NOW,)] * 4, "set once"
    assert incident.audit(but_for_the_mark) == unmarked


def test_a_mark_that_is_there_already_is_kept(incident: Incident) -> None:
    """A row that somebody marked by hand keeps its instant."""
    incident.create_table().ghost("t1")
    incident.repair()
    incident.tamper("UPDATE reconciliation_backfill_audit SET reverted_at = %s WHERE decision = 'DRY_RUN'", at(0))
    incident.run("rollback")
    assert dict(incident.audit("decision, reverted_at")) == {"DRY_RUN": at(0), "PENDING_APPLY": NOW, "APPLIED": NOW}


def _create(incident: Incident) -> list[str]:
    with transaction(incident.engine) as connection:
        return audit.create_tables(connection)


def test_creating_the_tables_again_runs_nothing(incident: Incident) -> None:
    assert len(_create(incident)) == 6 + 7, "three tables, three indexes, two triggers with their function"
    assert _create(incident) == []


def test_what_would_be_run_is_told_without_running_it(incident: Incident) -> None:
    with transaction(incident.engine, read_only=True) as connection:
        told = audit.ddl(connection) + audit.trail_ddl(connection)
    assert incident.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert _create(incident) == told


def test_where_no_trigger_may_be_made_the_tables_are_there_all_the_same(incident_each_version: Incident) -> None:
    """A table of the backend's, of which this login is not the owner: a comment says what does not hold it."""
    incident_each_version.create_table()
    incident_each_version.sql("DROP TRIGGER reconciliation_append_only ON reconciliation_backfill_audit")
    with incident_each_version.engine.connect() as connection:
        connection.exec_driver_sql("CREATE ROLE someone_else")
        connection.exec_driver_sql("SET LOCAL ROLE someone_else")
        [told] = audit.create_tables(connection)
        connection.rollback()
    assert told.startswith("-- the audit table is not held append-only: ")


def test_an_existing_audit_table_gets_the_missing_columns_and_nothing_else(incident_each_version: Incident) -> None:
    """Its rows, keys, defaults and index stay; what is added is nullable; a whole repair then works on it."""
    incident = incident_each_version.create_table(own_tables=False)
    incident.sql(
        f"CREATE TABLE reconciliation_backfill_audit (id bigserial PRIMARY KEY, {RUNBOOK}, note text DEFAULT 'n')"
    )
    incident.sql("CREATE INDEX theirs ON reconciliation_backfill_audit (batch_id)")
    incident.sql(
        "INSERT INTO reconciliation_backfill_audit (batch_id, profile_id, decision) VALUES ('old', 'main', 'APPLIED')"
    )
    shape = """SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns
               WHERE table_name = 'reconciliation_backfill_audit' ORDER BY ordinal_position"""
    before, row = incident.sql(shape), incident.audit("*", "old")
    indexes = incident.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'reconciliation_backfill_audit'")
    ran = [text for text in _create(incident) if text.startswith("ALTER") and "ADD" in text]
    assert ran == [
        f"ALTER TABLE reconciliation_backfill_audit ADD COLUMN {column}"
        for column in (
            "exchange_order_id TEXT", "evidence_filled_at TIMESTAMP WITH TIME ZONE", "price NUMERIC",
            "plan_digest TEXT", "actor TEXT",
        )
    ]  # fmt: skip
    after = incident.sql(shape)
    assert after[: len(before)] == before
    assert {nullable for _, _, nullable, _ in after[len(before) :]} == {"YES"}
    assert incident.audit("*", "old") == [(*row[0], None, None, None, None, None)]
    assert incident.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'reconciliation_backfill_audit'") == indexes
    incident.ghost("t1")
    incident.repair()
    assert incident.run("rollback").verdict is Verdict.DONE
    assert incident.audit("note") == [("n",)] * 3
    assert incident.audit("reverted_at", "old") == [(None,)]


def test_an_audit_table_with_types_of_its_own_works(incident: Incident) -> None:
    """uuid ids, an enum of decisions, double precision quantities, NOT NULL where every row has a value."""
    profile, trade = "7f1c2f6e-4a57-4c39-9f0e-1a2b3c4d5e6f", "0b5e1c1a-9d1f-4f0e-8c7e-5a5b5c5d5e5f"
    incident.profile = profile
    incident.create_table(EXTENDED | {"profile_id": "uuid", "trade_id": "uuid"}, own_tables=False)
    incident.sql("CREATE TYPE decision AS ENUM ('DRY_RUN', 'NO_GO', 'PENDING_APPLY', 'APPLIED', 'SKIP_EXISTING')")
    incident.sql(
        """CREATE TABLE reconciliation_backfill_audit (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
           batch_id varchar(64) NOT NULL, profile_id uuid NOT NULL, symbol varchar(20) NOT NULL, trade_id uuid NOT NULL,
           decision decision NOT NULL, reason text NOT NULL, filled_qty double precision NOT NULL,
           backfill_order_id varchar(40), exchange_client_order_id text, created_at timestamp NOT NULL,
           reverted_at timestamp)"""
    )
    _create(incident)
    incident.ghost(trade, "0.3")
    incident.repair()
    for stage in ("apply", "validate", "rollback"):
        assert incident.run(stage).verdict is Verdict.DONE
    assert {(str(p), q) for p, q in incident.audit("profile_id, filled_qty")} == {(profile, 0.3)}
    assert incident.audit("created_at")[0][0] == NOW.replace(tzinfo=None)


def test_without_the_tables_detect_says_which_command_makes_them(incident: Incident) -> None:
    incident.create_table(own_tables=False).ghost("t1")
    result = incident.run("detect")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "audit_unavailable")
    assert "recon init" in (result.message or "")


@pytest.mark.parametrize(
    "spoil",
    [
        "ALTER TABLE reconciliation_backfill_audit DROP COLUMN price",
        "ALTER TABLE reconciliation_backfill_audit ADD CHECK (decision <> 'NO_GO')",
        "ALTER TABLE reconciliation_backfill_audit ADD COLUMN theirs int NOT NULL",
        "DROP TABLE reconciliation_backfill_audit",
    ],
)
def test_an_audit_table_that_cannot_be_written_stops_the_whole_batch(incident: Incident, spoil: str) -> None:
    """Runbook section 6; the control is every other test: with the table in order the same incident is GO."""
    if incident.behind_doors and spoil.startswith("DROP"):
        pytest.skip("the doors depend on the table: PostgreSQL does not drop it without them")
    incident.create_table().ghost("t1")
    incident.run("detect")
    incident.sql(spoil)
    result = incident.run("dry-run")
    assert result.verdict is Verdict.NO_GO
    assert {item.reason for item in result.items} == {Reason.AUDIT_UNAVAILABLE}
    assert [check.name for check in result.checks if not check.ok] == [
        "candidates_present",
        "no_target_is_no_go",
        "audit_writable",
    ]
    if not spoil.startswith("DROP"):
        assert incident.audit("1") == [], "the probe was taken back"


def test_a_server_in_trouble_says_nothing_of_the_audit_table(incident: Incident) -> None:
    """A full disk is no reason against the trades: the dry run fails, and nothing is recorded."""
    incident.create_table().ghost("t1")
    incident.run("detect")
    incident.sql(
        """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"""
    )
    incident.sql("CREATE TRIGGER full_disk BEFORE INSERT ON reconciliation_backfill_audit EXECUTE FUNCTION full_disk()")
    result = incident.run("dry-run")
    assert (result.verdict, result.code, result.items) == (Verdict.FAILED, "database_unreachable", ())
    assert "(no space left)" in (result.message or "")
    assert (incident.state(), incident.audit("1")) == ("detected", [])


@pytest.mark.parametrize(("qty", "refused"), [("1.123456789", True), ("1.12345678", False)])
def test_an_audit_table_that_would_round_is_refused_with_the_ddl_that_helps(
    incident: Incident, qty: str, refused: bool
) -> None:
    incident.create_table().ghost("t1", qty)
    incident.sql("ALTER TABLE reconciliation_backfill_audit ALTER filled_qty TYPE numeric(18,8)")
    incident.run("detect")
    result = incident.run("dry-run")
    assert (result.verdict, result.code) == ((Verdict.NO_GO, "audit_unavailable") if refused else (Verdict.GO, None))
    assert ("ALTER filled_qty TYPE numeric" in (result.message or "")) is refused
    assert incident.state() == ("detected" if refused else "planned")


def test_the_probe_leaves_no_row(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    incident.run("dry-run")
    assert incident.sql("SELECT DISTINCT batch_id FROM reconciliation_backfill_audit") == [(incident.batch,)]


# Mismatch events


def _events(incident: Incident) -> list[tuple[object, ...]]:
    found = incident.sql(
        """SELECT profile_id, symbol, db_open_qty, exchange_qty, batch_id, created_at FROM reconciliation_events
           ORDER BY created_at, symbol"""
    )
    return [tuple(row) for row in found]


def test_events_are_throttled_per_symbol(incident: Incident) -> None:
    """EXCHANGE_STATE_MISMATCH_THROTTLE_MS is 300,000 by default: one event per symbol in five minutes, at most."""
    incident.create_table().ghost("t1")
    incident.hold("DOT/USD", "-3")
    incident.run("detect")
    first = [("main", "BTC/USD", 1, 0, incident.batch, NOW), ("main", "DOT/USD", 0, -3, incident.batch, NOW)]
    assert _events(incident) == first
    just_within = NOW + timedelta(minutes=5) - timedelta(microseconds=1)
    incident.run("detect", work=incident.work(now=just_within))
    incident.run("detect", "another-batch", work=incident.work(now=just_within))
    assert len(_events(incident)) == 2
    incident.hold("ADA/USD", "1")
    incident.run("detect", work=incident.work(now=just_within))
    assert len(_events(incident)) == 3, "a symbol that was silent so far"
    after = NOW + timedelta(minutes=5)
    incident.run("detect", "another-batch", work=incident.work(now=after))
    assert [event[1:] for event in _events(incident)[3:]] == [
        ("BTC/USD", 1, 0, "another-batch", after),
        ("DOT/USD", 0, -3, "another-batch", after),
    ]


def test_without_throttle_every_detect_and_validate_writes_its_events(incident: Incident) -> None:
    """The control of the test above."""
    incident.create_table().ghost("t1")
    incident.hold("DOT/USD", "1")
    work = incident.work(exchange_state_mismatch_throttle_ms=0)
    for expected in (2, 4):
        incident.run("detect", work=work)
        assert len(_events(incident)) == expected
    incident.run("dry-run", work=work)
    incident.approve(work=work)
    incident.run("apply", work=work)
    assert len(_events(incident)) == 4, "neither a dry run nor an apply writes events"
    assert incident.run("validate", work=work).verdict is Verdict.DONE
    assert [event[1] for event in _events(incident)[4:]] == ["DOT/USD"], "BTC/USD agrees now"


def test_another_profile_has_a_throttle_of_its_own(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    incident.profile = "other"
    incident.ghost("t1-other")
    incident.run("detect", "other-batch")
    assert [event[0] for event in _events(incident)] == ["main", "other"]


def test_two_that_look_at_once_write_one_event(incident: Incident) -> None:
    """The second waits for the first, then finds its event; without waiting both would find silence."""
    incident.create_table()
    mismatch = [Mismatch("BTC/USD", Decimal(1), Decimal(0))]
    written: list[int] = []

    def record(connection: sa.Connection) -> int:
        throttle = timedelta(minutes=5)
        return events.record_events(connection, "main", "b", mismatch, throttle=throttle, now=NOW)

    def second() -> None:
        with transaction(incident.engine) as connection:
            written.append(record(connection))

    thread = threading.Thread(target=second)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with transaction(incident.engine) as connection:
        assert record(connection) == 1
        thread.start()
        while not incident.sql(waits)[0][0]:
            assert thread.is_alive(), "it waits"
    thread.join(60)
    assert written == [0]
