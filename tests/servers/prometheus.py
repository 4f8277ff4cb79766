"""A real Prometheus that scrapes a tiny exporter of the test's own, once a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from rbkit.testing.double import Answer, Double, Request
from servers import answers, binary, free_port, running

__all__ = ["Exporter", "prometheus"]


class Exporter(Double):
    """Answers every scrape with samples.

    Args:
        lines: What it exposes, in the text format.
    """

    def __init__(self, lines: str) -> None:
        super().__init__()
        self._lines = lines

    def answer(self, request: Request) -> Answer:
        """Answer a scrape."""
        return Answer(200, self._lines, {"Content-Type": "text/plain; version=0.0.4"})


@contextmanager
def prometheus(folder: Path, lines: str, prefix: str = "/prom") -> Iterator[str]:
    """Run Prometheus until the block is left.

    Args:
        folder: Where it keeps everything.
        lines: What its only target, of the job `tiny`, exposes.
        prefix: The path before its API.

    Yields:
        Its address with the prefix; the target has been scraped.
    """
    program, port = binary("prometheus", "prometheus"), free_port()
    with Exporter(lines) as exporter:
        target = exporter.url.removeprefix("http://")
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: tiny, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        command = [
            program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", f"--web.external-url=http://127.0.0.1:{port}{prefix}",
            f"--web.route-prefix={prefix}",
        ]  # fmt: skip
        url = f"http://127.0.0.1:{port}{prefix}"
        with running(command, lambda: answers(port) and _ready(url) and bool(exporter.requests), folder):
            yield url


def _ready(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
