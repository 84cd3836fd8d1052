"""`recon fetch`: the account's evidence as a statement folder, to work on offline, hand over and plan from again.

Entry point: `fetch_evidence`. It asks what a dry run of the profile would ask, so that a plan made from the folder is
the plan made from the source. Nothing is written but that folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from recon.database import transaction
from recon.domain import Gap, Snapshot
from recon.doors.access import for_reading
from recon.durable import move_folder
from recon.errors import ReconError, Refused, UsageError
from recon.identity import canonical_time
from recon.stages.gather import wanted
from recon.venues import Exchange
from recon.venues.archive import coverage_document, write_statement
from recon.venues.base import Paged
from recon.wording import count
from recon.workspace import Workspace, reflect


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched for a profile, and the folder that holds it."""

    profile_id: str
    snapshot: Snapshot
    folder: Path

    def document(self) -> dict[str, Any]:
        """The JSON object of `recon fetch --json`; `legs` and `open_orders` are None when nothing is known of them."""
        told, coverage = self.snapshot, coverage_document(self.snapshot)
        return {
            "profile_id": self.profile_id,
            "source": told.source,
            "window": {"start": canonical_time(told.window.start), "end": canonical_time(told.window.end)},
            "pages": len(coverage["pages"]),
            "fills": len(told.fills),
            "legs": None if told.positions is None else len(told.positions),
            "open_orders": None if told.open_orders is None else len(told.open_orders),
            **{name: coverage[name] for name in ("gaps", "doubts", "notes")},
            "folder": str(self.folder),
        }

    def lines(self) -> list[str]:
        """The same for people: the numbers, then everything that limits them, and the folder last."""
        told = self.snapshot
        legs = "positions unknown" if told.positions is None else count(len(told.positions), "leg")
        orders = "open orders not checked" if told.open_orders is None else count(len(told.open_orders), "open order")
        return [
            f"fetched: {count(len(told.fills), 'fill')}, {legs}, {orders} (profile {self.profile_id}, {told.source})",
            f"  from {canonical_time(told.window.start)} to {canonical_time(told.window.end)}",
            *(f"  gap: {_span(gap)}: {gap.why}" for gap in told.gaps),
            *(f"  doubt: {doubt.symbol}: {doubt.reason}: {doubt.why}" for doubt in told.doubts),
            *(f"  note: {note}" for note in told.notes),
            f"  folder: {self.folder}",
        ]


def fetch_evidence(work: Workspace, profile_id: str, folder: Path, *, progress: bool = False) -> Fetched:
    """Ask the configured source what a dry run would ask, and write `folder`, which must be new or empty.

    The folder is written beside its place and renamed when whole. `progress` shows a bar on standard error while a
    live venue answers. Raises `Refused` (folder_taken, role_missing, unknown_profile, orders_unsuitable,
    evidence_unreadable), `UsageError` (exchange_unknown) when no source is configured, and `ReconError`
    (folder_unwritable).
    """
    folder = folder.resolve()
    _require_room(folder)
    with transaction(for_reading(work.engine), read_only=True) as connection:
        asked = wanted(connection, reflect(connection, profile_id), profile_id, work.exchange)
        now = work.now(connection)
    if work.exchange is None:
        raise UsageError("exchange_unknown", "RECON_EXCHANGE is unset, so there is nothing to fetch from. Set it.")
    with _place_beside(folder) as beside:
        with _bar(work.exchange, progress):
            snapshot = work.fetch(profile_id, now, asked)
        assert snapshot is not None, "there is an exchange"  # noqa: S101
        write_statement(beside, snapshot, profile_id)
        move_folder(beside, folder)
    return Fetched(profile_id, snapshot, folder)


@contextmanager
def _place_beside(folder: Path) -> Iterator[Path]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp") as beside:
            yield Path(beside) / "statement"
    except OSError as error:
        _require_room(folder)  # it may have been filled meanwhile
        raise ReconError(
            "folder_unwritable",
            f"{folder} cannot be written ({error.strerror}), and nothing was kept. Make it writable, or name another.",
        ) from None


def _require_room(folder: Path) -> None:
    try:
        taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError:
        return  # nothing can be written there either, and that will be told
    if taken:
        message = f"{folder} is not an empty folder, and nothing is overwritten. Name a new one."
        raise Refused("folder_taken", message)


@contextmanager
def _bar(exchange: Exchange, shown: bool) -> Iterator[None]:
    """A bar that counts the pages of a venue that tells them; it is gone in the end."""
    if not isinstance(exchange, Paged):
        yield
        return
    with tqdm(desc=f"reading {exchange.name}", unit=" pages", leave=False, disable=not shown) as bar:
        exchange.on_page = bar.update
        yield


def _span(gap: Gap) -> str:
    return f"{gap.symbol or 'all symbols'} from {canonical_time(gap.start)} to {canonical_time(gap.end)}"
