"""A store in memory: for tests, and for trying things out."""

from dataclasses import replace
from datetime import datetime, timedelta
from threading import Lock

from rbkit.entries import Entry
from rbkit.store import Lease, Now
from rbkit.stores.leases import take

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps journals, tapes, leases and notes in this process only; several threads may use it at once."""

    def __init__(self) -> None:
        self.journals: dict[str, list[Entry]] = {}
        self.tape: dict[str, bytes] = {}
        self.taken: dict[str, Lease] = {}
        self.noted: dict[str, tuple[int, str]] = {}
        self._lock = Lock()

    def append(self, entry: Entry) -> bool:
        """Write an entry if its place is free and the next one; writing it twice is fine."""
        with self._lock:
            entries = self.journals.setdefault(entry.run, [])
            if entry.seq == len(entries):
                entries.append(entry)
            return entry.seq < len(entries) and entries[entry.seq].hash == entry.hash

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read a run's entries from a place on."""
        return self.journals.get(run, [])[start:]

    def runs(self) -> list[str]:
        """List the runs, newest first."""
        with self._lock:
            return sorted((run for run, entries in self.journals.items() if entries), reverse=True)

    def keep(self, name: str, data: bytes) -> None:
        """Keep an answer on the tape."""
        self.tape.setdefault(name, data)

    def fetch(self, name: str) -> bytes | None:
        """Read an answer from the tape."""
        return self.tape.get(name)

    def acquire(self, name: str, holder: str, now: Now, ttl_s: float, fresh: bool = False) -> Lease:
        """Take a lease if nobody else holds it."""
        with self._lock:
            self.taken[name] = take(self.taken.get(name), name, holder, now, ttl_s, fresh=fresh)
            return self.taken[name]

    def renew(self, holder: str, now: datetime, ttl_s: float) -> list[Lease]:
        """Prolong everything that a holder still holds."""
        until = now + timedelta(seconds=ttl_s)
        with self._lock:
            held = [replace(lease, until=until, ttl_s=ttl_s) for lease in self._held() if lease.holder == holder]
            self.taken.update({lease.name: lease for lease in held})
            return held

    def release(self, holder: str) -> None:
        """Give back everything that a holder holds; the tokens stay."""
        with self._lock:
            self.taken.update(
                {lease.name: replace(lease, holder="") for lease in self._held() if lease.holder == holder}
            )

    def leases(self) -> list[Lease]:
        """List every lease that somebody holds, by name."""
        with self._lock:
            return self._held()

    def recall(self, name: str) -> tuple[int, str]:
        """Read a note."""
        return self.noted.get(name, (0, ""))

    def note(self, name: str, version: int, text: str) -> bool:
        """Write a note in place of the version that was read."""
        with self._lock:
            if self.recall(name)[0] != version:
                return False
            self.noted[name] = (version + 1, text)
            return True

    def notes(self, prefix: str) -> dict[str, str]:
        """Read every note whose name begins so."""
        with self._lock:
            return {name: text for name, (_, text) in sorted(self.noted.items()) if name.startswith(prefix)}

    def close(self) -> None:
        """Nothing to give back."""

    def _held(self) -> list[Lease]:
        return sorted((lease for lease in self.taken.values() if lease.holder), key=lambda lease: lease.name)
