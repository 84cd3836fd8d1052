"""Real logins, one for each of recon's roles, made once a server; each connects as itself."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from recon.database import connect
from recon.doors.names import OWNER, Role

PEOPLE: Mapping[str, tuple[str, ...]] = {
    "rita": (Role.READER,),
    "paul": (Role.PLANNER,),
    "anna": (Role.APPROVER,),
    "axel": (Role.APPLIER,),
    "udo": (Role.UNDOER,),
    "nina": (Role.APPLIER,),
    "eve": tuple(Role),
    "nobody": (),
}
"""Who has which roles; nina inherits nothing and has to take hers, and eve has all five."""

LOGIN_OF = {Role.READER: "rita", Role.PLANNER: "paul", Role.APPROVER: "anna", Role.APPLIER: "axel", Role.UNDOER: "udo"}
"""The person who has one role and no other."""


def make_people(engine: sa.Engine) -> None:
    """Create the roles and the logins where they are not there yet, as a superuser."""
    with engine.begin() as connection:
        have = set(connection.exec_driver_sql("SELECT rolname::text FROM pg_roles").scalars())
        for name in (*Role, OWNER):
            if name not in have:
                connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")
        for name, roles in PEOPLE.items():
            if name not in have:
                inherit = "NOINHERIT" if name == "nina" else "INHERIT"
                member = f" IN ROLE {', '.join(roles)}" if roles else ""
                connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN {inherit}{member}")


def as_login(engine: sa.Engine, name: str) -> sa.Engine:
    """An engine on the same database that connects as that person."""
    return connect(engine.url.set(username=name).render_as_string(hide_password=False))
