"""When a command's call ended without an answer."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("commands", sa.Column("unanswered_at", sa.DateTime(timezone=True)))
