"""Deployments by any service that lists versions and takes the one that is wanted, as JSON over HTTP."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from rbkit.adapters.flags import element, field_at, steps
from rbkit.adapters.http import Http
from rbkit.capability import read
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.kinds import Deployments, Version
from rbkit.values import seconds

__all__ = ["HttpDeployments"]

_PATHS = {
    "state": "/services/{service}", "versions": "/services/{service}/versions", "deploy": "/services/{service}/deploy",
    "fence": "",
}  # fmt: skip
_FIELDS = {
    "version": "version", "ready": "ready", "wanted": "wanted", "versions": "versions", "name": "version",
    "deployed_at": "deployed_at", "note": "note", "deploy": "version",
}  # fmt: skip
_MOST = 1000


class HttpDeployments(Deployments):
    """Deployments over HTTP: a version is asked for by POST, with Idempotency-Key and Fencing-Token as headers.

    Whether a lower token is refused (412) is the service's affair; `paths.fence` lets it know a token at once.

    Args:
        url: The service's address.
        paths: Paths of `state`, `versions`, `deploy` and `fence`, each with `{service}`; `fence` may be missing.
        fields: Where things are, names joined by dots: in the state `version`, `ready`, `wanted`; in the list
            `versions`, and of each one `name`, `deployed_at`, `note`; `deploy` is the field of what is sent.
        token: A bearer token.
        shows_within: How long a deployment may take.

    Raises:
        SettingsError: An option is wrong.
    """

    def __init__(
        self, url: str, paths: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None,
        token: SecretStr | None = None, shows_within: str | float = "5m",
    ) -> None:  # fmt: skip
        self._paths = _merged("paths", _PATHS, paths)
        self._fields = {name: steps(f"fields.{name}", at) for name, at in _merged("fields", _FIELDS, fields).items()}
        for name, path in self._paths.items():
            if (path or name != "fence") and (path.count("{service}") != 1 or not path.startswith("/")):
                raise SettingsError(f"The option paths.{name} must begin with / and hold {{service}} once.")
        self._http = Http(url, "The deployments' service", token)
        self.shows_within_s = seconds(shows_within)  # type: ignore[misc]  # a class's default, an instance's option

    @read
    async def versions(self, service: str) -> list[Version]:
        """List the versions of a service: the one that runs first."""
        answer = await self._http.read(self._place("versions", service))
        listed = field_at(answer, self._fields["versions"], service)
        if not isinstance(listed, list) or len(listed) > _MOST:
            raise BadAnswer(f"The versions of {service} are no list, or more than {_MOST}.")
        runs = (await self.state(service))["version"]
        found = [self._version(item) for item in listed]
        found.sort(key=lambda one: one.deployed_at.timestamp() if one.deployed_at else 0.0, reverse=True)
        return sorted(found, key=lambda one: one.version != runs)

    async def state(self, target: str) -> dict[str, Any]:
        """Say which version runs, how many instances of it are ready, and how many are wanted."""
        answer = await self._http.read(self._place("state", target))
        found = {name: field_at(answer, self._fields[name], target) for name in ("version", "ready", "wanted")}
        counts = all(isinstance(found[name], int) and not isinstance(found[name], bool) for name in ("ready", "wanted"))
        if not isinstance(found["version"], str) or not counts:
            raise BadAnswer(f"The state of {target} is in an unknown form: {str(found)[:200]}.")
        return found

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Ask for a version."""
        body: Any = str(call.arguments.get("version"))
        for name in reversed(self._fields["deploy"]):
            body = {name: body}
        await self._http.write("POST", self._place("deploy", call.target), body, key, token=token)

    async def fence(self, target: str, token: int) -> None:
        """Announce a token, where the service has a path for that; announcing is no act and may be repeated."""
        if not self._paths["fence"]:
            return
        try:
            await self._http.write("PUT", self._place("fence", target), {"token": token}, token=token)
        except MayHaveActed as error:
            raise Unreachable(f"The fencing token was not confirmed: {error.what}") from error

    async def ping(self) -> str:
        """Ask for a service that hardly is there: that there is none is an answer, too."""
        with suppress(NotFound):
            await self._http.read(self._place("state", "rbkit-ping"))
        return f"{self._http.name} answers, {self._http.who}; reads; it does not tell whether we may write"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _place(self, name: str, service: str) -> str:
        return self._paths[name].replace("{service}", element(service))

    def _version(self, item: Any) -> Version:
        name = field_at(item, self._fields["name"], "a version")
        if not isinstance(name, str) or not name:
            raise BadAnswer(f"A version has no name: {str(item)[:200]}.")
        return Version(
            version=name, deployed_at=_moment(self._more(item, "deployed_at")), note=self._more(item, "note")
        )

    def _more(self, item: Any, name: str) -> str:
        """Take a field that need not be there."""
        try:
            return str(field_at(item, self._fields[name], "a version") or "")[:500]
        except BadAnswer:
            return ""


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadAnswer(f"A version was deployed at {text[:40]!r}, which is no time.") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _merged(option: str, known: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    unknown = sorted(set(given or {}) - set(known))
    if unknown:
        raise SettingsError(f"The option {option} has no {unknown[0]!r}.", todo=f"Known: {', '.join(known)}.")
    return {**known, **(given or {})}
