"""Adapters in memory, for tests and for trying a runbook out: they pass the same suites as the real ones."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from rbkit.errors import NotFound, Refused, SecretError
from rbkit.events import Call
from rbkit.ports import LoadBalancer, Member, Service, ServiceManager, Window, read

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FakeBalancer", "FakeLogs", "FakeMetrics", "FakeSecrets", "FakeServices"]


class FakeBalancer(LoadBalancer):
    """A balancer in memory.

    Args:
        members: Member names by service.
    """

    def __init__(self, members: Mapping[str, Iterable[str]]) -> None:
        self.asked: list[Call] = []
        self._members = {
            name: Member(name=name, service=service, state="ready", healthy=True, active=0, requests=0)
            for service, names in members.items()
            for name in names
        }

    @read
    async def members(self, service: str) -> list[Member]:
        """List the members of a service."""
        return [member for member in self._members.values() if member.service == service]

    async def state(self, target: str) -> dict[str, Any]:
        """Read a member's state."""
        return dict(_known(self._members, target).model_dump(mode="json"))

    async def apply(self, call: Call, key: str) -> None:
        """Set a member to drain or ready; the last one that is ready is not drained."""
        self.asked.append(call)
        member = _known(self._members, call.target)
        ready = [m.name for m in self._members.values() if m.service == member.service and m.state == "ready"]
        if call.action == "drain" and ready == [call.target]:
            raise Refused(f"Draining {call.target} would leave no member.")
        self._members[call.target] = member.model_copy(update={"state": call.action})


class FakeServices(ServiceManager):
    """A service manager in memory.

    Args:
        instances: Instance names by service.
    """

    def __init__(self, instances: Mapping[str, Iterable[str]]) -> None:
        self.asked: list[Call] = []
        self._keys: set[str] = set()
        self._pid = 1000
        self._services = {
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

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the instances of a service."""
        return [found for found in self._services.values() if found.service == service]

    async def state(self, target: str) -> dict[str, Any]:
        """Read an instance's state."""
        return dict(_known(self._services, target).model_dump(mode="json"))

    async def apply(self, call: Call, key: str) -> None:
        """Restart, stop or start an instance; the same key acts once."""
        self.asked.append(call)
        service = _known(self._services, call.target)
        if key in self._keys:
            return
        self._keys.add(key)
        stopped = call.action == "stop"
        pid = None if stopped else (self._next_pid() if call.action == "restart" or not service.pid else service.pid)
        update = {"state": "stopped" if stopped else "running", "pid": pid}
        self._services[call.target] = service.model_copy(update=update)

    def _next_pid(self) -> int:
        self._pid += 1
        return self._pid


def _known(things: Mapping[str, Any], name: str) -> Any:
    if name not in things:
        raise NotFound(f"There is no {name!r}.", todo="Check the name of the target.")
    return things[name]


class FakeMetrics:
    """Metrics in memory.

    Args:
        frames: DataFrames (`time`, `value`, labels) by query.
    """

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

    async def aclose(self) -> None:
        """Nothing to give back."""


class FakeLogs:
    """Logs in memory.

    Args:
        lines: Mappings with `time` (UTC), `level`, `message` and more.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.lines = [dict(line) for line in lines]

    async def search(self, where: Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Return the newest lines that match."""
        import pandas as pd

        found = [_split(line) for line in self.lines if _matches(line, where, window)]
        found = sorted(found, key=lambda row: row["time"])[-limit:]
        frame = pd.DataFrame(found, columns=["time", "level", "message", "attributes"])
        frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ns, UTC]")
        return frame

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
