"""The store is taken away at random while runs go on: nothing is lost, nothing is doubled.

A call finds the store away, or it is done and its answer gets lost; an outage lasts up to five seconds.
"""

from random import Random

import pytest

from rbkit.errors import StoreUnavailable
from rbkit.stores.memory import MemoryStore

from .scene import Scene
from .simulation import CALM, Fate
from .stores import Monkey, MonkeyStore

CHUNK = 25


def harassed(seed: int, fate: Fate, **more: object) -> tuple[Scene, Monkey]:
    """Set a scene in which every process, also what renews its leases, shares the store with a monkey."""
    monkey = Monkey(Random(seed), often=0.3)
    scene = Scene(seed, MemoryStore(), fate=fate, **more)  # type: ignore[arg-type]
    scene.store_of = lambda scene, process, boundary: MonkeyStore(scene.raw, scene.history, process, boundary, monkey)
    return scene, monkey


@pytest.mark.parametrize("chunk", range(8))
def test_runs_outlast_every_outage(played, chunk):
    """Two hundred seeds: each run is resolved, each of its changes was made once, each journal verifies."""
    outages = 0
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        scene, monkey = harassed(seed, CALM, runs=2 + seed % 2, orderly=True, second_thoughts=0.0, cancels=0.0)
        played(scene)
        outages += monkey.outages
        for run in scene.books:
            state = scene.journal(run).state
            assert state.outcome == "resolved", f"seed {seed}: {state.outcome}: {state.reason}"
    assert outages > CHUNK


@pytest.mark.parametrize("chunk", range(4))
def test_outages_and_deaths_together_double_nothing(played, chunk):
    """The store goes away while processes sleep, die and are taken over: the same rules hold."""
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        played(harassed(seed, Fate(), runs=2)[0])


def test_an_outage_that_lasts_ends_the_process_and_nothing_is_lost(played):
    """When the store stays away for longer than rbkit waits, the process ends or fails its run; the rules hold."""
    stopped = 0
    for seed in range(CHUNK):
        scene, monkey = harassed(seed, CALM, runs=2, orderly=True, second_thoughts=0.0, cancels=0.0, ways=("resume",))
        monkey.longest_s, monkey.often = 60.0, 0.03
        played(scene)
        stopped += any(isinstance(error, StoreUnavailable) for error in scene.errors.values())
    assert stopped > CHUNK / 2
