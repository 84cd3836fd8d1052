"""What an approved batch released: its items, whether their rows still stand, and what was acknowledged.

Shared by apply, validate, rollback and verify; nothing here writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from recon.batches import Batch
from recon.criteria import differences
from recon.domain import Check, Item, Table
from recon.identity import digest
from recon.orders import Orders
from recon.plan import item_from
from recon.wording import count


def released_items(batch: Batch) -> list[Item]:
    """The approved items of a batch, from its stored plan and approval."""
    items = [item_from(document) for document in (batch.plan or {}).get("document", {}).get("items", ())]
    wanted = set((batch.approval or {}).get("items", ()))
    return [item for item in items if item.writes and item.order_id in wanted]


def altered_rows(
    connection: Connection, orders: Orders, profile_id: str, items: Sequence[Item], *, status: str = "filled"
) -> dict[str, str]:
    """For each item whose row is not there, identical and of that status: what is wrong with it; reads only."""
    ids = [item.order_id or "" for item in items]
    found = {row.order_id: row for row in orders.rows(connection, profile_id, order_ids=ids)}
    wrong = {}
    for item in items:
        row = found.get(item.order_id or "")
        if row is None:
            wrong[item.order_id or ""] = "is missing"
        elif differing := differences(item, row, profile_id, orders.columns):
            wrong[item.order_id or ""] = f"differs in {', '.join(differing)}"
        elif row.status != status:
            wrong[item.order_id or ""] = f"has status {row.status!r}"
    return wrong


def approval_check(batch: Batch) -> Check:
    """By whom and until when the plan was approved, and what was acknowledged: so the sealed result holds it too."""
    approval = batch.approval or {}
    given = approval.get("acknowledgements") or {}
    told = f"by {approval.get('by')!r}, valid until {approval.get('expires_at')}"
    named = f"{count(len(given), 'acknowledgement')}, SHA-256 {digest(given)}" if given else "no acknowledgement"
    return Check("approved", True, f"{told}; {named}")


def acknowledgements(batch: Batch) -> Table:
    """Who acknowledged what, and why; shown in every report after the approval."""
    approval = batch.approval or {}
    rows = tuple(
        (trade, why, approval.get("by")) for trade, why in sorted(approval.get("acknowledgements", {}).items())
    )
    return Table(
        "Acknowledgements",
        "Trades that a person named at approval, with the reason given.",
        ("trade_id", "reason given", "by"),
        rows,
    )
