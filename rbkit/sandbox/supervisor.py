"""The supervisor: keeps the sandbox's processes, deploys versions, makes faults happen and heals them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from rbkit.clock import SystemClock
from rbkit.sandbox.child import Child
from rbkit.sandbox.faults import DEFAULT_TARGET, FAULTS, OF_PROCESS, ActiveFaults
from rbkit.sandbox.layout import INSTANCES, SERVICE, VERSIONS, Layout
from rbkit.sandbox.web import Refusal

__all__ = ["REACH_S", "Supervisor"]

REACH_S = 10.0
HELPERS = ("balancer", "metrics", "load")
Begin = Callable[[], None]
"""Called right before the effect: it may still refuse, and it notes that there is one."""


class Supervisor:
    """The sandbox's world.

    Args:
        layout: Where it lives.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.faults = layout, ActiveFaults()
        self.children = {name: self._instance(name) for name in INSTANCES}
        self.helpers = {name: Child(layout, name) for name in HELPERS}
        self.version, self.rolling = "v1", asyncio.Lock()
        self._token = layout.token()

    def _instance(self, name: str) -> Child:
        def options() -> list[str]:
            faults = [word for fault in self.faults.lasting(name) for word in ("--fault", fault)]
            return ["--version", self.children[name].version, *faults]

        return Child(self.layout, name, self.layout.instance_port(name), options, self.faults.restarted)

    async def open(self) -> None:
        """Start everything; what watches and uses the instances comes after them."""
        await self.helpers["balancer"].start()
        for child in self.children.values():
            await child.start()
        await asyncio.gather(*(child.reach("running", REACH_S) for child in self.children.values()))
        await self.helpers["metrics"].start()
        await self.helpers["load"].start()

    async def close(self) -> None:
        """Stop everything."""
        await asyncio.gather(*(child.stop() for child in [*self.helpers.values(), *self.children.values()]))

    def find(self, name: str) -> Child:
        """Return an instance.

        Raises:
            Refusal: There is none of that name.
        """
        if name not in self.children:
            raise Refusal(404, "not_found", f"There is no service {name!r}; there are {', '.join(INSTANCES)}.")
        return self.children[name]

    async def start(self, child: Child, begin: Begin) -> None:
        """Start an instance and wait until it is healthy."""
        async with child.busy:
            begin()
            await child.start()
            await self._reach_running(child)

    async def stop(self, child: Child, begin: Begin) -> None:
        """Stop an instance and wait until it is gone."""
        async with child.busy:
            begin()
            await child.stop()

    async def restart(self, child: Child, begin: Begin) -> None:
        """Replace an instance's process and wait until the new one is healthy.

        Args:
            child: The instance.
            begin: Called right before the effect, when nothing else is under way on the instance.

        Raises:
            Refusal: 409 when the fault `restart-refused` holds; 504 when it is not healthy after 10 s.
        """
        if self.faults.holds("restart-refused", child.name):
            raise Refusal(409, "refused", f"The restart of {child.name} is refused: change freeze.")
        async with child.busy:
            begin()
            await child.stop()
            await child.start()
            await self._reach_running(child)

    async def _reach_running(self, child: Child) -> None:
        if not await child.reach("running", REACH_S):
            raise Refusal(504, "timeout", f"{child.name} did not become healthy within {REACH_S:.0f} s.")

    def deployment(self) -> dict[str, Any]:
        """Return what is deployed."""
        shown = {"service": SERVICE, "version": self.version, "available": list(VERSIONS)}
        return shown | {"rolling": self.rolling.locked()}

    async def deploy(self, version: object, begin: Begin) -> None:
        """Replace every instance that has another version, one after the other.

        Raises:
            Refusal: 400 for an unknown version, 409 while another roll is on its way, 504 when an instance stays ill.
        """
        if not isinstance(version, str) or version not in VERSIONS:
            raise Refusal(400, "bad_request", f"There is no version {version!r}; there are {', '.join(VERSIONS)}.")
        if self.rolling.locked():
            raise Refusal(409, "refused", "Another deployment is on its way.")
        async with self.rolling:
            begin()
            self.version = version
            for child in self.children.values():
                await self._replace(child, version)
        if version == VERSIONS[0]:
            self.faults.remove("bad-deploy")

    async def _replace(self, child: Child, version: str) -> None:
        async with child.busy:
            wanted, child.version = child.version != version, version
            if wanted and child.state != "stopped":
                await child.stop()
                await child.start()
                await self._reach_running(child)

    async def make_fault(self, fault: object, target: object, begin: Begin) -> dict[str, Any]:
        """Make a fault happen.

        Returns:
            The fault as it is listed.

        Raises:
            Refusal: 400 for an unknown fault, 404 for an unknown target, 409 when the target does not run.
        """
        if not isinstance(fault, str) or fault not in FAULTS:
            raise Refusal(400, "bad_request", f"There is no fault {fault!r}; there are {', '.join(FAULTS)}.")
        aim = self._aim(fault, target)
        if fault == "bad-deploy":
            await self.deploy(VERSIONS[-1], begin)
        elif fault in OF_PROCESS:
            await self._infect(self.find(aim or DEFAULT_TARGET), fault, begin)
        else:
            begin()
        return self.faults.add(fault, aim).to_json()

    def _aim(self, fault: str, target: object) -> str | None:
        if target is None:
            return DEFAULT_TARGET if fault in OF_PROCESS else None
        if fault == "bad-deploy":
            raise Refusal(400, "bad_request", "bad-deploy concerns every instance and takes no target.")
        return self.find(str(target)).name

    async def _infect(self, child: Child, fault: str, begin: Begin) -> None:
        if child.state != "running":
            raise Refusal(409, "refused", f"{child.name} is {child.state}, not running.")
        begin()
        try:
            await self._ask(self.layout.instance_port(child.name), "/fault", "POST", {"fault": fault})
        except (HTTPClientError, OSError) as error:
            raise Refusal(409, "refused", f"{child.name} did not take the fault: {error}.") from error

    async def heal(self) -> None:
        """Make the world well again: v1 everywhere, every instance running, every member ready and healthy."""
        ill = {name for name, child in self.children.items() if child.state != "running" or child.version != "v1"}
        ill |= self.faults.touched()
        self.faults.clear()
        self.version = VERSIONS[0]
        await asyncio.gather(*(self._renew(self.children[name]) for name in sorted(ill)))
        for name in INSTANCES:
            await self._make_ready(name)

    async def _renew(self, child: Child) -> None:
        async with child.busy:
            child.version = VERSIONS[0]
            await child.stop()
            await child.start()
            await self._reach_running(child)

    async def _make_ready(self, name: str) -> None:
        clock = SystemClock()
        deadline = clock.monotonic() + REACH_S
        while not await self._is_ready(name):
            if clock.monotonic() > deadline:
                raise Refusal(504, "timeout", f"The balancer does not see {name} as healthy.")
            await clock.sleep(0.1)

    async def _is_ready(self, name: str) -> bool:
        port, path = self.layout.balancer_admin, f"/members/{name}"
        try:
            member = await self._ask(port, path)
            if member["state"] != "ready":
                token = (await self._ask(port, f"/fence/{name}"))["token"]
                member = await self._ask(port, path, "PUT", {"state": "ready"}, token)
        except (HTTPClientError, OSError):
            return False
        return bool(member["healthy"])

    async def _ask(
        self, port: int, path: str, method: str = "GET", body: object = None, token: int | None = None
    ) -> dict[str, Any]:
        fencing = {} if token is None else {"Fencing-Token": str(token)}
        answer = await AsyncHTTPClient().fetch(
            f"http://127.0.0.1:{port}{path}",
            method=method,
            body=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self._token}", **fencing},
            request_timeout=5.0,
        )
        found: dict[str, Any] = json.loads(answer.body)
        return found
