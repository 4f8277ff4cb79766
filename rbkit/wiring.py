"""Builds ports from an environment file, by name and lazily; closes them in reverse."""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rbkit.environment import Environment, Limits, PortSettings, SignalSettings, is_secret
from rbkit.errors import BadAnswer, NotFound, SettingsError, Unreachable
from rbkit.policy import ApprovalRules
from rbkit.ports import Bound, Capability, Language, Window
from rbkit.queries import render
from rbkit.secretkeeping import Secrets
from rbkit.values import nearest, seconds

__all__ = ["Reader", "Wiring", "adapter", "approval_rules", "explained"]


def adapter(name: str) -> Callable[..., Any]:
    """Find an adapter among the installed entry points `rbkit.adapters`.

    Raises:
        NotFound: None is called so; the nearest is suggested.
        SettingsError: Its package is there but cannot be loaded.
    """
    found = {point.name: point for point in entry_points(group="rbkit.adapters")}
    if name not in found:
        raise NotFound(
            f"There is no adapter {name!r}.{nearest(name, found)}",
            todo=f"Installed: {', '.join(sorted(found))}. Others come with an extra or a plugin package.",
        )
    try:
        made: Callable[..., Any] = found[name].load()
    except ImportError as error:
        raise SettingsError(f"The adapter {name!r} cannot be loaded: {error}.", todo="Install its extra.") from error
    return made


def approval_rules(environment: Environment) -> ApprovalRules:
    """Take what an environment file says of approvals."""
    return ApprovalRules(
        needed={str(risk): count for risk, count in environment.approvals.items()},
        approvers=tuple(environment.approvers), own=environment.own_approval,
        wait_s=seconds(environment.approval_wait), valid_s=seconds(environment.approval_valid),
        digest=environment.digest, partial={str(risk): word for risk, word in environment.partial_evidence.items()},
    )  # fmt: skip


def explained(environment: Environment, name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Say how a signal's query reads with values put in; its template when none are given.

    Returns:
        The query, and the language that it is written in.
    """
    spec = environment.signal(name)
    source = environment.source(spec.source)
    maker = adapter(source.adapter)
    language: Language = getattr(maker, "language", "promql")
    query = render(spec, values, language) if values else spec.query or spec.where
    if values and isinstance(query, Mapping) and hasattr(maker, "sent"):
        query = maker(**{key: value for key, value in source.options.items() if not is_secret(key)}).sent(query)
    binds = f"  with {dict(query.values)}" if isinstance(query, Bound) else ""
    return f"{query}{binds}", language


class Wiring:
    """The world as an environment file names it.

    Args:
        environment: The environment file.
        given: Ports that are used instead, by `source NAME` or `capability NAME`; for tests.
    """

    def __init__(self, environment: Environment, given: Mapping[str, Any] | None = None) -> None:
        self.environment = environment
        self._made: dict[str, Any] = dict(given or {})
        self._secrets = Secrets(environment)

    def signal(self, name: str) -> tuple[SignalSettings, "Reader"]:
        """Return a signal's settings and what reads it.

        Raises:
            NotFound: The environment file names no such signal or source.
        """
        spec = self.environment.signal(name)
        return spec, Reader(name, spec, self.port(f"source {spec.source}"))

    def spec(self, name: str) -> SignalSettings:
        """Return a signal's settings, without anything being opened."""
        return self.environment.signal(name)

    def capability(self, name: str) -> Capability:
        """Return a capability.

        Raises:
            NotFound: The environment file names no such capability.
        """
        made: Capability = self.port(f"capability {name}")
        return made

    def capabilities(self) -> Iterable[str]:
        """List the names of the capabilities."""
        return list(self.environment.capabilities)

    def limits(self, endpoint: str) -> Limits:
        """Say how far an endpoint may be used."""
        return self.environment.limits(endpoint)

    async def aclose(self) -> None:
        """Close everything that was made, in reverse order; one that fails does not keep the others open."""
        async with AsyncExitStack() as stack:
            for made in self._made.values():
                stack.push_async_callback(made.aclose)
            await asyncio.to_thread(self._secrets.close)
            self._made.clear()

    def port(self, endpoint: str) -> Any:
        """Return what an endpoint's adapter made, for example of `source metrics`; it is made when first asked for.

        Raises:
            NotFound: The environment file names no such source or capability.
            SettingsError: Its options are wrong.
        """
        if endpoint not in self._made:
            word, _, name = endpoint.partition(" ")
            known = self.environment.source if word == "source" else self.environment.capability
            self._made[endpoint] = self._make(endpoint, known(name))
        return self._made[endpoint]

    def _make(self, endpoint: str, settings: PortSettings) -> Any:
        """Build a port from its options; where one holds a secret it is fetched, and `url` may be a file's."""
        maker = adapter(settings.adapter)
        options = {name: self._option(name, value) for name, value in settings.options.items()}
        try:
            inspect.signature(maker).bind(**options)
        except TypeError as error:
            raise SettingsError(f"The {endpoint} ({settings.adapter}) cannot be made: {error}.") from error
        return maker(**options)

    def _option(self, name: str, value: Any) -> Any:
        if is_secret(name):
            return self._secrets.fetch(str(value))
        if isinstance(value, dict):
            return {inner: self._option(inner, item) for inner, item in value.items()}
        return _address(value.removeprefix("file:")) if name == "url" and str(value).startswith("file:") else value


class Reader:
    """What reads a signal: its source, with the signal's limits.

    Args:
        name: The signal's name.
        spec: Its settings.
        source: The source: metrics are queried, lines are searched.
    """

    def __init__(self, name: str, spec: SignalSettings, source: Any) -> None:
        self._name, self._spec, self._source = name, spec, source
        self.language: Language = source.language

    async def __call__(self, query: Any, window: Window) -> Any:
        """Read a stretch of time.

        Raises:
            BadAnswer: The answer has more series than the environment file allows.
        """
        if hasattr(self._source, "search"):
            return await self._source.search(query, window, self._spec.max_rows)
        frame = await self._source.query(query, window)
        labels = [column for column in frame.columns if column not in {"time", "value"}]
        series = len(frame[labels].drop_duplicates()) if labels else 1
        most = self._spec.max_series
        if series > most:
            raise BadAnswer(f"Signal {self._name} has {series} series; the limit is {most}.", todo="Narrow its query.")
        return frame


def _address(path: str) -> str:
    """Read an address from the file in which a service publishes it."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreachable(
            f"No address is published in {path}.", todo="Start the service; for the sandbox: `rbkit sandbox up`."
        ) from error
