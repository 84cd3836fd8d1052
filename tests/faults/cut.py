"""The connection is cut after every byte, in both directions: of what the client says, and of what the server says."""

from __future__ import annotations

from collections.abc import Iterator

from faults.bench import Ground, Pick, Said
from faults.judge import Judged, judged
from faults.proxy import DOWN, UP, proxy
from recon.database import connect
from recon.domain import Stage

AGAIN = 101
"""Every so many cases the next run is really run, also where one from the same state was."""


def cut(ground: Ground, pick: Pick, stage: Stage, way: str) -> Iterator[Judged]:
    """One case a byte, on an engine that has connected before: a first connection begins with questions of its own."""
    bench = ground.bench(stage)
    with proxy(bench.recon_url) as between:
        engine = connect(between.url)
        totals = []
        for _ in range(2):
            between.cut_after(way, -1)
            assert bench.run(engine=engine).code is None
            totals.append(between.passed[way])
            bench.rewind()
        # the times that are written end in fewer than six digits once in ten: the larger total counts
        for count in pick.bytes(max(totals)):
            between.cut_after(way, count)
            said = Said.by(bench.run(engine=engine))
            if between.struck:
                yield judged(bench, f"{stage} {way} byte {count}", said, again=count % AGAIN == 0)
            else:
                bench.rewind()


def of_apply(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """Both directions of an apply."""
    for way in (UP, DOWN):
        yield from cut(ground, pick, Stage.APPLY, way)


def of_rollback(ground: Ground, pick: Pick) -> Iterator[Judged]:
    """Both directions of a rollback."""
    for way in (UP, DOWN):
        yield from cut(ground, pick, Stage.ROLLBACK, way)
