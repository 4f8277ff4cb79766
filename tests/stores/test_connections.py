"""Connections: kept, lent to one at a time, and given up when anything is odd."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy.exc import ResourceClosedError

from rbkit.errors import StoreUnavailable
from rbkit.stores import connections
from rbkit.stores.connections import Connections, make_engine

FORK = """
import os, sys, warnings
from pathlib import Path
from rbkit.errors import StoreUnavailable
from rbkit.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
store.keep("a", b"before")
child = os.fork()
if not child:
    store.close()
    try:
        store.keep("b", b"child")
    except StoreUnavailable as error:
        print(error.what, error.todo)
        sys.stdout.flush()
        os._exit(3)
    os._exit(4)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
store.keep("c", b"after")
print([store.fetch(name) for name in "abc"], code)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty file."""
    file = tmp_path / "rbkit.db"
    file.touch()
    return file


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection that was opened."""
    made: list[sqlite3.Connection] = []
    real = connections._connect
    monkeypatch.setattr(connections, "_connect", lambda path: (made.append(real(path)), made[-1])[1])
    return made


@pytest.fixture
def lender(path: Path, opened: list[sqlite3.Connection]) -> Iterator[Connections]:
    """Connections to that file."""
    made = Connections(make_engine(path), path)
    yield made
    made.close()


def is_open(connection: sqlite3.Connection) -> bool:
    """Tell whether a connection can still be used."""
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


def test_every_connection_is_durable_and_waits_its_turn(lender):
    """WAL, synchronous=FULL and a busy timeout of two seconds hold on each connection, not only on the first."""
    with lender.lend() as one, lender.lend() as other:
        for connection in (one, other):
            found = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout", "trusted_schema")
            ]
            assert found == ["wal", 2, 2000, 0]


def test_what_comes_back_is_lent_again(lender, opened):
    """Opening costs more than a write: it happens once."""
    for _ in range(5):
        with lender.lend() as connection:
            connection.exec_driver_sql("SELECT 1")
    assert len(opened) == 1


def test_nobody_shares_a_connection(lender, opened):
    """Whoever asks while one is lent gets another; afterwards both are there to be lent."""
    for _ in range(2):
        with lender.lend() as one, lender.lend() as other:
            assert one is not other
    assert len(opened) == 2


def test_threads_at_the_same_moment_each_have_their_own(lender, opened):
    """As many connections as there are users at once, whichever thread opened them, and no more."""
    start = Barrier(4)

    def work(number: int) -> int:
        start.wait()
        for _ in range(50):
            with lender.lend() as connection:
                connection.exec_driver_sql("SELECT 1")
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    assert 1 <= len(opened) <= 4
    assert all(is_open(connection) for connection in opened)


def test_what_went_wrong_is_given_up_with_its_connection(lender, opened):
    """A transaction that was begun when something failed is taken back, and its lock does not stay."""
    with pytest.raises(KeyboardInterrupt), lender.lend() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("CREATE TABLE t (x)")
        raise KeyboardInterrupt
    assert not is_open(opened[0])
    with lender.lend() as connection:
        assert connection.exec_driver_sql("SELECT name FROM sqlite_master").fetchall() == []
        connection.exec_driver_sql("CREATE TABLE t (x)")
    assert len(opened) == 2


def test_closing_closes_all_and_what_is_lent_when_it_comes_back(lender, opened):
    """Nothing stays open; and whoever asks afterwards gets a new one."""
    with lender.lend():
        pass
    with lender.lend(), lender.lend():
        lender.close()
        lender.close()
        assert [is_open(connection) for connection in opened] == [True, True]
    assert [is_open(connection) for connection in opened] == [False, False]
    with lender.lend() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    assert len(opened) == 3


def fails(connection: Any) -> None:
    """Ask for what is not there."""
    connection.exec_driver_sql("SELECT * FROM missing")


def is_closed(connection: Any) -> None:
    """Use a connection after it was closed."""
    connection.close()
    connection.exec_driver_sql("SELECT 1")


def breaks(connection: Any) -> None:
    """Fail as the file system does."""
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("act", "message", "cause"),
    [(fails, "no such table: missing", sqlite3.OperationalError), (breaks, "Input/output error", OSError),
     (is_closed, "This Connection is closed", ResourceClosedError)],
)  # fmt: skip
def test_whatever_goes_wrong_is_said_in_one_sentence(lender, path, act: Callable[[Any], None], message, cause):
    """Errors of SQLite, SQLAlchemy and the file system are one of rbkit's, with the file and the reason."""
    with pytest.raises(StoreUnavailable, match=message) as caught, lender.lend() as connection:
        act(connection)
    assert caught.value.what == f"The store {path} does not answer: {message}."
    assert isinstance(getattr(caught.value.__cause__, "orig", caught.value.__cause__), cause)


def test_another_opening_and_closing_the_file_does_not_disturb(lender, path):
    """The write-ahead log stays the same as long as somebody has it open, whoever comes and goes meanwhile."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t DEFAULT VALUES'); c.commit()"
    )
    with lender.lend() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    for number in range(3):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        same = Connections(make_engine(path), path)
        with same.lend() as connection:
            connection.exec_driver_sql("INSERT INTO t DEFAULT VALUES")
        same.close()
        with lender.lend() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 2 * number + 2


def test_a_file_that_is_put_there_while_one_is_opened_is_noticed(path, monkeypatch):
    """What SQLite opened and what lies there are compared by what lay there before."""
    real = connections._connect

    def slow(path: Path) -> sqlite3.Connection:
        opened = real(path)
        path.rename(path.with_name("old"))
        path.touch()
        return opened

    monkeypatch.setattr(connections, "_connect", slow)
    lender = Connections(make_engine(path), path)
    with pytest.raises(StoreUnavailable, match="its file was replaced by another"), lender.lend():
        pass


class Turned(sqlite3.Connection):
    """A connection that is turned away because another one is about to switch the file over."""

    other: sqlite3.Connection

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        """Let the other one finish as soon as this one begins to wait."""
        if sql.startswith("BEGIN"):
            self.other.execute("COMMIT")
            self.other.execute("PRAGMA journal_mode=WAL").fetchall()
        return super().execute(sql, *more)


def test_two_that_make_the_file_at_once_take_turns(path, monkeypatch):
    """SQLite turns one away at once when both switch a new file to WAL; it waits and finds the file switched."""
    real = sqlite3.connect
    with closing(real(path, isolation_level=None)) as other:
        Turned.other = other
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(sqlite3, "connect", lambda name, **more: real(name, factory=Turned, **more))
        with closing(connections._connect(path)) as found:
            assert found.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_somebody_holds_while_it_is_new_is_said(path, monkeypatch):
    """Waiting for the switch ends after the busy timeout."""
    monkeypatch.setattr(connections, "_BUSY_S", 0.001)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        lender = Connections(make_engine(path), path)
        with pytest.raises(StoreUnavailable, match="database is locked"), lender.lend():
            pass


def test_a_forked_process_does_not_touch_what_its_parent_opened(tmp_path):
    """SQLite forbids it; the child is told so, and the parent goes on undisturbed."""
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], capture_output=True, text=True, check=True)
    said, found = done.stdout.splitlines()
    assert "was opened before this process was forked" in said
    assert "start processes by spawn" in said
    assert found == "[b'before', None, b'after'] 3"


def test_closing_in_a_forked_process_closes_nothing(lender, opened, monkeypatch):
    """The connections are the parent's: closing them would be using them."""
    with lender.lend():
        pass
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        lender.close()
        with pytest.raises(StoreUnavailable, match="forked"), lender.lend():
            pass
    assert is_open(opened[0])
