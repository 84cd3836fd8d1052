"""Verifying a report folder: untouched it passes, and each way of touching it fails the check that names it."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from report_samples import done, dry_run, executed, failed, refused

from recon.domain import Stage
from recon.errors import ReconError, Refused
from recon.reporting.describe import describe
from recon.reporting.files import add_file
from recon.reporting.folder import add_report, open_folder
from recon.reporting.manifest import read_manifest
from recon.reporting.names import STEMS, sha256
from recon.reporting.result import result_json
from recon.reporting.verify import verify_folder

OLDER = ["sums_match", "nothing_unlisted", "manifest_agrees", "notebooks_sealed", "json_equals_seal", "one_batch"]
CHECKS = [*OLDER, "records_agree", "manifests_chained", "approvals", "signature"]


def keep(folder: Path, result) -> Path:
    notebook = executed(result, "1 + 1")
    report = add_report(folder, STEMS[result.stage], nbformat.writes(notebook).encode())
    with suppress(FileExistsError):  # another thread that describes the folder may have completed the report
        add_file(report.with_suffix(".json"), json.dumps(result_json(result, report.name)).encode())
        add_file(report.with_suffix(".html"), f"<p>the page of {report.name}</p>".encode())
    describe(folder, result.profile_id)
    return report


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "batch-1"
    open_folder(folder, "demo")
    for result in (done(Stage.DETECT), dry_run(), dry_run(), refused()):
        keep(folder, result)
    return folder


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_an_untouched_folder_passes_every_check(folder) -> None:
    assert [check.name for check in verify_folder(folder)] == CHECKS
    assert failed(folder) == {}


def test_coreutils_agrees(folder) -> None:
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)


def test_runs_are_numbered_read_only_and_described(folder) -> None:
    names = [entry["name"] for entry in read_manifest(folder).files if entry["name"].endswith(".ipynb")]
    assert names == ["01_detect.ipynb", "02_dry_run.ipynb", "02_dry_run.2.ipynb", "03_apply.ipynb"]
    assert all((folder / name).stat().st_mode & 0o777 == 0o444 for name in names)
    last = read_manifest(folder).files[-1]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", last["kept_at"])
    assert last | {"sha256": "", "size": 0, "kept_at": ""} == {
        "name": "03_apply.json",
        "sha256": "",
        "size": 0,
        "stage": "apply",
        "verdict": "NO_GO",
        "plan_digest": None,
        "kept_at": "",
    }
    page = (folder / "index.html").read_text()
    assert page.index("02_dry_run.html") < page.index("02_dry_run.2.html")


def test_the_index_shows_when_each_run_was_kept_in_this_order(tmp_path) -> None:
    """A run that broke off comes before the one that went well afterwards, whatever their names."""
    for number, name in enumerate(("03_apply.failed", "03_apply", "01_detect")):
        path = tmp_path / f"{name}.ipynb"
        add_file(path, nbformat.writes(executed(done(Stage.APPLY))).encode())
        os.utime(path, (number * 60, number * 60))
    describe(tmp_path, "demo")
    page = (tmp_path / "index.html").read_text()
    shown = re.findall(r"<td>(1970-01-01T00:0\d:00Z)</td>\s.*\s.*\s<td><a href=\"([^\"]+)\.(?:ipynb|html)\"", page)
    assert shown == [
        ("1970-01-01T00:00:00Z", "03_apply.failed"),
        ("1970-01-01T00:01:00Z", "03_apply"),
        ("1970-01-01T00:02:00Z", "01_detect"),
    ]


def older_form(folder: Path, *, kept_at: bool = True) -> bytes:
    """Describe the folder as recon did before the manifest was a Statement, and before it said when; its manifest."""
    manifest = read_manifest(folder)
    files = [{k: v for k, v in entry.items() if kept_at or k != "kept_at"} for entry in manifest.files]
    content = {"batch_id": manifest.batch_id, "profile_id": manifest.profile_id, "files": files}
    data = (json.dumps(content, indent=2) + "\n").encode()
    overwrite(folder / "manifest.json", data)
    shutil.rmtree(folder / "manifests")
    names = [entry["name"] for entry in files] + ["manifest.json", "index.html"]
    sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(names))
    (folder / "SHA256SUMS").write_text(sums)
    return data


@pytest.mark.parametrize("kept_at", [True, False])
def test_a_folder_of_the_older_form_is_accepted_and_said_to_be_one(folder, kept_at) -> None:
    older_form(folder, kept_at=kept_at)
    checks = verify_folder(folder)
    assert [check.name for check in checks] == [*OLDER, "signature"]
    assert failed(folder) == {}
    assert "it is of the older form" in checks[2].detail
    overwrite(folder / "01_detect.html", b"<p>a kinder page</p>")
    assert failed(folder) == {"sums_match": "01_detect.html was changed."}


@pytest.mark.parametrize("kept_at", [True, False])
def test_a_folder_of_the_older_form_is_converted_by_the_next_report(folder, kept_at) -> None:
    data = older_form(folder, kept_at=kept_at)
    keep(folder, done(Stage.VALIDATE))
    manifest = read_manifest(folder)
    assert {entry["kept_at"] is None for entry in manifest.files} == ({False} if kept_at else {True, False})
    assert (folder / "manifests" / "1.json").read_bytes() == data
    assert manifest.previous == sha256(folder / "manifests" / "1.json")
    assert [check.name for check in verify_folder(folder)] == CHECKS
    assert failed(folder) == {}


def test_the_index_says_how_the_batch_stood_and_who_approved_it(folder) -> None:
    assert "No record tells the state of the batch." in (folder / "index.html").read_text()
    for number, (state, by) in enumerate((("applied", "<b>"), ("planned", "nobody"), ("approved", "nobody"))):
        record = folder / "record" / f"02_dry_run{f'.{number + 1}' if number else ''}"
        keep(folder, dry_run())
        record.mkdir(parents=True)
        facts = {"state": state, "read_at": f"2026-03-02T12:00:0{9 - number}.000000Z"}
        add_file(record / "run.json", json.dumps(facts).encode())
        add_file(record / "approval.json", json.dumps({"by": by}).encode())
        add_file(record / "rollback_approval.json", json.dumps({"by": by}).encode())
        add_file(record / "rollback_approval.json.sig", b"none")
    describe(folder, "demo")
    page = (folder / "index.html").read_text()
    assert "the batch was <strong>applied</strong>. The plan was approved by &lt;b&gt;, without a signature." in page
    assert "Its rollback was approved by &lt;b&gt;, with a signature that cannot be read." in page
    assert "nobody" not in page


def test_the_style_of_the_index_is_a_style(folder) -> None:
    page = (folder / "index.html").read_text()
    style = page[page.index("<style>") : page.index("</style>")]
    assert '"Segoe UI"' in style
    assert "&#" not in style


def test_a_changed_file_is_named(folder) -> None:
    overwrite(folder / "01_detect.html", b"<p>a kinder page</p>")
    assert failed(folder) == {"sums_match": "01_detect.html was changed."}


def test_a_changed_file_stays_changed_when_the_folder_grows(folder) -> None:
    overwrite(folder / "01_detect.html", b"<p>a kinder page</p>")
    keep(folder, done(Stage.VALIDATE))
    assert failed(folder) == {"sums_match": "01_detect.html was changed."}


def test_a_missing_file_is_named_also_after_the_folder_grew(folder) -> None:
    (folder / "02_dry_run.2.html").unlink()
    keep(folder, done(Stage.VALIDATE))
    assert failed(folder) == {"sums_match": "02_dry_run.2.html is missing."}


def test_a_missing_notebook_cannot_be_replaced_by_the_next_run(folder) -> None:
    (folder / "02_dry_run.2.ipynb").unlink()
    assert keep(folder, dry_run()).name == "02_dry_run.3.ipynb"
    assert failed(folder) == {"sums_match": "02_dry_run.2.ipynb is missing."}


def test_an_unlisted_file_is_named(folder) -> None:
    (folder / "notes.txt").write_text("added later")
    assert failed(folder) == {"nothing_unlisted": "notes.txt is not listed."}


def test_a_changed_notebook_fails_even_with_new_sums(folder) -> None:
    """Someone edits the sealed verdict and computes every sum afresh: the seal and the JSON still disagree."""
    path = folder / "03_apply.ipynb"
    overwrite(path, path.read_bytes().replace(b'"verdict": "NO_GO"', b'"verdict": "DONE"'))
    for name in ("manifest.json", "SHA256SUMS"):
        (folder / name).unlink()
    describe(folder, "demo")
    assert "manifests/3.json is not listed." in failed(folder)["nothing_unlisted"]
    shutil.rmtree(folder / "manifests")
    assert failed(folder).keys() == {"notebooks_sealed", "json_equals_seal"}
    assert "03_apply.ipynb: The seal does not match its own digest" in failed(folder)["notebooks_sealed"]


def test_a_changed_json_differs_from_the_seal(folder) -> None:
    path = folder / "03_apply.json"
    overwrite(path, path.read_bytes().replace(b'"NO_GO"', b'"DONE"'))
    assert failed(folder) == {
        "sums_match": "03_apply.json was changed.",
        "json_equals_seal": "03_apply.json does not say what 03_apply.ipynb sealed.",
    }


def test_a_report_under_another_stage_s_name_is_found(folder) -> None:
    add_file(folder / "04_validate.ipynb", (folder / "03_apply.ipynb").read_bytes())
    describe(folder, "demo")
    assert "04_validate.ipynb: The seal names stage 'apply', expected 'validate'." in failed(folder)["notebooks_sealed"]


def test_a_report_of_another_batch_is_found(folder) -> None:
    stranger = dry_run()
    object.__setattr__(stranger, "batch_id", "batch-2")
    keep(folder, stranger)
    assert failed(folder) == {"one_batch": "Found profile 'demo' batch 'batch-1', profile 'demo' batch 'batch-2'."}


def test_a_manifest_that_disagrees_or_cannot_be_read_is_found(folder) -> None:
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    first = read_manifest(folder).files[0]["sha256"]
    overwrite(manifest, text.replace(first, "0" * 64).encode())
    assert failed(folder)["manifest_agrees"] == "01_detect.html stands in manifest.json and SHA256SUMS differently."
    overwrite(manifest, b"{}")
    assert failed(folder)["manifest_agrees"] == "manifest.json was changed and cannot be read."
    with pytest.raises(OSError, match=r"manifest\.json was changed"):
        describe(folder, "demo")


@pytest.mark.parametrize("sums", [None, "", "not a sum\n", f"{'0' * 64}  ../01_detect.html\n"])
def test_without_readable_sums_nothing_is_verified(folder, sums) -> None:
    (folder / "SHA256SUMS").unlink()
    if sums is not None:
        (folder / "SHA256SUMS").write_text(sums)
    assert failed(folder) == {"sums_match": "SHA256SUMS is missing or malformed, so nothing here can be verified."}


def test_a_folder_that_is_none_is_no_report(tmp_path) -> None:
    assert failed(tmp_path / "nowhere").keys() == {"sums_match"}


def test_a_folder_without_a_single_report_is_no_report(tmp_path) -> None:
    describe(tmp_path, "demo")
    assert failed(tmp_path) == {"notebooks_sealed": "There is no report in this folder."}


def test_runs_that_end_at_the_same_moment_take_different_numbers(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda _: keep(tmp_path, dry_run()).name, range(16)))
    assert len(set(reports)) == 16
    assert "02_dry_run.16.ipynb" in reports
    assert failed(tmp_path).keys() <= {"one_batch"}  # the folder is not named after the batch
    assert len(read_manifest(tmp_path).files) == 48
    assert not list(tmp_path.glob(".*"))


def test_a_file_is_never_overwritten(folder) -> None:
    before = (folder / "01_detect.html").read_bytes()
    with pytest.raises(FileExistsError):
        add_file(folder / "01_detect.html", b"another")
    assert (folder / "01_detect.html").read_bytes() == before


def test_a_file_system_without_hard_links_serves_as_well(tmp_path, monkeypatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    keep(tmp_path, dry_run())
    with pytest.raises(FileExistsError):
        add_file(tmp_path / "02_dry_run.html", b"another")
    assert (tmp_path / "02_dry_run.html").read_bytes() == b"<p>the page of 02_dry_run.ipynb</p>"
    assert not list(tmp_path.glob(".*"))


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            add_report(tmp_path, "03_apply", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_run(tmp_path) -> None:
    (tmp_path / "reports").write_text("a file where the folder should be")
    with pytest.raises(ReconError) as caught:
        open_folder(tmp_path / "reports" / "batch-1", "demo")
    assert (caught.value.code, caught.value.exit_status) == ("reports_unwritable", 1)
    assert "Nothing was run" in caught.value.message


def test_a_folder_of_another_profile_is_refused(folder) -> None:
    with pytest.raises(Refused) as caught:
        open_folder(folder, "another")
    assert caught.value.code == "batch_of_another_profile"


def test_the_older_form_fails_where_a_signature_is_required(folder) -> None:
    older_form(folder)
    assert [check.ok for check in verify_folder(folder) if check.name == "signature"] == [True]
    [found] = [check for check in verify_folder(folder, require_signature=True) if check.name == "signature"]
    assert not found.ok
    assert "the manifest is of the older form" in found.detail


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "01_detect.ipynb", "01_detect.json"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_link_or_a_fifo_in_the_place_of_a_file_is_named(folder, tmp_path, name, kind) -> None:
    moved = (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(moved) if kind == "link" else os.mkfifo(folder / name)
    said = failed(folder)["sums_match"]
    assert said.startswith(f"{name} is a symbolic link" if kind == "link" else f"{name} is no regular file")


@pytest.mark.parametrize("name", ["manifest.json", "01_detect.ipynb", "01_detect.json"])
def test_json_that_is_nested_too_deeply_is_a_finding(folder, name) -> None:
    overwrite(folder / name, b"[" * 200_000)
    assert failed(folder)
