"""Prometheus answers in the documented form or not at all."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.adapters.prometheus import Prometheus
from rbkit.errors import BadAnswer, Unreachable
from rbkit.ports import Window

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=1), NOW, 0.5)
T = NOW.timestamp()


def ask(server: Any, result: Any, **more: Any) -> Any:
    """Ask a server that answers this result."""
    server.json({"status": "success", "data": {"resultType": "matrix", "result": result}})
    return asked(server, **more)


def asked(server: Any, **more: Any) -> Any:
    """Ask a server that answers as it does."""

    async def work(url: str) -> Any:
        source = Prometheus(url, **more)
        try:
            return await source.query('up{job="a b"}', WINDOW)
        finally:
            await source.aclose()

    return server.use(work)


def test_a_range_becomes_a_tidy_table(server) -> None:
    """Times are UTC, values floats, labels text; sorted by time; a label that one series lacks is empty."""
    frame = ask(
        server,
        [
            {"metric": {"__name__": "up", "instance": "b"}, "values": [[T, "2"], [T - 1, "1"]]},
            {"metric": {"__name__": "up", "instance": "a", "zone": "z"}, "values": [[T, "3.5"]]},
        ],
    )
    assert [str(kind) for kind in frame.dtypes[:2]] == ["datetime64[ns, UTC]", "float64"]
    assert list(frame.columns) == ["time", "value", "instance", "metric", "zone"]
    assert frame[["value", "instance", "zone"]].values.tolist() == [[1.0, "b", ""], [3.5, "a", "z"], [2.0, "b", ""]]
    assert frame["time"].tolist()[0] == NOW - timedelta(seconds=1)
    assert b"query=up%7Bjob%3D%22a+b%22%7D" in server.asked[0] and b"step=0.5" in server.asked[0]


def test_nothing_is_an_empty_table(server) -> None:
    """No series, or series without samples, give the columns and their types all the same."""
    for result in ([], [{"metric": {"a": "b"}, "values": []}]):
        frame = ask(server, result)
        assert frame.empty and [str(kind) for kind in frame.dtypes[:2]] == ["datetime64[ns, UTC]", "float64"]


def test_nan_and_infinity_stay_what_they_are(server) -> None:
    """Prometheus writes them as text."""
    frame = ask(server, [{"metric": {}, "values": [[T, "NaN"], [T + 1, "+Inf"], [T + 2, "-Inf"]]}])
    assert math.isnan(frame["value"][0]) and frame["value"].tolist()[1:] == [math.inf, -math.inf]


def test_times_are_exact_to_the_millisecond(server) -> None:
    """Seconds written as a decimal fraction do not pick up noise, so that a replay shows the same moments."""
    frame = ask(server, [{"metric": {}, "values": [[1795433820.294, "1"]]}])
    assert frame["time"].astype("int64").tolist() == [1795433820294000000]


def test_labels_cannot_take_the_place_of_columns(server) -> None:
    """A label called `time`, `value` or `metric` does no harm."""
    metric = {"__name__": "up", "time": "never", "value": "none", "metric": "mine"}
    frame = ask(server, [{"metric": metric, "values": [[T, "1"]]}])
    assert (frame["value"][0], frame["metric"][0], frame["time"][0]) == (1.0, "mine", NOW)


def test_more_series_than_allowed_are_refused(server) -> None:
    """A query that matches too much is no evidence and no flood."""
    with pytest.raises(BadAnswer, match=r"2 series; the limit is 1.*Narrow"):
        ask(server, [{"metric": {}, "values": []}] * 2, max_series=1)


@pytest.mark.parametrize(
    "result",
    [
        None, 3, "x", {"a": 1}, [None], [{}], [{"metric": [], "values": []}, 1], [{"metric": [], "values": [[T, "1"]]}],
        [{"metric": {}, "values": None}], [{"metric": {}, "values": [[T]]}], [{"metric": {}, "values": [[T, "x"]]}],
        [{"metric": {}, "values": [[T, None]]}], [{"metric": {}, "values": [["x", "1"]]}],
        [{"metric": {}, "values": [[1e300, "1"]]}], [{"metric": {}, "values": [[10**400, "1"]]}],
        [{"metric": {}, "values": [[T, 10**400]]}], [{"metric": {}, "values": [[T, "1", "2"]]}],
    ],
)  # fmt: skip
def test_another_form_is_a_bad_answer(server, result) -> None:
    """Whatever stands where samples should be is refused, never half read."""
    with pytest.raises(BadAnswer, match="does not document"):
        ask(server, result)


@pytest.mark.parametrize("answer", [None, [], 3, {}, {"status": "success"}, {"status": "success", "data": None}])
def test_an_answer_without_the_envelope_is_a_bad_answer(server, answer) -> None:
    """The envelope must be there."""
    with pytest.raises(BadAnswer, match="does not document"):
        asked(server.json(answer))


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "error", "error": "parse error"},
        {"status": "success", "data": {"resultType": "vector", "result": []}},
    ],
)
def test_an_error_or_another_kind_of_result_is_said(server, answer) -> None:
    """What came instead of a range is shown."""
    with pytest.raises(BadAnswer, match="parse error|vector"):
        asked(server.json(answer))


def test_a_wrong_query_is_said_in_the_servers_words(server) -> None:
    """Status 400 carries the parser's message."""
    with pytest.raises(BadAnswer, match="400: unexpected character"):
        asked(server.json({"status": "error", "error": "unexpected character"}, 400))


def test_a_server_that_is_down_is_unreachable(server) -> None:
    """No answer is no evidence."""
    with pytest.raises(Unreachable, match="Prometheus at"):
        asked(server)


def test_an_answer_that_is_incomplete_is_refused(server) -> None:
    """A server that warns has not seen everything: that is no evidence, unless the environment file takes it."""
    series = [{"metric": {"a": "b"}, "values": [[T, "1"]]}]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    for more in ({"warnings": ["results truncated due to limit"]}, {"isPartial": True}):
        server.json(answer | more)
        with pytest.raises(BadAnswer, match=r"not whole: (results truncated|some of its storage).*allow_partial: true"):
            asked(server)
        frame = asked(server, allow_partial=True)
        assert len(frame) == 1 and len(frame.attrs["warnings"]) == 1
    for fine in ({"warnings": None}, {"warnings": []}, {"infos": ["not a counter"]}, {"isPartial": False}):
        assert asked(server.json(answer | fine)).attrs == {}


def test_more_samples_than_allowed_are_refused(server) -> None:
    """Also when they come from few series; as many as are allowed pass."""
    series = [{"metric": {"n": str(n)}, "values": [[T, "1"], [T + 1, "1"]]} for n in range(2)]
    with pytest.raises(BadAnswer, match=r"4 samples; the limit is 3.*step longer"):
        ask(server, series, max_points=3)
    assert len(ask(server, series, max_points=4)) == 4


def test_native_histograms_are_refused(server) -> None:
    """They are no numbers; the query must make one of them."""
    with pytest.raises(BadAnswer, match="histogram_quantile"):
        ask(server, [{"metric": {}, "histograms": [[T, {"count": "1", "sum": "1"}]]}])


def test_tenant_token_limit_and_prefix_are_sent(server) -> None:
    """Mimir and Cortex find their tenant, the server its limit; without options nothing is sent."""
    server.json({"status": "success", "data": {"resultType": "matrix", "result": []}})

    async def work(url: str) -> None:
        for options in ({}, {"token": SecretStr("t0ken"), "tenant": "team-a", "limit": 7}):
            source = Prometheus(f"{url}/prometheus/", **options)
            await source.query("up", WINDOW)
            await source.aclose()

    server.use(work)
    plain, full = server.asked
    assert b"Authorization" not in plain and b"X-Scope-OrgID" not in plain and b"limit=" not in plain
    assert full.startswith(b"GET /prometheus/api/v1/query_range?") and b"limit=7" in full.splitlines()[0]
    assert b"X-Scope-OrgID: team-a" in full and b"Authorization: Bearer t0ken" in full
