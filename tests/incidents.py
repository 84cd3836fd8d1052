"""A small incident on a real database: a backend's `orders`, an exchange's statement folder, a real pause switch.

A test builds it row by row and fill by fill, runs stages on it, and reads back what the database holds. What it reads
back (`open_quantities`, `bystanders`, ...) is asked in plain SQL, never through the code under test.
"""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import bystanders
import pytest
import sqlalchemy as sa

from recon import audit
from recon.database import connect, transaction
from recon.domain import Stage, StageResult, Verdict
from recon.doors.roles import create_doors
from recon.errors import Refused
from recon.incident import run_stage
from recon.pause import read_pause
from recon.plan import Scope
from recon.settings import Settings
from recon.stages.approve import approve, approve_rollback
from recon.stages.release import Approval
from recon.venues.rows import FILL_COLUMNS, OPEN_ORDER_COLUMNS, POSITION_COLUMNS
from recon.venues.statement import StatementExchange
from recon.workspace import Workspace

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
"""The clock of every stage, unless a test lets the server's clock run."""

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
"""Minute 0 of every incident."""

MINIMAL = {
    "order_id": "text NOT NULL", "profile_id": "text", "symbol": "text", "trade_id": "text", "action": "text",
    "status": "text", "quantity": "numeric", "qty": "numeric", "price": "numeric", "filled_at": "timestamptz",
    "created_at": "timestamptz", "updated_at": "timestamptz",
}  # fmt: skip
"""The required columns (design section 5) in the widest types."""

EXTENDED = MINIMAL | {"side": "text", "exchange_order_id": "text", "client_order_id": "text"}
"""And those that are used when present."""

UNIQUE = "UNIQUE (order_id)"
EVERYTHING = Scope()


def at(minutes: float) -> datetime:
    """The instant so many minutes after the incident's start."""
    return START + timedelta(minutes=minutes)


def workspace(
    engine: sa.Engine,
    exchange: StatementExchange,
    status_url: str,
    now: datetime | None = NOW,
    scope: Scope = EVERYTHING,
    **flags: object,
) -> Workspace:
    """A workspace with the flags that apply needs."""
    given: dict[str, Any] = {
        "enable_recon_exit_backfill": True, "recon_exit_backfill_dry_run": False,
        "recon_exit_backfill_lookback_hours": 200_000, "recon_actor": "tester",
    }  # fmt: skip
    settings = Settings(_env_file=None, **(given | flags))  # type: ignore[call-arg]
    return Workspace(settings, engine, exchange, status_url, scope, now)


class PauseSwitch(ThreadingHTTPServer):
    """A real status server. It answers `word`, unless `script` has something for this request: a word, or a function
    that is called before answering and returns one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Status)
        self.word = "PAUSED"
        self.script: list[str | Callable[[], str]] = []
        self.asked = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Status(BaseHTTPRequestHandler):
    server: PauseSwitch

    def do_GET(self) -> None:
        switch = self.server
        switch.asked += 1
        answer = switch.script.pop(0) if switch.script else switch.word
        body = (answer if isinstance(answer, str) else answer()).encode()
        with suppress(ConnectionError):  # whoever asked may not have waited
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def pause_switch() -> Iterator[PauseSwitch]:
    """A switch that says PAUSED, on loopback, until the block ends."""
    with PauseSwitch() as switch:
        thread = threading.Thread(target=switch.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield switch
        finally:  # or the thread would outlive a test that fails, and keep Python from ending
            switch.shutdown()
            thread.join()


def patience() -> AbstractContextManager[object]:
    """The switch may take longer than two seconds to answer: how fast the machine is decides nothing."""
    return mock.patch("recon.workspace.read_pause", partial(read_pause, timeout_seconds=60))


class HookedStatement(StatementExchange):
    """The statement itself; `before` is called each time it is about to be read."""

    before: Callable[[], object] = staticmethod(lambda: None)

    def fetch(self, *args: Any, **options: Any) -> Any:
        self.before()
        return super().fetch(*args, **options)


class Incident:
    """One profile's table, statement and switch, and the stages run on them."""

    def __init__(self, database: str | sa.Engine, folder: Path, switch: PauseSwitch) -> None:
        """`database` is a URL, or an engine that is there already."""
        self.folder = folder
        self.switch = switch
        self.engine = connect(database) if isinstance(database, str) else database
        self.url = self.engine.url.render_as_string(hide_password=False)
        self.backend = sa.create_engine(
            self.engine.url,
            poolclass=sa.NullPool,
            connect_args={"options": "-c TimeZone=UTC", "prepare_threshold": None},
        )
        bystanders.watch(self.backend)
        self.exchange = HookedStatement(str(folder))
        self.profile = "main"
        self.batch = "incident-1"
        self.columns: dict[str, str] = {}
        self.fills: list[dict[str, Any]] = []
        self.positions: list[dict[str, Any]] | None = []
        self.open_orders: list[dict[str, Any]] | None = []
        self.about: str | None = None
        self.behind_doors = os.environ.get("RECON_TEST_DOORS") == "1"
        self.has_doors = False

    # The backend's side

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run one statement as the backend would, committed; returns the rows, if it gives any."""
        with self.backend.begin() as connection:
            result = connection.exec_driver_sql(statement, tuple(values))
            return list(result) if result.returns_rows else []

    def create_table(
        self,
        columns: Mapping[str, str] = EXTENDED,
        *,
        unique: str = UNIQUE,
        name: str = "orders",
        own_tables: bool = True,
        doors: bool | None = None,
    ) -> Incident:
        """Create `orders` with the columns, and recon's own tables; with `doors`, the doors that hold the roles."""
        self.columns = dict(columns)
        cells = ", ".join(f'"{column}" {kind}' for column, kind in columns.items()).replace("%", "%%")
        self.sql(f"CREATE TABLE {name} ({', '.join(filter(None, [cells, unique]))})")
        if own_tables:
            with transaction(self.engine) as connection:
                audit.create_tables(connection)
        if own_tables and (self.behind_doors if doors is None else doors):
            with suppress(*(() if doors else (Refused,))):  # a table that cannot be worked on has no doors
                self.make_doors()
        return self

    def make_doors(self) -> Incident:
        """Create the roles and the doors, whose clock is that of the last workspace."""
        self.sql("CREATE TABLE IF NOT EXISTS clock AS SELECT CAST(%s AS timestamptz) AS instant", NOW)
        with transaction(self.engine) as connection:
            schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
            create_doors(connection, clock=f"coalesce((SELECT instant FROM {schema}.clock), clock_timestamp())")
        self.sql("GRANT SELECT ON clock TO PUBLIC")
        self.has_doors = True
        return self

    def tamper(self, statement: str, *values: object) -> None:
        """Run a statement as a superuser can who takes every trigger of recon's tables off for it."""
        with self.backend.begin() as connection:
            tables = ("reconciliation_backfill_audit", "reconciliation_batches")
            for table in tables:
                connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            connection.exec_driver_sql(statement, tuple(values))
            enabled = (
                "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger WHERE tgname LIKE 'reconciliation%%'"
            )
            for table, name in connection.exec_driver_sql(enabled).all():
                connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")

    def row(
        self, order_id: str, trade_id: str | None, action: str, quantity: object, minute: float = 0, /, **cells: object
    ) -> str:
        """Insert a filled row; `cells` overrides or adds columns. Returns its order_id."""
        values: dict[str, object] = {
            "order_id": order_id, "profile_id": self.profile, "symbol": "BTC/USD", "trade_id": trade_id,
            "action": action, "status": "filled", "quantity": quantity, "qty": quantity, "price": "100",
            "filled_at": at(minute), "created_at": at(minute), "updated_at": at(minute),
            "side": "buy" if action == "ENTRY" else "sell", "exchange_order_id": f"X-{order_id}",
        } | cells  # fmt: skip
        used = {name: value for name, value in values.items() if name in self.columns}
        names = ", ".join(f'"{name}"' for name in used).replace("%", "%%")
        self.sql(f"INSERT INTO orders ({names}) VALUES ({', '.join(['%s'] * len(used))})", *used.values())
        return order_id

    def ghost(
        self,
        trade_id: str,
        quantity: object = "1",
        *,
        symbol: str = "BTC/USD",
        opened: float = 0,
        closed: float = 60,
        short: bool = False,
        order: str | None = None,
        filled: object | None = None,
        price: object = "110",
        **cells: object,
    ) -> None:
        """A trade whose ENTRY is there and whose EXIT was lost: only the exchange has its fill."""
        sides = ("sell", "buy") if short else ("buy", "sell")
        self.row(f"entry-{trade_id}", trade_id, "ENTRY", quantity, opened, symbol=symbol, side=sides[0], **cells)
        self.fill(order or f"exit-{trade_id}", filled or quantity, closed, symbol=symbol, side=sides[1], price=price)

    # The exchange's side

    def fill(self, order: str, qty: object, minute: float, /, **cells: object) -> None:
        """Add a fill to the statement and write it."""
        fill_id = f"f{len(self.fills) + 1}"
        row = {
            "fill_id": fill_id, "exchange_order_id": order, "client_order_id": "", "symbol": "BTC/USD", "side": "sell",
            "qty": qty, "price": "110", "fee": "", "fee_currency": "", "filled_at": at(minute).isoformat(),
        }  # fmt: skip
        self.fills.append(row | cells)
        self.write_statement()

    def hold(self, symbol: str, qty: object) -> None:
        """Let the exchange hold a position."""
        assert self.positions is not None
        self.positions.append({"symbol": symbol, "qty": qty})
        self.write_statement()

    def write_statement(self) -> None:
        """Write the folder as it stands; None leaves a file out."""
        self.folder.mkdir(exist_ok=True)
        _write(self.folder / "fills.csv", FILL_COLUMNS, self.fills)
        _write(self.folder / "positions.csv", POSITION_COLUMNS, self.positions)
        _write(self.folder / "open_orders.csv", OPEN_ORDER_COLUMNS, self.open_orders)
        if self.about is not None:
            (self.folder / "statement.json").write_text(self.about, encoding="utf-8")

    # Recon's side

    def work(self, *, now: datetime | None = NOW, scope: Scope = EVERYTHING, **flags: object) -> Workspace:
        """See `workspace`; `now` None lets the server's clock run. The doors go by the same clock."""
        if self.has_doors:
            self.sql("UPDATE clock SET instant = %s", now)
        return workspace(self.engine, self.exchange, self.switch.url, now, scope, **flags)

    def run(self, stage: Stage | str, batch: str | None = None, *, work: Workspace | None = None) -> StageResult:
        """Run one stage as notebooks and the command line do."""
        return run_stage(work or self.work(), Stage(stage), self.profile, batch or self.batch)

    def approve(
        self,
        *acknowledge: str,
        batch: str | None = None,
        work: Workspace | None = None,
        by: str = "a reviewer",
        key: Path | None = None,
    ) -> Approval:
        """Approve the batch's plan."""
        return approve(work or self.work(), batch or self.batch, by, acknowledge, key=key)

    def approve_rollback(
        self,
        *,
        batch: str | None = None,
        work: Workspace | None = None,
        by: str = "a reviewer",
        key: Path | None = None,
    ) -> Approval:
        """Approve that the batch's rows be canceled."""
        return approve_rollback(work or self.work(), batch or self.batch, by, key=key)

    def plan(self, *acknowledge: str, batch: str | None = None, work: Workspace | None = None) -> StageResult:
        """Detect, dry-run, approve; returns the dry run's result."""
        assert self.run("detect", batch, work=work).verdict is Verdict.DONE
        planned = self.run("dry-run", batch, work=work)
        assert planned.code is None, planned.message
        self.approve(*acknowledge, batch=batch, work=work)
        return planned

    def repair(self, *acknowledge: str, batch: str | None = None, work: Workspace | None = None) -> StageResult:
        """The whole way from detect to a successful apply; returns apply's result."""
        self.plan(*acknowledge, batch=batch, work=work)
        applied = self.run("apply", batch, work=work)
        assert applied.verdict is Verdict.DONE, applied.message
        return applied

    # What is there, in plain SQL

    def open_quantities(self) -> dict[str, Decimal]:
        """The runbook's section 1 query, both signs: open quantity by trade, zero left out."""
        rows = self.sql(
            """SELECT trade_id::text, sum(CASE action::text WHEN 'ENTRY' THEN 1 WHEN 'EXIT' THEN -1 ELSE 0 END
                   * coalesce(quantity, qty, 0)::numeric) AS open_qty
               FROM orders WHERE profile_id::text = %s AND trade_id IS NOT NULL
               AND status::text IN ('filled', 'partially_filled', 'partially-filled')
               GROUP BY profile_id, symbol, trade_id""",
            self.profile,
        )
        return {trade_id: qty for trade_id, qty in rows if qty != 0}

    def backfills(self, columns: str = "*") -> list[dict[str, Any]]:
        """The profile's BFILL rows by time and id."""
        with self.backend.connect() as connection:
            found = connection.exec_driver_sql(
                f"SELECT {columns} FROM orders WHERE profile_id::text = %s AND order_id LIKE 'BFILL-%%' "
                "ORDER BY filled_at, order_id",
                (self.profile,),
            )
            return [dict(row) for row in found.mappings()]

    def statuses(self) -> list[str]:
        """The statuses of the BFILL rows, by time and id."""
        return [row["status"] for row in self.backfills()]

    def bystanders(self) -> str:
        """Invariant 1: every row that recon did not write, to the last byte, of every profile."""
        return self.digest("SELECT o::text AS row FROM orders AS o WHERE order_id NOT LIKE 'BFILL-%%'")

    def backfill_content(self) -> str:
        """Invariant 1: the BFILL rows but for the two columns that may ever change."""
        return self.digest(
            """SELECT (to_jsonb(o) - 'status' - 'updated_at')::text AS row FROM orders AS o
               WHERE order_id LIKE 'BFILL-%%'"""
        )

    def orders(self) -> str:
        """Every row of the table, to the last byte."""
        return self.digest("SELECT o::text AS row FROM orders AS o")

    def everything(self) -> str:
        """Every row of `orders` and of recon's three tables."""
        tables = ("orders", "reconciliation_backfill_audit", "reconciliation_batches", "reconciliation_events")
        return self.digest(" UNION ALL ".join(f"SELECT '{name}' || t::text AS row FROM {name} AS t" for name in tables))

    def digest(self, rows: str) -> str:
        """The number of the rows that a query gives (one column, `row`), and a hash over them in any order."""
        [(count, content)] = self.sql(
            f"SELECT count(*), md5(string_agg(row, E'\\n' ORDER BY row COLLATE \"C\")) FROM ({rows}) AS r"
        )
        return f"{count}:{content}"

    def state(self, batch: str | None = None) -> str | None:
        """The batch's state; None when there is no such batch."""
        found = self.sql("SELECT state FROM reconciliation_batches WHERE batch_id = %s", batch or self.batch)
        return found[0][0] if found else None

    def audit(self, columns: str, batch: str | None = None) -> list[tuple[Any, ...]]:
        """The batch's audit rows in the order they were written."""
        found = self.sql(
            f"SELECT {columns} FROM reconciliation_backfill_audit WHERE batch_id = %s ORDER BY ctid",
            batch or self.batch,
        )
        return [tuple(row) for row in found]


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]] | None) -> None:
    path.unlink(missing_ok=True)
    if rows is not None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def empty(engine: sa.Engine) -> None:
    """Make the database as good as new: no schema but an empty public one, no settings, no other connection."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
        connection.commit()
        connection.exec_driver_sql(
            """DO $$ DECLARE name text; BEGIN
                 PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid();
                 FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' LOOP
                   EXECUTE format('DROP SCHEMA %%I CASCADE', name);
                 END LOOP;
                 CREATE SCHEMA public;
                 GRANT USAGE ON SCHEMA public TO public;
                 EXECUTE format('ALTER DATABASE %%I RESET ALL', current_database());
               END $$"""
        )
        connection.commit()


@contextmanager
def an_incident(database: str | sa.Engine, folder: Path) -> Iterator[Incident]:
    """An incident on an empty database; no table yet, an empty statement, a switch that says PAUSED."""
    with pause_switch() as switch:
        incident = Incident(database, folder / "statement", switch)
        incident.write_statement()
        try:
            yield incident
        finally:
            bystanders.leave(incident.backend)


def refusal(call: Callable[[], object]) -> Refused:
    """The `Refused` that a call raises; anything else fails the test."""
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.exit_status == 3
    return caught.value
