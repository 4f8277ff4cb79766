"""Kills a kernel with everything that it started."""

import contextlib
import os
import signal

import psutil

__all__ = ["interrupt", "kill_all", "kill_orphans"]

_WAIT_S = 5.0


def interrupt(pid: int) -> None:
    """Send SIGINT to a kernel; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)


def kill_all(pid: int, run: str, session: int) -> None:
    """Kill a kernel, its process group, and everything that carries the run's id and session in its environment.

    A child that left the group, or whose parent died, still carries them. The kernel of a newer session is not touched.

    Args:
        pid: The kernel's process id, also the id of its group.
        run: The run's id.
        session: The session of the run that the kernel belongs to.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _kill([process for process in psutil.process_iter() if _carries(process, RUN=run, SESSION=str(session))])


def kill_orphans(run: str) -> None:
    """Kill what is left on this machine of a run's kernels whose supervisor is dead; one that is only stopped is not.

    Args:
        run: The run's id.
    """
    ours = [process for process in psutil.process_iter() if _carries(process, RUN=run, DRIVER="supervised")]
    _kill([process for process in ours if not _supervised(process)])


def _kill(found: list[psutil.Process]) -> None:
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=_WAIT_S)


def _carries(process: psutil.Process, **values: str) -> bool:
    variables = _variables(process)
    mine = all(variables.get(f"RBKIT_{name}") == value for name, value in values.items())
    return mine and process.pid != os.getpid()


def _supervised(process: psutil.Process) -> bool:
    """Whether the supervisor is there that started this kernel, or this process's kernel; yes when nobody can say."""
    try:
        return bool(psutil.Process(int(_variables(process)["JPY_PARENT_PID"])).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, KeyError, ValueError):
        return True


def _variables(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}
