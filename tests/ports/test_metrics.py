"""Every source of metrics, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from rbkit.adapters.fakes import FakeMetrics
from rbkit.adapters.prometheus import Prometheus
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame, unpack_frame

QUERY = 'process_resident_memory_bytes{job="sandbox", service="checkout"}'


def samples() -> pd.DataFrame:
    """Make samples of three instances, newest first, over the last minute."""
    now = datetime.now(UTC)
    rows = [(now - timedelta(seconds=age), 1e8 + age, f"checkout-{n}") for age in range(60) for n in (1, 2, 3)]
    frame = pd.DataFrame(rows, columns=["time", "value", "instance"])
    return frame.astype({"time": "datetime64[ns, UTC]"})


@pytest.fixture(params=["fake", "sandbox"])
def ask(request: pytest.FixtureRequest) -> Callable[[str, Window], pd.DataFrame]:
    """Ask a source that has samples of `QUERY`."""
    if request.param == "fake":
        source = FakeMetrics({QUERY: samples()})
        return lambda query, window: asyncio.run(source.query(query, window))
    layout = request.getfixturevalue("sandbox")

    async def closed(query: str, window: Window) -> Any:
        source = Prometheus(layout.urls["metrics"])
        try:
            return await source.query(query, window)
        finally:
            await source.aclose()

    return lambda query, window: asyncio.run(closed(query, window))


def last(seconds: float) -> Window:
    """Take the window of the last seconds."""
    now = datetime.now(UTC)
    return Window(now - timedelta(seconds=seconds), now, 1.0)


def test_samples_are_a_tidy_table(ask, until) -> None:
    """Columns, types and order are the same everywhere, every sample lies in the window, labels are text."""
    until(lambda: ask(QUERY, last(30)).get("instance", pd.Series(dtype=str)).nunique() == 3)
    window = last(30)
    frame = ask(QUERY, window)
    assert list(frame.columns[:2]) == ["time", "value"]
    assert [str(kind) for kind in frame.dtypes[:2]] == ["datetime64[ns, UTC]", "float64"]
    assert frame["time"].is_monotonic_increasing and set(frame["instance"]) == {f"checkout-{n}" for n in (1, 2, 3)}
    slack = timedelta(milliseconds=1)
    assert window.start - slack <= frame["time"].min() and frame["time"].max() <= window.end + slack
    assert (frame["value"] > 1e6).all() and list(frame.index) == list(range(len(frame)))


def test_nothing_that_matches_is_an_empty_table(ask) -> None:
    """Columns and types are there, rows are not."""
    frame = ask('no_such_metric{job="sandbox"}', last(30))
    assert frame.empty and [str(kind) for kind in frame.dtypes[:2]] == ["datetime64[ns, UTC]", "float64"]


def test_answers_survive_the_tape(ask, rig) -> None:
    """What was answered comes back from the tape as the same table."""
    frame = ask(QUERY, last(30))
    data = pack_frame(frame)
    assert keep(rig.store, data)
    pd.testing.assert_frame_equal(unpack_frame(data), frame, check_dtype=False)
