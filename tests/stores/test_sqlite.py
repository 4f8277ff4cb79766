"""The store in one SQLite file."""

import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from rbkit import events as ev
from rbkit.clock import FakeClock
from rbkit.entries import seal_entry
from rbkit.errors import JournalBroken, RefusedInput, StoreUnavailable
from rbkit.journal import Journal, verify
from rbkit.store import Lease
from rbkit.stores import connections, sqlite
from rbkit.stores.sqlite import SqliteStore

RUN = "20260101-000000-aaaaaa"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOLDER = """
import sqlite3, sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
connection.close()
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with three entries."""
    made = SqliteStore(tmp_path / "home")
    journal = Journal(made, RUN, "cli", actor="os:a", clock=FakeClock())
    for number in range(3):
        journal.append(ev.InputRefused(runbook="b", field=str(number), why="w"))
    yield made
    made.close()


def sql(store: SqliteStore, command: str, *values: Any) -> list[Any]:
    """Work on the file behind the store's back."""
    with closing(sqlite3.connect(store.path)) as connection, connection:
        return connection.execute(command, values).fetchall()


def test_the_file_is_its_owners_alone(store):
    """Folder 0700, file 0600: parameters and answers are in it."""
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a?mode=memory", "a#b", "a%41", "a b", "é", "a'b", 'a"b', "file:x"])
def test_any_folder_name_is_taken_as_it_is(tmp_path, name):
    """No character of a path is read as part of an address: what is written lies in that very file."""
    made = SqliteStore(tmp_path / name)
    made.keep("a", b"x")
    made.close()
    with closing(sqlite3.connect(tmp_path / name / "rbkit.db")) as connection:
        assert connection.execute("SELECT data FROM tape").fetchall() == [(b"x",)]
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_store_that_is_there_is_opened_as_it_is(store):
    """Opening again keeps what was written."""
    again = SqliteStore(store.path.parent)
    assert again.read(RUN) == store.read(RUN)
    again.close()


EDITS = {
    "event": [("'{\"kind\": \"input_refused\"}'", 1), ("'{'", 1), ("'[1]'", 1), ("'7'", 1), ("''", 1), ("x'ff'", 1),
              (f"'{'[' * 100_000}'", 1), ("'{\"kind\": NaN}'", 1), ("replace(event, '\"w\"', '\"v\"')", 1)],
    "actor": [("'os:mallory'", 1), ("x'00ff'", 1)],
    "at": [("'2027'", 1)],
    "source": [("'kernel'", 1)],
    "prev": [("''", 1)],
    "hash": [("'sha256:0'", 1), ("upper(hash)", 1)],
    "seq": [("7", 1)],
    "run": [("'20260101-000000-bbbbbb'", 1)],
}  # fmt: skip
CASES = [(column, value, place) for column, edits in EDITS.items() for value, place in edits]


@pytest.mark.parametrize(("column", "value", "place"), CASES, ids=[f"{c}={v[:20]}" for c, v, _ in CASES])
def test_an_edit_of_the_file_is_named_by_its_place(store, column, value, place):
    """A row that was changed behind rbkit's back, even into something that is no JSON, is found where it stands."""
    sql(store, f"UPDATE journal SET {column} = {value} WHERE seq = ?", place)  # noqa: S608 - the test's own texts
    with pytest.raises(JournalBroken) as caught:
        verify(store.read(RUN))
    assert caught.value.seq == place


def test_a_cut_at_the_end_is_noticed_by_a_process_that_saw_more(store):
    """It neither writes on nor waits for ever: it names the first entry that is gone."""
    journal = Journal(store, RUN, "cli", actor="os:a")
    assert len(journal.entries) == 3
    sql(store, "DELETE FROM journal WHERE seq > 0")
    with pytest.raises(JournalBroken, match="Entry 1 was there and is gone") as caught:
        journal.append(ev.InputRefused(runbook="b", field="f", why="w"))
    assert caught.value.seq == 1


def a_file(home: Path) -> None:
    """Put a file where the folder should be."""
    home.write_text("x")


def no_database(home: Path) -> None:
    """Put something else where the database should be."""
    home.mkdir()
    (home / "rbkit.db").write_bytes(b"no database" * 1000)


def a_folder(home: Path) -> None:
    """Put a folder where the database should be."""
    (home / "rbkit.db").mkdir(parents=True)


def a_newer_one(home: Path) -> None:
    """Leave a store that a newer rbkit made."""
    made = SqliteStore(home)
    sql(made, "UPDATE alembic_version SET version_num = '9999'")
    made.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(a_file, "cannot be opened"), (no_database, "file is not a database"), (a_folder, "unable to open database file"),
     (a_newer_one, "made by another version of rbkit: .*9999")],
)  # fmt: skip
def test_a_store_that_cannot_be_opened_says_why(tmp_path, spoil: Callable[[Path], None], message):
    """Whatever lies there, the error is one of rbkit's, with the reason."""
    spoil(tmp_path / "home")
    with pytest.raises(StoreUnavailable, match=message):
        SqliteStore(tmp_path / "home")


USES: dict[str, Callable[[SqliteStore], Any]] = {
    "append": lambda store: store.append(seal_entry(RUN, 3, "", "", "", ev.CancelRequested(reason="r" * 9999), "")),
    "keep": lambda store: store.keep("new", bytes(10_000_000)),
    "acquire": lambda store: store.acquire("new", "x" * 9999, NOW, 15.0),
    "renew": lambda store: store.renew("me", NOW, 15.0),
    "release": lambda store: store.release("me"),
    "read": lambda store: store.read(RUN),
    "runs": lambda store: store.runs(),
    "fetch": lambda store: store.fetch("kept"),
    "leases": lambda store: store.leases(),
}
WRITES = ["append", "keep", "acquire", "renew", "release"]
GROWS = ["append", "keep", "acquire"]


@pytest.fixture
def used(store: SqliteStore) -> SqliteStore:
    """A store with three entries, an answer and a lease."""
    store.keep("kept", b"answer")
    store.acquire("mine", "me", NOW, 15.0)
    return store


def as_it_was(store: SqliteStore) -> bool:
    """Tell whether a store holds what `used` put there, and nothing else."""
    leases = [Lease("mine", "me", 1, NOW + timedelta(seconds=15), 15.0)]
    return (len(store.read(RUN)), store.fetch("kept"), store.fetch("new"), store.leases()) == (
        3,
        b"answer",
        None,
        leases,
    )


@pytest.mark.parametrize("use", GROWS)
def test_a_full_disk_is_said_and_nothing_is_written(used, use):
    """What does not fit is not there, not even a part of it; what stood stands, and with space it goes on."""
    with used._work() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreUnavailable, match="does not answer: database or disk is full"):
        USES[use](used)
    assert as_it_was(used)
    USES[use](used)
    assert not as_it_was(used)


@pytest.mark.parametrize("use", WRITES)
def test_a_store_that_may_only_be_read_says_so(used, use):
    """Each way to write fails with the reason and writes nothing; reading goes on."""
    with used._work() as connection:
        connection.exec_driver_sql("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailable, match="does not answer: attempt to write a readonly database"):
        USES[use](used)
    assert as_it_was(used)


def test_a_file_that_may_only_be_read_is_said(used, monkeypatch):
    """Opened read-only by the system, the store can be read, and every write says why it fails."""
    used.close()
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **more: real(name.replace("mode=rw", "mode=ro"), **more))
    for use in WRITES:
        with pytest.raises(StoreUnavailable, match="attempt to write a readonly database"):
            USES[use](used)
    assert as_it_was(used)


@contextmanager
def no_larger_file(size: int) -> Iterator[None]:
    """Let the system refuse to make any file of this process larger than a number of bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("use", GROWS)
def test_an_input_or_output_error_is_said_and_nothing_is_written(used, use):
    """A write that the system breaks off leaves nothing behind; when the disk works again, so does the store."""
    log = Path(f"{used.path}-wal")
    with no_larger_file(log.stat().st_size), pytest.raises(StoreUnavailable, match="does not answer: disk I/O error"):
        USES[use](used)
    assert as_it_was(used)
    USES[use](used)
    assert not as_it_was(used)


@pytest.mark.parametrize("use", WRITES)
def test_a_file_that_somebody_else_holds_is_waited_for_and_then_said(used, monkeypatch, use):
    """A process that never lets go does not block for ever; reading goes on meanwhile, and writing afterwards."""
    monkeypatch.setattr(connections, "_BUSY_S", 0.001)
    used.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(used.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreUnavailable, match="does not answer: database is locked"):
            USES[use](used)
        assert as_it_was(used)
        other.communicate("go\n", timeout=60)
    assert other.returncode == 0
    USES[use](used)


def removed(path: Path) -> None:
    """Remove the store's files."""
    for file in path.parent.glob("rbkit.db*"):
        file.unlink()


def renamed(path: Path) -> None:
    """Put the folder somewhere else."""
    path.parent.rename(path.parents[1] / "elsewhere")


def without_log(path: Path) -> None:
    """Remove the write-ahead log alone."""
    Path(f"{path}-wal").unlink()


def replaced(path: Path) -> None:
    """Put another store's file in its place."""
    SqliteStore(path.parents[1] / "another").close()
    (path.parents[1] / "another" / "rbkit.db").replace(path)


def log_replaced(path: Path) -> None:
    """Put another write-ahead log in its place, as a new one is made when it was removed."""
    (path.parent / "new").write_bytes(b"")
    (path.parent / "new").replace(f"{path}-wal")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [(removed, "No such file or directory"), (renamed, "No such file or directory"),
     (without_log, "No such file or directory"), (replaced, "its file was replaced by another"),
     (log_replaced, "its file was replaced by another")],
)  # fmt: skip
def test_a_file_that_is_gone_is_noticed_by_whoever_has_it_open(used, spoil, message, use):
    """SQLite would go on in the file that nobody finds any more; rbkit says so instead of saying that it is written."""
    spoil(used.path)
    with pytest.raises(StoreUnavailable, match=f"does not answer: {message}"):
        USES[use](used)


def test_a_file_that_was_removed_is_not_made_again(used):
    """An empty file in its place would hide what happened; a new store is made by whoever opens one."""
    removed(used.path)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="No such file or directory"):
            used.keep("a", b"x")
    assert not used.path.exists()


def test_a_file_that_is_put_back_is_used_again(used):
    """Whoever tries again after the store came back goes on where it was."""
    renamed(used.path)
    with pytest.raises(StoreUnavailable):
        used.runs()
    (used.path.parents[1] / "elsewhere").rename(used.path.parent)
    assert as_it_was(used)
    assert not used.append(seal_entry(RUN, 0, "", "", "", ev.CancelRequested(reason=""), ""))


def test_a_journal_notices_that_another_store_lies_in_its_place(used):
    """It does not begin anew in the other file: it says which entry is gone."""
    journal = Journal(used, RUN, "cli", actor="os:a", clock=FakeClock())
    assert len(journal.entries) == 3
    removed(used.path)
    replaced(used.path)
    with pytest.raises(JournalBroken, match="Entry 0 was there and is gone"):
        journal.append(ev.InputRefused(runbook="b", field="f", why="w"))


def test_a_file_that_is_no_database_any_more_is_said(used):
    """What was overwritten from outside is no journal, and is named so."""
    used.close()
    used.path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable, match="does not answer: file is not a database"):
        used.runs()


def test_a_store_whose_folder_was_removed_says_so(store):
    """A home that vanishes between two calls is one sentence, also when no connection is open."""
    store.close()
    shutil.rmtree(store.path.parent)
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        store.keep("a", b"x")


def test_a_link_that_leads_nowhere_is_said(tmp_path):
    """A name that points to nothing, or to itself, is no store."""
    for name, target in (("gone", "nothing"), ("loop", "rbkit.db")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rbkit.db").symlink_to(target)
        with pytest.raises(StoreUnavailable, match="No such file or directory|Too many levels of symbolic links"):
            SqliteStore(tmp_path / name)


def test_a_store_behind_a_link_is_used(store, tmp_path):
    """A home that is a link, and a file that is one, are the store that they point to."""
    (tmp_path / "link").symlink_to(store.path.parent)
    (tmp_path / "home2").mkdir()
    (tmp_path / "home2" / "rbkit.db").symlink_to(store.path)
    for name in ("link", "home2"):
        again = SqliteStore(tmp_path / name)
        again.keep(name, b"x")
        again.close()
    assert [store.fetch(name) for name in ("link", "home2")] == [b"x", b"x"]


def test_a_home_that_is_given_relatively_stays_where_it_was(tmp_path, monkeypatch):
    """A notebook that changes its folder does not move the store."""
    monkeypatch.chdir(tmp_path)
    made = SqliteStore(Path("home"))
    monkeypatch.chdir("/")
    made.keep("a", b"x")
    made.close()
    assert made.fetch("a") == b"x"
    assert made.path == tmp_path / "home" / "rbkit.db"
    made.close()


@contextmanager
def counted(store: SqliteStore) -> Iterator[list[str]]:
    """Note what is sent to SQLite."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        sent.append(statement)

    event.listen(store._engine, "before_cursor_execute", note)
    yield sent
    event.remove(store._engine, "before_cursor_execute", note)


def test_an_entry_costs_one_statement_and_looking_for_new_ones_another(used):
    """A step waits for the journal several times: no call asks more often than it must."""
    with counted(used) as sent:
        assert used.append(seal_entry(RUN, 3, "", "", "", ev.CancelRequested(reason=""), ""))
        assert used.read(RUN, 4) == []
    assert [statement.split()[0] for statement in sent] == ["INSERT", "SELECT"]


def version(connection: sqlite3.Connection) -> int:
    """Read the number that changes whenever another connection has written."""
    found: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return found


def test_what_changes_nothing_writes_nothing(used):
    """Asking for what somebody else holds, renewing and giving back nothing: no write, so no wait for the disk."""
    with closing(sqlite3.connect(used.path)) as other:
        before = version(other)
        assert used.acquire("mine", "another", NOW, 60.0).holder == "me"
        assert used.renew("another", NOW, 60.0) == []
        used.release("another")
        used.keep("kept", b"other")
        assert not used.append(seal_entry(RUN, 1, "", "", "", ev.CancelRequested(reason=""), ""))
        assert version(other) == before
        used.renew("me", NOW, 60.0)
        assert version(other) != before


def test_what_is_held_is_found_without_looking_at_what_was_given_back(store):
    """Names are never forgotten, so after years there are many; a renewal looks only at those that are held."""
    for statement in (sqlite._HELD, sqlite._HELD_BY, sqlite._RENEW, sqlite._RELEASE):
        compiled = statement.compile(store._engine)
        plan = sql(store, f"EXPLAIN QUERY PLAN {compiled}", *([None] * len(compiled.params)))
        assert "INDEX lease_held" in plan[0][3]


def test_leases_outlive_the_process(used):
    """Who opens the store again finds what is held and the tokens that were given out."""
    used.acquire("theirs", "x", NOW, 15.0)
    used.release("x")
    used.close()
    again = SqliteStore(used.path.parent)
    assert as_it_was(again)
    assert again.acquire("theirs", "y", NOW, 15.0).token == 2
    again.close()


def test_a_name_with_half_a_character_is_refused(used):
    """No store of text can keep it, and cutting or replacing it would make two names one."""
    for act in (lambda: used.acquire("a\ud800", "x", NOW, 15.0), lambda: used.renew("a\ud800", NOW, 15.0)):
        with pytest.raises(RefusedInput, match=r"'a\\ud800' holds half a character"):
            act()
    assert as_it_was(used)


@pytest.mark.parametrize("edit", ["until = 'soon'", "until = 7", "until = x'00'", "ttl_s = 'long'", "token = 'high'"])
def test_a_lease_that_was_damaged_gives_nobody_any_right(used, edit):
    """A row that was changed behind rbkit's back into something that is no lease is named, not guessed at."""
    sql(used, f"UPDATE lease SET {edit}")  # noqa: S608 - the test's own texts
    with pytest.raises(StoreUnavailable, match="The lease mine in the store cannot be read"):
        used.leases()
    with pytest.raises(StoreUnavailable, match="The lease mine in the store cannot be read"):
        used.acquire("mine", "another", NOW, 15.0)
    assert sql(used, "SELECT holder FROM lease") == [("me",)]


def test_a_renewal_of_a_damaged_lease_changes_nothing(used):
    """It fails as a whole: none of what the holder has is prolonged."""
    used.acquire("more", "me", NOW, 15.0)
    sql(used, "UPDATE lease SET token = 'high' WHERE name = 'mine'")
    before = sql(used, "SELECT * FROM lease")
    with pytest.raises(StoreUnavailable, match="The lease mine in the store cannot be read"):
        used.renew("me", NOW, 60.0)
    assert sql(used, "SELECT * FROM lease") == before


def test_opening_does_not_touch_the_file_of_a_store_in_use(store, monkeypatch):
    """The file of a store that is there is never opened beside SQLite: closing it would drop the locks.

    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2
    """
    opened = []
    real = sqlite.os.open
    monkeypatch.setattr(sqlite.os, "open", lambda *args: (opened.append(args), real(*args))[1])
    SqliteStore(store.path.parent).close()
    assert opened == []


def test_a_file_that_another_process_makes_at_the_same_moment_is_fine(tmp_path, monkeypatch):
    """Between looking and making, the file may come into being."""
    SqliteStore(tmp_path).close()
    monkeypatch.setattr(Path, "exists", lambda self: False)
    SqliteStore(tmp_path).close()


def test_tables_that_were_made_in_between_are_not_made_again(tmp_path, monkeypatch):
    """Two processes find an empty file; the one that gets the lock second finds the tables made."""
    SqliteStore(tmp_path).close()
    answers = iter([None])
    real = sqlite._revision
    monkeypatch.setattr(sqlite, "_revision", lambda connection: next(answers, real(connection)))
    monkeypatch.setattr("rbkit.stores.migrate.upgrade", None)
    SqliteStore(tmp_path).close()
