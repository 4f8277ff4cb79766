"""Keeps watch over a kernel from outside: deadlines, requests to stop, the run's budget, progress."""

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from rbkit import events as ev
from rbkit.errors import IllegalMove, RunbookError
from rbkit.execute.processes import interrupt, kill_all
from rbkit.fold import RunState
from rbkit.journal import Journal
from rbkit.progress import Moment
from rbkit.reaping import reap

__all__ = ["Progress", "Watch"]

Progress = Callable[[Moment], None]
POLL_S = 0.1
REAP_S = 5.0
"""How often a watch looks for other runs whose process is dead, seconds."""
GRACE_S = 0.6
"""How long a kernel may take over its own way out before the next rung, seconds: interrupt, then kill.

Two rungs and the polls between them make less than two seconds: a request to stop is obeyed within them.
"""
OPEN_S = 120.0
"""How long a notebook may take to open its run."""
CLOSE_S = 30.0
"""How long a notebook may go on after its run is over."""
UNDO_GRACE_S = 120.0
"""How long a kernel that rolls back by itself may be silent."""


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
        self._told = max(0, len(journal.state.timeline) - 1)
        self._reaped_at = self._heard_at = journal.clock.monotonic()
        self._session = journal.session
        self._over = threading.Event()
        self._late_since: float | None = None
        self._interrupted = self._confirmed = False
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
            self._kill()
        self.tell()

    def ask_to_stop(self, reason: str) -> None:
        """Note that somebody wants the run to stop; safe in a signal handler."""
        self.reason = self.reason or reason

    def tell(self) -> None:
        """Report the events that were not reported yet."""
        timeline = self._journal.state.timeline
        fresh, self._told = timeline[self._told :], len(timeline)
        if fresh:
            self._heard_at = self._journal.clock.monotonic()
        for moment in fresh:
            self._progress(moment)

    def _loop(self) -> None:
        while not self._over.wait(POLL_S):
            try:
                self._look()
            except RunbookError as error:  # whatever it is, a kernel without a watch would be worse
                self.trouble = error.what

    def _look(self) -> None:
        self.tell()
        state = self._journal.state
        if state.opened and state.session != self._session:
            self.killed = "another process has taken the run over"
            self._kill()
            return
        self._pass_on(state)
        self._climb(state)
        if self._journal.clock.monotonic() - self._reaped_at > REAP_S:
            self._reaped_at = self._journal.clock.monotonic()
            reap(self._journal.store, self._journal.clock, but=self._journal.run)

    def _pass_on(self, state: RunState) -> None:
        """Write a signal or an exhausted budget into the journal, where the kernel sees it."""
        if not state.cancel and not self.reason and self._over_budget(state):
            self.reason = f"the budget of {self._budget_s:.0f} s is used up"
        if self.reason and state.opened and not state.cancel and not state.finished:
            with contextlib.suppress(IllegalMove):
                self._journal.append(ev.CancelRequested(reason=self.reason))

    def _over_budget(self, state: RunState) -> bool:
        """Whether this session took too long; waiting for people does not count, nor what follows a confirmation."""
        self._confirmed = self._confirmed or state.state == "confirming"
        if not state.started or state.finished or self._confirmed or _waits(state):
            return False
        age = (self._journal.clock.now() - datetime.fromisoformat(state.since)).total_seconds()
        return age - state.waited_s > self._budget_s

    def _climb(self, state: RunState) -> None:
        """Interrupt and then kill a kernel that does not find its own way out in time."""
        late = self._late(state)
        if not late:
            self._late_since, self._interrupted = None, False
            return
        now = self._journal.clock.monotonic()
        self._late_since = now if self._late_since is None else self._late_since
        undoes = state.state == "rolling_back"
        waited = now - max(self._late_since, self._heard_at if undoes else 0.0)
        if waited <= (UNDO_GRACE_S if undoes else GRACE_S):
            return
        if self._interrupted:
            self.killed = late
            self._kill()
        else:
            self._interrupted, self._late_since = True, now
            interrupt(self._pid)

    def _kill(self) -> None:
        kill_all(self._pid, self._journal.run, self._session)

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
        if step and not _waits(state) and now > datetime.fromisoformat(step.deadline) + timedelta(seconds=1):
            return f"step {step.name} took longer than its timeout"
        return ""


def _waits(state: RunState) -> bool:
    """Whether the run waits for people: that time is nobody's fault."""
    return state.asks is not None or state.state == "confirming"
