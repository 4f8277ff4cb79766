"""The lifecycle table."""

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import raises

from rbkit.errors import IllegalMove
from rbkit.machine import CLOSED, FINISHED, TABLE, after, allows

CALM = settings(derandomize=True, deadline=None, database=None)
MOVES = sorted({move for row in TABLE.values() for move in row} | {"step_undone", "", "run_opened ", "RUN_OPENED"})


@CALM
@given(st.lists(st.sampled_from(MOVES), max_size=40))
def test_a_run_moves_only_as_the_table_says(moves):
    """Of any sequence of moves each either leads where its row says, or is refused and changes nothing."""
    state = "new"
    for move in moves:
        if allows(state, move):
            assert after(state, move) == (TABLE[state][move] or state)
            state = after(state, move)
        else:
            with raises(IllegalMove) as caught:
                after(state, move)
            assert move not in TABLE[state]
            assert move.replace("_", " ") in caught.value.what


@CALM
@given(st.sampled_from(sorted(TABLE)), st.sampled_from(MOVES))
def test_an_illegal_move_is_one_sentence_that_names_state_and_move(state, move):
    """The sentence says where the run stands, in words of its own for each state, and what is not possible."""
    if allows(state, move):
        return
    with raises(IllegalMove) as caught:
        after(state, move)
    what = caught.value.what
    assert what.startswith("The run ")
    assert what.endswith(f", so {move.replace('_', ' ')} is not possible.")
    assert what.count(".") == 1


def test_every_state_has_its_own_words():
    """No two states are told apart by nothing."""
    said = set()
    for state in TABLE:
        with raises(IllegalMove) as caught:
            after(state, "no_such_move")
        said.add(caught.value.what)
    assert len(said) == len(TABLE)


def test_every_state_can_be_reached_and_leads_to_the_end():
    """No row of the table is dead, and from every state the run can be closed or sealed."""
    assert reachable("new") == set(TABLE)
    assert all(reachable(state) & FINISHED for state in TABLE)


def reachable(start: str) -> set[str]:
    """Follow every move from a state."""
    seen, todo = {start}, [start]
    while todo:
        row = TABLE[todo.pop()]
        for state in set(row.values()) - seen - {""}:
            seen.add(state)
            todo.append(state)
    return seen


def test_what_is_over_stays_over():
    """From a closed run only sealing leads on; from a sealed one nothing does; nothing reopens it."""
    assert reachable(CLOSED) == FINISHED
    assert reachable("sealed") == {"sealed"}
    assert {move for move, to in TABLE[CLOSED].items() if to} == {"record_sealed"}


def test_only_a_step_or_a_rollback_changes_the_world():
    """A change is legal in the middle of a step and during a rollback, nowhere else."""
    assert [state for state in TABLE if allows(state, "change_intended")] == ["acting", "rolling_back"]
    assert [state for state in TABLE if allows(state, "step_started")] == ["open"]


def test_only_an_open_run_can_be_resolved():
    """Nothing that failed, waits or was rolled back can be called resolved."""
    assert [state for state in TABLE if allows(state, "run_closed_resolved")] == ["open"]


def test_after_a_rollback_and_after_the_end_nothing_is_read_or_done():
    """Once rolled back a run can only be closed, without success; stuck, it can also be rolled back again."""
    lost = {f"run_closed_{outcome}" for outcome in ("failed", "aborted", "unknown", "needs_operator", "rolled_back")}
    assert set(TABLE["rolled_back"]) == lost | {"cancel_requested"}
    assert set(TABLE["stuck"]) <= lost | {"cancel_requested", "rollback_started"}
    assert set(TABLE[CLOSED]) == {"cancel_requested", "record_sealed"}


def test_the_table_knows_exactly_the_moves_that_events_make(every_event):
    """No event is without a place in the life of a run, and no row waits for an event that cannot come."""
    assert {event.move for event in every_event("x")} == {move for row in TABLE.values() for move in row}
