"""Triggers of the backend's own that slow down, hold up or change what is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from faults.bench import Bench


@contextmanager
def triggered(bench: Bench, table: str, when: str, body: str, *, deferred: bool = False) -> Iterator[None]:
    """A trigger of the backend's own, for as long as the block lasts."""
    kind = "CONSTRAINT TRIGGER fault AFTER" if deferred else "TRIGGER fault BEFORE"
    late = "DEFERRABLE INITIALLY DEFERRED" if deferred else ""
    bench.ask_nothing(f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$")
    bench.ask_nothing(f"CREATE {kind} {when} ON {table} {late} FOR EACH ROW EXECUTE FUNCTION fault()")
    try:
        yield
    finally:
        bench.stands()
        bench.ask_nothing("DROP FUNCTION fault CASCADE")
