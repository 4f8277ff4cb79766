"""Record and replay."""

from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit import events as ev
from rbkit.entries import seal_entry
from rbkit.errors import ReplayMiss
from rbkit.events import Call
from rbkit.stores.memory import MemoryStore
from rbkit.tape import Tape, keep, pack_frame, unpack_frame
from rbkit.values import canonical, digest

CALM = settings(derandomize=True, deadline=None, database=None)
DRAIN = Call(capability="balancer", action="drain", target="c-2")
OTHER = Call(capability="balancer", action="ready", target="c-2")
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def tape(*events: ev.Event, store: MemoryStore | None = None) -> Tape:
    """Make a tape of events."""
    entries = [seal_entry("r", place, "", "", "", event, "") for place, event in enumerate(events)]
    return Tape(store or MemoryStore(), entries)


def observed(answer: str, name: str = "memory", **arguments) -> ev.Observed:
    """Say that something was observed."""
    return ev.Observed(name=name, source="s", query="q", arguments=arguments, rows=1, answer=answer, seconds=1)


def begun(key: str, planned: bool = False, call: Call = DRAIN) -> ev.Event:
    """Say that a change was intended or planned."""
    kind = ev.ChangePlanned if planned else ev.ChangeIntended
    return kind(key=key, step="s", call=call, before={}, after={}, inverse=None)


def repeated(key: str, first: str) -> ev.ChangeIntended:
    """Say that a change was intended again."""
    return ev.ChangeIntended(key=key, step="s", call=DRAIN, before={}, after={}, inverse=None, repeats=first)


@CALM
@given(st.lists(st.tuples(MOMENTS, st.none() | st.integers(-(10**9), 10**9).map(lambda n: n / 64),
                          st.text(st.characters(codec="utf-8"), max_size=8)), max_size=5))  # fmt: skip
def test_a_table_comes_back_from_the_tape_as_it_was(rows):
    """Times to the microsecond with their zone, numbers with NaN, hostile texts: the same columns, types and values."""
    frame = pd.DataFrame(
        {
            "time": pd.to_datetime([row[0] for row in rows], utc=True).astype("datetime64[ns, UTC]"),
            "value": pd.Series([row[1] for row in rows], dtype="float64"),
            "instance": pd.Series([row[2] for row in rows], dtype="str"),
        }
    )
    packed = pack_frame(frame)
    assert canonical(packed)
    back = unpack_frame(packed)
    pd.testing.assert_frame_equal(back.astype({"instance": "str"}), frame)


def test_log_lines_come_back_with_their_attributes():
    """A table without numbers stays one, and mappings stay mappings."""
    frame = pd.DataFrame(
        {"time": pd.to_datetime(["2026-01-01"], utc=True), "level": ["error"], "attributes": [{"a": {"b": 1}}]}
    )
    back = unpack_frame(pack_frame(frame))
    assert "value" not in back
    assert back["attributes"][0] == {"a": {"b": 1}}


def test_an_answer_lies_under_its_digest():
    """The same answer is kept once, whatever the order of its keys."""
    store = MemoryStore()
    name = keep(store, {"b": 1, "a": 2})
    assert keep(store, {"a": 2, "b": 1}) == name == digest({"a": 2, "b": 1})
    assert store.tape == {name: b'{"a":2,"b":1}'}


def test_answers_come_in_the_order_of_the_recording():
    """The same question gets its first answer first; another question does not use one up."""
    store = MemoryStore()
    answers = [observed(keep(store, n), service="x") for n in (1, 2)]
    other = observed(keep(store, 3), service="y")
    recorded = tape(*answers, other, store=store)
    assert recorded.answer("memory", {"service": "x"}) == (answers[0], 1)
    assert recorded.answer("memory", {"service": "y"}) == (other, 3)
    assert recorded.answer("memory", {"service": "x"}) == (answers[1], 2)


def test_a_question_that_was_not_recorded_names_the_nearest():
    """A miss says what was asked and which recording is like it; nothing is made up."""
    recorded = tape(observed("", service="x"))
    with pytest.raises(ReplayMiss, match=r"no further answer to memry with {'service': 'x'}. Did you mean 'memory'\?"):
        recorded.answer("memry", {"service": "x"})
    with pytest.raises(ReplayMiss, match=r"no further answer to memory with {'service': 'z'}"):
        recorded.answer("memory", {"service": "z"})


@pytest.mark.parametrize("data", [None, b"2"])
def test_an_answer_that_is_gone_or_was_changed_is_a_miss(data):
    """What lies under a digest must have it."""
    store = MemoryStore()
    name = keep(store, 1)
    store.tape = {name: data} if data else {}
    with pytest.raises(ReplayMiss, match="is missing from the tape or was changed"):
        tape(observed(name), store=store).answer("memory", {})


def test_a_change_is_answered_with_what_was_recorded_of_it():
    """Its intent and its result, each once; one that never held has no result."""
    done = ev.ChangeDone(key="k", how="applied", after={"state": "drain"}, seconds=1)
    first, second = begun("k"), begun("l", planned=True)
    recorded = tape(first, done, second)
    assert recorded.change(DRAIN) == (first, done)
    assert recorded.change(DRAIN) == (second, None)


def test_a_change_that_was_not_recorded_names_what_is_left():
    """A miss names the call and up to three that the recorded run still made, or none."""
    calls = [Call(capability="balancer", action="drain", target=f"c-{n}") for n in range(5)]
    recorded = tape(*(begun(str(n), call=call) for n, call in enumerate(calls)))
    with pytest.raises(
        ReplayMiss, match=r"did not make balancer.drain\(c-9\); what it still made: .*c-0.*c-1.*c-2\)\."
    ):
        recorded.change(Call(capability="balancer", action="drain", target="c-9"))
    with pytest.raises(ReplayMiss, match="what it still made: none"):
        tape().change(DRAIN)


def test_of_several_attempts_the_last_is_the_answer():
    """A change that a resumed run made again is one change; its place is that of the first attempt."""
    first, other, again, third = begun("k"), begun("o", call=OTHER), repeated("l", "k"), repeated("m", "k")
    done = ev.ChangeDone(key="m", how="applied", after={"state": "drain"}, seconds=1)
    failed = ev.ChangeFailed(key="k", error="NotMade", why="")
    recorded = tape(first, other, failed, again, third, done)
    assert recorded.change(OTHER) == (other, None)
    assert recorded.change(DRAIN) == (third, done)
    with pytest.raises(ReplayMiss, match="what it still made: none"):
        recorded.change(DRAIN)


def test_what_a_rollback_did_is_no_answer():
    """The inverse that a rollback applied is not a change that the notebook made, though the call is the same."""
    undone = ev.ChangeIntended(key="u", step="s", call=OTHER, before={}, after={}, inverse=None, undoes="k")
    with pytest.raises(ReplayMiss, match="what it still made: balancer.drain"):
        tape(begun("k"), undone).change(OTHER)


def test_a_question_is_answered_as_it_was():
    """Whoever answered, the replay says the same; a question that was not asked names the nearest."""
    recorded = tape(ev.Answered(name="Go on?", answer="yes", how="operator"))
    assert recorded.said("Go on?") == "yes"
    with pytest.raises(ReplayMiss, match=r"did not ask 'Go on'. Did you mean 'Go on\?'"):
        recorded.said("Go on")
    with pytest.raises(ReplayMiss, match="did not ask 'x'"):
        tape().said("x")
