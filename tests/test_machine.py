"""The lifecycle table."""

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import raises

from rbkit.errors import IllegalMove
from rbkit.machine import CLOSED, FINISHED, FROM_OUTSIDE, TABLE, after, allows

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


def reachable(start: str, without: str = "") -> set[str]:
    """Follow every move from a state, but one."""
    seen, todo = {start}, [start]
    while todo:
        row = TABLE[todo.pop()]
        for state in {to for move, to in row.items() if move != without} - seen - {""}:
            seen.add(state)
            todo.append(state)
    return seen


FORWARD = {"open", "checking", "acting", "waiting", "concluded", "confirming"}
BACKWARD = {"failing", "rolling_back", "rolled_back", "stuck"}


def test_what_is_over_is_only_ever_rolled_back():
    """From a closed or sealed run only sealing and a rollback lead on, and a rollback never leads forward again."""
    assert {move for move, to in TABLE[CLOSED].items() if to} == {"record_sealed", "roll_back"}
    assert {move for move, to in TABLE["sealed"].items() if to} == {
        "record_sealed",
        "input_refused",
        "breaker_set",
        "token_told",
        "roll_back",
    }
    back = reachable("failing", without="fallback_chosen")  # which the fold refuses in a run that is being ended
    assert back == BACKWARD | FINISHED | {"stranded"}


def test_only_a_step_or_a_rollback_changes_the_world():
    """A change is legal in a step, also while another of its changes waits for an approval, and during a rollback."""
    assert [state for state in TABLE if allows(state, "change_intended")] == ["acting", "waiting", "rolling_back"]
    assert [state for state in TABLE if allows(state, "lease_awaited")] == ["acting", "waiting", "rolling_back"]
    assert [state for state in TABLE if allows(state, "step_started")] == ["open"]


def test_a_result_can_be_written_wherever_its_change_can_be_begun():
    """What is under way is never left without its result because the run waits for somebody."""
    for ended in ("change_done", "change_failed", "change_unknown"):
        assert [state for state in TABLE if allows(state, ended)] == ["acting", "waiting", "rolling_back"]
    assert [state for state in TABLE if allows(state, "rolling_ended")] == ["acting", "waiting"]


def test_only_on_its_way_forward_a_run_is_resumed():
    """A run that loses its process is interrupted on its way forward and stranded on its way back."""
    assert {state for state in TABLE if TABLE[state].get("interruption") == "interrupted"} == FORWARD
    assert {state for state in TABLE if TABLE[state].get("interruption") == "stranded"} == BACKWARD
    assert {state for state in TABLE if allows(state, "resume")} == FORWARD | {"interrupted"}
    assert {TABLE[state]["resume"] for state in FORWARD | {"interrupted"}} == {"open"}


def test_a_run_without_a_process_does_nothing_until_somebody_takes_it_over():
    """Interrupted or stranded, it cannot be written to, not even be asked to stop; only taken over."""
    assert set(TABLE["interrupted"]) == {"resume", "roll_back", "abandon"}
    assert set(TABLE["stranded"]) == {"roll_back", "abandon"}


def test_every_run_that_began_and_is_not_over_can_be_rolled_back_or_abandoned():
    """Nothing is left behind: both lead to where it can be rolled back and closed."""
    for state in set(TABLE) - {"new"} - FINISHED:
        assert (TABLE[state]["roll_back"], TABLE[state]["abandon"]) == ("failing", "failing")
    assert [state for state in TABLE if allows(state, "roll_back") and not allows(state, "abandon")] == [
        "closed",
        "sealed",
    ]


def test_only_a_step_asks_and_what_waits_is_answered_or_lost():
    """A request is made in the middle of a step; an answer is legal only while one is open, which then goes on."""
    assert [state for state in TABLE if allows(state, "approval_requested")] == ["acting"]
    for answer in ("approval_given", "approval_denied"):
        assert [state for state in TABLE if allows(state, answer)] == ["waiting"]
    assert TABLE["waiting"]["approval_ended"] == "acting"
    assert not allows("waiting", "step_done")


def test_a_confirmation_comes_after_everything_and_before_the_end():
    """Only an open run asks for one, and while it waits it is neither resolved nor changed."""
    assert [state for state in TABLE if allows(state, "confirmation_requested")] == ["open"]
    assert [state for state in TABLE if allows(state, "confirmed")] == ["confirming"]
    assert TABLE["confirming"]["confirmed"] == "open"
    assert not {"run_closed_resolved", "step_started", "check_started"} & set(TABLE["confirming"])


def test_from_outside_a_run_is_only_stopped_approved_denied_and_confirmed():
    """What an onlooker may write begins nothing and ends nothing but the wait for a confirmation."""
    assert {"cancel_requested", "approval_given", "approval_denied", "confirmed"} == FROM_OUTSIDE
    moved = {(state, move) for state in TABLE for move in FROM_OUTSIDE if TABLE[state].get(move)}
    assert moved == {("confirming", "confirmed")}


def test_a_step_is_replaced_only_when_it_failed():
    """Then the run is open again, for the step that stands in."""
    assert [(state, TABLE[state]["fallback_chosen"]) for state in TABLE if allows(state, "fallback_chosen")] == [
        ("failing", "open")
    ]


def test_only_an_open_run_can_be_resolved():
    """Nothing that failed, waits or was rolled back can be called resolved."""
    assert [state for state in TABLE if allows(state, "run_closed_resolved")] == ["open"]


def test_after_a_rollback_and_after_the_end_nothing_is_read_or_done():
    """Once rolled back a run can only be closed, without success, or change hands; stuck, it can try once more."""
    lost = {f"run_closed_{outcome}" for outcome in ("failed", "aborted", "unknown", "needs_operator", "rolled_back")}
    hands = {"interruption", "roll_back", "abandon"}
    assert set(TABLE["rolled_back"]) == lost | hands | {"cancel_requested"}
    assert set(TABLE["stuck"]) <= lost | hands | {"cancel_requested", "rollback_started"}
    assert set(TABLE[CLOSED]) == {"cancel_requested", "record_sealed", "roll_back"}


def test_the_table_knows_exactly_the_moves_that_events_make(every_event):
    """No event is without a place in the life of a run, and no row waits for an event that cannot come."""
    assert {event.move for event in every_event("x")} == {move for row in TABLE.values() for move in row}
