"""Loki: log lines by LogQL.

Source: https://grafana.com/docs/loki/latest/reference/loki-http-api/#query-logs-within-a-range-of-time
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SecretStr

from rbkit.adapters.lines import MALFORMED, Row, fields, inside, nanoseconds, tidy
from rbkit.adapters.signal_http import SignalHttp
from rbkit.adapters.told import told
from rbkit.errors import BadAnswer, NotFound, SettingsError
from rbkit.ports import Language, Window
from rbkit.queries import promql_string

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Loki"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_Entry = tuple[int, str, dict[str, Any]]


class Loki:
    """Reads log lines. A line that is a JSON object gives its fields, any other is the message itself.

    Args:
        url: Its address, with the path before `/loki/api/v1` if there is one.
        labels: The labels of its streams by which `where` may select; other fields are looked for in the lines.
        select: Labels and values that every stream must have, whatever is asked.
        level: The label or field with the level; `detected_level` where a line has none.
        message: The field with the message.
        page: How many lines are asked for at once; the server's own limit is 5,000 unless it was changed.
        token: A bearer token.
        user: The user's name, where it asks for a password.
        password: The user's password.
        tenant: Whose lines are meant, sent as X-Scope-OrgID.
    """

    language: ClassVar[Language] = "logql"

    def __init__(
        self, url: str, *, labels: str | Sequence[str] = ("service", "service_name", "job", "app", "namespace"),
        select: Mapping[str, str] | None = None, level: str = "level", message: str = "message", page: int = 5_000,
        token: SecretStr | None = None, user: str = "", password: SecretStr | None = None, tenant: str = "",
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Loki", token, user=user, password=password, tenant=tenant)
        self._labels, self._select = frozenset([labels] if isinstance(labels, str) else labels), dict(select or {})
        self._level, self._message, self._page = level, message, page

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: LogQL, already rendered; or labels and fields with the exact values that they must have.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level`, `message` (text), `attributes` (mappings: the stream's
            labels and the line's other fields).

        Raises:
            SettingsError: Nothing selects a stream, or a field's name is none in LogQL.
            BadAnswer: The query is wrong, or the answer has not the documented form.
            Unreachable: The server did not answer.
        """
        query = where if isinstance(where, str) else self._logql(fields(where, "Loki"))
        try:
            found = await self._newest(query, window, limit)
            rows = [self._row(*entry) for entry in found]
            return tidy("logs", (row for row in rows if inside(row, window)), limit)
        except MALFORMED as error:
            raise BadAnswer("Loki answered in a form that its API does not document.", fault=True) from error

    def sent(self, where: Mapping[str, str]) -> str:
        """Say how fields read in the query that is sent."""
        return self._logql(fields(where, "Loki"))

    async def ping(self) -> str:
        """List the labels, and ask for the version, which a gateway may hide."""
        answer = await self._http.read("/loki/api/v1/labels")
        try:
            if answer["status"] != "success":
                raise BadAnswer(f"Loki did not list its labels: {str(answer)[:200]}")
            labels = len(answer.get("data") or [])
        except MALFORMED as error:
            raise BadAnswer("Loki answered in a form that its API does not document.", fault=True) from error
        return f"{await self._product()}, {self._http.who}; reads, {labels} label(s) in the last hours"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _product(self) -> str:
        try:
            return f"Loki {told((await self._http.read('/loki/api/v1/status/buildinfo'))['version'])}"
        except (NotFound, BadAnswer, *MALFORMED):
            return "Loki, which does not tell its version"

    def _logql(self, where: Mapping[str, str]) -> str:
        wrong = [name for name in (*self._select, *where) if not _NAME.fullmatch(name)]
        if wrong:
            raise SettingsError(f"{wrong[0]!r} is no label for Loki.", todo="Write a_b for the field b within a.")
        labels = [*self._select.items(), *((name, value) for name, value in where.items() if name in self._labels)]
        if not labels:
            known = ", ".join(sorted(self._labels))
            raise SettingsError("Loki needs a label that selects streams.", todo=f"Put one of {known} into `where`.")
        rest = [(name, value) for name, value in where.items() if name not in self._labels]
        selector = ", ".join(f"{name}={promql_string(value)}" for name, value in labels)
        stages = "".join(f" | {name}={promql_string(value)}" for name, value in rest)
        return f"{{{selector}}}" + (f" | json{stages}" if rest else "")

    async def _newest(self, query: str, window: Window, limit: int) -> list[_Entry]:
        """Ask page by page, backwards, as the server caps what it answers at once.

        The next page begins with the oldest moment of the one before, as more lines may have that moment; what was
        seen already is left out, which loses nothing: Loki keeps no two same lines of one stream and moment.
        """
        seen: dict[tuple[int, str, str], _Entry] = {}
        end = nanoseconds(window.end) + 1
        while len(seen) < limit:
            asked = min(self._page, limit)
            page = list(_entries(await self._ask(query, nanoseconds(window.start), end, asked)))
            new = {key: entry for entry in page if (key := _key(entry)) not in seen}
            seen |= new
            if len(page) < asked:
                break
            if not new:
                raise BadAnswer(f"More than {asked} lines have the same moment.", todo="Narrow the query.")
            end = min(time for time, _, _ in page) + 1
        return list(seen.values())

    async def _ask(self, query: str, start: int, end: int, limit: int) -> Any:
        asked = {"query": query, "start": str(start), "end": str(end), "limit": str(limit), "direction": "backward"}
        answer = await self._http.read("/loki/api/v1/query_range", asked)
        if answer["status"] != "success" or answer["data"]["resultType"] != "streams":
            raise BadAnswer(f"Loki did not answer with lines: {str(answer)[:200]}")
        return answer["data"]["result"]

    def _row(self, time: int, line: str, labels: dict[str, Any]) -> Row:
        said = _object(line)
        about = labels | said
        level = about.pop(self._level, None) or about.get("detected_level", "")
        message = about.pop(self._message) if self._message in said else line
        return {"time": time, "level": level, "message": message, "attributes": about}


def _entries(streams: Any) -> Iterator[_Entry]:
    """List the lines of an answer; what stands third beside a line are more labels of this line alone."""
    for stream in streams:
        labels = dict(stream["stream"])
        for time, line, *more in stream["values"]:
            yield int(time), str(line), labels | (dict(more[0]) if more else {})


def _key(entry: _Entry) -> tuple[int, str, str]:
    time, line, labels = entry
    return time, line, json.dumps(labels, sort_keys=True)


def _object(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        return dict(json.loads(line))
    except (ValueError, RecursionError):
        return {}
