"""Payments that are due, in the order in which they are asked about."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("watched_payments_due", "watched_payments")
    op.create_index(
        "watched_payments_due",
        "watched_payments",
        ["provider", "endpoint", sa.text("announced DESC"), "ask_at"],
    )
