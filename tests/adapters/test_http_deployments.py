"""Fields may be elsewhere, services may remember no tokens, and odd answers are errors."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pings import ping_of, pinged

from rbkit.adapters.http_deployments import HttpDeployments
from rbkit.errors import BadAnswer, MayHaveActed, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.testing.double import Answer, Double, Request

STATE = {"version": "v1", "ready": 1, "wanted": 1}


class Free(Double):
    """A service that answers whatever a test wants, by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self.answers = answers

    def answer(self, request: Request) -> Answer:
        """Answer by path."""
        found = self.answers[request.path]
        return found if isinstance(found, Answer) else Answer(200, found)


def use(answers: dict[str, Any], work: Callable[[HttpDeployments], Any], **options: Any) -> tuple[Any, list[Request]]:
    """Run a coroutine with a service; return the result and what it was asked."""

    async def closed(url: str) -> Any:
        adapter = HttpDeployments(url, **options)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    with Free(answers) as double:
        return asyncio.run(closed(double.url)), double.requests


def test_paths_and_fields_are_where_the_service_has_them() -> None:
    """Names joined by dots lead into objects, in what is read and in what is sent."""
    options = {
        "paths": {"state": "/v1/{service}/status", "versions": "/v1/{service}", "deploy": "/v1/{service}/roll"},
        "fields": {"version": "image.tag", "ready": "pods.up", "wanted": "pods.all", "versions": "items", "name": "tag",
                   "deployed_at": "at", "note": "by", "deploy": "spec.image"},
    }  # fmt: skip
    answers = {
        "/v1/a%2Fb/status": {"image": {"tag": "v1"}, "pods": {"up": 1, "all": 2}},
        "/v1/a%2Fb": {"items": [{"tag": "v0"}, {"tag": "v1", "at": "2026-11-23T10:00:00", "by": "me"}]},
        "/v1/a%2Fb/roll": Answer(202),
    }
    assert use(answers, lambda d: d.state("a/b"), **options)[0] == {"version": "v1", "ready": 1, "wanted": 2}
    (first, second), _ = use(answers, lambda d: d.versions("a/b"), **options)
    assert (first.version, first.deployed_at, first.note) == ("v1", datetime(2026, 11, 23, 10, tzinfo=UTC), "me")
    assert (second.version, second.deployed_at, second.note) == ("v0", None, "")
    call = Call(capability="d", action="deploy", target="a/b", arguments={"version": "v0"})
    _, (asked,) = use(answers, lambda d: d.apply(call, "run/step/0", 7), **options)
    assert asked.json == {"spec": {"image": "v0"}} and asked.method == "POST"
    assert (asked.headers["idempotency-key"], asked.headers["fencing-token"]) == ("run/step/0", "7")


def test_without_a_path_no_token_is_announced() -> None:
    """It goes with the next change."""
    assert use({}, lambda d: d.fence("checkout", 7)) == (None, [])


def test_an_announcement_without_an_answer_is_no_doubt() -> None:
    """It may be repeated."""
    with pytest.raises(Unreachable, match="not confirmed"):
        use({"/f/a": Answer(500)}, lambda d: d.fence("a", 7), paths={"fence": "/f/{service}"})


def test_a_change_without_an_answer_is_a_doubt() -> None:
    """The service failed in the middle."""
    call = Call(capability="d", action="deploy", target="a", arguments={"version": "v0"})
    with pytest.raises(MayHaveActed):
        use({"/services/a/deploy": Answer(502)}, lambda d: d.apply(call, "key", 1))


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {**STATE, "version": 1},
        {**STATE, "ready": "1"},
        {**STATE, "ready": True},
        {**STATE, "wanted": None},
    ],
)
def test_an_odd_state_is_a_bad_answer(state) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadAnswer):
        use({"/services/a": state}, lambda d: d.state("a"))


@pytest.mark.parametrize(
    "versions",
    [None, {}, "v1", [1], [{}], [{"version": ""}], [{"version": 1}], [{"version": "v1", "deployed_at": "today"}],
     [{"version": "v1"}] * 1001],
)  # fmt: skip
def test_an_odd_list_is_a_bad_answer(versions) -> None:
    """No list, too long a list, a version without a name, a time that is none."""
    with pytest.raises(BadAnswer):
        use({"/services/a": STATE, "/services/a/versions": {"versions": versions}}, lambda d: d.versions("a"))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"paths": {"stat": "/x"}}, "paths has no 'stat'"), ({"paths": {"state": "/x"}}, "paths.state"),
        ({"paths": {"state": ""}}, "paths.state"), ({"paths": {"fence": "{service}"}}, "paths.fence"),
        ({"fields": {"verison": "x"}}, "fields has no 'verison'"), ({"fields": {"version": "a b"}}, "fields.version"),
        ({"shows_within": "soon"}, "no duration"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, words) -> None:
    """When the capability is made."""
    with pytest.raises(SettingsError, match=words):
        HttpDeployments("http://127.0.0.1:1", **options)


def test_how_long_a_deployment_may_take_is_an_option() -> None:
    """For this capability only."""
    assert HttpDeployments("http://127.0.0.1:1", shows_within="10m").shows_within_s == 600.0
    assert HttpDeployments.shows_within_s == 300.0


def test_ping_tells_a_missing_right_and_nobody(server, nobody) -> None:
    """That there is nothing of that name is an answer; a login that is wrong is told."""
    for status, body in ((200, {}), (404, {"error": "none"})):
        assert "answers, without credentials" in server.json(body, status).use(
            lambda url: ping_of(HttpDeployments(url))
        )
    with pytest.raises(BadAnswer, match="403"):
        server.json({"error": "forbidden"}, 403).use(lambda url: ping_of(HttpDeployments(url)))
    with pytest.raises(Unreachable):
        pinged(HttpDeployments(nobody))
