"""The manifest as a Statement in a chain: what it holds, and that no fault while it is written loses anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from report_samples import done, dry_run, executed, failed

from recon.domain import Stage
from recon.reporting import describe as describe_module
from recon.reporting import files as files_module
from recon.reporting.describe import complete, describe, write_signature
from recon.reporting.files import add_file
from recon.reporting.folder import add_report
from recon.reporting.manifest import read_chain, read_manifest, statement
from recon.reporting.names import STEMS, sha256
from recon.reporting.result import result_json
from recon.reporting.seal import load_notebook, read_report

ARMOUR = "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"


class Cut(BaseException):
    """The power goes."""


def add(folder: Path, result) -> Path:
    """Keep a report's three files without describing the folder."""
    report = add_report(folder, STEMS[result.stage], nbformat.writes(executed(result, "1 + 1")).encode())
    with suppress(FileExistsError):  # another one that describes the folder may have completed the report
        add_file(report.with_suffix(".json"), json.dumps(result_json(result, report.name)).encode())
        add_file(report.with_suffix(".html"), f"<p>the page of {report.name}</p>".encode())
    return report


def keep(folder: Path, result) -> Path:
    report = add(folder, result)
    describe(folder, result.profile_id)
    return report


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "batch-1"
    folder.mkdir()
    for result in (done(Stage.DETECT), dry_run(), dry_run()):
        keep(folder, result)
    return folder


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_is_an_in_toto_statement_over_every_file(folder) -> None:
    content = json.loads((folder / "manifest.json").read_bytes())
    assert content.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "urn:recon:report:v1"
    assert content["predicate"].keys() == {"profile_id", "batch_id", "files", "runs", "previous"}
    subjects = {one["name"]: one["digest"]["sha256"] for one in content["subject"]}
    assert all(one.keys() == {"name", "digest"} and one["digest"].keys() == {"sha256"} for one in content["subject"])
    assert subjects == {
        name: sha256(folder / name) for name in below(folder) if name not in ("manifest.json", "SHA256SUMS")
    }
    assert {"index.html", "manifests/1.json", "manifests/2.json", "02_dry_run.2.ipynb"} <= subjects.keys()
    assert content["predicate"]["previous"] == sha256(folder / "manifests" / "2.json")
    assert [run["report"] for run in content["predicate"]["runs"]] == [
        "01_detect.ipynb", "02_dry_run.ipynb", "02_dry_run.2.ipynb",
    ]  # fmt: skip


def test_sums_list_everything_but_themselves_and_coreutils_agrees(folder) -> None:
    write_signature(folder, (folder / "manifest.json").read_bytes(), ARMOUR)
    listed = [line[66:] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert listed == sorted(name for name in below(folder) if name != "SHA256SUMS")
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)


def test_each_manifest_names_the_one_that_it_replaced_the_first_names_none(folder) -> None:
    last = read_manifest(folder)
    chain = [*read_chain(folder, last).values(), last]
    assert [one.previous for one in chain] == [None, chain[0].sha256, chain[1].sha256]
    assert (folder / "manifests" / "1.json").stat().st_mode & 0o777 == 0o444


def test_describing_again_changes_no_byte(folder) -> None:
    before = below(folder)
    describe(folder, "demo")
    assert below(folder) == before


def test_the_same_content_gives_the_same_bytes(folder) -> None:
    manifest = read_manifest(folder)
    assert statement(manifest) == manifest.data == (folder / "manifest.json").read_bytes()
    text = manifest.data.decode()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_later_report_sends_manifest_and_signature_to_the_chain(folder) -> None:
    data = (folder / "manifest.json").read_bytes()
    assert write_signature(folder, data, ARMOUR)
    keep(folder, done(Stage.VALIDATE))
    assert not (folder / "manifest.json.sig").exists()
    assert (folder / "manifests" / "3.json").read_bytes() == data
    assert (folder / "manifests" / "3.json.sig").read_text() == ARMOUR
    assert "manifests/3.json.sig" in read_manifest(folder).digests
    assert failed(folder) == {}
    assert not write_signature(folder, data, ARMOUR), "that is not the manifest any more"
    assert failed(folder) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda old: old.replace(b'"GO"', b'"NO"'), "manifests/2.json follows "),
        (lambda old: b"{}", "manifests/1.json was changed and cannot be read."),
    ],
)
def test_a_changed_link_of_the_chain_is_found_though_all_sums_agree(folder, change, said) -> None:
    path = folder / "manifests" / "1.json"
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes().replace(b'"DONE"', b'"GO"')))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for subject in manifest["subject"]:
        subject["digest"]["sha256"] = sha256(folder / subject["name"])
    data = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(data)
    names = [name for name in below(folder) if name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(names)))
    found = failed(folder)
    assert list(found) == ["manifests_chained"]
    assert said in found["manifests_chained"]


def test_what_a_power_cut_leaves_of_a_file_lies_beside_the_folder(folder, monkeypatch) -> None:
    def cut(*_: object, **__: object) -> None:
        raise Cut

    before = below(folder)
    monkeypatch.setattr(files_module.os, "link", cut)
    monkeypatch.setattr(files_module.os, "fsync", cut)
    monkeypatch.setattr(Path, "unlink", cut)  # nobody cleans up
    with pytest.raises(Cut):
        add(folder, done(Stage.VALIDATE))
    assert below(folder) == before
    assert [path.name.startswith(".batch-1.") for path in folder.parent.glob(".*")] == [True]


# Faults


def cut_after(patch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let the power go before the write with this number, in the order of writes; returns the list of those done."""
    written: list[str] = []

    def counted(name, call):
        def write(path: Path, *arguments: object) -> None:
            if len(written) == number:
                raise Cut
            written.append(f"{name} {path.name}")
            call(path, *arguments)

        return write

    for name in ("add_file", "replace_file", "remove_file"):
        patch.setattr(describe_module, name, counted(name, getattr(files_module, name)))
    return written


def test_a_power_cut_between_any_two_writes_loses_nothing_and_the_next_run_converges(folder, tmp_path) -> None:
    assert write_signature(folder, (folder / "manifest.json").read_bytes(), ARMOUR)
    add(folder, done(Stage.VALIDATE))
    start = below(folder)
    undisturbed = tmp_path / "undisturbed" / "batch-1"
    shutil.copytree(folder, undisturbed)
    describe(undisturbed, "demo")
    expected = below(undisturbed)
    cuts = 0
    for number in range(20):
        cut = tmp_path / f"cut-{number}" / "batch-1"
        shutil.copytree(folder, cut)
        with pytest.MonkeyPatch.context() as patch:
            written = cut_after(patch, number)
            try:
                describe(cut, "demo")
            except Cut:
                cuts += 1
            else:
                assert len(written) == number
                break
        kept = below(cut)
        for name, data in start.items():
            if name not in ("index.html", "SHA256SUMS"):
                assert data in kept.values(), f"{name} is lost after {written}"
        describe(cut, "demo")
        assert below(cut) == expected, written
        assert failed(cut) == {}
    assert cuts >= 5
    assert written[:2] == ["add_file 3.json", "add_file 3.json.sig"]
    assert [name for name in written if name.startswith("replace")][-3:] == [
        "replace_file index.html", "replace_file manifest.json", "replace_file SHA256SUMS",
    ]  # fmt: skip


def test_reports_that_are_described_at_once_by_threads_and_processes_make_one_chain(tmp_path) -> None:
    folder = tmp_path / "batch-1"
    folder.mkdir()
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from test_manifest import keep, done, Stage\n"
        "for _ in range(4): keep(Path(sys.argv[1]), done(Stage.DETECT))"
    )
    command = [sys.executable, "-c", script, str(folder), str(Path(__file__).parent)]
    others = [subprocess.Popen(command) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: keep(folder, dry_run()), range(8)))
    assert [process.wait(timeout=600) for process in others] == [0, 0]
    manifest = read_manifest(folder)
    assert len([entry for entry in manifest.files if entry["name"].endswith(".ipynb")]) == 16
    assert failed(folder) == {}
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("left", [(), ("json",), ("html",)])
def test_a_report_of_which_only_the_notebook_was_kept_is_completed_by_the_next_run(folder, left) -> None:
    """As the runner writes them, to the byte."""
    report = add_report(folder, "03_apply", nbformat.writes(executed(done(Stage.APPLY), "1 + 1")).encode())
    complete(report, load_notebook(report), read_report(report).result)
    whole = {suffix: report.with_suffix(f".{suffix}").read_bytes() for suffix in ("json", "html")}
    for suffix in whole.keys() - set(left):
        report.with_suffix(f".{suffix}").unlink()
    keep(folder, done(Stage.VALIDATE))
    assert {suffix: report.with_suffix(f".{suffix}").read_bytes() for suffix in whole} == whole
    assert failed(folder) == {}


@pytest.mark.parametrize("data", [b"nonsense", b"[1]", b"[" * 100_000])
def test_a_record_that_says_nothing_is_listed_all_the_same(folder, data: bytes) -> None:
    add(folder, done(Stage.APPLY))
    (folder / "record" / "03_apply").mkdir(parents=True)
    (folder / "record" / "03_apply" / "run.json").write_bytes(data)
    describe(folder, "demo")
    manifest = read_manifest(folder)
    assert (manifest.facts("03_apply.ipynb"), "record/03_apply/run.json" in manifest.digests) == ({}, True)


def test_without_hard_links_a_file_is_kept_whole_and_never_written_over(tmp_path, monkeypatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files_module.os, "link", link)
    path = tmp_path / "reports" / "a.json"
    path.parent.mkdir()
    add_file(path, b"first")
    with pytest.raises(FileExistsError):
        add_file(path, b"second")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o444)
    assert list(tmp_path.rglob("*")) == [path.parent, path], "nothing temporary is left"
