"""Auto Scaling groups of AWS.

Source: https://docs.aws.amazon.com/autoscaling/ec2/APIReference/Welcome.html
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from rbkit.adapters.aws_http import capped
from rbkit.capability import State
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.kinds import Scaler

__all__ = ["AutoScalingGroups"]

_ODD = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What botocore lets through when an answer has another form than it expects."""
_CONNECT_S, _READ_S, _WHOLE_S = 3.0, 10.0, 30.0
_THROTTLED = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"}


class AutoScalingGroups(Scaler):
    """Scales Auto Scaling groups; the target is a group's name.

    The group's own MinSize and MaxSize are the limits, InService and Healthy instances are ready. The API knows
    neither idempotency keys nor fencing tokens: the same desired capacity twice is once, and a token is not remembered.
    Credentials are found as every AWS tool finds them: environment, profile, role of the machine.

    Args:
        region: The region, for example `eu-central-1`.
        url: Another endpoint than the region's own; empty for that one.
        profile: The profile of the AWS configuration; empty for the default.
        whole_s: The longest that one call may take, seconds.
    """

    def __init__(self, region: str, url: str = "", profile: str = "", whole_s: float = _WHOLE_S) -> None:
        self._region, self._url, self._profile, self._whole_s = region, url, profile, whole_s
        self._client: Any = None
        self._making = threading.Lock()

    async def state(self, target: str) -> State:
        """Read how many instances a group wants and has, and its limits."""
        answer = await self._asked("describe_auto_scaling_groups", writes=False, AutoScalingGroupNames=[target])
        try:
            return next(
                _state(group) for group in answer["AutoScalingGroups"] if group["AutoScalingGroupName"] == target
            )
        except StopIteration:
            raise NotFound(f"{self} has no group {target!r}.", todo="Check the name of the target.") from None
        except _ODD as error:
            raise BadAnswer(f"{self} described {target!r} in an unknown form.") from error

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Set a group's desired capacity, without waiting for its cooldown."""
        try:
            await self.state(call.target)
        except BadAnswer as error:
            raise Unreachable(error.what, todo=error.todo) from error
        await self._asked(
            "set_desired_capacity", writes=True, AutoScalingGroupName=call.target,
            DesiredCapacity=call.arguments["wanted"], HonorCooldown=False,
        )  # fmt: skip

    async def ping(self) -> str:
        """Describe one group; whether a size may be set cannot be asked for, it shows at the first change."""
        answer = await self._asked("describe_auto_scaling_groups", writes=False, MaxRecords=1)
        try:
            groups = "a group is" if answer["AutoScalingGroups"] else "no group is"
        except _ODD as error:
            raise BadAnswer(f"{self} listed its groups in an unknown form.") from error
        who = f"profile {self._profile}" if self._profile else "with the credentials that every AWS tool finds"
        return f"{self}, {who}; reads, {groups} there; it does not tell whether we may change anything"

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def __str__(self) -> str:
        return f"Auto Scaling in {self._region}"

    async def _asked(self, method: str, *, writes: bool, **arguments: Any) -> Any:
        """Ask in a thread; whoever waits for it is let go when the time is over, and a write is then in doubt."""
        try:
            async with asyncio.timeout(self._whole_s):
                return await asyncio.to_thread(self._ask, method, writes, arguments)
        except TimeoutError as error:
            kind = MayHaveActed if writes else Unreachable
            raise kind(f"{self} did not answer within {self._whole_s:g} s.") from error

    def _ask(self, method: str, writes: bool, arguments: dict[str, Any]) -> Any:
        call = self._method(method)
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            return call(**arguments)
        except ClientError as error:
            raise self._refusal(error.response, writes) from error
        except (BotoCoreError, ResponseParserError, *_ODD) as error:
            kind = self._kind(error, writes)
            raise kind(f"{self} gave no usable answer to {method}: {_words(error)}") from error

    def _method(self, name: str) -> Callable[..., Any]:
        """Make the client once; what is wrong with the configuration shows here."""
        try:
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise SettingsError("Auto Scaling needs boto3.", todo="Install rbkit with the extra `aws`.") from error
        try:
            with self._making:
                self._client = self._client or self._made()
        except (BotoCoreError, ValueError) as error:
            raise Unreachable(f"{self} cannot be asked: {_words(error)}", todo="Check region, url, profile.") from error
        method: Callable[..., Any] = getattr(self._client, name)
        return method

    def _made(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        patience = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": 1})
        session = Session(profile_name=self._profile or None, region_name=self._region)
        return capped(session.client("autoscaling", endpoint_url=self._url or None, config=patience), str(self))

    @staticmethod
    def _kind(error: Exception, writes: bool) -> type[AdapterError]:
        """Tell an answer that was lost from a request that never left."""
        from botocore.exceptions import BotoCoreError, HTTPClientError, IncompleteReadError, SSLError
        from botocore.parsers import ResponseParserError

        odd = isinstance(error, (ResponseParserError, *_ODD)) and not isinstance(error, BotoCoreError)
        if not odd and not isinstance(error, HTTPClientError | IncompleteReadError | SSLError):
            return Unreachable
        if writes:
            return MayHaveActed
        return BadAnswer if odd else Unreachable

    def _refusal(self, answer: Any, writes: bool) -> Exception:
        """Tell what an error of the API means; a failure of the server itself leaves a write in doubt."""
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code, said = (str(answer.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
        words = f"{self} answered {status}: {code}: {said[:300]}"
        if code in _THROTTLED:
            return (Refused if writes else BadAnswer)(words, todo="Wait a little: too much was asked of the API.")
        if not 400 <= status < 500:
            return (MayHaveActed if writes else BadAnswer)(words)
        if "not found" in said.lower():
            return NotFound(words, todo="Check the name of the target.")
        return Refused(words)


def _state(group: dict[str, Any]) -> State:
    fine = [
        one for one in group["Instances"] if (one["LifecycleState"], one["HealthStatus"]) == ("InService", "Healthy")
    ]
    return {
        "wanted": group["DesiredCapacity"], "ready": len(fine), "least": group["MinSize"], "most": group["MaxSize"],
    }  # fmt: skip


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
