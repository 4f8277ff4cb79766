"""Answers queries as Prometheus does: 5 minutes of lookback, staleness, counter resets, extrapolated rates."""

import math
from decimal import Decimal
from itertools import pairwise
from typing import Any

from rbkit.sandbox.promql import BadQuery, Query
from rbkit.sandbox.series import Series, Store

__all__ = ["MAX_POINTS", "NotExecuted", "instant", "number", "over_range", "rate"]

LOOKBACK_MS = 300_000
MAX_POINTS = 11_000
MAX_SAMPLES = 5_000_000


class NotExecuted(ValueError):
    """The query is right but its answer cannot be made."""


def number(value: float) -> str:
    """Write a value as Prometheus does: no exponent, `NaN`, `+Inf`, `-Inf`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")


def rate(samples: list[tuple[int, float]], start_ms: int, end_ms: int) -> float | None:
    """Take the per-second rate of a counter, extrapolated to the whole range.

    Args:
        samples: Time in ms and value, in order, all in (start, end].
        start_ms: Begin of the range.
        end_ms: End of the range.

    Returns:
        Increase per second; None with fewer than two samples.

    Source: Prometheus, promql/functions.go, extrapolatedRate.
    """
    if len(samples) < 2:
        return None
    (first_ms, first), (last_ms, _) = samples[0], samples[-1]
    increase, sampled = _increase([value for _, value in samples]), (last_ms - first_ms) / 1000
    average = sampled / (len(samples) - 1)
    to_start = _reach((first_ms - start_ms) / 1000, average)
    if increase > 0 and first >= 0:
        to_start = min(to_start, sampled * (first / increase))
    to_end = _reach((end_ms - last_ms) / 1000, average)
    factor = (sampled + to_start + to_end) / sampled / ((end_ms - start_ms) / 1000)
    return increase * factor


def _increase(values: list[float]) -> float:
    pairs = pairwise(values)
    return values[-1] - values[0] + sum(before for before, after in pairs if after < before)


def _reach(gap: float, average: float) -> float:
    return average / 2 if gap >= average * 1.1 else gap


def _value(query: Query, series: Series, at_ms: int) -> float | None:
    if query.rate_ms is None:
        return series.last(at_ms - LOOKBACK_MS, at_ms)
    start = at_ms - query.rate_ms
    return rate(series.window(start, at_ms), start, at_ms)


def instant(store: Store, query: Query, at_ms: int) -> dict[str, Any]:
    """Answer a query at one time.

    Returns:
        Prometheus' `data`: a vector of {metric, value: [unix seconds, "value"]}.

    Raises:
        NotExecuted: Two series would have the same labels.
    """
    rows = [(series, _value(query, series, at_ms)) for series in store.select(query.matchers)]
    found = [(_metric(query, series), value) for series, value in rows if value is not None]
    _require_distinct([metric for metric, _ in found])
    result = [{"metric": metric, "value": [at_ms / 1000, number(value)]} for metric, value in found]
    return {"resultType": "vector", "result": result}


def over_range(store: Store, query: Query, start_ms: int, end_ms: int, step_ms: int) -> dict[str, Any]:
    """Answer a query at every step of a range.

    Returns:
        Prometheus' `data`: a matrix of {metric, values: [[unix seconds, "value"], …]}.

    Raises:
        BadQuery: The range is backwards, the step is not positive or there are more than 11,000 points.
        NotExecuted: Two series would have the same labels, or too many samples would be read.
    """
    _check_range(start_ms, end_ms, step_ms)
    times = range(start_ms, end_ms + 1, step_ms)
    chosen = store.select(query.matchers)
    _check_size(query, chosen, len(times))
    result = []
    for series in chosen:
        values = [(at, _value(query, series, at)) for at in times]
        shown = [[at / 1000, number(value)] for at, value in values if value is not None]
        if shown:
            result.append({"metric": _metric(query, series), "values": shown})
    _require_distinct([row["metric"] for row in result])
    return {"resultType": "matrix", "result": result}


def _check_range(start_ms: int, end_ms: int, step_ms: int) -> None:
    if end_ms < start_ms:
        raise BadQuery('invalid parameter "end": end timestamp must not be before start time')
    if step_ms <= 0:
        raise BadQuery(
            'invalid parameter "step": zero or negative query resolution step widths are not accepted. '
            "Try a positive integer"
        )
    if (end_ms - start_ms) // step_ms > MAX_POINTS:
        raise BadQuery(
            "exceeded maximum resolution of 11,000 points per timeseries. "
            "Try decreasing the query resolution (?step=XX)"
        )


def _check_size(query: Query, chosen: list[Series], steps: int) -> None:
    per_step = [1 if query.rate_ms is None else min(len(series), query.rate_ms // 1000 + 1) for series in chosen]
    if steps * sum(per_step) > MAX_SAMPLES:
        raise NotExecuted("query processing would load too many samples into memory in query execution")


def _metric(query: Query, series: Series) -> dict[str, str]:
    hidden = "__name__" if query.rate_ms else ""
    return {name: value for name, value in series.labels.items() if name != hidden}


def _require_distinct(metrics: list[Any]) -> None:
    if len({tuple(sorted(metric.items())) for metric in metrics}) < len(metrics):
        raise NotExecuted("vector cannot contain metrics with the same labelset")
