"""The load process: light, steady traffic through the balancer, whatever comes back."""

import asyncio

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from rbkit.clock import SystemClock
from rbkit.sandbox.layout import Layout

__all__ = ["serve_load"]

REQUESTS_PER_S = 20.0
MOST_IN_FLIGHT = 200
TIMEOUT_S = 10.0


async def _order(url: str) -> None:
    try:
        await AsyncHTTPClient().fetch(url, request_timeout=TIMEOUT_S, raise_error=False, follow_redirects=False)
    except (HTTPClientError, OSError):
        return


async def serve_load(layout: Layout, stop: asyncio.Event) -> None:
    """Send 20 requests a second until told to stop; slow answers do not slow the sending down."""
    AsyncHTTPClient.configure(None, max_clients=MOST_IN_FLIGHT)
    clock, url = SystemClock(), f"http://127.0.0.1:{layout.balancer}/work"
    orders: set[asyncio.Task[None]] = set()
    due = clock.monotonic()
    while not stop.is_set():
        if len(orders) < MOST_IN_FLIGHT:
            order = asyncio.create_task(_order(url))
            orders.add(order)
            order.add_done_callback(orders.discard)
        due = max(due + 1 / REQUESTS_PER_S, clock.monotonic() - 1)
        await clock.sleep(max(0.0, due - clock.monotonic()))
    for order in orders:
        order.cancel()
