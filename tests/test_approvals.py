"""Approvals: whose answer counts, for exactly what, until when, and only once."""

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit import events as ev
from rbkit.approvals import Approval, check_confirmed, covering, entitled, instant, item_of
from rbkit.entries import read_event, seal_entry
from rbkit.errors import IllegalMove
from rbkit.events import Call
from rbkit.fold import RunState, fold
from rbkit.values import canonical

CALM = settings(derandomize=True, deadline=None, database=None)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = {
    "runbook": "leak", "version": "1", "digest": "sha256:book", "on_disk": "sha256:file", "code": "sha256:cell",
    "step": "restart", "environment": "test", "environment_digest": "sha256:env",
    "parameters": {"limit": 300.0, "names": ["a", "b"], "dry": False},
}  # fmt: skip


def at(seconds: float) -> str:
    """Tell the time so many seconds after noon."""
    return (NOON + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def draft(target: str = "c-1", **more: Any) -> dict[str, Any]:
    """Plan to restart a target, as the gate does."""
    call = Call(capability="services", action="restart", target=target, arguments={"grace": 5})
    return {
        "call": call, "before": {"state": "running", "pid": 7, "requests": 3}, "after": {"state": "running",
        "requests": 0}, "differs": {"pid": 7}, "inverse": None, "irreversible": "memory is gone",
        "waits": ["requests"],
    } | more  # fmt: skip


def drained(**more: Any) -> dict[str, Any]:
    """Plan a change that can be undone."""
    back = Call(capability="balancer", action="ready", target="c-1")
    call = Call(capability="balancer", action="drain", target="c-1")
    return draft(call=call, after={"state": "drain"}, differs={}, inverse=back, irreversible="", waits=[]) | more


def asked(
    *plans: dict[str, Any], digest: str = "sha256:plan-of-the-first-request", **more: Any
) -> ev.ApprovalRequested:
    """Ask for approval of planned changes, a minute long, by anybody but who has started the run."""
    given = {
        "step": "restart", "risk": "high", "needed": 1, "digest": digest, "until": at(70), "valid_s": 60.0,
        "plan": {"run": "r", "facts": FACTS, "changes": [item_of(plan) for plan in plans or (draft(),)]},
        "approvers": ["os:*"], "own": False,
    }  # fmt: skip
    return ev.ApprovalRequested.model_validate(given | more)


def made(plan: dict[str, Any], approval: str, key: str = "k", step: str = "restart") -> ev.ChangeIntended:
    """Intend a planned change under an approval."""
    said = {name: value for name, value in plan.items() if name != "waits"}
    return ev.ChangeIntended(key=key, step=step, approval=approval, **said)


@dataclass
class Story:
    """A run of os:alice, told event by event; each is written and read back as in a journal."""

    state: RunState = field(default_factory=RunState)

    def tell(self, seconds: float, event: ev.Event, actor: str = "os:alice") -> "Story":
        """Say what happened next."""
        entry = seal_entry("r", len(self.state.timeline), at(seconds), actor, "kernel", event, "")
        self.state.apply(entry, read_event(entry))
        return self

    def refused(self, seconds: float, event: ev.Event, actor: str = "os:alice") -> str:
        """Say why something cannot happen now."""
        with pytest.raises(IllegalMove) as caught:
            self.state.check(event, at(seconds), actor)
        return caught.value.what


def story(*plans: dict[str, Any], **more: Any) -> Story:
    """Tell a run up to the moment when it waits for an approval."""
    opened = ev.RunOpened(
        runbook="leak", version="1", owner="me", mode="live", environment="test", environment_digest="", digest="",
        contract={}, parameters={}, driver="headless", host="h", pid=1, notebook="", budget_s=600,
    )  # fmt: skip
    step = ev.StepStarted(step="restart", intent="", risk="high", timeout_s=30, deadline=at(31))
    return Story().tell(0, opened).tell(1, step).tell(10, asked(*plans, **more))


PLAN = asked().digest
GIVEN, DENIED = ev.ApprovalGiven(digest=PLAN, reason="seen"), ev.ApprovalDenied(digest=PLAN, reason="not now")


def ended(result: str, digest: str = PLAN) -> ev.ApprovalEnded:
    """End a request."""
    return ev.ApprovalEnded.model_validate({"digest": digest, "result": result, "why": "so it is"})


def granted(*plans: dict[str, Any], **more: Any) -> Story:
    """Tell a run up to the moment when its plan is approved, 20 seconds after noon."""
    return story(*plans, **more).tell(15, GIVEN, "os:bob").tell(20, ended("granted"))


def resumed(session: int = 2) -> ev.SessionBegan:
    """Take the run over."""
    return ev.SessionBegan(session=session, purpose="resume", host="h", pid=2)


def test_a_plan_is_approved_and_used_once():
    """Asked, given, granted, used: the journal says who, why, when and for what."""
    told = granted(draft(), draft("c-2")).tell(25, made(draft(), PLAN))
    [approval] = told.state.approvals
    assert (approval.given, approval.granted, approval.result) == ({"os:bob": "seen"}, at(20), "granted")
    assert approval.used == ["services.restart(c-1, grace=5)"]
    assert approval.changes == ["services.restart(c-1, grace=5)", "services.restart(c-2, grace=5)"]
    assert approval.targets == ["c-1", "c-2"]
    assert told.state.approval(PLAN) is approval and told.state.approval("other") is None


def test_the_run_says_for_whom_it_waits_and_until_when():
    """While it waits, and only then, the open request is named: how many are missing, who may, until when."""
    told = story(needed=2, approvers=["os:bob", "os:carol", "os:dora"])
    assert told.state.waits_for == f"2 approval(s) of step restart by os:bob, os:carol, os:dora until {at(70)}"
    told.tell(12, GIVEN, "os:bob")
    assert told.state.waits_for.startswith("1 approval(s)")
    assert told.state.asks is told.state.approvals[-1]
    told.tell(13, ended("expired"))
    assert (told.state.waits_for, told.state.asks) == ("", None)


@pytest.mark.parametrize("answer", [GIVEN, DENIED])
def test_an_answer_for_another_plan_is_refused(answer):
    """An answer that was copied from another run or another plan names a digest that this run does not ask for."""
    copied = answer.model_copy(update={"digest": "sha256:plan-of-another-run"})
    assert "for the plan sha256:plan-of-anot…, and the run waits for an answer to sha256:" in story().refused(
        20, copied, "os:bob"
    )


@pytest.mark.parametrize("answer", [GIVEN, DENIED])
def test_an_answer_after_the_end_is_refused(answer):
    """Once the request has ended, no answer to it counts: the run does not wait for one."""
    assert "is in the middle of a step, so approval" in story().tell(20, ended("void")).refused(21, answer, "os:bob")
    again = story().tell(20, ended("void")).tell(21, asked(digest="sha256:plan-of-the-second-request"))
    assert "and the run waits for an answer to" in again.refused(22, answer, "os:bob")


def test_an_answer_when_the_newest_request_is_no_more_open_is_refused():
    """A run that is said to wait without an open request, which no journal can say, takes no answer either."""
    told = story()
    told.state.approvals[-1].result = "void"
    assert "the run does not wait for an answer" in told.refused(20, GIVEN, "os:bob")


@pytest.mark.parametrize(("seconds", "counts"), [(70, True), (70.000001, False), (9999, False)])
def test_an_answer_must_come_in_time(seconds, counts):
    """Up to the moment that was named; not a microsecond later."""
    if counts:
        assert story().tell(seconds, GIVEN, "os:bob").state.approvals[-1].complete
    else:
        assert f"came too late: the request ended at {at(70)}" in story().refused(seconds, GIVEN, "os:bob")


@pytest.mark.parametrize("answer", [GIVEN, DENIED])
def test_only_who_is_named_may_answer(answer):
    """Somebody whom the environment file does not name neither approves nor denies."""
    told = story(approvers=["os:bob", "group:*"])
    assert "os:mallory may not approve here; os:bob, group:* may" in told.refused(20, answer, "os:mallory")
    told.tell(20, answer, "group:sre")


def test_nobody_approves_twice():
    """Two approvals need two people."""
    told = story(needed=2).tell(20, GIVEN, "os:bob")
    assert "os:bob has approved this plan already" in told.refused(21, GIVEN, "os:bob")
    assert "has not been approved by 2 people" in told.refused(21, ended("granted"))


def test_nobody_approves_a_run_of_their_own_unless_that_is_allowed():
    """Who opened the run cannot approve it, but can deny it; with `own` they can do both."""
    assert "os:alice has started this run" in story().refused(20, GIVEN, "os:alice")
    assert story().tell(20, DENIED, "os:alice").state.approvals[-1].denied == "os:alice"
    assert story(own=True).tell(20, GIVEN, "os:alice").state.approvals[-1].complete


def test_who_resumes_a_run_cannot_approve_it_either():
    """Whoever goes on with a run, perhaps with another runbook, has started it too; who only found it dead has not."""
    found = ev.SessionBegan(session=2, purpose="interruption", host="h", pid=2, why="dead")
    told = story().tell(20, found, "os:dora").tell(21, resumed(3), "os:bob")
    told.tell(22, ev.StepStarted(step="restart", intent="", risk="high", timeout_s=30, deadline=""))
    told.tell(23, asked(needed=1, until=at(90)))
    assert told.state.starters == ["os:alice", "os:bob"]
    for person in ("os:alice", "os:bob"):
        assert f"{person} has started this run" in told.refused(24, GIVEN, person)
    assert told.tell(24, GIVEN, "os:dora").state.approvals[-1].complete


def test_a_denial_is_final():
    """After a no there is no yes, and no second no; what others have given before does not help."""
    told = story(needed=2).tell(12, GIVEN, "os:bob").tell(13, DENIED, "os:carol")
    for answer in (GIVEN, DENIED):
        assert "os:carol has denied this plan" in told.refused(14, answer, "os:dora")
    late = story().tell(12, GIVEN, "os:bob").tell(13, DENIED, "os:carol")
    assert "has not been approved" in late.refused(14, ended("granted"))
    assert late.tell(14, ended("denied")).state.denied
    assert (late.state.approvals[-1].denied, late.state.approvals[-1].reason) == ("os:carol", "not now")


@pytest.mark.parametrize("needed", [1, 2, 3])
def test_it_is_granted_when_enough_people_have_approved(needed):
    """With one person less it is not, with exactly as many it is."""
    told = story(needed=needed)
    for number in range(needed):
        assert f"has not been approved by {needed} people" in told.refused(20, ended("granted"))
        told.tell(20 + number, GIVEN, f"os:{number}")
    assert told.tell(30, ended("granted")).state.approvals[-1].usable(at(31))


def test_an_end_follows_from_the_answers():
    """Nothing is denied by nobody, ended twice, or ended while another request waits."""
    assert "denied by nobody" in story().refused(20, ended("denied"))
    assert "No request for the plan sha256:unknown-plan… is open" in story().refused(
        20, ended("void", "sha256:unknown-plan")
    )
    for result in ("granted", "denied", "expired"):
        assert "is open" in granted().refused(21, ended(result))
    assert "is open" in story().tell(20, ended("expired")).refused(21, ended("void"))
    second = granted().tell(21, asked(digest="sha256:second", until=at(90)))
    assert "is open" in second.refused(22, ended("void"))


def test_what_was_granted_can_be_voided_once():
    """Something has changed after it was granted: it is void, cannot be used, and stays in the journal."""
    told = granted().tell(21, ended("void"))
    assert "was not granted, is void or has run out" in told.refused(22, made(draft(), PLAN))
    assert "is open" in told.refused(22, ended("void"))
    assert [(a.result, a.granted) for a in told.state.approvals] == [("void", at(20))]


def test_a_change_needs_the_approval_that_it_names():
    """An approval that was never asked for here (of another run), that waits, or that nobody gave, allows nothing."""
    refusal = "services.restart(c-1, grace=5) has no approval that holds"
    assert refusal in granted().refused(21, made(draft(), "sha256:plan-of-another-run"))
    assert refusal in story().refused(21, made(draft(), PLAN))
    assert refusal in story().tell(20, ended("expired")).refused(21, made(draft(), PLAN))


def test_an_approval_is_good_for_each_of_its_changes_once():
    """The same change a second time needs another approval; the plan's other changes do not."""
    told = granted(draft(), draft("c-2")).tell(21, made(draft(), PLAN, "k-1"))
    assert "good for once" in told.refused(22, made(draft(), PLAN, "k-2"))
    assert told.tell(22, made(draft("c-2"), PLAN, "k-2")).state.changes["k-2"].state == "intended"


@pytest.mark.parametrize(
    "other",
    [
        draft("c-9"),
        draft(call=Call(capability="services", action="restart", target="c-1", arguments={"grace": 6})),
        draft(call=Call(capability="services", action="stop", target="c-1", arguments={"grace": 5})),
        draft(before={"state": "stopped", "pid": 7}),
        draft(before={"state": "running", "pid": 8}),
        draft(after={"state": "stopped", "requests": 0}),
        draft(after={"requests": 0}),
        draft(differs={}),
        draft(differs={"pid": 8}),
        draft(irreversible=""),
        draft(inverse=Call(capability="services", action="stop", target="c-1")),
    ],
)
def test_a_change_must_be_the_one_that_was_approved(other):
    """Another target, argument, action, state before or after, or way back is not what people said yes to."""
    assert "not in the plan that was approved" in granted().refused(21, made(other, PLAN))


def test_what_moves_by_itself_does_not_matter():
    """The number of requests under way was left out of the plan, so it may be another."""
    moved = draft(before={"state": "running", "pid": 7, "requests": 99}, after={"state": "running", "requests": 1})
    assert granted().tell(21, made(moved, PLAN)).state.approvals[-1].used


def test_an_approval_is_for_one_step():
    """Another step cannot use it, also for the same change."""
    assert "not in the plan" in granted().refused(21, made(draft(), PLAN, step="other"))


def test_a_plan_that_says_nothing_of_the_state_after_covers_nothing():
    """An item that only names its change cannot have been approved to the letter."""
    bare = {"changes": [{"call": "services.restart(c-1, grace=5)", "target": "c-1", "after": None}]}
    assert "not in the plan" in granted(plan=bare).refused(21, made(draft(), PLAN))


@pytest.mark.parametrize(("seconds", "holds"), [(80, True), (80.000001, False)])
def test_an_approval_must_be_begun_in_time(seconds, holds):
    """It may be used for as long after it was granted as the request says, and no longer."""
    told = granted()
    assert told.state.approvals[-1].usable(at(seconds)) is holds
    if holds:
        told.tell(seconds, made(draft(), PLAN))
    else:
        assert "has run out" in told.refused(seconds, made(draft(), PLAN))


def test_what_was_begun_in_time_may_be_finished():
    """A fan-out that began in time goes on under its approval, however long it takes."""
    told = granted(draft(), draft("c-2")).tell(79, made(draft(), PLAN, "k-1"))
    assert told.tell(9999, made(draft("c-2"), PLAN, "k-2")).state.approvals[-1].used


def test_a_run_that_is_resumed_late_does_not_go_on_under_an_old_approval():
    """What one process began is not begun for the next: it must be in time itself."""
    told = granted(draft(), draft("c-2")).tell(30, made(draft(), PLAN, "k-1")).tell(60, resumed())
    assert told.state.approvals[-1].usable(at(80))
    assert not told.state.approvals[-1].usable(at(81))
    told.tell(61, ev.StepStarted(step="restart", intent="", risk="high", timeout_s=30, deadline=""))
    assert "has run out" in told.refused(81, made(draft("c-2"), PLAN, "k-2"))


def test_a_request_ends_with_the_process_that_asked():
    """Nobody waits for it any more, so it is void, and an answer to it is refused."""
    told = story().tell(20, GIVEN, "os:bob").tell(30, resumed())
    assert [(a.result, a.why) for a in told.state.approvals] == [("void", "its process was lost")]
    assert "is open, so approval given is not possible" in told.refused(31, GIVEN, "os:carol")


def test_waiting_for_people_lengthens_the_step_and_the_run():
    """The deadline moves by the time that the request was open, once; also when it expired."""
    told = story().tell(40, ended("expired"))
    assert (told.state.waited_s, told.state.steps["restart"].deadline) == (30.0, at(61))
    told.tell(50, asked(digest="sha256:2", until=at(99))).tell(55, ev.ApprovalGiven(digest="sha256:2"), "os:bob")
    told.tell(60, ended("granted", "sha256:2")).tell(90, ended("void", "sha256:2"))
    assert (told.state.waited_s, told.state.steps["restart"].deadline) == (40.0, at(71))


def test_a_step_without_a_deadline_is_not_lengthened():
    """What has no deadline has none afterwards; the run's waiting still counts."""
    told = story()
    told.state.steps["restart"].deadline = ""
    told.tell(40, ended("void"))
    assert (told.state.waited_s, told.state.steps["restart"].deadline) == (30.0, "")


def test_a_request_needs_a_running_step_a_readable_plan_and_somebody_to_answer():
    """What nobody could answer is refused when it is asked."""
    told = story().tell(20, ended("void"))
    assert "Nothing named 'other' has begun" in told.refused(21, asked(step="other"))
    for plan in ({}, {"changes": "all"}, {"changes": ["all"]}, {"changes": [{"call": "x"}]}):
        assert "names no changes" in told.refused(21, asked(plan=plan))
    assert "names no changes" in told.refused(21, asked(needed=0))
    assert "'soon' is no time" in told.refused(21, asked(until="soon"))


@pytest.mark.parametrize("event", [asked(), GIVEN, ended("void")])
def test_a_journal_whose_times_cannot_be_read_is_refused(event):
    """A forged time is an illegal move, not a crash; so is a deadline that cannot be lengthened."""
    told = story() if event.kind != "approval_requested" else story().tell(20, ended("void"))
    with pytest.raises(IllegalMove, match="'yesterday' is no time"):
        told.state.check(event, "yesterday", "os:bob")


def test_a_deadline_that_cannot_be_lengthened_is_refused():
    """A forged deadline of the waiting step is an illegal move, before anything is taken from the event."""
    told = story()
    told.state.steps["restart"].deadline = "later"
    assert "'later' is no time" in told.refused(20, ended("void"))


def test_a_time_without_a_zone_is_utc():
    """Two times can always be compared."""
    assert instant("2026-01-01T12:00:00") == NOON == instant("2026-01-01T13:00:00+01:00")


@pytest.mark.parametrize(
    ("actor", "patterns", "may"),
    [
        ("os:alice", ["os:alice"], True), ("os:alice", ["*"], True), ("os:alice", ["os:bob", "os:a*"], True),
        ("os:alice", ["os:alic"], False), ("os:Alice", ["os:alice"], False), ("os:alice", [], False),
        ("os:[ab]", ["os:a"], False), ("group:sre", ["os:*"], False),
    ],
)  # fmt: skip
def test_who_is_entitled(actor, patterns, may):
    """The file's words are patterns, the actor's name is not; letters count as they are written."""
    assert entitled(actor, patterns) is may


def test_what_is_approved_of_a_change():
    """Call, target, what is different before and after, and the way back; what moves by itself is left out."""
    assert item_of(draft()) == {
        "call": "services.restart(c-1, grace=5)", "target": "c-1", "before": {"state": "running", "pid": 7},
        "after": {"state": "running"}, "differs": {"pid": 7}, "undo": "", "irreversible": "memory is gone",
    }  # fmt: skip
    assert item_of(drained())["undo"] == "balancer.ready(c-1)"


def approval(digest: str = "one", **more: Any) -> Approval:
    """Describe an approval that was granted at noon."""
    given = {"result": "granted", "granted": at(0)} | more
    return Approval(asked(draft(), drained(), digest=digest), at(-9), **given)


def test_the_newest_approval_that_fits_covers_a_change():
    """Of several the last; one that is open, void, run out or used for the same change does not count."""
    old, new, used = approval("old"), approval("new"), approval("used", used=["services.restart(c-1, grace=5)"])
    unfit = [approval("open", result="", granted=""), approval("void", result="void"), approval(granted=at(-100))]
    assert covering([old, new, used, *unfit], FACTS, item_of(draft()), at(1)) == "new"
    assert covering([old, new, used, *unfit], FACTS, item_of(drained()), at(1)) == "used"
    assert covering([used, *unfit], FACTS, item_of(draft()), at(1)) == ""
    assert covering([], FACTS, item_of(draft()), at(1)) == ""


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the places of everything in a JSON value that is no collection, and of every empty one."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, item in pairs for leaf in leaves(item, (*place, key))] or [place]


def flipped(value: Any, place: tuple[Any, ...], to: Any) -> Any:
    """Return a copy in which one leaf is another."""
    copy = deepcopy(value)
    node = copy
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = to
    return copy


@settings(CALM, max_examples=300)
@given(st.data())
def test_any_difference_in_facts_or_plan_is_not_covered(data):
    """One leaf of parameters, runbook, code, environment, target, before, after or way back: asked anew."""
    facts, item = FACTS, item_of(data.draw(st.sampled_from([draft(), drained()])))
    assert covering([approval()], facts, item, at(1)) == "one"
    in_facts = data.draw(st.booleans())
    place = data.draw(st.sampled_from(leaves(facts if in_facts else item)))
    other = data.draw(st.text() | st.integers(-1, 1) | st.booleans() | st.none() | st.just({}) | st.just([1]))
    changed = flipped(facts if in_facts else item, place, other)
    if canonical(changed) == canonical(facts if in_facts else item):
        return
    assert covering([approval()], *((changed, item) if in_facts else (facts, changed)), at(1)) == ""


@settings(CALM, max_examples=100)
@given(st.sampled_from(leaves(FACTS)), st.sampled_from(leaves(item_of(drained()))))
def test_a_fact_that_is_missing_or_new_is_not_covered(fact, part):
    """Not only other values count: a fact that is gone or one that was not there is a difference too."""
    item = item_of(drained())
    assert covering([approval()], {name: FACTS[name] for name in FACTS if name != fact[0]}, item, at(1)) == ""
    assert covering([approval()], FACTS | {"more": 1}, item, at(1)) == ""
    assert (
        covering([approval()], FACTS, {name: item[name] for name in item if name != part[0]} | {"call": ""}, at(1))
        == ""
    )


def test_what_is_written_otherwise_is_another_value():
    """False is not 0 and 300.0 is not 300; a tuple, which a journal keeps as a list, is the same."""
    for name, value in (("dry", 0), ("limit", 300)):
        other = FACTS | {"parameters": FACTS["parameters"] | {name: value}}
        assert covering([approval()], other, item_of(draft()), at(1)) == ""
    same = FACTS | {"parameters": FACTS["parameters"] | {"names": ("a", "b")}}
    assert covering([approval()], same, item_of(draft()), at(1)) == "one"


def test_a_confirmation_comes_in_time_or_not_at_all():
    """Not after its time, and not after somebody asked the run to stop; up to the last moment it counts."""
    check_confirmed(at(5), "", at(5))
    with pytest.raises(IllegalMove, match=f"came too late: its time was over at {at(5)}".replace("+", r"\+")):
        check_confirmed(at(5), "", at(5.000001))
    with pytest.raises(IllegalMove, match="somebody asked to stop it: enough"):
        check_confirmed(at(5), "enough", at(1))


def test_a_journal_with_approvals_folds_to_the_same_state_again():
    """What was told live is what a reader makes of the entries."""
    told = granted(draft(), drained()).tell(25, made(drained(), PLAN))
    entries = [
        seal_entry("r", number, moment.at, moment.actor, moment.source, moment.event, "")
        for number, moment in enumerate(told.state.timeline)
    ]
    assert fold((entry, read_event(entry)) for entry in entries) == told.state
