"""Random interleavings of runs, take-overs and leases: whatever the order, nothing is done twice.

Each seed is one simulation: two to four runs on one or two targets, real rbkit code in every process, a scheduler that
switches, stops and kills at every call of the store and of the world, and a checker that reads only what happened.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from .checker import RULES, Evidence
from .simulation import CALM, Fate

CHUNK = 25
OTHERWISE = tuple(rule for rule in RULES if rule.__name__ not in {"a_change_is_made_once", "acknowledged_means_made"})
WITHOUT_TOKENS = ("a_change_is_made_once", "tokens_never_fall", "what_failed_did_not_act", "what_is_over_stays_over")


def seeds(chunk: int, start: int = 0) -> range:
    """List the seeds of a chunk."""
    return range(start + chunk * CHUNK, start + (chunk + 1) * CHUNK)


def several(seed: int) -> int:
    """Choose how many runs there are: mostly two."""
    return (2, 2, 2, 2, 3, 2, 2, 3, 2, 4)[seed % 10]


@pytest.mark.parametrize("chunk", range(40))
def test_no_interleaving_makes_anything_twice(judged, chunk):
    """A thousand seeds with pauses, deaths, lost and late requests: the checker finds nothing."""
    for seed in seeds(chunk):
        judged(seed, fate=Fate(), runs=several(seed))


@pytest.mark.parametrize("chunk", range(3))
def test_no_interleaving_on_a_real_store_does(judged, fresh, chunk):
    """The same with SQLite: its leases and its journal are as atomic as those in memory."""
    for seed in seeds(chunk, 100_000):
        judged(seed, fresh(seed), fate=Fate(), runs=several(seed))


@pytest.mark.parametrize("chunk", range(4))
def test_a_supervisor_that_ends_a_run_makes_nothing_twice(judged, chunk):
    """A kernel dies or sleeps while its supervisor, in whose name it acts, lives and ends the run."""
    for seed in seeds(chunk, 200_000):
        judged(seed, fate=Fate(), runs=2, supervised=True)


def a_change_is_repeated_only_after_a_look(evidence: Evidence) -> Iterator[str]:
    """Where a system knows no keys, a change has its effect again only if its process has looked at the target."""
    acts = [(act, attempt) for act in evidence.acts if (attempt := evidence.attempt(act))]
    for place, (act, attempt) in enumerate(acts):
        for earlier, other in acts[:place]:
            if (other.change, other.event["undoes"]) != (attempt.change, attempt.event["undoes"]):
                continue
            looks = [
                look for look in evidence.history.of("look")
                if look.facts["target"] == act.facts["target"] and earlier.place < look.place < act.place
            ]  # fmt: skip
            if act.who not in {look.who for look in looks}:
                yield f"#{act.place} repeats #{earlier.place} without a look"


@pytest.mark.parametrize("chunk", range(2))
def test_without_keys_nothing_is_repeated_without_a_look(judged, chunk):
    """The weaker promise for systems that remember fencing tokens and no keys."""
    for seed in seeds(chunk, 300_000):
        rules = (*OTHERWISE, a_change_is_repeated_only_after_a_look)
        judged(seed, fate=Fate(), rules=rules, options={"keys": False})


def no_change_is_made_twice_forward(evidence: Evidence) -> Iterator[str]:
    """Where a system knows no tokens, a key still lets each change happen once."""
    forward = [act.facts["key"] for act in evidence.acts]
    yield from (f"{key} acted {count} times" for key, count in Counter(forward).items() if count > 1)


@pytest.mark.parametrize("chunk", range(2))
def test_without_tokens_no_change_is_made_twice(judged, chunk):
    """The weaker promise for systems that remember keys and no fencing tokens."""
    rules = (*(rule for rule in RULES if rule.__name__ not in WITHOUT_TOKENS), no_change_is_made_twice_forward)
    for seed in seeds(chunk, 400_000):
        judged(seed, fate=Fate(), rules=rules, options={"tokens": False})


@pytest.mark.parametrize("chunk", range(4))
def test_targets_in_any_order_never_lead_to_a_deadlock(judged, chunk):
    """Runs that take targets in a random order come to their end, or are refused with the reason and leave nothing."""
    for seed in seeds(chunk, 500_000):
        scene = judged(seed, fate=CALM, runs=2 + seed % 3, second_thoughts=0.0, cancels=0.0)
        for run in scene.books:
            state = scene.journal(run).state
            lost = [moment.event for moment in state.timeline if moment.event.kind in {"step_failed", "step_unknown"}]
            refused = [event.error for event in lost] == ["GuardRail"]
            assert refused if lost else state.outcome == "resolved", f"seed {seed}: {state.outcome}: {state.reason}"
            assert state.outcome in {"resolved", "failed", "rolled_back"}, f"seed {seed}: {state.outcome}"


@pytest.mark.parametrize("chunk", range(2))
def test_targets_in_one_order_are_waited_for(judged, chunk):
    """Runs that take targets in the order of their names are never refused: each waits for its turn."""
    for seed in seeds(chunk, 600_000):
        scene = judged(seed, fate=CALM, runs=3, orderly=True, second_thoughts=0.0, cancels=0.0)
        assert {scene.journal(run).state.outcome for run in scene.books} == {"resolved"}, f"seed {seed}"


def test_a_seed_says_everything(judged):
    """The same seed gives the same history, so that a failure can be looked at again."""
    first, second = (judged(700_001, fate=Fate(), rules=()) for _ in range(2))
    assert [(n.who, n.what, n.at) for n in first.history.notes] == [(n.who, n.what, n.at) for n in second.history.notes]
