"""The store in one SQLite file, safe for several processes and threads."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, literal_column, select, text, update
from sqlalchemy.dialects.sqlite import insert

from rbkit.entries import Entry
from rbkit.errors import StoreUnavailable
from rbkit.store import Lease, Now
from rbkit.stores.connections import Connections, make_engine
from rbkit.stores.leases import take
from rbkit.stores.tables import REVISION, journal, lease, note, tape

__all__ = ["SqliteStore"]

_APPEND = text(
    "INSERT INTO journal (run, seq, at, actor, source, event, prev, hash) "
    "SELECT :run, :seq, :at, :actor, :source, :event, :prev, :hash "
    "WHERE :seq = 0 OR EXISTS (SELECT 1 FROM journal WHERE run = :run AND seq = :seq - 1) "
    "ON CONFLICT DO NOTHING"
)
"""Writes an entry if its place is free and the one before it stands."""
_STANDS = select(journal.c.hash).where(journal.c.run == bindparam("run"), journal.c.seq == bindparam("seq"))
_READ = (
    select(journal)
    .where(journal.c.run == bindparam("run"), journal.c.seq >= bindparam("start"))
    .order_by(journal.c.seq)
)
_RUNS = select(journal.c.run).where(journal.c.seq == 0).order_by(journal.c.run.desc())
_KEEP = insert(tape).on_conflict_do_nothing()
_FETCH = select(tape.c.data).where(tape.c.name == bindparam("name"))
_LEASE = select(lease).where(lease.c.name == bindparam("name"))
_IS_HELD = lease.c.holder != literal_column("''")
_HELD = select(lease).where(_IS_HELD)
"""Finds what is held by its index, unless an order is asked for; what was given back may be a thousand times more."""
_HELD_BY = _HELD.where(lease.c.holder == bindparam("by"))
_CHANGE = update(lease).where(_IS_HELD, lease.c.holder == bindparam("by"))
_RENEW = _CHANGE.values(until=bindparam("until"), ttl_s=bindparam("ttl_s"))
_RELEASE = _CHANGE.values(holder="")
_NEW = insert(lease)
_GIVE = _NEW.on_conflict_do_update(
    index_elements=["name"], set_={name: _NEW.excluded[name] for name in ("holder", "token", "until", "ttl_s")}
)
_RECALL = select(note.c.version, note.c.text).where(note.c.name == bindparam("name"))
_FIRST_NOTE = insert(note).on_conflict_do_nothing()
_NOTE = (
    update(note)
    .where(note.c.name == bindparam("of"), note.c.version == bindparam("read"))
    .values(version=bindparam("version"), text=bindparam("text"))
)
_NOTES = (
    select(note.c.name, note.c.text)
    .where(func.substr(note.c.name, 1, func.length(bindparam("prefix"))) == bindparam("prefix"))
    .order_by(note.c.name)
)


class SqliteStore:
    """Keeps journals, tapes, leases and notes in `<home>/rbkit.db`.

    A call that only reads, and one that writes with one statement, needs no more than that statement: SQLite makes
    it a transaction, as BEGIN IMMEDIATE would.

    Args:
        home: The store's folder; made with mode 0700 when missing.

    Raises:
        StoreUnavailable: The folder or file cannot be made, opened or written.
    """

    def __init__(self, home: Path) -> None:
        self.path = home.absolute() / "rbkit.db"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(self.path)
        except OSError as error:
            raise StoreUnavailable(f"The store {self.path} cannot be opened: {error.strerror}.") from error
        self._engine = make_engine(self.path)
        self._connections = Connections(self._engine, self.path)
        with self._work() as connection:
            current = _revision(connection) == REVISION
        if not current:
            self._upgrade()

    def _upgrade(self) -> None:
        """Make or change the tables; alembic is loaded before the lock is taken, as that may take seconds."""
        from rbkit.stores.migrate import upgrade

        with self._transaction() as connection:
            if _revision(connection) != REVISION:
                upgrade(connection)

    def append(self, entry: Entry) -> bool:
        """Write an entry durably if its place is free and the next one.

        A try that looked failed may have been written nevertheless. So an entry that stands already, to the letter
        of its hash, counts as written: whoever is in doubt appends it again and is told the truth.
        """
        place = {"run": entry.run, "seq": entry.seq}
        row = place | {
            "at": entry.at, "actor": entry.actor, "source": entry.source, "prev": entry.prev, "hash": entry.hash,
            "event": json.dumps(entry.event, sort_keys=True),
        }  # fmt: skip
        with self._work() as connection:
            if connection.execute(_APPEND, row).rowcount:
                return True
            return bool(connection.execute(_STANDS, place).scalar() == entry.hash)

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read a run's entries from a place on, in order."""
        with self._work() as connection:
            rows = connection.execute(_READ, {"run": run, "start": start}).mappings().all()
        return [_entry(dict(row)) for row in rows]

    def runs(self) -> list[str]:
        """List the runs, newest first."""
        with self._work() as connection:
            return list(connection.execute(_RUNS).scalars())

    def keep(self, name: str, data: bytes) -> None:
        """Keep an answer on the tape under its digest; keeping it twice is fine."""
        with self._work() as connection:
            connection.execute(_KEEP, {"name": name, "data": data})

    def fetch(self, name: str) -> bytes | None:
        """Read an answer from the tape; None when it is not there."""
        with self._work() as connection:
            return connection.execute(_FETCH, {"name": name}).scalar()

    def acquire(self, name: str, holder: str, now: Now, ttl_s: float, fresh: bool = False) -> Lease:
        """Take a lease if nobody else holds it; while somebody does, nothing is written."""
        with self._transaction() as connection:
            found = connection.execute(_LEASE, {"name": name}).first()
            standing = _lease(found) if found else None
            taken = take(standing, name, holder, now, ttl_s, fresh=fresh)
            if taken is not standing:
                row = {"name": name, "holder": holder, "token": taken.token, "until": _iso(taken.until), "ttl_s": ttl_s}
                connection.execute(_GIVE, row)
        return taken

    def renew(self, holder: str, now: datetime, ttl_s: float) -> list[Lease]:
        """Prolong everything that a holder still holds, also what has lapsed and nobody has taken."""
        until = _iso(now + timedelta(seconds=ttl_s))
        with self._transaction() as connection:
            connection.execute(_RENEW, {"by": holder, "until": until, "ttl_s": ttl_s})
            return _leases(connection.execute(_HELD_BY, {"by": holder}))

    def release(self, holder: str) -> None:
        """Give back everything that a holder holds; the tokens stay."""
        with self._work() as connection:
            connection.execute(_RELEASE, {"by": holder})

    def leases(self) -> list[Lease]:
        """List every lease that somebody holds, live or lapsed, by name."""
        with self._work() as connection:
            return _leases(connection.execute(_HELD))

    def recall(self, name: str) -> tuple[int, str]:
        """Read a note; `(0, "")` when nobody has written it."""
        with self._work() as connection:
            found = connection.execute(_RECALL, {"name": name}).first()
        return (int(found.version), str(found.text)) if found else (0, "")

    def note(self, name: str, version: int, text: str) -> bool:
        """Write a note in place of the version that was read."""
        row = {"version": version + 1, "text": text}
        statement, more = (_NOTE, {"of": name, "read": version}) if version else (_FIRST_NOTE, {"name": name})
        with self._work() as connection:
            return connection.execute(statement, row | more).rowcount > 0

    def notes(self, prefix: str) -> dict[str, str]:
        """Read every note whose name begins so, by name."""
        with self._work() as connection:
            return {row.name: row.text for row in connection.execute(_NOTES, {"prefix": prefix})}

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()

    def _work(self) -> AbstractContextManager[Connection]:
        return self._connections.lend()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Lend a connection for several statements that hold together; the lock is taken at once."""
        with self._work() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.exec_driver_sql("COMMIT")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _leases(rows: Iterable[Row[Any]]) -> list[Lease]:
    return sorted((_lease(row) for row in rows), key=lambda found: found.name)


def _lease(row: Row[Any]) -> Lease:
    """Read a row; one that somebody has damaged gives nobody any right."""
    try:
        until = datetime.fromisoformat(row.until).astimezone(UTC)
        return Lease(row.name, row.holder, int(row.token), until, float(row.ttl_s))
    except (TypeError, ValueError) as error:
        raise StoreUnavailable(f"The lease {row.name} in the store cannot be read: {error}.") from error


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


def _revision(connection: Connection) -> str | None:
    found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").first()
    if not found:
        return None
    version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version
