"""Keeps watch over a kernel from outside: deadlines, requests to stop, the run's budget, progress."""

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from rbkit import events as ev
from rbkit.errors import IllegalMove, StoreUnavailable
from rbkit.execute.processes import interrupt, kill_all
from rbkit.fold import Moment, RunState
from rbkit.journal import Journal

__all__ = ["Progress", "Watch"]

Progress = Callable[[Moment], None]
POLL_S = 0.2
GRACE_S = 3.0
"""How long a kernel may take over its own way out before the next rung: interrupt, then kill."""
OPEN_S = 120.0
"""How long a notebook may take to open its run."""
CLOSE_S = 30.0
"""How long a notebook may go on after its run is over."""
UNDO_GRACE_S = 120.0
"""How long a kernel may take to roll back by itself."""


class Watch:
    """Watches one kernel, in a thread of its own, by reading the journal.

    Args:
        journal: The run's journal, as this thread sees it.
        progress: Called with every new event.
        budget_s: The longest the run may take, seconds.
    """

    def __init__(self, journal: Journal, progress: Progress, budget_s: float) -> None:
        self._journal, self._progress, self._budget_s = journal, progress, budget_s
        self._pid, self._since = 0, journal.clock.now()
        self._told = 0
        self._over = threading.Event()
        self._late_since: datetime | None = None
        self._interrupted = False
        self._thread = threading.Thread(target=self._loop, name="rbkit-watch", daemon=True)
        self.reason = ""
        self.killed = ""
        self.trouble = ""

    def start(self, pid: int) -> None:
        """Begin to watch a kernel."""
        self._pid, self._since = pid, self._journal.clock.now()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, kill what the kernel left behind, and tell what is still to be told."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._pid:
            kill_all(self._pid, self._journal.run)
        self.tell()

    def ask_to_stop(self, reason: str) -> None:
        """Note that somebody wants the run to stop; safe in a signal handler."""
        self.reason = self.reason or reason

    def tell(self) -> None:
        """Report the events that were not reported yet."""
        timeline = self._journal.state.timeline
        for moment in timeline[self._told :]:
            self._progress(moment)
        self._told = len(timeline)

    def _loop(self) -> None:
        while not self._over.wait(POLL_S):
            try:
                self._look()
            except StoreUnavailable as error:
                self.trouble = error.what

    def _look(self) -> None:
        self.tell()
        state = self._journal.state
        self._pass_on(state)
        self._climb(state)

    def _pass_on(self, state: RunState) -> None:
        """Write a signal or an exhausted budget into the journal, where the kernel sees it."""
        if state.started and not state.cancel and not self.reason:
            age = self._journal.clock.now() - datetime.fromisoformat(state.started)
            if age.total_seconds() > self._budget_s and not state.finished:
                self.reason = f"the budget of {self._budget_s:.0f} s is used up"
        if self.reason and state.opened and not state.cancel and not state.finished:
            with contextlib.suppress(IllegalMove):
                self._journal.append(ev.CancelRequested(reason=self.reason))

    def _climb(self, state: RunState) -> None:
        """Interrupt and then kill a kernel that does not find its own way out in time."""
        late = self._late(state)
        if not late:
            self._late_since, self._interrupted = None, False
            return
        now = self._journal.clock.now()
        self._late_since = self._late_since or now
        waited = (now - self._late_since).total_seconds()
        grace = UNDO_GRACE_S if state.state == "rolling_back" else GRACE_S
        if waited > grace and not self._interrupted:
            self._interrupted, self._late_since = True, now
            interrupt(self._pid)
        elif waited > grace:
            self.killed = late
            kill_all(self._pid, self._journal.run)

    def _late(self, state: RunState) -> str:
        now = self._journal.clock.now()
        if state.finished:
            after = now - datetime.fromisoformat(state.ended)
            return "a cell went on after the run was over" if after.total_seconds() > CLOSE_S else ""
        if not state.opened and (now - self._since).total_seconds() > OPEN_S:
            return f"the run was not opened within {OPEN_S:.0f} s"
        if state.cancel or self.reason:
            return f"stopped: {state.cancel or self.reason}"
        step = state.running_step
        if step and now > datetime.fromisoformat(step.deadline) + timedelta(seconds=1):
            return f"step {step.name} took longer than its timeout"
        return ""
