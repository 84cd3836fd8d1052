"""What an approved batch released: its items, whether their rows still stand, and what was acknowledged.

Shared by apply, validate, rollback and verify; nothing here writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from recon import audit
from recon.approval import NOT_SIGNED
from recon.batches import Batch
from recon.criteria import differences
from recon.domain import Check, Item, Table
from recon.errors import Refused
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


def owned_items(connection: Connection, orders: Orders, batch: Batch) -> tuple[list[Item], tuple[tuple[str, str], ...]]:
    """The approved items whose rows the batch owns now, each as it was written; and what it touched of others.

    The latter are order_ids with their owners. Reads only. Raises `Refused` (row_changed).
    """
    items = {item.order_id or "": item for item in released_items(batch)}
    touched = audit.touched_ids(connection, batch.profile_id, batch.batch_id)
    owner = audit.owners(connection, batch.profile_id, touched)
    mine = {order_id for order_id in touched if owner.get(order_id) == batch.batch_id}
    own = [items[order_id] for order_id in sorted(mine & items.keys())]
    wrong = altered_rows(connection, orders, batch.profile_id, own)
    wrong |= dict.fromkeys(sorted(mine - items.keys()), "is not in the approved plan")
    if wrong:
        listed = "; ".join(f"{order_id} {what}" for order_id, what in wrong.items())
        raise Refused(
            "row_changed",
            f"Rows are no longer as this batch wrote them: {listed}. Nothing was changed; find out who changed them.",
        )
    return own, tuple((order_id, owner.get(order_id, "none")) for order_id in sorted(touched - mine))


def approval_told(document: Mapping[str, Any] | None) -> str:
    """By whom and until when an approval was given, and what was acknowledged; not how it is signed."""
    approval = document or {}
    given = approval.get("acknowledgements") or {}
    told = f"by {approval.get('by')!r}, valid until {approval.get('expires_at')}"
    named = f"{count(len(given), 'acknowledgement')}, SHA-256 {digest(given)}" if given else "no acknowledgement"
    return f"{told}; {named}"


def tells_of(detail: str, said: str, signed: bool) -> bool:
    """Whether a report's words are those of an approval; by whom it was signed may be known better now than then."""
    how = detail.removeprefix(said)
    return detail.startswith(said) and (how.startswith("; signed") if signed else how in ("", f"; {NOT_SIGNED}"))


def approval_check(document: Mapping[str, Any] | None, signed: str, *, ok: bool = True) -> Check:
    """The approval that a stage went by, and how it is signed: so the sealed result holds it too."""
    return Check("approved", ok, f"{approval_told(document)}; {signed}")


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
