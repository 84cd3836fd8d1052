"""Figures for notebooks: SVG with the same bytes for the same rows, and their numbers as text beside them.

Shares are computed in Decimal; only the length of a bar is rounded, to a hundredth of a percent. Text stays text
in the SVG, so that a report can be searched. Nothing in here writes.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from recon.domain import Cell, Reason, StageResult
from recon.identity import canonical_decimal
from recon.reporting.result import printable
from recon.reporting.tables import table_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_LENGTH = 40
"""Longer trade names are cut in the figure; the tables show them whole."""

PARTS = (("evidence", "#0072b2", ""), ("dust", "#8ccbee", ""), ("unexplained", "#e69f00", "////"))
"""Part, colour and hatch: told apart by colour-blind readers and on a black and white print."""

SMALL = (Reason.DUST_REMAINDER, Reason.DUST_ONLY, Reason.BASE_FEE)
"""Reasons of rows that rest on no fill of their own."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recon",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "hatch.linewidth": 0.5,
}
"""Settings of matplotlib that make the bytes stable and take ids literally."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the open quantity of one trade is accounted for, in units of its symbol; `dust` holds base fees too."""

    trade: str
    open_qty: Decimal
    evidence: Decimal
    dust: Decimal

    @property
    def unexplained(self) -> Decimal:
        """What neither evidence nor dust accounts for."""
        return self.open_qty - self.evidence - self.dust

    def share(self, part: str) -> Decimal:
        """The part named (`evidence`, `dust`, `unexplained`) in percent of the open quantity, rounded to 0.01."""
        quantity: Decimal = getattr(self, part)
        if not self.open_qty:  # a trade whose quantities are no numbers
            return Decimal(0)
        return (100 * quantity / self.open_qty).quantize(Decimal("0.01"))


class Figure:
    """An SVG picture as a notebook shows it, with its numbers as text."""

    def __init__(self, svg: str, text: str) -> None:
        """Show `svg`, or `text` where pictures cannot be shown."""
        self.svg, self.text = svg, text

    def __repr__(self) -> str:
        """The numbers of the figure."""
        return self.text

    def _repr_svg_(self) -> str | None:
        return self.svg or None


def coverage_figure(result: StageResult) -> Figure:
    """One bar per target trade: which share of its open quantity is evidence, dust, or unexplained."""
    coverages = coverage(result)
    if not coverages:
        return Figure("", "No target trade, so there is no figure.")
    return Figure(_draw(coverages), "\n".join(_sentence(each) for each in coverages))


def coverage(result: StageResult) -> list[Coverage]:
    """One for each row of the table `targets` (trade_id, symbol, open_qty, evidence_qty), in its order."""
    small: dict[tuple[Cell, Cell], Decimal] = defaultdict(Decimal)
    for item in result.items:
        if item.writes and item.reason in SMALL and item.qty is not None:
            small[item.symbol, item.trade_id] += item.qty
    targets = table_view(result, "targets").tables[0]
    rows = [dict(zip(targets.columns, row, strict=True)) for row in targets.rows]
    return [_coverage(row, small[row["symbol"], row["trade_id"]]) for row in rows]


def _coverage(row: Mapping[str, Cell], dust: Decimal) -> Coverage:
    return Coverage(str(row["trade_id"]), _quantity(row["open_qty"]), _quantity(row["evidence_qty"]), dust)


def _quantity(cell: Cell) -> Decimal:
    return cell if isinstance(cell, Decimal) else Decimal(0)


def _sentence(each: Coverage) -> str:
    parts = ", ".join(f"{canonical_decimal(each.share(part))}% {part}" for part, _, _ in PARTS)
    return f"{printable(each.trade)}: {parts}"


def _draw(coverages: Sequence[Coverage]) -> str:
    import matplotlib  # takes most of a second, and only notebooks want it
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(8, 1.1 + 0.28 * len(coverages)), layout="constrained")
        _bars(canvas.add_subplot(), coverages)
        buffer = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _bars(axes: Axes, coverages: Sequence[Coverage]) -> None:
    positions = list(range(len(coverages)))
    filled = [0] * len(coverages)
    for part, colour, hatch in PARTS:
        lengths = [int(each.share(part) * 100) for each in coverages]
        bars = axes.barh(positions, lengths, left=filled, height=0.7, color=colour, hatch=hatch, edgecolor="white")
        bars.set_label(part)
        filled = [start + length for start, length in zip(filled, lengths, strict=True)]
    for position, each in zip(positions, coverages, strict=True):
        axes.text(10150, position, _percent(each), verticalalignment="center")
    axes.set_yticks(positions, [_label(each.trade) for each in coverages])
    axes.set_xticks(range(0, 10001, 2500), [f"{percent}%" for percent in range(0, 101, 25)])
    axes.set_xlim(0, 10000)
    axes.set_ylim(len(coverages) - 0.4, -0.6)
    axes.set_xlabel("share of the trade's open quantity")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False)


def _percent(each: Coverage) -> str:
    share = each.share("unexplained")
    if each.unexplained <= 0:
        return ""
    return f"{canonical_decimal(share)}% unexplained" if share else "<0.01% unexplained"


def _label(trade: str) -> str:
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    text = printable(trade)
    if len(text) > LABEL_LENGTH:
        text = text[: LABEL_LENGTH - 1] + "…"
    return "".join(
        char if font.get_char_index(ord(char)) else char.encode("ascii", "backslashreplace").decode() for char in text
    )
