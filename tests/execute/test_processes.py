"""What a kernel has started is killed with it; what belongs to somebody else is not."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from labs import lives, until

from rbkit.execute.processes import interrupt, kill_all, kill_orphans

RUN = "20260101-000000-0a0b0c"
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start processes that carry what is given in their environment."""
    made: list[subprocess.Popen[bytes]] = []

    def start(**variables: object) -> subprocess.Popen[bytes]:
        env = os.environ | {name: str(value) for name, value in variables.items()}
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        made.append(subprocess.Popen(sleep, env=env, start_new_session=True))
        return made[-1]

    yield start
    for process in made:
        with process:
            process.kill()


def dead() -> int:
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_the_own_session_is_killed(spawn: Spawn) -> None:
    """A process that woke late does not kill the kernel of whoever took its run over, nor another run's."""
    kernel = spawn(RBKIT_RUN=RUN, RBKIT_SESSION=1)
    child = spawn(RBKIT_RUN=RUN, RBKIT_SESSION=1)
    others = [spawn(RBKIT_RUN=RUN, RBKIT_SESSION=2), spawn(RBKIT_RUN="x", RBKIT_SESSION=1), spawn()]
    kill_all(kernel.pid, RUN, 1)
    assert [lives(p.pid) for p in (kernel, child, *others)] == [False, False, True, True, True]
    kill_all(kernel.pid, RUN, 1)  # killing what is gone is fine
    interrupt(dead())


def test_orphans_are_those_whose_supervisor_is_dead(spawn: Spawn) -> None:
    """A kernel whose supervisor is only stopped is left to the fencing, and so is what names no supervisor."""
    mine = {"RBKIT_RUN": RUN, "RBKIT_DRIVER": "supervised"}
    with subprocess.Popen([sys.executable, "-c", ""]) as zombie:
        until(lambda: not lives(zombie.pid))
        gone = [spawn(**mine, JPY_PARENT_PID=dead()), spawn(**mine, JPY_PARENT_PID=zombie.pid)]
        kept = [
            spawn(**mine, JPY_PARENT_PID=os.getpid()), spawn(**mine), spawn(**mine, JPY_PARENT_PID="?"),
            spawn(RBKIT_RUN=RUN, JPY_PARENT_PID=dead()), spawn(**mine | {"RBKIT_RUN": "x"}, JPY_PARENT_PID=dead()),
        ]  # fmt: skip
        kill_orphans(RUN)
        assert [lives(p.pid) for p in (*gone, *kept)] == [False, False, True, True, True, True, True]
