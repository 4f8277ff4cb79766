"""The journal of systemd, by its own program on this machine.

Source: https://www.freedesktop.org/software/systemd/man/latest/journalctl.html and
https://systemd.io/JOURNAL_EXPORT_FORMATS/#journal-json-format
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rbkit.adapters.lines import MALFORMED, Row, fields, inside, plain, tidy
from rbkit.adapters.told import told, user
from rbkit.costs import bounded, spend
from rbkit.errors import BadAnswer, ParameterError, Refused, SettingsError, Unreachable
from rbkit.ports import Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Journald"]

T = TypeVar("T")

_FIELD = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
_CHUNK = 65_536
_LONGEST = 5_000_000
_MOST_WORDS = 10_000
_GRACE_S = 2.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


class Journald:
    """Reads the journal with `journalctl` (systemd 246 or later); who runs rbkit must be in `systemd-journal`.

    Fields are those of the journal, such as `_SYSTEMD_UNIT` or `SYSLOG_IDENTIFIER`, and `level` and `message`. Values
    reach the program as arguments of their own; there is no shell.

    Args:
        program: The absolute path of journalctl.
        timeout_s: How long the program may run, seconds; then it is killed.
    """

    language: ClassVar[Language] = "fields"

    def __init__(self, program: str = "/usr/bin/journalctl", timeout_s: float = 10.0) -> None:
        if not Path(program).is_absolute():
            raise SettingsError(f"`program` must be an absolute path, not {program!r}.")
        self._program, self._timeout_s = program, float(timeout_s)

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: Fields of the journal, `level` or `message`, and the exact values they must have.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level` (text), `message` (text), `attributes` (mappings).

        Raises:
            SettingsError: A field is none of the journal's.
            Unreachable: The program cannot be started, or did not end in time.
            BadAnswer: It failed, or what it printed is not the journal's JSON, or too much.
        """
        command = self._command(fields(where, "The journal"), window, limit)
        try:
            async with asyncio.timeout(self._timeout_s):
                rows = await self._run(command, _row)
            return tidy("logs", [row for row in rows if inside(row, window)], limit)
        except TimeoutError as error:
            raise Unreachable(f"{self._program} did not end within {self._timeout_s:g} s.") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadAnswer(f"{self._program} printed something that is no journal.", fault=True) from error

    def sent(self, where: Mapping[str, str]) -> str:
        """Say how fields read as arguments of the program."""
        return str([_match(name, value) for name, value in fields(where, "The journal").items()])

    async def ping(self) -> str:
        """Ask for the program's version, and for one entry.

        Raises:
            Unreachable: The program cannot be started, or did not end in time.
            BadAnswer: It failed, or printed no journal.
            Refused: It shows us no entry.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                version = await self._run([self._program, "--version"], told)
                seen = await self._run([self._program, "--output=json", "--no-pager", "--quiet", "--lines=1"], _row)
        except TimeoutError as error:
            raise Unreachable(f"{self._program} did not end within {self._timeout_s:g} s.") from error
        except MALFORMED as error:
            raise BadAnswer(f"{self._program} printed something that is no journal.", fault=True) from error
        if not seen:
            raise Refused(f"{self._program} shows {user()} no entry.", todo="Put them into the group systemd-journal.")
        return f"{version[0] if version else 'journalctl'}, as {user()}; reads"

    async def aclose(self) -> None:
        """Nothing to give back."""

    def _command(self, where: Mapping[str, str], window: Window, limit: int) -> list[str]:
        """Say what is run: backwards, as older versions would count the lines from the window's beginning."""
        return [
            self._program, "--output=json", "--all", "--no-pager", "--quiet", "--reverse", f"--lines={limit}",
            f"--since={_moment(window.start)}", f"--until={_moment(window.end)}",
            *(_match(name, value) for name, value in where.items()),
        ]  # fmt: skip

    async def _run(self, command: list[str], read: Callable[[bytes], T]) -> list[T]:
        """Run a program and read each line that it prints."""
        with bounded():
            async with _process(command) as process:
                said = asyncio.create_task(_tail(process.stderr))
                try:
                    rows = [read(line) async for line in self._lines(process.stdout)]
                    code = await process.wait()
                    words = await said
                finally:
                    said.cancel()
                    await asyncio.wait([said])
        if code:
            raise BadAnswer(f"{self._program} ended with {code}: {words}", todo="Run it by hand to see what is wrong.")
        return rows

    async def _lines(self, stream: Any) -> AsyncIterator[bytes]:
        """Split what the program prints, as it comes; too much of it is refused on the way."""
        rest = b""
        while part := await stream.read(_CHUNK):
            spend(len(part), self._program)
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield line
            if len(rest) > _LONGEST:
                raise BadAnswer(f"{self._program} printed a line longer than {_LONGEST // 1_000_000} MB.")
        if rest:
            yield rest


@asynccontextmanager
async def _process(command: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in a group of its own; however the block is left, nothing of it runs on."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=nothing, stdout=pipe, stderr=pipe, env=_ENVIRONMENT, cwd="/", start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise Unreachable(f"{command[0]} cannot be started: {error}.") from error
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):  # something that left the group holds its output open
            await asyncio.wait_for(process.communicate(), _GRACE_S)


async def _tail(stream: Any) -> str:
    """Read what a program complains of; only its beginning is kept."""
    kept = b""
    while part := await stream.read(_CHUNK):
        kept = (kept + part)[:_MOST_WORDS]
    return " ".join(kept.decode(errors="replace").split())[:300]


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"


def _match(name: str, value: str) -> str:
    """Write what a field must be, as one argument; it never begins with - or is a lone +."""
    if name == "level":
        if value not in _LEVELS:
            raise ParameterError(f"{value!r} is no level.", field=name, todo=f"One of: {', '.join(_LEVELS)}.")
        return f"PRIORITY={_LEVELS.index(value)}"
    name = "MESSAGE" if name == "message" else name
    if not _FIELD.fullmatch(name):
        raise SettingsError(f"{name!r} is no field of the journal.", todo="Write it like SYSLOG_IDENTIFIER.")
    if "\0" in value:
        raise ParameterError(f"The value for {name!r} holds a NUL character.", field=name)
    return f"{name}={value}"


def _row(line: bytes) -> Row:
    """Read one entry.

    Raises:
        ValueError: It is no entry of a journal.
    """
    entry = {name: _text(value) for name, value in json.loads(line).items()}
    time = int(entry.pop("__REALTIME_TIMESTAMP"))
    priority = entry.pop("PRIORITY", "")
    message = entry.pop("MESSAGE", "")
    level = _LEVELS[int(priority)] if re.fullmatch("[0-7]", priority) else priority
    kept = {name: value for name, value in entry.items() if not name.startswith("__")}
    return {"time": time * 1_000, "level": level, "message": message, "attributes": plain(kept)}


def _text(value: Any) -> str:
    """Read a field: a text, bytes as a list of numbers, several values, or null when it was too large."""
    if value is None:
        return ""
    if isinstance(value, list):
        if all(type(item) is int for item in value):
            return bytes(value).decode(errors="replace")
        return "\n".join(_text(item) for item in value)
    if not isinstance(value, str):
        raise ValueError(f"a field of an entry is {type(value).__name__}")
    return value
