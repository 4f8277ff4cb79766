"""The store's tables, and their migrations by alembic."""

from pathlib import Path

from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, String, Table, Text

from rbkit.errors import StoreUnavailable

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

    Raises:
        StoreUnavailable: A newer rbkit has made them.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnavailable(
            f"The store was made by another version of rbkit: {error}.", todo="Use that version, or a newer one."
        ) from error
