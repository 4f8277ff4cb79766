"""A simulated connection pool: slots that are taken, given back, and by a fault never given back."""

import asyncio

__all__ = ["Pool", "PoolExhausted"]


class PoolExhausted(Exception):
    """No slot came free in time."""


class Pool:
    """A pool of slots.

    Args:
        size: Number of slots.
        patience_s: Seconds that a request waits for a slot.
    """

    def __init__(self, size: int = 10, patience_s: float = 1.0) -> None:
        self.size, self.patience_s = size, patience_s
        self.busy = self.leaked = 0
        self._free = asyncio.Semaphore(size)

    @property
    def idle(self) -> int:
        """Slots that can be taken."""
        return self.size - self.busy - self.leaked

    async def take(self) -> None:
        """Take one slot; `give_back` returns it.

        Raises:
            PoolExhausted: None came free within the patience.
        """
        try:
            async with asyncio.timeout(self.patience_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise PoolExhausted(f"pool exhausted: no connection within {self.patience_s} s") from error
        self.busy += 1

    def give_back(self) -> None:
        """Return a slot that was taken."""
        self.busy -= 1
        self._free.release()

    async def leak(self) -> None:
        """Take one slot and never give it back; waits for as long as it must."""
        await self._free.acquire()
        self.leaked += 1
