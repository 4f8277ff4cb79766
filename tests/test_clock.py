"""The clocks."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

from rbkit.clock import FakeClock, SystemClock, wall


def test_the_machines_clock_is_in_utc_and_never_runs_backwards():
    """Wall time carries UTC; the other reading only grows, also over a sleep."""
    clock = SystemClock()
    before = clock.monotonic()
    asyncio.run(clock.sleep(0))
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() >= before


def test_a_fake_clock_stands_still_until_it_is_moved():
    """Nothing but `advance` and `sleep` moves it, both readings alike."""
    clock = FakeClock()
    assert (clock.now(), clock.monotonic()) == (datetime(2026, 1, 1, tzinfo=UTC), 0.0)
    clock.advance(90)
    assert (clock.now(), clock.monotonic()) == (datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC), 90.0)


def test_sleeping_on_a_fake_clock_takes_no_time_and_tells_whoever_asked():
    """A sleep moves the clock first and then calls the hook."""
    seen = []
    clock = FakeClock(datetime(2026, 6, 1, tzinfo=UTC), lambda seconds: seen.append((seconds, clock.monotonic())))
    asyncio.run(clock.sleep(3600))
    assert seen == [(3600, 3600.0)]
    assert clock.now() == datetime(2026, 6, 1, 1, tzinfo=UTC)


def test_sleeping_on_a_fake_clock_lets_others_run():
    """A loop that sleeps on a fake clock does not starve the task it waits for."""
    clock, done = FakeClock(), []

    async def wait() -> None:
        task = asyncio.ensure_future(asyncio.sleep(0, done.append("other")))
        while not task.done():
            await clock.sleep(1)

    asyncio.run(wait())
    assert done == ["other"]


def test_times_are_shown_in_utc_to_the_second():
    """Whatever its zone, a time is shown as UTC with a Z."""
    moment = datetime(2026, 11, 23, 10, 45, 12, 999_999, tzinfo=timezone(timedelta(hours=1)))
    assert wall(moment) == "2026-11-23 09:45:12Z"


def test_a_pause_waits_where_nothing_can_be_awaited(monkeypatch):
    """The machine's clock lets the thread sleep; a fake one is moved at once, and whoever asked is told."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    SystemClock().pause(15)
    assert slept == [15]
    seen = []
    fake = FakeClock(on_sleep=lambda seconds: seen.append((seconds, fake.monotonic())))
    fake.pause(15)
    assert seen == [(15, 15.0)]
    assert fake.now() == datetime(2026, 1, 1, 0, 0, 15, tzinfo=UTC)
    FakeClock().pause(1)
