"""Every queue, in memory or real, keeps the same promises: above all, no message is ever lost."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
import redis as client
from pydantic import SecretStr
from servers.rabbitmq import Rabbit, rabbitmq
from servers.redis import redis

from rbkit.adapters.fake_data import FakeQueue
from rbkit.adapters.rabbitmq import RabbitQueue
from rbkit.adapters.redis_queue import RedisQueue
from rbkit.datakinds import Queue
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call

TEXTS = ("one", "two", "poison", "two", "last")
TOKENS = count(1)


@dataclass
class Place:
    """Queues of one kind: `orders` with five messages, two of which are alike, and `orders-empty`, if it can be."""

    use: Callable[[Callable[[Queue], Awaitable[Any]]], Any]
    remembers: bool = True

    def head(self, most: int = 10, queue: str = "orders") -> Any:
        """Look at the head."""
        return self.use(lambda place: place.head(queue, most))

    def texts(self) -> list[str]:
        """List what waits, from the head on."""
        return [message.sample.removeprefix("body=") for message in self.head()]

    def name(self, text: str) -> str:
        """Find what a message is called."""
        return next(message.name for message in self.head() if message.sample.removeprefix("body=") == text)

    def state(self, queue: str = "orders") -> Any:
        """Read a queue's state."""
        return self.use(lambda place: place.state(queue))

    def move(self, action: str, message: str, key: str = "", token: int = 0, queue: str = "orders") -> None:
        """Park or unpark a message."""
        call = Call(capability="queue", action=action, target=queue, arguments={"message": message})
        self.use(lambda place: place.apply(call, key or uuid4().hex, token or next(TOKENS)))

    def plan(self, action: str, message: str) -> Any:
        """Plan a move."""
        call = Call(capability="queue", action=action, target="orders", arguments={"message": message})

        async def planned(place: Queue) -> Any:
            return place.plan(call, await place.state("orders"))

        return self.use(planned)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A real Redis."""
    with redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


def fake(request: Any) -> Any:
    """Queues in memory."""
    queues = FakeQueue({"orders": TEXTS, "orders-empty": []})
    return lambda: queues


def in_lists(request: Any, side: Any = "left") -> Any:
    """Lists of a real Redis."""
    url = request.getfixturevalue("server")
    with client.Redis.from_url(url) as direct:
        direct.flushall()
        direct.rpush("orders", *(TEXTS if side == "left" else reversed(TEXTS)))
        direct.set("text", "no queue")
    return lambda: RedisQueue(url, head=side, queues=("orders", "orders-empty", "text"))


def in_lists_from_the_right(request: Any) -> Any:
    """Lists from which workers take on the right."""
    return in_lists(request, "right")


def in_streams(request: Any) -> Any:
    """Streams of a real Redis with a group that has read two messages and done none of them."""
    url = request.getfixturevalue("server")
    with client.Redis.from_url(url) as direct:
        direct.flushall()
        for name, texts in (("orders", TEXTS), ("orders-empty", ())):
            direct.xgroup_create(name, "workers", id="0", mkstream=True)
            for text in texts:
                direct.xadd(name, {"body": text})
        direct.xreadgroup("workers", "worker-1", {"orders": ">"}, count=2)
    return lambda: RedisQueue(url, group="workers")


@pytest.fixture(scope="module")
def mq(tmp_path_factory) -> Iterator[Rabbit]:
    """A real RabbitMQ."""
    with rabbitmq(tmp_path_factory.mktemp("mq")) as server:
        yield server


def in_rabbitmq(request: Any) -> Any:
    """Durable queues of a real RabbitMQ."""
    server = request.getfixturevalue("mq")

    async def fill() -> None:
        where = server.amqp.replace("//", "//guest:guest@")
        async with await aio_pika.connect(where) as connection:
            channel = await connection.channel()
            await channel.queue_delete("orders.parked")
            for name, texts in (("orders", TEXTS), ("orders-empty", ())):
                await channel.queue_delete(name)
                await channel.declare_queue(name, durable=True)
                for text in texts:
                    await channel.default_exchange.publish(aio_pika.Message(text.encode(), message_id=text), name)

    asyncio.run(fill())
    return lambda: RabbitQueue(server.api, server.amqp, SecretStr("guest"), "guest")


PLACES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "fake": (fake, True), "list": (in_lists, True), "list-right": (in_lists_from_the_right, True),
    "stream": (in_streams, True), "rabbitmq": (in_rabbitmq, False),
}  # fmt: skip


@pytest.fixture(params=PLACES)
def place(request) -> Iterator[Place]:
    """Queues of each kind."""
    prepare, remembers = PLACES[request.param]
    make = prepare(request)

    async def closed(work: Any) -> Any:
        adapter = make()
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    yield Place(lambda work: asyncio.run(closed(work)), remembers)


def gone(place: Place, text: str) -> list[str]:
    """List what should wait when one message was taken out."""
    left: list[str] = list(TEXTS)
    left.remove(text)
    return left


def test_queues_are_listed_in_a_stable_order(place, until) -> None:
    """By the beginning of their names, with how much waits in them; what is parked is no queue of its own."""
    place.move("park", place.name("poison"))

    def waiting() -> list[int]:
        found = place.use(lambda queue: queue.queues("ord"))
        assert [one.name for one in found] == ["orders", "orders-empty"]
        return [one.depth + max(one.unacknowledged, 0) for one in found]

    until(lambda: waiting() == [4, 0])  # a server's statistics come some seconds late
    assert [one.name for one in place.use(lambda queue: queue.queues("orders-"))] == ["orders-empty"]
    assert place.use(lambda queue: queue.queues("no-such")) == []


def test_the_head_is_looked_at_without_being_taken(place) -> None:
    """In order, no more than asked for, as often as one likes, each message under a name of its own."""
    for _ in range(2):
        assert place.texts() == list(TEXTS)
    messages = place.head()
    assert len({message.name for message in messages}) == 5 and place.head(2) == messages[:2]
    assert all(message.size >= len(message.sample.removeprefix("body=")) for message in messages)
    assert place.head(queue="orders-empty") == place.head(0) == []


def test_a_message_is_parked_and_comes_back(place) -> None:
    """What the plan wants shows in the state; the others keep their order; the way back puts it at the end."""
    poison = place.name("poison")
    plan = place.plan("park", poison)
    assert plan.undo == ("unpark", {"message": poison}) and not plan.irreversible
    place.move("park", poison)
    assert plan.after.items() <= place.state().items() and place.texts() == ["one", "two", "two", "last"]
    back = place.plan("unpark", poison)
    place.move("unpark", poison)
    assert back.after.items() <= place.state().items() and sorted(place.texts()) == sorted(TEXTS)
    assert place.texts()[-1] == "poison"


def test_what_has_come_back_is_parked_again_under_its_name(place) -> None:
    """The way back of the way back leads to where it began."""
    poison = place.name("poison")
    for action in ("park", "unpark", "park"):
        place.move(action, poison)
    assert place.state()["parked"] == [poison] and "poison" not in place.texts()


def test_messages_that_are_alike_are_told_apart(place) -> None:
    """One of two equal messages is parked, the other stays, is listed under another name, and can be parked, too."""
    place.move("park", place.name("two"))
    assert sorted(place.texts()) == sorted(gone(place, "two"))
    second = place.name("two")
    assert second not in place.state()["parked"]
    place.move("park", second)
    assert place.texts() == ["one", "poison", "last"] and len(place.state()["parked"]) == 2
    for name in place.state()["parked"]:
        place.move("unpark", name)
    assert sorted(place.texts()) == sorted(TEXTS) and place.state()["parked"] == []


def test_every_message_can_be_parked_and_brought_back(place) -> None:
    """An empty queue is still one; nothing is lost on the way."""
    names = [message.name for message in place.head()]
    for name in names:
        place.move("park", name)
    assert place.state() == place.state() | {"parked": sorted(names)} and place.texts() == []
    for name in names:
        place.move("unpark", name)
    assert sorted(place.texts()) == sorted(TEXTS) and place.state()["parked"] == []


def test_moving_twice_is_once(place) -> None:
    """What is parked is parked already, what is back is back; no copy comes into being."""
    poison = place.name("poison")
    for action in ("park", "park", "unpark", "unpark"):
        place.move(action, poison)
    assert sorted(place.texts()) == sorted(TEXTS)


def test_a_message_that_is_not_there_is_not_found(place) -> None:
    """A worker may have taken it: nothing is moved, and that is said."""
    for name in ("0-1", "0" * 40):
        with pytest.raises(NotFound, match=name):
            place.move("park", name)
    assert place.texts() == list(TEXTS)


@pytest.mark.parametrize("queue", ["no-such", "orders.parked", "text"])
def test_what_is_no_queue_is_not_found(place, queue) -> None:
    """Neither a name that nobody uses, nor the place for parked messages, nor something else of that name."""
    works: Sequence[Callable[[Queue], Awaitable[Any]]] = (
        lambda one: one.state(queue), lambda one: one.head(queue), lambda one: one.fence(queue, 1),
    )  # fmt: skip
    for work in works:
        with pytest.raises(NotFound, match=queue):
            place.use(work)
    with pytest.raises(NotFound, match=queue):
        place.move("park", "0-1", queue=queue)


def test_a_repeated_key_acts_once(place) -> None:
    """A move that arrives once more after the message came back does nothing, where the system remembers keys."""
    if not place.remembers:
        return
    poison, key = place.name("poison"), uuid4().hex
    place.move("park", poison, key)
    place.move("unpark", poison)
    place.move("park", poison, key)
    assert place.state()["parked"] == []


def test_a_lower_token_is_refused_and_nothing_moves(place) -> None:
    """After a fence, or after a move with a higher token; a system that remembers none lets it through."""
    poison, old, new = place.name("poison"), next(TOKENS), next(TOKENS)
    for _ in range(2):
        place.use(lambda queue: queue.fence("orders", new))
    refusal = pytest.raises(Refused, match=rf"newer lease.*\b{new}\b") if place.remembers else nullcontext()
    with refusal:
        place.move("park", poison, token=old)
    assert place.state()["parked"] == ([] if place.remembers else [poison])
    place.move("park", poison, token=new)
    assert place.state()["parked"] == [poison]


def test_ping_says_who_we_are_and_what_we_may_do(place, request) -> None:
    """One line: what it is, as whom we are there, and that no right is missing."""
    named = {"fake": "in memory", "rabbitmq": "as guest, virtual host /; reads and writes"}
    said = place.use(lambda one: one.ping())
    assert named.get(request.node.callspec.params["place"], "as default; reads and writes") in said
