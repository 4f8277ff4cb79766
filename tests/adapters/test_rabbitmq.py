"""RabbitMQ: no message is lost, whatever happens in the middle, and nothing is put where it would be thrown away."""

import asyncio
import base64
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
import aiormq
import httpx2
import pytest
from pings import pinged
from pydantic import SecretStr
from servers.faulty import Faulty
from servers.rabbitmq import Rabbit, rabbitmq

from rbkit.adapters import rabbitmq_line
from rbkit.adapters.parked import digest
from rbkit.adapters.rabbitmq import RabbitQueue, _strictest
from rbkit.adapters.rabbitmq_line import Line
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call

GUEST = SecretStr("guest")
POISON = digest(b"poison")


@pytest.fixture(scope="module")
def mq(tmp_path_factory) -> Iterator[Rabbit]:
    """A real RabbitMQ."""
    with rabbitmq(tmp_path_factory.mktemp("mq")) as server:
        yield server


@pytest.fixture
def orders(mq) -> Iterator[Callable[..., None]]:
    """Make the queue `orders` with messages; it is gone afterwards, as is what was parked."""
    yield lambda *messages, **more: direct(mq, lambda channel: filled(channel, messages, **more))
    manage(mq, "DELETE", "/api/policies/%2F/short")
    direct(mq, lambda channel: filled(channel, ()))


async def filled(channel: Any, messages: Any, arguments: Any = None) -> None:
    """Declare the queue anew and publish to it."""
    for name in ("orders", "orders.parked"):
        await channel.queue_delete(name)
    await channel.declare_queue("orders", durable=True, arguments=arguments)
    for one in messages:
        message = _message(one) if isinstance(one, str) else one
        await channel.default_exchange.publish(message, "orders")


def _message(text: str) -> aio_pika.Message:
    """Make a message; the library would give it an id by chance."""
    return aio_pika.Message(text.encode(), message_id=digest(text.encode()))


def direct(mq: Rabbit, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Use a channel of one's own."""

    async def used() -> Any:
        async with await aio_pika.connect(mq.amqp.replace("//", "//guest:guest@")) as connection:
            return await work(await connection.channel())

    return asyncio.run(used())


def manage(mq: Rabbit, method: str, path: str, body: Any = None) -> None:
    """Use the management API; what is not there cannot be deleted, and that is as good."""
    answer = httpx2.request(method, mq.api + path, json=body, auth=("guest", "guest"), trust_env=False)
    assert answer.status_code < 300 or (method, answer.status_code) == ("DELETE", 404), answer.text


def ask(mq: Rabbit, work: Callable[[RabbitQueue], Awaitable[Any]], **more: Any) -> Any:
    """Ask once."""
    return asyncio.run(asked(mq.api, mq.amqp, work, **more))


async def asked(api: str, amqp: str, work: Callable[[RabbitQueue], Awaitable[Any]], **more: Any) -> Any:
    """Ask by addresses."""
    adapter = RabbitQueue(api, amqp, **{"password": GUEST, "user": "guest", **more})
    try:
        return await work(adapter)
    finally:
        await adapter.aclose()


def move(action: str, message: str = POISON) -> Callable[[RabbitQueue], Awaitable[None]]:
    """Park or unpark."""
    call = Call(capability="mq", action=action, target="orders", arguments={"message": message})
    return lambda queue: queue.apply(call, "k", 1)


def head(mq: Rabbit, **more: Any) -> list[str]:
    """Name what waits."""
    return [message.name for message in ask(mq, lambda queue: queue.head("orders"), **more)]


def parked(mq: Rabbit) -> list[str]:
    """Name what is parked."""
    found: list[str] = ask(mq, lambda queue: queue.state("orders"))["parked"]
    return found


def test_a_message_keeps_what_it_says_about_itself(mq, orders) -> None:
    """Headers and properties come back as they were, but it no longer expires; its own id is its name."""
    sent = {
        "headers": {"tries": 3, "deep": {"a": [1, "b"]}}, "content_type": "text/plain", "correlation_id": "c",
        "app_id": "a", "message_id": "m-1", "reply_to": "r", "type": "t", "priority": 2,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    orders(aio_pika.Message(b"poison", expiration=3_600, **sent))
    assert head(mq) == ["m-1"]
    ask(mq, move("park", "m-1"))
    ask(mq, move("unpark", "m-1"))

    async def taken(channel: Any) -> Any:
        return await (await channel.get_queue("orders")).get(no_ack=True)

    message = direct(mq, taken)
    assert {name: getattr(message, name) for name in sent} == sent and message.body == b"poison"
    assert message.expiration is None and message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


def test_a_message_without_an_id_keeps_its_name(mq, orders) -> None:
    """It is called by its bytes, before and after it was parked."""
    orders()
    body = {"properties": {}, "routing_key": "orders", "payload": "poison", "payload_encoding": "string"}
    manage(mq, "POST", "/api/exchanges/%2F/amq.default/publish", body)
    assert head(mq) == [POISON]
    ask(mq, move("park"))
    ask(mq, move("unpark"))
    assert head(mq) == [POISON]


def broken_ack(monkeypatch: Any) -> None:
    """Let the connection break when a message is acknowledged."""

    async def breaks(self: Any, multiple: bool = False) -> None:
        raise ConnectionResetError("the line broke")

    monkeypatch.setattr(aio_pika.IncomingMessage, "ack", breaks)


def test_a_break_before_the_acknowledgement_doubles_and_does_not_lose(mq, orders, monkeypatch) -> None:
    """It is in doubt; the message is parked and still waits, under another name, and can be parked, too."""
    orders("poison", "other")
    with monkeypatch.context() as patch:
        broken_ack(patch)
        with pytest.raises(MayHaveActed, match="the line broke"):
            ask(mq, move("park"))
    assert parked(mq) == [POISON] and head(mq) == [f"{POISON}~2", digest(b"other")]
    ask(mq, move("park", f"{POISON}~2"))
    assert parked(mq) == [POISON, f"{POISON}~2"] and head(mq) == [digest(b"other")]


def test_a_break_on_the_way_back_doubles_and_does_not_lose(mq, orders, monkeypatch) -> None:
    """It is still parked and waits, too; bringing it back again ends that."""
    orders("poison")
    ask(mq, move("park"))
    with monkeypatch.context() as patch:
        broken_ack(patch)
        with pytest.raises(MayHaveActed):
            ask(mq, move("unpark"))
    assert parked(mq) == [POISON] and head(mq) == [f"{POISON}~2"]
    ask(mq, move("unpark"))
    assert parked(mq) == [] and head(mq) == [POISON, f"{POISON}~2"]


def test_what_was_parked_twice_is_one(mq, orders) -> None:
    """Two copies under one name are one message: one comes back, both are gone from there; others stay."""
    orders()

    async def twice(channel: Any) -> None:
        await channel.declare_queue("orders.parked", durable=True)
        for name, body in ((POISON, b"poison"), (POISON, b"poison"), ("b", b"other")):
            message = aio_pika.Message(body, headers={"x-rbkit-name": name}, message_id=name)
            await channel.default_exchange.publish(message, "orders.parked")

    direct(mq, twice)
    assert parked(mq) == sorted([POISON, "b"])
    ask(mq, move("unpark"))
    assert parked(mq) == ["b"] and head(mq) == [POISON]


def test_nothing_is_parked_where_it_would_be_thrown_away(mq, orders) -> None:
    """A policy that lets parked messages expire, before or after the queue for them is there, stops it."""
    orders("poison")
    policy = {"pattern": ".*parked$", "definition": {"message-ttl": 3_600_000}, "apply-to": "queues"}
    manage(mq, "PUT", "/api/policies/%2F/short", policy)
    for _ in range(2):
        with pytest.raises(Refused, match="throw messages away"):
            ask(mq, move("park"))
    assert head(mq) == [POISON] and parked(mq) == []


def test_a_full_queue_gets_nothing_back_for_which_it_would_drop_another(mq, orders) -> None:
    """By number, or by bytes; with `reject-publish` the server itself refuses; the message stays parked."""
    for arguments, words in (
        ({"x-max-length": 2}, "throw its oldest"), ({"x-max-length-bytes": 8}, "throw its oldest"),
        ({"x-max-length": 2, "x-overflow": "reject-publish"}, "did not take"),
    ):  # fmt: skip
        orders("poison", "b", arguments=arguments)
        ask(mq, move("park"))
        direct(mq, lambda channel: channel.default_exchange.publish(aio_pika.Message(b"cccccccc"[:7]), "orders"))
        with pytest.raises(Refused, match=words):
            ask(mq, move("unpark"))
        assert parked(mq) == [POISON]


def test_a_queue_of_another_kind_is_looked_into_only_where_allowed(mq, orders) -> None:
    """A look counts as a delivery in a quorum queue, and a stream cannot be looked into at all."""

    async def declare(channel: Any) -> None:
        for kind in ("quorum", "stream"):
            await channel.declare_queue(f"a-{kind}", durable=True, arguments={"x-queue-type": kind})
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "a-quorum")

    direct(mq, declare)
    for kind in ("quorum", "stream"):
        with pytest.raises(Refused, match=f"a {kind} queue"):
            ask(mq, lambda queue, kind=kind: queue.head(f"a-{kind}"))
    (message,) = ask(mq, lambda queue: queue.head("a-quorum"), quorum=True)
    assert message.sample == "x"
    with pytest.raises(Refused, match="a stream queue"):
        ask(mq, lambda queue: queue.head("a-stream"), quorum=True)


def test_one_looks_at_a_time(mq, orders) -> None:
    """Two who look at once both see everything: what one has taken is not missing for the other."""
    orders(*"abcdef")

    async def both(queue: RabbitQueue) -> Any:
        return await asyncio.gather(*(queue.head("orders") for _ in range(3)))

    assert [[message.sample for message in one] for one in ask(mq, both)] == [list("abcdef")] * 3


def test_who_is_kept_waiting_for_too_long_is_told(mq, orders) -> None:
    """Somebody else holds the queue: nothing was moved."""
    orders("poison")

    async def hold(channel: Any) -> None:
        await channel.declare_queue("orders.parked.lock", exclusive=True)
        with pytest.raises(Unreachable):
            await asked(mq.api, mq.amqp, move("park"), timeout_s=0.5)

    direct(mq, hold)
    assert head(mq) == [POISON]


def test_what_is_too_far_behind_the_head_is_not_found(mq, orders, monkeypatch) -> None:
    """By number and by bytes; everything stays where it was."""
    orders("a", "b", "poison")
    with pytest.raises(NotFound, match="first 2 messages"):
        ask(mq, move("park"), reach=2)
    monkeypatch.setattr(rabbitmq_line, "_BYTES", 1)
    with pytest.raises(NotFound):
        ask(mq, move("park"))
    monkeypatch.undo()
    assert head(mq) == [digest(b"a"), digest(b"b"), POISON]


def test_more_parked_messages_than_can_be_named_are_refused(mq, orders, monkeypatch) -> None:
    """A list of names that is cut off would say that something is not parked."""
    orders("a", "b")
    for message in (b"a", b"b"):
        ask(mq, move("park", digest(message)))
    monkeypatch.setattr(Line, "most_parked", 1)
    with pytest.raises(Refused, match="more than can be looked at"):
        parked(mq)


def test_a_place_that_does_not_last_is_refused(mq, orders) -> None:
    """A queue of that name that the server would forget is no place for parked messages."""
    orders("poison")

    async def work(channel: Any) -> None:
        await channel.declare_queue("orders.parked", durable=False)
        with pytest.raises(Refused, match="PRECONDITION_FAILED"):
            await asked(mq.api, mq.amqp, move("park"))

    direct(mq, work)
    assert head(mq) == [POISON]


def test_nothing_that_is_parked_needs_no_way_back(mq, orders) -> None:
    """There is no queue for parked messages, or not that message in it."""
    orders("poison", "other")
    ask(mq, move("unpark", "other"))
    ask(mq, move("park"))
    ask(mq, move("unpark", "other"))
    assert parked(mq) == [POISON]


def through(mq: Rabbit, word: bytes, breaks: bool, work: Any) -> None:
    """Ask through a line with a fault; the connection must be given back."""

    async def asking() -> None:
        async with Faulty(int(mq.amqp.rpartition(":")[2]), word, breaks).port() as port:
            await asked(mq.api, f"amqp://127.0.0.1:{port}", work, timeout_s=1)

    asyncio.run(asking())


@pytest.mark.parametrize("breaks", [False, True])
def test_a_server_that_hangs_or_breaks_off_is_unreachable_before_the_move(mq, orders, breaks) -> None:
    """The message was only looked at; it is back in its place."""
    orders("poison")
    for work in (move("park"), lambda queue: queue.state("orders")):
        with pytest.raises(Unreachable):
            through(mq, b"orders.parked.lock", breaks, work)
    assert head(mq) == [POISON]


@pytest.mark.parametrize("breaks", [False, True])
def test_a_server_that_hangs_or_breaks_off_may_have_acted(mq, orders, breaks) -> None:
    """Once the message was sent, nobody knows; here it did not arrive, and still waits."""
    orders("poison")
    with pytest.raises(MayHaveActed):
        through(mq, b"x-rbkit-name", breaks, move("park"))
    assert head(mq) == [POISON] and parked(mq) == []


def test_who_gives_up_gets_what_it_gave_up_for(mq, orders) -> None:
    """A call that is cancelled from outside stays cancelled, and the message is back."""
    orders("poison")

    async def asking() -> None:
        async with Faulty(int(mq.amqp.rpartition(":")[2]), b"x-rbkit-name", False).port() as port:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asked(mq.api, f"amqp://127.0.0.1:{port}", move("park"), timeout_s=60), 1)

    asyncio.run(asking())
    assert head(mq) == [POISON]


def test_a_wait_that_the_library_cancels_is_a_broken_line(mq, orders, monkeypatch) -> None:
    """Nobody asked to stop: it is an error of the connection, and no cancelled run."""
    orders("poison")

    async def cancelled(self: Line, queue: str) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(Line, "count", cancelled)
    with pytest.raises(Unreachable, match="the connection broke"):
        parked(mq)


def test_who_may_not_is_told_so(mq, orders) -> None:
    """A wrong password and missing permissions are refusals; nothing is shown of the password."""
    orders("poison")
    manage(mq, "PUT", "/api/users/weak", {"password": "pw-weak", "tags": "management"})
    manage(mq, "PUT", "/api/permissions/%2F/weak", {"configure": "", "write": "", "read": ".*"})
    with pytest.raises(Refused, match="ACCESS_REFUSED"):
        ask(mq, lambda queue: queue.state("orders"), user="weak", password=SecretStr("pw-weak"))
    with pytest.raises((Refused, BadAnswer)) as caught:
        ask(mq, lambda queue: queue.state("orders"), password=SecretStr("hush"))
    assert "hush" not in str(caught.value)

    async def held() -> None:
        async with Line(mq.amqp, "guest", SecretStr("hush"), "/", 5).held("orders"):
            """Not reached."""

    with pytest.raises(Refused, match="refuses"):
        asyncio.run(held())
    with pytest.raises((Refused, NotFound, BadAnswer)):
        ask(mq, lambda queue: queue.state("orders"), vhost="no-such")


@pytest.mark.parametrize(
    ("error", "acts", "kind"),
    [
        (aiormq.exceptions.ChannelNotFoundEntity("gone"), False, BadAnswer),
        (aiormq.exceptions.ChannelNotFoundEntity("gone"), True, MayHaveActed),
        (aiormq.exceptions.ChannelInvalidStateError(), False, Unreachable),
        (aiormq.exceptions.ConnectionNotAllowed("vhost"), False, Refused),
    ],
)
def test_errors_of_the_library_are_told_apart(error, acts, kind) -> None:
    """None of them gets out as it is."""
    line = Line("amqp://a", "u", GUEST, "/", 1)
    line._acts = acts
    assert type(line._translated(error)) is kind


def test_nobody_there_is_unreachable(server, nobody) -> None:
    """Neither the API nor AMQP; also where something listens that says nothing."""
    port = nobody.rpartition(":")[2]

    async def held(port: str) -> None:
        async with Line(f"amqp://127.0.0.1:{port}", "guest", GUEST, "/", 0.5).held("orders"):
            """Not reached."""

    with pytest.raises(Unreachable, match="RabbitMQ at 127"):
        asyncio.run(held(port))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable):
        asyncio.run(held(silent.getsockname()[1]))
    with pytest.raises(Unreachable, match="RabbitMQ at http"):
        asyncio.run(asked(nobody, "amqp://a", lambda queue: queue.queues()))


@pytest.mark.parametrize(
    "answer",
    [
        None, [], {}, {"items": []}, {"items": [], "page_count": None}, {"items": [{}], "page_count": 1},
        {"items": [{"name": "a", "messages_ready": "many"}], "page_count": 1},
        {"items": [{"name": 1}], "page_count": 1},
    ],
)  # fmt: skip
def test_another_form_is_a_bad_answer(server, answer) -> None:
    """Whatever is no list of queues is refused."""
    with pytest.raises(BadAnswer):
        server.json(answer).use(lambda url: asked(url, "amqp://a", lambda queue: queue.queues()))
    with pytest.raises(BadAnswer):
        server.json([answer]).use(lambda url: asked(url, "amqp://a", lambda queue: queue.state("orders")))


def test_many_queues_are_read_page_by_page(server) -> None:
    """Up to four pages; numbers that the server does not have yet are -1; who asks says who it is."""
    page = {"items": [{"name": "b"}, {"name": "a.parked"}, {"name": "xb"}], "page_count": 9}
    found = server.json(page).use(lambda url: asked(url, "amqp://a", lambda queue: queue.queues("b"), vhost="a/b"))
    assert [(one.name, one.depth, one.unacknowledged, one.consumers) for one in found] == [("b", -1, -1, -1)] * 4
    assert [f"page={n}&" in str(packet) for n, packet in enumerate(server.asked, 1)] == [True] * 4
    assert b"/api/queues/a%2Fb?" in server.asked[0] and base64.b64encode(b"guest:guest") in server.asked[0]


@pytest.mark.parametrize("policies", [3, [3], [{}], [{"apply-to": "all", "pattern": 3, "definition": {}}]])
def test_policies_of_another_form_are_a_bad_answer(server, policies) -> None:
    """Nothing is moved where it is not known what would become of it."""
    with pytest.raises(BadAnswer, match="unknown form"):
        server.json(policies).use(lambda url: asked(url, "amqp://a", lambda queue: queue._limits("orders", {})))


def test_the_strictest_limit_counts() -> None:
    """Of the arguments and all policies that fit, or may; those for exchanges and other queues are left out."""
    policies = [
        {"apply-to": "all", "pattern": "^ord", "priority": 1, "definition": {"max-length": 5, "overflow": "drop-head"}},
        {
            "apply-to": "queues",
            "pattern": "(",
            "priority": 2,
            "definition": {"max-length": 9, "overflow": "reject-publish"},
        },
        {"apply-to": "queues", "pattern": "other", "definition": {"max-length": 1}},
        {"apply-to": "exchanges", "pattern": ".*", "definition": {"expires": 1}},
    ]
    found = _strictest("orders", {"x-max-length": 7, "x-queue-type": "classic"}, policies)
    assert found == {"max-length": 5, "overflow": "reject-publish", "queue-type": "classic"}


@pytest.mark.parametrize("url", ["http://a", "amqp://u:hush@a", "amqp://u@a", "amqp://", "amqp://a:x"])
def test_another_address_is_a_wrong_setting(url) -> None:
    """Also one that holds a user or a password; it is not repeated."""
    with pytest.raises(SettingsError) as caught:
        RabbitQueue("http://a", url, GUEST)
    assert "hush" not in str(caught.value)


def test_addresses_may_leave_the_port_out() -> None:
    """AMQP has its own ports, with and without TLS."""
    found = [Line(url, "u", GUEST, "/", 1)._where for url in ("amqp://a", "amqps://a", "amqps://a:1")]
    assert [(one["port"], one["ssl"]) for one in found] == [(5672, False), (5671, True), (1, True)]


def test_a_missing_extra_is_said_with_its_name(monkeypatch) -> None:
    """Without the client library the install line is given."""
    monkeypatch.setitem(sys.modules, "aiormq.exceptions", None)
    with pytest.raises(SettingsError, match=r"rbkit\[rabbitmq\]"):
        rabbitmq_line._errors()


@pytest.fixture
def clerk(mq) -> Iterator[Callable[..., RabbitQueue]]:
    """Make a user with permissions, and an adapter that is this user."""

    def made(tags: str, **permissions: str) -> RabbitQueue:
        manage(mq, "PUT", "/api/users/clerk", {"password": "guest", "tags": tags})
        if permissions:
            manage(mq, "PUT", "/api/permissions/%2F/clerk", {"configure": "", "write": "", "read": "", **permissions})
        return RabbitQueue(mq.api, mq.amqp, GUEST, "clerk")

    yield made
    manage(mq, "DELETE", "/api/users/clerk")


@pytest.mark.parametrize(
    ("tags", "permissions", "named"),
    [
        ("administrator", {"configure": ".*", "read": ".*"}, "as clerk, virtual host /; reads, but may nowhere: write"),
        ("management", {"configure": ".*", "read": ".*"}, "told to administrators only"),
    ],
)
def test_ping_says_what_we_may_do(clerk, tags, permissions, named) -> None:
    """As far as the server tells whoever asks."""
    assert named in pinged(clerk(tags, **permissions))


def test_ping_without_the_rights_that_every_look_needs_is_refused(mq, clerk, nobody) -> None:
    """No tag, no permission, a wrong password, nobody there."""
    with pytest.raises(BadAnswer, match="401"):
        pinged(clerk(""))
    with pytest.raises(Refused, match="permissions"):
        pinged(clerk("management", configure="x"))
    with pytest.raises(BadAnswer, match="401"):
        pinged(RabbitQueue(mq.api, mq.amqp, SecretStr("wrong"), "guest"))
    with pytest.raises(Unreachable):
        pinged(RabbitQueue(nobody, mq.amqp, GUEST, "guest"))


def test_ping_of_something_else_is_a_bad_answer(mq, monkeypatch) -> None:
    """It told about itself in another form."""
    queue = RabbitQueue(mq.api, mq.amqp, GUEST, "guest")

    async def odd(path: str) -> Any:
        return []

    monkeypatch.setattr(queue._http, "read", odd)
    with pytest.raises(BadAnswer, match="unknown form"):
        pinged(queue)
