"""Every source of metrics, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from pings import pinged
from servers.prometheus import prometheus

from rbkit.adapters.fakes import FakeMetrics
from rbkit.adapters.prometheus import Prometheus
from rbkit.errors import BadAnswer
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame, unpack_frame

QUERY = 'process_resident_memory_bytes{job="sandbox", service="checkout"}'
REAL = 'process_resident_memory_bytes{job="tiny", service="checkout"}'
INSTANCES = [f"checkout-{n}" for n in (1, 2, 3)]
EXPOSED = (
    "".join(
        f'process_resident_memory_bytes{{service="checkout", pod="{name}"}} {1e8 + place}\n'
        for place, name in enumerate(INSTANCES)
    )
    + 'odd{kind="nan"} NaN\nodd{kind="inf"} +Inf\nodd{kind="less"} -Inf\nodd{kind="a\\"b\\\\c\\nd é"} 1\n'
)


def samples() -> pd.DataFrame:
    """Make samples of three instances, newest first, over the last minute."""
    now = datetime.now(UTC)
    rows = [(now - timedelta(seconds=age), 1e8 + age, name) for age in range(60) for name in INSTANCES]
    frame = pd.DataFrame(rows, columns=["time", "value", "instance"])
    return frame.astype({"time": "datetime64[ns, UTC]"})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus behind a path prefix."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), EXPOSED) as url:
        yield url


def answered(url: str, query: str, window: Window, **options: Any) -> pd.DataFrame:
    """Ask a server by the adapter."""

    async def closed() -> Any:
        source = Prometheus(url, **options)
        try:
            return await source.query(query, window)
        finally:
            await source.aclose()

    return asyncio.run(closed())


@pytest.fixture(params=["fake", "sandbox", "prometheus"])
def ask(request: pytest.FixtureRequest) -> Callable[[str, Window], pd.DataFrame]:
    """Ask a source that has samples of `QUERY`, by the label `instance`."""
    if request.param == "fake":
        source = FakeMetrics({QUERY: samples()})
        return lambda query, window: asyncio.run(source.query(query, window))
    if request.param == "sandbox":
        layout = request.getfixturevalue("sandbox")
        return lambda query, window: answered(layout.urls["metrics"], query, window)
    url = request.getfixturevalue("real")
    named = {QUERY: f'label_replace({REAL}, "instance", "$1", "pod", "(.*)")'}
    return lambda query, window: answered(url, named.get(query, query), window)


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
    assert frame["time"].is_monotonic_increasing and set(frame["instance"]) == set(INSTANCES)
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


def test_prometheus_answers_odd_values_and_odd_labels(real, until) -> None:
    """NaN, both infinities, and a label with quotes, a backslash and a line break arrive as they are."""
    until(lambda: not answered(real, "odd", last(30)).empty)
    frame = answered(real, "odd", last(30))
    values = frame.groupby("kind")["value"].last()
    assert values["inf"] == float("inf") and values["less"] == -float("inf") and values['a"b\\c\nd é'] == 1.0
    assert (frame["value"].isna() == (frame["kind"] == "nan")).all() and frame["value"].isna().any()


def test_prometheus_refuses_what_is_wrong_or_too_much(real, until) -> None:
    """A wrong query and a range that is too dense are said in its words; our own caps are said as caps."""
    until(lambda: len(answered(real, REAL, last(30))) >= 3)
    with pytest.raises(BadAnswer, match="400: .*parse error"):
        answered(real, "up{", last(30))
    with pytest.raises(BadAnswer, match="11,000"):
        answered(real, "up", Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), 1.0))
    with pytest.raises(BadAnswer, match="3 series; the limit is 2"):
        answered(real, REAL, last(30), max_series=2)
    with pytest.raises(BadAnswer, match="samples; the limit is 2"):
        answered(real, REAL, last(30), max_points=2)
    assert not answered(real, REAL, last(30), limit=9, tenant="team-a|team-b").empty


@pytest.mark.parametrize(
    ("kind", "named"),
    [("fake", "in memory"), ("sandbox", "without credentials; reads"), ("prometheus", "Prometheus 2.")],
)
def test_ping_says_who_we_are_and_what_we_may_do(kind, named, request) -> None:
    """One line, also against real servers."""
    urls = {
        "sandbox": lambda: request.getfixturevalue("sandbox").urls["metrics"],
        "prometheus": lambda: request.getfixturevalue("real"),
    }
    source = FakeMetrics({}) if kind == "fake" else Prometheus(urls[kind]())
    assert named in pinged(source)
