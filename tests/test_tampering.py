"""One changed byte of any file, cell or row is found and named, by `recon verify` as an auditor runs it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from console import Place
from incidents import pause_switch
from tampering import LIVES, Kept, Keys, covered_up, files, flipped, keep, quick, summed, writable

from recon.agreement import database_checks
from recon.domain import Check
from recon.embedded import EmbeddedServer
from recon.identity import digest
from recon.kept_rows import AUDIT_COLUMNS
from recon.reporting.seal import SEAL_TYPE
from recon.reporting.verify import verify_folder
from recon.settings import Settings

__all__ = ["quick"]

SMALL = 300
"""Bytes up to which a file is tried at every position; a bigger one at POSITIONS of them, its ends included."""

POSITIONS = int(os.environ.get("RECON_TEST_FLIPS", "50"))


@pytest.fixture(scope="module")
def kept(
    servers: Callable[[str], EmbeddedServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Kept]]:
    """The folders of `tampering.LIVES`, by name; their tables in a copy, and no trigger in the way of a superuser."""
    server = servers("pg18")
    server.create_database("tampering")
    folder = tmp_path_factory.mktemp("tampering")
    with pause_switch() as switch:
        place = Place(server.url("tampering"), folder, switch)
        keys = Keys(folder)
        made = {name: keep(place, keys, name, stages) for name, stages in LIVES.items()}
        sql = made["standing"].incident.sql
        sql("CREATE SCHEMA kept")
        for table in TABLES:
            sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            sql(f"CREATE TABLE kept.{table} AS SELECT * FROM {table}")
        restore(made["standing"])
        yield made
    server.drop_database("tampering")


TABLES = ("orders", "reconciliation_backfill_audit", "reconciliation_batches")


def told(checks: list[Check]) -> str:
    """What the failed checks say; empty when all hold."""
    return "\n".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)


def positions(size: int, dice: random.Random) -> list[int]:
    if size <= SMALL or size <= POSITIONS:
        return list(range(size))
    return sorted({0, size - 1, *dice.sample(range(size), POSITIONS)})


@pytest.mark.parametrize("life", LIVES)
def test_one_changed_bit_of_any_file_is_found_and_the_file_named(kept, life, tmp_path, quick, record_property) -> None:
    folder = kept[life].copy(tmp_path)
    assert told(verify_folder(folder)) == ""
    dice = random.Random(life)
    tried = 0
    alike = set(files(kept["standing"].folder)) if life == "undone" else set()
    others = [name for name in files(folder) if name not in alike]
    for name in others:
        path = folder / name
        for at in positions(path.stat().st_size, dice):
            with flipped(path, at, dice.randrange(8)):
                assert name in told(verify_folder(folder)), (name, at)
                tried += 1
    assert told(verify_folder(folder)) == ""
    assert tried >= 50 * len(others) * 0.9
    record_property("bits", tried)


@pytest.mark.parametrize("life", LIVES)
def test_a_file_that_is_missing_added_or_empty_is_named(kept, life, tmp_path, quick) -> None:
    folder = kept[life].copy(tmp_path)
    for name in files(folder):
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        assert name in told(verify_folder(folder))
        (folder / name).write_bytes(b"")
        assert name in told(verify_folder(folder))
        (folder / name).write_bytes(whole)
        beside = folder / f"{name}.copy"
        beside.write_bytes(whole)
        assert f"{name}.copy is not listed." in told(verify_folder(folder))
        beside.unlink()
    assert told(verify_folder(folder)) == ""


# With a signature


@pytest.fixture
def signed(kept: dict[str, Kept]) -> Kept:
    """The folder that is signed."""
    return kept["standing"]


def restore(kept: Kept, *tables: str) -> None:
    """Put the tables back as they were."""
    for table in tables or TABLES:
        kept.incident.sql(f"TRUNCATE {table}")
        kept.incident.sql(f"INSERT INTO {table} SELECT * FROM kept.{table}")


def test_a_change_that_is_covered_up_is_found_by_the_signature_in_any_file(signed, tmp_path, quick) -> None:
    """All sums, the manifest and the records are made to agree with the changed file; only the key is not theirs."""
    dice = random.Random(1)
    allowed = signed.keys.allowed
    names = files(signed.folder)
    whole = signed.copy(tmp_path / "whole")
    assert told(verify_folder(whole, allowed)) == ""
    for name in names:
        if name in ("SHA256SUMS", "manifest.json", "manifest.json.sig") or name.startswith("manifests/"):
            continue
        folder = writable(Path(shutil.copytree(whole, tmp_path / "attacked")))
        path = folder / name
        data = path.read_bytes()
        whole_json = name.endswith("/run.json")  # must stay JSON to be covered up
        at = data.index(b'"versions"') + 2 if whole_json else dice.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        covered_up(folder)
        said = told(verify_folder(folder, allowed))
        assert "sums_match" not in said, (name, said)
        assert "signature: manifest.json.sig does not sign manifest.json: The signature is not valid" in said, name
        shutil.rmtree(folder)


def test_without_a_signature_a_covered_up_page_is_not_found(kept, tmp_path, quick) -> None:
    """The control: it is the signature that finds it."""
    folder = kept["undone"].copy(tmp_path)
    (folder / "03_apply.html").write_bytes(b"<p>a kinder page</p>")
    assert "03_apply.html was changed." in told(verify_folder(folder))
    covered_up(folder)
    checks = verify_folder(folder, kept["undone"].keys.allowed)
    assert told(checks) == ""
    assert checks[-1].detail.startswith("not signed; going by ")


@pytest.mark.parametrize("life", LIVES)
def test_a_sealed_result_that_is_forged_in_every_place_is_found_by_the_signature_alone(kept, life, tmp_path) -> None:
    folder = kept[life].copy(tmp_path)
    notebook = nbformat.read(folder / "03_apply.ipynb", 4)
    payload = notebook.cells[-1].outputs[0].data[SEAL_TYPE]
    payload["result"]["checks"][-1]["detail"] = "all is well"
    payload["sha256"] = digest(payload["result"])
    nbformat.write(notebook, folder / "03_apply.ipynb")
    (folder / "03_apply.json").write_text(json.dumps(payload["result"] | {"report": "03_apply.ipynb"}))
    covered_up(folder)
    said = told(verify_folder(folder, kept[life].keys.allowed)).splitlines()
    if life == "standing":
        assert len(said) == 1
        assert said[0].startswith("signature: manifest.json.sig does not sign manifest.json: ")
    else:
        assert said == [], "the control: nobody signed it"


def test_a_bit_of_the_signature_that_is_listed_anew_is_found(signed, tmp_path, quick) -> None:
    folder = signed.copy(tmp_path)
    path = folder / "manifest.json.sig"
    size = path.stat().st_size
    for at in range(0, size, 5):
        with flipped(path, at, 0):
            summed(folder)
            said = told(verify_folder(folder, signed.keys.allowed))
            assert "signature: manifest.json.sig does not sign manifest.json" in said, at
    summed(folder)
    assert told(verify_folder(folder, signed.keys.allowed)) == ""


def test_an_approval_with_another_signer_or_content_is_found(signed, tmp_path) -> None:
    for kind in ("sig", "json"):
        folder = writable(Path(shutil.copytree(signed.folder, tmp_path / kind / "standing")))
        path = folder / "record" / "03_apply" / ("approval.json.sig" if kind == "sig" else "approval.json")
        (folder / "manifest.json.sig").unlink()
        if kind == "sig":
            path.write_bytes((signed.folder / "manifest.json.sig").read_bytes())
        else:
            path.write_text(path.read_text().replace("moved", "mover"))
        covered_up(folder)
        said = told(verify_folder(folder, signed.keys.allowed))
        assert "record/03_apply/approval.json.sig does not sign record/03_apply/approval.json: " in said
        if kind == "json":
            assert "record/03_apply/approval.json says by " in said


@pytest.mark.parametrize("how", ["no table", "a row less", "without quotes"])
def test_kept_rows_that_are_not_as_recon_writes_them_are_named(kept, how, tmp_path, quick) -> None:
    """All sums and digests agree with the changed file."""
    folder = kept["undone"].copy(tmp_path)
    path = folder / "record" / "03_apply" / "orders.csv"
    text = path.read_text()
    first, *lines = text.splitlines(keepends=True)
    changed = {"no table": "rows", "a row less": "".join([first, *lines[1:]]), "without quotes": text.replace('"', "")}
    path.write_text(changed[how])
    covered_up(folder)
    said = told(verify_folder(folder))
    assert f"record/03_apply/orders.csv does not hold {len(lines)} rows as recon writes them." in said


STRANGE = (None, [1], "x", {"x": 1})


@pytest.mark.parametrize("name", ["record/03_apply/run.json", "record/03_apply/approval.json", "manifest.json"])
def test_a_file_of_another_shape_is_a_failed_check_and_no_error(kept, name, tmp_path, quick) -> None:
    """Every value in turn is something else, or not there, and all sums agree with that."""
    folder = kept["undone"].copy(tmp_path)
    path = folder / name
    whole = json.loads(path.read_bytes())
    places = [(whole, key) for key in whole]
    places += [
        (inner, key) for inner in list(whole.values()) if isinstance(inner, dict) and len(inner) < 8 for key in inner
    ]
    if name == "manifest.json":
        inside = whole["predicate"]
        places += [(one, key) for one in (inside["files"][0], inside["runs"][2], whole["subject"][0]) for key in one]
    original = {each: (folder / each).read_bytes() for each in files(folder)}
    for inner, key in places:
        for value in (*STRANGE, ...):
            before = dict(inner)
            if value is ...:
                del inner[key]
            else:
                inner[key] = value
            path.write_text(json.dumps(whole, indent=2 if name == "manifest.json" else 1, sort_keys=True) + "\n")
            if name != "manifest.json":
                covered_up(folder, strange=True)
            summed(folder)
            told(verify_folder(folder, kept["undone"].keys.allowed))
            inner.clear()
            inner.update(before)
            for each, data in original.items():
                (folder / each).parent.mkdir(exist_ok=True)
                (folder / each).write_bytes(data)
    assert told(verify_folder(folder)) == ""
    assert len(places) > 5


# The database


def database(kept: Kept) -> str:
    """What the database says against the report."""
    url = kept.console.environment["RECON_DATABASE_URL"]
    return told(database_checks(Settings(_env_file=None, recon_database_url=url), kept.folder))  # type: ignore[call-arg]


KINDS = {
    "text": ("coalesce({0}, '') || 'x'", "NULL"),
    "numeric": ("coalesce({0}, 0) + 0.00000001", "NULL"),
    "timestamp with time zone": ("coalesce({0}, now()) + interval '1 microsecond'", "NULL"),
}


def columns(kept: Kept, table: str) -> list[tuple[str, str, bool]]:
    """Name, type and whether it may be NULL of each column that recon knows."""
    found = kept.incident.sql(
        "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position",
        table,
    )
    return [tuple(row) for row in found]


def changes(kept: Kept, table: str, where: str) -> Iterator[tuple[str, str]]:
    """Every changed cell of the rows, as the ctid of the row and the SET clause."""
    rows = kept.incident.sql(f"SELECT ctid::text, * FROM {table} WHERE {where} ORDER BY ctid")
    for row in rows:
        for number, (name, kind, nullable) in enumerate(columns(kept, table), start=1):
            for change in KINDS[kind]:
                if change != "NULL" or (nullable and row[number] is not None):
                    yield row[0], f"{name} = {change.format(name)}"


@pytest.mark.parametrize("life", LIVES)
def test_every_changed_cell_of_every_audit_row_is_found_and_the_row_named(kept, life, record_property) -> None:
    batch = kept[life]
    table, mine = "reconciliation_backfill_audit", f"batch_id = '{life}'"
    assert database(batch) == ""
    assert {name for name, _, _ in columns(batch, table)} == set(AUDIT_COLUMNS)
    tried = 0
    for ctid, change in list(changes(batch, table, mine)):
        [row] = batch.incident.sql(
            f"SELECT decision, coalesce(backfill_order_id, reason), trade_id FROM {table} WHERE ctid = %s::tid", ctid
        )
        batch.incident.sql(f"UPDATE {table} SET {change} WHERE ctid = %s::tid", ctid)
        said = database(batch)
        assert f"recorded_audit: {row[0]} {row[1]} of trade {row[2]}" in said, (change, said)
        tried += 1
        restore(batch, table)
    assert database(batch) == ""
    record_property("cells", tried)


@pytest.mark.parametrize("life", LIVES)
def test_every_audit_row_that_goes_or_comes_is_found_and_named(kept, life) -> None:
    batch = kept[life]
    table = "reconciliation_backfill_audit"
    rows = batch.incident.sql(
        f"SELECT ctid::text, decision, coalesce(backfill_order_id, reason), trade_id FROM {table} "
        "WHERE batch_id = %s ORDER BY ctid",
        life,
    )
    assert {row[1] for row in rows} == {"DRY_RUN", "NO_GO", "PENDING_APPLY", "APPLIED"}
    for ctid, decision, what, trade in rows:
        name = f"{decision} {what} of trade {trade}"
        batch.incident.sql(f"DELETE FROM {table} WHERE ctid = %s::tid", ctid)
        assert f"recorded_audit: {name}" in database(batch)
        restore(batch, table)
        batch.incident.sql(f"INSERT INTO {table} SELECT * FROM {table} WHERE ctid = %s::tid", ctid)
        assert name in database(batch), "one copy more"
        restore(batch, table)
    last = "SELECT max(ctid) FROM reconciliation_backfill_audit WHERE batch_id = %s AND decision = 'APPLIED'"
    batch.incident.sql(f"DELETE FROM {table} WHERE ctid >= ({last}) AND batch_id = %s", life, life)
    assert "is missing" in database(batch), "a tail that was cut off"
    restore(batch, table)
    assert database(batch) == ""


@pytest.mark.parametrize("life", LIVES)
def test_every_changed_cell_of_every_order_row_is_found_and_the_row_named(kept, life, record_property) -> None:
    batch = kept[life]
    mine = f"profile_id = 'profile of {life}' AND order_id LIKE 'BFILL-%%'"
    tried = 0
    for ctid, change in list(changes(batch, "orders", mine)):
        [(order_id,)] = batch.incident.sql("SELECT order_id FROM orders WHERE ctid = %s::tid", ctid)
        batch.incident.sql(f"UPDATE orders SET {change} WHERE ctid = %s::tid", ctid)
        assert f"{order_id} " in database(batch), change
        tried += 1
        restore(batch, "orders")
    assert tried >= 2 * 15
    for ctid, order_id in batch.incident.sql(f"SELECT ctid::text, order_id FROM orders WHERE {mine}"):
        batch.incident.sql("DELETE FROM orders WHERE ctid = %s::tid", ctid)
        assert f"recorded_orders: {order_id} is missing" in database(batch)
        restore(batch, "orders")
    batch.incident.row("BFILL-forged", "T1", "EXIT", "0.5", 70, profile_id=f"profile of {life}")
    assert "BFILL-forged is filled on trade T1, and no live APPLIED audit row of a known batch names it" in database(
        batch
    )
    restore(batch, "orders")
    assert database(batch) == ""
    record_property("cells", tried)


CELLS = [
    "plan_digest = repeat('0', 64)",
    "plan_digest = NULL",
    "plan = NULL",
    "plan = jsonb_set(plan, '{planned_by}', '\"mallory\"')",
    "plan = jsonb_set(plan, '{targets,0,trade_id}', '\"x\"')",
    "plan = jsonb_set(plan, '{document,profile_id}', '\"x\"')",
    'scope = \'{"symbols": ["x"], "trade_ids": []}\'',
    "approval = NULL",
    "approval = approval - 'signature'",
    "approval = jsonb_set(approval, '{by}', '\"mallory\"')",
    "approval = jsonb_set(approval, '{action}', '\"rollback\"')",
    "approval = jsonb_set(approval, '{items,0}', '\"BFILL-x\"')",
    "approval = jsonb_set(approval, '{expires_at}', '\"2099-01-01T00:00:00.000000Z\"')",
    "approval = jsonb_set(approval, '{approved_at}', '\"2000-01-01T00:00:00.000000Z\"')",
    "approval = jsonb_set(approval, '{acknowledgements,T3}', '\"lost\"')",
    "approval = jsonb_set(approval, '{signature}', '\"x\"')",
    "created_at = created_at + interval '1 microsecond'",
    "created_by = 'x'",
    "profile_id = 'x'",
    "batch_id = 'x'",
]


@pytest.mark.parametrize("life", LIVES)
def test_every_changed_cell_of_the_batch_is_found(kept, life) -> None:
    batch = kept[life]
    states = ["detected", "planned", "approved", "applied", "validated", "signed", "rolled_back"]
    states.remove({"standing": "signed", "undone": "rolled_back"}[life])
    more = [f"state = '{state}'" for state in states]
    if life == "undone":
        undo = ("- 'signature'", '|| \'{"by": "mallory"}\'', "|| '{\"items\": []}'")
        more += [f"rollback_approval = rollback_approval {change}" for change in undo]
        more += ["rollback_approval = NULL"]
    for change in CELLS + more:
        batch.incident.sql(f"UPDATE reconciliation_batches SET {change} WHERE batch_id = %s", life)
        assert database(batch) != "", change
        restore(batch, "reconciliation_batches")
    batch.incident.sql("DELETE FROM reconciliation_batches WHERE batch_id = %s", life)
    assert "expected batch" in database(batch)
    restore(batch, "reconciliation_batches")
    assert database(batch) == ""
