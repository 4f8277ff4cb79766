"""A run that did not succeed: undone last first, from the journal alone, and closed with the outcome that is true."""

import asyncio
from typing import Any

import pytest

from rbkit import ending
from rbkit import events as ev
from rbkit.adapters.fakes import FakeBalancer, FakeServices
from rbkit.ending import end, roll_back
from rbkit.errors import MayHaveActed, Refused, Unreachable
from rbkit.policy import EXIT_CODES

MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3", "checkout-4"]}


class Broken(FakeBalancer):
    """A balancer that does not put one member back."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(MEMBERS)
        self.error = error

    async def apply(self, call: Any, key: str) -> None:
        """Fail at `ready` of checkout-2."""
        if (call.action, call.target) == ("ready", "checkout-2"):
            self.asked.append(call)
            raise self.error
        await super().apply(call, key)


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
    "error", [Refused("no"), Unreachable("gone"), MayHaveActed("?"), RuntimeError("a bug"), KeyError(1)]
)
def test_one_failing_inverse_does_not_stop_the_others(rig, error) -> None:
    """Whatever one inverse raises, the others are undone and an operator is needed for the one that is left."""
    rig.balancer = Broken(error)
    state = asyncio.run(end(drain_three(rig), "it failed"))
    assert undone(rig) == ["checkout-3", "checkout-2", "checkout-1"]
    assert (state.outcome, EXIT_CODES[state.outcome]) == ("needs_operator", 4)
    assert len(state.rollback.undone) == 2 and len(state.rollback.left) == 1
    assert rig.states() == {f"checkout-{n}": "drain" if n == 2 else "ready" for n in (1, 2, 3, 4)}


def test_an_inverse_that_hangs_is_left_behind(rig, monkeypatch) -> None:
    """Undoing one change has a deadline of its own."""

    class Hangs(Broken):
        async def apply(self, call: Any, key: str) -> None:
            if (call.action, call.target) == ("ready", "checkout-2"):
                await asyncio.Event().wait()
            await super().apply(call, key)

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
        async def apply(self, call: Any, key: str) -> None:
            if acted:
                await super().apply(call, key)
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
        async def apply(self, call: Any, key: str) -> None:
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
        async def apply(self, call: Any, key: str) -> None:
            await super().apply(call, key)
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
