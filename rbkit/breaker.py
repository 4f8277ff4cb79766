"""When an endpoint is left alone: a pure table of what a breaker allows and what it becomes. Its state is a note.

Every run is a new kernel, so that a breaker that lived in one process would never open. It is a value here; the
store keeps it for everybody.
"""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["FAILURES", "OPEN_S", "PROBE_S", "Breaker"]

FAILURES = 3
"""So many failures one after the other open a breaker."""
OPEN_S = 30.0
"""For how long an endpoint is left alone before somebody may probe it, seconds."""
PROBE_S = 20.0
"""How long a probe may take; one that has not come back by then has failed, seconds."""


class Breaker(BaseModel):
    """A breaker as it stands.

    Args:
        failures: How many calls have failed since the last one that worked.
        until: Before this time nobody calls; empty while it is closed.
        probe: Until when a probe is under way; empty when there is none.
        forced: What a person has set it to.
        by: Who has.
        why: Why it is open, or why it was forced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    failures: int = 0
    until: datetime | None = None
    probe: datetime | None = None
    forced: Literal["", "open", "closed"] = ""
    by: str = ""
    why: str = ""

    def word(self, now: datetime) -> str:
        """Say how it stands: `closed`, `open` or `half open`, and whether a person has set it so."""
        if self.forced:
            return f"{self.forced} (set by {self.by})"
        if self.until is None:
            return "closed"
        return "half open" if now >= self._free_at(self.until) else "open"

    def refusal(self, now: datetime) -> str:
        """Say why nobody may call now; empty when one may."""
        if self.forced == "open":
            return f"{self.by} has set it to open: {self.why}"
        if self.forced or self.until is None or now >= self._free_at(self.until):
            return ""
        if self.probe and now < self.probe:
            return f"somebody probes it until {self.probe:%H:%M:%SZ}; before that: {self.why}"
        return f"it failed {self.failures} times; try again at {self._free_at(self.until):%H:%M:%SZ}: {self.why}"

    def _free_at(self, until: datetime) -> datetime:
        """When the next call may be made: a probe that never came back opens it again, from its deadline on."""
        return self.probe + timedelta(seconds=OPEN_S) if self.probe else until

    def entered(self, now: datetime) -> "Breaker":
        """What it becomes when somebody calls: of an open one that call is the probe."""
        if self.forced or self.until is None:
            return self
        return self.model_copy(update={"probe": now + timedelta(seconds=PROBE_S)})

    def failed(self, now: datetime, why: str) -> "Breaker":
        """What it becomes when a call fails: open after three in a row, and again after a probe."""
        failures = self.failures + 1
        until = now + timedelta(seconds=OPEN_S) if failures >= FAILURES else None
        return self.model_copy(
            update={"failures": failures, "until": until, "probe": None} | ({} if self.forced else {"why": why})
        )

    def worked(self) -> "Breaker":
        """What it becomes when a call works: closed, unless a person has set it."""
        if self.forced:
            return self.model_copy(update={"failures": 0, "until": None, "probe": None})
        return Breaker()

    def set_to(self, word: Literal["", "open", "closed"], by: str, why: str) -> "Breaker":
        """What it becomes when a person sets it; an empty word lets it decide for itself again."""
        return Breaker(forced=word, by=by, why=why) if word else Breaker()
