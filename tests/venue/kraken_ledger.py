"""Kraken's ledger: for every trade an entry in each asset that it moved, with the fee where it was taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from venue.kraken_names import asset_id
from venue.model import ZERO, Scenario, Trade
from venue.spelling import kraken_id


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: `amount` is signed and `fee` positive when paid, both in units of `asset`; `balance` is after it."""

    id: str
    trade_id: str
    time: datetime
    asset: str
    amount: Decimal
    fee: Decimal
    balance: Decimal = ZERO

    def row(self) -> dict[str, object]:
        """The entry as the venue tells it."""
        return {
            "refid": self.trade_id, "time": self.time.timestamp(), "type": "trade", "subtype": "tradespot",
            "aclass": "currency", "asset": asset_id(self.asset), "amount": self.amount, "fee": self.fee,
            "balance": self.balance,
        }  # fmt: skip


def ledger(scenario: Scenario) -> list[Entry]:
    """Every entry, oldest first; the last balance of each asset is what the account holds now."""
    left = {row.asset: row.total for row in scenario.balances}
    entries = []
    for entry in reversed([entry for row in _oldest_first(scenario) for entry in _entries(row)]):
        balance = left.get(entry.asset, ZERO)
        entries.append(replace(entry, balance=balance))
        left[entry.asset] = balance - entry.amount + entry.fee
    return entries[::-1]


def _oldest_first(scenario: Scenario) -> list[Trade]:
    return sorted(scenario.trades, key=lambda row: (row.filled_at, row.id))


def _entries(row: Trade) -> list[Entry]:
    base, quote = row.symbol.split("/")
    sign = 1 if row.side == "buy" else -1
    amounts = {base: sign * row.qty, quote: -sign * row.cost}
    if row.fee and row.fee_currency:
        amounts.setdefault(row.fee_currency, ZERO)
    return [_entry(row, asset, amount) for asset, amount in amounts.items()]


def _entry(row: Trade, asset: str, amount: Decimal) -> Entry:
    fee = row.fee if row.fee and row.fee_currency == asset else ZERO
    return Entry(kraken_id("L", f"{row.id} {asset}"), row.id, row.filled_at, asset, amount, fee)
