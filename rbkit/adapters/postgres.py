"""PostgreSQL, through its statistics views.

Source: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SIGNAL
"""

import asyncio
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from rbkit.adapters.postgres_queries import ACT, BLOAT, BLOCKED, MOST_ROWS, PING, REPLICAS, SESSIONS, STATE, TERMS
from rbkit.adapters.sqltext import without_values
from rbkit.adapters.told import told
from rbkit.capability import State, read
from rbkit.datakinds import Bloat, Blocked, Database, Replica, Session
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["Postgres", "named"]

_TARGET = re.compile(r"([1-9]\d{0,8})@(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)")
_FUNCTIONS = {"cancel": "pg_cancel_backend(pid)", "terminate": "pg_terminate_backend(pid)"}
_SEE, _SIGNAL = "GRANT pg_read_all_stats TO the user", "GRANT pg_signal_backend TO the user"
_KEEP = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2}
_M = TypeVar("_M", bound=BaseModel)
Rows = list[dict[str, Any]]


_used: ContextVar["_Wire"] = ContextVar("used")


class Postgres(Database):
    """A PostgreSQL server, 14 or later. It cannot remember fencing tokens; a session is hit by pid and start at once.

    A connection is opened for each call and closed after it, so that rbkit holds none while a server runs out of them.

    Args:
        url: Its address without a password, for example `postgresql://rbkit@db-1:5432/postgres?sslmode=verify-full`.
        password: The user's password; never shown.
        superusers: Whether sessions of superusers may be cancelled and terminated.
        replication: Whether sessions that feed replicas may be terminated.
        timeout_s: The longest a call may take, seconds.

    Raises:
        SettingsError: The address is none of PostgreSQL, or holds a password.
    """

    def __init__(
        self, url: str, password: SecretStr | None = None, superusers: bool = False, replication: bool = False,
        timeout_s: float = 10.0,
    ) -> None:  # fmt: skip
        self._url, self._password, self._timeout_s = url, password, timeout_s
        self._allowed = {"superusers": superusers, "replication": replication}
        self._engine: Engine | None = None
        self._name = _checked(url)

    @read
    async def sessions(self, idle_in_transaction_s: float = 0.0, running_s: float = 0.0) -> list[Session]:
        """List the client sessions, the longest transaction first."""
        rows = await self._rows(SESSIONS, {"idle": idle_in_transaction_s, "running": running_s})
        return _models(Session, [{**row, "query": without_values(str(row["query"] or ""))} for row in rows])

    @read
    async def blocked(self) -> list[Blocked]:
        """List who waits for whose lock, the longest wait first."""
        return _models(Blocked, await self._rows(BLOCKED))

    @read
    async def replicas(self) -> list[Replica]:
        """List the replicas; empty when there is none."""
        return _models(Replica, await self._rows(REPLICAS))

    @read
    async def bloat(self, most: int = 20) -> list[Bloat]:
        """List the tables of the database that the address names with the most dead rows."""
        return _models(Bloat, await self._rows(BLOAT, {"most": max(0, min(most, MOST_ROWS))}))

    async def state(self, target: str) -> State:
        """Say whether a session is there, and since when its query runs."""
        rows = await self._rows(STATE, named(target))
        if not rows:
            return {"present": False, "state": "", "query_started": None}
        (row,) = rows
        started = row["query_started"].astimezone(UTC).isoformat() if row["query_started"] else None
        return {"present": True, "state": row["state"], "query_started": started}

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Cancel or terminate, if the pid still belongs to the session; one that has gone needs nothing."""
        values = {**named(call.target), **self._allowed}
        rows = await self._ask(ACT.format(_FUNCTIONS[call.action]), values, acts=True)
        if rows and not rows[0]["done"]:
            raise Refused(f"{call.target} is {_protected(rows[0])}.", todo="Leave it, or allow it in the environment.")

    async def ping(self) -> str:
        """Ask as whom we are there, and which roles we have.

        Raises:
            Refused: The user may not log in, or would not see other users' sessions.
            Unreachable: The server was not reached.
            BadAnswer: It answers oddly.
        """
        (found,) = await self._ask(PING, {}, acts=False)
        who = told(found["who"])
        if not found["sees"]:
            raise Refused(f"{self._name} does not show other users' sessions to {who}.", todo=f"{_SEE}.")
        may = "reads and writes" if found["signals"] else f"reads; to end others' sessions, {_SIGNAL}"
        return f"PostgreSQL {told(found['version'])}, as {who}; {may}"

    async def aclose(self) -> None:
        """Nothing is kept open between calls."""

    async def _rows(self, query: str, values: Mapping[str, Any] | None = None) -> Rows:
        rows = await self._ask(query, values or {}, acts=False)
        if any(row.get("hidden") for row in rows):
            raise Refused(f"{self._name} does not show other users' sessions to this user.", todo=f"{_SEE}.")
        return rows

    async def _ask(self, query: str, values: Mapping[str, Any], *, acts: bool) -> Rows:
        """Ask in a thread; when the time is up the connection is cut, so that the thread ends, too."""
        errors, wire = _errors(), _Wire()
        task = asyncio.ensure_future(asyncio.to_thread(self._asked, query, values, wire))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s + 1)
        finally:
            wire.cut()
            await asyncio.gather(task, return_exceptions=True)
        try:
            return task.result()
        except errors as error:
            raise self._translated(error, wire, acts) from error

    def _asked(self, query: str, values: Mapping[str, Any], wire: "_Wire") -> Rows:
        from sqlalchemy import text

        _used.set(wire)  # this thread's context is a copy, and ends with it
        try:
            with self._engine_of().connect() as connection:
                connection.execute(text(TERMS), {"ms": str(int(self._timeout_s * 1000))})
                wire.asked = True
                rows = [dict(row) for row in connection.execute(text(query), dict(values)).mappings()]
                connection.rollback()
                wire.back()
        finally:
            wire.back()
        return rows

    def _engine_of(self) -> "Engine":
        from sqlalchemy import NullPool, create_engine, event, make_url

        if self._engine is None:
            secret = self._password.get_secret_value() if self._password else None
            url = make_url(self._url).set(drivername="postgresql+psycopg", password=secret)
            wait = {"connect_timeout": max(2, int(self._timeout_s / 2)), "application_name": "rbkit", **_KEEP}
            self._engine = create_engine(url, poolclass=NullPool, connect_args=wait, hide_parameters=True)
            event.listen(self._engine, "do_connect", _connected)
        return self._engine

    def _translated(self, error: Exception, wire: "_Wire", acts: bool) -> AdapterError:
        """Say what an error of the client libraries means; none of them gets out."""
        cause = getattr(error, "orig", None) or error
        code, said = getattr(cause, "sqlstate", None), _words(cause)
        if code == "42501":
            return Refused(f"{self._name} refuses: {said}.", todo=f"{_SIGNAL if acts else _SEE}.")
        if wire.over:
            said = f"no answer within {self._timeout_s:g} s"
        if acts and wire.asked:
            return MayHaveActed(f"{self._name} gave no usable answer: {said}.")
        if not wire.asked or code is None or code[:2] in {"08", "57"}:
            return Unreachable(f"{self._name} cannot be read: {said}.")
        return BadAnswer(f"{self._name} answered with an error: {said}.")


def _connected(dialect: Any, record: Any, given: Any, named: Any) -> Any:
    """Connect, and let the connection be cut from its first moment: the library itself asks a server what it is."""
    connection = dialect.connect(*given, **named)
    _used.get().lend(connection.pgconn.socket)
    return connection


class _Wire:
    """A connection that a thread uses, and that somebody else may cut."""

    def __init__(self) -> None:
        self.asked = self.over = self._ended = False
        self._lock, self._fd = threading.Lock(), -1

    def lend(self, fd: int) -> None:
        """Let the connection be cut while it is used; its number may mean another one afterwards."""
        with self._lock:
            if self._ended:
                raise TimeoutError("it took too long to connect")
            self._fd = fd

    def back(self) -> None:
        """Take it back before it is closed."""
        with self._lock:
            self._fd = -1

    def cut(self) -> None:
        """End what waits on the connection; nothing once the thread is through."""
        with self._lock, suppress(OSError):
            self._ended = True
            if self._fd >= 0:
                self.over = True
                with socket.socket(fileno=socket.dup(self._fd)) as line:
                    line.shutdown(socket.SHUT_RDWR)


def _errors() -> tuple[type[Exception], ...]:
    """List what the client libraries raise."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        from psycopg import Error
    except ImportError as error:
        raise SettingsError("PostgreSQL needs an extra.", todo="pip install 'rbkit[postgres]'") from error
    return SQLAlchemyError, Error, OSError, ValueError


def _checked(url: str) -> str:
    """Return what the server is called in errors."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("The address of PostgreSQL is none; write postgresql://user@host:port/database.") from error
    if parsed.get_backend_name() != "postgresql" or parsed.password or "password" in parsed.query:
        raise SettingsError(
            "A PostgreSQL's address is postgresql://user@host:port/database; the password stands apart."
        )
    return f"PostgreSQL at {parsed.host or 'localhost'}:{parsed.port or 5432}"


def named(target: str) -> dict[str, Any]:
    """Take a session's name apart: its process id, and when it began.

    Raises:
        NotFound: It is no session's name.
    """
    found = _TARGET.fullmatch(target)
    try:
        return {"pid": int(found[1]), "start": datetime.fromisoformat(found[2])} if found else _unknown(target)
    except ValueError:
        return _unknown(target)


def _unknown(target: str) -> dict[str, Any]:
    raise NotFound(f"{target!r} is no session.", todo="A session is named pid@start, as `sessions` lists it.")


def _protected(row: Mapping[str, Any]) -> str:
    if row["hidden"]:
        return f"not shown to this user; {_SEE}"
    if row["own"]:
        return "rbkit's own session"
    return "a superuser's session" if row["super"] else f"a {row['type']}, no client's session"


def _models(kind: type[_M], rows: Rows) -> list[_M]:
    try:
        return [kind.model_validate(row) for row in rows]
    except ValidationError as error:
        raise BadAnswer(f"PostgreSQL described a {kind.__name__} in an unknown form.") from error


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
