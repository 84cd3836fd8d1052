"""What every approval shares: shown before it is signed, signed outside any transaction, recorded if nothing changed.

Entry points: `Approval`, `release`. Rules: rules.md 12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from recon.approval import NOT_SIGNED, require_ready, require_valid, signed_bytes
from recon.batches import Action, Batch
from recon.database import transaction
from recon.domain import Item, Reason
from recon.doors.access import behind
from recon.doors.names import Role
from recon.errors import Refused
from recon.identity import canonical_decimal, canonical_time
from recon.signatures import PLAN, sign
from recon.wording import count
from recon.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be approved: apply or rollback, of which rows, and what is acknowledged by trade."""

    action: Action
    released: tuple[Item, ...]
    acknowledgements: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval, whole but for the signature until that is made; `told` says in words how it is signed."""

    action: Action
    batch_id: str
    profile_id: str
    plan_digest: str
    by: str
    approved_at: datetime
    expires_at: datetime
    released: tuple[Item, ...]
    acknowledgements: Mapping[str, str]
    signature: str | None = None
    told: str = NOT_SIGNED

    def document(self) -> dict[str, Any]:
        """The document that is approved and that apply or rollback executes; signed without its signature."""
        return {
            "action": self.action.value,
            "batch_id": self.batch_id,
            "profile_id": self.profile_id,
            "plan_digest": self.plan_digest,
            "items": [item.order_id for item in self.released],
            "acknowledgements": dict(self.acknowledgements),
            "by": self.by,
            "approved_at": canonical_time(self.approved_at),
            "expires_at": canonical_time(self.expires_at),
        } | ({} if self.signature is None else {"signature": self.signature})

    def data(self) -> dict[str, Any]:
        """The document, and what a person is shown of it, as data; quantities and notionals are decimal strings."""
        groups: dict[tuple[str, Reason], list[Item]] = {}
        for item in self.released:
            groups.setdefault((item.symbol, item.reason), []).append(item)
        return self.document() | {
            "rows": len(self.released),
            "symbols": [
                {"symbol": symbol, "reason": reason.value, "rows": len(items), **_sums(items)}
                for (symbol, reason), items in sorted(groups.items())
            ],
            "dust_only": [
                {"trade_id": item.trade_id, "symbol": item.symbol, **_sums([item])}
                for item in self.released
                if self._rests_on_no_fill(item)
            ],
            "signed": self.told,
        }

    def _rests_on_no_fill(self, item: Item) -> bool:
        """Dust of a trade without any evidence, be it written or reinstated: its trade had to be acknowledged."""
        reinstated = item.reason is Reason.REINSTATE and item.exchange_order_id is None
        return item.reason is Reason.DUST_ONLY or (reinstated and item.trade_id in self.acknowledgements)

    def lines(self) -> list[str]:
        """What is approved, for the person who is about to approve it."""
        data = self.data()
        verb = "canceled" if self.action is Action.ROLLBACK else "written"
        lines = [f"to be {verb}: {count(len(self.released), 'row')} of plan {self.plan_digest}"]
        for one in data["symbols"]:
            sums = f"quantity {one['quantity']}, notional {one['notional']}"
            lines.append(f"{one['symbol']} {one['reason']}: {count(one['rows'], 'row')}, {sums}")
        for one in data["dust_only"]:
            lines.append(f"dust without a fill: {one['trade_id']} ({one['symbol']}), notional {one['notional']}")
        lines += [f"acknowledged {trade_id}: {why}" for trade_id, why in self.acknowledgements.items()]
        return [*lines, f"valid until {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"]


def _sums(items: list[Item]) -> dict[str, str]:
    qty = sum((item.qty or Decimal(0) for item in items), Decimal(0))
    notional = sum(((item.qty or Decimal(0)) * (item.price or Decimal(0)) for item in items), Decimal(0))
    return {"quantity": canonical_decimal(qty), "notional": canonical_decimal(notional)}


def show_nothing(approval: Approval) -> None:
    """For whoever approves by a program."""


def release(
    work: Workspace,
    load: Callable[[Connection, bool], Batch],
    by: str,
    draft: Callable[[Connection, Batch], Draft],
    record: Callable[[Connection, Batch, Approval], None],
    *,
    key: Path | None,
    show: Callable[[Approval], None],
) -> Approval:
    """Draft an approval, show it, sign it with `key`, if one is given, and record it; writes what `record` writes.

    `load` gives the batch, and locks it if told to. While a passphrase is asked nothing is locked; what changed
    meanwhile is refused. Raises what `sign` and `require_valid` raise, and `Refused`: role_missing,
    stale_plan.
    """
    engine = behind(work.engine, Role.APPROVER)
    with transaction(engine, read_only=True) as connection:
        now = work.now(connection)
        batch = load(connection, False)
        approval = _drafted(batch, draft(connection, batch), by, now, work.settings.recon_approval_ttl_hours)
    require_ready(by, batch, work.settings, signed=key is not None)
    show(approval)
    if key is not None:
        approval = replace(approval, signature=sign(signed_bytes(approval.document()), key, PLAN))
    told = require_valid(approval.document(), approval.action, batch, work.settings, now)
    with transaction(engine) as connection:
        held = load(connection, True)
        require_ready(by, held, work.settings, signed=key is not None)
        again = _drafted(held, draft(connection, held), by, now, work.settings.recon_approval_ttl_hours)
        if held.plan != batch.plan or signed_bytes(again.document()) != signed_bytes(approval.document()):
            raise Refused(
                "stale_plan",
                f"Batch {batch.batch_id} changed while it was being approved. Nothing was recorded; look at it again.",
            )
        record(connection, held, approval)
    return replace(approval, told=told)


def _drafted(batch: Batch, drafted: Draft, by: str, now: datetime, hours: int) -> Approval:
    return Approval(
        drafted.action,
        batch.batch_id,
        batch.profile_id,
        batch.plan_digest or "",
        by,
        now,
        now + timedelta(hours=hours),
        drafted.released,
        drafted.acknowledgements,
    )
