"""Which calls are repeated, how often, and how long one may take."""

import asyncio

import pytest

from rbkit.clock import FakeClock
from rbkit.errors import BadAnswer, JournalBroken, MayHaveActed, NotFound, Refused, StoreUnavailable, Unreachable
from rbkit.resilience import PATIENCE_S, patiently, read_safely


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


def read(call, clock: FakeClock | None = None, within_s: float = 15.0) -> str:
    """Read safely on a clock that does not wait."""
    return asyncio.run(read_safely(call, clock or FakeClock(), "metrics", within_s))


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


def test_a_call_that_hangs_is_given_up():
    """A source that never answers counts as not reached, after three attempts, each of which is really ended."""
    ended = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(Unreachable, match="metrics did not answer within"):
        read(hang, within_s=0.01)
    assert len(ended) == 3


class Store:
    """A store that is away until a moment on a clock."""

    def __init__(self, clock: FakeClock, back: float = 0.0) -> None:
        self.clock, self.back, self.asked = clock, back, list[float]()

    def __call__(self) -> str:
        """Answer, or be away."""
        self.asked.append(self.clock.monotonic())
        if self.clock.monotonic() < self.back:
            raise StoreUnavailable(f"away at {self.clock.monotonic():.1f}")
        return "written"


def test_a_store_that_is_there_is_asked_once_and_nothing_is_waited_for():
    """In the good case patience costs one call: no policy is made, the clock is not even looked at."""

    class NoClock(FakeClock):
        def monotonic(self) -> float:
            raise AssertionError("looked at the clock")

    store = Store(FakeClock())
    assert patiently(store, NoClock()) == "written"
    assert store.asked == [0.0]


@pytest.mark.parametrize("away", [0.01, 1.0, 5.0, PATIENCE_S - 1.1])
def test_a_store_that_comes_back_in_time_costs_nothing_but_time(away):
    """It is asked again and again, at least once a second, until it answers."""
    clock = FakeClock()
    store = Store(clock, away)
    assert patiently(store, clock) == "written"
    waits = [later - earlier for earlier, later in zip(store.asked, store.asked[1:], strict=False)]
    assert max(waits) <= 1.1
    assert clock.monotonic() - away <= 1.1


def test_a_store_that_stays_away_is_given_up_after_15_seconds():
    """Then its own error is raised, and nothing is asked any more."""
    clock = FakeClock()
    store = Store(clock, 1e9)
    with pytest.raises(StoreUnavailable, match="away at 15"):
        patiently(store, clock)
    assert PATIENCE_S == 15.0 <= clock.monotonic() <= 16.1
    assert len(store.asked) <= 40


def test_only_a_store_that_is_away_is_waited_for():
    """Whatever else goes wrong is raised at once, also in the middle of the waiting."""
    clock = FakeClock()
    errors = [StoreUnavailable("away"), StoreUnavailable("away"), JournalBroken("cut", seq=3)]

    def call() -> None:
        raise errors.pop(0)

    with pytest.raises(JournalBroken):
        patiently(call, clock)
    assert (errors, clock.monotonic() < 1) == ([], True)


@pytest.mark.parametrize(("asked_s", "calls"), [(3.0, 2), (11.0, 1)])
def test_a_system_that_asks_for_time_is_given_it_if_it_is_short(asked_s, calls):
    """It is waited for at least as long as it said; where that is long, its error is told at once."""
    clock, call = FakeClock(), Flaky(BadAnswer("answered 429", retry_after_s=asked_s))
    began = clock.monotonic()
    if calls == 1:
        with pytest.raises(BadAnswer, match="429"):
            read(call, clock)
    else:
        assert read(call, clock) == "answer" and clock.monotonic() - began >= asked_s
    assert call.calls == calls
