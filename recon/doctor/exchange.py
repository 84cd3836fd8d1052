"""The exchange: whether a source is named, and whether it can be read in full for a profile."""

from __future__ import annotations

from collections.abc import Iterator

from recon.database import transaction
from recon.domain import NOTHING_SPECIAL, Check, Snapshot
from recon.errors import ReconError
from recon.orders import Orders
from recon.stages.gather import wanted
from recon.venues import Exchange
from recon.wording import count
from recon.workspace import Workspace


def exchange_checks(work: Workspace, profile_id: str | None) -> Iterator[Check]:
    """What the configured source is; with a profile its evidence is read too. Reads only."""
    if work.exchange is None:
        yield Check("exchange", False, "RECON_EXCHANGE is unset, so every position is unknown; name a source.")
    else:
        yield from _source(work, work.exchange, profile_id)


def _source(work: Workspace, exchange: Exchange, profile_id: str | None) -> Iterator[Check]:
    if exchange.live:
        probed = list(_probed(exchange))
        yield from probed
        if not all(check.ok for check in probed):
            return
    if profile_id is None:
        yield Check("exchange", True, f"{exchange.name}; give --profile-id to read its evidence")
    else:
        yield _evidence(work, exchange, profile_id)


def _probed(exchange: Exchange) -> Iterator[Check]:
    from recon.venues.live.probe import probe  # brings ccxt, which takes a second
    from recon.venues.live.source import CcxtExchange

    if isinstance(exchange, CcxtExchange):
        yield from probe(exchange.access)


def _evidence(work: Workspace, exchange: Exchange, profile_id: str) -> Check:
    try:
        with transaction(work.engine, read_only=True) as connection:
            asked = NOTHING_SPECIAL
            if exchange.live:
                asked = wanted(connection, Orders.reflect(connection), profile_id, exchange)
            now = work.now(connection)
        snapshot = work.fetch(profile_id, now, asked)
    except ReconError as error:
        return Check("exchange", False, f"{error.code}: {error.message}")
    assert snapshot is not None, "there is an exchange"  # noqa: S101
    return Check("exchange", snapshot.positions is not None, f"{exchange.name}: {_told(snapshot)}")


def _told(snapshot: Snapshot) -> str:
    legs = count(len(snapshot.positions), "position leg") if snapshot.positions is not None else "positions unknown"
    return f"{count(len(snapshot.fills), 'fill')}, {legs}. {' '.join(snapshot.notes)}".strip()
