"""What a call costs: bytes and attempts, counted where they are spent, and cut off where the environment file says."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from rbkit.errors import BadAnswer
from rbkit.values import human_bytes

__all__ = ["MOST_BYTES", "Cost", "bounded", "counted", "remaining", "spend"]

MOST_BYTES = 20_000_000
"""The most bytes that one call may bring back, unless the environment file says otherwise."""


@dataclass
class Cost:
    """What one question has cost so far.

    Args:
        most_bytes: The most bytes that each attempt may bring back.
        bytes: The bytes that all attempts have brought back.
        attempts: How often it was asked.
        left: The bytes that the present attempt may still bring back.
    """

    most_bytes: int = MOST_BYTES
    bytes: int = 0
    attempts: int = 0
    left: int = MOST_BYTES

    def attempt(self) -> None:
        """Begin another attempt; it may bring back as much as the first one."""
        self.attempts += 1
        self.left = self.most_bytes


_cost: ContextVar[Cost | None] = ContextVar("cost", default=None)


@contextmanager
def counted(most_bytes: int = MOST_BYTES) -> Iterator[Cost]:
    """Count what is spent within the block."""
    cost = Cost(most_bytes, left=most_bytes)
    token = _cost.set(cost)
    try:
        yield cost
    finally:
        _cost.reset(token)


@contextmanager
def bounded() -> Iterator[Cost]:
    """Count towards whoever counts already; where nobody does, the usual limit holds within the block."""
    cost = _cost.get()
    if cost is not None:
        yield cost
    else:
        with counted() as cost:
            yield cost


def remaining() -> int:
    """Return how many bytes the present attempt may still bring back."""
    cost = _cost.get()
    return cost.left if cost else MOST_BYTES


def spend(count: int, who: str) -> None:
    """Count bytes that a system has sent.

    Args:
        count: How many.
        who: The system, for the error.

    Raises:
        BadAnswer: They are more than the environment file allows.
    """
    cost = _cost.get()
    if cost is None:
        return
    cost.bytes += count
    cost.left -= count
    if cost.left < 0:
        limit = human_bytes(cost.most_bytes)
        raise BadAnswer(f"{who} answered with more than {limit}.", todo="Narrow the query, or raise `limits.bytes`.")
