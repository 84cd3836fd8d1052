"""Runs attacks as the people they name and says how each ended."""

from __future__ import annotations

import psycopg
from incidents import Incident

from doors.attacks import Attack
from doors.siege import login

THROUGH = None
"""A transaction that was committed."""


def attempt(incident: Incident, attack: Attack, *, keep: bool) -> str | None:
    """The SQLSTATE with which the attack ended, None when nothing stopped it.

    Without `keep` it is taken back after every deferred check was made, so that it changes nothing even then.
    """
    with login(incident, attack.who) as connection:
        try:
            for statement in attack.statements:
                if "FROM STDIN" in statement:
                    with connection.cursor().copy(statement) as sending:
                        sending.write("BFILL-x\n")
                else:
                    connection.execute(statement)
            if keep:
                connection.commit()
            else:
                connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except psycopg.Error as error:
            connection.rollback()
            return error.sqlstate or type(error).__name__
        connection.rollback()
        return THROUGH
