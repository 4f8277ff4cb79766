"""The leases on runs and targets."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table, and an index of what is held: given back leases stay for ever, for their tokens."""
    op.create_table(
        "lease",
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("until", sa.String(40), nullable=False),
        sa.Column("ttl_s", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("lease_held", "lease", ["holder"], sqlite_where=sa.text("holder <> ''"))


def downgrade() -> None:
    """Refuse: a token that was given out must never be given out again, and a journal is never thrown away."""
    raise RuntimeError("A journal is never thrown away; restore a backup instead.")
