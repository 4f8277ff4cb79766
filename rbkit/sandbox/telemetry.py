"""What the sandbox's processes write: log lines and spans, one JSON object a line, bounded in size."""

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from rbkit.clock import Clock, SystemClock

__all__ = ["JsonLines", "Span", "Tracer", "iso"]

MAX_BYTES = 8_000_000


def iso(moment: datetime) -> str:
    """Write a UTC time to the millisecond with a Z, e.g. `2026-11-23T09:45:12.250Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLines:
    """A file of JSON lines that starts anew when it is full, keeping one predecessor as `NAME.jsonl.1`.

    Args:
        path: The file.
        max_bytes: Size at which a new file is begun; at most twice this stays on disk.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file: IO[str] = self._open()

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and hand it to the operating system."""
        if self._file.tell() >= self._max_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._open()
        self._file.write(json.dumps(record, default=str) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> IO[str]:
        return self._path.open("a", buffering=1, encoding="utf-8")


class Span:
    """One piece of work; use it in a `with` block, then it is written with its duration.

    Args:
        tracer: Where it is written.
        name: What is done, e.g. `pool.acquire`.
        trace_id: 32 hex digits that all spans of one request share.
        parent_id: 16 hex digits of the enclosing span, None for the first.
    """

    def __init__(self, tracer: "Tracer", name: str, trace_id: str, parent_id: str | None) -> None:
        self.tracer, self.name, self.trace_id, self.parent_id = tracer, name, trace_id, parent_id
        self.span_id = secrets.token_hex(8)
        self.status = "ok"
        self.attributes: dict[str, Any] = {}
        self._start = tracer.clock.now()
        self._began = tracer.clock.monotonic()

    def child(self, name: str) -> "Span":
        """Begin a span within this one."""
        return Span(self.tracer, name, self.trace_id, self.span_id)

    @property
    def traceparent(self) -> str:
        """The header that carries this span to the next service (W3C Trace Context)."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self.tracer.clock.monotonic() - self._began

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.status = "error" if kind else self.status
        head = {"trace_id": self.trace_id, "span_id": self.span_id, "parent_id": self.parent_id, "name": self.name}
        body = {"start": iso(self._start), "duration_ms": round(self.seconds * 1000, 3), "status": self.status}
        self.tracer.lines.write(head | body | {"attributes": self.tracer.common | self.attributes})


class Tracer:
    """Begins spans and writes them to one file.

    Args:
        lines: The file.
        common: Attributes that every span gets, e.g. service, instance and version.
        clock: The time.
    """

    def __init__(self, lines: JsonLines, common: dict[str, Any], clock: Clock | None = None) -> None:
        self.lines, self.common, self.clock = lines, common, clock or SystemClock()

    def begin(self, name: str, traceparent: str = "") -> Span:
        """Begin the first span of a request here, within the caller's trace when it sent one."""
        parts = traceparent.split("-")
        known = len(parts) == 4 and len(parts[1]) == 32 and len(parts[2]) == 16
        if known and all(set(part) <= set("0123456789abcdef") for part in parts):
            return Span(self, name, parts[1], parts[2])
        return Span(self, name, secrets.token_hex(16), None)
