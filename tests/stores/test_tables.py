"""The store's tables and their migrations."""

import runpy
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.schema import CreateTable

from rbkit.stores import tables
from rbkit.stores.sqlite import SqliteStore
from rbkit.stores.tables import REVISION, metadata, upgrade

VERSIONS = Path(tables.__file__).parent / "migrations" / "versions"


def columns(path: Path) -> dict[str, list[tuple]]:
    """Describe the tables of a database."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in metadata.tables}


def test_the_migrations_make_the_tables_that_the_store_uses(tmp_path):
    """What a migration makes and what the code declares are the same columns, types and keys."""
    SqliteStore(tmp_path / "home").close()
    with closing(sqlite3.connect(tmp_path / "declared.db")) as connection, connection:
        for table in metadata.sorted_tables:
            connection.execute(str(CreateTable(table)))
    assert columns(tmp_path / "home" / "rbkit.db") == columns(tmp_path / "declared.db")


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
