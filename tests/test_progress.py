"""What a run consists of: steps and changes, and what cannot become of them."""

import pytest

from rbkit import events as ev
from rbkit.errors import IllegalMove
from rbkit.events import Call
from rbkit.progress import Change, Step, check_begun, check_ended, check_fallback, check_start

CALL = Call(capability="balancer", action="drain", target="c-2")
STATES = ("running", "done", "planned", "skipped", "failed", "unknown", "replaced", "interrupted")


def change(**more) -> Change:
    """Describe a change."""
    given = {"key": "k", "step": "s", "call": CALL, "before": {"n": 1}, "planned": {"n": 2}, "differs": {},
             "inverse": None, "irreversible": "gone"}  # fmt: skip
    return Change(**(given | more))


@pytest.mark.parametrize(
    ("more", "doubt", "acted"),
    [
        ({"state": "intended"}, True, True), ({"state": "unknown"}, True, True), ({"state": "failed"}, False, False),
        ({"state": "planned"}, False, False), ({"state": "done", "how": "applied"}, False, True),
        ({"state": "done", "how": "settled"}, False, True), ({"state": "done", "how": "already"}, False, False),
        ({"state": "done", "how": "applied", "undone": True}, False, False),
        ({"state": "unknown", "undone": True}, True, False),
    ],
)  # fmt: skip
def test_what_is_in_doubt_counts_as_done_until_it_is_known(more, doubt, acted):
    """Only what was certainly not made, held already, or is undone has not acted."""
    assert (change(**more).in_doubt, change(**more).acted) == (doubt, acted)


def test_a_change_tells_its_history_in_one_line():
    """Before and after, as planned until it was read back; nothing when it held already."""
    assert repr(change()) == "balancer.drain(c-2): intended, n 1 → 2"
    assert change(after={"n": 1}).moved == "nothing changed"
    assert change(planned={}, differs={"pid": 7}, before={"pid": 7}).moved == "pid 7 → another"


@pytest.mark.parametrize("state", STATES)
def test_only_a_step_that_is_done_cannot_begin_again(state):
    """What failed, broke off, was skipped or only planned can be tried again."""
    begin = ev.StepStarted(step="s", intent="", risk="low", timeout_s=1, deadline="")
    check_start(None, begin)
    if state == "done":
        with pytest.raises(IllegalMove, match="Step s is done"):
            check_start(Step("s", state), begin)
    else:
        check_start(Step("s", state), begin)


@pytest.mark.parametrize("state", STATES)
def test_only_a_step_that_certainly_failed_can_be_replaced(state):
    """A step that may have acted never is, and none is while the run is being ended."""
    with pytest.raises(IllegalMove, match="the run is being ended"):
        check_fallback(Step("s", state), ending=True)
    if state == "failed":
        check_fallback(Step("s", state), ending=False)
    else:
        with pytest.raises(IllegalMove, match=f"it is {state}, not failed"):
            check_fallback(Step("s", state), ending=False)


def test_a_key_is_good_for_one_change():
    """Intended or planned, a change needs a key of its own; its inverse is intended while it stands."""
    told = {"step": "s", "call": CALL, "before": {}, "after": {}, "inverse": None}
    for kind in (ev.ChangeIntended, ev.ChangePlanned):
        check_begun({"k": change()}, kind(key="l", **told))
        with pytest.raises(IllegalMove, match="was begun already as k"):
            check_begun({"k": change()}, kind(key="k", **told))
    check_begun({"k": change()}, ev.ChangeIntended(key="u", undoes="k", **told))
    with pytest.raises(IllegalMove, match="what it undoes is undone"):
        check_begun({"k": change(undone=True)}, ev.ChangeIntended(key="u", undoes="k", **told))


def test_a_result_is_for_a_change_in_doubt():
    """What is done, failed or planned has no other result."""
    for state in ("intended", "unknown"):
        check_ended(change(state=state))
    for state in ("done", "failed", "planned"):
        with pytest.raises(IllegalMove, match=f"is {state} already"):
            check_ended(change(state=state))
