"""The lines of a journal."""

import pytest

from rbkit import events as ev
from rbkit.entries import Entry, intact, read_entry, read_event, seal_entry
from rbkit.errors import JournalBroken


def test_every_event_reads_back_from_its_entry(every_event):
    """An event that was written as JSON is the same event when it is read."""
    for event in every_event("é\n\x00"):
        entry = seal_entry("r", 0, "", "", "", event, "")
        assert read_event(read_entry(entry.model_dump(mode="json"), 0)) == event
        assert intact(entry)


def test_the_hash_covers_the_letter_not_only_the_meaning():
    """An edit that Python calls equal (1.0 to 1 or True) breaks the entry all the same."""
    entry = seal_entry("r", 0, "", "", "", ev.StepPlanned(step="s", seconds=1.0), "")
    for other in (1, True, "1.0"):
        assert not intact(entry.model_copy(update={"event": entry.event | {"seconds": other}}))


def test_an_entry_that_holds_no_json_is_not_intact():
    """A damaged row, such as one with bytes in it, is told, not raised."""
    assert not intact(Entry.model_construct(run=b"\xff", seq=0, at="", actor="", source="", event={}, prev="", hash=""))


@pytest.mark.parametrize(
    "event", [{}, {"kind": "step_flown"}, {"kind": "cancel_requested"}, {"kind": "step_done", "x": 1}]
)
def test_an_unknown_event_is_named_by_its_place(event):
    """What this version does not know is refused, with the entry's number."""
    with pytest.raises(JournalBroken, match="Entry 4 holds no known event") as caught:
        read_event(Entry(run="r", seq=4, at="", actor="", source="", event=event, prev="", hash=""))
    assert caught.value.seq == 4


@pytest.mark.parametrize("data", [None, [], "x", {}, {"run": "r"}])
def test_what_is_no_entry_is_named_by_its_place(data):
    """A damaged line of an embedded journal is refused, with its number."""
    with pytest.raises(JournalBroken, match="Entry 2 cannot be read") as caught:
        read_entry(data, 2)
    assert caught.value.seq == 2


@pytest.mark.parametrize("seq", [True, 1.0, "1", -1])
def test_a_place_is_a_whole_number(seq):
    """Nothing that only looks like a place is taken for one."""
    data = seal_entry("r", 1, "", "", "", ev.CancelRequested(reason=""), "").model_dump(mode="json")
    with pytest.raises(JournalBroken):
        read_entry(data | {"seq": seq}, 1)
