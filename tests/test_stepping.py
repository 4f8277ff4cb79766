"""A step is done once, under a deadline, and never called done while something of it is in doubt."""

import asyncio
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel
from sessions import opened, resumed, taken

from rbkit import events as ev
from rbkit import resilience, stepping
from rbkit.adapters.fakes import FakeBalancer
from rbkit.ending import abandon
from rbkit.errors import (
    ApprovalNeeded,
    Cancelled,
    Denied,
    Fenced,
    IllegalMove,
    Refused,
    RefusedInput,
    RunEnded,
    StepFailed,
    StepUnknown,
    StoreUnavailable,
)
from rbkit.journal import Journal
from rbkit.specs import StepSpec

PATIENCE_S = resilience.PATIENCE_S
MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3"]}


class Deaf(FakeBalancer):
    """A balancer that takes a change and never answers; the change is made or not."""

    def __init__(self, acts: bool) -> None:
        super().__init__(MEMBERS)
        self.acts, self.entered = acts, asyncio.Event()

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Answer nothing to a drain."""
        if call.action == "drain":
            if self.acts:
                await super().apply(call, key, token)
            self.entered.set()
            await asyncio.Event().wait()
        await super().apply(call, key, token)


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
    assert done["result"] == {"$rbkit": "change", "key": change.key} and change is run.state.changes[change.key]
    assert rig.screen.lines[-2:] == [
        "✓ balancer.drain(checkout-1): applied state ready → drain", "✓ drain: done in 0.0s",
    ]  # fmt: skip


def test_an_acknowledged_step_is_not_repeated(rig) -> None:
    """Running its cell again returns the journaled result and touches nothing."""
    run = rig.run()
    asyncio.run(drains(run)())
    again = asyncio.run(drains(run)())
    assert again.after["state"] == "drain" and len(rig.balancer.asked) == 1
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
    [(None, None), (3, 3), ((1, [2]), {"$rbkit": "tuple", "items": [1, [2]]}), ({"a": 1.5}, {"a": 1.5})],
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
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.action == "drain":
                raise RuntimeError("the answer got lost")
            await super().apply(call, key, token)

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
    """When nobody could ask the step to stop for long it is stopped; that is a fault of the store, not a request."""
    rig.balancer = Deaf(acts=True)
    run, read, away = rig.run(), rig.store.read, [0.0]

    def fails_for_a_while(*arguments: Any) -> Any:
        if rig.clock.monotonic() < away[0]:
            raise StoreUnavailable("The disk is gone.")
        return read(*arguments)

    monkeypatch.setattr(rig.store, "read", fails_for_a_while)
    monkeypatch.setattr(stepping, "WATCH_S", 0.01)

    async def scenario() -> None:
        task = asyncio.ensure_future(drains(run)())
        await asyncio.wait_for(rig.balancer.entered.wait(), 5)
        away[0] = rig.clock.monotonic() + 1.5 * PATIENCE_S
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
        async def apply(self, call: Any, key: str, token: int) -> None:
            await super().apply(call, key, token)
            if call.action == "drain":
                raise KeyboardInterrupt

    rig.balancer = Interrupted(MEMBERS)
    run = rig.run()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(drains(run)())
    assert rig.events("change_unknown")[0]["error"] == "KeyboardInterrupt"
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("aborted", "ready")


@pytest.mark.parametrize("given", [{"risk": "high"}, {"risk": "low", "approvals": 1}])
def test_a_change_that_nobody_approves_is_not_made(rig, given) -> None:
    """Without an answer in time the run stops safely, asks for an operator (exit 4), and undoes what was done."""
    run = rig.run()
    asyncio.run(drains(run)())

    @run.step(**given)
    async def work() -> Any:
        """Never made."""
        return await run.use("balancer").drain("checkout-2")

    with pytest.raises(ApprovalNeeded, match="needs 1 approval") as caught:
        asyncio.run(work())
    assert caught.value.exit_code == 4 and rig.events("approval_requested")[0]["needed"] == 1
    assert [str(call) for call in rig.balancer.asked] == ["balancer.drain(checkout-1)", "balancer.ready(checkout-1)"]
    assert run.state.steps["work"].state == "failed" and run.state.outcome == "rolled_back"


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


class Found(BaseModel):
    """A model of a notebook's own."""

    name: str
    limits: tuple[float, ...]


@dataclass
class Pair:
    """A dataclass of a notebook's own."""

    one: Found
    two: dict[int, str]


FRAME = pd.DataFrame(
    {"time": pd.to_datetime(["2026-01-01T00:00:00Z", None]), "value": [1.5, float("nan")], "name": ["a", None]},
    index=pd.Index([3, 1], name="row"),
)


@pytest.mark.parametrize(
    "value",
    [None, (1, [2.5]), Found(name="a", limits=(1.0, 2.0)), Pair(Found(name="b", limits=()), {1: "x"}), {3}],
    ids=["nothing", "tuple", "model", "dataclass", "set"],
)
def test_a_finished_step_returns_its_typed_result_in_a_new_process(rig, value) -> None:
    """A resumed run returns the same value of the same type, and does not call the function."""
    asyncio.run(working(rig.run(), value)())
    run = resumed(rig)
    again = asyncio.run(working(run, "not called")())
    assert (again, type(again)) == (value, type(value))
    assert rig.kinds().count("step_started") == 1 and rig.screen.lines[-1] == "✓ work: done before, not repeated"


def test_a_finished_step_returns_its_table_in_a_new_process(rig) -> None:
    """A DataFrame comes back to the cell, the type and the index."""
    asyncio.run(working(rig.run(), FRAME)())
    pd.testing.assert_frame_equal(asyncio.run(working(resumed(rig), None)()), FRAME)


def test_a_finished_step_returns_its_change_in_a_new_process(rig) -> None:
    """The change of a step that is done is the run's own, and the world is not touched again."""
    asyncio.run(drains(rig.run())())
    run = resumed(rig)
    change = asyncio.run(drains(run)())
    assert change is run.journal.known.changes[change.key] and change.after["state"] == "drain"
    assert len(rig.balancer.asked) == 1


def working(run: Any, value: Any) -> Any:
    """Make the step `work`, which returns a value."""

    @run.step()
    async def work() -> Any:
        """Work."""
        return value

    return work


def test_a_finished_step_waits_for_a_store_that_is_away(rig, monkeypatch) -> None:
    """A table that cannot be fetched at once is fetched a little later."""
    asyncio.run(working(rig.run(), FRAME)())
    fetch, fails = rig.store.fetch, [True, True]

    def away(name: str) -> Any:
        if fails and fails.pop():
            raise StoreUnavailable("gone")
        return fetch(name)

    monkeypatch.setattr(rig.store, "fetch", away)
    assert len(asyncio.run(working(resumed(rig), None)())) == 2 and not fails


@pytest.mark.parametrize("mode", ["live", "dry_run"])
def test_a_result_that_cannot_be_kept_is_refused_at_the_step(rig, mode) -> None:
    """A class that is not found by its name says so at once, also before anything was changed in a dry run."""

    class Hidden(BaseModel):
        name: str = "a"

    with pytest.raises(StepFailed, match="The result of step work.*cannot be kept.*not found by its name"):
        asyncio.run(working(rig.run(mode), Hidden())())
    assert rig.events("step_failed")[0]["error"] == RefusedInput.__name__ and not rig.events("step_done")


def test_a_finished_step_is_not_forgotten_when_nothing_more_is_to_be_done(rig) -> None:
    """A resumed run that finds nothing to do keeps what it did; only what never ran is skipped."""
    asyncio.run(working(rig.run(), 3)())
    run = resumed(rig)

    @run.precondition
    async def needed() -> bool:
        """It is needed."""
        return False

    assert asyncio.run(needed()) is False
    assert asyncio.run(working(run, None)()) == 3 and run.state.steps["work"].state == "done"


class Dead(BaseException):
    """The process is killed: nothing is written any more."""


def dies_at(rig: Any, monkeypatch: Any, kind: str) -> None:
    """Kill the process when it is about to write an event of a kind."""
    append, dead = rig.store.append, []

    def until_then(entry: Any) -> bool:
        if dead or entry.event["kind"] == kind:
            dead.append(entry)
            raise Dead
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", until_then)


@pytest.mark.parametrize(
    ("kind", "how"),
    [("change_intended", "applied"), ("change_done", "settled"), ("step_done", "applied"), ("run_closed", "applied")],
)
def test_a_step_whose_process_died_is_made_once(rig, monkeypatch, kind, how) -> None:
    """A resumed run makes what was not made, looks after what is in doubt, and returns what was acknowledged."""
    run = rig.run()
    dies_at(rig, monkeypatch, kind)
    if kind == "run_closed":
        asyncio.run(drains(run)())
    else:
        with pytest.raises(Dead):
            asyncio.run(drains(run)())
    monkeypatch.undo()
    again = resumed(rig)
    assert asyncio.run(drains(again)()).how == how and again.state.steps["drain"].state == "done"
    assert len(rig.balancer.asked) == 1 and rig.kinds().count("step_done") == 1


class Slow(FakeBalancer):
    """A balancer that needs fake seconds for a drain."""

    def __init__(self, clock: Any, seconds: float) -> None:
        super().__init__(MEMBERS)
        self.clock, self.seconds = clock, seconds

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Take time."""
        if call.action == "drain":
            await self.clock.sleep(self.seconds)
            await asyncio.sleep(0.01)
        await super().apply(call, key, token)


def on_its_clock(rig: Any, work: Any) -> Any:
    """Run in a loop whose time goes on with the rig's clock."""
    loop = asyncio.new_event_loop()
    real = loop.time
    loop.time = lambda: real() + rig.clock.monotonic()  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


def answering(rig: Any, after_s: float, answer: Callable[[str], Any], actor: str = "os:boss") -> None:
    """Let somebody answer the request that waits, after some fake seconds."""

    def looks(seconds: float) -> None:
        journal = Journal(rig.store, "20260101-000000-aaaaaa", "cli", actor=actor, clock=rig.clock, session=0)
        if (asks := journal.state.asks) and rig.clock.monotonic() >= after_s and not (asks.given or asks.denied):
            journal.append(answer(asks.request.digest))

    rig.clock._on_sleep = looks


def test_waiting_for_an_approval_does_not_count_against_the_deadline(rig) -> None:
    """A step of 5 s whose approval came after 100 s, and that then takes 2 s, is done."""
    rig.balancer = Slow(rig.clock, 2.0)
    answering(rig, 100.0, lambda digest: ev.ApprovalGiven(digest=digest))
    run = rig.run()
    change = on_its_clock(rig, drains(run, risk="high", timeout="5s")())
    assert change.how == "applied" and rig.clock.monotonic() >= 100.0 and run.state.steps["drain"].state == "done"


def test_after_the_approval_the_deadline_counts_again(rig) -> None:
    """What takes longer than the step may, without the waiting, is out of time."""
    rig.balancer = Slow(rig.clock, 6.0)
    answering(rig, 100.0, lambda digest: ev.ApprovalGiven(digest=digest))
    run = rig.run()
    with pytest.raises(StepUnknown, match="took longer than 5.0s"):
        on_its_clock(rig, drains(run, risk="high", timeout="5s")())
    assert run.state.outcome == "rolled_back" and rig.states()["checkout-1"] == "ready"


def test_a_step_that_somebody_denied_is_denied(rig) -> None:
    """The answer no ends the run at once; exit code 5."""
    answering(rig, 1.0, lambda digest: ev.ApprovalDenied(digest=digest, reason="not today"))
    run = rig.run()
    with pytest.raises(Denied, match="os:boss denied step drain: not today") as caught:
        asyncio.run(drains(run, risk="high")())
    assert caught.value.exit_code == 5 and (run.state.outcome, rig.balancer.asked) == ("aborted", [])


def test_a_change_that_was_not_waited_for_leaves_no_step_done(rig) -> None:
    """A function that returns while its change still waits for an approval has failed."""
    run = rig.run()

    @run.step(risk="high")
    async def work() -> None:
        """Forget to await."""
        tasks.append(asyncio.ensure_future(run.use("balancer").drain("checkout-1")))
        while run.journal.state.state != "waiting":
            await asyncio.sleep(0)

    tasks: list[Any] = []

    async def scenario() -> None:
        try:
            await work()
        finally:
            (error,) = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(error, Exception)

    with pytest.raises(StepFailed, match="still waits for an approval"):
        asyncio.run(scenario())
    assert rig.balancer.asked == [] and "step_done" not in rig.kinds()


def test_a_run_that_waits_for_a_target_says_so_when_time_is_over(rig) -> None:
    """A step out of time names what it waited for: whose lease, until when."""
    rig.store.acquire("target:test/checkout-1", "other/there/7/ffffff", rig.clock.now(), 1e6)
    with pytest.raises(StepFailed, match="took longer than.*It waited for checkout-1, held by other until 2026"):
        on_its_clock(rig, drains(rig.run(), timeout="2s")())
    assert rig.balancer.asked == []


@pytest.mark.parametrize("then", ["a change", "an error", "an interrupt", "nothing", "the end"])
def test_a_process_whose_run_was_taken_over_writes_and_undoes_nothing(rig, then) -> None:
    """Whatever its step does then, Fenced goes out, and neither the journal nor the world hears of it."""
    run = rig.run()

    @run.step(max_targets=2)
    async def work() -> Any:
        """Be slow."""
        await run.use("balancer").drain("checkout-1")
        gate = taken(rig, "abandon" if then == "the end" else "resume")
        if then == "the end":
            abandon(gate.journal, "os:test abandoned it")
        before.extend(rig.kinds())
        if then in {"an error", "the end"}:
            raise ValueError("odd")
        if then == "an interrupt":
            raise asyncio.CancelledError
        return await run.use("balancer").drain("checkout-2") if then == "a change" else None

    before: list[str] = []
    with pytest.raises(Fenced, match="taken over"):
        asyncio.run(work())
    assert rig.kinds() == before and rig.screen.ended == []
    assert [call.action for call in rig.balancer.asked] == ["drain"]


@pytest.mark.parametrize("stopped", [True, False])
def test_a_process_whose_run_was_taken_over_stops_by_itself(rig, monkeypatch, stopped) -> None:
    """A request to stop that is meant for the new process is not obeyed by the old one, and it does not wait on."""
    monkeypatch.setattr(stepping, "WATCH_S", 0.01)
    run = rig.run()

    @run.step()
    async def work() -> None:
        """Wait for ever."""
        gate = taken(rig)
        if stopped:
            gate.journal.append(ev.CancelRequested(reason="the new one"))
        await asyncio.Event().wait()

    async def scenario() -> None:
        done, _ = await asyncio.wait({asyncio.ensure_future(work())}, timeout=20)
        assert done, "it waits on"
        done.pop().result()

    with pytest.raises(Fenced, match="taken over"):
        asyncio.run(scenario())
    assert rig.kinds()[-1] == ("cancel_requested" if stopped else "session_began")


def test_a_run_that_ends_inside_its_step_says_how(rig) -> None:
    """Closing inside a step ends the run; the step has nothing to add."""
    run = rig.run()

    @run.step()
    async def work() -> None:
        """Close too early."""
        run.close()

    with pytest.raises(RunEnded, match="ended too early"):
        asyncio.run(work())
    assert rig.kinds()[-1] == "run_closed" and rig.screen.ended == ["failed"]


def test_a_step_whose_end_cannot_be_written_is_not_called_done(rig, monkeypatch) -> None:
    """The error goes out; when the store is back the run is ended and what the step did is undone."""
    run, append = rig.run(), rig.store.append

    def full(entry: Any) -> bool:
        if entry.event["kind"] == "step_done":
            raise StoreUnavailable("The disk is full.")
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", full)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        asyncio.run(drains(run)())
    monkeypatch.undo()
    run.fail_now(RunEnded("A cell failed."))
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")


class Picky(FakeBalancer):
    """A balancer that refuses to drain some members."""

    def __init__(self, *refuses: str) -> None:
        super().__init__(MEMBERS)
        self.refuses = refuses

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Refuse, or act."""
        if call.target in self.refuses:
            raise Refused(f"{call.target} is in use")
        await super().apply(call, key, token)


def alternatives(run: Any, automatic: bool = True, **risks: str) -> Any:
    """Make steps `second` and `third`, and `first`, which they can replace; each drains the member of its number."""

    def make(number: int, name: str, **more: Any) -> Any:
        async def drain() -> Any:
            return await run.use("balancer").drain(f"checkout-{number}")

        drain.__name__, drain.__doc__ = name, f"Drain number {number}. Undo: put {number} back."
        return run.step(**more)(drain)

    for number, (name, risk) in enumerate(risks.items(), 2):
        make(number, name, risk=risk)
    return make(1, "first", otherwise=list(risks), automatic=automatic)


def declared(*names: str, **more: Any) -> tuple[StepSpec, ...]:
    """Describe the steps as a contract does."""
    first = StepSpec(name="first", intent="", timeout_s=60, undo="put 1 back", otherwise=names, **more)
    return (first, *(StepSpec(name=name, intent="", timeout_s=60, risk="low") for name in names))


def test_a_safe_alternative_is_made_by_itself(rig) -> None:
    """Headless, if the contract says so, the first alternative of low risk is made; others are not needed."""
    rig.balancer = Picky("checkout-1")
    run = opened(rig, steps=declared("second", "third", automatic=True))
    change = asyncio.run(alternatives(run, second="medium", third="low")())
    assert change.call.target == "checkout-3" and run.state.fallbacks == {"first": "third"}
    assert {name: step.state for name, step in run.state.steps.items()} == {
        "first": "replaced", "third": "done", "second": "skipped",
    }  # fmt: skip
    (chosen,) = rig.events("fallback_chosen")
    assert (chosen["how"], chosen["risk"]) == ("automatic", "low")
    assert "◆ first could be replaced by second (risk medium): Drain number 2." in rig.screen.lines

    @run.postcondition
    async def well() -> bool:
        """It is well."""
        return True

    asyncio.run(well())
    run.close()
    assert run.state.outcome == "resolved"


@pytest.mark.parametrize(("automatic", "risk"), [(True, "medium"), (True, "high"), (False, "low")])
def test_without_a_safe_alternative_an_operator_is_needed(rig, automatic, risk) -> None:
    """Headless, anything else is left to a person: rolled back, and the alternatives are named; exit code 4."""
    rig.balancer = Picky("checkout-1")
    run = opened(rig, steps=declared("second"))
    with pytest.raises(StepFailed, match="ended as needs_operator"):
        asyncio.run(alternatives(run, automatic, second=risk)())
    assert run.state.outcome == "needs_operator" and rig.balancer.asked == []
    assert run.state.reason == (
        "Step first failed: checkout-1 is in use. Instead could be done: second (risk low)."
    )  # fmt: skip


def test_an_operator_chooses_the_alternative(rig, monkeypatch) -> None:
    """Whoever is attached is asked, whatever the risk."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("second\n"))
    rig.balancer = Picky("checkout-1")
    run = opened(rig, steps=declared("second"), attended=True)
    assert asyncio.run(alternatives(run, second="medium")()).call.target == "checkout-2"
    assert rig.events("fallback_chosen")[0]["how"] == "operator"
    assert rig.events("asked")[0]["prompt"] == "first failed. What instead?"


@pytest.mark.parametrize("typed", ["roll back\n", "", "KeyboardInterrupt"])
def test_an_operator_takes_no_alternative(rig, monkeypatch, typed) -> None:
    """The answer roll back, no answer and an interrupt all end the run; the operator has had the choice."""

    def prompted(prompt: str) -> str:
        if typed == "KeyboardInterrupt":
            raise KeyboardInterrupt
        return io.StringIO(typed).readline().strip() or "roll back"

    monkeypatch.setattr("builtins.input", prompted)
    rig.balancer = Picky("checkout-1")
    run = opened(rig, steps=declared("second"), attended=True)
    asyncio.run(drains(run, "checkout-3")())
    with pytest.raises(StepFailed, match="ended as rolled_back"):
        asyncio.run(alternatives(run, second="low")())
    assert rig.events("answered")[0]["answer"] == "roll back" and not rig.events("fallback_chosen")


def test_an_unknown_outcome_never_falls_back(rig) -> None:
    """A step that may have acted is not replaced: the alternative could do it twice."""

    class Lost(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.action == "drain":
                raise RuntimeError("the answer got lost")
            await super().apply(call, key, token)

    rig.balancer = Lost(MEMBERS)
    run = opened(rig, steps=declared("second", automatic=True))
    with pytest.raises(StepUnknown):
        asyncio.run(alternatives(run, second="low")())
    assert not rig.events("fallback_chosen") and list(run.state.steps) == ["first"]


def test_a_step_that_was_stopped_never_falls_back(rig) -> None:
    """Somebody who stops a run does not want something else to be done, whatever the step makes of it."""
    run = opened(rig, steps=declared("first"))

    @run.step(risk="low")
    async def second() -> None:
        """Do the other thing."""

    @run.step(otherwise=["second"], automatic=True)
    async def first() -> None:
        """Fail after a request to stop."""
        rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
        raise ValueError("odd")

    with pytest.raises(StepFailed):
        asyncio.run(first())
    assert run.state.outcome == "aborted" and "second" not in run.state.steps


def test_an_alternative_that_fails_too_is_replaced_by_the_next(rig) -> None:
    """What can stand in for the first can stand in for what stood in for it; then nothing is left."""
    rig.balancer = Picky("checkout-1", "checkout-2")
    run = opened(rig, steps=declared("second", "third", automatic=True))
    assert asyncio.run(alternatives(run, second="low", third="low")()).call.target == "checkout-3"
    assert run.state.fallbacks == {"first": "second", "second": "third"}


def test_when_every_alternative_has_failed_the_run_is_over(rig) -> None:
    """The error is the last one's; all that was tried is in the journal, and no person could choose anything."""
    rig.balancer = Picky("checkout-1", "checkout-2")
    run = opened(rig, steps=declared("second", automatic=True))
    asyncio.run(drains(run, "checkout-3")())
    with pytest.raises(StepFailed, match="Step second failed: checkout-2 is in use"):
        asyncio.run(alternatives(run, second="low")())
    assert (run.state.outcome, rig.states()["checkout-3"]) == ("rolled_back", "ready")


def test_an_alternative_that_stands_below_is_none(rig) -> None:
    """A step whose cell was not run yet cannot be made; it is said, and named to the operator."""
    rig.balancer = Picky("checkout-1")
    run = opened(rig, steps=declared("second", automatic=True))

    @run.step(otherwise=["second"], automatic=True)
    async def first() -> Any:
        """Drain."""
        return await run.use("balancer").drain("checkout-1")

    with pytest.raises(StepFailed):
        asyncio.run(first())
    assert any("cannot be replaced by second" in line for line in rig.screen.lines)
    assert run.state.outcome == "needs_operator" and "second (risk low)" in run.state.reason


def test_an_alternative_that_was_not_needed_is_not_made(rig) -> None:
    """It is journaled as skipped, and its own cell does nothing either."""
    run = opened(rig, steps=declared("second"))
    first = alternatives(run, second="low")
    asyncio.run(first())
    assert run.state.steps["second"].why == "not needed: first is done"
    _, work = run._works["second"]
    assert asyncio.run(run.step(risk="low")(named(work, "second"))()) is None and len(rig.balancer.asked) == 1
    assert run.state.steps["second"].why == "first does not need it"


def test_a_process_that_dies_before_it_skips_the_alternatives_leaves_that_to_the_next(rig, monkeypatch) -> None:
    """Else the resumed run would lack a step that nobody needs, and be undone for it."""
    run = opened(rig, steps=declared("second"))
    dies_at(rig, monkeypatch, "step_skipped")
    with pytest.raises(Dead):
        asyncio.run(alternatives(run, second="low")())
    monkeypatch.undo()
    again = resumed(rig, steps=declared("second"))
    asyncio.run(alternatives(again, second="low")())
    assert again.state.steps["second"].state == "skipped" and len(rig.balancer.asked) == 1


def named(function: Any, name: str) -> Any:
    """Give a function its name again."""
    function.__name__ = name
    return function


def test_a_step_that_was_skipped_for_another_reason_is_made_when_it_is_needed(rig) -> None:
    """In a resumed run something may be to be done after all."""
    run = opened(rig)
    run.journal.append(ev.StepSkipped(step="work", why="nothing is to be done"))
    assert asyncio.run(working(resumed(rig), 3)()) == 3


@pytest.mark.parametrize("done", [True, False])
def test_a_resumed_run_goes_through_the_replaced_step_to_the_alternatives_result(rig, done) -> None:
    """The choice is kept: the alternative's result is returned if it is done, else the alternative is made."""
    rig.balancer = Picky("checkout-1")
    run = opened(rig, steps=declared("second", automatic=True))
    if done:
        asyncio.run(alternatives(run, second="low")())
    else:
        for event in (
            ev.StepStarted(step="first", intent="", risk="low", timeout_s=60, deadline=""),
            ev.StepFailed(step="first", error="Refused", why="no", seconds=0.0),
            ev.FallbackChosen(step="first", otherwise="second", risk="low", how="automatic"),
        ):
            run.journal.append(event)
    again = resumed(rig)
    assert asyncio.run(alternatives(again, second="low")()).call.target == "checkout-2"
    assert [str(call) for call in rig.balancer.asked] == ["balancer.drain(checkout-2)"]
    assert rig.kinds().count("fallback_chosen") == 1 and again.state.steps["first"].state == "replaced"


def test_a_choice_whose_alternative_is_gone_is_refused(rig) -> None:
    """A resumed run whose notebook has lost the alternative says so in one sentence."""
    rig.balancer = Picky("checkout-1")
    asyncio.run(alternatives(opened(rig, steps=declared("second", automatic=True)), second="low")())
    again = resumed(rig)
    with pytest.raises(IllegalMove, match="Step second was chosen as the alternative, and its cell was not run"):
        asyncio.run(again.step()(named(untouched(), "first"))())


def untouched() -> Any:
    """Make a function that must not be called."""

    async def first() -> None:
        raise AssertionError

    return first


def test_a_dry_run_shows_that_alternatives_are_not_needed(rig) -> None:
    """A planned step needs no alternative."""
    run = opened(rig, "dry_run", steps=declared("second"))
    asyncio.run(alternatives(run, second="low")())
    assert {name: step.state for name, step in run.state.steps.items()} == {"first": "planned", "second": "skipped"}
