"""SQL sources keep the promises of metrics, in SQLite and in a real PostgreSQL."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from pings import pinged
from servers.postgres import postgres

from rbkit.adapters.sql import SqlMetrics
from rbkit.environment import SignalSettings
from rbkit.errors import BadAnswer, Refused
from rbkit.ports import Bound, Window
from rbkit.queries import render

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
ROWS = [
    (NOW - timedelta(minutes=age), latency, service, zone)
    for age, latency, service, zone in [
        (9, 9.0, "checkout", "a"), (1, 0.25, "checkout", "b"), (2, 0.5, "checkout", "a"), (5, 0.125, "checkout", "a"),
        (0, None, "checkout", None), (3, 7.0, "pay' OR 1=1 --", "a"),
    ]
]  # fmt: skip
TABLE = "CREATE TABLE requests (at {time}, latency {number}, service text, zone text)"
QUERY = (
    "SELECT at AS time, latency AS value, zone FROM requests WHERE service = $service AND at BETWEEN :start AND :end"
)
Ask = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with `ROWS`."""
    with postgres(tmp_path_factory.mktemp("postgres")) as url:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute(TABLE.format(time="timestamptz", number="numeric"))
            connection.cursor().executemany("INSERT INTO requests VALUES (%s, %s, %s, %s)", ROWS)
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with `ROWS`."""
    if request.param == "postgres":
        return request.getfixturevalue("database")
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute(TABLE.format(time="text", number="real"))
        rows = [(f"{at:%Y-%m-%d %H:%M:%S.%f}", *more) for at, *more in ROWS]
        connection.executemany("INSERT INTO requests VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
def ask(url: str) -> Ask:
    """Render a query, ask it, and close the source."""

    def work(query: str = QUERY, *, options: Any = None, **values: Any) -> pd.DataFrame:
        source = SqlMetrics(url, **options or {})
        bound = render(SignalSettings(source="s", query=query), values, source.language)
        try:
            return asyncio.run(source.query(bound, WINDOW))
        finally:
            asyncio.run(source.aclose())

    return work


def test_rows_are_a_tidy_table(ask) -> None:
    """Columns, types and order are those of every source of metrics; NULL is NaN in numbers and empty in labels."""
    frame = ask(service="checkout")
    assert list(frame.columns) == ["time", "value", "zone"]
    assert [str(kind) for kind in frame.dtypes] == ["datetime64[ns, UTC]", "float64", "str"]
    assert frame["time"].tolist() == [NOW - timedelta(minutes=age) for age in (5, 2, 1, 0)]
    assert frame["value"].tolist()[:3] == [0.125, 0.5, 0.25] and frame["value"].isna().tolist()[3]
    assert frame["zone"].tolist() == ["a", "a", "b", ""] and list(frame.index) == [0, 1, 2, 3]


def test_nothing_that_matches_is_an_empty_table(ask) -> None:
    """Columns and types are there, rows are not."""
    frame = ask(service="no such")
    assert frame.empty and [str(kind) for kind in frame.dtypes] == ["datetime64[ns, UTC]", "float64", "str"]


@pytest.mark.parametrize(
    "label", ["' OR 1=1 --", "checkout'", "x' UNION SELECT 1,2,3 --", "$service", ":start", "%s", "\\"]
)
def test_a_hostile_label_is_only_a_value(ask, label) -> None:
    """HOSTILE 5: it matches nothing, as there is no such service."""
    assert ask(service=label).empty


def test_a_value_is_compared_as_it_is(ask) -> None:
    """A service that is called like an attack is found by its name."""
    assert ask(service="pay' OR 1=1 --")["value"].tolist() == [7.0]


def test_without_a_time_the_number_is_of_now(ask) -> None:
    """A count has the time of the window's end; text that looks like binds or percent signs stays text."""
    query = "SELECT count(*) AS value, ':start %s %(x)s 100% \\:a' AS \"no:te\" FROM requests -- :y\nWHERE latency > $x"
    frame = ask(query, x=1)
    assert (frame["time"].tolist(), frame["value"].tolist()) == ([NOW], [2.0])
    assert frame["no:te"].tolist() == [":start %s %(x)s 100% \\:a"]


def test_numbers_are_bound_as_numbers(ask) -> None:
    """A limit and a comparison take a number as it is."""
    assert len(ask("SELECT latency AS value FROM requests WHERE latency >= $low LIMIT $most", low=0.25, most=2)) == 2


def test_nothing_can_be_written(ask, url) -> None:
    """A statement that gets past the check of its words is refused by the transaction, and changes nothing."""
    source = SqlMetrics(url)
    for statement in ("DELETE FROM requests", "CREATE TABLE x (a int)", "UPDATE requests SET latency = 1"):
        with pytest.raises((Refused, BadAnswer)):
            asyncio.run(source.query(Bound(statement, {}), WINDOW))
    assert ask("SELECT count(*) AS value FROM requests WHERE latency > 6")["value"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT nothing AS value FROM requests", "did not understand the query: .*nothing"),
        ("SELECT 1 AS number", "one `value` is needed"),
        ("SELECT 1 AS value, 2 AS a, 3 AS a", "none twice"),
        ("SELECT 'x' AS value", "`value` is 'x', not a number"),
        ("SELECT 1 AS value, 'today' AS time", "no series"),
        ("SELECT 1 AS value, NULL AS time", "`time` is None, not a time"),
        ("SELECT 1 AS value FROM requests, requests AS b", "more than 30 rows"),
    ],
)
def test_an_answer_that_is_no_series_says_why(ask, query, why) -> None:
    """The operator learns what is wrong with the query; no error of the driver comes through."""
    with pytest.raises(BadAnswer, match=why):
        ask(query, options={"max_rows": 30})


def test_a_time_may_be_seconds(ask) -> None:
    """A number is seconds since 1970."""
    assert ask(f"SELECT 1 AS value, {NOW.timestamp():.1f} AS time")["time"].tolist() == [NOW]


def test_ping_says_who_we_are_and_what_we_may_do(url) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    said = pinged(SqlMetrics(url))
    assert "SQLite 3" in said if url.startswith("sqlite") else "PostgreSQL 1" in said and "as " in said
