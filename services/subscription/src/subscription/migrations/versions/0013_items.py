"""A subscription of several prices: each item's plan, quantity and end."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("items", JSONB, nullable=False, server_default="[]"))
