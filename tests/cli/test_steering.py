"""What a person does with a run from another terminal."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.events import Call
from rbkit.journal import Journal
from rbkit.leases import Keeper, run_lease
from rbkit.stores.sqlite import SqliteStore
from tests.cli.conftest import Rbkit, opened, past_run

DRAIN, BACK = (Call(capability="balancer", action=action, target="checkout-2") for action in ("drain", "ready"))


def hold(journal: Journal, ago_s: float = 0.0) -> None:
    """Let a process hold the run's lease, or have held it a while ago."""
    then = SystemClock().now() - timedelta(seconds=ago_s)
    journal.store.acquire(run_lease(journal.run), f"{journal.run}/elsewhere/4242/abcdef", then, 30.0)


def acting(home: Path) -> Journal:
    """Leave a run in the middle of a change."""
    journal = opened(home)
    journal.append(
        ev.StepStarted(step="drain", intent="Drain.", risk="low", timeout_s=60, deadline="2026-01-01T01:00:00")
    )
    journal.append(ev.ChangeIntended(
        key="k", step="drain", call=DRAIN, before={"state": "ready"}, after={"state": "drain"}, inverse=BACK,
    ))  # fmt: skip
    return journal


def test_cancel_says_what_is_in_flight(rbkit: Rbkit, home: Path) -> None:
    """The request is journaled with who and why; step and change that are under way are named."""
    journal = acting(home)
    hold(journal)
    code, out, _ = rbkit("cancel", journal.run, "--no-wait", "-m", "enough")
    assert code == 0
    assert "in flight: step drain" in out
    assert "in flight: balancer.drain(checkout-2)" in out
    assert journal.state.cancel.endswith(": enough")


def test_cancel_follows_the_run_to_its_end(rbkit: Rbkit, home: Path) -> None:
    """A run that ends at once is told with its outcome; one that dies meanwhile is told as interrupted."""
    journal = opened(home)
    hold(journal)
    journal.append(ev.CancelRequested(reason="earlier"))
    SqliteStore(home).release(f"{journal.run}/elsewhere/4242/abcdef")
    code, _, err = rbkit("cancel")
    assert code == 1
    assert "Nobody runs" in err


def test_cancel_of_a_dead_run_names_the_ways_out(rbkit: Rbkit, home: Path) -> None:
    """Nobody would hear the request, so it is refused and what can be done instead is said."""
    journal = acting(home)
    hold(journal, ago_s=60)
    code, _, err = rbkit("cancel", journal.run)
    assert code == 1
    assert "process 4242 on elsewhere" in err
    assert all(f"rbkit {word} {journal.run}" in err for word in ("resume", "rollback", "abandon"))
    assert not journal.state.cancel


@pytest.mark.parametrize("words", [["cancel"], ["resume"], ["abandon"]])
def test_a_run_that_is_over_is_left_alone(rbkit: Rbkit, home: Path, words: list[str]) -> None:
    """What is over is not stopped, resumed or abandoned; one sentence says so."""
    past_run(home)
    code, _, err = rbkit(*words)
    assert code == 1
    assert "The run is over" in err


def test_dead_runs_are_shown_as_interrupted(rbkit: Rbkit, home: Path) -> None:
    """List, show and watch never call a run running whose lease has lapsed, and name the three ways out."""
    journal = acting(home)
    hold(journal, ago_s=60)
    assert "? interrupted" in rbkit("list")[1]
    code, out, _ = rbkit("watch")
    assert code == 4
    assert "? interrupted" in out
    facts = json.loads(rbkit("show", "--json")[1])
    assert (facts["stands"], facts["running"], facts["in_flight"]) == ("interrupted", "", [str(DRAIN)])
    assert [(step["name"], step["state"]) for step in facts["steps"]] == [("drain", "interrupted")]
    assert [way.split()[1] for way in facts["ways_out"]] == ["resume", "rollback", "abandon"]


def test_reap(rbkit: Rbkit, home: Path) -> None:
    """A dead run is marked once, with who it was and since when; it may be resumed, rolled back or abandoned."""
    journal = acting(home)
    hold(journal, ago_s=60)
    out = rbkit("reap")[1]
    assert "process 4242 on elsewhere" in out
    assert f"rbkit resume {journal.run}" in out
    assert journal.state.state == "interrupted"
    assert json.loads(rbkit("reap", "--json")[1]) == []


def test_rollback_says_first_what_it_undoes(rbkit: Rbkit, home: Path) -> None:
    """With --dry-run nothing is touched: what would be undone, what may not have happened, what stays."""
    journal = acting(home)
    _, out, _ = rbkit("rollback", "--dry-run")
    assert "↩ balancer.ready(checkout-2) · balancer.drain(checkout-2) (it may not have happened)" in out
    assert journal.state.state == "acting"


def test_abandon(rbkit: Rbkit, home: Path) -> None:
    """A dead run is closed with what stands named; a change in doubt makes it unknown, exit 6; its record verifies."""
    journal = acting(home)
    code, out, _ = rbkit("abandon", "-m", "we rebuild it")
    assert code == 6
    assert "Not rolled back; what was done stands: balancer.drain(checkout-2)" in out
    assert journal.state.outcome == "unknown"
    assert rbkit("record", "verify")[0] == 0


@pytest.mark.parametrize("words", [["abandon"], ["rollback"]])
def test_a_run_that_lives_is_not_taken_over(rbkit: Rbkit, home: Path, words: list[str]) -> None:
    """A holder that renews its lease is named with the time until which it holds; exit 4, and nothing is written."""
    journal = acting(home)
    holder = f"{journal.run}/elsewhere/4242/abcdef"
    store = SqliteStore(home)
    store.acquire(run_lease(journal.run), holder, SystemClock().now(), 5.0)
    keeper = Keeper(store, holder, SystemClock(), 5.0)
    keeper.start()
    entries = len(journal.entries)
    code, _, err = rbkit(*words)
    keeper.stop()
    assert code == 4
    assert "held by run" in err
    assert "process 4242 on elsewhere" in err
    assert len(journal.entries) == entries
