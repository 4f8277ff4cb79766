"""Runs one step: approval, start, work under a deadline, result; on failure the run is ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from rbkit import errors
from rbkit import events as ev
from rbkit.contract import StepSpec
from rbkit.fold import Change
from rbkit.gate import Gate, current_step
from rbkit.policy import approvals_needed
from rbkit.values import digest, human, plain

__all__ = ["Line", "Stepper", "run_step"]

WATCH_S = 0.25
"""How often a running step looks whether somebody asked it to stop, seconds."""


class Line(Protocol):
    """Shows one line."""

    def line(self, glyph: str, text: str) -> None:
        """Show one line."""


GRACE_S = 2.0
"""How long work that is cancelled has to journal what it left in doubt, seconds."""


@dataclass(frozen=True, slots=True)
class Stepper:
    """What a step needs of its run.

    Args:
        gate: The way to the world.
        screen: Where progress is shown.
        approvals: Approvals by risk.
        fail: Ends the run and returns the error to raise.
    """

    gate: Gate
    screen: Line
    approvals: Mapping[str, int]
    fail: Callable[[errors.RunEnded], Awaitable[errors.RunEnded]]


async def run_step(stepper: Stepper, spec: StepSpec, work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a step, once.

    Args:
        stepper: What it needs of its run.
        spec: The step.
        work: Calls the notebook's function.

    Returns:
        The function's result; the journaled one when the step is done already; None when it is skipped.

    Raises:
        RunEnded: The step failed, was stopped or needs an approval; the run has been rolled back and closed.
        IllegalMove: The run is over, or another step is running.
    """
    journal = stepper.gate.journal
    state = journal.state
    if state.state == "concluded":
        return _skipped(stepper, spec)
    known = state.steps.get(spec.name)
    if known and known.state == "done":
        stepper.screen.line("✓", f"{spec.name}: done before, not repeated")
        return known.result
    _start(stepper, spec)
    await _approve(stepper, spec)
    return await _work(stepper, spec, work)


def _skipped(stepper: Stepper, spec: StepSpec) -> None:
    why = "nothing is to be done"
    stepper.gate.journal.append(ev.StepSkipped(step=spec.name, why=why))
    stepper.screen.line("↷", f"{spec.name}: skipped, {why}")


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


async def _approve(stepper: Stepper, spec: StepSpec) -> None:
    """Stop in a safe state when the step needs an approval: nobody can give one yet."""
    needed = approvals_needed(spec.risk, spec.approvals, stepper.approvals)
    if not needed or stepper.gate.mode in {"dry_run", "replay"}:
        return
    journal = stepper.gate.journal
    bound = digest([journal.state.opened.model_dump(mode="json") if journal.state.opened else {}, spec.name])
    journal.append(ev.ApprovalRequested(step=spec.name, risk=spec.risk, needed=needed, digest=bound))
    error = errors.ApprovalNeeded(f"Step {spec.name} (risk {spec.risk}) needs {needed} approval(s) and has none.")
    raise await stepper.fail(error)


async def _work(stepper: Stepper, spec: StepSpec, work: Callable[[], Awaitable[Any]]) -> Any:
    journal = stepper.gate.journal
    began = journal.clock.monotonic()
    try:
        raw = await _guarded(stepper, spec, work)
        _refuse_doubt(stepper, spec)
        result = plain(_as_data(raw), f"The result of step {spec.name}")
    except BaseException as error:
        raise await _lost(stepper, spec, error, began) from error
    took = journal.clock.monotonic() - began
    if stepper.gate.mode == "dry_run":
        journal.append(ev.StepPlanned(step=spec.name, seconds=took))
    else:
        journal.append(ev.StepDone(step=spec.name, result=result, seconds=took))
    _show_changes(stepper, spec, took)
    return raw


def _refuse_doubt(stepper: Stepper, spec: StepSpec) -> None:
    """Refuse to call a step done when one of its changes is in doubt, even if the cell swallowed the error."""
    changes = stepper.gate.journal.state.changes.values()
    doubt = next((change for change in changes if change.step == spec.name and change.in_doubt), None)
    if doubt:
        raise errors.StepUnknown(f"{doubt.call} may or may not have been made: {doubt.why}")


def _as_data(value: Any) -> Any:
    if isinstance(value, Change):
        return {"key": value.key, "call": str(value.call), "before": value.before, "after": value.after}
    if isinstance(value, list | tuple):
        return [_as_data(item) for item in value]
    return value


def _show_changes(stepper: Stepper, spec: StepSpec, took: float) -> None:
    for change in stepper.gate.journal.state.changes.values():
        if change.step == spec.name:
            verb = "would change" if change.state == "planned" else change.how
            stepper.screen.line("✓", f"{change.call}: {verb} {change.moved}")
    stepper.screen.line("✓", f"{spec.name}: done in {human(took)}")


async def _guarded(stepper: Stepper, spec: StepSpec, work: Callable[[], Awaitable[Any]]) -> Any:
    """Work under the step's deadline while watching for a request to stop."""
    if stop := stepper.gate.journal.state.cancel:
        raise errors.Cancelled(f"Stopped: {stop}.")
    token = current_step.set(spec)
    task = asyncio.ensure_future(work())
    watcher = asyncio.ensure_future(_stop_requested(stepper))
    try:
        done, _ = await asyncio.wait({task, watcher}, timeout=spec.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if watcher in done:
            watcher.result()
            raise errors.Cancelled(f"Stopped: {stepper.gate.journal.state.cancel}.")
        raise errors.StepUnknown(f"Step {spec.name} took longer than {human(spec.timeout_s)}.")
    finally:
        current_step.reset(token)
        watcher.cancel()
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)


async def _stop_requested(stepper: Stepper) -> None:
    while not stepper.gate.journal.state.cancel:
        await asyncio.sleep(WATCH_S)


async def _lost(stepper: Stepper, spec: StepSpec, error: BaseException, began: float) -> errors.RunEnded:
    """Journal how a step was lost, end the run, and return the error to raise."""
    journal = stepper.gate.journal
    why = error.what if isinstance(error, errors.RunbookError) else f"{type(error).__name__}: {error}".rstrip(": ")
    doubt = any(change.in_doubt for change in journal.state.changes.values() if change.step == spec.name)
    kind = ev.StepUnknown if doubt else ev.StepFailed
    took = journal.clock.monotonic() - began
    journal.append(kind(step=spec.name, error=type(error).__name__, why=why, seconds=took))
    glyph, word = ("?", "outcome unknown") if doubt else ("✗", "failed")
    stepper.screen.line(glyph, f"{spec.name}: {word}: {why}")
    ended: type[errors.RunEnded] = errors.StepUnknown if doubt else errors.StepFailed
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError | errors.Cancelled):
        ended = errors.Cancelled
        if not journal.state.cancel:
            journal.append(ev.CancelRequested(reason="interrupted"))
    return await stepper.fail(ended(f"Step {spec.name} {word}: {why}"))
