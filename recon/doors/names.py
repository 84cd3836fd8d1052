"""The names of the roles and of the doors."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """A login-less role to grant to people; each has the rights of one kind of work, and SELECT."""

    READER = "recon_reader"
    PLANNER = "recon_planner"
    APPROVER = "recon_approver"
    APPLIER = "recon_applier"
    UNDOER = "recon_undoer"


OWNER = "recon_owner"
"""Owns recon's tables and the doors, and is granted to nobody."""

LOCK = "reconciliation_door_lock"
"""The view through which `orders` is locked; it shows no row."""

INSERT = "reconciliation_door_insert"
"""The view that takes rows identical to an item of an approved, unexpired plan."""

REINSTATE = "reconciliation_door_reinstate"
"""The view through which canceled rows that such a plan reinstates become filled again."""

CANCEL = "reconciliation_door_cancel"
"""The view that shows the rows which a batch owns, in the transaction that rolls it back."""

WAY_BACK = "reconciliation_door_way_back"
"""The function that tries whether a row could be canceled, and takes it back."""

TRIGGER_FUNCTIONS = (
    "reconciliation_append_only()",
    "reconciliation_guard_batches()",
    "reconciliation_never()",
    "reconciliation_guard_audit()",
    "reconciliation_guard_marks()",
    "reconciliation_settled()",
)
"""Every trigger's function, that of the append-only audit trail included."""
