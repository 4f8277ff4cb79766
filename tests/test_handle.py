"""A capability as a notebook uses it."""

import asyncio
from typing import Any

import pytest

from rbkit.errors import GuardRail, IllegalMove, NotFound


def test_reads_go_through_the_gate(rig) -> None:
    """A capability's read returns its models, by position or by name, and is journaled."""
    balancer = rig.run().use("balancer")
    first = asyncio.run(balancer.members("checkout"))
    second = asyncio.run(balancer.members(service="checkout"))
    assert first == second and first[0].name == "checkout-1"
    assert [event["arguments"] for event in rig.events("observed")] == [{"service": "checkout"}] * 2


def test_changes_go_through_the_gate(rig) -> None:
    """A change belongs in a step; there it is made and journaled."""
    run = rig.run()
    with pytest.raises(IllegalMove, match="outside a step"):
        asyncio.run(run.use("balancer").drain("checkout-1"))

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    assert str(asyncio.run(drain()).call) == "balancer.drain(checkout-1)"


def test_a_read_needs_its_arguments(rig) -> None:
    """As with any function, Python says which one is missing."""
    with pytest.raises(TypeError, match="service"):
        rig.run().use("balancer").members()


def test_a_capability_shows_what_it_can(rig) -> None:
    """Completion lists reads and changes; a wrong name is refused with the nearest one."""
    run = rig.run()
    balancer = run.use("balancer")
    assert set(dir(balancer)) == {"members", "drain", "ready"}
    with pytest.raises(NotFound, match="Did you mean 'drain'"):
        _ = balancer.drian
    assert not hasattr(balancer, "_repr_html_")
    with pytest.raises(NotFound, match="Did you mean 'balancer'"):
        run.use("balanser")


@pytest.mark.parametrize("target", [None, "", 3, ["checkout-1"]])
def test_a_change_needs_the_name_of_its_target(rig, target) -> None:
    """A target that is missing, such as the verdict's when no rule held, changes nothing."""
    with pytest.raises(GuardRail, match="name of its target"):
        rig.run().use("balancer").drain(target)
