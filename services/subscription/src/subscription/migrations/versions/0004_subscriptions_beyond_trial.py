"""Whoever was active so far has been active beyond a trial."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("UPDATE subscriptions SET ever_beyond_trial = true WHERE ever_active")
