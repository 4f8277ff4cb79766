"""Spans as OpenTelemetry's exporters send them, as JSON over HTTP: how the doubles of trace stores are filled.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-request
Source: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Sent", "sent", "value"]

_TRACE, _SPAN = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")
_KINDS: dict[str, tuple[type, ...]] = {
    "stringValue": (str,),
    "boolValue": (bool,),
    "doubleValue": (int, float),
    "intValue": (str, int),
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A span that was sent.

    Args:
        trace: The trace's identifier, 32 hexadecimal digits.
        span: The span's own, 16 digits.
        parent: Its parent's; empty for the first span.
        name: Its name.
        start: When it began, nanoseconds since 1970.
        end: When it ended, likewise.
        status: How it ended: 0 unset, 1 ok, 2 error.
        attributes: Its attributes, as they were sent.
        resource: The attributes of what sent it.
    """

    trace: str
    span: str
    parent: str
    name: str
    start: int
    end: int
    status: int
    attributes: list[dict[str, Any]]
    resource: list[dict[str, Any]]

    def get(self, key: str) -> Any:
        """Return an attribute of the span, or else of its resource; None when neither has it."""
        found = {item["key"]: value(item["value"]) for item in (*self.resource, *self.attributes)}
        return found.get(key)

    @property
    def service(self) -> str:
        """The service that sent it."""
        return str({item["key"]: value(item["value"]) for item in self.resource}.get("service.name", ""))


def sent(body: Any) -> Iterator[Sent]:
    """Read an ExportTraceServiceRequest.

    Args:
        body: The request's JSON.

    Yields:
        Its spans.

    Raises:
        ValueError: It is none.
    """
    try:
        for one in body["resourceSpans"]:
            resource = _attributes(one["resource"])
            for scope in one["scopeSpans"]:
                yield from (_span(span, resource) for span in scope["spans"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no ExportTraceServiceRequest: {type(error).__name__} {error}") from error


def _span(span: Any, resource: list[dict[str, Any]]) -> Sent:
    parent, status = span.get("parentSpanId", ""), span.get("status", {}).get("code", 0)
    if not _TRACE.fullmatch(span["traceId"]) or not _SPAN.fullmatch(span["spanId"]) or status not in (0, 1, 2):
        raise ValueError("invalid length for ID, or an unknown status")
    if parent and not _SPAN.fullmatch(parent):
        raise ValueError("invalid length for the parent's ID")
    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    return Sent(span["traceId"], span["spanId"], parent, span["name"], start, end, status, _attributes(span), resource)


def _attributes(owner: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = owner.get("attributes", [])
    for item in found:
        value(item["value"])
    return found


def value(one: dict[str, Any]) -> Any:
    """Read an AnyValue of a simple kind.

    Raises:
        ValueError: It is of another kind.
    """
    ((kind, found),) = one.items()
    if type(found) not in _KINDS.get(kind, ()):
        raise ValueError(f"no simple value: {one}")
    return int(found) if kind == "intValue" else found
