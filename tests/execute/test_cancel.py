"""`rbkit cancel` from another terminal stops a run wherever it stands: in a step, in a cell, while it waits."""

from collections.abc import Callable
from pathlib import Path

import pytest
from labs import CHECK, CLOSE, DRAIN, Lab, cell, ended, step, until

from rbkit.journal import operator

pytestmark = pytest.mark.timeout(120)
Book = Callable[..., str]
SWALLOWS = "import time\nwhile True:\n    try:\n        time.sleep(600)\n    except BaseException:\n        pass"
BODIES = {
    "awaits": "import asyncio\nawait asyncio.sleep(600)",
    "blocks": "import time\ntime.sleep(600)",
    "swallows": SWALLOWS,
    "swallows the cancellation": SWALLOWS.replace("import time", "import asyncio").replace(
        "time.sl", "await asyncio.sl"
    ),
}


def begun(mark: Path) -> str:
    """A line that says that the cell began."""
    return f"open({str(mark)!r}, 'w').close()"


def cancelled(lab: Lab, path: str, mark: Path) -> str:
    """Start a run, cancel it when it got to the mark; return what cancel said, when all is undone."""
    process = lab.start("run", path)
    until(mark.exists)
    asked = lab.rbkit("cancel", lab.runs()[0], "-m", "enough")
    done = ended(process)
    state = lab.state()
    assert (done.returncode, state.outcome) == (130, "aborted"), done.stdout + done.stderr
    assert state.cancel == f"{operator()}: enough"
    assert "nothing new is begun" in asked.stdout and "✗ aborted — trial" in asked.stdout, asked.stdout + asked.stderr
    assert "later" not in state.steps
    assert lab.member() == "ready"
    return asked.stdout


@pytest.mark.parametrize("kind", BODIES)
def test_in_a_step(healthy: Lab, book: Book, tmp_path: Path, kind: str) -> None:
    """However a step blocks, it is stopped, named as in flight, and what was done before is undone."""
    mark = tmp_path / "mark"
    slow = step("slow", f"{begun(mark)}\n{BODIES[kind]}", "10m")
    said = cancelled(healthy, book(DRAIN, slow, step("later", "pass"), CHECK, CLOSE), mark)
    assert "in flight: step slow" in said
    assert healthy.state().steps["slow"].state == "failed"
    assert healthy.rbkit("record", "verify").returncode == 0


@pytest.mark.parametrize("kind", ["awaits", "blocks"])
def test_in_a_cell_between_steps(healthy: Lab, book: Book, tmp_path: Path, kind: str) -> None:
    """A plain cell is interrupted, and the run ends as if the cell had failed."""
    mark = tmp_path / "mark"
    plain = cell("diagnose", f"{begun(mark)}\n{BODIES[kind]}")
    said = cancelled(healthy, book(DRAIN, plain, step("later", "pass"), CHECK, CLOSE), mark)
    assert "in flight: no step" in said


def test_while_a_change_is_under_way(healthy: Lab, book: Book, tmp_path: Path) -> None:
    """What was asked for and not answered is named; nobody says that it failed."""
    healthy.rbkit("sandbox", "break", "restart-hangs", "--target", "checkout-2")
    hang = step("hang", 'return await run.use("services").restart("checkout-2")', "10m")
    process = healthy.start("run", book(DRAIN, hang, CHECK, CLOSE))
    until(lambda: healthy.runs() and any(c.call.action == "restart" for c in healthy.state().changes.values()))
    asked = healthy.rbkit("cancel", "-m", "enough")
    done = ended(process)
    assert "in flight: services.restart(checkout-2); whether it happened is read from its target" in asked.stdout
    assert (done.returncode, healthy.state().outcome) == (6, "unknown"), done.stdout + done.stderr
    assert healthy.member() == "ready"
    assert "look at the target of services.restart(checkout-2)" in healthy.rbkit("show").stdout
