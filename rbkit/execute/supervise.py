"""Executes one notebook and sees to it that its run ends, whatever happens to the kernel."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.contract import Contract
from rbkit.ending import end
from rbkit.errors import Fenced
from rbkit.execute.client import execute_cells
from rbkit.execute.tokens import Budget, handed_over
from rbkit.execute.watch import Watch
from rbkit.fold import RunState
from rbkit.gate import Gate
from rbkit.journal import Journal, operator
from rbkit.leases import Keeper, kernel_of, new_holder, take
from rbkit.ports import Store
from rbkit.progress import Moment
from rbkit.reaping import began
from rbkit.settings import Settings
from rbkit.terms import Terms
from rbkit.wiring import Wiring

if TYPE_CHECKING:
    from rbkit.execute.manager import CellManager

__all__ = ["Supervision", "supervise"]


def _silent(moment: Moment) -> None:
    return None


def _no_cell(index: int, cell: Any) -> None:
    return None


def _shielded(tell: Callable[..., None]) -> Callable[..., None]:
    """Tell, unless the terminal is gone (rich then asks to exit): that must not stop a run."""

    def told(*what: Any) -> None:
        with contextlib.suppress(OSError, SystemExit):
            tell(*what)

    return told


@dataclass(slots=True)
class Supervision:
    """One headless run as its supervisor sees it.

    Args:
        run: The run's id.
        settings: Where store, environment files and notebooks lie; which mode.
        notebook: The notebook's path; empty when papermill gave only its content.
        holder: Who has taken the lease on the run already; empty to take it now.
        progress: Called with every new event.
        on_cell: Called before each code cell.
        watch: What keeps watch over the kernel, once there is one.
        executed: The notebook with its outputs.
        stopped: Why the notebook stopped early; empty when every cell ran.
        barred: Whether the notebook never got so far as to go on with the run.
        environment: The environment's name, where it is known before the kernel starts.
    """

    run: str
    settings: Settings
    notebook: str = ""
    holder: str = ""
    progress: Callable[[Moment], None] = _silent
    on_cell: Callable[[int, Any], None] = _no_cell
    watch: Watch | None = None
    executed: Any = None
    stopped: str = ""
    barred: bool = False
    environment: str = ""

    def __post_init__(self) -> None:
        """Let no output that fails stop the run; without a lease it is a new one, of whoever is at the keyboard."""
        self.progress, self.on_cell = _shielded(self.progress), _shielded(self.on_cell)
        if not self.holder:
            mode = "live" if self.settings.mode == "resume" else self.settings.mode
            self.settings = self.settings.model_copy(update={"session": 1, "mode": mode, "actor": ""})

    def variables(self) -> dict[str, str]:
        """The kernel's environment variables: this process's, and what binds the kernel to its run."""
        own = {
            "RUN": self.run, "HOME": self.settings.home, "NOTEBOOK": self.notebook, "MODE": self.settings.mode,
            "PARAMETERS": self.settings.folder("parameters"), "NOTEBOOKS": self.settings.folder("notebooks"),
            "DRIVER": "supervised", "ACTOR": self.settings.actor or operator(), "TAPE": self.settings.tape,
            "SESSION": self.settings.session, "HOLDER": kernel_of(self.holder), "LEASE": self.settings.lease,
        }  # fmt: skip
        inherited = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
        return {
            **inherited, **{f"RBKIT_{name}": str(value) for name, value in own.items()},
            "PLOTLY_RENDERER": "plotly_mimetype", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def journal(self, store: Store) -> Journal:
        """Open the run's journal as the supervisor."""
        session = self.settings.session
        return Journal(store, self.run, "supervisor", actor=self.settings.actor, clock=SystemClock(), session=session)


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
    clock, lease_s = SystemClock(), supervision.settings.lease_s
    if not supervision.holder:
        supervision.holder = new_holder(supervision.run)
        take(store, supervision.run, supervision.holder, clock, lease_s)
    with _kept(store, supervision.holder, lease_s):
        with _kept(store, kernel_of(supervision.holder), lease_s):
            journal = _executed(supervision, manager, kernel_name, contract, store)
        state = _end(supervision, journal)
    if supervision.watch:
        supervision.watch.tell()
    return state


@contextlib.contextmanager
def _kept(store: Store, holder: str, lease_s: float) -> Iterator[None]:
    """Renew what a holder holds, and give it back at the end."""
    keeper = Keeper(store, holder, SystemClock(), lease_s)
    keeper.start()
    try:
        yield
    finally:
        keeper.stop()


def _executed(
    supervision: Supervision, manager: "CellManager", kernel_name: str, contract: Contract, store: Store
) -> Journal:
    journal = supervision.journal(store)
    supervision.watch = Watch(journal, supervision.progress, contract.budget_s)
    cwd = Path(supervision.notebook).parent if supervision.notebook else Path.cwd()
    budget = Budget(supervision.run, contract.name, supervision.environment, contract.budget_s)
    with handed_over(budget, supervision.settings, store) as token:
        variables = supervision.variables() | token
        why = execute_cells(manager, kernel_name, cwd, variables, supervision.watch, supervision.on_cell)
    supervision.stopped = supervision.watch.killed or why
    return journal


def _end(supervision: Supervision, journal: Journal) -> RunState:
    """End the run from the journal alone if the kernel did not do it."""
    state = journal.state
    if state.finished or state.opened is None or state.session != journal.session:
        return state
    why = supervision.stopped or "the notebook ended without run.close()"
    if isinstance(state.timeline[-1].event, ev.SessionBegan):
        supervision.barred = True
        journal.append(began(journal.session + 1, "interruption", f"it could not be resumed: {why}"))
        return journal.state
    if supervision.watch and supervision.watch.reason and not state.cancel:
        journal.append(ev.CancelRequested(reason=supervision.watch.reason))
    return asyncio.run(_end_alone(supervision, journal, why[0].upper() + why[1:]))


async def _end_alone(supervision: Supervision, journal: Journal, why: str) -> RunState:
    opened = journal.state.opened
    name = opened.environment if opened else ""
    world = Wiring(supervision.settings.environment(name))
    terms = Terms(holder=supervision.holder, lease_s=supervision.settings.lease_s)
    try:
        return await end(Gate(journal, world, terms=terms), why)
    except Fenced:
        return journal.state  # whoever took it over ends it
    finally:
        await world.aclose()
