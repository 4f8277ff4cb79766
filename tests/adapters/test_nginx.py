"""nginx when its file was changed by hand, when it refuses a file, when it is gone; and what is read from the file."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pings import pinged
from servers.nginx import Upstream, nginx

from rbkit.adapters import nginx as module
from rbkit.adapters.nginx import Nginx
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.facts import Call

NAMES = ["web-1", "web-2", "web-3"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """An nginx with an upstream of three members."""
    with nginx(tmp_path_factory.mktemp("nginx"), NAMES) as running:
        yield running


@pytest.fixture
def real(started: Upstream) -> Iterator[Upstream]:
    """An nginx whose members are all ready, before and after."""
    yield started
    started.write()
    started.reload()


def run(running: Upstream, work: Callable[[Nginx], Awaitable[Any]], **options: str) -> Any:
    """Run a coroutine with an adapter."""

    async def closed() -> Any:
        adapter = Nginx(**{**running.options, **options})
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(closed())


def change(running: Upstream, action: str, target: str, **options: str) -> None:
    """Change a member."""
    call = Call(capability="balancer", action=action, target=target)
    run(running, lambda b: b.apply(call, "key", 1), **options)


def states(running: Upstream) -> list[str]:
    """The members' states."""
    return [member.state for member in run(running, lambda b: b.members("checkout"))]


def test_a_drain_changes_one_line_and_the_note(real) -> None:
    """Comments, indents, options and other lines stay; only `down` and the note differ; the file's mode stays."""
    real.file.chmod(0o640)
    before = real.file.read_text().splitlines()
    change(real, "drain", "web-2")
    after = real.file.read_text().splitlines()
    differ = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    address = real.servers["web-2"]
    assert differ[1:] == [(f"    server {address}; # web-2", f"    server {address} down; # web-2")]
    assert differ[0][1] == differ[0][0].replace("/000", "/010")
    assert real.file.stat().st_mode & 0o777 == 0o640
    change(real, "ready", "web-2")
    assert real.file.read_text().splitlines() == before


def test_a_drained_member_gets_no_request(real, until) -> None:
    """What nginx really does is what the state says: the others answer, the drained one does not."""
    change(real, "drain", "web-2")
    until(lambda: run(real, lambda b: b.state("web-2"))["active"] == 0)
    found = {_get(real.port) for _ in range(12)}
    assert found == {"web-1", "web-3"}


def _get(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 5) as line:
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: line.recv(4096), b"")).decode().partition("\r\n\r\n")[2]


def test_old_workers_that_still_have_requests_are_counted(real, until) -> None:
    """A request that began before the drain keeps its old worker alive: the member is not idle before it has ended."""
    with socket.create_connection(("127.0.0.1", real.port), 5) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        until(lambda: _busy(real))
        change(real, "drain", "web-2")
        shown = run(real, lambda b: b.state("web-2"))
        assert (shown["state"], shown["active"]) == ("drain", 1)
        assert run(real, lambda b: b.state("web-1"))["active"] == -1
        line.sendall(b"cde")
        assert b"200" in line.recv(4096)
    until(lambda: run(real, lambda b: b.state("web-2"))["active"] == 0)


def _busy(running: Upstream) -> bool:
    """Whether a worker has taken a connection from outside."""
    workers = psutil.Process(running.master).children()
    return any(one.status == "ESTABLISHED" for worker in workers for one in worker.net_connections())


def test_a_file_that_nginx_has_not_loaded_is_not_believed(real) -> None:
    """A process died between writing the file and the reload: the member is still ready, and a repetition cures it."""
    real.write(down=["web-2"])
    assert states(real) == ["ready"] * 3
    change(real, "drain", "web-2")
    assert states(real) == ["ready", "drain", "ready"]


def test_a_change_that_was_not_loaded_can_be_taken_back(real) -> None:
    """Asked for what nginx runs anyway, rbkit puts the file right, so that a later reload changes nothing."""
    real.write(down=["web-2"])
    change(real, "ready", "web-2")
    assert " down;" not in real.file.read_text()
    assert states(real) == ["ready"] * 3


def test_somebody_elses_pending_change_is_not_loaded_by_accident(real) -> None:
    """The file holds a change of another member that nginx has not loaded: rbkit does not load it with its own."""
    real.write(down=["web-1"])
    with pytest.raises(Refused, match="web-1 that nginx has not loaded"):
        change(real, "drain", "web-2")
    assert states(real) == ["ready"] * 3


def test_a_file_that_was_changed_by_hand_is_said_with_the_note_that_fits(real) -> None:
    """A member that is down without the note saying so: nothing is believed or changed, and the way out is told."""
    real.file.write_text(real.file.read_text().replace("; # web-2", " down; # web-2"))
    with pytest.raises(BadAnswer, match=r'changed by hand.*default "[0-9a-f]{16}/010"'):
        states(real)
    with pytest.raises(BadAnswer, match="changed by hand"):
        change(real, "drain", "web-1")
    assert "web-1\n" in real.file.read_text()


def test_other_members_than_nginx_runs_are_said(real) -> None:
    """A member was added to the file, and nginx was not reloaded."""
    replace(real, servers={**real.servers, "web-4": "127.0.0.1:9"}).write()
    with pytest.raises(BadAnswer, match="runs other upstreams"):
        states(real)


def test_a_file_that_nginx_refuses_is_taken_back(real) -> None:
    """`nginx -t` says no: the old file is back, nothing was loaded, and the reason is shown."""
    broken = real.folder / "broken.conf"
    broken.write_text("nonsense;")
    before = real.file.read_bytes()
    with pytest.raises(Refused, match='refuses the file.*unknown directive "nonsense"'):
        change(real, "drain", "web-2", config=str(broken))
    assert real.file.read_bytes() == before and states(real) == ["ready"] * 3


@pytest.mark.parametrize("program", ["/no/such/nginx", "/etc/passwd"])
def test_a_test_that_cannot_be_made_refuses_the_change(real, program) -> None:
    """Without a test nothing is loaded."""
    before = real.file.read_bytes()
    with pytest.raises(Refused, match="cannot be told"):
        change(real, "drain", "web-2", program=program)
    assert real.file.read_bytes() == before


def test_a_test_that_does_not_end_is_killed(real, monkeypatch, tmp_path) -> None:
    """The deadline ends the test and takes the change back; no process is left behind."""
    monkeypatch.setattr(module, "TEST_S", 0.2)
    script = tmp_path / "slow"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    script.chmod(0o755)
    before = real.file.read_bytes()
    with pytest.raises(Refused, match="did not test the file within"):
        change(real, "drain", "web-2", program=str(script))
    assert real.file.read_bytes() == before
    pid = tmp_path / "pid"
    assert not pid.exists() or not pid.read_text().strip() or not psutil.pid_exists(int(pid.read_text()))


def test_a_change_by_somebody_else_during_the_test_is_kept(real, tmp_path) -> None:
    """What somebody else writes while nginx tests the file is neither overwritten nor taken back."""
    script = tmp_path / "edit"
    script.write_text(f"#!/bin/sh\necho '# mine' >> {real.file}\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(Refused, match="refuses the file"):
        change(real, "drain", "web-2", program=str(script))
    assert real.file.read_text().endswith("# mine\n")


def test_a_change_by_somebody_else_before_the_write_is_kept(real, monkeypatch) -> None:
    """What was written between reading and writing wins; the change is refused."""
    asked = Nginx._running

    async def edited(self: Nginx, file: Any) -> list[bool]:
        found = await asked(self, file)
        real.file.write_text(real.file.read_text() + "# mine\n")
        return found

    monkeypatch.setattr(Nginx, "_running", edited)
    with pytest.raises(Refused, match="Somebody else has changed"):
        change(real, "drain", "web-2")
    assert real.file.read_text().endswith("# mine\n") and " down" not in real.file.read_text()


def test_two_changes_at_once_both_come_true(real) -> None:
    """One waits for the other: neither is lost."""
    call = Call(capability="balancer", action="drain", target="web-1")

    async def both(balancer: Nginx) -> None:
        other = call.model_copy(update={"target": "web-2"})
        await asyncio.gather(balancer.apply(call, "a", 1), balancer.apply(other, "b", 1))

    run(real, both)
    assert states(real) == ["drain", "drain", "ready"]


def test_a_lock_that_is_never_given_back_refuses(real, monkeypatch) -> None:
    """Another process that hangs in its change does not let this one hang."""
    monkeypatch.setattr(module, "LOCK_S", 0.1)

    async def held(balancer: Nginx) -> None:
        async with balancer._locked():
            await balancer.apply(Call(capability="b", action="drain", target="web-1"), "a", 1)

    with pytest.raises(Refused, match="cannot be locked"):
        run(real, held)


def test_a_file_that_cannot_be_written_refuses(real, monkeypatch) -> None:
    """A full disk: nothing was changed."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(Refused, match="No space left"):
        change(real, "drain", "web-2")


def test_an_nginx_that_does_not_reload_leaves_a_doubt(real, monkeypatch) -> None:
    """It was told, and its workers stay: whether it will load the file is not known."""
    monkeypatch.setattr(module, "RELOAD_S", 0.2)
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    with pytest.raises(MayHaveActed, match="has not done so"):
        change(real, "drain", "web-2")
    monkeypatch.undo()


def test_an_nginx_that_goes_during_the_reload_leaves_a_doubt(real, monkeypatch) -> None:
    """It was told and is gone: what it did before is not known."""
    pid = real.folder / "nginx.pid"
    text = pid.read_text()
    monkeypatch.setattr(os, "kill", lambda number, name: pid.write_text("x"))
    with pytest.raises(MayHaveActed, match="gone since"):
        change(real, "drain", "web-2")
    monkeypatch.undo()
    pid.write_text(text)


@pytest.mark.parametrize("text", ["", "x", "999999999", "mine"])
def test_a_pid_that_is_no_nginx_is_unreachable(real, tmp_path, text) -> None:
    """An old file, or a number that is another process by now: nobody gets a signal."""
    (tmp_path / "pid").write_text(text.replace("mine", str(os.getpid())))
    with pytest.raises(Unreachable, match="names"):
        change(real, "drain", "web-2", pid=str(tmp_path / "pid"))
    with pytest.raises(Unreachable, match="names"):
        run(real, lambda b: b.state("web-1"), pid=str(tmp_path / "no-such"))
    assert " down" not in real.file.read_text()


def test_a_master_that_ends_while_it_is_looked_at_has_no_workers(real, monkeypatch) -> None:
    """Processes come and go; one that is gone is not counted, and no error of another library comes out."""

    def gone(self: psutil.Process) -> Any:
        raise psutil.NoSuchProcess(1)

    change(real, "drain", "web-2")
    monkeypatch.setattr(psutil.Process, "children", gone)
    assert run(real, lambda b: b.state("web-2"))["active"] == 0


@pytest.mark.parametrize("answer", [[], {}, {"rbkit": 3}, {"rbkit": "x/000"}])
def test_a_location_that_shows_no_note_is_a_bad_answer(server, real, answer) -> None:
    """Something else answers there."""

    async def work(url: str) -> Any:
        adapter = Nginx(**{**real.options, "url": url})
        try:
            return await adapter.members("checkout")
        finally:
            await adapter.aclose()

    with pytest.raises(BadAnswer, match="runs other upstreams"):
        server.json(answer, headers="Content-Type: application/json\r\n").use(work)


def test_an_nginx_that_is_down_is_unreachable(real, nobody) -> None:
    """No answer from the location, no folder, no file."""
    for options in ({"url": nobody}, {"file": "/no/such/folder/file"}, {"file": f"{real.folder}/no-such"}):
        with pytest.raises(Unreachable):
            change(real, "drain", "web-2", **options)


def test_a_file_that_is_too_long_is_refused(real, monkeypatch) -> None:
    """Nothing that long is a file of upstreams."""
    monkeypatch.setattr(module, "LARGEST", 10)
    with pytest.raises(BadAnswer, match="has more than"):
        states(real)


def test_the_last_member_counts_only_those_that_take_connections(real) -> None:
    """Members that are ready and dead carry no traffic: the last one that can is not drained."""
    dead = {"web-2": "127.0.0.1:1", "web-3": "127.0.0.1:1"}
    replace(real, servers=real.servers | dead).write()
    real.reload()
    assert [m.healthy for m in run(real, lambda b: b.members("checkout"))] == [True, False, False]
    with pytest.raises(Refused, match="leave no member"):
        change(real, "drain", "web-1")


def test_an_unknown_member_is_named(real) -> None:
    """The name is the comment, not the address."""
    with pytest.raises(NotFound, match=real.servers["web-1"]):
        run(real, lambda b: b.state(real.servers["web-1"]))


def note(text: str) -> str:
    """Let a file have the note that fits."""
    try:
        module._parsed(text.encode())
    except BadAnswer as error:
        return f"{error.todo.partition('`')[2].partition('`')[0]}\n{text}"
    raise AssertionError("it had a note that fits")


def test_servers_are_read_with_all_that_stands_in_their_lines() -> None:
    """Options, comments, spaces, several upstreams, servers without a name; `down` anywhere among the options."""
    file = module._parsed(note(
        "# all\nupstream a { # first\n\tserver 10.0.0.1:80 weight=5 down max_fails=3 ;# one\n least_conn;\n"
        "  server unix:/run/app.sock;\n zone a 64k; # shared\n}\n\n"
        "upstream b {\n server [::1]:8080 backup; # two\n } # end\n"
    ).encode())  # fmt: skip
    assert [(one.service, one.name, one.address, one.down) for one in file.servers] == [
        ("a", "one", "10.0.0.1:80", True), ("a", "unix:/run/app.sock", "unix:/run/app.sock", False),
        ("b", "two", "[::1]:8080", False),
    ]  # fmt: skip
    lines = file.written([False, True, True]).decode().splitlines()
    assert lines[3] == "\tserver 10.0.0.1:80 weight=5 max_fails=3; # one"
    assert lines[5] == "  server unix:/run/app.sock down;"
    assert lines[10] == " server [::1]:8080 backup down; # two"


@pytest.mark.parametrize(
    "line",
    [
        "server a:1; server b:2;",
        "server a:1",
        "include more.conf;",
        "server a:1; # two words",
        "if ($x) {",
        "}}",
        "upstream c {",
        "server $host;",
        'server "a:1";',
        "zone a 64k; server a:1;",
        "map $a $b { default 1; }",
    ],
)
def test_a_line_that_might_hide_a_server_is_refused(line) -> None:
    """What is not understood is never passed over."""
    with pytest.raises(BadAnswer, match="Line 2 .* not understood"):
        module._parsed(f"upstream a {{\n{line}\n}}\n".encode())


def test_two_servers_of_one_name_are_refused() -> None:
    """A name that could mean two members means none."""
    with pytest.raises(BadAnswer, match="same name"):
        module._parsed(b"upstream a {\nserver a:1; # x\nserver a:2; # x\n}\n")


@given(st.binary(max_size=300))
def test_whatever_stands_in_the_file_is_read_or_refused(data) -> None:
    """No file makes the adapter fail in another way."""
    with pytest.raises(BadAnswer):
        module._parsed(data)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["", " weight=2", " backup"])), min_size=1, max_size=6), st.data()
)
def test_what_is_written_is_read_again(servers, data) -> None:
    """Whichever servers are marked: the file that is written says exactly that, and its note fits."""
    lines = [f" server h{at}:80{more}{' down' * down}; # m{at}" for at, (down, more) in enumerate(servers)]
    file = module._parsed(note("upstream a {\n" + "\n".join(lines) + "\n}\n").encode())
    wanted = data.draw(st.lists(st.booleans(), min_size=len(servers), max_size=len(servers)))
    again = module._parsed(file.written(wanted))
    assert [one.down for one in again.servers] == wanted and again.digest == file.digest


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999999", "no-such-host.invalid", "unix:/no/such.sock"])
def test_a_member_that_takes_no_connection_is_not_healthy(address) -> None:
    """Nobody listens, the port cannot be one, the host is not known, no socket is there."""
    assert asyncio.run(module._takes_connections(address)) is False


def test_a_member_behind_a_socket_is_healthy(tmp_path) -> None:
    """The path of a socket is an address, too."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert asyncio.run(module._takes_connections(f"unix:{tmp_path}/s")) is True


def test_ping_has_the_configuration_tested(real) -> None:
    """One that does not pass could not be loaded: that is told, and so is a program that is not there."""
    assert pinged(Nginx(**real.options)).endswith("reads and writes")
    with pytest.raises(Refused, match="cannot be run"):
        pinged(Nginx(**{**real.options, "program": "/no-such"}))
    with pytest.raises(Refused, match="refuses the file"):
        pinged(Nginx(**{**real.options, "config": "/no-such"}))


def test_ping_says_when_we_may_only_read(real, monkeypatch) -> None:
    """Without the right to write the file, or to signal nginx, nothing can be changed."""
    options = real.options
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *asked, **how: False)
        assert "reads; may not write the file" in pinged(Nginx(**options))

    def refused(pid: int, number: int) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "kill", refused)
    assert "or not signal nginx" in pinged(Nginx(**options))
