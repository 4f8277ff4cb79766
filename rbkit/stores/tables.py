"""The store's tables."""

from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = ["REVISION", "journal", "metadata", "tape"]

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
