"""Asks every source and capability of an environment whether it is there, what we may do there, and how fast it is."""

import asyncio
from dataclasses import dataclass
from typing import Any

from rbkit.clock import Clock
from rbkit.errors import RunbookError
from rbkit.wiring import Wiring

__all__ = ["Ping", "ping"]

PING_S = 10.0
"""How long an endpoint may take to answer a ping, seconds."""


@dataclass(frozen=True, slots=True)
class Ping:
    """What came of one ping.

    Args:
        endpoint: For example `source metrics`.
        adapter: The adapter's name.
        reached: Whether it answered.
        said: What it is and what we may do there; or what went wrong.
        todo: What to do next; empty when it answered.
        ms: How long it took, milliseconds.
    """

    endpoint: str
    adapter: str
    reached: bool
    said: str
    todo: str
    ms: float


async def ping(world: Wiring, clock: Clock) -> list[Ping]:
    """Ping everything that an environment file names, all at once.

    Args:
        world: The environment.
        clock: Measures.

    Returns:
        One Ping each, sources first, in the order of the file.
    """
    environment = world.environment
    ports = [*(f"source {name}" for name in environment.sources)]
    ports += [f"capability {name}" for name in environment.capabilities]
    return list(await asyncio.gather(*(_ping(world, port, clock) for port in ports)))


async def _ping(world: Wiring, endpoint: str, clock: Clock) -> Ping:
    word, _, name = endpoint.partition(" ")
    settings = world.environment.source(name) if word == "source" else world.environment.capability(name)
    began = clock.monotonic()
    try:
        said, reached, todo = await _said(world.port(endpoint)), True, ""
    except RunbookError as error:
        said, reached, todo = error.what, False, error.todo
    return Ping(endpoint, settings.adapter, reached, said, todo, round((clock.monotonic() - began) * 1000, 1))


async def _said(port: Any) -> str:
    """Ping one port; an adapter of a plugin that cannot be pinged says so."""
    if not hasattr(port, "ping"):
        return "made; its adapter has no ping"
    try:
        async with asyncio.timeout(PING_S):
            return str(await port.ping())
    except TimeoutError as error:
        raise RunbookError(f"It did not answer within {PING_S:.0f} s.", todo="Check that it is up.") from error
