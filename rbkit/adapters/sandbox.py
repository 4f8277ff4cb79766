"""The sandbox's supervisor and balancer, over their admin APIs."""

from typing import Any

from pydantic import SecretStr, ValidationError

from rbkit.adapters.http import Http
from rbkit.errors import BadAnswer, MayHaveActed, Unreachable
from rbkit.events import Call
from rbkit.ports import LoadBalancer, Member, Service, ServiceManager, read

__all__ = ["SandboxBalancer", "SandboxServices"]

_ADDRESS = "/{}/{}"


class SandboxBalancer(LoadBalancer):
    """The sandbox's balancer.

    Args:
        url: Its admin API's address.
        token: Its admin token.
    """

    def __init__(self, url: str, token: SecretStr) -> None:
        self._http = Http(url, "The sandbox's balancer", token)

    @read
    async def members(self, service: str) -> list[Member]:
        """List the members of a service."""
        answer = await self._http.read("/members", {"service": service})
        return _models(Member, answer, "members")

    async def state(self, target: str) -> dict[str, Any]:
        """Read a member's state."""
        return dict(_model(Member, await self._http.read(_path("members", target))).model_dump(mode="json"))

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Set a member to drain or ready."""
        await self._http.write("PUT", _path("members", call.target), {"state": call.action}, key, token=token)

    async def fence(self, target: str, token: int) -> None:
        """Announce a token to the balancer."""
        await _announce(self._http, target, token)

    async def ping(self) -> str:
        """List all members; whoever has the token may do everything."""
        found = _models(Member, await self._http.read("/members"), "members")
        return f"{self._http.name}, {self._http.who}; reads and writes, {len(found)} member(s)"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class SandboxServices(ServiceManager):
    """The sandbox's supervisor.

    Args:
        url: Its admin API's address.
        token: Its admin token.
    """

    def __init__(self, url: str, token: SecretStr) -> None:
        self._http = Http(url, "The sandbox's supervisor", token)

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the instances of a service."""
        answer = await self._http.read("/services")
        return [found for found in _models(Service, answer, "services") if found.service == service]

    async def state(self, target: str) -> dict[str, Any]:
        """Read an instance's state."""
        return dict(_model(Service, await self._http.read(_path("services", target))).model_dump(mode="json"))

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Restart, stop or start an instance."""
        await self._http.write("POST", f"{_path('services', call.target)}/{call.action}", None, key, token=token)

    async def fence(self, target: str, token: int) -> None:
        """Announce a token to the supervisor; it answers when what was under way on the instance has ended."""
        await _announce(self._http, target, token)

    async def ping(self) -> str:
        """List all services; whoever has the token may do everything."""
        found = _models(Service, await self._http.read("/services"), "services")
        return f"{self._http.name}, {self._http.who}; reads and writes, {len(found)} instance(s)"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _announce(http: Http, target: str, token: int) -> None:
    """Announcing is no act: when no answer comes nothing is in doubt, and it may be repeated."""
    try:
        await http.write("PUT", _path("fence", target), {"token": token}, token=token)
    except MayHaveActed as error:
        raise Unreachable(f"{http.name} did not confirm the fencing token: {error.what}") from error


def _path(kind: str, target: str) -> str:
    from urllib.parse import quote

    return _ADDRESS.format(kind, quote(target, safe=""))


def _models(kind: Any, answer: Any, name: str) -> list[Any]:
    if not isinstance(answer, dict) or not isinstance(answer.get(name), list):
        raise BadAnswer(f"The sandbox did not list its {name}.")
    return [_model(kind, item) for item in answer[name]]


def _model(kind: Any, data: Any) -> Any:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadAnswer(f"The sandbox described a {kind.__name__} in an unknown form.") from error
