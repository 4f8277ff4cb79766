"""Every scaler, in memory or real, keeps the same promises."""

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import boto3
import pytest
from servers.kubernetes import STAGES, Stage, stages, using
from servers.moto import moto

from rbkit.adapters.aws import AutoScalingGroups
from rbkit.adapters.fake_scaling import FakeScaler
from rbkit.adapters.kubernetes import KubernetesScaler
from rbkit.errors import NotFound, Refused
from rbkit.events import Call
from rbkit.kinds import Scaler

TOKENS = count(1)
"""Each test takes tokens that are higher than all before: a real scaler remembers them from test to test."""
REGION = "eu-central-1"
Use = Callable[[Callable[[Scaler], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of AWS with a group of two instances, at least one, at most five."""
    with moto(tmp_path_factory.mktemp("moto")) as url, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        client = boto3.client("autoscaling", region_name=REGION, endpoint_url=url)
        client.create_launch_configuration(
            LaunchConfigurationName="small", ImageId="ami-12c6146b", InstanceType="t3.micro"
        )
        client.create_auto_scaling_group(
            AutoScalingGroupName="checkout", LaunchConfigurationName="small", MinSize=1, MaxSize=5, DesiredCapacity=2,
            AvailabilityZones=[f"{REGION}a"],
        )  # fmt: skip
        client.close()
        yield url


@pytest.fixture(scope="module")
def staged() -> Iterator[Callable[[str], Stage]]:
    """Kubernetes: the double, and a cluster where one is named."""
    with stages() as stage:
        yield stage


@pytest.fixture(params=["fake", "aws", *STAGES])
def use(request: pytest.FixtureRequest) -> Iterator[Use]:
    """Run a coroutine with a scaler of the group `checkout`: two instances, at least one, at most five."""
    with using(made(request)) as use:
        yield use


@pytest.fixture(params=["fake", *STAGES])
def fenced(request: pytest.FixtureRequest) -> Iterator[Use]:
    """The same with the scalers that remember keys and fencing tokens; AWS knows neither, and its adapter says so."""
    with using(made(request)) as use:
        yield use


def made(request: pytest.FixtureRequest) -> Scaler:
    """Make the scaler that a parameter names."""
    if request.param == "fake":
        return FakeScaler({"checkout": 2}, least=1, most=5)
    if request.param == "aws":
        return AutoScalingGroups(REGION, request.getfixturevalue("aws"))
    stage = request.getfixturevalue("staged")(request.param)
    stage.reset()
    return KubernetesScaler(least=1, most=5, **stage.options)


def call(wanted: int, target: str = "checkout") -> Call:
    """Make a call."""
    return Call(capability="scaler", action="scale", target=target, arguments={"wanted": wanted})


def scaled(use: Use, wanted: int, key: str = "", token: int = 0) -> None:
    """Scale the group."""
    use(lambda s: s.apply(call(wanted), key or uuid4().hex, token or next(TOKENS)))


def state(use: Use) -> dict[str, Any]:
    """Read the group."""
    return use(lambda s: s.state("checkout"))


def test_a_group_shows_what_it_wants_has_and_may_have(use, until) -> None:
    """The state has the wanted and the ready instances, and the limits."""
    scaled(use, 2)
    until(lambda: state(use)["ready"] == 2)
    assert {key: state(use)[key] for key in ("wanted", "ready", "least", "most")} == {
        "wanted": 2, "ready": 2, "least": 1, "most": 5,
    }  # fmt: skip


def test_an_unknown_group_is_not_found(use) -> None:
    """Reading or changing what is not there names it."""
    for work in (lambda s: s.state("no-such"), lambda s: s.apply(call(2, "no-such"), uuid4().hex, 1)):
        with pytest.raises(NotFound, match="no-such"):
            use(work)


def test_what_a_plan_wants_comes_true_and_goes_back(use, until) -> None:
    """More and fewer instances come; the plan's way back restores the number before."""
    scaled(use, 2)
    for wanted, back in ((4, 2), (2, 4)):
        before = state(use)
        plan = use(lambda s, wanted=wanted, before=before: planned(s, wanted, before))
        assert plan.undo == ("scale", {"wanted": back}) and plan.waits == ("ready",)
        scaled(use, wanted)
        until(lambda plan=plan: plan.after.items() <= state(use).items())


async def planned(scaler: Scaler, wanted: int, before: dict[str, Any]) -> Any:
    """Plan a change of size."""
    return scaler.plan(call(wanted), before)


@pytest.mark.parametrize("wanted", [0, 6])
def test_beyond_the_limits_nothing_is_planned(use, wanted) -> None:
    """The limits hold before anything is touched."""
    before = state(use)
    with pytest.raises(Refused, match="limits 1 to 5"):
        use(lambda s: planned(s, wanted, before))


def test_the_same_size_twice_is_once(use, until) -> None:
    """Asking for what is there changes nothing and is no error."""
    for _ in range(2):
        scaled(use, 3)
    until(lambda: state(use)["ready"] == 3)
    assert state(use)["wanted"] == 3


def test_a_repeated_key_acts_once(fenced) -> None:
    """What arrives once more after somebody has gone on does not act again, whatever its token."""
    key, token = uuid4().hex, next(TOKENS)
    for wanted, name in ((4, key), (2, uuid4().hex), (4, key)):
        scaled(fenced, wanted, name, token)
    scaled(fenced, 4, key)
    assert state(fenced)["wanted"] == 2


def test_a_stale_token_is_refused_and_nothing_changes(fenced) -> None:
    """Who comes with a lower token than one that acted is refused, with a new key and with one that was used."""
    old, new, key = next(TOKENS), next(TOKENS), uuid4().hex
    scaled(fenced, 2, key, new)
    for wanted, name in ((4, uuid4().hex), (2, key)):
        with pytest.raises(Refused, match="newer lease"):
            scaled(fenced, wanted, name, old)
    assert state(fenced)["wanted"] == 2


def test_a_fence_shuts_out_without_acting(fenced) -> None:
    """A token that is announced, also twice, changes nothing and stops every lower one; a lower one is refused."""
    scaled(fenced, 2)
    old, new = next(TOKENS), next(TOKENS)
    for _ in range(2):
        fenced(lambda s: s.fence("checkout", new))
    for work in (lambda s: s.fence("checkout", old), lambda s: s.apply(call(4), uuid4().hex, old)):
        with pytest.raises(Refused, match="newer lease"):
            fenced(work)
    assert state(fenced)["wanted"] == 2
    scaled(fenced, 4, token=new)
    assert state(fenced)["wanted"] == 4


def test_an_unknown_group_cannot_be_fenced(fenced) -> None:
    """A slip in the name is found before anything is touched."""
    with pytest.raises(NotFound, match="no-such"):
        fenced(lambda s: s.fence("no-such", 1))


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {"fake": "in memory", "aws": "a group is there"} | dict.fromkeys(STAGES, "reads and writes")
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
