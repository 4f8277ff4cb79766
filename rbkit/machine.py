"""The life of a run as a table: (state, move) → state. Everything else obeys it.

Reads like h11's table: a move that is not in the row of the present state is illegal, and says so in one sentence.
"""

from rbkit.errors import IllegalMove

__all__ = ["CLOSED", "FINISHED", "TABLE", "after", "allows"]

_READS = ("observed", "decided", "asked", "answered", "cancel_requested")
_CHANGES = ("change_intended", "change_done", "change_failed", "change_unknown", "change_planned")
_SKIPS = ("step_skipped", "check_skipped")
_LOST = ("run_closed_failed", "run_closed_aborted", "run_closed_unknown", "run_closed_needs_operator")

CLOSED = "closed"
FINISHED = frozenset({"closed", "sealed"})


def _row(stay: tuple[str, ...], **moves: str) -> dict[str, str]:
    """Build a row: moves that change the state, and moves that leave it (marked by an empty target)."""
    return dict.fromkeys(stay, "") | moves


TABLE: dict[str, dict[str, str]] = {
    "new": _row((), run_opened="open", input_refused="sealed"),
    "open": _row(
        (*_READS, *_SKIPS),
        check_started="checking",
        step_started="acting",
        decided_not_applicable="concluded",
        decided_needs_operator="failing",
        rollback_started="rolling_back",
        run_closed_resolved=CLOSED,
        run_closed_not_applicable=CLOSED,
        **dict.fromkeys(_LOST, CLOSED),
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
    ),
    "acting": _row(
        (*_READS, *_CHANGES),
        approval_requested="waiting",
        step_done="open",
        step_planned="open",
        step_failed="failing",
        step_unknown="failing",
    ),
    "waiting": _row(
        ("cancel_requested",),
        step_failed="failing",
        step_unknown="failing",
    ),
    "concluded": _row(
        (*_READS, *_SKIPS),
        decided_not_applicable="",
        decided_needs_operator="failing",
        rollback_started="rolling_back",
        run_closed_not_applicable=CLOSED,
        **dict.fromkeys(_LOST, CLOSED),
    ),
    "failing": _row(
        (*_READS, *_SKIPS),
        rollback_started="rolling_back",
        **dict.fromkeys(_LOST, CLOSED),
    ),
    "rolling_back": _row(
        (*_READS, *_CHANGES),
        rollback_ended="rolled_back",
        rollback_incomplete="stuck",
    ),
    "rolled_back": _row(
        ("cancel_requested",),
        run_closed_rolled_back=CLOSED,
        **dict.fromkeys(_LOST, CLOSED),
    ),
    "stuck": _row(
        ("cancel_requested",),
        rollback_started="rolling_back",
        run_closed_needs_operator=CLOSED,
        run_closed_unknown=CLOSED,
    ),
    "closed": _row(("cancel_requested",), record_sealed="sealed"),
    "sealed": _row((), record_sealed="sealed", input_refused="sealed"),
}

_SAYINGS = {
    "new": "has not been opened",
    "open": "is open",
    "checking": "is measuring a check",
    "acting": "is in the middle of a step",
    "waiting": "waits for an approval",
    "concluded": "has found that nothing is to be done",
    "failing": "has failed and must be rolled back or closed",
    "rolling_back": "is being rolled back",
    "rolled_back": "has been rolled back",
    "stuck": "could not be rolled back completely",
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
