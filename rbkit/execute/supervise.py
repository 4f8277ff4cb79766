"""Executes one notebook and sees to it that its run ends, whatever happens to the kernel."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.contract import Contract
from rbkit.ending import end
from rbkit.execute.client import execute_cells
from rbkit.execute.watch import Watch
from rbkit.fold import Moment, RunState
from rbkit.gate import Gate
from rbkit.journal import Journal, operator
from rbkit.ports import Store
from rbkit.settings import Settings
from rbkit.wiring import Wiring

if TYPE_CHECKING:
    from rbkit.execute.manager import CellManager

__all__ = ["Supervision", "supervise"]


def _silent(moment: Moment) -> None:
    return None


def _no_cell(index: int, cell: Any) -> None:
    return None


@dataclass(slots=True)
class Supervision:
    """One headless run as its supervisor sees it.

    Args:
        run: The run's id.
        settings: Where store, environment files and notebooks lie; which mode.
        notebook: The notebook's path; empty when papermill gave only its content.
        progress: Called with every new event.
        on_cell: Called before each code cell.
    """

    run: str
    settings: Settings
    notebook: str = ""
    progress: Callable[[Moment], None] = _silent
    on_cell: Callable[[int, Any], None] = _no_cell
    watch: Watch | None = None
    executed: Any = None
    stopped: str = ""

    def variables(self) -> dict[str, str]:
        """The kernel's environment variables: this process's, and what binds the kernel to its run."""
        own = {
            "RUN": self.run, "HOME": self.settings.home, "NOTEBOOK": self.notebook, "MODE": self.settings.mode,
            "PARAMETERS": self.settings.folder("parameters"), "NOTEBOOKS": self.settings.folder("notebooks"),
            "DRIVER": "supervised", "ACTOR": self.settings.actor or operator(), "TAPE": self.settings.tape,
        }  # fmt: skip
        inherited = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
        return {
            **inherited, **{f"RBKIT_{name}": str(value) for name, value in own.items()},
            "PLOTLY_RENDERER": "plotly_mimetype", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def journal(self, store: Store) -> Journal:
        """Open the run's journal as the supervisor."""
        return Journal(store, self.run, "supervisor", actor=self.settings.actor, clock=SystemClock())


def supervise(
    supervision: Supervision, manager: "CellManager", kernel_name: str, contract: Contract, store: Store
) -> RunState:
    """Execute a notebook and see to it that its run ends.

    Args:
        supervision: The run.
        manager: The notebook and its bookkeeping.
        kernel_name: Which kernel to start.
        contract: The notebook's contract.
        store: Where the journal lies.

    Returns:
        The closed run; a fresh state when the kernel never opened it.
    """
    supervision.executed = manager.nb
    journal = supervision.journal(store)
    supervision.watch = Watch(journal, supervision.progress, contract.budget_s)
    cwd = Path(supervision.notebook).parent if supervision.notebook else Path.cwd()
    why = execute_cells(manager, kernel_name, cwd, supervision.variables(), supervision.watch, supervision.on_cell)
    supervision.stopped = supervision.watch.killed or why
    state = _end(supervision, journal)
    supervision.watch.tell()
    return state


def _end(supervision: Supervision, journal: Journal) -> RunState:
    """End the run from the journal alone if the kernel did not do it."""
    state = journal.state
    if state.finished or state.opened is None:
        return state
    why = supervision.stopped or "the notebook ended without run.close()"
    if supervision.watch and supervision.watch.reason and not state.cancel:
        journal.append(ev.CancelRequested(reason=supervision.watch.reason))
    return asyncio.run(_end_alone(supervision, journal, why[0].upper() + why[1:]))


async def _end_alone(supervision: Supervision, journal: Journal, why: str) -> RunState:
    opened = journal.state.opened
    name = opened.environment if opened else ""
    world = Wiring(supervision.settings.environment(name))
    try:
        return await end(Gate(journal, world), why)
    finally:
        await world.aclose()
