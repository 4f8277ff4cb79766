"""A real sandbox for each test module, and the few questions that tests ask it."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from rbkit.sandbox import lifecycle
from rbkit.sandbox.layout import INSTANCES, Layout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make warnings errors here, and let nothing hang."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
            item.add_marker(pytest.mark.timeout(60))


@dataclass(frozen=True)
class World:
    """One running sandbox."""

    home: Path
    layout: Layout

    def request(
        self, port: int, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request and return status and JSON (or text)."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            sent = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
            connection.request(method, path, body=sent, headers=headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text[:1] in "{[" and text else text

    def ask(self, method: str, path: str, body: object = None, key: str = "", token: object = "") -> tuple[int, Any]:
        """Ask the supervisor with the bearer token."""
        return self.request(self.layout.port, method, path, body, self.headers(key, token))

    def balancer(
        self, method: str, path: str, body: object = None, key: str = "", token: object = ""
    ) -> tuple[int, Any]:
        """Ask the balancer's admin API with the bearer token."""
        return self.request(self.layout.balancer_admin, method, path, body, self.headers(key, token))

    def balancer_answers(self) -> bool:
        """Tell whether the balancer's admin API answers."""
        try:
            return self.balancer("GET", "/members")[0] == 200
        except OSError:
            return False

    def headers(self, key: str = "", token: object = "") -> dict[str, str]:
        """Return the bearer token, and the idempotency key and the fencing token when there are some."""
        sent = {"Idempotency-Key": key, "Fencing-Token": str(token)}
        return {"Authorization": f"Bearer {self.layout.token()}"} | {name: text for name, text in sent.items() if text}

    def service(self, name: str = "checkout-2") -> dict[str, Any]:
        """Return what the supervisor says about an instance."""
        return dict(self.ask("GET", f"/services/{name}")[1])

    def member(self, name: str = "checkout-2") -> dict[str, Any]:
        """Return what the balancer says about a member."""
        return dict(self.balancer("GET", f"/members/{name}")[1])

    def metrics(self, path: str, **parameters: str) -> tuple[int, Any]:
        """Ask the metrics server."""
        return self.request(self.layout.metrics, "GET", f"{path}?{urlencode(parameters)}")

    def metrics_form(self, path: str, **parameters: str) -> tuple[int, Any]:
        """Ask the metrics server with a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request(self.layout.metrics, "POST", path, urlencode(parameters), kind)

    def query(self, query: str) -> list[Any]:
        """Return the result of a query."""
        status, body = self.metrics("/api/v1/query", query=query)
        assert status == 200, body
        return list(body["data"]["result"])

    def samples(self, name: str) -> dict[str, float]:
        """Return what an instance's own /metrics says, by series."""
        _, text = self.request(self.layout.instance_port(name), "GET", "/metrics")
        rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in rows}

    def work(self, name: str) -> tuple[int, Any]:
        """Send one request straight to an instance."""
        return self.request(self.layout.instance_port(name), "GET", "/work")

    def heal(self) -> None:
        """Make everything well."""
        assert self.ask("DELETE", "/faults") == (200, {"faults": []})
        self.until(lambda: all(self.member(name)["healthy"] for name in INSTANCES))

    @staticmethod
    def until(condition: Callable[[], object], within_s: float = 25.0) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A sandbox that runs while the module's tests do."""
    home = tmp_path_factory.mktemp("world") / "sandbox"
    status = lifecycle.up(home, lifecycle.free_base_port())
    layout = Layout(home.resolve(), status.port)
    yield World(home, layout)
    lifecycle.down(home)
    assert "Traceback" not in layout.supervisor_log.read_text()


@pytest.fixture
def healed(world: World) -> Iterator[World]:
    """The module's sandbox, made well again after the test."""
    yield world
    world.heal()
