"""Typed results: what a step returned is kept in the journal and on the tape, and comes back as the same value."""

import json
import math
import sys
import warnings
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import partial
from importlib import import_module
from typing import Any, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import TzInfo

from rbkit.errors import JournalError, RefusedInput
from rbkit.progress import Change
from rbkit.store import Store
from rbkit.values import canonical, digest

__all__ = ["pack", "unpack"]

_TAG = "$rbkit"
_DEEPEST = 50
_MOST_VALUES = 2_000_000
_MOST_TEXT = 1_000_000
_MOST_BYTES = 20_000_000
_MOST_BITS = 14_000  # of an integer: Python writes at most 4,300 digits
_TODO = "Return None, text, numbers, times, lists, mappings, a DataFrame, or a model or dataclass made of these."
_NEVER = {"secret": "a secret never goes there", "unknown": "there is no way to read it back"}
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, Warning)


def pack(value: Any, store: Store, where: str) -> Any:
    """Turn a step's result into JSON that comes back as the same value of the same type, or refuse it at once.

    Args:
        value: JSON values, times, containers, enum members, numpy scalars, pandas tables, models, dataclasses, changes.
        store: Where the bytes of tables are kept; nothing is kept of a value that is refused.
        where: What it is, for the error, such as `The result of step drain`.

    Returns:
        A JSON value: plain JSON stays as it is, anything else is a mapping with its kind under `$rbkit`.

    Raises:
        RefusedInput: It would not come back as it is, holds a secret or itself, or is too deep or too large.
        StoreUnavailable: A table could not be kept.
    """
    packer = _Packer(where)
    data = packer.pack(value)
    packer.check(value, data)
    for name, table in packer.tables.items():
        store.keep(name, table)
    return data


def unpack(data: Any, store: Store, changes: Mapping[str, Change]) -> Any:
    """Read back what `pack` wrote.

    Args:
        data: The JSON value from the journal.
        store: Where the bytes of tables lie.
        changes: The run's changes by key.

    Returns:
        The value, of the type that it had; a class is taken only if it is defined already, none is imported.

    Raises:
        RefusedInput: A class is not defined here, or does not take the value any more.
        JournalError: It cannot be read, or a table or change of it is missing or was altered.
    """
    return _Reader(store.fetch, changes).read(data)


class _Packer:
    """Packs one result and gathers what belongs on the tape."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tables: dict[str, bytes] = {}
        self.changes: dict[str, Change] = {}
        self._count = 0
        self._inside: dict[int, Any] = {}

    def pack(self, value: Any) -> Any:
        """Pack one value, and refuse what goes too deep or takes too long."""
        self._count += 1
        self._limit(self._count, _MOST_VALUES, "values")
        self._limit(len(self._inside), _DEEPEST, "levels of nesting")
        kind = _kind(value)
        if kind in _NEVER:
            self.refuse(value, _NEVER[kind])
        try:
            return {_TAG: kind, "value": _SCALARS[kind][0](value)} if kind in _SCALARS else _KINDS[kind][0](self, value)
        except _FAULTS as error:
            self.refuse(value, str(error))

    def each(self, holder: Any, parts: Iterable[tuple[Any, Any]]) -> list[Any]:
        """Pack what lies inside a value, each with its place, and refuse one that holds itself."""
        if id(holder) in self._inside:
            self.refuse(holder, "it holds itself")
        packed = []
        for place, item in parts:
            self._inside[id(holder)] = place
            packed.append(self.pack(item))
        self._inside.pop(id(holder), None)
        return packed

    def refuse(self, value: Any, why: str, todo: str = _TODO) -> NoReturn:
        """Refuse a value by its place and type; the value itself may be a secret and is not repeated."""
        place = self.where + "".join(f"[{place!r:.40}]" for place in self._inside.values())
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        why = " ".join(why.split()).rstrip(".")
        raise RefusedInput(f"{place}, of type {kind}, cannot be kept in the journal: {why}.", todo=todo)

    def back(self, data: Any) -> Any:
        """Read packed data as a resumed run will."""
        try:
            return _Reader(self.tables.get, self.changes).read(data)
        except (RefusedInput, JournalError) as error:
            raise ValueError(error.what) from error

    def check(self, value: Any, data: Any) -> None:
        """Refuse a result that is too large, or does not come back as it is."""
        self._limit(len(canonical(data)), _MOST_TEXT, "characters of JSON")
        self._limit(sum(map(len, self.tables.values())), _MOST_BYTES, "bytes of tables")
        try:
            places, odd = next(_differences(value, self.back(data), ()), ((), self))
        except _FAULTS as error:
            self.refuse(value, str(error))
        if odd is not self:
            self._inside = dict(enumerate(places))
            self.refuse(odd, "it would not come back as it is")

    def _limit(self, amount: int, most: int, what: str) -> None:
        if amount > most:
            raise RefusedInput(f"{self.where} has more than {most:,} {what}.", todo="Return less, or a DataFrame.")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads results back."""

    fetch: Callable[[str], bytes | None]
    changes: Mapping[str, Change]

    def read(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self.read(item) for item in data]
        if not isinstance(data, dict) or _TAG not in data:
            return {key: self.read(item) for key, item in data.items()} if isinstance(data, dict) else data
        kind = data[_TAG]
        try:
            return _SCALARS[kind][1](data["value"]) if kind in _SCALARS else _KINDS[kind][1](self, data)
        except _FAULTS as error:
            raise JournalError(f"A result of the kind {kind!r:.40} cannot be read: {_why(error)}") from error


def _kind(value: Any) -> str:
    """Name the kind under which a value is kept; `unknown` when there is none."""
    cls = type(value)
    if cls in _PLAIN or (cls is float and math.isfinite(value)) or (cls is int and value.bit_length() <= _MOST_BITS):
        return "json"
    if cls in _EXACT:
        return cls.__name__.lower()
    if cls.__module__.partition(".")[0] == "pandas":
        return _PANDAS.get(cls.__name__, "unknown")
    return next((kind for kind, fits in _CLASSES.items() if fits(cls)), "unknown")


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, BaseModel):
        return [(name, vars(value)[name]) for name in type(value).model_fields] + [*(value.model_extra or {}).items()]
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, dict | list | tuple):
        return list(value.items() if isinstance(value, dict) else enumerate(value))
    columns = _pandas().DataFrame(value).items()
    return [("attrs", value.attrs)] + [(name, list(cells)) for name, cells in columns if cells.dtype == "object"]


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()) + "."
    return getattr(error, "what", "") or f"{type(error).__name__}: {error}."


def _differences(one: Any, two: Any, places: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """List where a value and what came back of it differ in value or type, and what is there."""
    kind = _kind(one)
    if type(one) is not type(two) or _written(one, kind) != _written(two, kind):
        yield places, one
    elif kind in _CONTAINERS:
        for (step, item), (back_step, back_item) in zip(_parts(one), _parts(two), strict=True):
            yield from _differences(step, back_step, places)
            yield from _differences(item, back_item, (*places, step))


def _written(value: Any, kind: str) -> Any:
    """What two values must have in common to be the same, apart from what lies inside; NaN is the same as NaN."""
    if kind in _CONTAINERS:
        return len(_parts(value)), (value.model_fields_set, value.__pydantic_private__) if kind == "model" else ()
    if kind in {"set", "frozenset"}:
        return _pack_items(_Packer(""), value)
    if kind in _TIMES:
        return value.isoformat(), value.fold, _zone(value.tzinfo), getattr(value, "unit", "")
    return value.key if kind == "change" else (repr(value), getattr(value, "unit", ""))


def _zone(zone: tzinfo | None) -> Any:
    """Describe a time zone by its key, or by its offset in seconds and its name if it has one of its own."""
    if zone is None or (isinstance(zone, ZoneInfo) and zone.key):
        return zone and zone.key
    if not isinstance(zone, timezone | TzInfo):
        raise TypeError(f"its time zone is a {type(zone).__name__}; use UTC or zoneinfo")
    offset = zone.utcoffset(None) or timedelta()
    return [offset.total_seconds()] + ([] if str(zone) == str(timezone(offset)) else [str(zone)])


def _pack_time(packer: _Packer, value: Any) -> Any:
    unit = {"unit": value.unit} if hasattr(value, "unit") else {}
    wall = value.replace(tzinfo=None, fold=0).isoformat()
    return {_TAG: _kind(value), "value": wall, "zone": _zone(value.tzinfo), "fold": value.fold} | unit


def _read_time(reader: _Reader, data: dict[str, Any]) -> Any:
    wall, zone = _TIMES[data[_TAG]](data["value"]), data["zone"]
    wall = wall.as_unit(data["unit"]) if "unit" in data else wall
    known = timezone(timedelta(seconds=zone[0]), *zone[1:]) if isinstance(zone, list) else zone and ZoneInfo(zone)
    return wall.replace(tzinfo=known, fold=data["fold"])


def _pack_dict(packer: _Packer, value: dict[Any, Any]) -> Any:
    """Keep a mapping with text keys as it is, any other as pairs; lone surrogates cannot be keys in an event."""
    items = packer.each(value, value.items())
    if _TAG not in value and all(type(key) is str and key.encode(errors="ignore").decode() == key for key in value):
        return dict(zip(value, items, strict=True))
    keys = packer.each(value, ((key, key) for key in value))
    return {_TAG: "dict", "items": [list(pair) for pair in zip(keys, items, strict=True)]}


def _pack_items(packer: _Packer, value: Any) -> Any:
    """Keep a tuple, or a set in an order that is the same in every process."""
    packed = packer.each(value, enumerate(value))
    return {_TAG: _kind(value), "items": packed if isinstance(value, tuple) else sorted(packed, key=canonical)}


def _pack_numpy(packer: _Packer, value: Any) -> Any:
    if value.dtype.kind not in "biufmMSU" or value.dtype.str[1:] == "f16":
        raise TypeError(f"its dtype is {value.dtype}")
    item = value.view("i8").item() if value.dtype.kind in "mM" else value.item()
    return {_TAG: "numpy", "dtype": value.dtype.str, "value": packer.pack(item)}


def _read_numpy(reader: _Reader, data: dict[str, Any]) -> Any:
    np = import_module("numpy")
    value, dtype = reader.read(data["value"]), np.dtype(data["dtype"])
    return np.int64(value).view(dtype) if dtype.kind in "mM" else np.array(value, dtype=dtype)[()]


def _find(name: str) -> type | None:
    """Find a class by its name in what is imported already; nothing is imported and no code is run."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) else None


def _pack_class(packer: _Packer, value: Any) -> dict[str, Any]:
    kind, cls = _kind(value), type(value)
    named = {_TAG: kind, "class": f"{cls.__module__}:{cls.__qualname__}"}
    if _find(named["class"]) is not cls:
        packer.refuse(value, "its class is not found by its name", "Define the class at the top of a cell or module.")
    if kind == "enum":
        return named | {"member": value.name}
    parts = dict(_parts(value))
    unset = sorted(parts.keys() - value.model_fields_set) if kind == "model" else []
    return named | {"fields": _pack_dict(packer, parts)} | ({"unset": unset} if unset else {})


def _read_class(reader: _Reader, data: dict[str, Any]) -> Any:
    """Make a value of a class that is defined here, and may have changed since."""
    kind, name, short = data[_TAG], data["class"], data["class"].rpartition(":")[2]
    cls: Any = _find(name)
    if cls is None or not _CLASSES[kind](cls):
        todo = f"Run the cell that defines or imports {short} before the step."
        raise RefusedInput(f"The journal holds a {kind} of the class {name}, which is not defined here.", todo=todo)
    held = reader.read(data.get("fields", {}))
    try:
        if kind == "enum":
            return cls[data["member"]]
        if kind == "model":
            return _make_model(cls, held, data.get("unset", []))
        computed = {field.name for field in fields(cls) if not field.init}
        return cls(**{name: held[name] for name in held.keys() - computed})
    except Exception as error:
        what = f"The class {short} does not take what the journal holds of it: {_why(error)}"
        raise RefusedInput(what, todo=f"Define {short} as it was when the step ran.") from error


def _make_model(cls: Any, held: dict[str, Any], unset: list[str]) -> Any:
    """Validate a model anew; a field that its class has not any more is refused."""
    extra = "allow" if cls.model_config.get("extra") == "allow" else "forbid"
    given = held["root"] if issubclass(cls, RootModel) else held
    model = cls.model_validate(given, by_alias=False, by_name=True, extra=extra)
    model.model_fields_set.difference_update(unset)
    return model


def _pack_table(packer: _Packer, value: Any) -> Any:
    """Keep a table's bytes for the tape, and here what belongs to them; cells of any kind are written as JSON."""
    pd, pa = _pandas(), import_module("pyarrow")
    frame = value.to_frame("value") if value.ndim == 1 else value.copy(deep=False)
    loose = [place for place, dtype in enumerate(frame.dtypes) if dtype == "object"]
    for place in loose:
        cells = packer.each(value, enumerate(frame.iloc[:, place]))
        frame.isetitem(place, pd.array([canonical(cell).decode() for cell in cells], dtype="str"))
    with warnings.catch_warnings(action="error", category=UserWarning):
        table, sink = pa.Table.from_pandas(frame), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    packer.tables[digest(data)] = data
    shape = {"digest": digest(data), "rows": len(frame), "columns": list(map(str, frame.columns)), "loose": loose}
    freq = frame.index.freqstr if isinstance(frame.index, pd.DatetimeIndex | pd.TimedeltaIndex) else None
    packed = {_TAG: _kind(value), **shape, "freq": freq, "name": packer.pack(getattr(value, "name", None))}
    one, two = (table.to_frame() if table.ndim == 1 else table for table in (value, packer.back(packed)))
    firm = [place for place in range(frame.shape[1]) if place not in loose]
    pd.testing.assert_frame_equal(one.iloc[:, firm], two.iloc[:, firm], check_exact=True)
    return packed


def _read_table(reader: _Reader, data: dict[str, Any]) -> Any:
    pd, pa = _pandas(), import_module("pyarrow")
    raw = reader.fetch(data["digest"])
    if raw is None or digest(raw) != data["digest"]:
        raise JournalError(f"The table {data['digest'][:19]}… of a result is missing from the tape or was changed.")
    frame = pa.ipc.open_stream(raw).read_all().to_pandas()
    for place in data["loose"]:
        cells = [reader.read(json.loads(cell)) for cell in frame.iloc[:, place]]
        frame.isetitem(place, pd.Series(cells, index=frame.index, dtype=object))
    if data["freq"]:
        frame.index.freq = data["freq"]
    return frame if data[_TAG] == "frame" else frame["value"].rename(reader.read(data["name"]))


_pandas = partial(import_module, "pandas")
_PLAIN = {type(None), bool, str}
_EXACT = {float, list, dict, tuple, set, frozenset, bytes, datetime, date, time, timedelta, Decimal, UUID, Change}
_CONTAINERS = {"list", "tuple", "dict", "model", "dataclass", "frame", "series"}
_PANDAS = {
    "DataFrame": "frame", "Series": "series", "Timestamp": "stamp", "Timedelta": "span", "NaTType": "nat",
    "NAType": "na",
}  # fmt: skip
_CLASSES: dict[str, Callable[[type], bool]] = {
    "secret": lambda cls: issubclass(cls, SecretStr | SecretBytes | Secret),
    "enum": lambda cls: issubclass(cls, Enum),
    "model": lambda cls: issubclass(cls, BaseModel),
    "dataclass": is_dataclass,
    "numpy": lambda cls: cls.__module__ == "numpy" and issubclass(cls, sys.modules["numpy"].generic),
}
_TIMES: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat, "time": time.fromisoformat, "stamp": lambda text: _pandas().Timestamp(text),
}  # fmt: skip
_SCALARS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "float": (repr, float),
    "decimal": (str, Decimal),
    "uuid": (str, UUID),
    "date": (date.isoformat, date.fromisoformat),
    "timedelta": (lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
    "bytes": (lambda value: b64encode(value).decode("ascii"), lambda text: b64decode(text, validate=True)),
    "nat": (str, lambda text: _pandas().NaT),
    "na": (str, lambda text: _pandas().NA),
    "span": (lambda span: [span.isoformat(), span.unit], lambda kept: _pandas().Timedelta(kept[0]).as_unit(kept[1])),
}
_KINDS: dict[str, tuple[Callable[[_Packer, Any], Any], Callable[[_Reader, dict[str, Any]], Any]]] = {
    "json": (lambda packer, value: value, lambda reader, data: data["value"]),
    "list": (lambda packer, value: packer.each(value, enumerate(value)), lambda reader, data: data["value"]),
    "dict": (_pack_dict, lambda reader, data: {reader.read(key): reader.read(item) for key, item in data["items"]}),
    "tuple": (_pack_items, lambda reader, data: tuple(map(reader.read, data["items"]))),
    "set": (_pack_items, lambda reader, data: set(map(reader.read, data["items"]))),
    "frozenset": (_pack_items, lambda reader, data: frozenset(map(reader.read, data["items"]))),
    **dict.fromkeys(_TIMES, (_pack_time, _read_time)),
    **dict.fromkeys(("enum", "model", "dataclass"), (_pack_class, _read_class)),
    **dict.fromkeys(("frame", "series"), (_pack_table, _read_table)),
    "numpy": (_pack_numpy, _read_numpy),
    "change": (
        lambda packer, value: {_TAG: "change", "key": packer.changes.setdefault(value.key, value).key},
        lambda reader, data: reader.changes[data["key"]],
    ),
}
