"""A real Redis on loopback."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from servers import answers, binary, free_port, running

__all__ = ["redis"]


@contextmanager
def redis(folder: Path, settings: Sequence[str] = ()) -> Iterator[str]:
    """Run a Redis of one's own that keeps nothing on disk.

    Args:
        folder: Where it works.
        settings: More words of its command line, for example `--requirepass`, `secret`.

    Yields:
        Its address, `redis://127.0.0.1:PORT/0`.
    """
    program, port = binary("redis-server", "redis-server"), free_port()
    words = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
    with running([program, *words, *settings], lambda: answers(port), folder):
        yield f"redis://127.0.0.1:{port}/0"
