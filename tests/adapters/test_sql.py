"""A database that is away, slow, closed or odd: each has its error, and nothing that is secret is in it."""

import asyncio
import socket
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pings import pinged
from pydantic import SecretStr
from servers.postgres import postgres

from rbkit.adapters import sql
from rbkit.adapters.sql import SqlMetrics
from rbkit.costs import counted
from rbkit.errors import BadAnswer, Refused, SettingsError, Unreachable
from rbkit.ports import Bound, Window

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
FOREVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS value FROM c"
CANARY = "hunter2-canary"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with a user who must give a password, and one who may read nothing."""
    folder = tmp_path_factory.mktemp("postgres")
    with postgres(folder) as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE secret (value int)")
            connection.execute("CREATE SEQUENCE numbers")
            connection.execute("CREATE ROLE nobody LOGIN")
        yield url


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The address of an empty SQLite database."""
    sqlite3.connect(tmp_path / "shop.db").close()
    return f"sqlite:///{tmp_path / 'shop.db'}"


def ask(url: str, query: str = "SELECT 1 AS value", values: Any = None, **options: Any) -> Any:
    """Ask a database that may be odd."""
    return asyncio.run(SqlMetrics(url, **options).query(Bound(query, values or {}), WINDOW))


@contextmanager
def wire(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Take one connection after the other and answer it, as a PostgreSQL that is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"postgresql://rbkit@127.0.0.1:{server.getsockname()[1]}/shop?sslmode=disable&gssencmode=disable"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "no address"), ("mysql://u@h/db", "no database that rbkit reads"),
        ("postgresql://h", "name is missing"), ("postgresql://h:port/db", "no address"),
        (f"postgresql://u:{CANARY}@h/db", "holds a password"),
        (f"postgresql://u@h/db?password={CANARY}", "holds a password"),
        ("sqlite://", "name is missing"), ("sqlite:///:memory:", "name is missing"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_repeating_it(url, why) -> None:
    """What may hold a password is never repeated."""
    with pytest.raises(SettingsError, match=why) as caught:
        SqlMetrics(url)
    assert CANARY not in str(caught.value) + "".join(traceback.format_exception(caught.value))


def test_nobody_there_is_unreachable(nobody) -> None:
    """Neither the password nor the address's user is in the error or in the source's text."""
    url = nobody.replace("http://", "postgresql://rbkit@") + "/shop"
    source = SqlMetrics(url, password=SecretStr(CANARY))
    with pytest.raises(Unreachable, match="The database shop at 127.0.0.1 did not answer") as caught:
        asyncio.run(source.query(Bound("SELECT 1 AS value", {}), WINDOW))
    shown = "".join(traceback.format_exception(caught.value)) + repr(source) + str(vars(source))
    assert CANARY not in shown


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E\x00\x00\x00\x05\x00", b"R\xff\xff\xff\xff", b"N" * 64]
)
def test_something_that_is_no_database_is_unreachable(said) -> None:
    """A closed connection, another protocol, and broken messages are told as such."""
    with wire(lambda connection: connection.sendall(said)) as url, pytest.raises(Unreachable, match="did not answer"):
        ask(url)


def test_a_database_that_takes_the_connection_and_says_nothing_is_given_up() -> None:
    """The thread that waits ends too."""
    over = threading.Event()
    before = threading.active_count()
    with wire(lambda connection: over.wait(20)) as url:
        try:
            with pytest.raises(Unreachable):
                ask(url)
        finally:
            over.set()
    assert threading.active_count() <= before


def test_a_slow_statement_is_stopped_by_the_database(database) -> None:
    """PostgreSQL itself ends what takes too long."""
    with pytest.raises(Unreachable, match="statement timeout"):
        ask(database, "SELECT pg_sleep(60), 1 AS value", timeout_s=0.2)


def test_a_connection_is_cut_when_the_database_does_not_stop(database, monkeypatch) -> None:
    """Where nothing ends the statement, the connection is cut, and the thread that waits for it ends."""
    monkeypatch.setattr(sql, "_GRACE_S", 0.0)
    monkeypatch.setattr(sql, "_guards", lambda dialect, timeout_s: [])
    began = time.monotonic()
    with pytest.raises(Unreachable, match="did not answer"):
        ask(database, "SELECT pg_sleep(60), 1 AS value", timeout_s=0.5)
    assert time.monotonic() - began < 50


def test_a_statement_without_end_is_stopped_in_a_file_too(file, monkeypatch) -> None:
    """SQLite is interrupted."""
    monkeypatch.setattr(sql, "_GRACE_S", 0.0)
    with pytest.raises(Unreachable, match="interrupted"):
        ask(file, FOREVER, timeout_s=0.2)


def test_a_connection_that_comes_after_its_time_is_cut_at_once(file) -> None:
    """When connecting took all the time, nothing is asked any more."""
    with sql._Fuse(60) as fuse, sqlite3.connect(":memory:") as connection:
        fuse._burn()
        assert fuse.guard(connection) is connection
    connection.close()
    with sql._Fuse(60) as fuse:
        left, right = socket.socketpair()
        with left, right:
            fuse.guard(left)
            fuse._burn()
            fuse._burn()
            assert right.recv(1) == b""


def test_who_may_not_read_is_refused(database) -> None:
    """Neither a missing right nor a write is tried again."""
    other = database.replace("postgres@", "nobody@")
    with pytest.raises(Refused, match="permission denied"):
        ask(other, "SELECT value FROM secret")
    with pytest.raises(Refused, match="read-only transaction"):
        ask(database, "SELECT nextval('numbers') AS value")


def test_who_cannot_log_in_is_refused() -> None:
    """A wrong password is not tried again, and is not in the error."""
    message = b'SFATAL\0C28P01\0Mpassword authentication failed for user "rbkit"\0\0'
    answer = b"E" + (len(message) + 4).to_bytes(4, "big") + message
    reply = wire(lambda connection: (connection.recv(1000), connection.sendall(answer)))
    with reply as url, pytest.raises(Refused, match="authentication failed") as caught:
        ask(url, password=SecretStr(CANARY))
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_not_there_is_not_made(tmp_path) -> None:
    """Reading makes no empty database."""
    with pytest.raises(Unreachable, match="unable to open"):
        ask(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_no_database_is_a_bad_answer(tmp_path) -> None:
    """It is there, and is something else."""
    (tmp_path / "a.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(BadAnswer, match="not a database"):
        ask(f"sqlite:///{tmp_path / 'a.db'}", "SELECT count(*) AS value FROM sqlite_master")


@pytest.mark.parametrize("value", [10**30, b"x" * 3])
def test_values_that_a_driver_does_not_take_are_told(file, value) -> None:
    """An integer that is too large for SQLite, and a number that is none."""
    with pytest.raises(BadAnswer):
        ask(file, "SELECT :x AS value", {"x": value})


def test_a_bind_without_a_value_is_told(file) -> None:
    """A query that was not made by render."""
    with pytest.raises(BadAnswer, match="cannot be asked this"):
        ask(file, "SELECT :x AS value")


def test_times_that_no_table_can_hold_are_told(file) -> None:
    """Before 1677, after 2262, and no date at all."""
    for moment in ("'0001-01-01'", "'9999-12-31'", "1e300", "x'00'"):
        with pytest.raises(BadAnswer, match="no series"):
            ask(file, f"SELECT 1 AS value, {moment} AS time")


def test_a_number_beyond_floats_is_infinite(database) -> None:
    """A numeric that no float can hold does not crash anything."""
    assert ask(database, "SELECT 10::numeric ^ 1000 AS value")["value"].tolist() == [float("inf")]


def test_too_many_bytes_are_refused(file) -> None:
    """The environment file's limit holds for databases too."""
    with counted(1000), pytest.raises(BadAnswer, match="more than"):
        ask(file, "SELECT 1 AS value, printf('%2000s', 'a') AS label")


def test_an_infinite_time_is_told(database) -> None:
    """PostgreSQL knows moments that Python does not."""
    with pytest.raises(BadAnswer):
        ask(database, "SELECT 1 AS value, CAST('infinity' AS timestamptz) AS time")


def test_ping_says_as_whom_and_warns_of_a_superuser(database, file, tmp_path) -> None:
    """A superuser could act through functions, even in a transaction that only reads."""
    assert "though a superuser" in pinged(SqlMetrics(database))
    said = pinged(SqlMetrics(database.replace("postgres@", "nobody@")))
    assert "as nobody; reads" in said and "superuser" not in said
    assert "SQLite 3" in pinged(SqlMetrics(file))


def test_ping_tells_what_is_no_database(tmp_path, nobody) -> None:
    """A file of something else, and a server that is not there."""
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(BadAnswer, match="not a database"):
        pinged(SqlMetrics(f"sqlite:///{tmp_path / 'text.db'}"))
    with pytest.raises(Unreachable):
        pinged(SqlMetrics(f"postgresql://u@{nobody.removeprefix('http://')}/x"))
