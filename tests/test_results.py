"""Typed results."""

import json
import math
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    field_validator,
)

from rbkit import events as ev
from rbkit import results
from rbkit.decide import RuleSet, decide
from rbkit.entries import seal_entry
from rbkit.errors import JournalError, RefusedInput
from rbkit.events import Call
from rbkit.progress import Change
from rbkit.results import pack, unpack
from rbkit.signal import Signal
from rbkit.stores.memory import MemoryStore
from rbkit.stores.sqlite import SqliteStore

CALM = settings(derandomize=True, deadline=None, database=None, max_examples=150)
BERLIN = ZoneInfo("Europe/Berlin")
HERE = sys.modules[__name__]
WHERE = "The result of step drain"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOURS = pd.date_range("2026-01-01", periods=6, freq="h", tz="UTC")
FRAME = pd.DataFrame(
    {"time": HOURS, "value": [1.0, 2.0, math.nan, -0.0, math.inf, 6.0],
     "instance": list("aabbcc"), "n": [1, 1, 1, 2, 2, 2]},
)  # fmt: skip


class Color(Enum):
    """An enum."""

    RED = "red"


class Level(IntEnum):
    """An enum of integers."""

    HIGH = 3


class Word(StrEnum):
    """An enum of texts."""

    YES = "yes"


class Rights(Flag):
    """An enum whose members can be combined."""

    READ = 1
    WRITE = 2


class Point(BaseModel):
    """A model."""

    x: float
    more: Any = None


class Renamed(BaseModel):
    """A model whose field has another name outside."""

    inside: int = Field(alias="outside")


class Open(BaseModel):
    """A model that takes any field."""

    model_config = ConfigDict(extra="allow")
    a: int = 1


class Numbers(RootModel[list[int]]):
    """A model that is a list."""


class Remembers(BaseModel):
    """A model with something private."""

    x: int = 0
    _seen: list[int] = PrivateAttr(default_factory=list)


class Doubles(BaseModel):
    """A model that changes what it is given."""

    x: int

    @field_validator("x")
    @classmethod
    def twice(cls, x: int) -> int:
        """Double it."""
        return 2 * x


class Token(BaseModel):
    """A model with a secret."""

    secret: SecretStr = Field(exclude=True)


@dataclass
class Pair:
    """A dataclass."""

    a: Any
    b: Any = None


@dataclass(frozen=True, slots=True)
class Sum:
    """A dataclass that computes a field."""

    a: int
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        """Compute it."""
        object.__setattr__(self, "twice", 2 * self.a)


@dataclass(unsafe_hash=True)
class Counts:
    """A dataclass that changes what it is given."""

    n: int

    def __post_init__(self) -> None:
        """Count one more."""
        self.n += 1


@dataclass(unsafe_hash=True)
class Key:
    """A key that can be changed."""

    n: int


class Place(NamedTuple):
    """A named tuple."""

    x: int


class Odd(tzinfo):
    """A time zone of one's own."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        """No offset."""
        return timedelta(0)


def change(key: str = "k") -> Change:
    """Make a change."""
    call = Call(capability="balancer", action="drain", target="c-2")
    return Change(key, "s", call, {"state": "ready"}, {"state": "drain"}, {}, call, "")


def through(value: Any, changes: dict[str, Change] | None = None) -> Any:
    """Pack a value, write it as a store does, and read it back."""
    store = MemoryStore()
    written = json.dumps(pack(value, store, WHERE), sort_keys=True, allow_nan=False)
    return unpack(json.loads(written), store, changes or {})


def shape(value: Any) -> Any:
    """Describe a value to the type, so that NaN is NaN, 1 is not True, and a time has its zone."""
    if isinstance(value, BaseModel):
        return type(value), shape(dict(value)), sorted(value.model_fields_set)
    if isinstance(value, Pair | Sum):
        return type(value), [shape(getattr(value, name.name)) for name in fields(value)]
    if isinstance(value, dict):
        return dict, sorted((repr(shape(key)), repr(shape(item))) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(shape(item)) for item in value)
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value), repr(value), getattr(value, "unit", ""), getattr(value, "fold", 0)


TEXT = st.text(max_size=6) | st.just("$rbkit")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
ZONES = (
    st.none()
    | st.just(UTC)
    | st.just(BERLIN)
    | st.integers(-86399, 86399).map(lambda s: timezone(timedelta(seconds=s)))
)
SMALL = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=6) | st.decimals() | st.uuids()
    | st.dates() | st.times(timezones=ZONES) | st.datetimes(timezones=ZONES) | st.timedeltas()
    | st.sampled_from([Color.RED, Level.HIGH, Word.YES, np.float32(0.1), np.int8(3), np.bool_(True), pd.NaT, pd.NA])
    | st.integers(0, 2**60).map(lambda n: pd.Timestamp(n, unit="ns", tz=BERLIN))
)  # fmt: skip
HASHABLE = st.integers() | TEXT | st.dates() | st.tuples(st.integers(), TEXT) | st.just(Color.RED)
ANY = st.recursive(
    SMALL,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | st.frozensets(HASHABLE, max_size=3)
        | st.builds(Point, x=st.floats(), more=inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=12,
)


@CALM
@given(JSON)
def test_plain_json_stays_as_it_is(value):
    """What the journal holds of a JSON result is the result: journals that were written before read alike."""
    store = MemoryStore()
    assert shape(pack(value, store, WHERE)) == shape(value)
    assert shape(unpack(value, store, {})) == shape(value)
    assert store.tape == {}


@CALM
@given(ANY)
def test_any_value_comes_back_as_it_was(value):
    """Nested freely, through the text in which a store keeps it: the same value, of the same types."""
    assert shape(through(value)) == shape(value)


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (math.nan, {"$rbkit": "float", "value": "nan"}),
        (-math.inf, {"$rbkit": "float", "value": "-inf"}),
        ((1, "a"), {"$rbkit": "tuple", "items": [1, "a"]}),
        ({3, 1, "a"}, {"$rbkit": "set", "items": ["a", 1, 3]}),
        (frozenset({True}), {"$rbkit": "frozenset", "items": [True]}),
        ({1: 2}, {"$rbkit": "dict", "items": [[1, 2]]}),
        ({"$rbkit": "set"}, {"$rbkit": "dict", "items": [["$rbkit", "set"]]}),
        (NOON, {"$rbkit": "datetime", "value": "2026-01-01T12:00:00", "zone": [0.0], "fold": 0}),
        (date(2026, 1, 1), {"$rbkit": "date", "value": "2026-01-01"}),
        (time(3, tzinfo=BERLIN), {"$rbkit": "time", "value": "03:00:00", "zone": "Europe/Berlin", "fold": 0}),
        (timedelta(days=-1, microseconds=3), {"$rbkit": "timedelta", "value": [-1, 0, 3]}),
        (Decimal("1.00"), {"$rbkit": "decimal", "value": "1.00"}),
        (UUID(int=1), {"$rbkit": "uuid", "value": "00000000-0000-0000-0000-000000000001"}),
        (b"\xff", {"$rbkit": "bytes", "value": "/w=="}),
        (Color.RED, {"$rbkit": "enum", "class": f"{__name__}:Color", "member": "RED"}),
        (np.int16(3), {"$rbkit": "numpy", "dtype": "<i2", "value": 3}),
        (pd.Timedelta("5s"), {"$rbkit": "span", "value": ["P0DT0H0M5S", "us"]}),
        (
            Point(x=1),
            {"$rbkit": "model", "class": f"{__name__}:Point", "fields": {"x": 1.0, "more": None}, "unset": ["more"]},
        ),
        (Pair(1), {"$rbkit": "dataclass", "class": f"{__name__}:Pair", "fields": {"a": 1, "b": None}}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_journal_says_the_kind(value, packed):
    """The form in the journal is kept for good: another version of rbkit must read it."""
    assert pack(value, MemoryStore(), WHERE) == packed
    assert shape(unpack(packed, MemoryStore(), {})) == shape(value)


@pytest.mark.parametrize(
    "value",
    [
        {"\ud800": 1},
        Decimal("sNaN"),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        time(3, fold=1),
        np.float64("nan"),
        np.str_("a"),
        np.bytes_(b"a"),
        np.datetime64("2026-01-01T00:00:00", "ns"),
        np.datetime64("NaT"),
        np.timedelta64(5, "D"),
        pd.Timestamp(1, unit="ns", tz="UTC"),
        pd.Timestamp("2026-10-25 02:30").tz_localize(BERLIN, ambiguous=False).as_unit("s"),
        pd.Timestamp("2026-01-01"),
        pd.Timedelta(-1, unit="ns"),
        Renamed(outside=3),
        Open(a=1, b=(1, 2)),
        Open.model_validate({"$rbkit": "set"}),
        Numbers([1, 2]),
        Remembers(x=1),
        Sum(2),
        {(Level.HIGH, None): {Word.YES}},
        {frozenset({"a", "b", (1, frozenset({2, 4294967298}))}), Sum(1)},
        [np.float32(1), {"a": (pd.NaT, pd.NA)}],
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_rare_values_come_back_too(value):
    """Units, folds, zones by name, dtypes, aliases, extra and computed fields are part of a value."""
    assert shape(through(value)) == shape(value)


def test_a_time_that_a_model_parsed_comes_back_as_the_same_moment():
    """pydantic has a class of its own for offsets; what comes back is the standard library's, with the same offset."""
    found = through(Point(x=1, more=Stamp.model_validate_json('{"at": "2026-01-01T01:00:00+01:00"}'))).more.at
    assert found.isoformat() == "2026-01-01T01:00:00+01:00"


class Stamp(BaseModel):
    """A model with a time."""

    at: datetime


def test_a_change_is_kept_by_its_key():
    """A step may return its changes: the journal holds them already, and the run's own objects come back."""
    made = change()
    store = MemoryStore()
    data = pack([made, made], store, WHERE)
    assert data[0] == {"$rbkit": "change", "key": "k"}
    assert unpack(data, store, {"k": made}) == [made, made]


def test_a_signal_and_a_verdict_come_back():
    """What `run.observe` and `run.decide` give can be a step's result."""
    frame = FRAME[["time", "value", "instance"]].astype({"time": "datetime64[ns, UTC]"})
    signal = Signal("memory", "MB", "instance", frame, NOON, 60.0)
    rule = {"name": "leak", "when": {"signal": "memory", "above": 1}, "then": "restart", "why": "w"}
    otherwise = {"then": "nothing", "why": "w"}
    rules = RuleSet.model_validate(
        {"name": "r", "version": "1", "summary": "s", "rules": [rule], "otherwise": otherwise}
    )
    verdict = decide(rules, {"memory": signal}, {})
    back_signal, back_verdict = through((signal, verdict))
    assert back_verdict == verdict
    pd.testing.assert_frame_equal(back_signal.frame, frame, check_exact=True)
    assert (back_signal.asked_at, back_signal.facts) == (NOON, signal.facts)


def test_log_lines_come_back_with_their_attributes():
    """Cells of no one type, such as mappings with different keys, are kept cell by cell."""
    cells = [{"a": {"b": 1}}, {"c": (1, 2)}, math.nan, None, pd.NA, "x"]
    back = through(FRAME.assign(attributes=pd.Series(cells, dtype=object)))
    assert shape(back["attributes"].tolist()) == shape(cells)
    assert back["attributes"].dtype == object


MISSING = {
    "Int64": pd.array([1, None], dtype="Int64"),
    "boolean": pd.array([True, None], dtype="boolean"),
    "Float32": pd.array([1.5, None], dtype="Float32"),
    "str": pd.array(["a", None], dtype="str"),
    "string": pd.array(["a", None], dtype="string"),
    "time": pd.to_datetime(["2026-01-01", None]).as_unit("s"),
    "zone": pd.to_datetime(["2026-01-01", None]).tz_localize("Europe/Berlin").as_unit("ns"),
    "offset": pd.to_datetime(["2026-01-01", None]).tz_localize(timezone(timedelta(hours=1))),
    "span": pd.to_timedelta([1, None], unit="s"),
    "category": pd.Categorical(["b", None], categories=["b", "a", "never"], ordered=True),
    "period": pd.PeriodIndex(["2026-01", None], freq="M"),
    "interval": pd.interval_range(0, 2),
    "uint8": np.array([1, 255], dtype="uint8"),
    "object": np.array([None, 1], dtype=object),
}
TABLES = {
    "plain": FRAME,
    "missing": pd.DataFrame(MISSING),
    "filtered": FRAME[FRAME["n"] > 1],
    "half floats": FRAME[["value"]].astype("float16"),
    "no rows": FRAME.iloc[:0],
    "nothing": pd.DataFrame(),
    "only an index": pd.DataFrame(index=["a", "b"]),
    "named index": FRAME.set_index("instance"),
    "index and column of one name": FRAME.set_index("instance", drop=False),
    "range index": FRAME.set_index(pd.RangeIndex(5, 11, name="k")),
    "two levels": FRAME.set_index(["instance", "n"]),
    "unnamed level": FRAME.set_index(pd.MultiIndex.from_tuples([("a", 1)] * 5 + [(None, 2)], names=[None, "x"])),
    "columns of two levels": FRAME.groupby("instance").agg({"value": ["min", "max"]}),
    "columns of times": FRAME.pivot(index="instance", columns="time", values="value"),
    "columns of numbers": pd.DataFrame(np.zeros((2, 3))),
    "named columns": FRAME.rename_axis("columns", axis=1),
    "resampled": FRAME.set_index("time")[["value"]].resample("2h").mean(),
    "spans": FRAME.set_index(pd.timedelta_range("1s", periods=6, freq="s")),
    "series": FRAME["value"],
    "series without a name": pd.Series([1, 2]),
    "series named by a tuple": pd.Series([1], name=("a", 1)),
    "counts": FRAME["instance"].value_counts(),
    "resampled series": FRAME.set_index("time")["value"].resample("2h").mean(),
    "series of objects": pd.Series([{"a": 1}, (1,)], index=["x", "x"], dtype=object),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_comes_back_as_it_was(table):
    """dtypes, units, zones, categories, both axes, missing values and the order of the columns survive."""
    back = through({"deep": [table]})["deep"][0]
    assert type(back) is type(table)
    same = pd.testing.assert_series_equal if isinstance(table, pd.Series) else pd.testing.assert_frame_equal
    same(back, table, check_exact=True)


def test_a_table_lies_on_the_tape():
    """The journal holds its digest, size and columns; the tape holds the bytes; what comes back can be changed."""
    store = MemoryStore()
    data = pack(FRAME, store, WHERE)
    assert list(store.tape) == [data["digest"]]
    assert (data["$rbkit"], data["rows"], data["columns"]) == ("frame", 6, ["time", "value", "instance", "n"])
    back = unpack(data, store, {})
    back.loc[0, "value"] = 7.0
    assert back["value"][0] == 7.0


def test_what_belongs_to_a_table_comes_back():
    """Its attributes, too; packing does not change the table that the step returned."""
    table = FRAME.assign(any=pd.Series([{}] * 6, dtype=object))
    table.attrs = {"source": "prometheus"}
    before = table.copy()
    assert through(table).attrs == {"source": "prometheus"}
    pd.testing.assert_frame_equal(table, before)


def renamed(frame: pd.DataFrame, *names: Any) -> pd.DataFrame:
    """Give a table other column names."""
    return frame.iloc[:, : len(names)].set_axis(list(names), axis=1)


def attributed(**attributes: Any) -> pd.DataFrame:
    """Make a table with attributes."""
    table = FRAME.copy()
    table.attrs = attributes
    return table


def knot(value: Any) -> Any:
    """Let a value hold itself."""
    if isinstance(value, list):
        value.append(value)
    elif isinstance(value, dict):
        value["me"] = value
    else:
        value.b = value
    return value


def knotted_table() -> pd.DataFrame:
    """Make a table with itself in a cell."""
    table = pd.DataFrame({"a": [None]}, dtype=object)
    table.isetitem(0, pd.Series([table], dtype=object))
    return table


def nested(levels: int) -> Any:
    """Nest lists."""
    return [nested(levels - 1)] if levels else 1


def local() -> Any:
    """Make a value of a class that only this function knows."""

    class Hidden(BaseModel):
        pass

    return Hidden()


def remembering() -> Remembers:
    """Make a model that holds something private."""
    model = Remembers()
    model._seen.append(1)
    return model


def clashing() -> dict[Key, int]:
    """Make a mapping whose keys became equal."""
    one, two = Key(1), Key(2)
    made = {one: 1, two: 2}
    two.n = 1
    return made


REFUSED = {
    "object": (object(), r"\['k'\]\[0\], of type object, cannot be kept in the journal: there is no way"),
    "complex": (1j, "of type complex"),
    "range": (range(3), "of type range"),
    "function": (lambda: 0, "of type function"),
    "class": (Point, "of type pydantic"),
    "generator": ((n for n in ()), "of type generator"),
    "bytearray": (bytearray(b"x"), "of type bytearray"),
    "ordered": (OrderedDict(), "of type collections.OrderedDict"),
    "default": (defaultdict(list), "of type collections.defaultdict"),
    "named tuple": (Place(1), rf"of type {__name__}.Place"),
    "array": (np.array([1]), "of type numpy.ndarray"),
    "long double": (np.longdouble(1), "its dtype is float128"),
    "numpy complex": (np.complex128(1), "its dtype is complex128"),
    "index": (pd.Index([1]), "of type pandas.Index"),
    "zone": (NOON.replace(tzinfo=Odd()), "its time zone is a Odd; use UTC or zoneinfo"),
    "digits": (10**5000, "of type int, cannot be kept in the journal"),
    "digits in a cell": (pd.Series([10**5000], dtype=object), r"\['k'\]\[0\]\[0\], of type int"),
    "combined flags": (Rights.READ | Rights.WRITE, "KeyError: 'READ|WRITE'"),
    "combined flags in a cell": (pd.Series([Rights.READ | Rights.WRITE]), "of type pandas.Series, .*'READ|WRITE'"),
    "local class": (local(), "its class is not found by its name"),
    "unfit model": (Point.model_construct(x="much"), "The class Point does not take .*: x: Input should be"),
    "cut model": (Point.model_construct(more=1), r"\['k'\]\[0\], of type .*Point, .*: 'x'"),
    "private": (remembering(), r"\['k'\]\[0\], of type .*Remembers, .* it would not come back as it is"),
    "doubling": (Doubles(x=1), r"\['k'\]\[0\]\['x'\], of type int, .* it would not come back as it is"),
    "counting": (Counts(1), r"\['k'\]\[0\]\['n'\], of type int, .* it would not come back as it is"),
    "counting key": ({Counts(1): 1}, r"\['n'\], of type int, .* it would not come back as it is"),
    "clashing keys": (clashing(), "of type dict, .* it would not come back as it is"),
    "itself": (knot([]), r"\['k'\]\[0\]\[0\], of type list, .* it holds itself"),
    "itself in a mapping": (knot({}), r"\['me'\], of type dict, .* it holds itself"),
    "itself in a field": (knot(Pair(1)), "more than 50 levels of nesting"),
    "itself in a cell": (knotted_table(), "it holds itself"),
    "depth": (nested(49), "has more than 50 levels of nesting"),
    "length": ("x" * 1_000_000, "has more than 1,000,000 characters of JSON"),
    "twin columns": (renamed(FRAME, "a", "a"), "Duplicate column names"),
    "mixed columns": (renamed(FRAME, "a", 1), "column names of mixed type"),
    "object cells": (pd.DataFrame({"a": [object()]}), "of type object"),
    "complex cells": (pd.Series([1j]), "complex128"),
    "labels of objects": (
        FRAME.set_index(FRAME["instance"].astype(object)),
        r"\['k'\]\[0\], of type pandas.DataFrame, cannot be kept in the journal: DataFrame.index are different",
    ),
    "categories of objects": (pd.Series(pd.Categorical(pd.Series(["a"], dtype=object))), "dtype.* are different"),
    "other storage": (pd.Series(["a"], dtype="string[python]"), r"\['k'\]\[0\], of type pandas.Series, .*dtype"),
    "flags": (FRAME.set_flags(allows_duplicate_labels=False), "allows_duplicate_labels"),
    "masked NaN": (pd.Series(pd.arrays.FloatingArray(np.array([math.nan]), np.array([False]))), "mask are different"),
    "attributes": (attributed(a=(1,)), r"\['attrs'\]\['a'\], of type tuple, .* it would not come back as it is"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_come_back_is_refused_at_once(value, why):
    """The error names the step, the place, the type and the reason, and says what may be returned; nothing is kept."""
    store = MemoryStore()
    with pytest.raises(RefusedInput, match=why) as caught:
        pack({"k": [value], "table": FRAME}, store, WHERE)
    assert caught.value.what.startswith(WHERE)
    assert caught.value.todo.startswith(("Return", "Define"))
    assert store.tape == {}


@pytest.mark.parametrize("value", [nested(50), {"\ud800": {1: ["\ud800"]}}], ids=["deep", "surrogates"])
def test_what_is_kept_can_be_written_as_an_event(value):
    """Fifty levels, and text that is no Unicode: what is not refused does not fail later, when the step is done."""
    event = ev.StepDone(step="s", result=pack(value, MemoryStore(), WHERE), seconds=1)
    assert unpack(seal_entry("r", 0, "", "", "", event, "").event["result"], MemoryStore(), {}) == value


@pytest.mark.parametrize(("limit", "what"), [("_MOST_VALUES", "values"), ("_MOST_BYTES", "bytes of tables")])
def test_what_is_too_large_is_refused(limit, what, monkeypatch):
    """A list that is in itself again and again is not followed without end, nor is the tape filled."""
    monkeypatch.setattr(results, limit, 1_000)
    shared: list = []
    for _ in range(45):
        shared = [shared, shared]
    value = shared if what == "values" else FRAME
    with pytest.raises(RefusedInput, match=f"has more than 1,000 {what}. Return less, or a DataFrame"):
        pack(value, MemoryStore(), WHERE)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (SecretStr("hunter2"), r"\[0\], of type pydantic.types.SecretStr, .*: a secret never goes there"),
        (SecretBytes(b"hunter2"), r"\[0\], of type pydantic.types.SecretBytes, .*: a secret never goes there"),
        (Secret[str]("hunter2"), r"\[0\], of type pydantic.types.Secret, .*: a secret never goes there"),
        (Token(secret="hunter2"), r"\[0\]\['secret'\], .*: a secret never goes there"),
        (Pair(1, {"a": [SecretStr("hunter2")]}), r"\[0\]\['b'\]\['a'\]\[0\], .*: a secret never goes there"),
        ({SecretStr("hunter2"): 1}, "a secret never goes there"),
        (pd.DataFrame({"a": [SecretStr("hunter2")]}), r"\[0\]\[0\], .*: a secret never goes there"),
        (attributed(a=SecretStr("hunter2")), r"\[0\], of type pandas.DataFrame, .* SecretStr is not JSON"),
    ],
    ids=["text", "bytes", "any", "model", "dataclass", "key", "cell", "attributes"],
)
def test_a_secret_is_refused_and_not_repeated(value, why):
    """However deep it lies: no journal and no tape holds it, and the error does not show it."""
    store = MemoryStore()
    with pytest.raises(RefusedInput, match=why) as caught:
        pack([value], store, WHERE)
    assert "hunter2" not in str(caught.value)
    assert store.tape == {}


class Unequal:
    """Something that cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("which one")

    __hash__ = None


class Peculiar(BaseModel):
    """A model with something private that cannot be compared."""

    _held: Any = PrivateAttr(default_factory=Unequal)


def test_what_cannot_be_compared_is_refused():
    """An error of somebody else's class while a result is checked is not let out of the step."""
    with pytest.raises(RefusedInput, match="cannot be kept in the journal: which one"):
        pack(Peculiar(), MemoryStore(), WHERE)


def test_a_class_may_have_grown(monkeypatch):
    """A resumed run defines its classes anew: the value is of the class of now, a new field has its default."""

    class Grown(BaseModel):
        x: float
        more: Any = None
        y: int = 7

    data = pack(Point(x=1), MemoryStore(), WHERE)
    monkeypatch.setattr(HERE, "Point", Grown)
    assert shape(unpack(data, MemoryStore(), {})) == shape(Grown(x=1))


def other(name: str) -> Any:
    """Define one of this file's classes in another way."""

    class Wants(BaseModel):
        x: float
        more: Any = None
        y: int

    class Lost(BaseModel):
        x: float

    class Text(BaseModel):
        x: bool
        more: Any = None

    @dataclass
    class Fewer:
        a: Any

    class Blue(Enum):
        BLUE = "blue"

    return {"wants": Wants, "lost": Lost, "text": Text, "fewer": Fewer, "blue": Blue}[name]


@pytest.mark.parametrize(
    ("value", "now", "why"),
    [
        (Point(x=2), "wants", "The class Point does not take what the journal holds of it: y: Field required."),
        (Point(x=2), "lost", "more: Extra inputs are not permitted."),
        (Point(x=2), "text", "x: Input should be a valid boolean"),
        (Pair(1), "fewer", "The class Pair does not take .* unexpected keyword argument 'b'"),
        (Color.RED, "blue", "The class Color does not take .* KeyError: 'RED'."),
    ],
)
def test_a_class_that_does_not_take_the_value_any_more_is_said(value, now, why, monkeypatch):
    """Nothing is dropped or made up when a class was changed meanwhile: the error names class and field."""
    data = pack(value, MemoryStore(), WHERE)
    monkeypatch.setattr(HERE, type(value).__name__, other(now))
    with pytest.raises(RefusedInput, match=why) as caught:
        unpack(data, MemoryStore(), {})
    assert caught.value.todo == f"Define {data['class'].split(':')[1]} as it was when the step ran."


@pytest.mark.parametrize(
    "now", [None, "text", Color, Pair, lambda: 0], ids=["gone", "text", "enum", "dataclass", "call"]
)
def test_a_class_must_be_defined_before_the_step(now, monkeypatch):
    """A name that is not there, or is something else now, is refused; the error says what to define."""
    data = pack(Point(x=1), MemoryStore(), WHERE)
    monkeypatch.setattr(HERE, "Point", now)
    with pytest.raises(
        RefusedInput, match=f"a model of the class {__name__}:Point, which is not defined here"
    ) as caught:
        unpack(data, MemoryStore(), {})
    assert caught.value.todo == "Run the cell that defines or imports Point before the step."


@pytest.mark.parametrize("kind", ["enum", "model", "dataclass"])
@pytest.mark.parametrize(
    "name", ["this:Point", "rbkit.nothing:Point", "os:system", "builtins:dict", f"{__name__}:Point.x"]
)
def test_no_module_is_imported_because_a_journal_says_so(kind, name):
    """A class is looked up in what is there already; what is no class of that kind is never called."""
    with pytest.raises(RefusedInput, match="which is not defined here"):
        unpack({"$rbkit": kind, "class": name, "fields": {}, "member": "x"}, MemoryStore(), {})
    assert "this" not in sys.modules


def test_looking_for_a_class_runs_no_code(monkeypatch):
    """A module that imports lazily is not asked: only what stands in it counts."""
    lazy = types.ModuleType("lazy")
    lazy.__getattr__ = lambda name: pytest.fail("the module was asked")
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    with pytest.raises(RefusedInput, match="lazy:Point, which is not defined here"):
        unpack({"$rbkit": "model", "class": "lazy:Point", "fields": {}}, MemoryStore(), {})


@pytest.mark.parametrize("data", [None, b"other"], ids=["missing", "damaged"])
def test_a_table_that_is_gone_or_was_changed_is_an_error_of_the_journal(data):
    """Nothing stands in for it: a run must not go on with half of what it knew."""
    store = MemoryStore()
    packed = pack(FRAME, store, WHERE)
    store.tape = {packed["digest"]: data} if data else {}
    with pytest.raises(
        JournalError, match=r"The table sha256:.{12}… of a result is missing from the tape or was changed"
    ):
        unpack({"a": packed}, store, {})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"$rbkit": "of tomorrow"}, "A result of the kind 'of tomorrow' cannot be read: KeyError"),
        ({"$rbkit": ["unhashable"]}, "TypeError"),
        ({"$rbkit": "secret", "value": 1}, "KeyError: 'secret'"),
        ({"$rbkit": "change", "key": "lost"}, "KeyError: 'lost'"),
        ({"$rbkit": "tuple"}, "KeyError: 'items'"),
        ({"$rbkit": "dict", "items": [[[], 1]]}, "TypeError"),
        ({"$rbkit": "decimal", "value": "much"}, "InvalidOperation"),
        ({"$rbkit": "bytes", "value": "!"}, "Error"),
        ({"$rbkit": "datetime", "value": "2026-01-01T00:00:00", "zone": "No/Where", "fold": 0}, "No/Where"),
        ({"$rbkit": "model", "class": 3}, "AttributeError"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_journal(data, why):
    """A result of a newer version, or one that was forged, is told and not guessed."""
    with pytest.raises(JournalError, match=why):
        unpack([data], MemoryStore(), {})


READ = """
import json, sys
from pathlib import Path
import rbkit.signal
from rbkit.results import unpack
from rbkit.stores.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
back = unpack(json.loads(sys.argv[2]), store, {})
store.close()
print(repr(back), back["tables"].dtypes.to_dict(), back["signal"].frame.dtypes.to_dict())
"""


def test_a_new_process_reads_what_another_one_packed(tmp_path):
    """A resumed run has a new kernel: the value comes out of the store's file with every type, also rare dtypes."""
    signal = Signal("memory", "MB", "instance", FRAME, NOON, 60.0)
    value = {"tables": pd.DataFrame(MISSING), "signal": signal, "at": NOON, "set": (frozenset({1}), np.int8(3))}
    store = SqliteStore(tmp_path)
    data = json.dumps(pack(value, store, WHERE))
    store.close()
    done = subprocess.run([sys.executable, "-c", READ, tmp_path, data], capture_output=True, text=True, check=False)
    shown = f"{value!r} {value['tables'].dtypes.to_dict()} {signal.frame.dtypes.to_dict()}"
    assert done.stdout.strip() == shown, done.stderr


def test_results_are_cheap_to_import():
    """A command that packs no table loads no table library."""
    code = "import rbkit.results, sys; print(*{'numpy', 'pandas', 'pyarrow'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr
