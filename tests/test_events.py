"""The frozen events."""

from typing import get_args

import pytest
from pydantic import ValidationError

from rbkit import events as ev
from rbkit.events import Call


def decided(ends: str) -> ev.Decided:
    """Say that rules were applied."""
    given = {"rules": "r", "version": "1", "digest": "", "inputs": {}, "trace": [], "outcome": "", "target": None}
    return ev.Decided.model_validate(given | {"why": "", "ends": ends})


def test_every_kind_of_event_is_one_of_the_union(every_event):
    """No event is defined that a journal could not read back; its class name says its kind."""
    kinds = set(get_args(get_args(ev.AnyEvent)[0]))
    assert kinds == set(ev.Event.__subclasses__())
    assert {type(event) for event in every_event("x")} == kinds
    for kind in kinds:
        words = "".join(word.capitalize() for word in kind.model_fields["kind"].default.split("_"))
        assert words == kind.__name__


def test_an_event_cannot_be_changed_or_hold_more_than_it_declares():
    """What happened is frozen, and an unknown field is refused."""
    event = ev.CancelRequested(reason="x")
    with pytest.raises(ValidationError):
        event.reason = "y"
    with pytest.raises(ValidationError):
        ev.CancelRequested(reason="x", more="y")


@pytest.mark.parametrize(
    ("event", "move"),
    [
        (ev.CheckEnded(name="c", phase="precondition", verdict="FAIL", why="", seconds=0), "precondition_fail"),
        (ev.RollbackEnded(undone=[], left=[], in_doubt=["k"]), "rollback_ended"),
        (ev.RollbackEnded(undone=["k"], left=["l"], in_doubt=[]), "rollback_incomplete"),
        (ev.RunClosed(outcome="unknown", reason=""), "run_closed_unknown"),
        (ev.CancelRequested(reason=""), "cancel_requested"),
        *(
            (ev.SessionBegan(session=2, purpose=purpose, host="h", pid=1), purpose)
            for purpose in ("resume", "roll_back", "abandon", "interruption")
        ),
        (decided(""), "decided"),
        (decided("not_applicable"), "decided_not_applicable"),
        (decided("needs_operator"), "decided_needs_operator"),
    ],
)
def test_the_move_says_what_the_event_means_for_the_run(event, move):
    """A failed check and a passed one, a complete rollback and an incomplete one, a resumed run and one that is found
    dead are different moves.
    """
    assert event.move == move


def test_a_call_reads_like_a_call():
    """A change is shown as capability.action(target, arguments), with hostile text quoted."""
    assert str(Call(capability="balancer", action="drain", target="c-2")) == "balancer.drain(c-2)"
    call = Call(capability="db", action="scale", target="c", arguments={"to": "1; rm -rf /", "n": 2})
    assert str(call) == "db.scale(c, to='1; rm -rf /', n=2)"
