"""Up, status, break, heal, down; and that nothing is ever left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rbkit.errors import NotFound, Refused, RefusedInput, Unreachable
from rbkit.sandbox import lifecycle
from rbkit.sandbox.layout import Layout, running_supervisor
from rbkit.sandbox.processes import birth, of_sandbox

from .conftest import World

EVERY = {"supervisor", "balancer", "metrics", "load", "checkout-1", "checkout-2", "checkout-3"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for a sandbox that is taken down whatever the test does."""
    yield tmp_path / "sandbox"
    lifecycle.down(tmp_path / "sandbox")


def gone(pids: list[int]) -> bool:
    """Tell whether none of these processes lives."""
    return all(birth(pid) is None for pid in pids)


def test_a_life_from_up_to_down(home: Path) -> None:
    """Up starts seven processes once, status shows them, down stops all of them, and both can be repeated."""
    first = lifecycle.up(home, lifecycle.free_base_port())
    assert first.up and set(first.rss_mb) == EVERY and all(size > 5 for size in first.rss_mb.values())
    assert lifecycle.up(home).supervisor_pid == first.supervisor_pid
    assert json.loads(json.dumps(first.to_json()))["port"] == first.port
    pids = [process.pid for process in of_sandbox(home.resolve()).values()]
    assert lifecycle.down(home) == sorted(pids)
    assert gone(pids) and lifecycle.down(home) == [] and not lifecycle.status(home).up


def test_the_folder_and_the_token_are_private(world: World) -> None:
    """Others can neither enter the folder nor read the token."""
    assert world.home.stat().st_mode & 0o777 == 0o700
    assert world.layout.token_file.stat().st_mode & 0o777 == 0o600
    assert len(world.layout.token()) == 64


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the children notice within a moment")
def test_kill_9_of_the_supervisor_leaves_nothing(home: Path) -> None:
    """When the supervisor is killed its children die by themselves; up starts anew."""
    status = lifecycle.up(home, lifecycle.free_base_port())
    children = [p.pid for name, p in of_sandbox(home.resolve()).items() if name != "supervisor"]
    assert status.supervisor_pid is not None and len(children) == 6
    os.kill(status.supervisor_pid, signal.SIGKILL)
    World.until(lambda: gone(children))
    assert not lifecycle.status(home).up
    again = lifecycle.up(home, status.port)
    assert again.up and again.supervisor_pid != status.supervisor_pid


def test_kill_9_of_who_started_it_leaves_it_manageable(home: Path) -> None:
    """A terminal that dies does not take the sandbox along, and down from elsewhere ends it."""
    port = lifecycle.free_base_port()
    code = f"import os; from pathlib import Path; from rbkit.sandbox import lifecycle; lifecycle.up(Path({str(home)!r})"
    code += f", {port}); os.kill(os.getpid(), 9)"
    root = str(Path(lifecycle.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert lifecycle.status(home).up
    assert len(lifecycle.down(home)) == len(EVERY)


def test_a_taken_port_is_named_with_the_way_out(home: Path) -> None:
    """Nothing is started when a port is taken, and the error says what to do."""
    base = lifecycle.free_base_port()
    said = rf"{base + 12} \(checkout-2\).*--port N or RBKIT_SANDBOX_PORT"
    with socket.create_server(("127.0.0.1", base + 12)), pytest.raises(RefusedInput, match=said):
        lifecycle.up(home, base)
    assert of_sandbox(home.resolve()) == {}


@pytest.mark.parametrize("port", [0, -1, 80, 65_535])
def test_an_impossible_port_is_refused(home: Path, port: int) -> None:
    """Privileged and impossible base ports are refused."""
    with pytest.raises(RefusedInput):
        lifecycle.up(home, port)


def test_a_folder_with_other_things_is_not_taken(tmp_path: Path) -> None:
    """A folder that holds something else is neither used nor closed to others, and down deletes nothing there."""
    (tmp_path / "token").write_text("mine")
    mode = tmp_path.stat().st_mode
    with pytest.raises(RefusedInput, match="holds other things"):
        lifecycle.up(tmp_path, lifecycle.free_base_port())
    lifecycle.down(tmp_path)
    assert (tmp_path / "token").read_text() == "mine" and tmp_path.stat().st_mode == mode


def test_a_recycled_process_id_is_not_the_supervisor(tmp_path: Path) -> None:
    """A state file that names a process that started at another time names nobody, and down spares it."""
    state = {"port": 8650, "pid": os.getpid(), "started": "another:1"}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert running_supervisor(tmp_path) is None
    assert lifecycle.down(tmp_path) == []
    (tmp_path / "state.json").write_text(json.dumps(state | {"started": birth(os.getpid())}))
    assert running_supervisor(tmp_path) == (Layout(tmp_path, 8650), os.getpid())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"port": "x"}', '{"port": 1, "pid": null, "started": 2}'])
def test_a_broken_state_file_names_nobody(tmp_path: Path, text: str) -> None:
    """Whatever is in the state file, looking at it does not fail."""
    (tmp_path / "state.json").write_text(text)
    assert running_supervisor(tmp_path) is None


def test_break_and_heal_need_a_sandbox(tmp_path: Path) -> None:
    """Without one the error says how to start it; a wrong fault is refused with the list."""
    with pytest.raises(Unreachable, match="rbkit sandbox up"):
        lifecycle.heal(tmp_path)
    with pytest.raises(Unreachable, match="rbkit sandbox up"):
        lifecycle.break_(tmp_path, "latency")
    with pytest.raises(RefusedInput, match="memory-leak"):
        lifecycle.break_(tmp_path, "nonsense")


def test_break_and_heal(world: World) -> None:
    """Break shows the fault in the status and heal shows none; wrong targets have their errors."""
    status = lifecycle.break_(world.home, "restart-refused", "checkout-1")
    assert [fault["target"] for fault in status.faults] == ["checkout-1"]
    assert lifecycle.heal(world.home).faults == ()
    with pytest.raises(NotFound, match="checkout-9"):
        lifecycle.break_(world.home, "latency", "checkout-9")
    world.ask("POST", "/services/checkout-1/stop")
    with pytest.raises(Refused, match="stopped"):
        lifecycle.break_(world.home, "latency", "checkout-1")
    assert all(service["state"] == "running" for service in lifecycle.heal(world.home).services)


def test_no_secret_of_the_caller_reaches_the_processes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes get a small environment of their own."""
    monkeypatch.setenv("MY_DATABASE_PASSWORD", "hunter2")
    lifecycle.up(home, lifecycle.free_base_port())
    environments = [process.environ() for process in of_sandbox(home.resolve()).values()]
    assert environments and not any("MY_DATABASE_PASSWORD" in found for found in environments)


def test_there_are_no_zombies(world: World) -> None:
    """After a restart the old process is really gone."""
    world.ask("POST", "/services/checkout-1/restart")
    pid = lifecycle.status(world.home).supervisor_pid
    states = [child.status() for child in psutil.Process(pid).children(recursive=True)]
    assert len(states) == 6 and psutil.STATUS_ZOMBIE not in states
