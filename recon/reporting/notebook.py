"""Finding a stage's notebook, refusing one that cannot take parameters, and executing it in a kernel of its own.

The kernel is this very interpreter, its transport is encrypted, its noise goes nowhere, and the executed notebook
stays in memory: a full disk cannot stop a stage half-way. Nothing in here writes a file.
"""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill import PapermillExecutionError, execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from traitlets import default

from recon.errors import ReconError
from recon.interrupts import heard
from recon.reporting.seal import load_notebook

CELL_SECONDS = 900
"""How long one cell may take: an apply waits for locks far shorter than this."""

START_SECONDS = 120
"""How long a kernel may take to start, on a machine under load."""

OUTPUT_SECONDS = 120
"""How long what a cell shows may still be on its way when the cell has ended, on such a machine."""

LOG = logging.getLogger(__name__)
"""Where the kernel's client complains; silent unless someone listens, since the outcome says the same."""
LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Execution:
    """An executed notebook, and why its execution ended early, if it did (`code` and a sentence)."""

    notebook: NotebookNode
    code: str | None = None
    message: str | None = None


def find_notebook(name: str) -> Path:
    """The notebook `name` inside the installed package, else in the checkout that holds the package."""
    package = Path(str(resources.files("recon")))
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / name).is_file():
            return folder / name
    raise ReconError("notebook_missing", f"{name} does not ship with this installation of recon. Install recon again.")


def check_parameters(path: Path, names: frozenset[str]) -> None:
    """Make sure that parameters passed by name will arrive; raises `ReconError` (notebook_invalid) otherwise."""
    try:
        notebook = load_notebook(path)
    except ValueError:
        raise _invalid(path, "it is not a notebook") from None
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise _invalid(path, f"expected exactly one code cell tagged 'parameters', found {len(tagged)}")
    declared = _declared(path, tagged[0].source)
    if declared != names:
        raise _invalid(path, f"its parameters are {sorted(declared)}, expected {sorted(names)}")


def execute(path: Path, parameters: Mapping[str, str], environment: Mapping[str, str], *, progress: bool) -> Execution:
    """Run every cell in a fresh kernel that sees `environment` on top of this process's; never raises for a cell.

    An interrupt ends it early and is told; only one that comes before there is a notebook is raised.
    """
    kept: list[NotebookNode] = []
    trouble: tuple[str, str] | tuple[None, None] = None, None
    try:
        with heard():
            execute_notebook(
                str(path).replace("{", "{{").replace("}", "}}"),  # papermill formats paths
                None,
                parameters=dict(parameters),
                engine_name="recon",
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                kept=kept,
                environment={**os.environ, **environment},
            )
    except (PapermillExecutionError, CellTimeoutError, RuntimeError, OSError, KeyboardInterrupt) as error:
        if not kept:
            raise
        trouble = _trouble(error)
    notebook = kept[0]
    for key in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.papermill.pop(key, None)
    return Execution(notebook, *trouble)


def to_text(notebook: NotebookNode) -> str:
    """The notebook as it is saved."""
    return str(nbformat.writes(notebook))  # type: ignore[no-untyped-call]


def from_text(text: str) -> NotebookNode:
    """The notebook that `to_text` wrote."""
    notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


class _Kernel(AsyncKernelManager):
    """A kernel of this interpreter, whatever kernelspecs are installed, with encrypted transport."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    @default("transport_encryption")
    def _encrypted(self) -> str:
        return "required"


class _RecordingEngine(Engine):  # type: ignore[misc]
    """papermill's engine, but keeping hold of the notebook when the kernel dies."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        kept: list[NotebookNode],
        environment: Mapping[str, str],
        **_: object,
    ) -> None:
        kept.append(nb_man.nb)
        # A cell that Ctrl-C leaves behind fails when its kernel is stopped; asyncio would print that as a crash.
        ensure_event_loop().set_exception_handler(lambda _, about: LOG.debug("%s", about["message"]))
        client = PapermillNotebookClient(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=_Kernel,
            timeout=CELL_SECONDS,
            startup_timeout=START_SECONDS,
            iopub_timeout=OUTPUT_SECONDS,
            log=LOG,
        )
        client.execute(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


papermill_engines.register("recon", _RecordingEngine)


def _declared(path: Path, source: str) -> frozenset[str]:
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        raise _invalid(path, "its parameters cell is not Python") from None
    names = [target.id if isinstance(target, ast.Name) else None for node in statements for target in _targets(node)]
    if None in names:
        raise _invalid(path, "its parameters cell does more than assign names")
    return frozenset(name for name in names if name)


def _targets(node: ast.stmt) -> Sequence[ast.expr | None]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target if isinstance(node, ast.AnnAssign) else None]


def _invalid(path: Path, found: str) -> ReconError:
    advice = "Nothing was run. Restore the notebook that ships with recon."
    return ReconError("notebook_invalid", f"{path.name} cannot be run: {found}. {advice}")


def _trouble(error: BaseException) -> tuple[str, str]:
    match error:
        case PapermillExecutionError():
            return "cell_failed", f"Cell [{error.exec_count}] ended with {error.ename}: {error.evalue}."
        case CellTimeoutError():
            return "cell_timeout", f"A cell took longer than {CELL_SECONDS} s, and its kernel was stopped."
        case DeadKernelError():
            return "kernel_died", "The notebook's kernel died before it reached the last cell."
        case KeyboardInterrupt():
            return "interrupted", "The run was interrupted, and its kernel was stopped."
        case _:
            return "kernel_not_started", f"The kernel of {sys.executable} did not start: {error}."
