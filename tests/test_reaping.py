"""Nothing says that it runs without a live lease."""

import pytest

from rbkit import events as ev
from rbkit.errors import Fenced, StoreUnavailable
from rbkit.journal import AUDIT, Journal
from rbkit.leases import LEASE_S, new_holder, run_lease, take
from rbkit.reaping import ORPHANED, began, lost, reap

RUN = "20260101-000000-aaaaaa"
OTHER = "20260101-000000-bbbbbb"
HOLDER = f"{RUN}/here/1/abcdef"


def abandoned(rig, run: str = RUN) -> Journal:
    """Open a run whose step is in progress, and let its process die."""
    journal = rig.started(run=run).journal
    take(rig.store, run, HOLDER.replace(RUN, run), rig.clock)
    rig.clock.advance(LEASE_S)
    return journal


def test_a_run_with_a_live_lease_is_not_lost(rig):
    """While its process renews the lease, a run is what its journal says."""
    journal = rig.started().journal
    take(rig.store, RUN, HOLDER, rig.clock)
    assert lost(rig.store, journal.state, rig.clock.now()) == ""


def test_a_run_whose_lease_has_lapsed_is_lost(rig):
    """From the moment its lease ends nobody calls it running; which process, and since when, is said."""
    state = abandoned(rig).state
    assert lost(rig.store, state, rig.clock.now()) == "process 1 on here was last heard of before 2026-01-01 00:00:15Z"


def test_a_run_that_is_renewed_while_it_is_looked_at_is_not_lost(rig):
    """A lease that was renewed just after the time was read is no lease from before a clock was set back."""
    journal = rig.started().journal
    take(rig.store, RUN, HOLDER, rig.clock)
    now = rig.clock.now()
    rig.clock.advance(2)
    rig.store.renew(HOLDER, rig.clock.now(), LEASE_S)
    assert lost(rig.store, journal.state, now) == ""
    assert lost(rig.store, journal.state, now.replace(year=2025)) != ""


def test_a_run_that_nobody_holds_is_lost(rig):
    """Without any lease no process can be working on it."""
    assert lost(rig.store, rig.started().journal.state, rig.clock.now()) == "no process holds it"


@pytest.mark.parametrize("over", [True, False])
def test_a_run_that_is_over_or_never_began_is_not_lost(rig, over):
    """Nobody needs to hold it."""
    journal = rig.open().journal if over else rig.journal()
    if over:
        journal.append(ev.RunClosed(outcome="failed", reason=""))
    assert lost(rig.store, journal.state, rig.clock.now()) == ""


@pytest.mark.parametrize(("why", "said"), [("it hung", "it hung"), ("", "its process was lost")])
def test_a_run_that_is_marked_is_lost_whoever_holds_it(rig, why, said):
    """What the mark says is what is said, until a session begins."""
    rig.started()
    journal = rig.journal()
    journal.append(began(2, "interruption", why))
    take(rig.store, RUN, HOLDER, rig.clock)
    assert journal.state.state in ORPHANED and lost(rig.store, journal.state, rig.clock.now()) == said


def test_a_dead_run_is_marked_as_interrupted(rig):
    """A run whose lease has lapsed is marked with why; its step no longer runs and its lease is free."""
    journal = abandoned(rig)
    assert reap(rig.store, rig.clock) == [RUN]
    state = journal.state
    assert (state.state, state.session, state.steps["work"].state) == ("interrupted", 2, "interrupted")
    assert state.lost == "process 1 on here was last heard of before 2026-01-01 00:00:15Z"
    assert rig.store.leases() == [] and reap(rig.store, rig.clock, thoroughly=True) == []
    assert rig.kinds().count("session_began") == 1


def test_a_run_on_its_way_out_is_marked_as_stranded(rig):
    """One that was being rolled back can only be rolled back or abandoned."""
    journal = abandoned(rig)
    journal.append(ev.StepFailed(step="work", error="E", why="w", seconds=1.0))
    journal.append(ev.RollbackStarted(why="w", undo=[], irreversible=[]))
    assert reap(rig.store, rig.clock) == [RUN] and journal.state.state == "stranded"


def test_a_dead_process_that_wakes_up_is_fenced(rig):
    """Whoever was away for longer than its lease writes nothing into a run that was marked."""
    journal = abandoned(rig)
    reap(rig.store, rig.clock)
    with pytest.raises(Fenced):
        journal.append(ev.StepDone(step="work", result=None, seconds=1.0))


def test_a_live_run_is_left_alone(rig):
    """A run that is held is not touched, nor is one that was held when others were looked for."""
    rig.started()
    take(rig.store, RUN, HOLDER, rig.clock)
    assert reap(rig.store, rig.clock, thoroughly=True) == []
    leases = rig.store.leases
    rig.clock.advance(LEASE_S)
    answers = [leases()]
    rig.store.renew(HOLDER, rig.clock.now(), LEASE_S)
    rig.store.leases = lambda: answers.pop() if answers else leases()
    assert reap(rig.store, rig.clock) == [] and "session_began" not in rig.kinds()


def test_a_run_that_another_was_quicker_to_take_is_left_alone(rig, monkeypatch):
    """Who is beaten to it by a process that resumes the run, or marks it, gives the lease back and says nothing."""
    abandoned(rig)

    def beaten(*args: object) -> object:
        lease = take(*args)
        rig.journal().append(began(lease.token, "interruption", "first"))
        return lease

    monkeypatch.setattr("rbkit.reaping.take", beaten)
    assert reap(rig.store, rig.clock) == [] and rig.store.leases() == []
    assert [event["why"] for event in rig.events("session_began")] == ["first"]


def test_a_run_without_a_lease_is_found_by_a_thorough_look(rig):
    """A quick look follows leases only; a thorough one sees every run, and the audit journal is none."""
    rig.started()
    Journal(rig.store, AUDIT, "cli", clock=rig.clock).append(ev.InputRefused(runbook="b", field="f", why="w"))
    assert reap(rig.store, rig.clock) == []
    assert reap(rig.store, rig.clock, thoroughly=True) == [RUN]
    assert rig.journal().state.lost == "no process holds it"


def test_the_number_of_the_session_is_higher_than_any_before(rig):
    """A store whose leases were lost gives low tokens; the session still goes on from the journal's number."""
    journal = rig.started().journal
    for session, purpose in ((4, "interruption"), (7, "resume")):
        journal.append(began(session, purpose, ""))
    assert reap(rig.store, rig.clock, thoroughly=True) == [RUN]
    assert (journal.state.session, journal.state.state) == (8, "interrupted")


@pytest.mark.parametrize("state", ["closed", "never opened", "interrupted"])
def test_a_lapsed_lease_on_a_run_that_needs_nobody_is_given_back(rig, state):
    """A process that died after the end, before the beginning, or while taking over leaves no lease for ever."""
    journal = rig.journal() if state == "never opened" else rig.open().journal
    if state == "closed":
        journal.append(ev.RunClosed(outcome="failed", reason=""))
    if state == "interrupted":
        journal.append(began(2, "interruption", ""))
    kinds = rig.kinds()
    take(rig.store, RUN, HOLDER, rig.clock)
    rig.clock.advance(LEASE_S)
    assert reap(rig.store, rig.clock) == []
    assert rig.store.leases() == [] and rig.kinds() == kinds


def test_a_broken_journal_does_not_hide_the_other_dead_runs(rig):
    """One that was tampered with is left to `verify`; the others are marked."""
    abandoned(rig)
    abandoned(rig, OTHER)
    rig.store.journals[RUN][0] = rig.store.journals[RUN][0].model_copy(update={"actor": "os:mallory"})
    assert reap(rig.store, rig.clock) == [OTHER]


def test_a_store_that_goes_away_meanwhile_is_said_to_be_away(rig, monkeypatch):
    """A run that could not be marked is not called marked; the next look finds it."""
    abandoned(rig)

    def away(entry: object) -> bool:
        raise StoreUnavailable("The store is away.")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "append", away)
        with pytest.raises(StoreUnavailable):
            reap(rig.store, rig.clock)
    assert reap(rig.store, rig.clock, thoroughly=True) == [RUN]


def test_a_session_names_the_process_that_begins_it():
    """Who takes a run over is found again by machine and process."""
    event = began(2, "resume", "w", "sha256:1", ["step a was taken out"])
    _, host, pid, _ = new_holder(RUN).split("/")
    assert (event.host, str(event.pid), event.digest, event.differences, event.move) == (
        host, pid, "sha256:1", ["step a was taken out"], "resume",
    )  # fmt: skip
    assert run_lease(RUN) == f"run:{RUN}"
