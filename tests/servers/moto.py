"""The API of AWS on loopback, by moto."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import answers, free_port, running

__all__ = ["moto"]


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """Run moto's server; it holds everything in memory and takes any credentials.

    Args:
        folder: Where its log lies.

    Yields:
        Its address.
    """
    port = free_port()
    command = (sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    with running(command, lambda: answers(port), folder):
        yield f"http://127.0.0.1:{port}"
