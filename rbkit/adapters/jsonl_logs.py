"""Log files with one JSON object a line, read from their ends backwards."""

import asyncio
import glob
import heapq
import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from rbkit.adapters.lines import Row, fields, matches, nanoseconds, plain, tidy
from rbkit.adapters.told import user
from rbkit.costs import remaining, spend
from rbkit.errors import BadAnswer, NotFound, Unreachable
from rbkit.ports import Language, Window
from rbkit.values import human_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JsonlLogs"]

_BLOCK = 1_000_000
_LONGEST = 1_000_000
_SLACK = timedelta(minutes=10)
_MOST_FILES = 200
_TRIES = 3
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
"""How compressed files begin. Source: https://www.rfc-editor.org/rfc/rfc1952, rfc8878, and the formats' own pages."""


class JsonlLogs:
    """Reads JSON-lines files.

    Of each file the newest part is read, as far back as the window reaches; a file larger than 1 MB may have lines up
    to 10 minutes out of order. What could not be read (lines longer than 1 MB, what lies beyond `max_bytes`) is told
    in one more line at the end, with level `warning`. Rotated files count when `files` matches them; compressed ones
    are refused.

    Args:
        files: A path with wildcards, for example `/var/log/checkout/*.jsonl`.
        time: The field with the time, ISO 8601; without zone it is UTC.
        level: The field with the level.
        message: The field with the message.
        max_bytes: The most bytes that are read for one question, of the newest files first.
    """

    language: ClassVar[Language] = "fields"

    def __init__(
        self, files: str, time: str = "time", level: str = "level", message: str = "message",
        max_bytes: int = 200_000_000,
    ) -> None:  # fmt: skip
        self._files, self._time, self._level, self._message = files, time, level, message
        self._max_bytes = max_bytes

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: Fields and the exact values they must have.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level` (text), `message` (text), `attributes` (mappings).

        Raises:
            Unreachable: A file cannot be read.
            BadAnswer: A file is compressed, or too many files match.
        """
        stop, wanted = threading.Event(), fields(where, "A folder of log files")
        try:
            return await asyncio.to_thread(self._search, wanted, window, limit, stop)
        finally:
            stop.set()  # a thread whose caller has gone does not read on

    async def ping(self) -> str:
        """Open every file that matches, and read no line.

        Raises:
            NotFound: No file matches.
            Unreachable: A file cannot be read.
            BadAnswer: A file is compressed, or too many files match.
        """
        return await asyncio.to_thread(self._told)

    async def aclose(self) -> None:
        """Nothing to give back."""

    def _told(self) -> str:
        with ExitStack() as opened:
            sizes = [os.fstat(file.fileno()).st_size for file in _open_all(self._files, opened)]
        if not sizes:
            raise NotFound(f"No file matches {self._files}.", todo="Check the path, and whether anything was logged.")
        return f"{len(sizes)} file(s) of {human_bytes(sum(sizes))} match {self._files}, as {user()}; reads"

    def _search(self, where: dict[str, str], window: Window, limit: int, stop: threading.Event) -> "pd.DataFrame":
        found = _Found(where, nanoseconds(window.start), nanoseconds(window.end), limit, remaining())
        with ExitStack() as opened:
            for file in _newest_first(_open_all(self._files, opened), window.start - _SLACK):
                self._read(file, found, stop)
        spend(found.held, f"The logs {self._files}")
        rows = [*found.rows[max(0, len(found.rows) + 1 - limit) :], found.note] if found.missed else found.rows
        return tidy("logs", rows, limit)

    def _read(self, file: BinaryIO, found: "_Found", stop: threading.Event) -> None:
        """Read a file from its end, until its lines are well before those that are wanted."""
        reader, early = _Reader(file, self._max_bytes - found.read), 0
        found.reached = False
        try:
            for line in reader.lines():
                if stop.is_set() or early > _BLOCK:
                    break
                if line is None:
                    found.too_long += 1
                elif row := self._row(line):
                    early = early + len(line) if found.offer(row, len(line)) else 0
        except OSError as error:
            raise Unreachable(f"The log {file.name} cannot be read: {error.strerror}.") from error
        found.read += reader.read
        found.unread += 0 if found.reached else reader.left

    def _row(self, line: bytes) -> Row | None:
        """Read one line; a line that is no JSON object, such as one half written, is no log line."""
        try:
            data = json.loads(line.decode(errors="replace").lstrip("\ufeff"))
            moment = datetime.fromisoformat(data[self._time])
            time = nanoseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return None
        rest = {k: v for k, v in data.items() if k not in {self._time, self._level, self._message}}
        level, message = (plain(str(data.get(name, ""))) for name in (self._level, self._message))
        return {"time": time, "level": level, "message": message, "attributes": plain(rest)}


@dataclass
class _Found:
    """The newest lines that were found, never more than may be returned, and what was left out.

    Args:
        where: Fields and the values they must have.
        start: The window's first moment, nanoseconds since 1970.
        end: Its last moment.
        limit: The most lines to hold.
        most: The most bytes to hold.
    """

    where: dict[str, str]
    start: int
    end: int
    limit: int
    most: int
    held: int = 0
    read: int = 0
    unread: int = 0
    too_long: int = 0
    too_many: int = 0
    reached: bool = False
    """Whether the file that is read now has shown a line that is older than what is wanted."""
    _heap: list[tuple[int, int, int, Row]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=lambda: count(0, -1))

    def offer(self, row: Row, size: int) -> bool:
        """Take a line if it is wanted, and tell whether it is so old that nothing that is wanted can be before it."""
        time: int = row["time"]
        if self.start <= time <= self.end and matches(row, self.where):
            self._take(row, size)
        horizon = max(self.start, self._heap[0][0]) if len(self._heap) == self.limit else self.start
        self.reached |= time < horizon
        return time < horizon - _SLACK // timedelta(microseconds=1) * 1_000

    def _take(self, row: Row, size: int) -> None:
        """Hold a line; the oldest gives way. Of lines of one moment the one that came first is the newer one."""
        heapq.heappush(self._heap, (row["time"], next(self._number), size, row))
        self.held += size
        while len(self._heap) > self.limit or self.held > self.most:
            self.too_many += len(self._heap) <= self.limit
            self.held -= heapq.heappop(self._heap)[2]

    @property
    def rows(self) -> list[Row]:
        """The lines, newest last."""
        return [row for *_, row in sorted(self._heap, key=lambda one: one[:2])]

    @property
    def missed(self) -> list[str]:
        """What was left out, in words."""
        amounts = {
            f"{self.too_long} lines longer than {human_bytes(_LONGEST)}": self.too_long,
            f"{self.too_many} older lines that would have made the answer too large": self.too_many,
            f"the oldest {human_bytes(self.unread)}": self.unread,
        }
        return [text for text, amount in amounts.items() if amount]

    @property
    def note(self) -> Row:
        """What was left out, as the newest line."""
        message = f"rbkit has not read everything; left out: {', '.join(self.missed)}."
        return {"time": self.end, "level": "warning", "message": message, "attributes": {"rbkit": "left out"}}


class _Reader:
    """Reads the lines of a file from its end backwards, a block at a time.

    Args:
        file: The file.
        most: The most bytes to read.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, size = file, os.fstat(file.fileno()).st_size
        self._end, self._start = size, max(0, size - max(0, most))
        self.read = 0

    @property
    def left(self) -> int:
        """The bytes before those that may be read."""
        return self._start

    def lines(self) -> Iterator[bytes | None]:
        """List the lines, the last one first; None for one that is too long. A line that was cut is left out."""
        tail, long = b"", False
        for block in self._blocks():
            parts = block.split(b"\n")
            parts[-1] += tail
            for line in reversed(parts[1:]):
                yield None if long or len(line) > _LONGEST else line
                long = False
            tail = parts[0]
            if long or len(tail) > _LONGEST:
                tail, long = b"", True
        if not self._start:
            yield None if long else tail

    def _blocks(self) -> Iterator[bytes]:
        while self._end > self._start:
            begin = max(self._start, self._end - _BLOCK)
            self._file.seek(begin)
            block = self._file.read(self._end - begin)
            self._end = begin
            self.read += len(block)
            yield block


def _open_all(pattern: str, opened: ExitStack) -> list[BinaryIO]:
    """Open every file at once, so that a rotation during the reading neither hides nor repeats one."""
    files: dict[tuple[int, int], BinaryIO] = {}
    for _ in range(_TRIES):
        known = len(files)
        for name in _names(pattern):
            with suppress(FileNotFoundError):  # it was renamed or removed just now
                file = _open(name, opened)
                status = os.fstat(file.fileno())
                files.setdefault((status.st_dev, status.st_ino), file)
        if len(files) == known:
            break
    return list(files.values())


def _names(pattern: str) -> list[str]:
    names = sorted(glob.glob(pattern, recursive=True))
    if len(names) > _MOST_FILES:
        raise BadAnswer(f"{pattern} matches {len(names)} files; the limit is {_MOST_FILES}.", todo="Narrow `files`.")
    return names


def _open(name: str, opened: ExitStack) -> BinaryIO:
    """Open a plain file; a pipe would never end, and a compressed file cannot be read from its end."""
    try:
        file = opened.enter_context(open(name, "rb", opener=_unblocked))  # noqa: SIM115 - the stack closes it
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Unreachable(f"The log {name} cannot be read: it is no regular file.")
        beginning = file.read(6)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreachable(f"The log {name} cannot be read: {error.strerror}.") from error
    packed = [kind for magic, kind in _COMPRESSED.items() if beginning.startswith(magic)]
    if packed:
        raise BadAnswer(f"The log {name} is compressed by {packed[0]}.", todo="Let `files` match plain files only.")
    return file


def _unblocked(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _newest_first(files: list[BinaryIO], since: datetime) -> list[BinaryIO]:
    """Sort files by when they were last written, without those that were not written since."""
    written = [(os.fstat(file.fileno()).st_mtime, place) for place, file in enumerate(files)]
    return [files[place] for when, place in sorted(written, reverse=True) if when >= since.timestamp()]
