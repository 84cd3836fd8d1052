"""The backend, the exchange, the clock, the rules of the house, and a person with SQL.

A life is a small incident on one profile; a second profile with the same trade_ids and order ids stands by.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import bystanders
import sqlalchemy as sa
from incidents import NOW, START, Incident, PauseSwitch, at
from signers import Keys, make_keys

from life.invariants import Memory
from life.model import Around, Batch, Exchange
from life.people import OWNERS, House
from life.seen import ZERO, Seen, Trade, is_backfill, look, market
from recon.approval import signed_bytes
from recon.signatures import PLAN, sign

TOKEN, PASSWORD = "token-of-the-switch", "password-of-the-database"
"""Secrets that must appear nowhere (invariant 12)."""

BYSTANDER = "other"
FOREVER = timedelta(hours=200_000)


def new_incident(engine: sa.Engine, folder: Path, switch: PauseSwitch, *, doors: bool) -> Incident:
    """An empty database, as good as new; the one place that knows whether recon works behind the doors."""
    url = engine.url.set(password=PASSWORD).render_as_string(hide_password=False)
    incident = Incident(url, folder / "statement", switch)
    bystanders.forget(incident.backend)  # every step looks at them
    incident.sql("DROP SCHEMA public CASCADE")
    incident.sql("CREATE SCHEMA public")
    return incident.create_table(doors=doors)


class Backend:
    """What happens to the table, at the exchange and among people, and what is there; no step of recon."""

    def __init__(
        self,
        engine: sa.Engine,
        folder: Path,
        switch: PauseSwitch,
        *,
        doors: bool = False,
        lookback: timedelta = FOREVER,
        keys: Keys | None = None,
    ) -> None:
        self.incident = new_incident(engine, folder, switch, doors=doors)
        self.keys = keys or make_keys(folder / "keys")
        self.folder = folder
        self.keeps = False
        self.profile = self.incident.profile
        self.switch = switch
        self.switch.word = "PAUSED"
        self.lookback = lookback
        self.rules: dict[str, object] = {}
        self.people(House())
        self.now = NOW
        self.memory = Memory()
        self.batches: dict[str, Batch] = {}
        self.steps: Counter[tuple[str, str]] = Counter()
        self.readable = True
        self.number = 0
        self.eye = self.incident.backend.connect()
        self.glimpses: list[Seen] = []
        sa.event.listen(self.incident.engine, "commit", lambda _: self.glimpses.append(self.look()))
        self._bystander()
        self.incident.write_statement()

    def close(self) -> None:
        """Give back the connection that looks."""
        self.eye.close()

    def _bystander(self) -> None:
        """Another profile with ghosts and backfill rows under the very names that this one uses."""
        for number in range(1, 4):
            cells = {"profile_id": BYSTANDER, "symbol": "BTC/USD", "side": "buy"}
            self.incident.row(f"other-entry-{number}", f"t{number}", "ENTRY", "1", number, **cells)
        cells = {"profile_id": BYSTANDER, "exchange_order_id": "x1", "price": "110"}
        self.incident.row("BFILL-of-another-profile", "t1", "EXIT", "0.5", 60, **cells)

    # The backend and the exchange

    def next_name(self, kind: str) -> str:
        """A name that was not used."""
        self.number += 1
        return f"{kind}{self.number}"

    def minute(self, offset: int) -> int:
        """So many minutes after one hour before now: what happens, happens about now."""
        return int((self.now - START).total_seconds() // 60) - 90 + offset

    def open_trade(self, symbol: str, qty: str, offset: int, *, short: bool = False, told: bool = False) -> str:
        """A trade opens: its ENTRY row, and with `told` its fill at the exchange, less a fee in the base asset."""
        trade_id, side = self.next_name("t"), "sell" if short else "buy"
        minute = self.minute(offset)
        self.incident.row(f"entry-{trade_id}", trade_id, "ENTRY", qty, minute, symbol=symbol, side=side)
        if told:
            fee = {"fee": Decimal(qty) * Decimal("0.0025"), "fee_currency": symbol[:3]}
            self._fill(f"X-entry-{trade_id}", qty, minute, symbol=symbol, side=side, price="100", **fee)
        return trade_id

    def grow_trade(self, trade: Trade, qty: str, offset: int) -> None:
        """A second ENTRY row."""
        side = self._entry(trade)["side"]
        self.incident.row(
            self.next_name("entry-more-"), trade[1], "ENTRY", qty, self.minute(offset), symbol=trade[0], side=side
        )

    def lost_exit(
        self, trades: list[Trade], how: str, offset: int, *, link: str | None = None, client: bool = False
    ) -> str:
        """The exchange closes the trades, with one order, and no EXIT row arrives.

        `how`: whole, half, dust (a little less than all), fee (less what was paid in the base asset, for this order or,
        "entry fee", for the entry), more, or split over two instants. `link` is the status of an EXIT row that names
        the order and never got filled.
        """
        order = self.next_name("x")
        open_now = self.look().open_quantities(self.profile)
        qty = sum((max(open_now.get(trade, ZERO), ZERO) for trade in trades), ZERO) or Decimal(1)
        symbol, side = trades[0][0], self._closing(trades[0])
        cells: dict[str, Any] = {"symbol": symbol, "side": side, "client_order_id": f"c-{order}" if client else ""}
        if how == "fee":
            cells |= {"fee": qty * Decimal("0.0025"), "fee_currency": symbol[:3]}
        net = qty * Decimal("0.9975")
        part = {"half": qty / 2, "dust": qty - Decimal("0.0005"), "fee": net, "entry fee": net, "more": qty + 1}
        parts = [qty / 4, qty - qty / 4] if how == "split" else [part.get(how, qty)]
        for number, amount in enumerate(parts):
            if amount > 0:
                self._fill(order, amount, self.minute(offset + 2 * number), **cells)
        if link is not None:
            self.incident.row(
                f"exit-{order}", trades[0][1], "EXIT", qty, self.minute(offset), symbol=symbol, side=side, status=link,
                exchange_order_id=order,
            )  # fmt: skip
        return order

    def late_fill(self, order: str, qty: str, offset: int) -> None:
        """An order that is known already grows by a fill at another instant."""
        like = next(fill for fill in self.incident.fills if fill["exchange_order_id"] == order)
        self._fill(order, qty, self.minute(offset), symbol=like["symbol"], side=like["side"], price="111")

    def real_exit(self, order: str, trade: Trade, names: str, offset: int, *, whole: bool = True) -> None:
        """The backend books the EXIT after all: of the order's fills, or half of them.

        `names` says how the row names its order: by id, by client id, by its time alone, or not at all.
        """
        fills = [fill for fill in self.incident.fills if fill["exchange_order_id"] == order]
        qty = sum((Decimal(str(fill["qty"])) for fill in fills), ZERO) / (1 if whole else 2)
        instant = datetime.fromisoformat(fills[-1]["filled_at"])
        stamp = instant if names != "nothing" else at(self.minute(offset))
        cells = {"symbol": fills[0]["symbol"], "side": fills[0]["side"], "filled_at": stamp, "created_at": stamp}
        cells["exchange_order_id"] = order if names == "id" else None
        cells["client_order_id"] = fills[0]["client_order_id"] or None if names == "client" else None
        self.incident.row(self.next_name("exit-"), trade[1], "EXIT", qty, 0, **cells)

    def calm(self) -> None:
        """Nothing stands against a repair any more: rows that waited ended, all is flat, readable and paused."""
        self.incident.sql(
            "UPDATE orders SET status = 'canceled' WHERE status = 'new' AND profile_id = %s", self.profile
        )
        self.incident.positions, self.incident.open_orders, self.readable = [], [], True
        self.people(replace(self.house, named=self.house.named or self.house.required, allowed=frozenset(OWNERS)))
        self.switch.word = "PAUSED"
        self.publish()

    def hold(self, symbol: str, qty: str | None) -> None:
        """The exchange holds a leg more, or nothing on the symbol any more."""
        legs = self.incident.positions or []
        self.incident.positions = [leg for leg in legs if qty or market(leg["symbol"]) != market(symbol)]
        if qty:
            self.incident.positions.append({"symbol": symbol, "qty": qty})
        self.publish()

    def hide_positions(self, hidden: bool) -> None:
        """Positions cannot be read, or can again; then everything is flat."""
        self.incident.positions = None if hidden else []
        self.publish()

    def hide_fills(self, hidden: bool) -> None:
        """The file of fills is not there, or is again."""
        self.readable = not hidden
        self.publish()

    def work_order(self, symbol: str, there: bool) -> None:
        """The exchange works an order on the symbol, or none any more."""
        orders = [order for order in self.incident.open_orders or [] if order["symbol"] != symbol]
        if there:
            orders.append(
                {"exchange_order_id": f"open-{symbol}", "client_order_id": "", "symbol": symbol, "side": "sell",
                 "qty": "1", "filled_qty": "0", "created_at": at(0).isoformat()}
            )  # fmt: skip
        self.incident.open_orders = orders
        self.publish()

    def say(self, word: str) -> None:
        """What the pause switch answers; an empty word is no answer that anybody understands."""
        self.switch.word = word

    def wait(self, hours: int) -> None:
        """The clock moves."""
        self.now += timedelta(hours=hours)

    def rule(self, dust: str, base_fee: bool) -> None:
        """The settings that decide are others from now on."""
        self.rules = {"recon_exit_backfill_dust_abs_qty": Decimal(dust), "recon_exit_backfill_base_fee": base_fee}

    def people(self, house: House) -> None:
        """The rules of the house, and whose keys the allowed-signers file names, are these from now on."""
        self.house = house
        self.keys.allow(*(f"{OWNERS[key]} {self.keys.public(key)}" for key in sorted(house.allowed)))

    def forge(self, name: str, how: str, *, undo: bool = False) -> None:
        """A person with SQL changes the batch's approval, or that of its rollback, if there is one."""
        batch, column = self.batch(name), "rollback_approval" if undo else "approval"
        given = batch.undo if undo else batch.given
        if given is None:
            return
        document = self.look().document(name)[column]
        if how == "prolonged":
            given = replace(given, expires=given.expires + timedelta(days=30), intact=False)
            document |= {"expires_at": f"{given.expires:%Y-%m-%dT%H:%M:%S.%fZ}"}
        elif how == "renamed":
            given = replace(given, by=OWNERS["bob"] if given.by == OWNERS["alice"] else OWNERS["alice"], intact=False)
            document |= {"by": given.by}
        elif how == "taken off":
            given = replace(given, key=None, intact=True)
            document.pop("signature", None)
        else:
            key = "stranger" if how == "by the stranger" else "bob" if given.key == "alice" else "alice"
            given = replace(given, key=key, intact=True)
            document |= {"signature": sign(signed_bytes(document), self.keys.folder / key, PLAN)}
        change = f"UPDATE reconciliation_batches SET {column} = %s::jsonb WHERE batch_id = %s"
        self.incident.tamper(change, json.dumps(document), name)
        batch.undo, batch.given = (given, batch.given) if undo else (batch.undo, given)
        batch.meddled = True

    def touch(self, order_id: str, change: str) -> None:
        """A person, or the backend, changes a backfill row: its status, or one cell of its content."""
        self.incident.sql(f"UPDATE orders SET {change} WHERE order_id = %s", order_id)
        self.memory.by_hand.add(order_id)
        self.memory.once_by_hand.add(order_id)
        self.memory.contents.pop(order_id, None)
        for batch in self.batches.values():
            batch.meddled = True

    def mangle(self, order_id: str, change: str) -> None:
        """The backend changes a row of its own, for the worse or the better."""
        self.incident.sql(f"UPDATE orders SET {change}, updated_at = now() WHERE order_id = %s", order_id)

    def shuffle(self, seed: int) -> None:
        """The statement lists the same in another order."""
        random.Random(seed).shuffle(self.incident.fills)
        self.publish()

    def publish(self) -> None:
        """Write the statement's files as they stand."""
        self.incident.write_statement()
        if not self.readable:
            (self.incident.folder / "fills.csv").unlink()

    def _fill(self, order: str, qty: object, minute: float, **cells: Any) -> None:
        self.incident.fill(order, qty, minute, **cells)
        self.publish()

    # What is there

    def look(self) -> Seen:
        """Everything in the database."""
        return look(self.eye)

    def trades(self) -> list[Trade]:
        """The profile's trades."""
        rows = self.look().of(self.profile)
        return sorted({(row["symbol"], row["trade_id"]) for row in rows if row["action"] == "ENTRY"})

    def orders(self) -> list[str]:
        """The exchange orders that closed something."""
        return sorted({f["exchange_order_id"] for f in self.incident.fills if f["exchange_order_id"].startswith("x")})

    def own_rows(self) -> list[str]:
        """The profile's rows that recon did not write."""
        return sorted(row["order_id"] for row in self.look().of(self.profile) if not is_backfill(row))

    def backfills(self) -> list[str]:
        """The profile's backfill rows."""
        return sorted(row["order_id"] for row in self.look().of(self.profile) if is_backfill(row))

    def around(self) -> Around:
        """What the next step meets."""
        exchange = Exchange(
            tuple({**fill, "symbol": fill["symbol"]} for fill in self.incident.fills) if self.readable else None,
            None if self.incident.positions is None else tuple(self.incident.positions),
            tuple(self.incident.open_orders or ()),
        )
        rules = tuple(sorted(self.rules.items()))
        return Around(
            self.look(), exchange, self.switch.word, self.now, self.lookback, self.profile, rules, self.house,
            self.keeps,
        )  # fmt: skip

    def batch(self, name: str) -> Batch:
        """What the model knows of the batch."""
        return self.batches.setdefault(name, Batch(self.profile, meddled=bool(self.memory.once_by_hand)))

    def _entry(self, trade: Trade) -> Mapping[str, Any]:
        rows = self.look().of(self.profile)
        return next(row for row in rows if (row["symbol"], row["trade_id"], row["action"]) == (*trade, "ENTRY"))

    def _closing(self, trade: Trade) -> str:
        return "buy" if self._entry(trade)["side"] == "sell" else "sell"
