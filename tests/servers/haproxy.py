"""A real HAProxy on loopback, with a backend for each service."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import binary, free_port, running

__all__ = ["Balancer", "haproxy"]

_CONFIG = """
global
    stats socket {socket} level admin mode 600
    stats socket 127.0.0.1:{admin} level admin
    stats socket {socket}.operator level operator
    hard-stop-after 1s
defaults
    mode http
    option redispatch
    timeout connect 1s
    timeout client 60s
    timeout server 60s
"""


@dataclass(frozen=True)
class Balancer:
    """Where a balancer listens.

    Args:
        socket: Its stats socket.
        admin: The same over TCP.
        ports: The port of each backend.
    """

    socket: Path
    admin: str
    ports: Mapping[str, int]

    def say(self, command: str) -> str:
        """Give a command as an operator would."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(str(self.socket))
            line.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: line.recv(65_536), b"")).decode()

    def ready(self) -> bool:
        """Whether it takes commands."""
        try:
            return "Name: HAProxy" in self.say("show info")
        except OSError:
            return False


@contextmanager
def haproxy(
    folder: Path, backends: Mapping[str, Mapping[str, str]], *, server: str = "", extra: str = ""
) -> Iterator[Balancer]:
    """Run HAProxy.

    Args:
        folder: Its folder; the path must be short enough for a socket.
        backends: Of each backend, the address of each server.
        server: Words that are added to each server, for example `check inter 200ms`.
        extra: More lines for the configuration.
    """
    made = Balancer(folder / "haproxy.sock", f"127.0.0.1:{free_port()}", {name: free_port() for name in backends})
    lines = [_CONFIG.format(socket=made.socket, admin=made.admin.partition(":")[2])]
    for name, servers in backends.items():
        lines += [f"frontend at_{name}", f"    bind 127.0.0.1:{made.ports[name]}", f"    default_backend {name}"]
        lines += [f"backend {name}", *(f"    server {one} {address} {server}" for one, address in servers.items())]
    (folder / "haproxy.cfg").write_text("\n".join([*lines, extra, ""]))
    with running([binary("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"], made.ready, folder):
        yield made
