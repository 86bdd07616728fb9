"""How far event lists were read."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "event_cursors",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("read_to", _TIME, nullable=False),
        sa.Column("read_next_at", _TIME, nullable=False),
    )
