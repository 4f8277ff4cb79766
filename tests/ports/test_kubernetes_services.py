"""Kubernetes keeps the promises of every service manager: for pods that keep their names, others, and workloads."""

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from servers.kubernetes import Stage, stage, staged, using

from rbkit.adapters.kube_services import KubernetesServices
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.ports import ServiceManager

__all__ = ["stage", "staged"]
INSTANCES = ["store-0", "store-1", "store-2"]
TARGETS = ["store-1", "deployment/checkout", "statefulset/store"]
WORKLOADS = TARGETS[1:]
TOKENS = count(1)
Use = Callable[[Callable[[ServiceManager], Awaitable[Any]]], Any]


@pytest.fixture
def use(stage: Stage) -> Iterator[Use]:
    """Run a coroutine with a manager."""
    with using(KubernetesServices(**stage.options)) as use:
        yield use


def acted(use: Use, action: str, target: str, key: str = "", token: int = 0) -> None:
    """Restart, stop or start an instance."""
    call = Call(capability="services", action=action, target=target)
    use(lambda s: s.apply(call, key or uuid4().hex, token or next(TOKENS)))


def state(use: Use, target: str) -> dict[str, Any]:
    """Read an instance."""
    return dict(use(lambda s: s.state(target)))


def runs(use: Use, target: str) -> int | None:
    """Wait until an instance runs, and return what stands for its process."""
    Stage.wait(lambda: state(use, target)["state"] == "running")
    found: int | None = state(use, target)["pid"]
    return found


def holds(plan: Any, state: dict[str, Any]) -> bool:
    """Tell whether a state is what a plan wants."""
    return plan.after.items() <= state.items() and all(state[key] != value for key, value in plan.differs.items())


def test_instances_are_listed_in_a_stable_order(use) -> None:
    """Each instance has its name, state, version, and a number that stands for its process."""
    found = use(lambda s: s.instances("store"))
    assert [service.name for service in found] == INSTANCES
    assert all((s.state, s.version, s.service, s.restarts) == ("running", "3.9", "store", 0) for s in found)
    assert all(s.pid and s.started_at.tzinfo for s in found) and len({s.pid for s in found}) == 3


@pytest.mark.parametrize("service", ["no-such-service", "store,app!=x", "", "störe", "store)"])
def test_an_unknown_service_has_no_instances(use, service) -> None:
    """An empty list, not an error; a name that no label can have is no selector."""
    assert use(lambda s: s.instances(service)) == []


@pytest.mark.parametrize("target", ["no-such", "deployment/no-such", "daemonset/no-such", "store-9", "NO-SUCH"])
def test_an_unknown_instance_is_not_found(use, target) -> None:
    """Reading or changing what is not there names it."""
    name = target.rpartition("/")[2]
    with pytest.raises(NotFound, match=name):
        state(use, target)
    for action in ("restart", "stop"):
        with pytest.raises(NotFound, match=name):
            acted(use, action, target, token=1)
    with pytest.raises(NotFound, match=name):
        use(lambda s: s.fence(target, 1))


@pytest.mark.parametrize(
    ("target", "actions"),
    [*((target, ("restart",)) for target in TARGETS), *((target, ("stop", "start")) for target in WORKLOADS)],
)
def test_what_a_plan_wants_comes_true(use, target, actions) -> None:
    """After each action the state shows what the plan promised; a restart cannot be undone, the others can."""
    for action in actions:
        before = state(use, target)
        plan = use(lambda s, action=action, before=before: planned(s, action, before, target))
        assert not holds(plan, before) and bool(plan.irreversible) is (action == "restart")
        acted(use, action, target)
        Stage.wait(lambda plan=plan: holds(plan, state(use, target)))


async def planned(services: ServiceManager, action: str, before: dict[str, Any], target: str) -> Any:
    """Plan a change."""
    return services.plan(Call(capability="services", action=action, target=target), before)


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_key_acts_once(use, target) -> None:
    """A restart that is repeated with its key does not restart again, whatever its token; a new key does."""
    keys, tokens = [uuid4().hex, uuid4().hex], [next(TOKENS), next(TOKENS)]
    pids = []
    for key, token in ((keys[0], tokens[0]), (keys[0], tokens[0]), (keys[0], tokens[1]), (keys[1], tokens[1])):
        acted(use, "restart", target, key, token)
        pids.append(runs(use, target))
    assert pids[0] == pids[1] == pids[2] != pids[3]


@pytest.mark.parametrize("target", TARGETS)
def test_a_stale_token_is_refused_and_nothing_changes(use, target) -> None:
    """Who comes with a lower token than one that acted is refused, also when the pod is another one by now."""
    old, new, key = next(TOKENS), next(TOKENS), uuid4().hex
    acted(use, "restart", target, key, new)
    pid = runs(use, target)
    for name in (uuid4().hex, key):
        with pytest.raises(Refused, match="newer lease"):
            acted(use, "restart", target, name, old)
    assert runs(use, target) == pid


@pytest.mark.parametrize("target", TARGETS)
def test_a_fence_shuts_out_without_acting(use, target) -> None:
    """A token that is announced, also twice, changes nothing and stops every lower one; a lower one is refused."""
    old, new, pid = next(TOKENS), next(TOKENS), runs(use, target)
    for _ in range(2):
        use(lambda s: s.fence(target, new))
    for work in (lambda: use(lambda s: s.fence(target, old)), lambda: acted(use, "restart", target, token=old)):
        with pytest.raises(Refused, match="newer lease"):
            work()
    assert runs(use, target) == pid
    acted(use, "restart", "store-0", token=old)
    acted(use, "restart", target, token=new)
    assert runs(use, target) != pid


def test_a_pod_that_loses_its_name_leaves_a_place_that_is_filled(use, stage) -> None:
    """After a restart the old name still tells how its place is: running again, with nothing of the old process."""
    before = use(lambda s: s.instances("checkout"))
    plan = use(lambda s: planned(s, "restart", {"pid": before[0].pid, "state": "running"}, before[0].name))
    acted(use, "restart", before[0].name)
    Stage.wait(lambda: holds(plan, state(use, before[0].name)))
    assert state(use, before[0].name)["pid"] is None and state(use, before[0].name)["service"] == "checkout"
    after = use(lambda s: s.instances("checkout"))
    assert len(after) == 2 and before[0].name not in {one.name for one in after}
    acted(use, "stop", "deployment/checkout")
    Stage.wait(lambda: state(use, before[0].name)["state"] == "stopped")


@pytest.mark.parametrize("action", ["stop", "start"])
def test_a_pod_is_neither_stopped_nor_started(use, action) -> None:
    """Its controller decides that; the refusal says what can be stopped instead."""
    with pytest.raises(Refused, match="deployment/NAME"):
        acted(use, action, "store-0")


@pytest.mark.parametrize("target", WORKLOADS)
def test_a_workload_starts_with_as_many_instances_as_it_had(use, stage, target) -> None:
    """Stopping twice is once, starting twice is once, and the number comes back."""
    kind, name, count = {"d": ("Deployment", "checkout", 2), "s": ("StatefulSet", "store", 3)}[target[0]]
    for _ in range(2):
        acted(use, "stop", target)
    Stage.wait(lambda: state(use, target)["state"] == "stopped")
    assert use(lambda s: s.instances(name)) == []
    with pytest.raises(Refused, match="stopped"):
        acted(use, "restart", target)
    for _ in range(2):
        acted(use, "start", target)
    runs(use, target)
    assert stage.ready(kind, name) == count


def test_what_somebody_else_has_stopped_is_not_started(use, stage) -> None:
    """How many instances it had is not known."""
    from lightkube.resources.apps_v1 import StatefulSet

    thing = stage.client.get(StatefulSet, "store")
    thing.spec.replicas = 0
    stage.client.replace(thing)
    with pytest.raises(Refused, match="not known"):
        acted(use, "start", "statefulset/store")


def test_ping_says_who_we_are_and_what_we_may_do(use) -> None:
    """One line: the version, as whom we are there, and that no right is missing."""
    said = use(lambda one: one.ping())
    assert "reads and writes" in said and ("in memory" in said or "Kubernetes v1." in said)
