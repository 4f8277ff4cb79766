"""An HTTP server on loopback whose answers a class gives: what every double of a real system is made of."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

__all__ = ["Answer", "Double", "Request"]

_LARGEST = 10_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """What a double was asked.

    Args:
        method: The HTTP method.
        path: The path, percent signs as they came.
        query: The query's fields; each may stand several times.
        headers: The headers, names in lower case.
        body: The body as it came.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body read as JSON; None when it is empty.

        Raises:
            ValueError: It is not JSON.
        """
        return json.loads(self.body) if self.body else None

    def one(self, name: str, default: str = "") -> str:
        """Return the first value of a query's field."""
        return self.query.get(name, [default])[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a double answers.

    Args:
        status: The HTTP status.
        data: What is written as JSON; a text or bytes is sent as it is; None sends no body.
        headers: More headers.
    """

    status: int = 200
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The bytes of the body."""
        if self.data is None or isinstance(self.data, bytes):
            return self.data or b""
        return self.data.encode() if isinstance(self.data, str) else json.dumps(self.data).encode()


class Double(ABC):
    """A server on loopback, on a free port, in threads of its own; used as a context manager.

    A subclass gives the answers. One request is answered at a time, so that its state needs no lock.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._turn = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """Answer one request."""

    def take(self, request: Request) -> Answer:
        """Note a request and answer it."""
        with self._turn:
            self.requests.append(request)
            return self.answer(request)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler(double: Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else an answer on a kept connection waits for 40 ms

        def _reply(self) -> None:
            address = urlsplit(self.path)
            length = min(int(self.headers.get("Content-Length") or 0), _LARGEST)
            answer = double.take(
                Request(
                    self.command,
                    address.path,
                    parse_qs(address.query, keep_blank_values=True),
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(length),
                )
            )
            body = answer.body
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "LIST"):
        setattr(Handler, f"do_{method}", Handler._reply)
    return Handler
