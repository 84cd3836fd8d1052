"""Whether reports can be kept: their folder, or the nearest one above it that exists. Looks, and creates nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from recon.domain import Check

MINIMUM_FREE = 200_000_000
"""Bytes that one batch may need with five notebooks, their pages, and large evidence kept beside each."""

MEGABYTE = 1_000_000


def reports_check(folder: Path) -> Check:
    """Whether the folder can be written, or made, and has room; reads only."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        return Check("reports_folder", False, f"{folder} is not writable; set RECON_REPORTS_DIR")
    free = shutil.disk_usage(nearest).free
    if free < MINIMUM_FREE:
        return Check(
            "reports_folder",
            False,
            f"{folder} is writable, but expected at least {MINIMUM_FREE // MEGABYTE} MB free there, found "
            f"{free // MEGABYTE} MB; make room, or name another folder in RECON_REPORTS_DIR",
        )
    return Check("reports_folder", True, f"{folder} is writable, {free // MEGABYTE} MB are free")
