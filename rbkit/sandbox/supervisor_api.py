"""The supervisor's admin API, and the supervisor process."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from rbkit.sandbox.layout import SERVICE, Layout, write_state
from rbkit.sandbox.supervisor import Supervisor
from rbkit.sandbox.web import AdminHandler, Refusal, application, listen

__all__ = ["Answers", "serve_supervisor"]

MOST_KEYS = 1000
Reply = tuple[int, dict[str, Any]]
Act = Callable[[], Awaitable[dict[str, Any]]]


class Answers:
    """The first answer to each Idempotency-Key; the last 1,000."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, tuple[str, asyncio.Task[Reply]]] = OrderedDict()

    async def once(self, key: str | None, request: str, act: Act) -> Reply:
        """Act, unless the key was seen: then give the first answer, waiting for it if it is still being made.

        Args:
            key: The caller's key; without one it acts.
            request: Method, path and body, to tell a repetition from another request.
            act: What to do.

        Raises:
            Refusal: 422 when the key was used for something else.
        """
        if key is None:
            return await _reply(act)
        if key not in self._given:
            self._given[key] = (request, asyncio.create_task(_reply(act)))
            while len(self._given) > MOST_KEYS:
                self._given.popitem(last=False)
        first, reply = self._given[key]
        if first != request:
            raise Refusal(422, "key_reused", "This Idempotency-Key was used for another request.")
        return await asyncio.shield(reply)

    def __contains__(self, key: str | None) -> bool:
        return key in self._given


async def _reply(act: Act) -> Reply:
    try:
        return 200, await act()
    except Refusal as refusal:
        return refusal.status_code, {"error": refusal.error, "message": refusal.message}


class Handler(AdminHandler):
    """A handler that knows the supervisor."""

    @property
    def world(self) -> Supervisor:
        """The supervisor."""
        found: Supervisor = self.settings["supervisor"]
        return found

    async def act(self, act: Act) -> None:
        """Act once for each Idempotency-Key and answer."""
        answers: Answers = self.settings["answers"]
        request = f"{self.request.method} {self.request.path} {json.dumps(self.body(), sort_keys=True)}"
        status, body = await answers.once(self.key, request, act)
        self.answer(body, status)


class ServicesHandler(Handler):
    """GET /services."""

    def get(self) -> None:
        """List the instances."""
        self.answer({"services": [child.to_json() for child in self.world.children.values()]})


class ServiceHandler(Handler):
    """GET /services/NAME."""

    def get(self, name: str) -> None:
        """Show one instance."""
        self.answer(self.world.find(name).to_json())


class ServiceActHandler(Handler):
    """POST /services/NAME/restart, /stop and /start."""

    def initialize(self) -> None:
        """Prepare to learn that the caller went away."""
        self.gone = asyncio.Event()

    def on_connection_close(self) -> None:
        """Note that the caller went away."""
        self.gone.set()

    async def post(self, name: str, verb: str) -> None:
        """Do it and answer when the new state is reached; with the fault `restart-hangs`, never."""
        child, world = self.world.find(name), self.world
        known = self.key in self.settings["answers"]
        if verb == "restart" and not known and world.faults.holds("restart-hangs", name):
            await self.gone.wait()
            self.entry = None
            return
        verbs = {"restart": world.restart, "stop": world.stop, "start": world.start}

        async def act() -> dict[str, Any]:
            await verbs[verb](child)
            return child.to_json()

        await self.act(act)


class DeploymentHandler(Handler):
    """/deployments/SERVICE."""

    def prepare(self) -> None:
        """Refuse a service that is not there."""
        super().prepare()
        if self.path_args and self.path_args[0] != SERVICE:
            raise Refusal(404, "not_found", f"There is no deployment {self.path_args[0]!r}; there is {SERVICE}.")

    def get(self, _: str) -> None:
        """Show what is deployed."""
        self.answer(self.world.deployment())

    async def put(self, _: str) -> None:
        """Deploy a version."""
        version = self.body().get("version")

        async def act() -> dict[str, Any]:
            await self.world.deploy(version)
            return self.world.deployment()

        await self.act(act)


class FaultsHandler(Handler):
    """/faults."""

    def get(self) -> None:
        """List the faults that hold."""
        self.answer(self._list())

    async def post(self) -> None:
        """Make a fault happen."""
        wanted = self.body()
        await self.act(lambda: self.world.make_fault(wanted.get("fault"), wanted.get("target")))

    async def delete(self) -> None:
        """Heal everything."""

        async def act() -> dict[str, Any]:
            await self.world.heal()
            return self._list()

        await self.act(act)

    def _list(self) -> dict[str, Any]:
        return {"faults": [fault.to_json() for fault in self.world.faults.all()]}


ROUTES = [
    (r"/services", ServicesHandler),
    (r"/services/([^/]+)", ServiceHandler),
    (r"/services/([^/]+)/(restart|stop|start)", ServiceActHandler),
    (r"/deployments/([^/]+)", DeploymentHandler),
    (r"/faults", FaultsHandler),
]


async def serve_supervisor(layout: Layout, stop: asyncio.Event) -> None:
    """Run the supervisor until it is told to stop; then nothing of the sandbox is left running."""
    supervisor = Supervisor(layout)
    server = listen(application(ROUTES, layout.token(), supervisor=supervisor, answers=Answers()), layout.port)
    write_state(layout)
    opening = asyncio.create_task(supervisor.open())
    await stop.wait()
    server.stop()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await supervisor.close()
    layout.state_file.unlink(missing_ok=True)
