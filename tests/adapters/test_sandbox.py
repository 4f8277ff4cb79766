"""The sandbox's adapters against answers that the sandbox would not give; the good ones are in tests/ports."""

from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.adapters.sandbox import SandboxBalancer, SandboxServices
from rbkit.errors import BadAnswer
from rbkit.events import Call

MEMBER = {"name": "a", "service": "s", "state": "ready", "healthy": True, "active": 0, "requests": 0}
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
    ask(server.text(""), SandboxServices, "apply", call, "key")
    path = server.asked[0].split(b" ")[1].decode()
    _, kind, name, verb = path.split("/")
    assert (kind, unquote(name), verb) == ("services", target, "restart")
