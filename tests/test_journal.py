"""Append, chain, fold: one bookkeeping, and no edit goes unnoticed."""

import copy
import getpass
import os
import threading
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rbkit import events as ev
from rbkit.clock import FakeClock
from rbkit.entries import Entry, seal_entry
from rbkit.errors import Fenced, IllegalMove, JournalBroken, NotFound, RefusedInput, StoreUnavailable
from rbkit.fold import RunState
from rbkit.journal import AUDIT, Journal, existing, operator, verify
from rbkit.stores.memory import MemoryStore

RUN = "20260101-000000-aaaaaa"
CALM = settings(derandomize=True, deadline=None, database=None)
CHOICES = st.lists(st.integers(0, 1000), min_size=1, max_size=12)
LONGER = st.lists(st.integers(0, 1000), min_size=3, max_size=12)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FIRST = ev.InputRefused(runbook="b", field="f", why="w")


def broken(entries: list[Entry]) -> int:
    """Verify a journal that must be broken, and return the place that is named."""
    with pytest.raises(JournalBroken) as caught:
        verify(entries)
    assert f"Entry {caught.value.seq} " in caught.value.what
    return caught.value.seq


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the path of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in leaves(item, (*path, key)))]


def others(value: Any) -> list[Any]:
    """List values that differ from a JSON value, by as little as can be."""
    near: list[Any] = {
        str: lambda: [value + "x", value[:-1], value.swapcase(), None],
        bool: lambda: [not value, int(value)],
        int: lambda: [value + 1, -1, float(value), str(value)],
        float: lambda: [value + 0.5, -value, int(value), str(value)],
        list: lambda: [[*value, 0], value[1:], value[::-1]],
        dict: lambda: [value | {"more": 1}, dict(list(value.items())[1:])],
        type(None): lambda: [0, "", False],
    }[type(value)]()
    return [other for other in near if repr(other) != repr(value)]


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """Put another value at a path."""
    result = copy.deepcopy(value)
    node = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = other
    return result


@CALM
@given(CHOICES, TEXT)
def test_a_legal_journal_verifies(walk, choices, text):
    """Whatever texts it holds, a journal as it was written is sound, and so is every beginning of it."""
    entries = walk(choices, text)
    assert len(verify(entries).timeline) == len(entries)
    for length in range(len(entries)):
        verify(entries[:length])


@settings(CALM, max_examples=400)
@given(CHOICES, TEXT, st.data())
def test_any_edit_of_any_field_is_noticed_and_named(walk, choices, text, data):
    """One changed field, however small the change and however deep it lies, breaks the chain exactly there."""
    entries = walk(choices, text)
    place = data.draw(st.integers(0, len(entries) - 1))
    fields = entries[place].model_dump(mode="json")
    path = data.draw(st.sampled_from([found for found in leaves(fields) if found and found != ("event",)]))
    value = fields
    for key in path:
        value = value[key]
    assume(others(value))
    edited = replaced(fields, path, data.draw(st.sampled_from(others(value))))
    assert broken([*entries[:place], Entry.model_construct(**edited), *entries[place + 1 :]]) == place


@CALM
@given(LONGER, st.data())
def test_a_cut_in_the_middle_is_noticed_at_its_first_place(walk, choices, data):
    """Entries that are missing before others are noticed where they are missing."""
    entries = walk(choices)
    first = data.draw(st.integers(0, len(entries) - 2))
    next_ = data.draw(st.integers(first + 1, len(entries) - 1))
    assert broken(entries[:first] + entries[next_:]) == first


@CALM
@given(LONGER, st.data())
def test_a_swap_and_a_duplicate_are_noticed(walk, choices, data):
    """Entries in another order, or twice, are noticed at the first that stands wrong."""
    entries = walk(choices)
    a = data.draw(st.integers(0, len(entries) - 2))
    b = data.draw(st.integers(a + 1, len(entries) - 1))
    swapped = list(entries)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    assert broken(swapped) == a
    assert broken([*entries[: a + 1], *entries[a:]]) == a + 1


@CALM
@given(LONGER, st.data())
def test_a_forged_entry_is_noticed(walk, choices, data):
    """An entry put in is noticed: at once when it hangs nowhere, at the next one when it was chained on well."""
    entries = walk(choices)
    place = data.draw(st.integers(1, len(entries) - 1))
    loose = seal_entry(RUN, place, "", "", "", ev.CancelRequested(reason=""), "sha256:0")
    assert broken([*entries[:place], loose, *entries[place:]]) == place
    chained = entries[place].model_copy(update={"actor": "os:mallory"})
    chained = seal_entry(
        RUN, place, chained.at, "os:mallory", "cli", ev.StepSkipped(step="x", why=""), entries[place - 1].hash
    )
    assert broken([*entries[:place], chained, *entries[place + 1 :], *entries[place:]]) in {place, place + 1}


@CALM
@given(LONGER, st.data())
def test_an_entry_of_another_run_is_noticed(walk, choices, data):
    """Runs cannot be spliced, and a journal cannot be renamed."""
    entries, other = walk(choices), walk(choices, run="20260101-000000-bbbbbb")
    place = data.draw(st.integers(1, len(entries) - 1))
    assert broken([*entries[:place], *other[place:]]) == place
    assert broken([entry.model_copy(update={"run": "x"}) for entry in entries]) == 0


def test_an_entry_of_another_run_is_noticed_even_if_it_was_chained_on_well():
    """Hash and predecessor that fit do not make another run's entry this run's."""
    first = seal_entry(RUN, 0, "", "", "", FIRST, "")
    assert broken([first, seal_entry("other", 1, "", "", "", FIRST, first.hash)]) == 1


def test_an_entry_that_the_lifecycle_forbids_is_noticed():
    """Hashes that fit do not help: what cannot have happened there is named."""
    first = seal_entry(RUN, 0, "", "", "", FIRST, "")
    wrong = seal_entry(RUN, 1, "", "", "", ev.StepDone(step="s", result=None, seconds=1), first.hash)
    assert broken([first, wrong]) == 1
    stranger = first.model_copy(update={"event": {"kind": "step_flown"}})
    assert broken([stranger]) == 0


def test_a_journal_cut_at_its_end_is_noticed_by_whoever_saw_more(rig):
    """A process that saw the entries refuses to go on when the store has lost the last ones, and names the first."""
    journal = rig.open().journal
    for word in "ab":
        journal.append(ev.CancelRequested(reason=word))
    del rig.store.journals[RUN][1:]
    with pytest.raises(JournalBroken, match="Entry 1 was there and is gone from the store") as caught:
        journal.append(ev.CancelRequested(reason="c"))
    assert caught.value.seq == 1
    assert len(rig.store.read(RUN)) == 1


def test_a_journal_cut_at_its_end_has_no_seal_or_another_last_hash(rig):
    """Cut before the seal there is no seal, and the last hash is another: what a record compares."""
    journal = rig.open().journal
    journal.append(ev.RunClosed(outcome="failed", reason="r"))
    journal.append(ev.RecordSealed(notebook="n", cells=[]))
    entries = journal.entries
    assert verify(entries).sealed is not None
    assert verify(entries[:-1]).sealed is None
    assert len({entry.hash for entry in entries}) == 3


def test_an_entry_says_when_who_and_which_process(rig):
    """Every entry carries the clock's time in UTC, the actor and the source, and hangs on the one before."""
    journal = rig.open().journal
    rig.clock.advance(1.5)
    entry = journal.append(ev.CancelRequested(reason="enough"))
    assert (entry.seq, entry.at, entry.actor, entry.source) == (
        1,
        "2026-01-01T00:00:01.500000+00:00",
        "os:test",
        "kernel",
    )
    assert entry.prev == journal.entries[0].hash
    assert journal.state.cancel == "enough"


def test_two_processes_see_each_others_entries(rig):
    """Whoever writes second writes after what the first wrote, without being told."""
    kernel, supervisor = rig.open().journal, rig.journal(source="supervisor")
    supervisor.append(ev.CancelRequested(reason="stop"))
    kernel.append(ev.Answered(name="q", answer="y", how="operator"))
    assert [entry.source for entry in supervisor.entries] == ["kernel", "supervisor", "kernel"]
    assert verify(supervisor.entries) == kernel.state == supervisor.state


class Racing(MemoryStore):
    """A store in which somebody else is quicker, once."""

    rival: Journal | None = None

    def append(self, entry: Entry) -> bool:
        """Let the rival write first."""
        rival, self.rival = self.rival, None
        if rival:
            rival.append(ev.CancelRequested(reason="first"))
        return super().append(entry)


def test_whoever_loses_the_race_for_a_place_takes_the_next_one(rig):
    """A place that was taken in between is not overwritten; the entry is sealed anew after it."""
    rig.store = Racing()
    journal = rig.open().journal
    rig.store.rival = rig.journal(source="cli")
    assert journal.append(ev.CancelRequested(reason="second")).seq == 2
    assert [event["reason"] for event in rig.events("cancel_requested")] == ["first", "second"]
    verify(journal.entries)


def test_whoever_loses_the_race_checks_again_whether_it_is_still_legal(rig):
    """What was legal before the other wrote and is not any more is refused and not written."""
    rig.store = Racing()
    journal = rig.open().journal
    rival = rig.journal(source="supervisor")
    rig.store.rival = rival
    rival.append = lambda event: Journal.append(rival, ev.RunClosed(outcome="aborted", reason="lost"))
    with pytest.raises(IllegalMove, match="is over"):
        journal.append(ev.StepSkipped(step="s", why=""))
    assert rig.kinds() == ["run_opened", "run_closed"]


def test_a_guard_sees_everything_that_stands_before_the_event(rig):
    """What another has written a moment ago is seen by the guard, and what it refuses is not written."""
    rig.store = Racing()
    journal = rig.open().journal
    seen: list[str] = []

    def guard(state: RunState) -> None:
        seen.append(state.cancel)
        if state.cancel:
            raise NotFound("Enough.")

    journal.append(ev.StepSkipped(step="a", why=""), guard)
    rig.store.rival = rig.journal(source="cli")
    with pytest.raises(NotFound, match="Enough"):
        journal.append(ev.StepSkipped(step="b", why=""), guard)
    assert seen == ["", "", "first"] and rig.kinds()[1:] == ["step_skipped", "cancel_requested"]


@pytest.mark.parametrize(
    "event",
    [
        ev.StepStarted(step="s", intent="", risk="low", timeout_s=1, deadline=""),
        ev.RunClosed(outcome="rolled_back", reason=""),
        ev.ChangeDone(key="k", how="applied", after={}, seconds=1),
    ],
)
def test_what_is_illegal_is_not_written(rig, event):
    """An event is legal or it does not get into the journal, which can still be read afterwards."""
    journal = rig.started().journal
    with pytest.raises(IllegalMove):
        journal.append(event)
    assert rig.kinds() == ["run_opened", "step_started"]
    assert rig.journal().state.state == "acting"


@pytest.mark.parametrize("more", [{"result": object, "seconds": 1}, {"result": None, "seconds": float("nan")}])
def test_what_is_not_json_is_not_written(rig, more):
    """A value that has no canonical form is refused before anything is written."""
    journal = rig.started().journal
    with pytest.raises(RefusedInput, match="cannot be written to the journal"):
        journal.append(ev.StepDone(step="work", **more))
    assert rig.kinds() == ["run_opened", "step_started"]


def test_reading_on_checks_what_others_wrote(rig):
    """A process does not take over an entry that somebody forged after what it has read."""
    journal = rig.open().journal
    forged = seal_entry(RUN, 1, "", "", "", ev.CancelRequested(reason=""), "sha256:0")
    rig.store.append(forged)
    with pytest.raises(JournalBroken, match="Entry 1 does not follow the entry before it"):
        _ = journal.state
    assert Journal(rig.store, "none", "cli").entries == []


def taken_over(rig, session: int, purpose: ev.Purpose = "resume") -> Journal:
    """Take the run over as one more process does that has looked at it as an onlooker."""
    journal = Journal(rig.store, RUN, "cli", actor="os:other", clock=rig.clock, session=0)
    journal.append(ev.SessionBegan(session=session, purpose=purpose, host="h", pid=2))
    return journal


@pytest.mark.parametrize(
    "event",
    [
        ev.StepDone(step="work", result=None, seconds=1),
        ev.Asked(name="q", prompt="q", options=["y"], default="y"),
        ev.CancelRequested(reason="interrupted"),
        ev.RunClosed(outcome="failed", reason=""),
    ],
    ids=lambda event: event.kind,
)
@pytest.mark.parametrize("purpose", ["resume", "roll_back", "abandon", "interruption"])
def test_whoever_has_lost_the_run_writes_nothing_any_more(rig, event, purpose):
    """A process of an older session is fenced even if it has not looked since, and also when it asks for a stop."""
    old = rig.started().journal
    taken_over(rig, 2, purpose)
    kinds = rig.kinds()
    for _ in range(2):
        with pytest.raises(Fenced, match=r"was taken over \(session 2, this is 1\)"):
            old.append(event)
    assert rig.kinds() == kinds


def test_whoever_takes_a_run_over_writes_in_its_name_until_the_next_one_does(rig):
    """The newest session writes, and each one before it is fenced; tokens may leave numbers out."""
    first = rig.open().journal
    second = taken_over(rig, 2)
    second.append(ev.StepSkipped(step="a", why=""))
    third = taken_over(rig, 7)
    third.append(ev.StepSkipped(step="b", why=""))
    for journal in (first, second):
        with pytest.raises(Fenced, match="session 7"):
            journal.append(ev.StepSkipped(step="c", why=""))
    assert (third.session, third.state.session, list(third.state.steps)) == (7, 7, ["a", "b"])


@pytest.mark.parametrize("session", [1, 2, 3])
def test_a_session_that_is_not_newer_does_not_begin(rig, session):
    """A lower or equal number is refused, and the process stays what it was."""
    rig.open()
    taken_over(rig, 3)
    late = Journal(rig.store, RUN, "cli", clock=rig.clock, session=0)
    with pytest.raises(IllegalMove, match=f"Session {session} is not newer than session 3"):
        late.append(ev.SessionBegan(session=session, purpose="resume", host="h", pid=3))
    assert late.session == 0 and rig.journal().state.session == 3


def test_of_two_that_begin_a_session_at_once_one_loses(rig):
    """Whoever is second by a moment sees the other's session before its own is written."""
    rig.store = Racing()
    rig.open()
    rig.store.rival = rival = Journal(rig.store, RUN, "cli", clock=rig.clock, session=0)
    begun = ev.SessionBegan(session=2, purpose="resume", host="h", pid=2)
    rival.append = lambda event: Journal.append(rival, begun)
    with pytest.raises(IllegalMove, match="Session 2 is not newer"):
        Journal(rig.store, RUN, "cli", clock=rig.clock, session=0).append(begun.model_copy(update={"pid": 3}))
    assert rig.kinds() == ["run_opened", "session_began"] and rival.session == 2


def test_an_onlooker_says_only_what_anybody_may_say(rig):
    """Whoever does not hold the run may ask it to stop, but neither act in its name nor end it."""
    rig.started()
    onlooker = existing(rig.store, RUN, "cli", clock=rig.clock)
    for event in (ev.StepDone(step="work", result=None, seconds=1), ev.RunClosed(outcome="failed", reason="")):
        with pytest.raises(IllegalMove, match="does not hold the run, so (step done|run closed failed) is not"):
            onlooker.append(event)
    onlooker.append(ev.CancelRequested(reason="enough"))
    assert rig.kinds() == ["run_opened", "step_started", "cancel_requested"]


class Away(MemoryStore):
    """A store that is away for a while, and may have written nevertheless."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock, self.until, self.writes, self.tries = clock, 0.0, False, 0

    def _answer(self) -> None:
        self.tries += 1
        if self.clock.monotonic() < self.until:
            raise StoreUnavailable("The store is away.")

    def append(self, entry: Entry) -> bool:
        """Write, or not, and answer, or not."""
        written = super().append(entry) if self.writes else False
        self._answer()
        return written or super().append(entry)

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read, when it is there."""
        self._answer()
        return super().read(run, start)


@pytest.mark.parametrize("writes", [False, True])
def test_a_store_that_is_away_for_ten_seconds_costs_nothing_but_time(rig, writes):
    """An entry is written once, whether the tries that failed have written it or not, and reading waits, too."""
    store = rig.store = Away(rig.clock)
    journal = rig.open().journal
    store.until, store.writes = 10.0, writes
    entry = journal.append(ev.CancelRequested(reason="enough"))
    assert 10 <= rig.clock.monotonic() < 12 and store.tries > 5
    store.until = rig.clock.monotonic() + 10
    assert journal.state.cancel == "enough"
    assert [found.hash for found in journal.entries][1:] == [entry.hash]
    assert verify(rig.store.read(RUN)).cancel == "enough"


class Hurried(MemoryStore):
    """A store that writes, lets somebody else write after it, and then does not answer; once."""

    rival: Journal | None = None

    def append(self, entry: Entry) -> bool:
        """Write; answer unless the rival has written meanwhile."""
        written = super().append(entry)
        rival, self.rival = self.rival, None
        if rival:
            rival.append(ev.CancelRequested(reason="second"))
            raise StoreUnavailable("The store is away.")
        return written


def test_another_may_write_after_an_entry_that_was_in_doubt(rig):
    """An entry that stands although its try failed stays where it is, though another was written after it."""
    store = rig.store = Hurried()
    journal, store.rival = rig.open().journal, rig.journal(source="cli")
    assert journal.append(ev.CancelRequested(reason="first")).seq == 1
    assert [event["reason"] for event in rig.events("cancel_requested")] == ["first", "second"]
    assert journal.append(ev.CancelRequested(reason="third")).seq == 3
    verify(journal.entries)


@pytest.mark.parametrize("writes", [False, True])
def test_a_store_that_stays_away_is_said_to_be_away(rig, writes):
    """After fifteen seconds it is an error; what was in doubt is seen as soon as the store is back."""
    store = rig.store = Away(rig.clock)
    journal = rig.open().journal
    store.until, store.writes = 1e9, writes
    with pytest.raises(StoreUnavailable):
        journal.append(ev.CancelRequested(reason="first"))
    assert 15 <= rig.clock.monotonic() < 20
    store.until = 0.0
    journal.append(ev.CancelRequested(reason="second"))
    assert [event["reason"] for event in rig.events("cancel_requested")] == ["first", "second"][not writes :]
    verify(journal.entries)


@pytest.mark.parametrize("place", ["before it was folded", "after it was folded", "when it was written"])
def test_an_interrupt_at_any_place_leaves_the_journal_whole(rig, monkeypatch, place):
    """Ctrl-C while an entry is written leaves neither half an entry nor one that counts twice."""
    rig.store = Interrupting()
    journal = rig.started().journal
    call = ev.Call(capability="c", action="a", target="t")
    event = ev.ChangeIntended(key="k", step="work", call=call, before={}, after={}, inverse=None)
    apply, left = RunState.apply, ["once"]

    def interrupted(state: RunState, entry: Entry, event: ev.Event) -> None:
        if place == "after it was folded":
            apply(state, entry, event)
        if left:
            left.pop()
            raise KeyboardInterrupt
        apply(state, entry, event)

    with monkeypatch.context() as patch:
        if place == "when it was written":
            rig.store.interrupts = True
        else:
            patch.setattr(RunState, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(event)
    journal.append(ev.ChangeDone(key="k", how="applied", after={}, seconds=1.0))
    assert [entry.seq for entry in journal.entries] == [0, 1, 2, 3]
    assert journal.state == verify(rig.store.read(RUN)) == rig.journal().state
    assert rig.kinds()[2:] == ["change_intended", "change_done"]


class Interrupting(MemoryStore):
    """A store that is interrupted once, just after it has written."""

    interrupts = False

    def append(self, entry: Entry) -> bool:
        """Write, and be interrupted."""
        written = super().append(entry)
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt
        return written


def test_a_reader_that_was_interrupted_reads_on(rig, monkeypatch):
    """Ctrl-C while others' entries are read does not leave a state in which one counts twice."""
    journal, other = rig.open().journal, rig.journal(source="cli")
    for word in "ab":
        other.append(ev.Answered(name=word, answer=word, how="operator"))
    apply, left = RunState.apply, [1, 2]

    def interrupted(state: RunState, entry: Entry, event: ev.Event) -> None:
        apply(state, entry, event)
        if left and left.pop() == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunState, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.refresh()
    assert journal.state == verify(rig.store.read(RUN))
    assert [moment.event.kind for moment in journal.state.timeline] == ["run_opened", "answered", "answered"]


def test_two_threads_may_share_a_journal(rig):
    """Entries of two threads of one process, and of another process, all stand, each once."""
    journal, other = rig.open().journal, rig.journal(source="cli")
    start = threading.Barrier(3)

    def write(shared: Journal, name: str) -> None:
        start.wait(10)
        for number in range(30):
            shared.append(ev.Answered(name=f"{name}{number}", answer=name, how="operator"))
            assert f"{name}{number}" in shared.known.answers

    threads = [threading.Thread(target=write, args=(j, n)) for j, n in ((journal, "a"), (journal, "b"), (other, "c"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(verify(rig.store.read(RUN)).answers) == 90
    assert journal.state == other.state == verify(journal.entries)


def test_the_actor_is_whoever_is_at_the_keyboard(monkeypatch):
    """Without a name given, it is the operating system's user, also one that has no name there."""
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    assert Journal(MemoryStore(), RUN, "cli").actor == operator() == "os:alice"

    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert operator() == f"os:uid-{os.getuid()}"


def test_an_actor_with_broken_bytes_is_written_down_readably():
    """A name from the environment that is no UTF-8 is escaped: no store could hold it otherwise."""
    journal = Journal(MemoryStore(), RUN, "cli", actor="al\udcffice", clock=FakeClock())
    assert journal.append(FIRST).actor == "al\\udcffice"


def test_a_run_is_found_by_its_id_a_part_of_it_or_as_the_last():
    """The whole id, its beginning or end, or `last`; the audit journal is no run."""
    store = MemoryStore()
    for run in ("20260101-000000-aaaaaa", "20260101-000000-bbbbbb", "20260202-000000-cccccc", AUDIT):
        Journal(store, run, "cli", actor="a").append(FIRST)
    assert existing(store, "20260202", "cli", actor="os:me").actor == "os:me"
    found = {
        text: existing(store, text, "cli").run[-6:]
        for text in ("last", "bbbbbb", "20260101-000000-a", "20260202-000000-cccccc")
    }
    assert found == {
        "last": "cccccc", "bbbbbb": "bbbbbb", "20260101-000000-a": "aaaaaa", "20260202-000000-cccccc": "cccccc"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("20260101", "2 runs begin with"), ("2027", "no run '2027'"), ("", "no run ''"), (AUDIT, "no run")],
)
def test_no_run_or_several_are_told_apart(text, message):
    """A text that fits none, or more than one, is refused with what was found."""
    store = MemoryStore()
    for run in ("20260101-000000-aaaaaa", "20260101-000000-bbbbbb", AUDIT):
        Journal(store, run, "cli", actor="a").append(FIRST)
    with pytest.raises(NotFound, match=message):
        existing(store, text, "cli")
    with pytest.raises(NotFound, match="no run 'last'"):
        existing(MemoryStore(), "last", "cli")
