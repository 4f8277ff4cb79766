"""The metrics server answers as Prometheus does."""

import time

import pytest

from .conftest import World

QUERY, RANGE = "/api/v1/query", "/api/v1/query_range"


def test_every_target_is_up_with_its_labels(world: World) -> None:
    """The three instances and the balancer are scraped and carry job, service and instance."""
    world.until(lambda: [row["value"][1] for row in world.query("up")] == ["1"] * 4)
    assert {row["metric"]["instance"] for row in world.query('up{service="checkout"}')} == {
        "checkout-1",
        "checkout-2",
        "checkout-3",
    }
    assert all(row["metric"]["job"] == "sandbox" for row in world.query("up"))


def test_memory_is_the_process_s_own(world: World) -> None:
    """The memory that is served is what the operating system says about that process."""
    import psutil

    world.until(lambda: world.query('process_resident_memory_bytes{instance="checkout-1"}'))
    served = float(world.query('process_resident_memory_bytes{instance="checkout-1"}')[0]["value"][1])
    real = psutil.Process(world.service("checkout-1")["pid"]).memory_info().rss
    assert served == pytest.approx(real, rel=0.2)
    assert real < 45_000_000


def test_rate_of_the_steady_load(world: World) -> None:
    """Traffic is really there: each instance has a positive rate of 200s."""
    positive = 'rate(http_requests_total{code="200",service="checkout"}[1m])'
    world.until(lambda: [float(row["value"][1]) > 0 for row in world.query(positive)] == [True] * 3)


def test_get_and_post_answer_the_same(world: World) -> None:
    """A query may come in the URL or as a form."""
    world.until(lambda: world.query("pool_size"))
    at = str(time.time())
    first = world.metrics(QUERY, query="pool_size", time=at)
    assert first == world.metrics_form(QUERY, query="pool_size", time=at)
    assert first[1]["status"] == "success" and first[1]["data"]["resultType"] == "vector"


def test_a_range_query_takes_both_kinds_of_time(world: World) -> None:
    """Unix seconds and RFC 3339 are accepted; the result is a matrix."""
    world.until(lambda: world.query("up"))
    now = time.time()
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 1))
    status, body = world.metrics(RANGE, query="up", start=str(now - 60), end=end, step="1s")
    assert status == 200 and body["data"]["resultType"] == "matrix"
    assert all(value == "1" for row in body["data"]["result"] for _, value in row["values"][-1:])


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (QUERY, {}),
        (QUERY, {"query": "sum(up)"}),
        (QUERY, {"query": 'up{a="}'}),
        (QUERY, {"query": "up", "time": "yesterday"}),
        (QUERY, {"query": "up", "time": "NaN"}),
        (QUERY, {"query": "up", "time": "2026-13-01T00:00:00Z"}),
        (RANGE, {"query": "up", "start": "0", "end": "1"}),
        (RANGE, {"query": "up", "start": "1", "end": "0", "step": "1"}),
        (RANGE, {"query": "up", "start": "0", "end": "1", "step": "0"}),
        (RANGE, {"query": "up", "start": "0", "end": "1", "step": "inf"}),
        (RANGE, {"query": "up", "start": "0", "end": "11001", "step": "1"}),
        ("/api/v1/labels", {"match[]": "up[5m]"}),
    ],
)
def test_bad_requests_are_bad_data(world: World, path: str, parameters: dict[str, str]) -> None:
    """Whatever is wrong is 400 in Prometheus' envelope."""
    status, body = world.metrics(path, **parameters)
    assert (status, body["status"], body["errorType"]) == (400, "error", "bad_data")
    assert body["error"]


def test_invalid_utf8_is_bad_data(world: World) -> None:
    """Bytes that are no text are refused in the same envelope."""
    status, body = world.request(world.layout.metrics, "GET", f"{QUERY}?query=%ff")
    assert (status, body["errorType"]) == (400, "bad_data")


def test_the_limit_of_points_is_named(world: World) -> None:
    """The message is Prometheus' own."""
    _, body = world.metrics(RANGE, query="up", start="0", end="11001", step="1")
    assert body["error"].startswith("exceeded maximum resolution of 11,000 points per timeseries.")


def test_labels_buildinfo_and_ready(world: World) -> None:
    """The other addresses that clients use are there; the rest is 404."""
    world.until(lambda: "code" in world.metrics("/api/v1/labels")[1]["data"])
    assert "code" not in world.metrics("/api/v1/labels", **{"match[]": "up"})[1]["data"]
    assert "version" in world.metrics("/api/v1/status/buildinfo")[1]["data"]
    assert world.metrics("/-/ready")[0] == 200
    assert world.metrics("/api/v1/rules")[0] == 404
