"""What the kernel does by itself."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.events import EventManager, available_events

import rbkit
from rbkit.lab.hooks import Hooks
from rbkit.stores.sqlite import SqliteStore


def shell() -> Any:
    """Make the part of a shell that reports cells."""
    found = SimpleNamespace()
    found.events = EventManager(found, available_events)
    return found


def cell(watched: Any, error: BaseException | None = None, before: BaseException | None = None) -> None:
    """Report that a cell has ended."""
    watched.events.trigger("post_run_cell", SimpleNamespace(error_in_exec=error, error_before_exec=before))


@pytest.mark.parametrize("driver", ["headless", "supervised"])
@pytest.mark.parametrize("where", ["error", "before"])
def test_a_failed_cell_ends_the_run(rig, driver, where) -> None:
    """A cell that fails, or cannot even be parsed, rolls the run back; a good one does nothing."""
    run, watched = rig.run(), shell()

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    asyncio.run(drain())
    hooks = Hooks(watched, run, driver)
    hooks.install()
    cell(watched)
    assert not run.state.finished
    cell(watched, **{where: SyntaxError("odd")})
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")
    cell(watched, ValueError("later"))
    assert rig.screen.ended == ["rolled_back"]
    hooks.remove()


def test_an_operator_is_not_watched(rig) -> None:
    """An operator mends a slip; nothing is registered."""
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "operator")
    hooks.install()
    cell(watched, ValueError("a slip"))
    hooks.remove()
    assert not run.state.finished


def test_what_is_removed_watches_no_more(rig) -> None:
    """After removal a failed cell is somebody else's."""
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "headless")
    hooks.install()
    hooks.remove()
    cell(watched, ValueError("odd"))
    assert not run.state.finished


def test_a_kernel_that_ends_rolls_back(rig, monkeypatch) -> None:
    """At the end of a headless kernel an open run is ended, a finished one is left."""
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    run = rig.run()
    hooks = Hooks(shell(), run, "headless")
    hooks.install()
    registered[0]()
    assert (run.state.outcome, run.state.reason) == ("failed", "The kernel ended before run.close().")
    kinds = rig.kinds()
    registered[0]()
    hooks.remove()
    assert rig.kinds() == kinds


@pytest.mark.parametrize("driver", ["supervised", "operator"])
def test_only_a_headless_kernel_ends_its_run_itself(rig, monkeypatch, driver) -> None:
    """The supervisor, or the operator, ends the others."""
    monkeypatch.setattr("atexit.register", lambda function: pytest.fail("registered"))
    hooks = Hooks(shell(), rig.run(), driver)
    hooks.install()
    hooks.remove()


PROGRAM = """
import sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
home = Path(sys.argv[1])
(home / "test.yaml").write_text("name: test")
shell = InteractiveShell.instance(ipython_dir=str(home))
shell.run_cell('environment: str = "test"', store_history=True)
opening = 'run = open_run("x", version="1", owner="me", budget="5m")'
shell.run_cell("from rbkit import open_run; " + opening, store_history=True)
"""


def test_a_real_kernel_that_ends_closes_its_run(tmp_path) -> None:
    """A process that exits without `run.close()` leaves a run that is over, in a store that another can read."""
    root = str(Path(rbkit.__file__).parents[1])
    names = {"RBKIT_HOME": str(tmp_path / "home"), "RBKIT_PARAMETERS": str(tmp_path), "RBKIT_NOTEBOOKS": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RBKIT_", "JPY_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=kept | names | {"PYTHONPATH": root}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = SqliteStore(tmp_path / "home")
    (run,) = store.runs()
    assert store.read(run)[-1].event["reason"] == "The kernel ended before run.close()."
    store.close()
