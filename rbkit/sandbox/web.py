"""What the HTTP servers share: JSON answers, loopback only, the bearer token, the log of changes, a clean end."""

import asyncio
import hmac
import json
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

from rbkit.clock import SystemClock
from rbkit.sandbox.telemetry import iso

__all__ = ["AdminHandler", "JsonHandler", "Missing", "Refusal", "RequestLog", "application", "listen", "run"]

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


class RequestLog:
    """Every change that a server was asked for, in order; the last 1,000."""

    def __init__(self, limit: int = 1000) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=limit)
        self._seq = 0

    def open(self, method: str, path: str, key: str | None) -> dict[str, Any]:
        """Note a request that came in; its status stays null until it is answered."""
        self._seq += 1
        time = iso(SystemClock().now())
        self._entries.append(
            {"seq": self._seq, "time": time, "method": method, "path": path, "key": key, "status": None}
        )
        return self._entries[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the entries, oldest first."""
        return {"requests": list(self._entries)}


class AdminHandler(JsonHandler):
    """Answers only with the token, and notes every change it is asked for."""

    entry: dict[str, Any] | None = None

    def prepare(self) -> None:
        """Check Host and token, then note the request.

        Raises:
            Refusal: 403 for a foreign Host, 401 without the right token.
        """
        super().prepare()
        given = self.request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self.settings['token']}".encode()):
            raise Refusal(401, "unauthorized", "Send `Authorization: Bearer` with the token from the sandbox's folder.")
        if self.request.method not in ("GET", "HEAD"):
            log: RequestLog = self.settings["log"]
            self.entry = log.open(self.request.method or "", self.request.path, self.key)

    @property
    def key(self) -> str | None:
        """The caller's Idempotency-Key."""
        return self.request.headers.get("Idempotency-Key")

    def on_finish(self) -> None:
        """Note what was answered."""
        if self.entry is not None:
            self.entry["status"] = self.get_status()


class Missing(AdminHandler):
    """Every address that an admin API does not have."""

    def prepare(self) -> None:
        """Refuse, but tell only those with the token that there is nothing."""
        super().prepare()
        raise Refusal(404, "not_found", f"There is no {self.request.path} here.")


class LogHandler(AdminHandler):
    """GET /log."""

    def get(self) -> None:
        """Send the changes that were asked for."""
        self.answer(self.settings["log"].to_json())


def application(routes: list[Any], token: str, **settings: Any) -> tornado.web.Application:
    """Build an admin application: the routes, /log, and 404 for the rest, all behind the token."""
    return tornado.web.Application(
        [*routes, (r"/log", LogHandler)],
        default_handler_class=Missing,
        log_function=_no_access_log,
        token=token,
        log=RequestLog(),
        **settings,
    )


def _no_access_log(_: tornado.web.RequestHandler) -> None:
    return None


def listen(app: tornado.web.Application, port: int) -> tornado.httpserver.HTTPServer:
    """Serve an application on 127.0.0.1.

    Raises:
        OSError: The port is taken.
    """
    app.settings.setdefault("log_function", _no_access_log)
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
