"""What can be wrong inside one instance: it really leaks, really is slow, really fails, really dies."""

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rbkit.clock import Clock
from rbkit.sandbox.pool import Pool

__all__ = ["CRASH_EXIT_CODE", "PROCESS_FAULTS", "Ailments", "Behaviour"]

CRASH_EXIT_CODE = 70
LEAK_STEP_BYTES = 2_500_000
LEAK_STEP_S = 0.1
LEAK_LIMIT_BYTES = 420_000_000
CRASH_AFTER_S = 2.0
POOL_LEAK_EVERY_S = 0.25
Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Behaviour:
    """How an instance treats requests.

    Args:
        delay_s: Seconds that are added to each.
        error_share: Share that is answered with 500, 0 to 1.
    """

    delay_s: float = 0.0
    error_share: float = 0.0


VERSIONS = {"v1": Behaviour(), "v2": Behaviour(delay_s=0.4, error_share=0.3)}


class Ailments:
    """The faults of one instance.

    Args:
        version: What is deployed; v2 is broken.
        pool: The pool that may leak.
        say: Writes a log line: level and message.
        clock: The time.
    """

    def __init__(self, version: str, pool: Pool, say: Say, clock: Clock) -> None:
        self.behaviour = VERSIONS[version]
        self._pool, self._say, self._clock = pool, say, clock
        self._hoard: list[bytes] = []
        self._jobs: dict[str, asyncio.Task[None]] = {}

    def fails_now(self) -> bool:
        """Draw whether this request fails."""
        return random.random() < self.behaviour.error_share

    def begin(self, fault: str) -> None:
        """Begin to suffer from a fault; once more is no more."""
        if fault not in self._jobs:
            self._jobs[fault] = asyncio.create_task(PROCESS_FAULTS[fault](self))

    async def leak_memory(self) -> None:
        """Allocate and touch 25 MB a second up to 420 MB, then hold it."""
        for step in range(LEAK_LIMIT_BYTES // LEAK_STEP_BYTES):
            if step % 20 == 0:
                held = step * LEAK_STEP_BYTES // 1_000_000
                self._say("warning", f"session cache holds {held} MB, 0 entries evicted")
            self._hoard.append(b"\xa5" * LEAK_STEP_BYTES)
            await self._clock.sleep(LEAK_STEP_S)

    async def leak_pool(self) -> None:
        """Take slots of the pool, one after the other, and never give one back."""
        while self._pool.leaked < self._pool.size:
            await self._pool.leak()
            self._say("warning", f"connection not returned to the pool, {self._pool.leaked} of {self._pool.size} lost")
            await self._clock.sleep(POOL_LEAK_EVERY_S)

    async def be_slow(self) -> None:
        """Add 0.8 s to every request."""
        self.behaviour = Behaviour(0.8, self.behaviour.error_share)

    async def fail_often(self) -> None:
        """Answer half of the requests with 500."""
        self.behaviour = Behaviour(self.behaviour.delay_s, 0.5)

    async def crash(self) -> None:
        """End this process with exit code 70 in two seconds."""
        await self._clock.sleep(CRASH_AFTER_S)
        self._say("error", "fatal: corrupt session index, cannot continue")
        os._exit(CRASH_EXIT_CODE)


PROCESS_FAULTS: dict[str, Callable[[Ailments], Coroutine[Any, Any, None]]] = {
    "memory-leak": Ailments.leak_memory,
    "pool-exhausted": Ailments.leak_pool,
    "latency": Ailments.be_slow,
    "errors": Ailments.fail_often,
    "crash": Ailments.crash,
}
