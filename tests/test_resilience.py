"""Which calls are repeated, how often, and how long one may take."""

import asyncio

import pytest

from rbkit import resilience
from rbkit.clock import FakeClock
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.resilience import read_safely


class Flaky:
    """A call that fails with each of these errors in turn, then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.calls = list(errors), 0

    async def __call__(self) -> str:
        """Fail or answer."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def read(call, clock: FakeClock | None = None) -> str:
    """Read safely on a clock that does not wait."""
    return asyncio.run(read_safely(call, clock or FakeClock(), "metrics"))


@pytest.mark.parametrize("error", [Unreachable("down"), BadAnswer("half")])
def test_a_read_that_may_succeed_later_is_repeated(error):
    """Two failures of reaching or understanding are survived."""
    call = Flaky(error, error)
    assert read(call) == "answer"
    assert call.calls == 3


@pytest.mark.parametrize(
    "error", [Refused("no"), MayHaveActed("?"), NotFound("none"), ValueError("bug"), KeyError("bug")]
)
def test_what_a_repetition_cannot_mend_is_raised_at_once(error):
    """A refusal, a doubt or a bug is not repeated."""
    call = Flaky(error)
    with pytest.raises(type(error)):
        read(call)
    assert call.calls == 1


def test_after_three_attempts_the_last_error_is_raised():
    """Nothing is repeated without end, and the error is the system's own."""
    call = Flaky(*(Unreachable(f"down {n}") for n in range(9)))
    with pytest.raises(Unreachable, match="down 2"):
        read(call)
    assert call.calls == 3


def test_the_waits_grow_and_are_bounded():
    """Between attempts the clock that was given waits, longer each time, never more than 2 s."""
    waits: list[float] = []
    clock = FakeClock(on_sleep=waits.append)
    read(Flaky(Unreachable("x"), Unreachable("x")), clock)
    assert len(waits) == 2
    assert 0.2 <= waits[0] <= 0.4 <= waits[1] <= 2.0


def test_a_call_that_hangs_is_given_up(monkeypatch):
    """A source that never answers counts as not reached, after three attempts, each of which is really ended."""
    monkeypatch.setattr(resilience, "CALL_S", 0.01)
    ended = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(Unreachable, match="metrics did not answer within"):
        read(hang)
    assert len(ended) == 3
