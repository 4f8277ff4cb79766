"""Databases, caches and queues in memory; they pass the same suites as the real ones."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from rbkit.adapters.fakes import Fake
from rbkit.adapters.parked import digest, names, sample
from rbkit.adapters.postgres import named
from rbkit.capability import Facts, State, read
from rbkit.datakinds import Bloat, Blocked, Cache, CacheFacts, Database, Message, Queue, QueueFacts, Replica, Session
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call

__all__ = ["FakeCache", "FakeDatabase", "FakeQueue"]


class FakeDatabase(Fake, Database):
    """A database in memory.

    Args:
        sessions: Its sessions.
        blocked: Who waits for whom; a pair is gone with either of its sessions.
        replicas: Its replicas.
        tables: Its tables.
    """

    def __init__(
        self, sessions: Iterable[Session], blocked: Iterable[Blocked] = (), replicas: Iterable[Replica] = (),
        tables: Iterable[Bloat] = (),
    ) -> None:  # fmt: skip
        super().__init__({session.target: session for session in sessions})
        self._blocked, self._replicas, self._tables = list(blocked), list(replicas), list(tables)
        self._queries = dict.fromkeys(self._things, 1)

    @read
    async def sessions(self, idle_in_transaction_s: float = 0.0, running_s: float = 0.0) -> list[Session]:
        """List the sessions, the longest transaction first."""
        found = sorted(self._things.values(), key=lambda one: (-one.transaction_s, one.pid))
        if not idle_in_transaction_s and not running_s:
            return found
        idle = [one for one in found if one.state.startswith("idle in transaction")]
        idle = [one for one in idle if 0 < idle_in_transaction_s < one.transaction_s]
        return [one for one in found if one in idle or 0 < running_s < one.query_s]

    @read
    async def blocked(self) -> list[Blocked]:
        """List who waits for whom."""
        there = [pair for pair in self._blocked if {pair.waits, pair.holds} <= self._things.keys()]
        return sorted(there, key=lambda pair: -pair.waited_s)

    @read
    async def replicas(self) -> list[Replica]:
        """List the replicas."""
        return list(self._replicas)

    @read
    async def bloat(self, most: int = 20) -> list[Bloat]:
        """List the tables with the most dead rows."""
        return sorted(self._tables, key=lambda table: -table.dead)[:most]

    async def state(self, target: str) -> State:
        """Say whether a session is there, and which of its queries runs."""
        named(target)
        if target not in self._things:
            return {"present": False, "state": "", "query_started": None}
        session = self._things[target]
        runs = f"query {self._queries[target]}" if session.state == "active" else None
        return {"present": True, "state": session.state, "query_started": runs}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Cancel or terminate; one that has gone needs nothing."""
        named(call.target)
        if call.target in self._things:
            await super().apply(call, key, token)
        if call.action == "terminate":
            self._things.pop(call.target, None)

    async def fence(self, target: str, token: int) -> None:
        """Remember a token, also for a session that has gone."""
        named(target)
        self._admit(target, token)

    def _changed(self, thing: Session, call: Call) -> dict[str, Any]:
        """End a session's query; whoever waited on its account waits no more."""
        self._blocked = [pair for pair in self._blocked if pair.waits != thing.target]
        if thing.state != "active":
            return {}
        self._queries[thing.target] += 1
        return {"state": "idle" if not thing.transaction_s else "idle in transaction (aborted)"}


class _Setting(Facts):
    value: str


class _Pattern(Facts):
    evictions: int = 0


class FakeCache(Fake, Cache):
    """A cache in memory.

    Args:
        keys: Keys and their bytes.
        settings: Settings that may be changed, and their values.
        max_keys: The most keys that may be evicted at once.
    """

    def __init__(
        self, keys: Mapping[str, int], settings: Mapping[str, str] | None = None, max_keys: int = 1_000
    ) -> None:  # fmt: skip
        super().__init__({name: _Setting(value=value) for name, value in (settings or {}).items()})
        self.keys, self.max_keys = dict(keys), max_keys

    @read
    async def facts(self) -> CacheFacts:
        """Say how full the cache is."""
        most, policy = self._known("maxmemory"), self._known("maxmemory-policy")
        return CacheFacts(
            used=sum(self.keys.values()), keys=len(self.keys), evicted=0, hits=0, misses=0,
            most=int(getattr(most, "value", 0)), policy=getattr(policy, "value", "noeviction"),
        )  # fmt: skip

    @read
    async def largest(self, pattern: str = "*", most: int = 20) -> dict[str, int]:
        """List the largest keys."""
        found = sorted(self._matching(pattern), key=lambda key: (-self.keys[key], key))
        return {key: self.keys[key] for key in found[:most]}

    async def state(self, target: str) -> State:
        """Read a setting, or count the keys that match."""
        thing = self._known(target)
        if isinstance(thing, _Setting):
            return {"value": thing.value}
        keys = min(len(self._matching(target)), self.max_keys + 1)
        return {"keys": keys, "most": self.max_keys, "evictions": thing.evictions}

    def _known(self, target: str) -> Any:
        """Take whatever is no setting for a pattern of keys."""
        return self._things.get(target) or _Pattern()

    def _changed(self, thing: Any, call: Call) -> dict[str, Any]:
        """Give a setting a value, or evict keys."""
        if isinstance(thing, _Setting) != (call.action == "configure"):
            raise Refused(f"{call.action} cannot be done to {call.target}.")
        if isinstance(thing, _Setting):
            return {"value": call.arguments["value"]}
        gone = self._matching(call.target)
        if len(gone) > self.max_keys:
            raise Refused(f"More than {self.max_keys} keys match {call.target}; none was removed.")
        self.keys = {key: size for key, size in self.keys.items() if key not in gone}
        return {"evictions": thing.evictions + 1}

    def _matching(self, pattern: str) -> list[str]:
        return [key for key in self.keys if fnmatch.fnmatchcase(key, pattern)]


class _Heap(Facts):
    waiting: list[str]
    parked: dict[str, str] = Field(default_factory=dict)
    consumers: int = 0


class FakeQueue(Fake, Queue):
    """Queues in memory; each message is a text.

    Args:
        queues: Messages by queue, from the head on.
    """

    def __init__(self, queues: Mapping[str, Sequence[str]]) -> None:
        super().__init__({name: _Heap(waiting=list(messages)) for name, messages in queues.items()})

    @read
    async def queues(self, prefix: str = "") -> list[QueueFacts]:
        """List the queues whose names begin so."""
        found = sorted((name, heap) for name, heap in self._things.items() if name.startswith(prefix))
        return [
            QueueFacts(name=name, depth=len(heap.waiting), unacknowledged=0, consumers=heap.consumers)
            for name, heap in found
        ]

    @read
    async def head(self, queue: str, most: int = 10) -> list[Message]:
        """Look at the messages at the head of a queue."""
        heap = self._known(queue)
        return [
            Message(name=name, redelivered=False, size=len(text.encode()), sample=sample(text.encode()))
            for name, text in zip(_called(heap)[:most], heap.waiting, strict=False)
        ]

    async def state(self, target: str) -> State:
        """Count a queue's messages and name the parked ones."""
        heap = self._known(target)
        return {"depth": len(heap.waiting), "consumers": heap.consumers, "parked": sorted(heap.parked)}

    def _changed(self, thing: _Heap, call: Call) -> dict[str, Any]:
        """Move one message; one that is where it should be stays there."""
        name, waiting = call.arguments["message"], list(thing.waiting)
        if call.action == "unpark":
            text = thing.parked.get(name)
            left = {other: kept for other, kept in thing.parked.items() if other != name}
            return {"parked": left, "waiting": waiting if text is None else [*waiting, text]}
        if name in thing.parked:
            return {}
        if name not in _called(thing):
            raise NotFound(f"{name} is not in {call.target}.", todo="It may have been taken; look at the head again.")
        text = waiting.pop(_called(thing).index(name))
        return {"parked": {**thing.parked, name: text}, "waiting": waiting}


def _called(heap: _Heap) -> list[str]:
    return names((digest(text.encode()) for text in heap.waiting), heap.parked)
