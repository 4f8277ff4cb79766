"""A change by somebody else is never overwritten, and odd answers of a flags' service are errors."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pings import ping_of, pinged
from pydantic import SecretStr

from rbkit.adapters.flags import HttpFlags, element
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.testing.http_machines import FlagsDouble

CALL = Call(capability="f", action="put", target="limit", arguments={"value": 3})


@pytest.fixture
def double() -> Iterator[FlagsDouble]:
    """A service with one flag."""
    with FlagsDouble({"limit": {"value": 10, "owner": "me"}}) as running:
        yield running


def use(url: str, work: Callable[[HttpFlags], Any], **options: Any) -> Any:
    """Run a coroutine with flags."""

    async def closed() -> Any:
        flags = HttpFlags(url, **options)
        try:
            return await work(flags)
        finally:
            await flags.aclose()

    return asyncio.run(closed())


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_change_by_somebody_else_is_not_overwritten(double, method) -> None:
    """It comes between the reading and the writing: the change is refused and nothing is lost."""
    double.meanwhile = {"owner": "you"}
    with pytest.raises(Refused, match="changed by somebody else"):
        use(double.url, lambda f: f.apply(CALL, "key", 1), method=method)
    assert double.flags["limit"] == {"value": 10, "owner": "you"}
    use(double.url, lambda f: f.apply(CALL, "key", 1), method=method)
    assert double.flags["limit"] == {"value": 3, "owner": "you"}


def test_key_token_and_tag_are_sent_with_the_change_only(double) -> None:
    """The tag is the one that was read; the bearer token goes with every request."""
    use(double.url, lambda f: f.apply(CALL, "run/step/0", 1), token=SecretStr("hunter2"))
    get, put = double.requests
    assert "if-match" not in get.headers and put.headers["if-match"] == '"0"'
    assert put.headers["idempotency-key"] == "run/step/0"
    assert {get.headers["authorization"], put.headers["authorization"]} == {"Bearer hunter2"}


def test_two_changes_at_once_do_not_mix_their_tags() -> None:
    """Each is sent with the tag of its own flag."""
    names = [f"flag-{number}" for number in range(5)]

    async def both(flags: HttpFlags) -> None:
        calls = [CALL.model_copy(update={"target": name}) for name in names]
        await asyncio.gather(*(flags.apply(call, "key", 1) for call in calls))

    with FlagsDouble({name: {"value": 1} for name in names}) as double:
        double.writes = {name: number for number, name in enumerate(names)}
        use(double.url, both)
        assert all(double.flags[name] == {"value": 3} for name in names)


def test_a_service_without_tags_must_be_accepted_as_such(double) -> None:
    """Otherwise nothing is written; it is said how to accept it."""
    double.tags = False
    with pytest.raises(Refused, match="no strong ETag") as failure:
        use(double.url, lambda f: f.apply(CALL, "key", 1))
    assert "etag: false" in failure.value.todo and double.flags["limit"]["value"] == 10
    use(double.url, lambda f: f.apply(CALL, "key", 1), etag=False)
    assert double.flags["limit"]["value"] == 3


@pytest.mark.parametrize("tag", ['W/"1"', "1", '"', '"a"b"'])
def test_a_weak_or_broken_tag_is_none(server, tag) -> None:
    """It cannot be compared with."""
    server.json({"value": 1}, headers=f"ETag: {tag}\r\n")
    with pytest.raises(Refused, match="no strong ETag"):
        server.use(lambda url: _closed(url, lambda f: f.apply(CALL, "key", 1)))
    assert len(server.asked) == 1


async def _closed(url: str, work: Callable[[HttpFlags], Any], **options: Any) -> Any:
    flags = HttpFlags(url, **options)
    try:
        return await work(flags)
    finally:
        await flags.aclose()


@pytest.mark.parametrize("body", [None, 1, [], {}, {"value": None}, {"value": {}}, {"value": [1]}, "x"])
def test_an_odd_object_is_a_bad_answer(server, body) -> None:
    """No field, or no value that a flag can have; a change of it is refused before it is sent."""
    server.json(body)
    with pytest.raises(BadAnswer):
        server.use(lambda url: _closed(url, lambda f: f.state("limit")))
    with pytest.raises(Refused, match="was not changed"):
        server.use(lambda url: _closed(url, lambda f: f.apply(CALL, "key", 1)))
    assert all(asked.startswith(b"GET ") for asked in server.asked)


def test_a_deep_field_that_is_no_object_is_a_bad_answer(server) -> None:
    """On the way to the field stands something else."""
    server.json({"state": 1})
    with pytest.raises(BadAnswer, match=r"state\.on"):
        server.use(lambda url: _closed(url, lambda f: f.state("limit"), value="state.on"))


def test_nobody_there_is_unreachable(nobody) -> None:
    """For reads and changes: nothing was sent."""
    for work in (lambda f: f.state("limit"), lambda f: f.apply(CALL, "key", 1)):
        with pytest.raises(Unreachable):
            use(nobody, work)


def test_a_change_without_an_answer_is_a_doubt(double, monkeypatch) -> None:
    """The service failed in the middle."""
    from rbkit.testing.double import Answer

    monkeypatch.setattr(FlagsDouble, "_write", lambda self, flag, request: Answer(500, {"error": "broken"}))
    with pytest.raises(MayHaveActed, match="broken"):
        use(double.url, lambda f: f.apply(CALL, "key", 1))


@pytest.mark.parametrize(
    "options",
    [{"path": "/flags"}, {"path": "flags/{flag}"}, {"path": "/{flag}/{flag}"}, {"method": "POST"}, {"value": ""},
     {"value": "a..b"}, {"value": "a b"}],
)  # fmt: skip
def test_wrong_options_are_refused(options) -> None:
    """When the capability is made."""
    with pytest.raises(SettingsError):
        HttpFlags("http://127.0.0.1:1", **options)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 501, "\ud800"])
def test_a_name_that_can_be_no_element_is_not_found(name) -> None:
    """A path would lead elsewhere."""
    with pytest.raises(NotFound):
        element(name)


@settings(derandomize=True, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100).filter(lambda t: t not in {".", ".."})
)
def test_any_name_is_one_element_of_a_path(name) -> None:
    """Whatever it holds: it comes back, and no sign of an address is in it."""
    from urllib.parse import unquote

    found = element(name)
    assert unquote(found) == name and not set(found) & set("/?#;:@ \r\n")


def test_ping_tells_a_missing_right_and_nobody(server, nobody) -> None:
    """That there is nothing of that name is an answer; a login that is wrong is told."""
    for status, body in ((200, {}), (404, {"error": "none"})):
        assert "answers, without credentials" in server.json(body, status).use(lambda url: ping_of(HttpFlags(url)))
    with pytest.raises(BadAnswer, match="403"):
        server.json({"error": "forbidden"}, 403).use(lambda url: ping_of(HttpFlags(url)))
    with pytest.raises(Unreachable):
        pinged(HttpFlags(nobody))
