"""The seal of a report, and every way in which a notebook fails to be one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from report_samples import NASTY, against, done, dry_run, executed, item, refused

from recon.domain import Grade, Reason, Stage
from recon.identity import digest
from recon.reporting.names import STEMS
from recon.reporting.notebook import from_text, to_text
from recon.reporting.result import KEYS, console_text, printable, result_json
from recon.reporting.seal import SEAL_TYPE, read_actor, read_report, read_seal, seal

EXPECTED = {"stage": "dry-run", "profile_id": "demo", "batch_id": "batch-1"}


@pytest.fixture
def notebook():
    return executed(dry_run(item(NASTY, Reason.FILL_EVIDENCE, "6", Grade.LINKED)), "1 + 1")


@pytest.mark.parametrize("stage", Stage)
def test_the_run_card_says_who_ran_the_stage(stage, tmp_path) -> None:
    folder = Path(__file__).parents[1] / "notebooks"
    actor = read_actor(folder / f"{STEMS[stage]}.ipynb")
    assert actor
    assert actor == actor.strip()
    assert read_actor(tmp_path / "none.ipynb") is None


def payload(notebook):
    return notebook.cells[-1].outputs[0].data[SEAL_TYPE]


def test_a_sealed_result_comes_back_with_its_keys_in_the_fixed_order(notebook) -> None:
    """Also from a saved notebook, which sorts the keys of everything, nested ones too."""
    reading = read_seal(from_text(to_text(notebook)), EXPECTED)
    assert reading.findings == ()
    assert tuple(reading.result) == KEYS
    assert {tuple(check) for check in reading.result["checks"]} == {("name", "ok", "detail")}
    assert {tuple(item) for item in reading.result["items"]} == {
        (
            "trade_id", "symbol", "side", "decision", "reason", "grade", "qty", "price", "filled_at",
            "exchange_order_id", "order_id",
        )
    }  # fmt: skip
    assert reading.result["items"] == [
        {
            "trade_id": NASTY,
            "symbol": "BTC/USD",
            "side": "sell",
            "decision": "DRY_RUN",
            "reason": "fill_evidence",
            "grade": "linked",
            "qty": "6",
            "price": "61250.12",
            "filled_at": "2026-03-01T09:30:00.123000Z",
            "exchange_order_id": "ex-1",
            "order_id": "BFILL-" + "0" * 32,
        }
    ]


def test_code_and_message_are_there_only_when_something_was_refused() -> None:
    assert not {"code", "message"} & result_json(done(Stage.DETECT)).keys()
    assert result_json(refused())["code"] == "stale_plan"
    assert read_seal(executed(refused())).result["message"] == "The plan changed. Plan again."


def test_the_seal_says_in_plain_sight_what_it_seals() -> None:
    bundle = seal(dry_run())._repr_mimebundle_()
    assert bundle[SEAL_TYPE]["sha256"] == digest(bundle[SEAL_TYPE]["result"])
    assert bundle[SEAL_TYPE]["sha256"] in bundle["text/html"]
    assert bundle["text/plain"].startswith("Sealed: dry-run GO, SHA-256 ")


def test_a_cell_that_was_not_executed_is_a_finding(notebook) -> None:
    notebook.cells[0]["execution_count"] = None
    assert read_seal(notebook, EXPECTED).findings == ("Code cell 1 was not executed.",)


def test_a_cell_that_ended_with_an_error_is_a_finding(notebook) -> None:
    notebook.cells[0].outputs = [new_output("error", ename="SystemExit", evalue="0", traceback=[])]
    assert read_seal(notebook, EXPECTED).findings == ("Code cell 1 ended with SystemExit.",)


def test_without_a_seal_there_is_no_result(notebook) -> None:
    notebook.cells[-1].outputs = []
    reading = read_seal(notebook, EXPECTED)
    assert reading == type(reading)(("Expected exactly one seal, found 0.",), None)


def test_two_seals_are_none(notebook) -> None:
    notebook.cells[-1].outputs.append(copy.deepcopy(notebook.cells[-1].outputs[0]))
    assert read_seal(notebook).findings == ("Expected exactly one seal, found 2.",)
    assert read_seal(notebook).result is None


def test_the_seal_stands_in_the_last_code_cell(notebook) -> None:
    notebook.cells.append(new_markdown_cell("prose may follow"))
    assert read_seal(notebook).findings == ()
    notebook.cells.append(new_code_cell("code may not", execution_count=9))
    assert read_seal(notebook).findings == ("The seal is not in the last code cell.",)


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed["result"].update(verdict="DONE"),
        lambda sealed: sealed["result"]["items"].clear(),
        lambda sealed: sealed["result"].update(counts={"DRY_RUN": 2.0}),
        lambda sealed: sealed.update(sha256="0" * 64),
        lambda sealed: sealed.pop("sha256"),
        lambda sealed: sealed.update(result=[]),
    ],
)
def test_a_changed_seal_gives_no_result(notebook, change) -> None:
    change(payload(notebook))
    reading = read_seal(notebook)
    assert reading.findings == ("The seal does not match its own digest: the sealed result was changed.",)
    assert reading.result is None


def test_a_seal_over_something_that_is_no_result_gives_none(notebook) -> None:
    for result in ({"verdict": "GO"}, payload(notebook)["result"] | {"verdict": "PERHAPS"}):
        payload(notebook).update(result=result, sha256=digest(result))
        assert read_seal(notebook).result is None


@pytest.mark.parametrize("key", EXPECTED)
def test_the_seal_of_another_run_is_a_finding(notebook, key) -> None:
    found = EXPECTED[key]
    reading = read_seal(notebook, EXPECTED | {key: "another"})
    assert reading.findings == (f"The seal names {key} {found!r}, expected 'another'.",)


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"cells": 1}', '{"nbformat": 4, "nbformat_minor": 5}'])
def test_a_file_that_is_no_notebook_is_a_finding(tmp_path, text) -> None:
    path = tmp_path / "02_dry_run.ipynb"
    path.write_text(text)
    assert read_report(path).findings == ("02_dry_run.ipynb is not a notebook.",)
    path.unlink()
    assert read_report(path).findings == ("02_dry_run.ipynb is missing.",)


def test_the_console_names_every_failed_check_and_counts_every_reason() -> None:
    result = dry_run(
        item("a", Reason.FILL_EVIDENCE, "6", Grade.EXACT),
        item("b", Reason.FILL_EVIDENCE, "6", Grade.EXACT),
        against("c", Reason.EXCHANGE_NOT_FLAT),
        verdict=type(refused().verdict).NO_GO,
    )
    assert console_text(result_json(result, "reports/batch-1/02_dry_run.ipynb")).splitlines() == [
        "dry-run: NO_GO (profile demo, batch batch-1)",
        f"  plan digest {'ab' * 32}",
        "  check failed: no_target_is_no_go: Expected none, found some.",
        "  DRY_RUN fill_evidence: 2",
        "  NO_GO exchange_not_flat: 1",
        "  report: reports/batch-1/02_dry_run.ipynb",
    ]


def test_the_console_says_why_a_stage_was_refused() -> None:
    assert console_text(result_json(refused())).splitlines() == [
        "apply: NO_GO (profile demo, batch batch-1)",
        "  stale_plan: The plan changed. Plan again.",
    ]


def test_no_id_can_move_the_cursor_or_turn_a_line_around() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed\x00é\U0001f680") == "a\\x1b[2Jb\\nc\\u202ed\\x00é\U0001f680"
