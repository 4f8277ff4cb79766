"""RabbitMQ: read by its management API, moved by AMQP with publisher confirms.

Source: https://www.rabbitmq.com/docs/management#http-api and https://www.rabbitmq.com/docs/confirms
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pydantic import SecretStr

from rbkit.adapters.http import Http
from rbkit.adapters.parked import PARKED, digest, names, sample
from rbkit.adapters.rabbitmq_line import LOCK, Line, basic
from rbkit.adapters.told import told
from rbkit.capability import State, read
from rbkit.datakinds import Message, Queue, QueueFacts
from rbkit.errors import BadAnswer, NotFound, Refused
from rbkit.facts import Call

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage as Incoming

__all__ = ["RabbitQueue"]

_NAME = "x-rbkit-name"
_OWN = (_NAME, "x-rbkit-exchange", "x-rbkit-routing-key")
_THROWS_AWAY = {"message-ttl", "expires", "max-length", "max-length-bytes"}
_PAGE, _PAGES = 500, 4


class RabbitQueue(Queue):
    """Queues of one virtual host. RabbitMQ can remember neither fencing tokens nor idempotency keys.

    `head`, `park` and `unpark` take messages without acknowledging them and put back at their places those that are
    not meant; workers do not see them for that moment, and find them marked as redelivered afterwards. One reader at a
    time does so, by an exclusive queue `NAME.parked.lock`. Parked messages lie in the durable queue `NAME.parked`,
    where the header `x-rbkit-name` holds their names. A message is published and confirmed there before it is
    acknowledged here: when rbkit or the server dies in between there are two of it, never none; the one that is left in
    the queue is listed under another name (`NAME~2`) and can be parked, too. A parked message no longer expires, and
    one without an id has its digest as its id from then on.

    Args:
        url: The management API's address, for example `https://mq-1:15671`.
        amqp: The server's address for AMQP, `amqp://mq-1:5672` or `amqps://…`, without user and password.
        password: The user's password; never shown.
        user: The user, who may configure, write and read the queues and has the tag `management`.
        vhost: The virtual host.
        reach: How many messages behind the head one is looked for.
        quorum: Whether quorum queues may be looked into: each look counts as a delivery there, and beyond a queue's
            delivery limit RabbitMQ drops a message or dead-letters it.
        timeout_s: The longest a call may take, seconds.

    Raises:
        SettingsError: The address for AMQP is none, or holds a password.
    """

    def __init__(
        self, url: str, amqp: str, password: SecretStr, user: str = "rbkit", vhost: str = "/", reach: int = 100,
        quorum: bool = False, timeout_s: float = 10.0,
    ) -> None:  # fmt: skip
        self._http: Http = basic(url, "RabbitMQ", user, password)
        self._line = Line(amqp, user, password, vhost, timeout_s)
        self._vhost, self._reach, self._quorum = quote(vhost, safe=""), reach, quorum

    @read
    async def queues(self, prefix: str = "") -> list[QueueFacts]:
        """List the queues whose names begin so; the numbers are as old as the server's statistics, some seconds."""
        found: list[QueueFacts] = []
        for page in range(1, _PAGES + 1):
            query = {"page": str(page), "page_size": str(_PAGE), "name": prefix, "use_regex": "false"}
            answer = await self._http.read(f"/api/queues/{self._vhost}", query)
            found += _facts(answer, prefix)
            if answer["page_count"] <= page:
                break
        return sorted(found, key=lambda one: one.name)

    @read
    async def head(self, queue: str, most: int = 10) -> list[Message]:
        """Look at the messages at the head of a queue; they are marked as redelivered by it."""
        await self._known(queue)
        there = await self._info(queue + PARKED) is not None
        async with self._line.held(queue) as line:
            parked = await _parked(line, queue, there)
            messages = await line.take(queue, max(0, min(most, self._reach)))
            await line.put_back(queue, messages)
        called = names((_base(message) for message in messages), parked)
        return [
            Message(name=name, redelivered=bool(one.redelivered), size=len(one.body), sample=sample(one.body))
            for name, one in zip(called, messages, strict=True)
        ]

    async def state(self, target: str) -> State:
        """Count a queue's messages and name the parked ones."""
        await self._known(target)
        there = await self._info(target + PARKED) is not None
        async with self._line.held(target) as line:
            depth, consumers = await line.count(target)
            return {"depth": depth, "consumers": consumers, "parked": sorted(await _parked(line, target, there))}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Move one message: publish it, wait for the confirmation, acknowledge it."""
        info, name, beside = await self._known(call.target), str(call.arguments["message"]), call.target + PARKED
        there = await self._info(beside)
        if call.action == "park":
            thrown = _THROWS_AWAY & (await self._limits(beside, there or {})).keys()
            if thrown:
                raise Refused(f"{beside} would throw messages away ({', '.join(sorted(thrown))}); nothing was moved.")
            await self._park(call.target, name, there is not None)
        elif there is not None:
            await self._unpark(call.target, name, await self._limits(call.target, info))

    async def fence(self, target: str, token: int) -> None:
        """Only look whether the queue is there: RabbitMQ has no place for a token."""
        await self._known(target)

    async def ping(self) -> str:
        """Ask the management API who we are, hold a queue's lock for a moment as every look does, ask for our rights.

        Raises:
            Refused: We may not look into queues.
            Unreachable: The management API or AMQP was not reached.
            BadAnswer: It does not know who asks, or answers oddly.
        """
        who, about = await self._http.read("/api/whoami"), await self._http.read("/api/overview")
        async with self._line.held("rbkit.ping"):
            pass
        try:
            name = str(who["name"])
            words = f"RabbitMQ {told(about['rabbitmq_version'])}, as {told(name)}, virtual host {unquote(self._vhost)}"
            return f"{words}; {await self._rights(name)}"
        except (KeyError, TypeError, AttributeError) as error:
            raise BadAnswer("RabbitMQ told about itself in an unknown form.") from error

    async def _rights(self, user: str) -> str:
        """Say what we may do; only administrators are told."""
        try:
            found = await self._http.read(f"/api/permissions/{self._vhost}/{quote(user, safe='')}")
        except (BadAnswer, NotFound):
            return "reads; whether messages may be moved is told to administrators only"
        missing = [name for name in ("configure", "write", "read") if not found[name]]
        return f"reads, but may nowhere: {', '.join(missing)}" if missing else "reads and writes"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _park(self, queue: str, name: str, there: bool) -> None:
        async with self._line.held(queue) as line:
            parked = await _parked(line, queue, there)
            if name in parked:
                return
            messages = await line.take(queue, self._reach)
            called = dict(zip(names(map(_base, messages), parked), messages, strict=True))
            if name not in called:
                await line.put_back(queue, messages)
                raise NotFound(
                    f"{name} is not among the first {self._reach} messages of {queue}; nothing was moved.",
                    todo="It may have been taken; look at the head again.",
                )
            await line.declare(queue + PARKED)
            await line.move(queue + PARKED, called[name], _marked(called[name], name))
            await line.put_back(queue, [message for message in messages if message is not called[name]])

    async def _unpark(self, queue: str, name: str, limits: Mapping[str, Any]) -> None:
        async with self._line.held(queue) as line:
            parked = await line.take(queue + PARKED, line.most_parked)
            found = [one for one in parked if one.headers.get(_NAME) == name]
            if found:
                depth, _ = await line.count(queue)
                _refuse_full(limits, depth)
                back = {key: value for key, value in found[0].headers.items() if key not in _OWN}
                await line.move(queue, found[0], back)
            copies = [one for one in found[1:] if one.body == found[0].body]
            for copy in copies:
                await copy.ack()
            gone = {id(one) for one in (*found[:1], *copies)}
            await line.put_back(queue + PARKED, [one for one in parked if id(one) not in gone])

    async def _info(self, queue: str) -> dict[str, Any] | None:
        """Describe a queue; None when there is none."""
        try:
            found = await self._http.read(f"/api/queues/{self._vhost}/{quote(queue, safe='')}")
        except NotFound:
            return None
        if not isinstance(found, dict):
            raise BadAnswer("RabbitMQ described a queue in an unknown form.")
        return found

    async def _limits(self, queue: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """List the limits that a queue may have: its arguments, and every policy that fits its name, the strictest.

        What a queue says of its policies itself comes with the statistics, and may be seconds late.
        """
        kinds = ("policies", "operator-policies")
        policies = [await self._http.read(f"/api/{kind}/{self._vhost}") for kind in kinds]
        try:
            return _strictest(queue, dict(info.get("arguments") or {}), [*policies[0], *policies[1]])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadAnswer("RabbitMQ described its policies in an unknown form.") from error

    async def _known(self, queue: str) -> dict[str, Any]:
        info = None if not queue or queue.endswith((PARKED, LOCK)) else await self._info(queue)
        if info is None:
            raise NotFound(f"There is no queue {queue!r}.", todo="`queues` lists them.")
        kind = info.get("type", "classic")
        if kind != "classic" and not (kind == "quorum" and self._quorum):
            todo = "Allow it by `quorum: true`; each look counts as a delivery." if kind == "quorum" else ""
            raise Refused(f"{queue} is a {kind} queue: it is not looked into.", todo=todo)
        return info


async def _parked(line: Line, queue: str, there: bool) -> set[str]:
    """Name the parked messages; two under one name are one that was parked twice."""
    if not there:
        return set()
    depth, _ = await line.count(queue + PARKED)
    messages = await line.take(queue + PARKED, line.most_parked)
    await line.put_back(queue + PARKED, messages)
    if depth > len(messages):
        raise Refused(f"{queue}{PARKED} holds more than can be looked at; nothing was moved.")
    return {str(message.headers.get(_NAME) or _base(message)) for message in messages}


def _base(message: "Incoming") -> str:
    return message.message_id or digest(message.body)


def _marked(message: "Incoming", name: str) -> dict[str, Any]:
    """Say on a parked message what it is called and where it came from."""
    came = dict(zip(_OWN[1:], (message.exchange or "", message.routing_key or ""), strict=True))
    return {**message.headers, _NAME: name, **came}


def _strictest(queue: str, arguments: Mapping[str, Any], policies: Sequence[Any]) -> dict[str, Any]:
    found = {str(key).removeprefix("x-"): value for key, value in arguments.items()}
    for policy in sorted(policies, key=lambda one: -one.get("priority", 0)):
        if policy["apply-to"] == "exchanges" or not _fits(policy["pattern"], queue):
            continue
        for key, value in policy["definition"].items():
            both = isinstance(value, int) and key in found
            found[key] = min(found[key], value) if both else found.get(key, value)
    return found


def _fits(pattern: str, queue: str) -> bool:
    """Whether a policy is for a queue; a pattern that only Erlang understands may be."""
    try:
        return re.search(pattern, queue) is not None
    except re.error:
        return True


def _refuse_full(limits: Mapping[str, Any], depth: int) -> None:
    """Put nothing into a queue that might throw its oldest message away for it; bytes are known too late to count."""
    full = "max-length-bytes" in limits or depth + 1 > limits.get("max-length", float("inf"))
    if full and limits.get("overflow", "drop-head") == "drop-head":
        raise Refused("The queue is full, or may be, and would throw its oldest message away; nothing was moved.")


def _facts(answer: Any, prefix: str) -> list[QueueFacts]:
    try:
        rows = [one for one in answer["items"] if one["name"].startswith(prefix)]
        answer["page_count"] + 0
        return [
            QueueFacts(
                name=one["name"], depth=one.get("messages_ready", -1), consumers=one.get("consumers", -1),
                unacknowledged=one.get("messages_unacknowledged", -1),
            )
            for one in rows if not one["name"].endswith((PARKED, LOCK))
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer("RabbitMQ listed its queues in an unknown form.") from error
