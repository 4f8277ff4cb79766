"""Whatever happens to a kernel, its run ends with the right outcome, rolled back, with a record and no orphan."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from labs import BACK, CHECK, CLOSE, DRAIN, Lab, cell, lives, step, until

from rbkit.execute.runner import _signals
from rbkit.execute.supervise import Supervision
from rbkit.settings import Settings

pytestmark = [pytest.mark.xdist_group("execute"), pytest.mark.timeout(120)]


def verified(lab: Lab) -> bool:
    """Whether the newest record verifies."""
    return lab.rbkit("record", "verify").returncode == 0


def test_success(healthy: Lab, book: Callable[..., str]) -> None:
    """A notebook whose steps are done and whose postconditions pass is resolved, exit 0."""
    done = healthy.rbkit("run", book(DRAIN, BACK, CHECK, CLOSE))
    assert (done.returncode, healthy.state().outcome) == (0, "resolved"), done.stderr + done.stdout
    assert verified(healthy)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("raises", "raise RuntimeError('boom')"),
        ("exits", "import sys\nsys.exit(0)"),
        ("interrupts itself", "raise KeyboardInterrupt"),
    ],
)
def test_failing_step(healthy: Lab, book: Callable[..., str], name: str, body: str) -> None:
    """A step that raises, exits or is interrupted never counts: earlier changes are undone, later steps never run."""
    later = step("later", 'return await run.use("balancer").drain("checkout-1")')
    done = healthy.rbkit("run", book(DRAIN, step("bad", body), later, CHECK, CLOSE))
    state = healthy.state()
    assert done.returncode in {3, 130}
    assert state.outcome in {"rolled_back", "aborted"}
    assert "later" not in state.steps
    assert healthy.member() == "ready"
    assert verified(healthy)


@pytest.mark.parametrize("source", ["1 / 0", "import sys\nsys.exit(0)", "raise SystemExit(3)"])
def test_failing_cell(healthy: Lab, book: Callable[..., str], source: str) -> None:
    """A failed cell outside a step, also sys.exit(0), ends the run: rolled back, exit 3, never success."""
    done = healthy.rbkit("run", book(DRAIN, cell("diagnose", source), CHECK, CLOSE))
    assert (done.returncode, healthy.state().outcome) == (3, "rolled_back"), done.stdout + done.stderr
    assert healthy.member() == "ready"


def test_raises_exception_tag(healthy: Lab, book: Callable[..., str]) -> None:
    """A failed cell tagged raises-exception does not let later steps run."""
    bad = cell("diagnose", "1 / 0")
    bad["metadata"]["tags"].append("raises-exception")
    later = step("later", 'return await run.use("balancer").drain("checkout-1")')
    done = healthy.rbkit("run", book(DRAIN, bad, later, CHECK, CLOSE))
    assert done.returncode == 3
    assert healthy.member("checkout-1") == "ready"


def test_no_close(healthy: Lab, book: Callable[..., str]) -> None:
    """A notebook that ends without run.close() is not a success: its changes are undone."""
    done = healthy.rbkit("run", book(DRAIN, CHECK))
    assert (done.returncode, healthy.state().outcome) == (3, "rolled_back")
    assert healthy.member() == "ready"


def test_kernel_exits(healthy: Lab, book: Callable[..., str]) -> None:
    """os._exit in a step: the supervisor rolls back from the journal alone; nobody says success."""
    done = healthy.rbkit("run", book(DRAIN, step("gone", "import os\nos._exit(0)"), CHECK, CLOSE))
    assert (done.returncode, healthy.state().outcome) == (3, "rolled_back"), done.stdout + done.stderr
    assert healthy.member() == "ready"
    assert verified(healthy)


def test_kernel_killed(healthy: Lab, book: Callable[..., str], tmp_path: Path) -> None:
    """kill -9 of the kernel in a step: rolled back or unknown, and nothing that it started is left."""
    pids = tmp_path / "pids"
    body = (
        "import os, subprocess, asyncio\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(pids)!r} + '.new', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.replace({str(pids)!r} + '.new', {str(pids)!r})\n"
        "await asyncio.sleep(600)"
    )
    process = healthy.start("run", book(DRAIN, step("hang", body, "2m"), CHECK, CLOSE))
    until(pids.exists)
    kernel, child = map(int, pids.read_text().split())
    os.kill(kernel, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode in {3, 6}
    assert healthy.state().outcome in {"rolled_back", "unknown"}
    assert healthy.member() == "ready"
    assert not lives(kernel)
    assert not lives(child)


@pytest.mark.parametrize(
    "body",
    [
        "import asyncio\nawait asyncio.sleep(600)",
        "import time\ntime.sleep(600)",
        "import time\nwhile True:\n    try:\n        time.sleep(600)\n    except KeyboardInterrupt:\n        pass",
    ],
    ids=["awaits", "blocks", "swallows the interrupt"],
)
def test_step_timeout(healthy: Lab, book: Callable[..., str], body: str) -> None:
    """A step past its timeout is stopped, however it blocks, and what was done before is undone."""
    done = healthy.rbkit("run", book(DRAIN, step("slow", body, "1s"), CHECK, CLOSE))
    state = healthy.state()
    assert state.steps["slow"].state in {"failed", "unknown"}
    assert (done.returncode, state.outcome) in {(3, "rolled_back"), (130, "aborted")}, done.stdout + done.stderr
    assert healthy.member() == "ready"
    assert verified(healthy)


def test_timed_out_change_is_unknown(healthy: Lab, book: Callable[..., str]) -> None:
    """A change that was asked for and not confirmed before the timeout is unknown, exit 6; the rest is undone."""
    healthy.rbkit("sandbox", "break", "restart-hangs", "--target", "checkout-2")
    hang = step("hang", 'return await run.use("services").restart("checkout-2")', "2s")
    done = healthy.rbkit("run", book(DRAIN, hang, CHECK, CLOSE))
    state = healthy.state()
    assert state.steps["hang"].state == "unknown"
    assert (done.returncode, state.outcome) == (6, "unknown"), done.stdout + done.stderr
    assert healthy.member() == "ready"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(healthy: Lab, book: Callable[..., str], number: signal.Signals, tmp_path: Path) -> None:
    """SIGINT and SIGTERM mean: stop, roll back, finish the record; exit 130."""
    mark = tmp_path / "mark"
    body = f"import asyncio\nopen({str(mark)!r}, 'w').close()\nawait asyncio.sleep(600)"
    process = healthy.start("run", book(DRAIN, step("hang", body, "2m"), CHECK, CLOSE))
    until(mark.exists)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    state = healthy.state()
    assert (process.returncode, state.outcome) == (130, "aborted"), out + err
    assert number.name in state.cancel
    assert healthy.member() == "ready"
    assert verified(healthy)


def test_budget(healthy: Lab, book: Callable[..., str]) -> None:
    """A run that uses up its budget is stopped and rolled back."""
    slow = step("slow", "import asyncio\nawait asyncio.sleep(600)", "10m")
    done = healthy.rbkit("run", book(DRAIN, slow, CHECK, CLOSE, budget="2s"))
    assert (done.returncode, healthy.state().outcome) == (130, "aborted"), done.stdout + done.stderr
    assert "budget" in healthy.state().cancel
    assert healthy.member() == "ready"


def test_never_opened(healthy: Lab, book: Callable[..., str]) -> None:
    """A notebook that fails before open_run is an error with the cell's reason, not a run."""
    bad = Path(book(DRAIN, CHECK, CLOSE))
    bad.write_text(bad.read_text().replace("from rbkit import open_run", "from rbkit import open_run; 1 / 0"))
    done = healthy.rbkit("run", str(bad))
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_kernel_that_does_not_start(healthy: Lab, book: Callable[..., str], tmp_path: Path) -> None:
    """A kernel that dies before it answers is told in one sentence, not as a traceback; no run is left."""
    spec = tmp_path / "kernels" / "broken" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["/bin/false"], "display_name": "broken", "language": "python"}')
    bad = Path(book(DRAIN, CHECK, CLOSE))
    bad.write_text(bad.read_text().replace('"python3"', '"broken"'))
    lab = replace(healthy, variables={"JUPYTER_PATH": str(tmp_path)})
    known = lab.runs()
    done = lab.rbkit("run", str(bad))
    assert (done.returncode, "could not be started" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert lab.runs() == known


@pytest.mark.parametrize("under_nohup", [False, True])
def test_a_lost_terminal_stops_a_run_unless_that_is_not_wanted(under_nohup: bool) -> None:
    """SIGHUP means what SIGTERM means; under nohup it still means nothing. The handlers before are put back."""
    watched = SimpleNamespace(reasons=[])
    watched.ask_to_stop = watched.reasons.append
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if under_nohup else signal.SIG_DFL)
    try:
        with _signals(Supervision("20260101-000000-aaaaaa", Settings(), watch=watched)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert watched.reasons == [*["SIGHUP from outside"][under_nohup:], "SIGTERM from outside"]
        assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if under_nohup else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_long_line_blocks_nobody(healthy: Lab, book: Callable[..., str]) -> None:
    """A cell that prints one line of 300,000 characters costs no minutes, and its pieces are joined in the record."""
    printing = cell("diagnose", "print('x' * 300_000)\nprint('end')")
    done = healthy.rbkit("run", book(printing, DRAIN, CHECK, CLOSE))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((healthy.home / "records" / f"{healthy.state().run}.ipynb").read_bytes())
    printed = [o["text"] for c in record["cells"] for o in c.get("outputs", []) if "xxx" in str(o.get("text", ""))]
    assert printed == ["x" * 300_000 + "\nend\n"]
