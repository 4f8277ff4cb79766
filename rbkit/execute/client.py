"""Executes the cells of a notebook in a kernel of our own: private sockets, own process group, own environment."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from rbkit.errors import RunbookError
from rbkit.execute.watch import Watch

if TYPE_CHECKING:
    from rbkit.execute.manager import CellManager

__all__ = ["execute_cells"]

_NO_KERNEL = "Install it, or set the notebook's kernel to python3 (`python -m ipykernel install --sys-prefix`)."


def execute_cells(
    manager: "CellManager", kernel_name: str, cwd: Path, variables: dict[str, str], watch: Watch, on_cell: Any
) -> str:
    """Execute every code cell until one fails.

    Args:
        manager: The notebook and its bookkeeping.
        kernel_name: Which kernel to start.
        cwd: The kernel's working folder.
        variables: The kernel's environment variables.
        watch: Told of the kernel's process; it kills it when it is late.
        on_cell: Called with (index, cell) before each code cell.

    Returns:
        Why the notebook stopped early; empty when every cell ran.
    """
    folder = Path(tempfile.mkdtemp(prefix="rbkit-"))
    client = _client(manager, kernel_name, cwd, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(watch.stop)
        try:
            stack.enter_context(client.setup_kernel(env=variables))
        except NoSuchKernel as error:
            raise RunbookError(f"There is no Jupyter kernel named {error.name!r}.", todo=_NO_KERNEL) from error
        except (RuntimeError, OSError) as error:  # it ended before it answered, or its program is not there
            return f"the kernel could not be started: {error}"
        watch.start(_pid(client))
        why = _cells(client, manager, on_cell)
        if not why:
            client.set_widgets_metadata()
        return why


def _client(manager: "CellManager", kernel_name: str, cwd: Path, folder: Path) -> NotebookClient:
    kernel = AsyncKernelManager(
        kernel_name=kernel_name, transport="ipc", ip=str(folder / "k"), connection_file=str(folder / "kernel.json")
    )
    client = NotebookClient(
        manager.nb, km=kernel, timeout=None, kernel_name=kernel_name, resources={"metadata": {"path": str(cwd)}},
        coalesce_streams=False, ipython_hist_file=":memory:", raise_on_iopub_timeout=False,
    )  # fmt: skip
    client.owns_km = True
    client.reset_execution_trackers()
    return client


def _pid(client: NotebookClient) -> int:
    """Return the kernel's process id, which jupyter_client keeps in its provisioner."""
    return int(getattr(getattr(client.km, "provisioner", None), "pid", 0) or 0)


def _cells(client: NotebookClient, manager: "CellManager", on_cell: Any) -> str:
    for index, cell in enumerate(manager.nb.cells):
        if cell.cell_type == "code":
            on_cell(index, cell)
        manager.cell_start(cell, index)
        try:
            client.execute_cell(cell, index)
        except CellExecutionError as error:
            manager.cell_exception(cell, cell_index=index, exception=error)
            return f"cell {index} failed: {error.ename}: {error.evalue}"
        except (DeadKernelError, CellTimeoutError) as error:
            manager.cell_broken(cell)
            return f"the kernel died in cell {index} ({type(error).__name__})"
        finally:
            _join(cell)
            manager.cell_complete(cell, cell_index=index)
    return ""


def _join(cell: Any) -> None:
    """Join what a cell printed piece by piece.

    nbclient's own way takes quadratic time for a long line: one of 300,000 characters blocks it for minutes, and with
    it the supervisor.
    """
    joined: list[Any] = []
    for output in cell.get("outputs", []):
        last = joined[-1] if joined else {}
        if output.get("output_type") == "stream" == last.get("output_type") and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    if "outputs" in cell:
        cell["outputs"] = joined
