"""HAProxy against commands that it refuses, and against sockets that answer as HAProxy never would."""

import asyncio
import socket
import string
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pings import pinged
from servers.haproxy import Balancer, haproxy

from rbkit.adapters import haproxy as module
from rbkit.adapters.haproxy import HAProxy
from rbkit.costs import counted
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call

STATES = (
    "1\n# be_id be_name srv_id srv_name srv_op_state srv_admin_state srv_uweight\n"
    "3 web 1 web-1 2 0 1\n3 web 2 web-2 2 0 1\n\n"
)
STATS = "# pxname,svname,qcur,scur,stot,\nweb,web-1,1,2,9,\nweb,web-2,0,0,0,\n\n"
DRAIN = Call(capability="balancer", action="drain", target="web-1")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """An HAProxy with two backends that have servers of the same name, one that follows another, one unresolved."""
    backends = {
        "web": {"web-1": "127.0.0.1:1", "both": "127.0.0.1:2"},
        "api": {"api-1": "127.0.0.1:3", "both": "127.0.0.1:4"},
        "tracking": {"first": "127.0.0.1:5 check", "second": "127.0.0.1:6 track tracking/first"},
    }
    with haproxy(tmp_path_factory.mktemp("haproxy"), backends) as running:
        yield running


@pytest.fixture(autouse=True)
def _again(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make every server ready again."""
    yield
    if "real" in request.fixturenames:
        running = request.getfixturevalue("real")
        for server in ("web/web-1", "web/both", "api/api-1", "api/both", "tracking/first"):
            running.say(f"set server {server} state ready")
            running.say(f"set server {server} weight 1")


def run(address: object, work: Callable[[HAProxy], Awaitable[Any]], **options: Any) -> Any:
    """Run a coroutine with an adapter."""

    async def closed() -> Any:
        adapter = HAProxy(str(address), **options)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(closed())


def change(address: object, action: str, target: str) -> None:
    """Change a member."""
    call = Call(capability="balancer", action=action, target=target)
    run(address, lambda b: b.apply(call, "key", 1))


def answered(folder: Path, replies: list[bytes], work: Callable[[HAProxy], Awaitable[Any]], **how: bool) -> Any:
    """Run a coroutine with a socket that gives these answers, one to each connection, and perhaps resets the last."""
    path, left = folder / "s", list(replies)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(left.pop(0))
        await writer.drain()
        if how.get("silent") and not left:
            await reader.read()
        writer.close()

    async def closed() -> Any:
        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_unix_server(
            lambda reader, writer: tasks.append(asyncio.ensure_future(answer(reader, writer))), path
        )
        async with server:
            try:
                return await work(HAProxy(str(path)))
            finally:
                await asyncio.gather(*tasks)

    return asyncio.run(closed())


def test_names_that_stand_in_two_backends_carry_the_backend(real) -> None:
    """A member that two backends could mean is named with its backend; the bare name is not found."""
    assert [m.name for m in run(real.socket, lambda b: b.members("web"))] == ["web-1", "web/both"]
    change(real.socket, "drain", "api/both")
    assert [m.state for m in run(real.socket, lambda b: b.members("web"))] == ["ready", "ready"]
    assert run(real.socket, lambda b: b.state("api/both"))["state"] == "drain"
    with pytest.raises(NotFound, match="'both'"):
        run(real.socket, lambda b: b.state("both"))


def test_only_configured_backends_are_seen(real) -> None:
    """With `backends`, what belongs to others is neither shown nor changed, and names need to be unique only there."""
    options = {"backends": {"shop": "web"}}
    assert [m.name for m in run(real.socket, lambda b: b.members("shop"), **options)] == ["web-1", "both"]
    assert run(real.socket, lambda b: b.members("web"), **options) == []
    with pytest.raises(NotFound):
        run(real.socket, lambda b: b.state("api-1"), **options)


def test_the_socket_may_be_reached_over_tcp(real) -> None:
    """`host:port` works as a path does."""
    change(real.admin, "drain", "web-1")
    assert run(real.admin, lambda b: b.state("web-1"))["state"] == "drain"


@pytest.mark.parametrize("action", ["drain", "ready"])
def test_a_member_in_maintenance_is_left_alone(real, action) -> None:
    """Somebody has taken it out: it is shown so and not touched, as rbkit could not bring it back to that."""
    real.say("set server web/web-1 state maint")
    shown = run(real.socket, lambda b: b.state("web-1"))
    assert (shown["state"], shown["healthy"]) == ("maint", False)
    with pytest.raises(Refused, match="in maintenance"):
        change(real.socket, action, "web-1")
    assert run(real.socket, lambda b: b.state("web-1")) == shown


def test_a_member_without_weight_counts_as_drained_and_cannot_be_made_ready(real) -> None:
    """It gets no new requests; `ready` would not change that, so it says so instead of waiting in vain."""
    real.say("set server web/web-1 weight 0")
    assert run(real.socket, lambda b: b.state("web-1"))["state"] == "drain"
    with pytest.raises(Refused, match="weight 0"):
        change(real.socket, "ready", "web-1")


def test_a_member_that_follows_a_drained_one_cannot_be_made_ready(real) -> None:
    """Its drain is inherited: only the server that it follows can end it."""
    change(real.socket, "drain", "first")
    assert run(real.socket, lambda b: b.state("second"))["state"] == "drain"
    with pytest.raises(Refused, match="follows another"):
        change(real.socket, "ready", "second")


def test_the_last_member_counts_only_healthy_ones(real) -> None:
    """A member that is ready and dead carries no traffic: the last one that can is not drained."""
    real.say("set server web/both state maint")
    with pytest.raises(Refused, match="leave no member"):
        change(real.socket, "drain", "web-1")


def test_a_socket_without_the_right_level_refuses(real) -> None:
    """HAProxy's own words are shown, and nothing changes."""
    with pytest.raises(Refused, match="Permission denied"):
        change(f"{real.socket}.operator", "drain", "web-1")
    assert run(real.socket, lambda b: b.state("web-1"))["state"] == "ready"


@pytest.mark.parametrize("target", ["web-1;show info", "web-1 state ready", "web-1\nset weight", "#1", "", "web/web-1"])
def test_a_target_is_never_written_into_a_command(real, target) -> None:
    """Only a name that HAProxy has listed itself goes into a command; anything else is not found."""
    with pytest.raises(NotFound):
        change(real.socket, "drain", target)


@given(st.text(), st.text())
def test_a_name_that_could_end_a_command_is_never_taken_over(backend, server) -> None:
    """Whatever a socket lists: a name that is used has only characters that HAProxy allows in one."""
    states = STATES.replace("web-1", server).replace("web ", f"{backend} ")
    stats = STATS.replace("web-1", server).replace("web,", f"{backend},")
    try:
        found = module._parsed(states + stats)
    except (ValueError, KeyError, module.csv.Error):
        return
    assert all(set(one.backend + one.name) <= set(string.ascii_letters + string.digits + "_.:-") for one in found)


def test_what_is_under_way_counts_what_waits(tmp_path) -> None:
    """Requests that wait for the member in its queue are under way, too."""
    shown = answered(tmp_path, [(STATES + STATS).encode()], lambda b: b.state("web-1"))
    assert shown == {
        "name": "web-1", "service": "web", "state": "ready", "healthy": True, "active": 3, "requests": 9,
    }  # fmt: skip


@pytest.mark.parametrize("state", [("0", False), ("1", True), ("2", True), ("3", False)])
def test_health_is_the_operational_state(tmp_path, state) -> None:
    """Stopped and stopping servers are not healthy; starting and running ones are."""
    text = (STATES + STATS).replace("web-1 2", f"web-1 {state[0]}")
    assert answered(tmp_path, [text.encode()], lambda b: b.state("web-1"))["healthy"] is state[1]


@pytest.mark.parametrize(
    "text",
    [
        "\n", "Permission denied\n\n", "2" + STATES[1:] + STATS, STATES, STATES.replace("# ", "") + STATS,
        STATES + STATS.replace("# ", ""), STATES + STATS.replace("web-1", "web-3"),
        STATES + STATS.replace(",2,9", ",2"),
        STATES.replace("srv_name", "name") + STATS, STATES.replace("web-1 2 0 1", "web-1 2 x 1") + STATS,
        STATES.replace("web-1 2 0 1", "web-1 2") + STATS, STATES + STATS.replace(",1,2,", ",,2,"),
        (STATES + STATS).replace("web-1", "web;1"), (STATES + STATS).replace("web-1", "w\x001"),
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_a_bad_answer(tmp_path, text) -> None:
    """What does not look like the two tables is refused, never half read."""
    with pytest.raises(BadAnswer, match="unknown form"):
        answered(tmp_path, [text.encode()], lambda b: b.members("web"))


@pytest.mark.parametrize("data", [b"", b"1\n# be", (STATES + STATS).encode()[:-1]])
def test_an_answer_that_was_cut_is_no_answer(tmp_path, data) -> None:
    """Reading: unreachable, so that it is asked again. Changing: it may have acted."""
    with pytest.raises(Unreachable, match="cut"):
        answered(tmp_path, [data], lambda b: b.members("web"))
    (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(MayHaveActed, match="did not answer"):
        answered(tmp_path, [(STATES + STATS).encode(), data], lambda b: b.apply(DRAIN, "key", 1))


def test_a_socket_that_falls_silent_is_given_up(tmp_path, monkeypatch) -> None:
    """The deadline ends a read as unreachable, and a change as a doubt."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    with pytest.raises(Unreachable, match="did not answer"):
        answered(tmp_path, [b"1\n"], lambda b: b.members("web"), silent=True)
    (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(MayHaveActed, match="did not answer"):
        answered(tmp_path, [(STATES + STATS).encode(), b""], lambda b: b.apply(DRAIN, "key", 1), silent=True)


def test_a_reset_leaves_a_doubt(tmp_path) -> None:
    """A connection that is torn down after the command was taken: it may have acted."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line.startswith(b"show"):
            writer.write((STATES + STATS).encode())
        else:
            option = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            await HAProxy(f"{host}:{port}").apply(DRAIN, "key", 1)

    with pytest.raises(MayHaveActed, match="did not answer"):
        asyncio.run(work())


def test_an_answer_without_end_is_cut_off(tmp_path) -> None:
    """More than the environment file allows: a bad answer when reading, a doubt when changing."""
    most = len(STATES + STATS)
    for replies, kind, work in (
        ([b"x" * (most + 1)], BadAnswer, lambda b: b.members("web")),
        ([(STATES + STATS).encode(), b"x"], MayHaveActed, lambda b: b.apply(DRAIN, "key", 1)),
    ):
        (tmp_path / "s").unlink(missing_ok=True)
        with counted(most), pytest.raises(kind, match="more than"):
            answered(tmp_path, replies, work)


@pytest.mark.parametrize("said", [b"\xff\xfe\n\n", b"\x00\x01\n\n"])
def test_nonsense_is_no_refusal(tmp_path, said) -> None:
    """What no HAProxy says leaves a doubt: nobody knows who has answered, and what became of the command."""
    with pytest.raises(MayHaveActed, match="no HAProxy"):
        answered(tmp_path, [(STATES + STATS).encode(), said], lambda b: b.apply(DRAIN, "key", 1))


@pytest.mark.parametrize("address", ["/no/such.sock", f"/{'x' * 200}/s", "127.0.0.1:1", "no-such-host.invalid:1"])
def test_nobody_there_is_unreachable(address) -> None:
    """No socket, a path that is too long, a closed port, an unknown host: it was never reached."""
    with pytest.raises(Unreachable, match="not reached"):
        run(address, lambda b: b.members("web"))


@pytest.mark.parametrize(
    ("address", "backends"),
    [("haproxy", None), ("host:port", None), ("/s", {"a": "x", "b": "x"}), ("/s", {"a": "x;y"}), ("/s", {"a": ""})],
)
def test_settings_that_cannot_be_meant_so_are_refused(address, backends) -> None:
    """A socket is a path or host and port; each service has a backend of its own, with a name that can be one."""
    with pytest.raises(SettingsError, match="haproxy"):
        HAProxy(address, backends)


def test_ping_says_which_level_the_socket_has(real, tmp_path) -> None:
    """A socket of another level shows everything and changes nothing: that is told."""
    assert "level admin; reads and writes" in pinged(HAProxy(str(real.socket)))
    assert "changes need a socket of level admin" in pinged(HAProxy(f"{real.socket}.operator"))
    with pytest.raises(Unreachable):
        pinged(HAProxy(str(tmp_path / "no-such")))


@pytest.mark.parametrize("reply", [b"\n", b"Unknown command\n\n", b"Version: 2.6\n\nwizard\n\n"])
def test_ping_of_something_else_is_a_bad_answer(tmp_path, reply) -> None:
    """What answers is no HAProxy that we know."""
    with pytest.raises(BadAnswer, match="did not say"):
        answered(tmp_path, [reply], lambda one: one.ping())
