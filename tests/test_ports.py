"""What a capability promises when its system knows less than others."""

import asyncio
from typing import Any

import pytest

from rbkit.errors import Refused
from rbkit.events import Call
from rbkit.kinds import Scaler, Silences
from rbkit.ports import Capability, Plan


class Simple(Capability):
    """A system that remembers no tokens and opens nothing."""

    kind = "simple"

    async def state(self, target: str) -> dict[str, Any]:
        """Know nothing."""
        return {}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Fail: this test changes nothing."""
        raise AssertionError("nothing is to be made")


def test_a_system_without_tokens_need_not_refuse_them():
    """An adapter need not be able to shut out an old holder, or have anything to close: neither is an error."""

    async def use() -> None:
        simple = Simple()
        await simple.fence("c-1", 1)
        assert "has no ping" in await simple.ping()
        await simple.aclose()

    asyncio.run(use())


def planned(kind: type[Capability], action: str, before: dict[str, Any], **arguments: Any) -> Plan:
    """Plan a change of a kind of capability without a system."""
    plan: Plan = getattr(kind, action)(None, before, **arguments)
    return plan


def test_what_something_else_scales_is_left_to_it():
    """A number that an autoscaler would change back is refused, as is one outside the limits."""
    limits = {"wanted": 2, "least": 1, "most": 4}
    with pytest.raises(Refused, match="an autoscaler decides how many"):
        planned(Scaler, "scale", {"managed": "an autoscaler", **limits}, wanted=3)
    with pytest.raises(Refused, match="outside the limits 1 to 4"):
        planned(Scaler, "scale", limits, wanted=5)
    assert planned(Scaler, "scale", limits, wanted=3).undo == ("scale", {"wanted": 2})


def test_an_alert_that_speaks_again_cannot_be_unheard():
    """To end a silence is no change that can be taken back: it says so before."""
    plan = planned(Silences, "wake", {"silent": True})
    assert plan.after == {"silent": False} and plan.undo is None and "speaks again" in plan.irreversible
