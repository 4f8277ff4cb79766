"""Worlds that promise less: without keys and tokens, and such that show late what was done to them."""

import pytest

from .conftest import Make, Tell
from .history import AFTER, STEPS, History, check_resumed, restarted
from .moments import ACTED, ASKED, KERNEL, number

pytestmark = pytest.mark.timeout(400)


def named(place: int) -> str:
    return KERNEL[place].replace(" ", "-")


@pytest.mark.parametrize("place", sorted([*ASKED, *ACTED]), ids=named)
def test_without_keys_and_tokens(make: Make, tell: Tell, place: int):
    """A world that remembers nothing is read again before anything is repeated: each change is made once."""
    home = make(keys=False, tokens=False)
    home.crash(f"kernel {number(place)} both")
    crashed = History.of(home)
    copy = home.copy(home.path.with_name("copy"))

    check_resumed(home, crashed)

    copy.rbkit("rollback")
    history = History.of(copy)
    history.check_requests(crashed)
    history.check_undone_once()
    assert copy.world() == restarted(len(crashed.acts("restart")))
    assert tell(copy, "record", "verify")[0] == 0


@pytest.mark.parametrize("place", ACTED, ids=named)
def test_late_without_keys_and_tokens(make: Make, place: int):
    """A weak world that shows a change late is asked once more at most, after a look; what was acknowledged is not."""
    home = make(keys=False, tokens=False, late=3)
    home.crash(f"kernel {number(place)} both")
    crashed = History.of(home)
    resumed = home.rbkit("resume")
    history = History.of(home)
    assert (resumed.returncode, history.outcome) == (0, "resolved"), resumed.stderr
    history.check_requests(crashed)
    doubtful = [step for step in STEPS if crashed.begun(step) and not crashed.acknowledged(step)]
    assert all(len(history.acts(step)) == 1 for step in STEPS if step not in doubtful)
    assert home.world()["services", "checkout-2"]["restarts"] == len(history.acts("restart"))


@pytest.mark.parametrize("place", ACTED, ids=named)
def test_late_with_keys(make: Make, place: int):
    """A world that knows keys is asked again with the key of the first request, and so does not act again."""
    home = make(tokens=False, late=3)
    home.crash(f"kernel {number(place)} both")
    crashed = History.of(home)
    resumed = home.rbkit("resume")
    history = History.of(home)
    assert (resumed.returncode, history.outcome) == (0, "resolved"), resumed.stderr
    history.check_requests(crashed)
    doubtful = [step for step in STEPS if crashed.begun(step) and not crashed.acknowledged(step)]
    assert [len(history.requests(step)) for step in doubtful] == [2]
    assert [len(history.acts(step)) for step in STEPS] == [1, 1, 1, 1]
    assert home.world() == AFTER


@pytest.mark.parametrize("place", ACTED[:2], ids=named)
def test_between_two_looks(make: Make, place: int):
    """A change that shows while it is being settled counts as made: it is not asked for in vain, and can be undone."""
    home = make(tokens=False, late=2)
    home.crash(f"kernel {number(place)} both")
    resumed = home.rbkit("resume")
    assert (resumed.returncode, History.of(home).outcome) == (0, "resolved"), resumed.stderr
    home.rbkit("rollback")
    assert home.world() == restarted(1)


@pytest.mark.parametrize("place", ACTED, ids=named)
def test_late_with_keys_and_tokens(make: Make, tell: Tell, place: int):
    """Who takes over announces a token first, and what is under way has ended by then: nothing is made twice."""
    home = make(late=3)
    home.crash(f"kernel {number(place)} both")
    crashed = History.of(home)
    copy = home.copy(home.path.with_name("copy"))

    check_resumed(home, crashed)

    undone = copy.rbkit("rollback")
    assert (undone.returncode, History.of(copy).outcome) == (3, "rolled_back"), undone.stderr
    History.of(copy).check_undone_once()
    assert copy.world() == restarted(len(crashed.acts("restart")))
    assert tell(copy, "record", "verify")[0] == 0


@pytest.mark.parametrize("place", ACTED, ids=named)
def test_late_and_its_own_supervisor_takes_back(make: Make, place: int):
    """A supervisor whose kernel died shuts that kernel's last request out, too, before it takes anything back."""
    home = make(late=2)
    home.rbkit("run", str(home.book), crash=f"kernel {number(place)} self")
    history = History.of(home)
    history.check_undone_once()
    assert home.world() == restarted(len(history.acts("restart")))
