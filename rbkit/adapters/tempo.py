"""Tempo: spans by TraceQL.

Source: https://grafana.com/docs/tempo/latest/api_docs/
Source: https://grafana.com/docs/tempo/latest/traceql/
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SecretStr

from rbkit.adapters.lines import MALFORMED, Row, fields, inside, matches, nanoseconds, tidy
from rbkit.adapters.signal_http import SignalHttp
from rbkit.adapters.spans import STATES, same_trace, trace_id
from rbkit.adapters.told import told
from rbkit.errors import BadAnswer, NotFound, SettingsError
from rbkit.ports import LINES, Language, Window
from rbkit.queries import promql_string

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tempo"]

_COLUMNS = {"service": "resource.service.name", "operation": "name"}
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LITERAL = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?|true|false")
_STATUS = dict(zip((0, 1, 2), ("unset", "ok", "error"), strict=True)) | {
    "STATUS_CODE_UNSET": "unset", "STATUS_CODE_OK": "ok", "STATUS_CODE_ERROR": "error",
}  # fmt: skip
_SPANS_PER_TRACE = 100
_Found = tuple[str, set[str], int]


class Tempo:
    """Reads spans: it looks for traces by TraceQL, fetches them, and takes the spans that match.

    Tempo returns the first traces that it finds, not the newest: when it has as many as it was asked for, the answer
    is refused, unless `most_recent` lets it look for the newest.

    Args:
        url: Its address, with the path before `/api` if there is one.
        max_traces: The most traces that are fetched for one answer.
        most_recent: Whether the server knows the query hint `most_recent` (since 2.8).
        token: A bearer token.
        user: The user's name, where it asks for a password.
        password: The user's password.
        tenant: Whose spans are meant, sent as X-Scope-OrgID.
    """

    language: ClassVar[Language] = "fields"

    def __init__(
        self, url: str, *, max_traces: int = 100, most_recent: bool = False, token: SecretStr | None = None,
        user: str = "", password: SecretStr | None = None, tenant: str = "",
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Tempo", token, user=user, password=password, tenant=tenant)
        self._max_traces, self._most_recent = max_traces, most_recent

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read spans, newest last.

        Args:
            where: Columns and attributes with the exact values that they must have, with `trace` one trace only; or
                a TraceQL query without values of others.
            window: From when to when spans began.
            limit: The most spans to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `trace`, `span`, `parent`, `service`, `operation` (text),
            `duration_ms` (float64), `status` (ok, error or unset), `attributes` (mappings: of the span and its
            resource).

        Raises:
            SettingsError: A field's name is none in TraceQL.
            BadAnswer: The query is wrong, the answer has not the documented form, or more match than may be fetched.
            Unreachable: The server did not answer.
        """
        wanted = {} if isinstance(where, str) else same_trace(fields(where, "Tempo"))
        try:
            if "trace" in wanted:
                rows = await self._trace(wanted["trace"])
            elif isinstance(where, str):
                rows = await self._listed(where, window, limit)
            else:
                rows = await self._found(_traceql(wanted), window, limit)
            return tidy("spans", (row for row in rows if inside(row, window) and matches(row, wanted)), limit)
        except MALFORMED as error:
            raise BadAnswer("Tempo answered in a form that its API does not document.", fault=True) from error

    def sent(self, where: Mapping[str, str]) -> str:
        """Say how fields read in the query that is sent."""
        return _traceql(same_trace(fields(where, "Tempo")))

    async def ping(self) -> str:
        """List the names of tags, and ask for the version, which a gateway may hide."""
        answer = await self._http.read("/api/search/tags")
        try:
            tags = len(answer.get("tagNames") or [])
        except MALFORMED as error:
            raise BadAnswer("Tempo answered in a form that its API does not document.", fault=True) from error
        return f"{await self._product()}, {self._http.who}; reads, {tags} tag(s) in the last hours"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _product(self) -> str:
        try:
            return f"Tempo {told((await self._http.read('/api/status/buildinfo'))['version'])}"
        except (NotFound, BadAnswer, *MALFORMED):
            return "Tempo, which does not tell its version"

    async def _found(self, query: str, window: Window, limit: int) -> list[Row]:
        """Fetch all spans of the traces that a query finds."""
        traces = await self._traces(query, window, limit)
        return [row for trace, _, _ in traces for row in await self._trace(trace)]

    async def _listed(self, query: str, window: Window, limit: int) -> list[Row]:
        """Fetch the spans that match a query; which ones do is known from the server's list alone."""
        rows: list[Row] = []
        for trace, spans, matched in await self._traces(query, window, limit):
            if matched > len(spans):
                raise BadAnswer(f"{matched} spans of trace {trace} match; Tempo lists {len(spans)}.")
            rows += [row for row in await self._trace(trace) if row["span"] in spans]
        return rows

    async def _traces(self, query: str, window: Window, limit: int) -> list[_Found]:
        asked = min(self._max_traces, limit)
        answer = await self._http.read("/api/search", {
            "q": query + (" with (most_recent=true)" if self._most_recent else ""), "limit": str(asked),
            "start": str(nanoseconds(window.start) // 10**9), "end": str(nanoseconds(window.end) // 10**9 + 1),
            "spss": str(_SPANS_PER_TRACE),
        })  # fmt: skip
        traces = [_summary(trace) for trace in answer.get("traces") or []]
        if len(traces) >= asked and not (self._most_recent and asked == limit):
            raise BadAnswer(
                f"At least {asked} traces match; Tempo does not say whether others are newer.",
                todo="Narrow `where` or the time, or raise `max_traces`.",
            )
        return traces

    async def _trace(self, trace: str) -> list[Row]:
        if not trace:
            return []
        try:
            answer = await self._http.read(f"/api/traces/{trace}")
        except NotFound:
            return []
        batches = answer["batches"] if "batches" in answer else answer["resourceSpans"]
        return [row for batch in batches for row in _batch(batch, trace)]


def _traceql(where: Mapping[str, str]) -> str:
    """Write fields as a query; a value that reads as a number or boolean is looked for as that, too."""
    conditions = [_condition(name, value) for name, value in where.items() if name not in {"span", "parent"}]
    return f"{{ {' && '.join(conditions)} }}" if conditions else "{ }"


def _condition(name: str, value: str) -> str:
    if name == "status":
        return f"status = {value}" if value in STATES else "false"
    if name in _COLUMNS:
        return f"{_COLUMNS[name]} = {promql_string(value)}"
    if not _ATTRIBUTE.fullmatch(name) or name in LINES["spans"]:
        raise SettingsError(f"{name!r} is no attribute that Tempo can look for.")
    text = f".{name} = {promql_string(value)}"
    return f"({text} || .{name} = {value})" if _LITERAL.fullmatch(value) else text


def _summary(trace: Any) -> _Found:
    sets = trace.get("spanSets") or [trace["spanSet"]]
    spans = {str(span["spanID"]).zfill(16) for one in sets for span in one.get("spans") or ()}
    return trace_id(trace["traceID"]), spans, sum(int(one.get("matched", 0)) for one in sets)


def _batch(batch: Any, trace: str) -> Iterator[Row]:
    """Read spans as the server writes them: what is empty, zero or unset is left out there."""
    resource = _attributes(batch.get("resource") or {})
    scopes = batch.get("scopeSpans") or batch.get("instrumentationLibrarySpans") or []
    for span in (span for scope in scopes for span in scope.get("spans") or ()):
        start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        yield {
            "time": start, "trace": trace, "span": _hex(span["spanId"]), "parent": _hex(span.get("parentSpanId") or ""),
            "service": str(resource.get("service.name", "")), "operation": str(span.get("name", "")),
            "duration_ms": (end - start) / 1e6, "status": _STATUS[(span.get("status") or {}).get("code", 0)],
            "attributes": resource | _attributes(span),
        }  # fmt: skip


def _attributes(owner: Any) -> dict[str, Any]:
    return {item["key"]: _value(item.get("value") or {}) for item in owner.get("attributes") or []}


def _value(value: Any) -> Any:
    """Read a value of OTLP's JSON; whole numbers are texts there."""
    if "intValue" in value:
        return int(value["intValue"])
    if "arrayValue" in value:
        return [_value(item) for item in value["arrayValue"].get("values") or []]
    if "kvlistValue" in value:
        return _attributes({"attributes": value["kvlistValue"].get("values")})
    return next(iter(value.values()), None)


def _hex(text: str) -> str:
    """Write a span's identifier in hexadecimal digits: Tempo writes bytes in base 64, OTLP's JSON in digits."""
    if not text:
        return ""
    return text.lower() if re.fullmatch(r"[0-9a-fA-F]{16}", text) else b64decode(text, validate=True).hex()
