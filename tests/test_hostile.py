"""Statements that try to get around the doors, and doors less strict by one condition; `make doors` runs all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from doors.attacks import ANNA, AXEL, CONTROLS, PAUL, RITA, UDO, generic
from doors.mutants import MUTANTS, RIGHTS, Mutant
from doors.people import LOGIN_OF, PEOPLE
from doors.run import all_attacks, attempt, run_mutant, run_right, statements_of, try_out, version_of
from doors.siege import a_siege, login, standing
from incidents import Incident, empty

from recon.database import connect
from recon.doors.names import Role
from recon.embedded import EmbeddedServer

EACH = 12
"""Of the mutants, and of what nobody may do, every twelfth is tried here."""


@pytest.fixture(scope="module", params=["pg18", "pg15"])
def siege(
    request: pytest.FixtureRequest, servers: Callable[[str], EmbeddedServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Incident]:
    """The besieged incident, made once for each version."""
    server = servers(request.param)
    server.create_database("siege")
    engine: sa.Engine = connect(server.url("siege"))
    empty(engine)
    with a_siege(engine, tmp_path_factory.mktemp("siege")) as incident:
        yield incident
    server.drop_database("siege")


def test_there_are_a_hundred_statements_for_each_role() -> None:
    own = {Role.APPLIER: AXEL, Role.UNDOER: UDO, Role.APPROVER: ANNA, Role.PLANNER: PAUL, Role.READER: RITA}
    for role, attacks in own.items():
        texts = {attack.statements for attack in attacks}
        assert len(texts) >= 100 or len(texts) + len(generic(LOGIN_OF[role], PEOPLE[LOGIN_OF[role]])) >= 250, role


def test_the_legitimate_statements_beside_the_attacks_work(siege: Incident) -> None:
    before = standing(siege)
    for control in CONTROLS:
        with login(siege, control.who) as connection:
            assert try_out(connection, control) is None, (control.who, control.why)
    assert standing(siege) == before


def test_every_attack_ends_as_it_must_and_nothing_is_changed(siege: Incident) -> None:
    """The digest is over all rows, definitions, rights and roles; it is taken after each one that was committed."""
    version, before, wrong = version_of(siege), standing(siege), []
    tried, met = Counter[str](), Counter[str]()
    for attack in all_attacks():
        met[attack.who] += 1
        if attack.is_generic and met[attack.who] % EACH:
            continue
        tried[attack.who] += 1
        ended = attempt(siege, attack)
        if ended != attack.expects(version) or (ended is None and standing(siege) != before):
            wrong.append((attack.who, attack.why, ended, attack.statements))
    assert not wrong
    assert standing(siege) == before
    assert set(tried) >= set(LOGIN_OF.values())


@pytest.mark.parametrize("siege", ["pg18"], indirect=True)
def test_doors_less_strict_by_one_condition_are_noticed(siege: Incident) -> None:
    statements, attacks = statements_of(siege), all_attacks()
    for mutant in MUTANTS[::EACH]:
        assert run_mutant(siege, mutant, statements, attacks), mutant.name
    for role, right in RIGHTS[::EACH]:
        assert run_right(siege, role, right, attacks), (role, right)
    with login(siege, "an_applier") as connection:
        assert try_out(connection, CONTROLS[0]) is None


def test_every_mutant_changes_one_statement(siege: Incident) -> None:
    statements = statements_of(siege)
    for mutant in MUTANTS:
        before, after = mutant.applied(statements)
        assert before != after
    assert len({one.name for one in MUTANTS if isinstance(one, Mutant)}) == len(MUTANTS)
