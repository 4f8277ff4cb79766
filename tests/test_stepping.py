"""A step is done once, under a deadline, and never called done while something of it is in doubt."""

import asyncio
from typing import Any

import pytest

from rbkit import events as ev
from rbkit import stepping
from rbkit.adapters.fakes import FakeBalancer
from rbkit.errors import (
    ApprovalNeeded,
    Cancelled,
    IllegalMove,
    RunEnded,
    StepFailed,
    StepUnknown,
    StoreUnavailable,
)

MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3"]}


class Deaf(FakeBalancer):
    """A balancer that takes a change and never answers; the change is made or not."""

    def __init__(self, acts: bool) -> None:
        super().__init__(MEMBERS)
        self.acts, self.entered = acts, asyncio.Event()

    async def apply(self, call: Any, key: str) -> None:
        """Answer nothing to a drain."""
        if call.action == "drain":
            if self.acts:
                await super().apply(call, key)
            self.entered.set()
            await asyncio.Event().wait()
        await super().apply(call, key)


def drains(run: Any, target: str = "checkout-1", **limits: Any) -> Any:
    """Make the step `drain` of a run."""

    @run.step(**limits)
    async def drain() -> Any:
        """Take it out. Undo: put it back. Expect: silence."""
        return await run.use("balancer").drain(target)

    return drain


def test_a_step_is_started_worked_and_acknowledged(rig) -> None:
    """The journal holds intent and deadline before, the result after; the notebook gets the change itself."""
    run = rig.run()
    change = asyncio.run(drains(run, timeout="30s")())
    assert rig.kinds() == ["run_opened", "step_started", "change_intended", "change_done", "step_done"]
    (started,), (done,) = rig.events("step_started"), rig.events("step_done")
    assert (started["intent"], started["deadline"]) == ("Take it out.", "2026-01-01T00:00:30.000000+00:00")
    assert done["result"]["call"] == str(change.call) == "balancer.drain(checkout-1)"
    assert rig.screen.lines[-2:] == [
        "✓ balancer.drain(checkout-1): applied state ready → drain", "✓ drain: done in 0.0s",
    ]  # fmt: skip


def test_an_acknowledged_step_is_not_repeated(rig) -> None:
    """Running its cell again returns the journaled result and touches nothing."""
    run = rig.run()
    asyncio.run(drains(run)())
    again = asyncio.run(drains(run)())
    assert again["after"]["state"] == "drain" and len(rig.balancer.asked) == 1
    assert rig.screen.lines[-1] == "✓ drain: done before, not repeated"


def test_a_dry_run_plans_each_step_on_what_the_steps_before_it_planned(rig) -> None:
    """Drain and put back: the plan of the second starts from the plan of the first; nothing is touched."""
    run = rig.run("dry_run", approvals={"medium": 2})

    @run.step()
    async def put_back() -> Any:
        """Put it back."""
        return await run.use("balancer").ready("checkout-1")

    asyncio.run(drains(run)())
    change = asyncio.run(put_back())
    assert (change.before["state"], change.planned["state"]) == ("drain", "ready")
    assert rig.balancer.asked == [] and {step.state for step in run.state.steps.values()} == {"planned"}
    assert "would change state drain → ready" in rig.screen.lines[-2]
    run.close()
    assert (run.state.outcome, run.state.reason) == ("not_applicable", "dry run: planned, nothing changed")


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, None), (3, 3), ((1, [2]), [1, [2]]), ({"a": 1.5}, {"a": 1.5})],
)
def test_a_result_is_kept_as_data(rig, value, kept) -> None:
    """What a step returns comes back to the notebook and lies in the journal as JSON."""
    run = rig.run()

    @run.step()
    async def work(given: Any) -> Any:
        """Work."""
        return given

    assert asyncio.run(work(value)) is value
    assert run.state.steps["work"].result == kept


def test_a_result_that_cannot_be_kept_fails_the_step(rig) -> None:
    """A result that is no JSON is refused, and what the step did is undone."""
    run = rig.run()

    @run.step()
    async def work() -> Any:
        """Work."""
        await run.use("balancer").drain("checkout-1")
        return object()

    with pytest.raises(StepFailed, match="cannot be kept in the journal.*ended as rolled_back"):
        asyncio.run(work())
    assert rig.states()["checkout-1"] == "ready"


def test_a_failing_step_rolls_the_run_back(rig) -> None:
    """The error says which step, why, and how the run ended; earlier steps are undone too."""
    run = rig.run()
    asyncio.run(drains(run)())

    @run.step()
    async def work() -> None:
        """Work."""
        raise ValueError("odd")

    with pytest.raises(StepFailed, match="Step work failed: ValueError: odd. The run .* ended as rolled_back"):
        asyncio.run(work())
    assert run.state.steps["work"].state == "failed" and set(rig.states().values()) == {"ready"}
    assert "✗ work: failed: ValueError: odd" in rig.screen.lines and rig.screen.ended == ["rolled_back"]


def test_a_cell_that_swallows_a_doubt_does_not_make_the_step_done(rig) -> None:
    """A step with a change in doubt is unknown even when its function returns calmly."""

    class Lost(FakeBalancer):
        async def apply(self, call: Any, key: str) -> None:
            if call.action == "drain":
                raise RuntimeError("the answer got lost")
            await super().apply(call, key)

    rig.balancer = Lost(MEMBERS)
    run = rig.run()

    @run.step()
    async def work() -> str:
        """Work."""
        try:
            await run.use("balancer").drain("checkout-1")
        except RuntimeError:
            return "all is well"
        return "not reached"

    with pytest.raises(StepUnknown, match="may or may not have been made"):
        asyncio.run(work())
    assert run.state.steps["work"].state == "unknown" and "step_done" not in rig.kinds()


@pytest.mark.parametrize("acts", [True, False])
def test_a_step_beyond_its_deadline_is_unknown_and_undone(rig, acts) -> None:
    """When time is over in the middle of an act the step is unknown; its inverse is applied whether or not it acted."""
    rig.balancer = Deaf(acts)
    run = rig.run()
    with pytest.raises(StepUnknown, match="took longer than"):
        asyncio.run(drains(run, timeout="20ms")())
    assert rig.kinds()[2:5] == ["change_intended", "change_unknown", "step_unknown"]
    assert rig.states()["checkout-1"] == "ready" and run.state.outcome == "rolled_back"


def test_a_step_that_only_waits_too_long_has_failed(rig) -> None:
    """Without a change in doubt a step out of time has certainly left nothing half done."""
    run = rig.run()

    @run.step(timeout="20ms")
    async def work() -> None:
        """Wait."""
        await asyncio.Event().wait()

    with pytest.raises(StepFailed, match="took longer than"):
        asyncio.run(work())
    assert (run.state.steps["work"].state, run.state.outcome) == ("failed", "failed")


def test_work_that_resists_is_left_behind(rig, monkeypatch) -> None:
    """Work that does not stop when cancelled does not keep the run from ending, and can change nothing later."""
    monkeypatch.setattr(stepping, "GRACE_S", 0.02)
    run = rig.run()

    async def scenario() -> Any:
        release, outcome = asyncio.Event(), []

        @run.step(timeout="20ms")
        async def work() -> None:
            """Resist."""
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            try:
                await run.use("balancer").drain("checkout-1")
            except IllegalMove as error:
                outcome.append(error)

        with pytest.raises(StepFailed):
            await work()
        release.set()
        while not outcome:
            await asyncio.sleep(0)
        return outcome

    assert "outside a step" in str(asyncio.run(scenario())[0])
    assert rig.balancer.asked == []


def test_a_request_from_another_process_stops_a_running_step(rig) -> None:
    """`cancel` written by another process ends the step, undoes it, and the run is aborted."""
    rig.balancer = Deaf(acts=True)
    run = rig.run()

    async def scenario() -> None:
        task = asyncio.ensure_future(drains(run)())
        await asyncio.wait_for(rig.balancer.entered.wait(), 5)
        rig.journal(source="cli").append(ev.CancelRequested(reason="the operator said so"))
        await task

    with pytest.raises(Cancelled, match="Stopped: the operator said so") as caught:
        asyncio.run(scenario())
    assert caught.value.exit_code == 130
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("aborted", "ready")
    assert rig.kinds().count("cancel_requested") == 1


def test_a_journal_that_cannot_be_watched_stops_a_running_step(rig, monkeypatch) -> None:
    """When nobody could ask the step to stop any more it is stopped; that is a failure of the store, not a request."""
    rig.balancer = Deaf(acts=True)
    run, read, broken = rig.run(), rig.store.read, []

    def fails_once(*arguments: Any) -> Any:
        if broken:
            raise broken.pop()
        return read(*arguments)

    monkeypatch.setattr(rig.store, "read", fails_once)
    monkeypatch.setattr(stepping, "WATCH_S", 0.01)

    async def scenario() -> None:
        task = asyncio.ensure_future(drains(run)())
        await asyncio.wait_for(rig.balancer.entered.wait(), 5)
        broken.append(StoreUnavailable("The disk is gone."))
        await task

    with pytest.raises(StepUnknown, match="The disk is gone"):
        asyncio.run(scenario())
    assert (run.state.outcome, run.state.cancel, rig.states()["checkout-1"]) == ("rolled_back", "", "ready")


def test_a_request_made_before_a_step_keeps_it_from_beginning(rig) -> None:
    """A step whose run was asked to stop does no work at all."""
    run = rig.run()
    rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
    with pytest.raises(Cancelled, match="Stopped: enough"):
        asyncio.run(drains(run)())
    assert rig.balancer.asked == [] and run.state.outcome == "aborted"


@pytest.mark.parametrize("acts", [True, False])
def test_an_interrupt_of_the_cell_stops_and_undoes(rig, acts) -> None:
    """Cancelling the cell, as Jupyter's stop button does, journals the doubt before anything is undone."""
    rig.balancer = Deaf(acts)
    run = rig.run()

    async def scenario() -> None:
        task = asyncio.ensure_future(drains(run)())
        await asyncio.wait_for(rig.balancer.entered.wait(), 5)
        task.cancel()
        await task

    with pytest.raises(Cancelled, match="outcome unknown"):
        asyncio.run(scenario())
    kinds = rig.kinds()
    assert kinds.index("change_unknown") < kinds.index("step_unknown") < kinds.index("rollback_started")
    assert run.state.cancel == "interrupted" and run.state.outcome == "aborted"
    assert rig.states()["checkout-1"] == "ready"


def test_a_keyboard_interrupt_inside_the_act_is_a_doubt(rig) -> None:
    """Ctrl-C in the middle of an act is journaled, and the run is rolled back before the loop closes."""

    class Interrupted(FakeBalancer):
        async def apply(self, call: Any, key: str) -> None:
            await super().apply(call, key)
            if call.action == "drain":
                raise KeyboardInterrupt

    rig.balancer = Interrupted(MEMBERS)
    run = rig.run()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(drains(run)())
    assert rig.events("change_unknown")[0]["error"] == "KeyboardInterrupt"
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("aborted", "ready")


@pytest.mark.parametrize("given", [{"risk": "high"}, {"risk": "low", "approvals": 1}])
def test_a_step_that_needs_an_approval_changes_nothing(rig, given) -> None:
    """Without the approval the run stops safely, asks for an operator (exit 4), and undoes what was done."""
    run = rig.run()
    asyncio.run(drains(run)())

    @run.step(**given)
    async def work() -> None:
        """Never done."""
        raise AssertionError

    with pytest.raises(ApprovalNeeded, match="needs 1 approval") as caught:
        asyncio.run(work())
    assert caught.value.exit_code == 4 and rig.events("approval_requested")[0]["needed"] == 1
    assert set(rig.states().values()) == {"ready"}


def test_an_approval_that_is_missing_needs_an_operator(rig) -> None:
    """A run that stopped for want of an approval before it changed anything waits for a person."""
    run = rig.run()
    with pytest.raises(ApprovalNeeded):
        asyncio.run(drains(run, risk="high")())
    assert run.state.outcome == "needs_operator" and rig.balancer.asked == []


def test_a_replay_needs_no_approval(rig) -> None:
    """A replay applies nothing, so nobody is asked."""
    recorded = rig.run(run="20260101-000000-000001", approvals={})
    asyncio.run(drains(recorded)())
    run = rig.run("replay", tape=recorded.id, approvals={"medium": 3})
    assert asyncio.run(drains(run)()).after["state"] == "drain"
    assert len(rig.balancer.asked) == 1 and run.state.steps["drain"].state == "done"


def test_two_steps_do_not_run_at_once(rig) -> None:
    """A step inside a step is refused in one sentence."""
    run = rig.run()

    @run.step()
    async def outer() -> None:
        """Begin another."""
        await drains(run)()

    with pytest.raises(StepFailed, match="in the middle of a step"):
        asyncio.run(outer())
    assert rig.balancer.asked == []


def test_a_step_after_the_end_is_refused(rig) -> None:
    """A closed run changes nothing any more."""
    run = rig.run()
    with pytest.raises(RunEnded):
        run.close()
    with pytest.raises(IllegalMove, match="is over"):
        asyncio.run(drains(run)())


def test_a_store_that_fails_at_the_intent_keeps_the_world_as_it_is(rig, monkeypatch) -> None:
    """When nothing can be journaled, the step raises and nothing has been touched."""
    run, append = rig.run(), rig.store.append

    def full(entry: Any) -> bool:
        if entry.event["kind"] == "change_intended":
            raise StoreUnavailable("The disk is full.")
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", full)
    with pytest.raises(StepFailed, match="disk is full"):
        asyncio.run(drains(run)())
    assert rig.balancer.asked == []
