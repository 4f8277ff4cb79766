"""The kernel dies and its supervisor lives: it takes back what was done, writes the record, does nothing twice."""

import pytest

from .conftest import Make, Tell
from .history import STEPS, History, restarted
from .moments import KERNEL, LAST, POINTS, UNDOING, number

pytestmark = pytest.mark.timeout(400)
THIRD = number(KERNEL.index("acted balancer.ready(checkout-2)"))


@pytest.mark.parametrize("place", POINTS, ids=lambda place: f"{place}-{KERNEL[place].replace(' ', '-')}")
def test_kernel_killed(make: Make, tell: Tell, place: int):
    """Whenever the kernel dies, its supervisor rolls back at once: each change once, each taken back once."""
    home = make()
    done = home.rbkit("run", str(home.book), crash=f"kernel {number(place)} self")
    history = History.of(home)
    assert next(m for m in home.moments()[::-1] if m.who == "kernel").name == KERNEL[place]
    assert (done.returncode, history.outcome) == expected(history), done.stderr
    assert [len(history.requests(step)) for step in STEPS] == [asked(step, place) for step in STEPS]
    history.check_undone_once()
    assert home.world() == restarted(len(history.acts("restart")))
    assert tell(home, "record", "verify")[0] == 0
    code, said = tell(home, "resume")
    assert (code, "is over" in said) == (1, True)


def asked(step: str, place: int) -> int:
    """Count how often the world was asked for a step's change before the kernel died."""
    calls = {"drain": "balancer.drain", "restart": "services.restart", "put_back": "balancer.ready"}
    return sum(name.startswith(f"acted {calls.get(step, 'services.stop')}") for name in KERNEL[: place + 1])


def expected(history: History) -> tuple[int, str]:
    """Say how a run ends whose kernel died: nothing to take back is a failure; a doubtful restart stays unknown."""
    if history.begun("restart") and not history.acts("restart"):
        return 6, "unknown"
    nothing = not history.begun("drain") or history.only_a_restart_stands
    return (1, "failed") if nothing else (3, "rolled_back")


def test_before_the_run_was_opened(make: Make):
    """A kernel that dies before its run is opened is an error with the reason, not a run."""
    home = make()
    done = home.rbkit("run", str(home.book), crash="kernel 1 self")
    assert (done.returncode, home.events(), home.log()) == (1, [], [])
    assert "was never opened" in done.stderr


def test_after_the_run_was_closed(make: Make, tell: Tell):
    """A kernel that dies after it closed its run has done everything: resolved, with a record."""
    home = make()
    done = home.rbkit("run", str(home.book), crash=f"kernel {number(KERNEL.index(LAST))} self")
    assert (done.returncode, History.of(home).outcome) == (0, "resolved")
    assert tell(home, "record", "verify")[0] == 0


def test_the_moments_of_undoing_are_all_known(make: Make):
    """Whoever adds a write or an effect to the supervisor's rollback adds it to the moments at which it is killed."""
    home = make()
    assert home.rbkit("run", str(home.book), crash=f"kernel {THIRD} self").returncode == 3
    assert tuple(moment.name for moment in home.moments() if moment.who == "command") == UNDOING


@pytest.mark.parametrize("place", range(len(UNDOING)), ids=lambda place: f"{place}-{UNDOING[place].replace(' ', '-')}")
def test_supervisor_killed_while_it_takes_back(make: Make, tell: Tell, place: int):
    """A rollback that dies is finished by another: each change is taken back once, nothing goes forward again."""
    home = make()
    home.crash(f"kernel {THIRD} self,command {number(place)} self")
    crashed = History.of(home)
    assert home.moments()[-1].name == UNDOING[place]
    over = crashed.outcome == "rolled_back"
    undone = home.rbkit("rollback")
    history = History.of(home)
    assert (undone.returncode, history.outcome) == (1 if over else 3, "rolled_back"), undone.stderr
    assert ("nothing that it did stands" in undone.stderr) == over
    history.check_undone_once()
    assert [history.requests(step) for step in STEPS] == [crashed.requests(step) for step in STEPS]
    assert home.world() == restarted(1)
    assert tell(home, "record", "verify")[0] == 0
