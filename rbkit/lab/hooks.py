"""What the kernel does by itself: ends the run when a headless cell fails, at its own end, and when told to stop."""

import asyncio
import atexit
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from rbkit.ending import ENDING, refuse_stranger
from rbkit.errors import Cancelled, Fenced, RunbookError, RunEnded, StoreUnavailable
from rbkit.leases import Keeper
from rbkit.run import Run

__all__ = ["Hooks"]

_POLL_S = 0.4
_INTERRUPT_S = 1.5
"""How long a cell may take to notice by itself that the run is to stop, seconds."""


class Hooks:
    """Watches the cells of a kernel on behalf of its run.

    Args:
        shell: The IPython shell.
        run: The run.
        driver: supervised, headless or operator; an operator's slip in a cell does not end the run.
        keeper: Keeps the run's lease alive; None when the supervisor does.
    """

    def __init__(self, shell: Any, run: Run, driver: str, keeper: Keeper | None) -> None:
        self._shell, self._run, self._driver, self._keeper = shell, run, driver, keeper
        self._busy, self._over = True, threading.Event()
        self._turn = threading.Lock()
        self._told: float | None = None
        self._trouble = ""

    def install(self) -> None:
        """Begin to watch."""
        self._shell.events.register("pre_run_cell", self._cell_begins)
        self._shell.events.register("post_run_cell", self._cell_ended)
        if self._keeper is not None:
            self._keeper.start()
            threading.Thread(target=self._watch, name="rbkit-stop", daemon=True).start()
            atexit.register(self._kernel_ends)

    def remove(self) -> None:
        """Stop watching, and give the leases back."""
        self._shell.events.unregister("pre_run_cell", self._cell_begins)
        self._shell.events.unregister("post_run_cell", self._cell_ended)
        atexit.unregister(self._kernel_ends)
        self._let_go()

    def _cell_begins(self, info: Any) -> None:
        with self._turn:  # not while the run is being ended
            self._busy = True

    def _cell_ended(self, result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        try:
            if error is not None and self._driver != "operator" and not isinstance(error, Fenced):
                self._run.fail_now(RunEnded(f"A cell failed: {type(error).__name__}: {error}"))
        finally:
            self._busy = False
        if self._run.journal.known.finished:
            self._let_go()

    def _let_go(self) -> None:
        """Give the leases back and watch no more: the run is over, or somebody else's."""
        self._over.set()
        if self._keeper is not None:
            self._keeper.stop()

    def _watch(self) -> None:
        """Obey a request to stop that comes while no step runs."""
        while not self._over.wait(_POLL_S):
            try:
                self._look()
            except StoreUnavailable:
                continue
            except Fenced as error:
                self._let_go()
                self._say(error.what)
            except RunbookError as error:
                self._say(error.what)

    def _say(self, trouble: str) -> None:
        """Say what is wrong, once."""
        if trouble != self._trouble:
            self._run.screen.line("✗", trouble)
        self._trouble = trouble

    def _look(self) -> None:
        refuse_stranger(self._run.journal)
        state = self._run.journal.known
        if state.finished or not state.cancel:
            self._told = None
        elif not self._ended_between_cells(state.cancel) and state.state not in ENDING:
            self._interrupt()

    def _ended_between_cells(self, stop: str) -> bool:
        """End the run here if no cell would notice; none begins meanwhile."""
        with self._turn:
            if self._busy:
                return False
            self._run.fail_now(Cancelled(f"Stopped: {stop}."), asks=False)
        self._let_go()
        return True

    def _interrupt(self) -> None:
        """Interrupt a cell that has not noticed by itself; what is being undone is left alone."""
        self._told = self._told or time.monotonic()
        if time.monotonic() - self._told > _INTERRUPT_S:
            self._told = None
            os.kill(os.getpid(), signal.SIGINT)

    def _kernel_ends(self) -> None:
        """End the run with the kernel; an operator's is left to be resumed or rolled back by a person."""
        try:
            with self._turn, asyncio.Runner(loop_factory=_LastLoop) as runner:
                if self._driver == "headless" and not self._run.state.finished:
                    runner.run(self._run.end_alone("The kernel ended before run.close()."))
        except RunbookError as error:
            self._say(error.what)
        finally:
            self._let_go()


class _LastLoop(asyncio.SelectorEventLoop):
    """The loop of a process that ends: no thread can be begun any more, so it does the work of threads itself."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """Call a function, here and now."""
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            done.set_exception(error)
        return done
