"""Metrics from a SQL database: PostgreSQL in production; SQLite for small tools and tests."""

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import SecretStr

from rbkit.adapters.told import told, user
from rbkit.costs import bounded, spend
from rbkit.errors import AdapterError, BadAnswer, Refused, SettingsError, Unreachable
from rbkit.ports import Bound, Language, Window
from rbkit.queries import sql_code

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import URL, Connection, Engine

__all__ = ["SqlMetrics"]

_CHUNK = 1_000
_CONNECT_S = 3
_GRACE_S = 2.0
_AWAY = {"57014", "57P01", "57P02", "57P03", "53300", "55P03", "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_INTERRUPT"}
_DENIED = {"25006", "28000", "28P01", "42501", "SQLITE_READONLY"}
"""Stopped, shutting down or full; written in spite of the guard, or without the right to read.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html, https://www.sqlite.org/rescode.html
"""
_DENIED_WORDS = ("authentication failed", "no password supplied", "pg_hba.conf")
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg", "sqlite": "sqlite"}
_PINGS = {
    "postgresql": "SELECT (current_setting('is_superuser') = 'on')::int AS value, current_user AS who, "
    "current_setting('server_version') AS version",
    "sqlite": "SELECT count(*) AS value, sqlite_version() AS version FROM sqlite_master",
}
_Rows = list[tuple[Any, ...]]


class SqlMetrics:
    """Reads numbers with a SELECT, in a transaction that can only read.

    The answer's column `value` is the number, `time` its moment (the end of the window when there is none), every
    other column is a label. `:start` and `:end` stand for the window. Give it a database user that may only read:
    a read-only transaction does not keep a function such as pg_terminate_backend from acting.

    Args:
        url: The database, for example `postgresql://rbkit@db.example:5432/shop` or `sqlite:////var/lib/shop.db`; no
            password in it.
        password: The user's password.
        timeout_s: How long a question may take, seconds; then the database is told to stop and the connection is cut.
        max_rows: More rows than this in one answer are refused.

    Raises:
        SettingsError: The address is none, of another database, or holds a password.
    """

    language: ClassVar[Language] = "sql"

    def __init__(
        self, url: str, password: SecretStr | None = None, timeout_s: float = 10.0, max_rows: int = 50_000
    ) -> None:
        self._url = _address(url, password)
        self._timeout_s, self._max_rows = float(timeout_s), int(max_rows)

    @property
    def name(self) -> str:
        """How the database is called in errors, without user and password."""
        return f"The database {self._url.database} at {self._url.host or 'this machine'}"

    async def query(self, query: Bound, window: Window) -> "pd.DataFrame":
        """Read numbers.

        Args:
            query: One SELECT with its values, already rendered.
            window: Its ends are `:start` and `:end`; its step is not used.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `value` (float64), one text column per other column; sorted by
            time.

        Raises:
            Refused: The user may not log in or read this, or the statement would write.
            BadAnswer: The database does not understand the statement, or its answer has no `value`, no numbers or too
                many rows.
            Unreachable: It was not reached, or did not answer in time.
        """
        return await asyncio.to_thread(self._ask, query, window)

    async def ping(self) -> str:
        """Ask as whom we are there, and which version it is.

        Raises:
            Refused: The user may not log in.
            BadAnswer: It is no database, or answers oddly.
            Unreachable: It was not reached, or did not answer in time.
        """
        now, kind = datetime.now(UTC), self._url.get_backend_name()
        found = (await self.query(Bound(_PINGS[kind], {}), Window(now, now, 1.0))).iloc[0]
        if kind == "sqlite":
            return f"SQLite {told(found['version'])}, as {user()}; reads, the file is opened for nothing else"
        super_ = ", though a superuser: give it a user that may only read" if found["value"] else ""
        return f"PostgreSQL {told(found['version'])}, as {told(found['who'])}; reads in read-only transactions{super_}"

    async def aclose(self) -> None:
        """Nothing to give back: each question has a connection of its own."""

    def _ask(self, query: Bound, window: Window) -> "pd.DataFrame":
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        with bounded(), _Fuse(self._timeout_s + _GRACE_S) as fuse:
            engine = _engine(self._url, fuse)
            try:
                with engine.connect() as connection:
                    columns, rows = self._read(connection, query, window)
            except DBAPIError as error:
                raise self._refusal(error) from None  # what it says in full would repeat the values
            except (SQLAlchemyError, OverflowError, ValueError) as error:
                raise BadAnswer(f"{self.name} cannot be asked this: {_first_line(error)}") from None
            finally:
                engine.dispose()
        try:
            return _frame(columns, rows, window.end)
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise BadAnswer(f"{self.name} answered with something that is no series: {_first_line(error)}") from error

    def _read(self, connection: "Connection", query: Bound, window: Window) -> tuple[list[str], _Rows]:
        from sqlalchemy import text

        for setting in _guards(connection.dialect.name, self._timeout_s):
            connection.exec_driver_sql(setting)
        statement = text(_plain_colons(query.text))
        given = {"start": window.start, "end": window.end, **query.values}
        named = statement.compile().params
        used = {name: _bind(value, connection.dialect.name) for name, value in given.items() if name in named}
        streaming = connection.execution_options(stream_results=True, max_row_buffer=_CHUNK)
        with closing(streaming.execute(statement, used)) as answer:
            return list(answer.keys()), self._take(answer.fetchmany)

    def _take(self, more: Callable[[int], Sequence[Any]]) -> _Rows:
        """Take rows until there are none; too many rows or bytes are refused on the way."""
        rows: _Rows = []
        while found := [tuple(row) for row in more(_CHUNK)]:
            spend(sum(len(str(item)) for row in found for item in row), self.name)
            rows += found
            if len(rows) > self._max_rows:
                raise BadAnswer(f"{self.name} answered with more than {self._max_rows} rows.", todo="Narrow the query.")
        return rows

    def _refusal(self, error: Any) -> AdapterError:
        """Tell a database that is away or too slow from one that says no."""
        said, state = _first_line(error.orig), _code(error.orig)
        if state in _DENIED or (not state and any(word in said for word in _DENIED_WORDS)):
            return Refused(
                f"{self.name} refused: {said}", todo="Give its user the right to read, and the query no more."
            )
        unheard = not state and type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout"}
        if state in _AWAY or error.connection_invalidated or unheard:
            return Unreachable(f"{self.name} did not answer: {said}")
        return BadAnswer(f"{self.name} did not understand the query: {said}")


class _Fuse:
    """Cuts a connection when its time is up, so that the thread that waits for it ends too.

    Args:
        seconds: How long it may be used.
    """

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._burn)
        self._timer.daemon = True
        self._burnt = threading.Event()
        self._cuts: list[Callable[[], object]] = []
        self._wires: list[socket.socket] = []

    def guard(self, connection: Any) -> Any:
        """Remember how a connection is cut; the copy of its socket stays its own whatever becomes of the original."""
        if isinstance(connection, sqlite3.Connection):
            self._cuts.append(connection.interrupt)
        else:
            wire = socket.socket(fileno=os.dup(connection.fileno()))
            self._wires.append(wire)
            self._cuts.append(lambda: wire.shutdown(socket.SHUT_RDWR))
        if self._burnt.is_set():
            self._burn()
        return connection

    def _burn(self) -> None:
        self._burnt.set()
        for cut in list(self._cuts):
            with suppress(OSError, sqlite3.Error):
                cut()

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for wire in self._wires:
            wire.close()


def _address(url: str, password: SecretStr | None) -> "URL":
    """Read the address of a database; its text is never repeated, as it may hold a password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingsError(
            "`url` is no address of a database.", todo="Write postgresql://user@host:5432/name."
        ) from None
    if found.password is not None or {"password", "sslpassword", "passfile"} & set(found.query):
        raise SettingsError("`url` holds a password.", todo="Give it as `password: env:NAME`.")
    if found.drivername not in _DRIVERS or not found.database or found.database == ":memory:":
        raise SettingsError(
            f"{found.drivername} is no database that rbkit reads, or its name is missing.",
            todo="Write postgresql://user@host:5432/name or sqlite:////path/to/file.",
        )
    secret = password.get_secret_value() if password else None
    return found.set(drivername=_DRIVERS[found.drivername], password=secret)


def _engine(url: "URL", fuse: _Fuse) -> "Engine":
    """Make an engine for one question, whose connections hang on the fuse from their first moment."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    postgres = url.drivername.startswith("postgresql")
    more: dict[str, Any] = {"use_native_hstore": False} if postgres else {"paramstyle": "named"}
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, **more)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        if postgres:
            options |= {"connect_timeout": _CONNECT_S, "prepare_threshold": None, "application_name": "rbkit"}
            return fuse.guard(dialect.connect(*arguments, **options))
        return fuse.guard(sqlite3.connect(f"{Path(str(url.database)).absolute().as_uri()}?mode=ro", uri=True))

    @event.listens_for(engine, "handle_error")
    def close_cursor(context: Any) -> None:
        cursor: Any = getattr(context.execution_context, "cursor", None)
        with suppress(engine.dialect.loaded_dbapi.Error, AttributeError):
            cursor.close()  # when the connection is lost nobody else does

    return engine


def _guards(dialect: str, timeout_s: float) -> list[str]:
    """List the statements that make a transaction harmless; they also hold behind a pooler of connections."""
    if dialect == "sqlite":
        return ["PRAGMA query_only = ON"]
    most = max(int(timeout_s * 1000), 1)
    return [
        "SET TRANSACTION READ ONLY", f"SET LOCAL statement_timeout = {most}", f"SET LOCAL lock_timeout = {most}",
        "SET LOCAL standard_conforming_strings = on", "SET LOCAL TimeZone = 'UTC'",
    ]  # fmt: skip


def _plain_colons(query: str) -> str:
    """Keep the driver from looking for binds within strings, quoted names and comments."""
    code = sql_code(query)
    return "".join("\\:" if char == ":" and code[place] != ":" else char for place, char in enumerate(query))


def _bind(value: Any, dialect: str) -> Any:
    """Write a time for SQLite as its own functions write it; every other value is sent as it is."""
    if dialect == "sqlite" and isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def _frame(columns: list[str], rows: _Rows, end: datetime) -> "pd.DataFrame":
    """Make a tidy table.

    Raises:
        ValueError: There is no `value`, a column twice, or something in it is no number or time.
    """
    import pandas as pd

    if "value" not in columns or len(set(columns)) != len(columns):
        raise ValueError(f"its columns are {', '.join(columns)}; one `value` is needed, and none twice")
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    frame = pd.DataFrame({"time": [_moment(row.get("time", end)) for row in table]}, dtype="object")
    frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ns, UTC]")
    frame["value"] = pd.Series([_number(row["value"]) for row in table], dtype="float64")
    labels = [name for name in columns if name not in {"time", "value"}]
    for name in labels:
        frame[name] = pd.Series(["" if row[name] is None else str(row[name]) for row in table], dtype="str")
    return frame.sort_values(["time", *labels], ignore_index=True)


def _moment(value: Any) -> datetime:
    """Read a time; one without zone is UTC, a number is seconds since 1970."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, int | float | Decimal):
        value = datetime.fromtimestamp(float(value), UTC)
    if not isinstance(value, datetime):
        raise TypeError(f"`time` is {value!r:.40}, not a time")
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if not isinstance(value, int | float | Decimal):
        raise TypeError(f"`value` is {value!r:.40}, not a number")
    return float(value)


def _code(error: object) -> str:
    """Take the code that a database gives to an error; none when it was not heard."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None) or "")


def _first_line(error: object) -> str:
    """Take the first line of what a database said, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
