"""A double of Elasticsearch: documents, their mappings, and a strict part of its search.

Source: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-search
Source: https://www.elastic.co/docs/reference/query-languages/query-dsl/query-dsl-query-string-query
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from rbkit.testing.double import Answer, Double, Request

__all__ = ["ElasticsearchDouble"]

_CLAUSE = re.compile(r'([\w.@-]+):(?:"((?:\\.|[^"\\])*)"|([\w.-]+))(?:\s+AND\s+|\s+|$)', re.DOTALL)
_BODY = {"size", "track_total_hits", "timeout", "query", "sort", "docvalue_fields"}
_MOST = 10_000
_NANOS = "strict_date_optional_time_nanos"
_Test = Callable[[dict[str, Any]], bool]


class _Wrong(Exception):
    def __init__(self, kind: str, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        cause = {"type": kind, "reason": reason}
        self.answer = Answer(status, {"error": {"root_cause": [cause], **cause}, "status": status})


class ElasticsearchDouble(Double):
    """Answers `PUT index`, `PUT index/_doc/id` and `POST index/_search` as Elasticsearch does.

    It knows the types keyword, text, long, boolean and date; a text that no mapping names becomes a text with a
    keyword beside it. Of queries it knows bool with filters: term, range, query_string with `field:"phrase"`.

    Args:
        api_key: The key that requests must carry; empty when anybody may ask.
    """

    def __init__(self, api_key: str = "") -> None:
        super().__init__()
        self._key = api_key
        self.readable = "*"
        self._types: dict[str, dict[str, str]] = {}
        self._documents: dict[str, dict[str, dict[str, Any]]] = {}

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if self._key and request.headers.get("authorization") != f"ApiKey {self._key}":
            return _Wrong("security_exception", "missing authentication credentials for REST request", 401).answer
        try:
            return self._answer(request)
        except _Wrong as wrong:
            return wrong.answer
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _Wrong("parsing_exception", f"{type(error).__name__}: {error}").answer

    def _answer(self, request: Request) -> Answer:
        match [request.method, *(unquote(part) for part in request.path.strip("/").split("/"))]:
            case ["GET", ""]:
                return Answer(200, {"name": "double", "version": {"number": "8.15.0-double"}, "tagline": "for search"})
            case ["POST" | "GET", "_security", "user", "_has_privileges"] if self._key:
                return self._may(request)
            case ["PUT", index]:
                return self._create(index, request)
            case ["PUT", index, "_doc", name]:
                return self._put(index, name, request)
            case ["POST", index, "_search"]:
                return self._search(index, request)
        raise _Wrong("illegal_argument_exception", f"no handler found for {request.method} {request.path}")

    def _may(self, request: Request) -> Answer:
        """Say whether the key's owner has privileges: reading only, on what `readable` names.

        Source: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-security-has-privileges
        """
        body = request.json
        if set(body) - {"index", "cluster", "application"}:
            raise _Wrong("parse_exception", f"failed to parse privilege check; unexpected field {min(body)}")
        named = {name: rule["privileges"] for rule in body["index"] for name in rule["names"]}
        found = {
            name: {word: word == "read" and fnmatchcase(name, self.readable) for word in words}
            for name, words in named.items()
        }
        whole = all(may for words in found.values() for may in words.values())
        return Answer(200, {
            "username": "rbkit", "has_all_requested": whole, "cluster": {}, "index": found, "application": {},
        })  # fmt: skip

    def _create(self, index: str, request: Request) -> Answer:
        if index in self._types:
            raise _Wrong("resource_already_exists_exception", f"index [{index}] already exists")
        properties = (request.json or {}).get("mappings", {}).get("properties", {})
        self._types[index] = {name: about["type"] for name, about in properties.items()}
        self._documents[index] = {}
        return Answer(200, {"acknowledged": True, "shards_acknowledged": True, "index": index})

    def _put(self, index: str, name: str, request: Request) -> Answer:
        source = request.json
        types = self._types.setdefault(index, {})
        for field, value in _flat(source):
            kind = types.setdefault(field, _kind(value))
            if kind == "date":
                _time(value)
            if kind == "text":
                types.setdefault(f"{field}.keyword", "keyword")
        self._documents.setdefault(index, {})[name] = source
        return Answer(201, {"_index": index, "_id": name, "result": "created"})

    def _search(self, wanted: str, request: Request) -> Answer:
        unknown = set(request.query) - {"allow_partial_search_results"}
        body = request.json
        if unknown or set(body) - _BODY:
            raise _Wrong("illegal_argument_exception", f"unrecognized: {sorted(unknown | (set(body) - _BODY))}")
        if body.get("size", 10) > _MOST:
            raise _Wrong("illegal_argument_exception", f"Result window is too large, size must be at most [{_MOST}]")
        found = [
            _hit(index, name, source, body) for index in self._matching(wanted)
            for name, source in self._documents[index].items() if self._test(body["query"], self._types[index])(source)
        ]  # fmt: skip
        found.sort(key=lambda hit: int(hit["sort"][0]), reverse=True)
        hits = {"max_score": None, "hits": found[: body.get("size", 10)]}
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        return Answer(200, {"took": 1, "timed_out": False, "_shards": shards, "hits": hits})

    def _matching(self, wanted: str) -> list[str]:
        for pattern in wanted.split(","):
            if "*" not in pattern and pattern not in self._documents:
                raise _Wrong("index_not_found_exception", f"no such index [{pattern}]", 404)
        return [name for name in self._documents if any(fnmatchcase(name, one) for one in wanted.split(","))]

    def _test(self, query: Any, types: dict[str, str]) -> _Test:
        ((kind, about),) = query.items()
        makers: dict[str, Callable[[Any, dict[str, str]], _Test]] = {
            "bool": self._bool, "term": _term, "range": _range, "query_string": _query_string,
        }  # fmt: skip
        if kind not in makers:
            raise _Wrong("parsing_exception", f"unknown query [{kind}]")
        return makers[kind](about, types)

    def _bool(self, about: Any, types: dict[str, str]) -> _Test:
        (filters,) = [about[key] for key in about if key == "filter"]
        tests = [self._test(one, types) for one in filters]
        return lambda source: all(test(source) for test in tests)


def _hit(index: str, name: str, source: dict[str, Any], body: Any) -> dict[str, Any]:
    ((field, order),) = body["sort"][0].items()
    if order["order"] != "desc" or any(one["format"] != _NANOS for one in body["docvalue_fields"]):
        raise _Wrong("parsing_exception", "the double sorts newest first, and knows one format")
    millis = _time(_value(source, field))
    shown = datetime.fromtimestamp(millis / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "_index": index, "_id": name, "_score": None, "_source": source, "sort": [millis],
        "fields": {one["field"]: [shown] for one in body["docvalue_fields"]},
    }  # fmt: skip


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "date" if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", value) else "text"
    return "long" if isinstance(value, int) else "object"


def _flat(source: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in source.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _value(source: dict[str, Any], field: str) -> Any:
    flat = dict(_flat(source))
    return flat.get(field, flat.get(field.removesuffix(".keyword")))


def _time(text: str) -> int:
    """Read a date at the resolution of the type date: whole milliseconds."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)


def _range(about: Any, types: dict[str, str]) -> _Test:
    ((field, bounds),) = about.items()
    if set(bounds) != {"gte", "lte", "format"} or bounds["format"] != _NANOS:
        raise _Wrong("parsing_exception", f"[range] query does not support {sorted(bounds)}")
    first, last = _time(bounds["gte"]), _time(bounds["lte"])
    return lambda source: (value := _value(source, field)) is not None and first <= _time(value) <= last


def _term(about: Any, types: dict[str, str]) -> _Test:
    ((field, more),) = about.items()
    value, kind = more["value"], types.get(field)
    if kind == "long" and not re.fullmatch(r"-?\d+", str(value)):
        raise _Wrong("number_format_exception", f'For input string: "{value}"')
    if kind == "boolean" and value not in ("true", "false", True, False):
        raise _Wrong("illegal_argument_exception", f"Can't parse boolean value [{value}]")
    return lambda source: kind is not None and _equals(_value(source, field), str(value), kind)


def _equals(found: Any, value: str, kind: str) -> bool:
    if kind == "text":
        return value in _words(str(found))
    return found is not None and (found if isinstance(found, str) else json.dumps(found)) == value


def _query_string(about: Any, types: dict[str, str]) -> _Test:
    if set(about) - {"query", "default_operator", "allow_leading_wildcard"} or about.get("default_operator") != "AND":
        raise _Wrong("parsing_exception", f"[query_string] query does not support {sorted(about)}")
    text, place, tests = about["query"].strip(), 0, list[_Test]()
    while place < len(text):
        clause = _CLAUSE.match(text, place)
        if clause is None:
            raise _Wrong("query_shard_exception", f"Failed to parse query [{text}]")
        value = clause[3] if clause[2] is None else re.sub(r"\\(.)", r"\1", clause[2], flags=re.DOTALL)
        tests.append(_phrase(clause[1], value, types))
        place = clause.end()
    return lambda source: all(test(source) for test in tests)


def _phrase(field: str, value: str, types: dict[str, str]) -> _Test:
    if types.get(field) != "text":
        return _term({field: {"value": value}}, types)
    wanted = _words(value)

    def test(source: dict[str, Any]) -> bool:
        words = _words(str(_value(source, field)))
        return any(words[place : place + len(wanted)] == wanted for place in range(len(words)))

    return test


def _words(text: str) -> list[str]:
    """Take a text apart as the standard analyzer does, roughly."""
    return re.findall(r"\w+", text.lower())
