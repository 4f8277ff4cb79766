"""State is a fold over the journal's events: one function per kind of event, nothing kept beside it."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from rbkit import events as ev
from rbkit.entries import Entry
from rbkit.errors import IllegalMove
from rbkit.events import Call, Event
from rbkit.machine import FINISHED, after

__all__ = ["Change", "Check", "Decision", "Moment", "RunState", "Step", "fold"]


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
    """A step and where it stands: running, done, planned, skipped, failed or unknown."""

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


@dataclass(slots=True)
class RunState:
    """Everything that is known of a run, folded from its journal."""

    run: str = ""
    state: str = "new"
    opened: ev.RunOpened | None = None
    started: str = ""
    ended: str = ""
    actor: str = ""
    steps: dict[str, Step] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    observations: int = 0
    cancel: str = ""
    waits_for: str = ""
    rollback: ev.RollbackEnded | None = None
    rollback_why: str = ""
    outcome: str = ""
    reason: str = ""
    sealed: ev.RecordSealed | None = None
    timeline: list[Moment] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.state in FINISHED

    @property
    def running_step(self) -> Step | None:
        """The step that is in progress, if any."""
        return next((step for step in self.steps.values() if step.state == "running"), None)

    def check(self, event: Event) -> str:
        """Return the lifecycle state that an event leads to, and change nothing.

        Raises:
            IllegalMove: The lifecycle does not allow it here, or it speaks of something that never began.
        """
        following = after(self.state, event.move)
        known, name = _spoken_of(self, event)
        if name and name not in known:
            word = event.kind.replace("_", " ")
            raise IllegalMove(f"Nothing named {name!r} has begun in this run, so {word} is not possible.")
        return following

    def apply(self, entry: Entry, event: Event) -> None:
        """Take the next event.

        Raises:
            IllegalMove: `check` refuses it here.
        """
        self.state = self.check(event)
        self.run = entry.run
        self.timeline.append(Moment(entry.at, entry.actor, entry.source, event))
        taker = _TAKERS.get(type(event))
        if taker:
            taker(self, entry, event)


def fold(entries: Iterable[tuple[Entry, Event]]) -> RunState:
    """Fold a journal into the state of its run.

    Args:
        entries: Entries in order, each with its event.

    Returns:
        The state; a fresh one for an empty journal.

    Raises:
        IllegalMove: An event came where the lifecycle does not allow it.
    """
    state = RunState()
    for entry, event in entries:
        state.apply(entry, event)
    return state


def _spoken_of(state: RunState, event: Event) -> tuple[Container[str], str]:
    """Return what an event goes on with: where it must stand, and its name; an empty name when it begins anew."""
    match event:
        case ev.CheckEnded():
            return state.checks, event.name
        case ev.StepDone() | ev.StepPlanned() | ev.StepFailed() | ev.StepUnknown():
            return state.steps, event.step
        case ev.ChangeDone() | ev.ChangeFailed() | ev.ChangeUnknown():
            return state.changes, event.key
        case ev.ChangeIntended():
            return state.changes, event.undoes
    return (), ""


def _opened(state: RunState, entry: Entry, event: ev.RunOpened) -> None:
    state.opened, state.started, state.actor = event, entry.at, entry.actor


def _check_started(state: RunState, entry: Entry, event: ev.CheckStarted) -> None:
    state.checks[event.name] = Check(event.name, event.phase, event.sentence, "RUNNING")


def _check_ended(state: RunState, entry: Entry, event: ev.CheckEnded) -> None:
    check = state.checks[event.name]
    check.verdict, check.why, check.seconds = event.verdict, event.why, event.seconds


def _check_skipped(state: RunState, entry: Entry, event: ev.CheckSkipped) -> None:
    state.checks[event.name] = Check(event.name, event.phase, verdict="SKIPPED", why=event.why)


def _decided(state: RunState, entry: Entry, event: ev.Decided) -> None:
    state.decisions.append(Decision(event, entry.at))


def _observed(state: RunState, entry: Entry, event: ev.Observed) -> None:
    state.observations += 1


def _answered(state: RunState, entry: Entry, event: ev.Answered) -> None:
    state.answers[event.name] = event.answer


def _step_started(state: RunState, entry: Entry, event: ev.StepStarted) -> None:
    state.steps[event.step] = Step(event.step, "running", event.intent, event.risk, event.deadline, started=entry.at)


def _step_ended(
    state: RunState, entry: Entry, event: ev.StepDone | ev.StepPlanned | ev.StepFailed | ev.StepUnknown
) -> None:
    step = state.steps[event.step]
    step.state = event.kind.removeprefix("step_")
    step.ended, step.seconds = entry.at, event.seconds
    step.why = getattr(event, "why", "")
    step.result = getattr(event, "result", None)


def _step_skipped(state: RunState, entry: Entry, event: ev.StepSkipped) -> None:
    state.steps[event.step] = Step(event.step, "skipped", why=event.why, started=entry.at, ended=entry.at)


def _change_begun(state: RunState, entry: Entry, event: ev.ChangeIntended | ev.ChangePlanned) -> None:
    state.changes[event.key] = Change(
        event.key, event.step, event.call, event.before, event.after, event.differs, event.inverse,
        event.irreversible, getattr(event, "undoes", ""),
        "planned" if isinstance(event, ev.ChangePlanned) else "intended", at=entry.at,
    )  # fmt: skip


def _change_done(state: RunState, entry: Entry, event: ev.ChangeDone) -> None:
    change = state.changes[event.key]
    change.state, change.how, change.after = "done", event.how, event.after
    if change.undoes:
        state.changes[change.undoes].undone = True


def _change_lost(state: RunState, entry: Entry, event: ev.ChangeFailed | ev.ChangeUnknown) -> None:
    change = state.changes[event.key]
    change.state, change.why = event.kind.removeprefix("change_"), event.why


def _approval_requested(state: RunState, entry: Entry, event: ev.ApprovalRequested) -> None:
    state.waits_for = f"{event.needed} approval(s) for step {event.step} (risk {event.risk})"


def _cancel(state: RunState, entry: Entry, event: ev.CancelRequested) -> None:
    state.cancel = state.cancel or event.reason


def _rollback_started(state: RunState, entry: Entry, event: ev.RollbackStarted) -> None:
    state.rollback_why = event.why


def _rollback_ended(state: RunState, entry: Entry, event: ev.RollbackEnded) -> None:
    state.rollback = event


def _closed(state: RunState, entry: Entry, event: ev.RunClosed) -> None:
    state.outcome, state.reason, state.ended = event.outcome, event.reason, entry.at


def _sealed(state: RunState, entry: Entry, event: ev.RecordSealed) -> None:
    state.sealed = event


_TAKERS: dict[type[Event], Callable[[RunState, Entry, Any], None]] = {
    ev.RunOpened: _opened,
    ev.CheckStarted: _check_started,
    ev.CheckEnded: _check_ended,
    ev.CheckSkipped: _check_skipped,
    ev.Observed: _observed,
    ev.Decided: _decided,
    ev.Answered: _answered,
    ev.StepStarted: _step_started,
    ev.StepDone: _step_ended,
    ev.StepPlanned: _step_ended,
    ev.StepFailed: _step_ended,
    ev.StepUnknown: _step_ended,
    ev.StepSkipped: _step_skipped,
    ev.ChangeIntended: _change_begun,
    ev.ChangePlanned: _change_begun,
    ev.ChangeDone: _change_done,
    ev.ChangeFailed: _change_lost,
    ev.ChangeUnknown: _change_lost,
    ev.ApprovalRequested: _approval_requested,
    ev.CancelRequested: _cancel,
    ev.RollbackStarted: _rollback_started,
    ev.RollbackEnded: _rollback_ended,
    ev.RunClosed: _closed,
    ev.RecordSealed: _sealed,
}
