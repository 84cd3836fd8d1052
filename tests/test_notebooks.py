"""The five notebooks as documents: their shape, their prose, and nothing in a cell that belongs into the package."""

from __future__ import annotations

import ast
import json
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from recon.domain import Stage
from recon.reporting.names import STEMS
from recon.reporting.notebook import check_parameters
from recon.reporting.runner import PARAMETERS

FOLDER = Path(__file__).parents[1] / "notebooks"
SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|FROM\s+orders|LOCK TABLE)\b")


@pytest.fixture(params=list(Stage))
def stage(request) -> Stage:
    return request.param


@pytest.fixture
def path(stage) -> Path:
    return FOLDER / f"{STEMS[stage]}.ipynb"


@pytest.fixture
def cells(path) -> list:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook.cells


@pytest.fixture
def code(cells) -> list[str]:
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_there_is_one_notebook_for_each_stage() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == [f"{STEMS[stage]}.ipynb" for stage in Stage]


def test_a_notebook_has_18_to_25_cells_and_half_of_them_are_prose(cells) -> None:
    prose = [cell for cell in cells if cell.cell_type == "markdown"]
    assert 18 <= len(cells) <= 25
    assert 2 * len(prose) >= len(cells)


def test_it_begins_with_its_title_and_what_it_writes(cells) -> None:
    assert re.match(r"# \d\. \w+", cells[0].source)
    assert cells[1].source.startswith("**This notebook writes:** ")


def test_its_parameters_are_a_profile_and_a_batch(path, cells) -> None:
    check_parameters(path, PARAMETERS)
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert parameters.source == 'profile_id = "demo"\nbatch_id = "demo-incident"'


def test_it_imports_from_recon_alone(code) -> None:
    nodes = [node for source in code for node in ast.walk(ast.parse(source))]
    assert not [node for node in nodes if isinstance(node, ast.Import)]
    assert {node.module for node in nodes if isinstance(node, ast.ImportFrom)} == {"recon"}


def test_no_cell_holds_logic_sql_magic_or_a_silenced_warning(code) -> None:
    flow = (ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.If, ast.For, ast.While, ast.Try, ast.With, ast.comprehension)
    for source in code:
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, flow)]
        assert not SQL.search(source)
        assert not re.search(r"^\s*[%!]|filterwarnings|simplefilter|catch_warnings", source, re.MULTILINE)
        assert source.count("\n") <= 11


def test_every_call_has_a_heading_and_a_sentence_of_its_own(cells) -> None:
    for before, cell in pairwise(cells[2:]):
        if cell.cell_type == "code":
            heading, _, sentence = before.source.partition("\n\n")
            assert before.cell_type == "markdown"
            assert heading.startswith("## ")
            assert sentence.endswith(".")


def test_the_verdict_comes_first_and_the_seal_last(stage, code) -> None:
    assert code[2:4] == [
        f'incident = open_incident("{stage}", profile_id, batch_id)\nTableView(incident.card)',
        "result = incident.run()\nverdict_view(result)",
    ]
    assert code[-2:] == ["closing(result)", "seal(result)"]


def test_no_number_of_the_demo_is_typed_into_prose(cells) -> None:
    for cell in cells[1:]:
        if cell.cell_type == "markdown":
            assert not re.search(r"\d", re.sub(r"runbook sections? \d( to \d)?|SHA-256|02_dry_run", "", cell.source))


def test_what_it_imports_is_what_it_uses(code) -> None:
    (names,) = (
        {alias.name for alias in node.names} for node in ast.parse(code[0]).body if isinstance(node, ast.ImportFrom)
    )
    used = {node.id for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert names <= used


def test_the_file_is_stable_under_being_saved_again(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert nbformat.writes(nbformat.reads(text, as_version=4)).strip() == text.strip()
    assert len({cell["id"] for cell in json.loads(text)["cells"]}) == len(json.loads(text)["cells"])
