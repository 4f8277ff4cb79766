"""A fan-out begins with one, doubles, and stops before it does harm; what it did is told target by target."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions import opened, resumed, taken

from rbkit import events as ev
from rbkit.adapters.fakes import FakeServices
from rbkit.clock import FakeClock
from rbkit.errors import (
    ApprovalNeeded,
    Cancelled,
    Fenced,
    GuardRail,
    IllegalMove,
    Refused,
    RunEnded,
    StepFailed,
    StepUnknown,
    Unreachable,
)
from rbkit.journal import Journal
from rbkit.policy import ApprovalRules
from rbkit.rolling import Rolled, batches_of, most_errors

RUN = "20260101-000000-aaaaaa"


def names(count: int) -> list[str]:
    """Name targets in their alphabetical order."""
    return [f"n{number:02}" for number in range(1, count + 1)]


class Fleet(FakeServices):
    """Services of which some cannot be stopped, and that are down for a while after a change."""

    def __init__(self, clock: Any, count: int, errors: dict[str, BaseException] | None = None, down_s: float = 0.0):
        super().__init__({"checkout": names(count)})
        self.clock, self.count, self.errors, self.down_s = clock, count, errors or {}, down_s
        self.down: dict[str, float] = {}
        self.at_once = self.most_at_once = 0
        self.least_healthy = count

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Go down, take a moment, and act or fail."""
        self.down[call.target] = self.clock.monotonic() + self.down_s
        self.least_healthy = min(self.least_healthy, sum(self.up(name) for name in self._things))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.clock.sleep(0.5)
            if call.target in self.errors and call.action == "stop":
                raise self.errors[call.target]
            await super().apply(call, key, token)
        finally:
            self.at_once -= 1

    def up(self, name: str) -> bool:
        """Tell whether a target is healthy."""
        return self.clock.monotonic() >= self.down.get(name, 0.0)

    @property
    def stopped(self) -> list[str]:
        """The targets that were asked to stop, in order."""
        return [attempt.call.target for attempt in self.log if attempt.call.action == "stop" and attempt.acted]


def fleet(rig: Any, count: int, errors: dict[str, BaseException] | None = None, down_s: float = 0.0) -> Fleet:
    """Put a fleet into the world."""
    rig.services = Fleet(rig.clock, count, errors, down_s)
    return rig.services


def fan(run: Any, targets: Any, action: str = "services.stop", step: dict[str, Any] | None = None, **rails: Any) -> Any:
    """Make the step `work`, which rolls one change out."""

    @run.step(**{"max_targets": 50, "risk": "low", "timeout": "1h"} | (step or {}))
    async def work() -> Any:
        """Stop them."""
        return await run.rolling(action, targets, **rails)

    return work


def stopped_early(run: Any, work: Any, match: str) -> dict[str, Any]:
    """Run a fan-out that a guard rail stops; return its last event."""
    with pytest.raises((StepFailed, StepUnknown), match=match):
        asyncio.run(work())
    moments = [moment.event for moment in run.state.timeline if moment.event.kind == "rolling_ended"]
    return moments[-1].model_dump() | {"failed": dict(moments[-1].failed)} if moments else {}


@pytest.mark.parametrize(
    ("count", "batches"),
    [(0, []), (1, [1]), (2, [1, 1]), (7, [1, 2, 4]), (10, [1, 2, 4, 3]), (50, [1, 2, 4, 8, 16, 19])],
)
def test_batches_double(count, batches) -> None:
    """One canary, then twice as many each time, the rest at the end."""
    assert batches_of(count) == batches


@pytest.mark.parametrize(
    ("given", "count", "most"),
    [(0, 50, 0), (3, 50, 3), ("3", 2, 3), ("10%", 50, 5), ("10%", 19, 1), (" 100% ", 7, 7), ("0%", 7, 0), ("1%", 7, 0)],
)
def test_errors_are_a_number_or_a_share(given, count, most) -> None:
    """A share is rounded down: rather one error too few."""
    assert most_errors(given, count) == most


@pytest.mark.parametrize("given", ["", "%", "ten", "-1", -1, "101%", "1.5", 1.5, "5 %", None, True, "²"])
def test_errors_that_are_neither_are_refused(given) -> None:
    """A limit that cannot be understood is none, so nothing is begun."""
    with pytest.raises(GuardRail, match="max_errors is"):
        most_errors(given, 10)


def test_every_target_is_changed_few_at_first(rig) -> None:
    """The list is shown and journaled before, the result names every target."""
    world, run = fleet(rig, 7), rig.run()
    rolled = asyncio.run(fan(run, names(7))())
    assert rolled == Rolled(done=names(7)) and world.stopped == names(7)
    (planned,), (ended,) = rig.events("rolling_planned"), rig.events("rolling_ended")
    assert (planned["targets"], planned["batches"], planned["action"]) == (names(7), [1, 2, 4], "services.stop")
    assert (ended["done"], ended["failed"], ended["remaining"], ended["why"]) == (names(7), [], [], "")
    kinds = rig.kinds()
    assert kinds.index("rolling_planned") < kinds.index("change_intended") < kinds.index("rolling_ended")
    assert "◆ services.stop on 7 target(s) in batches of 1, 2, 4: n01, n02, n03, n04, n05, n06, n07" in rig.screen.lines


def test_the_result_comes_back_in_a_new_process(rig) -> None:
    """What a fan-out has done is a typed result like any other."""
    fleet(rig, 3, {"n02": Refused("no")})
    asyncio.run(fan(rig.run(), names(3), max_errors=1)())
    again = asyncio.run(fan(resumed(rig), names(3))())
    assert again == Rolled(done=["n01", "n03"], failed={"n02": "no"})


@pytest.mark.parametrize("parallel", [1, 3])
def test_no_more_at_once_than_the_step_says(rig, parallel) -> None:
    """Changes never overlap unless the step says so, and then at most so many."""
    world = fleet(rig, 12)
    asyncio.run(fan(rig.run(), names(12), step={"parallel": parallel})())
    assert world.most_at_once == parallel and sorted(world.stopped) == names(12)


def test_a_target_named_twice_is_changed_once(rig) -> None:
    """The selection is a set in the order given."""
    world = fleet(rig, 3)
    asyncio.run(fan(rig.run(), (name for name in ["n02", "n01", "n02"]))())
    assert world.stopped == ["n02", "n01"]


def test_when_the_canary_fails_no_other_is_touched(rig) -> None:
    """However many errors may happen: the first must go well."""
    world, run = fleet(rig, 5, {"n01": Refused("no")}), rig.run()
    ended = stopped_early(run, fan(run, names(5), max_errors="100%"), "canary n01 failed: no. Left alone: n02, n03")
    assert (ended["done"], ended["failed"], ended["remaining"]) == ([], {"n01": "no"}, names(5)[1:])
    assert world.stopped == [] and {call.target for call in world.asked} <= {"n01"}


def test_it_stops_with_the_sixth_error_of_fifty(rig) -> None:
    """10 % of 50 may fail; the sixth stops it, and what is left is named and untouched."""
    bad = names(50)[1:30:3]
    world, run = fleet(rig, 50, dict.fromkeys(bad, Refused("no"))), rig.run()
    ended = stopped_early(run, fan(run, names(50), max_errors="10%"), r"6 target\(s\) failed, 5 may")
    assert list(ended["failed"]) == bad[:6]
    place = names(50).index(bad[5])
    assert ended["done"] == [name for name in names(50)[:place] if name not in bad]
    assert ended["remaining"] == names(50)[place + 1 :]
    assert {call.target for call in world.asked} & set(ended["remaining"]) == set()
    assert run.state.outcome == "rolled_back"


def test_fewer_errors_do_not_stop_it(rig) -> None:
    """With as many errors as may be the step is done, and says which."""
    fleet(rig, 50, dict.fromkeys(names(50)[1:6], Refused("no")))
    run = rig.run()
    rolled = asyncio.run(fan(run, names(50), max_errors="10%")())
    assert list(rolled.failed) == names(50)[1:6] and len(rolled.done) == 45
    assert run.state.steps["work"].state == "done"


def test_what_is_under_way_when_it_stops_is_finished_and_told(rig) -> None:
    """With three at once, the two others of a failing target are neither broken off nor forgotten."""
    world, run = fleet(rig, 15, {"n08": Refused("no")}), rig.run()
    ended = stopped_early(run, fan(run, names(15), step={"parallel": 3}), r"1 target\(s\) failed, 0 may")
    assert ended["done"] == [*names(7), "n09", "n10"] and ended["remaining"] == names(15)[10:]
    assert world.at_once == 0


def test_a_second_error_on_its_way_is_told_too(rig) -> None:
    """Every failure has its reason."""
    fleet(rig, 7, {"n04": Refused("no"), "n05": Refused("neither")})
    run = rig.run()
    ended = stopped_early(run, fan(run, names(7), step={"parallel": 2}), "failed")
    assert ended["failed"] == {"n04": "no", "n05": "neither"}


@pytest.mark.parametrize(("parallel", "under_way"), [(1, []), (2, ["n05"])])
def test_a_target_of_which_nobody_knows_stops_it(rig, parallel, under_way) -> None:
    """A change in doubt is never one of the errors that may happen: the step is unknown and is undone."""
    world = fleet(rig, 15, {"n04": RuntimeError("a bug")})
    run = rig.run()
    with pytest.raises(StepUnknown, match="a bug"):
        asyncio.run(fan(run, names(15), max_errors="50%", step={"parallel": parallel})())
    (ended,) = rig.events("rolling_ended")
    assert ended["why"] == "RuntimeError: a bug" and list(dict(ended["failed"])) == ["n04"]
    assert world.stopped == ended["done"] == ["n01", "n02", "n03", *under_way]
    assert ended["remaining"] == names(15)[4 + len(under_way) :] and run.state.outcome == "rolled_back"


def test_a_change_that_does_not_show_stops_it(rig) -> None:
    """The target answers and does not change: nobody knows."""

    class Mute(Fleet):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.target != "n03" or call.action != "stop":
                await super().apply(call, key, token)

    rig.services = Mute(rig.clock, 7)
    run = rig.run()
    with pytest.raises(StepUnknown, match="nobody knows whether n03 was changed"):
        asyncio.run(fan(run, names(7), max_errors=5)())
    assert rig.events("rolling_ended")[0]["remaining"] == names(7)[3:]


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ([], "has no target: the selection is empty"),
        (iter(()), "has no target: the selection is empty"),
        (names(51), r"may touch 50 target\(s\); 51 were selected"),
        ("n01", "a list of names, not 'n01'"),
        (["n01", ""], "a list of names"),
        (["n01", None], "a list of names"),
        ([3], "a list of names"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(rig, targets, match) -> None:
    """Nothing, too much, or something else than names: nothing is touched."""
    world, run = fleet(rig, 60), rig.run()
    assert stopped_early(run, fan(run, targets), match) == {}
    assert world.asked == [] and rig.events("rolling_planned") == []


def test_a_floor_needs_somebody_who_can_tell(rig) -> None:
    """`at_least` without `healthy` would promise what nobody checks."""
    run = rig.run()
    stopped_early(run, fan(run, ["checkout-1"], at_least=1), "at_least needs a function")


def test_a_fan_out_is_part_of_a_step(rig) -> None:
    """Outside a step nothing is changed."""
    with pytest.raises(IllegalMove, match="belongs in a step"):
        asyncio.run(rig.run().rolling("services.stop", ["checkout-1"]))


def test_a_step_makes_one_fan_out(rig) -> None:
    """A second one would be taken for the first when the run is resumed."""
    world, run = fleet(rig, 3), rig.run()

    @run.step(max_targets=3)
    async def work() -> None:
        """Stop some, and then others."""
        await run.rolling("services.stop", ["n01"])
        await run.rolling("services.stop", ["n02"])

    with pytest.raises(StepFailed, match="has begun a fan-out"):
        asyncio.run(work())
    assert world.stopped == ["n01"]


def healthy(world: Fleet) -> Any:
    """Ask the fleet for the health of a target."""

    async def ask(name: str) -> bool:
        return world.up(name)

    return ask


@given(
    count=st.integers(1, 12), parallel=st.integers(1, 4), spare=st.integers(1, 12), down_s=st.sampled_from([0, 3, 9])
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_floor_is_never_crossed(rig, count, parallel, spare, down_s) -> None:
    """At no time are fewer healthy than promised, also with several at once; and it goes through to the end."""
    rig = type(rig)()
    world, at_least = fleet(rig, count, down_s=down_s), max(0, count - spare)
    rolled = asyncio.run(
        fan(rig.run(), names(count), at_least=at_least, healthy=healthy(world), step={"parallel": parallel})()
    )
    assert sorted(rolled.done) == names(count) and world.least_healthy >= at_least
    assert world.most_at_once <= min(parallel, spare)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_floor_that_leaves_nothing_to_do_touches_nothing(rig, parallel) -> None:
    """All must be healthy, so none may be taken out."""
    world, run = fleet(rig, 3), rig.run()
    work = fan(run, names(3), at_least=3, healthy=healthy(world), step={"parallel": parallel})
    ended = stopped_early(run, work, r"2 other target\(s\) are healthy, and 3 must be. Left alone: n01, n02, n03")
    assert ended["remaining"] == names(3) and world.asked == []


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_floor_that_would_be_crossed_stops_it(rig, parallel) -> None:
    """A target that falls ill elsewhere counts; those under way are waited for first."""
    world, run = fleet(rig, 7, down_s=2.0), rig.run()
    original = world.apply

    async def apply(call: Any, key: str, token: int) -> None:
        await original(call, key, token)
        if call.target == "n03":
            world.down |= {"n06": 1e9, "n07": 1e9}

    world.apply = apply
    work = fan(run, names(7), at_least=5, healthy=healthy(world), step={"parallel": parallel})
    ended = stopped_early(run, work, r"4 other target\(s\) are healthy, and 5 must be")
    assert (ended["done"], ended["remaining"]) == (names(3), names(7)[3:])


def test_a_target_that_does_not_come_back_has_failed(rig) -> None:
    """It is given `settle`; then it is an error like any other."""
    world, run = fleet(rig, 3, down_s=100.0), rig.run()
    ended = stopped_early(run, fan(run, names(3), healthy=healthy(world), settle="10s"), "canary n01 failed")
    assert ended["failed"] == {"n01": "n01 did not become healthy within 10s"} and world.stopped == ["n01"]


def test_a_target_is_given_time_to_come_back(rig) -> None:
    """The next one is touched when the one before is healthy again."""
    world = fleet(rig, 3, down_s=8.0)
    asyncio.run(fan(rig.run(), names(3), healthy=healthy(world), settle="10s")())
    assert world.least_healthy == 2 and rig.clock.monotonic() >= 24.0


@pytest.mark.parametrize(
    ("answer", "passes"),
    [(True, True), (np.True_, True), (False, False), (np.False_, False), (1, False), ("yes", False), (None, False)],
)
def test_only_a_real_true_is_healthy(rig, answer, passes) -> None:
    """As in a check, truthiness is no evidence."""
    fleet(rig, 1)

    async def ask(name: str) -> Any:
        return answer

    run = rig.run()
    work = fan(run, names(1), healthy=ask, settle="3s")
    if passes:
        assert asyncio.run(work()).done == ["n01"]
    else:
        stopped_early(run, work, "did not become healthy")


@pytest.mark.parametrize(("values", "passes"), [((), False), ((1.0,), True)])
def test_health_on_weak_evidence_is_none(rig, values, passes) -> None:
    """A signal without samples says nothing, whatever is made of it."""
    fleet(rig, 1)
    rig.samples(*values)
    run = rig.run()

    async def ask(name: str) -> bool:
        await run.observe("memory", last="1h", service="checkout")
        return True

    work = fan(run, names(1), healthy=ask, settle="3s")
    if passes:
        assert asyncio.run(work()).done == ["n01"]
    else:
        stopped_early(run, work, "did not become healthy")


def test_a_target_whose_health_cannot_be_read_is_not_healthy(rig) -> None:
    """A source that does not answer is no good news."""
    fleet(rig, 1)

    async def ask(name: str) -> bool:
        raise Unreachable("gone")

    run = rig.run()
    stopped_early(run, fan(run, names(1), healthy=ask, settle="3s"), "did not become healthy")


def test_a_fault_in_the_question_for_health_stops_it(rig) -> None:
    """It is told as what it is, and the target that it was about counts as touched."""
    fleet(rig, 7)

    async def ask(name: str) -> bool:
        if name == "n03":
            raise KeyError(name)
        return True

    run = rig.run()
    ended = stopped_early(run, fan(run, names(7), healthy=ask, step={"parallel": 2}), "KeyError: 'n03'")
    assert ended["failed"] == {"n03": "stopped in the middle: KeyError"} and ended["done"] == ["n01", "n02"]
    assert ended["why"] == "KeyError: 'n03'" and ended["remaining"] == names(7)[3:]


def test_a_step_out_of_time_tells_what_was_in_the_middle(rig) -> None:
    """The target under way counts as failed, not as left alone; what was not begun is left alone."""

    class Stuck(Fleet):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.target == "n03" and call.action == "stop":
                await asyncio.Event().wait()
            await super().apply(call, key, token)

    rig.services = Stuck(rig.clock, 5)
    run = rig.run()
    with pytest.raises(StepUnknown, match="took longer"):
        asyncio.run(fan(run, names(5), step={"timeout": "200ms"})())
    (ended,) = rig.events("rolling_ended")
    assert (ended["done"], ended["remaining"]) == (["n01", "n02"], ["n04", "n05"])
    assert ended["failed"] == [["n03", "stopped in the middle: CancelledError"]] and ended["why"] == "CancelledError"


def test_a_request_to_stop_leaves_the_rest_alone(rig) -> None:
    """Between two targets the fan-out stops; the run is aborted and rolled back."""
    world, run = fleet(rig, 7), rig.run()

    async def ask(name: str) -> bool:
        if name == "n02":
            rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
        return True

    with pytest.raises(Cancelled):
        asyncio.run(fan(run, names(7), healthy=ask)())
    (ended,) = rig.events("rolling_ended")
    assert (ended["done"], ended["failed"], ended["remaining"]) == (["n01", "n02"], [], names(7)[2:])
    assert "was not begun: enough" in ended["why"] and world.stopped == ["n01", "n02"]
    assert run.state.outcome == "aborted"


def test_a_run_that_ends_inside_a_fan_out_says_how(rig) -> None:
    """Closing in the middle is told as what it is."""
    fleet(rig, 3)
    run = rig.run()

    async def ask(name: str) -> bool:
        run.close()
        return True

    with pytest.raises(RunEnded, match="ended too early"):
        asyncio.run(fan(run, names(3), healthy=ask)())
    assert rig.kinds()[-1] == "run_closed"


def test_a_process_whose_run_was_taken_over_stops_at_once(rig) -> None:
    """No further target is touched, and nothing is written into the run that another process goes on with."""
    world, run = fleet(rig, 7), rig.run()

    async def ask(name: str) -> bool:
        if name == "n02":
            taken(rig)
        return True

    with pytest.raises(Fenced):
        asyncio.run(fan(run, names(7), healthy=ask)())
    assert world.stopped == ["n01", "n02"] and rig.kinds()[-1] == "session_began"


class Dead(BaseException):
    """The process is killed: nothing is written any more."""


def killed_in(rig: Any, monkeypatch: Any, work: Any, kind: str, count: int) -> None:
    """Kill the process of a step when it is about to write an event of a kind for the so manieth time."""
    append, left = rig.store.append, [count]

    def until_then(entry: Any) -> bool:
        left[0] -= entry.event["kind"] == kind
        if left[0] <= 0:
            raise Dead
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", until_then)
    with pytest.raises(Dead):
        asyncio.run(work())
    monkeypatch.undo()


@pytest.mark.parametrize(("kind", "count"), [("change_intended", 4), ("change_done", 3), ("rolling_ended", 1)])
def test_a_resumed_run_goes_on_with_the_list_that_was_frozen(rig, monkeypatch, kind, count) -> None:
    """Targets that are done are not changed again, new ones are left alone, those that vanished stay in the list."""
    world = fleet(rig, 9)
    killed_in(rig, monkeypatch, fan(rig.run(), names(7)), kind, count)
    again = resumed(rig)
    rolled = asyncio.run(fan(again, [*names(9)[3:]])())
    assert rolled.done == names(7) and world.stopped == names(7)
    assert [attempt.acted for attempt in world.log] == [True] * 7
    assert rig.kinds().count("rolling_planned") == 1 and rig.events("rolling_ended")[-1]["remaining"] == []


def test_a_target_that_had_failed_is_tried_again_in_a_resumed_run(rig, monkeypatch) -> None:
    """A certain failure is no result: the new process tries anew."""
    world = fleet(rig, 5, {"n02": Refused("no")})
    killed_in(rig, monkeypatch, fan(rig.run(), names(5), max_errors=1), "change_intended", 4)
    world.errors.clear()
    assert asyncio.run(fan(resumed(rig), names(5), max_errors=1)()).done == names(5)


def test_a_resumed_run_that_stops_tells_what_was_done_before(rig, monkeypatch) -> None:
    """Also what this process did not come to is done, in doubt or left alone: the journal knows."""
    world = fleet(rig, 7)
    killed_in(rig, monkeypatch, fan(rig.run(), names(7)), "change_done", 4)
    again = resumed(rig)

    async def ask(name: str) -> bool:
        return False

    ended = stopped_early(again, fan(again, names(7), healthy=ask, settle="1s"), "canary n01 failed")
    assert ended["done"] == ["n02", "n03"] and ended["remaining"] == ["n05", "n06", "n07"]
    assert ended["failed"]["n04"] == "it may or may not have been changed" and "n01" in ended["failed"]
    assert world.stopped == names(4)


def test_a_resumed_run_does_not_go_on_with_another_change(rig, monkeypatch) -> None:
    """A runbook that was changed meanwhile cannot finish one change with another."""
    world = fleet(rig, 3)
    killed_in(rig, monkeypatch, fan(rig.run(), names(3)), "change_done", 2)
    again = resumed(rig)
    stopped_early(again, fan(again, names(3), "services.restart"), "began services.stop.*cannot go on with services.re")
    assert "restart" not in {call.action for call in world.asked}


def test_a_target_that_is_done_needs_no_floor(rig, monkeypatch) -> None:
    """What is not touched again takes nobody out."""
    world = fleet(rig, 3)

    async def ask(name: str) -> bool:
        return world.up(name)

    work = fan(rig.run(), names(3), at_least=2, healthy=ask)
    killed_in(rig, monkeypatch, work, "change_intended", 3)
    again, world.down["n03"] = resumed(rig), 1e9
    rolled = asyncio.run(fan(again, names(3), at_least=2, healthy=ask)())
    assert rolled.done == names(3) and world.stopped == names(3)


def answered(rig: Any, answer: Any) -> None:
    """Let somebody answer every request that waits."""

    def looks(seconds: float) -> None:
        journal = Journal(rig.store, RUN, "cli", actor="os:boss", clock=rig.clock, session=0)
        if (asks := journal.state.asks) and not asks.given:
            journal.append(answer(asks.request.digest))

    rig.clock._on_sleep = looks


def test_one_approval_covers_the_whole_list(rig) -> None:
    """People see every target before the first is touched, and are asked once."""
    world, run = fleet(rig, 7), rig.run()
    answered(rig, lambda digest: ev.ApprovalGiven(digest=digest))
    asyncio.run(fan(run, names(7), step={"risk": "high"})())
    (asked,) = rig.events("approval_requested")
    assert [change["target"] for change in asked["plan"]["changes"]] == names(7) and world.stopped == names(7)
    kinds = rig.kinds()
    assert kinds.index("approval_requested") < kinds.index("change_intended")


def test_a_resumed_run_needs_no_second_approval_for_what_is_left(rig, monkeypatch) -> None:
    """What was approved and not yet made is still approved; what is done needs none."""
    world = fleet(rig, 7)
    answered(rig, lambda digest: ev.ApprovalGiven(digest=digest))
    killed_in(rig, monkeypatch, fan(rig.run(), names(7), step={"risk": "high"}), "change_intended", 4)
    rolled = asyncio.run(fan(resumed(rig), names(7), step={"risk": "high"})())
    assert rolled.done == names(7) and world.stopped == names(7) and len(rig.events("approval_requested")) == 1


def test_without_an_approval_nothing_is_touched(rig) -> None:
    """No answer is a no, for all of them."""
    world, run = fleet(rig, 3), rig.run()
    with pytest.raises(ApprovalNeeded):
        asyncio.run(fan(run, names(3), step={"risk": "high"})())
    (ended,) = rig.events("rolling_ended")
    assert ended["remaining"] == names(3) and "needs 1 approval" in ended["why"] and world.asked == []


def test_a_request_to_stop_while_people_are_asked_is_one(rig) -> None:
    """It is told as a stop, and not as a fault of the fan-out; nothing is made in its place."""
    world, run = fleet(rig, 3), opened(rig)
    rig.clock._on_sleep = lambda seconds: (
        run.state.cancel or rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
    )

    @run.step(risk="low")
    async def other() -> None:
        """Do something else."""
        raise AssertionError

    with pytest.raises(Cancelled, match="Stopped: enough"):
        asyncio.run(fan(run, names(3), step={"risk": "high", "otherwise": ["other"], "automatic": True})())
    assert world.asked == [] and run.state.outcome == "aborted"


def test_a_dry_run_plans_every_target(rig) -> None:
    """Nothing is changed, nobody is asked for health or approval."""
    world, run = fleet(rig, 7), rig.run("dry_run")

    async def ask(name: str) -> bool:
        raise AssertionError

    rolled = asyncio.run(fan(run, names(7), at_least=5, healthy=ask, step={"risk": "high"})())
    assert rolled.done == names(7) and world.asked == [] and rig.kinds().count("change_planned") == 7
    assert run.state.changes and rig.store.leases() == []


def test_a_replay_holds_nothing_and_changes_nothing(rig) -> None:
    """The tape answers for every target."""
    world = fleet(rig, 3)
    recorded = rig.run(run="20260101-000000-000001")
    asyncio.run(fan(recorded, names(3))())
    rig.store.release(rig.terms.holder)
    run = rig.run("replay", tape=recorded.id)
    assert asyncio.run(fan(run, names(3))()).done == names(3)
    assert world.stopped == names(3) and rig.store.leases() == []


def test_all_targets_are_held_before_the_first_is_touched(rig) -> None:
    """A target that cannot be had without a deadlock stops the fan-out while nothing is done yet."""
    world, run = fleet(rig, 5), rig.run()
    rig.store.acquire("target:test/n02", "other/there/7/ffffff", rig.clock.now(), 1e6)

    @run.step()
    async def earlier() -> Any:
        """Hold a target that comes later."""
        return await run.use("services").stop("n05")

    asyncio.run(earlier())
    stopped_early(run, fan(run, names(3)), "was not begun: n02 cannot be had, as others hold them")
    assert {call.target for call in world.asked} == {"n05"}


def test_every_target_is_held_in_the_run_s_name(rig) -> None:
    """Nobody else can act on a target that is still to come."""
    fleet(rig, 3)
    held: list[str] = []

    async def ask(name: str) -> bool:
        held[:] = [lease.name for lease in rig.store.leases()]
        return True

    asyncio.run(fan(rig.run(), names(3), healthy=ask)())
    assert held == [f"target:test/{name}" for name in names(3)]


def test_an_action_that_does_not_exist_touches_nothing(rig) -> None:
    """The nearest one is suggested."""
    world, run = fleet(rig, 3), rig.run()
    stopped_early(run, fan(run, names(3), "services.stpo"), "Did you mean 'stop'")
    assert world.asked == []


def test_the_approval_of_an_irreversible_fan_out_is_asked_for(rig) -> None:
    """Restarts cannot be undone: the environment file may ask for people."""
    rig.terms = replace(rig.terms, rules=ApprovalRules(needed={"irreversible": 1}))
    fleet(rig, 3)
    answered(rig, lambda digest: ev.ApprovalGiven(digest=digest))
    asyncio.run(fan(rig.run(), names(3), "services.restart")())
    (asked,) = rig.events("approval_requested")
    assert len(asked["plan"]["changes"]) == 3 and isinstance(rig.clock, FakeClock)
