"""Fencing: who was shut out can do nothing any more, to either server, and the servers' own logs prove it."""

import http.client
import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rbkit.sandbox import lifecycle
from rbkit.sandbox.fence import Fence, read_token
from rbkit.sandbox.layout import Layout
from rbkit.sandbox.processes import birth, of_sandbox
from rbkit.sandbox.web import Refusal

from .conftest import World

TOKENS = count(1)
UNFENCED = "checkout-3"
"""No test here comes with a token for this one."""
KEYS = (f"key-{number}" for number in count())


@dataclass(frozen=True)
class Server:
    """One of the two servers, and a change of a target that shows in its state."""

    world: World
    name: str

    def ask(self, method: str, path: str, body: object = None, key: str = "", token: object = "") -> tuple[int, Any]:
        """Send a request."""
        send = self.world.ask if self.name == "supervisor" else self.world.balancer
        return send(method, path, body, key, token)

    def act(self, target: str, *, key: str = "", token: object = "") -> tuple[int, Any]:
        """Stop the instance, or drain the member."""
        if self.name == "supervisor":
            return self.ask("POST", f"/services/{target}/stop", None, key, token)
        return self.ask("PUT", f"/members/{target}", {"state": "drain"}, key, token)

    def acted(self, target: str) -> bool:
        """Tell whether the instance is stopped, or the member drained."""
        one = self.world.service(target) if self.name == "supervisor" else self.world.member(target)
        return one["state"] in {"stopped", "drain"}

    def fence(self, target: str, token: object) -> tuple[int, Any]:
        """Announce a token."""
        return self.ask("PUT", f"/fence/{target}", {"token": token})

    def logged(self) -> dict[str, Any]:
        """Return the newest entry of the log."""
        return dict(self.ask("GET", "/log")[1]["requests"][-1])


@pytest.fixture(params=["supervisor", "balancer"])
def server(request: pytest.FixtureRequest, healed: World) -> Server:
    """Each of the two servers, well again after the test; the tokens that it has seen stay."""
    return Server(healed, request.param)


@pytest.mark.parametrize(
    ("given", "token"), [("1", 1), ("42", 42), ("9" * 18, 10**18 - 1), (7, 7), (10**18 - 1, 10**18 - 1)]
)
def test_a_token_is_a_whole_number_from_one_on(given: object, token: int) -> None:
    """The text of a header and a number of JSON are read alike."""
    assert read_token(given) == token


@pytest.mark.parametrize(
    "given",
    ["", "0", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "0x1", "1,2", "1_0", "١", "9" * 19, "1\n", "x", 0, -1, True,
     1.0, 10**18, None, [1], {}],
)  # fmt: skip
def test_what_is_no_token_is_refused(given: object) -> None:
    """Whatever else is sent is a 400."""
    with pytest.raises(Refusal) as caught:
        read_token(given)
    assert (caught.value.status_code, caught.value.error) == (400, "bad_token")


def test_nobody_needs_a_token_until_one_was_seen() -> None:
    """Without any token all pass; after one, lower ones and none at all do not, each with its own error."""
    fence = Fence()
    fence.admit("a", None)
    fence.admit("a", 5)
    fence.admit("a", 5)
    fence.admit("b", 1)
    for token, status, said in ((None, 428, "Fencing-Token: 5"), (4, 412, "token 4 for a is stale: 5")):
        for method in (fence.check, fence.admit):
            with pytest.raises(Refusal) as caught:
                method("a", token)
            assert caught.value.status_code == status and said in caught.value.message
    fence.check("a", 6)
    assert (fence.highest("a"), fence.highest("b"), fence.highest("c")) == (5, 1, None)


def test_tokens_survive_the_server_where_it_keeps_them(tmp_path: Path) -> None:
    """A fence with a file knows every token of the one before it; without a file it begins anew."""
    fence = Fence(tmp_path / "fence.json")
    for target, token in (("a", 3), ("b", 1), ("a", 4)):
        fence.admit(target, token)
    again = Fence(tmp_path / "fence.json")
    assert (again.highest("a"), again.highest("b")) == (4, 1)
    with pytest.raises(Refusal):
        again.admit("a", 3)
    assert Fence().highest("a") is None


def test_without_tokens_all_is_as_before(server: Server) -> None:
    """People at a shell need no token as long as nobody came with one."""
    assert server.ask("GET", f"/fence/{UNFENCED}") == (200, {"target": UNFENCED, "token": None})
    assert server.act(UNFENCED)[0] == 200 and server.acted(UNFENCED)


def test_a_stale_token_does_nothing(server: Server) -> None:
    """412 names both numbers; the state stays; the log shows token, key, status and that it did not act."""
    old, new = next(TOKENS), next(TOKENS)
    assert server.fence("checkout-2", new) == (200, {"target": "checkout-2", "token": new})
    key = next(KEYS)
    status, body = server.act("checkout-2", key=key, token=old)
    assert (status, body["error"], set(body)) == (412, "stale_token", {"error", "message"})
    assert f"token {old} " in body["message"] and f": {new} was seen" in body["message"]
    assert not server.acted("checkout-2")
    shown = {name: server.logged()[name] for name in ("key", "token", "status", "acted")}
    assert shown == {"key": key, "token": old, "status": 412, "acted": False}


def test_a_refused_request_does_not_use_its_key_up(server: Server) -> None:
    """The same key with a good token acts afterwards, and then once only."""
    old, new, key = next(TOKENS), next(TOKENS), next(KEYS)
    server.fence("checkout-2", new)
    assert [server.act("checkout-2", key=key, token=token)[0] for token in (old, new, new, old)] == [412, 200, 200, 412]
    entries = [entry for entry in server.ask("GET", "/log")[1]["requests"] if entry["key"] == key]
    assert [entry["acted"] for entry in entries] == [False, True, False, False]


def test_a_target_that_was_fenced_needs_a_token(server: Server) -> None:
    """Without one the answer is 428 with the header to send; with it a person can act; other targets need none."""
    token = next(TOKENS)
    server.fence("checkout-2", token)
    status, body = server.act("checkout-2")
    assert (status, body["error"]) == (428, "token_needed") and f"Fencing-Token: {token}" in body["message"]
    assert not server.acted("checkout-2") and server.act(UNFENCED)[0] == 200
    assert server.act("checkout-2", token=token)[0] == 200 and server.acted("checkout-2")


@pytest.mark.parametrize("token", ["0", "x", "-1", "1, 2", " ", "9" * 30])
def test_a_malformed_token_is_refused(server: Server, token: str) -> None:
    """400 before anything else; nothing is remembered and nothing done."""
    before = server.ask("GET", "/fence/checkout-1")
    status, body = server.act("checkout-1", token=token)
    assert (status, body["error"]) == (400, "bad_token") and not server.acted("checkout-1")
    assert server.ask("GET", "/fence/checkout-1") == before
    assert (server.logged()["token"], server.logged()["status"], server.logged()["acted"]) == (None, 400, False)


def test_a_fence_is_announced_without_acting(server: Server) -> None:
    """Announcing is idempotent, shows in the log, touches nothing, and a lower number than the known one is refused."""
    old, new = next(TOKENS), next(TOKENS)
    for _ in range(2):
        assert server.fence("checkout-1", new)[0] == 200
    assert server.ask("GET", "/fence/checkout-1")[1]["token"] == new
    entry = server.logged()
    assert (entry["method"], entry["path"], entry["token"], entry["status"], entry["acted"]) == (
        "PUT", "/fence/checkout-1", new, 200, False,
    )  # fmt: skip
    status, body = server.fence("checkout-1", old)
    assert (status, body["error"]) == (412, "stale_token") and server.logged()["token"] == old
    assert server.ask("GET", "/fence/checkout-1")[1]["token"] == new and not server.acted("checkout-1")


def test_the_log_says_what_acted(healed: World) -> None:
    """Restarts, drains, faults and heals act; what was refused, repeated or unknown did not."""
    tokens, key = [next(TOKENS) for _ in range(2)], next(KEYS)
    asked: list[tuple[Any, ...]] = [
        ("POST", "/services/checkout-1/restart", None, key, tokens[0], True),
        ("POST", "/services/checkout-1/restart", None, key, tokens[0], False),
        ("POST", "/services/checkout-1/restart", None, "", tokens[1], True),
        ("POST", "/services/checkout-9/restart", None, "", "", False),
        ("PUT", "/deployments/checkout", {"version": "v9"}, "", "", False),
        ("POST", "/faults", {"fault": "restart-refused", "target": "checkout-1"}, "", "", True),
        ("POST", "/services/checkout-1/restart", None, "", tokens[1], False),
        ("POST", "/services/checkout-1/start", None, "", tokens[1], True),
        ("POST", "/faults", {"fault": "nonsense"}, "", "", False),
        ("DELETE", "/faults", None, "", "", True),
    ]
    for method, path, body, key, token, _ in asked:
        healed.ask(method, path, body, key, token)
    log = healed.ask("GET", "/log")[1]["requests"][-len(asked) :]
    shown = [
        (entry["method"], entry["path"], entry["key"] or "", entry["token"] or "", entry["acted"]) for entry in log
    ]
    assert shown == [(method, path, key, token, acted) for method, path, _, key, token, acted in asked]


def test_the_balancers_log_says_what_acted(healed: World) -> None:
    """The last member's drain is refused and did not act."""
    token = next(TOKENS)
    for name, sent in (("checkout-1", token), ("checkout-2", token), (UNFENCED, "")):
        healed.balancer("PUT", f"/members/{name}", {"state": "drain"}, token=sent)
    log = healed.balancer("GET", "/log")[1]["requests"][-3:]
    assert [(entry["status"], entry["acted"]) for entry in log] == [(200, True), (200, True), (409, False)]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_only_what_there_is_can_be_fenced(server: Server, method: str) -> None:
    """An unknown target is 404, also with a token that is none."""
    status, body = server.ask(method, "/fence/checkout-9", {"token": "x"} if method == "PUT" else None)
    assert (status, body["error"]) == (404, "not_found") and "checkout-1" in body["message"]


@pytest.mark.parametrize("body", [None, {}, {"token": 0}, {"token": "x"}, {"token": None}, {"token": True}, [], "x"])
def test_a_fence_needs_a_number(server: Server, body: object) -> None:
    """A body without a good number is 400 and changes nothing."""
    before = server.ask("GET", "/fence/checkout-1")
    assert server.ask("PUT", "/fence/checkout-1", body)[0] == 400
    assert server.ask("GET", "/fence/checkout-1") == before


def test_a_fence_needs_the_bearer_token(server: Server) -> None:
    """Nobody without it can read or raise the number."""
    port = server.world.layout.port if server.name == "supervisor" else server.world.layout.balancer_admin
    for method in ("GET", "PUT"):
        assert server.world.request(port, method, "/fence/checkout-1", {"token": 10**17})[0] == 401


def test_break_and_heal_pass_every_fence_and_leave_it(server: Server) -> None:
    """The sandbox's own hand needs no token: it breaks and heals what is fenced, and the number stays."""
    token = next(TOKENS)
    server.act("checkout-2", token=token)
    lifecycle.heal(server.world.home)
    assert not server.acted("checkout-2") and server.ask("GET", "/fence/checkout-2")[1]["token"] == token
    lifecycle.break_(server.world.home, "restart-refused", "checkout-2")
    assert server.world.ask("DELETE", "/faults", token=1)[0] == 200
    assert server.act("checkout-2", token=token - 1)[0] == 412


def test_the_deployment_is_a_target_of_its_own(healed: World) -> None:
    """A stale roll is refused before the first instance is touched; the instances' numbers do not matter to it."""
    instance, old, new = next(TOKENS), next(TOKENS), next(TOKENS)
    assert healed.ask("PUT", "/fence/checkout-1", {"token": instance})[0] == 200
    assert healed.ask("PUT", "/fence/checkout", {"token": new})[0] == 200
    before = healed.ask("GET", "/services")
    assert healed.ask("PUT", "/deployments/checkout", {"version": "v2"}, token=old)[0] == 412
    assert healed.ask("GET", "/services") == before
    assert healed.ask("PUT", "/deployments/checkout", {"version": "v1"}, token=new)[0] == 200
    assert healed.balancer("PUT", "/fence/checkout", {"token": new})[0] == 404


def test_a_hanging_restart_never_comes_true(healed: World) -> None:
    """A restart that hung when a higher token came does nothing afterwards, nor does its repetition."""
    old, new, key = next(TOKENS), next(TOKENS), next(KEYS)
    healed.ask("POST", "/faults", {"fault": "restart-hangs", "target": "checkout-2"})
    before = healed.service("checkout-2")
    hung = http.client.HTTPConnection("127.0.0.1", healed.layout.port, timeout=30)
    hung.request("POST", "/services/checkout-2/restart", headers=healed.headers(key, old))
    healed.until(lambda: any(entry["key"] == key for entry in healed.ask("GET", "/log")[1]["requests"]))
    assert healed.ask("PUT", "/fence/checkout-2", {"token": new})[0] == 200
    healed.heal()
    assert healed.ask("POST", "/services/checkout-2/restart", key=key, token=old)[0] == 412
    hung.close()
    assert healed.service("checkout-2") == before
    entries = [entry for entry in healed.ask("GET", "/log")[1]["requests"] if entry["key"] == key]
    assert [(entry["token"], entry["status"], entry["acted"]) for entry in entries] == [
        (old, None, False),
        (old, 412, False),
    ]


def test_a_balancer_that_dies_still_knows_the_tokens(healed: World) -> None:
    """Killed with -9 and started again it refuses what it refused before."""
    old, new = next(TOKENS), next(TOKENS)
    assert healed.balancer("PUT", "/fence/checkout-1", {"token": new})[0] == 200
    process = of_sandbox(healed.layout.home)["balancer"]
    process.kill()
    healed.until(lambda: birth(process.pid) is None)
    healed.until(healed.balancer_answers)
    assert healed.balancer("PUT", "/members/checkout-1", {"state": "drain"}, token=old)[0] == 412
    assert healed.balancer("GET", "/fence/checkout-1")[1]["token"] == new


@pytest.mark.parametrize("killed", [True, False])
def test_a_new_sandbox_knows_no_tokens(tmp_path: Path, killed: bool) -> None:
    """After `down`, or when the supervisor was killed, `up` makes another world that nobody has fenced."""
    home = tmp_path / "sandbox"
    try:
        status = lifecycle.up(home, lifecycle.free_base_port())
        world = World(home, Layout(home.resolve(), status.port))
        for ask in (world.ask, world.balancer):
            assert ask("PUT", "/fence/checkout-1", {"token": 9})[0] == 200
        assert json.loads(world.layout.fence_file.read_text()) == {"checkout-1": 9}
        if killed:
            processes = of_sandbox(world.layout.home)
            processes["supervisor"].kill()
            world.until(lambda: all(birth(process.pid) is None for process in processes.values()))
        else:
            lifecycle.down(home)
            assert not world.layout.fence_file.exists()
        world = World(home, Layout(home.resolve(), lifecycle.up(home, status.port).port))
        assert [ask("GET", "/fence/checkout-1")[1]["token"] for ask in (world.ask, world.balancer)] == [None, None]
    finally:
        lifecycle.down(home)
