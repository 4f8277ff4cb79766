"""The supervisor's admin API, and the supervisor process."""

import asyncio
from typing import Any

import tornado.web

from rbkit.sandbox.admin import AdminHandler, application
from rbkit.sandbox.fence import Fence
from rbkit.sandbox.layout import SERVICE, Layout, write_state
from rbkit.sandbox.supervisor import Supervisor
from rbkit.sandbox.web import Refusal, listen

__all__ = ["serve_supervisor", "supervisor_application"]


class Handler(AdminHandler):
    """A handler that knows the supervisor."""

    @property
    def world(self) -> Supervisor:
        """The supervisor."""
        found: Supervisor = self.settings["supervisor"]
        return found


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
        self.enter(name)
        known = self.key in self.settings["answers"]
        if verb == "restart" and not known and world.faults.holds("restart-hangs", name):
            await self.gone.wait()
            self.entry = None
            return
        verbs = {"restart": world.restart, "stop": world.stop, "start": world.start}

        async def act() -> dict[str, Any]:
            await verbs[verb](child, self.begin)
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

    async def put(self, service: str) -> None:
        """Deploy a version."""
        version = self.body().get("version")
        self.enter(service)

        async def act() -> dict[str, Any]:
            await self.world.deploy(version, self.begin)
            return self.world.deployment()

        await self.act(act)


class FaultsHandler(Handler):
    """/faults: what happens to the world, not what somebody does to a target, so no fencing token matters here."""

    def get(self) -> None:
        """List the faults that hold."""
        self.answer(self._list())

    async def post(self) -> None:
        """Make a fault happen."""
        wanted = self.body()
        await self.act(lambda: self.world.make_fault(wanted.get("fault"), wanted.get("target"), self.begin))

    async def delete(self) -> None:
        """Heal everything."""

        async def act() -> dict[str, Any]:
            self.begin()
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


def supervisor_application(supervisor: Supervisor, token: str) -> tornado.web.Application:
    """Build the admin application; instances and the deployment can be fenced.

    Args:
        supervisor: Who does it.
        token: The bearer token.
    """
    locks = {name: child.busy for name, child in supervisor.children.items()} | {SERVICE: supervisor.rolling}
    return application(ROUTES, token, Fence(), locks, supervisor=supervisor)


async def serve_supervisor(layout: Layout, stop: asyncio.Event) -> None:
    """Run the supervisor until it is told to stop; then nothing of the sandbox is left running."""
    supervisor = Supervisor(layout)
    server = listen(supervisor_application(supervisor, layout.token()), layout.port)
    write_state(layout)
    opening = asyncio.create_task(supervisor.open())
    await stop.wait()
    server.stop()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await supervisor.close()
    layout.state_file.unlink(missing_ok=True)
