"""Every call to the outside goes through here: breaker, bulkhead, deadline, retries; and what it cost is counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from rbkit.breaker import Breaker
from rbkit.costs import Cost, counted
from rbkit.environment import Limits
from rbkit.errors import AdapterError, NotFound, StoreUnavailable, Unreachable
from rbkit.journal import Journal
from rbkit.resilience import patiently, read_safely
from rbkit.store import Store

__all__ = ["BREAKER", "Endpoints", "load"]

BREAKER = "breaker:"
_UNDOING = frozenset({"failing", "rolling_back"})
_CALM_S = 1.0
"""For how long a breaker that was closed is not looked at again, seconds."""
_LEFT_ALONE = "Wait until then; or, when it works again: `rbkit breaker close '{}'`."
T = TypeVar("T")


def load(store: Store, name: str) -> tuple[int, Breaker]:
    """Read a breaker, and the version of its note; one that nobody has written is closed."""
    version, text = store.recall(BREAKER + name)
    return version, Breaker.model_validate_json(text) if text else Breaker()


class Endpoints:
    """The endpoints that a run calls. While it undoes what was done, no breaker holds it up.

    Args:
        journal: The run: its store keeps the breakers for everybody.
        limits: Tells the limits of an endpoint.
    """

    def __init__(self, journal: Journal, limits: Callable[[str], Limits]) -> None:
        self._journal, self._limits = journal, limits
        self.store, self.clock = journal.store, journal.clock
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._calm: dict[str, float] = {}

    async def read(self, endpoint: str, call: Callable[[], Awaitable[T]], what: str = "") -> tuple[T, Cost]:
        """Make a call that is safe to repeat, as often and as long as its limits allow.

        Args:
            endpoint: Where it goes, for example `source metrics`.
            call: Makes the call anew each time.
            what: What is asked, for errors; the endpoint's name if empty.

        Returns:
            What the call returned, and what it has cost.

        Raises:
            AdapterError: The last attempt's error; Unreachable while the breaker is open.
        """
        limits = self._limits(endpoint)
        with counted(limits.bytes) as cost:

            async def attempt() -> T:
                cost.attempt()
                return await call()

            async with self._admitted(endpoint, limits):
                return await read_safely(attempt, self.clock, what or endpoint, limits.seconds), cost

    async def change(self, endpoint: str, call: Callable[[], Awaitable[None]]) -> None:
        """Make a call that is made once, whatever comes of it.

        Raises:
            AdapterError: What the call raised; Unreachable while the breaker is open.
        """
        async with self._admitted(endpoint, self._limits(endpoint)):
            await call()

    @asynccontextmanager
    async def _admitted(self, endpoint: str, limits: Limits) -> AsyncIterator[None]:
        """Wait for a free place, ask the breaker, and tell it what came of the call."""
        opened = self._journal.known.opened
        name = f"{opened.environment if opened else ''}/{endpoint}"
        async with self._slots.setdefault(endpoint, asyncio.Semaphore(limits.concurrency)):
            self._enter(name)
            try:
                yield
            except AdapterError as error:
                self._tell(name, error.what if error.fault else "")
                raise
            except NotFound:
                self._tell(name, "")
                raise
            self._tell(name, "")

    def _enter(self, name: str) -> None:
        if self.clock.monotonic() < self._calm.get(name, 0.0):
            return

        def entered(breaker: Breaker) -> Breaker:
            why = "" if self._journal.known.state in _UNDOING else breaker.refusal(self.clock.now())
            if why:
                raise Unreachable(f"{name} is left alone: {why}", todo=_LEFT_ALONE.format(name), fault=False)
            return breaker.entered(self.clock.now())

        if patiently(lambda: self._changed(name, entered), self.clock) == Breaker():
            self._calm[name] = self.clock.monotonic() + _CALM_S

    def _tell(self, name: str, fault: str) -> None:
        """Tell the breaker how a call ended. When the store is away the call has ended so all the same."""
        if not fault and name in self._calm:
            return
        self._calm.pop(name, None)
        with suppress(StoreUnavailable):
            self._changed(name, lambda b: b.failed(self.clock.now(), fault) if fault else b.worked())

    def _changed(self, name: str, become: Callable[[Breaker], Breaker]) -> Breaker:
        """Change a breaker in the store and return it; what does not change is not written."""
        while True:
            version, breaker = load(self.store, name)
            after = become(breaker)
            if after == breaker or self.store.note(BREAKER + name, version, after.model_dump_json()):
                return after
