"""Real servers on loopback for tests: each in a folder of its own, on a free port, stopped when the test is over."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["answers", "binary", "free_port", "running"]

_SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"))


def binary(name: str, package: str, more: Sequence[Path] = ()) -> str:
    """Find a server's program; skip the test, and say how to install it, where it is missing.

    Args:
        name: The program's name.
        package: The package of Debian that brings it.
        more: Folders that are searched too.

    Returns:
        The program's path. With RBKIT_REQUIRE_SERVERS=1 a missing one fails the test.
    """
    found = shutil.which(name, path=os.pathsep.join((_SBIN, *(str(folder) for folder in more))))
    if found:
        return found
    why = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("RBKIT_REQUIRE_SERVERS") == "1":
        pytest.fail(why)
    pytest.skip(why)


def free_port() -> int:
    """Return a port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody takes connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str | Path], ready: Callable[[], bool], folder: Path, *, env: Mapping[str, str] | None = None,
    within_s: float = 60,
) -> Iterator["subprocess.Popen[bytes]"]:  # fmt: skip
    """Run a server in the foreground in its own process group until the block is left.

    Args:
        command: The program and its arguments.
        ready: Tells whether it can be used.
        folder: Its working folder; what it says goes to `server.log` there.
        env: More variables.
        within_s: How long it may take to be ready, seconds.

    Yields:
        The process.
    """
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, ready, folder, within_s)
        yield process
    finally:
        _stop(process)


def _wait(process: "subprocess.Popen[bytes]", ready: Callable[[], bool], folder: Path, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not ready():
        said = (folder / "server.log").read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{said}"
        assert time.monotonic() < deadline, f"the server was not ready within {within_s:.0f} s:\n{said}"
        time.sleep(0.05)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and whatever it has started in its process group."""
    try:
        process.terminate()
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
    finally:
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
