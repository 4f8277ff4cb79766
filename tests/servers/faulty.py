"""A way to a server that hangs or breaks when the client says a certain word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["Faulty"]


class Faulty:
    """Carries bytes to a server on loopback until the client has sent a word; that packet does not arrive.

    Args:
        port: The server's port.
        word: The word.
        breaks: Whether the connection ends then; else nothing more is carried and nothing said.
    """

    def __init__(self, port: int, word: bytes, breaks: bool) -> None:
        self._port, self._word, self._breaks = port, word, breaks
        self._open: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def port(self) -> AsyncIterator[int]:
        """Listen on a free port; when the block is left, every client must have closed its connection in time."""
        async with await asyncio.start_server(self._carry, "127.0.0.1", 0) as way:
            try:
                yield way.sockets[0].getsockname()[1]
            finally:
                async with asyncio.timeout(20):
                    await asyncio.gather(*self._open)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carried(reader, writer))
        self._open.add(task)
        await task

    async def _carried(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.ensure_future(_pump(there, writer))
        hangs = False
        with suppress(OSError):
            while data := await reader.read(65_536):
                hangs = hangs or self._word in data
                if hangs and self._breaks:
                    break
                if hangs:
                    answers.cancel()
                else:
                    back.write(data)
        answers.cancel()
        for one in (back, writer):
            one.close()
            with suppress(OSError):
                await one.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
