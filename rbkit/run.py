"""The object that a notebook holds: observe, decide, change in steps, check, close."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from rbkit import errors
from rbkit import events as ev
from rbkit.contract import CheckSpec, Contract, StepSpec
from rbkit.decide import Verdict, decide, load_rules
from rbkit.ending import end
from rbkit.events import Call, Phase
from rbkit.fold import RunState
from rbkit.gate import Gate
from rbkit.marks import check_spec, step_of
from rbkit.measure import measure
from rbkit.policy import lacking
from rbkit.ports import World
from rbkit.signal import Signal
from rbkit.stepping import Stepper, run_step
from rbkit.values import nearest

__all__ = ["Handle", "Run", "Screen"]


class Screen(Protocol):
    """Shows a run to whoever looks at the notebook."""

    def plan(self, run: "Run") -> None:
        """Show plan, mode and environment when the run opens."""

    def line(self, glyph: str, text: str) -> None:
        """Show one line."""

    def summary(self, state: RunState) -> None:
        """Show how the run ended."""


class Handle:
    """A capability as a notebook uses it: reads and changes go through the gate.

    Args:
        gate: The gate.
        name: The capability's name in the environment file.
    """

    def __init__(self, gate: Gate, name: str) -> None:
        self._gate, self._name = gate, name
        self._adapter = gate.world.capability(name)

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        """Return a read or a change of the capability by its name."""
        reads, actions = self._adapter.methods("read"), self._adapter.methods("action")
        if method in reads:
            return lambda *args, **named: self._gate.read(self._name, method, self._named(method, args, named))
        if method in actions:
            return lambda target, **named: self._gate.change(
                Call(capability=self._name, action=method, target=_target(target), arguments=named)
            )
        if method.startswith("_"):
            raise AttributeError(method)
        raise errors.NotFound(f"{self._name} has no {method!r}.{nearest(method, reads + actions)}")

    def __dir__(self) -> list[str]:
        """List reads and changes, for completion."""
        return self._adapter.methods("read") + self._adapter.methods("action")

    def _named(self, method: str, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        import inspect

        bound = inspect.signature(getattr(self._adapter, method)).bind(*args, **named)
        return dict(bound.arguments)


def _target(target: Any) -> str:
    if not isinstance(target, str) or not target:
        raise errors.GuardRail(f"A change needs the name of its target, not {target!r}.")
    return target


class Run:
    """One run of a runbook.

    Args:
        contract: What the notebook promises.
        complete: Whether the contract was read from the whole notebook.
        parameters: The checked values.
        gate: The way to the world.
        approvals: Approvals by risk, from the environment file.
        rules: The folder with the rule sets.
        screen: Where the run shows itself.
        fresh_world: Makes a world of its own for another event loop.
    """

    def __init__(
        self, contract: Contract, *, complete: bool, parameters: Mapping[str, Any], gate: Gate,
        approvals: Mapping[str, int], rules: Path, screen: Screen, fresh_world: Callable[[], World],
    ) -> None:  # fmt: skip
        self.contract, self.complete = contract, complete
        self.parameters = dict(parameters)
        self.gate, self.journal, self.screen = gate, gate.journal, screen
        self._approvals, self._rules, self._fresh_world = dict(approvals), rules, fresh_world
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
        """Make several reads at once and wait for all.

        Returns:
            Their results, in the order given.
        """
        return list(await asyncio.gather(*reads))

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
        verdict = decide(load_rules(rules, self._rules), signals, self.parameters)
        self.journal.append(
            ev.Decided(
                rules=verdict.rules,
                version=verdict.version,
                digest=verdict.digest,
                inputs=verdict.inputs,
                trace=list(verdict.trace),
                outcome=verdict.outcome,
                target=verdict.target,
                why=verdict.why,
                ends=verdict.ends,
            )
        )
        self.screen.line("◆", f"{verdict.outcome}: {verdict.why}")
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
        if prompt in self.state.answers:
            return self.state.answers[prompt]
        self.journal.append(ev.Asked(name=prompt, prompt=prompt, options=options, default=default))
        answer, how, why = self._answer(prompt, options, default)
        self.journal.append(ev.Answered(name=prompt, answer=answer, how=how, why=why))
        return answer

    def _answer(self, prompt: str, options: list[str], default: str) -> tuple[str, Any, str]:
        if self.mode == "dry_run":
            return default, "default", "a dry run asks nobody"
        try:
            text = input(f"{prompt} [{'/'.join(options)}, Enter = {default}] ").strip() or default
        except (EOFError, RuntimeError, OSError) as error:
            return default, "default", f"nobody is attached ({type(error).__name__})"
        if text not in options:
            return default, "default", f"{text[:40]!r} is none of the options"
        return text, "operator", ""

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

    def step(self, *, risk: str = "medium", timeout: str = "60s", max_targets: int = 1, approvals: int = 0) -> Any:
        """Mark an async function as a step: the only place where changes are made.

        Args:
            risk: low, medium or high; the environment file says which risk needs approval.
            timeout: The longest it may take, for example `30s`.
            max_targets: The most targets it may touch.
            approvals: How many people must approve, if more than the environment file asks.
        """

        def mark(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            spec = step_of(function, {
                "risk": risk, "timeout": timeout, "max_targets": max_targets, "approvals": approvals,
            })  # fmt: skip
            self._steps[spec.name] = spec
            stepper = Stepper(self.gate, self.screen, self._approvals, self.fail)
            return lambda *args, **named: run_step(stepper, spec, lambda: function(*args, **named))

        return mark

    async def fail(self, error: errors.RunEnded) -> errors.RunEnded:
        """End the run without success: roll back, close, show; return the error to raise."""
        live = Gate(self.journal, self.gate.world)
        self.screen.summary(await end(live, error.what))
        return _ended(self.state, error)

    def fail_now(self, error: errors.RunEnded) -> errors.RunEnded:
        """Do what `fail` does, from code that cannot await: in a thread with a world of its own."""
        if not self.state.finished:
            self.screen.summary(in_thread(self.end_alone(error.what)))
        return _ended(self.state, error)

    async def end_alone(self, why: str) -> RunState:
        """End the run with a world of its own, whatever loop this runs on."""
        world = self._fresh_world()
        try:
            return await end(Gate(self.journal, world), why)
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
        self.journal.append(ev.RunClosed(outcome=outcome, reason=reason))
        self.screen.summary(self.state)

    def _verdict(self, state: RunState) -> tuple[Any, str]:
        if state.state == "concluded":
            return "not_applicable", _conclusion(state)
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


def in_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a thread with a loop of its own; raise what it raised."""
    box: list[Any] = []

    def target() -> None:
        try:
            box.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            box.append(error)

    thread = threading.Thread(target=target, name="rbkit-ending")
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]
