"""Elasticsearch answers in the documented form and completely, or not at all."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.adapters.elasticsearch import Elasticsearch
from rbkit.errors import BadAnswer, NotFound, ParameterError, Unreachable
from rbkit.ports import Window
from rbkit.testing.double import Answer, Double, Request

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=1), NOW, 1.0)


def hit(age_s: float, name: str, index: str = "logs", **source: Any) -> dict[str, Any]:
    """Make a hit."""
    time = (NOW - timedelta(seconds=age_s)).isoformat().replace("+00:00", "Z")
    return {"_index": index, "_id": name, "_source": {"message": name} | source, "fields": {"@timestamp": [time]}}


def hits(*found: Any, **more: Any) -> dict[str, Any]:
    """Wrap hits as Elasticsearch does."""
    return {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": list(found)}} | more


def asked(server: Any, where: Any = None, limit: int = 10, **options: Any) -> Any:
    """Ask a server."""

    async def work(url: str) -> Any:
        source = Elasticsearch(url, options.pop("index", "logs-*"), **options)
        try:
            return await source.search({} if where is None else where, WINDOW, limit)
        finally:
            await source.aclose()

    return server.use(work)


def test_the_question_holds_values_as_json_only(server) -> None:
    """Fields are terms of a filter; the range has both ends; partial answers are not wanted; the key is sent."""
    where = {"service.keyword": 'a" OR *:*', "n": "4"}
    asked(server.json(hits()), where, token=SecretStr("a2V5"), index="logs-checkout-*,logs/x")
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    line = b"POST /logs-checkout-*,logs%2Fx/_search?allow_partial_search_results=false HTTP/1.1"
    assert head.splitlines()[0] == line and b"Authorization: ApiKey a2V5" in head
    question = json.loads(body)
    span = {"gte": "2026-01-01T11:59:00.000000Z", "lte": "2026-01-01T12:00:00.000000Z"}
    assert question["query"]["bool"]["filter"] == [
        {"range": {"@timestamp": span | {"format": "strict_date_optional_time_nanos"}}},
        {"term": {"service.keyword": {"value": 'a" OR *:*'}}}, {"term": {"n": {"value": "4"}}},
    ]  # fmt: skip
    assert question["size"] == 10 and question["sort"] == [{"@timestamp": {"order": "desc", "unmapped_type": "date"}}]


def test_a_written_query_is_sent_as_it_is(server) -> None:
    """All its words must hold, and nothing begins with a wildcard."""
    asked(server.json(hits()), 'service:"a"', time="t", scheme="Bearer", token=SecretStr("x"))
    question = json.loads(server.asked[0].partition(b"\r\n\r\n")[2])
    assert question["query"]["bool"]["filter"][1] == {
        "query_string": {"query": 'service:"a"', "default_operator": "AND", "allow_leading_wildcard": False}
    }
    assert list(question["query"]["bool"]["filter"][0]["range"]) == ["t"] and b"Bearer x" in server.asked[0]


def test_a_broken_character_is_refused(server) -> None:
    """Before anything is asked."""
    with pytest.raises(ParameterError):
        asked(server.json(hits()), {"service": "\ud800"})


def test_documents_give_their_fields(server) -> None:
    """Names with dots lead into objects, unless the document writes them so; what is missing is empty."""
    found = [
        hit(3, "a", log={"level": "info", "file": "f"}, n=4, **{"@timestamp": "x"}),
        hit(2, "b", **{"log.level": "warn"}),
        hit(1, "c", log="text"), hit(0, "d", log={"other": 1}),
    ]  # fmt: skip
    frame = asked(server.json(hits(*found)))
    assert frame["level"].tolist() == ["info", "warn", "", ""] and frame["message"].tolist() == ["a", "b", "c", "d"]
    assert frame["attributes"].tolist() == [{"n": 4, "log": {"file": "f"}}, {}, {"log": "text"}, {"log": {"other": 1}}]


def test_lines_outside_the_window_are_left_out(server) -> None:
    """Dates are kept in milliseconds there: what is a little too early is left out here."""
    found = [hit(-0.001, "late"), hit(0, "last"), hit(60, "first"), hit(60.0004, "early")]
    assert asked(server.json(hits(*found)))["message"].tolist() == ["first", "last"]


class Pages(Double):
    """Answers with one page after the other.

    Args:
        pages: The hits of each page.
    """

    def __init__(self, *pages: list[Any]) -> None:
        super().__init__()
        self._pages = list(pages)

    def answer(self, request: Request) -> Answer:
        """Answer with the next page."""
        return Answer(200, hits(*self._pages.pop(0)))


def paged(double: Pages, limit: int) -> Any:
    """Ask for pages of two lines."""

    async def work() -> Any:
        source = Elasticsearch(double.url, "logs", page=2)
        try:
            return await source.search({}, WINDOW, limit)
        finally:
            await source.aclose()

    return asyncio.run(work())


def test_pages_go_back_in_time_without_loss_or_repetition() -> None:
    """The next page begins with the last one's oldest moment; the same name in another index is another line."""
    pages = [[hit(0, "a"), hit(5, "b")], [hit(5, "b"), hit(5, "b", "other")], [hit(5, "b"), hit(9, "d")], [hit(9, "d")]]
    with Pages(*pages) as double:
        assert paged(double, 10)["message"].tolist() == ["d", "b", "b", "a"]
        ends = [r.json["query"]["bool"]["filter"][0]["range"]["@timestamp"]["lte"][11:19] for r in double.requests]
        assert ends == ["12:00:00", "11:59:55", "11:59:55", "11:59:51"]
    with Pages(*pages) as double:
        assert paged(double, 3)["message"].tolist() == ["b", "b", "a"] and len(double.requests) == 2


def test_more_lines_of_one_moment_than_fit_are_refused() -> None:
    """Nothing says which ones would be missing."""
    same = [hit(5, "b"), hit(5, "c")]
    with Pages(same, same) as double, pytest.raises(BadAnswer, match="More than 2 lines have the same moment"):
        paged(double, 10)


@pytest.mark.parametrize("more", [{"timed_out": True}, {"_shards": {"failed": 1}}])
def test_an_incomplete_answer_is_refused(server, more) -> None:
    """Lines that a shard did not give are no evidence that there are none."""
    with pytest.raises(BadAnswer, match="could not search everything"):
        asked(server.json(hits(hit(1, "a"), **more)))


@pytest.mark.parametrize(
    "answer",
    [
        None, [], {}, hits() | {"hits": None}, hits(None), hits({"_index": "a"}), hits(hit(1, "a") | {"fields": {}}),
        hits(hit(1, "a") | {"fields": {"@timestamp": []}}), hits(hit(1, "a") | {"fields": {"@timestamp": ["x"]}}),
        hits(hit(1, "a") | {"_source": None}),
    ],
)  # fmt: skip
def test_another_form_is_a_bad_answer(server, answer) -> None:
    """It is refused, never half read."""
    with pytest.raises(BadAnswer, match="does not document"):
        asked(server.json(answer))


def test_errors_are_said_in_the_servers_words(server) -> None:
    """No such index, a wrong query, and a server that is not there."""
    with pytest.raises(NotFound, match="no such index"):
        asked(server.json({"error": {"reason": "no such index [x]"}}, 404))
    with pytest.raises(BadAnswer, match="400: .*Failed to parse query"):
        asked(server.json({"error": {"reason": "Failed to parse query [x]"}}, 400))
    server.reply = b""
    with pytest.raises(Unreachable, match="Elasticsearch at"):
        asked(server)
