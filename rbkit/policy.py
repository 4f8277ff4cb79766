"""Pure policy: which risk needs whose approval, what has to be undone, and how a run ends."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rbkit.events import Outcome, Phase
from rbkit.fold import RunState
from rbkit.progress import Change, Step

__all__ = [
    "APPROVALS", "EXIT_CODES", "PARTIAL", "ApprovalRules", "approvals_needed", "exit_code", "lacking", "outcome_of",
    "on_partial_evidence", "partial_evidence", "to_undo",
]  # fmt: skip

APPROVALS: Mapping[str, int] = {"low": 0, "medium": 0, "high": 1, "irreversible": 0}

PARTIAL: Mapping[str, str] = {"low": "go", "medium": "approve", "high": "stop", "irreversible": "stop"}
"""What becomes of a change by its risk when it was decided on partial evidence, unless the environment file says so."""

EXIT_CODES: Mapping[Outcome, int] = {
    "resolved": 0,
    "not_applicable": 0,
    "failed": 1,
    "rolled_back": 3,
    "needs_operator": 4,
    "unknown": 6,
    "aborted": 130,
}
DENIED = 5
"""The exit code of a run in which somebody denied a change."""


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """What an environment file says of approvals.

    Args:
        needed: How many people by risk, and for `irreversible` changes.
        approvers: Who may approve, for example `os:alice` or `*`.
        own: Whether one may approve a run that one has started.
        wait_s: How long a run waits for them, seconds.
        valid_s: How long an approval may be used after it was granted, seconds.
        digest: The digest of the environment file as it is now: an approval does not outlive an edit of it.
        partial: By risk, what becomes of a change that was decided on partial evidence: go, approve or stop.
    """

    needed: Mapping[str, int] = field(default_factory=dict)
    approvers: tuple[str, ...] = ("*",)
    own: bool = False
    wait_s: float = 600.0
    valid_s: float = 600.0
    digest: str = ""
    partial: Mapping[str, str] = field(default_factory=dict)


def partial_evidence(state: RunState) -> list[str]:
    """List what was missing from the evidence of the decisions that stand: the newest of each rule set."""
    newest = {decision.event.rules: decision.event for decision in state.decisions}
    return list(dict.fromkeys(text for event in newest.values() for text in event.partial))


def on_partial_evidence(risk: str, *, final: bool, environment: Mapping[str, str]) -> str:
    """Say what becomes of a change that was decided on partial evidence.

    Args:
        risk: low, medium or high.
        final: Whether it cannot be undone.
        environment: What the environment file says by risk; missing risks take the default.

    Returns:
        `go`, `approve` or `stop`: the strictest that applies.
    """
    risks = [risk, "irreversible"] if final else [risk]
    return max((environment.get(name, PARTIAL[name]) for name in risks), key=["go", "approve", "stop"].index)


def exit_code(state: RunState) -> int:
    """Say with which code a command ends whose run is over: the outcome's, or 5 when somebody denied a change of it."""
    if state.denied and state.outcome in {"aborted", "rolled_back", "failed", "needs_operator"}:
        return DENIED
    return EXIT_CODES[state.outcome]  # type: ignore[index]


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
    undone = [f"step {name} is not done" for name in steps if not _over(state.steps.get(name))]
    missing = [
        f"{phase} {name} did not pass"
        for name, phase in checks
        if name not in state.checks or state.checks[name].verdict != "PASS"
    ]
    return undone + missing


def _over(step: Step | None) -> bool:
    """Whether a step needs nothing more: done, planned, replaced by another, or an alternative that was not needed."""
    return step is not None and step.state in {"done", "planned", "replaced", "skipped"}


def outcome_of(state: RunState) -> Outcome:
    """Say how a run that did not succeed ends.

    Args:
        state: The run, after its rollback if it had one.

    Returns:
        unknown while something may have acted, needs_operator while something is left to undo, aborted when
        somebody stopped it or denied a change, rolled_back when changes were undone or somebody had asked for that
        and nothing that can be undone is left, else failed or needs_operator.
    """
    if any(change.in_doubt and not change.undone for change in state.changes.values() if not change.undoes):
        return "unknown"
    if state.state == "stuck":
        return "needs_operator"
    if state.cancel or state.denied:
        return "aborted"
    if state.rollback and (state.rollback.undone or (state.purpose == "roll_back" and not state.rollback.left)):
        return "rolled_back"
    return "needs_operator" if _asks_for_operator(state) else "failed"


def _asks_for_operator(state: RunState) -> bool:
    """Whether the run stopped because a person must look: no evidence, or an approval that nobody gave."""
    unclear = any(check.verdict in {"INCONCLUSIVE", "ERROR"} for check in state.checks.values())
    unanswered = any(approval.result in {"expired", ""} for approval in state.approvals)
    return unclear or unanswered or any(d.event.ends == "needs_operator" for d in state.decisions)
