"""The kernel and its supervisor die at one moment: resumed on one copy of what is left, rolled back on another."""

import pytest

from .conftest import Make, Tell
from .history import AFTER, STEPS, History, check_resumed, restarted
from .moments import COMMAND, KERNEL, LAST, POINTS, number

pytestmark = pytest.mark.timeout(400)


def test_the_moments_are_all_known(make: Make):
    """Whoever adds a write or an effect finds it missing here, and adds it to the moments at which runs are killed."""
    home = make()
    done = home.rbkit("run", str(home.book))
    assert done.returncode == 0, done.stderr
    assert tuple(moment.name for moment in home.moments() if moment.who == "kernel") == KERNEL
    assert tuple(moment.name for moment in home.moments() if moment.who == "command") == COMMAND
    assert home.world() == AFTER


@pytest.mark.parametrize("place", POINTS, ids=lambda place: f"{place}-{KERNEL[place].replace(' ', '-')}")
def test_power_cut(make: Make, tell: Tell, place: int):
    """Whenever both die: resumed it is resolved with every change made once; rolled back, the world is as it was."""
    home = make()
    home.crash(f"kernel {number(place)} both")
    crashed = History.of(home)
    assert home.moments()[-1].name == KERNEL[place]
    assert tell(home, "record", "verify")[0] == 0
    copy = home.copy(home.path.with_name("copy"))

    check_resumed(home, crashed)
    assert tell(home, "record", "verify")[0] == 0

    undone = copy.rbkit("rollback")
    history = History.of(copy)
    assert (undone.returncode, history.outcome) in expected(crashed), undone.stderr
    history.check_requests(crashed)
    history.check_undone_once()
    assert [history.requests(step) for step in STEPS] == [crashed.requests(step) for step in STEPS]
    assert copy.world() == restarted(len(crashed.acts("restart")))
    assert tell(copy, "record", "verify")[0] == 0


def expected(crashed: History) -> set[tuple[int, str]]:
    """Say how a rollback ends: it cannot tell whether a restart that was intended and did not show may still come."""
    if crashed.begun("restart") and not crashed.acts("restart"):
        return {(6, "unknown")}
    return {(3, "rolled_back")}


def test_only_a_restart_stands(make: Make):
    """Rolled back is rolled back: what cannot be undone is named, and the outcome does not hang on the order."""
    home = make()
    home.crash(f"kernel {number(KERNEL.index('step_done put_back'))} both")
    undone = home.rbkit("rollback")
    assert (undone.returncode, History.of(home).outcome) == (3, "rolled_back")


def test_before_the_run_was_opened(make: Make, tell: Tell):
    """A run that died before it was written down is none: the world was not touched, and all commands say so."""
    home = make()
    home.crash("kernel 1 both")
    assert (home.events(), home.log()) == ([], [])
    for command in ("resume", "rollback", "abandon"):
        code, said = tell(home, command)
        assert (code, "There is no run" in said) == (2, True)
    assert home.log() == []
    assert home.rbkit("run", str(home.book)).returncode == 0


@pytest.mark.parametrize("plan", [f"kernel {number(KERNEL.index(LAST))} both", "command 1 self", "command 2 self"])
def test_after_the_run_was_closed(make: Make, tell: Tell, plan: str):
    """A closed run is never resumed; what lacks its record verifies from the journal and can be rolled back."""
    home = make()
    home.crash(plan)
    crashed = History.of(home)
    assert (crashed.outcome, home.world()) == ("resolved", AFTER)
    code, said = tell(home, "resume")
    assert (code, "is over" in said) == (1, True)
    code, said = tell(home, "record", "verify")
    assert (code, "no record file" in said) == (0, True)
    assert History.of(home) == crashed

    undone = home.rbkit("rollback")
    history = History.of(home)
    assert (undone.returncode, history.outcome) == (3, "rolled_back"), undone.stderr
    history.check_requests(crashed)
    history.check_undone_once()
    assert home.world() == restarted(1)
    assert tell(home, "record", "verify")[0] == 0


def test_leases_lapse_by_themselves(make: Make):
    """Nobody has to clear anything away: resuming at once waits until the dead process's leases have lapsed."""
    home = make()
    home.rbkit("run", str(home.book), crash=f"kernel {number(KERNEL.index('step_done drain'))} both")
    crashed = History.of(home)
    resumed = home.rbkit("resume")
    assert (resumed.returncode, History.of(home).outcome) == (0, "resolved"), resumed.stderr
    History.of(home).check_requests(crashed)
    assert home.world() == AFTER
