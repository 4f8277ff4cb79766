"""The balancer: drained members get nothing new, dead ones are skipped, the last one stays."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from rbkit.sandbox.balancer import LastMember, Member, Members

from .conftest import World


def members_of(*states: tuple[str, bool], file: Path | None = None) -> Members:
    """Return members m0, m1 … with these states and health."""
    return Members([Member(f"m{i}", i, state, healthy) for i, (state, healthy) in enumerate(states)], file)


def test_members_take_turns() -> None:
    """Requests go round among those that are ready and healthy."""
    members = members_of(("ready", True), ("drain", True), ("ready", False), ("ready", True))
    chosen = [members.choose(set()) for _ in range(4)]
    assert sorted(member.name for member in chosen if member) == ["m0", "m0", "m3", "m3"]
    assert members.choose({"m0", "m3"}) is None


@pytest.mark.parametrize(
    ("others", "refused"), [([("ready", True)], False), ([("drain", True)], True), ([("ready", False)], True)]
)
def test_the_last_member_that_serves_cannot_be_drained(others: list[tuple[str, bool]], refused: bool) -> None:
    """Draining is refused when nobody else is ready and healthy."""
    members = members_of(("ready", True), *others)
    member = members.all()[0]
    if refused:
        with pytest.raises(LastMember, match="would leave no member"):
            members.set_state(member, "drain")
        assert member.state == "ready"
    else:
        members.set_state(member, "drain")
        assert member.state == "drain"


def test_admin_states_survive_the_balancer(tmp_path: Path) -> None:
    """A drained member stays drained when the balancer is started again."""
    members = members_of(("ready", True), ("ready", True), file=tmp_path / "members.json")
    members.set_state(members.all()[0], "drain")
    again = members_of(("ready", True), ("ready", True), file=tmp_path / "members.json")
    assert [member.state for member in again.all()] == ["drain", "ready"]


def test_shapes(world: World) -> None:
    """Members have exactly the agreed fields; another service has none."""
    status, body = world.balancer("GET", "/members?service=checkout")
    assert status == 200 and len(body["members"]) == 3
    assert set(body["members"][0]) == {"name", "service", "state", "healthy", "active", "requests"}
    assert world.balancer("GET", "/members?service=other")[1] == {"members": []}


@pytest.mark.parametrize("path", ["/members", "/members/checkout-1", "/log", "/metrics", "/nothing"])
def test_the_admin_api_needs_the_token(world: World, path: str) -> None:
    """Without the token there is no answer."""
    assert world.request(world.layout.balancer_admin, "GET", path)[0] == 401


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("checkout-9", {"state": "drain"}, 404), ("checkout-1", {"state": "gone"}, 400), ("checkout-1", "x", 400),
     ("checkout-1", {"state": ["drain"]}, 400), ("checkout-1", {}, 400)],
)  # fmt: skip
def test_wrong_changes_are_refused(world: World, path: str, body: object, status: int) -> None:
    """Wrong names and states change nothing."""
    assert world.balancer("PUT", f"/members/{path}", body)[0] == status
    assert world.member("checkout-1")["state"] == "ready"


def test_a_drained_member_gets_no_new_requests(healed: World) -> None:
    """After the answer its count stands still while the others' grow; in the log is the change."""
    assert healed.balancer("PUT", "/members/checkout-2", {"state": "drain"}, key="d")[0] == 200
    before, other = healed.member()["requests"], healed.member("checkout-1")["requests"]
    healed.until(lambda: healed.member("checkout-1")["requests"] > other + 10)
    assert healed.member()["requests"] == before
    entry = healed.balancer("GET", "/log")[1]["requests"][-1]
    assert (entry["method"], entry["path"], entry["key"], entry["status"]) == ("PUT", "/members/checkout-2", "d", 200)


def test_requests_in_flight_finish(healed: World) -> None:
    """A request that was given to a member before it was drained is answered."""
    healed.ask("POST", "/faults", {"fault": "latency"})
    for name in ("checkout-1", "checkout-3"):
        healed.balancer("PUT", f"/members/{name}", {"state": "drain"})
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(healed.request(healed.layout.balancer, "GET", "/work")[0]))
    waiting.start()
    healed.until(lambda: healed.member()["active"] > 0)
    healed.balancer("PUT", "/members/checkout-1", {"state": "ready"})
    assert healed.balancer("PUT", "/members/checkout-2", {"state": "drain"})[0] == 200
    healed.until(lambda: healed.member()["active"] == 0)
    waiting.join(30)
    assert answers == [200]


def test_the_last_member_is_kept(healed: World) -> None:
    """The third drain is refused with 409."""
    for name in ("checkout-1", "checkout-2"):
        assert healed.balancer("PUT", f"/members/{name}", {"state": "drain"})[0] == 200
    status, body = healed.balancer("PUT", "/members/checkout-3", {"state": "drain"})
    assert (status, body["error"]) == (409, "refused") and "would leave no member" in body["message"]
    assert healed.member("checkout-3")["state"] == "ready"


def test_a_dead_member_is_skipped_and_keeps_its_state(healed: World) -> None:
    """While an instance is gone every request is still answered, and it is still `ready`."""
    healed.ask("POST", "/services/checkout-2/stop")
    assert {healed.request(healed.layout.balancer, "GET", "/work")[0] for _ in range(9)} == {200}
    healed.until(lambda: not healed.member()["healthy"])
    assert healed.member()["state"] == "ready"


def test_the_balancer_comes_back_with_its_states(healed: World) -> None:
    """Killed with -9 it is started again, and the drained member is still drained."""
    healed.balancer("PUT", "/members/checkout-1", {"state": "drain"})
    old = next(p for p in psutil.process_iter() if is_balancer(p, healed))
    os.kill(old.pid, signal.SIGKILL)
    healed.until(lambda: not psutil.pid_exists(old.pid))
    healed.until(lambda: healed.balancer_answers() and healed.member("checkout-3")["healthy"])
    assert healed.member("checkout-1")["state"] == "drain"


def is_balancer(process: psutil.Process, world: World) -> bool:
    """Tell whether a process is this sandbox's balancer."""
    try:
        return {"balancer", str(world.layout.home)} <= set(process.cmdline())
    except psutil.Error:
        return False
