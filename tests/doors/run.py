"""Runs attacks as the people they name and says how each ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import psycopg
from incidents import Incident

from doors.attacks import CONTROLS, OWN, SUPERUSER, Attack, generic
from doors.mutants import Mutant
from doors.people import LOGIN_OF, PEOPLE
from doors.siege import CLOCK, login
from recon.database import transaction
from recon.doors.names import Role
from recon.doors.roles import GRANTS, role_statements

THROUGH = None
"""A transaction that was committed."""


def attempt(incident: Incident, attack: Attack) -> str | None:
    """The SQLSTATE with which the attack ended, None when it was committed; on a connection of its own."""
    with login(incident, attack.who) as connection:
        ended = _run(connection, attack)
        if ended is THROUGH:
            try:
                connection.commit()
            except psycopg.Error as error:
                return error.sqlstate
        return ended


def try_out(connection: psycopg.Connection, attack: Attack) -> str | None:
    """The same, but taken back after every deferred check was made, so that it changes nothing even then."""
    last = "SET CONSTRAINTS ALL IMMEDIATE"
    ended = _run(connection, replace(attack, statements=(*attack.statements, last)))
    connection.rollback()
    if "PREPARE" in "".join(attack.statements):
        connection.execute("DEALLOCATE ALL")
    return ended


def _run(connection: psycopg.Connection, attack: Attack) -> str | None:
    try:
        for statement in attack.statements:
            if "FROM STDIN" in statement:
                with connection.cursor().copy(statement) as sending:
                    sending.write("BFILL-x\n")
            else:
                connection.execute(statement)
    except psycopg.Error as error:
        connection.rollback()
        return error.sqlstate or type(error).__name__
    return THROUGH


@dataclass(frozen=True)
class Noticed:
    """Which attack a mutant changed the end of; `through` says whether nothing stopped it any more."""

    attack: Attack
    ended: str | None

    @property
    def through(self) -> bool:
        """Whether the attack was committed, or would have been."""
        return self.ended is THROUGH


def version_of(incident: Incident) -> int:
    """The server's major version."""
    [(number,)] = incident.sql("SELECT current_setting('server_version_num')::integer / 10000")
    return number


def notice(incident: Incident, attacks: Sequence[Attack]) -> Noticed | None:
    """The first attack that gets through now, else the first that ends otherwise; changes nothing."""
    version, first = version_of(incident), None
    with ExitStack() as stack:
        people: dict[str, psycopg.Connection] = {}
        for attack in attacks:
            if attack.who not in people:
                people[attack.who] = stack.enter_context(login(incident, attack.who))
            ended = try_out(people[attack.who], attack)
            if ended != attack.expects(version):
                noticed = Noticed(attack, ended)
                if noticed.through:
                    return noticed
                first = first or noticed
    return first


def statements_of(incident: Incident) -> list[str]:
    """What made the doors of the besieged incident."""
    with transaction(incident.engine, read_only=True) as connection:
        return role_statements(connection, CLOCK)


def install(incident: Incident, statement: str) -> None:
    """Run one of the doors' statements again, in place of what is there."""
    with incident.backend.begin() as connection:
        if named := re.match(r"CREATE (?:CONSTRAINT )?TRIGGER (\w+).*? ON (\w+)", statement, re.DOTALL):
            name, table = named.groups()
            connection.exec_driver_sql(f"DROP TRIGGER {name} ON {table}")
            statement = f"{statement}; ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"
        statement = statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def run_mutant(
    incident: Incident, mutant: Mutant, statements: Sequence[str], attacks: Sequence[Attack]
) -> Noticed | None:
    """Whether any of the attacks, or of the controls, notices the mutant; the doors are put right again."""
    before, after = mutant.applied(statements)
    relevant = [attack for attack in attacks if attack.who in mutant.who]
    install(incident, after)
    try:
        return notice(incident, [*relevant, *(one for one in CONTROLS if one.who in mutant.who)])
    finally:
        install(incident, before)


def run_right(incident: Incident, role: Role, right: str, attacks: Sequence[Attack]) -> Noticed | None:
    """The same for a right more; taken back afterwards."""
    incident.sql(f"GRANT {right} TO {role}")
    try:
        return notice(incident, [attack for attack in attacks if attack.who == LOGIN_OF[role]])
    finally:
        incident.sql(f"REVOKE {right} FROM {role}")
        with transaction(incident.engine) as connection:  # a REVOKE of one column takes what was granted before, too
            for granted in GRANTS[role]:
                connection.exec_driver_sql(f"GRANT {granted} TO {role}")
            connection.exec_driver_sql(f"GRANT SELECT ON orders TO {role}")


def all_attacks() -> list[Attack]:
    """Every attack of every person, the generic ones last."""
    found = [*OWN, *SUPERUSER]
    for who in LOGIN_OF.values():
        found += generic(who, PEOPLE[who])
    return found
