"""How a run that did not succeed ends: roll back what was done, last first, and close. From the journal alone."""

import asyncio
from typing import Any

from rbkit import events as ev
from rbkit.errors import AdapterError, Fenced, StepUnknown, StoreUnavailable
from rbkit.fold import RunState
from rbkit.gate import Gate
from rbkit.journal import Journal
from rbkit.policy import outcome_of, to_undo
from rbkit.progress import Change
from rbkit.values import human

__all__ = ["ENDING", "abandon", "end", "question", "refuse_stranger", "roll_back", "standing"]

ENDING = frozenset({"rolling_back", "rolled_back", "stuck"})
"""States of a run that is being rolled back or closed."""

UNDO_S = 45.0
"""The longest that one attempt to undo a change may take, seconds."""
_ATTEMPTS = 3
_AGAIN_S = 1.0
_AGAIN = (AdapterError, Fenced, StepUnknown, StoreUnavailable, TimeoutError)
"""What may be another time: the world is read again before anything is done."""


async def end(gate: Gate, why: str, *, anyway: bool = False) -> RunState:
    """End a run that cannot go on; any process with the environment file can do it.

    Args:
        gate: A live gate on the run's journal.
        why: What went wrong, in one sentence.
        anyway: Roll back whatever the contract says of it: a person asked for it.

    Returns:
        The closed run.

    Raises:
        Fenced: Another process has taken the run over; it ends it.
    """
    journal = gate.journal
    if journal.state.finished:
        return journal.state
    _end_step(journal, why)
    if _must_roll_back(journal.state, anyway):
        await roll_back(gate, why)
    return _close(journal, why)


def abandon(journal: Journal, why: str) -> RunState:
    """Close a run and leave everything as it is.

    Args:
        journal: The run's journal; this process has taken the run over.
        why: Why, in one sentence.

    Returns:
        The closed run; unknown while a change is in doubt, else aborted.
    """
    changes = journal.state.changes
    doubt = any(change.in_doubt and not (changes.get(change.undoes) or change).undone for change in changes.values())
    journal.append(ev.RunClosed(outcome="unknown" if doubt else "aborted", reason=_reason(journal.state, why)))
    return journal.state


def refuse_stranger(journal: Journal) -> None:
    """Refuse to go on for a run that another process has taken over: it ends it, and requests to stop are for it.

    Raises:
        Fenced: This process belongs to an older session.
    """
    if journal.state.session != journal.session:
        raise Fenced(f"The run {journal.run} was taken over; this process stops.")


def question(step: str) -> str:
    """Word the question that is asked when a step has failed and others could be made in its place."""
    return f"{step} failed. What instead?"


def standing(state: RunState) -> list[str]:
    """List the changes that stand, or may stand, last first; what the run itself took back does not."""
    return [str(change.call) for change in to_undo(state.changes.values())]


def _close(journal: Journal, why: str) -> RunState:
    state = journal.state
    outcome = outcome_of(state)
    unasked = outcome in {"failed", "aborted"} and _strategy(state) == "ask" and not state.rollback and standing(state)
    if unasked or (outcome in {"failed", "rolled_back"} and _alternatives(state)):
        outcome = "needs_operator"
    journal.append(ev.RunClosed(outcome=outcome, reason=_reason(state, why)))
    return journal.state


def _reason(state: RunState, why: str) -> str:
    """Add to the reason what a person still has to know: what was left, what stands, and what could be done instead."""
    said = [why]
    if others := _alternatives(state):
        said.append(f"Instead could be done: {', '.join(others)}.")
    if state.rollback and state.rollback.by_hand:
        said.append(f"Rollback incomplete; by hand: {'; '.join(state.rollback.by_hand)}.")
    elif not state.rollback and (stands := standing(state)):
        said.append(f"Not rolled back; what was done stands: {', '.join(stands)}.")
    return why if said == [why] else ". ".join([said[0].rstrip("."), " ".join(said[1:])])


def _alternatives(state: RunState) -> list[str]:
    """List what could be made in place of a step that failed, if nobody was asked."""
    failed = [name for name, step in state.steps.items() if step.state in {"failed", "replaced"}]
    if state.cancel or not any(state.steps[name].state == "failed" for name in failed):
        return []
    steps = {step["name"]: step for step in _steps(state)}
    names = [other for name in failed if name in steps for other in steps[name].get("otherwise", [])]
    asked = any(question(name) in state.answers for name in failed)
    return [] if asked else [f"{name} (risk {steps[name]['risk']})" for name in names if name not in state.steps]


def _steps(state: RunState) -> list[dict[str, Any]]:
    return list(state.opened.contract.get("steps", [])) if state.opened else []


def _strategy(state: RunState) -> str:
    return str(state.opened.contract.get("rollback", "on_failure")) if state.opened else "on_failure"


def _must_roll_back(state: RunState, anyway: bool) -> bool:
    """Whether something is to be undone; what an ended rollback could not undo stays."""
    if state.state in {"rolling_back", "rolled_back"}:
        return state.state == "rolling_back"
    wanted = _strategy(state) in {"on_failure", "always"} or state.state == "confirming"
    return anyway or (wanted and bool(standing(state)))


def _end_step(journal: Journal, why: str) -> None:
    """End the step that was running when its process was lost."""
    step = journal.state.running_step
    if step is None:
        return
    doubt = any(change.in_doubt for change in journal.state.changes.values() if change.step == step.name)
    kind = ev.StepUnknown if doubt else ev.StepFailed
    journal.append(kind(step=step.name, error="Lost", why=why, seconds=0.0))


async def roll_back(gate: Gate, why: str) -> None:
    """Undo what was really done, last first; one that fails does not stop the others.

    Args:
        gate: A live gate on the run's journal.
        why: Why it is undone.
    """
    journal = gate.journal
    todo = to_undo(journal.state.changes.values())
    if journal.state.state != "rolling_back":
        journal.append(
            ev.RollbackStarted(
                why=why,
                undo=[change.key for change in todo if change.inverse],
                irreversible=[str(change.call) for change in todo if not change.inverse],
            )
        )
    missing = await gate.targets.hold_all([change.call.target for change in todo], UNDO_S)
    attempts = {change.key: 1 if change.call.target in missing else _ATTEMPTS for change in todo}
    results = {change.key: await _undone(gate, change, attempts[change.key]) for change in todo}
    journal.append(_ended(journal.state, results))


def _ended(state: RunState, results: dict[str, tuple[str, str]]) -> ev.RollbackEnded:
    left = {key: why for key, (result, why) in results.items() if result == "left"}
    return ev.RollbackEnded(
        undone=[change.key for change in state.changes.values() if change.undone],
        left=list(left),
        in_doubt=[key for key, (result, _) in results.items() if result == "in doubt"],
        by_hand=[_by_hand(state, state.changes[key], why) for key, why in left.items()],
    )


def _by_hand(state: RunState, change: Change, why: str) -> str:
    """Tell a person how to undo what could not be undone: the inverse, the step's own words, what stood in the way."""
    words = next((step.get("undo", "") for step in _steps(state) if step["name"] == change.step), "")
    hint = f" ({words.rstrip('.')})" if words else ""
    return f"{change.inverse}{hint}, as {change.call} stands: {why.rstrip('.')}"


async def _undone(gate: Gate, change: Change, attempts: int) -> tuple[str, str]:
    """Undo one change: undone, left, in doubt, or stays (irreversible and certainly made); and why."""
    attempt = 0
    while True:
        attempt += 1
        try:
            async with asyncio.timeout(UNDO_S):
                return await _once(gate, change), ""
        except Exception as error:  # noqa: BLE001 - whatever an adapter raises, the others are undone
            refuse_stranger(gate.journal)
            if attempt >= attempts or not isinstance(error, _AGAIN):
                return ("left" if change.inverse is not None else "in doubt"), _said(error, gate.journal.known)
        await gate.journal.clock.sleep(_AGAIN_S * 2 ** (attempt - 1))


def _said(error: Exception, state: RunState) -> str:
    """Say why an attempt failed."""
    if isinstance(error, TimeoutError):
        waits = f"; it waited for {state.waits_for}" if state.awaits else ""
        return f"not done within {human(UNDO_S)}{waits}"
    return getattr(error, "what", "") or f"{type(error).__name__}: {error}".rstrip(": ")


async def _once(gate: Gate, change: Change) -> str:
    if change.inverse is not None:
        await gate.undo(change)
        return "undone"
    return "stays" if not change.in_doubt or await gate.settle(change) else "in doubt"
