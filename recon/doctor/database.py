"""The checks of the database, in order. Where it cannot be used at all, nothing more is asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy.engine import Connection

from recon.database import shown_url
from recon.doctor import doors, hazards, locks, place, rights, server
from recon.doctor.asking import Finding, Question, asked
from recon.doctor.pooler import pooler
from recon.domain import Check
from recon.doors.access import behind, hidden
from recon.doors.names import Role
from recon.identity import canonical_time
from recon.workspace import Workspace

QUESTIONS: Mapping[str, Question] = {
    "time_zone": server.time_zone,
    "search_path": place.search_path,
    "orders": place.orders,
    "own_tables": place.own_tables,
    "privileges": rights.privileges,
    "row_security": rights.row_security,
    "doors": doors.doors,
    "audit_trail": doors.audit_trail,
    "triggers": hazards.triggers,
    "rules": hazards.rules,
    "locks": locks.locks,
}


def database_checks(work: Workspace) -> Iterator[Check]:
    """Every check of the server, of `orders` and of recon's tables; reads only."""
    first = asked(work, "database", lambda connection: _database(work, connection))
    yield first
    if first.ok:
        yield pooler(work.engine)
        yield asked(work, "clock", lambda connection: _clock(work, connection))
        yield from (asked(work, name, question) for name, question in QUESTIONS.items())


def _database(work: Workspace, connection: Connection) -> Finding:
    if hidden(connection):
        behind(work.engine, *Role)  # says which role lets this login look
    where = "the embedded demo" if work.settings.is_demo else shown_url(work.engine.url)
    return server.version(connection, where)


def _clock(work: Workspace, connection: Connection) -> Finding:
    if work.fixed_now is not None:
        return True, f"the demo's, which stands still at {canonical_time(work.fixed_now)}"
    return server.clock(connection)
