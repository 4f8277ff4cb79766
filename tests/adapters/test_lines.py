"""Lines of every kind become tables that the record can hold, whatever is in them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit.adapters.lines import fields, inside, matches, moment, nanoseconds, plain, tidy
from rbkit.adapters.spans import same_trace, trace_id
from rbkit.errors import ParameterError, SettingsError
from rbkit.ports import LINES, Window
from rbkit.tape import pack_frame

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)


def line(time: int, **more: Any) -> dict[str, Any]:
    """Make a log line."""
    return {"time": time, "level": "info", "message": str(time), "attributes": {}} | more


@pytest.mark.parametrize("kind", sorted(LINES))
def test_no_lines_are_an_empty_table(kind) -> None:
    """Every kind has its columns and types all the same."""
    frame = tidy(kind, [], 5)
    assert tuple(frame.columns) == LINES[kind] and str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame.empty and ("duration_ms" not in frame or str(frame["duration_ms"].dtype) == "float64")
    assert pack_frame(frame)["rows"] == []


def test_the_newest_lines_are_kept_in_order() -> None:
    """Lines of one moment keep the order in which they came; a limit of nothing keeps nothing."""
    rows = [line(30, message="b"), line(10), line(30, message="c"), line(20)]
    assert tidy("logs", rows, 3)["message"].tolist() == ["20", "b", "c"]
    assert tidy("logs", rows, 9)["time"].astype("int64").tolist() == [10, 20, 30, 30]
    assert tidy("logs", rows, 0).empty


@pytest.mark.parametrize("time", [2**63, -(2**70), "x", None, 1 << 80])
def test_a_time_that_no_table_holds_is_an_error(time) -> None:
    """The adapter says that the answer cannot be used."""
    with pytest.raises((ValueError, TypeError)):
        tidy("logs", [line(time)], 5)


@settings(derandomize=True, max_examples=200)
@given(JSON, st.text(st.characters()))
def test_whatever_a_line_holds_can_be_recorded(value, text) -> None:
    """Broken characters, numbers beyond 64 bits, nesting: the table can be written; what is usual stays."""
    frame = tidy("logs", [line(1, message=text, level=text, attributes={"a": value})], 5)
    assert pack_frame(frame)["rows"][0][0] is not None
    if text.isascii():
        assert frame["message"][0] == text


def test_what_cannot_be_held_is_written_as_text() -> None:
    """Only that; everything else is kept."""
    deep: Any = "x"
    for _ in range(50):
        deep = [deep]
    assert plain({"a": 2**64, "b": [1, None, True, 1.5, "é"], "c": 10**1000, "\ud800": "\udfff"}) == {
        "a": "1.84467e+19", "b": [1, None, True, 1.5, "é"], "c": "beyond all bounds", "?": "?",
    }  # fmt: skip
    assert plain(2**63 - 1) == 2**63 - 1 and plain(-(2**63)) == -(2**63)
    assert "…" in str(plain(deep))


def test_a_query_is_no_selection() -> None:
    """A source without queries says so; a broken character is refused before anything is asked."""
    assert fields({"a": "b"}, "It") == {"a": "b"}
    with pytest.raises(SettingsError, match="It has no queries"):
        fields("a=b", "It")
    for where in ({"a": "\ud800"}, {"\ud800": "a"}):
        with pytest.raises(ParameterError, match="broken character"):
            fields(where, "It")


def test_values_are_compared_by_their_text() -> None:
    """Columns first, then attributes; what is not there, or is null, equals nothing."""
    row = line(1, attributes={"n": 4, "on": True, "off": False, "none": None, "level": "other"})
    for where in ({"level": "info"}, {"n": "4"}, {"on": "true", "off": "false"}, {}):
        assert matches(row, where)
    for where in ({"level": "other"}, {"n": "5"}, {"on": "True"}, {"none": "None"}, {"x": ""}, {"n": "4", "x": "y"}):
        assert not matches(row, where)


def test_moments_are_exact() -> None:
    """To the microsecond, in any zone; both ends of a window belong to it; a moment without a zone is none."""
    text = "2026-01-01T12:00:00.123456+02:00"
    assert moment(text) == 1767261600123456000
    assert nanoseconds(datetime(2026, 1, 1, 12, 0, 0, 123456, timezone(timedelta(hours=2)))) == moment(text)
    assert moment("2026-01-01T10:00:00.123456789Z") == moment(text)
    for wrong in ("2026-01-01T12:00:00", "yesterday"):
        with pytest.raises(ValueError):
            moment(wrong)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    window = Window(start, start + timedelta(seconds=1), 1.0)
    times = [nanoseconds(start) + shift for shift in (-1, 0, 10**9, 10**9 + 1)]
    assert [inside(line(time), window) for time in times] == [False, True, True, False]


def test_a_trace_has_all_its_digits() -> None:
    """What is no identifier equals no line's, and one in a line is an error."""
    assert trace_id("ABC") == "abc".zfill(32) and same_trace({"a": "b"}) == {"a": "b"}
    assert same_trace({"trace": "ABC"}) == {"trace": "abc".zfill(32)}
    for wrong in ("", "xyz", "a/b", "1" * 33):
        assert same_trace({"trace": wrong}) == {"trace": ""}
        with pytest.raises(ValueError, match="names no trace"):
            trace_id(wrong)
