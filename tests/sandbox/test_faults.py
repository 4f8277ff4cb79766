"""Every fault really happens to a real process, and is really cured."""

import http.client
import json
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from rbkit.sandbox.ailments import CRASH_EXIT_CODE
from rbkit.sandbox.faults import FAULTS
from rbkit.sandbox.layout import INSTANCES

from .conftest import World


def make(world: World, fault: str, target: str | None = None) -> None:
    """Make a fault happen."""
    status, body = world.ask("POST", "/faults", {"fault": fault, "target": target})
    assert status == 200, body
    assert [found["fault"] for found in world.ask("GET", "/faults")[1]["faults"]] == [fault]


def fails(world: World, name: str) -> bool:
    """Tell whether one request to an instance failed."""
    return bool(world.work(name)[0] == 500)


def active(world: World) -> list[Any]:
    """Return the faults that hold."""
    return list(world.ask("GET", "/faults")[1]["faults"])


def test_memory_leak_takes_real_memory_until_the_restart(healed: World) -> None:
    """Resident memory as the operating system counts it grows, and a restart gives it back and ends the fault."""
    make(healed, "memory-leak")
    leaking = psutil.Process(healed.service()["pid"])
    healed.until(lambda: leaking.memory_info().rss > 90_000_000)
    healed.until(lambda: float(metric(healed, "process_resident_memory_bytes")) > 90e6)
    status, after = healed.ask("POST", "/services/checkout-2/restart")
    assert status == 200 and psutil.Process(after["pid"]).memory_info().rss < 60_000_000
    assert active(healed) == []


def metric(world: World, name: str) -> str:
    """Return a metric of checkout-2."""
    rows = world.query(f'{name}{{instance="checkout-2"}}')
    return rows[0]["value"][1] if rows else "0"


def test_latency_makes_requests_slow_until_heal(healed: World) -> None:
    """Requests take at least 0.8 s, also after a restart; only heal cures it."""
    make(healed, "latency", "checkout-1")
    healed.ask("POST", "/services/checkout-1/restart")
    healed.work("checkout-1")
    fast = 'http_request_duration_seconds_bucket{le="0.5"}'
    assert healed.samples("checkout-1")[fast] == 0
    healed.heal()
    healed.work("checkout-1")
    assert healed.samples("checkout-1")[fast] > 0


def test_errors_are_answered_counted_and_logged(healed: World) -> None:
    """500s are answered, appear in the metrics and as error lines with their trace."""
    make(healed, "errors")
    healed.until(lambda: healed.work("checkout-2")[0] == 500)
    assert healed.samples("checkout-2")['http_requests_total{code="500"}'] > 0
    lines = [json.loads(line) for line in healed.layout.log_file("checkout-2").read_text().splitlines()]
    failed = [line for line in lines if line.get("status") == 500]
    assert failed and failed[-1]["level"] == "error" and len(failed[-1]["trace_id"]) == 32
    spans = [json.loads(line) for line in healed.layout.span_file("checkout-2").read_text().splitlines()]
    assert {span["name"] for span in spans if span["trace_id"] == failed[-1]["trace_id"]} >= {"GET /work", "db.query"}


def test_crash_is_a_loop_of_real_exits(healed: World) -> None:
    """The process exits with 70 again and again and is started again; the balancer skips it; heal ends it."""
    make(healed, "crash")
    first = healed.service()
    healed.until(lambda: healed.service()["exit_code"] == CRASH_EXIT_CODE)
    healed.until(lambda: not healed.member()["healthy"])
    assert healed.member()["state"] == "ready"
    assert healed.request(healed.layout.balancer, "GET", "/work")[0] == 200
    healed.until(lambda: healed.service()["restarts"] >= first["restarts"] + 2)
    healed.heal()
    assert healed.service()["state"] == "running" and healed.member()["healthy"]


def test_bad_deploy_breaks_all_until_v1_is_deployed(healed: World) -> None:
    """Every instance runs v2 and really fails; deploying v1 cures it and ends the fault."""
    make(healed, "bad-deploy")
    assert healed.ask("GET", "/deployments/checkout")[1]["version"] == "v2"
    for name in INSTANCES:
        assert healed.samples(name)['app_info{version="v2"}'] == 1
        healed.until(partial(fails, healed, name))
    assert healed.ask("PUT", "/deployments/checkout", {"version": "v1"})[0] == 200
    assert active(healed) == [] and {healed.work(name)[0] for name in INSTANCES} == {200}


def test_pool_exhausted_leaves_no_slot_until_the_restart(healed: World) -> None:
    """Slot after slot is lost until requests wait and get 503; a restart cures it."""
    make(healed, "pool-exhausted")
    healed.until(lambda: healed.samples("checkout-2")['pool_connections{state="leaked"}'] == 10)
    status, body = healed.work("checkout-2")
    assert status == 503 and "pool exhausted" in body["message"]
    assert healed.samples("checkout-2")['pool_connections{state="idle"}'] == 0
    healed.ask("POST", "/services/checkout-2/restart")
    assert healed.work("checkout-2")[0] == 200 and active(healed) == []


@pytest.mark.parametrize(("target", "others"), [("checkout-2", 200), (None, 409)])
def test_restart_refused_is_a_plain_no(healed: World, target: str | None, others: int) -> None:
    """The restart is refused with 409 and nothing is touched: for the target, or for all."""
    make(healed, "restart-refused", target)
    before = healed.service()
    status, body = healed.ask("POST", "/services/checkout-2/restart")
    assert (status, body["error"]) == (409, "refused")
    assert healed.service() == before
    assert healed.ask("POST", "/services/checkout-1/restart")[0] == others


def test_restart_hangs_never_answers_and_does_nothing(healed: World) -> None:
    """A caller that waits gets nothing, the process stays, and the log shows a request without a status."""
    make(healed, "restart-hangs", "checkout-3")
    before = healed.service("checkout-3")
    connection = http.client.HTTPConnection("127.0.0.1", healed.layout.port, timeout=0.5)
    connection.request("POST", "/services/checkout-3/restart", headers=healed.headers("hung"))
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert healed.service("checkout-3") == before
    entry = next(e for e in healed.ask("GET", "/log")[1]["requests"] if e["key"] == "hung")
    assert entry["status"] is None
    healed.heal()
    assert healed.ask("POST", "/services/checkout-3/restart", key="hung")[1]["pid"] != before["pid"]


def test_heal_mends_whatever_was_done(healed: World) -> None:
    """Stopped, drained, on another version: after heal all is as at the start."""
    healed.ask("PUT", "/deployments/checkout", {"version": "v2"})
    healed.ask("POST", "/services/checkout-1/stop")
    healed.balancer("PUT", "/members/checkout-2", {"state": "drain"})
    healed.heal()
    services, members = healed.ask("GET", "/services")[1]["services"], healed.balancer("GET", "/members")[1]["members"]
    assert {(service["state"], service["version"]) for service in services} == {("running", "v1")}
    assert {(member["state"], member["healthy"]) for member in members} == {("ready", True)}


def test_every_fault_is_tested_here() -> None:
    """A fault that is added needs its test."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'make(healed, "{fault}"' in source for fault in FAULTS)
