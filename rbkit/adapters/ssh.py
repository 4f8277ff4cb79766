"""Runs programs on this machine, or on another one by SSH: an argument stays one argument, whatever is in it.

A program that leaves something running must let go of its output, or it counts as not ended (over SSH).

Source: https://asyncssh.readthedocs.io/en/latest/api.html and RFC 4254, section 6
"""

import asyncio
import os
import shlex
import signal
import stat
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rbkit.adapters.told import told
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.values import human, seconds

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection, SSHClientProcess, SSHReader

__all__ = ["Local", "Ran", "Runner", "Ssh", "able", "certainly", "read", "runner"]

LARGEST = 1_000_000
"""The most that a program may print on one of its outputs, bytes."""
_LONGEST = 100_000
_GRACE_S = 1.0
"""How long an end is waited for: of outputs that a program left open, of a program that was told to end; seconds."""
_LOOK_S = 5.0
_ID, _TEST = "/usr/bin/id", "/usr/bin/test"
_VARIABLES = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_OTHER_KEY = "Compare its key with the one that its administrator names, then write it into the known hosts file."
_NO_ENTRY = "Check the user and that the server knows the key."


class Ran(NamedTuple):
    """What became of a program: its exit code (negative: the signal that ended it) and what it printed."""

    code: int
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """What it printed to say why, shortened."""
        return (self.err.strip() or self.out.strip())[-300:].decode(errors="replace") or "it said nothing"


class Runner(Protocol):
    """Runs programs somewhere."""

    async def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Run a program to its end.

        Args:
            argv: The program's absolute path and its arguments; each arrives exactly as it is.
            timeout_s: How long it may take, seconds; then it is killed.

        Returns:
            Its exit code and outputs.

        Raises:
            Refused: It certainly did not start: an argument cannot be passed, or the machine said no.
            Unreachable: It certainly did not start: the machine or the program is not there.
            MayHaveActed: It started, and how it ended is not known.
        """

    async def aclose(self) -> None:
        """Give back what was opened."""


async def read(machine: Runner, argv: Sequence[str], timeout_s: float) -> Ran:
    """Run a program that only reads: nothing is in doubt when it does not answer.

    Raises:
        BadAnswer: It gave no usable answer in time.
        Refused: It certainly did not start: the machine said no.
        Unreachable: It certainly did not start.
    """
    try:
        return await machine.run(argv, timeout_s)
    except MayHaveActed as error:
        raise BadAnswer(error.what) from error


async def able(machine: Runner, programs: Iterable[str]) -> str:
    """Look whether programs are there and may be run by us.

    Args:
        machine: Where.
        programs: Their absolute paths.

    Returns:
        As whom we are there.

    Raises:
        Refused: One is missing or may not be run, or the machine said no.
        BadAnswer: It gave no usable answer in time.
        Unreachable: The machine was not reached.
    """
    who = told((await read(machine, [_ID, "-un"], _LOOK_S)).out)
    for program in dict.fromkeys(programs):
        if (await read(machine, [_TEST, "-x", program], _LOOK_S)).code:
            raise Refused(f"{program} is not there, or {who} may not run it.", todo="Check the path and its mode.")
    return who


def certainly(ran: Ran, name: str, refused: Sequence[int] = (), missing: Sequence[int] = ()) -> None:
    """Accept a change that ended well; a program that failed may have acted, unless its exit code says otherwise.

    Args:
        ran: What became of it.
        name: What it is called in errors.
        refused: Exit codes that say: nothing was done.
        missing: Exit codes that say: there is no such target.

    Raises:
        Refused: The exit code says so.
        NotFound: The exit code says so.
        MayHaveActed: It ended with any other code than 0.
    """
    what = f"{name} ended with code {ran.code}: {ran.said}"
    if ran.code in missing:
        raise NotFound(what, todo="Check the name of the target.")
    if ran.code:
        raise (Refused if ran.code in refused else MayHaveActed)(what)


class SshSettings(BaseModel):
    """The machine behind SSH, as the environment file describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    host: str = Field(pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:-]*$")
    user: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*$")
    key_file: Path
    known_hosts: Path
    port: int = Field(default=22, ge=1, le=65535)
    connect_timeout: str | float = "5s"
    limiter: str = Field(default="/usr/bin/timeout", pattern=r"^(/.+)?$")


def runner(ssh: Mapping[str, Any] | None) -> Runner:
    """Choose where programs run.

    Args:
        ssh: `host`, `user`, `key_file`, `known_hosts`, and perhaps `port`, `connect_timeout`, `limiter` (the path of
            GNU timeout there, which ends a program when the connection is lost; empty: there is none); None: this
            machine.

    Raises:
        SettingsError: An option is missing, unknown or wrong, or a file is missing or open to others.
    """
    if ssh is None:
        return Local()
    try:
        settings = SshSettings.model_validate(ssh)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"The option ssh.{place} is wrong: {first['msg']}.") from error
    return Ssh(settings)


def _checked(argv: Sequence[str]) -> list[str]:
    words = list(argv)
    if not words or not words[0].startswith("/"):
        raise Refused(f"A program is named by its absolute path, not {words[:1]}.")
    try:
        size = sum(len(word.encode()) + 1 for word in words)
    except UnicodeEncodeError as error:
        raise Refused(f"An argument for {words[0]} holds a broken character.") from error
    if size > _LONGEST or any("\0" in word for word in words):
        raise Refused(f"An argument for {words[0]} is too long or holds a zero byte.")
    return words


class _Watch(asyncio.SubprocessProtocol):
    """Collects what a local program prints; `ended` comes when it has ended, or has printed too much."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.said = {1: bytearray(), 2: bytearray()}
        self.exited: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.flooded = False
        self._loop = loop

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what was printed, up to the cap."""
        self.flooded = self.flooded or len(self.said[fd]) + len(data) > LARGEST
        if self.flooded:
            self._end()
        else:
            self.said[fd] += data

    def process_exited(self) -> None:
        """Wait a little for the rest of the output: what the program left running may hold it open."""
        self.exited.set_result(None)
        self._loop.call_later(_GRACE_S, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        """Everything has ended and was read."""
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Local:
    """Runs programs on this machine: no shell, no input, few variables, a process group of their own."""

    async def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Run a program to its end; what it started is killed with it when it takes too long."""
        words = _checked(argv)
        loop = asyncio.get_running_loop()
        watch = _Watch(loop)
        try:
            transport, _ = await loop.subprocess_exec(
                lambda: watch, *words, stdin=asyncio.subprocess.DEVNULL, env=_VARIABLES, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise Unreachable(f"{words[0]} cannot be started: {error.strerror}.", todo="Check the path.") from error
        try:
            await _in_time(watch.ended, words[0], timeout_s)
        finally:
            await _over(transport, watch)
        if watch.flooded:
            raise MayHaveActed(f"{words[0]} printed more than {LARGEST} bytes and was killed.")
        return Ran(transport.get_returncode() or 0, bytes(watch.said[1]), bytes(watch.said[2]))

    async def aclose(self) -> None:
        """Nothing to give back."""


async def _in_time(ended: "asyncio.Future[None]", name: str, timeout_s: float) -> None:
    done, _ = await asyncio.wait({ended}, timeout=timeout_s)
    if not done:
        raise MayHaveActed(f"{name} did not end within {human(timeout_s)} and was killed.")


async def _over(transport: asyncio.SubprocessTransport, watch: _Watch) -> None:
    """Leave nothing of a program behind that did not end by itself, and close its outputs."""
    if not watch.exited.done():
        with suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        await asyncio.wait({watch.exited}, timeout=_GRACE_S)
    transport.close()


class Ssh:
    """Runs programs on another machine by SSH: only its known key is trusted; no agent, no configuration of the user.

    SSH carries a command line, not a list: it is quoted for a POSIX shell, which must be the user's shell there. A
    server to which root logs in passes no signals on: there the limiter ends what takes too long, a little later.

    Args:
        settings: The machine, the user, the key's file and the known hosts file.

    Raises:
        SettingsError: A file is missing or open to others, or asyncssh is not installed.
    """

    def __init__(self, settings: SshSettings) -> None:
        try:
            import asyncssh  # noqa: F401
        except ImportError as error:
            raise SettingsError("SSH needs asyncssh.", todo="Install rbkit[ssh].") from error
        _check_file(settings.known_hosts, stat.S_IWGRP | stat.S_IWOTH)
        _check_file(settings.key_file, stat.S_IRWXG | stat.S_IRWXO)
        self._settings = settings
        self._connect_s = seconds(settings.connect_timeout)
        self._connection: SSHClientConnection | None = None
        self._turn = asyncio.Lock()

    async def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Run a program to its end; when it takes too long its process group is killed there."""
        words = _checked(argv)
        where = f"{words[0]} on {self._settings.host}"
        if self._settings.limiter:
            words = [self._settings.limiter, "--signal=KILL", f"{timeout_s + _GRACE_S:.3f}", *words]
        connection = await self._connected()
        try:
            async with asyncio.timeout(timeout_s), self._started(connection, words, where) as process:
                out, err, _ = await asyncio.gather(
                    _capped(process.stdout, where), _capped(process.stderr, where), process.wait_closed()
                )
        except TimeoutError as error:
            raise MayHaveActed(f"{where} did not end within {human(timeout_s)} and was told to end.") from error
        except _lost() as error:
            raise MayHaveActed(f"The connection was lost while {where} ran: {error}.") from error
        if process.returncode is None:
            raise MayHaveActed(f"The connection was lost before {where} said how it ended.")
        return Ran(process.returncode, out, err)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()

    async def _connected(self) -> "SSHClientConnection":
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                await self.aclose()
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> "SSHClientConnection":
        import asyncssh

        known, where = self._settings, f"{self._settings.user}@{self._settings.host}:{self._settings.port}"
        try:
            async with asyncio.timeout(self._connect_s):
                return await asyncssh.connect(
                    known.host, known.port, username=known.user, client_keys=[str(known.key_file)],
                    known_hosts=str(known.known_hosts), config=None, agent_path=None, x509_trusted_certs=None,
                    preferred_auth="publickey", gss_host=None, keepalive_interval=5, keepalive_count_max=3,
                )  # fmt: skip
        except asyncssh.HostKeyNotVerifiable as error:
            raise Refused(f"{where} does not show the key that is known of it: {error}.", todo=_OTHER_KEY) from error
        except asyncssh.PermissionDenied as error:
            raise Refused(f"{where} lets nobody in with this key: {error}.", todo=_NO_ENTRY) from error
        except (asyncssh.Error, OSError, ValueError) as error:
            raise Unreachable(f"{where} cannot be reached: {str(error) or type(error).__name__}.") from error

    @asynccontextmanager
    async def _started(
        self, connection: "SSHClientConnection", words: list[str], where: str
    ) -> "AsyncIterator[SSHClientProcess[bytes]]":
        import asyncssh

        try:
            process: SSHClientProcess[bytes] = await connection.create_process(
                shlex.join(words), stdin=asyncssh.DEVNULL, encoding=None
            )
        except asyncssh.ChannelOpenError as error:
            raise _not_open(error, where, lost=connection.is_closed()) from error
        try:
            yield process
        finally:
            if process.returncode is None:
                with suppress(OSError):  # it is closed already
                    process.kill()
            process.close()


def _not_open(error: Any, where: str, *, lost: bool) -> Exception:
    """Tell a channel that was not opened from a command that was refused, and both from one that got lost."""
    from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

    if error.code != OPEN_REQUEST_SESSION_FAILED:
        return Unreachable(f"{where} was not started: {error}.")
    if lost:
        return MayHaveActed(f"The connection was lost while {where} was started.")
    return Refused(f"{where} may not be started: {error}.")


def _lost() -> tuple[type[Exception], ...]:
    import asyncssh

    return asyncssh.Error, OSError


async def _capped(reader: "SSHReader[bytes]", where: str) -> bytes:
    found = bytearray()
    while part := await reader.read(65_536):
        found += part
        if len(found) > LARGEST:
            raise MayHaveActed(f"{where} printed more than {LARGEST} bytes and was told to end.")
    return bytes(found)


def _check_file(path: Path, forbidden: int) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(f"The file {path} cannot be read: {error.strerror}.") from error
    if mode & forbidden:
        raise SettingsError(f"The file {path} is open to others.", todo=f"chmod go-rwx {path}")
