"""The double of Elasticsearch answers what Elasticsearch documents, and refuses what it refuses."""

from typing import Any

import pytest

from rbkit.testing.elasticsearch import ElasticsearchDouble
from testing.asking import ask

RANGE = {
    "range": {
        "at": {
            "gte": "2026-01-01T00:00:00Z",
            "lte": "2026-01-01T00:00:09Z",
            "format": "strict_date_optional_time_nanos",
        }
    }
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "1": {
        "at": "2026-01-01T00:00:01Z",
        "text": "Disk is FULL again",
        "word": "a b",
        "n": 4,
        "on": True,
        "o": {"x": "y"},
    },
    "2": {"at": "2026-01-01T00:00:02.123456Z", "text": "full disk", "word": "c", "n": 5, "on": False},
    "3": {"at": "2026-01-01T00:01:00Z", "text": "late"},
    "4": {"text": "without a time"},
}


@pytest.fixture(scope="module")
def elastic():
    """A double with one index of a mapping and one without."""
    with ElasticsearchDouble() as double:
        types = {"at": {"type": "date"}, "word": {"type": "keyword"}, "n": {"type": "long"}}
        assert ask(double, "PUT", "/logs-a", {"mappings": {"properties": types}})[0] == 200
        for name, document in DOCUMENTS.items():
            assert ask(double, "PUT", f"/logs-a/_doc/{name}", document)[0] == 201
        assert ask(double, "PUT", "/free/_doc/1", {"at": "2026-01-01T00:00:01Z", "user": "Ann Lee"})[0] == 201
        yield double


def search(double: ElasticsearchDouble, *filters: Any, index: str = "logs-a", **more: Any) -> Any:
    """Search an index."""
    body = {
        "size": 10, "query": {"bool": {"filter": [RANGE, *filters]}}, "sort": [{"at": {"order": "desc"}}],
        "docvalue_fields": [{"field": "at", "format": "strict_date_optional_time_nanos"}],
    } | more  # fmt: skip
    return ask(double, "POST", f"/{index}/_search", body)


def found(double: ElasticsearchDouble, *filters: Any, **more: Any) -> list[str]:
    """List the documents that a search finds."""
    status, answer = search(double, *filters, **more)
    assert status == 200 and answer["timed_out"] is False and answer["_shards"]["failed"] == 0, answer
    return [hit["_id"] for hit in answer["hits"]["hits"]]


def term(field: str, value: Any) -> Any:
    """Write a term."""
    return {"term": {field: {"value": value}}}


def words(text: str) -> Any:
    """Write a query in Lucene's language."""
    return {"query_string": {"query": text, "default_operator": "AND", "allow_leading_wildcard": False}}


def test_the_newest_come_first_within_the_range(elastic):
    """Dates are kept in milliseconds; a document without a time is in no range; the size cuts the oldest."""
    _, answer = search(elastic)
    assert [hit["_id"] for hit in answer["hits"]["hits"]] == ["2", "1"]
    assert answer["hits"]["hits"][0]["fields"] == {"at": ["2026-01-01T00:00:02.123Z"]}
    assert answer["hits"]["hits"][1]["_source"] == DOCUMENTS["1"] and found(elastic, size=1) == ["2"]


def test_terms_are_exact_but_on_texts_they_are_words(elastic):
    """A keyword is a whole; a text is its words in small letters; numbers and booleans by their text."""
    assert found(elastic, term("word", "a b")) == ["1"] and found(elastic, term("word", "a")) == []
    assert found(elastic, term("text", "full")) == ["2", "1"] and found(elastic, term("text", "FULL")) == []
    assert found(elastic, term("text", "full disk")) == [] and found(elastic, term("text.keyword", "full disk")) == [
        "2"
    ]
    assert found(elastic, term("n", "4")) == ["1"] and found(elastic, term("on", "false")) == ["2"]
    assert found(elastic, term("o.x", "y")) == ["1"] and found(elastic, term("nothing", "x")) == []
    assert found(elastic, term("user", "ann"), index="free") == ["1"]
    assert found(elastic, term("user.keyword", "Ann Lee"), index="free") == ["1"]


def test_a_query_string_is_a_list_of_fields_and_phrases(elastic):
    """A phrase on a text is its words in a row, on a keyword the whole."""
    assert found(elastic, words('text:"disk is full"')) == ["1"] and found(elastic, words('text:"full is"')) == []
    assert found(elastic, words('word:"a b" AND n:4')) == ["1"] and found(elastic, words('word:"a" n:4')) == []
    assert found(elastic, words('word:"a\\"b"')) == []


@pytest.mark.parametrize(
    "one",
    [
        words("a OR b"), words('n:"4'), words("*:*"), {"query_string": {"query": "a:b"}}, {"match": {"a": "b"}},
        words("n:x"), term("n", "x"), term("on", "maybe"), {"term": {"word": "a"}},
        {"range": {"at": {"gte": "2026-01-01"}}},
        {"bool": {"must": []}}, {"range": {"at": {**RANGE["range"]["at"], "gte": "yesterday"}}}, {},
    ],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(elastic, one):
    """Unknown queries, wrong types, what cannot be parsed."""
    status, answer = search(elastic, one)
    assert status == 400 and answer["error"]["reason"] and answer["status"] == 400


@pytest.mark.parametrize(
    "more",
    [
        {"size": 10_001}, {"from": 5}, {"sort": [{"at": {"order": "asc"}}]},
        {"docvalue_fields": [{"field": "at", "format": "epoch_millis"}]},
    ],
)  # fmt: skip
def test_a_search_that_is_none_is_refused(elastic, more):
    """More than the window of results, fields that it does not know."""
    assert search(elastic, **more)[0] == 400


def test_indices_are_found_by_name_and_wildcard(elastic):
    """One that is not there is an error only when it was named."""
    assert found(elastic, index="logs-*,no-*") == ["2", "1"] and found(elastic, index="nothing*") == []
    status, answer = search(elastic, index="logs-a,missing")
    assert status == 404 and answer["error"]["type"] == "index_not_found_exception"
    assert ask(elastic, "PUT", "/logs-a", {})[0] == 400


def test_other_requests_are_refused(elastic):
    """Paths, parameters and documents that it does not know."""
    assert ask(elastic, "GET", "/_cat/indices")[0] == 400
    assert ask(elastic, "POST", "/logs-a/_search", {"query": RANGE}, scroll="1m")[0] == 400
    assert ask(elastic, "PUT", "/logs-a/_doc/9", {"at": "yesterday"})[0] == 400
    assert ask(elastic, "PUT", "/logs-a/_doc/9", [1])[0] == 400


def test_a_key_must_be_shown():
    """Where security is on."""
    with ElasticsearchDouble("key") as double:
        assert ask(double, "PUT", "/a", {})[0] == 401
        assert ask(double, "PUT", "/a", {}, headers={"Authorization": "ApiKey key"})[0] == 200


def test_privileges_are_told_where_security_is_on():
    """Reading only, and only what may be read; without security there is no such path."""
    path, key = "/_security/user/_has_privileges", {"Authorization": "ApiKey key"}
    wanted = {"index": [{"names": ["a-1", "b"], "privileges": ["read"]}]}
    with ElasticsearchDouble("key") as double:
        assert ask(double, "POST", path, wanted, headers=key)[1]["has_all_requested"] is True
        double.readable = "a-*"
        answer = ask(double, "POST", path, wanted, headers=key)[1]
        assert (answer["has_all_requested"], answer["index"]) == (False, {"a-1": {"read": True}, "b": {"read": False}})
        writing = {"index": [{"names": ["a-1"], "privileges": ["read", "write"]}]}
        assert ask(double, "POST", path, writing, headers=key)[1]["has_all_requested"] is False
        assert ask(double, "POST", path, {"indices": []}, headers=key)[0] == 400
        assert ask(double, "GET", "/", headers=key)[1]["version"]["number"].endswith("double")
    with ElasticsearchDouble() as double:
        assert ask(double, "POST", path, wanted)[0] == 400
