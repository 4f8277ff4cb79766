"""The disk fails at the n-th write, for every n: nothing is changed without its intent, and nothing is made twice."""

from collections.abc import Callable
from typing import Any

import pytest

from rbkit.errors import StoreUnavailable
from rbkit.events import Call
from rbkit.stores.sqlite import SqliteStore

from .disks import Broken, Disk, DiskStore, Full, Gone, Mute, ReadOnly, Trouble
from .scene import Scene
from .simulation import CALM

STEPS = [
    [Call(capability="balancer", action="drain", target="t0")],
    [Call(capability="services", action="restart", target="t0")],
    [Call(capability="balancer", action="ready", target="t0"), Call(capability="services", action="stop", target="t1")],
]
NEVER = 10**6
PLACES = range(1, 40)
"""More writes than the run has; a test below makes sure of it."""
Fail = Callable[[int], Scene]


def failing(store: SqliteStore, disk: type[Disk], at: int, way: str) -> tuple[Scene, Trouble]:
    """Set a scene with one run whose disk fails at a write, and that is then taken over in one way."""
    trouble = Trouble(disk(store), at)
    scene = Scene(at, store, fate=CALM, runs=1, second_thoughts=0.0, cancels=0.0, ways=(way,))
    for system in scene.worlds.values():
        first = next(iter(system.states.values()))
        system.states |= {name: dict(first) for name in ("t0", "t1")}
    scene.books = dict.fromkeys(scene.books, STEPS)
    scene.store_of = lambda scene, process, boundary: DiskStore(store, scene.history, process, boundary, trouble)
    return scene, trouble


def states(scene: Scene) -> tuple[str, str]:
    """How the balancer treats t0, and whether t1 runs."""
    return scene.worlds["balancer"].states["t0"]["state"], scene.worlds["services"].states["t1"]["state"]


def made(scene: Scene) -> list[str]:
    """Name the changes that had their effect, in order."""
    return [f"{note.facts['action']} {note.facts['target']}" for note in scene.evidence().acts]


def test_every_write_is_one_of_the_places(played, fresh):
    """The run that is broken off below writes less often than there are places, so no write is left out."""
    scene, trouble = failing(fresh("whole"), Gone, NEVER, "resume")
    played(scene)
    assert 20 < trouble.writes < PLACES[-1]
    assert made(scene) == ["drain t0", "restart t0", "ready t0", "stop t1"]


def stopped_as_it_should(scene: Scene, trouble: Trouble, at: int) -> bool:
    """Make sure that the process said why it stopped and what to do; tell whether it had opened its run."""
    error = scene.errors.get("run0")
    assert not trouble.met or error is None or (isinstance(error, StoreUnavailable) and error.todo), f"write {at}"
    (run,) = scene.books
    opened = scene.journal(run).state.opened is not None
    assert opened or not made(scene), f"write {at}: {made(scene)}"
    return opened


def gone_back(scene: Scene, at: int) -> None:
    """Make sure that a run was undone; what cannot be undone is in doubt only where it was intended and not made."""
    state = scene.journal(next(iter(scene.books))).state
    doubt = "restart t0" not in made(scene) and any(
        change.call.action == "restart" for change in state.changes.values()
    )
    assert state.outcome in {"rolled_back", "failed", *(["unknown"] if doubt else [])}, f"write {at}: {state.reason}"
    assert states(scene) == ("ready", "running"), f"write {at}"
    assert made(scene).count("restart t0") <= 1, f"write {at}"


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("disk", [ReadOnly, Full, Broken, Gone, Mute])
def test_a_run_that_the_disk_broke_off_is_resumed(played, fresh, disk, part):
    """Wherever it broke off, whoever resumes it makes every change that was not made, and no other."""
    met = 0
    for at in PLACES[part::3]:
        scene, trouble = failing(fresh(at), disk, at, "resume")
        played(scene)
        met += trouble.met
        if stopped_as_it_should(scene, trouble, at):
            (run,) = scene.books
            state = scene.journal(run).state
            if any(moment.event.kind in {"step_failed", "step_unknown"} for moment in state.timeline):
                assert disk is Mute, f"write {at}"
                gone_back(scene, at)  # it could say that it failed, so it may not go forward any more
                continue
            assert state.outcome == "resolved", f"write {at}: {state.outcome}: {state.reason}"
            assert made(scene) == ["drain t0", "restart t0", "ready t0", "stop t1"], f"write {at}"
            assert states(scene) == ("ready", "stopped")
    assert met > 5


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("disk", [ReadOnly, Full, Broken, Gone, Mute])
def test_a_run_that_the_disk_broke_off_is_rolled_back(played, fresh, disk, part):
    """Wherever it broke off, whoever rolls it back undoes what was done, and nothing else."""
    for at in PLACES[part::3]:
        scene, trouble = failing(fresh(at), disk, at, "roll_back")
        played(scene)
        if not stopped_as_it_should(scene, trouble, at):
            continue
        (run,) = scene.books
        state = scene.journal(run).state
        if state.outcome == "resolved":  # its end was written, whatever the disk said
            assert not trouble.met or disk is Mute, f"write {at}"
            continue
        gone_back(scene, at)


def test_what_it_says_is_what_to_do(played, fresh):
    """The error of a disk that fails says what is wrong in the system's words, and what the operator does next."""
    for disk, words in ((ReadOnly, "readonly"), (Full, "full"), (Broken, "I/O error")):
        scene, _ = failing(fresh(words), disk, 8, "resume")
        played(scene)
        error: Any = scene.errors["run0"]
        assert words in error.what and "Free space" in error.todo and error.exit_code == 1
