"""Results and notebooks for the tests of the reports, made from the domain's own nouns."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from recon.domain import Check, Decision, Grade, Item, Reason, Side, Stage, StageResult, Table, Verdict
from recon.reporting.seal import seal
from recon.reporting.verify import verify_folder

NOTEBOOKS = Path(__file__).parent / "notebooks"
NASTY = 'T-1 <script>alert(1)</script> & "quoted" \U0001f680 $x_1$'
AT = datetime(2026, 3, 1, 9, 30, 0, 123000, tzinfo=UTC)

TABLE_NAMES = {
    Stage.DETECT: "open_lifecycles mismatches over_closed exits_without_trade symbol_spellings unowned_fills notes",
    Stage.DRY_RUN: "targets allocations conditions by_symbol unrecognised_rows fetched notes",
    Stage.APPLY: "applied left_open acknowledgements invariants transaction",
    Stage.VALIDATE: "targets runbook_open decision_counts events acknowledgements other_changes",
    Stage.ROLLBACK: "canceled left_alone lifecycles",
}


def table(rows: int, title: str = "A table") -> Table:
    """A table of so many rows, the first of them nasty."""
    cells = tuple((NASTY if not row else f"T-{row}", Decimal("10.50") * row, row, AT, None) for row in range(rows))
    return Table(title, "How to read it.", ("trade_id", "qty", "number", "at", "nothing"), cells)


def item(trade_id: str, reason: Reason, qty: str, grade: Grade | None = None) -> Item:
    """An item that writes a row."""
    return Item(
        trade_id,
        "BTC/USD",
        Side.SELL,
        Decision.DRY_RUN,
        reason,
        grade=grade,
        qty=Decimal(qty),
        price=Decimal("61250.120"),
        filled_at=AT,
        exchange_order_id="ex-1" if grade else None,
        order_id=f"BFILL-{'0' * 32}",
    )


def against(trade_id: str, reason: Reason) -> Item:
    """An item that stands against a trade."""
    return Item(trade_id, "BTC/USD", Side.SELL, Decision.NO_GO, reason, detail="Expected 0, found 1. Close it.")


def dry_run(*items: Item, verdict: Verdict = Verdict.GO, rows: int = 2) -> StageResult:
    """A dry run with every table of its stage and one target per trade of its items."""
    trades = dict.fromkeys(each.trade_id for each in items)
    targets = tuple(("BTC/USD", trade, Decimal(10), Decimal(6)) for trade in trades)
    tables = {name: table(rows, name) for name in TABLE_NAMES[Stage.DRY_RUN].split()}
    tables["targets"] = Table("Targets", "", ("symbol", "trade_id", "open_qty", "evidence_qty"), targets)
    return StageResult(
        Stage.DRY_RUN,
        "demo",
        "batch-1",
        verdict,
        plan_digest="ab" * 32,
        checks=(
            Check("paused", True, "PAUSED"),
            Check("no_target_is_no_go", verdict is Verdict.GO, "Expected none, found some."),
        ),
        counts={"NO_GO": 1, "DRY_RUN": 2},
        items=items,
        tables=tables,
    )


def done(stage: Stage, rows: int = 2) -> StageResult:
    """A finished stage with every table of its own."""
    tables = {name: table(rows, name) for name in TABLE_NAMES[stage].split()}
    facts = {"positions_compared": 1, "fills_compared": 1}
    checks = (Check("fine", True, "ok"),)
    return StageResult(stage, "demo", "batch-1", Verdict.DONE, checks=checks, tables=tables, facts=facts)


def refused(stage: Stage = Stage.APPLY) -> StageResult:
    """A stage that was refused, without any table."""
    return StageResult(
        stage, "demo", "batch-1", Verdict.NO_GO, code="stale_plan", message="The plan changed. Plan again."
    )


def executed(result: StageResult, *sources: str) -> NotebookNode:
    """A notebook as it is after a run: executed cells, the seal in the last one."""
    cells = [new_code_cell(source, execution_count=number) for number, source in enumerate(sources, start=1)]
    bundle = seal(result)._repr_mimebundle_()
    output = new_output("execute_result", data=bundle, execution_count=len(cells) + 1)
    cells.append(new_code_cell("seal(result)", execution_count=len(cells) + 1, outputs=[output]))
    notebook = new_notebook(cells=cells)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return notebook


def failed(folder: Path) -> dict[str, str]:
    """The details of the checks of a report folder that fail, by name."""
    return {check.name: check.detail for check in verify_folder(folder) if not check.ok}
