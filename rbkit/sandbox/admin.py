"""What the admin APIs share: the bearer token, fencing tokens, idempotency keys, the log of changes."""

import asyncio
import hmac
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import tornado.web

from rbkit.clock import SystemClock
from rbkit.sandbox.answers import Act, Answers
from rbkit.sandbox.fence import Fence, read_token
from rbkit.sandbox.telemetry import iso
from rbkit.sandbox.web import JsonHandler, Refusal, no_access_log

__all__ = ["AdminHandler", "RequestLog", "application"]


class RequestLog:
    """Every change that a server was asked for, in order; the last 1,000."""

    def __init__(self, limit: int = 1000) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=limit)
        self._seq = 0

    def open(self, method: str, path: str, key: str | None) -> dict[str, Any]:
        """Note a request that came in; its status stays null until it is answered."""
        self._seq += 1
        came = {"seq": self._seq, "time": iso(SystemClock().now()), "method": method, "path": path}
        self._entries.append(came | {"key": key, "token": None, "status": None, "acted": False})
        return self._entries[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the entries, oldest first."""
        return {"requests": list(self._entries)}


class AdminHandler(JsonHandler):
    """Answers only with the bearer token, and notes every change it is asked for."""

    entry: dict[str, Any] | None = None
    target = ""
    fencing_token: int | None = None

    def prepare(self) -> None:
        """Check Host and bearer token, then note the request and read its fencing token.

        Raises:
            Refusal: 403 for a foreign Host, 401 without the right bearer token, 400 for a fencing token that is none.
        """
        super().prepare()
        given = self.request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self.settings['token']}".encode()):
            raise Refusal(401, "unauthorized", "Send `Authorization: Bearer` with the token from the sandbox's folder.")
        if self.request.method not in ("GET", "HEAD"):
            self._note()

    def _note(self) -> None:
        log: RequestLog = self.settings["log"]
        self.entry = log.open(self.request.method or "", self.request.path, self.key)
        sent = self.request.headers.get("Fencing-Token")
        if sent is not None:
            self.entry["token"] = self.fencing_token = read_token(sent)

    @property
    def key(self) -> str | None:
        """The caller's Idempotency-Key."""
        return self.request.headers.get("Idempotency-Key")

    @property
    def fence(self) -> Fence:
        """The fencing tokens that were seen."""
        found: Fence = self.settings["fence"]
        return found

    def enter(self, target: str) -> None:
        """Say what the request is about; its fencing token is checked and remembered.

        Raises:
            Refusal: The token is too low, or is missing.
        """
        self.target = target
        self.fence.admit(target, self.fencing_token)

    def begin(self) -> None:
        """Check the fencing token once more and note that it acts; the effect follows without a pause.

        Raises:
            Refusal: Meanwhile somebody came with a higher token.
        """
        if self.target:
            self.fence.check(self.target, self.fencing_token)
        if self.entry is not None:
            self.entry["acted"] = True

    async def act(self, act: Act) -> None:
        """Act once for each Idempotency-Key and answer."""
        answers: Answers = self.settings["answers"]
        request = f"{self.request.method} {self.request.path} {json.dumps(self.body(), sort_keys=True)}"
        status, body = await answers.once(self.key, request, act)
        self.answer(body, status)

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


class FenceHandler(AdminHandler):
    """/fence/TARGET."""

    def get(self, target: str) -> None:
        """Show the highest token that was seen, null when none was."""
        self._lock(target)
        self.answer({"target": target, "token": self.fence.highest(target)})

    async def put(self, target: str) -> None:
        """Remember a token without acting; answered when whatever was already under way on the target has ended."""
        lock, token = self._lock(target), read_token(self.body().get("token"))
        if self.entry is not None:
            self.entry["token"] = token
        self.fence.admit(target, token)
        async with lock:
            self.fence.check(target, token)
        self.get(target)

    def _lock(self, target: str) -> asyncio.Lock:
        locks: Mapping[str, asyncio.Lock] = self.settings["locks"]
        if target not in locks:
            raise Refusal(404, "not_found", f"There is no target {target!r}; there are {', '.join(locks)}.")
        return locks[target]


def application(
    routes: list[Any], token: str, fence: Fence, locks: Mapping[str, asyncio.Lock], **settings: Any
) -> tornado.web.Application:
    """Build an admin application: the routes, /fence, /log, and 404 for the rest, all behind the bearer token.

    Args:
        routes: What it answers besides.
        token: The bearer token.
        fence: The fencing tokens that were seen.
        locks: For each target that can be fenced, what is held while something is done to it.
        settings: What the handlers need.
    """
    return tornado.web.Application(
        [*routes, (r"/fence/([^/]+)", FenceHandler), (r"/log", LogHandler)],
        default_handler_class=Missing,
        log_function=no_access_log,
        token=token,
        fence=fence,
        locks=locks,
        log=RequestLog(),
        answers=Answers(),
        **settings,
    )
