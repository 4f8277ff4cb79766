"""A real PostgreSQL on loopback."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from servers import binary, free_port, running

__all__ = ["postgres"]

_FAST = (
    "fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=60",
    "listen_addresses=127.0.0.1", "unix_socket_directories=", "log_statement=none", "max_wal_senders=4",
)  # fmt: skip


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of one's own; whoever connects from loopback is let in.

    Args:
        folder: Where its data lies; when the tests run as root, a folder that an unprivileged user can reach is used
            instead, as PostgreSQL refuses to run as root.

    Yields:
        Its address, `postgresql+psycopg://postgres@127.0.0.1:PORT/postgres`; `postgres` is a superuser there.
    """
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb, server = (binary(name, "postgresql", bins) for name in ("initdb", "postgres"))
    with _reachable(folder) as (home, become):
        data, port = home / "data", free_port()
        options = ("-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
        subprocess.run([*become, initdb, "-D", data, *options], cwd=home, check=True, capture_output=True, timeout=120)
        settings = [word for one in _FAST for word in ("-c", one)]
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        command = [*become, server, "-D", data, "-p", str(port), *settings]
        with running(command, lambda: _ready(address), home) as process:
            try:
                yield address.replace("://", "+psycopg://")
            finally:
                process.send_signal(signal.SIGINT)  # a fast end: SIGTERM would wait for every client
                process.wait(20)


def _ready(address: str) -> bool:
    try:
        psycopg.connect(address, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def _reachable(folder: Path) -> Iterator[tuple[Path, Sequence[str]]]:
    """Find a folder for an unprivileged user, and the words that start a program as that user."""
    if os.geteuid() != 0:
        yield folder, ()
        return
    setpriv, user = binary("setpriv", "util-linux"), _unprivileged()
    home = Path(tempfile.mkdtemp(prefix="rbkit-pg-", dir="/tmp"))
    try:
        os.chown(home, user.pw_uid, user.pw_gid)
        yield home, (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
