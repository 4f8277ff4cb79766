"""Every cache, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
import redis as client
from servers.redis import redis

from rbkit.adapters.fake_data import FakeCache
from rbkit.adapters.redis_cache import RedisCache
from rbkit.datakinds import Cache
from rbkit.errors import Refused
from rbkit.facts import Call

KEYS = {"session:1": 3_000, "session:2": 2_000, "page:1": 1_000, "big": 50_000, "other*": 10}
TOKENS = count(1)
Use = Callable[[Callable[[Cache], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A real Redis."""
    with redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["fake", "redis"])
def use(request) -> Iterator[Use]:
    """Run a coroutine with a cache of five keys, of which three may be evicted at once."""
    if request.param == "fake":
        fake = FakeCache(KEYS, {"maxmemory": "0", "maxmemory-policy": "noeviction"}, max_keys=3)
        yield lambda work: asyncio.run(work(fake))
        return
    url = request.getfixturevalue("server")
    with client.Redis.from_url(url) as direct:
        direct.flushall()
        direct.config_set("maxmemory", "0")
        for key, size in KEYS.items():
            direct.set(key, b"x" * size)
    adapter = RedisCache(url, max_keys=3)
    yield lambda work: asyncio.run(work(adapter))


def call(action: str, target: str, **arguments: Any) -> Call:
    """Make a call."""
    return Call(capability="cache", action=action, target=target, arguments=arguments)


def plan(use: Use, wanted: Call) -> Any:
    """Plan a change of what is there now."""

    async def planned(cache: Cache) -> Any:
        return cache.plan(wanted, await cache.state(wanted.target))

    return use(planned)


def apply(use: Use, wanted: Call, key: str = "", token: int = 0) -> None:
    """Make a change."""
    use(lambda cache: cache.apply(wanted, key or uuid4().hex, token or next(TOKENS)))


def test_facts_say_how_full_it_is(use) -> None:
    """Bytes, the limit, what happens at the limit, and how many keys there are."""
    facts = use(lambda cache: cache.facts())
    assert facts.used >= sum(KEYS.values()) and (facts.most, facts.policy, facts.keys) == (0, "noeviction", 5)
    assert min(facts.evicted, facts.hits, facts.misses) >= 0


def test_the_largest_keys_come_first(use) -> None:
    """With their bytes, no more than asked for, and only those that match."""
    assert list(use(lambda cache: cache.largest(most=2))) == ["big", "session:1"]
    found = use(lambda cache: cache.largest("session:*"))
    assert list(found) == ["session:1", "session:2"] and found["session:1"] >= 3_000
    assert use(lambda cache: cache.largest("none:*")) == use(lambda cache: cache.largest(most=0)) == {}


def test_a_setting_is_given_a_value_and_its_old_one(use) -> None:
    """What the plan wants shows in the state, and its way back restores what was."""
    change = call("configure", "maxmemory", value="200000000")
    wanted = plan(use, change)
    assert wanted.undo == ("configure", {"value": "0"})
    apply(use, change)
    assert use(lambda cache: cache.state("maxmemory")) == wanted.after == {"value": "200000000"}
    assert use(lambda cache: cache.facts()).most == 200_000_000
    apply(use, call("configure", "maxmemory", value="0"))
    assert use(lambda cache: cache.state("maxmemory")) == {"value": "0"}


def test_keys_are_evicted_by_their_pattern_and_no_others(use) -> None:
    """What matches is gone, what does not stays; the plan says that it is for good, and that it happened shows."""
    change = call("evict", "session:*")
    wanted = plan(use, change)
    assert wanted.irreversible and wanted.undo is None
    apply(use, change)
    state = use(lambda cache: cache.state("session:*"))
    assert state["keys"] == 0 and wanted.differs.items().isdisjoint(state.items())
    assert use(lambda cache: cache.facts()).keys - len(KEYS) + 2 <= 3
    assert set(use(lambda cache: cache.largest())) >= {"big", "page:1", "other*"}
    assert plan(use, change).after == {"keys": 0}


def test_more_keys_than_allowed_are_refused_before_one_is_gone(use) -> None:
    """By the plan, and by the cache itself when they have become more since."""
    assert use(lambda cache: cache.state("*"))["keys"] == 4
    for work in (lambda: plan(use, call("evict", "*")), lambda: apply(use, call("evict", "*"))):
        with pytest.raises(Refused, match="More than 3 keys"):
            work()
    assert set(use(lambda cache: cache.largest())) >= set(KEYS)


def test_a_repeated_key_acts_once(use) -> None:
    """A change that arrives once more, after another one, does nothing."""
    for change, other in (
        (call("configure", "maxmemory", value="300000000"), call("configure", "maxmemory", value="0")),
        (call("evict", "page:*"), call("evict", "page:*")),
    ):
        key = uuid4().hex
        apply(use, change, key)
        apply(use, other)
        before = use(lambda cache, change=change: cache.state(change.target))
        apply(use, change, key)
        assert use(lambda cache, change=change: cache.state(change.target)) == before


@pytest.mark.parametrize("change", [call("configure", "maxmemory", value="300000000"), call("evict", "page:*")])
def test_a_lower_token_is_refused_and_nothing_changes(use, change) -> None:
    """After a fence, or after somebody with a higher token has acted; an equal token acts."""
    old, new = next(TOKENS), next(TOKENS)
    before = use(lambda cache: cache.state(change.target))
    for _ in range(2):
        use(lambda cache: cache.fence(change.target, new))
    with pytest.raises(Refused, match=rf"newer lease.*\b{new}\b"):
        use(lambda cache: cache.fence(change.target, old))
    with pytest.raises(Refused, match=rf"newer lease.*\b{new}\b"):
        apply(use, change, token=old)
    assert use(lambda cache: cache.state(change.target)) == before
    apply(use, change, token=new)
    assert use(lambda cache: cache.state(change.target)) != before


def test_settings_and_patterns_are_not_mixed_up(use) -> None:
    """A setting cannot be evicted, and a setting that the environment file does not allow cannot be set."""
    for change in (call("evict", "maxmemory"), call("configure", "timeout", value="1")):
        with pytest.raises(Refused, match="setting"):
            plan(use, change)
        with pytest.raises(Refused, match="cannot be done"):
            apply(use, change)


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line: what it is, as whom we are there, and that no right is missing."""
    named = {"fake": "in memory", "redis": "as default; reads and writes"}
    assert named[request.node.callspec.params["use"]] in use(lambda one: one.ping())
