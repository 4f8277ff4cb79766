"""Every effect is journaled before and after, in each of the four modes."""

import asyncio
import json
from typing import Any

import pytest

from rbkit.adapters.fakes import FakeBalancer, FakeServices
from rbkit.errors import (
    BadAnswer,
    GuardRail,
    IllegalMove,
    MayHaveActed,
    NotFound,
    Refused,
    ReplayMiss,
    StepUnknown,
    StoreUnavailable,
    Unreachable,
)
from rbkit.events import Call
from rbkit.ports import Plan, action, read

MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3"]}
DRAIN = Call(capability="balancer", action="drain", target="checkout-1")


class Balancer(FakeBalancer):
    """A balancer that does something of its own when it is to act."""

    def __init__(self, act: Any) -> None:
        super().__init__(MEMBERS)
        self.act = act

    async def apply(self, call: Call, key: str) -> None:
        """Do what the test wants; act as usual unless it raises."""
        before = asyncio.ensure_future(self.act(call, key)) if asyncio.iscoroutinefunction(self.act) else None
        if before is not None:
            await before
        else:
            self.act(call, key)
        await super().apply(call, key)


def raising(error: BaseException) -> Any:
    """Make an act that raises."""

    def act(call: Call, key: str) -> None:
        raise error

    return act


def test_a_change_is_intended_then_done(rig) -> None:
    """A change holds its state before and after, its inverse, and is journaled on both sides of the act."""
    change = rig.change(rig.started(), "drain")
    assert (change.state, change.how, change.before["state"], change.after["state"]) == (
        "done", "applied", "ready", "drain",
    )  # fmt: skip
    assert str(change.inverse) == "balancer.ready(checkout-1)" and change.acted
    assert rig.kinds()[-2:] == ["change_intended", "change_done"]
    assert rig.states()["checkout-1"] == "drain"


def test_the_intent_is_durable_before_anything_is_applied(rig) -> None:
    """When an adapter is asked to act, another process already finds intent, inverse and key in the store."""
    seen: list[dict[str, Any]] = []
    rig.balancer = Balancer(lambda call, key: seen.extend(rig.events("change_intended")))
    change = rig.change(rig.started(), "drain")
    assert [(event["key"], event["inverse"]["action"]) for event in seen] == [(change.key, "ready")]


def test_what_already_holds_is_not_applied(rig) -> None:
    """A state that holds is recorded as such, not made again, and is nothing to undo."""
    change = rig.change(rig.started(), "ready")
    assert (change.state, change.how, change.acted, rig.balancer.asked) == ("done", "already", False, [])


def test_a_store_that_fails_at_the_intent_lets_nothing_be_applied(rig, monkeypatch) -> None:
    """Without a durable intent nothing is touched."""
    gate, append = rig.started(), rig.store.append

    def full(entry: Any) -> bool:
        if entry.event["kind"] == "change_intended":
            raise StoreUnavailable("The disk is full.")
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", full)
    with pytest.raises(StoreUnavailable, match="full"):
        rig.change(gate, "drain")
    assert rig.balancer.asked == [] and rig.states()["checkout-1"] == "ready"


@pytest.mark.parametrize("error", [Refused("no"), Unreachable("gone"), NotFound("no such target")])
def test_a_change_that_was_certainly_not_made_has_failed(rig, error) -> None:
    """A refusal, an address that was never reached and a target that is not there are failures, not doubts."""
    rig.balancer = Balancer(raising(error))
    with pytest.raises(type(error)):
        rig.change(rig.started(), "drain")
    (event,) = rig.events("change_failed")
    assert (event["error"], event["why"]) == (type(error).__name__, error.what)
    assert not any(change.acted for change in rig.journal().state.changes.values())


def test_may_have_acted_and_it_shows_is_done(rig) -> None:
    """When no answer came but the world shows the change, it is done."""

    class Silent(FakeBalancer):
        async def apply(self, call: Call, key: str) -> None:
            await super().apply(call, key)
            raise MayHaveActed("no answer came")

    rig.balancer = Silent(MEMBERS)
    assert rig.change(rig.started(), "drain").state == "done"


@pytest.mark.parametrize("error", [MayHaveActed("no answer came"), None])
def test_what_never_shows_is_unknown(rig, error) -> None:
    """A change that does not show in time is unknown, never failed; why is said."""

    class Deaf(FakeBalancer):
        async def apply(self, call: Call, key: str) -> None:
            if error:
                raise error

    rig.balancer = Deaf(MEMBERS)
    with pytest.raises(
        StepUnknown, match=r"drain\(checkout-1\) did not show within 20s" + (".*no answer" * bool(error))
    ):
        rig.change(rig.started(), "drain")
    (event,) = rig.events("change_unknown")
    assert event["error"] == "StepUnknown" and "did not show" in event["why"]
    assert rig.journal().state.changes[event["key"]].in_doubt
    assert rig.clock.monotonic() >= 20


@pytest.mark.parametrize("error", [BadAnswer("garbage"), NotFound("gone")])
def test_a_state_that_cannot_be_read_back_leaves_the_change_unknown(rig, error) -> None:
    """Even when the target is gone after the act, nobody says that it certainly was not made."""

    class Blind(FakeBalancer):
        async def state(self, target: str) -> dict[str, Any]:
            if self.asked:
                raise error
            return await super().state(target)

    rig.balancer = Blind(MEMBERS)
    with pytest.raises(StepUnknown, match=error.what):
        rig.change(rig.started(), "drain")
    assert rig.events("change_unknown") and not rig.events("change_failed")


def test_a_bad_reading_between_two_good_ones_is_no_doubt(rig) -> None:
    """Reading back goes on after a failure."""
    answers = iter([BadAnswer("garbage")])

    class Flaky(FakeBalancer):
        async def state(self, target: str) -> dict[str, Any]:
            if self.asked and (error := next(answers, None)):
                raise error
            return await super().state(target)

    rig.balancer = Flaky(MEMBERS)
    assert rig.change(rig.started(), "drain").state == "done"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug in an adapter"), BadAnswer("odd")])
def test_anything_else_inside_the_act_is_unknown(rig, error) -> None:
    """An interrupt or an adapter's own error inside the act is journaled as unknown before it goes on."""
    rig.balancer = Balancer(raising(error))
    with pytest.raises(type(error)):
        rig.change(rig.started(), "drain")
    assert rig.events("change_unknown")[0]["error"] == type(error).__name__


@pytest.mark.parametrize("way", ["cancelled", "timeout"])
def test_a_cancellation_inside_the_act_is_unknown(rig, way) -> None:
    """Work that is cancelled or runs out of time in the middle of an act leaves a journaled doubt."""
    gate = rig.started()

    async def scenario() -> None:
        entered = asyncio.Event()

        async def hang(call: Call, key: str) -> None:
            entered.set()
            await asyncio.Event().wait()

        rig.balancer = gate.world._made["capability balancer"] = Balancer(hang)
        task = asyncio.ensure_future(rig.as_step(gate.change(DRAIN)))
        if way == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
            return
        await asyncio.wait_for(entered.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    (event,) = rig.events("change_unknown")
    assert (event["error"], event["why"]) == ("CancelledError", "CancelledError")


def test_a_change_outside_a_step_is_refused_before_anything(rig, monkeypatch) -> None:
    """Outside a step nothing is read, written or journaled."""
    gate = rig.open()
    monkeypatch.setattr(rig.balancer, "state", None)
    with pytest.raises(IllegalMove, match="outside a step.*@run.step"):
        asyncio.run(gate.change(DRAIN))
    assert rig.kinds() == ["run_opened"] and rig.balancer.asked == []


def test_a_task_that_outlives_its_step_changes_nothing(rig) -> None:
    """Work that a step left running is refused once that step is over, even while another step runs."""
    gate = rig.open()
    with pytest.raises(IllegalMove, match="outside a step"):
        rig.change(gate, "drain")
    from rbkit import events as ev

    gate.journal.append(ev.StepStarted(step="other", intent="", risk="low", timeout_s=60, deadline=""))
    with pytest.raises(IllegalMove, match="outside a step"):
        rig.change(gate, "drain")
    assert rig.balancer.asked == []


def test_a_step_touches_no_more_targets_than_it_may(rig) -> None:
    """The target beyond the limit is refused before it is read; the same target may be touched again."""
    gate = rig.started()
    rig.change(gate, "drain")
    rig.change(gate, "ready")
    with pytest.raises(GuardRail, match=r"work may touch 1 target.*drain\(checkout-2\)"):
        rig.change(gate, "drain", "checkout-2")
    assert rig.change(gate, "drain", "checkout-2", max_targets=2).state == "done"


def test_changes_made_at_once_cannot_pass_the_limit_together(rig) -> None:
    """Two targets gathered in one step of one target: one is changed, the other refused."""

    class Slow(FakeBalancer):
        async def state(self, target: str) -> dict[str, Any]:
            await asyncio.sleep(0)
            return await super().state(target)

    rig.balancer = Slow(MEMBERS)
    gate = rig.started()
    calls = [DRAIN, DRAIN.model_copy(update={"target": "checkout-2"})]

    async def both() -> list[Any]:
        return await asyncio.gather(*(gate.change(call) for call in calls), return_exceptions=True)

    results = asyncio.run(rig.as_step(both()))
    assert sorted(type(result).__name__ for result in results) == ["Change", "GuardRail"]
    assert len(rig.balancer.asked) == 1


def test_a_dry_run_plans_and_touches_nothing(rig) -> None:
    """A dry run reads the state, journals the plan with its inverse, and leaves the world alone."""
    change = rig.change(rig.started("dry_run"), "drain")
    assert (change.state, change.planned["state"], change.inverse.action) == ("planned", "drain", "ready")
    assert rig.balancer.asked == [] and set(rig.states().values()) == {"ready"}
    assert "change_intended" not in rig.kinds() and rig.kinds()[-1] == "change_planned"


def record(rig) -> None:
    """Record a run with a signal, a read and a change."""
    rig.samples(1.0, 2.5, float("nan"))
    gate = rig.started(run="20260101-000000-000001")
    asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    asyncio.run(gate.read("balancer", "members", {"service": "checkout"}))
    rig.change(gate, "drain")


def test_a_replay_answers_from_the_tape_and_applies_nothing(rig) -> None:
    """A replay gives the recorded answers, though the world has changed since, and touches nothing."""
    record(rig)
    asked = list(rig.balancer.asked)
    rig.metrics.frames.clear()
    gate = rig.started("replay", tape="20260101-000000-000001")
    signal = asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    members = asyncio.run(gate.read("balancer", "members", {"service": "checkout"}))
    change = rig.change(gate, "drain")
    assert signal.latest.to_dict() == {"checkout-1": 2.5}
    assert [member.state for member in members] == ["ready"] * 3
    assert (change.state, change.after["state"]) == ("planned", "drain")
    assert rig.balancer.asked == asked and gate.weak == []


def test_a_replay_of_a_change_that_never_held_has_no_state_after(rig) -> None:
    """What the recorded run did not finish has no state after in the replay either."""
    rig.balancer = Balancer(raising(Refused("no")))
    with pytest.raises(Refused):
        rig.change(rig.started(run="20260101-000000-000001"), "drain")
    assert rig.change(rig.started("replay", tape="20260101-000000-000001"), "drain").after is None


def test_a_replay_miss_explains_the_nearest_recording(rig) -> None:
    """A question or change that was not recorded is refused, and what was recorded is named."""
    record(rig)
    gate = rig.started("replay", tape="20260101-000000-000001")
    with pytest.raises(ReplayMiss, match="balancer.members"):
        asyncio.run(gate.read("balancer", "members", {"service": "other"}))
    with pytest.raises(ReplayMiss, match=r"did not make services.restart.*still made: balancer.drain\(checkout-1\)"):
        rig.change(gate, "restart")
    assert rig.services.asked == []


def test_a_replay_needs_a_tape(rig) -> None:
    """A replay without a recorded run says so."""
    with pytest.raises(IllegalMove, match="needs the run"):
        asyncio.run(rig.open("replay").observe("memory", "1m", {"service": "checkout"}))


def test_a_resumed_run_does_not_repeat_what_was_done(rig) -> None:
    """A change that was acknowledged is returned from the journal, without reading or touching the world."""
    rig.change(rig.started(), "restart")
    before = list(rig.services.asked)
    again = rig.change(rig.gate("resume"), "restart")
    assert again.state == "done" and rig.services.asked == before
    assert len(rig.events("change_intended")) == 1


def test_a_resumed_run_finds_its_change_among_others(rig) -> None:
    """Another change of the same step, or the same change of another step, does not stand in."""
    gate = rig.started()
    rig.change(gate, "drain")
    rig.change(gate, "stop")
    resumed = rig.gate("resume")
    rig.change(resumed, "stop")
    rig.change(resumed, "start")
    assert [call.action for call in rig.services.asked] == ["stop", "start"] and len(rig.balancer.asked) == 1


def test_a_resumed_run_makes_what_has_failed(rig) -> None:
    """A change that was certainly not made stands for nothing."""
    rig.balancer = Balancer(raising(Refused("no")))
    with pytest.raises(Refused):
        rig.change(rig.started(), "drain")
    rig.balancer.__class__ = FakeBalancer
    assert rig.change(rig.gate("resume"), "drain").how == "applied" and rig.states()["checkout-1"] == "drain"
    assert len(rig.events("change_failed")) == 1


def test_a_resumed_run_takes_each_old_change_once(rig) -> None:
    """There and back and there again in one step: each repetition stands for one change, later ones are made."""
    gate = rig.started()
    for name in ("drain", "ready"):
        rig.change(gate, name)
    resumed = rig.gate("resume")
    for name in ("drain", "ready"):
        rig.change(resumed, name)
    assert len(rig.balancer.asked) == 2
    rig.change(resumed, "drain")
    rig.change(resumed, "ready")
    rig.change(resumed, "drain")
    assert len(rig.balancer.asked) == 5 and rig.states()["checkout-1"] == "drain"


@pytest.mark.parametrize("acted", [True, False])
def test_a_resumed_run_settles_what_is_in_doubt(rig, acted) -> None:
    """A change in doubt is settled when the world shows it, and made when it does not; no doubt is left."""

    class Dies(FakeServices):
        async def apply(self, call: Call, key: str) -> None:
            if acted:
                await super().apply(call, key)
            raise KeyboardInterrupt

    services = rig.services = Dies({"checkout": ["checkout-1"]})
    with pytest.raises(KeyboardInterrupt):
        rig.change(rig.started(), "stop")
    services.__class__ = FakeServices
    change = rig.change(rig.gate("resume"), "stop")
    assert (change.state, change.how) == ("done", "settled" if acted else "applied")
    assert len(services.asked) == 1
    changes = rig.journal().state.changes.values()
    assert not any(change.in_doubt for change in changes) and sum(change.acted for change in changes) == 1


def test_undo_applies_the_inverse_once(rig) -> None:
    """The inverse is a change of its own that marks the first as undone."""
    gate = rig.started()
    change = rig.change(gate, "drain")
    asyncio.run(gate.undo(change))
    assert rig.states()["checkout-1"] == "ready" and rig.journal().state.changes[change.key].undone


def test_what_is_irreversible_is_not_undone(rig) -> None:
    """Without an inverse the refusal says why there is none."""
    gate = rig.started()
    with pytest.raises(IllegalMove, match="cannot be undone: a restarted process"):
        asyncio.run(gate.undo(rig.change(gate, "restart")))


def test_an_observation_is_journaled_with_its_answer(rig) -> None:
    """The question is rendered safely, the answer lies on the tape, the numbers carry their unit."""
    rig.samples(100.0, 200.0)
    gate = rig.open()
    signal = asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    (event,) = rig.events("observed")
    assert (event["query"], event["rows"], event["arguments"]["last"]) == ('memory{service="checkout"}', 2, "1m")
    assert len(json.loads(rig.store.fetch(event["answer"]))["rows"]) == 2
    assert (signal.unit, signal.latest.to_dict(), gate.weak) == ("MB", {"checkout-1": 200.0}, [])
    assert gate.evidence == ["memory checkout-1 200 MB"]


def test_numbers_come_in_the_unit_of_the_environment_file(rig) -> None:
    """The factor is applied to what was recorded, so a replay shows the same."""
    rig.samples(1.5)
    gate = rig.open()
    signal = asyncio.run(gate.observe("kilobytes", "1m", {"service": "checkout"}))
    assert (signal.latest.to_dict(), signal.unit) == ({"checkout-1": 1500.0}, "kB")


@pytest.mark.parametrize(
    ("values", "age", "why"),
    [((), 0, "no samples"), ((float("nan"),), 0, "only NaN"), ((1.0,), 40, "40s old")],
)
def test_weak_evidence_is_remembered(rig, values, age, why) -> None:
    """Empty, NaN and stale answers are remembered as weak, also when they come from the tape."""
    rig.samples(*values, age_s=age)
    gate = rig.open()
    asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    replay = rig.open("replay", run="20260101-000000-bbbbbb", tape=gate.journal.run)
    asyncio.run(replay.observe("memory", "1m", {"service": "checkout"}))
    assert why in gate.weak[0] and replay.weak == gate.weak


def test_a_signal_without_its_label_is_one_series(rig) -> None:
    """When the label that tells series apart is missing, the signal's name stands in."""
    rig.samples(5.0)
    rig.metrics.frames = {query: frame.drop(columns="instance") for query, frame in rig.metrics.frames.items()}
    signal = asyncio.run(rig.open().observe("memory", "1m", {"service": "checkout"}))
    assert signal.latest.to_dict() == {"memory": 5.0}


def test_logs_have_no_value(rig) -> None:
    """An answer without numbers stays as it is."""

    class Lines:
        async def query(self, query: str, window: Any) -> Any:
            import pandas as pd

            return pd.DataFrame({"time": [window.end], "message": ["hello"]})

    rig.metrics = Lines()
    signal = asyncio.run(rig.open().observe("memory", "1m", {"service": "checkout"}))
    assert "value" not in signal.frame and signal.facts == "memory 1 lines"


def test_a_read_of_one_value_counts_as_one(rig) -> None:
    """A read may answer something else than a list."""

    class Counting(FakeBalancer):
        @read
        async def count(self) -> int:
            return 3

        @action
        def nothing(self, before: dict[str, Any]) -> Plan:
            return Plan(after={})

    rig.balancer = Counting(MEMBERS)
    gate = rig.started()
    assert asyncio.run(gate.read("balancer", "count", {})) == 3
    assert rig.events("observed")[0]["rows"] == 1
    assert rig.change(gate, "nothing").inverse is None
