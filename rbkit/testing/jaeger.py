"""A double of Jaeger's query service, filled by OpenTelemetry's protocol.

Source: https://www.jaegertracing.io/docs/1.62/apis/#http-json
Source: https://github.com/jaegertracing/jaeger/blob/v1.62.0/cmd/query/app/query_parser.go
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rbkit.testing.double import Answer, Double, Request
from rbkit.testing.otlp import Sent, sent, value

__all__ = ["JaegerDouble"]

_FIELDS = {"service", "operation", "tags", "start", "end", "limit"}
_TYPES = {"stringValue": "string", "boolValue": "bool", "doubleValue": "float64", "intValue": "int64"}
_STATUS: dict[int, list[tuple[str, str | bool]]] = {
    1: [("otel.status_code", "OK")],
    2: [("otel.status_code", "ERROR"), ("error", True)],
}


class JaegerDouble(Double):
    """Answers `POST /v1/traces`, `GET /api/traces` and `GET /api/traces/ID` as Jaeger does with its memory storage."""

    def __init__(self) -> None:
        super().__init__()
        self._spans: dict[tuple[str, str], Sent] = {}

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        try:
            if (request.method, request.path) == ("POST", "/v1/traces"):
                self._spans |= {(span.trace, span.span): span for span in sent(request.json)}
                return Answer(200, {"partialSuccess": {}})
            if (request.method, request.path) == ("GET", "/api/services"):
                names = sorted({_process(span)["serviceName"] for span in self._spans.values()})
                return Answer(
                    200, {"data": names or None, "total": len(names), "limit": 0, "offset": 0, "errors": None}
                )
            if (request.method, request.path) == ("GET", "/api/traces"):
                return self._find(request)
            if request.method == "GET" and (found := re.fullmatch(r"/api/traces/([^/]+)", request.path)):
                return self._get(found[1])
        except (ValueError, TypeError, AttributeError) as error:
            return _error(400, str(error))
        return Answer(404, "404 page not found\n", {"Content-Type": "text/plain"})

    def _get(self, text: str) -> Answer:
        if not re.fullmatch(r"[0-9a-fA-F]{1,32}", text):
            raise ValueError("strconv.ParseUint: invalid syntax")
        spans = [span for span in self._spans.values() if span.trace == text.lower().zfill(32)]
        return _traces([spans]) if spans else _error(404, "trace not found")

    def _find(self, request: Request) -> Answer:
        if set(request.query) - _FIELDS:
            raise ValueError(f"the double does not know {sorted(set(request.query) - _FIELDS)}")
        if not request.one("service"):
            raise ValueError("parameter 'service' is required")
        tags = _tags(request)
        newest: dict[str, int] = {}
        for span in self._spans.values():
            if _matches(span, request, tags):
                newest[span.trace] = max(span.start, newest.get(span.trace, 0))
        names = sorted(newest, key=lambda name: newest[name], reverse=True)[: int(request.one("limit", "100"))]
        return _traces([[span for span in self._spans.values() if span.trace == name] for name in names])


def _tags(request: Request) -> dict[str, str]:
    tags = dict(json.loads(request.one("tags", "{}")))
    if any(not isinstance(value, str) for value in tags.values()):
        raise ValueError("malformed 'tags' parameter, cannot unmarshal JSON")
    return tags


def _matches(span: Sent, request: Request, tags: Mapping[str, str]) -> bool:
    start, end = int(request.one("start")) * 1_000, int(request.one("end")) * 1_000
    known = {tag["key"]: _text(tag["value"]) for tag in (*_process(span)["tags"], *_span_tags(span))}
    same = span.service == request.one("service") and request.one("operation", span.name) == span.name
    return same and start <= span.start <= end and all(known.get(key) == value for key, value in tags.items())


def _text(found: Any) -> str:
    return found if isinstance(found, str) else json.dumps(found)


def _traces(traces: Iterable[list[Sent]]) -> Answer:
    return Answer(
        200, {"data": [_trace(spans) for spans in traces], "total": 0, "limit": 0, "offset": 0, "errors": None}
    )


def _trace(spans: list[Sent]) -> dict[str, Any]:
    processes = {f"p{place}": _process(span) for place, span in enumerate(spans, 1)}
    shown = [_span(span, f"p{place}") for place, span in enumerate(spans, 1)]
    return {"traceID": spans[0].trace, "spans": shown, "processes": processes, "warnings": None}


def _span(span: Sent, process: str) -> dict[str, Any]:
    parents = [{"refType": "CHILD_OF", "traceID": span.trace, "spanID": span.parent}] if span.parent else []
    return {
        "traceID": span.trace, "spanID": span.span, "operationName": span.name, "references": parents,
        "startTime": span.start // 1_000, "duration": (span.end - span.start) // 1_000, "tags": _span_tags(span),
        "logs": [], "processID": process, "warnings": None,
    }  # fmt: skip


def _span_tags(span: Sent) -> list[dict[str, Any]]:
    status = [_tag(key, found) for key, found in _STATUS.get(span.status, [])]
    return [_sent_tag(item) for item in span.attributes] + status


def _process(span: Sent) -> dict[str, Any]:
    tags = [_sent_tag(item) for item in span.resource if item["key"] != "service.name"]
    return {"serviceName": span.service, "tags": tags}


def _sent_tag(item: dict[str, Any]) -> dict[str, Any]:
    (kind,) = item["value"]
    return {"key": item["key"], "type": _TYPES[kind], "value": value(item["value"])}


def _tag(key: str, found: str | bool) -> dict[str, Any]:
    return {"key": key, "type": "bool" if isinstance(found, bool) else "string", "value": found}


def _error(status: int, why: str) -> Answer:
    errors = [{"code": status, "msg": why}]
    return Answer(status, {"data": None, "total": 0, "limit": 0, "offset": 0, "errors": errors})
