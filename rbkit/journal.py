"""Append, chain, fold: the one bookkeeping of a run."""

import getpass
import os
import threading
from collections.abc import Callable, Iterable

from rbkit.clock import Clock, SystemClock
from rbkit.entries import Entry, intact, read_event, seal_entry
from rbkit.errors import Fenced, IllegalMove, JournalBroken, NotFound
from rbkit.events import Event, SessionBegan
from rbkit.fold import RunState
from rbkit.machine import FROM_OUTSIDE
from rbkit.masking import any_known, masked
from rbkit.resilience import patiently
from rbkit.store import Store

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
    """Fold an entry that came from the store: what cannot stand there was not written by rbkit."""
    try:
        state.apply(entry, read_event(entry))
    except IllegalMove as error:
        raise JournalBroken(f"Entry {entry.seq} cannot stand where it stands: {error}", seq=entry.seq) from error


def _anything(state: RunState) -> None:
    return


class Journal:
    """The journal of one run, as one process sees it.

    Args:
        store: Where it is kept.
        run: The run's id.
        source: Which process writes: kernel, supervisor or cli.
        actor: Who acts; the operating system's user when not given.
        clock: Where the time comes from.
        session: Which session of the run this process belongs to, 1 for the one that opens it; 0 for an onlooker,
            who may only ask it to stop, approve, deny and confirm.
    """

    def __init__(
        self, store: Store, run: str, source: str, *, actor: str = "", clock: Clock | None = None, session: int = 1
    ) -> None:
        self.store, self.run, self.source, self.session = store, run, source, session
        self.actor = (actor or operator()).encode("utf-8", "backslashreplace").decode()
        self.clock = clock or SystemClock()
        self._entries: list[Entry] = []
        self._state = RunState()
        self._torn = False
        self._lock = threading.RLock()

    @property
    def state(self) -> RunState:
        """The run's state as of now, whoever wrote last."""
        self.refresh()
        return self._state

    @property
    def known(self) -> RunState:
        """The run's state as this process saw it last, without asking the store."""
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
            StoreUnavailable: The store stayed away for longer than rbkit waits.
        """
        with self._lock:
            if self._torn:  # an interrupt came while an entry was taken in, which stands in the store
                self._entries, self._state, self._torn = [], RunState(), False
            for entry in patiently(lambda: self.store.read(self.run, len(self._entries)), self.clock):
                _check_link(entry, len(self._entries), self._last, self.run)
                self._torn = True
                _apply(self._state, entry)
                self._entries.append(entry)
                self._torn = False

    @property
    def _last(self) -> str:
        return self._entries[-1].hash if self._entries else ""

    def append(self, event: Event, guard: Callable[[RunState], None] | None = None) -> Entry:
        """Write an event durably, after everything that stands; legal or not at all.

        Args:
            event: What happened.
            guard: Raises what it likes when the event must not follow the state that it is shown; nothing can be
                written between its last look and the event.

        Returns:
            The entry as written.

        Raises:
            IllegalMove: The lifecycle does not allow it now, or it speaks of something that never began.
            Fenced: Another process has taken the run over.
            JournalBroken: The store has lost entries that were there.
            StoreUnavailable: It could not be written; it did not happen, or nobody can say.
        """
        event = _without_secrets(event)
        with self._lock:
            while True:
                entry = self._next(event, guard or _anything)
                if patiently(lambda entry=entry: self.store.append(entry), self.clock):  # type: ignore[misc]
                    return self._written(entry, event)
                self.refresh()
                if len(self._entries) == entry.seq:
                    place = len(patiently(lambda: self.store.read(self.run), self.clock))
                    raise JournalBroken(f"Entry {place} was there and is gone from the store.", seq=place)

    def _next(self, event: Event, guard: Callable[[RunState], None]) -> Entry:
        """Make the next entry if it is legal; look once more before refusing it, as others may have written."""
        now = self.clock.now().isoformat(timespec="microseconds")
        try:
            self._check(event, now)
        except (IllegalMove, Fenced):
            self.refresh()
            self._check(event, now)
        guard(self._state)
        return seal_entry(self.run, len(self._entries), now, self.actor, self.source, event, self._last)

    def _check(self, event: Event, at: str) -> None:
        if self._state.session != self.session and not isinstance(event, SessionBegan):
            self._check_stranger(event)
        self._state.check(event, at, self.actor)

    def _check_stranger(self, event: Event) -> None:
        """Let an onlooker write only what anybody may say to a run, and whoever has lost the run nothing at all."""
        if not self._state.session or (not self.session and event.move in FROM_OUTSIDE):
            return
        if not self.session:
            raise IllegalMove(f"This process does not hold the run, so {event.move.replace('_', ' ')} is not possible.")
        raise Fenced(f"The run {self.run} was taken over (session {self._state.session}, this is {self.session}).")

    def _written(self, entry: Entry, event: Event) -> Entry:
        self._torn = True
        self._state.apply(entry, event)
        self._entries.append(entry)
        self._torn = False
        if isinstance(event, SessionBegan):
            self.session = event.session
        return entry


def _without_secrets(event: Event) -> Event:
    """Mask what this process has fetched, should it stand in an error or an answer."""
    if not any_known():
        return event
    said = event.model_dump(mode="json")
    shown = masked(said)
    return event if shown == said else type(event).model_validate(shown)


def existing(store: Store, run: str, source: str, *, actor: str = "", clock: Clock | None = None) -> Journal:
    """Open the journal of a run that is there, as an onlooker.

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
    return Journal(store, found[0], source, actor=actor, clock=clock, session=0)


def _begins(runs: list[str], text: str) -> list[str]:
    return [name for name in runs if text and (name.startswith(text) or name.endswith(text))]
