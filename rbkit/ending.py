"""How a run that did not succeed ends: roll back what was done, last first, and close. From the journal alone."""

import asyncio

from rbkit import events as ev
from rbkit.fold import Change, RunState
from rbkit.gate import Gate
from rbkit.journal import Journal
from rbkit.policy import outcome_of, to_undo

__all__ = ["end", "roll_back"]

UNDO_S = 45.0
"""The longest that undoing one change may take, seconds."""


async def end(gate: Gate, why: str) -> RunState:
    """End a run that cannot go on; any process with the environment file can do it.

    Args:
        gate: A live gate on the run's journal.
        why: What went wrong, in one sentence.

    Returns:
        The closed run.
    """
    journal = gate.journal
    if journal.state.finished:
        return journal.state
    _end_step(journal, why)
    if _must_roll_back(journal.state):
        await roll_back(gate, why)
    journal.append(ev.RunClosed(outcome=outcome_of(journal.state), reason=why))
    return journal.state


def _must_roll_back(state: RunState) -> bool:
    """Whether something is to be undone; what an ended rollback could not undo stays."""
    return state.state == "rolling_back" or (state.state != "rolled_back" and bool(to_undo(state.changes.values())))


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
    results = {change.key: await _undone(gate, change) for change in todo}
    journal.append(
        ev.RollbackEnded(
            undone=[change.key for change in journal.state.changes.values() if change.undone],
            left=[key for key, result in results.items() if result == "left"],
            in_doubt=[key for key, result in results.items() if result == "in doubt"],
        )
    )


async def _undone(gate: Gate, change: Change) -> str:
    """Undo one change: undone, left, in doubt, or stays (irreversible and certainly made)."""
    try:
        async with asyncio.timeout(UNDO_S):
            if change.inverse is not None:
                await gate.undo(change)
                return "undone"
            return "stays" if not change.in_doubt or await gate.settle(change) else "in doubt"
    except Exception:  # noqa: BLE001 - whatever an adapter raises, the others are undone
        return "left" if change.inverse is not None else "in doubt"
