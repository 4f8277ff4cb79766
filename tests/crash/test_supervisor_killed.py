"""The supervisor dies and its kernel goes on until it notices, or stands still and wakes up when it is too late."""

import os
import signal

import psutil
import pytest
from zygote import Forked

from .conftest import Make, Tell
from .history import History, check_resumed, restarted
from .homes import Home, wait_for
from .moments import ASKED, CELLS, KERNEL, number

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("place", CELLS, ids=lambda place: f"{place}-{KERNEL[place].replace(' ', '-')}")
def test_supervisor_killed(make: Make, tell: Tell, place: int):
    """A kernel that has lost its supervisor ends by itself; what it did until then counts, and nothing is repeated."""
    home = make()
    home.crash(f"kernel {number(place)} command")
    crashed = History.of(home)
    assert KERNEL[place] in [moment.name for moment in home.moments()]
    copy = home.copy(home.path.with_name("copy"))

    check_resumed(home, crashed)
    assert tell(home, "record", "verify")[0] == 0

    undone = copy.rbkit("rollback")
    history = History.of(copy)
    assert (undone.returncode, history.outcome) == (3, "rolled_back"), undone.stderr
    history.check_requests(crashed)
    history.check_undone_once()
    assert copy.world() == restarted(len(crashed.acts("restart")))
    assert tell(copy, "record", "verify")[0] == 0


@pytest.mark.parametrize("place", ASKED, ids=lambda place: KERNEL[place].replace(" ", "-"))
def test_sleepers(make: Make, tell: Tell, place: int):
    """Two that wake up after their run was taken over neither act nor write: their token and session are old."""
    home = make()
    with home.start("run", str(home.book), crash=f"kernel {number(place)} freeze") as command:
        try:
            wait_for(lambda: asleep(command.pid) and home.moments()[-1].name == KERNEL[place])
            check_sleepers(home, command)
        finally:
            command.kill()
    assert tell(home, "record", "verify")[0] == 0


def check_sleepers(home: Home, command: Forked) -> None:
    """Take the run over while both are asleep, wake one after the other, and look at what they did."""
    kernel = home.moments()[-1].pid
    wait_for(lambda: asleep(kernel))
    home.pass_time()
    _, said = home.start("rollback").communicate(timeout=120)
    before = History.of(home)
    assert before.outcome in {"rolled_back", "unknown"}, said

    os.kill(kernel, signal.SIGCONT)
    wait_for(lambda: any(moment.pid == kernel and moment.name.startswith("fenced") for moment in home.moments()))
    os.kill(command.pid, signal.SIGCONT)
    command.communicate(timeout=120)
    history = History.of(home)
    late = [line for line in history.lines[len(before.lines) :] if line["what"] != "read"]
    assert [(line["pid"], line["stale"], line["acted"]) for line in late] == [(kernel, True, False)]
    assert (command.returncode, history.events) == (4, before.events)
    assert home.world() == restarted(len(before.acts("restart")))


def asleep(pid: int) -> bool:
    """Tell whether a process is stopped."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


SECOND = number(KERNEL.index("acted services.restart(checkout-2)"))


@pytest.mark.parametrize(
    "plan",
    [
        "command 1 self",
        "command 2 self",
        "kernel 1 self",
        "kernel 1 both",
        "kernel 5 both",
        "kernel 9 both",
    ],
)
def test_resume_killed(make: Make, tell: Tell, plan: str):
    """A resume that dies is resumed: what either of the two acknowledged is not repeated."""
    home = make()
    home.crash(f"kernel {SECOND} both")
    first = History.of(home)
    home.rbkit("resume", crash=plan)
    home.pass_time()
    second = History.of(home)
    assert second.outcome == ""
    second.check_requests(first)

    check_resumed(home, second)
    assert tell(home, "record", "verify")[0] == 0
