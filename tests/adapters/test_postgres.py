"""PostgreSQL says what right is missing, hits nobody else, and gives the thread back when the server hangs."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pings import pinged
from pydantic import SecretStr
from servers import binary
from servers.faulty import Faulty
from servers.postgres import postgres

from rbkit.adapters import postgres as module
from rbkit.adapters.postgres import Postgres
from rbkit.errors import BadAnswer, MayHaveActed, Refused, SettingsError, Unreachable
from rbkit.facts import Call

NAME = (
    "SELECT pid || '@' || to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    " FROM pg_stat_activity WHERE "
)
GONE = "1@2020-01-01T00:00:00.000000Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A real PostgreSQL with users of several rights; the address wants a user's name."""
    with postgres(tmp_path_factory.mktemp("pg")) as url:
        plain = url.replace("+psycopg", "")
        with closing(psycopg.connect(plain, autocommit=True)) as admin:
            for statement in (
                "CREATE ROLE app LOGIN", "CREATE ROLE nobody LOGIN", "CREATE ROLE seer LOGIN",
                "GRANT pg_read_all_stats TO seer", "CREATE ROLE helper LOGIN REPLICATION",
                "CREATE ROLE boss SUPERUSER LOGIN",
                "GRANT pg_monitor, pg_signal_backend TO helper", "CREATE ROLE feeder LOGIN REPLICATION",
            ):  # fmt: skip
                admin.execute(statement)
        yield plain.replace("postgres@", "{}@")


def ask(address: str, work: Callable[[Postgres], Awaitable[Any]], user: str = "helper", **more: Any) -> Any:
    """Ask as a user."""
    return asyncio.run(asked(address.format(user), work, **more))


async def asked(url: str, work: Callable[[Postgres], Awaitable[Any]], **more: Any) -> Any:
    """Ask an address."""
    adapter = Postgres(url, **more)
    try:
        return await work(adapter)
    finally:
        await adapter.aclose()


def act(action: str, target: str) -> Callable[[Postgres], Awaitable[Any]]:
    """Make a change."""
    return lambda db: db.apply(Call(capability="db", action=action, target=target), "k", 1)


@contextmanager
def session(address: str, user: str) -> Iterator[str]:
    """Open a session that does nothing, and give its name."""
    with closing(psycopg.connect(address.format(user), autocommit=True)) as connection:
        yield connection.execute(NAME + "pid = pg_backend_pid()").fetchone()[0]


def test_a_pid_that_is_used_again_is_not_hit(server) -> None:
    """The same pid with another start is another session: it is not there, and what is there stays."""
    with session(server, "app") as name:
        other = f"{name.partition('@')[0]}@2020-01-01T00:00:00.000000Z"
        for action in ("cancel", "terminate"):
            ask(server, act(action, other))
        assert not ask(server, lambda db: db.state(other))["present"]
        assert ask(server, lambda db: db.state(name))["present"]


def test_a_superusers_session_is_hit_only_where_that_is_allowed(server, until) -> None:
    """Without the option it is refused and stays; with it a superuser may."""
    with session(server, "boss") as name:
        with pytest.raises(Refused, match="superuser"):
            ask(server, act("terminate", name), "postgres")
        assert ask(server, lambda db: db.state(name))["present"]
        ask(server, act("terminate", name), "postgres", superusers=True)
        until(lambda: not ask(server, lambda db: db.state(name))["present"])


@contextmanager
def feeding(server: str, folder: Path) -> Iterator[str]:
    """Let a replica's receiver follow the server; give the name of the session that feeds it."""
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    command = [binary("pg_receivewal", "postgresql", bins), "-D", folder, "-s", "1", "-d", server.format("feeder")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            with closing(psycopg.connect(server.format("postgres"), autocommit=True)) as admin:
                row = None
                while row is None:
                    row = admin.execute(NAME + "backend_type = 'walsender'").fetchone()
            yield row[0]
        finally:
            process.terminate()


def test_a_replica_and_its_lag_are_shown_and_its_feed_is_protected(server, tmp_path, until) -> None:
    """The session that feeds it is no client's; it ends only where the environment file allows that."""
    with feeding(server, tmp_path) as name:
        until(lambda: [r.state for r in ask(server, lambda db: db.replicas())] == ["streaming"])
        until(lambda: ask(server, lambda db: db.replicas())[0].lag_bytes == 0)
        (replica,) = ask(server, lambda db: db.replicas())
        assert (replica.name, replica.lag_s) == ("pg_receivewal", 0.0)
        assert name not in [one.target for one in ask(server, lambda db: db.sessions())]
        with pytest.raises(Refused, match="walsender"):
            ask(server, act("terminate", name))
        assert ask(server, lambda db: db.state(name))["present"]
        ask(server, act("terminate", name), replication=True)
        until(lambda: not ask(server, lambda db: db.state(name))["present"])


def test_a_background_process_is_never_hit(server) -> None:
    """Not even where superusers and replication are allowed."""
    with closing(psycopg.connect(server.format("postgres"), autocommit=True)) as admin:
        (name,) = admin.execute(NAME + "backend_type = 'checkpointer'").fetchone()
    with pytest.raises(Refused, match="checkpointer"):
        ask(server, act("terminate", name), "postgres", superusers=True, replication=True)


def test_missing_rights_are_named(server) -> None:
    """Who may not see or signal other sessions is told which right it takes, and nothing is half shown."""
    with session(server, "app") as name:
        for work in (lambda db: db.sessions(), lambda db: db.state(name), act("terminate", name)):
            with pytest.raises(Refused, match="pg_read_all_stats"):
                ask(server, work, "nobody")
        with pytest.raises(Refused, match="GRANT pg_signal_backend"):
            ask(server, act("terminate", name), "seer")
        assert ask(server, lambda db: db.state(name))["present"]


def test_replicas_are_not_half_shown(server, tmp_path) -> None:
    """A replica whose state is hidden from the user is no replica without lag."""
    with feeding(server, tmp_path), pytest.raises(Refused, match="pg_read_all_stats"):
        ask(server, lambda db: db.replicas(), "nobody")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("true AS own, false AS super, false AS hidden, 'client backend' AS type", "own session"),
        ("false AS own, false AS super, true AS hidden, '' AS type", "pg_read_all_stats"),
    ],
)
def test_why_a_session_is_spared_is_said(server, monkeypatch, row, words) -> None:
    """Its own session and one that it cannot see are told apart."""
    monkeypatch.setattr(module, "ACT", f"SELECT {row}, false AS done, :pid, :start, :superusers, :replication")
    with pytest.raises(Refused, match=words):
        ask(server, act("terminate", GONE))


def test_its_own_session_is_protected_by_the_statement_itself(server, monkeypatch) -> None:
    """Even if the name meant rbkit's own connection, the statement does not end it."""
    mine = "SELECT pg_backend_pid() AS pid, backend_start AS start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    own = module.ACT.replace(":pid", "(SELECT pid FROM mine)").replace(":start", "(SELECT start FROM mine)")
    bound = own.replace("FROM found", "FROM found WHERE :pid > 0 AND :start IS NOT NULL")
    monkeypatch.setattr(module, "ACT", bound.replace("WITH found", f"WITH mine AS ({mine}), found"))
    with pytest.raises(Refused, match="own session"):
        ask(server, act("terminate", GONE))


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("SELECT pg_sleep(20)", Unreachable, "statement timeout"),
        ("SELECT 1 / 0", BadAnswer, "division by zero"),
        ("SELECT 1 AS x", BadAnswer, "unknown form"),
        ("SELECT * FROM pg_authid", Refused, "permission denied"),
        ("CREATE TABLE x ()", BadAnswer, "read-only"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Unreachable, "terminating connection"),
        ("SELECT", BadAnswer, "does not return rows|unknown form|no field|ResourceClosed"),
        ("SELECT convert_from('\\xff'::bytea, 'UTF8')", BadAnswer, "invalid byte"),
    ],
)
def test_what_goes_wrong_in_a_read_is_told_apart(server, monkeypatch, query, error, words) -> None:
    """The server ends what takes too long; an error is an answer; a read can write nothing."""
    monkeypatch.setattr(module, "BLOAT", query)
    with pytest.raises(error, match=words):
        ask(server, lambda db: db.bloat(), timeout_s=0.5)


@pytest.mark.parametrize(
    "query", ["SELECT pg_sleep(20)", "SELECT 1 / 0", "SELECT pg_terminate_backend(pg_backend_pid())"]
)
def test_an_error_while_acting_is_in_doubt(server, monkeypatch, query) -> None:
    """Only missing rights say that nothing was done."""
    monkeypatch.setattr(module, "ACT", query)
    with pytest.raises(MayHaveActed):
        ask(server, act("cancel", GONE), timeout_s=0.5)


def through(server: str, word: bytes, breaks: bool, work: Any, gives_up: bool = False) -> None:
    """Ask through a line with a fault; the connection must be given back."""

    async def asking() -> None:
        line = Faulty(int(server.rpartition(":")[2].partition("/")[0]), word, breaks)
        async with line.port() as port:
            url = f"postgresql://helper@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"
            if gives_up:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asked(url, work, timeout_s=60), 1)
            else:
                await asked(url, work, timeout_s=0.2)

    asyncio.run(asking())


@pytest.mark.parametrize("breaks", [False, True])
def test_a_server_that_hangs_or_breaks_off_is_unreachable_for_a_read(server, breaks) -> None:
    """The call ends within its time, and its thread and connection with it."""
    with pytest.raises(Unreachable, match="cannot be read" if breaks else "no answer within"):
        through(server, b"pg_stat_user_tables", breaks, lambda db: db.bloat())


@pytest.mark.parametrize("breaks", [False, True])
def test_a_server_that_hangs_or_breaks_off_may_have_acted(server, breaks) -> None:
    """Once the request has left, nobody knows."""
    with pytest.raises(MayHaveActed):
        through(server, b"pg_terminate_backend", breaks, act("terminate", GONE))


def test_before_the_request_has_left_nothing_was_done(server) -> None:
    """A connection that breaks off earlier certainly did not act."""
    with pytest.raises(Unreachable):
        through(server, b"set_config", True, act("terminate", GONE))


def test_who_gives_up_takes_the_thread_along(server) -> None:
    """A cancelled call leaves no connection behind that acts later."""
    through(server, b"pg_terminate_backend", False, act("terminate", GONE), gives_up=True)


def test_a_call_that_has_ended_uses_no_connection() -> None:
    """A thread that was still connecting when its time was up stops before it asks."""
    wire = module._Wire()
    wire.cut()
    with pytest.raises(TimeoutError):
        wire.lend(3)
    assert not wire.over


@pytest.mark.parametrize("url", ["postgresql://a@127.0.0.1:{}/x", "postgresql://a@no-such.invalid:{}/x"])
def test_nobody_there_is_unreachable(nobody, url) -> None:
    """Neither a port without listener nor a name without address."""
    port = nobody.rpartition(":")[2]
    for work in (lambda db: db.sessions(), act("cancel", GONE)):
        with pytest.raises(Unreachable, match="PostgreSQL at "):
            ask(url.format(port), work)


def test_something_else_that_listens_is_unreachable() -> None:
    """What says nothing, or nothing that PostgreSQL would say, is not the server."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable):
        ask(f"postgresql://a@127.0.0.1:{silent.getsockname()[1]}/x", lambda db: db.sessions(), timeout_s=0.1)


def test_a_password_is_used_and_never_shown(server) -> None:
    """It goes to the server only; no error and no representation has it."""
    with closing(psycopg.connect(server.format("postgres"), autocommit=True)) as admin:
        admin.execute("ALTER ROLE helper PASSWORD 'hush-hush'")
    adapter = Postgres(server.format("helper"), SecretStr("hush-hush"))
    assert asyncio.run(adapter.bloat()) == []
    assert "hush-hush" not in repr(adapter._engine) + repr(vars(adapter))


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a@b/c",
        "postgresql://a:hush@b/c",
        "postgresql://a@b/c?password=hush",
        "no address",
        "postgresql://a@b:x/",
    ],
)
def test_another_address_is_a_wrong_setting(url) -> None:
    """Also one that holds a password, which belongs to the secrets; it is not repeated."""
    with pytest.raises(SettingsError) as caught:
        Postgres(url)
    assert "hush" not in str(caught.value)


def test_a_missing_extra_is_said_with_its_name(monkeypatch) -> None:
    """Without the driver the install line is given."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"rbkit\[postgres\]"):
        ask("postgresql://a@127.0.0.1:1/x", lambda db: db.sessions())


def test_ping_says_which_role_is_missing(server, nobody) -> None:
    """Without one role others' sessions are not seen, without the other one they cannot be ended."""
    assert "as helper; reads and writes" in pinged(Postgres(server.format("helper")))
    assert "as seer; reads; to end others' sessions, GRANT pg_signal" in pinged(Postgres(server.format("seer")))
    with pytest.raises(Refused, match="sessions to nobody"):
        pinged(Postgres(server.format("nobody")))
    with pytest.raises(Unreachable):
        pinged(Postgres(f"postgresql://u@{nobody.removeprefix('http://')}/x"))
