"""Brings the store's tables to the revision that is needed, by alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from rbkit.errors import StoreUnavailable

__all__ = ["upgrade"]


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest revision that this version of rbkit knows.

    Args:
        connection: A connection in a transaction.

    Raises:
        StoreUnavailable: A newer rbkit has made them.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnavailable(
            f"The store was made by another version of rbkit: {error}.", todo="Use that version, or a newer one."
        ) from error
