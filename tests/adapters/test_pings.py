"""A ping tells what is missing: an odd answer, a refused connection or a missing right is never called reachable."""

import os
from typing import Any

import pytest
from pings import Paths, pinged
from pydantic import SecretStr

from rbkit.adapters.alertmanager import AlertmanagerAlerts, AlertmanagerSilences
from rbkit.adapters.elasticsearch import Elasticsearch
from rbkit.adapters.jaeger import Jaeger
from rbkit.adapters.loki import Loki
from rbkit.adapters.prometheus import Prometheus
from rbkit.adapters.tempo import Tempo
from rbkit.adapters.told import told, user
from rbkit.errors import BadAnswer, Refused, Unreachable
from rbkit.testing.double import Answer
from rbkit.testing.elasticsearch import ElasticsearchDouble

NONE: dict[str, Any] = {"status": "success", "data": {"resultType": "vector", "result": []}}
SEARCHED = {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": []}}
MAKERS: dict[str, Any] = {
    "prometheus": Prometheus, "alerts": AlertmanagerAlerts, "silences": AlertmanagerSilences, "loki": Loki,
    "jaeger": Jaeger, "tempo": Tempo, "elasticsearch": lambda url: Elasticsearch(url, "logs-*"),
}  # fmt: skip


def answered(name: str, answers: dict[str, Any]) -> str:
    """Ping an adapter whose server answers so."""
    with Paths(answers) as server:
        return pinged(MAKERS[name](server.url))


@pytest.mark.parametrize("name", MAKERS)
def test_a_refused_connection_is_unreachable(name: str, nobody: str) -> None:
    """Nobody listens: that is no answer."""
    with pytest.raises(Unreachable):
        pinged(MAKERS[name](nobody))


@pytest.mark.parametrize(
    ("name", "path", "answer"),
    [
        ("prometheus", "/api/v1/query", {"status": "error", "data": {"resultType": "vector"}}),
        ("prometheus", "/api/v1/query", {"status": "success", "data": {"resultType": "matrix"}}),
        ("prometheus", "/api/v1/query", []),
        ("prometheus", "/api/v1/query", Answer(403, {"error": "forbidden"})),
        ("alerts", "/api/v2/status", {"versionInfo": {}}),
        ("silences", "/api/v2/status", None),
        ("loki", "/loki/api/v1/labels", {"status": "error"}),
        ("loki", "/loki/api/v1/labels", ["a"]),
        ("loki", "/loki/api/v1/labels", Answer(401, "no org id\n")),
        ("jaeger", "/api/services", []),
        ("jaeger", "/api/services", {"data": "a"}),
        ("tempo", "/api/search/tags", ["a"]),
        ("elasticsearch", "/logs-%2A/_search", Answer(403, {"error": "unauthorized"})),
    ],
)
def test_an_odd_answer_or_a_missing_right_is_told(name: str, path: str, answer: Any) -> None:
    """What answers there is not what was meant, or says no."""
    with pytest.raises(BadAnswer):
        answered(name, {path: answer, path.replace("%2A", "*"): answer})


@pytest.mark.parametrize(
    ("name", "path", "answer", "named"),
    [
        ("prometheus", "/api/v1/query", NONE, "does not tell its version"),
        ("loki", "/loki/api/v1/labels", {"status": "success"}, "does not tell its version"),
        ("tempo", "/api/search/tags", {}, "does not tell its version"),
        ("jaeger", "/api/services", {"data": None, "total": 0}, "0 service(s)"),
        ("elasticsearch", "/logs-*/_search", SEARCHED, "does not tell its version"),
    ],
)
def test_a_hidden_version_is_no_failure(name: str, path: str, answer: Any, named: str) -> None:
    """Gateways hide it, and older servers do not have it."""
    assert named in answered(name, {path: answer})


def test_what_a_server_tells_about_itself_is_kept_to_one_line() -> None:
    """Control characters never reach a terminal, and nothing is long."""
    about = {"data": {"application": "Mimir\x1b[31m\nx", "version": "2" * 500}}
    said = answered("prometheus", {"/api/v1/query": NONE, "/api/v1/status/buildinfo": about})
    assert said.startswith("Mimir [31m x 222") and len(said) < 200
    assert [told(None), told(" a\tb "), told(0), told(b"a\xff")] == ["unknown", "a b", "0", "a\ufffd"]


def test_a_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose image does not know its user."""
    assert user()
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    assert user() == "user 3999999"


def test_who_asks_is_told_without_the_secret() -> None:
    """The user and the tenant, or that there is a token."""
    with Paths({"/api/v1/query": NONE}) as server:
        said = pinged(Prometheus(server.url, user="ann", password=SecretStr("hush"), tenant="shop"))
        assert "as ann, tenant shop" in said and "hush" not in said
        assert (
            "with a token" in (said := pinged(Prometheus(server.url, token=SecretStr("hush")))) and "hush" not in said
        )


def test_elasticsearch_says_as_whom_and_whether_we_may_read() -> None:
    """A search with wildcards finds nothing where the right is missing, and says nothing: so the right is asked for."""
    with ElasticsearchDouble(api_key="k") as double:
        made = lambda: Elasticsearch(double.url, "logs-*,old", token=SecretStr("k"))  # noqa: E731
        assert "Elasticsearch 8" in (said := pinged(made())) and "as rbkit; reads logs-*,old" in said
        double.readable = "logs-*"
        with pytest.raises(Refused, match="rbkit may not read"):
            pinged(made())
        with pytest.raises(BadAnswer, match="401"):
            pinged(Elasticsearch(double.url, "logs-*", token=SecretStr("wrong")))


@pytest.mark.parametrize("about", [{"version": []}, {"version": {"distribution": "opensearch"}}])
def test_elasticsearch_that_tells_its_version_oddly_is_a_bad_answer(about: Any) -> None:
    """Something else answers there."""
    with pytest.raises(BadAnswer, match="does not document"):
        answered("elasticsearch", {"/": about})


def test_opensearch_is_named() -> None:
    """It tells its distribution."""
    about = {"version": {"distribution": "opensearch", "number": "2.1"}}
    assert "opensearch 2.1" in answered("elasticsearch", {"/": about, "/logs-*/_search": SEARCHED})
