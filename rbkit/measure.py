"""Measures a precondition or postcondition: PASS, FAIL, INCONCLUSIVE or ERROR, and only PASS goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rbkit import errors
from rbkit import events as ev
from rbkit.contract import CheckSpec
from rbkit.events import Verdict4
from rbkit.gate import Gate
from rbkit.stepping import INTERRUPTED, Line
from rbkit.values import human

__all__ = ["Measured", "measure"]

AGAIN_S = 2.0
"""Seconds between two measurements of a postcondition."""


class Measured(Protocol):
    """What a check needs of its run."""

    @property
    def gate(self) -> Gate:
        """The way to the world."""

    @property
    def screen(self) -> Line:
        """Where progress is shown."""

    async def fail(self, error: errors.RunEnded) -> errors.RunEnded:
        """End the run and return the error to raise."""


async def measure(run: Measured, spec: CheckSpec, check: Callable[[], Awaitable[Any]]) -> bool:
    """Measure a check and journal its verdict.

    Args:
        run: What it needs of its run.
        spec: The check.
        check: The notebook's function; only True on good evidence passes.

    Returns:
        True when it passed; False when it does not apply or the run has nothing to do.

    Raises:
        CheckFailed: A postcondition did not pass, or a precondition could not be established.
        Cancelled: Somebody stopped it.
    """
    journal = run.gate.journal
    if _kept(run, spec):
        run.screen.line("✓", f"{spec.name}: passed before the first change, kept")
        return True
    reason = _not_measured(run, spec)
    if reason:
        journal.append(ev.CheckSkipped(name=spec.name, phase=spec.phase, why=reason))
        run.screen.line("↷", f"{spec.name}: skipped, {reason}")
        return False
    journal.append(ev.CheckStarted(name=spec.name, phase=spec.phase, sentence=spec.sentence))
    began = journal.clock.monotonic()
    try:
        verdict, why = await _until_passed(run, spec, check, began)
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        raise await _interrupted(run, spec, began) from error
    _ended(run, spec, verdict, why, began)
    return await _consequence(run, spec, verdict, why)


_GLYPHS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "ERROR": "✗"}


def _ended(run: Measured, spec: CheckSpec, verdict: Verdict4, why: str, began: float) -> None:
    journal = run.gate.journal
    took = journal.clock.monotonic() - began
    journal.append(ev.CheckEnded(name=spec.name, phase=spec.phase, verdict=verdict, why=why, seconds=took))
    run.screen.line(_GLYPHS[verdict], f"{spec.name}: {verdict}: {why} ({human(took)})")


async def _interrupted(run: Measured, spec: CheckSpec, began: float) -> errors.RunEnded:
    """End a run whose check was interrupted: what it would have said is not known."""
    _ended(run, spec, "INCONCLUSIVE", INTERRUPTED, began)
    if not (stop := run.gate.journal.state.cancel):
        run.gate.journal.append(ev.CancelRequested(reason=INTERRUPTED))
    return await run.fail(
        errors.Cancelled(f"{spec.phase.capitalize()} {spec.name} was stopped: {stop or INTERRUPTED}.")
    )


def _kept(run: Measured, spec: CheckSpec) -> bool:
    """Whether a resumed run keeps a precondition: it passed, and what has been done since would now be measured."""
    state = run.gate.journal.state
    known = state.checks.get(spec.name)
    acted = any(change.acted for change in state.changes.values())
    passed = known is not None and known.verdict == "PASS"
    return run.gate.mode == "resume" and spec.phase == "precondition" and passed and acted


def _not_measured(run: Measured, spec: CheckSpec) -> str:
    if run.gate.journal.state.state == "concluded":
        return "nothing is to be done"
    if run.gate.mode == "dry_run" and spec.phase == "postcondition":
        return "a dry run changes nothing"
    return ""


async def _consequence(run: Measured, spec: CheckSpec, verdict: Verdict4, why: str) -> bool:
    if verdict == "PASS":
        return True
    if verdict == "FAIL" and spec.phase == "precondition":
        return False
    raise await run.fail(errors.CheckFailed(f"{spec.phase.capitalize()} {spec.name}: {verdict}: {why}"))


async def _until_passed(
    run: Measured, spec: CheckSpec, check: Callable[[], Awaitable[Any]], began: float
) -> tuple[Verdict4, str]:
    """Measure once; a postcondition again and again until it passes or its time is over."""
    clock = run.gate.journal.clock
    while True:
        verdict, why = await _once(run, spec, check)
        left = spec.within_s - (clock.monotonic() - began)
        if verdict == "PASS" or spec.phase == "precondition" or left <= AGAIN_S or run.gate.journal.state.cancel:
            return verdict, why
        await clock.sleep(AGAIN_S)


async def _once(run: Measured, spec: CheckSpec, check: Callable[[], Awaitable[Any]]) -> tuple[Verdict4, str]:
    run.gate.observer.weak.clear()
    run.gate.observer.evidence.clear()
    try:
        async with asyncio.timeout(spec.within_s):
            answer = await check()
    except TimeoutError:
        return "INCONCLUSIVE", f"not measured within {human(spec.within_s)}"
    except errors.AdapterError as error:
        return "INCONCLUSIVE", str(error)
    except Exception as error:  # whatever a notebook's check raises is a verdict, never a pass
        if run.gate.journal.state.finished:
            raise  # the run has ended inside the check, so nothing more can be said of it
        return "ERROR", f"{type(error).__name__}: {error}"
    return _judge(answer, run.gate, spec)


def _judge(answer: Any, gate: Gate, spec: CheckSpec) -> tuple[Verdict4, str]:
    if gate.observer.weak:
        return "INCONCLUSIVE", "; ".join(dict.fromkeys(gate.observer.weak))
    if type(answer).__name__ not in {"bool", "bool_"}:
        return "ERROR", f"{spec.name} returned {answer!r:.80} instead of True or False"
    seen = "; ".join(gate.observer.evidence)
    return ("PASS", seen or "holds") if answer else ("FAIL", f"does not hold{f': {seen}' if seen else ''}")
