"""The store's tables."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.schema import CreateTable

from rbkit.stores.sqlite import SqliteStore
from rbkit.stores.tables import metadata


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
