"""A real supervisord on loopback, with groups of programs that tests write."""

import http.client
import os
import socket
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import binary, free_port, running

__all__ = ["Supervisor", "supervisord"]

USER, PASSWORD = "operator", "p:ä ss"
_CONFIG = """
[supervisord]
nodaemon = true
{user}
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
[unix_http_server]
file = {folder}/supervisor.sock
[inet_http_server]
port = 127.0.0.1:{port}
username = operator
password = p:ä ss
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
_PROGRAM = """
[program:{name}]
command = {command}
directory = {folder}
redirect_stderr = true
startsecs = 0
startretries = 1
stopwaitsecs = 5
{more}
"""


@dataclass(frozen=True)
class Supervisor:
    """Where supervisord listens.

    Args:
        folder: Its folder.
        port: Its HTTP server's port.
    """

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Its socket, as the environment file names it."""
        return f"unix://{self.folder}/supervisor.sock"

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method as supervisorctl does."""
        line = _Line(str(self.folder / "supervisor.sock"))
        try:
            line.request("POST", "/RPC2", xmlrpc.client.dumps(arguments, method), {"Content-Type": "text/xml"})
            body = line.getresponse().read()
        finally:
            line.close()
        return xmlrpc.client.loads(body)[0][0]

    def info(self, name: str) -> dict[str, Any]:
        """What it says of a process."""
        return dict(self.call("supervisor.getProcessInfo", name))

    def ready(self) -> bool:
        """Whether it answers and has started everything."""
        try:
            return all(one["statename"] == "RUNNING" for one in self.call("supervisor.getAllProcessInfo"))
        except (OSError, http.client.HTTPException):
            return False


class _Line(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


@contextmanager
def supervisord(
    folder: Path, groups: Mapping[str, Mapping[str, str]], *, more: str = "", env: Mapping[str, str] | None = None
) -> Iterator[Supervisor]:
    """Run supervisord.

    Args:
        folder: Its folder; the path must be short enough for a socket.
        groups: Of each group, the command of each program; names stand once in all groups.
        more: More lines for each program, for example `startsecs = 1`.
        env: More variables for it and its programs.
    """
    made = Supervisor(folder, free_port())
    text = _CONFIG.format(folder=folder, port=made.port, user="" if os.getuid() else "user = root")
    for group, programs in groups.items():
        text += f"[group:{group}]\nprograms = {', '.join(programs)}\n"
        for name, command in programs.items():
            text += _PROGRAM.format(name=name, command=command, folder=folder, more=more)
    (folder / "supervisord.conf").write_text(text, encoding="utf-8")
    command = [binary("supervisord", "supervisor"), "-n", "-c", folder / "supervisord.conf"]
    with running(command, made.ready, folder, env={"LC_ALL": "C.UTF-8", **(env or {})}):
        try:
            yield made
        finally:
            with suppress(OSError, http.client.HTTPException):  # a test has ended it
                made.call("supervisor.stopAllProcesses")
