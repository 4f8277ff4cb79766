"""Real processes, a real store and a real sandbox: the store is taken away, and the disk is full."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import labs
import pytest
from labs import BACK, CHECK, CLOSE, DRAIN, Lab, cell, ended, healthy, lab, step

from rbkit.clock import SystemClock
from rbkit.journal import verify
from rbkit.leases import Targets
from rbkit.stores.sqlite import SqliteStore

__all__ = ["book", "healthy", "lab"]
pytestmark = [pytest.mark.timeout(240)]
MONKEY = """
import random, sqlite3, sys, threading

chance, over = random.Random(int(sys.argv[2])), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
outages = 0
while not over.wait(chance.uniform(0.3, 2.0)):
    connection.execute(chance.choice(["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]))
    over.wait(chance.uniform(0.0, 5.0))
    connection.execute("ROLLBACK")
    outages += 1
connection.close()
print(outages)
"""
_TOKENS = count(10, 10)
"""How often a new store's target was held before, so that its tokens are higher than those that were seen."""
FILLING = """
import os, pathlib, resource

mark = pathlib.Path({mark!r})
if not mark.exists():
    mark.touch()
    for pid in (os.getpid(), os.getppid()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
"""
SEED = "1"


@pytest.fixture
def book(tmp_path: Path) -> Callable[..., str]:
    """Write a runbook from its cells under a name, and return its path."""
    return lambda name, *cells: labs.book(tmp_path / f"{name}.ipynb", *cells)


def there_and_back(target: str) -> list[dict[str, object]]:
    """Build the cells of a runbook that drains, restarts and puts back one instance."""
    acts = [("balancer", "drain"), ("services", "restart"), ("balancer", "ready")]
    return [step(act, f'return await run.use("{name}").{act}("{target}")') for name, act in acts]


def test_runs_outlast_a_store_that_is_taken_away(healthy: Lab, book: Callable[..., str]) -> None:
    """Another process locks the database for up to five seconds each: every run is resolved, nothing is doubled."""
    SqliteStore(healthy.home).close()
    known = healthy.runs()
    targets = ["checkout-1", "checkout-2"]
    books = [book(target, *there_and_back(target), CHECK, CLOSE) for target in targets]
    with subprocess.Popen(
        [sys.executable, "-c", MONKEY, str(healthy.home / "rbkit.db"), SEED], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as monkey:  # fmt: skip
        done = [ended(process, 200) for process in [healthy.start("run", path) for path in books]]
        outages, _ = monkey.communicate("")
    assert [process.returncode for process in done] == [0, 0], "\n".join(p.stdout + p.stderr for p in done)
    assert int(outages) >= 2
    for run in set(healthy.runs()) - set(known):
        assert verify(healthy.journal(run).entries).outcome == "resolved"
        assert healthy.acted(run) == ["drain/0", "restart/1", "ready/2"]


@pytest.fixture
def own(healthy: Lab, tmp_path: Path) -> Lab:
    """The same sandbox beside a store of its own; its processes give up soon, and their leases are short."""
    path = os.pathsep.join([str(Path(__file__).parent / "impatient"), os.environ.get("PYTHONPATH", "")])
    with closing(SqliteStore(tmp_path / "home")) as store:
        for number in range(next(_TOKENS)):
            holder = f"earlier/host/1/{number}"
            targets = Targets(store, holder, "sandbox", SystemClock(), waits=lambda target, lease: None)
            asyncio.run(targets.hold("checkout-2"))
            store.release(holder)
    (tmp_path / "home" / "sandbox").symlink_to(healthy.home / "sandbox")
    return Lab(tmp_path / "home", {"PYTHONPATH": path, "RBKIT_LEASE": "3s"}, healthy.started)


def filling(mark: Path, size: int = 0) -> str:
    """Code that lets the system refuse the kernel and its supervisor every file that is larger than this, once."""
    return FILLING.format(mark=str(mark), size=size)


@pytest.mark.parametrize(
    ("place", "way", "made"),
    [(0, "resume", []), (2, "resume", ["drain", "restart"]), (3, "rollback", ["drain"])],
)
def test_a_disk_that_is_full_breaks_a_run_off_and_loses_nothing(
    healthy: Lab, own: Lab, book: Callable[..., str], tmp_path: Path, place: int, way: str, made: list[str]
) -> None:
    """The system refuses to write; with space again the run is found dead and goes on, or back, without doubling."""
    full, cells = filling(tmp_path / "mark"), there_and_back("checkout-2")
    if place == 3:  # in the middle of a step, when its change is done
        cells[0] = step("drain", f'done = await run.use("balancer").drain("checkout-2")\n{full}\nreturn done')
    else:
        cells.insert(place, cell("diagnose", full))
    broken = own.rbkit("run", book("full", *cells, CHECK, CLOSE))
    said, (run,), before = broken.stdout + broken.stderr, own.runs(), own.state()
    assert broken.returncode == 1 and "disk I/O error" in said and "Free space" in said, said
    assert not before.finished
    assert acts(healthy, run) == made and len(before.changes) == len(made)
    done = own.rbkit(way, run)
    after = verify(own.journal(run).entries)
    assert after.outcome == ("resolved" if way == "resume" else "rolled_back"), done.stdout + done.stderr
    assert acts(healthy, run) == (["drain", "restart", "ready"] if way == "resume" else ["drain", "drain"])
    assert healthy.member() == "ready"


def acts(home: Lab, run: str) -> list[str]:
    """Name the steps whose changes the sandbox made for a run, each as often as it did."""
    return [key.partition("/")[0] for key in home.acted(run)]


def test_a_disk_that_is_full_only_for_the_record_costs_no_journal(
    own: Lab, book: Callable[..., str], tmp_path: Path
) -> None:
    """The run ended and its journal says so; the error names what could not be written and where the rest is."""
    full = cell("diagnose", filling(tmp_path / "mark", 1_000_000))
    loud = cell("diagnose", "print(('x' * 99 + '\\n') * 20_000)")
    broken = own.rbkit("run", book("loud", DRAIN, BACK, full, loud, CHECK, CLOSE))
    said, (run,) = broken.stdout + broken.stderr, own.runs()
    assert broken.returncode == 1 and "its record cannot be written" in said and f"rbkit show {run}" in said, said
    assert verify(own.journal(run).entries).outcome == "resolved"
    assert not list((own.home / "records").glob(f"*{run}*"))
    assert own.rbkit("show", run).returncode == 0
