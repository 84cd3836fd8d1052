"""Whole repairs of real account fills, held against what is known to have been taken away (design section 13)."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa
from console import TOKEN, Console, assert_no_secret_in, clean_environment, stage_words, with_password
from incidents import EXTENDED, HookedStatement, Incident, PauseSwitch, pause_switch

from recon import audit
from recon.database import transaction
from recon.embedded import EmbeddedServer
from recon.reporting.result import result_json

TABLE = {name: kind for name, kind in EXTENDED.items() if name not in ("client_order_id", "exchange_order_id")}
WITH_IDS = TABLE | {"exchange_order_id": "text"}
UNIT_COUNTS = {"acct-a": 4, "acct-b": 280}


@dataclass
class Truth:
    """What was taken away on flat symbols, by the order_id that closes it: trade, quantity, instant.

    `left_open` is what must stay open of trades on flat symbols; those in `not_flat` must not be touched at all.
    """

    rows: dict[str, tuple[str, Decimal, datetime]] = field(default_factory=dict)
    left_open: dict[str, Decimal] = field(default_factory=dict)
    not_flat: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path) -> Truth:
        """The folder's truth.csv; the runbook's order_id is computed here anew, without recon."""
        truth = cls()
        taken: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
        for line in lines(folder / "truth.csv"):
            trade = line["trade_id"]
            if line["flat"] != "true":
                truth.not_flat.add(trade)
                continue
            if Decimal(line["open_after"]):
                truth.left_open[trade] = Decimal(line["open_after"])
            if line["exchange_order_id"]:
                taken[trade, line["exchange_order_id"], line["filled_at"]] += Decimal(line["qty"])
        for (trade, order, filled_at), qty in taken.items():
            text = f"{folder.name}:{trade}:{order}:{filled_at}"
            order_id = f"BFILL-{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"
            truth.rows[order_id] = (trade, qty, datetime.fromisoformat(filled_at))
        return truth

    def open_after(self, before: Mapping[str, Decimal]) -> dict[str, Decimal]:
        """What must be open after a repair of what was open before."""
        return self.left_open | {trade: qty for trade, qty in before.items() if trade in self.not_flat}

    def per_trade(self) -> dict[str, Decimal]:
        """What is to be closed of each trade."""
        closed: dict[str, Decimal] = defaultdict(Decimal)
        for trade, qty, _ in self.rows.values():
            closed[trade] += qty
        return dict(closed)


def lines(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table in a file."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


class Account(Incident):
    """A replayed account: its orders in an empty database, its statement where it lies."""

    def __init__(self, url: str, source: Path, switch: PauseSwitch, *, with_ids: bool, own_tables: bool) -> None:
        super().__init__(url, source, switch)
        self.profile = source.name
        self.exchange = HookedStatement(str(source))
        self.create_table(WITH_IDS if with_ids else TABLE, own_tables=own_tables)
        rows = [
            {name: value or None for name, value in line.items() if name in self.columns}
            for line in lines(source / "orders.csv")
        ]
        with self.backend.begin() as connection:
            connection.execute(sa.table("orders", *map(sa.column, rows[0])).insert(), rows)

    def lifecycles(self) -> str:
        """A digest of every lifecycle, open, closed or over-closed."""
        return self.digest(
            """SELECT concat_ws('|', profile_id, symbol, trade_id,
                   trim_scale(sum(CASE action WHEN 'ENTRY' THEN coalesce(quantity, qty, 0) ELSE 0 END)),
                   trim_scale(sum(CASE action WHEN 'EXIT' THEN coalesce(quantity, qty, 0) ELSE 0 END))) AS row
               FROM orders WHERE status IN ('filled', 'partially_filled', 'partially-filled')
               GROUP BY profile_id, symbol, trade_id"""
        )

    def closing_rows(self) -> dict[str, tuple[str, Decimal, datetime]]:
        """The filled BFILL rows by order_id, each checked to be a plain EXIT: trade, quantity, instant."""
        found = {}
        for row in self.backfills():
            assert (row["action"], row["qty"], row["updated_at"] is None) == ("EXIT", row["quantity"], False)
            if row["status"] == "filled":
                found[row["order_id"]] = (row["trade_id"], row["quantity"], row["filled_at"])
        return found


class Door(Protocol):
    """A way to run the stages of a batch."""

    def stage(self, stage: str, batch: str) -> dict[str, Any]: ...
    def approve(self, batch: str, acknowledge: Sequence[str]) -> None: ...


@dataclass
class InProcess:
    """Through `recon.incident.run_stage`."""

    account: Account

    def stage(self, stage: str, batch: str) -> dict[str, Any]:
        return result_json(self.account.run(stage, batch, work=self.account.work(now=None)))

    def approve(self, batch: str, acknowledge: Sequence[str]) -> None:
        self.account.approve(*acknowledge, batch=batch, work=self.account.work(now=None))


EXIT_STATUS = {"GO": 0, "DONE": 0, "NO_GO": 3, "FAILED": 1}


@dataclass
class CommandLine:
    """Through the installed `recon`, each command a process of its own."""

    account: Account
    console: Console
    reports: Path

    def stage(self, stage: str, batch: str) -> dict[str, Any]:
        answer = self.console(*stage_words(stage, self.account.profile, batch), "--json")
        assert answer.status == EXIT_STATUS[answer.json["verdict"]], answer
        return answer.json

    def approve(self, batch: str, acknowledge: Sequence[str]) -> None:
        words = ["approve", "--batch-id", batch, "--by", "a reviewer"]
        assert "acknowledgements_missing" in self.console(*words).err
        answer = self.console(*words, *(word for text in acknowledge for word in ("--acknowledge", text)))
        assert answer.status == 0, answer


def repair(door: Door, batch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Detect, dry-run, approve with every acknowledgement needed, apply, validate; what was planned and what done."""
    assert door.stage("detect", batch)["verdict"] == "DONE"
    planned = door.stage("dry-run", batch)
    assert (planned["verdict"], planned.get("code")) == ("NO_GO", None)
    refused = sorted({item["trade_id"] for item in planned["items"] if item["decision"] == "NO_GO"})
    door.approve(batch, [f"{trade_id}=not a ghost" for trade_id in refused])
    applied = door.stage("apply", batch)
    assert (applied["verdict"], applied.get("code")) == ("DONE", None)
    validated = door.stage("validate", batch)
    assert (validated["verdict"], [check for check in validated["checks"] if not check["ok"]]) == ("DONE", [])
    return planned, applied


def reasons(result: dict[str, Any]) -> dict[str, set[str]]:
    """The reasons of each trade."""
    found: dict[str, set[str]] = defaultdict(set)
    for item in result["items"]:
        found[item["trade_id"]].add(item["reason"])
    return dict(found)


def check_whole_way(account: Account, door: Door, again_by: Door, truth: Truth) -> None:
    """Repair, roll back, repair again under another batch; after each the database is exactly what it must be."""
    fresh, bystanders, before = account.orders(), account.bystanders(), account.lifecycles()
    open_after = truth.open_after(account.open_quantities())
    planned, applied = repair(door, "first")
    assert account.closing_rows() == truth.rows
    assert applied["counts"]["APPLIED"] == len(truth.rows) == len(account.backfills())
    assert account.open_quantities() == open_after
    assert account.bystanders() == bystanders
    why = reasons(planned)
    assert {trade for trade, codes in why.items() if "exchange_not_flat" in codes} == truth.not_flat
    assert all("fill_evidence" not in why[trade] for trade in truth.not_flat)
    assert all(why[trade] == {"fill_evidence"} for trade in truth.per_trade() if trade not in truth.left_open)

    rolled_back = door.stage("rollback", "first")
    assert (rolled_back["verdict"], rolled_back["counts"]["CANCELED"]) == ("DONE", len(truth.rows))
    assert (account.lifecycles(), account.bystanders(), account.closing_rows()) == (before, bystanders, {})
    assert account.orders() != fresh  # nothing is deleted: the rows are there, canceled

    again, _ = repair(again_by, "second")
    assert {item["reason"] for item in again["items"] if item["decision"] == "DRY_RUN"} == {"reinstate"}
    assert account.closing_rows() == truth.rows
    assert (account.open_quantities(), account.bystanders()) == (open_after, bystanders)
    assert len(account.backfills()) == len(truth.rows)


@dataclass
class Fresh:
    """Makes accounts in databases of their own."""

    servers: Callable[[str], EmbeddedServer]
    switch: PauseSwitch
    replay: Path
    made: int = 0

    def __call__(self, name: str, version: str, *, with_ids: bool, own_tables: bool = True) -> Account:
        server = self.servers(version)
        self.made += 1
        server.create_database(f"replay_{self.made}")
        source = self.replay / name
        return Account(server.url(f"replay_{self.made}"), source, self.switch, with_ids=with_ids, own_tables=own_tables)


@pytest.fixture(scope="module")
def fresh(servers: Callable[[str], EmbeddedServer], replay: Path) -> Iterator[Fresh]:
    """Empty databases on any version, with one account each."""
    with pause_switch() as switch:
        yield Fresh(servers, switch, replay)


@pytest.mark.parametrize(
    ("name", "version", "with_ids"),
    [("acct-a", "pg18", True), ("acct-a", "pg15", True), ("acct-b", "pg18", False)],
    ids=["a with ids on 18", "a with ids on 15", "b without ids on 18"],
)
def test_through_the_command_line(fresh, tmp_path, name, version, with_ids) -> None:
    """The second repair of the first account too; of the others in one process, to save time."""
    account = fresh(name, version, with_ids=with_ids, own_tables=False)
    reports = tmp_path / "reports"
    settings = {
        "RECON_DATABASE_URL": with_password(account.url),
        "RECON_EXCHANGE": f"statement:{account.folder}",
        "RECON_TRADING_STATUS_URL": account.switch.url,
        "RECON_TRADING_STATUS_TOKEN": TOKEN,
        "RECON_REPORTS_DIR": str(reports),
        "RECON_HOME": str(tmp_path / "home"),
        "RECON_EXIT_BACKFILL_LOOKBACK_HOURS": "200000",
        "ENABLE_RECON_EXIT_BACKFILL": "true",
        "RECON_EXIT_BACKFILL_DRY_RUN": "false",
    }
    console = Console(clean_environment() | settings, tmp_path)
    assert console("init").status == 0
    truth = Truth.read(account.folder)
    assert len(truth.rows) == UNIT_COUNTS[name]
    door = CommandLine(account, console, reports)
    once_more = (name, version) == ("acct-a", "pg18")
    check_whole_way(account, door, door if once_more else InProcess(account), truth)
    for batch in ("first", "second") if once_more else ("first",):
        assert console.inside("verify", str(reports / batch)).status == 0
    told = 3 * 4  # what the exchange told each of four stages: fills, positions, and the statement about them
    held = 3 + 3  # a stage's report, and its record: facts, audit rows, order rows
    first = 3 + 5 * held + told + 3 + 4  # beside the description, the approval after the apply, and older manifests
    second = 3 + 4 * held + told + 2 + 3
    assert assert_no_secret_in(reports) == first + once_more * second
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "version", "with_ids"),
    [("acct-a", "pg18", False), ("acct-a", "pg15", False), ("acct-b", "pg18", True), ("acct-b", "pg15", False)],
    ids=["a without ids on 18", "a without ids on 15", "b with ids on 18", "b without ids on 15"],
)
def test_in_one_process(fresh, name, version, with_ids) -> None:
    account = fresh(name, version, with_ids=with_ids)
    check_whole_way(account, InProcess(account), InProcess(account), Truth.read(account.folder))


@pytest.mark.parametrize("with_ids", [True, False], ids=["with ids", "without ids"])
def test_the_fee_of_a_spot_trade_is_named_and_left_open(fresh, with_ids) -> None:
    account = fresh("acct-a", "pg18", with_ids=with_ids)
    door = InProcess(account)
    assert door.stage("detect", "fee")["verdict"] == "DONE"
    planned = door.stage("dry-run", "fee")
    assert reasons(planned)["acct-a-107-1"] == {"missing_fill_evidence_for_large_remainder", "residual_is_base_fee"}
    [fee] = [item for item in planned["items"] if item["reason"] == "residual_is_base_fee"]
    assert (fee["decision"], fee["qty"], fee["order_id"]) == ("NO_GO", "3.50139761", None)


@pytest.mark.parametrize("with_ids", [True, False], ids=["with ids", "without ids"])
def test_overlapping_trades_are_closed_exactly_and_98_of_100_units_as_they_were(fresh, capsys, with_ids) -> None:
    """In acct-g every ENTRY order is a trade of its own: which unit closed which trade has to be inferred."""
    account = fresh("acct-g", "pg18", with_ids=with_ids)
    truth, before = Truth.read(account.folder), account.lifecycles()
    bystanders, open_after = account.bystanders(), truth.open_after(account.open_quantities())
    door = InProcess(account)
    repair(door, "first")
    rows = account.closing_rows()
    closed: dict[str, Decimal] = defaultdict(Decimal)
    for trade, qty, _ in rows.values():
        closed[trade] += qty
    assert dict(closed) == truth.per_trade()
    assert (account.open_quantities(), account.bystanders()) == (open_after, bystanders)
    right = sum(rows.get(order_id) == row for order_id, row in truth.rows.items())
    share = Decimal(right) / len(truth.rows)
    ids = "with" if with_ids else "without"
    with capsys.disabled():
        sys.stdout.write(
            f" acct-g {ids} exchange_order_id: {right} of {len(truth.rows)} units as in truth, {share:.1%} "
        )
    assert share >= Decimal("0.98")
    assert door.stage("rollback", "first")["verdict"] == "DONE"
    assert (account.lifecycles(), account.bystanders()) == (before, bystanders)


def test_recons_own_tables_are_made_by_init_alone(fresh) -> None:
    """The control of the first test: without `recon init` a replay is refused."""
    account = fresh("acct-a", "pg18", with_ids=True, own_tables=False)
    assert InProcess(account).stage("detect", "b")["code"] == "audit_unavailable"
    with transaction(account.engine) as connection:
        audit.create_tables(connection)
    assert InProcess(account).stage("detect", "b")["verdict"] == "DONE"
