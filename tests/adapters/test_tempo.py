"""Tempo answers in the documented form and completely, or not at all."""

import asyncio
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rbkit.adapters.tempo import Tempo
from rbkit.errors import BadAnswer, ParameterError, SettingsError, Unreachable
from rbkit.ports import Window
from rbkit.testing.double import Answer, Double, Request

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=1), NOW, 1.0)
NS = int(NOW.timestamp()) * 10**9


class Script(Double):
    """Answers searches and traces as it is told to.

    Args:
        found: What a search finds.
        traces: Traces by identifier; any other is not there.
    """

    def __init__(self, found: Any = None, traces: Any = None) -> None:
        super().__init__()
        self._found, self._traces = found, traces or {}

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if request.path == "/api/search":
            return Answer(200, self._found)
        name = request.path.removeprefix("/api/traces/").lstrip("0")
        return (
            Answer(200, self._traces[name]) if name in self._traces else Answer(404, "", {"Content-Type": "text/plain"})
        )


def listed(name: str, *spans: str, matched: int | None = None, key: str = "spanSets") -> dict[str, Any]:
    """List a trace as a search does."""
    one = {"spans": [{"spanID": span} for span in spans], "matched": len(spans) if matched is None else matched}
    return {"traceID": name, key: [one] if key == "spanSets" else one}


def trace(*spans: dict[str, Any], scopes: str = "scopeSpans") -> dict[str, Any]:
    """Make a trace of spans of one service."""
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]}
    return {"batches": [{"resource": resource, scopes: [{"spans": list(spans)}]}]}


def span(name: str = "00000000000000aa", age: int = 0, **more: Any) -> dict[str, Any]:
    """Make a span of a trace."""
    times = {"startTimeUnixNano": str(NS - age), "endTimeUnixNano": str(NS - age + 1_500_000)}
    return {"spanId": b64encode(bytes.fromhex(name)).decode(), "name": "GET /", **times} | more


def asked(double: Script, where: Any, limit: int = 10, **options: Any) -> Any:
    """Ask the double."""

    async def work() -> Any:
        source = Tempo(double.url, **options)
        try:
            return await source.search(where, WINDOW, limit)
        finally:
            await source.aclose()

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("where", "query"),
    [
        ({}, "{ }"), ({"span": "a", "parent": "b"}, "{ }"),
        ({"service": 'a"b', "operation": "x\n"}, '{ resource.service.name = "a\\"b" && name = "x\\n" }'),
        ({"status": "error"}, "{ status = error }"), ({"status": "error || true"}, "{ false }"),
        ({"http.url": "x"}, '{ .http.url = "x" }'), ({"n": "4"}, '{ (.n = "4" || .n = 4) }'),
        ({"n": "-4.50"}, '{ (.n = "-4.50" || .n = -4.50) }'), ({"n": "true"}, '{ (.n = "true" || .n = true) }'),
        ({"n": "4 } || {"}, '{ .n = "4 } || {" }'), ({"n": "007"}, '{ .n = "007" }'), ({"n": "1e5"}, '{ .n = "1e5" }'),
    ],
)  # fmt: skip
def test_fields_become_a_query(where, query) -> None:
    """Values are escaped, or are plainly numbers; a word is only taken from those that Tempo knows."""
    with Script({"traces": []}) as double:
        assert asked(double, where).empty
        (request,) = double.requests
    assert request.one("q") == query
    assert (request.one("start"), request.one("end")) == (str(NS // 10**9 - 60), str(NS // 10**9 + 1))
    assert (request.one("limit"), request.one("spss")) == ("10", "100")


@pytest.mark.parametrize("name", ["a b", 'a"', "a}", "", "duration_ms", "time", "1a", ".a"])
def test_a_name_that_is_no_attribute_is_refused(name) -> None:
    """It could become part of the query, or is none that Tempo can compare."""
    with Script() as double, pytest.raises(SettingsError, match="no attribute"):
        asked(double, {name: "x"})


def test_a_broken_character_is_refused() -> None:
    """Before anything is asked."""
    with Script() as double, pytest.raises(ParameterError):
        asked(double, {"service": "\ud800"})


def test_a_span_is_read_from_every_form_in_which_tempo_writes_it() -> None:
    """Identifiers as bytes or digits, values of every kind, the status as word, number or nothing, both scope names."""
    attributes = [
        {"key": "s", "value": {"stringValue": "x"}}, {"key": "i", "value": {"intValue": "4"}},
        {"key": "b", "value": {"boolValue": True}}, {"key": "d", "value": {"doubleValue": 1.5}},
        {"key": "a", "value": {"arrayValue": {"values": [{"intValue": 1}]}}}, {"key": "e", "value": {"arrayValue": {}}},
        {"key": "k", "value": {"kvlistValue": {"values": [{"key": "x", "value": {"stringValue": "y"}}]}}},
        {"key": "n", "value": {}},
    ]  # fmt: skip
    spans = [
        span(age=3, attributes=attributes, status={"code": "STATUS_CODE_ERROR", "message": "m"}, parentSpanId=""),
        span(age=2, status={"code": 1}, parentSpanId="00000000000000Aa"), span(age=1, status={}),
        span(age=0, spanId=""),
    ]  # fmt: skip
    for scopes in ("scopeSpans", "instrumentationLibrarySpans"):
        with Script(traces={"a": trace(*spans, scopes=scopes)}) as double:
            frame = asked(double, {"trace": "a"})
        assert frame["status"].tolist() == ["error", "ok", "unset", "unset"]
        assert frame["span"].tolist() == ["00000000000000aa"] * 3 + [""]
        assert frame["parent"].tolist() == ["", "00000000000000aa", "", ""] and frame["duration_ms"][0] == 1.5
        assert frame["attributes"][0] == {
            "service.name": "s", "s": "x", "i": 4, "b": True, "d": 1.5, "a": [1], "e": [], "k": {"x": "y"}, "n": None,
        }  # fmt: skip


def test_what_is_empty_may_be_left_out() -> None:
    """Resource, spans, a name, a value; and a newer server calls the batches otherwise."""
    nameless = {key: value for key, value in span(attributes=[{"key": "a"}]).items() if key != "name"}
    batches = [{}, {"resource": {}, "scopeSpans": [{"scope": {}}, {"spans": [nameless]}]}]
    for word in ("batches", "resourceSpans"):
        with Script(traces={"a": {word: batches}}) as double:
            frame = asked(double, {"trace": "a"})
        assert frame["service"].tolist() == [""] and frame["operation"].tolist() == [""]
        assert frame["attributes"].tolist() == [{"a": None}]
    with Script({"traces": [{"traceID": "a", "spanSets": [{}]}]}) as double:
        assert asked(double, "{ }").empty


def test_of_a_written_query_the_spans_that_tempo_lists_are_taken() -> None:
    """No others of their traces; a trace that is gone meanwhile has none."""
    found = {"traces": [listed("a", "aa", "bb"), listed("b", "aa", key="spanSet"), listed("c", "aa")]}
    spans = trace(*(span(f"00000000000000{name}", age) for age, name in enumerate(("aa", "bb", "cc"))))
    with Script(found, {"a": spans, "b": spans}) as double:
        frame = asked(double, "{ true }", most_recent=True)
        assert double.requests[0].one("q") == "{ true } with (most_recent=true)"
    assert sorted(zip(frame["trace"].str[-1], frame["span"].str[-2:], strict=True)) == [
        ("a", "aa"),
        ("a", "bb"),
        ("b", "aa"),
    ]


def test_of_fields_every_span_that_matches_is_taken() -> None:
    """Also one that Tempo does not list."""
    spans = [span(attributes=[{"key": "n", "value": {"intValue": n}}], age=n) for n in (4, 5)]
    with Script({"traces": [listed("a", matched=9)]}, {"a": trace(*spans, spans[0])}) as double:
        assert asked(double, {"n": "4"})["attributes"].map(lambda a: a["n"]).tolist() == [4, 4]


def test_more_spans_than_tempo_lists_are_refused() -> None:
    """Which ones would match is not known."""
    with Script({"traces": [listed("a", "aa", matched=2)]}) as double, pytest.raises(BadAnswer, match="lists 1"):
        asked(double, "{ true }")


def test_as_many_traces_as_were_asked_for_are_refused() -> None:
    """Tempo returns the first that it finds; only with `most_recent` they are the newest, and fill the answer."""
    found = {"traces": [listed("a"), listed("b")]}
    for limit, options in ((2, {}), (10, {"max_traces": 2}), (10, {"max_traces": 2, "most_recent": True})):
        with Script(found) as double, pytest.raises(BadAnswer, match="At least 2 traces match"):
            asked(double, {"n": "4"}, limit, **options)
    with Script(found) as double:
        assert asked(double, {"n": "4"}, 2, most_recent=True).empty


@pytest.mark.parametrize(
    "found",
    [
        None, [], {"traces": [None]}, {"traces": [{}]}, {"traces": [listed("x y")]}, {"traces": 5},
        {"traces": [{"traceID": "a", "spanSets": [5]}]}, {"traces": [{"traceID": "a", "spanSet": {"matched": 1e999}}]},
    ],
)  # fmt: skip
def test_another_form_of_search_is_a_bad_answer(found) -> None:
    """It is refused, never half read."""
    with Script(found) as double, pytest.raises(BadAnswer, match="does not document"):
        asked(double, {"n": "4"})


@pytest.mark.parametrize(
    "answer",
    [
        None, {}, {"batches": [None]}, trace({}), trace(span(spanId="?")), trace(span(startTimeUnixNano="x")),
        trace(span(status={"code": "?"})), trace(span(attributes=[{"value": {}}])), trace(span(attributes=[5])),
    ],
)  # fmt: skip
def test_another_form_of_trace_is_a_bad_answer(answer) -> None:
    """It is refused, never half read."""
    with Script(traces={"a": answer}) as double, pytest.raises(BadAnswer, match="does not document"):
        asked(double, {"trace": "a"})


def test_errors_are_said_in_the_servers_words(server) -> None:
    """A wrong query, and a server that is not there."""

    async def work(url: str) -> Any:
        source = Tempo(url, tenant="team")
        try:
            return await source.search("{", WINDOW, 5)
        finally:
            await source.aclose()

    with pytest.raises(BadAnswer, match="400: parse error at line 1"):
        server.text("parse error at line 1", 400).use(work)
    assert b"X-Scope-OrgID: team" in server.asked[0]
    server.reply = b""
    with pytest.raises(Unreachable, match="Tempo at"):
        server.use(work)
