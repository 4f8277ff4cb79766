"""Operating-system processes: who is who, dying with the parent, and finding what belongs to a sandbox."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

__all__ = ["birth", "die_with_parent", "of_sandbox", "rss_mb", "stop_all"]

PR_SET_PDEATHSIG = 1


def birth(pid: int) -> str | None:
    """Tell a process from a later one with the same id.

    Args:
        pid: A process id.

    Returns:
        A text that no other process has, unmoved by changes of the clock on Linux; None when it is gone or a zombie.

    Source: proc_pid_stat(5), field 22, start time in ticks since boot.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return _ticks(pid) if sys.platform == "linux" else f"{process.create_time():.2f}"
    except (psutil.Error, OSError):
        return None


def _ticks(pid: int) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{boot}:{fields[19]}"


def die_with_parent(parent: int) -> None:
    """Make sure that this process never outlives the one that started it.

    Args:
        parent: The process id that the parent is expected to have.

    Source: prctl(2), PR_SET_PDEATHSIG; where that is missing the parent is looked at every 0.2 s.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def of_sandbox(home: Path) -> dict[str, psutil.Process]:
    """Find every live process of one sandbox by its command line.

    Args:
        home: The sandbox's folder, resolved.

    Returns:
        The processes by name: `supervisor`, `balancer`, `checkout-1` …; a second one of a name gets its process id.
    """
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter():
        name = _role(process, str(home))
        if name:
            found[name if name not in found else f"{name}#{process.pid}"] = process
    return found


def _role(process: psutil.Process, home: str) -> str | None:
    try:
        argv = process.cmdline()
        if "rbkit.sandbox" not in argv or process.status() == psutil.STATUS_ZOMBIE:
            return None
        options = argv[argv.index("rbkit.sandbox") + 1 :]
        return options[0] if home == options[options.index("--home") + 1] else None
    except (psutil.Error, ValueError, IndexError):
        return None


def rss_mb(process: psutil.Process) -> float | None:
    """Return a process's resident memory in MB (10^6 bytes), None when it is gone."""
    try:
        return float(round(process.memory_info().rss / 1e6, 1))
    except psutil.Error:
        return None


def stop_all(processes: list[psutil.Process], grace: float) -> list[int]:
    """Ask processes to end, then make them.

    Args:
        processes: What to stop; psutil refuses to signal a recycled process id.
        grace: Seconds between asking and killing.

    Returns:
        The process ids that still live after all that; empty when all is well.
    """
    alive = processes
    for act, wait in (("terminate", grace), ("kill", 5.0)):
        for process in alive:
            try:
                getattr(process, act)()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(alive, timeout=wait)
    return [process.pid for process in alive]
