"""supervisord, over XML-RPC on its socket or its HTTP server.

Source: http://supervisord.org/api.html, http://supervisord.org/subprocess.html#process-states
"""

import asyncio
import base64
import xmlrpc.client
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.parsers import expat

import httpx2
from pydantic import BaseModel, Field, SecretStr, ValidationError

from rbkit.adapters.told import told
from rbkit.capability import State, read
from rbkit.costs import bounded, spend
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.kinds import Service, ServiceManager

__all__ = ["Supervisord", "chosen"]

TIMEOUT_S = 10.0
_CONNECT_S = 3.0
_NAME = "supervisord"
_NEVER_SENT = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol, httpx2.InvalidURL,
)  # fmt: skip
_NO_XMLRPC = (
    expat.ExpatError, xmlrpc.client.ResponseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
)  # fmt: skip
_STATES = {0: "stopped", 10: "starting", 20: "running", 30: "starting", 40: "stopping", 200: "crashed"}
_EXITED = 100
_BAD_NAME, _ALREADY_STARTED, _NOT_RUNNING = 10, 60, 70
_NOT_DONE = frozenset({1, 2, 3, 4, 6, 20, 21})
"""Faults that say that nothing was done: unknown method or arguments, shutting down, no such file, not executable."""


class _Process(BaseModel):
    """A process as supervisord describes it."""

    group: str
    name: str
    state: int
    pid: int = Field(ge=0)
    start: int = Field(ge=0, le=4_000_000_000)
    exitstatus: int

    @property
    def word(self) -> str:
        """Its state in rbkit's words; one that ended by itself with 0 is stopped."""
        if self.state == _EXITED:
            return "crashed" if self.exitstatus else "stopped"
        return _STATES.get(self.state, "crashed")


class Supervisord(ServiceManager):
    """supervisord. A service is a group, an instance a process; `group:name` where several groups have one so called.

    The state `stopping` is a process that was told to stop and has not ended. A restart first asks for a start: that
    finds out whether the program is there before the old process is stopped, and it is all there is to do when a
    restart was broken off half-way. supervisord does not count restarts (-1) and remembers neither keys nor fencing
    tokens: a process that lost its lease and sleeps between its last look at the lease and the call is not shut out.

    Args:
        url: `unix:///run/supervisor.sock`, or `http://host:9001`.
        user: The user of its HTTP server, if it has one.
        password: The password.
        versions: Of each service, what names its version: a link to the release's folder, or a file with the version.
        timeout_s: How long a process may take to stop, seconds.

    Raises:
        SettingsError: The address cannot be meant so.
    """

    def __init__(
        self, url: str, user: str = "", password: SecretStr | None = None, versions: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:  # fmt: skip
        self._rpc = _Rpc(url, user, password)
        self._versions = {service: Path(path) for service, path in (versions or {}).items()}
        self._timeout_s = timeout_s

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the processes of a group, in supervisord's order."""
        return [found for _, found in await self._all() if found.service == service]

    async def state(self, target: str) -> State:
        """Read a process's state."""
        _, found = await self._find(target)
        return dict(found.model_dump(mode="json"))

    async def ping(self) -> str:
        """Ask for the version and the state; whoever gets in may do everything.

        Raises:
            Unreachable: supervisord was not reached.
            Refused: It does not know who asks.
            BadAnswer: It answers oddly, or is about to end.
        """
        try:
            version, state = [
                await self._rpc.call(method, lost=Unreachable, timeout_s=TIMEOUT_S)
                for method in ("getSupervisorVersion", "getState")
            ]
        except xmlrpc.client.Fault as fault:
            raise BadAnswer(f"supervisord does not tell its state: {fault.faultString}") from fault
        name = state.get("statename") if isinstance(state, dict) else None
        if name != "RUNNING":
            raise BadAnswer(f"supervisord is in the state {told(name)}.", todo="Look whether it ends or starts again.")
        return f"supervisord {told(version)}, {self._rpc.who}; reads and writes, {len(await self._all())} process(es)"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Restart, stop or start a process."""
        process, _ = await self._find(call.target)
        if call.action == "restart":
            await self._restart(process)
        else:
            await (self._start(process) if call.action == "start" else self._stop(process))

    async def renew(self, target: str) -> None:
        """Restart a process and wait until it runs.

        Raises:
            NotFound: There is no such process.
            Refused: It was not touched.
            AdapterError: It may not run.
        """
        process, _ = await self._find(target)
        await self._restart(process, wait=True)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._rpc.aclose()

    async def _all(self) -> list[tuple[str, Service]]:
        try:
            answer = await self._rpc.call("getAllProcessInfo", lost=Unreachable, timeout_s=TIMEOUT_S)
            found = [_Process.model_validate(one) for one in (answer if isinstance(answer, list) else [None])]
        except xmlrpc.client.Fault as fault:
            raise BadAnswer(f"supervisord does not list its processes: {fault.faultString}") from fault
        except ValidationError as error:
            raise BadAnswer("supervisord described a process in an unknown form.") from error
        count = Counter(one.name for one in found)
        return [(f"{one.group}:{one.name}", self._service(one, count[one.name] > 1)) for one in found]

    def _service(self, one: _Process, ambiguous: bool) -> Service:
        return Service(
            name=f"{one.group}:{one.name}" if ambiguous else one.name, service=one.group, state=one.word,
            pid=one.pid or None, started_at=datetime.fromtimestamp(one.start, UTC) if one.pid else None,
            version=self._version(one), restarts=-1,
        )  # fmt: skip

    def _version(self, one: _Process) -> str:
        """Tell which version a process runs; nothing when it was started before that version was chosen."""
        if one.group not in self._versions:
            return ""
        version, since = chosen(self._versions[one.group])
        return version if one.pid and one.start > since else ""

    async def _find(self, target: str) -> tuple[str, Service]:
        for name, found in await self._all():
            if found.name == target:
                return name, found
        raise NotFound(f"supervisord has no process {target!r}.", todo="Check the name of the target.")

    async def _restart(self, process: str, wait: bool = False) -> None:
        if await self._start(process, wait):
            return
        await self._stop(process)
        try:
            await self._start(process, wait)
        except (Refused, Unreachable, NotFound) as error:
            raise MayHaveActed(f"{process} was stopped and not started: {error.what}") from error

    async def _start(self, process: str, wait: bool = False) -> bool:
        """Start a process, and tell whether that was needed."""
        return await self._done("startProcess", process, wait, _ALREADY_STARTED)

    async def _stop(self, process: str) -> bool:
        return await self._done("stopProcess", process, True, _NOT_RUNNING)

    async def _done(self, method: str, process: str, wait: bool, already: int) -> bool:
        try:
            await self._rpc.call(method, process, wait, lost=MayHaveActed, timeout_s=self._timeout_s)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != already:
                raise _refusal(f"{method}({process})", fault) from fault
            return False
        return True


def chosen(path: Path) -> tuple[str, float]:
    """Read which version is chosen, and since when.

    Args:
        path: A link to the folder of a release, or a file with the version.

    Returns:
        The version; when that was written, seconds since 1970.

    Raises:
        Unreachable: It cannot be read.
    """
    try:
        since = path.lstat().st_ctime
        if path.is_symlink():
            return path.readlink().name, since
        with path.open(encoding="utf-8") as file:
            return file.read(1_000).strip(), since
    except (OSError, UnicodeDecodeError) as error:
        raise Unreachable(f"The version in {path} cannot be read: {error}.") from error


def _refusal(what: str, fault: xmlrpc.client.Fault) -> Exception:
    said = f"supervisord refused {what}: {fault.faultString}"
    if fault.faultCode == _BAD_NAME:
        return NotFound(said, todo="Check the name of the target.")
    return Refused(said) if fault.faultCode in _NOT_DONE else MayHaveActed(f"{said}; it may have been tried.")


class _Rpc:
    """An XML-RPC client with a deadline, a size cap, and neither entities nor redirects nor proxies."""

    def __init__(self, url: str, user: str, password: SecretStr | None) -> None:
        self._url, self._socket = url, ""
        if url.startswith("unix://"):
            self._socket = url.removeprefix("unix://")
        elif not url.startswith(("http://", "https://")):
            raise SettingsError(f"`url` of supervisord is {url!r}; it is `unix:///path`, or `http://host:port`.")
        pair = f"{user}:{password.get_secret_value() if password else ''}".encode()
        self._headers = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"} if user or password else {}
        self._client: httpx2.AsyncClient | None = None
        self.who = f"as {user}" if user else "without a login"

    async def call(self, method: str, *arguments: Any, lost: type[AdapterError], timeout_s: float) -> Any:
        """Call a method of supervisord.

        Raises:
            xmlrpc.client.Fault: supervisord said no.
            Unreachable: It was not reached.
            Refused: It does not know who asks.
            BadAnswer: The answer cannot be used; `lost` instead where something may have been done.
        """
        body = xmlrpc.client.dumps(arguments, f"supervisor.{method}", encoding="utf-8").encode()
        try:
            async with asyncio.timeout(timeout_s):
                status, answer = await self._post(body)
                if status == 200:
                    return _loaded(answer)
        except _NEVER_SENT as error:
            raise Unreachable(f"supervisord at {self._url} was not reached: {_words(error)}.") from error
        except BadAnswer as error:
            if lost is Unreachable:
                raise
            raise lost(f"{method} was taken: {error.what}") from error
        except (httpx2.HTTPError, TimeoutError) as error:
            raise lost(f"supervisord at {self._url} took {method} and did not answer: {_words(error)}.") from error
        if 400 <= status < 500:
            raise Refused(f"supervisord answered {status} to {method}.", todo="Check its user and password.")
        raise (BadAnswer if lost is Unreachable else lost)(f"supervisord answered {status} to {method}.", fault=True)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(
                    uds=self._socket or None, limits=httpx2.Limits(max_keepalive_connections=0)
                ),
                timeout=httpx2.Timeout(None, connect=_CONNECT_S), trust_env=False,
            )  # fmt: skip
        address = "http://localhost" if self._socket else self._url.rstrip("/")
        headers = {**self._headers, "Content-Type": "text/xml", "Accept-Encoding": "identity"}
        async with self._client.stream("POST", f"{address}/RPC2", content=body, headers=headers) as response:
            with bounded():
                return response.status_code, await _body(response)


async def _body(response: httpx2.Response) -> bytes:
    parts = []
    async for part in response.aiter_raw(65_536):
        spend(len(part), _NAME)
        parts.append(part)
    return b"".join(parts)


def _loaded(body: bytes) -> Any:
    """Read an answer; one that declares a document type, and with it perhaps entities, is refused."""
    built = xmlrpc.client.Unmarshaller(use_builtin_types=True)
    built.xml("", None)  # texts come decoded
    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler = built.start, built.end
    parser.CharacterDataHandler = built.data
    try:
        parser.Parse(body, True)
        return built.close()[0]
    except xmlrpc.client.Fault as fault:
        if isinstance(fault.faultCode, int):
            raise
        raise BadAnswer("supervisord answered with a fault that has no number.") from fault
    except _NO_XMLRPC as error:
        raise BadAnswer(f"supervisord answered with something that is not XML-RPC: {error}.", fault=True) from error


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it declares a document type")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
