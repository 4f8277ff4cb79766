"""Jaeger answers in its own form and completely, or not at all."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rbkit.adapters.jaeger import Jaeger
from rbkit.errors import BadAnswer, ParameterError, SettingsError, Unreachable
from rbkit.ports import Window

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=1), NOW, 1.0)
US = int(NOW.timestamp()) * 10**6


def trace(number: int = 1, **more: Any) -> dict[str, Any]:
    """Make a trace of one span."""
    span = {
        "traceID": f"{number:x}", "spanID": "aa", "operationName": "GET /", "references": [], "startTime": US - number,
        "duration": 1500, "tags": [{"key": "n", "type": "int64", "value": 4}], "processID": "p1",
    } | more  # fmt: skip
    return {"spans": [span], "processes": {"p1": {"serviceName": "s", "tags": [{"key": "host", "value": "h"}]}}}


def asked(server: Any, where: Any, limit: int = 10, **options: Any) -> Any:
    """Ask a server."""

    async def work(url: str) -> Any:
        source = Jaeger(f"{url}/jaeger", **options)
        try:
            return await source.search(where, WINDOW, limit)
        finally:
            await source.aclose()

    return server.use(work)


def sent(server: Any) -> dict[str, str]:
    """Return the fields of the last question."""
    target = urlsplit(server.asked[-1].split(b" ")[1].decode())
    assert target.path == "/jaeger/api/traces"
    return {name: values[0] for name, values in parse_qs(target.query).items()}


def test_columns_and_tags_are_asked_for(server) -> None:
    """Service and operation by name, an error by its tag, everything else as JSON; what is no tag is compared here."""
    where = {"service": "a&b", "operation": "GET", "status": "error", "user": 'x"', "span": "s", "duration_ms": "1"}
    assert asked(server.json({"data": []}), where).empty
    fields = sent(server)
    assert json.loads(fields.pop("tags")) == {"user": 'x"', "error": "true"}
    times = {"start": str(US - 60_000_000), "end": str(US)}
    assert fields == {"service": "a&b", "operation": "GET", "limit": "10", **times}
    asked(server.json({"data": []}), {"service": "a", "status": "ok"})
    assert "tags" not in sent(server) and "operation" not in sent(server)


@pytest.mark.parametrize("where", [{}, {"operation": "GET /"}, "service=x"])
def test_a_service_or_a_trace_is_needed(server, where) -> None:
    """Jaeger cannot search everything, and has no queries."""
    with pytest.raises(SettingsError, match="needs a service|no queries"):
        asked(server.json({"data": []}), where)


def test_a_broken_character_is_refused(server) -> None:
    """Before anything is asked."""
    with pytest.raises(ParameterError):
        asked(server.json({"data": []}), {"service": "\ud800"})


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ({}, "unset"), ({"error": True}, "error"), ({"error": "true"}, "error"), ({"error": False}, "unset"),
        ({"otel.status_code": "OK"}, "ok"), ({"otel.status_code": "ERROR"}, "error"),
        ({"otel.status_code": "?"}, "unset"),
    ],
)  # fmt: skip
def test_a_span_says_how_it_ended(server, tags, status) -> None:
    """By OpenTelemetry's status, or by the tag that older clients set."""
    one = trace(tags=[{"key": key, "value": value} for key, value in tags.items()])
    frame = asked(server.json({"data": [one], "errors": None}), {"service": "s"})
    assert frame["status"].tolist() == [status] and frame["attributes"][0] == {"host": "h"} | tags


def test_a_span_has_at_most_one_parent(server) -> None:
    """A span that only follows another has none; lists may be missing."""
    follows = {"refType": "FOLLOWS_FROM", "spanID": "bb"}
    child = {"refType": "CHILD_OF", "spanID": "cc"}
    data = [trace(3, references=[follows, child]), trace(2, references=[follows]), trace(1, references=None, tags=None)]
    frame = asked(server.json({"data": data}), {"service": "s"})
    assert frame["parent"].tolist() == ["cc", "", ""] and frame["duration_ms"].tolist() == [1.5] * 3
    assert frame["trace"].tolist() == [f"{number:032x}" for number in (3, 2, 1)]


def test_more_traces_than_are_asked_for_are_refused(server) -> None:
    """Unless they fill the answer: then the newest are kept, as always."""
    answer = {"data": [trace(1), trace(2)]}
    with pytest.raises(BadAnswer, match="At least 2 traces match.*max_rows` to 2"):
        asked(server.json(answer), {"service": "s"}, max_traces=2)
    assert len(asked(server.json(answer), {"service": "s"}, limit=2, max_traces=2)) == 2
    assert len(asked(server.json(answer), {"service": "s"}, max_traces=3)) == 2


def test_a_trace_is_fetched_by_its_name(server) -> None:
    """One that is not there has no spans; one that cannot be is not asked for."""
    frame = asked(server.json({"data": [trace(10)]}), {"trace": "A"})
    assert len(frame) == 1 and server.asked[0].startswith(b"GET /jaeger/api/traces/" + b"a".rjust(32, b"0") + b" ")
    assert asked(server.json({"data": None, "errors": [{"code": 404}]}, 404), {"trace": "b"}).empty
    count = len(server.asked)
    assert asked(server, {"trace": "../services"}).empty and len(server.asked) == count


@pytest.mark.parametrize("answer", [None, [], {}, {"data": None}, {"data": [], "errors": [{"msg": "boom"}]}])
def test_an_answer_without_traces_is_a_bad_answer(server, answer) -> None:
    """What came is shown."""
    with pytest.raises(BadAnswer, match="did not answer with traces"):
        asked(server.json(answer), {"service": "s"})


@pytest.mark.parametrize(
    "one",
    [
        None, {}, trace(processID="p2"), trace(startTime="x"), trace(traceID="no hex"), trace(tags=[{}]), trace(tags=3),
        trace(references=[{}]), trace(duration=None), trace(duration=10**400), trace(startTime=float("inf")),
        trace(startTime=10**30),
    ],
)  # fmt: skip
def test_another_form_is_a_bad_answer(server, one) -> None:
    """It is refused, never half read."""
    if one and one.get("spans") and one["spans"][0]["startTime"] == 10**30:
        assert asked(server.json({"data": [one]}), {"service": "s"}).empty
        return
    with pytest.raises(BadAnswer, match="not its own"):
        asked(server.json({"data": [one]}), {"service": "s"})


def test_errors_are_said_in_the_servers_words(server) -> None:
    """A wrong question, and a server that is not there."""
    with pytest.raises(BadAnswer, match="400: .*parameter 'service' is required"):
        asked(server.json({"errors": [{"code": 400, "msg": "parameter 'service' is required"}]}, 400), {"service": "s"})
    server.reply = b""
    with pytest.raises(Unreachable, match="Jaeger at"):
        asked(server, {"service": "s"})
