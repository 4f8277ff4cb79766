"""A tiny real server on loopback that answers whatever bytes a test wants."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Server:
    """A server that answers every request with the same bytes.

    Args:
        reply: What it answers; parts are sent one by one until the caller goes away.
        reset: Whether it ends with a reset instead of an orderly close.
        silent: Whether it says nothing more until the caller goes away.
    """

    reply: bytes | Iterable[bytes] = b""
    reset: bool = False
    silent: bool = False
    asked: list[bytes] = field(default_factory=list)

    def json(self, data: Any, status: int = 200, headers: str = "") -> "Server":
        """Answer JSON."""
        return self.text(json.dumps(data), status, headers)

    def text(self, body: str, status: int = 200, headers: str = "") -> "Server":
        """Answer a text."""
        data = body.encode()
        self.reply = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data
        return self

    def use(self, work: Callable[[str], Awaitable[Any]]) -> Any:
        """Run a coroutine with the server's address while the server runs."""
        return asyncio.run(self._use(work))

    async def _use(self, work: Callable[[str], Awaitable[Any]]) -> Any:
        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(
            lambda reader, writer: tasks.append(asyncio.ensure_future(self._answer(reader, writer))), "127.0.0.1", 0
        )
        async with server:
            try:
                return await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            finally:
                await asyncio.gather(*tasks)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        self.asked.append(head + await reader.readexactly(length))
        with suppress(OSError):
            for part in [self.reply] if isinstance(self.reply, bytes) else self.reply:
                writer.write(part)
                await writer.drain()
            if self.silent:
                await reader.read()
        if self.reset:
            option = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
def server() -> Server:
    """A server on loopback."""
    return Server()


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
