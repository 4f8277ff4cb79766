"""Migrations of the store."""

import json
import runpy
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, insert

from rbkit import events as ev
from rbkit.entries import Entry, seal_entry
from rbkit.errors import StoreUnavailable
from rbkit.journal import verify
from rbkit.stores import tables
from rbkit.stores.migrate import upgrade
from rbkit.stores.sqlite import SqliteStore
from rbkit.stores.tables import REVISION

VERSIONS = Path(tables.__file__).parent / "migrations" / "versions"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPENER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import rbkit.stores.migrate
from rbkit.stores.sqlite import SqliteStore

print("ready", flush=True)
sys.stdin.readline()
store = SqliteStore(Path(sys.argv[1]))
print(len(store.read("r")), store.acquire("a", sys.argv[2], datetime(2026, 1, 1, tzinfo=UTC), 60.0).token)
store.close()
"""


def written() -> list[Entry]:
    """Make a journal of three entries."""
    entries, prev = list[Entry](), ""
    for seq in range(3):
        event = ev.InputRefused(runbook="b", field=str(seq), why="w")
        entries.append(seal_entry("r", seq, "2026", "os:a", "cli", event, prev))
        prev = entries[-1].hash
    return entries


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a store that the first version of rbkit made, with a journal and an answer in it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'rbkit.db'}")
    real = command.upgrade
    with monkeypatch.context() as before, engine.connect() as connection, connection.begin():
        before.setattr(command, "upgrade", lambda config, revision: real(config, "0001"))
        upgrade(connection)
        for entry in written():
            row = entry.model_dump(exclude={"event"}) | {"event": json.dumps(entry.event)}
            connection.execute(insert(tables.journal).values(row))
        connection.execute(insert(tables.tape).values(name="kept", data=b"answer"))
    engine.dispose()
    return tmp_path


def revisions(home: Path) -> list[tuple[str]]:
    """Read which revision a store says it is at."""
    with closing(sqlite3.connect(home / "rbkit.db")) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchall()


def test_the_newest_migration_is_the_revision_that_is_needed():
    """A migration that is added without its number in the code would never be applied."""
    found = {path: runpy.run_path(str(path)) for path in VERSIONS.glob("[0-9]*.py")}
    before = {module["down_revision"] for module in found.values()}
    assert [module["revision"] for module in found.values() if module["revision"] not in before] == [REVISION]


def test_upgrading_twice_changes_nothing():
    """Two processes that both find an empty file may both upgrade it."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection, connection.begin():
        upgrade(connection)
        upgrade(connection)
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]
    engine.dispose()


def test_a_journal_is_never_thrown_away():
    """Going back below the first revision is refused."""
    for path in VERSIONS.glob("[0-9]*.py"):
        with pytest.raises(RuntimeError, match="never thrown away"):
            runpy.run_path(str(path))["downgrade"]()


def test_an_old_store_is_upgraded_in_place(old):
    """Its journals and answers are what they were, to the letter, and leases can be taken from then on."""
    assert revisions(old) == [("0001",)]
    store = SqliteStore(old)
    assert store.read("r") == written()
    verify(store.read("r"))
    assert store.fetch("kept") == b"answer"
    assert store.leases() == []
    assert store.acquire("a", "x", NOW, 15.0).token == 1
    store.close()
    assert revisions(old) == [(REVISION,)]


def test_an_upgrade_that_fails_half_way_changes_nothing(old):
    """A revision is applied as a whole or not at all; when the reason is gone, opening does it."""
    with closing(sqlite3.connect(old / "rbkit.db")) as connection:
        connection.execute("CREATE INDEX lease_held ON journal (actor)")
    with pytest.raises(StoreUnavailable, match="index lease_held already exists"):
        SqliteStore(old)
    assert revisions(old) == [("0001",)]
    with closing(sqlite3.connect(old / "rbkit.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'lease'").fetchall() == []
        connection.execute("DROP INDEX lease_held")
    store = SqliteStore(old)
    assert (store.read("r"), store.leases()) == (written(), [])
    store.close()


def test_several_processes_that_open_an_old_store_upgrade_it_once(old):
    """All of them can use it afterwards, nothing is lost, and the first token is given once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(old), f"x{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    try:
        assert [process.stdout.readline() for process in started] == ["ready\n"] * 4
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate(timeout=120)[0] for process in started] == ["3 1\n"] * 4
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert revisions(old) == [(REVISION,)]
    store = SqliteStore(old)
    assert store.read("r") == written()
    store.close()
