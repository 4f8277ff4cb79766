"""Where a sandbox lives: its folder, its ports, its token and its state file."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from rbkit.errors import NotFound, RefusedInput
from rbkit.sandbox.processes import birth

__all__ = ["DEFAULT_PORT", "INSTANCES", "SERVICE", "VERSIONS", "Layout", "running_supervisor"]

SERVICE = "checkout"
INSTANCES = ("checkout-1", "checkout-2", "checkout-3")
VERSIONS = ("v1", "v2")
DEFAULT_PORT = 8650
HIGHEST_PORT = 65535 - 13


@dataclass(frozen=True)
class Layout:
    """Every address and path of one sandbox.

    Args:
        home: Folder that belongs to this sandbox alone.
        port: Base port; the others follow from it.
    """

    home: Path
    port: int = DEFAULT_PORT

    @property
    def balancer(self) -> int:
        """Port of the balancer's traffic."""
        return self.port + 1

    @property
    def balancer_admin(self) -> int:
        """Port of the balancer's admin API."""
        return self.port + 2

    @property
    def metrics(self) -> int:
        """Port of the metrics server."""
        return self.port + 3

    def instance_port(self, name: str) -> int:
        """Return the port of an instance, e.g. base + 12 for `checkout-2`."""
        return self.port + 11 + INSTANCES.index(name)

    @property
    def ports(self) -> dict[str, int]:
        """Every port that is needed, by the name of what listens on it."""
        fixed = {"supervisor": self.port, "balancer": self.balancer}
        fixed |= {"balancer admin": self.balancer_admin, "metrics": self.metrics}
        return fixed | {name: self.instance_port(name) for name in INSTANCES}

    @property
    def urls(self) -> dict[str, str]:
        """The addresses that people and adapters use."""
        ports = {"supervisor": self.port, "balancer": self.balancer}
        ports |= {"balancer_admin": self.balancer_admin, "metrics": self.metrics}
        return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}

    @property
    def url_files(self) -> dict[str, Path]:
        """The files in which each address is published, for environment files to name."""
        return {name: self.home / f"{name}.url" for name in self.urls}

    @property
    def token_file(self) -> Path:
        """The file with the bearer token, readable by its owner only."""
        return self.home / "token"

    @property
    def state_file(self) -> Path:
        """The file that names the supervisor."""
        return self.home / "state.json"

    @property
    def members_file(self) -> Path:
        """The file in which the balancer keeps who is drained."""
        return self.home / "members.json"

    @property
    def fence_file(self) -> Path:
        """The file in which the balancer keeps the highest fencing tokens."""
        return self.home / "fence.json"

    @property
    def lock_file(self) -> Path:
        """The file that lets one `up` at a time work here; it also marks the folder as a sandbox's."""
        return self.home / "up.lock"

    @property
    def supervisor_log(self) -> Path:
        """What the processes print."""
        return self.home / "supervisor.log"

    def log_file(self, name: str) -> Path:
        """Return the log of an instance, one JSON object a line."""
        return self.home / "logs" / f"{name}.jsonl"

    def span_file(self, name: str) -> Path:
        """Return the spans of an instance, one JSON object a line."""
        return self.home / "spans" / f"{name}.jsonl"

    def prepare(self) -> None:
        """Make the folder, for its owner only.

        Raises:
            RefusedInput: The port cannot be used, or the folder is somebody else's.
        """
        if not 1024 <= self.port <= HIGHEST_PORT:
            raise RefusedInput(f"The base port {self.port} is not between 1024 and {HIGHEST_PORT}.")
        try:
            if self.home.exists() and any(self.home.iterdir()) and not self.lock_file.exists():
                raise RefusedInput(f"{self.home} holds other things.", todo="Name a new or empty folder.")
            for folder in (self.home, self.home / "logs", self.home / "spans"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.home.chmod(0o700)
            self.lock_file.touch(mode=0o600)
        except OSError as error:
            raise RefusedInput(f"The sandbox's folder {self.home} cannot be used: {error.strerror}.") from error

    def renew_token(self) -> None:
        """Write a new random token that only its owner can read."""
        self.token_file.unlink(missing_ok=True)
        handle = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))

    def token(self) -> str:
        """Read the bearer token.

        Raises:
            NotFound: The sandbox was never started here.
        """
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise NotFound(f"There is no sandbox in {self.home}.", todo="Start one: `rbkit sandbox up`.") from error


def write_state(layout: Layout) -> None:
    """Record this process as the supervisor, whole or not at all."""
    state = {"port": layout.port, "pid": os.getpid(), "started": birth(os.getpid())}
    draft = layout.state_file.with_suffix(".new")
    draft.write_text(json.dumps(state))
    draft.replace(layout.state_file)


def running_supervisor(home: Path) -> tuple[Layout, int] | None:
    """Find the supervisor that runs in a folder.

    Args:
        home: The sandbox's folder.

    Returns:
        Its layout and process id, or None when there is none; a recycled process id is not mistaken for it.
    """
    try:
        state = json.loads((home / "state.json").read_text())
        port, pid, started = int(state["port"]), int(state["pid"]), state["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (Layout(home, port), pid) if started and birth(pid) == started else None
