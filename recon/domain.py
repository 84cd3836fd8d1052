"""The nouns of reconciliation: order rows, fills, lifecycles, allocations, items and results.

Nothing here reads, writes, or knows the time. Quantities and prices are `Decimal`, instants are aware
UTC `datetime`s. The words are those of `rules.md`, section 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

FILLED = frozenset({"filled", "partially_filled", "partially-filled"})
"""Statuses whose quantity counts (runbook section 1)."""

TERMINAL_UNFILLED = frozenset({"canceled", "cancelled", "expired", "rejected", "failed", "replaced", "done_for_day"})
"""Statuses that end an order without a fill; any status in neither set blocks the lifecycle (rules.md 4)."""

CANCELED = frozenset({"canceled", "cancelled"})
"""Statuses of a backfill row that was rolled back or canceled by hand, and may be reinstated."""

BACKFILL_PREFIX = "BFILL-"
"""Every row that recon ever wrote has an order_id that begins so (runbook section 3)."""


class Stage(StrEnum):
    """The stages of a batch that have a notebook, in the order of the runbook."""

    DETECT = "detect"
    DRY_RUN = "dry-run"
    APPLY = "apply"
    VALIDATE = "validate"
    ROLLBACK = "rollback"


class State(StrEnum):
    """Where a batch stands; the legal transitions are in `recon.batches`."""

    DETECTED = "detected"
    PLANNED = "planned"
    APPROVED = "approved"
    APPLIED = "applied"
    VALIDATED = "validated"
    SIGNED = "signed"
    ROLLED_BACK = "rolled_back"


class Verdict(StrEnum):
    """The outcome of a stage; `exit_status` is what a process ends with."""

    GO = "GO"
    NO_GO = "NO_GO"
    DONE = "DONE"
    FAILED = "FAILED"

    @property
    def exit_status(self) -> int:
        """0 for GO and DONE, 1 for FAILED, 3 for NO_GO."""
        return {"GO": 0, "DONE": 0, "FAILED": 1, "NO_GO": 3}[self.value]


class Side(StrEnum):
    """The side of an order or a fill."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        """The side that closes a position opened on this one."""
        return Side.SELL if self is Side.BUY else Side.BUY


class Decision(StrEnum):
    """What an audit row says (runbook sections 5 to 9)."""

    DRY_RUN = "DRY_RUN"
    NO_GO = "NO_GO"
    PENDING_APPLY = "PENDING_APPLY"
    APPLIED = "APPLIED"
    SKIP_EXISTING = "SKIP_EXISTING"


class Grade(StrEnum):
    """How surely a unit belongs to a trade, surest first (rules.md 6)."""

    LINKED = "linked"
    EXACT = "exact"
    FIFO = "fifo"


class Reason(StrEnum):
    """Stable reason codes; each is explained in rules.md 7 and in the README."""

    FILL_EVIDENCE = "fill_evidence"
    DUST_REMAINDER = "dust_remainder"
    DUST_ONLY = "dust_only"
    BASE_FEE = "base_fee"
    REINSTATE = "reinstate"
    MISSING_FILL_EVIDENCE = "missing_fill_evidence_for_large_remainder"
    EVIDENCE_WINDOW_TOO_SHORT = "evidence_window_too_short"
    RESIDUAL_IS_BASE_FEE = "residual_is_base_fee"
    EXCHANGE_NOT_FLAT = "exchange_not_flat"
    EXCHANGE_POSITION_UNKNOWN = "exchange_position_unknown"
    EXCHANGE_OPEN_ORDERS = "exchange_open_orders"
    PENDING_LIFECYCLE_BLOCKER = "pending_lifecycle_blocker"
    DATA_QUALITY = "data_quality"
    EXISTING_ROW_DIFFERS = "existing_row_differs"
    UNIT_UNKNOWN = "unit_unknown"
    UNREPRESENTABLE_QUANTITY = "unrepresentable_quantity"
    INVALID_IDENTIFIER = "invalid_identifier"
    PROFILE_NOT_PAUSED = "profile_not_paused"
    PAUSE_UNKNOWN = "pause_unknown"
    AUDIT_UNAVAILABLE = "audit_unavailable"


REMAINDER_REASONS = frozenset(
    {Reason.MISSING_FILL_EVIDENCE, Reason.EVIDENCE_WINDOW_TOO_SHORT, Reason.RESIDUAL_IS_BASE_FEE}
)
"""NO_GO reasons that concern the remainder alone: acknowledged, the evidence-backed rows are still released."""

BATCH_REASONS = frozenset({Reason.PROFILE_NOT_PAUSED, Reason.PAUSE_UNKNOWN, Reason.AUDIT_UNAVAILABLE})
"""NO_GO reasons of a whole batch: nothing can acknowledge them."""


NOT_FINITE = "its quantity is not a finite number"
"""What is wrong with a quantity of NaN or infinity, which PostgreSQL takes for greater than any number."""


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One row of `orders` as recon reads it.

    `quantity` is COALESCE(quantity, qty, 0) and `qty` the column of that name; `quantity_problem` says why the
    quantity cannot be trusted, if it cannot. `filled_at` falls back to created_at, and `filled_at_assumed` says
    so. `raw_side` is the text of the column, None when the column is absent or NULL.
    """

    order_id: str
    profile_id: str
    symbol: str
    trade_id: str | None
    action: str
    status: str | None
    quantity: Decimal
    price: Decimal | None
    filled_at: datetime
    created_at: datetime
    raw_side: str | None = None
    exchange_order_id: str | None = None
    client_order_id: str | None = None
    qty: Decimal | None = None
    quantity_problem: str | None = None
    filled_at_assumed: bool = False

    @property
    def is_filled(self) -> bool:
        """Whether the row's quantity counts."""
        return self.status in FILLED

    @property
    def is_backfill(self) -> bool:
        """Whether the row's id says that recon wrote it."""
        return self.order_id.startswith(BACKFILL_PREFIX)


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution reported by the exchange; `fee` is in `fee_currency`, positive when paid."""

    fill_id: str
    exchange_order_id: str
    client_order_id: str | None
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal | None
    fee_currency: str | None
    filled_at: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """One leg that the exchange reports: signed quantity, never netted with another leg."""

    symbol: str
    qty: Decimal


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order that the exchange still works."""

    exchange_order_id: str
    client_order_id: str | None
    symbol: str
    side: Side
    qty: Decimal
    filled_qty: Decimal
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """The span of time, both ends included, in which fills count as evidence."""

    start: datetime
    end: datetime

    def holds(self, instant: datetime) -> bool:
        """Whether an instant lies inside."""
        return self.start <= instant <= self.end


@dataclass(frozen=True, slots=True)
class Gap:
    """A span, both ends included, in which fills of a symbol (None: of any) may be missing, and why."""

    symbol: str | None
    start: datetime
    end: datetime
    why: str

    def touches(self, start: datetime, end: datetime) -> bool:
        """Whether the gap and the span from `start` to `end` share an instant."""
        return self.start <= end and start <= self.end


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a venue: what was asked (symbol, span, cursor), how many fills it held, and when it was read."""

    symbol: str | None
    start: datetime
    end: datetime
    cursor: Mapping[str, str | int]
    fills: int
    read_at: datetime


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why nothing may be written on a symbol (as the table spells it): a reason of rules.md 7 with its sentence."""

    symbol: str
    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was fetched of a live venue, when and page by page; it decides nothing."""

    venue: str
    fetched_at: datetime
    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stage needs to know of the exchange, in symbols as `orders` spells them.

    `symbols` are those whose fills and positions matter, `also` the others of the table, whose positions do; `begin` is
    the earliest beginning of an open trade.
    """

    symbols: tuple[str, ...] = ()
    begin: datetime | None = None
    also: tuple[str, ...] = ()


NOTHING_SPECIAL = Wanted()
"""No symbol and no beginning in particular."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the exchange said, once: `positions` None means unknown, `open_orders` None means not checked.

    `fills` lie inside `window` and are free of duplicates. `notes` are sentences for the report. `replaced` names, for
    an exchange order, the order that it replaced. `asked` are the canonical symbols that `positions` covers, None where
    it covers all: a symbol that was never asked for is unknown, not flat.
    """

    source: str
    window: Window
    fills: tuple[Fill, ...]
    positions: tuple[Position, ...] | None
    open_orders: tuple[OpenOrder, ...] | None
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    asked: frozenset[str] | None = None
    coverage: Coverage | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a plan: a row to write, or one NO_GO reason of one trade (design of the JSON: rules.md 9).

    `qty` is in units of the symbol, `price` in its quote; both are None where they mean nothing. `detail`
    says expected, found and what to do, for people; it is not part of the plan digest.
    """

    trade_id: str
    symbol: str
    side: Side | None
    decision: Decision
    reason: Reason
    grade: Grade | None = None
    qty: Decimal | None = None
    price: Decimal | None = None
    filled_at: datetime | None = None
    exchange_order_id: str | None = None
    client_order_id: str | None = None
    order_id: str | None = None
    detail: str = field(default="", compare=False)

    @property
    def writes(self) -> bool:
        """Whether releasing the item writes a row."""
        return self.order_id is not None and self.decision is not Decision.NO_GO


@dataclass(frozen=True, slots=True)
class Check:
    """One checked condition; `detail` says what was expected, found, and what to do.

    One that fails as a `demand` lacks something that is required, and speaks against nothing that is there.
    """

    name: str
    ok: bool
    detail: str
    is_demand: bool = False


Cell = str | int | Decimal | datetime | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people: a title, one sentence on how to read it, column names, rows of cells."""

    title: str
    reading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one stage found or did; the same for notebook, JSON and console.

    `code` and `message` are set when the stage was refused or failed. `tables` are keyed by a stable name,
    `facts` are what the notebook's prose needs beside the tables.
    """

    stage: Stage
    profile_id: str
    batch_id: str
    verdict: Verdict
    plan_digest: str | None = None
    checks: tuple[Check, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    items: tuple[Item, ...] = ()
    code: str | None = None
    message: str | None = None
    tables: Mapping[str, Table] = field(default_factory=dict)
    facts: Mapping[str, Cell] = field(default_factory=dict)
