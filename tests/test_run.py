"""The object that a notebook holds."""

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from rbkit.contract import CheckSpec, StepSpec
from rbkit.errors import CheckFailed, ContractError, GuardRail, NotFound, RefusedInput, RunEnded
from rbkit.run import in_thread

RULES = """
version: "1"
summary: s
rules:
  - {name: high, when: {signal: memory, above: limit}, then: restart, why: too much}
otherwise: {then: healthy, why: all is well, ends: %s}
"""


def rules(folder: Path, ends: str = "not_applicable") -> None:
    """Write the rules `leak` into a folder."""
    (folder / "leak.yaml").write_text(RULES % ends)


async def nothing() -> None:
    """Do nothing."""


def checked(run: Any, answer: bool = True) -> None:
    """Measure a postcondition."""

    @run.postcondition(within="1s")
    async def well() -> bool:
        """It is well."""
        return answer

    asyncio.run(well())


def test_a_run_resolves(rig) -> None:
    """Steps done and checks passed: the run is resolved, and closing it again is fine."""
    run = rig.run()
    assert asyncio.run(run.step()(nothing)()) is None
    checked(run)
    run.close()
    run.close()
    assert (run.state.outcome, rig.screen.ended, rig.kinds().count("run_closed")) == ("resolved", ["resolved"], 1)


@pytest.mark.parametrize("missing", ["check", "step", "undeclared check", "undeclared step"])
def test_closing_too_early_rolls_back(rig, missing) -> None:
    """A run whose notebook ends before every step and check is rolled back, from a thread with its own world."""
    steps = (StepSpec(name="later", intent="", timeout_s=1),) if missing == "step" else ()
    checks = (CheckSpec(name="later", phase="postcondition", sentence="", within_s=1),) if missing == "check" else ()
    run = rig.run(steps=steps, checks=checks)

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    asyncio.run(drain())
    if missing == "undeclared step":
        run.step()(nothing)
        checked(run)
    with pytest.raises(RunEnded, match=f"ended too early.*ended as rolled_back.*rbkit show {run.id}"):
        run.close()
    assert rig.states()["checkout-1"] == "ready" and rig.screen.ended == ["rolled_back"]
    with pytest.raises(RunEnded, match="ended too early"):
        run.close()


def test_a_run_without_checks_is_not_resolved(rig) -> None:
    """Success is measured: a run that checked nothing has not succeeded."""
    run = rig.run()
    asyncio.run(run.step()(nothing)())
    with pytest.raises(RunEnded, match="nothing was checked"):
        run.close()


def test_a_dry_run_that_stops_early_is_not_called_complete(rig) -> None:
    """A dry run must have planned every step."""
    run = rig.run("dry_run", steps=(StepSpec(name="later", intent="", timeout_s=1),))
    with pytest.raises(RunEnded, match="step later is not done"):
        run.close()


def test_the_world_that_was_made_for_the_end_is_closed(rig) -> None:
    """Ending leaves no connection open."""
    run, worlds = rig.run(), []
    run._fresh_world = lambda: worlds.append(rig.world()) or worlds[-1]
    with pytest.raises(RunEnded):
        run.close()
    assert len(worlds) == 1 and worlds[0]._made == {}


def test_closing_inside_a_running_loop_works(rig) -> None:
    """In a notebook a loop runs already; close ends the run all the same."""
    run = rig.run()

    async def cell() -> None:
        run.close()

    with pytest.raises(RunEnded):
        asyncio.run(cell())
    assert run.state.outcome == "failed"


def test_reads_go_through_the_gate(rig) -> None:
    """A capability's read returns its models, by position or by name, and is journaled."""
    run = rig.run()
    balancer = run.use("balancer")
    first, second = asyncio.run(gathered(run, balancer.members("checkout"), balancer.members(service="checkout")))
    assert first == second and first[0].name == "checkout-1"
    assert [event["arguments"] for event in rig.events("observed")] == [{"service": "checkout"}] * 2


async def gathered(run: Any, *reads: Any) -> list[Any]:
    """Gather reads."""
    return list(await run.gather(*reads))


def test_a_capability_shows_what_it_can(rig) -> None:
    """Completion lists reads and changes; a wrong name is refused with the nearest one."""
    run = rig.run()
    balancer = run.use("balancer")
    assert set(dir(balancer)) == {"members", "drain", "ready"}
    with pytest.raises(NotFound, match="Did you mean 'drain'"):
        _ = balancer.drian
    assert not hasattr(balancer, "_repr_html_")
    with pytest.raises(NotFound, match="Did you mean 'balancer'"):
        run.use("balanser")


@pytest.mark.parametrize("target", [None, "", 3, ["checkout-1"]])
def test_a_change_needs_the_name_of_its_target(rig, target) -> None:
    """A target that is missing, such as the verdict's when no rule held, changes nothing."""
    with pytest.raises(GuardRail, match="name of its target"):
        rig.run().use("balancer").drain(target)


def test_a_decision_is_journaled_with_its_trace(rig) -> None:
    """The verdict names the target; rules, inputs and trace are in the journal."""
    rules(rig.rules)
    rig.samples(400.0)
    run = rig.run()
    memory = asyncio.run(run.observe("memory", service="checkout"))
    verdict = run.decide("leak", memory=memory)
    (event,) = rig.events("decided")
    assert (verdict.target, event["target"], event["trace"][0]["limit"]) == ("checkout-1", "checkout-1", 300.0)
    assert rig.screen.lines[-1] == "◆ restart: too much"


def test_a_decision_that_nothing_is_to_be_done_concludes(rig) -> None:
    """The run is not applicable, for the rules' reason."""
    rules(rig.rules)
    rig.samples(100.0)
    run = rig.run()
    run.decide("leak", memory=asyncio.run(run.observe("memory", service="checkout")))
    run.close()
    assert (run.state.outcome, run.state.reason) == ("not_applicable", "all is well")


def test_a_decision_without_evidence_needs_an_operator(rig) -> None:
    """Rules on an empty signal decide nothing: the run ends and a person must look."""
    rules(rig.rules)
    run = rig.run()
    memory = asyncio.run(run.observe("memory", service="checkout"))
    with pytest.raises(CheckFailed, match="No decision: memory has no samples.*needs_operator"):
        run.decide("leak", memory=memory)
    assert run.state.outcome == "needs_operator"


def test_a_failure_after_the_end_changes_nothing(rig) -> None:
    """A cell that fails after the run is over is told how it ended."""
    run = rig.run()
    checked(run)
    run.close()
    error = run.fail_now(RunEnded("A cell failed."))
    assert "ended as resolved" in error.what and rig.screen.ended == ["resolved"]


@pytest.mark.parametrize(
    ("typed", "answer", "how"),
    [
        ("wait\n", "wait", "operator"),
        ("\n", "stop", "operator"),
        ("maybe\n", "stop", "default"),
        ("", "stop", "default"),
    ],
)
def test_a_question_is_answered_or_takes_its_default(rig, monkeypatch, typed, answer, how) -> None:
    """Enter and nobody mean the default; an answer that is no option is none."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    run = rig.run()
    assert run.ask("Go on?", ["wait", "stop"], "stop") == answer
    assert rig.events("answered")[0]["how"] == how


def test_a_question_is_asked_once(rig, monkeypatch) -> None:
    """An answer is kept: running the cell again asks nobody."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("wait\n"))
    run = rig.run()
    assert [run.ask("Go on?", ["wait", "stop"], "stop") for _ in range(2)] == ["wait", "wait"]
    assert rig.kinds().count("asked") == 1


def test_a_dry_run_asks_nobody(rig, monkeypatch) -> None:
    """A dry run takes the default even when somebody is there."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("wait\n"))
    assert rig.run("dry_run").ask("Go on?", ["wait", "stop"], "stop") == "stop"


def test_a_default_must_be_an_option(rig) -> None:
    """A question with an impossible default is refused before it is asked."""
    with pytest.raises(RefusedInput, match="none of"):
        rig.run().ask("Go on?", ["wait"], "stop")
    assert rig.kinds() == ["run_opened"]


def test_decorators_refuse_blocking_functions(rig) -> None:
    """A blocking function can be neither step nor check."""
    run = rig.run()
    for mark in (run.precondition, run.postcondition, run.step()):
        with pytest.raises(ContractError):
            mark(lambda: True)


def test_a_thread_of_its_own_raises_what_was_raised() -> None:
    """Work in a thread returns its result or raises its error here."""

    async def fails() -> None:
        raise KeyboardInterrupt

    async def works() -> int:
        return 3

    assert in_thread(works()) == 3
    with pytest.raises(KeyboardInterrupt):
        in_thread(fails())


def test_a_run_knows_itself(rig) -> None:
    """Id and mode are those of journal and gate."""
    run = rig.run("dry_run")
    assert (run.id, run.mode) == (run.journal.run, "dry_run")
