"""Kills a kernel with everything that it started."""

import contextlib
import os
import signal

import psutil

__all__ = ["interrupt", "kill_all"]


def interrupt(pid: int) -> None:
    """Send SIGINT to a kernel; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)


def kill_all(pid: int, known: set[psutil.Process]) -> None:
    """Kill a kernel, its process group, and those of its children that left the group.

    Args:
        pid: The kernel's process id, also the id of its group.
        known: Processes that were seen below the kernel while it lived.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        known |= set(psutil.Process(pid).children(recursive=True))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for process in known:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
