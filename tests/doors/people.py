"""Real logins, one for each of recon's roles, made once a server; each connects as itself."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from recon.database import connect
from recon.doors.names import OWNER, Role

PEOPLE: Mapping[str, tuple[str, ...]] = {
    "a_reader": (Role.READER,),
    "a_planner": (Role.PLANNER,),
    "an_approver": (Role.APPROVER,),
    "an_applier": (Role.APPLIER,),
    "an_undoer": (Role.UNDOER,),
    "a_taker": (Role.APPLIER,),
    "all_five": tuple(Role),
    "nobody": (),
}
"""Who has which roles; a_taker inherits nothing and has to take hers, and all_five has all five."""

LOGIN_OF = {
    Role.READER: "a_reader",
    Role.PLANNER: "a_planner",
    Role.APPROVER: "an_approver",
    Role.APPLIER: "an_applier",
    Role.UNDOER: "an_undoer",
}
"""The login that has one role and no other."""


def make_people(engine: sa.Engine) -> None:
    """Create the roles and the logins where they are not there yet, as a superuser."""
    with engine.begin() as connection:
        have = set(connection.exec_driver_sql("SELECT rolname::text FROM pg_roles").scalars())
        for name in (*Role, OWNER):
            if name not in have:
                connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")
        for name, roles in PEOPLE.items():
            if name not in have:
                inherit = "NOINHERIT" if name == "a_taker" else "INHERIT"
                member = f" IN ROLE {', '.join(roles)}" if roles else ""
                connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN {inherit}{member}")


def as_login(engine: sa.Engine, name: str) -> sa.Engine:
    """An engine on the same database that connects as that login."""
    return connect(engine.url.set(username=name).render_as_string(hide_password=False))
