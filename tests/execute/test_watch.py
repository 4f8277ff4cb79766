"""The watch over a kernel: budgets, requests to stop, other runs whose process is dead; nothing ends it but its run."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.errors import IllegalMove, StoreUnavailable
from rbkit.execute import watch as watching
from rbkit.execute.supervise import Supervision
from rbkit.execute.watch import Watch
from rbkit.facts import Event
from rbkit.journal import Journal
from rbkit.leases import Keeper, new_holder, take
from rbkit.progress import Moment
from rbkit.reaping import began
from rbkit.settings import Settings
from rbkit.values import new_run_id


class Watched:
    """A kernel that only notes what is done to it, and the watch over it.

    Args:
        rig: Store and clock.
        monkeypatch: Puts the notes in place of signals.
        budget_s: The run's budget, seconds.
    """

    def __init__(self, rig: Any, monkeypatch: pytest.MonkeyPatch, budget_s: float = 60.0) -> None:
        self.rig, self.done, self.told = rig, list[Any](), list[Moment]()
        monkeypatch.setattr(watching, "interrupt", lambda pid: self.done.append("interrupted"))
        monkeypatch.setattr(watching, "kill_all", lambda pid, run, session: self.done.append(("killed", session)))
        rig.open()
        self.kernel: Journal = rig.journal()
        self.watch = Watch(rig.journal(source="supervisor"), self.told.append, budget_s)
        self.watch._pid = 1

    def write(self, *events: Event) -> None:
        """Let the kernel write."""
        for event in events:
            self.kernel.append(event)

    def begin(self, timeout_s: float = 600.0) -> None:
        """Begin a step."""
        deadline = (self.rig.clock.now() + timedelta(seconds=timeout_s)).isoformat()
        self.write(ev.StepStarted(step="work", intent="", risk="low", timeout_s=timeout_s, deadline=deadline))

    def look(self, seconds: float, every: float = watching.POLL_S) -> float:
        """Let time pass while the watch looks; return the seconds until something was done to the kernel."""
        for turn in range(round(seconds / every)):
            before = len(self.done)
            self.watch._look()
            if len(self.done) > before:
                return turn * every
            self.rig.clock.advance(every)
        return seconds


@pytest.fixture
def watched(rig: Any, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A kernel with a watch over it."""
    return Watched(rig, monkeypatch)


def request(until: str = "2026-01-02T00:00:00+00:00") -> ev.ApprovalRequested:
    """A request for an approval."""
    return ev.ApprovalRequested(
        step="work", risk="high", needed=1, digest="d", plan={"changes": []}, until=until, valid_s=600,
        approvers=["*"], own=True,
    )  # fmt: skip


def test_a_request_to_stop_is_obeyed_within_two_seconds(watched: Watched) -> None:
    """A kernel that does not find its own way out is interrupted, and killed with its session's processes only."""
    watched.begin()
    watched.look(1.0)
    assert watched.done == []
    watched.rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
    waited = watched.look(2.0) + watched.look(2.0)
    assert watched.done == ["interrupted", ("killed", 1)]
    assert waited + 3 * watching.POLL_S < 2.0
    assert watched.watch.killed == "stopped: enough"


def test_a_signal_becomes_a_request_to_stop(watched: Watched) -> None:
    """What is asked of the supervisor stands in the journal, where the kernel sees it; asked twice it stands once."""
    watched.watch.ask_to_stop("SIGTERM from outside")
    watched.watch.ask_to_stop("SIGINT from outside")
    watched.look(0.3)
    assert [event["reason"] for event in watched.rig.events("cancel_requested")] == ["SIGTERM from outside"]


def test_a_kernel_that_undoes_is_given_time_as_long_as_it_is_heard_of(watched: Watched) -> None:
    """A rollback may take long; it is stopped only when nothing more comes of it."""
    watched.write(ev.CancelRequested(reason="enough"), ev.RollbackStarted(why="enough", undo=[], irreversible=[]))
    for _ in range(5):
        assert watched.look(100.0, every=1.0) == 100.0
        watched.write(ev.LeaseAwaited(target="a", holder="b", until="2026-01-02T00:00:00+00:00"))
    assert watched.done == []
    assert watched.look(200.0, every=1.0) == pytest.approx(watching.UNDO_GRACE_S, abs=2)
    assert watched.done == ["interrupted"]


def test_the_budget_does_not_run_while_people_are_waited_for(watched: Watched) -> None:
    """The time between a request for approval and its answer belongs to nobody; a step's deadline moves with it."""
    watched.begin(timeout_s=50.0)
    watched.look(30.0, every=1.0)
    watched.write(request())
    watched.look(3600.0, every=10.0)
    watched.rig.journal(source="cli").append(ev.ApprovalGiven(digest="d"))
    watched.write(ev.ApprovalEnded(digest="d", result="granted", why=""))
    watched.look(15.0, every=1.0)
    assert (watched.done, watched.kernel.state.cancel) == ([], "")
    watched.write(ev.StepDone(step="work", result=None, seconds=1.0))
    watched.look(30.0, every=1.0)
    assert watched.kernel.state.cancel == "the budget of 60 s is used up"


def test_the_budget_does_not_run_while_a_confirmation_is_waited_for(watched: Watched) -> None:
    """Whoever confirms late, but in time, is not told afterwards that the budget was used up."""
    watched.write(ev.ConfirmationRequested(until="2026-01-02T00:00:00+00:00"))
    watched.look(3600.0, every=10.0)
    watched.rig.journal(source="cli").append(ev.Confirmed())
    watched.look(30.0, every=1.0)
    assert watched.kernel.state.cancel == ""


def test_a_resumed_run_has_its_budget_again(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in which nobody ran it does not count, nor what the session before used up."""
    watched = Watched(rig, monkeypatch)
    rig.clock.advance(7200.0)
    resumer = Journal(rig.store, watched.kernel.run, "cli", actor="os:test", clock=rig.clock, session=0)
    resumer.append(began(2, "resume", ""))
    second = Journal(rig.store, watched.kernel.run, "supervisor", actor="os:test", clock=rig.clock, session=2)
    watched.watch = Watch(second, watched.told.append, 60.0)
    watched.look(59.0, every=1.0)
    assert second.state.cancel == ""
    watched.look(5.0, every=1.0)
    assert "budget" in second.state.cancel


@pytest.mark.parametrize("late", ["step", "opening", "closing"])
def test_what_takes_too_long_is_stopped(rig: Any, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """A step past its timeout, a notebook that never opens its run, and one that goes on after it are stopped."""
    watched = Watched(rig, monkeypatch, budget_s=10_000.0)
    if late == "step":
        watched.begin(timeout_s=20.0)
    elif late == "closing":
        watched.write(ev.RunClosed(outcome="failed", reason=""))
    else:
        watched.watch = Watch(rig.journal(run="20260101-000000-bbbbbb"), watched.told.append, 60.0)
        watched.watch._pid = 1
    limit = {"step": 20.0, "opening": watching.OPEN_S, "closing": watching.CLOSE_S}[late]
    assert limit < watched.look(300.0) < limit + 3
    assert watched.look(3.0) < 3
    words = {"step": "longer than its timeout", "opening": "not opened within", "closing": "after the run was over"}
    assert words[late] in watched.watch.killed


def test_a_run_that_was_taken_over_is_let_go(watched: Watched) -> None:
    """The kernel of the older session is killed at once, and nothing more is written."""
    Journal(watched.rig.store, watched.kernel.run, "cli", actor="os:b", clock=watched.rig.clock, session=0).append(
        began(7, "resume", "")
    )
    watched.watch.ask_to_stop("SIGTERM from outside")
    watched.watch._look()
    assert watched.done == [("killed", 1)]
    assert watched.watch.killed == "another process has taken the run over"
    assert not watched.rig.events("cancel_requested")


def test_the_dead_are_found_within_thirty_seconds(watched: Watched) -> None:
    """Whoever supervises a run also journals that another one, whose process is dead, was interrupted."""
    rig, other = watched.rig, "20260101-000000-bbbbbb"
    rig.open(run=other)
    take(rig.store, other, new_holder(other), rig.clock)
    own = new_holder(watched.kernel.run)
    take(rig.store, watched.kernel.run, own, rig.clock)
    seconds = 0
    while rig.journal(run=other).state.state != "interrupted":
        Keeper(rig.store, own, rig.clock).renew()
        watched.look(1.0, every=0.5)
        seconds += 1
    assert 15 <= seconds < 30
    assert watched.kernel.state.state == "open"


def test_nothing_that_goes_wrong_ends_the_watch(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away, or a move that is refused, is noted; the next look comes as always."""
    looks: list[Exception] = [StoreUnavailable("away"), IllegalMove("not now")]

    def look() -> None:
        if not looks:
            watched.watch._over.set()
            return
        raise looks.pop(0)

    monkeypatch.setattr(watched.watch, "_look", look)
    monkeypatch.setattr(watching, "POLL_S", 0.001)
    watched.watch._loop()
    assert watched.watch.trouble == "not now"


@pytest.mark.parametrize("error", [BrokenPipeError(), SystemExit(1)])
def test_a_lost_terminal_is_nobodys_trouble(error: BaseException) -> None:
    """Output that fails, as rich ends the process for it, stops neither watch nor run."""

    def fails(*what: object) -> None:
        raise error

    supervision = Supervision(new_run_id(SystemClock()), Settings(), progress=fails, on_cell=fails)
    tell: Callable[..., None] = supervision.progress
    tell(None)
    supervision.on_cell(1, None)


def test_a_new_run_does_not_inherit_what_binds_a_kernel_to_another() -> None:
    """A run that is started inside another's kernel is in its own first session, and of whoever is at the keyboard."""
    inherited = Settings(session=7, mode="resume", actor="os:forged")
    fresh = Supervision("20260101-000000-bbbbbb", inherited).settings
    assert (fresh.session, fresh.mode, fresh.actor) == (1, "live", "")
    taken = Supervision("20260101-000000-bbbbbb", inherited, holder="20260101-000000-bbbbbb/h/1/a").settings
    assert (taken.session, taken.mode, taken.actor) == (7, "resume", "os:forged")
    assert Supervision("20260101-000000-bbbbbb", Settings(mode="dry_run")).settings.mode == "dry_run"
