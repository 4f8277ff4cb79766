"""The world's own log: one line for everything that it was asked, and its state folded from these lines."""

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["INSTANCES", "Line", "Log", "opened", "world"]

INSTANCES = ("checkout-1", "checkout-2", "checkout-3")
Line = dict[str, Any]
State = dict[str, Any]


class Log:
    """The lines so far, and the file that the next one goes to.

    Args:
        file: The locked file, at its end.
        lines: What was read from it.
    """

    def __init__(self, file: Any, lines: list[Line]) -> None:
        self._file, self.lines = file, lines

    def say(self, **line: Any) -> None:
        """Write one line at once."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


@contextmanager
def opened(path: Path) -> Iterator[Log]:
    """Lock the log, so that one question is answered after the other, whoever asks."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield Log(file, [json.loads(line) for line in file])


def world(lines: Iterable[Line], late: int = 0) -> dict[tuple[str, str], State]:
    """Fold the log into the present state.

    Args:
        lines: The log.
        late: How often a target is read before what was done to it shows; a fencing token shows it at once.

    Returns:
        The state by capability and target.
    """
    found = {("balancer", name): {"state": "ready"} for name in INSTANCES}
    found |= {("services", name): {"state": "running", "pid": 1001, "restarts": 0} for name in INSTANCES}
    pending: list[list[Any]] = []
    for line in lines:
        if line["what"] == "apply" and line["acted"]:
            pending.append([late, line])
        for item in pending:
            same = _place(line) == _place(item[1])
            item[0] = 0 if same and line["what"] == "fence" else item[0] - (same and line["what"] == "read")
        for _, done in [item for item in pending if item[0] <= 0]:
            _change(found[_place(done)], done["action"])
        pending = [item for item in pending if item[0] > 0]
    return found


def _place(line: Line) -> tuple[str, str]:
    return line["capability"], line["target"]


def _change(state: State, action: str) -> None:
    match action:
        case "restart":
            state |= {"state": "running", "pid": state["pid"] + 1, "restarts": state["restarts"] + 1}
        case "stop":
            state["state"] = "stopped"
        case "start":
            state["state"] = "running"
        case _:
            state["state"] = action
