"""The protocols between rbkit and the world. An adapter implements one of them; a fake implements it too."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import SecretStr

from rbkit.capability import Capability, Plan, action, read
from rbkit.environment import Limits, SignalSettings
from rbkit.kinds import LoadBalancer, Member, Service, ServiceManager
from rbkit.store import Lease, Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LINES", "Bound", "Capability", "Language", "Lease", "LoadBalancer", "Logs", "Member", "Metrics", "Plan",
    "SecretSource", "Service", "ServiceManager", "Store", "Window", "World", "action", "read",
]  # fmt: skip

Language = Literal["promql", "logql", "lucene", "sql", "fields"]
"""How values are written into a source's queries; `fields` has no queries, only fields and their values."""


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
class Bound:
    """A query whose values travel beside it, as binds: they are never part of its text.

    Args:
        text: The query, with `:name` where a value belongs.
        values: The values by name.
    """

    text: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return self.text


class Metrics(Protocol):
    """Answers queries about numbers over time. `language` says how values are written into its queries."""

    language: ClassVar[Language]

    async def query(self, query: Any, window: Window) -> "pd.DataFrame":
        """Read a range of samples.

        Args:
            query: A query in the source's own language, already rendered; a Bound where the language has binds.
            window: From when to when, and how dense.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `value` (float64), one text column per label;
            sorted by time; empty when nothing matches.

        Raises:
            AdapterError: The source did not give a usable answer.
        """

    async def ping(self) -> str:
        """Say in one line what is there, as whom we are there and what we may do; by harmless reads.

        Raises:
            AdapterError: It cannot be reached, or a right is missing without which nothing works.
        """

    async def aclose(self) -> None:
        """Give back what was opened."""


class Logs(Protocol):
    """Answers questions about log lines; also about spans and alerts, which are lines with other columns (`LINES`)."""

    language: ClassVar[Language]

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read lines, newest last.

        Args:
            where: Fields and the exact values they must have; or a query in the source's own language, rendered.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), the kind's columns (text), `attributes` (mappings).

        Raises:
            AdapterError: The source did not give a usable answer.
        """

    async def ping(self) -> str:
        """Say in one line what is there, as whom we are there and what we may do; by harmless reads.

        Raises:
            AdapterError: It cannot be reached, or a right is missing without which nothing works.
        """

    async def aclose(self) -> None:
        """Give back what was opened."""


LINES: dict[str, tuple[str, ...]] = {
    "logs": ("time", "level", "message", "attributes"),
    "spans": (
        "time", "trace", "span", "parent", "service", "operation", "duration_ms", "status", "attributes",
    ),
    "alerts": ("time", "name", "state", "severity", "summary", "attributes"),
}  # fmt: skip
"""The columns of each kind of line, in their order."""


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

    def spec(self, name: str) -> SignalSettings:
        """Return a signal's settings, without anything being opened.

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

    def limits(self, endpoint: str) -> Limits:
        """Say how far an endpoint may be used, for example `source metrics`."""

    async def aclose(self) -> None:
        """Close everything, in reverse order."""
