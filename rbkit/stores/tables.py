"""The store's tables, and their migrations by alembic."""

from pathlib import Path

from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = ["REVISION", "journal", "metadata", "tape", "upgrade"]

REVISION = "0001"
metadata = MetaData()

journal = Table(
    "journal",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("source", String(40), nullable=False),
    Column("event", Text, nullable=False),
    Column("prev", String(80), nullable=False),
    Column("hash", String(80), nullable=False),
)
tape = Table(
    "tape",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)


def upgrade(connection: Connection) -> None:
    """Bring the tables to the revision that this version of rbkit needs.

    Args:
        connection: A connection in a transaction.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
