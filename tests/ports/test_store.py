"""The promises of the port Store: every store keeps them alike."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.clock import FakeClock
from rbkit.entries import Entry, read_event, seal_entry
from rbkit.journal import Journal, verify
from rbkit.store import SLACK_S, Lease, Store
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
RACER = """
import sys
from datetime import datetime
from pathlib import Path
from rbkit.stores.sqlite import SqliteStore

home, holder, now, count = sys.argv[1:]
store = SqliteStore(Path(home))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(count)):
    lease = store.acquire(f"target:{number}", holder, datetime.fromisoformat(now), 60.0)
    print(number, lease.holder, lease.token, flush=True)
store.close()
"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TTL = 15.0


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


def test_an_entry_that_stands_counts_as_written(store):
    """Whoever does not know whether a try was written appends it again and is told: it stands, and it stands once."""
    first = entry(0)
    second = entry(1, first.hash)
    assert [store.append(item) for item in (first, first, second, first, second)] == [True] * 5
    assert not store.append(entry(1, first.hash, text="another"))
    assert not store.append(first.model_copy(update={"run": "other", "seq": 1}))
    assert store.read(RUN) == [first, second]


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


def at(seconds: float) -> datetime:
    """Tell the time a number of seconds after the start."""
    return NOW + timedelta(seconds=seconds)


def test_a_lease_that_nobody_ever_held_is_had_with_the_first_token(store):
    """Every name has its own tokens; the lease says for how long it was given."""
    assert store.leases() == []
    assert store.acquire("a", "x", NOW, TTL) == Lease("a", "x", 1, at(TTL), TTL)
    assert store.acquire("b", "y", NOW, 60.0) == Lease("b", "y", 1, at(60), 60.0)
    assert [lease.name for lease in store.leases()] == ["a", "b"]


def test_a_live_lease_of_somebody_else_stands(store):
    """Until its last moment nobody else gets it, and asking for it changes nothing."""
    mine = store.acquire("a", "x", NOW, TTL)
    for seconds in (0, 1, TTL - 0.000001):
        assert store.acquire("a", "y", at(seconds), 60.0) == mine
    assert store.leases() == [mine]


def test_asking_again_for_what_one_holds_prolongs_it(store):
    """A process may take what it has: the token stays, as nobody else can have acted meanwhile."""
    store.acquire("a", "x", NOW, TTL)
    assert store.acquire("a", "x", at(10), 20.0) == Lease("a", "x", 1, at(30), 20.0)
    assert store.leases() == [Lease("a", "x", 1, at(30), 20.0)]


@pytest.mark.parametrize("holder", ["x", "y"])
@pytest.mark.parametrize("seconds", [TTL, TTL + 1, 1e6])
def test_a_lapsed_lease_is_had_with_a_higher_token(store, holder, seconds):
    """Even whoever held it gets a new token: somebody else could have had it in between."""
    store.acquire("a", "x", NOW, TTL)
    assert store.acquire("a", holder, at(seconds), TTL) == Lease("a", holder, 2, at(seconds + TTL), TTL)


@pytest.mark.parametrize("holder", ["x", "y"])
def test_a_lease_that_was_given_back_is_free_at_once(store, holder):
    """Whoever comes next need not wait, and gets a higher token; until then nobody is said to hold it."""
    store.acquire("a", "x", NOW, TTL)
    store.release("x")
    assert store.leases() == []
    assert store.renew("x", NOW, TTL) == []
    assert store.acquire("a", holder, NOW, TTL).token == 2


@pytest.mark.parametrize("holder", ["x", "y"])
def test_a_clock_that_was_set_back_locks_nobody_out(store, holder):
    """A lease that ends later than it was ever given for is not live: else nobody could act until that day."""
    store.acquire("a", "x", NOW, TTL)
    assert store.acquire("a", holder, at(-3600), TTL) == Lease("a", holder, 2, at(TTL - 3600), TTL)


def test_renewing_prolongs_all_that_one_holds_and_nothing_else(store):
    """Also what has lapsed and nobody has taken; what others hold or took over stays as it is."""
    for name, holder in (("c", "x"), ("a", "x"), ("b", "y"), ("d", "x")):
        store.acquire(name, holder, NOW, TTL)
    store.acquire("d", "y", at(100), TTL)
    assert store.renew("x", at(200), 30.0) == [Lease(name, "x", 1, at(230), 30.0) for name in "ac"]
    assert store.renew("z", at(200), 30.0) == []
    assert [(lease.name, lease.holder, lease.until) for lease in store.leases()] == [
        ("a", "x", at(230)), ("b", "y", at(TTL)), ("c", "x", at(230)), ("d", "y", at(100 + TTL)),
    ]  # fmt: skip


def test_giving_back_leaves_what_others_hold(store):
    """Giving back is for one's own; doing it twice, or with nothing held, is fine."""
    store.acquire("a", "x", NOW, TTL)
    store.acquire("b", "y", NOW, TTL)
    for holder in ("x", "x", "z"):
        store.release(holder)
    assert [lease.name for lease in store.leases()] == ["b"]


def test_nobody_is_no_holder(store):
    """What was given back belongs to nobody: in nobody's name it is neither renewed nor given back."""
    store.acquire("a", "x", NOW, TTL)
    store.release("x")
    assert store.renew("", NOW, TTL) == []
    store.release("")
    assert store.leases() == []


def test_names_of_leases_are_taken_to_the_letter(store):
    """Hostile names are names: upper and lower case, blanks, wildcards and quotes are kept apart."""
    names = [
        "a",
        "A",
        "a ",
        " a",
        "%",
        "_",
        "'",
        "'; DROP TABLE lease; --",
        "é",
        "e\u0301",
        "a\x00b",
        "a\x00c",
        "😀",
        "",
    ]
    tokens = [store.acquire(name, f"by {name}", NOW, TTL).token for name in names]
    assert tokens == [1] * len(names)
    assert [lease.name for lease in store.leases()] == sorted(names)
    store.release("by A")
    assert {lease.name for lease in store.leases()} == {*names} - {"A"}


def test_times_are_kept_to_the_microsecond_whatever_their_zone(store):
    """An end comes back as the same moment; a lease is not shorter or longer for having been stored."""
    now = datetime(2026, 1, 1, 5, 30, 0, 123_457, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    given = store.acquire("a", "x", now, 0.1)
    assert store.leases() == [given]
    assert given.until == now + timedelta(microseconds=100_000)
    assert store.acquire("a", "y", now + timedelta(microseconds=99_999), 1.0).holder == "x"
    assert store.acquire("a", "y", now + timedelta(microseconds=100_000), 1.0).holder == "y"


class Model:
    """What is expected of leases, in the plainest words: for each name its holder, token, end and length."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, int, float, float]] = {}

    def acquire(self, name: str, holder: str, now: float, ttl: float) -> tuple[str, int]:
        """Say who holds a name then, and with which token."""
        owner, token, until, length = self.rows.get(name, ("", 0, 0.0, 0.0))
        lives = owner != "" and until - length - SLACK_S <= now < until
        if lives and owner != holder:
            return owner, token
        self.rows[name] = (holder, token if lives else token + 1, now + ttl, ttl)
        return self.rows[name][:2]

    def renew(self, holder: str, now: float, ttl: float) -> list[tuple[str, int]]:
        """Say what a holder holds."""
        names = sorted(name for name, row in self.rows.items() if row[0] == holder)
        self.rows |= {name: (holder, self.rows[name][1], now + ttl, ttl) for name in names}
        return [(name, self.rows[name][1]) for name in names]

    def release(self, holder: str) -> None:
        """Forget a holder, not the tokens."""
        self.rows |= {name: ("", *row[1:]) for name, row in self.rows.items() if row[0] == holder}


@pytest.mark.parametrize("seed", range(6))
def test_tokens_only_rise_whatever_happens(store, seed):
    """Through hundreds of takings, renewals, lapses and clocks set back, no token is ever given to a second holder."""
    chance, model, now = random.Random(seed), Model(), 0
    given: dict[str, list[tuple[int, str]]] = {}
    for _ in range(300):
        now += chance.choice([0, 0, 1, 1, 5, 20, 100, -3, -200])
        name, holder, ttl = chance.choice("abc"), chance.choice("xyz"), float(chance.choice([1, 5, 20]))
        act = chance.choice(["acquire"] * 5 + ["renew", "release", "leases"])
        if act == "acquire":
            lease = store.acquire(name, holder, at(now), ttl)
            assert (lease.holder, lease.token) == model.acquire(name, holder, now, ttl)
            given.setdefault(name, []).append((lease.token, lease.holder))
        elif act == "renew":
            assert [(found.name, found.token) for found in store.renew(holder, at(now), ttl)] == model.renew(
                holder, now, ttl
            )
        elif act == "release":
            store.release(holder)
            model.release(holder)
        held = {name: row for name, row in sorted(model.rows.items()) if row[0]}
        assert store.leases() == [
            Lease(name, owner, token, at(until), length) for name, (owner, token, until, length) in held.items()
        ]
    for tokens in given.values():
        assert [token for token, _ in tokens] == sorted(token for token, _ in tokens)
        assert len(dict(tokens)) == len(set(tokens)), "one token was given to two holders"
        assert len(set(tokens)) > 10


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Let threads begin a piece of work at the same moment; return what each returned."""
    start = Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return [done.result() for done in [pool.submit(lambda n=n: (start.wait(), work(n))[1]) for n in range(count)]]


def test_threads_that_race_for_a_lease_have_one_winner(store):
    """Of several threads that ask at the same moment, one gets the lease and the others learn who it is."""
    for number in range(20):
        found = together(4, lambda n, name=f"n{number}": store.acquire(name, f"x{n}", NOW, TTL))
        assert len({(lease.holder, lease.token) for lease in found}) == 1
    assert len(store.leases()) == 20


def test_threads_that_take_and_give_back_never_share_a_token(store):
    """Each token is given once, also while others renew and give back at the same time."""

    def work(number: int) -> list[int]:
        tokens = []
        for _ in range(20):
            lease = store.acquire("a", f"x{number}", NOW, TTL)
            store.renew(f"x{number}", NOW, TTL)
            if lease.holder == f"x{number}":
                tokens.append(lease.token)
                store.release(f"x{number}")
        return tokens

    tokens = sorted(token for found in together(4, work) for token in found)
    assert tokens == list(range(1, len(tokens) + 1))
    assert store.leases() == []


def test_threads_that_write_one_journal_take_no_place_twice(store):
    """Of several entries for one place, one is written; the others are told so."""
    for seq in range(20):
        found = together(4, lambda n, seq=seq: store.append(entry(seq, text=f"{n}")))
        assert sorted(found) == [False, False, False, True]
    assert [item.seq for item in store.read(RUN)] == list(range(20))


def test_closing_twice_is_fine(store):
    """What was given back is not given back again."""
    store.close()
    store.close()


def raced(commands: list[list[str]]) -> list[list[str]]:
    """Start processes, let them begin at the same moment, and return the lines that each printed."""
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    try:
        assert [process.stdout.readline() for process in started] == ["ready\n"] * len(started)
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        printed = [process.stdout.read().splitlines() for process in started]
        assert [process.wait(timeout=120) for process in started] == [0] * len(started)
        return printed
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_processes_that_race_for_a_lease_have_one_winner(tmp_path):
    """Three processes ask for the same names at the same moment: each name has one winner, and all agree on it."""
    home, names = tmp_path / "home", 40
    command = [sys.executable, "-c", RACER, str(home)]
    printed = raced([[*command, f"x{number}", NOW.isoformat(), str(names)] for number in range(3)])
    assert printed[0] == printed[1] == printed[2]
    assert len(printed[0]) == names
    assert all(line.endswith(" 1") for line in printed[0])
    found = SqliteStore(home)
    assert sorted(f"{lease.name[7:]} {lease.holder} 1" for lease in found.leases()) == sorted(printed[0])
    found.close()


def test_several_processes_write_to_one_file_at_once(tmp_path):
    """Four processes make the file and append at once: no place is taken twice, none is lost, the chain holds."""
    home, count = tmp_path / "home", 15
    command = [sys.executable, "-c", WRITER, str(home), RUN]
    raced([[*command, f"os:{number}", str(count)] for number in range(4)])
    found = SqliteStore(home)
    entries = found.read(RUN)
    verify(entries)
    assert [item.seq for item in entries] == list(range(4 * count))
    for number in range(4):
        own = [int(item.event["field"]) for item in entries if item.actor == f"os:{number}"]
        assert own == list(range(count))
    assert found.fetch("sha256:shared") == b"one answer"
    found.close()


# Notes


def test_a_note_is_written_in_place_of_what_was_read(store: Store):
    """Two that have read the same version: one of them is told that the other was faster, and nothing is lost."""
    assert store.recall("breaker:a") == (0, "")
    assert store.note("breaker:a", 0, "open")
    assert not store.note("breaker:a", 0, "closed")
    assert store.recall("breaker:a") == (1, "open")
    assert store.note("breaker:a", 1, "closed") and not store.note("breaker:a", 1, "late")
    assert store.recall("breaker:a") == (2, "closed")
    assert not store.note("breaker:never", 7, "of nothing") and store.recall("breaker:never") == (0, "")


def test_notes_are_listed_by_the_letter(store: Store):
    """A prefix is a text, not a pattern, and capital letters differ."""
    for name in ("a%b:1", "a%b:2", "axb:1", "A%B:1"):
        store.note(name, 0, name)
    assert store.notes("a%b:") == {"a%b:1": "a%b:1", "a%b:2": "a%b:2"}
    assert list(store.notes("")) == sorted(["a%b:1", "a%b:2", "axb:1", "A%B:1"])
