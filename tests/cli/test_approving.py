"""Answers from another terminal."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.journal import Journal
from rbkit.leases import run_lease
from rbkit.stores.sqlite import SqliteStore
from rbkit.values import digest
from tests.cli.conftest import Rbkit, opened

DEADLINE = "2026-01-01T01:00:00+00:00"
PLAN = {
    "facts": {
        "runbook": "trial", "version": "1", "digest": "sha256:abc", "environment": "sandbox",
        "parameters": {"limit": 3},
    },
    "changes": [{
        "call": "balancer.drain(checkout-2)", "target": "checkout-2", "before": {"state": "ready"},
        "after": {"state": "drain"}, "differs": {"pid": 7}, "undo": "", "irreversible": "it is gone",
    }],
}  # fmt: skip


@pytest.fixture
def waiting(home: Path) -> Journal:
    """A live run that waits for an approval."""
    journal = opened(home)
    SqliteStore(home).acquire(run_lease(journal.run), f"{journal.run}/h/1/abcdef", SystemClock().now(), 600.0)
    journal.append(
        ev.StepStarted(step="drain", intent="", risk="high", timeout_s=60, deadline="2026-01-01T01:00:00+00:00")
    )
    ask(journal)
    return journal


def ask(journal: Journal, **given: object) -> str:
    """Ask for approval of the plan."""
    plan = {**PLAN, "request": len(journal.state.approvals)}
    until = (SystemClock().now() + timedelta(hours=1)).isoformat()
    facts = {"needed": 1, "approvers": ["*"], "own": True, "until": until, **given}
    journal.append(ev.ApprovalRequested(
        step="drain", risk="high", digest=digest(plan), plan=plan, valid_s=60.0, **facts,  # type: ignore[arg-type]
    ))  # fmt: skip
    return digest(plan)


def test_approve_shows_the_plan_and_binds_the_answer_to_it(rbkit: Rbkit, waiting: Journal) -> None:
    """Runbook, environment, parameters, target, before, after and undo are shown; the answer carries the digest."""
    code, out, _ = rbkit("approve", "-m", "seen")
    assert code == 0
    for text in ("trial 1", "sandbox", "limit=3", "checkout-2", "state ready", "state drain", "another pid than 7",
                 "irreversible: it is gone", "✓ approved"):  # fmt: skip
        assert text in out
    asked = waiting.state.approvals[0]
    assert list(asked.given.values()) == ["seen"]


def test_deny(rbkit: Rbkit, waiting: Journal) -> None:
    """A refusal carries who and why."""
    assert "no way" in rbkit("deny", "-m", "no way")[1]
    assert waiting.state.approvals[0].reason == "no way"


def test_an_answer_to_another_plan_is_refused(rbkit: Rbkit, waiting: Journal) -> None:
    """Whoever says which plan was seen does not approve another one."""
    code, _, err = rbkit("approve", "--digest", "sha256:0000")
    assert code == 1
    assert "not for the one you have seen" in err
    right = waiting.state.approvals[0].request.digest
    assert rbkit("approve", "--digest", right[7:19])[0] == 0


def test_more_people_are_needed(rbkit: Rbkit, waiting: Journal) -> None:
    """The first of two approvals says that another person must; the same person again is refused."""
    waiting.append(ev.ApprovalEnded(digest=waiting.state.approvals[0].request.digest, result="void", why=""))
    ask(waiting, needed=2)
    assert "1 more person(s) must" in rbkit("approve")[1]
    code, _, err = rbkit("approve")
    assert code == 1
    assert "has approved this plan already" in err


def test_who_may_not_is_refused(rbkit: Rbkit, waiting: Journal) -> None:
    """Somebody whom the environment file does not name cannot approve."""
    waiting.append(ev.ApprovalEnded(digest=waiting.state.approvals[0].request.digest, result="void", why=""))
    ask(waiting, approvers=["os:nobody-here"])
    code, _, err = rbkit("approve")
    assert code == 1
    assert "may not approve here; os:nobody-here may" in err


def test_nothing_waits(rbkit: Rbkit, home: Path) -> None:
    """A run that waits for nothing takes no answer, and no confirmation."""
    opened(home)
    assert "does not wait for an approval" in rbkit("approve")[2]
    assert "does not wait for an approval" in rbkit("deny")[2]
    assert "is open, so confirmed is not possible" in rbkit("confirm")[2]


def test_a_dead_run_takes_no_answer(rbkit: Rbkit, waiting: Journal) -> None:
    """Nobody would act on it."""
    waiting.store.release(f"{waiting.run}/h/1/abcdef")
    assert "Nobody runs" in rbkit("approve")[2]


@pytest.mark.parametrize(("typed", "code"), [("checkout-2", 0), ("checkout-1", 2), ("", 2)])
def test_at_a_terminal_the_target_is_typed(
    rbkit: Rbkit, waiting: Journal, monkeypatch: pytest.MonkeyPatch, typed: str, code: int
) -> None:
    """Enter alone, or another name, approves nothing."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda *words, **more: typed)
    assert rbkit("approve")[0] == code
    assert bool(waiting.state.approvals[0].given) == (code == 0)
    assert rbkit("approve", "--yes")[0] == (1 if code == 0 else 0)


def test_confirm(rbkit: Rbkit, home: Path) -> None:
    """What was done may stand, says whoever confirms."""
    journal = opened(home)
    journal.append(ev.ConfirmationRequested(until="2036-01-01T00:00:00+00:00"))
    code, out, _ = rbkit("confirm", "-m", "fine")
    assert code == 0
    assert "✓ confirmed" in out
    assert journal.state.state == "open"
