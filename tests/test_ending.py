"""A run that did not succeed: undone last first, from the journal alone, and closed with the outcome that is true."""

import asyncio
from typing import Any

import pytest
from sessions import opened, taken

from rbkit import ending
from rbkit import events as ev
from rbkit.adapters.fakes import FakeBalancer, FakeServices
from rbkit.ending import abandon, end, refuse_stranger, roll_back, standing
from rbkit.errors import Fenced, IllegalMove, MayHaveActed, Refused, StoreUnavailable, Unreachable
from rbkit.policy import EXIT_CODES
from rbkit.specs import StepSpec

MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3", "checkout-4"]}


class Broken(FakeBalancer):
    """A balancer that does not put one member back."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(MEMBERS)
        self.error = error

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Fail at `ready` of checkout-2."""
        if (call.action, call.target) == ("ready", "checkout-2"):
            self.asked.append(call)
            raise self.error
        await super().apply(call, key, token)


def drain_three(rig) -> Any:
    """Drain three members in one step and let the step fail."""
    gate = rig.started()
    for number in (1, 2, 3):
        rig.change(gate, "drain", f"checkout-{number}", max_targets=3)
    gate.journal.append(ev.StepFailed(step="work", error="Test", why="a test", seconds=0.0))
    return gate


def undone(rig) -> list[str]:
    """List the targets that were put back, in order."""
    return [call.target for call in rig.balancer.asked if call.action == "ready"]


def test_changes_are_undone_last_first(rig) -> None:
    """A rollback goes backwards and says what it undid; the run is rolled back."""
    rig.balancer = FakeBalancer(MEMBERS)
    state = asyncio.run(end(drain_three(rig), "it failed"))
    assert undone(rig) == ["checkout-3", "checkout-2", "checkout-1"]
    assert (state.outcome, EXIT_CODES[state.outcome], state.reason) == ("rolled_back", 3, "it failed")
    assert len(state.rollback.undone) == 3 and set(rig.states().values()) == {"ready"}


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (Refused("no"), 3),
        (Unreachable("gone"), 3),
        (MayHaveActed("?"), 3),
        (RuntimeError("a bug"), 1),
        (KeyError(1), 1),
    ],
)
def test_one_failing_inverse_does_not_stop_the_others(rig, error, tries) -> None:
    """Whatever one inverse raises, the others are undone and an operator is needed for the one that is left."""
    rig.balancer = Broken(error)
    state = asyncio.run(end(drain_three(rig), "it failed"))
    assert undone(rig) == ["checkout-3", *["checkout-2"] * tries, "checkout-1"]
    assert (state.outcome, EXIT_CODES[state.outcome]) == ("needs_operator", 4)
    assert len(state.rollback.undone) == 2 and len(state.rollback.left) == 1
    assert rig.states() == {f"checkout-{n}": "drain" if n == 2 else "ready" for n in (1, 2, 3, 4)}


def test_an_inverse_that_hangs_is_left_behind(rig, monkeypatch) -> None:
    """Undoing one change has a deadline of its own."""

    class Hangs(Broken):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if (call.action, call.target) == ("ready", "checkout-2"):
                await asyncio.Event().wait()
            await super().apply(call, key, token)

    monkeypatch.setattr(ending, "UNDO_S", 0.02)
    rig.balancer = Hangs(RuntimeError())
    state = asyncio.run(end(drain_three(rig), "it failed"))
    assert state.outcome == "needs_operator" and undone(rig) == ["checkout-3", "checkout-1"]


def test_a_stuck_rollback_can_be_tried_again(rig) -> None:
    """What was left is undone by a later rollback; what was undone is not touched again."""
    rig.balancer = Broken(Refused("no"))
    gate = drain_three(rig)
    asyncio.run(roll_back(gate, "first"))
    assert gate.journal.state.state == "stuck"
    rig.balancer.__class__ = FakeBalancer
    rig.balancer.asked.clear()
    state = asyncio.run(end(gate, "second"))
    assert undone(rig) == ["checkout-2"] and state.outcome == "rolled_back"


def test_a_second_process_rolls_back_from_the_journal_alone(rig) -> None:
    """A fresh journal and a fresh gate on the same store are enough; the kernel that acted may be dead."""
    rig.balancer = FakeBalancer(MEMBERS)
    drain_three(rig)
    state = asyncio.run(end(rig.gate(), "the kernel died"))
    assert state.outcome == "rolled_back" and set(rig.states().values()) == {"ready"}


def test_a_rollback_that_was_cut_off_is_finished_by_another(rig, monkeypatch) -> None:
    """A process that dies in the middle of a rollback leaves it to the next one."""
    rig.balancer = Broken(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(end(drain_three(rig), "it failed"))
    assert rig.journal().state.state == "rolling_back"
    rig.balancer.__class__ = FakeBalancer
    state = asyncio.run(end(rig.gate(), "the first one died"))
    assert (state.outcome, set(rig.states().values())) == ("rolled_back", {"ready"})
    assert undone(rig).count("checkout-3") == 1


def test_a_rollback_that_was_cut_off_at_its_very_end_is_rolled_back(rig, monkeypatch) -> None:
    """Everything is undone already: the next process ends the rollback, and the run has been rolled back."""
    rig.balancer, append = FakeBalancer(MEMBERS), rig.store.append

    def dies(entry: Any) -> bool:
        if entry.event["kind"] == "rollback_ended":
            raise KeyboardInterrupt
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(end(drain_three(rig), "it failed"))
    monkeypatch.undo()
    asked = list(rig.balancer.asked)
    state = asyncio.run(end(rig.gate(), "the first one died"))
    assert (state.outcome, len(state.rollback.undone), rig.balancer.asked) == ("rolled_back", 3, asked)


def test_a_process_that_dies_after_the_rollback_leaves_a_run_that_closes(rig) -> None:
    """An ended rollback is not begun again, even when it could not bring back what is irreversible."""
    gate = rig.started()
    rig.change(gate, "drain")
    rig.change(gate, "restart")
    gate.journal.append(ev.StepFailed(step="work", error="Test", why="a test", seconds=0.0))
    asyncio.run(roll_back(gate, "it failed"))
    state = asyncio.run(end(rig.gate(), "the first one died"))
    assert state.outcome == "rolled_back" and rig.kinds().count("rollback_started") == 1


@pytest.mark.parametrize(("cancelled", "outcome"), [(False, "failed"), (True, "aborted")])
def test_only_irreversible_changes_leave_nothing_to_undo(rig, cancelled, outcome) -> None:
    """A restart stays as it is; nothing was undone, so the run has not been rolled back."""
    gate = rig.started()
    rig.change(gate, "restart")
    gate.journal.append(ev.StepDone(step="work", result=None, seconds=0.0))
    if cancelled:
        gate.journal.append(ev.CancelRequested(reason="enough"))
    state = asyncio.run(end(gate, "no better"))
    assert state.outcome == outcome
    assert rig.events("rollback_started")[0]["irreversible"] == ["services.restart(checkout-1)"]
    assert (state.rollback.undone, state.rollback.left, state.rollback.in_doubt) == ([], [], [])


@pytest.mark.parametrize(("acted", "outcome"), [(True, "failed"), (False, "unknown")])
def test_an_irreversible_change_in_doubt_is_settled_or_stays_unknown(rig, acted, outcome) -> None:
    """The world is read again: it shows the change, or nobody can say (exit 6)."""

    class Silent(FakeServices):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if acted:
                await super().apply(call, key, token)
            raise KeyboardInterrupt

    rig.services = Silent({"checkout": ["checkout-1"]})
    gate = rig.started()
    with pytest.raises(KeyboardInterrupt):
        rig.change(gate, "restart")
    state = asyncio.run(end(gate, "interrupted"))
    assert state.outcome == outcome and EXIT_CODES["unknown"] == 6
    assert bool(rig.events("change_done")) is acted and len(state.rollback.in_doubt) == (0 if acted else 1)


def test_an_irreversible_change_that_cannot_be_read_again_stays_unknown(rig) -> None:
    """When the system does not answer, the doubt stays."""

    class Gone(FakeServices):
        async def apply(self, call: Any, key: str, token: int) -> None:
            self.gone = True
            raise KeyboardInterrupt

        async def state(self, target: str) -> dict[str, Any]:
            if getattr(self, "gone", False):
                raise Unreachable("gone")
            return await super().state(target)

    rig.services = Gone({"checkout": ["checkout-1"]})
    with pytest.raises(KeyboardInterrupt):
        rig.change(rig.started(), "restart")
    state = asyncio.run(end(rig.gate(), "interrupted"))
    assert (state.outcome, len(state.rollback.in_doubt), state.rollback.left) == ("unknown", 1, [])


def test_a_reversible_change_in_doubt_is_undone(rig) -> None:
    """Whether or not it was made, the inverse brings back the state before."""

    class Silent(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            await super().apply(call, key, token)
            raise KeyboardInterrupt

    rig.balancer = Silent(MEMBERS)
    with pytest.raises(KeyboardInterrupt):
        rig.change(rig.started(), "drain")
    rig.balancer.__class__ = FakeBalancer
    state = asyncio.run(end(rig.gate(), "interrupted"))
    assert (state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")


def test_what_a_later_step_took_back_is_not_flapped(rig) -> None:
    """Drained and put back again: nothing is done to it in a rollback."""
    gate = rig.started()
    rig.change(gate, "drain")
    rig.change(gate, "ready")
    rig.change(gate, "drain", "checkout-2", max_targets=2)
    rig.balancer.asked.clear()
    state = asyncio.run(end(gate, "no better"))
    assert undone(rig) == ["checkout-2"] and state.outcome == "rolled_back"


@pytest.mark.parametrize(("error", "kind"), [(KeyboardInterrupt(), "step_unknown"), (Refused("no"), "step_failed")])
def test_the_step_of_a_lost_process_is_ended_first(rig, error, kind) -> None:
    """A running step of a dead kernel is unknown when one of its changes is, else failed."""
    rig.balancer = Broken(error)
    with pytest.raises(type(error)):
        gate = rig.started()
        rig.change(gate, "drain", "checkout-2")
        rig.change(gate, "ready", "checkout-2")
    rig.balancer.__class__ = FakeBalancer
    asyncio.run(end(rig.gate(), "the kernel died"))
    (event,) = rig.events(kind)
    assert (event["error"], event["why"]) == ("Lost", "the kernel died")


def test_a_finished_run_stays_as_it_ended(rig) -> None:
    """Ending twice changes nothing, in the world or in the journal."""
    rig.balancer = FakeBalancer(MEMBERS)
    first = asyncio.run(end(drain_three(rig), "it failed"))
    kinds, asked = rig.kinds(), list(rig.balancer.asked)
    assert asyncio.run(end(rig.gate(), "again")).reason == first.reason == "it failed"
    assert (rig.kinds(), rig.balancer.asked) == (kinds, asked)


def test_a_run_that_changed_nothing_is_just_closed(rig) -> None:
    """Without changes there is no rollback."""
    assert asyncio.run(end(rig.open(), "no use")).outcome == "failed"
    assert rig.kinds() == ["run_opened", "run_closed"]


def promised(rig, **contract: Any) -> Any:
    """Drain two members in one step of a run with a contract of its own; the step is done."""
    rig.balancer = rig.balancer if isinstance(rig.balancer, Broken) else FakeBalancer(MEMBERS)
    work = StepSpec(name="work", intent="", undo="Put it back by hand.", timeout_s=60, max_targets=3)
    gate = opened(rig, steps=(work,), **contract).gate
    gate.journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
    for number in (1, 2):
        rig.change(gate, "drain", f"checkout-{number}", max_targets=3)
    gate.journal.append(ev.StepDone(step="work", result=None, seconds=0.0))
    return gate


STANDS = "Not rolled back; what was done stands: balancer.drain(checkout-2), balancer.drain(checkout-1)."


@pytest.mark.parametrize(
    ("rollback", "cancelled", "outcome", "reason"),
    [
        ("on_failure", False, "rolled_back", "it failed."),
        ("on_failure", True, "aborted", "it failed."),
        ("always", False, "rolled_back", "it failed."),
        ("never", False, "failed", f"it failed. {STANDS}"),
        ("never", True, "aborted", f"it failed. {STANDS}"),
        ("ask", False, "needs_operator", f"it failed. {STANDS}"),
        ("ask", True, "needs_operator", f"it failed. {STANDS}"),
    ],
)
def test_the_contract_says_whether_a_failed_run_is_undone(rig, rollback, cancelled, outcome, reason) -> None:
    """What stands is named; when the contract wants somebody to be asked and nobody is there, a person is needed."""
    gate = promised(rig, rollback=rollback)
    if cancelled:
        rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
    state = asyncio.run(end(gate, "it failed."))
    assert (state.outcome, state.reason) == (outcome, reason)
    assert undone(rig) == ([] if STANDS in reason else ["checkout-2", "checkout-1"])


@pytest.mark.parametrize("rollback", ["never", "ask"])
def test_a_person_can_have_it_undone_whatever_the_contract_says(rig, rollback) -> None:
    """The contract says what happens by itself."""
    state = asyncio.run(end(promised(rig, rollback=rollback), "a person asked for it", anyway=True))
    assert (state.outcome, undone(rig)) == ("rolled_back", ["checkout-2", "checkout-1"])


@pytest.mark.parametrize("rollback", ["on_failure", "never", "ask"])
def test_a_run_that_dies_unconfirmed_is_undone(rig, rollback) -> None:
    """Without a confirmation it is rolled back: that does not depend on the process that asked for it."""
    gate = promised(rig, rollback=rollback, confirm_within_s=60.0)
    gate.journal.append(ev.ConfirmationRequested(until="2026-01-01T00:01:00+00:00"))
    assert asyncio.run(end(rig.gate(), "the kernel died")).outcome == "rolled_back"


class Shaky(FakeBalancer):
    """A balancer whose inverses fail some times before they work."""

    def __init__(self, times: int, error: BaseException) -> None:
        super().__init__(MEMBERS)
        self.times, self.error = times, error

    async def apply(self, call: Any, key: str, token: int) -> None:
        """Fail at first."""
        if call.action == "ready" and self.times:
            self.times -= 1
            raise self.error
        await super().apply(call, key, token)


@pytest.mark.parametrize("error", [Refused("busy"), Unreachable("gone"), MayHaveActed("?"), TimeoutError("slow")])
def test_an_inverse_that_fails_twice_is_tried_a_third_time(rig, error) -> None:
    """A fault that passes costs no rollback; it is given a little longer each time."""
    rig.balancer = Shaky(2, error)
    gate = rig.started()
    rig.change(gate, "drain")
    before = rig.clock.monotonic()
    state = asyncio.run(end(gate, "it failed"))
    assert (state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")
    assert rig.clock.monotonic() - before >= 3.0


def test_what_cannot_be_undone_is_told_to_a_person(rig) -> None:
    """The inverse, the step's own words, what stands, and what stood in the way: in the journal and in the reason."""
    rig.balancer = Broken(Refused("no way."))
    state = asyncio.run(end(promised(rig), "it failed"))
    by_hand = "balancer.ready(checkout-2) (Put it back by hand), as balancer.drain(checkout-2) stands: no way"
    assert state.rollback.by_hand == [by_hand]
    assert (state.outcome, state.reason) == ("needs_operator", f"it failed. Rollback incomplete; by hand: {by_hand}.")
    assert rig.events("run_closed")[0]["reason"] == state.reason and rig.states()["checkout-1"] == "ready"


def test_an_inverse_out_of_time_says_so(rig, monkeypatch) -> None:
    """Not the name of an error, but how long it was tried."""

    class Hangs(Broken):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if (call.action, call.target) == ("ready", "checkout-2"):
                await asyncio.Event().wait()
            await super().apply(call, key, token)

    monkeypatch.setattr(ending, "UNDO_S", 0.02)
    rig.balancer = Hangs(RuntimeError())
    state = asyncio.run(end(promised(rig), "it failed"))
    assert state.rollback.by_hand[0].endswith("as balancer.drain(checkout-2) stands: not done within 0.0s")


def test_a_target_that_others_hold_is_waited_for_once(rig, monkeypatch) -> None:
    """It is left to a person, with the name of the holder; the others are undone."""
    monkeypatch.setattr(ending, "UNDO_S", 0.05)
    promised(rig)
    rig.store.release(rig.terms.holder)
    gate = rig.gate()
    rig.store.acquire("target:test/checkout-2", "other/there/7/ffffff", rig.clock.now(), 1e9)
    tries: list[str] = []
    undo = gate.undo
    monkeypatch.setattr(gate, "undo", lambda change: tries.append(change.call.target) or undo(change))
    state = asyncio.run(end(gate, "it failed"))
    assert tries == ["checkout-2", "checkout-1"] and undone(rig) == ["checkout-1"]
    assert "not done within 0.1s; it waited for checkout-2, held by other until" in state.rollback.by_hand[0]


def test_a_lease_that_lapsed_meanwhile_is_taken_again(rig) -> None:
    """A process that slept between looking and acting does nothing with its old lease, and undoes it with a new one."""

    class Sleepy(FakeBalancer):
        slept = False

        async def state(self, target: str) -> dict[str, Any]:
            found = await super().state(target)
            if found["state"] == "drain" and rig.journal().state.state == "rolling_back" and not self.slept:
                self.slept = True
                rig.clock.advance(60.0)
            return found

    gate = promised(rig)
    rig.balancer.__class__ = Sleepy
    state = asyncio.run(end(gate, "it failed"))
    assert state.outcome == "rolled_back" and rig.events("change_failed")[0]["error"] == "Fenced"


def test_a_store_that_was_away_costs_no_rollback(rig, monkeypatch) -> None:
    """What could not be written down is looked at again: the world says that it is undone."""
    gate, append, away = promised(rig), rig.store.append, [0.0]

    def fails(entry: Any) -> bool:
        if entry.event["kind"] == "change_done" and not away[0]:
            away[0] = rig.clock.monotonic() + 16.0
        if rig.clock.monotonic() < away[0]:
            raise StoreUnavailable("gone")
        return bool(append(entry))

    monkeypatch.setattr(rig.store, "append", fails)
    state = asyncio.run(end(gate, "it failed"))
    assert state.outcome == "rolled_back" and undone(rig) == ["checkout-2", "checkout-1"]
    assert [event["how"] for event in rig.events("change_done")[2:]] == ["already", "applied"]


@pytest.mark.parametrize("then", ["acts", "fails", "has a bug"])
def test_a_process_that_is_overtaken_in_a_rollback_stops(rig, then) -> None:
    """Whatever happens to the inverse under way, no other is begun, nothing is written and no target is held."""

    class Overtaken(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if (call.action, call.target) == ("ready", "checkout-2"):
                taken(rig, "roll_back")
                if then == "fails":
                    raise Unreachable("gone")
                if then == "has a bug":
                    raise KeyError(then)
            await super().apply(call, key, token)

    gate = promised(rig)
    rig.balancer.__class__ = Overtaken
    with pytest.raises(Fenced, match="taken over"):
        asyncio.run(end(gate, "it failed"))
    assert rig.kinds()[-1] == "session_began" and rig.states()["checkout-1"] == "drain"
    assert not [lease for lease in rig.store.leases() if lease.live(rig.clock.now())]


def test_a_stranger_is_refused(rig) -> None:
    """The process of an older session is told; the one that goes on is not."""
    journal = rig.open().journal
    refuse_stranger(journal)
    gate = taken(rig)
    refuse_stranger(gate.journal)
    with pytest.raises(Fenced, match="taken over"):
        refuse_stranger(journal)


def well(gate: Any, outcome: str = "resolved") -> None:
    """Close a run."""
    gate.journal.append(ev.RunClosed(outcome=outcome, reason="all is well"))


def test_a_run_that_is_over_can_be_rolled_back(rig) -> None:
    """Also after success; from the journal alone, with new leases; the first end stays in the journal."""
    well(promised(rig))
    state = asyncio.run(end(taken(rig, "roll_back"), "os:test rolled it back", anyway=True))
    assert (state.outcome, state.reason) == ("rolled_back", "os:test rolled it back")
    assert undone(rig) == ["checkout-2", "checkout-1"]
    assert [event["outcome"] for event in rig.events("run_closed")] == ["resolved", "rolled_back"]


def test_a_second_rollback_does_only_what_is_left(rig) -> None:
    """After an incomplete one, the next process undoes the rest; then there is nothing to do any more."""
    rig.balancer = Broken(Refused("no"))
    assert asyncio.run(end(promised(rig), "it failed")).outcome == "needs_operator"
    rig.balancer.__class__ = FakeBalancer
    rig.balancer.asked.clear()
    state = asyncio.run(end(taken(rig, "roll_back"), "again", anyway=True))
    assert (state.outcome, undone(rig)) == ("rolled_back", ["checkout-2"]) and len(state.rollback.undone) == 2
    asyncio.run(end(taken(rig, "roll_back"), "once more", anyway=True))
    assert undone(rig) == ["checkout-2"]


def test_a_second_rollback_that_fails_too_names_what_is_left(rig) -> None:
    """Only what still stands is told to the person."""
    rig.balancer = Broken(Refused("no"))
    asyncio.run(end(promised(rig), "it failed"))
    state = asyncio.run(end(taken(rig, "roll_back"), "again", anyway=True))
    assert state.outcome == "needs_operator" and len(state.rollback.by_hand) == 1


def test_a_run_that_lost_its_process_is_rolled_back_by_another(rig) -> None:
    """The step that was running counts as interrupted; what it did is undone, whoever holds its old leases."""
    gate = rig.started()
    rig.change(gate, "drain")
    state = asyncio.run(end(taken(rig, "roll_back"), "os:test rolled it back", anyway=True))
    assert (state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")
    assert state.steps["work"].state == "interrupted"


def test_an_abandoned_run_is_left_as_it_is(rig) -> None:
    """Nothing is undone, and what stands is named."""
    promised(rig)
    state = abandon(taken(rig, "abandon").journal, "os:test abandoned it")
    assert (state.outcome, state.reason) == ("aborted", f"os:test abandoned it. {STANDS}")
    assert undone(rig) == [] and rig.kinds()[-1] == "run_closed"


def lost(rig, action: str) -> Any:
    """Drain a member, and lose the answer to one action."""

    class Silent(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            await super().apply(call, key, token)
            if call.action == action:
                raise KeyboardInterrupt

    rig.balancer = Silent(MEMBERS)
    gate = rig.started()
    with pytest.raises(KeyboardInterrupt):
        rig.change(gate, "drain")
        asyncio.run(end(gate, "it failed"))
    rig.balancer.__class__ = FakeBalancer
    return gate


@pytest.mark.parametrize("action", ["drain", "ready"])
def test_an_abandoned_run_with_a_doubt_is_unknown(rig, action) -> None:
    """Of a change, or of an inverse, nobody knows whether it was made: that is never called aborted."""
    lost(rig, action)
    state = abandon(taken(rig, "abandon").journal, "os:test abandoned it")
    assert state.outcome == "unknown"


def test_a_doubt_that_was_settled_is_none_when_a_run_is_abandoned(rig) -> None:
    """The first attempt at an inverse is in doubt, the second has undone it."""
    gate = lost(rig, "ready")
    asyncio.run(roll_back(gate, "again"))
    state = abandon(taken(rig, "abandon").journal, "os:test abandoned it")
    assert (state.outcome, rig.states()["checkout-1"]) == ("aborted", "ready")


def test_only_a_run_that_was_taken_over_is_abandoned(rig) -> None:
    """An onlooker cannot close a run."""
    gate = rig.started()
    gate.journal.session = 0
    with pytest.raises(IllegalMove):
        abandon(gate.journal, "why")


def test_what_the_run_took_back_itself_does_not_stand(rig) -> None:
    """Drained and put back is as it was; a restart stands."""
    gate = rig.started()
    for action in ("drain", "restart", "ready"):
        rig.change(gate, action)
    assert standing(gate.journal.state) == ["services.restart(checkout-1)"]


def test_a_rollback_of_nothing_touches_nothing(rig) -> None:
    """A person may ask for it; the journal says that there was nothing."""
    state = asyncio.run(end(rig.open(), "os:test rolled it back", anyway=True))
    assert rig.balancer.asked == [] and state.rollback.undone == []


def test_a_stuck_rollback_closes_as_it_is_when_the_contract_wants_a_person(rig) -> None:
    """A process that dies between the rollback and the end leaves a run that the next one closes."""
    rig.balancer = Broken(Refused("no"))
    gate = promised(rig, rollback="never")
    asyncio.run(roll_back(gate, "os:test rolled it back"))
    state = asyncio.run(end(rig.gate(), "the first one died"))
    assert state.outcome == "needs_operator" and rig.kinds().count("rollback_started") == 1
