"""What the doors cost: the same apply with and without them, in turn, on a table of 100,000 rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from incidents import Incident, an_incident, at

from recon.database import connect
from recon.domain import Verdict
from recon.embedded import EmbeddedServer

BYSTANDERS = 100_000
RESTORED = (
    "DELETE FROM orders WHERE order_id LIKE 'BFILL-%%'",
    "DELETE FROM reconciliation_backfill_audit WHERE decision IN ('APPLIED', 'SKIP_EXISTING')",
    "UPDATE reconciliation_batches SET state = 'approved'",
)


def prepare(incident: Incident, rows: int, *, doors: bool) -> None:
    """A table of so many rows, of which a batch repairs some; approved, not applied."""
    incident.create_table(doors=doors)
    incident.sql(
        """INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price, filled_at,
               created_at, updated_at, side, exchange_order_id)
           SELECT 'old-' || n, 'main', 'OLD/USD', 'old-' || n / 2, CASE n %% 2 WHEN 0 THEN 'ENTRY' ELSE 'EXIT' END,
               'filled', 1, 1, 100, t, t, t, CASE n %% 2 WHEN 0 THEN 'buy' ELSE 'sell' END, 'old-' || n
           FROM generate_series(0, %s) AS n, LATERAL (SELECT %s::timestamptz + n * interval '1 ms') AS a (t)""",
        BYSTANDERS - 2 * rows - 1, at(-1000),
    )  # fmt: skip
    incident.sql(
        """INSERT INTO orders (order_id, profile_id, symbol, trade_id, action, status, quantity, qty, price, filled_at,
               created_at, updated_at, side, exchange_order_id)
           SELECT 'entry-' || n, 'main', 'S' || n %% 50 || '/USD', 'lost-' || n, 'ENTRY', 'filled', 1, 1, 100, t, t, t,
               'buy', 'entry-' || n FROM generate_series(1, %s) AS n,
               LATERAL (SELECT %s::timestamptz + n * interval '1 ms') AS a (t)""",
        rows, at(0),
    )  # fmt: skip
    incident.fills = [
        {"fill_id": f"f{n}", "exchange_order_id": f"exit-{n}", "client_order_id": "", "symbol": f"S{n % 50}/USD",
         "side": "sell", "qty": "1", "price": "110", "fee": "", "fee_currency": "",
         "filled_at": at(60 + n / 1000).isoformat()}
        for n in range(1, rows + 1)
    ]  # fmt: skip
    incident.write_statement()
    incident.plan()
    incident.sql("ANALYZE")


def one_apply(incident: Incident) -> float:
    """The seconds that an apply takes; everything is put back afterwards."""
    work = incident.work()
    begun = perf_counter()
    applied = incident.run("apply", work=work)
    took = perf_counter() - begun
    assert applied.verdict is Verdict.DONE, applied.message
    for statement in RESTORED:
        incident.tamper(statement)
    return took


@contextmanager
def two(server: EmbeddedServer, rows: int) -> Iterator[tuple[Incident, Incident]]:
    """The same incident with and without doors, each in a database of its own."""
    with ExitStack() as stack:
        found = []
        for name, doors in (("with_doors", True), ("without_doors", False)):
            server.create_database(name)
            stack.callback(server.drop_database, name)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            incident = stack.enter_context(an_incident(connect(server.url(name)), folder))
            prepare(incident, rows, doors=doors)
            found.append(incident)
        yield found[0], found[1]


def price(server: EmbeddedServer, rows: int, times: int) -> tuple[float, float]:
    """The median seconds of an apply with and without doors, alternately."""
    with two(server, rows) as (with_doors, without):
        taken = [(one_apply(with_doors), one_apply(without)) for _ in range(times)]
    return median(first for first, _ in taken), median(second for _, second in taken)
