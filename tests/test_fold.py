"""State is a fold over the events."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit import events as ev
from rbkit.entries import read_event, seal_entry
from rbkit.errors import IllegalMove
from rbkit.events import Call
from rbkit.fold import RunState, fold
from rbkit.machine import FINISHED

CALM = settings(derandomize=True, deadline=None, database=None, max_examples=60)
CALL = Call(capability="balancer", action="drain", target="c-2")
BACK = Call(capability="balancer", action="ready", target="c-2")
OPENED = ev.RunOpened(
    runbook="b", version="1", owner="me", mode="live", environment="e", environment_digest="", digest="", contract={},
    parameters={}, driver="headless", host="h", pid=1, notebook="", budget_s=60,
)  # fmt: skip
STARTED = ev.StepStarted(step="drain", intent="Drain it.", risk="high", timeout_s=30, deadline="later")


def folded(*events: ev.Event) -> RunState:
    """Fold events, one second apart."""
    return fold((seal_entry("r", n, f"t{n}", "os:a", "kernel", event, ""), event) for n, event in enumerate(events))


def intended(key: str = "k", undoes: str = "") -> ev.ChangeIntended:
    """Intend to drain, or to take that back."""
    call, inverse = (BACK, CALL) if undoes else (CALL, BACK)
    return ev.ChangeIntended(
        key=key, step="drain", call=call, before={"state": "ready"}, after={"state": "drain"}, inverse=inverse,
        undoes=undoes,
    )  # fmt: skip


def done(key: str = "k", how: str = "applied") -> ev.ChangeDone:
    """Say that a change holds."""
    return ev.ChangeDone(key=key, how=how, after={"state": "drain"}, seconds=1)


@CALM
@given(st.lists(st.integers(0, 1000), max_size=40))
def test_folding_the_beginning_of_a_journal_never_fails(walk, choices):
    """A process that sees only the first entries of a legal journal has a state, and reading on adds to it."""
    pairs = [(entry, read_event(entry)) for entry in walk(choices)]
    grown = RunState()
    for length, pair in enumerate(pairs, 1):
        grown.apply(*pair)
        assert fold(pairs[:length]) == grown
        assert len(grown.timeline) == length
        assert grown.finished == (grown.state in FINISHED)


@CALM
@given(st.lists(st.integers(0, 1000), max_size=30))
def test_checking_an_event_changes_nothing_and_says_what_applying_does(walk, every_event, choices):
    """What `check` lets through can be applied, what it refuses cannot, and asking alone leaves the state as it was."""
    pairs = [(entry, read_event(entry)) for entry in walk(choices)]
    for event in every_event("x"):
        state = fold(pairs)
        try:
            following = state.check(event)
        except IllegalMove:
            assert state == fold(pairs)
            continue
        assert state == fold(pairs)
        state.apply(seal_entry("r", len(pairs), "", "", "", event, ""), event)
        assert state.state == following


@pytest.mark.parametrize(
    ("before", "event", "name"),
    [
        ((OPENED, STARTED), done("other"), "other"),
        ((OPENED, STARTED), ev.ChangeUnknown(key="other", error="E", why=""), "other"),
        ((OPENED, STARTED), intended("u", undoes="other"), "other"),
        ((OPENED, STARTED), ev.StepDone(step="restart", result=None, seconds=1), "restart"),
        (
            (OPENED, ev.CheckStarted(name="a", phase="precondition", sentence="")),
            ev.CheckEnded(name="b", phase="precondition", verdict="PASS", why="", seconds=1),
            "b",
        ),
    ],
)
def test_nothing_ends_that_never_began(before, event, name):
    """A result without its beginning is an illegal move that names it, in one sentence."""
    with pytest.raises(
        IllegalMove, match=f"Nothing named '{name}' has begun in this run, so .* is not possible"
    ) as caught:
        folded(*before, event)
    assert caught.value.what.count(".") == 1


def test_a_run_knows_when_and_by_whom_it_was_opened_and_how_it_ended():
    """Opening, outcome, reason, seal and every moment are kept."""
    sealed = ev.RecordSealed(notebook="n", cells=[])
    state = folded(OPENED, ev.RunClosed(outcome="failed", reason="broke"), sealed)
    assert (state.opened, state.started, state.actor, state.run) == (OPENED, "t0", "os:a", "r")
    assert (state.outcome, state.reason, state.ended, state.sealed) == ("failed", "broke", "t1", sealed)
    assert [moment.at for moment in state.timeline] == ["t0", "t1", "t2"]
    assert state.finished


def test_a_fresh_run_is_not_finished_and_has_no_running_step():
    """An empty journal folds to a new run."""
    assert folded() == RunState()
    assert not folded().finished
    assert folded().running_step is None


def test_checks_keep_their_verdict_and_a_skipped_one_its_reason():
    """A check is RUNNING from its start to its verdict."""
    start = ev.CheckStarted(name="c", phase="precondition", sentence="Spare capacity.")
    assert folded(OPENED, start).checks["c"].verdict == "RUNNING"
    end = ev.CheckEnded(name="c", phase="precondition", verdict="PASS", why="holds", seconds=2)
    skip = ev.CheckSkipped(name="d", phase="postcondition", why="dry run")
    checks = folded(OPENED, start, end, skip).checks
    assert (checks["c"].verdict, checks["c"].why, checks["c"].seconds) == ("PASS", "holds", 2)
    assert checks["c"].sentence == "Spare capacity."
    assert (checks["d"].verdict, checks["d"].why) == ("SKIPPED", "dry run")


def test_reads_decisions_and_answers_are_kept():
    """Observations are counted, decisions kept with their time, answers by name."""
    seen = ev.Observed(name="m", source="s", query="q", arguments={}, rows=1, answer="", seconds=1)
    said = ev.Decided(rules="r", version="1", digest="", inputs={}, trace=[], outcome="leak", target="c", why="")
    state = folded(OPENED, seen, seen, said, ev.Answered(name="go", answer="yes", how="operator"))
    assert state.observations == 2
    assert [(decision.event, decision.at) for decision in state.decisions] == [(said, "t3")]
    assert state.answers == {"go": "yes"}


def test_a_step_is_running_until_it_ends():
    """While it runs it is the running step; then its result, reason and time are kept."""
    running = folded(OPENED, STARTED)
    assert running.running_step is running.steps["drain"]
    step = folded(OPENED, STARTED, ev.StepDone(step="drain", result=[1], seconds=3)).steps["drain"]
    assert (step.state, step.result, step.started, step.ended, step.seconds) == ("done", [1], "t1", "t2", 3)
    lost = folded(OPENED, STARTED, ev.StepUnknown(step="drain", error="E", why="lost", seconds=3)).steps["drain"]
    assert (lost.state, lost.why, lost.result) == ("unknown", "lost", None)
    skipped = folded(OPENED, ev.StepSkipped(step="drain", why="nothing to do"))
    assert (skipped.steps["drain"].state, skipped.running_step) == ("skipped", None)


def test_an_intended_change_is_in_doubt_until_it_is_known():
    """Intended or unknown means it may have acted; done means it did, unless it already held; failed means no."""
    begun = (OPENED, STARTED, intended())
    lost = {"key": "k", "error": "E", "why": "timeout"}
    doubt = [folded(*begun), folded(*begun, ev.ChangeUnknown(**lost))]
    assert all(state.changes["k"].in_doubt and state.changes["k"].acted for state in doubt)
    failed = folded(*begun, ev.ChangeFailed(**lost)).changes["k"]
    assert (failed.in_doubt, failed.acted, failed.why) == (False, False, "timeout")
    made = folded(*begun, done()).changes["k"]
    assert (made.in_doubt, made.acted, made.after) == (False, True, {"state": "drain"})
    assert folded(*begun, done(how="settled")).changes["k"].acted
    assert not folded(*begun, done(how="already")).changes["k"].acted


def test_a_change_is_undone_once_its_inverse_holds():
    """The inverse names what it undoes; only when it is done does the first one count as undone."""
    begun = (OPENED, STARTED, intended(), done(), intended("u", undoes="k"))
    assert folded(*begun).changes["k"].acted
    undone = folded(*begun, done("u", how="already"))
    assert not undone.changes["k"].acted
    assert undone.changes["k"].undone


def test_a_change_shows_itself_in_one_line():
    """Call, state, what is different and the way back: as planned until it is known, then as it was read back."""
    begun = (OPENED, STARTED, intended())
    assert repr(folded(*begun).changes["k"]) == "balancer.drain(c-2): intended, state ready → drain"
    made = folded(*begun, done()).changes["k"]
    assert repr(made) == "balancer.drain(c-2): applied, state ready → drain"
    assert made._repr_markdown_() == (
        "**balancer.drain(c-2)** · applied · state ready → drain · undo by `balancer.ready(c-2)`"
    )
    held = ev.ChangeDone(key="k", how="already", after={"state": "ready"}, seconds=1)
    assert repr(folded(*begun, held).changes["k"]) == "balancer.drain(c-2): already, nothing changed"


def test_a_change_that_cannot_be_undone_says_so():
    """What must differ is shown with its old value, and the reason stands where the way back would."""
    restart = ev.ChangeIntended(
        key="k", step="drain", call=CALL, before={"state": "running", "pid": 7}, after={"state": "running"},
        differs={"pid": 7}, inverse=None, irreversible="memory is gone",
    )  # fmt: skip
    begun = (OPENED, STARTED, restart)
    assert folded(*begun).changes["k"].moved == "pid 7 → another"
    after = ev.ChangeDone(key="k", how="applied", after={"state": "running", "pid": 8}, seconds=1)
    change = folded(*begun, after).changes["k"]
    assert change.moved == "pid 7 → 8"
    assert change._repr_markdown_().endswith(" · cannot be undone: memory is gone")


def test_a_planned_change_never_acts():
    """In a dry run a change is planned and nothing more."""
    plan = ev.ChangePlanned(key="k", step="drain", call=CALL, before={}, after={}, inverse=None, irreversible="gone")
    change = folded(OPENED, STARTED, plan, ev.StepPlanned(step="drain", seconds=1)).changes["k"]
    assert (change.state, change.acted, change.in_doubt, change.irreversible) == ("planned", False, False, "gone")


def test_a_run_says_which_approval_it_lacks_also_when_the_step_was_given_up():
    """An approval that is asked for is named with step and risk; a step that ended for lack of it does not hide it."""
    asked = (OPENED, STARTED, ev.ApprovalRequested(step="drain", risk="high", needed=2, digest=""))
    assert folded(*asked).waits_for == "2 approval(s) for step drain (risk high)"
    given_up = folded(*asked, ev.StepFailed(step="drain", error="E", why="", seconds=1))
    assert given_up.waits_for == "2 approval(s) for step drain (risk high)"


def test_the_first_reason_to_stop_is_kept_and_so_is_the_rollback():
    """A second request to stop does not overwrite why the first came."""
    stops = [ev.CancelRequested(reason=why) for why in ("alert resolved", "again")]
    began = ev.RollbackStarted(why="stopped", undo=["k"], irreversible=[])
    ended = ev.RollbackEnded(undone=["k"], left=[], in_doubt=[])
    state = folded(OPENED, *stops, began, ended)
    assert (state.cancel, state.rollback_why, state.rollback) == ("alert resolved", "stopped", ended)
