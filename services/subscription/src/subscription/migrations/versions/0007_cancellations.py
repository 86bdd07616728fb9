"""Subscriptions of our own can be cancelled."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("cancel_when", sa.Text))
    op.add_column("subscriptions", sa.Column("cancel_wanted_at", sa.DateTime(timezone=True)))
