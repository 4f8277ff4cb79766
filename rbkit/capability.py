"""What a capability is: a target's state, and actions that are pure plans from that state.

Each action is written once, on the kind; every adapter of that kind only reads a target's state and applies an action.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from rbkit.errors import NotFound
from rbkit.facts import Call
from rbkit.values import nearest

__all__ = ["Capability", "Facts", "Plan", "State", "action", "read"]

State = dict[str, Any]
_F = TypeVar("_F", bound=Callable[..., Any])


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
    shows_within_s: ClassVar[float] = 20.0
    """How long a change may take to show in the state, seconds."""

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

    async def ping(self) -> str:
        """Say in one line what is there, as whom we are there and what we may do; by harmless reads, changing nothing.

        Raises:
            AdapterError: It cannot be reached, or a right is missing without which nothing works.
        """
        return "made; its adapter has no ping"

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


class Facts(BaseModel):
    """What a read returns: named values that do not change."""

    model_config = ConfigDict(frozen=True)
