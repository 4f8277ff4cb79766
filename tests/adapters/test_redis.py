"""Redis: what goes wrong is told apart, a full server can still be helped, and nothing is lost in a corner case."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis as client
from hypothesis import given, settings
from hypothesis import strategies as st
from pings import pinged
from pydantic import SecretStr
from servers.redis import redis

from rbkit.adapters import redis_queue
from rbkit.adapters.parked import digest, names, sample
from rbkit.adapters.redis_cache import RedisCache
from rbkit.adapters.redis_queue import RedisQueue
from rbkit.adapters.redis_server import RedisServer
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text("*?[]\\^-ab", max_size=8)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """A real Redis."""
    with redis(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture
def direct(url) -> Iterator["client.Redis"]:
    """A connection to the server, which is empty, unlimited and has no users."""
    with client.Redis.from_url(url) as connection:
        connection.config_set("maxmemory", "0")
        connection.flushall()
        yield connection


def call(action: str, target: str, **arguments: Any) -> Call:
    """Make a call."""
    return Call(capability="redis", action=action, target=target, arguments=arguments)


def run(work: Awaitable[Any]) -> Any:
    """Wait for one call."""

    async def waited() -> Any:
        return await work

    return asyncio.run(waited())


def test_a_full_server_can_be_fenced_relieved_and_given_more(url, direct) -> None:
    """Where Redis takes no more data, evicting and raising the limit are what is needed: they work."""
    cache, queue = RedisCache(url), RedisQueue(url)
    direct.set("page:1", b"x" * 3_000_000)
    direct.rpush("orders", "poison")
    direct.config_set("maxmemory", "1000000")
    with pytest.raises(client.exceptions.OutOfMemoryError):
        direct.set("more", "x")
    run(cache.fence("page:*", 2))
    (message,) = run(queue.head("orders"))
    run(queue.apply(call("park", "orders", message=message.name), "k0", 1))
    run(cache.apply(call("evict", "page:*"), "k1", 2))
    assert run(cache.state("page:*"))["keys"] == 0
    run(cache.apply(call("configure", "maxmemory", value="100000000"), "k2", 1))
    assert direct.set("more", "x")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("maxmemory", "1gb", "1073741824"), ("maxmemory", "2M", "2000000"), ("maxmemory", "007", "7"),
        ("maxmemory-policy", "ALLKEYS-LRU", "allkeys-lru"),
    ],
)  # fmt: skip
def test_a_value_must_be_written_as_the_server_writes_it(url, direct, name, value, wanted) -> None:
    """Otherwise nobody could see that it holds; the right way to write it is said, and nothing is set."""
    with pytest.raises(Refused, match=wanted):
        run(RedisCache(url).apply(call("configure", name, value=value), "k", 1))
    assert run(RedisCache(url).state(name)) == {"value": direct.config_get(name)[name]} != {"value": wanted}


def test_a_value_that_the_server_refuses_can_be_corrected_under_the_same_key(url, direct) -> None:
    """A refusal leaves the setting and the key as they were."""
    cache = RedisCache(url)
    with pytest.raises(Refused, match="maxmemory-policy"):
        run(cache.apply(call("configure", "maxmemory-policy", value="all-of-it"), "k", 1))
    run(cache.apply(call("configure", "maxmemory-policy", value="allkeys-lru"), "k", 1))
    assert direct.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
    direct.config_set("maxmemory-policy", "noeviction")


def test_a_fence_that_moves_at_the_same_moment_wins(url, direct, monkeypatch) -> None:
    """Between the look at the token and the change somebody else announces a higher one: nothing is set."""
    original = client.asyncio.client.Pipeline.multi

    def late(pipe: Any) -> None:
        direct.set("rbkit:fence:maxmemory", "9")
        original(pipe)

    monkeypatch.setattr(client.asyncio.client.Pipeline, "multi", late)
    with pytest.raises(Refused, match="same moment"):
        run(RedisCache(url).apply(call("configure", "maxmemory", value="5000000"), "k", 1))
    assert direct.config_get("maxmemory")["maxmemory"] == "0"


def test_an_unknown_setting_is_not_found(url, direct) -> None:
    """The environment file names a setting that the server does not have."""
    cache = RedisCache(url, settings=["maxmemroy"])
    for work in (cache.state("maxmemroy"), cache.apply(call("configure", "maxmemroy", value="1"), "k", 1)):
        with pytest.raises(NotFound, match="maxmemroy"):
            run(work)


def test_a_pattern_is_not_looked_for_among_too_many_keys(url, direct) -> None:
    """A keyspace that is too large is not read for it."""
    direct.mset({"a": 1, "b": 2})
    with pytest.raises(Refused, match="more than 1 keys"):
        run(RedisCache(url, max_scan=1).state("a"))


def test_the_keys_that_hold_the_tokens_are_never_evicted(url, direct) -> None:
    """Not even by the pattern that matches everything."""
    cache = RedisCache(url)
    direct.mset({"a": 1, "b": 2})
    run(cache.fence("other", 7))
    run(cache.apply(call("evict", "*"), "k", 3))
    assert {key.decode().split(":")[1] for key in direct.scan_iter()} == {"fence", "done", "evictions"}


def test_the_largest_keys_are_looked_for_in_a_sample(url, direct) -> None:
    """No more keys are measured than the sample has, and one that goes meanwhile is left out."""
    direct.mset({f"key:{n}": "x" for n in range(3_000)})
    assert 0 < len(run(RedisCache(url, sample=100).largest(most=1_000))) <= 100
    assert len(run(RedisCache(url).largest(most=5_000))) == 1_000


def test_a_key_that_goes_while_it_is_measured_is_left_out(url, direct, monkeypatch) -> None:
    """Redis has no size for it."""
    direct.mset({"a": "x"})
    original = client.asyncio.client.Pipeline.memory_usage
    monkeypatch.setattr(
        client.asyncio.client.Pipeline, "memory_usage", lambda self, key: original(self, b"no-such" + key)
    )
    assert run(RedisCache(url).largest()) == {}


def test_names_that_are_no_text_are_shown_escaped(url, direct) -> None:
    """Bytes of a key or a message never break a read; what is long is shortened."""
    direct.set(b"\xff" * 3, "x")
    direct.rpush("orders", b"\xfe" + b"y" * 5_000)
    assert "\\xff\\xff\\xff" in run(RedisCache(url).largest())
    (message,) = run(RedisQueue(url).head("orders"))
    assert message.size == 5_001 and message.sample.startswith("\\xfey") and len(message.sample) <= 210


def test_messages_of_many_bytes_are_not_searched_for_long(url, direct) -> None:
    """The server is not kept busy: beyond so many bytes, or messages, one is not found, and that is said."""
    direct.rpush("orders", *(bytes([65 + n]) * 9_000_000 for n in range(4)), "poison")
    queue = RedisQueue(url)
    assert [message.size for message in run(queue.head("orders"))] == [9_000_000] * 2
    for one in (queue, RedisQueue(url, reach=2)):
        with pytest.raises(NotFound, match="too far behind"):
            run(one.apply(call("park", "orders", message=digest(b"poison")), "k", 1))
    assert direct.llen("orders") == 5


def test_a_thousand_parked_messages_are_enough(url, direct) -> None:
    """Beyond them nothing is parked: somebody must look."""
    direct.hset("orders.parked", mapping={str(n): "x" for n in range(1_000)})
    direct.rpush("orders", "poison")
    with pytest.raises(Refused, match="a thousand"):
        run(RedisQueue(url).apply(call("park", "orders", message=digest(b"poison")), "k", 1))
    assert direct.lrange("orders", 0, -1) == [b"poison"]


def test_what_somebody_else_keeps_beside_a_queue_is_not_touched(url, direct) -> None:
    """A key of that name that rbkit has not made is no place for messages."""
    direct.rpush("orders", "poison")
    direct.set("orders.parked", "mine")
    with pytest.raises(Refused, match="not parked by rbkit: it is a string"):
        run(RedisQueue(url).apply(call("park", "orders", message=digest(b"poison")), "k", 1))
    assert direct.get("orders.parked") == b"mine" and direct.llen("orders") == 1


def group(direct: Any, *texts: str, name: str = "workers") -> list[str]:
    """Fill a stream that a group reads, and give the entries' ids."""
    direct.xgroup_create("orders", name, id="0", mkstream=True)
    return [direct.xadd("orders", {"body": text}).decode() for text in texts]


def test_a_stream_that_others_read_too_loses_nothing(url, direct) -> None:
    """Taking an entry out would take it from the other groups: it is refused."""
    (entry,) = group(direct, "poison")
    direct.xgroup_create("orders", "others", id="0")
    with pytest.raises(Refused, match="other groups"):
        run(RedisQueue(url, group="workers").apply(call("park", "orders", message=entry), "k", 1))
    assert direct.xlen("orders") == 1


def test_an_entry_that_is_done_is_not_parked(url, direct) -> None:
    """What a worker has acknowledged is no message any more, although the stream still has it."""
    (entry,) = group(direct, "poison")
    direct.xreadgroup("workers", "w", {"orders": ">"})
    direct.xack("orders", "workers", entry)
    queue = RedisQueue(url, group="workers")
    assert run(queue.head("orders")) == []
    with pytest.raises(NotFound, match="not there any more"):
        run(queue.apply(call("park", "orders", message=entry), "k", 1))
    assert direct.xlen("orders") == 1


def test_a_pending_message_comes_first_and_is_taken_from_its_worker(url, direct) -> None:
    """How often it was delivered shows; a pending entry that was deleted meanwhile is passed over."""
    first, lost, last = group(direct, "poison", "lost", "last")
    direct.xreadgroup("workers", "w", {"orders": ">"}, count=2)
    direct.xreadgroup("workers", "w", {"orders": "0"})
    direct.xdel("orders", lost)
    queue = RedisQueue(url, group="workers")
    assert [(m.name, m.redelivered) for m in run(queue.head("orders"))] == [(first, True), (last, False)]
    assert run(queue.queues()) == run(queue.queues("orders"))
    run(queue.apply(call("park", "orders", message=first), "k", 1))
    assert [entry["message_id"].decode() for entry in direct.xpending_range("orders", "workers", "-", "+", 9)] == [lost]
    assert run(queue.state("orders")) == {"depth": 1, "consumers": 1, "parked": [first]}
    assert [fields for _, fields in direct.xrange("orders.parked")] == [
        {b"rbkit-id": first.encode(), b"body": b"poison"}
    ]


def test_a_stream_without_the_group_is_no_queue(url, direct) -> None:
    """Neither in the list nor as a target."""
    group(direct, "poison", name="others")
    queue = RedisQueue(url, group="workers")
    assert run(queue.queues()) == []
    with pytest.raises(NotFound, match="no group"):
        run(queue.state("orders"))


def test_a_name_that_is_no_entry_is_not_found(url, direct) -> None:
    """The server would not understand it."""
    group(direct, "poison")
    with pytest.raises(NotFound, match="no entry"):
        run(RedisQueue(url, group="workers").apply(call("park", "orders", message="x"), "k", 1))


@settings(max_examples=60, deadline=None)
@given(NAMES, NAMES)
def test_a_prefix_means_itself(url, prefix, other) -> None:
    """Whatever characters it has, exactly the queues whose names begin so are listed."""
    with client.Redis.from_url(url) as direct:
        direct.flushall()
        for name in {prefix + "a", other + "b"}:
            direct.rpush(name, "x")
    expected = {name for name in (prefix + "a", other + "b") if name.startswith(prefix)}
    assert {one.name for one in run(RedisQueue(url).queues(prefix))} == expected


def test_queues_are_not_looked_for_among_too_many_keys(url, direct, monkeypatch) -> None:
    """They must be named then."""
    monkeypatch.setattr(redis_queue, "_MOST_KEYS", 0)
    direct.rpush("orders", "x")
    with pytest.raises(Refused, match="Name its queues"):
        run(RedisQueue(url).queues())
    assert [one.name for one in run(RedisQueue(url, queues=["orders", "paid"]).queues())] == ["orders", "paid"]


def test_no_more_than_a_thousand_queues_are_listed(url, direct) -> None:
    """More would be no list for people."""
    with direct.pipeline() as pipe:
        for n in range(1_010):
            pipe.rpush(f"q{n}", "x")
        pipe.rpush("q.parked", "x")
        pipe.execute()
    found = run(RedisServer(url, None, 10).ask(lambda one: RedisQueue(url)._search(one, "q")))
    assert len(found) == 1_000 and "q.parked" not in found


def test_a_queue_that_the_environment_does_not_name_is_not_touched(url, direct) -> None:
    """Once queues are named, there are no others."""
    direct.rpush("other", "x")
    with pytest.raises(NotFound, match="other"):
        run(RedisQueue(url, queues=["orders"]).state("other"))


def test_who_may_not_is_told_so(url, direct) -> None:
    """Missing rights and a wrong password are refusals: nothing was done, and asking again does not help."""
    direct.acl_setuser("weak", enabled=True, passwords=["+pw"], categories=["-@all"], commands=["+ping", "+dbsize"])
    weak = url.replace("redis://", "redis://weak@")
    for password in ("pw", "wrong"):
        cache = RedisCache(weak, SecretStr(password))
        for work in (
            cache.facts(),
            cache.fence("a*", 1),
            cache.apply(call("configure", "maxmemory", value="1"), "k", 1),
        ):
            with pytest.raises(Refused, match="refuses"):
                run(work)
        assert password not in repr(vars(cache._redis))


def test_an_error_is_an_answer(url, direct) -> None:
    """A read that the server cannot do is a bad answer, a change that it cannot do was refused."""
    direct.rpush("rbkit:fence:a*", "x")
    direct.rpush("rbkit:evictions:a*", "x")
    with pytest.raises(BadAnswer, match="WRONGTYPE|wrong kind"):
        run(RedisCache(url).state("a*"))
    direct.delete("rbkit:evictions:a*")
    with pytest.raises(Refused, match="WRONGTYPE|wrong kind"):
        run(RedisCache(url).apply(call("evict", "a*"), "k", 1))


Script = Callable[[bytes], bytes | None]


def served(script: Script, work: Callable[[str], Awaitable[Any]]) -> Any:
    """Ask a server that answers each packet as it does; None hangs, empty bytes end the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while packet := await reader.read(65_536):
                said = script(packet)
                if said is None:
                    await reader.read()
                if not said:
                    break
                writer.write(said)
        writer.close()

    async def asked() -> Any:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await work(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")

    return asyncio.run(asked())


def polite(then: bytes | None) -> Script:
    """Answer the greeting, and then something."""

    def said(packet: bytes) -> bytes | None:
        words = packet.upper()
        if (b"INFO" in words and b"SETINFO" not in words) or b"EVAL" in words:
            return then
        return b"+PONG\r\n" if b"PING" in words and b"SETINFO" not in words else b"+OK\r\n" * packet.count(b"*")

    return said


@pytest.mark.parametrize("then", [None, b"", b"!garbage\r\n", b"$x\r\n", b"*1\r\n$5\r\nab", b"-LOADING soon\r\n"])
def test_an_answer_that_is_none_is_told_apart(then) -> None:
    """Silence, an end, or rubbish: a read found nobody, a change may have been made."""
    with pytest.raises((Unreachable, BadAnswer)):
        served(polite(then), lambda url: RedisCache(url, timeout_s=0.3).facts())

    async def acting(url: str) -> None:
        await RedisServer(url, None, 0.3).run("x", [], [1], acts=True)

    with pytest.raises(MayHaveActed):
        served(polite(then), acting)


@pytest.mark.parametrize("then", [b"$0\r\n\r\n", b"$18\r\nused_memory:many\r\n\r\n"])
def test_facts_of_another_form_are_a_bad_answer(then) -> None:
    """A server that does not say what Redis says is none."""

    def said(packet: bytes) -> bytes | None:
        return b":3\r\n" if b"DBSIZE" in packet.upper() else polite(then)(packet)

    with pytest.raises(BadAnswer, match="unknown form"):
        served(said, lambda url: RedisCache(url, timeout_s=2).facts())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "redis://no-such.invalid:{}/0"])
def test_nobody_there_is_unreachable(nobody, url) -> None:
    """Nothing was done."""
    cache = RedisCache(url.format(nobody.rpartition(":")[2]))
    for work in (cache.facts(), cache.apply(call("configure", "maxmemory", value="1"), "k", 1)):
        with pytest.raises(Unreachable, match="Redis at "):
            run(work)


@pytest.mark.parametrize(
    "url", ["http://a", "redis://a:hush@b:1/0", "redis://b:x/0", "redis://", "redis://b:1/0?password=hush"]
)
def test_another_address_is_a_wrong_setting(url) -> None:
    """Also one that holds a password; it is not repeated."""
    with pytest.raises(SettingsError) as caught:
        RedisCache(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RedisCache("redis://a", settings=["max*"]), lambda: RedisCache("redis://a", max_keys=-1),
        lambda: RedisCache("redis://a", max_keys=1_000_000), lambda: RedisQueue("redis://a", head="top"),
    ],
)  # fmt: skip
def test_wrong_options_are_wrong_settings(make) -> None:
    """A setting with a wildcard, a limit that is none, a side that a list has not."""
    with pytest.raises(SettingsError):
        make()


def test_a_missing_extra_is_said_with_its_name(monkeypatch) -> None:
    """Without the client library the install line is given."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SettingsError, match=r"rbkit\[redis\]"):
        run(RedisCache("redis://127.0.0.1").facts())


@given(st.lists(st.sampled_from(["a", "b", "a~2", "c"]), max_size=8), st.sets(st.sampled_from(["a", "a~2", "b"])))
def test_no_two_messages_have_one_name(bases, parked) -> None:
    """However alike they are, and whatever is parked; who is alone keeps its own name."""
    found = names(bases, parked)
    assert len(set(found)) == len(bases) and not set(found) & parked
    assert all(name == base or name.startswith(base + "~") for name, base in zip(found, bases, strict=True))
    assert all(name == base for name, base in zip(found, bases, strict=True) if bases.count(base) == 1 and base == "c")


def test_a_sample_is_short() -> None:
    """Also of what has many bytes."""
    assert sample(b"abc") == "abc" and sample(b"a" * 201) == "a" * 199 + "…" and sample(b"\xff") == "\\xff"


@pytest.fixture
def ruled(url, direct) -> Iterator[Callable[[str], str]]:
    """Make the user `rbkit` with these rules, and give the address as whom it is reached."""

    def made(rules: str) -> str:
        direct.execute_command("ACL", "SETUSER", "rbkit", "reset", "on", "nopass", "~*", *rules.split())
        return url.replace("//", "//rbkit@")

    yield made
    direct.execute_command("ACL", "DELUSER", "rbkit")


@pytest.mark.parametrize(
    ("make", "rules", "named"),
    [
        (RedisCache, "+@all", "as rbkit; reads and writes"),
        (RedisCache, "+@all -config|set -unlink", "reads, but may not: config set, unlink"),
        (RedisQueue, "+@all -lrem", "reads, but may not: lrem"),
        (RedisQueue, "+ping +info", "does not tell as whom"),
        (RedisQueue, "+ping +info +acl|whoami", "as far as it tells"),
    ],
)
def test_ping_says_what_the_rules_let_us_do(ruled, make, rules, named) -> None:
    """Nothing is run for it; who may not ask what they may do is told so."""
    assert named in pinged(make(ruled(rules), SecretStr("any")))


def test_ping_without_the_rights_that_every_look_needs_is_refused(ruled, nobody) -> None:
    """The command is named; a server that is gone is unreachable."""
    with pytest.raises(Refused, match="config get"):
        pinged(RedisCache(ruled("+@all -config|get"), SecretStr("any")))
    with pytest.raises(Refused, match="info"):
        pinged(RedisCache(ruled("+ping"), SecretStr("any")))
    with pytest.raises(Unreachable):
        pinged(RedisQueue(nobody.replace("http", "redis")))
