"""Runs one step: start, work under a deadline, result; on failure an alternative, or the run is ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

from rbkit import errors
from rbkit import events as ev
from rbkit.contract import StepSpec
from rbkit.ending import question, refuse_stranger
from rbkit.fold import RunState
from rbkit.gate import Gate, current_step
from rbkit.resilience import patiently
from rbkit.results import pack, unpack
from rbkit.values import human

__all__ = ["INTERRUPTED", "LEAVE", "Line", "Stepper", "run_step"]

WATCH_S = 0.25
"""How often a running step looks whether somebody asked it to stop, seconds."""
GRACE_S = 1.0
"""How long work that is cancelled has to journal what it left in doubt, seconds."""
INTERRUPTED = "interrupted"
"""The reason of a request to stop that came from the keyboard."""
LEAVE = "roll back"
"""The answer that takes no alternative."""
Work = Callable[[], Awaitable[Any]]


class Line(Protocol):
    """Shows one line."""

    def line(self, glyph: str, text: str) -> None:
        """Show one line."""


@dataclass(frozen=True, slots=True)
class Stepper:
    """What a step needs of its run.

    Args:
        gate: The way to the world.
        screen: Where progress is shown.
        fail: Ends the run and returns the error to raise.
        others: The steps of this run by name, with what runs them: the alternatives are among them.
        ask: Asks a person (prompt, options, default); None when nobody is attached.
    """

    gate: Gate
    screen: Line
    fail: Callable[[errors.RunEnded], Awaitable[errors.RunEnded]]
    others: Mapping[str, tuple[StepSpec, Work]]
    ask: Callable[[str, list[str], str], str] | None = None


async def run_step(stepper: Stepper, spec: StepSpec, work: Work) -> Any:
    """Run a step, once.

    Args:
        stepper: What it needs of its run.
        spec: The step.
        work: Calls the notebook's function.

    Returns:
        The function's result; the journaled one when the step is done already; None when it is skipped.

    Raises:
        RunEnded: The step failed, was stopped or was not approved; the run has been rolled back and closed.
        IllegalMove: The run is over, or another step is running.
        Fenced: Another process has taken the run over.
    """
    journal = stepper.gate.journal
    state = journal.state
    known = state.steps.get(spec.name)
    if known and known.state == "done":
        stepper.screen.line("✓", f"{spec.name}: done before, not repeated")
        if state.state == "open":
            _skip_alternatives(stepper, spec)  # its process may have died before it came to that
        return patiently(lambda: unpack(known.result, journal.store, state.changes), journal.clock)
    if known and known.state == "replaced":
        return await _instead(stepper, state.fallbacks[spec.name])
    if why := _needless(stepper, spec, state):
        return _skipped(stepper, spec.name, why)
    _start(stepper, spec)
    return await _work(stepper, spec, work)


def _needless(stepper: Stepper, spec: StepSpec, state: RunState) -> str:
    """Say why a step is not to be made; empty when it is."""
    if state.state == "concluded":
        return "nothing is to be done"
    if spec.name not in state.steps or state.steps[spec.name].state != "skipped":
        return ""
    over = [name for name, step in state.steps.items() if step.state in {"done", "planned", "replaced"}]
    of = [name for name in over if name in stepper.others and spec.name in stepper.others[name][0].otherwise]
    return f"{of[0]} does not need it" if of else ""


def _skipped(stepper: Stepper, name: str, why: str) -> None:
    stepper.gate.journal.append(ev.StepSkipped(step=name, why=why))
    stepper.screen.line("↷", f"{name}: skipped, {why}")


def _start(stepper: Stepper, spec: StepSpec) -> None:
    journal = stepper.gate.journal
    deadline = journal.clock.now() + timedelta(seconds=spec.timeout_s)
    journal.append(
        ev.StepStarted(
            step=spec.name,
            intent=spec.intent,
            risk=spec.risk,
            timeout_s=spec.timeout_s,
            deadline=deadline.isoformat(timespec="microseconds"),
        )
    )
    stepper.screen.line("◐", f"{spec.name}: {spec.intent}")


async def _work(stepper: Stepper, spec: StepSpec, work: Work) -> Any:
    journal = stepper.gate.journal
    began = journal.clock.monotonic()
    try:
        raw = await _guarded(stepper, spec, work)
        _refuse_doubt(stepper, spec)
        result = patiently(lambda: pack(raw, journal.store, f"The result of step {spec.name}"), journal.clock)
    except BaseException as error:
        ended = _lost(stepper, spec, error, began)
        if name := _chosen(stepper, spec, ended):
            return await _instead(stepper, name)
        raise await stepper.fail(ended) from error
    _done(stepper, spec, result, journal.clock.monotonic() - began)
    return raw


def _done(stepper: Stepper, spec: StepSpec, result: Any, took: float) -> None:
    journal = stepper.gate.journal
    if stepper.gate.mode == "dry_run":
        journal.append(ev.StepPlanned(step=spec.name, seconds=took))
    else:
        journal.append(ev.StepDone(step=spec.name, result=result, seconds=took))
    _show_changes(stepper, spec, took)
    _skip_alternatives(stepper, spec)


def _skip_alternatives(stepper: Stepper, spec: StepSpec) -> None:
    for name in _alternatives(stepper, spec):
        if name not in stepper.gate.journal.known.steps:
            _skipped(stepper, name, f"not needed: {spec.name} is done")


def _refuse_doubt(stepper: Stepper, spec: StepSpec) -> None:
    """Refuse to call a step done when one of its changes is in doubt, even if the cell swallowed the error."""
    state = stepper.gate.journal.known
    doubt = next((change for change in state.changes.values() if change.step == spec.name and change.in_doubt), None)
    if doubt:
        raise errors.StepUnknown(f"{doubt.call} may or may not have been made: {doubt.why or 'it was not waited for'}")
    if state.state == "waiting":
        raise errors.StepFailed("a change of it was not waited for: it still waits for an approval")


def _show_changes(stepper: Stepper, spec: StepSpec, took: float) -> None:
    for change in stepper.gate.journal.known.changes.values():
        if change.step == spec.name:
            verb = "would change" if change.state == "planned" else change.how or change.state
            stepper.screen.line("✓", f"{change.call}: {verb} {change.moved}")
    stepper.screen.line("✓", f"{spec.name}: done in {human(took)}")


async def _guarded(stepper: Stepper, spec: StepSpec, work: Work) -> Any:
    """Work under the step's deadline while watching for a request to stop."""
    if stop := stepper.gate.journal.state.cancel:
        raise errors.Cancelled(f"Stopped: {stop}.")
    token = current_step.set(spec)
    task = asyncio.ensure_future(work())
    watcher = asyncio.ensure_future(_stop_requested(stepper))
    try:
        await _until_done(stepper, spec, task, watcher)
        return task.result()
    finally:
        current_step.reset(token)
        watcher.cancel()
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)


async def _until_done(
    stepper: Stepper, spec: StepSpec, task: "asyncio.Future[Any]", watcher: "asyncio.Future[None]"
) -> None:
    """Wait for the work; the time in which the run waited for people does not count."""
    journal = stepper.gate.journal
    began, waited = asyncio.get_running_loop().time(), journal.known.waited_s
    while True:
        left = spec.timeout_s + (journal.known.waited_s - waited) - (asyncio.get_running_loop().time() - began)
        if left <= 0 and not journal.known.asks:
            waits = f" It waited for {journal.known.waits_for}." if journal.known.awaits else ""
            raise errors.StepUnknown(f"Step {spec.name} took longer than {human(spec.timeout_s)}.{waits}")
        pause = WATCH_S if journal.known.asks else left
        done, _ = await asyncio.wait({task, watcher}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return
        if watcher in done:
            watcher.result()
            refuse_stranger(journal)
            raise errors.Cancelled(f"Stopped: {journal.known.cancel}.")


async def _stop_requested(stepper: Stepper) -> None:
    journal = stepper.gate.journal
    while not journal.state.cancel and journal.known.session == journal.session:
        await asyncio.sleep(WATCH_S)


_KINDS: tuple[type[errors.RunEnded], ...] = (errors.ApprovalNeeded, errors.Denied)


def _lost(stepper: Stepper, spec: StepSpec, error: BaseException, began: float) -> errors.RunEnded:
    """Journal how a step was lost; return the error with which the run ends.

    Raises:
        Fenced: Another process has taken the run over, so nothing more is to be written or undone here.
        BaseException: The error itself, when the run has ended inside the step.
    """
    journal = stepper.gate.journal
    refuse_stranger(journal)
    if journal.known.finished:
        raise error
    why = error.what if isinstance(error, errors.RunbookError) else f"{type(error).__name__}: {error}".rstrip(": ")
    doubt = any(change.in_doubt for change in journal.state.changes.values() if change.step == spec.name)
    kind = ev.StepUnknown if doubt else ev.StepFailed
    took = journal.clock.monotonic() - began
    stopped = isinstance(error, KeyboardInterrupt | asyncio.CancelledError | errors.Cancelled)
    journal.append(kind(step=spec.name, error=type(error).__name__, why=why, seconds=took))
    if stopped and not journal.known.cancel:
        journal.append(ev.CancelRequested(reason=INTERRUPTED))
    glyph, word = ("?", "outcome unknown") if doubt else ("✗", "failed")
    stepper.screen.line(glyph, f"{spec.name}: {word}: {why}")
    ended = errors.Cancelled if stopped else errors.StepUnknown if doubt else errors.StepFailed
    return next((k for k in _KINDS if isinstance(error, k)), ended)(f"Step {spec.name} {word}: {why}")


def _alternatives(stepper: Stepper, spec: StepSpec) -> dict[str, bool]:
    """Name what may be made in place of a step, or of the step that it is made in place of; and if without asking."""
    found = dict.fromkeys(spec.otherwise, spec.automatic)
    for name, chosen in stepper.gate.journal.known.fallbacks.items():
        if chosen == spec.name and name in stepper.others:
            found |= _alternatives(stepper, stepper.others[name][0])
    return found


def _chosen(stepper: Stepper, spec: StepSpec, ended: errors.RunEnded) -> str:
    """Choose what is made in place of a step that certainly failed, and journal the choice; empty when nothing is."""
    state = stepper.gate.journal.known
    free = {name: alone for name, alone in _alternatives(stepper, spec).items() if name not in state.steps}
    if type(ended) is not errors.StepFailed or state.cancel:
        return ""
    name, how = _choice(stepper, spec, {name: alone for name, alone in free.items() if _offered(stepper, spec, name)})
    if name:
        risk = stepper.others[name][0].risk
        stepper.gate.journal.append(ev.FallbackChosen(step=spec.name, otherwise=name, risk=risk, how=how))
        stepper.screen.line("↷", f"{spec.name}: {name} (risk {risk}) is made in its place, chosen: {how}")
    return name


def _offered(stepper: Stepper, spec: StepSpec, name: str) -> bool:
    """Show an alternative, or why it is none."""
    if name not in stepper.others:
        stepper.screen.line("◆", f"{spec.name} cannot be replaced by {name}: its cell stands below or was not run")
        return False
    other = stepper.others[name][0]
    stepper.screen.line("◆", f"{spec.name} could be replaced by {name} (risk {other.risk}): {other.intent}")
    return True


def _choice(stepper: Stepper, spec: StepSpec, free: Mapping[str, bool]) -> tuple[str, Literal["automatic", "operator"]]:
    """Ask whoever is attached; by itself take only an alternative of low risk, if the contract says so."""
    if free and stepper.ask is not None:
        answer = stepper.ask(question(spec.name), [*free, LEAVE], LEAVE)
        return (answer if answer in free else ""), "operator"
    safe = [name for name, alone in free.items() if alone and stepper.others[name][0].risk == "low"]
    return (safe[0] if safe else ""), "automatic"


async def _instead(stepper: Stepper, name: str) -> Any:
    if name not in stepper.others:
        raise errors.IllegalMove(f"Step {name} was chosen as the alternative, and its cell was not run.")
    spec, work = stepper.others[name]
    return await run_step(stepper, spec, work)
