"""Interleavings that did harm once, each written out: no seed is needed to find them again."""

from collections.abc import Callable
from typing import Any

import pytest

from rbkit.clock import FakeClock
from rbkit.errors import Held, MayHaveActed
from rbkit.events import Call
from rbkit.leases import take
from rbkit.store import Lease
from rbkit.stores.memory import MemoryStore

from .scene import Scene
from .simulation import CALM, Process
from .stores import NotedStore
from .world import History, _Port

DRAIN = Call(capability="balancer", action="drain", target="t0")
START, STOP = (Call(capability="services", action=action, target="t0") for action in ("start", "stop"))
Act = Callable[[_Port, Call, str, int], None]


class _Slow(NotedStore):
    """A store whose process is stopped between asking for a lease and getting it."""

    def __init__(self, raw: MemoryStore, history: History, meanwhile: Callable[[], None]) -> None:
        super().__init__(raw, history, "slow")
        self._meanwhile = meanwhile

    def acquire(self, name: str, holder: str, *more: Any, **named: Any) -> Lease:
        """Take a lease, after something else has happened."""
        self._meanwhile()
        return super().acquire(name, holder, *more, **named)


@pytest.mark.parametrize("seconds", [0.001, 1.0, 20.0])
def test_whoever_asked_earlier_does_not_take_a_lease_that_is_live(seconds):
    """A process that looked at its clock, was stopped, and asks late gets no lease that another took meanwhile."""
    store, clock = MemoryStore(), FakeClock()

    def meanwhile() -> None:
        clock.advance(seconds)
        take(store, "r", "r/host/1/quick", clock)

    slow = _Slow(store, History(clock), meanwhile)
    with pytest.raises(Held):
        take(slow, "r", "r/host/2/slow", clock)
    assert [lease.holder for lease in store.leases()] == ["r/host/1/quick"]


def once(monkeypatch: pytest.MonkeyPatch, who: str, act: Act) -> None:
    """Let something happen to the first request of a process that is no announcement."""
    real, met = _Port.apply, list[str]()

    async def apply(port: _Port, call: Call, key: str, token: int) -> None:
        if port.process.name == who and call.action != "start" and not met:
            met.append(key)
            act(port, call, key, token)
        await real(port, call, key, token)

    monkeypatch.setattr(_Port, "apply", apply)


def dies(process: Process) -> None:
    """Kill a process here."""
    process.dead = True
    process.check_alive()


def acts_and_dies(port: _Port, call: Call, key: str, token: int) -> None:
    """The request is carried out, and the process dies before it learns of it."""
    port.system.apply(port.process.name, call, key, token)
    dies(port.process)


def dies_and_arrives_late(port: _Port, call: Call, key: str, token: int) -> None:
    """The process dies while its request is under way; it arrives a minute later."""
    port.process.simulation.later(60.0, lambda: port._arrives(call, key, token))
    dies(port.process)


def goes_on_and_arrives_late(port: _Port, call: Call, key: str, token: int) -> None:
    """No answer comes; the request arrives a minute later."""
    port.process.simulation.later(60.0, lambda: port._arrives(call, key, token))
    raise MayHaveActed("no answer came")


def scene_of(*steps: list[Call], **more: Any) -> Scene:
    """Set a scene with one run that makes these steps, and in which nothing is left to chance but the order."""
    scene = Scene(1, MemoryStore(), fate=CALM, runs=1, second_thoughts=0.0, cancels=0.0, **more)
    scene.books = {run: list(steps) for run in scene.books}
    return scene


def test_what_held_already_is_not_made_by_the_process_that_takes_over(monkeypatch, played):
    """A change that was acknowledged as held before stays so, although a later one has changed its target since."""
    once(monkeypatch, "run0", acts_and_dies)
    scene = played(scene_of([START, STOP], ways=("resume",)))
    (run,) = scene.books
    assert scene.journal(run).state.outcome == "resolved"
    assert [act.facts["action"] for act in scene.history.of("apply")] == ["stop"]
    assert scene.worlds["services"].states["t0"]["state"] == "stopped"


@pytest.mark.parametrize("act", [dies_and_arrives_late, goes_on_and_arrives_late])
@pytest.mark.parametrize("supervised", [True, False])
def test_a_request_that_is_still_under_way_does_nothing_once_it_was_undone(monkeypatch, played, act, supervised):
    """What the journal says was undone is not done after all, whoever undid it: the one who asked, or another."""
    once(monkeypatch, "run0", act)
    scene = played(scene_of([DRAIN], supervised=supervised, ways=("roll_back",)))
    (run,) = scene.books
    assert scene.journal(run).state.finished
    assert scene.worlds["balancer"].states["t0"]["state"] == "ready"
