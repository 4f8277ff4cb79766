"""The notes: what is small, changes, and is about no single run, such as the state of a breaker."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "note",
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Refuse: a journal is never thrown away."""
    raise RuntimeError("A journal is never thrown away; restore a backup instead.")
