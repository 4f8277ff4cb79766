"""State is a fold over the journal's events: one function per kind of event, nothing kept beside it."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rbkit import events as ev
from rbkit.approvals import Approval, check_answer, check_confirmed, check_end, check_request, check_use, instant
from rbkit.entries import Entry
from rbkit.errors import IllegalMove
from rbkit.events import Event
from rbkit.machine import FINISHED, after
from rbkit.progress import Change, Check, Decision, Moment, Step, check_begun, check_ended, check_fallback, check_start

__all__ = ["RunState", "fold"]


@dataclass(slots=True)
class RunState:
    """Everything that is known of a run, folded from its journal."""

    run: str = ""
    state: str = "new"
    opened: ev.RunOpened | None = None
    started: str = ""
    ended: str = ""
    actor: str = ""
    starters: list[str] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    approvals: list[Approval] = field(default_factory=list)
    rolling: dict[str, ev.RollingPlanned] = field(default_factory=dict)
    rolled: dict[str, ev.RollingEnded] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    observations: int = 0
    session: int = 0
    purpose: str = ""
    since: str = ""
    digest: str = ""
    lost: str = ""
    confirm_until: str = ""
    cancel: str = ""
    awaits: ev.LeaseAwaited | None = None
    waited_s: float = 0.0
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

    @property
    def asks(self) -> Approval | None:
        """The request for approval that the run waits for, if any."""
        newest = self.approvals[-1] if self.approvals else None
        return newest if newest and not newest.result and self.state == "waiting" else None

    @property
    def denied(self) -> bool:
        """Whether somebody denied a change since this session began."""
        return any(approval.result == "denied" and approval.at >= self.since for approval in self.approvals)

    @property
    def waits_for(self) -> str:
        """For whom or what the run waits, and until when; empty when it does not."""
        if approval := self.asks:
            open_ = approval.request.needed - len(approval.given)
            who = ", ".join(approval.request.approvers)
            return f"{open_} approval(s) of step {approval.request.step} by {who} until {approval.request.until}"
        if self.state == "confirming":
            return f"a confirmation until {self.confirm_until}; without one it is rolled back"
        if self.awaits and not self.finished:
            return f"{self.awaits.target}, held by {self.awaits.holder} until {self.awaits.until}"
        return ""

    def approval(self, digest: str) -> Approval | None:
        """Find a request for approval by the digest of its plan."""
        return next((found for found in reversed(self.approvals) if found.request.digest == digest), None)

    def check(self, event: Event, at: str = "", actor: str = "") -> str:
        """Return the lifecycle state that an event leads to, and change nothing.

        Args:
            event: What is about to be written.
            at: When, UTC, ISO 8601.
            actor: By whom.

        Raises:
            IllegalMove: The lifecycle does not allow it here, it speaks of something that never began, or an
                approval does not allow it.
        """
        following = after(self.state, event.move)
        known, name = _spoken_of(self, event)
        if name is not None and name not in known:
            word = event.kind.replace("_", " ")
            raise IllegalMove(f"Nothing named {name!r} has begun in this run, so {word} is not possible.")
        _check_right(self, event, at, actor)
        return following

    def apply(self, entry: Entry, event: Event) -> None:
        """Take the next event.

        Raises:
            IllegalMove: `check` refuses it here.
        """
        self.state = self.check(event, entry.at, entry.actor)
        self.run = entry.run
        self.timeline.append(Moment(entry.at, entry.actor, entry.source, event))
        taker = _TAKERS.get(type(event))
        if taker:
            taker(self, entry, event)


def _check_right(state: RunState, event: Event, at: str, actor: str) -> None:
    """Refuse a session that is not newer, and whatever an approval or what is done already does not allow."""
    match event:
        case ev.SessionBegan() if event.session <= state.session:
            raise IllegalMove(f"Session {event.session} is not newer than session {state.session} of this run.")
        case ev.ApprovalRequested():
            check_request(event, at)
        case ev.ApprovalGiven() | ev.ApprovalDenied():
            check_answer(state.asks, event, at, actor, state.starters)
        case ev.ApprovalEnded():
            check_end(state.asks, state.approval(event.digest), event, at)
            instant((state.running_step and state.running_step.deadline) or at)  # it will be lengthened
        case ev.Confirmed():
            check_confirmed(state.confirm_until, state.cancel, at)
        case ev.ConfirmationRequested():
            instant(event.until)
        case ev.StepStarted():
            check_start(state.steps.get(event.step), event)
        case ev.FallbackChosen():
            check_fallback(state.steps[event.step], ending=state.purpose in {"roll_back", "abandon"})
        case ev.ChangeIntended(approval=str(approval)) if approval:
            check_begun(state.changes, event)
            check_use(state.approval(approval), event, at)
        case ev.ChangeIntended() | ev.ChangePlanned():
            check_begun(state.changes, event)
        case ev.ChangeDone() | ev.ChangeFailed() | ev.ChangeUnknown():
            check_ended(state.changes[event.key])


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


def _spoken_of(state: RunState, event: Event) -> tuple[Container[str], str | None]:
    """Return what an event goes on with: where it must stand, and its name; None when it begins anew."""
    match event:
        case ev.CheckEnded():
            return state.checks, event.name
        case ev.StepDone() | ev.StepPlanned() | ev.StepFailed() | ev.StepUnknown():
            return state.steps, event.step
        case ev.ChangeDone() | ev.ChangeFailed() | ev.ChangeUnknown():
            return state.changes, event.key
        case ev.ChangeIntended():
            return state.changes, event.undoes or event.repeats or None
        case ev.FallbackChosen() | ev.ApprovalRequested() | ev.RollingPlanned():
            return state.steps, event.step
        case ev.RollingEnded():
            return state.rolling, event.step
    return (), None


def _opened(state: RunState, entry: Entry, event: ev.RunOpened) -> None:
    state.opened, state.started, state.actor, state.starters = event, entry.at, entry.actor, [entry.actor]
    state.session, state.since, state.digest = 1, entry.at, event.digest


def _session(state: RunState, entry: Entry, event: ev.SessionBegan) -> None:
    """Nothing runs any more; what was in progress is marked so, and a request to stop was for the session before."""
    state.session, state.since, state.digest = event.session, entry.at, event.digest or state.digest
    why = event.why or "its process was lost"
    state.purpose, state.lost = event.purpose, why if event.purpose == "interruption" else ""
    if event.purpose == "resume":
        state.starters.append(entry.actor)
    state.rollback_why = "" if state.rollback else state.rollback_why
    state.outcome = state.reason = state.ended = state.cancel = state.confirm_until = ""
    state.awaits = state.rollback = state.sealed = None
    state.waited_s = 0.0
    _interrupt(state, entry.at, why)


def _interrupt(state: RunState, at: str, why: str) -> None:
    """Mark what was in progress when a process was lost: steps, checks, and requests that nobody waits for any more."""
    for step in state.steps.values():
        if step.state == "running":
            step.state, step.why, step.ended = "interrupted", why, at
    for check in state.checks.values():
        check.verdict = "" if check.verdict == "RUNNING" else check.verdict
    for approval in state.approvals:
        approval.begun = False
        if not approval.result:
            approval.result, approval.why = "void", why


def _awaited(state: RunState, entry: Entry, event: ev.LeaseAwaited) -> None:
    state.awaits = event


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
    step.ended, step.seconds, state.awaits = entry.at, event.seconds, None
    step.why = getattr(event, "why", "")
    step.result = getattr(event, "result", None)


def _step_skipped(state: RunState, entry: Entry, event: ev.StepSkipped) -> None:
    state.steps[event.step] = Step(event.step, "skipped", why=event.why, started=entry.at, ended=entry.at)


def _change_begun(state: RunState, entry: Entry, event: ev.ChangeIntended | ev.ChangePlanned) -> None:
    state.changes[event.key] = Change(
        event.key, event.step, event.call, event.before, event.after, event.differs, event.inverse,
        event.irreversible, getattr(event, "undoes", ""), getattr(event, "repeats", ""),
        "planned" if isinstance(event, ev.ChangePlanned) else "intended", at=entry.at,
    )  # fmt: skip
    state.awaits = None
    if approval := state.approval(getattr(event, "approval", "")):
        approval.used.append(str(event.call))
        approval.begun = True


def _change_done(state: RunState, entry: Entry, event: ev.ChangeDone) -> None:
    change = state.changes[event.key]
    change.state, change.how, change.after = "done", event.how, event.after
    if change.undoes:
        state.changes[change.undoes].undone = True


def _change_lost(state: RunState, entry: Entry, event: ev.ChangeFailed | ev.ChangeUnknown) -> None:
    change = state.changes[event.key]
    change.state, change.why = event.kind.removeprefix("change_"), event.why


def _approval_requested(state: RunState, entry: Entry, event: ev.ApprovalRequested) -> None:
    state.approvals.append(Approval(event, entry.at))


def _approval_given(state: RunState, entry: Entry, event: ev.ApprovalGiven) -> None:
    state.approvals[-1].given[entry.actor] = event.reason


def _approval_denied(state: RunState, entry: Entry, event: ev.ApprovalDenied) -> None:
    state.approvals[-1].denied, state.approvals[-1].reason = entry.actor, event.reason


def _approval_ended(state: RunState, entry: Entry, event: ev.ApprovalEnded) -> None:
    """Close a request; the time it waited is nobody's fault, so it lengthens the step and the run."""
    approval = next(found for found in reversed(state.approvals) if found.request.digest == event.digest)
    if not approval.result:
        _lengthen(state, instant(entry.at) - instant(approval.at))
    approval.result, approval.why = event.result, event.why
    approval.granted = entry.at if event.result == "granted" else approval.granted


def _lengthen(state: RunState, waited: timedelta) -> None:
    state.waited_s += waited.total_seconds()
    step = state.running_step
    if step and step.deadline:
        step.deadline = (instant(step.deadline) + waited).isoformat(timespec="microseconds")


def _confirmation(state: RunState, entry: Entry, event: ev.ConfirmationRequested) -> None:
    state.confirm_until = event.until


def _rolling_planned(state: RunState, entry: Entry, event: ev.RollingPlanned) -> None:
    state.rolling[event.step] = event


def _rolling_ended(state: RunState, entry: Entry, event: ev.RollingEnded) -> None:
    state.rolled[event.step] = event


def _fallback(state: RunState, entry: Entry, event: ev.FallbackChosen) -> None:
    state.fallbacks[event.step] = event.otherwise
    state.steps[event.step].state = "replaced"


def _cancel(state: RunState, entry: Entry, event: ev.CancelRequested) -> None:
    state.cancel = state.cancel or event.reason


def _rollback_started(state: RunState, entry: Entry, event: ev.RollbackStarted) -> None:
    state.rollback_why = event.why


def _rollback_ended(state: RunState, entry: Entry, event: ev.RollbackEnded) -> None:
    state.rollback, state.awaits = event, None


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
    ev.SessionBegan: _session,
    ev.LeaseAwaited: _awaited,
    ev.ApprovalRequested: _approval_requested,
    ev.ApprovalGiven: _approval_given,
    ev.ApprovalDenied: _approval_denied,
    ev.ApprovalEnded: _approval_ended,
    ev.ConfirmationRequested: _confirmation,
    ev.RollingPlanned: _rolling_planned,
    ev.RollingEnded: _rolling_ended,
    ev.FallbackChosen: _fallback,
    ev.CancelRequested: _cancel,
    ev.RollbackStarted: _rollback_started,
    ev.RollbackEnded: _rollback_ended,
    ev.RunClosed: _closed,
    ev.RecordSealed: _sealed,
}
