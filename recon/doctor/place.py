"""Which table `orders` is, whether recon can work on it, and whether recon's own tables stand beside it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon import audit
from recon.doctor.asking import Finding
from recon.errors import ReconError
from recon.orders import Orders
from recon.wording import count

KINDS = {"r": "a table", "p": "a table", "v": "a view", "m": "a materialized view", "f": "a foreign table"}


@dataclass(frozen=True, slots=True)
class Namesake:
    """Something called `orders` in some schema: `met` is the one that recon works on."""

    schema: str
    kind: str
    met: bool
    on_path: bool
    usable: bool

    @property
    def name(self) -> str:
        """With its schema."""
        return f"{self.schema}.orders"

    @property
    def why_not(self) -> str:
        """Why it is not the one that recon works on."""
        if not self.usable:
            return f"{self.name} (this user lacks USAGE on the schema)"
        return f"{self.name} ({'later on the search_path' if self.on_path else 'not on the search_path'})"


def search_path(connection: Connection) -> Finding:
    """In which schema `orders` was found, and which others of that name are not looked at."""
    query = sa.text("SELECT reset_val FROM pg_settings WHERE name = 'search_path'")
    path: str = connection.execute(query).scalar_one()
    every = _namesakes(connection)
    others = ", ".join(one.why_not for one in every if not one.met)
    met = next((one for one in every if one.met), None)
    if met is None:
        remedy = (
            f"there is {others}: put its schema on the path with ALTER ROLE ... SET search_path, and grant USAGE on it"
            if others
            else "name the backend's database in RECON_DATABASE_URL"
        )
        return False, f"expected a table orders on the search_path, {path}, found none; {remedy}."
    beside = f"; not looked at: {others}" if others else ""
    if KINDS[met.kind] != "a table":
        return False, (
            f"expected orders to be a table, found that {met.name} is {KINDS[met.kind]}{beside}; put the table's "
            f"schema first on the search_path, now {path}."
        )
    return True, f"orders is {met.name}, on the search_path {path}{beside}"


def orders(connection: Connection) -> Finding:
    """Whether the table can be worked on; a refusal comes with the DDL that would help."""
    found = Orders.reflect(connection)
    naive = f"; {', '.join(found.naive_times)} are without time zone and read as UTC" if found.naive_times else ""
    return True, f"suitable; rows are unique by {', '.join(found.conflict)}{naive}"


def own_tables(connection: Connection) -> Finding:
    """Whether recon's three tables have all their columns."""
    missing = audit.ddl(connection)
    if missing:
        raise ReconError(
            "not_initialised", f"{count(len(missing), 'statement')} due; run `recon init`, or `recon init --print`."
        )
    return True, "complete"


def _namesakes(connection: Connection) -> list[Namesake]:
    query = sa.text(
        """
        SELECT nspname::text, relkind::text, pg_class.oid = to_regclass('orders') IS TRUE,
               nspname = ANY (current_schemas(true)), has_schema_privilege(pg_namespace.oid, 'USAGE')
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relname = 'orders' AND relkind = ANY (:kinds) AND nspname !~ '^pg_'
        ORDER BY array_position(current_schemas(true), nspname), nspname
        """
    )
    return [Namesake(*row) for row in connection.execute(query, {"kinds": list(KINDS)})]
