"""Recon's steps in a life, each held against the model and every invariant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from incidents import EVERYTHING

from life import model, reports
from life.backend import PASSWORD, TOKEN, Backend
from life.invariants import Broken, Step, faults_of, same_facts_same_plan
from life.model import Batch, Outcome
from life.people import Given
from life.seen import as_planned
from recon.domain import Stage
from recon.errors import ReconError
from recon.incident import exact, run_stage
from recon.plan import Scope
from recon.sign_off import sign_report
from recon.stages.approve import approve, approve_rollback
from recon.workspace import Workspace


class Life(Backend):
    """One life: what `Backend` lets happen, and the steps of recon."""

    def work(self, scope: Scope = EVERYTHING, **flags: object) -> Workspace:
        """Recon's own view of all this."""
        hours = int(self.lookback.total_seconds()) // 3600
        given = {
            "recon_exit_backfill_lookback_hours": hours, "recon_trading_status_token": TOKEN,
            "recon_database_url": self.incident.url, "recon_reports_dir": self.folder / "reports",
            "recon_allowed_signers": self.keys.allowed if self.house.named else None,
            "recon_require_signature": self.house.required, "recon_require_second_person": self.house.second,
            "recon_approval_ttl_hours": self.house.hours,
        }  # fmt: skip
        return self.incident.work(now=self.now, scope=scope, **(given | self.rules | flags))

    def stage(self, action: str, name: str, scope: model.Scope | None = None, profile: str | None = None) -> Step:
        """One stage of the batch; for another profile when named. Raises `Broken`."""
        work = self.work(Scope(scope.trade_ids, scope.symbols) if scope else EVERYTHING)

        def call() -> tuple[Outcome, Any]:
            keeps = self.keeps and profile in (None, self.profile)
            run = reports.kept if keeps else run_stage
            result = run(work, Stage(action), profile or self.profile, name)
            return (result.verdict.value, result.code), result

        return self._step(action, name, profile or self.profile, call, scope=scope or model.Scope())

    def approve(
        self, name: str, acknowledge: Mapping[str, str], by: str = "a reviewer", key: str | None = None
    ) -> Step:
        """Approve the batch's plan, with a key if one is named. Raises `Broken`."""
        texts = [f"{trade}={why}" for trade, why in acknowledge.items()]
        path = self.keys.folder / key if key else None
        given = Given(by.strip(), key, self._next() + self.house.ttl)
        return self._person(
            "approve", name, lambda: approve(self.work(), name, by, texts, key=path),
            acknowledge=acknowledge, approval=given,
        )  # fmt: skip

    def approve_rollback(self, name: str, by: str = "a reviewer", key: str | None = None) -> Step:
        """Approve the rollback of the batch, with a key if one is named. Raises `Broken`."""
        path = self.keys.folder / key if key else None
        rows = model.owned(self.around(), name)
        given = Given(by.strip(), key, self._next() + self.house.ttl, frozenset(rows))
        return self._person(
            "approve-rollback", name, lambda: approve_rollback(self.work(), name, by, key=path), approval=given
        )

    def sign(self, name: str, key: str) -> Step:
        """Sign the report of the batch. Raises `Broken`."""
        path = self.keys.folder / key
        return self._person("sign", name, lambda: sign_report(self.work().settings, name, path), key=key)

    def _next(self) -> datetime:
        """When the next step will be taken."""
        return self.now + timedelta(seconds=1)

    def _person(self, action: str, name: str, done: Callable[[], Any], **given: Any) -> Step:
        """What a person does, and no notebook."""

        def call() -> tuple[Outcome, Any]:
            try:
                with exact():
                    return ("signed" if action == "sign" else "approved", None), done()
            except ReconError as error:
                return ("NO_GO", error.code), error

        return self._step(action, name, self.profile, call, **given)

    def _step(self, action: str, name: str, profile: str, call: Any, **given: Any) -> Step:
        self.now = self._next()
        batch, around = self.batch(name), self.around()
        expected = model.expected(around, action, batch, profile, name, **given)
        known = replace(batch)
        if action == "dry-run":
            known.targets = given["scope"].targets(around.seen.open_quantities(self.profile))
        self.glimpses.clear()
        outcome, result = call()
        step = Step(
            action, name, profile, around, self.look(), known, outcome, expected, result, _told(result),
            (TOKEN, PASSWORD), tuple(self.glimpses),
        )  # fmt: skip
        self.steps[action, outcome[1] or outcome[0]] += 1
        if action == "rollback" and step.writes:
            self.memory.by_hand |= self.memory.once_by_hand & model.owners(step.after, self.profile).keys()
        faults = faults_of(step, self.memory)
        if not faults:
            faults = [*self._remember(step, batch, **given)]
        if faults:
            raise Broken(step, faults)
        return step

    def _remember(self, step: Step, batch: Batch, **given: Any) -> Any:
        """Carry on what the step did; yields what the plan of a dry run contradicts."""
        ok = step.outcome[1] is None
        if step.profile != self.profile:
            return
        if step.action == "detect" and ok:
            batch.state = batch.state or "detected"
        elif step.action == "dry-run" and ok:
            yield from self._planned(step, batch, given["scope"])
        elif step.action == "approve" and ok:
            document = step.after.document(step.name)
            released = set(document["approval"]["items"])
            batch.approved = tuple(i for i in document["plan"]["document"]["items"] if i["order_id"] in released)
            batch.state, batch.given = "approved", given["approval"]
        elif step.action == "approve-rollback" and ok:
            batch.undo = given["approval"]
        elif step.action == "sign" and ok:
            batch.signers |= {given["key"]}
            batch.state = "rolled_back" if batch.state == "rolled_back" else "signed"
        elif step.action == "apply" and step.outcome[1] == "stale_plan":
            batch.state = "planned"
        elif step.action == "apply" and step.writes:
            own = {item["order_id"] for item in batch.approved}
            for trade in batch.targets:
                batch.opened[trade] = model.open_and_rest(step.before, self.profile, trade, own)
            self.memory.by_hand -= own
            batch.state = "applied"
        elif step.action == "apply" and batch.state == "signed" and (ok or step.outcome[1] == "existing_row_differs"):
            batch.state = "validated"
        elif step.action == "validate":
            batch.state = {None: "validated", "validation_failed": "applied"}.get(step.outcome[1], batch.state)
        elif step.action == "rollback" and ok:
            batch.state = "rolled_back"
        stored = step.after.document(step.name) if step.name in step.after.batches else {}
        kept = {"approval": batch.given, "rollback_approval": batch.undo}
        if self.keeps and "scope" in given:
            batch.shown |= {each for name, each in kept.items() if stored.get(name) and each}
        state = stored.get("state")
        if state != batch.state:
            yield 0, f"expected the batch to be {batch.state}, it is {state}"

    def _planned(self, step: Step, batch: Batch, scope: model.Scope) -> Any:
        batch.state, batch.scope, batch.targets = "planned", scope, step.batch.targets
        batch.digest, batch.items = step.result.plan_digest, step.result.items
        batch.window, batch.approved, batch.given = step.around.window(), (), None
        batch.trades = model.by_trade(step.before, self.profile)
        batch.facts = model.facts(step.around, batch.targets, batch.window, step.around.word)
        but_for = model.facts(step.around, batch.targets, batch.window, step.around.word, canceled=False)
        yield from same_facts_same_plan(step, self.memory, batch.facts, but_for)

    # Several steps at once

    def needed(self, name: str) -> dict[str, str]:
        """Every acknowledgement that the batch's plan needs."""
        return dict.fromkeys(sorted(self.batch(name).needing), "looked at")

    def advance(self, name: str, upto: str, scope: model.Scope | None = None) -> None:
        """From detect as far as named, with the acknowledgements that are needed; each step held against everything."""
        for action in ("detect", "dry-run", "approve", "apply", "validate"):
            step = self.approve(name, self.needed(name), *self.house.fitting()) if action == "approve" else self.stage(
                action, name, scope if action == "dry-run" else None
            )  # fmt: skip
            if action == upto or step.outcome[1] is not None:
                return

    def roll_back(self, name: str) -> None:
        """Roll the batch back, with an approval where one is required."""
        if self.house.required:
            self.approve_rollback(name, *self.house.fitting())
        self.stage("rollback", name)

    def stands(self, name: str) -> bool:
        """Whether every approved row of the batch is there, as approved and filled."""
        orders = self.look().orders
        return all(as_planned(orders.get(item["order_id"]), item) for item in self.batch(name).approved)


def _told(result: Any) -> str:
    return f"{getattr(result, 'message', '')} {result!r}"
