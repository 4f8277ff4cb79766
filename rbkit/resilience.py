"""Pure policies for a noisy world: which calls are repeated, how often, and how long one may take."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from rbkit.clock import Clock
from rbkit.errors import BadAnswer, StoreUnavailable, Unreachable

__all__ = ["CALL_S", "patiently", "read_safely"]

CALL_S = 15.0
"""The longest a single call may take, seconds."""
PATIENCE_S = 15.0
"""How long the store may be away before an effect fails for it, seconds."""
_ATTEMPTS = 3
T = TypeVar("T")


async def read_safely(call: Callable[[], Awaitable[T]], clock: Clock, what: str) -> T:
    """Make a call that is safe to repeat: three attempts, jittered backoff, each with a timeout.

    Args:
        call: Makes the call anew each time.
        clock: Waits between attempts.
        what: What is called, for the error.

    Returns:
        What the call returned.

    Raises:
        AdapterError: The last attempt's error; Unreachable when it timed out.
    """
    try:
        return await _timed(call, what)  # nearly always: without the cost of a policy
    except (Unreachable, BadAnswer) as error:
        failed: list[Exception] = [error]

    async def attempt() -> T:
        if failed:
            raise failed.pop()
        return await _timed(call, what)

    policy = AsyncRetrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential_jitter(multiplier=0.2, max=2.0, jitter=0.2),
        retry=retry_if_exception_type((Unreachable, BadAnswer)),
        sleep=clock.sleep,
        reraise=True,
    )
    result: T = await policy(attempt)
    return result


async def _timed(call: Callable[[], Awaitable[T]], what: str) -> T:
    try:
        async with asyncio.timeout(CALL_S):
            return await call()
    except TimeoutError as error:
        raise Unreachable(f"{what} did not answer within {CALL_S:.0f} s.") from error


def patiently(call: Callable[[], T], clock: Clock) -> T:
    """Use the store, and wait for it when it is away: a short outage must not cost a run.

    Args:
        call: Uses the store; safe to repeat.
        clock: Waits between attempts.

    Returns:
        What the call returned.

    Raises:
        StoreUnavailable: It stayed away for longer than rbkit waits.
    """
    try:
        return call()  # nearly always: without the cost of a policy
    except StoreUnavailable:
        ends = clock.monotonic() + PATIENCE_S
    policy = Retrying(
        stop=lambda attempt: clock.monotonic() >= ends,
        wait=wait_exponential_jitter(multiplier=0.05, max=1.0, jitter=0.05),
        retry=retry_if_exception_type(StoreUnavailable),
        sleep=clock.pause,
        reraise=True,
    )
    result: T = policy(call)
    return result
