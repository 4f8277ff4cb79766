"""What the HTTP servers share: JSON answers, loopback only, a clean end."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

__all__ = ["JsonHandler", "Refusal", "listen", "no_access_log", "run"]

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
MAX_BODY = 65_536


class Refusal(tornado.web.HTTPError):
    """An answer other than success: a status, a short error word and a sentence."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(status)
        self.error, self.message = error, message


class JsonHandler(tornado.web.RequestHandler):
    """Answers in JSON, and only requests that name this machine as loopback."""

    def prepare(self) -> None:
        """Refuse a Host header that is not loopback, as a web page elsewhere would send it."""
        host = self.request.headers.get("Host", "").lower()
        name, colon, port = host.rpartition(":")
        if (name if colon and port.isdigit() else host) not in LOOPBACK:
            raise Refusal(403, "forbidden_host", "Only requests to 127.0.0.1 are answered.")

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        """Send a JSON answer."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(body))

    def body(self) -> dict[str, Any]:
        """Read the request's JSON object.

        Raises:
            Refusal: It is not a JSON object.
        """
        try:
            found = json.loads(self.request.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "bad_request", f"The body is not JSON: {error}.") from error
        if not isinstance(found, dict):
            raise Refusal(400, "bad_request", "The body is not a JSON object.")
        return found

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send a failure in the same shape everywhere: an error word and a message."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, Refusal):
            return self.answer({"error": error.error, "message": error.message}, status_code)
        word = {404: "not_found", 405: "method_not_allowed"}.get(status_code, "bad_request")
        word = "internal" if status_code >= 500 else word
        return self.answer({"error": word, "message": self._reason}, status_code)


def no_access_log(_: tornado.web.RequestHandler) -> None:
    """Keep quiet about each request."""


def listen(app: tornado.web.Application, port: int) -> tornado.httpserver.HTTPServer:
    """Serve an application on 127.0.0.1.

    Raises:
        OSError: The port is taken.
    """
    app.settings.setdefault("log_function", no_access_log)
    server = tornado.httpserver.HTTPServer(app, max_body_size=MAX_BODY, max_header_size=MAX_BODY)
    server.add_sockets(tornado.netutil.bind_sockets(port, "127.0.0.1"))
    return server


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a process's main coroutine; it gets an event that SIGTERM or SIGINT sets."""

    async def guarded() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await main(stop)

    asyncio.run(guarded())
