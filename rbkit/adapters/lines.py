"""What every source of lines shares: tidy tables of log lines, spans and alerts, and the fields that select them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rbkit.errors import ParameterError, SettingsError
from rbkit.ports import LINES, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MALFORMED", "Row", "fields", "inside", "matches", "moment", "nanoseconds", "plain", "tidy"]

Row = dict[str, Any]
"""One line: the columns of its kind; `time` in nanoseconds since 1970."""

MALFORMED = (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading an answer raises that has not the documented form; nothing else is caught with it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEEPEST = 20
_NUMBERS = {"duration_ms"}


def tidy(kind: str, rows: Iterable[Row], limit: int) -> "pd.DataFrame":
    """Make the table of a kind of line.

    Args:
        kind: A kind of `LINES`.
        rows: The lines, in any order.
        limit: The most lines to keep; the newest are kept.

    Returns:
        DataFrame: `time` (datetime64[ns, UTC]), the kind's columns (text; `duration_ms` float64), `attributes`
        (mappings); newest last.

    Raises:
        ValueError: A time is beyond what a table can hold.
    """
    import pandas as pd

    newest = sorted(rows, key=lambda row: int(row["time"]))
    newest = newest[max(0, len(newest) - limit) :]
    columns = {name: [_cell(name, row) for row in newest] for name in LINES[kind] if name != "time"}
    try:
        times = pd.to_datetime(pd.Series([row["time"] for row in newest], dtype="int64"), unit="ns", utc=True)
    except OverflowError as error:
        raise ValueError("a time is beyond what a table can hold") from error
    frame = pd.DataFrame({"time": times.astype("datetime64[ns, UTC]"), **columns})
    numbers = dict.fromkeys(_NUMBERS & set(columns), "float64")
    return frame.astype({name: "object" for name in columns if name == "attributes"} | numbers)


def _cell(name: str, row: Row) -> Any:
    value = row[name]
    return plain(value) if name == "attributes" else value if name in _NUMBERS else plain(str(value))


def plain(value: Any, depth: int = 0) -> Any:
    """Make a value that the record can hold: no broken characters, no number beyond 64 bits, not too deep.

    Args:
        value: A JSON value.
        depth: How deep it lies.

    Returns:
        The value, with what cannot be held written as text.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"{float(value):g}" if value.bit_length() < 1_000 else "beyond all bounds"
    if isinstance(value, Mapping | list):
        if depth >= _DEEPEST:
            return "…"
        if isinstance(value, list):
            return [plain(item, depth + 1) for item in value]
        return {plain(str(key)): plain(item, depth + 1) for key, item in value.items()}
    return value


def fields(where: str | Mapping[str, str], name: str) -> dict[str, str]:
    """Take the fields that select lines, where a source has no query language.

    Args:
        where: Fields and the exact values they must have.
        name: The source, for the error.

    Raises:
        SettingsError: It is a query.
        ParameterError: A value holds a broken character.
    """
    if isinstance(where, str):
        raise SettingsError(f"{name} has no queries: {where[:80]!r}.", todo="Write `where` with fields and values.")
    for key, value in where.items():
        try:
            f"{key}{value}".encode()
        except UnicodeEncodeError as error:
            raise ParameterError(f"The value for {key!r} holds a broken character.", field="where") from error
    return dict(where)


def matches(row: Row, where: Mapping[str, str]) -> bool:
    """Whether a line has exactly these values, in its columns or its attributes."""
    return all(
        _text(row["attributes"].get(key) if key not in row else row[key]) == value for key, value in where.items()
    )


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def inside(row: Row, window: Window) -> bool:
    """Whether a line's time lies in a window; both ends belong to it."""
    time: int = row["time"]
    return nanoseconds(window.start) <= time <= nanoseconds(window.end)


def nanoseconds(time: datetime) -> int:
    """Count the nanoseconds from 1970 to a moment."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1_000


def moment(text: str) -> int:
    """Read a moment as RFC 3339 writes it.

    Returns:
        Nanoseconds since 1970, exact to the microsecond.

    Raises:
        ValueError: It is none, or has no zone.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return nanoseconds(time)
