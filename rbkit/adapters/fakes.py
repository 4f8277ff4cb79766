"""Adapters in memory, for tests and for trying a runbook out: they pass the same suites as the real ones."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import SecretStr

from rbkit.errors import NotFound, Refused, SecretError
from rbkit.events import Call
from rbkit.ports import Capability, Language, LoadBalancer, Member, Service, ServiceManager, Window, read

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Attempt", "Fake", "FakeBalancer", "FakeLogs", "FakeMetrics", "FakeSecrets", "FakeServices"]


class Attempt(NamedTuple):
    """One change that a fake was asked for, and whether it acted."""

    call: Call
    key: str
    token: int
    acted: bool


class Fake(Capability):
    """A capability in memory: it remembers what it was asked, every key, and the highest token of each target."""

    def __init__(self, things: Mapping[str, Any]) -> None:
        self.asked: list[Call] = []
        self.log: list[Attempt] = []
        self._things = dict(things)
        self._keys: set[str] = set()
        self._tokens: dict[str, int] = {}

    async def state(self, target: str) -> dict[str, Any]:
        """Read a target's state."""
        return dict(self._known(target).model_dump(mode="json"))

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Act, unless a higher token was seen for the target; the same key acts once."""
        self.asked.append(call)
        self.log.append(Attempt(call, key, token, acted=False))
        thing = self._known(call.target)
        self._admit(call.target, token)
        if key not in self._keys:
            self._things[call.target] = thing.model_copy(update=self._changed(thing, call))
            self._keys.add(key)
            self.log[-1] = Attempt(call, key, token, acted=True)

    async def fence(self, target: str, token: int) -> None:
        """Remember a token."""
        self._known(target)
        self._admit(target, token)

    async def ping(self) -> str:
        """Say what is in memory."""
        return f"in memory, {len(self._things)} target(s), nobody asks who we are; reads and writes"

    @abstractmethod
    def _changed(self, thing: Any, call: Call) -> dict[str, Any]:
        """Say which fields of a target have which values after a change."""

    def _known(self, target: str) -> Any:
        if target not in self._things:
            raise NotFound(f"There is no {target!r}.", todo="Check the name of the target.")
        return self._things[target]

    def _admit(self, target: str, token: int) -> None:
        highest = self._tokens.get(target, token)
        if token < highest:
            raise Refused(f"Somebody with a newer lease acts on {target}: its token is {highest}, not {token}.")
        self._tokens[target] = token


class FakeBalancer(Fake, LoadBalancer):
    """A balancer in memory.

    Args:
        members: Member names by service.
    """

    def __init__(self, members: Mapping[str, Iterable[str]]) -> None:
        super().__init__(
            {
                name: Member(name=name, service=service, state="ready", healthy=True, active=0, requests=0)
                for service, names in members.items()
                for name in names
            }
        )

    @read
    async def members(self, service: str) -> list[Member]:
        """List the members of a service."""
        return [member for member in self._things.values() if member.service == service]

    def _changed(self, thing: Member, call: Call) -> dict[str, Any]:
        """Set a member to drain or ready; the last one that is ready is not drained."""
        ready = [m.name for m in self._things.values() if m.service == thing.service and m.state == "ready"]
        if call.action == "drain" and ready == [thing.name]:
            raise Refused(f"Draining {thing.name} would leave no member.")
        return {"state": call.action}


class FakeServices(Fake, ServiceManager):
    """A service manager in memory.

    Args:
        instances: Instance names by service.
    """

    def __init__(self, instances: Mapping[str, Iterable[str]]) -> None:
        self._pid = 1000
        super().__init__(
            {
                name: Service(
                    name=name,
                    service=service,
                    state="running",
                    pid=self._next_pid(),
                    started_at=datetime.now(UTC),
                    version="v1",
                    restarts=0,
                )
                for service, names in instances.items()
                for name in names
            }
        )

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the instances of a service."""
        return [found for found in self._things.values() if found.service == service]

    def _changed(self, thing: Service, call: Call) -> dict[str, Any]:
        """Restart, stop or start an instance."""
        if call.action == "stop":
            return {"state": "stopped", "pid": None}
        pid = self._next_pid() if call.action == "restart" or not thing.pid else thing.pid
        return {"state": "running", "pid": pid}

    def _next_pid(self) -> int:
        self._pid += 1
        return self._pid


class FakeMetrics:
    """Metrics in memory.

    Args:
        frames: DataFrames (`time`, `value`, labels) by query.
    """

    language: ClassVar[Language] = "promql"

    def __init__(self, frames: Mapping[str, "pd.DataFrame"]) -> None:
        self.frames = dict(frames)

    async def query(self, query: str, window: Window) -> "pd.DataFrame":
        """Return the rows of a query that lie in the window."""
        import pandas as pd

        found = self.frames.get(query)
        if found is None:
            empty = pd.DataFrame({"time": pd.to_datetime([], utc=True), "value": pd.Series([], dtype="float64")})
            return empty.astype({"time": "datetime64[ns, UTC]"})
        inside = found[(found["time"] >= window.start) & (found["time"] <= window.end)]
        return inside.sort_values("time", ignore_index=True)

    async def ping(self) -> str:
        """Say what is in memory."""
        return f"in memory, {len(self.frames)} answer(s), nobody asks who we are; reads"

    async def aclose(self) -> None:
        """Nothing to give back."""


class FakeLogs:
    """Logs in memory.

    Args:
        lines: Mappings with `time` (UTC), `level`, `message` and more.
    """

    language: ClassVar[Language] = "fields"

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.lines = [dict(line) for line in lines]

    async def search(self, where: Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Return the newest lines that match."""
        import pandas as pd

        found = [_split(line) for line in self.lines if _matches(line, where, window)]
        found = sorted(found, key=lambda row: row["time"])
        found = found[max(0, len(found) - limit) :]
        frame = pd.DataFrame(found, columns=["time", "level", "message", "attributes"])
        frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ns, UTC]")
        return frame

    async def ping(self) -> str:
        """Say what is in memory."""
        return f"in memory, {len(self.lines)} line(s), nobody asks who we are; reads"

    async def aclose(self) -> None:
        """Nothing to give back."""


def _matches(line: Mapping[str, Any], where: Mapping[str, str], window: Window) -> bool:
    return window.start <= line["time"] <= window.end and all(str(line.get(k)) == v for k, v in where.items())


def _split(line: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in line.items() if key not in {"time", "level", "message"}}
    return {key: line[key] for key in ("time", "level", "message")} | {"attributes": rest}


class FakeSecrets:
    """Secrets in memory.

    Args:
        values: Secrets by path.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def fetch(self, path: str) -> SecretStr:
        """Fetch one secret."""
        if path not in self._values:
            raise SecretError(f"There is no secret {path!r}.")
        return SecretStr(self._values[path])
