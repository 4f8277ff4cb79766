"""A small model of the world: systems that remember keys and tokens, and everything that they were asked."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

from rbkit.clock import Clock
from rbkit.errors import MayHaveActed, NotFound, Refused, Unreachable
from rbkit.events import Call
from rbkit.ports import LoadBalancer, Member, Service, ServiceManager, read

from .simulation import Killed, Process


@dataclass(frozen=True)
class Noted:
    """One thing that happened, in the order in which it really did."""

    place: int
    at: datetime
    who: str
    what: str
    facts: dict[str, Any]


@dataclass
class History:
    """Everything that happened; written by the model, never by the code under test."""

    clock: Clock
    notes: list[Noted] = field(default_factory=list)

    def note(self, who: str, what: str, **facts: Any) -> None:
        """Write down what happened just now."""
        self.notes.append(Noted(len(self.notes), self.clock.now(), who, what, facts))

    def of(self, *kinds: str) -> list[Noted]:
        """List what happened of some kinds."""
        return [note for note in self.notes if note.what in kinds]


@dataclass
class System:
    """One system with targets.

    Args:
        name: The capability that it stands for.
        history: Where it writes down what it was asked.
        states: The state of each target.
        tokens: Whether it refuses a token that is lower than one it has seen.
        keys: Whether it acts only once for a key.
    """

    name: str
    history: History
    states: dict[str, dict[str, Any]]
    tokens: bool = True
    keys: bool = True
    seen: dict[str, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    pid: int = 1000

    def state(self, who: str, target: str) -> dict[str, Any]:
        """Show a target."""
        self.history.note(who, "look", system=self.name, target=target)
        if target not in self.states:
            raise NotFound(f"There is no {target!r}.")
        return dict(self.states[target])

    def fence(self, who: str, target: str, token: int) -> None:
        """Remember a token."""
        self._admit(who, "fence", target, token)

    def apply(self, who: str, call: Call, key: str, token: int) -> None:
        """Act, unless it knows better; acting is never without effect, even if the state is what is wanted."""
        self._admit(who, "refused", call.target, token)
        acted = not (self.keys and key in self.known)
        self.known.add(key)
        self.history.note(
            who, "apply", system=self.name, target=call.target, action=call.action, key=key, token=token, acted=acted
        )
        if acted:
            self.states[call.target] = self._after(call)

    def _admit(self, who: str, what: str, target: str, token: int) -> None:
        highest = self.seen.get(target, 0)
        refused = self.tokens and token < highest
        if refused or what == "fence":
            self.history.note(who, what, system=self.name, target=target, token=token)
        if refused:
            raise Refused(f"Somebody with a newer lease acts on {target}: {highest}, not {token}.")
        self.seen[target] = max(token, highest)

    def _after(self, call: Call) -> dict[str, Any]:
        if call.action in {"drain", "ready"}:
            return {"state": call.action, "active": 0}
        if call.action == "stop":
            return {"state": "stopped", "pid": None}
        self.pid += 1
        return {"state": "running", "pid": self.pid}


DANGER = 8.0
"""How much likelier misfortune is right before and right after an effect, where it does the most harm."""


class _Port:
    """The way of one process to a system: it may be killed on the way, and answers may get lost."""

    def __init__(self, system: System, process: Process) -> None:
        self.system, self.process = system, process

    async def state(self, target: str) -> dict[str, Any]:
        """Read a target's state."""
        self.process.boundary()
        found = self.system.state(self.process.name, target)
        self.process.boundary()
        return found

    async def fence(self, target: str, token: int) -> None:
        """Announce a token."""
        self.process.boundary()
        self.system.fence(self.process.name, target, token)
        self.process.boundary()

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Send a request; it arrives even if the process dies meanwhile, now or later."""
        simulation, chance = self.process.simulation, self.process.simulation.random
        self.process.check_alive()
        try:
            self.process.boundary(danger=DANGER)
        except Killed:
            if chance.random() < 0.5:
                simulation.later(chance.choice([0.0, 1.0, 10.0, 40.0]), lambda: self._arrives(call, key, token))
            raise
        lost = chance.random() < simulation.fate.lost
        if lost and chance.random() < 0.5:
            raise chance.choice([Unreachable("nobody listens"), MayHaveActed("no answer came")])
        self.system.apply(self.process.name, call, key, token)
        self.process.boundary(danger=DANGER)
        if lost:
            raise MayHaveActed("no answer came")
        await asyncio.sleep(0)

    def _arrives(self, call: Call, key: str, token: int) -> None:
        """A request arrives whose sender is dead."""
        try:
            self.system.apply(self.process.name, call, key, token)
        except Refused:
            return

    async def aclose(self) -> None:
        """Nothing to give back."""


class BalancerPort(_Port, LoadBalancer):
    """A balancer."""

    @read
    async def members(self, service: str) -> list[Member]:
        """List the members; nobody asks."""
        return []


class ServicesPort(_Port, ServiceManager):
    """A service manager."""

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the instances; nobody asks."""
        return []


def systems(history: History, targets: list[str], **options: bool) -> dict[str, System]:
    """Make a balancer and a service manager with the same targets."""
    return {
        "balancer": System("balancer", history, {name: {"state": "ready", "active": 0} for name in targets}, **options),
        "services": System("services", history, {name: {"state": "running", "pid": 1} for name in targets}, **options),
    }


ACTIONS = {"drain": "balancer", "ready": "balancer", "restart": "services", "stop": "services", "start": "services"}


def some_steps(chance: Random, targets: list[str], *, orderly: bool) -> list[list[Call]]:
    """Choose the changes of two or three steps; no change twice in one run.

    Args:
        chance: Decides.
        targets: What may be changed.
        orderly: Whether targets are taken in the order of their names, so that nobody is refused.
    """
    free = [(target, action) for target in targets for action in ACTIONS]
    chosen = chance.sample(free, chance.randint(2, min(5, len(free))))
    calls = [
        Call(capability=ACTIONS[action], action=action, target=target)
        for target, action in (sorted(chosen, key=lambda pair: pair[0]) if orderly else chosen)
    ]
    return [calls[place : place + 2] for place in range(0, len(calls), 2)]
