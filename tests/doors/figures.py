"""`python tests/doors/figures.py`: every attack and every mutant on each PostgreSQL here, and what the doors cost.

For each role it prints how many statements tried to get around the doors and how many ended otherwise than they must;
for the mutants (one condition, column, step or right less strict) how many an attack got through, how many were stopped
by another rule, and which were not noticed. The price is the median of applies with and without doors in one run.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from incidents import Incident

from conftest import postgresql_15
from doors.mutants import MUTANTS, RIGHTS
from doors.price import price
from doors.run import Noticed, all_attacks, attempt, run_mutant, run_right, statements_of, version_of
from doors.siege import a_siege, standing
from recon.database import connect
from recon.embedded import EmbeddedServer, start

ROWS, TIMES = (100, 1_000, 10_000), 3


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def attacks(incident: Incident) -> list[str]:
    """Run every attack; returns what went wrong."""
    wrong, tried, version, before = [], Counter[str](), version_of(incident), standing(incident)
    for attack in all_attacks():
        tried[attack.who] += 1
        ended, after = attempt(incident, attack), standing(incident)
        if ended != attack.expects(version) or after != before:
            wrong.append(f"{attack.who}, {attack.why}: {ended} in place of {attack.expects(version)}")
            before = after
    for who, count in tried.items():
        say(f"  {who}: {count} statements")
    say(f"  {tried.total()} statements in all, {len(wrong)} not refused as they must be")
    return wrong


def mutants(incident: Incident) -> list[str]:
    """Run every mutant; returns those that nothing noticed."""
    statements, every = statements_of(incident), all_attacks()
    ends, missed = Counter[str](), []

    def tally(name: str, run: Callable[[], Noticed | None]) -> None:
        noticed = run()
        ends[
            "not noticed" if noticed is None else "an attack got through" if noticed.through else "stopped elsewhere"
        ] += 1
        missed.extend([name] if noticed is None else [])

    for mutant in MUTANTS:
        tally(mutant.name, lambda mutant=mutant: run_mutant(incident, mutant, statements, every))
    for role, right in RIGHTS:
        tally(f"{role}: {right}", lambda role=role, right=right: run_right(incident, role, right, every))
    told = ", ".join(f"{ends[name]} {name}" for name in ("an attack got through", "stopped elsewhere", "not noticed"))
    say(f"  {len(MUTANTS)} mutants and {len(RIGHTS)} rights more: {told}")
    return missed


def besieged(server: EmbeddedServer, folder: Path) -> list[str]:
    """Attacks and mutants on one server."""
    server.create_database("siege")
    with a_siege(connect(server.url("siege")), folder) as incident:
        say(f"PostgreSQL {server.version}")
        return [*attacks(incident), *mutants(incident)]


def main() -> int:
    """Print the figures; the exit status says whether everything was refused and every mutant noticed."""
    wrong = []
    with tempfile.TemporaryDirectory() as home:
        for number, programs in enumerate((None, postgresql_15())):
            if number and programs is None:
                say("PostgreSQL 15 is not here; install postgresql-15")
                continue
            with closing(start(Path(home), bin_dir=programs)) as server:
                folder = Path(tempfile.mkdtemp())
                wrong += besieged(server, folder)
                shutil.rmtree(folder)
                if programs is None:
                    for rows in ROWS:
                        doors, without = price(server, rows, TIMES)
                        told = f"{doors:.2f} s with doors, {without:.2f} s without"
                        say(f"  apply of {rows} rows: {told}, {doors / without:.2f} times")
    for line in wrong:
        say(f"WRONG {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
