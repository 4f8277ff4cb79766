"""Logs and spans: JSON lines, bounded, in one trace."""

import json
from pathlib import Path

import pytest

from rbkit.clock import FakeClock
from rbkit.sandbox.telemetry import JsonLines, Tracer, iso


def read(path: Path) -> list[dict[str, object]]:
    """Return the records of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_never_grows_beyond_its_bound(tmp_path: Path) -> None:
    """A full file is put aside once; at most two files of about the bound stay, and the newest record is kept."""
    lines = JsonLines(tmp_path / "a.jsonl", max_bytes=1000)
    for number in range(500):
        lines.write({"number": number, "text": "line\nbreak"})
    lines.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"a.jsonl", "a.jsonl.1"} and max(sizes.values()) < 1100
    assert read(tmp_path / "a.jsonl")[-1]["number"] == 499


def test_an_existing_file_is_continued(tmp_path: Path) -> None:
    """A restarted process appends, and its bound counts what was there."""
    for _ in range(2):
        lines = JsonLines(tmp_path / "a.jsonl")
        lines.write({"a": 1})
        lines.close()
    assert len(read(tmp_path / "a.jsonl")) == 2


def test_spans_form_a_trace(tmp_path: Path) -> None:
    """A child names its parent, an error is marked, times are ISO UTC with a Z, durations are milliseconds."""
    clock, lines = FakeClock(), JsonLines(tmp_path / "s.jsonl")
    tracer = Tracer(lines, {"service": "checkout"}, clock)
    with pytest.raises(ValueError, match="no"), tracer.begin("outer") as outer, outer.child("inner"):
        clock.advance(0.25)
        raise ValueError("no")
    lines.close()
    inner, last = read(tmp_path / "s.jsonl")
    assert inner["parent_id"] == last["span_id"] and last["parent_id"] is None
    assert inner["trace_id"] == last["trace_id"] and len(str(last["trace_id"])) == 32
    assert (inner["status"], inner["duration_ms"], inner["start"]) == ("error", 250.0, "2026-01-01T00:00:00.000Z")
    assert iso(clock.now()) == "2026-01-01T00:00:00.250Z"


@pytest.mark.parametrize(
    "header", ["", "x", "00-zz-yy-01", f"00-{'g' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'2' * 16}"]
)
def test_a_forged_trace_header_begins_a_new_trace(tmp_path: Path, header: str) -> None:
    """Only a well-formed header is believed."""
    lines = JsonLines(tmp_path / "s.jsonl")
    assert Tracer(lines, {}).begin("x", header).parent_id is None
    known = Tracer(lines, {}).begin("x", f"00-{'1' * 32}-{'2' * 16}-01")
    assert (known.trace_id, known.parent_id) == ("1" * 32, "2" * 16)
    lines.close()
