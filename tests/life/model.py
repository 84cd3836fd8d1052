"""How every step must end, said beforehand from what is in the database and what the world did; calls no recon.

The table of legal steps and every rule here are written a second time on purpose, from the rules and not from the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from life.people import Given, House
from life.seen import (
    ENDED,
    FILLED,
    SIGN,
    ZERO,
    Row,
    Seen,
    Trade,
    as_planned,
    begun,
    content,
    entry_side,
    fingerprint,
    is_backfill,
    market,
    quantity,
    runbook_id,
)

LEGAL: Mapping[str, frozenset[str | None]] = {
    "detect": frozenset({None, "detected", "planned", "approved"}),
    "dry-run": frozenset({"detected", "planned", "approved"}),
    "approve": frozenset({"planned", "approved"}),
    "apply": frozenset({"approved", "applied", "validated", "signed"}),
    "validate": frozenset({"applied", "validated", "signed"}),
    "approve-rollback": frozenset({"applied", "validated", "signed"}),
    "rollback": frozenset({"applied", "validated", "signed", "rolled_back"}),
    "sign": frozenset({"validated", "signed", "rolled_back"}),
}
"""From which states a step may start."""

BATCH_WIDE = {"RUNNING": "profile_not_paused", "": "pause_unknown"}
"""What each word of the switch is, but for PAUSED."""

Outcome = tuple[str, str | None]
"""Verdict and code, as a stage reports them."""

REFUSED, FAILED, DONE = "NO_GO", "FAILED", "DONE"


@dataclass(frozen=True)
class Exchange:
    """What the exchange says: rows of the statement's files, None for a file that is not there."""

    fills: tuple[Mapping[str, Any], ...] | None
    positions: tuple[Mapping[str, Any], ...] | None
    open_orders: tuple[Mapping[str, Any], ...]

    def held(self) -> dict[str, list[Decimal]]:
        """Legs that are not zero, by market."""
        legs: dict[str, list[Decimal]] = {}
        for position in self.positions or ():
            if Decimal(position["qty"]):
                legs.setdefault(market(position["symbol"]), []).append(Decimal(position["qty"]))
        return legs

    def working(self) -> set[str]:
        """The markets with an open order."""
        return {market(order["symbol"]) for order in self.open_orders}


@dataclass(frozen=True)
class Around:
    """What a step meets: the database, the exchange, the switch's word, the clock and how far back fills count.

    And what the house asks of people, and whether reports are kept.
    """

    seen: Seen
    exchange: Exchange
    word: str
    now: datetime
    lookback: timedelta
    profile: str
    rules: tuple[tuple[str, object], ...] = ()
    house: House = field(default_factory=House)
    keeps: bool = False

    def window(self) -> tuple[datetime, datetime]:
        """The span in which fills are evidence."""
        end = max([self.now, *(datetime.fromisoformat(fill["filled_at"]) for fill in self.exchange.fills or ())])
        return end - self.lookback, end


@dataclass(frozen=True)
class Scope:
    """What a dry run is narrowed to."""

    trade_ids: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def targets(self, open_now: Mapping[Trade, Decimal]) -> dict[Trade, Decimal]:
        """The open trades in scope."""
        wanted = set(map(market, self.symbols))
        return {
            trade: qty
            for trade, qty in open_now.items()
            if qty > 0
            and (not self.trade_ids or trade[1] in self.trade_ids)
            and (not wanted or market(trade[0]) in wanted)
        }

    def matches(self, open_now: Mapping[Trade, Decimal]) -> bool:
        """Whether every name of it answers to a target, where anything is open."""
        targets = self.targets(open_now)
        if not any(qty > 0 for qty in open_now.values()):
            return True
        named = set(self.trade_ids) <= {trade for _, trade in targets}
        return bool(targets) and named and set(map(market, self.symbols)) <= {market(symbol) for symbol, _ in targets}


@dataclass
class Batch:
    """What the model knows of a batch.

    `given` and `undo` are its approvals, `shown` those that its reports keep, `signers` the keys that signed these;
    `meddled` says that a person changed something of it by hand.
    """

    profile: str
    state: str | None = None
    scope: Scope = field(default_factory=Scope)
    digest: str | None = None
    facts: Any = None
    window: tuple[datetime, datetime] | None = None
    targets: dict[Trade, Decimal] = field(default_factory=dict)
    trades: dict[str | None, list[Any]] = field(default_factory=dict)
    items: tuple[Any, ...] = ()
    given: Given | None = None
    undo: Given | None = None
    shown: frozenset[Given] = frozenset()
    signers: frozenset[str] = frozenset()
    meddled: bool = False
    approved: tuple[Mapping[str, Any], ...] = ()
    opened: dict[Trade, tuple[Decimal, Any]] = field(default_factory=dict)

    @property
    def needing(self) -> set[str]:
        """The trades that a reviewer must name: those with a NO_GO, and those of which dust alone is closed."""
        backed = {item.trade_id for item in self.items if item.exchange_order_id is not None}
        dust = {item.trade_id for item in self.items if item.writes and self.is_dust(item)}
        return {item.trade_id for item in self.items if item.decision == "NO_GO"} | dust - backed

    def is_dust(self, item: Any) -> bool:
        """Whether the row's id says that it closes dust, whatever its reason says."""
        parts = {
            "trade_id": item.trade_id,
            "exchange_order_id": None,
            "filled_at": f"{item.filled_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        }
        return item.order_id in runbook_id(self.profile, parts, "DUST")


def expected(around: Around, action: str, batch: Batch, profile: str, name: str, **given: Any) -> Outcome | None:
    """The outcome of a step; None for a dry run that makes a plan, whose verdict the checks judge."""
    if profile != around.profile and batch.state is not None:
        return REFUSED, "batch_of_another_profile"
    if batch.state is None and action in ("approve", "approve-rollback", "sign"):
        return REFUSED, "unknown_batch"
    if batch.state not in LEGAL[action]:
        return REFUSED, "illegal_transition"
    return {
        "detect": lambda: (DONE, None),
        "dry-run": lambda: _dry_run(around, given["scope"]),
        "approve": lambda: _approve(around, batch, given["acknowledge"], given["approval"]),
        "approve-rollback": lambda: _approve_rollback(around, batch, name, given["approval"]),
        "apply": lambda: _apply(around, batch),
        "validate": lambda: _validate(around, batch, name),
        "rollback": lambda: _rollback(around, batch, name),
        "sign": lambda: _sign_report(around, batch, given["key"]),
    }[action]()


def _dry_run(around: Around, scope: Scope) -> Outcome | None:
    open_now = around.seen.open_quantities(around.profile)
    if around.exchange.fills is None:
        return REFUSED, "evidence_unreadable"
    if not scope.matches(open_now):
        return REFUSED, "scope_matches_nothing"
    if not any(qty > 0 for qty in open_now.values()):
        return DONE, None
    return None


def _approve(around: Around, batch: Batch, acknowledge: Mapping[str, str], given: Given) -> Outcome:
    for trade, why in acknowledge.items():
        if trade not in {trade_id for _, trade_id in batch.targets}:
            return REFUSED, "unknown_trade"
        if not why:
            return REFUSED, "reason_missing"
        if trade not in batch.needing:
            return REFUSED, "nothing_to_acknowledge"
    if not batch.items:
        return REFUSED, "nothing_to_approve"
    if {item.reason for item in batch.items} & set(BATCH_WIDE.values()):
        return REFUSED, "batch_wide_reason"
    if batch.needing - acknowledge.keys():
        return REFUSED, "acknowledgements_missing"
    if not any(item.writes for item in batch.items):
        return REFUSED, "nothing_to_approve"
    return _allowed(around, given)


def _allowed(around: Around, given: Given) -> Outcome:
    code = around.house.against(given)
    return (REFUSED, code) if code else ("approved", None)


def _approve_rollback(around: Around, batch: Batch, name: str, given: Given) -> Outcome:
    return _allowed(around, given) if _stand(around, batch, owned(around, name)) else (REFUSED, "row_changed")


def _apply(around: Around, batch: Batch) -> Outcome:
    assert batch.given is not None
    if batch.state != "approved":
        if around.house.required and not around.house.named:
            return REFUSED, "allowed_signers_unset"
        if around.house.misses(batch.given):
            return REFUSED, "signature_invalid" if batch.given.key else "signature_missing"
        return (DONE, None) if _stand(around, batch) else (FAILED, "existing_row_differs")
    assert batch.window is not None
    if code := _void(around, batch.given):
        return REFUSED, code
    if around.exchange.fills is None:
        return REFUSED, "evidence_unreadable"
    if around.word in BATCH_WIDE:
        return REFUSED, BATCH_WIDE[around.word]
    targets = batch.scope.targets(around.seen.open_quantities(around.profile))
    if facts(around, targets, batch.window, "PAUSED") != batch.facts:
        return REFUSED, "stale_plan"
    return DONE, None


def _void(around: Around, given: Given) -> str | None:
    """Why an approval does not count any more."""
    return "approval_expired" if around.now >= given.expires else around.house.against(given)


def _stand(around: Around, batch: Batch, order_ids: Iterable[str] | None = None) -> bool:
    """Whether each of these rows of the batch, by default all, is there as approved and filled."""
    items = {item["order_id"]: item for item in batch.approved}
    wanted = items if order_ids is None else order_ids
    return all(as_planned(around.seen.orders.get(order_id), items[order_id]) for order_id in wanted)


def owners(seen: Seen, profile: str) -> dict[str, str]:
    """Who owns each row: the batch of its last APPLIED audit row that is not reverted."""
    live = [
        row
        for row in seen.audit
        if row["profile_id"] == profile and row["decision"] == "APPLIED" and row["reverted_at"] is None
    ]
    return {row["backfill_order_id"]: row["batch_id"] for row in sorted(live, key=lambda row: row["created_at"])}


def owned(around: Around, name: str) -> set[str]:
    """The rows that the batch owns."""
    return {order_id for order_id, owner in owners(around.seen, around.profile).items() if owner == name}


def _rollback(around: Around, batch: Batch, name: str) -> Outcome:
    if batch.state == "rolled_back":
        return DONE, None
    required = around.house.required
    if required and batch.undo is None:
        return REFUSED, "rollback_not_approved"
    if required and batch.undo and (code := _void(around, batch.undo)):
        return REFUSED, code
    if around.word in BATCH_WIDE:
        return REFUSED, BATCH_WIDE[around.word]
    mine = owned(around, name)
    if not _stand(around, batch, mine):
        return REFUSED, "row_changed"
    if required and batch.undo and batch.undo.rows != mine:
        return REFUSED, "rollback_not_approved"
    return DONE, None


def _sign_report(around: Around, batch: Batch, key: str) -> Outcome | None:
    """None where somebody meddled with the batch: whether its reports still hold is for other tests to say."""
    house = around.house
    strangers = house.named and batch.signers - house.allowed
    unsound = any(house.misses(given) or house.unverified(given) for given in batch.shown)
    changed = batch.state != "rolled_back" and not _stand(around, batch)
    if not around.keeps or strangers or unsound or changed:
        return REFUSED, "report_not_intact"
    if batch.meddled:
        return None
    return (REFUSED, "signature_invalid") if house.named and key not in house.allowed else ("signed", None)


def _validate(around: Around, batch: Batch, name: str) -> Outcome:
    applied = {row["backfill_order_id"] for row in around.seen.audited(name, "APPLIED")}
    items = [item for item in batch.approved if item["order_id"] in applied]
    open_now = around.seen.open_quantities(around.profile)
    closed: dict[Trade, Decimal] = {}
    for item in items:
        key = (item["symbol"], item["trade_id"])
        closed[key] = closed.get(key, ZERO) + Decimal(item["qty"])
    wrong = [t for t, was in batch.targets.items() if open_now.get(t, ZERO) != was - closed.get(t, ZERO)]
    over = [trade for trade in batch.targets if open_now.get(trade, ZERO) < 0]
    altered = [item for item in items if not as_planned(around.seen.orders.get(item["order_id"]), item)]
    assert batch.given is not None
    ok = not (wrong or over or altered or around.house.misses(batch.given)) and _agrees(around, batch, open_now)
    return (DONE, None) if ok else (FAILED, "validation_failed")


def _agrees(around: Around, batch: Batch, open_now: Mapping[Trade, Decimal]) -> bool:
    """Table and exchange agree on the markets on which neither a target nor a trade that stood then is open."""
    then, now = batch.trades, by_trade(around.seen, around.profile)
    mine = {trade for _, trade in batch.targets}
    changed = {trade for trade in {*then, *now} if trade not in mine and then.get(trade) != now.get(trade)}
    left = {market(symbol) for symbol, trade in batch.targets if open_now.get((symbol, trade), ZERO)}
    left |= {market(symbol) for symbol, trade in open_now if trade not in changed}
    repaired = {market(symbol) for symbol, _ in batch.targets} - left
    if not repaired:
        return True
    if around.exchange.fills is None or around.exchange.positions is None:
        return False
    for name in repaired:
        booked = sum(
            (_sign(around.seen, around.profile, t) * q for t, q in open_now.items() if market(t[0]) == name), ZERO
        )
        legs = around.exchange.held().get(name, [])
        if sum(legs, ZERO) != booked or (legs and not sum(legs, ZERO)):
            return False
    return True


def _sign(seen: Seen, profile: str, trade: Trade) -> int:
    return -1 if entry_side(seen.of(profile), trade) == "sell" else 1


def by_trade(seen: Seen, profile: str) -> dict[str | None, list[Any]]:
    """Each trade's rows, every column."""
    found: dict[str | None, list[Any]] = {}
    for row in seen.of(profile):
        if row["trade_id"] is not None:
            found.setdefault(row["trade_id"], []).append(fingerprint(row))
    return {trade: sorted(rows) for trade, rows in found.items()}


def facts(
    around: Around, targets: Iterable[Trade], window: tuple[datetime, datetime], word: str, *, canceled: bool = True
) -> Any:
    """Everything that a plan for these targets may rest on, in any order: equal facts make equal plans.

    `canceled` False leaves out canceled backfill rows: what an apply and its rollback leave behind.
    """

    def inside(instant: datetime) -> bool:
        return window[0] <= instant <= window[1]

    exchange = around.exchange
    told = {}
    for name in sorted({market(symbol) for symbol, _ in targets}):
        rows = [row for row in around.seen.of(around.profile) if market(row["symbol"]) == name]
        rows = [row for row in rows if canceled or not is_backfill(row) or row["status"] in FILLED]
        fills = [
            tuple(sorted((key, str(value)) for key, value in fill.items()))
            for fill in exchange.fills or ()
            if market(fill["symbol"]) == name and inside(datetime.fromisoformat(fill["filled_at"]))
        ]
        told[name] = (
            sorted(str((*content(row), row["status"], inside(begun(row)), inside(row["created_at"]))) for row in rows),
            sorted(fills),
            None if exchange.positions is None else sorted(exchange.held().get(name, [])),
            sorted(o["exchange_order_id"] for o in exchange.open_orders if market(o["symbol"]) == name),
        )
    return sorted(targets), sorted(told.items()), around.rules, word


def whole_trade_reasons(around: Around, trade: Trade) -> set[str]:
    """The reasons that concern the whole of a target and follow from the world without any arithmetic."""
    name = market(trade[0])
    found = {BATCH_WIDE[around.word]} if around.word in BATCH_WIDE else set()
    if around.exchange.positions is None:
        found.add("exchange_position_unknown")
    elif around.exchange.held().get(name):
        found.add("exchange_not_flat")
    if name in around.exchange.working():
        found.add("exchange_open_orders")
    statuses = {row["status"] for row in around.seen.of(around.profile) if row["trade_id"] == trade[1]}
    if statuses - {*FILLED, *ENDED}:
        found.add("pending_lifecycle_blocker")
    return found


PREDICTED = frozenset(
    {
        "profile_not_paused", "pause_unknown", "exchange_position_unknown", "exchange_not_flat", "exchange_open_orders",
        "pending_lifecycle_blocker",
    }
)  # fmt: skip
"""What `whole_trade_reasons` may say."""


def open_and_rest(seen: Seen, profile: str, trade: Trade, own: Iterable[str]) -> tuple[Decimal, Any]:
    """What is open of a trade, and its rows but for these backfill rows."""
    without = set(own)
    rows: list[Row] = [r for r in seen.of(profile) if (r["symbol"], r["trade_id"]) == trade]
    rest = sorted(str(fingerprint(row)) for row in rows if row["order_id"] not in without)
    open_qty = sum((quantity(r) * SIGN[r["action"]] for r in rows if r["status"] in FILLED), ZERO)
    return open_qty, rest
