"""Pure policies for a noisy world: which calls are repeated, how often, and how long one may take."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from rbkit.clock import Clock
from rbkit.errors import AdapterError, BadAnswer, StoreUnavailable, Unreachable
from rbkit.values import human

__all__ = ["patiently", "read_safely"]

PATIENCE_S = 15.0
"""How long the store may be away before an effect fails for it, seconds."""
_ATTEMPTS = 3
_LONGEST_WAIT_S = 10.0
_jitter = wait_exponential_jitter(multiplier=0.2, max=2.0, jitter=0.2)
T = TypeVar("T")


async def read_safely(call: Callable[[], Awaitable[T]], clock: Clock, what: str, within_s: float) -> T:
    """Make a call that is safe to repeat: three attempts, jittered backoff, each with a timeout.

    A system that asks to be left alone for a while is, as long as that is short; else its error is told at once.

    Args:
        call: Makes the call anew each time.
        clock: Waits between attempts.
        what: What is called, for the error.
        within_s: The longest that one attempt may take, seconds.

    Returns:
        What the call returned.

    Raises:
        AdapterError: The last attempt's error; Unreachable when it timed out.
    """
    try:
        return await _timed(call, what, within_s)  # nearly always: without the cost of a policy
    except (Unreachable, BadAnswer) as error:
        if not _worth_another(error):
            raise
        failed: list[Exception] = [error]

    async def attempt() -> T:
        if failed:
            raise failed.pop()
        return await _timed(call, what, within_s)

    policy = AsyncRetrying(
        stop=stop_after_attempt(_ATTEMPTS), wait=_wait, retry=retry_if_exception(_worth_another), sleep=clock.sleep,
        reraise=True,
    )  # fmt: skip
    result: T = await policy(attempt)
    return result


def _worth_another(error: BaseException) -> bool:
    return isinstance(error, Unreachable | BadAnswer) and error.retry_after_s <= _LONGEST_WAIT_S


def _wait(state: RetryCallState) -> float:
    """Wait a little, at random; longer if the system has asked for it."""
    error = state.outcome.exception() if state.outcome else None
    return max(_jitter(state), error.retry_after_s if isinstance(error, AdapterError) else 0.0)


async def _timed(call: Callable[[], Awaitable[T]], what: str, within_s: float) -> T:
    try:
        async with asyncio.timeout(within_s):
            return await call()
    except TimeoutError as error:
        raise Unreachable(f"{what} did not answer within {human(within_s)}.") from error


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
