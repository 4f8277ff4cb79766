"""The store's tables."""

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text, text

__all__ = ["REVISION", "journal", "lease", "metadata", "note", "tape"]

REVISION = "0003"
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
lease = Table(
    "lease",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("token", Integer, nullable=False),
    Column("until", String(40), nullable=False),
    Column("ttl_s", Float, nullable=False),
    Index("lease_held", "holder", sqlite_where=text("holder <> ''")),
    sqlite_with_rowid=False,
)
note = Table(
    "note",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("text", Text, nullable=False),
    sqlite_with_rowid=False,
)
