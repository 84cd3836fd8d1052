"""What the columns of `orders` can hold: a row that a column would change or refuse is not written (rules.md 7).

Pure. Entry point: `Columns`; `recon.orders_schema` reads it from the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from recon.identity import is_uuid


@dataclass(frozen=True, slots=True)
class Amount:
    """What a numeric column can hold: digits after the point, digits in all; None is no limit.

    `significant` limits the digits of a binary floating column, which holds 15 of them exactly.
    """

    scale: int | None = None
    precision: int | None = None
    significant: int | None = None

    def holds(self, value: Decimal) -> bool:
        """Whether the column keeps the value to the last digit."""
        _, digits, exponent = value.normalize(Context(prec=400)).as_tuple()
        places = max(0, -int(exponent))
        if self.significant is not None and len(digits) > self.significant:
            return False
        if self.scale is not None and places > self.scale:
            return False
        whole = len(digits) + int(exponent)
        return self.precision is None or whole <= self.precision - (self.scale or 0)

    def rounded(self, price: Decimal) -> Decimal:
        """The price half-even to what the column keeps."""
        with localcontext(Context(prec=self.significant or 400, rounding=ROUND_HALF_EVEN)):
            if self.significant is not None:
                return +price
            if self.scale is None:
                return price
            return price.quantize(Decimal(1).scaleb(-self.scale))


@dataclass(frozen=True, slots=True)
class Columns:
    """What the `orders` table can say: limits of its amounts, which optional columns it has, decimals of filled_at."""

    quantity: Amount = Amount()
    qty: Amount = Amount()
    price: Amount = Amount()
    has_side: bool = True
    has_exchange_order_id: bool = True
    exchange_order_id_length: int | None = None
    exchange_order_id_is_uuid: bool = False
    exchange_order_id_required: bool = False
    time_digits: int = 6
    naive_times: tuple[str, ...] = ()

    def holds_order(self, exchange_order_id: str | None) -> bool:
        """Whether the column exchange_order_id, if there is one, can hold the id, or none at all."""
        if exchange_order_id is None:
            return not self.exchange_order_id_required
        if self.exchange_order_id_is_uuid and not is_uuid(exchange_order_id):
            return False
        return self.exchange_order_id_length is None or len(exchange_order_id) <= self.exchange_order_id_length
