"""The life of a run as a table: (state, move) → state. Everything else obeys it.

Reads like h11's table: a move that is not in the row of the present state is illegal, and says so in one sentence.
"""

from rbkit.errors import IllegalMove

__all__ = ["CLOSED", "FINISHED", "FROM_OUTSIDE", "TABLE", "after", "allows"]

_READS = ("observed", "decided", "asked", "answered", "cancel_requested")
_CHANGES = ("change_intended", "change_done", "change_failed", "change_unknown", "change_planned", "lease_awaited")
_SKIPS = ("step_skipped", "check_skipped")
_LOST = ("run_closed_failed", "run_closed_aborted", "run_closed_unknown", "run_closed_needs_operator")

CLOSED = "closed"
FINISHED = frozenset({"closed", "sealed"})
FROM_OUTSIDE = frozenset({"cancel_requested", "approval_given", "approval_denied", "confirmed"})
"""What a process may write that does not hold the run."""

_AUDIT = dict.fromkeys(("input_refused", "breaker_set", "token_told"), "sealed")
"""What the audit journal holds."""
_FORWARD = {"interruption": "interrupted", "resume": "open", "roll_back": "failing", "abandon": "failing"}
_BACKWARD = {"interruption": "stranded", "roll_back": "failing", "abandon": "failing"}


def _row(stay: tuple[str, ...], **moves: str) -> dict[str, str]:
    """Build a row: moves that change the state, and moves that leave it (marked by an empty target)."""
    return dict.fromkeys(stay, "") | moves


TABLE: dict[str, dict[str, str]] = {
    "new": _row((), run_opened="open", **_AUDIT),
    "open": _row(
        (*_READS, *_SKIPS),
        check_started="checking",
        step_started="acting",
        decided_not_applicable="concluded",
        decided_needs_operator="failing",
        confirmation_requested="confirming",
        rollback_started="rolling_back",
        run_closed_resolved=CLOSED,
        run_closed_not_applicable=CLOSED,
        **dict.fromkeys(_LOST, CLOSED),
        **_FORWARD,
    ),
    "checking": _row(
        _READS,
        precondition_pass="open",
        precondition_fail="concluded",
        precondition_inconclusive="failing",
        precondition_error="failing",
        postcondition_pass="open",
        postcondition_fail="failing",
        postcondition_inconclusive="failing",
        postcondition_error="failing",
        rollback_started="rolling_back",
        **dict.fromkeys(_LOST, CLOSED),
        **_FORWARD,
    ),
    "acting": _row(
        (*_READS, *_CHANGES, "rolling_planned", "rolling_ended", "approval_ended"),
        approval_requested="waiting",
        step_done="open",
        step_planned="open",
        step_failed="failing",
        step_unknown="failing",
        **_FORWARD,
    ),
    "waiting": _row(
        (*_READS, *_CHANGES, "rolling_ended", "approval_given", "approval_denied"),
        approval_ended="acting",
        step_failed="failing",
        step_unknown="failing",
        **_FORWARD,
    ),
    "concluded": _row(
        (*_READS, *_SKIPS),
        decided_not_applicable="",
        decided_needs_operator="failing",
        rollback_started="rolling_back",
        run_closed_not_applicable=CLOSED,
        **dict.fromkeys(_LOST, CLOSED),
        **_FORWARD,
    ),
    "confirming": _row(
        ("cancel_requested",),
        confirmed="open",
        rollback_started="rolling_back",
        **dict.fromkeys(_LOST, CLOSED),
        **_FORWARD,
    ),
    "failing": _row(
        (*_READS, *_SKIPS),
        fallback_chosen="open",
        rollback_started="rolling_back",
        **dict.fromkeys(_LOST, CLOSED),
        **_BACKWARD,
    ),
    "rolling_back": _row(
        (*_READS, *_CHANGES),
        rollback_ended="rolled_back",
        rollback_incomplete="stuck",
        **_BACKWARD,
    ),
    "rolled_back": _row(
        ("cancel_requested",),
        run_closed_rolled_back=CLOSED,
        **dict.fromkeys(_LOST, CLOSED),
        **_BACKWARD,
    ),
    "stuck": _row(
        ("cancel_requested",),
        rollback_started="rolling_back",
        run_closed_needs_operator=CLOSED,
        run_closed_unknown=CLOSED,
        **_BACKWARD,
    ),
    "interrupted": _row((), resume="open", roll_back="failing", abandon="failing"),
    "stranded": _row((), roll_back="failing", abandon="failing"),
    "closed": _row(("cancel_requested",), record_sealed="sealed", roll_back="failing"),
    "sealed": _row((), record_sealed="sealed", roll_back="failing", **_AUDIT),
}

_SAYINGS = {
    "new": "has not been opened",
    "open": "is open",
    "checking": "is measuring a check",
    "acting": "is in the middle of a step",
    "waiting": "waits for an approval",
    "concluded": "has found that nothing is to be done",
    "confirming": "waits for a confirmation",
    "failing": "has failed and must be rolled back or closed",
    "rolling_back": "is being rolled back",
    "rolled_back": "has been rolled back",
    "stuck": "could not be rolled back completely",
    "interrupted": "has lost its process and must be resumed, rolled back or abandoned",
    "stranded": "has lost its process on its way out and must be rolled back or abandoned",
    "closed": "is over",
    "sealed": "is over and its record is sealed",
}


def allows(state: str, move: str) -> bool:
    """Tell whether a move is legal in a state."""
    return move in TABLE[state]


def after(state: str, move: str) -> str:
    """Return the state that follows.

    Args:
        state: A key of the table.
        move: An event's `move`.

    Raises:
        IllegalMove: The table has no such move; one sentence names both.
    """
    if not allows(state, move):
        raise IllegalMove(f"The run {_SAYINGS[state]}, so {move.replace('_', ' ')} is not possible.")
    return TABLE[state][move] or state
