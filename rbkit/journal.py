"""Append, chain, fold: the one bookkeeping of a run."""

import getpass
import os
from collections.abc import Iterable

from rbkit.clock import Clock, SystemClock
from rbkit.entries import Entry, intact, read_event, seal_entry
from rbkit.errors import IllegalMove, JournalBroken, NotFound
from rbkit.events import Event
from rbkit.fold import RunState
from rbkit.ports import Store

__all__ = ["AUDIT", "Journal", "existing", "operator", "verify"]

AUDIT = "audit"
"""The journal of what was refused before a run began."""


def operator() -> str:
    """Name who is at the keyboard: the operating system's user, by number when it has no name (in a container)."""
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"os:uid-{os.getuid()}"


def verify(entries: Iterable[Entry]) -> RunState:
    """Check a journal entry by entry and fold it.

    Args:
        entries: Every entry of one run, in order.

    Returns:
        The state of the run.

    Raises:
        JournalBroken: The first entry that was changed, cut, inserted, moved or is illegal; its place is named.
    """
    state, prev, run = RunState(), "", ""
    for place, entry in enumerate(entries):
        run = run or entry.run
        _check_link(entry, place, prev, run)
        _apply(state, entry)
        prev = entry.hash
    return state


def _check_link(entry: Entry, place: int, prev: str, run: str) -> None:
    if entry.seq != place:
        raise JournalBroken(f"Entry {place} is missing: entry {entry.seq} follows.", seq=place)
    if entry.run != run:
        raise JournalBroken(f"Entry {place} belongs to run {entry.run}.", seq=place)
    if entry.prev != prev:
        raise JournalBroken(f"Entry {place} does not follow the entry before it.", seq=place)
    if not intact(entry):
        raise JournalBroken(f"Entry {place} was changed: its hash does not match.", seq=place)


def _apply(state: RunState, entry: Entry) -> None:
    try:
        state.apply(entry, read_event(entry))
    except IllegalMove as error:
        raise JournalBroken(f"Entry {entry.seq} cannot stand where it stands: {error}", seq=entry.seq) from error


class Journal:
    """The journal of one run, as one process sees it.

    Args:
        store: Where it is kept.
        run: The run's id.
        source: Which process writes: kernel, supervisor or cli.
        actor: Who acts; the operating system's user when not given.
        clock: Where the time comes from.
    """

    def __init__(self, store: Store, run: str, source: str, *, actor: str = "", clock: Clock | None = None) -> None:
        self.store, self.run, self.source = store, run, source
        self.actor = (actor or operator()).encode("utf-8", "backslashreplace").decode()
        self.clock = clock or SystemClock()
        self._entries: list[Entry] = []
        self._state = RunState()

    @property
    def state(self) -> RunState:
        """The run's state as of now, whoever wrote last."""
        self.refresh()
        return self._state

    @property
    def entries(self) -> list[Entry]:
        """Every entry as of now."""
        self.refresh()
        return list(self._entries)

    def refresh(self) -> None:
        """Read what other processes have written since.

        Raises:
            JournalBroken: What was read does not follow what was there.
        """
        for entry in self.store.read(self.run, len(self._entries)):
            place, prev = len(self._entries), self._entries[-1].hash if self._entries else ""
            _check_link(entry, place, prev, self.run)
            _apply(self._state, entry)
            self._entries.append(entry)

    def append(self, event: Event) -> Entry:
        """Write an event durably, after everything that stands; legal or not at all.

        Args:
            event: What happened.

        Returns:
            The entry as written.

        Raises:
            IllegalMove: The lifecycle does not allow it now, or it speaks of something that never began.
            JournalBroken: The store has lost entries that were there.
            StoreUnavailable: It could not be written; it did not happen.
        """
        while True:
            self.refresh()
            self._state.check(event)
            prev = self._entries[-1].hash if self._entries else ""
            at = self.clock.now().isoformat(timespec="microseconds")
            entry = seal_entry(self.run, len(self._entries), at, self.actor, self.source, event, prev)
            written = self.store.append(entry)
            self.refresh()
            if written:
                return entry
            if len(self._entries) == entry.seq:
                place = len(self.store.read(self.run))
                raise JournalBroken(f"Entry {place} was there and is gone from the store.", seq=place)


def existing(store: Store, run: str, source: str, *, actor: str = "", clock: Clock | None = None) -> Journal:
    """Open the journal of a run that is there.

    Args:
        store: Where it is kept.
        run: The run's id, or the beginning of one, or `last`.
        source: Which process writes.
        actor: Who acts.
        clock: Where the time comes from.

    Raises:
        NotFound: No run is named so, or several are.
    """
    runs = [name for name in store.runs() if name != AUDIT]
    found = runs[:1] if run == "last" else [name for name in runs if name == run] or _begins(runs, run)
    if len(found) != 1:
        word = "no run" if not found else f"{len(found)} runs"
        raise NotFound(f"There is {word} {run[:80]!r}." if not found else f"{word} begin with {run[:80]!r}.")
    return Journal(store, found[0], source, actor=actor, clock=clock)


def _begins(runs: list[str], text: str) -> list[str]:
    return [name for name in runs if text and (name.startswith(text) or name.endswith(text))]
