"""Deployments of every kind, and the scaler in memory, keep the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from servers.supervisord import Supervisor, supervisord

from rbkit.adapters.fake_services import FakeDeployments, FakeScaler
from rbkit.adapters.version_file import VersionFile
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Deployments

VERSIONS = ["v3", "v2", "v1"]
TOKENS = count(1)
Use = Callable[[Callable[[Deployments], Awaitable[Any]]], Any]

remembering = pytest.mark.parametrize("use", ["fake"], indirect=True)
"""A folder and supervisord remember neither keys nor tokens, as the adapter says."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisord with a group of two processes that run from a folder of releases."""
    folder = tmp_path_factory.mktemp("releases")
    for version in reversed(VERSIONS):
        (folder / "releases" / version).mkdir(parents=True)
        program = folder / "releases" / version / "run"
        program.write_text("#!/bin/sh\nexec sleep 1000\n")
        program.chmod(0o755)
    (folder / "current").symlink_to("releases/v3")
    command = f"{folder}/current/run"
    with supervisord(folder, {"checkout": {"checkout-1": command, "checkout-2": command}}) as running:
        yield running


@pytest.fixture(params=["fake", "version-file"])
def use(request: pytest.FixtureRequest) -> Iterator[Use]:
    """Run a coroutine with deployments of a service with two instances and three versions; the newest runs."""
    if request.param == "fake":
        fake = FakeDeployments({"checkout": VERSIONS})
        yield lambda work: asyncio.run(work(fake))
        return
    running = request.getfixturevalue("real")

    async def closed(work: Any) -> Any:
        adapter = VersionFile({"checkout": str(running.folder)}, running.url)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    def all_of(work: Any) -> Any:
        return asyncio.run(closed(work))

    all_of(lambda d: d.apply(call("v3"), uuid4().hex, 1))
    yield all_of


def call(version: str, service: str = "checkout") -> Call:
    """Make a call."""
    return Call(capability="deployments", action="deploy", target=service, arguments={"version": version})


def test_versions_begin_with_the_one_that_runs(use) -> None:
    """What can be gone back to, each once."""
    found = use(lambda d: d.versions("checkout"))
    assert found[0].version == "v3" and sorted(one.version for one in found) == sorted(VERSIONS)
    use(lambda d: d.apply(call("v1"), uuid4().hex, next(TOKENS)))
    assert use(lambda d: d.versions("checkout"))[0].version == "v1"


def test_an_unknown_service_is_not_found(use) -> None:
    """Reading and changing what is not there names it."""
    for work in (lambda d: d.versions("no-such"), lambda d: d.state("no-such")):
        with pytest.raises(NotFound, match="no-such"):
            use(work)
    with pytest.raises(NotFound, match="no-such"):
        use(lambda d: d.apply(call("v1", "no-such"), uuid4().hex, next(TOKENS)))


@pytest.mark.parametrize("version", ["v9", "", ".", "..", "../v1", "v1/../v2", "/etc", "v1\n", "-v", "current"])
def test_an_unknown_version_is_not_found_and_nothing_changes(use, version) -> None:
    """Neither a slip nor a path that leads out of the releases is deployed."""
    before = use(lambda d: d.state("checkout"))
    with pytest.raises(NotFound):
        use(lambda d: d.apply(call(version), uuid4().hex, next(TOKENS)))
    assert use(lambda d: d.state("checkout")) == before


def test_a_deployment_comes_true_and_goes_back(use, until) -> None:
    """What a plan wants is what the state shows afterwards; the plan's way back is the version of before."""
    before = use(lambda d: d.state("checkout"))
    assert before == {"version": "v3", "ready": 2, "wanted": 2}
    plan = use(lambda d: _plan(d, before, "v2"))
    assert plan.undo == ("deploy", {"version": "v3"}) and not plan.irreversible
    for version in ("v2", "v3"):
        use(lambda d, version=version: d.apply(call(version), uuid4().hex, next(TOKENS)))
        after = {"version": version, "ready": 2, "wanted": 2}
        until(lambda after=after: use(lambda d: d.state("checkout")) == after)


async def _plan(deployments: Deployments, before: dict[str, Any], version: str) -> Any:
    return deployments.plan(call(version), before)


def test_what_runs_already_is_no_error(use) -> None:
    """Deploying the version that runs changes nothing."""
    before = use(lambda d: d.state("checkout"))
    use(lambda d: d.apply(call("v3"), uuid4().hex, next(TOKENS)))
    assert use(lambda d: d.state("checkout")) == before


@remembering
def test_keys_and_tokens_are_remembered(use) -> None:
    """A key acts once; a lower token than one that was seen is refused."""
    key, old, new = uuid4().hex, next(TOKENS), next(TOKENS)
    for version, name in (("v2", key), ("v3", uuid4().hex), ("v2", key)):
        use(lambda d, version=version, name=name: d.apply(call(version), name, new))
    with pytest.raises(Refused, match="newer lease"):
        use(lambda d: d.apply(call("v1"), uuid4().hex, old))
    assert use(lambda d: d.state("checkout"))["version"] == "v3"


def test_a_fake_scaler_scales_within_its_limits() -> None:
    """What the plan wants comes true, its way back is the number of before; outside the limits nothing is planned."""
    scaler = FakeScaler({"checkout": 2}, least=1, most=4)
    scale = Call(capability="scaler", action="scale", target="checkout", arguments={"wanted": 4})
    before = asyncio.run(scaler.state("checkout"))
    plan = scaler.plan(scale, before)
    assert plan.undo == ("scale", {"wanted": 2})
    asyncio.run(scaler.apply(scale, uuid4().hex, 1))
    assert asyncio.run(scaler.state("checkout")) == before | plan.after
    with pytest.raises(Refused, match="limits 1 to 4"):
        scaler.plan(scale.model_copy(update={"arguments": {"wanted": 5}}), before)


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {"fake": "in memory", "version-file": "1 folder(s) of releases: reads and writes"}
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
