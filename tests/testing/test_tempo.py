"""The double of Tempo answers what Tempo documents, and refuses what Tempo refuses."""

from typing import Any

import pytest

from rbkit.testing.tempo import TempoDouble
from testing.asking import ask
from testing.sending import START, request, span

ATTRIBUTES = [
    {"key": "n", "value": {"intValue": "4"}}, {"key": "on", "value": {"boolValue": True}},
    {"key": "user", "value": {"stringValue": 'a"b'}}, {"key": "http.url", "value": {"stringValue": "4"}},
]  # fmt: skip
S = START // 10**9


@pytest.fixture(scope="module")
def tempo():
    """A double with three traces."""
    with TempoDouble(spans_per_set=2) as double:
        spans = [
            span(1, 1, 30, status={"code": 2}, attributes=ATTRIBUTES),
            span(1, 2, 29, parentSpanId=f"{1:016x}", name="SELECT"),
        ]
        for body in (
            request(*spans),
            request(span(2, 1, 10), service="cart"),
            request(span(3, 1, 5, status={"code": 1})),
        ):
            assert ask(double, "POST", "/v1/traces", body) == (200, {"partialSuccess": {}})
        yield double


def search(double: TempoDouble, query: str, **more: Any) -> Any:
    """Search the last minute."""
    return ask(
        double, "GET", "/api/search", **{"q": query, "start": S - 60, "end": S + 1, "limit": 9, "spss": 2, **more}
    )


def names(double: TempoDouble, query: str, **more: Any) -> list[int]:
    """List the numbers of the traces that are found."""
    status, answer = search(double, query, **more)
    assert status == 200, answer
    return [int(trace["traceID"], 16) for trace in answer["traces"]]


@pytest.mark.parametrize(
    ("query", "traces"),
    [
        ("{}", [1, 2, 3]), ("{ } ", [1, 2, 3]), ("{ true }", [1, 2, 3]), ("{ false }", []), ("{ status = error }", [1]),
        ("{ status != error }", [1, 2, 3]), ('{ resource.service.name = "cart" }', [2]), ('{ name = "SELECT" }', [1]),
        ('{ .user = "a\\"b" }', [1]), ("{ .n = 4 }", [1]), ('{ .n = "4" }', []), ('{ .http.url = "4" }', [1]),
        ("{ .http.url = 4 }", []), ("{ .on = true }", [1]), ("{ .on = 1 }", []), ("{ .nothing = 4 }", []),
        ('{ (.n = "4" || .n = 4) && status = error }', [1]), ("{ .n = 4 && name = `SELECT` }", []),
        ("{ .n = 4.0 }", [1]), ("{ status = ok } with (most_recent=true)", [3]), ("{ } with (most_recent=true)",
        [3, 2, 1]),
    ],
)  # fmt: skip
def test_a_query_finds_traces_by_one_of_their_spans(tempo, query, traces):
    """Values are compared with those of their own type only."""
    assert names(tempo, query) == traces


def test_the_first_that_are_found_are_listed(tempo):
    """Not the newest, and of each trace only so many spans; zeros at the front of a name are left out."""
    assert names(tempo, "{}", limit=1) == [1] and names(tempo, "{}", end=S - 20) == [1]
    _, answer = search(tempo, "{}", spss=1)
    (one,) = answer["traces"][0]["spanSets"]
    assert (len(one["spans"]), one["matched"], answer["traces"][0]["traceID"]) == (1, 2, "1")


def test_a_trace_is_shown_as_tempo_shows_it(tempo):
    """In batches, with identifiers as bytes and times as texts."""
    status, answer = ask(tempo, "GET", "/api/traces/1")
    first, second = [batch["scopeSpans"][0]["spans"][0] for batch in answer["batches"]]
    assert status == 200 and first["spanId"] == "AAAAAAAAAAE=" and first["startTimeUnixNano"] == str(START - 30 * 10**9)
    assert (first["status"], second["status"]) == ({"code": "STATUS_CODE_ERROR"}, {})
    assert second["parentSpanId"] == first["spanId"] and "parentSpanId" not in first
    assert answer["batches"][0]["resource"]["attributes"][0]["key"] == "service.name"


@pytest.mark.parametrize(
    "query",
    [
        "", "{", "}", "{ } }", "{ status }", "{ status = }", "{ name = SELECT }", "{ foo = 4 }",
        "{ .a < 4 }", '{ .a = "x }',
        "{ (.a = 4 }", "{ .a ( 4 }", '{ .a = "\\q" }', "{ .a = 4 ; }", "{ .a = 4 && }", "{} | count() > 1",
    ],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(tempo, query):
    """With the place where it stops being one."""
    status, why = search(tempo, query)
    assert status == 400 and why


@pytest.mark.parametrize("more", [{"limit": 0}, {"spss": 3}, {"spss": 0}, {"end": S - 60}, {"start": "x"}])
def test_a_search_that_is_none_is_refused(tempo, more):
    """An end that is not after the start, no traces at all, more spans than the server lists."""
    assert search(tempo, "{}", **more)[0] == 400


def test_what_is_not_there_is_said(tempo):
    """A trace, a name that is none, spans that are none, another path."""
    assert ask(tempo, "GET", "/api/traces/9") == (404, "")
    assert ask(tempo, "GET", "/api/traces/xyz")[0] == 400 and ask(tempo, "POST", "/v1/traces", {})[0] == 400
    assert ask(tempo, "GET", "/api/search/tags/x/values")[0] == 404


def test_tags_and_the_version_are_told(tempo):
    """Tags only where there are spans."""
    assert ask(tempo, "GET", "/api/search/tags")[1]["tagNames"] == ["service.name"]
    assert ask(tempo, "GET", "/api/status/buildinfo")[1]["version"].endswith("double")
    with TempoDouble() as empty:
        assert ask(empty, "GET", "/api/search/tags")[1]["tagNames"] == []


def test_a_tenant_must_be_named():
    """Where there are tenants."""
    with TempoDouble("team") as double:
        assert search(double, "{}")[0] == 401
        assert ask(double, "POST", "/v1/traces", request(), headers={"X-Scope-OrgID": "team"})[0] == 200
