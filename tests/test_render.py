"""The HTML page of a report: alone in a file, without script, whole, and with the verdict on top."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from report_samples import NASTY, dry_run, executed, item, refused, table

from recon.domain import Reason
from recon.reporting.figures import coverage_figure
from recon.reporting.render import render
from recon.reporting.result import result_json
from recon.reporting.tables import TableView

OUTSIDE = re.compile(
    r"""(?:src|href|action|data|poster)\s*=\s*["']?\s*(?!data:)[^"'>\s]+|url\(|@import|<link|<iframe|<object"""
)
"""Whatever could make a browser fetch something."""


@pytest.fixture(scope="module")
def result():
    return dry_run(item(NASTY, Reason.FILL_EVIDENCE, "6"))


@pytest.fixture(scope="module")
def page(result) -> str:
    notebook = executed(result, "profile_id = 'demo'", "coverage_figure(result)", "table_view(result, 'notes')")
    figure = coverage_figure(result)
    figure_data = {"image/svg+xml": figure._repr_svg_(), "text/plain": repr(figure)}
    table_data = {"text/html": TableView(table(61))._repr_html_(), "text/plain": "rows"}
    script = {"application/javascript": "alert(1)", "text/plain": "a script"}
    for cell, data in zip(notebook.cells, (script, figure_data, table_data), strict=False):
        cell.outputs = [new_output("execute_result", data=data, execution_count=cell.execution_count)]
    notebook.cells.insert(0, new_markdown_cell("# Dry run\n\nProse with $math$ and `code`."))
    return render(notebook, result_json(result))


def test_the_page_has_no_script_and_fetches_nothing(page) -> None:
    without_pictures = re.sub(r'src="data:image/svg\+xml;base64,[A-Za-z0-9+/=]+"', "", page)
    assert "<script" not in page.lower()
    assert "alert(1)" not in page.replace("&lt;script&gt;alert(1)", "")
    assert OUTSIDE.findall(without_pictures) == []
    assert "http" not in without_pictures


def test_the_check_for_outside_addresses_can_fail() -> None:
    for hostile in ('<img src="https://x/y.png">', "<link rel=x>", '<a href="//x">', "url(x)", "<script src=x>"):
        assert OUTSIDE.search(hostile)


def test_the_verdict_is_the_first_thing_in_the_body(page) -> None:
    body = page[page.index("<body>") :]
    assert re.match(r'<body>\s*<header class="banner GO">\s*<span class="word">GO</span>', body)
    assert "<title>dry-run, profile demo, batch batch-1</title>" in page


def test_every_row_of_every_table_is_on_the_page(page) -> None:
    assert all(f"<td>T-{row}</td>" in page for row in range(1, 61))


def test_the_figure_is_inside_the_page_with_its_numbers_as_text(page) -> None:
    encoded = re.search(r"alt='([^']*)' src=\"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\"", page)
    assert "60% evidence" in encoded[1]
    assert base64.b64decode(encoded[2]).startswith(b"<svg")


def test_code_and_prose_stay_readable(page) -> None:
    assert '<span class="prompt">In [1]</span>' in page
    assert "coverage_figure" in page
    assert "<code>code</code>" in page
    assert 'class="anchor-link"' not in page


def test_a_refusal_says_why_in_the_banner_and_is_escaped() -> None:
    hostile = replace(refused(), message=NASTY, profile_id=NASTY)
    page = render(executed(hostile), result_json(hostile))
    header = page[page.index("<header") : page.index("</header>")]
    assert "<strong>stale_plan</strong>: T-1 &lt;script&gt;" in header
    assert "<script" not in page


def test_commands_in_the_banner_are_code_and_no_backticks() -> None:
    advised = replace(refused(), message="First `recon status`, then <b>.")
    page = render(executed(advised), result_json(advised))
    assert "First <code>recon status</code>, then &lt;b&gt;." in page[page.index("<header") : page.index("</header>")]


def test_the_style_is_a_style(page) -> None:
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert '"Segoe UI"' in styles[0]
    assert not [style for style in styles if "&#" in style]


def test_an_error_in_a_cell_is_shown_as_text() -> None:
    notebook = executed(refused())
    output = new_output("error", ename="ValueError", evalue=NASTY, traceback=[f"\x1b[31mValueError\x1b[0m: {NASTY}"])
    notebook.cells.insert(0, new_code_cell("boom", execution_count=1, outputs=[output]))
    page = render(notebook, result_json(refused()))
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_the_same_notebook_gives_the_same_page(result) -> None:
    notebook = executed(result, "1 + 1")
    assert render(notebook, result_json(result)) == render(notebook, result_json(result))
