"""A double of Tempo, filled by OpenTelemetry's protocol, which knows a strict part of TraceQL.

Source: https://grafana.com/docs/tempo/latest/api_docs/
Source: https://grafana.com/docs/tempo/latest/traceql/
"""

import re
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from rbkit.testing.double import Answer, Double, Request
from rbkit.testing.go_strings import unquote
from rbkit.testing.otlp import Sent, sent
from rbkit.testing.words import Words

__all__ = ["TempoDouble"]

_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>&&|\|\||!=|[{}()=])|(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<name>[a-zA-Z_.][^\s{}()=~!<>&|^,"]*))""",
    re.DOTALL,
)
_STATUS = {"unset": 0, "ok": 1, "error": 2}
_CODES = ("STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR")
_HINT = re.compile(r"\s+with\s*\(most_recent=true\)\s*$")
_NS = 10**9
_Test = Callable[[Sent], bool]


class TempoDouble(Double):
    """Answers `POST /v1/traces`, `GET /api/search` and `GET /api/traces/ID` as Tempo does.

    Args:
        tenant: The tenant that X-Scope-OrgID must name; empty when Tempo runs without tenants.
        spans_per_set: The most spans that it lists for one trace (`max_spans_per_span_set`).
    """

    def __init__(self, tenant: str = "", spans_per_set: int = 100) -> None:
        super().__init__()
        self._tenant, self._per_set = tenant, spans_per_set
        self._spans: dict[tuple[str, str], Sent] = {}

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if self._tenant and request.headers.get("x-scope-orgid") != self._tenant:
            return Answer(401, "no org id\n", _TEXT)
        try:
            if (request.method, request.path) == ("POST", "/v1/traces"):
                self._spans |= {(span.trace, span.span): span for span in sent(request.json)}
                return Answer(200, {"partialSuccess": {}})
            if (request.method, request.path) == ("GET", "/api/status/buildinfo"):
                return Answer(200, {"version": "2.5.0-double", "revision": "", "branch": "", "goVersion": ""})
            if (request.method, request.path) == ("GET", "/api/search/tags"):
                return Answer(200, {"tagNames": sorted({"service.name"} if self._spans else ()), "metrics": {}})
            if (request.method, request.path) == ("GET", "/api/search"):
                return self._search(request)
            if request.method == "GET" and (found := re.fullmatch(r"/api/traces/([^/]+)", request.path)):
                return self._trace(found[1])
        except ValueError as error:
            return Answer(400, f"{error}\n", _TEXT)
        return Answer(404, "404 page not found\n", _TEXT)

    def _trace(self, text: str) -> Answer:
        if not re.fullmatch(r"[0-9a-fA-F]{1,32}", text):
            raise ValueError("trace IDs can only contain hex characters")
        spans = [span for span in self._spans.values() if span.trace == text.lower().zfill(32)]
        return Answer(200, {"batches": [_batch(span) for span in spans]}) if spans else Answer(404, "", _TEXT)

    def _search(self, request: Request) -> Answer:
        start, end, limit = (int(request.one(name)) for name in ("start", "end", "limit"))
        listed = int(request.one("spss", "3"))
        if end <= start:
            raise ValueError(f"http parameter start must be before end. received start={start} end={end}")
        if limit < 1 or not 0 < listed <= self._per_set:
            raise ValueError(f"invalid limit or spss: must be a positive number, spss at most {self._per_set}")
        test = _Query(_HINT.sub("", request.one("q"))).test
        found: dict[str, list[Sent]] = {}
        for span in self._spans.values():
            if start * _NS <= span.start < end * _NS and test(span):
                found.setdefault(span.trace, []).append(span)
        if _HINT.search(request.one("q")):
            found = dict(sorted(found.items(), key=lambda one: max(span.start for span in one[1]), reverse=True))
        traces = [_summary(spans, listed) for spans in list(found.values())[:limit]]
        return Answer(200, {"traces": traces, "metrics": {"inspectedTraces": len(found)}})


def _summary(spans: list[Sent], listed: int) -> dict[str, Any]:
    shown = [
        {"spanID": one.span, "startTimeUnixNano": str(one.start), "durationNanos": str(one.end - one.start)}
        for one in spans[:listed]
    ]
    trace = {"traceID": spans[0].trace.lstrip("0"), "startTimeUnixNano": str(min(one.start for one in spans))}
    return trace | {"spanSets": [{"spans": shown, "matched": len(spans)}]}


def _batch(span: Sent) -> dict[str, Any]:
    about: dict[str, Any] = {
        "traceId": _base64(span.trace), "spanId": _base64(span.span), "name": span.name,
        "startTimeUnixNano": str(span.start), "endTimeUnixNano": str(span.end), "attributes": span.attributes,
        "status": {"code": _CODES[span.status]} if span.status else {},
    }  # fmt: skip
    about |= {"parentSpanId": _base64(span.parent)} if span.parent else {}
    return {"resource": {"attributes": span.resource}, "scopeSpans": [{"scope": {}, "spans": [about]}]}


def _base64(digits: str) -> str:
    return b64encode(bytes.fromhex(digits)).decode()


class _Query:
    """A spanset filter: comparisons by = and !=, joined by && and ||, in parentheses if need be."""

    def __init__(self, text: str) -> None:
        self._words = Words(_TOKEN, text)
        self._words.take("op", "{")
        self.test: _Test = (lambda span: True) if self._words.next("}") else self._either()
        self._words.take("op", "}")
        if self._words:
            raise ValueError(f"parse error: syntax error: unexpected {self._words.any()[1]}")

    def _either(self) -> _Test:
        tests = [self._both()]
        while self._words.next("||"):
            self._words.take("op")
            tests.append(self._both())
        return lambda span: any(test(span) for test in tests)

    def _both(self) -> _Test:
        tests = [self._one()]
        while self._words.next("&&"):
            self._words.take("op")
            tests.append(self._one())
        return lambda span: all(test(span) for test in tests)

    def _one(self) -> _Test:
        if self._words.next("("):
            self._words.take("op")
            inner = self._either()
            self._words.take("op", ")")
            return inner
        name = self._words.take("name")
        if name in {"true", "false"}:
            return lambda span: name == "true"
        op, wanted = self._words.take("op"), self._static()
        if op not in {"=", "!="}:
            raise ValueError(f"parse error: syntax error: unexpected {op}")
        read = _reader(name)
        return lambda span: _same(read(span), wanted) is (op == "=")

    def _static(self) -> Any:
        kind, text = self._words.any()
        if kind == "text":
            return unquote(text)
        if kind == "number":
            return float(text)
        if text in {"true", "false"}:
            return text == "true"
        if text in _STATUS:
            return (text,)
        raise ValueError(f"parse error: syntax error: unexpected {text}")


def _reader(name: str) -> Callable[[Sent], Any]:
    """Find what a name stands for: an intrinsic, or an attribute of span, resource or either."""
    names: dict[str, Callable[[Sent], Any]] = {
        "name": lambda span: span.name,
        "status": lambda span: (next(word for word, code in _STATUS.items() if code == span.status),),
        "resource.service.name": lambda span: span.service,
    }
    if name in names:
        return names[name]
    if not name.startswith("."):
        raise ValueError(f"parse error: unknown identifier: {name}")
    return lambda span: span.get(name[1:])


def _same(found: Any, wanted: Any) -> bool:
    """Compare as TraceQL does: never a text with a number."""
    if isinstance(wanted, float):
        return isinstance(found, int | float) and not isinstance(found, bool) and found == wanted
    return type(found) is type(wanted) and bool(found == wanted)
