"""The promises of the port Store: every store keeps them alike."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbkit import events as ev
from rbkit.clock import FakeClock
from rbkit.entries import Entry, read_event, seal_entry
from rbkit.journal import Journal, verify
from rbkit.ports import Store
from rbkit.stores.memory import MemoryStore
from rbkit.stores.sqlite import SqliteStore

RUN = "20260101-000000-aaaaaa"
WRITER = """
import sys
from pathlib import Path
from rbkit import events as ev
from rbkit.journal import Journal
from rbkit.stores.sqlite import SqliteStore

home, run, name, count = sys.argv[1:]
store = SqliteStore(Path(home))
print("ready", flush=True)
sys.stdin.readline()
journal = Journal(store, run, "cli", actor=name)
for number in range(int(count)):
    journal.append(ev.InputRefused(runbook=name, field=str(number), why="w"))
    store.keep("sha256:shared", b"one answer")
"""


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each store in turn, empty."""
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "home")
    yield made
    made.close()


def entry(seq: int, prev: str = "", *, run: str = RUN, text: str = "w") -> Entry:
    """Make an entry."""
    return seal_entry(run, seq, "2026", "os:a", "kernel", ev.InputRefused(runbook="b", field="f", why=text), prev)


def test_what_was_written_is_read_in_order(store):
    """Entries come back equal, in order, from any place on; another run's do not come with them."""
    first = entry(0)
    second = entry(1, first.hash)
    assert [store.append(item) for item in (first, second, entry(0, run="other"))] == [True] * 3
    assert store.read(RUN) == [first, second]
    assert store.read(RUN, 1) == [second]
    assert store.read(RUN, 2) == []
    assert store.read("none") == []


def test_a_place_is_taken_once(store):
    """Whoever comes second to a place is told so, and what stands there stays."""
    assert store.append(entry(0, text="first"))
    assert not store.append(entry(0, text="second"))
    assert [item.event["why"] for item in store.read(RUN)] == ["first"]


def test_a_journal_has_no_holes(store):
    """A place whose predecessor is missing is refused, so a cut journal cannot be written on."""
    assert not store.append(entry(1))
    assert store.append(entry(0))
    assert not store.append(entry(2))
    assert len(store.read(RUN)) == 1


def test_runs_are_listed_the_newest_first(store):
    """Ids sort by time; a run is there once its first entry is, and a refused entry makes none."""
    assert store.runs() == []
    for run in ("20260101-000000-aaaaaa", "20260301-000000-aaaaaa", "20260201-000000-aaaaaa"):
        store.append(entry(0, run=run))
    store.append(entry(1, run="20260401-000000-aaaaaa"))
    assert store.runs() == ["20260301-000000-aaaaaa", "20260201-000000-aaaaaa", "20260101-000000-aaaaaa"]


def test_answers_are_kept_under_their_name_once(store):
    """Any bytes come back as they were; the first answer under a name stays; an unknown name is None."""
    store.keep("a", bytes(range(256)))
    store.keep("a", b"other")
    store.keep("empty", b"")
    assert [store.fetch(name) for name in ("a", "empty", "none")] == [bytes(range(256)), b"", None]


def test_any_event_with_any_text_comes_back_with_its_hash(store, every_event):
    """Hostile texts, broken characters and line ends in an event do not break its chain."""
    for number, event in enumerate(every_event("'; DROP TABLE journal; --\x00\ud800\r\n😀\u202e")):
        written = seal_entry(f"run-{number}", 0, "", "", "", event, "")
        assert store.append(written)
        assert store.read(f"run-{number}") == [written]
        assert read_event(store.read(f"run-{number}")[0]) == event


def test_two_journals_on_one_store_take_turns(store):
    """Two writers that do not know of each other never take the same place, and the chain holds."""
    writers = [Journal(store, RUN, "cli", actor=f"os:{n}", clock=FakeClock()) for n in range(3)]
    for number in range(30):
        writers[number % 3].append(ev.InputRefused(runbook="b", field=str(number), why="w"))
    assert [item.event["field"] for item in store.read(RUN)] == [str(number) for number in range(30)]
    assert len(verify(store.read(RUN)).timeline) == 30


def test_closing_twice_is_fine(store):
    """What was given back is not given back again."""
    store.close()
    store.close()


def test_several_processes_write_to_one_file_at_once(tmp_path):
    """Four processes make the file and append at once: no place is taken twice, none is lost, the chain holds."""
    home, count = tmp_path / "home", 15
    command = [sys.executable, "-c", WRITER, str(home), RUN]
    writers = [
        subprocess.Popen([*command, f"os:{n}", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    try:
        assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 4
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    found = SqliteStore(home)
    entries = found.read(RUN)
    verify(entries)
    assert [item.seq for item in entries] == list(range(4 * count))
    for number in range(4):
        own = [int(item.event["field"]) for item in entries if item.actor == f"os:{number}"]
        assert own == list(range(count))
    assert found.fetch("sha256:shared") == b"one answer"
    found.close()
