"""The protocol of a store: journals, tapes, leases and notes that several processes share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rbkit.entries import Entry

__all__ = ["SLACK_S", "Lease", "Now", "Store"]

Now = datetime | Callable[[], datetime]
"""A time, or what tells it."""

SLACK_S = 5.0
"""By how much two looks at the clock may disagree without anybody having set it back, seconds."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on something for a while, and the token that proves how recent the right is.

    Args:
        name: What it is about, for example `run:20260101-000000-aaaaaa` or `target:production/checkout-2`.
        holder: Who holds it, for example `20260101-000000-aaaaaa#1`; empty when it was given back.
        token: Higher with every new holder, and never lower again.
        until: When it ends unless it is renewed, UTC.
        ttl_s: For how long it was given, seconds.
    """

    name: str
    holder: str
    token: int
    until: datetime
    ttl_s: float

    def live(self, now: datetime) -> bool:
        """Tell whether it holds; an end much further away than it was given for means that the clock was set back."""
        return bool(self.holder) and now < self.until <= now + timedelta(seconds=self.ttl_s + SLACK_S)


class Store(Protocol):
    """Keeps journals, tapes, leases and notes. Several processes may use it at once."""

    def append(self, entry: Entry) -> bool:
        """Write an entry durably if its place is free and the next one: a journal has no holes.

        Returns:
            False when another process has written that place first, or the entry before it is not there.

        Raises:
            StoreUnavailable: It could not be written.
        """

    def read(self, run: str, start: int = 0) -> list[Entry]:
        """Read a run's entries from a place on, in order."""

    def runs(self) -> list[str]:
        """List the runs, newest first."""

    def keep(self, name: str, data: bytes) -> None:
        """Keep an answer on the tape under its digest; keeping it twice is fine."""

    def fetch(self, name: str) -> bytes | None:
        """Read an answer from the tape; None when it is not there."""

    def acquire(self, name: str, holder: str, now: Now, ttl_s: float, fresh: bool = False) -> Lease:
        """Take a lease if nobody else holds it, in one atomic step.

        Args:
            name: What it is about.
            holder: Who wants it.
            now: What tells the time, UTC; it is asked when the store holds its lock, as a time that was read before
                may be old by then. Or a time, where that cannot be.
            ttl_s: For how long, seconds.
            fresh: Whether the caller wants a higher token although it holds the lease already.

        Returns:
            The lease as it stands then: the caller's if `holder` is the caller. One that the caller held and that
            is live keeps its token and is prolonged; any other that the caller gets has a higher token.

        Raises:
            StoreUnavailable: It could not be written.
        """

    def renew(self, holder: str, now: datetime, ttl_s: float) -> list[Lease]:
        """Prolong everything that a holder still holds, also what has lapsed and nobody has taken.

        Returns:
            What it holds, by name.
        """

    def release(self, holder: str) -> None:
        """Give back everything that a holder holds; the tokens stay."""

    def leases(self) -> list[Lease]:
        """List every lease that somebody holds, live or lapsed, by name."""

    def recall(self, name: str) -> tuple[int, str]:
        """Read a note: something small that changes, and is about no single run.

        Returns:
            Its version and its text; `(0, "")` when nobody has written it.
        """

    def note(self, name: str, version: int, text: str) -> bool:
        """Write a note in place of the version that was read.

        Args:
            name: What it is about, for example `breaker:production/source metrics`.
            version: The version that was read.
            text: The new text.

        Returns:
            False when somebody else has written it meanwhile.

        Raises:
            StoreUnavailable: It could not be written.
        """

    def notes(self, prefix: str) -> dict[str, str]:
        """Read every note whose name begins so, by name."""

    def close(self) -> None:
        """Give back what was opened."""
