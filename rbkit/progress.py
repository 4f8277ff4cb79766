"""What a run consists of so far: its changes, steps, checks and decisions, as the fold keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rbkit import events as ev
from rbkit.errors import IllegalMove
from rbkit.events import Call, Event

__all__ = [
    "Change", "Check", "Decision", "Moment", "Step", "check_begun", "check_ended", "check_fallback", "check_start",
]  # fmt: skip


@dataclass(slots=True, repr=False)
class Change:
    """A change and what became of it."""

    key: str
    step: str
    call: Call
    before: dict[str, Any]
    planned: dict[str, Any]
    differs: dict[str, Any]
    inverse: Call | None
    irreversible: str
    undoes: str = ""
    repeats: str = ""
    state: str = "intended"
    how: str = ""
    after: dict[str, Any] | None = None
    why: str = ""
    at: str = ""
    undone: bool = False

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return f"{self.call}: {self.how or self.state}, {self.moved}"

    def _repr_markdown_(self) -> str:
        """Show it in a notebook."""
        undo = f"undo by `{self.inverse}`" if self.inverse else f"cannot be undone: {self.irreversible}"
        return f"**{self.call}** · {self.how or self.state} · {self.moved} · {undo}"

    @property
    def moved(self) -> str:
        """What is different, as `key before → after`; `nothing changed` when it held already."""
        after = self.after if self.after is not None else self.planned
        keys = [key for key in self.planned if self.before.get(key) != after.get(key)] + list(self.differs)
        moves = [f"{key} {self.before.get(key)} → {after.get(key, 'another')}" for key in keys]
        return ", ".join(moves) or "nothing changed"

    @property
    def acted(self) -> bool:
        """Whether it changed the world, or may have, and was not undone."""
        return not self.undone and (self.in_doubt or (self.state == "done" and self.how != "already"))

    @property
    def in_doubt(self) -> bool:
        """Whether nobody knows if it was made."""
        return self.state in {"intended", "unknown"}


@dataclass(slots=True)
class Step:
    """A step and where it stands: running, done, planned, skipped, failed, unknown, replaced or interrupted."""

    name: str
    state: str
    intent: str = ""
    risk: str = ""
    deadline: str = ""
    result: Any = None
    why: str = ""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Check:
    """A precondition or postcondition and its verdict."""

    name: str
    phase: str
    sentence: str = ""
    verdict: str = ""
    why: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Decision:
    """What the rules said."""

    event: ev.Decided
    at: str


@dataclass(slots=True)
class Moment:
    """One line of the timeline."""

    at: str
    actor: str
    source: str
    event: Event


def check_start(known: Step | None, event: ev.StepStarted) -> None:
    """Refuse to begin a step that is done.

    Raises:
        IllegalMove: It is done already.
    """
    if known and known.state == "done":
        raise IllegalMove(f"Step {event.step} is done; what is done is never repeated.")


def check_fallback(step: Step, *, ending: bool) -> None:
    """Refuse to replace a step that may have acted, or any step of a run that is being ended.

    Raises:
        IllegalMove: It did not certainly fail, or the run was taken over to be ended.
    """
    if step.state != "failed" or ending:
        why = "the run is being ended" if ending else f"it is {step.state}, not failed"
        raise IllegalMove(f"Step {step.name} cannot be replaced by another: {why}.")


def check_begun(changes: Mapping[str, Change], event: ev.ChangeIntended | ev.ChangePlanned) -> None:
    """Refuse to begin a change under a key that is taken, or to undo what is undone.

    Raises:
        IllegalMove: It would be done twice.
    """
    undone = changes.get(getattr(event, "undoes", ""))
    if event.key in changes or (undone and undone.undone):
        raise IllegalMove(f"{event.call} was begun already as {event.key}, or what it undoes is undone.")


def check_ended(change: Change) -> None:
    """Refuse a result for a change that has one.

    Raises:
        IllegalMove: It is known already what became of it.
    """
    if not change.in_doubt:
        raise IllegalMove(f"{change.call} ({change.key}) is {change.state} already.")
