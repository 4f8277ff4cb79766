"""Idempotency keys: a request that is repeated gets the first answer, and nothing is done again."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from rbkit.sandbox.web import Refusal

__all__ = ["Act", "Answers"]

MOST_KEYS = 1000
FENCED_OFF = {412, 428}
Reply = tuple[int, dict[str, Any]]
Act = Callable[[], Awaitable[dict[str, Any]]]


class Answers:
    """The first answer to each Idempotency-Key; the last 1,000."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, tuple[str, asyncio.Task[Reply]]] = OrderedDict()

    async def once(self, key: str | None, request: str, act: Act) -> Reply:
        """Act, unless the key was seen: then give the first answer, waiting for it if it is still being made.

        A first request that was refused for its fencing token did not use the key up: who waited for it acts instead.

        Args:
            key: The caller's key; without one it acts.
            request: Method, path and body, to tell a repetition from another request.
            act: What to do.

        Raises:
            Refusal: 422 when the key was used for something else.
        """
        if key is None:
            return await _reply(act)
        is_first = key not in self._given
        if is_first:
            self._given[key] = (request, asyncio.create_task(self._first(key, act)))
            while len(self._given) > MOST_KEYS:
                self._given.popitem(last=False)
        first, task = self._given[key]
        if first != request:
            raise Refusal(422, "key_reused", "This Idempotency-Key was used for another request.")
        reply = await asyncio.shield(task)
        return reply if is_first or reply[0] not in FENCED_OFF else await self.once(key, request, act)

    def __contains__(self, key: str | None) -> bool:
        return key in self._given

    async def _first(self, key: str, act: Act) -> Reply:
        reply = await _reply(act)
        if reply[0] in FENCED_OFF:
            self._given.pop(key, None)
        return reply


async def _reply(act: Act) -> Reply:
    try:
        return 200, await act()
    except Refusal as refusal:
        return refusal.status_code, {"error": refusal.error, "message": refusal.message}
