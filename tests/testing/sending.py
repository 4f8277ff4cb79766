"""Spans as an exporter sends them, for the tests of the doubles that keep them."""

from typing import Any

__all__ = ["START", "request", "span"]

START = 1_767_225_600 * 10**9
"""When the spans of these tests begin, nanoseconds since 1970: 2026-01-01T00:00:00Z."""


def span(trace: int, number: int, age_s: float = 0.0, **more: Any) -> dict[str, Any]:
    """Make a span that lasted 2 ms."""
    start = START - int(age_s * 1e9)
    return {
        "traceId": f"{trace:032x}", "spanId": f"{number:016x}", "name": "GET /", "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 2_000_000),
    } | more  # fmt: skip


def request(*spans: dict[str, Any], service: str = "shop") -> dict[str, Any]:
    """Make the request of an exporter."""
    name = {"key": "service.name", "value": {"stringValue": service}}
    host = {"key": "host.name", "value": {"stringValue": "h1"}}
    return {"resourceSpans": [{"resource": {"attributes": [name, host]}, "scopeSpans": [{"spans": list(spans)}]}]}
