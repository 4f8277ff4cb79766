"""Jaeger: spans by the JSON API of its query service, which VictoriaTraces speaks, too.

Source: https://www.jaegertracing.io/docs/1.62/apis/#http-json
Source: https://github.com/jaegertracing/jaeger/blob/v1.62.0/cmd/query/app/query_parser.go
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SecretStr

from rbkit.adapters.lines import MALFORMED, Row, fields, inside, matches, nanoseconds, tidy
from rbkit.adapters.signal_http import SignalHttp
from rbkit.adapters.spans import STATES, same_trace, trace_id
from rbkit.errors import BadAnswer, NotFound, SettingsError
from rbkit.ports import LINES, Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Jaeger"]


class Jaeger:
    """Reads spans. With `trace` in `where` it reads one trace; else it looks for traces and takes the spans that match.

    Args:
        url: The query service's address, with the path before `/api` if there is one.
        max_traces: The most traces that are asked for at once; more that match are refused, unless enough newer
            ones make the answer full.
        token: A bearer token.
        user: The user's name, where it asks for a password.
        password: The user's password.
        tenant: Whose spans are meant, sent as X-Scope-OrgID.
    """

    language: ClassVar[Language] = "fields"

    def __init__(
        self, url: str, *, max_traces: int = 500, token: SecretStr | None = None, user: str = "",
        password: SecretStr | None = None, tenant: str = "",
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Jaeger", token, user=user, password=password, tenant=tenant)
        self._max_traces = max_traces

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read spans, newest last.

        Args:
            where: Columns and tags with the exact values that they must have; `service` or `trace` is needed.
            window: From when to when spans began.
            limit: The most spans to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `trace`, `span`, `parent`, `service`, `operation` (text),
            `duration_ms` (float64), `status` (ok, error or unset), `attributes` (mappings: the tags).

        Raises:
            SettingsError: `where` is a query, or names neither service nor trace.
            BadAnswer: The answer has not the documented form, or more traces match than may be asked for.
            Unreachable: The server did not answer.
        """
        wanted = same_trace(fields(where, "Jaeger"))
        if not wanted.keys() & {"service", "trace"}:
            raise SettingsError("Jaeger needs a service, or a trace.", todo="Put `service` into `where`.")
        traces = await self._traces(wanted, window, limit)
        try:
            rows = [row for trace in traces for row in _rows(trace)]
            return tidy("spans", (row for row in rows if inside(row, window) and matches(row, wanted)), limit)
        except MALFORMED as error:
            raise BadAnswer("Jaeger described a trace in a form that is not its own.", fault=True) from error

    async def ping(self) -> str:
        """List the services; Jaeger does not tell its version."""
        answer = await self._http.read("/api/services")
        if isinstance(answer, dict) and answer.get("data") is None:  # as it writes an empty list
            answer["data"] = []
        return f"Jaeger, {self._http.who}; reads, {len(_data(answer, 'services'))} service(s)"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _traces(self, where: Mapping[str, str], window: Window, limit: int) -> list[Any]:
        if "trace" in where:
            return await self._trace(where["trace"])
        asked = min(self._max_traces, limit)
        traces = _data(await self._http.read("/api/traces", _question(where, window, asked)))
        if len(traces) >= asked < limit:
            raise BadAnswer(
                f"At least {asked} traces match; more are not asked for.",
                todo=f"Narrow `where` or the time, raise `max_traces`, or set the signal's `max_rows` to {asked}.",
            )
        return traces

    async def _trace(self, trace: str) -> list[Any]:
        if not trace:
            return []
        try:
            return _data(await self._http.read(f"/api/traces/{trace}"))
        except NotFound:
            return []


def _question(where: Mapping[str, str], window: Window, limit: int) -> dict[str, str]:
    tags = {key: value for key, value in where.items() if key not in LINES["spans"]}
    if where.get("status") == "error":
        tags["error"] = "true"
    asked = {
        "service": where["service"], "limit": str(limit), "start": str(nanoseconds(window.start) // 1_000),
        "end": str(nanoseconds(window.end) // 1_000),
    }  # fmt: skip
    asked |= {"operation": where["operation"]} if where.get("operation") else {}
    return asked | ({"tags": json.dumps(tags)} if tags else {})


def _data(answer: Any, what: str = "traces") -> list[Any]:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list) or answer.get("errors"):
        raise BadAnswer(f"Jaeger did not answer with {what}: {str(answer)[:200]}")
    data: list[Any] = answer["data"]
    return data


def _rows(trace: Any) -> Iterator[Row]:
    for span in trace["spans"]:
        process = trace["processes"][span["processID"]]
        tags = {tag["key"]: tag["value"] for tag in (*(process.get("tags") or ()), *(span.get("tags") or ()))}
        parents = [ref["spanID"] for ref in span.get("references") or () if ref["refType"] == "CHILD_OF"]
        yield {
            "time": int(span["startTime"]) * 1_000, "trace": trace_id(span["traceID"]), "span": str(span["spanID"]),
            "parent": str(parents[0]) if parents else "", "service": str(process["serviceName"]),
            "operation": str(span["operationName"]), "duration_ms": float(span["duration"]) / 1_000,
            "status": _status(tags), "attributes": tags,
        }  # fmt: skip


def _status(tags: Mapping[str, Any]) -> str:
    """Tell how a span ended; OpenTelemetry's status is a tag here, and older clients only set `error`."""
    said = str(tags.get("otel.status_code", "")).lower()
    return "error" if str(tags.get("error")).lower() == "true" else said if said in STATES else "unset"
