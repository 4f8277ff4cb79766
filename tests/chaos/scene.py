"""Runs, take-overs and a doctor, each in a simulated process, written with the real code."""

import contextlib
import os
import platform
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rbkit import events as ev
from rbkit.contract import Contract
from rbkit.ending import abandon, end
from rbkit.environment import Environment
from rbkit.errors import Fenced, Held, IllegalMove, RunbookError, RunEnded, StoreUnavailable
from rbkit.events import Call
from rbkit.fold import RunState
from rbkit.gate import Gate
from rbkit.journal import Journal
from rbkit.leases import Keeper, take, take_when_free
from rbkit.policy import ApprovalRules
from rbkit.reaping import ORPHANED, began, reap
from rbkit.run import Run
from rbkit.store import Store
from rbkit.terms import Terms
from rbkit.wiring import Wiring

from .checker import Evidence
from .simulation import CALM, Fate, Process, ProcessClock, Simulation
from .stores import NotedStore
from .world import BalancerPort, History, ServicesPort, System, some_steps, systems

TTL_S = 15.0
CONTRACT = Contract(name="chaos", version="1", owner="tests", budget_s=6000, digest="")
_FINE = (RunEnded, Held, Fenced, IllegalMove, StoreUnavailable)
"""How a process may end that was in somebody's way."""
Book = list[list[Call]]


class _Dark:
    """A screen that shows nothing."""

    def plan(self, run: Run) -> None:
        """Show nothing."""

    def line(self, glyph: str, text: str) -> None:
        """Show nothing."""

    def summary(self, state: RunState) -> None:
        """Show nothing."""


@dataclass
class Scene:
    """What the processes of a simulation share.

    Args:
        seed: Decides everything that is left to chance.
        raw: The store.
        fate: How much goes wrong.
        runs: How many runs there are.
        orderly: Whether every run takes its targets in one order, so that none is refused.
        supervised: Whether a supervisor holds the leases and ends the run when its kernel is lost.
        second_thoughts: How often a run that is over is rolled back, a share.
        cancels: How often somebody asks a run to stop each time that somebody looks at it, a share.
        ways: How a run may be taken over whose process is dead.
        options: Whether the systems know `tokens` and `keys`.
    """

    seed: int
    raw: Store
    fate: Fate = CALM
    runs: int = 2
    orderly: bool = False
    supervised: bool = False
    second_thoughts: float = 0.1
    cancels: float = 0.02
    ways: tuple[str, ...] = ("resume", "resume", "resume", "roll_back", "abandon")
    options: dict[str, bool] = field(default_factory=dict)
    store_of: Callable[["Scene", Process, Callable[[], None]], Store] = field(
        default=lambda scene, process, boundary: NotedStore(scene.raw, scene.history, process.name, boundary)
    )

    def __post_init__(self) -> None:
        self.simulation = Simulation(self.seed, self.fate)
        self.history = History(self.simulation.clock)
        chance = Random(self.seed)
        targets = [f"t{number}" for number in range(chance.choice([1, 2, 2]))]
        self.worlds: dict[str, System] = systems(self.history, targets, **self.options)
        ports = {name: {"adapter": "model"} for name in self.worlds}
        self.environment = Environment.model_validate({"name": f"chaos-{self.seed}", "capabilities": ports})
        self.books: dict[str, Book] = {
            self._name(number): some_steps(chance, targets, orderly=self.orderly) for number in range(self.runs)
        }  # fmt: skip
        self.settled: set[str] = set()
        self.errors: dict[str, RunbookError] = {}
        self._seen: dict[str, Journal] = {}

    def _name(self, number: int) -> str:
        return f"20260101-{self.seed:06d}-{number:06x}"

    def play(self) -> None:
        """Start every run and the doctor, and let all of them come to their end."""
        for number, run in enumerate(self.books):
            actor = Actor(self, run)
            self.simulation.spawn(f"run{number}", actor.supervise if self.supervised else actor.begin)
        self.simulation.spawn("doctor", self.doctor, mortal=False)
        self.simulation.run()

    def store(self, process: Process) -> Store:
        """Open the store in a process."""
        return self.store_of(self, process, process.boundary)

    def journal(self, run: str) -> Journal:
        """Look at a run's journal without being seen."""
        if run not in self._seen:
            self._seen[run] = Journal(self.raw, run, "test", actor="os:test", clock=self.simulation.clock, session=0)
        return self._seen[run]

    def doctor(self, process: Process) -> None:
        """Look for dead runs until every run is over, and see to it that each is taken over."""
        chance, store, clock = self.simulation.random, self.store(process), ProcessClock(process)
        number = 0
        while not self.over():
            process.sleep(chance.choice([0.3, 2.0, 5.0]))
            try:
                reap(store, clock, thoroughly=True)
            except StoreUnavailable:
                continue
            for run in self.books:
                if chance.random() < self.cancels:
                    self._cancel(store, clock, run)
                state = self.journal(run).state
                late = state.finished and run not in self.settled and chance.random() < self.second_thoughts
                if (state.state in ORPHANED and chance.random() < 0.7) or late:
                    self.settled.add(run)
                    way = chance.choice(self._ways(state.state))
                    number += 1
                    self.simulation.spawn(f"{way}{number}", getattr(Actor(self, run), way))

    def _cancel(self, store: Store, clock: ProcessClock, run: str) -> None:
        """Ask a run to stop, from outside."""
        with contextlib.suppress(IllegalMove, StoreUnavailable):
            onlooker = Journal(store, run, "cli", actor="os:other", clock=clock, session=0)
            onlooker.append(ev.CancelRequested(reason="somebody asked for it"))

    def _ways(self, state: str) -> Sequence[str]:
        """What may be done with a run in this state; only one that was on its way forward can be resumed."""
        back = [way for way in self.ways if way != "resume"] or ["roll_back"]
        return {"interrupted": self.ways, "stranded": back}.get(state, ["roll_back"])

    def evidence(self) -> Evidence:
        """Collect what the checker judges from."""
        return Evidence(self.history, {run: self.raw.read(run) for run in self.books})

    def over(self) -> bool:
        """Tell whether nothing is left to be done."""
        busy = [process for process in self.simulation.processes if not process.over and process.name != "doctor"]
        states = [self.journal(run).state for run in self.books]
        return not busy and all(state.finished or state.opened is None for state in states)


class Actor:
    """One process's part in a run.

    Args:
        scene: What it shares with the others.
        run: The run's id.
    """

    def __init__(self, scene: Scene, run: str) -> None:
        self.scene, self.run = scene, run

    def begin(self, process: Process) -> None:
        """Open the run and execute it."""
        self._enter(process)
        self._guarded(self._begun)

    def supervise(self, process: Process) -> None:
        """Have a kernel execute the run, and end it if the kernel is lost."""
        self._enter(process)
        self._guarded(self._supervised)

    def resume(self, process: Process) -> None:
        """Take the run over and go on with it."""
        self._enter(process)
        self._guarded(lambda: self._taken("resume", self._resumed))

    def roll_back(self, process: Process) -> None:
        """Take the run over and undo what it did."""
        self._enter(process)
        self._guarded(lambda: self._taken("roll_back", self._rolled_back))

    def abandon(self, process: Process) -> None:
        """Take the run over and leave it as it is."""
        self._enter(process)
        self._guarded(lambda: self._taken("abandon", lambda: abandon(self.journal, "nobody wants it")))

    def _enter(self, process: Process) -> None:
        scene = self.scene
        self.process, self.clock, self.store = process, ProcessClock(process), scene.store(process)
        self.holder = f"{self.run}/sim/1/{process.name}"
        unseen = scene.store_of(scene, process, lambda: None)
        self.keeper = Keeper(unseen, self.holder, scene.simulation.clock, TTL_S)
        ports = {"capability balancer": BalancerPort(scene.worlds["balancer"], process)}
        ports |= {"capability services": ServicesPort(scene.worlds["services"], process)}
        self.world = Wiring(scene.environment, ports)
        self.journal = Journal(self.store, self.run, "kernel", actor="os:test", clock=self.clock)

    def _guarded(self, work: Callable[[], Any]) -> None:
        """Work; give back what is held at the end, as a process does that is not killed."""
        try:
            work()
        except _FINE as error:
            self.scene.errors[self.process.name] = error
        except RunbookError as error:
            raise AssertionError(f"{self.process.name} ended with {error!r}") from error
        self.keeper.stop()

    def _begun(self) -> None:
        take(self.store, self.run, self.holder, self.clock, TTL_S)
        self.process.keep(self.keeper, TTL_S / 5)
        self.journal.append(opened(self.scene.environment.name))
        self._executed("live")

    def _supervised(self) -> None:
        take(self.store, self.run, self.holder, self.clock, TTL_S)
        self.process.keep(self.keeper, TTL_S / 5)
        kernel = self.scene.simulation.spawn(self.process.name, Actor(self.scene, self.run).kernel)
        while not kernel.over:
            self.process.sleep(0.2)
        state = self.journal.state
        if state.opened and not state.finished and state.session == self.journal.session:
            self.process.await_(end(Gate(self.journal, self.world, terms=self._terms()), "the kernel died"))

    def kernel(self, process: Process) -> None:
        """Open the run and execute it in the name of a supervisor, who holds the leases."""
        self._enter(process)
        with contextlib.suppress(*_FINE):
            self.journal.append(opened(self.scene.environment.name))
            self._executed("live")

    def _taken(self, purpose: Any, work: Callable[[], Any]) -> None:
        lease = take_when_free(self.store, self.run, self.holder, self.clock, say=lambda text: None, ttl_s=TTL_S)
        self.process.keep(self.keeper, TTL_S / 5)
        self.journal.session = 0
        self.journal.append(began(max(lease.token, self.journal.state.session + 1), purpose, ""))
        work()

    def _resumed(self) -> None:
        self._executed("resume")

    def _rolled_back(self) -> None:
        self.process.await_(end(Gate(self.journal, self.world, terms=self._terms()), "rolled back", anyway=True))

    def _terms(self) -> Terms:
        return Terms(rules=ApprovalRules(), holder=self.holder, lease_s=TTL_S)

    def _executed(self, mode: Any) -> None:
        gate = Gate(self.journal, self.world, mode=mode, terms=self._terms())
        run = Run(
            CONTRACT, complete=True, parameters={}, gate=gate, rules=None, screen=_Dark(),
            fresh_world=lambda: self.world,
        )  # fmt: skip
        self.process.await_(notebook(run, self.scene.books[self.run]))
        run.close()


async def notebook(run: Run, book: Book) -> None:
    """Execute the cells of a runbook: a read, its steps and one postcondition."""
    await run.use("balancer").members("all")
    for number, calls in enumerate(book):
        await run.step(risk="low", timeout="10m", max_targets=2)(_step(run, f"step{number}", calls))()

    @run.postcondition
    async def fine() -> bool:
        """It is fine."""
        return True

    await fine()


def _step(run: Run, name: str, calls: list[Call]) -> Callable[[], Coroutine[Any, Any, int]]:
    async def work() -> int:
        """Make the changes."""
        for call in calls:
            await getattr(run.use(call.capability), call.action)(call.target)
        return len(calls)

    work.__name__ = name
    return work


def opened(environment: str) -> ev.RunOpened:
    """Describe a run that is opened."""
    return ev.RunOpened(
        runbook="chaos", version="1", owner="tests", mode="live", environment=environment, environment_digest="",
        digest="", contract={}, parameters={}, driver="headless", host=platform.node(), pid=os.getpid(), notebook="",
        budget_s=6000,
    )  # fmt: skip
