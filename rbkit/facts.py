"""What every event is made of: its base, a call as data, and the words that several events share."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Call", "Event", "Json", "Mode", "Outcome", "Phase", "Purpose", "Verdict4"]

Mode = Literal["live", "dry_run", "replay", "resume"]
Outcome = Literal["resolved", "not_applicable", "rolled_back", "failed", "needs_operator", "aborted", "unknown"]
Phase = Literal["precondition", "postcondition"]
Purpose = Literal["resume", "roll_back", "abandon", "interruption"]
Verdict4 = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR"]
Json = dict[str, Any]


class Event(BaseModel):
    """Something that happened; never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str

    @property
    def move(self) -> str:
        """The name under which the lifecycle table knows this event."""
        return self.kind


class Call(BaseModel):
    """A change as data: any process with the environment file can make it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    capability: str
    action: str
    target: str
    arguments: Json = {}

    def __str__(self) -> str:
        extra = "".join(f", {key}={value!r}" for key, value in self.arguments.items())
        return f"{self.capability}.{self.action}({self.target}{extra})"
