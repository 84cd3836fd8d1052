"""Tables for notebooks: complete, escaped, the same bytes for the same rows.

The HTML comes from a small template with autoescape, not from pandas: `DataFrame.to_html` has neither captions nor
alignment by column and shortens by global options, Styler does not escape by default, and great_tables would be one
more dependency with several kilobytes of CSS in every table. pandas is here for `table_frame`, so that an analyst
can go on with the same rows. Nothing in here writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from recon.domain import Cell, Decision, StageResult, Table
from recon.identity import canonical_decimal, canonical_time
from recon.reporting.markup import STYLE, fill
from recon.reporting.result import ITEM_KEYS, printable
from recon.wording import count

if TYPE_CHECKING:
    import pandas

MARKED = frozenset({"decision", "outcome", "verdict"})
"""Columns whose words stand out; the word itself says it, colour only helps."""

WIDE, WIDE_IN_DENSE, DENSE = 42, 28, 7
"""Cells with more characters than `WIDE` are wrapped in HTML, `WIDE_IN_DENSE` in tables of more than `DENSE` columns:
reasons have up to 41 characters, instants 27."""


class TableView:
    """One or more tables as a notebook shows them: HTML in a browser, text elsewhere, every row in both."""

    def __init__(self, *tables: Table) -> None:
        """Show `tables` one below the other."""
        self.tables = tables

    def __repr__(self) -> str:
        """The tables as plain text, complete."""
        return "\n\n".join(_text(table) for table in self.tables)

    def _repr_html_(self) -> str:
        return STYLE + "".join(_html(table) for table in self.tables)


def table_view(result: StageResult, *names: str) -> TableView:
    """The tables `names` of a result.

    A stage that was refused or failed has no tables: each name is then an empty table that says so. From any
    other stage an absent name is a `KeyError`, since notebook and stage have drifted apart.
    """
    stopped = result.code is not None
    absent = {name: _absent(name, result) for name in names if stopped and name not in result.tables}
    return TableView(*(absent[name] if name in absent else result.tables[name] for name in names))


def checks_view(result: StageResult) -> TableView:
    """Every checked condition with its outcome and what was expected and found."""
    rows = tuple((check.name, "ok" if check.ok else "FAILED", check.detail) for check in result.checks)
    reading = "Each condition that was checked; one that FAILED says what was found and what to do."
    return TableView(Table("Checks", reading, ("check", "outcome", "detail"), rows))


def items_view(result: StageResult) -> TableView:
    """The rows of the plan, or of what became of it; reasons against a trade have tables of their own."""
    items = [item for item in result.items if item.decision is not Decision.NO_GO]
    rows = tuple(tuple(getattr(item, column) for column in ITEM_KEYS) for item in items)
    reading = "One line per row, with the id that the same facts will always give it."
    return TableView(Table("Rows", reading, ITEM_KEYS, rows))


def table_frame(table: Table) -> pandas.DataFrame:
    """The rows as a DataFrame of dtype object: Decimals stay Decimals, instants aware datetimes, NULL None."""
    import pandas  # takes half a second, and only those who compute on want it

    return pandas.DataFrame(list(table.rows), columns=list(table.columns), dtype=object)


def cell_text(cell: Cell) -> str:
    """One cell as text: plain decimals, canonical UTC instants, a dash for NULL, control characters escaped."""
    if cell is None:
        return "—"
    if isinstance(cell, Decimal):
        return canonical_decimal(cell)
    if isinstance(cell, datetime):
        return canonical_time(cell)
    return printable(str(cell))


def _absent(name: str, result: StageResult) -> Table:
    reading = f"Nothing was read for this table: the stage ended with {result.code}."
    return Table(name.replace("_", " ").capitalize(), reading, (name,), ())


def _numeric(table: Table) -> list[bool]:
    columns = [[row[index] for row in table.rows if row[index] is not None] for index in range(len(table.columns))]
    return [bool(cells) and all(isinstance(cell, Decimal | int) for cell in cells) for cells in columns]


def _html(table: Table) -> str:
    dense = len(table.columns) > DENSE
    columns = [
        {"name": printable(name), "numeric": numeric, "marked": name in MARKED}
        for name, numeric in zip(table.columns, _numeric(table), strict=True)
    ]
    return fill(
        "table.html.j2",
        title=table.title,
        reading=table.reading,
        count=count(len(table.rows), "row"),
        columns=columns,
        dense=dense,
        wide=WIDE_IN_DENSE if dense else WIDE,
        rows=[[cell_text(cell) for cell in row] for row in table.rows],
    )


def _text(table: Table) -> str:
    lines = [[printable(name) for name in table.columns], *([cell_text(cell) for cell in row] for row in table.rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    numeric = _numeric(table)
    body = [_text_line(line, widths, numeric) for line in lines]
    return "\n".join([f"{table.title} ({count(len(table.rows), 'row')})", table.reading, *body]).rstrip()


def _text_line(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = zip(line, widths, numeric, strict=True)
    return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip()
