"""A part of every fault sweep, and each guard taken out once: the judge then says what is wrong.

`make faults` runs all of it and prints the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from faults import kill, trouble, writers
from faults.bench import Bench, Ground, Pick, Said, ground
from faults.boundaries import COMMIT
from faults.fault_runs import SWEEPS, Tally
from faults.judge import Judged, judged
from faults.proxy import proxy

from recon import audit, batches
from recon.database import connect, explain, transaction
from recon.domain import Stage
from recon.orders import Orders
from recon.stages import apply as applying
from recon.stages import writing

REDUCED: dict[str, Pick] = {
    "cut-apply": Pick(step=3001, first=17),
    "cut-rollback": Pick(step=3001, first=2018),
    "kill-client": Pick(thin=31),
    "kill-backend": Pick(thin=29, first=11),
    "kill-server": Pick(thin=37, first=23),
    "connections": Pick(thin=2),
    "disk": Pick(thin=21, first=3),
    "locks": Pick(thin=2),
    "statements": Pick(thin=2),
    "changed": Pick(thin=2),
    "unpause": Pick(thin=9),
    "backend": Pick(thin=29, first=13),
    "appliers": Pick(thin=39),
    "two-batches": Pick(thin=47),
}
"""How much of each sweep runs here."""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server that may be killed, and the benches on it."""
    home, folder = tmp_path_factory.mktemp("faults-home"), tmp_path_factory.mktemp("faults")
    with ground(home, folder) as made:
        yield made


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_finds_all_or_nothing_told_truthfully_and_converging(
    field: Ground, name: str, record_property: Callable[[str, object], None]
) -> None:
    tally = Tally()
    for one in SWEEPS[name][1](field, REDUCED[name]):
        tally.add(one)
    record_property("ends", dict(tally.ends))
    if name == "disk" and not tally.cases:
        pytest.skip("no tmpfs can be mounted here, so no disk of a chosen size")
    assert tally.cases > 1
    assert tally.wrong == []


# The controls: each guard taken out


@pytest.fixture
def bench(field: Ground) -> Iterator[Bench]:
    """Just before an apply."""
    made = field.bench(Stage.APPLY)
    yield made
    made.known.clear()
    made.rewind()


def moment(bench: Bench, wanted: str) -> int:
    """The last boundary whose statement begins so."""
    return max(number for number, what in enumerate(kill.boundaries(bench)) if what.startswith(wanted))


def exit_at(bench: Bench, at: int) -> Judged:
    """The backend writes the real EXIT there."""
    act = lambda: writers.Backend(bench, writers.REAL_EXIT)  # noqa: E731
    serial = [writers.ended(bench, "real EXIT", act, first=first) for first in (True, False)]
    return writers.meanwhile(bench, "real EXIT", act(), at, serial)


def test_without_the_table_lock_a_trade_is_closed_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at = moment(bench, COMMIT)
    assert exit_at(bench, at).wrong == []
    monkeypatch.setattr(Orders, "lock", lambda self, connection: connection.execute(sa.text("SELECT 1")))
    assert exit_at(bench, at).partial == "over-closed: t1"


def test_without_the_second_look_at_the_switch_a_profile_that_runs_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = moment(bench, "INSERT INTO reconciliation_backfill_audit")
    assert writers.unpaused(bench, at, must="before").wrong == []
    gate, looks = writing._gate, count()

    def only_once(*given: Any) -> Any:
        return gate(*given) if next(looks) % 2 == 0 else None

    monkeypatch.setattr(writing, "_gate", only_once)
    found = writers.unpaused(bench, at, must="before")
    assert (found.ended, bool(found.untruthful)) == ("after DONE", True)


def lost_commit(bench: Bench) -> Judged:
    """The server commits, and its answer never comes."""
    with proxy(bench.recon_url) as between:
        between.cut = lambda message: "lost" if b"COMMIT\0" in message else "pass"
        said = Said.by(bench.run(engine=connect(between.url)))
    return judged(bench, "lost", said, must="after")


def test_without_asking_what_became_of_the_transaction_an_error_is_told_though_it_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lost_commit(bench).wrong == []

    def believe(*given: Any) -> None:
        raise explain(given[-1])

    monkeypatch.setattr(writing, "_settle", believe)
    found = lost_commit(bench)
    assert found.partial == ""
    assert "told FAILED database_unreachable" in found.untruthful


def test_with_the_audit_in_a_transaction_of_its_own_a_crash_leaves_a_part(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = moment(bench, "SELECT CAST(pg_current_xact_id()")

    def terminated() -> list[Judged]:
        return list(kill.struck(bench, "terminated", at, "the end", kill.terminate))

    assert [one.wrong for one in terminated()] == [[]]
    append = audit.append

    def apart(connection: sa.Connection, **given: Any) -> int:
        with transaction(connect(bench.recon_url)) as own:
            return append(own, **given)

    monkeypatch.setattr(audit, "append", apart)
    [found] = terminated()
    assert "'rows': 'before', 'audit': 'after', 'states': 'before'" in found.partial


def test_without_the_advisory_lock_the_console_says_rolled_back_of_what_commits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is killed while the server works on its COMMIT, and the console is asked right then."""
    assert kill.killed_in_commit(bench).wrong == []
    monkeypatch.setattr("recon.incident.advisory_key", lambda profile_id: 4711)  # as if nobody held it
    found = kill.killed_in_commit(bench)
    assert "the console says 'The database says rolled back" in found.untruthful


def test_without_computing_the_plan_again_a_part_of_it_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_at(bench, 0).wrong == []
    act = writers.Backend(bench, writers.REAL_EXIT)

    def whatever_it_is(work: Any, held: Any, snapshot: Any) -> Any:
        batch, facts = held.batch, applying.gather(held.connection, held.orders, held.batch.profile_id, snapshot)
        scope = batch.scope or {}
        own = applying.Scope(tuple(scope.get("trade_ids", ())), tuple(scope.get("symbols", ())))
        return applying.build_plan(facts, work.rules, own)

    monkeypatch.setattr(applying, "_recompute", whatever_it_is)
    found = writers.meanwhile(bench, "real EXIT", act, 0, [])
    assert found.partial.startswith("partial: {'rows': 'neither'")


def test_without_comparing_what_was_written_another_price_stands(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    what = "another with its id and price came first"
    assert trouble.changed_row(bench, what).wrong == []
    monkeypatch.setattr(applying, "differences", lambda *given: ())
    found = trouble.changed_row(bench, what)
    assert found.partial.startswith("partial: {'rows': 'neither'")


def test_without_looking_at_the_batch_another_transaction_with_its_id_is_taken_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash loses the id of what had not committed, and the server gives it to the next that asks for one."""
    at = moment(bench, COMMIT)

    def crashed() -> list[Judged]:
        return list(kill.struck(bench, "ids taken", at, COMMIT, kill.crash_and_go_on))

    assert [one.wrong for one in crashed()] == [[]]
    monkeypatch.setattr(batches, "is_behind", lambda state, action: True)
    [found] = crashed()
    assert "told DONE" in found.untruthful
    assert "it stands before" in found.untruthful
