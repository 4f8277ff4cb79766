"""Every source of logs, in memory or in files, keeps the same promises."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rbkit.adapters.fakes import FakeLogs
from rbkit.adapters.jsonl_logs import JsonlLogs
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
LINES = [
    {"time": NOW - timedelta(minutes=age), "level": level, "message": f"{level} {age}", "service": "checkout", "n": age}
    for age, level in [(9, "error"), (1, "info"), (4, "error"), (2, "error"), (0, "error"), (5, "info")]
]


@pytest.fixture(params=["fake", "files"])
def search(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Search a source that has `LINES`."""
    source: Any = FakeLogs(LINES)
    if request.param == "files":
        for place, name in enumerate(("a", "b")):
            rows = [json.dumps(line, default=datetime.isoformat) + "\n" for line in LINES[place::2]]
            (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        source = JsonlLogs(str(tmp_path / "*.jsonl"))
    return lambda where=None, limit=10: asyncio.run(source.search(where or {}, WINDOW, limit))


def test_lines_come_in_order_and_in_the_window(search) -> None:
    """Newest last, both ends of the window belong to it, older lines do not; types are the same everywhere."""
    frame = search()
    assert frame["message"].tolist() == ["info 5", "error 4", "error 2", "info 1", "error 0"]
    assert list(frame.columns) == ["time", "level", "message", "attributes"]
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame["attributes"][0] == {"service": "checkout", "n": 5}


def test_fields_must_match_exactly(search) -> None:
    """Known fields and attributes select; numbers by their text; a field that is not there matches nothing."""
    assert search({"level": "error", "service": "checkout"})["message"].tolist() == ["error 4", "error 2", "error 0"]
    assert search({"n": "4"})["message"].tolist() == ["error 4"]
    assert search({"service": "check"}).empty and search({"nothing": "x"}).empty


def test_the_newest_lines_are_kept(search) -> None:
    """A limit leaves out the oldest."""
    assert search(limit=2)["message"].tolist() == ["info 1", "error 0"]


def test_nothing_that_matches_is_an_empty_table(search) -> None:
    """Columns and types are there, rows are not."""
    frame = search({"level": "fatal"})
    assert list(frame.columns) == ["time", "level", "message", "attributes"]
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"


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
