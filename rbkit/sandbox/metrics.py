"""The metrics process: scrapes every second, keeps one hour, answers as Prometheus does."""

import asyncio
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from rbkit.clock import Clock, SystemClock
from rbkit.sandbox.layout import INSTANCES, SERVICE, Layout
from rbkit.sandbox.metrics_api import metrics_application
from rbkit.sandbox.series import Key, Store
from rbkit.sandbox.web import listen

__all__ = ["Scraper", "Target", "serve_metrics"]

INTERVAL_S = 1.0
Sample = tuple[dict[str, str], float]


@dataclass
class Target:
    """Something that is scraped.

    Args:
        url: Where its metrics are.
        labels: Labels that every one of its series gets.
        token: Bearer token, empty when none is needed.
    """

    url: str
    labels: dict[str, str]
    token: str = ""
    last: set[Key] = field(default_factory=set)
    attempts: int = 0


def read_samples(text: str) -> list[Sample]:
    """Read the text format of metrics.

    Returns:
        Labels (`__name__` among them) and value of every sample.

    Raises:
        ValueError: It is not that format.
    """
    families = text_string_to_metric_families(text)
    return [({"__name__": s.name, **s.labels}, float(s.value)) for family in families for s in family.samples]


class Scraper:
    """Writes what targets say into the store.

    Args:
        store: Where samples go.
        targets: Whom to ask.
        clock: The time.
    """

    def __init__(self, store: Store, targets: list[Target], clock: Clock | None = None) -> None:
        self.store, self.targets, self.clock = store, targets, clock or SystemClock()

    def is_ready(self) -> bool:
        """Tell whether every target was asked once."""
        return all(target.attempts for target in self.targets)

    def record(self, target: Target, at_ms: int, seconds: float, samples: list[Sample] | None) -> None:
        """Write one scrape; series that are gone, or all of them when it failed (None), end here."""
        keys = {self.store.append(_relabel(target, labels), at_ms, value) for labels, value in samples or []}
        self.store.end(target.last - keys, at_ms)
        target.last = keys
        target.attempts += 1
        about = {"up": float(samples is not None), "scrape_duration_seconds": seconds}
        about["scrape_samples_scraped"] = float(len(samples or []))
        for name, value in about.items():
            self.store.append({"__name__": name, **target.labels}, at_ms, value)

    async def scrape(self, target: Target) -> None:
        """Ask one target once."""
        at_ms, began = round(self.clock.now().timestamp() * 1000), self.clock.monotonic()
        headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
        try:
            client = AsyncHTTPClient()
            answer = await client.fetch(target.url, headers=headers, request_timeout=INTERVAL_S, follow_redirects=False)
            samples: list[Sample] | None = read_samples(answer.body.decode())
        except (HTTPClientError, OSError, ValueError):
            samples = None
        self.record(target, at_ms, self.clock.monotonic() - began, samples)

    async def keep_scraping(self, target: Target) -> None:
        """Ask one target every second, for ever."""
        while True:
            began = self.clock.monotonic()
            await self.scrape(target)
            await self.clock.sleep(max(0.05, INTERVAL_S - (self.clock.monotonic() - began)))

    async def keep_forgetting(self) -> None:
        """Drop what is too old every 10 s, for ever."""
        while True:
            await self.clock.sleep(10)
            self.store.forget_old(round(self.clock.now().timestamp() * 1000))


def _relabel(target: Target, labels: dict[str, str]) -> dict[str, str]:
    """Add the target's labels; a sample's own label of the same name is kept as `exported_…`."""
    kept = {f"exported_{name}" if name in target.labels else name: value for name, value in labels.items()}
    return kept | target.labels


def sandbox_targets(layout: Layout) -> list[Target]:
    """List what is scraped in a sandbox."""
    found = [
        Target(f"http://127.0.0.1:{layout.instance_port(name)}/metrics", _labels(SERVICE, name)) for name in INSTANCES
    ]
    balancer = f"http://127.0.0.1:{layout.balancer_admin}/metrics"
    return [*found, Target(balancer, _labels("balancer", "balancer"), layout.token())]


def _labels(service: str, instance: str) -> dict[str, str]:
    return {"job": "sandbox", "service": service, "instance": instance}


async def serve_metrics(layout: Layout, stop: asyncio.Event) -> None:
    """Run the metrics process until it is told to stop."""
    AsyncHTTPClient.configure(None, max_clients=50)
    scraper = Scraper(Store(), sandbox_targets(layout))
    server = listen(metrics_application(scraper.store, scraper.is_ready), layout.metrics)
    jobs = [asyncio.create_task(scraper.keep_scraping(target)) for target in scraper.targets]
    jobs.append(asyncio.create_task(scraper.keep_forgetting()))
    await stop.wait()
    server.stop()
    for job in jobs:
        job.cancel()
