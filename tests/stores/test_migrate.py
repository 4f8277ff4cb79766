"""Migrations of the store."""

import runpy
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from rbkit.stores import tables
from rbkit.stores.migrate import upgrade
from rbkit.stores.tables import REVISION

VERSIONS = Path(tables.__file__).parent / "migrations" / "versions"


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
