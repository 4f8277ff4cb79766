"""What tests with real processes share: a home with a sandbox, the command line in it, and notebooks for them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from zygote import Forked

from rbkit.clock import SystemClock
from rbkit.errors import StoreUnavailable
from rbkit.fold import RunState
from rbkit.journal import AUDIT, Journal
from rbkit.reaping import lost
from rbkit.sandbox import lifecycle
from rbkit.sandbox.client import call
from rbkit.sandbox.layout import Layout
from rbkit.stores.sqlite import SqliteStore

REPO = Path(__file__).parents[1]
LEASE = "2s"
Process = Forked
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Lab:
    """A home with a sandbox, and the command line in it.

    Args:
        home: The home.
        variables: Environment variables beside those that name home, notebooks and environment files.
        started: The processes that were started.
    """

    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    started: list[Process] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """Variables for a process of this lab."""
        own = {"RBKIT_HOME": str(self.home), "NO_COLOR": "1"}
        own |= {f"RBKIT_{name.upper()}": str(REPO / name) for name in ("parameters", "notebooks")}
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RBKIT_", "JPY_", "COVERAGE"))
        }
        return kept | own | self.variables

    def set(self, **variables: object) -> "Lab":
        """The same lab with other variables of rbkit, for example `lease="2s"`."""
        added = {f"RBKIT_{name.upper()}": str(value) for name, value in variables.items()}
        return replace(self, variables=self.variables | added)

    def rules(self, folder: Path, **keys: str) -> "Lab":
        """The same lab with other values in the sandbox's environment file, for example `approval_wait="3s"`."""
        text = (REPO / "parameters" / "sandbox.yaml").read_text()
        for key, value in keys.items():
            text = re.sub(rf"(?m)^{key}:.*$", f"{key}: {value}", text)
        folder.mkdir(exist_ok=True)
        (folder / "sandbox.yaml").write_text(text)
        return self.set(parameters=folder)

    def start(self, *words: str) -> Process:
        """Start the command line."""
        process = Forked(words, self.env, REPO)
        self.started.append(process)
        return process

    def rbkit(self, *words: str) -> Done:
        """Run the command line to its end."""
        return ended(self.start(*words))

    def python(self, *words: str) -> Done:
        """Run Python from the repository."""
        return subprocess.run(
            [sys.executable, *words], env=self.env, cwd=REPO, text=True, capture_output=True, timeout=120, check=False
        )

    def runs(self) -> list[str]:
        """List the runs, the newest first."""
        if not (self.home / "rbkit.db").exists():
            return []
        store = SqliteStore(self.home)
        try:
            return [name for name in store.runs() if name != AUDIT]
        finally:
            store.close()

    def journal(self, run: str = "") -> Journal:
        """Open a run's journal; the newest if none is named."""
        return Journal(SqliteStore(self.home), run or self.runs()[0], "cli", session=0)

    def state(self, run: str = "") -> RunState:
        """Fold a run's journal; the newest if none is named."""
        return self.journal(run).state

    def events(self, kind: str, run: str = "") -> list[dict[str, Any]]:
        """List the events of one kind."""
        return [entry.event for entry in self.journal(run).entries if entry.event["kind"] == kind]

    def lost(self, run: str) -> str:
        """Why a run counts as dead; empty while it lives."""
        journal = self.journal(run)
        return lost(journal.store, journal.state, SystemClock().now())

    def next_run(self, known: list[str]) -> str:
        """Wait until a run is opened that was not known."""
        until(lambda: set(self.runs()) - set(known))
        return (set(self.runs()) - set(known)).pop()

    @property
    def layout(self) -> Layout:
        """Where the sandbox listens."""
        return Layout(self.home / "sandbox", lifecycle.status(self.home / "sandbox").port)

    def asked(self, run: str) -> list[dict[str, Any]]:
        """What the sandbox was asked to change under a run's keys, as its own log tells it."""
        layout = self.layout
        logs = [call(port, "/log", token=layout.token())["requests"] for port in (layout.port, layout.balancer_admin)]
        found = [entry for log in logs for entry in log if str(entry["key"]).startswith(f"{run}/")]
        return sorted(found, key=lambda entry: str(entry["time"]))

    def acted(self, run: str) -> list[str]:
        """Name the changes that the sandbox made for a run, by step and place, each as often as it was made."""
        return [entry["key"].partition("/")[2] for entry in self.asked(run) if entry["acted"]]

    def put(self, member: str, state: str) -> None:
        """Drain a member or make it ready, as somebody else would with the balancer's own tools."""
        layout = self.layout
        known = call(layout.balancer_admin, f"/fence/{member}", token=layout.token())["token"]
        headers = {"Authorization": f"Bearer {layout.token()}", "Fencing-Token": str(known or 1)}
        connection = http.client.HTTPConnection("127.0.0.1", layout.balancer_admin, timeout=30)
        connection.request("PUT", f"/members/{member}", json.dumps({"state": state}), headers)
        assert connection.getresponse().status == 200
        connection.close()

    def member(self, name: str = "checkout-2") -> str:
        """How the balancer treats an instance."""
        members = lifecycle.status(self.home / "sandbox").members
        return str(next(m["state"] for m in members if m["name"] == name))

    def world(self) -> dict[str, tuple[object, object]]:
        """Pid and balancer state of every instance."""
        found = lifecycle.status(self.home / "sandbox")
        states = {member["name"]: member["state"] for member in found.members}
        return {service["name"]: (service["pid"], states[service["name"]]) for service in found.services}

    def leak(self, above_mb: float) -> None:
        """Make checkout-2 leak, and wait until it is well above a limit."""
        lifecycle.break_(self.home / "sandbox", "memory-leak", "checkout-2")
        until(lambda: lifecycle.status(self.home / "sandbox").rss_mb["checkout-2"] >= above_mb)

    def heal(self) -> None:
        """Make the sandbox well again."""
        lifecycle.heal(self.home / "sandbox")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A home with a sandbox for a module's tests."""
    home = tmp_path_factory.mktemp("home")
    lifecycle.up(home / "sandbox", lifecycle.free_base_port())
    yield Lab(home)
    lifecycle.down(home / "sandbox")


@pytest.fixture
def healthy(lab: Lab) -> Iterator[Lab]:
    """The module's lab, made well again after the test; nothing that a test has started outlives it."""
    yield lab
    for process in lab.started:
        with process:
            killed(process)
    lab.started.clear()
    lab.heal()


def ended(process: Process, within_s: float = 120) -> Done:
    """Wait for a process; one that does not end is killed."""
    try:
        out, err = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        killed(process)
        out, err = process.communicate()
        raise AssertionError(f"it did not end within {within_s:.0f} s:\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def until(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come within {within_s:.0f} s"
        time.sleep(0.05)


def paused(lab: Lab, *pids: int) -> None:
    """Stop processes at a moment when none of them holds the lock of the store: that would stop everybody else, too."""
    store = SqliteStore(lab.home)
    while True:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            store.release("nobody")
        except StoreUnavailable:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        else:
            return store.close()


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead and only not yet reaped by init does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kernels(supervisor: Process) -> list[int]:
    """The process ids of a supervisor's kernel and of what it has started."""
    return [process.pid for process in psutil.Process(supervisor.pid).children(recursive=True)]


def killed(supervisor: Process) -> None:
    """Kill a supervisor, its kernel and what that has started, if it still runs."""
    if supervisor.poll() is None:
        for pid in [supervisor.pid, *kernels(supervisor)]:
            os.kill(pid, signal.SIGKILL)


_OPEN = 'from rbkit import open_run\nrun = open_run("trial", version="1", owner="tests", budget="{budget}"{more})'
_STEP = (
    '@run.step(risk="{risk}", timeout="{timeout}")\nasync def {name}():\n    """{name}."""\n{body}\n\nawait {name}()'
)


def cell(tag: str, source: str) -> dict[str, Any]:
    """Build a code cell."""
    return {
        "cell_type": "code", "id": f"{tag}-{abs(hash(source)) % 10**8}", "metadata": {"tags": [tag]},
        "source": source, "outputs": [], "execution_count": None,
    }  # fmt: skip


def step(name: str, body: str, timeout: str = "30s", risk: str = "medium") -> dict[str, Any]:
    """Build a cell with one step."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return cell("step", _STEP.format(name=name, timeout=timeout, body=lines, risk=risk))


DRAIN = step("drain", 'return await run.use("balancer").drain("checkout-2")')
BACK = step("back", 'return await run.use("balancer").ready("checkout-2")')
CHECK = cell(
    "postcondition",
    '@run.postcondition\nasync def fine():\n    """Fine."""\n    return True\n\nawait fine()',
)
CLOSE = cell("close", "run.close()")


def book(path: Path, *cells: dict[str, Any], budget: str = "2m", more: str = "") -> str:
    """Write a runbook: parameters and opening, then the cells that are given.

    Args:
        path: Where to.
        cells: Its other cells.
        budget: The longest a run may take.
        more: More arguments for open_run, for example `, confirm_within="5s"`.
    """
    opening = cell("contract", _OPEN.format(budget=budget, more=more))
    all_cells = [cell("parameters", 'environment: str = "sandbox"  # Where'), opening, *cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": all_cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return str(path)


def crashing(mark: Path) -> str:
    """A step's body that kills its supervisor the first time, writes the kernel's process id, and then hangs."""
    return (
        "import asyncio, os, pathlib, signal\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists():\n"
        "    mark.write_text(str(os.getpid()))\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    await asyncio.sleep(600)"
    )


def waiting(mark: Path, go: Path) -> str:
    """A body that says that it began, and goes on when it may."""
    return (
        "import asyncio, pathlib\n"
        f"pathlib.Path({str(mark)!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists():\n"
        "    await asyncio.sleep(0.05)"
    )
