"""nginx as a balancer: members are marked `down` in a file of upstreams, and nginx loads it anew.

The file is included inside `http { }`. Beside the upstreams it has one line that rbkit keeps, a note of what the file
says. A location shows the note of the file that nginx runs, which is not always the one on the disk::

    map $pid $rbkit { default "3f9a62c1d0b84e75/010"; }
    upstream checkout {
        server 10.0.0.1:8080; # checkout-1
        server 10.0.0.2:8080 down; # checkout-2
        server 10.0.0.3:8080; # checkout-3
    }

    location = /rbkit { default_type application/json; keepalive_timeout 0; return 200 '{"rbkit": "$rbkit"}'; }

Source: https://nginx.org/en/docs/control.html (Changing Configuration)
"""

import asyncio
import fcntl
import hashlib
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rbkit.adapters.http import Http
from rbkit.adapters.told import user
from rbkit.capability import State, read
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.facts import Call
from rbkit.files import write_atomically
from rbkit.kinds import LoadBalancer, Member

__all__ = ["Nginx"]

LARGEST = 1_000_000
TEST_S, RELOAD_S, LOCK_S, CONNECT_S = 10.0, 10.0, 10.0, 1.0
_POLL_S = 0.05
_WORD = r"[^\s;#{}\"'\\$]+"
_NAME = r"[A-Za-z0-9_.:/\[\]-]{1,200}"
_NOTE = re.compile(r'map \$pid \$rbkit \{ default "([^"]*)"; \}')
_OPENS = re.compile(rf"upstream\s+({_NAME})\s*\{{\s*(?:#.*)?")
_SERVER = re.compile(rf"server\s+({_WORD})((?:\s+{_WORD})*)\s*;\s*(?:#\s*({_NAME})?)?\s*")
_HARMLESS = re.compile(r"(?:(?!server\b|include\b|upstream\b|map\b)[a-z_]+\b[^{}#;]*;)?\s*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class _Server:
    """A server of an upstream: where its line is, and what stands there."""

    line: int
    service: str
    name: str
    address: str
    more: tuple[str, ...]
    down: bool

    def written(self, old: str, down: bool) -> str:
        """Write its line with or without `down`; the indent and the comment stay."""
        if down == self.down:
            return old
        words = [word for word in self.more if word != "down"] + ["down"] * down
        indent, comment = old[: len(old) - len(old.lstrip())], old.partition("#")[2]
        return f"{indent}{' '.join(['server', self.address, *words])};{' #' + comment if comment else ''}"


@dataclass(frozen=True, slots=True)
class _Upstreams:
    """What the file says: its lines, the note's line, and the servers."""

    lines: tuple[str, ...]
    note: int
    servers: tuple[_Server, ...]

    def written(self, down: Sequence[bool]) -> bytes:
        """Write the file with these servers down."""
        lines = list(self.lines)
        for server, marked in zip(self.servers, down, strict=True):
            lines[server.line] = server.written(lines[server.line], marked)
        lines[self.note] = _note_line(self.digest, down)
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    @property
    def digest(self) -> str:
        """The digest of everything about the servers but whether they are down."""
        facts = [(one.service, one.name, one.address, [w for w in one.more if w != "down"]) for one in self.servers]
        return hashlib.sha256(ascii(facts).encode()).hexdigest()[:16]


class Nginx(LoadBalancer):
    """nginx on this machine. A member's name is the comment of its line, its address where there is none.

    The state is that of the file which nginx runs, not of the one on the disk. Open-source nginx does not count the
    requests of a member: `active` is -1 (not known) for one that is ready; for one that is drained it is the number
    of old worker processes, as only they may still have requests of it under way. `requests` is -1, not known.
    `healthy` is whether the member takes a connection. Somebody else's change of the file is never overwritten. nginx
    remembers neither keys nor fencing tokens: a process that lost its lease and sleeps between its last look at the
    lease and the change is not shut out.

    Args:
        url: Where nginx has the location `/rbkit`, for example `http://127.0.0.1:8081`.
        file: The file of upstreams.
        pid: The file with the process id of nginx.
        config: The configuration that is tested before it is loaded; the program's own when empty.
        program: The program that tests it.
    """

    def __init__(self, url: str, file: str, pid: str, config: str = "", program: str = "nginx") -> None:
        self._http = Http(url, "nginx")
        self._file, self._pid = Path(file), Path(pid)
        self._test = [program, "-t", "-q", *(["-c", config] if config else [])]

    @read
    async def members(self, service: str) -> list[Member]:
        """List the servers of an upstream, in the order of the file."""
        file = _parsed(self._read())
        down, old = await self._running(file), len(self._workers().leaving)
        found = [(one, down[at]) for at, one in enumerate(file.servers) if one.service == service]
        return list(await asyncio.gather(*(_member(one, marked, old) for one, marked in found)))

    async def state(self, target: str) -> State:
        """Read a member's state."""
        file = _parsed(self._read())
        at, down = _place(file, target), await self._running(file)
        member = await _member(file.servers[at], down[at], len(self._workers().leaving))
        return dict(member.model_dump(mode="json"))

    async def ping(self) -> str:
        """Compare the file with what nginx runs, have the configuration tested, and look whether we may change it.

        Raises:
            Unreachable: nginx does not run, or its file cannot be read.
            BadAnswer: It runs something else than the file says.
            Refused: The configuration does not pass the test.
        """
        file = _parsed(self._read())
        await self._running(file)
        try:
            await self._tested()
        except OSError as error:
            raise Refused(f"{self._test[0]} cannot be run: {error.strerror}.", todo="Check `program`.") from error
        may = "reads and writes" if self._may_load() else "reads; may not write the file, or not signal nginx"
        return f"nginx with {len(file.servers)} server(s) in {self._file}, as {user()}; {may}"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Mark a member as down or not, and let nginx load the file; the last one that is ready is not drained."""
        async with self._locked():
            data = self._read()
            file = _parsed(data)
            running, at = await self._running(file), _place(file, call.target)
            if why := await _against(call, file, running, at):
                raise Refused(why)
            wanted = [*running[:at], call.action == "drain", *running[at + 1 :]]
            if not running == wanted == [server.down for server in file.servers]:
                await self._load(data, file.written(wanted))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _read(self) -> bytes:
        try:
            with self._file.open("rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise Unreachable(f"The upstreams of nginx in {self._file} cannot be read: {error.strerror}.") from error
        if len(data) > LARGEST:
            raise BadAnswer(f"{self._file} has more than {LARGEST // 1_000_000} MB.")
        return data

    async def _running(self, file: _Upstreams) -> list[bool]:
        """Ask nginx which servers are down in the file that it runs."""
        answer = await self._http.read("/rbkit")
        note = answer.get("rbkit") if isinstance(answer, dict) else None
        digest, _, bits = str(note).partition("/")
        if digest != file.digest or len(bits) != len(file.servers) or set(bits) - {"0", "1"}:
            raise BadAnswer(
                "nginx runs other upstreams than the file says.", todo=f"Look at {self._file}; reload nginx."
            )
        return [bit == "1" for bit in bits]

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Keep every other rbkit from changing what is in the folder of the file."""
        try:
            handle = os.open(self._file.parent, os.O_RDONLY)
        except OSError as error:
            raise Unreachable(f"{self._file.parent} cannot be opened: {error.strerror}.") from error
        try:
            await self._lock(handle)
            yield
        finally:
            os.close(handle)

    async def _lock(self, handle: int) -> None:
        deadline = asyncio.get_running_loop().time() + LOCK_S
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if not isinstance(error, BlockingIOError) or asyncio.get_running_loop().time() > deadline:
                    raise Refused(f"{self._file} cannot be locked: {error.strerror}.") from error
            await asyncio.sleep(_POLL_S)

    async def _load(self, old: bytes, new: bytes) -> None:
        """Put a file in the place of the old one, have it tested, and let nginx load it."""
        master, before = self._master(), self._workers().serving
        self._replace(old, new)
        try:
            await self._tested()
            os.kill(master, signal.SIGHUP)
        except BaseException as error:
            with suppress(AdapterError):  # somebody else has changed it since
                self._replace(new, old)
            if isinstance(error, OSError):
                raise Refused(f"nginx cannot be told to load the file: {error.strerror}.") from error
            raise
        try:
            await self._reloaded(before)
        except Unreachable as error:
            raise MayHaveActed(f"nginx was told to load the file and has gone since: {error.what}") from error

    def _replace(self, old: bytes, new: bytes) -> None:
        if self._read() != old:
            raise Refused(f"Somebody else has changed {self._file}.", todo="Look at it and start again.")
        try:
            mode = self._file.stat().st_mode & 0o777
            write_atomically(self._file, new)
            self._file.chmod(mode)
        except OSError as error:
            raise Refused(f"{self._file} cannot be written: {error.strerror}.") from error

    async def _tested(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._test, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(TEST_S):
                _, said = await process.communicate()
        except TimeoutError as error:
            raise Refused(f"nginx did not test the file within {TEST_S:.0f} s.") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise Refused(f"nginx refuses the file: {said.decode(errors='replace').strip()[:300]}")

    async def _reloaded(self, before: frozenset[int]) -> None:
        """Wait until no worker of before takes new requests."""
        deadline = asyncio.get_running_loop().time() + RELOAD_S
        while self._workers().serving & before:
            if asyncio.get_running_loop().time() > deadline:
                raise MayHaveActed("nginx was told to load the file and has not done so; its error log says why.")
            await asyncio.sleep(_POLL_S)

    def _master(self) -> int:
        """Find the process of nginx; a number in an old file may be another process by now."""
        import psutil

        try:
            pid = int(self._pid.read_text(encoding="ascii"))
            if " ".join(psutil.Process(pid).cmdline()).startswith("nginx: master process"):
                return pid
        except (OSError, ValueError, psutil.Error) as error:
            raise Unreachable(f"{self._pid} names no nginx that runs: {error}.") from error
        raise Unreachable(f"{self._pid} names the process {pid}, which is not nginx.")

    def _may_load(self) -> bool:
        """Whether we may put another file in the place of this one, and tell nginx."""
        try:
            os.kill(self._master(), 0)
        except OSError:
            return False
        return os.access(self._file.parent, os.W_OK | os.X_OK, effective_ids=True)

    def _workers(self) -> "_Workers":
        import psutil

        master, titles = self._master(), dict[int, str]()
        with suppress(psutil.Error):  # it has ended, and so have they
            for process in psutil.Process(master).children():
                with suppress(psutil.Error):
                    titles[process.pid] = " ".join(process.cmdline())
        workers = {pid for pid, title in titles.items() if title.startswith("nginx: worker process")}
        leaving = {pid for pid in workers if "is shutting down" in titles[pid]}
        return _Workers(frozenset(workers - leaving), frozenset(leaving))


@dataclass(frozen=True, slots=True)
class _Workers:
    """The worker processes that take new requests, and those that only finish their old ones."""

    serving: frozenset[int]
    leaving: frozenset[int]


async def _against(call: Call, file: _Upstreams, running: list[bool], at: int) -> str:
    """Say what speaks against a change; empty when nothing does."""
    for place, server in enumerate(file.servers):
        if place != at and server.down != running[place]:
            return f"The file holds a change of {server.name} that nginx has not loaded."
    if call.action != "drain" or running[at]:
        return ""
    same = [place for place, one in enumerate(file.servers) if one.service == file.servers[at].service]
    others = [file.servers[place].address for place in same if place != at and not running[place]]
    alive = await asyncio.gather(*(_takes_connections(address) for address in others))
    return "" if any(alive) else f"Draining {call.target} would leave no member."


def _place(file: _Upstreams, target: str) -> int:
    for place, server in enumerate(file.servers):
        if server.name == target:
            return place
    raise NotFound(f"nginx has no member {target!r}.", todo="Check the name of the target.")


def _parsed(data: bytes) -> _Upstreams:
    """Read the file; a line that is not understood is refused, as it might hold a server."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    note, servers, service = -1, list[_Server](), ""
    for at, line in enumerate(lines):
        text = line.strip()
        if not service and note < 0 and _NOTE.fullmatch(text):
            note = at
        elif not service and (opens := _OPENS.fullmatch(text)):
            service = opens[1]
        elif service and (found := _SERVER.fullmatch(text)):
            servers.append(_server(at, service, found))
        elif service and text.partition("#")[0].strip() == "}":
            service = ""
        elif not _HARMLESS.fullmatch(text):
            raise BadAnswer(f"Line {at + 1} of the upstreams of nginx is not understood: {text[:100]!r}.")
    return _checked(_Upstreams(tuple(lines), note, tuple(servers)))


def _server(at: int, service: str, found: "re.Match[str]") -> _Server:
    words = tuple((found[2] or "").split())
    return _Server(at, service, found[3] or found[1], found[1], words, "down" in words)


def _checked(file: _Upstreams) -> _Upstreams:
    """Refuse names that stand twice, and a note that does not fit: somebody has changed the file by hand."""
    names = [server.name for server in file.servers]
    if len(set(names)) < len(names):
        raise BadAnswer("Two servers in the upstreams of nginx have the same name.")
    line = _note_line(file.digest, [server.down for server in file.servers])
    if file.note < 0 or file.lines[file.note].strip() != line:
        raise BadAnswer(
            "The upstreams of nginx were changed by hand: their note does not fit.",
            todo=f"Check the file, let its note be `{line}` and reload nginx.",
        )
    return file


def _note_line(digest: str, down: Sequence[bool]) -> str:
    return f'map $pid $rbkit {{ default "{digest}/{"".join(str(int(one)) for one in down)}"; }}'


async def _member(server: _Server, down: bool, old: int) -> Member:
    return Member(
        name=server.name, service=server.service, state="drain" if down else "ready",
        healthy=await _takes_connections(server.address), active=old if down else -1, requests=-1,
    )  # fmt: skip


async def _takes_connections(address: str) -> bool:
    """Whether somebody takes connections at the address of a server."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await _opened(address)
    except (OSError, TimeoutError, ValueError, OverflowError):
        return False
    writer.transport.abort()
    return True


async def _opened(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the path of a socket, or to a host and perhaps a port."""
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    found = re.fullmatch(r"(.*?):(\d+)", address)
    host, port = (found[1], found[2]) if found else (address, "80")
    return await asyncio.open_connection(host.strip("[]"), int(port))
