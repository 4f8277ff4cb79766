"""A real Alertmanager that tells nobody."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from servers import answers, binary, free_port, running

__all__ = ["alertmanager", "post"]


@contextmanager
def alertmanager(folder: Path) -> Iterator[str]:
    """Run Alertmanager until the block is left.

    Args:
        folder: Where it keeps everything.

    Yields:
        Its address.
    """
    program, port = binary("prometheus-alertmanager", "prometheus-alertmanager"), free_port()
    (folder / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    command = [
        program, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    with running(command, lambda: answers(port), folder):
        yield f"http://127.0.0.1:{port}"


def post(url: str, body: Mapping[str, Any] | Sequence[Any]) -> Any:
    """Send JSON as another user of the API would.

    Args:
        url: Where to.
        body: What.

    Returns:
        The answer's JSON; None when it has none.
    """
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
        data = answer.read()
    return json.loads(data) if data else None
