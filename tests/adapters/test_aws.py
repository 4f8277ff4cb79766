"""Auto Scaling answers in the documented form or not at all; nothing that goes wrong is taken for done."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    InvalidRegionError,
    NoCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)  # fmt: skip
from botocore.parsers import ResponseParserError
from pings import pinged

from rbkit.adapters.aws import AutoScalingGroups
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.events import Call
from rbkit.testing.double import Answer, Double, Request

CALL = Call(capability="scaler", action="scale", target="checkout", arguments={"wanted": 3})
INSTANCE = (
    "<member><InstanceId>i</InstanceId><LifecycleState>{}</LifecycleState><HealthStatus>{}</HealthStatus></member>"
)
GROUPS = (
    "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult><AutoScalingGroups>{}</AutoScalingGroups>"
    "</DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
)
GROUP = (
    "<member><AutoScalingGroupName>checkout</AutoScalingGroupName><MinSize>1</MinSize><MaxSize>5</MaxSize>"
    "<DesiredCapacity>4</DesiredCapacity><Instances>{}</Instances></member>"
)
ERROR = "<ErrorResponse><Error><Code>{}</Code><Message>{}</Message></Error></ErrorResponse>"


class Aws(Double):
    """The two calls of Auto Scaling that the adapter makes, each with the answer that a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.described = Answer(200, GROUPS.format(GROUP.format("")))
        self.scaled: Callable[[], Answer] = lambda: Answer(200, "<SetDesiredCapacityResponse/>")
        self.asked: list[dict[str, list[str]]] = []

    def answer(self, request: Request) -> Answer:
        """Answer by the action that is asked for."""
        self.asked.append(parse_qs(request.body.decode()))
        return self.described if self.asked[-1]["Action"] == ["DescribeAutoScalingGroups"] else self.scaled()


@pytest.fixture(autouse=True)
def credentials(monkeypatch) -> None:
    """Credentials of nobody."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def aws() -> Iterator[Aws]:
    """The API of Auto Scaling."""
    with Aws() as double:
        yield double


def using(url: str, work: Callable[[AutoScalingGroups], Any], **more: Any) -> Any:
    """Use an adapter and close it."""

    async def closed() -> Any:
        adapter = AutoScalingGroups("eu-central-1", url, **more)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(closed())


def state(url: str, **more: Any) -> Any:
    """Read the group."""
    return using(url, lambda scaler: scaler.state("checkout"), **more)


def apply(url: str, **more: Any) -> None:
    """Scale the group to three."""
    using(url, lambda scaler: scaler.apply(CALL, "key", 1), **more)


def test_only_instances_that_serve_and_are_healthy_are_ready(aws) -> None:
    """Those that are pending, standing by or unhealthy are not."""
    pairs = [("InService", "Healthy"), ("InService", "Unhealthy"), ("Pending", "Healthy"), ("Standby", "Healthy")]
    instances = "".join(INSTANCE.format(*pair) for pair in pairs)
    aws.described = Answer(200, GROUPS.format(GROUP.format(instances)))
    assert state(aws.url) == {"wanted": 4, "ready": 1, "least": 1, "most": 5}


def test_the_capacity_is_set_without_a_cooldown(aws) -> None:
    """An incident does not wait for the cooldown of the last one; the values travel as fields of the request."""
    apply(aws.url)
    asked = aws.asked[-1]
    assert asked["Action"] == ["SetDesiredCapacity"] and asked["AutoScalingGroupName"] == ["checkout"]
    assert asked["DesiredCapacity"] == ["3"] and asked["HonorCooldown"] == ["false"]


@pytest.mark.parametrize("body", [GROUPS.format(""), GROUPS.format(GROUP.format("").replace("checkout", "other"))])
def test_a_group_that_is_not_listed_is_not_found(aws, body) -> None:
    """An empty list, or another group, is no group; nothing is scaled."""
    aws.described = Answer(200, body)
    for work in (state, apply):
        with pytest.raises(NotFound, match="'checkout'"):
            work(aws.url)
    assert {asked["Action"][0] for asked in aws.asked} == {"DescribeAutoScalingGroups"}


@pytest.mark.parametrize(
    "body", ["<a/>", "<DescribeAutoScalingGroupsResponse/>", "no xml", "", GROUPS.format("<member/>")]
)
def test_another_form_is_a_bad_answer(aws, body) -> None:
    """It is never half read; before a change it means that nothing was done."""
    aws.described = Answer(200, body)
    with pytest.raises(BadAnswer):
        state(aws.url)
    with pytest.raises(Unreachable):
        apply(aws.url)


@pytest.mark.parametrize(
    ("status", "code", "said", "read", "write"),
    [
        (400, "Throttling", "Rate exceeded", BadAnswer, Refused),
        (400, "ValidationError", "Group name not found - null", NotFound, NotFound),
        (400, "ValidationError", "New SetDesiredCapacity value 9 is above max value 5", Refused, Refused),
        (403, "AccessDenied", "not authorized to perform", Refused, Refused),
        (403, "ExpiredToken", "expired", Refused, Refused),
        (400, "ScalingActivityInProgress", "in progress", Refused, Refused),
        (500, "InternalFailure", "oops", BadAnswer, MayHaveActed),
        (503, "ServiceUnavailable", "busy", BadAnswer, MayHaveActed),
    ],
)  # fmt: skip
def test_an_error_of_the_api_says_what_is_wrong(aws, status, code, said, read, write) -> None:
    """A 4xx certainly did not act; a failure of the server may have; no secret is shown."""
    answer = Answer(status, ERROR.format(code, said))
    aws.scaled = lambda: answer
    with pytest.raises(write, match=said) as caught:
        apply(aws.url)
    assert "s3cret" not in str(caught.value)
    aws.described = answer
    with pytest.raises(read, match=code):
        state(aws.url)


def test_an_answer_that_is_lost_leaves_a_write_in_doubt(aws) -> None:
    """The connection ends after the request was taken."""

    def gone() -> Answer:
        raise ConnectionResetError

    aws.scaled = gone
    with pytest.raises(MayHaveActed, match="no usable answer to set_desired_capacity"):
        apply(aws.url)


def test_a_write_that_takes_too_long_is_in_doubt(aws) -> None:
    """Whoever waits is let go when the time is over; a read that takes too long is no answer."""
    over, asked = threading.Event(), threading.Event()

    def slow() -> Answer:
        asked.set()
        over.wait(30)
        return Answer(200, "<SetDesiredCapacityResponse/>")

    async def late(scaler: AutoScalingGroups) -> None:
        await scaler.state("checkout")
        scaler._whole_s = 0.3
        try:
            with pytest.raises(MayHaveActed, match="within"):
                await scaler._asked(
                    "set_desired_capacity", writes=True, AutoScalingGroupName="a", DesiredCapacity=1
                )  # fmt: skip
            with pytest.raises(Unreachable, match="within"):
                await scaler.state("checkout")
        finally:
            over.set()

    aws.scaled = slow
    using(aws.url, late)
    assert asked.is_set()


@pytest.mark.parametrize(
    ("error", "read", "write"),
    [
        (EndpointConnectionError(endpoint_url="u"), Unreachable, Unreachable),
        (ConnectTimeoutError(endpoint_url="u"), Unreachable, Unreachable),
        (ProxyConnectionError(proxy_url="u"), Unreachable, Unreachable),
        (NoCredentialsError(), Unreachable, Unreachable),
        (InvalidRegionError(region_name="x y"), Unreachable, Unreachable),
        (ReadTimeoutError(endpoint_url="u"), Unreachable, MayHaveActed),
        (ConnectionClosedError(endpoint_url="u"), Unreachable, MayHaveActed),
        (SSLError(endpoint_url="u", error="e"), Unreachable, MayHaveActed),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), Unreachable, MayHaveActed),
        (ResponseParserError("x"), BadAnswer, MayHaveActed), (KeyError("x"), BadAnswer, MayHaveActed),
    ],
)  # fmt: skip
def test_what_never_left_did_not_act(error, read, write) -> None:
    """Credentials, endpoints and connections come before the request; everything later leaves a write in doubt."""
    assert AutoScalingGroups._kind(error, writes=False) is read
    assert AutoScalingGroups._kind(error, writes=True) is write


def test_nobody_there_is_unreachable(nobody) -> None:
    """Neither reading nor changing acted."""
    for work in (state, apply):
        with pytest.raises(Unreachable):
            work(nobody)


def test_what_is_wrong_with_the_configuration_is_said(aws, monkeypatch) -> None:
    """An address that is none, a profile that is not there, credentials that are missing: nothing was asked."""
    for url, more in (("no address", {}), (aws.url, {"profile": "no-such"})):
        with pytest.raises(Unreachable, match="Check region, url, profile"):
            state(url, **more)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(Unreachable, match="credentials"):
        state(aws.url)
    assert aws.asked == []


def test_without_its_extra_the_adapter_says_what_to_install(monkeypatch) -> None:
    """boto3 comes with the extra `aws`."""
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with pytest.raises(SettingsError, match="extra `aws`"):
        state("http://127.0.0.1:1")


def test_ping_says_that_reading_works_and_no_more(aws, nobody) -> None:
    """The API does not tell whether a size may be set."""
    assert "a group is there; it does not tell" in pinged(AutoScalingGroups("eu-central-1", aws.url))
    aws.described = Answer(200, GROUPS.format(""))
    assert "no group is there" in pinged(AutoScalingGroups("eu-central-1", aws.url))
    with pytest.raises(Unreachable):
        pinged(AutoScalingGroups("eu-central-1", nobody))
    aws.described = Answer(403, ERROR.format("AccessDenied", "not authorized to perform"))
    with pytest.raises(Refused, match="not authorized"):
        pinged(AutoScalingGroups("eu-central-1", aws.url))


def test_ping_names_the_profile_and_refuses_an_unknown_form(monkeypatch) -> None:
    """Whose credentials are used is told by the profile's name."""
    answers = [{"AutoScalingGroups": []}, {}]

    async def asked(self: AutoScalingGroups, method: str, **more: Any) -> Any:
        return answers.pop(0)

    monkeypatch.setattr(AutoScalingGroups, "_asked", asked)
    assert "profile ops; reads" in pinged(AutoScalingGroups("eu-central-1", profile="ops"))
    with pytest.raises(BadAnswer, match="unknown form"):
        pinged(AutoScalingGroups("eu-central-1"))
