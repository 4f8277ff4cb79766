"""The balancer process: passes traffic on, watches health, and has an admin API on a port of its own."""

import asyncio
import json
from typing import Any

import tornado.web
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import generate_latest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse
from tornado.simple_httpclient import HTTPTimeoutError

from rbkit.clock import SystemClock
from rbkit.sandbox.admin import AdminHandler, application
from rbkit.sandbox.balancer import STATES, LastMember, Member, Members
from rbkit.sandbox.fence import Fence
from rbkit.sandbox.layout import SERVICE, Layout
from rbkit.sandbox.telemetry import JsonLines, Span, Tracer
from rbkit.sandbox.web import JsonHandler, Refusal, listen

__all__ = ["serve_balancer"]

UPSTREAM_TIMEOUT_S = 10.0
HEALTH_EVERY_S = 0.4
HEALTH_TIMEOUT_S = 2.0


class Meters:
    """The balancer's metrics.

    Args:
        members: Who is counted.
    """

    def __init__(self, members: Members) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("balancer_requests", "Requests passed on.", ["member", "code"], registry=registry)
        active = Gauge("balancer_member_active", "Requests in flight.", ["member"], registry=registry)
        ready = Gauge("balancer_member_ready", "1 unless drained.", ["member"], registry=registry)
        healthy = Gauge("balancer_member_healthy", "1 when it answers.", ["member"], registry=registry)
        for member in members.all():
            active.labels(member.name).set_function(lambda member=member: member.active)  # type: ignore[misc]
            ready.labels(member.name).set_function(lambda member=member: member.state == "ready")  # type: ignore[misc]
            healthy.labels(member.name).set_function(lambda member=member: member.healthy)  # type: ignore[misc]


class Proxy:
    """Passes requests on.

    Args:
        members: To whom.
        meters: Where they are counted.
        tracer: Where they are traced.
    """

    def __init__(self, members: Members, meters: Meters, tracer: Tracer) -> None:
        self.members, self.meters, self.tracer = members, meters, tracer

    async def forward(self, path: str, span: Span) -> HTTPResponse | None:
        """Pass a GET on; a member that cannot be reached is skipped and the next one tried.

        Returns:
            The member's answer; None when no member could answer.
        """
        tried: set[str] = set()
        while member := self.members.choose(tried):
            tried.add(member.name)
            span.attributes["member"] = member.name
            answer = await self._ask(member, path, span)
            if answer is not None:
                self.meters.requests.labels(member.name, str(answer.code)).inc()
                return answer
        return None

    async def _ask(self, member: Member, path: str, span: Span) -> HTTPResponse | None:
        member.active += 1
        member.requests += 1
        try:
            return await AsyncHTTPClient().fetch(
                f"http://127.0.0.1:{member.port}{path}",
                headers={"traceparent": span.traceparent},
                request_timeout=UPSTREAM_TIMEOUT_S,
                follow_redirects=False,
                raise_error=False,
            )
        except HTTPTimeoutError:
            self.meters.requests.labels(member.name, "504").inc()
            raise Refusal(504, "timeout", f"{member.name} did not answer.") from None
        except (HTTPClientError, OSError):
            member.healthy = False
            return None
        finally:
            member.active -= 1

    async def check(self, member: Member) -> None:
        """Ask one member whether it is well."""
        url = f"http://127.0.0.1:{member.port}/healthz"
        try:
            answer = await AsyncHTTPClient().fetch(url, request_timeout=HEALTH_TIMEOUT_S)
            member.healthy = json.loads(answer.body)["name"] == member.name
        except (HTTPClientError, OSError, ValueError, KeyError, TypeError):
            member.healthy = False

    async def keep_checking(self, member: Member) -> None:
        """Ask one member again and again, for ever."""
        while True:
            await self.check(member)
            await SystemClock().sleep(HEALTH_EVERY_S)


class TrafficHandler(JsonHandler):
    """Everything on the traffic port."""

    async def get(self) -> None:
        """Pass the request on; 503 when there is nobody."""
        proxy: Proxy = self.settings["proxy"]
        with proxy.tracer.begin("balancer", self.request.headers.get("traceparent", "")) as span:
            answer = await proxy.forward(self.request.uri or "/", span)
            span.status = "ok" if answer is not None and answer.code < 500 else "error"
        if answer is None:
            raise Refusal(503, "no_member", "No member is ready and healthy.")
        self.set_status(answer.code)
        self.set_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.finish(answer.body)


class MembersHandler(AdminHandler):
    """GET /members."""

    def get(self) -> None:
        """List the members, of one service when it is named."""
        members: Members = self.settings["members"]
        wanted = self.get_argument("service", SERVICE)
        self.answer({"members": [member.to_json() for member in members.all() if wanted == SERVICE]})


class MemberHandler(AdminHandler):
    """/members/NAME."""

    def find(self, name: str) -> Member:
        """Return the member that the address names.

        Raises:
            Refusal: There is none.
        """
        member = self.settings["members"].find(name)
        if not isinstance(member, Member):
            raise Refusal(404, "not_found", f"There is no member {name!r}.")
        return member

    def get(self, name: str) -> None:
        """Show one member."""
        self.answer(self.find(name).to_json())

    async def put(self, name: str) -> None:
        """Set whether it gets new requests; those in flight finish."""
        member, state = self.find(name), self.body().get("state")
        self.enter(name)
        if state not in STATES:
            raise Refusal(400, "bad_request", "`state` is `ready` or `drain`.")

        async def act() -> dict[str, Any]:
            try:
                self.settings["members"].set_state(member, state, self.begin)
            except LastMember as error:
                raise Refusal(409, "refused", str(error)) from error
            return member.to_json()

        await self.act(act)


class MetricsHandler(AdminHandler):
    """GET /metrics."""

    def get(self) -> None:
        """Send the metrics as text."""
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(generate_latest(self.settings["registry"]))


async def serve_balancer(layout: Layout, stop: asyncio.Event) -> None:
    """Run the balancer until it is told to stop."""
    AsyncHTTPClient.configure(None, max_clients=500)
    members = Members.of(layout)
    meters = Meters(members)
    tracer = Tracer(JsonLines(layout.span_file("balancer")), {"service": "balancer", "instance": "balancer"})
    proxy = Proxy(members, meters, tracer)
    routes = [(r"/members", MembersHandler), (r"/members/([^/]+)", MemberHandler), (r"/metrics", MetricsHandler)]
    locks = {member.name: asyncio.Lock() for member in members.all()}
    fence = Fence(layout.fence_file)
    admin = application(routes, layout.token(), fence, locks, members=members, registry=meters.registry)
    traffic = tornado.web.Application([(r".*", TrafficHandler)], proxy=proxy)
    servers = [listen(admin, layout.balancer_admin), listen(traffic, layout.balancer)]
    jobs = [asyncio.create_task(proxy.keep_checking(member)) for member in members.all()]
    await stop.wait()
    for server in servers:
        server.stop()
    for job in jobs:
        job.cancel()
