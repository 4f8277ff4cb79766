"""What the kernel does by itself: a failed cell of a headless run ends the run, and so does the kernel's end."""

import asyncio
import atexit
from typing import Any

from rbkit.errors import RunEnded
from rbkit.run import Run

__all__ = ["Hooks"]


class Hooks:
    """Watches the cells of a kernel on behalf of its run.

    Args:
        shell: The IPython shell.
        run: The run.
        driver: supervised, headless or operator; an operator's slip in a cell does not end the run.
    """

    def __init__(self, shell: Any, run: Run, driver: str) -> None:
        self._shell, self._run, self._driver = shell, run, driver

    def install(self) -> None:
        """Begin to watch."""
        if self._driver == "operator":
            return
        self._shell.events.register("post_run_cell", self._cell_ended)
        if self._driver == "headless":
            atexit.register(self._kernel_ends)

    def remove(self) -> None:
        """Stop watching."""
        if self._driver == "operator":
            return
        self._shell.events.unregister("post_run_cell", self._cell_ended)
        atexit.unregister(self._kernel_ends)

    def _cell_ended(self, result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            self._run.fail_now(RunEnded(f"A cell failed: {type(error).__name__}: {error}"))

    def _kernel_ends(self) -> None:
        if not self._run.state.finished:
            asyncio.run(self._run.end_alone("The kernel ended before run.close()."))
