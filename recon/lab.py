"""`recon lab`: JupyterLab on the notebooks, in this environment, on loopback only."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jupyter_core.paths import jupyter_data_dir
from pydantic import SecretStr

from recon.reporting.names import STEMS
from recon.reporting.notebook import find_notebook
from recon.reporting.seal import load_notebook
from recon.settings import Settings


def open_lab(settings: Settings, arguments: Sequence[str]) -> NoReturn:
    """Become JupyterLab, so that whoever ends this process ends the server; its exit status is the process's.

    The notebooks that ship are trusted, so that their tables and figures show at once. Installed ones are copied to
    RECON_HOME first (a copy that was changed is not trusted); a checkout's own are opened where they are. `arguments`
    are passed on, such as `--no-browser`.
    """
    folder = find_notebook("01_detect.ipynb").parent
    _trust(folder)
    if not (folder.parent / "pyproject.toml").is_file():
        folder = _copied(folder, settings.recon_home / "notebooks")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    os.execve(sys.executable, [*command, *arguments], os.environ | configuration(settings))  # noqa: S606 - no shell


def configuration(settings: Settings) -> dict[str, str]:
    """Every setting by its exact name, unset ones empty: a kernel may find another `.env`, and must read the same."""
    return {name.upper(): _text(settings, name) for name in sorted(Settings.model_fields)}


def _text(settings: Settings, name: str) -> str:
    value = getattr(settings, name) if name in settings.model_fields_set else None
    return value.get_secret_value() if isinstance(value, SecretStr) else "" if value is None else str(value)


def _trust(folder: Path) -> None:
    from nbformat.sign import NotebookNotary  # takes its time, and only this command wants it

    with contextlib.suppress(OSError, ValueError):  # what cannot be signed opens untrusted
        Path(jupyter_data_dir()).mkdir(parents=True, exist_ok=True)
        notary = NotebookNotary()  # type: ignore[no-untyped-call]
        for stem in STEMS.values():
            notary.sign(load_notebook(folder / f"{stem}.ipynb"))  # type: ignore[no-untyped-call]
        notary.close()  # type: ignore[no-untyped-call]


def _copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(source.glob("*.ipynb")):
        if not (target / notebook.name).exists():
            shutil.copyfile(notebook, target / notebook.name)
    return target
