"""The only clock: everything that asks for the time or waits takes one of these."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "FakeClock", "SystemClock", "wall"]


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never run backwards."""

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""

    def pause(self, seconds: float) -> None:
        """Wait for a number of seconds where nothing can be awaited; the whole thread stands still."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never run backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""
        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Wait for a number of seconds; the whole thread stands still."""
        time.sleep(seconds)


class FakeClock:
    """A clock that moves only when it is told to, or when somebody sleeps on it.

    Args:
        start: The time it shows first; 2026-01-01 00:00 UTC when not given.
        on_sleep: Called with the seconds of every sleep, after the clock has moved.
    """

    def __init__(self, start: datetime | None = None, on_sleep: Callable[[float], None] | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._seconds = 0.0
        self._on_sleep = on_sleep

    def now(self) -> datetime:
        """Return the time it was moved to."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds it was moved by."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Move forward by a number of seconds."""
        self._now += timedelta(seconds=seconds)
        self._seconds += seconds

    async def sleep(self, seconds: float) -> None:
        """Move forward at once and let other tasks run."""
        self.advance(seconds)
        if self._on_sleep:
            self._on_sleep(seconds)
        await asyncio.sleep(0)

    def pause(self, seconds: float) -> None:
        """Move forward at once."""
        self.advance(seconds)
        if self._on_sleep:
            self._on_sleep(seconds)


def wall(moment: datetime) -> str:
    """Write a time as rbkit shows it everywhere: UTC, to the second.

    Args:
        moment: A time with a zone.

    Returns:
        For example `2026-11-23 09:45:12Z`.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
