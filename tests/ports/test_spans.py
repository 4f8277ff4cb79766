"""Every source of spans, in memory or on a server, keeps the same promises.

With RBKIT_JAEGER_URL or RBKIT_TEMPO_URL set (and RBKIT_JAEGER_OTLP_URL or RBKIT_TEMPO_OTLP_URL, where spans are sent
to another port), a real server is asked instead of the double.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pandas as pd
import pytest
from pings import pinged

from rbkit.adapters.fake_signals import FakeSpans
from rbkit.adapters.jaeger import Jaeger
from rbkit.adapters.tempo import Tempo
from rbkit.ports import LINES, Window
from rbkit.tape import keep, pack_frame
from rbkit.testing.jaeger import JaegerDouble
from rbkit.testing.tempo import TempoDouble

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
NASTY = ['a"b', "a\\", "a\\nb", "a\nb", '" || true || "', "é\u2028{}", "x } || { .n = 1", "*"]
TRACES = [f"{'0' * 8}{uuid4().hex[:24]}", uuid4().hex, uuid4().hex]
Search = Callable[..., pd.DataFrame]


def span(trace: int, number: int, age_s: float, **more: Any) -> dict[str, Any]:
    """Describe a span; its parent is the trace's span 1."""
    parent = f"{trace:08x}{1:08x}" if number > 1 else ""
    usual = {"service": "checkout", "operation": "GET /", "duration_ms": 12.5, "status": "unset"}
    about = {"time": NOW - timedelta(seconds=age_s), "trace": TRACES[trace], "span": f"{trace:08x}{number:08x}"}
    return {**about, "parent": parent, **usual, **more}


SPANS = [
    span(0, 1, 120, status="ok", **{"http.method": "GET", "n": 4}),
    span(0, 2, 119, service="payment", operation="charge", status="error", n=5),
    span(1, 1, 60, status="error", n=4),
    span(1, 2, 59, operation="SELECT", duration_ms=3.0, n=6),
    span(2, 1, 600),
    *(span(2, 10 + place, 10 - place, service="odd", user=text) for place, text in enumerate(NASTY)),
]


def otlp(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Write spans as an exporter sends them."""
    codes = {"unset": 0, "ok": 1, "error": 2}
    found = []
    for line in lines:
        start = int(line["time"].timestamp()) * 10**9
        rest = {key: value for key, value in line.items() if key not in LINES["spans"]}
        attributes = [
            {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in rest.items()
        ]
        one = {
            "traceId": line["trace"], "spanId": line["span"], "name": line["operation"], "kind": 2,
            "startTimeUnixNano": str(start), "endTimeUnixNano": str(start + int(line["duration_ms"] * 1e6)),
            "attributes": attributes, "status": {"code": codes[line["status"]]},
        }  # fmt: skip
        one |= {"parentSpanId": line["parent"]} if line["parent"] else {}
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": line["service"]}}]}
        found.append({"resource": resource, "scopeSpans": [{"scope": {}, "spans": [one]}]})
    return {"resourceSpans": found}


@pytest.fixture(scope="module", params=["fake", "jaeger", "tempo"])
def source(request: pytest.FixtureRequest, loop: asyncio.Runner) -> Iterator[Any]:
    """A source that has `SPANS`."""
    with filled(request.param) as found:
        yield found
        loop.run(found.aclose())


@contextmanager
def filled(name: str) -> Iterator[Any]:
    """Fill a source with `SPANS`."""
    if name == "fake":
        yield FakeSpans(SPANS)
        return
    double, adapter = (JaegerDouble, Jaeger) if name == "jaeger" else (TempoDouble, Tempo)
    if url := os.environ.get(f"RBKIT_{name.upper()}_URL"):
        send(os.environ.get(f"RBKIT_{name.upper()}_OTLP_URL", url))
        yield adapter(url)
        return
    with double() as server:
        send(server.url)
        yield adapter(server.url)


def send(url: str) -> None:
    """Send `SPANS` as an exporter does."""
    httpx2.post(f"{url}/v1/traces", json=otlp(SPANS), trust_env=False).raise_for_status()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """A loop in which the module's source lives."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def search(loop: asyncio.Runner, source: Any, until: Any) -> Search:
    """Search a source that has `SPANS`."""

    def searching(where: Any, limit: int = 50, window: Window = WINDOW) -> pd.DataFrame:
        found: pd.DataFrame = loop.run(source.search(where, window, limit))
        return found

    until(lambda: len(searching({"service": "odd"})) == len(NASTY), within_s=60)
    return searching


def test_spans_are_a_tidy_table(search) -> None:
    """Columns, types and order are the same everywhere; durations are numbers; identifiers have all their digits."""
    frame = search({"service": "checkout"})
    assert tuple(frame.columns) == LINES["spans"] and str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame["time"].tolist() == [NOW - timedelta(seconds=age) for age in (120, 60, 59)]
    assert frame["duration_ms"].tolist() == [12.5, 12.5, 3.0] and str(frame["duration_ms"].dtype) == "float64"
    assert frame["trace"].tolist() == [TRACES[0], TRACES[1], TRACES[1]]
    assert frame["span"].tolist() == [line["span"] for line in (SPANS[0], SPANS[2], SPANS[3])]
    assert frame["parent"].tolist() == ["", "", SPANS[2]["span"]]
    assert frame["status"].tolist() == ["ok", "error", "unset"]
    assert frame["operation"].tolist() == ["GET /", "GET /", "SELECT"]
    assert frame["attributes"][0]["http.method"] == "GET" and frame["attributes"][0]["n"] == 4


def test_columns_and_attributes_must_match_exactly(search) -> None:
    """All that is asked for must hold of the same span; a part of a value does not, nor does what is not there."""
    spans = {"service": "checkout"}
    assert search(spans | {"operation": "SELECT"})["attributes"].map(lambda a: a["n"]).tolist() == [6]
    assert search(spans | {"status": "error"})["trace"].tolist() == [TRACES[1]]
    assert search(spans | {"n": "4"})["trace"].tolist() == TRACES[:2]
    assert search(spans | {"http.method": "GET"})["trace"].tolist() == [TRACES[0]]
    assert search(spans | {"span": SPANS[3]["span"]})["operation"].tolist() == ["SELECT"]
    wrong: list[dict[str, str]] = [
        {"operation": "GET"}, {"operation": "charge"}, {"n": "44"}, {"http.method": "GE"}, {"nothing": "x"},
        {"status": "none"}, {"status": "ok", "n": "6"},
    ]  # fmt: skip
    for where in wrong:
        assert search(spans | where).empty
    assert search({"service": "check"}).empty


def test_a_trace_is_read_as_a_whole(search) -> None:
    """Its spans of every service come; zeros at its front and capital letters do not matter."""
    for name in (TRACES[0], TRACES[0].lstrip("0"), TRACES[0].upper()):
        assert search({"trace": name})["service"].tolist() == ["checkout", "payment"]
    assert search({"trace": TRACES[0], "service": "payment"})["operation"].tolist() == ["charge"]
    for name in (uuid4().hex, "no-such", "../..", ""):
        assert search({"trace": name}).empty


def test_spans_outside_the_window_are_left_out(search) -> None:
    """Also those of a trace that reaches into it; both ends of the window belong to it."""
    assert len(search({"trace": TRACES[2]})) == len(NASTY)
    exact = Window(NOW - timedelta(seconds=60), NOW - timedelta(seconds=59), 1.0)
    assert len(search({"service": "checkout"}, window=exact)) == 2
    inner = Window(NOW - timedelta(seconds=59, milliseconds=999), NOW - timedelta(seconds=59), 1.0)
    assert search({"service": "checkout"}, window=inner)["operation"].tolist() == ["SELECT"]


def test_the_newest_spans_are_kept(search) -> None:
    """A limit leaves out the oldest."""
    assert search({"trace": TRACES[2]}, limit=1)["span"].tolist() == [SPANS[-1]["span"]]


@pytest.mark.parametrize("text", NASTY)
def test_a_value_never_becomes_more_than_a_value(search, text) -> None:
    """Quotes, braces and operators find the span that has them, no other, and arrive as they were sent."""
    assert search({"service": "odd", "user": text})["attributes"].map(lambda a: a["user"]).tolist() == [text]
    assert search({"service": "odd", "user": f"{text}x"}).empty and search({"service": text}).empty


def test_answers_can_be_kept_on_the_tape(search, rig) -> None:
    """Spans with attributes, and none at all, can be recorded."""
    some, none = search({"service": "checkout"}), search({"service": "check"})
    assert keep(rig.store, pack_frame(some)) != keep(rig.store, pack_frame(none))


@pytest.mark.parametrize(("name", "named"), [("fake", "in memory"), ("jaeger", "Jaeger, "), ("tempo", "Tempo 2")])
def test_ping_says_who_we_are_and_what_we_may_do(name, named) -> None:
    """One line that names the system, and that we read."""
    with filled(name) as source:
        assert named in pinged(source)
