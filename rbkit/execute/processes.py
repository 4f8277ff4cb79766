"""Kills a kernel with everything that it started."""

import contextlib
import os
import signal

import psutil

__all__ = ["interrupt", "kill_all"]

_WAIT_S = 5.0


def interrupt(pid: int) -> None:
    """Send SIGINT to a kernel; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)


def kill_all(pid: int, run: str) -> None:
    """Kill a kernel, its process group, and everything that carries the run's id in its environment.

    A child that left the group, or whose parent died, still carries the id.

    Args:
        pid: The kernel's process id, also the id of its group.
        run: The run's id.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    found = [process for process in psutil.process_iter() if process.pid != os.getpid() and _carries(process, run)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=_WAIT_S)


def _carries(process: psutil.Process, run: str) -> bool:
    try:
        return bool(process.environ().get("RBKIT_RUN") == run)
    except (psutil.Error, OSError):
        return False
