"""A venue's fill as recon's own: exact amounts in units of the symbol, the finest instant there is, and its kind.

Entry points: `to_fill`, `kind`, `with_booked_fees`, `with_daily_fees`. Pure. Rules: rules.md 1 and 7 (unit_unknown,
residual_is_base_fee).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from typing import Any

from recon.domain import Fill, Side
from recon.errors import Refused
from recon.identity import base_asset
from recon.venues.live.markets import Market
from recon.venues.live.pages import Trade, instant
from recon.venues.rows import parse_time

WORDS: Sequence[tuple[str, str]] = (
    ("liquidat", "liquidation"), ("bust", "liquidation"), ("adl", "adl"), ("auto-deleveraging", "adl"),
    ("settle", "settlement"), ("deliver", "delivery"), ("dust", "dust"),
)  # fmt: skip
"""Words by which venues mark a fill that nobody ordered, and what recon calls it."""

MARKS = ("ordertype", "execType", "dir", "type")
"""Fields in which they stand."""

VENUES_OWN: Mapping[str, str] = {
    "autoclose-": "liquidation",
    "adl_autoclose": "adl",
    "settlement_autoclose-": "settlement",
}
"""How client order ids begin that Binance gives to orders of its own."""

CLIENT_IDS = ("clOrdId", "orderLinkId", "cloid")
"""Where OKX, Bybit and Hyperliquid name the client order id on a fill; ccxt leaves them there."""


KEPT = ("id", "order", "timestamp", "symbol", "side", "amount", "price", "fee", "fees", "clientOrderId", "referenceId")
KEPT_INFO = ("transaction_time", "trade_time", "time", "isDustTrade", "liquidation", *MARKS, *CLIENT_IDS)
"""What this module and `reading` look at in a fill or a ledger entry, and in the venue's own fields."""


def kept(trade: Trade) -> Trade:
    """The fill without what nobody looks at: a tenth of what ccxt makes of it."""
    info: Mapping[str, Any] = trade.get("info") or {}
    said = {name: trade[name] for name in KEPT if trade.get(name)}
    return {"id": None, "order": None, **said, "info": {name: info[name] for name in KEPT_INFO if info.get(name)}}


@dataclass(frozen=True, slots=True)
class SeparateFee:
    """A fee posted apart from the fills of one side: `paid` in units of `asset`, `symbol` as the table spells it."""

    symbol: str
    asset: str
    side: Side
    paid: Decimal
    day: date


def unit_problem(market: Market) -> str | None:
    """Why a quantity of the market is not in units of the symbol; None when it is, or can be made so exactly."""
    if market.get("inverse"):
        return (
            f"{market['symbol']} is an inverse contract: its quantity is in {market['quote']}, not in {market['base']}"
        )
    if market.get("contract") and not market.get("contractSize"):
        return f"the venue does not say how much {market['base']} one contract of {market['symbol']} is"
    return None


def contract_size(market: Market) -> Decimal:
    """How many units of the symbol one contract is; 1 on spot markets."""
    return Decimal(str(market["contractSize"])) if market.get("contract") else Decimal(1)


def to_fill(trade: Trade, market: Market, symbol: str, client_order_id: str | None = None) -> Fill:
    """The fill, on `symbol` as the table spells it. Raises `Refused` (evidence_unreadable) for a missing field."""
    try:
        side, qty, price = Side(trade["side"]), Decimal(trade["amount"]), Decimal(trade["price"])
        at, fill_id = finest_instant(trade), _given(trade["id"])
        if qty <= 0 or price <= 0:
            raise ValueError("a fill has a quantity and a price")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Refused(
            "evidence_unreadable",
            f"A fill of {symbol} lacks side, amount, price, id or time ({type(error).__name__}); the venue's answer "
            "cannot be used.",
        ) from None
    fee, currency = _fee(trade, market)
    return Fill(
        fill_id=fill_id,
        exchange_order_id=str(trade.get("order") or f"{kind(trade) or 'fill'}-{fill_id}"),
        client_order_id=client_order_id or _client_id(trade),
        symbol=symbol,
        side=side,
        qty=qty * contract_size(market),
        price=price,
        fee=fee,
        fee_currency=currency,
        filled_at=at,
    )


def _given(value: object) -> str:
    if value is None:
        raise ValueError("nothing was given")
    return str(value)


def with_tables_base(fill: Fill, market: Market) -> Fill:
    """The fill with a fee in the base asset named as the table names it: XBT on XBT/USD, where the venue says BTC."""
    if fill.fee_currency != market["base"] or not any(mark in fill.symbol for mark in "/-"):
        return fill
    return replace(fill, fee_currency=base_asset(fill.symbol))


def finest_instant(trade: Trade) -> datetime:
    """To the microsecond where the venue's own field has it: ccxt keeps milliseconds."""
    info: Mapping[str, Any] = trade.get("info") or {}
    stamped = parse_time(_six_decimals(str(info.get("transaction_time") or info.get("trade_time") or "")))
    if stamped is not None:
        return stamped
    seconds = str(info.get("time", ""))
    if "." in seconds:
        whole = Decimal(seconds).quantize(Decimal("0.000001"))
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(whole.scaleb(6)))
    return instant(trade)


def _six_decimals(text: str) -> str:
    """A time with nanoseconds, cut to microseconds."""
    whole, point, rest = text.partition(".")
    digits = rest.rstrip("Z")
    return f"{whole}.{digits[:6]}Z" if point and rest.endswith("Z") and digits.isdigit() else text


def _client_id(trade: Trade) -> str | None:
    info: Mapping[str, Any] = trade.get("info") or {}
    said = [trade.get("clientOrderId"), *(info.get(name) for name in CLIENT_IDS)]
    return next((str(name) for name in said if name), None)


def kind(trade: Trade, client_order_id: str | None = None) -> str | None:
    """What the fill is when it is no ordinary trade: liquidation, adl, settlement, delivery or dust."""
    for beginning, name in VENUES_OWN.items():
        if (client_order_id or "").startswith(beginning):
            return name
    info: Mapping[str, Any] = trade.get("info") or {}
    if info.get("isDustTrade"):
        return "dust"
    if info.get("liquidation"):
        return "liquidation"
    said = " ".join(str(info.get(mark, "")) for mark in MARKS).lower()
    return next((name for word, name in WORDS if word in said), None)


def _fee(trade: Trade, market: Market) -> tuple[Decimal | None, str | None]:
    """The fee in the base asset if there is one, since that is what can explain a residual; else the first."""
    fees = [fee for fee in [trade.get("fee"), *(trade.get("fees") or ())] if fee and fee.get("cost") is not None]
    fees.sort(key=lambda fee: fee.get("currency") != market["base"])
    return (Decimal(str(fees[0]["cost"])), fees[0].get("currency")) if fees else (None, None)


def with_booked_fees(fills: Sequence[Fill], booked: Mapping[str, tuple[Decimal, str]]) -> tuple[Fill, ...]:
    """The fills with the fees that the venue's ledger books for each fill id: amount and asset."""
    return tuple(
        replace(fill, fee=booked[fill.fill_id][0], fee_currency=booked[fill.fill_id][1])
        if fill.fill_id in booked
        else fill
        for fill in fills
    )


def with_daily_fees(fills: Sequence[Fill], fees: Iterable[SeparateFee]) -> tuple[Fill, ...]:
    """The fills with the fees that the venue posted by day.

    A day's fees of a symbol and a side are shared over its fills of that day by quantity, cut to the digits of the fee;
    the last fill takes what the cutting left, so that the sum is exact.
    """
    owed: dict[tuple[str, str, Side, date], Decimal] = defaultdict(Decimal)
    for fee in fees:
        owed[fee.symbol, fee.asset, fee.side, fee.day] += fee.paid
    made = {(fill.exchange_order_id, fill.fill_id): fill for fill in fills}
    for (symbol, asset, side, day), total in owed.items():
        paying = [f for f in fills if (f.symbol, f.filled_at.date(), f.side) == (symbol, day, side)]
        for fill, share in zip(paying, _shared(total, [fill.qty for fill in paying]), strict=False):
            made[fill.exchange_order_id, fill.fill_id] = replace(fill, fee=share, fee_currency=asset)
    return tuple(made.values())


def _shared(total: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    if not weights:
        return []
    unit, whole = Decimal(1).scaleb(int(total.as_tuple().exponent)), sum(weights, Decimal(0))
    with localcontext(Context(prec=400)):
        shares = [(total * weight / whole).quantize(unit, ROUND_DOWN) for weight in weights]
    return [*shares[:-1], total - sum(shares[:-1], Decimal(0))]
