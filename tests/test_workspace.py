"""What a stage works with: the demo where nothing is configured, and only what is configured elsewhere."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from console import PASSWORD, clean_environment, with_password
from incidents import Incident

from recon import audit, demo
from recon.database import transaction
from recon.domain import Reason, Stage, Verdict
from recon.errors import Refused, UsageError
from recon.identity import advisory_key
from recon.incident import OUTCOME_ATTEMPTS, STAGES, commit_outcome, open_incident, run_stage
from recon.pause import PauseState
from recon.plan import Scope
from recon.settings import Settings
from recon.workspace import (
    DEMO_FLAGS,
    RUN_VARIABLE,
    demo_settings,
    open_workspace,
    reflect,
    reset_demo,
    run_scope,
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo_home: Path) -> pytest.MonkeyPatch:
    """The demo's home in an otherwise empty environment, in a folder without `.env`."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("RECON_HOME", str(demo_home))
    monkeypatch.setenv("RECON_ACTOR", "tester")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def configured(incident: Incident, **more: object) -> Settings:
    """Settings that name the incident's database and nothing else, unless told."""
    return Settings(_env_file=None, recon_database_url=with_password(incident.url), **more)  # type: ignore[call-arg]


# Without a database: the demo


def test_nothing_configured_is_the_demo_with_everything_it_needs() -> None:
    work = open_workspace()
    assert work.settings.is_demo
    assert work.fixed_now == demo.DEMO_NOW
    assert work.exchange is not None
    assert work.exchange.name == "statement of the demo"
    assert work.pause(demo.DEMO_PROFILE).state is PauseState.PAUSED
    with transaction(work.engine, read_only=True) as connection:
        assert work.now(connection) == demo.DEMO_NOW
        assert reflect(connection, demo.DEMO_PROFILE).has_rows(connection, demo.DEMO_PROFILE)
        assert audit.ddl(connection) == []


@pytest.mark.parametrize("stage", list(Stage))
def test_a_flag_that_is_unset_takes_what_the_stage_needs_and_the_card_says_so(stage) -> None:
    work = open_workspace(stage)
    assert set(work.assumed_flags) == {name.upper() for name in DEMO_FLAGS.get(stage, {})}
    assert {name: getattr(work.settings, name) for name in DEMO_FLAGS.get(stage, {})} == DEMO_FLAGS.get(stage, {})
    if stage in (Stage.DRY_RUN, Stage.APPLY):
        assert work.settings.enable_recon_exit_backfill is True
    assert work.settings.recon_exit_backfill_dry_run is (stage is not Stage.APPLY)


def test_a_flag_that_is_set_is_obeyed_on_the_demo_too(environment) -> None:
    environment.setenv("RECON_EXIT_BACKFILL_DRY_RUN", "true")
    environment.setenv("ENABLE_RECON_EXIT_BACKFILL", "true")
    work = open_workspace(Stage.APPLY)
    assert work.assumed_flags == ()
    refused = run_stage(work, Stage.APPLY, demo.DEMO_PROFILE, "flag-set")
    assert (refused.verdict, refused.code) == (Verdict.NO_GO, "dry_run_only")


def test_the_demos_settings_forget_what_is_configured_but_not_where_things_lie(incident, tmp_path, demo_home) -> None:
    hostile = configured(
        incident, recon_home=demo_home, recon_reports_dir=tmp_path, recon_actor="a person",
        recon_exchange="table:a,b", enable_recon_exit_backfill=False, recon_max_batch_rows=1,
    )  # fmt: skip
    settings = demo_settings(hostile)
    assert settings.is_demo
    assert (settings.recon_home, settings.recon_reports_dir, settings.recon_actor) == (demo_home, tmp_path, "a person")
    assert (settings.recon_exchange, settings.recon_max_batch_rows) == (None, 10_000)
    assert open_workspace(Stage.DRY_RUN, settings).assumed_flags == ("ENABLE_RECON_EXIT_BACKFILL",)


def test_a_reset_brings_the_incident_back(environment) -> None:
    settings = open_workspace().settings
    reset_demo(settings, "demo_reset")
    work = open_workspace(settings=settings, database="demo_reset")
    with work.engine.begin() as connection:
        fresh = reflect(connection, demo.DEMO_PROFILE).digest(connection, demo.DEMO_PROFILE)
        connection.execute(sa.text("DELETE FROM orders WHERE trade_id = 'still-held'"))
    reset_demo(settings, "demo_reset")
    with transaction(work.engine, read_only=True) as connection:
        assert reflect(connection, demo.DEMO_PROFILE).digest(connection, demo.DEMO_PROFILE) == fresh


# With a database: nothing is assumed


def test_with_a_database_an_unset_exchange_and_status_url_stay_unknown(incident) -> None:
    incident.create_table().row("e1", "T1", "ENTRY", 1)
    work = open_workspace(Stage.APPLY, configured(incident))
    assert (work.exchange, work.status_url, work.fixed_now, work.assumed_flags) == (None, None, None, ())
    assert work.settings.enable_recon_exit_backfill is False
    assert work.fetch("main", demo.DEMO_NOW) is None
    answer = work.pause("main")
    assert answer.state is PauseState.UNKNOWN
    assert work.pause_reasons(answer) == {Reason.PAUSE_UNKNOWN: answer.detail}


def test_with_a_database_and_nothing_else_a_dry_run_names_both_unknowns(incident) -> None:
    incident.create_table().row("e1", "T1", "ENTRY", 1)
    work = open_workspace(Stage.DRY_RUN, configured(incident, enable_recon_exit_backfill=True))
    assert run_stage(work, Stage.DETECT, "main", "b").verdict is Verdict.DONE
    planned = run_stage(work, Stage.DRY_RUN, "main", "b")
    assert planned.verdict is Verdict.NO_GO
    assert {item.reason.value for item in planned.items} == {
        "exchange_position_unknown", "pause_unknown", "missing_fill_evidence_for_large_remainder",
    }  # fmt: skip


def test_a_pause_that_is_not_required_is_no_reason(incident) -> None:
    work = open_workspace(settings=configured(incident, recon_exit_backfill_require_pause=False))
    assert work.pause_reasons(work.pause("main")) == {}


def test_another_word_than_paused_is_a_reason_of_its_own(incident) -> None:
    incident.switch.word = "RUNNING"
    work = open_workspace(settings=configured(incident, recon_trading_status_url=incident.switch.url))
    assert list(work.pause_reasons(work.pause("main"))) == [Reason.PROFILE_NOT_PAUSED]


def test_the_clock_is_the_database_servers(incident) -> None:
    work = open_workspace(settings=configured(incident))
    with transaction(work.engine) as connection:
        before = incident.sql("SELECT clock_timestamp()")[0][0]
        now = work.now(connection)
        after = incident.sql("SELECT clock_timestamp()")[0][0]
    assert before <= now <= after
    assert now.utcoffset().total_seconds() == 0


def test_a_profile_without_rows_is_refused(incident) -> None:
    incident.create_table().row("e1", "T1", "ENTRY", 1)
    with transaction(incident.engine) as connection, pytest.raises(Refused) as caught:
        reflect(connection, "Main")
    assert caught.value.code == "unknown_profile"


@pytest.mark.parametrize("spec", ["nonsense", "statement:", "table:a", "table:a,", "ccxt:", "ccxt:nosuch", "file:x"])
def test_an_exchange_that_does_not_exist_is_a_usage_error(incident, spec) -> None:
    with pytest.raises(UsageError) as caught:
        open_workspace(settings=configured(incident, recon_exchange=spec))
    assert (caught.value.code, caught.value.exit_status) == ("exchange_unknown", 2)


# What the runner passes


def test_the_scope_comes_from_the_runner_and_is_everything_without_one(environment) -> None:
    assert run_scope() == Scope()
    environment.setenv(RUN_VARIABLE, json.dumps({"trade_ids": ["a=b", "c d"], "symbols": ["BTC/USD"], "demo": False}))
    assert run_scope() == Scope(("a=b", "c d"), ("BTC/USD",))
    assert open_workspace().scope == Scope(("a=b", "c d"), ("BTC/USD",))


# Opening a stage


def card(stage: str = "detect", profile_id: str = "demo", batch_id: str = "card") -> dict[object, object]:
    """The run card's names and values."""
    return dict(open_incident(stage, profile_id, batch_id).card.rows)  # type: ignore[arg-type]


def test_the_run_card_says_where_and_how(environment) -> None:
    environment.setenv(RUN_VARIABLE, json.dumps({"trade_ids": ["T1", "T2"]}))
    rows = card("apply")
    assert (rows["stage"], rows["profile_id"], rows["batch_id"], rows["actor"]) == ("apply", "demo", "card", "tester")
    assert rows["database"] == "embedded demo, database demo"
    assert rows["trading status"] == "the demo's, on loopback"
    assert rows["narrowed to trades"] == "T1, T2"
    assert rows["ENABLE_RECON_EXIT_BACKFILL"] == "true (the demo's, unset)"
    assert rows["RECON_EXIT_BACKFILL_DRY_RUN"] == "false (the demo's, unset)"
    assert rows["RECON_EXIT_BACKFILL_LOOKBACK_HOURS"] == "72"
    assert rows["clock"] == "2026-03-02 12:00:00 UTC (the demo's, which stands still)"


def test_the_run_card_of_a_configured_database_shows_no_secret(environment, incident) -> None:
    incident.create_table()
    environment.setenv("RECON_DATABASE_URL", with_password(incident.url))
    environment.setenv("RECON_TRADING_STATUS_URL", f"http://user:{PASSWORD}@127.0.0.1:1")
    environment.setenv("RECON_TRADING_STATUS_TOKEN", PASSWORD)
    environment.setenv("RECON_EXCHANGE", f"statement:{incident.folder}")
    rows = card()
    assert PASSWORD not in repr(rows)
    assert rows["database"] == f"local socket/{incident.engine.url.database}"
    assert rows["exchange"] == "statement:statement", "as seen from the project's root"
    assert rows["trading status"] == "configured"
    assert (rows["narrowed to trades"], rows["narrowed to symbols"]) == ("no", "no")
    assert "demo" not in str(rows["clock"])


def test_the_run_card_says_when_policies_decide_which_rows_are_seen(environment, incident) -> None:
    """A row that is hidden may spend fills that another is then given."""
    incident.create_table()
    name = f"reader_{uuid.uuid4().hex[:8]}"
    incident.sql(f"CREATE ROLE {name} LOGIN")
    try:
        incident.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        environment.setenv(
            "RECON_DATABASE_URL", incident.engine.url.set(username=name).render_as_string(hide_password=False)
        )
        environment.setenv("RECON_EXCHANGE", f"statement:{incident.folder}")
        assert card()["database login"] == name
        assert "row-level security" not in card()
        incident.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
        assert "what its policies hide counts nowhere" in card()["row-level security"]
    finally:
        incident.sql(f"DROP OWNED BY {name}")
        incident.sql(f"DROP ROLE {name}")


def test_the_run_card_says_in_plain_words_that_the_pause_is_not_required(environment) -> None:
    assert "not checked" not in repr(card())
    environment.setenv("RECON_EXIT_BACKFILL_REQUIRE_PAUSE", "false")
    assert "this profile may be trading while it is repaired" in repr(card())


def test_a_malformed_batch_is_refused_before_anything_is_opened(environment) -> None:
    environment.setenv("RECON_HOME", "/dev/null/nowhere")
    with pytest.raises(UsageError) as caught:
        open_incident("detect", "demo", "../../x")
    assert caught.value.code == "malformed_batch_id"


VERDICTS = {"detect": "DONE", "dry-run": "NO_GO", "apply": "DONE", "validate": "DONE", "rollback": "DONE"}


@pytest.mark.parametrize("stage", VERDICTS)
def test_a_notebook_opened_by_hand_rehearses_its_stage_again_and_again(stage) -> None:
    """Each has its own demo database, reset to just before the stage: the same facts, the same result."""
    incident = open_incident(stage, demo.DEMO_PROFILE, demo.DEMO_BATCH)
    first = incident.run()
    assert (first.verdict.value, first.code) == (VERDICTS[stage], None)
    assert incident.work.engine.url.database == f"demo_{stage.replace('-', '_')}"
    again = open_incident(stage, demo.DEMO_PROFILE, demo.DEMO_BATCH).run()
    for part in ("verdict", "plan_digest", "counts", "items", "facts", "tables", "message"):
        assert getattr(again, part) == getattr(first, part), part
    if stage == "dry-run":
        found: dict[str, set[Reason]] = {}
        for item in first.items:
            found.setdefault(item.trade_id, set()).add(item.reason)
        assert found == demo.EXPECTED


def test_a_run_marked_by_the_runner_uses_the_shared_demo_database(environment) -> None:
    environment.setenv(RUN_VARIABLE, "{}")
    assert open_incident("validate", demo.DEMO_PROFILE, "b").work.engine.url.database == "demo"


def test_a_run_marked_as_the_demo_leaves_a_configured_database_aside(environment) -> None:
    environment.setenv("RECON_DATABASE_URL", "nonsense")
    environment.setenv(RUN_VARIABLE, json.dumps({"demo": True}))
    assert open_incident("detect", demo.DEMO_PROFILE, "b").work.engine.url.database == "demo"


def test_a_configured_database_is_never_rehearsed_on(environment, incident) -> None:
    """An analyst who opens the apply notebook on a real database gets the real stage, which refuses out of order."""
    incident.create_table().row("e1", "T1", "ENTRY", 1)
    environment.setenv("RECON_DATABASE_URL", incident.url)
    environment.setenv("ENABLE_RECON_EXIT_BACKFILL", "true")
    environment.setenv("RECON_EXIT_BACKFILL_DRY_RUN", "false")
    before = incident.everything()
    opened = open_incident("apply", "main", "b")
    assert (opened.work.engine.url.database, opened.work.fixed_now) == (incident.engine.url.database, None)
    refused = opened.run()
    assert (refused.verdict, refused.code) == (Verdict.NO_GO, "illegal_transition")
    assert incident.everything() == before


def test_the_stages_are_those_of_the_runbook_in_its_order() -> None:
    assert [stage.value for stage in STAGES] == list(VERDICTS)


def test_a_failure_a_person_can_mend_is_a_result_and_a_defect_is_not(incident) -> None:
    work = incident.work()
    incident.sql("CREATE TABLE orders (order_id text)")
    refused = run_stage(work, Stage.DETECT, "main", "b")
    assert (refused.verdict, refused.code, refused.tables) == (Verdict.NO_GO, "audit_unavailable", {})
    with pytest.raises(AttributeError):
        run_stage(None, Stage.DETECT, "main", "b")  # type: ignore[arg-type]


# What became of a commit that nobody reported


@pytest.fixture
def settled(incident: Incident) -> Settings:
    """An approved batch on one ghost."""
    incident.create_table().ghost("T1")
    incident.plan()
    return configured(incident)


def test_before_the_commit_the_database_says_rolled_back(incident, settled) -> None:
    said = commit_outcome(Stage.APPLY, settled, incident.batch)
    assert said == "The database says rolled back: the batch is approved, and nothing was written."
    assert commit_outcome(Stage.ROLLBACK, settled, incident.batch).startswith("The database says rolled back: ")


def test_after_the_commit_it_says_committed(incident, settled) -> None:
    incident.run("apply")
    assert commit_outcome(Stage.APPLY, settled, incident.batch) == "The database says committed: the batch is applied."
    incident.run("validate")
    assert (
        commit_outcome(Stage.APPLY, settled, incident.batch) == "The database says committed: the batch is validated."
    )
    assert commit_outcome(Stage.ROLLBACK, settled, incident.batch).startswith("The database says rolled back: ")
    incident.tamper("UPDATE reconciliation_batches SET state = 'signed'")
    assert commit_outcome(Stage.APPLY, settled, incident.batch) == "The database says committed: the batch is signed."
    incident.run("rollback")
    for stage in (Stage.APPLY, Stage.ROLLBACK):
        said = commit_outcome(stage, settled, incident.batch)
        assert said == "The database says committed: the batch is rolled_back."


def test_while_the_transaction_still_runs_it_is_unknown(incident, settled, monkeypatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("recon.incident.time.sleep", waits.append)
    with transaction(incident.engine) as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(advisory_key(incident.profile))))
        said = commit_outcome(Stage.APPLY, settled, incident.batch)
    assert said == "Whether it commits is unknown: its transaction is still running; ask `recon status` again."
    assert waits == [0.25] * OUTCOME_ATTEMPTS


def test_a_server_that_needs_a_moment_to_end_it_is_asked_again(incident, settled, monkeypatch) -> None:
    """It learns late that its client is gone; until then nobody can say what becomes of the transaction."""
    with incident.engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(advisory_key(incident.profile))))
        monkeypatch.setattr("recon.incident.time.sleep", lambda _: connection.rollback())
        said = commit_outcome(Stage.APPLY, settled, incident.batch)
    assert said == "The database says rolled back: the batch is approved, and nothing was written."


def test_without_an_answer_it_is_unknown(incident, settled) -> None:
    url = f"postgresql://u:{PASSWORD.replace('@', '%40').replace('/', '%2F')}@127.0.0.1:1/d"
    nowhere = Settings(_env_file=None, recon_database_url=url)  # type: ignore[call-arg]
    said = commit_outcome(Stage.APPLY, nowhere, incident.batch)
    assert said.startswith("Whether it committed is unknown (database_unreachable); ")
    assert PASSWORD not in said
