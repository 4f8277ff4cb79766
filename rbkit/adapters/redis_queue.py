"""Redis as a queue: lists, and streams with a consumer group.

Source: https://redis.io/docs/latest/develop/data-types/lists/ and .../streams/
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import SecretStr

from rbkit.adapters.parked import PARKED, sample
from rbkit.adapters.redis_scripts import HEAD, PARK, STATE, UNPARK
from rbkit.adapters.redis_server import OWN, RedisServer
from rbkit.capability import State, read
from rbkit.datakinds import Message, Queue, QueueFacts
from rbkit.errors import NotFound, Refused, SettingsError
from rbkit.facts import Call

__all__ = ["RedisQueue"]

_READS = (("info",), ("scan", "0"), ("eval", "return 1", "0"), ("type", f"{OWN}ping"))
_WRITES = tuple((word, f"{OWN}ping", *rest) for word, *rest in (
    ("set", "1"), ("hset", "a", "b"), ("lrem", "1", "a"), ("xadd", "*", "a", "b"), ("xdel", "1-1"),
))  # fmt: skip
_MOST = 1_000
_MOST_KEYS = 1_000_000
_BYTES = 16_000_000
_GLOB = re.compile(rb"([*?\[\]\\^-])")
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}")
_WHY = {
    b"gone": "it is not there any more, or too far behind the head: look at the head again",
    b"full": "a thousand messages are parked already: look at those first",
    b"shared": "other groups read the stream too, and would lose the message",
}


class RedisQueue(Queue):
    """Lists, and streams of one consumer group, in a Redis server, which remembers fencing tokens (`rbkit:…`).

    Parked messages of a list lie in the hash `NAME.parked`, those of a stream in the stream `NAME.parked`, where the
    field `rbkit-id` holds their names. A list does not know who works on what: unacknowledged and consumers are -1.

    Args:
        url: The server's address without a password, for example `redis://rbkit@queue-1:6379/0`.
        password: The user's password; never shown.
        queues: The queues; when none is named, every list, and every stream that has the group.
        head: The side of a list from which workers take: `left` (LPOP) or `right` (RPOP, as Celery does).
        group: The consumer group of streams.
        reach: How many messages behind the head of a list one is looked for.
        timeout_s: The longest a call may take, seconds.

    Raises:
        SettingsError: The address or the side is wrong.
    """

    def __init__(
        self, url: str, password: SecretStr | None = None, queues: Sequence[str] = (),
        head: Literal["left", "right"] = "left", group: str = "", reach: int = 1_000, timeout_s: float = 10.0,
    ) -> None:  # fmt: skip
        if head not in {"left", "right"}:
            raise SettingsError(f"Workers take from the left or the right of a list, not from {head!r}.")
        self._redis = RedisServer(url, password, timeout_s)
        self._queues, self._side, self._group, self._reach = tuple(queues), head, group, reach

    @read
    async def queues(self, prefix: str = "") -> list[QueueFacts]:
        """List the queues whose names begin so, in a stable order."""
        names = [name for name in self._queues if name.startswith(prefix)]
        if not self._queues:
            names = await self._redis.ask(lambda client: self._search(client, prefix))
        found = [(name, await self._look(name)) for name in sorted(names)]
        return [
            QueueFacts(name=name, depth=depth, unacknowledged=pending, consumers=consumers)
            for name, (kind, _, depth, pending, consumers, _) in found
            if kind in {b"list", b"stream"} or name in self._queues
        ]

    @read
    async def head(self, queue: str, most: int = 10) -> list[Message]:
        """Look at the messages at the head of a queue; of a stream, first those that some consumer has and not done."""
        await self._known(queue)
        wanted = [self._group, max(0, min(most, _MOST)), _BYTES, self._side]
        return [
            Message(name=name.decode(), redelivered=bool(again), size=size, sample=sample(text))
            for name, again, size, text in await self._redis.run(HEAD, [queue, queue + PARKED], wanted)
        ]

    async def state(self, target: str) -> State:
        """Count a queue's messages and name the parked ones."""
        _, _, depth, _, consumers, parked = await self._known(target)
        return {"depth": depth, "consumers": consumers, "parked": sorted(name.decode() for name in parked)}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Move one message, together with the check of the token, in one act of the server."""
        queue, message = call.target, str(call.arguments["message"])
        kind, *_ = await self._known(queue)
        if kind == b"stream" and not _ENTRY.fullmatch(message):
            raise NotFound(f"{message!r} is no entry of a stream.", todo="`head` lists the names of messages.")
        marks = [self._redis.fence_key(queue), self._redis.done_key(key)]
        keys = [*marks, queue, queue + PARKED, f"{OWN}moved:{queue}"]
        wanted = [token, message, self._group, self._reach, _BYTES, self._side]
        script = PARK if call.action == "park" else UNPARK
        (said, *_) = await self._redis.run(script, keys, wanted, acts=True)
        if said == b"gone":
            raise NotFound(f"{message} was not parked: {_WHY[said]}.", todo="Nothing was moved.")
        if said != b"done":
            raise Refused(f"{message} was not parked: {_WHY[said]}.")

    async def ping(self) -> str:
        """Ask what the server is, as whom we are there, and what its rules let us do."""
        return await self._redis.ping(_READS, _WRITES)

    async def fence(self, target: str, token: int) -> None:
        """Let the server refuse every lower token for a queue from now on."""
        await self._known(target)
        await self._redis.fence(target, token)

    async def _look(self, queue: str) -> Any:
        return await self._redis.run(STATE, [queue, queue + PARKED], [self._group])

    async def _known(self, queue: str) -> Any:
        """Look at a queue; one that is empty is known by its name or by what is parked beside it."""
        found = await self._look(queue)
        kind, parked = found[0], found[1]
        known = kind in {b"list", b"stream"} or (kind == b"none" and (queue in self._queues or parked != b"none"))
        foreign = queue.endswith(PARKED) or queue.startswith(OWN) or (self._queues and queue not in self._queues)
        if not known or foreign:
            raise NotFound(f"There is no queue {queue!r}; it is: {kind.decode()}.", todo="`queues` lists them.")
        if (kind, parked) not in _PAIRS:
            raise Refused(f"What lies at {queue}{PARKED} was not parked by rbkit: it is a {parked.decode()}.")
        return found

    async def _search(self, client: Any, prefix: str) -> list[str]:
        """Find lists and streams by name, at most a thousand."""
        if await client.dbsize() > _MOST_KEYS:
            raise Refused(f"{self._redis.name} has more than {_MOST_KEYS} keys.", todo="Name its queues as `queues`.")
        names: set[str] = set()
        pattern = _GLOB.sub(rb"\\\1", prefix.encode()) + b"*"
        for kind in ("LIST", "STREAM") if self._group else ("LIST",):
            async for key in client.scan_iter(match=pattern, count=_MOST, _type=kind):
                name = key.decode("utf-8", errors="replace")
                if not name.endswith(PARKED) and not name.startswith(OWN) and len(names) < _MOST:
                    names.add(name)
        return list(names)


_PAIRS = {
    (b"list", b"none"), (b"list", b"hash"), (b"stream", b"none"), (b"stream", b"stream"), (b"none", b"none"),
    (b"none", b"hash"), (b"none", b"stream"),
}  # fmt: skip
"""What may lie beside what."""
