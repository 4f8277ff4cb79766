"""A store in memory: for tests, and for trying things out."""

from rbkit.entries import Entry

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps journals and tapes in this process only."""

    def __init__(self) -> None:
        self.journals: dict[str, list[Entry]] = {}
        self.tape: dict[str, bytes] = {}

    def append(self, entry: Entry) -> bool:
        """Write an entry if its place is free and the next one."""
        entries = self.journals.setdefault(entry.run, [])
        if entry.seq != len(entries):
            return False
        entries.append(entry)
        return True

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read a run's entries from a place on."""
        return self.journals.get(run, [])[start:]

    def runs(self) -> list[str]:
        """List the runs, newest first."""
        return sorted((run for run, entries in self.journals.items() if entries), reverse=True)

    def keep(self, name: str, data: bytes) -> None:
        """Keep an answer on the tape."""
        self.tape.setdefault(name, data)

    def fetch(self, name: str) -> bytes | None:
        """Read an answer from the tape."""
        return self.tape.get(name)

    def close(self) -> None:
        """Nothing to give back."""
