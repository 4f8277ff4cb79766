"""One instance of the checkout service: a real process with real metrics, logs and spans."""

import asyncio
import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import Any

import psutil
import tornado.web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from rbkit.clock import SystemClock
from rbkit.sandbox.ailments import PROCESS_FAULTS, Ailments
from rbkit.sandbox.layout import SERVICE, Layout
from rbkit.sandbox.pool import Pool, PoolExhausted
from rbkit.sandbox.telemetry import JsonLines, Span, Tracer, iso
from rbkit.sandbox.web import JsonHandler, Refusal, listen

__all__ = ["Instance", "serve_instance"]

WORK_S = 0.008
HASH_ROUNDS = 200
SLOW_S = 0.5
GRACE_S = 1.5
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ProcessCollector(Collector):
    """The operating system's own numbers about this process, on every platform."""

    def collect(self) -> Iterable[Metric]:
        """Read them now."""
        process = psutil.Process()
        with process.oneshot():
            times = process.cpu_times()
            resident, started = process.memory_info().rss, process.create_time()
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory, bytes.", resident)
        yield GaugeMetricFamily("process_start_time_seconds", "Start, unix seconds.", started)
        yield CounterMetricFamily("process_cpu_seconds", "User and system time, seconds.", times.user + times.system)


class Meters:
    """The metrics of one instance.

    Args:
        version: What is deployed.
        pool: The pool that is watched.
    """

    def __init__(self, version: str, pool: Pool) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        registry.register(ProcessCollector())
        self.requests = Counter("http_requests", "Requests by status code.", ["code"], registry=registry)
        for code in ("200", "500", "503"):
            self.requests.labels(code)
        self.duration = Histogram(
            "http_request_duration_seconds", "Time to answer, seconds.", buckets=BUCKETS, registry=registry
        )
        Info("app", "What is deployed.", registry=registry).info({"version": version})
        Gauge("pool_size", "Slots of the pool.", registry=registry).set(pool.size)
        slots = Gauge("pool_connections", "Slots by state.", ["state"], registry=registry)
        slots.labels("busy").set_function(lambda: pool.busy)
        slots.labels("idle").set_function(lambda: pool.idle)
        slots.labels("leaked").set_function(lambda: pool.leaked)


class Instance:
    """The state of one instance.

    Args:
        layout: The sandbox.
        name: For example `checkout-2`.
        version: What is deployed.
    """

    def __init__(self, layout: Layout, name: str, version: str) -> None:
        self.name, self.version, self.clock = name, version, SystemClock()
        self.common = {"service": SERVICE, "instance": name, "version": version}
        self.log = JsonLines(layout.log_file(name))
        self.tracer = Tracer(JsonLines(layout.span_file(name)), self.common, self.clock)
        self.pool = Pool()
        self.meters = Meters(version, self.pool)
        self.ailments = Ailments(version, self.pool, self.say, self.clock)
        self.in_flight = 0

    def say(self, level: str, message: str, **more: Any) -> None:
        """Write a log line."""
        head = {"time": iso(self.clock.now()), "level": level, "message": message}
        self.log.write(head | self.common | more)

    async def work(self, span: Span) -> tuple[int, str]:
        """Do one request's work.

        Returns:
            Status code and what to say about it.
        """
        try:
            with span.child("pool.acquire"):
                await self.pool.take()
        except PoolExhausted as error:
            return 503, str(error)
        try:
            with span.child("db.query") as query:
                query.attributes["rows"] = await self._compute(span.trace_id)
                return self._verdict(query)
        finally:
            self.pool.give_back()

    async def _compute(self, seed: str) -> int:
        await self.clock.sleep(WORK_S + self.ailments.behaviour.delay_s)
        return hashlib.pbkdf2_hmac("sha256", seed.encode(), b"sandbox", HASH_ROUNDS)[0]

    def _verdict(self, query: Span) -> tuple[int, str]:
        if not self.ailments.fails_now():
            return 200, "order placed"
        query.status = "error"
        return 500, "order failed: unexpected null in column discount_code"

    def finished(self, span: Span, status: int, message: str) -> None:
        """Count, measure and log one request."""
        seconds = span.seconds
        self.meters.requests.labels(str(status)).inc()
        self.meters.duration.observe(seconds)
        level = "error" if status >= 500 else "warning" if seconds > SLOW_S else "info"
        facts = {"trace_id": span.trace_id, "status": status, "duration_ms": round(seconds * 1000, 1)}
        self.say(level, message, method="GET", path="/work", **facts)


class InstanceHandler(JsonHandler):
    """A handler that knows its instance."""

    @property
    def instance(self) -> Instance:
        """The instance that answers."""
        found: Instance = self.settings["instance"]
        return found


class WorkHandler(InstanceHandler):
    """GET /work."""

    async def get(self) -> None:
        """Do a little work within a slot of the pool."""
        self.instance.in_flight += 1
        try:
            with self.instance.tracer.begin("GET /work", self.request.headers.get("traceparent", "")) as span:
                status, message = await self.instance.work(span)
                span.status = "error" if status >= 500 else "ok"
                span.attributes["http.status_code"] = status
                self.instance.finished(span, status, message)
            self.answer({"instance": self.instance.name, "message": message, "trace_id": span.trace_id}, status)
        finally:
            self.instance.in_flight -= 1


class MetricsHandler(InstanceHandler):
    """GET /metrics."""

    def get(self) -> None:
        """Send the metrics as text."""
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(generate_latest(self.instance.meters.registry))


class HealthHandler(InstanceHandler):
    """GET /healthz."""

    def get(self) -> None:
        """Say who answers, so that nobody mistakes another process for this one."""
        self.answer({"name": self.instance.name, "pid": os.getpid(), "version": self.instance.version})


class FaultHandler(InstanceHandler):
    """POST /fault, for the supervisor only."""

    def post(self) -> None:
        """Begin to suffer from a fault."""
        given = self.request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self.settings['token']}".encode()):
            raise Refusal(401, "unauthorized", "Only the supervisor may do this.")
        fault = self.body().get("fault")
        if fault not in PROCESS_FAULTS:
            raise Refusal(400, "bad_request", f"There is no fault {fault!r}.")
        self.instance.ailments.begin(fault)
        self.answer({"fault": fault})


def _application(instance: Instance, token: str) -> tornado.web.Application:
    routes = [(r"/work", WorkHandler), (r"/metrics", MetricsHandler), (r"/healthz", HealthHandler)]
    return tornado.web.Application(
        [*routes, (r"/fault", FaultHandler)], default_handler_class=tornado.web.ErrorHandler,
        default_handler_args={"status_code": 404}, instance=instance, token=token,
    )  # fmt: skip


async def serve_instance(layout: Layout, name: str, version: str, faults: list[str], stop: asyncio.Event) -> None:
    """Run one instance until it is told to stop; requests in flight get a moment to finish."""
    instance = Instance(layout, name, version)
    server = listen(_application(instance, layout.token()), layout.instance_port(name))
    instance.say("info", "started", pid=os.getpid())
    for fault in faults:
        instance.ailments.begin(fault)
    await stop.wait()
    server.stop()
    deadline = instance.clock.monotonic() + GRACE_S
    while instance.in_flight and instance.clock.monotonic() < deadline:
        await instance.clock.sleep(0.02)
    instance.say("info", "stopped", pid=os.getpid())
