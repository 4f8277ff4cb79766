"""Samples and what queries make of them: lookback, staleness, resets, extrapolation."""

import math
from typing import Any

import pytest

from rbkit.sandbox.evaluate import NotExecuted, instant, number, over_range, rate
from rbkit.sandbox.metrics import Scraper, Target, read_samples
from rbkit.sandbox.promql import BadQuery, parse
from rbkit.sandbox.series import STALE, Store, is_stale

MINUTE = 60_000


def store_of(*samples: tuple[int, float], **labels: str) -> Store:
    """Return a store with one series `x`."""
    store = Store()
    for at, value in samples:
        store.append({"__name__": "x", **labels}, at, value)
    return store


def value_at(store: Store, query: str, at_ms: int) -> list[str]:
    """Return the values of an instant query."""
    return [row["value"][1] for row in instant(store, parse(query), at_ms)["result"]]


@pytest.mark.parametrize(("at", "found"), [(999, []), (1000, ["7"]), (300_999, ["7"]), (301_000, [])])
def test_a_sample_is_seen_for_five_minutes(at: int, found: list[str]) -> None:
    """The lookback is left-open: a sample exactly 5 minutes old is no longer seen."""
    assert value_at(store_of((1000, 7.0)), "x", at) == found


def test_a_series_that_ended_is_not_seen() -> None:
    """After the mark of staleness nothing is answered, and the mark is no sample for rate()."""
    store = store_of((1000, 1.0), (2000, 2.0), (3000, STALE))
    assert value_at(store, "x", 2500) == ["2"]
    assert value_at(store, "x", 3500) == []
    assert value_at(store, "rate(x[10s])", 3500) != []
    assert is_stale(STALE) and not is_stale(math.nan)


def test_rate_covers_the_whole_range_when_samples_do() -> None:
    """A steady counter sampled every 15 s has exactly its slope."""
    samples = [(at * 1000, 100.0 + at * 2.0) for at in range(15, 301, 15)]
    assert rate(samples, 0, 300_000) == pytest.approx(2.0)


def test_rate_extrapolates_half_an_interval_into_a_gap() -> None:
    """Far from the border the series is taken to begin and end half an interval outside its samples."""
    samples = [(100_000, 1000.0), (110_000, 1010.0), (120_000, 1020.0)]
    assert rate(samples, 0, 300_000) == pytest.approx(20.0 * (20 + 5 + 5) / 20 / 300)


def test_rate_does_not_extrapolate_below_zero() -> None:
    """A counter that begins near zero is not taken to have been negative."""
    samples = [(100_000, 1.0), (110_000, 11.0), (120_000, 21.0)]
    assert rate(samples, 0, 300_000) == pytest.approx(20.0 * (20 + 1 + 5) / 20 / 300)


def test_rate_survives_resets() -> None:
    """After a restart the counter begins again, and nothing is lost or negative."""
    samples = [(0, 50.0), (10_000, 60.0), (20_000, 5.0), (30_000, 15.0)]
    assert rate(samples, -5_000, 35_000) == pytest.approx(25.0 * (30 + 5 + 5) / 30 / 40)


def test_rate_needs_two_samples() -> None:
    """One sample has no rate."""
    assert value_at(store_of((1000, 7.0)), "rate(x[5m])", 2000) == []


def test_rate_hides_the_name_and_refuses_what_then_is_the_same() -> None:
    """The metric's name is dropped; two series that become equal are an error, not a mixture."""
    store = store_of((1000, 1.0), (2000, 2.0), a="b")
    assert instant(store, parse("rate(x[5m])"), 2000)["result"][0]["metric"] == {"a": "b"}
    store.append({"__name__": "y", "a": "b"}, 1000, 1.0)
    store.append({"__name__": "y", "a": "b"}, 2000, 1.0)
    with pytest.raises(NotExecuted, match="same labelset"):
        instant(store, parse('rate({a="b"}[5m])'), 2000)


@pytest.mark.parametrize(
    ("query", "count"),
    [("x", 1), ('x{a="b"}', 1), ('x{a!="b"}', 0), ('x{a=~"b|c"}', 1), ('x{a=~"."}', 1), ('x{a!~"b.*"}', 0),
     ('x{missing=""}', 1), ('x{missing!=""}', 0), ('x{a=~"B"}', 0), ("y", 0)],
)  # fmt: skip
def test_matchers_choose(query: str, count: int) -> None:
    """The four operators choose series; a missing label counts as empty."""
    assert len(value_at(store_of((0, 1.0), a="b"), query, 0)) == count


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.25, "0.25"), (1e21, "1" + "0" * 21), (1e-7, "0.0000001"), (math.nan, "NaN"),
     (math.inf, "+Inf"), (-math.inf, "-Inf"), (-0.0, "-0")],
)  # fmt: skip
def test_values_are_written_as_prometheus_does(value: float, text: str) -> None:
    """Values are strings without exponents."""
    assert number(value) == text


def test_a_range_has_a_value_at_each_step() -> None:
    """Steps begin at the start, include the end when they hit it, and skip what is stale."""
    store = store_of((0, 1.0), (MINUTE, 2.0), (2 * MINUTE, STALE))
    result = over_range(store, parse("x"), 0, 2 * MINUTE, MINUTE)["result"]
    assert result == [{"metric": {"__name__": "x"}, "values": [[0.0, "1"], [60.0, "2"]]}]


@pytest.mark.parametrize(("start", "end", "step"), [(1, 0, 1), (0, 1, 0), (0, 1, -1), (0, 11_001, 1)])
def test_a_range_has_limits(start: int, end: int, step: int) -> None:
    """Backwards, without a step, or with more than 11,000 points it is refused."""
    with pytest.raises(BadQuery):
        over_range(Store(), parse("x"), start, end, step)


def test_a_query_that_would_read_too_much_is_refused() -> None:
    """The server does not stall on a query over too many samples."""
    store = store_of(*((at * 1000, 1.0) for at in range(3600)))
    with pytest.raises(NotExecuted, match="too many samples"):
        over_range(store, parse("rate(x[1h])"), 0, 11_000_000, 1000)


def test_old_samples_are_dropped() -> None:
    """Only the last hour is kept, and an empty series is gone."""
    store = store_of((0, 1.0))
    store.forget_old(3_600_000)
    assert list(store) == []


def scrape(scraper: Scraper, target: Target, at_ms: int, samples: Any) -> None:
    """Write one scrape."""
    scraper.record(target, at_ms, 0.01, samples)


def test_a_failed_scrape_ends_every_series_but_up() -> None:
    """When a target does not answer, `up` is 0 and its other series are gone at once."""
    store, target = Store(), Target("", {"job": "sandbox", "instance": "i"})
    scraper = Scraper(store, [target])
    scrape(scraper, target, 1000, [({"__name__": "x"}, 1.0)])
    assert value_at(store, "up", 1000) == ["1"] and value_at(store, "x", 1000) == ["1"]
    scrape(scraper, target, 2000, None)
    assert value_at(store, "up", 2000) == ["0"] and value_at(store, "x", 2000) == []


def test_a_series_that_vanishes_ends() -> None:
    """A series that a target no longer has is not answered from the past."""
    store, target = Store(), Target("", {"job": "sandbox"})
    scraper = Scraper(store, [target])
    scrape(scraper, target, 1000, [({"__name__": "x", "v": "1"}, 1.0), ({"__name__": "x", "v": "2"}, 2.0)])
    scrape(scraper, target, 2000, [({"__name__": "x", "v": "2"}, 3.0)])
    assert value_at(store, "x", 2000) == ["3"]


def test_a_target_cannot_take_over_labels() -> None:
    """A sample's own `instance` is kept as `exported_instance`."""
    store, target = Store(), Target("", {"instance": "real"})
    Scraper(store, [target]).record(target, 1, 0.0, read_samples('x{instance="forged"} 1\n'))
    result = instant(store, parse("x"), 1)["result"]
    assert result[0]["metric"] == {"__name__": "x", "instance": "real", "exported_instance": "forged"}
