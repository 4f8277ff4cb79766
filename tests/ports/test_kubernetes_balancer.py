"""Kubernetes keeps the promises of every load balancer; the members are pods of a stateful set behind a Service."""

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from servers.kubernetes import Stage, manifest, stage, staged, using

from rbkit.adapters.kubernetes import KubernetesBalancer
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.ports import LoadBalancer

__all__ = ["stage", "staged"]
MEMBERS = ["store-0", "store-1", "store-2"]
TOKENS = count(1)
Use = Callable[[Callable[[LoadBalancer], Awaitable[Any]]], Any]


@pytest.fixture
def use(stage: Stage) -> Iterator[Use]:
    """Run a coroutine with a balancer."""
    with using(KubernetesBalancer(**stage.options)) as use:
        yield use


def acted(use: Use, action: str, target: str, key: str = "", token: int = 0) -> None:
    """Drain a member or make it ready."""
    call = Call(capability="balancer", action=action, target=target)
    use(lambda b: b.apply(call, key or uuid4().hex, token or next(TOKENS)))


def state(use: Use, target: str) -> str:
    """Read whether a member gets traffic."""
    return str(use(lambda b: b.state(target))["state"])


def test_members_are_listed_in_a_stable_order(use) -> None:
    """Each member has its name, service, state and health; also one that is drained."""
    acted(use, "drain", "store-1")
    first, second = use(lambda b: b.members("store")), use(lambda b: b.members("store"))
    assert [member.name for member in first] == [member.name for member in second] == MEMBERS
    assert [member.state for member in first] == ["ready", "drain", "ready"]
    assert all((m.service, m.healthy, m.active) == ("store", True, 0) for m in first)


def test_an_unknown_service_has_no_members(use) -> None:
    """An empty list, not an error; also for a name that no Service can have."""
    assert use(lambda b: b.members("no-such-service")) == use(lambda b: b.members("../pods")) == []


def test_an_unknown_member_is_not_found(use) -> None:
    """Reading or changing what is not there names it; also a name that no pod can have."""
    for target in ("no-such", "no-such/../store-0", "No-Such?x=1", "no-such\n"):
        with pytest.raises(NotFound, match="(?i)no-such"):
            use(lambda b, target=target: b.state(target))
        for action in ("drain", "ready"):
            with pytest.raises(NotFound, match="(?i)no-such"):
                acted(use, action, target, token=1)
        with pytest.raises(NotFound, match="(?i)no-such"):
            use(lambda b, target=target: b.fence(target, 1))


def test_drain_and_ready_come_true_and_go_back(use, until) -> None:
    """What a plan wants is what the state shows afterwards; the plan's way back restores the state before."""
    for action, back in (("drain", "ready"), ("ready", "drain")):
        before = use(lambda b: b.state("store-2"))
        plan = use(lambda b, action=action, before=before: planned(b, action, before))
        assert plan.undo == (back, {}) and not plan.irreversible
        acted(use, action, "store-2")
        until(lambda plan=plan: plan.after.items() <= use(lambda b: b.state("store-2")).items())
    assert {m.name: m.state for m in use(lambda b: b.members("store"))} == dict.fromkeys(MEMBERS, "ready")


async def planned(balancer: LoadBalancer, action: str, before: dict[str, Any]) -> Any:
    """Plan a change."""
    return balancer.plan(Call(capability="balancer", action=action, target="store-2"), before)


def test_the_same_change_twice_is_once(use) -> None:
    """Draining what is drained changes nothing and is no error."""
    token = next(TOKENS)
    for _ in range(2):
        acted(use, "drain", "store-1", token=token)
    assert state(use, "store-1") == "drain"


def test_a_repeated_key_acts_once(use) -> None:
    """A drain that arrives once more after the member was put back does not drain it again, whatever its token."""
    key, token = uuid4().hex, next(TOKENS)
    for action, name in (("drain", key), ("ready", uuid4().hex), ("drain", key)):
        acted(use, action, "store-1", name, token)
    acted(use, "drain", "store-1", key)
    assert state(use, "store-1") == "ready"


def test_a_stale_token_is_refused_and_nothing_changes(use) -> None:
    """Who comes with a lower token than one that acted is refused, with a new key and with one that was used."""
    old, new, key = next(TOKENS), next(TOKENS), uuid4().hex
    acted(use, "ready", "store-2", key, new)
    for action, name in (("drain", uuid4().hex), ("ready", key)):
        with pytest.raises(Refused, match="newer lease"):
            acted(use, action, "store-2", name, old)
    assert state(use, "store-2") == "ready"


def test_an_equal_token_acts_and_a_higher_one_is_remembered(use) -> None:
    """The holder acts as often as it wants; the next holder's token shuts it out; other members do not care."""
    old, new = next(TOKENS), next(TOKENS)
    for action, token in (("drain", old), ("ready", old), ("drain", new)):
        acted(use, action, "store-2", token=token)
    with pytest.raises(Refused, match=rf"\b{new}\b"):
        acted(use, "ready", "store-2", token=old)
    assert state(use, "store-2") == "drain"
    acted(use, "drain", "store-1", token=old)
    assert state(use, "store-1") == "drain"


def test_a_fence_shuts_out_without_acting(use) -> None:
    """A token that is announced, also twice, changes nothing and stops every lower one; a lower one is refused."""
    old, new, late = next(TOKENS), next(TOKENS), uuid4().hex
    for _ in range(2):
        use(lambda b: b.fence("store-2", new))
    for work in (lambda: use(lambda b: b.fence("store-2", old)), lambda: acted(use, "drain", "store-2", late, old)):
        with pytest.raises(Refused, match="newer lease"):
            work()
    assert state(use, "store-2") == "ready"
    acted(use, "drain", "store-2", late, new)
    assert state(use, "store-2") == "drain"


def test_the_last_ready_member_is_refused(use) -> None:
    """A refusal changes nothing and says why."""
    for name in MEMBERS[:2]:
        acted(use, "drain", name)
    with pytest.raises(Refused, match="no member"):
        acted(use, "drain", MEMBERS[2])
    assert state(use, MEMBERS[2]) == "ready"


def test_a_service_that_does_not_select_on_the_label_is_refused(use, stage) -> None:
    """Draining its pods would change nothing: listing says what is missing, and a pod of it is no member."""
    for selector in ({"app": "store"}, {"rbkit.dev/traffic": "on"}):
        stage.remove("Service", "store")
        service = manifest("Service", "store")
        service["spec"]["selector"] = selector
        stage.create(service)
        with pytest.raises(Refused, match=r"rbkit.dev/traffic=on.*Add the label"):
            use(lambda b: b.members("store"))
        with pytest.raises(NotFound, match="'store-0'"):
            acted(use, "drain", "store-0")
    assert use(lambda b: b.members("checkout"))


@pytest.mark.parametrize("kind", ["StatefulSet", "Deployment"])
def test_a_pod_whose_controller_selects_on_the_label_is_not_drained(use, stage, kind) -> None:
    """Its controller would replace it instead of letting it run on without traffic."""
    stage.remove("StatefulSet", "store")
    Stage.wait(lambda: not use(lambda b: b.members("store")))
    workload = manifest(kind, "store")
    workload["spec"]["selector"] = {"matchLabels": {"app": "store", "rbkit.dev/traffic": "on"}}
    stage.create(workload)
    Stage.wait(lambda: stage.ready(kind, "store") == 2)
    name = use(lambda b: b.members("store"))[0].name
    with pytest.raises(Refused, match="selects on rbkit.dev/traffic too"):
        acted(use, "drain", name)
    assert state(use, name) == "ready"
    stage.remove(kind, "store")


def test_ping_says_who_we_are_and_what_we_may_do(use) -> None:
    """One line: the version, as whom we are there, and that no right is missing."""
    said = use(lambda one: one.ping())
    assert "reads and writes" in said and ("in memory" in said or "Kubernetes v1." in said)
