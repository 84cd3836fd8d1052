"""Whether the database agrees with a report folder: the batch, its audit rows and its order rows. Reads only.

The reports decide what is expected; what the database says of itself never excuses it from a comparison.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from recon import audit, batches
from recon.agreement_audit import WRITTEN, audited_line, findings
from recon.agreement_record import last_run, place_note, record_checks
from recon.approval import NOT_SIGNED
from recon.audit import AuditRow
from recon.database import transaction
from recon.demo import DEMO_PROFILE
from recon.domain import Check, Stage, State, Verdict
from recon.doors.access import for_reading
from recon.errors import ReconError
from recon.identity import canonical_time
from recon.orders import Orders
from recon.plan import item_from
from recon.reporting.chain import signed_files
from recon.reporting.manifest import Manifest, read_manifest
from recon.reporting.names import report_files
from recon.reporting.seal import read_actor
from recon.reporting.strike import struck_text
from recon.settings import Settings
from recon.stages.approved import altered_rows, approval_told, tells_of
from recon.wording import count
from recon.workspace import open_workspace

LASTING = ("validation_failed", "existing_row_differs")
"""Codes of a stage that FAILED and yet wrote: validate takes the batch back, a repeated apply audits what stands."""

NOT_COMPARED = Check(
    "database",
    False,
    "not compared: a check of the folder failed. What a folder says counts once it holds by itself: put right what "
    "failed above, then verify again",
)
"""What stands in the place of `database_checks` where a check of the folder fails, but for a demand."""


def database_checks(settings: Settings, directory: Path, *, signing: bool = False) -> list[Check]:
    """What the database says of the folder's batch.

    While `signing`, it does not matter whether a signature and the batch's state tell of each other yet.
    Without RECON_DATABASE_URL a batch that the embedded demo does not hold is not compared, and the check says so.
    """
    results = _results(directory)
    batch_id, profile_id = results[-1]["batch_id"], results[-1]["profile_id"]
    if settings.is_demo and profile_id != DEMO_PROFILE:
        return [Check("database", True, "not compared: no database is configured (RECON_DATABASE_URL)")]
    actors = {result["report"]: read_actor(directory / result["report"]) for result in results if result["items"]}
    try:
        engine = for_reading(open_workspace(settings=settings).engine)
        with transaction(engine, read_only=True, snapshot=True) as connection:
            batch = batches.load(connection, batch_id, profile_id)
            if batch.state is None and settings.is_demo:
                return [Check("database", True, "not compared: the embedded demo no longer holds this batch")]
            checks = _Comparison(connection, batch, results, actors, directory, signing).checks()
            return [replace(check, detail=struck_text(check.detail, settings)) for check in checks]
    except ReconError as error:
        said = f"{error.code}: {error.message}"
        if not signing and not settings.is_demo:
            said += f" To check the folder alone: `RECON_DATABASE_URL= recon verify {shlex.quote(str(directory))}`."
        return [Check("database", False, said)]


def _results(directory: Path) -> list[dict[str, Any]]:
    """The results of the folder's reports, by stage and number: a copied folder keeps the names, not the times."""
    found = [
        (match["stem"], int(match["number"] or 1), name)
        for name, match in report_files(directory).items()
        if name.endswith(".json") and not match["failed"]
    ]
    return [
        json.loads((directory / name).read_text(encoding="utf-8")) | {"report": name.removesuffix("json") + "ipynb"}
        for _, _, name in sorted(found)
    ]


REPORT_GONE = "a stage whose report was lost can be run again, which keeps one"
SIGNATURE_GONE = (
    "the report was signed, and the signature is not here: most likely it was taken away, or this is an older copy. "
    "Find out who did that, and put manifest.json.sig and SHA256SUMS back; a stage that is run again now would hide it"
)
"""What is likely where the reports do not tell of the state that the database has, and what to do."""


class _Comparison:
    """One batch of the database beside the results of its reports."""

    def __init__(
        self,
        connection: Connection,
        batch: batches.Batch,
        results: Sequence[dict[str, Any]],
        actors: dict[str, str | None],
        folder: Path,
        signing: bool,
    ) -> None:
        self.connection = connection
        self.batch = batch
        self.actors = {report: actor for report, actor in actors.items() if actor is not None}
        self.results = [result for result in results if _lasts(result)]
        self.folder = folder
        self.manifest = _manifest(folder)
        self.told = _told_states(self.results)
        if State.VALIDATED in self.told and (signing or self._is_signed()):
            self.told = {State.SIGNED, State.VALIDATED} if signing else {State.SIGNED}
        self.applied = [result for result in self.results if result["stage"] == Stage.APPLY]
        self.rolled_back = State.ROLLED_BACK in self.told

    def checks(self) -> Iterator[Check]:
        batch = self.batch
        if batch.state is None and not self.results:
            yield Check("database", True, "it holds nothing of this batch, and no report tells of anything that stays")
            return
        if batch.state is None:
            yield Check("database", False, f"expected batch {batch.batch_id}, found none; is this the right database?")
            return
        note = place_note(self.connection, batch, last_run(self.manifest)) if self.manifest else ""
        yield Check("database", True, f"batch {batch.batch_id} is {batch.state.value}{note}")
        if self.told:
            yield self._state(batch.state)
        planned = [result["plan_digest"] for result in self.results if result["plan_digest"]]
        if planned or batch.plan_digest:
            told = planned[-1] if planned else None
            said = f"the last report says {told or 'none'}, the database {batch.plan_digest}"
            yield Check("plan_digest", told == batch.plan_digest, said)
        if batch.plan is not None or batch.plan_digest:
            found = batch.stored_digest()
            yield Check("stored_plan", found == batch.plan_digest, f"the stored plan's own digest is {found}")
        if self.applied or batch.state is State.APPROVED:
            yield self._approval()
        yield self._audit_rows()
        if self.applied:
            yield self._order_rows()
        if self._told_approvals(Stage.ROLLBACK):
            yield self._rollback_approval()
        if self.manifest:
            yield from record_checks(self.connection, batch, self.folder, self.manifest, self.results)

    def _is_signed(self) -> bool:
        """Whether the youngest signature was given for all that was written; a refusal since then wrote nothing."""
        signed = signed_files(self.folder, self.manifest) if self.manifest else None
        return signed is not None and all(result["report"] in signed for result in self.results)

    def _state(self, state: State) -> Check:
        told = " or ".join(sorted(one.value for one in self.told))
        hint = SIGNATURE_GONE if state is State.SIGNED else REPORT_GONE
        said = f"the reports say {told}, the database {state.value}"
        return Check("state", state in self.told, said if state in self.told else f"{said}; {hint}")

    def _approval(self) -> Check:
        """The approval releases every row of the plan, and is the one that the apply's report tells of."""
        approval = self.batch.approval or {}
        released = {
            item["order_id"]
            for result in self.results
            if result["plan_digest"] == self.batch.plan_digest
            for item in result["items"]
            if item["order_id"]
        }
        wrong = self._unlike(approval, Stage.APPLY)
        apart = released ^ set(approval.get("items") or ())
        wrong += [f"{order_id} is in the plan or in the approval alone" for order_id in sorted(apart)]
        return Check("approval", not wrong, "; ".join(wrong) or approval_told(approval))

    def _rollback_approval(self) -> Check:
        """The approval by which the rows were canceled is the one that the rollback's report tells of."""
        approval = self.batch.rollback_approval or {}
        wrong = self._unlike(approval, Stage.ROLLBACK)
        return Check("rollback_approval", not wrong, "; ".join(wrong) or approval_told(approval))

    def _told_approvals(self, stage: Stage) -> list[str]:
        """What the reports of a stage say of the approval that it went by."""
        checks = [check for result in self.results if result["stage"] == stage for check in result["checks"]]
        return [check["detail"] for check in checks if check["name"] == "approved"]

    def _unlike(self, approval: Mapping[str, Any], stage: Stage) -> list[str]:
        """What the reports of a stage say of its approval otherwise than the database; and another plan or action."""
        said, signed = approval_told(approval), "signature" in approval
        wrong = [
            f"the report says {detail}, the database {said}; {'signed' if signed else NOT_SIGNED}"
            for detail in self._told_approvals(stage)
            if not tells_of(detail, said, signed)
        ]
        if approval.get("plan_digest") != self.batch.plan_digest:
            wrong.append(f"it is of plan {approval.get('plan_digest')}")
        if approval.get("action", stage) != stage:
            wrong.append(f"it is an approval of {approval['action']}")
        return wrong

    def _audit_rows(self) -> Check:
        rows = audit.batch_rows(self.connection, self.batch.profile_id, self.batch.batch_id)
        approved = self.applied or self.batch.state is State.APPROVED
        approver = (self.batch.approval or {}).get("by") if approved else None
        results = [result for result in self.results if result["stage"] in (Stage.DRY_RUN, Stage.APPLY)]
        wrong = [*findings(rows, results, self.actors, approver), *self._marks(rows), *self._clients(rows)]
        return Check("audit_rows", not wrong, "; ".join(wrong) or f"{count(len(rows), 'row')} as reported")

    def _marks(self, rows: Sequence[AuditRow]) -> Iterator[str]:
        """A rollback marks every row of the batch, and nothing else marks any."""
        for row in rows:
            if self.rolled_back and row.reverted_at is None:
                yield f"{audited_line(row).name} is not marked as reverted"
            elif not self.rolled_back and row.reverted_at is not None:
                yield f"{audited_line(row).name} is marked as reverted at {canonical_time(row.reverted_at)}"

    def _clients(self, rows: Sequence[AuditRow]) -> Iterator[str]:
        """The client order id is not in a report: it is held against the stored plan, which has a digest."""
        items = (self.batch.plan or {}).get("document", {}).get("items", ())
        planned = {item["order_id"]: item["client_order_id"] for item in items if item["order_id"]}
        for row in rows:
            if row.plan_digest == self.batch.plan_digest and row.order_id in planned:
                expected = planned[row.order_id]
                if row.client_order_id != expected:
                    yield f"{audited_line(row).name} has client order {row.client_order_id}, planned {expected}"

    def _order_rows(self) -> Check:
        """The rows of the last apply stand, or are canceled; no backfill row stands on their trades beside them."""
        profile_id, orders = self.batch.profile_id, Orders.reflect(self.connection)
        items = [item for result in self.applied for item in result["items"] if item["decision"] in WRITTEN]
        reported = {item["order_id"]: item_from({"client_order_id": None} | item) for item in items}
        trades = {item["trade_id"] for result in self.results for item in result["items"]}
        there = [row for row in orders.rows(self.connection, profile_id, trade_ids=trades) if row.is_backfill]
        known = {batch.batch_id for batch in batches.every(self.connection, profile_id)}
        owners = audit.owners(self.connection, profile_id, {*reported, *(row.order_id for row in there)})
        standing = set() if self.rolled_back else reported.keys()
        owners = {one: owner for one, owner in owners.items() if owner in known or one in standing}
        status = "canceled" if self.rolled_back else "filled"
        expected = [
            item
            for order_id, item in reported.items()
            if not self.rolled_back or owners.get(order_id, self.batch.batch_id) == self.batch.batch_id
        ]
        wrong = altered_rows(self.connection, orders, profile_id, expected, status=status)
        for row in there:
            if row.is_filled and row.order_id not in {*owners, *wrong}:
                wrong[row.order_id] = (
                    f"is filled on trade {row.trade_id}, and no live APPLIED audit row of a known batch names it"
                )
        listed = "; ".join(f"{order_id} {what}" for order_id, what in wrong.items())
        others = len(reported) - len(expected)
        good = f"{count(len(expected), 'row')} as reported" + (" and canceled" if self.rolled_back else "")
        return Check("order_rows", not wrong, listed or good + (f"; other batches own {others}" if others else ""))


def _manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None when it is of the older form, or none: what is wrong with it is told elsewhere."""
    try:
        manifest = read_manifest(folder)
    except OSError:
        return None
    return manifest if manifest.is_statement else None


def _lasts(result: dict[str, Any]) -> bool:
    """Whether the stage wrote what the database remembers; a refusal, or a reader's detect, leaves nothing."""
    if any(check["name"] == "events_recorded" and not check["ok"] for check in result["checks"]):
        return False
    return "code" not in result or (result["verdict"] == Verdict.FAILED and result["code"] in LASTING)


def _told_states(results: Sequence[dict[str, Any]]) -> set[State]:
    """The states in which the reports leave the batch; an approval has no report. Empty when they do not say."""
    last = {result["stage"]: result for result in results}
    if Stage.ROLLBACK in last:
        return {State.ROLLED_BACK}
    if Stage.VALIDATE in last:
        return {State.APPLIED if "code" in last[Stage.VALIDATE] else State.VALIDATED}
    if Stage.APPLY in last:
        return {State.APPLIED}
    if Stage.DRY_RUN in last:
        return {State.PLANNED, State.APPROVED}
    return {State.DETECTED} if Stage.DETECT in last else set()
