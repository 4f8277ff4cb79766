"""Approvals, what is undone, and how a run ends."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit import events as ev
from rbkit.approvals import Approval
from rbkit.entries import read_event
from rbkit.events import Call
from rbkit.fold import Change, Check, Decision, RunState, Step, fold
from rbkit.machine import FINISHED, allows
from rbkit.policy import (
    APPROVALS,
    EXIT_CODES,
    ApprovalRules,
    approvals_needed,
    exit_code,
    lacking,
    on_partial_evidence,
    outcome_of,
    to_undo,
)

CALM = settings(derandomize=True, deadline=None, database=None)


def level(target: str, number: int) -> Call:
    """Set a target to a level."""
    return Call(capability="dial", action="set", target=target, arguments={"level": number})


def change(key: str, target: str, before: int, after: int, **more) -> Change:
    """Describe that a target was brought from one level to another; done unless said otherwise."""
    made = Change(
        key=key, step="s", call=level(target, after), before={"level": before}, planned={"level": after}, differs={},
        inverse=level(target, before), irreversible="", state="done", how="applied",
    )  # fmt: skip
    return replace(made, **more)


FATES = {
    "applied": {"state": "done", "how": "applied"},
    "settled": {"state": "done", "how": "settled"},
    "unknown, made": {"state": "unknown", "how": ""},
    "unknown, not made": {"state": "unknown", "how": ""},
    "intended, made": {"state": "intended", "how": ""},
    "intended, not made": {"state": "intended", "how": ""},
    "failed": {"state": "failed", "how": ""},
}


@settings(CALM, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from(sorted(FATES))), max_size=10))
def test_undoing_last_first_restores_the_world(acts):
    """Whatever was made, failed or is in doubt: the inverses of `to_undo`, in its order, bring the first state back."""
    world, changes = {"a": 0, "b": 0}, []
    for number, (target, goal, fate) in enumerate(acts):
        before = world[target]
        how = {"state": "done", "how": "already"} if goal == before else FATES[fate]
        changes.append(change(str(number), target, before, goal, **how))
        if not fate.endswith("not made") and fate != "failed":
            world[target] = goal
    for undo in to_undo(changes):
        world[undo.inverse.target] = undo.inverse.arguments["level"]
    assert world == {"a": 0, "b": 0}


def test_what_the_run_took_back_itself_is_not_undone_again():
    """Drained, restarted and put back: only the restart, which nothing takes back, still stands."""
    restart = replace(change("r", "x", 1, 2), inverse=None, irreversible="gone")
    assert [c.key for c in to_undo([change("d", "a", 0, 1), restart, change("b", "a", 1, 0)])] == ["r"]


def test_what_is_in_doubt_is_undone_even_if_it_was_taken_back():
    """A doubtful change or a doubtful way back is never struck off."""
    doubt = {"state": "unknown", "how": ""}
    assert [c.key for c in to_undo([change("d", "a", 0, 1, **doubt), change("b", "a", 1, 0)])] == ["b", "d"]
    assert [c.key for c in to_undo([change("d", "a", 0, 1), change("b", "a", 1, 0, **doubt)])] == ["b", "d"]


def test_undoing_is_not_undone():
    """A change that undid another, or was undone, needs nothing."""
    assert to_undo([change("d", "a", 0, 1, undone=True), change("u", "a", 1, 0, undoes="d")]) == []


@pytest.mark.parametrize(
    ("risk", "contract", "environment", "needed"),
    [
        ("high", 0, {}, 1),
        ("low", 0, {}, 0),
        ("high", 0, {"high": 0}, 0),
        ("low", 2, {}, 2),
        ("medium", 1, {"medium": 3}, 3),
        ("irreversible", 0, {}, 0),
        ("irreversible", 0, {"irreversible": 2}, 2),
    ],
)
def test_the_stricter_of_contract_and_environment_counts(risk, contract, environment, needed):
    """A step may ask for more approvals than the environment, never for fewer."""
    assert approvals_needed(risk, contract, environment) == needed


def test_every_risk_and_every_outcome_has_its_number():
    """Each risk has a default, each outcome an exit code; only the two good ones are 0."""
    assert set(APPROVALS) == {"low", "medium", "high", "irreversible"}
    assert set(EXIT_CODES) == set(get_args(ev.Outcome))
    assert {outcome for outcome, code in EXIT_CODES.items() if code == 0} == {"resolved", "not_applicable"}


def test_a_run_lacks_what_the_journal_does_not_show():
    """A step that is not done and a check that did not pass are named; failed, interrupted or unknown is not done."""
    states = ["done", "planned", "failed", "interrupted", "unknown", "running"]
    state = RunState(
        steps={name: Step(name, word) for name, word in zip("abcdef", states, strict=True)},
        checks={
            "x": Check("x", "precondition", verdict="PASS"),
            "y": Check("y", "postcondition", verdict="INCONCLUSIVE"),
        },
    )
    assert lacking(state, ["a", "b"], [("x", "precondition")]) == []
    assert lacking(state, "abcdefg", [("x", "precondition"), ("y", "postcondition"), ("z", "postcondition")]) == [
        "step c is not done", "step d is not done", "step e is not done", "step f is not done", "step g is not done",
        "postcondition y did not pass", "postcondition z did not pass",
    ]  # fmt: skip


def test_a_replaced_step_and_an_alternative_that_was_not_needed_are_over():
    """With alternatives, what is not done is named only if nothing was done in its place."""
    steps = {"drain": Step("drain", "replaced"), "stop": Step("stop", "done"), "wait": Step("wait", "skipped")}
    assert lacking(RunState(steps=steps), ["drain", "stop", "wait"], []) == []


ROLLED = ev.RollbackEnded(undone=["k"], left=[], in_doubt=[])
ASKS = ev.Decided(
    rules="r", version="1", digest="", inputs={}, trace=[], outcome="", target=None, why="", ends="needs_operator"
)


def approval(result: str, at: str = "2026-01-01T00:00:05") -> Approval:
    """Describe what became of a request for approval."""
    asked = ev.ApprovalRequested(
        step="s", risk="high", needed=1, digest="d", plan={}, until="", valid_s=1, approvers=["*"], own=True
    )
    return Approval(asked, at, result=result)


BACK = {"purpose": "roll_back", "rollback": ev.RollbackEnded(undone=[], left=[], in_doubt=[])}
RESTARTED = replace(change("r", "x", 1, 2), inverse=None, irreversible="gone")


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("failed", RunState()),
        ("rolled_back", RunState(rollback=ROLLED)),
        ("failed", RunState(state="rolled_back", rollback=ev.RollbackEnded(undone=[], left=[], in_doubt=[]))),
        ("aborted", RunState(cancel="enough", rollback=ROLLED)),
        ("needs_operator", RunState(state="stuck", cancel="enough", rollback=ROLLED)),
        ("needs_operator", RunState(checks={"c": Check("c", "precondition", verdict="INCONCLUSIVE")})),
        ("needs_operator", RunState(checks={"c": Check("c", "postcondition", verdict="ERROR")})),
        ("needs_operator", RunState(approvals=[approval("expired")])),
        ("needs_operator", RunState(approvals=[approval("")])),
        ("rolled_back", RunState(approvals=[approval("expired")], rollback=ROLLED)),
        ("failed", RunState(approvals=[approval("granted"), approval("void")])),
        ("aborted", RunState(approvals=[approval("denied")])),
        ("aborted", RunState(approvals=[approval("denied")], rollback=ROLLED)),
        ("rolled_back", RunState(approvals=[approval("denied")], since="2026-01-01T00:00:06", rollback=ROLLED)),
        ("needs_operator", RunState(state="stuck", approvals=[approval("denied")])),
        ("rolled_back", RunState(**BACK)),
        ("rolled_back", RunState(**BACK, changes={"k": change("k", "a", 0, 1, undone=True)})),
        ("rolled_back", RunState(**BACK, changes={"r": RESTARTED})),
        ("failed", RunState(purpose="roll_back")),
        ("needs_operator", RunState(decisions=[Decision(ASKS, "")])),
        ("unknown", RunState(state="stuck", cancel="x", changes={"k": change("k", "a", 0, 1, state="unknown")})),
        ("unknown", RunState(changes={"k": change("k", "a", 0, 1, state="intended")})),
        ("failed", RunState(changes={"k": change("k", "a", 0, 1, state="intended", undone=True)})),
        ("failed", RunState(changes={"u": change("u", "a", 1, 0, state="unknown", undoes="k")})),
    ],
)
def test_how_a_run_without_success_ends(outcome, state):
    """May have acted is unknown before all else; then what is left to undo, who stopped it, what was undone."""
    assert outcome_of(state) == outcome


def test_a_run_that_was_denied_ends_with_its_own_code():
    """Whoever asked for it sees 5, whatever was undone; a run that went well all the same does not."""
    for outcome in get_args(ev.Outcome):
        assert exit_code(RunState(outcome=outcome)) == EXIT_CODES[outcome]
        assert exit_code(RunState(outcome=outcome, approvals=[approval("granted")])) == EXIT_CODES[outcome]
        denied = exit_code(RunState(outcome=outcome, approvals=[approval("denied"), approval("granted")]))
        kept = {"resolved", "not_applicable", "unknown"}
        assert denied == (EXIT_CODES[outcome] if outcome in kept else 5)


def test_a_denial_counts_for_the_session_in_which_it_was_given():
    """Who rolls back a run that was denied last week is not told that somebody denied it."""
    before, since = approval("denied", "2026-01-01T00:00:05"), "2026-01-01T00:00:06"
    assert exit_code(RunState(outcome="rolled_back", approvals=[before], since=since)) == EXIT_CODES["rolled_back"]
    assert exit_code(RunState(outcome="rolled_back", approvals=[before], since=before.at)) == 5


def test_without_a_word_in_the_environment_file_a_run_waits_ten_minutes_for_somebody_else():
    """The defaults are the safe ones: nobody approves a run of their own."""
    rules = ApprovalRules()
    assert (rules.needed, rules.approvers, rules.own, rules.wait_s, rules.valid_s) == ({}, ("*",), False, 600, 600)


@settings(CALM, max_examples=200)
@given(st.lists(st.integers(0, 1000), max_size=40))
def test_the_outcome_is_always_one_that_the_lifecycle_allows(walk, choices):
    """Wherever a run may be closed as lost, the outcome that policy gives it is a legal move."""
    state = fold((entry, read_event(entry)) for entry in walk(choices))
    if state.state not in FINISHED | {"new", "acting", "waiting", "rolling_back", "interrupted", "stranded"}:
        assert allows(state.state, f"run_closed_{outcome_of(state)}")


@pytest.mark.parametrize(
    ("risk", "final", "environment", "word"),
    [
        ("low", False, {}, "go"), ("medium", False, {}, "approve"), ("high", False, {}, "stop"),
        ("low", True, {}, "stop"), ("low", True, {"irreversible": "approve"}, "approve"),
        ("high", True, {"high": "go", "irreversible": "go"}, "go"), ("medium", False, {"medium": "stop"}, "stop"),
        ("high", True, {"high": "stop", "irreversible": "go"}, "stop"),
    ],
)  # fmt: skip
def test_partial_evidence_means_the_strictest_that_applies(risk, final, environment, word):
    """By risk, and once more for what cannot be undone; what the file does not say is as careful as it should be."""
    assert on_partial_evidence(risk, final=final, environment=environment) == word
