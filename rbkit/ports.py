"""The protocols between rbkit and the world. An adapter implements one of them; a fake implements it too.

A capability is desired-state: each action is a pure plan (what should hold, and the inverse), written once
here and shared by every adapter. An adapter only reads a target's state and applies an action.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr

from rbkit.errors import NotFound
from rbkit.facts import Call
from rbkit.store import Lease, Store
from rbkit.values import nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Capability", "Lease", "LoadBalancer", "Logs", "Member", "Metrics", "Plan", "SecretSource", "Service",
    "ServiceManager", "Store", "Window", "World", "action", "read",
]  # fmt: skip

State = dict[str, Any]
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time that is asked for.

    Args:
        start: Its first moment, UTC.
        end: Its last moment, UTC.
        step_s: Seconds between points.
    """

    start: datetime
    end: datetime
    step_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What an action would bring about.

    Args:
        after: Keys of the state and the values they must have.
        differs: Keys of the state and the values they must not have any more.
        undo: The action that takes it back, with its arguments; None when there is none.
        irreversible: Why it cannot be taken back; empty when it can.
        waits: Keys of `after` that come by themselves and are only waited for; they do not belong to what is
            approved, as they move all the time.
    """

    after: State
    differs: State = field(default_factory=dict)
    undo: tuple[str, State] | None = None
    irreversible: str = ""
    waits: tuple[str, ...] = ()


def action(method: _F) -> _F:
    """Mark a capability's method as a change: a pure plan from the state before."""
    method.__dict__["rbkit"] = "action"
    return method


def read(method: _F) -> _F:
    """Mark a capability's method as a read."""
    method.__dict__["rbkit"] = "read"
    return method


class Capability(ABC):
    """Something that can be read and brought into a state."""

    kind: ClassVar[str]

    @abstractmethod
    async def state(self, target: str) -> State:
        """Read a target's present state.

        Raises:
            NotFound: There is no such target.
            AdapterError: The system cannot be read.
        """

    @abstractmethod
    async def apply(self, call: Call, key: str, token: int) -> None:
        """Bring about one action; the caller verifies it by reading the state.

        Args:
            call: What is to be done, to which target.
            key: An idempotency key: the same key never acts twice where the system supports keys.
            token: The fencing token of the lease on the target: a system that can remember tokens refuses one
                that is lower than one it has seen for this target.

        Raises:
            Refused: The system said no, or knows a higher token.
            Unreachable: It was not reached.
            MayHaveActed: No usable answer came back.
        """

    async def fence(self, target: str, token: int) -> None:
        """Let the system refuse every lower token for a target from now on; nothing where it cannot remember one.

        Args:
            target: Which target.
            token: The fencing token of the present holder of its lease.

        Raises:
            NotFound: There is no such target.
            Refused: The system knows a higher token already.
            AdapterError: The system cannot be told.
        """
        return

    async def aclose(self) -> None:
        """Give back what was opened."""
        return

    @classmethod
    def methods(cls, mark: str) -> list[str]:
        """List the methods marked as `action` or `read`."""
        names = (name for name in dir(cls) if not name.startswith("_"))
        return [name for name in names if _mark(cls, name) == mark]

    def plan(self, call: Call, before: State) -> Plan:
        """Say what an action would bring about.

        Raises:
            NotFound: The capability has no such action.
        """
        if _mark(type(self), call.action) != "action":
            known = self.methods("action")
            raise NotFound(f"{self.kind} has no action {call.action!r}.{nearest(call.action, known)}")
        plan: Plan = getattr(self, call.action)(before, **call.arguments)
        return plan


def _mark(cls: type, name: str) -> str:
    for base in cls.__mro__:
        marked = getattr(base.__dict__.get(name), "__dict__", {}).get("rbkit")
        if marked:
            return str(marked)
    return ""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Member(_Model):
    """A member of a balancer: whether it gets new requests, is healthy, how many requests are under way."""

    name: str
    service: str
    state: str
    healthy: bool
    active: int
    requests: int


class LoadBalancer(Capability):
    """Decides which members of a service receive traffic. State: `state` ready or drain, `active` requests."""

    kind = "LoadBalancer"

    @read
    @abstractmethod
    async def members(self, service: str) -> list[Member]:
        """List the members of a service.

        Args:
            service: The service's name.

        Returns:
            One Member each, in a stable order; empty when the service is unknown.
        """

    @action
    def drain(self, before: State) -> Plan:
        """Give a member no new requests and wait until none is under way."""
        return Plan(after={"state": "drain", "active": 0}, undo=(_way_back(before), {}), waits=("active",))

    @action
    def ready(self, before: State) -> Plan:
        """Give a member its share of the requests."""
        return Plan(after={"state": "ready"}, undo=(_way_back(before), {}))


def _way_back(before: State) -> str:
    return "ready" if before["state"] == "ready" else "drain"


class Service(_Model):
    """An instance of a service: its state, process and version."""

    name: str
    service: str
    state: str
    pid: int | None
    started_at: datetime | None
    version: str
    restarts: int


class ServiceManager(Capability):
    """Starts, stops and restarts instances. State: `state` running, starting, stopped or crashed, and `pid`."""

    kind = "ServiceManager"

    @read
    @abstractmethod
    async def instances(self, service: str) -> list[Service]:
        """List the instances of a service.

        Args:
            service: The service's name.

        Returns:
            One Service each, in a stable order; empty when the service is unknown.
        """

    @action
    def restart(self, before: State) -> Plan:
        """Replace the process of an instance by a new one."""
        return Plan(
            after={"state": "running"},
            differs={"pid": before["pid"]},
            irreversible="a restarted process cannot be brought back; what it held in memory is gone",
        )

    @action
    def stop(self, before: State) -> Plan:
        """Stop an instance."""
        return Plan(after={"state": "stopped"}, undo=("start", {}) if before["state"] == "running" else ("stop", {}))

    @action
    def start(self, before: State) -> Plan:
        """Start an instance."""
        return Plan(after={"state": "running"}, undo=("stop", {}) if before["state"] == "stopped" else ("start", {}))


class Metrics(Protocol):
    """Answers queries about numbers over time."""

    async def query(self, query: str, window: Window) -> "pd.DataFrame":
        """Read a range of samples.

        Args:
            query: A query in the source's own language, already rendered.
            window: From when to when, and how dense.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `value` (float64), one text column per label;
            sorted by time; empty when nothing matches.

        Raises:
            AdapterError: The source did not give a usable answer.
        """

    async def aclose(self) -> None:
        """Give back what was opened."""


class Logs(Protocol):
    """Answers questions about log lines."""

    async def search(self, where: Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: Fields and the exact values they must have.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level` (text), `message` (text), `attributes` (mappings).

        Raises:
            AdapterError: The source did not give a usable answer.
        """

    async def aclose(self) -> None:
        """Give back what was opened."""


class SecretSource(Protocol):
    """Hands out secrets by reference."""

    def fetch(self, path: str) -> SecretStr:
        """Fetch one secret.

        Raises:
            SecretError: It is not there or may not be read; nothing else is returned in its place.
        """


class World(Protocol):
    """Signals and capabilities by the names of the environment file."""

    def signal(self, name: str) -> tuple[Any, Any]:
        """Return a signal's settings and its source.

        Raises:
            NotFound: The environment file names no such signal.
        """

    def capability(self, name: str) -> Capability:
        """Return a capability.

        Raises:
            NotFound: The environment file names no such capability.
        """

    def capabilities(self) -> Iterable[str]:
        """List the names of the capabilities."""

    async def aclose(self) -> None:
        """Close everything, in reverse order."""
