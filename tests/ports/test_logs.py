"""Every source of logs, in memory, in files or on a server, keeps the same promises.

With RBKIT_LOKI_URL or RBKIT_ELASTICSEARCH_URL set, a real server is asked instead of the double.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pandas as pd
import pytest
from pings import pinged

from rbkit.adapters.elasticsearch import Elasticsearch
from rbkit.adapters.fakes import FakeLogs
from rbkit.adapters.jsonl_logs import JsonlLogs
from rbkit.adapters.loki import Loki
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame
from rbkit.testing.elasticsearch import ElasticsearchDouble
from rbkit.testing.loki import LokiDouble

NOW = datetime.now(UTC).replace(microsecond=0)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
LINES = [
    {"time": NOW - timedelta(minutes=age), "level": level, "message": f"{level} {age}", "service": "checkout", "n": age}
    for age, level in [(9, "error"), (1, "info"), (4, "error"), (2, "error"), (0, "error"), (5, "info")]
]
NASTY = ['a"b', "a\\", "a\\nb", "a\nb", '", level="info', "é\u2028{}", "$(id)", '" or 1=1', "*", "a | json"]
Search = Callable[..., pd.DataFrame]


@pytest.fixture(params=["fake", "files", "loki", "elasticsearch"])
def source_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[list[dict[str, Any]]], Any]]:
    """Make a source that has given lines."""
    with_lines = {"fake": lambda lines: FakeLogs(lines), "files": lambda lines: in_files(lines, tmp_path)}
    if request.param in with_lines:
        yield with_lines[request.param]
        return
    double, fill = (LokiDouble, in_loki) if request.param == "loki" else (ElasticsearchDouble, in_elasticsearch)
    url = os.environ.get(f"RBKIT_{request.param.upper()}_URL")
    if url:
        yield lambda lines: fill(lines, url)
        return
    with double() as server:
        yield lambda lines: fill(lines, server.url)


def in_files(lines: list[dict[str, Any]], folder: Path) -> JsonlLogs:
    """Write lines into two files."""
    for place, name in enumerate(("a", "b")):
        rows = [json.dumps(line, default=datetime.isoformat) + "\n" for line in lines[place::2]]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    return JsonlLogs(str(folder / "*.jsonl"))


def in_loki(lines: list[dict[str, Any]], url: str) -> Any:
    """Push lines to Loki, in a stream of their own."""
    own, values = uuid4().hex, []
    for line in lines:
        said = {key: value for key, value in line.items() if key not in {"time", "service"}}
        values.append([str(int(line["time"].timestamp()) * 10**9), json.dumps(said)])
    pushed = {"streams": [{"stream": {"service": "checkout", "own": own}, "values": values}]}
    httpx2.post(f"{url}/loki/api/v1/push", json=pushed, trust_env=False).raise_for_status()
    return Without(Loki(url, select={"own": own}, page=3), {"own", "detected_level", "service_name"})


def in_elasticsearch(lines: list[dict[str, Any]], url: str) -> Elasticsearch:
    """Write lines into an index of their own."""
    index, keyword = f"rbkit-{uuid4().hex}", {"type": "keyword"}
    types = {"time": {"type": "date"}, "n": {"type": "long"}, **dict.fromkeys(("level", "service", "user"), keyword)}
    with httpx2.Client(base_url=url, trust_env=False) as client:
        client.put(f"/{index}", json={"mappings": {"properties": types}}).raise_for_status()
        for place, line in enumerate(lines):
            body = json.loads(json.dumps(line, default=datetime.isoformat))
            client.put(f"/{index}/_doc/{place}", params={"refresh": "true"}, json=body).raise_for_status()
    return Elasticsearch(url, index, time="time", level="level", page=3)


class Without:
    """A source whose answers lack the attributes that a server or the test itself has added."""

    def __init__(self, source: Any, names: set[str]) -> None:
        self._source, self._names = source, names

    async def search(self, *asked: Any) -> pd.DataFrame:
        """Search, and leave out these attributes."""
        frame: pd.DataFrame = await self._source.search(*asked)
        frame["attributes"] = frame["attributes"].map(lambda a: {k: v for k, v in a.items() if k not in self._names})
        return frame

    async def ping(self) -> str:
        """Ping the source."""
        return str(await self._source.ping())

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()


@pytest.fixture
def search_in(source_of: Callable[[list[dict[str, Any]]], Any]) -> Iterator[Callable[[list[dict[str, Any]]], Search]]:
    """Make a source that has given lines, and search it."""
    with asyncio.Runner() as runner:
        made: list[Any] = []

        def searching(lines: list[dict[str, Any]]) -> Search:
            source = source_of(lines)
            made.append(source)
            return lambda where=None, limit=10: runner.run(source.search(where or {}, WINDOW, limit))

        yield searching
        for source in made:
            runner.run(source.aclose())


@pytest.fixture
def search(search_in: Callable[[list[dict[str, Any]]], Search]) -> Search:
    """Search a source that has `LINES`."""
    return search_in(LINES)


def test_lines_come_in_order_and_in_the_window(search) -> None:
    """Newest last, both ends of the window belong to it, older lines do not; types are the same everywhere."""
    frame = search()
    assert frame["message"].tolist() == ["info 5", "error 4", "error 2", "info 1", "error 0"]
    assert list(frame.columns) == ["time", "level", "message", "attributes"]
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame["time"].tolist()[0] == NOW - timedelta(minutes=5) and frame["level"].tolist()[:2] == ["info", "error"]
    assert frame["attributes"][0] == {"service": "checkout", "n": 5}


def test_fields_must_match_exactly(search) -> None:
    """Known fields and attributes select; numbers by their text; a field that is not there matches nothing."""
    assert search({"level": "error", "service": "checkout"})["message"].tolist() == ["error 4", "error 2", "error 0"]
    assert search({"n": "4"})["message"].tolist() == ["error 4"]
    assert search({"service": "check"}).empty and search({"nothing": "x"}).empty


def test_the_newest_lines_are_kept(search) -> None:
    """A limit leaves out the oldest."""
    assert search(limit=2)["message"].tolist() == ["info 1", "error 0"]
    assert search(limit=3)["message"].tolist() == ["error 2", "info 1", "error 0"]


def test_nothing_that_matches_is_an_empty_table(search) -> None:
    """Columns and types are there, rows are not."""
    frame = search({"level": "fatal"})
    assert list(frame.columns) == ["time", "level", "message", "attributes"]
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"


def test_a_value_never_becomes_more_than_a_value(search_in) -> None:
    """Quotes, operators and line breaks find the lines that have them, no other, and arrive as they were written."""
    lines = [{"time": NOW, "level": "info", "message": text, "service": "checkout", "user": text} for text in NASTY]
    search = search_in(lines)
    for text in NASTY:
        assert search({"user": text})["message"].tolist() == [text]
        assert search({"user": f"{text}x"}).empty


def test_lines_of_one_moment_are_all_there(search_in) -> None:
    """Whatever is asked for at once, none of several lines of one moment is lost or comes twice."""
    moments = [NOW - timedelta(seconds=place // 2) for place in range(5)]
    lines = [
        {"time": moment, "level": "info", "message": f"m{place}", "service": "checkout", "n": place}
        for place, moment in enumerate(moments)
    ]
    assert sorted(search_in(lines)()["message"]) == ["m0", "m1", "m2", "m3", "m4"]


def test_answers_can_be_kept_on_the_tape(search, rig) -> None:
    """Lines with attributes, and none at all, can be recorded."""
    assert keep(rig.store, pack_frame(search())) != keep(rig.store, pack_frame(search({"level": "fatal"})))


def test_the_sandbox_writes_lines_that_can_be_read(sandbox, until) -> None:
    """The real services' logs are read as they are written."""
    source = JsonlLogs(str(sandbox.home / "logs" / "*.jsonl"))

    def newest() -> pd.DataFrame:
        now = datetime.now(UTC)
        return asyncio.run(source.search({"service": "checkout"}, Window(now - timedelta(minutes=5), now, 1.0), 5))

    until(lambda: len(newest()) > 0)
    assert newest()["level"].iloc[-1] in {"info", "warning", "error"} and newest()["message"].iloc[-1]


def test_ping_says_who_we_are_and_what_we_may_do(source_of, request) -> None:
    """One line that names the system, and that we read."""
    named = {"fake": "in memory", "files": "2 file(s)", "loki": "Loki 3", "elasticsearch": "without credentials"}
    assert named[request.node.callspec.params["source_of"]] in pinged(source_of(LINES))
