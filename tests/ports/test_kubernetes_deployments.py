"""Kubernetes keeps the promises of every deployer; the versions are those that ReplicaSets remember."""

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from lightkube.resources.apps_v1 import Deployment
from servers.kubernetes import Stage, staged, using
from servers.kubernetes import stage as bare

from rbkit.adapters.kube_deployments import KubernetesDeployments
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.kinds import Deployments

__all__ = ["bare", "staged"]
TOKENS = count(1)
Use = Callable[[Callable[[Deployments], Awaitable[Any]]], Any]


@pytest.fixture
def stage(bare: Stage) -> Stage:
    """A deployment that ran 3.8 and 3.9 and runs 3.10."""
    for version in ("3.8", "3.9", "3.10"):
        bare.release(version)
        bare.wait(lambda: bare.ready("Deployment", "checkout") == 2)
    return bare


@pytest.fixture
def use(stage: Stage) -> Iterator[Use]:
    """Run a coroutine with a deployer."""
    with using(KubernetesDeployments(**stage.options)) as use:
        stage.wait(lambda: state(use)["ready"] == 2)
        yield use


def deployed(use: Use, version: str, key: str = "", token: int = 0) -> None:
    """Deploy a version."""
    call = Call(capability="deployments", action="deploy", target="checkout", arguments={"version": version})
    use(lambda d: d.apply(call, key or uuid4().hex, token or next(TOKENS)))


def state(use: Use) -> dict[str, Any]:
    """Read the deployment."""
    return dict(use(lambda d: d.state("checkout")))


def versions(use: Use) -> list[str]:
    """List the versions."""
    return [found.version for found in use(lambda d: d.versions("checkout"))]


def test_the_version_that_runs_comes_first_then_the_newest(use) -> None:
    """Each says when it was made and which revision it is."""
    assert versions(use) == ["3.10", "3.9", "3.8"]
    found = use(lambda d: d.versions("checkout"))
    assert all(one.deployed_at.tzinfo for one in found) and "revision" in found[0].note


def test_what_a_plan_wants_comes_true_and_goes_back(use, until) -> None:
    """The version before is deployed, its instances become ready, and the way back restores the version after."""
    for version, back in (("3.9", "3.10"), ("3.10", "3.9")):
        before = state(use)
        plan = use(lambda d, version=version, before=before: planned(d, version, before))
        assert plan.undo == ("deploy", {"version": back}) and not plan.irreversible
        deployed(use, version)
        until(lambda plan=plan: plan.after.items() <= state(use).items())
        assert versions(use)[0] == version


async def planned(adapter: Deployments, version: str, before: dict[str, Any]) -> Any:
    """Plan a deployment."""
    call = Call(capability="deployments", action="deploy", target="checkout", arguments={"version": version})
    return adapter.plan(call, before)


def test_an_unknown_service_is_not_found(use) -> None:
    """Reading or changing what is not there names it."""
    call = Call(capability="deployments", action="deploy", target="no-such", arguments={"version": "3.9"})
    for work in (
        lambda d: d.versions("no-such"), lambda d: d.state("no-such"), lambda d: d.fence("no-such", 1),
        lambda d: d.apply(call, uuid4().hex, 1),
    ):  # fmt: skip
        with pytest.raises(NotFound, match="no-such"):
            use(work)


def test_a_version_that_never_ran_is_refused(use) -> None:
    """A slip is refused with the nearest version, and nothing changes."""
    with pytest.raises(Refused, match=r"has not run '3.11'.*Did you mean '3.1?"):
        deployed(use, "3.11")
    assert state(use)["version"] == "3.10"


def test_the_same_version_twice_is_once(use) -> None:
    """Deploying what runs changes nothing and is no error."""
    deployed(use, "3.10")
    assert state(use) == {"version": "3.10", "ready": 2, "wanted": 2}


def test_a_repeated_key_acts_once(use) -> None:
    """A deployment that arrives once more after somebody has gone on does not act again, whatever its token."""
    key, token = uuid4().hex, next(TOKENS)
    for version, name in (("3.9", key), ("3.10", uuid4().hex), ("3.9", key)):
        deployed(use, version, name, token)
    deployed(use, "3.9", key)
    assert state(use)["version"] == "3.10"


def test_a_stale_token_is_refused_and_nothing_changes(use) -> None:
    """Who comes with a lower token than one that acted or was announced is refused, whatever the key."""
    old, new, key = next(TOKENS), next(TOKENS), uuid4().hex
    deployed(use, "3.10", key, new)
    use(lambda d: d.fence("checkout", new))
    for version, name in (("3.9", uuid4().hex), ("3.10", key)):
        with pytest.raises(Refused, match="newer lease"):
            deployed(use, version, name, old)
    with pytest.raises(Refused, match="newer lease"):
        use(lambda d: d.fence("checkout", old))
    assert state(use)["version"] == "3.10"


def test_versions_of_one_tag_that_differ_are_told_apart(use, stage, until) -> None:
    """A changed setting is a version of its own, and can be gone back from; a restart is none."""
    change(stage, env=[{"name": "COLOUR", "value": "red"}])
    until(lambda: state(use)["ready"] == 2)
    now = state(use)["version"]
    assert [name.partition("@")[0] for name in versions(use)] == ["3.10", "3.10", "3.9", "3.8"]
    assert versions(use)[0] == now and len(set(versions(use))) == 4
    before = versions(use)[1]
    deployed(use, before)
    until(lambda: state(use) == {"version": before, "ready": 2, "wanted": 2})
    restart(stage)
    until(lambda: state(use) == {"version": before, "ready": 2, "wanted": 2})
    assert versions(use) == [before, now, "3.9", "3.8"]


def change(stage: Stage, env: list[dict[str, str]]) -> None:
    """Change the environment of the deployment's container."""
    thing = stage.client.get(Deployment, "checkout").to_dict()
    thing["spec"]["template"]["spec"]["containers"][0]["env"] = env
    stage.client.replace(Deployment.from_dict(thing))


def restart(stage: Stage) -> None:
    """Restart the deployment as kubectl does."""
    thing = stage.client.get(Deployment, "checkout").to_dict()
    notes = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    thing["spec"]["template"]["metadata"]["annotations"] = notes
    stage.client.replace(Deployment.from_dict(thing))


def test_a_paused_deployment_is_refused(use, stage) -> None:
    """Its pods would not follow."""
    thing = stage.client.get(Deployment, "checkout")
    thing.spec.paused = True
    stage.client.replace(thing)
    with pytest.raises(Refused, match="paused"):
        deployed(use, "3.9")


def test_why_a_version_was_deployed_goes_with_it(use, stage) -> None:
    """The change-cause of the version that comes back is the deployment's again; one that has none takes it away."""
    thing = stage.client.get(Deployment, "checkout")
    thing.metadata.annotations["kubernetes.io/change-cause"] = "ticket 7"
    stage.client.replace(thing)
    stage.wait(lambda: "ticket 7" in use(lambda d: d.versions("checkout"))[0].note)
    for version, cause in (("3.9", None), ("3.10", "ticket 7")):
        deployed(use, version)
        notes = stage.client.get(Deployment, "checkout").metadata.annotations
        assert notes.get("kubernetes.io/change-cause") == cause


def test_ping_says_who_we_are_and_what_we_may_do(use) -> None:
    """One line: the version, as whom we are there, and that no right is missing."""
    said = use(lambda one: one.ping())
    assert "reads and writes" in said and ("in memory" in said or "Kubernetes v1." in said)
