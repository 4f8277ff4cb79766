"""supervisord that refuses, that is gone, and answers that it would never give; the good ones are in tests/ports."""

import asyncio
import itertools
import os
import signal
import xmlrpc.client
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pings import pinged
from pydantic import SecretStr
from servers.supervisord import PASSWORD, USER, Supervisor, supervisord

from rbkit.adapters import supervisord as module
from rbkit.adapters.supervisord import Supervisord, chosen
from rbkit.costs import counted
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call

PROCESS = {"group": "web", "name": "web-1", "state": 20, "pid": 7, "start": 100, "exitstatus": 0, "spawnerr": ""}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisord with programs of every kind."""
    folder = tmp_path_factory.mktemp("supervisord")
    (folder / "run").write_text("#!/bin/sh\nexec sleep 1000\n")
    (folder / "run").chmod(0o755)
    stubborn = "/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'"
    programs = {"web-1": "sleep 1000", "gone": f"{folder}/run", "once": "sleep 1000", "stubborn": stubborn}
    with supervisord(folder, {"web": programs}, more="autorestart = false") as running:
        yield running


def run(url: str, work: Callable[[Supervisord], Awaitable[Any]], **options: Any) -> Any:
    """Run a coroutine with an adapter."""

    async def closed() -> Any:
        adapter = Supervisord(url, **options)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(closed())


def change(url: str, action: str, target: str = "web-1", **options: Any) -> None:
    """Change a process."""
    call = Call(capability="services", action=action, target=target)
    run(url, lambda s: s.apply(call, "key", 1), **options)


def answer(value: Any) -> bytes:
    """Write an answer as supervisord does."""
    body = xmlrpc.client.dumps(value if isinstance(value, xmlrpc.client.Fault) else (value,), methodresponse=True)
    return HEAD + f"Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def listed(server: Any, *processes: Any) -> Any:
    """List the processes of a server that describes these."""
    server.reply = answer(list(processes))
    return server.use(lambda url: _instances(url, "web"))


async def _instances(url: str, service: str, **options: Any) -> Any:
    adapter = Supervisord(url, **options)
    try:
        return await adapter.instances(service)
    finally:
        await adapter.aclose()


def scripted(monkeypatch: pytest.MonkeyPatch, *results: Any) -> Supervisord:
    """An adapter whose calls give these results, one after the other; an error is raised."""
    left = list(results)

    async def call(method: str, *arguments: Any, lost: Any, timeout_s: float) -> Any:
        result = [PROCESS] if method == "getAllProcessInfo" else left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    adapter = Supervisord("http://127.0.0.1:1")
    monkeypatch.setattr(adapter._rpc, "call", call)
    return adapter


def fault(code: Any) -> xmlrpc.client.Fault:
    """A fault of supervisord."""
    return xmlrpc.client.Fault(code, "words")


def test_its_http_server_knows_who_asks(real) -> None:
    """User and password are sent as they are, whatever characters they have; a wrong one is refused."""
    url = f"http://127.0.0.1:{real.port}"
    known = {"user": USER, "password": SecretStr(PASSWORD)}
    assert len(run(url, lambda s: s.instances("web"), **known)) == 4
    for options in ({}, {"user": USER, "password": SecretStr("other")}):
        with pytest.raises(Refused, match=r"401.*user and password"):
            run(url, lambda s: s.instances("web"), **options)


def test_a_restart_of_a_program_that_is_gone_touches_nothing(real) -> None:
    """Whether the program is there is found out before the old process is stopped."""
    before = run(real.url, lambda s: s.state("gone"))
    program = real.folder / "run"
    program.rename(real.folder / "away")
    with pytest.raises(Refused, match="startProcess"):
        change(real.url, "restart", "gone")
    assert run(real.url, lambda s: s.state("gone")) == before and before["state"] == "running"
    (real.folder / "away").rename(program)
    program.chmod(0o644)
    with pytest.raises(Refused, match="startProcess"):
        change(real.url, "restart", "gone")
    program.chmod(0o755)
    assert run(real.url, lambda s: s.state("gone")) == before


def test_a_stop_that_takes_too_long_leaves_a_doubt(real) -> None:
    """A process that does not listen is being stopped: neither running nor stopped, until supervisord kills it."""
    with pytest.raises(MayHaveActed, match="stopProcess"):
        change(real.url, "stop", "stubborn", timeout_s=0.5)
    assert run(real.url, lambda s: s.state("stubborn"))["state"] == "stopping"


def test_a_process_that_dies_is_crashed(real, until) -> None:
    """Who ended it does not matter; a process that is gone has neither pid nor time of start."""
    os.kill(run(real.url, lambda s: s.state("once"))["pid"], signal.SIGKILL)
    until(lambda: run(real.url, lambda s: s.state("once"))["state"] == "crashed")
    shown = run(real.url, lambda s: s.state("once"))
    assert (shown["pid"], shown["started_at"], shown["version"], shown["restarts"]) == (None, None, "", -1)


@pytest.mark.parametrize(
    ("state", "exit_status", "word"),
    [
        (0, 0, "stopped"), (10, 0, "starting"), (20, 0, "running"), (30, 1, "starting"), (40, 0, "stopping"),
        (100, 0, "stopped"), (100, 1, "crashed"), (200, 0, "crashed"), (1000, 0, "crashed"), (77, 0, "crashed"),
    ],
)  # fmt: skip
def test_each_state_has_its_word(server, state, exit_status, word) -> None:
    """A process that supervisord starts again is starting; one that ended by itself with 0 is stopped."""
    (found,) = listed(server, PROCESS | {"state": state, "exitstatus": exit_status})
    assert found.state == word


def test_names_that_stand_in_two_groups_carry_the_group(server) -> None:
    """A process that two groups could mean is named with its group."""
    found = listed(server, PROCESS, PROCESS | {"group": "api"}, PROCESS | {"name": "web-2"})
    assert [one.name for one in found] == ["web:web-1", "web-2"]


@pytest.mark.parametrize(("start", "version"), [(100, ""), (2_147_000_000, "v7")])
def test_a_version_is_that_of_processes_started_since(server, tmp_path, start, version) -> None:
    """A process from before the version was chosen runs another one; which, nobody knows."""
    (tmp_path / "version").write_text("v7\n")
    server.reply = answer([PROCESS | {"start": start}])
    (found,) = server.use(lambda url: _instances(url, "web", versions={"web": str(tmp_path / "version")}))
    assert found.version == version


def test_a_version_that_cannot_be_read_is_said(tmp_path) -> None:
    """No file, or one that is no text."""
    (tmp_path / "bad").write_bytes(b"\xff")
    for path in (tmp_path / "none", tmp_path / "bad", tmp_path):
        with pytest.raises(Unreachable, match="cannot be read"):
            chosen(path)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(10, NotFound), (6, Refused), (20, Refused), (21, Refused), (30, MayHaveActed), (50, MayHaveActed), (1, Refused)],
)
def test_each_fault_has_its_meaning(monkeypatch, code, kind) -> None:
    """Only a fault that says that nothing was done is a refusal; the words are supervisord's."""
    for action in ("start", "stop", "restart"):
        adapter = scripted(monkeypatch, fault(code))
        with pytest.raises(kind, match="words"):
            asyncio.run(adapter.apply(Call(capability="s", action=action, target="web-1"), "key", 1))


@pytest.mark.parametrize("error", [fault(20), fault(10), fault(50), Unreachable("gone"), MayHaveActed("silent")])
def test_a_restart_that_breaks_off_after_the_stop_leaves_a_doubt(monkeypatch, error) -> None:
    """Whatever stands in the way of the second half: it was stopped, so nobody may say that nothing was done."""
    adapter = scripted(monkeypatch, fault(60), True, error)
    with pytest.raises(MayHaveActed):
        asyncio.run(adapter.apply(Call(capability="s", action="restart", target="web-1"), "key", 1))


def test_a_restart_whose_process_ends_in_between_starts_it(monkeypatch) -> None:
    """It ran when it was asked for, and had ended when it was to be stopped: it is started all the same."""
    adapter = scripted(monkeypatch, fault(60), fault(70), True)
    asyncio.run(adapter.apply(Call(capability="s", action="restart", target="web-1"), "key", 1))


def test_a_restart_that_was_broken_off_half_way_is_finished(monkeypatch) -> None:
    """What is stopped is started; it is not stopped once more."""
    adapter = scripted(monkeypatch, True)
    asyncio.run(adapter.apply(Call(capability="s", action="restart", target="web-1"), "key", 1))


@pytest.mark.parametrize(
    "value", ["x", {}, [3], ["x"], [{}], [PROCESS | {"pid": -1}], [PROCESS | {"start": -1}],
              [PROCESS | {"state": "x"}], [{key: PROCESS[key] for key in PROCESS if key != "group"}]],
)  # fmt: skip
def test_a_list_of_another_form_is_a_bad_answer(server, value) -> None:
    """One process of an unknown form spoils the list."""
    server.reply = answer(value)
    with pytest.raises(BadAnswer, match="unknown form"):
        server.use(lambda url: _instances(url, "web"))


def test_a_fault_when_reading_is_a_bad_answer(server) -> None:
    """supervisord is shutting down: its words are shown."""
    server.reply = answer(xmlrpc.client.Fault(6, "SHUTDOWN_STATE"))
    with pytest.raises(BadAnswer, match="SHUTDOWN_STATE"):
        server.use(lambda url: _instances(url, "web"))


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><methodResponse><params><param>'
    b"<value><string>&b;</string></value></param></params></methodResponse>"
)
NO_XMLRPC = [
    b"", b"x", b"<a/>", b"<methodResponse>", b"<methodResponse><params/></methodResponse>", BOMB,
    b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>",
    b"<methodResponse><params><param><value><bigdecimal>x</bigdecimal></value></param></params></methodResponse>",
    b"<methodResponse><params><param><value><struct><member></member></struct></value></param></params></methodResponse>",
    b"<methodResponse><fault><value><int>1</int></value></fault></methodResponse>",
    xmlrpc.client.dumps(xmlrpc.client.Fault("x", "y"), methodresponse=True).encode(),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("body", NO_XMLRPC)
def test_what_is_no_xmlrpc_is_a_bad_answer(server, body) -> None:
    """Cut, foreign, wrong inside, or with a document type that could hold entities: refused."""
    server.reply = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with pytest.raises(BadAnswer):
        server.use(lambda url: _instances(url, "web"))


def test_a_document_type_is_refused() -> None:
    """Entities, and with them a small answer that grows without end, cannot even be declared."""
    with pytest.raises(BadAnswer, match="document type"):
        module._loaded(BOMB)


TAGS = st.sampled_from(["params", "param", "value", "struct", "member", "name", "int", "array", "data", "fault"])
ANSWERS = st.one_of(
    st.binary(),
    st.text().map(lambda text: f"<methodResponse>{text}</methodResponse>".encode()),
    st.lists(TAGS).map(lambda tags: "".join([*(f"<{t}>" for t in tags), *(f"</{t}>" for t in tags[::-1])]).encode()),
)


@given(ANSWERS)
def test_whatever_is_answered_is_read_or_refused(body) -> None:
    """No answer makes the adapter fail in another way."""
    try:
        module._loaded(body)
    except (BadAnswer, xmlrpc.client.Fault):
        return


def test_a_status_that_is_no_success_is_said(server) -> None:
    """A refusal is one; an error of the server is a bad answer when reading."""
    for status, kind in ((403, Refused), (500, BadAnswer), (302, BadAnswer)):
        with pytest.raises(kind, match=str(status)):
            server.text("x", status).use(lambda url: _instances(url, "web"))


async def _sent(url: str, timeout_s: float = 5.0) -> None:
    """Start a process without looking for it first."""
    adapter = Supervisord(url, timeout_s=timeout_s)
    try:
        await adapter._start("web:web-1")
    finally:
        await adapter.aclose()


@pytest.mark.parametrize("how", ["500", "nothing", "reset", "no xml"])
def test_a_change_without_a_usable_answer_leaves_a_doubt(server, how) -> None:
    """The request left: it may have acted."""
    server.reply = {
        "500": b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
        "no xml": HEAD + b"Content-Length: 1\r\n\r\nx",
    }.get(how, b"")
    server.reset = how == "reset"
    with pytest.raises(MayHaveActed, match="startProcess"):
        server.use(_sent)


def test_a_server_that_falls_silent_is_given_up(server, monkeypatch) -> None:
    """The deadline ends a change as a doubt and a read as unreachable, also in the middle of an answer."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    for reply in (b"", HEAD + b"Content-Length: 9\r\n\r\nx"):
        server.reply, server.silent = reply, True
        with pytest.raises(MayHaveActed, match="did not answer"):
            server.use(lambda url: _sent(url, 0.2))
        with pytest.raises(Unreachable, match="did not answer"):
            server.use(lambda url: _instances(url, "web"))


def test_no_connection_is_kept(server) -> None:
    """Each call has a connection of its own: a change on one that was closed meanwhile would look like a doubt."""
    server.reply, server.silent = answer([PROCESS]), True

    async def twice(url: str) -> None:
        adapter = Supervisord(url)
        for _ in range(2):
            assert len(await adapter.instances("web")) == 1
        await adapter.aclose()

    server.use(twice)
    assert len(server.asked) == 2


def test_an_answer_without_end_is_cut_off(server) -> None:
    """More than the environment file allows: a bad answer when reading, a doubt when changing."""
    endless = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"]
    for kind, work in ((BadAnswer, lambda url: _instances(url, "web")), (MayHaveActed, _sent)):
        server.reply = itertools.chain(endless, itertools.repeat(b"1000\r\n" + b"x" * 4096 + b"\r\n"))
        with counted(10_000), pytest.raises(kind, match="more than 10 kB"):
            server.use(work)


def test_nobody_there_is_unreachable(nobody, tmp_path) -> None:
    """A closed port, no socket, a path that is too long, an address that cannot be one."""
    for url in (nobody, f"unix://{tmp_path}/no.sock", f"unix:///{'x' * 200}", "http://", "http://[::1"):
        for action in ("start", "restart"):
            with pytest.raises(Unreachable, match="not reached"):
                change(url, action)


@pytest.mark.parametrize("url", ["", "/run/supervisor.sock", "ftp://x", "127.0.0.1:9001"])
def test_an_address_that_cannot_be_meant_so_is_refused(url) -> None:
    """A socket is written with `unix://`, a server with `http://`."""
    with pytest.raises(SettingsError, match="supervisord"):
        Supervisord(url)


@pytest.mark.parametrize("target", ["web:web-1", "web:*", "", "web-1\x00", "<x>&amp;", "\ud800"])
def test_a_target_is_never_sent(real, target) -> None:
    """Only a name that supervisord has listed itself is sent to it; anything else is not found."""
    with pytest.raises(NotFound):
        change(real.url, "stop", target)
    assert run(real.url, lambda s: s.state("web-1"))["state"] == "running"


def test_ping_says_as_whom(real) -> None:
    """Whoever gets in may do everything; a wrong password is told."""
    url = f"http://127.0.0.1:{real.port}"
    said = pinged(Supervisord(url, USER, SecretStr(PASSWORD)))
    assert f"as {USER}; reads and writes, 4 process(es)" in said and PASSWORD not in said
    with pytest.raises(Refused, match="401"):
        pinged(Supervisord(url))


@pytest.mark.parametrize(
    ("results", "named"),
    [
        (["4.2", {"statecode": 0, "statename": "RESTARTING"}], "in the state RESTARTING"),
        (["4.2", []], "in the state unknown"),
        ([fault(6)], "does not tell"),
    ],
)
def test_ping_of_one_that_ends_is_a_bad_answer(monkeypatch, results, named) -> None:
    """It would not do what it is asked for."""
    with pytest.raises(BadAnswer, match=named):
        pinged(scripted(monkeypatch, *results))
