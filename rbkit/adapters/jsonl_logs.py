"""Log files with one JSON object a line."""

import asyncio
import glob
import json
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rbkit.errors import Unreachable
from rbkit.ports import Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JsonlLogs"]


class JsonlLogs:
    """Reads JSON-lines files.

    Args:
        files: A path with wildcards, for example `/var/log/checkout/*.jsonl`.
        time: The field with the time, ISO 8601.
        level: The field with the level.
        message: The field with the message.
    """

    language: ClassVar[Language] = "fields"

    def __init__(self, files: str, time: str = "time", level: str = "level", message: str = "message") -> None:
        self._files, self._time, self._level, self._message = files, time, level, message

    async def search(self, where: Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: Fields and the exact values they must have.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level` (text), `message` (text), `attributes` (mappings).

        Raises:
            Unreachable: A file cannot be read.
        """
        return await asyncio.to_thread(self._search, dict(where), window, limit)

    async def aclose(self) -> None:
        """Nothing to give back."""

    def _search(self, where: dict[str, str], window: Window, limit: int) -> "pd.DataFrame":
        import pandas as pd

        newest: deque[dict[str, Any]] = deque(sorted(self._rows(where, window), key=_time), maxlen=limit)
        frame = pd.DataFrame(list(newest), columns=["time", "level", "message", "attributes"])
        frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ns, UTC]")
        return frame

    def _rows(self, where: dict[str, str], window: Window) -> Iterator[dict[str, Any]]:
        for name in sorted(glob.glob(self._files)):
            try:
                with Path(name).open(encoding="utf-8", errors="replace") as lines:
                    yield from (row for line in lines if (row := self._row(line, where, window)))
            except OSError as error:
                raise Unreachable(f"The log {name} cannot be read: {error.strerror}.") from error

    def _row(self, line: str, where: dict[str, str], window: Window) -> dict[str, Any] | None:
        """Read one line; a line that is no JSON object, such as one half written, is no log line."""
        try:
            data = json.loads(_clean(line))
            moment = datetime.fromisoformat(data[self._time])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not window.start <= moment <= window.end or any(str(data.get(k)) != v for k, v in where.items()):
            return None
        rest = {k: v for k, v in data.items() if k not in {self._time, self._level, self._message}}
        level, message = str(data.get(self._level, "")), str(data.get(self._message, ""))
        return {"time": moment, "level": level, "message": message, "attributes": rest}


def _clean(line: str) -> str:
    """Replace lone surrogates, which JSON can escape and nothing else can hold."""
    if "\\ud" not in line.lower():
        return line
    text = json.dumps(json.loads(line), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _time(row: dict[str, Any]) -> datetime:
    moment: datetime = row["time"]
    return moment
