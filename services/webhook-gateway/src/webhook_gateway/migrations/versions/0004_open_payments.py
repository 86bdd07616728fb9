"""The index of what is asked next holds what is asked some day, not all that ever was."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_index("watched_payments_due", "watched_payments")
    op.create_index(
        "watched_payments_due",
        "watched_payments",
        ["provider", "endpoint", sa.text("announced DESC"), "ask_at"],
        postgresql_where=sa.text("ask_at IS NOT NULL"),
    )
