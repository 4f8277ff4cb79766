"""A store as one process sees it: every call is a boundary, and what it did is written down."""

from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any

from rbkit.entries import Entry
from rbkit.errors import StoreUnavailable
from rbkit.store import Lease, Store

from .simulation import Process
from .world import History


class NotedStore:
    """Passes every call on and writes down what came of it.

    Args:
        raw: The store.
        history: Where it is written down.
        who: Which process calls.
        boundary: Called before and after each call.
    """

    def __init__(self, raw: Store, history: History, who: str, boundary: Callable[[], None] = lambda: None) -> None:
        self.raw, self.history, self.who, self.boundary = raw, history, who, boundary

    def append(self, entry: Entry) -> bool:
        """Write an entry."""
        written: bool = self._call("append", entry)
        return written

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read entries."""
        return list(self._call("read", run, start))

    def runs(self) -> list[str]:
        """List the runs."""
        return list(self._call("runs"))

    def keep(self, name: str, data: bytes) -> None:
        """Keep an answer."""
        self._call("keep", name, data)

    def fetch(self, name: str) -> bytes | None:
        """Fetch an answer."""
        found: bytes | None = self._call("fetch", name)
        return found

    def acquire(self, name: str, holder: str, *more: Any, **named: Any) -> Lease:
        """Take a lease."""
        lease: Lease = self._call("acquire", name, holder, *more, *named.values())
        return lease

    def renew(self, holder: str, now: datetime, ttl_s: float) -> list[Lease]:
        """Prolong what is held."""
        return list(self._call("renew", holder, now, ttl_s))

    def release(self, holder: str) -> None:
        """Give back what is held."""
        self._call("release", holder)

    def leases(self) -> list[Lease]:
        """List what is held."""
        return list(self._call("leases"))

    def recall(self, name: str) -> tuple[int, str]:
        """Read a note."""
        version, text = self._call("recall", name)
        return int(version), str(text)

    def note(self, name: str, version: int, text: str) -> bool:
        """Write a note."""
        return bool(self._call("note", name, version, text))

    def notes(self, prefix: str) -> dict[str, str]:
        """Read notes."""
        return dict(self._call("notes", prefix))

    def close(self) -> None:
        """The store is everybody's; nothing to give back."""

    def _call(self, name: str, *values: Any) -> Any:
        self.boundary()
        result = self._done(name, values)
        self.boundary()
        return result

    def _done(self, name: str, values: tuple[Any, ...]) -> Any:
        result = getattr(self.raw, name)(*values)
        if name not in {"read", "runs", "fetch"}:
            self.history.note(self.who, name, values=values, result=result)
        return result


class Monkey:
    """Takes the store away from everybody, now and then, for a while.

    Args:
        chance: Decides when, and for how long.
        often: A share of all calls.
        longest_s: The longest it is away, seconds.
        rest_s: How long it stays afterwards, seconds.
    """

    def __init__(self, chance: Random, *, often: float = 0.1, longest_s: float = 5.0, rest_s: float = 10.0) -> None:
        self.chance, self.often, self.longest_s, self.rest_s = chance, often, longest_s, rest_s
        self.outages, self._until, self._quiet = 0, 0.0, 0.0

    def away(self, now: float) -> bool:
        """Tell whether the store is away."""
        return now < self._until

    def strikes(self, now: float) -> bool:
        """Decide whether it goes away now."""
        if now < self._quiet or self.chance.random() >= self.often:
            return False
        self.outages += 1
        self._until = now + self.chance.uniform(0.0, self.longest_s)
        self._quiet = self._until + self.rest_s
        return True


class MonkeyStore(NotedStore):
    """A store that a monkey takes away: before a call is done, or after it was done and before it is answered."""

    def __init__(
        self, raw: Store, history: History, process: Process, boundary: Callable[[], None], monkey: Monkey
    ) -> None:
        super().__init__(raw, history, process.name, boundary)
        self.process, self.monkey = process, monkey

    def _done(self, name: str, values: tuple[Any, ...]) -> Any:
        now = self.process.simulation.clock.monotonic()
        if self.monkey.away(now):
            raise StoreUnavailable("The monkey has it.")
        if self.monkey.strikes(now):
            if self.monkey.chance.random() < 0.5:
                super()._done(name, values)
            raise StoreUnavailable("The monkey takes it.")
        return super()._done(name, values)
