"""How many of its intervals a plan's period has."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "plans", sa.Column("interval_count", sa.Integer, nullable=False, server_default="1")
    )
