"""Waits for somebody to confirm that what was done may stand."""

from collections.abc import Callable
from datetime import datetime, timedelta

from rbkit import events as ev
from rbkit.clock import wall
from rbkit.journal import Journal
from rbkit.values import human

__all__ = ["confirmed"]

POLL_S = 0.25


def confirmed(journal: Journal, within_s: float, say: Callable[[str, str], None]) -> str:
    """Ask for a confirmation and wait for it; the thread stands still, and an interrupt ends the waiting.

    Args:
        journal: The run's journal.
        within_s: How long to wait, seconds.
        say: Shows one line.

    Returns:
        Why the run must be rolled back; empty when somebody confirmed it.
    """
    if journal.state.state != "confirming":
        until = journal.clock.now() + timedelta(seconds=within_s)
        journal.append(ev.ConfirmationRequested(until=until.isoformat(timespec="microseconds")))
        say("⏸", f"everything is done; confirm it until {wall(until)} ({human(within_s)}), or it is rolled back")
        say(" ", f"rbkit confirm {journal.run}")
    while True:
        state = journal.state
        if state.state != "confirming":
            return ""
        if state.cancel:
            return f"Stopped: {state.cancel}"
        if journal.clock.now() > datetime.fromisoformat(state.confirm_until):
            return f"Nobody confirmed it within {human(within_s)}"
        journal.clock.pause(POLL_S)
