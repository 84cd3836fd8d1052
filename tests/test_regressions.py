"""Defects that a reviewer proved on a real database, each as the incident that showed it."""

from __future__ import annotations

import json

import pytest
from incidents import EXTENDED, NOW, Incident, at

from recon import batches
from recon.database import transaction
from recon.domain import Reason, Verdict
from recon.errors import Refused
from recon.plan import Scope


def failed(incident: Incident) -> list[str]:
    return [check.name for check in incident.run("validate").checks if not check.ok]


def test_one_exchange_order_id_on_two_symbols_is_two_orders(incident: Incident) -> None:
    """Invariant 6. Ids are unique within a symbol and side on some venues; each trade has its own unit."""
    incident.create_table()
    incident.ghost("t1", "1", order="77")
    incident.ghost("t2", "5", symbol="ETH/USD", order="77")
    incident.ghost("t3", "2", order="77", short=True)
    assert incident.repair().counts == {"APPLIED": 3}
    assert incident.open_quantities() == {}


def test_a_detect_that_comes_late_neither_resets_a_batch_nor_takes_it_over(incident: Incident) -> None:
    """Two first detects: both saw no batch, and the slower one finds it applied, or another profile's."""
    incident.create_table().ghost("t1")
    incident.repair()
    before = incident.everything()
    for profile, code in (("main", "illegal_transition"), ("other", "batch_of_another_profile")):
        with pytest.raises(Refused) as refused, transaction(incident.engine) as connection:
            batches.open_batch(connection, incident.batch, profile, actor="late", now=NOW)
        assert refused.value.code == code
    assert incident.everything() == before


def test_a_name_that_matches_no_target_is_refused_even_beside_one_that_does(incident: Incident) -> None:
    incident.create_table().ghost("t1")
    incident.run("detect")
    for scope in (Scope(("t1", "t1-typo")), Scope((), ("BTC/USD", "EHT/USD"))):
        result = incident.run("dry-run", work=incident.work(scope=scope))
        assert (result.verdict, result.code) == (Verdict.NO_GO, "scope_matches_nothing")
        assert f"no target answers to: {[*scope.trade_ids, *scope.symbols][-1]}." in (result.message or "")
    assert incident.run("dry-run", work=incident.work(scope=Scope(("t1",), ("BTCUSD",)))).verdict is Verdict.GO


def test_an_assumed_side_that_the_entrys_own_order_contradicts_is_not_believed(incident: Incident) -> None:
    """No side column; the ENTRY's order is a sell, so the trade is a short and a stranger's sell cannot close it."""
    incident.create_table({name: kind for name, kind in EXTENDED.items() if name != "side"})
    incident.row("entry-t1", "t1", "ENTRY", "1", 0, exchange_order_id="S0")
    incident.fill("S0", "1", 0, side="sell")
    incident.fill("B1", "1", 60, side="buy", price="80")
    incident.fill("OTHERBOT", "1", 90, side="sell", price="90")
    incident.run("detect")
    result = incident.run("dry-run")
    assert [item.reason for item in result.items if item.decision == "NO_GO"] == [Reason.DATA_QUALITY]
    assert not any(item.writes for item in result.items)


@pytest.mark.parametrize(
    "forgery", ["price = 1", "exchange_order_id = 'forged'", "evidence_filled_at = now()", "trade_id = 'zzz'"]
)
def test_validate_compares_the_audit_rows_too(incident: Incident, forgery: str) -> None:
    incident.create_table().ghost("t1")
    incident.repair()
    assert failed(incident) == []
    incident.tamper(f"UPDATE reconciliation_backfill_audit SET {forgery} WHERE decision = 'APPLIED'")
    assert failed(incident) == ["applied_rows_identical"]


def test_a_refusal_at_commit_is_told_from_a_lost_answer(incident: Incident) -> None:
    """A deferred constraint trigger raises at COMMIT: nothing is written, and the message says who refused."""
    incident.create_table().ghost("t1")
    incident.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'risk limit'; END $$")
    incident.sql(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    incident.sql("ALTER TABLE orders DISABLE TRIGGER late")
    incident.plan()
    incident.sql("ALTER TABLE orders ENABLE TRIGGER late")
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.FAILED, "commit_rolled_back")
    assert "The database refused the COMMIT (risk limit)" in (result.message or "")
    assert (incident.backfills(), incident.state()) == ([], "approved")


def test_a_row_of_an_order_that_straddles_the_window_spends_nothing_inside_it(incident: Incident) -> None:
    """Its own unit is older than the window; the order's other instant belongs to the other trade."""
    incident.create_table()
    incident.ghost("t1", "1", order="X", closed=60)
    incident.repair()
    incident.row("entry-t2", "t2", "ENTRY", "1", 30)
    incident.fill("X", "1", 62)
    incident.about = json.dumps({"from": at(61).isoformat()})
    incident.write_statement()
    incident.batch = "incident-2"
    assert incident.repair().counts == {"APPLIED": 1}
    assert incident.open_quantities() == {}


def test_events_of_two_spellings_share_one_throttle(incident: Incident) -> None:
    incident.create_table()
    incident.row("e1", "t1", "ENTRY", "1", 0, symbol="BTCUSD")
    incident.write_statement()
    incident.run("detect")
    incident.row("e2", "t2", "ENTRY", "1", 1, symbol="BTC/USD")
    incident.run("detect", "incident-2")
    assert [tuple(row) for row in incident.sql("SELECT symbol FROM reconciliation_events")] == [("BTCUSD",)]


@pytest.mark.parametrize(("kind", "reasons"), [("varchar(8)", {Reason.UNREPRESENTABLE_QUANTITY}), ("varchar(9)", None)])
def test_an_exchange_order_id_that_the_column_would_cut_is_known_at_the_dry_run(
    incident: Incident, kind: str, reasons: set[Reason] | None
) -> None:
    incident.create_table(EXTENDED | {"exchange_order_id": kind})
    incident.ghost("t1", order="123456789", exchange_order_id="E1")
    incident.run("detect")
    assert {item.reason for item in incident.run("dry-run").items} == (reasons or {Reason.FILL_EVIDENCE})


def test_ids_of_the_exchange_must_be_text(incident: Incident) -> None:
    incident.create_table(EXTENDED | {"exchange_order_id": "bigint"})
    result = incident.run("detect")
    assert (result.code, "exchange_order_id is not text" in (result.message or "")) == ("orders_unsuitable", True)
