"""Every order of the demo: the background's and the ledger's, in the order of time."""

from __future__ import annotations

from functools import cache

from recon.demo.background import background
from recon.demo.book import Order
from recon.demo.ledger import STORIES


@cache
def demo_orders() -> tuple[Order, ...]:
    """All orders and off-book movements, oldest first; ties stay in the ledger's order."""
    orders = [*background(), *(order for story in STORIES for order in story.orders)]
    return tuple(sorted(orders, key=lambda order: order.placed_at))
