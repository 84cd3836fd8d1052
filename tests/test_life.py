"""Whole lives of batches, drawn at random and checked against every invariant after every step; on real PostgreSQL.

RECON_LIFE_EXAMPLES sets how many lives are lived: unless set, the same few each time; with it so many new ones, and one
that fails is made as short as can be, which may take five minutes. Which check stands for which invariant is told in
`life/invariants.py`; that each of them can fail, in `test_life_controls.py`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from incidents import pause_switch
from life.backend import FOREVER
from life.model import Scope
from life.people import FORGERIES, KEYS, NAMES, OWNERS, House
from life.world import Life
from signers import Keys, make_keys

FEW = 10
EXAMPLES = int(os.environ.get("RECON_LIFE_EXAMPLES", "0"))
DOORS = os.environ.get("RECON_TEST_DOORS") == "1"
"""Whether recon works behind the doors, as for every other incident of the tests."""

STAGES = ("detect", "dry-run", "approve", "apply", "validate")
SYMBOLS = ("BTC/USD", "BTC/USD", "ETH/USD", "BTCUSD")
SIZES = ("1", "1", "2", "0.5", "1.0005", "0.0007")

EVENTS = (
    "nothing", "rules", "entry", "fill", "late fill", "real exit", "long", "order", "positions", "expiry", "touch",
    "batch", "house", "forgery",
)  # fmt: skip

MANGLED = (
    "side = NULL", "side = 'buy'", "side = 'sell'", "filled_at = NULL", "qty = quantity * 2", "qty = NULL",
    "price = NULL", "status = 'partially_filled'", "status = 'weird'", "status = 'canceled'",
    "exchange_order_id = NULL",
)  # fmt: skip
"""What a backend may do to a row of its own."""

symbols = st.sampled_from(SYMBOLS)
sizes = st.sampled_from(SIZES)
which = st.integers(0, 5)
minutes = st.integers(0, 12)
houses = st.builds(
    House,
    named=st.sampled_from((True, True, False)),
    required=st.booleans(),
    second=st.booleans(),
    allowed=st.sampled_from((frozenset(OWNERS), frozenset(OWNERS), frozenset({"bob"}))),
    hours=st.sampled_from((24, 2)),
)
keys = st.sampled_from(KEYS)
names = st.sampled_from(NAMES)


class Machine(RuleBasedStateMachine):
    """Hypothesis chooses what happens; `Life` does it and checks."""

    lived: ClassVar[Counter[tuple[str, str]]]
    where: ClassVar[tuple[sa.Engine, Path, Keys]]

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()
        engine, folder, keys = self.where
        folder = Path(self.open.enter_context(TemporaryDirectory(dir=folder)))
        self.life = Life(engine, folder, self.open.enter_context(pause_switch()), doors=DOORS, keys=keys)
        self.open.callback(self.life.close)

    def teardown(self) -> None:
        type(self).lived.update(self.life.steps)
        self.open.close()

    @initialize(
        lookback=st.sampled_from((FOREVER, timedelta(hours=72))),
        opened=st.lists(st.tuples(symbols, sizes, minutes, st.booleans(), st.booleans()), min_size=1, max_size=4),
        rules=st.tuples(st.sampled_from(("0.001", "0.6")), st.booleans()),
        house=st.just(House()) | houses,
        keeps=st.sampled_from((False, False, True)),
        lost=st.lists(
            st.sampled_from(("whole", "whole", "half", "dust", "fee", "entry fee", "split")), min_size=1, max_size=4
        ),
    )
    def begin(self, lookback, opened, lost, rules, house, keeps) -> None:
        self.life.lookback, self.life.keeps = lookback, keeps
        self.life.rule(*rules)
        self.life.people(house)
        for symbol, qty, offset, short, told in opened:
            self.life.open_trade(symbol, qty, offset, short=short, told=told)
        for number, how in enumerate(lost):
            self.life.lost_exit([self.trade(number)], how, 15 + number)

    # The backend and the exchange

    def trade(self, number: int):
        trades = self.life.trades()
        return trades[number % len(trades)]

    @rule(symbol=symbols, qty=sizes, offset=minutes, short=st.booleans(), told=st.booleans())
    def open_trade(self, symbol, qty, offset, short, told) -> None:
        self.life.open_trade(symbol, qty, offset, short=short, told=told)

    @rule(number=which, qty=sizes, offset=minutes)
    def grow_trade(self, number, qty, offset) -> None:
        self.life.grow_trade(self.trade(number), qty, offset)

    @rule(
        number=which,
        second=st.none() | which,
        how=st.sampled_from(("whole", "half", "dust", "fee", "entry fee", "more", "split")),
        offset=st.integers(0, 30),
        link=st.sampled_from((None, None, "expired", "new")),
        client=st.booleans(),
    )
    def lose_an_exit(self, number, second, how, offset, link, client) -> None:
        trades = [self.trade(number)]
        if second is not None and self.trade(second)[0] == trades[0][0]:
            trades.append(self.trade(second))
        self.life.lost_exit(trades, how, offset, link=link, client=client)

    @precondition(lambda self: self.life.orders())
    @rule(number=which, qty=sizes, offset=st.integers(0, 30))
    def a_fill_comes_late(self, number, qty, offset) -> None:
        orders = self.life.orders()
        self.life.late_fill(orders[number % len(orders)], qty, offset)

    @precondition(lambda self: self.life.orders())
    @rule(
        number=which,
        of=which,
        names=st.sampled_from(("id", "client", "time", "nothing")),
        offset=minutes,
        whole=st.booleans(),
    )
    def the_real_exit_comes(self, number, of, names, offset, whole) -> None:
        orders = self.life.orders()
        order = orders[of % len(orders)]
        symbol = next(fill["symbol"] for fill in self.life.incident.fills if fill["exchange_order_id"] == order)
        trades = [trade for trade in self.life.trades() if trade[0] == symbol]
        self.life.real_exit(order, trades[number % len(trades)], names, offset, whole=whole)

    @rule(
        what=st.sampled_from(
            ("short", "long", "order", "pause", "no answer", "fills", "positions", "calm", "calm", "calm")
        ),
        symbol=symbols,
    )
    def disturb(self, what, symbol) -> None:
        """Something that stands against a repair; or all of it is over."""
        {
            "short": lambda: self.life.hold(symbol, "-1"),
            "long": lambda: self.life.hold(symbol, "1"),
            "order": lambda: self.life.work_order(symbol, True),
            "pause": lambda: self.life.say("RUNNING"),
            "no answer": lambda: self.life.say(""),
            "fills": lambda: self.life.hide_fills(True),
            "positions": lambda: self.life.hide_positions(True),
            "calm": self.life.calm,
        }[what]()

    @rule(dust=st.sampled_from(("0.001", "0.001", "0.6")), base_fee=st.booleans())
    def settings_change(self, dust, base_fee) -> None:
        self.life.rule(dust, base_fee)

    @rule(house=houses)
    def the_house_changes(self, house) -> None:
        """Other rules for people, or a key that counts no longer."""
        self.life.people(house)

    @precondition(lambda self: self.approvals())
    @rule(number=which, how=st.sampled_from(FORGERIES))
    def forge(self, number, how) -> None:
        """A person with SQL changes an approval of a plan, or of a rollback."""
        there = self.approvals()
        name, undo = there[number % len(there)]
        self.life.forge(name, how, undo=undo)

    def approvals(self) -> list[tuple[str, bool]]:
        """The approvals that are there: of which batch, and whether of its rollback."""
        batches = self.life.batches.items()
        plans = [(name, False) for name, batch in batches if batch.given]
        return plans + [(name, True) for name, batch in batches if batch.undo]

    @rule(hours=st.sampled_from((1, 23, 25)))
    def wait(self, hours) -> None:
        self.life.wait(hours)

    @rule(seed=which)
    def shuffle(self, seed) -> None:
        self.life.shuffle(seed)

    @precondition(lambda self: self.life.backfills())
    @rule(
        number=which,
        change=st.sampled_from(
            ("status = 'canceled'", "status = 'filled'", "price = price + 1", "qty = qty / 2", "updated_at = now()")
        ),
    )
    def touch(self, number, change) -> None:
        rows = self.life.backfills()
        self.life.touch(rows[number % len(rows)], change)

    @rule(number=st.integers(0, 11), change=st.sampled_from(MANGLED))
    def mangle(self, number, change) -> None:
        rows = self.life.own_rows()
        self.life.mangle(rows[number % len(rows)], change)

    # Recon

    scopes = st.sampled_from(("no", "no", "no", "no", "trade", "symbol", "both", "misspelt"))

    def scope(self, narrowed, number) -> Scope:
        symbol, trade_id = self.trade(number)
        return {
            "no": Scope(), "trade": Scope((trade_id,)), "symbol": Scope((), (symbol,)),
            "both": Scope((trade_id,), (symbol,)),
            "misspelt": Scope((f"{trade_id}x",)),
        }[narrowed]  # fmt: skip

    scopes = st.sampled_from(("no", "no", "no", "trade", "symbol", "both", "misspelt"))

    def name(self, number: int) -> str:
        """A batch that is there, or a new one."""
        there = [*self.life.batches, f"b{len(self.life.batches) + 1}"]
        return there[number % len(there)]

    def done(self, number: int) -> str:
        """A batch that wrote something, or any where none did."""
        done = [name for name, batch in self.life.batches.items() if batch.opened and batch.state != "rolled_back"]
        return done[number % len(done)] if done else self.name(number)

    @rule(number=which, action=st.sampled_from(("detect", "apply", "validate", "rollback")))
    def stage(self, number, action) -> None:
        self.life.stage(action, self.name(number))

    @rule(number=which, action=st.sampled_from(("apply", "validate", "rollback", "rollback")))
    def stage_after_apply(self, number, action) -> None:
        self.life.stage(action, self.done(number))

    @rule(number=which, narrowed=scopes, trade=which)
    def dry_run(self, number, narrowed, trade) -> None:
        self.life.stage("dry-run", self.name(number), self.scope(narrowed, trade))

    @rule(number=which, seed=which)
    def dry_run_twice(self, number, seed) -> None:
        """The same facts, in another order, give the same digest (`same_facts_same_plan`)."""
        name = self.name(number)
        self.life.advance(name, "dry-run", Scope())
        self.life.shuffle(seed)
        self.life.stage("dry-run", name, Scope())

    @rule(
        number=which,
        given=st.sampled_from(("needed", "needed", "none", "unneeded", "blank", "unknown")),
        trade=which,
        by=names,
        key=keys,
    )
    def approve(self, number, given, trade, by, key) -> None:
        name, trade_id = self.name(number), self.trade(trade)[1]
        needed = self.life.needed(name)
        self.life.approve(
            name,
            {
                "needed": needed, "none": {}, "unneeded": {**needed, trade_id: "for nothing"},
                "blank": {**needed, trade_id: ""},                "unknown": {**needed, f"{trade_id}x": "who?"},
            }[given], by, key,
        )  # fmt: skip

    @rule(number=which, narrowed=scopes, trade=which, house=houses, by=names, key=keys)
    def release(self, number, narrowed, trade, house, by, key) -> None:
        """Nothing stands against a plan but the rules of the house: somebody approves it, and it is applied."""
        self.life.calm()
        self.life.people(house)
        name = self.name(number)
        self.life.advance(name, "dry-run", self.scope(narrowed, trade))
        self.life.approve(name, self.life.needed(name), by, key)
        self.life.stage("apply", name)

    @rule(number=which, by=names, key=keys, then=st.booleans())
    def approve_rollback(self, number, by, key, then) -> None:
        name = self.done(number)
        self.life.approve_rollback(name, by, key)
        if then:
            self.life.stage("rollback", name)

    @rule(number=which, key=st.sampled_from((*OWNERS, "stranger")))
    def sign(self, number, key) -> None:
        self.life.sign(self.done(number), key)

    @precondition(lambda self: self.life.keeps)
    @rule(
        number=which, action=st.sampled_from(("apply", "validate", "rollback", "approve-rollback")), both=st.booleans()
    )
    def close(self, number, action, both) -> None:
        """The report is signed, by one or two people; and yet something is done with the batch, and it is signed."""
        self.life.calm()
        name = self.done(number)
        self.life.advance(name, "validate")
        self.life.stage("validate", name)
        for key in [*OWNERS][: 1 + both]:
            self.life.sign(name, key)
        if action == "approve-rollback":
            self.life.approve_rollback(name, *self.life.house.fitting())
        else:
            self.life.stage(action, name)
        self.life.sign(name, "bob")

    @rule(
        number=which,
        upto=st.sampled_from((*STAGES, "apply", "apply")),
        narrowed=scopes,
        trade=which,
        calm=st.integers(0, 3),
    )
    def advance(self, number, upto, narrowed, trade, calm) -> None:
        """The whole way with a batch, old or new; mostly with nothing in the way."""
        if calm:
            self.life.calm()
        self.life.advance(self.name(number), upto, self.scope(narrowed, trade))

    @rule(narrowed=scopes, trade=which)
    def repair(self, narrowed, trade) -> None:
        """The same with a batch that nobody touched yet: what was rolled back is planned again, and reinstated."""
        self.life.calm()
        self.life.advance(self.name(len(self.life.batches)), "validate", self.scope(narrowed, trade))

    @rule(number=which, what=st.sampled_from(EVENTS), trade=which, narrowed=scopes)
    def overtaken(self, number, what, trade, narrowed) -> None:
        """Between approval and apply something happens: the apply is refused, unless it does not matter."""
        self.life.calm()
        name = self.name(number)
        self.life.advance(name, "approve", self.scope(narrowed, trade))
        symbol, orders, rows = self.trade(trade)[0], self.life.orders(), self.life.backfills()
        {
            "nothing": lambda: None,
            "rules": lambda: self.life.rule("0.002", bool(trade % 2)),
            "entry": lambda: self.life.open_trade(symbol, "1", 3),
            "fill": lambda: self.life.lost_exit([self.trade(trade)], "whole", 20),
            "late fill": lambda: self.life.late_fill(orders[trade % len(orders)], "0.5", 1),
            "real exit": lambda: self.the_real_exit_comes(trade, number, "id", 0, True),
            "long": lambda: self.life.hold(symbol, "1"),
            "order": lambda: self.life.work_order(symbol, True),
            "positions": lambda: self.life.hide_positions(True),
            "expiry": lambda: self.life.wait(25),
            "touch": lambda: rows and self.life.touch(rows[trade % len(rows)], "status = 'canceled'"),
            "batch": lambda: self.repair("trade", trade),
            "house": lambda: self.life.people(House(True, True, bool(trade % 2), frozenset({"bob"}))),
            "forgery": lambda: self.life.forge(name, FORGERIES[trade % len(FORGERIES)]),
        }[what]()
        self.life.stage("apply", name)

    @rule(number=which)
    def undo_and_repair(self, number) -> None:
        self.life.calm()
        self.life.roll_back(self.done(number))
        self.repair("no", 0)

    @rule(number=which, action=st.sampled_from(("dry-run", "apply", "validate", "rollback")))
    def of_another_profile(self, number, action) -> None:
        self.life.stage(action, self.name(number), profile="other")


def shaped() -> settings:
    """How many lives, of how many steps; without RECON_LIFE_EXAMPLES always the same."""
    return settings(
        max_examples=EXAMPLES or FEW,
        stateful_step_count=25,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
    )


@pytest.fixture
def machine(standing: Callable[[str], sa.Engine], tmp_path: Path) -> type[Machine]:
    class Here(Machine):
        lived: ClassVar = Counter()
        where = (standing("pg18"), tmp_path, make_keys(tmp_path / "keys"))

    Here.TestCase.settings = shaped()
    return Here


def test_every_step_of_every_life_keeps_every_invariant(
    machine: type[Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """Invariants 1 to 12, after each step, and each outcome as the model says; prints how many steps that were."""
    try:
        run_state_machine_as_test(machine, settings=shaped())
    finally:
        ends = Counter({f"{action} {end}": number for (action, end), number in machine.lived.items()})
        with capsys.disabled():
            told = ", ".join(f"{end} {number}" for end, number in sorted(ends.items()))
            sys.stdout.write(f"\n{ends.total()} steps of recon: {told}\n")
    assert EXAMPLES or {"apply DONE", "rollback DONE", "validate DONE"} <= ends.keys()
