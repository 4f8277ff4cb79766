"""The supervisor's admin API: shapes, the token, the idempotency key, deployments, the log."""

import pytest

from .conftest import World

KEYS = {"name", "service", "state", "pid", "started_at", "version", "port", "restarts", "exit_code"}
ADDRESSES = ["/services", "/services/checkout-1", "/deployments/checkout", "/faults", "/log", "/nothing"]


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic x", "Bearer é"])
def test_nothing_is_answered_without_the_token(world: World, path: str, given: str) -> None:
    """Every address answers 401 without the right token."""
    headers = {"Authorization": given.encode().decode("latin-1")} if given else {}
    status, body = world.request(world.layout.port, "GET", path, headers=headers)
    assert (status, body["error"]) == (401, "unauthorized")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "127.0.0.1@evil"])
def test_a_foreign_host_is_refused(world: World, host: str) -> None:
    """A page that rebinds its name to loopback gets nothing, even with the token."""
    for port in (world.layout.port, world.layout.balancer_admin, world.layout.metrics):
        status, _ = world.request(port, "GET", "/services", headers=world.headers() | {"Host": host})
        assert status in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:99", "[::1]:8650"])
def test_loopback_hosts_are_answered(world: World, host: str) -> None:
    """The names of loopback are all right."""
    assert world.request(world.layout.port, "GET", "/services", headers=world.headers() | {"Host": host})[0] == 200


def test_services_have_the_agreed_shape(world: World) -> None:
    """Three instances, each with exactly the agreed fields."""
    _, body = world.ask("GET", "/services")
    assert [service["name"] for service in body["services"]] == ["checkout-1", "checkout-2", "checkout-3"]
    assert all(set(service) == KEYS and service["state"] == "running" for service in body["services"])
    assert world.service("checkout-1") == body["services"][0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/services/checkout-9", None, 404),
        ("POST", "/services/checkout-9/restart", {}, 404),
        ("POST", "/services/checkout-1/explode", {}, 404),
        ("GET", "/deployments/other", None, 404),
        ("PUT", "/deployments/other", {"version": "v1"}, 404),
        ("PUT", "/deployments/checkout", {"version": "v9"}, 400),
        ("PUT", "/deployments/checkout", {"version": ["v1"]}, 400),
        ("PUT", "/deployments/checkout", "not json", 400),
        ("PUT", "/deployments/checkout", "[]", 400),
        ("POST", "/faults", {"fault": "nonsense"}, 400),
        ("POST", "/faults", {"fault": {}}, 400),
        ("POST", "/faults", {"fault": "latency", "target": "checkout-9"}, 404),
        ("POST", "/faults", {"fault": "bad-deploy", "target": "checkout-1"}, 400),
        ("DELETE", "/services", None, 405),
    ],
)
def test_what_does_not_exist_is_refused(world: World, method: str, path: str, body: object, status: int) -> None:
    """Wrong names, versions, verbs and bodies get a JSON error and change nothing."""
    before = world.ask("GET", "/services")
    found, answer = world.ask(method, path, body)
    assert found == status and set(answer) == {"error", "message"}
    assert world.ask("GET", "/services") == before


def test_an_unknown_fault_lists_the_known(world: World) -> None:
    """The error says what there is."""
    assert "memory-leak" in world.ask("POST", "/faults", {"fault": "x"})[1]["message"]


def test_restart_gives_a_new_process(world: World) -> None:
    """The answer comes when the new process is healthy."""
    before = world.service()
    status, after = world.ask("POST", "/services/checkout-2/restart")
    assert status == 200 and after["state"] == "running"
    assert after["pid"] != before["pid"] and after["restarts"] == before["restarts"] + 1
    assert world.work("checkout-2")[0] == 200


def test_stop_and_start_are_idempotent(world: World) -> None:
    """A stopped instance has no process; stopping or starting twice does no more than once."""
    for _ in range(2):
        status, stopped = world.ask("POST", "/services/checkout-2/stop")
        assert (status, stopped["state"], stopped["pid"], stopped["exit_code"]) == (200, "stopped", None, 0)
    assert world.ask("POST", "/faults", {"fault": "memory-leak"})[0] == 409
    _, first = world.ask("POST", "/services/checkout-2/start")
    _, second = world.ask("POST", "/services/checkout-2/start")
    assert first["state"] == "running" and first["pid"] == second["pid"]


def test_a_repeated_key_acts_once(world: World) -> None:
    """The same key returns the first answer; the process stays; another request under that key is refused."""
    _, first = world.ask("POST", "/services/checkout-3/restart", key="once")
    assert world.ask("POST", "/services/checkout-3/restart", key="once") == (200, first)
    assert world.service("checkout-3")["pid"] == first["pid"]
    assert world.ask("POST", "/services/checkout-1/restart", key="once")[0] == 422
    assert world.ask("POST", "/services/checkout-3/restart", key="twice")[1]["pid"] != first["pid"]


def test_the_log_names_every_change_in_order(world: World) -> None:
    """Each change that was asked for is there with its key and status; reads are not."""
    world.ask("POST", "/services/checkout-9/stop", key="k1")
    world.ask("POST", "/services/checkout-3/start", key="k2")
    world.ask("GET", "/services")
    last = world.ask("GET", "/log")[1]["requests"][-2:]
    assert [(entry["method"], entry["path"], entry["key"], entry["status"]) for entry in last] == [
        ("POST", "/services/checkout-9/stop", "k1", 404),
        ("POST", "/services/checkout-3/start", "k2", 200),
    ]
    assert last[1]["seq"] == last[0]["seq"] + 1 and last[0]["time"].endswith("Z")


def test_a_deployment_replaces_every_instance(world: World) -> None:
    """After the answer each instance runs the version; deploying it again replaces nothing."""
    shape = {"service": "checkout", "available": ["v1", "v2"], "rolling": False}
    assert world.ask("PUT", "/deployments/checkout", {"version": "v2"}) == (200, shape | {"version": "v2"})
    _, rolled = world.ask("GET", "/services")
    assert {service["version"] for service in rolled["services"]} == {"v2"}
    world.ask("PUT", "/deployments/checkout", {"version": "v2"})
    assert world.ask("GET", "/services")[1] == rolled
    assert world.ask("PUT", "/deployments/checkout", {"version": "v1"})[1] == shape | {"version": "v1"}
    assert world.service()["version"] == "v1"
