"""Elasticsearch and OpenSearch: log lines by fields or by Lucene's query language.

Source: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-search
Source: https://docs.opensearch.org/latest/api-reference/search-apis/search/
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from pydantic import SecretStr

from rbkit.adapters.lines import MALFORMED, Row, fields, inside, moment, tidy
from rbkit.adapters.signal_http import Scheme, SignalHttp
from rbkit.adapters.told import told
from rbkit.errors import BadAnswer, NotFound, Refused
from rbkit.ports import Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Elasticsearch"]

_FORMAT = "strict_date_optional_time_nanos"


class Elasticsearch:
    """Reads log lines from indices or data streams.

    Args:
        url: The cluster's address, with the path before the index if there is one.
        index: Which indices, for example `logs-checkout-*`; several are separated by commas.
        time: The field with the time.
        level: The field with the level; a dot leads into an object.
        message: The field with the message.
        page: How many lines are asked for at once; a cluster answers at most 10,000 unless that was changed.
        token: An API key, or another token.
        scheme: The word before the token: ApiKey or Bearer.
        user: The user's name, where it asks for a password.
        password: The user's password.
    """

    language: ClassVar[Language] = "lucene"

    def __init__(
        self, url: str, index: str, *, time: str = "@timestamp", level: str = "log.level", message: str = "message",
        page: int = 2_000, token: SecretStr | None = None, scheme: Scheme = "ApiKey", user: str = "",
        password: SecretStr | None = None,
    ) -> None:  # fmt: skip
        self._http = SignalHttp(url, "Elasticsearch", token, scheme=scheme, user=user, password=password)
        self._index = index
        self._path = f"/{quote(index, safe='*,')}/_search"
        self._time, self._level, self._message, self._page = time, level, message, page

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: A Lucene query, already rendered; or fields and the exact values that they must have. A field of
                the type text is never exact: name its keyword, for example `service.keyword`.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level`, `message` (text), `attributes` (mappings: the other
            fields).

        Raises:
            NotFound: There is no such index.
            BadAnswer: The query is wrong, or the answer has not the documented form or is incomplete.
            Unreachable: The cluster did not answer.
        """
        question = _query(where)
        try:
            found = await self._newest(question, window, limit)
            rows = [self._row(hit) for hit in found]
            return tidy("logs", (row for row in rows if inside(row, window)), limit)
        except MALFORMED as error:
            raise BadAnswer("Elasticsearch answered in a form that its API does not document.", fault=True) from error

    def sent(self, where: Mapping[str, str]) -> str:
        """Say how fields read in the query that is sent."""
        return json.dumps(_query(where), ensure_ascii=False)

    async def ping(self) -> str:
        """Ask what it is, and whether we may read the indices; where nobody asks who we are, by an empty search.

        Raises:
            Refused: The right to read is missing: a search with wildcards would find nothing then, and not say why.
            BadAnswer: It does not answer as documented.
            Unreachable: It did not answer.
        """
        try:
            return f"{await self._product()}, {await self._reader()}; reads {self._index}"
        except MALFORMED as error:
            raise BadAnswer("Elasticsearch answered in a form that its API does not document.", fault=True) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _product(self) -> str:
        try:
            version = (await self._http.read("/"))["version"]
        except (NotFound, BadAnswer):
            return "Elasticsearch, which does not tell its version"
        return f"{told(version.get('distribution', 'Elasticsearch'))} {told(version['number'])}"

    async def _reader(self) -> str:
        """Say as whom we may read."""
        wanted = {"index": [{"names": self._index.split(","), "privileges": ["read"]}]}
        try:
            answer = await self._http.ask("/_security/user/_has_privileges", wanted)
        except (NotFound, BadAnswer):  # OpenSearch, or security is off
            now = _iso(datetime.now(UTC))
            await self._ask([], now, now, 1)
            return self._http.who
        user = told(answer["username"])
        if not answer["has_all_requested"]:
            raise Refused(f"{user} may not read {self._index}.", todo="Grant it `read` on these indices.")
        return f"as {user}"

    async def _newest(self, question: list[Any], window: Window, limit: int) -> list[Any]:
        """Ask page by page, backwards.

        The next page begins with the oldest moment of the one before, as more lines may have that moment; what was
        seen already is left out. It needs no second field to sort by, which not every index has.
        """
        seen: dict[tuple[str, str], Any] = {}
        start, end = _iso(window.start), _iso(window.end)
        while len(seen) < limit:
            asked = min(self._page, limit)
            page = await self._ask(question, start, end, asked)
            new = {key: hit for hit in page if (key := (str(hit["_index"]), str(hit["_id"]))) not in seen}
            seen |= new
            if len(page) < asked:
                break
            if not new:
                raise BadAnswer(f"More than {asked} lines have the same moment.", todo="Narrow the query.")
            end = str(page[-1]["fields"][self._time][0])
        return list(seen.values())

    async def _ask(self, question: list[Any], start: str, end: str, size: int) -> list[Any]:
        span = {"range": {self._time: {"gte": start, "lte": end, "format": _FORMAT}}}
        answer = await self._http.ask(self._path, {
            "size": size, "track_total_hits": False, "timeout": "10s",
            "query": {"bool": {"filter": [span, *question]}},
            "sort": [{self._time: {"order": "desc", "unmapped_type": "date"}}],
            "docvalue_fields": [{"field": self._time, "format": _FORMAT}],
        }, {"allow_partial_search_results": "false"})  # fmt: skip
        if answer["timed_out"] or answer["_shards"]["failed"]:
            raise BadAnswer("Elasticsearch could not search everything: a shard failed or was late.", fault=True)
        hits: list[Any] = answer["hits"]["hits"]
        return hits

    def _row(self, hit: Any) -> Row:
        source = dict(hit["_source"])
        level, message = _take(source, self._level), _take(source, self._message)
        _take(source, self._time)
        time = moment(hit["fields"][self._time][0])
        return {"time": time, "level": level, "message": message, "attributes": source}


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _query(where: str | Mapping[str, str]) -> list[Any]:
    if isinstance(where, str):
        return [{"query_string": {"query": where, "default_operator": "AND", "allow_leading_wildcard": False}}]
    return [{"term": {name: {"value": value}}} for name, value in fields(where, "Elasticsearch").items()]


def _take(source: dict[str, Any], name: str) -> Any:
    """Take a field out of a document, where a dot leads into an object unless the name itself has it."""
    if name in source:
        return source.pop(name)
    first, _, rest = name.partition(".")
    inner = source.get(first)
    if not rest or not isinstance(inner, dict):
        return ""
    source[first] = inner = dict(inner)
    return _take(inner, rest)
