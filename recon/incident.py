"""One stage of one batch, as notebooks and the command line see it.

Entry point: `open_incident`. A refusal or a failure that a person can put right is a result that the notebook
shows; the guard is inside the stage, never a cell before it. Programming errors propagate.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from decimal import Context, localcontext
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa

from recon import batches, demo
from recon.batches import Action
from recon.database import shown_url, transaction
from recon.domain import Cell, Stage, StageResult, State, Table, Verdict
from recon.doors.access import behind, for_reading, protection
from recon.doors.names import Role
from recon.errors import ReconError
from recon.identity import advisory_key, check_batch_id
from recon.plan import EXACT
from recon.record import write_record
from recon.settings import Settings, load_settings
from recon.stages.apply import apply
from recon.stages.approve import approve
from recon.stages.detect import detect
from recon.stages.dry_run import dry_run
from recon.stages.rollback import rollback
from recon.stages.validate import validate
from recon.workspace import (
    RUN_VARIABLE,
    Workspace,
    demo_settings,
    open_workspace,
    passed_by_runner,
    reset_demo,
)

STAGES: Mapping[Stage, Callable[[Workspace, str, str], StageResult]] = {
    Stage.DETECT: detect,
    Stage.DRY_RUN: dry_run,
    Stage.APPLY: apply,
    Stage.VALIDATE: validate,
    Stage.ROLLBACK: rollback,
}
"""The stages in the order of the runbook."""

OUTCOME_ATTEMPTS = 20
"""How often `commit_outcome` asks again, a quarter of a second apart, while the transaction still runs."""

FILTERED = ("row-level security", "decides which rows of orders are seen here: what its policies hide counts nowhere")
"""In the run card where a policy may keep rows from recon, among them some that spend fills."""

ROLES: Mapping[Stage, tuple[Role, ...]] = {
    Stage.DETECT: (Role.PLANNER, Role.READER),
    Stage.DRY_RUN: (Role.PLANNER,),
    Stage.APPLY: (Role.APPLIER,),
    Stage.VALIDATE: (Role.PLANNER,),
    Stage.ROLLBACK: (Role.UNDOER,),
}
"""The role that a stage takes behind the doors; a reader's detect writes nothing."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One stage of one batch, opened; `card` says where and how it runs."""

    stage: Stage
    profile_id: str
    batch_id: str
    work: Workspace
    card: Table

    def run(self) -> StageResult:
        """Run the stage; writes what the stage writes. Refusals and failures are results, not exceptions.

        Within a run, what the database holds afterwards is also written to the folder that the runner named; if that
        folder cannot be written, the runner says so in its place.
        """
        result = run_stage(self.work, self.stage, self.profile_id, self.batch_id)
        if kept := passed_by_runner().get("record"):
            with suppress(OSError):
                write_record(Path(kept), _as_far_as_it_may(self.work, self.stage), self.profile_id, self.batch_id)
        return result


def open_incident(stage: str, profile_id: str, batch_id: str) -> Incident:
    """Open one stage with the settings of the environment; writes nothing to a configured database.

    Without settings, and outside a run, it opens the stage's own demo database, reset to just before the stage.
    Raises `UsageError` (malformed_batch_id, settings_invalid) and `ReconError` when the database is unreachable.
    """
    check_batch_id(batch_id)
    this = Stage(stage)
    settings = load_settings()
    if passed_by_runner().get("demo"):
        settings = demo_settings(settings)
    if settings.is_demo and RUN_VARIABLE not in os.environ:
        work = _rehearse(this, settings, profile_id, batch_id)
    else:
        work = open_workspace(this, settings)
    return Incident(this, profile_id, batch_id, work, _card(this, work, profile_id, batch_id))


def exact() -> AbstractContextManager[Context]:
    """A decimal context in which arithmetic raises instead of rounding (invariant 9)."""
    return localcontext(EXACT)


def run_stage(work: Workspace, stage: Stage, profile_id: str, batch_id: str) -> StageResult:
    """Run a stage in exact arithmetic; a `ReconError` becomes a NO_GO (refused) or FAILED result."""
    try:
        with exact():
            return STAGES[stage](_behind(work, stage), profile_id, batch_id)
    except ReconError as error:
        verdict = Verdict.NO_GO if error.exit_status == 3 else Verdict.FAILED
        return StageResult(stage, profile_id, batch_id, verdict, code=error.code, message=error.message)


def _behind(work: Workspace, stage: Stage) -> Workspace:
    return replace(work, engine=behind(work.engine, *ROLES[stage]))


def _as_far_as_it_may(work: Workspace, stage: Stage) -> Workspace:
    """The same; without the stage's role, which the stage itself tells, whichever role lets it read."""
    try:
        return _behind(work, stage)
    except ReconError:
        with suppress(ReconError):
            return replace(work, engine=for_reading(work.engine))
        return work


def _rehearse(stage: Stage, settings: Settings, profile_id: str, batch_id: str) -> Workspace:
    """The stage's own demo database, with every stage before it run afresh."""
    unsigned = {"recon_require_signature": False, "recon_require_second_person": False}  # nobody signs a rehearsal
    settings = settings.model_copy(update=unsigned)
    database = f"{demo.DEMO_PROFILE}_{stage.value.replace('-', '_')}"
    reset_demo(settings, database)
    before = {
        Stage.DETECT: (),
        Stage.DRY_RUN: (Stage.DETECT,),
        Stage.APPLY: (Stage.DETECT, Stage.DRY_RUN),
        Stage.VALIDATE: (Stage.DETECT, Stage.DRY_RUN, Stage.APPLY),
        Stage.ROLLBACK: (Stage.DETECT, Stage.DRY_RUN, Stage.APPLY),
    }[stage]
    for earlier in before:
        run_stage(open_workspace(earlier, settings, database=database), earlier, profile_id, batch_id)
        if earlier is Stage.DRY_RUN:
            approve_demo(open_workspace(None, settings, database=database), batch_id)
    return open_workspace(stage, settings, database=database)


def approve_demo(work: Workspace, batch_id: str) -> None:
    """Approve the demo's plan with the demo's own acknowledgements; writes."""
    with exact():
        approve(work, batch_id, demo.DEMO_REVIEWER, demo.acknowledgements())


def commit_outcome(stage: Stage, settings: Settings, batch_id: str) -> str:
    """One sentence on what became of an apply or rollback that did not tell; empty for other stages. Reads only.

    The batch's state changes in the same transaction as the rows, so it tells: committed, rolled back or unknown. A
    server that lost its client needs a moment to end the transaction, so it is asked again for some seconds.
    Interrupting it leaves it unknown.
    """
    action = {Stage.APPLY: Action.APPLY, Stage.ROLLBACK: Action.ROLLBACK}.get(stage)
    if action is None:
        return ""
    try:
        engine = for_reading(open_workspace(stage, settings).engine)
        state, idle = _state_and_idle(engine, batch_id)
        for _ in range(OUTCOME_ATTEMPTS):
            if idle or batches.is_behind(state, action):
                break
            time.sleep(0.25)
            state, idle = _state_and_idle(engine, batch_id)
    except (ReconError, KeyboardInterrupt) as error:
        why = getattr(error, "code", "interrupted")
        return f"Whether it committed is unknown ({why}); `recon status` tells when the database answers."
    if batches.is_behind(state, action):
        return f"The database says committed: the batch is {state}."
    if not idle:
        return "Whether it commits is unknown: its transaction is still running; ask `recon status` again."
    return f"The database says rolled back: the batch is {state or 'unknown here'}, and nothing was written."


def _state_and_idle(engine: sa.Engine, batch_id: str) -> tuple[State | None, bool]:
    """The batch's state, and whether no apply or rollback of its profile is running, looked at before the state."""
    with transaction(engine, read_only=True) as connection:
        batch = batches.load(connection, batch_id)
        key = sa.literal(advisory_key(batch.profile_id), sa.BigInteger)
        idle: bool = connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(key))).scalar_one()
        return batches.load(connection, batch_id).state, idle


def _card(stage: Stage, work: Workspace, profile_id: str, batch_id: str) -> Table:
    with transaction(_as_far_as_it_may(work, stage).engine, read_only=True) as connection:
        server = connection.execute(sa.text("SHOW server_version")).scalar_one()
        login = connection.execute(sa.text("SELECT session_user::text")).scalar_one()
        now = work.now(connection)
        found = protection(connection)
        is_filtered = connection.execute(sa.text("SELECT row_security_active(to_regclass('orders'))")).scalar_one()
    where = (
        f"embedded demo, database {work.engine.url.database}" if work.settings.is_demo else shown_url(work.engine.url)
    )
    flags = {
        name: f"{value} (the demo's, unset)" if name in work.assumed_flags else value
        for name, value in work.settings.flags().items()
    }
    required = work.settings.recon_exit_backfill_require_pause
    pause = "required" if required else "NOT required: this profile may be trading while it is repaired"
    rows: list[tuple[Cell, ...]] = [
        ("stage", stage.value),
        ("profile_id", profile_id),
        ("batch_id", batch_id),
        ("database", where),
        ("exchange", work.exchange.name if work.exchange else "none: RECON_EXCHANGE is unset"),
        ("trading status", _status_place(work)),
        ("narrowed to trades", ", ".join(work.scope.trade_ids) or "no"),
        ("narrowed to symbols", ", ".join(work.scope.symbols) or "no"),
        ("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC" + (" (the demo's, which stands still)" if work.fixed_now else "")),
        ("pause", pause),
        *flags.items(),
        ("doors", found.sentence()),
        ("audit trail", found.audit_sentence()),
        *([FILTERED] if is_filtered else []),
        ("database login", login),
        ("actor", work.actor),
        ("recon", version("recon")),
        ("Python", platform.python_version()),
        ("PostgreSQL", server),
    ]
    return Table("Run card", "Where and how this notebook ran.", ("name", "value"), tuple(rows))


def _status_place(work: Workspace) -> str:
    if work.status_url is None:
        return "none: RECON_TRADING_STATUS_URL is unset"
    return "the demo's, on loopback" if work.settings.recon_trading_status_url is None else "configured"
