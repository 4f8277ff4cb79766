"""The object that a notebook holds: observe, decide, change in steps, check, close."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Protocol

from rbkit import errors
from rbkit import events as ev
from rbkit.confirming import confirmed
from rbkit.contract import CheckSpec, Contract, StepSpec
from rbkit.decide import Verdict
from rbkit.deciding import Decider
from rbkit.ending import ENDING, end, standing
from rbkit.events import Phase
from rbkit.fold import RunState
from rbkit.gate import Gate, current_step
from rbkit.handle import Handle
from rbkit.marks import check_spec, step_of
from rbkit.measure import measure
from rbkit.policy import lacking
from rbkit.ports import World
from rbkit.rolling import Rails, Rolled, roll
from rbkit.signal import Signal
from rbkit.stepping import INTERRUPTED, Stepper, Work, run_step
from rbkit.values import seconds

__all__ = ["Run", "Screen"]


class Screen(Protocol):
    """Shows a run to whoever looks at the notebook."""

    def plan(self, run: "Run") -> None:
        """Show plan, mode and environment when the run opens."""

    def line(self, glyph: str, text: str) -> None:
        """Show one line."""

    def summary(self, state: RunState) -> None:
        """Show how the run ended."""


class Run:
    """One run of a runbook.

    Args:
        contract: What the notebook promises.
        complete: Whether the contract was read from the whole notebook.
        parameters: The checked values.
        gate: The way to the world.
        rules: The folder with the rule sets.
        screen: Where the run shows itself.
        fresh_world: Makes a world of its own for another event loop.
        attended: Whether somebody is at the keyboard who can be asked.
    """

    def __init__(
        self, contract: Contract, *, complete: bool, parameters: Mapping[str, Any], gate: Gate, rules: Path,
        screen: Screen, fresh_world: Callable[[], World], attended: bool = False,
    ) -> None:  # fmt: skip
        self.contract, self.complete, self.attended = contract, complete, attended
        self.parameters = dict(parameters)
        self.gate, self.journal, self.screen = gate, gate.journal, screen
        self._decider, self._fresh_world = Decider(gate, rules, self.parameters), fresh_world
        self._works: dict[str, tuple[StepSpec, Work]] = {}
        self._rolled: set[str] = set()
        self._steps: dict[str, StepSpec] = {step.name: step for step in contract.steps}
        self._checks: dict[str, CheckSpec] = {check.name: check for check in contract.checks}

    @property
    def id(self) -> str:
        """The run's id."""
        return self.journal.run

    @property
    def mode(self) -> str:
        """live, dry_run, replay or resume."""
        return self.gate.mode

    @property
    def state(self) -> RunState:
        """Where the run stands, folded from its journal."""
        return self.journal.state

    async def observe(self, name: str, last: str = "15m", **values: Any) -> Signal:
        """Read a signal through the gate.

        Args:
            name: Its name in the environment file.
            last: How far back, for example `15m`.
            values: Values for the query, for example `service="checkout"`.

        Returns:
            A Signal: `frame` (DataFrame: time, value, labels), `latest`, `table()`, `chart()`.
        """
        return await self.gate.observe(name, last, values)

    async def gather(self, *reads: Awaitable[Any]) -> list[Any]:
        """Make several reads at once and wait for all; changes among them are made one after the other.

        Returns:
            Their results, in the order given.

        Raises:
            RunbookError: The first that failed, when all have ended.
        """
        results = await asyncio.gather(*reads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    async def rolling(
        self, action: str, targets: Iterable[str], *, max_errors: int | str = 0, at_least: int = 0,
        healthy: Callable[[str], Awaitable[bool]] | None = None, settle: str = "30s", **arguments: Any,
    ) -> Rolled:  # fmt: skip
        """Make one change to many targets: one at first, then twice as many each time, within guard rails.

        Args:
            action: Capability and action, for example `services.restart`.
            targets: The targets, frozen and shown before the first is touched; none at all is an error.
            max_errors: How many may fail: a number, or a share such as `10%`; if the first fails, it stops.
            at_least: How many targets must be healthy at any time.
            healthy: Tells whether a target is healthy.
            settle: How long a target may take to become healthy again.
            arguments: The action's arguments.

        Returns:
            Rolled: `done`, `failed` (why, by target), `remaining`.

        Raises:
            GuardRail: A guard rail stopped it.
            IllegalMove: It is not called from a step, or for the second time in one.
        """
        step = current_step.get()
        if step is None:
            raise errors.IllegalMove("rolling makes changes, so it belongs in a step.", todo="Use @run.step(...).")
        if step.name in self._rolled:
            raise errors.IllegalMove(f"Step {step.name} has begun a fan-out.", todo="Give each a step of its own.")
        self._rolled.add(step.name)
        rails = Rails(max_errors, at_least, healthy, seconds(settle))
        return await roll(self.gate, step, action, targets, arguments, rails, self.screen.line)

    def use(self, name: str) -> Handle:
        """Return a capability by its name in the environment file."""
        return Handle(self.gate, name)

    def decide(self, rules: str, **signals: Signal) -> Verdict:
        """Apply a rule set to what was observed, and journal the trace.

        Args:
            rules: The name of a file in `rules/` next to the runbook.
            signals: Signals by the names that the rules use.

        Returns:
            The verdict: outcome, target, why, trace.
        """
        verdict, note = self._decider.decide(rules, signals)
        self.screen.line("◆", f"{verdict.outcome}: {verdict.why}")
        if note:
            self.screen.line("◆", note)
        if verdict.ends == "needs_operator":
            raise self.fail_now(errors.CheckFailed(f"No decision: {verdict.why}", todo="Look at the source first."))
        return verdict

    def ask(self, prompt: str, options: list[str], default: str) -> str:
        """Ask a person; the default is taken when nobody is attached.

        Args:
            prompt: The question.
            options: The answers that are possible.
            default: The safest of them.

        Returns:
            The answer.

        Raises:
            RefusedInput: The default is none of the options.
        """
        if default not in options:
            raise errors.RefusedInput(f"The default {default!r} is none of {options}.")
        if (kept := self.state.answers.get(prompt)) in options:
            return str(kept)
        self.journal.append(ev.Asked(name=prompt, prompt=prompt, options=options, default=default))
        answer, how, why = self._answer(prompt, options, default)
        self.journal.append(ev.Answered(name=prompt, answer=answer, how=how, why=why))
        return answer

    def _answer(self, prompt: str, options: list[str], default: str) -> tuple[str, Any, str]:
        if self.mode == "dry_run":
            return default, "default", "a dry run asks nobody"
        if self.mode == "replay":
            return self.gate.observer.tape.said(prompt), "tape", ""
        try:
            text = input(f"{prompt} [{'/'.join(options)}, Enter = {default}] ").strip() or default
        except (EOFError, RuntimeError, OSError) as error:
            return default, "default", f"nobody is attached ({type(error).__name__})"
        if text not in options:
            return default, "default", f"{text[:40]!r} is none of the options"
        return text, "operator", ""

    def _ask_at_the_end(self, prompt: str, options: list[str], default: str) -> str:
        """Ask on the way out: an interrupt means the default, so that the run ends all the same."""
        try:
            return self.ask(prompt, options, default)
        except KeyboardInterrupt:
            self.journal.append(ev.Answered(name=prompt, answer=default, how="default", why=INTERRUPTED))
            return default

    def precondition(self, function: Any = None, *, within: str = "") -> Any:
        """Mark an async function as a precondition: only a True, on good evidence, lets the run go on."""
        return self._check("precondition", function, within)

    def postcondition(self, function: Any = None, *, within: str = "") -> Any:
        """Mark an async function as a postcondition: measured until it passes or `within` is over."""
        return self._check("postcondition", function, within)

    def _check(self, phase: Phase, function: Any, within: str) -> Any:
        def mark(measured: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[bool]]:
            spec = check_spec(measured, phase, within)
            self._checks.setdefault(spec.name, spec)
            return lambda: measure(self, spec, measured)

        return mark(function) if function else mark

    def step(self, *, risk: str = "medium", timeout: str = "60s", max_targets: int = 1, **more: Any) -> Any:
        """Mark an async function as a step: the only place where changes are made.

        Args:
            risk: low, medium or high; the environment file says which risk needs approval.
            timeout: The longest it may take, for example `30s`; waiting for an approval does not count.
            max_targets: The most targets it may touch.
            more: `approvals`: how many people must approve, if more than the environment file asks; `parallel`: how
                many changes may be made at once (1); `otherwise`: names of steps that may be made in its place when
                it fails; `automatic`: whether one of low risk among them is made without asking.
        """

        def mark(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            spec = step_of(function, {"risk": risk, "timeout": timeout, "max_targets": max_targets, **more})
            self._steps[spec.name] = spec
            self._works[spec.name] = (spec, function)
            ask = self._ask_at_the_end if self.attended else None
            stepper = Stepper(self.gate, self.screen, self.fail, self._works, ask)
            return lambda *args, **named: run_step(stepper, spec, lambda: function(*args, **named))

        return mark

    async def fail(self, error: errors.RunEnded) -> errors.RunEnded:
        """End the run without success: roll back, close, show; return the error to raise."""
        live = Gate(self.journal, self.gate.world, terms=self.gate.terms)
        self.screen.summary(await _to_its_end(end(live, error.what, anyway=self._wants_rollback())))
        return _ended(self.state, error)

    def _wants_rollback(self, *, asks: bool = True) -> bool:
        """Ask whoever is attached, if the contract says so and something is to be undone; a request to stop says it."""
        state = self.state
        if self.contract.rollback != "ask" or not self.attended or state.state in ENDING or not standing(state):
            return False
        if not asks or state.cancel not in {"", INTERRUPTED}:
            return True
        prompt = f"Undo what was done ({', '.join(standing(state))})?"
        return self._ask_at_the_end(prompt, ["roll back", "leave"], "roll back") == "roll back"

    def fail_now(self, error: errors.RunEnded, *, asks: bool = True) -> errors.RunEnded:
        """Do what `fail` does, from code that cannot await: in a thread with a world of its own.

        Args:
            error: Why.
            asks: Whether whoever is attached may be asked now; else the safest answer is taken.
        """
        if not self.state.finished:
            anyway = self._wants_rollback(asks=asks)
            self.screen.summary(in_thread(self.end_alone(error.what, anyway=anyway)))
        return _ended(self.state, error)

    async def end_alone(self, why: str, *, anyway: bool = False) -> RunState:
        """End the run with a world of its own, whatever loop this runs on."""
        world = self._fresh_world()
        try:
            return await end(Gate(self.journal, world, terms=self.gate.terms), why, anyway=anyway)
        finally:
            await world.aclose()

    def close(self) -> None:
        """End the run: resolved when every step is done and every postcondition passed, else rolled back.

        Raises:
            RunEnded: The run did not succeed.
        """
        state = self.state
        if state.finished:
            if state.outcome not in {"resolved", "not_applicable"}:
                raise _ended(state, errors.RunEnded(state.reason))
            return
        outcome, reason = self._verdict(state)
        if not outcome:
            raise self.fail_now(errors.RunEnded(reason))
        if why := self._undone_after_all(outcome):
            self.screen.summary(in_thread(self.end_alone(why, anyway=True)))
            raise _ended(self.state, errors.Cancelled(why) if self.state.cancel else errors.RunEnded(why))
        self.journal.append(ev.RunClosed(outcome=outcome, reason=reason))
        self.screen.summary(self.state)

    def _undone_after_all(self, outcome: str) -> str:
        """Say why a run is rolled back although everything was done: the contract says so, or nobody confirmed it."""
        if not standing(self.state):
            return ""
        if self.contract.rollback == "always":
            return "Everything was done; the contract says that it is always undone"
        if self.contract.confirm_within_s and outcome == "resolved":
            return confirmed(self.journal, self.contract.confirm_within_s, self.screen.line)
        return ""

    def _verdict(self, state: RunState) -> tuple[Any, str]:
        if state.state == "concluded":
            return "not_applicable", _conclusion(state)
        if state.state == "failing" or state.state in ENDING:
            return "", state.rollback_why or "The run has failed and was not brought to its end."
        missing = lacking(state, self._steps, [(c.name, c.phase) for c in self._checks.values()])
        if self.mode == "dry_run":
            missing = [item for item in missing if not item.startswith("postcondition")]
            return ("", "; ".join(missing)) if missing else ("not_applicable", "dry run: planned, nothing changed")
        if missing or not self._checks:
            return "", f"The notebook ended too early: {'; '.join(missing) or 'nothing was checked'}."
        return "resolved", "every step is done and every postcondition passed"


def _conclusion(state: RunState) -> str:
    failed = next((c for c in state.checks.values() if c.verdict == "FAIL"), None)
    if failed:
        return f"precondition {failed.name} does not hold: {failed.why}"
    return next((d.event.why for d in reversed(state.decisions) if d.event.ends), "nothing to do")


def _ended(state: RunState, error: errors.RunEnded) -> errors.RunEnded:
    """Say in the error how the run ended."""
    error.what = f"{error.what.rstrip('.')}. The run {state.run} ended as {state.outcome or state.state}."
    error.todo = f"`rbkit show {state.run}` tells what was done and undone."
    error.args = (error.what,)
    return error


async def _to_its_end(work: Coroutine[Any, Any, RunState]) -> RunState:
    """Await what must not be broken off by an interrupt of the cell: what is being undone is undone to its end."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def in_thread(work: Coroutine[Any, Any, RunState]) -> RunState:
    """Run a coroutine to its end in a thread with a loop of its own; raise what it raised.

    An interrupt meanwhile is not passed on: what is being undone is undone to its end, and the caller stops anyway.
    """
    result: Future[RunState] = Future()

    def target() -> None:
        try:
            result.set_result(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            result.set_exception(error)

    threading.Thread(target=target, name="rbkit-ending").start()
    while not result.done():
        with contextlib.suppress(KeyboardInterrupt):
            wait([result])
    return result.result()
