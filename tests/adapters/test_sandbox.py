"""The sandbox's adapters against answers that the sandbox would not give; the good ones are in tests/ports."""

import asyncio
import json
from typing import Any

import pytest
from pings import pinged
from pydantic import SecretStr

from rbkit.adapters.sandbox import SandboxBalancer, SandboxServices
from rbkit.errors import BadAnswer, NotFound, Refused, Unreachable
from rbkit.events import Call

MEMBER = {"name": "a", "service": "s", "state": "ready", "healthy": True, "active": 0, "requests": 0}
CALLS = [
    (SandboxBalancer, Call(capability="balancer", action="drain", target="a")),
    (SandboxServices, Call(capability="services", action="restart", target="a")),
]
STALE = {"error": "stale_token", "message": "The fencing token 4 for a is stale: 5 was seen."}
SERVICE = {
    "name": "a", "service": "s", "state": "running", "pid": 1, "started_at": None, "version": "v1", "restarts": 0,
}  # fmt: skip


def ask(server: Any, kind: Any, method: str, *arguments: Any) -> Any:
    """Call one method of an adapter."""

    async def work(url: str) -> Any:
        adapter = kind(url, SecretStr("token"))
        try:
            return await getattr(adapter, method)(*arguments)
        finally:
            await adapter.aclose()

    return server.use(work)


def test_more_than_is_needed_is_fine(server) -> None:
    """Fields that a newer sandbox adds do no harm."""
    assert ask(server.json({"members": [MEMBER | {"new": 1}]}), SandboxBalancer, "members", "s")[0].name == "a"
    found = ask(server.json({"services": [SERVICE, SERVICE | {"service": "t"}]}), SandboxServices, "instances", "s")
    assert [service.service for service in found] == ["s"]


@pytest.mark.parametrize(
    "answer", [None, [], "x", {}, {"members": None, "services": None}, {"members": {}, "services": 3}]
)
def test_a_list_that_is_none_is_a_bad_answer(server, answer) -> None:
    """An unknown form is refused in rbkit's words."""
    for kind, method in ((SandboxBalancer, "members"), (SandboxServices, "instances")):
        with pytest.raises(BadAnswer, match="did not list its"):
            ask(server.json(answer), kind, method, "s")


@pytest.mark.parametrize("item", [None, 3, {}, MEMBER | SERVICE | {"state": None}])
def test_an_item_of_another_form_is_a_bad_answer(server, item) -> None:
    """One member or instance of an unknown form spoils the list and the state."""
    server.json({"members": [item], "services": [item]})
    for kind, method in ((SandboxBalancer, "members"), (SandboxServices, "instances")):
        with pytest.raises(BadAnswer, match="unknown form"):
            ask(server, kind, method, "s")
        with pytest.raises(BadAnswer, match="unknown form"):
            ask(server, kind, "state", "a")


@pytest.mark.parametrize("target", ["../faults", "a/b?c#d", "%2e%2e", "ü \n"])
def test_a_hostile_target_stays_one_part_of_the_path(server, target) -> None:
    """A target's name cannot lead to another address."""
    from urllib.parse import unquote

    call = Call(capability="services", action="restart", target=target)
    ask(server.text(""), SandboxServices, "apply", call, "key", 1)
    path = server.asked[0].split(b" ")[1].decode()
    _, kind, name, verb = path.split("/")
    assert (kind, unquote(name), verb) == ("services", target, "restart")


@pytest.mark.parametrize(("kind", "call"), CALLS)
def test_a_change_carries_key_and_token(server, kind, call) -> None:
    """Both are headers of the one request that is sent."""
    ask(server.text(""), kind, "apply", call, "run/step/0", 7)
    (request,) = server.asked
    assert b"\r\nIdempotency-Key: run/step/0\r\n" in request and b"\r\nFencing-Token: 7\r\n" in request


@pytest.mark.parametrize(("kind", "call"), CALLS)
def test_a_stale_token_says_that_somebody_else_acts(server, kind, call) -> None:
    """A 412 is a refusal, for a change and for a fence, that names both numbers and tells to leave the target."""
    server.json(STALE, 412)
    for method, arguments in (("apply", (call, "key", 4)), ("fence", ("a", 4))):
        with pytest.raises(Refused, match="newer lease acts on the target.*4.*5.*Leave the target"):
            ask(server, kind, method, *arguments)


@pytest.mark.parametrize("kind", [SandboxBalancer, SandboxServices])
@pytest.mark.parametrize("target", ["checkout-2", "../faults"])
def test_a_fence_announces_the_token_for_one_target(server, kind, target) -> None:
    """The token is in the body, the target one part of the path."""
    ask(server.json({}), kind, "fence", target, 7)
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /fence/" + target.replace("/", "%2F").encode() + b" ") and json.loads(body) == {
        "token": 7
    }


@pytest.mark.parametrize("kind", [SandboxBalancer, SandboxServices])
def test_a_fence_that_is_not_confirmed_leaves_no_doubt_about_the_target(server, nobody, kind) -> None:
    """Announcing is no act: an answer that is missing or a 5xx means only that the system was not told."""
    with pytest.raises(Unreachable, match="did not confirm the fencing token.*went wrong"):
        ask(server.json({"message": "went wrong"}, 500), kind, "fence", "a", 7)
    server.reply = b""
    with pytest.raises(Unreachable, match="did not confirm the fencing token"):
        ask(server, kind, "fence", "a", 7)
    with pytest.raises(NotFound):
        ask(server.json({}, 404), kind, "fence", "a", 7)
    with pytest.raises(Unreachable, match="was not reached"):
        asyncio.run(kind(nobody, SecretStr("token")).fence("a", 7))


@pytest.mark.parametrize("kind", [SandboxBalancer, SandboxServices])
def test_ping_tells_a_wrong_token_an_odd_answer_and_nobody(server, nobody, kind) -> None:
    """None of them is called reachable."""
    with pytest.raises(BadAnswer, match="401"):
        ask(server.json({"message": "who are you?"}, 401), kind, "ping")
    with pytest.raises(BadAnswer, match="did not list"):
        ask(server.json([]), kind, "ping")
    with pytest.raises(Unreachable):
        pinged(kind(nobody, SecretStr("token")))
