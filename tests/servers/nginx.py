"""A real nginx on loopback: an upstream that rbkit manages, and members that nginx itself plays."""

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from servers import answers, binary, free_port, running

__all__ = ["Upstream", "nginx"]

_CONFIG = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 2;
events {{ worker_connections 64; }}
http {{
    access_log off; {temp}
    include {folder}/upstreams.conf;
    server {{
        listen 127.0.0.1:{port};
        location = /rbkit {{ default_type application/json; keepalive_timeout 0; return 200 '{{"rbkit": "$rbkit"}}'; }}
        location / {{ proxy_pass http://checkout; }}
    }}
    {members}
}}
"""
_MEMBER = 'server {{ listen {address}; location / {{ return 200 "{name}"; }} }}'
_TEMP = " ".join(
    f"{kind}_temp_path {{folder}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


@dataclass(frozen=True)
class Upstream:
    """Where nginx listens and what it reads.

    Args:
        folder: Its folder.
        port: Its port: the location `/rbkit`, and everything else by the upstream `checkout`.
        servers: The address of each member.
    """

    folder: Path
    port: int
    servers: Mapping[str, str]

    @property
    def file(self) -> Path:
        """The file of upstreams."""
        return self.folder / "upstreams.conf"

    @property
    def options(self) -> dict[str, str]:
        """What the environment file says of it."""
        return {
            "url": f"http://127.0.0.1:{self.port}", "file": str(self.file), "pid": str(self.folder / "nginx.pid"),
            "config": str(self.folder / "nginx.conf"), "program": binary("nginx", "nginx-light"),
        }  # fmt: skip

    @property
    def master(self) -> int:
        """The process id of nginx."""
        return int((self.folder / "nginx.pid").read_text())

    def reload(self) -> None:
        """Let nginx load its configuration, and wait until the workers of before are gone."""
        before = psutil.Process(self.master).children()
        os.kill(self.master, signal.SIGHUP)
        _, left = psutil.wait_procs(before, timeout=30)
        assert not left, "nginx did not reload"

    def write(self, down: Sequence[str] = (), extra: str = "") -> None:
        """Write the file of upstreams by hand, with a note that fits."""
        facts = [("checkout", name, address, []) for name, address in self.servers.items()]
        digest = hashlib.sha256(ascii(facts).encode()).hexdigest()[:16]
        bits = "".join("1" if name in down else "0" for name in self.servers)
        lines = [f"{address}{' down' if name in down else ''}; # {name}" for name, address in self.servers.items()]
        self.file.write_text(
            f'# upstreams\nmap $pid $rbkit {{ default "{digest}/{bits}"; }}\n{extra}upstream checkout {{\n'
            + "".join(f"    server {line}\n" for line in lines) + "    keepalive 4;\n}\n"
        )  # fmt: skip


@contextmanager
def nginx(folder: Path, names: Sequence[str]) -> Iterator[Upstream]:
    """Run nginx.

    Args:
        folder: Its folder.
        names: The members' names.
    """
    made = Upstream(folder, free_port(), {name: f"127.0.0.1:{free_port()}" for name in names})
    made.write()
    members = "\n    ".join(_MEMBER.format(name=name, address=address) for name, address in made.servers.items())
    text = _CONFIG.format(folder=folder, port=made.port, members=members, temp=_TEMP.format(folder=folder))
    (folder / "nginx.conf").write_text(text)
    command = [binary("nginx", "nginx-light"), "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with running(command, lambda: answers(made.port), folder):
        yield made
