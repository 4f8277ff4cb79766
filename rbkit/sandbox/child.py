"""One process that the supervisor keeps: started, watched, restarted, stopped without leaving a zombie."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

import rbkit
from rbkit.clock import SystemClock
from rbkit.sandbox.layout import SERVICE, Layout
from rbkit.sandbox.telemetry import iso

__all__ = ["Child", "command", "environment"]

BACKOFF_S = 1.0
GRACE_S = 3.0
POLL_S = 0.03
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT", "PYTHONDONTWRITEBYTECODE")


def command(role: str, layout: Layout, *options: str) -> list[str]:
    """Build the command line of one of the sandbox's processes, as a list; no shell is involved."""
    start = [sys.executable, "-P", "-m", "rbkit.sandbox", role, "--home", str(layout.home)]
    return [*start, "--port", str(layout.port), "--parent", str(os.getpid()), *options]


def environment() -> dict[str, str]:
    """Build the environment of the processes: where Python and rbkit are, and no secret of the caller."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"PYTHONPATH": str(Path(rbkit.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


class Child:
    """One process and what is wanted of it.

    Args:
        layout: The sandbox.
        name: For example `checkout-2` or `load`.
        port: Where it answers /healthz; None when it does not.
        options: Gives what its command line needs each time it starts.
        on_start: Called with its name each time it is started.
    """

    def __init__(
        self,
        layout: Layout,
        name: str,
        port: int | None = None,
        options: Callable[[], list[str]] = list,
        on_start: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.layout, self.name, self.port = layout, name, port
        self.state, self.started_at, self.exit_code = "stopped", "", None
        self.version, self.restarts = "v1", -1
        self._options, self._on_start, self._clock = options, on_start, SystemClock()
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.busy = asyncio.Lock()

    state: str
    exit_code: int | None

    @property
    def pid(self) -> int | None:
        """The process id; None when it does not run."""
        return self._process.pid if self._process and self.state in ("starting", "running") else None

    def to_json(self) -> dict[str, Any]:
        """Return what the admin API shows."""
        shown = {"name": self.name, "service": SERVICE, "state": self.state, "pid": self.pid}
        shown |= {"started_at": self.started_at if self.pid else None, "version": self.version, "port": self.port}
        return shown | {"restarts": max(0, self.restarts), "exit_code": self.exit_code}

    async def start(self) -> None:
        """Start it and keep it started, unless it is already."""
        if self._watch is None or self._watch.done():
            await self._spawn()
            self._watch = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ask it to end, make it end after 3 s, and do not start it again."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        await self._end()
        self.state = "stopped"

    async def reach(self, state: str, within_s: float) -> bool:
        """Wait for a state; false when it was not reached in time."""
        deadline = self._clock.monotonic() + within_s
        while self.state != state and self._clock.monotonic() < deadline:
            await self._clock.sleep(POLL_S)
        return self.state == state

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *command(self.name, self.layout, *self._options()),
            stdin=asyncio.subprocess.DEVNULL,
            env=environment(),
            cwd=self.layout.home,
        )
        self.state, self.started_at, self.exit_code = "starting", iso(self._clock.now()), None
        self.restarts += 1
        self._on_start(self.name)

    async def _keep(self) -> None:
        """Follow the process; start it again one second after each crash."""
        while self._process is not None:
            healthy = asyncio.create_task(self._await_health())
            try:
                self.exit_code = await self._process.wait()
            finally:
                healthy.cancel()
            self.state = "crashed"
            await self._clock.sleep(BACKOFF_S)
            await self._spawn()

    async def _await_health(self) -> None:
        while not await self._is_healthy():
            await self._clock.sleep(POLL_S)
        self.state = "running"

    async def _is_healthy(self) -> bool:
        if self.port is None or self._process is None:
            return True
        try:
            answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{self.port}/healthz", request_timeout=2.0)
            return bool(json.loads(answer.body)["pid"] == self._process.pid)
        except (HTTPClientError, OSError, ValueError, KeyError, TypeError):
            return False

    async def _end(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), GRACE_S)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self._process.kill()
        self.exit_code = await self._process.wait()
