"""Whatever a client library raises becomes one of rbkit's errors; which one is written down and never changes silently.

`python tests/adapters/test_error_tree.py` writes the golden table and the one in docs/errors.md anew.
"""

import asyncio
import importlib
import inspect
import os
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from pamqp.commands import Basic
from pydantic import SecretStr

from rbkit import errors
from rbkit.adapters.aws import AutoScalingGroups
from rbkit.adapters.certificates import TlsCertificates
from rbkit.adapters.cloudwatch import CloudWatchLogs
from rbkit.adapters.haproxy import HAProxy
from rbkit.adapters.http import Http
from rbkit.adapters.kube_client import Cluster
from rbkit.adapters.postgres import Postgres
from rbkit.adapters.rabbitmq_line import Line
from rbkit.adapters.redis_server import RedisServer
from rbkit.adapters.secrets import KeyringSecrets
from rbkit.adapters.signal_http import SignalHttp
from rbkit.adapters.sql import SqlMetrics
from rbkit.adapters.ssh import Ran, Ssh, SshSettings
from rbkit.adapters.supervisord import Supervisord
from rbkit.adapters.vault import Vault, VaultSettings
from rbkit.adapters.vault_errors import Need
from rbkit.clock import FakeClock
from rbkit.facts import Call
from rbkit.ports import Bound, Window

GOLDEN = Path(__file__).parent / "error_tree.txt"
DOC = Path(__file__).parents[2] / "docs" / "errors.md"
MARKS = ("<!-- from here on: tests/adapters/test_error_tree.py -->", "<!-- until here -->")
LIBRARIES = {
    "httpx2": ["httpx2"],
    "redis": ["redis.exceptions"],
    "sqlalchemy": ["sqlalchemy.exc"],
    "psycopg": ["psycopg", "psycopg.errors"],
    "rabbitmq": ["aiormq.exceptions", "aio_pika.exceptions", "pamqp.exceptions"],
    "asyncssh": ["asyncssh"],
    "lightkube": ["lightkube", "lightkube.core.exceptions"],
    "botocore": ["botocore.exceptions", "botocore.parsers"],
    "hvac": ["hvac.exceptions", "requests.exceptions"],
    "xmlrpc": ["xmlrpc.client", "xml.parsers.expat"],
    "keyring": ["keyring.errors"],
}
NETWORK = (
    OSError, ConnectionError, ConnectionRefusedError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError,
    TimeoutError, PermissionError, FileNotFoundError, InterruptedError, socket.gaierror, socket.herror, ssl.SSLError,
    ssl.SSLEOFError, ssl.SSLCertVerificationError, ssl.SSLZeroReturnError, EOFError, asyncio.IncompleteReadError,
)  # fmt: skip
"""What sockets and TLS raise, below every library that lets it through."""
NEVER_HERE = {
    "httpx2": {"StreamError", "StreamConsumed", "StreamClosed", "ResponseNotRead", "RequestNotRead", "CookieConflict"},
    "lightkube": {
        "LoadResourceError", "NotReadyError", "ObjectDeleted", "ConditionError", "ApiError", "PreemptedError",
    },
    "redis": {
        "RedisClusterException", "ChildDeadlockedError", "CrossSlotTransactionError", "IncorrectPolicyType",
        "InvalidPipelineStack", "SlotNotCoveredError",
    },
    "sqlalchemy": {"EmulatedDBAPIException"},
    "psycopg": {"Rollback", "Warning"},
    "asyncssh": {
        "BreakReceived", "ChannelListenError", "PasswordChangeRequired", "SignalReceived", "TerminalSizeChanged",
    },
    "botocore": {"MissingServiceIdError", "UndefinedModelAttributeError", "NoInitialResponseError"},
    "xmlrpc": {"Error", "ProtocolError"},
}  # fmt: skip
"""Exceptions of parts that no adapter uses: streams that are read twice, cookies, lightkube's own requests, clusters of
Redis, servers of SSH and their terminals, asynchronous SQLAlchemy, transactions as blocks, models and event streams of
AWS, transports of xmlrpc."""
_STANDARD = {"builtins", "concurrent", "asyncio", "socket", "ssl", "pyexpat", "xml", "xmlrpc", "http", "binascii"}
NOW = FakeClock().now()
TARGET = "1@2020-01-01T00:00:00.000000Z"


def classes(library: str) -> list[type[Exception]]:
    """List a library's exceptions, in the order of their names."""
    found: dict[str, type[Exception]] = {}
    for module in LIBRARIES[library]:
        for name, thing in vars(importlib.import_module(module)).items():
            if inspect.isclass(thing) and issubclass(thing, Exception) and not issubclass(thing, Warning):
                theirs = thing.__module__.partition(".")[0] in _STANDARD
                if (not theirs or library == "xmlrpc") and name not in NEVER_HERE.get(library, set()):
                    found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return [found[name] for name in sorted(found)]


def made(kind: type[Exception]) -> Exception:
    """Make an exception of any kind, with whatever its constructor wants; bare where that is not to be found out."""
    refusal = {"Error": {"Code": "X", "Message": "words"}, "ResponseMetadata": {"HTTPStatusCode": 500}}
    values = {"code": 1, "orig": OSError("words"), "params": {}, "error_response": refusal, "resp": "1 127.0.0.1:1"}
    if kind.__module__ == "aiormq.exceptions":
        back = Basic.Return(312, "NO_ROUTE", "", "q")
        values |= {"message": SimpleNamespace(delivery=back), "frame": back}
    with suppress(TypeError, KeyError, AttributeError, ValueError):
        wanted = inspect.signature(kind).parameters.values()
        needed = [
            one
            for one in wanted
            if one.default is one.empty and one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}
        ]
        return kind(*(values.get(one.name, "words") for one in needed)) if needed else kind("words", "words")
    for words in (("words", "words"), ("words",), ()):
        with suppress(TypeError, KeyError, AttributeError, ValueError):
            return kind(*words)
    bare = kind.__new__(kind)
    bare.args = ("words",)
    return bare


def ended(work: Callable[[], Any]) -> str:
    """Say how a call ends: the name of rbkit's error, or what got out."""
    try:
        result = work()
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except errors.RunbookError as error:
        return type(error).__name__
    except BaseException as error:  # noqa: BLE001 - whatever gets out is the fault that is looked for
        return f"LEAK {type(error).__module__}.{type(error).__name__}"
    return "LEAK nothing was raised"


def raising(error: Exception) -> Any:
    """Make something that raises, called or awaited."""
    return mock.Mock(side_effect=error)


def awaited(error: Exception) -> Any:
    """Make something that raises when it is awaited."""
    return mock.AsyncMock(side_effect=error)


def call(action: str, target: str, **arguments: Any) -> Call:
    """Name a change."""
    return Call(capability="it", action=action, target=target, arguments=arguments)


Ways = Iterator[tuple[str, str]]


def http(error: Exception) -> Ways:
    """HTTP, as nearly every adapter speaks it."""
    with mock.patch("httpx2.AsyncClient.send", awaited(error)):
        yield "Http", ended(lambda: Http("http://x", "it").read("/"))
        yield "Http (change)", ended(lambda: Http("http://x", "it").write("POST", "/"))
        yield "SignalHttp", ended(lambda: SignalHttp("http://x", "it").ask("/", {}))
        yield "Supervisord", ended(lambda: Supervisord("http://x").instances("a"))
    with mock.patch("httpx2.AsyncClient.send", awaited(error)), supervised():
        yield "Supervisord (change)", ended(lambda: Supervisord("http://x").apply(call("stop", "a"), "k", 1))
    yield from kubernetes(error)


@contextmanager
def supervised() -> Iterator[None]:
    """Let supervisord's process `a` be found without being asked for."""
    found = ("a:a", SimpleNamespace(state="running"))
    with mock.patch.object(Supervisord, "_find", mock.AsyncMock(return_value=found)):
        yield


def kubernetes(error: Exception) -> Ways:
    """A cluster whose client raises."""
    import httpx2

    client = mock.Mock(spec=httpx2.AsyncClient, send=awaited(error))

    def asked(work: Callable[[Cluster], Any]) -> str:
        cluster = Cluster(namespace="n")
        with mock.patch.object(Cluster, "_opened", lambda _: client):
            return ended(lambda: work(cluster))

    yield "Cluster", asked(lambda one: one.read("pods", "a"))
    yield "Cluster (change)", asked(lambda one: one.evict("a", "u", "v"))


def kubeconfig(error: Exception) -> Ways:
    """A kubeconfig that lightkube does not take."""
    with mock.patch("lightkube.KubeConfig.from_file", raising(error)):
        yield "Cluster", ended(lambda: Cluster("/none").read("pods", "a"))
        yield "Cluster (change)", ended(lambda: Cluster("/none").evict("a", "u", "v"))


def redis(error: Exception) -> Ways:
    """Redis: before the connection stands, at a read, at a change."""
    server = RedisServer("redis://127.0.0.1:1", None, 5.0)
    with mock.patch("redis.asyncio.Redis.ping", awaited(error)):
        yield "RedisServer (connects)", ended(lambda: server.ask(awaited(error), acts=True))
    with mock.patch("redis.asyncio.Redis.ping", mock.AsyncMock()):
        yield "RedisServer", ended(lambda: server.ask(awaited(error)))
        yield "RedisServer (change)", ended(lambda: server.ask(awaited(error), acts=True))


def postgres(error: Exception) -> Ways:
    """PostgreSQL: sessions, and numbers by SQL."""
    url, window = "postgresql://u@127.0.0.1:1/d", Window(NOW, NOW, 1.0)

    def lost(asked: bool) -> Any:
        def raises(self: Any, query: Any, values: Any, wire: Any) -> Any:
            wire.asked = asked
            raise error

        return mock.patch.object(Postgres, "_asked", raises)

    with lost(asked=False):
        yield "Postgres (connects)", ended(lambda: Postgres(url).apply(call("cancel", TARGET), "k", 1))
    with lost(asked=True):
        yield "Postgres", ended(lambda: Postgres(url).state(TARGET))
        yield "Postgres (change)", ended(lambda: Postgres(url).apply(call("cancel", TARGET), "k", 1))
    place = "sqlalchemy.engine.Engine.connect" if "sqlalchemy" in type(error).__module__ else "psycopg.connect"
    place = "psycopg.Connection.connect" if place == "psycopg.connect" else place
    with mock.patch(place, raising(error)):
        yield "SqlMetrics", ended(lambda: SqlMetrics(url).query(Bound("SELECT 1 AS value", {}), window))


def rabbitmq(error: Exception) -> Ways:
    """RabbitMQ: before the connection stands, at a look, at a move."""
    line = Line("amqp://127.0.0.1:1", "u", SecretStr("p"), "/", 5.0)

    async def use(acts: bool) -> None:
        async with line.held("q") as held:
            held._acts = acts
            raise error

    with mock.patch.object(Line, "_connected", awaited(error)):
        yield "Line (connects)", ended(lambda: use(acts=True))
    with mock.patch.object(Line, "_connected", mock.AsyncMock()), mock.patch.object(Line, "_locked", mock.AsyncMock()):
        yield "Line", ended(lambda: use(acts=False))
        yield "Line (change)", ended(lambda: use(acts=True))


def asyncssh(error: Exception) -> Ways:
    """SSH: while it connects, while a program is started, while it runs."""
    with mock.patch.object(Ssh, "__init__", lambda self, settings: None):
        machine = Ssh(None)  # type: ignore[arg-type]
    machine._settings = SshSettings.model_construct(
        host="h", user="u", port=22, key_file=Path("k"), known_hosts=Path("k"), limiter=""
    )
    machine._connect_s, machine._connection = 5.0, None

    def ran() -> Any:
        machine._turn = asyncio.Lock()
        return machine.run(["/bin/true"], 5.0)

    with mock.patch("asyncssh.connect", awaited(error)):
        yield "Ssh (connects)", ended(ran)
    if isinstance(error, ValueError):  # a key or a file is wrong: that shows before there is a connection
        return
    process = mock.Mock(returncode=None, wait_closed=mock.AsyncMock())
    process.stdout.read = process.stderr.read = awaited(error)
    connection = mock.Mock(create_process=mock.AsyncMock(return_value=process))
    with mock.patch.object(Ssh, "_connected", mock.AsyncMock(return_value=connection)):
        yield "Ssh (change)", ended(ran)
        connection.create_process = awaited(error)
        yield "Ssh (starts)", ended(ran)
    assert Ran(0, b"", b"").said


@cache
def _amazon() -> tuple[AutoScalingGroups, CloudWatchLogs]:
    """Make clients once: that takes long."""
    where = "eu-central-1", "http://127.0.0.1:1"
    return AutoScalingGroups(*where), CloudWatchLogs("g", *where)


def botocore(error: Exception) -> Ways:
    """AWS."""
    group, logs = _amazon()
    with mock.patch("botocore.client.BaseClient._make_api_call", raising(error)):
        yield "AutoScalingGroups", ended(lambda: group.state("g"))
        yield "CloudWatch", ended(lambda: logs.search({}, Window(NOW, NOW, 1.0), 1))
        with mock.patch.object(AutoScalingGroups, "state", mock.AsyncMock()):
            yield "AutoScalingGroups (change)", ended(lambda: group.apply(call("scale", "g", wanted=1), "k", 1))


def vault(error: Exception) -> Ways:
    """Vault."""
    settings = VaultSettings.read({"url": "http://127.0.0.1:1", "login": "token", "token": "env:X", "patience": "1s"})
    access = Vault(settings, lambda name: SecretStr("t"), clock=FakeClock())
    yield "Vault", ended(lambda: access.call(Need("read", "p", "read"), raising(error)))


def supervisord(error: Exception) -> Ways:
    """XML-RPC."""
    answer = mock.AsyncMock(return_value=(200, b"<a/>"))
    broken = mock.patch("xmlrpc.client.Unmarshaller.close", raising(error))
    with mock.patch("rbkit.adapters.supervisord._Rpc._post", answer), broken:
        yield "Supervisord", ended(lambda: Supervisord("http://x").instances("a"))
        with supervised():
            yield "Supervisord (change)", ended(lambda: Supervisord("http://x").apply(call("stop", "a"), "k", 1))


def keyring(error: Exception) -> Ways:
    """A keyring."""
    backend = SimpleNamespace(get_password=raising(error))
    yield "KeyringSecrets", ended(lambda: KeyringSecrets(backend).fetch("a/b"))


def network(error: Exception) -> Ways:
    """Sockets, and the libraries that let their errors through."""
    streams = mock.Mock(read=awaited(error)), mock.Mock(drain=mock.AsyncMock())
    with mock.patch("asyncio.open_connection", mock.AsyncMock(return_value=streams)):
        yield "HAProxy", ended(lambda: HAProxy("127.0.0.1:1").members("a"))
        yield "HAProxy (change)", ended(lambda: HAProxy("127.0.0.1:1")._ask("set", errors.MayHaveActed))
    for way in (redis, rabbitmq) if isinstance(error, EOFError) else (connecting, redis, rabbitmq, asyncssh, vault):
        yield from way(error)


def connecting(error: Exception) -> Ways:
    """Nobody is there."""
    with mock.patch("asyncio.open_connection", awaited(error)):
        yield "HAProxy (connects)", ended(lambda: HAProxy("127.0.0.1:1").apply(call("ready", "a"), "k", 1))
        if not isinstance(error, ssl.SSLCertVerificationError):  # that is what the second handshake is for
            yield "TlsCertificates", ended(lambda: TlsCertificates().certificate("127.0.0.1:1"))
    yield from kubernetes(error)


WAYS: dict[str, Callable[[Exception], Ways]] = {
    "httpx2": http, "redis": redis, "sqlalchemy": postgres, "psycopg": postgres, "rabbitmq": rabbitmq,
    "asyncssh": asyncssh, "lightkube": kubeconfig, "botocore": botocore, "hvac": vault, "xmlrpc": supervisord,
    "keyring": keyring,
}  # fmt: skip


def table() -> list[tuple[str, str, str]]:
    """Raise everything everywhere.

    Returns:
        The exception, where it was raised, and what became of it.
    """
    found = []
    for library, way in WAYS.items():
        for kind in classes(library):
            found += [(f"{kind.__module__}.{kind.__qualname__}", where, end) for where, end in way(made(kind))]
    for kind in NETWORK:
        error = asyncio.IncompleteReadError(b"", 1) if kind is asyncio.IncompleteReadError else kind(5, "words")
        if isinstance(error, ssl.SSLError):
            error.reason = "WORDS"
        found += [(f"{kind.__module__}.{kind.__qualname__}", where, end) for where, end in network(error)]
    return found


def written(rows: list[tuple[str, str, str]]) -> str:
    """Write the golden table: one line for each exception and place."""
    return "".join(f"{name:70} {where:28} {end}\n" for name, where, end in rows)


def summary(rows: list[tuple[str, str, str]]) -> str:
    """Write the table of the documentation: for each place, which errors come of how many exceptions."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, where, end in rows:
        groups[where, end].append(name.rpartition(".")[2])
    lines = ["| where | becomes | of these exceptions |", "|---|---|---|"]
    for (where, end), names in sorted(groups.items()):
        some = ", ".join(f"`{name}`" for name in sorted(set(names))[:6])
        more = len(set(names)) - 6
        lines.append(f"| {where} | `{end}` | {some}{f' and {more} more' if more > 0 else ''} |")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str]]:
    """What becomes of every exception."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        return table()


def test_nothing_of_a_library_gets_out(rows) -> None:
    """A notebook sees rbkit's errors only: each says what was done and what to do next."""
    assert [row for row in rows if row[2].startswith("LEAK")] == []
    known = {name for name in errors.__all__ if issubclass(getattr(errors, name), errors.RunbookError)}
    assert {end for _, _, end in rows} <= known


def test_what_becomes_of_each_exception_is_known(rows) -> None:
    """A library that raises something new, or an adapter that sees it differently, shows here."""
    assert written(rows) == GOLDEN.read_text()


def test_the_documentation_says_the_same(rows) -> None:
    """docs/errors.md draws the tree as the code does, and shows what becomes of what."""
    text = DOC.read_text()
    assert summary(rows) == text.partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    assert errors.__doc__.partition("\n\n")[2].strip() in text


@pytest.mark.parametrize("library", [*LIBRARIES])
def test_each_library_is_looked_through(library) -> None:
    """An empty list would prove nothing; what is left out is there, so that the list of it is not older than it."""
    found = {kind.__name__ for kind in classes(library)}
    assert len(found) >= 2 or library in {"lightkube", "xmlrpc"}
    assert found and not found & NEVER_HERE.get(library, set())


def test_a_lost_request_is_never_taken_for_one_that_was_not_sent(rows) -> None:
    """Of what happens to a request on its way, no change says for certain that nothing was done."""
    lost = ("ReadTimeout", "ReadError", "RemoteProtocolError", "ConnectionResetError", "BrokenPipeError", "EOFError")
    ends = {end for name, where, end in rows if name.endswith(lost) and where.endswith("(change)")}
    assert ends == {"MayHaveActed"}


if __name__ == "__main__":
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    found = table()
    GOLDEN.write_text(written(found))
    before, _, rest = DOC.read_text().partition(MARKS[0])
    DOC.write_text(f"{before}{MARKS[0]}\n{summary(found)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
