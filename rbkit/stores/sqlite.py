"""The store in one SQLite file, safe for several processes: WAL, synchronous=FULL, BEGIN IMMEDIATE."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from rbkit.entries import Entry
from rbkit.errors import StoreUnavailable
from rbkit.stores.tables import REVISION, journal, tape

__all__ = ["SqliteStore"]

_BUSY_MS = 10_000


class SqliteStore:
    """Keeps journals and tapes in `<home>/rbkit.db`.

    Args:
        home: The store's folder; made with mode 0700 when missing.

    Raises:
        StoreUnavailable: The folder or file cannot be made, opened or written.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "rbkit.db"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(self.path)
        except OSError as error:
            raise StoreUnavailable(f"The store {self.path} cannot be opened: {error.strerror}.") from error
        self._engine = _engine(self.path)
        with self._work() as connection:
            current = _revision(connection) == REVISION
        if not current:
            self._upgrade()

    def _upgrade(self) -> None:
        """Make or change the tables; alembic is loaded before the lock is taken, as that may take seconds."""
        from rbkit.stores.migrate import upgrade

        with self._work(write=True) as connection:
            if _revision(connection) != REVISION:
                upgrade(connection)

    def append(self, entry: Entry) -> bool:
        """Write an entry durably if its place is free and the next one."""
        row = entry.model_dump(exclude={"event"}) | {"event": json.dumps(entry.event, sort_keys=True)}
        try:
            with self._work(write=True) as connection:
                if not _is_next(connection, entry):
                    return False
                connection.execute(insert(journal).values(row))
        except _PlaceTaken:
            return False
        return True

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read a run's entries from a place on, in order."""
        query = select(journal).where(journal.c.run == run, journal.c.seq >= start).order_by(journal.c.seq)
        with self._work() as connection:
            rows = connection.execute(query).mappings().all()
        return [_entry(dict(row)) for row in rows]

    def runs(self) -> list[str]:
        """List the runs, newest first."""
        with self._work() as connection:
            query = select(journal.c.run).where(journal.c.seq == 0).order_by(journal.c.run.desc())
            return list(connection.execute(query).scalars())

    def keep(self, name: str, data: bytes) -> None:
        """Keep an answer on the tape under its digest; keeping it twice is fine."""
        with self._work(write=True) as connection:
            connection.execute(insert(tape).prefix_with("OR IGNORE").values(name=name, data=data))

    def fetch(self, name: str) -> bytes | None:
        """Read an answer from the tape; None when it is not there."""
        with self._work() as connection:
            return connection.execute(select(tape.c.data).where(tape.c.name == name)).scalar()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _work(self, *, write: bool = False) -> Iterator[Connection]:
        """Open one transaction and say in rbkit's words what went wrong."""
        try:
            with self._engine.connect().execution_options(write=write) as connection, connection.begin():
                yield connection
        except IntegrityError as error:
            raise _PlaceTaken from error
        except DBAPIError as error:
            raise StoreUnavailable(f"The store {self.path} does not answer: {error.orig}.") from error
        except OSError as error:
            raise StoreUnavailable(f"The store {self.path} does not answer: {error.strerror}.") from error


class _PlaceTaken(Exception):
    """Another process has written this place of the journal first."""


def _is_next(connection: Connection, entry: Entry) -> bool:
    """Whether the entry before this one stands, so that no journal has a hole."""
    before = select(journal.c.seq).where(journal.c.run == entry.run, journal.c.seq == entry.seq - 1)
    return entry.seq == 0 or connection.execute(before).first() is not None


def _entry(row: dict[str, Any]) -> Entry:
    """Read a row; a damaged event stays readable as text, so that verifying can name it."""
    try:
        row["event"] = json.loads(row["event"])
    except (ValueError, RecursionError):
        row["event"] = {"damaged": row["event"]}
    if not isinstance(row["event"], dict):
        row["event"] = {"damaged": str(row["event"])}
    return Entry.model_construct(**row)


def _create(path: Path) -> None:
    """Make the file for its owner only, and never open one that is there.

    Closing any descriptor of a database's file drops this process's POSIX locks on it, and with them the
    protection of every connection that is open: the file gets corrupted.
    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2
    """
    if not path.exists():
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _engine(path: Path) -> Engine:
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"isolation_level": None})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN")

    return engine


def _revision(connection: Connection) -> str | None:
    found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").first()
    if not found:
        return None
    version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version
