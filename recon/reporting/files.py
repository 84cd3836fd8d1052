"""Files that are whole or not there: written under a temporary name, forced to disk, then linked or renamed; writes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recon.durable import sync


def add_file(path: Path, data: bytes, folder: Path | None = None) -> None:
    """Write a read-only file that must not exist yet; `FileExistsError` if it does.

    `folder` is the report folder, by default the one that the file is in: what a power cut leaves lies beside it.
    """
    with _temporary(folder or path.parent, data, 0o444) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: claim the name first
            path.open("xb").close()
            temporary.replace(path)
        sync(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of a report folder in the place of the one that is there, if any."""
    with _temporary(path.parent, data, 0o644) as temporary:
        temporary.replace(path)
        sync(path.parent)


def remove_file(path: Path) -> None:
    """Take away a file that may be there."""
    path.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else is in here for the same folder, in this process or another; a lock that ends with the process.

    Some network file systems lock no folder: there nobody waits.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _temporary(folder: Path, data: bytes, mode: int) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.chmod(mode)
        yield path
    finally:
        path.unlink(missing_ok=True)
