"""What the fakes offer beyond the suites of tests/ports: they tell what they were asked."""

import asyncio

import pytest

from rbkit.adapters.fakes import FakeBalancer, FakeLogs, FakeMetrics, FakeServices
from rbkit.errors import Refused
from rbkit.events import Call


def test_the_last_member_is_not_drained() -> None:
    """Like a real balancer the fake keeps one member; other services do not count."""
    balancer = FakeBalancer({"checkout": ["a"], "search": ["b"]})
    call = Call(capability="balancer", action="drain", target="a")
    with pytest.raises(Refused, match="leave no member"):
        asyncio.run(balancer.apply(call, "key"))
    assert balancer.asked == [call]


def test_what_was_started_again_has_a_new_process() -> None:
    """An instance that was stopped has no process; started it has another; starting a running one keeps it."""
    services = FakeServices({"checkout": ["a"]})
    pids = []
    for number, action in enumerate(("stop", "start", "start", "restart")):
        asyncio.run(services.apply(Call(capability="services", action=action, target="a"), str(number)))
        pids.append(asyncio.run(services.state("a"))["pid"])
    assert pids[0] is None and pids[1] == pids[2] != pids[3]


def test_they_can_be_closed() -> None:
    """Closing gives back nothing and fails at nothing."""
    for fake in (FakeBalancer({}), FakeServices({}), FakeMetrics({}), FakeLogs([])):
        assert asyncio.run(fake.aclose()) is None
