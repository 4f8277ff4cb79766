"""Log files are hostile: whatever stands in a line, reading goes on."""

import asyncio
import bz2
import gzip
import json
import lzma
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pings import pinged

from rbkit.adapters import jsonl_logs
from rbkit.adapters.jsonl_logs import JsonlLogs, _Reader
from rbkit.costs import counted
from rbkit.errors import BadAnswer, NotFound, SettingsError, Unreachable
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame
from rbkit.values import human_bytes

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


def many(amount: int, start: int = 0) -> str:
    """Write lines one second apart, the newest last, each with its number."""
    times = (NOW - timedelta(seconds=start + amount - n) for n in range(amount))
    return "".join(line(time=time.isoformat(), message=f"{n}", pad="x" * 150) + "\n" for n, time in enumerate(times))


def test_a_large_file_is_read_from_its_end(tmp_path, monkeypatch) -> None:
    """Only as much is read as the window needs, in blocks, and lines on the border of two blocks are whole."""
    (tmp_path / "a.jsonl").write_text(many(2_000))
    monkeypatch.setattr(jsonl_logs, "_BLOCK", 1_000)
    monkeypatch.setattr(jsonl_logs, "_SLACK", timedelta(seconds=10))
    blocks = []
    monkeypatch.setattr(
        _Reader, "_blocks", lambda self, real=_Reader._blocks: (blocks.append(b) or b for b in real(self))
    )
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 1_000))
    assert frame["message"].tolist() == [str(n) for n in range(1_700, 2_000)]
    assert sum(map(len, blocks)) < 120_000 < (tmp_path / "a.jsonl").stat().st_size


def test_reading_ends_when_there_are_lines_enough(tmp_path, monkeypatch) -> None:
    """A limit saves reading: older lines would be left out anyway."""
    (tmp_path / "a.jsonl").write_text(many(250))
    monkeypatch.setattr(jsonl_logs, "_BLOCK", 1_000)
    monkeypatch.setattr(jsonl_logs, "_SLACK", timedelta(seconds=3))
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl"), max_bytes=10_000).search({}, WINDOW, 5))
    assert frame["message"].tolist() == ["245", "246", "247", "248", "249"]


def test_what_lies_beyond_the_limit_of_bytes_is_told(tmp_path) -> None:
    """The newest part is read, a line that is cut is left out, and the last line says that older ones are missing."""
    (tmp_path / "a.jsonl").write_text(many(200))
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl"), max_bytes=5_000).search({}, WINDOW, 100))
    shown = frame["message"].tolist()
    assert shown[:-1] == [str(n) for n in range(200 - len(shown) + 1, 200)] and 10 < len(shown) < 25
    assert shown[-1].startswith("rbkit has not read everything; left out: the oldest ")
    assert frame.iloc[-1]["level"] == "warning" and frame["time"].iloc[-1] == NOW


def test_nothing_is_told_when_the_window_was_read_whole(tmp_path) -> None:
    """Older lines than those that are asked for are not missing."""
    (tmp_path / "a.jsonl").write_text(many(900))
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl"), max_bytes=100_000).search({}, WINDOW, 1_000))
    assert frame["message"].tolist() == [str(n) for n in range(600, 900)]


def test_the_newest_files_are_read_first(tmp_path) -> None:
    """Where not all can be read, the file that was written last is; one that was not written since is not missed."""
    for name, age in (("a", 10), ("b", 20), ("c", 3_600)):
        (tmp_path / f"{name}.jsonl").write_text(line(message=name) + "\n")
        moment = NOW.timestamp() - age
        os.utime(tmp_path / f"{name}.jsonl", (moment, moment))
    size = (tmp_path / "a.jsonl").stat().st_size
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl"), max_bytes=size).search({}, WINDOW, 10))
    assert frame["message"].tolist() == [
        "a",
        f"rbkit has not read everything; left out: the oldest {human_bytes(size)}.",
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_that_is_too_long_hides_no_other_and_is_told(tmp_path, monkeypatch, place) -> None:
    """A line of megabytes costs no memory; wherever it stands it is left out, counted, and told in the last line."""
    monkeypatch.setattr(jsonl_logs, "_BLOCK", 400)
    monkeypatch.setattr(jsonl_logs, "_LONGEST", 500)
    lines = [line(message=f"{n}") for n in range(3)]
    lines[place] = line(message="y" * 2_000)
    frame = search(tmp_path, *lines)
    assert frame["message"].tolist()[:2] == [str(n) for n in range(3) if n != place]
    assert frame["message"].tolist()[2].startswith("rbkit has not read everything; left out: 1 lines longer than")


def test_a_line_that_just_fits_is_read(tmp_path, monkeypatch) -> None:
    """The limit itself is allowed, one byte more is not."""
    good = line(message="z" * 300)
    monkeypatch.setattr(jsonl_logs, "_LONGEST", len(good))
    assert search(tmp_path, good)["message"].tolist() == ["z" * 300]
    monkeypatch.setattr(jsonl_logs, "_LONGEST", len(good) - 1)
    assert "left out" in search(tmp_path, good)["message"].tolist()[0]


def test_an_answer_that_is_too_large_keeps_its_newest_lines(tmp_path) -> None:
    """The environment file's limit of bytes holds for files too; that older lines are missing is told."""
    with counted(2_000):
        frame = search(tmp_path, *many(100).splitlines(), limit=1_000)
    assert frame["message"].tolist()[-2] == "99" and 3 < len(frame) < 12
    assert re.search(r"\d+ older lines that would have made the answer too large", frame["message"].tolist()[-1])


def test_the_note_counts_towards_the_limit(tmp_path) -> None:
    """Never more lines come than were asked for."""
    (tmp_path / "a.jsonl").write_text(many(200))
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl"), max_bytes=1_000).search({}, WINDOW, 4))
    assert len(frame) == 4 and "left out" in frame["message"].tolist()[-1]


def test_lines_of_one_moment_keep_their_order(tmp_path) -> None:
    """Reading backwards does not turn them round."""
    assert search(tmp_path, *(line(message=f"{n}") for n in range(9)), limit=5)["message"].tolist() == list("45678")


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (gzip.compress(b"x", mtime=0), "gzip"),
        (lzma.compress(b"x"), "xz"),
        (bz2.compress(b"x"), "bzip2"),
        (b"\x28\xb5\x2f\xfd00", "zstd"),
    ],
)
def test_compressed_files_are_refused_clearly(tmp_path, packed, kind) -> None:
    """They are neither silence nor garbage, whatever they are called."""
    (tmp_path / "a.jsonl").write_text(line())
    (tmp_path / "a.jsonl.1").write_bytes(packed)
    with pytest.raises(BadAnswer, match=rf"a\.jsonl\.1 is compressed by {kind}"):
        asyncio.run(JsonlLogs(str(tmp_path / "a.jsonl*")).search({}, WINDOW, 10))


def test_a_pipe_is_no_log(tmp_path) -> None:
    """It would be waited for for ever."""
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(Unreachable, match="no regular file"):
        asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 10))


def test_a_file_that_fails_while_it_is_read_is_an_error(tmp_path, monkeypatch) -> None:
    """A broken disk is not mistaken for silence."""

    def broken(self: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_Reader, "_blocks", broken)
    with pytest.raises(Unreachable, match="Input/output error"):
        search(tmp_path, line())


def test_too_many_files_are_refused(tmp_path, monkeypatch) -> None:
    """A pattern that matches a whole disk is not read."""
    monkeypatch.setattr(jsonl_logs, "_MOST_FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text(line())
    with pytest.raises(BadAnswer, match="matches 3 files"):
        asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 10))


@pytest.mark.parametrize("moment", ["before the first is opened", "between the two"])
def test_a_rotation_neither_hides_nor_repeats_lines(tmp_path, monkeypatch, moment) -> None:
    """However files are renamed while they are opened, each line comes once."""
    (tmp_path / "a.jsonl").write_text(line(message="new") + "\n")
    (tmp_path / "a.jsonl.1").write_text(line(message="old") + "\n")
    real, calls = jsonl_logs._open, []

    def rotating(name: str, opened: Any) -> Any:
        calls.append(name)
        if len(calls) == (1 if moment == "before the first is opened" else 2):
            (tmp_path / "a.jsonl.1").rename(tmp_path / "a.jsonl.2")
            (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.1")
        return real(name, opened)

    monkeypatch.setattr(jsonl_logs, "_open", rotating)
    frame = asyncio.run(JsonlLogs(str(tmp_path / "a.jsonl*")).search({}, WINDOW, 10))
    assert sorted(frame["message"]) == ["new", "old"]


def test_rotation_without_end_is_given_up(tmp_path, monkeypatch) -> None:
    """Files that appear faster than they are opened do not keep an operator waiting."""
    names = iter([[str(tmp_path / f"{n}.jsonl")] for n in range(9)])
    for n in range(9):
        (tmp_path / f"{n}.jsonl").write_text(line(message=f"{n}") + "\n")
    monkeypatch.setattr(jsonl_logs, "_names", lambda pattern: next(names))
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 10))
    assert sorted(frame["message"]) == ["0", "1", "2"]


def test_who_has_gone_is_not_read_for(tmp_path) -> None:
    """When the caller gives up the thread does too."""
    (tmp_path / "a.jsonl").write_text(many(20))
    stop = threading.Event()
    stop.set()
    assert JsonlLogs(str(tmp_path / "*.jsonl"))._search({}, WINDOW, 10, stop).empty


def test_a_file_that_is_cut_while_it_is_read_ends_there(tmp_path, monkeypatch) -> None:
    """Copying and truncating, as some rotations do, loses lines and breaks nothing."""
    (tmp_path / "a.jsonl").write_text(many(200))
    monkeypatch.setattr(jsonl_logs, "_BLOCK", 1_000)
    real = _Reader._blocks

    def cutting(self: Any) -> Any:
        for block in real(self):
            os.truncate(tmp_path / "a.jsonl", 0)
            yield block

    monkeypatch.setattr(_Reader, "_blocks", cutting)
    frame = asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search({}, WINDOW, 100))
    assert frame["message"].tolist() in (
        ["196", "197", "198", "199"],
        ["197", "198", "199"],
        ["195", "196", "197", "198", "199"],
    )


def test_a_query_is_refused(tmp_path) -> None:
    """Files have fields, not a language."""
    with pytest.raises(SettingsError, match="has no queries"):
        asyncio.run(JsonlLogs(str(tmp_path / "*.jsonl")).search("level=error", WINDOW, 10))


def test_a_byte_order_mark_hides_no_line(tmp_path) -> None:
    """Some programs begin a file with one."""
    assert search(tmp_path, "\ufeff" + line())["message"].tolist() == ["good"]


def test_ping_names_what_is_missing(tmp_path) -> None:
    """No file that matches is an error: a slip in the path would look like a service without a word."""
    source = JsonlLogs(str(tmp_path / "*.jsonl"))
    with pytest.raises(NotFound, match="No file matches"):
        pinged(source)
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(Unreachable, match="Is a directory"):
        pinged(source)
    (tmp_path / "a.jsonl").rmdir()
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert pinged(source).startswith("1 file(s) of 3 B match ")
