"""HAProxy, over the runtime API of its stats socket.

Source: https://docs.haproxy.org/2.6/management.html#9.3 (Unix Socket commands)
"""

import asyncio
import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rbkit.adapters.told import told
from rbkit.capability import State, read
from rbkit.costs import bounded, spend
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.kinds import LoadBalancer, Member

__all__ = ["HAProxy"]

TIMEOUT_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_INFO = re.compile(r"(?s)(?:.*\n)?Version: (?P<version>[^\n]*)\n.*\n(?P<level>admin|operator|user)\n+")
_MAINT, _INHERITED_DRAIN, _DRAIN = 0x67, 0x10, 0x18
"""Bits of `srv_admin_state`: 1 forced, 2 inherited, 4 configured, 0x20 unresolved and 0x40 hostless maintenance;
8 forced and 0x10 inherited drain."""
_SERVERS = ("be_name", "srv_name", "srv_op_state", "srv_admin_state", "srv_uweight")
_STATS = ("pxname", "svname", "scur", "qcur", "stot")


@dataclass(frozen=True, slots=True)
class _Server:
    """A server as HAProxy describes it: where it stands, whether it runs, who took it out, what it has to do."""

    backend: str
    name: str
    runs: bool
    admin: int
    weight: int
    active: int
    requests: int

    @property
    def state(self) -> str:
        if self.admin & _MAINT:
            return "maint"
        return "drain" if self.admin & _DRAIN or not self.weight else "ready"


class HAProxy(LoadBalancer):
    """HAProxy. A member is a server; its name is `backend/server` when several backends have one that is called so.

    A member without weight gets no new requests, so it counts as drained. One in maintenance was taken out by
    somebody and is left alone. HAProxy remembers neither keys nor fencing tokens: a process that lost its lease and
    sleeps between its last look at the lease and the command is not shut out.

    Args:
        socket: The stats socket, of level admin: a path, or `host:port`.
        backends: The backend of each service; without it a service is called as its backend.

    Raises:
        SettingsError: The socket or a backend cannot be meant so.
    """

    def __init__(self, socket: str, backends: Mapping[str, str] | None = None) -> None:
        self._socket = socket
        self._services = {backend: service for service, backend in (backends or {}).items()}
        if len(self._services) != len(backends or {}) or not all(map(_NAME.fullmatch, self._services)):
            raise SettingsError("`backends` of haproxy needs another, well-formed backend for each service.")
        if "/" not in socket and not socket.rpartition(":")[2].isdecimal():
            raise SettingsError(f"`socket` of haproxy is {socket!r}; it is a path, or `host:port`.")

    @read
    async def members(self, service: str) -> list[Member]:
        """List the members of a service, in the order of the configuration."""
        return [member for _, member in await self._all() if member.service == service]

    async def state(self, target: str) -> State:
        """Read a member's state; `maint` when somebody has taken it out."""
        _, member = _found(target, await self._all())
        return dict(member.model_dump(mode="json"))

    async def ping(self) -> str:
        """Ask for the version and the level of the socket, and list the servers.

        Raises:
            Unreachable: HAProxy was not reached.
            BadAnswer: It answers oddly.
        """
        info = _INFO.fullmatch(await self._ask("show info; show cli level", Unreachable))
        if not info:
            raise BadAnswer("HAProxy did not say which version and of which level its socket is.")
        may = "reads and writes" if info["level"] == "admin" else "reads; changes need a socket of level admin"
        return f"HAProxy {told(info['version'])}, level {info['level']}; {may}, {len(await self._all())} server(s)"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Set a member to drain or ready; the last one that is ready is not drained."""
        members = await self._all()
        server, member = _found(call.target, members)
        if why := _against(call, server, [other for _, other in members if other.service == member.service]):
            raise Refused(why)
        said = await self._ask(f"set server {server.backend}/{server.name} state {call.action}", MayHaveActed)
        if "\N{REPLACEMENT CHARACTER}" in said or not said.replace("\n", "").isprintable():
            raise MayHaveActed(f"Something that is no HAProxy answered: {said[:100]!r}.")
        if said.strip():
            raise Refused(f"HAProxy refused to {call.action} {call.target}: {said.strip()[:200]}")

    def _service(self, backend: str) -> str:
        return self._services.get(backend, "" if self._services else backend)

    async def _all(self) -> list[tuple[_Server, Member]]:
        """Read all servers of the configured backends; both tables come from one command."""
        text = await self._ask("show servers state; show stat -1 4 -1", Unreachable)
        try:
            servers = [server for server in _parsed(text) if self._service(server.backend)]
        except (ValueError, KeyError, csv.Error) as error:
            raise BadAnswer(f"HAProxy described its servers in an unknown form: {text[:100]!r}.") from error
        count = Counter(server.name for server in servers)
        return [(one, _member(one, self._service(one.backend), count[one.name] > 1)) for one in servers]

    async def _ask(self, command: str, lost: type[AdapterError]) -> str:
        """Send one line and read the answer up to its end."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await self._connect()
        except (OSError, TimeoutError, ValueError) as error:
            raise Unreachable(f"HAProxy at {self._socket} was not reached: {_words(error)}.") from error
        try:
            async with asyncio.timeout(TIMEOUT_S):
                writer.write(f"{command}\n".encode())
                await writer.drain()
                return _whole(await _rest(reader))
        except BadAnswer as error:
            if lost is Unreachable:
                raise
            raise lost(f"HAProxy took `{command}`: {error.what}") from error
        except (OSError, TimeoutError, EOFError) as error:
            raise lost(f"HAProxy at {self._socket} took `{command}` and did not answer: {_words(error)}.") from error
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "/" in self._socket:
            return await asyncio.open_unix_connection(self._socket)
        host, _, port = self._socket.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))


def _against(call: Call, server: _Server, members: Iterable[Member]) -> str:
    """Say what speaks against a change; empty when nothing does."""
    ready = [member.name for member in members if member.state == "ready" and member.healthy]
    if server.state == "maint":
        return f"{call.target} is in maintenance: somebody has taken it out."
    if call.action == "drain":
        return f"Draining {call.target} would leave no member." if ready == [call.target] else ""
    if server.admin & _INHERITED_DRAIN:
        return f"{call.target} follows another server, which is drained."
    return "" if server.weight else f"{call.target} has the weight 0, which `ready` does not change."


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Read until HAProxy closes the connection, which it does after each answer."""
    parts = []
    with bounded():
        while part := await reader.read(65_536):
            spend(len(part), "HAProxy")
            parts.append(part)
    return b"".join(parts)


def _whole(data: bytes) -> str:
    """Refuse an answer that was cut: a whole one ends with an empty line."""
    if not data.endswith(b"\n\n") and data != b"\n":
        raise EOFError("the answer was cut")
    return data.decode(errors="replace")


def _parsed(text: str) -> list[_Server]:
    """Bring the two tables together, in the order of the first."""
    version, _, rest = text.partition("\n")
    states, _, stats = rest.partition("\n\n")
    if version != "1":
        raise ValueError(f"unknown version {version[:20]!r} of the servers' states")
    counts = {(row["pxname"], row["svname"]): row for row in _rows(stats.splitlines(), ",", _STATS)}
    return [_server(row, counts[row["be_name"], row["srv_name"]]) for row in _rows(states.splitlines(), " ", _SERVERS)]


def _rows(lines: list[str], comma: str, needed: Iterable[str]) -> list[dict[str, str]]:
    """Read a table whose first line begins with `# ` and names its columns."""
    lines = [line for line in lines if line]
    if not lines or not lines[0].startswith("# "):
        raise ValueError("the columns are not named")
    rows = list(csv.DictReader([lines[0][2:], *lines[1:]], delimiter=comma))
    return [{name: _text(row[name]) for name in needed} for row in rows]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a column is missing")
    return value


def _server(state: Mapping[str, str], counts: Mapping[str, str]) -> _Server:
    """Read one server; its names go into commands, so they are what HAProxy allows in a name and nothing else."""
    if not _NAME.fullmatch(state["be_name"]) or not _NAME.fullmatch(state["srv_name"]):
        raise ValueError("a name holds a character that HAProxy does not allow")
    return _Server(
        backend=state["be_name"], name=state["srv_name"], runs=state["srv_op_state"] in {"1", "2"},
        admin=int(state["srv_admin_state"]), weight=int(state["srv_uweight"]),
        active=int(counts["scur"]) + int(counts["qcur"]), requests=int(counts["stot"]),
    )  # fmt: skip


def _member(one: _Server, service: str, ambiguous: bool) -> Member:
    """Describe a server; its name is enough where no other backend has one that is called so."""
    name = f"{one.backend}/{one.name}" if ambiguous else one.name
    return Member(
        name=name, service=service, state=one.state, healthy=one.runs, active=one.active, requests=one.requests
    )


def _found(target: str, members: list[tuple[_Server, Member]]) -> tuple[_Server, Member]:
    for server, member in members:
        if member.name == target:
            return server, member
    raise NotFound(f"HAProxy has no member {target!r}.", todo="Check the name of the target.")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
