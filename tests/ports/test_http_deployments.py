"""Deployments in memory and behind HTTP (a double) keep the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from rbkit.adapters.fake_services import FakeDeployments
from rbkit.adapters.http_deployments import HttpDeployments
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Deployments
from rbkit.testing.http_machines import DeploymentsDouble

VERSIONS = {"v3": "2026-11-23T10:00:00Z", "v2": "2026-11-22T10:00:00+00:00", "v1": "2026-11-21T10:00:00"}


@pytest.fixture(params=["fake", "double"])
def use(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[Deployments], Awaitable[Any]]], Any]]:
    """Run a coroutine with a service of three versions; the newest runs on three instances."""
    if request.param == "fake":
        fake = FakeDeployments({"checkout": VERSIONS}, wanted=3)
        yield lambda work: asyncio.run(work(fake))
        return

    async def closed(work: Any) -> Any:
        adapter = HttpDeployments(double.url, paths={"fence": "/services/{service}/fence"})
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    with DeploymentsDouble({"checkout": dict(VERSIONS)}) as double:
        yield lambda work: asyncio.run(closed(work))


def call(version: str, service: str = "checkout") -> Call:
    """Make a call."""
    return Call(capability="deployments", action="deploy", target=service, arguments={"version": version})


def names(use: Any) -> list[str]:
    """List the versions."""
    return [one.version for one in use(lambda d: d.versions("checkout"))]


def test_deploy_comes_true_and_goes_back(use) -> None:
    """The version that runs is listed first; the plan's way back leads to the one before."""
    assert names(use) == ["v3", "v2", "v1"]

    async def deploy(deployments: Deployments) -> Any:
        plan = deployments.plan(call("v1"), await deployments.state("checkout"))
        await deployments.apply(call("v1"), uuid4().hex, 1)
        return plan

    plan = use(deploy)
    after = use(lambda d: d.state("checkout"))
    assert plan.after.items() <= after.items() and after == {"version": "v1", "ready": 3, "wanted": 3}
    assert plan.undo == ("deploy", {"version": "v3"}) and names(use) == ["v1", "v3", "v2"]
    use(lambda d: d.apply(call("v3"), uuid4().hex, 1))
    assert names(use) == ["v3", "v2", "v1"]


def test_a_repeated_key_acts_once(use) -> None:
    """What arrives once more after another deployment changes nothing."""
    key = uuid4().hex
    for version, name in (("v1", key), ("v2", uuid4().hex), ("v1", key)):
        use(lambda d, version=version, name=name: d.apply(call(version), name, 1))
    assert use(lambda d: d.state("checkout"))["version"] == "v2"


def test_a_lower_token_is_refused(use) -> None:
    """Whether a higher one acted or was only announced."""
    use(lambda d: d.apply(call("v2"), uuid4().hex, 5))
    with pytest.raises(Refused, match="newer lease"):
        use(lambda d: d.apply(call("v1"), uuid4().hex, 4))
    use(lambda d: d.fence("checkout", 7))
    for work in (lambda d: d.apply(call("v1"), uuid4().hex, 6), lambda d: d.fence("checkout", 6)):
        with pytest.raises(Refused, match="newer lease"):
            use(work)
    assert use(lambda d: d.state("checkout"))["version"] == "v2"


def test_an_unknown_service_is_not_found(use) -> None:
    """Reading or changing what is not there."""
    for work in (
        lambda d: d.state("no-such"), lambda d: d.versions("no-such"), lambda d: d.fence("no-such", 1),
        lambda d: d.apply(call("v1", "no-such"), uuid4().hex, 1), lambda d: d.state("../services/checkout"),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            use(work)


def test_an_unknown_version_changes_nothing(use) -> None:
    """It was never built."""
    with pytest.raises((NotFound, Refused), match="no (such )?version"):
        use(lambda d: d.apply(call("v9"), uuid4().hex, 1))
    assert use(lambda d: d.state("checkout"))["version"] == "v3"


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {"fake": "in memory", "double": "answers, without credentials"}
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
