"""Disks that fail at a write, and for ever: full, read-only, broken. Where it can be, it is the system that refuses."""

import resource
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbkit.errors import StoreUnavailable
from rbkit.stores.sqlite import SqliteStore

from .simulation import Process
from .stores import NotedStore
from .world import History

COUNTED = frozenset({"append", "keep", "acquire"})
"""The writes that somebody waits for."""
WRITES = COUNTED | {"renew", "release"}


class Disk(ABC):
    """What goes wrong with a store's file.

    Args:
        store: The store.
    """

    def __init__(self, store: SqliteStore) -> None:
        self.store = store

    @abstractmethod
    def refuse(self, write: Callable[[], Any]) -> Any:
        """Do a write while the disk fails."""

    @contextmanager
    def pragma(self, command: str) -> Iterator[None]:
        """Say something to the connection that is used next; it is closed when anything goes wrong with it."""
        with self.store._work() as connection:
            connection.exec_driver_sql(command)
        try:
            yield
        finally:
            self.store.close()


class ReadOnly(Disk):
    """The file may only be read."""

    def refuse(self, write: Callable[[], Any]) -> Any:
        """Write through a connection that SQLite lets only read."""
        with self.pragma("PRAGMA query_only = 1"):
            return write()


class Full(Disk):
    """There is no room for another page: SQLITE_FULL. What still fits into a page that is there is written."""

    def refuse(self, write: Callable[[], Any]) -> Any:
        """Write through a connection that may add no page."""
        with self.pragma("PRAGMA max_page_count = 1"):
            return write()


class Broken(Disk):
    """The system breaks off every write that makes a file larger: for SQLite, an input or output error."""

    def refuse(self, write: Callable[[], Any]) -> Any:
        """Write while no file of this process may grow beyond what the write-ahead log has now."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        log = Path(f"{self.store.path}-wal")
        size = log.stat().st_size if log.exists() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            return write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Gone(Disk):
    """Nothing is written."""

    def refuse(self, write: Callable[[], Any]) -> Any:
        """Do nothing."""
        raise StoreUnavailable("It is gone.")


class Mute(Disk):
    """Everything is written, and reported as failed."""

    def refuse(self, write: Callable[[], Any]) -> Any:
        """Write, and say that it failed."""
        write()
        raise StoreUnavailable("It says nothing.")


@dataclass
class Trouble:
    """When a disk fails: from the n-th write of the first process on, until that process is over.

    Args:
        disk: How it fails.
        at: From which write on, counted from 1.
    """

    disk: Disk
    at: int
    writes: int = 0
    met: bool = False

    def holds(self, process: Process) -> bool:
        """Tell whether it fails now."""
        return self.writes >= self.at and not process.simulation.processes[0].over


class DiskStore(NotedStore):
    """A store on a disk that fails."""

    def __init__(
        self, raw: SqliteStore, history: History, process: Process, boundary: Callable[[], None], trouble: Trouble
    ) -> None:
        super().__init__(raw, history, process.name, boundary)
        self.process, self.trouble = process, trouble

    def _done(self, name: str, values: tuple[Any, ...]) -> Any:
        if name in COUNTED and self.process is self.process.simulation.processes[0]:
            self.trouble.writes += 1
        if name not in WRITES or not self.trouble.holds(self.process):
            return super()._done(name, values)
        try:
            return self.trouble.disk.refuse(lambda: super(DiskStore, self)._done(name, values))
        except StoreUnavailable:
            self.trouble.met = True
            raise
