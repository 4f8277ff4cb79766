"""Ids, digests, durations and references."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from rbkit.clock import FakeClock
from rbkit.errors import RefusedInput, SettingsError
from rbkit.values import (
    Secret,
    canonical,
    digest,
    human,
    human_bytes,
    nearest,
    new_run_id,
    plain,
    seconds,
    valid_run_id,
)

CALM = settings(derandomize=True, deadline=None, database=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@CALM
@given(JSON)
def test_the_canonical_form_says_the_same_value(value):
    """What is hashed reads back as the value, and a value read back hashes alike."""
    assert json.loads(canonical(value)) == value
    assert digest(json.loads(canonical(value))) == digest(value)


def test_the_canonical_form_does_not_depend_on_key_order():
    """Two mappings that are equal have one digest; it is `sha256:` and 64 digits."""
    assert canonical({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def deep() -> list:
    """Nest a list in itself."""
    knot: list = []
    knot.append(knot)
    return knot


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1, 2}, object(), deep()], ids=["nan", "inf", "set", "object", "knot"]
)
def test_what_is_not_json_is_refused(value):
    """A value that the journal cannot hold is refused, not rounded or dropped."""
    with pytest.raises(RefusedInput, match="cannot be written to the journal"):
        canonical(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("1.5d", 129_600), (" 2s ", 2), (7, 7), (0.5, 0.5)],
)
def test_durations_are_read(text, expected):
    """Numbers with units add up; a bare number is seconds."""
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 m",
        "m",
        "-5m",
        "5m!",
        "5M",
        "0s",
        0,
        -1,
        math.nan,
        math.inf,
        10**400,
        "9" * 400 + "s",
        "5m\n5m",
        "36500d",
    ],
    ids=lambda text: f"{text!r:.12}",
)
def test_what_is_no_duration_is_refused(text):
    """Nothing is guessed: no unit, no sign, no zero, no infinity; the advice shows the form."""
    with pytest.raises(SettingsError, match="duration") as caught:
        seconds(text)
    assert caught.value.todo.startswith("Write it like")


@pytest.mark.parametrize(
    ("amount", "text"), [(0.44, "0.4s"), (12.4, "12s"), (59.6, "1m 00s"), (185, "3m 05s"), (7800, "2h 10m")]
)
def test_seconds_are_said_as_people_say_them(amount, text):
    """Tenths below ten seconds, then seconds, minutes, hours."""
    assert human(amount) == text


def test_run_ids_sort_by_time_and_differ():
    """An id tells its second, sorts by it and has random digits."""
    clock = FakeClock(datetime(2026, 11, 23, 9, 45, 12, tzinfo=UTC))
    first = new_run_id(clock)
    clock.advance(1)
    second = new_run_id(clock)
    assert first.startswith("20261123-094512-")
    assert first < second
    assert valid_run_id(first)


@pytest.mark.parametrize("text", ["", "last", "../20261123-094512-7f3a2c", "20261123-094512-7f3a2c\n",
                                  "20261123-094512-7F3A2C", "２０２６１１２３-094512-7f3a2c"])  # fmt: skip
def test_what_is_no_run_id_is_told(text):
    """Only ASCII digits in the one form: a run's id is put into paths."""
    assert not valid_run_id(text)


def test_the_nearest_name_is_suggested_or_nothing():
    """A typo gets a suggestion; a stranger gets none."""
    assert nearest("memry", ["memory", "errors"]) == " Did you mean 'memory'?"
    assert nearest("zzz", ["memory"]) == ""


class Point(BaseModel):
    """A model."""

    at: datetime
    x: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("é", "é"),
        (1.5, 1.5),
        ((1, [2]), [1, [2]]),
        ({"a": {"b": datetime(2026, 1, 1, tzinfo=UTC)}}, {"a": {"b": "2026-01-01T00:00:00+00:00"}}),
        (np.int64(3), 3),
        (np.float64(2.5), 2.5),
        (np.bool_(True), True),
        (np.array(7), 7),
        (pd.Timestamp("2026-01-01", tz="UTC"), "2026-01-01T00:00:00+00:00"),
        (Point(at=datetime(2026, 1, 1, tzinfo=UTC), x=1), {"at": "2026-01-01T00:00:00Z", "x": 1.0}),
    ],
)
def test_results_become_json(value, expected):
    """What a step may return is kept as JSON of the same meaning and type."""
    found = plain(value, "the result")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [math.nan, -math.inf, np.float64("nan"), pd.NaT, b"x", bytearray(b"x"), memoryview(b"x"), {1: 2}, {1, 2},
     object(), np.array([1]), 1j, lambda: 0],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_not_read_back_is_refused_by_name(value):
    """A result that the journal cannot keep is refused at once, saying which and of what type."""
    with pytest.raises(RefusedInput, match=r"the result of step drain is .* cannot be kept in the journal"):
        plain([value], "the result of step drain")


def test_a_value_nested_without_end_is_refused():
    """A list that holds itself is refused, not followed until the stack is full."""
    with pytest.raises(RefusedInput, match="nested deeper than 50 levels"):
        plain(deep(), "the result")


def test_a_reference_to_a_secret_is_read_and_written_alike():
    """SOURCE:PATH, where the path may hold further colons."""
    assert Secret.parse("vault:kv/app:token") == Secret("vault", "kv/app:token")
    assert str(Secret.parse("env:PAGER_TOKEN")) == "env:PAGER_TOKEN"


@pytest.mark.parametrize("text", ["hunter2", ":x", "env:", "a b:c", ""])
def test_a_secret_in_clear_is_refused_and_not_repeated(text):
    """What is no reference may be the secret itself: the error does not show it."""
    with pytest.raises(SettingsError, match="must be given as a reference") as caught:
        Secret.parse(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (20e6, "20 MB"), (3e9, "3 GB"), (5e12, "5 TB")]
)
def test_bytes_as_people_say_them(amount, text):
    """Three digits and a unit, however many there are."""
    assert human_bytes(amount) == text
