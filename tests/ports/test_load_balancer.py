"""Every load balancer, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from servers.haproxy import Balancer, haproxy
from servers.nginx import Upstream, nginx

from rbkit.adapters.fakes import FakeBalancer
from rbkit.adapters.haproxy import HAProxy
from rbkit.adapters.nginx import Nginx
from rbkit.adapters.sandbox import SandboxBalancer
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.ports import LoadBalancer

MEMBERS = ["checkout-1", "checkout-2", "checkout-3"]
TOKENS = count(1)
"""Each test takes tokens that are higher than all before: a real balancer remembers them from test to test."""
Use = Callable[[Callable[[LoadBalancer], Awaitable[Any]]], Any]

remembering = pytest.mark.parametrize("use", ["fake", "sandbox"], indirect=True)
"""HAProxy and nginx remember neither keys nor tokens, as their adapters say."""


@pytest.fixture(scope="module")
def real_haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """An HAProxy with the service's backend and one more."""
    backends = {"be_checkout": {name: f"127.0.0.1:{port}" for port, name in enumerate(MEMBERS, 1)}}
    with haproxy(tmp_path_factory.mktemp("haproxy"), backends | {"be_other": {"other-1": "127.0.0.1:9"}}) as running:
        yield running


@pytest.fixture(scope="module")
def real_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """An nginx with an upstream of three members."""
    with nginx(tmp_path_factory.mktemp("nginx"), MEMBERS) as running:
        yield running


@pytest.fixture(params=["fake", "sandbox", "haproxy", "nginx"])
def use(request: pytest.FixtureRequest) -> Iterator[Use]:
    """Run a coroutine with a balancer of three members that are all ready."""
    if request.param == "fake":
        fake = FakeBalancer({"checkout": MEMBERS})
        yield lambda work: asyncio.run(work(fake))
        return
    make, again = {"sandbox": _sandbox, "haproxy": _haproxy, "nginx": _nginx}[request.param](request)

    async def closed(work: Any) -> Any:
        adapter = make()
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    yield lambda work: asyncio.run(closed(work))
    again(lambda work: asyncio.run(closed(work)))


def _sandbox(request: pytest.FixtureRequest) -> tuple[Callable[[], LoadBalancer], Callable[[Use], None]]:
    layout = request.getfixturevalue("well")
    return lambda: SandboxBalancer(layout.urls["balancer_admin"], SecretStr(layout.token())), lambda use: None


def _haproxy(request: pytest.FixtureRequest) -> tuple[Callable[[], LoadBalancer], Callable[[Use], None]]:
    running = request.getfixturevalue("real_haproxy")

    def again(use: Use) -> None:
        for name in MEMBERS:
            assert running.say(f"set server be_checkout/{name} state ready") == "\n"

    return lambda: HAProxy(str(running.socket), {"checkout": "be_checkout"}), again


def _nginx(request: pytest.FixtureRequest) -> tuple[Callable[[], LoadBalancer], Callable[[Use], None]]:
    running = request.getfixturevalue("real_nginx")

    def again(use: Use) -> None:
        for name in MEMBERS:
            use(lambda b, name=name: b.apply(call("ready", name), uuid4().hex, 1))

    return lambda: Nginx(**running.options), again


def call(action: str, target: str) -> Call:
    """Make a call."""
    return Call(capability="balancer", action=action, target=target)


def test_members_are_listed_in_a_stable_order(use) -> None:
    """Each member has its name, service, state and health; -1 requests under way where they cannot be known."""
    first, second = use(lambda b: b.members("checkout")), use(lambda b: b.members("checkout"))
    assert [member.name for member in first] == [member.name for member in second] == MEMBERS
    assert all((m.service, m.state, m.healthy) == ("checkout", "ready", True) and m.active >= -1 for m in first)


def test_an_unknown_service_has_no_members(use) -> None:
    """An empty list, not an error."""
    assert use(lambda b: b.members("no-such-service")) == []


def test_an_unknown_member_is_not_found(use) -> None:
    """Reading or changing what is not there names it."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda b: b.state("no-such"))
    with pytest.raises(NotFound, match="no-such"):
        use(lambda b: b.apply(call("drain", "no-such"), uuid4().hex, 1))


@remembering
def test_a_fence_on_an_unknown_member_is_not_found(use) -> None:
    """A token for what is not there shuts nobody out, so it is no success."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda b: b.fence("no-such", 1))


def test_drain_and_ready_come_true_and_go_back(use, until) -> None:
    """What a plan wants is what the state shows afterwards; the plan's way back restores the state before."""
    for action, back in (("drain", "ready"), ("ready", "drain")):
        before = use(lambda b: b.state("checkout-2"))
        plan = use(lambda b, action=action, before=before: _plan(b, action, before))
        assert plan.undo == (back, {}) and not plan.irreversible
        use(lambda b, action=action: b.apply(call(action, "checkout-2"), uuid4().hex, next(TOKENS)))
        until(lambda plan=plan: plan.after.items() <= use(lambda b: b.state("checkout-2")).items())
    assert {m.name: m.state for m in use(lambda b: b.members("checkout"))} == dict.fromkeys(MEMBERS, "ready")


async def _plan(balancer: LoadBalancer, action: str, before: dict[str, Any]) -> Any:
    return balancer.plan(call(action, "checkout-2"), before)


def test_the_same_change_twice_is_once(use) -> None:
    """Draining what is drained changes nothing and is no error."""
    token = next(TOKENS)
    for _ in range(2):
        use(lambda b: b.apply(call("drain", "checkout-1"), uuid4().hex, token))
    assert use(lambda b: b.state("checkout-1"))["state"] == "drain"


@remembering
def test_a_repeated_key_acts_once(use) -> None:
    """A drain that arrives once more after the member was put back does not drain it again, whatever its token."""
    key, token = uuid4().hex, next(TOKENS)
    for action, name in (("drain", key), ("ready", uuid4().hex), ("drain", key)):
        use(lambda b, action=action, name=name: b.apply(call(action, "checkout-1"), name, token))
    use(lambda b: b.apply(call("drain", "checkout-1"), key, next(TOKENS)))
    assert use(lambda b: b.state("checkout-1"))["state"] == "ready"


@remembering
def test_a_stale_token_is_refused_and_nothing_changes(use) -> None:
    """Who comes with a lower token than one that acted is refused, with a new key and with one that was used."""
    old, new = next(TOKENS), next(TOKENS)
    keys = [uuid4().hex, uuid4().hex]
    use(lambda b: b.apply(call("ready", "checkout-2"), keys[0], new))
    for action, key in (("drain", keys[1]), ("ready", keys[0])):
        with pytest.raises(Refused, match="newer lease"):
            use(lambda b, action=action, key=key: b.apply(call(action, "checkout-2"), key, old))
    assert use(lambda b: b.state("checkout-2"))["state"] == "ready"


@remembering
def test_an_equal_token_acts_and_a_higher_one_is_remembered(use) -> None:
    """The holder acts as often as it wants; the next holder's token shuts it out; other members do not care."""
    old, new = next(TOKENS), next(TOKENS)
    for action, token in (("drain", old), ("ready", old), ("drain", new)):
        use(lambda b, action=action, token=token: b.apply(call(action, "checkout-2"), uuid4().hex, token))
    with pytest.raises(Refused, match=rf"\b{new}\b"):
        use(lambda b: b.apply(call("ready", "checkout-2"), uuid4().hex, old))
    assert use(lambda b: b.state("checkout-2"))["state"] == "drain"
    use(lambda b: b.apply(call("drain", "checkout-1"), uuid4().hex, old))
    assert use(lambda b: b.state("checkout-1"))["state"] == "drain"


@remembering
def test_a_fence_shuts_out_without_acting(use) -> None:
    """A token that is announced, also twice, changes nothing and stops every lower one; a lower one is refused."""
    old, new, late = next(TOKENS), next(TOKENS), uuid4().hex
    for _ in range(2):
        use(lambda b: b.fence("checkout-2", new))
    for work in (lambda b: b.fence("checkout-2", old), lambda b: b.apply(call("drain", "checkout-2"), late, old)):
        with pytest.raises(Refused, match="newer lease"):
            use(work)
    assert use(lambda b: b.state("checkout-2"))["state"] == "ready"
    use(lambda b: b.apply(call("drain", "checkout-2"), late, new))
    assert use(lambda b: b.state("checkout-2"))["state"] == "drain"


def test_the_last_ready_member_is_refused(use) -> None:
    """A refusal changes nothing and says why."""
    for name in MEMBERS[:2]:
        use(lambda b, name=name: b.apply(call("drain", name), uuid4().hex, next(TOKENS)))
    with pytest.raises(Refused):
        use(lambda b: b.apply(call("drain", MEMBERS[2]), uuid4().hex, next(TOKENS)))
    assert use(lambda b: b.state(MEMBERS[2]))["state"] == "ready"


def test_an_unknown_action_has_no_plan(use) -> None:
    """A slip is refused with the nearest action, before anything is touched."""
    with pytest.raises(NotFound, match="Did you mean 'drain'"):
        use(lambda b: _plan(b, "drane", {"state": "ready"}))
    with pytest.raises(NotFound):
        use(lambda b: _plan(b, "members", {"state": "ready"}))


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {
        "fake": "in memory",
        "sandbox": "with a token; reads and writes",
        "haproxy": "level admin; reads and writes, 3 server(s)",
        "nginx": "; reads and writes",
    }
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
