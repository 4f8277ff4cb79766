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
STARTED = ev.StepStarted(step="drain", intent="Drain it.", risk="high", timeout_s=30, deadline="")
FAILED = ev.StepFailed(step="drain", error="E", why="broke", seconds=1)
CHECKED = ev.CheckStarted(name="c", phase="precondition", sentence="Spare capacity.")


def at(place: int) -> str:
    """Tell when the event at a place of the journal happened."""
    return f"2026-01-01T00:00:{place:02d}.000000+00:00"


def folded(*events: ev.Event) -> RunState:
    """Fold events, one second apart."""
    return fold((seal_entry("r", n, at(n), "os:a", "kernel", event, ""), event) for n, event in enumerate(events))


def session(purpose: str, number: int = 2, **more) -> ev.SessionBegan:
    """Take the run over."""
    return ev.SessionBegan.model_validate({"session": number, "purpose": purpose, "host": "h", "pid": 2} | more)


def refused(*events: ev.Event) -> str:
    """Say why the last of these events cannot follow the others."""
    with pytest.raises(IllegalMove) as caught:
        folded(*events[:-1]).check(events[-1], at(59), "os:a")
    return caught.value.what


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


def rolling(step: str = "drain") -> ev.RollingPlanned:
    """Freeze the targets of a fan-out."""
    return ev.RollingPlanned(
        step=step, action="balancer.drain", targets=["c-1", "c-2"], batches=[1, 1], max_errors=0, at_least=0
    )


FALLBACK = ev.FallbackChosen(step="drain", otherwise="stop", risk="low", how="automatic")
AWAITED = ev.LeaseAwaited(target="c-2", holder="other", until="noon")


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
            following = state.check(event, at(0), "os:a")
        except IllegalMove:
            assert state == fold(pairs)
            continue
        assert state == fold(pairs)
        state.apply(seal_entry("r", len(pairs), at(0), "os:a", "", event, ""), event)
        assert state.state == following


@pytest.mark.parametrize(
    ("before", "event", "name"),
    [
        ((OPENED, STARTED), done("other"), "other"),
        ((OPENED, STARTED), ev.ChangeUnknown(key="other", error="E", why=""), "other"),
        ((OPENED, STARTED), intended("u", undoes="other"), "other"),
        ((OPENED, STARTED), ev.StepDone(step="restart", result=None, seconds=1), "restart"),
        ((OPENED, STARTED), ev.StepDone(step="", result=None, seconds=1), ""),
        ((OPENED, STARTED), done(""), ""),
        (
            (OPENED, CHECKED),
            ev.CheckEnded(name="b", phase="precondition", verdict="PASS", why="", seconds=1),
            "b",
        ),
        (
            (OPENED, STARTED),
            ev.ChangeIntended(key="l", step="drain", call=CALL, before={}, after={}, inverse=None, repeats="first"),
            "first",
        ),
        ((OPENED, STARTED, FAILED), ev.FallbackChosen(step="x", otherwise="y", risk="low", how="automatic"), "x"),
        ((OPENED, STARTED), rolling("x"), "x"),
        ((OPENED, STARTED), ev.RollingEnded(step="drain", done=[], failed=[], remaining=[]), "drain"),
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
    assert (state.opened, state.started, state.actor, state.run) == (OPENED, at(0), "os:a", "r")
    assert (state.outcome, state.reason, state.ended, state.sealed) == ("failed", "broke", at(1), sealed)
    assert [moment.at for moment in state.timeline] == [at(0), at(1), at(2)]
    assert state.finished


def test_a_fresh_run_is_not_finished_and_has_no_running_step():
    """An empty journal folds to a new run."""
    assert folded() == RunState()
    assert not folded().finished
    assert folded().running_step is None


def test_checks_keep_their_verdict_and_a_skipped_one_its_reason():
    """A check is RUNNING from its start to its verdict."""
    start = CHECKED
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
    assert [(decision.event, decision.at) for decision in state.decisions] == [(said, at(3))]
    assert state.answers == {"go": "yes"}


def test_a_step_is_running_until_it_ends():
    """While it runs it is the running step; then its result, reason and time are kept."""
    running = folded(OPENED, STARTED)
    assert running.running_step is running.steps["drain"]
    step = folded(OPENED, STARTED, ev.StepDone(step="drain", result=[1], seconds=3)).steps["drain"]
    assert (step.state, step.result, step.started, step.ended, step.seconds) == ("done", [1], at(1), at(2), 3)
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


def test_the_first_reason_to_stop_is_kept_and_so_is_the_rollback():
    """A second request to stop does not overwrite why the first came."""
    stops = [ev.CancelRequested(reason=why) for why in ("alert resolved", "again")]
    began = ev.RollbackStarted(why="stopped", undo=["k"], irreversible=[])
    ended = ev.RollbackEnded(undone=["k"], left=[], in_doubt=[])
    state = folded(OPENED, *stops, began, ended)
    assert (state.cancel, state.rollback_why, state.rollback) == ("alert resolved", "stopped", ended)


def test_a_change_is_begun_once():
    """A key stands for one attempt, so nothing that was done is forgotten under it; neither is it planned anew."""
    planned = ev.ChangePlanned(key="k", step="drain", call=CALL, before={}, after={}, inverse=None)
    for event in (intended(), planned):
        assert "was begun already as k" in refused(OPENED, STARTED, intended(), event)
    assert folded(OPENED, STARTED, intended(), intended("l")).changes.keys() == {"k", "l"}


def test_nothing_is_undone_twice():
    """The inverse of a change that is undone cannot be intended; a second attempt after a failure can."""
    undone = (OPENED, STARTED, intended(), done(), intended("u", undoes="k"))
    assert "what it undoes is undone" in refused(*undone, done("u"), intended("v", undoes="k"))
    failed = ev.ChangeFailed(key="u", error="E", why="")
    assert "v" in folded(*undone, failed, intended("v", undoes="k")).changes


@pytest.mark.parametrize("first", [done(), ev.ChangeFailed(key="k", error="E", why="")])
@pytest.mark.parametrize(
    "second", [done(), *(kind(key="k", error="E", why="") for kind in (ev.ChangeFailed, ev.ChangeUnknown))]
)
def test_what_became_of_a_change_is_said_once(first, second):
    """Made or not made, that stands; only a change in doubt can still turn out to be either."""
    assert "balancer.drain(c-2) (k) is" in refused(OPENED, STARTED, intended(), first, second)
    doubt = ev.ChangeUnknown(key="k", error="E", why="")
    assert folded(OPENED, STARTED, intended(), doubt, second).changes["k"].why == getattr(second, "why", "")


def test_a_planned_change_has_no_result():
    """What a dry run planned was never begun, so nothing can become of it."""
    plan = ev.ChangePlanned(key="k", step="drain", call=CALL, before={}, after={}, inverse=None)
    assert "is planned already" in refused(OPENED, STARTED, plan, done())


def test_a_step_that_is_done_is_never_begun_again():
    """An acknowledged step is not repeated, by whichever process; one that failed or was interrupted can be."""
    acknowledged = (OPENED, STARTED, ev.StepDone(step="drain", result=None, seconds=1))
    assert "Step drain is done; what is done is never repeated" in refused(*acknowledged, STARTED)
    assert "never repeated" in refused(*acknowledged, session("resume"), STARTED)
    assert folded(OPENED, STARTED, session("resume"), STARTED).running_step
    assert folded(OPENED, STARTED, FAILED, FALLBACK, STARTED).running_step


def test_a_step_that_certainly_failed_can_be_replaced():
    """The run goes on, and the replaced step names what stands in for it."""
    state = folded(OPENED, STARTED, FAILED, FALLBACK)
    assert (state.state, state.steps["drain"].state, state.fallbacks) == ("open", "replaced", {"drain": "stop"})


def test_nothing_else_is_replaced():
    """Not a step whose outcome is unknown, not one that is done, and none of a run that is being ended."""
    unknown = ev.StepUnknown(step="drain", error="E", why="", seconds=1)
    assert "it is unknown, not failed" in refused(OPENED, STARTED, unknown, FALLBACK)
    broken = ev.CheckEnded(name="c", phase="precondition", verdict="ERROR", why="", seconds=1)
    made = ev.StepDone(step="drain", result=None, seconds=1)
    assert "it is done, not failed" in refused(OPENED, STARTED, made, CHECKED, broken, FALLBACK)
    for purpose in ("roll_back", "abandon"):
        assert "the run is being ended" in refused(OPENED, STARTED, FAILED, session(purpose), FALLBACK)
    closed = ev.RunClosed(outcome="failed", reason="")
    assert "the run is being ended" in refused(OPENED, STARTED, FAILED, closed, session("roll_back"), FALLBACK)


@pytest.mark.parametrize("purpose", ["resume", "roll_back", "abandon", "interruption"])
def test_a_session_is_newer_than_the_one_before(purpose):
    """A process that was overtaken cannot take a run over with the token that it had, or a lower one."""
    for number in (0, 1):
        assert f"Session {number} is not newer than session 1" in refused(OPENED, session(purpose, number))
    assert "Session 7 is not newer than session 7" in refused(OPENED, session("interruption", 7), session("resume", 7))
    assert folded(OPENED, session(purpose, 9, digest="sha256:new")).session == 9


def test_a_new_session_finds_nothing_running():
    """Steps that ran are interrupted and say why, checks that ran have no verdict; what is over stays as it was."""
    dead = session("interruption", why="process 1 is gone")
    state = folded(OPENED, CHECKED, ev.CheckEnded(name="c", phase="precondition", verdict="PASS", why="", seconds=1),
                   ev.CheckSkipped(name="d", phase="precondition", why=""), STARTED, dead)  # fmt: skip
    step = state.steps["drain"]
    assert (step.state, step.why, step.started, step.ended) == ("interrupted", "process 1 is gone", at(4), at(5))
    assert (state.running_step, state.state, state.lost) == (None, "interrupted", "process 1 is gone")
    assert {name: check.verdict for name, check in state.checks.items()} == {"c": "PASS", "d": "SKIPPED"}
    measured = folded(OPENED, CHECKED, session("resume"))
    assert (measured.checks["c"].verdict, measured.state, measured.lost) == ("", "open", "")
    done_before = folded(OPENED, STARTED, ev.StepDone(step="drain", result=[1], seconds=1), session("resume"))
    assert (done_before.steps["drain"].state, done_before.steps["drain"].result) == ("done", [1])
    assert folded(OPENED, STARTED, session("resume")).steps["drain"].why == "its process was lost"


def test_a_resumed_run_knows_with_which_runbook_it_goes_on_since_when_and_for_what():
    """The digest is that of the newest accepted runbook; the time of its session is its own."""
    assert (folded(OPENED).session, folded(OPENED).since, folded(OPENED).purpose) == (1, at(0), "")
    state = folded(OPENED, session("interruption"), session("resume", 3, digest="sha256:new"))
    assert (state.session, state.since, state.purpose, state.digest) == (3, at(2), "resume", "sha256:new")
    assert (state.started, state.lost) == (at(0), "")
    assert folded(OPENED, session("resume", 3, digest="sha256:new"), session("resume", 4)).digest == "sha256:new"


def test_a_request_to_stop_is_for_the_session_that_it_was_made_to():
    """Who resumes a run after a cancel goes on; the request stays in the timeline."""
    state = folded(OPENED, STARTED, ev.CancelRequested(reason="enough"), session("resume"))
    assert state.cancel == ""
    assert [moment.event.kind for moment in state.timeline].count("cancel_requested") == 1
    assert folded(OPENED, session("resume"), ev.CancelRequested(reason="again")).cancel == "again"


def test_a_closed_run_that_is_rolled_back_is_open_until_it_is_closed_again():
    """Outcome, reason, end and seal are those of the last time; while it is rolled back it has none."""
    closed = (OPENED, STARTED, intended(), done(), ev.StepDone(step="drain", result=None, seconds=1),
              ev.RunClosed(outcome="resolved", reason="all done"), ev.RecordSealed(notebook="n", cells=[]))  # fmt: skip
    state = folded(*closed, session("roll_back"))
    assert (state.state, state.finished, state.outcome, state.reason, state.ended) == ("failing", False, "", "", "")
    assert state.sealed is None
    undone = (ev.RollbackStarted(why="a person asked", undo=["k"], irreversible=[]), intended("u", undoes="k"),
              done("u"), ev.RollbackEnded(undone=["k"], left=[], in_doubt=[]))  # fmt: skip
    state = folded(*closed, session("roll_back"), *undone, ev.RunClosed(outcome="rolled_back", reason="a person asked"))
    assert (state.finished, state.outcome, state.ended) == (True, "rolled_back", at(12))
    assert state.changes["k"].undone


def test_a_second_rollback_tells_its_own_reason():
    """What an earlier, finished rollback said is over; one that broke off in the middle is still the reason."""
    began = ev.RollbackStarted(why="stopped", undo=[], irreversible=[])
    ended = ev.RollbackEnded(undone=[], left=["k"], in_doubt=[])
    assert folded(OPENED, began, session("roll_back")).rollback_why == "stopped"
    state = folded(OPENED, began, ended, session("roll_back"))
    assert (state.rollback_why, state.rollback) == ("", None)


def test_a_run_says_what_it_waits_for_until_it_has_it():
    """A target that another run holds is named; the next change, and the end of the step, end the waiting."""
    held = "c-2, held by other until noon"
    assert folded(OPENED, STARTED, AWAITED).waits_for == held
    assert folded(OPENED, STARTED, AWAITED, intended()).waits_for == ""
    assert (
        folded(OPENED, STARTED, intended(), AWAITED, ev.StepDone(step="drain", result=None, seconds=1)).waits_for == ""
    )
    assert folded(OPENED, STARTED, AWAITED, FAILED).awaits is None
    assert folded(OPENED, STARTED, AWAITED, session("resume")).awaits is None
    rolled = (OPENED, ev.RollbackStarted(why="", undo=[], irreversible=[]), AWAITED)
    assert folded(*rolled).waits_for == held
    over = (ev.RollbackEnded(undone=[], left=[], in_doubt=[]), ev.RunClosed(outcome="failed", reason=""))
    assert folded(*rolled, *over).waits_for == ""


def test_a_run_waits_for_a_confirmation_until_it_comes_in_time():
    """What happens without one is said; a late one, or one after a request to stop, is refused."""
    waiting = (OPENED, ev.ConfirmationRequested(until=at(30)))
    assert folded(*waiting).waits_for == f"a confirmation until {at(30)}; without one it is rolled back"
    confirmed = folded(*waiting, ev.Confirmed(reason="seen"))
    assert (confirmed.state, confirmed.waits_for) == ("open", "")
    assert "came too late" in refused(*waiting, ev.Confirmed())
    stopped = folded(*waiting, ev.CancelRequested(reason="enough"))
    with pytest.raises(IllegalMove, match="somebody asked to stop it: enough"):
        stopped.check(ev.Confirmed(), at(3), "os:a")
    assert "'soon' is no time" in refused(OPENED, ev.ConfirmationRequested(until="soon"))
    assert folded(*waiting, session("resume")).confirm_until == ""


def test_a_fan_out_keeps_its_frozen_targets_also_for_the_next_process():
    """The list stands from before the first target, and what was done, failed and left alone from its end."""
    ended = ev.RollingEnded(step="drain", done=["c-1"], failed=[("c-2", "broke")], remaining=[])
    state = folded(OPENED, STARTED, rolling(), session("resume"))
    assert (state.rolling, state.rolled) == ({"drain": rolling()}, {})
    assert folded(OPENED, STARTED, rolling(), ended).rolled == {"drain": ended}
