"""The ledger of the demo incident: what happened to every trade that is not simply closed.

From the evening of 27 February 2026 the consumer that books the exchange's fills restarted again and again, and
lost messages. The lookback of 72 hours before `DEMO_NOW` reaches back to 27 February, 12:00 UTC. A block is

    trade_id  symbol  side of the ENTRY  the reason codes that recon must give it, `-` for a trade it leaves alone
      what happened
      placed (UTC)    row    booked    order    in the table    fills: quantity@price

`booked` is the status of the row in `orders`, or one of the words of `recon.demo.book.Booked`. `1.2/12` in the table
means that quantity and qty differ. Fills share an instant unless `;` stands between them. A row that `failed` never
learnt the exchange's order id and is known by its client_order_id alone. Trades that must stay without evidence, and
those on symbols that are not flat, have a symbol or a closing side of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from recon.demo.book import Order, Piece, pieces_at
from recon.domain import Reason, Side

LEDGER = """
lost-exit-long-eth  ETH/USD  buy  fill_evidence
  The consumer restarted and lost the exit; the exchange filled it at two instants.
  02-28T03:14:09  ENTRY  filled    X201     1.85      1.1@2031.40 0.75@2031.65
  03-01T16:02:41  EXIT   lost      X202     -         0.9@2068.10 0.35@2068.10 ; 0.6@2067.85

lost-exit-short-sol  SOL/USD  sell  fill_evidence
  The same on a short, which closes with a buy; two fills share one instant and make one unit.
  02-27T19:40:12  ENTRY  filled    X203     42.5      42.5@87.32
  02-28T22:05:30  EXIT   lost      X204     -         20@85.61 22.5@85.64

partial-exit-lost  BTC/USD  buy  fill_evidence
  Of two exits the first was booked; the second, filled at three instants, was lost.
  02-28T06:20:55  ENTRY  filled    X205     0.075     0.05@68120.5 0.025@68121.0
  03-01T02:11:18  EXIT   filled    X206     0.03      0.03@68905.0
  03-01T09:47:02  EXIT   lost      X207     -         0.02@69240.0 0.01@69240.5 ; 0.0085@69238.0 ; 0.0065@69236.5

other-spelling  BTCUSD  buy  fill_evidence
  A lost exit of a strategy that writes BTCUSD where the exchange and the others write BTC/USD.
  02-28T11:32:40  ENTRY  filled    X208     0.0412    0.0412@68310.5
  03-01T20:15:27  EXIT   lost      X209     -         0.0412@69105.0

one-exit-for-two-first  DOGE/USD  buy  fill_evidence
  One order closed two trades and was lost: its units go to the older trade first.
  02-28T08:05:13  ENTRY  filled    X210     21000     21000@0.09712
  03-01T18:22:36  EXIT   lost      X212     -         12000@0.09934 ; 15500@0.09931 ; 7500@0.09929

one-exit-for-two-second  DOGE/USD  buy  fill_evidence
  The younger of the two: the rest of the order above.
  02-28T19:48:31  ENTRY  filled    X211     14000     14000@0.09845

exit-timed-out  AVAX/USD  buy  fill_evidence
  The request timed out and the row was marked failed, but the exchange filled it: known by its client_order_id.
  02-28T01:26:44  ENTRY  filled    X213     410       410@9.41
  03-01T12:39:58  EXIT   failed    X214     410       260@9.52 ; 150@9.51

dust-remainder  LINK/USD  buy  fill_evidence dust_remainder
  The lost exit was rounded down to the lot size; the venue swept the 0.008 that it left.
  02-28T04:51:20  ENTRY  filled    X215     352.418   200@8.91 152.418@8.92
  03-01T07:33:45  EXIT   lost      X216     -         352.41@9.05
  03-01T08:00:00  -      off-book  -        -0.008    -

dust-only  BTC/USD  sell  dust_only
  The exit was booked, and 0.0006 BTC remain that the venue settled without a fill: dust, but about 40 USD of it.
  02-28T15:09:33  ENTRY  filled    X217     0.06      0.06@69510.0
  03-01T22:40:07  EXIT   filled    X218     0.0594    0.0594@68870.5
  03-01T23:00:00  -      off-book  -        0.0006    -

rolled-back-before  LINK/USD  sell  reinstate
  An earlier repair closed it and was rolled back: the very row that it needs is there, canceled.
  02-27T16:12:09  ENTRY  filled    X219     300       300@9.02
  02-28T13:55:51  EXIT   lost      X220     -         300@8.84
  03-01T10:00:00  EXIT   backfill  X220     300       -

existing-row-differs  SOL/USD  buy  existing_row_differs
  The row of an earlier repair is there, canceled, with 30 where the exchange filled 36.
  02-27T21:18:26  ENTRY  filled    X221     36        36@86.05
  02-28T17:44:39  EXIT   lost      X222     -         36@88.15
  03-01T10:00:00  EXIT   backfill  X222     30        -

exit-still-pending  AVAX/USD  sell  pending_lifecycle_blocker
  The exit's row still says accepted although the exchange filled it: the backend may yet book it.
  03-01T05:03:47  ENTRY  filled    X223     380       380@9.46
  03-02T06:28:14  EXIT   accepted  X224     380       380@9.28

quantity-columns-disagree  ETH/USD  sell  data_quality
  The ENTRY's row says quantity 1.2 and qty 12: nobody can tell how much is open.
  02-28T20:36:02  ENTRY  filled    X225     1.2/12    1.2@2071.30
  03-01T23:51:10  EXIT   lost      X226     -         1.2@2049.85

no-fill-found  ATOM/USD  buy  missing_fill_evidence_for_large_remainder
  The coins were moved to another wallet: no fill closes the trade, and the exchange holds nothing.
  02-28T02:47:15  ENTRY  filled    X227     1450      1450@2.214
  03-01T13:30:00  -      off-book  -        -1450     -

entry-before-window  ADA/USD  buy  missing_fill_evidence_for_large_remainder evidence_window_too_short
  An exit that an earlier restart lost: the lookback of 72 hours does not reach it.
  02-20T10:17:22  ENTRY  filled    X228     9800      6000@0.2731 3800@0.2731
  02-24T18:09:41  EXIT   lost      X229     -         9800@0.2684

fee-paid-in-base  UNI/USD  buy  fill_evidence missing_fill_evidence_for_large_remainder residual_is_base_fee
  The venue took its fee of 0.25 % from the UNI bought; 837.9 of 840 could be sold, and that exit was lost.
  02-28T09:58:03  ENTRY  filled    X230     840       500@3.611 340@3.612
  03-01T15:20:29  EXIT   lost      X231     -         837.9@3.702

exit-without-trade-id  LTC/USD  buy  missing_fill_evidence_for_large_remainder
  The exit was booked without its trade_id: the fills are taken by that row, and the trade looks open.
  02-28T12:10:50  ENTRY  filled    X232     48        30@54.20 18@54.21
  03-01T19:05:16  EXIT   orphan    X233     48        48@55.12

still-held  DOT/USD  buy  exchange_not_flat missing_fill_evidence_for_large_remainder
  An honest open trade: the exchange holds exactly what the table says.
  03-01T21:30:08  ENTRY  filled    X234     2100      1300@1.358 800@1.359

half-held  NEAR/USD  buy  exchange_not_flat missing_fill_evidence_for_large_remainder
  A lost exit of 1500, and 1100 that the exchange still holds: the table shows 2600.
  02-28T07:42:57  ENTRY  filled    X235     2600      2600@1.084
  03-01T14:16:33  EXIT   lost      X236     -         1500@1.102

order-still-working  AAVE/USD  buy  exchange_open_orders
  The exit was lost, and the stop order that should have been canceled with it still works at the exchange.
  02-28T05:37:19  ENTRY  filled    X237     24        24@117.40
  02-28T05:37:24  EXIT   working   X238     24        -
  03-01T11:08:42  EXIT   lost      X239     -         24@121.05

too-many-decimals  YFI/USD  buy  unrepresentable_quantity
  The exchange fills with nine decimals; the columns of the table hold eight.
  02-28T14:25:36  ENTRY  filled    X240     1.1       1.1@2874.00
  03-01T17:50:04  EXIT   lost      X241     -         0.612345679@2921.50 ; 0.487654321@2920.75

colon-clash  BCH/USD  buy  invalid_identifier
  With order 12:5501 its text is that of the next trade with order 5501 at the same instant: one id for two rows.
  02-28T16:31:12  ENTRY  filled    X242     6.2       6.2@508.60
  03-01T08:44:20  EXIT   lost      12:5501  -         6.2@515.40

colon-clash:12  BCH/USD  buy  invalid_identifier
  The other half of the clash.
  02-28T18:02:45  ENTRY  filled    X243     4.5       4.5@509.20
  03-01T08:44:20  EXIT   lost      5501     -         4.5@515.35

booked-twice  BCH/USD  sell  -
  The exit was booked by two rows: the table shows more closed than opened, which detect reports and nobody repairs.
  02-28T10:41:33  ENTRY  filled    X244     5         5@513.10
  03-01T04:19:26  EXIT   filled    X245     5         5@506.75
  03-01T04:19:26  EXIT   filled    X245     5         -

bought-by-hand  XRP/USD  buy  -
  Somebody bought and sold on the exchange's own pages: fills that nobody in the table owns.
  02-28T23:12:06  ENTRY  by-hand   X246     -         1200@1.4185
  03-01T09:03:52  EXIT   by-hand   X247     -         700@1.4302 500@1.4301
"""


@dataclass(frozen=True, slots=True)
class Story:
    """One block of the ledger: `expected` holds the reason codes, `orders` the lines beneath."""

    trade_id: str
    what_happened: str
    expected: frozenset[Reason]
    orders: tuple[Order, ...]


def _pieces(placed_at: datetime, fills: str) -> Iterator[Piece]:
    groups = ([fill.split("@") for fill in group.split()] for group in fills.split(";"))
    yield from pieces_at(placed_at, ([(Decimal(qty), Decimal(price)) for qty, price in group] for group in groups))


def _order(trade_id: str, symbol: str, entry_side: Side, line: str) -> Order:
    when, action, booked, exchange_order_id, in_table, fills = line.split(maxsplit=5)
    placed_at = datetime.fromisoformat(f"2026-{when}+00:00")
    quantity, _, qty = ("0" if in_table == "-" else in_table).partition("/")
    return Order(
        trade_id,
        symbol,
        action,
        entry_side if action == "ENTRY" else entry_side.opposite,
        booked,
        exchange_order_id,
        placed_at,
        Decimal(quantity),
        Decimal(qty or quantity),
        tuple(_pieces(placed_at, fills)) if fills != "-" else (),
    )


def _story(block: str) -> Story:
    head, what_happened, *lines = block.splitlines()
    trade_id, symbol, side, *codes = head.split()
    expected = frozenset(Reason(code) for code in codes if code != "-")
    orders = tuple(_order(trade_id, symbol, Side(side), line) for line in lines)
    return Story(trade_id, what_happened.strip(), expected, orders)


STORIES: tuple[Story, ...] = tuple(_story(block) for block in LEDGER.strip().split("\n\n"))
"""The ledger, read."""

EXPECTED: Mapping[str, frozenset[Reason]] = {story.trade_id: story.expected for story in STORIES if story.expected}
"""The reason codes that recon gives each open trade of the demo; a trade that is not here is not open."""
