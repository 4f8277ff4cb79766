"""The checker can fail: each protection that is taken away is found missing."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from rbkit.gate import Gate
from rbkit.journal import Journal
from rbkit.leases import Targets
from rbkit.store import Lease
from rbkit.stores import memory
from rbkit.stores.memory import MemoryStore

from .checker import breaches
from .scene import Scene
from .simulation import Fate, Stuck
from .world import _Port

MANY = 1000
"""After so many seeds without a breach, the checker is blind."""
Spoil = Callable[[pytest.MonkeyPatch], dict[str, bool]]


async def _never(*values: Any) -> None:
    return None


async def _anew(gate: Gate, change: Any, step: Any) -> Any:
    return await gate._made(change.call, step)


def without_tokens(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Let the systems act whatever the token."""
    return {"tokens": False}


def without_fence(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Announce no token to the systems before they are read."""
    monkeypatch.setattr(_Port, "fence", _never)
    return {}


def without_check(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Do not look at the lease before acting."""
    monkeypatch.setattr(Targets, "check", lambda *values: None)
    return {}


def without_sessions(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Let a process write whose run was taken over."""
    monkeypatch.setattr(Journal, "_check_stranger", lambda *values: None)
    return {}


def without_settling(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Make again what was made before, under a new key."""
    monkeypatch.setattr(Gate, "_settled", _anew)
    return {}


def without_leases(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Give a lease to whoever asks, with the token that it has."""

    def take(standing: Lease | None, *values: Any, **named: Any) -> Lease:
        return real(None, *values)

    real = memory.take
    monkeypatch.setattr(memory, "take", take)
    return {}


@pytest.mark.parametrize(
    ("spoil", "rules"),
    [
        (without_tokens, {"tokens_never_fall"}),
        (without_fence, {"what_is_over_stays_over", "what_failed_did_not_act", "a_change_is_made_once"}),
        (without_check, {"the_lease_is_looked_at_before_acting"}),
        (without_sessions, {"only_the_newest_session_writes"}),
        (without_settling, {"a_change_is_made_once"}),
        (without_leases, {"a_live_lease_is_nobody_elses"}),
    ],
)  # fmt: skip
def test_a_protection_that_is_taken_away_is_missed(monkeypatch, spoil: Spoil, rules):
    """Within some seeds the rule that rests on it is broken, so the checker sees what it is there for."""
    options = spoil(monkeypatch)
    for seed in itertools.count(800_000):
        assert seed < 800_000 + MANY, f"{MANY} seeds without {', '.join(sorted(rules))}"
        random.seed(seed)
        scene = Scene(seed, MemoryStore(), fate=Fate(), options=options)
        try:
            scene.play()
        except (AssertionError, Stuck):
            continue
        if rules & {breach.partition(":")[0] for breach in breaches(scene.evidence())}:
            return
