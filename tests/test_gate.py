"""Every effect is journaled before and after, in each of the four modes."""

import asyncio
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.adapters.fakes import FakeBalancer, FakeServices
from rbkit.errors import (
    BadAnswer,
    Cancelled,
    Fenced,
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
from rbkit.gate import Gate
from rbkit.journal import Journal
from rbkit.terms import Terms

RUN = "20260101-000000-aaaaaa"

MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3"]}
DRAIN = Call(capability="balancer", action="drain", target="checkout-1")


class Balancer(FakeBalancer):
    """A balancer that does something of its own when it is to act."""

    def __init__(self, act: Any) -> None:
        super().__init__(MEMBERS)
        self.act = act

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Do what the test wants; act as usual unless it raises."""
        before = self.act(call, key)
        if asyncio.iscoroutine(before):
            await before
        await super().apply(call, key, token)


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
        async def apply(self, call: Call, key: str, token: int) -> None:
            await super().apply(call, key, token)
            raise MayHaveActed("no answer came")

    rig.balancer = Silent(MEMBERS)
    assert rig.change(rig.started(), "drain").state == "done"


@pytest.mark.parametrize("error", [MayHaveActed("no answer came"), None])
def test_what_never_shows_is_unknown(rig, error) -> None:
    """A change that does not show in time is unknown, never failed; why is said."""

    class Deaf(FakeBalancer):
        async def apply(self, call: Call, key: str, token: int) -> None:
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
    assert rig.balancer.asked == asked and gate.observer.weak == []


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
        async def apply(self, call: Call, key: str, token: int) -> None:
            if acted:
                await super().apply(call, key, token)
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


# Leases and fencing


class Ledger(FakeBalancer):
    """A balancer that writes down in which order it is asked what, and how many changes are made at once."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__({"checkout": [f"checkout-{n}" for n in range(1, 8)]})
        self.calls: list[str] = []
        self.slow, self.at_once, self.most = slow, 0, 0
        self.on_apply: list[Any] = []

    async def state(self, target: str) -> dict[str, Any]:
        """Read a state."""
        self.calls.append(f"state {target}")
        return await super().state(target)

    async def fence(self, target: str, token: int) -> None:
        """Remember a token."""
        self.calls.append(f"fence {target} {token}")
        await super().fence(target, token)

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Act, slowly if that is wanted; first do what comes next."""
        self.calls.append(f"apply {call.target} {token}")
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            for _ in range(5 * self.slow):
                await asyncio.sleep(0)
            if self.on_apply and (act := self.on_apply.pop(0)):
                act()
            await super().apply(call, key, token)
        finally:
            self.at_once -= 1

    def move(self, target: str, **state: Any) -> None:
        """Change the world behind everybody's back."""
        self._things[target] = self._things[target].model_copy(update=state)


OTHERS = "20260101-000000-bbbbbb/there/2/bbbbbb"


def drains(*numbers: int) -> list[Call]:
    """Describe the drain of members."""
    return [DRAIN.model_copy(update={"target": f"checkout-{number}"}) for number in numbers]


def take_over(rig, gate: Any, session: int = 2, *, act: bool = True) -> Gate:
    """Resume the run in another process, whose step has begun."""
    rig.store.release(gate.terms.holder)
    journal = Journal(rig.store, gate.journal.run, "kernel", actor="os:test", clock=rig.clock, session=0)
    journal.append(ev.SessionBegan(session=session, purpose="resume", host="h", pid=session))
    if act:
        journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
    holder = f"{gate.journal.run}/here/{session}/abcdef"
    return Gate(journal, rig.world(), mode="resume", terms=Terms(holder=holder))


def gathered(rig, gate: Any, calls: list[Call], **limits: Any) -> list[Any]:
    """Make changes at once as the step `work` does; return what became of each."""

    async def work() -> list[Any]:
        return await asyncio.gather(*(gate.change(call) for call in calls), return_exceptions=True)

    return asyncio.run(asyncio.wait_for(rig.as_step(work(), max_targets=7, **limits), 30))


def test_a_change_holds_its_target_while_it_is_made(rig) -> None:
    """When the adapter acts, the lease on the target is this run's, and its token goes along and is journaled."""
    rig.balancer = Ledger()
    seen: list[Any] = []
    rig.balancer.on_apply = [lambda: seen.extend(rig.store.leases())]
    gate = rig.started()
    rig.change(gate, "drain")
    assert [(lease.name, lease.holder, lease.token) for lease in seen] == [
        ("target:test/checkout-1", gate.terms.holder, 1)
    ]
    assert rig.balancer.log[0].token == rig.events("change_intended")[0]["token"] == 1


def test_a_dry_run_holds_nothing(rig) -> None:
    """What changes nothing keeps nobody out."""
    rig.change(rig.started("dry_run"), "drain")
    assert rig.store.leases() == []


def test_a_gate_without_a_holder_makes_one(rig) -> None:
    """Two gates that are not told in whose name they act are two holders."""
    rig.terms = Terms()
    one, two = rig.gate(), rig.gate()
    assert one.terms.holder != two.terms.holder and one.terms.holder.startswith(one.journal.run)


def test_a_target_that_was_never_held_is_not_fenced(rig) -> None:
    """Nobody can be left over from before the first token."""
    rig.balancer = Ledger()
    rig.change(rig.started(), "drain")
    assert rig.balancer.calls == ["state checkout-1", "apply checkout-1 1", "state checkout-1"]


def test_after_a_takeover_the_token_is_announced_before_the_state_is_read(rig) -> None:
    """What is read then is final: whoever held the target before can change it no more. It is announced once."""
    rig.store.acquire("target:test/checkout-1", OTHERS, rig.clock.now(), 15.0)
    rig.store.release(OTHERS)
    rig.balancer = Ledger()
    gate = rig.started()
    rig.change(gate, "drain")
    assert rig.balancer.calls[:3] == ["fence checkout-1 2", "state checkout-1", "apply checkout-1 2"]
    rig.change(gate, "ready")
    assert len([call for call in rig.balancer.calls if call.startswith("fence")]) == 1


def test_a_system_that_knows_a_newer_token_stops_the_change(rig) -> None:
    """Nothing is read, intended or made when the system itself says that somebody newer acts there."""
    rig.store.acquire("target:test/checkout-1", OTHERS, rig.clock.now(), 15.0)
    rig.store.release(OTHERS)
    rig.balancer = Ledger()
    asyncio.run(rig.balancer.fence("checkout-1", 9))
    with pytest.raises(Fenced, match="checkout-1 is acted on by somebody with a newer lease"):
        rig.change(rig.started(), "drain")
    assert rig.balancer.calls[1:] == ["fence checkout-1 2"] and "change_intended" not in rig.kinds()


def test_a_target_that_another_run_holds_is_waited_for_and_said_so(rig) -> None:
    """For whom and until when is journaled and shown; then the change is made under a higher token."""
    lines: list[str] = []
    rig.terms = Terms(holder=rig.terms.holder, say=lambda glyph, text: lines.append(text))
    rig.store.acquire("target:test/checkout-1", OTHERS, rig.clock.now(), 15.0)
    gate = rig.started()
    assert rig.change(gate, "drain").state == "done" and rig.balancer.log[0].token == 2
    assert rig.events("lease_awaited") == [{
        "kind": "lease_awaited", "target": "checkout-1", "holder": "20260101-000000-bbbbbb",
        "until": "2026-01-01T00:00:15.000000+00:00",
    }]  # fmt: skip
    assert lines == ["waits for checkout-1: held by run 20260101-000000-bbbbbb (process 2 on there) until "
                     "2026-01-01 00:00:15Z; then it goes on"]  # fmt: skip


@pytest.mark.parametrize("run_too", [False, True])
def test_a_process_whose_lease_was_taken_after_its_intent_does_nothing(rig, monkeypatch, run_too) -> None:
    """Stopped between intent and act for longer than its lease, it is fenced; if it may still write, it says so."""
    gate, append = rig.started(), rig.store.append

    def stopped(entry: Any) -> bool:
        written = bool(append(entry))
        if entry.event["kind"] == "change_intended" and not rig.store.journals[RUN][entry.seq + 1 :]:
            rig.clock.advance(60)
            if run_too:
                take_over(rig, gate, act=False)
            rig.store.acquire("target:test/checkout-1", OTHERS, rig.clock.now(), 15.0)
        return written

    monkeypatch.setattr(rig.store, "append", stopped)
    with pytest.raises(Fenced, match="was taken over" if run_too else "has lapsed"):
        rig.change(gate, "drain")
    assert rig.balancer.asked == []
    assert [event["error"] for event in rig.events("change_failed")] == ["Fenced"] * (not run_too)


def test_a_process_that_lost_the_run_intends_nothing(rig) -> None:
    """It is fenced before anything is written or made."""
    gate = rig.started()
    take_over(rig, gate)
    with pytest.raises(Fenced):
        rig.change(gate, "drain")
    assert rig.balancer.asked == [] and "change_intended" not in rig.kinds()


def test_a_lease_that_lapsed_while_people_thought_is_taken_again(rig) -> None:
    """When the answer comes, the target is held anew, and fenced, and looked at, before anything is made."""
    rig.balancer = Ledger()
    gate = rig.open()
    later = "2026-01-01T00:01:00+00:00"
    gate.journal.append(ev.StepStarted(step="work", intent="", risk="high", timeout_s=60, deadline=later))

    def answered(seconds: float) -> None:
        asks = rig.journal().state.asks
        if asks and not asks.given:
            rig.clock.advance(30)
            rig.store.acquire("target:test/checkout-1", OTHERS, rig.clock.now(), 15.0)
            rig.store.release(OTHERS)
            boss = Journal(rig.store, RUN, "cli", actor="os:boss", clock=rig.clock, session=0)
            boss.append(ev.ApprovalGiven(digest=asks.request.digest))

    rig.clock._on_sleep = answered
    assert rig.change(gate, "drain", risk="high").state == "done"
    assert rig.balancer.calls[-4:] == ["fence checkout-1 3", "state checkout-1", "apply checkout-1 3",
                                       "state checkout-1"]  # fmt: skip


# Order


def test_changes_made_at_once_never_overlap(rig) -> None:
    """A step that does not say otherwise makes one change at a time, each with its whole way from intent to done."""
    rig.balancer = Ledger(slow=True)
    results = gathered(rig, rig.started(), drains(1, 2, 3, 4))
    assert [result.state for result in results] == ["done"] * 4 and rig.balancer.most == 1
    assert rig.kinds()[2:] == ["change_intended", "change_done"] * 4


def test_no_more_changes_are_made_at_once_than_the_contract_says(rig) -> None:
    """With `parallel=3` three are made at once and never more."""
    rig.balancer = Ledger(slow=True)
    results = gathered(rig, rig.started(), drains(1, 2, 3, 4, 5, 6), parallel=3)
    assert [result.state for result in results] == ["done"] * 6 and rig.balancer.most == 3
    assert len({event["key"] for event in rig.events("change_intended")}) == 6


@pytest.mark.parametrize("error", [Refused("no"), RuntimeError("a bug")])
def test_a_change_that_fails_gives_its_turn_to_the_next(rig, error) -> None:
    """One that fails, or breaks, does not keep the others waiting for ever."""
    rig.balancer = Ledger(slow=True)

    def fail() -> None:
        raise error

    rig.balancer.on_apply = [fail]
    first, second = gathered(rig, rig.started(), drains(1, 2))
    assert first is error and second.state == "done"


@pytest.mark.parametrize("which", [0, 1])
def test_a_change_that_is_cancelled_gives_its_turn_to_the_next(rig, which) -> None:
    """Cancelled while it acts or while it waits for its turn, it blocks nobody."""
    rig.balancer = Ledger(slow=True)
    gate = rig.started()

    async def work() -> list[Any]:
        tasks = [asyncio.ensure_future(gate.change(call)) for call in drains(1, 2, 3)]
        while not rig.balancer.at_once:
            await asyncio.sleep(0)
        tasks[which].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(asyncio.wait_for(rig.as_step(work(), max_targets=3), 30))
    assert [type(result).__name__ for result in results] == [
        "CancelledError" if place == which else "Change" for place in range(3)
    ]
    assert len(rig.events("change_unknown")) == (which == 0)


def test_an_interrupt_gives_the_turn_to_the_next(rig) -> None:
    """Ctrl-C in the middle of an act leaves a journaled doubt and a gate that can be used again."""
    rig.balancer = Ledger()

    def interrupt() -> None:
        raise KeyboardInterrupt

    rig.balancer.on_apply = [interrupt]
    gate = rig.started()
    with pytest.raises(KeyboardInterrupt):
        rig.change(gate, "drain")
    assert rig.events("change_unknown")[0]["error"] == "KeyboardInterrupt"
    assert rig.change(gate, "drain", "checkout-2", max_targets=2).state == "done"


def cancel(rig) -> None:
    """Ask the run to stop, as somebody at another terminal does."""
    Journal(rig.store, RUN, "cli", actor="os:boss", clock=rig.clock, session=0).append(ev.CancelRequested(reason="hot"))


def test_after_a_request_to_stop_no_change_is_begun(rig) -> None:
    """A request that this process has not seen yet is seen before anything is intended."""
    gate = rig.started()
    cancel(rig)
    with pytest.raises(Cancelled, match=r"balancer.drain\(checkout-1\) was not begun: hot"):
        rig.change(gate, "drain")
    assert rig.balancer.asked == [] and "change_intended" not in rig.kinds()


def test_a_request_to_stop_that_comes_just_before_the_intent_is_obeyed(rig, monkeypatch) -> None:
    """Nothing fits between the last look for a request and the intent: even the latest one is seen."""
    gate, append, late = rig.started(), rig.store.append, ["once"]

    def hurried(entry: Any) -> bool:
        if entry.event["kind"] == "change_intended" and late:
            late.pop()
            cancel(rig)
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", hurried)
    with pytest.raises(Cancelled):
        rig.change(gate, "drain")
    assert rig.balancer.asked == [] and rig.kinds()[-1] == "cancel_requested"


def test_a_request_to_stop_that_was_seen_stops_a_change_before_anything(rig) -> None:
    """What this process knows already needs no look at the world, and no approval is asked for."""
    gate = rig.started()
    cancel(rig)
    gate.journal.refresh()
    with pytest.raises(Cancelled):
        rig.change(gate, "drain", risk="high")
    assert "approval_requested" not in rig.kinds()


def test_a_request_to_stop_reaches_changes_that_wait_for_their_turn(rig) -> None:
    """The change under way is finished; those that wait are not begun."""
    rig.balancer = Ledger(slow=True)
    rig.balancer.on_apply = [lambda: cancel(rig)]
    results = gathered(rig, rig.started(), drains(1, 2, 3))
    assert [type(result).__name__ for result in results] == ["Change", "Cancelled", "Cancelled"]
    assert len(rig.balancer.asked) == 1


def test_a_request_to_stop_reaches_a_change_that_waits_for_its_target(rig) -> None:
    """What was free only after the request is not changed any more."""
    rig.store.acquire("target:test/checkout-1", OTHERS, rig.clock.now(), 15.0)
    gate, slept = rig.started(), []
    rig.clock._on_sleep = lambda seconds: slept.append(seconds) or (cancel(rig) if len(slept) == 3 else None)
    with pytest.raises(Cancelled):
        rig.change(gate, "drain")
    assert rig.balancer.asked == [] and "change_intended" not in rig.kinds()


def test_a_request_to_stop_does_not_stop_the_way_back(rig) -> None:
    """What was done is undone after it was asked to stop, and just then."""
    gate = rig.started()
    change = rig.change(gate, "drain")
    cancel(rig)
    asyncio.run(gate.undo(change))
    assert rig.states()["checkout-1"] == "ready"


def test_a_change_whose_step_ended_while_it_waited_is_not_made(rig) -> None:
    """Work that a step left waiting for a target is refused when the target is free at last."""
    rig.balancer = Ledger()
    gate = rig.started()
    rig.store.acquire("target:test/checkout-2", OTHERS, rig.clock.now(), 15.0)

    async def work() -> list[Any]:
        tasks = [asyncio.ensure_future(gate.change(call)) for call in drains(1, 2)]
        await tasks[0]
        gate.journal.append(ev.StepDone(step="work", result=None, seconds=1.0))
        rig.store.release(OTHERS)
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(rig.as_step(work(), max_targets=2, parallel=2))
    assert [type(result).__name__ for result in results] == ["Change", "IllegalMove"]
    assert len(rig.balancer.asked) == 1


# Resuming


def test_what_was_done_is_returned_without_a_look_at_the_world(rig) -> None:
    """Neither read, fenced nor asked to act, and no lease is taken: the journal's word is enough."""
    rig.balancer = Ledger()
    gate = rig.started()
    rig.change(gate, "drain")
    rig.balancer.calls.clear()
    change = rig.change(take_over(rig, gate), "drain")
    assert (change.state, change.key, rig.balancer.calls) == ("done", f"{RUN}/work/0", [])
    assert rig.store.leases() == [] and len(rig.events("change_intended")) == 1


def dying(rig, *, acted: bool) -> Any:
    """Let the process die in the middle of a drain that was made, or was not."""

    def die() -> None:
        if acted:
            rig.balancer.move("checkout-1", state="drain")
        raise KeyboardInterrupt

    rig.balancer = Ledger()
    rig.balancer.on_apply = [die]
    gate = rig.started()
    with pytest.raises(KeyboardInterrupt):
        rig.change(gate, "drain")
    rig.balancer.calls.clear()
    return gate


def test_a_doubt_that_holds_is_settled_after_the_old_process_is_shut_out(rig) -> None:
    """Fenced first, then read; it counts as done with the state it was found in, and nothing is made."""
    change = rig.change(take_over(rig, dying(rig, acted=True)), "drain")
    assert (change.state, change.how, change.after["state"]) == ("done", "settled", "drain")
    assert rig.balancer.calls == ["fence checkout-1 2", "state checkout-1"]


def test_a_doubt_that_does_not_hold_is_made_again_under_the_same_key(rig) -> None:
    """After it was read again; a system that knows keys makes it once even if the first request still comes."""
    change = rig.change(take_over(rig, dying(rig, acted=False)), "drain")
    assert (change.state, change.how, change.repeats) == ("done", "applied", f"{RUN}/work/0")
    assert rig.balancer.calls[:2] == ["fence checkout-1 2", "state checkout-1"]
    assert [(attempt.key, attempt.token) for attempt in rig.balancer.log] == [(f"{RUN}/work/0", 2)]
    assert [event["error"] for event in rig.events("change_failed")] == ["NotMade"]
    assert not any(found.in_doubt for found in rig.journal().state.changes.values())


def test_a_doubt_that_shows_between_two_looks_is_not_made_again(rig) -> None:
    """The look that plans the second attempt finds the first one's change: it counts as done, nothing is asked."""
    gate = dying(rig, acted=False)
    looks, state = [], rig.balancer.state

    async def late(target: str) -> dict[str, Any]:
        looks.append(target)
        if len(looks) == 2:
            rig.balancer.move("checkout-1", state="drain")
        return dict(await state(target))

    rig.balancer.state = late
    change = rig.change(take_over(rig, gate), "drain")
    assert (change.key, change.state, change.how) == (f"{RUN}/work/0", "done", "settled")
    assert (len(looks), rig.balancer.log, len(rig.events("change_intended"))) == (2, [], 1)


def test_a_chain_of_crashes_keeps_the_first_key(rig) -> None:
    """However often it is tried in however many processes, it is the same change to the system."""
    gate = dying(rig, acted=False)

    def die() -> None:
        raise KeyboardInterrupt

    for session in (2, 3):
        rig.balancer.on_apply = [die]
        gate = take_over(rig, gate, session)
        with pytest.raises(KeyboardInterrupt):
            rig.change(gate, "drain")
    rig.change(take_over(rig, gate, 4), "drain")
    assert [(attempt.key, attempt.token) for attempt in rig.balancer.log] == [(f"{RUN}/work/0", 4)]
    assert [event["repeats"] for event in rig.events("change_intended")] == ["", *[f"{RUN}/work/0"] * 3]
    assert [change.state for change in rig.journal().state.changes.values()] == ["failed"] * 3 + ["done"]


def test_a_crash_between_two_attempts_keeps_the_first_key(rig, monkeypatch) -> None:
    """Also when it died after it had read that the change was not made and before it wrote its new intent."""
    gate = take_over(rig, dying(rig, acted=False))
    append = rig.store.append

    def die(entry: Any) -> bool:
        if entry.event["kind"] == "change_intended":
            raise KeyboardInterrupt
        return bool(append(entry))

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "append", die)
        with pytest.raises(KeyboardInterrupt):
            rig.change(gate, "drain")
    assert rig.kinds()[-1] == "change_failed"
    change = rig.change(take_over(rig, gate, 3), "drain")
    assert (change.how, change.repeats, rig.balancer.log[0].key) == ("applied", f"{RUN}/work/0", f"{RUN}/work/0")


def test_one_that_was_made_again_and_done_is_returned(rig) -> None:
    """A third process finds the second one's success, not the first one's failure."""
    gate = take_over(rig, dying(rig, acted=False))
    done = rig.change(gate, "drain")
    rig.balancer.calls.clear()
    again = rig.change(take_over(rig, gate, 3), "drain")
    assert (again.key, again.state, rig.balancer.calls) == (done.key, "done", [])


def test_a_change_that_is_half_through_is_waited_for_and_keeps_its_way_back(rig) -> None:
    """A member that drains already is not drained again: the way back of that would lead to where it is now."""
    gate = dying(rig, acted=True)
    rig.balancer.move("checkout-1", active=2)
    rig.clock._on_sleep = lambda seconds: rig.balancer.move("checkout-1", active=0)
    resumed = take_over(rig, gate)
    change = rig.change(resumed, "drain")
    assert (change.how, str(change.inverse), rig.balancer.log) == ("settled", "balancer.ready(checkout-1)", [])
    asyncio.run(resumed.undo(change))
    assert rig.states()["checkout-1"] == "ready"


def test_a_change_that_stays_half_through_is_left_in_doubt(rig) -> None:
    """It was made and does not come to its end: a person must look; it is neither made again nor called done."""
    gate = dying(rig, acted=True)
    rig.balancer.move("checkout-1", active=2)
    with pytest.raises(StepUnknown, match=r"drain\(checkout-1\) was made and is not through within 20s"):
        rig.change(take_over(rig, gate), "drain")
    assert rig.journal().state.changes[f"{RUN}/work/0"].in_doubt and rig.balancer.log == []


@pytest.mark.parametrize("arrives", [True, False])
def test_a_change_on_its_way_is_waited_for_before_it_is_made_again(rig, arrives) -> None:
    """An instance that is starting may be the one that was restarted: it is given the time to come up."""

    class Starting(FakeServices):
        async def apply(self, call: Call, key: str, token: int) -> None:
            if self.log:
                return await super().apply(call, key, token)
            await super().apply(call, key, token)
            self.move(state="starting")
            raise KeyboardInterrupt

        def move(self, **state: Any) -> None:
            self._things["checkout-1"] = self._things["checkout-1"].model_copy(update=state)

    services = rig.services = Starting({"checkout": ["checkout-1"]})
    gate = rig.started()
    with pytest.raises(KeyboardInterrupt):
        rig.change(gate, "restart")
    if arrives:
        rig.clock._on_sleep = lambda seconds: services.move(state="running")
        assert rig.change(take_over(rig, gate), "restart").how == "settled" and len(services.log) == 1
        return
    with pytest.raises(StepUnknown):
        rig.change(take_over(rig, gate), "restart")
    assert [(attempt.key, attempt.acted) for attempt in services.log] == [
        (f"{RUN}/work/0", True), (f"{RUN}/work/0", False),
    ]  # fmt: skip
    assert rig.clock.monotonic() >= 40


def test_a_store_that_is_away_for_a_while_costs_no_change(rig, monkeypatch) -> None:
    """Away after the act for ten seconds, the change is written down as done, and was made once."""
    gate, append = rig.started(), rig.store.append

    def away(entry: Any) -> bool:
        if entry.event["kind"] == "change_done" and rig.clock.monotonic() < 10:
            raise StoreUnavailable("The store is away.")
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", away)
    assert rig.change(gate, "drain").state == "done" and len(rig.balancer.asked) == 1


def test_a_store_that_is_lost_after_the_act_leaves_a_doubt_that_is_settled(rig, monkeypatch) -> None:
    """What could not be written down is in doubt; whoever resumes reads it from the world and makes nothing."""
    gate, append = rig.started(), rig.store.append

    def lost(entry: Any) -> bool:
        if entry.event["kind"].startswith("change_") and entry.event["kind"] != "change_intended":
            raise StoreUnavailable("The store is away.")
        return bool(append(entry))

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "append", lost)
        with pytest.raises(StoreUnavailable):
            rig.change(gate, "drain")
    assert rig.journal().state.changes[f"{RUN}/work/0"].in_doubt
    assert rig.change(take_over(rig, gate), "drain").how == "settled" and len(rig.balancer.asked) == 1


class Death(BaseException):
    """The process is killed: from here on it neither writes nor acts."""


class Mortal:
    """Stands between a process and a store or an adapter, and kills the process at a boundary.

    Args:
        countdown: How many boundaries it still lives through; shared by all that the process uses.
        real: The store or adapter.
        names: Its methods with a boundary before and one after.
    """

    def __init__(self, countdown: list[int], real: Any, *names: str) -> None:
        self.countdown, self.real, self.names = countdown, real, names

    def tick(self) -> None:
        """Pass a boundary, alive or not."""
        self.countdown[0] -= 1
        if self.countdown[0] < 0:
            raise Death

    def __getattr__(self, name: str) -> Any:
        """Wrap the methods that matter."""
        method = getattr(self.real, name)
        if name not in self.names:
            return method

        def bounded(*args: Any) -> Any:
            self.tick()
            result = method(*args)
            if not asyncio.iscoroutine(result):
                self.tick()
                return result
            return self._after(result)

        return bounded

    async def _after(self, result: Any) -> Any:
        value = await result
        self.tick()
        return value


def lives_for(rig, boundaries: int, session: int) -> bool:
    """Let one more process work on the run: two changes; tell whether it got through."""
    countdown = [boundaries]
    rig.store.release(f"{RUN}/here/{session - 1}/abcdef")
    real, store = rig.balancer, Mortal(countdown, rig.store, "append")
    rig.balancer = Mortal(countdown, real, "apply", "fence")
    try:
        journal = Journal(store, RUN, "kernel", actor="os:test", clock=rig.clock, session=0)
        if session > 1:
            journal.append(ev.SessionBegan(session=session, purpose="resume", host="h", pid=session))
        else:
            journal = Journal(store, RUN, "kernel", actor="os:test", clock=rig.clock)
            journal.append(rig.journal("template").state.opened)
        journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
        mode = "resume" if session > 1 else "live"
        gate = Gate(journal, rig.world(), mode=mode, terms=Terms(holder=f"{RUN}/here/{session}/abcdef"))
        for call in drains(1, 2):
            asyncio.run(rig.as_step(gate.change(call), max_targets=2))
    except Death:
        return False
    finally:
        rig.balancer = real
    return True


@pytest.mark.parametrize("second", [0, 1, 2, 3, 5, 8, 11, 99])
def test_wherever_processes_are_killed_each_change_is_made_once(rig, second) -> None:
    """Killed before and after every write and every act, and again in the resumed run: each target changed once."""
    for first in range(0, 99):
        rig.store, rig.balancer = type(rig.store)(), Ledger()
        rig.open(run="template")
        sessions = iter(range(1, 9))
        through = lives_for(rig, first, next(sessions))
        if through and first > 20:
            break
        done = {key for key, change in rig.journal().state.changes.items() if change.state == "done"}
        if rig.journal().state.opened and not through and not lives_for(rig, second, next(sessions)):
            assert lives_for(rig, 99, next(sessions))
        acted = [attempt for attempt in rig.balancer.log if attempt.acted]
        if rig.journal().state.opened:
            assert sorted(attempt.call.target for attempt in acted) == ["checkout-1", "checkout-2"]
        again = [attempt.key for attempt in rig.balancer.log if not attempt.acted]
        assert not done & set(again) and len(again) <= 1
        assert not any(change.in_doubt for change in rig.journal().state.changes.values())
    else:
        raise AssertionError("no process got through")
