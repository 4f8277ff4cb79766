"""What the fakes offer beyond the suites of tests/ports: they tell what they were asked."""

import asyncio

import pytest

from rbkit.adapters.fakes import FakeBalancer, FakeLogs, FakeMetrics, FakeServices
from rbkit.errors import NotFound, Refused
from rbkit.events import Call


def test_the_last_member_is_not_drained() -> None:
    """Like a real balancer the fake keeps one member; other services do not count; a refusal is no act."""
    balancer = FakeBalancer({"checkout": ["a"], "search": ["b"]})
    call = Call(capability="balancer", action="drain", target="a")
    with pytest.raises(Refused, match="leave no member"):
        asyncio.run(balancer.apply(call, "key", 1))
    assert balancer.asked == [call] and balancer.log == [(call, "key", 1, False)]


def test_what_was_started_again_has_a_new_process() -> None:
    """An instance that was stopped has no process; started it has another; starting a running one keeps it."""
    services = FakeServices({"checkout": ["a"]})
    pids = []
    for number, action in enumerate(("stop", "start", "start", "restart")):
        asyncio.run(services.apply(Call(capability="services", action=action, target="a"), str(number), 1))
        pids.append(asyncio.run(services.state("a"))["pid"])
    assert pids[0] is None and pids[1] == pids[2] != pids[3]


def test_the_log_tells_who_acted() -> None:
    """Each request is there with its key and token, and whether it acted: not when repeated, stale or about nothing."""
    services = FakeServices({"checkout": ["a"]})
    stop = Call(capability="services", action="stop", target="a")
    gone = Call(capability="services", action="stop", target="b")
    asyncio.run(services.apply(stop, "k1", 2))
    asyncio.run(services.apply(stop, "k1", 3))
    with pytest.raises(Refused, match="3, not 2"):
        asyncio.run(services.apply(stop, "k2", 2))
    with pytest.raises(NotFound):
        asyncio.run(services.apply(gone, "k3", 3))
    assert services.log == [
        (stop, "k1", 2, True),
        (stop, "k1", 3, False),
        (stop, "k2", 2, False),
        (gone, "k3", 3, False),
    ]
    assert services.asked == [entry.call for entry in services.log]


def test_they_can_be_closed() -> None:
    """Closing gives back nothing and fails at nothing."""
    for fake in (FakeBalancer({}), FakeServices({}), FakeMetrics({}), FakeLogs([])):
        assert asyncio.run(fake.aclose()) is None
