"""How tests ping: an adapter is made, pinged and closed; and a server that answers each path as it is told to."""

import asyncio
from collections.abc import Mapping
from typing import Any

from rbkit.testing.double import Answer, Double, Request

__all__ = ["Paths", "ping_of", "pinged"]


class Paths(Double):
    """A server with an answer for each path.

    Args:
        answers: What it answers, by path: an Answer, or what is sent as JSON; any other path is not there.
    """

    def __init__(self, answers: Mapping[str, Any]) -> None:
        super().__init__()
        self._answers = dict(answers)

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        found = self._answers.get(request.path, Answer(404, {"error": "no such path"}))
        return found if isinstance(found, Answer) else Answer(200, found)


async def ping_of(adapter: Any) -> str:
    """Ping an adapter and close it."""
    try:
        return str(await adapter.ping())
    finally:
        await adapter.aclose()


def pinged(adapter: Any) -> str:
    """Ping an adapter, close it, and return what it said: one line that tells what we may do.

    Args:
        adapter: One that no other loop uses.
    """
    said = asyncio.run(ping_of(adapter))
    assert len(said.splitlines()) == 1 and said.isprintable() and len(said) < 400, said
    assert "reads" in said, said
    return said
