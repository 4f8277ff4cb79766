"""What a capability promises when its system knows less than others."""

import asyncio
from typing import Any

from rbkit.events import Call
from rbkit.ports import Capability


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
