"""What was done stands only when somebody confirms it in time."""

from typing import Any

import pytest
from sessions import taken

from rbkit import events as ev
from rbkit.confirming import confirmed
from rbkit.journal import Journal


def after(rig: Any, seconds: float, then: Any) -> None:
    """Let something happen once when the clock has come so far."""
    left = [then]

    def looks(slept: float) -> None:
        if left and rig.clock.monotonic() >= seconds:
            left.pop()()

    rig.clock._on_sleep = looks


def says(rig: Any, event: ev.Event) -> Any:
    """Say something to the run as an onlooker does."""
    return lambda: Journal(rig.store, rig.journal().run, "cli", actor="os:boss", clock=rig.clock, session=0).append(
        event
    )


def test_somebody_confirms(rig) -> None:
    """The run is open again and has nothing against its end; it was said until when, and how."""
    journal = rig.open().journal
    after(rig, 30.0, says(rig, ev.Confirmed(reason="looks good")))
    assert confirmed(journal, 60.0, rig.screen.line) == "" and journal.state.state == "open"
    assert rig.clock.monotonic() == 30.0 and rig.events("confirmation_requested")[0]["until"] > "2026-01-01T00:01"
    assert rig.screen.lines == [
        "⏸ everything is done; confirm it until 2026-01-01 00:01:00Z (1m 00s), or it is rolled back",
        f"  rbkit confirm {journal.run}",
    ]


def test_nobody_confirms(rig) -> None:
    """When the time is over the run must be rolled back."""
    assert confirmed(rig.open().journal, 60.0, rig.screen.line) == "Nobody confirmed it within 1m 00s"
    assert 60.0 < rig.clock.monotonic() < 61.0


def test_somebody_stops_the_run(rig) -> None:
    """A request to stop is an answer."""
    after(rig, 10.0, says(rig, ev.CancelRequested(reason="no good")))
    assert confirmed(rig.open().journal, 60.0, rig.screen.line) == "Stopped: no good"
    assert rig.clock.monotonic() == 10.0


def test_a_wait_that_was_interrupted_goes_on(rig) -> None:
    """The cell is run again: the time is still the first one, and nothing is asked twice."""
    journal = rig.open().journal

    def interrupts() -> None:
        raise KeyboardInterrupt

    after(rig, 50.0, interrupts)
    with pytest.raises(KeyboardInterrupt):
        confirmed(journal, 60.0, rig.screen.line)
    assert confirmed(journal, 60.0, rig.screen.line).startswith("Nobody confirmed")
    assert rig.clock.monotonic() < 61.0 and rig.kinds().count("confirmation_requested") == 1


def test_a_process_whose_run_was_taken_over_waits_no_longer(rig) -> None:
    """Whoever has the run now asks anew."""
    after(rig, 10.0, lambda: taken(rig))
    assert confirmed(rig.open().journal, 600.0, rig.screen.line) == "" and rig.clock.monotonic() == 30.0
