"""Approve: a named person releases the rows of one plan, and names what stays open."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from incidents import NOW, Incident, at, refusal

from recon import workspace
from recon.database import server_clock
from recon.domain import Check, Verdict
from recon.identity import canonical_time, digest
from recon.stages.approve import approve


def three(incident: Incident) -> Incident:
    """fine: GO. speck: dust only. lost: no fill at all. Planned, not approved."""
    incident.create_table().ghost("fine")
    incident.row("s", "speck", "ENTRY", "0.001", symbol="B/USD")
    incident.row("l", "lost", "ENTRY", "1", symbol="C/USD")
    incident.run("detect")
    assert incident.run("dry-run").verdict is Verdict.NO_GO
    return incident


def test_an_approval_is_a_document_of_digest_items_names_and_expiry(incident: Incident) -> None:
    """Valid 24 hours; the speck is released once it is acknowledged, the lost trade is only left alone."""
    three(incident)
    approval = incident.approve("speck=forty cents", "lost=moved to another wallet")
    assert {item.trade_id for item in approval.released} == {"fine", "speck"}
    [(state, digest, document)] = incident.sql("SELECT state, plan_digest, approval FROM reconciliation_batches")
    assert state == "approved"
    assert document == {
        "action": "apply",
        "batch_id": incident.batch,
        "profile_id": "main",
        "plan_digest": digest,
        "items": [item.order_id for item in approval.released],
        "acknowledgements": {"speck": "forty cents", "lost": "moved to another wallet"},
        "by": "a reviewer",
        "approved_at": canonical_time(NOW),
        "expires_at": canonical_time(NOW + timedelta(hours=24)),
    }


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ((), "acknowledgements_missing", "speck (dust_only); lost (missing_fill_evidence_for_large_remainder)."),
        (("speck=x",), "acknowledgements_missing", "lost"),
        (("lost=x",), "acknowledgements_missing", "speck (dust_only)"),
        (("lost=x", "speck=  "), "reason_missing", "speck"),
        (("lost=x", "speck="), "reason_missing", "speck"),
        (("lost=x", "speck"), "unknown_trade", "'speck'"),
        (("lost=x", "speck=y", "los=z"), "unknown_trade", "'los=z'"),
        (("lost=x", "speck=y", "Lost=z"), "unknown_trade", "'Lost=z'"),
        (("lost=x", "speck=y", "fine=z"), "nothing_to_acknowledge", "fine"),
        (("lost=x", "speck=y", "lost=z"), "acknowledged_twice", "Trade lost is acknowledged twice, 'x' and 'z'"),
    ],
)
def test_what_is_missing_or_too_much_is_refused_by_name(
    incident: Incident, given: tuple[str, ...], code: str, named: str
) -> None:
    three(incident)
    before = incident.everything()
    refused = refusal(lambda: incident.approve(*given))
    assert refused.code == code
    assert named in refused.message
    assert incident.everything() == before


def test_only_reasons_that_need_a_word_are_listed(incident: Incident) -> None:
    """Of a trade that fills cover in part, and of dust that a rollback canceled."""
    incident.create_table().ghost("part", "1", filled="0.6")
    incident.row("s", "speck", "ENTRY", "0.001", symbol="B/USD")
    incident.repair("part=moved", "speck=x")
    incident.run("rollback")
    incident.run("detect", "second")
    incident.run("dry-run", "second")
    message = refusal(lambda: incident.approve(batch="second")).message
    assert message.endswith(": speck (dust_only); part (missing_fill_evidence_for_large_remainder).")


def test_the_longest_trade_id_followed_by_an_equals_sign_counts(incident: Incident) -> None:
    """Ids may contain `=`: a=b=why names a=b, not a."""
    incident.create_table()
    for trade in ("a", "a=b", "a=b=c"):
        incident.row(f"e-{trade}", trade, "ENTRY", "1")
    incident.run("detect")
    incident.run("dry-run")
    incident.fill("X", "1", 5)
    refused = refusal(lambda: incident.approve("a=b=c=why", "a=b=why"))
    assert (refused.code, "a (missing" in refused.message) == ("acknowledgements_missing", True)
    assert refusal(lambda: incident.approve("a=b=c=why", "a=b=why", "a=why")).code == "nothing_to_approve"
    assert incident.run("dry-run").counts["DRY_RUN"] == 1
    approval = incident.approve("a=b=c=d=e", "a=b=x")
    assert approval.acknowledgements == {"a=b=c": "d=e", "a=b": "x"}


def test_a_name_is_needed(incident: Incident) -> None:
    three(incident)
    assert refusal(lambda: approve(incident.work(), incident.batch, "  ")).code == "name_missing"
    assert refusal(lambda: approve(incident.work(), "no-such-batch", "me")).code == "unknown_batch"


def test_an_acknowledged_trade_that_is_blocked_is_left_alone(incident: Incident) -> None:
    """Every NO_GO but those of the remainder concerns the whole trade: acknowledged, nothing of it is released."""
    incident.create_table().ghost("fine")
    incident.ghost("held", symbol="ETH/USD")
    incident.hold("ETH/USD", "0.5")
    incident.run("detect")
    incident.run("dry-run")
    assert [item.trade_id for item in incident.approve("held=a live position").released] == ["fine"]


def test_an_acknowledged_remainder_releases_the_rows_that_fills_support(incident: Incident) -> None:
    """The runbook closes evidence-covered quantity always: 0.6 of 1 is released, 0.4 stays open."""
    incident.create_table().ghost("t1", "1", filled="0.6")
    applied = incident.repair("t1=the rest was moved")
    assert applied.counts == {"APPLIED": 1, "NO_GO": 1}
    assert incident.open_quantities() == {"t1": Decimal("0.4")}
    assert incident.run("validate").verdict is Verdict.DONE
    assert ("t1", "the rest was moved", "a reviewer") in applied.tables["acknowledgements"].rows
    assert applied.checks[0] == Check(
        "approved",
        True,
        "by 'a reviewer', valid until 2026-03-03T12:00:00.000000Z; 1 acknowledgement, SHA-256 "
        + digest({"t1": "the rest was moved"})
        + "; not signed",
    )


def test_only_blocked_trades_leave_nothing_to_approve(incident: Incident) -> None:
    incident.create_table().ghost("held")
    incident.hold("BTC/USD", "1")
    incident.run("detect")
    incident.run("dry-run")
    assert refusal(lambda: incident.approve("held=x")).code == "nothing_to_approve"


def test_an_expired_approval_is_refused_and_may_be_renewed(incident: Incident) -> None:
    """Valid up to the last microsecond of 24 hours, not at 24 hours."""
    incident.create_table().ghost("t1")
    incident.plan()
    before = incident.everything()
    end = NOW + timedelta(hours=24)
    result = incident.run("apply", work=incident.work(now=end))
    assert (result.verdict, result.code) == (Verdict.NO_GO, "approval_expired")
    assert result.message == (
        f"The approval of the plan of batch {incident.batch} expired at 2026-03-03T12:00:00.000000Z; it is now "
        f"2026-03-03T12:00:00.000000Z. Approve it again: recon approve --batch-id {incident.batch} --by NAME"
    )
    assert incident.everything() == before
    incident.approve(work=incident.work(now=end))
    assert (
        incident.run("apply", work=incident.work(now=end + timedelta(hours=24, microseconds=-1))).verdict
        is Verdict.DONE
    )


def test_an_approval_that_expires_while_apply_waits_is_refused_too(
    incident: Incident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read again under the locks: here the server's own, which a day passes on during the fetch."""
    incident.create_table().ghost("t1")
    live = incident.work(now=None)
    incident.plan(work=live)
    days: list[timedelta] = []
    monkeypatch.setattr(workspace, "server_clock", lambda held: sum(days, server_clock(held)))
    incident.exchange.before = lambda: days.append(timedelta(hours=24))
    assert incident.run("apply", work=live).code == "approval_expired"
    assert (len(days), incident.backfills()) == (1, [])


def test_an_approval_of_another_plan_is_not_one(incident: Incident) -> None:
    """A document that names another digest releases nothing, whoever put it there."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.tamper("UPDATE reconciliation_batches SET approval = jsonb_set(approval, '{plan_digest}', '\"other\"')")
    assert incident.run("apply").code == "not_approved"
    assert incident.backfills() == []


def test_an_approval_that_changes_during_apply_is_noticed(incident: Incident) -> None:
    """Between reading the approval and taking the locks somebody approves again."""
    incident.create_table().ghost("t1")
    incident.plan()
    incident.exchange.before = lambda: incident.approve(work=incident.work(now=NOW + timedelta(minutes=1)))
    assert incident.run("apply").code == "not_approved"
    assert (incident.backfills(), incident.state()) == ([], "approved")


def test_an_acknowledgement_that_was_taken_out_of_the_approval_is_missed(incident: Incident) -> None:
    """What needs a word is decided by the plan that apply computes, whatever the batch's row says."""
    incident.create_table().ghost("t1", "1", filled="0.6")
    incident.plan("t1=the rest was moved")
    incident.sql("UPDATE reconciliation_batches SET approval = jsonb_set(approval, '{acknowledgements}', '{}')")
    result = incident.run("apply")
    assert (result.verdict, result.code) == (Verdict.NO_GO, "not_approved")
    assert (result.message or "").startswith("The approval acknowledges nothing about t1, ")
    assert (incident.backfills(), incident.state()) == ([], "approved")


def test_items_beyond_the_plan_are_never_written(incident: Incident) -> None:
    """Invariant 7: an id slipped into the approval that no item of the plan has writes nothing.

    Behind the doors nothing at all is written: at the commit each approved row must be there.
    """
    incident.create_table().ghost("t1")
    incident.plan()
    incident.tamper(
        """UPDATE reconciliation_batches
           SET approval = jsonb_set(approval, '{items}', approval->'items' || '["BFILL-x"]')"""
    )
    result = incident.run("apply")
    assert (result.code, result.counts) == (
        ("commit_rolled_back", {}) if incident.behind_doors else (None, {"APPLIED": 1})
    )
    assert [row["filled_at"] for row in incident.backfills()] == ([] if incident.behind_doors else [at(60)])
