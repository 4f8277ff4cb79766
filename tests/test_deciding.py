"""In a resumed run the rules decide again; what was done on a decision is not finished by another one."""

import asyncio
from typing import Any

import pytest
from sessions import opened, resumed

from rbkit import events as ev
from rbkit.errors import NotFound

RULES = """
version: "1"
summary: s
rules:
  - {name: high, when: {signal: memory, above: 300.0}, then: restart, why: too much}
otherwise: {then: healthy, why: all is well}
"""


@pytest.fixture(autouse=True)
def rules(rig) -> None:
    """Write the rules `leak` and `other`."""
    for name in ("leak", "other"):
        (rig.rules / f"{name}.yaml").write_text(RULES)


def decided(rig: Any, run: Any, instance: str, value: float = 400.0, rules: str = "leak") -> Any:
    """Decide on the memory of one instance."""
    rig.samples(value, instance=instance)
    memory = asyncio.run(run.observe("memory", service="checkout"))
    return run.decide(rules, memory=memory)


def changed(rig: Any, run: Any, action: str = "drain", target: str = "checkout-1") -> None:
    """Change something in a step that goes on."""
    if not run.state.running_step:
        run.journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
    rig.change(run.gate, action, target, max_targets=3)


def test_a_decision_is_made_again(rig) -> None:
    """The same verdict needs no word; a different one on which nothing was done is taken, and told."""
    decided(rig, opened(rig), "checkout-1")
    assert decided(rig, resumed(rig), "checkout-1").target == "checkout-1"
    assert not any("before" in line or "kept" in line for line in rig.screen.lines)
    assert decided(rig, resumed(rig), "checkout-2").target == "checkout-2"
    assert rig.screen.lines[-1] == "◆ decided otherwise before: restart checkout-1: too much"
    assert len(rig.events("decided")) == 3 and not any(event["now"] for event in rig.events("decided"))


def test_a_decision_on_which_something_was_done_is_kept(rig) -> None:
    """Half of a plan is not finished by another plan; the difference is journaled and told."""
    run = opened(rig)
    first = decided(rig, run, "checkout-1")
    changed(rig, run)
    again = decided(rig, resumed(rig), "checkout-2")
    assert again == first and again.target == "checkout-1"
    (_, event) = rig.events("decided")
    assert (event["target"], event["now"]) == ("checkout-1", "restart checkout-2: too much")
    assert rig.screen.lines[-1] == (
        "◆ kept, as what was done rests on it; the rules would now say restart checkout-2: too much"
    )
    assert rig.screen.lines[-2] == "◆ restart: too much"


def test_a_decision_is_kept_although_nothing_is_to_be_done_any_more(rig) -> None:
    """What was begun is finished: that the world is well again may be its work."""
    run = opened(rig)
    decided(rig, run, "checkout-1")
    changed(rig, run)
    assert decided(rig, resumed(rig), "checkout-1", value=1.0).outcome == "restart"


def test_what_held_already_or_was_undone_is_nothing_that_was_done(rig) -> None:
    """A change that changed nothing binds nobody."""
    run = opened(rig)
    decided(rig, run, "checkout-1")
    changed(rig, run, "ready")
    assert run.state.changes[next(iter(run.state.changes))].how == "already"
    assert decided(rig, resumed(rig), "checkout-2").target == "checkout-2"


def test_a_decision_after_the_change_is_free(rig) -> None:
    """What was done before a decision does not rest on it."""
    run = opened(rig)
    changed(rig, run)
    rig.clock.advance(1.0)
    decided(rig, run, "checkout-1")
    assert decided(rig, resumed(rig), "checkout-2").target == "checkout-2"


def test_each_decision_is_compared_with_the_one_in_its_place(rig) -> None:
    """The first with the first, the second with the second, each rule set by itself; a third one is new."""
    run = opened(rig)
    decided(rig, run, "checkout-1")
    decided(rig, run, "checkout-3", rules="other")
    decided(rig, run, "checkout-2")
    changed(rig, run)
    again = resumed(rig)
    assert decided(rig, again, "checkout-1").target == "checkout-1"
    assert decided(rig, again, "checkout-1").target == "checkout-2"
    assert decided(rig, again, "checkout-1", rules="other").target == "checkout-3"
    assert decided(rig, again, "checkout-1").target == "checkout-1"


def test_what_a_resumed_run_decided_binds_the_next_one(rig) -> None:
    """Decided otherwise, acted, killed again: the newest decision is the one that something was done on."""
    decided(rig, opened(rig), "checkout-1")
    second = resumed(rig)
    assert decided(rig, second, "checkout-2").target == "checkout-2"
    changed(rig, second, target="checkout-2")
    assert decided(rig, resumed(rig), "checkout-1").target == "checkout-2"


def test_a_run_that_was_killed_before_it_decided_again_keeps_the_first(rig) -> None:
    """A session without a decision changes nothing in what stands."""
    run = opened(rig)
    decided(rig, run, "checkout-1")
    changed(rig, run)
    resumed(rig)
    assert decided(rig, resumed(rig), "checkout-2").target == "checkout-1"


def test_an_operators_second_look_is_no_second_decision(rig) -> None:
    """What an operator did rests on the last of several looks at the same series before it."""
    run = opened(rig, driver="operator")
    assert decided(rig, run, "checkout-1", value=1.0).outcome == "healthy"
    assert decided(rig, run, "checkout-1").outcome == "restart"
    changed(rig, run)
    assert decided(rig, run, "checkout-1", value=1.0).outcome == "healthy"
    changed(rig, run, target="checkout-2")
    again = resumed(rig)
    assert decided(rig, again, "checkout-1", value=1.0).outcome == "restart"
    assert decided(rig, again, "checkout-1").outcome == "healthy"


def test_an_operators_look_at_something_else_is_another_decision(rig) -> None:
    """Two services, two decisions, also without a change between them."""
    run = opened(rig, driver="operator")
    decided(rig, run, "checkout-1")
    decided(rig, run, "checkout-2")
    changed(rig, run)
    again = resumed(rig)
    assert [decided(rig, again, "checkout-3").target for _ in range(2)] == ["checkout-1", "checkout-2"]


def test_a_run_that_was_not_resumed_decides_what_the_rules_say(rig) -> None:
    """In one session a later look may differ."""
    run = opened(rig)
    decided(rig, run, "checkout-1")
    changed(rig, run)
    assert decided(rig, run, "checkout-2").target == "checkout-2"


def test_rules_that_are_not_there_decide_nothing(rig) -> None:
    """The error names the folder; nothing is journaled."""
    with pytest.raises(NotFound, match="no rules 'none'"):
        decided(rig, opened(rig), "checkout-1", rules="none")
    assert rig.events("decided") == []
