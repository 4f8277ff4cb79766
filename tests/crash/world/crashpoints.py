"""The moments at which a process of a run can be killed: it counts them, writes them down, and dies where it is told.

`CRASH_AT` says where: `kernel 12 both` means that the kernel, at its 12th moment, kills the command that
supervises it and then itself. Several are separated by commas; without any, the moments are only written down.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["install", "reach"]

_WHO = "kernel" if os.environ.get("RBKIT_DRIVER") == "supervised" else "command"
_COMMAND = int(os.environ.setdefault("CRASH_COMMAND", str(os.getpid())))
_moments: list[str] = []


def reach(moment: str) -> None:
    """Write a moment of this process down, and end here if that is the plan.

    Args:
        moment: What was, or is about to be, done.
    """
    _moments.append(moment)
    with Path(os.environ["CRASH_LOG"]).open("a") as file:
        file.write(f"{_WHO}\t{os.getpid()}\t{len(_moments)}\t{moment}\n")
    for plan in filter(None, os.environ.get("CRASH_AT", "").split(",")):
        who, number, way = plan.split()
        if (who, int(number)) == (_WHO, len(_moments)):
            _WAYS[way]()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _orphan() -> None:
    """Kill the command and go on, as a kernel does until it notices."""
    os.kill(_COMMAND, signal.SIGKILL)


def _both() -> None:
    _orphan()
    _kill()


def _freeze() -> None:
    """Let both stand still until somebody wakes them."""
    os.kill(_COMMAND, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


_WAYS: dict[str, Callable[[], None]] = {"self": _kill, "command": _orphan, "both": _both, "freeze": _freeze}


def install() -> None:
    """Make each durable write of the journal such a moment, the time before the first one, and a write refused."""
    from rbkit.errors import Fenced
    from rbkit.journal import Journal
    from rbkit.stores.sqlite import SqliteStore

    write, enter = SqliteStore.append, Journal.append

    def append(self: SqliteStore, entry: Any) -> bool:
        if not _moments:
            reach(f"before {_name(entry.event)}")
        written = write(self, entry)
        if written:
            reach(_name(entry.event))
        return written

    def refused(self: Journal, event: Any, *more: Any) -> Any:
        try:
            return enter(self, event, *more)
        except Fenced:
            reach(f"fenced {event.kind}")
            raise

    SqliteStore.append, Journal.append = append, refused  # type: ignore[method-assign]


def _name(event: dict[str, Any]) -> str:
    """Name a moment by what was written: the kind of event, and the step, check, signal or change that it is about."""
    about = event.get("key", "").partition("/")[2] or event.get("step") or event.get("name") or event.get("outcome")
    return f"{event['kind']} {about or ''}".strip()
