"""A scaler in memory; it passes the same suite as the real ones."""

from collections.abc import Mapping
from typing import Any

from rbkit.adapters.fakes import Fake
from rbkit.capability import Facts
from rbkit.events import Call
from rbkit.kinds import Scaler

__all__ = ["FakeScaler"]


class _Group(Facts):
    wanted: int
    ready: int
    least: int
    most: int


class FakeScaler(Fake, Scaler):
    """A scaler in memory: what is wanted is ready at once.

    Args:
        groups: How many instances each group has.
        least: The fewest that a group may have.
        most: The most that a group may have.
    """

    def __init__(self, groups: Mapping[str, int], least: int = 1, most: int = 10) -> None:
        super().__init__(
            {name: _Group(wanted=count, ready=count, least=least, most=most) for name, count in groups.items()}
        )

    def _changed(self, thing: _Group, call: Call) -> dict[str, Any]:
        """Give a group as many instances as are wanted."""
        wanted = call.arguments["wanted"]
        return {"wanted": wanted, "ready": wanted}
