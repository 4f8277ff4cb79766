"""Pure policy: which risk needs whose approval, what has to be undone, and how a run ends."""

from collections.abc import Iterable, Mapping

from rbkit.events import Outcome, Phase
from rbkit.fold import Change, RunState

__all__ = ["APPROVALS", "EXIT_CODES", "approvals_needed", "lacking", "outcome_of", "to_undo"]

APPROVALS: Mapping[str, int] = {"low": 0, "medium": 0, "high": 1}

EXIT_CODES: Mapping[Outcome, int] = {
    "resolved": 0,
    "not_applicable": 0,
    "failed": 1,
    "rolled_back": 3,
    "needs_operator": 4,
    "unknown": 6,
    "aborted": 130,
}


def approvals_needed(risk: str, contract: int, environment: Mapping[str, int]) -> int:
    """Return how many people must approve a step: the stricter of contract and environment.

    Args:
        risk: low, medium or high.
        contract: What the step itself asks for.
        environment: Approvals by risk from the environment file; missing risks take the default.
    """
    return max(contract, environment.get(risk, APPROVALS[risk]))


def to_undo(changes: Iterable[Change]) -> list[Change]:
    """Choose the changes that a rollback has to undo, last first.

    A change that was certainly not made, that already held or that is undone needs nothing. A change that
    a later one of the same run has taken back needs nothing either, and neither does the later one.

    Args:
        changes: The run's changes in the order in which they were intended.

    Returns:
        Changes that were made or are in doubt.
    """
    standing: list[Change] = []
    for change in changes:
        if change.acted and not change.undoes and not _takes_back(change, standing):
            standing.append(change)
    return standing[::-1]


def _takes_back(later: Change, standing: list[Change]) -> bool:
    """Strike the newest standing change of the same target if this one is its inverse; tell whether it was."""
    for earlier in reversed(standing):
        if (earlier.call.capability, earlier.call.target) == (later.call.capability, later.call.target):
            if later.in_doubt or earlier.in_doubt or earlier.inverse != later.call:
                return False
            standing.remove(earlier)
            return True
    return False


def lacking(state: RunState, steps: Iterable[str], checks: Iterable[tuple[str, Phase]]) -> list[str]:
    """List what a run still lacks to be called resolved; success is what the journal says.

    Args:
        state: The run.
        steps: The contract's steps.
        checks: The contract's checks with their phase.

    Returns:
        One phrase each; empty when every step is done and every check passed.
    """
    undone = [f"step {name} is not done" for name in steps if name not in state.steps or not _over(state, name)]
    missing = [
        f"{phase} {name} did not pass"
        for name, phase in checks
        if name not in state.checks or state.checks[name].verdict != "PASS"
    ]
    return undone + missing


def _over(state: RunState, step: str) -> bool:
    return state.steps[step].state in {"done", "planned"}


def outcome_of(state: RunState) -> Outcome:
    """Say how a run that did not succeed ends.

    Args:
        state: The run, after its rollback if it had one.

    Returns:
        unknown while something may have acted, needs_operator while something is left to undo, aborted when
        somebody stopped it, rolled_back when changes were undone, else failed or needs_operator.
    """
    if any(change.in_doubt and not change.undone for change in state.changes.values() if not change.undoes):
        return "unknown"
    if state.state == "stuck":
        return "needs_operator"
    if state.cancel:
        return "aborted"
    if state.rollback and state.rollback.undone:
        return "rolled_back"
    return "needs_operator" if _asks_for_operator(state) else "failed"


def _asks_for_operator(state: RunState) -> bool:
    """Whether the run stopped because a person must look: no evidence, or an approval that is missing."""
    unclear = any(check.verdict in {"INCONCLUSIVE", "ERROR"} for check in state.checks.values())
    return unclear or bool(state.waits_for) or any(d.event.ends == "needs_operator" for d in state.decisions)
