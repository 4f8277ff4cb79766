"""A home with everything that a run leaves: its store, its world, its environment file. It can be copied."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from zygote import Forked

from rbkit.stores.sqlite import SqliteStore

from .world.worldlog import Line, opened, world

__all__ = ["Home", "Moment", "wait_for"]

WORLD = Path(__file__).parent / "world"


class Moment(NamedTuple):
    """A moment that a process reached."""

    who: str
    pid: int
    number: int
    name: str


@dataclass(frozen=True)
class Home:
    """A home, and the command line in it.

    Args:
        path: The folder.
        book: The runbook.
        temporary: A folder with a short path: sockets lie in it.
    """

    path: Path
    book: Path
    temporary: Path

    def env(self, crash: str = "") -> dict[str, str]:
        """Variables for a process in this home; `crash` says at which moment which process dies."""
        strip = ("RBKIT_", "COVERAGE", "CRASH_", "JPY_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(strip)}
        own = {"HOME": self.path, "PARAMETERS": self.path / "parameters", "NOTEBOOKS": self.book.parent}
        return {
            **kept, **{f"RBKIT_{name}": str(value) for name, value in own.items()}, "NO_COLOR": "1",
            "PYTHONPATH": str(WORLD), "TMPDIR": str(self.temporary), "CRASH_AT": crash,
            "CRASH_LOG": str(self.path / "moments"),
        }  # fmt: skip

    def start(self, *words: str, crash: str = "") -> Forked:
        """Start the command line."""
        return Forked(words, self.env(crash), self.path)

    def rbkit(self, *words: str, crash: str = "") -> "subprocess.CompletedProcess[str]":
        """Run the command line until it, and every kernel that it left, is gone."""
        process = self.start(*words, crash=crash)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        wait_for(lambda: not self.running())
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def crash(self, plan: str) -> None:
        """Run the runbook with a plan of who dies when; then let so much time pass that nobody holds anything."""
        self.rbkit("run", str(self.book), crash=plan)
        self.pass_time()

    def running(self) -> set[int]:
        """List the kernels that were started in this home and are not dead."""
        log, kernels = str(self.path / "moments"), {moment.pid for moment in self.moments() if moment.who == "kernel"}
        return {pid for pid in kernels if _logs_to(pid) == log}

    def moments(self) -> list[Moment]:
        """List the moments that processes in this home have reached."""
        path = self.path / "moments"
        rows = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
        return [Moment(who, int(pid), int(number), name) for who, pid, number, name in rows]

    def copy(self, path: Path) -> "Home":
        """Copy a home in which no process runs."""
        shutil.copytree(self.path, path)
        return Home(path, self.book, self.temporary)

    def pass_time(self) -> None:
        """Make every lease lapse, as it does when nobody renews it."""
        with closing(SqliteStore(self.path)) as store:
            for lease in store.leases():
                span = timedelta(seconds=2 * lease.ttl_s)
                store.renew(lease.holder, datetime.now(UTC) - span, lease.ttl_s)

    def events(self) -> list[dict[str, Any]]:
        """List the events of the run in this home; none when it was never opened."""
        with closing(SqliteStore(self.path)) as store:
            return [entry.event for run in store.runs()[:1] for entry in store.read(run)]

    def log(self) -> list[Line]:
        """Read what the world was asked."""
        if not (self.path / "world.jsonl").exists():
            return []
        with opened(self.path / "world.jsonl") as log:
            return log.lines

    def world(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Fold the world's present state; whatever is late has shown by now."""
        return world(self.log())


def _logs_to(pid: int) -> str:
    """Return where a process writes its moments; empty when it is dead, or another one has its number."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.environ().get("CRASH_LOG", "")
    except psutil.Error:
        return ""


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds; much longer than it ever takes is a failure."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come within a minute"
        time.sleep(0.02)
