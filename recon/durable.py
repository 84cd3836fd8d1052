"""Folders that survive a power cut: forced to disk, then renamed into place, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def move_folder(source: Path, target: Path) -> None:
    """Force the files of `source` to disk and rename it to `target`, which must be new or an empty folder; writes.

    Raises `OSError`: a folder that holds anything is never replaced.
    """
    for path in (*source.iterdir(), source):
        sync(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Force a file or the entries of a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
