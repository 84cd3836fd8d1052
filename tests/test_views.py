"""What a notebook shows: tables, verdicts, figures and closing words; complete, escaped, the same every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_samples import AT, NASTY, TABLE_NAMES, against, done, dry_run, item, refused, table

from recon.domain import Check, Grade, Item, Reason, Stage, Table, Verdict
from recon.reporting.figures import coverage, coverage_figure
from recon.reporting.markup import CSS
from recon.reporting.prose import closing
from recon.reporting.tables import TableView, cell_text, checks_view, items_view, table_frame, table_view
from recon.reporting.verdict import next_step, to_acknowledge, verdict_view


class Cells(HTMLParser):
    """The texts of a page's cells, and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data) -> None:
        if self.cells and self.lasttag in ("td", "th", "span"):
            self.cells[-1] += data.strip()


def test_a_table_shows_every_row_whole_in_html_and_in_text() -> None:
    long = "x" * 300
    view = TableView(Table("Long", "", ("id", "qty"), tuple((f"{long}{row}", Decimal(row)) for row in range(500))))
    page = Cells(view._repr_html_())
    assert [text for text in page.cells if text.startswith(long)] == [f"{long}{row}" for row in range(500)]
    assert "Long (500 rows)" in repr(view)
    assert [line.split()[0] for line in repr(view).splitlines()[2:]][1:] == [f"{long}{row}" for row in range(500)]


def test_nothing_in_a_cell_a_title_or_a_column_becomes_html() -> None:
    view = TableView(Table(NASTY, NASTY, (NASTY,), ((NASTY,),)))
    page = view._repr_html_()
    assert "<script" not in page
    assert Cells(page).cells == [NASTY, NASTY]


def test_cells_are_exact() -> None:
    assert [cell_text(cell) for cell in (Decimal("1E-8"), Decimal("1.500"), 7, AT, None, "a\nb")] == [
        "0.00000001",
        "1.5",
        "7",
        "2026-03-01T09:30:00.123000Z",
        "—",
        "a\\nb",
    ]


def test_only_columns_of_numbers_are_aligned_right() -> None:
    page = TableView(table(2))._repr_html_()
    assert re.findall(r'<th scope="col"( class="num")?>', page) == ["", ' class="num"', ' class="num"', "", ""]
    assert repr(TableView(Table("T", "", ("qty",), ((Decimal(5),), (Decimal(500),))))).splitlines()[2:] == [
        "qty",
        "  5",
        "500",
    ]


def test_every_rule_for_tables_is_stronger_than_jupyterlabs() -> None:
    """Its own, `:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td`, has the weight of two classes and one element."""
    rules = [rule.strip() for line in re.findall(r"^ *([^@{}]+) {", CSS, re.MULTILINE) for rule in line.split(",")]
    tables = [rule for rule in rules if "table" in rule]
    assert len(tables) > 8
    assert [rule for rule in tables if not rule.startswith(".recon-scroll table.recon-table")] == []
    assert TableView(table(1))._repr_html_().count('<div class="recon-scroll"><table class="recon-table') == 1


def test_a_table_without_rows_says_so() -> None:
    view = TableView(table(0, "Over-closed"))
    assert "Over-closed (no rows)" in repr(view)
    assert "no rows" in Cells(view._repr_html_()).cells


def test_a_frame_keeps_decimals_and_instants() -> None:
    frame = table_frame(table(3))
    assert set(map(str, frame.dtypes)) == {"object"}
    assert frame["qty"].tolist() == [Decimal(0), Decimal("10.5"), Decimal(21)]
    assert frame["at"].tolist() == [AT, AT, AT]
    assert frame["nothing"].tolist() == [None, None, None]


def test_a_name_that_the_stage_does_not_know_is_an_error() -> None:
    with pytest.raises(KeyError, match="no_such_table"):
        table_view(done(Stage.APPLY), "no_such_table")


def test_a_refused_stage_has_empty_tables_that_say_why() -> None:
    text = repr(table_view(refused(), "applied", "left_open"))
    assert text.count("no rows") == 2
    assert text.count("Nothing was read for this table: the stage ended with stale_plan.") == 2


def test_checks_say_what_failed_and_items_which_rows_are_planned() -> None:
    result = dry_run(
        item("a", Reason.FILL_EVIDENCE, "6", Grade.FIFO), against("b", Reason.EXCHANGE_NOT_FLAT), verdict=Verdict.NO_GO
    )
    checks, items = repr(checks_view(result)), repr(items_view(result))
    assert re.search(r"^no_target_is_no_go +FAILED +Expected none, found some\.$", checks, re.MULTILINE)
    assert re.search(r"^a +BTC/USD +sell +DRY_RUN +fill_evidence +fifo +6 +61250.12 ", items, re.MULTILINE)
    assert "(1 row)" in items


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (done(Stage.DETECT), "recon run dry-run --profile-id demo --batch-id batch-1"),
        (dry_run(), "recon approve --batch-id batch-1 --by NAME"),
        (dry_run(verdict=Verdict.DONE), "nothing to repair"),
        (done(Stage.APPLY), "recon run validate --profile-id demo --batch-id batch-1"),
        (done(Stage.VALIDATE), "recon sign --batch-id "),
        (done(Stage.ROLLBACK), "a new batch_id"),
        (refused(), "recon run apply --profile-id demo --batch-id batch-1"),
        (replace(done(Stage.DETECT), profile_id="it's mine"), """--profile-id 'it'"'"'s mine'"""),
    ],
)
def test_every_verdict_names_the_next_step(result, expected) -> None:
    assert expected in next_step(result)
    assert expected in repr(verdict_view(result))


def test_a_no_go_counts_the_trades_that_need_a_word() -> None:
    result = dry_run(
        item("evidence", Reason.FILL_EVIDENCE, "6", Grade.EXACT),
        item("dust", Reason.DUST_ONLY, "0.001"),
        against("held", Reason.EXCHANGE_NOT_FLAT),
        against("held", Reason.EXCHANGE_OPEN_ORDERS),
        verdict=Verdict.NO_GO,
    )
    assert to_acknowledge(result) == ["dust", "held"]
    assert "Settle what stands against 1 trade below and run" in next_step(result)
    assert "acknowledge each of them, and 1 trade of which only dust is open, by name: " in next_step(result)


def test_a_check_that_failed_is_put_right_not_acknowledged() -> None:
    """With a trade against the batch too, and without; a plan without a row is not offered for approval either."""
    row, held = item("a", Reason.FILL_EVIDENCE, "6", Grade.EXACT), against("held", Reason.EXCHANGE_NOT_FLAT)
    again = "`recon run dry-run --profile-id demo --batch-id batch-1`. It cannot be approved as it stands."

    def said(*items: Item, failed: str) -> str:
        return next_step(replace(dry_run(*items, verdict=Verdict.NO_GO), checks=(Check(failed, False, "why"),)))

    put = "Put right what failed (candidates_present)"
    assert said(row, failed="candidates_present") == f"{put}, then run the dry run again: {again}"
    settle = "settle what stands against 1 trade below, then run the dry run again"
    assert said(row, held, failed="candidates_present") == f"{put}, {settle}: {again}"
    assert said(held, failed="candidates_present") == f"{settle.capitalize()}: {again}"
    assert said(held, failed="orders_unchanged") == f"Put right what failed (orders_unchanged), {settle}: {again}"


def test_what_concerns_the_whole_batch_is_not_offered_for_acknowledgement() -> None:
    result = dry_run(against("a", Reason.PAUSE_UNKNOWN), verdict=Verdict.NO_GO)
    assert "--acknowledge" not in next_step(result)


def test_the_verdict_view_is_escaped_and_says_the_word_first() -> None:
    page = verdict_view(replace(refused(), message=NASTY, profile_id=NASTY))._repr_html_()
    assert "<script" not in page
    assert repr(verdict_view(refused())).splitlines()[:2] == ["NO_GO", "stale_plan: The plan changed. Plan again."]


@pytest.mark.parametrize("stage", Stage)
def test_closing_words_count_the_rows_of_this_run(stage) -> None:
    result = (
        dry_run(item("a", Reason.FILL_EVIDENCE, "6", Grade.FIFO)) if stage is Stage.DRY_RUN else done(stage, rows=7)
    )
    text = closing(result)._repr_markdown_()
    assert "**This notebook shows**" in text
    assert "**It does not show**" in text
    counted = {
        Stage.DETECT: "7 open lifecycles of this profile",
        Stage.DRY_RUN: "0 linked, 0 exact, 1 fifo",
        Stage.APPLY: "7 rows of the approved plan",
        Stage.VALIDATE: "Checks that hold on 7 targets: 1 of 1.",
        Stage.ROLLBACK: "7 rows of this batch set to canceled",
    }
    assert counted[stage] in text


def test_a_dry_run_shows_that_it_wrote_nothing_and_knows_where_its_window_is_named() -> None:
    shows, limits = repr(closing(dry_run())).split("**It does not show**")
    assert "An orders table in which this run wrote nothing." in shows
    assert "Fills outside the window, which the notes name." in limits


def test_closing_words_of_a_refusal_claim_nothing() -> None:
    text = repr(closing(refused()))
    assert "`stale_plan`" in text
    assert "not read, not found empty" in text


def test_no_id_reaches_the_markdown() -> None:
    result = dry_run(item(NASTY, Reason.FILL_EVIDENCE, "6", Grade.FIFO), against(NASTY, Reason.DATA_QUALITY))
    assert "script" not in repr(closing(replace(result, profile_id=NASTY)))
    for stage in (Stage.DETECT, Stage.APPLY, Stage.VALIDATE, Stage.ROLLBACK):
        assert "script" not in repr(closing(replace(done(stage), profile_id=NASTY)))


def test_coverage_accounts_for_all_of_the_open_quantity() -> None:
    result = dry_run(
        item("a", Reason.FILL_EVIDENCE, "6", Grade.EXACT),
        item("a", Reason.DUST_REMAINDER, "1"),
        against("b", Reason.MISSING_FILL_EVIDENCE),
    )
    first, second = coverage(result)
    assert (first.evidence, first.dust, first.unexplained) == (Decimal(6), Decimal(1), Decimal(3))
    assert [first.share(part) for part in ("evidence", "dust", "unexplained")] == [60, 10, 30]
    assert second.unexplained == Decimal(4)
    assert repr(coverage_figure(result)).splitlines() == [
        "a: 60% evidence, 10% dust, 30% unexplained",
        "b: 60% evidence, 0% dust, 40% unexplained",
    ]


def test_without_a_target_there_is_no_figure() -> None:
    figure = coverage_figure(dry_run())
    assert figure._repr_svg_() is None
    assert repr(figure) == "No target trade, so there is no figure."
    assert coverage_figure(replace(refused(Stage.DRY_RUN)))._repr_svg_() is None


def test_the_figure_takes_ids_literally_and_warns_of_none(recwarn) -> None:
    svg = coverage_figure(dry_run(item(NASTY, Reason.FILL_EVIDENCE, "6")))._repr_svg_()
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "$x_1$" in svg or "…" in svg
    assert not recwarn.list


def test_the_figure_fetches_nothing_and_grows_with_its_trades() -> None:
    one, forty = (
        coverage_figure(dry_run(*(item(f"T-{n}", Reason.FILL_EVIDENCE, "6") for n in range(trades))))._repr_svg_()
        for trades in (1, 40)
    )
    heights = [int(re.search(r'height="(\d+)', svg)[1]) for svg in (one, forty)]
    assert heights[1] > 5 * heights[0]
    assert set(re.findall(r"https?://[^\"' ]+", forty)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert all(f">T-{n}</text>" in forty for n in range(40))


SCRIPT = """
from report_samples import *
from recon.reporting.figures import coverage_figure
from recon.reporting.tables import *
from recon.reporting.verdict import verdict_view
from recon.domain import Reason, Grade
result = dry_run(*(item(f"T-{n}", Reason.FILL_EVIDENCE, "6", Grade.FIFO) for n in range(5)))
views = checks_view(result), items_view(result), table_view(result, "notes"), verdict_view(result)
print(coverage_figure(result)._repr_svg_(), *(view._repr_html_() for view in views), *map(repr, views))
"""


def test_the_same_result_gives_the_same_bytes_in_any_process_and_time_zone() -> None:
    def run(seed: str, zone: str) -> bytes:
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, check=True
        ).stdout

    first = run("1", "UTC")
    assert len(first) > 5000
    assert run("2", "Asia/Kolkata") == first


def test_every_stage_has_the_tables_that_its_notebook_asks_for() -> None:
    folder = Path(__file__).parents[1] / "notebooks"
    for stage, path in zip(Stage, sorted(folder.glob("*.ipynb")), strict=True):
        calls = re.findall(r"table_view\(result, ([^)]*)\)", path.read_text(encoding="utf-8").replace('\\"', '"'))
        names = {name.strip(' "') for call in calls for name in call.split(",")}
        assert names == set(TABLE_NAMES[stage].split())
