"""The kinds of capability that carry traffic and run code: balancers, services, deployments, scalers, flags, programs.

A kind holds its reads and the pure plans of its actions; adapters only read a target's state and apply an action.
"""

from abc import abstractmethod
from datetime import datetime
from typing import Any

from rbkit.capability import Capability, Facts, Plan, State, action, read
from rbkit.errors import Refused

__all__ = [
    "Command", "Deployments", "FeatureFlags", "LoadBalancer", "Member", "Scaler", "Service", "ServiceManager",
    "Silences", "Version",
]  # fmt: skip


class Member(Facts):
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


class Service(Facts):
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


class Version(Facts):
    """A version of a service that can be deployed, or that was: the newest first."""

    version: str
    deployed_at: datetime | None = None
    note: str = ""


class Deployments(Capability):
    """Decides which version of a service runs. State: `version`, and how many instances of it are `ready`, `wanted`."""

    kind = "Deployments"
    shows_within_s = 300.0

    @read
    @abstractmethod
    async def versions(self, service: str) -> list[Version]:
        """List the versions of a service that can be gone back to.

        Args:
            service: The service's name.

        Returns:
            One Version each: the one that runs first, then the earlier ones, the newest of them first.

        Raises:
            NotFound: There is no such service.
        """

    @action
    def deploy(self, before: State, version: str) -> Plan:
        """Let a service run a version, and wait until as many instances as are wanted run it."""
        after = {"version": version, "ready": before["wanted"]}
        return Plan(after=after, undo=("deploy", {"version": before["version"]}), waits=("ready",))


class Scaler(Capability):
    """Decides how many instances a service has. State: `wanted`, `ready`, and the limits `least` and `most`."""

    kind = "Scaler"
    shows_within_s = 300.0

    @action
    def scale(self, before: State, wanted: int) -> Plan:
        """Let a service have so many instances, and wait until they are ready."""
        if before.get("managed"):
            raise Refused(f"{before['managed']} decides how many instances there are; it would undo the change.")
        if not before["least"] <= wanted <= before["most"]:
            raise Refused(f"{wanted} instances are outside the limits {before['least']} to {before['most']}.")
        after = {"wanted": wanted, "ready": wanted}
        return Plan(after=after, undo=("scale", {"wanted": before["wanted"]}), waits=("ready",))


class FeatureFlags(Capability):
    """Switches parts of a service on and off. State: `value`, a boolean, a number or a text."""

    kind = "FeatureFlags"

    @action
    def put(self, before: State, value: bool | int | float | str) -> Plan:
        """Give a flag another value of the kind that it has."""
        if _kind_of(value) != _kind_of(before["value"]):
            raise Refused(f"The flag is {before['value']!r}; {value!r} is another kind of value.")
        return Plan(after={"value": value}, undo=("put", {"value": before["value"]}))


def _kind_of(value: Any) -> str:
    """Tell booleans from numbers, which Python does not: `True == 1`; nan and inf are no values."""
    if isinstance(value, bool | str):
        return type(value).__name__
    return "number" if isinstance(value, int | float) and abs(value) < float("inf") else "none"


class Silences(Capability):
    """Keeps the alerts of a name quiet for a time. The target is the alert's name. State: `silent`, `until`."""

    kind = "Silences"

    @action
    def silence(self, before: State, minutes: int, why: str) -> Plan:
        """Keep an alert quiet for so many minutes."""
        if not 1 <= minutes <= 24 * 60 or not why.strip():
            raise Refused("A silence needs a reason and lasts between a minute and a day.")
        undo: tuple[str, State] | None = None if before["silent"] else ("wake", {})
        stays = "" if undo else "somebody else's silence covers the alert; it is left as it is"
        return Plan(after={"silent": True}, undo=undo, irreversible=stays)

    @action
    def wake(self, before: State) -> Plan:
        """End the silences that rbkit has made for an alert."""
        return Plan(after={"silent": False}, irreversible="the alert speaks again; silence it again if it must be")


class Command(Capability):
    """Runs programs that the environment file allows. The target is the name of a program's subject.

    The environment file says for each program which state it reads and which it brings about; a program without a
    way to read the state before and after cannot be a change. State: what the programs that read it say.
    """

    kind = "Command"

    @abstractmethod
    def plan_of(self, program: str, before: State) -> Plan:
        """Say what a program brings about, as the environment file declares it.

        Raises:
            NotFound: No such program is allowed.
        """

    @read
    @abstractmethod
    async def ask(self, program: str, target: str) -> dict[str, Any]:
        """Run a program that only reads, and return the JSON object that it prints.

        Raises:
            NotFound: No such program is allowed.
        """

    @action
    def run(self, before: State, program: str) -> Plan:
        """Run a program."""
        return self.plan_of(program, before)
