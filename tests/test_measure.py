"""Only a real True on good evidence passes; everything else is named for what it is."""

import asyncio
from typing import Any

import numpy as np
import pytest

from rbkit import events as ev
from rbkit.errors import CheckFailed, Unreachable


def ends(rig, run: Any, function: Any, phase: str = "precondition", **more: Any) -> str:
    """Measure a check named `ok` in a run and return its verdict."""
    function.__name__ = "ok"
    mark = run.precondition if phase == "precondition" else run.postcondition
    try:
        asyncio.run(mark(**more)(function)() if more else mark(function)())
    except CheckFailed as error:
        assert run.id in str(error)
    return str(rig.events("check_ended")[-1]["verdict"])


def answering(value: Any) -> Any:
    """Make a check that answers one value."""

    async def ok() -> Any:
        """It is so."""
        return value

    return ok


@pytest.mark.parametrize("value", [True, np.True_])
def test_a_real_true_passes(rig, value) -> None:
    """True, Python's or numpy's, passes; the run goes on."""
    run = rig.run()
    assert ends(rig, run, answering(value)) == "PASS"
    assert run.state.state == "open" and rig.screen.lines[-1].startswith("✓ ok: PASS: holds")


@pytest.mark.parametrize("value", [None, 1, 0, "True", "yes", [], [True], object(), float("nan"), np.array([True])])
def test_what_is_no_boolean_is_an_error(rig, value) -> None:
    """Truthiness is no evidence: anything but a boolean needs an operator."""
    run = rig.run()
    assert ends(rig, run, answering(value)) == "ERROR"
    assert run.state.outcome == "needs_operator" and "instead of True or False" in run.state.checks["ok"].why


def test_a_precondition_that_fails_ends_as_not_applicable(rig) -> None:
    """False is an answer: nothing is to be done, later checks and steps are skipped."""
    run = rig.run()
    assert ends(rig, run, answering(False)) == "FAIL"
    assert run.state.state == "concluded"

    @run.precondition
    async def another() -> bool:
        """Never measured."""
        raise AssertionError

    @run.step()
    async def work() -> None:
        """Never done."""
        raise AssertionError

    assert asyncio.run(another()) is False and asyncio.run(work()) is None
    assert run.state.checks["another"].verdict == "SKIPPED" and run.state.steps["work"].state == "skipped"
    run.close()
    assert run.state.outcome == "not_applicable" and "precondition ok does not hold" in run.state.reason


def test_a_postcondition_that_fails_ends_the_run(rig) -> None:
    """A failed postcondition raises and the run is over."""
    run = rig.run()
    assert ends(rig, run, answering(False), "postcondition", within="1s") == "FAIL"
    assert run.state.outcome == "failed" and rig.screen.ended == ["failed"]


@pytest.mark.parametrize(("values", "age"), [((), 0), ((float("nan"),), 0), ((1.0,), 600)])
def test_true_on_weak_evidence_is_inconclusive(rig, values, age) -> None:
    """Empty, NaN and stale signals never pass, whatever the function makes of them."""
    rig.samples(*values, age_s=age)
    run = rig.run()

    async def ok() -> bool:
        await run.observe("memory", last="1h", service="checkout")
        return True

    assert ends(rig, run, ok) == "INCONCLUSIVE"
    assert run.state.outcome == "needs_operator"


def test_a_pass_says_what_was_seen(rig) -> None:
    """The journal keeps the newest values that a verdict rests on; a failure's too."""
    rig.samples(120.0)
    run = rig.run()

    async def ok() -> bool:
        return bool((await run.observe("memory", service="checkout")).latest.max() < run.parameters["limit"])

    assert ends(rig, run, ok) == "PASS"
    assert run.state.checks["ok"].why == "memory checkout-1 120 MB"
    run.parameters["limit"] = 100.0
    assert ends(rig, run, ok) == "FAIL" and "does not hold: memory checkout-1 120 MB" in run.state.checks["ok"].why


def test_weak_evidence_of_an_earlier_cell_does_not_count(rig) -> None:
    """Only what the check itself has read is held against it."""
    run = rig.run()
    asyncio.run(run.observe("memory", service="checkout"))
    assert run.gate.weak and ends(rig, run, answering(True)) == "PASS"


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(Unreachable("gone"), "INCONCLUSIVE"), (TimeoutError(), "INCONCLUSIVE"), (ValueError("odd"), "ERROR")],
)
def test_an_exception_is_a_verdict_and_never_a_pass(rig, error, verdict) -> None:
    """A source that does not answer is inconclusive, a fault in the check is an error."""

    async def ok() -> bool:
        raise error

    run = rig.run()
    assert ends(rig, run, ok) == verdict and run.state.outcome == "needs_operator"


def test_a_check_that_hangs_is_inconclusive(rig) -> None:
    """A check has a deadline."""

    async def ok() -> bool:
        return await asyncio.Event().wait()

    assert ends(rig, rig.run(), ok, within="20ms") == "INCONCLUSIVE"


def test_a_postcondition_is_measured_until_it_passes(rig) -> None:
    """The world gets time to come round, two seconds between measurements."""
    answers = iter([False, False, True])

    async def ok() -> bool:
        return next(answers)

    assert ends(rig, rig.run(), ok, "postcondition", within="1m") == "PASS"
    assert rig.clock.monotonic() == 4.0 and rig.events("check_ended")[0]["seconds"] == 4.0


def test_a_postcondition_gives_up_when_its_time_is_over(rig) -> None:
    """After `within` the last verdict stands."""
    assert ends(rig, rig.run(), answering(False), "postcondition", within="10s") == "FAIL"
    assert 6.0 <= rig.clock.monotonic() <= 10.0


def test_a_request_to_stop_ends_the_measuring(rig) -> None:
    """A postcondition is not waited for when somebody asked the run to stop."""
    run = rig.run()

    async def ok() -> bool:
        rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
        return False

    assert ends(rig, run, ok, "postcondition", within="1m") == "FAIL"
    assert run.state.outcome == "aborted" and rig.clock.monotonic() == 0.0


def test_a_dry_run_skips_postconditions(rig) -> None:
    """Nothing was changed, so nothing can have come true."""
    run = rig.run("dry_run")

    @run.postcondition
    async def ok() -> bool:
        """Never measured."""
        raise AssertionError

    assert asyncio.run(ok()) is False and "dry run" in run.state.checks["ok"].why
