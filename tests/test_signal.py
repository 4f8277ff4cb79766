"""What was observed, and whether it is evidence."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from rbkit.signal import COLORS, Signal

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAN = float("nan")


def signal(*samples: tuple[float, str, float], unit: str = "MB", name: str = "memory") -> Signal:
    """Describe samples as (age in seconds, instance, value)."""
    frame = pd.DataFrame(
        {
            "time": pd.to_datetime([NOW - timedelta(seconds=age) for age, _, _ in samples], utc=True),
            "value": pd.Series([value for _, _, value in samples], dtype="float64"),
            "instance": [instance for _, instance, _ in samples],
        }
    )
    return Signal(name, unit, "instance", frame, NOW, stale_after_s=30)


def lines(count: int) -> Signal:
    """Describe log lines."""
    frame = pd.DataFrame({"time": [NOW] * count, "level": ["error"] * count, "message": ["m"] * count})
    return Signal("errors", "", "level", frame, NOW, 30)


def test_the_latest_value_of_each_series_is_its_newest_fresh_number():
    """Older samples, stale ones and NaN do not count; the order of the rows does not matter."""
    seen = signal((1, "a", 5), (10, "a", 9), (2, "b", NAN), (3, "b", 7), (31, "c", 1))
    assert seen.latest.to_dict() == {"a": 5.0, "b": 7.0}
    assert seen.latest.index.name == "instance"


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (signal(), "memory has no samples"),
        (signal((1, "a", NAN), (2, "b", NAN)), "memory has only NaN"),
        (signal((3600, "a", 5)), "the newest sample of memory is 1h 00m old"),
        (signal((30.5, "a", 5)), "the newest sample of memory is 30s old"),
        (signal((1, "a", NAN), (60, "a", 5)), "the newest sample of memory is 1m 00s old"),
        (signal((30, "a", 5)), ""),
        (signal((3600, "a", 5), (1, "b", 5)), ""),
        (lines(0), "errors has no samples"),
        (lines(2), ""),
    ],
)
def test_weak_evidence_says_why_it_is_weak(seen, why):
    """Nothing, only NaN, and no fresh number are no evidence, also when a fresh NaN hides old numbers."""
    assert seen.weak == why


def test_samples_without_a_time_are_no_evidence():
    """A number of which nobody knows when it was read does not count."""
    seen = signal((1, "a", 5))
    seen.frame.loc[0, "time"] = pd.NaT
    assert seen.weak == "memory has only NaN"
    assert seen.latest.empty


def test_good_evidence_always_has_a_latest_value():
    """A rule that asks for the newest values never gets an empty answer from a signal that is not weak."""
    ages, values = (1, 29, 31, 90), (NAN, 1.0)
    for first in ages:
        for second in ages:
            for one in values:
                for two in values:
                    seen = signal((first, "a", one), (second, "b", two))
                    assert bool(seen.weak) == seen.latest.empty


def test_facts_fit_one_line():
    """The newest values, highest first, at most six series, with the unit; for logs the number of lines."""
    assert signal((1, "a", 512.345), (1, "b", 600)).facts == "memory b 600, a 512.3 MB"
    assert (
        signal(*((1, f"i{n}", n) for n in range(8)), unit="").facts
        == "memory i7 7, i6 6, i5 5, i4 4, i3 3, i2 2 and 2 more"
    )
    assert signal((99, "a", 1)).facts == "memory nothing MB"
    assert lines(3).facts == "errors 3 lines"


def test_the_table_has_one_row_per_series_the_highest_first():
    """Latest, extremes, mean and number of samples, rounded; as many rows as asked for."""
    table = signal((1, "a", 5), (2, "a", 1.23456), (1, "b", 9)).table()
    assert list(table.index) == ["b", "a"]
    assert table.loc["a"].to_dict() == {"latest": 5.0, "min": 1.235, "max": 5.0, "mean": 3.117, "samples": 2.0}
    assert len(signal((1, "a", 5), (1, "b", 9)).table(rows=1)) == 1


def test_the_table_takes_the_newest_value_whatever_the_order_of_the_rows():
    """`latest` is the newest by time, not the last row."""
    assert signal((1, "a", 5), (2, "a", 1)).table().loc["a", "latest"] == 5.0


def test_the_chart_shows_each_series_and_the_limit():
    """One line per series in its own colour, in time order; the limit is drawn with its unit."""
    figure = signal((1, "a", 5), (2, "a", 4), (1, "b", 9)).chart(limit=7)
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert list(figure.data[0].y) == [4.0, 5.0]
    assert [trace.line.color for trace in figure.data] == list(COLORS[:2])
    assert figure.layout.annotations[0].text == "limit 7 MB"
    assert figure.layout.title.text == "memory (MB)"


def test_a_chart_without_unit_or_limit_shows_neither():
    """Nothing is drawn that is not known."""
    figure = signal((1, "a", 5), unit="").chart()
    assert not figure.layout.annotations
    assert figure.layout.title.text == "memory"


def test_a_long_series_is_thinned_and_colours_are_used_again():
    """A chart never holds more than 2,000 points of a series, and a ninth series has a colour."""
    long = signal(*((age, "a", age) for age in range(5000)))
    assert len(long.chart().data[0].x) <= 2000
    many = signal(*((1, str(n), n) for n in range(9))).chart()
    assert many.data[8].line.color == COLORS[0]
