"""Connections to one SQLite file: WAL, synchronous=FULL, kept open between calls, each lent to one user at a time."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from rbkit.errors import RefusedInput, StoreUnavailable

__all__ = ["Connections", "make_engine"]

_BUSY_S = 2.0
_PRAGMAS = ("synchronous=FULL", "trusted_schema=OFF", "schema_version")
"""The last one reads, so that the write-ahead log is there from then on."""


def make_engine(path: Path) -> Engine:
    """Make the engine of a database file that is there; each statement is a transaction unless one is begun.

    Args:
        path: The file, an absolute path.

    Returns:
        An engine that keeps no connections.
    """
    return create_engine(
        "sqlite://",
        creator=partial(_connect, path),
        poolclass=NullPool,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
    )


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, never make one: a file that was removed must not come back empty."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        _switch_to_wal(connection)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch a new file over; two that do so at once would wait for each other, so SQLite turns one away at once.

    That one waits until the lock is free and tries again; by then, the other has switched.
    """
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    except sqlite3.OperationalError:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Kept:
    connection: Connection
    files: tuple[_Inode, _Inode]
    idle: "list[_Kept]"


class Connections:
    """Lends connections to a database file and says in rbkit's words what goes wrong with them.

    Opening one costs more than a write, so what comes back in good order is lent again. A connection of which
    anything went wrong is closed, and SQLite takes back what it had begun. No lock guards the list of those that
    are idle, as a signal's handler may use the store while the thread below it does: popping and appending are
    atomic.

    Args:
        engine: Opens them.
        path: The file, an absolute path.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine, self._path, self._wal = engine, path, Path(f"{os.path.realpath(path)}-wal")
        self._idle: list[_Kept] = []
        self._process = os.getpid()

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """Lend a connection.

        Returns:
            A connection in autocommit.

        Raises:
            StoreUnavailable: Anything that SQLite, SQLAlchemy or the file system cannot do.
            RefusedInput: A text holds half a character, which SQLite cannot keep.
        """
        try:
            with self._lend() as connection:
                yield connection
        except DBAPIError as error:
            raise self._unavailable(error.orig) from error
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error
        except UnicodeEncodeError as error:
            raise RefusedInput(f"{error.object!a} holds half a character, so the store cannot keep it.") from error
        except OSError as error:
            self.close()
            raise self._unavailable(error.strerror) from error

    def close(self) -> None:
        """Close every connection; one that is lent is closed when it comes back."""
        if os.getpid() == self._process:
            idle, self._idle = self._idle, []
            _drain(idle)

    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        kept = self._take()
        try:
            yield kept.connection
            self._check(kept)
        except BaseException:
            _end(kept)
            raise
        kept.idle.append(kept)
        if kept.idle is not self._idle:
            _drain(kept.idle)

    def _take(self) -> _Kept:
        if os.getpid() != self._process:
            raise StoreUnavailable(
                f"The store {self._path} was opened before this process was forked, and SQLite cannot share it.",
                todo="Open the store in this process, or start processes by spawn instead of fork.",
            )
        idle = self._idle
        try:
            return idle.pop()
        except IndexError:
            return self._open(idle)

    def _open(self, idle: list[_Kept]) -> _Kept:
        """Open a connection; which file it is is asked before, so that one put there meanwhile is noticed."""
        file = _inode(self._path)
        connection = self._engine.connect()
        return _Kept(connection, (file, _inode(self._wal)), idle)

    def _check(self, kept: _Kept) -> None:
        """Make sure that what was read or written is in the file that lies there: SQLite goes on without it."""
        if (_inode(self._path), _inode(self._wal)) != kept.files:
            raise OSError(errno.ESTALE, "its file was replaced by another")

    def _unavailable(self, why: object) -> StoreUnavailable:
        return StoreUnavailable(f"The store {self._path} does not answer: {why}.")


def _inode(path: Path) -> _Inode:
    found = os.stat(path)  # noqa: PTH116 - twice in every call, and this is quicker
    return found.st_dev, found.st_ino


def _drain(idle: list[_Kept]) -> None:
    while idle:
        with suppress(IndexError):  # another thread drains it, too
            _end(idle.pop())


def _end(kept: _Kept) -> None:
    """Close a connection whatever state it is in, without asking anything of the file first."""
    kept.connection.invalidate()
    kept.connection.close()
