"""Every service manager, in memory or real, keeps the same promises."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from servers.supervisord import Supervisor, supervisord

from rbkit.adapters.fakes import FakeServices
from rbkit.adapters.sandbox import SandboxServices
from rbkit.adapters.supervisord import Supervisord
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.ports import ServiceManager

INSTANCES = ["checkout-1", "checkout-2", "checkout-3"]
TOKENS = count(1)
"""Each test takes tokens that are higher than all before: a real manager remembers them from test to test."""

remembering = pytest.mark.parametrize("use", ["fake", "sandbox"], indirect=True)
"""supervisord remembers neither keys nor tokens, as its adapter says."""


@pytest.fixture(scope="module")
def real_supervisord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisord with the service's group and one more, started in a later second than its version was chosen."""
    folder = tmp_path_factory.mktemp("supervisord")
    (folder / "version").write_text("v1\n")
    time.sleep(max(0.0, math.floor((folder / "version").stat().st_ctime) + 1.01 - time.time()))
    groups = {"checkout": dict.fromkeys(INSTANCES, "sleep 1000"), "other": {"other-1": "sleep 1000"}}
    with supervisord(folder, groups) as running:
        yield running


@pytest.fixture(params=["fake", "sandbox", "supervisord"])
def use(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[ServiceManager], Awaitable[Any]]], Any]]:
    """Run a coroutine with a manager of three instances that all run."""
    if request.param == "fake":
        fake = FakeServices({"checkout": INSTANCES})
        yield lambda work: asyncio.run(work(fake))
        return
    make = {"sandbox": _sandbox, "supervisord": _supervisord}[request.param](request)

    async def closed(work: Any) -> Any:
        adapter = make()
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    yield lambda work: asyncio.run(closed(work))


def _sandbox(request: pytest.FixtureRequest) -> Callable[[], ServiceManager]:
    layout = request.getfixturevalue("well")
    return lambda: SandboxServices(layout.urls["supervisor"], SecretStr(layout.token()))


def _supervisord(request: pytest.FixtureRequest) -> Callable[[], ServiceManager]:
    running = request.getfixturevalue("real_supervisord")
    stopped = [one for one in running.call("supervisor.getAllProcessInfo") if one["statename"] != "RUNNING"]
    for one in stopped:
        running.call("supervisor.startProcess", f"{one['group']}:{one['name']}")
    return lambda: Supervisord(running.url, versions={"checkout": f"{running.folder}/version"})


def call(action: str, target: str = "checkout-2") -> Call:
    """Make a call."""
    return Call(capability="services", action=action, target=target)


def holds(plan: Any, state: dict[str, Any]) -> bool:
    """Tell whether a state is what a plan wants."""
    return plan.after.items() <= state.items() and all(state[key] != value for key, value in plan.differs.items())


def test_instances_are_listed_in_a_stable_order(use) -> None:
    """Each instance has its name, state, process and version."""
    found = use(lambda s: s.instances("checkout"))
    assert [service.name for service in found] == INSTANCES
    assert all((s.state, s.version) == ("running", "v1") and s.pid and s.started_at.tzinfo for s in found)


def test_an_unknown_service_has_no_instances(use) -> None:
    """An empty list, not an error."""
    assert use(lambda s: s.instances("no-such-service")) == []


def test_an_unknown_instance_is_not_found(use) -> None:
    """Reading or changing what is not there names it."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda s: s.state("no-such"))
    with pytest.raises(NotFound, match="no-such"):
        use(lambda s: s.apply(call("restart", "no-such"), uuid4().hex, 1))


@remembering
def test_a_fence_on_an_unknown_instance_is_not_found(use) -> None:
    """A token for what is not there shuts nobody out, so it is no success."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda s: s.fence("no-such", 1))


@pytest.mark.parametrize("actions", [("restart",), ("stop", "start")])
def test_what_a_plan_wants_comes_true(use, until, actions) -> None:
    """After each action the state shows what the plan promised; a restart cannot be undone, the others can."""
    for action in actions:
        before = use(lambda s: s.state("checkout-2"))
        plan = use(lambda s, action=action, before=before: _plan(s, action, before))
        assert not holds(plan, before) and bool(plan.irreversible) is (action == "restart")
        assert (plan.undo is None) is (action == "restart")
        use(lambda s, action=action: s.apply(call(action), uuid4().hex, next(TOKENS)))
        until(lambda plan=plan: holds(plan, use(lambda s: s.state("checkout-2"))))


async def _plan(services: ServiceManager, action: str, before: dict[str, Any]) -> Any:
    return services.plan(call(action), before)


@remembering
def test_the_same_key_acts_once(use) -> None:
    """A restart that is repeated with its key does not restart again, whatever its token; a new key does."""
    keys, tokens = [uuid4().hex, uuid4().hex], [next(TOKENS), next(TOKENS)]
    pids = []
    for key, token in ((keys[0], tokens[0]), (keys[0], tokens[0]), (keys[0], tokens[1]), (keys[1], tokens[1])):
        use(lambda s, key=key, token=token: s.apply(call("restart"), key, token))
        pids.append(pid(use))
    assert pids[0] == pids[1] == pids[2] != pids[3]


@pytest.mark.parametrize("action", ["stop", "start", "restart"])
def test_what_holds_already_is_no_error(use, until, action) -> None:
    """Stopping what is stopped and starting what runs do nothing; a restart of what is stopped starts it."""
    first = "start" if action == "start" else "stop"
    for one in (first, action):
        use(lambda s, one=one: s.apply(call(one), uuid4().hex, next(TOKENS)))
    until(lambda: use(lambda s: s.state("checkout-2"))["state"] == ("stopped" if action == "stop" else "running"))


def pid(use: Any, target: str = "checkout-2") -> Any:
    """Read the process of an instance."""
    return use(lambda s: s.state(target))["pid"]


@remembering
def test_a_stale_token_is_refused_and_nothing_changes(use) -> None:
    """Who comes with a lower token than one that acted is refused, with a new key and with one that was used."""
    old, new = next(TOKENS), next(TOKENS)
    keys = [uuid4().hex, uuid4().hex]
    use(lambda s: s.apply(call("start"), keys[0], new))
    before = use(lambda s: s.state("checkout-2"))
    for action, key in (("restart", keys[1]), ("stop", uuid4().hex), ("start", keys[0])):
        with pytest.raises(Refused, match="newer lease"):
            use(lambda s, action=action, key=key: s.apply(call(action), key, old))
    assert use(lambda s: s.state("checkout-2")) == before


@remembering
def test_an_equal_token_acts_and_a_higher_one_is_remembered(use) -> None:
    """The holder acts as often as it wants; the next holder's token shuts it out; other instances do not care."""
    old, new = next(TOKENS), next(TOKENS)
    for action, token in (("stop", old), ("start", old), ("stop", new)):
        use(lambda s, action=action, token=token: s.apply(call(action), uuid4().hex, token))
    with pytest.raises(Refused, match=rf"\b{new}\b"):
        use(lambda s: s.apply(call("start"), uuid4().hex, old))
    assert pid(use) is None
    use(lambda s: s.apply(call("stop", "checkout-1"), uuid4().hex, old))
    assert pid(use, "checkout-1") is None


@remembering
def test_a_fence_shuts_out_without_acting(use) -> None:
    """A token that is announced, also twice, changes nothing and stops every lower one; a lower one is refused."""
    old, new, late = next(TOKENS), next(TOKENS), uuid4().hex
    before = pid(use)
    for _ in range(2):
        use(lambda s: s.fence("checkout-2", new))
    for work in (lambda s: s.fence("checkout-2", old), lambda s: s.apply(call("restart"), late, old)):
        with pytest.raises(Refused, match="newer lease"):
            use(work)
    assert pid(use) == before
    use(lambda s: s.apply(call("restart"), late, new))
    assert pid(use) != before


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {"fake": "in memory", "sandbox": "with a token; reads and writes", "supervisord": "supervisord 4."}
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
