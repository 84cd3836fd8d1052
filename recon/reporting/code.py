"""Which commit of recon ran: of the checkout, or the one that a package was installed from. Reads only."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import recon

SECONDS = 20
"""How long git may take; what it does not say by then is unknown."""

Commit = dict[str, Any]
"""`commit`, None when it is unknown, and `dirty`: whether the code differs from it, None when that is unknown."""


def code_that_ran() -> Commit:
    """The commit of the checkout that holds recon, else the one that pip recorded when it installed recon from git."""
    root = Path(recon.__file__).resolve().parents[1]
    if (root / ".git").exists() and (root / "pyproject.toml").is_file():
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "recon", "notebooks", "pyproject.toml")
        return {"commit": commit or None, "dirty": None if changed is None else bool(changed)}
    return {"commit": _installed_from(), "dirty": None}


def _git(root: Path, *arguments: str) -> str | None:
    """What git says of the checkout; None when it says nothing, is not there or takes too long."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), *arguments]
    try:
        ran = subprocess.run(
            command,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return ran.stdout.strip()


def _installed_from() -> str | None:
    try:
        text = distribution("recon").read_text("direct_url.json")
        commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) else None
