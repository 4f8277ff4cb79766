"""An operator's kernel has no supervisor: it keeps its lease itself, and is cancelled, lost and taken over."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from labs import BACK, CHECK, CLOSE, DRAIN, LEASE, Lab, paused, until

pytestmark = pytest.mark.timeout(120)
Book = Callable[..., str]


class Console:
    """A kernel in which somebody executes a notebook cell by cell.

    Args:
        lab: Where it runs.
        path: The notebook.
    """

    def __init__(self, lab: Lab, path: str) -> None:
        self.cells = [cell["source"] for cell in json.loads(Path(path).read_text())["cells"]]
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=lab.env | {"RBKIT_DRIVER": "operator", "RBKIT_NOTEBOOK": path})
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __call__(self, *places: int) -> str:
        """Execute cells by their place; return what they showed, errors included."""
        shown: list[str] = []

        def show(message: dict) -> None:
            content = message["content"]
            shown.append(content.get("text", "") + "\n".join(content.get("traceback", [])))

        for place in places:
            self.client.execute_interactive(self.cells[place], timeout=60, output_hook=show, allow_stdin=False)
        return "".join(shown)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the kernel."""
        os.kill(self.manager.provisioner.pid, number)

    def stop(self) -> None:
        """Stop the kernel, whatever state it is in."""
        self.signal(signal.SIGCONT)
        self.manager.shutdown_kernel(now=True)
        self.client.stop_channels()
        self.manager.cleanup_resources()


@pytest.fixture
def quick(healthy: Lab) -> Lab:
    """The lab with a lease that lapses soon."""
    return healthy.set(lease=LEASE)


@pytest.fixture
def console(quick: Lab, book: Book) -> Iterator[Console]:
    """A kernel that has opened a run and drained an instance."""
    made = Console(quick, book(DRAIN, BACK, CHECK, CLOSE))
    shown = made(0, 1, 2)
    assert "drain: done" in shown, shown
    yield made
    made.stop()


def until_renewed(lab: Lab, run: str) -> None:
    """Wait until a run's lease has been renewed."""
    journal = lab.journal(run)
    first = journal.store.leases()
    until(lambda: all(now.until > then.until for now, then in zip(journal.store.leases(), first, strict=True)))


def test_it_keeps_its_lease_and_is_cancelled_while_idle(quick: Lab, console: Console) -> None:
    """Between two cells the run lives; `rbkit cancel` ends it there, and the next cell finds it over."""
    (run,) = quick.runs()[:1]
    until_renewed(quick, run)
    assert not quick.lost(run)
    asked = quick.rbkit("cancel", run, "-m", "enough")
    assert asked.returncode == 0 and "aborted — trial" in asked.stdout, asked.stdout + asked.stderr
    assert (quick.state(run).outcome, quick.member()) == ("aborted", "ready")
    assert "is over" in console(3)
    until(lambda: not quick.journal(run).store.leases())


def test_it_is_killed_and_another_process_goes_on(quick: Lab, console: Console) -> None:
    """A kernel that is gone is noticed, and its run is resumed headlessly without repeating anything."""
    (run,) = quick.runs()[:1]
    console.manager.autorestart = False
    console.signal(signal.SIGKILL)
    until(lambda: quick.lost(run))
    assert "interrupted — trial" in quick.rbkit("show", run).stdout
    done = quick.rbkit("resume", run)
    assert (done.returncode, quick.state(run).outcome) == (0, "resolved"), done.stdout + done.stderr
    assert [name.partition("/")[0] for name in quick.acted(run)] == ["drain", "back"]


def test_it_sleeps_past_its_lease(quick: Lab, console: Console) -> None:
    """When a lid was closed for too long the run is taken over; the kernel wakes, holds nothing and acts on nothing."""
    (run,) = quick.runs()[:1]
    paused(quick, console.manager.provisioner.pid)
    until(lambda: quick.lost(run))
    assert f"run {run}" in quick.rbkit("reap").stdout
    console.signal(signal.SIGCONT)
    shown = console(3)
    assert "taken over" in shown and "IllegalMove" not in shown, shown
    assert quick.acted(run) == ["drain/0"]
    done = quick.rbkit("rollback", run)
    assert (done.returncode, quick.state(run).outcome) == (3, "rolled_back"), done.stdout + done.stderr
    assert quick.member() == "ready"
    assert "LIVE" in console(1)
    assert quick.runs()[0] != run and not quick.lost(quick.runs()[0])
