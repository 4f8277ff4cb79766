"""A double of Loki: what is pushed can be queried by a strict part of LogQL.

Source: https://grafana.com/docs/loki/latest/reference/loki-http-api/
Source: https://grafana.com/docs/loki/latest/query/log_queries/
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rbkit.testing.double import Answer, Double, Request
from rbkit.testing.go_strings import unquote
from rbkit.testing.words import Words

__all__ = ["LokiDouble"]

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TOKEN = re.compile(
    r'\s*(?:(?P<op>\|=|!=|[{}|=,])|(?P<name>[a-zA-Z_]\w*)|(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`))', re.DOTALL
)
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_NS = 10**9
Fields = dict[str, str]
_Stage = Callable[[str, Fields], bool]


@dataclass(frozen=True, slots=True)
class _Entry:
    time: int
    line: str
    labels: Fields
    more: Fields


class LokiDouble(Double):
    """Answers `push` and `query_range` as Loki does; of LogQL it knows equality, `| json` and line filters.

    Args:
        tenant: The tenant that X-Scope-OrgID must name; empty when Loki runs without tenants.
        most: The most lines in one answer (`max_entries_limit_per_query`).
        oldest_s: The age from which lines are refused, seconds.
    """

    def __init__(self, tenant: str = "", most: int = 5_000, oldest_s: float = 7 * 86_400) -> None:
        super().__init__()
        self._tenant, self._most, self._oldest_s = tenant, most, oldest_s
        self._entries: dict[tuple[int, str, str], _Entry] = {}

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if self._tenant and request.headers.get("x-scope-orgid") != self._tenant:
            return Answer(401, "no org id\n", _TEXT)
        known = {
            ("POST", "/loki/api/v1/push"): self._push, ("GET", "/loki/api/v1/query_range"): self._range,
            ("GET", "/loki/api/v1/labels"): self._labels,
            ("GET", "/loki/api/v1/status/buildinfo"): self._build,
        }  # fmt: skip
        handler = known.get((request.method, request.path))
        if handler is None:
            return Answer(404, "404 page not found\n", _TEXT)
        try:
            return handler(request)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Answer(400, f"{error}\n", _TEXT)

    def _push(self, request: Request) -> Answer:
        if "json" not in request.headers.get("content-type", ""):
            raise ValueError("the double takes JSON only")
        entries = [entry for stream in request.json["streams"] for entry in _pushed(stream)]
        oldest = (time.time() - self._oldest_s) * _NS
        if any(entry.time < oldest for entry in entries):
            raise ValueError("entry has timestamp too old")
        self._entries |= {(e.time, e.line, json.dumps(e.labels, sort_keys=True)): e for e in entries}
        return Answer(204)

    def _build(self, request: Request) -> Answer:
        return Answer(200, {"version": "3.0.0-double", "revision": "", "branch": "", "goVersion": ""})

    def _labels(self, request: Request) -> Answer:
        """List the names of labels; where there are none the field is left out."""
        names = sorted({name for entry in self._entries.values() for name in entry.labels})
        return Answer(200, {"status": "success"} | ({"data": names} if names else {}))

    def _range(self, request: Request) -> Answer:
        start, end = int(request.one("start")), int(request.one("end"))
        limit, direction = int(request.one("limit", "100")), request.one("direction", "backward")
        if end < start:
            raise ValueError("end timestamp must not be before start time")
        if not 0 < limit <= self._most:
            raise ValueError(
                f"max entries limit per query exceeded, limit > max_entries_limit ({limit} > {self._most})"
            )
        if direction not in {"forward", "backward"}:
            raise ValueError(f"invalid direction {direction!r}")
        query = _Query(request.one("query"))
        found = [(e, fields) for e in self._entries.values() if start <= e.time < end and (fields := query.takes(e))]
        found.sort(key=lambda pair: pair[0].time, reverse=direction == "backward")
        return Answer(200, {"status": "success", "data": _streams(found[:limit])})


def _pushed(stream: Any) -> Iterator[_Entry]:
    labels = dict(stream["stream"])
    if not labels or any(not _NAME.fullmatch(name) or not isinstance(labels[name], str) for name in labels):
        raise ValueError("error at least one valid label pair is required per stream")
    for moment, line, *more in stream["values"]:
        if not isinstance(moment, str) or not isinstance(line, str):
            raise ValueError("a timestamp and a line are strings")
        yield _Entry(int(moment), line, labels, dict(more[0]) if more else {})


def _streams(found: list[tuple[_Entry, Fields]]) -> dict[str, Any]:
    streams: dict[str, dict[str, Any]] = {}
    for entry, fields in found:
        stream = streams.setdefault(json.dumps(fields, sort_keys=True), {"stream": fields, "values": []})
        stream["values"].append([str(entry.time), entry.line])
    return {"resultType": "streams", "result": list(streams.values()), "stats": {}}


class _Query:
    """A stream selector and the stages after it."""

    def __init__(self, text: str) -> None:
        self._words = Words(_TOKEN, text)
        self._labels = self._selector()
        self._stages: list[_Stage] = []
        while self._words:
            self._stages.append(self._stage())

    def takes(self, entry: _Entry) -> Fields:
        """Return the labels that a line ends up with; none when the query leaves it out."""
        fields = entry.labels | entry.more
        if any(entry.labels.get(name, "") != value for name, value in self._labels):
            return {}
        return fields if all(stage(entry.line, fields) for stage in self._stages) else {}

    def _selector(self) -> list[tuple[str, str]]:
        self._words.take("op", "{")
        found = []
        while True:
            name = self._words.take("name")
            self._words.take("op", "=")
            found.append((name, unquote(self._words.take("text"))))
            if self._words.take("op") == "}":
                break
        if not any(value for _, value in found):
            raise ValueError("queries require at least one matcher that does not have an empty-compatible value")
        return found

    def _stage(self) -> _Stage:
        op = self._words.take("op")
        if op in {"|=", "!="}:
            text = unquote(self._words.take("text"))
            return lambda line, fields: (text in line) is (op == "|=")
        if op != "|":
            raise ValueError(f"parse error: syntax error: unexpected {op}")
        name = self._words.take("name")
        if name == "json":
            return _extract
        equal, value = self._words.take("op"), unquote(self._words.take("text"))
        if equal not in {"=", "!="}:
            raise ValueError(f"parse error: syntax error: unexpected {equal}")
        return lambda line, fields: (fields.get(name, "") == value) is (equal == "=")


def _extract(line: str, fields: Fields) -> bool:
    """Read a line as JSON; its fields become labels, those within objects as `a_b`; it never leaves a line out."""
    try:
        data = json.loads(line)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        fields["__error__"] = "JSONParserErr"
        return True
    for name, value in _flat("", data):
        fields[f"{name}_extracted" if name in fields else name] = value
    return True


def _flat(before: str, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        name = before + re.sub(r"[^a-zA-Z0-9_]", "_", key)
        if isinstance(value, dict):
            yield from _flat(f"{name}_", value)
        elif not isinstance(value, list) and value is not None:
            yield name, value if isinstance(value, str) else json.dumps(value)
