"""A way to a server that breaks as networks do, and answers of HTTP that no server should give."""

import asyncio
import json
import random
import socket
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = [
    "CutAfter", "Drip", "Fault", "FaultProxy", "Garbage", "Refuse", "Replies", "ResetAfter", "Silence", "bomb", "huge",
    "million_series", "page", "reply",
]  # fmt: skip


@dataclass(frozen=True)
class Refuse:
    """Nobody listens on the port."""


@dataclass(frozen=True)
class ResetAfter:
    """The connection is reset after so many bytes of the answer; the request arrives."""

    bytes: int = 0


@dataclass(frozen=True)
class Silence:
    """Nothing arrives any more, in neither direction, and nobody hangs up."""


@dataclass(frozen=True)
class Drip:
    """Of the answer, so many bytes arrive every so many seconds."""

    bytes: int = 1
    every: float = 0.1


@dataclass(frozen=True)
class CutAfter:
    """The connection is closed in an orderly way after so many bytes of the answer."""

    bytes: int = 0


@dataclass(frozen=True)
class Garbage:
    """Something else answers, with bytes that mean nothing, and hangs up."""


@dataclass(frozen=True)
class Replies:
    """A request of HTTP, or a line, is answered with these parts, one by one until the caller goes away."""

    parts: Callable[[], Iterable[bytes]]


Fault = Refuse | ResetAfter | Silence | Drip | CutAfter | Garbage | Replies


@dataclass
class FaultProxy:
    """Carries bytes to a server on loopback, in a thread of its own; used as a context manager.

    Args:
        target: The server's port; 0 when there is none.
        fault: What goes wrong; nothing when None.
        word: What the clients must have said before it goes wrong; at once when empty.
    """

    target: int
    fault: Fault | None = None
    word: bytes = b""
    asked: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0)) if self.fault != Refuse() else _bound()
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        if self.fault != Refuse():
            self._do(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._socket.close()

    def _do(self, work: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result(20)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, sock=self._socket)

    async def _end(self) -> None:
        if self.fault != Refuse():
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                if isinstance(self.fault, Replies):
                    await self._reply(reader, writer, self.fault)
                else:
                    await self._join(reader, writer)
        finally:
            writer.transport.abort()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Replies) -> None:
        head = (await reader.readuntil(b"\n")).lower()
        if b" http/1." in head:  # else it is a command of one line
            head += (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        self.asked += head + await reader.readexactly(length)
        for part in fault.parts():
            writer.write(part)
            await writer.drain()
        writer.write_eof()
        await reader.read()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, beyond = await asyncio.open_connection("127.0.0.1", self.target)
        answers = asyncio.ensure_future(self._back(there, writer))
        try:
            await self._forth(reader, beyond, writer)
        finally:
            answers.cancel()
            beyond.transport.abort()
            await asyncio.gather(answers, return_exceptions=True)

    @property
    def _now(self) -> Fault | None:
        """What goes wrong at this moment."""
        return self.fault if self.word in self.asked else None

    async def _forth(
        self, reader: asyncio.StreamReader, beyond: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        """Carry what the client says, until it hangs up."""
        nonsense = random.Random(1).randbytes(4_000)
        while data := await reader.read(65_536):
            self.asked += data
            if isinstance(self._now, Garbage) and nonsense:
                writer.write(nonsense)
                writer.write_eof()
                nonsense = b""
            elif not isinstance(self._now, Silence | Garbage):
                beyond.write(data)
                await beyond.drain()

    async def _back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry what the server says, until it hangs up."""
        passed = 0
        while data := await there.read(65_536):
            match self._now:
                case None:
                    writer.write(data)
                case Drip(count, every):
                    for place in range(0, len(data), count):
                        writer.write(data[place : place + count])
                        await asyncio.sleep(every)
                case CutAfter(most) | ResetAfter(most):
                    writer.write(data[: max(0, most - passed)])
                    passed += len(data)
                    if passed > most:
                        break
                case _:  # nothing arrives
                    continue
            await writer.drain()
        if isinstance(self._now, ResetAfter):
            option = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            writer.transport.abort()
        elif not isinstance(self._now, Silence | Garbage):
            writer.write_eof()


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _bound() -> socket.socket:
    """Take a port on which nobody listens, so that whoever connects is refused."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made


def page(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """Write a whole answer of HTTP; names of headers with `_` for `-`."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def reply(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Replies:
    """Answer every request with the same page."""
    return Replies(lambda: [page(body, status, kind, **headers)])


def _endless(first: bytes, part: bytes, count: int, encoding: str = "identity") -> Iterator[bytes]:
    yield b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Encoding: " + encoding.encode()
    yield b"\r\nConnection: close\r\n\r\n" + first
    for _ in range(count):
        yield part


def huge() -> Iterator[bytes]:
    """Answer with 100 MB, streamed."""
    return _endless(b'"', b"x" * 100_000, 1_000)


def bomb() -> Iterator[bytes]:
    """Answer with 10 MB that unfold into 10 GB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(b'"') + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(b"x" * 10_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    return _endless(first, packed, 1_000, "gzip")


def million_series(samples: str = '[1767268800,"1"]') -> Iterator[bytes]:
    """Answer as Prometheus does, with a million series of one sample, streamed."""
    first = b'{"status":"success","data":{"resultType":"matrix","result":['
    return _endless(first, b",".join(_series(samples, n) for n in range(1_000)) + b",", 1_000)


def _series(samples: str, number: int) -> bytes:
    labels: dict[str, Any] = {"__name__": "up", "n": str(number)}
    return f'{{"metric":{json.dumps(labels)},"values":[{samples}]}}'.encode()
