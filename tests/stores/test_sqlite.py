"""The store in one SQLite file."""

import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.clock import FakeClock
from rbkit.errors import JournalBroken, StoreUnavailable
from rbkit.journal import Journal, verify
from rbkit.stores import sqlite
from rbkit.stores.sqlite import SqliteStore

RUN = "20260101-000000-aaaaaa"


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


def test_every_connection_is_durable_and_waits_its_turn(store):
    """WAL, synchronous=FULL and a busy timeout hold on each connection, not only on the first."""
    with store._work() as one, store._work() as other:
        for connection in (one, other):
            found = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout")
            ]
            assert found == ["wal", 2, 10_000]


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


def test_a_full_disk_is_said_and_nothing_is_written(store, monkeypatch):
    """An entry that does not fit is not there, and the ones before it are."""
    with store._work() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        store.keep("large", bytes(10_000_000))
    assert store.fetch("large") is None
    assert len(store.read(RUN)) == 3


def test_a_file_that_somebody_else_holds_is_waited_for_and_then_said(tmp_path, monkeypatch):
    """A writer that never lets go does not block for ever; reading goes on meanwhile."""
    monkeypatch.setattr(sqlite, "_BUSY_MS", 1)
    made = SqliteStore(tmp_path)
    with closing(sqlite3.connect(made.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            made.keep("a", b"x")
        assert made.fetch("a") is None
    made.keep("a", b"x")
    made.close()


def test_an_error_of_the_file_system_is_said(store):
    """What is raised as an OSError in the middle of the work is translated as well."""
    with pytest.raises(StoreUnavailable, match="does not answer: Input/output error"), store._work():
        raise OSError(5, "Input/output error")


def test_a_store_whose_folder_was_removed_says_so(store):
    """A home that vanishes between two calls is one sentence."""
    store.close()
    shutil.rmtree(store.path.parent)
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        store.keep("a", b"x")


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
