"""The double of Loki answers what Loki documents, and refuses what Loki refuses."""

import time
from typing import Any

import pytest

from rbkit.testing.loki import LokiDouble
from testing.asking import ask

NS = int(time.time()) * 10**9
LINES = [
    [str(NS - 3), '{"user": "a", "http": {"status-code": 500}, "ok": true, "list": [1], "none": null, "app": "x"}'],
    [str(NS - 2), "plain text"],
    [str(NS - 1), '{"user": "b"}', {"trace": "t"}],
    [str(NS), "[1]"],
]


@pytest.fixture(scope="module")
def loki():
    """A double with four lines of one stream and one of another."""
    with LokiDouble(most=100) as double:
        assert push(double, {"app": "shop"}, LINES) == (204, "")
        assert push(double, {"app": "other", "env": "prod"}, [[str(NS), "o"]]) == (204, "")
        yield double


def push(double: LokiDouble, stream: Any, values: Any, **more: Any) -> Any:
    """Push lines of one stream."""
    return ask(double, "POST", "/loki/api/v1/push", {"streams": [{"stream": stream, "values": values}]}, **more)


def query(double: LokiDouble, text: str, **more: Any) -> Any:
    """Query the last minute."""
    asked = {"query": text, "start": NS - 60 * 10**9, "end": NS + 1, **more}
    return ask(double, "GET", "/loki/api/v1/query_range", **asked)


def found(double: LokiDouble, text: str, **more: Any) -> list[str]:
    """List the lines that a query finds."""
    status, answer = query(double, text, **more)
    assert status == 200 and answer["status"] == "success" and answer["data"]["resultType"] == "streams", answer
    return [value[1] for stream in answer["data"]["result"] for value in stream["values"]]


def test_streams_are_selected_by_labels(loki):
    """All matchers must hold; an empty value means that the label is not there."""
    assert len(found(loki, '{app="shop"}')) == 4
    assert found(loki, '{app="other", env="prod"}') == ["o"] == found(loki, "{ env=`prod` }")
    assert found(loki, '{app="shop", env=""}', limit=1) == ["[1]"] and found(loki, '{app="x"}') == []


def test_the_newest_come_first_unless_asked_otherwise(loki):
    """The end does not belong to the range; a line that is pushed twice is one."""
    push(loki, {"app": "shop"}, LINES[:1])
    assert found(loki, '{app="shop"}', limit=2, end=NS) == [LINES[2][1], "plain text"]
    assert found(loki, '{app="shop"} != "{"', direction="forward") == ["plain text", "[1]"]


def test_lines_are_filtered_by_text_and_by_extracted_fields(loki):
    """Nested names are joined, a name that is a label already is set aside, what is no JSON is marked."""
    assert found(loki, '{app="shop"} |= "plain"') == ["plain text"]
    assert found(loki, '{app="shop"} | json | user="b" | trace="t"') == [LINES[2][1]]
    assert found(loki, '{app="shop"} | json | http_status_code="500" | ok="true"') == [LINES[0][1]]
    assert found(loki, '{app="shop"} | json | user!="b" | list="" | none=""')[-1] == LINES[0][1]
    assert found(loki, '{app="shop"} | json | __error__="JSONParserErr"') == ["[1]", "plain text"]
    assert found(loki, '{app="shop"} | json | app_extracted="x" | app="shop"') == [LINES[0][1]]


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", '{app=""}', "{app}", '{app="a"', 'app="a"', '{app="a"} |', '{app="a"} | json | user', '{app="a"}}',
        '{app="a"} | user~"b"', '{app="a"} = "x"', '{app="a"} | user|="b"', '{app="\\q"}', '{app="a\nb"}', '{app=a}',
        '{app="a"; b="c"}', '{"app"="a"}',
    ],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(loki, text):
    """Also a selector that could mean every stream."""
    status, why = query(loki, text)
    assert status == 400 and isinstance(why, str) and why


@pytest.mark.parametrize(
    "more", [{"limit": 101}, {"limit": 0}, {"limit": "x"}, {"start": NS + 9}, {"direction": "up"}, {"end": "x"}]
)
def test_a_range_that_is_none_is_refused(loki, more):
    """More lines than the server's limit, an end before the start, an unknown direction."""
    assert query(loki, '{app="shop"}', **more)[0] == 400


@pytest.mark.parametrize(
    ("stream", "values"),
    [
        ({}, LINES), ({"a-b": "c"}, LINES), ({"a": 1}, LINES), ({"a": "b"}, [[NS, "x"]]), ({"a": "b"}, [[str(NS), 5]]),
        ({"a": "b"}, [["1", "too old"]]), (None, []), ({"a": "b"}, [["x", "y"]]),
    ],
)  # fmt: skip
def test_lines_that_loki_would_not_take_are_refused(loki, stream, values):
    """Without labels, with a name that is none, with a number for a time, too old."""
    assert push(loki, stream, values)[0] == 400


def test_another_path_or_content_is_refused(loki):
    """It speaks JSON, and only at some paths."""
    assert ask(loki, "GET", "/loki/api/v1/rules")[0] == 404
    assert push(loki, {"a": "b"}, LINES, headers={"Content-Type": "application/x-protobuf"})[0] == 400


def test_a_tenant_must_be_named():
    """Where there are tenants."""
    with LokiDouble("team") as double:
        assert query(double, '{a="b"}')[0] == 401
        assert push(double, {"a": "b"}, [[str(NS), "x"]], headers={"X-Scope-OrgID": "team"})[0] == 204


def test_labels_and_the_version_are_told():
    """Without any label the field is left out."""
    with LokiDouble() as double:
        assert ask(double, "GET", "/loki/api/v1/labels") == (200, {"status": "success"})
        push(double, {"b": "1", "a": "2"}, [[str(time.time_ns()), "x"]])
        assert ask(double, "GET", "/loki/api/v1/labels")[1]["data"] == ["a", "b"]
        assert ask(double, "GET", "/loki/api/v1/status/buildinfo")[1]["version"].endswith("double")
