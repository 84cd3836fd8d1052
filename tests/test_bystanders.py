"""The look at every row that is not recon's, which follows each test: what it must find, and what it must not."""

from __future__ import annotations

import bystanders
import pytest
from incidents import Incident

from recon.database import transaction

CHANGES = {
    "UPDATE orders SET price = 7 WHERE order_id = 'entry-t1'": 1,
    "DELETE FROM orders WHERE order_id = 'theirs'": 1,
    "INSERT INTO orders (order_id, profile_id) VALUES ('new', 'nobody')": 1,
    "INSERT INTO orders (order_id, profile_id) VALUES ('BFILL-1', 'main')": 0,
    "UPDATE orders SET price = price": 0,
}


@pytest.fixture
def standing_rows(incident: Incident) -> Incident:
    """Two profiles with a row each."""
    incident.create_table().ghost("t1")
    incident.row("theirs", "t9", "ENTRY", "1", profile_id="other")
    return incident


@pytest.mark.parametrize(("statement", "found"), CHANGES.items())
def test_a_change_on_another_connection_is_found(standing_rows: Incident, statement: str, found: int) -> None:
    with transaction(standing_rows.engine) as recon:
        recon.exec_driver_sql(statement)
    assert len(bystanders.changes()) == found


@pytest.mark.parametrize("statement", CHANGES)
def test_it_is_found_also_when_the_backend_writes_after_it(standing_rows: Incident, statement: str) -> None:
    with transaction(standing_rows.engine) as recon:
        recon.exec_driver_sql(statement)
    standing_rows.row("later", "t8", "ENTRY", "1")
    assert len(bystanders.changes()) == CHANGES[statement]


@pytest.mark.parametrize("statement", CHANGES)
def test_what_the_backend_does_itself_is_expected(standing_rows: Incident, statement: str) -> None:
    standing_rows.sql(statement)
    assert bystanders.changes() == []
