"""Every load balancer, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.adapters.fakes import FakeBalancer
from rbkit.adapters.sandbox import SandboxBalancer
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.ports import LoadBalancer

MEMBERS = ["checkout-1", "checkout-2", "checkout-3"]


@pytest.fixture(params=["fake", "sandbox"])
def use(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[LoadBalancer], Awaitable[Any]]], Any]]:
    """Run a coroutine with a balancer of three members that are all ready."""
    if request.param == "fake":
        fake = FakeBalancer({"checkout": MEMBERS})
        yield lambda work: asyncio.run(work(fake))
        return
    layout = request.getfixturevalue("well")

    async def closed(work: Any) -> Any:
        adapter = SandboxBalancer(layout.urls["balancer_admin"], SecretStr(layout.token()))
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    yield lambda work: asyncio.run(closed(work))


def call(action: str, target: str) -> Call:
    """Make a call."""
    return Call(capability="balancer", action=action, target=target)


def test_members_are_listed_in_a_stable_order(use) -> None:
    """Each member has its name, service, state and health."""
    first, second = use(lambda b: b.members("checkout")), use(lambda b: b.members("checkout"))
    assert [member.name for member in first] == [member.name for member in second] == MEMBERS
    assert all((m.service, m.state, m.healthy) == ("checkout", "ready", True) and m.active >= 0 for m in first)


def test_an_unknown_service_has_no_members(use) -> None:
    """An empty list, not an error."""
    assert use(lambda b: b.members("no-such-service")) == []


def test_an_unknown_member_is_not_found(use) -> None:
    """Reading or changing what is not there names it."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda b: b.state("no-such"))
    with pytest.raises(NotFound, match="no-such"):
        use(lambda b: b.apply(call("drain", "no-such"), "k-unknown"))


def test_drain_and_ready_come_true_and_go_back(use, until) -> None:
    """What a plan wants is what the state shows afterwards; the plan's way back restores the state before."""
    for action, back in (("drain", "ready"), ("ready", "drain")):
        before = use(lambda b: b.state("checkout-2"))
        plan = use(lambda b, action=action, before=before: _plan(b, action, before))
        assert plan.undo == (back, {}) and not plan.irreversible
        use(lambda b, action=action: b.apply(call(action, "checkout-2"), f"k-{action}"))
        until(lambda plan=plan: plan.after.items() <= use(lambda b: b.state("checkout-2")).items())
    assert {m.name: m.state for m in use(lambda b: b.members("checkout"))} == dict.fromkeys(MEMBERS, "ready")


async def _plan(balancer: LoadBalancer, action: str, before: dict[str, Any]) -> Any:
    return balancer.plan(call(action, "checkout-2"), before)


def test_the_same_change_twice_is_once(use) -> None:
    """Draining what is drained changes nothing and is no error."""
    for key in ("k-1", "k-1", "k-2"):
        use(lambda b, key=key: b.apply(call("drain", "checkout-1"), key))
    assert use(lambda b: b.state("checkout-1"))["state"] == "drain"


def test_the_last_ready_member_is_refused(use) -> None:
    """A refusal changes nothing and says why."""
    for name in MEMBERS[:2]:
        use(lambda b, name=name: b.apply(call("drain", name), f"k-{name}"))
    with pytest.raises(Refused):
        use(lambda b: b.apply(call("drain", MEMBERS[2]), "k-last"))
    assert use(lambda b: b.state(MEMBERS[2]))["state"] == "ready"


def test_an_unknown_action_has_no_plan(use) -> None:
    """A slip is refused with the nearest action, before anything is touched."""
    with pytest.raises(NotFound, match="Did you mean 'drain'"):
        use(lambda b: _plan(b, "drane", {"state": "ready"}))
    with pytest.raises(NotFound):
        use(lambda b: _plan(b, "members", {"state": "ready"}))
