"""A world in one file, as a plugin: a balancer, a service manager and metrics that log whatever they are asked."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from crashpoints import reach
from worldlog import INSTANCES, Line, Log, State, opened, world

from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.ports import Capability, LoadBalancer, Member, Service, ServiceManager, Window, read

__all__ = ["Balancer", "Metrics", "Services"]

SERVICE = "checkout"


class _Logged(Capability):
    """A capability whose state is its log.

    Args:
        path: The log.
        keys: Whether it knows the keys that were used.
        tokens: Whether it knows the highest fencing token of each target.
        late: How often a target is read before what was done to it shows.
    """

    name: str

    def __init__(self, path: str, keys: bool, tokens: bool, late: int) -> None:
        self._path, self._keys, self._tokens, self._late = Path(path), keys, tokens, late

    async def state(self, target: str) -> State:
        """Read a target's state."""
        with opened(self._path) as log:
            self._say(log, "read", target)
            return self._all(log)[self._known(target)]

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Act, unless a higher token was seen for the target or the key was used already."""
        reach(f"asked {call}")
        with opened(self._path) as log:
            stale = self._stale(log.lines, call.target, token)
            used = self._keys and any(line["key"] == key for line in _acts(log.lines))
            self._say(
                log, "apply", call.target, action=call.action, key=key, token=token, acted=not stale and not used,
                stale=stale,
            )  # fmt: skip
        if stale:
            raise Refused(f"Somebody with a newer lease acts on {call.target}.")
        reach(f"acted {call}")

    async def fence(self, target: str, token: int) -> None:
        """Remember a token; answer when what was under way has ended."""
        if not self._tokens:
            return
        with opened(self._path) as log:
            stale = self._stale(log.lines, target, token)
            self._say(log, "refused fence" if stale else "fence", target, token=token)
        if stale:
            raise Refused(f"Somebody with a newer lease acts on {target}.")

    def _stale(self, lines: list[Line], target: str, token: int) -> bool:
        ours = [line for line in lines if (line["capability"], line["target"]) == (self.name, target)]
        seen = [line["token"] for line in ours if line["what"] in {"fence", "apply"}]
        return self._tokens and token < max(seen, default=token)

    def _say(self, log: Log, what: str, target: str, **more: Any) -> None:
        line = {"what": what, "capability": self.name, "target": target, "pid": os.getpid(), **more}
        log.say(**line)
        log.lines.append(line)

    def _all(self, log: Log) -> dict[tuple[str, str], State]:
        return world(log.lines, self._late)

    def _known(self, target: str) -> tuple[str, str]:
        if target not in INSTANCES:
            raise NotFound(f"There is no {target!r}.")
        return self.name, target


def _acts(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["what"] == "apply" and line["acted"]]


class Balancer(_Logged, LoadBalancer):
    """The balancer."""

    name = "balancer"

    async def state(self, target: str) -> State:
        """Read a member's state; no request is ever under way."""
        return await super().state(target) | {"active": 0}

    @read
    async def members(self, service: str) -> list[Member]:
        """List the members."""
        with opened(self._path) as log:
            self._say(log, "list", "")
            found = self._all(log)
        return [
            Member(name=name, service=service, healthy=True, active=0, requests=0, **found[self.name, name])
            for name in INSTANCES
        ]


class Services(_Logged, ServiceManager):
    """The service manager."""

    name = "services"

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the instances."""
        with opened(self._path) as log:
            self._say(log, "list", "")
            found = self._all(log)
        return [
            Service(name=name, service=service, started_at=None, version="v1", **found[self.name, name])
            for name in INSTANCES
        ]


class Metrics:
    """Memory of each instance: checkout-2 leaks until it is restarted.

    Args:
        path: The log.
    """

    language = "promql"

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def query(self, query: str, window: Window) -> pd.DataFrame:
        """Return ten samples of each instance, the newest at the window's end."""
        with opened(self._path) as log:
            found = world(log.lines)
        rows = [
            (window.end - timedelta(seconds=age), _memory(name, found), name)
            for name in INSTANCES
            for age in range(9, -1, -1)
        ]
        frame = pd.DataFrame(rows, columns=["time", "value", "instance"])
        frame["time"] = frame["time"].astype("datetime64[ns, UTC]")
        return frame.sort_values("time", ignore_index=True)

    async def aclose(self) -> None:
        """Nothing to give back."""


def _memory(name: str, found: dict[tuple[str, str], State]) -> float:
    leaks = name == "checkout-2" and not found["services", name]["restarts"]
    return 400.0 if leaks else {"checkout-1": 150.0, "checkout-2": 90.0, "checkout-3": 110.0}[name]
