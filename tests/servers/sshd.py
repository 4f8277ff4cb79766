"""A real OpenSSH server on loopback: its own keys and port, and one user: whoever runs the tests."""

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import answers, binary, free_port, running

__all__ = ["Machine", "sshd"]


@dataclass(frozen=True)
class Machine:
    """A machine behind SSH.

    Args:
        port: Its port on loopback.
        folder: Where its keys, its configuration and its log lie.
        pid: The server's process.
    """

    port: int
    folder: Path
    pid: int

    def options(self, **other: Any) -> dict[str, Any]:
        """Return what an environment file says of it."""
        return {
            "host": "127.0.0.1", "port": self.port, "user": getpass.getuser(), "key_file": str(self.folder / "key"),
            "known_hosts": str(self.folder / "known_hosts"), **other,
        }  # fmt: skip


@contextmanager
def sshd(folder: Path, more: str = "") -> Iterator[Machine]:
    """Run a server until the block is left.

    Args:
        folder: An empty folder for it.
        more: More lines for its configuration.

    Yields:
        How to reach it.
    """
    program, keygen, port = binary("sshd", "openssh-server"), binary("ssh-keygen", "openssh-client"), free_port()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # without it a server that runs as root does not start
    for name in ("host", "key", "stranger"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n{more}"
    )
    with running([program, "-D", "-e", "-f", folder / "config"], lambda: answers(port), folder) as process:
        yield Machine(port, folder, process.pid)
