"""Every database, in memory or real, keeps the same promises."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pings import pinged
from servers.postgres import postgres

from rbkit.adapters.fake_data import FakeDatabase
from rbkit.adapters.postgres import Postgres
from rbkit.capability import Plan
from rbkit.datakinds import Bloat, Blocked, Database, Session
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call

NEVER = "1@2020-01-01T00:00:00.000000Z"
HOLDER, WAITER = "11@2026-01-01T00:00:00.000001Z", "22@2026-01-01T00:00:00.000002Z"
UPDATE = "UPDATE stock SET left_over = left_over - 4711 WHERE item = 'Alice''s secret'"


@dataclass
class Scene:
    """A database in which one session keeps a transaction open and another one waits for it."""

    use: Callable[[Callable[[Database], Awaitable[Any]]], Any]
    holds: str
    waits: str

    def state(self, target: str) -> Any:
        """Read a session's state."""
        return self.use(lambda db: db.state(target))

    def plan(self, action: str, target: str) -> Plan:
        """Plan a change of a session as it is now."""

        async def planned(db: Database) -> Plan:
            return db.plan(call(action, target), await db.state(target))

        return self.use(planned)

    def apply(self, action: str, target: str) -> None:
        """Make a change."""
        self.use(lambda db: db.apply(call(action, target), uuid4().hex, 1))


def call(action: str, target: str) -> Call:
    """Make a call."""
    return Call(capability="db", action=action, target=target)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A real PostgreSQL with a table, a user whose sessions get in each other's way, and one for rbkit."""
    folder: Path = tmp_path_factory.mktemp("pg")
    with postgres(folder) as url:
        plain = url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as admin:
            for statement in (
                "CREATE ROLE app LOGIN", "CREATE ROLE helper LOGIN", "GRANT pg_monitor, pg_signal_backend TO helper",
                "CREATE TABLE stock (item text PRIMARY KEY, left_over int)", "GRANT ALL ON stock TO app",
                "INSERT INTO stock VALUES ('Alice''s secret', 1)",
            ):  # fmt: skip
                admin.execute(statement)
        yield plain.replace("postgres@", "{}@")


@contextmanager
def blocked(address: str, until: Any) -> Iterator[Scene]:
    """Let one session of `app` hold a row's lock and another one wait for it."""
    names: list[str] = []

    def work(connection: "psycopg.Connection[Any]") -> None:
        with suppress(psycopg.Error):
            connection.execute(UPDATE)

    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(closing(psycopg.connect(address.format("app"), autocommit=True)))
            row = connection.execute(
                "SELECT pid || '@' || to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')"
                " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            ).fetchone()
            names.append(row[0])
            connection.execute("BEGIN")
            waiter = threading.Thread(target=work, args=(connection,))
            waiter.start()
            if len(names) == 1:
                waiter.join(10)
        stack.callback(waiter.join, 10)
        stack.enter_context(ended(address, names))
        adapter = Postgres(address.format("helper"))
        scene = Scene(lambda work: asyncio.run(work(adapter)), *names)
        until(lambda: scene.use(lambda db: db.blocked()))
        yield scene


@contextmanager
def ended(address: str, names: list[str]) -> Iterator[None]:
    """End the sessions when the block is left, whatever has become of them."""
    try:
        yield
    finally:
        with psycopg.connect(address.format("postgres"), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = ANY(%s) AND usename = 'app'",
                ([int(name.partition("@")[0]) for name in names],),
            )


def in_memory() -> FakeDatabase:
    """The same scene in memory."""
    common = {"user": "app", "database": "postgres", "application": "", "client": "127.0.0.1"}
    shown = "UPDATE stock SET left_over = left_over - ? WHERE item = ?"
    holder = Session(
        target=HOLDER, pid=11, state="idle in transaction", waits_for="Client: ClientRead", transaction_s=9, query_s=0,
        query=shown, **common,
    )  # fmt: skip
    waiter = Session(
        target=WAITER, pid=22, state="active", waits_for="Lock: transactionid", transaction_s=8, query_s=8,
        query=shown, **common,
    )  # fmt: skip
    pair = Blocked(waits=WAITER, holds=HOLDER, relation="stock", mode="ShareLock", waited_s=8)
    tables = [Bloat(table="public.stock", live=1, dead=5, vacuumed_at=None)]
    return FakeDatabase([waiter, holder], [pair], [], tables)


@pytest.fixture(params=["fake", "postgres"])
def scene(request, until) -> Iterator[Scene]:
    """A scene of each kind of database."""
    if request.param == "fake":
        fake = in_memory()
        yield Scene(lambda work: asyncio.run(work(fake)), HOLDER, WAITER)
        return
    with blocked(request.getfixturevalue("server"), until) as real:
        yield real


def test_sessions_are_listed_the_longest_transaction_first(scene) -> None:
    """Who they are, what they do and what they wait for; a query shows no values."""
    first, second = (s for s in scene.use(lambda db: db.sessions()) if s.user == "app")
    assert [first.target, second.target] == [scene.holds, scene.waits]
    assert (first.state, second.state) == ("idle in transaction", "active")
    assert first.transaction_s >= second.transaction_s > 0 and second.query_s > 0 == first.query_s
    assert second.waits_for.startswith("Lock: ") and int(second.target.partition("@")[0]) == second.pid
    assert first.query == second.query == "UPDATE stock SET left_over = left_over - ? WHERE item = ?"


def test_sessions_are_narrowed_by_what_they_do(scene) -> None:
    """Idle in a transaction for long, a query that has run for long, or either; a day is longer than all."""
    for limits, expected in (
        ((0.001, 0.0), [scene.holds]), ((0.0, 0.001), [scene.waits]), ((0.001, 0.001), [scene.holds, scene.waits]),
        ((86_400.0, 86_400.0), []), ((86_400.0, 0.001), [scene.waits]), ((0.001, 86_400.0), [scene.holds]),
    ):  # fmt: skip
        found = scene.use(lambda db, limits=limits: db.sessions(*limits))
        assert [session.target for session in found] == expected


def test_who_waits_for_whom_is_shown(scene) -> None:
    """Both by the names that cancel and terminate take, with the relation and the kind of lock."""
    (pair,) = scene.use(lambda db: db.blocked())
    assert (pair.waits, pair.holds, pair.relation) == (scene.waits, scene.holds, "stock")
    assert pair.mode.endswith("Lock") and pair.waited_s > 0


def test_there_is_no_replica_and_the_table_is_listed(scene) -> None:
    """No replica is an empty list; the most dead rows come first, and no more than asked for."""
    assert scene.use(lambda db: db.replicas()) == []
    assert [table.table for table in scene.use(lambda db: db.bloat())] == ["public.stock"]
    assert scene.use(lambda db: db.bloat(0)) == []


def test_cancel_ends_the_query_and_keeps_the_session(scene, until) -> None:
    """The waiter's query is broken off, its session stays; the plan says that nothing brings the work back."""
    plan = scene.plan("cancel", scene.waits)
    assert plan.irreversible and plan.undo is None
    scene.apply("cancel", scene.waits)
    until(lambda: plan.differs.items().isdisjoint(scene.state(scene.waits).items()))
    state = scene.state(scene.waits)
    assert state["present"] and state["query_started"] is None
    assert scene.use(lambda db: db.blocked()) == [] and scene.state(scene.holds)["present"]


def test_terminate_ends_the_session_and_frees_who_waits(scene, until) -> None:
    """The holder is gone, so that nobody is blocked any more; the waiter is not touched."""
    plan = scene.plan("terminate", scene.holds)
    assert plan.after == {"present": False} and plan.irreversible
    scene.apply("terminate", scene.holds)
    until(lambda: plan.after.items() <= scene.state(scene.holds).items())
    until(lambda: scene.use(lambda db: db.blocked()) == [])
    assert scene.state(scene.waits)["present"]


def test_what_has_gone_needs_nothing(scene, until) -> None:
    """A session that is not there any more is no error: what is wanted holds already, again and again."""
    scene.apply("terminate", scene.holds)
    until(lambda: not scene.state(scene.holds)["present"])
    for action in ("cancel", "terminate"):
        assert scene.plan(action, scene.holds).after == {"present": False}
        scene.apply(action, scene.holds)
        scene.apply(action, NEVER)
    assert scene.state(NEVER) == {"present": False, "state": "", "query_started": None}


def test_a_fence_needs_no_session(scene) -> None:
    """The holder of a lease may announce its token for a session that is there, and for one that has gone."""
    for target in (scene.waits, NEVER):
        scene.use(lambda db, target=target: db.fence(target, 1))
    assert scene.state(scene.waits)["present"]


def test_an_idle_transaction_is_not_cancelled(scene) -> None:
    """Cancelling it would change nothing and look like success, so that it is refused and terminate is named."""
    with pytest.raises(Refused, match="terminate"):
        scene.plan("cancel", scene.holds)


def test_cancelling_a_session_that_runs_nothing_holds_already(scene, until) -> None:
    """A query that ended by itself in the meantime was what was wanted."""
    scene.apply("cancel", scene.waits)
    until(lambda: scene.state(scene.waits)["query_started"] is None)
    assert scene.plan("cancel", scene.waits) == Plan(after={"query_started": None})


@pytest.mark.parametrize(
    "name", ["no-such", "", "12", "x@2026-01-01", "-1@2026-01-01", "1@2026-13-01T00:00:00.000000Z"]
)
def test_what_is_no_session_is_not_found(scene, name) -> None:
    """A name of another form is never guessed at."""
    for work in (lambda db: db.state(name), lambda db: db.apply(call("terminate", name), uuid4().hex, 1)):
        with pytest.raises(NotFound, match="no session"):
            scene.use(work)


def test_ping_says_who_we_are_and_what_we_may_do(server) -> None:
    """One line: what it is, as whom we are there, and that no right is missing."""
    assert "in memory" in pinged(FakeDatabase([]))
    assert "as helper; reads and writes" in pinged(Postgres(server.format("helper")))
