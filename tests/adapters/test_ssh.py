"""An argument stays one argument, here and over a real SSH server; a doubt is never called a failure."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.sshd import Machine, sshd

from rbkit.adapters import ssh
from rbkit.adapters.ssh import LARGEST, Local, Ran, certainly, read, runner
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable

ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"
HOSTILE = [
    "; rm -rf /", "$(id)", "&& calc", "`id`", "'", '"', "a'b\"c", "two\nlines", "\ttab ", "", "*", "~", "$HOME", "-rf",
    "\\", "!!", "ü€😀", "a=b", "#", "|cat", "\r\n", "\x01\x7f", "'; touch /tmp/x; '",
]  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A real SSH server for the module."""
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture(params=["local", "ssh"])
def options(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    """Where programs run: here, and over SSH."""
    return None if request.param == "local" else request.getfixturevalue("machine").options()


def use(options: dict[str, Any] | None, work: Callable[[Any], Any]) -> Any:
    """Run a coroutine with a runner."""

    async def closed() -> Any:
        made = runner(options)
        try:
            return await work(made)
        finally:
            await made.aclose()

    return asyncio.run(closed())


def run(options: dict[str, Any] | None, *words: str, timeout_s: float = 20.0) -> Ran:
    """Run one program."""
    return use(options, lambda made: made.run(words, timeout_s))


def python(options: dict[str, Any] | None, text: str, *words: str, timeout_s: float = 20.0) -> Ran:
    """Run a line of Python."""
    return run(options, sys.executable, "-I", "-c", text, *words, timeout_s=timeout_s)


def gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_hostile_arguments_arrive_as_they_are(options) -> None:
    """Quotes, shell signs, newlines, nothing and other scripts: each is exactly one argument, and no shell acts."""
    assert json.loads(python(options, ECHO, *HOSTILE).out) == HOSTILE


@settings(derandomize=True, deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=8))
def test_any_arguments_arrive_as_they_are(options, words) -> None:
    """Whatever text there is."""
    assert json.loads(python(options, ECHO, *words).out) == words


def test_exit_code_and_both_outputs_come_back(options) -> None:
    """As the program gave them; what it says is on its error output first."""
    ran = python(options, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (ran.code, ran.out, ran.err, ran.said) == (3, b"out\n", b"err\n", "err")
    assert (Ran(1, b" o ", b"").said, Ran(1, b"", b"").said) == ("o", "it said nothing")


def test_a_program_killed_by_a_signal_has_a_negative_code(options) -> None:
    """It did not end by itself."""
    assert python(options, "import os; os.kill(os.getpid(), 9)").code == -signal.SIGKILL


def test_input_is_closed_and_variables_are_few(options) -> None:
    """A program that asks gets nothing, and what is in our environment, such as secrets, is not passed on."""
    os.environ["RBKIT_TEST_SECRET"] = "hunter2"
    try:
        ran = python(options, "import os, sys; print(repr(sys.stdin.read()), 'RBKIT_TEST_SECRET' in os.environ)")
    finally:
        del os.environ["RBKIT_TEST_SECRET"]
    assert ran.out == b"'' False\n"


def test_a_program_that_takes_too_long_is_killed_with_what_it_started(options, until, tmp_path) -> None:
    """Its children do not go on; whether it acted is not known."""
    text = 'sleep 60 & echo "$$ $!" > "$1.new"; mv "$1.new" "$1"; wait'
    with pytest.raises(MayHaveActed, match="did not end within"):
        run(options, "/bin/sh", "-c", text, "sh", str(tmp_path / "pids"), timeout_s=3.0)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    until(lambda: all(gone(pid) for pid in pids))


@pytest.mark.parametrize("output", ["stdout", "stderr"])
def test_a_program_that_floods_us_is_ended(options, output) -> None:
    """Neither memory nor patience is endless."""
    with pytest.raises(MayHaveActed, match=f"more than {LARGEST} bytes"):
        python(options, f"import sys\nwhile True: sys.{output}.write('x' * 65536)")


def test_as_much_as_is_allowed_is_read(options) -> None:
    """The cap itself is no flood."""
    assert len(python(options, f"print('x' * {LARGEST - 1})").out) == LARGEST


@pytest.mark.parametrize(
    "words", [[], ["true"], ["/bin/echo", "a\0b"], ["/bin/echo", "\ud800"], ["/bin/echo", "x" * 100_001]]
)
def test_what_cannot_be_passed_is_refused(options, words) -> None:
    """No path, a zero byte, half a character, too long: nothing is started."""
    with pytest.raises(Refused):
        run(options, *words)


def test_a_local_program_that_is_not_there_was_never_started() -> None:
    """Also one that is no program."""
    for path in ("/no/such/program", "/etc/hostname"):
        with pytest.raises(Unreachable, match="cannot be started"):
            run(None, path)


def test_a_local_program_may_leave_something_running(tmp_path, until) -> None:
    """What it leaves behind holds its output and is not waited for, nor killed: that is how daemons start."""
    text = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)"
    )
    ran = python(None, text)
    assert ran.code == 0 and not gone(int(ran.out))
    os.kill(int(ran.out), signal.SIGKILL)


def test_a_cancelled_program_is_killed(tmp_path, until) -> None:
    """Who stops waiting leaves nothing running."""

    async def work() -> None:
        text = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
        task = asyncio.ensure_future(Local().run([sys.executable, "-c", text, str(tmp_path / "pid")], 60))
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_one_connection_serves_many_programs(machine) -> None:
    """It is opened once, and again when it was lost."""

    async def work(made: Any) -> None:
        await made.run(["/bin/true"], 10)
        first = made._connection
        await made.run(["/bin/true"], 10)
        assert made._connection is first
        first.abort()
        await first.wait_closed()
        await made.run(["/bin/true"], 10)
        assert made._connection is not first

    use(machine.options(), work)


def test_an_unknown_or_changed_host_key_is_refused(machine, tmp_path) -> None:
    """Nobody is talked to who is not known, and it is said what to do."""
    changed = f"[127.0.0.1]:{machine.port} {(machine.folder / 'stranger.pub').read_text()}"
    for text in ("", changed):
        (tmp_path / "known").write_text(text)
        with pytest.raises(Refused, match="key") as failure:
            run(machine.options(known_hosts=str(tmp_path / "known")), "/bin/true")
        assert "Compare its key" in failure.value.todo


def test_a_key_that_the_server_does_not_know_is_refused(machine) -> None:
    """No other way in is tried: neither an agent nor a password."""
    with pytest.raises(Refused, match="lets nobody in"):
        run(machine.options(key_file=str(machine.folder / "stranger")), "/bin/true")


def test_nobody_there_or_no_ssh_was_never_reached(machine) -> None:
    """A closed port, one that says nothing, and one that speaks something else."""
    with socket.socket() as silent, socket.create_server(("127.0.0.1", 0)) as mute:
        silent.bind(("127.0.0.1", 0))
        for port in (silent.getsockname()[1], mute.getsockname()[1]):
            with pytest.raises(Unreachable, match="cannot be reached"):
                run(machine.options(port=port, connect_timeout="300ms"), "/bin/true")


def test_a_key_file_that_holds_no_key_is_no_way_in(machine, tmp_path) -> None:
    """It is said before anything is sent."""
    (tmp_path / "key").write_text("no key")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(Unreachable):
        run(machine.options(key_file=str(tmp_path / "key")), "/bin/true")


def test_a_connection_lost_while_a_program_runs_is_a_doubt(machine, tmp_path, until) -> None:
    """The command was sent: it may have acted. What runs on there is ended by its limiter."""
    text = (
        'echo $$ > "$1"; at=$$; until grep -q ^sshd /proc/$at/comm; do at=$(cut -d" " -f4 /proc/$at/stat); done; '
        "kill -9 $at; sleep 60"
    )
    with pytest.raises(MayHaveActed, match="connection was lost"):
        run(machine.options(), "/bin/sh", "-c", text, "sh", str(tmp_path / "pid"), timeout_s=5.0)
    until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_a_server_that_says_nothing_of_the_end_leaves_a_doubt(machine, tmp_path) -> None:
    """It closes in good order, but no exit code came: nobody knows how the program ended."""
    import asyncssh

    async def work() -> None:
        server = await asyncssh.create_server(
            lambda: Open(), "127.0.0.1", 0, server_host_keys=[str(machine.folder / "host")],
            process_factory=lambda process: process.channel.close(),
        )  # fmt: skip
        port = server.sockets[0].getsockname()[1]
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{port} {(machine.folder / 'host.pub').read_text()}")
        made = runner(machine.options(port=port, known_hosts=str(known)))
        try:
            with pytest.raises(MayHaveActed, match="said how it ended"):
                await made.run(["/bin/true"], 20)
        finally:
            await made.aclose()
            server.close()
            await server.wait_closed()

    class Open(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    asyncio.run(work())


def test_a_machine_without_a_limiter_runs_programs_as_they_are(machine) -> None:
    """Nothing is put before them; they see their own name first."""
    text = "from pathlib import Path; print(Path('/proc/self/cmdline').read_text().split(chr(0))[0])"
    assert python(machine.options(limiter=""), text).out.decode().strip() == sys.executable
    with pytest.raises(MayHaveActed, match="code 127"):
        certainly(run(machine.options(limiter="/no/such/timeout"), "/bin/true"), "x")


@pytest.mark.parametrize(
    "change, place",
    [({"host": "-oProxyCommand=x"}, "host"), ({"host": None}, "host"), ({"port": 0}, "port"), ({"agent": "x"}, "agent"),
     ({"user": "-x"}, "user")],
)  # fmt: skip
def test_wrong_options_are_named(machine, change, place) -> None:
    """Before anything is connected."""
    with pytest.raises(SettingsError, match=f"ssh.{place}"):
        runner(machine.options(**change))


def test_known_hosts_and_key_are_required_files(machine, tmp_path) -> None:
    """A missing file, and one that others may read or write, are refused."""
    with pytest.raises(SettingsError, match="known_hosts"):
        runner({key: value for key, value in machine.options().items() if key != "known_hosts"})
    with pytest.raises(SettingsError, match="cannot be read"):
        runner(machine.options(known_hosts=str(tmp_path / "none")))
    for name, mode, source in (("key_file", 0o640, "key"), ("known_hosts", 0o622, "known_hosts")):
        (tmp_path / name).write_bytes((machine.folder / source).read_bytes())
        (tmp_path / name).chmod(mode)
        with pytest.raises(SettingsError, match="open to others"):
            runner(machine.options(**{name: str(tmp_path / name)}))


def test_without_asyncssh_it_is_said_what_to_install(machine, monkeypatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(SettingsError, match="asyncssh") as failure:
        runner(machine.options())
    assert "rbkit[ssh]" in failure.value.todo


class _Refusing:
    """A connection that cannot open what it is asked for."""

    def __init__(self, code: int, *, closed: bool) -> None:
        self._code, self._closed = code, closed

    def is_closed(self) -> bool:
        return self._closed

    async def create_process(self, *words: Any, **named: Any) -> Any:
        import asyncssh

        raise asyncssh.ChannelOpenError(self._code, "no")


@pytest.mark.parametrize(
    "code, closed, error",
    [(2, True, Unreachable), (1, False, Unreachable), (0xFFFFFFFF, True, MayHaveActed), (0xFFFFFFFF, False, Refused)],
)
def test_a_channel_that_is_not_opened_is_told_from_a_command_that_got_lost(machine, monkeypatch, code, closed, error):
    """Before the command was sent nothing acted; a refused command did not act; a lost one may have."""
    from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

    asked = OPEN_REQUEST_SESSION_FAILED if code == 0xFFFFFFFF else code

    async def connected(self: Any) -> Any:
        return _Refusing(asked, closed=closed)

    monkeypatch.setattr(ssh.Ssh, "_connected", connected)
    with pytest.raises(error):
        run(machine.options(), "/bin/true")


def test_a_forced_command_that_says_no_is_no_success(tmp_path) -> None:
    """A server that runs something else for us decides; its exit code counts."""
    with sshd(tmp_path, "ForceCommand /bin/false\n") as machine:
        assert run(machine.options(), "/bin/true").code == 1


def test_a_read_leaves_nothing_in_doubt() -> None:
    """A program that only reads and does not answer gave no usable answer."""
    with pytest.raises(BadAnswer):
        asyncio.run(read(Local(), [sys.executable, "-c", "import time; time.sleep(60)"], 0.2))
    assert asyncio.run(read(Local(), ["/bin/echo", "x"], 10)).out == b"x\n"


def test_only_an_agreed_code_says_that_nothing_was_done() -> None:
    """Any other failure is a doubt."""
    certainly(Ran(0, b"", b""), "x")
    for code, error in ((1, MayHaveActed), (3, Refused), (4, NotFound), (-9, MayHaveActed)):
        with pytest.raises(error, match=f"x ended with code {code}: why"):
            certainly(Ran(code, b"", b"why"), "x", refused=[3], missing=[4])
