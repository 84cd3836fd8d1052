"""What a stage works with: settings, database, exchange, pause switch and clock.

Entry point: `open_workspace`. Without RECON_DATABASE_URL everything that is unset is the embedded demo's, and
its clock stands still; with it, an unset exchange or status URL stays unknown (rules.md 10).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from recon import audit, demo, embedded
from recon.criteria import Rules
from recon.database import connect, server_clock, transaction
from recon.domain import NOTHING_SPECIAL, Reason, Snapshot, Stage, Wanted, Window
from recon.doors.roles import create_doors
from recon.errors import ReconError, Refused
from recon.orders import Orders
from recon.pause import PauseAnswer, PauseState, read_pause
from recon.plan import Scope
from recon.settings import Settings, load_settings
from recon.venues import Exchange, open_exchange
from recon.venues.archive import write_statement

RUN_VARIABLE = "RECON_RUN"
"""Set by the runner in the kernels it starts: JSON with the scope of the run. Its presence marks a real run."""

DEMO_DATABASE = "demo"
"""The demo database that `recon run` and `recon demo` share; notebooks opened by hand have their own."""

DEMO_FLAGS: Mapping[Stage, Mapping[str, bool]] = {
    Stage.DRY_RUN: {"enable_recon_exit_backfill": True},
    Stage.APPLY: {"enable_recon_exit_backfill": True, "recon_exit_backfill_dry_run": False},
}
"""The flags that a stage needs; on the embedded demo alone they stand in for unset ones (design of rules.md 10)."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Everything outside that a stage may touch; `fixed_now` is the demo's clock, None elsewhere."""

    settings: Settings
    engine: Engine
    exchange: Exchange | None
    status_url: str | None
    scope: Scope = field(default_factory=Scope)
    fixed_now: datetime | None = None
    assumed_flags: tuple[str, ...] = ()

    def now(self, connection: Connection) -> datetime:
        """The demo's fixed instant, else the database server's clock; reads only."""
        return self.fixed_now or server_clock(connection)

    @property
    def actor(self) -> str:
        """Who is recorded as having done it."""
        return self.settings.recon_actor

    @property
    def rules(self) -> Rules:
        """The settings that decide."""
        settings = self.settings
        return Rules(
            settings.recon_exit_backfill_dust_abs_qty,
            settings.recon_exit_backfill_dust_rel_pct,
            settings.recon_exit_backfill_base_fee,
        )

    def fetch(
        self, profile_id: str, now: datetime, wanted: Wanted = NOTHING_SPECIAL, window: Window | None = None
    ) -> Snapshot | None:
        """What the exchange says; None when none is configured. Raises `Refused` when it cannot be read in full.

        Within a run, it is also written to the folder that the runner named: the evidence is kept beside the report.
        """
        if self.exchange is None:
            return None
        lookback = timedelta(hours=self.settings.recon_exit_backfill_lookback_hours)
        snapshot = self.exchange.fetch(profile_id, now=now, lookback=lookback, window=window, wanted=wanted)
        if kept := passed_by_runner().get("evidence"):
            try:
                write_statement(Path(kept), snapshot, profile_id)
            except OSError as error:
                raise ReconError(
                    "reports_unwritable",
                    f"The evidence cannot be kept beside the report ({error.strerror}), and is not used without. Make "
                    "room there, or name another folder in RECON_REPORTS_DIR.",
                ) from None
        return snapshot

    def pause(self, profile_id: str, *, attempts: int = 3) -> PauseAnswer:
        """What the pause switch answers; never raises for trouble on the way."""
        token = self.settings.recon_trading_status_token
        secret = token.get_secret_value() if token else None
        return read_pause(self.status_url, profile_id, token=secret, attempts=attempts)

    def pause_reasons(self, answer: PauseAnswer) -> dict[Reason, str]:
        """The batch-wide reason that the answer is, if it is one; none when the pause is not required."""
        if answer.state is PauseState.PAUSED or not self.settings.recon_exit_backfill_require_pause:
            return {}
        unknown = answer.state is PauseState.UNKNOWN
        return {Reason.PAUSE_UNKNOWN if unknown else Reason.PROFILE_NOT_PAUSED: answer.detail}


def open_workspace(
    stage: Stage | None = None, settings: Settings | None = None, *, database: str = DEMO_DATABASE
) -> Workspace:
    """The workspace that the settings describe, with the scope that the runner passed.

    On the embedded demo it starts the server and, once, loads the incident into `database`. Raises `UsageError`
    for settings that do not parse and `ReconError` when the server does not start.
    """
    settings = settings or load_settings()
    if settings.is_demo:
        return _demo_workspace(stage, settings, database)
    url = settings.recon_database_url
    engine = connect(url.get_secret_value() if url else "")
    status = settings.recon_trading_status_url
    return Workspace(
        settings,
        engine,
        open_exchange(settings, engine=engine),
        status.get_secret_value() if status else None,
        run_scope(),
    )


def _demo_workspace(stage: Stage | None, settings: Settings, database: str) -> Workspace:
    with home_in_use(settings):
        folder = demo.write_statement(settings.recon_home / "demo" / "statement")
    server = embedded.start(settings.recon_home)
    if not server.has_database(database):
        reset_demo(settings, database)
    engine = connect(server.url(database))
    status = settings.recon_trading_status_url
    missing = {
        name: value
        for name, value in (DEMO_FLAGS.get(stage, {}) if stage else {}).items()
        if name not in settings.model_fields_set
    }
    return Workspace(
        settings.model_copy(update=missing),
        engine,
        open_exchange(settings, engine=engine, demo_folder=folder),
        status.get_secret_value() if status else demo.start_pause_server(),
        run_scope(),
        demo.DEMO_NOW,
        tuple(name.upper() for name in missing),
    )


@contextmanager
def home_in_use(settings: Settings) -> Iterator[None]:
    """Turns what the system refuses in the block into a `ReconError` (home_unwritable)."""
    try:
        yield
    except OSError as error:
        raise ReconError(
            "home_unwritable",
            f"RECON_HOME, {settings.recon_home}, cannot be written ({error.strerror}). Make it writable, or name "
            "another.",
        ) from None


def reset_demo(settings: Settings, database: str = DEMO_DATABASE) -> None:
    """Drop a demo database and load the incident afresh; writes nowhere but in the embedded server."""
    server = embedded.start(settings.recon_home)
    server.drop_database(database)
    server.create_database(database)
    engine = connect(server.url(database))
    demo.load_demo(engine)
    with transaction(engine) as connection:
        audit.create_tables(connection)
        create_doors(connection, clock=f"timestamptz '{demo.DEMO_NOW.isoformat()}'")


def demo_settings(settings: Settings) -> Settings:
    """The demo's settings, whatever is configured: defaults, with this machine's folders and actor."""
    return Settings.model_construct(
        recon_home=settings.recon_home,
        recon_reports_dir=settings.recon_reports_dir,
        recon_actor=settings.recon_actor,
    )


def passed_by_runner() -> dict[str, Any]:
    """What the runner passed to this kernel: its scope, and whether it is the demo; empty outside a run."""
    passed: dict[str, Any] = json.loads(os.environ.get(RUN_VARIABLE, "{}"))
    return passed


def run_scope() -> Scope:
    """The scope that the runner passed to this kernel; everything when there is none."""
    passed = passed_by_runner()
    return Scope(tuple(passed.get("trade_ids", ())), tuple(passed.get("symbols", ())))


def reflect(connection: Connection, profile_id: str) -> Orders:
    """The orders table, checked, with at least one row of the profile.

    Raises `Refused` (orders_unsuitable, unknown_profile).
    """
    orders = Orders.reflect(connection)
    if not orders.has_rows(connection, profile_id):
        seen, more = "has no row in orders", ""
        hidden = sa.text("SELECT row_security_active(to_regclass('orders')), current_user::text")
        is_filtered, user = connection.execute(hidden).one()
        if is_filtered:
            seen = f"has no row in orders that {user} may see: row-level security is on"
            more = f" If it is right, let a policy on orders show {user} every row of the profile; ask `recon doctor`."
        raise Refused("unknown_profile", f"Profile {profile_id!r} {seen}. Check the name; it is case-sensitive.{more}")
    return orders
