"""A ping of an environment: everything is asked at once, and whatever goes wrong is told, never raised."""

import asyncio
from typing import Any

import pytest

from rbkit import pinging
from rbkit.clock import SystemClock
from rbkit.environment import Environment
from rbkit.errors import Refused, SettingsError
from rbkit.pinging import Ping, ping


class Said:
    """A port that says something."""

    async def ping(self) -> str:
        """Say it."""
        return "a thing 1.0, as nobody; reads"


class Silent:
    """A port that never answers."""

    async def ping(self) -> str:
        """Wait until nobody waits any more."""
        return str(await asyncio.get_running_loop().create_future())


class Failing:
    """A port that may not be used."""

    async def ping(self) -> str:
        """Say what is missing."""
        raise Refused("It says no.", todo="Ask for the right.")


class Pingless:
    """A port of a plugin that cannot be pinged."""


class World:
    """An environment whose ports are already made.

    Args:
        ports: Sources and capabilities by endpoint; an error instead of a port is raised when it is made.
    """

    def __init__(self, ports: dict[str, Any]) -> None:
        self._ports = ports
        words: dict[str, dict[str, Any]] = {"source": {}, "capability": {}}
        for endpoint in ports:
            word, _, name = endpoint.partition(" ")
            words[word][name] = {"adapter": f"{name}-adapter"}
        self.environment = Environment.model_validate(
            {"name": "trial", "sources": words["source"], "capabilities": words["capability"], "signals": {}}
        )

    def port(self, endpoint: str) -> Any:
        """Return a port."""
        found = self._ports[endpoint]
        if isinstance(found, Exception):
            raise found
        return found


def pinged(ports: dict[str, Any]) -> list[Ping]:
    """Ping an environment of these ports."""
    return asyncio.run(ping(World(ports), SystemClock()))  # type: ignore[arg-type]


def test_each_endpoint_has_its_line_in_the_order_of_the_file() -> None:
    """Sources first; each with its adapter, what it said, and how long it took."""
    found = pinged({"capability flags": Said(), "source logs": Said(), "source metrics": Said()})
    assert [one.endpoint for one in found] == ["source logs", "source metrics", "capability flags"]
    assert [one.adapter for one in found] == ["logs-adapter", "metrics-adapter", "flags-adapter"]
    assert all(one.reached and one.said == "a thing 1.0, as nobody; reads" and not one.todo for one in found)
    assert all(one.ms >= 0 for one in found)


@pytest.mark.parametrize(
    ("port", "said", "todo"),
    [
        (Failing(), "It says no.", "Ask for the right."),
        (SettingsError("The option url is wrong.", todo="Correct it."), "The option url is wrong.", "Correct it."),
    ],
)
def test_a_failure_is_told_with_what_to_do(port: Any, said: str, todo: str) -> None:
    """Whether the port says no or cannot even be made; the others are asked all the same."""
    one, other = pinged({"source metrics": port, "capability flags": Said()})
    assert (one.reached, one.said, one.todo) == (False, said, todo)
    assert other.reached


def test_one_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not keep the others' answers back for ever."""
    monkeypatch.setattr(pinging, "PING_S", 0.01)
    one, other = pinged({"source metrics": Silent(), "source logs": Said()})
    assert not one.reached and "did not answer within" in one.said and one.todo
    assert other.reached


def test_a_plugin_without_a_ping_is_said_to_be_made() -> None:
    """Nothing is claimed about it but that."""
    (one,) = pinged({"capability flags": Pingless()})
    assert one.reached and one.said == "made; its adapter has no ping"
