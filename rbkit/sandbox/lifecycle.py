"""What the command line does with a sandbox: up, status, break, heal, down."""

import errno
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rbkit.errors import AdapterError, RefusedInput, RunbookError, Unreachable
from rbkit.sandbox.child import command, environment
from rbkit.sandbox.client import UP_FIRST, call, is_up
from rbkit.sandbox.faults import FAULTS
from rbkit.sandbox.layout import DEFAULT_PORT, INSTANCES, Layout, running_supervisor
from rbkit.sandbox.processes import birth, of_sandbox, rss_mb, stop_all

__all__ = ["FAULTS", "Status", "break_", "down", "free_base_port", "heal", "status", "up"]

START_S = 25.0
STOP_S = 8.0
TAIL_LINES = 15
LOG_LIMIT_BYTES = 1_000_000


@dataclass(frozen=True)
class Status:
    """How a sandbox is.

    Args:
        up: Whether its supervisor runs.
        port: Base port.
        supervisor_pid: Process id of the supervisor; None when it does not run.
        services: The instances, as the supervisor shows them.
        members: The balancer's members, as it shows them; empty while it does not answer.
        faults: The faults that hold.
        urls: Where `supervisor`, `balancer`, `balancer_admin` and `metrics` listen.
        rss_mb: Real resident memory of every process by name, MB.
    """

    up: bool
    port: int
    supervisor_pid: int | None = None
    services: tuple[dict[str, Any], ...] = ()
    members: tuple[dict[str, Any], ...] = ()
    faults: tuple[dict[str, Any], ...] = ()
    urls: dict[str, str] = field(default_factory=dict)
    rss_mb: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def up(home: Path, port: int = DEFAULT_PORT) -> Status:
    """Start a sandbox, unless it is up.

    Args:
        home: Its folder; made when missing.
        port: Base port; ten ports from there to base + 13 are used.

    Returns:
        Its status, once every instance runs and the balancer and the metrics are ready.

    Raises:
        RefusedInput: A port is taken, or the folder cannot be used.
        Unreachable: It did not start; the end of its log is in the message and nothing is left running.
    """
    layout = Layout(_home(home), port)
    layout.prepare()
    with _alone(layout):
        found = running_supervisor(layout.home)
        if found is None:
            _start(layout)
        else:
            _await_ready(*found)
        _publish(found[0] if found else layout)
    return status(home)


def _publish(layout: Layout) -> None:
    """Write every address into a file of its own."""
    for name, file in layout.url_files.items():
        file.write_text(layout.urls[name] + "\n")


def status(home: Path) -> Status:
    """Look at a sandbox without changing it.

    Args:
        home: Its folder.

    Returns:
        Its status; `up` is false when it does not run.
    """
    found = running_supervisor(_home(home))
    if found is None:
        return Status(up=False, port=DEFAULT_PORT)
    layout, pid = found
    token = layout.token()
    try:
        members = call(layout.balancer_admin, "/members", token=token)["members"]
    except AdapterError:
        members = []
    memory = {name: rss_mb(process) for name, process in of_sandbox(layout.home).items()}
    return Status(
        up=True,
        port=layout.port,
        supervisor_pid=pid,
        services=tuple(call(layout.port, "/services", token=token)["services"]),
        members=tuple(members),
        faults=tuple(call(layout.port, "/faults", token=token)["faults"]),
        urls=layout.urls,
        rss_mb={name: size for name, size in memory.items() if size is not None},
    )


def break_(home: Path, fault: str, target: str | None = None) -> Status:
    """Make a fault happen.

    Args:
        home: The sandbox's folder.
        fault: One of `FAULTS`.
        target: An instance; the fault's default when None.

    Raises:
        RefusedInput: There is no such fault; NotFound when there is no such target.
        Refused: It cannot happen now, for example because the target does not run.
        Unreachable: The sandbox is not up.
    """
    if fault not in FAULTS:
        raise RefusedInput(f"There is no fault {fault!r}.", todo=f"Choose one of: {', '.join(FAULTS)}.")
    layout = _require_up(home)
    call(layout.port, "/faults", token=layout.token(), method="POST", body={"fault": fault, "target": target})
    return status(home)


def heal(home: Path) -> Status:
    """End every fault: v1 everywhere, all instances running, all members ready.

    Args:
        home: The sandbox's folder.

    Raises:
        Unreachable: The sandbox is not up.
    """
    layout = _require_up(home)
    call(layout.port, "/faults", token=layout.token(), method="DELETE")
    return status(home)


def down(home: Path) -> list[int]:
    """Stop a sandbox and make sure that nothing of it is left; stopping what is not up does nothing.

    Args:
        home: Its folder.

    Returns:
        The process ids that were stopped.

    Raises:
        RunbookError: A process could not be stopped.
    """
    layout = Layout(_home(home))
    stopped = _sweep(layout.home)
    if layout.lock_file.exists():
        files = (layout.state_file, layout.token_file, layout.members_file, layout.fence_file)
        for file in (*files, *layout.url_files.values()):
            file.unlink(missing_ok=True)
    return stopped


def free_base_port() -> int:
    """Find a base port where every port that is needed is free at this moment."""
    for _ in range(200):
        base = random.SystemRandom().randrange(10_000, 32_000, 20)
        if not _taken(Layout(Path(), base)):
            return base
    raise RefusedInput("No free range of ports was found.", todo="Close programs that listen on loopback.")


def _home(home: Path) -> Path:
    return home.expanduser().resolve()


def _require_up(home: Path) -> Layout:
    found = running_supervisor(_home(home))
    if found is None:
        raise Unreachable(f"The sandbox in {home} is not up.", todo=UP_FIRST)
    return found[0]


def _start(layout: Layout) -> None:
    _sweep(layout.home)
    taken = _taken(layout)
    if taken:
        who = ", ".join(f"{port} ({name})" for name, port in taken.items())
        raise RefusedInput(
            f"The sandbox cannot listen on port {who}: something else does.",
            todo="Choose another base port with --port N or RBKIT_SANDBOX_PORT.",
        )
    for file in (layout.members_file, layout.fence_file):
        file.unlink(missing_ok=True)
    layout.renew_token()
    ready = False
    try:
        _await_ready(layout, _spawn(layout))
        ready = True
    finally:
        if not ready:
            down(layout.home)


def _spawn(layout: Layout) -> int:
    """Start the supervisor in a session of its own, so that it survives the terminal it was started from."""
    log = layout.supervisor_log
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    argv = command("supervisor", layout)
    return os.posix_spawn(argv[0], argv, environment(), file_actions=actions, setsid=True)


def _await_ready(layout: Layout, pid: int) -> None:
    deadline = time.monotonic() + START_S
    while not _is_ready(layout):
        if birth(pid) is None or time.monotonic() > deadline:
            tail = "\n".join(layout.supervisor_log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
            raise Unreachable(f"The sandbox did not start. The end of its log:\n{tail}", todo="Mend that, try again.")
        time.sleep(0.05)


def _is_ready(layout: Layout) -> bool:
    try:
        services = call(layout.port, "/services", token=layout.token())["services"]
        members = call(layout.balancer_admin, "/members", token=layout.token())["members"]
    except AdapterError:
        return False
    well = all(service["state"] == "running" for service in services) and len(services) == len(INSTANCES)
    return well and all(member["healthy"] for member in members) and is_up(layout.metrics, "/-/ready")


def _sweep(home: Path) -> list[int]:
    """Stop the supervisor, which stops the rest, and then whatever is left."""
    stopped: list[int] = []
    for _ in range(3):
        found = of_sandbox(home)
        if not found:
            return sorted(set(stopped))
        stopped += [process.pid for process in found.values()]
        heads = [process for name, process in found.items() if name.startswith("supervisor")]
        stop_all(heads or list(found.values()), STOP_S)
    left = of_sandbox(home)
    if left:
        pids = ", ".join(str(process.pid) for process in left.values())
        raise RunbookError(f"These processes of the sandbox could not be stopped: {pids}.", todo="Stop them by hand.")
    return sorted(set(stopped))


def _taken(layout: Layout) -> dict[str, int]:
    return {name: port for name, port in layout.ports.items() if not _is_free(port)}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
    return True


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Let only one `up` at a time work in a folder."""
    import fcntl

    with layout.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
