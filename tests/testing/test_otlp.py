"""Spans are read as exporters send them, and what is none is refused."""

import pytest

from rbkit.testing.otlp import sent
from testing.sending import START, request, span

VALUES = [
    {"key": "s", "value": {"stringValue": "x"}}, {"key": "i", "value": {"intValue": "4"}},
    {"key": "b", "value": {"boolValue": True}}, {"key": "d", "value": {"doubleValue": 1.5}},
]  # fmt: skip


def test_a_span_is_read():
    """Identifiers, times, how it ended, attributes of the span before those of what sent it."""
    one = span(
        1,
        2,
        3,
        parentSpanId=f"{9:016x}",
        status={"code": 2},
        attributes=[*VALUES, {"key": "host.name", "value": {"stringValue": "mine"}}],
    )
    (found,) = sent(request(one))
    assert (found.trace, found.span, found.parent) == (f"{1:032x}", f"{2:016x}", f"{9:016x}")
    assert (found.start, found.end - found.start, found.status, found.service) == (
        START - 3 * 10**9,
        2_000_000,
        2,
        "shop",
    )
    assert [found.get(key) for key in ("s", "i", "b", "d", "host.name", "none")] == ["x", 4, True, 1.5, "mine", None]
    (bare,) = sent({"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [span(1, 2)]}]}]})
    assert (bare.parent, bare.status, bare.service) == ("", 0, "")


@pytest.mark.parametrize(
    "body",
    [
        None, [], {}, {"resourceSpans": [{}]}, request(span(1, 2, traceId="abc")), request(span(1, 2, spanId="X" * 16)),
        request(span(1, 2, parentSpanId="abc")), request(span(1, 2, status={"code": 7})),
        request(span(1, 2, name=None), {}),
        request(span(1, 2, attributes=[{"key": "a", "value": {"arrayValue": {}}}])),
        request(span(1, 2, endTimeUnixNano="x")),
        request(span(1, 2, attributes=[{"key": "a", "value": {"stringValue": 4}}])),
        request(span(1, 2, attributes=[{"key": "a", "value": {}}])),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(body):
    """Nothing of it is kept."""
    with pytest.raises(ValueError):
        list(sent(body))
