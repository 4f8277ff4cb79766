"""Whatever the network does, every adapter ends in time with a documented error; a change is never thought undone."""

import asyncio
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import boto3
import pytest
import redis as redis_client
import yaml
from pydantic import SecretStr
from servers import faults
from servers.alertmanager import alertmanager
from servers.faults import CutAfter, Drip, Fault, FaultProxy, Garbage, Refuse, Replies, ResetAfter, Silence
from servers.haproxy import haproxy
from servers.kubernetes import stages
from servers.moto import moto
from servers.nginx import nginx
from servers.postgres import postgres
from servers.prometheus import prometheus
from servers.rabbitmq import rabbitmq
from servers.redis import redis
from servers.sshd import sshd
from servers.supervisord import PASSWORD, USER, supervisord
from servers.tls import Authority, tls
from servers.vault import vaults

import rbkit.adapters
from rbkit.adapters import aws, cloudwatch_api
from rbkit.adapters import haproxy as haproxy_adapter
from rbkit.adapters.alertmanager import AlertmanagerAlerts, AlertmanagerSilences
from rbkit.adapters.aws import AutoScalingGroups
from rbkit.adapters.certificates import TlsCertificates
from rbkit.adapters.cloudwatch import CloudWatchLogs, CloudWatchMetrics
from rbkit.adapters.command import Programs
from rbkit.adapters.elasticsearch import Elasticsearch
from rbkit.adapters.flags import HttpFlags
from rbkit.adapters.haproxy import HAProxy
from rbkit.adapters.http import Http
from rbkit.adapters.http_deployments import HttpDeployments
from rbkit.adapters.jaeger import Jaeger
from rbkit.adapters.kube_client import Cluster
from rbkit.adapters.kube_deployments import KubernetesDeployments
from rbkit.adapters.kube_services import KubernetesServices
from rbkit.adapters.kubernetes import KubernetesBalancer, KubernetesScaler
from rbkit.adapters.loki import Loki
from rbkit.adapters.nginx import Nginx
from rbkit.adapters.postgres import Postgres
from rbkit.adapters.prometheus import Prometheus
from rbkit.adapters.rabbitmq import RabbitQueue
from rbkit.adapters.redis_cache import RedisCache
from rbkit.adapters.redis_queue import RedisQueue
from rbkit.adapters.sandbox import SandboxBalancer, SandboxServices
from rbkit.adapters.sql import SqlMetrics
from rbkit.adapters.supervisord import Supervisord
from rbkit.adapters.systemd import Systemd
from rbkit.adapters.tempo import Tempo
from rbkit.adapters.vault_sources import VaultCredentials, VaultSecrets
from rbkit.adapters.version_file import VersionFile
from rbkit.capability import Capability
from rbkit.endpoints import Endpoints
from rbkit.environment import Limits
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, Refused, SecretError, Unreachable
from rbkit.facts import Call
from rbkit.ports import Bound, Window
from rbkit.testing.double import Answer, Double, Request
from rbkit.testing.elasticsearch import ElasticsearchDouble
from rbkit.testing.http_machines import DeploymentsDouble, FlagsDouble
from rbkit.testing.jaeger import JaegerDouble
from rbkit.testing.loki import LokiDouble
from rbkit.testing.tempo import TempoDouble

END = datetime.now(UTC)
WINDOW = Window(END - timedelta(minutes=5), END, 5.0)
OUTER_S = 40.0
"""No call may take longer, whatever it waits for: far beyond every deadline, as the machine may be busy."""
REGION, ANY = "eu-central-1", SecretStr("token")


class Sandbox(Double):
    """Answers the sandbox's adapters: there is nothing, and every change is fine."""

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        return Answer(200, {"members": [], "services": []}) if request.method == "GET" else Answer(204)


class World:
    """Servers, each started when it is first needed, and ended with the module."""

    def __init__(self, stack: ExitStack, folders: Callable[[], Path]) -> None:
        self._stack, self.folder, self._ports = stack, folders, dict[str, int]()

    def port(self, name: str) -> int:
        """Return a server's port."""
        if name not in self._ports:
            found = getattr(self, f"_{name}")()
            self._ports[name] = found if isinstance(found, int) else int(urlsplit(found).port or 0)
        return self._ports[name]

    def _in(self, server: Any) -> Any:
        return self._stack.enter_context(server)

    def _prometheus(self) -> str:
        return self._in(prometheus(self.folder(), "up 1\n"))

    def _alertmanager(self) -> str:
        return self._in(alertmanager(self.folder()))

    def _loki(self) -> str:
        return self._in(LokiDouble()).url

    def _elasticsearch(self) -> str:
        double = self._in(ElasticsearchDouble())
        double.take(Request("PUT", "/logs", {}, {"content-type": "application/json"}, b"{}"))
        return double.url

    def _jaeger(self) -> str:
        return self._in(JaegerDouble()).url

    def _tempo(self) -> str:
        return self._in(TempoDouble()).url

    def _flags(self) -> str:
        return self._in(FlagsDouble({"dark": {"value": False}})).url

    def _deployments(self) -> str:
        return self._in(DeploymentsDouble({"checkout": {"v1": "2026-01-01T00:00:00Z"}})).url

    def _sandbox(self) -> str:
        return self._in(Sandbox()).url

    def _postgres(self) -> str:
        return self._in(postgres(self.folder()))

    def _redis(self) -> str:
        url = self._in(redis(self.folder()))
        with redis_client.Redis.from_url(url) as client:
            client.rpush("orders", "one")
        return url

    def _rabbitmq(self) -> str:
        self.rabbit = self._in(rabbitmq(self.folder()))
        self.queue("orders")
        return self.rabbit.api

    def _amqp(self) -> str:
        self.port("rabbitmq")
        return self.rabbit.amqp

    def _haproxy(self) -> str:
        return f"tcp://{self._in(haproxy(self.folder(), {'checkout': {'checkout-1': '127.0.0.1:9'}})).admin}"

    def _supervisord(self) -> int:
        return self._in(supervisord(self.folder(), {"checkout": {"checkout-1": "sleep 1000"}})).port

    def _moto(self) -> str:
        url = self._in(moto(self.folder()))
        session = boto3.Session("testing", "testing", region_name=REGION)
        groups, logs = (session.client(name, endpoint_url=url) for name in ("autoscaling", "logs"))
        groups.create_launch_configuration(LaunchConfigurationName="s", ImageId="ami-12c6146b", InstanceType="t3.micro")
        groups.create_auto_scaling_group(
            AutoScalingGroupName="checkout", LaunchConfigurationName="s", MinSize=1, MaxSize=5, DesiredCapacity=2,
            AvailabilityZones=[f"{REGION}a"],
        )  # fmt: skip
        logs.create_log_group(logGroupName="checkout")
        groups.close()
        logs.close()
        return url

    def _kubernetes(self) -> str:
        self.stage = self._in(stages())("kubernetes")
        self.stage.reset()
        return self.stage.double.url

    def _vault(self) -> str:
        self.place = self._in(vaults("double"))
        self.place.put("app/pager", token="hunter2")
        self.place.double.database.role("readonly", 600, 3600)
        return self.place.url

    def _nginx(self) -> int:
        self.upstream = self._in(nginx(self.folder(), ["checkout-1", "checkout-2"]))
        return self.upstream.port

    def _tls(self) -> int:
        authority = Authority(self.folder())
        self.authority = str(authority.file)
        return self._in(tls(authority.certificate()))

    def _sshd(self) -> int:
        self.machine = self._in(sshd(self.folder()))
        return self.machine.port

    def ssh(self, port: int) -> dict[str, Any]:
        """Write the options that lead to the machine over another port."""
        known = self.folder() / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {(self.machine.folder / 'host.pub').read_text()}")
        return self.machine.options(port=port, known_hosts=str(known), connect_timeout="2s")

    def kube(self, port: int) -> dict[str, str]:
        """Write a kubeconfig that leads to the double over another port."""
        config = yaml.safe_load(Path(self.stage.options["kubeconfig"]).read_text())
        config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{port}"
        path = self.folder() / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return {"kubeconfig": str(path)}

    def pod(self) -> str:
        """Name a pod of the deployment `checkout`."""
        return asyncio.run(self._pod())

    async def _pod(self) -> str:
        balancer = KubernetesBalancer(**self.stage.options)
        try:
            return sorted(one.name for one in await balancer.members("checkout"))[0]
        finally:
            await balancer.aclose()

    def vault(self, port: int) -> Any:
        """Make an access to Vault over another port that gives up soon."""
        secret = self.place.secret_id()
        url, self.place.url = self.place.url, f"http://127.0.0.1:{port}"
        try:
            return self.place.vault(timeout="1s", patience="1s", known={"ref:secret": secret})
        finally:
            self.place.url = url

    def file(self, text: str) -> str:
        """Write a file that can be run."""
        made = self.folder() / "file"
        made.write_text(text)
        made.chmod(0o755)
        return str(made)

    def queue(self, name: str = "") -> str:
        """Make a queue with one message in it, called m."""
        name = name or f"orders-{uuid.uuid4().hex[:8]}"

        async def made() -> None:
            connection = await aio_pika.connect(self.rabbit.amqp, login="guest", password="guest")
            async with connection, connection.channel() as channel:
                await channel.declare_queue(name, durable=True)
                await channel.default_exchange.publish(aio_pika.Message(b"poison", message_id="m"), name)

        asyncio.run(made())
        return name


@dataclass(frozen=True)
class Row:
    """How an adapter is used over the proxy.

    Args:
        server: Which server is behind it.
        make: Makes the adapter from the world and the proxy's port.
        ask: Reads with it.
        call: Names a change, if it makes any.
        word: What the client says when it is about to act.
        pages: Whether it speaks HTTP, so that whole pages can be wrong.
        errors: What it may raise when it reads, if that is something else; then it has deadlines of its own.
        never: What it raises when nobody listens while it changes something.
    """

    server: str
    make: Callable[[World, int], Any]
    ask: Callable[[Any], Awaitable[Any]]
    call: Callable[[World], Call] | None = None
    word: bytes = b""
    pages: bool = False
    errors: tuple[type[Exception], ...] = ()
    never: type[Exception] = Unreachable


def at(port: int, path: str = "") -> str:
    """Write an address."""
    return f"http://127.0.0.1:{port}{path}"


def to(action: str, target: str, **arguments: Any) -> Callable[[World], Call]:
    """Name a change."""
    return lambda world: Call(capability="it", action=action, target=target, arguments=arguments)


def lines(make: Callable[[str], Any], server: str, **where: str) -> Row:
    """Describe a source of lines that speaks HTTP."""
    return Row(server, lambda w, p: make(at(p)), lambda a: a.search(where, WINDOW, 10), pages=True)


def secrets(make: Callable[[Any], Any], path: str) -> Row:
    """Describe a source of secrets; it has deadlines of its own."""
    return Row(
        "vault", lambda w, p: partial(make(w.vault(p)).fetch, path.format(w.place.mount)), asyncio.to_thread,
        pages=True, errors=(SecretError,),
    )  # fmt: skip


def rabbit(world: World, api: int, amqp: int) -> RabbitQueue:
    """Make a reader of queues."""
    return RabbitQueue(at(api), f"amqp://127.0.0.1:{amqp}", SecretStr("guest"), "guest", timeout_s=3.0)


def cluster(make: Callable[..., Any], ask: Any, call: Callable[[World], Call], word: bytes = b"PUT /") -> Row:
    """Describe an adapter of Kubernetes."""
    return Row("kubernetes", lambda w, p: make(**w.kube(p)), ask, call, word, pages=True)


def releases(folder: Path) -> dict[str, str]:
    """Make a folder of releases, of which the first is chosen."""
    for name in ("v1", "v2"):
        (folder / "releases" / name).mkdir(parents=True)
    (folder / "current").symlink_to("releases/v1")
    return {"checkout": str(folder)}


SYSTEMCTL = """#!/bin/sh
printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\nMainPID=1\\nNRestarts=0\\n'
echo 'ExecMainStartTimestamp=Sun 2026-11-22 09:05:00 UTC'
"""
NEVER = "1@2020-01-01T00:00:00.000000Z"
ROWS: dict[str, Row] = {
    "Prometheus": Row(
        "prometheus", lambda w, p: Prometheus(at(p, "/prom")), lambda a: a.query("up", WINDOW), pages=True
    ),
    "AlertmanagerAlerts": lines(AlertmanagerAlerts, "alertmanager"),
    "AlertmanagerSilences": Row(
        "alertmanager", lambda w, p: AlertmanagerSilences(at(p)), lambda a: a.state("Slow"),
        to("silence", "Slow", minutes=5, why="test"), b"POST /api", True,
    ),
    "Loki": lines(Loki, "loki", service="checkout"),
    "Elasticsearch": lines(lambda url: Elasticsearch(url, "logs"), "elasticsearch"),
    "Jaeger": lines(Jaeger, "jaeger", service="checkout"),
    "Tempo": lines(Tempo, "tempo", service="checkout"),
    "SqlMetrics": Row(
        "postgres", lambda w, p: SqlMetrics(f"postgresql://postgres@127.0.0.1:{p}/postgres", timeout_s=3.0),
        lambda a: a.query(Bound("SELECT 1 AS value", {}), WINDOW),
    ),
    "Postgres": Row(
        "postgres", lambda w, p: Postgres(f"postgresql://postgres@127.0.0.1:{p}/postgres", timeout_s=3.0),
        lambda a: a.sessions(), to("terminate", NEVER), b"pg_terminate_backend",
    ),
    "RedisCache": Row(
        "redis", lambda w, p: RedisCache(f"redis://127.0.0.1:{p}/0", timeout_s=3.0), lambda a: a.facts(),
        to("evict", "none:*"), b"rbkit:done:",
    ),
    "RedisQueue": Row(
        "redis", lambda w, p: RedisQueue(f"redis://127.0.0.1:{p}/0", queues=["orders"], timeout_s=3.0),
        lambda a: a.queues(), to("park", "orders", message="one"), b"rbkit:done:",
    ),
    "RabbitQueue": Row(
        "amqp", lambda w, p: rabbit(w, w.port("rabbitmq"), p), lambda a: a.state("orders"),
        lambda w: Call(capability="it", action="park", target=w.queue(), arguments={"message": "m"}),
        b"\x00\x3c\x00\x28",
    ),
    "RabbitQueue's API": Row(
        "rabbitmq", lambda w, p: rabbit(w, p, w.port("amqp")), lambda a: a.queues(), pages=True
    ),
    "HAProxy": Row(
        "haproxy", lambda w, p: HAProxy(f"127.0.0.1:{p}"), lambda a: a.members("checkout"),
        to("ready", "checkout-1"), b"set server",
    ),
    "Supervisord": Row(
        "supervisord", lambda w, p: Supervisord(at(p), USER, SecretStr(PASSWORD), timeout_s=3.0),
        lambda a: a.instances("checkout"), to("stop", "checkout-1"), b"supervisor.stopProcess", True,
    ),
    "VersionFile": Row(
        "supervisord",
        lambda w, p: VersionFile(releases(w.folder()), at(p), USER, SecretStr(PASSWORD), timeout_s=3.0),
        lambda a: a.state("checkout"), to("deploy", "checkout", version="v2"), b"supervisor.st", True,
        never=MayHaveActed,
    ),
    "HttpFlags": Row(
        "flags", lambda w, p: HttpFlags(at(p)), lambda a: a.state("dark"), to("put", "dark", value=True), b"PUT /", True
    ),
    "HttpDeployments": Row(
        "deployments", lambda w, p: HttpDeployments(at(p)), lambda a: a.state("checkout"),
        to("deploy", "checkout", version="v1"), b"POST /", True,
    ),
    "SandboxBalancer": Row(
        "sandbox", lambda w, p: SandboxBalancer(at(p), ANY), lambda a: a.members("checkout"),
        to("drain", "checkout-1"), b"PUT /", True,
    ),
    "SandboxServices": Row(
        "sandbox", lambda w, p: SandboxServices(at(p), ANY), lambda a: a.instances("checkout"),
        to("stop", "checkout-1"), b"POST /", True,
    ),
    "AutoScalingGroups": Row(
        "moto", lambda w, p: AutoScalingGroups(REGION, at(p), whole_s=3.0), lambda a: a.state("checkout"),
        to("scale", "checkout", wanted=2), b"SetDesiredCapacity", True,
    ),
    "CloudWatchMetrics": Row(
        "moto", lambda w, p: CloudWatchMetrics(REGION, at(p)),
        lambda a: a.query({"namespace": "shop", "metric": "latency"}, WINDOW), pages=True,
    ),
    "CloudWatchLogs": Row(
        "moto", lambda w, p: CloudWatchLogs("checkout", REGION, at(p)), lambda a: a.search({}, WINDOW, 10), pages=True
    ),
    "KubernetesBalancer": cluster(
        KubernetesBalancer, lambda a: a.members("checkout"),
        lambda w: Call(capability="it", action="drain", target=w.pod()),
    ),
    "KubernetesServices": cluster(
        KubernetesServices, lambda a: a.instances("checkout"),
        lambda w: Call(capability="it", action="restart", target=w.pod()), b"POST /",
    ),
    "KubernetesDeployments": cluster(
        KubernetesDeployments, lambda a: a.versions("checkout"), to("deploy", "checkout", version="3.9")
    ),
    "KubernetesScaler": cluster(
        partial(KubernetesScaler, 5), lambda a: a.state("deployment/checkout"),
        to("scale", "deployment/checkout", wanted=3),
    ),
    "Nginx": Row(
        "nginx", lambda w, p: Nginx(**{**w.upstream.options, "url": at(p)}), lambda a: a.members("checkout"), pages=True
    ),
    "TlsCertificates": Row(
        "tls", lambda w, p: partial(TlsCertificates(w.authority, "2s").certificate, f"127.0.0.1:{p}"), lambda a: a()
    ),
    "Programs": Row(
        "sshd", lambda w, p: Programs(reads={"look": ["/bin/cat", w.file("{}")]}, ssh=w.ssh(p)),
        lambda a: a.ask("look", "x"),
    ),
    "Systemd": Row(
        "sshd", lambda w, p: Systemd({"a": ["a.service"]}, ssh=w.ssh(p), systemctl=w.file(SYSTEMCTL)),
        lambda a: a.instances("a"),
    ),
    "VaultSecrets": secrets(VaultSecrets, "{}/app/pager#token"),
    "VaultCredentials": secrets(VaultCredentials, "readonly#password"),
}  # fmt: skip
ELSEWHERE = {
    "Journald": "a program of this machine", "JsonlLogs": "files of this machine", "LocalDisk": "files of this machine",
    "EnvironmentSecrets": "this process", "FileSecrets": "files of this machine",
    "KeyringSecrets": "the keyring of this machine",
}  # fmt: skip
"""Adapters that use no network, with what they use."""
HANDS_OFF = {
    "TlsCertificates": "it refuses every change", "Nginx": "it changes a file and sends a signal",
    "Programs": "see test_a_program_over_a_broken_connection", "Systemd": "it runs programs as Programs does",
}  # fmt: skip
"""Capabilities without a change that a word on the wire announces, with the reason."""
BROKEN: dict[str, tuple[Fault, set[type[Exception]]]] = {
    "refused": (Refuse(), {Unreachable}),
    "reset": (ResetAfter(0), {Unreachable}),
    "silent": (Silence(), {Unreachable}),
    "dripping": (Drip(1, 0.4), {Unreachable}),
    "cut": (CutAfter(12), {Unreachable, BadAnswer}),
    "garbage": (Garbage(), {Unreachable, BadAnswer}),
}
"""Faults of a connection, and how a question may end."""
PAGES: dict[str, Replies] = {
    "half of JSON": faults.reply(b'{"status": "succ'),
    "a page": faults.reply(b"<html>Please log in</html>", kind="text/html"),
    "429": faults.reply(b"{}", 429, Retry_After="7200"),
    "500": faults.reply(b"oops", 500),
    "503": faults.reply(b"", 503),
    "not a number": faults.reply(b'{"status": "success", "data": NaN, "traces": Infinity}'),
    "another shape": faults.reply(b'[[1], {"a": "b"}]'),
}
"""Answers that nobody documents."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers."""
    with ExitStack() as stack:
        yield World(stack, lambda: tmp_path_factory.mktemp("net"))


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give AWS what it needs and nothing of this machine; let deadlines be short where no option says so."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(aws, "_READ_S", 2.0)
    monkeypatch.setattr(cloudwatch_api, "_READ_S", 2.0)
    monkeypatch.setattr(haproxy_adapter, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(Http.write, "__defaults__", (None, "", 2.0, None))
    monkeypatch.setattr(Cluster.__init__, "__defaults__", ("", "", "", 2.0))


def read(rig: Any, world: World, row: Row, fault: Fault | None, timeout: str, word: bytes = b"") -> Any:
    """Ask over the proxy as a run does; the proxy ends before the loop waits for threads."""
    journal = rig.open(run=f"20260101-000000-{uuid.uuid4().hex[:6]}").journal
    endpoints = Endpoints(journal, lambda endpoint: Limits(timeout=timeout))
    port = world.port(row.server)

    async def work() -> Any:
        async with asyncio.timeout(OUTER_S):
            with FaultProxy(port, fault, word) as proxy:
                adapter = row.make(world, proxy.port)
                try:
                    if row.errors:
                        return await row.ask(adapter)
                    return (await endpoints.read("source it", lambda: row.ask(adapter)))[0]
                finally:
                    await closed(adapter)

    return asyncio.run(work())


async def closed(adapter: Any) -> None:
    """Close an adapter, if it can be."""
    if hasattr(adapter, "aclose"):
        await adapter.aclose()


def change(world: World, row: Row, fault: Fault) -> tuple[Exception, bytes]:
    """Make a change over the proxy; the fault comes with the word, unless nobody listens at all."""
    port = world.port(row.server)
    call = row.call(world)

    async def work() -> tuple[Exception, bytes]:
        async with asyncio.timeout(OUTER_S):
            with FaultProxy(port, fault, b"" if fault == Refuse() else row.word) as proxy:
                adapter = row.make(world, proxy.port)
                try:
                    with pytest.raises(AdapterError) as caught:
                        await adapter.apply(call, uuid.uuid4().hex, 1)
                finally:
                    await closed(adapter)
            return caught.value, bytes(proxy.asked)

    return asyncio.run(work())


def adapters() -> dict[str, type]:
    """Find every class of rbkit that reads from, changes, or takes secrets from a real system."""
    found = {}
    for module in pkgutil.iter_modules(rbkit.adapters.__path__, "rbkit.adapters."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            works = any(callable(getattr(thing, verb, None)) for verb in ("query", "search", "fetch", "apply"))
            mine = inspect.isclass(thing) and thing.__module__ == module.name and not inspect.isabstract(thing)
            if mine and works and not name.startswith(("_", "Fake")):
                found[name] = thing
    return found


def test_no_adapter_is_left_out() -> None:
    """Whoever adds an adapter says here how it is used over a broken network, or that it uses none."""
    rows = {name.partition("'")[0] for name in ROWS}
    assert rows | set(ELSEWHERE) == set(adapters()) and not rows & set(ELSEWHERE)
    writing = {name for name, thing in adapters().items() if issubclass(thing, Capability) and name not in ELSEWHERE}
    assert {name for name, row in ROWS.items() if row.call} == writing - set(HANDS_OFF)


@pytest.mark.parametrize("name", ROWS)
def test_over_a_good_network_the_question_is_answered(rig, world, name) -> None:
    """Else the other tests would prove nothing."""
    assert read(rig, world, ROWS[name], None, "20s") is not None


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("name", ROWS)
def test_a_question_over_a_broken_network_ends_in_a_documented_error(rig, world, name, fault) -> None:
    """Nothing of a library gets out, nothing hangs, and no half answer is taken for a whole one."""
    what, expected = BROKEN[fault]
    timeout = "0.4s" if isinstance(what, Silence | Drip) else "20s"
    with pytest.raises(tuple(expected) if not ROWS[name].errors else ROWS[name].errors):
        read(rig, world, ROWS[name], what, timeout)


@pytest.mark.parametrize("name", ["SqlMetrics", "Postgres"])
def test_a_database_may_fall_silent_while_the_library_looks_at_it(rig, world, name) -> None:
    """What a library asks for itself after it has connected has a deadline, too, and leaves no thread behind."""
    with pytest.raises(Unreachable):
        read(rig, world, ROWS[name], Silence(), "0.4s", b"pg_catalog.version")


@pytest.mark.parametrize("answer", PAGES)
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.pages])
def test_a_wrong_page_is_no_answer(rig, world, name, answer) -> None:
    """Not even one with the right status; how long a server wants to be left alone is kept."""
    with pytest.raises((BadAnswer, Refused, *ROWS[name].errors)) as caught:
        read(rig, world, ROWS[name], PAGES[answer], "20s")
    if answer == "429" and type(caught.value) is BadAnswer and ROWS[name].server != "moto":  # AWS does not say
        assert caught.value.retry_after_s == 3600


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.pages])
def test_nobody_follows_a_redirect(rig, world, name) -> None:
    """Credentials stay with whom they are meant for."""
    with FaultProxy(0, faults.reply(b"{}")) as decoy:
        elsewhere = faults.reply(b"", 302, Location=at(decoy.port, "/stolen"))
        with pytest.raises((BadAnswer, Refused, *ROWS[name].errors)):
            read(rig, world, ROWS[name], elsewhere, "20s")
        assert not decoy.asked


@pytest.mark.parametrize(
    "fault", [ResetAfter(0), CutAfter(0), Garbage(), Silence()], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.call])
def test_a_change_whose_answer_is_lost_may_have_been_made(world, name, fault) -> None:
    """The request left: nobody may think that nothing was done."""
    error, asked = change(world, ROWS[name], fault)
    assert ROWS[name].word in asked, f"{name} did not come so far: {error}"
    assert type(error) is MayHaveActed


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.call])
def test_a_change_that_nobody_took_was_certainly_not_made(world, name) -> None:
    """Where nobody listens nothing is in doubt."""
    error, asked = change(world, ROWS[name], Refuse())
    assert type(error) is ROWS[name].never and not asked


CHILD = """
import asyncio, importlib, json, resource, sys
from datetime import UTC, datetime, timedelta
import pandas
from rbkit.ports import Window
module, name, options, verb, words = json.loads(sys.argv[1])
adapter = getattr(importlib.import_module(module), name)(**options)
window = Window(datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC), 5.0)

async def main():
    try:
        await getattr(adapter, verb)(*(window if word == "WINDOW" else word for word in words))
    except Exception as error:
        return type(error).__name__
    finally:
        await adapter.aclose()

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = most()
print(json.dumps([asyncio.run(main()), most() - before]))
"""
"""Asks once, in a process of its own; says how that ended and by how many KiB its memory grew."""
LARGE = {"100 MB": faults.huge, "10 GB unfolded": faults.bomb, "a million series": faults.million_series}
READERS: dict[str, tuple[str, dict[str, Any], str, list[Any]]] = {
    "prometheus:Prometheus": ("url", {}, "query", ["up", "WINDOW"]),
    "loki:Loki": ("url", {}, "search", [{"service": "x"}, "WINDOW", 10]),
    "elasticsearch:Elasticsearch": ("url", {"index": "logs"}, "search", [{}, "WINDOW", 10]),
    "supervisord:Supervisord": ("url", {}, "instances", ["checkout"]),
    "haproxy:HAProxy": ("socket", {}, "members", ["checkout"]),
    "kubernetes:KubernetesBalancer": ("kubeconfig", {}, "members", ["checkout"]),
    "aws:AutoScalingGroups": ("url", {"region": "eu-north-1"}, "state", ["checkout"]),
    "cloudwatch:CloudWatchLogs": ("url", {"region": "eu-north-1", "group": "checkout"}, "search", [{}, "WINDOW", 10]),
}
"""One adapter for each way to read an answer: the module and the class, what leads to the server, what is asked."""


@pytest.mark.parametrize("answer", LARGE)
@pytest.mark.parametrize("name", READERS)
def test_an_answer_without_end_costs_little_memory(world, name, answer) -> None:
    """It is refused while it comes, before it fills the memory of whoever asked."""
    (module, _, kind), (where, options, verb, words) = name.partition(":"), READERS[name]
    world.port("kubernetes")
    with FaultProxy(0, Replies(LARGE[answer])) as proxy:
        place = {"url": at(proxy.port), "socket": f"127.0.0.1:{proxy.port}", **world.kube(proxy.port)}[where]
        task = json.dumps([f"rbkit.adapters.{module}", kind, {where: place, **options}, verb, words])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", CHILD, task], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    ended, grown = json.loads(done.stdout)
    assert ended in {"BadAnswer", "Unreachable"} and grown < 150_000


def test_a_program_over_a_broken_connection(world, tmp_path) -> None:
    """A program on another machine that had begun when the connection broke may have acted."""
    world.port("sshd")
    begun, go = tmp_path / "begun", tmp_path / "go"
    text = f"#!/bin/sh\ntouch {begun}\nwhile ! test -e {go}; do sleep 0.05; done\n"
    program = {"argv": [world.file(text)], "state": ["/bin/true"], "after": {"a": 1}, "irreversible": "it is a test"}

    async def work(proxy: FaultProxy) -> None:
        machine = Programs({"work": program}, ssh=world.ssh(proxy.port))
        call = Call(capability="it", action="run", target="x", arguments={"program": "work"})
        acts = asyncio.ensure_future(machine.apply(call, "key", 1))
        async with asyncio.timeout(OUTER_S):
            while not begun.exists():
                await asyncio.wait({acts}, timeout=0.05)
            proxy.fault = ResetAfter(0)
            go.touch()
            with pytest.raises(MayHaveActed):
                await acts
            with pytest.raises(Unreachable):
                await machine.apply(call, "key", 1)
        await machine.aclose()

    with FaultProxy(world.port("sshd")) as proxy:
        asyncio.run(work(proxy))
