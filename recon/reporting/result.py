"""A stage's result as the fixed JSON object, and as text for a console.

The keys and their meaning are fixed (rules.md 9): operators' scripts rely on them. Nothing here writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recon.domain import Item, Stage, StageResult
from recon.identity import canonical_decimal, canonical_time
from recon.wording import count

ResultJson = dict[str, Any]
"""The JSON object of one stage: only strings, integers, booleans, None, lists and dicts."""


KEYS = ("stage", "profile_id", "batch_id", "verdict", "plan_digest", "checks", "counts", "items", "report")
"""The keys that every result has, in the order in which they are written."""

CHECK_KEYS = ("name", "ok", "detail")
"""Those of each check."""

ITEM_KEYS = (
    "trade_id",
    "symbol",
    "side",
    "decision",
    "reason",
    "grade",
    "qty",
    "price",
    "filled_at",
    "exchange_order_id",
    "order_id",
)
"""Those of each item."""


def result_json(result: StageResult, report: str | None = None) -> ResultJson:
    """The fixed JSON object; `report` is where the executed notebook lies, None when it is not kept.

    Quantities and prices are plain decimal strings, instants canonical text. `code` is there only
    when the stage was refused or failed, `message` then and when there is something to add.
    """
    content: ResultJson = {
        "stage": result.stage.value,
        "profile_id": result.profile_id,
        "batch_id": result.batch_id,
        "verdict": result.verdict.value,
        "plan_digest": result.plan_digest,
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in result.checks],
        "counts": dict(sorted(result.counts.items())),
        "items": [_item_json(item) for item in result.items],
        "report": report,
    }
    if result.code is not None:
        content |= {"code": result.code}
    if result.code is not None or result.message:
        content |= {"message": result.message or ""}
    return content


def ordered(content: ResultJson) -> ResultJson:
    """The same object with its keys in the fixed order, which a notebook does not keep."""
    inner = {"checks": CHECK_KEYS, "items": ITEM_KEYS}
    nested = {key: [_in_order(entry, keys) for entry in content[key]] for key, keys in inner.items()}
    return _in_order(content | nested, (*KEYS, "code", "message"))


def _in_order(content: ResultJson, keys: Sequence[str]) -> ResultJson:
    return {key: content[key] for key in keys if key in content}


def console_text(content: Mapping[str, Any]) -> str:
    """The verdict, every failed check, every reason with its count, the code and its message, the report's path.

    Takes the JSON object; one line each, safe for a terminal.
    """
    return "\n".join(printable(line) for line in _console_lines(content))


def printable(text: str) -> str:
    """The text with control characters, line ends and direction marks written as escapes.

    An id from a database may hold any of them; none may move a terminal's cursor or reorder a line of a report.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def _item_json(item: Item) -> ResultJson:
    return {
        "trade_id": item.trade_id,
        "symbol": item.symbol,
        "side": item.side.value if item.side else None,
        "decision": item.decision.value,
        "reason": item.reason.value,
        "grade": item.grade.value if item.grade else None,
        "qty": None if item.qty is None else canonical_decimal(item.qty),
        "price": None if item.price is None else canonical_decimal(item.price),
        "filled_at": None if item.filled_at is None else canonical_time(item.filled_at),
        "exchange_order_id": item.exchange_order_id,
        "order_id": item.order_id,
    }


def _detected(counts: Mapping[str, int]) -> str:
    """What a detect counted; without the exchange nothing was compared, and nothing is said of it."""
    told = [count(counts["OPEN"], "open trade")]
    if "MISMATCH" in counts:
        told.append(f"{count(counts['MISMATCH'], 'symbol')} on which table and exchange disagree")
    return ", ".join(told)


def _console_lines(content: Mapping[str, Any]) -> Iterator[str]:
    yield f"{content['stage']}: {content['verdict']} (profile {content['profile_id']}, batch {content['batch_id']})"
    if content.get("code") or content.get("message"):
        yield "  " + ": ".join(part for part in (content.get("code"), content["message"]) if part)
    if content["plan_digest"]:
        yield f"  plan digest {content['plan_digest']}"
    for check in content["checks"]:
        if not check["ok"]:
            yield f"  check failed: {check['name']}: {check['detail']}"
    if content["stage"] == Stage.DETECT and content["counts"]:
        yield f"  {_detected(content['counts'])}"
    reasons = Counter((item["decision"], item["reason"]) for item in content["items"])
    for (decision, reason), number in sorted(reasons.items()):
        yield f"  {decision} {reason}: {number}"
    if content["report"]:
        yield f"  report: {content['report']}"
