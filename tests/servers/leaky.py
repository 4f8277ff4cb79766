"""A small service that can leak: it answers with its process id, its metrics, and leaks as many MB as it is told."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["serve"]

_HELD: list[bytes] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Leak first, if the path says so; then answer."""
        if self.path.startswith("/leak/"):
            _HELD.append(b"\xa5" * (int(self.path.removeprefix("/leak/")) * 1_000_000))
        body = (_metrics() if self.path == "/metrics" else f"{os.getpid()}\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def _metrics() -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE")
    return f"# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {size}\n"


def serve(port: int) -> None:
    """Serve on loopback until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
