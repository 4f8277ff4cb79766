"""Commands that start at once: one process imports rbkit, and forks itself for every command line that a test gives.

What is forked is a process like any other: it has its own pid, can be stopped and killed, starts real kernels, and
sees only the variables that it is given. Only the second that Python needs for its imports is saved. What a start
from nothing does, `tests/cli` tests with `python -m rbkit`.
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["Forked"]

_LARGEST = 1 << 20
_NEEDED = (
    "rbkit.cli", "rbkit.execute.supervise", "rbkit.execute.takeover", "rbkit.execute.runner", "papermill.execute",
    "nbclient", "pandas",
)  # fmt: skip


class Forked:
    """A command line of rbkit in a process of its own; it is used like `subprocess.Popen`.

    Args:
        words: What follows `rbkit`.
        env: All its variables.
        cwd: Its working folder.
    """

    def __init__(self, words: tuple[str, ...], env: Mapping[str, str], cwd: Path) -> None:
        self.args = ["rbkit", *words]
        self.returncode: int | None = None
        out, err, over = os.pipe(), os.pipe(), os.pipe()
        request = {"words": words, "env": dict(env), "cwd": str(cwd)}
        with Path(os.devnull).open() as nothing, _closing(out[1], err[1], over[1]) as ends:
            self.pid: int = _ask(request, [nothing.fileno(), *ends])
        self.stdout: IO[str] = os.fdopen(out[0], errors="replace")
        self.stderr: IO[str] = os.fdopen(err[0], errors="replace")
        self._over = over[0]
        self._said: list[Future[str]] = []

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for its end and return what it, and whatever holds its pipes, said."""
        deadline = time.monotonic() + timeout
        if not self._said:
            readers = ThreadPoolExecutor(2)
            self._said = [readers.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            readers.shutdown(wait=False)
        try:
            self.wait(timeout)
            out, err = (found.result(max(0.0, deadline - time.monotonic())) for found in self._said)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(self.args, timeout) from error
        self._close()
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self.stdout, self.stderr):
            pipe.close()

    def _ended(self, within_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._over], [], [], within_s)[0]:
            self.returncode = int(os.read(self._over, 100))
            os.close(self._over)
        return self.returncode


@contextlib.contextmanager
def _closing(*ends: int) -> Any:
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _ask(request: dict[str, Any], ends: list[int]) -> int:
    talk = _zygote()
    socket.send_fds(talk, [json.dumps(request).encode()], ends)
    return int(talk.recv(100))


@cache
def _zygote() -> socket.socket:
    """Start the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RBKIT_", "JPY_", "COV"))}
    code = f"from zygote import serve; serve({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=kept, pass_fds=[theirs.fileno()], cwd=Path(__file__).parent,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait(30)

    atexit.register(stop)
    return ours


def serve(number: int) -> None:
    """Fork for every request until the other side is gone; tell each child's exit code when it has ended."""
    for name in _NEEDED:
        importlib.import_module(name)
    talk = socket.socket(fileno=number)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    over: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([talk, wake], [], [])
        if wake in ready:
            os.read(wake, 1000)
            _tell_ended(over)
        if talk in ready:
            data, ends, _, _ = socket.recv_fds(talk, _LARGEST, 4)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                _close_all(talk, wake, woken, *over.values(), ends[3])
                _become(json.loads(data), ends[:3])
            over[pid] = ends[3]
            _close_all(*ends[:3])
            talk.send(str(pid).encode())


def _close_all(*ends: Any) -> None:
    for end in ends:
        end.close() if isinstance(end, socket.socket) else os.close(end)


def _tell_ended(over: dict[int, int]) -> None:
    for pid in list(over):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            end = over.pop(pid)
            os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(end)


def _become(request: dict[str, Any], ends: list[int]) -> None:
    """Turn a fork into the command line that was asked for, and end with its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for place, end in enumerate(ends):
        os.dup2(end, place)
    _close_all(*ends)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    sys.argv = ["rbkit", *request["words"]]
    code: Any = 1
    try:
        _read_path()
        sys.modules["rbkit.cli"].main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - whatever it is, a process would show it
        traceback.print_exc()
    _leave(code)


def _read_path() -> None:
    """Do what Python does with PYTHONPATH when it starts."""
    more = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:0] = more
    importlib.invalidate_caches()
    if any((Path(entry) / "sitecustomize.py").exists() for entry in more):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")


def _leave(code: Any) -> None:
    """End as an interpreter does: the handlers of its end run, what was said is written out."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    with contextlib.suppress(BrokenPipeError):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
