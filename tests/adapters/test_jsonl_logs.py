"""Log files are hostile: whatever stands in a line, reading goes on."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rbkit.adapters.jsonl_logs import JsonlLogs
from rbkit.errors import Unreachable
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)


def search(folder: Path, *lines: str, limit: int = 10, **fields: str) -> Any:
    """Search one file with these lines."""
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return asyncio.run(JsonlLogs(str(folder / "*.jsonl"), **fields).search({}, WINDOW, limit))


def line(**more: Any) -> str:
    """Write a good line."""
    return json.dumps({"time": NOW.isoformat(), "level": "info", "message": "good", **more})


@pytest.mark.parametrize(
    "bad",
    ["", "{", "null", "3", '"x"', "[]", "{}", '{"time": 3}', '{"time": "today"}', '{"time": null}', "\x00",
     "[" * 100_000, line()[:-5], '{"time": {}}'],
)  # fmt: skip
def test_a_line_that_is_none_is_left_out(tmp_path, bad) -> None:
    """Half-written lines and what is no log line do not hide the good ones."""
    assert search(tmp_path, bad, line(), bad)["message"].tolist() == ["good"]


def test_a_time_without_zone_is_utc(tmp_path) -> None:
    """Times with other zones are turned into UTC."""
    frame = search(tmp_path, line(time="2026-01-01T11:59:00"), line(time="2026-01-01T13:59:30+02:00"))
    assert frame["time"].tolist() == [NOW - timedelta(seconds=60), NOW - timedelta(seconds=30)]


def test_the_fields_have_the_names_that_are_set(tmp_path) -> None:
    """Other names for time, level and message; a missing one is empty."""
    frame = search(tmp_path, json.dumps({"ts": NOW.isoformat(), "msg": "hello"}), time="ts", level="lvl", message="msg")
    assert frame[["level", "message"]].values.tolist() == [["", "hello"]]


def test_hostile_texts_can_be_kept_on_the_tape(tmp_path, rig) -> None:
    """Lone surrogates, huge numbers and deep nesting come out as something that the journal can hold."""
    nested = json.dumps([[[[[{"a": 1}]]]]])
    lines = [line(message="\ud800 \U0001f600"), line(big=10**40), f'{{"time": "{NOW.isoformat()}", "deep": {nested}}}']
    frame = search(tmp_path, *lines)
    assert keep(rig.store, pack_frame(frame)) and "? \U0001f600" in frame["message"].tolist()


def test_bytes_that_are_no_text_are_replaced(tmp_path) -> None:
    """A line in another encoding is shown as well as can be."""
    (tmp_path / "a.jsonl").write_bytes(line(message="X").encode().replace(b"X", b"\xff"))
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 10))
    assert frame["message"].tolist() == ["�"]


def test_no_file_is_an_empty_table(tmp_path) -> None:
    """Without a file there are no lines; the columns are there."""
    source = JsonlLogs(str(tmp_path / "*.jsonl"))
    frame = asyncio.run(source.search({}, WINDOW, 10))
    asyncio.run(source.aclose())
    assert frame.empty and list(frame.columns) == ["time", "level", "message", "attributes"]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path) -> None:
    """What cannot be read is not mistaken for silence."""
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(Unreachable, match=r"a\.jsonl cannot be read"):
        asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 10))
