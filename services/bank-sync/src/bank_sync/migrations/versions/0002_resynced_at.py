"""When an item was read again from the beginning."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("bank_items", sa.Column("resynced_at", sa.DateTime(timezone=True)))
