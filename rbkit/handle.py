"""A capability as a notebook uses it: reads and changes go through the gate."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from rbkit.errors import GuardRail, NotFound
from rbkit.events import Call
from rbkit.gate import Gate
from rbkit.values import nearest

__all__ = ["Handle"]


class Handle:
    """A capability as a notebook uses it: reads and changes go through the gate.

    Args:
        gate: The gate.
        name: The capability's name in the environment file.
    """

    def __init__(self, gate: Gate, name: str) -> None:
        self._gate, self._name = gate, name
        self._adapter = gate.world.capability(name)

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        """Return a read or a change of the capability by its name."""
        reads, actions = self._adapter.methods("read"), self._adapter.methods("action")
        if method in reads:
            return lambda *args, **named: self._gate.read(self._name, method, self._named(method, args, named))
        if method in actions:
            return lambda target, **named: self._gate.change(
                Call(capability=self._name, action=method, target=_target(target), arguments=named)
            )
        if method.startswith("_"):
            raise AttributeError(method)
        raise NotFound(f"{self._name} has no {method!r}.{nearest(method, reads + actions)}")

    def __dir__(self) -> list[str]:
        """List reads and changes, for completion."""
        return self._adapter.methods("read") + self._adapter.methods("action")

    def _named(self, method: str, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(getattr(self._adapter, method)).bind(*args, **named)
        return dict(bound.arguments)


def _target(target: Any) -> str:
    if not isinstance(target, str) or not target:
        raise GuardRail(f"A change needs the name of its target, not {target!r}.")
    return target
