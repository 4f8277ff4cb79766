"""Only a real True on good evidence passes; everything else is named for what it is."""

import asyncio
from typing import Any

import numpy as np
import pytest
from sessions import opened, resumed, taken

from rbkit import events as ev
from rbkit.errors import Cancelled, CheckFailed, Fenced, RunEnded, Unreachable


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
    assert run.gate.observer.weak and ends(rig, run, answering(True)) == "PASS"


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


@pytest.mark.parametrize("phase", ["precondition", "postcondition"])
def test_an_interrupted_check_ends_the_run(rig, phase) -> None:
    """The stop button in the middle of a check: it is inconclusive, what was done is undone, the run is aborted."""
    run, entered = rig.run(), asyncio.Event()

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    async def ok() -> bool:
        entered.set()
        await asyncio.Event().wait()
        return True

    async def scenario() -> None:
        await drain()
        task = asyncio.ensure_future(getattr(run, phase)(ok)())
        await entered.wait()
        task.cancel()
        await task

    with pytest.raises(
        Cancelled, match=f"{phase.capitalize()} ok was stopped: interrupted. The run .* aborted"
    ) as caught:
        asyncio.run(scenario())
    assert caught.value.exit_code == 130 and run.state.checks["ok"].verdict == "INCONCLUSIVE"
    assert (run.state.outcome, run.state.cancel, rig.states()["checkout-1"]) == ("aborted", "interrupted", "ready")


def test_a_check_that_was_interrupted_on_request_says_so(rig) -> None:
    """The reason is that of whoever asked the run to stop; it is asked once."""
    run = rig.run()

    async def ok() -> bool:
        rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))
        raise KeyboardInterrupt

    with pytest.raises(Cancelled, match="was stopped: enough"):
        asyncio.run(run.precondition(ok)())
    assert rig.kinds().count("cancel_requested") == 1


def test_an_interrupted_check_of_a_run_that_was_taken_over_says_nothing(rig) -> None:
    """Nobody stops the run of the new process by interrupting the old one."""
    run = rig.run()

    async def ok() -> bool:
        taken(rig)
        raise asyncio.CancelledError

    with pytest.raises(Fenced):
        asyncio.run(run.precondition(ok)())
    assert rig.kinds()[-1] == "session_began"


def test_a_run_that_ends_inside_a_check_is_over(rig) -> None:
    """The check has nothing to add: how the run ended goes out."""
    run = rig.run()

    async def ok() -> bool:
        run.close()
        return True

    with pytest.raises(RunEnded, match="ended too early"):
        asyncio.run(run.precondition(ok)())
    assert rig.kinds()[-1] == "run_closed"


def test_an_ended_run_of_another_makes_no_end_of_this_one(rig) -> None:
    """An error that is called so and ended nothing is a fault of the check."""

    async def ok() -> bool:
        raise RunEnded("odd")

    assert ends(rig, rig.run(), ok) == "ERROR"


def spared(rig: Any, run: Any, answer: bool) -> bool:
    """Measure the precondition `spare` of a run."""

    @run.precondition
    async def spare() -> bool:
        """There is spare capacity."""
        return answer

    return bool(asyncio.run(spare()))


@pytest.mark.parametrize(("acted", "kept"), [(True, True), (False, False)])
def test_a_resumed_run_keeps_a_precondition_once_it_has_acted(rig, acted, kept) -> None:
    """What has been done since would now be measured; before the first change the world is measured again."""
    run = opened(rig)
    assert spared(rig, run, answer=True)
    run.journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
    if acted:
        rig.change(run.gate, "drain")
    assert spared(rig, resumed(rig), answer=False) is kept
    assert rig.kinds().count("check_started") == (1 if kept else 2)


def test_a_resumed_run_measures_what_had_not_passed(rig) -> None:
    """A precondition that was being measured when the process died is measured."""
    run = opened(rig)
    run.journal.append(ev.CheckStarted(name="spare", phase="precondition", sentence=""))
    assert spared(rig, resumed(rig), answer=True) and rig.kinds().count("check_ended") == 1


def test_a_run_that_was_not_resumed_measures_again(rig) -> None:
    """An operator who runs a cell again wants to know how it is now."""
    run = opened(rig)
    assert spared(rig, run, answer=True) and not spared(rig, run, answer=False)


def test_a_resumed_run_measures_its_postconditions(rig) -> None:
    """What was so in another process may not be so any more."""
    run = opened(rig)
    run.journal.append(ev.CheckStarted(name="ok", phase="postcondition", sentence=""))
    run.journal.append(ev.CheckEnded(name="ok", phase="postcondition", verdict="PASS", why="", seconds=0.0))
    run.journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
    rig.change(run.gate, "drain")
    assert ends(rig, resumed(rig), answering(False), "postcondition", within="1s") == "FAIL"
