"""The double of Jaeger answers as its query service does, and refuses what that refuses."""

import json
from typing import Any

import pytest

from rbkit.testing.jaeger import JaegerDouble
from testing.asking import ask
from testing.sending import START, request, span

TAGS = [
    {"key": "n", "value": {"intValue": "4"}}, {"key": "on", "value": {"boolValue": True}},
    {"key": "user", "value": {"stringValue": 'a"b'}},
]  # fmt: skip
US = START // 1_000


@pytest.fixture(scope="module")
def jaeger():
    """A double with three traces."""
    with JaegerDouble() as double:
        spans = [
            span(1, 1, 30, status={"code": 2}, attributes=TAGS),
            span(1, 2, 29, parentSpanId=f"{1:016x}", name="SELECT"),
        ]
        for body in (
            request(*spans),
            request(span(2, 1, 10), service="cart"),
            request(span(3, 1, 5, status={"code": 1})),
        ):
            assert ask(double, "POST", "/v1/traces", body) == (200, {"partialSuccess": {}})
        yield double


def find(double: JaegerDouble, **more: Any) -> Any:
    """Find traces of the last minute."""
    return ask(double, "GET", "/api/traces", **{"service": "shop", "start": US - 60_000_000, "end": US, **more})


def names(double: JaegerDouble, **more: Any) -> list[int]:
    """List the numbers of the traces that are found."""
    status, answer = find(double, **more)
    assert status == 200 and answer["errors"] is None
    return [int(trace["traceID"], 16) for trace in answer["data"]]


def test_traces_are_found_by_one_of_their_spans(jaeger):
    """Service, operation and tags must hold of the same span; the newest traces come first and are kept."""
    assert names(jaeger) == [3, 1] and names(jaeger, limit=1) == [3] and names(jaeger, service="cart") == [2]
    assert names(jaeger, operation="SELECT") == [1] and names(jaeger, service="cart", operation="SELECT") == []
    for tags in (
        {"n": "4", "on": "true", "user": 'a"b'},
        {"error": "true"},
        {"host.name": "h1", "otel.status_code": "ERROR"},
    ):
        assert names(jaeger, tags=json.dumps(tags)) == [1]
    assert names(jaeger, operation="SELECT", tags='{"n": "4"}') == [] and names(jaeger, end=US - 20_000_000) == [1]


def test_a_trace_is_shown_as_jaeger_shows_it(jaeger):
    """Whole, with processes beside the spans, times in microseconds, tags with their types."""
    status, answer = ask(jaeger, "GET", "/api/traces/1")
    (trace,) = answer["data"]
    first, second = trace["spans"]
    assert status == 200 and (first["startTime"], first["duration"]) == (US - 30_000_000, 2_000)
    assert {"key": "n", "type": "int64", "value": 4} in first["tags"] and first["references"] == []
    assert {"key": "error", "type": "bool", "value": True} in first["tags"]
    assert second["references"] == [{"refType": "CHILD_OF", "traceID": f"{1:032x}", "spanID": f"{1:016x}"}]
    process = trace["processes"][first["processID"]]
    assert process == {"serviceName": "shop", "tags": [{"key": "host.name", "type": "string", "value": "h1"}]}


@pytest.mark.parametrize(
    "more",
    [
        {"service": ""}, {"limit": "x"}, {"start": "x"}, {"tags": "{"}, {"tags": '{"n": 4}'}, {"tags": "5"},
        {"lookback": "1h"},
    ],
)  # fmt: skip
def test_a_question_that_is_none_is_refused(jaeger, more):
    """Without a service, with numbers that are none, with tags that are no texts."""
    status, answer = find(jaeger, **more)
    assert status == 400 and answer["data"] is None and answer["errors"][0]["code"] == 400


def test_what_is_not_there_is_said(jaeger):
    """A trace, a name that is none, spans that are none, another path."""
    status, answer = ask(jaeger, "GET", "/api/traces/9")
    assert status == 404 and answer["errors"] == [{"code": 404, "msg": "trace not found"}]
    assert ask(jaeger, "GET", "/api/traces/xyz")[0] == 400 and ask(jaeger, "POST", "/v1/traces", {})[0] == 400
    assert ask(jaeger, "GET", "/api/operations") == (404, "404 page not found\n")
    assert ask(jaeger, "PUT", "/api/traces/9")[0] == 404


def test_services_are_listed(jaeger):
    """By name; none is null."""
    assert ask(jaeger, "GET", "/api/services")[1]["data"] == ["cart", "shop"]
    with JaegerDouble() as empty:
        assert ask(empty, "GET", "/api/services")[1]["data"] is None
