"""Who gets the next request: the members of the balancer, their admin state and their health."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbkit.sandbox.layout import INSTANCES, SERVICE, Layout

__all__ = ["LastMember", "Member", "Members"]

STATES = ("ready", "drain")


class LastMember(Exception):
    """Without this member nobody would serve."""


@dataclass
class Member:
    """One instance behind the balancer.

    Args:
        name: For example `checkout-2`.
        port: Where it listens.
        state: `ready` or `drain`: what the operator wants.
        healthy: Whether it answered when it was last asked.
        active: Requests in flight.
        requests: Requests that it was given since the balancer started.
    """

    name: str
    port: int
    state: str = "ready"
    healthy: bool = False
    active: int = 0
    requests: int = 0

    @property
    def serves(self) -> bool:
        """Whether it gets new requests."""
        return self.state == "ready" and self.healthy

    def to_json(self) -> dict[str, Any]:
        """Return what the admin API shows."""
        shown = {"name": self.name, "service": SERVICE, "state": self.state, "healthy": self.healthy}
        return shown | {"active": self.active, "requests": self.requests}


class Members:
    """The members in their round.

    Args:
        members: The members.
        file: Where the admin states are kept, so that a drained member stays drained if the balancer dies.
    """

    def __init__(self, members: list[Member], file: Path | None = None) -> None:
        self._members = {member.name: member for member in members}
        self._file = file
        self._turn = 0
        self._recall()

    @classmethod
    def of(cls, layout: Layout) -> "Members":
        """Build the members of a sandbox."""
        return cls([Member(name, layout.instance_port(name)) for name in INSTANCES], layout.members_file)

    def all(self) -> list[Member]:
        """Return every member."""
        return list(self._members.values())

    def find(self, name: str) -> Member | None:
        """Return a member by name."""
        return self._members.get(name)

    def choose(self, tried: set[str]) -> Member | None:
        """Return the next member that serves and was not tried yet."""
        able = [member for member in self.all() if member.serves and member.name not in tried]
        self._turn += 1
        return able[self._turn % len(able)] if able else None

    def set_state(self, member: Member, state: str, begin: Callable[[], None] = lambda: None) -> None:
        """Set what the operator wants.

        Args:
            member: Whose state.
            state: `ready` or `drain`.
            begin: Called right before the effect; it may still refuse.

        Raises:
            LastMember: Nobody else is ready and healthy.
        """
        if state == "drain" and member.state == "ready" and not any(o.serves for o in self.all() if o is not member):
            raise LastMember(f"Draining {member.name} would leave no member that is ready and healthy.")
        begin()
        member.state = state
        self._remember()

    def _remember(self) -> None:
        if self._file:
            draft = self._file.with_suffix(".new")
            draft.write_text(json.dumps({member.name: member.state for member in self.all()}))
            draft.replace(self._file)

    def _recall(self) -> None:
        if self._file and self._file.exists():
            states = json.loads(self._file.read_text())
            for member in self.all():
                member.state = states.get(member.name, member.state)
