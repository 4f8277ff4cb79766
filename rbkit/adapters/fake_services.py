"""Deployments and scalers in memory, for tests and for trying a runbook out: they pass the suites of the real ones."""

from collections.abc import Iterable, Mapping
from typing import Any

from rbkit.adapters.fakes import Fake
from rbkit.capability import Facts, read
from rbkit.errors import NotFound
from rbkit.facts import Call
from rbkit.kinds import Deployments, Scaler, Version

__all__ = ["Deployed", "FakeDeployments", "FakeScaler", "Scaled"]


class Deployed(Facts):
    """What a service runs: its version, and how many instances of it are ready and wanted."""

    version: str
    ready: int
    wanted: int


class Scaled(Facts):
    """How many instances a service wants and has, and its limits."""

    wanted: int
    ready: int
    least: int
    most: int


class FakeDeployments(Fake, Deployments):
    """Deployments in memory.

    Args:
        versions: The versions of each service; the first runs, the others are older, the newest of them first.
        wanted: How many instances each service has.
    """

    def __init__(self, versions: Mapping[str, Iterable[str]], wanted: int = 2) -> None:
        self._versions = {service: list(names) for service, names in versions.items()}
        super().__init__(
            {
                service: Deployed(version=names[0], ready=wanted, wanted=wanted)
                for service, names in self._versions.items()
            }
        )

    @read
    async def versions(self, service: str) -> list[Version]:
        """List the versions of a service, the one that runs first."""
        runs = self._known(service).version
        return [Version(version=name) for name in sorted(self._versions[service], key=lambda name: name != runs)]

    def _changed(self, thing: Deployed, call: Call) -> dict[str, Any]:
        """Run another version; one that nobody has built is not found."""
        version = call.arguments["version"]
        if version not in self._versions[call.target]:
            raise NotFound(f"There is no version {version!r} of {call.target}.", todo="Look at its versions.")
        return {"version": version, "ready": thing.wanted}


class FakeScaler(Fake, Scaler):
    """A scaler in memory.

    Args:
        services: How many instances each service has.
        least: The fewest that are allowed.
        most: The most that are allowed.
    """

    def __init__(self, services: Mapping[str, int], least: int = 1, most: int = 10) -> None:
        super().__init__(
            {service: Scaled(wanted=count, ready=count, least=least, most=most) for service, count in services.items()}
        )

    def _changed(self, thing: Scaled, call: Call) -> dict[str, Any]:
        """Have another number of instances; they are ready at once."""
        return {"wanted": call.arguments["wanted"], "ready": call.arguments["wanted"]}
