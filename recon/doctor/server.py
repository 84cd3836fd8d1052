"""The server itself: its version, whether it takes writes, its clock and its time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recon.database import server_clock
from recon.doctor.asking import Finding
from recon.venues.base import FUTURE_TOLERANCE

OLDEST, NEWEST = 14, 18
"""Major versions that recon is made for; numeric infinity, which it asks for, came with 14."""

UTC_NAMES = frozenset({"utc", "etc/utc", "gmt", "etc/gmt", "zulu", "etc/zulu", "universal", "etc/universal"})


def version(connection: Connection, where: str) -> Finding:
    """Where the database is, its version, and whether it can be written at all."""
    text, number, standby = connection.execute(
        sa.text(
            """SELECT current_setting('server_version'), current_setting('server_version_num')::int,
                      pg_is_in_recovery()"""
        )
    ).one()
    if standby:
        return False, f"{where}: expected a server that takes writes, found a standby; name the primary."
    ok, told = version_told(text, number // 10_000)
    return ok, f"{where}, PostgreSQL {told}"


def version_told(text: str, major: int) -> Finding:
    """Whether recon is made for this version."""
    if major < OLDEST:
        return False, f"{text}: expected {OLDEST} to {NEWEST}; its numeric type lacks what recon asks for. Upgrade it."
    if major > NEWEST:
        return True, f"{text}, newer than {NEWEST}, the newest that recon was tested with: try a copy first"
    return True, text


def clock(connection: Connection) -> Finding:
    """How far the server's clock is from this machine's."""
    before = datetime.now(UTC)
    there = server_clock(connection)
    return clock_told(before, there, datetime.now(UTC))


def clock_told(before: datetime, there: datetime, after: datetime) -> Finding:
    """Whether the server's instant fits between two of this machine, one before and one after the question."""
    apart = there - (before + (after - before) / 2)
    seconds = f"{abs(apart).total_seconds():.3f} s {'ahead of' if apart > timedelta(0) else 'behind'} this machine's"
    unsure = f"give or take {(after - before).total_seconds() / 2:.3f} s"
    if abs(apart) - (after - before) / 2 <= FUTURE_TOLERANCE:
        return True, f"the server's clock, which decides, is {seconds}, {unsure}"
    minutes = FUTURE_TOLERANCE // timedelta(minutes=1)
    return False, (
        f"expected at most {minutes} minutes between the server's clock and this machine's, found the server's "
        f"{seconds}, {unsure}. recon goes by the server's, refuses fills further ahead, and ends approvals by it; set "
        "the one that is wrong."
    )


def time_zone(connection: Connection) -> Finding:
    """The time zone that this user gets, and what it means for times without one."""
    zone: str = connection.execute(
        sa.text("SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'")  # this transaction's own is UTC
    ).scalar_one()
    naive = _naive(connection)
    if not naive:
        return True, f"{zone}; recon asks in UTC, and no time that it uses in orders lacks its zone"
    told = f"{zone}; in orders, {', '.join(naive)} {'is' if len(naive) == 1 else 'are'} without time zone, read as UTC"
    if zone.lower() in UTC_NAMES:
        return True, f"{told}, as now() writes there"
    return True, f"{told}, but now() writes local time there under this setting: make sure that the backend writes UTC"


def _naive(connection: Connection) -> list[str]:
    query = sa.text(
        """SELECT attname::text FROM pg_attribute
           WHERE attrelid = to_regclass('orders') AND atttypid = 'timestamp'::regtype
           AND attname IN ('filled_at', 'created_at', 'updated_at') ORDER BY attnum"""
    )
    return list(connection.execute(query).scalars())
