"""The object that a notebook holds."""

import asyncio
import io
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sessions import opened, resumed, taken

from rbkit import events as ev
from rbkit import run as module
from rbkit.adapters.fakes import FakeBalancer
from rbkit.contract import CheckSpec, StepSpec
from rbkit.errors import (
    Cancelled,
    CheckFailed,
    ContractError,
    Fenced,
    RefusedInput,
    RunEnded,
    StepFailed,
    StoreUnavailable,
    Unreachable,
)
from rbkit.journal import Journal
from rbkit.run import in_thread
from rbkit.sandbox.layout import INSTANCES

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


def acted(run: Any) -> None:
    """Drain checkout-1 in a step of a run."""

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    asyncio.run(drain())


def test_gathered_reads_go_on_at_once(rig) -> None:
    """Results come in the order given, whoever was quicker."""
    run, first, second = rig.run(), asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        first.set()
        await second.wait()
        return "slow"

    async def quick() -> str:
        await first.wait()
        second.set()
        return "quick"

    async def cell() -> list[Any]:
        return await run.gather(slow(), quick())

    assert asyncio.run(cell()) == ["slow", "quick"]


def test_the_first_error_of_several_reads_comes_when_all_have_ended(rig) -> None:
    """Nothing is left behind, and the error is the first in the order given."""
    run, done = rig.run(), []

    async def late() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        done.append("late")
        raise Unreachable("first in order")

    async def soon() -> None:
        raise ValueError("first in time")

    async def good() -> None:
        for _ in range(9):
            await asyncio.sleep(0)
        done.append("good")

    async def cell() -> None:
        await run.gather(late(), soon(), good())

    with pytest.raises(Unreachable, match="first in order"):
        asyncio.run(cell())
    assert done == ["late", "good"]


def test_a_replay_takes_answers_from_the_tape(rig, monkeypatch) -> None:
    """Nobody is asked again: the recorded answer counts."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("wait\n"))
    recorded = rig.run(run="20260101-000000-000001")
    recorded.ask("Go on?", ["wait", "stop"], "stop")
    run = rig.run("replay", tape=recorded.id)
    assert run.ask("Go on?", ["wait", "stop"], "stop") == "wait"
    assert rig.events("answered")[0]["how"] == "tape"


def test_a_resumed_run_keeps_an_answer_that_is_still_possible(rig, monkeypatch) -> None:
    """Nobody is asked twice, unless the options have changed."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("wait\n"))
    opened(rig).ask("Go on?", ["wait", "stop"], "stop")
    run = resumed(rig)
    assert run.ask("Go on?", ["wait", "stop"], "stop") == "wait"
    assert run.ask("Go on?", ["go", "stop"], "stop") == "stop" and rig.kinds().count("asked") == 2


def test_an_interrupt_at_a_question_goes_out(rig, monkeypatch) -> None:
    """Whoever stops a question stops the cell; the answer is not the default."""

    def stopped(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", stopped)
    with pytest.raises(KeyboardInterrupt):
        rig.run().ask("Go on?", ["wait", "stop"], "stop")
    assert rig.events("answered") == []


def someone(rig: Any, event: ev.Event) -> None:
    """Let somebody say something as soon as the run waits for a confirmation."""

    def looks(seconds: float) -> None:
        journal = Journal(rig.store, rig.journal().run, "cli", actor="os:boss", clock=rig.clock, session=0)
        if journal.state.state == "confirming":
            journal.append(event)

    rig.clock._on_sleep = looks


def test_a_confirmed_run_is_resolved(rig) -> None:
    """What was done stands when somebody confirms it in time."""
    someone(rig, ev.Confirmed())
    run = opened(rig, confirm_within_s=60.0)
    acted(run)
    checked(run)
    run.close()
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("resolved", "drain")


def test_a_run_that_nobody_confirms_is_rolled_back(rig) -> None:
    """It has not succeeded, and says so, whatever the contract says of failures."""
    run = opened(rig, confirm_within_s=60.0, rollback="never")
    acted(run)
    checked(run)
    for _ in range(2):
        with pytest.raises(RunEnded, match="Nobody confirmed it within 1m 00s. The run .* ended as rolled_back"):
            run.close()
    assert rig.states()["checkout-1"] == "ready" and rig.screen.ended == ["rolled_back"]


def test_a_run_that_is_stopped_instead_of_confirmed_is_rolled_back(rig) -> None:
    """A request to stop does not have to wait; exit code 130."""
    someone(rig, ev.CancelRequested(reason="no good"))
    run = opened(rig, confirm_within_s=60.0)
    acted(run)
    checked(run)
    with pytest.raises(Cancelled, match="Stopped: no good. The run .* ended as aborted") as caught:
        run.close()
    assert caught.value.exit_code == 130 and rig.states()["checkout-1"] == "ready" and rig.clock.monotonic() < 1.0


@pytest.mark.parametrize("mode", ["live", "dry_run"])
def test_a_run_that_changed_nothing_needs_no_confirmation(rig, mode) -> None:
    """There is nothing to roll back, so nobody is waited for."""
    run = opened(rig, mode, confirm_within_s=60.0)
    asyncio.run(run.step()(nothing)())
    checked(run)
    run.close()
    assert run.state.outcome == ("resolved" if mode == "live" else "not_applicable") and rig.clock.monotonic() == 0.0


def test_a_resumed_run_is_confirmed_anew(rig) -> None:
    """Whoever confirms confirms what is there now."""
    run = opened(rig, confirm_within_s=60.0)
    acted(run)
    run.journal.append(ev.ConfirmationRequested(until="2026-01-01T00:01:00+00:00"))
    again = resumed(rig, confirm_within_s=60.0)
    someone(rig, ev.Confirmed())
    acted(again)
    checked(again)
    again.close()
    assert again.state.outcome == "resolved" and rig.kinds().count("confirmation_requested") == 2


@pytest.mark.parametrize("concluded", [False, True])
def test_what_is_always_undone_is_undone_after_success(rig, concluded) -> None:
    """A drill leaves nothing behind, also when its later steps had nothing to do."""
    run = opened(rig, rollback="always")
    acted(run)
    checked(run)
    if concluded:

        @run.precondition
        async def more() -> bool:
            """There is more to do."""
            return False

        asyncio.run(more())
    with pytest.raises(RunEnded, match="always undone. The run .* ended as rolled_back"):
        run.close()
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")


def test_what_is_always_undone_and_cannot_be_needs_an_operator(rig) -> None:
    """A drill whose rollback is incomplete is no success either."""

    class Stuck(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.action == "ready":
                raise RuntimeError("a bug")
            await super().apply(call, key, token)

    rig.balancer = Stuck({"checkout": INSTANCES})
    run = opened(rig, rollback="always")
    acted(run)
    checked(run)
    with pytest.raises(RunEnded, match="ended as needs_operator"):
        run.close()


def test_a_drill_without_a_change_is_resolved(rig) -> None:
    """Nothing stands, so nothing is undone."""
    run = opened(rig, rollback="always")
    asyncio.run(run.step()(nothing)())
    checked(run)
    run.close()
    assert run.state.outcome == "resolved"


@pytest.mark.parametrize("way", ["failing", "rolling_back"])
def test_closing_a_run_that_was_not_brought_to_its_end_ends_it(rig, way) -> None:
    """Everything is done and checked, and yet it failed: it is never called resolved."""
    run = opened(rig)
    acted(run)
    checked(run)
    if way == "failing":
        run.journal.append(ev.CheckStarted(name="well", phase="postcondition", sentence=""))
        run.journal.append(ev.CheckEnded(name="well", phase="postcondition", verdict="ERROR", why="odd", seconds=0.0))
        run._checks.clear()
    else:
        run.journal.append(ev.RollbackStarted(why="it was a drill", undo=[], irreversible=[]))
    with pytest.raises(RunEnded, match="not brought to its end|it was a drill"):
        run.close()
    assert rig.states()["checkout-1"] == "ready" and run.state.outcome in {"rolled_back", "needs_operator"}


def typing(monkeypatch: Any, answer: str) -> list[str]:
    """Let somebody type an answer; return what they were asked."""
    asked: list[str] = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        if answer == "Ctrl-C":
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr("builtins.input", typed)
    return asked


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("roll back", "rolled_back"), ("", "rolled_back"), ("Ctrl-C", "rolled_back"), ("leave", "needs_operator")],
)
@pytest.mark.parametrize("now", [True, False])
def test_whoever_is_attached_is_asked_whether_to_undo(rig, monkeypatch, answer, outcome, now) -> None:
    """With `rollback="ask"` the operator decides; anything but a clear answer undoes it."""
    asked = typing(monkeypatch, answer)
    run = opened(rig, rollback="ask", attended=True)
    acted(run)
    with pytest.raises(RunEnded, match=f"ended as {outcome}"):
        raise run.fail_now(RunEnded("odd")) if now else asyncio.run(run.fail(RunEnded("odd")))
    assert asked == ["Undo what was done (balancer.drain(checkout-1))? [roll back/leave, Enter = roll back] "]
    assert rig.states()["checkout-1"] == ("ready" if outcome == "rolled_back" else "drain")


@pytest.mark.parametrize(
    "why", ["nothing was done", "nobody is attached", "it is clear", "somebody stopped it", "it is under way"]
)
def test_nobody_is_asked_needlessly(rig, monkeypatch, why) -> None:
    """There is nothing to undo, nobody to ask, or it has been said already."""
    asked = typing(monkeypatch, "leave")
    rollback = "on_failure" if why == "it is clear" else "ask"
    run = opened(rig, rollback=rollback, attended=why != "nobody is attached")
    if why != "nothing was done":
        acted(run)
    if why == "somebody stopped it":
        rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
    if why == "it is under way":
        run.journal.append(ev.RollbackStarted(why="odd", undo=[], irreversible=[]))
    run.fail_now(RunEnded("odd"))
    stands = rig.states()["checkout-1"] == "drain"
    assert asked == [] and run.state.finished and stands == (why == "nobody is attached")


def test_an_operator_who_interrupts_a_step_is_asked(rig, monkeypatch) -> None:
    """The stop button is no answer to what becomes of what was done."""
    asked = typing(monkeypatch, "leave")
    run = opened(rig, rollback="ask", attended=True)
    acted(run)

    @run.step()
    async def work() -> None:
        """Is stopped."""
        raise asyncio.CancelledError

    with pytest.raises(Cancelled, match="ended as needs_operator"):
        asyncio.run(work())
    assert len(asked) == 1 and rig.states()["checkout-1"] == "drain"


def test_code_beside_the_cells_asks_nobody(rig, monkeypatch) -> None:
    """Where nobody can type, the safest answer is taken."""
    asked = typing(monkeypatch, "leave")
    run = opened(rig, rollback="ask", attended=True)
    acted(run)
    run.fail_now(Cancelled("Stopped."), asks=False)
    assert (asked, run.state.outcome) == ([], "rolled_back")


class Slow(FakeBalancer):
    """A balancer that needs to be told when to put a member back."""

    def __init__(self) -> None:
        super().__init__({"checkout": INSTANCES})
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Wait."""
        if call.action == "ready":
            self.entered.set()
            await self.go.wait()
        await super().apply(call, key, token)


def test_an_interrupt_of_the_cell_does_not_break_off_a_rollback(rig) -> None:
    """Whoever presses stop again and again gets a run that is undone and closed all the same."""
    rig.balancer = Slow()
    run = opened(rig)
    acted(run)

    @run.step()
    async def work() -> None:
        """Fail."""
        raise ValueError("odd")

    async def scenario() -> None:
        task = asyncio.ensure_future(work())
        await rig.balancer.entered.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        rig.balancer.go.set()
        await task

    with pytest.raises(StepFailed, match="ended as rolled_back"):
        asyncio.run(scenario())
    assert rig.states()["checkout-1"] == "ready" and "change_unknown" not in rig.kinds()


def test_an_interrupt_does_not_leave_a_thread_alone(rig, monkeypatch) -> None:
    """What is being undone in another thread is waited for; only then the cell ends."""
    wait, left, through = module.wait, [KeyboardInterrupt(), KeyboardInterrupt()], threading.Event()

    def interrupted(futures: Any) -> Any:
        if left:
            raise left.pop()
        through.set()
        return wait(futures)

    class Waits(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.action == "ready":
                assert await asyncio.to_thread(through.wait, 20)
            await super().apply(call, key, token)

    monkeypatch.setattr(module, "wait", interrupted)
    rig.balancer = Waits({"checkout": INSTANCES})
    run = opened(rig)
    acted(run)
    with pytest.raises(RunEnded, match="ended as rolled_back"):
        run.close()
    assert rig.screen.ended == ["rolled_back"] and not left


def test_what_keeps_a_run_from_ending_goes_out(rig, monkeypatch) -> None:
    """A store that stays away is an error of the cell; the run can be ended when it is back."""
    run, append = opened(rig), rig.store.append
    acted(run)

    def full(entry: Any) -> bool:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(rig.store, "append", full)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        run.close()
    monkeypatch.setattr(rig.store, "append", append)
    with pytest.raises(RunEnded, match="ended as rolled_back"):
        run.close()


@pytest.mark.parametrize("well", [True, False])
def test_a_process_whose_run_was_taken_over_cannot_close_it(rig, well) -> None:
    """Neither well nor badly: the new process does it, and nothing is undone here."""
    run = opened(rig)
    acted(run)
    if well:
        checked(run)
    taken(rig)
    with pytest.raises(Fenced):
        run.close()
    assert rig.kinds()[-1] == "session_began" and rig.states()["checkout-1"] == "drain"
