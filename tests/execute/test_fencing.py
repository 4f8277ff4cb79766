"""Who acts on a target: a process that slept past its lease is shut out, and two runs never act on it at once."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from labs import BACK, CHECK, CLOSE, DRAIN, LEASE, Lab, Process, ended, kernels, lives, paused, step, until, waiting

pytestmark = pytest.mark.timeout(120)
Book = Callable[..., str]


@pytest.fixture
def quick(healthy: Lab) -> Lab:
    """The lab with a lease that lapses soon."""
    return healthy.set(lease=LEASE)


def slow_drain(mark: Path, go: Path) -> str:
    """A step's body whose request waits right before it leaves and cannot be called back; all checks are behind it."""
    wait = "\n".join(f"    {line}" for line in waiting(mark, go).splitlines())
    return (
        'adapter = run.gate.world.capability("balancer")\n'
        "send = adapter.apply\n"
        f"async def slow(call, key, token):\n{wait}\n"
        "    await asyncio.shield(asyncio.ensure_future(send(call, key, token)))\n"
        "adapter.apply = slow\n"
        'return await run.use("balancer").drain("checkout-2")'
    )


@pytest.fixture
def stopped(quick: Lab, book: Book, tmp_path: Path) -> tuple[Lab, Process, str]:
    """A run that is stopped with its kernel, past its lease, with a request that is about to leave."""
    known, mark, go = quick.runs(), tmp_path / "mark", tmp_path / "go"
    second = step("second", waiting(tmp_path / "second", tmp_path / "on"))
    first = quick.start("run", book(step("drain", slow_drain(mark, go), "1h"), second, BACK, CHECK, CLOSE))
    until(mark.exists)
    run = quick.next_run(known)
    paused(quick, first.pid, *kernels(first))
    until(lambda: quick.lost(run))
    go.touch()
    return quick, first, run


def wakes_fenced(lab: Lab, first: Process, run: str) -> None:
    """Wake the first process: its request is refused by its token, it writes nothing, and says whose run it is."""
    entries, pids = lab.journal(run).entries, kernels(first)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    until(lambda: 412 in [entry["status"] for entry in lab.asked(run)])
    os.kill(first.pid, signal.SIGCONT)
    done = ended(first)
    assert done.returncode == 4 and "another process has taken the run over" in done.stderr, done.stdout + done.stderr
    assert lab.journal(run).entries == entries
    assert not any(map(lives, pids))


def test_a_sleeper_wakes_while_another_process_goes_on(stopped: tuple[Lab, Process, str], tmp_path: Path) -> None:
    """Its request leaves with the old token and is refused, and it kills nothing of the newer session."""
    lab, first, run = stopped
    second = lab.start("resume", run)
    until((tmp_path / "second").exists)
    wakes_fenced(lab, first, run)
    (tmp_path / "on").touch()
    done = ended(second)
    assert (done.returncode, lab.state(run).outcome) == (0, "resolved"), done.stdout + done.stderr
    assert [name.partition("/")[0] for name in lab.acted(run)] == ["drain", "back"]
    assert lab.member() == "ready"


def test_a_sleeper_wakes_after_a_rollback(stopped: tuple[Lab, Process, str]) -> None:
    """A change that was never made is settled by looking, and the sleeper cannot make it afterwards."""
    lab, first, run = stopped
    done = lab.rbkit("rollback", run)
    assert (done.returncode, lab.state(run).outcome) == (3, "rolled_back"), done.stdout + done.stderr
    wakes_fenced(lab, first, run)
    assert lab.acted(run) == []
    assert lab.member() == "ready"


def test_a_supervisor_wakes_alone(quick: Lab, book: Book, tmp_path: Path) -> None:
    """When only the supervisor slept, its kernel can write no more as soon as another process has the run."""
    known, mark, go = quick.runs(), tmp_path / "mark", tmp_path / "go"
    work = step("work", f'{waiting(mark, go)}\nreturn await run.use("balancer").drain("checkout-2")')
    first = quick.start("run", book(work, BACK, CHECK, CLOSE))
    until(mark.exists)
    run = quick.next_run(known)
    paused(quick, first.pid)
    until(lambda: quick.lost(run))
    assert quick.rbkit("abandon", run).returncode == 130
    go.touch()
    first.send_signal(signal.SIGCONT)
    assert ended(first).returncode == 4
    assert (quick.acted(run), quick.member()) == ([], "ready")


def test_two_runs_want_one_target(quick: Lab, book: Book, tmp_path: Path) -> None:
    """The second says by whom the target is held and until when, waits, and goes on when the first is over."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    one = book(DRAIN, step("wait", waiting(mark, go)), BACK, CHECK, CLOSE)
    first = quick.start("run", one)
    until(mark.exists)
    (holder,) = quick.runs()[:1]
    known = quick.runs()
    second = quick.start("run", one)
    run = quick.next_run(known)
    until(lambda: quick.state(run).awaits)
    shown = quick.rbkit("show", run).stdout
    assert f"checkout-2, held by {holder} until 20" in shown
    assert not quick.asked(run)
    go.touch()
    told = [ended(process) for process in (first, second)]
    assert [done.returncode for done in told] == [0, 0], told
    assert f"waits for checkout-2, held by run {holder} until" in told[1].stdout
    assert quick.acted(holder) == quick.acted(run) == ["drain/0", "back/1"]
    assert lab_times(quick, holder)[-1] < lab_times(quick, run)[0]


def lab_times(lab: Lab, run: str) -> list[str]:
    """When the sandbox was asked for a run's changes."""
    return [str(entry["time"]) for entry in lab.asked(run)]


def test_a_resolved_run_is_rolled_back_when_it_can_be(quick: Lab, book: Book) -> None:
    """A rollback that fails names what is to be done by hand, exit 4; when the balancer is back, another completes."""
    words = '"""Take it out. Undo: put it back in the console."""'
    drain = step("drain", 'return await run.use("balancer").drain("checkout-2")')
    drain["source"] = drain["source"].replace('"""drain."""', words)
    assert quick.rbkit("run", book(drain, CHECK, CLOSE)).returncode == 0
    run = quick.runs()[0]
    address = quick.layout.url_files["balancer_admin"]
    published = address.read_text()
    address.write_text("http://127.0.0.1:9\n")
    failed = quick.rbkit("rollback", run)
    shown = quick.rbkit("show", run)
    address.write_text(published)
    assert (failed.returncode, quick.state(run).outcome) == (4, "needs_operator"), failed.stdout + failed.stderr
    for text in (failed.stdout, shown.stdout):
        assert "by hand: balancer.ready(checkout-2) (put it back in the console)" in text
    assert quick.member() == "drain"
    done = quick.rbkit("rollback", run)
    assert (done.returncode, quick.state(run).outcome) == (3, "rolled_back"), done.stdout + done.stderr
    assert quick.member() == "ready"
    assert quick.rbkit("record", "verify", run).returncode == 0
